//! The service and its servers as real processes with data of their own, stopped when they are dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ezout::journal::{Config, Journal, Spread, State};
use ezout::metrics::Metrics;
use ezout::nats::User;
use ezout::tools::servers::{
    Binaries, BinaryOptions, Mongod, MongodOptions, NatsOptions, NatsServer, NatsUsers, free_port,
};
use futures::stream::{self, StreamExt as _};
use mongodb::Database;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Action;

/// Long enough for a busy machine; nothing takes it that works.
const PATIENCE: Duration = Duration::from_mins(2);
/// Longer than any step takes: whoever has projected nothing for so long has nothing to project.
const QUIET: Duration = Duration::from_secs(20);
/// Events on their way to the journal while a backlog is made.
const BACKLOG_IN_FLIGHT: usize = 2_000;

/// What all measurements share: the programs, and one mongod, in which each has a database of its own.
pub(crate) struct Machine {
    pub(crate) binaries: Binaries,
    mongod: Mongod,
    folder: TempDir,
}

impl Machine {
    /// Starts it with so many gigabytes of cache, or the usual ones.
    pub(crate) async fn start(cache_gb: Option<f64>) -> Self {
        let binaries = Binaries::find(&BinaryOptions::from_environment()).expect("the bench needs both servers");
        let folder = on_disk();
        let mut options = MongodOptions::in_folder(&folder.path().join("mongod"));
        options.cache_gb = cache_gb.unwrap_or(options.cache_gb);
        let mongod = Mongod::start(&binaries.mongod, options).await.expect("mongod starts");
        Self {
            binaries,
            mongod,
            folder,
        }
    }

    /// The process id of mongod.
    pub(crate) fn mongod(&self) -> u32 {
        self.mongod.pid()
    }

    /// The servers' versions, in a few words.
    pub(crate) async fn versions(&self) -> String {
        let said = Command::new(&self.binaries.nats_server).arg("--version").output();
        let nats = String::from_utf8_lossy(&said.expect("nats-server says its version").stdout)
            .trim()
            .to_owned();
        let built = self.admin().await.run_command(bson::doc! { "buildInfo": 1 }).await;
        let built = built.expect("mongod answers");
        format!("{nats}, mongod {}", built.get_str("version").unwrap_or("?"))
    }

    /// The administrators' database.
    pub(crate) async fn admin(&self) -> Database {
        connect(&self.mongod.uri()).await.database("admin")
    }

    /// One new nats-server, which syncs before it acknowledges or does not.
    pub(crate) async fn nats(&self, sync_always: bool) -> NatsServer {
        let options = NatsOptions {
            sync_always,
            ..NatsOptions::in_folder(&self.new_folder())
        };
        NatsServer::start(&self.binaries.nats_server, options)
            .await
            .expect("nats-server starts")
    }

    /// A place for the service with one new nats-server.
    pub(crate) async fn place(&self) -> Place {
        self.place_with(vec![self.nats(true).await]).await
    }

    /// A place for the service with one new nats-server, at which each part has a user of its own.
    pub(crate) async fn place_with_users(&self) -> Place {
        let folder = self.new_folder();
        let options = NatsOptions {
            users: Some(NatsUsers::open(&folder).expect("passwords can be made")),
            ..NatsOptions::in_folder(&folder)
        };
        let nats = NatsServer::start(&self.binaries.nats_server, options).await;
        self.place_with(vec![nats.expect("nats-server starts")]).await
    }

    /// A place for the service with a new cluster of three.
    pub(crate) async fn place_of_three(&self) -> Place {
        let servers = NatsServer::start_cluster(&self.binaries.nats_server, &self.new_folder()).await;
        self.place_with(servers.expect("the cluster starts").into()).await
    }

    async fn place_with(&self, nats: Vec<NatsServer>) -> Place {
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let mongodb_uri = self.mongod.uri();
        Place {
            database: connect(&mongodb_uri).await.database(&name),
            mongodb_uri,
            log: self.folder.path().join(format!("{name}.log")),
            nats,
        }
    }

    fn new_folder(&self) -> std::path::PathBuf {
        self.folder
            .path()
            .join(format!("nats_{}", uuid::Uuid::new_v4().simple()))
    }
}

/// A folder on a disk: in memory, syncing would cost nothing.
fn on_disk() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made below target")
}

async fn connect(uri: &str) -> mongodb::Client {
    mongodb::Client::with_uri_str(uri)
        .await
        .expect("the URI is well formed")
}

/// A journal and a database that nothing has been put into.
pub(crate) struct Place {
    pub(crate) nats: Vec<NatsServer>,
    pub(crate) database: Database,
    mongodb_uri: String,
    log: std::path::PathBuf,
}

impl Place {
    /// Process ids of its nats-servers.
    pub(crate) fn nats_ids(&self) -> Vec<u32> {
        self.nats.iter().map(NatsServer::pid).collect()
    }

