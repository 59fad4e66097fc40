//! Partitions move: within seconds when their owner dies, at once when it leaves in order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};

use super::checker;
use super::collect::Watch;
use super::phones::Network;
use crate::support::{Stack, wait_for};

const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// Less than a lease lasts, so that only one that was given back can move.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(4);

/// How many partitions each living projector holds, in ascending order.
async fn shares(database: &mongodb::Database) -> Vec<usize> {
    let held =
        doc! { "_id": { "$type": "int" }, "owner": { "$ne": null }, "$expr": { "$gt": ["$expires_at", "$$NOW"] } };
    let leases = database.collection::<Document>("leases").find(held).await.unwrap();
    let leases: Vec<Document> = leases.try_collect().await.unwrap();
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for lease in &leases {
        *shares.entry(lease.get_str("owner").unwrap()).or_default() += 1;
    }
    let mut counts: Vec<usize> = shares.into_values().collect();
    counts.sort_unstable();
    counts
}

pub async fn shared_as(database: &mongodb::Database, wanted: &[usize]) {
    let what = format!("partitions shared as {wanted:?}");
    wait_for(&what, async || (shares(database).await == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_moves_within_ten_seconds_when_its_owner_dies_and_at_once_when_it_leaves() {
    let stack = Stack::start().await;
    let watch = Watch::start(&stack).await;
    let api = stack.service("api").await;
    let (mut one, mut other) = (stack.service("project").await, stack.service("project").await);
    let database = stack.database().await;
    shared_as(&database, &[8, 8]).await;

    let network = Network::new(api.http_url());
    let until = tokio::time::Instant::now() + Duration::from_secs(12);
    let phone = network.clone();
    let load = tokio::spawn(async move { phone.shop(7, 32, until).await });
    one.kill().await;
    let killed = Instant::now();
    shared_as(&database, &[16]).await;
    assert!(killed.elapsed() < MOVED_WITHIN, "it took {:?}", killed.elapsed());

    let _one = stack.service("project").await;
    shared_as(&database, &[8, 8]).await;
    let begun = Instant::now();
    other.stop().await;
    shared_as(&database, &[16]).await;
    assert!(begun.elapsed() < HANDED_OVER_WITHIN, "it took {:?}", begun.elapsed());

    load.await.unwrap();
    let phones = network.phones.lock().unwrap().clone();
    let report = checker::check(&watch.gather(&stack, phones).await);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}
