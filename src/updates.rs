//! The updates: one message for each event, on `updates.store.{shop}`.
//!
//! The stream `UPDATES` takes them on `upd.{partition}.{shop}` and the server republishes each, once
//! stored, to `updates.store.{shop}`. Every publish names the shop's last update that it follows, so
//! whatever is repeated after a crash, and whoever wakes up after losing its lease, a subscriber sees
//! each event's update once and in the order of the journal.
//!
//! Few updates go out one by one: those of one shop after each other, since each names its predecessor,
//! those of different shops side by side. Many go together, those of all partitions in one atomic batch.

mod feed;
mod group;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, LastRawMessageError, LastRawMessageErrorKind, PersistenceMode, Stream};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::core::event::unix_microseconds;
use crate::core::failpoint;
use crate::core::id::ShopId;
use crate::core::trace::{TRACEPARENT, TraceContext};
use crate::metrics::Metrics;
use crate::nats::{self, Start};

use self::group::{Group, Message, Outcome, Permit};

pub use self::feed::{Extent, Feed, FeedReader, LinkError, Place, ReadError, StoredUpdate};

/// Name of the stream.
pub const STREAM: &str = "UPDATES";
/// Settings without which updates get lost, reach nobody, or stop.
pub const NEEDED: &[&str] = &[
    "subjects",
    "republish",
    "persist_mode",
    "storage",
    "retention",
    "discard",
    "no_ack",
    "allow_direct",
    "max_msg_size",
];
/// Header with the journal sequence of the event that the update tells of.
const SEQUENCE: &str = "Ezout-Sequence";
/// Header with the highest journal sequence of all updates of the shop up to this one. It differs
/// from [`SEQUENCE`] only where a parked event was applied late.
const THROUGH: &str = "Ezout-Through";
/// Header with the journal's epoch: sequences of another journal tell nothing about this one's.
const EPOCH: &str = "Ezout-Epoch";
/// Header with the time when the event was in its basket, in microseconds since 1970.
pub const PROJECTED: &str = "Ezout-Projected";
/// How long an acknowledgement may take before the update is asked about again.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts at one update before the whole step is tried again.
const ATTEMPTS_MAX: usize = 3;
/// Updates read at a time when one of them is looked for.
const LOOK_UPDATES: usize = 500;

/// An update to publish.
#[derive(Debug, Clone)]
pub struct Update {
    /// The event's place in the journal.
    pub sequence: u64,
    /// When the journal took the event.
    pub recorded_at: OffsetDateTime,
    /// The message.
    pub json: String,
    /// When it is told.
    pub turn: Turn,
    /// The trace that it is part of.
    pub trace: Option<TraceContext>,
}

/// When an update is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// In the order of the journal.
    InOrder,
    /// After updates of later events, since its event was parked. Its place in the order tells nothing about whether
    /// it was told before.
    Late,
    /// The same, and it may have been told before.
    LateAgain,
}

/// Why an update was not published; it may have been. Publishing it again is safe.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// NATS did not answer, or answered with an error.
    #[error("nats did not {operation}: {reason}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// Its words.
        reason: String,
    },
    /// Somebody else publishes updates of this shop at the same time.
    #[error("another projector publishes updates of the same shop")]
    Contended,
}

fn unavailable(operation: &'static str) -> impl Fn(&dyn std::fmt::Display) -> UpdateError {
    move |error| UpdateError::Unavailable {
        operation,
        reason: error.to_string(),
    }
}

/// The shop's last update.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// Its place in `UPDATES`; 0 where there is none.
    place: u64,
    /// The highest journal sequence that was published.
    through: u64,
}

/// The stream of updates; cheap to clone.
#[derive(Debug, Clone)]
pub struct Updates {
    client: async_nats::Client,
    context: Context,
    metrics: Arc<Metrics>,
    replicas: usize,
    stream: Arc<Mutex<Option<Stream>>>,
    group: Arc<Group>,
}

impl Updates {
    /// Uses a connection that may not be up yet; the stream is made when it is first needed.
    pub fn new(client: async_nats::Client, replicas: usize, metrics: Arc<Metrics>) -> Self {
        let context = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .build(client.clone());
        Self {
            client,
            context,
            metrics,
            replicas,
            stream: Arc::default(),
            group: Arc::default(),
        }
    }

    /// The updates of one partition of a journal as seen by its owner, who knows nothing about them yet.
    pub fn of_partition(&self, partition: u16, epoch: String) -> PartitionUpdates {
        let line = Line {
            updates: self.clone(),
            partition,
            epoch,
        };
        PartitionUpdates {
            line,
            shops: HashMap::new(),
            aged: None,
        }
    }

    /// Makes the stream, where it is not there.
    pub async fn prepare(&self) -> Result<(), UpdateError> {
        self.stream().await.map(|_| ())
    }

