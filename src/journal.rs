//! The journal: the `JetStream` stream that is the only truth, or several that share its partitions.
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
mod end;
mod group;
mod known;
mod read;
mod spread;
mod storing;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::core::id::{ShopId, partition_of};
use crate::metrics::Metrics;
use crate::nats::{self, Link, Plan, Start, StoredMessage};

pub use self::ack::AppendError;
pub use self::durability::{Durability, Judgement, Server, ServerFault, Servers, judge, monitor, monitor_client};
pub use self::read::{RawEvent, Reader};
pub use self::spread::{Lane, Spread};
pub use self::storing::Storing;
pub use self::upkeep::{another_spread, identity, partitions_in, settings, spread_in};
pub use crate::nats::{LinkError, ReadError};

use self::append::{Request, Writer};
use self::upkeep::Upkeep;

/// Name of the stream; where there are several, each has its number behind it.
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

    /// Streams that the partitions of a new journal are spread over, so that several leaders and stores take its events: 1, 2, 4, 8 or 16.
    /// An existing one keeps its number, and a process that is started with another one refuses it.
    #[arg(id = "journal_streams", long = "journal-streams", env = "EZOUT_JOURNAL_STREAMS", default_value_t = Spread::ONE)]
    pub streams: Spread,

    /// Events that may wait to be appended by this process, to each stream. One more is refused at once, and the phone tries again later.
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

/// How far a stream of the journal goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The journal's identity.
    pub epoch: Uuid,
    /// The first event's sequence; beyond the last in an empty stream.
    pub first_sequence: u64,
    /// The last event's sequence; 0 in a stream that never had one.
    pub last_sequence: u64,
    /// From one event's sequence to the next one's in the stream.
    pub step: u64,
}

impl Tail {
    /// How many sequences there are from the first event to the last.
    fn length(self) -> u64 {
        match self.last_sequence {
            0 => 0,
            last => (last + self.step).saturating_sub(self.first_sequence) / self.step,
        }
    }

    fn of(info: &Info, lane: Lane) -> Result<Self, ReadError> {
        let epoch = upkeep::epoch_of(&info.config);
        Ok(Self {
            epoch: epoch.ok_or_else(|| ReadError::unavailable("the journal has no epoch"))?,
            first_sequence: lane.sequence(info.state.first_sequence),
            last_sequence: lane.sequence(info.state.last_sequence),
            step: lane.spread().streams().into(),
        })
    }
}

/// How far each stream of the journal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tails {
    spread: Spread,
    by_lane: Vec<Tail>,
}

impl Tails {
    /// How far the stream of a partition goes.
    pub fn of_partition(&self, partition: u16) -> Tail {
        self.by_lane[self.spread.of_partition(partition).index()]
    }

    /// Sequences of events by chance, each as likely as any other; none where there are no events.
    pub fn sample(&self, count: u32) -> BTreeSet<u64> {
        let all: u64 = self.by_lane.iter().map(|tail| tail.length()).sum();
        let count = if all == 0 { 0 } else { count };
        (0..count).filter_map(|_| self.nth(fastrand::u64(..all))).collect()
    }

    /// The sequence at this place, from 0, where all streams are put one behind the other.
    fn nth(&self, mut place: u64) -> Option<u64> {
        for tail in &self.by_lane {
            match place.checked_sub(tail.length()) {
                None => return Some(tail.first_sequence + place * tail.step),
                Some(beyond) => place = beyond,
            }
        }
        None
    }
}

/// How much the journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The journal's identity.
    pub epoch: Uuid,
    /// The lowest sequence that an event has; beyond the last in an empty journal.
    pub first_sequence: u64,
    /// The highest sequence that an event has; 0 in a journal that never had one.
    pub last_sequence: u64,
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

