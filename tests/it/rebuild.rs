//! Rebuilding under load, proving, switching and going back; scrubbing; replaying.

use std::collections::{BTreeMap, HashMap};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::contracts::check;
use crate::support::{PARTITIONS, Service, Stack, all_printed, event, printed, refused, session, wait_for};

async fn ezout(stack: &Stack, arguments: &[&str]) -> Output {
    stack.ezout(arguments).await
}

/// The events of a visit: pieces come and go, one action comes late, and some visits end.
pub fn visit(shop: &str, session: &str, number: i64) -> Vec<Value> {
    let mut events = Vec::new();
    for id in [1, 2, 3, 5, 4, 6, 7] {
        let action = if id == 6 { "REMOVE" } else { "ADD" };
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let price = 1.0 + (number % 4) as f64 / 4.0;
        events.push(event(shop, session, id, action, id % 3, price, price));
    }
    if number % 3 == 0 {
        events.push(event(shop, session, 8, "CHECKOUT", 0, 0.0, 4.0));
    }
    events
}

/// Records events of one shop, and answers the last one's place in the journal.
pub async fn record(service: &Service, shop: &str, events: &[Value]) -> u64 {
    let mut last = 0;
    for some in events.chunks(1_000) {
        let lines: Vec<String> = some.iter().map(ToString::to_string).collect();
        let body = lines.join("\n");
        let url = format!("{}/v1/shops/{shop}/events", service.http_url());
        let request = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/x-ndjson");
        let answer = request.body(body).send().await.unwrap().text().await.unwrap();
        for line in answer.lines() {
            let verdict: Value = serde_json::from_str(line).unwrap();
            last = last.max(verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{line}")));
        }
    }
    last
}

/// Records visits to a few shops; answers the shops and the last place in the journal.
/// The shops are each in a partition of their own.
pub async fn fill(service: &Service, shops: usize, visits: i64) -> (Vec<String>, u64) {
    let partition = |shop: &str| ezout::core::id::partition_of(ezout::core::id::ShopId::parse(shop).unwrap(), 16);
    let mut by_partition = BTreeMap::new();
    while by_partition.len() < shops {
        let shop = session();
        by_partition.insert(partition(&shop), shop);
    }
    let shops: Vec<String> = by_partition.into_values().collect();
    let mut last = 0;
    for shop in &shops {
        let events: Vec<Value> = (0..visits).flat_map(|number| visit(shop, &session(), number)).collect();
        last = last.max(record(service, shop, &events).await);
    }
    (shops, last)
}

/// Waits until every partition is folded up to its last event, and so every update is published.
pub async fn caught_up(stack: &Stack) {
    let journal = stack.journal().await;
    let database = stack.database().await;
    wait_for("every partition has caught up", async || {
        let version = active(&database).await;
        let checkpoints = checkpoints(&database, &version).await;
        for partition in 0..PARTITIONS {
            let (lane, stream) = &journal[stack.spread.of_partition(partition).index()];
            let subject = format!("checkout.{partition}.*");
            // A partition without events has no last one.
            if let Ok(last) = stream.get_last_raw_message_by_subject(&subject).await
                && checkpoints
                    .get(&partition.to_string())
                    .is_none_or(|place| u64::try_from(*place).unwrap() < lane.sequence(last.sequence))
            {
                return None;
            }
        }
        Some(())
    })
    .await;
}

pub async fn active(database: &mongodb::Database) -> String {
    let pointer = database.collection::<Document>("projections");
    let found = pointer.find_one(doc! { "_id": "baskets" }).await.unwrap();
    found.map_or_else(
        || "baskets".to_owned(),
        |found| found.get_str("active").unwrap().to_owned(),
    )
}

async fn checkpoints(database: &mongodb::Database, version: &str) -> BTreeMap<String, i64> {
    let mut found = database
        .collection::<Document>("checkpoints")
        .find(doc! {})
        .await
        .unwrap();
    let mut places = BTreeMap::new();
    while let Some(checkpoint) = found.next().await {
        let checkpoint = checkpoint.unwrap();
        let (of, partition) = match checkpoint.get("_id").unwrap().as_str() {
            None => ("baskets".to_owned(), checkpoint.get_i32("_id").unwrap().to_string()),
            Some(id) => {
                let (version, partition) = id.split_once(':').unwrap();
                (format!("baskets_{version}"), partition.to_owned())
            }
        };
        if of == version {
            places.insert(partition, checkpoint.get_i64("sequence").unwrap());
        }
    }
    places
}

async fn updates(stack: &Stack) -> u64 {
    let jetstream = stack.jetstream().await;
    jetstream
        .get_stream("UPDATES")
        .await
        .unwrap()
        .cached_info()
        .state
        .messages
}

/// Waits until there are as many updates as events, of which none may have a second one.
async fn each_update_once(stack: &Stack) {
    let events = stack.events().await;
    wait_for("the updates", async || (updates(stack).await >= events).then_some(())).await;
    assert_eq!(updates(stack).await, events, "an update was sent again");
}

/// Sees every update as a subscriber does: the places of events by shop, in the order they came.
async fn subscriber(stack: &Stack) -> Arc<std::sync::Mutex<HashMap<String, Vec<u64>>>> {
    let client = stack.nats_client().await;
    let mut messages = client.subscribe("updates.store.*").await.unwrap();
    client.flush().await.unwrap();
    let seen: Arc<std::sync::Mutex<HashMap<String, Vec<u64>>>> = Arc::default();
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        let _client = client;
        while let Some(message) = messages.next().await {
            let update: Value = serde_json::from_slice(&message.payload).unwrap();
            let place = update["sequence"].as_u64().unwrap();
            all.lock()
                .unwrap()
                .entry(message.subject.to_string())
                .or_default()
                .push(place);
        }
    });
    seen
}

