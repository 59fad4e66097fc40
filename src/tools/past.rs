//! The journal and the views as the commands that read the past open them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{self, Facts, Journal, Spread};
use crate::metrics::Metrics;
use crate::tools::operator;
use crate::views::{self, Views};

/// How long the servers may take to answer for the first time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens the journal that is there; never makes one.
pub(super) async fn open_journal(
    config: journal::Config,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<(Journal, Facts)> {
    let client = operator::connect(&config.nats_url, "ezout").await?;
    is_there(&jetstream::new(client), config.streams).await?;
    let journal = Journal::start(config, Arc::new(Metrics::new()), tasks, stop)
        .await
        .context("EZOUT_NATS_URL")?;
    let mut state = journal.state();
    let open = state.wait_for(|state| matches!(state, journal::State::Open(_)));
    let open = tokio::time::timeout(OPEN_TIMEOUT, open)
        .await
        .map(|state| state.map(|state| state.clone()));
    let Ok(Ok(journal::State::Open(facts))) = open else {
        bail!("the journal cannot be opened: {:?}", journal.state().borrow().clone());
    };
    Ok((journal, facts))
}

/// Refuses where there is no journal in so many streams.
async fn is_there(context: &jetstream::Context, spread: Spread) -> anyhow::Result<()> {
    not_spread_otherwise(context, spread).await?;
    let first = spread.of_partition(0).name();
    let found = context.get_stream(&first).await;
    found.with_context(|| format!("there is no journal (stream {first}) here"))?;
    Ok(())
}

/// Refuses where there is a journal in another number of streams.
pub(super) async fn not_spread_otherwise(context: &jetstream::Context, spread: Spread) -> anyhow::Result<()> {
    for lane in [spread.of_partition(0), spread.otherwise()] {
        let Ok(found) = context.get_stream(lane.name()).await else {
            continue;
        };
        if let Some(is) = journal::spread_in(&found.cached_info().config).filter(|is| *is != spread) {
            bail!("{}", journal::another_spread(is, spread));
        }
        // Where this one is there, nobody need be asked for the other.
        break;
    }
    Ok(())
}

/// Opens the views.
pub(super) async fn open_views(
    config: &views::Config,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<Views> {
    let views = Views::start(config, tasks, stop).await.context("EZOUT_MONGODB_URI")?;
    let mut state = views.state();
    let open = state.wait_for(|state| *state == views::State::Open);
    if !matches!(tokio::time::timeout(OPEN_TIMEOUT, open).await, Ok(Ok(_))) {
        bail!("MongoDB cannot be reached: {:?}", views.state().borrow().clone());
    }
    Ok(views)
}
