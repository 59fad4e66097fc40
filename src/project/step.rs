//! One step: some events, folded into their baskets, saved, told and checked off.
//!
//! The order of the durable effects is: parked events, baskets, updates, checkpoint. The power may go
//! between any two of them. The step is then done again from the checkpoint: what is parked stays as it
//! is, a basket that has the event is left alone, an update that was published is left out, and one
//! that was not is made from the basket as it was after its event.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use lru::LruCache;
use time::OffsetDateTime;

use super::Parts;
use crate::core::basket::{Applied, Basket, EVENTS_MAX, TEXT_BYTES_MAX};
use crate::core::event::{BY_HAND, Correction, JournalEvent, Recorded, in_milliseconds};
use crate::core::failpoint;
use crate::core::id::{BasketId, ShopId};
use crate::core::trace::{TRACEPARENT, TraceContext};
use crate::core::update::update_json;
use crate::journal::RawEvent;
use crate::refold::{self, EVENT_TYPE, basket_of, decode, decode_parts};
use crate::trace::{Span, SpanKind, place};
use crate::updates::{Turn, Update, UpdateError};
use crate::views::{Checkpoint, ParkedEvent, ParkedState, Saved, Stored, ViewError, Views, Write};

/// Most bytes, about, of the baskets in memory, in all partitions of the process. Only the baskets of a step are needed.
const CACHED_BYTES_MAX: usize = 48 * 1024 * 1024;

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
        "basket {basket} was folded from another journal (epoch {epoch}): drop the collections baskets (with baskets_2 and so on), projections, checkpoints and parked_events to fold this one from its beginning"
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
    /// What it counts in the sum of the cache.
    weight: usize,
}

impl Held {
    fn new(basket: Basket, stored: Option<Stored>) -> Self {
        Self {
            basket,
            stored,
            weight: 0,
        }
    }
}

/// Folds the events of one partition, whose baskets nobody else writes.
pub(super) struct Fold {
    pub(super) parts: Parts,
    partition: u16,
    epoch: String,
    fence: i64,
    /// The last event about which a person may have decided already; what this partition parks from now on is behind it.
    parked_through: u64,
    updates: crate::updates::PartitionUpdates,
    baskets: LruCache<BasketId, Held>,
    cached_bytes: usize,
    cached_baskets: usize,
    /// Baskets of the step whose documents cannot be read, with the reason.
    unreadable: HashMap<BasketId, String>,
}

/// What a step has collected before its first durable effect.
struct Collected {
    /// When the step began.
    started_at: SystemTime,
    touched: BTreeSet<BasketId>,
    parked: Vec<ParkedEvent>,
    updates: HashMap<ShopId, Vec<Update>>,
    /// Parts of the traces of its events.
    spans: Vec<Span>,
    outcomes: HashMap<&'static str, u64>,
}

impl Collected {
    fn new(started_at: SystemTime) -> Self {
        Self {
            started_at,
            touched: BTreeSet::new(),
            parked: Vec::new(),
            updates: HashMap::new(),
            spans: Vec::new(),
            outcomes: HashMap::new(),
        }
    }

    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn tell(&mut self, recorded: &Recorded<JournalEvent>, json: String, turn: Turn, trace: Option<TraceContext>) {
        let update = Update {
            sequence: recorded.sequence,
            recorded_at: recorded.recorded_at,
            json,
            turn,
            trace,
        };
        self.updates
            .entry(recorded.event.basket().shop)
            .or_default()
            .push(update);
    }
}

impl Fold {
    /// Folds from now on; `parked_through` is the last event that is parked by now.
    pub(super) fn new(parts: Parts, partition: u16, epoch: String, fence: i64, parked_through: u64) -> Self {
        let updates = parts.updates.of_partition(partition, epoch.clone());
        Self {
            parts,
            partition,
            epoch,
            fence,
            parked_through,
            updates,
            baskets: LruCache::unbounded(),
            cached_bytes: 0,
            cached_baskets: 0,
            unreadable: HashMap::new(),
        }
    }

    /// The journal's epoch.
    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Where its baskets are.
    pub(super) fn views(&self) -> &Views {
        &self.parts.views
    }

    /// Forgets a basket, which is read again when it is next needed.
    pub(super) fn forget(&mut self, id: BasketId) {
        if let Some(held) = self.baskets.pop(&id) {
            self.count_cached(self.cached_bytes - held.weight);
        }
    }

    /// Does one step and moves the checkpoint to `to`; `begins` says that there is no checkpoint yet.
    pub(super) async fn step(&mut self, events: &[RawEvent], to: &Checkpoint, begins: bool) -> Result<(), StepError> {
        let mut ids = BTreeSet::new();
        let result = self.try_step(events, to, begins, &mut ids).await;
        self.settle_cache(&ids, result.is_err());
        result
    }