/// Spoils a basket by hand; answers its id.
async fn spoil(database: &mongodb::Database, update: Document) -> String {
    let baskets = database.collection::<Document>(&active(database).await);
    let found = baskets.find_one(doc! {}).await.unwrap().unwrap();
    let id = found.get_str("_id").unwrap().to_owned();
    baskets.update_one(doc! { "_id": &id }, update).await.unwrap();
    id
}

pub async fn report(stack: &Stack, name: &str, arguments: &[&str]) -> (Output, Value) {
    let path = stack.folder().join(name);
    let mut all = vec!["rebuild", "--report", path.to_str().unwrap()];
    all.extend(arguments);
    let output = ezout(stack, &all).await;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}", all_printed(&output)));
    (output, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn a_rebuild_under_load_finds_nothing_and_sends_nothing_again() {
    rebuild_under_load(Stack::start().await).await;
}

#[tokio::test]
async fn a_rebuild_under_load_of_a_journal_in_four_streams_finds_nothing() {
    rebuild_under_load(Stack::start_spread(4).await).await;
}

async fn rebuild_under_load(stack: Stack) {
    let service = Arc::new(stack.service_with("serve", &[("EZOUT_SCRUB_PER_MINUTE", "1200")]).await);
    let database = stack.database().await;
    let seen = subscriber(&stack).await;
    let (shops, _) = fill(&service, 5, 60).await;
    // A rebuild folds what the projector has folded.
    caught_up(&stack).await;

    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = {
        let (service, over, sent, shops) = (
            Arc::clone(&service),
            Arc::clone(&over),
            Arc::clone(&sent),
            shops.clone(),
        );
        tokio::spawn(async move {
            let mut last = 0;
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                let shop = &shops[usize::try_from(number).unwrap() % shops.len()];
                let visitor = session();
                for event in visit(shop, &visitor, number) {
                    last = record(&service, shop, &[event]).await;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                number += 1;
            }
            last
        })
    };
    let (output, first) = report(&stack, "first.json", &[]).await;
    let text = printed(&output);
    assert!(text.contains("into baskets_2"), "{text}");
    assert_eq!(first["different"], 0, "{text}");
    assert!(first["equal"].as_u64().unwrap() >= 300, "{text}");
    assert_eq!(first["shops"].as_array().unwrap().len(), 5);
    // It goes on where it was, and switches.
    let before = sent.load(Ordering::Relaxed);
    let (output, second) = report(&stack, "second.json", &["--switch"]).await;
    printed(&output);
    assert_eq!(
        (&second["different"], active(&database).await.as_str()),
        (&json!(0), "baskets_2")
    );
    wait_for("load after the switch", async || {
        (sent.load(Ordering::Relaxed) > before + 50).then_some(())
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let last = load.await.unwrap();
    caught_up(&stack).await;

    let total = stack.events().await;
    each_update_once(&stack).await;
    wait_for("the subscriber has them all", async || {
        let count: usize = seen.lock().unwrap().values().map(Vec::len).sum();
        (count as u64 >= total).then_some(())
    })
    .await;
    for (subject, places) in &*seen.lock().unwrap() {
        assert!(places.is_sorted_by(|one, next| one < next), "{subject}: {places:?}");
    }
    assert!(last > 0);
    // What is read comes from the new version, and the old one is as it was left.
    let (output, third) = report(&stack, "third.json", &[]).await;
    assert_eq!(third["different"], 0, "{}", all_printed(&output));
    let old = database
        .collection::<Document>("baskets")
        .count_documents(doc! {})
        .await
        .unwrap();
    let new = database
        .collection::<Document>("baskets_2")
        .count_documents(doc! {})
        .await
        .unwrap();
    assert!(old <= new);
    assert!(service.metric("ezout_scrubbed_baskets_total").await.unwrap() > 0.0);
    assert_eq!(service.metric("ezout_drift_baskets").await, Some(0.0));

    // Back, onwards from where the first version was left, and nothing is sent again either.
    printed(&ezout(&stack, &["rebuild", "--rollback"]).await);
    assert_eq!(active(&database).await, "baskets");
    let old = database
        .collection::<Document>("baskets")
        .count_documents(doc! {})
        .await;
    assert_eq!(old.unwrap(), new, "brought up to date before anybody reads it");
    let shop = &shops[0];
    record(&service, shop, &visit(shop, &session(), 1)).await;
    caught_up(&stack).await;
    assert_eq!(stack.events().await, total + 7);
    each_update_once(&stack).await;
    for places in seen.lock().unwrap().values() {
        assert!(places.is_sorted_by(|one, next| one < next));
    }
    let dropped = printed(&ezout(&stack, &["rebuild", "--drop-old"]).await);
    assert!(dropped.contains("dropped baskets_2"), "{dropped}");
    refused(&ezout(&stack, &["rebuild", "--rollback"]).await);
    assert!(checkpoints(&database, "baskets_2").await.is_empty());
}

#[tokio::test]
async fn a_basket_spoiled_by_hand_is_named_found_and_mended() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_SCRUB_PER_MINUTE", "6000")]).await;
    let api = stack.service("api").await;
    let database = stack.database().await;
    fill(&service, 2, 20).await;
    caught_up(&stack).await;
    let (_, clean) = report(&stack, "clean.json", &["--anew"]).await;
    assert_eq!((&clean["different"], &clean["equal"]), (&json!(0), &json!(40)));

    let total = mongodb::bson::Bson::Decimal128("99".parse().unwrap());
    let spoiled = spoil(&database, doc! { "$set": { "total": total } }).await;
    let drift = async |wanted: u32| {
        wait_for("the scrubber's finding", async || {
            (service.metric("ezout_drift_baskets").await?.to_string() == wanted.to_string()).then_some(())
        })
        .await;
        // Whoever is asked says it, also a process that compares nothing.
        wait_for("the finding to be seen by all", async || {
            let (_, now) = check::json_of(&format!("{}/v1/operations", api.http_url())).await;
            (now["drift"]["different"] == wanted && now["drift"]["checked"].as_u64()? > 0).then_some(())
        })
        .await;
    };
    drift(1).await;
    let log = std::fs::read_to_string(&service.log).unwrap();
    let named = format!("basket {spoiled} is not what the journal says (it differs in total)");
    assert_eq!(log.matches(&named).count(), 1, "{log}");

    let (output, found) = report(&stack, "found.json", &[]).await;
    let text = refused(&output);
    assert!(text.contains(&spoiled) && text.contains("total is 99"), "{text}");
    assert_eq!((&found["different"], &found["equal"]), (&json!(1), &json!(39)));
    assert_eq!(found["digest"], clean["digest"], "the journal says the same");

    let (output, _) = report(&stack, "switched.json", &["--switch"]).await;
    printed(&output);
    drift(0).await;
    assert_eq!(report(&stack, "after.json", &[]).await.1["different"], 0);
    // The version before is still as it was spoiled.
    printed(&ezout(&stack, &["rebuild", "--rollback"]).await);
    drift(1).await;
    printed(&ezout(&stack, &["rebuild", "--session", &spoiled, "--switch"]).await);
    drift(0).await;
    each_update_once(&stack).await;

    printed(&ezout(&stack, &["rebuild", "--drop-old"]).await);
    let noted = noted_of(&database, &spoiled).await;
    for (what, of_the_session) in [
        ("rebuild: give up what is being filled", false),
        ("rebuild: begin a new version", false),
        ("rebuild: go on with baskets_2", false),
        ("rebuild: switch from baskets to baskets_2", false),
        ("rebuild: go back from baskets_2 to baskets", false),
        ("rebuild: fold 1 baskets anew", true),
        ("rebuild: drop old versions", false),
    ] {
        assert!(noted.contains(&(what.to_owned(), of_the_session)), "{what}: {noted:?}");
    }
}

/// What commands did, by the audit, each with whether it was with this basket.
async fn noted_of(database: &mongodb::Database, basket: &str) -> Vec<(String, bool)> {
    let audit = database.collection::<Document>("audit");
    let mut found = audit
        .find(doc! { "verb": "operate", "outcome": "asked" })
        .await
        .unwrap();
    let mut noted = Vec::new();
    while let Some(deed) = found.next().await {
        let deed = deed.unwrap();
        assert!(deed.get_str("who").unwrap().starts_with("command of user "));
        let part = |name| deed.get_str(name).unwrap_or_default();
        let is_of = format!("{}.{}", part("shop_id"), part("session_id")) == basket;
        noted.push((part("what").to_owned(), is_of));
    }
    noted
}

#[tokio::test]
async fn single_baskets_are_mended_in_place_whatever_was_done_to_them() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_SCRUB_PER_MINUTE", "0")]).await;
    let database = stack.database().await;
    let (shops, _) = fill(&service, 1, 6).await;
    caught_up(&stack).await;
    let shop = shops[0].as_str();
    let baskets = database.collection::<Document>("baskets");
    let mut all: Vec<Document> = Vec::new();
    let mut found = baskets.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    while let Some(basket) = found.next().await {
        all.push(basket.unwrap());
    }
    let id = |place: usize| doc! { "_id": all[place].get_str("_id").unwrap() };
    printed(&ezout(&stack, &["rebuild", "--shop", shop]).await);

    let set = |fields: Document| doc! { "$set": fields };
    baskets
        .update_one(
            id(0),
            set(doc! { "fence": 1_000_000_i64, "sequence": 1_000_000_i64, "version": 0_i64 }),
        )
        .await
        .unwrap();
    baskets
        .update_one(id(1), doc! { "$set": { "note": "mine" }, "$pop": { "actions": 1 } })
        .await
        .unwrap();
    baskets
        .update_one(id(2), set(doc! { "status": "paid", "lines": [] }))
        .await
        .unwrap();
    baskets.delete_one(id(3)).await.unwrap();
    let mut strange = all[4].clone();
    strange.insert("_id", format!("{shop}.{}", session()));
    baskets.insert_one(&strange).await.unwrap();

    let text = refused(&ezout(&stack, &["rebuild", "--shop", shop]).await);
    assert!(
        text.contains("1 baskets equal, 5 not") || text.contains("2 baskets equal, 5 not"),
        "{text}"
    );
    assert!(
        text.contains("missing") && text.contains("not in the journal"),
        "{text}"
    );
    let text = printed(&ezout(&stack, &["rebuild", "--shop", shop, "--switch"]).await);
    assert!(text.contains("5 baskets were folded anew and are right now"), "{text}");
    let mut found = baskets.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    let mut after = Vec::new();
    while let Some(basket) = found.next().await {
        after.push(basket.unwrap());
    }
    let without_fence = |baskets: &[Document]| {
        let mut baskets = baskets.to_vec();
        for basket in &mut baskets {
            basket.remove("fence");
            basket.remove("seal");
        }
        baskets
    };
    assert_eq!(without_fence(&after), without_fence(&all));
    // The session goes on as if nothing had been.
    let key = all[0].get_str("_id").unwrap();
    let (_, one) = key.split_once('.').unwrap();
    let last = record(&service, shop, &[event(shop, one, 9, "ADD", 1, 1.0, 1.0)]).await;
    let basket = service.basket(shop, one, last).await;
    assert_eq!(basket["version"], all[0].get_i64("version").unwrap() + 1);
    each_update_once(&stack).await;
    let text = refused(&ezout(&stack, &["rebuild", "--session", one]).await);
    assert!(text.contains("names no basket"), "{text}");
}

#[tokio::test]
async fn a_rebuild_that_was_killed_goes_on_where_it_was() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let database = stack.database().await;
    fill(&service, 12, 25).await;
    caught_up(&stack).await;
    // What is being filled is noted before it is there.
    let killed = stack
        .ezout_with(&["rebuild"], &[("EZOUT_FAIL_POINT", "after_begin")])
        .await;
    assert!(!killed.status.success());
    let pointer = database.collection::<Document>("projections");
    let noted = pointer.find_one(doc! { "_id": "baskets" }).await.unwrap().unwrap();
    assert_eq!(noted.get_str("building").unwrap(), "baskets_2");
    let names = database.list_collection_names().await.unwrap();
    assert!(!names.contains(&"baskets_2".to_owned()));
    let killed = stack
        .ezout_with(&["rebuild"], &[("EZOUT_FAIL_POINT", "after_fill:3")])
        .await;
    assert!(!killed.status.success());
    let done = checkpoints(&database, "baskets_2").await;
    let filled = database
        .collection::<Document>("baskets_2")
        .count_documents(doc! {})
        .await
        .unwrap();
    assert!(filled > 0 && filled < 300, "{filled}");
    assert!(done.len() < checkpoints(&database, "baskets").await.len());

    let (output, report) = report(&stack, "report.json", &[]).await;
    printed(&output);
    assert_eq!((&report["different"], &report["equal"]), (&json!(0), &json!(300)));
    let indexes = |name: &'static str| {
        let database = database.clone();
        async move { database.collection::<Document>(name).list_index_names().await.unwrap() }
    };
    assert_eq!(indexes("baskets").await, indexes("baskets_2").await);
    let insert = database
        .collection::<Document>("baskets_2")
        .insert_one(doc! { "_id": "x" })
        .await;
    assert!(insert.unwrap_err().to_string().contains("failed validation"));
    // With another meaning of the numbers it is another version.
    let other = stack.ezout_with(&["rebuild"], &[("EZOUT_ACTION_ID", "number")]).await;
    assert!(refused(&other).contains("--anew"));
    assert_eq!(active(&database).await, "baskets");
}

