//! Many clients that see many baskets change: everybody ends right, no screen is flooded, and a reset of everything is quiet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{open_baskets, rid};
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Stack, event, session, wait_for};

const CLIENTS: usize = 20;
const BASKETS: usize = 100;
const ROUNDS: i64 = 60;
/// Changes of a basket that any screen is told in a second, at most.
const RATE_MAX: f64 = 20.0;

#[tokio::test]
async fn many_clients_see_many_baskets_change_and_nobody_is_flooded() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start_with(&stack, |options| options.trace = false).await else {
        return;
    };
    let service = stack.service("serve").await;
    let (shop, visits) = (session(), (0..BASKETS).map(|_| session()).collect::<Vec<_>>());
    let list = rid(&shop, "baskets");
    let round = async |action_id: i64| {
        let lines: Vec<String> = visits
            .iter()
            .map(|visit| event(&shop, visit, action_id, "ADD", 1, 1.5, 1.5).to_string())
            .collect();
        let request = reqwest::Client::new()
            .post(format!("{}/v1/shops/{shop}/events", service.http_url()))
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        let verdicts = request.send().await.unwrap().text().await.unwrap();
        let last: Value = serde_json::from_str(verdicts.lines().last().unwrap()).unwrap();
        last["sequence"].as_u64().unwrap_or_else(|| panic!("{last}"))
    };
    let last = round(1).await;
    service.basket(&shop, &visits[BASKETS - 1], last).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = ResClient::connect(&resgate.url()).await;
        client.subscribe(&list).await.unwrap();
        clients.push(client);
    }
    let nats = stack.nats_client().await;
    let mut changes = nats
        .subscribe(format!("event.{}", rid(&shop, "basket.*.change")))
        .await
        .unwrap();
    nats.flush().await.unwrap();
    let begun = Instant::now();
    let mut last = 0;
    for action_id in 2..=ROUNDS {
        last = round(action_id).await;
    }
    service.basket(&shop, &visits[BASKETS - 1], last).await;
    let truth = open_baskets(&service, &shop).await;
    assert_eq!(truth.as_array().unwrap().len(), BASKETS);
    assert!(
        truth
            .as_array()
            .unwrap()
            .iter()
            .all(|basket| basket["item_count"] == ROUNDS)
    );
    for client in &clients {
        client.sees(&list, &truth).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut told: HashMap<String, u32> = HashMap::new();
    while let Ok(Some(change)) = tokio::time::timeout(Duration::from_millis(300), changes.next()).await {
        *told.entry(change.subject.to_string()).or_default() += 1;
    }
    assert_eq!(told.len(), BASKETS);
    for (basket, count) in told {
        assert!(
            f64::from(count) <= RATE_MAX * seconds + 1.0,
            "{basket}: {count} in {seconds} s"
        );
    }

    // A reset of everything asks for all of it again, and nobody is told anything.
    let frames: Vec<usize> = clients.iter().map(|client| client.frames().len()).collect();
    let mut gets = nats.subscribe(format!("get.{}", rid(&shop, ">"))).await.unwrap();
    nats.flush().await.unwrap();
    nats.publish("system.reset", json!({ "resources": ["ezout.>"] }).to_string().into())
        .await
        .unwrap();
    let mut asked = 0;
    wait_for("everything to be asked for", async || {
        gets.next().await?;
        asked += 1;
        (asked == BASKETS + 1).then_some(())
    })
    .await;
    for (client, frames) in clients.iter().zip(frames) {
        client.get(&list).await.unwrap();
        let new: Vec<Value> = client.frames().split_off(frames);
        assert!(new.iter().all(|frame| frame["event"].is_null()), "{new:#?}");
    }
    drop(clients);
    assert!(!resgate.log().contains("imeout"), "{}", resgate.log());
}
