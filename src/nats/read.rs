//! Reading a stream in order.
//!
//! A [`Reader`] gives every message after a sequence exactly once and in order, through lost
//! connections and restarts of the server: its place is its own, and the server's consumer is only a
//! tool that is thrown away and made again after the last message that was given out.
//!
//! A reader does not know whether the stream is still the one that it began with, nor whether
//! messages have aged out while it was interrupted; who minds compares when [`Reader::opens`] has grown.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageError, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{ErrorCode, Message, message::StreamMessage};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use super::link::{Link, Status};
use crate::core::event::rfc3339;
use crate::core::retry::Backoff;

/// Messages asked for at a time: the server sends ahead while a batch is being worked on.
const PULL_MESSAGES: usize = 1_000;
/// How long one request for messages stands.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// The server says that it is still there this often; two missed ones and the consumer is made again.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Longest wait for the next message of a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The status after the last message of a batch.
const BATCH_END: u16 = 204;
/// The status where a batch would have no message.
const BATCH_EMPTY: u16 = 404;
/// The server forgets a consumer that nobody asks for this long.
const INACTIVE: Duration = Duration::from_secs(30);

/// Why a stream could not be read now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the stream cannot be read now: {reason}")]
pub struct ReadError {
    reason: String,
}

impl ReadError {
    /// The stream cannot be read for this reason.
    pub fn unavailable(error: impl fmt::Display) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

/// A message as the stream has it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its place in the stream.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: OffsetDateTime,
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub body: Bytes,
    /// Its headers.
    pub headers: HeaderMap,
    /// Messages that follow in the same reading, as far as the server knew when it sent this one.
    pub pending: u64,
}

impl StoredMessage {
    /// A header by name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }
}

impl From<StreamMessage> for StoredMessage {
    fn from(message: StreamMessage) -> Self {
        Self {
            sequence: message.sequence,
            stored_at: message.time,
            subject: message.subject.to_string(),
            body: message.payload,
            headers: message.headers,
            pending: 0,
        }
    }
}

/// Gets one message. A replica may not have the newest ones yet, so the leader has the last word on what is not there.
///
/// # Errors
/// [`ReadError`] if the stream cannot be reached now.
pub async fn get(stream: &Stream<()>, sequence: u64) -> Result<Option<StoredMessage>, ReadError> {
    match stream.direct_get(sequence).await {
        Ok(message) => return Ok(Some(message.into())),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
        Err(error) => return Err(ReadError::unavailable(error)),
    }
    found(stream.get_raw_message(sequence).await)
}

fn found(answer: Result<StreamMessage, LastRawMessageError>) -> Result<Option<StoredMessage>, ReadError> {
    match answer {
        Ok(message) => Ok(Some(message.into())),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            _ => Err(ReadError::unavailable(error)),
        },
    }
}

/// Gets messages of a subject from a place on, at most `max`, without a consumer. A replica may
/// answer, which may not have the newest ones yet.
///
/// # Errors
/// [`ReadError`] if the stream cannot be reached now, or does not answer in time.
pub async fn get_many(
    client: &async_nats::Client,
    stream: &str,
    subject: &str,
    from: Start,
    max: usize,
) -> Result<Vec<StoredMessage>, ReadError> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(ReadError::unavailable)?;
    let mut request = serde_json::json!({ "next_by_subj": subject, "batch": max });
    match from {
        Start::After(sequence) => request["seq"] = sequence.saturating_add(1).into(),
        Start::Since(time) => request["start_time"] = rfc3339(time).into(),
    }
    client
        .publish_with_reply(
            format!("$JS.API.DIRECT.GET.{stream}"),
            inbox,
            request.to_string().into(),
        )
        .await
        .map_err(ReadError::unavailable)?;
    let mut messages = Vec::new();
    loop {
        let answer = tokio::time::timeout(BATCH_TIMEOUT, answers.next())
            .await
            .map_err(|_| ReadError::unavailable("NATS did not answer in time"))?
            .ok_or_else(|| ReadError::unavailable("the connection was closed"))?;
        match answer.status.map(|status| status.as_u16()) {
            None => {}
            Some(BATCH_END | BATCH_EMPTY) => return Ok(messages),
            Some(status) => {
                let reason = answer.description.unwrap_or_default();
                return Err(ReadError::unavailable(format!("NATS answered {status} {reason}")));
            }
        }
        let message = StreamMessage::try_from(answer).map_err(ReadError::unavailable)?;
        messages.push(message.into());
    }
}

/// What a reader reads.
#[derive(Debug, Clone)]
pub struct Plan {
    subject: String,
    start: Start,
    headers_only: bool,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// After a sequence.
    After(u64),
    /// At the first message that is not older than this.
    Since(OffsetDateTime),
}

impl Plan {
    /// Messages of a subject after a sequence.
    pub fn after(subject: String, sequence: u64) -> Self {
        Self {
            subject,
            start: Start::After(sequence),
            headers_only: false,
        }
    }

    /// Messages of a subject that are not older than a time.
    pub fn since(subject: String, time: OffsetDateTime) -> Self {
        Self {
            subject,
            start: Start::Since(time),
            headers_only: false,
        }
    }

    /// Headers of the messages of a subject, without their bodies.
    pub fn headers(subject: String, start: Start) -> Self {
        Self {
            subject,
            start,
            headers_only: true,
        }
    }
}

/// An endless reading of messages in the order of the stream, which goes on by itself after every interruption.
#[derive(Debug)]
pub struct Reader {
    link: Link,
    reopens: IntCounter,
    status: watch::Receiver<Status>,
    plan: Plan,
    consumer: Option<Consumer>,
    opens: u64,
    backoff: Backoff,
    /// Taken from the consumer, not yet given out: so that `next` may be dropped at any time.
    taken: VecDeque<StoredMessage>,
}

