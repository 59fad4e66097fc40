//! Folding one shop or one session from the journal, comparing it, and having its baskets mended in place.
//!
//! Nothing is written here but the request to the owner of the partition, which folds the baskets anew:
//! only the projector writes those that are read. A shop that has more events than are held in memory is
//! folded in several parts by the ids of its sessions, each of which reads the shop's events once.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::compare::{self, Expected};
use super::report::Report;
use super::{Args, Parts};
use crate::core::basket::Basket;
use crate::core::id::{BasketId, SessionId, ShopId, partition_of};
use crate::core::policy::Verb;
use crate::refold::{self, Decoded};
use crate::tools::{deed, say};
use crate::views::{Deed, Keys, Refold, Views, Whole};

/// How long the projector may take to fold what was asked for.
const MEND_TIMEOUT: Duration = Duration::from_mins(1);
/// Most events whose baskets are in memory together, about; those of one basket are always together.
const EVENTS_TOGETHER: u64 = 200_000;

/// A basket folded here, and the places of all events of its session.
struct Folded {
    basket: Basket,
    places: Vec<u64>,
}

/// What is folded and compared together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// One session.
    Session(SessionId),
    /// Sessions whose ids begin with these four digits.
    Sessions(RangeInclusive<u16>),
}

impl Part {
    fn has(&self, session: SessionId) -> bool {
        match self {
            Self::Session(only) => *only == session,
            Self::Sessions(range) => range.contains(&digits(session)),
        }
    }

    fn keys(&self, shop: ShopId) -> Keys {
        match self {
            Self::Session(session) => Keys::of_basket(BasketId {
                shop,
                session: *session,
            }),
            Self::Sessions(range) => Keys::of_part(shop, *range.start(), *range.end()),
        }
    }
}

/// The first four digits of a session's id.
fn digits(session: SessionId) -> u16 {
    let [first, second, ..] = *session.uuid().as_bytes();
    u16::from_be_bytes([first, second])
}

/// Baskets of a shop, in memory.
struct InMemory<'a> {
    parts: &'a Parts,
    live: Views,
    partition: u16,
    shop: ShopId,
    part: Part,
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
        let decided = self.live.list_parked(true, i64::MAX).await?;
        let dropped: HashSet<u64> = decided
            .iter()
            .filter(|event| event.epoch == epoch && event.partition == self.partition)
            .filter(|event| event.state.never_counts())
            .map(|event| event.sequence)
            .collect();
        let (baskets, part, meaning) = (&mut self.baskets, &self.part, self.parts.action_id);
        refold::events_of_shop(&self.parts.journal, self.shop, self.through, until, |raw| {
            let decoded = Decoded::of(&raw);
            let Some(id) = decoded.basket.filter(|id| part.has(id.session)) else {
                return;
            };
            let folded = baskets.entry(id).or_insert_with(|| Folded {
                basket: Basket::new(id, meaning),
                places: Vec::new(),
            });
            folded.places.push(raw.sequence);
            if !dropped.contains(&raw.sequence) {
                decoded.put_into(&mut folded.basket);
            }
        })
        .await?;
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
    let (report, refolds) = compared(parts, &live, shop, session).await?;
    say(&report.text());
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    let scope = match session {
        Some(session) => BasketId { shop, session }.to_string(),
        None => shop.to_string(),
    };
    super::keep(parts, &report, &scope, None).await;
    if report.differing() == 0 {
        return Ok(());
    }
    if !args.switch {
        bail!(
            "{} baskets are not what the journal says; the same with --switch puts them right",
            report.differing()
        );
    }
    let what = format!("rebuild: fold {} baskets anew", refolds.len());
    let deed = Deed::in_shop(Verb::Operate, what, shop);
    let deed = match session {
        Some(session) => deed.with_session(session),
        None => deed,
    };
    deed::note(&parts.views, deed).await?;
    mend(&live, &refolds).await?;
    let (after, _) = compared(parts, &live, shop, session).await?;
    if after.differing() > 0 {
        say(&after.text());
        bail!("{} baskets are still not what the journal says", after.differing());
    }
    say(&format!("{} baskets were folded anew and are right now", refolds.len()));
    Ok(())
}

