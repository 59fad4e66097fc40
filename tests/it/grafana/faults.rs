//! Faults, and the alerts that they fire: each its own, within its time, and nothing that is not its consequence.
//!
//! Time in the rules goes fifteen times as fast, so that the fifteen seconds of `grafana/prometheus.yml` are the one second
//! in which a test scrapes. `make chaos` tries every fault; other runs try the first ones.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ezout::core::id::{ShopId, partition_of};
use mongodb::bson::{DateTime, Document, doc};
use rustix::process::Signal;

use super::prometheus::{Prometheus, program};
use super::{files, place};
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, chosen, configure_journal, event, session, wait_for};

/// How much faster time goes in the rules.
const FASTER: u64 = 15;
/// How long everything is well before.
const WELL: Duration = Duration::from_secs(8);
/// How long a fault lasts after its alert, for others to follow.
const AFTER: Duration = Duration::from_secs(5);
/// Visits that go on beside the one that something is done to: few, so that all are looked at every few seconds, however
/// slow the machine is.
const VISITS: usize = 20;
/// What the machine that tests may have by itself.
const OF_THE_MACHINE: &str = "MongodbDiskFills";
/// Faults that are tried where nobody asks for all.
const SOME: usize = 3;

/// What is done to a system that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    BasketSpoiled,
    EventUnreadable,
    NatsDown,
    MongodbDown,
    MongodbSlow,
    ServiceDown,
    ServiceCrashes,
    ResgateDown,
    JournalFull,
    LeasesTaken,
    TokensForged,
    EditsByScript,
}

impl Fault {
    const ALL: [Self; 12] = [
        Self::BasketSpoiled,
        Self::EventUnreadable,
        Self::NatsDown,
        Self::MongodbDown,
        Self::MongodbSlow,
        Self::ServiceDown,
        Self::ServiceCrashes,
        Self::ResgateDown,
        Self::JournalFull,
        Self::LeasesTaken,
        Self::TokensForged,
        Self::EditsByScript,
    ];

    /// The alert that it fires, and those that are its consequences and may fire as well.
    fn alerts(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::BasketSpoiled => ("BasketsDrift", &[]),
            Self::EventUnreadable => ("EventsParked", &[]),
            Self::NatsDown => (
                "JournalUnavailable",
                &["PublishBudgetBurns", "ResgateDown", "BasketsLag", "ServersUnwatched"],
            ),
            Self::MongodbDown => (
                "ViewsUnavailable",
                &[
                    "BasketsLag",
                    "FreshnessBudgetBurns",
                    "PartitionsWithoutOwner",
                    "CorrectionsWithoutLeader",
                    "LeasesLost",
                    "ServersUnwatched",
                ],
            ),
            Self::MongodbSlow => (
                "FreshnessBudgetBurns",
                &[
                    "BasketsLag",
                    "LeasesLost",
                    "ViewsUnavailable",
                    "CorrectionsWithoutLeader",
                    "ServersUnwatched",
                ],
            ),
            Self::ServiceDown => ("ServiceDown", &["PartitionsWithoutOwner"]),
            Self::ServiceCrashes => (
                "ServiceRestarts",
                &[
                    "ServiceDown",
                    "CorrectionsWithoutLeader",
                    "PartitionsWithoutOwner",
                    "PublishBudgetBurns",
                ],
            ),
            Self::ResgateDown => ("ResgateDown", &[]),
            Self::JournalFull => ("JournalFull", &["DurabilityWeaker", "PublishBudgetBurns"]),
            Self::LeasesTaken => (
                "LeasesLost",
                &["PartitionsWithoutOwner", "BasketsLag", "FreshnessBudgetBurns"],
            ),
            Self::TokensForged => ("RefusalsFlood", &[]),
            Self::EditsByScript => ("ShopsHeld", &[]),
        }
    }
}

