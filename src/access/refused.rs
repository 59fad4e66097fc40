//! What was refused to callers of whom it is known who they are, for the audit.
//!
//! A caller who asks over and over is noted once in a while, and one who is too fast for MongoDB is left out
//! and counted: nobody fills the audit by being refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::error_chain;
use crate::metrics::Metrics;
use crate::views::{Deed, Views};

/// Refusals that may wait to be noted.
pub(super) const WAITING_MAX: usize = 256;
/// The same one is noted again after this.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Refusals that are remembered to be the same, and so the most that are noted in that time.
const KNOWN_MAX: usize = 300;

/// By whom, what and why. Not where: the caller chooses that.
type Same = (String, &'static str, String);

/// What was noted lately.
#[derive(Debug, Default)]
struct Noted(HashMap<Same, Instant>);

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Note it.
    New,
    /// It was noted lately.
    Known,
    /// Nobody can tell whether it was, so it is left out.
    Full,
}

impl Noted {
    fn judge(&mut self, same: Same, now: Instant) -> Verdict {
        let is_known = |at: &Instant| now - *at < AGAIN_AFTER;
        if self.0.get(&same).is_some_and(is_known) {
            return Verdict::Known;
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.retain(|_, at| is_known(at));
        }
        if self.0.len() >= KNOWN_MAX {
            return Verdict::Full;
        }
        self.0.insert(same, now);
        Verdict::New
    }
}

/// Notes what comes, for as long as it may come.
pub(super) async fn note_all(views: Views, metrics: Arc<Metrics>, mut deeds: mpsc::Receiver<Deed>) {
    let mut noted = Noted::default();
    while let Some(deed) = deeds.recv().await {
        let same = (deed.who.clone(), deed.verb, deed.outcome.clone());
        match noted.judge(same, Instant::now()) {
            Verdict::New => {
                if let Err(error) = views.keep_deed(&deed).await {
                    tracing::warn!("a refusal is not in the audit: {}", error_chain(&error));
                }
            }
            Verdict::Known => {}
            Verdict::Full => metrics.audit_left_out.inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_that_is_full_lets_nobody_fill_the_audit() {
        let same = |number: usize| (number.to_string(), "look", "refused: shop".to_owned());
        let (start, mut noted) = (Instant::now(), Noted::default());
        for number in 0..KNOWN_MAX {
            assert_eq!(noted.judge(same(number), start), Verdict::New);
        }
        assert_eq!(noted.judge(same(0), start), Verdict::Known);
        for _ in 0..2 {
            assert_eq!(noted.judge(same(KNOWN_MAX), start), Verdict::Full);
        }
        // They are forgotten again.
        let later = start + AGAIN_AFTER;
        assert_eq!(noted.judge(same(KNOWN_MAX), later), Verdict::New);
        assert_eq!(noted.judge(same(0), later), Verdict::New);
        assert_eq!(noted.0.len(), 2);
    }
}
