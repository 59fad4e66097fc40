//! What was refused to callers of whom it is known who they are, for the audit.
//!
//! A caller who asks over and over is noted once in a while, and one who is too fast for MongoDB is left out
//! and counted: nobody fills the audit by being refused.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::error_chain;
use crate::views::{Deed, Views};

/// Refusals that may wait to be noted.
pub(super) const WAITING_MAX: usize = 256;
/// The same one is noted again after this.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Refusals that are remembered to be the same.
const KNOWN_MAX: usize = 10_000;

/// By whom, what and why. Not where: the caller chooses that.
type Same = (String, &'static str, String);

/// Notes what comes, for as long as it may come.
pub(super) async fn note_all(views: Views, mut deeds: mpsc::Receiver<Deed>) {
    let mut known: HashMap<Same, Instant> = HashMap::new();
    while let Some(deed) = deeds.recv().await {
        let now = Instant::now();
        let same = (deed.who.clone(), deed.verb, deed.outcome.clone());
        if known.get(&same).is_some_and(|at| now - *at < AGAIN_AFTER) {
            continue;
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, at| now - *at < AGAIN_AFTER);
        }
        if known.len() < KNOWN_MAX {
            known.insert(same, now);
        }
        if let Err(error) = views.keep_deed(&deed).await {
            tracing::warn!("a refusal is not in the audit: {}", error_chain(&error));
        }
    }
}
