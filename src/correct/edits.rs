//! Edits of baskets by hand: each becomes one correction in the journal or one that is rejected, and the basket is healed.
//!
//! The effects of an edit are, in their order: the correction in the journal, the note of it (or of the
//! rejection) in `corrections`, the request to fold the basket anew, and the place among the edits. The
//! power may go between any two of them. The edit is then taken again, and as its id and its difference
//! are the same, it finds done what is done.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::scan::{self, Covered};
use super::{CorrectError, Parts, There, journal_open};
use crate::core::error_chain;
use crate::core::event::{BY_HAND, Change, Correction};
use crate::core::failpoint;
use crate::core::id::{BasketId, ShopId, partition_of};
use crate::core::retry::Backoff;
use crate::views::{
    Cover, Edit, Edits, EditsError, EditsPlace, Image, ImageError, Noted, Outcome, Refold, Refusal, Scan, Source, Told,
    Views, Whole, difference, is_void, right_before,
};

/// Why, as far as can be known.
const REASON: &str = "edited by hand in MongoDB";
/// How long edits of a shop count towards its limit.
const WINDOW_SECONDS: u32 = 60;
/// How often everything is compared whether or not there is a reason to.
const SCAN_INTERVAL: time::Duration = time::Duration::hours(24);
/// Baskets of which it is remembered up to which moment their edits are taken.
const COVERED_MAX: usize = 100_000;
/// How often it is looked whether shops are held, and whether that is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Follows the edits until `stop`, through every failure of the servers.
pub(super) async fn run(parts: Parts, per_minute: usize, stop: CancellationToken) {
    let mut follower = Follower {
        parts,
        per_minute,
        recent: HashMap::new(),
        held: BTreeSet::new(),
        covered: Covered::new(),
    };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut failing = false;
    while let Some(outcome) = stop
        .run_until_cancelled(Box::pin(follower.follow(&mut backoff, &mut failing)))
        .await
    {
        match outcome {
            Ok(()) => {}
            Err(CorrectError::Edits(EditsError::Lost(reason))) => {
                tracing::warn!("{reason}; all baskets are compared with the journal now");
                follower.parts.metrics.edits_lost.inc();
                if let Some(Err(error)) = stop
                    .run_until_cancelled(follower.parts.views.leave_edits_at(None))
                    .await
                {
                    tracing::debug!("the lost place cannot be noted: {}", error_chain(&error));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("following edits of baskets waits: {}", error_chain(&error));
                }
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff.next_pause())).await;
    }
}

struct Follower {
    parts: Parts,
    /// Edits of a shop in a minute, beyond which it is held.
    per_minute: usize,
    recent: HashMap<ShopId, Recent>,
    held: BTreeSet<ShopId>,
    /// Up to which moment the edits of a basket are taken, where that is not only up to the place: several edits of one
    /// basket in one transaction are one, and what a comparison found is told again by the stream.
    covered: Covered,
}

