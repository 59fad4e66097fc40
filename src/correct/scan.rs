//! Comparing all baskets with the journal: where the stream of changes was lost, and once a day.
//!
//! A basket is first compared with the fold of the events that it says it has, which costs one document.
//! Only what differs, or is missing, is folded from the journal. It waits until everything that was
//! recorded or asked for is done, so that an edit that was taken before is not found again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use uuid::Uuid;

use super::edits::{Found, heal, settle};
use super::{CorrectError, Parts, journal_open};
use crate::core::basket::Basket;
use crate::core::id::{BasketId, ShopId, partition_of};
use crate::journal::Facts;
use crate::refold::{self, Decoded};
use crate::views::{ImageError, Moment, Views, Whole, difference};

/// How often it is looked whether the views have come as far as the journal.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Events read at a time.
const READ_EVENTS: usize = 1_000;

/// Up to which moment the edits of a basket are taken, for those that were looked at closely.
pub(super) type Covered = HashMap<BasketId, Moment>;

/// Compares all baskets but those of shops that are held.
pub(super) async fn run(parts: &Parts, held: &BTreeSet<ShopId>) -> Result<Covered, CorrectError> {
    let facts = journal_open(parts).await;
    let views = parts.views.at(parts.views.version());
    settled(parts, &views, &facts).await?;
    let end = parts.journal.tail().await?.last_sequence;
    let mut covered = Covered::new();
    let mut seen: HashSet<u64> = HashSet::new();
    let mut all = views.in_order(None).await?;
    while let Some(whole) = all.next().await? {
        let Some(id) = whole.id() else { continue };
        seen.insert(hash(id));
        if held.contains(&id.shop) || is_its_own_fold(parts, &facts, &whole) {
            continue;
        }
        covered.insert(id, basket(parts, id).await?);
    }
    for id in missing(parts, &views, &facts, held, &seen, end).await? {
        covered.insert(id, basket(parts, id).await?);
    }
    Ok(covered)
}

/// Finds sessions of the journal that have no basket at all.
async fn missing(
    parts: &Parts,
    views: &Views,
    facts: &Facts,
    held: &BTreeSet<ShopId>,
    seen: &HashSet<u64>,
    end: u64,
) -> Result<BTreeSet<BasketId>, CorrectError> {
    let mut missing = BTreeSet::new();
    for partition in 0..facts.partitions {
        if parts.journal.backlog(partition, 0).await?.events == 0 {
            continue;
        }
        let mut reader = parts.journal.read(partition, 0).await?;
        let mut absent: BTreeSet<BasketId> = BTreeSet::new();
        let mut over = reader.pending_at_open() == 0;
        while !over {
            for raw in reader.next(READ_EVENTS).await? {
                over |= raw.pending == 0 || raw.sequence >= end;
                let id = raw
                    .shop()
                    .zip(raw.session())
                    .map(|(shop, session)| BasketId { shop, session });
                let id = id.or_else(|| Decoded::of(&raw).basket);
                if let Some(id) =
                    id.filter(|id| raw.sequence <= end && !seen.contains(&hash(*id)) && !held.contains(&id.shop))
                {
                    absent.insert(id);
                }
            }
        }
        for id in absent {
            if views.whole(id).await?.is_none() {
                missing.insert(id);
            }
        }
    }
    Ok(missing)
}

/// Compares one basket with the journal, and takes a difference for an edit. Answers the moment up to which its edits
/// are taken thereby.
pub(super) async fn basket(parts: &Parts, id: BasketId) -> Result<Moment, CorrectError> {
    let facts = journal_open(parts).await;
    let views = parts.views.at(parts.views.version());
    settled(parts, &views, &facts).await?;
    let partition = partition_of(id.shop, facts.partitions);
    let checkpoint = views.checkpoint(partition).await?.unwrap_or(0);
    let moment = views.moment().await?;
    let found = match views.image(id, moment).await {
        Ok(image) => image.map(Whole::stored),
        Err(ImageError::View(error)) => return Err(error.into()),
        Err(ImageError::TooOld) => return Err(CorrectError::Slow),
    };
    // A place that somebody made up is beyond the journal.
    let tail = parts.journal.tail().await?.last_sequence;
    let base = found.as_ref().map_or(checkpoint, Whole::sequence).min(tail);
    let expected = fold(parts, &views, &facts, id, base).await?;
    let known: BTreeSet<u64> = expected.as_ref().map(Basket::sequences).unwrap_or_default();
    let epoch = facts.epoch.to_string();
    let expected = expected.map(|basket| Whole::of(&basket, &epoch));
    let differs = match (&expected, &found) {
        (None, None) => false,
        (Some(expected), Some(found)) => !expected.differences(found).is_empty(),
        _ => true,
    };
    if differs {
        let (before, after) = (expected.as_ref().map(Whole::fields), found.as_ref().map(Whole::fields));
        let what = found.as_ref().map_or(Uuid::nil(), |found| found.digest(Uuid::nil()));
        let found = Found {
            id: Uuid::new_v5(&what, format!("scan {id} {base}").as_bytes()),
            basket: id,
            base_sequence: base,
            changes: difference(before, after),
        };
        settle(parts, &views, &found).await?;
        heal(&views, id, partition, known, base).await?;
        settled(parts, &views, &facts).await?;
    }
    Ok(moment)
}

/// The basket as the journal has it up to a place; nothing where it has no event of it.
async fn fold(
    parts: &Parts,
    views: &Views,
    facts: &Facts,
    id: BasketId,
    through: u64,
) -> Result<Option<Basket>, CorrectError> {
    let mut events = Vec::new();
    refold::events_of_shop(&parts.journal, id.shop, 0, through, |event| {
        if Decoded::of(&event).basket == Some(id) {
            events.push(event);
        }
    })
    .await?;
    let epoch = facts.epoch.to_string();
    let dropped = refold::dropped(views, &epoch, events.iter().map(|event| event.sequence)).await?;
    let basket = refold::fold(id, parts.action_id, &events, &dropped);
    Ok((basket.sequence() > 0).then_some(basket))
}

/// Whether a document is what follows from the events that it says it has.
fn is_its_own_fold(parts: &Parts, facts: &Facts, whole: &Whole) -> bool {
    let basket = whole.basket(parts.action_id);
    basket.is_some_and(|basket| {
        Whole::of(&basket, &facts.epoch.to_string())
            .differences(whole)
            .is_empty()
    })
}

/// Waits until the views are as far as the journal was when this was called, and nothing waits to be folded anew.
async fn settled(parts: &Parts, views: &Views, facts: &Facts) -> Result<(), CorrectError> {
    let mut ends = Vec::new();
    for partition in 0..facts.partitions {
        let at = views.checkpoint(partition).await?.unwrap_or(0);
        if parts.journal.backlog(partition, at).await?.events > 0 {
            ends.push(partition);
        }
    }
    let end = parts.journal.tail().await?.last_sequence;
    for partition in ends {
        loop {
            let at = views.checkpoint(partition).await?.unwrap_or(0);
            if at >= end || parts.journal.backlog(partition, at).await?.events == 0 {
                break;
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }
    while !views.waiting_refolds(1).await?.is_empty() {
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    Ok(())
}

/// Few bytes for each basket, where there may be millions. Two that share them hide each other's absence, once in 10^13.
fn hash(id: BasketId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
