//! `ezout restore`: puts a backup in place where there is no journal.
//!
//! First the documents, each of which may be there already, then the journal, which nats-server takes whole or not at all:
//! so whoever finds a journal finds everything. Then it is read again, and compared event by event with the backup.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{self, ErrorCode};
use indicatif::ProgressBar;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backup::manifest::{self, JournalPart, Manifest};
use super::backup::{bar, original, segment, told, verify};
use super::{deed, operator, past, say};
use crate::app::StopSignals;
use crate::core::failpoint;
use crate::core::policy::Verb;
use crate::journal::{Journal, Lane};
use crate::nats::{Extent, RestoreError, Restoring};
use crate::views::{self, Deed, Views};
use crate::{journal, updates};

/// Events read at a time.
const READ_EVENTS: usize = 1_000;

/// How long a journal that is new may take until it can be read.
const SETTLE_MAX: Duration = Duration::from_mins(1);
/// Between two attempts.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// Options of `ezout restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The folder of the backup.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Put only the journal in place, and leave MongoDB as it is; for when only NATS has lost its data.
    #[arg(long)]
    pub only_journal: bool,
    /// Where the journal is to be.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Where the documents are to be.
    #[command(flatten)]
    pub views: views::Config,
}

/// Puts a backup in place.
///
/// # Errors
/// Where a journal is there already, a file of the backup is broken, or a server cannot be had.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    tokio::select! {
        outcome = restore(&args) => outcome,
        () = signals.received() => bail!("stopped; the same command goes on"),
    }
}

async fn restore(args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    let manifest = manifest::read(&args.folder)?;
    let client = operator::connect(&args.journal.nats_url, "ezout restore").await?;
    let context = jetstream::new(client.clone());
    let views = Views::to_look_at(&args.views).await?;
    let (is, asked) = (manifest.spread(), args.journal.streams);
    ensure!(is == asked, "of the backup: {}", journal::another_spread(is, asked));
    past::not_spread_otherwise(&context, manifest.spread()).await?;
    let (mut missing, mut beyond) = (Vec::new(), Vec::new());
    for (lane, known) in manifest.parts() {
        match stream(&context, &lane.name()).await? {
            Some(info) if is_of(&info, (lane, known)) => {}
            Some(info) if goes_beyond(&info, (lane, known)) => beyond.push(((lane, known), info)),
            Some(info) => return refuse(&info, (lane, known), is_empty(&context, &manifest).await?),
            None => missing.push((lane, known)),
        }
    }
    if let (true, Some((part, info))) = (missing.is_empty(), beyond.first()) {
        return refuse(info, *part, false);
    }
    if missing.is_empty() {
        // Where the last attempt was cut off right behind its end.
        say("the journal is in place already; it is compared with the backup");
    } else {
        let lanes: Vec<Lane> = missing.iter().map(|(lane, _)| *lane).collect();
        fits(args, &views, &manifest, &lanes).await?;
        if !args.only_journal {
            bring_documents(args, &views, &manifest).await?;
        }
        failpoint::hit("after_documents");
        let what = format!(
            "restore: of the journal {} up to {}",
            manifest.journal.epoch,
            manifest.as_of()
        );
        deed::note(&views, Deed::of_system(Verb::Operate, what)).await?;
        remove_updates(&context).await?;
        // The first stream comes last: where that is there, the journal is whole.
        for part in missing.into_iter().rev() {
            put_stream(args, client.clone(), &manifest, part).await?;
        }
        failpoint::hit("after_journal");
    }
    let left_alone: Vec<Lane> = beyond.iter().map(|((lane, _), _)| *lane).collect();
    compare(args, &manifest, &left_alone).await?;
    say(&format!("restored {}", told(&manifest)));
    say(&format!(
        "it took {:.1} s, with its comparison",
        begun.elapsed().as_secs_f64()
    ));
    say(
        "next: `ezout serve` (or `project` and the others) folds the baskets from the journal; once it has caught up, `ezout rebuild` proves them",
    );
    Ok(())
}

/// The stream of this name; nothing where there is none.
async fn stream(context: &jetstream::Context, name: &str) -> anyhow::Result<Option<Info>> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("the stream {name}")),
    }
}

/// Whether a stream is of the same journal as that of the backup.
fn is_same(info: &Info, (lane, known): (Lane, &JournalPart)) -> bool {
    journal::identity(info, lane).is_ok_and(|identity| identity == (known.epoch, known.partitions))
}

