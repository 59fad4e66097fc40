//! Following one shop: one reader for all of its viewers.
//!
//! The reader resumes by itself. What it cannot know is whether updates have aged out, or the stream
//! has become another one, while it was interrupted; that is asked after each interruption, and where
//! the answer is not a clear no, the viewers are sent away to come back and be told.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior};

use super::Hub;
use super::frame::Goodbye;
use super::log::{Log, Told};
use crate::core::error_chain;
use crate::core::id::ShopId;
use crate::core::retry::Backoff;
use crate::trace::SpanKind;
use crate::updates::{FeedReader, Place, ReadError, StoredUpdate};
use crate::views::State;

/// How long a shop is followed after its last viewer left: most of them come back.
const LINGER: Duration = Duration::from_secs(10);
/// Updates taken at a time.
const TAKE_MAX: usize = 256;

/// Follows a shop until it has no viewers, the process stops, or its place is lost.
pub(super) async fn follow(hub: Hub, shop: ShopId, log: Arc<Log>) {
    let following = Box::pin(run(&hub, shop, &log));
    let goodbye = match hub.0.stop.run_until_cancelled(following).await {
        Some(End::Unwatched) => return,
        Some(End::Lost) => {
            tracing::warn!(shop.id = %shop, "updates of shop {shop} may have been lost; its viewers begin again");
            Goodbye::Lost
        }
        None => Goodbye::Stopping,
    };
    hub.forget(shop, &log, false);
    log.end(goodbye);
}

enum End {
    /// Nobody watches; the log is forgotten already.
    Unwatched,
    /// What follows the log's newest update is not known.
    Lost,
}

async fn run(hub: &Hub, shop: ShopId, log: &Arc<Log>) -> End {
    let Some(mut following) = Following::begin(hub, shop, log).await else {
        return End::Unwatched;
    };
    let mut tick = tokio::time::interval(hub.0.heartbeat);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watched_at = Instant::now();
    loop {
        let result = tokio::select! {
            taken = following.reader.next(TAKE_MAX) => match taken {
                Ok(updates) => {
                    let told = updates.iter().filter_map(Told::of).collect();
                    let appended = following.append(told).await;
                    for update in &updates {
                        following.trace(update);
                    }
                    appended
                }
                Err(error) => Err(error),
            },
            _ = tick.tick() => {
                if log.viewers() > 0 {
                    watched_at = Instant::now();
                } else if watched_at.elapsed() >= LINGER && hub.forget(shop, log, true) {
                    return End::Unwatched;
                }
                following.check().await
            }
        };
        match result {
            Ok(Certainty::Known) => {}
            Ok(Certainty::Lost) => return End::Lost,
            Err(error) => following.unsure(&error),
        }
    }
}

/// Whether the log has everything up to its newest update.
enum Certainty {
    Known,
    Lost,
}

struct Following<'a> {
    hub: &'a Hub,
    shop: ShopId,
    log: &'a Log,
    reader: FeedReader,
    /// The stream that the places are of.
    created_at: OffsetDateTime,
    /// How often the reader had been opened when it was last sure that nothing was missed.
    sure_opens: u64,
    /// When everything was known last.
    known_at: OffsetDateTime,
    /// What the last check found missing: the reader has until the next one to bring it.
    awaited: Option<Place>,
}

