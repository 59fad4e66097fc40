//! `ezout rebuild`: folds the journal into new baskets beside those that are read, and proves that they are the same.
//!
//! The service runs meanwhile and nothing is sent again. The new version never gets ahead of the one
//! that is read, so at the switch no event is without its update. A rebuild that was stopped goes on
//! where it was. Old versions stay until they are dropped, so the pointer can go back.

mod compare;
mod fill;
mod report;
mod scope;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{complain, deed, past, say};
use crate::app::StopSignals;
use crate::core::error_chain;
use crate::core::event::ActionIdMeaning;
use crate::core::id::{BasketId, SessionId, ShopId, partition_of};
use crate::core::policy::Verb;
use crate::journal::{self, Facts, Journal};
use crate::views::{self, Building, Deed, Refold, Version, Views};
use compare::InVersion;
use fill::{Fill, Progress};
use report::Report;

/// Who did not hear of a pointer that moved within this time has lost its leases.
const MOVED_GRACE_SECONDS: i64 = 10;

/// Options of `ezout rebuild`.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Fold only this shop, and compare it with the baskets that are read.
    #[arg(long, conflicts_with_all = ["rollback", "drop_old", "anew"])]
    pub shop: Option<String>,
    /// Fold only this session: its id with --shop, or the basket as `parked list` shows it (`shop.session`).
    #[arg(long, conflicts_with_all = ["rollback", "drop_old", "anew"])]
    pub session: Option<String>,
    /// After the report, read from the new baskets; with --shop or --session, put the baskets that differ right in place.
    #[arg(long, conflicts_with_all = ["rollback", "drop_old"])]
    pub switch: bool,
    /// Read from the baskets before again, after bringing them up to date from where they were left.
    #[arg(long, conflicts_with = "drop_old")]
    pub rollback: bool,
    /// Drop the baskets that were read before.
    #[arg(long)]
    pub drop_old: bool,
    /// Give up a rebuild that was stopped, and begin again.
    #[arg(long, conflicts_with_all = ["rollback", "drop_old"])]
    pub anew: bool,
    /// Write the whole report to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where the journal is.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Where the baskets are.
    #[command(flatten)]
    pub views: views::Config,
    /// What the app's `action_id` is, as for the service.
    #[arg(long = "action-id", env = "EZOUT_ACTION_ID", value_enum, default_value_t = ActionIdMeaning::Auto)]
    pub action_id: ActionIdMeaning,
}

/// What a rebuild works with.
#[derive(Debug, Clone)]
struct Parts {
    journal: Journal,
    facts: Facts,
    views: Views,
    action_id: ActionIdMeaning,
}

/// Rebuilds, or moves the pointer.
///
/// # Errors
/// Where a server cannot be had, or where baskets differ and nothing was to be done about it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let scope = scope(&args)?;
    let mut signals = StopSignals::listen()?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let asked = stop.clone();
    tokio::spawn(async move {
        signals.received().await;
        asked.cancel();
    });
    let end = CancellationToken::new();
    let (journal, facts) = past::open_journal(args.journal.clone(), &tasks, end.clone()).await?;
    let views = past::open_views(&args.views, &tasks, end.clone()).await?;
    let parts = Parts {
        journal,
        facts,
        views,
        action_id: args.action_id,
    };
    let outcome = match scope {
        _ if args.rollback => roll_back(&parts, stop.clone()).await,
        _ if args.drop_old => drop_old(&parts).await,
        Some(scope) => match stop.run_until_cancelled(scope::run(&parts, &args, scope)).await {
            Some(outcome) => outcome,
            None => bail!("stopped; nothing was changed"),
        },
        None => whole(&parts, &args, stop.clone()).await,
    };
    end.cancel();
    outcome
}

fn scope(args: &Args) -> anyhow::Result<Option<(ShopId, Option<SessionId>)>> {
    let shop = args
        .shop
        .as_deref()
        .map(|shop| ShopId::parse(shop).with_context(|| format!("the shop id {shop:?}")))
        .transpose()?;
    let Some(session) = args.session.as_deref() else {
        return Ok(shop.map(|shop| (shop, None)));
    };
    if let (Ok(basket), true) = (BasketId::parse(session), shop.is_none()) {
        return Ok(Some((basket.shop, Some(basket.session))));
    }
    let session = SessionId::parse(session).with_context(|| format!("the session id {session:?}"))?;
    let Some(shop) = shop else {
        bail!("a session's id alone names no basket: add --shop, or write shop.session");
    };
    Ok(Some((shop, Some(session))))
}

