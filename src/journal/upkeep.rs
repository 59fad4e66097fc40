//! Opens the journal, creates it where there is none, and watches that it stays what it should be.
//!
//! A journal is created at the start of a process only. If it vanishes under a running process, all
//! checkpoints and receipts speak of a stream that is gone, and what to do is for a person to decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, Info};
use prometheus::IntGaugeVec;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::durability::{self, Servers};
use super::elsewhere::{Elsewhere, without_leader_since};
use super::{Config, Facts, STREAM, State};
use crate::core::retry::Backoff;
use crate::metrics::Metrics;
use crate::nats::{Link, Status};

/// Time between two looks at an open journal.
const RECHECK: Duration = Duration::from_secs(15);
/// The same where several servers keep it: whoever only reads notices by this alone that its server is cut off.
const RECHECK_OF_SEVERAL: Duration = Duration::from_secs(5);
/// Metadata key of the epoch.
const EPOCH: &str = "ezout_epoch";
/// Metadata key of the number of partitions.
const PARTITIONS: &str = "ezout_partitions";
/// What the server puts up with where a stream sets no bound, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The stream's configuration, as operators read it too.
const CONFIG_JSON: &str = include_str!("../../nats/checkout.json");

/// The epoch that is recorded in a stream.
pub(super) fn epoch_of(config: &StreamConfig) -> Option<Uuid> {
    config.metadata.get(EPOCH)?.parse().ok()
}

/// The settings that the stream of a journal should have, whoever made it, on this number of servers.
pub fn settings(replicas: usize) -> StreamConfig {
    let mut stream: StreamConfig =
        serde_json::from_str(CONFIG_JSON).expect("nats/checkout.json is a stream configuration");
    stream.num_replicas = replicas;
    stream
}

/// The configuration of a new journal.
fn new_stream(config: &Config) -> StreamConfig {
    let mut stream = settings(config.replicas);
    stream.metadata.insert(EPOCH.to_owned(), Uuid::new_v4().to_string());
    stream
        .metadata
        .insert(PARTITIONS.to_owned(), config.partitions.to_string());
    stream
}

/// Reads which journal a stream is: its epoch and its partitions.
///
/// # Errors
/// Why it is none, and what to do.
pub fn identity(info: &Info) -> Result<(Uuid, u16), String> {
    let stream = &info.config;
    let epoch = epoch_of(stream).ok_or_else(|| {
        format!("the stream {STREAM} has no {EPOCH} in its metadata, so it is no journal of ours: rename or remove it, or add a UUID as {EPOCH} and its number of partitions as {PARTITIONS}")
    })?;
    let partitions = stream
        .metadata
        .get(PARTITIONS)
        .and_then(|text| text.parse().ok())
        .filter(|partitions| *partitions > 0);
    let partitions =
        partitions.ok_or_else(|| format!("the stream {STREAM} has no usable {PARTITIONS} in its metadata"))?;
    let expected = settings(1).subjects;
    if stream.subjects != expected {
        return Err(format!(
            "the stream {STREAM} has the subjects {:?}, not {expected:?}",
            stream.subjects
        ));
    }
    Ok((epoch, partitions))
}

/// The task that knows what the journal is.
#[derive(Debug)]
pub(super) struct Upkeep {
    config: Config,
    link: Link,
    http: reqwest::Client,
    metrics: Arc<Metrics>,
    state: watch::Sender<State>,
    recheck: Arc<Notify>,
    /// The journal that this process has opened; it must stay this one.
    opened: Option<Uuid>,
    /// Servers that keep it, as far as is known.
    replicas: usize,
    elsewhere: Elsewhere,
    /// The highest sequence that was acknowledged or seen; the journal must never end before it.
    highest: Arc<AtomicU64>,
}

impl Upkeep {
    pub(super) fn new(config: Config, link: Link, metrics: Arc<Metrics>) -> (Self, watch::Receiver<State>) {
        let (state, receiver) = watch::channel(State::Unavailable {
            reason: "connecting to NATS".to_owned(),
        });
        let upkeep = Self {
            replicas: config.replicas,
            config,
            link,
            http: durability::monitor_client(),
            metrics,
            state,
            recheck: Arc::default(),
            opened: None,
            elsewhere: Elsewhere::new(),
            highest: Arc::default(),
        };
        (upkeep, receiver)
    }

    /// Rings for a look at the journal at once.
    pub(super) fn recheck(&self) -> Arc<Notify> {
        Arc::clone(&self.recheck)
    }

