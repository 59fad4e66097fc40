//! Comparing the baskets that are read with those that the journal says, while both move.
//!
//! One pass over both in order finds most of them equal. What differs then may only have been written
//! in between, so it is looked at again until both sides have the same events, or until the journal's
//! side has had every chance to.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::report::Report;
use crate::core::id::partition_of;
use crate::views::{Keys, Ordered, Views, Whole};

/// How often a basket that differs is looked at again.
const ROUNDS: usize = 20;
/// Pause between two looks.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for the journal's side to get as far as a basket.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Baskets that are looked at together.
const CHUNK: usize = 500;

/// What the journal says of baskets.
pub(super) trait Expected {
    /// The next basket in the order of their ids.
    async fn next(&mut self) -> anyhow::Result<Option<Whole>>;

    /// These baskets again, after waiting until each partition is as far as in `reach`, or for a while.
    /// Answers how far each partition is as well.
    async fn again(
        &mut self,
        keys: &[String],
        reach: &BTreeMap<u16, u64>,
    ) -> anyhow::Result<(Vec<Whole>, BTreeMap<u16, u64>)>;
}

/// What a version says that is filled from the journal meanwhile.
pub(super) struct InVersion {
    views: Views,
    all: Ordered,
}

impl InVersion {
    pub(super) async fn open(views: &Views) -> anyhow::Result<Self> {
        Ok(Self {
            views: views.clone(),
            all: views.in_order(None).await?,
        })
    }
}

impl Expected for InVersion {
    async fn next(&mut self) -> anyhow::Result<Option<Whole>> {
        Ok(self.all.next().await?)
    }

    async fn again(
        &mut self,
        keys: &[String],
        reach: &BTreeMap<u16, u64>,
    ) -> anyhow::Result<(Vec<Whole>, BTreeMap<u16, u64>)> {
        let deadline = Instant::now() + REACH_TIMEOUT;
        let mut places = BTreeMap::new();
        loop {
            for partition in reach.keys() {
                places.insert(*partition, self.views.checkpoint(*partition).await?.unwrap_or(0));
            }
            if reach.iter().all(|(partition, place)| places[partition] >= *place) || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok((self.views.wholes(keys).await?, places))
    }
}

/// Compares all baskets, or those with some ids.
pub(super) async fn run(
    expected: &mut impl Expected,
    found: &Views,
    keys: Option<&Keys>,
    partitions: u16,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut differing = Vec::new();
    let mut all = found.in_order(keys).await?;
    let (mut one, mut other) = (expected.next().await?, all.next().await?);
    loop {
        let order = match (&one, &other) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.key().cmp(other.key()),
        };
        match order {
            Ordering::Less => {
                differing.extend(one.as_ref().map(|one| one.key().to_owned()));
            }
            Ordering::Greater => {
                differing.extend(other.as_ref().map(|other| other.key().to_owned()));
            }
            Ordering::Equal => {
                if let (Some(one), Some(other)) = (&one, &other) {
                    if one.differences(other).is_empty() {
                        report.equal += 1;
                    } else {
                        differing.push(one.key().to_owned());
                    }
                }
            }
        }
        if order != Ordering::Greater
            && let Some(one) = &one
        {
            report.digest(one);
        }
        if order != Ordering::Greater {
            one = expected.next().await?;
        }
        if order != Ordering::Less {
            other = all.next().await?;
        }
    }
    look_again(expected, found, differing, partitions, report).await
}

/// Looks at baskets that differed, until each is equal or differs for good.
async fn look_again(
    expected: &mut impl Expected,
    found: &Views,
    mut keys: Vec<String>,
    partitions: u16,
    report: &mut Report,
) -> anyhow::Result<()> {
    for round in 1..=ROUNDS {
        let mut rest = Vec::new();
        for keys in keys.chunks(CHUNK) {
            let seen = by_key(found.wholes(keys).await?);
            let mut reach: BTreeMap<u16, u64> = BTreeMap::new();
            for whole in seen.values() {
                if let Some(id) = whole.id() {
                    let place = reach.entry(partition_of(id.shop, partitions)).or_default();
                    *place = whole.sequence().max(*place);
                }
            }
            let (wanted, places) = expected.again(keys, &reach).await?;
            let wanted = by_key(wanted);
            for key in keys {
                let reached = |whole: &Whole| {
                    let partition = whole.id().map(|id| partition_of(id.shop, partitions));
                    partition.is_none_or(|partition| places.get(&partition).is_some_and(|at| *at >= whole.sequence()))
                };
                let last = round == ROUNDS;
                match (wanted.get(key), seen.get(key)) {
                    (None, None) => {}
                    (Some(wanted), None) if round > 1 => report.missing(wanted),
                    (None, Some(seen)) if last || reached(seen) => report.extra(seen),
                    (Some(wanted), Some(seen)) => {
                        let fields = wanted.differences(seen);
                        let for_good = match wanted.sequence().cmp(&seen.sequence()) {
                            Ordering::Equal => round > 1,
                            Ordering::Less => reached(seen),
                            Ordering::Greater => false,
                        };
                        if fields.is_empty() {
                            report.equal += 1;
                        } else if for_good || last {
                            report.different(wanted, seen, &fields);
                        } else {
                            rest.push(key.clone());
                        }
                    }
                    _ => rest.push(key.clone()),
                }
            }
        }
        if rest.is_empty() {
            break;
        }
        keys = rest;
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Ok(())
}

fn by_key(wholes: Vec<Whole>) -> HashMap<String, Whole> {
    wholes
        .into_iter()
        .map(|whole| (whole.key().to_owned(), whole))
        .collect()
}
