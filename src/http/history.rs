//! The events of a session as the journal has them: at once, or replayed at the pace of the visit.
//!
//! The basket says where its events stand in the journal, so a history costs as much as it is long,
//! however long the journal is. Events that wait among the parked ones are not part of it.
//! Where there is no basket, as before the first step and after the views were dropped, the events of the
//! shop that are in no basket yet are looked through.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::Api;
use super::append::SEQUENCE;
use super::limit::ViewerPlaces;
use super::live;
use super::problem::{Code, Problem};
use super::read::{basket_of, no_event, reading, unread};
use super::serve::Peer;
use crate::access::Identity;
use crate::core::event::{Event, JournalEvent, Strictness, in_milliseconds, minified, rfc3339};
use crate::core::id::{BasketId, ShopId};
use crate::core::policy::Verb;
use crate::core::query::{Query, refused, whole_number};
use crate::journal::{self, Journal, RawEvent};
use crate::live::Goodbye;

/// Events that are asked for at the same time.
const IN_FLIGHT: usize = 32;
/// How long the events of a shop that are in no basket may be looked through, by how many requests at a time, and how many at once.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
static SEARCHES: Semaphore = Semaphore::const_new(2);
const SEARCH_EVENTS: usize = 1_000;
/// Longest pause between two events of a replay, whatever lay between them.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Fastest replay, as a multiple of the original pace.
const SPEED_MAX: f64 = 1_000_000.0;
/// Where a client that lost its connection says how far it was.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// In which form a history is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Replay,
}

impl Form {
    /// The first of the types in `Accept` that is had here; JSON if there is none.
    fn asked_for(headers: &HeaderMap) -> Self {
        headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
                "application/json" | "application/*" | "*/*" => Some(Self::Json),
                "application/x-ndjson" => Some(Self::Lines),
                "text/event-stream" | "text/*" => Some(Self::Replay),
                _ => None,
            })
            .unwrap_or(Self::Json)
    }
}

