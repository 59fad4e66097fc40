//! One shop's resources: a task that knows what gateways have been told, answers with just that, and tells what changes.
//!
//! What the projector of this process writes is told to the task (`views/watched.rs`) and becomes
//! events, at most [`FLUSH_PAUSE`] apart, so a basket changes at most 20 times a second on any screen.
//! Whatever has to be read from MongoDB is read beside the task; the answer is given by the task when
//! it is there, and the gateway is asked to wait until then.

mod changes;
mod handling;
mod known;
mod reading;

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::changes::Corrected;
use self::handling::Handle;
use self::known::Known;
use self::reading::Read;
use super::correct::correct;
use super::model::{self, Model};
use super::route::Resource;
use super::{LOST_AGAIN, OWNER_WAIT_TOLD, Parts, unavailable};
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::query::QueryError;
use crate::resgate::{Answer, Failure, Gateway, Kind, Request, ResourceEvent};
use crate::views::{HandledBaskets, Handling, Listing, Watching};

pub(super) use self::reading::not_read;

/// Least time between two rounds of events.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);
/// How often the summary and the pages of sessions may change, and how often it is looked what is due.
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// How often gateways are asked to ask again, about; a shop that is not asked for twice as long has nobody left.
const RESET_INTERVAL: Duration = Duration::from_mins(5);
/// How often the numbers of today are looked at without a reason, since a day may have ended.
const SUMMARY_INTERVAL: Duration = Duration::from_mins(1);
/// How long what is asked may wait for MongoDB.
const READ_WAIT: Duration = Duration::from_secs(12);
/// Updates that are passed to screens in a second; a gateway that is flooded ends itself.
const FEED_RATE: u32 = 5_000;
/// When the open baskets are read again after a take-over, and after the version that is read was moved.
const REFRESH_AFTER: Duration = Duration::from_secs(7);
const HANDED_OVER_AFTER: Duration = Duration::from_secs(35);
/// How long what is under way may take when the task ends.
const END_WAIT: Duration = Duration::from_secs(3);
/// Requests that may wait for MongoDB at a time.
const PENDING_MAX: usize = 4_096;
/// How long after a refusal gateways are asked to ask again.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// Baskets that are not open any more and that are kept, since a gateway may have them.
const CLOSED_MAX: usize = 10_000;

/// A request about a resource of the shop.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) resource: Resource,
    pub(super) request: Request,
}

/// Presents a shop until `stop`, or until nobody is left who would see it; answers which requests it left unanswered.
pub(super) async fn present(
    parts: &Parts,
    partition: u16,
    shop: ShopId,
    mailbox: &mut mpsc::Receiver<Asked>,
    stop: CancellationToken,
) -> Vec<Asked> {
    let mut presented = Presented::new(parts.clone(), partition, shop);
    presented.run(mailbox, stop).await;
    let ending = async {
        while let Some(read) = presented.answers.next().await {
            presented.have_read(read).await;
        }
        for corrected in std::mem::take(&mut presented.corrected) {
            reply(&presented.parts.gateway, &corrected.request, corrected.answer).await;
        }
    };
    let _ = tokio::time::timeout(END_WAIT, ending).await;
    presented.waiting.into_iter().map(|waiting| waiting.asked).collect()
}

/// A request that waits for something to be read.
struct Waiting {
    asked: Asked,
    since: Instant,
}

/// What is being read, or may have changed since it was told.
#[derive(Default)]
struct Flags {
    /// The open baskets.
    open: bool,
    /// The summary.
    summary: bool,
    /// The pages of sessions.
    sessions: bool,
}

/// When something was last asked for.
#[derive(Default)]
struct LastAsked {
    anything: Option<Instant>,
    summary: Option<Instant>,
    sessions: Option<Instant>,
}

impl LastAsked {
    /// Whether somebody may still have it.
    fn is_wanted(at: Option<Instant>) -> bool {
        at.is_some_and(|at| at.elapsed() < RESET_INTERVAL * 5 / 2)
    }
}

type Messages = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

