//! Live updates: what a crowd of viewers sees, what it costs, and whether the phones notice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Plan;
use crate::apart::{self, Apart};
use crate::events::{ACTIONS, Action, fresh_sessions, shop};
use crate::load::Connection;
use crate::meter::{Times, as_float};
use crate::processors::{Processors, resident_bytes};
use crate::service::Machine;
use crate::table::{Goal, Row, Table};

/// Viewers in all.
const VIEWERS: u64 = 1_000;
/// Shops that they watch.
const SHOPS: u64 = 10;
/// Events a second of all shops.
const RATE: u32 = 500;
/// Connections that send them.
const CONNECTIONS: u32 = 50;

/// When an event was sent, by its session and number.
pub(crate) type Sent = Arc<Mutex<HashMap<(String, u64), Instant>>>;

pub(crate) async fn crowd(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "500 events/s, 1,000 viewers of 10 shops";
    if !plan.wants(work) {
        return;
    }
    let time = plan.time * 5;
    let place = machine.place().await;
    let service = place.start("serve").await;
    let processes = || {
        vec![
            ("ezout", vec![service.id()]),
            ("nats", place.nats_ids()),
            ("mongod", vec![machine.mongod()]),
        ]
    };
    // What connections and caches need once is there before anything is measured.
    send(service.http, plan.warm_up, &Sent::default()).await;
    let alone = send(service.http, time, &Sent::default()).await;

    let memory_before = resident_bytes(service.id(), false);
    let (sent, stop) = (Sent::default(), Arc::new(AtomicBool::new(false)));
    let mut viewers = JoinSet::new();
    let mut crowd = Apart::behind("crowd", service.http).await;
    for n in 0..SHOPS {
        let mut stream = watch(service.http, n).await;
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        viewers.spawn(async move {
            let (mut buffer, mut text) = (vec![0; 16 * 1024], String::new());
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer));
                let Ok(length) = read.await else { continue };
                let length = length.expect("the stream goes on");
                assert!(length > 0, "the service ended a stream");
                let now = Instant::now();
                text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                while let Some(end) = text.find("\n\n") {
                    let event: String = text.drain(..end + 2).collect();
                    if let Some(since) = key(&event).and_then(|key| sent.lock().expect("no panic").remove(&key)) {
                        seen.push(now - since);
                    }
                }
            }
            seen
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let memory_idle = resident_bytes(service.id(), false);
    send(service.http, plan.warm_up, &Sent::default()).await;
    let processors = Processors::watch(processes());
    let watched = send(service.http, time, &sent).await;
    let used = processors.used();
    let memory_busy = resident_bytes(service.id(), false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut seen = Times::new();
    while let Some(viewer) = viewers.join_next().await {
        for time in viewer.expect("a viewer ends") {
            seen.add(time);
        }
    }
    let missed = sent.lock().expect("no panic").len();
    assert!(crowd.is_there(), "the crowd went away");
    assert_eq!(missed, 0, "updates that the viewers who look did not see");
    drop(crowd);
    let coalesced = service.series("ezout_live_coalesced_updates_total").await;
    assert_eq!(coalesced, 0, "a viewer was too slow on this machine");
    table.add(&Row {
        work: format!("{work}: POST to answer"),
        figure: watched.to_string(),
        limit: format!("{alone} without viewers"),
        ratio: watched.p99_ms() / alone.p99_ms(),
        goal: Goal::None,
        used: used.clone(),
    });
    table.add(&Row {
        work: format!("{work}: POST to viewer"),
        figure: seen.to_string(),
        limit: format!(
            "{} updates seen by all",
            service.series("ezout_live_sent_updates_total").await
        ),
        ratio: f64::NAN,
        goal: Goal::None,
        used: used.clone(),
    });
    let kib = |bytes: u64| as_float(bytes.saturating_sub(memory_before)) / 1024.0 / as_float(VIEWERS);
    table.add(&Row {
        work: format!("{work}: memory of each viewer"),
        figure: format!("{:.1} KiB idle, {:.1} KiB busy", kib(memory_idle), kib(memory_busy)),
        limit: format!("{:.0} MiB before them", as_float(memory_before) / 1_048_576.0),
        ratio: f64::NAN,
        goal: Goal::None,
        used,
    });
}

/// All viewers but those that look at what they get, in a process [`Apart`], until it is killed: they take what they get.
pub(crate) async fn be_crowd(address: SocketAddr) -> ! {
    let mut viewers = JoinSet::new();
    for n in SHOPS..VIEWERS {
        let mut stream = watch(address, n % SHOPS).await;
        viewers.spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while stream.read(&mut buffer).await.expect("the stream goes on") > 0 {}
        });
    }
    apart::say_ready();
    let ended = viewers.join_next().await;
    panic!("the service ended a stream: {ended:?}");
}

/// Sends events evenly for this time, each shop as many, and answers how long their answers took.
pub(crate) async fn send(address: SocketAddr, time: Duration, sent: &Sent) -> Times {
    let pause = Duration::from_secs(1) * CONNECTIONS / RATE;
    let events = u64::try_from(time.as_millis() / pause.as_millis()).unwrap_or(0);
    let mut tasks = JoinSet::new();
    let begin = tokio::time::Instant::now();
    for n in 0..CONNECTIONS {
        let mut connection = Connection::open(address).await;
        let sessions = fresh_sessions(events / ACTIONS + 1);
        let sent = Arc::clone(sent);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for event in 0..events {
                let due = begin + pause * u32::try_from(event).unwrap_or(u32::MAX) + pause * n / CONNECTIONS;
                tokio::time::sleep_until(due).await;
                let action = Action {
                    shop: shop(u64::from(n) % SHOPS),
                    ..Action::of(sessions + event / ACTIONS, event % ACTIONS)
                };
                let since = Instant::now();
                let key = (action.session.to_string(), action.number + 1);
                sent.lock().expect("no panic").insert(key, since);
                connection.post(action).await;
                times.push(since.elapsed());
            }
            times
        });
    }
    let mut all = Times::new();
    while let Some(times) = tasks.join_next().await {
        for time in times.expect("a connection ends") {
            all.add(time);
        }
    }
    all
}

/// Connects a viewer, and waits until it is up to date.
async fn watch(address: SocketAddr, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the service listens");
    let request = format!(
        "GET /v1/shops/{}/updates HTTP/1.1\r\nhost: localhost\r\n\r\n",
        shop(number)
    );
    stream.write_all(request.as_bytes()).await.expect("the service reads");
    let mut text = Vec::new();
    while !text.windows(12).any(|part| part == b"\"more\":false") {
        let length = stream.read_buf(&mut text).await.expect("the service answers");
        assert!(length > 0, "the service closed a connection");
    }
    stream
}

/// Session and number of an update.
fn key(event: &str) -> Option<(String, u64)> {
    let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
    let data: serde_json::Value = serde_json::from_str(data).ok()?;
    Some((data["session_id"].as_str()?.to_owned(), data["action_id"].as_u64()?))
}