#[tokio::test]
async fn a_request_that_is_none_stops_no_partition() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_SCRUB_PER_MINUTE", "0")]).await;
    let database = stack.database().await;
    let (shops, _) = fill(&service, 1, 2).await;
    caught_up(&stack).await;
    let shop = shops[0].as_str();
    let partition_of = |shop: &str| ezout::core::id::partition_of(ezout::core::id::ShopId::parse(shop).unwrap(), 16);
    let partition = partition_of(shop);
    let mut elsewhere = session();
    while partition_of(&elsewhere) == partition {
        elsewhere = session();
    }
    let spoiled = spoil(&database, doc! { "$set": { "note": "mine" } }).await;
    let refolds = database.collection::<Document>("refolds");
    let ask = |fields: Document| {
        let mut request = doc! { "partition": i32::from(partition), "version": "baskets" };
        request.extend(fields);
        request
    };
    let requests = [
        ask(doc! { "_id": "torn" }),
        ask(doc! { "_id": 7, "basket": 7, "sequences": [], "through": 0_i64 }),
        ask(doc! { "_id": doc! { "of": "whom" }, "basket": "x", "sequences": [], "through": 0_i64 }),
        ask(doc! { "_id": "lines", "basket": &spoiled, "sequences": "all", "through": 0_i64 }),
        ask(
            doc! { "_id": "elsewhere", "basket": format!("{elsewhere}.{}", session()), "sequences": [], "through": 0_i64 },
        ),
        // This one is a request, though no command wrote it.
        ask(doc! { "_id": "by hand", "basket": &spoiled, "sequences": [], "through": 0_i64 }),
    ];
    refolds.insert_many(requests).await.unwrap();
    wait_for("nothing is asked for any more", async || {
        (refolds.count_documents(doc! {}).await.ok()? == 0).then_some(())
    })
    .await;
    let baskets = database.collection::<Document>("baskets");
    let mended = baskets.find_one(doc! { "_id": &spoiled }).await.unwrap().unwrap();
    assert!(!mended.contains_key("note"));
    let visitor = session();
    let last = record(&service, shop, &visit(shop, &visitor, 1)).await;
    service.basket(shop, &visitor, last).await;
    let log = std::fs::read_to_string(&service.log).unwrap();
    assert!(
        !log.contains(&format!("projecting partition {partition} waits")),
        "{log}"
    );
    for id in ["torn", "elsewhere", "lines"] {
        let told = format!("deleted the document \"{id}\" of refolds");
        assert_eq!(log.matches(&told).count(), 1, "{log}");
    }
    assert_eq!(service.metric("ezout_refolded_baskets_total").await, Some(1.0));
}

