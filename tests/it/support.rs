//! Real servers and real processes for the tests.
//!
//! [`system`] is one whole system that the tests of this binary share, each with its own shops.
//! [`Stack`] is a pair of servers of a test's own, for tests that kill, stop or damage them.

pub mod gateway;
pub mod proxy;
pub mod res;
pub mod res_client;
pub mod resgate;
mod wire;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use ezout::core::id::{ShopId, partition_of};
use ezout::journal::{Lane, Spread};
use ezout::nats::User;
use ezout::tools::servers::{
    Binaries, BinaryOptions, Mongod, MongodOptions, NatsOptions, NatsServer, NatsUsers, free_port,
};
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::contracts::check;

/// How long a condition may take to come true. Far beyond what it takes, so that a slow machine fails no test.
/// `EZOUT_TEST_PATIENCE` says otherwise, in seconds, where a failure is expected.
pub fn patience() -> Duration {
    let seconds = chosen("EZOUT_TEST_PATIENCE").map(|text| text.parse().expect("a number of seconds"));
    seconds.map_or(Duration::from_mins(5), Duration::from_secs)
}

/// Waits until `condition` gives a value, asking again every few milliseconds.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let (begun, patience) = (Instant::now(), patience());
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            begun.elapsed() < patience,
            "{what} did not come true within {patience:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next message of a subscription, which is sure to come.
pub async fn heard(messages: &mut async_nats::Subscriber) -> async_nats::Message {
    let patience = patience();
    let next = tokio::time::timeout(patience, messages.next()).await;
    next.unwrap_or_else(|_| panic!("nothing was heard for {patience:?}"))
        .expect("the subscription lasts")
}

/// The partitions of every journal here.
pub const PARTITIONS: u16 = 16;

/// The streams that the journals of this run lie in, where a test says nothing else: `EZOUT_TEST_STREAMS`.
pub fn spread() -> Spread {
    let chosen = chosen("EZOUT_TEST_STREAMS");
    chosen.map_or(Spread::ONE, |streams| streams.parse().expect("a number of streams"))
}

/// The subject of a shop's events.
pub fn subject_of(shop: &str) -> String {
    let partition = partition_of(ShopId::parse(shop).expect("a shop's id"), PARTITIONS);
    format!("checkout.{partition}.{shop}")
}

/// A nats-server and a mongod with data of their own.
pub struct Stack {
    pub nats: NatsServer,
    pub mongod: Mongod,
    /// The streams that the journal lies in.
    pub spread: Spread,
    folder: PathBuf,
    // Removed when the stack is dropped.
    data: Option<tempfile::TempDir>,
}

impl Stack {
    /// Starts both servers on free ports.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts both, for a journal in so many streams.
    pub async fn start_spread(streams: u16) -> Self {
        Self::start().await.with_streams(streams)
    }

    /// These servers, for a journal in so many streams.
    pub fn with_streams(mut self, streams: u16) -> Self {
        self.spread = Spread::over(streams).expect("a number of streams");
        self
    }

    /// Starts both, with another mongod than usual.
    pub async fn start_with(adjust: impl FnOnce(&mut MongodOptions)) -> Self {
        Self::start_as(adjust, |_| {}).await
    }

    /// Starts both with the users of `nats/users.conf`; each role, Resgate and the commands then come as their own.
    pub async fn start_with_users(adjust: impl FnOnce(&mut NatsOptions)) -> Self {
        let with_users = |nats: &mut NatsOptions| {
            nats.users = Some(NatsUsers::open(&nats.data).expect("passwords"));
            adjust(nats);
        };
        Self::start_as(|_| {}, with_users).await
    }

    /// Starts both, with another mongod and another nats-server than usual.
    pub async fn start_as(adjust: impl FnOnce(&mut MongodOptions), adjust_nats: impl FnOnce(&mut NatsOptions)) -> Self {
        let data = tempfile::Builder::new()
            .prefix("ezout-it-")
            .tempdir()
            .expect("a folder for the servers' data");
        let folder = data.path().to_owned();
        let binaries = binaries();
        let mut nats = NatsOptions::in_folder(&folder.join("nats"));
        adjust_nats(&mut nats);
        let nats = NatsServer::start(&binaries.nats_server, nats);
        let mut options = MongodOptions::in_folder(&folder.join("mongod"));
        adjust(&mut options);
        let mongod = Mongod::start(&binaries.mongod, options);
        let (nats, mongod) = tokio::try_join!(nats, mongod).expect("the servers start");
        Self {
            nats,
            mongod,
            spread: spread(),
            folder,
            data: Some(data),
        }
    }

