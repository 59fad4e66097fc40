//! Presenting: what happens in shops as RES resources, which Resgate brings into browsers.
//!
//! The process that projects a shop's partition also owns the shop's resources: one task a shop
//! (`shop.rs`) answers `get` and `call` and tells the events, all on one connection, so that a gateway
//! never gets an answer and an event in the wrong order. Requests reach any process; who is not the
//! owner passes them on, and asks the gateway for time while there is no owner for a moment. Access and
//! auth are answered by whoever gets them.
//!
//! A shop has a task as long as gateways ask for it. Each is asked to ask again now and then by a
//! reset, so who is not asked any more is not needed any more; and whoever becomes owner, or was cut
//! off from NATS, heals every screen with a reset as well.

mod access;
mod correct;
mod list;
mod model;
mod route;
mod shop;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::access::Access;
use crate::core::event::ActionIdMeaning;
use crate::core::id::{SessionId, ShopId, partition_of};
use crate::core::policy::Verb;
use crate::core::retry::Backoff;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::resgate::{Answer, Failure, Gateway, Kind, Request, Untaken};
use crate::views::{State, Views};
use access::Guard;
use route::{Resource, Route, SERVICE, route};
use shop::Asked;

/// Requests that may wait for a shop's task.
const MAILBOX: usize = 4_096;
/// Shops of a partition that have a task at a time; more are asked for by somebody who makes names up.
const SHOPS_MAX: usize = 10_000;
/// Requests for which an owner is looked for at a time.
const PASSING_MAX: usize = 10_000;
/// How long a process that stops looks for another owner.
const STOP_WAIT: Duration = Duration::from_millis(700);
/// How long the owner of a shop is looked for, and for how long a gateway is asked to wait for that.
const OWNER_WAIT: Duration = Duration::from_secs(10);
const OWNER_WAIT_TOLD: Duration = Duration::from_secs(15);
/// How long partitions that come one after the other are waited for, so that one reset is for all of them.
const SETTLE: Duration = Duration::from_millis(200);
/// When a reset is repeated after a take-over: an owner that did not know yet that it had lost its lease may have spoken last.
const AGAIN_AFTER: Duration = Duration::from_secs(7);

/// When a reset is repeated after answers may have been lost with the connection or with the owner before: a gateway that still
/// waits for one passes over a reset, so this is longer than it is told to wait.
const LOST_AGAIN: Duration = Duration::from_secs(20);

/// What presenting needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The connection to gateways.
    pub gateway: Gateway,
    /// Where the baskets are.
    pub views: Views,
    /// Who may see and do what.
    pub access: Access,
    /// Whether this process takes what gateways ask, and so decides who may; without it only what others pass on, who did.
    pub takes_requests: bool,
    /// What has all events.
    pub journal: Journal,
    /// What `action_id` means.
    pub action_id: ActionIdMeaning,
    /// The partitions that this process projects.
    pub projects: watch::Receiver<BTreeSet<u16>>,
    /// The process's series.
    pub metrics: Arc<Metrics>,
}

