//! The newest updates of a shop in memory, shared by its viewers.
//!
//! Two things are kept: the last updates as they came, and the newest update of each basket. A viewer
//! within the former gets every update; one that fell out gets the latter, as far as it goes back.
//! Both are bounded, whatever viewers do, and nothing here waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::frame::{self, Goodbye};
use crate::core::id::SessionId;
use crate::updates::{Place, StoredUpdate};

/// Updates kept as they came. A viewer that is further behind is coalesced.
const RECENT_MAX: usize = 1_024;
/// Bytes of them.
const RECENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Baskets whose newest update is kept. A viewer that missed more is sent away to come back.
const BASKETS_MAX: usize = 1_000;
/// Bytes of these updates.
const BASKETS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An update, ready to be sent.
#[derive(Debug)]
pub(super) struct Told {
    /// Its place.
    pub(super) at: Place,
    /// Whose basket it tells of.
    pub(super) session: SessionId,
    /// The version of the basket after it.
    pub(super) version: u64,
    /// Since when it is stored.
    pub(super) stored_at: OffsetDateTime,
    /// The event, as it is sent.
    pub(super) frame: Bytes,
}

impl Told {
    /// Nothing if the message is no update of ours.
    pub(super) fn of(update: &StoredUpdate) -> Option<Self> {
        #[derive(Deserialize)]
        struct Json<'a> {
            session_id: &'a str,
            basket: Basket,
        }
        #[derive(Deserialize)]
        struct Basket {
            version: u64,
        }
        let text = std::str::from_utf8(&update.json)
            .ok()
            .filter(|text| !text.contains('\n'))?;
        let json: Json<'_> = serde_json::from_str(text).ok()?;
        Some(Self {
            at: update.at,
            session: SessionId::parse(json.session_id).ok()?,
            version: json.basket.version,
            stored_at: update.stored_at,
            frame: frame::update(update.at, text),
        })
    }
}

/// How far a viewer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// It has everything up to here.
    pub(super) at: Place,
    /// Updates of the log up to there; not known before it has taken the first from the log.
    count: Option<u64>,
}

impl Cursor {
    /// A viewer that has everything up to a place.
    pub(super) fn at(at: Place) -> Self {
        Self { at, count: None }
    }
}

/// What the log has for a viewer.
#[derive(Debug)]
pub(super) enum Taken {
    /// The updates that follow.
    Updates(Vec<Arc<Told>>),
    /// The newest update of each basket that changed, and how many others were left out.
    Coalesced { updates: Vec<Arc<Told>>, left_out: u64 },
    /// Nothing: it has everything.
    Everything {
        /// The shop's newest place.
        newest: Place,
        /// Since when it is not known whether there is more.
        stale_since: Option<OffsetDateTime>,
    },
    /// What follows is no longer, or was never, in memory; the stream may have it.
    Before,
    /// It is so far behind that it has to come back.
    Lagging,
    /// The log is over.
    Over(Goodbye),
}

