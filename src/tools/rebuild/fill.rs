//! Filling one partition of a new version: large steps, whole documents, nothing published.
//!
//! It goes only as far as the version that is read has gone, whose updates are published up to there.
//! So what takes over from it never skips an update. Each write is guarded like the projector's, so two
//! that fill the same version only slow each other down. A new version is filled under a fence below
//! every projector's; one that was active before, and is brought up to date, under the highest that was given out.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::ProgressBar;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::core::basket::Basket;
use crate::core::event::ActionIdMeaning;
use crate::core::failpoint;
use crate::core::id::BasketId;
use crate::core::retry::Backoff;
use crate::journal::{Journal, RawEvent, Reader};
use crate::refold::{self, Decoded};
use crate::views::{Building, Checkpoint, Saved, Stored, Views, Write};

/// Partitions whose steps are done at the same time; reading ahead goes on beside them.
pub(super) const SIDE_BY_SIDE: usize = 4;
/// Events of a step. A visit is short, so most baskets are written once, and whole.
const STEP_EVENTS: usize = 4_000;
/// Most actions of the baskets that a partition keeps in memory between two steps.
const CACHED_ACTIONS_MAX: usize = 20_000;
/// How often the version that is read is asked how far it is.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// How long a store may be away before the rebuild ends; it can be begun again.
const PATIENCE: Duration = Duration::from_mins(1);

/// How far all partitions are.
pub(super) struct Progress {
    pub(super) bar: ProgressBar,
    folded: AtomicU64,
    caught_up: Vec<AtomicBool>,
    changed: Notify,
}

impl Progress {
    pub(super) fn new(partitions: u16, bar: ProgressBar) -> Self {
        Self {
            bar,
            folded: AtomicU64::new(0),
            caught_up: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
            changed: Notify::new(),
        }
    }

    /// Events that were folded by this process.
    pub(super) fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// Waits until every partition has been as far as the version that is read.
    pub(super) async fn caught_up(&self) {
        loop {
            let changed = self.changed.notified();
            if self.caught_up.iter().all(|one| one.load(Ordering::Relaxed)) {
                return;
            }
            // A change between the look and the wait is only late by a moment.
            let _ = tokio::time::timeout(FOLLOW_INTERVAL, changed).await;
        }
    }
}

struct Held {
    basket: Basket,
    stored: Option<Stored>,
}

/// Fills one partition.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Fill {
    journal: Journal,
    live: Views,
    new: Views,
    partition: u16,
    building: Building,
    meaning: ActionIdMeaning,
    progress: Arc<Progress>,
    permits: Arc<Semaphore>,
    baskets: HashMap<BasketId, Held>,
    /// Digests of the baskets that this process wrote, where it began the version: others need not be looked for.
    written: Option<HashSet<u64>>,
    counted: bool,
    /// There is no checkpoint yet.
    begins: bool,
    /// It has gone on since the last failure.
    recovered: bool,
    fence: i64,
    was_active: bool,
}

impl Fill {
    pub(super) fn new(
        journal: Journal,
        (live, new): (Views, Views),
        partition: u16,
        building: Building,
        meaning: ActionIdMeaning,
        (progress, permits): (Arc<Progress>, Arc<Semaphore>),
    ) -> Self {
        Self {
            journal,
            live,
            new,
            partition,
            building,
            meaning,
            progress,
            permits,
            baskets: HashMap::new(),
            written: None,
            counted: false,
            begins: false,
            recovered: false,
            fence: 0,
            was_active: false,
        }
    }

    /// Fills a version that was active before.
    pub(super) fn that_was_active(self) -> Self {
        Self {
            was_active: true,
            ..self
        }
    }

