//! Publishing updates: together, each once, in order, and whoever is mistaken stops nobody else.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use ezout::core::id::ShopId;
use ezout::metrics::Metrics;
use ezout::tools::servers::{Binaries, BinaryOptions, NatsOptions, NatsServer};
use ezout::updates::{STREAM, Turn, Update, Updates};
use futures::StreamExt as _;
use time::OffsetDateTime;
use uuid::Uuid;

const EPOCH: &str = "6f3f1f5e-0000-4000-8000-000000000000";

fn shop(number: u128) -> ShopId {
    ShopId::from(Uuid::from_u128(number))
}

/// So many updates of each of these shops, whose sequences begin with `from`.
fn updates(shops: std::ops::Range<u128>, from: u64, count: u64) -> HashMap<ShopId, Vec<Update>> {
    let update = |sequence: u64| Update {
        sequence,
        recorded_at: OffsetDateTime::now_utc(),
        json: format!("{{\"sequence\":{sequence}}}"),
        turn: Turn::InOrder,
        trace: None,
    };
    shops
        .map(|number| (shop(number), (from..from + count).map(update).collect()))
        .collect()
}

/// Every update in the stream, by shop.
async fn stored(client: &async_nats::Client) -> HashMap<String, Vec<String>> {
    let stream = async_nats::jetstream::new(client.clone())
        .get_stream(STREAM)
        .await
        .unwrap();
    let count = stream.cached_info().state.messages;
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut stored: HashMap<String, Vec<String>> = HashMap::new();
    for _ in 0..count {
        let message = messages.next().await.unwrap().unwrap();
        let shop = message.subject.rsplit('.').next().unwrap().to_owned();
        let sequence = String::from_utf8(message.payload.to_vec()).unwrap();
        stored.entry(shop).or_default().push(sequence);
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_publish_together_and_one_that_is_mistaken_stops_no_other() {
    let folder = tempfile::TempDir::new().unwrap();
    let binaries = Binaries::find(&BinaryOptions::from_environment()).unwrap();
    let server = NatsServer::start(&binaries.nats_server, NatsOptions::in_folder(folder.path()))
        .await
        .unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let all = Updates::new(client.clone(), 1, Arc::new(Metrics::new()));
    all.prepare().await.unwrap();

    // Each of eight partitions has three shops. Another process publishes for the first of them in between.
    let mut partitions: Vec<_> = (0..8)
        .map(|partition| all.of_partition(partition, EPOCH.to_owned()))
        .collect();
    let shops = |partition: usize| {
        let first = partition as u128 * 3;
        first..first + 3
    };
    for round in 0..4_u64 {
        let publishing = partitions.iter_mut().enumerate().map(|(partition, publisher)| {
            let updates = updates(shops(partition), round * 40 + 1, 40);
            async move { publisher.publish(updates, OffsetDateTime::now_utc()).await }
        });
        for published in futures::future::join_all(publishing).await {
            published.unwrap();
        }
        if round == 1 {
            let elsewhere = Updates::new(client.clone(), 1, Arc::new(Metrics::new()));
            let mut other = elsewhere.of_partition(0, EPOCH.to_owned());
            other
                .publish(updates(shops(0), 81, 10), OffsetDateTime::now_utc())
                .await
                .unwrap();
        }
    }

    let stored = stored(&client).await;
    let expected: Vec<String> = (1..=160)
        .map(|sequence| format!("{{\"sequence\":{sequence}}}"))
        .collect();
    for number in 0..24 {
        assert_eq!(stored[&shop(number).to_string()], expected, "shop {number}");
    }
}
