//! One shop's resources: a task that knows what gateways have been told, answers with just that, and tells what changes.
//!
//! What the projector of this process writes is told to the task (`views/watched.rs`) and becomes
//! events, at most [`FLUSH_PAUSE`] apart, so a basket changes at most 20 times a second on any screen.
//! Whatever has to be read from MongoDB is read beside the task; the answer is given by the task when
//! it is there, and the gateway is asked to wait until then.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use serde::Deserialize;
use time::{OffsetDateTime, Time};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::correct::correct;
use super::list::{Key, LIST_MAX, List, Step};
use super::model::{self, Model};
use super::route::Resource;
use super::{LOST_AGAIN, OWNER_WAIT_TOLD, Parts, unavailable};
use crate::core::basket::Status;
use crate::core::error_chain;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::query::QueryError;
use crate::resgate::{Answer, Failure, Gateway, Kind, Request, ResourceEvent, Value, properties_json};
use crate::views::{
    BasketView, Changed, HANDLE_MINUTES, HANDLE_MINUTES_DEFAULT, HANDLER_MAX, HandledBaskets, Handling, Listing,
    Summary, ViewError, Views, Watching,
};

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
/// Open baskets that are read at a time.
const PAGE_BASKETS: u16 = 500;
/// How long gateways may ask for pages of sessions after they were told that these may have changed.
const QUERY_WAIT: Duration = Duration::from_secs(6);
/// Updates that are passed to screens in a second; a gateway that is flooded ends itself.
const FEED_RATE: u32 = 5_000;
/// When the open baskets are read again after a take-over, and after the version that is read was moved.
const REFRESH_AFTER: Duration = Duration::from_secs(7);
const HANDED_OVER_AFTER: Duration = Duration::from_secs(35);
/// How long the answer to a correction waits for the basket that has it.
const CORRECTED_WAIT: Duration = Duration::from_secs(2);
/// Pages of sessions that are read at the same time.
const PAGES_AT_ONCE: usize = 16;
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

/// Everything that gateways may have of the shop.
struct Known {
    list: List,
    baskets: HashMap<SessionId, Basket>,
    /// When a basket was last dropped that a gateway may have.
    dropped_at: Option<Instant>,
}

/// A basket as gateways have it.
struct Basket {
    state: State,
    model: Model,
    key: Key,
    is_open: bool,
    asked_at: Instant,
}

/// How far a basket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct State {
    sequence: u64,
    version: u64,
}

impl State {
    fn of(view: &BasketView) -> Self {
        Self {
            sequence: view.sequence,
            version: view.version,
        }
    }
}

/// A correction that is to be answered.
struct Corrected {
    session: SessionId,
    request: Request,
    sequence: u64,
    answer: Answer,
    since: Instant,
}

/// What was read from MongoDB.
enum Read {
    /// The open baskets, and who handles which.
    Open(u64, Result<OpenShop, ViewError>),
    /// The open baskets, and who handles which, once more.
    Refreshed(u64, Result<OpenShop, ViewError>),
    /// A basket of which nothing is known: it is not open, or is so since a moment ago.
    Basket(SessionId, Result<Option<BasketView>, ViewError>),
    /// A basket that may have been written, and what was known of it when it was asked for.
    Again(SessionId, Option<State>, Result<Option<BasketView>, ViewError>),
    /// The shop in a few numbers.
    Summary(Result<Model, ViewError>),
    /// A page of sessions, for those who asked for it, as of then.
    Page(Request, Listing, u64, Result<Vec<Value>, ViewError>),
    /// What came of a correction that was asked for, and where in the journal it is.
    Corrected(SessionId, Request, Option<u64>, Answer),
    /// Who handles a basket, after somebody wanted to.
    Handled(SessionId, Request, Result<Handled, ViewError>),
}

struct OpenShop {
    baskets: Vec<(BasketId, BasketView)>,
    handlings: Vec<(SessionId, Handling)>,
}

