//! Whether MongoDB is there, and how it stands, in the metrics.

use std::time::Duration;

use crate::metrics::Metrics;
use crate::views::{State, Views};

/// How often MongoDB is asked how it stands.
const INTERVAL: Duration = Duration::from_secs(15);

/// Notes how MongoDB stands, until the future is dropped. `asks` says whether this process asks it for figures.
pub(super) async fn keep(views: Views, metrics: &Metrics, asks: bool) {
    let mut state = views.state();
    loop {
        let open = *state.borrow_and_update() == State::Open;
        metrics.views_open.set(open.into());
        if asks {
            note(&views, metrics).await;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn note(views: &Views, metrics: &Metrics) {
    let figures = match views.figures().await {
        Ok(figures) => figures,
        Err(error) => {
            tracing::debug!("MongoDB does not tell how it stands: {error}");
            metrics.mongodb_told.set(0);
            return;
        }
    };
    metrics.mongodb_told.set(1);
    metrics.mongodb_connections.set(figures.connections);
    metrics.mongodb_connections_limit.set(figures.connections_limit);
    metrics.mongodb_cache.set(figures.cache);
    metrics.mongodb_cache_limit.set(figures.cache_limit);
    metrics.mongodb_queue.set(figures.queue);
    metrics.mongodb_storage.set(figures.storage);
    metrics.mongodb_disk.set(figures.disk);
    metrics.mongodb_disk_limit.set(figures.disk_limit);
    metrics.mongodb_oplog.set(figures.oplog);
}
