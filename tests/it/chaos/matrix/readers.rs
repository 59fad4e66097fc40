//! Those who read too slowly, or not at all: they are dropped or told less, come back, and cost nobody else anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use ezout::tools::simulate::visit::shop_of;
use mongodb::bson::Bson;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::Order;
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Outcome, Scene};
use crate::support::Stack;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;

/// Subscriptions of the subscriber that does not read, so that soon much waits for it.
const SUBSCRIPTIONS: usize = 200;
/// Viewers that do not read at all.
const STUCK: u32 = 8;

/// A connection of somebody who takes next to nothing.
async fn stuck(port: u16, says: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    stream.write_all(says.as_bytes()).await.unwrap();
    stream
}

pub async fn slow(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    for (shop, milliseconds) in [(0, 200), (1, 500), (2, 900)] {
        scene.watches(shop, Some(Duration::from_millis(milliseconds)));
        scene.did("slow viewer");
    }
    let mut connections = Vec::new();
    let api: u16 = scene.members[0].service.http_url().rsplit(':').next()?.parse().unwrap();
    for number in 0..STUCK {
        let request = scene.request_of_updates(number % 4);
        connections.push(stuck(api, &request).await);
        scene.did("viewer that does not read");
    }
    let port = scene.stack().nats.port();
    let mut subscribe = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n".to_owned();
    for sid in 1..=SUBSCRIPTIONS {
        let _ = write!(subscribe, "SUB updates.store.* {sid}\r\n");
    }
    connections.push(stuck(port, &subscribe).await);
    scene.did("subscriber that does not read");
    tokio::time::sleep(Duration::from_secs(if order.brief { 15 } else { 40 })).await;
    let monitor = scene.stack().nats.monitor_url();
    let told: Value = reqwest::get(format!("{monitor}/varz"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let cut_off = told["slow_consumers"].as_u64().unwrap_or(0);
    scene
        .notes
        .push(format!("nats-server cut off {cut_off} who did not read"));
    drop(connections);
    Some(scene.finish().await)
}

pub async fn resgate_frozen(order: Order) -> Option<Outcome> {
    let stack = Stack::start().await;
    let mut gateway = Resgate::start_with(&stack, |options| options.trace = false).await?;
    // Requests that ran into the freeze.
    gateway.tolerate("timeout");
    let mut scene = Scene::open(stack, order.seed).await;
    let shop = shop_of(1).to_string();
    let list = format!("ezout.shop.{shop}.baskets");
    let client = ResClient::connect(&gateway.url()).await;
    // The API answers for the access of clients of Resgate as well.
    let token = scene.merchant(shop_of(1));
    client.auth("ezout.auth", "jwt", json!({ "jwt": token })).await.unwrap();
    let subscribed = tokio::time::timeout(Duration::from_secs(20), client.subscribe(&list)).await;
    subscribed.expect("Resgate answers").expect("the list of a shop");
    for _ in 0..if order.brief { 1 } else { 3 } {
        scene.pause(2_000..4_000).await;
        gateway.server.pause();
        scene.did("freeze of Resgate");
        tokio::time::sleep(Duration::from_secs(8)).await;
        gateway.server.resume();
    }
    let evidence = scene.settle().await;
    let open = evidence.baskets.iter().filter_map(|(id, basket)| {
        let session = id.strip_prefix(&format!("{shop}."))?;
        let version = basket.get("version").and_then(Bson::as_i64)?;
        (version > 0 && basket.get_str("status").is_ok_and(|status| status == "open"))
            .then(|| (session.to_owned(), version))
    });
    let open: BTreeMap<String, i64> = open.collect();
    let sees = || {
        let baskets = client.tree(&list)?;
        let baskets = baskets.as_array()?.iter();
        let seen = baskets.map(|basket| Some((basket["session_id"].as_str()?.to_owned(), basket["version"].as_i64()?)));
        seen.collect::<Option<BTreeMap<String, i64>>>()
    };
    let agrees = async {
        while sees().as_ref() != Some(&open) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(30), agrees).await;
    let seen = sees();
    drop((client, gateway));
    let mut outcome = scene.tell(&evidence);
    outcome.report.expect(Promise::I7, seen.as_ref() == Some(&open), || {
        format!("a client of Resgate sees {seen:?} instead of {open:?}")
    });
    Some(outcome)
}
