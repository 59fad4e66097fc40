//! What must hold of edits when all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::editor::Ledger;
use crate::support::{Stack, printed, wait_for};

/// How long it stays quiet where nobody says.
const QUIET_SECONDS: u64 = 3;
/// What is waited for longer than this is told, so that it can be looked into.
const TOLD_AFTER: Duration = Duration::from_secs(30);

#[expect(
    clippy::disallowed_methods,
    reason = "a switch for a test run, not an option of the product"
)]
pub fn chosen(variable: &str, usual: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
    })
}

pub fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A correction as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrected {
    pub id: String,
    pub basket: String,
}

/// What became of the edits.
pub struct Outcome {
    pub corrections: Vec<Corrected>,
    pub rejected: u64,
}

/// Every correction in the journal, in its order.
pub async fn corrections(stack: &Stack) -> Vec<Corrected> {
    let messages = stack.recorded().await;
    let correction = |message: &async_nats::jetstream::Message| {
        let kind = message.headers.as_ref()?.get("ce-type")?;
        (kind.as_str() == "ezout.checkout.correction.v1").then(|| {
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            let text = |field: &str| body[field].as_str().unwrap().to_owned();
            Corrected {
                id: text("correction_id"),
                basket: format!("{}.{}", text("shop_id"), text("session_id")),
            }
        })
    };
    let all = messages.iter().filter_map(|(_, message)| correction(message));
    all.collect()
}

pub async fn notes(stack: &Stack) -> Vec<Document> {
    let notes = stack.database().await.collection::<Document>("corrections");
    notes.find(doc! {}).await.unwrap().try_collect().await.unwrap()
}

/// Edits are taken in their order. So when the last one, of a basket of its own, has its outcome, all have, or some are lost.
pub async fn none_is_lost(stack: &Stack, ledger: &Ledger, last: &str) {
    let notes = stack.database().await.collection::<Document>("corrections");
    wait_for("an outcome of the last edit", async || {
        notes.find_one(doc! { "basket": last }).await.unwrap()
    })
    .await;
    let outcomes = notes.count_documents(doc! {}).await.unwrap();
    let lost = ledger.total().saturating_sub(outcomes);
    assert_eq!(lost, 0, "edits have no outcome though the last one has");
}

/// Waits until every edit has had its outcome, every event is in its basket and every basket is healed.
pub async fn quiet(stack: &Stack, ledger: &Ledger) {
    wait_for("an outcome of every edit", async || {
        let count = notes(stack).await.len();
        (count as u64 >= ledger.total()).then_some(())
    })
    .await;
    // What came while a basket could not be read is parked until it is healed.
    for (collection, what) in [
        ("refolds", "the baskets to be healed"),
        ("parked_events", "what was parked to be in its basket"),
    ] {
        let collection = stack.database().await.collection::<Document>(collection);
        let (begun, mut told) = (Instant::now(), false);
        wait_for(what, async || {
            let waiting = collection.find_one(doc! {}).await.unwrap();
            if let Some(waiting) = &waiting
                && begun.elapsed() > TOLD_AFTER
                && !std::mem::replace(&mut told, true)
            {
                say(&format!("{what}, {TOLD_AFTER:?} long: {waiting}"));
            }
            waiting.is_none().then_some(())
        })
        .await;
    }
    // It waits for the views to be as far as the journal, and compares all baskets with a fold of it.
    equal(stack).await;
}

/// Folds the journal anew beside the baskets, and finds no difference. Answers how many baskets there are.
pub async fn equal(stack: &Stack) -> u64 {
    let rebuilt = printed(&stack.ezout(&["rebuild", "--anew"]).await);
    let line = rebuilt.lines().find(|line| line.contains("baskets equal, 0 not"));
    let line = line.unwrap_or_else(|| panic!("{rebuilt}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

/// Holds that each edit gave one correction or one rejection, that none of these gave another one, and that
/// a rebuild keeps all of it.
pub async fn hold(stack: &Stack, ledger: &Ledger) -> Outcome {
    quiet(stack, ledger).await;
    let (events, noted) = (corrections(stack).await, notes(stack).await);
    tokio::time::sleep(Duration::from_secs(chosen("EZOUT_QUIET_SECONDS", QUIET_SECONDS))).await;
    let later = corrections(stack).await;
    assert_eq!(later.len(), events.len(), "an echo: {:?}", &later[events.len()..]);
    assert_eq!(notes(stack).await.len(), noted.len(), "an echo among the notes");

    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), events.len(), "an edit is in the journal twice: {events:#?}");
    let (published, rejected): (Vec<&Document>, Vec<&Document>) = noted
        .iter()
        .partition(|note| note.get_str("state").unwrap() == "published");
    let told: BTreeSet<&str> = published.iter().map(|note| note.get_str("_id").unwrap()).collect();
    assert_eq!(told, ids, "what is noted is what is in the journal");
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for note in &noted {
        let basket = note.get_str("basket").unwrap();
        *outcomes.entry(basket.to_owned()).or_default() += 1;
    }
    let keys: BTreeSet<&String> = outcomes.keys().chain(ledger.made.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|key| outcomes.get(*key) != ledger.made.get(*key));
    let differing: Vec<_> = differing
        .map(|key| {
            let of = noted
                .iter()
                .filter(|note| note.get_str("basket").is_ok_and(|basket| basket == key));
            (
                key,
                ledger.made.get(key),
                of.map(ToString::to_string).collect::<Vec<_>>(),
            )
        })
        .collect();
    assert!(differing.is_empty(), "each edit has one outcome: {differing:#?}");
    let parked = stack.database().await.collection::<Document>("parked_events");
    assert_eq!(parked.count_documents(doc! {}).await.unwrap(), 0, "parked events");

    // The corrections are in the journal and not only in documents.
    printed(&stack.ezout(&["rebuild", "--anew", "--switch"]).await);
    let names = stack.database().await.list_collection_names().await.unwrap();
    let name = names
        .iter()
        .filter(|name| name.starts_with("baskets_"))
        .max_by_key(|name| name.len());
    let baskets = stack.database().await.collection::<Document>(name.unwrap());
    let all: Vec<Document> = baskets.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let kept: usize = all
        .iter()
        .map(|basket| basket.get_array("corrections").unwrap().len())
        .sum();
    assert_eq!(kept, events.len(), "corrections in the baskets after a rebuild");
    Outcome {
        rejected: rejected.len() as u64,
        corrections: events,
    }
}
