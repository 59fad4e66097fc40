//! Access: what it costs those who may come, and how soon it ends for those who may not.

use std::time::{Duration, Instant};

use ezout::keys::dev::{self, Grant};
use ezout::nats::User;
use ezout::tools::servers::{ResgateOptions, ResgateServer};
use ezout::views::{Revoked, RevokedUntil, Views};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::apart::Apart;
use crate::events::{ACTIONS, Action, fresh_sessions, shop};
use crate::gateway::Browser;
use crate::ingest::{ROUNDS, add, rate, watched};
use crate::live::{Sent, send};
use crate::load::{Load, Requests};
use crate::meter::{Times, is_longer};
use crate::processors::{Processors, Used};
use crate::service::{Machine, Place, Service};
use crate::slow::SLOW;
use crate::table::{Goal, Row, Table};
use crate::{Plan, fraction};

/// How many are revoked at each door.
const REVOKED: u64 = 150;
/// Questions about a shop of somebody else, and as many about none.
const QUESTIONS: u64 = 1_000;

/// A token of the key pair in that place.
fn token(place: &Place, subject: String, role: &str, shops: &[String]) -> String {
    let grant = Grant {
        subject,
        role: Some(role.to_owned()),
        shops: shops.to_vec(),
        lasts: Duration::from_hours(1),
        ..Grant::default()
    };
    dev::sign(&place.file("keys"), &grant, OffsetDateTime::now_utc()).expect("a token can be signed")
}

/// The options of a service that believes these tokens.
fn options(place: &Place) -> [String; 4] {
    let folder = place
        .file("keys")
        .to_str()
        .expect("the folder's name is a text")
        .to_owned();
    [
        "--auth".to_owned(),
        "dev".to_owned(),
        "--auth-dev-keys".to_owned(),
        folder,
    ]
}

/// A place, and the whole service in it, which asks callers who they are.
async fn asking(machine: &Machine) -> (Place, Service) {
    let place = machine.place().await;
    let options = options(&place);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let service = place.start_with("serve", &options).await;
    (place, service)
}

/// Single events of callers who are asked who they are, each with a token of their own, against the same without.
pub(crate) async fn tokens(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 256;
    let work = format!("ingest, {CONNECTIONS} in flight, each with a token");
    if !plan.wants(&work) {
        return;
    }
    let place = machine.place().await;
    let of_phone = |number| token(&place, format!("phone {number}"), "shopper", &[]);
    let all: Vec<String> = (0..CONNECTIONS).map(of_phone).collect();
    let asking = options(&place);
    let asking: Vec<&str> = asking.iter().map(String::as_str).collect();
    let (mut limit, mut figure) = (None, None);
    let mut used = Used::default();
    for _ in 0..ROUNDS {
        for (options, tokens, side) in [
            (&[][..], Vec::new(), &mut limit),
            (&asking[..], all.clone(), &mut figure),
        ] {
            let service = place.start_with("api", options).await;
            let load = Load {
                address: service.http,
                connections: CONNECTIONS,
                requests: Requests::Singles {
                    from: fresh_sessions(1_000_000) * ACTIONS,
                },
                tokens,
                warm_up: plan.warm_up,
                time: fraction(plan.time, ROUNDS),
                watched: watched(&place, &service),
            };
            let done = load.run().await;
            add(side, done.meter);
            used = done.used;
        }
    }
    let (limit, figure) = (rate(limit.as_ref()), rate(figure.as_ref()));
    table.add(&Row {
        work,
        figure: figure.to_string(),
        limit: limit.alone("without tokens"),
        ratio: figure.per_second / limit.per_second,
        goal: Goal::AtLeast(0.9),
        used,
    });
}