    /// The folder of the servers' data and of the processes' logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps the folder when the stack is dropped, for looking into it.
    pub fn keep_folder(&mut self) {
        if let Some(data) = self.data.take() {
            let _ = data.keep();
        }
    }

    /// Starts a role of the service against these servers.
    pub async fn service(&self, role: &str) -> Service {
        self.service_with(role, &[]).await
    }

    /// Starts a role with more environment variables.
    pub async fn service_with(&self, role: &str, environment: &[(&str, &str)]) -> Service {
        let service = self.launch(role, environment);
        service.wait_ready().await;
        service
    }

    /// Starts a role without waiting for it.
    pub fn launch(&self, role: &str, environment: &[(&str, &str)]) -> Service {
        let mut all = HashMap::from([
            (
                "EZOUT_NATS_URL",
                self.nats.url_of(User::of(role).expect("each role has a user")),
            ),
            ("EZOUT_NATS_MONITOR_URL", self.nats.monitor_url()),
            ("EZOUT_MONGODB_URI", self.mongod.uri()),
            ("EZOUT_JOURNAL_STREAMS", self.spread.to_string()),
            // Most tests that spoil a document by hand want to see what others make of it.
            ("EZOUT_EDITS_PER_MINUTE", "0".to_owned()),
        ]);
        all.extend(environment.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Service::launch(role, &self.folder, all)
    }

    /// Runs a command against these servers.
    pub async fn ezout(&self, arguments: &[&str]) -> Output {
        self.ezout_with(arguments, &[]).await
    }

    /// Runs a command with more environment variables.
    pub async fn ezout_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ezout"));
        command
            .args(arguments)
            .env("EZOUT_MONGODB_URI", self.mongod.uri())
            .env("EZOUT_NATS_URL", self.nats.url_of(User::Operator))
            .env("EZOUT_NATS_MONITOR_URL", self.nats.monitor_url())
            .env("EZOUT_JOURNAL_STREAMS", self.spread.to_string())
            .envs(environment.iter().copied())
            .kill_on_drop(true);
        command.output().await.expect("the program starts")
    }

    /// The views' database.
    pub async fn database(&self) -> mongodb::Database {
        mongodb::Client::with_uri_str(self.mongod.uri())
            .await
            .expect("a connection string")
            .database("ezout")
    }

    /// Where the views are, for code of the product that the tests call.
    pub fn views_config(&self) -> ezout::views::Config {
        ezout::views::Config {
            uri: self.mongod.uri(),
            database: "ezout".to_owned(),
        }
    }

    /// A connection to NATS.
    pub async fn nats_client(&self) -> async_nats::Client {
        async_nats::connect(self.nats.url())
            .await
            .expect("nats-server is there")
    }

