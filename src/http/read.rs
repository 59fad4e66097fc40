//! Reading a basket as it is now, or as it is once an event is in it.
//!
//! Every answer carries the `sequence` it is true at: all events of the session up to that place in
//! the journal are in the basket. It is read before the basket, so the basket can only be newer.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Api;
use super::append::SEQUENCE;
use super::problem::{Code, Problem};
use crate::core::event::rfc3339;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::money::Money;
use crate::views::{BasketView, ViewError, Views};

/// Longest wait for a basket to become as new as it should be.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// First pause between two looks at a basket; an idle projector needs a few of these.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Pause that is asked for when the wait was not long enough, in seconds.
const RETRY_SECONDS: u16 = 1;

/// A basket, or that there is none, and the place in the journal that this is true at.
struct Reading {
    sequence: u64,
    view: Option<BasketView>,
}

/// `GET /v1/shops/{shop}/sessions/{session}/basket`
pub(super) async fn basket(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let _timer = api.timer("basket");
    let answer = async {
        let id = basket_of(path)?;
        let min_sequence = min_sequence_of(query.as_deref().unwrap_or_default())?;
        let reading = read(&api, id, min_sequence).await?;
        if reading.sequence < min_sequence {
            return Err(not_yet(id, min_sequence, &reading));
        }
        let Some(view) = reading.view else {
            return Err(
                Problem::new(Code::NotFound, "no event of this session is recorded for this shop")
                    .with_sequence(reading.sequence),
            );
        };
        Ok(basket_answer(id, reading.sequence, &view, &headers))
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

fn basket_of(path: Result<Path<(String, String)>, PathRejection>) -> Result<BasketId, Problem> {
    let (shop, session) = path.map_or_else(|_| Default::default(), |Path(path)| path);
    let rule = |code, noun| {
        let detail = format!("the {noun} in the path must be a UUID such as 123e4567-e89b-42d3-a456-426614174000");
        Problem::new(code, detail)
    };
    Ok(BasketId {
        shop: ShopId::parse(&shop).map_err(|_| rule(Code::InvalidShop, "shop"))?,
        session: SessionId::parse(&session).map_err(|_| rule(Code::InvalidSession, "session"))?,
    })
}

/// The value of `min_sequence`, 0 where it is not asked for.
fn min_sequence_of(query: &str) -> Result<u64, Problem> {
    let mut min_sequence = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name != "min_sequence" {
            return Err(Problem::new(
                Code::UnknownParameter,
                format!("{name} is not a parameter of this route; it has min_sequence"),
            ));
        }
        let place = value
            .parse()
            .ok()
            .filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()) && min_sequence.is_none());
        min_sequence = Some(place.ok_or_else(|| {
            Problem::new(
                Code::InvalidParameter,
                "min_sequence must be one place in the journal, a whole number of at most 64 bits",
            )
        })?);
    }
    Ok(min_sequence.unwrap_or(0))
}

/// Reads until the basket is as new as asked, or the wait is over.
async fn read(api: &Api, id: BasketId, min_sequence: u64) -> Result<Reading, Problem> {
    let views = api.views().ok_or_else(|| {
        Problem::new(
            Code::ViewsUnavailable,
            "this process takes events only; ask one that reads baskets",
        )
    })?;
    let deadline = Instant::now() + WAIT_MAX;
    let mut pause = PAUSE_FIRST;
    loop {
        let reading = look(api, views, id).await?;
        let now = Instant::now();
        if reading.sequence >= min_sequence || now >= deadline {
            return Ok(reading);
        }
        tokio::time::sleep_until(deadline.min(now + pause)).await;
        pause = PAUSE_MAX.min(pause * 3 / 2);
    }
}

async fn look(api: &Api, views: &Views, id: BasketId) -> Result<Reading, Problem> {
    let failed = |error: ViewError| {
        tracing::warn!(error = &error as &dyn std::error::Error, basket = %id, "cannot read basket {id}");
        match error {
            // To ask again would not help.
            ViewError::Unreadable { .. } => Problem::plain(Code::Internal),
            _ => Problem::views_unavailable(),
        }
    };
    // As long as the journal was never seen, its partitions are not known; the basket's own sequence still is.
    let checkpoint = match api.partition_of(id.shop) {
        Some(partition) => views.checkpoint(partition).await.map_err(failed)?.unwrap_or(0),
        None => 0,
    };
    let view = views.view(id).await.map_err(failed)?;
    let own = view.as_ref().map_or(0, |view| view.sequence);
    Ok(Reading {
        sequence: checkpoint.max(own),
        view,
    })
}

