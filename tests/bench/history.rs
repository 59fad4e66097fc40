//! Looking back: the history of single sessions in a large journal, what such a journal costs, and a shop's events given out again.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream::Stream};
use bson::{Document, doc};

use crate::Plan;
use crate::events::{Action, SHOPS, fresh_sessions, shop as shop_of};
use crate::load::Connection;
use crate::meter::{Times, as_float};
use crate::processors::{Processors, Used, resident_bytes};
use crate::raw;
use crate::service::{Machine, Place, Service};
use crate::table::{Goal, Row, Table};

/// Actions of a session; its events lie as far apart as the journal allows.
const ACTIONS: u64 = 2;
/// All sides are measured in turns.
const ROUNDS: usize = 3;

/// Histories of random sessions, against direct gets of the same events, while baskets tell where these are and while none does.
pub(crate) async fn sessions(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "session history";
    if !plan.wants(work) {
        return;
    }
    let (sessions, events) = (plan.sessions, plan.sessions * ACTIONS);
    let mut place = machine.place().await;
    let nats = place.nats_ids()[0];
    let before = resident_bytes(nats, false);
    let first = fresh_sessions(sessions);
    let begin = Instant::now();
    place
        .fill((0..events).map(|n| Action::of(first + n % sessions, n / sessions)))
        .await;
    let filled = begin.elapsed();
    let nats_filled = resident_bytes(nats, false);
    let service = place.start("serve").await;
    let projected = service.projected(events).await;
    let nats_projected = resident_bytes(nats, false);
    let a_second = |time: Duration| as_float(events) / time.as_secs_f64();
    let name = format!("{work}, {sessions} sessions");
    row(
        table,
        format!("{name}: making them"),
        format!("{:>7.0} events/s appended", a_second(filled)),
        format!("{:>7.0} events/s projected", a_second(projected)),
    );
    costs(&place, &name, sessions, [before, nats_filled, nats_projected], table).await;

    let stream = journal(&place).await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut connection = Connection::open(service.http).await;
    // Of what is not in NATS's memory, and of what the other side has just brought there.
    let mut sides = [(Times::new(), Times::new()), (Times::new(), Times::new())];
    let processors = Processors::watch(watched(machine, &place, service.id()));
    for n in 0..plan.single_events() * 10 + 50 {
        let session = random.u64(0..sessions);
        let places: Vec<u64> = (0..ACTIONS).map(|action| action * sessions + session + 1).collect();
        let path = history_of(first + session);
        let before = if n % 2 == 0 {
            Some(raw::get_all(&stream, &places).await)
        } else {
            None
        };
        let begin = Instant::now();
        let answer = connection.get(&path).await;
        let time = begin.elapsed();
        let raw = match before {
            Some(raw) => raw,
            None => raw::get_all(&stream, &places).await,
        };
        assert_eq!(places_in(&answer), places, "another history than the journal has");
        if n >= 50 {
            let is_second = usize::from(before.is_some());
            sides[is_second].0.add(time);
            sides[1 - is_second].1.add(raw);
        }
    }
    let mut used = processors.used();
    for ((api, gets), kind) in sides.into_iter().zip(["from the disk", "from memory"]) {
        table.add(&Row {
            work: format!("{name}: GET, {kind}"),
            figure: api.to_string(),
            limit: format!("{gets}, direct gets"),
            ratio: api.p50_ms() / gets.p50_ms(),
            goal: Goal::None,
            used: std::mem::take(&mut used),
        });
    }
    rebuild(machine, &place, &service, (&name, events, projected), table).await;
    drop(service);
    place.nats[0].restart().await.expect("nats-server starts again");
    let rest = resident_bytes(place.nats_ids()[0], false);
    row(
        table,
        format!("{name}: memory of NATS, restarted"),
        format!(
            "{:>7.0} MB, {:.0} bytes each",
            as_float(rest) / 1e6,
            each(rest.saturating_sub(before), sessions)
        ),
        "what it needs to serve them".to_owned(),
    );
    without_baskets(machine, plan, &place, (first, sessions), &name, table).await;
}

