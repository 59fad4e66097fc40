//! `ezout doctor`: all is well right after the start; each damage is named, and its command mends it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use ezout::tools::servers::{MongodOptions, NatsOptions, NatsServer};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::project::poison;
use crate::support::{Service, Stack, all_printed, binaries, event, printed, refused, session, wait_for};

/// A whole system to look at.
struct Patient {
    stack: Stack,
    service: Service,
}

impl Patient {
    async fn new() -> Self {
        let stack = Stack::start().await;
        let service = stack.service("serve").await;
        Self { stack, service }
    }

    async fn doctor(&self, options: &[&str]) -> Output {
        doctor(&self.stack, &self.service, options).await
    }

    /// What every check found, and whether that is no failure.
    async fn report(&self) -> Report {
        Report::of(&self.doctor(&["--json"]).await)
    }

    /// Posts one event and waits for its basket.
    async fn shop(&self) -> (String, String, u64) {
        let (shop, session) = (session(), session());
        let sequence = self.post(&shop, &session, 1).await;
        self.service.basket(&shop, &session, sequence).await;
        (shop, session, sequence)
    }

    async fn post(&self, shop: &str, session: &str, action_id: i64) -> u64 {
        let event = event(shop, session, action_id, "ADD", 5, 1.0, 1.0);
        let answer = self.service.publish(shop, &event).await;
        assert_eq!(answer.status(), 200);
        answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap()
    }
}

async fn doctor(stack: &Stack, service: &Service, options: &[&str]) -> Output {
    let (http, admin) = (service.http_url(), service.admin_url());
    let environment = [("EZOUT_HTTP_ADDR", http.as_str()), ("EZOUT_ADMIN_ADDR", admin.as_str())];
    stack.ezout_with(&[&["doctor"], options].concat(), &environment).await
}

/// Waits until nothing is left to fold.
async fn folded(patient: &Patient) {
    wait_for("every event to be folded", async || {
        let report = patient.report().await;
        (report.of_check("lag")[0]["fact"] == "every event is in its basket").then_some(())
    })
    .await;
}

struct Report {
    checks: Vec<Value>,
    ok: bool,
}

impl Report {
    fn of(output: &Output) -> Self {
        let json: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", all_printed(output)));
        let ok = json["ok"].as_bool().unwrap();
        assert_eq!(
            output.status.code(),
            Some(i32::from(!ok)),
            "the exit code says the same"
        );
        let checks = json["checks"].as_array().unwrap().clone();
        Self { checks, ok }
    }

    /// Everything that is not as it should be: check, level, and the fact.
    fn findings(&self) -> Vec<String> {
        let told = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let found = self.checks.iter().filter(|check| check["level"] != "ok");
        found
            .map(|check| {
                format!(
                    "{} {}: {}",
                    told(check, "level"),
                    told(check, "check"),
                    told(check, "fact")
                )
            })
            .collect()
    }

    fn of_check(&self, name: &str) -> Vec<&Value> {
        self.checks.iter().filter(|check| check["check"] == name).collect()
    }

    /// The command of the one finding of this level with these words in it.
    #[track_caller]
    fn command(&self, name: &str, level: &str, words: &str) -> String {
        let found = self.of_check(name);
        let found: Vec<_> = found
            .into_iter()
            .filter(|check| check["level"] == level && check["fact"].as_str().unwrap().contains(words))
            .collect();
        assert_eq!(found.len(), 1, "{level} {name} with {words:?} in {:#?}", self.checks);
        found[0]["next"].as_str().expect("a finding has a command").to_owned()
    }
}

/// Runs a command as a person would who has copied it.
async fn run(command: &str) -> Output {
    shell(command).output().await.unwrap()
}

