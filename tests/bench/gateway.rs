//! Browsers behind Resgate: how long a change takes from the phone's POST to their frames, and how much Resgate bears.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ezout::tools::servers::{ResgateOptions, ResgateServer};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::Plan;
use crate::events::{Action, fresh_sessions, shop};
use crate::load::Connection;
use crate::meter::{Times, as_float};
use crate::processors::{Processors, resident_bytes};
use crate::service::{Machine, Place, Service};
use crate::table::{Goal, Row, Table};

/// Browsers in the crowd.
const CLIENTS: u64 = 200;
/// Open baskets that each of them sees.
const BASKETS: u64 = 500;
/// Changes a second of all baskets together.
const RATE: u32 = 10;
/// Events of a burst.
const BURST: u64 = 30_000;
/// Long enough for a busy machine; nothing takes it that works.
const PATIENCE: Duration = Duration::from_mins(3);

/// When something was sent, by basket and version.
type Sent = Arc<Mutex<HashMap<(String, u64), Instant>>>;

pub(crate) async fn browsers(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "Resgate: POST to a browser's frame";
    if !plan.wants(work) {
        return;
    }
    let Some(program) = &machine.binaries.resgate else {
        println!("NOT MEASURED: {work}: there is no resgate on PATH\n");
        return;
    };
    let place = machine.place().await;
    let service = place.start("serve").await;
    let options = ResgateOptions::in_folder(&place.file("resgate"), place.nats[0].url());
    let mut resgate = ResgateServer::start(program, options).await.expect("Resgate starts");
    idle(plan, work, &place, &service, &resgate, table).await;
    crowd(machine, plan, work, &place, &service, &resgate, table).await;
    burst(work, &service, &resgate, table).await;
    assert!(resgate.is_running(), "Resgate has ended");
    resgate.stop().await;
}

/// One browser, one basket, one change at a time.
async fn idle(plan: &Plan, work: &str, place: &Place, service: &Service, resgate: &ResgateServer, table: &mut Table) {
    let session = fresh_sessions(1);
    let of_number = |number| Action {
        shop: shop(1),
        ..Action::of(session, number)
    };
    let mut connection = Connection::open(service.http).await;
    connection.post(of_number(0)).await;
    let basket = format!("ezout.shop.{}.basket.{}", shop(1), of_number(0).session);
    let mut browser = Browser::subscribe(resgate, &basket).await;
    let mut times = Times::new();
    for number in 1..=plan.single_events() {
        // A basket changes at most 20 times a second on a screen; that pause is not what is measured.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let begin = Instant::now();
        connection.post(of_number(number)).await;
        browser.sees(&basket, number + 1).await;
        times.add(begin.elapsed());
    }
    // The same frame, from NATS alone: what Resgate itself takes.
    let nats = place.client().await;
    let mut raw = Times::new();
    for number in plan.single_events() + 2..2 * plan.single_events() + 2 {
        let begin = Instant::now();
        let change = format!("{{\"values\":{{\"version\":{number}}}}}");
        nats.publish(format!("event.{basket}.change"), change.into())
            .await
            .expect("NATS takes it");
        browser.sees(&basket, number).await;
        raw.add(begin.elapsed());
    }
    table.add(&Row {
        work: format!("{work}, idle"),
        figure: times.to_string(),
        limit: format!("{raw} from NATS to the frame"),
        ratio: times.p50_ms() / raw.p50_ms(),
        goal: Goal::None,
        used: Processors::watch(Vec::new()).used(),
    });
}

