//! Projecting: the journal's events into baskets and updates, by those who hold the leases.
//!
//! Processes share the partitions evenly by leases in MongoDB. Whoever holds one reads its partition
//! from its checkpoint in order, a step at a time; what a step does is in `step.rs`. A process that
//! dies loses its leases within `LEASE_TTL`, and one that only slept finds each of its writes refused.

mod abandon;
mod mend;
mod parked;
mod partition;
mod scrub;
mod step;
mod verify;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::core::duration::OrNever;
use crate::core::event::ActionIdMeaning;
use crate::core::id::ShopId;
use crate::journal::{self, Facts, Journal};
use crate::metrics::Metrics;
use crate::trace::Tracer;
use crate::updates::Updates;
use crate::views::{self, Lease, LeaseId, ViewError, Views};
use partition::Partition;

pub use verify::{VerifyError, verify};

/// How long a lease outlives the last sign of life of its owner.
pub const LEASE_TTL: Duration = Duration::from_secs(5);
/// How often a process gives a sign of life and looks whether the partitions are shared evenly.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long partitions that are handed over may take to end their steps.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);

/// How often the parked events are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// As far as they are counted; more is as bad.
const COUNTED_MAX: u64 = 100_000;

/// How this process projects.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Baskets a minute, of all projectors together, that are folded anew from the journal and compared with their view; 0 for none.
    #[arg(long, env = "EZOUT_SCRUB_PER_MINUTE", default_value_t = 60)]
    pub scrub_per_minute: u32,

    /// How long a shopper may do nothing until the basket counts as abandoned, by the time of the journal; it is open again
    /// when the shopper comes back. `never` for not at all.
    #[arg(long, env = "EZOUT_ABANDON_AFTER", default_value = "30m")]
    pub abandon_after: OrNever,

    /// Shops whose business is in the metrics, with the shop's id as label: ids separated by commas, at most 50. Without it: none, so that metrics name nobody.
    #[arg(long, env = "EZOUT_SHOP_FIGURES", value_delimiter = ',', value_parser = shop)]
    pub shop_figures: Vec<ShopId>,
}

fn shop(text: &str) -> Result<ShopId, String> {
    ShopId::parse(text.trim()).map_err(|_| format!("{text:?} is no id of a shop, which is a UUID"))
}

/// What a projector needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where events come from.
    pub journal: Journal,
    /// Where baskets go.
    pub views: Views,
    /// Where updates go.
    pub updates: Updates,
    /// The process's series.
    pub metrics: Arc<Metrics>,
    /// Where traces go.
    pub tracer: Tracer,
    /// What `action_id` means.
    pub action_id: ActionIdMeaning,
    /// Bytes of the baskets in memory, about, which all partitions of the process bound together.
    pub cached_bytes: Arc<AtomicUsize>,
}

/// How projecting goes, for the readiness of the process and for who presents what is projected.
#[derive(Debug, Clone, Default)]
pub struct Status {
    halted: Arc<Mutex<BTreeMap<u16, String>>>,
    owns: Arc<watch::Sender<BTreeSet<u16>>>,
}

impl Status {
    /// Why partitions owned here have halted, by partition; empty when all is well.
    pub fn halted(&self) -> BTreeMap<u16, String> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The partitions that this process projects, and every change of them.
    pub fn owned(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.owns.subscribe()
    }

    fn set(&self, partition: u16, halted: Option<String>) {
        let mut all = self.halted.lock().unwrap_or_else(PoisonError::into_inner);
        match halted {
            Some(reason) => all.insert(partition, reason),
            None => all.remove(&partition),
        };
    }
}

