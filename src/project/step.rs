//! One step: some events, folded into their baskets, saved, told and checked off.
//!
//! The order of the durable effects is: parked events, baskets, updates, checkpoint. The power may go
//! between any two of them. The step is then done again from the checkpoint: what is parked stays as it
//! is, a basket that has the event is left alone, an update that was published is left out, and one
//! that was not is made from the basket as it was after its event.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use lru::LruCache;
use time::OffsetDateTime;

use super::Parts;
use crate::core::basket::{Applied, Basket, EVENTS_MAX};
use crate::core::event::{ACTION_TYPE, Event, Recorded, Strictness};
use crate::core::failpoint;
use crate::core::id::{BasketId, ShopId};
use crate::core::update::update_json;
use crate::journal::RawEvent;
use crate::updates::{Update, UpdateError};
use crate::views::{Checkpoint, ParkedEvent, ParkedState, Saved, Stored, ViewError, Write};

/// Most actions that a partition's baskets in memory hold together. Only the baskets of a step are needed.
const CACHED_ACTIONS_MAX: usize = 20_000;

/// Header with the type of an event (`CloudEvents` 1.0).
const EVENT_TYPE: &str = "ce-type";

/// Why a step was not done. It may have been done in part; doing it again is safe.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// Somebody else wrote one of the baskets since it was read.
    #[error("a basket was written by somebody else")]
    Stale,
    /// The checkpoint was moved under a later lease.
    #[error("the lease was lost")]
    LeaseLost,
    /// A basket comes from another journal.
    #[error(
        "basket {basket} was folded from another journal (epoch {epoch}): drop the collections baskets, checkpoints and parked_events to fold this one from its beginning"
    )]
    OtherEpoch {
        /// The basket.
        basket: BasketId,
        /// The epoch that it was folded from.
        epoch: String,
    },
    /// MongoDB failed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// NATS failed.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// A basket in memory, and what is stored of it.
struct Held {
    basket: Basket,
    stored: Option<Stored>,
}

/// Folds the events of one partition, whose baskets nobody else writes.
pub(super) struct Fold {
    pub(super) parts: Parts,
    partition: u16,
    epoch: String,
    fence: i64,
    updates: crate::updates::PartitionUpdates,
    baskets: LruCache<BasketId, Held>,
}

/// What a step has collected before its first durable effect.
#[derive(Default)]
struct Collected {
    touched: BTreeSet<BasketId>,
    parked: Vec<ParkedEvent>,
    updates: HashMap<ShopId, Vec<Update>>,
    outcomes: HashMap<&'static str, u64>,
}

impl Collected {
    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn tell(&mut self, recorded_sequence: u64, basket: &Basket, json: String, late: bool) {
        let update = Update {
            sequence: recorded_sequence,
            json,
            late,
        };
        self.updates.entry(basket.id().shop).or_default().push(update);
    }
}

impl Fold {
    pub(super) fn new(parts: Parts, partition: u16, epoch: String, fence: i64) -> Self {
        let updates = parts.updates.of_partition(partition);
        Self {
            parts,
            partition,
            epoch,
            fence,
            updates,
            baskets: LruCache::unbounded(),
        }
    }

    /// Does one step and moves the checkpoint to `to`.
    pub(super) async fn step(&mut self, events: &[RawEvent], to: &Checkpoint) -> Result<(), StepError> {
        let result = self.try_step(events, to).await;
        self.settle_cache(result.is_err());
        result
    }

    async fn try_step(&mut self, events: &[RawEvent], to: &Checkpoint) -> Result<(), StepError> {
        self.parts.metrics.projection_step_events.observe(count(events.len()));
        let decoded: Vec<_> = events.iter().map(|raw| (raw, decode(raw))).collect();
        let ids: BTreeSet<BasketId> = decoded
            .iter()
            .filter_map(|(raw, event)| {
                event
                    .as_ref()
                    .map_or_else(|_| basket_of(raw), |event| Some(event.event.basket()))
            })
            .collect();
        let started = Instant::now();
        self.load(&ids).await?;
        let through = self.through(&decoded).await?;
        self.time("load", started);

        let started = Instant::now();
        let mut collected = Collected::default();
        for (raw, event) in decoded {
            match event {
                Ok(recorded) => self.fold(raw, recorded, &through, &mut collected).await?,
                Err(reason) => self.park(raw, basket_of(raw), reason, &mut collected).await?,
            }
        }
        self.time("fold", started);
        self.commit(collected).await?;
        failpoint::hit("after_updates");

        let started = Instant::now();
        if !self.parts.views.move_checkpoint(to).await? {
            return Err(StepError::LeaseLost);
        }
        failpoint::hit("after_checkpoint");
        self.time("checkpoint", started);
        let now = OffsetDateTime::now_utc();
        for raw in events {
            self.parts
                .metrics
                .projection_lag_seconds
                .observe((now - raw.recorded_at).as_seconds_f64().max(0.0));
        }
        Ok(())
    }

