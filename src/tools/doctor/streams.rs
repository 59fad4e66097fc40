//! The two streams: whether they are what `nats/*.json` asks for, and whole.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{Context, ErrorCode};

use super::Args;
use super::commands::Commands;
use super::report::{Finding, counted};
use crate::journal::{self, Judgement, Lane, Servers, Spread};
use crate::nats::{Difference, differences};
use crate::updates;

const JOURNAL: &str = "journal";
const UPDATES: &str = "updates";

/// A server that keeps a copy says something to the others more often than this.
const SILENT: Duration = Duration::from_secs(5);

/// What is said of a stream.
pub(super) async fn find(context: &Context, name: &str) -> Result<Info, Missing> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) => {
            Err(Missing::NotThere)
        }
        Err(error) => Err(Missing::Silent(error.to_string())),
    }
}

/// The same, looked for a few times where it is not there.
pub(super) async fn find_within(context: &Context, name: &str, looks: u32, pause: Duration) -> Result<Info, Missing> {
    for _ in 1..looks {
        match find(context, name).await {
            Err(Missing::NotThere) => tokio::time::sleep(pause).await,
            found => return found,
        }
    }
    find(context, name).await
}

/// Why there is nothing to say of a stream.
pub(super) enum Missing {
    NotThere,
    Silent(String),
}

/// The streams of the journal.
pub(super) struct Found {
    by_lane: Vec<(Lane, Result<Info, Missing>)>,
    /// The number that the journal was created with, where that is another one.
    another: Option<Spread>,
}

/// What is said of the streams of a journal.
pub(super) async fn find_journal(context: &Context, spread: Spread) -> Found {
    let finds = spread
        .lanes()
        .map(async |lane| (lane, find(context, &lane.name()).await));
    let by_lane = futures::future::join_all(finds).await;
    let is_missing = by_lane.iter().any(|(_, found)| matches!(found, Err(Missing::NotThere)));
    let of_another = if is_missing {
        find(context, &spread.otherwise().name()).await.ok()
    } else {
        None
    };
    let there = by_lane.iter().filter_map(|(_, found)| found.as_ref().ok());
    let another = there
        .chain(&of_another)
        .filter_map(|info| journal::spread_in(&info.config))
        .find(|is| *is != spread);
    Found { by_lane, another }
}

impl Found {
    /// The streams that are there.
    pub(super) fn there(&self) -> Vec<&Info> {
        self.by_lane
            .iter()
            .filter_map(|(_, found)| found.as_ref().ok())
            .collect()
    }

    /// The partitions of the journal, where it is one.
    pub(super) fn partitions(&self) -> Option<u16> {
        let mut partitions = None;
        for (lane, found) in &self.by_lane {
            let (_, of) = journal::identity(found.as_ref().ok()?, *lane).ok()?;
            partitions = Some(of);
        }
        partitions
    }
}

/// The journal: what it is, what is weaker than promised, and whether anything has gone from it.
pub(super) fn journal(args: &Args, servers: &Servers, found: &Found, commands: &Commands) -> Vec<Finding> {
    let spread = args.journal.streams;
    if let Some(is) = found.another {
        let mut right = args.clone();
        right.journal.streams = is;
        let next = Commands::new(&right).doctor();
        return vec![Finding::fail(JOURNAL, journal::another_spread(is, spread), next)];
    }
    let not_there = |(_, found): &(Lane, Result<Info, Missing>)| matches!(found, Err(Missing::NotThere));
    if found.by_lane.iter().all(not_there) {
        let fact = format!("there is no stream {}", spread.of_partition(0).name());
        let finding = Finding::fail(JOURNAL, fact, commands.serve());
        return vec![finding.first("restore it from a copy where there was one; a new and empty one is made by")];
    }
    let mut findings = Vec::new();
    let (mut epochs, mut durability) = (BTreeMap::new(), None);
    for (lane, found) in &found.by_lane {
        let info = match found {
            Ok(info) => info,
            Err(Missing::NotThere) => {
                let fact = format!("the stream {} is gone, and the others are there", lane.name());
                let finding = Finding::fail(JOURNAL, fact, commands.doctor());
                findings.push(finding.first("restore it from a copy; then"));
                continue;
            }
            Err(Missing::Silent(reason)) => {
                findings.push(silent(JOURNAL, &lane.name(), reason, commands));
                continue;
            }
        };
        let judgement = journal::judge(info, servers, &args.journal);
        let of_lane = of_lane(args, (*lane, info), &judgement, commands);
        match journal::identity(info, *lane) {
            // Other subjects have been told.
            Err(reason) if of_lane.is_empty() => {
                let next = format!("nats stream info {}", lane.name());
                findings.push(Finding::fail(JOURNAL, reason, next));
            }
            Err(_) => {}
            Ok((epoch, partitions)) => {
                epochs.insert((epoch, partitions), lane.name());
                durability = durability.into_iter().chain([judgement.durability]).min();
            }
        }
        findings.extend(of_lane);
    }
    if epochs.len() > 1 {
        let names: Vec<&str> = epochs.values().map(String::as_str).collect();
        let fact = format!("{} are of different journals", names.join(" and "));
        findings.push(Finding::fail(JOURNAL, fact, commands.doctor()).first("restore the one that is wrong; then"));
    }
    if let (true, Some(((epoch, partitions), _)), Some(durability)) =
        (findings.is_empty(), epochs.first_key_value(), durability)
    {
        let states = || found.there().into_iter().map(|info| &info.state);
        let last = found.by_lane.iter().filter_map(|(lane, found)| {
            let info = found.as_ref().ok()?;
            Some(lane.sequence(info.state.last_sequence))
        });
        let lies = match spread {
            Spread::ONE => format!("{partitions} partitions"),
            _ => format!("{partitions} partitions, which {spread} streams share"),
        };
        let fact = format!(
            "{}, the last {}, in {lies}; acknowledged means {durability}; epoch {epoch}",
            counted(states().map(|state| state.messages).sum(), "event"),
            last.max().unwrap_or(0),
        );
        findings.push(Finding::ok(JOURNAL, fact));
    }
    findings
}