    /// Where to note the sequences that were acknowledged.
    pub(super) fn highest(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.highest)
    }

    /// Watches until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut status = self.link.status();
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

    /// Looks at the stream and its servers once, by this connection, and leaves its server where that is of no use.
    async fn look(&mut self, generation: u64) -> State {
        let asked = Instant::now();
        // Read before the stream is asked: what is acknowledged after the stream has answered is no loss.
        let highest = self.highest.load(Ordering::Acquire);
        let (info, servers) = tokio::join!(self.find(), durability::ask(&self.http, &self.config.monitor_urls));
        let info = match info {
            Ok(info) => info,
            Err(Unseen { reason, silent }) => {
                // Whoever acknowledges events is only slow to tell of the stream.
                if silent && highest == self.highest.load(Ordering::Acquire) {
                    self.consider_leaving(generation, asked).await;
                }
                return State::Unavailable { reason };
            }
        };
        self.replicas = self.replicas.max(info.config.num_replicas);
        let since = info
            .cluster
            .as_ref()
            .and_then(|cluster| without_leader_since(cluster, asked));
        if let Some(since) = since {
            self.consider_leaving(generation, since).await;
            let reason = format!("no server leads the stream {STREAM} that most of its servers follow");
            return State::Unavailable { reason };
        }
        self.elsewhere.useful();
        match self
            .identify(&info)
            .and_then(|identity| complete(&info, highest).map(|()| identity))
        {
            Ok((epoch, partitions)) => {
                self.opened = Some(epoch);
                self.note(&info, partitions, &servers);
                self.highest.fetch_max(info.state.last_sequence, Ordering::AcqRel);
                let judgement = durability::judge(&info, &servers, &self.config);
                State::Open(Facts {
                    epoch,
                    partitions,
                    replicas: info.config.num_replicas,
                    durability: judgement.durability,
                    weaker: judgement.weaker(),
                    atomic: info.config.allow_atomic_publish,
                    message_bytes_max: usize::try_from(info.config.max_message_size)
                        .ok()
                        .filter(|size| *size > 0)
                        .unwrap_or(MESSAGE_BYTES_MAX),
                })
            }
            Err(reason) => State::Unavailable { reason },
        }
    }

    /// Leaves the server, which has been of no use since then, if it is time to; there is another one where several keep the journal.
    async fn consider_leaving(&mut self, generation: u64, since: Instant) {
        if self.replicas > 1 && self.elsewhere.useless(Instant::now(), generation, since) {
            tracing::warn!("this NATS server has not been able to serve the journal, so another one is tried");
            self.link.leave().await;
        }
    }

    /// Notes in the metrics how large the journal is, and what its servers said about themselves.
    fn note(&self, info: &Info, partitions: u16, servers: &Servers) {
        let metrics = &self.metrics;
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let state = &info.state;
        metrics.journal_partitions.set(partitions.into());
        metrics.journal_last_sequence.set(whole(state.last_sequence));
        metrics.journal_bytes.set(whole(state.bytes));
        if state.last_sequence > 0 {
            metrics.journal_last_recorded.set(state.last_timestamp.unix_timestamp());
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

    /// Asks for the stream; creates it if there is none and this process has not seen it before.
    async fn find(&self) -> Result<Info, Unseen> {
        match self.link.context().get_stream(STREAM).await {
            Ok(stream) => return Ok(stream.cached_info().clone()),
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
                {}
            Err(error) => return Err(no_answer(&error)),
        }
        if self.opened.is_some() {
            return Err(Unseen {
                reason: format!("the journal {STREAM} is gone: restore it, or restart to begin a new one"),
                silent: false,
            });
        }
        match self.link.context().create_stream(new_stream(&self.config)).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            // Another process was faster; its journal is as good.
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST) => {
                self.link.stream().get_info().await.map_err(|error| no_answer(&error))
            }
            Err(error) => Err(Unseen {
                reason: format!("the stream {STREAM} cannot be created: {error}"),
                silent: false,
            }),
        }
    }

    /// Reads whose journal it is, and that it is still the one that was opened.
    fn identify(&self, info: &Info) -> Result<(Uuid, u16), String> {
        let (epoch, partitions) = identity(info)?;
        if self.opened.is_some_and(|opened| opened != epoch) {
            return Err(format!(
                "the journal {STREAM} was replaced by another one (epoch {epoch}): restore the old one, or restart to go on with the new one"
            ));
        }
        Ok((epoch, partitions))
    }
}

/// Compares the journal's end with what has been in it. A damaged file can make it end earlier, and new
/// events would then take the sequences of those that are lost.
fn complete(info: &Info, highest: u64) -> Result<(), String> {
    let last = info.state.last_sequence;
    if last >= highest {
        return Ok(());
    }
    Err(format!(
        "the journal {STREAM} ends at event {last} but had event {highest}: acknowledged events are lost; restore it, or restart to go on without them"
    ))
}

/// Why the stream was not seen.
#[derive(Debug)]
struct Unseen {
    reason: String,
    /// Whether the server did not answer for it.
    silent: bool,
}

/// `JetStream` is there but says nothing, or something unexpected.
fn no_answer(error: &dyn std::error::Error) -> Unseen {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Unseen {
        reason: format!("JetStream does not answer for the stream {STREAM}: {error}{cause}"),
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
        assert_eq!(journal.name, STREAM);
        assert!(journal.deny_delete && journal.deny_purge && journal.allow_atomic_publish && journal.allow_direct);
        assert_eq!(journal.duplicate_window, Duration::from_mins(5));
    }
}
