//! A whole system under load while something fails, for one cell of the fault matrix.
//!
//! A cell opens a scene, does its faults, ends them, and lets the scene finish: events are to be told at once again, phones to be
//! answered, viewers to be up to date; then a checker that knows histories, the journal and MongoDB checks every promise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ezout::core::id::{ShopId, partition_of};
use ezout::core::policy::Role;
use ezout::keys::dev::{self, Grant};
use ezout::tools::simulate::visit::shop_of;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::checker::{self, Report};
use super::collect::{Places, Watch, baskets, filed_by_others};
use super::history::{Alarm, Evidence, Most, Phones, Recovery};
use super::phones::Network;
use super::viewers::{PERMITTED, Prying, Seat, Stranger, Viewer};
use crate::support::proxy::Proxy;
use crate::support::{self, Service, Stack, event, printed, session, wait_for};

const SHOPS: u32 = 4;
const PHONES: u64 = 8;
const PARTITIONS: u16 = 16;
/// Everything that runs in most cells.
pub const ROLES: &[&str] = &["api", "project", "project"];
/// How soon after it is sent an event is told where all is well, unless this machine takes longer for that.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Events that are told before the first fault, to see how long this machine takes.
const TRIED_BEFORE: u32 = 5;
/// How many times as long as the slowest of these is at once, too.
const SLOWNESS_MAX: u32 = 3;
/// The same on the slowest machine.
const AT_ONCE_MAX: Duration = Duration::from_secs(5);
/// Events that have to be told at once, one after the other, before all is well.
const IN_A_ROW: u32 = 20;
/// Longest wait of a phone or a viewer after that.
const PATIENCE: Duration = Duration::from_mins(1);

/// What came of a cell.
#[derive(Default)]
pub struct Outcome {
    pub report: Report,
    pub deeds: BTreeMap<String, u64>,
    pub events: usize,
    pub seconds: f64,
    /// What else there is to say, such as how long something took.
    pub notes: Vec<String>,
}

/// A process of the service.
pub struct Member {
    pub role: &'static str,
    pub service: Service,
}

/// Proxies between the service and its servers.
pub struct Ways {
    pub api_nats: Proxy,
    pub api_mongodb: Proxy,
    pub project_nats: Proxy,
    pub project_mongodb: Proxy,
}

impl Ways {
    pub async fn start(stack: &Stack) -> Self {
        let mongodb = || Proxy::before(([127, 0, 0, 1], stack.mongod.port()).into());
        Self {
            api_nats: Proxy::start(&stack.nats.url()).await,
            api_mongodb: mongodb().await,
            project_nats: Proxy::start(&stack.nats.url()).await,
            project_mongodb: mongodb().await,
        }
    }

    fn of(&self, role: &str) -> [(&'static str, String); 2] {
        let (nats, mongodb) = match role {
            "api" => (&self.api_nats, &self.api_mongodb),
            _ => (&self.project_nats, &self.project_mongodb),
        };
        [("EZOUT_NATS_URL", nats.url()), ("EZOUT_MONGODB_URI", through(mongodb))]
    }
}

/// MongoDB behind a proxy. Without `directConnection` the driver goes to where the set says that it is.
pub fn through(proxy: &Proxy) -> String {
    format!("mongodb://{}/?directConnection=true", proxy.address())
}

/// Where a scene plays.
pub struct Ground {
    pub stack: Stack,
    /// The servers, where they are not the stack's own.
    pub places: Option<Places>,
    /// What each process has in its environment beside that.
    pub environment: Vec<(&'static str, String)>,
    pub ways: Option<Ways>,
    pub roles: &'static [&'static str],
}

impl From<Stack> for Ground {
    fn from(stack: Stack) -> Self {
        Self {
            stack,
            places: None,
            environment: Vec::new(),
            ways: None,
            roles: ROLES,
        }
    }
}

/// The scene.
pub struct Scene {
    pub rng: fastrand::Rng,
    pub members: Vec<Member>,
    pub network: Network,
    pub watch: Watch,
    pub notes: Vec<String>,
    /// What processes said of a journal that is not what it was.
    pub alarms: Vec<Alarm>,
    /// Whether the server of the journal forgets soon what it has.
    pub forgets: bool,
    ground: Ground,
    viewers: Vec<Viewer>,
    /// Has slow viewers read as fast as they can.
    hurry: Arc<AtomicBool>,
    prying: Option<Prying>,
    at_once: Duration,
    most: Arc<Mutex<BTreeMap<String, Most>>>,
    processes: Arc<Mutex<BTreeMap<u32, &'static str>>>,
    over: watch::Sender<bool>,
    shoppers: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    planted: BTreeSet<u64>,
    deeds: BTreeMap<String, u64>,
    seed: u64,
    begun: Instant,
}

impl Scene {
    /// Starts everything, and opens the shops.
    pub async fn open(ground: impl Into<Ground>, seed: u64) -> Self {
        let mut scene = Self::set(ground, seed).await;
        scene.begin().await;
        scene
    }

