//! Letting watchers in who connect to NATS themselves, with the token that every other door takes as well.
//!
//! nats-server asks for each connection that is none of our own users; the answer is a user who may listen to the updates
//! of its shops, and to nothing else, until its token ends. A right that ends sooner ends the connection: whoever let
//! somebody in remembers it until the connection is over, and looks again whenever rights change. The server may have
//! given up meanwhile, so whoever it does not tell of within some seconds is forgotten, and ended if they are there after all.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Identity, Refusal};
use crate::core::places::{Place, Places};
use crate::core::policy::{Object, Shops, Verb};
use crate::core::retry::Backoff;
use crate::metrics::Metrics;
use crate::nats::{Admission, Caller, Callout, Seat};

/// Longest stay. Who has a token that lasts longer comes again with it.
const STAY_MAX: time::Duration = time::Duration::HOUR;
/// Callers that are looked at side by side.
const AT_A_TIME: usize = 64;
/// Callers that wait for a key of their issuer, beside those. One more is refused, and may come again.
const WAITING_MAX: usize = 64;
/// Watchers that one process lets in. One more is refused, and may be let in by another process.
const WATCHERS_MAX: usize = 100_000;
/// Shops of one watcher; each is a subject of its own at the server.
const SHOPS_MAX: usize = 500;
/// How long it may take to find out who somebody is. nats-server waits for 2 s, and then lets nobody in whatever is answered.
const IDENTIFY_MAX: Duration = Duration::from_millis(1_500);
/// How long a watcher may take to come in who was let in, and how often those are looked for who did not.
const COME_IN_MAX: Duration = Duration::from_secs(10);
const STAYED_AWAY_AGAIN: Duration = Duration::from_secs(2);
/// How often everybody who was let in is looked at without a reason, and those are forgotten whose time is over.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// First and longest pause before a connection is asked to end once more.
const END_PAUSE_FIRST: Duration = Duration::from_millis(100);
const END_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long it may take to send everybody away when the process stops.
const END_ALL_MAX: Duration = Duration::from_secs(5);

/// How watchers are let in.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Config {
    /// NATS servers with the user `door`, where whoever connects to NATS with a token may watch their shops. Without it nobody is let in so.
    #[arg(long = "nats-door-url", env = "EZOUT_NATS_DOOR_URL", hide_env_values = true)]
    pub door_url: Option<String>,

    /// The secret with which it is signed who may come in, `SA…`. nats-server has its public half as `EZOUT_NATS_ISSUER`. Needed by `EZOUT_NATS_DOOR_URL`.
    #[arg(long = "nats-issuer-seed", env = "EZOUT_NATS_ISSUER_SEED", hide_env_values = true)]
    pub issuer_seed: Option<String>,
}

/// What letting in needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where servers ask.
    pub callout: Callout,
    /// Who may.
    pub access: Access,
    /// Connections that one caller may have at once; 0 for any number.
    pub per_caller: usize,
    /// The process's series.
    pub metrics: Arc<Metrics>,
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
struct Watcher {
    identity: Identity,
    shops: Shops,
    until: OffsetDateTime,
    let_in_at: Instant,
    has_come: bool,
    is_ending: bool,
    /// Given back when it is forgotten, or its server is gone.
    place: Option<Arc<Place<String>>>,
}

#[derive(Debug, Clone)]
struct Door {
    parts: Parts,
    watchers: Arc<Mutex<HashMap<Seat, Watcher>>>,
    places: Places<String>,
    stop: CancellationToken,
}

/// Lets in until `stop`. Whoever was let in is sent away then, and comes in by another process.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let door = Door {
        places: Places::new(parts.per_caller),
        parts,
        watchers: Arc::default(),
        stop: stop.clone(),
    };
    let tasks = TaskTracker::new();
    let open = async {
        tokio::join!(
            door.let_in(&tasks),
            door.hear_who_comes(),
            door.forget_those_who_leave(),
            door.forget_those_who_stay_away(),
            door.give_back_places(),
            door.end_rights(&tasks)
        );
    };
    stop.run_until_cancelled(open).await;
    tasks.close();
    let send_away = async |seat: Seat| {
        door.parts.callout.end(&seat).await;
    };
    let sending = async {
        // Whoever is being let in still has a seat then, which is one of those.
        tasks.wait().await;
        let seats: Vec<Seat> = door.watchers().keys().cloned().collect();
        let sending = futures::stream::iter(seats).for_each_concurrent(AT_A_TIME, send_away);
        sending.await;
    };
    if tokio::time::timeout(END_ALL_MAX, sending).await.is_err() {
        tracing::warn!(
            "not every watcher was sent away within {} s; those who are left stay until their time is over",
            END_ALL_MAX.as_secs()
        );
    }
}

