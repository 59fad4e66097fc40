//! Corrections: what people who are not shoppers change becomes events of the journal.
//!
//! Edits of baskets by hand are followed in `edits.rs`, and found by comparison in `scan.rs` where the
//! stream of changes was lost.

mod edits;
mod scan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::core::error_chain;
use crate::core::event::{ActionIdMeaning, Correction};
use crate::journal::{self, AppendError, Entry, Facts, Journal, ReadError};
use crate::metrics::Metrics;
use crate::refold::RefoldError;
use crate::views::{EditsError, LeaseId, ViewError, Views};

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
    if config.edits_per_minute == 0 {
        return;
    }
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
        if leads && working.is_none() {
            tracing::info!("this process takes corrections");
            let stop = CancellationToken::new();
            let edits = edits::run(parts.clone(), config.edits_per_minute, stop.clone());
            working = Some((stop, tokio::spawn(edits)));
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

/// Appends a correction and answers its place; one that is there already stays as it is.
async fn append(parts: &Parts, correction: &Correction) -> Result<u64, AppendError> {
    let (json, digest) = correction.canonical();
    let entry = Entry {
        shop: correction.basket.shop,
        id: correction.id,
        digest,
        headers: correction.headers(),
        body: json.into(),
    };
    match parts.journal.append(entry).await {
        Ok(receipt) => Ok(receipt.sequence),
        Err(AppendError::Conflict { sequence }) => Ok(sequence),
        Err(error) => Err(error),
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
