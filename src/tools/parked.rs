//! `ezout parked`: events that could not be applied, and what a person decides about them.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::event::rfc3339;
use crate::core::id::BasketId;
use crate::core::policy::Verb;
use crate::tools::{deed, say};
use crate::views::{self, Decision, Deed, ParkedEvent, ParkedState, Views, Which};

/// Most events that are listed at a time.
const LISTED_MAX: i64 = 1_000;

/// Options of `ezout parked`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the views are.
    #[command(flatten)]
    pub views: views::Config,
}

/// What to do about parked events.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List the events that wait, in the order of the journal.
    List {
        /// Those that were dropped as well.
        #[arg(long)]
        dropped: bool,
    },
    /// Show one event whole.
    Show {
        /// Its place in the journal.
        sequence: u64,
    },
    /// Apply events again, say after an update of this program: one session's, or all.
    Retry {
        /// The basket as `list` shows it (`shop.session`), or `all`.
        basket: String,
    },
    /// Decide that an event never counts; the later events of its session are applied.
    Drop {
        /// Its place in the journal.
        sequence: u64,
    },
}

/// Carries out one decision; the projector acts on it within seconds.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let views = Views::start(&args.views, &tasks, stop.clone()).await?;
    let outcome = carry_out(&views, args.command).await;
    stop.cancel();
    outcome
}

async fn carry_out(views: &Views, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { dropped } => {
            let events = views.list_parked(dropped, LISTED_MAX).await?;
            if events.is_empty() {
                say("no event is parked");
            }
            let cut = i64::try_from(events.len()) == Ok(LISTED_MAX);
            for event in events {
                let basket = event
                    .basket
                    .map_or_else(|| "unknown basket".to_owned(), |basket| basket.to_string());
                say(&format!(
                    "{:>10}  {:7}  {basket}  {}",
                    event.sequence,
                    event.state.word(),
                    event.reason
                ));
            }
            if cut {
                say(&format!("only the first {LISTED_MAX} are listed"));
            }
        }
        Command::Show { sequence } => say(&shown(&find(views, sequence).await?)),
        Command::Retry { basket } => {
            let which = if basket == "all" {
                Which::All
            } else {
                let id = BasketId::parse(&basket).with_context(|| {
                    format!("{basket:?} is neither `all` nor a basket as `ezout parked list` shows it")
                })?;
                Which::OfBasket(id)
            };
            let what = format!("parked events of {basket} are applied again");
            let deed = match &which {
                Which::OfBasket(id) => Deed::in_shop(Verb::Operate, what, id.shop).with_session(id.session),
                Which::All | Which::One(_) => Deed::of_system(Verb::Operate, what),
            };
            deed::note(views, deed).await?;
            let count = views.mark_parked(&which, ParkedState::Retry).await?;
            say(&format!(
                "{count} events will be applied again by the projector within seconds; those that fail again are back in `ezout parked list`"
            ));
        }
        Command::Drop { sequence } => {
            let event = find(views, sequence).await?;
            deed::note(views, Deed::of_parked(&event, Decision::Drop, None)).await?;
            let later = views.decide_parked(&event, Decision::Drop).await?;
            say(&format!(
                "event {sequence} never counts from now on; {later} later events of its session will be applied within seconds"
            ));
        }
    }
    Ok(())
}

async fn find(views: &Views, sequence: u64) -> anyhow::Result<ParkedEvent> {
    // After a journal was begun anew a place may have been parked twice; the newest is meant.
    let found = views
        .parked_at(sequence)
        .await?
        .into_iter()
        .max_by_key(|event| event.recorded_at);
    found.with_context(|| format!("no event {sequence} is parked; `ezout parked list` shows those that are"))
}

fn shown(event: &ParkedEvent) -> String {
    format!(
        "sequence     {}\nstate        {}\nbasket       {}\nreason       {}\nsubject      {}\nrecorded at  {}\nbody         {}",
        event.sequence,
        event.state.word(),
        event
            .basket
            .map_or_else(|| "unknown".to_owned(), |basket| basket.to_string()),
        event.reason,
        event.subject,
        rfc3339(event.recorded_at),
        String::from_utf8_lossy(&event.body),
    )
}