impl Door {
    fn watchers(&self) -> MutexGuard<'_, HashMap<Seat, Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, change: impl FnOnce(&mut HashMap<Seat, Watcher>)) {
        let mut watchers = self.watchers();
        change(&mut watchers);
        let count = i64::try_from(watchers.len()).unwrap_or(i64::MAX);
        self.parts.metrics.nats_watchers.set(count);
    }

    async fn let_in(&self, tasks: &TaskTracker) {
        let Ok(mut callers) = self.parts.callout.callers().await else {
            tracing::error!("nobody is let in any more: the connection to NATS was closed for good");
            return;
        };
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        while let Some(caller) = callers.next().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let (door, waiting) = (self.clone(), Arc::clone(&waiting));
            tasks.spawn(async move { door.answer(&caller, place, &waiting).await });
        }
    }

    /// Answers somebody who has a place. Whose key has to be fetched gives it back, and waits where there is room for that:
    /// an issuer that does not answer keeps nobody waiting whose key is known.
    async fn answer(&self, caller: &Caller, place: OwnedSemaphorePermit, waiting: &Semaphore) {
        let now = OffsetDateTime::now_utc();
        let mut identifying = pin!(self.identify(caller, now));
        let admitted = match futures::poll!(identifying.as_mut()) {
            Poll::Ready(admitted) => admitted,
            Poll::Pending => {
                drop(place);
                match waiting.try_acquire() {
                    Ok(_waits) => identifying.await,
                    Err(_) => Err(Refusal::Unavailable),
                }
            }
        };
        self.decide(caller, admitted, now).await;
    }

    /// Lets somebody in of whom it is known who they are, or not.
    async fn decide(&self, caller: &Caller, admitted: Result<(Identity, Shops), Refusal>, now: OffsetDateTime) {
        let Parts {
            callout,
            access,
            metrics,
            ..
        } = &self.parts;
        let (identity, shops) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let word = refusal.word();
                metrics.refusals.with_label_values(&[word]).inc();
                callout.refuse(caller, word, now).await;
                return;
            }
        };
        if self.stop.is_cancelled() {
            // Nobody would watch over them any more.
            callout.refuse(caller, "stopping", now).await;
            return;
        }
        let place = identity.subject().map(|subject| self.places.take(subject.to_owned()));
        let Ok(place) = place.transpose() else {
            metrics.limited_places.with_label_values(&["watcher"]).inc();
            callout.refuse(caller, "overloaded", now).await;
            return;
        };
        let longest = now + STAY_MAX;
        let until = identity.expires_at().map_or(longest, |ends| ends.min(longest));
        let watcher = Watcher {
            identity: identity.clone(),
            shops: shops.clone(),
            until,
            let_in_at: Instant::now(),
            has_come: false,
            is_ending: false,
            place: place.map(Arc::new),
        };
        let is_full = self.watchers().len() >= WATCHERS_MAX;
        let is_much = matches!(&shops, Shops::Only(shops) if shops.len() > SHOPS_MAX);
        if is_full || is_much {
            tracing::warn!("somebody was not let in, since that is more than there is room for");
            callout.refuse(caller, "overloaded", now).await;
            return;
        }
        // Remembered before it is let in, so that a right that ends in between ends this one as well.
        self.remember(|watchers| {
            watchers.insert(caller.seat.clone(), watcher);
        });
        if access.shops(&identity, Verb::Look, now).as_ref() != Ok(&shops) {
            self.remember(|watchers| {
                watchers.remove(&caller.seat);
            });
            callout.refuse(caller, "changed", now).await;
            return;
        }
        let admission = Admission {
            name: identity.subject().unwrap_or("anybody").to_owned(),
            subjects: subjects(&shops),
            until,
        };
        callout.admit(caller, &admission, now).await;
    }

    async fn identify(&self, caller: &Caller, now: OffsetDateTime) -> Result<(Identity, Shops), Refusal> {
        let access = &self.parts.access;
        let identified = tokio::time::timeout(IDENTIFY_MAX, access.identify(caller.token.as_deref(), now)).await;
        let identity = identified.unwrap_or(Err(Refusal::Unavailable))?;
        let shops = access.shops(&identity, Verb::Look, now);
        let shops = shops.inspect_err(|refusal| access.note_refused(&identity, Verb::Look, Object::System, refusal))?;
        Ok((identity, shops))
    }

    async fn hear_who_comes(&self) {
        let Ok(mut coming) = self.parts.callout.coming().await else {
            return;
        };
        while let Some(seat) = coming.next().await {
            if let Some(watcher) = self.watchers().get_mut(&seat) {
                watcher.has_come = true;
            }
        }
    }

    /// Forgets those who were let in and did not come, as whose server had given up before it was answered. That one has
    /// come may also have got lost, so its connection is ended first: it is not watched over any more.
    async fn forget_those_who_stay_away(&self) {
        let mut again = tokio::time::interval(STAYED_AWAY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let stays_away = |watcher: &Watcher| {
                !watcher.has_come && !watcher.is_ending && watcher.let_in_at.elapsed() >= COME_IN_MAX
            };
            let away: Vec<Seat> = {
                let watchers = self.watchers();
                let away = watchers.iter().filter(|(_, watcher)| stays_away(watcher));
                away.map(|(seat, _)| seat.clone()).collect()
            };
            let forget = async |seat: Seat| {
                if self.parts.callout.end(&seat).await {
                    self.remember(|watchers| {
                        watchers.remove(&seat);
                    });
                }
            };
            futures::stream::iter(away).for_each_concurrent(AT_A_TIME, forget).await;
        }
    }

    async fn forget_those_who_leave(&self) {
        let Ok(mut leaving) = self.parts.callout.leaving().await else {
            return;
        };
        while let Some(seat) = leaving.next().await {
            if self.watchers().contains_key(&seat) {
                self.remember(|watchers| {
                    watchers.remove(&seat);
                });
            }
        }
    }

    /// Gives the places back of those whose server is gone: it tells nobody that they have left. They are watched over as
    /// before, since a server that is only cut off may still have them.
    async fn give_back_places(&self) {
        let callout = &self.parts.callout;
        let mut status = callout.status();
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                _ = again.tick() => {}
            }
            if !status.borrow_and_update().up {
                continue;
            }
            let servers: BTreeSet<String> = self.watchers().keys().map(|seat| seat.server().to_owned()).collect();
            for server in servers {
                if !callout.is_gone(&server).await {
                    continue;
                }
                let mut watchers = self.watchers();
                for (_, watcher) in watchers.iter_mut().filter(|(seat, _)| seat.server() == server) {
                    drop(watcher.place.take());
                }
            }
        }
    }

    /// Ends the connections of those who may no longer watch what they were let in for.
    async fn end_rights(&self, tasks: &TaskTracker) {
        let mut changes = self.parts.access.changes();
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = again.tick() => {}
            }
            let now = OffsetDateTime::now_utc();
            let mut ended = Vec::new();
            self.remember(|watchers| {
                // The servers have ended these themselves, and may have told so while nobody listened.
                watchers.retain(|_, watcher| watcher.until > now);
                for (seat, watcher) in watchers.iter_mut().filter(|(_, watcher)| !watcher.is_ending) {
                    let left = self.parts.access.shops(&watcher.identity, Verb::Look, now);
                    if left.is_ok_and(|left| is_within(&watcher.shops, &left)) {
                        continue;
                    }
                    watcher.is_ending = true;
                    ended.push((seat.clone(), watcher.clone()));
                }
            });
            for (seat, watcher) in ended {
                let door = self.clone();
                tasks.spawn(async move {
                    let ending = door.end(&seat, &watcher, now);
                    door.stop.run_until_cancelled(ending).await
                });
            }
        }
    }

    /// Has a watcher's connection ended, however often that takes, as long as it would go on otherwise.
    async fn end(&self, seat: &Seat, watcher: &Watcher, known: OffsetDateTime) {
        let Parts {
            callout,
            access,
            metrics,
            ..
        } = &self.parts;
        let mut backoff = Backoff::new(END_PAUSE_FIRST, END_PAUSE_MAX);
        while !callout.end(seat).await {
            if !self.watchers().contains_key(seat) {
                // It was over before its server could say so.
                break;
            }
            if watcher.until <= OffsetDateTime::now_utc() {
                tracing::error!("a watcher whose rights have ended could not be sent away before its time was over");
                return;
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
        self.remember(|watchers| {
            watchers.remove(seat);
        });
        access.sent_away(&watcher.identity, "nats", Some(known));
        metrics.access_ends.with_label_values(&["nats"]).inc();
    }
}

/// What a watcher may listen to.
fn subjects(shops: &Shops) -> BTreeSet<String> {
    match shops {
        Shops::All => BTreeSet::from(["updates.store.*".to_owned()]),
        Shops::Only(shops) => shops.iter().map(|shop| format!("updates.store.{shop}")).collect(),
    }
}

/// Whether all of `had` is in `left`.
fn is_within(had: &Shops, left: &Shops) -> bool {
    match (had, left) {
        (_, Shops::All) => true,
        (Shops::All, Shops::Only(_)) => false,
        (Shops::Only(had), Shops::Only(left)) => had.is_subset(left),
    }
}
