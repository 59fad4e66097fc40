//! `GET /v1/shops/{shop}/updates`: live updates as Server-Sent Events, which [`crate::live`] makes.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;

use super::Api;
use super::problem::{Code, Problem};
use crate::core::id::ShopId;
use crate::live::Full;
use crate::updates::Place;

/// What an `EventSource` says by itself when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";
/// Tells nginx to pass on each event at once.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Pause that is asked for when there is no room for another viewer, in seconds.
const FULL_SECONDS: u16 = 10;

/// `GET /v1/shops/{shop}/updates`
pub(super) async fn updates(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // The time until the stream begins; it goes on for as long as the viewer likes.
    let _timer = api.timer("updates");
    begin(&api, path, query.as_deref().unwrap_or_default(), &headers).unwrap_or_else(Problem::into_response)
}

fn begin(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let shop = path
        .ok()
        .and_then(|Path(shop)| ShopId::parse(&shop).ok())
        .ok_or_else(|| {
            Problem::new(
                Code::InvalidShop,
                "the shop in the path must be a UUID such as 123e4567-e89b-42d3-a456-426614174000",
            )
        })?;
    let asked = after_of(query)?;
    // A client that comes back repeats the address that it began with; the header is newer.
    let after = last_event_id(headers)?.or(asked);
    let hub = api.live().ok_or_else(|| {
        Problem::new(
            Code::ViewsUnavailable,
            "this process takes events only; ask one that reads",
        )
    })?;
    let stream = hub
        .view(shop, after)
        .map_err(|Full| Problem::plain(Code::TooManyViewers).with_retry(FULL_SECONDS))?;
    let mut response = Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(NO_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn place_of(text: &str, name: &str) -> Result<Place, Problem> {
    Place::parse(text).ok_or_else(|| {
        let detail = format!("{name} must be the id of an update, such as 1042-977");
        Problem::new(Code::InvalidParameter, detail)
    })
}

/// The value of `after`, where it is given.
fn after_of(query: &str) -> Result<Option<Place>, Problem> {
    let mut after = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name != "after" {
            let detail = format!("{name} is not a parameter of this route; it has after");
            return Err(Problem::new(Code::UnknownParameter, detail));
        }
        if after.replace(place_of(value, "after")?).is_some() {
            return Err(Problem::new(Code::InvalidParameter, "after must be given once"));
        }
    }
    Ok(after)
}

/// The header, where it says anything: an `EventSource` that had no id yet may send it empty.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Place>, Problem> {
    match headers.get(LAST_EVENT_ID) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => place_of(value.to_str().unwrap_or_default(), "Last-Event-ID").map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_whole_or_refused() {
        let place = Place { place: 12, sequence: 7 };
        assert_eq!(after_of("").unwrap(), None);
        assert_eq!(after_of("after=12-7").unwrap(), Some(place));
        for (query, code) in [
            ("after=", Code::InvalidParameter),
            ("after=12", Code::InvalidParameter),
            ("after=12-7&after=12-7", Code::InvalidParameter),
            ("since=12-7", Code::UnknownParameter),
        ] {
            assert_eq!(after_of(query).unwrap_err().code(), code, "{query}");
        }
        let header =
            |value| HeaderMap::from_iter([(HeaderName::from_static(LAST_EVENT_ID), HeaderValue::from_static(value))]);
        assert_eq!(last_event_id(&header("")).unwrap(), None);
        assert_eq!(last_event_id(&header("12-7")).unwrap(), Some(place));
        assert_eq!(
            last_event_id(&header("latest")).unwrap_err().code(),
            Code::InvalidParameter
        );
    }
}
