//! The stream of changes is lost, in every way: no edit is missed and none is taken twice.

use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Document, Timestamp, doc};
use serde_json::json;

use super::editor::Ledger;
use super::proof;
use super::shoppers::Visit;
use crate::support::{Service, Stack, session, wait_for};

const ENVIRONMENT: &[(&str, &str)] = &[("EZOUT_EDITS_PER_MINUTE", "1000000")];

/// Some visits, each with a few events in its basket.
async fn visits(service: &Service, count: usize) -> Vec<std::sync::Arc<Visit>> {
    let shops = [session(), session()];
    let visits: Vec<_> = (0..count).map(|number| Visit::begin(&shops[number % 2])).collect();
    let mut rng = fastrand::Rng::with_seed(7);
    for visit in &visits {
        let mut last = 0;
        for _ in 0..3 {
            last = visit.act(&service.http_url(), &mut rng).await;
        }
        service.basket(&visit.shop, &visit.session, last).await;
    }
    visits
}

async fn baskets(stack: &Stack) -> mongodb::Collection<Document> {
    stack.database().await.collection("baskets")
}

/// Writes until the server has forgotten everything up to now.
async fn roll_over(stack: &Stack) {
    let begun = tokio::time::Instant::now();
    let client = stack.database().await.client().clone();
    let now = client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
    let now = now.get_timestamp("operationTime").unwrap();
    let filler = client.database("filler").collection::<Document>("rows");
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let row = doc! { "text": "x".repeat(200_000) };
    wait_for("the oplog to roll over", async || {
        filler.insert_many(std::iter::repeat_n(row.clone(), 10)).await.ok()?;
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.ok()??;
        let first: Timestamp = first.get_timestamp("ts").unwrap();
        (first > now).then_some(())
    })
    .await;
    filler.drop().await.unwrap();
    proof::say(&format!("the oplog rolled over in {:.0?}", begun.elapsed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_that_the_server_has_forgotten_are_found_by_comparison_and_none_twice() {
    let stack = Stack::start_with(|mongod| {
        mongod.oplog_mb = 1;
        // What a restart would need of the oplog is kept until then.
        mongod.checkpoint_seconds = 1;
    })
    .await;
    let api = stack.service("api").await;
    let _projector = stack.service("project").await;
    let mut correct = stack.service_with("correct", ENVIRONMENT).await;
    super::followed(&stack).await;
    let visits = visits(&api, 12).await;
    let mut ledger = Ledger::default();

    correct.stop().await;
    let baskets = baskets(&stack).await;
    let mut rng = fastrand::Rng::with_seed(8);
    for (number, visit) in visits.iter().enumerate() {
        let id = doc! { "_id": visit.key() };
        let update = match number % 6 {
            0 => doc! { "$set": { "lines.0.quantity": 9 } },
            1 => doc! { "$set": { "total": 99.5 } },
            2 => doc! { "$set": { "note": "by hand" } },
            3 => doc! { "$set": { "status": "paid" } },
            4 => {
                // The projector then makes a basket of what comes next alone, which looks like a whole one.
                baskets.delete_one(id).await.unwrap();
                let last = visit.act(&api.http_url(), &mut rng).await;
                api.basket(&visit.shop, &visit.session, last).await;
                ledger.note(&visit.key());
                continue;
            }
            _ => {
                // A copy from before looks like a whole basket as well.
                let copy = baskets.find_one(id.clone()).await.unwrap().unwrap();
                let last = visit.act(&api.http_url(), &mut rng).await;
                api.basket(&visit.shop, &visit.session, last).await;
                baskets.replace_one(id, copy).await.unwrap();
                ledger.note(&visit.key());
                continue;
            }
        };
        baskets.update_one(id, update).await.unwrap();
        ledger.note(&visit.key());
    }
    let mut fake = baskets
        .find_one(doc! { "_id": visits[0].key() })
        .await
        .unwrap()
        .unwrap();
    let nobody = session();
    let key = format!("{}.{nobody}", visits[0].shop);
    fake.insert("_id", &key);
    fake.insert("session_id", nobody);
    baskets.insert_one(fake).await.unwrap();
    ledger.note(&key);
    roll_over(&stack).await;

    // It may die while it compares, and goes on where it was.
    for place in [
        "after_cover:2",
        "after_edit_append:2",
        "before_refold_request:3",
        "before_scan_noted",
    ] {
        let mut environment = ENVIRONMENT.to_vec();
        environment.push(("EZOUT_FAIL_POINT", place));
        let mut armed = stack.launch("correct", &environment);
        assert!(!armed.exited().await.success(), "{place}");
        super::chaos::free_lease(&stack).await;
    }
    let mut correct = stack.service_with("correct", ENVIRONMENT).await;
    let outcome = proof::hold(&stack, &ledger).await;
    assert_eq!((outcome.corrections.len(), outcome.rejected), (6, 7));

    // Starting once more finds nothing new.
    correct.stop().await;
    let correct = stack.service_with("correct", ENVIRONMENT).await;
    super::followed(&stack).await;
    proof::hold(&stack, &ledger).await;
    drop(correct);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_dropped_or_renamed_comes_back_with_every_correction() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", ENVIRONMENT).await;
    super::followed(&stack).await;
    let visits = visits(&service, 6).await;
    let baskets = baskets(&stack).await;
    let mut ledger = Ledger::default();
    for visit in &visits {
        let edited = baskets.update_one(doc! { "_id": visit.key() }, doc! { "$inc": { "total": 1.5 } });
        assert_eq!(edited.await.unwrap().modified_count, 1);
        ledger.note(&visit.key());
    }
    proof::quiet(&stack, &ledger).await;
    let database = stack.database().await;
    let lost = "ezout_edits_lost_total";
    for (times, way) in [(1.0, "drop"), (2.0, "rename")] {
        if way == "drop" {
            baskets.drop().await.unwrap();
        } else {
            let command = doc! { "renameCollection": "ezout.baskets", "to": "ezout.kept" };
            let admin = database.client().database("admin");
            admin.run_command(command).await.unwrap();
        }
        wait_for("the loss to be noticed", async || {
            (service.metric(lost).await? >= times).then_some(())
        })
        .await;
        for visit in &visits {
            ledger.note(&visit.key());
        }
        proof::quiet(&stack, &ledger).await;
        let all: Vec<Document> = baskets.find(doc! {}).await.unwrap().try_collect().await.unwrap();
        assert_eq!(all.len(), visits.len(), "{way}");
        let corrections = proof::corrections(&stack).await;
        assert_eq!(corrections.len(), visits.len(), "{way}: {corrections:#?}");
    }
    proof::hold(&stack, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_since_the_database_was_dropped_goes_on_with_a_comparison() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", ENVIRONMENT).await;
    super::followed(&stack).await;
    let visits = visits(&service, 4).await;
    let baskets = baskets(&stack).await;
    let edit = async |total: f64| {
        let visit = &visits[0];
        let update = doc! { "$set": { "total": total } };
        let edited = baskets.update_one(doc! { "_id": visit.key() }, update);
        assert_eq!(edited.await.unwrap().modified_count, 1);
    };
    edit(50.0).await;
    wait_for("a correction", async || {
        (proof::corrections(&stack).await.len() == 1).then_some(())
    })
    .await;

    // All that MongoDB has goes, and the stream of changes ends with it.
    stack.database().await.drop().await.unwrap();
    wait_for("the loss to be noticed", async || {
        (service.metric("ezout_edits_lost_total").await? >= 1.0).then_some(())
    })
    .await;
    crate::support::printed(&stack.ezout(&["migrate"]).await);
    wait_for("the baskets to come back", async || {
        let rebuilt = stack.ezout(&["rebuild", "--anew"]).await;
        let text = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
        text.contains("4 baskets equal, 0 not").then_some(())
    })
    .await;
    super::followed(&stack).await;
    let basket = service.basket(&visits[0].shop, &visits[0].session, 0).await;
    assert_eq!(basket["total"], json!(50.0));
    edit(60.0).await;
    wait_for("a second correction", async || {
        (proof::corrections(&stack).await.len() >= 2).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(proof::corrections(&stack).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_whose_documents_are_too_long_ago_are_taken_together_for_each_basket() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let _projector = stack.service("project").await;
    let mut correct = stack.service_with("correct", ENVIRONMENT).await;
    super::followed(&stack).await;
    let visits = visits(&api, 4).await;
    correct.stop().await;

    let (database, baskets) = (stack.database().await, baskets(&stack).await);
    let mut ledger = Ledger::default();
    for visit in &visits {
        // Two edits of each, which nobody can tell apart any more.
        for by in [1.5, 2.25] {
            let edited = baskets.update_one(doc! { "_id": visit.key() }, doc! { "$inc": { "total": by } });
            assert_eq!(edited.await.unwrap().modified_count, 1);
        }
        ledger.note(&visit.key());
    }
    let first = baskets
        .find_one(doc! { "_id": visits[0].key() })
        .await
        .unwrap()
        .unwrap();
    // The server forgets how documents were as soon as it may, and not only after minutes.
    let forget = doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0 };
    let admin = database.client().database("admin");
    admin.run_command(forget).await.unwrap();
    let now = admin.run_command(doc! { "ping": 1 }).await.unwrap();
    let now = now.get_timestamp("operationTime").unwrap();
    let rows = database.client().database("filler").collection::<Document>("rows");
    wait_for("the documents to be too long ago", async || {
        rows.insert_one(doc! {}).await.unwrap();
        let find = doc! { "find": "rows", "readConcern": { "level": "snapshot", "atClusterTime": now } };
        let filler = database.client().database("filler");
        filler.run_command(find).await.is_err().then_some(())
    })
    .await;

    for place in ["after_cover", "after_edit_append", "before_edits_place:3"] {
        let mut environment = ENVIRONMENT.to_vec();
        environment.push(("EZOUT_FAIL_POINT", place));
        let mut armed = stack.launch("correct", &environment);
        assert!(!armed.exited().await.success(), "{place}");
        super::chaos::free_lease(&stack).await;
    }
    let _correct = stack.service_with("correct", ENVIRONMENT).await;
    let outcome = proof::hold(&stack, &ledger).await;
    assert_eq!((outcome.corrections.len(), outcome.rejected), (4, 0));
    let basket = api.basket(&visits[0].shop, &visits[0].session, 0).await;
    let edited: f64 = first.get("total").unwrap().to_string().parse().unwrap();
    assert_eq!(basket["total"], json!(edited));
}
