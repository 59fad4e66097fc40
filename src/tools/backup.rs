//! `ezout backup`: what cannot be made again is copied into a folder while everything runs.
//!
//! That is the journal, and of MongoDB what the journal cannot give back. Events lie in files that are never changed; the
//! manifest names all files and is replaced last, so a backup that is cut off leaves the one before as it was. Documents
//! are read before the end of the journal is looked for: none tells of an event that the backup does not have.

mod files;
pub(super) mod manifest;
pub(super) mod segment;
pub(super) mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mongodb::bson::Bson;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{deed, past, say};
use crate::app::StopSignals;
use crate::core::event::rfc3339;
use crate::core::failpoint;
use crate::core::policy::Verb;
use crate::journal::{self, Facts, Journal, Lane, RawEvent, Reader};
use crate::nats::Original;
use crate::views::{self, Deed, IRREPLACEABLE, Irreplaceable, Views};
use manifest::{DOCUMENTS, DocumentFile, JOURNAL, JournalPart, Manifest, OfCollection, Segment};

/// Events read at a time.
const READ_EVENTS: usize = 1_000;
/// Bytes of a file of events before they are packed, whatever their number.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// How hard documents are packed.
const LEVEL: i32 = 3;

/// Options of `ezout backup`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The folder of the backup; what is new is added to what is there.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Read the backup that is there, check every digest, and name what is broken. No server is needed.
    #[arg(long)]
    pub verify: bool,
    /// Events of one file; a backup that was stopped goes on after the last whole one.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub segment_events: u64,
    /// Where the journal is.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Where the documents are.
    #[command(flatten)]
    pub views: views::Config,
}

/// Writes a backup, or reads one.
///
/// # Errors
/// Where a server or the folder cannot be had, where the folder has the backup of another journal, or where a file is broken.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.verify {
        return verify::run(&args.folder);
    }
    let mut signals = StopSignals::listen()?;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let outcome = tokio::select! {
        outcome = write(&args, &tasks, &end) => outcome,
        () = signals.received() => Err(anyhow::anyhow!("stopped; the same command goes on where it was")),
    };
    end.cancel();
    outcome
}

async fn write(args: &Args, tasks: &TaskTracker, end: &CancellationToken) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (journal, facts) = past::open_journal(args.journal.clone(), tasks, end.clone()).await?;
    let folder = &args.folder;
    for part in [JOURNAL, DOCUMENTS] {
        files::make_folder(&folder.join(part))?;
    }
    let _lock = files::lock(folder)?;
    let before = Manifest::read(folder)?;
    let views = Views::to_look_at(&args.views).await?;
    if let Some(before) = &before {
        goes_on(&journal, before).await?;
    }
    let what = "backup: of the journal, and of what it cannot give back";
    deed::note(&views, Deed::of_system(Verb::Operate, what.to_owned())).await?;

    let mut documents = Vec::new();
    for kind in IRREPLACEABLE {
        documents.push(keep_documents(folder, &views, *kind).await?);
    }
    failpoint::hit("after_documents");
    let mut parts = Vec::new();
    for lane in journal.spread().lanes() {
        let known = before.as_ref().and_then(|before| before.parts().nth(lane.index()));
        let known = known.map_or(&[][..], |(_, part)| &part.segments);
        parts.push(keep_events(args, (&journal, &facts), lane, known).await?);
    }
    let mut parts = parts.into_iter();
    let manifest = Manifest {
        format: Manifest::format_of(journal.spread()),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: rfc3339(OffsetDateTime::now_utc()),
        journal: parts.next().context("a journal has a stream")?,
        others: parts.collect(),
        documents,
    };
    failpoint::hit("before_manifest");
    manifest.write(folder)?;
    failpoint::hit("after_manifest");
    clear(folder, &manifest)?;
    let new = manifest.events() - before.as_ref().map_or(0, Manifest::events);
    say(&told(&manifest));
    say(&format!(
        "{new} events were new; it took {:.1} s. `ezout backup --verify {}` reads it all again",
        begun.elapsed().as_secs_f64(),
        folder.display()
    ));
    Ok(())
}

/// One line about a backup.
pub(super) fn told(manifest: &Manifest) -> String {
    let documents: u64 = manifest.documents.iter().map(|part| part.documents).sum();
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let megabytes = manifest.bytes() as f64 / 1e6;
    format!(
        "a whole backup, true as of sequence {} of the journal with epoch {}: {} events, {documents} documents, {megabytes:.1} MB, taken at {} by {}",
        manifest.as_of(),
        manifest.journal.epoch,
        manifest.events(),
        manifest.taken_at,
        manifest.program
    )
}

