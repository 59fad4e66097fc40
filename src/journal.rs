//! The journal: the `JetStream` stream that is the only truth.
//!
//! [`Journal::append`] answers when the server has acknowledged an event, and says how safe it is
//! then; [`Journal::read`] gives the events of a partition in order, without gaps, for as long as one
//! likes. The journal is opened and watched in the background, so a process starts whether or not
//! NATS is there, and is told by [`Journal::state`] what it can rely on.
//!
//! The journal never deletes, and never promises more than the running servers give.

mod ack;
mod append;
mod durability;
mod elsewhere;
mod end;
mod group;
mod known;
mod read;
mod upkeep;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::core::id::ShopId;
use crate::metrics::Metrics;
use crate::nats::{self, Link, Plan, Start, StoredMessage};

pub use self::ack::AppendError;
pub use self::durability::{Durability, Judgement, Server, ServerFault, Servers, judge, monitor, monitor_client};
pub use self::read::{RawEvent, Reader};
pub use self::upkeep::{identity, settings};
pub use crate::nats::{LinkError, ReadError};

use self::append::{Request, Writer};
use self::upkeep::Upkeep;

/// Name of the stream.
pub const STREAM: &str = "CHECKOUT";
/// Header with the event's identity, by which the server knows a retry.
const ID: &str = "Nats-Msg-Id";
/// Header with the digest of the body, by which a retry is told from another event of the same identity.
const DIGEST: &str = "Ezout-Digest";
/// Header with the time when the service had received the event, in microseconds since 1970.
pub const RECEIVED: &str = "Ezout-Received";
/// Header in which the server says how many messages follow one that it was asked for.
const FOLLOWING: &str = "Nats-Num-Pending";
/// Header with the session.
const SUBJECT: &str = "ce-subject";
/// Bytes of a stored message beyond its body and the caller's headers: our own headers and their names, rounded up.
const OVERHEAD_BYTES: usize = 512;

/// Where the journal is, and how this process uses it.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// NATS servers, separated by commas; one is enough, the others of a cluster are discovered. User and password may stand in the URL.
    /// Without it: a server on this machine.
    #[arg(
        long,
        env = "EZOUT_NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats_url: String,

    /// Monitoring addresses of the NATS servers that hold the journal, separated by commas, one for each server.
    /// They say whether a server syncs its disk before it acknowledges; without one for each server readiness fails, since nothing can be promised.
    #[arg(
        long = "nats-monitor-url",
        env = "EZOUT_NATS_MONITOR_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8222"
    )]
    pub monitor_urls: Vec<String>,

    /// Servers that keep a copy of each event: 1, 3 or 5. Readiness fails if the stream has fewer.
    #[arg(long = "nats-replicas", env = "EZOUT_NATS_REPLICAS", default_value_t = 1)]
    pub replicas: usize,

    /// Partitions of a new journal. An existing one keeps the number that it was created with, whatever is said here.
    #[arg(long, env = "EZOUT_PARTITIONS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: u16,

    /// Events that may wait to be appended by this process. One more is refused at once, and the phone tries again later.
    #[arg(long, env = "EZOUT_APPEND_QUEUE", default_value_t = 4096)]
    pub append_queue: usize,
}

/// What the journal can do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing can be appended or read.
    Unavailable {
        /// Why, and what to do where somebody must do something.
        reason: String,
    },
    /// The journal answers.
    Open(Facts),
}

/// What the running stream and its servers really are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The identity of this journal. It changes only if the stream was created anew, which voids every sequence.
    pub epoch: Uuid,
    /// Partitions, fixed when the journal was created.
    pub partitions: u16,
    /// Servers that keep a copy of each event.
    pub replicas: usize,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Why the journal is weaker than promised; empty if it is as promised.
    pub weaker: Vec<String>,
    /// Whether the stream accepts atomic batches.
    pub atomic: bool,
    /// Largest message in bytes, headers included.
    pub message_bytes_max: usize,
}

