//! Places of which each who comes may have so many at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Somebody has as many places as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The places that are taken, by whoever has them; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Places<K: Hash + Eq + Clone> {
    /// 0 for any number.
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Hash + Eq + Clone> {
    places: Places<K>,
    key: K,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// So many for each; any number where it is 0.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// One more for this one.
    pub(crate) fn take(&self, key: K) -> Result<Place<K>, Full> {
        let mut all = self.taken();
        let taken = all.entry(key.clone()).or_default();
        // Whoever is full has one at least, so that no entry of 0 stays.
        if self.most > 0 && *taken >= self.most {
            return Err(Full);
        }
        *taken += 1;
        drop(all);
        Ok(Place {
            places: self.clone(),
            key,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Every change of the map is whole when the lock is given back.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut all = self.places.taken();
        if let Some(taken) = all.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_remembered_who_has_no_place() {
        let places = Places::new(1);
        let one = places.take("a").unwrap();
        assert!(places.take("a").is_err());
        let other = places.take("b").unwrap();
        drop(one);
        drop(places.take("a").unwrap());
        drop(other);
        assert!(places.taken().is_empty());
    }
}