struct Presented {
    parts: Parts,
    partition: u16,
    shop: ShopId,
    watching: Watching,
    known: Option<Known>,
    handlings: HashMap<SessionId, Handling>,
    /// Who handles which basket as every process tells it, and what of that was heard last.
    handled_everywhere: watch::Receiver<Option<HandledBaskets>>,
    handled_heard: HandledBaskets,
    summary: Option<Model>,
    waiting: Vec<Waiting>,
    /// What is read of the state that gateways have; no longer of use once that is forgotten.
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// What single requests wait for.
    answers: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Who wants to handle a basket, one after the other, so that what is told last is what was noted last.
    handles: VecDeque<(SessionId, Request, Handle)>,
    is_handling: bool,
    /// How often it was noted who handles a basket.
    handled_count: u64,
    /// How often gateways were asked to ask for pages of sessions.
    queried_count: u64,
    /// A gateway was not told what a page is.
    page_failed: Arc<AtomicBool>,
    /// Corrections that are in the journal, and whose basket is waited for before that is answered.
    corrected: Vec<Corrected>,
    /// When the open baskets are read again, whatever was told.
    refresh_at: Vec<Instant>,
    reading: Flags,
    /// Baskets that are being read for those who ask.
    fetched: HashSet<SessionId>,
    /// When changes are told next; nothing if there are none.
    flush_at: Option<Instant>,
    flushed_at: Instant,
    due: Flags,
    summed_at: Instant,
    asked: LastAsked,
    reset_at: Instant,
    /// Gateways may have missed something: they are to ask again for everything.
    is_unsure: bool,
    /// Answers may have been lost on their way.
    lost_answers: bool,
    feed: Option<Messages>,
    feed_left: u32,
}

impl Presented {
    fn new(parts: Parts, partition: u16, shop: ShopId) -> Self {
        let now = Instant::now();
        Self {
            watching: parts.views.watch(shop),
            handled_everywhere: parts.views.watch_handlings(shop),
            handled_heard: HandledBaskets::default(),
            parts,
            partition,
            shop,
            known: None,
            handlings: HashMap::new(),
            summary: None,
            waiting: Vec::new(),
            reads: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            handles: VecDeque::new(),
            is_handling: false,
            handled_count: 0,
            queried_count: 0,
            page_failed: Arc::default(),
            corrected: Vec::new(),
            // An owner before that did not know yet that it was none may have written since.
            refresh_at: vec![now + REFRESH_AFTER],
            reading: Flags::default(),
            fetched: HashSet::new(),
            flush_at: None,
            flushed_at: now,
            due: Flags::default(),
            summed_at: now,
            asked: LastAsked::default(),
            reset_at: now + jittered(RESET_INTERVAL),
            is_unsure: false,
            lost_answers: false,
            feed: None,
            feed_left: FEED_RATE,
        }
    }

