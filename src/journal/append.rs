//! The writer: the one task of a process that appends to a stream of the journal.
//!
//! Every request is answered once: with a receipt when the server has acknowledged it, as unknown when
//! no answer came. An event that is appended twice is recorded once, whoever appended it first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ack::{Ack, AppendError, BATCH_HAS_DUPLICATE, Refusal, STORE_FAILED};
use super::end::{JournalEnd, read_end};
use super::group::{BATCH_EVENTS_MAX, Choice, Gather, Load, PIPELINE_MAX};
use super::known::{Known, Recorded};
use super::read::{self, RawEvent};
use super::storing::OfStream;
use super::upkeep::Upkeep;
use super::{DIGEST, Durability, Entry, Facts, ID, Lane, Receipt, State};
use crate::core::id::partition_of;
use crate::metrics::Metrics;
use crate::nats::{Link, ReadError};

/// How long the server may take to acknowledge.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes in one atomic batch: it is staged on the server's disk before it is committed.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events taken from the queue and not sent: enough for the next batch while one is under way.
const WAITING_MAX: usize = 2 * BATCH_EVENTS_MAX;
/// Duplicates that are looked up one by one; more at once are found by reading the journal's end.
const LOOKUPS_MAX: usize = 16;
type Answer = oneshot::Sender<Result<Receipt, AppendError>>;

/// An event and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) entry: Entry,
    pub(super) answer: Answer,
}

/// An event that is on its way.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    subject: String,
    answer: Answer,
}

/// Somebody who appends an event that is on its way already.
#[derive(Debug)]
struct Follower {
    digest: u128,
    answer: Answer,
}

/// What one acknowledgement will speak of.
#[derive(Debug)]
enum Flight {
    Single(Pending),
    Batch {
        id: String,
        events: Vec<Pending>,
        sent: Instant,
    },
}

type CatchUp = BoxFuture<'static, Result<JournalEnd, ReadError>>;
type Lookup = BoxFuture<'static, (Pending, u64, Result<Option<RawEvent>, ReadError>)>;

/// The writer's state; [`Writer::run`] is its task. All places in it are the stream's own; a receipt has the journal's.
pub(super) struct Writer {
    lane: Lane,
    link: Link,
    client: async_nats::Client,
    metrics: Arc<Metrics>,
    state: watch::Receiver<State>,
    recheck: Arc<Notify>,
    /// The highest place that was acknowledged.
    highest: Arc<AtomicU64>,
    storing: Arc<OfStream>,
    requests: mpsc::Receiver<Request>,
    /// What is known of the journal; stays as it was while the journal is unavailable.
    facts: Option<Facts>,
    /// Prefix of the subjects to which acknowledgements come.
    inbox: String,
    /// The last acknowledgement's number.
    token: u64,
    in_flight: HashMap<u64, Flight>,
    deadlines: VecDeque<(Instant, u64)>,
    batch_in_flight: bool,
    /// Single events acknowledged since the last one was sent.
    landed: usize,
    /// In the order of arrival.
    waiting: VecDeque<Pending>,
    /// Events that were in a batch that the server refused for an unknown reason: these go singly.
    alone: VecDeque<Pending>,
    /// Events known as duplicates of what is not remembered, or of a refused batch: the journal's end will tell.
    unresolved: Vec<Unresolved>,
    followers: HashMap<Uuid, Vec<Follower>>,
    known: Known,
    gather: Gather,
    catch_up: Option<CatchUp>,
    lookups: FuturesUnordered<Lookup>,
    name: String,
}

/// An event that waits for the journal's end to be read.
#[derive(Debug)]
struct Unresolved {
    event: Pending,
    /// Where the server says that it is; nothing if it was in a refused batch.
    sequence: Option<u64>,
}

