//! Looking at a whole shop: pages of its baskets, and the shop in a few numbers.
//!
//! The `sequence` of an answer is the place in the journal up to which all events of the shop are
//! in it. It is read first, so the rest can only be newer.

use std::num::NonZeroU16;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use time::{OffsetDateTime, Time};

use super::Api;
use super::append::{SEQUENCE, shop_of};
use super::problem::Problem;
use super::query::{Query, whole_number};
use super::read::{reading, unread};
use crate::core::basket::Status;
use crate::core::event::rfc3339;
use crate::core::id::BasketId;
use crate::views::json::{DivergenceJson, Exact, verdict};
use crate::views::{BasketView, Cursor, Filter};

/// Baskets on a page, where the request does not say.
const LIMIT: u16 = 50;
/// Most baskets on a page.
const LIMIT_MAX: u16 = 200;

#[derive(Serialize)]
struct PageJson<'a> {
    sequence: u64,
    baskets: Vec<ListedJson<'a>>,
    next: Option<String>,
}

#[derive(Serialize)]
struct ListedJson<'a> {
    session_id: String,
    shopper_id: Option<String>,
    basket_sequence: u64,
    version: u64,
    status: &'a str,
    item_count: u64,
    total: Exact,
    claimed_total: Option<Exact>,
    verdict: &'static str,
    divergence: Option<DivergenceJson>,
    finding_count: u64,
    opened_at: Option<String>,
    last_action_at: Option<String>,
    last_action: Option<&'a str>,
    updated_at: Option<String>,
    parked_since: Option<u64>,
}

#[derive(Serialize)]
struct SummaryJson {
    sequence: u64,
    day_start: String,
    open_baskets: u64,
    open_items: u64,
    value_at_risk: Exact,
    abandoned_today: CountJson,
    paid_today: CountJson,
    cancelled_today: CountJson,
    diverged: u64,
    diverged_today: u64,
    oldest_untouched: Option<UntouchedJson>,
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
    amount: Exact,
}

#[derive(Serialize)]
struct UntouchedJson {
    session_id: String,
    updated_at: String,
}

/// `GET /v1/shops/{shop}/baskets`
pub(super) async fn baskets(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("baskets");
    let answer = async {
        let shop = shop_of(path)?;
        let query = Query::read(query.as_deref(), &["status", "verdict", "since", "limit", "cursor"])?;
        let words: Vec<_> = Status::ALL.iter().map(|status| status.word()).collect();
        let filter = Filter {
            status: query.value("status", &format!("one of {}", words.join(", ")), Status::of)?,
            diverged: query.value("verdict", "ok or diverged", |word| match word {
                "ok" => Some(false),
                "diverged" => Some(true),
                _ => None,
            })?,
            since: query.time("since")?,
        };
        let limit = query.value("limit", &format!("a whole number from 1 to {LIMIT_MAX}"), |text| {
            let limit = u16::try_from(whole_number(text)?).ok().and_then(NonZeroU16::new)?;
            Some(limit.get()).filter(|limit| *limit <= LIMIT_MAX)
        })?;
        let limit = limit.unwrap_or(LIMIT);
        let after = query.value("cursor", "the next of an earlier page", Cursor::parse)?;

        let (views, sequence) = reading(&api, shop).await?;
        let found = views
            .baskets(shop, filter, after, limit)
            .await
            .map_err(|error| unread(&error))?;
        let page = PageJson {
            sequence,
            baskets: found.baskets.iter().map(|(id, view)| listed(*id, view)).collect(),
            next: found.next.map(|next| next.to_string()),
        };
        Ok(([(SEQUENCE, sequence.to_string())], Json(page)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

fn listed(id: BasketId, view: &BasketView) -> ListedJson<'_> {
    ListedJson {
        session_id: id.session.to_string(),
        shopper_id: view.shopper.map(|shopper| shopper.to_string()),
        basket_sequence: view.sequence,
        version: view.version,
        status: &view.status,
        item_count: view.item_count,
        total: Exact(view.total),
        claimed_total: view.claimed_total.map(Exact),
        verdict: verdict(view.divergence),
        divergence: view.divergence.map(DivergenceJson::of),
        finding_count: view.finding_count,
        opened_at: view.opened_at.map(rfc3339),
        last_action_at: view.last_action_at.map(rfc3339),
        last_action: view.last_action.as_deref(),
        updated_at: view.updated_at.map(rfc3339),
        parked_since: view.parked_since,
    }
}

/// `GET /v1/shops/{shop}/summary`
pub(super) async fn summary(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("summary");
    let answer = async {
        let shop = shop_of(path)?;
        let day_start = Query::read(query.as_deref(), &["day_start"])?.time("day_start")?;
        let day_start = day_start.unwrap_or_else(|| OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT));
        let (views, sequence) = reading(&api, shop).await?;
        let summary = views.summary(shop, day_start).await.map_err(|error| unread(&error))?;
        let json = SummaryJson {
            sequence,
            day_start: rfc3339(day_start),
            open_baskets: summary.open.baskets,
            open_items: summary.open.items,
            value_at_risk: Exact(summary.open.amount),
            abandoned_today: CountJson {
                count: summary.abandoned_today.baskets,
                amount: Exact(summary.abandoned_today.amount),
            },
            paid_today: CountJson {
                count: summary.paid_today.baskets,
                amount: Exact(summary.paid_today.amount),
            },
            cancelled_today: CountJson {
                count: summary.cancelled_today.baskets,
                amount: Exact(summary.cancelled_today.amount),
            },
            diverged: summary.open.diverged,
            diverged_today: summary.diverged_today,
            oldest_untouched: summary.oldest_untouched.map(|(session, time)| UntouchedJson {
                session_id: session.to_string(),
                updated_at: rfc3339(time),
            }),
        };
        Ok(([(SEQUENCE, sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}