#[tokio::test]
async fn baskets_of_another_journal_are_left_alone() {
    let (stack, other) = tokio::join!(Stack::start(), Stack::start());
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let (shops, _) = fill(&service, 1, 3).await;
    caught_up(&stack).await;
    printed(&ezout(&stack, &["rebuild", "--switch"]).await);
    // A journal that is there and has nothing of all this.
    let elsewhere = other.service("api").await;
    record(&elsewhere, &shops[0], &visit(&shops[0], &session(), 1)).await;
    let (nats, monitor) = (other.nats.url(), other.nats.monitor_url());
    let wrong = [("EZOUT_NATS_URL", &*nats), ("EZOUT_NATS_MONITOR_URL", &*monitor)];
    let pointer = async || {
        database
            .collection::<Document>("projections")
            .find_one(doc! {})
            .await
            .unwrap()
    };
    let before = pointer().await;
    let refuses = async |arguments: &[&str]| {
        let text = refused(&stack.ezout_with(arguments, &wrong).await);
        assert!(
            text.contains("was folded from another journal"),
            "{arguments:?}: {text}"
        );
        assert_eq!(pointer().await, before, "{arguments:?}");
        assert_eq!(
            database
                .list_collection_names()
                .await
                .unwrap()
                .iter()
                .filter(|name| name.starts_with("baskets"))
                .count(),
            2
        );
    };
    refuses(&["rebuild", "--switch"]).await;
    refuses(&["rebuild", "--anew"]).await;
    refuses(&["rebuild", "--rollback"]).await;
    refuses(&["rebuild", "--shop", &shops[0], "--switch"]).await;
    let asked = database
        .collection::<Document>("refolds")
        .count_documents(doc! {})
        .await;
    assert_eq!(asked.unwrap(), 0);

    // One that was begun is no other journal's either.
    printed(&ezout(&stack, &["rebuild"]).await);
    let of_other = doc! { "$set": { "building_epoch": uuid::Uuid::new_v4().to_string() } };
    database
        .collection::<Document>("projections")
        .update_one(doc! {}, of_other)
        .await
        .unwrap();
    let text = refused(&ezout(&stack, &["rebuild"]).await);
    assert!(
        text.contains("baskets_3 is being filled from another journal"),
        "{text}"
    );
    printed(&ezout(&stack, &["rebuild", "--anew"]).await);
}