/// What came of wanting to handle a basket.
enum Handled {
    /// He does.
    By(Handling),
    /// Nobody does any more.
    Released,
    /// Somebody else does.
    ByAnother(Handling),
    /// There is no such basket.
    NoBasket,
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

    /// Begins to read what those who wait need.
    fn read_what_is_missing(&mut self) {
        let wanted: Vec<Resource> = self.waiting.iter().map(|waiting| waiting.asked.resource).collect();
        for resource in wanted {
            match resource {
                Resource::Summary => self.read_summary(),
                Resource::Basket(session) if self.known.is_some() => self.read_basket(session),
                Resource::Baskets | Resource::Basket(_) => self.read_open(),
                Resource::Sessions | Resource::Feed => {}
            }
        }
    }

    fn read_open(&mut self) {
        if self.known.is_some() || std::mem::replace(&mut self.reading.open, true) {
            return;
        }
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let handled = self.handled_count;
        self.reads.push(Box::pin(async move {
            let read = open_shop(&views, partition, shop).await;
            Read::Open(handled, read)
        }));
    }

    fn refresh(&mut self) {
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let handled = self.handled_count;
        self.reads.push(Box::pin(async move {
            let read = open_shop(&views, partition, shop).await;
            Read::Refreshed(handled, read)
        }));
    }

    fn read_basket(&mut self, session: SessionId) {
        if !self.fetched.insert(session) {
            return;
        }
        let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
        self.reads.push(Box::pin(async move {
            Read::Basket(session, one(&views, partition, id).await)
        }));
    }

    fn read_summary(&mut self) {
        if std::mem::replace(&mut self.reading.summary, true) {
            return;
        }
        self.due.summary = false;
        self.summed_at = Instant::now();
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        self.reads.push(Box::pin(async move {
            let day_start = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
            let read = async {
                let (views, _) = views.reading(partition).await?;
                let summary: Summary = views.summary(shop, day_start).await?;
                Ok(model::summary(&summary, day_start))
            };
            Read::Summary(read.await)
        }));
    }

    fn read_page(&mut self, request: Request, listing: Listing) {
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let queried = self.queried_count;
        self.answers.push(Box::pin(async move {
            let found = page(&views, partition, shop, listing).await;
            Read::Page(request, listing, queried, found)
        }));
    }

    async fn have_read(&mut self, read: Read) {
        match read {
            Read::Open(handled, read) => {
                self.reading.open = false;
                match read {
                    // Somebody handles a basket since; it is read again below.
                    Ok(_) if handled != self.handled_count => {}
                    Ok(open) => self.know(open),
                    Err(error) => return not_read(&error),
                }
            }
            Read::Basket(session, read) => {
                self.fetched.remove(&session);
                match read {
                    Ok(Some(view)) if is_open(&view) => self.change(session, Some(&view)).await,
                    Ok(Some(view)) => self.know_basket(session, &view),
                    Ok(None) => self.answer_none(session).await,
                    Err(error) => return not_read(&error),
                }
            }
            Read::Refreshed(handled, read) => match read {
                Ok(open) => self.refreshed(handled, open).await,
                Err(error) => {
                    not_read(&error);
                    self.refresh_at.push(Instant::now() + SLOW_PAUSE);
                }
            },
            Read::Again(session, before, read) => match read {
                Ok(view) if before == self.state(session) => {
                    // It is the truth, though it may be less than somebody had written by hand.
                    if let Some(basket) = self.known.as_mut().and_then(|known| known.baskets.get_mut(&session)) {
                        basket.state = State::default();
                    }
                    self.change(session, view.as_ref()).await;
                }
                // Something was told meanwhile.
                Ok(_) => self.watching.put_back(session, Changed::Perhaps),
                Err(error) => {
                    not_read(&error);
                    self.watching.put_back(session, Changed::Perhaps);
                    self.flushed_at = Instant::now() + SLOW_PAUSE;
                }
            },
            Read::Summary(read) => {
                self.reading.summary = false;
                match read {
                    Ok(now) => {
                        let before = self.summary.replace(now);
                        let now = self.summary.as_ref().expect("it was just put there");
                        if let Some(changes) = before.and_then(|before| model::difference(&before, now)) {
                            self.tell(Resource::Summary, ResourceEvent::Change(changes)).await;
                        }
                    }
                    Err(error) => return not_read(&error),
                }
            }
            Read::Page(request, listing, queried, read) => {
                // Whoever was told between the reading and this answer has not taken it for news of this page.
                self.due.sessions |= queried != self.queried_count;
                let answer = match read {
                    Ok(values) => Answer::Collection {
                        values,
                        query: Some(listing.normalised()),
                    },
                    Err(error) => {
                        not_read(&error);
                        // As where somebody waits for too long.
                        self.reset_soon();
                        Answer::Failure(Failure::new(
                            "ezout.unavailable",
                            "the sessions cannot be read; ask again",
                        ))
                    }
                };
                return reply(&self.parts.gateway, &request, answer).await;
            }
            Read::Corrected(session, request, sequence, answer) => {
                self.corrected.push(Corrected {
                    session,
                    request,
                    sequence: sequence.unwrap_or(0),
                    answer,
                    since: Instant::now(),
                });
                return self.answer_corrected().await;
            }
            Read::Handled(session, request, read) => return self.handled(session, request, read).await,
        }
        self.answer_waiting().await;
    }