/// Starts a command that goes on until it is dropped.
fn start(command: &str) -> Child {
    let mut shell = shell(&format!("exec {command}"));
    shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn shell(command: &str) -> Command {
    let servers = binaries().nats_server.parent().unwrap().to_owned();
    let path = std::env::join_paths([servers.as_path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let mut shell = Command::new("setpriv");
    shell
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", command])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    shell
}

/// Waits until the findings are these and no others, each with these words in it.
async fn settled(mut look: impl AsyncFnMut() -> Report, words: &[&str]) -> Report {
    let mut last = Vec::new();
    wait_for(&format!("a report with {words:?} alone"), async || {
        let report = look().await;
        let found = report.findings();
        let as_expected = found.len() == words.len()
            && words
                .iter()
                .all(|words| found.iter().any(|found| found.contains(words)));
        if !as_expected && found != last {
            eprintln!("{found:#?}");
            last = found;
        }
        as_expected.then_some(report)
    })
    .await
}

/// Every check that there is, in its order.
const CHECKS: &[&str] = &[
    "api",
    "readiness",
    "version",
    "nats",
    "room",
    "sync",
    "users",
    "journal",
    "updates",
    "mongodb",
    "majority",
    "migrations",
    "indexes",
    "clocks",
    "baskets",
    "leases",
    "checkpoints",
    "lag",
    "parked",
    "refolds",
    "drift",
];

#[tokio::test]
async fn all_is_well_right_after_the_start_and_after_the_first_event() {
    let patient = Patient::new().await;
    let report = patient.report().await;
    assert_eq!(report.findings(), [""; 0]);
    assert!(report.ok);
    let names: Vec<&str> = report
        .checks
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(names, CHECKS);

    let (_, _, last) = patient.shop().await;
    let text = printed(&patient.doctor(&[]).await);
    assert!(text.ends_with("\n21 ok, 0 warn, 0 FAIL\n"), "{text}");
    let streams = patient.stack.spread.streams();
    let shared = (streams > 1).then(|| format!(", which {streams} streams share"));
    let shared = shared.unwrap_or_default();
    let journal =
        format!("journal      1 event, the last {last}, in 16 partitions{shared}; acknowledged means disk; epoch ");
    assert!(text.contains(&journal), "{text}");
    assert!(text.contains("leases       16 partitions owned by "), "{text}");
    assert!(text.contains(&format!("/{} (16)", patient.service.pid())), "{text}");
    assert!(
        text.contains("checkpoints  1 partition folded from this journal"),
        "{text}"
    );
    assert!(text.contains("lag          every event is in its basket"), "{text}");
}

#[tokio::test]
async fn a_journal_in_four_streams_is_told_as_one_and_what_is_missing_of_it_is_named() {
    let stack = Stack::start_spread(4).await;
    let service = stack.service("serve").await;
    let patient = Patient { stack, service };
    for _ in 0..3 {
        patient.shop().await;
    }
    let text = printed(&patient.doctor(&[]).await);
    assert!(text.contains("3 events, the last "), "{text}");
    assert!(text.contains(", in 16 partitions, which 4 streams share; "), "{text}");

    let (http, admin) = (patient.service.http_url(), patient.service.admin_url());
    let wrong = [
        ("EZOUT_HTTP_ADDR", http.as_str()),
        ("EZOUT_ADMIN_ADDR", admin.as_str()),
        ("EZOUT_JOURNAL_STREAMS", "1"),
    ];
    let report = Report::of(&patient.stack.ezout_with(&["doctor", "--json"], &wrong).await);
    let next = report.command("journal", "fail", "the journal lies in 4 streams");
    assert!(next.contains("--journal-streams 4"), "{next}");
    printed(&run(&next).await);
    for command in [
        &["replay", "--shop", &session()][..],
        &["rebuild"],
        &["migrate", "--streams"],
    ] {
        let no = refused(&patient.stack.ezout_with(command, &wrong).await);
        assert!(no.contains("set EZOUT_JOURNAL_STREAMS=4"), "{command:?}: {no}");
    }

    let jetstream = patient.stack.jetstream().await;
    jetstream.delete_stream("CHECKOUT_3").await.unwrap();
    let report = patient.report().await;
    report.command(
        "journal",
        "fail",
        "the stream CHECKOUT_3 is gone, and the others are there",
    );
}

#[tokio::test]
async fn all_is_well_with_three_servers_and_one_that_is_away_is_named() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut servers = NatsServer::start_cluster(&binaries().nats_server, folder.path())
        .await
        .unwrap();
    let urls = servers.each_ref().map(NatsServer::url).join(",");
    let monitors = servers.each_ref().map(NatsServer::monitor_url).join(",");
    let environment = [
        ("EZOUT_NATS_URL", urls.as_str()),
        ("EZOUT_NATS_MONITOR_URL", monitors.as_str()),
        ("EZOUT_NATS_REPLICAS", "3"),
    ];
    let service = stack.service_with("serve", &environment).await;
    let (http, admin) = (service.http_url(), service.admin_url());
    let addresses = [("EZOUT_HTTP_ADDR", http.as_str()), ("EZOUT_ADMIN_ADDR", admin.as_str())];
    let environment = [environment.as_slice(), addresses.as_slice()].concat();
    let look = async || Report::of(&stack.ezout_with(&["doctor", "--json"], &environment).await);
    // A follower of a stream that was just made may be a moment behind.
    settled(look, &[]).await;

    // Without one of the addresses it is not known what that server does.
    let two: Vec<String> = servers[..2].iter().map(NatsServer::monitor_url).collect();
    let two = two.join(",");
    let mut fewer = environment.clone();
    fewer[1].1 = &two;
    let report = Report::of(&stack.ezout_with(&["doctor", "--json"], &fewer).await);
    let next = report.command("sync", "fail", "server n3 holds the journal but has no address");
    let routes = printed(&run(&next).await);
    assert!(routes.contains("\"num_routes\""), "{next}: {routes}");

    servers[2].kill().await;
    let mut told = vec!["fail readiness: ", "fail sync: ", "fail updates: server n3"];
    // Each stream of the journal misses it.
    told.extend(stack.spread.lanes().map(|_| "fail journal: server n3"));
    let report = settled(look, &told).await;
    let first = stack.spread.of_partition(0).name();
    let silent = format!("server n3 keeps {first}, and has said nothing for ");
    report.command("journal", "fail", &silent);
    report.command("sync", "fail", "so whether that server syncs its disk is not known");
    assert_eq!(report.of_check("mongodb")[0]["level"], "ok");
}

#[tokio::test]
async fn a_server_that_does_not_sync_is_named_and_the_command_restarts_it_so_that_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let lazy = NatsOptions {
        sync_always: false,
        ..NatsOptions::in_folder(&folder.path().join("a folder"))
    };
    let mut nats = NatsServer::start(&binaries().nats_server, lazy).await.unwrap();
    let stack = Stack::start().await;
    let (url, monitor) = (nats.url(), nats.monitor_url());
    let servers = [
        ("EZOUT_NATS_URL", url.as_str()),
        ("EZOUT_NATS_MONITOR_URL", monitor.as_str()),
    ];
    let service = stack.launch("serve", &servers);
    let (http, admin) = (service.http_url(), service.admin_url());
    let addresses = [("EZOUT_HTTP_ADDR", http.as_str()), ("EZOUT_ADMIN_ADDR", admin.as_str())];
    let environment = [servers, addresses].concat();
    let look = async || Report::of(&stack.ezout_with(&["doctor", "--json"], &environment).await);
    let report = settled(look, &["fail readiness: journal: server ", "fail sync: server "]).await;
    let next = report.command("sync", "fail", "acknowledges before its disk is synced");
    report.command("readiness", "fail", "acknowledges before its disk is synced");
    assert!(
        report.of_check("journal")[0]["fact"]
            .as_str()
            .unwrap()
            .contains("acknowledged means memory")
    );
    assert_eq!(report.of_check("sync")[0]["first"], "stop that server, then");

    nats.kill().await;
    let _synced = start(&next);
    settled(look, &[]).await;
}

#[tokio::test]
async fn settings_of_streams_are_compared_one_by_one_and_the_command_sets_them_right() {
    let patient = Patient::new().await;
    patient.shop().await;
    let jetstream = patient.stack.jetstream().await;
    let change = async |name: &str, change: fn(&mut Config)| {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        change(&mut config);
        jetstream.update_stream(config).await.unwrap();
    };
    change(&patient.stack.spread.of_partition(0).name(), |stream| {
        stream.max_message_size = 65_536;
        stream.duplicate_window = Duration::from_mins(1);
    })
    .await;
    change("UPDATES", |stream| {
        stream.republish = None;
        stream.max_age = Duration::from_hours(1);
    })
    .await;
    let report = patient.report().await;
    report.command("journal", "warn", "max_msg_size is 65536, and should be 131072");
    report.command("updates", "fail", "republish is not set, and should be {");
    report.command(
        "updates",
        "warn",
        "max_age is 3600000000000, and should be 604800000000000",
    );
    let next = report.command(
        "journal",
        "fail",
        "duplicate_window is 60000000000, and should be 300000000000: the stream forgets retries too soon",
    );
    printed(&run(&next).await);
    settled(async || patient.report().await, &[]).await;
}

#[tokio::test]
async fn a_journal_or_updates_that_are_not_there_are_said_to_be() {
    let stack = Stack::start().await;
    printed(&stack.ezout(&["migrate"]).await);
    let service = stack.launch("api", &[]);
    service.wait_ready().await;
    stack.remove_journal().await;
    let report = Report::of(&doctor(&stack, &service, &["--json"]).await);
    report.command("journal", "fail", "there is no stream CHECKOUT");
    report.command("updates", "fail", "there is no stream UPDATES");
    for name in ["checkpoints", "lag", "drift"] {
        assert_eq!(report.of_check(name)[0]["level"], "skipped", "{name}");
    }
    // It looks, and makes nothing.
    let first = stack.spread.of_partition(0).name();
    assert!(stack.jetstream().await.get_stream(first).await.is_err());
}

#[tokio::test]
async fn a_mongod_that_is_away_hides_nothing_of_the_rest() {
    let mut patient = Patient::new().await;
    patient.shop().await;
    patient.stack.mongod.kill().await;
    let report = patient.report().await;
    let next = report.command("mongodb", "fail", "Connection refused");
    let port = patient.stack.mongod.port();
    assert_eq!(
        next,
        format!("mongod --replSet rs0 --bind_ip 127.0.0.1 --port {port} --dbpath \"$MONGODB_DATA\"")
    );
    for name in ["api", "nats", "room", "sync", "journal", "updates", "clocks"] {
        assert_eq!(report.of_check(name)[0]["level"], "ok", "{name}");
    }
    for name in ["majority", "migrations", "leases", "lag", "parked"] {
        assert_eq!(report.of_check(name)[0]["level"], "skipped", "{name}");
    }

    // With its own folder, the command starts it.
    let data = patient.stack.folder().join("mongod");
    let _mongod = start(&next.replace("\"$MONGODB_DATA\"", data.to_str().unwrap()));
    settled(async || patient.report().await, &[]).await;
}

#[tokio::test]
async fn servers_that_hang_are_given_up_and_the_rest_is_told() {
    let mut patient = Patient::new().await;
    patient.stack.mongod.pause();
    let report = patient.report().await;
    patient.stack.mongod.resume();
    report.command("mongodb", "fail", "");
    assert_eq!(report.of_check("journal")[0]["level"], "ok");

    patient.stack.nats.pause();
    let report = patient.report().await;
    patient.stack.nats.resume();
    report.command("nats", "fail", "cannot be reached");
    assert_eq!(report.of_check("mongodb")[0]["level"], "ok");
    assert_eq!(report.of_check("leases")[0]["level"], "ok");
    assert_eq!(report.of_check("journal")[0]["level"], "skipped");
}

#[tokio::test]
async fn where_nothing_runs_everything_is_said_to_be_away_and_no_password_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let environment = [
        ("EZOUT_NATS_URL", "nats://app:geheim@127.0.0.1:9"),
        ("EZOUT_NATS_MONITOR_URL", "http://app:geheim@127.0.0.1:9"),
        ("EZOUT_MONGODB_URI", "mongodb://app:geheim@127.0.0.1:9/?replicaSet=rs0"),
        ("EZOUT_HTTP_ADDR", "127.0.0.1:9"),
        ("EZOUT_ADMIN_ADDR", "127.0.0.1:9"),
    ];
    let look = async |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ezout"));
        let command = command
            .arg("doctor")
            .args(options)
            .envs(environment)
            .current_dir(folder.path());
        command.output().await.unwrap()
    };
    let text = refused(&look(&[]).await);
    assert!(!text.contains("geheim"), "{text}");
    for name in ["api", "readiness", "nats", "sync", "mongodb"] {
        assert!(
            text.lines().any(|line| line.starts_with(&format!("FAIL  {name} "))),
            "{name}: {text}"
        );
    }
    assert!(
        text.contains("serve --http-addr 127.0.0.1:9 --admin-addr 127.0.0.1:9 --nats-url \"$EZOUT_NATS_URL\""),
        "{text}"
    );
    assert!(
        text.contains("nats-server -c nats/server.conf -a 127.0.0.1 -p 9 -m 9 -sd \"$NATS_DATA\""),
        "{text}"
    );
    assert!(text.contains("\n0 ok, 0 warn, 5 FAIL, 16 not looked at\n"), "{text}");
    let json = look(&["--json"]).await;
    assert!(!all_printed(&json).contains("geheim"));
    assert_eq!(Report::of(&json).findings().len(), 21);
}