/// Whether a stream is that of the backup, as far as that goes.
fn is_of(info: &Info, (lane, known): (Lane, &JournalPart)) -> bool {
    is_same(info, (lane, known))
        && lane.sequence(info.state.last_sequence) == known.last_sequence
        && info.state.messages == known.events
}

/// Whether a stream is that of the backup and has events since. One stream of several may be lost alone.
fn goes_beyond(info: &Info, (lane, known): (Lane, &JournalPart)) -> bool {
    is_same(info, (lane, known)) && lane.sequence(info.state.last_sequence) > known.last_sequence
}

/// Whether none of the streams that are there ever had an event.
async fn is_empty(context: &jetstream::Context, manifest: &Manifest) -> anyhow::Result<bool> {
    for (lane, _) in manifest.parts() {
        let info = stream(context, &lane.name()).await?;
        if info.is_some_and(|info| info.state.last_sequence > 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refuse(info: &Info, (lane, known): (Lane, &JournalPart), all_empty: bool) -> anyhow::Result<()> {
    let (stream, messages) = (lane.name(), info.state.messages);
    if lane != Lane::ONLY && is_same(info, (lane, known)) && !goes_beyond(info, (lane, known)) {
        bail!(
            "the stream {stream} is there already, with {messages} events up to {}, and the backup has {} up to {}, and nothing was done: what is there is saved by `ezout backup` into another folder, and then removed by `nats stream rm {stream}`, as a user who may, if it is to make room; the other streams may stay",
            lane.sequence(info.state.last_sequence),
            known.events,
            known.last_sequence
        );
    }
    let each = lane.spread().lanes();
    let each = each.map(|lane| format!("nats stream rm {}", lane.name()));
    let removal = each.collect::<Vec<_>>().join(" && ");
    if all_empty {
        bail!(
            "a new journal is there, without events: stop the service, which has made it, remove it (`{removal}`, as a user who may), and restore before the service starts again"
        );
    }
    bail!(
        "a journal is there already, with {messages} events, and nothing was done: let EZOUT_NATS_URL name the servers that have lost theirs. What is there is saved by `ezout backup` into another folder, and then removed by `{removal}`, as a user who may, if it is to make room"
    );
}

/// Refuses where MongoDB has baskets that do not fit the backup of these streams.
async fn fits(args: &Args, views: &Views, manifest: &Manifest, lanes: &[Lane]) -> anyhow::Result<()> {
    let folded = views.folded().await?;
    if folded.is_empty() {
        return Ok(());
    }
    ensure!(
        args.only_journal,
        "MongoDB has baskets already, so it has not lost its data, and nothing was done: `--only-journal` leaves it as it is; or let EZOUT_MONGODB_DATABASE name a new database"
    );
    let epoch = manifest.journal.epoch.to_string();
    for (of, partition, furthest) in folded {
        let end = manifest.part_of(partition).last_sequence;
        ensure!(
            of == epoch && (furthest <= end || !lanes.contains(&manifest.spread().of_partition(partition))),
            "MongoDB has baskets of the journal {of} up to event {furthest}, and the backup is of the journal {epoch} up to event {end}: let EZOUT_MONGODB_DATABASE name a new database, and restore without --only-journal"
        );
    }
    Ok(())
}

async fn bring_documents(args: &Args, views: &Views, manifest: &Manifest) -> anyhow::Result<()> {
    for name in views::migrate(views.database()).await? {
        say(&format!("applied {name}"));
    }
    for part in &manifest.documents {
        for file in &part.files {
            let documents = verify::documents(&args.folder, file)?;
            let otherwise = views.bring_back(&part.collection, &documents).await?;
            if let Some(id) = otherwise.first() {
                bail!(
                    "MongoDB has another {id} in {} than the backup, so it has not lost its data: `--only-journal` leaves it as it is; or let EZOUT_MONGODB_DATABASE name a new database",
                    part.collection
                );
            }
            failpoint::hit("after_document_file");
        }
        say(&format!(
            "{} documents of {} are in place",
            part.documents, part.collection
        ));
    }
    Ok(())
}

/// Removes a stream of updates that is left over: it may tell of events that the backup does not have.
async fn remove_updates(context: &jetstream::Context) -> anyhow::Result<()> {
    if stream(context, updates::STREAM).await?.is_some() {
        let removed = context.delete_stream(updates::STREAM).await;
        removed.with_context(|| format!("cannot remove the stream {}", updates::STREAM))?;
        say(&format!(
            "the stream {} was removed, since it may tell of events that are not in the backup; the service makes it anew",
            updates::STREAM
        ));
    }
    Ok(())
}

async fn put_stream(
    args: &Args,
    client: async_nats::Client,
    manifest: &Manifest,
    (lane, known): (Lane, &JournalPart),
) -> anyhow::Result<()> {
    let mut config: Config = journal::settings(args.journal.replicas, lane, known.partitions);
    config
        .metadata
        .extend(known.metadata.iter().map(|(name, value)| (name.clone(), value.clone())));
    let created = OffsetDateTime::parse(&known.created_at, &Rfc3339).context("the manifest's created_at")?;
    let extent = Extent {
        messages: known.events,
        first_sequence: lane.place(known.first_sequence),
        last_sequence: lane.place(known.last_sequence),
    };
    let begun = Restoring::begin(client, &config, created, extent).await;
    let mut restoring = begun.map_err(|error| match error {
        RestoreError::Exists => anyhow::anyhow!("a journal was made meanwhile: stop the service, and start anew"),
        error => anyhow::Error::from(error).context("the journal was not put in place"),
    })?;
    let bar = bar(known.events)?;
    for segment in &known.segments {
        each_event(&args.folder, manifest, segment, async |mut event| {
            event.sequence = lane.place(event.sequence);
            restoring
                .add(&event)
                .await
                .context("the journal was not put in place")?;
            bar.inc(1);
            Ok(())
        })
        .await?;
        failpoint::hit("after_segment");
    }
    restoring
        .end(extent.last_sequence)
        .await
        .context("the journal was not put in place")?;
    bar.finish_and_clear();
    Ok(())
}

/// Goes through the events of a file whose digest is right.
async fn each_event(
    folder: &Path,
    manifest: &Manifest,
    segment: &manifest::Segment,
    mut each: impl AsyncFnMut(crate::nats::Original) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let content = manifest::read_file(folder, &segment.file, segment.bytes, &segment.sha256)?;
    let mut events = segment::Reader::open(&content, manifest.journal.epoch).with_context(|| segment.file.clone())?;
    while let Some(event) = events.next().with_context(|| segment.file.clone())? {
        each(event).await?;
    }
    Ok(())
}

/// Asks again for a while: several servers have to choose first which of them leads a stream that is new.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, journal::ReadError>) -> Result<T, journal::ReadError> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(_) if begun.elapsed() < SETTLE_MAX => tokio::time::sleep(SETTLE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Reads the journal that is in place, and compares each event with the backup, but for streams that have gone on since.
async fn compare(args: &Args, manifest: &Manifest, left_alone: &[Lane]) -> anyhow::Result<()> {
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let (journal, facts) = past::open_journal(args.journal.clone(), &tasks, end.clone()).await?;
    ensure!(
        facts.epoch == manifest.journal.epoch,
        "the journal in place has the epoch {}, and the backup {}",
        facts.epoch,
        manifest.journal.epoch
    );
    let bar = bar(manifest.events())?;
    for part in manifest.parts().filter(|(lane, _)| !left_alone.contains(lane)) {
        compare_stream(args, &journal, manifest, part, &bar).await?;
    }
    bar.finish_and_clear();
    end.cancel();
    Ok(())
}

async fn compare_stream(
    args: &Args,
    journal: &Journal,
    manifest: &Manifest,
    (lane, known): (Lane, &JournalPart),
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let state = patiently(async || journal.info(lane).await).await?.state;
    let last_sequence = lane.sequence(state.last_sequence);
    ensure!(
        (last_sequence, state.messages) == (known.last_sequence, known.events),
        "the stream {} in place has {} events and ends at {last_sequence}, and the backup has {} and ends at {}",
        lane.name(),
        state.messages,
        known.events,
        known.last_sequence
    );
    let mut reader = patiently(async || journal.read_lane(lane, 0).await).await?;
    let mut waiting = std::collections::VecDeque::new();
    for segment in &known.segments {
        each_event(&args.folder, manifest, segment, async |event| {
            if waiting.is_empty() {
                waiting.extend(patiently(async || reader.next(READ_EVENTS).await).await?);
            }
            let there = waiting.pop_front().map(original);
            ensure!(
                there.as_ref() == Some(&event),
                "event {} in place is not that of the backup: remove the journal (`nats stream rm {}`, as a user who may), and restore again",
                event.sequence,
                lane.name()
            );
            bar.inc(1);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
