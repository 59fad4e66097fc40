//! `ezout migrate`: collections and streams that a hand has changed are brought back.

use async_nats::jetstream::stream::Config;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{Stack, event, printed, refused, session, wait_for};

/// The settings that a file asks for, with some changed.
fn settings(file: &str, changes: &Value) -> Config {
    let mut settings: Value = serde_json::from_str(file).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        settings[name] = value.clone();
    }
    serde_json::from_value(settings).unwrap()
}

const CHECKOUT: &str = include_str!("../../nats/checkout.json");
const UPDATES: &str = include_str!("../../nats/updates.json");

#[tokio::test]
async fn every_file_is_applied() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let names = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".json").map(str::to_owned)
    });
    let names: std::collections::BTreeSet<String> = names.collect();
    let record = crate::support::system().await.stack.database().await;
    let record = record
        .collection::<Document>("migrations")
        .distinct("_id", doc! {})
        .await
        .unwrap();
    let applied = record.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    assert_eq!(names, applied);
}

#[tokio::test]
async fn what_was_dropped_by_hand_comes_back() {
    let stack = Stack::start().await;
    printed(&stack.ezout(&["migrate"]).await);
    let database = stack.database().await;
    let baskets = database.collection::<Document>("baskets");
    let parked = database.collection::<Document>("parked_events");
    baskets.drop_index("by_status_and_change").await.unwrap();
    database
        .run_command(doc! { "collMod": "baskets", "validator": {} })
        .await
        .unwrap();
    parked.drop_index("by_basket").await.unwrap();
    database
        .run_command(
            doc! { "createIndexes": "parked_events", "indexes": [{ "key": { "basket": -1 }, "name": "by_basket" }] },
        )
        .await
        .unwrap();
    database.collection::<Document>("refolds").drop().await.unwrap();

    let told = printed(&stack.ezout(&["migrate"]).await);
    assert_eq!(
        told,
        "the index by_basket of parked_events is not the one of the migrations: brought back\n\
         baskets has no index by_status_and_change: brought back\n\
         there is no collection refolds: brought back\n\
         the validator of baskets is not the one of the migrations: brought back\n"
    );
    assert_eq!(
        printed(&stack.ezout(&["migrate"]).await),
        "every migration is applied already\n"
    );
    let indexes = baskets.list_index_names().await.unwrap();
    assert!(indexes.contains(&"by_status_and_change".to_owned()), "{indexes:?}");
    let refused = baskets.insert_one(doc! { "_id": "x" }).await;
    assert!(refused.unwrap_err().to_string().contains("failed validation"));
}

#[tokio::test]
async fn streams_get_their_settings_back_and_keep_their_events() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let shop = session();
    let answer = service
        .publish(&shop, &event(&shop, &session(), 1, "ADD", 5, 1.0, 1.0))
        .await;
    assert_eq!(answer.status(), 200);
    let jetstream = stack.jetstream().await;
    let running = async |name: &str| {
        let info = jetstream.get_stream(name).await.unwrap().cached_info().clone();
        (info.config, info.state.messages)
    };
    let name = &stack.lane_of(&shop).name();
    let (before, _) = running(name).await;
    let as_it_should_be = |name: String| format!("the stream {name} is as it should be\n");
    let lanes: String = stack.spread.lanes().map(|lane| as_it_should_be(lane.name())).collect();
    assert_eq!(
        printed(&stack.ezout(&["migrate", "--streams"]).await),
        format!("every migration is applied already\n{lanes}the stream UPDATES is as it should be\n")
    );

    let mut changed = before.clone();
    changed.max_message_size = 65_536;
    changed.duplicate_window = std::time::Duration::from_mins(2);
    changed.allow_direct = false;
    jetstream.update_stream(changed).await.unwrap();
    let (mut changed, _) = running("UPDATES").await;
    changed.republish = None;
    jetstream.update_stream(changed).await.unwrap();
    let told = printed(&stack.ezout(&["migrate", "--streams"]).await);
    for line in [
        "max_msg_size is 65536, and should be 131072; it is now",
        "duplicate_window is 120000000000, and should be 300000000000; it is now",
        "allow_direct is not set, and should be true; it is now",
    ] {
        let line = format!("the stream {name}: {line}");
        assert!(told.lines().any(|told| told == line), "{line}\nis not in\n{told}");
    }
    let line = r#"the stream UPDATES: republish is not set, and should be {"src":"upd.*.*","dest":"updates.store.{{wildcard(2)}}","headers_only":false}; it is now"#;
    assert!(told.lines().any(|told| told == line), "{line}\nis not in\n{told}");
    let (after, events) = running(name).await;
    assert_eq!((after, events), (before, 1));
}

/// Each setting of the files, made with another value: either it can be changed in place, or it is known that it cannot.
#[tokio::test]
async fn every_setting_of_the_journal_can_be_changed_in_place_or_is_known_to_be_fixed() {
    let stack = Stack::start_spread(1).await;
    let jetstream = stack.jetstream().await;
    for (name, other, fixed) in [
        ("subjects", json!(["other.*.*"]), false),
        ("retention", json!("interest"), true),
        ("storage", json!("memory"), true),
        ("discard", json!("old"), false),
        ("max_age", json!(3_600_000_000_000_u64), false),
        ("max_msgs", json!(1_000), false),
        ("max_bytes", json!(1_000_000), false),
        ("max_msgs_per_subject", json!(1_000), false),
        ("max_consumers", json!(5), true),
        ("max_msg_size", json!(1_024), false),
        ("duplicate_window", json!(120_000_000_000_u64), false),
        ("deny_delete", json!(false), false),
        ("deny_purge", json!(false), false),
        ("allow_rollup_hdrs", json!(true), false),
        ("allow_direct", json!(false), false),
        ("allow_atomic", json!(false), false),
        ("no_ack", json!(true), false),
        ("allow_msg_ttl", json!(true), true),
        (
            "subject_transform",
            json!({ "src": "checkout.*.*", "dest": "x.{{wildcard(1)}}" }),
            false,
        ),
    ] {
        // Where it is not wanted, denying purges forbids rollups.
        let mut changes = json!({ name: other });
        if name == "allow_rollup_hdrs" {
            changes["deny_purge"] = json!(false);
        }
        // The files of the stream before may still be on their way out.
        wait_for(&format!("a stream with another {name}"), async || {
            jetstream.create_stream(settings(CHECKOUT, &changes)).await.ok()
        })
        .await;
        let output = stack.ezout(&["migrate", "--streams"]).await;
        if fixed {
            let told = refused(&output);
            assert!(told.contains(&format!("CHECKOUT: {name} is ")), "{name}: {told}");
            assert!(told.contains("no server changes that in place"), "{name}: {told}");
        } else {
            let told = printed(&output);
            assert!(told.contains(&format!("CHECKOUT: {name} is ")), "{name}: {told}");
            let told = printed(&stack.ezout(&["migrate", "--streams"]).await);
            assert!(told.contains("CHECKOUT is as it should be"), "{name}: {told}");
        }
        jetstream.delete_stream("CHECKOUT").await.unwrap();
    }
}

#[tokio::test]
async fn updates_are_made_anew_where_nothing_else_helps() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let weak = settings(UPDATES, &json!({ "persist_mode": "async", "allow_atomic": false }));
    jetstream.create_stream(weak).await.unwrap();
    let told = printed(&stack.ezout(&["migrate", "--streams"]).await);
    assert!(told.contains("the stream UPDATES was made anew"), "{told}");
    let told = printed(&stack.ezout(&["migrate", "--streams"]).await);
    assert!(told.contains("the stream UPDATES is as it should be"), "{told}");
}