    /// JetStream on that connection.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.nats_client().await)
    }

    /// The stream of the journal that has a shop.
    pub fn lane_of(&self, shop: &str) -> Lane {
        let shop = ShopId::parse(shop).expect("a shop's id");
        self.spread.of_partition(partition_of(shop, PARTITIONS))
    }

    /// Each stream of the journal.
    pub async fn journal(&self) -> Vec<(Lane, jetstream::stream::Stream)> {
        let context = self.jetstream().await;
        let mut streams = Vec::new();
        for lane in self.spread.lanes() {
            let stream = context.get_stream(lane.name()).await;
            streams.push((lane, stream.expect("the journal is there")));
        }
        streams
    }

    /// Removes the journal.
    pub async fn remove_journal(&self) {
        for lane in self.spread.lanes() {
            let removed = self.jetstream().await.delete_stream(lane.name()).await;
            removed.expect("the journal is there");
        }
    }

    /// How many events the journal has.
    pub async fn events(&self) -> u64 {
        let streams = self.journal().await;
        streams
            .iter()
            .map(|(_, stream)| stream.cached_info().state.messages)
            .sum()
    }

    /// What the journal has, each with its sequence and in that order, read by another client than the product's.
    pub async fn recorded(&self) -> Vec<(u64, jetstream::Message)> {
        let mut all = Vec::new();
        for (lane, stream) in self.journal().await {
            let count = usize::try_from(stream.cached_info().state.messages).expect("few");
            let consumer = stream
                .create_consumer(OrderedConfig::default())
                .await
                .expect("a consumer");
            let messages = consumer.messages().await.expect("messages").take(count);
            let messages: Vec<jetstream::Message> = messages.try_collect().await.expect("messages");
            all.extend(messages.into_iter().map(|message| {
                let place = message.info().expect("it comes from a stream").stream_sequence;
                (lane.sequence(place), message)
            }));
        }
        all.sort_by_key(|(sequence, _)| *sequence);
        all
    }

    /// Publishes into the journal past the product, and answers with the sequence.
    pub async fn record(&self, shop: &str, headers: async_nats::HeaderMap, body: impl Into<bytes::Bytes>) -> u64 {
        let context = self.jetstream().await;
        let sent = context
            .publish_with_headers(subject_of(shop), headers, body.into())
            .await;
        let stored = sent.expect("nats-server is there").await;
        let place = stored.expect("it is taken").sequence;
        self.lane_of(shop).sequence(place)
    }
}

/// Gives each stream of the journal another configuration than it was created with.
pub async fn configure_journal(
    context: &jetstream::Context,
    spread: Spread,
    change: impl Fn(&mut jetstream::stream::Config),
) {
    for lane in spread.lanes() {
        let stream = context.get_stream(lane.name()).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        change(&mut config);
        context.update_stream(config).await.unwrap();
    }
}

