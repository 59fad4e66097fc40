//! Reading what a run left behind, raw, and listening to updates while it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, consumer::pull::OrderedConfig};
use ezout::journal::Spread;
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use mongodb::options::{ReadConcern, SelectionCriteria};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::history::{End, Evidence, JournalEvent, Phones, StoredUpdate};
use super::promise::Promise;
use crate::support::{Stack, wait_for};

/// How often leases and the journal's end are looked at while a run goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

type Seen = Arc<Mutex<Vec<(Promise, String)>>>;

/// What a subscriber heard.
#[derive(Default)]
struct Heard {
    /// By shop, the sequences as they came.
    shops: BTreeMap<String, Vec<u64>>,
    at: Vec<Instant>,
}

/// Where the servers of a run are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Addresses of NATS, separated by commas.
    pub nats: String,
    pub mongodb: String,
    /// The streams of the journal.
    pub spread: Spread,
}

impl From<&Stack> for Places {
    fn from(stack: &Stack) -> Self {
        Self {
            nats: stack.nats.url(),
            mongodb: stack.mongod.uri(),
            spread: stack.spread,
        }
    }
}

impl Places {
    /// A connection to NATS that stays, or comes back.
    pub async fn client(&self) -> async_nats::Client {
        let servers: Vec<String> = self.nats.split(',').map(str::to_owned).collect();
        async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(2))
            .ping_interval(Duration::from_secs(3))
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(&servers[..])
            .await
            .unwrap()
    }

    /// The views' database.
    pub async fn database(&self) -> mongodb::Database {
        let client = mongodb::Client::with_uri_str(&self.mongodb).await;
        client.unwrap().database("ezout")
    }
}

/// Those who watch during a run.
pub struct Watch {
    heard: Arc<Mutex<Heard>>,
    seen: Seen,
    ends: Arc<Mutex<Vec<End>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts to listen to the updates of all shops, and to look at the fences and at the journal's end.
    pub async fn start(places: impl Into<Places>) -> Self {
        let places = places.into();
        let (heard, seen) = (Arc::<Mutex<Heard>>::default(), Seen::default());
        let ends = Arc::<Mutex<Vec<End>>>::default();
        let client = places.client().await;
        let subscriber = client.subscribe("updates.store.*").await.unwrap();
        client.flush().await.unwrap();
        let tasks = vec![
            tokio::spawn(listen(subscriber, Arc::clone(&heard))),
            tokio::spawn(look_at_fences(places.database().await, Arc::clone(&seen))),
            tokio::spawn(look_at_end(jetstream::new(client), places.spread, Arc::clone(&ends))),
        ];
        Self {
            heard,
            seen,
            ends,
            tasks,
        }
    }

    /// When updates were heard.
    pub fn heard_at(&self) -> Vec<Instant> {
        self.heard.lock().unwrap().at.clone()
    }