/// The log of a shop.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    viewers: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// The shop's newest place; nothing before the stream was reached.
    newest: Option<Place>,
    /// Updates so far.
    count: u64,
    recent: VecDeque<Arc<Told>>,
    recent_bytes: usize,
    /// `recent` has every update after this place.
    recent_after: u64,
    latest: BTreeMap<u64, Arc<Told>>,
    latest_bytes: usize,
    latest_of: HashMap<SessionId, u64>,
    /// `latest` has the newest update of every basket that changed after this place.
    latest_after: u64,
    stale_since: Option<OffsetDateTime>,
    over: Option<Goodbye>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            viewers: AtomicUsize::new(0),
        }
    }
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whenever a viewer may find something new.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn add_viewer(&self) {
        self.viewers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_viewer(&self) {
        self.viewers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// The log begins: everything of the shop after `newest` will be appended.
    pub(super) fn open(&self, newest: Place) {
        let mut state = self.state();
        state.newest = Some(newest);
        state.recent_after = newest.place;
        state.latest_after = newest.place;
        state.stale_since = None;
        drop(state);
        self.changed.send_replace(());
    }

    /// The shop's newest place, once it is known.
    pub(super) fn newest(&self) -> Option<Place> {
        self.state().newest
    }

    /// Since when the update of an event is stored, while it is among the last ones.
    pub(super) fn stored_at(&self, sequence: u64) -> Option<OffsetDateTime> {
        let state = self.state();
        let mut recent = state.recent.iter().rev();
        let told = recent.find(|told| told.at.sequence == sequence)?;
        Some(told.stored_at)
    }

    /// Since when it is not known whether there is more.
    pub(super) fn stale_since(&self) -> Option<OffsetDateTime> {
        self.state().stale_since
    }

    /// Appends updates in their order.
    pub(super) fn append(&self, updates: Vec<Told>) {
        let mut state = self.state();
        for told in updates {
            state.append(Arc::new(told));
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// It is not known whether there is more, since this time unless it was unknown before.
    pub(super) fn set_stale(&self, since: OffsetDateTime) {
        self.state().stale_since.get_or_insert(since);
    }

    /// It is known that there is no more.
    pub(super) fn set_fresh(&self) {
        self.state().stale_since = None;
    }

    /// Ends the log, for all viewers.
    pub(super) fn end(&self, goodbye: Goodbye) {
        self.state().over = Some(goodbye);
        self.changed.send_replace(());
    }

    /// Whether a place that a viewer had is right, and everything after it is here. If not, the stream is to be asked.
    pub(super) fn knows(&self, place: Place) -> bool {
        let state = self.state();
        let in_recent = state.recent.binary_search_by_key(&place, |told| told.at).is_ok();
        in_recent || (state.newest == Some(place) && place.sequence > 0)
    }

    /// Takes what follows a viewer's place, at most `max` unless coalesced, and moves it on.
    pub(super) fn take(&self, cursor: &mut Cursor, max: usize) -> Taken {
        let state = self.state();
        if let Some(goodbye) = state.over {
            return Taken::Over(goodbye);
        }
        let newest = state.newest.unwrap_or(cursor.at);
        if cursor.at.place >= newest.place {
            cursor.count = Some(state.count);
            return Taken::Everything {
                newest: newest.max(cursor.at),
                stale_since: state.stale_since,
            };
        }
        if state.recent_after <= cursor.at.place {
            let from = state.recent.partition_point(|told| told.at.place <= cursor.at.place);
            let updates: Vec<_> = state.recent.iter().skip(from).take(max).map(Arc::clone).collect();
            if let Some(last) = updates.last() {
                cursor.at = last.at;
            }
            let left = state.recent.len() - from - updates.len();
            cursor.count = Some(state.count - u64::try_from(left).unwrap_or(0));
            return Taken::Updates(updates);
        }
        let Some(count) = cursor.count else {
            return Taken::Before;
        };
        if state.latest_after > cursor.at.place {
            return Taken::Lagging;
        }
        let after = state.latest.range(cursor.at.place + 1..);
        let updates: Vec<_> = after.map(|(_, told)| Arc::clone(told)).collect();
        let all = state.count - count;
        *cursor = Cursor {
            at: newest,
            count: Some(state.count),
        };
        Taken::Coalesced {
            left_out: all - u64::try_from(updates.len()).unwrap_or(all),
            updates,
        }
    }
}

impl State {
    fn append(&mut self, told: Arc<Told>) {
        self.newest = Some(told.at);
        self.count += 1;
        if let Some(earlier) = self.latest_of.insert(told.session, told.at.place)
            && let Some(earlier) = self.latest.remove(&earlier)
        {
            self.latest_bytes -= earlier.frame.len();
        }
        self.latest_bytes += told.frame.len();
        self.latest.insert(told.at.place, Arc::clone(&told));
        while self.latest.len() > BASKETS_MAX || self.latest_bytes > BASKETS_BYTES_MAX {
            if let Some((place, told)) = self.latest.pop_first() {
                self.latest_bytes -= told.frame.len();
                self.latest_of.remove(&told.session);
                self.latest_after = place;
            }
        }
        self.recent_bytes += told.frame.len();
        self.recent.push_back(told);
        while self.recent.len() > RECENT_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            if let Some(told) = self.recent.pop_front() {
                self.recent_bytes -= told.frame.len();
                self.recent_after = told.at.place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn told(place: u64, session: u128) -> Told {
        let at = Place { place, sequence: place };
        Told {
            at,
            session: SessionId::from(Uuid::from_u128(session)),
            version: place,
            stored_at: OffsetDateTime::UNIX_EPOCH,
            frame: frame::update(at, "{}"),
        }
    }

    fn place(place: u64) -> Place {
        Place { place, sequence: place }
    }

    fn places(updates: &[Arc<Told>]) -> Vec<u64> {
        updates.iter().map(|told| told.at.place).collect()
    }

    #[test]
    fn a_viewer_that_keeps_up_gets_each_update() {
        let log = Log::default();
        log.open(place(10));
        let mut cursor = Cursor::at(place(10));
        let mut had = Vec::new();
        for next in 11..5_011 {
            log.append(vec![told(next, u128::from(next) % 3)]);
            if next % 100 == 0 {
                while let Taken::Updates(updates) = log.take(&mut cursor, 64) {
                    had.extend(places(&updates));
                }
            }
        }
        while let Taken::Updates(updates) = log.take(&mut cursor, 64) {
            had.extend(places(&updates));
        }
        assert_eq!(had, (11..5_011).collect::<Vec<_>>());
    }

    #[test]
    fn a_viewer_that_does_not_gets_the_newest_of_each_basket_and_how_many_it_was_spared() {
        let log = Log::default();
        log.open(place(10));
        let mut cursor = Cursor::at(place(10));
        assert!(matches!(log.take(&mut cursor, 64), Taken::Everything { .. }));
        log.append((11..=5_010).map(|next| told(next, u128::from(next) % 7)).collect());
        let Taken::Coalesced { updates, left_out } = log.take(&mut cursor, 64) else {
            panic!("5,000 updates behind");
        };
        assert_eq!(places(&updates), (5_004..=5_010).collect::<Vec<_>>());
        assert_eq!(left_out, 4_993);
        assert!(matches!(log.take(&mut cursor, 64), Taken::Everything { newest, .. } if newest == place(5_010)));
    }

    #[test]
    fn a_viewer_that_missed_too_many_baskets_has_to_come_back() {
        let log = Log::default();
        log.open(place(10));
        let mut cursor = Cursor::at(place(10));
        log.take(&mut cursor, 64);
        log.append((11..=2_000).map(|next| told(next, u128::from(next))).collect());
        assert!(matches!(log.take(&mut cursor, 64), Taken::Lagging));
        // One that was never in memory is not slow, only late: the stream has what it missed.
        let mut late = Cursor::at(place(12));
        assert!(matches!(log.take(&mut late, 64), Taken::Before));
    }

    #[test]
    fn memory_is_bounded_whatever_happens() {
        let log = Log::default();
        log.open(place(0));
        for next in 1..=20_000 {
            log.append(vec![told(next, u128::from(next))]);
        }
        let state = log.state();
        assert_eq!(state.recent.len(), RECENT_MAX);
        assert_eq!((state.latest.len(), state.latest_of.len()), (BASKETS_MAX, BASKETS_MAX));
        check_bytes(&state);
    }

    #[test]
    fn memory_is_bounded_also_where_updates_are_long() {
        let log = Log::default();
        log.open(place(0));
        let text = format!("\"{}\"", "x".repeat(100_000));
        for next in 1..=200 {
            let frame = frame::update(place(next), &text);
            log.append(vec![Told {
                frame,
                ..told(next, u128::from(next % 90))
            }]);
            check_bytes(&log.state());
        }
        let state = log.state();
        assert!(state.latest.len() < 45, "{}", state.latest.len());
        assert_eq!(state.latest.len(), state.latest_of.len());
        assert_eq!(state.latest_after, 200 - 41);
    }

    fn check_bytes(state: &State) {
        let recent: usize = state.recent.iter().map(|told| told.frame.len()).sum();
        let latest: usize = state.latest.values().map(|told| told.frame.len()).sum();
        assert_eq!((state.recent_bytes, state.latest_bytes), (recent, latest));
        assert!(recent <= RECENT_BYTES_MAX && latest <= BASKETS_BYTES_MAX);
    }

    #[test]
    fn a_place_is_known_only_with_its_sequence() {
        let log = Log::default();
        log.open(place(10));
        log.append(vec![told(12, 1), told(15, 2)]);
        assert!(log.knows(place(12)));
        for other in [
            Place {
                place: 12,
                sequence: 11,
            },
            place(13),
            place(9),
            place(99),
        ] {
            assert!(!log.knows(other), "{other}");
        }
    }

    #[test]
    fn a_viewer_ahead_of_this_process_waits_for_what_is_new_to_it() {
        let log = Log::default();
        log.open(place(10));
        let mut cursor = Cursor::at(place(12));
        assert!(matches!(log.take(&mut cursor, 64), Taken::Everything { newest, .. } if newest == place(12)));
        log.append(vec![told(11, 1), told(12, 1), told(13, 1)]);
        let Taken::Updates(updates) = log.take(&mut cursor, 64) else {
            panic!("13 is new");
        };
        assert_eq!(places(&updates), [13]);
    }
}
