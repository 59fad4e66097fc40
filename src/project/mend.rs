//! Single baskets that somebody wants folded anew: the owner of the partition does it, since only it writes baskets.

use std::collections::{BTreeMap, BTreeSet};

use super::step::Fold;
use crate::core::failpoint;
use crate::journal::RawEvent;
use crate::refold::{self, RefoldError};
use crate::views::{AskedRefold, Lease, LeaseId, Saved, Whole};

/// Events of the journal that are read at a time, about, in search of those of a basket: a tenth of a second. Where a shop
/// has more, the search goes on the next time, so that the partition's other baskets need not wait for it.
const READ_MAX: u64 = 20_000;

/// What became of a request.
enum Mended {
    /// The basket is right.
    Whole,
    /// The document was written meanwhile.
    Stale,
    /// Not all of its events are found yet.
    Searching,
}

/// Folds what was asked for anew, up to the checkpoint of the partition.
///
/// The document that is there may have been spoiled in any field, the fence included. So it is replaced
/// as it was seen, and only while the lease is still held. No update is sent: every event has had its own.
pub(super) async fn requested(
    fold: &mut Fold,
    me: &LeaseId,
    lease: Lease,
    partitions: u16,
    checkpoint: u64,
) -> Result<(), RefoldError> {
    let views = fold.parts.views.clone();
    let mut left = READ_MAX;
    let mut all = views.refolds_of(lease.partition, partitions).await?;
    // Those that need the least of the journal first.
    all.sort_by_key(|asked| std::cmp::Reverse(asked.refold.through));
    for asked in all {
        let id = asked.refold.basket;
        match mend(fold, me, lease, &asked, checkpoint, &mut left).await? {
            Mended::Whole => {
                failpoint::hit("after_mend");
                views.refolded(&asked).await?;
                fold.parts.metrics.refolded_baskets.inc();
                tracing::info!(basket = %id, "folded basket {id} anew from the journal");
            }
            // It is tried again in a moment.
            Mended::Stale => fold.parts.metrics.guarded_writes.inc(),
            Mended::Searching => {}
        }
    }
    Ok(())
}

async fn mend(
    fold: &mut Fold,
    me: &LeaseId,
    lease: Lease,
    asked: &AskedRefold,
    checkpoint: u64,
    left: &mut u64,
) -> Result<Mended, RefoldError> {
    let (views, journal) = (fold.parts.views.clone(), fold.parts.journal.clone());
    let (id, through) = (asked.refold.basket, asked.refold.through);
    if *left == 0 && through < checkpoint {
        return Ok(Mended::Searching);
    }
    let mut events: BTreeMap<u64, RawEvent> = BTreeMap::new();
    let found = refold::some_of_shop(&journal, id.shop, through, checkpoint, *left, |event: RawEvent| {
        if refold::Decoded::of(&event).basket == Some(id) {
            events.insert(event.sequence, event);
        }
    });
    let (reached, read) = found.await?;
    *left = left.saturating_sub(read);
    if reached < checkpoint {
        let found: Vec<u64> = events.into_keys().collect();
        views.read_for_refold(asked, &found, reached).await?;
        return Ok(Mended::Searching);
    }
    let seen = views.whole(id).await?;
    // Who asked may have seen a document that had lost events; the one that is there now may have them again.
    let places: BTreeSet<u64> = asked
        .refold
        .sequences
        .iter()
        .copied()
        .filter(|place| *place <= through)
        .chain(seen.as_ref().map(Whole::sequences).unwrap_or_default())
        .filter(|place| *place <= checkpoint && !events.contains_key(place))
        .collect();
    let known = refold::events_at(&journal, &places).await?;
    events.extend(known.into_iter().map(|event| (event.sequence, event)));
    let dropped = refold::dropped(&views, fold.epoch(), events.keys().copied()).await?;
    let basket = refold::fold(id, fold.parts.action_id, events.values(), &dropped);
    let parked_since = basket.parked_since();
    let basket = (basket.sequence() > 0).then_some(&basket);
    if !views.holds(me, lease).await? {
        return Ok(Mended::Stale);
    }
    fold.forget(id);
    let epoch = fold.epoch().to_owned();
    if views.mend(id, seen.as_ref(), basket, &epoch, lease.fence).await? == Saved::Stale {
        return Ok(Mended::Stale);
    }
    // What came while the document could not be read is in the basket now, and nobody was told of it.
    views.retry_parked(&epoch, id, checkpoint, parked_since).await?;
    Ok(Mended::Whole)
}
