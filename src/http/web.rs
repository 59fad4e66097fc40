//! The merchants' page: its files, and what it has to know of the service.

mod config;
mod files;
mod origin;
mod token;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use self::files::named;
use super::Api;

pub(super) use self::config::{Config, ConfigError, Web};
pub(super) use self::files::prepare;
pub(super) use self::origin::asks_this_machine;
pub(super) use self::token::dev_token;

/// Every address that the page shows something at.
pub(super) async fn page(State(api): State<Api>, headers: HeaderMap) -> Response {
    let _timer = api.timer("page");
    let mut response = named("index.html", &headers);
    let policy = api.web().policy(api.access().token_origin().as_deref());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// `GET /app.js`, `/app.css` and `/icon.svg`
pub(super) async fn file(State(api): State<Api>, request: Request) -> Response {
    let _timer = api.timer("page");
    named(request.uri().path().trim_start_matches('/'), request.headers())
}

/// `GET /assets/{file}`
pub(super) async fn asset(
    State(api): State<Api>,
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let _timer = api.timer("page");
    let file = file.map(|Path(file)| file).unwrap_or_default();
    named(&format!("assets/{file}"), &headers)
}

/// `GET /config.json`
pub(super) async fn config(State(api): State<Api>) -> Response {
    let _timer = api.timer("page");
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, api.web().config.clone()).into_response()
}

/// Headers of a request in the tests below.
#[cfg(test)]
fn headers(pairs: &[(axum::http::HeaderName, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().cloned();
    pairs
        .map(|(name, value)| (name, axum::http::HeaderValue::from_static(value)))
        .collect()
}