/// All baskets folded anew and compared beside the idle service, against what projecting the same events took it.
async fn rebuild(
    machine: &Machine,
    place: &Place,
    service: &Service,
    (name, events, projected): (&str, u64, Duration),
    table: &mut Table,
) {
    let processors = Processors::watch(watched(machine, place, service.id()));
    let time = place.rebuild().await;
    let a_second = |time: Duration| as_float(events) / time.as_secs_f64();
    table.add(&Row {
        work: format!("{name}: rebuild with its comparison"),
        figure: format!("{:>7.0} events/s", a_second(time)),
        limit: format!("{:>7.0} events/s projected", a_second(projected)),
        ratio: a_second(time) / a_second(projected),
        // Its visits last as long as the journal, so each basket is written as often as live; `projection` has visits as they are.
        goal: Goal::None,
        used: processors.used(),
    });
}

/// The same where the views are gone: the shop's events are looked through.
async fn without_baskets(
    machine: &Machine,
    plan: &Plan,
    place: &Place,
    (first, sessions): (u64, u64),
    name: &str,
    table: &mut Table,
) {
    for collection in ["baskets", "checkpoints"] {
        let collection = place.database.collection::<Document>(collection);
        collection.drop().await.expect("mongod drops it");
    }
    let service = place.start("api").await;
    let stream = journal(place).await;
    let mut random = fastrand::Rng::with_seed(8);
    let mut connection = Connection::open(service.http).await;
    let (mut api, mut reads, mut count) = (Times::new(), Times::new(), 0);
    let processors = Processors::watch(watched(machine, place, service.id()));
    for n in 0..=plan.single_events() / 10 {
        let session = random.u64(0..sessions);
        let subject = format!("checkout.*.{}", shop_of((first + session) % SHOPS));
        let (events, raw) = raw::read(&stream, &subject).await;
        let begin = Instant::now();
        let answer = connection.get(&history_of(first + session)).await;
        let time = begin.elapsed();
        assert_eq!(places_in(&answer), [session + 1, sessions + session + 1]);
        if n > 0 {
            api.add(time);
            reads.add(raw);
            count = events;
        }
    }
    table.add(&Row {
        work: format!("{name}: GET without a basket"),
        figure: api.to_string(),
        limit: format!("{:.2} ms, ordered consumer of the shop's {count}", reads.p50_ms()),
        ratio: reads.p50_ms() / api.p50_ms(),
        goal: Goal::AtLeast(0.7),
        used: processors.used(),
    });
}

fn each(bytes: u64, sessions: u64) -> f64 {
    as_float(bytes) / as_float(sessions)
}

/// What so many sessions cost in memory and on the disks.
pub(crate) async fn costs(place: &Place, name: &str, sessions: u64, nats: [u64; 3], table: &mut Table) {
    let [before, filled, projected] = nats;
    let megabytes = |bytes: u64| as_float(bytes) / 1e6;
    let each = |bytes: u64| each(bytes, sessions);
    row(
        table,
        format!("{name}: memory of NATS"),
        format!(
            "{:>7.0} MB, {:.0} bytes each",
            megabytes(projected),
            each(projected.saturating_sub(before))
        ),
        format!(
            "{:.0} MB before projecting, {:.0} empty",
            megabytes(filled),
            megabytes(before)
        ),
    );
    for name_of_stream in [ezout::journal::STREAM, ezout::updates::STREAM] {
        let context = jetstream::new(place.client().await);
        let stream = context.get_stream(name_of_stream).await.expect("the stream is there");
        let state = &stream.cached_info().state;
        row(
            table,
            format!("{name}: stream {name_of_stream}"),
            format!("{:>7.0} bytes each", each(state.bytes)),
            format!("{:.0} MB, {} messages", megabytes(state.bytes), state.messages),
        );
    }
    // What is written lies in files after the next checkpoint of mongod.
    let client = place.database.client().database("admin");
    client
        .run_command(doc! { "fsync": 1 })
        .await
        .expect("mongod writes its files");
    let stats = place.database.run_command(doc! { "collStats": "baskets" }).await;
    let stats = stats.expect("mongod answers");
    let number = |field: &str| crate::projection::bson_number(&stats, field);
    let sessions = number("count").max(1.0);
    row(
        table,
        format!("{name}: MongoDB"),
        format!(
            "{:>7.0} bytes each, {:.0} on disk",
            number("size") / sessions,
            (number("storageSize") + number("totalIndexSize")) / sessions
        ),
        format!(
            "{:.0} of data, {:.0} of indexes on disk",
            number("storageSize") / sessions,
            number("totalIndexSize") / sessions
        ),
    );
}