    /// Works until nobody has asked for anything for a long time.
    async fn run(&mut self, mailbox: &mut mpsc::Receiver<Asked>, stop: CancellationToken) {
        let mut status = self.parts.gateway.status();
        let mut generation = status.borrow_and_update().generation;
        let mut pointer = self.parts.views.pointer();
        pointer.mark_unchanged();
        let mut slow = tokio::time::interval(SLOW_PAUSE);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = status.changed() => {
                    // What was sent around the loss may be lost.
                    let now = *status.borrow_and_update();
                    if !now.up || now.generation != generation {
                        generation = now.generation;
                        self.forget();
                    }
                }
                Ok(()) = pointer.changed() => {
                    self.forget();
                    // Each partition is read from the version before until it is handed over.
                    let now = Instant::now();
                    self.refresh_at.extend([now + REFRESH_AFTER, now + HANDED_OVER_AFTER]);
                }
                _ = slow.tick() => {
                    self.feed_left = FEED_RATE;
                    self.look().await;
                    if !LastAsked::is_wanted(self.asked.anything) && self.waiting.is_empty() {
                        return;
                    }
                }
                Some(read) = self.reads.next(), if !self.reads.is_empty() => self.have_read(read).await,
                Some(read) = self.answers.next(), if !self.answers.is_empty() => self.have_read(read).await,
                Some(asked) = mailbox.recv() => self.take(asked).await,
                () = self.watching.changed() => {
                    let due = self.flushed_at + FLUSH_PAUSE;
                    self.flush_at.get_or_insert(due.max(Instant::now()));
                }
                Ok(()) = self.handled_everywhere.changed() => self.hear_handlings().await,
                () = super::sleep_until(self.flush_at) => self.flush().await,
                Some(update) = next(&mut self.feed), if self.feed_left > 0 => {
                    self.feed_left -= 1;
                    self.tell(Resource::Feed, ResourceEvent::Custom("update", update)).await;
                }
            }
        }
    }

    /// Forgets what gateways have; they ask again.
    fn forget(&mut self) {
        self.known = None;
        self.summary = None;
        self.is_unsure = true;
        self.lost_answers = true;
        // What was asked before that may be of before that.
        self.reads.clear();
        self.fetched.clear();
        self.reading = Flags::default();
        self.read_what_is_missing();
    }

    /// Does what is due.
    async fn look(&mut self) {
        let is_up = self.parts.gateway.is_up() && *self.parts.views.state().borrow() == crate::views::State::Open;
        if is_up && (self.is_unsure || self.reset_at <= Instant::now()) {
            self.reset_at = Instant::now() + jittered(RESET_INTERVAL);
            if std::mem::take(&mut self.lost_answers) {
                self.reset_at = Instant::now() + LOST_AGAIN;
            }
            self.is_unsure = false;
            self.parts.metrics.res_resets.inc();
            let pattern = format!("{}.shop.{}.>", super::SERVICE, self.shop);
            if let Err(error) = self.parts.gateway.reset(&pattern).await {
                tracing::debug!("{error}");
                self.is_unsure = true;
            }
            // Whatever was told, what is there is the truth.
            self.refresh_at.push(Instant::now());
            // What nobody asked for since the last times is not needed; who has it asks now.
            if let Some(known) = &mut self.known {
                known
                    .baskets
                    .retain(|_, basket| basket.is_open || LastAsked::is_wanted(Some(basket.asked_at)));
            }
        }
        if self.page_failed.swap(false, Ordering::Relaxed) {
            self.reset_soon();
        }
        let now = Instant::now();
        if self.refresh_at.extract_if(.., |at| *at <= now).count() > 0 && self.known.is_some() {
            self.refresh();
        }
        if let Some(known) = &mut self.known {
            known.drop_closed(CLOSED_MAX);
        }
        self.answer_corrected().await;
        let late: Vec<Waiting> = self
            .waiting
            .extract_if(.., |waiting| waiting.since.elapsed() > READ_WAIT)
            .collect();
        for late in late {
            // A gateway that asked because of a reset goes on with what it has.
            self.reset_soon();
            let failure = Failure::new(
                "ezout.unavailable",
                "the baskets cannot be read at the moment; ask again",
            );
            reply(&self.parts.gateway, &late.asked.request, Answer::Failure(failure)).await;
        }
        if !self.waiting.is_empty() {
            self.read_what_is_missing();
        }
        self.end_handlings().await;
        if LastAsked::is_wanted(self.asked.summary)
            && self.summary.is_some()
            && (self.due.summary || self.summed_at.elapsed() >= SUMMARY_INTERVAL)
        {
            self.read_summary();
        }
        if std::mem::take(&mut self.due.sessions) && LastAsked::is_wanted(self.asked.sessions) {
            self.tell_of_sessions().await;
        }
    }

    async fn take(&mut self, asked: Asked) {
        let now = Instant::now();
        self.asked.anything = Some(now);
        if asked.request.kind() == Kind::Call {
            return self.call(asked).await;
        }
        match asked.resource {
            Resource::Feed => {
                if self.feed.is_none() {
                    match self
                        .parts
                        .gateway
                        .messages(format!("updates.store.{}", self.shop))
                        .await
                    {
                        Ok(messages) => self.feed = Some(Box::pin(messages)),
                        Err(error) => tracing::debug!("{error}"),
                    }
                }
                let answer = Answer::Model(model::feed(self.shop));
                return reply(&self.parts.gateway, &asked.request, answer).await;
            }
            Resource::Sessions => {
                self.asked.sessions = Some(now);
                let listing = Listing::read(asked.request.body().query.as_deref());
                return match listing {
                    Ok(_) if self.is_full() => self.refuse(&asked.request).await,
                    Ok(listing) => {
                        ask_for_time(&self.parts.gateway, &asked.request).await;
                        self.read_page(asked.request, listing);
                    }
                    Err(QueryError::Unknown(rule) | QueryError::Invalid(rule)) => {
                        let answer = Answer::Failure(Failure::invalid_query(rule));
                        reply(&self.parts.gateway, &asked.request, answer).await;
                    }
                };
            }
            Resource::Summary => {
                // It was not kept up to date since nobody had it any more.
                if !LastAsked::is_wanted(self.asked.summary) {
                    self.summary = None;
                }
                self.asked.summary = Some(now);
            }
            Resource::Baskets | Resource::Basket(_) => {}
        }
        if let Some(answer) = self.answer_now(asked.resource) {
            return reply(&self.parts.gateway, &asked.request, answer).await;
        }
        if self.is_full() {
            return self.refuse(&asked.request).await;
        }
        ask_for_time(&self.parts.gateway, &asked.request).await;
        self.waiting.push(Waiting { asked, since: now });
        self.read_what_is_missing();
    }

    /// Whether so many requests wait that one more has to be refused.
    fn is_full(&self) -> bool {
        self.waiting.len() + self.answers.len() + self.handles.len() + self.corrected.len() >= PENDING_MAX
    }

    /// Has gateways ask again for what they may have asked for because of a reset; not at once, since that asks for more.
    fn reset_soon(&mut self) {
        self.reset_at = self.reset_at.min(Instant::now() + REFUSED_PAUSE);
    }

    async fn refuse(&mut self, request: &Request) {
        self.reset_soon();
        reply(&self.parts.gateway, request, Answer::Failure(unavailable())).await;
    }

    /// The answer from what gateways have; nothing as long as that has to be read.
    fn answer_now(&mut self, resource: Resource) -> Option<Answer> {
        match resource {
            Resource::Summary => self.summary.clone().map(Answer::Model),
            Resource::Baskets => {
                let shown = self.known.as_ref()?.list.shown();
                let reference = |session| model::reference(self.basket_id(session));
                Some(Answer::Collection {
                    values: shown.map(reference).collect(),
                    query: None,
                })
            }
            Resource::Basket(session) => {
                let basket = self.known.as_mut()?.baskets.get_mut(&session)?;
                basket.asked_at = Instant::now();
                Some(Answer::Model(basket.model.clone()))
            }
            Resource::Sessions | Resource::Feed => None,
        }
    }

    fn basket_id(&self, session: SessionId) -> BasketId {
        BasketId {
            shop: self.shop,
            session,
        }
    }

    async fn call(&mut self, asked: Asked) {
        if self.is_full() {
            return self.refuse(&asked.request).await;
        }
        let Resource::Basket(session) = asked.resource else {
            return reply(
                &self.parts.gateway,
                &asked.request,
                Answer::Failure(Failure::method_not_found()),
            )
            .await;
        };
        if asked.request.method() == "correct" {
            ask_for_time(&self.parts.gateway, &asked.request).await;
            let (parts, partition) = (self.parts.clone(), self.partition);
            let (id, request) = (self.basket_id(session), asked.request);
            return self.answers.push(Box::pin(async move {
                let (sequence, answer) = correct(parts, partition, id, &request).await;
                Read::Corrected(session, request, sequence, answer)
            }));
        }
        if asked.request.method() != "handle" {
            let answer = Answer::Failure(Failure::method_not_found());
            return reply(&self.parts.gateway, &asked.request, answer).await;
        }
        match Handle::read(&asked.request) {
            Ok(handle) => {
                ask_for_time(&self.parts.gateway, &asked.request).await;
                self.handles.push_back((session, asked.request, handle));
                self.handle_next();
            }
            Err(rule) => {
                let answer = Answer::Failure(Failure::invalid_params(rule));
                reply(&self.parts.gateway, &asked.request, answer).await;
            }
        }
    }
}

async fn ask_for_time(gateway: &Gateway, request: &Request) {
    if let Err(error) = gateway.ask_for_time(request, OWNER_WAIT_TOLD).await {
        tracing::debug!("{error}");
    }
}

async fn reply(gateway: &Gateway, request: &Request, answer: Answer) {
    if let Err(error) = gateway.answer(request, answer).await {
        tracing::debug!("{error}");
    }
}

async fn next(messages: &mut Option<Messages>) -> Option<Bytes> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}

/// About this long, so that shops do not all ask at once.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.8 + 0.4 * fastrand::f64())
}
