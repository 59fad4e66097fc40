//! Backing up while the service runs, losing everything, and having it back as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream;
use ezout::nats::{Extent, Original, Restoring};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::rebuild::{caught_up, fill, record, report, visit};
use crate::support::{Service, Stack, chosen, event, printed, refused, session, wait_for};

mod kept;

/// The manifest of a backup, without looking at its digest.
fn manifest(folder: &Path) -> Option<Value> {
    let text = std::fs::read(folder.join("manifest.json")).ok()?;
    let sealed: Value = serde_json::from_slice(&text).unwrap();
    Some(sealed["manifest"].clone())
}

/// Every file of a folder and of those below it, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// All documents of a collection, by id.
async fn documents(database: &mongodb::Database, name: &str, query: Document) -> BTreeMap<String, Document> {
    let found = database.collection::<Document>(name).find(query).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    found
        .into_iter()
        .map(|document| (document.get("_id").unwrap().to_string(), document))
        .collect()
}

/// Waits until what was decided about parked events is done.
async fn decided(database: &mongodb::Database) {
    let parked = database.collection::<Document>("parked_events");
    wait_for("decisions to be carried out", async || {
        let open = parked.count_documents(doc! { "state": { "$ne": "dropped" } }).await;
        (open.unwrap() == 0).then_some(())
    })
    .await;
}

/// A message: sequence, time in nanoseconds, subject, headers, body.
type Message = (u64, i128, String, BTreeMap<String, String>, Vec<u8>);

/// What a restored system must have as it was.
#[derive(Debug, PartialEq)]
struct Everything {
    journal: Vec<Message>,
    /// Without fence and seal, which tell who has written and that it was the projector.
    baskets: BTreeMap<String, Document>,
    /// By place in the journal.
    updates: BTreeMap<(String, u64), Vec<u8>>,
    kept: BTreeMap<&'static str, BTreeMap<String, Document>>,
}

impl Everything {
    async fn of(stack: &Stack) -> Self {
        caught_up(stack).await;
        let database = stack.database().await;
        decided(&database).await;
        let mut baskets = documents(&database, "baskets", doc! {}).await;
        for basket in baskets.values_mut() {
            basket.remove("fence");
            basket.remove("seal");
        }
        let mut kept = BTreeMap::new();
        for name in ["members", "revocations", "shops", "corrections"] {
            kept.insert(name, documents(&database, name, doc! {}).await);
        }
        kept.insert("parked_events", documents(&database, "parked_events", doc! {}).await);
        let updates = messages(stack, "UPDATES").await.into_iter().map(|message| {
            let update: Value = serde_json::from_slice(&message.4).unwrap();
            ((message.2, update["sequence"].as_u64().unwrap()), message.4)
        });
        Self {
            journal: journal_of(stack).await,
            baskets,
            updates: updates.collect(),
            kept,
        }
    }
}

/// Baskets that are not the same, each with the fields in which they differ.
fn differing(these: &BTreeMap<String, Document>, those: &BTreeMap<String, Document>) -> BTreeSet<String> {
    let ids: BTreeSet<&String> = these.keys().chain(those.keys()).collect();
    let told = ids.into_iter().filter_map(|id| {
        let (Some(this), Some(that)) = (these.get(id), those.get(id)) else {
            return Some(format!("{id} is not in both"));
        };
        let fields: BTreeSet<&String> = this.keys().chain(that.keys()).collect();
        let differs = |field: &&String| this.get(field.as_str()) != that.get(field.as_str());
        let fields: Vec<_> = fields
            .into_iter()
            .filter(differs)
            .map(|field| format!("{field}: {:?} and {:?}", this.get(field), that.get(field)))
            .collect();
        (!fields.is_empty()).then(|| format!("{id} differs in {}", fields.join(", ")))
    });
    told.collect()
}

/// All events of the journal, read by another client than the product's.
async fn journal_of(stack: &Stack) -> Vec<Message> {
    let mut all = Vec::new();
    for lane in stack.spread.lanes() {
        let of_stream = messages(stack, &lane.name()).await;
        all.extend(of_stream.into_iter().map(|mut message| {
            message.0 = lane.sequence(message.0);
            message
        }));
    }
    all.sort();
    all
}