    async fn try_step(
        &mut self,
        events: &[RawEvent],
        to: &Checkpoint,
        begins: bool,
        ids: &mut BTreeSet<BasketId>,
    ) -> Result<(), StepError> {
        self.parts.metrics.projection_step_events.observe(count(events.len()));
        let decoded: Vec<_> = events.iter().map(|raw| (raw, decode(raw))).collect();
        let basket_in = |(raw, event): &(&RawEvent, Result<Recorded<JournalEvent>, String>)| match event {
            Ok(recorded) => Some(recorded.event.basket()),
            Err(_) => basket_of(raw),
        };
        ids.extend(decoded.iter().filter_map(basket_in));
        let started_at = SystemTime::now();
        let started = Instant::now();
        self.load(ids).await?;
        let through = self.through(&decoded).await?;
        let parked = events
            .iter()
            .map(|raw| raw.sequence)
            .filter(|sequence| *sequence <= self.parked_through);
        let dropped = refold::dropped(&self.parts.views, &self.epoch, parked).await?;
        self.time("load", started);

        let sources: Vec<&str> = decoded.iter().filter_map(|(_, event)| source(event)).collect();
        let started = Instant::now();
        let mut collected = Collected::new(started_at);
        for (raw, event) in decoded {
            match event {
                // It never counts, also where it can be read by now.
                _ if dropped.contains(&raw.sequence) => collected.count("dropped"),
                Ok(recorded) => self.fold(raw, &recorded, &through, &mut collected),
                Err(reason) => self.park(raw, basket_of(raw), reason, &mut collected),
            }
        }
        self.time("fold", started);
        self.commit(collected).await?;
        failpoint::hit("after_updates");

        let started = Instant::now();
        if !self.parts.views.move_checkpoint(to, begins).await? {
            return Err(StepError::LeaseLost);
        }
        failpoint::hit("after_checkpoint");
        self.time("checkpoint", started);
        for source in sources {
            let series = &self.parts.metrics.projected_corrections;
            series.with_label_values(&[source]).inc();
        }
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
        let told: Vec<Span> = collected
            .spans
            .into_iter()
            .filter_map(|span| self.end_projected(span))
            .collect();
        self.updates
            .publish(collected.updates, OffsetDateTime::now_utc())
            .await?;
        self.time("publish", started);
        for span in told {
            span.end(None);
        }
        for (outcome, number) in collected.outcomes {
            self.parts
                .metrics
                .projected_events
                .with_label_values(&[outcome])
                .inc_by(number);
        }
        Ok(())
    }

    /// Ends the part of a trace in which an event came into its basket, and begins the one in which that is told.
    fn end_projected(&self, span: Span) -> Option<Span> {
        let context = span.context();
        span.end(None);
        self.parts
            .tracer
            .below("publish the update", SpanKind::Producer, Some(context))
    }

