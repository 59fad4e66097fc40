//! From the journal to MongoDB: a backlog, long sessions, and how soon an update is seen.

use std::time::{Duration, Instant};

use async_nats::Subscriber;
use bson::{Document, doc};
use ezout::journal::Spread;
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::Database;

use crate::Plan;
use crate::events::{ACTIONS, Action, fresh_sessions, shop};
use crate::load::{Connection, Load, Requests};
use crate::meter::{Times, as_float};
use crate::processors::{Processors, Used, Watched, resident_bytes};
use crate::raw::{self, RawStream};
use crate::service::{Machine, Place, Service};
use crate::table::{Goal, Row, Table};

/// Actions of the longest session: as many as a basket keeps.
const LONGEST: u64 = 10_000;
/// Longest that anything here takes.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// Memory that the service may have at full load, in bytes.
const RESIDENT_BYTES_MAX: f64 = 200e6;

/// A backlog of many sessions at once, against the same number of upserts of its final documents.
pub(crate) async fn backlog(machine: &Machine, plan: &Plan, table: &mut Table) {
    let events = plan.backlog();
    let work = format!("projection, backlog of {events} events");
    if !plan.wants(&work) {
        return;
    }
    let place = machine.place().await;
    let sessions = events / ACTIONS;
    let first = fresh_sessions(sessions);
    // All sessions go on side by side, so hardly two events of a step are of one session.
    let side_by_side = (0..events).map(|n| Action::of(first + n % sessions, n / sessions));
    place.fill(side_by_side).await;
    let (time, used) = project(machine, &place, events).await;
    let writes = basket_writes(&machine.admin().await, &place.database).await;
    let documents: Vec<Document> = baskets(&place.database).await;
    assert_eq!(documents.len() as u64, sessions, "a basket is missing");
    let limit = raw::upserts(&place.database, &documents, writes).await;
    let a_second = |count: u64, time: Duration| as_float(count) / time.as_secs_f64();
    table.add(&Row {
        work,
        figure: format!(
            "{:>7.0} writes/s ({:.0} events/s)",
            a_second(writes, time),
            a_second(events, time)
        ),
        limit: format!("{:>7.0} upserts/s in bulk", a_second(writes, limit)),
        ratio: a_second(writes, time) / a_second(writes, limit),
        goal: Goal::AtLeast(0.7),
        used,
    });
    let rebuilt = place.rebuild().await;
    table.add(&Row {
        work: format!("projection, backlog of {events} events: rebuild"),
        figure: format!("{:>7.0} events/s, compared as well", a_second(events, rebuilt)),
        limit: format!("{:>7.0} events/s projected", a_second(events, time)),
        ratio: a_second(events, rebuilt) / a_second(events, time),
        goal: Goal::AtLeast(3.0),
        used: Used::default(),
    });
}

/// The same events while they come, by one process and by several that share the partitions.
pub(crate) async fn projectors(machine: &Machine, plan: &Plan, table: &mut Table) {
    /// As many as the journal has.
    const PARTITIONS: u64 = 16;
    let events = plan.backlog();
    let work = |processes: u64| format!("projection while {events} events come, {processes} projectors");
    let wanted: Vec<u64> = [1, 2, 4].into_iter().filter(|n| plan.wants(&work(*n))).collect();
    let mut alone = None;
    for processes in wanted {
        let place = machine.place().await;
        let services: Vec<_> = (0..processes).map(|_| place.spawn("project")).collect();
        for service in &services {
            service.ready().await;
            let begin = Instant::now();
            while service.series("ezout_leases_held").await != PARTITIONS / processes {
                assert!(begin.elapsed() < LONGEST_WAIT, "the partitions are not shared evenly");
                pause().await;
            }
        }
        let mut ids = watched(machine, &place, services[0].id());
        ids[2].1 = services.iter().map(Service::id).collect();
        let processors = Processors::watch(ids);
        let sessions = events / ACTIONS;
        let first = fresh_sessions(sessions);
        let begin = Instant::now();
        let filled = place
            .fill((0..events).map(|n| Action::of(first + n % sessions, n / sessions)))
            .await;
        loop {
            assert!(begin.elapsed() < LONGEST_WAIT, "the events are not projected");
            let mut counted = 0;
            for service in &services {
                counted += service
                    .series("ezout_projected_events_total{outcome=\"counted\"}")
                    .await;
            }
            if counted >= events {
                break;
            }
            pause().await;
        }
        let rate = as_float(events) / begin.elapsed().as_secs_f64();
        let alone = *alone.get_or_insert(rate);
        table.add(&Row {
            work: work(processes),
            figure: format!("{rate:>7.0} events/s"),
            limit: format!(
                "{alone:>7.0} events/s by the fewest, {:.0} events/s come",
                as_float(events) / filled.as_secs_f64()
            ),
            ratio: rate / alone,
            goal: Goal::None,
            used: processors.used(),
        });
    }
}