#[tokio::test]
async fn a_mongod_outside_of_a_replica_set_is_told_from_one_that_is_away() {
    let stack = Stack::start().await;
    let options = MongodOptions::in_folder(&stack.folder().join("single"));
    std::fs::create_dir_all(&options.data).unwrap();
    let port = ezout::tools::servers::free_port().unwrap();
    let command = format!(
        "{} --port {port} --bind_ip 127.0.0.1 --dbpath {}",
        binaries().mongod.display(),
        options.data.display()
    );
    let _mongod = start(&command);
    let uri = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
    let report = wait_for("mongod", async || {
        let output = stack
            .ezout_with(&["doctor", "--json"], &[("EZOUT_MONGODB_URI", uri.as_str())])
            .await;
        let report = Report::of(&output);
        let away = report
            .findings()
            .iter()
            .any(|finding| finding.contains("refused") && finding.contains("mongodb"));
        (!away).then_some(report)
    })
    .await;
    let next = report.command("mongodb", "fail", "is no member of a replica set");
    assert_eq!(
        next,
        format!("mongosh 'mongodb://127.0.0.1:{port}/?directConnection=true' --quiet --eval 'rs.initiate()'")
    );
}

#[tokio::test]
async fn what_mongodb_lacks_is_named_and_the_command_brings_it_back() {
    let patient = Patient::new().await;
    let database = patient.stack.database().await;
    let baskets = database.collection::<Document>("baskets");
    baskets.drop_index("by_status_and_change").await.unwrap();
    database
        .run_command(doc! { "collMod": "baskets", "validationLevel": "off" })
        .await
        .unwrap();
    let report = patient.report().await;
    report.command(
        "indexes",
        "fail",
        "the validator of baskets is not the one of the migrations",
    );
    let next = report.command("indexes", "fail", "baskets has no index by_status_and_change");
    printed(&run(&next).await);
    assert_eq!(patient.report().await.findings(), [""; 0]);

    let migrations = database.collection::<Document>("migrations");
    migrations.delete_one(doc! { "_id": "0003_looking" }).await.unwrap();
    let report = patient.report().await;
    let next = report.command("migrations", "fail", "not applied: 0003_looking");
    printed(&run(&next).await);
    assert_eq!(patient.report().await.findings(), [""; 0]);
}