/// All messages of a stream, read by another client than the product's.
async fn messages(stack: &Stack, name: &str) -> Vec<Message> {
    let mut stream = stack.jetstream().await.get_stream(name).await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut found = Vec::new();
    if last == 0 {
        return found;
    }
    let ordered = jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(ordered).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    while let Some(message) = messages.try_next().await.unwrap() {
        let info = message.info().unwrap();
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|(name, values)| (name.to_string(), format!("{values:?}")));
        let (sequence, stored) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        let over = info.pending == 0;
        found.push((
            sequence,
            stored,
            message.subject.to_string(),
            headers.collect(),
            message.payload.to_vec(),
        ));
        if over {
            break;
        }
    }
    found
}

/// Puts an event that nobody can read into the journal, and a good one of the same session behind it; then drops the first.
async fn park_and_drop(stack: &Stack) {
    let (shop, visitor) = (session(), session());
    let mut places = Vec::new();
    let good = event(&shop, &visitor, 2, "ADD", 5, 2.5, 2.5).to_string();
    for body in ["no event".to_owned(), good] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-subject", visitor.as_str());
        headers.insert("ce-type", "ezout.checkout.action.v1");
        places.push(stack.record(&shop, headers, body).await);
    }
    wait_for("two parked events", async || {
        let listed = printed(&stack.ezout(&["parked", "list"]).await);
        places
            .iter()
            .all(|place| listed.contains(&place.to_string()))
            .then_some(())
    })
    .await;
    printed(&stack.ezout(&["parked", "drop", &places[0].to_string()]).await);
    decided(&stack.database().await).await;
}

/// One of everything that a backup keeps.
async fn fill_with_everything(stack: &Stack, service: &Service, visits: i64) -> Vec<String> {
    let (shops, _) = fill(service, 3, visits).await;
    park_and_drop(stack).await;
    let database = stack.database().await;
    caught_up(stack).await;

    // A correction by the API, and one by hand.
    let (shop, visitor) = (&shops[0], session());
    let last = record(service, shop, &visit(shop, &visitor, 1)).await;
    service.basket(shop, &visitor, last).await;
    let url = format!("{}/v1/shops/{shop}/sessions/{visitor}/corrections", service.http_url());
    let asked = json!({ "author": "Ada", "reason": "a test", "adjustment": { "by": 1 } });
    let filed = reqwest::Client::new().post(url).json(&asked).send().await.unwrap();
    assert_eq!(filed.status(), 202);
    let by_id = doc! { "_id": format!("{shop}.{visitor}") };
    let baskets = database.collection::<Document>("baskets");
    let has_corrections = async |count: usize| {
        wait_for("corrections in the basket", async || {
            let basket = baskets.find_one(by_id.clone()).await.unwrap()?;
            (basket.get_array("corrections").ok()?.len() == count).then_some(())
        })
        .await;
    };
    has_corrections(1).await;
    let by_hand = doc! { "$set": { "status": "cancelled" } };
    baskets.update_one(by_id.clone(), by_hand).await.unwrap();
    has_corrections(2).await;
    wait_for("both to be noted", async || {
        let filed = documents(&database, "corrections", doc! { "state": "published" }).await;
        (filed.len() == 2).then_some(())
    })
    .await;

    for arguments in [
        &["member", "add", "ada", "--role", "merchant", "--shop", shop][..],
        &["revoke", "eve"],
        &["shop", "set", shop, "--name", "Harbour Street"],
    ] {
        printed(&stack.ezout(arguments).await);
    }
    shops
}

const EDITS: &[(&str, &str)] = &[("EZOUT_EDITS_PER_MINUTE", "60")];

/// What there was when everything was lost.
struct Lost {
    shops: Vec<String>,
    everything: Everything,
    proof: Value,
    audit: BTreeMap<String, Document>,
}