/// The events of a shop, given out to a file, against an ordered consumer that only takes them.
pub(crate) async fn shop(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "shop replay to a file";
    if !plan.wants(work) {
        return;
    }
    let events = plan.backlog() * 4;
    let place = machine.place().await;
    // Every second event is of this shop.
    let sessions = fresh_sessions(events);
    let actions = (0..events).map(|n| Action {
        shop: shop_of(if n % 2 == 0 { 0 } else { 1 + n % (SHOPS - 1) }),
        ..Action::of(sessions + n / 20, n % 20)
    });
    place.fill(actions).await;
    let stream = journal(&place).await;
    let (shop, file) = (shop_of(0).to_string(), place.file("replay.ndjson"));
    let subject = format!("checkout.*.{shop}");
    let path = file.to_str().expect("a path is text");
    let (mut given, mut read, mut count) = (Duration::ZERO, Duration::ZERO, 0);
    let processors = Processors::watch(vec![("nats", place.nats_ids())]);
    for _ in 0..ROUNDS {
        let (events, time) = raw::read(&stream, &subject).await;
        (count, read) = (events, read + time);
        given += place.run(&["replay", "--shop", &shop, "--ndjson", path]).await;
        let lines = std::fs::read_to_string(&file)
            .expect("the file is written")
            .lines()
            .count();
        assert_eq!(lines as u64, count, "other events than the journal has");
    }
    let a_second = |time: Duration| as_float(count * ROUNDS as u64) / time.as_secs_f64();
    table.add(&Row {
        work: format!("{work}, {count} events"),
        figure: format!("{:>7.0} events/s", a_second(given)),
        limit: format!("{:>7.0} events/s, ordered consumer", a_second(read)),
        ratio: a_second(given) / a_second(read),
        goal: Goal::AtLeast(0.7),
        used: processors.used(),
    });
}

pub(crate) fn row(table: &mut Table, work: String, figure: String, limit: String) {
    table.add(&Row {
        work,
        figure,
        limit,
        ratio: f64::NAN,
        goal: Goal::None,
        used: Used::default(),
    });
}

async fn journal(place: &Place) -> Stream {
    let context = jetstream::new(place.client().await);
    let stream = context.get_stream(ezout::journal::STREAM).await;
    stream.expect("the journal is there")
}

fn history_of(session: u64) -> String {
    let Action { shop, session, .. } = Action::of(session, 0);
    format!("/v1/shops/{shop}/sessions/{session}/events")
}

/// The places of the events in an answer.
fn places_in(answer: &str) -> Vec<u64> {
    let answer: serde_json::Value = serde_json::from_str(answer).expect("an answer is JSON");
    let events = answer["events"].as_array().expect("it has events");
    events.iter().filter_map(|event| event["sequence"].as_u64()).collect()
}

fn watched(machine: &Machine, place: &Place, service: u32) -> crate::processors::Watched {
    vec![
        ("nats", place.nats_ids()),
        ("mongod", vec![machine.mongod()]),
        ("ezout", vec![service]),
    ]
}