#[tokio::test]
async fn a_lease_that_nobody_takes_is_named_and_so_is_what_waits_for_it() {
    let stack = Stack::start().await;
    let mut projector = stack.service("project").await;
    let service = stack.service("api").await;
    let patient = Patient { stack, service };
    let (shop, visit, _) = patient.shop().await;
    let owner = projector.pid();
    folded(&patient).await;
    projector.kill().await;
    let second = patient.post(&shop, &visit, 2).await;
    let report = wait_for("the lease to expire", async || {
        let report = patient.report().await;
        report
            .findings()
            .iter()
            .any(|finding| finding.contains("no projector lives"))
            .then_some(report)
    })
    .await;
    let next = report.command("leases", "fail", "partitions 0 to 15: the lease of ");
    let fact = report.of_check("leases")[0]["fact"].as_str().unwrap();
    assert!(fact.contains(&format!("/{owner} expired ")), "{fact}");
    let lag = report.command("lag", "fail", ": 1 event not folded, the oldest for ");
    assert_eq!(lag, next);
    assert!(next.contains(" project --admin-addr 127.0.0.1:0 "), "{next}");

    let _projector = start(&next);
    patient.service.basket(&shop, &visit, second).await;
    wait_for("the partitions to be owned", async || {
        let report = patient.report().await;
        (report.of_check("leases")[0]["level"] == "ok" && report.of_check("lag")[0]["level"] == "ok").then_some(())
    })
    .await;

    // One that lasts longer than any is given for is held by nobody who would give it back.
    let leases = patient.stack.database().await.collection::<Document>("leases");
    let far = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    let stuck = doc! { "$set": { "owner": "gone/1/0", "expires_at": far } };
    leases.update_one(doc! { "_id": 3 }, stuck).await.unwrap();
    let report = patient.report().await;
    let next = report.command("leases", "fail", "partition 3: the lease of gone/1 lasts for 3");
    assert!(
        next.contains("db.leases.updateOne({ _id: 3 }, { $set: { owner: null, expires_at: new Date(0) } })"),
        "{next}"
    );
}

