//! Corrections: what people who are not shoppers change becomes events of the journal.
//!
//! What is asked for by the API is taken in `proposals.rs`. Edits of baskets by hand are followed in
//! `edits.rs`, and found by comparison in `scan.rs` where the stream of changes was lost.

mod edits;
mod proposals;
mod scan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::core::error_chain;
use crate::core::event::{ActionIdMeaning, Change, Correction, JournalEvent};
use crate::core::id::BasketId;
use crate::journal::{self, AppendError, Entry, Facts, Journal, ReadError};
use crate::metrics::Metrics;
use crate::refold::{Decoded, Dropped, RefoldError};
use crate::views::{EditsError, LeaseId, Refusal, Source, ViewError, Views};

/// How long the lease outlives the last sign of life of its owner. Two owners for a moment do no harm: what both take is one event.
const LEASE_TTL: Duration = Duration::from_secs(5);
/// How often a process gives a sign of life, or looks whether the lease is free.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long what is under way may take to end.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);

/// What the stage needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where corrections go.
    pub journal: Journal,
    /// Where they come from.
    pub views: Views,
    /// The process's series.
    pub metrics: Arc<Metrics>,
    /// What `action_id` means.
    pub action_id: ActionIdMeaning,
}

/// How this process corrects.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Edits of a shop's baskets by hand in MongoDB that are taken in a minute. With more of them, no more of that shop are taken
    /// until somebody says so: a script that rewrites baskets must not become a flood of events. 0: edits by hand are not followed.
    #[arg(long, env = "EZOUT_EDITS_PER_MINUTE", default_value_t = 60)]
    pub edits_per_minute: usize,
}

/// Why something could not be done now.
#[derive(Debug, thiserror::Error)]
enum CorrectError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Edits(#[from] EditsError),
    #[error(transparent)]
    Refold(#[from] RefoldError),
    #[error("MongoDB no longer knows how a basket was a moment ago")]
    Slow,
    #[error("the baskets are too far behind the journal to be corrected")]
    Behind,
    #[error("basket {id} cannot be read: {reason}")]
    Unreadable { id: BasketId, reason: String },
}

impl CorrectError {
    /// Whether others may do better: it is about this basket, not about a server.
    const fn is_of_one_basket(&self) -> bool {
        matches!(self, Self::Behind | Self::Slow | Self::Unreadable { .. })
    }
}

impl From<ViewError> for CorrectError {
    fn from(error: ViewError) -> Self {
        Self::Edits(error.into())
    }
}

impl From<ReadError> for CorrectError {
    fn from(error: ReadError) -> Self {
        Self::Refold(error.into())
    }
}

/// Corrects until `stop`, as long as no other process does.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) {
    let me = LeaseId::unique();
    let mut working: Option<(CancellationToken, JoinHandle<()>)> = None;
    let mut renewed = Instant::now();
    let mut interval = tokio::time::interval(KEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let asked = Instant::now();
        let leads = match parts.views.lead_corrections(&me, LEASE_TTL).await {
            Ok(leads) => leads,
            Err(error) => {
                tracing::debug!("the lease on corrections cannot be asked for: {}", error_chain(&error));
                // Nobody else can have it before it expires.
                working.is_some() && renewed.elapsed() < LEASE_TTL
            }
        };
        if leads {
            renewed = asked;
        }
        if leads && working.take_if(|(_, task)| task.is_finished()).is_some() {
            tracing::error!("taking corrections ended by itself, and is begun again");
        }
        if leads && working.is_none() {
            tracing::info!("this process takes corrections");
            let stop = CancellationToken::new();
            let work = work(parts.clone(), config.edits_per_minute, stop.clone());
            working = Some((stop, tokio::spawn(work.instrument(tracing::error_span!("correct")))));
        } else if !leads && let Some((stop, _)) = working.take() {
            tracing::warn!("another process takes corrections now");
            stop.cancel();
        }
        parts.metrics.corrections_led.set(i64::from(working.is_some()));
    }
    if let Some((stop, task)) = working {
        stop.cancel();
        let _ = tokio::time::timeout(HANDOVER_GRACE, task).await;
        let leave = tokio::time::timeout(HANDOVER_GRACE, parts.views.leave_corrections(&me));
        if !matches!(leave.await, Ok(Ok(()))) {
            tracing::warn!(
                "the lease on corrections could not be given back; it expires within {} s",
                LEASE_TTL.as_secs()
            );
        }
    }
}