    async fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.answer_now(waiting.asked.resource) {
                Some(answer) => reply(&self.parts.gateway, &waiting.asked.request, answer).await,
                None => self.waiting.push(waiting),
            }
        }
        self.read_what_is_missing();
    }

    /// Answers those who wait for a basket that there is none.
    async fn answer_none(&mut self, session: SessionId) {
        let is_it = |waiting: &mut Waiting| waiting.asked.resource == Resource::Basket(session);
        let waiting: Vec<Waiting> = self.waiting.extract_if(.., is_it).collect();
        for waiting in waiting {
            let answer = match self.answer_now(waiting.asked.resource) {
                Some(answer) => answer,
                None => Answer::Failure(Failure::not_found()),
            };
            reply(&self.parts.gateway, &waiting.asked.request, answer).await;
        }
    }

    fn know(&mut self, open: OpenShop) {
        self.handlings = open.handlings.into_iter().collect();
        let now = Instant::now();
        let baskets: HashMap<SessionId, Basket> = open
            .baskets
            .iter()
            .map(|(id, view)| {
                let handling = self.handlings.get(&id.session);
                (id.session, Basket::of(*id, view, handling, now))
            })
            .collect();
        let keys = baskets.values().map(|basket| basket.key).collect();
        self.known = Some(Known {
            list: List::new(keys, LIST_MAX),
            baskets,
            dropped_at: None,
        });
    }

    fn know_basket(&mut self, session: SessionId, view: &BasketView) {
        let id = self.basket_id(session);
        let Some(known) = &mut self.known else { return };
        // What was told meanwhile is newer than what was read.
        known
            .baskets
            .entry(session)
            .or_insert_with(|| Basket::of(id, view, self.handlings.get(&session), Instant::now()));
    }

    /// Tells what has changed since the last time.
    async fn flush(&mut self) {
        self.flush_at = None;
        self.flushed_at = Instant::now();
        if self.known.is_none() && !self.reading.open {
            // Nobody has a basket.
            if !self.watching.take().is_empty() {
                self.due.summary = true;
                self.due.sessions = true;
            }
            return;
        }
        if self.reading.open {
            // What is read may be older or newer; it is told after that.
            self.flush_at = Some(Instant::now() + FLUSH_PAUSE);
            return;
        }
        for (session, changed) in self.watching.take() {
            self.due.summary = true;
            self.due.sessions = true;
            match changed {
                Changed::To(view) => self.change(session, Some(&view)).await,
                Changed::Perhaps => {
                    let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
                    let before = self.state(session);
                    self.reads.push(Box::pin(async move {
                        let read = one(&views, partition, id).await;
                        Read::Again(session, before, read)
                    }));
                }
            }
        }
        self.answer_corrected().await;
    }

    /// What is known of a basket.
    fn state(&self, session: SessionId) -> Option<State> {
        Some(self.known.as_ref()?.baskets.get(&session)?.state)
    }

    /// Tells what is otherwise in the open baskets than was known, and has the others of the list looked at.
    async fn refreshed(&mut self, handled: u64, open: OpenShop) {
        let Some(known) = &self.known else { return };
        let there: HashSet<SessionId> = open.baskets.iter().map(|(id, _)| id.session).collect();
        for session in known.list.all().filter(|session| !there.contains(session)) {
            self.watching.put_back(session, Changed::Perhaps);
        }
        for (id, view) in &open.baskets {
            self.change(id.session, Some(view)).await;
        }
        self.refreshed_handlings(handled, open.handlings).await;
    }

    /// Tells who handles which basket where that is otherwise than was known: the owner before may have noted it last.
    async fn refreshed_handlings(&mut self, handled: u64, there: Vec<(SessionId, Handling)>) {
        if handled != self.handled_count {
            // Somebody handles a basket since it was read.
            self.refresh_at.push(Instant::now() + SLOW_PAUSE);
            return;
        }
        let now = OffsetDateTime::now_utc();
        let there: HashMap<SessionId, Handling> =
            there.into_iter().filter(|(_, handling)| handling.until > now).collect();
        let sessions: BTreeSet<SessionId> = self.handlings.keys().chain(there.keys()).copied().collect();
        for session in sessions {
            if self.handlings.get(&session) != there.get(&session) {
                self.set_handling(session, there.get(&session).cloned()).await;
            }
        }
    }

    /// Answers those whose correction is in its basket, or is not for too long.
    async fn answer_corrected(&mut self) {
        let known = &self.known;
        let is_told = |corrected: &mut Corrected| {
            let basket = known.as_ref().and_then(|known| known.baskets.get(&corrected.session));
            basket.is_none_or(|basket| basket.state.sequence >= corrected.sequence)
                || corrected.since.elapsed() > CORRECTED_WAIT
        };
        let told: Vec<Corrected> = self.corrected.extract_if(.., is_told).collect();
        for corrected in told {
            reply(&self.parts.gateway, &corrected.request, corrected.answer).await;
        }
    }

    /// Takes a basket as it is now, and tells what is other than gateways have.
    async fn change(&mut self, session: SessionId, view: Option<&BasketView>) {
        let id = self.basket_id(session);
        let handling = self.handlings.get(&session).cloned();
        // What is read at this moment may be older than what is told.
        let is_read = self.fetched.contains(&session);
        let is_kept = is_read || !self.reads.is_empty();
        let Some(known) = &mut self.known else { return };
        let mut events: Vec<(Resource, ResourceEvent)> = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        let may_be_had = known.may_be_had();
        let mut is_gone = false;
        match (view, known.baskets.get_mut(&session)) {
            (None, None) if may_be_had => events.push((Resource::Basket(session), ResourceEvent::Delete)),
            (None, None) => {}
            (None, Some(_)) => {
                if let Some(before) = known.baskets.remove(&session) {
                    steps.extend(known.list.leave(before.key));
                }
                is_gone = true;
            }
            // Read or told before; what is newer has been told.
            (Some(view), Some(basket)) if State::of(view) < basket.state => {}
            (Some(view), Some(basket)) => {
                let mut now = Basket::of(id, view, handling.as_ref(), basket.asked_at);
                if let Some(changes) = model::difference(&basket.model, &now.model) {
                    events.push((Resource::Basket(session), ResourceEvent::Change(changes)));
                }
                std::mem::swap(basket, &mut now);
                let (before, key, is_open) = (now, basket.key, basket.is_open);
                if before.is_open && (!is_open || before.key != key) {
                    steps.extend(known.list.leave(before.key));
                }
                if is_open && (!before.is_open || before.key != key) {
                    steps.extend(known.list.enter(key));
                }
            }
            (Some(view), None) => {
                let basket = Basket::of(id, view, handling.as_ref(), Instant::now());
                let (key, is_open) = (basket.key, basket.is_open);
                if may_be_had {
                    let all = properties_json(&basket.model);
                    events.push((Resource::Basket(session), ResourceEvent::Change(all)));
                }
                if is_open || is_kept {
                    known.baskets.insert(session, basket);
                }
                if is_open {
                    steps.extend(known.list.enter(key));
                }
            }
        }
        events.extend(steps.into_iter().map(|step| {
            let event = match step {
                Step::Add(idx, session) => ResourceEvent::Add {
                    idx,
                    value: model::reference(BasketId { session, ..id }),
                },
                Step::Remove(idx) => ResourceEvent::Remove { idx },
            };
            (Resource::Baskets, event)
        }));
        // It leaves the list before it is no more.
        if is_gone {
            events.push((Resource::Basket(session), ResourceEvent::Delete));
        }
        for (resource, event) in events {
            self.tell(resource, event).await;
        }
        if is_read {
            Box::pin(self.answer_waiting()).await;
        }
    }

    async fn tell(&mut self, resource: Resource, event: ResourceEvent) {
        if !self.parts.gateway.is_up() {
            self.is_unsure = true;
            return;
        }
        let metrics = &self.parts.metrics;
        metrics.res_events.with_label_values(&[event.name()]).inc();
        if let Err(error) = self.parts.gateway.tell(&resource.name(self.shop), event).await {
            tracing::debug!("{error}");
            self.is_unsure = true;
        }
    }

    /// Has gateways ask for the pages of sessions that they have.
    async fn tell_of_sessions(&mut self) {
        self.queried_count += 1;
        let (subject, requests) = match self.parts.gateway.inbox().await {
            Ok(inbox) => inbox,
            Err(error) => return tracing::debug!("{error}"),
        };
        let (parts, partition, shop) = (self.parts.clone(), self.partition, self.shop);
        let page_failed = Arc::clone(&self.page_failed);
        tokio::spawn(async move {
            let (parts, page_failed) = (&parts, &page_failed);
            let until = requests.take_until(tokio::time::sleep(QUERY_WAIT));
            let answering = until.for_each_concurrent(PAGES_AT_ONCE, async |request| {
                let answer = match Listing::read(request.body().query.as_deref()) {
                    Ok(listing) => match page(&parts.views, partition, shop, listing).await {
                        Ok(values) => Answer::Collection { values, query: None },
                        Err(error) => {
                            not_read(&error);
                            page_failed.store(true, Ordering::Relaxed);
                            Answer::Failure(Failure::internal("the sessions cannot be read"))
                        }
                    },
                    Err(error) => Answer::Failure(Failure::invalid_query(error.to_string())),
                };
                reply(&parts.gateway, &request, answer).await;
            });
            answering.await;
        });
        self.tell(Resource::Sessions, ResourceEvent::Query(subject)).await;
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

    fn handle_next(&mut self) {
        if self.is_handling {
            return;
        }
        let Some((session, request, handle)) = self.handles.pop_front() else {
            return;
        };
        self.is_handling = true;
        let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
        self.answers.push(Box::pin(async move {
            let noted = async {
                if one(&views, partition, id).await?.is_none() {
                    return Ok(Handled::NoBasket);
                }
                if handle.release {
                    let another = views.release_handling(id, &handle.by).await?;
                    return Ok(another.map_or(Handled::Released, Handled::ByAnother));
                }
                let now = OffsetDateTime::now_utc();
                let handling = Handling::from_now(handle.by, handle.minutes, now);
                let another = views.handle(id, &handling, handle.instead, now).await?;
                Ok(another.map_or(Handled::By(handling), Handled::ByAnother))
            };
            let noted = noted.await;
            Read::Handled(session, request, noted)
        }));
    }

    /// Tells who handles a basket now, and answers the one who wanted to.
    async fn handled(&mut self, session: SessionId, request: Request, read: Result<Handled, ViewError>) {
        self.is_handling = false;
        self.handled_count += 1;
        self.handle_next();
        let answer = match read {
            Ok(Handled::By(handling)) => {
                let json = handled_json(Some(&handling));
                self.set_handling(session, Some(handling)).await;
                Answer::Result(json)
            }
            Ok(Handled::Released) => {
                self.set_handling(session, None).await;
                Answer::Result(handled_json(None))
            }
            Ok(Handled::ByAnother(handling)) => Answer::Failure(Failure {
                data: Some(handled_json(Some(&handling))),
                ..Failure::new(
                    "ezout.handled",
                    "somebody else handles this basket; send instead: true to take it over",
                )
            }),
            Ok(Handled::NoBasket) => Answer::Failure(Failure::not_found()),
            Err(error) => {
                not_read(&error);
                // It may have been noted all the same.
                self.refresh_at.push(Instant::now() + SLOW_PAUSE);
                Answer::Failure(Failure::new("ezout.unavailable", "it could not be noted; try again"))
            }
        };
        reply(&self.parts.gateway, &request, answer).await;
    }

    /// Takes what became otherwise in who handles baskets, whichever process has noted it.
    async fn hear_handlings(&mut self) {
        let Some(there) = self.handled_everywhere.borrow_and_update().clone() else {
            return;
        };
        let before = std::mem::replace(&mut self.handled_heard, Arc::clone(&there));
        let sessions: BTreeSet<SessionId> = before.keys().chain(there.keys()).copied().collect();
        for session in sessions {
            let now = there.get(&session);
            // What was noted here is known already, and may be newer.
            if before.get(&session) != now && self.handlings.get(&session) != now {
                // What is being read of it may be older.
                self.handled_count += 1;
                self.set_handling(session, now.cloned()).await;
            }
        }
    }

    async fn set_handling(&mut self, session: SessionId, handling: Option<Handling>) {
        let properties = model::handled(handling.as_ref());
        match handling {
            Some(handling) => self.handlings.insert(session, handling),
            None => self.handlings.remove(&session),
        };
        let Some(known) = &mut self.known else { return };
        let changes = match known.baskets.get_mut(&session) {
            Some(basket) => {
                let before = basket.model.clone();
                basket.model.extend(properties);
                model::difference(&before, &basket.model)
            }
            None => known.may_be_had().then(|| properties_json(&properties.into())),
        };
        if let Some(changes) = changes {
            self.tell(Resource::Basket(session), ResourceEvent::Change(changes))
                .await;
        }
    }

    /// Tells that nobody handles the baskets any more whose time is over.
    async fn end_handlings(&mut self) {
        let now = OffsetDateTime::now_utc();
        let over: Vec<SessionId> = self
            .handlings
            .iter()
            .filter(|(_, handling)| handling.until <= now)
            .map(|(session, _)| *session)
            .collect();
        for session in over {
            self.set_handling(session, None).await;
        }
    }
}

