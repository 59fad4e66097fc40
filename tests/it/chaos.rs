//! Crashes at every moment, and what must hold all the same.
//!
//! `chaos` kills and freezes processes and servers under load, by a seed that it prints; the tests in
//! [`cells`] cut the power at one place each, and those in [`moments`] make what chance seldom does; the [`matrix`]
//! has all faults, each with what shows that it is borne. The [`checker`] then compares what phones were told, the
//! journal, the baskets and the updates, promise by promise.
//! `EZOUT_CHAOS_SECONDS` and `EZOUT_CHAOS_SEED` choose the run.

mod cells;
mod checker;
mod collect;
mod doctored;
mod handover;
mod history;
mod matrix;
mod moments;
mod oracle;
mod phones;
mod promise;
mod rolling;
mod scene;
mod shuffled;
mod slow_link;
mod soak;
mod supervisor;
mod trio;
mod viewers;
mod watched;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::Stack;
use checker::Report;
use collect::Watch;
use history::Evidence;
use phones::Network;
use promise::Promise;
use supervisor::Supervisor;

/// How long a run is where nobody says.
const SECONDS: u64 = 60;
const SHOPS: u32 = 8;
const PHONES: u64 = 16;

#[expect(
    clippy::disallowed_methods,
    reason = "a switch for a test run, not an option of the product"
)]
fn chosen(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost_or_doubled() {
    let seconds = chosen("EZOUT_CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = chosen("EZOUT_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut stack = Stack::start().await;
    stack.keep_folder();
    let folder = stack.folder().to_owned();
    say(&format!(
        "chaos for {seconds} s: EZOUT_CHAOS_SEED={seed}, logs and history in {}",
        folder.display()
    ));

    let watch = Watch::start(&stack).await;
    let mut supervisor = Supervisor::start(stack, seed).await;
    let network = Network::new(supervisor.api_url());
    supervisor.tell(&network);
    let until = Instant::now() + Duration::from_secs(seconds);
    let shoppers: Vec<_> = (0..PHONES)
        .map(|phone| {
            let network = network.clone();
            tokio::spawn(async move { network.shop(seed ^ (phone << 32), SHOPS, until).await })
        })
        .collect();
    supervisor.torment(until).await;
    let stack = supervisor.calm().await;
    for shopper in shoppers {
        let patience = Duration::from_mins(1);
        let ended = tokio::time::timeout(patience, shopper).await;
        ended
            .unwrap_or_else(|_| {
                panic!(
                    "a phone is not answered, EZOUT_CHAOS_SEED={seed}, see {}",
                    folder.display()
                )
            })
            .unwrap();
    }

    let phones = network.phones.lock().unwrap().clone();
    watch.all_abandoned(stack).await;
    let mut evidence = watch.gather(stack, phones).await;
    evidence.abandon_after_ms = supervisor::ABANDON_AFTER_MS;
    let (logs, panics) = panics(&folder);
    evidence.logs_read = logs;
    evidence.seen.extend(panics);
    let report = checker::check(&evidence);
    say(&summary(&evidence, &report, supervisor.deeds()));
    if report.violations.is_empty() {
        drop(supervisor);
        let _ = std::fs::remove_dir_all(&folder);
        return;
    }
    std::fs::write(folder.join("history.txt"), format!("{evidence:#?}")).unwrap();
    panic!("EZOUT_CHAOS_SEED={seed}, see {}\n{}", folder.display(), broken(&report));
}

/// How many logs of the service there are, and their lines that tell of a panic.
fn panics(folder: &std::path::Path) -> (u64, Vec<(Promise, String)>) {
    let logs = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let (mut count, mut panics) = (0, Vec::new());
    for path in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        count += 1;
        let text = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text);
        let said = text.lines().filter(|line| line.contains("panicked"));
        panics.extend(said.map(|line| (Promise::I13, format!("{}: {line}", path.display()))));
    }
    (count, panics)
}

fn summary(evidence: &Evidence, report: &Report, deeds: &std::collections::BTreeMap<String, u64>) -> String {
    let events = &evidence.phones.events;
    let acknowledged = events.values().filter(|told| !told.receipts.is_empty()).count();
    let tries: u64 = events.values().map(|told| told.tries).sum();
    let heard: usize = evidence.heard.values().map(Vec::len).sum();
    let abandonments = evidence.journal.iter().filter(|event| event.is_abandonment).count();
    let mut text = format!(
        "{} events sent in {tries} tries ({} unanswered), {acknowledged} acknowledged, {} refused as contradictions\n\
         {} in the journal, {abandonments} of them that a basket is abandoned, {} baskets, {} updates stored, {heard} heard live\n\
         {} checks, {} broken; done:",
        events.len(),
        evidence.phones.unanswered,
        evidence.phones.conflicts,
        evidence.journal.len(),
        evidence.baskets.len(),
        evidence.updates.len(),
        report.total(),
        report.violations.len(),
    );
    for (deed, times) in deeds {
        let _ = write!(text, " {deed} ×{times},");
    }
    text
}

/// As many broken promises as are shown.
const SHOWN: usize = 25;

fn broken(report: &Report) -> String {
    let mut text = format!("{} promises were broken:\n", report.violations.len());
    for violation in report.violations.iter().take(SHOWN) {
        let _ = writeln!(text, "- {violation}");
    }
    text
}
