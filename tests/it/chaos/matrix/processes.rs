//! Processes of the service die and freeze, and phones have the wrong time.

use std::time::Duration;

use rustix::process::Signal;

use super::Order;
use crate::chaos::scene::{Outcome, Scene};
use crate::support::{Stack, configure_journal};

/// Places of the processes among the scene's members.
const API: usize = 0;
const PROJECTORS: [usize; 2] = [1, 2];

pub async fn api_killed(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    for _ in 0..if order.brief { 4 } else { 12 } {
        scene.pause(500..3_000).await;
        scene.members[API].service.kill().await;
        scene.did("kill -9 api");
        scene.pause(0..1_000).await;
        scene.launch(API);
    }
    Some(scene.finish().await)
}

pub async fn projector_killed(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    for _ in 0..if order.brief { 4 } else { 12 } {
        scene.pause(500..3_000).await;
        // Sometimes both at once, so that nobody takes over.
        let victims = if scene.rng.u8(..3) == 0 {
            PROJECTORS.to_vec()
        } else {
            vec![PROJECTORS[scene.rng.usize(..2)]]
        };
        for victim in &victims {
            scene.members[*victim].service.kill().await;
            scene.did("kill -9 project");
        }
        scene.pause(0..1_500).await;
        for victim in victims {
            scene.launch(victim);
        }
    }
    Some(scene.finish().await)
}

/// Freezes an owner for longer than its lease lasts, so that it wakes up among the writes of the next one.
pub async fn owner_frozen(order: Order) -> Option<Outcome> {
    let mut scene = Scene::open(Stack::start().await, order.seed).await;
    let freezes: &[u64] = if order.brief { &[8] } else { &[8, 12, 30] };
    for seconds in freezes {
        scene.pause(1_000..3_000).await;
        let owner = PROJECTORS[scene.rng.usize(..2)];
        scene.members[owner].service.signal(Signal::STOP);
        scene.did("freeze of an owner");
        tokio::time::sleep(Duration::from_secs(*seconds)).await;
        scene.members[owner].service.signal(Signal::CONT);
    }
    Some(scene.finish().await)
}

/// Phones whose clocks are wrong by up to a day, and step back while somebody shops.
pub async fn clocks_wrong(order: Order) -> Option<Outcome> {
    let mut scene = Scene::set(Stack::start().await, order.seed).await;
    scene.network.clocks_are_wrong = true;
    scene.begin().await;
    scene.did("clocks set wrong");
    tokio::time::sleep(Duration::from_secs(if order.brief { 12 } else { 30 })).await;
    Some(scene.finish().await)
}

/// For so long the server knows an event that comes again.
async fn remembers(scene: &Scene, window: Duration) {
    let context = async_nats::jetstream::new(scene.places().client().await);
    configure_journal(&context, scene.places().spread, |config| {
        config.duplicate_window = window;
    })
    .await;
}

/// Phones send again what was answered, when neither the server nor the API knows it any more.
pub async fn repeats_forgotten(order: Order) -> Option<Outcome> {
    let mut scene = Scene::set(Stack::start().await, order.seed).await;
    scene.network.insists = true;
    scene.forgets = true;
    remembers(&scene, Duration::from_secs(1)).await;
    scene.begin().await;
    for _ in 0..if order.brief { 3 } else { 8 } {
        scene.pause(2_000..4_000).await;
        scene.members[API].service.kill().await;
        scene.did("API forgets");
        scene.launch(API);
    }
    scene.close().await;
    remembers(&scene, Duration::from_mins(5)).await;
    let evidence = scene.settle().await;
    let copies = evidence.journal.len() - evidence.updates.len() - evidence.planted.len();
    scene.notes.push(format!("{copies} events of the journal do not count"));
    Some(scene.tell(&evidence))
}
