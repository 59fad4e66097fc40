//! Three servers of a kind: one is lost, whichever leads, and everything goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ezout::journal::Lane;
use rustix::process::Signal;

use super::Order;
use super::tampered::{block, flip};
use crate::chaos::collect::Places;
use crate::chaos::scene::{Ground, Outcome, ROLES, Scene};
use crate::chaos::trio::{Cluster, Trio, name};
use crate::support::proxy::Weather;
use crate::support::{Stack, event, session, wait_for};

/// How long a server is away.
const AWAY: Duration = Duration::from_secs(15);

/// Three NATS servers, and three mongod where they are asked for. Those of the stack itself are not needed.
async fn ground(three_mongod: bool) -> (Ground, Cluster, Option<Trio>) {
    // One stream: its leader is the one that is lost, and its copies are compared byte for byte.
    ground_of(Stack::start_spread(1).await, three_mongod).await
}

async fn ground_of(mut stack: Stack, three_mongod: bool) -> (Ground, Cluster, Option<Trio>) {
    stack.nats.kill().await;
    let cluster = Cluster::start(&stack.folder().join("cluster")).await;
    let trio = if three_mongod {
        stack.mongod.kill().await;
        Some(Trio::start(stack.folder()).await)
    } else {
        None
    };
    let places = Places {
        nats: cluster.urls(),
        mongodb: trio.as_ref().map_or_else(|| stack.mongod.uri(), Trio::uri),
        spread: stack.spread,
    };
    let environment = vec![
        ("EZOUT_NATS_REPLICAS", "3".to_owned()),
        ("EZOUT_NATS_MONITOR_URL", cluster.monitors()),
    ];
    let ground = Ground {
        stack,
        places: Some(places),
        environment,
        ways: None,
        roles: ROLES,
    };
    (ground, cluster, trio)
}

/// Ends a cell of three NATS servers, and has the copy of each compared with the others.
async fn finish(mut scene: Scene, cluster: &Cluster) -> Outcome {
    let mut evidence = scene.settle().await;
    evidence.copies = cluster.copies(&scene.places().client().await).await;
    scene.tell(&evidence)
}

pub async fn leader_lost(order: Order) -> Option<Outcome> {
    let (ground, mut cluster, _) = ground(false).await;
    let mut scene = Scene::open(ground, order.seed).await;
    let mut ways = ["killed", "frozen", "cut off"];
    scene.rng.shuffle(&mut ways);
    for way in ways {
        scene.pause(3_000..6_000).await;
        let leader = cluster.leader().await;
        scene.did(format!("leader {way}"));
        let begun = Instant::now();
        match way {
            "killed" => cluster.servers[leader].kill().await,
            "frozen" => cluster.servers[leader].pause(),
            _ => cluster.around(leader, Weather::Silent),
        }
        // A server that is cut off serves its clients on, for ever if nobody minds.
        tokio::time::sleep(if way == "cut off" { AWAY * 2 } else { AWAY }).await;
        scene.notes.push(format!(
            "leader {way}: {}",
            scene.longest_pauses(begun, Some(Instant::now()))
        ));
        match way {
            "killed" => cluster.servers[leader].restart().await.unwrap(),
            "frozen" => cluster.servers[leader].resume(),
            _ => cluster.around(leader, Weather::Clear),
        }
    }
    Some(finish(scene, &cluster).await)
}

/// Bits of one copy flip while its server is down; then that server leads.
pub async fn copy_damaged(order: Order) -> Option<Outcome> {
    let (ground, mut cluster, _) = ground(false).await;
    let folder = ground.stack.folder().join("cluster");
    let mut scene = Scene::open(ground, order.seed).await;
    scene.pause(4_000..8_000).await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster.servers[follower].kill().await;
    let mut rng = scene.rng.fork();
    flip(&mut rng, &block(&folder.join(name(follower))));
    scene.did("copy damaged");
    scene.pause(1_000..3_000).await;
    cluster.servers[follower].restart().await.unwrap();
    scene.pause(3_000..5_000).await;
    cluster.lead(&scene.places().client().await, follower).await;
    scene.did("the server of the damaged copy leads");
    scene.pause(2_000..4_000).await;
    Some(finish(scene, &cluster).await)
}