async fn whole(parts: &Parts, args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    of_this_journal(parts, parts.views.projections().await?.active).await?;
    if args.anew {
        note(parts, "rebuild: give up what is being filled".to_owned()).await?;
        for version in parts.views.drop_versions(true).await? {
            say(&format!("dropped {version}"));
        }
    }
    let (live, building) = begin(parts).await?;
    let (live_views, new_views) = (parts.views.at(live), parts.views.at(building.version));
    let progress = Arc::new(Progress::new(parts.facts.partitions, bar()?));
    let filling = CancellationToken::new();
    let mut fills = start(parts, live, &building, false, &progress, &filling);
    let started = Instant::now();
    let mut filled = None;
    let proving = async {
        progress.caught_up().await;
        filled = Some(started.elapsed());
        progress.bar.finish_and_clear();
        say(&folded(&progress, started.elapsed(), building.version));
        new_views.index().await?;
        let mut expected = InVersion::open(&new_views).await?;
        let mut report = Report::default();
        compare::run(&mut expected, &live_views, None, parts.facts.partitions, &mut report).await?;
        Ok(report)
    };
    let outcome = tokio::select! {
        report = proving => report,
        () = stop.cancelled() => Err(anyhow::anyhow!("stopped; the same command goes on where it was")),
        Some(ended) = fills.join_next() => Err(ended_early(ended)),
        error = taken_away(&parts.views, &building) => Err(error),
    };
    progress.bar.finish_and_clear();
    // Nothing is written to the new version by this process when the pointer moves.
    filling.cancel();
    while fills.join_next().await.is_some() {}
    let report = outcome?;
    say(&report.text());
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    keep(parts, &report, "all", Some(building.version)).await;
    if args.switch {
        note(parts, format!("rebuild: switch from {live} to {}", building.version)).await?;
        parts.views.switch(live, building.version).await?;
        settle_parked(parts, building.version).await?;
        say(&format!(
            "baskets are read from {} from now on; `ezout rebuild --rollback` goes back to {live}, and `--drop-old` drops that",
            building.version
        ));
        return Ok(());
    }
    if report.differing() > 0 {
        bail!(
            "{} baskets are not what the journal says; `ezout rebuild --switch` reads from the new ones",
            report.differing()
        );
    }
    say("`ezout rebuild --switch` reads from the new baskets");
    Ok(())
}

/// Notes what is about to be done with the versions.
async fn note(parts: &Parts, what: String) -> anyhow::Result<()> {
    deed::note(&parts.views, Deed::of_system(Verb::Operate, what)).await
}

/// Keeps a report where it can be shown. It was told already, so nothing depends on that.
async fn keep(parts: &Parts, report: &Report, scope: &str, version: Option<Version>) {
    let version = version.map(|version| version.to_string());
    let kept = report.kept(scope.to_owned(), version);
    if let Err(error) = parts.views.keep_report(&kept).await {
        complain(&format!("the report could not be kept: {}", error_chain(&error)));
    }
}

/// Starts to fill every partition of a version.
fn start(
    parts: &Parts,
    live: Version,
    building: &Building,
    was_active: bool,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> JoinSet<anyhow::Result<()>> {
    let (live, new) = (parts.views.at(live), parts.views.at(building.version));
    let permits = Arc::new(tokio::sync::Semaphore::new(fill::SIDE_BY_SIDE));
    let mut fills = JoinSet::new();
    for partition in 0..parts.facts.partitions {
        let fill = Fill::new(
            parts.journal.clone(),
            (live.clone(), new.clone()),
            partition,
            building.clone(),
            parts.action_id,
            (Arc::clone(progress), Arc::clone(&permits)),
        );
        let fill = if was_active { fill.that_was_active() } else { fill };
        fills.spawn(fill.run(stop.clone()));
    }
    fills
}

/// Why a partition ended while it should have gone on.
fn ended_early(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => anyhow::anyhow!("a partition ended early"),
        Err(error) => error.into(),
    }
}

/// The version that is read, and the one that is filled: a new one, or that of a rebuild that was stopped.
async fn begin(parts: &Parts) -> anyhow::Result<(Version, Building)> {
    let known = parts.views.projections().await?;
    let epoch = parts.facts.epoch.to_string();
    let action_id = action_id(parts);
    let building = match known.building {
        Some(building) if building.epoch != epoch => bail!(
            "{} is being filled from another journal (epoch {}) than this one (epoch {epoch}); `--anew` gives it up and begins again",
            building.version,
            building.epoch
        ),
        Some(building) if building.action_id != action_id => bail!(
            "{} is being filled with EZOUT_ACTION_ID={}, and it is {action_id} now; `--anew` gives it up and begins again",
            building.version,
            building.action_id
        ),
        Some(building) => {
            note(parts, format!("rebuild: go on with {}", building.version)).await?;
            // It may have been stopped before there was anything.
            parts.views.at(building.version).begin().await?;
            building
        }
        None => {
            note(parts, "rebuild: begin a new version".to_owned()).await?;
            parts.views.begin_version(&epoch, &action_id).await?
        }
    };
    Ok((known.active, building))
}

