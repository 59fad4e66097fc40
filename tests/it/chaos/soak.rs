//! Steady load with a fault every minute, for as long as is asked: what grows, and that nothing is lost or doubled.
//!
//! One process that does everything is never stopped, so what leaks in it shows; others beside it and the servers are
//! killed and frozen. `make soak` says for how long, and where the series and their picture are.

mod picture;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezout::tools::simulate::visit::shop_of;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::collect::Watch;
use super::phones::Network;
use super::{checker, chosen, panics, say, supervisor};
use crate::live::viewer::Viewer;
use crate::support::{Service, Stack};
use picture::Chart;

/// How long a soak is where nobody says, and how often something is done to it.
const SECONDS: u64 = 15;
const FAULTS: u64 = 60;
const SHOPS: u32 = 8;
/// Some 100 events a second.
const PHONES: u64 = 6;
/// Who watches: so many viewers stay, and one at a time comes and goes.
const VIEWERS: u32 = 16;
/// From so long a soak on, what grows breaks it: before that caches fill.
const LONG: Duration = Duration::from_mins(20);

const ABANDONING: (&str, &str) = ("EZOUT_ABANDON_AFTER", supervisor::ABANDON_AFTER);

/// What is done, in turn by chance.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillNats,
    PauseNats,
    KillMongod,
    PauseMongod,
    KillProjector,
    PauseProjector,
    KillApi,
}

const ALL: [Fault; 7] = [
    Fault::KillNats,
    Fault::PauseNats,
    Fault::KillMongod,
    Fault::PauseMongod,
    Fault::KillProjector,
    Fault::PauseProjector,
    Fault::KillApi,
];

/// What runs.
struct Soak {
    stack: Stack,
    /// Never stopped.
    lasting: Service,
    projector: Service,
    api: Service,
}

/// How everything stands at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    seconds: f64,
    lasting: Held,
    nats: Held,
    mongod: Held,
    lag_events: f64,
    drift_baskets: f64,
    cached_baskets: f64,
    scrubbed_baskets: f64,
    viewers: f64,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    megabytes: f64,
    descriptors: f64,
}

impl Held {
    fn of(id: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = kilobytes.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok());
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        Self {
            megabytes: kilobytes.unwrap_or(0.0) / 1024.0,
            descriptors: float(descriptors),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn float(number: usize) -> f64 {
    number as f64
}

/// What is looked at while faults are done, too.
#[derive(Clone)]
struct Look {
    admin_url: String,
    lasting: u32,
    projector: Arc<Mutex<String>>,
    /// Process ids of NATS and mongod.
    servers: Arc<Mutex<(u32, u32)>>,
}

impl Look {
    async fn sample(&self, begun: Instant) -> Sample {
        let projector = self.projector.lock().unwrap().clone();
        let (ours, theirs) = tokio::join!(figures(&self.admin_url), figures(&projector));
        let (nats, mongod) = *self.servers.lock().unwrap();
        let ours = ours.expect("the lasting process answers");
        let lag = |text: &str| sum(text, "ezout_projection_lag_events");
        Sample {
            seconds: begun.elapsed().as_secs_f64(),
            lasting: Held::of(self.lasting),
            nats: Held::of(nats),
            mongod: Held::of(mongod),
            lag_events: lag(&ours) + theirs.as_deref().map_or(0.0, lag),
            drift_baskets: sum(&ours, "ezout_drift_baskets"),
            cached_baskets: sum(&ours, "ezout_cached_baskets"),
            scrubbed_baskets: sum(&ours, "ezout_scrubbed_baskets_total"),
            viewers: sum(&ours, "ezout_live_viewers"),
        }
    }
}

/// The metrics of a process; nothing while it does not answer.
async fn figures(admin_url: &str) -> Option<String> {
    let asked = reqwest::Client::new().get(format!("{admin_url}/metrics"));
    let answer = asked.timeout(Duration::from_secs(5)).send().await.ok()?;
    answer.text().await.ok()
}

/// All series of that name together.
fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with([' ', '{']);
        rest.rsplit_once(' ').filter(|_| is_it)?.1.parse::<f64>().ok()
    });
    values.sum()
}

impl Soak {
    async fn start() -> Self {
        let mut stack = Stack::start().await;
        stack.keep_folder();
        // Drift is looked for all the time.
        let scrubbing = ("EZOUT_SCRUB_PER_MINUTE", "1000");
        let lasting = stack.service_with("serve", &[ABANDONING, scrubbing]).await;
        let projector = stack.service_with("project", &[ABANDONING]).await;
        let api = stack.service_with("api", &[ABANDONING]).await;
        Self {
            stack,
            lasting,
            projector,
            api,
        }
    }

    fn look(&self) -> Look {
        let servers = (self.stack.nats.pid(), self.stack.mongod.pid());
        Look {
            admin_url: self.lasting.admin_url(),
            lasting: self.lasting.pid(),
            projector: Arc::new(Mutex::new(self.projector.admin_url())),
            servers: Arc::new(Mutex::new(servers)),
        }
    }

