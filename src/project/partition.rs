//! One partition: read in order from the checkpoint, step by step, for as long as the lease holds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::step::{Fold, StepError};
use super::{Parts, Status, journal_open, parked};
use crate::core::error_chain;
use crate::core::retry::Backoff;
use crate::journal::{RawEvent, Reader};
use crate::views::{Checkpoint, Lease, LeaseId};

/// Most events of a step: enough to make round trips cheap, few enough to keep a step short.
const STEP_EVENTS_MAX: usize = 500;
/// How often parked events that a person wants applied are looked for.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the journal is compared with the checkpoint while nothing else asks for it.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartitionError {
    /// The journal is not the one that the views were folded from. A person decides what to do.
    #[error("{0}")]
    Halted(String),
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
}

impl Partition {
    pub(super) fn new(parts: Parts, status: Status, me: LeaseId, lease: Lease, stop: CancellationToken) -> Self {
        Self {
            parts,
            status,
            me,
            lease,
            stop,
        }
    }

    /// Projects until told to stop or until the lease is lost.
    pub(super) async fn run(mut self) {
        let partition = self.lease.partition;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut told = false;
        loop {
            let Some(outcome) = self.project(&mut backoff, &mut told).await else {
                break;
            };
            match outcome {
                PartitionError::Halted(reason) => {
                    if self.status.halted().get(&partition) != Some(&reason) {
                        tracing::error!(partition, "partition {partition} has halted: {reason}");
                        self.status.set(partition, Some(reason));
                    }
                    self.count_halted();
                    if self
                        .stop
                        .run_until_cancelled(tokio::time::sleep(VERIFY_INTERVAL))
                        .await
                        .is_none()
                    {
                        break;
                    }
                }
                PartitionError::LeaseLost => break,
                PartitionError::Failed(error) => {
                    self.parts.metrics.projection_retries.inc();
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(partition, "projecting partition {partition} waits: {error:#}");
                    }
                    if self
                        .stop
                        .run_until_cancelled(tokio::time::sleep(backoff.next_pause()))
                        .await
                        .is_none()
                    {
                        break;
                    }
                }
            }
        }
        self.status.set(partition, None);
        self.count_halted();
    }

    fn count_halted(&self) {
        self.parts
            .metrics
            .halted_partitions
            .set(i64::try_from(self.status.halted().len()).unwrap_or(i64::MAX));
    }

    /// Projects from the checkpoint on. Answers `None` when told to stop.
    async fn project(&mut self, backoff: &mut Backoff, told: &mut bool) -> Option<PartitionError> {
        let stop = self.stop.clone();
        let mut opened = match stop.run_until_cancelled(self.open()).await? {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        self.status.set(self.lease.partition, None);
        self.count_halted();
        let mut retries = tokio::time::interval(RETRY_INTERVAL);
        let mut verify = tokio::time::interval(VERIFY_INTERVAL);
        verify.reset();
        retries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                _ = verify.tick() => self.verify(&opened.checkpoint).await,
                _ = retries.tick() => parked::retry(&mut opened.fold, self.lease.partition).await.map_err(PartitionError::from),
                events = opened.reader.next(STEP_EVENTS_MAX) => match events {
                    Ok(events) => self.advance(&mut opened, &events).await,
                    Err(error) => Err(PartitionError::Failed(error.into())),
                },
            };
            match result {
                Ok(()) => {
                    backoff.reset();
                    if std::mem::take(told) {
                        tracing::info!("projecting partition {} goes on", self.lease.partition);
                    }
                }
                Err(error) => return Some(error),
            }
        }
    }

    async fn open(&mut self) -> Result<Opened, PartitionError> {
        let partition = self.lease.partition;
        let facts = journal_open(&mut self.parts.journal.state()).await;
        let epoch = facts.epoch.to_string();
        let action_id = format!("{:?}", self.parts.action_id).to_lowercase();
        let stored = self
            .parts
            .views
            .load_checkpoint(partition)
            .await
            .map_err(anyhow::Error::from)?;
        if let Some(stored) = &stored
            && stored.fence > self.lease.fence
        {
            self.lease = self
                .parts
                .views
                .raise_fence(&self.me, self.lease, stored.fence)
                .await
                .map_err(anyhow::Error::from)?;
        }
        let checkpoint = Checkpoint {
            partition: i32::from(partition),
            epoch: stored
                .as_ref()
                .map_or_else(|| epoch.clone(), |stored| stored.epoch.clone()),
            sequence: stored.as_ref().map_or(0, |stored| stored.sequence),
            fence: self.lease.fence,
            action_id: action_id.clone(),
        };
        if let Some(stored) = stored
            && stored.action_id != action_id
        {
            return Err(PartitionError::Halted(format!(
                "the baskets were folded with EZOUT_ACTION_ID={}, and it is {action_id} now: set it back, or drop the collections baskets and checkpoints to fold them anew",
                stored.action_id
            )));
        }
        self.verify(&checkpoint).await?;
        let reader = self
            .parts
            .journal
            .read(partition, sequence(&checkpoint))
            .await
            .map_err(anyhow::Error::from)?;
        let opens = reader.opens();
        let fold = Fold::new(self.parts.clone(), partition, epoch, self.lease.fence);
        Ok(Opened {
            checkpoint,
            reader,
            opens,
            fold,
        })
    }

    /// Compares the journal with the checkpoint: another journal, or one that ends or begins
    /// elsewhere, must never look like one that has nothing new.
    async fn verify(&self, checkpoint: &Checkpoint) -> Result<(), PartitionError> {
        let tail = self.parts.journal.tail().await.map_err(anyhow::Error::from)?;
        let at = sequence(checkpoint);
        let advice = "restore the journal, or drop the collections baskets, checkpoints and parked_events to fold this one from its beginning";
        if tail.epoch.to_string() != checkpoint.epoch {
            return Err(PartitionError::Halted(format!(
                "the journal is another one (epoch {}) than the views were folded from (epoch {}): {advice}",
                tail.epoch, checkpoint.epoch
            )));
        }
        if tail.last_sequence < at {
            return Err(PartitionError::Halted(format!(
                "the journal ends at {} and the views are folded up to {at}: events are lost; {advice}",
                tail.last_sequence
            )));
        }
        if tail.first_sequence > at + 1 {
            return Err(PartitionError::Halted(format!(
                "the journal begins at {} and the views are folded up to {at}: events between are lost; {advice}",
                tail.first_sequence
            )));
        }
        Ok(())
    }

    async fn advance(&mut self, opened: &mut Opened, events: &[RawEvent]) -> Result<(), PartitionError> {
        let opens = opened.reader.opens();
        if opens != opened.opens {
            // The reading was interrupted: what it goes on with may be another journal.
            self.verify(&opened.checkpoint).await?;
            opened.opens = opens;
        }
        let Some(last) = events.last() else { return Ok(()) };
        let mut to = opened.checkpoint.clone();
        to.sequence = i64::try_from(last.sequence).unwrap_or(i64::MAX);
        // A write that somebody else overtook is folded again on what is there now. Who is overtaken
        // for long has lost the lease, or will hear of it from the checkpoint.
        for _ in 0..3 {
            match opened.fold.step(events, &to).await {
                Ok(()) => {
                    opened.checkpoint = to;
                    let label = self.lease.partition.to_string();
                    let pending = i64::try_from(last.pending).unwrap_or(i64::MAX);
                    self.parts
                        .metrics
                        .projection_lag_events
                        .with_label_values(&[&label])
                        .set(pending);
                    return Ok(());
                }
                Err(StepError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::Stale.into())
    }
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

fn sequence(checkpoint: &Checkpoint) -> u64 {
    u64::try_from(checkpoint.sequence).unwrap_or(0)
}

/// A partition that is being projected.
struct Opened {
    checkpoint: Checkpoint,
    reader: Reader,
    opens: u64,
    fold: Fold,
}