/// The leader of the journal and the primary of MongoDB at the same time.
pub async fn one_of_each_lost(order: Order) -> Option<Outcome> {
    let (ground, mut cluster, trio) = ground(true).await;
    let mut trio = trio.expect("three mongod");
    let mut scene = Scene::open(ground, order.seed).await;
    for _ in 0..2 {
        scene.pause(4_000..7_000).await;
        let (leader, primary) = (cluster.leader().await, trio.primary().await);
        cluster.servers[leader].kill().await;
        trio.kill(primary).await;
        scene.did("kill -9 of a leader and of a primary");
        tokio::time::sleep(AWAY * 2).await;
        trio.restart(primary);
        cluster.servers[leader].restart().await.unwrap();
        trio.whole().await;
    }
    Some(finish(scene, &cluster).await)
}

/// Two of each role, over three servers of each kind; projectors come and go, and one of everything is lost.
pub async fn many_processes(order: Order) -> Option<Outcome> {
    let (mut ground, mut cluster, trio) = ground(true).await;
    ground.roles = &["api", "api", "project", "project", "correct", "correct"];
    let first_projector = 2;
    let mut trio = trio.expect("three mongod");
    let mut scene = Scene::open(ground, order.seed).await;
    let mut deeds = [
        "two projectors join",
        "a projector leaves",
        "kill -9 project",
        "kill -9 api",
        "kill -9 of a leader",
        "kill -9 of a primary",
    ];
    // The first ones in this order, so that there are four when servers are lost.
    scene.rng.shuffle(&mut deeds[1..]);
    for deed in deeds {
        scene.pause(3_000..6_000).await;
        scene.did(deed);
        let begun = Instant::now();
        match deed {
            "two projectors join" => {
                scene.join("project").await;
                scene.join("project").await;
            }
            "a projector leaves" => scene.leave(first_projector).await,
            "kill -9 project" => {
                scene.members[first_projector].service.kill().await;
                tokio::time::sleep(AWAY).await;
                scene.launch(first_projector);
            }
            "kill -9 api" => {
                scene.members[0].service.kill().await;
                scene.launch(0);
            }
            "kill -9 of a leader" => {
                let leader = cluster.leader().await;
                cluster.servers[leader].kill().await;
                tokio::time::sleep(AWAY).await;
                cluster.servers[leader].restart().await.unwrap();
            }
            _ => {
                let primary = trio.primary().await;
                trio.kill(primary).await;
                tokio::time::sleep(AWAY).await;
                trio.restart(primary);
                trio.whole().await;
            }
        }
        let pauses = scene.longest_pauses(begun, Some(Instant::now()));
        scene.notes.push(format!("{deed}: {pauses}"));
    }
    Some(finish(scene, &cluster).await)
}

