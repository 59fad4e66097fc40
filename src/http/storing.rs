//! Whether events can be stored, as far as the last ones tell.
//!
//! A journal that stores nothing, for want of room mostly, answers everything but events, so only events show it: one that
//! is refused, or one that is not acknowledged while none is recorded. That counts for as long as phones are told to wait
//! for room: after that somebody has to try, or a process that gets no work would never find out that it is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::problem::FULL_SECONDS;
use crate::journal::{AppendError, Receipt};

/// What the last events tell; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Storing(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// The newest place in the journal that is known here.
    newest: AtomicU64,
    /// When an event was not stored and none has been since.
    failed_at: Mutex<Option<Instant>>,
}

impl Storing {
    /// The newest place in the journal that is known here, to be given to [`Storing::note`] with what becomes of the next event.
    pub(super) fn newest(&self) -> u64 {
        self.0.newest.load(Ordering::Relaxed)
    }

    /// Notes what became of an event that was sent when this was the newest place.
    pub(super) fn note(&self, newest_then: u64, appended: &Result<Receipt, AppendError>, now: Instant) {
        let parts = &self.0;
        let fails = match appended {
            Ok(receipt) => {
                // An event that was there before is news where nobody here knew.
                let is_news = parts.newest.fetch_max(receipt.sequence, Ordering::Relaxed) < receipt.sequence;
                if is_news || !receipt.duplicate {
                    *self.failed_at() = None;
                }
                false
            }
            Err(AppendError::Full { .. }) => true,
            Err(AppendError::Unknown) => self.newest() == newest_then,
            Err(_) => false,
        };
        if fails {
            *self.failed_at() = Some(now);
        }
    }

    /// Why no event should come here now; nothing where one may.
    pub(super) fn refusal(&self, now: Instant) -> Option<String> {
        let ago = now.saturating_duration_since((*self.failed_at())?);
        (ago < Duration::from_secs(FULL_SECONDS.into())).then(|| {
            format!(
                "the journal stores nothing: an event was refused or not acknowledged {} s ago, and none is recorded since; see whether the disk of NATS or the stream has room, make some, and start NATS again, which takes nothing after a failed write",
                ago.as_secs()
            )
        })
    }

    fn failed_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Durability;

    fn receipt(sequence: u64, duplicate: bool) -> Receipt {
        Receipt {
            sequence,
            duplicate,
            durability: Durability::Disk,
        }
    }

    fn full() -> AppendError {
        AppendError::Full {
            reason: "no space left".to_owned(),
        }
    }

    #[test]
    fn a_refused_event_counts_until_one_is_recorded_or_somebody_has_to_try_again() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let storing = Storing::default();
        assert_eq!(storing.refusal(at(0)), None);
        storing.note(0, &Ok(receipt(7, false)), at(0));
        storing.note(7, &Err(full()), at(1));
        assert!(storing.refusal(at(30)).unwrap().contains("acknowledged 29 s ago"));
        assert_eq!(storing.refusal(at(31)), None);
        storing.note(7, &Err(full()), at(40));
        storing.note(7, &Ok(receipt(7, true)), at(41));
        assert!(storing.refusal(at(41)).is_some(), "what is there needs no room");
        storing.note(7, &Ok(receipt(8, false)), at(42));
        assert_eq!(storing.refusal(at(42)), None);
    }

    #[test]
    fn an_event_without_an_answer_counts_where_no_other_was_recorded_meanwhile() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let storing = Storing::default();
        storing.note(0, &Ok(receipt(7, false)), at(0));
        storing.note(6, &Err(AppendError::Unknown), at(1));
        assert_eq!(
            storing.refusal(at(1)),
            None,
            "event 7 was recorded while it was on its way"
        );
        storing.note(7, &Err(AppendError::Unknown), at(2));
        assert!(storing.refusal(at(2)).is_some());
        storing.note(7, &Ok(receipt(8, true)), at(3));
        assert_eq!(storing.refusal(at(3)), None, "it is there after all");
        storing.note(8, &Err(AppendError::Conflict { sequence: 8 }), at(4));
        assert_eq!(storing.refusal(at(4)), None);
    }
}