    /// Fills and then follows until `stop`.
    ///
    /// # Errors
    /// Where a store stays away, or where the journal is not the one that the version is filled from.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut failing: Option<Instant> = None;
        loop {
            let error = match self.follow(&stop).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.baskets.clear();
            if std::mem::take(&mut self.recovered) {
                failing = None;
                backoff.reset();
            }
            if failing.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(error);
            }
            tracing::debug!(
                partition = self.partition,
                "filling partition {} waits: {error:#}",
                self.partition
            );
            if stop
                .run_until_cancelled(tokio::time::sleep(backoff.next_pause()))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }

    /// Goes on from the checkpoint until `stop`.
    async fn follow(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let stored = self.new.load_checkpoint(self.partition).await?;
        let mut at = stored
            .as_ref()
            .map_or(0, |stored| u64::try_from(stored.sequence).unwrap_or(0));
        self.begins = stored.is_none();
        if self.was_active {
            self.fence = self.new.highest_fence(self.partition).await?;
        }
        // An insert that failed halfway is not known to be none.
        self.written = (stored.is_none() && !self.counted).then(HashSet::new);
        let mut dropped = self.dropped().await?;
        let mut limit = self.live.checkpoint(self.partition).await?.unwrap_or(0);
        self.verify(limit).await?;
        let mut reader = self.journal.read(self.partition, at).await?;
        let mut opens = reader.opens();
        if !std::mem::replace(&mut self.counted, true) {
            self.progress.bar.inc_length(reader.pending_at_open());
        }
        let mut ahead: VecDeque<RawEvent> = VecDeque::new();
        loop {
            let batch = match stop
                .run_until_cancelled(gather(&mut reader, &mut ahead, at, limit))
                .await
            {
                Some(batch) => batch?,
                None => return Ok(()),
            };
            if reader.opens() != opens {
                // What it goes on with may be another journal.
                self.verify(limit).await?;
                opens = reader.opens();
            }
            if let Some(last) = batch.last().map(|last| last.sequence) {
                let permits = Arc::clone(&self.permits);
                let _permit = permits.acquire().await?;
                self.step(&batch, &mut dropped).await?;
                at = last;
                let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                self.progress.folded.fetch_add(count, Ordering::Relaxed);
                self.progress.bar.inc(count);
            }
            limit = self.live.checkpoint(self.partition).await?.unwrap_or(0);
            self.recovered = true;
            if at >= limit || ahead.front().is_some_and(|event| event.sequence > limit) {
                if !self.progress.caught_up[usize::from(self.partition)].swap(true, Ordering::Relaxed) {
                    self.progress.changed.notify_one();
                }
                if stop
                    .run_until_cancelled(tokio::time::sleep(FOLLOW_INTERVAL))
                    .await
                    .is_none()
                {
                    return Ok(());
                }
                limit = self.live.checkpoint(self.partition).await?.unwrap_or(0);
            }
        }
    }

    async fn verify(&self, limit: u64) -> anyhow::Result<()> {
        let tail = self.journal.tail(self.partition).await?;
        if tail.epoch.to_string() != self.building.epoch {
            bail!(
                "the journal is another one (epoch {}) than {} is filled from",
                tail.epoch,
                self.building.version
            );
        }
        if tail.last_sequence < limit {
            bail!(
                "the journal ends at {} and the baskets are folded up to {limit}: events are lost",
                tail.last_sequence
            );
        }
        Ok(())
    }

    /// Events that a person has decided never count.
    async fn dropped(&self) -> anyhow::Result<HashSet<u64>> {
        let decided = self.live.list_parked(true, i64::MAX).await?;
        let dropped = decided
            .iter()
            .filter(|event| event.epoch == self.building.epoch && event.partition == self.partition)
            .filter(|event| event.state.never_counts());
        Ok(dropped.map(|event| event.sequence).collect())
    }

    async fn step(&mut self, events: &[RawEvent], dropped: &mut HashSet<u64>) -> anyhow::Result<()> {
        let Some(last) = events.last() else { return Ok(()) };
        let mut decoded: Vec<Decoded> = events.iter().map(Decoded::of).collect();
        let unreadable = decoded.iter().filter(|event| event.event.is_err());
        let unreadable: Vec<u64> = unreadable.map(|event| event.sequence).collect();
        if !unreadable.is_empty() {
            dropped.extend(refold::dropped(&self.live, &self.building.epoch, unreadable).await?);
        }
        decoded.retain(|event| !dropped.contains(&event.sequence));
        self.load(&decoded).await?;
        let mut touched = BTreeSet::new();
        for event in decoded {
            // What names no basket is parked by the projector and has no other effect.
            let Some(id) = event.basket else { continue };
            let held = self.baskets.get_mut(&id).expect("every basket of the step was loaded");
            if event.put_into(&mut held.basket) {
                touched.insert(id);
            }
        }
        let writes: Vec<Write<'_>> = touched
            .iter()
            .map(|id| &self.baskets[id])
            .map(|held| Write {
                basket: &held.basket,
                stored: held.stored.as_ref(),
            })
            .collect();
        let saved = self.new.fill(&writes, &self.building.epoch, self.fence).await?;
        failpoint::hit("after_fill");
        if saved == Saved::Stale {
            self.written = None;
            bail!("a basket was written by somebody else");
        }
        for id in &touched {
            let held = self.baskets.get_mut(id).expect("it was just written");
            held.basket.saved();
            held.stored = Some(Stored {
                epoch: self.building.epoch.clone(),
                sequence: i64::try_from(held.basket.sequence()).unwrap_or(i64::MAX),
                version: i64::try_from(held.basket.version()).unwrap_or(i64::MAX),
            });
            if let Some(written) = &mut self.written {
                written.insert(digest(*id));
            }
        }
        let checkpoint = Checkpoint {
            partition: self.partition,
            epoch: self.building.epoch.clone(),
            recorded_ns: last.recorded_ns(),
            sequence: i64::try_from(last.sequence).unwrap_or(i64::MAX),
            fence: self.fence,
            action_id: self.building.action_id.clone(),
        };
        if !self.new.move_checkpoint(&checkpoint, self.begins).await? {
            bail!("a projector has taken over {}", self.building.version);
        }
        self.begins = false;
        let cached: usize = self.baskets.values().map(|held| held.basket.version() + 1).sum();
        if cached > CACHED_ACTIONS_MAX {
            self.baskets.retain(|id, _| touched.contains(id));
            let kept: usize = self.baskets.values().map(|held| held.basket.version() + 1).sum();
            if kept > CACHED_ACTIONS_MAX {
                self.baskets.clear();
            }
        }
        Ok(())
    }

    /// Puts the baskets of these events that are not in memory there.
    async fn load(&mut self, events: &[Decoded]) -> anyhow::Result<()> {
        let unknown: BTreeSet<BasketId> = events
            .iter()
            .filter_map(|event| event.basket)
            .filter(|id| !self.baskets.contains_key(id))
            .collect();
        let stored: Vec<BasketId> = unknown
            .iter()
            .copied()
            .filter(|id| {
                self.written
                    .as_ref()
                    .is_none_or(|written| written.contains(&digest(*id)))
            })
            .collect();
        if !stored.is_empty() {
            for loaded in self.new.load(&stored, self.meaning).await? {
                let (basket, stored) = match loaded.basket {
                    Ok(found) => found,
                    Err(reason) => bail!(
                        "basket {} in {} cannot be read: {reason}",
                        loaded.id,
                        self.building.version
                    ),
                };
                let stored = Some(stored);
                self.baskets.insert(loaded.id, Held { basket, stored });
            }
        }
        for id in unknown {
            self.baskets.entry(id).or_insert_with(|| Held {
                basket: Basket::new(id, self.meaning),
                stored: None,
            });
        }
        Ok(())
    }
}

/// Takes the events of a step: as many as there are up to the limit, or as a step may have.
async fn gather(
    reader: &mut Reader,
    ahead: &mut VecDeque<RawEvent>,
    at: u64,
    limit: u64,
) -> anyhow::Result<Vec<RawEvent>> {
    let mut batch: Vec<RawEvent> = Vec::new();
    loop {
        while batch.len() < STEP_EVENTS
            && let Some(event) = ahead.pop_front_if(|event| event.sequence <= limit)
        {
            batch.push(event);
        }
        let read_to = batch.last().map_or(at, |last| last.sequence);
        if batch.len() >= STEP_EVENTS || read_to >= limit || !ahead.is_empty() {
            return Ok(batch);
        }
        ahead.extend(reader.next(STEP_EVENTS).await?);
    }
}

fn digest(id: BasketId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
