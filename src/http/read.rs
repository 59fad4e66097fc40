//! Reading a basket as it is now, as it is once an event is in it, or as it was.
//!
//! Every answer carries the `sequence` it is true at: all events of the session up to that place in
//! the journal are in the basket. It is read before the basket, so the basket can only be newer.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use super::Api;
use super::append::SEQUENCE;
use super::past::{self, Moment};
use super::problem::{Code, Problem};
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::query::Query;
use crate::views::{BasketView, ViewError, Views};

/// Longest wait for a basket to become as new as it should be.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// First pause between two looks at a basket; an idle projector needs a few of these.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause between two looks.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(50);
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
        let query = Query::read(query.as_deref(), &["min_sequence", "at", "sequence"])?;
        if let Some(moment) = Moment::of(&query)? {
            let past = past::load(&api, id, Some(moment)).await?;
            return Ok(basket_answer(
                id,
                past.sequence,
                &BasketView::of(&past.basket),
                &headers,
            ));
        }
        let min_sequence = query.place("min_sequence")?.unwrap_or(0);
        let reading = read(&api, id, min_sequence).await?;
        if reading.sequence < min_sequence {
            return Err(not_yet(id, min_sequence, &reading));
        }
        let Some(view) = reading.view else {
            return Err(no_event(reading.sequence));
        };
        Ok(basket_answer(id, reading.sequence, &view, &headers))
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// The basket in a path.
pub(super) fn basket_of(path: Result<Path<(String, String)>, PathRejection>) -> Result<BasketId, Problem> {
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

/// The answer where a session has no event, as of this place in the journal.
pub(super) fn no_event(sequence: u64) -> Problem {
    let detail = format!(
        "up to event {sequence} there is none of this session in this shop; right after a POST, ask for min_sequence={{its Ezout-Sequence}}"
    );
    Problem::new(Code::NotFound, detail).with_sequence(sequence)
}

/// The views, where this process has them.
pub(super) fn views_of(api: &Api) -> Result<&Views, Problem> {
    api.views().ok_or_else(|| {
        Problem::new(
            Code::ViewsUnavailable,
            "this process takes events only; ask one that reads baskets",
        )
    })
}

/// The views to read a shop from, all of one version, and the place up to which all events of the shop are in its
/// baskets there; 0 as long as that is not known.
pub(super) async fn reading(api: &Api, shop: ShopId) -> Result<(Views, u64), Problem> {
    let views = views_of(api)?;
    // As long as the journal was never seen, its partitions are not known.
    let Some(partition) = api.partition_of(shop) else {
        return Ok((views.at(views.version()), 0));
    };
    let (views, checkpoint) = views.reading(partition).await.map_err(|error| unread(&error))?;
    let sequence = checkpoint.map_or(0, |checkpoint| u64::try_from(checkpoint.sequence).unwrap_or(0));
    Ok((views, sequence))
}

/// The answer where a view could not be read.
pub(super) fn unread(error: &ViewError) -> Problem {
    tracing::warn!(error = error as &dyn std::error::Error, "cannot read a view");
    match error {
        // To ask again would not help.
        ViewError::Unreadable { .. } => Problem::plain(Code::Internal),
        _ => Problem::views_unavailable(),
    }
}

/// Reads until the basket is as new as asked, or the wait is over.
async fn read(api: &Api, id: BasketId, min_sequence: u64) -> Result<Reading, Problem> {
    let deadline = Instant::now() + WAIT_MAX;
    let mut pause = PAUSE_FIRST;
    loop {
        let reading = look(api, id).await?;
        let now = Instant::now();
        if reading.sequence >= min_sequence || now >= deadline {
            return Ok(reading);
        }
        tokio::time::sleep_until(deadline.min(now + pause)).await;
        pause = PAUSE_MAX.min(pause * 3 / 2);
    }
}

async fn look(api: &Api, id: BasketId) -> Result<Reading, Problem> {
    let (views, checkpoint) = reading(api, id.shop).await?;
    let view = views.view(id).await.map_err(|error| unread(&error))?;
    // The basket's own sequence is known also where no checkpoint is.
    let own = view.as_ref().map_or(0, |view| view.sequence);
    Ok(Reading {
        sequence: checkpoint.max(own),
        view,
    })
}

fn not_yet(id: BasketId, min_sequence: u64, reading: &Reading) -> Problem {
    let basket = reading.view.as_ref().map(|view| view.json(id, reading.sequence));
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
    let tag = tag(id, view);
    let mut response = if matches_tag(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (json, view.json(id, sequence)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("numbers are a header's value"));
    headers.insert(SEQUENCE, HeaderValue::from(sequence));
    response
}

/// The tag of what is in a basket. Weak, since the sequence that an unchanged basket is true at goes up with every
/// other event. The basket's own sequence and version would not do: one that is mended has the same as before.
fn tag(id: BasketId, view: &BasketView) -> String {
    let digest = Uuid::new_v5(&Uuid::NAMESPACE_OID, view.json(id, 0).as_bytes());
    format!("W/\"{}-{:016x}\"", view.version, digest.as_u64_pair().0)
}

/// Whether the client has the answer of this tag already (RFC 9110, weak comparison).
pub(super) fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::core::basket::{Divergence, Line, Lot};
    use crate::core::money::Money;
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
            adjustment: Money::ZERO,
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
            corrections: Vec::new(),
            missing: vec![4],
            opened_at: Some(time),
            last_action_at: Some(time),
            updated_at: None,
            last_action: Some("ADD".to_owned()),
            parked_since: None,
        }
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
        let weak = tag(id(), &view());
        let strong = weak.trim_start_matches("W/");
        assert!(strong.starts_with("\"3-") && strong.len() == 20, "{strong}");
        for (known, status) in [
            (weak.clone(), 304),
            (strong.to_owned(), 304),
            (format!("\"1-1\", {weak}"), 304),
            ("*".to_owned(), 304),
            (strong.replace("3-", "2-"), 200),
            (strong.replace('"', ""), 200),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::try_from(&known).unwrap())]);
            let answer = basket_answer(id(), 9, &view(), &headers);
            assert_eq!(answer.status().as_u16(), status, "{known}");
            assert_eq!(answer.headers()[ETAG], weak);
            assert_eq!(answer.headers()[SEQUENCE], "9");
        }
        // Mended: the same events, and another total.
        let mended = BasketView {
            total: Money::ZERO,
            ..view()
        };
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::try_from(&weak).unwrap())]);
        assert_eq!(basket_answer(id(), 9, &mended, &headers).status(), 200);
    }
}
