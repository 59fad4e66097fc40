//! Whether events can be stored, as far as the last ones tell.
//!
//! A journal that stores nothing, for want of room mostly, answers everything but events, so only events show it: one that
//! is refused for that, or one that is not acknowledged in time while none is recorded. That counts for as long as phones
//! are told to wait for room: after that somebody has to try, or a process that gets no work would never find out that it
//! is over. Each stream of the journal has room of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Lane, Spread};

/// How long an event counts that was not stored.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// What the last events of each stream tell; clones share it.
#[derive(Debug, Clone)]
pub struct Storing(Arc<[Arc<OfStream>]>);

/// What the last events of one stream tell.
#[derive(Debug, Default)]
pub(super) struct OfStream(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    recorded_at: Option<Instant>,
    /// When an event was not stored and none has been since.
    failed_at: Option<Instant>,
}

impl Storing {
    pub(super) fn over(spread: Spread) -> Self {
        Self(spread.lanes().map(|_| Arc::default()).collect())
    }

    pub(super) fn of(&self, lane: Lane) -> Arc<OfStream> {
        Arc::clone(&self.0[lane.index()])
    }

    /// Why no event should come here now; nothing where one may.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        self.0.iter().find_map(|stream| stream.refusal(now))
    }
}

impl OfStream {
    /// Notes that events were recorded.
    pub(super) fn recorded(&self, now: Instant) {
        *self.last() = Last {
            recorded_at: Some(now),
            failed_at: None,
        };
    }

    /// Notes that there is no room for an event.
    pub(super) fn refused(&self, now: Instant) {
        self.last().failed_at = Some(now);
    }

    /// Notes that an event that was sent then was not acknowledged in time. It tells nothing where another one was recorded meanwhile.
    pub(super) fn unanswered(&self, sent: Instant, now: Instant) {
        let mut last = self.last();
        if last.recorded_at.is_none_or(|recorded| recorded < sent) {
            last.failed_at = Some(now);
        }
    }

    fn refusal(&self, now: Instant) -> Option<String> {
        let ago = now.saturating_duration_since(self.last().failed_at?);
        (ago < COUNTS_FOR).then(|| {
            format!(
                "the journal stores nothing: an event was refused or not acknowledged {} s ago, and none is recorded since; see whether the disk of NATS or the stream has room, make some, and start NATS again, which takes nothing after a failed write",
                ago.as_secs()
            )
        })
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_event_counts_until_one_is_recorded_or_somebody_has_to_try_again() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let stream = OfStream::default();
        assert_eq!(stream.refusal(at(0)), None);
        stream.recorded(at(0));
        stream.refused(at(1));
        assert!(stream.refusal(at(30)).unwrap().contains("acknowledged 29 s ago"));
        assert_eq!(stream.refusal(at(31)), None);
        stream.refused(at(40));
        assert!(stream.refusal(at(41)).is_some());
        stream.recorded(at(42));
        assert_eq!(stream.refusal(at(42)), None);
    }

    #[test]
    fn an_event_without_an_answer_counts_where_no_other_was_recorded_meanwhile() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let stream = OfStream::default();
        stream.unanswered(at(0), at(5));
        assert!(stream.refusal(at(5)).is_some());
        stream.recorded(at(6));
        stream.unanswered(at(4), at(9));
        assert_eq!(stream.refusal(at(9)), None, "one was recorded 2 s after it was sent");
        stream.unanswered(at(7), at(12));
        assert!(stream.refusal(at(12)).is_some());
    }

    #[test]
    fn a_stream_that_stores_nothing_is_told_whatever_the_others_store() {
        let now = Instant::now();
        let spread = Spread::over(4).unwrap();
        let storing = Storing::over(spread);
        let lanes: Vec<Lane> = spread.lanes().collect();
        storing.of(lanes[2]).refused(now);
        storing.of(lanes[1]).recorded(now);
        assert!(storing.refusal(now).is_some());
        storing.of(lanes[2]).recorded(now);
        assert_eq!(storing.refusal(now), None);
    }
}
