//! Scrubbing: some baskets a minute are folded anew from the journal and compared with their view and with the last update.
//!
//! Half of them are picked from the view and half by places in the journal, so that a basket that is
//! missing, or that misses an event, is found as well. A document is compared with the events that
//! it says it has, so one that is being written meanwhile is no drift. Nothing is mended here: a
//! person is told once for each basket, and the series `ezout_drift_baskets` stays above 0 until it is right again. What was
//! found is also noted beside the lease of each partition, where every process sees that of all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::core::id::{BasketId, partition_of};
use crate::core::update::update_json;
use crate::journal::{Facts, RawEvent};
use crate::refold::{self, Decoded, Dropped, RefoldError};
use crate::updates::UpdateError;
use crate::views::{LeaseId, Scrubbed, Version, ViewError, Views, Whole};

/// Shortest pause between two rounds.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Baskets that are remembered as wrong; where there are more, it is no longer about single baskets.
const DRIFTING_MAX: usize = 1_000;
/// Baskets that were wrong and are looked at again in a round, at least.
const AGAIN_MIN: usize = 10;
/// Pause before a difference is believed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Why a basket could not be compared now.
#[derive(Debug, thiserror::Error)]
enum ScrubError {
    #[error(transparent)]
    Refold(#[from] RefoldError),
    #[error(transparent)]
    Update(#[from] UpdateError),
}

impl From<ViewError> for ScrubError {
    fn from(error: ViewError) -> Self {
        Self::Refold(error.into())
    }
}

impl From<crate::journal::ReadError> for ScrubError {
    fn from(error: crate::journal::ReadError) -> Self {
        Self::Refold(error.into())
    }
}

/// Compares baskets of the partitions that are `owned` until `stop`.
pub(super) async fn run(
    parts: Parts,
    facts: Facts,
    me: LeaseId,
    owned: watch::Receiver<BTreeSet<u16>>,
    per_minute: u32,
    stop: CancellationToken,
) {
    if per_minute == 0 {
        return;
    }
    let round = ROUND_MIN.max(Duration::from_mins(1) / per_minute);
    let count = u32::try_from(u128::from(per_minute) * round.as_millis() / 60_000)
        .unwrap_or(u32::MAX)
        .max(1);
    let mut scrubber = Scrubber {
        version: parts.views.version(),
        parts,
        facts,
        me,
        owned,
        drifting: BTreeMap::new(),
        checked: BTreeMap::new(),
        noted: BTreeMap::new(),
        since: OffsetDateTime::now_utc(),
    };
    let mut interval = tokio::time::interval(round);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let Some(outcome) = stop.run_until_cancelled(scrubber.round(count)).await else {
            break;
        };
        if let Err(error) = outcome {
            // What is away is reported by those who need it more.
            tracing::debug!("baskets cannot be compared now: {}", crate::core::error_chain(&error));
        }
    }
}

struct Scrubber {
    parts: Parts,
    facts: Facts,
    me: LeaseId,
    owned: watch::Receiver<BTreeSet<u16>>,
    version: Version,
    drifting: BTreeMap<BasketId, String>,
    /// Baskets of a partition that were compared since that was noted.
    checked: BTreeMap<u16, u64>,
    /// How many baskets of a partition are noted as wrong.
    noted: BTreeMap<u16, u64>,
    /// Updates of earlier events may have been made by another program, or from another version.
    since: OffsetDateTime,
}

impl Scrubber {
    async fn round(&mut self, count: u32) -> Result<(), ScrubError> {
        let version = self.parts.views.version();
        if version != self.version {
            self.version = version;
            self.since = OffsetDateTime::now_utc();
        }
        let owned = self.owned.borrow().clone();
        let partitions = self.facts.partitions;
        self.drifting
            .retain(|id, _| owned.contains(&partition_of(id.shop, partitions)));
        for (id, place) in self.pick(count).await? {
            if owned.contains(&partition_of(id.shop, partitions)) {
                self.compare(id, place).await?;
            }
        }
        let mut known: Vec<BasketId> = self.drifting.keys().copied().collect();
        fastrand::shuffle(&mut known);
        let again = usize::try_from(count).unwrap_or(usize::MAX).max(AGAIN_MIN);
        for id in known.into_iter().take(again) {
            self.compare(id, None).await?;
        }
        self.parts
            .metrics
            .drift_baskets
            .set(i64::try_from(self.drifting.len()).unwrap_or(i64::MAX));
        self.note(&owned).await
    }

