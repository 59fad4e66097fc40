//! A checker that cannot fail is worth nothing: each kind of damage to a sound history is caught.

use mongodb::bson::{Bson, Decimal128, Document, doc};
use serde_json::{Value, json};

use super::checker::check;
use super::history::{Evidence, Identity, JournalEvent, Receipt, StoredUpdate};

const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const SESSION: &str = "4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";

/// Three pieces at 1.25 each, one event a piece, all as it should be.
fn sound() -> Evidence {
    let mut evidence = Evidence::default();
    let mut actions: Vec<Bson> = Vec::new();
    for sequence in 1..=3_u64 {
        let total = format!("{}", 125 * sequence);
        let total = format!("{}.{}", &total[..1], &total[1..]);
        let body = format!(
            "{{\"session_id\":\"{SESSION}\",\"shop_id\":\"{SHOP}\",\"shopper_id\":\"s\",\"action_id\":{sequence},\
             \"create_time\":\"2023-12-18T10:30:0{sequence}Z\",\"action\":\"ADD\",\"product_id\":7,\
             \"product_price\":1.25,\"basket_total\":{total}}}"
        );
        let sent: Value = serde_json::from_str(&body).unwrap();
        let identity = Identity::of(&sent).unwrap();
        let place = evidence.phones.sending(&identity, &sent);
        let receipt = Receipt {
            sequence,
            duplicate: false,
            body: place,
        };
        evidence.phones.acknowledged(&identity, receipt);
        evidence.phones.order.entry(SESSION.into()).or_default().push(sequence);
        evidence.journal.push(JournalEvent {
            sequence,
            subject: format!("checkout.2.{SHOP}"),
            recorded_ms: i64::try_from(sequence).unwrap() * 1_000,
            session: Some(SESSION.into()),
            is_abandonment: false,
            body: body.into_bytes(),
        });
        let total: Value = serde_json::from_str(&total).unwrap();
        let basket = json!({ "status": "open", "item_count": sequence, "total": total, "claimed_total": total,
            "verdict": "ok", "finding_count": 0, "version": sequence });
        evidence.updates.push(StoredUpdate {
            subject: format!("upd.2.{SHOP}"),
            sequence,
            body: json!({ "sequence": sequence, "basket": basket }),
        });
        evidence.heard.entry(SHOP.into()).or_default().push(sequence);
        actions.push(doc! { "sequence": i64::try_from(sequence).unwrap() }.into());
    }
    let line = doc! { "product_id": 7_i64, "quantity": 3_i64, "amount": decimal("3.75"),
    "prices": [{ "price": decimal("1.25"), "quantity": 3_i64 }] };
    let basket = doc! { "status": "open", "item_count": 3_i64, "total": decimal("3.75"), "claimed_total": decimal("3.75"),
    "verdict": "ok", "finding_count": 0_i64, "version": 3_i64, "parked_since": null, "lines": [line], "actions": actions,
    "abandonments": [] };
    evidence.baskets.insert(format!("{SHOP}.{SESSION}"), basket);
    evidence.checkpoints.insert(2, 3);
    evidence
}

/// The same, and nothing more for seven seconds.
fn abandoned() -> Evidence {
    let mut evidence = sound();
    evidence.abandon_after_ms = 7_000;
    let body = format!("{{\"session_id\":\"{SESSION}\",\"shop_id\":\"{SHOP}\",\"after\":3}}");
    evidence.journal.push(JournalEvent {
        sequence: 4,
        body: body.into_bytes(),
        recorded_ms: 10_000,
        is_abandonment: true,
        ..evidence.journal[2].clone()
    });
    let mut update = evidence.updates[2].clone();
    update.sequence = 4;
    update.body["basket"]["status"] = json!("abandoned");
    update.body["basket"]["version"] = json!(4);
    evidence.updates.push(update);
    evidence.heard.get_mut(SHOP).unwrap().push(4);
    let basket = basket(&mut evidence);
    basket.insert("status", "abandoned");
    basket.insert("version", 4_i64);
    basket.insert("abandonments", vec![doc! { "sequence": 4_i64, "after": 3_i64 }]);
    evidence.checkpoints.insert(2, 4);
    evidence
}

