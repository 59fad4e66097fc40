//! Opens the journal, creates it where there is none, and watches that it stays what it should be.
//!
//! A journal in several streams is whole once the first of them is there, which is made last: they are made from the last
//! one on, and whoever makes that decides on the epoch. A stream that is missing afterwards is lost, and is not made anew.
//!
//! A journal is created at the start of a process only. If it vanishes under a running process, all
//! checkpoints and receipts speak of a stream that is gone, and what to do is for a person to decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, Info};
use prometheus::IntGaugeVec;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::durability::{self, Servers};
use super::{Config, Facts, Judgement, Lane, Spread, State};
use crate::core::retry::Backoff;
use crate::metrics::Metrics;
use crate::nats::{Elsewhere, Link, Status, without_leader_since};

/// Time between two looks at an open journal.
const RECHECK: Duration = Duration::from_secs(15);
/// The same where several servers keep it: whoever only reads notices by this alone that its server is cut off.
const RECHECK_OF_SEVERAL: Duration = Duration::from_secs(5);
/// How long after the last of its streams a new journal has the others: whoever makes it takes seconds.
const CREATION_MAX: Duration = Duration::from_mins(5);
/// Metadata key of the epoch.
const EPOCH: &str = "ezout_epoch";
/// Metadata key of the number of partitions.
const PARTITIONS: &str = "ezout_partitions";
/// Metadata key of the number of streams; absent where there is one.
const STREAMS: &str = "ezout_streams";
/// Partitions where a stream does not tell.
const PARTITIONS_USUAL: u16 = 16;
/// What the server puts up with where a stream sets no bound, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The stream's configuration, as operators read it too.
const CONFIG_JSON: &str = include_str!("../../nats/checkout.json");

/// The epoch that is recorded in a stream.
pub(super) fn epoch_of(config: &StreamConfig) -> Option<Uuid> {
    config.metadata.get(EPOCH)?.parse().ok()
}

/// The partitions that are recorded in a stream.
fn recorded_partitions(config: &StreamConfig) -> Option<u16> {
    let partitions = config.metadata.get(PARTITIONS)?.parse().ok();
    partitions.filter(|partitions| *partitions > 0)
}

/// The partitions of the journal that a stream belongs to, or the usual number where it does not tell.
pub fn partitions_in(config: &StreamConfig) -> u16 {
    recorded_partitions(config).unwrap_or(PARTITIONS_USUAL)
}

/// The settings that a stream of a journal should have, whoever made it, on this number of servers.
pub fn settings(replicas: usize, lane: Lane, partitions: u16) -> StreamConfig {
    let mut stream: StreamConfig =
        serde_json::from_str(CONFIG_JSON).expect("nats/checkout.json is a stream configuration");
    stream.num_replicas = replicas;
    if lane != Lane::ONLY {
        stream.name = lane.name();
        stream.subjects = lane
            .partitions(partitions)
            .map(|partition| format!("checkout.{partition}.*"))
            .collect();
    }
    stream
}

/// The configuration of a stream of a new journal.
fn new_stream(replicas: usize, lane: Lane, (epoch, partitions): (Uuid, u16)) -> StreamConfig {
    let mut stream = settings(replicas, lane, partitions);
    let mut note = |key: &str, value: String| stream.metadata.insert(key.to_owned(), value);
    note(EPOCH, epoch.to_string());
    note(PARTITIONS, partitions.to_string());
    if lane != Lane::ONLY {
        note(STREAMS, lane.spread().to_string());
    }
    stream
}

/// The streams over which the journal of a stream is spread, as it says itself.
pub fn spread_in(config: &StreamConfig) -> Option<Spread> {
    match config.metadata.get(STREAMS) {
        None => Some(Spread::ONE),
        Some(text) => text.parse().ok(),
    }
}

/// Why a journal in so many streams cannot be used as one in so many.
pub fn another_spread(is: Spread, asked: Spread) -> String {
    format!(
        "the journal lies in {is} {}, and this process was started for {asked}: set EZOUT_JOURNAL_STREAMS={is}; a journal keeps the number that it was created with",
        if is == Spread::ONE { "stream" } else { "streams" }
    )
}