/// An event to append.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The shop, whose subject the event goes to.
    pub shop: ShopId,
    /// The event's identity: two entries of one id are the same event.
    pub id: Uuid,
    /// Digest of what must be equal in two entries of one id.
    pub digest: u128,
    /// Headers to store with the event, `ce-*` and those of its way. Control characters in a value are left out.
    pub headers: Vec<(&'static str, String)>,
    /// The event.
    pub body: Bytes,
}

/// The answer to an append: the event is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place.
    pub sequence: u64,
    /// Whether it was there before this append.
    pub duplicate: bool,
    /// How safe it is.
    pub durability: Durability,
}

/// How far the journal goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The journal's identity.
    pub epoch: Uuid,
    /// The first event's sequence; one above the last in an empty journal.
    pub first_sequence: u64,
    /// The last event's sequence; 0 in a journal that never had one.
    pub last_sequence: u64,
}

/// How much the journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// How far it goes.
    pub tail: Tail,
    /// Its events.
    pub messages: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// When the last one was recorded; nothing where there never was one.
    pub last_at: Option<OffsetDateTime>,
}

/// What a partition has beyond a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many events.
    pub events: u64,
    /// When the first of them was recorded.
    pub since: Option<OffsetDateTime>,
}

/// The journal. Clones share one connection and one writer.
#[derive(Debug, Clone)]
pub struct Journal {
    link: Link,
    state: watch::Receiver<State>,
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
}

impl Journal {
    /// Starts to open the journal, and returns before it is open or even connected.
    ///
    /// The background work ends when `stop` is cancelled: what was accepted by then is appended and
    /// answered, what comes later is refused. Cancel it after those who append have ended.
    ///
    /// # Errors
    /// [`LinkError`] if the configured URL is none.
    pub async fn start(
        config: Config,
        metrics: Arc<Metrics>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, LinkError> {
        let link = Link::start(&config.nats_url, STREAM).await?;
        let places = config.append_queue.max(1);
        metrics
            .journal_queue_limit
            .set(i64::try_from(places).unwrap_or(i64::MAX));
        let (requests, queue) = mpsc::channel(places);
        let (upkeep, state) = Upkeep::new(config, link.clone(), Arc::clone(&metrics));
        let writer = Writer::new(link.clone(), &upkeep, state.clone(), queue, Arc::clone(&metrics));
        tasks.spawn(upkeep.run(stop.clone()).instrument(tracing::error_span!("append")));
        tasks.spawn(writer.run(stop).instrument(tracing::error_span!("append")));
        Ok(Self {
            link,
            state,
            requests,
            metrics,
        })
    }

    /// The journal at this link, whatever it is, to be read only: no stream is made, nothing is watched, and appends are refused.
    pub fn to_read(link: Link) -> Self {
        let reason = "it was opened to be read".to_owned();
        let (_, state) = watch::channel(State::Unavailable { reason });
        let (requests, _) = mpsc::channel(1);
        Self {
            link,
            state,
            requests,
            metrics: Arc::default(),
        }
    }

    /// What the journal can do now, and every change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The link to the journal, for those who read other streams by the same connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The connection, for those who publish beside the journal. It reconnects by itself.
    pub fn client(&self) -> async_nats::Client {
        self.link.client()
    }

    /// Appends an event and returns when the server has acknowledged it.
    ///
    /// Safe to repeat whatever came of it: an event that is there already is a receipt with
    /// `duplicate`. If the caller goes away the event may be appended all the same.
    ///
    /// # Errors
    /// [`AppendError`]; after all but [`AppendError::Unknown`] and [`AppendError::Conflict`] the event is not in the journal by this call.
    pub async fn append(&self, entry: Entry) -> Result<Receipt, AppendError> {
        let started = Instant::now();
        let result = self.offer(entry).await;
        self.metrics
            .journal_append_seconds
            .observe(started.elapsed().as_secs_f64());
        let outcome = match &result {
            Ok(Receipt { duplicate: false, .. }) => "recorded",
            Ok(Receipt { duplicate: true, .. }) => "duplicate",
            Err(error) => error.outcome(),
        };
        self.metrics.journal_appends.with_label_values(&[outcome]).inc();
        result
    }

    async fn offer(&self, entry: Entry) -> Result<Receipt, AppendError> {
        match &*self.state.borrow() {
            State::Unavailable { reason } => return Err(AppendError::Unavailable { reason: reason.clone() }),
            State::Open(facts) if entry.stored_bytes() > facts.message_bytes_max => return Err(AppendError::TooLarge),
            State::Open(_) => {}
        }
        let (answer, answered) = oneshot::channel();
        self.requests
            .try_send(Request { entry, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => AppendError::stopping(),
            })?;
        // The writer drops a request unanswered only if it stops halfway.
        answered.await.unwrap_or(Err(AppendError::Unknown))
    }

    /// Reads the events of a partition in journal order, from the one after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read(&self, partition: u16, after: u64) -> Result<Reader, ReadError> {
        let subject = format!("checkout.{partition}.*");
        Reader::open(&self.link, &self.metrics, Plan::after(subject, after)).await
    }