/// Backs a system up while events come in, killed on the way, in two goes, and loses it.
async fn backed_up_and_lost(stack: Stack, folder: &Path) -> Lost {
    let to = folder.to_str().unwrap();
    let backup = ["backup", to, "--segment-events", "200"];
    let service = Arc::new(stack.service_with("serve", EDITS).await);
    let shops = fill_with_everything(&stack, &service, 50).await;

    // Under load, and killed half way.
    let over = Arc::new(AtomicBool::new(false));
    let load = {
        let (service, over, shop) = (Arc::clone(&service), Arc::clone(&over), shops[1].clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                record(&service, &shop, &visit(&shop, &session(), 2)).await;
            }
        })
    };
    refused(
        &stack
            .ezout_with(&backup, &[("EZOUT_FAIL_POINT", "after_segment:3")])
            .await,
    );
    assert_eq!(manifest(folder), None, "it is no backup yet");
    // One that was being written goes its own way.
    let half = files(&folder.join("journal")).into_keys();
    let half: Vec<PathBuf> = half
        .filter(|path| path.extension().is_none_or(|part| part != "part"))
        .collect();
    let ages = |paths: &[PathBuf]| -> Vec<_> {
        let age = |path: &PathBuf| path.metadata().unwrap().modified().unwrap();
        paths.iter().map(age).collect()
    };
    let written = ages(&half[..3]);
    printed(&stack.ezout(&backup).await);
    assert_eq!(ages(&half[..3]), written, "what was there was taken over");
    printed(&stack.ezout(&["backup", "--verify", to]).await);

    // A second one adds what is new; where it is killed right before its end the one before is whole.
    let first = manifest(folder).unwrap();
    record(&service, &shops[0], &visit(&shops[0], &session(), 2)).await;
    refused(
        &stack
            .ezout_with(&backup, &[("EZOUT_FAIL_POINT", "before_manifest")])
            .await,
    );
    assert_eq!(manifest(folder).unwrap(), first);
    printed(&stack.ezout(&["backup", "--verify", to]).await);
    over.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let before = Everything::of(&stack).await;
    let untouched: Vec<PathBuf> = files(&folder.join("journal")).into_keys().take(3).collect();
    let written = ages(&untouched);
    printed(&stack.ezout(&backup).await);
    assert_eq!(ages(&untouched), written);
    let second = manifest(folder).unwrap();
    let others = second["others"].as_array().into_iter().flatten();
    let parts: Vec<&Value> = [&second["journal"]].into_iter().chain(others).collect();
    assert_eq!(parts.len(), usize::from(stack.spread.streams()));
    let number = |part: &&Value, field: &str| part[field].as_u64().unwrap();
    let last = parts.iter().map(|part| number(part, "last_sequence")).max();
    assert_eq!(last, before.journal.last().map(|event| event.0));
    let events: u64 = parts.iter().map(|part| number(part, "events")).sum();
    assert_eq!(events, before.journal.len() as u64);
    let segments: Vec<&Value> = parts
        .iter()
        .flat_map(|part| part["segments"].as_array().unwrap())
        .collect();
    let named: BTreeSet<String> = segments
        .iter()
        .map(|segment| segment["file"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        files(&folder.join("journal")).len(),
        named.len(),
        "nothing is left over"
    );
    let small = segments
        .iter()
        .filter(|segment| segment["events"].as_u64().unwrap() < 200);
    assert!(small.count() <= parts.len(), "small files grow: {segments:?}");
    // And once more, with nothing new.
    let again = printed(&stack.ezout(&backup).await);
    assert!(again.contains("0 events were new"), "{again}");
    printed(&stack.ezout(&["backup", "--verify", to]).await);
    let (_, proof) = report(&stack, "before.json", &["--anew"]).await;
    assert_eq!(proof["different"], 0);
    let audit = documents(&stack.database().await, "audit", doc! { "what": { "$ne": null } }).await;

    Lost {
        shops,
        everything: before,
        proof,
        audit,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_as_it_was_after_the_loss_of_all_data() {
    everything_comes_back(Stack::start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_four_streams_is_as_it_was_after_the_loss_of_all_data() {
    everything_comes_back(async || Stack::start_spread(4).await).await;
}

async fn everything_comes_back(start: impl AsyncFn() -> Stack) {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("backup");
    let to = folder.to_str().unwrap();
    let Lost {
        shops,
        everything: before,
        proof,
        audit,
    } = backed_up_and_lost(start().await, &folder).await;
    let stack = start().await;
    let restore = ["restore", to];
    for point in ["after_document_file:2", "after_segment:2", "after_journal"] {
        refused(&stack.ezout_with(&restore, &[("EZOUT_FAIL_POINT", point)]).await);
        // Whoever finds the first stream finds all of them.
        let first = stack.spread.of_partition(0).name();
        let there = stack.jetstream().await.get_stream(first).await.is_ok();
        assert_eq!(there, point == "after_journal", "whole or not at all: {point}");
    }
    let told = printed(&stack.ezout(&restore).await);
    assert!(told.contains("next: `ezout serve`"), "{told}");
    let service = stack.service_with("serve", EDITS).await;
    let after = Everything::of(&stack).await;
    assert_eq!(after.journal, before.journal);
    assert_eq!(differing(&after.baskets, &before.baskets), BTreeSet::new());
    assert_eq!(after.updates, before.updates);
    assert_eq!(after.kept, before.kept);
    let (_, found) = report(&stack, "after.json", &["--anew"]).await;
    assert_eq!((&found["different"], &found["digest"]), (&json!(0), &proof["digest"]));
    let audit_now = documents(&stack.database().await, "audit", doc! {}).await;
    let of_backup = |deed: &Document| deed.get_str("what").unwrap().starts_with("backup:");
    for (id, deed) in audit {
        // The last look at the baskets came after the backup.
        let later = deed.get_str("what").unwrap().starts_with("rebuild:");
        assert!(later || audit_now.get(&id) == Some(&deed), "{deed}");
    }
    assert!(audit_now.values().any(of_backup));
    let restores = audit_now
        .values()
        .filter(|deed| deed.get_str("what").unwrap().starts_with("restore:"));
    assert!(restores.count() > 0);
    assert!(service.metric("ezout_drift_baskets").await == Some(0.0));

    // It goes on after the last event, and is not overwritten.
    let lane = stack.lane_of(&shops[0]);
    let of_lane = |event: &&Message| stack.spread.of_sequence(event.0) == lane;
    let end = before.journal.iter().rfind(of_lane).unwrap().0;
    let next = record(&service, &shops[0], &visit(&shops[0], &session(), 2)[..1]).await;
    assert_eq!(next, end + u64::from(stack.spread.streams()));
    let no = refused(&stack.ezout(&restore).await);
    assert!(
        no.contains("a journal is there already") && no.contains("nothing was done"),
        "{no}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_put_in_place_with_its_gaps_and_times_and_stays_so() {
    let mut stack = Stack::start().await;
    let headers = "Nats-Msg-Id: 9d7b0f3e-5c1f-4d0e-9d0b-1f0a4f7e7a10\r\nce-subject: ü\r\n";
    let message = |sequence: u64, headers: &str, body: &str| Original {
        sequence,
        stored_ns: 1_700_000_000_000_000_000 + i64::try_from(sequence).unwrap(),
        subject: format!("checkout.{}.shop", sequence % 2),
        headers: headers.to_owned(),
        body: body.to_owned().into(),
    };
    // More than one file of the server's.
    let large = "x".repeat(100_000);
    let mut originals = vec![message(3, headers, "a"), message(4, "", ""), message(9, headers, "ü")];
    originals.extend((20..220).map(|sequence| message(sequence, headers, &large)));
    let mut config = ezout::journal::settings(1, ezout::journal::Lane::ONLY, 16);
    config.metadata.insert("ezout_epoch".to_owned(), "an epoch".to_owned());
    let created = OffsetDateTime::from_unix_timestamp(1_600_000_000).unwrap();
    let extent = Extent {
        messages: originals.len() as u64,
        first_sequence: 3,
        last_sequence: 230,
    };
    let client = stack.nats_client().await;
    let mut restoring = Restoring::begin(client.clone(), &config, created, extent)
        .await
        .unwrap();
    for original in &originals {
        restoring.add(original).await.unwrap();
    }
    assert!(restoring.add(&originals[0]).await.is_err(), "out of order");
    restoring.end(230).await.unwrap();
    let there = Restoring::begin(client, &config, created, extent).await;
    assert!(there.unwrap_err().to_string().contains("there is a stream"));

    let expected: Vec<_> = originals
        .iter()
        .map(|original| {
            let stored = i128::from(original.stored_ns);
            (
                original.sequence,
                stored,
                original.subject.clone(),
                original.body.to_vec(),
            )
        })
        .collect();
    for restarted in [false, true] {
        if restarted {
            stack.nats.kill().await;
            stack.nats.restart().await.unwrap();
        }
        let found = messages(&stack, "CHECKOUT").await;
        let with_headers = found.iter().filter(|message| message.3.len() == 2).count();
        assert_eq!(with_headers, originals.len() - 1);
        let found: Vec<_> = found
            .into_iter()
            .map(|(sequence, stored, subject, _, body)| (sequence, stored, subject, body))
            .collect();
        assert!(found == expected, "restarted: {restarted}");
        let info = stack.jetstream().await.get_stream("CHECKOUT").await.unwrap();
        let info = info.cached_info().clone();
        assert_eq!((info.state.first_sequence, info.state.last_sequence), (3, 230));
        assert_eq!(info.created, created);
        assert_eq!(info.config.metadata["ezout_epoch"], "an epoch");
        assert!(info.config.deny_delete && info.config.allow_atomic_publish);
    }
    let context = stack.jetstream().await;
    let stored = context.publish("checkout.0.shop", "next".into()).await.unwrap();
    assert_eq!(stored.await.unwrap().sequence, 231);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_journal_is_restored_where_mongodb_has_lost_nothing() {
    let kept = tempfile::tempdir().unwrap();
    let to = kept.path().to_str().unwrap();
    let mut stack = Stack::start().await;
    let mut service = stack.service("serve").await;
    fill(&service, 2, 10).await;
    let before = Everything::of(&stack).await;
    printed(&stack.ezout(&["backup", to]).await);
    // Somebody is a member no more, and must not be one again.
    printed(
        &stack
            .ezout(&["member", "add", "ada", "--role", "support", "--shop", "*"])
            .await,
    );
    printed(&stack.ezout(&["backup", to]).await);
    printed(&stack.ezout(&["member", "remove", "ada"]).await);
    service.stop().await;

    stack.nats.kill().await;
    std::fs::remove_dir_all(stack.folder().join("nats/jetstream")).unwrap();
    stack.nats.restart().await.unwrap();
    let no = refused(&stack.ezout(&["restore", to]).await);
    assert!(no.contains("--only-journal"), "{no}");
    printed(&stack.ezout(&["restore", to, "--only-journal"]).await);
    let service = stack.service("serve").await;
    caught_up(&stack).await;
    assert_eq!(journal_of(&stack).await, before.journal);
    assert!(documents(&stack.database().await, "members", doc! {}).await.is_empty());
    assert_eq!(report(&stack, "after.json", &[]).await.1["different"], 0);

    // A journal that has gone on is beyond the backup; baskets that are beyond it do not fit.
    let shop = session();
    record(&service, &shop, &visit(&shop, &session(), 1)).await;
    caught_up(&stack).await;
    drop(service);
    stack.nats.kill().await;
    std::fs::remove_dir_all(stack.folder().join("nats/jetstream")).unwrap();
    stack.nats.restart().await.unwrap();
    let no = refused(&stack.ezout(&["restore", to, "--only-journal"]).await);
    assert!(no.contains("name a new database"), "{no}");

    // And a folder has the backup of one journal only.
    let _service = stack
        .service_with("serve", &[("EZOUT_MONGODB_DATABASE", "another")])
        .await;
    let another = [("EZOUT_MONGODB_DATABASE", "another")];
    let no = refused(&stack.ezout_with(&["backup", to], &another).await);
    assert!(no.contains("the backup of another journal"), "{no}");
    let no = refused(&stack.ezout_with(&["restore", to], &another).await);
    assert!(no.contains("a new journal is there, without events"), "{no}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_that_is_lost_is_restored_beside_those_that_have_gone_on() {
    let kept = tempfile::tempdir().unwrap();
    let to = kept.path().to_str().unwrap();
    let stack = Stack::start_spread(4).await;
    let mut service = stack.service("serve").await;
    let (shops, _) = fill(&service, 16, 3).await;
    caught_up(&stack).await;
    printed(&stack.ezout(&["backup", to]).await);
    let lost = stack.lane_of(&shops[0]);
    let other = shops.iter().find(|shop| stack.lane_of(shop) != lost).unwrap();
    record(&service, other, &visit(other, &session(), 1)).await;
    caught_up(&stack).await;
    service.stop().await;
    let before = journal_of(&stack).await;
    let beyond = refused(&stack.ezout(&["restore", to, "--only-journal"]).await);
    assert!(beyond.contains("a journal is there already"), "{beyond}");

    // It ends earlier than the backup, as that of an older copy would.
    let jetstream = stack.jetstream().await;
    let config = jetstream
        .get_stream(lost.name())
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    jetstream.delete_stream(lost.name()).await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    let short = refused(&stack.ezout(&["restore", to, "--only-journal"]).await);
    let removal = format!("`nats stream rm {}`", lost.name());
    assert!(
        short.contains(&removal) && short.contains("the other streams may stay"),
        "{short}"
    );

    jetstream.delete_stream(lost.name()).await.unwrap();
    let no = refused(&stack.ezout(&["restore", to]).await);
    assert!(no.contains("--only-journal"), "{no}");
    printed(&stack.ezout(&["restore", to, "--only-journal"]).await);
    assert_eq!(journal_of(&stack).await, before);
    let service = stack.service("serve").await;
    record(&service, &shops[0], &visit(&shops[0], &session(), 1)).await;
    caught_up(&stack).await;
    assert_eq!(report(&stack, "after.json", &[]).await.1["different"], 0);
}
