//! Reading what a run left behind, raw, and listening to updates while it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use mongodb::options::{ReadConcern, SelectionCriteria};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::history::{Evidence, JournalEvent, Phones, StoredUpdate};
use crate::support::{Stack, wait_for};

/// How often leases are looked at while a run goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

type Heard = Arc<Mutex<BTreeMap<String, Vec<u64>>>>;
type Seen = Arc<Mutex<Vec<String>>>;

/// Those who watch during a run.
pub struct Watch {
    heard: Heard,
    seen: Seen,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts to listen to the updates of all shops, and to look at the fences.
    pub async fn start(stack: &Stack) -> Self {
        let (heard, seen) = (Heard::default(), Seen::default());
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(stack.nats.url())
            .await
            .unwrap();
        let subscriber = client.subscribe("updates.store.*").await.unwrap();
        client.flush().await.unwrap();
        let tasks = vec![
            tokio::spawn(listen(subscriber, Arc::clone(&heard))),
            tokio::spawn(look_at_fences(stack.database().await, Arc::clone(&seen))),
        ];
        Self { heard, seen, tasks }
    }

    /// Waits until every visit that nobody ended is abandoned, so that the journal grows no more.
    pub async fn all_abandoned(&self, stack: &Stack) {
        let database = stack.database().await;
        let open = doc! { "status": "open", "parked_since": null };
        wait_for("the last open baskets to be abandoned", async || {
            settled(stack).await;
            let open = read(&database, "baskets", open.clone()).await.ok()?;
            open.is_empty().then_some(())
        })
        .await;
    }

    /// Gathers everything, once the views are as far as the journal.
    pub async fn gather(&self, stack: &Stack, phones: Phones) -> Evidence {
        let journal = settled(stack).await;
        let database = stack.database().await;
        let updates = read_stream(stack, "UPDATES").await;
        let baskets = all(&database, "baskets", doc! {}).await;
        let parked = all(&database, "parked_events", doc! { "state": "parked" }).await;
        let mut parked: Vec<u64> = parked.iter().map(|event| unsigned(event, "sequence")).collect();
        parked.sort_unstable();
        Evidence {
            phones,
            journal,
            updates: updates.iter().map(stored_update).collect(),
            baskets: baskets
                .into_iter()
                .map(|basket| (basket.get_str("_id").unwrap().to_owned(), basket))
                .collect(),
            checkpoints: checkpoints(&database).await,
            parked,
            heard: self.heard.lock().unwrap().clone(),
            seen: self.seen.lock().unwrap().clone(),
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

async fn listen(mut subscriber: async_nats::Subscriber, heard: Heard) {
    while let Some(message) = subscriber.next().await {
        let shop = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let sequence = body["sequence"].as_u64().unwrap_or(0);
        heard.lock().unwrap().entry(shop).or_default().push(sequence);
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
                seen.lock().unwrap().push(fell);
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
async fn settled(stack: &Stack) -> Vec<JournalEvent> {
    let database = stack.database().await;
    let messages = read_stream(stack, "CHECKOUT").await;
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

/// Every message of a stream, in its order.
async fn read_stream(stack: &Stack, name: &str) -> Vec<jetstream::Message> {
    let context = stack.jetstream().await;
    let stream = context.get_stream(name).await.unwrap();
    let last = stream.get_info().await.unwrap().state.messages;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.unwrap();
    let count = usize::try_from(last).unwrap();
    consumer
        .messages()
        .await
        .unwrap()
        .take(count)
        .try_collect()
        .await
        .unwrap()
}

fn journal_event(message: &jetstream::Message) -> JournalEvent {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(ToString::to_string);
    let info = message.info().unwrap();
    JournalEvent {
        sequence: info.stream_sequence,
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