/// `GET /v1/shops/{shop}/sessions/{session}/events`
pub(super) async fn events(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    Extension(identity): Extension<Identity>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response {
    let _timer = api.timer("history");
    let answer = async {
        let id = basket_of(path)?;
        let query = Query::read(query.as_deref(), &["after", "speed"])?;
        let form = Form::asked_for(&headers);
        let speed = query.value("speed", &format!("a number above 0 and up to {SPEED_MAX}"), speed_of)?;
        if speed.is_some() && form != Form::Replay {
            return Err(refused("speed is that of a replay; ask for one with Accept: text/event-stream").into());
        }
        let mut after = query.place("after")?.unwrap_or(0);
        if let (Form::Replay, Some(last)) = (form, headers.get(LAST_EVENT_ID)) {
            let last = last.to_str().ok().and_then(whole_number);
            after = last.ok_or_else(|| refused("Last-Event-ID must be the id of an event of this replay"))?;
        }
        // A replay goes on for as long as a live stream may, so it takes the place of one.
        let places = (form == Form::Replay)
            .then(|| {
                api.limits()
                    .viewer(identity.subject(), peer.map(|Extension(Peer(peer))| peer))
            })
            .transpose()?;
        let (sequence, events) = history(&api, id, after).await?;
        match form {
            Form::Json => json_answer(id, sequence, events).await,
            Form::Lines => lines_answer(sequence, events).await,
            Form::Replay => {
                let over = over(api.clone(), identity, id.shop).boxed();
                Ok(replay_answer(sequence, events, speed.unwrap_or(1.0), over, places))
            }
        }
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

fn speed_of(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let speed: f64 = text.parse().ok().filter(|_| plain)?;
    (speed > 0.0 && speed <= SPEED_MAX).then_some(speed)
}

type Events = BoxStream<'static, Result<RawEvent, Problem>>;

/// The events of a session after a place, in order, and the place that this is true at.
async fn history(api: &Api, id: BasketId, after: u64) -> Result<(u64, Events), Problem> {
    let (views, checkpoint) = reading(api, id.shop).await?;
    let places = views.places(id).await.map_err(|error| unread(&error))?;
    let Some(places) = places else {
        let looking = tokio::time::timeout(SEARCH_TIMEOUT, unfolded(api, id, checkpoint));
        let (sequence, found) = looking.await.unwrap_or_else(|_| Err(Problem::views_unavailable()))?;
        let events = found.into_iter().filter(move |event| event.sequence > after).map(Ok);
        return Ok((sequence, stream::iter(events).boxed()));
    };
    match &*api.journal().state().borrow() {
        journal::State::Open(facts) if facts.epoch.to_string() == places.epoch => {}
        // Sequences of another journal mean nothing in this one.
        journal::State::Open(_) => {
            return Err(Problem::new(
                Code::JournalUnavailable,
                "the basket was folded from another journal than the one that is there; an operator has to decide, /readyz says what",
            ));
        }
        journal::State::Unavailable { .. } => return Err(Problem::journal_unread()),
    }
    let journal = api.journal().clone();
    let wanted = places.sequences.into_iter().filter(move |place| *place > after);
    let events = stream::iter(wanted)
        .map(move |place| get(journal.clone(), id, place))
        .buffered(IN_FLIGHT);
    Ok((checkpoint.max(places.sequence), events.boxed()))
}

/// The events of a session that has no basket: every event up to the checkpoint is in its basket, so they are after it.
async fn unfolded(api: &Api, id: BasketId, checkpoint: u64) -> Result<(u64, Vec<RawEvent>), Problem> {
    let _turn = SEARCHES.acquire().await.map_err(|_| Problem::views_unavailable())?;
    let unread = |error: journal::ReadError| {
        tracing::warn!(error = &error as &dyn std::error::Error, basket = %id, "cannot look for events of a session");
        Problem::journal_unread()
    };
    let journal = api.journal();
    let end = journal.tail_of_shop(id.shop).await.map_err(unread)?.last_sequence;
    let (mut place, mut found, mut known) = (checkpoint, Vec::new(), HashSet::new());
    while place < end {
        let page = journal.page(id.shop, place, SEARCH_EVENTS).await.map_err(unread)?;
        let Some(last) = page.last() else { break };
        place = last.sequence;
        // What was recorded twice counts once, and what cannot be read will be parked.
        found.extend(page.into_iter().filter(|event| {
            event.session() == Some(id.session)
                && event.sequence <= end
                && JournalEvent::read(event.header("ce-type"), &event.body).is_ok()
                && known.insert((event.id(), event.digest()))
        }));
    }
    let sequence = end.max(checkpoint);
    if found.is_empty() {
        return Err(no_event(sequence));
    }
    Ok((sequence, found))
}

async fn get(journal: Journal, id: BasketId, sequence: u64) -> Result<RawEvent, Problem> {
    let found = journal.get(sequence).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, basket = %id, "cannot read event {sequence}");
        Problem::journal_unread()
    })?;
    match found {
        Some(event) if event.shop() == Some(id.shop) && event.session().is_none_or(|session| session == id.session) => {
            Ok(event)
        }
        _ => {
            tracing::error!(basket = %id, event.sequence = sequence, "the journal lacks event {sequence} of basket {id}");
            Err(Problem::plain(Code::Internal))
        }
    }
}

/// An event with its place and time, on one line.
fn event_json(event: &RawEvent) -> Result<String, Problem> {
    let body = std::str::from_utf8(&event.body)
        .ok()
        .filter(|body| serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok());
    let body = body.ok_or_else(|| {
        tracing::error!(
            event.sequence = event.sequence,
            "event {} is in a basket but no JSON",
            event.sequence
        );
        Problem::plain(Code::Internal)
    })?;
    // Ours are on one line already; one that somebody else recorded may not be.
    let body = if body.contains(['\n', '\r']) {
        &minified(body)
    } else {
        body
    };
    Ok(format!(
        "{{\"sequence\":{},\"recorded_at\":\"{}\",\"event\":{body}}}",
        event.sequence,
        // As exact as a basket knows it, and as `at` compares it.
        rfc3339(in_milliseconds(event.recorded_at))
    ))
}

