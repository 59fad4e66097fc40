//! What people ask for by the API: each becomes one correction in the journal, or is rejected with the reason.
//!
//! The collection `corrections` is the truth; a word from the same process only makes it be looked at
//! sooner. The effects of taking one are, in their order: the note of which differences it makes, the
//! correction in the journal, and the note of its place. The power may go between any two of them. It is
//! then taken again: differences that were noted stand, whatever the basket is by then, and a correction
//! that is in the basket or in the journal is not appended once more.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{CorrectError, Parts, There, journal_open};
use crate::core::basket::{Basket, Plan};
use crate::core::error_chain;
use crate::core::event::Correction;
use crate::core::failpoint;
use crate::core::id::{BasketId, partition_of};
use crate::core::retry::Backoff;
use crate::refold::{self, Decoded};
use crate::views::{Filed, Malformed, Outcome, Refusal, Source, Views};

/// How often it is looked whether another process has filed something.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Corrections that are looked at together, the oldest first.
const TAKEN_MAX: u16 = 256;
/// Baskets whose corrections are taken side by side; those of one basket one after the other.
const SIDE_BY_SIDE: usize = 16;
/// Events of a shop that may be in the journal and not in the views; with more, the views are waited for.
const BEHIND_MAX: usize = 1_000;

/// How long a basket whose corrections cannot be taken now is left alone.
const HELD_UP: Duration = Duration::from_secs(1);

/// Baskets whose corrections cannot be taken now, and when that was last tried.
type HeldUp = HashMap<BasketId, Instant>;

/// Takes what is filed until `stop`, through every failure of the servers.
pub(super) async fn run(parts: Parts, stop: CancellationToken) {
    let mut backoff = Backoff::new(LOOK_INTERVAL, Duration::from_secs(1));
    let mut failing = false;
    let mut held_up = HeldUp::new();
    while let Some(outcome) = stop.run_until_cancelled(Box::pin(take_all(&parts, &mut held_up))).await {
        let pause = match outcome {
            Ok(taken) => {
                backoff.reset();
                if std::mem::take(&mut failing) {
                    tracing::info!("taking corrections goes on");
                }
                if taken > 0 {
                    continue;
                }
                LOOK_INTERVAL
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("taking corrections waits: {}", error_chain(&error));
                }
                backoff.next_pause()
            }
        };
        stop.run_until_cancelled(parts.views.proposed(pause)).await;
    }
}

/// Takes what is filed, and answers how many that were. One that cannot be taken now holds up only those of its basket.
async fn take_all(parts: &Parts, held_up: &mut HeldUp) -> Result<usize, CorrectError> {
    let waiting = &parts.metrics.waiting_corrections;
    let (mut count, mut left) = (0, 0);
    let mut still = HeldUp::new();
    loop {
        // What is taken is no longer new, and what is left is passed by.
        let new = parts.views.new_corrections(left, TAKEN_MAX).await?;
        let found = new.len();
        let seen = left + u64::try_from(found).unwrap_or(u64::MAX);
        waiting.set(i64::try_from(seen).unwrap_or(i64::MAX));
        let mut by_basket: BTreeMap<BasketId, Vec<Filed>> = BTreeMap::new();
        let mut done = 0;
        for filed in new {
            match filed {
                Ok(filed) => by_basket.entry(filed.basket).or_default().push(filed),
                Err(malformed) => done += usize::from(reject_malformed(parts, &malformed).await?),
            }
        }
        for id in by_basket.keys() {
            if let Some(tried) = held_up.get(id).filter(|tried| tried.elapsed() < HELD_UP) {
                still.insert(*id, *tried);
            }
        }
        by_basket.retain(|id, _| !still.contains_key(id));
        let taking = by_basket
            .into_iter()
            .map(|(id, of_one_basket)| async move { (id, take_in_order(parts, &of_one_basket).await) });
        let taken: Vec<_> = stream::iter(taking).buffer_unordered(SIDE_BY_SIDE).collect().await;
        for (id, (taken, outcome)) in taken {
            done += taken;
            match outcome {
                Ok(()) => {
                    if held_up.remove(&id).is_some() {
                        tracing::info!(basket = %id, "corrections of basket {id} are taken again");
                    }
                }
                Err(error) if error.is_of_one_basket() => {
                    if held_up.insert(id, Instant::now()).is_none() {
                        tracing::warn!(basket = %id, "corrections of basket {id} wait: {}", error_chain(&error));
                    }
                    still.insert(id, Instant::now());
                }
                Err(error) => return Err(error),
            }
        }
        count += done;
        left = seen.saturating_sub(u64::try_from(done).unwrap_or(u64::MAX));
        if found < usize::from(TAKEN_MAX) {
            break;
        }
    }
    waiting.set(i64::try_from(left).unwrap_or(i64::MAX));
    *held_up = still;
    Ok(count)
}

/// Takes the corrections of one basket up to the first that cannot be taken now, and answers how many that were.
async fn take_in_order(parts: &Parts, filed: &[Filed]) -> (usize, Result<(), CorrectError>) {
    for (count, filed) in filed.iter().enumerate() {
        if let Err(error) = take(parts, filed).await {
            return (count, Err(error));
        }
    }
    (filed.len(), Ok(()))
}