#[tokio::test]
async fn a_checkpoint_that_lags_behind_is_told_with_the_events_that_wait() {
    let stack = Stack::start().await;
    let mut projector = stack.service("project").await;
    let service = stack.service("api").await;
    let patient = Patient { stack, service };
    let (shop, visit, first) = patient.shop().await;
    for action_id in 2..=4 {
        patient.post(&shop, &visit, action_id).await;
    }
    folded(&patient).await;
    assert!(projector.stop().await.success());
    // The checkpoint falls back, as one may that no majority has.
    let checkpoints = patient.stack.database().await.collection::<Document>("checkpoints");
    let lane = patient.stack.lane_of(&shop);
    let recorded = patient.stack.jetstream().await.get_stream(lane.name()).await.unwrap();
    let recorded = recorded
        .get_raw_message(lane.place(first))
        .await
        .unwrap()
        .time
        .unix_timestamp_nanos();
    let back =
        doc! { "$set": { "sequence": i64::try_from(first).unwrap(), "recorded_ns": i64::try_from(recorded).unwrap() } };
    checkpoints.update_one(doc! {}, back).await.unwrap();
    let report = wait_for("events that wait", async || {
        let report = patient.report().await;
        report
            .findings()
            .iter()
            .any(|finding| finding.contains("not folded"))
            .then_some(report)
    })
    .await;
    let next = report.command("lag", "fail", ": 3 events not folded, the oldest for ");
    report.command(
        "leases",
        "fail",
        "partitions 0 to 15: owned by nobody, no projector lives",
    );
    assert_eq!(report.of_check("checkpoints")[0]["level"], "ok");
    let _projector = start(&next);
    folded(&patient).await;
}

