//! Tokens that were checked, so that the next request with one of them costs a look-up and no signature.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use time::OffsetDateTime;

use super::Claims;

/// Tokens that are remembered by a process. The one that was not seen for the longest time makes room.
pub(super) const REMEMBERED_MAX: usize = 50_000;
/// Parts with a lock each, by the first bits of the hash.
const SHARDS: usize = 16;
const SHARD_MAX: NonZeroUsize = NonZeroUsize::new(REMEMBERED_MAX / SHARDS).unwrap();

/// The name of a token: the hash of all of it.
pub(super) type Name = [u8; 32];

#[derive(Debug)]
struct Entry {
    /// The keys' epoch in which it was checked. When a key goes, the epoch does, and all that was checked in it.
    epoch: u64,
    claims: Claims,
}

/// What was checked and has not ended.
#[derive(Debug)]
pub(super) struct Remembered {
    shards: [Mutex<LruCache<Name, Entry>>; SHARDS],
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::sparse(SHARD_MAX))),
        }
    }
}

impl Remembered {
    pub(super) fn get(&self, name: &Name, epoch: u64, now: OffsetDateTime) -> Option<Claims> {
        let mut shard = self.shard(name).lock().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(name)?;
        if entry.epoch == epoch && entry.claims.expires_at > now {
            return Some(entry.claims.clone());
        }
        // An older one never becomes right again; one of a later epoch was put there while this caller had older keys.
        if entry.epoch <= epoch {
            shard.pop(name);
        }
        None
    }

    pub(super) fn put(&self, name: Name, epoch: u64, claims: Claims) {
        let entry = Entry { epoch, claims };
        let mut shard = self.shard(&name).lock().unwrap_or_else(PoisonError::into_inner);
        shard.put(name, entry);
    }

    fn shard(&self, name: &Name) -> &Mutex<LruCache<Name, Entry>> {
        &self.shards[usize::from(name[0]) % SHARDS]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::keys::sha256;

    fn claims(expires_at: OffsetDateTime) -> Claims {
        Claims {
            subject: "ada".to_owned(),
            token_id: String::new(),
            issued_at: expires_at,
            authenticated_at: None,
            expires_at,
            role: None,
            shops: Vec::new(),
            shopper_id: None,
            anonymous: false,
        }
    }

    #[test]
    fn a_token_is_remembered_until_it_ends_or_a_key_goes() {
        let remembered = Remembered::default();
        let end = datetime!(2026-01-01 12:00 UTC);
        let before = end - time::Duration::seconds(1);
        remembered.put([1; 32], 7, claims(end));
        assert!(remembered.get(&[1; 32], 7, before).is_some());
        assert!(remembered.get(&[2; 32], 7, before).is_none());
        assert!(remembered.get(&[1; 32], 7, end).is_none());
        remembered.put([1; 32], 7, claims(end));
        assert!(remembered.get(&[1; 32], 8, before).is_none());
        assert!(remembered.get(&[1; 32], 7, before).is_none(), "it is gone");
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let remembered = Remembered::default();
        let end = datetime!(2026-01-01 12:00 UTC);
        for number in 0..2 * REMEMBERED_MAX {
            remembered.put(sha256(&number.to_be_bytes()), 0, claims(end));
        }
        assert_eq!(remembered.len(), REMEMBERED_MAX);
    }
}
