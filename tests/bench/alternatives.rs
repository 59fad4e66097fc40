//! What one would take instead, in the same run: the service that stood here before, and the plain way to build this.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ezout::tools::servers::{NatsServer, free_port};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::apart::Apart;
use crate::events::{ACTIONS, Action, fresh_sessions};
use crate::ingest::{ROUNDS, add, rate, watched};
use crate::load::{Load, Requests};
use crate::meter::{Rate, as_float};
use crate::plain;
use crate::processors::{Used, Watched};
use crate::service::{Machine, Place};
use crate::table::{Goal, Row, Table};
use crate::{Plan, fraction};

/// Longest that something takes to start.
const PATIENCE: Duration = Duration::from_secs(30);

fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port().expect("a port is free")).into()
}

fn load(plan: &Plan, address: SocketAddr, connections: usize, watched: Watched) -> Load {
    Load {
        address,
        connections,
        requests: Requests::Singles {
            from: fresh_sessions(1_000_000) * ACTIONS,
        },
        tokens: Vec::new(),
        warm_up: plan.warm_up,
        time: fraction(plan.time, ROUNDS),
        watched,
    }
}

/// Where a side of a comparison is, and whose use of the processors is measured.
type Side = (SocketAddr, Watched);

/// Single events sent to one and to the other in turns: what each came to, and who used the processors for ours.
async fn in_turns(plan: &Plan, connections: usize, theirs: Side, ours: Side) -> (Rate, Rate, Used) {
    let (mut limit, mut figure) = (None, None);
    let mut used = Used::default();
    for _ in 0..ROUNDS {
        let done = load(plan, theirs.0, connections, theirs.1.clone()).run().await;
        add(&mut limit, done.meter);
        let done = load(plan, ours.0, connections, ours.1.clone()).run().await;
        add(&mut figure, done.meter);
        used = done.used;
    }
    (rate(limit.as_ref()), rate(figure.as_ref()), used)
}

/// How the original service is run: as it was, or as fast as its parts of today allow, in which it tells nobody of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    AsItWas,
    AtItsBest,
}

impl Way {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::AsItWas => &["--http", "h11", "--loop", "asyncio"],
            Self::AtItsBest => &["--http", "httptools", "--loop", "uvloop", "--no-access-log"],
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::AsItWas => "the original",
            Self::AtItsBest => "the original with uvloop and httptools",
        }
    }
}

/// The original service, by `FastAPI` and nats-py, which store nothing.
struct Original {
    process: Child,
    address: SocketAddr,
}

impl Original {
    async fn start(nats: &NatsServer, way: Way) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = root.join(".servers/bin/uvicorn");
        let address = free();
        let mut process = Command::new(program)
            .args(["service:app", "--app-dir"])
            .arg(root.join("tests/original"))
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(way.arguments())
            .env("NATS_URL", nats.url())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let begin = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if begin.elapsed() > PATIENCE || process.try_wait().ok()?.is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(Self { process, address })
    }
}

/// Single events against the original service.
pub(crate) async fn original(machine: &Machine, plan: &Plan, table: &mut Table) {
    // Its answer says that the update was published, which is more than `api` does by itself: `serve` does that as well.
    let work = |role, connections, way: Way| format!("ingest, {connections} in flight, {role} and {}", way.words());
    let wanted = [
        ("api", 64, Way::AsItWas, Goal::None),
        ("api", 256, Way::AsItWas, Goal::AtLeast(10.0)),
        ("serve", 256, Way::AsItWas, Goal::None),
        ("api", 256, Way::AtItsBest, Goal::None),
        ("serve", 256, Way::AtItsBest, Goal::None),
    ];
    for (role, connections, way, goal) in wanted {
        let work = work(role, connections, way);
        if !plan.wants(&work) {
            continue;
        }
        let lazy = machine.nats(false).await;
        let Some(original) = Original::start(&lazy, way).await else {
            println!("NOT MEASURED: {work}; `servers/install --with-original` brings the original service\n");
            continue;
        };
        let place = machine.place().await;
        let service = place.start(role).await;
        let id = original.process.id().expect("it runs");
        let theirs = (original.address, vec![("original", vec![id])]);
        let ours = (service.http, watched(&place, &service));
        let (limit, figure, used) = in_turns(plan, connections, theirs, ours).await;
        table.add(&Row {
            work,
            figure: figure.to_string(),
            limit: format!("{limit} FastAPI, one worker, stores nothing"),
            ratio: figure.per_second / limit.per_second,
            goal,
            used,
        });
    }
}

/// Single events, and the way into baskets, against the plain way to build both.
pub(crate) async fn plainly(machine: &Machine, plan: &Plan, table: &mut Table) {
    const CONNECTIONS: usize = 256;
    let ingest = format!("ingest, {CONNECTIONS} in flight, and the plain way");
    let (events, few) = (plan.backlog(), plan.backlog() / 5);
    let projection = format!("projection, backlog of {events} events, and the plain way");
    if plan.wants(&ingest) {
        let (plainly, place) = (machine.nats(true).await, machine.place().await);
        let address = free();
        let api = Apart::beside("plain-api", &[&address.to_string(), &plainly.url()]).await;
        let service = place.start("api").await;
        let theirs = (address, vec![("plain", vec![api.id()])]);
        let ours = (service.http, watched(&place, &service));
        let (limit, figure, used) = in_turns(plan, CONNECTIONS, theirs, ours).await;
        table.add(&Row {
            work: ingest,
            figure: figure.to_string(),
            limit: format!("{limit} published one by one"),
            ratio: figure.per_second / limit.per_second,
            goal: Goal::None,
            used,
        });
    }
    if plan.wants(&projection) {
        let place = machine.place().await;
        let sessions = events / ACTIONS;
        let first = fresh_sessions(sessions);
        let all = || (0..events).map(|n| Action::of(first + n % sessions, n / sessions));
        place.fill(all()).await;
        let service = place.spawn("project");
        let ours = service.projected(events).await;
        drop(service);
        // One by one a part of them takes long enough.
        let theirs = project_plainly(machine, &place, all().take(usize::try_from(few).unwrap_or(usize::MAX))).await;
        let a_second = |events: u64, time: Duration| as_float(events) / time.as_secs_f64();
        table.add(&Row {
            work: projection,
            figure: format!("{:>7.0} events/s", a_second(events, ours)),
            limit: format!("{:>7.0} events/s upserted one by one", a_second(few, theirs)),
            ratio: a_second(events, ours) / a_second(few, theirs),
            goal: Goal::None,
            used: Used::default(),
        });
    }
}

async fn project_plainly(machine: &Machine, place: &Place, all: impl Iterator<Item = Action>) -> Duration {
    let nats = machine.nats(true).await;
    let url = nats.url();
    plain::fill(&url, all).await;
    let views = place.views();
    let mut projector = Apart::beside("plain-project", &[&url, &views.uri, &views.database]).await;
    let begin = Instant::now();
    plain::all_consumed(&url, &mut projector).await;
    begin.elapsed()
}