    /// A shop's last update: the place in the journal of its event, and its message. `None` before the first one of
    /// the journal of this epoch.
    pub async fn last_update(
        &self,
        epoch: &str,
        partition: u16,
        shop: ShopId,
    ) -> Result<Option<(u64, Bytes)>, UpdateError> {
        let failed = unavailable("read the last update");
        let stream = self.stream().await?;
        let subject = format!("upd.{partition}.{shop}");
        let message = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if is_none(&error) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let header = |name| message.headers.get(name).map(async_nats::HeaderValue::as_str);
        if header(EPOCH) != Some(epoch) {
            return Ok(None);
        }
        let sequence = header(SEQUENCE).and_then(|place| place.parse().ok());
        let sequence = sequence.ok_or_else(|| failed(&"a stored update has no place in the journal"))?;
        Ok(Some((sequence, message.payload)))
    }

    async fn stream(&self) -> Result<Stream, UpdateError> {
        let mut known = self.stream.lock().await;
        if let Some(stream) = &*known {
            return Ok(stream.clone());
        }
        let failed = unavailable("open the stream of updates");
        let stream = match self.context.get_stream(STREAM).await {
            Ok(stream) => {
                let running = &stream.cached_info().config;
                if !running.allow_atomic_publish || running.persist_mode == Some(PersistenceMode::Async) {
                    tracing::warn!(
                        "the stream {STREAM} is weaker than nats/updates.json: `ezout migrate --streams` makes it anew; live viewers start from a snapshot"
                    );
                }
                stream
            }
            // Whoever else creates it at the same moment creates the same.
            Err(_) => self
                .context
                .create_stream(settings(self.replicas))
                .await
                .map_err(|error| failed(&error))?,
        };
        Ok(known.insert(stream).clone())
    }
}

/// The settings that the stream should have, as `nats/updates.json` states them, on this number of servers.
pub fn settings(replicas: usize) -> Config {
    let mut config: Config =
        serde_json::from_str(include_str!("../nats/updates.json")).expect("nats/updates.json is checked by a test");
    config.num_replicas = replicas;
    config
}

/// What every update of a partition has in common.
#[derive(Debug, Clone)]
struct Line {
    updates: Updates,
    partition: u16,
    epoch: String,
}

/// The updates of one partition, published by its owner.
#[derive(Debug)]
pub struct PartitionUpdates {
    line: Line,
    shops: HashMap<ShopId, Last>,
    /// Updates of events before this time may have left the stream again.
    aged: Option<OffsetDateTime>,
}