    /// Does it, and mends it.
    async fn suffer(&mut self, look: &Look, fault: Fault, pause: Duration) {
        match fault {
            Fault::KillNats => {
                self.stack.nats.kill().await;
                tokio::time::sleep(pause).await;
                self.stack.nats.restart().await.unwrap();
            }
            Fault::PauseNats => {
                self.stack.nats.pause();
                tokio::time::sleep(pause).await;
                self.stack.nats.resume();
            }
            Fault::KillMongod => {
                self.stack.mongod.kill().await;
                tokio::time::sleep(pause).await;
                self.stack.mongod.restart().await.unwrap();
            }
            Fault::PauseMongod => {
                self.stack.mongod.pause();
                tokio::time::sleep(pause).await;
                self.stack.mongod.resume();
            }
            Fault::KillProjector => {
                self.projector.kill().await;
                self.projector = self.stack.launch("project", &[ABANDONING]);
            }
            Fault::PauseProjector => {
                self.projector.signal(Signal::STOP);
                tokio::time::sleep(pause * 2).await;
                self.projector.signal(Signal::CONT);
            }
            Fault::KillApi => {
                // Phones find it again where it was.
                let address = self.api.http_url().replace("http://", "");
                self.api.kill().await;
                let there = ("EZOUT_HTTP_ADDR", address.as_str());
                self.api = self.stack.launch("api", &[ABANDONING, there]);
            }
        }
        *look.servers.lock().unwrap() = (self.stack.nats.pid(), self.stack.mongod.pid());
        *look.projector.lock().unwrap() = self.projector.admin_url();
    }
}

