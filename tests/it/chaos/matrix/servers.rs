//! A server of its kind alone dies and freezes.

use std::time::Duration;

use super::Order;
use crate::chaos::scene::{Outcome, Scene};
use crate::support::Stack;

/// How long a server is frozen.
const FROZEN: Duration = Duration::from_secs(10);

pub async fn nats(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    for _ in 0..if order.brief { 2 } else { 6 } {
        scene.pause(1_000..4_000).await;
        scene.stack().nats.kill().await;
        scene.did("kill -9 nats-server");
        scene.pause(0..2_000).await;
        scene.stack().nats.restart().await.unwrap();
    }
    scene.pause(1_000..3_000).await;
    scene.stack().nats.pause();
    scene.did("freeze of nats-server");
    tokio::time::sleep(FROZEN).await;
    scene.stack().nats.resume();
    Some(scene.finish().await)
}

pub async fn mongod(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    for _ in 0..if order.brief { 2 } else { 6 } {
        scene.pause(1_000..4_000).await;
        scene.stack().mongod.kill().await;
        scene.did("kill -9 mongod");
        scene.pause(0..2_000).await;
        scene.stack().mongod.restart().await.unwrap();
    }
    scene.pause(1_000..3_000).await;
    scene.stack().mongod.pause();
    scene.did("freeze of mongod");
    tokio::time::sleep(FROZEN).await;
    scene.stack().mongod.resume();
    Some(scene.finish().await)
}