    /// Puts the baskets that are not in memory there.
    async fn load(&mut self, ids: &BTreeSet<BasketId>) -> Result<(), StepError> {
        self.unreadable.clear();
        let unknown: Vec<BasketId> = ids.iter().copied().filter(|id| !self.baskets.contains(id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for loaded in self.parts.views.load(&unknown, self.parts.action_id).await? {
            match loaded.basket {
                Ok((_, stored)) if stored.epoch != self.epoch => {
                    return Err(StepError::OtherEpoch {
                        basket: loaded.id,
                        epoch: stored.epoch,
                    });
                }
                Ok((basket, stored)) => {
                    self.baskets.put(loaded.id, Held::new(basket, Some(stored)));
                }
                Err(reason) => {
                    self.unreadable.insert(
                        loaded.id,
                        format!("the document of its basket cannot be read: {reason}"),
                    );
                }
            }
        }
        for id in unknown {
            if !self.baskets.contains(&id) && !self.unreadable.contains_key(&id) {
                self.baskets
                    .put(id, Held::new(Basket::new(id, self.parts.action_id), None));
            }
        }
        Ok(())
    }

    /// What was published already, for the shops of events that their baskets have already.
    async fn through(
        &mut self,
        decoded: &[(&RawEvent, Result<Recorded<JournalEvent>, String>)],
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

    /// Puts an event into its basket. The basket tells whether it has it already, not the sequence: a
    /// basket that was lost is then whole again when the journal is read from its beginning.
    fn fold(
        &mut self,
        raw: &RawEvent,
        recorded: &Recorded<JournalEvent>,
        through: &HashMap<ShopId, u64>,
        collected: &mut Collected,
    ) {
        let id = recorded.event.basket();
        let sequence = recorded.sequence;
        if let Some(reason) = self.unreadable.get(&id) {
            return self.park(raw, Some(id), reason.clone(), collected);
        }
        let basket = &mut self
            .baskets
            .get_mut(&id)
            .expect("every basket of the step was loaded")
            .basket;
        if let Some(since) = basket.parked_since()
            && sequence >= since
        {
            return self.keep_parked(raw, Some(id), following(since), collected);
        }
        let behind = sequence <= basket.sequence();
        let due = !behind || through.get(&id.shop).is_none_or(|through| sequence > *through);
        let applied = basket.put(recorded.clone());
        match applied {
            Applied::Counted | Applied::Conflicting => {
                basket.settle();
                collected.touched.insert(id);
            }
            Applied::Duplicate => {}
            Applied::Full => return self.park(raw, Some(id), full(), collected),
        }
        // A copy of an event that counts already is not an event of its own.
        if basket.holds(sequence) && due {
            let json = json_as_of(basket, recorded);
            let trace = self.trace(raw, collected);
            collected.tell(recorded, json, Turn::InOrder, trace);
        }
        match applied {
            Applied::Counted => collected.count("counted"),
            Applied::Conflicting => collected.count("conflicting"),
            // Behind, it is this event itself that was folded before, and not a copy.
            Applied::Duplicate if !behind => collected.count("duplicate"),
            Applied::Duplicate | Applied::Full => {}
        }
    }

    /// The trace of an event, where it has one, goes on with the event's update.
    fn trace(&self, raw: &RawEvent, collected: &mut Collected) -> Option<TraceContext> {
        let above = TraceContext::parse(raw.header(TRACEPARENT)?)?;
        let span = self.parts.tracer.below("project", SpanKind::Consumer, Some(above));
        let Some(span) = span else { return Some(above) };
        let span = span.with("ezout.sequence", place(raw.sequence));
        let context = span.context();
        collected.spans.push(span.since(collected.started_at));
        Some(context)
    }

    /// Parks an event, the first of its session.
    fn park(&mut self, raw: &RawEvent, basket: Option<BasketId>, reason: String, collected: &mut Collected) {
        tracing::warn!(event.sequence = raw.sequence, "parked event {}: {reason}", raw.sequence);
        self.keep_parked(raw, basket, reason, collected);
    }

    fn keep_parked(&mut self, raw: &RawEvent, basket: Option<BasketId>, reason: String, collected: &mut Collected) {
        collected.parked.push(ParkedEvent {
            id: ParkedEvent::id(&self.epoch, raw.sequence),
            epoch: self.epoch.clone(),
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
        // A basket whose document cannot be read is not in memory, and cannot be marked.
        if let Some(id) = basket
            && let Some(held) = self.baskets.get_mut(&id)
            && held.basket.parked_since().is_none()
        {
            held.basket.park(raw.sequence);
            collected.touched.insert(id);
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

    /// Forgets everything after a failure, since what was stored is not known, and else the baskets that
    /// are the longest unused; `ids` are those that may have grown.
    fn settle_cache(&mut self, ids: &BTreeSet<BasketId>, failed: bool) {
        if failed {
            self.baskets.clear();
        }
        let mut bytes = if failed { 0 } else { self.cached_bytes };
        for id in ids {
            if let Some(held) = self.baskets.peek_mut(id) {
                let weight = held.basket.weight();
                bytes = bytes + weight - held.weight;
                held.weight = weight;
            }
        }
        while self.count_cached(bytes) > CACHED_BYTES_MAX && self.baskets.len() > 1 {
            let Some((_, held)) = self.baskets.pop_lru() else { break };
            bytes -= held.weight;
        }
    }

    /// Tells what this partition has in memory, and answers what all partitions of the process have, in bytes.
    fn count_cached(&mut self, bytes: usize) -> usize {
        let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let baskets = self.baskets.len();
        self.parts
            .metrics
            .cached_baskets
            .add(signed(baskets) - signed(self.cached_baskets));
        self.cached_baskets = baskets;
        let all = &self.parts.cached_bytes;
        all.fetch_add(bytes, Ordering::Relaxed);
        let before = std::mem::replace(&mut self.cached_bytes, bytes);
        all.fetch_sub(before, Ordering::Relaxed) - before
    }

    fn time(&self, part: &str, started: Instant) {
        self.parts
            .metrics
            .projection_step_seconds
            .with_label_values(&[part])
            .observe(started.elapsed().as_secs_f64());
    }

    /// Applies parked events of one basket that a person wants applied, in their order, up to the first that
    /// still cannot be, that nobody asked for, or that lies beyond `up_to`. Answers what became of each.
    pub(super) async fn apply_parked(
        &mut self,
        id: BasketId,
        events: &[ParkedEvent],
        up_to: u64,
    ) -> Result<Vec<(String, Decided)>, StepError> {
        let result = self.try_apply_parked(id, events, up_to).await;
        match &result {
            // Nothing was stored, and of the others everything is known.
            Err(StepError::Stale) => self.forget(id),
            _ => self.settle_cache(&BTreeSet::from([id]), result.is_err()),
        }
        result
    }

    async fn try_apply_parked(
        &mut self,
        id: BasketId,
        events: &[ParkedEvent],
        up_to: u64,
    ) -> Result<Vec<(String, Decided)>, StepError> {
        self.load(&BTreeSet::from([id])).await?;
        if let Some(reason) = self.unreadable.get(&id) {
            let again = |event: &ParkedEvent| (event.id.clone(), Decided::ParkedAgain(reason.clone()));
            return Ok(events.iter().map(again).collect());
        }
        let held = self.baskets.get_mut(&id).expect("it was just loaded");
        let mut collected = Collected::new(SystemTime::now());
        let mut decided = Vec::new();
        let mut still_parked: Option<u64> = None;
        for event in events.iter().filter(|event| event.state != ParkedState::Dropped) {
            let outcome = match event.state {
                ParkedState::Drop => Decided::Dropped,
                ParkedState::Retry if event.sequence <= up_to => match still_parked {
                    Some(since) => Decided::ParkedAgain(following(since)),
                    None => apply_again(&mut held.basket, event, &mut collected),
                },
                _ => {
                    still_parked = still_parked.or(Some(event.sequence));
                    continue;
                }
            };
            if matches!(outcome, Decided::ParkedAgain(_)) {
                still_parked = still_parked.or(Some(event.sequence));
            }
            decided.push((event.id.clone(), outcome));
        }
        held.basket.unpark();
        if let Some(sequence) = still_parked {
            held.basket.park(sequence);
        }
        held.basket.settle();
        collected.touched.insert(id);
        self.commit(collected).await?;
        failpoint::hit("after_retry");
        Ok(decided)
    }
}

impl Drop for Fold {
    fn drop(&mut self) {
        self.baskets.clear();
        self.count_cached(0);
    }
}

/// Where a correction comes from; nothing for other events.
fn source(event: &Result<Recorded<JournalEvent>, String>) -> Option<&'static str> {
    match &event.as_ref().ok()?.event {
        JournalEvent::Correction(Correction { author, .. }) if author == BY_HAND => Some("edit"),
        JournalEvent::Correction(_) => Some("other"),
        _ => None,
    }
}

/// Applies a parked event whose turn it is.
fn apply_again(basket: &mut Basket, event: &ParkedEvent, collected: &mut Collected) -> Decided {
    let sequence = event.sequence;
    let recorded = decode_parts(event.event_type.as_deref(), &event.body, &event.subject).map(|decoded| Recorded {
        sequence,
        recorded_at: event.recorded_at,
        event: decoded,
    });
    let recorded = match recorded {
        Ok(recorded) if recorded.event.basket() == basket.id() => recorded,
        Ok(_) => return Decided::ParkedAgain("it belongs to another basket".to_owned()),
        Err(reason) => return Decided::ParkedAgain(reason),
    };
    let turn = match basket.put(recorded.clone()) {
        Applied::Full => return Decided::ParkedAgain(full()),
        // It was applied before a crash, and its update may have been published.
        Applied::Duplicate => Turn::LateAgain,
        Applied::Counted | Applied::Conflicting => Turn::Late,
    };
    basket.settle();
    // A copy of an event that counts already is not an event of its own.
    if basket.holds(sequence) {
        collected.tell(&recorded, json_as_of(basket, &recorded), turn, None);
    }
    Decided::Applied
}

/// What became of a parked event about which a person decided.
pub(super) enum Decided {
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

/// The update's text from the basket as it was after this event, which it has.
fn json_as_of(basket: &Basket, recorded: &Recorded<JournalEvent>) -> String {
    if basket.sequence() == recorded.sequence {
        return update_json(recorded, basket);
    }
    update_json(recorded, &basket.as_of(recorded.sequence))
}

fn following(since: u64) -> String {
    format!("event {since} of the same session is parked")
}

fn full() -> String {
    format!("the session has {EVENTS_MAX} events or {TEXT_BYTES_MAX} bytes of texts, which is all that a basket keeps")
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred events are exact in a double")]
fn count(number: usize) -> f64 {
    number as f64
}