#[tokio::test]
async fn what_is_decided_about_parked_events_holds_for_every_version() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let (shop, visitor) = (session(), session());
    record(&service, &shop, &[event(&shop, &visitor, 1, "ADD", 1, 1.0, 1.0)]).await;
    let mut headers = HeaderMap::new();
    headers.insert("ce-subject", visitor.as_str());
    let poisoned = stack.record(&shop, headers, "{").await;
    let last = record(&service, &shop, &[event(&shop, &visitor, 2, "ADD", 1, 1.0, 2.0)]).await;
    let basket = service.basket(&shop, &visitor, last).await;
    assert_eq!(basket["parked_since"], poisoned);

    printed(&ezout(&stack, &["rebuild", "--switch"]).await);
    assert_eq!(active(&database).await, "baskets_2");
    printed(&ezout(&stack, &["parked", "drop", &poisoned.to_string()]).await);
    let settled = async || {
        wait_for("the later event is applied", async || {
            let basket = service.basket(&shop, &visitor, last).await;
            (basket["item_count"] == 2 && basket["parked_since"].is_null()).then_some(())
        })
        .await;
    };
    settled().await;
    // The version before knows nothing of the decision, and hears of it.
    printed(&ezout(&stack, &["rebuild", "--rollback"]).await);
    settled().await;
    assert_eq!(active(&database).await, "baskets");
    let (output, report) = report(&stack, "report.json", &["--anew"]).await;
    printed(&output);
    assert_eq!(report["different"], 0);
}