impl Follower {
    async fn follow(&mut self, backoff: &mut Backoff, failing: &mut bool) -> Result<(), CorrectError> {
        let mut edits = self.open().await?;
        let mut looked = Instant::now() - LOOK_INTERVAL;
        loop {
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                self.look().await?;
            }
            let (told, place) = edits.next().await?;
            backoff.reset();
            if std::mem::take(failing) {
                tracing::info!("following edits of baskets goes on");
            }
            match told {
                Some(Told::Edit(edit)) => self.take(&edit).await?,
                Some(Told::Gone(version)) if version == self.parts.views.version() => {
                    return Err(EditsError::Lost(format!("the collection {version} was dropped or renamed")).into());
                }
                Some(Told::Gone(_)) | None => {}
            }
            failpoint::hit("before_edits_place");
            if let Some(place) = place {
                self.leave(&place).await?;
            }
        }
    }

    /// Opens the stream where it was left; without a place all baskets are compared first.
    async fn open(&mut self) -> Result<Edits, CorrectError> {
        let views = self.parts.views.clone();
        self.covered = views.covers().await?;
        let place = views.edits_place().await?;
        // What happens while all are compared is told again afterwards; up to which moment it was seen is known.
        let begun = match place {
            Some(_) => views.scan_under_way().await?,
            None => Some(views.begin_scan().await?),
        };
        if let Some(scan) = &begun {
            self.scan(scan).await?;
        }
        let from = match (place, begun) {
            (Some(place), _) => Ok(place),
            (None, Some(scan)) => Err(scan.moment),
            (None, None) => Err(views.moment().await?),
        };
        let is_new = from.is_err();
        let edits = views.edits(from).await?;
        if let Some(place) = edits.place().filter(|_| is_new) {
            views.leave_edits_at(Some(&place)).await?;
        }
        Ok(edits)
    }

    async fn scan(&mut self, scan: &Scan) -> Result<(), CorrectError> {
        // A shop that is let go after this has everything compared once more.
        self.hear_of_held().await?;
        let found = scan::run(&self.parts, scan, &self.held, &self.covered).await?;
        self.covered.extend(found);
        failpoint::hit("before_scan_noted");
        self.parts.views.note_scan().await?;
        Ok(())
    }

    async fn hear_of_held(&mut self) -> Result<(), CorrectError> {
        self.held = self.parts.views.held_shops().await?.into_iter().collect();
        let count = i64::try_from(self.held.len()).unwrap_or(i64::MAX);
        self.parts.metrics.held_shops.set(count);
        Ok(())
    }

    /// Hears of shops that a person lets go again, and compares everything then and once a day.
    async fn look(&mut self) -> Result<(), CorrectError> {
        let views = self.parts.views.clone();
        self.hear_of_held().await?;
        let due = views
            .seconds_since_scan()
            .await?
            .is_none_or(|seconds| seconds >= SCAN_INTERVAL.whole_seconds());
        if due {
            self.recent.clear();
            let scan = views.begin_scan().await?;
            self.scan(&scan).await?;
        }
        Ok(())
    }

    async fn leave(&self, place: &EditsPlace) -> Result<(), CorrectError> {
        Ok(self.parts.views.leave_edits_at(Some(place)).await?)
    }

    /// Takes one edit, unless it is none.
    async fn take(&mut self, edit: &Edit) -> Result<(), CorrectError> {
        let views = self.parts.views.at(edit.version);
        if self.held.contains(&edit.basket.shop) || !self.was_active(edit).await? {
            return Ok(());
        }
        let cover = self.covered.get(&edit.basket).copied();
        if cover.is_some_and(|cover| cover.until >= edit.at && cover.id != edit.id) {
            return Ok(());
        }
        let images = async {
            let before = views.image(edit.basket, right_before(edit.at)).await?;
            Ok::<_, ImageError>((before, views.image(edit.basket, edit.at).await?))
        };
        let images = match images.await {
            Ok(images) => Some(images),
            Err(ImageError::TooOld) => None,
            Err(ImageError::View(error)) => return Err(error.into()),
        };
        let before = images.as_ref().and_then(|(before, _)| before.as_ref());
        if before.is_some_and(is_void) || self.is_too_many(edit).await? {
            return Ok(());
        }
        let Some((before, after)) = images else {
            // The feed was away for long. The basket as it is now is compared with the journal instead.
            let found = scan::basket(&self.parts, edit, &self.covered).await?;
            self.covered.extend(found);
            return Ok(());
        };
        let fields = |image: Option<Image>| image.map(Whole::stored);
        let (before, after) = (fields(before), fields(after));
        let changes = difference(before.as_ref().map(Whole::fields), after.as_ref().map(Whole::fields));
        let correction = Found {
            id: edit.id,
            basket: edit.basket,
            base_sequence: before.as_ref().map_or(0, Whole::sequence),
            changes,
        };
        settle(&self.parts, &views, &correction).await?;
        failpoint::hit("before_refold_request");
        let facts = journal_open(&self.parts).await;
        let partition = partition_of(edit.basket.shop, facts.partitions);
        let through = match views.checkpoint_at(partition, edit.at).await {
            Ok(through) => through,
            Err(ImageError::TooOld) => 0,
            Err(ImageError::View(error)) => return Err(error.into()),
        };
        let known = before.as_ref().map(Whole::sequences).unwrap_or_default();
        heal(&views, edit.basket, partition, known, through).await?;
        self.cover(edit);
        Ok(())
    }

    /// Whether the version that was edited was the one that everybody read, at that moment.
    async fn was_active(&self, edit: &Edit) -> Result<bool, CorrectError> {
        let views = &self.parts.views;
        match views.active_at(edit.at).await {
            Ok(active) => Ok(edit.version == active),
            Err(ImageError::TooOld) => Ok(edit.version == views.refresh_active().await?),
            Err(ImageError::View(error)) => Err(error.into()),
        }
    }

    /// What else happened in the same transaction is the same edit.
    fn cover(&mut self, edit: &Edit) {
        if self.covered.len() >= COVERED_MAX {
            // What the stream has passed is told no more.
            self.covered.retain(|_, cover| cover.until >= edit.at);
        }
        let cover = Cover {
            id: Uuid::nil(),
            until: edit.at,
            base: 0,
        };
        self.covered.insert(edit.basket, cover);
    }

    /// Counts an edit, and holds the shop where there are too many: a script must not become a flood of events.
    async fn is_too_many(&mut self, edit: &Edit) -> Result<bool, CorrectError> {
        let shop = edit.basket.shop;
        if self.recent.entry(shop).or_default().counts(edit, self.per_minute) {
            return Ok(false);
        }
        tracing::error!(
            shop = %shop,
            "more than {} edits by hand in a minute in shop {shop}: no more of them are taken; when whoever does that has stopped, `ezout corrections resume {shop}` takes what is left; `ezout rebuild --shop {shop} --switch` before it undoes that instead",
            self.per_minute
        );
        self.parts.views.hold_shop(shop).await?;
        self.held.insert(shop);
        Ok(true)
    }
}

