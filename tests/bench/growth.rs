//! What everything costs while the system grows: the same questions at a hundredth, a tenth, and all of the sessions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream::Stream};
use ezout::core::id::{ShopId, partition_of};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Plan;
use crate::events::{ACTIONS, Action, fresh_sessions, shop};
use crate::history::{costs, row};
use crate::load::Connection;
use crate::meter::{Times, as_float};
use crate::processors::{Processors, Used, resident_bytes};
use crate::service::{Machine, Place, Service};
use crate::table::{Goal, Row, Table};

/// Shops; at any time each has one visit.
const SHOPS: u64 = 1_000;
/// As many as the journal has.
const PARTITIONS: u16 = 16;
/// How often each question is asked at each size, of random sessions.
const ASKED: u64 = 1_000;
/// Questions before those that count.
const WARM_UP: u64 = 100;
/// How much dearer anything may become.
const GROWTH_MAX: f64 = 1.5;

/// The questions, and the time of each.
const QUESTIONS: [Question; 6] = [
    Question::Basket,
    Question::Page,
    Question::Summary,
    Question::History,
    Question::Past,
    Question::Resume,
];

#[derive(Debug, Clone, Copy)]
enum Question {
    Basket,
    Page,
    Summary,
    History,
    Past,
    Resume,
}

impl Question {
    fn word(self) -> &'static str {
        match self {
            Self::Basket => "a basket",
            Self::Page => "a page of 10 baskets",
            Self::Summary => "a shop's summary",
            Self::History => "a visit's history",
            Self::Past => "a basket of the past",
            Self::Resume => "a viewer resumes",
        }
    }
}

/// Sessions there are, the first of which has that number.
struct Sessions {
    first: u64,
    count: u64,
}

impl Sessions {
    /// The action of that number in the order of the journal, from the session of that number on.
    fn action(&self, from: u64, number: u64) -> Action {
        let (round, in_round) = (number / (SHOPS * ACTIONS), number % (SHOPS * ACTIONS));
        let session = from + round * SHOPS + in_round % SHOPS;
        self.of(session, in_round / SHOPS)
    }

    /// The last action of a visit is its payment.
    fn of(&self, session: u64, number: u64) -> Action {
        Action {
            shop: shop(session % SHOPS),
            pays: number == ACTIONS - 1,
            ..Action::of(self.first + session, number)
        }
    }
}

/// What was measured at the smallest size, to which the others are compared.
#[derive(Default)]
struct First {
    appended: Option<f64>,
    projected: Option<f64>,
    rebuilt: Option<f64>,
    asked: Vec<f64>,
}

pub(crate) async fn growth(machine: &Machine, plan: &Plan, table: &mut Table) {
    let work = "growth";
    // It takes so long that it is only done by itself.
    if plan.only != [work] {
        return;
    }
    let all = plan.sessions;
    assert!(
        all.is_multiple_of(100 * SHOPS),
        "the sessions are so many times {}",
        100 * SHOPS
    );
    let mut place = machine.place().await;
    let nats_empty = resident_bytes(place.nats_ids()[0], false);
    let mut sessions = Sessions {
        first: fresh_sessions(all),
        count: 0,
    };
    let mut first = First::default();
    for size in [all / 100, all / 10, all] {
        let name = format!("{work}, {size} sessions");
        let (before, events) = (sessions.count, (size - sessions.count) * ACTIONS);
        let filled = place.fill((0..events).map(|n| sessions.action(before, n))).await;
        let nats_filled = resident_bytes(place.nats_ids()[0], false);
        let service = place.spawn("serve");
        let processors = Processors::watch(watched(machine, &place, &service));
        let projected = service.projected(events).await;
        let used = processors.used();
        sessions.count = size;
        let a_second = |count: u64, time: Duration| as_float(count) / time.as_secs_f64();
        rate_row(
            table,
            format!("{name}: appended"),
            a_second(events, filled),
            &mut first.appended,
            Used::default(),
        );
        rate_row(
            table,
            format!("{name}: projected"),
            a_second(events, projected),
            &mut first.projected,
            used,
        );
        let nats_projected = resident_bytes(place.nats_ids()[0], false);
        costs(&place, &name, size, [nats_empty, nats_filled, nats_projected], table).await;
        for (number, question) in QUESTIONS.into_iter().enumerate() {
            let times = ask(&place, service.http, &sessions, question).await;
            let limit = *first.asked.get(number).unwrap_or(&times.p50_ms());
            if first.asked.len() == number {
                first.asked.push(limit);
            }
            table.add(&Row {
                work: format!("{name}: {}", question.word()),
                figure: times.to_string(),
                limit: format!("p50 {limit:.2} ms at the smallest"),
                ratio: times.p50_ms() / limit,
                goal: match question {
                    // What is paid today is summed up, and of that there is more.
                    Question::Summary => Goal::None,
                    _ => Goal::AtMost(GROWTH_MAX),
                },
                used: Used::default(),
            });
        }
        let rebuilt = place.rebuild().await;
        rate_row(
            table,
            format!("{name}: rebuilt"),
            a_second(size * ACTIONS, rebuilt),
            &mut first.rebuilt,
            Used::default(),
        );
        let megabytes = |id: u32| as_float(resident_bytes(id, false)) / 1e6;
        row(
            table,
            format!("{name}: memory"),
            format!(
                "ezout {:.0}, mongod {:.0} MB",
                megabytes(service.id()),
                megabytes(machine.mongod())
            ),
            format!("NATS {:.0} MB", megabytes(place.nats_ids()[0])),
        );
        restart(&mut place, service, &name, table).await;
    }
}