/// Many browsers that all see all baskets of a shop.
async fn crowd(
    machine: &Machine,
    plan: &Plan,
    work: &str,
    place: &Place,
    service: &Service,
    resgate: &ResgateServer,
    table: &mut Table,
) {
    let time = plan.time * if plan.long { 75 } else { 5 };
    let first = fresh_sessions(BASKETS);
    let of = |basket: u64, number: u64| Action {
        shop: shop(2),
        ..Action::of(first + basket, number)
    };
    let mut connection = Connection::open(service.http).await;
    for basket in 0..BASKETS {
        connection.post(of(basket, 0)).await;
    }
    let list = format!("ezout.shop.{}.baskets", shop(2));
    let frames = Arc::new(AtomicU64::new(0));
    let sent = Sent::default();
    let seen = Arc::new(Mutex::new(Times::new()));
    let mut followers: Vec<JoinHandle<HashMap<String, u64>>> = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for n in 0..CLIENTS {
        let mut browser = Browser::subscribe(resgate, &list).await;
        while browser.versions.len() < usize::try_from(BASKETS).expect("some hundreds") {
            // Baskets that were not projected yet come as additions.
            browser.next().await;
        }
        let (frames, mut stopped) = (Arc::clone(&frames), stopped.clone());
        // One of them looks at what it gets.
        let looks = (n == CLIENTS / 2).then(|| (Arc::clone(&sent), Arc::clone(&seen)));
        followers.push(tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = browser.next() => changed,
                    _ = stopped.changed() => return browser.versions,
                };
                frames.fetch_add(1, Ordering::Relaxed);
                let (Some(key), Some((sent, seen))) = (changed, &looks) else {
                    continue;
                };
                if let Some(begin) = sent.lock().expect("no panic").remove(&key) {
                    seen.lock().expect("no panic").add(begin.elapsed());
                }
            }
        }));
    }
    let processors = Processors::watch(vec![
        ("ezout", vec![service.id()]),
        ("nats", place.nats_ids()),
        ("mongod", vec![machine.mongod()]),
        ("resgate", vec![resgate.pid()]),
    ]);
    let changes = u64::try_from(time.as_millis()).expect("minutes") * u64::from(RATE) / 1_000;
    let begin = tokio::time::Instant::now();
    for change in 0..changes {
        let due = begin + Duration::from_secs(1) * u32::try_from(change).expect("some thousands") / RATE;
        tokio::time::sleep_until(due).await;
        let action = of(change % BASKETS, 1 + change / BASKETS);
        let key = (
            format!("ezout.shop.{}.basket.{}", shop(2), action.session),
            action.number + 1,
        );
        sent.lock().expect("no panic").insert(key, Instant::now());
        connection.post(action).await;
    }
    let used = processors.used();
    let deadline = Instant::now() + PATIENCE;
    while !sent.lock().expect("no panic").is_empty() {
        assert!(Instant::now() < deadline, "a change did not come to the browser");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    for follower in followers {
        let versions = follower.await.expect("a browser ends");
        for basket in 0..BASKETS {
            let name = format!("ezout.shop.{}.basket.{}", shop(2), of(basket, 0).session);
            let wanted = 1 + (changes + BASKETS - 1 - basket) / BASKETS;
            assert_eq!(versions.get(&name), Some(&wanted), "a browser missed the final state");
        }
    }
    let seen = seen.lock().expect("no panic").to_string();
    table.add(&Row {
        work: format!(
            "{work}, {CLIENTS} browsers x {BASKETS} baskets, {RATE} changes/s for {} s",
            time.as_secs()
        ),
        figure: seen,
        limit: format!(
            "{} frames; Resgate has {:.0} MiB",
            frames.load(Ordering::Relaxed),
            as_float(resident_bytes(resgate.pid(), false)) / 1_048_576.0
        ),
        ratio: f64::NAN,
        goal: Goal::None,
        used,
    });
}

/// As many events at once as there may be, while a browser has the list and the updates.
async fn burst(work: &str, service: &Service, resgate: &ResgateServer, table: &mut Table) {
    let first = fresh_sessions(100);
    let of = |event: u64| Action {
        shop: shop(3),
        ..Action::of(first + event % 100, event / 100)
    };
    let mut connection = Connection::open(service.http).await;
    for event in 0..100 {
        connection.post(of(event)).await;
    }
    let mut browser = Browser::subscribe(resgate, &format!("ezout.shop.{}.baskets", shop(3))).await;
    browser.ask(&format!("ezout.shop.{}.feed", shop(3))).await;
    let begin = Instant::now();
    let mut senders = JoinSet::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(4));
    let url = format!("http://{}/v1/shops/{}/events", service.http, shop(3));
    for part in 0..BURST / 1_000 {
        let mut body = Vec::new();
        for event in 100 + part * 1_000..100 + (part + 1) * 1_000 {
            of(event).write_json(&mut body);
            body.push(b'\n');
        }
        let request = reqwest::Client::new()
            .post(&url)
            .header("content-type", "application/x-ndjson")
            .body(body);
        let turns = Arc::clone(&turns);
        senders.spawn(async move {
            // More at once would be told to come again.
            let _turn = turns.acquire().await.expect("it is not closed");
            request.send().await.expect("the service answers").status()
        });
    }
    while let Some(status) = senders.join_next().await {
        assert_eq!(status.expect("a sender ends"), 200);
    }
    let accepted = begin.elapsed();
    let deadline = Instant::now() + PATIENCE;
    let wanted = 1 + BURST / 100;
    let names: Vec<String> = (0..100)
        .map(|event| format!("ezout.shop.{}.basket.{}", shop(3), of(event).session))
        .collect();
    while names.iter().any(|name| browser.versions.get(name) != Some(&wanted)) {
        assert!(Instant::now() < deadline, "a browser missed the final state of a burst");
        browser.next().await;
    }
    table.add(&Row {
        work: format!("{work}, a burst of {BURST} events in 100 baskets"),
        figure: format!("final state after {:.2} s", begin.elapsed().as_secs_f64()),
        limit: format!("accepted after {:.2} s", accepted.as_secs_f64()),
        ratio: begin.elapsed().as_secs_f64() / accepted.as_secs_f64(),
        goal: Goal::None,
        used: Processors::watch(Vec::new()).used(),
    });
}