impl Writer {
    pub(super) fn new(
        (lane, link): (Lane, Link),
        upkeep: &Upkeep,
        state: watch::Receiver<State>,
        storing: Arc<OfStream>,
        requests: mpsc::Receiver<Request>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let client = link.client();
        Self {
            inbox: client.new_inbox(),
            lane,
            link,
            client,
            metrics,
            state,
            recheck: upkeep.recheck(),
            highest: upkeep.highest(lane),
            storing,
            requests,
            facts: None,
            token: 0,
            in_flight: HashMap::new(),
            deadlines: VecDeque::new(),
            batch_in_flight: false,
            landed: 0,
            waiting: VecDeque::new(),
            alone: VecDeque::new(),
            unresolved: Vec::new(),
            followers: HashMap::new(),
            known: Known::of_one_of(lane.spread()),
            gather: Gather::default(),
            catch_up: None,
            lookups: FuturesUnordered::new(),
            name: lane.name(),
        }
    }

    /// Appends until `stop`, and then what was accepted before it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Ok(mut acks) = self.client.subscribe(format!("{}.*", self.inbox)).await else {
            tracing::error!("the writer cannot hear acknowledgements: the connection was closed for good");
            return;
        };
        let mut status = self.link.status();
        let mut generation = status.borrow().generation;
        let mut open = true;
        while open || !self.is_idle() {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                message = acks.next() => match message {
                    Some(message) => self.acknowledged_all(&message, &mut acks),
                    None => return,
                },
                Ok(()) = status.changed() => {
                    let now = *status.borrow_and_update();
                    // A connection that was lost and is back already shows only by its number.
                    if !now.up || std::mem::replace(&mut generation, now.generation) != now.generation {
                        self.lose("the connection to NATS is lost");
                    }
                }
                Ok(()) = self.state.changed() => self.learn(),
                () = stop.cancelled(), if open => {
                    // What is in the queue is still received; then comes the end of it.
                    self.requests.close();
                    open = !self.requests.is_empty();
                }
                () = tokio::time::sleep_until(wake) => self.expire(Instant::now()),
                Some((event, sequence, found)) = self.lookups.next(), if !self.lookups.is_empty() => self.looked_up(event, sequence, found),
                end = wait_for(&mut self.catch_up), if self.catch_up.is_some() => self.caught_up(end),
                request = self.requests.recv(), if open && self.waiting.len() < WAITING_MAX => match request {
                    Some(request) => self.accept_all(request),
                    None => open = false,
                },
            }
            // Blocks only if the connection hangs; what was on its way then is unknown.
            if tokio::time::timeout(ACK_TIMEOUT, self.commit()).await.is_err() {
                self.lose("the connection to NATS hangs");
            }
            self.count();
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.alone.is_empty()
            && self.unresolved.is_empty()
            && self.in_flight.is_empty()
            && self.lookups.is_empty()
    }

    fn count(&self) {
        let (waiting, known) = (&self.metrics.journal_waiting_events, &self.metrics.journal_known_ids);
        for (series, number) in [(waiting, self.followers.len()), (known, self.known.len())] {
            let of_stream = series.with_label_values(&[&self.name]);
            of_stream.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// When something is due though nothing happens.
    fn wake_at(&self) -> Instant {
        let deadline = self.deadlines.front().map(|(deadline, _)| *deadline);
        let gathered = self
            .gather
            .until()
            .filter(|_| !self.batch_in_flight && self.catch_up.is_none());
        let due = [deadline, gathered].into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + ACK_TIMEOUT)
    }

    /// Takes over what has become known of the journal.
    fn learn(&mut self) {
        let state = self.state.borrow_and_update().clone();
        match state {
            State::Open(facts) => {
                if self.facts.as_ref().is_some_and(|known| known.epoch != facts.epoch) {
                    self.known.clear();
                }
                self.facts = Some(facts);
            }
            State::Unavailable { reason } => self.turn_away(&reason),
        }
    }

    fn accept_all(&mut self, request: Request) {
        if self.state.has_changed().unwrap_or(false) {
            self.learn();
        }
        self.accept(request);
        while self.waiting.len() < WAITING_MAX
            && let Ok(request) = self.requests.try_recv()
        {
            self.accept(request);
        }
    }

    /// Answers what can be answered at once, and lets the rest wait for its turn.
    fn accept(&mut self, Request { entry, answer }: Request) {
        if let Some(recorded) = self.known.get(entry.id) {
            let _ = answer.send(self.compare(recorded, entry.digest));
            return;
        }
        if let Some(followers) = self.followers.get_mut(&entry.id) {
            followers.push(Follower {
                digest: entry.digest,
                answer,
            });
            return;
        }
        let reason = match (&*self.state.borrow(), &self.facts) {
            (State::Open(_), Some(_)) if !self.link.is_up() => "the connection to NATS is lost",
            (State::Open(_), Some(_)) => "",
            (State::Unavailable { reason }, _) => &reason.clone(),
            (State::Open(_), None) => "the journal is being opened",
        };
        let (Some(facts), "") = (&self.facts, reason) else {
            let _ = answer.send(Err(AppendError::Unavailable {
                reason: reason.to_owned(),
            }));
            return;
        };
        let subject = format!("checkout.{}.{}", partition_of(entry.shop, facts.partitions), entry.shop);
        self.followers.insert(entry.id, Vec::new());
        self.waiting.push_back(Pending { entry, subject, answer });
    }

    /// Sends what is to be sent now.
    async fn commit(&mut self) {
        loop {
            while self.in_flight.len() < PIPELINE_MAX
                && let Some(event) = self.alone.pop_front()
            {
                self.send_single(event).await;
            }
            // Reading the journal's end will show which of the waiting events are duplicates.
            let Some(facts) = self
                .facts
                .as_ref()
                .filter(|_| !self.batch_in_flight && self.catch_up.is_none())
            else {
                return;
            };
            let load = Load {
                waiting: self.waiting.len(),
                flying: self.in_flight.len(),
                shared: facts.atomic && facts.durability == Durability::Disk,
            };
            match self.gather.choose(load, Instant::now()) {
                Choice::Wait => return,
                Choice::Singles(count) => {
                    // Each leaves the queue only to be on its way: this may be cut off at every await.
                    for _ in 0..count {
                        let Some(event) = self.waiting.pop_front() else { break };
                        self.send_single(event).await;
                    }
                }
                Choice::Batch => self.send_batch().await,
            }
        }
    }

    async fn send_single(&mut self, event: Pending) {
        self.metrics.journal_publishes.with_label_values(&["single"]).inc();
        self.landed = 0;
        let (subject, headers, body) = event.message();
        let token = self.take_off(Flight::Single(event));
        let reply = format!("{}.{token}", self.inbox);
        if let Err(error) = self
            .client
            .publish_with_reply_and_headers(subject, reply, headers, body)
            .await
        {
            self.not_sent(token, &error);
        }
    }

    async fn send_batch(&mut self) {
        let mut bytes = 0;
        let count = self.waiting.iter().take(BATCH_EVENTS_MAX).take_while(|event| {
            bytes += event.entry.stored_bytes();
            bytes <= BATCH_BYTES_MAX
        });
        let count = count.count().max(1);
        let events: Vec<Pending> = self.waiting.drain(..count).collect();
        self.metrics
            .journal_publishes
            .with_label_values(&["batch"])
            .inc_by(count as u64);
        self.metrics
            .journal_batch_events
            .observe(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        let id = format!(
            "{}-{}",
            self.inbox.rsplit('.').next().unwrap_or_default(),
            self.token + 1
        );
        let flight = Flight::Batch {
            id: id.clone(),
            events,
            sent: Instant::now(),
        };
        let token = self.take_off(flight);
        self.batch_in_flight = true;
        for n in 1..=count {
            let Some(Flight::Batch { events, .. }) = self.in_flight.get(&token) else {
                return;
            };
            let (subject, mut headers, body) = events[n - 1].message();
            headers.insert(async_nats::header::NATS_BATCH_ID, id.as_str());
            headers.insert(async_nats::header::NATS_BATCH_SEQUENCE, n.to_string());
            let sent = if n < count {
                self.client.publish_with_headers(subject, headers, body).await
            } else {
                headers.insert(
                    async_nats::header::NATS_BATCH_COMMIT,
                    async_nats::header::NATS_BATCH_COMMIT_FINAL,
                );
                self.client
                    .publish_with_reply_and_headers(subject, format!("{}.{token}", self.inbox), headers, body)
                    .await
            };
            if let Err(error) = sent {
                // Without its end the batch is never committed.
                return self.not_sent(token, &error);
            }
        }
    }

    /// Enters a flight before it is sent, so that it is answered whatever happens.
    fn take_off(&mut self, flight: Flight) -> u64 {
        self.token += 1;
        self.in_flight.insert(self.token, flight);
        self.deadlines.push_back((Instant::now() + ACK_TIMEOUT, self.token));
        self.token
    }

    fn land(&mut self, token: u64) -> Option<Flight> {
        let flight = self.in_flight.remove(&token)?;
        match flight {
            Flight::Single(_) => self.landed += 1,
            Flight::Batch { .. } => self.batch_in_flight = false,
        }
        // Acknowledgements come in order mostly, so this keeps the list short.
        while self
            .deadlines
            .front()
            .is_some_and(|(_, token)| !self.in_flight.contains_key(token))
        {
            self.deadlines.pop_front();
        }
        Some(flight)
    }

    fn not_sent(&mut self, token: u64, error: &async_nats::PublishError) {
        let error = match error.kind() {
            async_nats::client::PublishErrorKind::MaxPayloadExceeded => AppendError::TooLarge,
            _ => AppendError::Unavailable {
                reason: error.to_string(),
            },
        };
        if let Some(flight) = self.land(token) {
            self.answer_flight(flight, &error);
        }
    }

    /// Takes an acknowledgement and those that have come with it.
    fn acknowledged_all(&mut self, message: &Message, acks: &mut Subscriber) {
        self.acknowledged(message);
        while let Some(Some(message)) = acks.next().now_or_never() {
            self.acknowledged(&message);
        }
        // Events that were held back for a batch wait for those just answered, or the two would go in turns for ever.
        if self.in_flight.is_empty() && !self.waiting.is_empty() && self.landed > 0 {
            let answered = std::mem::take(&mut self.landed);
            self.gather
                .begin(answered, self.waiting.len(), Duration::MAX, Instant::now());
        }
    }

    fn acknowledged(&mut self, message: &Message) {
        let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        // What comes after its deadline has been answered as unknown.
        let Some(flight) = token.and_then(|token| self.land(token)) else {
            return;
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            self.recheck.notify_one();
            return self.answer_flight(
                flight,
                &AppendError::Unavailable {
                    reason: "no stream answers".to_owned(),
                },
            );
        }
        let Ok(ack) = serde_json::from_slice::<Ack>(&message.payload) else {
            return self.answer_flight(flight, &AppendError::Unknown);
        };
        match (flight, ack.error) {
            (Flight::Single(event), None) if ack.duplicate => self.duplicate(event, ack.seq),
            (Flight::Single(event), None) if ack.seq > 0 => {
                self.storing.recorded(std::time::Instant::now());
                self.recorded(event, ack.seq);
            }
            (Flight::Single(event), Some(refusal)) => {
                let error = refusal.single();
                if matches!(error, AppendError::Full { .. }) {
                    self.storing.refused(std::time::Instant::now());
                }
                self.answer(event, Err(error));
            }
            (Flight::Batch { id, events, sent }, None)
                if ack.batch.as_deref() == Some(&id) && ack.count == events.len() as u64 && ack.seq >= ack.count =>
            {
                self.storing.recorded(std::time::Instant::now());
                self.gather
                    .begin(events.len(), self.waiting.len(), sent.elapsed(), Instant::now());
                for (sequence, event) in (ack.seq - ack.count + 1..).zip(events) {
                    self.recorded(event, sequence);
                }
            }
            (Flight::Batch { events, .. }, Some(refusal)) => self.refused(events, &refusal),
            (flight, None) => self.answer_flight(flight, &AppendError::Unknown),
        }
    }

    fn recorded(&mut self, event: Pending, sequence: u64) {
        self.known.insert(
            event.entry.id,
            Recorded {
                sequence,
                digest: Some(event.entry.digest),
            },
        );
        self.highest.fetch_max(sequence, Ordering::AcqRel);
        let receipt = Receipt {
            sequence: self.lane.sequence(sequence),
            duplicate: false,
            durability: self.durability(),
        };
        self.answer(event, Ok(receipt));
    }

    /// The server has the event already, at `sequence`; whether it is the same one is to be seen.
    fn duplicate(&mut self, event: Pending, sequence: u64) {
        if let Some(recorded) = self.known.get(event.entry.id) {
            let result = self.compare(recorded, event.entry.digest);
            return self.answer(event, result);
        }
        if self.lookups.len() < LOOKUPS_MAX {
            return self.look_up(event, sequence);
        }
        self.unresolved.push(Unresolved {
            event,
            sequence: Some(sequence),
        });
        self.begin_catch_up();
    }

    /// The server committed nothing of a batch.
    fn refused(&mut self, events: Vec<Pending>, refusal: &Refusal) {
        match refusal.err_code {
            BATCH_HAS_DUPLICATE => {
                self.metrics.journal_refused_batches.inc();
                self.unresolved
                    .extend(events.into_iter().map(|event| Unresolved { event, sequence: None }));
                self.begin_catch_up();
            }
            // Some may be stored and some not, and the server does not say which.
            STORE_FAILED => self.answer_all(events, &AppendError::Unknown),
            _ if refusal.is_full() => {
                self.storing.refused(std::time::Instant::now());
                self.answer_all(events, &refusal.single());
            }
            code => {
                tracing::warn!(
                    code,
                    "the server refused an atomic batch, so its events go singly: {}",
                    refusal.description
                );
                self.alone.extend(events);
            }
        }
    }

    fn begin_catch_up(&mut self) {
        if self.catch_up.is_none() {
            self.catch_up = Some(read_end(self.link.clone(), Arc::clone(&self.metrics), &self.known).boxed());
        }
    }

    /// Sorts out what waited for the journal's end: duplicates are answered, the others go again.
    fn caught_up(&mut self, end: Result<JournalEnd, ReadError>) {
        self.catch_up = None;
        match end {
            Ok(end) => {
                for (id, recorded) in end.events {
                    self.known.insert(id, recorded);
                }
                self.known.completed_to(end.to);
            }
            Err(error) => tracing::warn!("duplicates are sorted out one by one: {error}"),
        }
        let mut again = Vec::new();
        let mut found = false;
        for Unresolved { event, sequence } in std::mem::take(&mut self.unresolved) {
            match (self.known.get(event.entry.id), sequence) {
                (Some(recorded), _) => {
                    found = true;
                    let result = self.compare(recorded, event.entry.digest);
                    self.answer(event, result);
                }
                (None, Some(sequence)) => self.look_up(event, sequence),
                (None, None) => again.push(event),
            }
        }
        if found {
            for event in again.into_iter().rev() {
                self.waiting.push_front(event);
            }
        } else {
            // The batch holds a duplicate that cannot be found; the server will say which.
            self.alone.extend(again);
        }
        // Those that arrived in the meantime were not compared with what is known only now.
        for event in std::mem::take(&mut self.waiting) {
            match self.known.get(event.entry.id) {
                Some(recorded) => {
                    let result = self.compare(recorded, event.entry.digest);
                    self.answer(event, result);
                }
                None => self.waiting.push_back(event),
            }
        }
    }

    fn look_up(&mut self, event: Pending, sequence: u64) {
        let stream = self.link.stream().clone();
        self.lookups
            .push(async move { (event, sequence, read::get(&stream, Lane::ONLY, sequence).await) }.boxed());
    }

    fn looked_up(&mut self, event: Pending, sequence: u64, found: Result<Option<RawEvent>, ReadError>) {
        let Ok(Some(found)) = found else {
            // It is recorded, but perhaps as another event.
            return self.answer(event, Err(AppendError::Unknown));
        };
        let recorded = Recorded {
            sequence,
            digest: found.digest(),
        };
        self.known.insert(event.entry.id, recorded);
        let result = self.compare(recorded, event.entry.digest);
        self.answer(event, result);
    }

    /// The answer to an event whose identity is in the journal already.
    fn compare(&self, recorded: Recorded, digest: u128) -> Result<Receipt, AppendError> {
        let sequence = self.lane.sequence(recorded.sequence);
        if recorded.digest == Some(digest) {
            Ok(Receipt {
                sequence,
                duplicate: true,
                durability: self.durability(),
            })
        } else {
            Err(AppendError::Conflict { sequence })
        }
    }

    fn durability(&self) -> Durability {
        self.facts.as_ref().map_or(Durability::Memory, |facts| facts.durability)
    }

    fn answer_flight(&mut self, flight: Flight, error: &AppendError) {
        match flight {
            Flight::Single(event) => self.answer(event, Err(error.clone())),
            Flight::Batch { events, .. } => self.answer_all(events, error),
        }
    }

    fn answer_all(&mut self, events: Vec<Pending>, error: &AppendError) {
        for event in events {
            self.answer(event, Err(error.clone()));
        }
    }

    /// Answers an event and those who appended it too. Nobody may be listening any more.
    fn answer(&mut self, event: Pending, result: Result<Receipt, AppendError>) {
        for follower in self.followers.remove(&event.entry.id).unwrap_or_default() {
            let result = match (&result, self.known.get(event.entry.id)) {
                (_, Some(recorded)) => self.compare(recorded, follower.digest),
                (Err(error), None) => Err(error.clone()),
                (Ok(_), None) => Err(AppendError::Unknown),
            };
            let _ = follower.answer.send(result);
        }
        let _ = event.answer.send(result);
    }

    /// Gives up what has waited too long for its acknowledgement.
    fn expire(&mut self, now: Instant) {
        while let Some((deadline, token)) = self.deadlines.front().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if let Some(flight) = self.land(token) {
                self.recheck.notify_one();
                let sent = deadline.checked_sub(ACK_TIMEOUT).unwrap_or(deadline);
                self.storing.unanswered(sent.into_std(), std::time::Instant::now());
                self.answer_flight(flight, &AppendError::Unknown);
            }
        }
        if self.waiting.is_empty() {
            self.gather.end();
        }
    }

    /// Everything in flight is unknown and everything that waits is turned away.
    fn lose(&mut self, reason: &str) {
        for (_, flight) in std::mem::take(&mut self.in_flight) {
            self.answer_flight(flight, &AppendError::Unknown);
        }
        self.deadlines.clear();
        self.batch_in_flight = false;
        self.turn_away(reason);
    }

    /// Answers what was not sent.
    fn turn_away(&mut self, reason: &str) {
        let error = AppendError::Unavailable {
            reason: reason.to_owned(),
        };
        let waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .chain(std::mem::take(&mut self.alone));
        for event in waiting.collect::<Vec<_>>() {
            self.answer(event, Err(error.clone()));
        }
        for Unresolved { event, sequence } in std::mem::take(&mut self.unresolved) {
            // One that the server called a duplicate is recorded, but perhaps as another event.
            let error = if sequence.is_some() {
                AppendError::Unknown
            } else {
                error.clone()
            };
            self.answer(event, Err(error));
        }
        self.catch_up = None;
        self.gather.end();
    }
}

impl Pending {
    /// Subject, headers and body, as they are sent.
    fn message(&self) -> (String, HeaderMap, Bytes) {
        let entry = &self.entry;
        let mut headers = HeaderMap::new();
        headers.insert(ID, &*entry.id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        headers.insert(HeaderName::from_static(DIGEST), format!("{:032x}", entry.digest));
        for (name, value) in &entry.headers {
            let name = HeaderName::from_static(name);
            // A line break would begin another header.
            if value.contains(char::is_control) {
                headers.insert(name, value.replace(char::is_control, ""));
            } else {
                headers.insert(name, value.as_str());
            }
        }
        (self.subject.clone(), headers, entry.body.clone())
    }
}

async fn wait_for(catch_up: &mut Option<CatchUp>) -> Result<JournalEnd, ReadError> {
    match catch_up {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}
