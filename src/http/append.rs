//! Receiving events: the two original routes, and `/v1`, which also takes many at once.
//!
//! An event is answered when the journal has acknowledged it, with its place there and how safe it
//! is. Nothing is recorded of an event that is refused. Whatever the answer, sending the same event
//! again is safe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt as _};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Api;
use super::body::{self, MediaType};
use super::door;
use super::problem::{Code, Problem};
use super::serve::Peer;
use crate::access::{Identity, Refusal};
use crate::core::event::{Event, FieldError, Strictness, unix_microseconds};
use crate::core::failpoint;
use crate::core::id::ShopId;
use crate::core::policy::{Object, Verb};
use crate::core::trace::TRACEPARENT;
use crate::journal::{self, Entry, Receipt};
use crate::trace::{self, Span, SpanKind, place};

/// Largest event, in bytes as it is sent.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Largest body with an event on each line, in bytes.
pub const LINES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most lines in one body.
pub const LINES_MAX: usize = 1_000;
/// Time that the body of one event may take.
pub(super) const EVENT_DEADLINE: Duration = Duration::from_secs(10);
/// Time that a body of many events may take.
const LINES_DEADLINE: Duration = Duration::from_secs(30);
/// Lines that are parsed before other requests get their turn.
const LINES_A_TURN: usize = 50;

/// Header with the event's place in the journal.
pub(super) const SEQUENCE: &str = "ezout-sequence";
/// Header that says whether the event had been recorded before.
pub(super) const DUPLICATE: &str = "ezout-duplicate";
/// Header that says how safe the event is.
pub(super) const DURABILITY: &str = "ezout-durability";

type ShopPath = Result<Path<String>, PathRejection>;

/// An event that is in the journal.
struct Stored {
    id: Uuid,
    shop: ShopId,
    receipt: Receipt,
}

/// `POST /publish/{shop_id}`, as the original service had it.
pub(super) async fn publish(
    State(api): State<Api>,
    shop: ShopPath,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("publish");
    let received = async { receive_original(&api, &identity, Some(shop_of(shop)?), request).await };
    original_answer(&api, received.await)
}

/// `POST /send`, as the original service had it: the shop is the one that the event names.
pub(super) async fn send(
    State(api): State<Api>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("send");
    original_answer(&api, receive_original(&api, &identity, None, request).await)
}

async fn receive_original(
    api: &Api,
    identity: &Identity,
    shop: Option<ShopId>,
    request: Request,
) -> Result<Stored, Problem> {
    body::refuse_encoding(request.headers())?;
    match body::media_type(request.headers()) {
        // Some clients of the original service state no type.
        MediaType::Unstated | MediaType::Json => {}
        MediaType::Lines | MediaType::Other => {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "send one event as application/json",
            ));
        }
    }
    let body = body::received(request, EVENT_BYTES_MAX, EVENT_DEADLINE, api).await?;
    let caller = AppendingCaller::new(api, identity);
    record(api, caller.entry(shop, &body.bytes, Strictness::Original)?).await
}

fn original_answer(api: &Api, received: Result<Stored, Problem>) -> Response {
    api.count(outcome(&received));
    let stored = match received {
        Ok(stored) => stored,
        Err(problem) => return problem.into_response(),
    };
    // Clients of the original service compare the whole body, so what is new travels in headers.
    let body = format!("{{\"status\":\"Message sent to shop ID {}\"}}", stored.shop);
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    put_receipt(headers, stored.receipt);
    response
}

fn put_receipt(headers: &mut HeaderMap, receipt: Receipt) {
    headers.insert(SEQUENCE, HeaderValue::from(receipt.sequence));
    let duplicate = if receipt.duplicate { "true" } else { "false" };
    headers.insert(DUPLICATE, HeaderValue::from_static(duplicate));
    let durability = HeaderValue::try_from(receipt.durability.to_string()).expect("a word is a header's value");
    headers.insert(DURABILITY, durability);
}

/// `POST /v1/shops/{shop}/events`: one event as JSON, or one on each line.
pub(super) async fn events(
    State(api): State<Api>,
    shop: ShopPath,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("events");
    let refused = |problem: Problem| {
        api.count("refused");
        problem.into_response()
    };
    let accepted = shop_of(shop).and_then(|shop| {
        body::refuse_encoding(request.headers())?;
        Ok((shop, body::media_type(request.headers())))
    });
    match accepted {
        Ok((shop, MediaType::Json)) => {
            let received = receive_one(&api, &identity, shop, request).await;
            api.count(outcome(&received));
            received.map_or_else(Problem::into_response, one_answer)
        }
        Ok((shop, MediaType::Lines)) => match receive_lines(&api, &identity, shop, request).await {
            Ok(verdicts) => lines_answer(&verdicts),
            Err(problem) => refused(problem),
        },
        Ok((_, MediaType::Unstated | MediaType::Other)) => refused(Problem::new(
            Code::UnsupportedMediaType,
            "send one event as application/json, or one event on each line as application/x-ndjson",
        )),
        Err(problem) => refused(problem),
    }
}

