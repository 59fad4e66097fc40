//! Moments that chance brings about too seldom, each made on purpose.

use std::collections::BTreeSet;

use ezout::core::id::ShopId;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::cells::{dies, plant};
use super::checker;
use super::collect::Watch;
use super::history::Phones;
use super::phones::Network;
use super::slow_link::SlowLink;
use crate::live::viewer::{Shoppers, Viewer};
use crate::project::caught_up;
use crate::support::{Stack, event, session, system, wait_for};

const ACTION: &str = "ezout.checkout.action.v1";

fn add(shop: ShopId, session: &str, action: i32) -> String {
    let claimed = f64::from(action) * 2.5;
    event(&shop.to_string(), session, action.into(), "ADD", 5, 2.5, claimed).to_string()
}

/// Sequence and version do not tell such a write from one that is in time: the basket is again as it was read. Only
/// the fence does.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_on_its_way_when_the_lease_moved_changes_nothing() {
    let stack = Stack::start().await;
    let watch = Watch::start(&stack).await;
    let database = stack.database().await;
    let (baskets, parked) = (
        database.collection::<Document>("baskets"),
        database.collection::<Document>("parked_events"),
    );
    let link = SlowLink::start(stack.mongod.port()).await;
    let mut former = stack
        .service_with("project", &[("EZOUT_MONGODB_URI", &link.uri())])
        .await;
    let (shop, visit) = (ShopId::from(uuid::Uuid::new_v4()), session());
    let id = format!("{shop}.{visit}");
    let basket = async |condition: Document| {
        let mut query = doc! { "_id": &id };
        query.extend(condition);
        wait_for(&format!("a basket that is {query}"), async || {
            baskets.find_one(query.clone()).await.unwrap()
        })
        .await;
    };

    let first = plant(&stack, shop, &visit, ACTION, add(shop, &visit, 1)).await;
    basket(doc! { "version": 1_i64 }).await;
    link.keep_next_write("baskets");
    let poison = plant(&stack, shop, &visit, ACTION, "no event".to_owned()).await;
    link.kept().await;
    former.kill().await;

    // The next owner marks the basket as well, and a person decides, after which it is as it was.
    let _owner = stack.service("project").await;
    let place = i64::try_from(poison).unwrap();
    basket(doc! { "parked_since": place }).await;
    let decided = doc! { "$set": { "state": "drop" } };
    parked.update_one(doc! { "sequence": place }, decided).await.unwrap();
    basket(doc! { "parked_since": null }).await;
    link.let_go().await;

    let second = plant(&stack, shop, &visit, ACTION, add(shop, &visit, 2)).await;
    let mut evidence = watch.gather(&stack, Phones::default()).await;
    evidence.planted = BTreeSet::from([first, poison, second]);
    evidence.dropped = BTreeSet::from([poison]);
    let report = checker::check(&evidence);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[tokio::test]
async fn another_journal_that_has_grown_as_long_is_not_gone_on_with() {
    let stack = Stack::start().await;
    let database = stack.database().await;
    let mut former = stack.service("serve").await;
    let shop = session();
    let shop_a_little = async |api: &crate::support::Service, events: i64| {
        let visit = session();
        for action in 1..=events {
            let answer = api
                .publish(&shop, &event(&shop, &visit, action, "ADD", 5, 2.5, 2.5))
                .await;
            assert_eq!(answer.status(), 200);
        }
    };
    shop_a_little(&former, 3).await;
    let third = stack.lane_of(&shop).sequence(3);
    caught_up(&database, third).await;
    former.stop().await;

    stack.remove_journal().await;
    let api = stack.service("api").await;
    shop_a_little(&api, 3).await;
    shop_a_little(&api, 2).await;
    let projector = stack.launch("project", &[]);
    let checkpoints = database.collection::<Document>("checkpoints");
    wait_for("the projector to halt", async || {
        let beyond = checkpoints
            .find_one(doc! { "sequence": { "$gt": i64::try_from(third).unwrap() } })
            .await
            .unwrap();
        let place = beyond.map(|checkpoint| checkpoint.get_i64("sequence").unwrap());
        assert_eq!(
            place, None,
            "the projector went on to event {place:?} of another journal"
        );
        let said = projector.readiness().await?.to_string();
        said.contains("the journal is another one").then_some(())
    })
    .await;
}

/// Places in the journal of all events that were told.
async fn told(stack: &Stack) -> Vec<i64> {
    let stream = stack.jetstream().await.get_stream("UPDATES").await.unwrap();
    let mut told = Vec::new();
    for place in 1..=stream.cached_info().state.last_sequence {
        let update = stream.get_raw_message(place).await.unwrap();
        let body: Value = serde_json::from_slice(&update.payload).unwrap();
        told.push(body["sequence"].as_i64().unwrap());
    }
    told
}

/// Whoever hears of an event and looks, finds it, also if nobody is there to catch up.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_is_in_its_basket_though_whoever_told_it_died() {
    let stack = Stack::start().await;
    let watch = Watch::start(&stack).await;
    let api = stack.service("api").await;
    let network = Network::new(api.http_url());
    let baskets = stack.database().await.collection::<Document>("baskets");
    for (seed, point) in (300..).zip(["after_one_update", "after_one_update:3", "after_updates"]) {
        let mut armed = stack.launch("project", &[("EZOUT_FAIL_POINT", point)]);
        let mut rng = fastrand::Rng::with_seed(seed);
        network.visit(&mut rng, ShopId::from(uuid::Uuid::new_v4()), 0..15).await;
        dies(&mut armed, point).await;
        let told = told(&stack).await;
        assert!(!told.is_empty(), "{point}");
        for place in told {
            let of = baskets.find_one(doc! { "actions.sequence": place }).await.unwrap();
            assert!(of.is_some(), "{point}: event {place} was told and is in no basket");
        }
        let mut clean = stack.service("project").await;
        let phones = network.phones.lock().unwrap().clone();
        let report = checker::check(&watch.gather(&stack, phones).await);
        assert!(report.violations.is_empty(), "{point}: {:#?}", report.violations);
        clean.stop().await;
    }
}

#[tokio::test]
async fn a_viewer_that_comes_back_is_told_what_happened_meanwhile() {
    let system = system().await;
    let (shop, url) = (system.shop(), system.http_url());
    let mut shoppers = Shoppers::new(&shop, 3);
    let mut viewer = Viewer::connect(&url, &shop, None).await;
    let mut other = Viewer::connect(&url, &shop, None).await;
    for viewer in [&mut viewer, &mut other] {
        while viewer.next_of("snapshot").await["more"] == true {}
    }
    let next = async |viewer: &mut Viewer| viewer.next_of("update").await["sequence"].as_u64().unwrap();

    let before = shoppers.shop(&url, 5).await;
    for place in before {
        assert_eq!(next(&mut viewer).await, place);
        assert_eq!(next(&mut other).await, place);
    }
    let last_id = viewer.last_id.take();
    drop(viewer);
    let meanwhile = shoppers.shop(&url, 5).await;
    // The service has told them all before the viewer comes back.
    for place in &meanwhile {
        assert_eq!(next(&mut other).await, *place);
    }
    let mut viewer = Viewer::connect(&url, &shop, last_id).await;
    assert_eq!(viewer.next_of("hello").await["recovered"], true);
    let later = shoppers.shop(&url, 5).await;
    for place in meanwhile.into_iter().chain(later) {
        let told = next(&mut viewer).await;
        assert_eq!(told, place, "the viewer was told of {told} where {place} comes next");
    }
}