fn not_yet(id: BasketId, min_sequence: u64, reading: &Reading) -> Problem {
    let basket = reading
        .view
        .as_ref()
        .map(|view| basket_json(id, reading.sequence, view));
    let basket =
        RawValue::from_string(basket.unwrap_or_else(|| "null".to_owned())).expect("what was just written is JSON");
    Problem::new(
        Code::NotYet,
        format!(
            "after {} s the basket is true at {} and not yet at {min_sequence}; ask again",
            WAIT_MAX.as_secs(),
            reading.sequence
        ),
    )
    .with_retry(RETRY_SECONDS)
    .with_sequence(reading.sequence)
    .with_basket(basket)
}

fn basket_answer(id: BasketId, sequence: u64, view: &BasketView, headers: &HeaderMap) -> Response {
    // Weak, since the sequence that an unchanged basket is true at goes up with every other event.
    let tag = format!("W/\"{}-{}\"", view.sequence, view.version);
    let mut response = if matches_tag(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (json, basket_json(id, sequence, view)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("numbers are a header's value"));
    headers.insert(SEQUENCE, HeaderValue::from(sequence));
    response
}

/// Whether the client has the answer of this tag already (RFC 9110, weak comparison).
fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

#[derive(Serialize)]
struct BasketJson<'a> {
    shop_id: String,
    session_id: String,
    shopper_id: Option<String>,
    sequence: u64,
    basket_sequence: u64,
    version: u64,
    status: &'a str,
    item_count: u64,
    total: Exact,
    claimed_total: Option<Exact>,
    verdict: &'static str,
    divergence: Option<DivergenceJson>,
    lines: Vec<LineJson<'a>>,
    findings: Vec<FindingJson<'a>>,
    finding_count: u64,
    missing: &'a [i64],
    opened_at: Option<String>,
    last_action_at: Option<String>,
    last_action: Option<&'a str>,
    updated_at: Option<String>,
    parked_since: Option<u64>,
}

#[derive(Serialize)]
struct DivergenceJson {
    since_sequence: u64,
    since_action_id: i64,
    by: Exact,
}

#[derive(Serialize)]
struct LineJson<'a> {
    product_id: i64,
    product_name: Option<&'a str>,
    #[serde(rename = "UPC")]
    upc: Option<&'a str>,
    category_id: Option<&'a str>,
    quantity: u64,
    amount: Exact,
    prices: Vec<PriceJson>,
}

#[derive(Serialize)]
struct PriceJson {
    price: Exact,
    quantity: u64,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    kind: &'a str,
    sequence: u64,
    action_id: i64,
    product_id: Option<i64>,
}

/// Money as a JSON number of exactly its decimals.
struct Exact(Money);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