/// A backlog in a journal of several streams, against the same in one; one process projects it.
pub(crate) async fn several_streams(machine: &Machine, plan: &Plan, table: &mut Table) {
    let events = plan.backlog();
    let work = |streams: u16| format!("projection, backlog in {streams} streams");
    let wanted: Vec<u16> = [1, 2, 4].into_iter().filter(|n| plan.wants(&work(*n))).collect();
    let mut alone = None;
    for streams in wanted {
        let place = machine.place().await;
        let sessions = events / ACTIONS;
        let first = fresh_sessions(sessions);
        let side_by_side = (0..events).map(|n| Action::of(first + n % sessions, n / sessions));
        let spread = Spread::over(streams).expect("a journal may have so many");
        place.fill_spread(spread, side_by_side).await;
        let (time, used) = project_with(machine, &place, events, &["--journal-streams", &streams.to_string()]).await;
        let rate = as_float(events) / time.as_secs_f64();
        let alone = *alone.get_or_insert(rate);
        table.add(&Row {
            work: work(streams),
            figure: format!("{rate:>7.0} events/s"),
            limit: format!("{alone:>7.0} events/s by the fewest"),
            ratio: rate / alone,
            goal: Goal::None,
            used,
        });
    }
}

/// One session of the greatest length, against short ones.
pub(crate) async fn long_session(machine: &Machine, plan: &Plan, table: &mut Table) {
    let works = [
        format!("action of a session of {LONGEST}, backlog"),
        format!("action of a session of {LONGEST}, live"),
    ];
    let cost = |time: Duration| time.as_secs_f64() * 1e6 / as_float(LONGEST);
    if plan.wants(&works[0]) {
        let mut costs = [0.0; 2];
        let mut used = Used::default();
        for (actions, cost_of) in [(ACTIONS, 1), (LONGEST, 0)] {
            let place = machine.place().await;
            let first = fresh_sessions(LONGEST);
            let one_shop = (0..LONGEST).map(|n| Action {
                shop: shop(0),
                ..Action::of(first + n / actions, n % actions)
            });
            place.fill(one_shop).await;
            let (time, by) = project(machine, &place, LONGEST).await;
            costs[cost_of] = cost(time);
            used = by;
        }
        let [long, short] = costs;
        table.add(&Row {
            work: works[0].clone(),
            figure: format!("{long:>7.0} us an action"),
            limit: format!("{short:>7.0} us, sessions of {ACTIONS}"),
            ratio: long / short,
            goal: Goal::AtMost(3.0),
            used,
        });
    }
    if plan.wants(&works[1]) {
        live_on_long_session(machine, plan, &works[1], table).await;
    }
}

/// Single events at the end of the longest session, in turns with events of short sessions.
async fn live_on_long_session(machine: &Machine, plan: &Plan, work: &str, table: &mut Table) {
    let place = machine.place().await;
    let rounds = plan.single_events();
    let first = fresh_sessions(1 + rounds);
    let long = |number: u64| Action {
        shop: shop(0),
        ..Action::of(first, number)
    };
    place.fill((0..LONGEST - rounds).map(long)).await;
    let service = place.start("serve").await;
    service.projected(LONGEST - rounds).await;
    let mut updates = place.updates().await;
    let mut connection = Connection::open(service.http).await;
    let (mut long_times, mut short_times) = (Times::new(), Times::new());
    let watch = watch(machine, &place, service.id());
    for n in 0..rounds {
        let short = Action {
            shop: shop(0),
            ..Action::of(first + 1 + n / ACTIONS, n % ACTIONS)
        };
        for (action, times) in [(long(LONGEST - rounds + n), &mut long_times), (short, &mut short_times)] {
            times.add(until_seen(&mut connection, &mut updates, action).await);
            pause().await;
        }
    }
    table.add(&Row {
        work: work.to_owned(),
        figure: format!("{long_times}"),
        limit: format!("{short_times}, sessions of {ACTIONS}"),
        ratio: long_times.p50_ms() / short_times.p50_ms(),
        goal: Goal::AtMost(3.0),
        used: watch.used(),
    });
}

