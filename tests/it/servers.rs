//! The launcher: real servers that start, crash, come back with their data, and are never left behind.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use bson::doc;
use ezout::tools::{
    dev,
    servers::{
        Binaries, BinaryOptions, Mongod, MongodOptions, NatsOptions, NatsServer, ResgateOptions, ResgateServer,
        ServersError, free_port, is_free,
    },
};
use mongodb::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::resgate;

/// Long enough for a busy machine; nothing takes it that works.
const PATIENCE: Duration = Duration::from_mins(1);

fn binaries() -> Binaries {
    Binaries::find(&BinaryOptions::from_environment()).expect("the tests need both servers")
}

#[test]
fn a_program_that_is_too_old_or_absent_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let old = folder.path().join("nats-server");
    fs::write(&old, "#!/bin/sh\necho nats-server: v2.9.10\n").unwrap();
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let absent = folder.path().join("mongod");

    let check = |options: BinaryOptions, expect: &[&str]| {
        let message = Binaries::find(&options).unwrap_err().to_string();
        assert!(expect.iter().all(|part| message.contains(part)), "{message}");
    };
    let named = BinaryOptions::from_environment();
    check(
        BinaryOptions {
            nats_server_bin: Some(old),
            ..named.clone()
        },
        &["EZOUT_NATS_SERVER_BIN", "2.9", "2.12"],
    );
    check(
        BinaryOptions {
            mongod_bin: Some(absent.clone()),
            ..named.clone()
        },
        &["EZOUT_MONGOD_BIN", "cannot be run"],
    );
    check(
        BinaryOptions {
            resgate_bin: Some(absent),
            ..named
        },
        &["EZOUT_RESGATE_BIN", "cannot be run"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_keeps_what_it_acknowledged_through_kill_and_restart() {
    let folder = TempDir::new().unwrap();
    let mut server = NatsServer::start(&binaries().nats_server, NatsOptions::in_folder(folder.path()))
        .await
        .unwrap();
    let url = server.url();

    let jetstream = jetstream::new(async_nats::connect(&url).await.unwrap());
    let config = jetstream::stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    for _ in 0..10 {
        publish(&jetstream).await.unwrap();
    }
    let first = server.pid();
    server.kill().await;
    assert!(is_free(server.port()));

    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), first);
    let jetstream = jetstream::new(async_nats::connect(&url).await.unwrap());
    assert_eq!(
        jetstream.get_stream("S").await.unwrap().cached_info().state.messages,
        10
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_flushes_before_it_acknowledges_unless_a_benchmark_says_otherwise() {
    let binary = binaries().nats_server;
    for sync_always in [true, false] {
        let folder = TempDir::new().unwrap();
        let options = NatsOptions {
            sync_always,
            ..NatsOptions::in_folder(folder.path())
        };
        let server = NatsServer::start(&binary, options).await.unwrap();
        let answer = reqwest::get(format!("{}/varz", server.monitor_url())).await.unwrap();
        let varz: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(
            varz["jetstream"]["config"]["sync_always"].as_bool().unwrap_or(false),
            sync_always
        );
    }
}

async fn publish(jetstream: &jetstream::Context) -> Result<(), jetstream::context::PublishError> {
    jetstream.publish("s.a", "x".into()).await?.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_stores_on_three_and_survives_one() {
    let folder = TempDir::new().unwrap();
    let mut servers = NatsServer::start_cluster(&binaries().nats_server, folder.path())
        .await
        .unwrap();
    let urls = servers.each_ref().map(NatsServer::url);
    let jetstream = jetstream::new(async_nats::connect(&urls[..]).await.unwrap());
    let config = jetstream::stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        num_replicas: 3,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    publish(&jetstream).await.unwrap();

    // Whichever server led the stream, it goes on with two, and the third finds its place again.
    for server in &mut servers {
        server.kill().await;
        let begin = Instant::now();
        while let Err(error) = publish(&jetstream).await {
            assert!(begin.elapsed() < PATIENCE, "two of three do not suffice: {error}");
        }
        server.restart().await.unwrap();
    }
    let stored = jetstream.get_stream("S").await.unwrap().cached_info().state.messages;
    assert!(stored >= 4, "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mongod_keeps_its_data_through_kill_and_when_its_port_changes() {
    let folder = TempDir::new().unwrap();
    let binary = binaries().mongod;
    let mut mongod = Mongod::start(&binary, MongodOptions::in_folder(folder.path()))
        .await
        .unwrap();
    let baskets = |client: &Client| client.database("test").collection::<bson::Document>("baskets");

    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    baskets(&client).insert_one(doc! { "_id": 1 }).await.unwrap();
    mongod.kill().await;
    mongod.restart().await.unwrap();
    baskets(&client).insert_one(doc! { "_id": 2 }).await.unwrap();
    let old_port = mongod.port();
    mongod.stop().await;

    let mongod = Mongod::start(&binary, MongodOptions::in_folder(folder.path()))
        .await
        .unwrap();
    assert_ne!(mongod.port(), old_port);
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    assert_eq!(baskets(&client).count_documents(doc! {}).await.unwrap(), 2);
    // A change stream needs a primary of a set.
    baskets(&client).watch().await.unwrap();
    mongod.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said_in_the_servers_own_words() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
    let port = Some(taken.local_addr().unwrap().port());
    let programs = binaries();

    let options = NatsOptions {
        port,
        ..NatsOptions::in_folder(folder.path())
    };
    let error = NatsServer::start(&programs.nats_server, options).await.unwrap_err();
    assert!(
        matches!(
            error,
            ServersError::Exited {
                name: "nats-server",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("address already in use"), "{error}");

    let options = MongodOptions {
        port,
        ..MongodOptions::in_folder(&folder.path().join("mongod"))
    };
    let error = Mongod::start(&programs.mongod, options).await.unwrap_err();
    assert!(matches!(error, ServersError::Exited { name: "mongod", .. }), "{error}");
    assert!(error.to_string().contains("Address already in use"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_noticed_and_a_paused_server_can_be_stopped() {
    let folder = TempDir::new().unwrap();
    let mut server = NatsServer::start(&binaries().nats_server, NatsOptions::in_folder(folder.path()))
        .await
        .unwrap();
    let still_runs = tokio::time::timeout(Duration::from_millis(50), server.exited()).await;
    assert!(still_runs.is_err());
    send(server.pid(), Signal::KILL);
    assert!(!server.exited().await.success());

    server.restart().await.unwrap();
    server.pause();
    let begin = Instant::now();
    server.stop().await;
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "it was woken to stop in order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resgate_serves_until_nats_is_gone_and_again_when_it_is_back() {
    let Some(program) = resgate::program() else { return };
    let folder = TempDir::new().unwrap();
    let mut nats = NatsServer::start(
        &binaries().nats_server,
        NatsOptions::in_folder(&folder.path().join("nats")),
    )
    .await
    .unwrap();
    let options = ResgateOptions::in_folder(&folder.path().join("resgate"), nats.url());
    let mut gateway = ResgateServer::start(&program, options).await.unwrap();
    let url = gateway.api_url();
    // Nobody answers for that resource, so it asked NATS.
    let status = async |url: &str| Some(reqwest::get(format!("{url}/a/b")).await.ok()?.status().as_u16());
    assert_eq!(status(&url).await, Some(404));
    assert!(reqwest::get(gateway.metrics_url()).await.unwrap().status().is_success());

    nats.kill().await;
    assert_eq!(gateway.exited().await.code(), Some(1));
    let error = gateway.restart().await.unwrap_err();
    assert!(matches!(error, ServersError::Exited { name: "resgate", .. }), "{error}");
    assert!(error.to_string().contains("no servers available"), "{error}");

    nats.restart().await.unwrap();
    gateway.restart().await.unwrap();
    assert!(gateway.is_running());
    assert_eq!(gateway.api_url(), url);
    assert_eq!(status(&url).await, Some(404));

    gateway.pause();
    let waiting = tokio::time::timeout(Duration::from_millis(50), status(&url)).await;
    assert!(waiting.is_err(), "it is frozen");
    gateway.resume();
    assert_eq!(status(&url).await, Some(404));

    let (port, pid) = (gateway.port(), gateway.pid());
    gateway.kill().await;
    assert!(is_free(port) && is_gone(pid));
    gateway.restart().await.unwrap();
    let log = gateway.log().to_owned();
    gateway.stop().await;
    assert!(is_free(port));
    assert!(fs::read_to_string(log).unwrap().ends_with("[INF] Server stopped\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_resgate_cannot_have_is_said_in_its_own_words() {
    let Some(program) = resgate::program() else { return };
    let folder = TempDir::new().unwrap();
    let nats = NatsServer::start(
        &binaries().nats_server,
        NatsOptions::in_folder(&folder.path().join("nats")),
    )
    .await
    .unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
    let options = ResgateOptions {
        addr: Some(taken.local_addr().unwrap()),
        ..ResgateOptions::in_folder(&folder.path().join("resgate"), nats.url())
    };
    let error = ResgateServer::start(&program, options).await.unwrap_err();
    assert!(matches!(error, ServersError::Exited { name: "resgate", .. }), "{error}");
    assert!(error.to_string().contains("address already in use"), "{error}");
}

/// The other side of the tests below: a process of its own that runs `ezout dev` with a service that does nothing.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::disallowed_methods,
    reason = "the way to tell the process that it is the other side"
)]
async fn the_other_side_runs_dev() {
    let Some(data) = std::env::var_os(DEV_DATA) else {
        return;
    };
    let http = (Ipv4Addr::LOCALHOST, free_port().unwrap()).into();
    let addresses = dev::Addresses {
        nats_url: format!("nats://127.0.0.1:{}", free_port().unwrap()),
        nats_monitor_url: format!("http://127.0.0.1:{}", free_port().unwrap()),
        mongodb_uri: format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port().unwrap()),
        http,
        admin: (Ipv4Addr::LOCALHOST, free_port().unwrap()).into(),
    };
    let resgate_addr = match std::env::var(DEV_RESGATE) {
        Ok(addr) => addr.parse().unwrap(),
        Err(_) => (Ipv4Addr::LOCALHOST, free_port().unwrap()).into(),
    };
    let args = dev::Args {
        demo: false,
        data: data.into(),
        resgate_addr,
        nats_websocket_port: None,
        binaries: BinaryOptions::from_environment(),
    };
    let serve = async |ready: dev::Ready, cancel: tokio_util::sync::CancellationToken| {
        ready.report();
        cancel.cancelled().await;
        Ok(())
    };
    if let Err(error) = dev::supervise(&args, &addresses, &dev::Asked::Nobody, serve).await {
        let _ = writeln!(std::io::stdout(), "refused: {error:#}");
    }
}

const DEV_DATA: &str = "EZOUT_TEST_DEV_DATA";
const DEV_RESGATE: &str = "EZOUT_TEST_DEV_RESGATE";

/// `ezout dev` in a process of its own, and what it says.
struct Dev {
    process: Child,
    said: mpsc::Receiver<String>,
}

impl Dev {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("a test binary has a path"))
            .args(["--exact", "servers::the_other_side_runs_dev", "--nocapture"])
            .env(DEV_DATA, data)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary can be run again");
        let (lines, said) = mpsc::channel();
        let out = BufReader::new(process.stdout.take().expect("it is piped"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Self { process, said }
    }

    fn says(&self, part: &str) {
        self.says_all(&[part]);
    }

    /// Waits until it has said all of these, in whatever order.
    fn says_all(&self, parts: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let mut missing = parts.to_vec();
        let mut before = String::new();
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .said
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("never said {missing:?}, only:\n{before}"));
            missing.retain(|part| !line.contains(part));
            before += &(line + "\n");
        }
    }

    /// The servers that it started, with their process ids.
    fn servers(&self) -> BTreeMap<String, u32> {
        let stats = fs::read_dir("/proc")
            .expect("these tests need /proc")
            .flatten()
            .filter_map(|process| {
                let stat = fs::read_to_string(process.path().join("stat")).ok()?;
                let (before, after) = stat.rsplit_once(") ")?;
                let (pid, name) = before.split_once(" (")?;
                let parent: u32 = after.split(' ').nth(1)?.parse().ok()?;
                if parent != self.process.id() {
                    return None;
                }
                Some((name.to_owned(), pid.parse().ok()?))
            });
        stats.collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = pid
        .try_into()
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is positive");
    kill_process(pid, signal).expect("our own processes can be signalled");
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Whether a process has ended, if nobody has noticed yet too.
fn is_gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// The names of the servers that `ezout dev` has on this machine.
fn expected_servers() -> impl Iterator<Item = &'static str> {
    let resgate = binaries().resgate.map(|_| "resgate");
    ["mongod", "nats-server"].into_iter().chain(resgate)
}

#[test]
fn dev_starts_a_server_again_and_stops_all_in_order() {
    let folder = TempDir::new().unwrap();
    let mut dev = Dev::start(folder.path());
    dev.says("EzOut is running");
    let servers = dev.servers();
    assert!(servers.keys().eq(expected_servers()), "{servers:?}");
    let mongod = servers["mongod"];

    send(servers["nats-server"], Signal::KILL);
    dev.says("nats-server ended by itself");
    dev.says("nats-server is ready again");

    Dev::start(folder.path()).says("refused: another `ezout dev` uses the data");
    assert!(!is_gone(mongod), "the first one runs on");

    send(dev.process.id(), Signal::INT);
    dev.says("stopped");
    assert!(dev.process.wait().unwrap().success());
    assert!(is_gone(mongod));
    assert!(
        fs::read_to_string(folder.path().join("logs/nats-server.log"))
            .unwrap()
            .contains("Server Exiting")
    );
}

#[test]
fn the_servers_of_a_dev_that_is_killed_die_with_it() {
    if Command::new("setpriv").arg("--version").output().is_err() {
        // Only Linux can promise this, and only with util-linux.
        return;
    }
    let folder = TempDir::new().unwrap();
    let mut dev = Dev::start(folder.path());
    dev.says("EzOut is running");
    let servers = dev.servers();
    assert!(servers.keys().eq(expected_servers()), "{servers:?}");
    for server in servers.values() {
        send(*server, Signal::STOP);
    }
    dev.process.kill().unwrap();
    dev.process.wait().unwrap();
    wait_until("all servers are gone", || servers.values().all(|pid| is_gone(*pid)));

    let again = Dev::start(folder.path());
    again.says("EzOut is running");
}

#[test]
fn dev_starts_resgate_again_whether_it_died_or_nats_server_did() {
    if resgate::program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let addr = format!("127.0.0.1:{}", free_port().unwrap());
    let mut dev = Dev::start_with(folder.path(), &[(DEV_RESGATE, &addr)]);
    dev.says(&format!("Resgate is at ws://{addr}/ and http://{addr}/api."));

    send(dev.servers()["resgate"], Signal::KILL);
    dev.says("resgate ended by itself");
    dev.says("resgate is ready again");
    send(dev.servers()["nats-server"], Signal::KILL);
    dev.says_all(&[
        "resgate ended by itself (exit status: 1)",
        "nats-server is ready again",
        "resgate is ready again",
    ]);

    let servers = dev.servers();
    send(dev.process.id(), Signal::INT);
    dev.says("stopped");
    assert!(dev.process.wait().unwrap().success());
    assert!(servers.values().all(|pid| is_gone(*pid)));
    let log = fs::read_to_string(folder.path().join("logs/resgate.log")).unwrap();
    // It says so twice. The first was killed, and the last still had NATS when it was stopped.
    assert_eq!(log.matches("lost NATS connection").count(), 2, "{log}");
    assert!(log.ends_with("[INF] Server stopped\n"), "{log}");
}

#[test]
fn dev_names_the_port_of_resgate_that_is_taken_and_how_to_choose_another() {
    if resgate::program().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dev = Dev::start_with(folder.path(), &[(DEV_RESGATE, &addr)]);
    dev.says("refused: ports are not free");
    dev.says(&format!("{addr}, for Resgate: "));
    assert!(dev.servers().is_empty());
}