/// Makes what is asked for one correction in the journal, or notes why it is none.
async fn take(parts: &Parts, filed: &Filed) -> Result<(), CorrectError> {
    let Some(basket) = basket_now(parts, filed.basket).await? else {
        let reason = "no event of this session is recorded for this shop".to_owned();
        let code = "not_found";
        return reject(parts, filed, &Refusal { code, reason }).await;
    };
    // The journal knows an id for some minutes, the basket for ever.
    let mut corrections = basket.corrections().iter();
    if let Some(there) = corrections.find(|correction| correction.event.id == filed.id) {
        let (sequence, changes) = (there.sequence, there.event.changes.clone());
        return publish(parts, filed, &There { sequence, changes }).await;
    }
    let Some(plan) = decided(parts, filed, &basket).await? else {
        return Ok(());
    };
    failpoint::hit("before_correction_append");
    let correction = Correction {
        basket: filed.basket,
        id: filed.id,
        author: filed.author.clone(),
        reason: filed.reason.clone(),
        base_sequence: plan.base_sequence,
        changes: plan.changes,
    };
    let appended = super::append(parts, &correction).await?;
    failpoint::hit("after_correction_append");
    match appended {
        Ok(there) => publish(parts, filed, &there).await,
        Err(refusal) => reject(parts, filed, &refusal).await,
    }
}

/// The differences that stand; nothing where there are none, which is noted then.
async fn decided(parts: &Parts, filed: &Filed, basket: &Basket) -> Result<Option<Plan>, CorrectError> {
    if let Some(plan) = &filed.planned {
        return Ok(Some(plan.clone()));
    }
    let Some(proposal) = filed.proposal() else {
        return Ok(None);
    };
    match basket.decide(filed.id, &proposal) {
        Ok(plan) => {
            failpoint::hit("before_correction_plan");
            Ok(parts.views.plan_correction(filed.id, &plan).await?)
        }
        Err(refused) => {
            let (code, reason) = (refused.word(), refused.to_string());
            reject(parts, filed, &Refusal { code, reason }).await?;
            Ok(None)
        }
    }
}

async fn publish(parts: &Parts, filed: &Filed, there: &There) -> Result<(), CorrectError> {
    let outcome = Outcome::Published {
        sequence: there.sequence,
        changes: &there.changes,
    };
    if parts.views.note_outcome(filed.id, outcome).await? {
        parts.count_published(Source::Api);
        tracing::info!(
            basket = %filed.basket,
            event.sequence = there.sequence,
            "correction {} of basket {} is event {}",
            filed.id,
            filed.basket,
            there.sequence
        );
    }
    Ok(())
}

async fn reject(parts: &Parts, filed: &Filed, refusal: &Refusal) -> Result<(), CorrectError> {
    failpoint::hit("before_correction_rejection");
    if parts.views.note_outcome(filed.id, Outcome::Rejected(refusal)).await? {
        parts.count_rejected(refusal);
        tracing::info!(basket = %filed.basket, "correction {} of basket {} is rejected: {refusal}", filed.id, filed.basket);
    }
    Ok(())
}

/// Rejects what cannot be read, and answers whether that could be noted.
async fn reject_malformed(parts: &Parts, malformed: &Malformed) -> Result<bool, CorrectError> {
    let refusal = Refusal {
        code: "malformed",
        reason: malformed.reason.clone(),
    };
    let noted = parts.views.reject_malformed(malformed, &refusal).await?;
    if noted {
        parts.count_rejected(&refusal);
        tracing::warn!("the correction {:?} is rejected: {refusal}", malformed.id);
    }
    Ok(noted)
}

/// The basket as the journal has it now: that of the views with what the shop's events after them make of it.
/// Nothing where the journal has no event of the session.
async fn basket_now(parts: &Parts, id: BasketId) -> Result<Option<Basket>, CorrectError> {
    let facts = journal_open(parts).await;
    let partition = partition_of(id.shop, facts.partitions);
    let (views, checkpoint) = parts.views.reading(partition).await?;
    let epoch = facts.epoch.to_string();
    let through = match checkpoint {
        Some(checkpoint) if checkpoint.epoch == epoch => u64::try_from(checkpoint.sequence).unwrap_or(0),
        // Baskets of another journal: the projector has halted, and an operator decides.
        Some(_) => return Err(CorrectError::Behind),
        None => 0,
    };
    // What is in the document is wrong, or it is missing.
    if views.count_refolds(&[id]).await? > 0 {
        return Err(CorrectError::Behind);
    }
    // Read after the checkpoint, so the basket can only be newer.
    let loaded = views.load(&[id], parts.action_id).await?.pop();
    let mut basket = match loaded.map(|loaded| loaded.basket) {
        // Somebody has deleted it, and nobody has asked for it to be folded anew so far.
        None if through > 0 && is_recorded(parts, &views, id, &epoch, through).await? => {
            return Err(CorrectError::Behind);
        }
        None => Basket::new(id, parts.action_id),
        Some(Ok((basket, _))) => basket,
        Some(Err(reason)) => return Err(CorrectError::Unreadable { id, reason }),
    };
    let later = parts.journal.page(id.shop, through, BEHIND_MAX).await?;
    if later.len() >= BEHIND_MAX {
        return Err(CorrectError::Behind);
    }
    for raw in &later {
        let decoded = Decoded::of(raw);
        if decoded.basket == Some(id) {
            decoded.put_into(&mut basket);
        }
    }
    Ok((basket.sequence() > 0).then_some(basket))
}

/// Whether the journal has events up to a place that make a basket of a session.
async fn is_recorded(
    parts: &Parts,
    views: &Views,
    id: BasketId,
    epoch: &str,
    through: u64,
) -> Result<bool, CorrectError> {
    let dropped = super::dropped(views, epoch).await?;
    let mut basket = Basket::new(id, parts.action_id);
    refold::events_of_shop(&parts.journal, id.shop, 0, through, |raw| {
        let decoded = Decoded::of(&raw);
        if decoded.basket == Some(id) && !dropped.contains(&raw.sequence) {
            decoded.put_into(&mut basket);
        }
    })
    .await?;
    Ok(basket.sequence() > 0)
}
