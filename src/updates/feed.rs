//! Reading the updates of a shop in order, from any place that is still stored.
//!
//! `UPDATES` forgets: old updates age out, and the stream may be lost and made anew. So a place here
//! is a pair, and who comes back with one compares it with what is stored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use bytes::Bytes;
use prometheus::IntCounter;
use time::OffsetDateTime;

use super::{EPOCH, LOOK_UPDATES, PROJECTED, SEQUENCE, STREAM, THROUGH};
use crate::core::event::from_unix_microseconds;
use crate::core::id::ShopId;
use crate::core::trace::{TRACEPARENT, TraceContext};
use crate::metrics::Metrics;
use crate::nats::{self, Link, Plan, Start, StoredMessage};

pub use crate::nats::{LinkError, ReadError};

/// Longest wait for the answer to a question about the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How far the clocks of two servers of NATS may be apart.
const CLOCKS_APART: Duration = Duration::from_secs(2);

/// How far somebody is with the updates of a shop; printed as `{place}-{sequence}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// A place in `UPDATES`.
    pub place: u64,
    /// The journal sequence of the shop's newest event whose update is at or before it; 0 where none is stored.
    pub sequence: u64,
}

impl Place {
    /// Reads what [`Display`](fmt::Display) wrote; nothing if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let (place, sequence) = text.split_once('-')?;
        Some(Self {
            place: number(place)?,
            sequence: number(sequence)?,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.place, self.sequence)
    }
}

/// An update as it is stored.
#[derive(Debug, Clone)]
pub struct StoredUpdate {
    /// Where.
    pub at: Place,
    /// The shop that it is of.
    pub shop: ShopId,
    /// The shop's partition.
    pub partition: u16,
    /// Epoch of the journal that has its event.
    pub epoch: String,
    /// The event's place in that journal.
    pub sequence: u64,
    /// Since when the event was in its basket; nothing where an older version of the service published it.
    pub projected_at: Option<OffsetDateTime>,
    /// Since when.
    pub stored_at: OffsetDateTime,
    /// The trace of its event.
    pub trace: Option<TraceContext>,
    /// The message.
    pub json: Bytes,
}

impl StoredUpdate {
    /// Nothing if it is no update of ours.
    fn of(message: StoredMessage) -> Option<Self> {
        let number = |name| message.header(name)?.parse::<u64>().ok();
        let through = number(THROUGH)?;
        let mut subject = message.subject.rsplit('.');
        Some(Self {
            at: Place {
                place: message.sequence,
                sequence: through,
            },
            sequence: number(SEQUENCE)?,
            projected_at: message.header(PROJECTED).and_then(from_unix_microseconds),
            shop: ShopId::parse(subject.next()?).ok()?,
            partition: subject.next()?.parse().ok()?,
            epoch: message.header(EPOCH)?.to_owned(),
            stored_at: message.stored_at,
            trace: message.header(TRACEPARENT).and_then(TraceContext::parse),
            json: message.body,
        })
    }
}

/// Which updates are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// When the stream was made; another time is another stream.
    pub created_at: OffsetDateTime,
    /// The first place; one above the last where none is stored.
    pub first: u64,
    /// The last place.
    pub last: u64,
    /// Updates that are stored.
    pub messages: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// When the last one was stored; nothing where there never was one.
    pub last_at: Option<OffsetDateTime>,
}

/// The stored updates; cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    link: Link,
    reopens: IntCounter,
}

impl Feed {
    /// Reads by a connection that may not be up yet.
    pub async fn new(link: &Link, metrics: &Arc<Metrics>) -> Result<Self, LinkError> {
        Ok(Self {
            link: link.to(STREAM).await?,
            reopens: metrics.live_reader_reopens.clone(),
        })
    }

    /// Which updates of all shops are stored.
    pub async fn extent(&self) -> Result<Extent, ReadError> {
        let info = self.ask(self.link.stream().get_info()).await?;
        let info = info.map_err(ReadError::unavailable)?;
        Ok(Extent {
            created_at: info.created,
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            messages: info.state.messages,
            bytes: info.state.bytes,
            last_at: (info.state.last_sequence > 0).then_some(info.state.last_timestamp),
        })
    }

    /// The place of the shop's newest update that is stored.
    pub async fn newest(&self, shop: ShopId) -> Result<Option<Place>, ReadError> {
        let subject = subject(shop);
        // Not a direct get: a replica might not have the newest one yet.
        let found = self.link.stream().get_last_raw_message_by_subject(&subject);
        place_of(self.ask(found).await?)
    }

