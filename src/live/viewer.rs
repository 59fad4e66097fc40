//! One viewer: what it is sent next, at the pace of its own connection.
//!
//! A viewer is asked for the next piece only when its connection has room for it, so it holds no more
//! than one piece and a page of old updates or of the snapshot, however slow it is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Hub;
use super::frame::{self, Goodbye};
use super::join::{self, Joined, Snapshot};
use super::log::{Cursor, Log, Taken, Told};
use crate::core::error_chain;
use crate::core::id::{SessionId, ShopId};
use crate::core::retry::Backoff;
use crate::updates::{Place, ReadError};
use crate::views::{HandledBaskets, OpenBaskets, ViewError};

/// Updates taken from the log at a time.
const TAKE_MAX: usize = 64;
/// Bytes after which a piece is handed over.
const PIECE_BYTES: usize = 16 * 1024;
/// Old updates read from the stream at a time.
const OLD_MAX: usize = 256;
/// Times that old updates which should be there may be missing before they count as gone.
const OLD_EMPTY_MAX: u32 = 20;
/// Baskets in one message of the snapshot.
const PAGE_BASKETS: u16 = 100;
/// Pieces a second that all viewers of a process together are sent, about, while they have everything.
/// Each is a write and a wake-up: beyond some of them they would take the processors from the phones.
const PIECES_PER_SECOND: u32 = 8_000;
/// A shorter rest is none: timers know milliseconds.
const REST_MIN: Duration = Duration::from_millis(2);
/// Longer than this nobody rests, however many they are.
const REST_MAX: Duration = Duration::from_millis(500);

/// A viewer of a shop.
pub(super) struct Viewer {
    hub: Hub,
    shop: ShopId,
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    beat: Interval,
    phase: Phase,
    cursor: Cursor,
    /// Updates that were taken and are to be sent; at most what one taking gives.
    taken: VecDeque<Arc<Told>>,
    /// Versions of the baskets whose snapshot is newer than its place.
    ahead: Ahead,
    /// Who handles baskets of the shop, and what it was told of that.
    handled: watch::Receiver<Option<HandledBaskets>>,
    handled_told: Option<HandledBaskets>,
    /// When it was sent something last.
    sent_at: Option<Instant>,
    // Given back when the viewer is gone.
    _seat: OwnedSemaphorePermit,
}

