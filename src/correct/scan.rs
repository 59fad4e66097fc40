//! Comparing all baskets with the journal: where the stream of changes was lost, and once a day.
//!
//! The journal is read once, and all baskets once. A basket is looked at closely where it is not the fold
//! of the events that it says it has, where these are not those that the journal has, or where it is
//! missing; then it is folded from the journal, many of a shop in one reading. It waits until everything
//! that was recorded or asked for is done, so that an edit that was taken before is not found again.
//! What is found is noted before anything comes of it, so that whoever goes on after a crash finds the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use uuid::Uuid;

use super::edits::{Found, heal, settle};
use super::{CorrectError, Parts, journal_open};
use crate::core::basket::Basket;
use crate::core::failpoint;
use crate::core::id::{BasketId, ShopId, partition_of};
use crate::journal::{Facts, RawEvent, Tails};
use crate::refold::{self, Decoded};
use crate::views::{Cover, Edit, ImageError, Scan, Views, Whole, difference};

/// How often it is looked whether the views have come as far as the journal.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// Events read at a time.
const READ_EVENTS: usize = 1_000;
/// Baskets of a shop that are looked at closely in one reading of its events.
const CLOSE_BASKETS: usize = 200;

/// Up to which moment the edits of a basket are taken, for those that were found to differ.
pub(super) type Covered = HashMap<BasketId, Cover>;

/// Which events the journal has of each basket, in few bytes. Two that share the key make each other be looked at closely.
type Digests = HashMap<u64, u64>;

/// Compares all baskets but those of shops that are held. `covered` is what was found before, also by a comparison that was cut off.
pub(super) async fn run(
    parts: &Parts,
    scan: &Scan,
    held: &BTreeSet<ShopId>,
    covered: &Covered,
) -> Result<Covered, CorrectError> {
    let facts = journal_open(parts).await;
    let views = parts.views.at(parts.views.version());
    let ends = settled(parts, &views, &facts).await?;
    let end_of = |id: BasketId| ends.of_partition(partition_of(id.shop, facts.partitions)).last_sequence;
    let mut events = Digests::new();
    each_event(parts, &facts, &ends, |id, place| {
        let digest = events.entry(hash(id)).or_default();
        *digest = digest.wrapping_add(hash(place));
    })
    .await?;
    let mut close: BTreeSet<BasketId> = BTreeSet::new();
    let mut all = views.in_order(None).await?;
    while let Some(whole) = all.next().await? {
        let Some(id) = whole.id() else { continue };
        let expected = events.remove(&hash(id)).unwrap_or(0);
        let end = end_of(id);
        let places = whole.sequences().into_iter().filter(|place| *place <= end);
        let digest = places.fold(0_u64, |sum, place| sum.wrapping_add(hash(place)));
        if digest != expected || !is_its_own_fold(parts, &facts, &whole) {
            close.insert(id);
        }
    }
    if !events.is_empty() {
        each_event(parts, &facts, &ends, |id, _| {
            if events.contains_key(&hash(id)) {
                close.insert(id);
            }
        })
        .await?;
    }
    // What was found by a comparison that was cut off may look right by now, and is not noted yet.
    let outcome = |id: BasketId| Uuid::new_v5(&scan.id, id.to_string().as_bytes());
    close.extend(
        covered
            .iter()
            .filter(|(id, cover)| cover.id == outcome(**id))
            .map(|(id, _)| *id),
    );
    close.retain(|id| !held.contains(&id.shop));
    let mut by_shop: BTreeMap<ShopId, Vec<BasketId>> = BTreeMap::new();
    for id in close {
        by_shop.entry(id.shop).or_default().push(id);
    }
    let mut found = Covered::new();
    for (shop, ids) in by_shop {
        for ids in ids.chunks(CLOSE_BASKETS) {
            found.extend(look_closely(parts, shop, ids, &outcome, covered).await?);
        }
    }
    Ok(found)
}

/// Reads the basket and the place of all events, each partition up to where the journal ended.
async fn each_event(
    parts: &Parts,
    facts: &Facts,
    ends: &Tails,
    mut each: impl FnMut(BasketId, u64),
) -> Result<(), CorrectError> {
    for partition in 0..facts.partitions {
        let end = ends.of_partition(partition).last_sequence;
        let mut reader = parts.journal.read(partition, 0).await?;
        let mut over = reader.pending_at_open() == 0;
        while !over {
            for raw in reader.next(READ_EVENTS).await? {
                over |= raw.pending == 0 || raw.sequence >= end;
                let id = raw.shop().zip(raw.session());
                let id = id.map(|(shop, session)| BasketId { shop, session });
                if let Some(id) = id.or_else(|| Decoded::of(&raw).basket)
                    && raw.sequence <= end
                {
                    each(id, raw.sequence);
                }
            }
        }
    }
    Ok(())
}

/// Compares the basket of an edit with the journal, as it is now, and takes the difference for that edit and all since.
pub(super) async fn basket(parts: &Parts, edit: &Edit, covered: &Covered) -> Result<Covered, CorrectError> {
    look_closely(parts, edit.basket.shop, &[edit.basket], &|_| edit.id, covered).await
}

