//! The partitions: who projects each, whether it is folded from this journal, and how far.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use time::OffsetDateTime;

use super::commands::Commands;
use super::report::{Finding, counted, partitions};
use super::{LOOK_PAUSE, LOOKS};
use crate::core::error_chain;
use crate::journal::{Backlog, Journal};
use crate::project::{LEASE_TTL, VerifyError, verify};
use crate::views::{Checkpoint, LeaseState, Leases, ViewError, Views};

const LEASES: &str = "leases";
const CHECKPOINTS: &str = "checkpoints";
const LAG: &str = "lag";

/// An event that waits for longer is looked at again, to see whether its partition moves.
const WAITS: Duration = Duration::from_secs(2);
/// Lag that a person should hear of though it is being worked off.
const LAGS: Duration = Duration::from_secs(10);
/// Partitions that are asked for at a time.
const SIDE_BY_SIDE: usize = 16;

/// Who owns what.
pub(super) async fn leases(views: &Views, count: Option<u16>, commands: &Commands) -> Vec<Finding> {
    let mut looks = 1;
    loop {
        let now = match views.leases_now().await {
            Ok(now) => now,
            Err(error) => return vec![Finding::fail(LEASES, error_chain(&error), commands.doctor())],
        };
        let findings = judge_leases(&now, count, commands);
        // Whoever has just started, or is about to take over, gets the time for it.
        if now.living.is_empty() || looks == LOOKS || findings.iter().all(Finding::is_ok) {
            return findings;
        }
        looks += 1;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn judge_leases(now: &Leases, count: Option<u16>, commands: &Commands) -> Vec<Finding> {
    let by_partition: HashMap<u16, &LeaseState> = now.partitions.iter().map(|lease| (lease.partition, lease)).collect();
    let known = now
        .partitions
        .iter()
        .map(|lease| lease.partition + 1)
        .max()
        .unwrap_or(0);
    let count = count.unwrap_or(known);
    let reach_ms = i64::try_from(2 * LEASE_TTL.as_millis()).unwrap_or(i64::MAX);
    let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut free, mut expired, mut stuck) = (Vec::new(), BTreeMap::new(), Vec::new());
    for partition in 0..count {
        match by_partition.get(&partition) {
            Some(LeaseState {
                owner: Some(owner),
                left_ms,
                ..
            }) if *left_ms > reach_ms => {
                stuck.push((partition, *left_ms, process(owner)));
            }
            Some(LeaseState {
                owner: Some(owner),
                left_ms,
                ..
            }) if *left_ms > 0 => {
                *owners.entry(process(owner)).or_default() += 1;
            }
            Some(LeaseState {
                owner: Some(owner),
                left_ms,
                ..
            }) => {
                let (of, since): &mut (Vec<u16>, i64) = expired.entry(process(owner)).or_default();
                of.push(partition);
                *since = (*since).max(-left_ms);
            }
            _ => free.push(partition),
        }
    }
    let alive = match now.living.len() {
        0 => "no projector lives".to_owned(),
        living => format!("{} living", counted(living as u64, "projector")),
    };
    // Who lives and takes nothing is asked why; where nobody lives, somebody is to.
    let next = || {
        if now.living.is_empty() {
            commands.project()
        } else {
            commands.readyz()
        }
    };
    let mut findings = Vec::new();
    for (owner, (of, since_ms)) in &expired {
        let fact = format!(
            "{}: the lease of {owner} expired {} s ago and nobody has taken it, {alive}",
            partitions(of),
            since_ms / 1_000
        );
        findings.push(Finding::fail(LEASES, fact, next()));
    }
    if !free.is_empty() {
        let fact = format!("{}: owned by nobody, {alive}", partitions(&free));
        findings.push(Finding::fail(LEASES, fact, next()));
    }
    for (partition, left_ms, owner) in stuck {
        let fact = format!(
            "partition {partition}: the lease of {owner} lasts for {} s, and none is given for more than {}: MongoDB's clock has been set back",
            left_ms / 1_000,
            LEASE_TTL.as_secs()
        );
        let script = format!(
            "db.leases.updateOne({{ _id: {partition} }}, {{ $set: {{ owner: null, expires_at: new Date(0) }} }})"
        );
        findings.push(Finding::fail(LEASES, fact, commands.mongosh(&script)));
    }
    if findings.is_empty() {
        let owners: Vec<String> = owners.iter().map(|(owner, of)| format!("{owner} ({of})")).collect();
        let fact = if owners.is_empty() {
            "there is no partition yet".to_owned()
        } else {
            format!(
                "{} owned by {}",
                counted(u64::from(count), "partition"),
                owners.join(", ")
            )
        };
        findings.push(Finding::ok(LEASES, fact));
    }
    findings
}

/// The machine and the process of an owner, without what only makes its name unique.
fn process(owner: &str) -> &str {
    owner.rsplit_once('/').map_or(owner, |(process, _)| process)
}

/// A partition as it is folded.
struct Folded {
    partition: u16,
    checkpoint: Option<Checkpoint>,
    /// What speaks against going on from there.
    broken: Option<String>,
    backlog: Backlog,
}

impl Folded {
    fn place(&self) -> i64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence)
    }

    fn waits(&self, now: OffsetDateTime) -> Duration {
        let waits = self.backlog.since.map(|since| now - since).unwrap_or_default();
        Duration::try_from(waits).unwrap_or_default()
    }
}