/// A browser that keeps the version of each basket.
pub(crate) struct Browser {
    socket: WebSocketStream<TcpStream>,
    versions: HashMap<String, u64>,
    asked: u64,
}

impl Browser {
    async fn subscribe(resgate: &ResgateServer, name: &str) -> Self {
        let mut browser = Self::connect(resgate).await;
        browser.ask(name).await;
        browser
    }

    /// One that says who it is first.
    pub(crate) async fn subscribe_as(resgate: &ResgateServer, token: &str, name: &str) -> Self {
        let mut browser = Self::connect(resgate).await;
        let params = format!("{{\"jwt\":\"{token}\"}}");
        browser.send("auth.ezout.auth.jwt", &params).await;
        browser.ask(name).await;
        browser
    }

    /// Waits until it is told that it does not see a resource any more.
    pub(crate) async fn loses(&mut self, name: &str) {
        let told = format!("{name}.unsubscribe");
        while self.frame().await["event"] != told.as_str() {}
    }

    async fn connect(resgate: &ResgateServer) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", resgate.port()))
            .await
            .expect("Resgate listens");
        let (socket, _) = tokio_tungstenite::client_async(resgate.url(), stream)
            .await
            .expect("Resgate takes a browser");
        let mut browser = Self {
            socket,
            versions: HashMap::new(),
            asked: 0,
        };
        browser.send("version", "{\"protocol\":\"1.2.3\"}").await;
        browser
    }

    async fn send(&mut self, method: &str, params: &str) {
        self.asked += 1;
        let frame = format!("{{\"id\":{},\"method\":\"{method}\",\"params\":{params}}}", self.asked);
        self.socket.send(Message::text(frame)).await.expect("Resgate reads");
    }

    /// Subscribes to a resource, and waits for the answer; it is asked again while there is none yet.
    async fn ask(&mut self, name: &str) {
        loop {
            self.send(&format!("subscribe.{name}"), "null").await;
            let mut answer = self.frame().await;
            while answer["id"] != self.asked {
                answer = self.frame().await;
            }
            if answer["error"].is_null() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn frame(&mut self) -> serde_json::Value {
        loop {
            let message = self
                .socket
                .next()
                .await
                .expect("Resgate lives")
                .expect("the socket lives");
            let Message::Text(text) = message else { continue };
            let frame: serde_json::Value = serde_json::from_str(&text).expect("a frame is JSON");
            for models in [&frame["result"]["models"], &frame["data"]["models"]] {
                for (name, model) in models.as_object().into_iter().flatten() {
                    if let Some(version) = model["version"].as_u64() {
                        self.versions.insert(name.clone(), version);
                    }
                }
            }
            return frame;
        }
    }

    /// Takes a frame, and answers which basket has which version by it.
    async fn next(&mut self) -> Option<(String, u64)> {
        let frame = self.frame().await;
        let name = frame["event"].as_str()?.strip_suffix(".change")?.to_owned();
        let version = frame["data"]["values"]["version"].as_u64()?;
        self.versions.insert(name.clone(), version);
        Some((name, version))
    }

    async fn sees(&mut self, name: &str, version: u64) {
        while self.versions.get(name) != Some(&version) {
            self.next().await;
        }
    }
}
