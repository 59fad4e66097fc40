//! The network between one part and one server fails, in every way, while all others stay connected.

use std::time::Duration;

use super::Order;
use crate::chaos::promise::Promise;
use crate::chaos::scene::{Ground, Outcome, ROLES, Scene, Ways, through};
use crate::edits::editor::Editor;
use crate::edits::followed;
use crate::edits::proof;
use crate::edits::shoppers::{Crowd, Visit};
use crate::support::proxy::{Proxy, Weather};
use crate::support::{Stack, session};

/// The weathers, in words, and how many milliseconds each lasts.
const WEATHERS: [(Weather, &str, std::ops::Range<u64>); 8] = [
    (Weather::Cut, "cut", 3_000..6_000),
    (Weather::Reset, "reset", 3_000..6_000),
    (Weather::Silent, "silent", 5_000..9_000),
    (Weather::RequestsHeld, "requests held", 5_000..9_000),
    (Weather::AnswersHeld, "answers held", 5_000..9_000),
    (Weather::Swallowing, "half-open", 8_000..15_000),
    (Weather::Late(Duration::from_millis(300)), "300 ms late", 5_000..9_000),
    (Weather::Narrow(8_000), "64 kbit/s", 5_000..9_000),
];
/// Weathers where there is little time.
const SOME: usize = 2;
/// How many milliseconds each lasts then.
const BRIEFLY: std::ops::Range<u64> = 4_000..6_000;

/// All weathers in some order; some of them where there is little time.
fn weathers(rng: &mut fastrand::Rng, brief: bool) -> Vec<(Weather, &'static str, std::ops::Range<u64>)> {
    let mut weathers = WEATHERS.to_vec();
    rng.shuffle(&mut weathers);
    if brief {
        weathers.truncate(SOME);
        for (.., lasts) in &mut weathers {
            *lasts = BRIEFLY;
        }
    }
    weathers
}

pub async fn api_nats(order: Order) -> Option<Outcome> {
    storm(order, |ways| &ways.api_nats).await
}

pub async fn api_mongodb(order: Order) -> Option<Outcome> {
    storm(order, |ways| &ways.api_mongodb).await
}

pub async fn project_nats(order: Order) -> Option<Outcome> {
    storm(order, |ways| &ways.project_nats).await
}

pub async fn project_mongodb(order: Order) -> Option<Outcome> {
    storm(order, |ways| &ways.project_mongodb).await
}

async fn storm(order: Order, way: fn(&Ways) -> &Proxy) -> Option<Outcome> {
    let stack = Stack::start().await;
    let ways = Ways::start(&stack).await;
    let ground = Ground {
        ways: Some(ways),
        roles: ROLES,
        ..Ground::from(stack)
    };
    let mut scene = Scene::open(ground, order.seed).await;
    for (weather, words, lasts) in weathers(&mut scene.rng, order.brief) {
        scene.pause(1_000..2_500).await;
        way(scene.ways()).set(weather);
        scene.did(words);
        scene.pause(lasts).await;
        way(scene.ways()).mend();
    }
    Some(scene.finish().await)
}

/// Somebody edits baskets by hand while whoever follows the edits is cut off from MongoDB in every way.
pub async fn correct_mongodb(order: Order) -> Option<Outcome> {
    let begun = std::time::Instant::now();
    let mut outcome = Outcome::default();
    let stack = Stack::start().await;
    let proxy = Proxy::before(([127, 0, 0, 1], stack.mongod.port()).into()).await;
    let api = stack.service("api").await;
    let _projector = stack.service("project").await;
    let url = api.http_url();
    let shops = [session(), session()];
    let visits: Vec<_> = (0..8).map(|number| Visit::begin(&shops[number % 2])).collect();
    let mut rng = fastrand::Rng::with_seed(order.seed);
    for visit in &visits {
        visit.act(&url, &mut rng).await;
        let last = visit.act(&url, &mut rng).await;
        api.basket(&visit.shop, &visit.session, last).await;
    }
    let mongodb = through(&proxy);
    let environment = [("EZOUT_EDITS_PER_MINUTE", "1000000"), ("EZOUT_MONGODB_URI", &mongodb)];
    let _follower = stack.service_with("correct", &environment).await;
    followed(&stack).await;
    let crowd = Crowd::shop(&visits, &url, order.seed);
    let baskets = stack.database().await.collection("baskets");
    let mut editor = Editor::new(baskets, &visits, &url, order.seed);
    for (weather, words, lasts) in weathers(&mut rng, order.brief) {
        for (weather, milliseconds) in [(Weather::Clear, rng.u64(1_000..2_500)), (weather, rng.u64(lasts))] {
            proxy.set(weather);
            let until = tokio::time::Instant::now() + Duration::from_millis(milliseconds);
            while tokio::time::Instant::now() < until {
                editor.edit().await;
                tokio::time::sleep(Duration::from_millis(rng.u64(20..200))).await;
            }
        }
        *outcome.deeds.entry(words.to_owned()).or_default() += 1;
    }
    proxy.mend();
    crowd.go_home().await;
    let held = proof::hold(&stack, &editor.ledger).await;
    // It has compared each edit with its outcome, and panics where one has another number of them than one.
    outcome.report.kept(Promise::I8, editor.ledger.total());
    outcome.report.kept(Promise::I11, proof::equal(&stack).await);
    let (logs, panics) = crate::chaos::panics(stack.folder());
    outcome.report.kept(Promise::I13, logs);
    for (promise, panicked) in panics {
        outcome.report.expect(promise, false, || panicked);
    }
    outcome.events = held.corrections.len();
    outcome.notes.push(format!(
        "{} edits: {} corrections and {} rejections",
        editor.ledger.total(),
        held.corrections.len(),
        held.rejected
    ));
    outcome.seconds = begun.elapsed().as_secs_f64();
    Some(outcome)
}