/// What is wrong with a stream of the journal.
fn of_lane(args: &Args, (lane, info): (Lane, &Info), judgement: &Judgement, commands: &Commands) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = journal::settings(args.journal.replicas, lane, journal::partitions_in(&info.config));
    let named = |fact: String| match lane {
        Lane::ONLY => fact,
        _ => format!("{}: {fact}", lane.name()),
    };
    for difference in differences(&info.config, &wanted) {
        let weak = judgement
            .stream
            .iter()
            .find(|(setting, _)| *setting == difference.setting);
        let next = change(&difference, &info.config, commands);
        let finding = match weak {
            Some((_, reason)) => Finding::fail(JOURNAL, named(format!("{difference}: {reason}")), next),
            // The service opens no journal with other subjects.
            None if difference.setting == "subjects" => Finding::fail(JOURNAL, named(difference.to_string()), next),
            None => Finding::warn(JOURNAL, named(difference.to_string()), next),
        };
        findings.push(if difference.is_fixed() {
            finding.first("no server changes that in place: the journal has to be copied into a new stream, and first")
        } else {
            finding
        });
    }
    findings.extend(whole((lane, info), &named, commands));
    findings.extend(replicas(JOURNAL, info));
    findings
}

/// What the stream has lost; nothing ever leaves a journal.
fn whole((lane, info): (Lane, &Info), named: &impl Fn(String) -> String, commands: &Commands) -> Option<Finding> {
    let state = &info.state;
    let reaches = (state.last_sequence + 1).saturating_sub(state.first_sequence);
    let gone = state.last_sequence.saturating_sub(state.messages);
    if gone == 0 {
        return None;
    }
    let fact = if state.messages < reaches {
        format!(
            "{} are gone from within the journal",
            counted(reaches - state.messages, "event")
        )
    } else {
        format!(
            "the journal begins at {}: {} are gone",
            lane.sequence(state.first_sequence),
            counted(gone, "event")
        )
    };
    let fact = named(fact);
    let finding = Finding::fail(JOURNAL, fact, commands.rebuild("--report lost.json", None));
    Some(finding.first("restore it from a copy; which baskets have lost events is told by"))
}

/// The updates: what they are, and what of them would not reach somebody.
pub(super) fn updates(args: &Args, found: &Result<Info, Missing>, commands: &Commands) -> Vec<Finding> {
    let info = match found {
        Ok(info) => info,
        Err(Missing::NotThere) => {
            let fact = format!("there is no stream {}, so nobody is told anything", updates::STREAM);
            let finding = Finding::fail(UPDATES, fact, commands.project());
            return vec![finding.first("a projector makes it")];
        }
        Err(Missing::Silent(reason)) => return vec![silent(UPDATES, updates::STREAM, reason, commands)],
    };
    let wanted = updates::settings(args.journal.replicas);
    let tell = |difference: &Difference| {
        let next = commands.migrate_streams();
        let finding = if updates::NEEDED.contains(&difference.setting.as_str()) {
            Finding::fail(UPDATES, difference.to_string(), next)
        } else {
            Finding::warn(UPDATES, difference.to_string(), next)
        };
        if difference.is_fixed() {
            finding.first("the stream is made anew, and live viewers start from a snapshot, by")
        } else {
            finding
        }
    };
    let mut findings: Vec<Finding> = differences(&info.config, &wanted).iter().map(tell).collect();
    findings.extend(replicas(UPDATES, info));
    if findings.is_empty() {
        let state = &info.state;
        let fact = format!(
            "{}, the last {}, of {}",
            counted(state.messages, "update"),
            state.last_sequence,
            counted(state.subjects_count, "shop")
        );
        findings.push(Finding::ok(UPDATES, fact));
    }
    findings
}

/// What changes a setting of the journal.
fn change(difference: &Difference, running: &Config, commands: &Commands) -> String {
    if difference.is_fixed() {
        return format!("nats stream backup {} checkout-backup", running.name);
    }
    commands.migrate_streams()
}

/// Servers that should keep a copy and have fallen behind, or that nobody leads.
fn replicas(check: &'static str, info: &Info) -> Vec<Finding> {
    let name = &info.config.name;
    let next = || format!("nats stream info {name}");
    let Some(cluster) = info.cluster.as_ref().filter(|_| info.config.num_replicas > 1) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if cluster.leader.as_deref().is_none_or(str::is_empty) {
        findings.push(Finding::fail(check, format!("no server leads {name}"), next()));
    }
    for peer in &cluster.replicas {
        // One that a new leader has never heard of has no time.
        let is_silent = peer.active > SILENT || peer.active.is_zero();
        if peer.offline || (!peer.current && is_silent) {
            let fact = format!(
                "server {} keeps {name}, and has said nothing for {} s",
                peer.name,
                peer.active.as_secs()
            );
            findings.push(Finding::fail(check, fact, next()));
        } else if !peer.current {
            let lag = counted(peer.lag.unwrap_or(0), "operation");
            let fact = format!("server {} is {lag} behind with {name}", peer.name);
            findings.push(Finding::warn(check, fact, next()));
        }
    }
    findings
}

fn silent(check: &'static str, stream: &str, reason: &str, commands: &Commands) -> Finding {
    Finding::fail(
        check,
        format!("JetStream says nothing of {stream}: {reason}"),
        commands.doctor(),
    )
}
