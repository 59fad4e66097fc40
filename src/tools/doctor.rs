//! `ezout doctor`: checks a deployment from outside in, and says what comes next for each finding.
//!
//! It looks and changes nothing: no stream is made, no migration applied, and the one write that it
//! asks MongoDB for writes nothing. Every check is bounded in time, and a server that is down hides
//! only what is to be learnt from it.

mod baskets;
mod clocks;
mod commands;
mod mongodb;
mod nats;
mod partitions;
mod report;
mod service;
mod streams;

use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream;

use self::commands::Commands;
use self::report::{Finding, Report};
use crate::journal::{self, Journal, Servers};
use crate::tools::say;
use crate::updates;
use crate::views::{self, Views};

/// Longest time for one question.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest time for checks that look twice.
const LIMIT_OF_LOOKS: Duration = Duration::from_secs(15);

/// How often, and after which pause, something is looked at that whoever has just started is about to make.
const LOOKS: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Options of `ezout doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the HTTP API of a service is, as host and port.
    #[arg(long, env = "EZOUT_HTTP_ADDR", default_value = "127.0.0.1:8000")]
    pub http_addr: String,
    /// Where health and metrics of a service are, as host and port.
    #[arg(long, env = "EZOUT_ADMIN_ADDR", default_value = "127.0.0.1:8001")]
    pub admin_addr: String,
    /// What health and metrics ask for, where they ask for a token.
    #[arg(long, env = "EZOUT_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Where the streams are.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Where the views are.
    #[command(flatten)]
    pub views: views::Config,
}

/// Checks everything and prints what was found.
///
/// # Errors
/// Where a check failed; a warning is none.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let report = Report::new(examine(&args).await);
    say(&if args.json { report.json() } else { report.text() });
    match report.failed() {
        0 => Ok(()),
        1 => bail!("one check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

async fn examine(args: &Args) -> Vec<Finding> {
    let http = journal::monitor_client();
    let commands = Commands::new(args);
    let (service, (monitors, streams), mongodb) = tokio::join!(
        service::check(args, &http, &commands),
        async {
            let monitors = nats::monitors(args, &http).await;
            let streams = Streams::check(args, &monitors.servers, &commands).await;
            (monitors, streams)
        },
        Box::pin(mongodb::check(args, &commands)),
    );
    let nats_clock = monitors.clocks.first().map(|clock| clock.ahead);
    let mut clocks = monitors.clocks;
    clocks.extend(mongodb.clock);
    clocks.extend(service.clock);

    let mut findings = service.findings;
    findings.extend(streams.findings);
    findings.extend(mongodb.findings);
    findings.extend(clocks::judge(&clocks));
    let ahead = nats_clock.unwrap_or_default();
    let state = Box::pin(state(mongodb.views.as_ref(), streams.journal, ahead, &commands));
    findings.extend(state.await);
    findings.push(baskets::drift(service.drift, &commands));
    findings
}

/// What is in the stores: the baskets, and how the partitions stand to the journal.
async fn state(
    views: Option<&Views>,
    journal: Option<(Journal, u16)>,
    ahead: time::Duration,
    commands: &Commands,
) -> Vec<Finding> {
    let Some(views) = views else {
        let names = ["baskets", "leases", "checkpoints", "lag", "parked", "refolds"];
        return names
            .map(|name| Finding::skipped(name, "MongoDB does not answer"))
            .into();
    };
    let again = || commands.doctor();
    let count = journal.as_ref().map(|(_, count)| *count);
    let folding = async {
        match &journal {
            Some((journal, count)) => {
                let folding = partitions::folding(journal, views, *count, ahead, commands);
                within(LIMIT_OF_LOOKS, "checkpoints", again(), folding).await
            }
            None => ["checkpoints", "lag"]
                .map(|name| Finding::skipped(name, "there is no journal to compare with"))
                .into(),
        }
    };
    let action_id = async {
        views.refresh_active().await.ok()?;
        let checkpoint = views.load_checkpoint(0).await.ok()?;
        checkpoint.map(|checkpoint| checkpoint.action_id)
    };
    let action_id = tokio::time::timeout(LIMIT, action_id).await.ok().flatten();
    let (versions, leases, folding, parked, refolds) = tokio::join!(
        bounded(
            "baskets",
            again(),
            baskets::versions(views, action_id.as_deref(), commands)
        ),
        within(
            LIMIT_OF_LOOKS,
            "leases",
            again(),
            partitions::leases(views, count, commands)
        ),
        folding,
        bounded("parked", again(), baskets::parked(views, commands)),
        within(LIMIT_OF_LOOKS, "refolds", again(), baskets::refolds(views, commands)),
    );
    [versions, leases, folding, parked, refolds].concat()
}

/// What was found of the streams.
struct Streams {
    findings: Vec<Finding>,
    /// The journal and the number of its partitions, where it is one.
    journal: Option<(Journal, u16)>,
}

impl Streams {
    async fn check(args: &Args, servers: &Servers, commands: &Commands) -> Self {
        let (finding, client) = nats::connect(args, servers).await;
        let mut findings = vec![finding];
        let Some(client) = client else {
            findings.push(Finding::skipped("room", "NATS does not answer"));
            findings.extend(nats::sync(args, servers, &[], commands));
            findings.extend(nats::users(servers, commands));
            findings.push(Finding::skipped("journal", "NATS does not answer"));
            findings.push(Finding::skipped("updates", "NATS does not answer"));
            return Self {
                findings,
                journal: None,
            };
        };
        let context = jetstream::new(client.clone());
        let (room, journal, updates) = tokio::join!(
            nats::room(&client, servers, commands),
            streams::find_journal(&context, args.journal.streams),
            streams::find_within(&context, updates::STREAM, LOOKS, LOOK_PAUSE),
        );
        findings.extend(room);
        findings.extend(nats::sync(args, servers, &journal.there(), commands));
        findings.extend(nats::users(servers, commands));
        findings.extend(streams::journal(args, servers, &journal, commands));
        findings.extend(streams::updates(args, &updates, commands));
        drop(client);
        let journal = match journal.partitions() {
            Some(partitions) => open(args, partitions).await,
            None => None,
        };
        Self { findings, journal }
    }
}

/// Opens the journal to read in it, on a connection as the service has one.
async fn open(args: &Args, partitions: u16) -> Option<(Journal, u16)> {
    let (url, streams) = (&args.journal.nats_url, args.journal.streams);
    let journal = Journal::to_read(url, streams, partitions).await.ok()?;
    let mut status = journal.link().status();
    let up = tokio::time::timeout(LIMIT, status.wait_for(|status| status.up)).await;
    up.ok()?.ok()?;
    Some((journal, partitions))
}

/// Runs a check for [`LIMIT`] at most.
async fn bounded(check: &'static str, next: String, looking: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    within(LIMIT, check, next, looking).await
}

async fn within(
    limit: Duration,
    check: &'static str,
    next: String,
    looking: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    let found = tokio::time::timeout(limit, looking).await;
    found.unwrap_or_else(|_| {
        let fact = format!("no answer within {} s", limit.as_secs());
        vec![Finding::fail(check, fact, next)]
    })
}

/// An address that a service listens on, as one that can be connected to.
fn reachable(address: &str) -> String {
    let address = address.trim().trim_start_matches("http://").trim_end_matches('/');
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}
