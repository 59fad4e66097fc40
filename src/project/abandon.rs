//! Durable timers: a basket to which nothing happens for a long time is abandoned, by an event in the journal.
//!
//! Whoever owns a partition looks for open baskets whose last event is old, and appends one abandonment
//! for each. The projector then takes it from the journal like any other event, so a replay and a rebuild
//! have it at the same place, and no timer has to survive a restart: what was due meanwhile is found by
//! the next round. Two owners that notice the same append the same event.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use lru::LruCache;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::core::error_chain;
use crate::core::event::Abandonment;
use crate::core::id::{BasketId, ShopId, partition_of};
use crate::journal::{Entry, Facts, ReadError};
use crate::views::{Idle, ViewError};

/// Longest pause between two rounds, which is also how late an abandonment may be.
const ROUND_MAX: Duration = Duration::from_secs(15);
/// Shortest pause between two rounds.
const ROUND_MIN: Duration = Duration::from_millis(500);
/// Shops that one question is about.
const SHOPS: usize = 500;
/// Baskets that one question may find; the others are found in the next rounds.
const FOUND_MAX: u16 = 1_000;
/// Abandonments that wait for their acknowledgement at the same time.
const IN_FLIGHT: usize = 32;
/// Abandonments that are remembered as told, while the projector has not come to them.
const TOLD_MAX: NonZeroUsize = NonZeroUsize::new(20_000).expect("it is above 0");

/// Why a round could not be made.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Journal(#[from] ReadError),
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Looks for abandoned baskets of the partitions that are `owned` until `stop`.
pub(super) async fn run(
    parts: Parts,
    facts: Facts,
    owned: watch::Receiver<BTreeSet<u16>>,
    after: Option<Duration>,
    stop: CancellationToken,
) {
    let Some(after) = after else { return };
    let mut timers = Timers {
        parts,
        facts,
        owned,
        after,
        told: LruCache::new(TOLD_MAX),
    };
    let mut interval = tokio::time::interval((after / 4).clamp(ROUND_MIN, ROUND_MAX));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        match stop.run_until_cancelled(timers.round()).await {
            None => break,
            Some(Ok(())) => {}
            // What is away is reported by those who need it more.
            Some(Err(error)) => tracing::debug!("abandoned baskets cannot be looked for now: {}", error_chain(&error)),
        }
    }
}

struct Timers {
    parts: Parts,
    facts: Facts,
    owned: watch::Receiver<BTreeSet<u16>>,
    after: Duration,
    /// The last event of each basket that was said to be abandoned.
    told: LruCache<BasketId, u64>,
}

impl Timers {
    async fn round(&mut self) -> Result<(), RoundError> {
        let owned = self.owned.borrow().clone();
        if owned.is_empty() {
            return Ok(());
        }
        let views = self.parts.views.at(self.parts.views.version());
        let shops = views.shops().await?;
        for partition in owned {
            let Some(now) = self.folded_until(partition).await? else {
                continue;
            };
            let mine: Vec<ShopId> = shops
                .iter()
                .copied()
                .filter(|shop| partition_of(*shop, self.facts.partitions) == partition)
                .collect();
            for shops in mine.chunks(SHOPS) {
                let idle = views.idle(shops, now - self.after, FOUND_MAX).await?;
                self.tell(idle).await;
            }
        }
        Ok(())
    }

    /// The time up to which the baskets of a partition know what happened: now, if all of it is folded. A
    /// projector that lags must not take for silence what it has not read.
    async fn folded_until(&self, partition: u16) -> Result<Option<OffsetDateTime>, RoundError> {
        let now = OffsetDateTime::now_utc();
        let Some(checkpoint) = self.parts.views.load_checkpoint(partition).await? else {
            return Ok(None);
        };
        let folded_to = u64::try_from(checkpoint.sequence).unwrap_or(0);
        if self.parts.journal.backlog(partition, folded_to).await?.events == 0 {
            return Ok(Some(now));
        }
        Ok(OffsetDateTime::from_unix_timestamp_nanos(checkpoint.recorded_ns.into()).ok())
    }

    /// Tells the journal of baskets that are idle. What cannot be told now is found again by the next round.
    async fn tell(&mut self, idle: Vec<Idle>) {
        let untold: Vec<Idle> = idle
            .into_iter()
            .filter(|idle| self.told.peek(&idle.basket) != Some(&idle.sequence))
            .collect();
        let mut appends = stream::iter(untold)
            .map(|idle| {
                let journal = self.parts.journal.clone();
                async move { (idle, journal.append(entry(idle)).await) }
            })
            .buffer_unordered(IN_FLIGHT);
        let mut told = Vec::new();
        while let Some((idle, answer)) = appends.next().await {
            match answer {
                Ok(receipt) => {
                    if !receipt.duplicate {
                        self.parts.metrics.abandonments.inc();
                    }
                    told.push(idle);
                }
                Err(error) => {
                    tracing::debug!(basket = %idle.basket, "basket {} cannot be abandoned now: {error}", idle.basket);
                }
            }
        }
        drop(appends);
        for idle in told {
            self.told.put(idle.basket, idle.sequence);
        }
    }
}

fn entry(idle: Idle) -> Entry {
    let abandonment = Abandonment {
        basket: idle.basket,
        after: idle.sequence,
        idle_since: idle.since,
    };
    let (json, digest) = abandonment.canonical();
    Entry {
        shop: idle.basket.shop,
        id: abandonment.identity(),
        digest,
        headers: abandonment.headers(),
        body: json.into(),
    }
}