    /// Opens the shops.
    pub async fn begin(&mut self) {
        self.plant().await;
        self.seat().await;
        self.shop();
        for number in 0..TRIED_BEFORE {
            let took = self.told_within(support::patience()).await;
            let took = took.expect("events are told before anything fails");
            // The first one waits for somebody to take the partition.
            if number > 0 {
                self.at_once = self.at_once.max(took * SLOWNESS_MAX).min(AT_ONCE_MAX);
            }
        }
    }

    /// Starts everything.
    pub async fn set(ground: impl Into<Ground>, seed: u64) -> Self {
        let mut ground = ground.into();
        // It is needed where the cell comes to no end.
        ground.stack.keep_folder();
        super::say(&format!("  logs are in {}", ground.stack.folder().display()));
        let begun = Instant::now();
        let keys = ground.stack.folder().join("keys");
        let places = ground.places.clone().unwrap_or_else(|| Places::from(&ground.stack));
        let mut members = Vec::new();
        for role in ground.roles {
            let service = launch(&ground, role, &keys);
            members.push(Member { role, service });
        }
        for member in &members {
            member.service.wait_ready().await;
        }
        let processes = members.iter().map(|member| (member.service.pid(), member.role));
        let processes = Arc::new(Mutex::new(processes.collect()));
        let most = Arc::<Mutex<BTreeMap<String, Most>>>::default();
        let measuring = measure(
            ground.stack.folder().to_owned(),
            Arc::clone(&processes),
            Arc::clone(&most),
        );
        let mut apis = members.iter().filter(|member| member.role == "api");
        let mut network = Network::new(apis.next().expect("an API").service.http_url());
        network.gives_up = true;
        network.others = apis.map(|api| api.service.http_url()).collect();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            members,
            network,
            watch: Watch::start(places).await,
            notes: Vec::new(),
            alarms: Vec::new(),
            forgets: false,
            ground,
            viewers: Vec::new(),
            hurry: Arc::default(),
            prying: None,
            at_once: AT_ONCE,
            most,
            processes,
            over: watch::Sender::new(false),
            shoppers: Vec::new(),
            tasks: vec![tokio::spawn(measuring)],
            planted: BTreeSet::new(),
            deeds: BTreeMap::new(),
            seed,
            begun,
        }
    }

    /// The servers' stack.
    pub fn stack(&mut self) -> &mut Stack {
        &mut self.ground.stack
    }

    /// The proxies.
    pub fn ways(&self) -> &Ways {
        self.ground.ways.as_ref().expect("the scene has proxies")
    }

    /// Where the servers are.
    pub fn places(&self) -> Places {
        let places = self.ground.places.clone();
        places.unwrap_or_else(|| Places::from(&self.ground.stack))
    }

    /// Notes that something was done.
    pub fn did(&mut self, deed: impl Into<String>) {
        *self.deeds.entry(deed.into()).or_default() += 1;
    }