impl PartitionUpdates {
    /// Looks up the last updates of these shops, as far as they are not known.
    async fn learn(&mut self, shops: impl Iterator<Item = ShopId>) -> Result<(), UpdateError> {
        let unknown: Vec<ShopId> = shops.filter(|shop| !self.shops.contains_key(shop)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        if self.aged.is_none() {
            self.aged = Some(self.line.updates.oldest().await?);
        }
        let stream = self.line.updates.stream().await?;
        let lookups = unknown.into_iter().map(|shop| {
            let (stream, line) = (stream.clone(), self.line.clone());
            async move { Ok((shop, line.last(&stream, shop).await?)) }
        });
        let found = futures::future::join_all(lookups)
            .await
            .into_iter()
            .collect::<Result<Vec<_>, UpdateError>>();
        if found.is_err() {
            self.line.updates.stream.lock().await.take();
        }
        self.shops.extend(found?);
        Ok(())
    }

    /// Takes out what was published so long ago that it has left the stream, as when old views are folded anew.
    fn leave_out_aged(&self, updates: &mut HashMap<ShopId, Vec<Update>>) {
        let forgotten =
            |shops: &HashMap<ShopId, Last>, shop: &ShopId| shops.get(shop).is_some_and(|last| last.place == 0);
        let aged = self.aged.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        for (_, updates) in updates.iter_mut().filter(|(shop, _)| forgotten(&self.shops, shop)) {
            updates.retain(|update| update.turn != Turn::InOrder || update.recorded_at >= aged);
        }
    }

    /// Takes out late updates that may have been told before, and were. The stream knows them by their names only for
    /// some minutes, and what follows them may have failed for longer; so they are looked for.
    async fn leave_out_told(&self, updates: &mut HashMap<ShopId, Vec<Update>>) -> Result<(), UpdateError> {
        for (shop, updates) in updates {
            let again = updates.iter().filter(|update| update.turn == Turn::LateAgain);
            // None was told before its event was recorded.
            let Some(since) = again.map(|update| update.recorded_at).min() else {
                continue;
            };
            let told = self.line.told_since(*shop, since).await?;
            let before = updates.len();
            updates.retain(|update| update.turn != Turn::LateAgain || !told.contains(&update.sequence));
            let repeated = u64::try_from(before - updates.len()).unwrap_or(0);
            self.line.updates.metrics.repeated_updates.inc_by(repeated);
        }
        Ok(())
    }

    /// The highest journal sequence whose update was published for each of these shops; 0 for none.
    pub async fn through(
        &mut self,
        shops: impl Iterator<Item = ShopId> + Clone,
    ) -> Result<HashMap<ShopId, u64>, UpdateError> {
        self.learn(shops.clone()).await?;
        Ok(shops
            .map(|shop| (shop, self.shops.get(&shop).map_or(0, |last| last.through)))
            .collect())
    }

    /// Publishes updates, those of each shop in the given order, and answers when all are stored.
    /// An update that was published before is left out. Their events are in their baskets since `projected_at`.
    ///
    /// # Errors
    /// [`UpdateError`]; any prefix of each shop's updates may be published.
    pub async fn publish(
        &mut self,
        mut updates: HashMap<ShopId, Vec<Update>>,
        projected_at: OffsetDateTime,
    ) -> Result<(), UpdateError> {
        self.learn(updates.keys().copied()).await?;
        self.leave_out_aged(&mut updates);
        self.leave_out_told(&mut updates).await?;
        let _permit = self.publish_in_group(&mut updates, projected_at).await;
        self.learn(updates.keys().copied()).await?;
        let shops = updates.into_iter().map(|(shop, updates)| {
            let (line, mut last) = (self.line.clone(), self.shops.get(&shop).copied().unwrap_or_default());
            async move {
                let mut result = Ok(());
                for update in updates {
                    result = line.publish_one(shop, &mut last, update, projected_at).await;
                    if result.is_err() {
                        break;
                    }
                    failpoint::hit("after_one_update");
                }
                (shop, last, result)
            }
        });
        let mut outcome = Ok(());
        for (shop, last, result) in futures::future::join_all(shops).await {
            match result {
                Ok(()) => {
                    self.shops.insert(shop, last);
                }
                Err(error) => {
                    // What was stored is not known; it is looked up before the next attempt.
                    self.shops.remove(&shop);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}

impl PartitionUpdates {
    /// Publishes updates together with those of other partitions, so that the disk is synced once for all, and takes
    /// them out of `updates`. Where they are few, or what became of them is not known, they stay and are published one
    /// by one, in the first case while the permit is held.
    async fn publish_in_group(
        &mut self,
        updates: &mut HashMap<ShopId, Vec<Update>>,
        projected_at: OffsetDateTime,
    ) -> Option<Permit> {
        let mut batch: Vec<(ShopId, Update)> = Vec::new();
        for (shop, updates) in updates.iter() {
            let through = self.shops.get(shop).map_or(0, |last| last.through);
            if updates
                .iter()
                .all(|update| update.turn == Turn::InOrder && update.sequence > through)
            {
                batch.extend(updates.iter().map(|update| (*shop, update.clone())));
            }
        }
        if batch.is_empty() {
            return None;
        }
        let Updates { client, group, .. } = &self.line.updates;
        match group
            .offer(client, self.messages(&batch, projected_at), ACK_TIMEOUT)
            .await
        {
            Outcome::Singly(permit) => Some(permit),
            Outcome::Unknown => {
                // It is looked up before each is tried by itself.
                for (shop, _) in &batch {
                    self.shops.remove(shop);
                }
                None
            }
            Outcome::Stored(last_place) => {
                let published = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                self.line.updates.metrics.published_updates.inc_by(published);
                for (place, (shop, update)) in (last_place + 1 - published..).zip(&batch) {
                    let through = update.sequence;
                    self.shops.insert(*shop, Last { place, through });
                    updates.remove(shop);
                }
                failpoint::hit("after_one_update");
                None
            }
        }
    }

    /// The first message of each shop names the one that it follows; the others follow it in the same batch.
    fn messages(&self, batch: &[(ShopId, Update)], projected_at: OffsetDateTime) -> Vec<Message> {
        let mut started = HashSet::new();
        let message = |(shop, update): &(ShopId, Update)| {
            let mut headers = self.line.headers(update, update.sequence, projected_at);
            if started.insert(*shop) {
                let place = self.shops.get(shop).map_or(0, |last| last.place);
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, place.to_string());
            }
            Message {
                subject: self.line.subject(*shop),
                headers,
                body: Bytes::from(update.json.clone()),
            }
        };
        batch.iter().map(message).collect()
    }
}

impl Updates {
    /// The time since which updates are in the stream; what was told before has left it.
    async fn oldest(&self) -> Result<OffsetDateTime, UpdateError> {
        let info = self.stream().await?.get_info().await;
        let state = info
            .map_err(|error| unavailable("describe the stream of updates")(&error))?
            .state;
        Ok(match state.messages {
            0 if state.last_sequence > 0 => state.last_timestamp,
            _ if state.first_sequence > 1 => state.first_timestamp,
            _ => OffsetDateTime::UNIX_EPOCH,
        })
    }
}

impl Line {
    fn subject(&self, shop: ShopId) -> String {
        format!("upd.{}.{shop}", self.partition)
    }

    fn headers(&self, update: &Update, through: u64, projected_at: OffsetDateTime) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEQUENCE, update.sequence.to_string());
        headers.insert(THROUGH, through.to_string());
        headers.insert(EPOCH, self.epoch.as_str());
        headers.insert(PROJECTED, unix_microseconds(projected_at).to_string());
        if let Some(trace) = update.trace {
            headers.insert(TRACEPARENT, trace.to_string());
        }
        headers
    }

    /// Places in the journal of the events that updates of a shop have told of since a time.
    async fn told_since(&self, shop: ShopId, since: OffsetDateTime) -> Result<HashSet<u64>, UpdateError> {
        let failed = unavailable("look for an update");
        let (subject, mut from) = (self.subject(shop), Start::Since(since));
        let mut told = HashSet::new();
        loop {
            let found = nats::get_many(&self.updates.client, STREAM, &subject, from, LOOK_UPDATES).await;
            let found = found.map_err(|error| failed(&error))?;
            let Some(last) = found.last() else { return Ok(told) };
            from = Start::After(last.sequence);
            let of_this_journal = found.iter().filter(|update| update.header(EPOCH) == Some(&self.epoch));
            told.extend(of_this_journal.filter_map(|update| update.header(SEQUENCE)?.parse::<u64>().ok()));
        }
    }

    async fn publish_one(
        &self,
        shop: ShopId,
        last: &mut Last,
        mut update: Update,
        projected_at: OffsetDateTime,
    ) -> Result<(), UpdateError> {
        let failed = unavailable("publish an update");
        let body = Bytes::from(std::mem::take(&mut update.json));
        for _ in 0..ATTEMPTS_MAX {
            if update.turn == Turn::InOrder && update.sequence <= last.through {
                self.updates.metrics.repeated_updates.inc();
                return Ok(());
            }
            let through = last.through.max(update.sequence);
            let mut message = PublishMessage::build()
                .headers(self.headers(&update, through, projected_at))
                .payload(body.clone())
                .expected_last_subject_sequence(last.place);
            if update.turn != Turn::InOrder {
                // One that was published a moment ago without our knowing is known by its name.
                message = message.message_id(format!("late:{}:{}", self.epoch, update.sequence));
            }
            let subject = self.subject(shop);
            let sent = async { self.updates.context.send_publish(subject, message).await?.await };
            match sent.await {
                Ok(ack) => {
                    if ack.duplicate {
                        self.updates.metrics.repeated_updates.inc();
                    } else {
                        *last = Last {
                            place: ack.sequence,
                            through,
                        };
                        self.updates.metrics.published_updates.inc();
                    }
                    return Ok(());
                }
                // Either an earlier attempt was stored without our knowing, or another projector published.
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    *last = self.last(&self.updates.stream().await?, shop).await?;
                }
                Err(error) => {
                    self.updates.stream.lock().await.take();
                    return Err(failed(&error));
                }
            }
        }
        Err(UpdateError::Contended)
    }

    async fn last(&self, stream: &Stream, shop: ShopId) -> Result<Last, UpdateError> {
        let failed = unavailable("look up the last update");
        // Not a direct get: a replica might not have the newest one yet.
        let subject = self.subject(shop);
        let message = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if is_none(&error) => return Ok(Last::default()),
            Err(error) => return Err(failed(&error)),
        };
        let header = |name| message.headers.get(name).map(async_nats::HeaderValue::as_str);
        // What was told of another journal is in the stream, but tells nothing about this one.
        let of_this_journal = header(EPOCH) == Some(self.epoch.as_str());
        let through = if of_this_journal {
            header(THROUGH).and_then(|value| value.parse().ok())
        } else {
            Some(0)
        };
        let through = through.ok_or_else(|| failed(&"a stored update has no place in the journal"))?;
        Ok(Last {
            place: message.sequence,
            through,
        })
    }
}

/// Whether an error says that there is no such message.
fn is_none(error: &LastRawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(error) => {
            error.error_code() == async_nats::jetstream::ErrorCode::NO_MESSAGE_FOUND
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_as_its_file_states() {
        let single = settings(1);
        assert_eq!(single.name, STREAM);
        // What is written later than it is acknowledged is lost when the server is killed, and nobody would tell it again.
        assert_eq!(single.persist_mode, None);
        assert!(single.allow_atomic_publish);
        assert_eq!(settings(3).num_replicas, 3);
    }
}