/// Edits of a shop that count towards its limit, each with the second of its moment.
#[derive(Default)]
struct Recent(VecDeque<(Uuid, u32)>);

impl Recent {
    /// Counts an edit, once however often it is taken, and answers whether it is within the limit.
    fn counts(&mut self, edit: &Edit, limit: usize) -> bool {
        let Self(recent) = self;
        while recent
            .front()
            .is_some_and(|(_, second)| second.saturating_add(WINDOW_SECONDS) < edit.at.time)
        {
            recent.pop_front();
        }
        // What is taken again is among the last.
        if recent.iter().rev().any(|(id, _)| *id == edit.id) {
            return true;
        }
        let is_within = recent.len() < limit;
        if is_within {
            recent.push_back((edit.id, edit.at.time));
        }
        is_within
    }
}

/// What somebody changed by hand.
pub(super) struct Found {
    pub(super) id: Uuid,
    pub(super) basket: BasketId,
    pub(super) base_sequence: u64,
    pub(super) changes: Result<Vec<Change>, Refusal>,
}

/// Makes an edit one correction in the journal, or notes why it is none.
pub(super) async fn settle(parts: &Parts, views: &Views, found: &Found) -> Result<(), CorrectError> {
    let changes = found.changes.clone().and_then(|changes| {
        let nothing = Refusal {
            code: "nothing",
            reason: "the edit changes nothing that a basket is made of".to_owned(),
        };
        if changes.is_empty() { Err(nothing) } else { Ok(changes) }
    });
    let noted = |outcome| Noted {
        id: found.id,
        basket: found.basket,
        author: BY_HAND,
        reason: REASON,
        base_sequence: found.base_sequence,
        outcome,
    };
    match changes {
        Ok(changes) => {
            let correction = Correction {
                basket: found.basket,
                id: found.id,
                author: BY_HAND.to_owned(),
                reason: REASON.to_owned(),
                base_sequence: found.base_sequence,
                changes,
            };
            failpoint::hit("before_edit_append");
            // Who was away for longer than the journal knows its ids, finds the correction in the basket.
            let appended = match views.place_of_correction(found.basket, found.id).await? {
                Some(sequence) => Ok(There {
                    sequence,
                    changes: correction.changes,
                }),
                None => super::append(parts, &correction).await?,
            };
            failpoint::hit("after_edit_append");
            let (sequence, changes) = match &appended {
                Ok(there) => (there.sequence, there.changes.as_slice()),
                Err(refusal) => return reject(parts, views, &noted(Outcome::Rejected(refusal)), refusal).await,
            };
            if views
                .note_edit(&noted(Outcome::Published { sequence, changes }))
                .await?
            {
                parts.count_published(Source::Database);
                tracing::info!(basket = %found.basket, "an edit of basket {} by hand is correction {}", found.basket, found.id);
            }
            Ok(())
        }
        Err(refusal) => reject(parts, views, &noted(Outcome::Rejected(&refusal)), &refusal).await,
    }
}

async fn reject(parts: &Parts, views: &Views, noted: &Noted<'_>, refusal: &Refusal) -> Result<(), CorrectError> {
    if views.note_edit(noted).await? {
        parts.count_rejected(refusal);
        tracing::warn!(basket = %noted.basket, "an edit of basket {} by hand is rejected: {refusal}", noted.basket);
    }
    Ok(())
}

/// Has a basket folded anew by the owner of its partition; `known` are its events up to `through`.
pub(super) async fn heal(
    views: &Views,
    basket: BasketId,
    partition: u16,
    known: BTreeSet<u64>,
    through: u64,
) -> Result<(), CorrectError> {
    // Where nothing is known the shop's events are read from the first.
    let through = if known.is_empty() { 0 } else { through };
    let refold = Refold {
        basket,
        partition,
        sequences: known.into_iter().filter(|place| *place <= through).collect(),
        through,
    };
    Ok(views.ask_refolds(&[refold]).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{Moment, Version};

    #[test]
    fn an_edit_counts_once_and_for_a_minute_of_its_own_time() {
        let basket = "123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";
        let edit = |time| Edit {
            id: Uuid::from_u128(u128::from(time)),
            basket: BasketId::parse(basket).unwrap(),
            version: Version::FIRST,
            at: Moment { time, increment: 1 },
        };
        let mut recent = Recent::default();
        // As often as the servers have it taken again.
        assert!((0..5).all(|_| recent.counts(&edit(100), 2)));
        assert!(recent.counts(&edit(110), 2));
        assert!(!recent.counts(&edit(160), 2));
        assert!(recent.counts(&edit(110), 2));
        // The first has left by then, however soon that is told.
        assert!(recent.counts(&edit(161), 2));
        assert!(!recent.counts(&edit(162), 2));
    }
}