/// A bar of events.
pub(super) fn bar(events: u64) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(events);
    let style = "{elapsed_precise} {wide_bar} {human_pos}/{human_len} events  {per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).context("the bar's template")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

/// An event as a backup keeps it.
pub(super) fn original(event: RawEvent) -> Original {
    Original {
        sequence: event.sequence,
        stored_ns: event.recorded_ns(),
        headers: event.header_lines(),
        subject: event.subject,
        body: event.body,
    }
}

/// Refuses where the folder has the backup of another journal, or of one that has lost events since.
async fn goes_on(journal: &Journal, before: &Manifest) -> anyhow::Result<()> {
    for (lane, known) in before.parts() {
        let tail = journal.tail_of_lane(lane).await?;
        ensure!(
            tail.epoch == known.epoch,
            "the folder has the backup of another journal (epoch {}) than this one (epoch {}): name another folder",
            known.epoch,
            tail.epoch
        );
        ensure!(
            tail.last_sequence >= known.last_sequence,
            "the journal ends at event {}, and the backup has event {}: the journal has lost events; keep the backup, and name another folder",
            tail.last_sequence,
            known.last_sequence
        );
        if known.last_sequence == 0 {
            continue;
        }
        let there = journal.get(known.last_sequence).await?;
        let there = there.map(|event| rfc3339(event.recorded_at));
        // One that is gone says nothing.
        ensure!(
            there.is_none() || there == known.last_recorded_at,
            "event {} of the journal is another one than in the backup, so the journal has lost events since: keep the backup, and name another folder",
            known.last_sequence
        );
    }
    Ok(())
}

/// Puts the documents of a collection away. A file is named by its digest, so what is as it was is there already.
async fn keep_documents(folder: &Path, views: &Views, kind: Irreplaceable) -> anyhow::Result<OfCollection> {
    let mut kept = OfCollection {
        collection: kind.collection.to_owned(),
        documents: 0,
        files: Vec::new(),
    };
    let mut after: Option<Bson> = None;
    loop {
        let page = views.documents(kind, after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(kept) };
        after = last.get("_id").cloned();
        let mut bytes = Vec::new();
        for document in &page {
            document.to_writer(&mut bytes).context("a document")?;
        }
        let packed = zstd::encode_all(&bytes[..], LEVEL)?;
        let sha256 = files::digest(&packed);
        let file = format!("{DOCUMENTS}/{}-{}.bson.zst", kind.collection, &sha256[..16]);
        let path = folder.join(&file);
        let is_there = std::fs::read(&path).is_ok_and(|there| files::digest(&there) == sha256);
        if !is_there {
            files::replace(&path, &packed)?;
        }
        let documents = page.len() as u64;
        kept.documents += documents;
        kept.files.push(DocumentFile {
            file,
            documents,
            bytes: packed.len() as u64,
            sha256,
        });
    }
}

/// Copies a stream of the journal as far as it goes now. `known` is what the backup has of it already.
async fn keep_events(
    args: &Args,
    (journal, facts): (&Journal, &Facts),
    lane: Lane,
    known: &[Segment],
) -> anyhow::Result<JournalPart> {
    let info = journal.info(lane).await.context("the journal")?;
    let state = &info.state;
    let (first_sequence, last_sequence) = (lane.sequence(state.first_sequence), lane.sequence(state.last_sequence));
    let copying = Copying {
        args,
        journal,
        epoch: facts.epoch,
        lane,
        to: last_sequence,
    };
    let segments = copying.run(known, first_sequence).await?;
    Ok(JournalPart {
        epoch: facts.epoch,
        partitions: facts.partitions,
        // The server's own notes are the next server's to make.
        metadata: info
            .config
            .metadata
            .iter()
            .filter(|(name, _)| !name.starts_with("_nats."))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        created_at: rfc3339(info.created),
        first_sequence,
        last_sequence,
        last_recorded_at: (state.last_sequence > 0).then(|| rfc3339(state.last_timestamp)),
        events: segments.iter().map(|segment| segment.events).sum(),
        segments,
    })
}

/// Copies a stream of the journal up to a place.
struct Copying<'a> {
    args: &'a Args,
    journal: &'a Journal,
    epoch: uuid::Uuid,
    lane: Lane,
    to: u64,
}

