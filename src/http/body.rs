//! Request bodies: their type, their size, and the time they may take.
//!
//! A body is read whole, into memory that its limit bounds, or answered with a problem that says
//! what to send instead.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use bytes::BytesMut;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Api;
use super::append::{EVENT_BYTES_MAX, EVENT_DEADLINE};
use super::door;
use super::problem::{Code, Problem};
use crate::core::event::FieldError;

/// Bytes beyond the limit that are still read, to be thrown away.
///
/// A client that is cut off while it sends sees a broken connection and not the answer.
const DISCARDED_BYTES_MAX: u64 = 1024 * 1024;

/// KiB of bodies with one event that are in memory at the same time; one more body is answered with 503.
const MEMORY_KIB_MAX: usize = 32 * 1024;
/// And of larger bodies: slow ones must not take the room of phones.
const LARGE_KIB_MAX: usize = 48 * 1024;
/// A body whose limit is beyond this is a large one.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// What a body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaType {
    /// Nothing.
    Unstated,
    /// One JSON value.
    Json,
    /// A JSON value on each line.
    Lines,
    /// Anything else.
    Other,
}

/// The type that the headers state; parameters such as a charset are not looked at.
pub(super) fn media_type(headers: &HeaderMap) -> MediaType {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return MediaType::Unstated;
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    match essence.trim() {
        json if json.eq_ignore_ascii_case("application/json") => MediaType::Json,
        // RFC 6839: JSON under another name.
        json if json.starts_with("application/") && json.ends_with("+json") => MediaType::Json,
        lines if lines.eq_ignore_ascii_case("application/x-ndjson") => MediaType::Lines,
        _ => MediaType::Other,
    }
}

/// Refuses packed bodies: to unpack them would let a small request cost a lot.
pub(super) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(Problem::new(
            Code::UnsupportedMediaType,
            "send the body as it is, without Content-Encoding",
        )),
        _ => Ok(()),
    }
}

/// The memory for bodies of all requests together.
#[derive(Debug)]
pub(super) struct BodyMemory {
    small: Semaphore,
    large: Semaphore,
}

/// A body, and the part of the memory that is its own until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) bytes: Bytes,
    _share: SemaphorePermit<'a>,
}

impl BodyMemory {
    pub(super) fn new() -> Self {
        Self {
            small: Semaphore::new(MEMORY_KIB_MAX),
            large: Semaphore::new(LARGE_KIB_MAX),
        }
    }

    /// Takes room for a body of at most `limit`, or answers that the service is overloaded.
    fn take(&self, bytes: usize, limit: usize) -> Result<SemaphorePermit<'_>, Problem> {
        let kib = u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let room = if limit > SMALL_BYTES_MAX {
            &self.large
        } else {
            &self.small
        };
        room.try_acquire_many(kib).map_err(|_| Problem::overloaded())
    }
}

/// Reads the body of a request, of at most `limit` bytes and complete within `deadline`, and asks once more whether its
/// sender may do what the door let them in for: much may have happened until the last byte came.
pub(super) async fn received(
    request: Request,
    limit: usize,
    deadline: Duration,
    api: &Api,
) -> Result<Held<'_>, Problem> {
    let (head, body) = request.into_parts();
    let held = read(body, limit, deadline, api.bodies()).await?;
    door::ask_again(api, &head.extensions)?;
    Ok(held)
}

/// Reads a body of at most `limit` bytes that is complete within `deadline`.
pub(super) async fn read(
    body: Body,
    limit: usize,
    deadline: Duration,
    memory: &BodyMemory,
) -> Result<Held<'_>, Problem> {
    let stated = body.size_hint().lower();
    if stated > limit as u64 + DISCARDED_BYTES_MAX {
        return Err(too_large(limit));
    }
    let exact = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    let share = memory.take(exact.unwrap_or(limit).min(limit), limit)?;
    let mut chunks = body.into_data_stream();
    let room = usize::try_from(stated).unwrap_or(limit).min(limit);
    match tokio::time::timeout(deadline, whole(&mut chunks, room, limit)).await {
        Ok(body) => body.map(|bytes| Held { bytes, _share: share }),
        Err(_) => Err(Problem::new(
            Code::SlowBody,
            format!(
                "the body was not complete after {} s; send it again",
                deadline.as_secs()
            ),
        )),
    }
}

/// Reads the fields of a small body. It has to say that it is JSON: any other type a page of elsewhere could send
/// without having asked.
pub(super) async fn fields<T: DeserializeOwned>(request: Request, api: &Api) -> Result<T, Problem> {
    refuse_encoding(request.headers())?;
    if media_type(request.headers()) != MediaType::Json {
        let rule = "send the fields as one object of application/json";
        return Err(Problem::new(Code::UnsupportedMediaType, rule));
    }
    let body = received(request, EVENT_BYTES_MAX, EVENT_DEADLINE, api).await?;
    serde_json::from_slice(&body.bytes).map_err(|error| {
        // Where it ends is of no use to anybody.
        let detail = error.to_string();
        let rule = detail.split(" at line ").next().unwrap_or_default();
        Problem::new(Code::InvalidBody, format!("{rule}; nothing was done"))
    })
}

/// The answer to a body of which a field breaks its rule.
pub(super) fn broken(pointer: &str, code: &'static str, rule: impl Into<String>) -> Problem {
    let error = FieldError {
        pointer: pointer.to_owned(),
        code,
        detail: rule.into(),
    };
    let detail = "the body breaks the rules named in errors; nothing was done";
    Problem::new(Code::InvalidBody, detail).with_errors(vec![error])
}

async fn whole(chunks: &mut BodyDataStream, room: usize, limit: usize) -> Result<Bytes, Problem> {
    let Some(first) = next(chunks, 0, limit).await? else {
        return Ok(Bytes::new());
    };
    // Nearly every event comes in one piece, which then needs no copy.
    let Some(second) = next(chunks, first.len(), limit).await? else {
        return Ok(first);
    };
    let mut body = BytesMut::with_capacity(room.max(first.len() + second.len()));
    body.extend_from_slice(&first);
    body.extend_from_slice(&second);
    while let Some(chunk) = next(chunks, body.len(), limit).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next piece of a body of which `read` bytes are there.
async fn next(chunks: &mut BodyDataStream, read: usize, limit: usize) -> Result<Option<Bytes>, Problem> {
    match chunks.next().await {
        None => Ok(None),
        Some(Ok(chunk)) if read + chunk.len() <= limit => Ok(Some(chunk)),
        Some(Ok(_)) => {
            discard(chunks).await;
            Err(too_large(limit))
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a body ended early");
            Err(Problem::plain(Code::IncompleteBody))
        }
    }
}

async fn discard(chunks: &mut BodyDataStream) {
    let mut discarded = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        discarded += chunk.len() as u64;
        if discarded > DISCARDED_BYTES_MAX {
            break;
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("the body must have at most {limit} bytes; nothing was recorded"),
    )
}
