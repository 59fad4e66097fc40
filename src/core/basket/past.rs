//! A basket as it was: the fold of those events that were recorded by then.
//!
//! The journal's places decide, not the phones' clocks: the answer is the basket that a reader had
//! at that moment, before later events came for earlier actions.

use time::OffsetDateTime;

use super::{Basket, Recorded};

impl Basket {
    /// The basket as it was when the journal ended at this place.
    #[must_use]
    pub fn as_of(&self, sequence: u64) -> Self {
        fn until<E: Clone>(events: &[Recorded<E>], sequence: u64) -> Vec<Recorded<E>> {
            let count = events.partition_point(|event| event.sequence <= sequence);
            events[..count].to_vec()
        }
        let parked_since = self.parked_since.filter(|since| *since <= sequence);
        Self::restore(
            self.id,
            self.meaning,
            until(&self.actions, sequence),
            until(&self.conflicts, sequence),
            until(&self.abandonments, sequence),
            until(&self.corrections, sequence),
            parked_since,
        )
    }

    /// The place of the first event in the journal that was recorded later than this; none if none was.
    pub fn first_after(&self, time: OffsetDateTime) -> Option<u64> {
        fn later<E>(events: &[Recorded<E>], time: OffsetDateTime) -> impl Iterator<Item = u64> {
            let later = events.iter().filter(move |event| event.recorded_at > time);
            later.map(|event| event.sequence)
        }
        later(&self.actions, time)
            .chain(later(&self.conflicts, time))
            .chain(later(&self.abandonments, time))
            .chain(later(&self.corrections, time))
            .min()
    }
}