impl Basket {
    fn of(id: BasketId, view: &BasketView, handling: Option<&Handling>, asked_at: Instant) -> Self {
        Self {
            state: State::of(view),
            model: model::basket(id, view, handling),
            key: Key::of(id.session, view),
            is_open: is_open(view),
            asked_at,
        }
    }
}

/// The properties that say who handles a basket, as JSON.
fn handled_json(handling: Option<&Handling>) -> String {
    properties_json(&model::handled(handling).into())
}

fn is_open(view: &BasketView) -> bool {
    view.status == Status::Open.word()
}

impl Known {
    /// Whether a gateway may have a basket that is not known here. Such a one is told whole when it changes.
    fn may_be_had(&self) -> bool {
        LastAsked::is_wanted(self.dropped_at)
    }

    /// Drops baskets that are not open until `max` of them are left: those that were asked for the longest time ago.
    fn drop_closed(&mut self, max: usize) {
        let over = self.baskets.len().saturating_sub(self.list.len() + max);
        if over == 0 {
            return;
        }
        let closed = self.baskets.iter().filter(|(_, basket)| !basket.is_open);
        let mut closed: Vec<(Instant, SessionId)> =
            closed.map(|(session, basket)| (basket.asked_at, *session)).collect();
        closed.sort_unstable();
        for (_, session) in closed.into_iter().take(over) {
            self.baskets.remove(&session);
        }
        self.dropped_at = Some(Instant::now());
    }
}

