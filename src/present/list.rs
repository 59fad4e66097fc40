//! The list of open baskets: the newest of them, as many as a list may have.
//!
//! A list is one message, and a gateway that compares two of them after a reset needs memory for the
//! product of their lengths. So it ends somewhere: when a newer basket comes, the last one leaves, and
//! comes back when there is room again. How many open baskets there are is in the summary.

use std::cmp::Reverse;

use time::OffsetDateTime;

use crate::core::id::SessionId;
use crate::views::BasketView;

/// Entries of a list. Such a list has some 220 KB, and two that have nothing in common cost a gateway 32 MB.
pub(super) const LIST_MAX: usize = 2_000;

/// What the list is ordered by: the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Reverse<Option<OffsetDateTime>>, SessionId);

impl Key {
    pub(super) fn of(session: SessionId, view: &BasketView) -> Self {
        Self::at(view.opened_at, session)
    }

    /// The key of a basket that was opened at this time.
    pub(super) const fn at(opened_at: Option<OffsetDateTime>, session: SessionId) -> Self {
        Self(Reverse(opened_at), session)
    }
}

/// A step from one list to the next; each is right for the list that the step before has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This basket came, to this place.
    Add(usize, SessionId),
    /// The basket at this place left.
    Remove(usize),
}

/// All open baskets in order, of which the first are shown.
#[derive(Debug)]
pub(super) struct List {
    keys: Vec<Key>,
    max: usize,
}

impl List {
    /// A list that shows so many of these baskets at most.
    pub(super) fn new(mut keys: Vec<Key>, max: usize) -> Self {
        keys.sort_unstable();
        Self { keys, max }
    }

    /// The baskets that are shown, in order.
    pub(super) fn shown(&self) -> impl Iterator<Item = SessionId> {
        self.keys.iter().take(self.max).map(|key| key.1)
    }

    /// All open baskets, shown or not.
    pub(super) fn all(&self) -> impl Iterator<Item = SessionId> {
        self.keys.iter().map(|key| key.1)
    }

    /// How many open baskets there are, shown or not.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Puts a basket into the list, and answers what that changes in what is shown.
    pub(super) fn enter(&mut self, key: Key) -> Vec<Step> {
        let Err(place) = self.keys.binary_search(&key) else {
            return Vec::new();
        };
        self.keys.insert(place, key);
        let mut steps = Vec::new();
        if place < self.max {
            if self.keys.len() > self.max {
                // The last one first, so that no list is ever longer.
                steps.push(Step::Remove(self.max - 1));
            }
            steps.push(Step::Add(place, key.1));
        }
        steps
    }

    /// Takes a basket from the list, and answers what that changes in what is shown.
    pub(super) fn leave(&mut self, key: Key) -> Vec<Step> {
        let Ok(place) = self.keys.binary_search(&key) else {
            return Vec::new();
        };
        self.keys.remove(place);
        let mut steps = Vec::new();
        if place < self.max {
            steps.push(Step::Remove(place));
            if let Some(next) = self.keys.get(self.max - 1) {
                steps.push(Step::Add(self.max - 1, next.1));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(number: u8) -> Key {
        // Several of the same time, and some without one.
        let opened_at =
            (number > 3).then(|| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(i64::from(number / 3)));
        Key::at(opened_at, SessionId::from(Uuid::from_u128(u128::from(number))))
    }

    proptest! {
        #[test]
        fn whoever_applies_the_steps_has_the_newest_baskets_and_never_more_than_the_list_may_have(
            first in prop::collection::hash_set(0u8..30, 0..10),
            steps in prop::collection::vec((any::<bool>(), 0u8..30), 0..80),
            max in 1usize..6,
        ) {
            let mut list = List::new(first.iter().map(|number| key(*number)).collect(), max);
            let mut replica: Vec<SessionId> = list.shown().collect();
            let mut open = first;
            for (enters, number) in steps {
                let taken = if enters { list.enter(key(number)) } else { list.leave(key(number)) };
                if enters { open.insert(number) } else { open.remove(&number) };
                for step in taken {
                    match step {
                        Step::Add(place, session) => replica.insert(place, session),
                        Step::Remove(place) => { replica.remove(place); }
                    }
                    prop_assert!(replica.len() <= max);
                }
                let mut truth: Vec<Key> = open.iter().map(|number| key(*number)).collect();
                truth.sort_unstable();
                prop_assert_eq!(list.len(), truth.len());
                prop_assert_eq!(&replica, &truth.iter().take(max).map(|key| key.1).collect::<Vec<_>>());
            }
        }
    }
}