/// A system under a little load, with a Prometheus.
struct Place {
    prometheus: Prometheus,
    resgate: Resgate,
    service: Service,
    stack: Stack,
    environment: Vec<(&'static str, String)>,
    shop: String,
    visit: String,
    sending: Arc<AtomicBool>,
    /// When everything was there.
    since: Instant,
}

impl Place {
    async fn start(server: &Path, fault: Fault) -> Option<Self> {
        let stack = Stack::start().await;
        let resgate = Resgate::start(&stack).await?;
        let mut environment = vec![
            ("EZOUT_SCRUB_PER_MINUTE", "600".to_owned()),
            (
                "EZOUT_HTTP_ADDR",
                format!("127.0.0.1:{}", ezout::tools::servers::free_port().unwrap()),
            ),
        ];
        match fault {
            Fault::EditsByScript => environment.push(("EZOUT_EDITS_PER_MINUTE", "5".to_owned())),
            Fault::TokensForged => {
                environment.push(("EZOUT_AUTH", "dev".to_owned()));
                environment.push(("EZOUT_AUTH_DEV_KEYS", stack.folder().join("keys").display().to_string()));
            }
            _ => {}
        }
        let service = started(&stack, &environment).await;
        let resgate_metrics = super::prometheus::uncompressed(resgate.server.metrics_url()).await;
        let rules = stack.folder().join("rules");
        faster(&rules);
        let targets = [
            ("ezout", service.admin_url().trim_start_matches("http://").to_owned()),
            ("resgate", resgate_metrics),
        ];
        let targets: Vec<(&str, &str)> = targets.iter().map(|(job, target)| (*job, &**target)).collect();
        let prometheus = Prometheus::start_with(server, stack.folder(), &targets, &rules).await;
        let quiet = format!("sum(up) unless on () ALERTS{{alertname!=\"{OF_THE_MACHINE}\"}}");
        // Before its first scrape nothing is there, and that is no fault.
        wait_for("a scrape of both, and no alert of the time before", async || {
            let up = prometheus.find(&quiet).await.ok()?;
            (up.first()?.1 >= 2.0).then_some(())
        })
        .await;
        let place = Self {
            since: Instant::now(),
            prometheus,
            resgate,
            service,
            stack,
            environment,
            shop: session(),
            visit: session(),
            sending: Arc::new(AtomicBool::new(fault != Fault::TokensForged)),
        };
        place.load();
        Some(place)
    }

