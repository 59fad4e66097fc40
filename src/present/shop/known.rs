//! What gateways have of a shop.

use std::collections::HashMap;

use tokio::time::Instant;

use super::LastAsked;
use crate::core::basket::Status;
use crate::core::id::{BasketId, SessionId};
use crate::present::list::{Key, List};
use crate::present::model::{self, Model};
use crate::views::{BasketView, Handling};

/// Everything that gateways may have of the shop.
pub(super) struct Known {
    pub(super) list: List,
    pub(super) baskets: HashMap<SessionId, Basket>,
    /// When a basket was last dropped that a gateway may have.
    pub(super) dropped_at: Option<Instant>,
}

/// A basket as gateways have it.
pub(super) struct Basket {
    pub(super) state: State,
    pub(super) model: Model,
    pub(super) key: Key,
    pub(super) is_open: bool,
    pub(super) asked_at: Instant,
}

/// How far a basket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct State {
    pub(super) sequence: u64,
    pub(super) version: u64,
}

impl State {
    pub(super) fn of(view: &BasketView) -> Self {
        Self {
            sequence: view.sequence,
            version: view.version,
        }
    }
}

impl Basket {
    pub(super) fn of(id: BasketId, view: &BasketView, handling: Option<&Handling>, asked_at: Instant) -> Self {
        Self {
            state: State::of(view),
            model: model::basket(id, view, handling),
            key: Key::of(id.session, view),
            is_open: is_open(view),
            asked_at,
        }
    }
}

pub(super) fn is_open(view: &BasketView) -> bool {
    view.status == Status::Open.word()
}

impl Known {
    /// Whether a gateway may have a basket that is not known here. Such a one is told whole when it changes.
    pub(super) fn may_be_had(&self) -> bool {
        LastAsked::is_wanted(self.dropped_at)
    }

    /// Drops baskets that are not open until `max` of them are left: those that were asked for the longest time ago.
    pub(super) fn drop_closed(&mut self, max: usize) {
        let over = self.baskets.len().saturating_sub(self.list.len() + max);
        if over == 0 {
            return;
        }
        let closed = self.baskets.iter().filter(|(_, basket)| !basket.is_open);
        let mut closed: Vec<(Instant, SessionId)> =
            closed.map(|(session, basket)| (basket.asked_at, *session)).collect();
        closed.sort_unstable();
        for (_, session) in closed.into_iter().take(over) {
            self.baskets.remove(&session);
        }
        self.dropped_at = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_kept_of_baskets_that_are_not_open_has_an_end() {
        let session = |number| SessionId::from(Uuid::from_u128(number));
        let now = Instant::now();
        let key = |number| Key::at(None, session(number));
        let basket = |number: u64, is_open| Basket {
            state: State::default(),
            model: Model::new(),
            key: key(u128::from(number)),
            is_open,
            asked_at: now + Duration::from_secs(100 - number),
        };
        let mut known = Known {
            list: List::new(vec![key(1), key(2)], 1),
            baskets: (1..=10)
                .map(|number| (session(u128::from(number)), basket(number, number <= 2)))
                .collect(),
            dropped_at: None,
        };
        known.drop_closed(8);
        assert_eq!((known.baskets.len(), known.may_be_had()), (10, false));
        known.drop_closed(3);
        let mut left: Vec<SessionId> = known.baskets.keys().copied().collect();
        left.sort_unstable();
        // The open ones, and of the others those that were asked for last.
        assert_eq!(left, [1, 2, 3, 4, 5].map(session));
        assert!(known.may_be_had(), "who has one of the others is told of it");
    }
}
