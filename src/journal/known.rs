//! The memory of events lately recorded: it knows a retry without asking the server.
//!
//! An atomic batch that holds one duplicate is refused whole, so known duplicates must be kept out of
//! it; when all phones retry at once after an outage, that is the difference between one batch and a
//! thousand single publishes. Forgetting is harmless: the server knows a duplicate too.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use super::Spread;

/// Most events remembered by a process, an equal share for each stream: 30 MB. The table doubles at seven eighths of a power
/// of two, so this fills one.
const KNOWN_MAX: usize = 450_000;

/// An event in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) sequence: u64,
    /// Nothing if it was stored without one, by somebody else; then it equals no entry.
    pub(super) digest: Option<u128>,
}

/// Events lately recorded, by id.
#[derive(Debug)]
pub(super) struct Known {
    max: usize,
    events: HashMap<Uuid, Recorded>,
    /// In the order of their arrival, which is the order in which they leave.
    order: VecDeque<Uuid>,
    /// Every event up to here has been seen, back to where the server's own memory of duplicates begins.
    complete_to: Option<u64>,
}

impl Known {
    /// Nothing yet, for one of so many streams.
    pub(super) fn of_one_of(spread: Spread) -> Self {
        Self {
            max: KNOWN_MAX / usize::from(spread.streams()),
            events: HashMap::new(),
            order: VecDeque::new(),
            complete_to: None,
        }
    }

    /// The event of that id, if it is remembered.
    pub(super) fn get(&self, id: Uuid) -> Option<Recorded> {
        self.events.get(&id).copied()
    }

    /// Remembers an event, and forgets the oldest if there are too many. The first event of an id stays.
    pub(super) fn insert(&mut self, id: Uuid, recorded: Recorded) {
        if self
            .complete_to
            .is_some_and(|sequence| sequence + 1 == recorded.sequence)
        {
            self.complete_to = Some(recorded.sequence);
        }
        if self.events.contains_key(&id) {
            return;
        }
        if self.order.len() >= self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        self.events.insert(id, recorded);
        self.order.push_back(id);
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Up to which sequence no event is missing; nothing if the past has never been read.
    pub(super) fn complete_to(&self) -> Option<u64> {
        self.complete_to
    }

    /// Says that every event up to `sequence` has been inserted.
    pub(super) fn completed_to(&mut self, sequence: u64) {
        self.complete_to = self.complete_to.max(Some(sequence));
    }

    /// How many events back it makes sense to read.
    pub(super) fn reach(&self) -> u64 {
        self.max as u64
    }

    /// Forgets everything: the journal is another one.
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.order.clear();
        self.complete_to = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(sequence: u64) -> Recorded {
        Recorded {
            sequence,
            digest: Some(u128::from(sequence)),
        }
    }

    #[test]
    fn the_first_event_of_an_id_stays() {
        let mut known = Known::of_one_of(Spread::ONE);
        let id = Uuid::from_u128(7);
        known.insert(id, recorded(1));
        known.insert(id, recorded(2));
        assert_eq!(known.get(id), Some(recorded(1)));
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn the_oldest_leave_first() {
        for streams in [1, 16] {
            let mut known = Known::of_one_of(Spread::over(streams).unwrap());
            let max = KNOWN_MAX / usize::from(streams);
            for n in 0..=(max as u64) {
                known.insert(Uuid::from_u128(u128::from(n)), recorded(n));
            }
            assert_eq!(known.len(), max);
            assert_eq!(known.get(Uuid::from_u128(0)), None);
            assert_eq!(known.get(Uuid::from_u128(1)), Some(recorded(1)));
        }
    }

    #[test]
    fn the_memory_is_complete_only_up_to_the_first_gap() {
        let mut known = Known::of_one_of(Spread::ONE);
        known.insert(Uuid::from_u128(1), recorded(1));
        assert_eq!(known.complete_to(), None);
        known.completed_to(4);
        known.insert(Uuid::from_u128(5), recorded(5));
        known.insert(Uuid::from_u128(7), recorded(7));
        assert_eq!(known.complete_to(), Some(5));
    }
}