/// From POST to update, idle, and what the three durable steps on the way cost by themselves.
pub(crate) async fn latency(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "POST to update, idle";
    if !plan.wants(work) {
        return;
    }
    let place = machine.place().await;
    let publishing = RawStream::create(place.client().await, 1).await;
    let service = place.start("serve").await;
    let mut updates = place.updates().await;
    let mut connection = Connection::open(service.http).await;
    let (mut seen, mut published, mut written) = (Times::new(), Times::new(), Times::new());
    let sessions = fresh_sessions(1_000);
    let watch = watch(machine, &place, service.id());
    // The first few open connections and make collections.
    for n in 0..plan.single_events() + 5 {
        let action = Action::of(sessions + n / ACTIONS, n % ACTIONS);
        let time = until_seen(&mut connection, &mut updates, action).await;
        pause().await;
        let publish = publishing.one().await;
        pause().await;
        let write = raw::one_write(&place.database).await;
        pause().await;
        if n >= 5 {
            seen.add(time);
            published.add(publish);
            written.add(write);
        }
    }
    let limit = 2.0 * published.p50_ms() + written.p50_ms();
    table.add(&Row {
        work: work.to_owned(),
        figure: seen.to_string(),
        limit: format!(
            "{limit:.2} ms: 2 publishes of {:.2}, write {:.2}",
            published.p50_ms(),
            written.p50_ms()
        ),
        ratio: seen.p99_ms() / limit,
        goal: Goal::AtMost(3.0),
        used: watch.used(),
    });
}

/// From the POST of a correction to its update, idle, and what the five durable steps on the way cost by themselves.
pub(crate) async fn correction(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "POST of a correction to update, idle";
    if !plan.wants(work) {
        return;
    }
    let place = machine.place().await;
    let publishing = RawStream::create(place.client().await, 1).await;
    let service = place.start("serve").await;
    while service.series("ezout_corrections_led").await == 0 {
        pause().await;
    }
    let mut updates = place.updates().await;
    let mut connection = Connection::open(service.http).await;
    let (mut seen, mut published, mut written) = (Times::new(), Times::new(), Times::new());
    let sessions = fresh_sessions(1_000);
    let watch = watch(machine, &place, service.id());
    for n in 0..plan.single_events() + 5 {
        let action = Action::of(sessions + n / ACTIONS, n % ACTIONS);
        until_seen(&mut connection, &mut updates, action).await;
        pause().await;
        let since = Instant::now();
        let update = tokio::time::timeout(Duration::from_secs(10), updates.next());
        let ((), time) = tokio::join!(connection.correct(action), async {
            update.await.expect("the update comes").expect("the subscription lasts");
            since.elapsed()
        });
        pause().await;
        let publish = publishing.one().await;
        pause().await;
        let write = raw::one_write(&place.database).await;
        pause().await;
        if n >= 5 {
            seen.add(time);
            published.add(publish);
            written.add(write);
        }
    }
    let limit = 2.0 * published.p50_ms() + 3.0 * written.p50_ms();
    table.add(&Row {
        work: work.to_owned(),
        figure: seen.to_string(),
        limit: format!(
            "{limit:.2} ms: 2 publishes of {:.2}, 3 writes of {:.2}",
            published.p50_ms(),
            written.p50_ms()
        ),
        ratio: seen.p99_ms() / limit,
        goal: Goal::AtMost(3.0),
        used: watch.used(),
    });
}