#[tokio::test]
async fn other_numbers_are_folded_into_another_version() {
    let stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    let (_, _) = fill(&service, 1, 5).await;
    caught_up(&stack).await;
    assert!(service.stop().await.success());
    let number = [("EZOUT_ACTION_ID", "number")];
    let service = stack.launch("serve", &number);
    wait_for("the projector halts", async || {
        let readiness = service.readiness().await?.to_string();
        readiness.contains("ezout rebuild --switch").then_some(())
    })
    .await;
    printed(&stack.ezout_with(&["rebuild", "--switch"], &number).await);
    service.wait_ready().await;
    each_update_once(&stack).await;
}

#[tokio::test]
async fn a_replay_is_in_order_and_never_reaches_those_who_watch() {
    replay(Stack::start().await).await;
}

#[tokio::test]
async fn a_replay_from_a_journal_in_four_streams_is_in_order() {
    replay(Stack::start_spread(4).await).await;
}

async fn replay(stack: Stack) {
    let service = stack.service("serve").await;
    let (shop, one, other) = (session(), session(), session());
    let mut all = visit(&shop, &one, 0);
    all.extend(visit(&shop, &other, 1));
    record(&service, &shop, &all).await;
    fill(&service, 1, 3).await;
    caught_up(&stack).await;
    let seen = subscriber(&stack).await;

    let lines = |output: &Output| -> Vec<Value> {
        printed(output)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let replayed = lines(&ezout(&stack, &["replay", "--shop", &shop]).await);
    let ids: Vec<&Value> = replayed.iter().map(|line| &line["event"]["action_id"]).collect();
    let sent: Vec<&Value> = all.iter().map(|event| &event["action_id"]).collect();
    assert_eq!(ids, sent);
    assert!(replayed.is_sorted_by_key(|line| line["sequence"].as_u64()));

    let of_one = lines(&ezout(&stack, &["replay", "--shop", &shop, "--session", &other]).await);
    assert_eq!(of_one.len(), 7);
    assert!(of_one.iter().all(|line| line["event"]["session_id"] == json!(other)));
    let none = lines(&ezout(&stack, &["replay", "--shop", &shop, "--to", "2020-01-01T00:00:00Z"]).await);
    assert!(none.is_empty());
    let none = lines(&ezout(&stack, &["replay", "--shop", &shop, "--from", "2100-01-01T00:00:00Z"]).await);
    assert!(none.is_empty());
    let from = replayed[3]["recorded_at"].as_str().unwrap();
    let later = lines(&ezout(&stack, &["replay", "--shop", &shop, "--from", from]).await);
    assert!(
        later.len() <= replayed.len() && later.len() >= replayed.len() - 4,
        "{}",
        later.len()
    );
    assert!(lines(&ezout(&stack, &["replay", "--shop", &session()]).await).is_empty());

    let file = stack.folder().join("replay.ndjson");
    printed(
        &ezout(
            &stack,
            &[
                "replay",
                "--shop",
                &shop,
                "--speed",
                "1000",
                "--ndjson",
                file.to_str().unwrap(),
            ],
        )
        .await,
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), replayed.len());

    let mut lab = stack.nats_client().await.subscribe("lab.>").await.unwrap();
    printed(&ezout(&stack, &["replay", "--shop", &shop, "--to-subject", "lab.events"]).await);
    for line in &replayed {
        let message = tokio::time::timeout(Duration::from_secs(10), lab.next())
            .await
            .unwrap()
            .unwrap();
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event, line["event"]);
        let headers = message.headers.unwrap();
        assert_eq!(
            headers.get("Ezout-Sequence").unwrap().as_str(),
            line["sequence"].to_string()
        );
    }
    for subject in [
        format!("updates.store.{shop}"),
        "upd.1.x".to_owned(),
        "checkout.1.x".to_owned(),
        "lab.*".to_owned(),
    ] {
        let text = refused(&ezout(&stack, &["replay", "--shop", &shop, "--to-subject", &subject]).await);
        assert!(text.contains("--to-subject"), "{text}");
    }
    assert!(seen.lock().unwrap().is_empty(), "somebody who watches saw a replay");
    each_update_once(&stack).await;
}