fn watched(machine: &Machine, place: &Place, service: &Service) -> crate::processors::Watched {
    vec![
        ("nats", place.nats_ids()),
        ("mongod", vec![machine.mongod()]),
        ("ezout", vec![service.id()]),
    ]
}

/// A rate, which may be so much lower than at the smallest size.
fn rate_row(table: &mut Table, work: String, rate: f64, first: &mut Option<f64>, used: Used) {
    let smallest = *first.get_or_insert(rate);
    table.add(&Row {
        work,
        figure: format!("{rate:>7.0} events/s"),
        limit: format!("{smallest:>7.0} events/s at the smallest"),
        ratio: smallest / rate,
        goal: Goal::AtMost(GROWTH_MAX),
        used,
    });
}

/// How long NATS after a kill and then the service take from their start until they serve.
async fn restart(place: &mut Place, service: Service, name: &str, table: &mut Table) {
    drop(service);
    let begin = Instant::now();
    place.nats[0].restart().await.expect("nats-server starts again");
    let nats = begin.elapsed();
    let begin = Instant::now();
    drop(place.start("serve").await);
    let service = begin.elapsed();
    row(
        table,
        format!("{name}: started again"),
        format!("ezout {:.2} s", service.as_secs_f64()),
        format!("NATS {:.2} s", nats.as_secs_f64()),
    );
}

async fn ask(place: &Place, address: SocketAddr, sessions: &Sessions, question: Question) -> Times {
    let updates = jetstream::new(place.client().await)
        .get_stream(ezout::updates::STREAM)
        .await;
    let updates = updates.expect("the updates are there");
    let mut random = fastrand::Rng::with_seed(11);
    let mut connection = Connection::open(address).await;
    let mut times = Times::new();
    let mut paths = Vec::new();
    for _ in 0..WARM_UP + ASKED {
        let Action { shop, session, .. } = sessions.of(random.u64(0..sessions.count), 0);
        let visit = format!("/v1/shops/{shop}/sessions/{session}");
        let path = match question {
            Question::Basket => format!("{visit}/basket"),
            Question::Page => format!("/v1/shops/{shop}/baskets?limit=10"),
            Question::Summary => format!("/v1/shops/{shop}/summary"),
            Question::History => format!("{visit}/events"),
            Question::Past => {
                let history: Value = read(&connection.get(&format!("{visit}/events")).await);
                let events = history["events"].as_array().expect("it has events");
                let middle = &events[events.len() / 2]["sequence"];
                format!("{visit}/basket?sequence={middle}")
            }
            Question::Resume => format!("/v1/shops/{shop}/updates"),
        };
        paths.push((shop, path));
    }
    for (number, (shop, path)) in (0..).zip(paths) {
        let missed = match question {
            Question::Resume => Some(Missed::of(&updates, shop).await),
            _ => None,
        };
        let begin = Instant::now();
        if let Some(missed) = missed {
            missed.resume(address, &path).await;
        } else {
            connection.get(&path).await;
        }
        if number >= WARM_UP {
            times.add(begin.elapsed());
        }
    }
    times
}

fn read(answer: &str) -> Value {
    serde_json::from_str(answer).expect("an answer is JSON")
}

/// Places in the stream of updates: where a viewer was who missed the last few of its shop, and the last of them.
struct Missed {
    after: String,
    last: u64,
}

impl Missed {
    async fn of(updates: &Stream, shop: ShopId) -> Self {
        let subject = format!("upd.{}.{shop}", partition_of(shop, PARTITIONS));
        let last = updates.direct_get_last_for_subject(subject.as_str()).await;
        let last = last.expect("the shop has updates").sequence;
        let some_before = last.saturating_sub(SHOPS * ACTIONS / 2).max(1);
        let seen = updates.direct_get_next_for_subject(subject, Some(some_before)).await;
        let seen = seen.expect("the shop has updates");
        let sequence = seen.headers.get("Ezout-Sequence").expect("each update has it");
        Self {
            after: format!("{}-{sequence}", seen.sequence),
            last,
        }
    }

    /// Comes back, and returns when all that was missed is there.
    async fn resume(self, address: SocketAddr, path: &str) {
        let mut stream = TcpStream::connect(address).await.expect("the service listens");
        let request = format!("GET {path}?after={} HTTP/1.1\r\nhost: localhost\r\n\r\n", self.after);
        stream.write_all(request.as_bytes()).await.expect("the service reads");
        let (mut text, end) = (Vec::new(), format!("id: {}-", self.last));
        while !text.windows(end.len()).any(|part| part == end.as_bytes()) {
            let length = stream.read_buf(&mut text).await.expect("the service answers");
            assert!(length > 0, "the service closed a connection");
        }
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("\"recovered\":true"), "it missed something: {text}");
    }
}