async fn json_answer(id: BasketId, sequence: u64, events: Events) -> Result<Response, Problem> {
    let begin = format!(
        "{{\"shop_id\":\"{}\",\"session_id\":\"{}\",\"sequence\":{sequence},\"events\":[",
        id.shop, id.session
    );
    let frame = Frame {
        begin,
        between: ",",
        end: "]}",
    };
    answer("application/json", sequence, frame, events).await
}

async fn lines_answer(sequence: u64, events: Events) -> Result<Response, Problem> {
    let frame = Frame {
        begin: String::new(),
        between: "\n",
        end: "\n",
    };
    answer("application/x-ndjson", sequence, frame, events).await
}

/// What stands around and between the events of an answer.
struct Frame {
    begin: String,
    between: &'static str,
    end: &'static str,
}

/// Sends events as they are read, so an answer takes no memory. What fails before the first of them is a problem;
/// later the status is sent already, and the answer is broken off, which no client takes for whole.
async fn answer(
    content_type: &'static str,
    sequence: u64,
    frame: Frame,
    mut events: Events,
) -> Result<Response, Problem> {
    let Frame { begin, between, end } = frame;
    let head = [
        (CONTENT_TYPE, content_type.to_owned()),
        (HeaderName::from_static(SEQUENCE), sequence.to_string()),
    ];
    let Some(first) = events.next().await else {
        let whole = if begin.is_empty() { begin } else { begin + end };
        return Ok((head, whole).into_response());
    };
    let first = event_json(&first?)?;
    let rest = events.map(move |event| {
        let json = event.and_then(|event| event_json(&event));
        json.map(|json| format!("{between}{json}")).map_err(BrokenOff)
    });
    let pieces = stream::iter([Ok(begin), Ok(first)])
        .chain(rest)
        .chain(stream::iter([Ok(end.to_owned())]));
    Ok((head, Body::from_stream(pieces)).into_response())
}

/// An answer cannot be ended.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct BrokenOff(Problem);