#[test]
fn a_basket_that_is_abandoned_in_time_passes_and_every_damage_to_it_is_caught() {
    let report = check(&abandoned());
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    let caught = |damage: fn(&mut Evidence), words: &str| {
        let mut evidence = abandoned();
        damage(&mut evidence);
        let report = check(&evidence);
        let told = report.violations.iter().any(|violation| violation.contains(words));
        assert!(told, "{words:?} is not among {:#?}", report.violations);
    };
    caught(|run| run.abandon_after_ms = 7_001, "event 4 says after Some(7000) ms");
    caught(|run| run.journal[2].session = None, "event 4 says after None ms");
    caught(|run| run.abandon_after_ms = 0, "event 4 says after");
    caught(|run| drop(basket(run).insert("status", "open")), "and should be");
    caught(
        |run| drop(basket(run).insert("abandonments", Bson::Array(Vec::new()))),
        "was abandoned at []",
    );
    caught(|run| drop(run.updates.pop()), "never tells of 1 events: [4]");
    let again = |run: &mut Evidence| {
        let event = run.journal[3].clone();
        run.journal.push(JournalEvent { sequence: 5, ..event });
    };
    caught(again, "event 5 says again");
}

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

fn basket(evidence: &mut Evidence) -> &mut Document {
    evidence.baskets.values_mut().next().unwrap()
}

fn actions(evidence: &mut Evidence) -> &mut Vec<Bson> {
    basket(evidence).get_array_mut("actions").unwrap()
}

#[test]
fn a_sound_history_passes() {
    let report = check(&sound());
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.checks > 20, "{}", report.checks);
}

#[test]
fn every_kind_of_damage_is_caught() {
    let caught = |damage: fn(&mut Evidence), words: &str| {
        let mut evidence = sound();
        damage(&mut evidence);
        let report = check(&evidence);
        let told = report.violations.iter().any(|violation| violation.contains(words));
        assert!(told, "{words:?} is not among {:#?}", report.violations);
    };
    caught(|run| drop(run.journal.remove(1)), "was acknowledged at 2 and is at []");
    caught(
        |run| run.journal[2].body = run.journal[1].body.clone(),
        "is in the journal more than once",
    );
    caught(|run| run.phones.events.clear(), "nobody sent event 1");
    caught(
        |run| run.phones.order.get_mut(SESSION).unwrap().swap(0, 1),
        "sent one after the other",
    );
    let acknowledged_twice = |run: &mut Evidence| {
        let told = run.phones.events.values_mut().next().unwrap();
        told.receipts.push(told.receipts[0]);
    };
    caught(acknowledged_twice, "was acknowledged as new 2 times");
    caught(
        |run| run.journal[0].subject = "checkout.3.x".into(),
        "nobody sent event 1",
    );
    let doubled = |run: &mut Evidence| {
        let first = actions(run)[0].clone();
        actions(run).push(first);
    };
    caught(doubled, "has the events [1, 2, 3, 1]");
    caught(|run| drop(actions(run).pop()), "has the events [1, 2] ");
    caught(
        |run| drop(basket(run).insert("total", decimal("3.76"))),
        "and should be",
    );
    caught(|run| drop(basket(run).insert("verdict", "diverged")), "and should be");
    caught(|run| drop(basket(run).insert("parked_since", 2_i64)), "is parked since");
    caught(|run| run.baskets.clear(), "there is no basket");
    caught(|run| run.updates.swap(0, 1), "tells of event 1 after 2");
    caught(|run| drop(run.updates.pop()), "never tells of 1 events: [3]");
    caught(|run| run.updates.push(run.updates[2].clone()), "tells of event 3 again");
    caught(
        |run| run.updates[1].body["basket"]["total"] = json!(2.51),
        "the update of event 2 shows",
    );
    caught(|run| run.heard.get_mut(SHOP).unwrap().push(3), "heard 3 after 3");
    caught(|run| run.heard.get_mut(SHOP).unwrap().push(9), "heard of [9]");
    caught(|run| *run.checkpoints.get_mut(&2).unwrap() = 2, "checkpoints are");
    caught(|run| *run.checkpoints.get_mut(&2).unwrap() = 4, "checkpoints are");
    caught(|run| run.parked.push(3), "parked are [3] instead of []");
    caught(|run| run.seen.push("the fence fell".into()), "the fence fell");
}