/// Folds and compares, and answers what to ask for where baskets differ.
async fn compared(
    parts: &Parts,
    live: &Views,
    shop: ShopId,
    session: Option<SessionId>,
) -> anyhow::Result<(Report, Vec<Refold>)> {
    let partition = partition_of(shop, parts.facts.partitions);
    let all = match session {
        Some(session) => vec![Part::Session(session)],
        None => portions(parts, live, shop, partition).await?,
    };
    let (mut report, mut refolds) = (Report::default(), Vec::new());
    for part in all {
        let keys = part.keys(shop);
        let mut expected = InMemory {
            parts,
            live: live.clone(),
            partition,
            shop,
            part,
            through: 0,
            baskets: BTreeMap::new(),
            given: None,
        };
        expected.catch_up().await?;
        let known = report.keys().len();
        compare::run(&mut expected, live, Some(&keys), parts.facts.partitions, &mut report).await?;
        let differing = report.keys()[known..]
            .iter()
            .filter_map(|key| BasketId::parse(key).ok());
        refolds.extend(differing.map(|basket| {
            Refold {
                basket,
                partition,
                sequences: expected
                    .baskets
                    .remove(&basket)
                    .map_or_else(Vec::new, |folded| folded.places),
                through: expected.through,
            }
        }));
    }
    Ok((report, refolds))
}

/// The parts in which a shop is folded.
async fn portions(parts: &Parts, live: &Views, shop: ShopId, partition: u16) -> anyhow::Result<Vec<Part>> {
    let until = live.checkpoint(partition).await?.unwrap_or(0);
    let mut events = vec![0_u64; usize::from(u16::MAX) + 1];
    refold::events_of_shop(&parts.journal, shop, 0, until, |raw| {
        if let Some(session) = raw.session() {
            events[usize::from(digits(session))] += 1;
        }
    })
    .await?;
    Ok(ranges(&events).into_iter().map(Part::Sessions).collect())
}

/// Ranges that have few enough events each, where that can be.
fn ranges(events: &[u64]) -> Vec<RangeInclusive<u16>> {
    let (mut ranges, mut first, mut held) = (Vec::new(), 0, 0);
    for (digits, count) in (0..=u16::MAX).zip(events) {
        if held > 0 && held + count > EVENTS_TOGETHER {
            ranges.push(first..=digits - 1);
            (first, held) = (digits, 0);
        }
        held += count;
    }
    ranges.push(first..=u16::MAX);
    ranges
}

async fn mend(live: &Views, refolds: &[Refold]) -> anyhow::Result<()> {
    let ids: Vec<BasketId> = refolds.iter().map(|refold| refold.basket).collect();
    live.ask_refolds(refolds).await?;
    let asked = Instant::now();
    while live.count_refolds(&ids).await? > 0 {
        if asked.elapsed() > MEND_TIMEOUT {
            bail!("no projector has folded the baskets anew yet; it will as soon as one runs");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shop_is_folded_in_as_few_parts_as_its_events_allow() {
        let all = usize::from(u16::MAX) + 1;
        assert_eq!(ranges(&vec![0; all]), [0..=u16::MAX]);
        let mut events = vec![0; all];
        events[7] = EVENTS_TOGETHER * 3;
        events[8] = 1;
        events[0xfff0] = EVENTS_TOGETHER;
        assert_eq!(ranges(&events), [0..=7, 8..=0xffef, 0xfff0..=u16::MAX]);
        let session = SessionId::parse("fff04567-e89b-42d3-a456-426614174000").unwrap();
        assert!(Part::Sessions(0xfff0..=u16::MAX).has(session));
        assert!(!Part::Sessions(8..=0xffef).has(session));
    }
}
