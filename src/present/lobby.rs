//! Where requests wait of which nobody knows yet whether anybody may have the answer.
//!
//! A gateway asks what a resource is beside the question of the access, and without saying for whom. Nothing is begun for
//! a shop before somebody was let in there, so whoever makes names up has this place for a moment and nothing else.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::id::ShopId;

/// Requests that wait at a time, of all shops together. One more is refused.
pub(super) const PLACES: usize = 4_096;
/// How long they wait. The answer about the access takes some milliseconds, and a gateway gives up after 3 s.
pub(super) const WAIT: Duration = Duration::from_secs(2);

/// Those who wait, by their shop.
#[derive(Debug)]
pub(super) struct Lobby<T> {
    shops: HashMap<ShopId, Vec<(Instant, T)>>,
    left: usize,
}

impl<T> Lobby<T> {
    /// An empty one with so many places.
    pub(super) fn new(places: usize) -> Self {
        Self {
            shops: HashMap::new(),
            left: places,
        }
    }

    /// Takes one more.
    ///
    /// # Errors
    /// Gives it back where there is no room.
    pub(super) fn enter(&mut self, shop: ShopId, one: T, now: Instant) -> Result<(), T> {
        if self.left == 0 {
            return Err(one);
        }
        self.left -= 1;
        self.shops.entry(shop).or_default().push((now, one));
        Ok(())
    }

    /// Those who wait for this shop, in the order in which they came; they wait no more.
    pub(super) fn leave(&mut self, shop: ShopId) -> Vec<T> {
        let waited = self.shops.remove(&shop).unwrap_or_default();
        self.left += waited.len();
        waited.into_iter().map(|(_, one)| one).collect()
    }

    /// Those who have waited for long enough; they wait no more.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<T> {
        let mut over = Vec::new();
        self.shops.retain(|_, waiting| {
            over.extend(waiting.extract_if(.., |(since, _)| now.duration_since(*since) >= WAIT));
            !waiting.is_empty()
        });
        self.left += over.len();
        over.into_iter().map(|(_, one)| one).collect()
    }

    /// The shops for which anybody waits.
    pub(super) fn shops(&self) -> impl Iterator<Item = ShopId> {
        self.shops.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn whoever_waits_has_one_of_so_many_places_until_let_in_or_until_the_time_is_over() {
        let shop = |number| ShopId::from(Uuid::from_u128(number));
        let begin = Instant::now();
        let mut lobby = Lobby::new(3);
        for (number, of, after) in [(1, 1, 0), (2, 2, 1), (3, 1, 1)] {
            let now = begin + WAIT / 2 * after;
            assert_eq!(lobby.enter(shop(of), number, now), Ok(()));
        }
        assert_eq!(lobby.enter(shop(3), 4, begin), Err(4), "there is no place left");
        assert!(lobby.leave(shop(3)).is_empty());
        assert!(lobby.give_up(begin + WAIT / 2).is_empty());
        assert_eq!(lobby.give_up(begin + WAIT), [1]);
        assert_eq!(lobby.enter(shop(1), 5, begin + WAIT), Ok(()));
        assert_eq!(lobby.leave(shop(1)), [3, 5]);
        assert_eq!(lobby.shops().collect::<Vec<_>>(), [shop(2)]);
        assert_eq!(lobby.leave(shop(2)), [2]);
        assert_eq!((lobby.shops().count(), lobby.left), (0, 3), "nothing is left behind");
    }
}