/// Honest senders beside many who hold their connections for as long as they may.
pub(crate) async fn slow_clients(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = format!("500 events/s beside {SLOW} slow connections: POST to answer");
    if !plan.wants(&work) {
        return;
    }
    let time = plan.time * 5;
    let place = machine.place().await;
    let service = place.start("serve").await;
    send(service.http, plan.warm_up, &Sent::default()).await;
    let alone = send(service.http, time, &Sent::default()).await;
    let mut slow = Apart::behind("slow", service.http).await;
    let mut processes = watched(&place, &service);
    processes.push(("slow", vec![slow.id()]));
    let processors = Processors::watch(processes);
    let beside = send(service.http, time, &Sent::default()).await;
    let used = processors.used();
    let open = service.series("ezout_http_connections").await;
    assert!(slow.is_there(), "they went away");
    drop(slow);
    // Some are on their way back at any moment.
    assert!(
        open > u64::from(SLOW) * 3 / 4,
        "only {open} connections were open: {used}"
    );
    table.add(&Row {
        work,
        figure: beside.to_string(),
        limit: format!("{alone} without them"),
        ratio: beside.p99_ms() / alone.p99_ms(),
        goal: Goal::AtMost(3.0),
        used,
    });
}

/// Whether the time of a refusal tells a shop that there is from one that there is not.
pub(crate) async fn denials(machine: &Machine, plan: &Plan, table: &mut Table) {
    /// How far from 0.5 it may be that one takes longer than the other. Of 2 × 1,000 times that nothing tells apart it has a
    /// standard deviation of √(2,001 / 12,000,000) = 0.013, so one of two thousand such runs is beyond it.
    const BOUND: f64 = 0.045;
    let work = "a shop of somebody else: asked to refused";
    if !plan.wants(work) {
        return;
    }
    let (place, service) = asking(machine).await;
    let own = token(&place, "merchant".to_owned(), "merchant", &[shop(1).to_string()]);
    place
        .fill((0..200).map(|number| Action {
            shop: shop(2),
            ..Action::of(fresh_sessions(1), number % ACTIONS)
        }))
        .await;
    let mut stream = TcpStream::connect(service.http).await.expect("the service listens");
    let mut buffer = vec![0; 16 * 1024];
    let mut times = [Times::new(), Times::new()];
    let mut all = [Vec::new(), Vec::new()];
    // Some first that do not count, while caches fill.
    for number in 0..QUESTIONS / 10 + QUESTIONS {
        // One of each, in an order by chance: what comes and goes on the machine meets both alike.
        let first = usize::from(fastrand::bool());
        for kind in [first, 1 - first] {
            let asked = if kind == 0 { shop(2) } else { shop(1_000_000 + number) };
            let request = format!(
                "GET /v1/shops/{asked}/baskets HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {own}\r\n\r\n"
            );
            let begin = Instant::now();
            stream.write_all(request.as_bytes()).await.expect("the service reads");
            let length = stream.read(&mut buffer).await.expect("the service answers");
            let took = begin.elapsed();
            assert!(buffer[..length].starts_with(b"HTTP/1.1 404"), "it was not refused");
            if number >= QUESTIONS / 10 {
                times[kind].add(took);
                all[kind].push(took);
            }
        }
    }
    let [there, nowhere] = &times;
    let longer = is_longer(&all[0], &all[1]);
    table.add(&Row {
        work: work.to_owned(),
        figure: format!("{there}, longer in {:.1} %", longer * 100.0),
        limit: format!("{nowhere} for one that there is not"),
        ratio: (longer - 0.5).abs(),
        goal: Goal::AtMost(BOUND),
        used: Used::default(),
    });
}

