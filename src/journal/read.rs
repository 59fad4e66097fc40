//! Reading the journal in order, and what an event is there.
//!
//! A [`Reader`] gives every event after a sequence exactly once and in order, through lost
//! connections and restarts of the server.
//!
//! A reader does not compare epochs; who keeps a place across restarts asks [`Journal::tail`](super::Journal::tail).

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DIGEST, ID, Lane, SUBJECT};
use crate::core::id::{SessionId, ShopId};
use crate::metrics::Metrics;
use crate::nats::{self, Link, Plan, ReadError, StoredMessage};

/// An event as the journal has it, not decoded.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// Its place in the journal.
    pub sequence: u64,
    /// When the server recorded it.
    pub recorded_at: OffsetDateTime,
    /// `checkout.{partition}.{shop_id}`.
    pub subject: String,
    /// The event.
    pub body: Bytes,
    /// Events that follow in the same reading, as far as the server knew when it sent this one.
    pub pending: u64,
    headers: HeaderMap,
}

impl RawEvent {
    /// The event's identity; nothing if it was stored without one, by somebody else.
    pub fn id(&self) -> Option<Uuid> {
        Uuid::try_parse(self.header(ID)?).ok()
    }

    /// When the server recorded it, in nanoseconds since 1970.
    pub fn recorded_ns(&self) -> i64 {
        i64::try_from(self.recorded_at.unix_timestamp_nanos()).unwrap_or(i64::MAX)
    }

    /// The digest of its body, as given with the entry.
    pub fn digest(&self) -> Option<u128> {
        u128::from_str_radix(self.header(DIGEST)?, 16).ok()
    }

    /// The session that it belongs to.
    pub fn session(&self) -> Option<SessionId> {
        SessionId::parse(self.header(SUBJECT)?).ok()
    }

    /// The shop that it belongs to.
    pub fn shop(&self) -> Option<ShopId> {
        ShopId::parse(self.subject.rsplit('.').next()?).ok()
    }

    /// Its CloudEvents attributes, as headers.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .filter_map(|(name, values)| Some((AsRef::<str>::as_ref(name), values.first()?.as_str())))
            .filter(|(name, _)| name.starts_with("ce-"))
    }

    /// All headers, in the order of their names, each `Name: value` with a line break of the protocol after it.
    pub fn header_lines(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            lines.extend(values.iter().map(|value| format!("{name}: {}\r\n", value.as_str())));
        }
        // Those of one name stay in their order.
        lines.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
        lines.concat()
    }

    /// A header by name, `ce-time` for example.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }
}

impl RawEvent {
    /// The event that this message of a stream is.
    pub(super) fn of(message: StoredMessage, lane: Lane) -> Self {
        Self {
            sequence: lane.sequence(message.sequence),
            recorded_at: message.stored_at,
            subject: message.subject,
            body: message.body,
            pending: message.pending,
            headers: message.headers,
        }
    }
}

/// Gets the event at a place of a stream.
pub(super) async fn get(stream: &Stream<()>, lane: Lane, place: u64) -> Result<Option<RawEvent>, ReadError> {
    let message = nats::get(stream, place).await?;
    Ok(message.map(|message| RawEvent::of(message, lane)))
}

/// An endless reading of events in journal order, which goes on by itself after every interruption.
#[derive(Debug)]
pub struct Reader {
    messages: nats::Reader,
    lane: Lane,
}

impl Reader {
    pub(super) async fn open(
        (lane, link): (Lane, &Link),
        metrics: &Arc<Metrics>,
        plan: Plan,
    ) -> Result<Self, ReadError> {
        let messages = nats::Reader::open(link, &metrics.journal_reader_reopens, plan).await?;
        Ok(Self { messages, lane })
    }

    /// Waits for an event and takes it and those that have arrived with it, up to `max`.
    ///
    /// May be dropped while it waits; nothing is lost by that.
    ///
    /// # Errors
    /// [`ReadError`] while the journal cannot be reached. Calling again goes on after the last event
    /// that was given out; the pause between attempts is made here.
    pub async fn next(&mut self, max: usize) -> Result<Vec<RawEvent>, ReadError> {
        let messages = self.messages.next(max).await?;
        let events = messages.into_iter().map(|message| RawEvent::of(message, self.lane));
        Ok(events.collect())
    }

    /// How often the reading was opened at the server, which grows with each interruption.
    ///
    /// A stream that was deleted and made anew is another journal, and only an interruption can lead
    /// from one to the other: who keeps a place compares [`Tail::epoch`](super::Tail) when this has grown,
    /// before it uses what [`next`](Self::next) gave.
    pub fn opens(&self) -> u64 {
        self.messages.opens()
    }

    /// Events that were in the journal when the reading was opened, or opened again, and not read yet.
    pub fn pending_at_open(&self) -> u64 {
        self.messages.pending_at_open()
    }
}