/// Refuses where a version was folded from another journal than the one that is there.
async fn of_this_journal(parts: &Parts, version: Version) -> anyhow::Result<()> {
    let epoch = parts.facts.epoch.to_string();
    let epochs = parts.views.at(version).epochs().await?;
    if let Some(other) = epochs.iter().find(|other| **other != epoch) {
        bail!(
            "{version} was folded from another journal (epoch {other}) than this one (epoch {epoch}), so nothing was done: let EZOUT_NATS_URL name the journal of these baskets, or EZOUT_MONGODB_URI and EZOUT_MONGODB_DATABASE the baskets of this journal"
        );
    }
    Ok(())
}

/// What `action_id` means, as checkpoints say it.
fn action_id(parts: &Parts) -> String {
    format!("{:?}", parts.action_id).to_lowercase()
}

/// Whether a version was folded from this journal with this meaning of `action_id`.
async fn folds_alike(parts: &Parts, building: &Building) -> anyhow::Result<bool> {
    let views = parts.views.at(building.version);
    for partition in 0..parts.facts.partitions {
        if let Some(checkpoint) = views.load_checkpoint(partition).await?
            && (checkpoint.epoch != building.epoch || checkpoint.action_id != building.action_id)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ends when somebody else switches to the version that is filled, or gives it up.
async fn taken_away(views: &Views, building: &Building) -> anyhow::Error {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(known) = views.projections().await else { continue };
        if known.building.as_ref() != Some(building) {
            return anyhow::anyhow!(
                "{} is no longer being filled: another rebuild has switched to it or given it up",
                building.version
            );
        }
    }
}

fn bar() -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(0);
    let style = "{elapsed_precise} {wide_bar} {human_pos}/{human_len} events  {per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).context("the bar's template")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

fn folded(progress: &Progress, time: Duration, version: Version) -> String {
    let events = progress.folded();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = events as f64 / time.as_secs_f64().max(0.001);
    format!(
        "folded {events} events in {:.1} s ({rate:.0}/s) into {version}",
        time.as_secs_f64()
    )
}

async fn roll_back(parts: &Parts, stop: CancellationToken) -> anyhow::Result<()> {
    let known = parts.views.projections().await?;
    let Some(previous) = known.previous else {
        bail!("no version was active before {}", known.active);
    };
    if !parts.views.versions().await?.contains(&previous) {
        bail!("{previous} is no longer there");
    }
    of_this_journal(parts, known.active).await?;
    of_this_journal(parts, previous).await?;
    let before = Building {
        version: previous,
        epoch: parts.facts.epoch.to_string(),
        action_id: action_id(parts),
    };
    if folds_alike(parts, &before).await? {
        // Nobody reads older baskets than before for longer than a moment.
        let progress = Arc::new(Progress::new(parts.facts.partitions, bar()?));
        let filling = CancellationToken::new();
        let mut fills = start(parts, known.active, &before, true, &progress, &filling);
        let outcome = tokio::select! {
            () = progress.caught_up() => Ok(()),
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped; baskets are read from {} as before", known.active)),
            Some(ended) = fills.join_next() => Err(ended_early(ended)),
        };
        progress.bar.finish_and_clear();
        filling.cancel();
        while fills.join_next().await.is_some() {}
        outcome?;
    }
    note(parts, format!("rebuild: go back from {} to {previous}", known.active)).await?;
    parts.views.roll_back(known.active, previous).await?;
    settle_parked(parts, previous).await?;
    say(&format!(
        "baskets are read from {previous} again; the same command goes back to {}",
        known.active
    ));
    Ok(())
}

/// Has baskets folded anew whose parked events were decided about while another version was active.
async fn settle_parked(parts: &Parts, version: Version) -> anyhow::Result<()> {
    let views = parts.views.at(version);
    let stale = views.parked_for_nothing(&parts.facts.epoch.to_string()).await?;
    let refolds: Vec<Refold> = stale
        .into_iter()
        .map(|basket| Refold {
            basket,
            partition: partition_of(basket.shop, parts.facts.partitions),
            sequences: Vec::new(),
            through: 0,
        })
        .collect();
    views.ask_refolds(&refolds).await?;
    Ok(())
}

async fn drop_old(parts: &Parts) -> anyhow::Result<()> {
    let known = parts.views.projections().await?;
    if let Some(seconds) = known.moved_seconds_ago
        && seconds < MOVED_GRACE_SECONDS
    {
        // A projector that has not heard of the move would make the collection again.
        let rest = u64::try_from(MOVED_GRACE_SECONDS - seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(rest)).await;
    }
    note(parts, "rebuild: drop old versions".to_owned()).await?;
    let dropped = parts.views.drop_versions(false).await?;
    if dropped.is_empty() {
        say("there is no old version");
    }
    for version in dropped {
        say(&format!("dropped {version}"));
    }
    Ok(())
}