    /// Has everybody see what was found in the partitions of this process.
    async fn note(&mut self, owned: &BTreeSet<u16>) -> Result<(), ScrubError> {
        let mut different: BTreeMap<u16, u64> = owned.iter().map(|partition| (*partition, 0)).collect();
        for id in self.drifting.keys() {
            *different
                .entry(partition_of(id.shop, self.facts.partitions))
                .or_default() += 1;
        }
        let mut found = BTreeMap::new();
        for (partition, different) in different {
            let checked = self.checked.get(&partition).copied().unwrap_or(0);
            if checked > 0 || self.noted.get(&partition) != Some(&different) {
                found.insert(partition, Scrubbed { checked, different });
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.parts.views.note_scrubbed(&self.me, &found).await?;
        self.checked.clear();
        self.noted.retain(|partition, _| owned.contains(partition));
        let noted = found.into_iter().map(|(partition, found)| (partition, found.different));
        self.noted.extend(noted);
        Ok(())
    }

    /// Some baskets by chance, those that were picked by a place in the journal with it.
    async fn pick(&self, count: u32) -> Result<Vec<(BasketId, Option<u64>)>, ScrubError> {
        let of_journal = if count == 1 {
            u32::from(fastrand::bool())
        } else {
            count / 2
        };
        let mut picked = Vec::new();
        if count > of_journal {
            let sample = self.views().sample(count - of_journal).await?;
            picked.extend(sample.into_iter().map(|id| (id, None)));
        }
        let places = self.parts.journal.tails().await?.sample(of_journal);
        if !places.is_empty() {
            for raw in refold::events_at(&self.parts.journal, &places).await? {
                let decoded = Decoded::of(&raw);
                if let (Some(id), Ok(_)) = (decoded.basket, &decoded.event) {
                    picked.push((id, Some(raw.sequence)));
                }
            }
        }
        Ok(picked)
    }

    fn views(&self) -> Views {
        self.parts.views.at(self.version)
    }

    async fn compare(&mut self, id: BasketId, place: Option<u64>) -> Result<(), ScrubError> {
        let mut drift = self.look(id, place).await?;
        if drift.is_some() {
            // A decision about a parked event may have been on its way.
            tokio::time::sleep(LOOK_AGAIN).await;
            drift = self.look(id, place).await?;
        }
        self.parts.metrics.scrubbed_baskets.inc();
        *self
            .checked
            .entry(partition_of(id.shop, self.facts.partitions))
            .or_default() += 1;
        if self.parts.views.version() != self.version {
            return Ok(());
        }
        match drift {
            Some(what) => {
                if !self.drifting.contains_key(&id) {
                    if self.drifting.len() >= DRIFTING_MAX {
                        return Ok(());
                    }
                    tracing::error!(basket = %id, "basket {id} is not what the journal says ({what}); `ezout rebuild --session {id} --switch` folds it anew");
                }
                self.drifting.insert(id, what);
            }
            None => {
                if self.drifting.remove(&id).is_some() {
                    tracing::info!(basket = %id, "basket {id} is what the journal says again");
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a basket.
    async fn look(&self, id: BasketId, place: Option<u64>) -> Result<Option<String>, ScrubError> {
        let views = self.views();
        let checkpoint = views
            .checkpoint(partition_of(id.shop, self.facts.partitions))
            .await?
            .unwrap_or(0);
        let found = views.whole(id).await?;
        let place = place.filter(|place| *place <= checkpoint);
        let expected = match (&found, place) {
            (None, None) => return self.last_update(id).await,
            (None, Some(place)) => {
                let dropped = refold::dropped(&views, &self.facts.epoch.to_string(), [place]).await?;
                return Ok(dropped.is_empty().then(|| "it is not there".to_owned()));
            }
            (Some(found), place) => {
                let places = found.sequences().into_iter().chain(place).collect();
                let events = refold::events_at(&self.parts.journal, &places).await?;
                self.fold(id, &events, found.parked_since()).await?
            }
        };
        let found = found.expect("a basket that is not there was answered above");
        let differing = expected.differences(&found);
        if !differing.is_empty() {
            return Ok(Some(format!("it differs in {}", differing.join(", "))));
        }
        self.last_update(id).await
    }

    async fn fold(&self, id: BasketId, events: &[RawEvent], parked_since: Option<u64>) -> Result<Whole, ScrubError> {
        let epoch = self.facts.epoch.to_string();
        let dropped = refold::dropped(&self.parts.views, &epoch, events.iter().map(|event| event.sequence)).await?;
        let before = |event: &&RawEvent| parked_since.is_none_or(|since| event.sequence < since);
        let mut basket = refold::fold(id, self.parts.action_id, events.iter().filter(before), &dropped);
        if let Some(since) = parked_since {
            basket.park(since);
        }
        Ok(Whole::of(&basket, &epoch))
    }

    /// Compares the shop's last update with the basket that it tells of, as it was then.
    async fn last_update(&self, id: BasketId) -> Result<Option<String>, ScrubError> {
        let partition = partition_of(id.shop, self.facts.partitions);
        let epoch = self.facts.epoch.to_string();
        let Some((place, update)) = self.parts.updates.last_update(&epoch, partition, id.shop).await? else {
            return Ok(None);
        };
        let Some(raw) = self.parts.journal.get(place).await? else {
            return Ok(Some(format!(
                "an update tells of event {place}, which the journal does not have"
            )));
        };
        let Decoded {
            basket: Some(told),
            event: Ok(recorded),
            ..
        } = Decoded::of(&raw)
        else {
            return Ok(None);
        };
        if raw.recorded_at < self.since || told != id {
            return Ok(None);
        }
        let Some(found) = self.views().whole(told).await? else {
            return Ok(None);
        };
        let places: BTreeSet<u64> = found.sequences().into_iter().filter(|other| *other <= place).collect();
        let events = refold::events_at(&self.parts.journal, &places).await?;
        let basket = refold::fold(told, self.parts.action_id, &events, &Dropped::new());
        let agrees = agree(update_json(&recorded, &basket).as_bytes(), &update);
        Ok((!agrees).then(|| format!("its update of event {place} says something else")))
    }
}

/// Whether two updates agree in all that both say; another program may know a field more.
fn agree(expected: &[u8], found: &[u8]) -> bool {
    fn both(expected: &serde_json::Value, found: &serde_json::Value) -> bool {
        match (expected, found) {
            (serde_json::Value::Object(expected), serde_json::Value::Object(found)) => expected
                .iter()
                .all(|(name, value)| found.get(name).is_none_or(|other| both(value, other))),
            (expected, found) => expected == found,
        }
    }
    match (serde_json::from_slice(expected), serde_json::from_slice(found)) {
        (Ok(expected), Ok(found)) => both(&expected, &found),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn updates_agree_where_both_say_the_same_of_what_both_say() {
        let update = br#"{"sequence":1,"basket":{"total":3.5}}"#;
        assert!(agree(update, update));
        assert!(agree(
            update,
            br#"{"sequence":1,"basket":{"total":3.5,"more":1},"new":2}"#
        ));
        assert!(!agree(update, br#"{"sequence":1,"basket":{"total":3.6}}"#));
        assert!(!agree(update, b"no update"));
    }
}