/// Compares baskets of a shop with the journal, and takes each difference for one edit, under the id that `outcome` gives it.
/// Answers up to which moment their edits are taken thereby.
async fn look_closely(
    parts: &Parts,
    shop: ShopId,
    ids: &[BasketId],
    outcome: &impl Fn(BasketId) -> Uuid,
    covered: &Covered,
) -> Result<Covered, CorrectError> {
    let facts = journal_open(parts).await;
    let views = parts.views.at(parts.views.version());
    let partition = partition_of(shop, facts.partitions);
    let ends = settled(parts, &views, &facts).await?;
    let end = ends.of_partition(partition).last_sequence;
    // A place that somebody made up is beyond the journal.
    let tail = parts.journal.tail(partition).await?.last_sequence;
    let now = views.moment().await?;
    let mut found = Covered::new();
    let mut seen: BTreeMap<BasketId, (Cover, Option<Whole>)> = BTreeMap::new();
    for id in ids {
        let name = outcome(*id);
        let before = covered.get(id).copied().filter(|cover| cover.id == name);
        if let Some(cover) = before {
            if views.is_noted(name).await? {
                // Only the last step may be missing.
                heal(&views, *id, partition, BTreeSet::new(), 0).await?;
                found.insert(*id, cover);
                continue;
            }
            match views.image(*id, cover.until).await {
                Ok(image) => {
                    seen.insert(*id, (cover, image.map(Whole::stored)));
                    continue;
                }
                Err(ImageError::TooOld) => {}
                Err(ImageError::View(error)) => return Err(error.into()),
            }
        }
        let image = match views.image(*id, now).await {
            Ok(image) => image.map(Whole::stored),
            Err(ImageError::View(error)) => return Err(error.into()),
            Err(ImageError::TooOld) => return Err(CorrectError::Slow),
        };
        // What the projector has done by then is in the basket, or was taken out of it.
        let base = image.as_ref().map_or(0, Whole::sequence).min(tail).max(end);
        let cover = Cover {
            id: name,
            until: now,
            base,
        };
        seen.insert(*id, (cover, image));
    }
    let bases = seen.iter().map(|(id, (cover, _))| (*id, cover.base)).collect();
    let mut folded = fold(parts, &views, &facts, shop, &bases).await?;
    let epoch = facts.epoch.to_string();
    for (id, (cover, image)) in seen {
        let basket = folded.remove(&id).filter(|basket| basket.sequence() > 0);
        let known: BTreeSet<u64> = basket.as_ref().map(Basket::sequences).unwrap_or_default();
        let recorded = basket.as_ref().and_then(|basket| {
            let mut all = basket.corrections().iter();
            all.find(|correction| correction.event.id == cover.id).cloned()
        });
        if let Some(recorded) = recorded {
            // It is in the journal since before a crash, and how the document was then is forgotten.
            let edited = Found {
                id: cover.id,
                basket: id,
                base_sequence: recorded.event.base_sequence,
                changes: Ok(recorded.event.changes),
            };
            settle(parts, &views, &edited).await?;
            heal(&views, id, partition, known, cover.base).await?;
            let before = covered.get(&id).copied().filter(|before| before.id == cover.id);
            found.insert(id, before.unwrap_or(cover));
            continue;
        }
        let expected = basket.map(|basket| Whole::of(&basket, &epoch));
        let differs = match (&expected, &image) {
            (None, None) => false,
            (Some(expected), Some(image)) => !expected.differences(image).is_empty(),
            _ => true,
        };
        if !differs {
            continue;
        }
        views.cover(id, &cover).await?;
        failpoint::hit("after_cover");
        let changes = difference(expected.as_ref().map(Whole::fields), image.as_ref().map(Whole::fields));
        let edited = Found {
            id: cover.id,
            basket: id,
            base_sequence: expected.as_ref().map_or(0, Whole::sequence),
            changes,
        };
        settle(parts, &views, &edited).await?;
        failpoint::hit("before_refold_request");
        heal(&views, id, partition, known, cover.base).await?;
        found.insert(id, cover);
    }
    settled(parts, &views, &facts).await?;
    Ok(found)
}

/// Baskets of a shop as the journal has them, each up to a place of its own.
async fn fold(
    parts: &Parts,
    views: &Views,
    facts: &Facts,
    shop: ShopId,
    bases: &BTreeMap<BasketId, u64>,
) -> Result<HashMap<BasketId, Basket>, CorrectError> {
    let epoch = facts.epoch.to_string();
    let dropped = super::dropped(views, &epoch).await?;
    let mut baskets: HashMap<BasketId, Basket> = bases
        .keys()
        .map(|id| (*id, Basket::new(*id, parts.action_id)))
        .collect();
    let through = bases.values().copied().max().unwrap_or(0);
    refold::events_of_shop(&parts.journal, shop, 0, through, |raw: RawEvent| {
        let decoded = Decoded::of(&raw);
        let Some(id) = decoded.basket.filter(|_| !dropped.contains(&raw.sequence)) else {
            return;
        };
        if let Some(basket) = baskets.get_mut(&id)
            && raw.sequence <= bases[&id]
        {
            decoded.put_into(basket);
        }
    })
    .await?;
    Ok(baskets)
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
/// Answers how far that is.
async fn settled(parts: &Parts, views: &Views, facts: &Facts) -> Result<Tails, CorrectError> {
    let ends = parts.journal.tails().await?;
    let mut behind = Vec::new();
    for partition in 0..facts.partitions {
        let at = views.checkpoint(partition).await?.unwrap_or(0);
        if parts.journal.backlog(partition, at).await?.events > 0 {
            behind.push(partition);
        }
    }
    for partition in behind {
        let end = ends.of_partition(partition).last_sequence;
        loop {
            let at = views.checkpoint(partition).await?.unwrap_or(0);
            if at >= end || parts.journal.backlog(partition, at).await?.events == 0 {
                break;
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }
    while views.waits_for_refolds().await? {
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    Ok(ends)
}

/// Few bytes for a basket, where there may be millions, or for a place.
fn hash(of: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