/// A partition that is projected by a task of this process.
struct Owned {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Projects as many partitions as are this process's share, until `stop`.
///
/// Waits for the journal and for MongoDB, and goes on by itself after any failure of them. When it
/// is told to stop it ends its steps and gives its leases back, so that others take over at once.
pub async fn run(config: Config, parts: Parts, status: Status, stop: CancellationToken) {
    let me = LeaseId::unique();
    let Some(facts) = stop.run_until_cancelled(ready(&parts)).await else {
        return;
    };
    // A subscriber may ask for the stream before there is a first update; else the first update makes it.
    if let Err(error) = parts.updates.prepare().await {
        tracing::warn!("the stream of updates is not there yet: {error}");
    }
    let owned = status.owned();
    let abandoning = abandon::run(
        parts.clone(),
        facts.clone(),
        owned.clone(),
        config.abandon_after.0,
        stop.clone(),
    );
    let scrubbing = scrub::run(
        parts.clone(),
        facts.clone(),
        me.clone(),
        owned,
        config.scrub_per_minute,
        stop.clone(),
    );
    let abandoning = tokio::spawn(abandoning.instrument(tracing::error_span!("abandon")));
    let scrubbing = tokio::spawn(scrubbing.instrument(tracing::error_span!("scrub")));
    let mut keeper = Keeper {
        me,
        parts,
        status,
        facts,
        owned: HashMap::new(),
        renewed: Instant::now(),
        failing: false,
        halted: BTreeMap::new(),
    };
    let counting = tokio::spawn(count_parked(keeper.parts.clone(), stop.clone()));
    let mut interval = tokio::time::interval(KEEP_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        keeper.tick().await;
    }
    keeper.end().await;
    let _ = tokio::join!(counting, abandoning, scrubbing);
}

/// Counts the parked events now and then. It may fail or take long, and then only the gauge is old.
async fn count_parked(parts: Parts, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(COUNT_INTERVAL))
        .await
        .is_some()
    {
        if let Some(Ok(parked)) = stop.run_until_cancelled(parts.views.count_parked(COUNTED_MAX)).await {
            parts
                .metrics
                .parked_events
                .set(i64::try_from(parked).unwrap_or(i64::MAX));
        }
    }
}

/// Waits until the journal and the views are there.
async fn ready(parts: &Parts) -> Facts {
    let mut views = parts.views.state();
    let mut journal = parts.journal.state();
    loop {
        let open = match &*journal.borrow_and_update() {
            journal::State::Open(facts) => Some(facts.clone()),
            journal::State::Unavailable { .. } => None,
        };
        let migrated = *views.borrow_and_update() == views::State::Open;
        if let (Some(facts), true) = (open, migrated) {
            return facts;
        }
        let changed = tokio::select! {
            changed = journal.changed() => changed,
            changed = views.changed() => changed,
        };
        if changed.is_err() {
            // Both end only with the process.
            std::future::pending::<()>().await;
        }
    }
}

struct Keeper {
    me: LeaseId,
    parts: Parts,
    status: Status,
    facts: Facts,
    owned: HashMap<u16, Owned>,
    renewed: Instant,
    failing: bool,
    /// Why partitions have halted, as far as it is noted for others to see.
    halted: BTreeMap<u16, String>,
}