    /// Waits for so many milliseconds.
    pub async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(milliseconds))).await;
    }

    /// Starts a process again in the place of one that has ended.
    pub fn launch(&mut self, place: usize) {
        let keys = self.ground.stack.folder().join("keys");
        let service = launch(&self.ground, self.members[place].role, &keys);
        let role = self.members[place].role;
        self.processes.lock().unwrap().insert(service.pid(), role);
        if role == "api" {
            *self.network.api.lock().unwrap() = service.http_url();
        }
        self.members[place].service = service;
    }

    /// Starts one process more of a role, and waits until it is ready.
    pub async fn join(&mut self, role: &'static str) {
        let keys = self.ground.stack.folder().join("keys");
        let service = launch(&self.ground, role, &keys);
        self.processes.lock().unwrap().insert(service.pid(), role);
        service.wait_ready().await;
        self.members.push(Member { role, service });
    }

    /// Stops a process for good, as an operator does.
    pub async fn leave(&mut self, place: usize) {
        let mut member = self.members.remove(place);
        let ended = member.service.stop().await;
        assert!(ended.success(), "{} ended with {ended}", member.role);
    }

    /// One session whose first event cannot be read, so that what follows in it has to wait and others do not.
    async fn plant(&mut self) {
        let context = async_nats::jetstream::new(self.places().client().await);
        let (shop, poisoned) = (shop_of(0), session());
        let good = event(&shop.to_string(), &poisoned, 1, "ADD", 5, 2.5, 2.5).to_string();
        for body in ["no event".to_owned(), good] {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("ce-subject", poisoned.as_str());
            headers.insert("ce-type", "ezout.checkout.action.v1");
            let subject = format!("checkout.{}.{shop}", partition_of(shop, PARTITIONS));
            let stored = context
                .publish_with_headers(subject, headers, body.into())
                .await
                .unwrap();
            let lane = self.places().spread.of_partition(partition_of(shop, PARTITIONS));
            self.planted.insert(lane.sequence(stored.await.unwrap().sequence));
        }
    }

    /// A token of a merchant of this shop.
    pub fn merchant(&self, shop: ShopId) -> String {
        self.token(&session(), Role::Merchant, shop)
    }

    fn token(&self, subject: &str, role: Role, shop: ShopId) -> String {
        let grant = Grant {
            subject: subject.to_owned(),
            role: Some(role.word().to_owned()),
            shops: vec![shop.to_string()],
            lasts: Duration::from_hours(1),
            ..Grant::default()
        };
        let keys = self.ground.stack.folder().join("keys");
        dev::sign(&keys, &grant, time::OffsetDateTime::now_utc()).unwrap()
    }

    /// Who watches a shop.
    pub fn watches(&mut self, shop: u32, slowness: Option<Duration>) {
        let shop = shop_of(shop);
        let seat = Seat {
            api: Arc::clone(&self.network.api),
            shop: shop.to_string(),
            token: self.merchant(shop),
            slowness,
            hurry: Arc::clone(&self.hurry),
        };
        self.viewers.push(Viewer::start(seat, self.rng.u64(..)));
    }

    /// What a viewer of a shop sends to get its updates.
    pub fn request_of_updates(&self, shop: u32) -> String {
        let shop = shop_of(shop);
        let token = self.merchant(shop);
        format!("GET /v1/shops/{shop}/updates HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {token}\r\n\r\n")
    }

    /// Viewers of each shop, and people who want to know what another shop has.
    async fn seat(&mut self) {
        for shop in 0..SHOPS {
            self.watches(shop, None);
        }
        let (identity, _) = self.network.one(&mut self.rng, shop_of(1)).await;
        let stranger = |role: Role, does_all| Stranger {
            name: role.word(),
            token: self.token(&session(), role, shop_of(2)),
            does_all,
        };
        let strangers = vec![stranger(Role::Merchant, false), stranger(Role::Support, true)];
        let permitted = self.token(PERMITTED, Role::Support, shop_of(1));
        let place = (Arc::clone(&self.network.api), identity.shop, identity.session);
        let corrections_wait = !self.members.iter().any(|member| member.role == "correct");
        let prying = Prying::new(place, strangers, permitted, corrections_wait);
        self.tasks.push(tokio::spawn(prying.clone().go_on()));
        self.prying = Some(prying);
    }

    /// Asks on behalf of strangers until each request is answered to whoever may; one that never is is found by the checker.
    async fn pry(&self, evidence: &mut Evidence, places: &Places) {
        let Some(prying) = &self.prying else { return };
        let asking = async {
            while !prying.is_shown() {
                prying.ask_all().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, asking).await;
        evidence.strangers.clone_from(&prying.answers.lock().unwrap());
        evidence.foreign = filed_by_others(&places.database().await, PERMITTED).await;
    }

    fn shop(&mut self) {
        for phone in 0..PHONES {
            let (network, is_over, seed) = (self.network.clone(), self.over.subscribe(), self.seed);
            let shopping = async move {
                let mut visit = 0;
                while !*is_over.borrow() {
                    let until = tokio::time::Instant::now() + Duration::from_millis(1);
                    network.shop(seed ^ (phone << 32 | visit << 40), SHOPS, until).await;
                    visit += 1;
                }
            };
            self.shoppers.push(tokio::spawn(shopping));
        }
    }

    /// Has the phones go home, and waits until each has been answered.
    pub async fn close(&mut self) {
        self.over.send_replace(true);
        for shopper in self.shoppers.drain(..) {
            let answered = tokio::time::timeout(PATIENCE, shopper).await;
            answered.expect("every phone is answered in the end").unwrap();
        }
    }

    /// Opens the shops again.
    pub fn reopen(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        self.over.send_replace(false);
        self.shop();
    }

    /// What phones know so far.
    pub fn phones(&self) -> Phones {
        self.network.phones.lock().unwrap().clone()
    }

    /// The longest time without a receipt, and without an update, since this moment; until another one, where that matters.
    pub fn longest_pauses(&self, since: Instant, until: Option<Instant>) -> String {
        let longest = |at: &[Instant]| longest_pause(at, since, until).as_secs_f64();
        let receipts = longest(&self.network.phones.lock().unwrap().acknowledged_at);
        let updates = longest(&self.watch.heard_at());
        format!("longest pause of publishing {receipts:.1} s, of updates for a plain subscriber {updates:.1} s")
    }

    /// Sends an event, and answers after how long it was told, if it was within this time.
    async fn told_within(&mut self, longest: Duration) -> Option<Duration> {
        let sent = Instant::now();
        let (identity, sequence) = self.network.one(&mut self.rng, shop_of(SHOPS)).await;
        let heard = async {
            while !self.watch.has_heard(&identity.shop, sequence) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let heard = tokio::time::timeout(longest.saturating_sub(sent.elapsed()), heard);
        heard.await.ok().map(|()| sent.elapsed())
    }

    /// How everything goes on from now on until events are told at once again.
    async fn recovery(&mut self) -> Recovery {
        let begun = Instant::now();
        let (mut well_since, mut well) = (begun, 0);
        while well < IN_A_ROW && begun.elapsed() < support::patience() {
            if self.told_within(self.at_once).await.is_some() {
                well += 1;
            } else {
                (well, well_since) = (0, Instant::now());
            }
        }
        let is_well = well == IN_A_ROW;
        let until = if is_well { well_since } else { Instant::now() };
        Recovery {
            took: until - begun,
            standstill: longest_pause(&self.watch.heard_at(), begun, Some(until)),
            is_well,
        }
    }

    /// Ends a cell whose faults have ended just now, and checks everything.
    pub async fn finish(mut self) -> Outcome {
        let evidence = self.settle().await;
        self.tell(&evidence)
    }

    /// Ends a cell whose faults have ended just now, and gathers what the checker needs.
    pub async fn settle(&mut self) -> Evidence {
        let recovered = self.recovery().await;
        self.close().await;
        for member in &self.members {
            member.service.wait_ready().await;
        }
        let places = self.places();
        let mut evidence = self.watch.gather(places.clone(), self.phones()).await;
        self.viewers_end(&evidence).await;
        self.pry(&mut evidence, &places).await;
        evidence.recovered = Some(recovered);
        evidence.planted.clone_from(&self.planted);
        evidence.viewers = self.viewers.iter().map(Viewer::viewed).collect();
        evidence.rebuilt = Some(self.rebuild(&places).await);
        evidence.most.clone_from(&self.most.lock().unwrap());
        evidence.alarms.clone_from(&self.alarms);
        evidence.forgets = self.forgets;
        evidence.replicated = places.nats.contains(',');
        let (logs, panics) = super::panics(self.ground.stack.folder());
        evidence.logs_read = logs;
        evidence.seen.extend(panics);
        let longest = format!(
            "events told at once {:.1} s after the last fault; {}",
            recovered.took.as_secs_f64(),
            self.longest_pauses(self.begun, None)
        );
        self.notes.push(longest);
        self.notes.push(most(&evidence.most));
        evidence
    }

    /// Checks everything. The folder of the servers stays where a promise is broken.
    pub fn tell(mut self, evidence: &Evidence) -> Outcome {
        let report = checker::check(evidence);
        let folder = self.ground.stack.folder().to_owned();
        let sound = report.violations.is_empty();
        if !sound {
            std::fs::write(folder.join("history.txt"), format!("{evidence:#?}")).unwrap();
            self.notes.push(format!("logs and history are in {}", folder.display()));
        }
        for task in &self.tasks {
            task.abort();
        }
        let outcome = Outcome {
            report,
            deeds: std::mem::take(&mut self.deeds),
            events: evidence.phones.events.len(),
            seconds: self.begun.elapsed().as_secs_f64(),
            notes: std::mem::take(&mut self.notes),
        };
        drop(self);
        if sound {
            let _ = std::fs::remove_dir_all(folder);
        }
        outcome
    }

    /// Waits until each viewer has the last event of its shop; one that never has it is found by the checker.
    async fn viewers_end(&self, evidence: &Evidence) {
        self.hurry.store(true, Ordering::Relaxed);
        let waiting = async {
            for viewer in &self.viewers {
                let shop = viewer.viewed().shop;
                let of_shop = evidence.updates.iter().filter(|update| update.subject.ends_with(&shop));
                let last = of_shop.map(|update| update.sequence).max();
                while viewer.last() < last {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
    }

    /// The journal folded into new baskets beside those that are read.
    async fn rebuild(&self, places: &Places) -> BTreeMap<String, mongodb::bson::Document> {
        let mut environment = vec![
            ("EZOUT_MONGODB_URI", places.mongodb.as_str()),
            ("EZOUT_NATS_URL", &places.nats),
        ];
        let own = self
            .ground
            .environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        environment.extend(own);
        printed(&self.ground.stack.ezout_with(&["rebuild", "--anew"], &environment).await);
        let database = places.database().await;
        let name = wait_for("the baskets that were folded anew", async || {
            let names = database.list_collection_names().await.ok()?;
            names
                .into_iter()
                .filter(|name| name.starts_with("baskets_"))
                .max_by_key(|name| (name.len(), name.clone()))
        })
        .await;
        baskets(&database, &name).await
    }
}

/// The longest time between two of these moments since this one; until another one, where that matters.
fn longest_pause(at: &[Instant], since: Instant, until: Option<Instant>) -> Duration {
    let within = |at: &Instant| *at >= since && until.is_none_or(|until| *at <= until);
    let at = at.iter().copied().filter(within);
    let at: Vec<Instant> = until.map(|_| since).into_iter().chain(at).chain(until).collect();
    let pauses = at.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.max().unwrap_or_default()
}

fn launch(ground: &Ground, role: &str, keys: &Path) -> Service {
    let mut environment = vec![("EZOUT_HEARTBEAT", "500ms".to_owned())];
    if role == "api" {
        environment.extend([
            ("EZOUT_AUTH", "dev".to_owned()),
            ("EZOUT_AUTH_DEV_KEYS", keys.display().to_string()),
            ("EZOUT_AUTH_ANONYMOUS", "append".to_owned()),
        ]);
    }
    if let Some(places) = &ground.places {
        environment.push(("EZOUT_NATS_URL", places.nats.clone()));
        environment.push(("EZOUT_MONGODB_URI", places.mongodb.clone()));
    }
    environment.extend(ground.ways.iter().flat_map(|ways| ways.of(role)));
    environment.extend(ground.environment.iter().cloned());
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    ground.stack.launch(role, &environment)
}

/// Looks each second at what the processes of the service and its servers have.
async fn measure(
    folder: PathBuf,
    processes: Arc<Mutex<BTreeMap<u32, &'static str>>>,
    most: Arc<Mutex<BTreeMap<String, Most>>>,
) {
    loop {
        let mut all = processes.lock().unwrap().clone();
        all.extend(servers(&folder));
        for (pid, name) in all {
            let Some(now) = has(pid) else { continue };
            let mut most = most.lock().unwrap();
            let so_far = most.entry(name.to_owned()).or_default();
            so_far.memory = so_far.memory.max(now.memory);
            so_far.descriptors = so_far.descriptors.max(now.descriptors);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The servers whose data is in this folder.
fn servers(folder: &Path) -> Vec<(u32, &'static str)> {
    let folder = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let servers = processes.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(process.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let name = ["nats-server", "mongod", "resgate"];
        let name = name
            .into_iter()
            .find(|name| command.split('\0').next().is_some_and(|first| first.ends_with(name)))?;
        command.contains(&folder).then_some((pid, name))
    });
    servers.collect()
}

fn has(pid: u32) -> Option<Most> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Most {
        memory: kilobytes * 1024,
        descriptors,
    })
}

fn most(most: &BTreeMap<String, Most>) -> String {
    let each = most.iter().map(|(name, most)| {
        let megabytes = most.memory / (1024 * 1024);
        format!("{name} {megabytes} MB and {} descriptors", most.descriptors)
    });
    format!("at most {}", each.collect::<Vec<_>>().join(", "))
}
