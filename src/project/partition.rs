//! One partition: read in order from the checkpoint, step by step, for as long as the lease holds.

use std::time::{Duration, Instant};

use prometheus::IntGaugeVec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::step::{Fold, StepError};
use super::verify::{VerifyError, verify};
use super::{Parts, Status, journal_open, mend, parked};
use crate::core::error_chain;
use crate::core::retry::Backoff;
use crate::journal::{RawEvent, Reader};
use crate::refold::RefoldError;
use crate::views::{Checkpoint, Handover, Lease, LeaseId, Pointer};

/// Most events of a step: enough to make round trips cheap, few enough to keep a step short.
const STEP_EVENTS_MAX: usize = 500;
/// How often parked events about which a person decided are looked for.
const DECISION_INTERVAL: Duration = Duration::from_secs(1);
/// How often the journal is compared with the checkpoint while nothing else asks for it.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);
/// How long a partition may fail before the process says that it is not ready.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How to begin anew.
const FOLD_ANEW: &str = "stop every projector, drop the collections baskets (with baskets_2 and so on), projections, checkpoints and parked_events, run `ezout migrate`, and start them to fold this journal from its beginning";

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartitionError {
    /// The journal is not the one that the views were folded from. A person decides what to do.
    #[error("{0}")]
    Halted(String),
    /// The pointer to the baskets was moved; the partition goes on with the other version.
    #[error("the pointer to the baskets was moved")]
    Moved,
    /// Another projector owns the partition by now.
    #[error("the lease was lost")]
    LeaseLost,
    /// A store did not answer; trying again is right.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// One partition and the lease to project it.
pub(super) struct Partition {
    parts: Parts,
    status: Status,
    me: LeaseId,
    lease: Lease,
    stop: CancellationToken,
    pointer: watch::Receiver<Pointer>,
}

impl Partition {
    pub(super) fn new(parts: Parts, status: Status, me: LeaseId, lease: Lease, stop: CancellationToken) -> Self {
        let pointer = parts.views.pointer();
        Self {
            parts,
            status,
            me,
            lease,
            stop,
            pointer,
        }
    }

    /// Projects until told to stop or until the lease is lost.
    pub(super) async fn run(mut self) {
        let partition = self.lease.partition;
        let mut trouble = Trouble::new();
        while let Some(outcome) = self.project(&mut trouble).await {
            let pause = match outcome {
                PartitionError::LeaseLost => break,
                PartitionError::Moved => continue,
                PartitionError::Halted(reason) => {
                    if self.status.halted().get(&partition) != Some(&reason) {
                        tracing::error!(partition, "partition {partition} has halted: {reason}");
                        self.tell(Some(reason));
                    }
                    VERIFY_INTERVAL
                }
                PartitionError::Failed(error) => {
                    self.parts.metrics.projection_retries.inc();
                    if trouble.since.is_none() {
                        tracing::warn!(partition, "projecting partition {partition} waits: {error:#}");
                    }
                    if trouble.since.get_or_insert_with(Instant::now).elapsed() > STUCK_AFTER {
                        self.tell(Some(format!(
                            "it has not advanced for {} s: {error:#}",
                            STUCK_AFTER.as_secs()
                        )));
                    }
                    trouble.backoff.next_pause()
                }
            };
            // Another version may do better at once.
            let pausing = tokio::time::timeout(pause, self.pointer.changed());
            if self.stop.run_until_cancelled(pausing).await.is_none() {
                break;
            }
        }
        self.tell(None);
        // A partition that is somebody else's has no lag here.
        let (metrics, [partition, stream]) = (&self.parts.metrics, self.labels());
        let _ = metrics.projection_lag_events.remove_label_values(&[&partition]);
        for series in [&metrics.projected_sequence, &metrics.projected_recorded] {
            let _ = series.remove_label_values(&[&partition, &stream]);
        }
    }

    /// Says why the partition does not advance, or that it does.
    fn tell(&self, reason: Option<String>) {
        self.status.set(self.lease.partition, reason);
        let halted = i64::try_from(self.status.halted().len()).unwrap_or(i64::MAX);
        self.parts.metrics.halted_partitions.set(halted);
    }

    /// What names the partition in metrics, and the stream that has it.
    fn labels(&self) -> [String; 2] {
        let partition = self.lease.partition;
        let stream = self.parts.journal.spread().of_partition(partition).name();
        [partition.to_string(), stream]
    }

    /// Notes in the metrics how far the partition is, and how many of its events wait.
    fn note(&self, checkpoint: &Checkpoint, pending: u64) {
        let (metrics, [partition, stream]) = (&self.parts.metrics, self.labels());
        let lag = metrics.projection_lag_events.with_label_values(&[&partition]);
        lag.set(i64::try_from(pending).unwrap_or(i64::MAX));
        let set = |series: &IntGaugeVec, number| series.with_label_values(&[&partition, &stream]).set(number);
        set(&metrics.projected_sequence, checkpoint.sequence);
        set(&metrics.projected_recorded, checkpoint.recorded_ns / 1_000_000_000);
    }

    /// Projects from the checkpoint on. Answers `None` when told to stop.
    async fn project(&mut self, trouble: &mut Trouble) -> Option<PartitionError> {
        let stop = self.stop.clone();
        let mut opened = match stop.run_until_cancelled(Box::pin(self.open())).await? {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        let mut decisions = tokio::time::interval(DECISION_INTERVAL);
        let mut verify = tokio::time::interval(VERIFY_INTERVAL);
        verify.reset();
        decisions.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                Ok(()) = self.pointer.changed() => Err(PartitionError::Moved),
                _ = verify.tick() => self.verify(&opened.checkpoint).await,
                _ = decisions.tick() => match confirm(&mut opened).await {
                    Ok(()) => self.decided(&mut opened).await,
                    Err(error) => Err(error),
                },
                events = opened.reader.next(STEP_EVENTS_MAX) => match events {
                    Ok(events) => self.advance(&mut opened, &events).await,
                    Err(error) => Err(PartitionError::Failed(error.into())),
                },
            };
            match result {
                Ok(()) if opened.advanced => {
                    opened.advanced = false;
                    if trouble.is_over() {
                        tracing::info!("projecting partition {} goes on", self.lease.partition);
                    }
                    self.tell(None);
                }
                Ok(()) => {}
                Err(error) => return Some(error),
            }
        }
    }

    /// Does what people have decided about parked events and about single baskets: these first, since nothing can be put
    /// into a basket that an edit by hand guards against its owner.
    async fn decided(&self, opened: &mut Opened) -> Result<(), PartitionError> {
        let (checkpoint, partitions) = (sequence(&opened.checkpoint), opened.partitions);
        mend::requested(&mut opened.fold, &self.me, self.lease, partitions, checkpoint).await?;
        Ok(parked::decide(&mut opened.fold, self.lease.partition, checkpoint).await?)
    }

    async fn open(&mut self) -> Result<Opened, PartitionError> {
        let partition = self.lease.partition;
        // The version is that of the pointer now, and stays until the reading ends.
        let pointer = *self.pointer.borrow_and_update();
        let parts = Parts {
            views: self.parts.views.at(pointer.active),
            ..self.parts.clone()
        };
        let facts = journal_open(&mut self.parts.journal.state()).await;
        let epoch = facts.epoch.to_string();
        let action_id = format!("{:?}", self.parts.action_id).to_lowercase();
        let stored = parts
            .views
            .load_checkpoint(partition)
            .await
            .map_err(anyhow::Error::from)?;
        let begins = stored.is_none();
        let mut checkpoint = stored.unwrap_or_else(|| Checkpoint {
            partition,
            epoch: epoch.clone(),
            recorded_ns: 0,
            sequence: 0,
            fence: self.lease.fence,
            action_id: action_id.clone(),
        });
        if checkpoint.action_id != action_id {
            return Err(PartitionError::Halted(format!(
                "the baskets were folded with EZOUT_ACTION_ID={}, and it is {action_id} now: set it back, or fold them anew with `ezout rebuild --switch`",
                checkpoint.action_id
            )));
        }
        let handover = parts.views.handover(pointer, partition, &epoch).await;
        let handover = handover.map_err(anyhow::Error::from)?;
        let highest = handover.map_or(0, |handover| handover.fence).max(checkpoint.fence);
        if highest > self.lease.fence {
            let raised = self.parts.views.raise_fence(&self.me, self.lease, highest).await;
            self.lease = raised.map_err(anyhow::Error::from)?.ok_or(PartitionError::LeaseLost)?;
        }
        checkpoint.fence = self.lease.fence;
        self.verify(&checkpoint).await?;
        let reader = self
            .parts
            .journal
            .read(partition, sequence(&checkpoint))
            .await
            .map_err(anyhow::Error::from)?;
        let opens = reader.opens();
        let parked_through = parts.views.parked_through(&epoch, partition).await;
        let parked_through = parked_through.map_err(anyhow::Error::from)?;
        let fold = Fold::new(parts, partition, epoch, self.lease.fence, parked_through);
        // What is there already is told as lag by the first step; until then there is none to tell.
        self.note(&checkpoint, 0);
        self.tell(None);
        let mut opened = Opened {
            partitions: facts.partitions,
            seen: checkpoint.sequence,
            confirmed: 0,
            checkpoint,
            begins,
            handover,
            reader,
            opens,
            fold,
            advanced: false,
        };
        self.hand_over(&mut opened, None).await?;
        Ok(opened)
    }

    /// Hands the partition over to this version, once that has everything which the version before has.
    /// `next` is the event that comes next, as far as that is known.
    async fn hand_over(&self, opened: &mut Opened, next: Option<&RawEvent>) -> Result<(), PartitionError> {
        let Some(handover) = opened.handover else { return Ok(()) };
        let is_as_far = sequence(&opened.checkpoint) >= handover.through
            || next.is_some_and(|next| next.sequence > handover.through);
        if !is_as_far {
            return Ok(());
        }
        let handed_over = self.parts.views.hand_over(&handover, &opened.checkpoint).await;
        if !handed_over.map_err(anyhow::Error::from)? {
            return Err(PartitionError::LeaseLost);
        }
        opened.handover = None;
        Ok(())
    }

    async fn verify(&self, checkpoint: &Checkpoint) -> Result<(), PartitionError> {
        match verify(&self.parts.journal, checkpoint).await {
            Ok(()) => Ok(()),
            Err(VerifyError::Broken(what)) => Err(PartitionError::Halted(format!(
                "{what}: restore the journal, or {FOLD_ANEW}"
            ))),
            Err(VerifyError::Unavailable(error)) => Err(PartitionError::Failed(error.into())),
        }
    }

    async fn advance(&mut self, opened: &mut Opened, events: &[RawEvent]) -> Result<(), PartitionError> {
        let opens = opened.reader.opens();
        if opens != opened.opens {
            // The reading was interrupted: what it goes on with may be another journal.
            self.verify(&opened.checkpoint).await?;
            opened.opens = opens;
        }
        // What only this version has must not be told before everybody reads it.
        let through = opened.handover.map_or(0, |handover| handover.through);
        let (known, new) = events.split_at(events.partition_point(|event| event.sequence <= through));
        self.fold(opened, known).await?;
        self.hand_over(opened, new.first()).await?;
        self.fold(opened, new).await
    }

    async fn fold(&self, opened: &mut Opened, events: &[RawEvent]) -> Result<(), PartitionError> {
        let Some(last) = events.last() else { return Ok(()) };
        let mut to = opened.checkpoint.clone();
        to.sequence = i64::try_from(last.sequence).unwrap_or(i64::MAX);
        to.recorded_ns = last.recorded_ns();
        // A write that somebody else overtook is folded again on what is there now. Who is overtaken
        // for long has lost the lease, or will hear of it from the checkpoint.
        for _ in 0..3 {
            match opened.fold.step(events, &to, opened.begins).await {
                Ok(()) => {
                    opened.checkpoint = to;
                    opened.begins = false;
                    opened.advanced = true;
                    self.note(&opened.checkpoint, last.pending);
                    return Ok(());
                }
                Err(StepError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::Stale.into())
    }
}

/// Has a checkpoint confirmed that rests since the last time; one that moves is written often enough.
async fn confirm(opened: &mut Opened) -> Result<(), PartitionError> {
    let sequence = opened.checkpoint.sequence;
    if opened.begins || opened.confirmed == sequence {
        return Ok(());
    }
    if std::mem::replace(&mut opened.seen, sequence) == sequence {
        let confirmed = opened.fold.views().confirm_checkpoint(&opened.checkpoint).await;
        if !confirmed.map_err(anyhow::Error::from)? {
            return Err(PartitionError::LeaseLost);
        }
        opened.confirmed = sequence;
    }
    Ok(())
}

impl From<StepError> for PartitionError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::LeaseLost => Self::LeaseLost,
            StepError::OtherEpoch { .. } => Self::Halted(error_chain(&error)),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<RefoldError> for PartitionError {
    fn from(error: RefoldError) -> Self {
        Self::Failed(error.into())
    }
}

fn sequence(checkpoint: &Checkpoint) -> u64 {
    u64::try_from(checkpoint.sequence).unwrap_or(0)
}

/// A partition that is being projected.
struct Opened {
    /// Partitions of the journal.
    partitions: u16,
    checkpoint: Checkpoint,
    /// There is no checkpoint yet; where there was one, its absence says that somebody dropped it.
    begins: bool,
    /// What is to be done before this version gets ahead of the one before.
    handover: Option<Handover>,
    reader: Reader,
    opens: u64,
    fold: Fold,
    /// The place at which the checkpoint was when people's decisions were last looked for.
    seen: i64,
    /// The place at which a majority has it on disk.
    confirmed: i64,
    /// The checkpoint has moved since this was last looked at.
    advanced: bool,
}

/// Failures since the checkpoint last moved.
struct Trouble {
    backoff: Backoff,
    since: Option<Instant>,
}

impl Trouble {
    fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            since: None,
        }
    }

    /// Notes that all is well, and answers whether it was not.
    fn is_over(&mut self) -> bool {
        self.backoff.reset();
        self.since.take().is_some()
    }
}