/// Takes what is asked for and, where they are followed, edits by hand, until `stop`.
async fn work(parts: Parts, edits_per_minute: usize, stop: CancellationToken) {
    let proposals = proposals::run(parts.clone(), stop.clone());
    if edits_per_minute == 0 {
        return proposals.await;
    }
    tokio::join!(proposals, edits::run(parts, edits_per_minute, stop));
}

/// A correction as the journal has it.
struct There {
    sequence: u64,
    changes: Vec<Change>,
}

/// Appends a correction and answers how it is in the journal. One that is there already stays as it is, and where
/// another event has its id, or it is larger than an event may be, it is refused.
async fn append(parts: &Parts, correction: &Correction) -> Result<Result<There, Refusal>, CorrectError> {
    let (json, digest) = correction.canonical();
    let entry = Entry {
        shop: correction.basket.shop,
        id: correction.id,
        digest,
        headers: correction.headers(),
        body: json.into(),
    };
    let counted = |duplicate: bool| {
        let outcome = if duplicate { "duplicate" } else { "recorded" };
        parts.metrics.correction_events.with_label_values(&[outcome]).inc();
    };
    let sequence = match parts.journal.append(entry).await {
        Ok(receipt) => {
            counted(receipt.duplicate);
            let (sequence, changes) = (receipt.sequence, correction.changes.clone());
            return Ok(Ok(There { sequence, changes }));
        }
        Err(AppendError::Conflict { sequence }) => sequence,
        // Repeating it would not help, and what comes after it would wait for ever.
        Err(AppendError::TooLarge) => {
            return Ok(Err(Refusal {
                code: "too_large",
                reason: "its differences are larger than an event of the journal may be".to_owned(),
            }));
        }
        Err(error) => return Err(error.into()),
    };
    // Another attempt, which died, may have said it otherwise; what the journal has counts.
    let found = parts.journal.get(sequence).await?.map(|raw| Decoded::of(&raw).event);
    if let Some(Ok(recorded)) = found
        && let JournalEvent::Correction(there) = recorded.event
        && (there.id, there.basket) == (correction.id, correction.basket)
    {
        counted(true);
        let changes = there.changes;
        return Ok(Ok(There { sequence, changes }));
    }
    Ok(Err(Refusal {
        code: "conflict",
        reason: format!("event {sequence} of the journal has this id and is another one"),
    }))
}

/// Events of the journal of this epoch that a person has dropped.
async fn dropped(views: &Views, epoch: &str) -> Result<Dropped, ViewError> {
    let parked = views.list_parked(true, i64::MAX).await?;
    let never = parked
        .iter()
        .filter(|event| event.epoch == epoch && event.state.never_counts());
    Ok(never.map(|event| event.sequence).collect())
}

impl Parts {
    fn count_published(&self, source: Source) {
        self.metrics.corrections.with_label_values(&[source.word()]).inc();
    }

    fn count_rejected(&self, refusal: &Refusal) {
        let series = &self.metrics.rejected_corrections;
        series.with_label_values(&[refusal.code]).inc();
    }
}

/// Waits for the journal.
async fn journal_open(parts: &Parts) -> Facts {
    let mut state = parts.journal.state();
    loop {
        if let journal::State::Open(facts) = &*state.borrow_and_update() {
            return facts.clone();
        }
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
