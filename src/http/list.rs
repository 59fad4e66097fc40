//! Looking at a whole shop: pages of its baskets, and the shop in a few numbers.
//!
//! The `sequence` of an answer is the place in the journal up to which all events of the shop are
//! in it. It is read first, so the rest can only be newer.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use time::{OffsetDateTime, Time};

use super::Api;
use super::append::{SEQUENCE, shop_of};
use super::problem::Problem;
use super::read::{reading, unread};
use crate::core::query::Query;
use crate::views::Listing;
use crate::views::json::ListedJson;

#[derive(Serialize)]
struct PageJson<'a> {
    sequence: u64,
    baskets: Vec<ListedJson<'a>>,
    next: Option<String>,
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
        let listing = Listing::read(query.as_deref())?;
        let (views, sequence) = reading(&api, shop).await?;
        let found = views.baskets(shop, listing).await.map_err(|error| unread(&error))?;
        let page = PageJson {
            sequence,
            baskets: found.baskets.iter().map(|(id, view)| view.listed(*id)).collect(),
            next: found.next.map(|next| next.to_string()),
        };
        Ok(([(SEQUENCE, sequence.to_string())], Json(page)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
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
        let json = RawValue::from_string(summary.json(sequence, day_start)).expect("a summary is JSON");
        Ok(([(SEQUENCE, sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}