/// Reads which journal a stream is, or is a part of: its epoch and its partitions.
///
/// # Errors
/// Why it is none, and what to do.
pub fn identity(info: &Info, lane: Lane) -> Result<(Uuid, u16), String> {
    let (stream, name) = (&info.config, lane.name());
    let epoch = epoch_of(stream).ok_or_else(|| {
        format!("the stream {name} has no {EPOCH} in its metadata, so it is no journal of ours: rename or remove it, or add a UUID as {EPOCH} and its number of partitions as {PARTITIONS}")
    })?;
    let partitions = recorded_partitions(stream)
        .ok_or_else(|| format!("the stream {name} has no usable {PARTITIONS} in its metadata"))?;
    let spread =
        spread_in(stream).ok_or_else(|| format!("the stream {name} has no usable {STREAMS} in its metadata"))?;
    if spread != lane.spread() {
        return Err(another_spread(spread, lane.spread()));
    }
    let expected = settings(1, lane, partitions).subjects;
    if stream.subjects != expected {
        return Err(format!(
            "the stream {name} has the subjects {:?}, not {expected:?}",
            stream.subjects
        ));
    }
    Ok((epoch, partitions))
}

/// The task that knows what the journal is.
#[derive(Debug)]
pub(super) struct Upkeep {
    config: Config,
    /// By stream.
    links: Arc<[Link]>,
    http: reqwest::Client,
    metrics: Arc<Metrics>,
    state: watch::Sender<State>,
    recheck: Arc<Notify>,
    /// The journal that this process has opened; it must stay this one.
    opened: Option<Uuid>,
    /// Servers that keep it, as far as is known.
    replicas: usize,
    elsewhere: Elsewhere,
    /// Its partitions; 0 until they are known.
    partitions: Arc<AtomicU16>,
    /// By stream the last place that was acknowledged or seen; the stream must never end before it.
    highest: Vec<Arc<AtomicU64>>,
}

impl Upkeep {
    pub(super) fn new(config: Config, links: Arc<[Link]>, metrics: Arc<Metrics>) -> (Self, watch::Receiver<State>) {
        let (state, receiver) = watch::channel(State::Unavailable {
            reason: "connecting to NATS".to_owned(),
        });
        let upkeep = Self {
            highest: config.streams.lanes().map(|_| Arc::default()).collect(),
            replicas: config.replicas,
            config,
            links,
            http: durability::monitor_client(),
            metrics,
            state,
            recheck: Arc::default(),
            opened: None,
            elsewhere: Elsewhere::default(),
            partitions: Arc::default(),
        };
        (upkeep, receiver)
    }

    /// Rings for a look at the journal at once.
    pub(super) fn recheck(&self) -> Arc<Notify> {
        Arc::clone(&self.recheck)
    }

    /// Where to note the places that were acknowledged.
    pub(super) fn highest(&self, lane: Lane) -> Arc<AtomicU64> {
        Arc::clone(&self.highest[lane.index()])
    }

    /// Where the number of partitions stands once it is known.
    pub(super) fn partitions(&self) -> Arc<AtomicU16> {
        Arc::clone(&self.partitions)
    }

    fn lanes(&self) -> impl DoubleEndedIterator<Item = Lane> + ExactSizeIterator + use<> {
        self.config.streams.lanes()
    }

    fn link(&self) -> &Link {
        &self.links[0]
    }

