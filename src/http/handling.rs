//! Who of the staff handles a basket: to say so, to let go of it, and to see it.
//!
//! What is noted here is heard by the live updates and by the resources of Resgate of every process.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use time::OffsetDateTime;

use super::Api;
use super::append::shop_of;
use super::body;
use super::problem::{Code, Problem};
use super::read::{basket_of, no_event, reading, unread, views_of};
use crate::core::id::BasketId;
use crate::core::query::Query;
use crate::views::{HANDLE_MINUTES, HANDLE_MINUTES_DEFAULT, HANDLER_MAX, Handling, Views, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    by: String,
    minutes: Option<i64>,
    #[serde(default)]
    instead: bool,
}

/// Who lets go stands in the body: an address is found in the logs of every proxy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    by: String,
}

/// `PUT /v1/shops/{shop}/sessions/{session}/handling`
pub(super) async fn take(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let _timer = api.timer("handling");
    let answer = async {
        let id = basket_of(path)?;
        let wish: Wish = body::fields(request, &api).await?;
        let by = by(&wish.by)?;
        let minutes = wish.minutes.unwrap_or(HANDLE_MINUTES_DEFAULT);
        if !HANDLE_MINUTES.contains(&minutes) {
            let (first, last) = (HANDLE_MINUTES.start(), HANDLE_MINUTES.end());
            return Err(body::broken(
                "/minutes",
                "range",
                format!("must be from {first} to {last}"),
            ));
        }
        let views = views_with(&api, id).await?;
        let now = OffsetDateTime::now_utc();
        let handling = Handling::from_now(by, minutes, now);
        let another = views.handle(id, &handling, wish.instead, now).await;
        match another.map_err(|error| unread(&error))? {
            Some(another) => Err(handled(another)),
            None => Ok(answered(json::handling(id.session, Some(&handling)))),
        }
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// `DELETE /v1/shops/{shop}/sessions/{session}/handling`
pub(super) async fn release(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let _timer = api.timer("handling");
    let answer = async {
        let id = basket_of(path)?;
        let release: Release = body::fields(request, &api).await?;
        let by = by(&release.by)?;
        let views = views_with(&api, id).await?;
        let another = views.release_handling(id, &by).await;
        match another.map_err(|error| unread(&error))? {
            Some(another) => Err(handled(another)),
            None => Ok(answered(json::handling(id.session, None))),
        }
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// `GET /v1/shops/{shop}/handlings`
pub(super) async fn list(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("handling");
    let answer = async {
        let shop = shop_of(path)?;
        Query::read(query.as_deref(), &[])?;
        let found = views_of(&api)?.handlings(shop).await.map_err(|error| unread(&error))?;
        let now = OffsetDateTime::now_utc();
        let there = found.iter().filter(|(_, handling)| handling.until > now);
        Ok(answered(json::handlings(
            there.map(|(session, handling)| (*session, handling)),
        )))
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// The views, if the basket is there.
async fn views_with(api: &Api, id: BasketId) -> Result<Views, Problem> {
    let (views, sequence) = reading(api, id.shop).await?;
    let found = views.view(id).await.map_err(|error| unread(&error))?;
    found.map(|_| views).ok_or_else(|| no_event(sequence))
}

/// The name of a person.
fn by(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    if !(1..=HANDLER_MAX).contains(&name.len()) {
        return Err(body::broken("/by", "text", "must be a name of 1 to 100 bytes"));
    }
    Ok(name.to_owned())
}

fn handled(another: Handling) -> Problem {
    Problem::plain(Code::Handled).with_handled(another)
}

fn answered(json: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}