/// All in one process at full load, then at half of what came through.
pub(crate) async fn full_load(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 256;
    let works = [
        "serve, all stages, 256 in flight",
        "serve, memory at full load",
        "POST to update, at half load",
        "growth",
    ];
    if !works.iter().any(|work| plan.wants(work)) {
        return;
    }
    let place = machine.place().await;
    let service = place.start("serve").await;
    let counted = "ezout_projected_events_total{outcome=\"counted\"}";
    let from = fresh_sessions(1_000_000) * ACTIONS;
    let began = Instant::now();
    let load = Load {
        address: service.http,
        connections: CONNECTIONS,
        requests: Requests::Singles { from },
        tokens: Vec::new(),
        warm_up: plan.warm_up,
        time: plan.time * 3,
        watched: watched(machine, &place, service.id()),
    };
    let done = load.run().await;
    let projected = as_float(service.series(counted).await) / began.elapsed().as_secs_f64();
    let memory = resident_bytes(service.id(), true);
    let accepted = done.meter.rate(1);
    table.add(&Row {
        work: works[0].to_owned(),
        figure: accepted.to_string(),
        limit: format!("{projected:>7.0}/s projected meanwhile"),
        ratio: f64::NAN,
        goal: Goal::None,
        used: done.used,
    });
    table.add(&Row {
        work: works[1].to_owned(),
        figure: format!("{:>7.0} MB at most", as_float(memory) / 1e6),
        limit: "   200 MB".to_owned(),
        ratio: as_float(memory) / RESIDENT_BYTES_MAX,
        goal: Goal::AtMost(1.0),
        used: Used::default(),
    });
    service.projected(done.requests).await;
    growth(&place, done.requests, works[3], table).await;
    half_load(
        machine,
        &place,
        &service,
        accepted.per_second.min(projected) / 2.0,
        plan,
        works[2],
        table,
    )
    .await;
}

/// What an event and a session leave on the disks.
async fn growth(place: &Place, events: u64, work: &str, table: &mut Table) {
    let client = place.client().await;
    for stream in [ezout::journal::STREAM, ezout::updates::STREAM] {
        let info = client
            .request(format!("$JS.API.STREAM.INFO.{stream}"), "".into())
            .await
            .expect("the server answers");
        let info: serde_json::Value = serde_json::from_slice(&info.payload).expect("the server speaks JSON");
        let bytes = info["state"]["bytes"].as_u64().unwrap_or(0);
        let messages = info["state"]["messages"].as_u64().unwrap_or(1);
        table.add(&Row {
            work: format!("{work}: an event in the stream {stream}"),
            figure: format!("{:>7.0} bytes", as_float(bytes) / as_float(messages)),
            limit: format!("of {messages} events"),
            ratio: f64::NAN,
            goal: Goal::None,
            used: Used::default(),
        });
    }
    let stats = place
        .database
        .run_command(doc! { "collStats": "baskets" })
        .await
        .expect("mongod answers");
    let number = |field: &str| bson_number(&stats, field);
    let sessions = number("count").max(1.0);
    table.add(&Row {
        work: format!("{work}: a session of {ACTIONS} in MongoDB"),
        figure: format!(
            "{:>7.0} bytes, {:.0} on disk",
            number("size") / sessions,
            (number("storageSize") + number("totalIndexSize")) / sessions
        ),
        limit: format!("of {sessions:.0} sessions, {events} events"),
        ratio: f64::NAN,
        goal: Goal::None,
        used: Used::default(),
    });
}

/// A number, whatever its type; 0 where there is none.
pub(crate) fn bson_number(document: &Document, field: &str) -> f64 {
    match document.get(field) {
        Some(bson::Bson::Int32(number)) => f64::from(*number),
        Some(bson::Bson::Int64(number)) => as_float(number.unsigned_abs()),
        Some(bson::Bson::Double(number)) => *number,
        _ => 0.0,
    }
}

/// Events at random moments, as many a second as given, each timed from the moment at which it was due.
async fn half_load(
    machine: &Machine,
    place: &Place,
    service: &crate::service::Service,
    rate: f64,
    plan: &Plan,
    work: &str,
    table: &mut Table,
) {
    const CONNECTIONS: u64 = 64;
    let events = plan.events_at(rate);
    let sessions = fresh_sessions(events / ACTIONS + 1);
    let mut updates = place.updates().await;
    let watch = watch(machine, place, service.id());
    let begin = Instant::now() + Duration::from_millis(200);
    let random = fastrand::Rng::with_seed(7);
    let due: std::sync::Arc<Vec<Instant>> = {
        let mut random = random;
        let mut at = 0.0;
        let gap = |random: &mut fastrand::Rng| -(1.0 - random.f64()).ln() / rate;
        let times = (0..events).map(|_| {
            at += gap(&mut random);
            begin + Duration::from_secs_f64(at)
        });
        std::sync::Arc::new(times.collect())
    };
    let next = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (due, next) = (due.clone(), next.clone());
        let mut connection = Connection::open(service.http).await;
        senders.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(due) = usize::try_from(n).ok().and_then(|n| due.get(n)) else {
                    return;
                };
                tokio::time::sleep_until((*due).into()).await;
                connection.post(Action::of(sessions + n / ACTIONS, n % ACTIONS)).await;
            }
        });
    }
    let mut times = Times::new();
    // What is sent first warms up.
    let first = usize::try_from(events / 10).unwrap_or(0);
    for _ in 0..events {
        let n = number_of(&mut updates, sessions).await;
        if n >= first {
            times.add(due[n].elapsed());
        }
    }
    senders.join_all().await;
    table.add(&Row {
        work: work.to_owned(),
        figure: times.to_string(),
        limit: format!("at {rate:.0} events/s, {} measured", times.len()),
        ratio: f64::NAN,
        goal: Goal::None,
        used: watch.used(),
    });
}