fn basket_json(id: BasketId, sequence: u64, view: &BasketView) -> String {
    let time = |time: Option<OffsetDateTime>| time.map(rfc3339);
    let lines = view.lines.iter().filter(|line| line.quantity > 0);
    let json = BasketJson {
        shop_id: id.shop.to_string(),
        session_id: id.session.to_string(),
        shopper_id: view.shopper.map(|shopper| shopper.to_string()),
        sequence,
        basket_sequence: view.sequence,
        version: view.version,
        status: &view.status,
        item_count: view.item_count,
        total: Exact(view.total),
        claimed_total: view.claimed_total.map(Exact),
        verdict: if view.divergence.is_some() { "diverged" } else { "ok" },
        divergence: view.divergence.map(|divergence| DivergenceJson {
            since_sequence: divergence.since_sequence,
            since_action_id: divergence.since_action_id,
            by: Exact(divergence.by),
        }),
        lines: lines
            .map(|line| LineJson {
                product_id: line.product_id,
                product_name: line.product_name.as_deref(),
                upc: line.upc.as_deref(),
                category_id: line.category_id.as_deref(),
                quantity: line.quantity,
                amount: Exact(line.amount),
                prices: line
                    .lots
                    .iter()
                    .filter(|lot| lot.quantity > 0)
                    .map(|lot| PriceJson {
                        price: Exact(lot.price),
                        quantity: lot.quantity,
                    })
                    .collect(),
            })
            .collect(),
        findings: view
            .findings
            .iter()
            .map(|finding| FindingJson {
                kind: &finding.kind,
                sequence: finding.sequence,
                action_id: finding.action_id,
                product_id: finding.product_id,
            })
            .collect(),
        finding_count: view.finding_count,
        missing: &view.missing,
        opened_at: time(view.opened_at),
        last_action_at: time(view.last_action_at),
        last_action: view.last_action.as_deref(),
        updated_at: time(view.updated_at),
        parked_since: view.parked_since,
    };
    serde_json::to_string(&json).expect("a basket is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::basket::{Divergence, Line, Lot};
    use crate::views::FoundView;

    fn id() -> BasketId {
        BasketId::parse("123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94").unwrap()
    }

    fn line(product_id: i64, quantity: u64) -> Line {
        let price = Money::parse("0.1").unwrap();
        Line {
            product_id,
            product_name: Some("FUJI \"Apples\"".to_owned()),
            upc: Some("042100005264".to_owned()),
            category_id: None,
            quantity,
            amount: Money::parse("0.3").unwrap(),
            lots: vec![Lot { price, quantity }],
        }
    }

    fn view() -> BasketView {
        let time = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap();
        BasketView {
            shopper: None,
            sequence: 7,
            version: 3,
            status: "open".to_owned(),
            item_count: 3,
            total: Money::parse("99999999999.9999").unwrap(),
            claimed_total: Some(Money::parse("12.18").unwrap()),
            divergence: Some(Divergence {
                since_sequence: 5,
                since_action_id: 101,
                by: Money::parse("-0.0001").unwrap(),
            }),
            lines: vec![line(500_100, 3), line(500_200, 0)],
            findings: vec![FoundView {
                kind: "removed_absent".to_owned(),
                sequence: 6,
                action_id: 102,
                product_id: Some(500_200),
            }],
            finding_count: 1,
            missing: vec![4],
            opened_at: Some(time),
            last_action_at: Some(time),
            updated_at: None,
            last_action: Some("ADD".to_owned()),
            parked_since: None,
        }
    }

    #[test]
    fn a_basket_is_printed_with_exact_money_and_without_empty_lines() {
        assert_eq!(
            basket_json(id(), 9, &view()),
            r#"{"shop_id":"123e4567-e89b-42d3-a456-426614174000","session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shopper_id":null,"sequence":9,"basket_sequence":7,"version":3,"status":"open","item_count":3,"total":99999999999.9999,"claimed_total":12.18,"verdict":"diverged","divergence":{"since_sequence":5,"since_action_id":101,"by":-0.0001},"lines":[{"product_id":500100,"product_name":"FUJI \"Apples\"","UPC":"042100005264","category_id":null,"quantity":3,"amount":0.3,"prices":[{"price":0.1,"quantity":3}]}],"findings":[{"kind":"removed_absent","sequence":6,"action_id":102,"product_id":500200}],"finding_count":1,"missing":[4],"opened_at":"2023-12-18T10:30:00Z","last_action_at":"2023-12-18T10:30:00Z","last_action":"ADD","updated_at":null,"parked_since":null}"#
        );
    }

    #[test]
    fn what_is_not_new_enough_says_what_there_is() {
        let reading = Reading {
            sequence: 9,
            view: Some(view()),
        };
        let problem = serde_json::to_string(&not_yet(id(), 12, &reading)).unwrap();
        assert!(
            problem.contains(r#""sequence":9,"basket":{"shop_id":"123e4567"#),
            "{problem}"
        );
        let reading = Reading {
            sequence: 9,
            view: None,
        };
        let problem = serde_json::to_string(&not_yet(id(), 12, &reading)).unwrap();
        assert!(problem.ends_with(r#""sequence":9,"basket":null}"#), "{problem}");
    }

    #[test]
    fn a_client_that_has_the_basket_is_told_so() {
        for (known, status) in [
            ("W/\"7-3\"", 304),
            ("\"7-3\"", 304),
            ("\"1-1\", W/\"7-3\"", 304),
            ("*", 304),
            ("\"7-2\"", 200),
            ("7-3", 200),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(known))]);
            let answer = basket_answer(id(), 9, &view(), &headers);
            assert_eq!(answer.status().as_u16(), status, "{known}");
            assert_eq!(answer.headers()[ETAG], "W/\"7-3\"");
            assert_eq!(answer.headers()[SEQUENCE], "9");
        }
    }

    #[test]
    fn a_query_is_read_whole_or_refused() {
        assert_eq!(min_sequence_of("").unwrap(), 0);
        assert_eq!(min_sequence_of("min_sequence=18446744073709551615").unwrap(), u64::MAX);
        for (query, code) in [
            ("min_sequence=", Code::InvalidParameter),
            ("min_sequence=-1", Code::InvalidParameter),
            ("min_sequence=+1", Code::InvalidParameter),
            ("min_sequence=1.0", Code::InvalidParameter),
            ("min_sequence=18446744073709551616", Code::InvalidParameter),
            ("min_sequence=1&min_sequence=2", Code::InvalidParameter),
            ("minsequence=1", Code::UnknownParameter),
            ("min_sequence=1&at=2", Code::UnknownParameter),
        ] {
            assert_eq!(min_sequence_of(query).unwrap_err().code(), code, "{query}");
        }
    }
}