/// How long what is open goes on after its token was revoked, at each door.
pub(crate) async fn revocations(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "revoked to the last frame";
    if !plan.wants(work) {
        return;
    }
    let place = machine.place_with_users().await;
    let nats = &place.nats[0];
    let seed = nats.users().expect("it has users").issuer_seed();
    let door = nats.url_of(User::Door);
    let options = options(&place);
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    options.extend(["--nats-door-url", &door, "--nats-issuer-seed", &seed]);
    let service = place.start_with("serve", &options).await;
    let views = Views::to_look_at(&place.views()).await.expect("the URI is well formed");

    let mut times = Times::new();
    for (subject, mut stream) in streams(&place, &service).await {
        let begin = Instant::now();
        views
            .revoke(&Revoked::Subject(subject), RevokedUntil::Lifted, "the benchmark")
            .await
            .expect("it is revoked");
        let (mut buffer, mut text) = (vec![0; 16 * 1024], String::new());
        while !text.contains("\"reason\":\"revoked\"") {
            let length = stream.read(&mut buffer).await.expect("the stream ends in order");
            assert!(length > 0, "the stream ended without a reason");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        times.add(begin.elapsed());
    }
    table.add(&revoked(work, "a live stream", &times));

    if let Some(program) = &machine.binaries.resgate {
        let options = ResgateOptions::in_folder(&place.file("resgate"), nats.url_of(User::Resgate));
        let resgate = ResgateServer::start(program, options).await.expect("Resgate starts");
        let mut browsers = Vec::new();
        for number in 0..REVOKED {
            let (subject, token) = merchant(&place, "browser", number);
            let list = format!("ezout.shop.{}.baskets", shop(number % 10));
            let browser = Browser::subscribe_as(&resgate, &token, &list).await;
            browsers.push((subject, list, browser));
        }
        let mut times = Times::new();
        for (subject, list, mut browser) in browsers {
            let begin = Instant::now();
            views
                .revoke(&Revoked::Subject(subject), RevokedUntil::Lifted, "the benchmark")
                .await
                .expect("it is revoked");
            browser.loses(&list).await;
            times.add(begin.elapsed());
        }
        table.add(&revoked(work, "a browser behind Resgate", &times));
        resgate.stop().await;
    } else {
        println!("NOT MEASURED: {work} of a browser: there is no resgate on PATH\n");
    }

    let mut watchers = Vec::new();
    for number in 0..REVOKED {
        let (subject, token) = merchant(&place, "watcher", number);
        watchers.push((
            subject,
            Watcher::connect(&nats.url(), token, shop(number % 10).to_string()).await,
        ));
    }
    let mut times = Times::new();
    for (subject, mut watcher) in watchers {
        let begin = Instant::now();
        views
            .revoke(&Revoked::Subject(subject), RevokedUntil::Lifted, "the benchmark")
            .await
            .expect("it is revoked");
        watcher.lost.wait_for(|lost| *lost).await.expect("it is told");
        times.add(begin.elapsed());
    }
    table.add(&revoked(work, "a watcher of NATS", &times));
}

fn revoked(work: &str, whose: &str, times: &Times) -> Row {
    Row {
        work: format!("{work} of {whose}, one by one of {REVOKED}"),
        figure: times.to_string(),
        limit: "1 s".to_owned(),
        ratio: times.p99_ms() / 1_000.0,
        goal: Goal::AtMost(1.0),
        used: Used::default(),
    }
}

/// A merchant of one of ten shops: who it is, and its token.
fn merchant(place: &Place, kind: &str, number: u64) -> (String, String) {
    let subject = format!("{kind} {number}");
    let token = token(place, subject.clone(), "merchant", &[shop(number % 10).to_string()]);
    (subject, token)
}

async fn streams(place: &Place, service: &Service) -> Vec<(String, TcpStream)> {
    let mut streams = Vec::new();
    for number in 0..REVOKED {
        let (subject, token) = merchant(place, "viewer", number);
        let mut stream = TcpStream::connect(service.http).await.expect("the service listens");
        let request = format!(
            "GET /v1/shops/{}/updates HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n",
            shop(number % 10)
        );
        stream.write_all(request.as_bytes()).await.expect("the service reads");
        streams.push((subject, stream));
    }
    streams
}

/// Somebody who watches a shop at NATS itself.
struct Watcher {
    _client: async_nats::Client,
    lost: watch::Receiver<bool>,
}

impl Watcher {
    async fn connect(url: &str, token: String, shop: String) -> Self {
        let (lose, lost) = watch::channel(false);
        let client = async_nats::ConnectOptions::new()
            .token(token)
            .max_reconnects(1)
            .event_callback(move |event| {
                if matches!(event, async_nats::Event::Disconnected | async_nats::Event::Closed) {
                    lose.send_replace(true);
                }
                std::future::ready(())
            })
            .connect(url)
            .await
            .expect("the watcher is let in");
        let hears = client.subscribe(format!("updates.store.{shop}")).await;
        hears.expect("it listens");
        client.flush().await.expect("the server is there");
        Self { _client: client, lost }
    }
}