    /// Reads the events of all partitions in journal order, from the one after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_all(&self, after: u64) -> Result<Reader, ReadError> {
        Reader::open(&self.link, &self.metrics, Plan::after(end::ALL.to_owned(), after)).await
    }

    /// Reads the events of a shop in journal order, from the one after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_shop(&self, shop: ShopId, after: u64) -> Result<Reader, ReadError> {
        let subject = format!("checkout.*.{shop}");
        Reader::open(&self.link, &self.metrics, Plan::after(subject, after)).await
    }

    /// Reads the events of a shop in journal order, from the first that was recorded at this time or later.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_shop_since(&self, shop: ShopId, time: time::OffsetDateTime) -> Result<Reader, ReadError> {
        let subject = format!("checkout.*.{shop}");
        Reader::open(&self.link, &self.metrics, Plan::since(subject, time)).await
    }

    /// Gets some events of a shop after the sequence `after`, as many as there are now and at most `max`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn page(&self, shop: ShopId, after: u64, max: usize) -> Result<Vec<RawEvent>, ReadError> {
        let subject = format!("checkout.*.{shop}");
        let messages = nats::get_many(&self.link.client(), STREAM, &subject, Start::After(after), max).await?;
        Ok(messages.into_iter().map(RawEvent::from).collect())
    }

    /// Gets one event, or nothing if the journal has none of that sequence.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn get(&self, sequence: u64) -> Result<Option<RawEvent>, ReadError> {
        read::get(self.link.stream(), sequence).await
    }

    /// Counts the events of a partition after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn backlog(&self, partition: u16, after: u64) -> Result<Backlog, ReadError> {
        let subject = format!("checkout.{partition}.*");
        let first = nats::get_many(&self.link.client(), STREAM, &subject, Start::After(after), 1).await?;
        let following = |first: &StoredMessage| first.header(FOLLOWING)?.parse::<u64>().ok();
        Ok(Backlog {
            events: first.first().map_or(0, |first| following(first).unwrap_or(0) + 1),
            since: first.first().map(|first| first.stored_at),
        })
    }

    /// Asks the stream how far it goes.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn tail(&self) -> Result<Tail, ReadError> {
        Ok(self.size().await?.tail)
    }

    /// Asks the stream how much it has.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn size(&self) -> Result<Size, ReadError> {
        let info = self.link.stream().get_info().await.map_err(ReadError::unavailable)?;
        let epoch = upkeep::epoch_of(&info.config).ok_or_else(|| ReadError::unavailable("the journal has no epoch"))?;
        let state = info.state;
        Ok(Size {
            tail: Tail {
                epoch,
                first_sequence: state.first_sequence,
                last_sequence: state.last_sequence,
            },
            messages: state.messages,
            bytes: state.bytes,
            last_at: (state.last_sequence > 0).then_some(state.last_timestamp),
        })
    }
}

impl Entry {
    /// An upper bound of the message's size in the journal, in bytes.
    fn stored_bytes(&self) -> usize {
        // Each header line has a colon, a space and a line break.
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        self.body.len() + headers + OVERHEAD_BYTES
    }
}