/// What a variable of a test run says.
#[expect(
    clippy::disallowed_methods,
    reason = "a switch for a test run, not an option of the product"
)]
pub fn chosen(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// Says that a test is left out since `what` is not there; where `EZOUT_TEST_REQUIRE` names it, the test fails.
pub fn skip(what: &str, why: &str) {
    let required = chosen("EZOUT_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == what), "{why}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Past the capture of output, so that nobody takes this for a test that passed.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {test}: {why}");
}

/// PATH with what `servers/install` brought behind it.
pub fn path() -> String {
    let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers/bin");
    format!("{}:{}", chosen("PATH").unwrap_or_default(), brought.display())
}

/// What a command printed; one that failed fails the test.
pub fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", all_printed(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command printed that must have failed.
pub fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", all_printed(output));
    all_printed(output)
}

/// What a command printed, on whichever way.
pub fn all_printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Where the servers' programs are; a test run without them fails.
pub fn binaries() -> Binaries {
    Binaries::find(&BinaryOptions::from_environment()).expect("`make servers` brings the servers")
}

/// A process of the service.
pub struct Service {
    child: Child,
    http: u16,
    admin: u16,
    pub log: PathBuf,
}

impl Service {
    fn launch(role: &str, folder: &Path, environment: HashMap<&str, String>) -> Self {
        let chosen = environment
            .get("EZOUT_HTTP_ADDR")
            .and_then(|address| address.rsplit(':').next()?.parse().ok());
        let http = chosen.unwrap_or_else(|| free_port().expect("a port"));
        let chosen = environment
            .get("EZOUT_ADMIN_ADDR")
            .and_then(|address| address.rsplit(':').next()?.parse().ok());
        let admin = chosen.unwrap_or_else(|| free_port().expect("a port"));
        let log = folder.join(format!("{role}-{admin}.log"));
        let file = std::fs::File::create(&log).expect("a log file");
        // The process dies with the thread that started it, so that a test run that is killed leaves none behind.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_ezout"), role])
            .envs(environment)
            .env("EZOUT_HTTP_ADDR", format!("127.0.0.1:{http}"))
            .env("EZOUT_ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the service starts");
        Self {
            child,
            http,
            admin,
            log,
        }
    }

    /// Base address of the API.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Base address of health and metrics.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process was not waited for")
    }

    /// Waits until the process says that it is ready.
    pub async fn wait_ready(&self) {
        wait_for(&format!("readiness (log in {})", self.log.display()), async || {
            let answer = reqwest::get(format!("{}/readyz", self.admin_url())).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// What the process says about its readiness.
    pub async fn readiness(&self) -> Option<Value> {
        reqwest::get(format!("{}/readyz", self.admin_url()))
            .await
            .ok()?
            .json()
            .await
            .ok()
    }

    /// The value of a series, by its name and labels as they are printed.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = reqwest::get(format!("{}/metrics", self.admin_url()))
            .await
            .ok()?
            .text()
            .await
            .ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Ends the process as a power cut does.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the process is ours");
    }

    /// Asks the process to end, and waits until it has.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().await.expect("the process is ours")
    }

    /// Waits until the process ends by itself.
    pub async fn exited(&mut self) -> std::process::ExitStatus {
        self.child.wait().await.expect("the process is ours")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process number");
        rustix::process::kill_process(pid, signal).expect("the process is ours");
    }

    /// Posts an event to the original route.
    pub async fn publish(&self, shop: &str, event: &Value) -> reqwest::Response {
        let request = reqwest::Client::new().post(format!("{}/publish/{shop}", self.http_url()));
        let response = request.json(event).send().await.expect("the API answers");
        check::read("POST", response).await
    }

    /// The basket of a session, once the views are as new as `sequence`.
    pub async fn basket(&self, shop: &str, session: &str, sequence: u64) -> Value {
        let url = format!(
            "{}/v1/shops/{shop}/sessions/{session}/basket?min_sequence={sequence}",
            self.http_url()
        );
        wait_for("the basket", async || {
            let answer = reqwest::get(&url).await.ok()?;
            let (path, status, headers) = (
                answer.url().path().to_owned(),
                answer.status(),
                answer.headers().clone(),
            );
            let body = answer.bytes().await.ok()?;
            check::hold("GET", &path, status.as_u16(), &headers, &body);
            status
                .is_success()
                .then(|| serde_json::from_slice(&body).expect("JSON"))
        })
        .await
    }
}

/// One whole system for all tests that need nothing of their own.
pub struct System {
    pub stack: Stack,
    pub service: Service,
}

impl System {
    pub fn http_url(&self) -> String {
        self.service.http_url()
    }

    pub fn admin_url(&self) -> String {
        self.service.admin_url()
    }

    pub fn nats_url(&self) -> String {
        self.stack.nats.url()
    }

    /// A shop that no other test uses.
    #[expect(clippy::unused_self, reason = "it reads as the system's")]
    pub fn shop(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }
}

/// The system that the tests share; it ends with the process.
pub async fn system() -> &'static System {
    static SYSTEM: OnceCell<System> = OnceCell::const_new();
    SYSTEM
        .get_or_init(|| async {
            // The processes die with the thread that started them, and their handles need its runtime.
            let (started, ready) = tokio::sync::oneshot::channel();
            std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let stack = Stack::start().await;
                    let service = stack.service("serve").await;
                    assert!(started.send(System { stack, service }).is_ok(), "the first test waits");
                    std::future::pending::<()>().await;
                });
            });
            ready.await.expect("the shared system starts")
        })
        .await
}

/// An event in the original form, ready to be changed.
pub fn event(
    shop: &str,
    session: &str,
    action_id: i64,
    action: &str,
    product_id: i64,
    price: f64,
    claimed: f64,
) -> Value {
    serde_json::json!({
        "session_id": session, "shop_id": shop, "shopper_id": "ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94", "action_id": action_id,
        "create_time": format!("2023-12-18T10:{:02}:{:02}.000Z", action_id / 60 % 60, action_id % 60), "action": action,
        "product_name": format!("product {product_id}"), "product_id": product_id, "product_price": price,
        "UPC": "042100005264", "category_id": "fruit", "basket_total": claimed,
    })
}

/// A fresh session id.
pub fn session() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A document of the views.
pub async fn document(database: &mongodb::Database, shop: &str, session: &str) -> Option<Document> {
    database
        .collection("baskets")
        .find_one(doc! { "_id": format!("{shop}.{session}") })
        .await
        .expect("mongod answers")
}