enum Phase {
    /// Finding out where it begins.
    Joining(BoxFuture<'static, Joined>),
    /// Reading the next page of the snapshot.
    Snapshot(BoxFuture<'static, Page>),
    /// Reading updates that are not in memory.
    Old(BoxFuture<'static, Result<Vec<Told>, Missed>>),
    /// Reading the log.
    Live,
    /// Nothing more is sent.
    Over,
}

/// A page of the snapshot.
struct Page {
    snapshot: Snapshot,
    baskets: Vec<String>,
    /// After which to ask for more; nothing if this is the last one.
    next: Option<String>,
    /// Baskets that are newer than the snapshot's place: session, version, sequence.
    ahead: Vec<(SessionId, u64, u64)>,
}

/// Updates may have aged out before they were read.
struct Missed;

#[derive(Default)]
struct Ahead {
    versions: HashMap<SessionId, u64>,
    /// The highest sequence among them: beyond it nothing of the snapshot comes again.
    through: u64,
}

impl Ahead {
    /// Whether the snapshot had this update already.
    fn has(&mut self, told: &Told) -> bool {
        if self.versions.is_empty() {
            return false;
        }
        let has = self
            .versions
            .get(&told.session)
            .is_some_and(|version| told.version <= *version);
        if told.at.sequence >= self.through {
            self.versions = HashMap::new();
        }
        has
    }
}

impl Viewer {
    pub(super) fn new(hub: &Hub, shop: ShopId, after: Option<Place>, seat: OwnedSemaphorePermit) -> Self {
        hub.0.metrics.live_viewers.inc();
        let log = hub.enter(shop);
        // The first heartbeat comes after a whole pause.
        let mut beat = tokio::time::interval_at(Instant::now() + hub.0.heartbeat, hub.0.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            changed: log.changed(),
            beat,
            phase: Phase::Joining(join::join(hub.clone(), shop, Arc::clone(&log), after).boxed()),
            cursor: Cursor::at(after.unwrap_or(Place { place: 0, sequence: 0 })),
            taken: VecDeque::new(),
            ahead: Ahead::default(),
            handled: hub.0.views.watch_handlings(shop),
            handled_told: None,
            sent_at: None,
            hub: hub.clone(),
            shop,
            log,
            _seat: seat,
        }
    }

    /// What is sent next; nothing after the end, which `ended` may say that it is.
    pub(super) async fn next(&mut self, ended: impl Future<Output = Goodbye>) -> Option<Bytes> {
        if matches!(self.phase, Phase::Over) {
            return None;
        }
        let stop = self.hub.0.stop.clone();
        let goodbye = tokio::select! {
            biased;
            () = stop.cancelled() => Goodbye::Stopping,
            goodbye = ended => goodbye,
            piece = self.piece() => {
                self.sent_at = Some(Instant::now());
                return Some(piece);
            }
        };
        Some(self.leave(goodbye))
    }

    fn leave(&mut self, goodbye: Goodbye) -> Bytes {
        self.phase = Phase::Over;
        let goodbyes = &self.hub.0.metrics.live_goodbyes;
        goodbyes.with_label_values(&[goodbye.word()]).inc();
        frame::goodbye(goodbye)
    }

    async fn piece(&mut self) -> Bytes {
        loop {
            if !self.taken.is_empty() {
                return self.render(String::new());
            }
            let step = match &mut self.phase {
                Phase::Joining(joining) => tokio::select! {
                    joined = joining => Some(self.joined(joined)),
                    _ = self.beat.tick() => Some(frame::comment("waiting for the updates")),
                },
                Phase::Snapshot(reading) => tokio::select! {
                    page = reading => Some(self.page(page)),
                    _ = self.beat.tick() => Some(frame::comment("waiting for the baskets")),
                },
                Phase::Old(reading) => tokio::select! {
                    old = reading => self.old(old),
                    _ = self.beat.tick() => Some(frame::comment("waiting for the updates")),
                },
                Phase::Live => self.live().await,
                Phase::Over => return Bytes::new(),
            };
            if let Some(piece) = step {
                return piece;
            }
        }
    }

    fn joined(&mut self, joined: Joined) -> Bytes {
        self.cursor = joined.cursor;
        self.phase = match joined.snapshot {
            Some(snapshot) => self.snapshot_from(snapshot, None),
            None => Phase::Live,
        };
        Bytes::from(joined.hello)
    }

    fn snapshot_from(&self, snapshot: Snapshot, after: Option<String>) -> Phase {
        Phase::Snapshot(read_page(self.hub.clone(), self.shop, snapshot, after).boxed())
    }

    fn page(&mut self, page: Page) -> Bytes {
        for (session, version, sequence) in page.ahead {
            self.ahead.versions.insert(session, version);
            self.ahead.through = self.ahead.through.max(sequence);
        }
        let place = page.next.is_none().then_some(self.cursor.at);
        self.phase = match page.next {
            Some(next) => self.snapshot_from(page.snapshot, Some(next)),
            None => Phase::Live,
        };
        Bytes::from(frame::snapshot(&page.baskets, place))
    }

    fn old(&mut self, old: Result<Vec<Told>, Missed>) -> Option<Bytes> {
        let Ok(old) = old else {
            return Some(self.leave(Goodbye::Lost));
        };
        if let Some(last) = old.last() {
            self.cursor = Cursor::at(last.at);
        }
        self.taken.extend(old.into_iter().map(Arc::new));
        self.phase = Phase::Live;
        None
    }

    /// Takes what follows from the log, or waits for it.
    async fn live(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.handlings() {
            return Some(piece);
        }
        self.changed.borrow_and_update();
        match self.log.take(&mut self.cursor, TAKE_MAX) {
            Taken::Updates(updates) => {
                let now = OffsetDateTime::now_utc();
                for told in &updates {
                    let delay = (now - told.stored_at).as_seconds_f64().max(0.0);
                    self.hub.0.metrics.live_delay_seconds.observe(delay);
                }
                self.taken.extend(updates);
                None
            }
            Taken::Coalesced { updates, left_out } => {
                self.hub.0.metrics.live_coalesced_updates.inc_by(left_out);
                self.taken.extend(updates);
                Some(self.render(frame::coalesced(left_out, self.cursor.at)))
            }
            Taken::Before => {
                self.phase = Phase::Old(read_old(self.hub.clone(), self.shop, self.cursor.at).boxed());
                None
            }
            Taken::Lagging => Some(self.leave(Goodbye::Lagging)),
            Taken::Over(goodbye) => Some(self.leave(goodbye)),
            Taken::Everything { newest, stale_since } => {
                if let Some(until) = self.rests_until() {
                    tokio::time::sleep_until(until).await;
                    return None;
                }
                self.wait(newest, stale_since).await
            }
        }
    }

    /// What it has to be told about who handles baskets: all of it the first time, and then what changed.
    fn handlings(&mut self) -> Option<Bytes> {
        if self.handled_told.is_some() && !self.handled.has_changed().unwrap_or(false) {
            return None;
        }
        // Not known before MongoDB was there.
        let now = self.handled.borrow_and_update().clone()?;
        match self.handled_told.replace(Arc::clone(&now)) {
            None => Some(frame::handlings(&now)),
            Some(before) => frame::handled_since(&before, &now),
        }
    }

    /// Until when a viewer that has everything is sent no more; nothing if that is over.
    fn rests_until(&self) -> Option<Instant> {
        let rest = rest_among(self.hub.viewers())?;
        // Those who were woken by one update drift apart.
        let until = self.sent_at? + rest.mul_f64(0.75 + fastrand::f64() / 2.0);
        (until > Instant::now()).then_some(until)
    }

    /// Waits for something new, or for the next heartbeat.
    async fn wait(&mut self, newest: Place, stale_since: Option<OffsetDateTime>) -> Option<Bytes> {
        tokio::select! {
                biased;
                // The log's own end of waiting: its sender lives as long as the log, which is ours.
                _ = self.changed.changed() => None,
                Ok(()) = self.handled.changed() => {
                    self.handled.mark_changed();
                    None
                }
                _ = self.beat.tick() => Some(frame::heartbeat(newest, stale_since)),
        }
    }

    /// Puts taken updates into one piece, after what it begins with.
    fn render(&mut self, beginning: String) -> Bytes {
        let sent = &self.hub.0.metrics.live_sent_updates;
        let mut piece = BytesMut::from(Bytes::from(beginning));
        while let Some(told) = self.taken.pop_front() {
            if self.ahead.has(&told) {
                piece.extend_from_slice(frame::passed(told.at).as_bytes());
                continue;
            }
            sent.inc();
            if piece.is_empty() && self.taken.is_empty() {
                // Most pieces are one update, which all viewers share.
                return told.frame.clone();
            }
            piece.extend_from_slice(&told.frame);
            if piece.len() >= PIECE_BYTES {
                break;
            }
        }
        piece.freeze()
    }
}

/// How long each of so many viewers rests between two pieces; nothing if they are few.
fn rest_among(viewers: usize) -> Option<Duration> {
    let rest = Duration::from_secs(1) * u32::try_from(viewers).unwrap_or(u32::MAX) / PIECES_PER_SECOND;
    (rest >= REST_MIN).then(|| rest.min(REST_MAX))
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.log.remove_viewer();
        self.hub.0.metrics.live_viewers.dec();
    }
}

/// Reads a page of the snapshot, as soon as the views can be read and have what the snapshot must have.
async fn read_page(hub: Hub, shop: ShopId, snapshot: Snapshot, after: Option<String>) -> Page {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    let found = loop {
        match try_read_page(&hub, shop, &snapshot, after.as_deref()).await {
            Ok(Some(found)) => break found,
            Ok(None) => {}
            Err(error) => tracing::debug!("a viewer waits for its snapshot: {}", error_chain(&error)),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    };
    let (baskets, sequence) = (&found.baskets, snapshot.at.sequence);
    Page {
        ahead: baskets
            .iter()
            .filter(|(_, view)| view.sequence > sequence)
            .map(|(id, view)| (id.session, view.version, view.sequence))
            .collect(),
        baskets: baskets
            .iter()
            .map(|(id, view)| view.json(*id, view.sequence.max(sequence)))
            .collect(),
        next: found.next,
        snapshot,
    }
}

/// Nothing as long as the baskets are older than the snapshot should be.
async fn try_read_page(
    hub: &Hub,
    shop: ShopId,
    snapshot: &Snapshot,
    after: Option<&str>,
) -> Result<Option<OpenBaskets>, ViewError> {
    let mut views = hub.0.views.clone();
    if let Some((partition, epoch)) = &snapshot.of {
        let (reading, checkpoint) = views.reading(*partition).await?;
        let has_all = checkpoint.is_some_and(|checkpoint| {
            // Sequences of another journal tell nothing.
            checkpoint.epoch != *epoch
                || u64::try_from(checkpoint.sequence).is_ok_and(|sequence| sequence >= snapshot.at.sequence)
        });
        if !has_all && Instant::now() < snapshot.wait_until {
            return Ok(None);
        }
        views = reading;
    }
    views.open_baskets(shop, after, PAGE_BASKETS).await.map(Some)
}

/// Reads updates that are no longer in memory, as soon as the stream can be read.
async fn read_old(hub: Hub, shop: ShopId, from: Place) -> Result<Vec<Told>, Missed> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut empty = 0;
    loop {
        match try_read_old(&hub, shop, from).await {
            // A replica that does not have them yet.
            Ok(Ok(old)) if old.is_empty() && empty < OLD_EMPTY_MAX => empty += 1,
            // Somebody took them out of the middle of the stream.
            Ok(Ok(old)) if old.is_empty() => return Err(Missed),
            Ok(read) => return read,
            Err(error) => tracing::debug!("a viewer waits for old updates: {}", error_chain(&error)),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn try_read_old(hub: &Hub, shop: ShopId, from: Place) -> Result<Result<Vec<Told>, Missed>, ReadError> {
    let _turn = hub.0.catching_up.acquire().await.map_err(ReadError::unavailable)?;
    let feed = &hub.0.feed;
    let old = feed.after(shop, from.place, OLD_MAX).await?;
    // Asked afterwards: what is there now was there all the time, since updates age out in order.
    let is_whole = match feed.at(from.place).await? {
        Some(update) if update.shop == shop && update.at == from => true,
        _ => feed.extent().await?.first <= from.place.saturating_add(1),
    };
    if !is_whole {
        return Ok(Err(Missed));
    }
    Ok(Ok(old.iter().filter_map(Told::of).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_viewers_never_rest_and_a_crowd_shares_what_there_is() {
        assert_eq!(rest_among(1), None);
        assert_eq!(rest_among(15), None);
        assert_eq!(rest_among(1_000), Some(Duration::from_millis(125)));
        assert_eq!(rest_among(1_000_000), Some(REST_MAX));
    }
}