    /// The place of the shop's oldest update that is stored.
    pub async fn oldest(&self, shop: ShopId) -> Result<Option<Place>, ReadError> {
        let found = self.link.stream().get_first_raw_message_by_subject(subject(shop), 1);
        place_of(self.ask(found).await?)
    }

    /// The update at a place, of whatever shop.
    pub async fn at(&self, place: u64) -> Result<Option<StoredUpdate>, ReadError> {
        // The first place is 1; a stream answers for 0 with its last message.
        if place == 0 {
            return Ok(None);
        }
        let found = self.ask(nats::get(self.link.stream(), place)).await??;
        Ok(found.and_then(StoredUpdate::of))
    }

    /// The stored updates of a shop after a place, at most `max`; the newest ones may be missing for a moment.
    pub async fn after(&self, shop: ShopId, place: u64, max: usize) -> Result<Vec<StoredUpdate>, ReadError> {
        let subject = subject(shop);
        let client = self.link.client();
        let found = nats::get_many(&client, STREAM, &subject, Start::After(place), max);
        Ok(self
            .ask(found)
            .await??
            .into_iter()
            .filter_map(StoredUpdate::of)
            .collect())
    }

    /// The update of an event of this journal, which was recorded at this time; nothing if it is not stored, or not any more.
    pub async fn of_event(
        &self,
        epoch: &str,
        shop: ShopId,
        sequence: u64,
        recorded_at: OffsetDateTime,
    ) -> Result<Option<StoredUpdate>, ReadError> {
        let (client, subject) = (self.link.client(), subject(shop));
        // None was told before its event was recorded; clocks of two servers may differ a little.
        let mut from = Start::Since(recorded_at - CLOCKS_APART);
        loop {
            let found = nats::get_many(&client, STREAM, &subject, from, LOOK_UPDATES);
            let found = self.ask(found).await??;
            let Some(last) = found.last() else { return Ok(None) };
            from = Start::After(last.sequence);
            let mut updates = found.into_iter().filter_map(StoredUpdate::of);
            if let Some(update) = updates.find(|update| update.sequence == sequence && update.epoch == epoch) {
                return Ok(Some(update));
            }
        }
    }

    /// Reads the updates of a shop from the one after a place.
    pub async fn follow(&self, shop: ShopId, after: u64) -> Result<FeedReader, ReadError> {
        let reader = nats::Reader::open(&self.link, &self.reopens, Plan::after(subject(shop), after));
        Ok(FeedReader(self.ask(reader).await??))
    }

    /// Fails at once where there is no connection, since a request would wait for one.
    async fn ask<T>(&self, question: impl Future<Output = T>) -> Result<T, ReadError> {
        if !self.link.is_up() {
            return Err(ReadError::unavailable("not connected to NATS"));
        }
        tokio::time::timeout(ANSWER_TIMEOUT, question)
            .await
            .map_err(|_| ReadError::unavailable("NATS did not answer in time"))
    }
}

/// The partition is left open: a shop has one, but who only reads need not know the journal.
fn subject(shop: ShopId) -> String {
    format!("upd.*.{shop}")
}

fn place_of(found: Result<StreamMessage, LastRawMessageError>) -> Result<Option<Place>, ReadError> {
    match found {
        Ok(message) => Ok(StoredUpdate::of(message.into()).map(|update| update.at)),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            _ => Err(ReadError::unavailable(error)),
        },
    }
}

/// An endless reading of the updates of one shop, which goes on by itself after every interruption.
#[derive(Debug)]
pub struct FeedReader(nats::Reader);

impl FeedReader {
    /// Waits for an update and takes it and those that have arrived with it, up to `max`. What is no
    /// update of ours is left out, so there may be none.
    ///
    /// May be dropped while it waits; nothing is lost by that.
    ///
    /// # Errors
    /// [`ReadError`] while the stream cannot be reached. Calling again goes on after the last update
    /// that was given out; the pause between attempts is made here.
    pub async fn next(&mut self, max: usize) -> Result<Vec<StoredUpdate>, ReadError> {
        let messages = self.0.next(max).await?;
        Ok(messages.into_iter().filter_map(StoredUpdate::of).collect())
    }

    /// How often the reading was opened. When it has grown, [`Feed::extent`] tells whether the stream
    /// is still the same and has everything since the last update that was given out.
    pub fn opens(&self) -> u64 {
        self.0.opens()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_printed_and_nothing_else_is() {
        let place = Place { place: 12, sequence: 7 };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for text in [
            "",
            "-",
            "12",
            "12-",
            "-7",
            "+1-7",
            "1-7-2",
            "a-7",
            " 1-7",
            "18446744073709551616-1",
        ] {
            assert_eq!(Place::parse(text), None, "{text:?}");
        }
    }
}
