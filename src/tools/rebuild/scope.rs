//! Folding one shop or one session from the journal, comparing it, and having its baskets mended in place.
//!
//! Nothing is written here but the request to the owner of the partition, which folds the baskets anew:
//! only the projector writes those that are read.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::compare::{self, Expected};
use super::report::Report;
use super::{Args, Parts};
use crate::core::basket::Basket;
use crate::core::id::{BasketId, SessionId, ShopId, partition_of};
use crate::refold::{self, Decoded};
use crate::tools::say;
use crate::views::{Refold, Views, Whole};

/// How long the projector may take to fold what was asked for.
const MEND_TIMEOUT: Duration = Duration::from_mins(1);

/// A basket folded here, and the places of all events of its session.
struct Folded {
    basket: Basket,
    places: Vec<u64>,
}

/// A shop's baskets, or one of them, in memory.
struct InMemory<'a> {
    parts: &'a Parts,
    live: Views,
    partition: u16,
    shop: ShopId,
    session: Option<SessionId>,
    /// Up to where the journal was read.
    through: u64,
    baskets: BTreeMap<BasketId, Folded>,
    given: Option<BasketId>,
}

impl InMemory<'_> {
    /// Reads on, up to where the baskets that are read are folded.
    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let until = self.live.checkpoint(self.partition).await?.unwrap_or(0);
        let epoch = self.parts.facts.epoch.to_string();
        let (mut events, mut places, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let session = self.session;
        refold::events_of_shop(&self.parts.journal, self.shop, self.through, until, |raw| {
            let decoded = Decoded::of(&raw);
            let Some(id) = decoded.basket else { return };
            if session.is_none_or(|session| session == id.session) {
                places.push((id, raw.sequence));
                unreadable.extend(decoded.event.is_err().then_some(raw.sequence));
                events.push(decoded);
            }
        })
        .await?;
        // Those that were dropped although they can be read are few, and are listed; the others are asked about.
        let mut dropped: HashSet<u64> = refold::dropped(&self.live, &epoch, unreadable).await?;
        let decided = self.live.list_parked(true, i64::MAX).await?;
        dropped.extend(
            decided
                .iter()
                .filter(|event| event.epoch == epoch && event.partition == self.partition)
                .filter(|event| event.state.never_counts())
                .map(|event| event.sequence),
        );
        for (id, place) in places {
            let folded = self.baskets.entry(id).or_insert_with(|| Folded {
                basket: Basket::new(id, self.parts.action_id),
                places: Vec::new(),
            });
            folded.places.push(place);
        }
        for event in events {
            if let Some(folded) = event.basket.and_then(|id| self.baskets.get_mut(&id))
                && !dropped.contains(&event.sequence)
            {
                event.put_into(&mut folded.basket);
            }
        }
        self.through = self.through.max(until);
        Ok(())
    }

    fn whole(&self, folded: &Folded) -> Option<Whole> {
        (folded.basket.sequence() > 0).then(|| Whole::of(&folded.basket, &self.parts.facts.epoch.to_string()))
    }
}

impl Expected for InMemory<'_> {
    async fn next(&mut self) -> anyhow::Result<Option<Whole>> {
        use std::ops::Bound::{Excluded, Unbounded};
        loop {
            let from = self.given.map_or(Unbounded, Excluded);
            let Some((id, folded)) = self.baskets.range((from, Unbounded)).next() else {
                return Ok(None);
            };
            let (id, whole) = (*id, self.whole(folded));
            self.given = Some(id);
            if whole.is_some() {
                return Ok(whole);
            }
        }
    }

    async fn again(
        &mut self,
        keys: &[String],
        _reach: &BTreeMap<u16, u64>,
    ) -> anyhow::Result<(Vec<Whole>, BTreeMap<u16, u64>)> {
        self.catch_up().await?;
        let folded = keys
            .iter()
            .filter_map(|key| self.baskets.get(&BasketId::parse(key).ok()?));
        let wholes = folded.filter_map(|folded| self.whole(folded)).collect();
        Ok((wholes, BTreeMap::from([(self.partition, self.through)])))
    }
}

/// Folds, compares and, where that is asked for, has mended.
pub(super) async fn run(
    parts: &Parts,
    args: &Args,
    (shop, session): (ShopId, Option<SessionId>),
) -> anyhow::Result<()> {
    let active = parts.views.refresh_active().await?;
    super::of_this_journal(parts, active).await?;
    let live = parts.views.at(active);
    let partitions = parts.facts.partitions;
    let mut expected = InMemory {
        parts,
        live: live.clone(),
        partition: partition_of(shop, partitions),
        shop,
        session,
        through: 0,
        baskets: BTreeMap::new(),
        given: None,
    };
    expected.catch_up().await?;
    let report = match session {
        None => compare::run(&mut expected, &live, Some(shop), partitions).await?,
        Some(session) => {
            let key = BasketId { shop, session }.to_string();
            let mut report = Report::default();
            compare::look_again(&mut expected, &live, vec![key], partitions, &mut report).await?;
            for folded in expected.baskets.values() {
                if let Some(whole) = expected.whole(folded) {
                    report.digest(&whole);
                }
            }
            report
        }
    };
    say(&report.text());
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    if report.differing() == 0 {
        return Ok(());
    }
    if !args.switch {
        bail!(
            "{} baskets are not what the journal says; the same with --switch puts them right",
            report.differing()
        );
    }
    mend(&mut expected, &report, partitions).await
}

async fn mend(expected: &mut InMemory<'_>, report: &Report, partitions: u16) -> anyhow::Result<()> {
    let ids: Vec<BasketId> = report
        .keys()
        .iter()
        .filter_map(|key| BasketId::parse(key).ok())
        .collect();
    let refolds: Vec<Refold> = ids
        .iter()
        .map(|id| Refold {
            basket: *id,
            partition: expected.partition,
            sequences: expected
                .baskets
                .get(id)
                .map_or_else(Vec::new, |folded| folded.places.clone()),
            through: expected.through,
        })
        .collect();
    expected.live.ask_refolds(&refolds).await?;
    let asked = Instant::now();
    while expected.live.count_refolds(&ids).await? > 0 {
        if asked.elapsed() > MEND_TIMEOUT {
            bail!("no projector has folded the baskets anew yet; it will as soon as one runs");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut after = Report::default();
    compare::look_again(
        expected,
        &expected.live.clone(),
        report.keys().to_vec(),
        partitions,
        &mut after,
    )
    .await?;
    if after.differing() > 0 {
        say(&after.text());
        bail!("{} baskets are still not what the journal says", after.differing());
    }
    say(&format!("{} baskets were folded anew and are right now", ids.len()));
    Ok(())
}
