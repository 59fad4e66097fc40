//! `GET /v1/shops/{shop}/updates`: live updates as Server-Sent Events, which [`crate::live`] makes.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;

use super::Api;
use super::append::shop_of;
use super::problem::{Code, Problem};
use super::serve::Peer;
use crate::access::{Identity, Refusal};
use crate::core::id::ShopId;
use crate::core::policy::{Object, Verb};
use crate::core::query::{Query, refused};
use crate::live::{Full, Goodbye};
use crate::updates::Place;

/// What an `EventSource` says by itself when it comes back.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";
/// Tells nginx to pass on each event at once.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// What a place must be.
const RULE: &str = "the id of an update, such as 1042-977";
/// Pause that is asked for when there is no room for another viewer, in seconds.
const FULL_SECONDS: u16 = 10;

/// `GET /v1/shops/{shop}/updates`
pub(super) async fn updates(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    Extension(identity): Extension<Identity>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    // The time until the stream begins; it goes on for as long as the viewer likes.
    let _timer = api.timer("updates");
    let peer = peer.map(|Extension(peer)| peer);
    begin(&api, path, query.as_deref(), identity, peer, &headers).unwrap_or_else(Problem::into_response)
}

fn begin(
    api: &Api,
    path: Result<Path<String>, PathRejection>,
    query: Option<&str>,
    identity: Identity,
    peer: Option<Peer>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let shop = shop_of(path)?;
    let asked = after_of(query)?;
    // A client that comes back repeats the address that it began with; the header is newer.
    let after = last_event_id(headers)?.or(asked);
    let hub = api.live().ok_or_else(|| {
        Problem::new(
            Code::ViewsUnavailable,
            "this process takes events only; ask one that reads",
        )
    })?;
    let places = api.limits().viewer(identity.subject(), peer.map(|Peer(peer)| peer))?;
    let ended = {
        let api = api.clone();
        async move { ended(&api, &identity, Verb::Look, shop, "updates").await }
    };
    let stream = hub
        .view(shop, after, ended)
        .map_err(|Full| Problem::plain(Code::TooManyViewers).with_retry(FULL_SECONDS))?;
    let stream = stream.map(move |piece| {
        // They are given back with the stream.
        let _ = &places;
        Ok::<_, std::convert::Infallible>(piece)
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(NO_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// Returns when somebody who came by this door may no longer do that in the shop.
pub(super) async fn ended(api: &Api, identity: &Identity, verb: Verb, shop: ShopId, door: &str) -> Goodbye {
    let refusal = api.access().ended(identity, verb, Object::Shop(shop)).await;
    api.count_end(refusal.word(), door);
    if refusal == Refusal::Revoked {
        api.access().sent_away(identity, door, None);
    }
    match refusal {
        Refusal::Token(_) | Refusal::NoToken => Goodbye::Expired,
        Refusal::Revoked => Goodbye::Revoked,
        Refusal::Denied(_) | Refusal::Unavailable => Goodbye::Denied,
    }
}

/// The value of `after`, where it is given.
fn after_of(query: Option<&str>) -> Result<Option<Place>, Problem> {
    Ok(Query::read(query, &["after"])?.value("after", RULE, Place::parse)?)
}

/// The header, where it says anything: an `EventSource` that had no id yet may send it empty.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Place>, Problem> {
    match headers.get(LAST_EVENT_ID) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => {
            let place = value.to_str().ok().and_then(Place::parse);
            place
                .map(Some)
                .ok_or_else(|| refused(format!("Last-Event-ID must be {RULE}")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_whole_or_refused() {
        let place = Place { place: 12, sequence: 7 };
        assert_eq!(after_of(None).unwrap(), None);
        assert_eq!(after_of(Some("after=12-7")).unwrap(), Some(place));
        assert_eq!(after_of(Some("after=12%2D7")).unwrap(), Some(place));
        for (query, code) in [
            ("after=", Code::InvalidParameter),
            ("after=12", Code::InvalidParameter),
            ("after=12-7&after=12-7", Code::InvalidParameter),
            ("since=12-7", Code::UnknownParameter),
        ] {
            assert_eq!(after_of(Some(query)).unwrap_err().code(), code, "{query}");
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