    /// A client of its first nats-server.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.nats[0].url())
            .await
            .expect("nats-server listens")
    }

    /// Appends events to the journal, in this order, before the service is there; answers how long that took once the
    /// journal was open.
    pub(crate) async fn fill(&self, actions: impl Iterator<Item = Action>) -> Duration {
        self.fill_spread(Spread::ONE, actions).await
    }

    /// The same in a journal of so many streams.
    pub(crate) async fn fill_spread(&self, streams: Spread, actions: impl Iterator<Item = Action>) -> Duration {
        let config = Config {
            nats_url: self.nats[0].url(),
            monitor_urls: self.nats.iter().map(NatsServer::monitor_url).collect(),
            replicas: self.nats.len(),
            partitions: 16,
            streams,
            append_queue: 2 * BACKLOG_IN_FLIGHT,
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let journal = Journal::start(config, Arc::new(Metrics::new()), &tasks, stop.clone())
            .await
            .expect("the address is well formed");
        let mut state = journal.state();
        let open = state.wait_for(|state| matches!(state, State::Open(_)));
        let _ = tokio::time::timeout(PATIENCE, open)
            .await
            .expect("the journal opens")
            .expect("it is kept open");
        let begin = Instant::now();
        stream::iter(actions)
            .map(|action| journal.append(action.entry()))
            .buffered(BACKLOG_IN_FLIGHT)
            .for_each(async |appended| {
                appended.expect("the event is appended");
            })
            .await;
        let took = begin.elapsed();
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        took
    }

    /// Where its views are.
    pub(crate) fn views(&self) -> ezout::views::Config {
        ezout::views::Config {
            uri: self.mongodb_uri.clone(),
            database: self.database.name().to_owned(),
        }
    }

    /// Starts the service in a role, and waits until it is ready.
    pub(crate) async fn start(&self, role: &str) -> Service {
        self.start_with(role, &[]).await
    }

    /// The same with more options.
    pub(crate) async fn start_with(&self, role: &str, options: &[&str]) -> Service {
        let service = self.spawn_with(role, options);
        service.ready().await;
        service
    }

    /// Runs a command against its servers, and answers how long that took.
    pub(crate) async fn run(&self, words: &[&str]) -> Duration {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ezout"));
        command
            .args(words)
            .args(["--nats-url", &self.nats[0].url()])
            .args(["--nats-monitor-url", &self.nats[0].monitor_url()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begin = Instant::now();
        let ended = tokio::task::spawn_blocking(move || command.status()).await;
        let status = ended.expect("it is waited for").expect("the command starts");
        assert!(status.success(), "{words:?} failed");
        begin.elapsed()
    }

    /// Folds all baskets anew, and answers how long that took with the comparison.
    pub(crate) async fn rebuild(&self) -> Duration {
        self.run_on_both(&["rebuild"]).await
    }

    /// Runs a command that needs MongoDB as well, and answers how long that took.
    pub(crate) async fn run_on_both(&self, words: &[&str]) -> Duration {
        let views = [
            "--mongodb-uri",
            &self.mongodb_uri,
            "--mongodb-database",
            self.database.name(),
        ];
        self.run(&[words, &views].concat()).await
    }

    /// A file in a folder that is removed at the end.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.log.with_file_name(name)
    }

    /// Starts the service in a role.
    pub(crate) fn spawn(&self, role: &str) -> Service {
        self.spawn_with(role, &[])
    }

    /// The same with more options.
    pub(crate) fn spawn_with(&self, role: &str, options: &[&str]) -> Service {
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port is free")));
        let (http, admin) = (port(), port());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log can be written");
        let monitors: Vec<String> = self.nats.iter().map(NatsServer::monitor_url).collect();
        let child = Command::new(env!("CARGO_BIN_EXE_ezout"))
            .args([
                role,
                "--nats-url",
                &self.nats[0].url_of(User::of(role).expect("each role has a user")),
                "--nats-monitor-url",
                &monitors.join(","),
            ])
            .args(["--nats-replicas", &self.nats.len().to_string()])
            .args([
                "--mongodb-uri",
                &self.mongodb_uri,
                "--mongodb-database",
                self.database.name(),
            ])
            .args(["--http-addr", &http.to_string(), "--admin-addr", &admin.to_string()])
            // A few shops have to do what thousands do elsewhere.
            .args(["--rate-shop", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the service starts");
        Service {
            child,
            http,
            admin,
            client: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client without TLS can be built"),
            log: self.log.clone(),
        }
    }
}

/// The service as a process. Dropping it kills it.
pub(crate) struct Service {
    child: Child,
    /// Address of the API.
    pub(crate) http: SocketAddr,
    admin: SocketAddr,
    client: reqwest::Client,
    log: std::path::PathBuf,
}

impl Service {
    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the service says that it is ready.
    pub(crate) async fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.get(format!("http://{}/readyz", self.admin)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the service is not ready; its log:\n{}",
                tail(&self.log)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A series of the service now; 0 while the service does not answer.
    pub(crate) async fn series(&self, name: &str) -> u64 {
        let text = self.metrics().await.unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Events in the journal that are not in the views yet; nothing while the service does not answer.
    async fn waiting(&self) -> Option<u64> {
        let text = self.metrics().await?;
        let series = text
            .lines()
            .filter(|line| line.starts_with("ezout_projection_lag_events{"));
        let events = series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Some(events.sum())
    }

    async fn metrics(&self) -> Option<String> {
        let asked = self.client.get(format!("http://{}/metrics", self.admin)).send().await;
        asked.ok()?.text().await.ok()
    }

    /// Waits until that many events are in their baskets and told of, and answers how long that took from the first one on.
    ///
    /// Those of a step that was cut off after its write are not counted again, so it is also enough that hardly any is
    /// missing and none waits.
    pub(crate) async fn projected(&self, events: u64) -> Duration {
        let (mut begin, mut moved) = (Instant::now(), Instant::now());
        let mut before = 0;
        loop {
            let now = Instant::now();
            match self.series("ezout_projected_events_total{outcome=\"counted\"}").await {
                0 => begin = now,
                all if all >= events => return begin.elapsed(),
                all if all > before => (before, moved) = (all, now),
                all if all >= events - events / 100 && moved.elapsed() > QUIET && self.waiting().await == Some(0) => {
                    return moved - begin;
                }
                _ => {}
            }
            assert!(
                moved.elapsed() < PATIENCE,
                "the events are not projected; the log of the service:\n{}",
                tail(&self.log)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