    /// Makes a step's effects durable, in their order.
    async fn commit(&mut self, collected: Collected) -> Result<(), StepError> {
        self.parts.views.park(&collected.parked).await?;
        failpoint::hit("after_park");
        let started = Instant::now();
        self.save(&collected.touched).await?;
        failpoint::hit("after_baskets");
        self.time("write", started);
        let started = Instant::now();
        self.updates.publish(collected.updates).await?;
        self.time("publish", started);
        for (outcome, number) in collected.outcomes {
            self.parts
                .metrics
                .projected_events
                .with_label_values(&[outcome])
                .inc_by(number);
        }
        Ok(())
    }

    /// Puts the baskets that are not in memory there.
    async fn load(&mut self, ids: &BTreeSet<BasketId>) -> Result<(), StepError> {
        let unknown: Vec<BasketId> = ids.iter().copied().filter(|id| !self.baskets.contains(id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for (basket, stored) in self.parts.views.load(&unknown, self.parts.action_id).await? {
            if stored.epoch != self.epoch {
                return Err(StepError::OtherEpoch {
                    basket: basket.id(),
                    epoch: stored.epoch,
                });
            }
            self.baskets.put(
                basket.id(),
                Held {
                    basket,
                    stored: Some(stored),
                },
            );
        }
        for id in unknown {
            if !self.baskets.contains(&id) {
                self.baskets.put(
                    id,
                    Held {
                        basket: Basket::new(id, self.parts.action_id),
                        stored: None,
                    },
                );
            }
        }
        Ok(())
    }

    /// What was published already, for the shops of events that their baskets have already.
    async fn through(
        &mut self,
        decoded: &[(&RawEvent, Result<Recorded, String>)],
    ) -> Result<HashMap<ShopId, u64>, StepError> {
        let mut shops = HashSet::new();
        for (_, event) in decoded {
            if let Ok(recorded) = event {
                let id = recorded.event.basket();
                if self
                    .baskets
                    .peek(&id)
                    .is_some_and(|held| recorded.sequence <= held.basket.sequence())
                {
                    shops.insert(id.shop);
                }
            }
        }
        if shops.is_empty() {
            Ok(HashMap::new())
        } else {
            Ok(self.updates.through(shops.iter().copied()).await?)
        }
    }

    async fn fold(
        &mut self,
        raw: &RawEvent,
        recorded: Recorded,
        through: &HashMap<ShopId, u64>,
        collected: &mut Collected,
    ) -> Result<(), StepError> {
        let id = recorded.event.basket();
        let sequence = recorded.sequence;
        let basket = &mut self
            .baskets
            .get_mut(&id)
            .expect("every basket of the step was loaded")
            .basket;
        if let Some(since) = basket.parked_since()
            && sequence >= since
        {
            let reason = format!("event {since} of the same session is parked");
            self.keep_parked(raw, Some(id), reason, collected);
            return Ok(());
        }
        if sequence <= basket.sequence() {
            let counted = basket
                .actions()
                .binary_search_by_key(&sequence, |action| action.sequence)
                .is_ok();
            if counted && through.get(&id.shop).is_some_and(|through| sequence > *through) {
                let as_it_was = as_of(basket, sequence, self.parts.action_id);
                collected.tell(sequence, &as_it_was, update_json(&recorded, &as_it_was), false);
            }
            return Ok(());
        }
        match basket.apply(recorded.clone()) {
            Applied::Counted => {
                basket.settle();
                collected.tell(sequence, basket, update_json(&recorded, basket), false);
                collected.touched.insert(id);
                collected.count("counted");
            }
            Applied::Duplicate => collected.count("duplicate"),
            Applied::Conflicting => {
                basket.settle();
                collected.touched.insert(id);
                collected.count("conflicting");
            }
            Applied::Full => {
                let reason = format!("the session has {EVENTS_MAX} events, which is all that a basket keeps");
                return self.park(raw, Some(id), reason, collected).await;
            }
        }
        Ok(())
    }

    /// Parks an event, unless a person has decided that it never counts.
    async fn park(
        &mut self,
        raw: &RawEvent,
        basket: Option<BasketId>,
        reason: String,
        collected: &mut Collected,
    ) -> Result<(), StepError> {
        if !self
            .parts
            .views
            .dropped(&[ParkedEvent::id(&self.epoch, raw.sequence)])
            .await?
            .is_empty()
        {
            collected.count("dropped");
            return Ok(());
        }
        tracing::warn!(event.sequence = raw.sequence, "parked event {}: {reason}", raw.sequence);
        self.keep_parked(raw, basket, reason, collected);
        Ok(())
    }

    fn keep_parked(&mut self, raw: &RawEvent, basket: Option<BasketId>, reason: String, collected: &mut Collected) {
        collected.parked.push(ParkedEvent {
            id: ParkedEvent::id(&self.epoch, raw.sequence),
            partition: self.partition,
            sequence: raw.sequence,
            basket,
            reason,
            state: ParkedState::Parked,
            subject: raw.subject.clone(),
            event_type: raw.header(EVENT_TYPE).map(str::to_owned),
            recorded_at: in_milliseconds(raw.recorded_at),
            body: raw.body.to_vec(),
        });
        collected.count("parked");
        if let Some(id) = basket {
            let held = self.baskets.get_mut(&id).expect("every basket of the step was loaded");
            if held.basket.parked_since().is_none() {
                held.basket.park(raw.sequence);
                collected.touched.insert(id);
            }
        }
    }

    /// Writes the baskets that changed.
    async fn save(&mut self, touched: &BTreeSet<BasketId>) -> Result<(), StepError> {
        let writes: Vec<Write<'_>> = touched
            .iter()
            .filter_map(|id| self.baskets.peek(id))
            .map(|held| Write {
                basket: &held.basket,
                stored: held.stored.as_ref(),
            })
            .collect();
        if writes.is_empty() {
            return Ok(());
        }
        if self.parts.views.save(&writes, &self.epoch, self.fence).await? == Saved::Stale {
            self.parts.metrics.guarded_writes.inc();
            return Err(StepError::Stale);
        }
        for id in touched {
            if let Some(held) = self.baskets.peek_mut(id) {
                held.basket.saved();
                held.stored = Some(stored(&held.basket, &self.epoch));
            }
        }
        Ok(())
    }

    /// Forgets everything after a failure, since what was stored is not known, and else the baskets that are the longest unused.
    fn settle_cache(&mut self, failed: bool) {
        if failed {
            self.baskets.clear();
        }
        // The number of actions is only needed when there might be too many.
        let mut actions: usize = self.baskets.iter().map(|(_, held)| held.basket.version() + 1).sum();
        while actions > CACHED_ACTIONS_MAX && self.baskets.len() > 1 {
            let Some((_, held)) = self.baskets.pop_lru() else { break };
            actions -= held.basket.version() + 1;
        }
        self.parts
            .metrics
            .cached_baskets
            .set(i64::try_from(self.baskets.len()).unwrap_or(i64::MAX));
    }

    fn time(&self, part: &str, started: Instant) {
        self.parts
            .metrics
            .projection_step_seconds
            .with_label_values(&[part])
            .observe(started.elapsed().as_secs_f64());
    }

    /// Applies parked events of one basket that a person wants applied, in their order, up to the first
    /// that still cannot be or that nobody asked for. Answers what became of each.
    pub(super) async fn apply_parked(
        &mut self,
        id: BasketId,
        events: &[ParkedEvent],
    ) -> Result<Vec<(String, Retried)>, StepError> {
        let result = self.try_apply_parked(id, events).await;
        if result.is_err() {
            self.baskets.clear();
        }
        result
    }

    async fn try_apply_parked(
        &mut self,
        id: BasketId,
        events: &[ParkedEvent],
    ) -> Result<Vec<(String, Retried)>, StepError> {
        self.load(&BTreeSet::from([id])).await?;
        let held = self.baskets.get_mut(&id).expect("it was just loaded");
        let mut collected = Collected::default();
        let mut retried = Vec::new();
        let mut still_parked = None;
        for event in events {
            let sequence = event.sequence;
            match event.state {
                ParkedState::Retry => {}
                ParkedState::Drop => {
                    retried.push((event.id.clone(), Retried::Dropped));
                    continue;
                }
                ParkedState::Dropped => continue,
                ParkedState::Parked => {
                    still_parked = Some(sequence);
                    break;
                }
            }
            let recorded =
                decode_parts(event.event_type.as_deref(), &event.body, &event.subject).map(|decoded| Recorded {
                    sequence,
                    recorded_at: event.recorded_at,
                    event: decoded,
                });
            let outcome = match recorded {
                Err(reason) => Err(reason),
                Ok(recorded) if recorded.event.basket() != id => Err("it belongs to another basket".to_owned()),
                Ok(recorded) => match held.basket.apply(recorded.clone()) {
                    Applied::Full => Err(format!(
                        "the session has {EVENTS_MAX} events, which is all that a basket keeps"
                    )),
                    // Also one that was applied before a crash: its update may not have been published.
                    Applied::Counted | Applied::Duplicate => {
                        held.basket.settle();
                        let as_it_was = as_of(&held.basket, sequence, self.parts.action_id);
                        collected.tell(sequence, &as_it_was, update_json(&recorded, &as_it_was), true);
                        Ok(())
                    }
                    Applied::Conflicting => Ok(()),
                },
            };
            match outcome {
                Ok(()) => retried.push((event.id.clone(), Retried::Applied)),
                Err(reason) => {
                    retried.push((event.id.clone(), Retried::ParkedAgain(reason)));
                    still_parked = Some(sequence);
                    break;
                }
            }
        }
        held.basket.unpark();
        if let Some(sequence) = still_parked {
            held.basket.park(sequence);
        }
        held.basket.settle();
        collected.touched.insert(id);
        self.commit(collected).await?;
        failpoint::hit("after_retry");
        Ok(retried)
    }
}

/// What became of a parked event that was to be applied.
pub(super) enum Retried {
    /// It is in its basket.
    Applied,
    /// It never counts.
    Dropped,
    /// It still cannot be applied.
    ParkedAgain(String),
}

fn stored(basket: &Basket, epoch: &str) -> Stored {
    Stored {
        epoch: epoch.to_owned(),
        sequence: i64::try_from(basket.sequence()).unwrap_or(i64::MAX),
        version: i64::try_from(basket.version()).unwrap_or(i64::MAX),
    }
}

/// The basket as it was after the event at this place.
fn as_of(basket: &Basket, sequence: u64, meaning: crate::core::event::ActionIdMeaning) -> Basket {
    let up_to = |events: &[Recorded]| {
        events
            .iter()
            .filter(|event| event.sequence <= sequence)
            .cloned()
            .collect()
    };
    Basket::restore(
        basket.id(),
        meaning,
        up_to(basket.actions()),
        up_to(basket.conflicts()),
        None,
    )
}

/// Reads an event of the journal, or says why it cannot be read.
fn decode(raw: &RawEvent) -> Result<Recorded, String> {
    let event = decode_parts(raw.header(EVENT_TYPE), &raw.body, &raw.subject)?;
    Ok(Recorded {
        sequence: raw.sequence,
        recorded_at: in_milliseconds(raw.recorded_at),
        event,
    })
}

/// An event without a type is an action: only our own API sets one.
fn decode_parts(event_type: Option<&str>, body: &[u8], subject: &str) -> Result<Event, String> {
    if let Some(event_type) = event_type
        && event_type != ACTION_TYPE
    {
        return Err(format!("this version does not know events of type {event_type:?}"));
    }
    let event = Event::parse(body, Strictness::Original).map_err(|error| error.to_string())?;
    if subject.rsplit('.').next() != Some(event.shop.to_string().as_str()) {
        return Err(format!(
            "it is of shop {} and was recorded for another one, under {subject}",
            event.shop
        ));
    }
    Ok(event)
}

/// The basket that an unreadable event belongs to, by its headers, where these tell.
fn basket_of(raw: &RawEvent) -> Option<BasketId> {
    Some(BasketId {
        shop: raw.shop()?,
        session: raw.session()?,
    })
}

/// The views keep milliseconds; an event folded now must equal the same one read back.
fn in_milliseconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(u32::from(time.millisecond()) * 1_000_000)
        .expect("fewer than a second's nanoseconds")
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred events are exact in a double")]
fn count(number: usize) -> f64 {
    number as f64
}