/// The journal. Clones share one connection and one writer for each stream.
#[derive(Debug, Clone)]
pub struct Journal {
    spread: Spread,
    /// By stream.
    links: Arc<[Link]>,
    /// 0 until they are known.
    partitions: Arc<AtomicU16>,
    state: watch::Receiver<State>,
    storing: Storing,
    /// By stream.
    requests: Arc<[mpsc::Sender<Request>]>,
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
        let spread = config.streams;
        let links = links(&config.nats_url, spread).await?;
        // For each as many: the events of one request go to one stream. What all of them take is bounded by their bodies.
        let places = config.append_queue.max(1);
        let (upkeep, state) = Upkeep::new(config, Arc::clone(&links), Arc::clone(&metrics));
        let partitions = upkeep.partitions();
        let (storing, mut requests) = (Storing::over(spread), Vec::new());
        for lane in spread.lanes() {
            let (sender, queue) = mpsc::channel(places);
            let limit = metrics.journal_queue_limit.with_label_values(&[&lane.name()]);
            limit.set(i64::try_from(places).unwrap_or(i64::MAX));
            let link = links[lane.index()].clone();
            let storing = storing.of(lane);
            let writer = Writer::new(
                (lane, link),
                &upkeep,
                state.clone(),
                storing,
                queue,
                Arc::clone(&metrics),
            );
            tasks.spawn(writer.run(stop.clone()).instrument(tracing::error_span!("append")));
            requests.push(sender);
        }
        tasks.spawn(upkeep.run(stop).instrument(tracing::error_span!("append")));
        Ok(Self {
            spread,
            links,
            partitions,
            state,
            storing,
            requests: requests.into(),
            metrics,
        })
    }

    /// The journal of so many partitions at this address, to be read only: no stream is made, nothing is watched, and
    /// appends are refused.
    ///
    /// # Errors
    /// [`LinkError`] if the URL is none.
    pub async fn to_read(url: &str, spread: Spread, partitions: u16) -> Result<Self, LinkError> {
        let reason = "it was opened to be read".to_owned();
        let (_, state) = watch::channel(State::Unavailable { reason });
        Ok(Self {
            spread,
            links: links(url, spread).await?,
            partitions: Arc::new(partitions.into()),
            state,
            storing: Storing::over(spread),
            requests: Arc::default(),
            metrics: Arc::default(),
        })
    }

    /// Whether its streams store events, as far as those that were sent by this process tell.
    pub fn storing(&self) -> Storing {
        self.storing.clone()
    }

    /// What the journal can do now, and every change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// A link to the journal, for those who read other streams by the same connection.
    pub fn link(&self) -> &Link {
        &self.links[0]
    }

    /// The streams that it lies in.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The connection, for those who publish beside the journal. It reconnects by itself.
    pub fn client(&self) -> async_nats::Client {
        self.link().client()
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
        let lane = match &*self.state.borrow() {
            State::Unavailable { reason } => return Err(AppendError::Unavailable { reason: reason.clone() }),
            State::Open(facts) if entry.stored_bytes() > facts.message_bytes_max => return Err(AppendError::TooLarge),
            State::Open(facts) => self.spread.of_partition(partition_of(entry.shop, facts.partitions)),
        };
        let (answer, answered) = oneshot::channel();
        self.requests[lane.index()]
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
        let lane = self.spread.of_partition(partition);
        self.open(lane, Plan::after(subject, lane.place(after))).await
    }

    /// Reads the events of one stream in journal order, from the one after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_lane(&self, lane: Lane, after: u64) -> Result<Reader, ReadError> {
        self.open(lane, Plan::after(end::ALL.to_owned(), lane.place(after)))
            .await
    }

    /// Reads the events of a shop in journal order, from the one after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_shop(&self, shop: ShopId, after: u64) -> Result<Reader, ReadError> {
        let (lane, subject) = self.of_shop(shop)?;
        self.open(lane, Plan::after(subject, lane.place(after))).await
    }

    /// Reads the events of a shop in journal order, from the first that was recorded at this time or later.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn read_shop_since(&self, shop: ShopId, time: time::OffsetDateTime) -> Result<Reader, ReadError> {
        let (lane, subject) = self.of_shop(shop)?;
        self.open(lane, Plan::since(subject, time)).await
    }

    async fn open(&self, lane: Lane, plan: Plan) -> Result<Reader, ReadError> {
        Reader::open((lane, &self.links[lane.index()]), &self.metrics, plan).await
    }

    /// The stream that has the events of a shop, and their subject there.
    fn of_shop(&self, shop: ShopId) -> Result<(Lane, String), ReadError> {
        if self.spread == Spread::ONE {
            return Ok((Lane::ONLY, format!("checkout.*.{shop}")));
        }
        match self.partitions.load(Ordering::Acquire) {
            0 => Err(ReadError::unavailable("the journal is being opened")),
            partitions => {
                let partition = partition_of(shop, partitions);
                let lane = self.spread.of_partition(partition);
                Ok((lane, format!("checkout.{partition}.{shop}")))
            }
        }
    }

    /// Gets some events of a shop after the sequence `after`, as many as there are now and at most `max`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn page(&self, shop: ShopId, after: u64, max: usize) -> Result<Vec<RawEvent>, ReadError> {
        let (lane, subject) = self.of_shop(shop)?;
        let start = Start::After(lane.place(after));
        let messages = nats::get_many(&self.client(), &lane.name(), &subject, start, max).await?;
        let events = messages.into_iter().map(|message| RawEvent::of(message, lane));
        Ok(events.collect())
    }

    /// Gets one event, or nothing if the journal has none of that sequence.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn get(&self, sequence: u64) -> Result<Option<RawEvent>, ReadError> {
        let lane = self.spread.of_sequence(sequence);
        let stream = self.links[lane.index()].stream();
        read::get(stream, lane, lane.place(sequence)).await
    }

    /// Counts the events of a partition after the sequence `after`.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn backlog(&self, partition: u16, after: u64) -> Result<Backlog, ReadError> {
        let subject = format!("checkout.{partition}.*");
        let lane = self.spread.of_partition(partition);
        let start = Start::After(lane.place(after));
        let first = nats::get_many(&self.client(), &lane.name(), &subject, start, 1).await?;
        let following = |first: &StoredMessage| first.header(FOLLOWING)?.parse::<u64>().ok();
        Ok(Backlog {
            events: first.first().map_or(0, |first| following(first).unwrap_or(0) + 1),
            since: first.first().map(|first| first.stored_at),
        })
    }

    /// Asks how far the stream of a partition goes.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn tail(&self, partition: u16) -> Result<Tail, ReadError> {
        self.tail_of_lane(self.spread.of_partition(partition)).await
    }

    /// Asks how far the stream of a shop goes.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn tail_of_shop(&self, shop: ShopId) -> Result<Tail, ReadError> {
        self.tail_of_lane(self.of_shop(shop)?.0).await
    }

    /// Asks how far a stream goes.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn tail_of_lane(&self, lane: Lane) -> Result<Tail, ReadError> {
        Tail::of(&self.info(lane).await?, lane)
    }

    /// Asks how far each stream goes.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn tails(&self) -> Result<Tails, ReadError> {
        let infos = self.infos().await?;
        let tails = self.spread.lanes().zip(&infos).map(|(lane, info)| Tail::of(info, lane));
        Ok(Tails {
            spread: self.spread,
            by_lane: tails.collect::<Result<_, _>>()?,
        })
    }

    /// Asks the streams how much they have together.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now, or is none of ours.
    pub async fn size(&self) -> Result<Size, ReadError> {
        let infos = self.infos().await?;
        let tails = self.spread.lanes().zip(&infos).map(|(lane, info)| Tail::of(info, lane));
        let tails: Vec<Tail> = tails.collect::<Result<_, _>>()?;
        let states = || infos.iter().map(|info| &info.state);
        let begun = tails.iter().filter(|tail| tail.last_sequence > 0);
        let first = begun.map(|tail| tail.first_sequence).min();
        let last = tails.iter().map(|tail| tail.last_sequence).max();
        Ok(Size {
            epoch: tails[0].epoch,
            first_sequence: first.unwrap_or(tails[0].first_sequence),
            last_sequence: last.unwrap_or(0),
            messages: states().map(|state| state.messages).sum(),
            bytes: states().map(|state| state.bytes).sum(),
            last_at: states()
                .filter(|state| state.last_sequence > 0)
                .map(|state| state.last_timestamp)
                .max(),
        })
    }

    /// Asks for everything that the server says of a stream.
    ///
    /// # Errors
    /// [`ReadError`] if the journal cannot be reached now.
    pub async fn info(&self, lane: Lane) -> Result<Info, ReadError> {
        let stream = self.links[lane.index()].stream();
        stream.get_info().await.map_err(ReadError::unavailable)
    }

    async fn infos(&self) -> Result<Vec<Info>, ReadError> {
        futures::future::try_join_all(self.spread.lanes().map(|lane| self.info(lane))).await
    }
}

/// One connection, as a link to each stream.
async fn links(url: &str, spread: Spread) -> Result<Arc<[Link]>, LinkError> {
    let mut links: Vec<Link> = Vec::new();
    for lane in spread.lanes() {
        let link = match links.first() {
            None => Link::start(url, &lane.name()).await?,
            Some(first) => first.to(&lane.name()).await?,
        };
        links.push(link);
    }
    Ok(links.into())
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
