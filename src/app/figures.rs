//! Whether MongoDB is there, how it stands, and how business goes where that is asked for, in the metrics.

use std::time::Duration;

use time::{OffsetDateTime, Time};

use crate::core::id::ShopId;
use crate::metrics::Metrics;
use crate::views::{State, Views};

/// How often MongoDB is asked how it stands.
const INTERVAL: Duration = Duration::from_secs(15);
/// Most shops whose figures are shown: each is a few series, for as long as Prometheus keeps them.
const SHOPS_MAX: usize = 50;

/// Notes how MongoDB stands, until the future is dropped. `asks` says whether this process asks it for figures, and for
/// those of these shops.
pub(super) async fn keep(views: Views, shops: &[ShopId], metrics: &Metrics, asks: bool) {
    let mut state = views.state();
    loop {
        let open = *state.borrow_and_update() == State::Open;
        metrics.views_open.set(open.into());
        if asks {
            note(&views, metrics).await;
            note_shops(&views, shops, metrics).await;
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

/// The shops that are shown.
///
/// # Errors
/// Too many.
pub(super) fn shown(shops: &[ShopId]) -> anyhow::Result<Vec<ShopId>> {
    anyhow::ensure!(
        shops.len() <= SHOPS_MAX,
        "EZOUT_SHOP_FIGURES may name at most {SHOPS_MAX} shops"
    );
    Ok(shops.to_vec())
}

async fn note_shops(views: &Views, shops: &[ShopId], metrics: &Metrics) {
    let midnight = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
    for shop in shops {
        let summary = match views.summary(*shop, midnight).await {
            Ok(summary) => summary,
            Err(error) => {
                tracing::debug!("the figures of a shop are not known: {error}");
                continue;
            }
        };
        let shop = shop.to_string();
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let label = [shop.as_str()];
        metrics
            .shop_open_baskets
            .with_label_values(&label)
            .set(count(summary.open.baskets));
        metrics
            .shop_open_amount
            .with_label_values(&label)
            .set(summary.open.amount.nearly());
        metrics
            .shop_diverged_baskets
            .with_label_values(&label)
            .set(count(summary.open.diverged));
        metrics
            .shop_paid_baskets
            .with_label_values(&label)
            .set(count(summary.paid_today.baskets));
        metrics
            .shop_paid_amount
            .with_label_values(&label)
            .set(summary.paid_today.amount.nearly());
    }
}