#[tokio::test]
async fn a_parked_event_is_a_warning_with_the_command_that_lists_it() {
    let patient = Patient::new().await;
    let (shop, visit, _) = patient.shop().await;
    let poisoned = poison(&patient.stack, &shop, &visit, "{\"shop_id\":").await;
    let report = wait_for("the parked event", async || {
        let report = patient.report().await;
        (report.of_check("parked")[0]["level"] == "warn").then_some(report)
    })
    .await;
    assert!(report.ok, "a warning is no failure");
    let next = report.command(
        "parked",
        "warn",
        &format!("1 event could not be applied; the first is {poisoned}, recorded at "),
    );
    let list = printed(&run(&next).await);
    assert!(list.contains(&format!("{poisoned}  parked   {shop}.{visit}")), "{list}");
    let text = printed(&patient.doctor(&[]).await);
    assert!(text.ends_with("20 ok, 1 warn, 0 FAIL\n"), "{text}");
}

#[tokio::test]
async fn a_checkpoint_beyond_the_journal_or_of_another_one_is_named() {
    let patient = Patient::new().await;
    let (_, _, last) = patient.shop().await;
    let checkpoints = patient.stack.database().await.collection::<Document>("checkpoints");
    let beyond = i64::try_from(last).unwrap() + 1_000;
    // The checkpoint follows the basket within milliseconds.
    wait_for("the checkpoint", async || {
        let at_end = doc! { "sequence": beyond - 1_000 };
        let set = doc! { "$set": { "sequence": beyond } };
        let updated = checkpoints.update_one(at_end, set).await.unwrap();
        (updated.matched_count == 1).then_some(())
    })
    .await;
    let report = patient.report().await;
    let fact = format!("events are lost: the journal ends at {last} and the views are folded up to {beyond}");
    let next = report.command("checkpoints", "fail", &fact);
    assert!(
        next.contains(r#"for (const name of ["baskets","projections","checkpoints","parked_events"]) db.getCollection(name).drop()"#),
        "{next}"
    );
    assert!(next.contains(" && ") && next.contains(" migrate "), "{next}");
    assert_eq!(report.of_check("lag")[0]["level"], "ok", "it is not told a second time");

    let other =
        doc! { "$set": { "sequence": i64::try_from(last).unwrap(), "epoch": "00000000-0000-4000-8000-000000000000" } };
    checkpoints.update_one(doc! {}, other).await.unwrap();
    let report = patient.report().await;
    report.command("checkpoints", "fail", "the journal is another one (epoch ");
}

#[tokio::test]
async fn what_a_rebuild_and_a_request_have_left_is_told() {
    let patient = Patient::new().await;
    let (shop, visit, _) = patient.shop().await;
    printed(&patient.stack.ezout(&["rebuild", "--switch"]).await);
    let report = patient.report().await;
    assert!(report.ok);
    let next = report.command("baskets", "warn", "baskets is no longer read");
    printed(&run(&next).await);
    assert_eq!(patient.report().await.findings(), [""; 0]);

    printed(&patient.stack.ezout(&["rebuild"]).await);
    let report = patient.report().await;
    let next = report.command(
        "baskets",
        "warn",
        "baskets_3 is being filled by a rebuild, or was left so",
    );
    printed(&run(&next).await);
    let report = patient.report().await;
    let next = report.command("baskets", "warn", "baskets_2 is no longer read");

    // A request for baskets that nobody reads is never taken.
    let requests = patient.stack.database().await.collection::<Document>("refolds");
    let request = doc! { "_id": format!("baskets_2/{shop}.{visit}"), "version": "baskets_2", "basket": format!("{shop}.{visit}"), "partition": 0, "sequences": [], "through": 0_i64 };
    // A partition that has not gone over to the others yet does take it.
    wait_for("a request to be told", async || {
        let asked = doc! { "_id": request.get("_id").unwrap() };
        let kept = requests.replace_one(asked, request.clone()).upsert(true).await;
        kept.unwrap();
        let findings = patient.report().await.findings();
        findings
            .iter()
            .any(|found| found.starts_with("warn refolds") && found.contains("1 request"))
            .then_some(())
    })
    .await;
    printed(&run(&next).await);
    assert_eq!(patient.report().await.findings(), [""; 0]);
}

#[tokio::test]
async fn a_basket_that_was_spoiled_by_hand_shows_as_drift() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_SCRUB_PER_MINUTE", "6000")]).await;
    let patient = Patient { stack, service };
    let (shop, visit, _) = patient.shop().await;
    let baskets = patient.stack.database().await.collection::<Document>("baskets");
    let spoil = doc! { "$set": { "item_count": 77_i64 } };
    baskets
        .update_one(doc! { "_id": format!("{shop}.{visit}") }, spoil)
        .await
        .unwrap();
    let report = wait_for("drift", async || {
        let report = patient.report().await;
        (report.of_check("drift")[0]["level"] == "fail").then_some(report)
    })
    .await;
    let next = report.command(
        "drift",
        "fail",
        "1 basket or its last update is not what the journal says",
    );
    let folder = tempfile::tempdir().unwrap();
    let next = next.replace("drift.json", folder.path().join("drift.json").to_str().unwrap());
    refused(&run(&next).await);
    let named = std::fs::read_to_string(folder.path().join("drift.json")).unwrap();
    assert!(named.contains(&format!("{shop}.{visit}")), "{named}");
}
