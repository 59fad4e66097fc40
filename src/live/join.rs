//! Whether a viewer that comes back gets everything since it left.
//!
//! The place that it had is a pair. It is right if the update at that place is of this shop and has
//! that sequence; as updates age out in order, everything after it is then there, too. Whatever is not
//! known for sure is answered as not recovered, never as nothing new.
//!
//! So one whose shop was quiet for so long that its last update has aged out gets a snapshot, though it
//! may have missed nothing. That the shop's last event in the journal has the sequence of the place
//! does not prove it: a parked event that was applied since has an update with the same sequence, and
//! a place does not say of which journal it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use super::frame;
use super::log::{Cursor, Log};
use crate::core::error_chain;
use crate::core::id::ShopId;
use crate::core::retry::Backoff;
use crate::updates::{Feed, Place, ReadError};

/// Longest wait until the baskets have what was told of them. It takes milliseconds, or a few seconds after the pointer was
/// moved or a projector has died; without any projector nothing new is told either.
const BASKETS_WAIT: Duration = Duration::from_secs(10);

/// What became of a viewer's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It gets everything after it.
    Recovered,
    /// It had none.
    New,
    /// What followed it may no longer be stored.
    AgedOut,
    /// It is of another stream, or of another shop, or of none.
    UnknownPlace,
}

impl Verdict {
    /// The word in metrics and in `hello`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::New => "new",
            Self::AgedOut => "aged_out",
            Self::UnknownPlace => "unknown_place",
        }
    }
}

/// How a viewer begins.
#[derive(Debug)]
pub(super) struct Joined {
    /// The first message.
    pub(super) hello: String,
    /// Where its updates begin.
    pub(super) cursor: Cursor,
    /// The snapshot that it needs first.
    pub(super) snapshot: Option<Snapshot>,
}

/// What the baskets of a snapshot must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Everything up to here.
    pub(super) at: Place,
    /// Of this partition and journal; nothing where the shop has no update.
    pub(super) of: Option<(u16, String)>,
    /// Until when that is waited for.
    pub(super) wait_until: Instant,
}

/// Waits until the shop is followed, and finds out how a viewer begins.
pub(super) async fn join(hub: Hub, shop: ShopId, log: Arc<Log>, after: Option<Place>) -> Joined {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut changed = log.changed();
    loop {
        changed.borrow_and_update();
        if let Some(newest) = log.newest() {
            break match begin(&hub, shop, &log, newest, after).await {
                Ok((verdict, joined)) => {
                    hub.0.metrics.live_joins.with_label_values(&[verdict.word()]).inc();
                    joined
                }
                Err(error) => {
                    tracing::debug!("a viewer waits: {}", error_chain(&error));
                    tokio::time::sleep(backoff.next_pause()).await;
                    continue;
                }
            };
        }
        // A log lives as long as those that wait for it.
        let _ = changed.changed().await;
    }
}

async fn begin(
    hub: &Hub,
    shop: ShopId,
    log: &Log,
    newest: Place,
    after: Option<Place>,
) -> Result<(Verdict, Joined), ReadError> {
    let (feed, heartbeat) = (&hub.0.feed, hub.0.heartbeat);
    let verdict = match after {
        None => Verdict::New,
        Some(place) if log.knows(place) => Verdict::Recovered,
        Some(place) => judge(feed, shop, place).await?,
    };
    if verdict == Verdict::Recovered
        && let Some(place) = after
    {
        // Of a shop without updates nothing lies between the place and the end of the stream.
        let cursor = if newest.sequence == 0 { place.max(newest) } else { place };
        let newest = if newest.sequence == 0 { place } else { newest };
        let joined = Joined {
            hello: frame::hello(verdict, (place, newest), None, log.stale_since(), heartbeat),
            cursor: Cursor::at(cursor),
            snapshot: None,
        };
        return Ok((verdict, joined));
    }
    let oldest = feed.oldest(shop).await?;
    let told = match newest.sequence {
        0 => None,
        _ => feed.at(newest.place).await?,
    };
    let snapshot = Snapshot {
        at: newest,
        of: told.map(|told| (told.partition, told.epoch)),
        wait_until: Instant::now() + BASKETS_WAIT,
    };
    let joined = Joined {
        hello: frame::hello(verdict, (newest, newest), oldest, log.stale_since(), heartbeat),
        // The place comes first and the baskets after it, so that what happens between is in both and not in neither.
        cursor: Cursor::at(newest),
        snapshot: Some(snapshot),
    };
    Ok((verdict, joined))
}

/// Compares a place with what is stored.
pub(super) async fn judge(feed: &Feed, shop: ShopId, place: Place) -> Result<Verdict, ReadError> {
    if place.sequence > 0 {
        let stored = feed.at(place.place).await?;
        if stored.is_some_and(|update| update.shop == shop && update.at == place) {
            return Ok(Verdict::Recovered);
        }
    }
    let extent = feed.extent().await?;
    if place.place < extent.first.saturating_sub(u64::from(place.sequence == 0)) {
        return Ok(Verdict::AgedOut);
    }
    // The place of a viewer whose shop had no update by then is the end of the stream at that time.
    if place.sequence == 0 && place.place <= extent.last {
        let oldest = feed.oldest(shop).await?;
        if oldest.is_none_or(|oldest| oldest.place > place.place) {
            return Ok(Verdict::Recovered);
        }
    }
    Ok(Verdict::UnknownPlace)
}