    /// Twenty events a second, until the place is gone; what is refused is not sent again.
    fn load(&self) {
        let (url, shop, visit) = (self.service.http_url(), self.shop.clone(), self.visit.clone());
        let sending = Arc::clone(&self.sending);
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            let others: Vec<String> = (0..VISITS).map(|_| session()).collect();
            let visits = std::iter::once(&visit).chain(others.iter().cycle());
            for (number, visit) in (1..).zip(visits) {
                tick.tick().await;
                if !sending.load(Ordering::Relaxed) {
                    break;
                }
                let event = event(&shop, visit, number, "ADD", 1, 1.5, 1.5);
                let sent = client.post(format!("{url}/publish/{shop}")).json(&event);
                tokio::spawn(sent.timeout(Duration::from_secs(5)).send());
            }
        });
    }

    /// Alerts that fire, or have fired since everything was there.
    async fn fired(&self) -> BTreeSet<String> {
        let since = self.since.elapsed().as_millis();
        let query = format!("count by (alertname) (count_over_time(ALERTS{{alertstate=\"firing\"}}[{since}ms]))");
        let found = self.prometheus.find(&query).await.unwrap();
        let name = |labels: &serde_json::Value| labels["alertname"].as_str().unwrap().to_owned();
        let names = found.iter().map(|(labels, _)| name(labels));
        names.filter(|name| name != OF_THE_MACHINE).collect()
    }

    async fn baskets(&self) -> mongodb::Collection<Document> {
        self.stack.database().await.collection("baskets")
    }

    /// Does it, and answers what has to go on until the alert has fired.
    async fn inject(&mut self, fault: Fault) -> Option<tokio::task::JoinHandle<()>> {
        match fault {
            Fault::BasketSpoiled => {
                let spoil = doc! { "$set": { "item_count": 77_i64 } };
                let which = doc! { "_id": format!("{}.{}", self.shop, self.visit) };
                let done = self
                    .baskets()
                    .await
                    .update_one(which, spoil)
                    .bypass_document_validation(true)
                    .await;
                assert_eq!(done.unwrap().modified_count, 1);
            }
            Fault::EventUnreadable => {
                let shop = ShopId::parse(&self.shop).unwrap();
                let subject = format!("checkout.{}.{shop}", partition_of(shop, 16));
                let context = self.stack.jetstream().await;
                context
                    .publish(subject, "no event".into())
                    .await
                    .unwrap()
                    .await
                    .unwrap();
            }
            Fault::NatsDown => {
                self.stack.nats.kill().await;
                self.resgate.loses_nats().await;
            }
            Fault::MongodbDown => self.stack.mongod.kill().await,
            Fault::MongodbSlow => return Some(self.slow_mongod()),
            Fault::ServiceDown => self.service.kill().await,
            Fault::ServiceCrashes => {
                for _ in 0..3 {
                    self.service.kill().await;
                    self.service = self.again().await;
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            }
            Fault::ResgateDown => self.resgate.kill().await,
            Fault::JournalFull => {
                let context = self.stack.jetstream().await;
                configure_journal(&context, self.stack.spread, |config| config.max_bytes = 1).await;
            }
            Fault::LeasesTaken => {
                let leases = self.stack.database().await.collection::<Document>("leases");
                let later = DateTime::from_millis(DateTime::now().timestamp_millis() + 600_000);
                let taken =
                    doc! { "$set": { "owner": "somebody/1/else", "expires_at": later }, "$inc": { "fence": 1_i64 } };
                let done = leases
                    .update_many(doc! { "fence": { "$exists": true } }, taken)
                    .await
                    .unwrap();
                assert!(done.modified_count > 0);
            }
            Fault::TokensForged => {
                let url = format!("{}/v1/shops/{}/summary", self.service.http_url(), self.shop);
                return Some(tokio::spawn(async move {
                    let mut tick = tokio::time::interval(Duration::from_millis(25));
                    loop {
                        tick.tick().await;
                        tokio::spawn(reqwest::Client::new().get(&url).bearer_auth("a.b.c").send());
                    }
                }));
            }
            Fault::EditsByScript => {
                let baskets = self.baskets().await;
                for number in 0..20 {
                    let edit = doc! { "$set": { "lines.$[].quantity": 2 + number } };
                    let which = doc! { "_id": format!("{}.{}", self.shop, self.visit) };
                    baskets.update_one(which, edit).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        None
    }

    /// The service once more, where it was.
    async fn again(&self) -> Service {
        let mut environment = self.environment.clone();
        environment.push(("EZOUT_ADMIN_ADDR", self.service.admin_url().replace("http://", "")));
        started(&self.stack, &environment).await
    }

    /// Lets mongod run a twentieth of the time.
    fn slow_mongod(&self) -> tokio::task::JoinHandle<()> {
        let pid = i32::try_from(self.stack.mongod.pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        tokio::spawn(async move {
            let running = Running(pid);
            loop {
                rustix::process::kill_process(running.0, Signal::STOP).unwrap();
                tokio::time::sleep(Duration::from_millis(1_900)).await;
                rustix::process::kill_process(running.0, Signal::CONT).unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }
}

/// A process that is stopped now and then. However that ends, it goes on.
struct Running(rustix::process::Pid);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

async fn started(stack: &Stack, environment: &[(&str, String)]) -> Service {
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, &**value)).collect();
    stack.service_with("serve", &environment).await
}

/// Writes the rules of `grafana/` to a folder, with every duration a fifteenth of what it is.
fn faster(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for path in files("rules", "yml").values() {
        let name = path.file_name().unwrap();
        let rules = fs::read_to_string(place("rules").join(name)).unwrap();
        fs::write(folder.join(name), faster_rules(&rules)).unwrap();
    }
}

fn faster_rules(rules: &str) -> String {
    let mut out = String::new();
    for line in rules.lines() {
        let (key, said) = line.split_once(':').unwrap_or((line, ""));
        match key.trim_start_matches([' ', '-']) {
            "for" => writeln!(out, "{key}: {}", divided(said.trim())).unwrap(),
            "expr" => {
                let mut rest = said;
                write!(out, "{key}:").unwrap();
                while let Some(at) = rest
                    .find(['['])
                    .into_iter()
                    .chain(rest.find("offset ").map(|at| at + 6))
                    .min()
                {
                    out.push_str(&rest[..=at]);
                    rest = &rest[at + 1..];
                    let end = rest
                        .find(|letter: char| !letter.is_ascii_alphanumeric())
                        .unwrap_or(rest.len());
                    out.push_str(&divided(&rest[..end]));
                    rest = &rest[end..];
                }
                writeln!(out, "{rest}").unwrap();
            }
            _ => writeln!(out, "{line}").unwrap(),
        }
    }
    out
}

/// A duration of Prometheus, a fifteenth of it.
fn divided(duration: &str) -> String {
    let (number, unit) = duration.split_at(duration.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => panic!("{duration} is no duration"),
    };
    format!("{}ms", number.parse::<u64>().unwrap() * seconds * 1_000 / FASTER)
}

async fn try_fault(server: &Path, fault: Fault) {
    let Some(mut place) = Place::start(server, fault).await else {
        return;
    };
    tokio::time::sleep(WELL).await;
    assert_eq!(place.fired().await, BTreeSet::new(), "{fault:?}: before it");
    let (alert, may) = fault.alerts();
    let begin = Instant::now();
    let going = place.inject(fault).await;
    wait_for(&format!("{alert} after {fault:?}"), async || {
        place.fired().await.contains(alert).then_some(())
    })
    .await;
    let took = begin.elapsed();
    tokio::time::sleep(AFTER).await;
    if let Some(going) = going {
        going.abort();
    }
    place.sending.store(false, Ordering::Relaxed);
    let mut others = place.fired().await;
    others.remove(alert);
    let named: Vec<&str> = others.iter().map(String::as_str).collect();
    let line = format!(
        "{fault:?}: {alert} after {:.0} s, as {:.0} s of the rules; with it {named:?}\n",
        took.as_secs_f64(),
        took.as_secs_f64() * 15.0
    );
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    let unasked: Vec<&str> = named.into_iter().filter(|name| !may.contains(name)).collect();
    assert!(unasked.is_empty(), "{fault:?} fires {unasked:?} as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_each_fault_fires_its_alert_and_nothing_else() {
    let Some(server) = program("prometheus") else { return };
    let faults = match chosen("EZOUT_FAULTS").as_deref() {
        None => Fault::ALL[..SOME].to_vec(),
        Some("all") => Fault::ALL.to_vec(),
        Some(name) => Fault::ALL
            .into_iter()
            .filter(|fault| format!("{fault:?}") == name)
            .collect(),
    };
    assert!(!faults.is_empty(), "EZOUT_FAULTS is all, or the name of a fault");
    for fault in faults {
        try_fault(&server, fault).await;
    }
}

#[test]
fn time_goes_faster_in_rules() {
    let rules = "- alert: A\n  expr: 'a[15m] offset 2m > 2 and ezout:b:rate5m[1h]'\n  for: 1m\n";
    let wanted = "- alert: A\n  expr: 'a[60000ms] offset 8000ms > 2 and ezout:b:rate5m[240000ms]'\n  for: 4000ms\n";
    assert_eq!(faster_rules(rules), wanted);
}