impl Copying<'_> {
    /// Keeps the segments that are there, and writes those that are missing. The last one is written anew with what
    /// follows while it is small, so that many small backups make few files.
    async fn run(&self, known: &[Segment], first_sequence: u64) -> anyhow::Result<Vec<Segment>> {
        let mut segments = known.to_vec();
        self.adopt(&mut segments, first_sequence)?;
        let grows = |last: &Segment| {
            last.last_sequence < self.to
                && last.events < self.args.segment_events
                && last.unpacked_bytes < SEGMENT_BYTES
        };
        if segments.last().is_some_and(grows) {
            segments.pop();
        }
        let mut place = segments
            .last()
            .map_or(first_sequence.saturating_sub(1), |last| last.last_sequence);
        if place >= self.to {
            return Ok(segments);
        }
        let bar = bar(self.lane.place(self.to) - self.lane.place(place))?;
        let mut reader = self.journal.read_lane(self.lane, place).await?;
        let mut opens = reader.opens();
        let mut open: Option<segment::Writer> = None;
        let mut over = false;
        while !over {
            let events = self.next(&mut reader, &mut opens).await?;
            for event in events {
                over |= event.sequence >= self.to || event.pending == 0;
                if event.sequence > self.to {
                    break;
                }
                bar.inc(self.lane.place(event.sequence) - self.lane.place(place));
                place = event.sequence;
                let event = original(event);
                let mut writer = match open.take() {
                    Some(writer) => writer,
                    None => segment::Writer::create(&self.args.folder, self.epoch, event.sequence)?,
                };
                writer.add(&event)?;
                if writer.events() >= self.args.segment_events || writer.bytes() >= SEGMENT_BYTES {
                    segments.push(writer.close()?);
                    failpoint::hit("after_segment");
                } else {
                    open = Some(writer);
                }
            }
        }
        if let Some(writer) = open {
            segments.push(writer.close()?);
        }
        bar.finish_and_clear();
        Ok(segments)
    }

    /// Reads on; a journal that is another one after an interruption is none to go on with.
    async fn next(&self, reader: &mut Reader, opens: &mut u64) -> anyhow::Result<Vec<RawEvent>> {
        loop {
            let events = match reader.next(READ_EVENTS).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!("{error}; trying again");
                    continue;
                }
            };
            if reader.opens() != *opens {
                let Ok(tail) = self.journal.tail_of_lane(self.lane).await else {
                    bail!("the connection to NATS was lost; the same command goes on where it was");
                };
                ensure!(
                    tail.epoch == self.epoch,
                    "the journal was replaced by another one meanwhile"
                );
                *opens = reader.opens();
            }
            return Ok(events);
        }
    }

    /// Takes over whole files that a backup which was cut off has left.
    fn adopt(&self, segments: &mut Vec<Segment>, first_sequence: u64) -> anyhow::Result<()> {
        let folder = self.args.folder.join(JOURNAL);
        let mut there: Vec<(u64, u64, String)> = Vec::new();
        for entry in std::fs::read_dir(&folder).context("cannot list the folder")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some((first, last)) = segment::sequences(&name) {
                there.push((first, last, format!("{JOURNAL}/{name}")));
            }
        }
        there.sort();
        let step = u64::from(self.lane.spread().streams());
        loop {
            let next = segments.last().map_or(first_sequence, |last| last.last_sequence + step);
            let fits = |(first, last, _): &&(u64, u64, String)| *first == next && *last <= self.to;
            // Of several that begin alike the longest.
            let Some((first, last, file)) = there.iter().rfind(fits) else {
                return Ok(());
            };
            match segment::survey(&self.args.folder, file, self.epoch) {
                Ok(found) if (found.first_sequence, found.last_sequence) == (*first, *last) => segments.push(found),
                Ok(_) | Err(_) => return Ok(()),
            }
        }
    }
}

/// Removes files that the manifest does not name.
fn clear(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let named = manifest.files();
    for part in [JOURNAL, DOCUMENTS] {
        for entry in std::fs::read_dir(folder.join(part)).context("cannot list the folder")? {
            let entry = entry?;
            let file = format!("{part}/{}", entry.file_name().to_string_lossy());
            if !named.contains(file.as_str()) {
                std::fs::remove_file(entry.path()).with_context(|| format!("cannot remove {file}"))?;
            }
        }
    }
    Ok(())
}