/// What somebody says who wants to handle a basket.
struct Handle {
    by: String,
    minutes: i64,
    instead: bool,
    release: bool,
}

impl Handle {
    fn read(request: &Request) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            by: Option<String>,
            minutes: Option<i64>,
            #[serde(default)]
            instead: bool,
            #[serde(default)]
            release: bool,
        }
        let body = request.body();
        let params = body.params.map_or("{}", |params| params.get());
        let params: Params = serde_json::from_str(params).map_err(|error| error.to_string())?;
        let by = params.by.unwrap_or_default().trim().to_owned();
        if !params.release && (by.is_empty() || by.len() > HANDLER_MAX) {
            return Err(format!("by must be a name of 1 to {HANDLER_MAX} bytes"));
        }
        let minutes = params.minutes.unwrap_or(HANDLE_MINUTES_DEFAULT);
        if !HANDLE_MINUTES.contains(&minutes) {
            return Err(format!(
                "minutes must be from {} to {}",
                HANDLE_MINUTES.start(),
                HANDLE_MINUTES.end()
            ));
        }
        Ok(Self {
            by,
            minutes,
            instead: params.instead,
            release: params.release,
        })
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

pub(super) fn not_read(error: &ViewError) {
    tracing::debug!("what a gateway asks for cannot be read: {}", error_chain(error));
}