/// What follows the shop in the name of each resource, and its methods with what they take. To see any takes [`Verb::Look`].
pub fn resources() -> Vec<(&'static str, &'static [(&'static str, Verb)])> {
    let all = Resource::all(SessionId::from(Uuid::nil())).into_iter();
    all.map(|resource| (resource.word(), resource.methods())).collect()
}

/// Presents until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let (partitions, replicas) = {
        let mut journal = parts.journal.state();
        let open = journal.wait_for(|state| matches!(state, journal::State::Open(_)));
        match stop.run_until_cancelled(open).await {
            Some(Ok(state)) => match &*state {
                journal::State::Open(facts) => (facts.partitions, facts.replicas),
                journal::State::Unavailable { .. } => unreachable!("it was waited for"),
            },
            _ => return,
        }
    };
    let tasks = TaskTracker::new();
    let guard = Guard::new(parts.access.clone(), parts.gateway.clone(), Arc::clone(&parts.metrics));
    let presenter = Presenter(Arc::new(Inner {
        parts,
        guard,
        partitions,
        owned: Mutex::default(),
        passing: Arc::new(Semaphore::new(PASSING_MAX)),
        tasks: tasks.clone(),
        stop: stop.clone(),
    }));
    let owning = presenter.clone();
    tasks.spawn(async move { owning.own().await });
    let watching = presenter.clone();
    tasks.spawn(async move { watching.0.stop.run_until_cancelled(watching.0.guard.watch()).await });
    if replicas > 1
        && let Some(first) = presenter.0.parts.journal.spread().lanes().next()
    {
        let connected = presenter.clone();
        tasks.spawn(async move {
            let gateway = &connected.0.parts.gateway;
            gateway.stay_useful(&first.name(), &connected.0.stop).await;
        });
    }
    if presenter.0.parts.takes_requests {
        presenter.take_requests().await;
    } else {
        stop.cancelled().await;
    }
    tasks.close();
    tasks.wait().await;
}

/// The presenter of a process; clones share it.
#[derive(Debug, Clone)]
struct Presenter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    guard: Guard,
    partitions: u16,
    owned: Mutex<HashMap<u16, Owned>>,
    passing: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A partition that this process owns.
#[derive(Debug)]
struct Owned {
    stop: CancellationToken,
    shops: HashMap<ShopId, mpsc::Sender<Asked>>,
}

/// Where a shop's task is.
enum Task {
    At(mpsc::Sender<Asked>),
    /// Another process is the owner, or nobody.
    NotHere,
    TooMany,
}

/// The subject at which the owner of a partition takes what others pass on.
fn owner_subject(partition: u16) -> String {
    format!("ezout.owner.{partition}")
}

impl Presenter {
    fn owned(&self) -> MutexGuard<'_, HashMap<u16, Owned>> {
        // Every change of the map is one call, so a panic cannot leave half of one.
        self.0.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the requests of gateways until the process stops.
    async fn take_requests(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let stop = &self.0.stop;
        let mut requests = loop {
            match self.0.parts.gateway.requests(SERVICE).await {
                Ok(requests) => break requests,
                Err(error) => tracing::debug!("requests of gateways cannot be taken: {error}"),
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(backoff.next_pause()))
                .await
                .is_none()
            {
                return;
            }
        };
        while let Some(Some(request)) = stop.run_until_cancelled(requests.next()).await {
            self.take(request).await;
        }
    }

    async fn take(&self, request: Request) {
        let metrics = &self.0.parts.metrics;
        metrics.res_requests.with_label_values(&[request.kind().word()]).inc();
        let found = route(request.name());
        match (request.kind(), found) {
            (Kind::Access, _) => self.answer(&request, self.0.guard.access(found, &request)).await,
            (Kind::Auth, Some(Route::Auth)) => {
                // A token may have to wait for its key, and no other request for that.
                let presenter = self.clone();
                self.0.tasks.spawn(async move {
                    let answer = presenter.0.guard.auth(&request).await;
                    presenter.answer(&request, answer).await;
                });
            }
            (Kind::Call, Some(Route::Shop(shop, resource))) => match self.0.guard.call(shop, resource, &request) {
                Ok(()) => self.deliver(shop, resource, request).await,
                Err(failure) => self.answer(&request, Answer::Failure(failure)).await,
            },
            (Kind::Get, Some(Route::Shop(shop, resource))) => self.deliver(shop, resource, request).await,
            (Kind::Get | Kind::Call | Kind::Auth, _) => {
                self.answer(&request, Answer::Failure(Failure::not_found())).await;
            }
        }
    }

    async fn answer(&self, request: &Request, answer: Answer) {
        if let Err(error) = self.0.parts.gateway.answer(request, answer).await {
            tracing::debug!("{error}");
        }
    }