/// The server's side of a reading.
struct Consumer {
    messages: pull::Stream,
    /// The connection that it was made on.
    generation: u64,
    /// Messages had from it; the next one must be the next to this.
    delivered: u64,
    /// Messages that awaited it when it was made.
    pending: u64,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("generation", &self.generation)
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a reading of the link's stream; `reopens` counts each time that it is opened again.
    ///
    /// # Errors
    /// [`ReadError`] if the stream cannot be reached now.
    pub async fn open(link: &Link, reopens: &IntCounter, plan: Plan) -> Result<Self, ReadError> {
        let mut status = link.status();
        let generation = status.borrow_and_update().generation;
        let consumer = Consumer::make(link, &plan, generation).await?;
        Ok(Self {
            link: link.clone(),
            reopens: reopens.clone(),
            status,
            plan,
            consumer: Some(consumer),
            opens: 1,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(1)),
            taken: VecDeque::new(),
        })
    }

    /// Waits for a message and takes it and those that have arrived with it, up to `max`.
    ///
    /// May be dropped while it waits; nothing is lost by that.
    ///
    /// # Errors
    /// [`ReadError`] while the stream cannot be reached. Calling again goes on after the last message
    /// that was given out; the pause between attempts is made here.
    pub async fn next(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        while self.taken.is_empty() {
            if let Err(error) = self.take(max).await {
                // A consumer that failed is thrown away at once, so that a dropped pause changes nothing.
                self.consumer = None;
                self.pause().await;
                return Err(error);
            }
        }
        let count = self.taken.len().min(max.max(1));
        Ok(self.taken.drain(..count).collect())
    }

    /// How often the reading was opened at the server, which grows with each interruption.
    ///
    /// Only an interruption can lead from one stream to another of the same name, or past messages that
    /// have aged out: who minds looks when this has grown, before it uses what [`next`](Self::next) gave.
    pub fn opens(&self) -> u64 {
        self.opens
    }

    /// Messages that were in the stream when the reading was opened, or opened again, and not read yet.
    pub fn pending_at_open(&self) -> u64 {
        self.consumer.as_ref().map_or(0, |consumer| consumer.pending)
    }

    /// Fills `taken` with at least one message, or leaves it empty after an interruption that is mended already.
    async fn take(&mut self, max: usize) -> Result<(), ReadError> {
        let status = *self.status.borrow_and_update();
        let consumer = match &mut self.consumer {
            Some(consumer) if consumer.generation == status.generation => consumer,
            stale => {
                *stale = None;
                self.reopens.inc();
                self.opens += 1;
                stale.insert(Consumer::make(&self.link, &self.plan, status.generation).await?)
            }
        };
        let first = tokio::select! {
            message = consumer.messages.next() => message,
            // The connection was lost or is back: what the consumer had under way may be lost with it.
            _ = self.status.changed() => return Ok(()),
        };
        let mut message = first;
        while let Some(next) = consumer.check(message, self.plan.start)? {
            self.plan.start = Start::After(next.sequence);
            self.taken.push_back(next);
            if self.taken.len() >= max {
                break;
            }
            match consumer.messages.next().now_or_never() {
                Some(next) => message = next,
                None => break,
            }
        }
        self.backoff.reset();
        Ok(())
    }

    /// Waits before another attempt: a moment, or until the connection changes.
    async fn pause(&mut self) {
        let pause = self.backoff.next_pause();
        let _ = tokio::time::timeout(pause, self.status.changed()).await;
    }
}

impl Consumer {
    /// Makes a consumer at the place where the reading stands.
    async fn make(link: &Link, plan: &Plan, generation: u64) -> Result<Self, ReadError> {
        if !link.is_up() {
            return Err(ReadError::unavailable("not connected to NATS"));
        }
        let deliver_policy = match plan.start {
            Start::After(sequence) => DeliverPolicy::ByStartSequence {
                start_sequence: sequence + 1,
            },
            Start::Since(start_time) => DeliverPolicy::ByStartTime { start_time },
        };
        let config = pull::Config {
            // With a name the filter stands in the subject of the request, where the server can compare it with what a user may read.
            name: Some(Uuid::new_v4().simple().to_string()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: plan.subject.clone(),
            replay_policy: ReplayPolicy::Instant,
            headers_only: plan.headers_only,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = link
            .stream()
            .create_consumer(config)
            .await
            .map_err(ReadError::unavailable)?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(ReadError::unavailable)?;
        Ok(Self {
            messages,
            generation,
            delivered: 0,
            pending,
        })
    }

    /// Accepts a message if it is the next one.
    fn check(
        &mut self,
        message: Option<Result<Message, pull::MessagesError>>,
        start: Start,
    ) -> Result<Option<StoredMessage>, ReadError> {
        let message = match message {
            Some(message) => message.map_err(ReadError::unavailable)?,
            None => return Err(ReadError::unavailable("the server ended the reading")),
        };
        let info = message.info().map_err(ReadError::unavailable)?;
        self.delivered += 1;
        if info.consumer_sequence != self.delivered {
            return Err(ReadError::unavailable(format!(
                "message {} of the consumer came in the place of {}",
                info.consumer_sequence, self.delivered
            )));
        }
        let sequence = info.stream_sequence;
        if let Start::After(last) = start
            && sequence <= last
        {
            return Err(ReadError::unavailable(format!(
                "message {sequence} came after message {last}"
            )));
        }
        let (stored_at, pending) = (info.published, info.pending);
        let message = message.message;
        Ok(Some(StoredMessage {
            sequence,
            stored_at,
            subject: message.subject.to_string(),
            body: message.payload,
            pending,
            headers: message.headers.unwrap_or_default(),
        }))
    }
}
