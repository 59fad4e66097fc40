//! Single baskets that somebody wants folded anew: the owner of the partition does it, since only it writes baskets.

use std::collections::BTreeSet;

use super::step::Fold;
use crate::core::failpoint;
use crate::journal::RawEvent;
use crate::refold::{self, RefoldError};
use crate::views::{Lease, LeaseId, Refold, Saved};

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
    for request in views.refolds_of(lease.partition, partitions).await? {
        let id = request.basket;
        match mend(fold, me, lease, &request, checkpoint).await? {
            Saved::All => {
                failpoint::hit("after_mend");
                views.refolded(&request).await?;
                fold.parts.metrics.refolded_baskets.inc();
                tracing::info!(basket = %id, "folded basket {id} anew from the journal");
            }
            // It is tried again in a moment.
            Saved::Stale => fold.parts.metrics.guarded_writes.inc(),
        }
    }
    Ok(())
}

async fn mend(
    fold: &mut Fold,
    me: &LeaseId,
    lease: Lease,
    request: &Refold,
    checkpoint: u64,
) -> Result<Saved, RefoldError> {
    let (views, journal, id) = (fold.parts.views.clone(), fold.parts.journal.clone(), request.basket);
    let seen = views.whole(id).await?;
    let places: BTreeSet<u64> = request
        .sequences
        .iter()
        .copied()
        .filter(|place| *place <= request.through.min(checkpoint))
        .collect();
    let mut events = refold::events_at(&journal, &places).await?;
    refold::events_of_shop(&journal, id.shop, request.through, checkpoint, |event: RawEvent| {
        if refold::Decoded::of(&event).basket == Some(id) {
            events.push(event);
        }
    })
    .await?;
    let dropped = refold::dropped(&views, fold.epoch(), events.iter().map(|event| event.sequence)).await?;
    let basket = refold::fold(id, fold.parts.action_id, &events, &dropped);
    let basket = (basket.sequence() > 0).then_some(&basket);
    if !views.holds(me, lease).await? {
        return Ok(Saved::Stale);
    }
    fold.forget(id);
    let epoch = fold.epoch().to_owned();
    Ok(views.mend(id, seen.as_ref(), basket, &epoch, lease.fence).await?)
}