impl<'a> Following<'a> {
    /// Opens the log at the shop's newest update; nothing if all viewers went away meanwhile.
    async fn begin(hub: &'a Hub, shop: ShopId, log: &'a Arc<Log>) -> Option<Self> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let begun_at = OffsetDateTime::now_utc();
        loop {
            match Self::open(hub, shop, log).await {
                Ok(following) => return Some(following),
                Err(error) => {
                    tracing::debug!(shop.id = %shop, "shop {shop} cannot be followed yet: {}", error_chain(&error));
                    log.set_stale(begun_at);
                }
            }
            if hub.forget(shop, log, true) {
                return None;
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn open(hub: &'a Hub, shop: ShopId, log: &'a Log) -> Result<Self, ReadError> {
        let feed = &hub.0.feed;
        // In this order: where the shop has no update yet, the first one is after the end seen before asking.
        let extent = feed.extent().await?;
        let newest = feed.newest(shop).await?.unwrap_or(Place {
            place: extent.last,
            sequence: 0,
        });
        let reader = feed.follow(shop, newest.place).await?;
        log.open(newest);
        Ok(Self {
            hub,
            shop,
            log,
            sure_opens: reader.opens(),
            reader,
            created_at: extent.created_at,
            known_at: OffsetDateTime::now_utc(),
            awaited: None,
        })
    }

    fn newest(&self) -> Place {
        self.log.newest().expect("the log is open")
    }

    /// Appends updates that came in, once it is sure that they follow what is there.
    async fn append(&mut self, told: Vec<Told>) -> Result<Certainty, ReadError> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while self.reader.opens() != self.sure_opens {
            match self.is_whole().await {
                Ok(true) => self.sure_opens = self.reader.opens(),
                Ok(false) => return Ok(Certainty::Lost),
                Err(error) => {
                    self.unsure(&error);
                    tokio::time::sleep(backoff.next_pause()).await;
                }
            }
        }
        if !told.is_empty() {
            self.log.append(told);
        }
        self.known_at = OffsetDateTime::now_utc();
        Ok(Certainty::Known)
    }

    /// The part of an event's trace from when its update was stored until the viewers have it to send.
    fn trace(&self, update: &StoredUpdate) {
        let hub = &self.hub.0;
        if let Some(span) = hub.tracer.below("tell viewers", SpanKind::Consumer, update.trace) {
            let viewers = i64::try_from(self.log.viewers()).unwrap_or(i64::MAX);
            let span = span.since(update.stored_at.into());
            span.with("ezout.viewers", viewers).end(None);
        }
    }

    /// Whether it is the same stream, and nothing after the log's newest update has aged out.
    async fn is_whole(&self) -> Result<bool, ReadError> {
        let (newest, extent) = (self.newest(), self.hub.0.feed.extent().await?);
        Ok(extent.created_at == self.created_at && newest.place <= extent.last && extent.first <= newest.place + 1)
    }

    /// Asks the server for the shop's newest update, so that silence is known to be silence.
    async fn check(&mut self) -> Result<Certainty, ReadError> {
        let feed = &self.hub.0.feed;
        let stored = feed.newest(self.shop).await?;
        let newest = self.newest();
        match stored {
            Some(stored) if stored == newest => self.sure_opens = self.reader.opens(),
            // Of another stream.
            Some(stored) if stored.place <= newest.place => return Ok(Certainty::Lost),
            Some(_) if self.awaited == Some(newest) => {
                tracing::debug!(shop.id = %self.shop, "the reader of shop {} stands still and is opened anew", self.shop);
                self.reader = feed.follow(self.shop, newest.place).await?;
                // The new reader counts from its own beginning, which is to be looked at as well.
                self.sure_opens = 0;
                self.awaited = None;
                return Ok(Certainty::Known);
            }
            Some(_) => {
                self.awaited = Some(newest);
                return Ok(Certainty::Known);
            }
            None => {
                let extent = feed.extent().await?;
                let interrupted = self.reader.opens() != self.sure_opens;
                let same = extent.created_at == self.created_at && extent.last >= newest.place;
                if !same || (interrupted && extent.first > newest.place + 1) {
                    return Ok(Certainty::Lost);
                }
                self.sure_opens = self.reader.opens();
            }
        }
        self.awaited = None;
        self.known_at = OffsetDateTime::now_utc();
        let views_are_open = *self.hub.0.views.state().borrow() == State::Open;
        // Without the views nothing is projected, so no update can come.
        if views_are_open {
            self.log.set_fresh();
        } else {
            self.log.set_stale(self.known_at);
        }
        Ok(Certainty::Known)
    }

    fn unsure(&self, error: &ReadError) {
        tracing::debug!(shop.id = %self.shop, "the updates of shop {} are not known: {}", self.shop, error_chain(error));
        self.log.set_stale(self.known_at);
    }
}
