//! `ezout migrate`: brings MongoDB, and where that is asked for the streams, to what the files ask for, and says what was done.

use anyhow::{Context as _, bail};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context, ErrorCode};

use crate::nats::{Difference, amended, differences};
use crate::tools::{operator, past, say};
use crate::views::{self, Views};
use crate::{journal, updates};

/// Options of `ezout migrate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Also give the streams the settings of nats/*.json. Where UPDATES has one that cannot be changed it is made anew, empty;
    /// live viewers start from a snapshot then. The journal is only ever changed in place.
    #[arg(long)]
    pub streams: bool,
    /// Where the views are.
    #[command(flatten)]
    pub views: views::Config,
    /// Where the streams are.
    #[command(flatten)]
    pub journal: journal::Config,
}

/// Applies what is not applied yet, and brings back what was dropped by hand. Safe to run twice, and from two processes at once.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let views = Views::to_look_at(&args.views).await?;
    let applied = views::migrate(views.database()).await?;
    let (applied_any, version) = (!applied.is_empty(), views.refresh_active().await?);
    for name in applied {
        say(&format!("applied {name}"));
    }
    let lacks = views.at(version).lacks().await?;
    views.supply(&lacks).await?;
    for lack in &lacks {
        say(&format!("{lack}: brought back"));
    }
    if !applied_any && lacks.is_empty() {
        say("every migration is applied already");
    }
    if args.streams {
        let client = operator::connect(&args.journal.nats_url, "ezout migrate").await?;
        let context = jetstream::new(client);
        past::not_spread_otherwise(&context, args.journal.streams).await?;
        let replicas = args.journal.replicas;
        let mut journal = Ok(());
        for lane in args.journal.streams.lanes() {
            let wanted = |running: &Config| journal::settings(replicas, lane, journal::partitions_in(running));
            journal = journal.and(amend(&context, &lane.name(), wanted, false).await);
        }
        let updates = amend(&context, updates::STREAM, |_| updates::settings(replicas), true).await;
        journal.and(updates)?;
    }
    Ok(())
}

/// Gives a stream the settings that are wanted.
async fn amend(
    context: &Context,
    name: &str,
    wanted: impl Fn(&Config) -> Config,
    may_be_made_anew: bool,
) -> anyhow::Result<()> {
    let running = match context.get_stream(name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
        {
            say(&format!("there is no stream {name}; the service makes it at its start"));
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("the stream {name}")),
    };
    let wanted = wanted(&running);
    let (fixed, changeable): (Vec<Difference>, Vec<Difference>) = differences(&running, &wanted)
        .into_iter()
        .partition(Difference::is_fixed);
    if fixed.is_empty() && changeable.is_empty() {
        say(&format!("the stream {name} is as it should be"));
        return Ok(());
    }
    for difference in &fixed {
        say(&format!(
            "the stream {name}: {difference}; no server changes that in place"
        ));
    }
    if !fixed.is_empty() && may_be_made_anew {
        let removed = context.delete_stream(name).await;
        removed.with_context(|| format!("cannot remove the stream {name}"))?;
        let made = context.create_stream(&wanted).await;
        made.with_context(|| format!("cannot make the stream {name}"))?;
        say(&format!("the stream {name} was made anew"));
        return Ok(());
    }
    if !changeable.is_empty() {
        let changed = context.update_stream(amended(&running, &changeable)).await;
        changed.with_context(|| format!("the server refuses to change the stream {name}"))?;
        for difference in changeable {
            say(&format!("the stream {name}: {difference}; it is now"));
        }
    }
    if !fixed.is_empty() {
        bail!("the stream {name} would have to be made anew, and a journal is nothing to make anew by a command");
    }
    Ok(())
}