async fn receive_one(api: &Api, identity: &Identity, shop: ShopId, request: Request) -> Result<Stored, Problem> {
    let body = body::received(request, EVENT_BYTES_MAX, EVENT_DEADLINE, api).await?;
    let caller = AppendingCaller::new(api, identity);
    record(api, caller.entry(Some(shop), &body.bytes, Strictness::Strict)?).await
}

#[derive(Serialize)]
struct ReceiptJson {
    sequence: u64,
    duplicate: bool,
    durability: String,
    id: Uuid,
}

fn one_answer(Stored { id, receipt, .. }: Stored) -> Response {
    let status = if receipt.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let json = ReceiptJson {
        sequence: receipt.sequence,
        duplicate: receipt.duplicate,
        durability: receipt.durability.to_string(),
        id,
    };
    (status, axum::Json(json)).into_response()
}

/// What became of one line.
#[derive(Debug, Serialize)]
struct Verdict {
    line: usize,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_seconds: Option<u16>,
}

impl Verdict {
    fn new(line: usize, received: Result<Stored, Problem>) -> Self {
        let mut verdict = Self {
            line,
            status: outcome(&received),
            sequence: None,
            durability: None,
            code: None,
            detail: None,
            errors: Vec::new(),
            retry_after_seconds: None,
        };
        match received {
            Ok(stored) => {
                verdict.sequence = Some(stored.receipt.sequence);
                verdict.durability = Some(stored.receipt.durability.to_string());
            }
            Err(problem) => {
                verdict.sequence = problem.sequence();
                verdict.code = Some(problem.code().word());
                verdict.detail = Some(problem.detail().to_owned());
                verdict.retry_after_seconds = problem.retry_after_seconds();
                verdict.errors = problem.into_errors();
            }
        }
        verdict
    }
}

