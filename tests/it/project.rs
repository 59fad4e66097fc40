//! Projecting: events that cannot be applied, journals that are not what they were, stores that go away.

use std::path::Path;
use std::process::Output;

use async_nats::HeaderMap;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::contracts::check;
use crate::support::{Service, Stack, document, event, printed, session, system, wait_for};

fn sequence(answer: &reqwest::Response) -> u64 {
    answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap()
}

async fn sent(service: &Service, shop: &str, event: &Value) -> u64 {
    let answer = service.publish(shop, event).await;
    assert_eq!(answer.status(), 200);
    sequence(&answer)
}

#[tokio::test]
async fn a_session_whose_action_ids_are_codes_folds_right() {
    let system = system().await;
    let (shop, session) = (system.shop(), session());
    let acts = [
        ("ADD", 1, 3.5, 3.5),
        ("ADD", 2, 2.0, 5.5),
        ("REMOVE", 1, 3.5, 2.0),
        ("ADD", 3, 1.25, 3.25),
        ("REMOVE", 2, 2.0, 1.25),
    ];
    let mut last = 0;
    for (second, (action, product, price, claimed)) in acts.into_iter().enumerate() {
        let mut event = event(
            &shop,
            &session,
            if action == "ADD" { 101 } else { 102 },
            action,
            product,
            price,
            claimed,
        );
        event["create_time"] = json!(format!("2023-12-18T10:30:{second:02}.000Z"));
        last = sent(&system.service, &shop, &event).await;
    }
    let basket = system.service.basket(&shop, &session, last).await;
    assert_eq!(
        (&basket["total"], &basket["item_count"], &basket["verdict"]),
        (&json!(1.25), &json!(1), &json!("ok"))
    );
    assert_eq!(basket["lines"].as_array().unwrap().len(), 1);
    let kinds: Vec<_> = basket["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["kind"])
        .collect();
    assert_eq!(kinds, ["repeated_action_id", "repeated_action_id"]);
}

/// Puts bytes into the journal as no API of ours would.
pub async fn poison(stack: &Stack, shop: &str, session: &str, body: &str) -> u64 {
    let mut headers = HeaderMap::new();
    headers.insert("ce-subject", session);
    stack.record(shop, headers, body.to_owned()).await
}

async fn ezout(stack: &Stack, arguments: &[&str]) -> Output {
    stack.ezout(arguments).await
}

#[tokio::test]
async fn a_poisoned_session_waits_for_a_person_and_others_go_on() {
    let system = system().await;
    let (shop, bad, good) = (system.shop(), session(), session());
    let add = |session: &str, id| event(&shop, session, id, "ADD", 5, 3.5, 3.5);
    sent(&system.service, &shop, &add(&bad, 1)).await;
    let poisoned = poison(&system.stack, &shop, &bad, "{\"shop_id\":").await;
    let after = sent(&system.service, &shop, &add(&bad, 2)).await;
    let other = sent(&system.service, &shop, &add(&good, 1)).await;

    let basket = system.service.basket(&shop, &good, other).await;
    assert_eq!(basket["item_count"], 1);
    let basket = system.service.basket(&shop, &bad, after).await;
    assert_eq!(
        (&basket["item_count"], &basket["parked_since"]),
        (&json!(1), &json!(poisoned))
    );

    let list = printed(&ezout(&system.stack, &["parked", "list"]).await);
    assert!(list.contains(&format!("{poisoned}  parked   {shop}.{bad}")), "{list}");
    assert!(
        list.contains(&format!(
            "{after}  parked   {shop}.{bad}  event {poisoned} of the same session is parked"
        )),
        "{list}"
    );
    let shown = printed(&ezout(&system.stack, &["parked", "show", &poisoned.to_string()]).await);
    assert!(shown.contains("{\"shop_id\":"), "{shown}");

    // Applying it again cannot help; it is back with its reason, and so is the session.
    printed(&ezout(&system.stack, &["parked", "retry", &format!("{shop}.{bad}")]).await);
    wait_for("the poison is parked again", async || {
        let list = printed(&ezout(&system.stack, &["parked", "list"]).await);
        list.contains(&format!("{poisoned}  parked ")).then_some(())
    })
    .await;

    let dropped = printed(&ezout(&system.stack, &["parked", "drop", &poisoned.to_string()]).await);
    assert!(dropped.contains("1 later events"), "{dropped}");
    wait_for("the later event is applied", async || {
        let basket = system.service.basket(&shop, &bad, after).await;
        (basket["item_count"] == 2 && basket["parked_since"].is_null()).then_some(())
    })
    .await;
    // They leave the list after they are in the basket, so that a crash in between loses none.
    wait_for("nothing of the session is parked", async || {
        let list = printed(&ezout(&system.stack, &["parked", "list"]).await);
        (!list.contains(&bad)).then_some(())
    })
    .await;
    assert!(
        printed(&ezout(&system.stack, &["parked", "list", "--dropped"]).await)
            .contains(&format!("{poisoned}  dropped"))
    );
    let unknown = ezout(&system.stack, &["parked", "show", "999999999"]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no event 999999999 is parked"));
}

#[tokio::test]
async fn events_whose_shop_or_type_is_not_known_are_parked() {
    let system = system().await;
    let (shop, session) = (system.shop(), session());
    let of_another_shop = event(&system.shop(), &session, 1, "ADD", 5, 3.5, 3.5).to_string();
    let place = poison(&system.stack, &shop, &session, &of_another_shop).await;
    let database = system.stack.database().await;
    let parked = wait_for("the event is parked", async || {
        let parked = database.collection::<Document>("parked_events");
        parked
            .find_one(doc! { "sequence": i64::try_from(place).unwrap() })
            .await
            .unwrap()
    })
    .await;
    assert!(parked.get_str("reason").unwrap().contains("recorded for another one"));
    assert_eq!(parked.get_str("basket").unwrap(), format!("{shop}.{session}"));
}

/// Documents of all baskets without the fence and the seal, which tell of writes and not of events.
async fn pictures(database: &mongodb::Database) -> Vec<Document> {
    use futures::TryStreamExt;
    let baskets = database.collection::<Document>("baskets");
    let found = baskets
        .find(doc! {})
        .projection(doc! { "fence": 0, "seal": 0 })
        .sort(doc! { "_id": 1 })
        .await
        .unwrap();
    found.try_collect().await.unwrap()
}

async fn shop_a_little(service: &Service, shop: &str) -> u64 {
    let (first, second) = (session(), session());
    let mut last = 0;
    for id in [1, 2, 5, 3, 4, 4] {
        last = last.max(sent(service, shop, &event(shop, &first, id, "ADD", id % 3, 1.5, 1.5)).await);
        last = last.max(
            sent(
                service,
                shop,
                &event(shop, &second, id, if id > 3 { "REMOVE" } else { "ADD" }, 7, 2.0, 4.0),
            )
            .await,
        );
    }
    last
}

#[tokio::test]
async fn views_can_be_dropped_and_come_back_to_the_same_bytes() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let database = stack.database().await;
    let shop = session();
    let last = shop_a_little(&service, &shop).await;
    caught_up(&database, last).await;
    let before = pictures(&database).await;
    assert_eq!(before.len(), 2);
    let updates = update_count(&stack).await;
    assert!(service.stop().await.success());

    for collection in ["baskets", "checkpoints", "leases", "migrations"] {
        database.collection::<Document>(collection).drop().await.unwrap();
    }
    let service = stack.service("serve").await;
    caught_up(&database, last).await;
    assert_eq!(pictures(&database).await, before);
    assert_eq!(update_count(&stack).await, updates, "updates were sent again");
    drop(service);
}

async fn update_count(stack: &Stack) -> u64 {
    stack
        .jetstream()
        .await
        .get_stream("UPDATES")
        .await
        .unwrap()
        .cached_info()
        .state
        .messages
}

/// Waits until a checkpoint has reached this place.
pub async fn caught_up(database: &mongodb::Database, sequence: u64) {
    let query = doc! { "sequence": { "$gte": i64::try_from(sequence).unwrap() } };
    wait_for("the checkpoint", async || {
        database
            .collection::<Document>("checkpoints")
            .find_one(query.clone())
            .await
            .unwrap()
    })
    .await;
}

async fn halted(service: &Service, reason: &str) {
    wait_for(&format!("halting because {reason:?}"), async || {
        service.readiness().await?.to_string().contains(reason).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_journal_in_the_place_of_the_old_one_halts_the_projector() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let database = stack.database().await;
    let shop = session();
    let last = shop_a_little(&service, &shop).await;
    caught_up(&database, last).await;
    let before = pictures(&database).await;

    stack.remove_journal().await;
    halted(&service, " is gone").await;
    assert_eq!(
        service
            .publish(&shop, &event(&shop, &session(), 1, "ADD", 1, 1.0, 1.0))
            .await
            .status(),
        503
    );
    service.stop().await;

    // A new process makes a new journal, which must not look like an old one that has nothing new.
    let service = stack.launch("serve", &[]);
    halted(&service, "the journal is another one").await;
    assert_eq!(service.metric("ezout_halted_partitions").await, Some(1.0));
    let fresh = sent(&service, &shop, &event(&shop, &session(), 1, "ADD", 1, 1.0, 1.0)).await;
    assert_eq!(fresh, stack.lane_of(&shop).sequence(1));
    halted(&service, "the journal is another one").await;
    // Every process shows it, also one that projects nothing.
    let api = stack.service("api").await;
    wait_for("the halted partition to be shown", async || {
        let (_, now) = check::json_of(&format!("{}/v1/operations", api.http_url())).await;
        let mut reasons = now["partitions"]
            .as_array()?
            .iter()
            .map(|partition| &partition["halted"]);
        let shown = reasons.any(|reason| reason.as_str().is_some_and(|reason| reason.contains("another one")));
        shown.then_some(())
    })
    .await;
    assert_eq!(pictures(&database).await, before);
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn a_journal_restored_from_an_older_copy_halts_the_projector_until_it_is_whole_again() {
    let mut stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let shop = session();
    let kept = stack.folder().join("kept");
    let (nats, older) = (stack.folder().join("nats"), stack.folder().join("older"));
    let last = shop_a_little(&service, &shop).await;
    caught_up(&stack.database().await, last).await;
    stack.nats.kill().await;
    copy(&nats, &older);
    stack.nats.restart().await.unwrap();
    service.wait_ready().await;
    let last = shop_a_little(&service, &shop).await;
    caught_up(&stack.database().await, last).await;
    assert!(service.stop().await.success());

    stack.nats.kill().await;
    std::fs::rename(&nats, &kept).unwrap();
    copy(&older, &nats);
    stack.nats.restart().await.unwrap();
    let service = stack.launch("serve", &[]);
    halted(&service, "events are lost").await;

    stack.nats.kill().await;
    std::fs::remove_dir_all(&nats).unwrap();
    std::fs::rename(&kept, &nats).unwrap();
    stack.nats.restart().await.unwrap();
    service.wait_ready().await;
}

#[tokio::test]
async fn what_is_not_there_is_said_and_everything_goes_on_when_it_is_back() {
    let mut stack = Stack::start().await;
    stack.nats.kill().await;
    stack.mongod.kill().await;
    let service = stack.launch("serve", &[]);
    let shop = session();
    let add = |id| event(&shop, &shop, id, "ADD", 5, 1.0, 1.0);
    halted(&service, "NATS").await;
    halted(&service, "mongodb").await;
    let answer = service.publish(&shop, &add(1)).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "journal_unavailable");

    stack.nats.restart().await.unwrap();
    // Without MongoDB events are recorded all the same.
    wait_for("recording without MongoDB", async || {
        service
            .publish(&shop, &add(1))
            .await
            .status()
            .is_success()
            .then_some(())
    })
    .await;
    stack.mongod.restart().await.unwrap();
    service.wait_ready().await;

    stack.mongod.kill().await;
    let last = sent(&service, &shop, &add(2)).await;
    stack.mongod.restart().await.unwrap();
    let basket = service.basket(&shop, &shop, last).await;
    assert_eq!(basket["item_count"], 2);
    let database = stack.database().await;
    let document = document(&database, &shop, &shop).await.unwrap();
    assert_eq!(document.get_array("actions").unwrap().len(), 2);
    assert_eq!(update_count(&stack).await, 2);
}

#[tokio::test]
async fn baskets_folded_with_another_meaning_of_action_ids_are_not_mixed() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let shop = session();
    let last = sent(&service, &shop, &event(&shop, &shop, 1, "ADD", 5, 1.0, 1.0)).await;
    caught_up(&stack.database().await, last).await;
    assert!(service.stop().await.success());
    let service = stack.launch("serve", &[("EZOUT_ACTION_ID", "number")]);
    halted(&service, "EZOUT_ACTION_ID=auto").await;
}

#[tokio::test]
async fn migrations_are_applied_once_however_many_apply_them() {
    let stack = Stack::start().await;
    let all = futures::future::join_all((0..3).map(|_| ezout(&stack, &["migrate"]))).await;
    for output in &all {
        printed(output);
    }
    assert_eq!(
        printed(&ezout(&stack, &["migrate"]).await),
        "every migration is applied already\n"
    );
    let database = stack.database().await;
    let indexes = database
        .collection::<Document>("parked_events")
        .list_index_names()
        .await
        .unwrap();
    assert!(indexes.contains(&"by_partition_and_state".to_owned()), "{indexes:?}");
    // The validator keeps a document readable.
    let refused = database
        .collection::<Document>("baskets")
        .insert_one(doc! { "_id": "x" })
        .await;
    assert!(refused.unwrap_err().to_string().contains("failed validation"));
    let applied = database.collection::<Document>("migrations");
    applied
        .update_one(doc! { "_id": "0001_baskets" }, doc! { "$set": { "digest": "other" } })
        .await
        .unwrap();
    let changed = ezout(&stack, &["migrate"]).await;
    assert!(String::from_utf8_lossy(&changed.stderr).contains("was changed after it was applied"));
}

/// Sends events of `session` with these numbers; each adds a piece.
async fn add_all(service: &Service, shop: &str, session: &str, ids: std::ops::RangeInclusive<i64>) -> u64 {
    let mut last = 0;
    for id in ids {
        last = sent(service, shop, &event(shop, session, id, "ADD", 5, 1.0, 1.0)).await;
    }
    last
}

/// The sequences that `UPDATES` tells of, in its order.
async fn told(stack: &Stack) -> Vec<u64> {
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("UPDATES").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let mut told = Vec::new();
    for place in 1..=last {
        let update = stream.direct_get(place).await.unwrap();
        let body: Value = serde_json::from_slice(&update.payload).unwrap();
        told.push(body["sequence"].as_u64().unwrap());
    }
    told
}

#[tokio::test]
async fn a_session_of_long_texts_is_parked_before_its_document_is_too_large() {
    let system = system().await;
    let (shop, session) = (system.shop(), session());
    let long = "x".repeat(15_000);
    let mut bodies = Vec::new();
    for id in 1..=300 {
        let mut event = event(&shop, &session, id, "ADD", id, 1.0, 1.0);
        event["product_name"] = json!(long);
        bodies.push(event.to_string());
    }
    let client = reqwest::Client::new();
    for lines in bodies.chunks(100) {
        let request = client.post(format!("{}/v1/shops/{shop}/events", system.http_url()));
        let answer = request
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }
    let other = sent(&system.service, &shop, &event(&shop, &shop, 1, "ADD", 5, 1.0, 1.0)).await;
    assert_eq!(system.service.basket(&shop, &shop, other).await["item_count"], 1);
    let full = system.service.basket(&shop, &session, other).await;
    assert_eq!(
        (&full["item_count"], full["parked_since"].is_u64()),
        (&json!(209), true)
    );
    let list = printed(&ezout(&system.stack, &["parked", "list"]).await);
    assert!(
        list.contains("bytes of texts, which is all that a basket keeps"),
        "{}",
        &list[..list.len().min(500)]
    );
}

#[tokio::test]
async fn an_update_that_is_owed_is_not_overtaken_by_a_decision_about_parked_events() {
    let stack = Stack::start().await;
    let mut service = stack.service("api").await;
    // A projector makes the collections first.
    stack.service("project").await.stop().await;
    let (shop, good, bad) = (session(), session(), session());
    let first = add_all(&service, &shop, &good, 1..=1).await;
    let poisoned = poison(&stack, &shop, &bad, "{").await;
    let last = add_all(&service, &shop, &bad, 1..=1).await;
    let mut dying = stack.launch("project", &[("EZOUT_FAIL_POINT", "after_baskets")]);
    dying.exited().await;
    printed(&ezout(&stack, &["parked", "drop", &poisoned.to_string()]).await);
    let projector = stack.service("project").await;
    wait_for("both updates", async || (told(&stack).await.len() == 2).then_some(())).await;
    assert_eq!(told(&stack).await, [first, last]);
    drop(projector);
    service.stop().await;
}

#[tokio::test]
async fn a_late_update_is_told_once_though_the_stream_has_forgotten_its_name() {
    let stack = Stack::start().await;
    let (service, mut dying) = (
        stack.service("api").await,
        stack.launch("project", &[("EZOUT_FAIL_POINT", "after_retry")]),
    );
    let jetstream = stack.jetstream().await;
    let updates = wait_for("the updates", async || jetstream.get_stream("UPDATES").await.ok()).await;
    let mut config = updates.cached_info().config.clone();
    config.duplicate_window = std::time::Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();

    let (shop, bad, good) = (session(), session(), session());
    let poisoned = poison(&stack, &shop, &bad, "{").await;
    let late = add_all(&service, &shop, &bad, 1..=1).await;
    let first = add_all(&service, &shop, &good, 1..=1).await;
    service.basket(&shop, &good, first).await;
    // The power goes when the update is out and before that is noted.
    printed(&ezout(&stack, &["parked", "drop", &poisoned.to_string()]).await);
    dying.exited().await;
    assert_eq!(told(&stack).await, [first, late]);
    let named = async || {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "forgotten later than the update");
        let published = jetstream.publish_with_headers("upd.99.nobody", headers, "{\"sequence\":0}".into());
        published.await.unwrap().await.unwrap().duplicate
    };
    assert!(!named().await);
    wait_for("the stream forgets", async || (!named().await).then_some(())).await;

    let projector = stack.service("project").await;
    wait_for("nothing is parked", async || {
        let list = printed(&ezout(&stack, &["parked", "list"]).await);
        list.contains("no event is parked").then_some(())
    })
    .await;
    assert_eq!(service.basket(&shop, &bad, late).await["item_count"], 1);
    assert_eq!(told(&stack).await, [first, late, 0, 0]);
    assert_eq!(projector.metric("ezout_repeated_updates_total").await, Some(1.0));
}

#[tokio::test]
async fn a_copy_among_parked_events_is_no_event_of_its_own() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let (shop, bad) = (session(), session());
    let first = add_all(&service, &shop, &bad, 1..=1).await;
    let poisoned = poison(&stack, &shop, &bad, "{").await;
    let copy = poison(
        &stack,
        &shop,
        &bad,
        &event(&shop, &bad, 1, "ADD", 5, 1.0, 1.0).to_string(),
    )
    .await;
    let last = add_all(&service, &shop, &bad, 2..=2).await;
    service.basket(&shop, &bad, last).await;
    printed(&ezout(&stack, &["parked", "drop", &poisoned.to_string()]).await);
    wait_for("the later event", async || {
        (service.basket(&shop, &bad, last).await["item_count"] == 2).then_some(())
    })
    .await;
    // An update follows its basket within milliseconds.
    wait_for("both updates", async || (told(&stack).await.len() >= 2).then_some(())).await;
    assert_eq!(told(&stack).await, [first, last], "the copy at {copy} has no update");
    wait_for("nothing is parked", async || {
        let list = printed(&ezout(&stack, &["parked", "list"]).await);
        list.contains("no event is parked").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_decision_that_cannot_be_carried_out_is_put_back_whole() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let (shop, bad) = (session(), session());
    let poisoned = poison(&stack, &shop, &bad, "{").await;
    let last = add_all(&service, &shop, &bad, 1..=3).await;
    service.basket(&shop, &bad, last).await;
    printed(&ezout(&stack, &["parked", "retry", "all"]).await);
    let list = wait_for("all are parked again", async || {
        let list = printed(&ezout(&stack, &["parked", "list"]).await);
        (list.matches("  parked  ").count() == 4).then_some(list)
    })
    .await;
    assert!(
        list.contains(&format!("event {poisoned} of the same session is parked")),
        "{list}"
    );
}

#[tokio::test]
async fn views_that_are_dropped_under_a_running_projector_come_back_whole() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let (shop, visit) = (session(), session());
    let last = add_all(&service, &shop, &visit, 1..=3).await;
    caught_up(&database, last).await;
    for collection in ["baskets", "checkpoints", "parked_events"] {
        database
            .collection::<Document>(collection)
            .delete_many(doc! {})
            .await
            .unwrap();
    }
    add_all(&service, &shop, &visit, 4..=4).await;
    wait_for("the basket is whole", async || {
        let basket = document(&database, &shop, &visit).await?;
        (basket.get_array("actions").unwrap().len() == 4).then_some(())
    })
    .await;
    let all = (1..=4).map(|place| stack.lane_of(&shop).sequence(place));
    assert_eq!(told(&stack).await, all.collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_person_has_dropped_never_counts_however_often_the_views_are_dropped() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let (shop, visit) = (session(), session());
    let first = add_all(&service, &shop, &visit, 1..=1).await;
    let poisoned = poison(&stack, &shop, &visit, "{").await;
    // It can be read, and is parked since it follows.
    let unwanted = add_all(&service, &shop, &visit, 2..=2).await;
    let last = add_all(&service, &shop, &visit, 3..=3).await;
    service.basket(&shop, &visit, last).await;
    for dropped in [unwanted, poisoned] {
        printed(&ezout(&stack, &["parked", "drop", &dropped.to_string()]).await);
    }
    let settled = async || {
        wait_for("the last event is applied", async || {
            let basket = document(&database, &shop, &visit).await?;
            (basket.get_i64("sequence").ok()?.cast_unsigned() == last).then_some(())
        })
        .await;
    };
    settled().await;
    wait_for("the decisions are noted", async || {
        let list = printed(&ezout(&stack, &["parked", "list"]).await);
        list.contains("no event is parked").then_some(())
    })
    .await;
    caught_up(&database, last).await;
    let before = pictures(&database).await;
    assert_eq!(before[0].get_array("actions").unwrap().len(), 2);

    for collection in ["baskets", "checkpoints"] {
        let collection = database.collection::<Document>(collection);
        collection.delete_many(doc! {}).await.unwrap();
    }
    let other = add_all(&service, &shop, &session(), 1..=1).await;
    caught_up(&database, other).await;
    settled().await;
    let after = pictures(&database).await;
    let of_visit: Vec<_> = after
        .into_iter()
        .filter(|basket| basket.get_str("session_id").unwrap() == visit)
        .collect();
    assert_eq!(of_visit, before);
    assert_eq!(told(&stack).await, [first, last, other]);
}

#[tokio::test]
async fn updates_of_a_new_journal_are_told_though_the_old_one_was_longer() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let database = stack.database().await;
    let (shop, visit) = (session(), session());
    let last = add_all(&service, &shop, &visit, 1..=20).await;
    caught_up(&database, last).await;
    service.stop().await;
    stack.remove_journal().await;
    for collection in ["baskets", "checkpoints", "parked_events"] {
        database
            .collection::<Document>(collection)
            .delete_many(doc! {})
            .await
            .unwrap();
    }
    let service = stack.service("serve").await;
    let last = add_all(&service, &shop, &session(), 1..=3).await;
    caught_up(&database, last).await;
    let first_three = (1..=3).map(|place| stack.lane_of(&shop).sequence(place));
    assert_eq!(told(&stack).await[20..], first_three.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restored_journal_that_has_grown_again_is_not_taken_for_the_old_one() {
    let mut stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let shop = session();
    let older = stack.folder().join("older");
    let nats = stack.folder().join("nats");
    let last = add_all(&service, &shop, &session(), 1..=3).await;
    // A server that is killed while it makes a stream cannot recover it; here both must be there.
    caught_up(&stack.database().await, last).await;
    stack.nats.kill().await;
    copy(&nats, &older);
    stack.nats.restart().await.unwrap();
    service.wait_ready().await;
    let last = add_all(&service, &shop, &session(), 1..=3).await;
    caught_up(&stack.database().await, last).await;
    service.stop().await;

    stack.nats.kill().await;
    std::fs::remove_dir_all(&nats).unwrap();
    copy(&older, &nats);
    stack.nats.restart().await.unwrap();
    let api = stack.service("api").await;
    add_all(&api, &shop, &session(), 1..=9).await;
    let projector = stack.launch("project", &[]);
    halted(&projector, &format!("the journal has another event at {last}")).await;
}

#[tokio::test]
async fn a_basket_that_cannot_be_read_stops_nobody_else() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let database = stack.database().await;
    let (shop, spoiled, other) = (session(), session(), session());
    let last = add_all(&service, &shop, &spoiled, 1..=1).await;
    caught_up(&database, last).await;
    service.stop().await;
    let edit = doc! { "$set": { "actions.0.basket_total": 1.5 } };
    let baskets = database.collection::<Document>("baskets");
    assert_eq!(
        baskets
            .update_one(doc! { "_id": format!("{shop}.{spoiled}") }, edit)
            .await
            .unwrap()
            .modified_count,
        1
    );

    let service = stack.service("serve").await;
    let parked = add_all(&service, &shop, &spoiled, 2..=2).await;
    let last = add_all(&service, &shop, &other, 1..=1).await;
    assert_eq!(service.basket(&shop, &other, last).await["item_count"], 1);
    let list = printed(&ezout(&stack, &["parked", "list"]).await);
    assert!(
        list.contains(&format!("{parked}  parked ")) && list.contains("cannot be read"),
        "{list}"
    );

    let mend = doc! { "$set": { "actions.0.basket_total": "1.0".parse::<mongodb::bson::Decimal128>().unwrap() } };
    baskets
        .update_one(doc! { "_id": format!("{shop}.{spoiled}") }, mend)
        .await
        .unwrap();
    printed(&ezout(&stack, &["parked", "retry", "all"]).await);
    wait_for("the mended basket has both", async || {
        (service.basket(&shop, &spoiled, last).await["item_count"] == 2).then_some(())
    })
    .await;
}
