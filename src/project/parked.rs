//! Parked events about which a person decided: the owner of the partition does it, since only it writes baskets.

use std::collections::BTreeSet;

use super::step::{Decided, Fold, StepError};
use crate::core::failpoint;
use crate::core::id::BasketId;
use crate::views::ParkedState;

/// Applies what is to be applied and takes note of what is dropped, as far as the checkpoint has come:
/// an update of an event before must not be overtaken by a late one.
///
/// Between saving the basket and forgetting the parked events the power may go; they are then
/// applied again, which finds them in the basket.
pub(super) async fn decide(fold: &mut Fold, partition: u16, up_to: u64) -> Result<(), StepError> {
    let views = fold.parts.views.clone();
    let epoch = fold.epoch().to_owned();
    let marked = views.decided(&epoch, partition, up_to).await?;
    let baskets: BTreeSet<BasketId> = marked.iter().filter_map(|event| event.basket).collect();
    for id in baskets {
        let events = views.parked_of(&epoch, id).await?;
        let decided = match fold.apply_parked(id, &events, up_to).await {
            Ok(decided) => decided,
            // The next time is in a moment; until somebody heals the basket, what is parked in others is not kept waiting.
            Err(StepError::Stale) => {
                fold.parts.metrics.guarded_writes.inc();
                continue;
            }
            Err(error) => return Err(error),
        };
        let (mut applied, mut dropped) = (Vec::new(), Vec::new());
        for (event, outcome) in decided {
            match outcome {
                Decided::Applied => applied.push(event),
                Decided::Dropped => dropped.push(event),
                Decided::ParkedAgain(reason) => views.park_again(&event, &reason).await?,
            }
        }
        tracing::info!(
            "of the parked events of basket {id}, {} were applied and {} dropped",
            applied.len(),
            dropped.len()
        );
        views.note_dropped(&dropped).await?;
        failpoint::hit("after_note_dropped");
        views.unpark(&applied).await?;
    }
    // An event that names no basket has nowhere to go.
    for event in marked.iter().filter(|event| event.basket.is_none()) {
        if event.state == ParkedState::Drop {
            views.note_dropped(std::slice::from_ref(&event.id)).await?;
        } else {
            views
                .park_again(
                    &event.id,
                    &format!("{}; it names no basket, so it can only be dropped", event.reason),
                )
                .await?;
        }
    }
    Ok(())
}