async fn receive_lines(
    api: &Api,
    identity: &Identity,
    shop: ShopId,
    request: Request,
) -> Result<Vec<Verdict>, Problem> {
    let peer = request.extensions().get::<Peer>().copied();
    let body = body::received(request, LINES_BYTES_MAX, LINES_DEADLINE, api).await?;
    let entries = parse_lines(api, identity, shop, &body.bytes).await?;
    // One was taken at the door; what is no event costs nothing. Whoever sends too much is told so before the shop is
    // charged, so that nobody uses up what is there for all who send to it.
    let events = entries.iter().filter(|(_, entry)| entry.is_ok()).count();
    let beyond = events.saturating_sub(1);
    let limits = api.limits();
    limits.events(identity.subject(), peer.map(|Peer(peer)| peer), beyond)?;
    limits.shop(shop, beyond)?;
    // All lines are offered to the journal at once, so that they share a commit, and in the order in
    // which they stand: an ordered set polls its futures first in the order in which they came.
    let mut receiving: FuturesOrdered<_> = entries
        .into_iter()
        .map(|(line, entry)| async move {
            let received = match entry {
                Ok(entry) => record(api, entry).await,
                Err(problem) => Err(problem),
            };
            Verdict::new(line, received)
        })
        .collect();
    let mut verdicts = Vec::with_capacity(receiving.len());
    while let Some(verdict) = receiving.next().await {
        api.count(verdict.status);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

type NumberedEntry = (usize, Result<Entry, Problem>);

/// The events of a body, each with the number of its line. Blank lines have a number and no event.
async fn parse_lines(api: &Api, identity: &Identity, shop: ShopId, body: &[u8]) -> Result<Vec<NumberedEntry>, Problem> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let lines = || body.split(|&byte| byte == b'\n');
    if lines().nth(LINES_MAX).is_some() {
        return Err(Problem::new(
            Code::TooManyLines,
            format!(
                "a body may have at most {LINES_MAX} lines; send the lines in several requests; nothing was recorded"
            ),
        ));
    }
    let caller = AppendingCaller::new(api, identity);
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(lines()) {
        if number % LINES_A_TURN == 0 {
            tokio::task::yield_now().await;
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let entry = if line.len() > EVENT_BYTES_MAX {
            Err(Problem::new(
                Code::BodyTooLarge,
                format!("an event must have at most {EVENT_BYTES_MAX} bytes"),
            ))
        } else {
            caller.entry(Some(shop), line, Strictness::Strict)
        };
        entries.push((number, entry));
    }
    if entries.is_empty() {
        return Err(Problem::new(
            Code::NotAnObject,
            "the body has no event; send one JSON object on each line",
        ));
    }
    Ok(entries)
}

fn lines_answer(verdicts: &[Verdict]) -> Response {
    let mut body = Vec::with_capacity(verdicts.len() * 96);
    for verdict in verdicts {
        serde_json::to_writer(&mut body, verdict).expect("a verdict is JSON, and memory takes it");
        body.push(b'\n');
    }
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    let may_pass = |verdict: &Verdict| matches!(verdict.status, "unavailable" | "overloaded" | "unknown");
    if verdicts.iter().all(may_pass) {
        let pause_seconds = verdicts.iter().filter_map(|verdict| verdict.retry_after_seconds).max();
        headers.insert(RETRY_AFTER, HeaderValue::from(pause_seconds.unwrap_or(1)));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// The shop in a path.
pub(super) fn shop_of(path: ShopPath) -> Result<ShopId, Problem> {
    path.ok()
        .and_then(|Path(shop)| ShopId::parse(&shop).ok())
        .ok_or_else(|| {
            Problem::new(
                Code::InvalidShop,
                "the shop in the path must be a UUID such as 123e4567-e89b-42d3-a456-426614174000",
            )
        })
}

/// Whoever sends the events of one body.
struct AppendingCaller<'a> {
    api: &'a Api,
    identity: &'a Identity,
    /// Whether a refusal was noted: one for each body is enough.
    is_noted: AtomicBool,
    /// When the body was there.
    received_at: OffsetDateTime,
}

impl<'a> AppendingCaller<'a> {
    fn new(api: &'a Api, identity: &'a Identity) -> Self {
        Self {
            api,
            identity,
            is_noted: AtomicBool::new(false),
            received_at: OffsetDateTime::now_utc(),
        }
    }

    /// Reads a body as an event of this shop (of any, if none is given), ready for the journal.
    fn entry(&self, shop: Option<ShopId>, body: &[u8], strictness: Strictness) -> Result<Entry, Problem> {
        let event = Event::parse(body, strictness)?;
        if let Some(shop) = shop.filter(|shop| *shop != event.shop) {
            let rule = FieldError {
                pointer: "/shop_id".to_owned(),
                code: "shop_mismatch",
                detail: format!("must be {shop}, the shop in the path"),
            };
            return Err(Problem::plain(Code::ShopMismatch).with_errors(vec![rule]));
        }
        let Self { api, identity, .. } = self;
        let (access, object) = (api.access(), Object::Shop(event.shop));
        if shop.is_none() {
            let decided = access.decide(identity, Verb::Append, object, OffsetDateTime::now_utc());
            decided.map_err(|refusal| self.refused(object, &refusal))?;
            api.limits().shop(event.shop, 1)?;
        }
        let decided = access.decide_shopper(identity, event.shopper);
        decided.map_err(|refusal| self.refused(object, &refusal))?;
        let id = event.identity(api.meaning());
        let (json, digest) = event.canonical();
        let mut headers = event.headers(id);
        headers.push((journal::RECEIVED, unix_microseconds(self.received_at).to_string()));
        Ok(Entry {
            shop: event.shop,
            id,
            digest,
            headers,
            body: Bytes::from(json),
        })
    }

    fn refused(&self, object: Object, refusal: &Refusal) -> Problem {
        if !self.is_noted.swap(true, Ordering::Relaxed) {
            self.api
                .access()
                .note_refused(self.identity, Verb::Append, object, refusal);
        }
        door::refused(self.api, refusal)
    }
}

async fn record(api: &Api, mut entry: Entry) -> Result<Stored, Problem> {
    let (id, shop) = (entry.id, entry.shop);
    let above = trace::passed_on();
    let span = api.tracer().below("append to the journal", SpanKind::Producer, above);
    if let Some(context) = span.as_ref().map(Span::context).or(above) {
        entry.headers.push((TRACEPARENT, context.to_string()));
    }
    failpoint::hit("before_append");
    let appended = api.journal().append(entry).await;
    if let Some(span) = span {
        match &appended {
            Ok(receipt) => span.with("ezout.sequence", place(receipt.sequence)).end(None),
            Err(_) => span.end(Some("not recorded, or not known to be")),
        }
    }
    let receipt = appended?;
    failpoint::hit("after_append");
    Ok(Stored { id, shop, receipt })
}

/// The word for what became of an event, in metrics and verdicts.
fn outcome(received: &Result<Stored, Problem>) -> &'static str {
    match received {
        Ok(stored) if stored.receipt.duplicate => "duplicate",
        Ok(_) => "recorded",
        Err(problem) => match problem.code() {
            Code::Conflict => "conflict",
            Code::Overloaded => "overloaded",
            Code::JournalUnavailable | Code::JournalFull => "unavailable",
            Code::OutcomeUnknown => "unknown",
            _ => "refused",
        },
    }
}
