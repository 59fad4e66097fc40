//! Ingest over HTTP against raw publishes of the same bodies.

use std::time::Duration;

use crate::events::{ACTIONS, fresh_sessions};
use crate::load::{Done, Load, Requests};
use crate::meter::{Meter, Rate, Window};
use crate::processors::{Used, Watched};
use crate::raw::{RawStream, lead};
use crate::service::{Machine, Place, Service};
use crate::table::{Goal, Row, Table};
use crate::{Plan, fraction};

/// All sides are measured in turns, so that what else the machine does meets each of them.
pub(crate) const ROUNDS: u32 = 2;
/// Events in a request with many, and in an atomic batch of the largest size.
const LINES: u64 = 1_000;

/// Single events on one server that syncs.
pub(crate) async fn one_server(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = |connections: usize| format!("ingest, {connections} in flight, one server");
    let wanted: Vec<usize> = plan
        .connections()
        .into_iter()
        .filter(|n| plan.wants(&work(*n)))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let place = machine.place().await;
    let lazy_server = machine.nats(false).await;
    let lazy_client = async_nats::connect(lazy_server.url()).await.expect("it listens");
    let lazy = RawStream::create(lazy_client, 1).await;
    let synced = RawStream::create(place.client().await, 1).await;
    let service = place.start("api").await;
    for connections in wanted {
        let mut sides = [const { None }; 5];
        let mut used = Used::default();
        for _ in 0..ROUNDS {
            add(&mut sides[0], lazy.singles(connections, plan.window()).await);
            add(&mut sides[1], synced.singles(connections, plan.window()).await);
            let size = LINES.min(connections as u64);
            if size > 1 {
                add(&mut sides[2], synced.batches(size, plan.window()).await);
            }
            let [first, again] = singles(&place, &service, connections, plan).await;
            add(&mut sides[3], first.meter);
            add(&mut sides[4], again.meter);
            used = first.used;
        }
        let [lazily, singly, batched, figure, http] = sides.map(|meter| meter.map(|meter| meter.rate(ROUNDS)));
        let figure = figure.expect("it was measured");
        let best = [singly, batched]
            .iter()
            .flatten()
            .map(|rate| rate.per_second)
            .fold(0.0, f64::max);
        let limits = [
            ("synced, pipelined", singly),
            ("synced, batches", batched),
            ("lazy, pipelined", lazily),
        ];
        for (name, limit) in limits {
            let Some(limit) = limit else { continue };
            let goal = match name {
                "lazy, pipelined" if connections == 1_024 => Goal::AtLeast(0.5),
                "lazy, pipelined" => Goal::None,
                _ if limit.per_second < best => Goal::None,
                _ => Goal::AtLeast(0.8),
            };
            table.add(&Row {
                work: work(connections),
                figure: figure.to_string(),
                limit: limit.alone(name),
                ratio: figure.per_second / limit.per_second,
                goal,
                used: used.clone(),
            });
        }
        table.add(&in_turn(work(connections), figure, best, http));
    }
}

/// What both halves of the way would come to, one after the other: requests answered from memory, and the disk. Where
/// they share the processors with each other and with the load, no more is to be had.
fn in_turn(work: String, figure: Rate, disk: f64, http: Option<Rate>) -> Row {
    let http = http.expect("it was measured").per_second;
    let limit = 1.0 / (1.0 / disk + 1.0 / http);
    Row {
        work,
        figure: figure.to_string(),
        limit: format!("{limit:>7.0}/s that and HTTP alone, {http:.0}/s"),
        ratio: figure.per_second / limit,
        goal: Goal::None,
        used: Used::default(),
    }
}

/// Single events on three replicas that sync.
pub(crate) async fn three_replicas(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = |connections: usize| format!("ingest, {connections} in flight, three replicas");
    let wanted: Vec<usize> = plan
        .connections()
        .into_iter()
        .filter(|n| *n >= 64 && plan.wants(&work(*n)))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let place = machine.place_of_three().await;
    let client = place.client().await;
    let raw = RawStream::create(client.clone(), 3).await;
    let service = place.start("api").await;
    for stream in [raw.name(), ezout::journal::STREAM] {
        lead(&client, stream, "n1").await;
    }
    for connections in wanted {
        let mut sides = [const { None }; 3];
        let mut used = Used::default();
        for _ in 0..ROUNDS {
            add(&mut sides[0], raw.singles(connections, plan.window()).await);
            let [first, again] = singles(&place, &service, connections, plan).await;
            add(&mut sides[1], first.meter);
            add(&mut sides[2], again.meter);
            used = first.used;
        }
        let [limit, figure, http] = sides.map(|meter| meter.map(|meter| meter.rate(ROUNDS)));
        let (limit, figure) = limit.zip(figure).expect("both were measured");
        table.add(&Row {
            work: work(connections),
            figure: figure.to_string(),
            limit: limit.alone("synced, pipelined"),
            ratio: figure.per_second / limit.per_second,
            goal: Goal::AtLeast(0.8),
            used,
        });
        table.add(&in_turn(work(connections), figure, limit.per_second, http));
    }
}