/// Whether each partition is folded from this journal, and what it still has to fold; `ahead` is how far the clock of NATS is ahead.
pub(super) async fn folding(
    journal: &Journal,
    views: &Views,
    count: u16,
    ahead: time::Duration,
    commands: &Commands,
) -> Vec<Finding> {
    let looked = match look(journal, views, 0..count).await {
        Ok(looked) => looked,
        Err(error) => {
            let fact = format!("{error:#}");
            return vec![
                Finding::fail(CHECKPOINTS, fact, commands.doctor()),
                Finding::skipped(LAG, "checkpoints are not known"),
            ];
        }
    };
    let mut findings = checkpoints(&looked, views, commands).await;
    findings.extend(lag(journal, views, &looked, OffsetDateTime::now_utc() + ahead, commands).await);
    findings
}

async fn look(journal: &Journal, views: &Views, all: impl IntoIterator<Item = u16>) -> anyhow::Result<Vec<Folded>> {
    let one = |partition| async move {
        let checkpoint = views.load_checkpoint(partition).await?;
        let broken = match &checkpoint {
            None => None,
            Some(checkpoint) => match verify(journal, checkpoint).await {
                Ok(()) => None,
                Err(VerifyError::Broken(what)) => Some(what),
                Err(VerifyError::Unavailable(error)) => return Err(error.into()),
            },
        };
        let place = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
        let backlog = journal.backlog(partition, u64::try_from(place).unwrap_or(0)).await?;
        Ok(Folded {
            partition,
            checkpoint,
            broken,
            backlog,
        })
    };
    let looks = stream::iter(all).map(one).buffered(SIDE_BY_SIDE);
    looks.collect::<Vec<_>>().await.into_iter().collect()
}

async fn checkpoints(looked: &[Folded], views: &Views, commands: &Commands) -> Vec<Finding> {
    let mut broken: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for folded in looked {
        if let Some(what) = &folded.broken {
            broken.entry(what).or_default().push(folded.partition);
        }
    }
    if broken.is_empty() {
        let begun = looked.iter().filter(|folded| folded.checkpoint.is_some()).count();
        let fact = match begun {
            0 => "nothing is folded yet".to_owned(),
            begun => format!("{} folded from this journal", counted(begun as u64, "partition")),
        };
        return vec![Finding::ok(CHECKPOINTS, fact)];
    }
    let next = match fold_anew(views, commands).await {
        Ok(next) => next,
        Err(error) => return vec![Finding::fail(CHECKPOINTS, error_chain(&error), commands.doctor())],
    };
    let tell = |(what, of): (&str, Vec<u16>)| {
        let fact = format!("{}: {what}", partitions(&of));
        let first = "restore the journal from a copy; if it is lost for good, stop every projector, then";
        Finding::fail(CHECKPOINTS, fact, next.clone()).first(first)
    };
    broken.into_iter().map(tell).collect()
}

/// Drops everything that is made from the journal, so that projectors fold it from its beginning.
async fn fold_anew(views: &Views, commands: &Commands) -> Result<String, ViewError> {
    let mut collections: Vec<String> = views.versions().await?.iter().map(ToString::to_string).collect();
    collections.extend(["projections", "checkpoints", "parked_events"].map(str::to_owned));
    let list = serde_json::json!(collections);
    let script = format!("for (const name of {list}) db.getCollection(name).drop()");
    Ok(format!("{} && {}", commands.mongosh(&script), commands.migrate()))
}

async fn lag(
    journal: &Journal,
    views: &Views,
    looked: &[Folded],
    now: OffsetDateTime,
    commands: &Commands,
) -> Vec<Finding> {
    let behind = |folded: &&Folded| folded.broken.is_none() && folded.backlog.events > 0;
    let waiting: Vec<&Folded> = looked
        .iter()
        .filter(behind)
        .filter(|folded| folded.waits(now) > WAITS)
        .collect();
    let told = |of: &[&Folded]| {
        let events: u64 = of.iter().map(|folded| folded.backlog.events).sum();
        let waits = of.iter().map(|folded| folded.waits(now)).max().unwrap_or_default();
        let numbers: Vec<u16> = of.iter().map(|folded| folded.partition).collect();
        format!(
            "{}: {} not folded, the oldest for {:.1} s",
            partitions(&numbers),
            counted(events, "event"),
            waits.as_secs_f64()
        )
    };
    let mut findings = Vec::new();
    if !waiting.is_empty() {
        tokio::time::sleep(WAITS).await;
        let again = match look(journal, views, waiting.iter().map(|folded| folded.partition)).await {
            Ok(again) => again,
            Err(error) => return vec![Finding::fail(LAG, format!("{error:#}"), commands.doctor())],
        };
        let (moving, still): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .zip(again)
            .partition(|(before, after)| after.place() > before.place());
        let still: Vec<&Folded> = still.into_iter().map(|(before, _)| before).collect();
        let moving: Vec<&Folded> = moving
            .into_iter()
            .map(|(before, _)| before)
            .filter(|folded| folded.waits(now) > LAGS)
            .collect();
        if !still.is_empty() {
            let fact = format!("{}, and the checkpoint does not move", told(&still));
            let lives = views.leases_now().await.is_ok_and(|leases| !leases.living.is_empty());
            let next = if lives { commands.readyz() } else { commands.project() };
            findings.push(Finding::fail(LAG, fact, next));
        }
        if !moving.is_empty() {
            let fact = format!("{}, and the checkpoint moves", told(&moving));
            let finding = Finding::warn(LAG, fact, commands.project());
            findings.push(finding.first("it goes faster with one more projector"));
        }
    }
    if findings.is_empty() {
        let events: u64 = looked.iter().filter(behind).map(|folded| folded.backlog.events).sum();
        let fact = match events {
            0 => "every event is in its basket".to_owned(),
            events => format!("{} on the way", counted(events, "event")),
        };
        findings.push(Finding::ok(LAG, fact));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_by_machine_and_process() {
        assert_eq!(process("shop-1/4711/0123abcd"), "shop-1/4711");
        assert_eq!(process("0123abcd"), "0123abcd");
    }
}
