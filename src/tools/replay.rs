//! `ezout replay`: gives out the events of a shop or of a session again, in their order and at a pace.
//!
//! To stdout, to a file, or to a NATS subject of one's own. A replay never reaches a subject that the
//! system itself uses, so that nobody takes what happened then for what happens now.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{past, say};
use crate::app::StopSignals;
use crate::core::event::{minified, rfc3339};
use crate::core::id::{SessionId, ShopId};
use crate::journal::{self, Journal, RawEvent};
use crate::refold::Decoded;

/// Longest pause between two events, whatever the pace.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Events read at a time.
const READ_EVENTS: usize = 1_000;
/// First words of subjects that belong to this system, to Resgate, or to the server.
const RESERVED: &[&str] = &[
    "updates", "upd", "checkout", "event", "system", "get", "access", "call", "auth", "conn", "_INBOX",
];

/// Options of `ezout replay`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The shop's id.
    #[arg(long)]
    pub shop: String,
    /// Only this session's events.
    #[arg(long)]
    pub session: Option<String>,
    /// Only events that were recorded at this time or later, such as 2026-01-31T08:00:00Z.
    #[arg(long, value_parser = moment)]
    pub from: Option<OffsetDateTime>,
    /// Only events that were recorded before this time.
    #[arg(long, value_parser = moment)]
    pub to: Option<OffsetDateTime>,
    /// How fast: 1 as it happened, 10 ten times as fast, with no pause above 2 s. Without it: at once.
    #[arg(long, value_parser = speed)]
    pub speed: Option<f64>,
    /// Publish to this NATS subject, event by event with its headers; one of your own, without wildcards.
    #[arg(long, value_parser = own_subject, conflicts_with = "ndjson")]
    pub to_subject: Option<String>,
    /// Write to this file, one JSON object a line, instead of to stdout.
    #[arg(long, value_name = "FILE")]
    pub ndjson: Option<PathBuf>,
    /// Where the journal is.
    #[command(flatten)]
    pub journal: journal::Config,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "a time looks like 2026-01-31T08:00:00Z".to_owned())
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text
        .parse()
        .ok()
        .filter(|speed: &f64| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "a pace is a number above 0".to_owned())
}

/// Accepts a subject that nobody but the person who names it can be listening to by accident.
fn own_subject(subject: &str) -> Result<String, String> {
    let legal = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.contains(['*', '>'])
    };
    if !subject.split('.').all(legal) {
        return Err("a subject is words with dots between them, without wildcards and spaces".to_owned());
    }
    let first = subject.split('.').next().unwrap_or_default();
    if first.starts_with('$') || RESERVED.contains(&first) {
        return Err(format!(
            "subjects under {first:?} are the system's own: a replay must not be taken for what happens now"
        ));
    }
    Ok(subject.to_owned())
}

/// Replays until the end of the journal as it is now, or until told to stop.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let shop = ShopId::parse(&args.shop).with_context(|| format!("the shop id {:?}", args.shop))?;
    let session = args
        .session
        .as_deref()
        .map(|id| SessionId::parse(id).with_context(|| format!("the session id {id:?}")))
        .transpose()?;
    let mut signals = StopSignals::listen()?;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let (journal, _) = past::open_journal(args.journal.clone(), &tasks, end.clone()).await?;
    let outcome = tokio::select! {
        outcome = replay(&args, &journal, shop, session) => outcome,
        () = signals.received() => Ok(()),
    };
    end.cancel();
    outcome
}

