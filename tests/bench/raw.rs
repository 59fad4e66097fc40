//! What NATS and MongoDB give by themselves: the limits that the pipeline is measured against.
//!
//! A raw message has the body of an event and the id that protects it against duplicates, and nothing else.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_MESSAGE_ID,
};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Stream};
use async_nats::jetstream::{self, publish::PublishAck};
use bson::{Bson, Document, doc};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use mongodb::Database;
use uuid::Uuid;

use crate::events::{Action, SHOPS};
use crate::meter::{Meter, Window};

/// Writes in one command.
const COMMAND_WRITES: usize = 500;

/// A stream like the journal's, made for one measurement.
#[derive(Debug)]
pub(crate) struct RawStream {
    client: async_nats::Client,
    context: jetstream::Context,
    name: String,
    body: Bytes,
}

impl RawStream {
    /// Creates the stream with that many replicas.
    pub(crate) async fn create(client: async_nats::Client, replicas: usize) -> Self {
        let context = ContextBuilder::new()
            .timeout(Duration::from_secs(10))
            .max_ack_inflight(10_000)
            .build(client.clone());
        let name = format!("RAW_{}", Uuid::new_v4().simple());
        let config = Config {
            name: name.clone(),
            subjects: vec![format!("{name}.*.*")],
            discard: DiscardPolicy::New,
            num_replicas: replicas,
            duplicate_window: Duration::from_mins(5),
            allow_atomic_publish: true,
            ..Config::default()
        };
        context
            .create_stream(config)
            .await
            .expect("the server creates a stream");
        Self {
            client,
            context,
            name,
            body: Action::of_load(0).entry().body,
        }
    }

    /// The stream's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn subject(&self, n: u64) -> String {
        format!("{}.0.{}", self.name, n % SHOPS)
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, Uuid::new_v4().to_string());
        headers
    }

    /// Publishes singly, with `in_flight` events unacknowledged at any time.
    pub(crate) async fn singles(&self, in_flight: usize, window: Window) -> Meter {
        let mut meter = Meter::new(window);
        let mut acks = FuturesUnordered::new();
        let mut sent = 0;
        loop {
            while acks.len() < in_flight && window.is_open() {
                let since = Instant::now();
                let publish = self
                    .context
                    .publish_with_headers(self.subject(sent), Self::headers(), self.body.clone());
                let ack = publish.await.expect("the event is sent");
                sent += 1;
                acks.push(async move {
                    ack.await.expect("the event is acknowledged");
                    since
                });
            }
            match acks.next().await {
                Some(since) => meter.count(1, since),
                None => return meter,
            }
        }
    }

    /// Commits atomic batches of `size` events, one batch at a time.
    pub(crate) async fn batches(&self, size: u64, window: Window) -> Meter {
        let mut meter = Meter::new(window);
        while window.is_open() {
            let since = Instant::now();
            let id = Uuid::new_v4().simple().to_string();
            let headers = |n: u64| {
                let mut headers = Self::headers();
                headers.insert(NATS_BATCH_ID, id.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, n.to_string());
                headers
            };
            for n in 1..size {
                let publish = self
                    .client
                    .publish_with_headers(self.subject(n), headers(n), self.body.clone());
                publish.await.expect("the event is sent");
            }
            let mut last = headers(size);
            last.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
            let commit = self
                .client
                .request_with_headers(self.subject(size), last, self.body.clone());
            let answer = commit.await.expect("the batch is answered");
            let ack: PublishAck = serde_json::from_slice(&answer.payload).expect("the batch is acknowledged");
            assert_eq!(ack.batch_size, Some(size), "a part of the batch is missing");
            meter.count(size, since);
        }
        meter
    }

    /// Publishes one event and waits for it.
    pub(crate) async fn one(&self) -> Duration {
        let since = Instant::now();
        let publish = self
            .context
            .publish_with_headers(self.subject(0), Self::headers(), self.body.clone());
        let ack = publish.await.expect("the event is sent");
        ack.await.expect("the event is acknowledged");
        since.elapsed()
    }
}

/// Reads every message of a subject with an ordered consumer, and answers how many there are and how long it took.
pub(crate) async fn read(stream: &Stream, subject: &str) -> (u64, Duration) {
    let begin = Instant::now();
    let config = pull::OrderedConfig {
        filter_subject: subject.to_owned(),
        ..pull::OrderedConfig::default()
    };
    let consumer = stream
        .create_consumer(config)
        .await
        .expect("the server makes a consumer");
    let mut messages = consumer.messages().await.expect("the server delivers");
    let mut count = 0;
    while let Some(message) = messages.next().await {
        let message = message.expect("the messages come");
        count += 1;
        if message.info().expect("it is of a stream").pending == 0 {
            break;
        }
    }
    (count, begin.elapsed())
}

/// Gets messages by their places, all at once.
pub(crate) async fn get_all(stream: &Stream, places: &[u64]) -> Duration {
    let begin = Instant::now();
    let gets = places.iter().map(|place| stream.direct_get(*place));
    for got in futures::future::join_all(gets).await {
        got.expect("the message is there");
    }
    begin.elapsed()
}

/// Makes a server the leader of a stream, if it is not, so that all sides of a comparison are equally far from theirs.
pub(crate) async fn lead(client: &async_nats::Client, stream: &str, server: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let info = client
            .request(format!("$JS.API.STREAM.INFO.{stream}"), Bytes::new())
            .await
            .expect("the server answers");
        let info: serde_json::Value = serde_json::from_slice(&info.payload).expect("the server speaks JSON");
        if info["cluster"]["leader"] == server {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{server} does not become the leader of {stream}"
        );
        let wish = format!("{{\"placement\":{{\"preferred\":\"{server}\"}}}}");
        // It fails while there is no leader at all.
        let _ = client
            .request(format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), wish.into())
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Upserts whole documents, `writes` times in all, [`COMMAND_WRITES`] a command and one command at a time. Answers how long it took.
///
/// Each round changes a field of every document, since a document that stays as it is costs nothing.
pub(crate) async fn upserts(database: &Database, documents: &[Document], writes: u64) -> Duration {
    let mut left = writes;
    let mut time = Duration::ZERO;
    for round in 0_i64.. {
        for documents in documents.chunks(COMMAND_WRITES) {
            if left == 0 {
                return time;
            }
            let updates: Vec<Bson> = documents
                .iter()
                .take(usize::try_from(left).unwrap_or(COMMAND_WRITES))
                .map(|document| {
                    let mut document = document.clone();
                    document.insert("round", round);
                    doc! { "q": { "_id": document.get("_id") }, "u": document, "upsert": true }.into()
                })
                .collect();
            left -= updates.len() as u64;
            let since = Instant::now();
            write(database, "raw", updates).await;
            time += since.elapsed();
        }
    }
    time
}

/// One majority write of a small change.
pub(crate) async fn one_write(database: &Database) -> Duration {
    let since = Instant::now();
    let update = doc! { "q": { "_id": 1 }, "u": { "$inc": { "sequence": 1 } }, "upsert": true };
    write(database, "raw_one", vec![update.into()]).await;
    since.elapsed()
}

async fn write(database: &Database, collection: &str, updates: Vec<Bson>) {
    let command = doc! {
        "update": collection,
        "updates": updates,
        "ordered": false,
        "writeConcern": { "w": "majority", "j": true },
    };
    let answer = database.run_command(command).await.expect("mongod writes");
    assert!(!answer.contains_key("writeErrors"), "{answer}");
}