async fn open_shop(views: &Views, partition: u16, shop: ShopId) -> Result<OpenShop, ViewError> {
    let handlings = views.handlings(shop).await?;
    let (views, _) = views.reading(partition).await?;
    let (mut baskets, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = views.open_baskets(shop, after.as_deref(), PAGE_BASKETS).await?;
        baskets.extend(page.baskets);
        after = page.next;
        if after.is_none() {
            return Ok(OpenShop { baskets, handlings });
        }
    }
}

async fn one(views: &Views, partition: u16, id: BasketId) -> Result<Option<BasketView>, ViewError> {
    let (views, _) = views.reading(partition).await?;
    views.view(id).await
}

async fn page(views: &Views, partition: u16, shop: ShopId, listing: Listing) -> Result<Vec<Value>, ViewError> {
    let (views, _) = views.reading(partition).await?;
    let found = views.baskets(shop, listing).await?;
    let row = |(id, view): &(BasketId, BasketView)| {
        Value::Json(serde_json::to_string(&view.listed(*id)).expect("a basket is JSON"))
    };
    Ok(found.baskets.iter().map(row).collect())
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_kept_of_baskets_that_are_not_open_has_an_end() {
        let session = |number| SessionId::from(Uuid::from_u128(number));
        let now = Instant::now();
        let key = |number| Key::at(None, session(number));
        let basket = |number: u64, is_open| Basket {
            state: State::default(),
            model: Model::new(),
            key: key(u128::from(number)),
            is_open,
            asked_at: now + Duration::from_secs(100 - number),
        };
        let mut known = Known {
            list: List::new(vec![key(1), key(2)], 1),
            baskets: (1..=10)
                .map(|number| (session(u128::from(number)), basket(number, number <= 2)))
                .collect(),
            dropped_at: None,
        };
        known.drop_closed(8);
        assert_eq!((known.baskets.len(), known.may_be_had()), (10, false));
        known.drop_closed(3);
        let mut left: Vec<SessionId> = known.baskets.keys().copied().collect();
        left.sort_unstable();
        // The open ones, and of the others those that were asked for last.
        assert_eq!(left, [1, 2, 3, 4, 5].map(session));
        assert!(known.may_be_had(), "who has one of the others is told of it");
    }
}