    /// Whether a subscriber has heard of this event of a shop.
    pub fn has_heard(&self, shop: &str, sequence: u64) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.shops.get(shop).is_some_and(|heard| heard.contains(&sequence))
    }

    /// Waits until every visit that nobody ended is abandoned, so that the journal grows no more.
    pub async fn all_abandoned(&self, places: impl Into<Places>) {
        let places = places.into();
        let database = places.database().await;
        let open = doc! { "status": "open", "parked_since": null };
        wait_for("the last open baskets to be abandoned", async || {
            settled(&places).await;
            let open = read(&database, "baskets", open.clone()).await.ok()?;
            open.is_empty().then_some(())
        })
        .await;
    }

    /// Gathers everything, once the views are as far as the journal.
    pub async fn gather(&self, places: impl Into<Places>, phones: Phones) -> Evidence {
        let places = places.into();
        let journal = settled(&places).await;
        let database = places.database().await;
        let updates = read_stream(&places, "UPDATES").await;
        let parked = all(&database, "parked_events", doc! { "state": "parked" }).await;
        let mut parked: Vec<u64> = parked.iter().map(|event| unsigned(event, "sequence")).collect();
        parked.sort_unstable();
        Evidence {
            phones,
            streams: places.spread.streams().into(),
            journal,
            updates: updates.iter().map(stored_update).collect(),
            baskets: baskets(&database, "baskets").await,
            checkpoints: checkpoints(&database).await,
            parked,
            heard: self.heard.lock().unwrap().shops.clone(),
            seen: self.seen.lock().unwrap().clone(),
            ends: self.ends.lock().unwrap().clone(),
            ..Evidence::default()
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn listen(mut subscriber: async_nats::Subscriber, heard: Arc<Mutex<Heard>>) {
    while let Some(message) = subscriber.next().await {
        let shop = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let sequence = body["sequence"].as_u64().unwrap_or(0);
        let mut heard = heard.lock().unwrap();
        heard.shops.entry(shop).or_default().push(sequence);
        heard.at.push(Instant::now());
    }
}

/// Notes each end of the journal that is another one than before. One that is lower counts when it stays for a while: a server
/// that has just become the leader of three may not have applied yet what it has.
async fn look_at_end(context: jetstream::Context, spread: Spread, ends: Arc<Mutex<Vec<End>>>) {
    const LOOKS: u32 = 10;
    let mut lower = 0;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Ok(Some(end)) = end_of(&context, spread).await else {
            continue;
        };
        let mut ends = ends.lock().unwrap();
        let falls = ends.last().is_some_and(|before| end.last < before.last);
        lower = if falls { lower + 1 } else { 0 };
        let is_same = |before: &End| (&before.epoch, before.last) == (&end.epoch, end.last);
        if !ends.last().is_some_and(is_same) && (lower == 0 || lower >= LOOKS) {
            ends.push(end);
        }
    }
}

/// A fence that falls would let a projector that lost its lease write again.
async fn look_at_fences(database: mongodb::Database, seen: Seen) {
    let mut fences: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let leases = read(&database, "leases", doc! { "_id": { "$type": "int" } }).await;
        for lease in leases.unwrap_or_default() {
            let (Ok(partition), Ok(fence)) = (lease.get_i32("_id"), lease.get_i64("fence")) else {
                continue;
            };
            let before = fences.insert(partition, fence).unwrap_or(0);
            if fence < before {
                let fell = format!("the fence of partition {partition} fell from {before} to {fence}");
                seen.lock().unwrap().push((Promise::I5, fell));
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What a majority has, which no crash takes back.
async fn read(
    database: &mongodb::Database,
    name: &str,
    query: Document,
) -> Result<Vec<Document>, mongodb::error::Error> {
    let options = mongodb::options::CollectionOptions::builder()
        .read_concern(ReadConcern::majority())
        .selection_criteria(SelectionCriteria::ReadPreference(
            mongodb::options::ReadPreference::Primary,
        ))
        .build();
    let collection = database.collection_with_options::<Document>(name, options);
    collection.find(query).await?.try_collect().await
}

async fn all(database: &mongodb::Database, name: &str, query: Document) -> Vec<Document> {
    wait_for("an answer of mongod", async || {
        read(database, name, query.clone()).await.ok()
    })
    .await
}

/// All baskets of a version, by their `_id`.
pub async fn baskets(database: &mongodb::Database, version: &str) -> BTreeMap<String, Document> {
    let baskets = all(database, version, doc! {}).await;
    let named = baskets
        .into_iter()
        .map(|basket| (basket.get_str("_id").unwrap().to_owned(), basket));
    named.collect()
}

/// Corrections that somebody else than this one has filed: who, and what.
pub async fn filed_by_others(database: &mongodb::Database, permitted: &str) -> Vec<(String, String)> {
    let filed = all(database, "corrections", doc! {}).await;
    let others = filed.iter().filter_map(|filed| {
        let author = filed.get_str("author").unwrap_or_default();
        (!author.ends_with(&format!("({permitted})"))).then(|| (author.to_owned(), filed.to_string()))
    });
    others.collect()
}

fn unsigned(document: &Document, field: &str) -> u64 {
    document
        .get_i64(field)
        .ok()
        .and_then(|number| number.try_into().ok())
        .unwrap_or(0)
}

async fn checkpoints(database: &mongodb::Database) -> BTreeMap<i32, u64> {
    let checkpoints = all(database, "checkpoints", doc! {}).await;
    let place = |checkpoint: &Document| (checkpoint.get_i32("_id").unwrap(), unsigned(checkpoint, "sequence"));
    checkpoints.iter().map(place).collect()
}

/// The journal, once every partition's checkpoint is at its last event.
pub async fn settled(places: &Places) -> Vec<JournalEvent> {
    let database = places.database().await;
    let messages = recorded(places).await;
    let journal: Vec<JournalEvent> = messages.iter().map(journal_event).collect();
    let mut ends: BTreeMap<i32, u64> = BTreeMap::new();
    for event in &journal {
        ends.insert(
            event.subject.split('.').nth(1).unwrap().parse().unwrap(),
            event.sequence,
        );
    }
    let what = format!("checkpoints at the journal's ends {ends:?}");
    wait_for(&what, async || {
        let now = checkpoints(&database).await;
        ends.iter()
            .all(|(partition, end)| now.get(partition).is_some_and(|at| at >= end))
            .then_some(())
    })
    .await;
    journal
}

/// Every event of the journal with its sequence, in that order.
async fn recorded(places: &Places) -> Vec<(u64, jetstream::Message)> {
    let mut all = Vec::new();
    for lane in places.spread.lanes() {
        let messages = read_stream(places, &lane.name()).await;
        all.extend(messages.into_iter().map(|message| {
            let place = message.info().unwrap().stream_sequence;
            (lane.sequence(place), message)
        }));
    }
    all.sort_by_key(|(sequence, _)| *sequence);
    all
}

/// Every message of a stream, in its order.
pub async fn read_stream(places: &Places, name: &str) -> Vec<jetstream::Message> {
    let context = jetstream::new(places.client().await);
    wait_for(&format!("all of the stream {name}"), async || {
        let reading = tokio::time::timeout(Duration::from_secs(30), read_once(&context, name));
        reading.await.ok()?.ok()
    })
    .await
}

/// Every message of a stream, in its order, if it lets itself be read.
pub async fn read_once(context: &jetstream::Context, name: &str) -> Result<Vec<jetstream::Message>, async_nats::Error> {
    let stream = context.get_stream(name).await?;
    let count = usize::try_from(stream.cached_info().state.messages)?;
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    Ok(consumer.messages().await?.take(count).try_collect().await?)
}

/// Where the journal ends, of several streams as if they were one behind the other; nothing where one is not there.
pub async fn end_of(context: &jetstream::Context, spread: Spread) -> Result<Option<End>, GetStreamError> {
    let mut end: Option<End> = None;
    for lane in spread.lanes() {
        match context.get_stream(lane.name()).await {
            Ok(stream) => {
                let mut of_lane = End::of(stream.cached_info());
                of_lane.last += end.map_or(0, |end| end.last);
                end = Some(of_lane);
            }
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(end)
}

fn journal_event((sequence, message): &(u64, jetstream::Message)) -> JournalEvent {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(ToString::to_string);
    let info = message.info().unwrap();
    JournalEvent {
        sequence: *sequence,
        subject: message.subject.to_string(),
        recorded_ms: (info.published.unix_timestamp_nanos() / 1_000_000).try_into().unwrap(),
        session: header("ce-subject"),
        is_abandonment: header("ce-type").as_deref() == Some("ezout.checkout.abandonment.v1"),
        body: message.payload.to_vec(),
    }
}

fn stored_update(message: &jetstream::Message) -> StoredUpdate {
    let sequence = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Ezout-Sequence"));
    StoredUpdate {
        subject: message.subject.to_string(),
        sequence: sequence.and_then(|text| text.as_str().parse().ok()).unwrap_or(0),
        body: serde_json::from_slice(&message.payload).unwrap_or_default(),
    }
}