/// The number of the event that the next update is about.
async fn number_of(updates: &mut Subscriber, sessions: u64) -> usize {
    let message = tokio::time::timeout(Duration::from_secs(30), updates.next())
        .await
        .expect("the updates come")
        .expect("the subscription lasts");
    let update: serde_json::Value = serde_json::from_slice(&message.payload).expect("an update is JSON");
    let session = update["session_id"].as_str().and_then(|id| id.rsplit('-').next());
    let session = session.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let action = update["action_id"].as_u64();
    let (session, action) = session.zip(action).expect("an update names its event");
    usize::try_from((session - sessions) * ACTIONS + action - 1).expect("it is one of the events sent")
}

impl Place {
    /// Every update, as a subscriber without JetStream sees it.
    async fn updates(&self) -> Subscriber {
        let client = self.client().await;
        let updates = client.subscribe("updates.store.*").await.expect("nats-server listens");
        client.flush().await.expect("nats-server listens");
        updates
    }
}

/// Sends one event and waits for its update.
async fn until_seen(connection: &mut Connection, updates: &mut Subscriber, action: Action) -> Duration {
    let since = Instant::now();
    let update = tokio::time::timeout(Duration::from_secs(10), updates.next());
    let ((), update) = tokio::join!(connection.post(action), async move {
        let update = update.await.expect("the update comes").expect("the subscription lasts");
        (update, since.elapsed())
    });
    let (update, time) = update;
    let session = format!("\"session_id\":\"{}\"", action.session);
    let text = String::from_utf8_lossy(&update.payload);
    assert!(text.contains(&session), "the update is about another event: {text}");
    time
}

/// A while in which everything comes to rest.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(3..9))).await;
}

/// Starts a projector and waits until it has projected the backlog.
async fn project(machine: &Machine, place: &Place, events: u64) -> (Duration, Used) {
    project_with(machine, place, events, &[]).await
}

async fn project_with(machine: &Machine, place: &Place, events: u64, options: &[&str]) -> (Duration, Used) {
    let service = place.spawn_with("project", options);
    let watch = watch(machine, place, service.id());
    let time = service.projected(events).await;
    (time, watch.used())
}

fn watch(machine: &Machine, place: &Place, service: u32) -> Processors {
    Processors::watch(watched(machine, place, service))
}

fn watched(machine: &Machine, place: &Place, service: u32) -> Watched {
    vec![
        ("nats", place.nats_ids()),
        ("mongod", vec![machine.mongod()]),
        ("ezout", vec![service]),
    ]
}

/// How many writes of single documents the baskets have had.
async fn basket_writes(admin: &Database, database: &Database) -> u64 {
    let top = admin.run_command(doc! { "top": 1 }).await.expect("mongod answers");
    let totals = top.get_document("totals").expect("top has totals");
    let baskets = totals
        .get_document(format!("{}.baskets", database.name()))
        .expect("the baskets are counted");
    let update = baskets.get_document("update").expect("their writes are counted");
    let count = update
        .get_i64("count")
        .or_else(|_| update.get_i32("count").map(i64::from));
    u64::try_from(count.expect("a count is a whole number")).expect("a count is not negative")
}

async fn baskets(database: &Database) -> Vec<Document> {
    let found = database.collection::<Document>("baskets").find(doc! {}).await;
    found
        .expect("mongod answers")
        .try_collect()
        .await
        .expect("mongod answers")
}