    /// Has a request answered by the owner of the shop.
    async fn deliver(&self, shop: ShopId, resource: Resource, request: Request) {
        let partition = partition_of(shop, self.0.partitions);
        let asked = Asked { resource, request };
        let Err(asked) = self.ask(partition, shop, asked).await else {
            return;
        };
        let (presenter, request) = (self.clone(), asked.request);
        let Ok(place) = Arc::clone(&self.0.passing).try_acquire_owned() else {
            return self.answer(&request, Answer::Failure(unavailable())).await;
        };
        self.0.tasks.spawn(async move {
            presenter.pass_on(partition, shop, resource, request).await;
            drop(place);
        });
    }

    /// Gives a request to the shop's task, which is made if there is none; gives it back if this process is not the owner.
    async fn ask(&self, partition: u16, shop: ShopId, mut asked: Asked) -> Result<(), Asked> {
        loop {
            let task = match self.task(partition, shop) {
                Task::At(task) => task,
                Task::NotHere => return Err(asked),
                Task::TooMany => {
                    self.answer(&asked.request, Answer::Failure(unavailable())).await;
                    return Ok(());
                }
            };
            match task.try_send(asked) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(full)) => {
                    self.answer(&full.request, Answer::Failure(unavailable())).await;
                    return Ok(());
                }
                // The task has ended, and the next one is another.
                Err(mpsc::error::TrySendError::Closed(back)) => {
                    self.forget(partition, shop, &task);
                    asked = back;
                }
            }
        }
    }

    /// The task of a shop, which is made if there is none.
    fn task(&self, partition: u16, shop: ShopId) -> Task {
        let mut all = self.owned();
        let Some(owned) = all.get_mut(&partition).filter(|owned| !owned.stop.is_cancelled()) else {
            return Task::NotHere;
        };
        if let Some(task) = owned.shops.get(&shop) {
            return Task::At(task.clone());
        }
        if owned.shops.len() >= SHOPS_MAX {
            return Task::TooMany;
        }
        let (task, mailbox) = mpsc::channel(MAILBOX);
        owned.shops.insert(shop, task.clone());
        let keeping = self
            .clone()
            .keep(partition, shop, task.clone(), mailbox, owned.stop.clone());
        self.0.tasks.spawn(keeping);
        Task::At(task)
    }

    /// Runs a shop's task, and sees to what it leaves behind.
    async fn keep(
        self,
        partition: u16,
        shop: ShopId,
        task: mpsc::Sender<Asked>,
        mut mailbox: mpsc::Receiver<Asked>,
        stop: CancellationToken,
    ) {
        let metrics = &self.0.parts.metrics;
        metrics.res_shops.inc();
        let mut left = shop::present(&self.0.parts, partition, shop, &mut mailbox, stop).await;
        metrics.res_shops.dec();
        self.forget(partition, shop, &task);
        mailbox.close();
        while let Ok(asked) = mailbox.try_recv() {
            left.push(asked);
        }
        for asked in left {
            self.0.tasks.spawn(self.clone().deliver_again(shop, asked));
        }
    }

    /// Takes a shop's task out of the map, if it is that one.
    fn forget(&self, partition: u16, shop: ShopId, task: &mpsc::Sender<Asked>) {
        if let Some(owned) = self.owned().get_mut(&partition)
            && owned.shops.get(&shop).is_some_and(|known| known.same_channel(task))
        {
            owned.shops.remove(&shop);
        }
    }

    fn deliver_again(self, shop: ShopId, asked: Asked) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.deliver(shop, asked.resource, asked.request).await })
    }

    /// Looks for the owner of a shop until it has the request. The gateway waits meanwhile.
    async fn pass_on(&self, partition: u16, shop: ShopId, resource: Resource, request: Request) {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(250));
        let mut asked = Asked { resource, request };
        let mut told = false;
        // A process that stops asks the others once more, and then says that it cannot be.
        let wait = || {
            if self.0.stop.is_cancelled() {
                STOP_WAIT
            } else {
                OWNER_WAIT
            }
        };
        while begun.elapsed() < wait() {
            let gateway = &self.0.parts.gateway;
            match gateway.pass_on(owner_subject(partition), &asked.request).await {
                Ok(()) => {
                    self.0.parts.metrics.res_passed_requests.inc();
                    return;
                }
                Err(Untaken::Nobody | Untaken::Unknown) => {}
            }
            if !std::mem::replace(&mut told, true) {
                let _ = gateway.ask_for_time(&asked.request, OWNER_WAIT_TOLD).await;
            }
            tokio::time::sleep(backoff.next_pause()).await;
            // It may be this process by now.
            match self.ask(partition, shop, asked).await {
                Ok(()) => return,
                Err(back) => asked = back,
            }
        }
        self.answer(&asked.request, Answer::Failure(unavailable())).await;
    }

    /// Follows which partitions are this process's.
    async fn own(&self) {
        let mut projects = self.0.parts.projects.clone();
        let mut resets: Vec<Instant> = Vec::new();
        loop {
            let wanted = projects.borrow_and_update().clone();
            if self.take_over(&wanted).await {
                let now = Instant::now();
                resets = vec![now + SETTLE, now + AGAIN_AFTER, now + LOST_AGAIN];
            }
            let next = resets.first().copied();
            tokio::select! {
                () = self.0.stop.cancelled() => break,
                changed = projects.changed() => if changed.is_err() { break },
                () = sleep_until(next) => {
                    if self.reset_all().await {
                        resets.remove(0);
                    } else {
                        resets[0] = Instant::now() + SETTLE;
                    }
                }
            }
        }
        self.take_over(&BTreeSet::new()).await;
    }

    /// Lets go of partitions and takes others; answers whether it took any.
    async fn take_over(&self, wanted: &BTreeSet<u16>) -> bool {
        let mut new = Vec::new();
        {
            let mut owned = self.owned();
            owned.retain(|partition, owned| {
                let keep = wanted.contains(partition);
                if !keep {
                    owned.stop.cancel();
                }
                keep
            });
            for partition in wanted {
                owned.entry(*partition).or_insert_with(|| {
                    let stop = self.0.stop.child_token();
                    new.push((*partition, stop.clone()));
                    Owned {
                        stop,
                        shops: HashMap::new(),
                    }
                });
            }
        }
        for (partition, stop) in &new {
            self.listen(*partition, stop.clone()).await;
        }
        !new.is_empty()
    }

    /// Takes what other processes pass on for a partition.
    async fn listen(&self, partition: u16, stop: CancellationToken) {
        let mut passed = match self.0.parts.gateway.passed_on(owner_subject(partition)).await {
            Ok(passed) => passed,
            Err(error) => {
                tracing::debug!("requests for partition {partition} cannot be taken: {error}");
                return;
            }
        };
        let presenter = self.clone();
        self.0.tasks.spawn(async move {
            while let Some(Some(request)) = stop.run_until_cancelled(passed.next()).await {
                if let Some(Route::Shop(shop, resource)) = route(request.name()) {
                    presenter.deliver(shop, resource, request).await;
                }
            }
        });
    }

    /// Has all gateways ask again for everything, as soon as they are answered; answers whether they were told.
    async fn reset_all(&self) -> bool {
        let parts = &self.0.parts;
        if !parts.gateway.is_up() || *parts.views.state().borrow() != State::Open {
            return false;
        }
        parts.metrics.res_resets.inc();
        parts.gateway.reset(&format!("{SERVICE}.>")).await.is_ok()
    }
}

fn unavailable() -> Failure {
    Failure::new(
        "ezout.unavailable",
        "nobody can answer for this shop at the moment; ask again in some seconds",
    )
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