    /// Watches until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut status = self.link().status();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let now = *status.borrow_and_update();
            let state = if now.up {
                self.look(now.generation).await
            } else {
                State::Unavailable { reason: lost(now) }
            };
            let pause = match &state {
                State::Open(_) => {
                    backoff.reset();
                    if self.replicas > 1 { RECHECK_OF_SEVERAL } else { RECHECK }
                }
                State::Unavailable { .. } => backoff.next_pause(),
            };
            self.tell(state);
            tokio::select! {
                () = stop.cancelled() => return,
                _ = status.changed() => {}
                () = self.recheck.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn tell(&self, state: State) {
        let open = matches!(state, State::Open(_));
        self.metrics.journal_open.set(i64::from(open));
        let weaknesses = if let State::Open(facts) = &state {
            facts.weaker.len()
        } else {
            0
        };
        self.metrics
            .journal_weaknesses
            .set(i64::try_from(weaknesses).unwrap_or(i64::MAX));
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            match &state {
                State::Open(facts) if facts.weaker.is_empty() => {
                    tracing::info!(epoch = %facts.epoch, durability = %facts.durability, "the journal is open");
                }
                State::Open(facts) => {
                    let reasons = facts.weaker.join("; ");
                    tracing::warn!(epoch = %facts.epoch, durability = %facts.durability, "the journal is weaker than promised: {reasons}");
                }
                State::Unavailable { reason } => tracing::warn!("the journal is unavailable: {reason}"),
            }
            *current = state;
            true
        });
    }

    /// Looks at the streams and their servers once, by this connection, and leaves its server where that is of no use.
    async fn look(&mut self, generation: u64) -> State {
        let asked = Instant::now();
        // Read before a stream is asked: what is acknowledged after the stream has answered is no loss.
        let highest = self.places();
        let (infos, servers) = tokio::join!(self.find(), durability::ask(&self.http, &self.config.monitor_urls));
        let infos = match infos {
            Ok(infos) => infos,
            Err(Unseen { reason, silent }) => {
                // Whoever acknowledges events is only slow to tell of a stream.
                if silent && highest == self.places() {
                    self.consider_leaving(generation, asked).await;
                } else {
                    self.elsewhere.unknown();
                }
                return State::Unavailable { reason };
            }
        };
        let replicas = infos.iter().map(|info| info.config.num_replicas);
        self.replicas = replicas.fold(self.replicas, usize::max);
        let leaderless = infos.iter().filter_map(|info| {
            let since = without_leader_since(info.cluster.as_ref()?, asked)?;
            Some((since, &info.config.name))
        });
        if let Some((since, name)) = leaderless.min() {
            self.consider_leaving(generation, since).await;
            let reason = format!("no server leads the stream {name} that most of its servers follow");
            return State::Unavailable { reason };
        }
        self.elsewhere.useful();
        match self
            .identify(&infos)
            .and_then(|identity| self.complete(&infos, &highest).map(|()| identity))
        {
            Ok((epoch, partitions)) => {
                self.opened = Some(epoch);
                self.partitions.store(partitions, Ordering::Release);
                self.note(&infos, partitions, &servers);
                for (highest, info) in self.highest.iter().zip(&infos) {
                    highest.fetch_max(info.state.last_sequence, Ordering::AcqRel);
                }
                State::Open(self.facts(&infos, &servers, (epoch, partitions)))
            }
            Err(reason) => State::Unavailable { reason },
        }
    }

    /// By stream the last place that was acknowledged or seen.
    fn places(&self) -> Vec<u64> {
        self.highest.iter().map(|place| place.load(Ordering::Acquire)).collect()
    }

    /// Leaves the server, which has been of no use since then, if it is time to; there is another one where several keep the journal.
    async fn consider_leaving(&mut self, generation: u64, since: Instant) {
        if self.replicas > 1 {
            let connection = self.links[0].connection();
            self.elsewhere.leave_useless(connection, generation, since).await;
        }
    }

    /// What the streams are together: as weak as the weakest of them.
    fn facts(&self, infos: &[Info], servers: &Servers, (epoch, partitions): (Uuid, u16)) -> Facts {
        let judgements: Vec<Judgement> = infos
            .iter()
            .map(|info| durability::judge(info, servers, &self.config))
            .collect();
        let durability = judgements.iter().map(|judgement| judgement.durability).min();
        let mut weaker = Vec::new();
        for (info, judgement) in infos.iter().zip(judgements) {
            let reasons_of_all = judgement.servers.iter().map(ToString::to_string);
            let own = judgement.stream.into_iter().map(|(_, reason)| match infos {
                [_] => reason,
                _ => format!("{}: {reason}", info.config.name),
            });
            for reason in reasons_of_all.chain(own) {
                if !weaker.contains(&reason) {
                    weaker.push(reason);
                }
            }
        }
        let message_bytes_max = |info: &Info| {
            let size = usize::try_from(info.config.max_message_size).ok();
            size.filter(|size| *size > 0).unwrap_or(MESSAGE_BYTES_MAX)
        };
        Facts {
            epoch,
            partitions,
            replicas: infos.iter().map(|info| info.config.num_replicas).min().unwrap_or(0),
            durability: durability.unwrap_or(durability::Durability::Memory),
            weaker,
            atomic: infos.iter().all(|info| info.config.allow_atomic_publish),
            message_bytes_max: infos.iter().map(message_bytes_max).min().unwrap_or(MESSAGE_BYTES_MAX),
        }
    }

    /// Notes in the metrics how large the journal is, and what its servers said about themselves.
    fn note(&self, infos: &[Info], partitions: u16, servers: &Servers) {
        let metrics = &self.metrics;
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.journal_partitions.set(partitions.into());
        metrics
            .journal_bytes
            .set(whole(infos.iter().map(|info| info.state.bytes).sum()));
        for (lane, info) in self.lanes().zip(infos) {
            let (name, state) = (&info.config.name, &info.state);
            let last = metrics.journal_last_sequence.with_label_values(&[name]);
            last.set(whole(lane.sequence(state.last_sequence)));
            if state.last_sequence > 0 {
                let last = metrics.journal_last_recorded.with_label_values(&[name]);
                last.set(state.last_timestamp.unix_timestamp());
            }
        }
        for (place, answer) in servers.by_place.iter().enumerate() {
            let place = (place + 1).to_string();
            let set = |series: &IntGaugeVec, number| series.with_label_values(&[&place]).set(whole(number));
            set(&metrics.nats_answers, answer.is_some().into());
            let Some(server) = answer.and_then(|known| servers.known.get(known)) else {
                continue;
            };
            set(&metrics.nats_storage, server.jetstream.stats.storage);
            set(&metrics.nats_storage_limit, server.jetstream.config.max_storage);
            set(&metrics.nats_memory, server.mem);
            set(&metrics.nats_connections, server.connections);
            set(&metrics.nats_slow_consumers, server.slow_consumers);
        }
    }

    /// Asks for the streams; creates them if there are none and this process has not seen them before.
    async fn find(&self) -> Result<Vec<Info>, Unseen> {
        // The first one before all others: where it is there, they have been there as well.
        let first = self.ask(&self.first().name()).await?;
        let others = self.lanes().skip(1).map(async |lane| self.ask(&lane.name()).await);
        let mut found = vec![first];
        found.extend(futures::future::try_join_all(others).await?);
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        for (lane, info) in self.lanes().zip(&found) {
            if let Some(info) = info {
                identity(info, lane)?;
            }
        }
        let missing: Vec<String> = self
            .lanes()
            .zip(&found)
            .filter(|(_, info)| info.is_none())
            .map(|(lane, _)| lane.name())
            .collect();
        let missing = missing.join(", ");
        let was_open = self.opened.is_some();
        if was_open && found.iter().all(Option::is_none) {
            let reason = format!("the journal {missing} is gone: restore it, or restart to begin a new one");
            return Err(reason.into());
        }
        let there = || found.iter().flatten();
        let has_events = there().any(|info| info.state.last_sequence > 0);
        // One that has no events may have been there for long, beside one that had some.
        let is_old = there().any(|info| info.created + CREATION_MAX < OffsetDateTime::now_utc());
        if was_open || found[0].is_some() || has_events || is_old {
            let mut reason = format!("the journal has lost {missing}: restore it; nothing is recorded until then");
            if !has_events {
                reason.push_str(
                    "; if its creation was cut off, remove its other streams, which have no events, and restart",
                );
            }
            return Err(reason.into());
        }
        if let Some(other) = self.another().await {
            return Err(another_spread(other, self.config.streams).into());
        }
        self.create().await
    }

    fn first(&self) -> Lane {
        self.config.streams.of_partition(0)
    }

    /// What is said of a stream; nothing where there is none.
    async fn ask(&self, name: &str) -> Result<Option<Info>, Unseen> {
        match self.link().context().get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) => {
                Ok(None)
            }
            Err(error) => Err(no_answer(name, &error)),
        }
    }

    /// Whether there is a journal in another number of streams. One that cannot be asked for is found when it is in the way.
    async fn another(&self) -> Option<Spread> {
        let other = self.config.streams.otherwise();
        let info = self.ask(&other.name()).await.ok().flatten()?;
        spread_in(&info.config)
    }

    /// Creates every stream that is not there, the first one last.
    async fn create(&self) -> Result<Vec<Info>, Unseen> {
        let Config {
            replicas,
            partitions,
            streams,
            ..
        } = self.config;
        if streams.streams() > partitions {
            let reason = format!(
                "a journal of {partitions} partitions cannot be spread over {streams} streams: EZOUT_JOURNAL_STREAMS is at most EZOUT_PARTITIONS"
            );
            return Err(reason.into());
        }
        let mut decided = (Uuid::new_v4(), partitions);
        let mut created = Vec::new();
        for lane in self.lanes().rev() {
            let name = lane.name();
            let stream = self.link().context().create_stream(new_stream(replicas, lane, decided));
            let info = match stream.await {
                Ok(stream) => stream.cached_info().clone(),
                // Another process was faster; its journal is as good.
                Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
                {
                    let info = self.links[lane.index()].stream().get_info().await;
                    info.map_err(|error| no_answer(&name, &error))?
                }
                Err(error) => {
                    let reason = format!("the stream {name} cannot be created: {error}");
                    return Err(reason.into());
                }
            };
            if created.is_empty() && lane != Lane::ONLY {
                decided = identity(&info, lane)?;
            }
            created.push(info);
        }
        created.reverse();
        Ok(created)
    }

    /// Reads whose journal it is, and that it is still the one that was opened.
    fn identify(&self, infos: &[Info]) -> Result<(Uuid, u16), String> {
        let mut of_all = None;
        for (lane, info) in self.lanes().zip(infos) {
            let (name, one) = (lane.name(), identity(info, lane)?);
            if self.opened.is_some_and(|opened| opened != one.0) {
                return Err(format!(
                    "the journal {name} was replaced by another one (epoch {}): restore the old one, or restart to go on with the new one",
                    one.0
                ));
            }
            let first = *of_all.get_or_insert(one);
            if first != one {
                return Err(format!(
                    "the stream {name} is of another journal (epoch {}, {} partitions) than {} (epoch {}, {} partitions): restore the one that is wrong",
                    one.0,
                    one.1,
                    self.first().name(),
                    first.0,
                    first.1
                ));
            }
        }
        of_all.ok_or_else(|| "a journal has a stream".to_owned())
    }

    /// Compares the journal's end with what has been in it. A damaged file can make it end earlier, and new
    /// events would then take the sequences of those that are lost.
    fn complete(&self, infos: &[Info], highest: &[u64]) -> Result<(), String> {
        for (lane, (info, highest)) in self.lanes().zip(infos.iter().zip(highest)) {
            let last = info.state.last_sequence;
            if last < *highest {
                return Err(format!(
                    "the journal {} ends at event {} but had event {}: acknowledged events are lost; restore it, or restart to go on without them",
                    lane.name(),
                    lane.sequence(last),
                    lane.sequence(*highest)
                ));
            }
        }
        Ok(())
    }
}

/// Why a stream was not seen.
#[derive(Debug)]
struct Unseen {
    reason: String,
    /// Whether the server did not answer for it.
    silent: bool,
}

impl From<String> for Unseen {
    fn from(reason: String) -> Self {
        Self { reason, silent: false }
    }
}

/// `JetStream` is there but says nothing, or something unexpected.
fn no_answer(stream: &str, error: &dyn std::error::Error) -> Unseen {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Unseen {
        reason: format!("JetStream does not answer for the stream {stream}: {error}{cause}"),
        silent: true,
    }
}

/// Why there is no journal while there is no connection.
fn lost(status: Status) -> String {
    let text = if status.generation == 0 {
        "NATS cannot be reached yet"
    } else {
        "the connection to NATS is lost"
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_that_operators_read_are_valid() {
        let journal: StreamConfig = serde_json::from_str(CONFIG_JSON).unwrap();
        assert_eq!(journal.name, Lane::ONLY.name());
        assert!(journal.deny_delete && journal.deny_purge && journal.allow_atomic_publish && journal.allow_direct);
        assert_eq!(journal.duplicate_window, Duration::from_mins(5));
    }
}