/// Returns when the process stops, or when whoever watches a replay may no longer see it.
async fn over(api: Api, identity: Identity, shop: ShopId) -> Goodbye {
    let stopping = async {
        match api.live() {
            Some(hub) => hub.stopping().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = stopping => Goodbye::Stopping,
        goodbye = live::ended(&api, &identity, Verb::Replay, shop, "replay") => goodbye,
    }
}

fn replay_answer(
    sequence: u64,
    events: Events,
    speed: f64,
    over: BoxFuture<'static, Goodbye>,
    places: Option<ViewerPlaces>,
) -> Response {
    // nginx would hold back what belongs together.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), "no".to_owned());
    let sequence_header = (HeaderName::from_static(SEQUENCE), sequence.to_string());
    let messages = paced(sequence, events, speed, over).map(move |message| {
        // They are given back with the stream.
        let _ = &places;
        Ok::<_, Infallible>(message)
    });
    ([sequence_header, unbuffered], Sse::new(messages)).into_response()
}

/// A replay under way.
struct Replay {
    events: Events,
    /// When the phone made the action before.
    previous: Option<OffsetDateTime>,
    /// Says that it is over before its end.
    over: BoxFuture<'static, Goodbye>,
    ended: bool,
}

fn paced(
    sequence: u64,
    events: Events,
    speed: f64,
    over: BoxFuture<'static, Goodbye>,
) -> impl Stream<Item = sse::Event> + Send {
    let replay = Replay {
        events,
        previous: None,
        over,
        ended: false,
    };
    stream::unfold(replay, move |mut replay| async move {
        if replay.ended {
            return None;
        }
        let Replay {
            events, previous, over, ..
        } = &mut replay;
        let step = async {
            match events.next().await {
                Some(event) => replay_one(previous, event, speed).await.map(|event| (event, false)),
                None => Ok((end(sequence), true)),
            }
        };
        let told = tokio::select! {
            biased;
            goodbye = over => Ok((bye(goodbye), true)),
            told = step => told,
        };
        // The status is sent already, so a failure is a message, after which the client may come again.
        let (told, ended) = told.unwrap_or_else(|problem| {
            let problem = serde_json::to_string(&problem).expect("a problem is JSON");
            (sse::Event::default().event("problem").data(problem), true)
        });
        replay.ended = ended;
        Some((told, replay))
    })
}

/// The last message of a replay that is whole.
fn end(sequence: u64) -> sse::Event {
    let end = sse::Event::default().event("end");
    end.data(format!("{{\"sequence\":{sequence}}}"))
}

/// The last message of a replay that is over before its end, as that of live updates.
fn bye(goodbye: Goodbye) -> sse::Event {
    let bye = sse::Event::default().event("bye");
    bye.data(format!("{{\"reason\":\"{}\"}}", goodbye.word()))
}

async fn replay_one(
    previous: &mut Option<OffsetDateTime>,
    event: Result<RawEvent, Problem>,
    speed: f64,
) -> Result<sse::Event, Problem> {
    let event = event?;
    let json = event_json(&event)?;
    if let Ok(parsed) = Event::parse(&event.body, Strictness::Original) {
        let pause = previous.map_or(Duration::ZERO, |previous| pause(previous, parsed.create_time, speed));
        *previous = Some(parsed.create_time);
        tokio::time::sleep(pause).await;
    }
    Ok(sse::Event::default().id(event.sequence.to_string()).data(json))
}

/// The pause of a replay between two actions. An action that came late follows at once.
fn pause(previous: OffsetDateTime, next: OffsetDateTime, speed: f64) -> Duration {
    let between = Duration::try_from(next - previous).unwrap_or(Duration::ZERO);
    Duration::try_from_secs_f64(between.as_secs_f64() / speed)
        .unwrap_or(PAUSE_MAX)
        .min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_that_of_the_visit_at_this_speed_and_never_long() {
        let start = OffsetDateTime::UNIX_EPOCH;
        for (seconds, speed, milliseconds) in [
            (4.0, 1.0, 4_000),
            (4.0, 10.0, 400),
            (1.0, 0.5, 2_000),
            (60.0, 1.0, 5_000),
            (60.0, 1e-300, 5_000),
            (-3.0, 1.0, 0),
            (0.0, 1.0, 0),
        ] {
            let next = start + time::Duration::seconds_f64(seconds);
            assert_eq!(
                pause(start, next, speed),
                Duration::from_millis(milliseconds),
                "{seconds} s at {speed}"
            );
        }
    }

    #[test]
    fn a_speed_is_a_positive_number() {
        for (text, speed) in [("10", 10.0), ("0.5", 0.5), (".5", 0.5), ("1000000", 1e6)] {
            assert_eq!(speed_of(text), Some(speed));
        }
        for text in ["", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", "x", "1000001", "."] {
            assert_eq!(speed_of(text), None, "{text}");
        }
    }

    #[test]
    fn the_form_is_the_first_one_that_is_had() {
        for (accept, form) in [
            ("", Form::Json),
            ("*/*", Form::Json),
            ("application/x-ndjson", Form::Lines),
            ("text/event-stream", Form::Replay),
            ("image/png, text/event-stream;q=0.9, application/json", Form::Replay),
            ("text/html", Form::Json),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, axum::http::HeaderValue::from_static(accept))]);
            assert_eq!(Form::asked_for(&headers), form, "{accept}");
        }
    }
}