async fn replay(args: &Args, journal: &Journal, shop: ShopId, session: Option<SessionId>) -> anyhow::Result<()> {
    let end = journal.tail_of_shop(shop).await?.last_sequence;
    let mut reader = match args.from {
        Some(from) => journal.read_shop_since(shop, from).await?,
        None => journal.read_shop(shop, 0).await?,
    };
    let bar = ProgressBar::new(reader.pending_at_open());
    let style = "{elapsed_precise} {wide_bar} {human_pos}/{human_len} events  {per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).context("the bar's template")?);
    let mut sink = Sink::open(args, journal)?;
    let mut before: Option<OffsetDateTime> = None;
    let mut given = 0_u64;
    let mut over = bar.length() == Some(0);
    while !over {
        for event in reader.next(READ_EVENTS).await? {
            bar.inc(1);
            over |= event.pending == 0 || event.sequence >= end;
            let beyond = event.sequence > end || args.to.is_some_and(|to| event.recorded_at >= to);
            if beyond {
                over = true;
                break;
            }
            // By the event itself, since its header may be missing or another one.
            if let Some(session) = session
                && Decoded::of(&event)
                    .basket
                    .is_none_or(|basket| basket.session != session)
            {
                continue;
            }
            if let (Some(speed), Some(before)) = (args.speed, before) {
                let apart = Duration::try_from(event.recorded_at - before).unwrap_or_default();
                let pause = Duration::try_from_secs_f64(apart.as_secs_f64() / speed).unwrap_or(PAUSE_MAX);
                sink.flush().await?;
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
            }
            before = Some(event.recorded_at);
            sink.give(&event).await?;
            given += 1;
        }
    }
    sink.flush().await?;
    bar.finish_and_clear();
    if let Some(subject) = &args.to_subject {
        say(&format!("{given} events were given out on {subject}"));
    }
    Ok(())
}

/// Where the events go.
enum Sink {
    Lines(Box<dyn std::io::Write + Send>),
    Subject(async_nats::Client, String),
}

impl Sink {
    fn open(args: &Args, journal: &Journal) -> anyhow::Result<Self> {
        if let Some(subject) = &args.to_subject {
            return Ok(Self::Subject(journal.client(), subject.clone()));
        }
        let Some(path) = &args.ndjson else {
            return Ok(Self::Lines(Box::new(std::io::BufWriter::new(std::io::stdout()))));
        };
        let file = std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self::Lines(Box::new(std::io::BufWriter::new(file))))
    }

    async fn give(&mut self, event: &RawEvent) -> anyhow::Result<()> {
        match self {
            Self::Lines(out) => writeln!(out, "{}", line(event)).context("cannot write"),
            Self::Subject(client, subject) => {
                let mut headers = async_nats::HeaderMap::new();
                for (name, value) in event.attributes() {
                    headers.insert(name, value);
                }
                headers.insert("Ezout-Sequence", event.sequence.to_string());
                headers.insert("Ezout-Recorded-At", rfc3339(event.recorded_at));
                client
                    .publish_with_headers(subject.clone(), headers, event.body.clone())
                    .await
                    .context("cannot publish")
            }
        }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Lines(out) => out.flush().context("cannot write"),
            Self::Subject(client, _) => client.flush().await.context("cannot publish"),
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    recorded_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
    /// What is no JSON, as somebody put it into the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

fn line(event: &RawEvent) -> String {
    let json: Option<&RawValue> = serde_json::from_slice(&event.body).ok();
    let line = Line {
        sequence: event.sequence,
        recorded_at: rfc3339(event.recorded_at),
        event: json,
        unreadable: json
            .is_none()
            .then(|| String::from_utf8_lossy(&event.body).into_owned()),
    };
    let line = serde_json::to_string(&line).expect("numbers and texts are JSON");
    // Ours are on one line already; one that somebody else recorded may not be.
    if line.contains(['\n', '\r']) {
        minified(&line)
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_goes_only_where_nobody_takes_it_for_the_present() {
        for subject in ["mine", "try.updates.store.x", "lab.1"] {
            assert!(own_subject(subject).is_ok(), "{subject}");
        }
        for subject in [
            "updates.store.123e4567-e89b-42d3-a456-426614174000",
            "updates",
            "upd.1.x",
            "checkout.1.x",
            "$JS.API.STREAM.DELETE.CHECKOUT",
            "$SYS.x",
            "event.ezout.shop",
            "_INBOX.x",
            "*.store.x",
            ">",
            "mine.>",
            "a..b",
            ".updates.store.x",
            "",
            "a b",
            "a\u{a0}b",
        ] {
            assert!(own_subject(subject).is_err(), "{subject}");
        }
    }
}
