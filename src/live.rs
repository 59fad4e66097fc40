//! Live updates: what happens in a shop, as it happens, to any number of viewers.
//!
//! One reader a shop and process follows `UPDATES` into a short log in memory (`log.rs`), and every
//! viewer of the shop reads that log at its own pace (`viewer.rs`). A viewer has no queue: it is a
//! place in the log. So a viewer that is slow costs the others nothing and has a fixed size; one that
//! falls out of the log is given the newest update of each basket and told how many it was spared.
//!
//! A viewer that comes back says where it was. It is told first whether it gets everything since
//! then (`join.rs`); if not, it starts from a snapshot of the shop's open baskets, which the updates
//! that follow join without a gap and without a repeat.

mod frame;
mod join;
mod log;
mod shop;
mod viewer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::frame::Goodbye;
use self::log::Log;
use crate::core::duration::parse_duration;
use crate::core::id::ShopId;
use crate::metrics::Metrics;
use crate::trace::Tracer;
use crate::updates::{Extent, Feed, Place, ReadError};
use crate::views::Views;

/// Viewers that may read old updates from the stream at once; each has a consumer at the server meanwhile.
const CATCHING_UP_MAX: usize = 64;

/// How viewers are served.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Viewers of live updates that may be connected at once; one more is refused. Each costs a connection and 30 to 60 KiB. Without it: 10000.
    #[arg(long, env = "EZOUT_VIEWERS", default_value_t = 10_000)]
    pub viewers: usize,

    /// How often a viewer to whom nothing happens is sent a heartbeat, and how often the server is asked whether anything was missed. Without it: 5 s.
    #[arg(long, env = "EZOUT_HEARTBEAT", default_value = "5s", value_parser = parse_duration)]
    pub heartbeat: Duration,
}

/// As many viewers are connected as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many viewers are connected as may be")]
pub struct Full;

/// The viewers of a process, and the shops that they watch; clones share them.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    feed: Feed,
    views: Views,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    heartbeat: Duration,
    room: Arc<Semaphore>,
    room_max: usize,
    catching_up: Arc<Semaphore>,
    shops: Mutex<HashMap<ShopId, Arc<Log>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Hub {
    /// A hub without viewers. When `stop` is cancelled every viewer is told so and its stream ends.
    pub fn new(
        feed: Feed,
        views: Views,
        config: &Config,
        (metrics, tracer): (Arc<Metrics>, Tracer),
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let room_max = config.viewers.min(Semaphore::MAX_PERMITS);
        metrics
            .live_viewers_limit
            .set(i64::try_from(room_max).unwrap_or(i64::MAX));
        Self(Arc::new(Parts {
            feed,
            views,
            metrics,
            tracer,
            heartbeat: config.heartbeat,
            room: Arc::new(Semaphore::new(room_max)),
            room_max,
            catching_up: Arc::new(Semaphore::new(CATCHING_UP_MAX)),
            shops: Mutex::default(),
            tasks,
            stop,
        }))
    }

    /// The updates of a shop as Server-Sent Events, from the one after `after`, or from a snapshot on.
    ///
    /// The stream begins at once, whether or not NATS and MongoDB are there, stays open while they are
    /// away, and says so. It ends when the process stops, where the viewer has to come back, and when `ended` says so.
    ///
    /// # Errors
    /// [`Full`] if as many viewers are connected as may be.
    pub fn view<E>(
        &self,
        shop: ShopId,
        after: Option<Place>,
        ended: E,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<E>, Full>
    where
        E: Future<Output = Goodbye> + Send + 'static,
    {
        let seat = Arc::clone(&self.0.room).try_acquire_owned().map_err(|_| Full)?;
        let viewer = viewer::Viewer::new(self, shop, after, seat);
        let seeing = (viewer, Box::pin(ended));
        Ok(futures::stream::unfold(seeing, async |(mut viewer, mut ended)| {
            let piece = viewer.next(ended.as_mut()).await?;
            Some((piece, (viewer, ended)))
        }))
    }

    /// Which updates are stored.
    ///
    /// # Errors
    /// [`ReadError`] if they cannot be reached now.
    pub async fn extent(&self) -> Result<Extent, ReadError> {
        self.0.feed.extent().await
    }

    /// Returns when every viewer is told that the process stops.
    pub async fn stopping(&self) {
        self.0.stop.cancelled().await;
    }

    /// Viewers that are connected.
    fn viewers(&self) -> usize {
        self.0.room_max.saturating_sub(self.0.room.available_permits())
    }

    fn shops(&self) -> MutexGuard<'_, HashMap<ShopId, Arc<Log>>> {
        // Every change of the map is one call, so a panic cannot leave half of one.
        self.0.shops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log of a shop, with one more viewer; the shop is followed from now on if it was not.
    fn enter(&self, shop: ShopId) -> Arc<Log> {
        let mut shops = self.shops();
        if let Some(log) = shops.get(&shop) {
            log.add_viewer();
            return Arc::clone(log);
        }
        let log = Arc::new(Log::default());
        log.add_viewer();
        shops.insert(shop, Arc::clone(&log));
        self.0.metrics.live_shops.inc();
        self.0.tasks.spawn(shop::follow(self.clone(), shop, Arc::clone(&log)));
        log
    }

    /// Forgets a shop's log; the next viewer of the shop begins another one. With `if_unwatched` only if it has no viewer.
    fn forget(&self, shop: ShopId, log: &Arc<Log>, if_unwatched: bool) -> bool {
        let mut shops = self.shops();
        let is_it = shops.get(&shop).is_some_and(|known| Arc::ptr_eq(known, log));
        if !is_it || (if_unwatched && log.viewers() > 0) {
            return false;
        }
        shops.remove(&shop);
        self.0.metrics.live_shops.dec();
        true
    }
}