pub async fn primary_lost(order: Order) -> Option<Outcome> {
    let mut stack = Stack::start().await;
    stack.mongod.kill().await;
    let mut trio = Trio::start(stack.folder()).await;
    let places = Places {
        nats: stack.nats.url(),
        mongodb: trio.uri(),
        spread: stack.spread,
    };
    let ground = Ground {
        places: Some(places),
        ..Ground::from(stack)
    };
    let mut scene = Scene::open(ground, order.seed).await;
    for way in ["steps down", "is killed", "is frozen"] {
        scene.pause(3_000..6_000).await;
        let primary = trio.primary().await;
        scene.did(format!("primary {way}"));
        let begun = Instant::now();
        match way {
            "steps down" => trio.step_down(primary).await,
            "is killed" => trio.kill(primary).await,
            _ => trio.signal(primary, Signal::STOP),
        }
        tokio::time::sleep(AWAY).await;
        scene.notes.push(format!(
            "primary {way}: {}",
            scene.longest_pauses(begun, Some(Instant::now()))
        ));
        match way {
            "steps down" => {}
            "is killed" => trio.restart(primary),
            _ => trio.signal(primary, Signal::CONT),
        }
        trio.whole().await;
    }
    Some(scene.finish().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_leaves_a_server_that_is_cut_off_from_the_others() {
    let (ground, cluster, _) = ground(false).await;
    let environment = ground.environment.iter().map(|(name, value)| (*name, value.as_str()));
    let mut environment: Vec<_> = environment.collect();
    // The first part makes the journal, and tells which server leads it.
    let first = cluster.urls();
    environment.push(("EZOUT_NATS_URL", &first));
    let maker = ground.stack.service_with("api", &environment).await;
    let leader = cluster.leader().await;
    drop(maker);
    // It knows the leader alone, is told of the others by it, and has no other connection.
    let led = cluster.servers[leader].url();
    environment.pop();
    environment.push(("EZOUT_NATS_URL", &led));
    let api = ground.stack.service_with("api", &environment).await;
    let (shop, visit) = (session(), session());
    let publish = async |number| {
        let body = event(&shop, &visit, number, "ADD", 1, 1.0, 1.0);
        api.publish(&shop, &body).await.status().is_success()
    };
    assert!(publish(1).await);
    wait_for("both connections to the leader", async || {
        cluster.connected(leader, "ezout resources").await.then_some(())
    })
    .await;
    // It stays cut off for good.
    cluster.around(leader, Weather::Silent);
    assert!(!publish(2).await, "a leader that is alone stored an event");
    let mut number = 2;
    wait_for("an event to be taken by the two others", async || {
        number += 1;
        publish(number).await.then_some(())
    })
    .await;
    wait_for("resources to be presented at another server", async || {
        let others = (0..3).filter(|other| *other != leader);
        let presented = others.map(|other| cluster.connected(other, "ezout resources"));
        let presented = futures::future::join_all(presented).await;
        presented.into_iter().any(|there| there).then_some(())
    })
    .await;
}

/// The leaders of four streams are not all on one server, and the server of some of them dies under load.
#[tokio::test(flavor = "multi_thread")]
async fn four_streams_lose_and_double_nothing_when_the_server_that_leads_some_of_them_dies() {
    let (ground, mut cluster, _) = ground_of(Stack::start_spread(4).await, false).await;
    let mut scene = Scene::open(ground, 1).await;
    let streams: Vec<String> = scene.places().spread.lanes().map(Lane::name).collect();
    let client = scene.places().client().await;
    for turn in 0..2 {
        // Who leads a stream is up to the servers, so one that has too many gives one away.
        let leaders = wait_for("leaders on several servers", async || {
            let leaders = streams.iter().map(|stream| cluster.leader_of(stream));
            let leaders = futures::future::join_all(leaders).await;
            if leaders.iter().any(|leader| *leader != leaders[0]) {
                return Some(leaders);
            }
            let away = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", streams[0]);
            let _ = client.request(away, "".into()).await;
            None
        })
        .await;
        scene.pause(3_000..5_000).await;
        let victim = leaders[turn];
        scene.did("a leader of some streams killed");
        cluster.servers[victim].kill().await;
        tokio::time::sleep(AWAY).await;
        for stream in &streams {
            assert_ne!(cluster.leader_of(stream).await, victim);
        }
        cluster.servers[victim].restart().await.unwrap();
    }
    let evidence = scene.settle().await;
    for stream in &streams {
        cluster.level(stream).await;
    }
    let used: BTreeSet<u64> = evidence.journal.iter().map(|event| (event.sequence - 1) % 4).collect();
    assert_eq!(used.len(), streams.len(), "each stream has events");
    let outcome = scene.tell(&evidence);
    assert!(outcome.report.violations.is_empty(), "{:#?}", outcome.report.violations);
}