/// Single events into journals of several streams, against the same into one.
pub(crate) async fn several_streams(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 1_024;
    for replicas in [1, 3] {
        let work = |streams: u16| format!("ingest, {CONNECTIONS} in flight, {replicas} replicas, {streams} streams");
        let wanted: Vec<u16> = [1, 2, 4].into_iter().filter(|n| plan.wants(&work(*n))).collect();
        let mut alone = None;
        for streams in wanted {
            let place = match replicas {
                1 => machine.place().await,
                _ => machine.place_of_three().await,
            };
            let options = ["--journal-streams", &streams.to_string()];
            let service = place.start_with("api", &options).await;
            let (mut sum, mut used) = (None, Used::default());
            for _ in 0..ROUNDS {
                let [first, _] = singles(&place, &service, CONNECTIONS, plan).await;
                add(&mut sum, first.meter);
                used = first.used;
            }
            let figure = rate(sum.as_ref());
            let alone = *alone.get_or_insert(figure);
            table.add(&Row {
                work: work(streams),
                figure: figure.to_string(),
                limit: alone.alone("by the fewest"),
                ratio: figure.per_second / alone.per_second,
                goal: Goal::None,
                used,
            });
        }
    }
}

/// All phones send again what was stored, as after an outage: the process knows it, or was started since.
pub(crate) async fn storm(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 256;
    let works = ["256 phones retry, same process", "256 phones retry, after a restart"];
    if !works.iter().any(|work| plan.wants(work)) {
        return;
    }
    let place = machine.place().await;
    let mut service = place.start("api").await;
    let from = fresh_sessions(1_000_000) * ACTIONS;
    let load = |service: &Service, requests, warm_up| Load {
        address: service.http,
        connections: CONNECTIONS,
        requests,
        tokens: Vec::new(),
        warm_up,
        time: plan.time,
        watched: watched(&place, service),
    };
    let first = load(&service, Requests::Singles { from }, plan.warm_up).run().await;
    let (limit, to) = (first.meter.rate(1), from + first.requests);
    for (place_in_order, work) in works.into_iter().enumerate() {
        if place_in_order == 1 {
            drop(service);
            service = place.start("api").await;
        }
        // No warm-up: how the first moments go is the question.
        let again = load(&service, Requests::Again { from, to }, Duration::ZERO).run().await;
        let figure = again.meter.rate(1);
        table.add(&Row {
            work: work.to_owned(),
            figure: figure.to_string(),
            limit: limit.alone("first sends"),
            ratio: figure.per_second / limit.per_second,
            goal: Goal::AtLeast(1.0),
            used: again.used,
        });
    }
    let stored = place
        .client()
        .await
        .request(format!("$JS.API.STREAM.INFO.{}", ezout::journal::STREAM), "".into())
        .await
        .expect("the server answers");
    let stored: serde_json::Value = serde_json::from_slice(&stored.payload).expect("the server speaks JSON");
    assert_eq!(
        stored["state"]["messages"], first.requests,
        "a retry was recorded twice"
    );
}

/// Many events in each request.
pub(crate) async fn lines(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 4;
    let work = format!("ingest, {CONNECTIONS} x {LINES} lines of NDJSON");
    if !plan.wants(&work) {
        return;
    }
    let place = machine.place().await;
    let synced = RawStream::create(place.client().await, 1).await;
    let service = place.start("api").await;
    let (mut limit, mut figure) = (None, None);
    let mut used = Used::default();
    for _ in 0..ROUNDS {
        add(&mut limit, synced.batches(LINES, plan.window()).await);
        let load = Load {
            address: service.http,
            connections: CONNECTIONS,
            requests: Requests::Lines {
                session: fresh_sessions(1_000_000),
                lines: LINES,
            },
            tokens: Vec::new(),
            warm_up: plan.warm_up,
            time: fraction(plan.time, ROUNDS),
            watched: watched(&place, &service),
        };
        let done = load.run().await;
        add(&mut figure, done.meter);
        used = done.used;
    }
    let (limit, figure) = (rate(limit.as_ref()), rate(figure.as_ref()));
    table.add(&Row {
        work,
        figure: figure.to_string(),
        limit: limit.alone("synced, batches"),
        ratio: figure.per_second / limit.per_second,
        goal: Goal::AtLeast(0.8),
        used,
    });
}

/// First sends of single events, and the same ones again, which the service knows from memory.
async fn singles(place: &Place, service: &Service, connections: usize, plan: &Plan) -> [Done; 2] {
    let from = fresh_sessions(1_000_000) * ACTIONS;
    let load = |requests, warm_up| Load {
        address: service.http,
        connections,
        requests,
        tokens: Vec::new(),
        warm_up,
        time: fraction(plan.time, ROUNDS),
        watched: watched(place, service),
    };
    let first = load(Requests::Singles { from }, plan.warm_up).run().await;
    let to = from + first.requests;
    let again = load(Requests::Again { from, to }, plan.warm_up / 4).run().await;
    [first, again]
}

pub(crate) fn watched(place: &Place, service: &Service) -> Watched {
    vec![("nats", place.nats_ids()), ("ezout", vec![service.id()])]
}

pub(crate) fn add(sum: &mut Option<Meter>, meter: Meter) {
    match sum {
        Some(sum) => sum.add(&meter),
        None => *sum = Some(meter),
    }
}

pub(crate) fn rate(meter: Option<&Meter>) -> Rate {
    meter.expect("each side was measured").rate(ROUNDS)
}

impl Plan {
    fn window(&self) -> Window {
        Window::after(self.warm_up / 2, fraction(self.time, ROUNDS))
    }
}