/// Watches for ever, and comes back with its place whenever it is cut off; every `stays` it goes by itself.
async fn watch(url: String, shop: String, stays: Duration) {
    let mut last = None;
    loop {
        let until = Instant::now() + stays;
        let mut viewer = Viewer::connect(&url, &shop, last.take()).await;
        while let Ok(Some(_)) = tokio::time::timeout_at(until, viewer.next()).await {}
        last = viewer.last_id;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_time_under_load_and_faults_leaves_nothing_behind() {
    let seconds = chosen("EZOUT_SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = chosen("EZOUT_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let every = Duration::from_secs((seconds / 3).min(FAULTS));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut soak = Soak::start().await;
    say(&format!(
        "a soak of {seconds} s with a fault every {every:?}: EZOUT_CHAOS_SEED={seed}, logs in {}",
        soak.stack.folder().display()
    ));
    let watching = Watch::start(&soak.stack).await;
    let mut network = Network::new(soak.lasting.http_url());
    network.others.push(soak.api.http_url());
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let shoppers: Vec<_> = (0..PHONES)
        .map(|phone| {
            let network = network.clone();
            tokio::spawn(async move { network.shop(seed ^ (phone << 32), SHOPS, until).await })
        })
        .collect();
    let mut viewers = JoinSet::new();
    for number in 0..=VIEWERS {
        let stays = if number == VIEWERS {
            Duration::from_secs(2)
        } else {
            Duration::from_hours(1)
        };
        let shop = shop_of(number % SHOPS).to_string();
        viewers.spawn(watch(soak.lasting.http_url(), shop, stays));
    }

    let look = soak.look();
    let looking = tokio::spawn({
        let look = look.clone();
        async move {
            let mut samples = Vec::new();
            while Instant::now() < until {
                samples.push(look.sample(begun).await);
                tokio::time::sleep(Duration::from_secs((seconds / 600).max(1))).await;
            }
            samples
        }
    });
    let mut faults = Vec::new();
    let mut left: Vec<Fault> = Vec::new();
    for number in 1.. {
        let at = begun + every * number;
        if at + every / 2 > until {
            break;
        }
        tokio::time::sleep_until(at).await;
        if left.is_empty() {
            left = ALL.to_vec();
            rng.shuffle(&mut left);
        }
        let fault = left.pop().unwrap();
        faults.push((begun.elapsed().as_secs_f64(), format!("{fault:?}")));
        let pause = Duration::from_millis(rng.u64(500..4_000));
        soak.suffer(&look, fault, pause).await;
    }
    let samples = looking.await.unwrap();
    for shopper in shoppers {
        let answered = tokio::time::timeout(Duration::from_mins(1), shopper).await;
        answered.expect("every phone is answered in the end").unwrap();
    }
    let gone = std::iter::from_fn(|| viewers.try_join_next()).count();
    assert_eq!(gone, 0, "a viewer was not let in again");

    for service in [&soak.projector, &soak.api] {
        service.wait_ready().await;
    }
    watching.all_abandoned(&soak.stack).await;
    let phones = network.phones.lock().unwrap().clone();
    let mut evidence = watching.gather(&soak.stack, phones).await;
    evidence.abandon_after_ms = supervisor::ABANDON_AFTER_MS;
    evidence.seen.extend(panics(soak.stack.folder()).1);
    let report = checker::check(&evidence);
    let last = look.sample(begun).await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
    write(&folder, &samples, &faults);
    say(&format!(
        "{} events sent, {} in the journal, {} faults, {} checks, {} broken; {}\nthe series and their picture: {}",
        evidence.phones.events.len(),
        evidence.journal.len(),
        faults.len(),
        report.total(),
        report.violations.len(),
        slopes(&samples),
        folder.display(),
    ));
    assert!(
        report.violations.is_empty(),
        "EZOUT_CHAOS_SEED={seed}: {:#?}",
        report.violations
    );
    assert_eq!((last.lag_events, last.drift_baskets), (0.0, 0.0), "{last:?}");
    assert!(last.scrubbed_baskets > 0.0, "drift was not looked for");
    if Duration::from_secs(seconds) >= LONG {
        assert_flat("memory", &samples, |held| held.megabytes);
        assert_flat("descriptors", &samples, |held| held.descriptors);
    }
    let _ = fs::remove_dir_all(soak.stack.folder());
}

/// In its second half the lasting process grows by no more than a tenth in an hour.
fn assert_flat(what: &str, samples: &[Sample], of: impl Fn(&Held) -> f64) {
    const GROWTH_MAX: f64 = 0.1;
    let half = &samples[samples.len() / 2..];
    let points = half
        .iter()
        .map(|sample| (sample.seconds / 3_600.0, of(&sample.lasting)));
    let points: Vec<(f64, f64)> = points.collect();
    let (slope, first) = (least_squares(&points), points[0].1);
    assert!(
        slope <= first * GROWTH_MAX,
        "{what} of {first:.1} grows by {slope:.1} in an hour"
    );
}

/// What grows by how much in an hour, from the second half of the samples.
fn slopes(samples: &[Sample]) -> String {
    let half = &samples[samples.len() / 2..];
    let mut text = String::from("in an hour of its second half grew");
    let of = |sample: &Sample| {
        [
            ("ezout", sample.lasting),
            ("NATS", sample.nats),
            ("mongod", sample.mongod),
        ]
    };
    for process in 0..3 {
        let name = of(&half[0])[process].0;
        let slope = |value: fn(&Held) -> f64| {
            let points: Vec<(f64, f64)> = half
                .iter()
                .map(|sample| (sample.seconds / 3_600.0, value(&of(sample)[process].1)))
                // It was away.
                .filter(|(_, value)| *value > 0.0)
                .collect();
            least_squares(&points)
        };
        let (memory, descriptors) = (slope(|held| held.megabytes), slope(|held| held.descriptors));
        let _ = write!(text, " {name} by {memory:+.1} MB and {descriptors:+.1} descriptors,");
    }
    text.trim_end_matches(',').to_owned()
}

/// The slope of the line that fits best.
fn least_squares(points: &[(f64, f64)]) -> f64 {
    let count = float(points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let square: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if square == 0.0 { 0.0 } else { both / square }
}

/// Writes the series, and one picture of them.
fn write(folder: &Path, samples: &[Sample], faults: &[(f64, String)]) {
    fs::create_dir_all(folder).unwrap();
    let mut table = String::from(
        "seconds,ezout_mb,ezout_descriptors,nats_mb,nats_descriptors,mongod_mb,mongod_descriptors,lag_events,drift_baskets,viewers,cached_baskets\n",
    );
    for sample in samples {
        let Sample {
            lasting, nats, mongod, ..
        } = sample;
        let _ = writeln!(
            table,
            "{:.0},{:.1},{},{:.1},{},{:.1},{},{},{},{},{}",
            sample.seconds,
            lasting.megabytes,
            lasting.descriptors,
            nats.megabytes,
            nats.descriptors,
            mongod.megabytes,
            mongod.descriptors,
            sample.lag_events,
            sample.drift_baskets,
            sample.viewers,
            sample.cached_baskets
        );
    }
    fs::write(folder.join("soak.csv"), table).unwrap();
    let series = |of: fn(&Sample) -> f64| samples.iter().map(|sample| (sample.seconds, of(sample))).collect();
    let charts = [
        Chart::new("memory of ezout, MB", series(|sample| sample.lasting.megabytes)),
        Chart::new("memory of NATS, MB", series(|sample| sample.nats.megabytes)),
        Chart::new("memory of mongod, MB", series(|sample| sample.mongod.megabytes)),
        Chart::new("descriptors of ezout", series(|sample| sample.lasting.descriptors)),
        Chart::new("events not yet projected", series(|sample| sample.lag_events)),
        Chart::new("baskets that drifted", series(|sample| sample.drift_baskets)),
        Chart::new("baskets in memory of ezout", series(|sample| sample.cached_baskets)),
    ];
    fs::write(folder.join("soak.svg"), picture::draw(&charts, faults)).unwrap();
}