impl Keeper {
    async fn tick(&mut self) {
        let started = Instant::now();
        match self.keep().await {
            Ok(()) => {
                self.renewed = started;
                if std::mem::take(&mut self.failing) {
                    tracing::info!("leases are kept again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("leases cannot be kept: {}", crate::core::error_chain(&error));
                }
                if self.renewed.elapsed() > LEASE_TTL {
                    // Others may own them by now.
                    let all: Vec<u16> = self.owned.keys().copied().collect();
                    for partition in all {
                        self.lose(partition);
                    }
                }
            }
        }
        self.status.owns.send_replace(self.owned.keys().copied().collect());
        self.parts
            .metrics
            .leases_held
            .set(i64::try_from(self.owned.len()).unwrap_or(i64::MAX));
    }

    async fn keep(&mut self) -> Result<(), ViewError> {
        let views = self.parts.views.clone();
        // A pointer that moved is followed by all partitions of the process at once.
        views.refresh_active().await?;
        let members = views.join(&self.me, LEASE_TTL).await?;
        let share = share(usize::from(self.facts.partitions), &members, &self.me);
        let held = views.renew(&self.me, LEASE_TTL).await?;

        let lost: Vec<u16> = self
            .owned
            .keys()
            .copied()
            .filter(|owned| held.iter().all(|lease| lease.partition != *owned))
            .collect();
        for partition in lost {
            self.lose(partition);
        }
        self.owned.retain(|_, owned| !owned.task.is_finished());
        for lease in &held {
            self.own(*lease);
        }
        let surplus: Vec<u16> = self.owned.keys().copied().skip(share).collect();
        self.hand_over(&surplus).await?;
        if self.owned.len() < share {
            if held.is_empty() {
                views.prepare_leases(self.facts.partitions).await?;
            }
            let acquired = views.acquire(&self.me, LEASE_TTL, share - self.owned.len()).await?;
            if !acquired.is_empty() {
                tracing::info!(leases = ?acquired, "acquired {} partitions of {}", acquired.len(), self.facts.partitions);
            }
            for lease in acquired {
                self.parts.metrics.lease_changes.with_label_values(&["acquired"]).inc();
                self.own(lease);
            }
        }
        self.note_halted().await
    }

    /// Has everybody see which partitions do not go on.
    async fn note_halted(&mut self) -> Result<(), ViewError> {
        let now = self.status.halted();
        let known: BTreeSet<u16> = self.halted.keys().chain(now.keys()).copied().collect();
        for partition in known {
            let reason = now.get(&partition);
            if reason != self.halted.get(&partition) {
                let reason = reason.map(String::as_str);
                self.parts.views.note_halted(&self.me, partition, reason).await?;
            }
        }
        self.halted = now;
        Ok(())
    }

    fn own(&mut self, lease: Lease) {
        if self.owned.contains_key(&lease.partition) {
            return;
        }
        let stop = CancellationToken::new();
        let partition = Partition::new(
            self.parts.clone(),
            self.status.clone(),
            self.me.clone(),
            lease,
            stop.clone(),
        );
        let stage = tracing::error_span!("project", partition = lease.partition);
        let task = tokio::spawn(partition.run().instrument(stage));
        self.owned.insert(lease.partition, Owned { stop, task });
    }

    fn lose(&mut self, partition: u16) {
        if let Some(owned) = self.owned.remove(&partition) {
            owned.stop.cancel();
            self.parts.metrics.lease_changes.with_label_values(&["lost"]).inc();
            tracing::warn!(partition, "lost partition {partition}");
        }
    }

    async fn hand_over(&mut self, partitions: &[u16]) -> Result<(), ViewError> {
        let owned: Vec<Owned> = partitions
            .iter()
            .filter_map(|partition| self.owned.remove(partition))
            .collect();
        end_steps(owned).await;
        for partition in partitions {
            self.parts.views.release(&self.me, *partition).await?;
            self.parts.metrics.lease_changes.with_label_values(&["released"]).inc();
        }
        if !partitions.is_empty() {
            tracing::info!(?partitions, "released {} partitions", partitions.len());
        }
        Ok(())
    }

    async fn end(mut self) {
        self.status.owns.send_replace(BTreeSet::new());
        end_steps(self.owned.drain().map(|(_, owned)| owned).collect()).await;
        let leave = tokio::time::timeout(HANDOVER_GRACE, self.parts.views.leave(&self.me));
        if !matches!(leave.await, Ok(Ok(()))) {
            tracing::warn!(
                "leases could not be given back; they expire within {} s",
                LEASE_TTL.as_secs()
            );
        }
        self.parts.metrics.leases_held.set(0);
    }
}

/// Lets partitions end their steps. That spares the next owner from doing them again; the fence makes it safe either way.
async fn end_steps(owned: Vec<Owned>) {
    for owned in &owned {
        owned.stop.cancel();
    }
    let ends = futures::future::join_all(owned.into_iter().map(|owned| owned.task));
    let _ = tokio::time::timeout(HANDOVER_GRACE, ends).await;
}

/// How many partitions are this member's: all shares together are all partitions, and no two differ by more than one.
fn share(partitions: usize, members: &[LeaseId], me: &LeaseId) -> usize {
    let count = members.len().max(1);
    let place = members.iter().position(|member| member == me).unwrap_or(count);
    partitions / count + usize::from(place < partitions % count)
}

/// Waits for a change of the journal's state to open, and answers its facts.
async fn journal_open(state: &mut watch::Receiver<journal::State>) -> Facts {
    loop {
        if let journal::State::Open(facts) = &*state.borrow_and_update() {
            return facts.clone();
        }
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_cover_every_partition() {
        for (partitions, count) in [(16, 1), (16, 2), (16, 3), (16, 5), (16, 16), (16, 20), (1, 3)] {
            let mut members: Vec<LeaseId> = (0..count).map(|_| LeaseId::unique()).collect();
            members.sort();
            let shares: Vec<usize> = members.iter().map(|me| share(partitions, &members, me)).collect();
            assert_eq!(shares.iter().sum::<usize>(), partitions);
            assert!(
                shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1,
                "{shares:?}"
            );
        }
    }
}
