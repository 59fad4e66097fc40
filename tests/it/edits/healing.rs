//! Baskets folded anew: what is asked for is done, whatever happens meanwhile, and no shop is too long for it.

use ezout::core::id::{BasketId, partition_of};
use ezout::views::{Refold, Views};
use mongodb::bson::{Document, doc};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::editor::Ledger;
use super::proof;
use super::shoppers::Visit;
use crate::rebuild::record;
use crate::support::{Stack, event, printed, session, wait_for};

const PARTITIONS: u16 = 16;

#[tokio::test]
async fn what_is_asked_while_it_is_done_is_not_forgotten_with_it() {
    let stack = Stack::start().await;
    printed(&stack.ezout(&["migrate"]).await);
    let stop = CancellationToken::new();
    let (config, tasks) = (stack.views_config(), TaskTracker::new());
    let views = Views::start(&config, &tasks, stop.clone()).await.unwrap();
    let basket = BasketId::parse(&format!("{}.{}", session(), session())).unwrap();
    let partition = partition_of(basket.shop, PARTITIONS);
    let ask = async |sequences: &[u64], through: u64| {
        let refold = Refold {
            basket,
            partition,
            sequences: sequences.to_vec(),
            through,
        };
        views.ask_refolds(&[refold]).await.unwrap();
    };
    let waiting = async || {
        let asked = views.refolds_of(partition, PARTITIONS).await.unwrap();
        assert!(asked.len() < 2, "one basket has one request");
        asked.into_iter().next()
    };

    ask(&[1, 2], 5).await;
    let first = waiting().await.unwrap();
    // Who asks next saw a document that had lost events, and does not know of them.
    ask(&[7], 9).await;
    views.refolded(&first).await.unwrap();
    let second = waiting().await.expect("it was asked for after the first was taken");
    assert_eq!(
        (second.refold.sequences.as_slice(), second.refold.through),
        (&[1_u64, 2, 7][..], 5)
    );
    views.read_for_refold(&second, &[6], 8).await.unwrap();
    let second = waiting().await.unwrap();
    assert_eq!(
        (second.refold.sequences.as_slice(), second.refold.through),
        (&[1_u64, 2, 6, 7][..], 8)
    );
    views.refolded(&second).await.unwrap();
    assert_eq!(waiting().await, None);

    // What a hand has written there stands in nobody's way.
    let refolds = stack.database().await.collection::<Document>("refolds");
    let nonsense = doc! { "_id": format!("baskets/{basket}"), "partition": i32::from(partition), "version": "baskets", "sequences": "all", "through": "the end" };
    refolds.insert_one(nonsense).await.unwrap();
    ask(&[3], 4).await;
    let third = waiting().await.unwrap();
    assert_eq!((third.refold.sequences, third.refold.through), (vec![3], 4));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_of_which_nothing_is_known_is_found_in_a_long_journal() {
    let stack = Stack::start().await;
    let service = stack
        .service_with("serve", &[("EZOUT_EDITS_PER_MINUTE", "1000000")])
        .await;
    super::followed(&stack).await;
    let shop = session();
    let (mut rng, visit) = (fastrand::Rng::with_seed(3), Visit::begin(&shop));
    visit.act(&service.http_url(), &mut rng).await;
    // More than is read at a time, so that it is looked for in several turns.
    let mut last = 0;
    for _ in 0..50 {
        let crowd = session();
        let events: Vec<_> = (1..=900)
            .map(|number| event(&shop, &crowd, number, "ADD", number % 3, 1.0, 1.0))
            .collect();
        last = record(&service, &shop, &events).await;
    }
    service.basket(&shop, &visit.session, last).await;
    let last = visit.act(&service.http_url(), &mut rng).await;
    service.basket(&shop, &visit.session, last).await;

    let baskets = stack.database().await.collection::<Document>("baskets");
    let whole = baskets.find_one(doc! { "_id": visit.key() }).await.unwrap().unwrap();
    let version = whole.get_i64("version").unwrap();
    baskets.delete_one(doc! { "_id": visit.key() }).await.unwrap();
    let next = visit.act(&service.http_url(), &mut rng).await;
    service.basket(&shop, &visit.session, next).await;
    baskets.delete_one(doc! { "_id": visit.key() }).await.unwrap();
    let mut ledger = Ledger::default();
    ledger.note(&visit.key());
    ledger.note(&visit.key());
    // By hand as well, knowing nothing at all.
    let refolds = stack.database().await.collection::<Document>("refolds");
    let by_hand = doc! { "_id": "please", "partition": i32::from(partition_of(ezout::core::id::ShopId::parse(&shop).unwrap(), PARTITIONS)), "version": "baskets", "basket": visit.key(), "sequences": [], "through": 0_i64 };
    refolds.insert_one(by_hand).await.unwrap();
    proof::quiet(&stack, &ledger).await;
    let healed = baskets.find_one(doc! { "_id": visit.key() }).await.unwrap().unwrap();
    assert_eq!(healed.get_i64("version").unwrap(), version + 1);
    // A shop is compared in parts that fit into memory.
    let compared = printed(&stack.ezout(&["rebuild", "--shop", &shop]).await);
    assert!(compared.contains("51 baskets equal, 0 not"), "{compared}");
}

#[tokio::test]
async fn a_basket_that_is_guarded_against_its_owner_holds_up_no_other() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let mut projector = stack.service("project").await;
    let (shop, spoiled, other) = (session(), session(), session());
    let publish = async |visit: &str, number: i64| {
        let answer = api
            .publish(&shop, &event(&shop, visit, number, "ADD", 5, 1.0, 1.0))
            .await;
        assert!(answer.status().is_success());
        answer.headers()["ezout-sequence"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let last = publish(&spoiled, 1).await;
    api.basket(&shop, &spoiled, last).await;
    let database = stack.database().await;
    let (baskets, parked) = (
        database.collection::<Document>("baskets"),
        database.collection::<Document>("parked_events"),
    );
    let key = doc! { "_id": format!("{shop}.{spoiled}") };
    let actions = baskets.find_one(key.clone()).await.unwrap().unwrap();
    let actions = actions.get("actions").unwrap().clone();
    let edit = async |update: Document| {
        let edited = baskets.update_one(key.clone(), doc! { "$set": update }).await;
        assert_eq!(edited.unwrap().modified_count, 1);
    };
    edit(doc! { "actions": [null] }).await;
    // The next owner has nothing in memory.
    assert!(projector.stop().await.success());
    projector = stack.service("project").await;
    let last = publish(&spoiled, 2).await;
    wait_for("an event of a basket that cannot be read to be parked", async || {
        parked.find_one(doc! {}).await.unwrap()
    })
    .await;
    // It can be read again, but whoever had this fence was there last.
    edit(doc! { "actions": actions, "fence": 1_000_000_i64 }).await;
    printed(&stack.ezout(&["parked", "retry", &format!("{shop}.{spoiled}")]).await);
    let guarded = "ezout_guarded_writes_total";
    wait_for("a write that was guarded", async || {
        (projector.metric(guarded).await? > 0.0).then_some(())
    })
    .await;
    let seen = publish(&other, 1).await;
    api.basket(&shop, &other, seen).await;

    printed(
        &stack
            .ezout(&["rebuild", "--session", &format!("{shop}.{spoiled}"), "--switch"])
            .await,
    );
    wait_for("what was parked to be in its basket", async || {
        let basket = api.basket(&shop, &spoiled, last).await;
        let applied = basket["basket_sequence"] == json!(last) && basket["parked_since"].is_null();
        (applied && parked.find_one(doc! {}).await.unwrap().is_none()).then_some(())
    })
    .await;
    proof::equal(&stack).await;
}

#[tokio::test]
async fn an_edit_right_before_or_right_after_a_switch_counts() {
    let stack = Stack::start().await;
    let service = stack
        .service_with("serve", &[("EZOUT_EDITS_PER_MINUTE", "1000000")])
        .await;
    super::followed(&stack).await;
    let (mut rng, visit) = (fastrand::Rng::with_seed(4), Visit::begin(&session()));
    let last = visit.act(&service.http_url(), &mut rng).await;
    service.basket(&visit.shop, &visit.session, last).await;
    printed(&stack.ezout(&["rebuild"]).await);

    let database = stack.database().await;
    let edit = async |collection: &str, total: f64| {
        let update = doc! { "$set": { "total": total } };
        let baskets = database.collection::<Document>(collection);
        let edited = baskets.update_one(doc! { "_id": visit.key() }, update).await;
        assert_eq!(edited.unwrap().modified_count, 1);
    };
    // The pointer is moved as the command does, at once, so that no process has heard of it.
    edit("baskets", 41.0).await;
    let moved = doc! { "$set": { "active": "baskets_2", "previous": "baskets", "moved_at": mongodb::bson::DateTime::now() }, "$unset": { "building": "", "building_epoch": "", "building_action_id": "" }, "$inc": { "moves": 1_i64 } };
    let pointer = database.collection::<Document>("projections");
    pointer.update_one(doc! { "_id": "baskets" }, moved).await.unwrap();
    edit("baskets_2", 77.0).await;
    // Nobody reads this one any more.
    edit("baskets", 43.0).await;
    wait_for("two corrections", async || {
        (proof::corrections(&stack).await.len() == 2).then_some(())
    })
    .await;
    let basket = wait_for("both in the basket", async || {
        let basket = service.basket(&visit.shop, &visit.session, 0).await;
        (basket["corrections"].as_array()?.len() == 2).then_some(basket)
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(proof::corrections(&stack).await.len(), 2);
    assert_eq!(basket["verdict"], json!("diverged"));
}
