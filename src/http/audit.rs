//! `GET /v1/shops/{shop}/audit`: who did what in a shop, and what was refused, the newest first.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::append::shop_of;
use super::problem::Problem;
use super::read::{unread, views_of};
use crate::core::event::rfc3339;
use crate::core::query::{Query, whole_number};
use crate::views::{DeedsAfter, KeptDeed};

/// Entries in a list, where the request does not say, and at most.
const LIMIT: u16 = 50;
const LIMIT_MAX: u16 = 200;

#[derive(Serialize)]
struct AuditJson {
    entries: Vec<EntryJson>,
    next: Option<String>,
}

#[derive(Serialize)]
struct EntryJson {
    at: String,
    who: String,
    verb: String,
    what: String,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
}

impl From<KeptDeed> for EntryJson {
    fn from(deed: KeptDeed) -> Self {
        Self {
            at: rfc3339(deed.at),
            who: deed.who,
            verb: deed.verb,
            what: deed.what,
            outcome: deed.outcome,
            session_id: deed.session,
        }
    }
}

/// `GET /v1/shops/{shop}/audit`
pub(super) async fn list(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("audit");
    let answer = async {
        let shop = shop_of(path)?;
        let query = Query::read(query.as_deref(), &["limit", "after"])?;
        let rule = "a whole number from 1 to 200";
        let limit = query
            .value("limit", rule, |text| {
                let limit = u16::try_from(whole_number(text)?).ok()?;
                (1..=LIMIT_MAX).contains(&limit).then_some(limit)
            })?
            .unwrap_or(LIMIT);
        let after = query.value("after", "the `next` of an answer before", DeedsAfter::parse)?;
        let deeds = views_of(&api)?.deeds(shop, after, limit).await;
        let deeds = deeds.map_err(|error| unread(&error))?;
        let next = (deeds.len() == usize::from(limit)).then(|| deeds.last().map(KeptDeed::place));
        Ok::<_, Problem>(AuditJson {
            next: next.flatten(),
            entries: deeds.into_iter().map(EntryJson::from).collect(),
        })
    };
    match answer.await {
        Ok(audit) => Json(audit).into_response(),
        Err(problem) => problem.into_response(),
    }
}
