//! A checker that cannot fail is worth nothing: each kind of damage to a sound history is caught.

use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Decimal128, Document, doc};
use serde_json::{Value, json};

use super::checker::check;
use super::history::{
    Alarm, Asked, Copied, End, Evidence, Identity, JournalEvent, Most, Receipt, Recovery, Sight, StoredUpdate, Viewed,
};
use super::promise::Promise;

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
            body: json!({ "sequence": sequence, "session_id": SESSION, "basket": basket }),
        });
        evidence.heard.entry(SHOP.into()).or_default().push(sequence);
        actions.push(doc! { "sequence": i64::try_from(sequence).unwrap() }.into());
    }
    let line = doc! { "product_id": 7_i64, "quantity": 3_i64, "amount": decimal("3.75"),
    "prices": [{ "price": decimal("1.25"), "quantity": 3_i64 }] };
    let basket = doc! { "status": "open", "sequence": 3_i64, "item_count": 3_i64, "total": decimal("3.75"), "claimed_total": decimal("3.75"),
    "verdict": "ok", "finding_count": 0_i64, "version": 3_i64, "parked_since": null, "lines": [line], "actions": actions,
    "abandonments": [] };
    evidence.baskets.insert(format!("{SHOP}.{SESSION}"), basket);
    evidence.checkpoints.insert(2, 3);
    evidence.rebuilt = Some(evidence.baskets.clone());
    evidence.viewers = vec![viewed()];
    let asked = |stranger, permitted| Asked {
        what: "a basket".to_owned(),
        refusal: 404,
        stranger,
        permitted,
    };
    // In an outage nobody is answered, and nothing is shown.
    evidence.strangers = vec![asked(404, 200), asked(503, 503), asked(0, 0), asked(404, 503)];
    evidence.most.insert("api".to_owned(), Most::default());
    evidence.recovered = Some(Recovery {
        took: Duration::from_secs(90),
        standstill: Duration::from_secs(2),
        is_well: true,
    });
    evidence.ends = vec![end("one", 1), end("one", 3)];
    let copied = evidence.journal.iter().map(|event| {
        Some(Copied {
            subject: event.subject.clone(),
            recorded: "2023-12-18T10:30:00Z".to_owned(),
            headers: b"NATS/1.0\r\n\r\n".to_vec(),
            body: event.body.clone(),
        })
    });
    let copied: Vec<_> = copied.collect();
    let copies = ["n1", "n2", "n3"].map(|server| (server.to_owned(), copied.clone()));
    evidence.copies = copies.into();
    evidence
}

/// An end of the journal, now.
fn end(epoch: &str, last: u64) -> End {
    End {
        epoch: epoch.to_owned(),
        last,
        at: Instant::now(),
    }
}

/// The journal ends earlier for a while, which somebody has said in these words; then it is whole, and then it is another one, which
/// somebody has said as well.
fn fallen(words: &str) -> Evidence {
    let mut evidence = sound();
    let alarm = |words: &str| Alarm {
        words: words.to_owned(),
        at: Instant::now(),
    };
    evidence.ends.push(end("one", 2));
    evidence.alarms.push(alarm(words));
    evidence.ends.push(end("one", 3));
    evidence.ends.push(end("two", 3));
    evidence
        .alarms
        .push(alarm("the journal CHECKOUT was replaced by another one (epoch two)"));
    evidence
}

#[test]
fn an_alarm_excuses_the_fall_of_which_it_speaks_and_no_other() {
    for words in [
        "the journal CHECKOUT ends at event 2 but had event 3",
        "partition 7 has halted: the journal ends at 2 and the views are folded up to 3",
    ] {
        let report = check(&fallen(words));
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }
    let caught = |evidence: Evidence, damage: fn(&mut Evidence)| {
        expect_caught(evidence, damage, Some(Promise::I15), "nobody said so");
    };
    for words in [
        "the journal CHECKOUT ends at event 1 but had event 3",
        "the journal CHECKOUT ends at event 20 but had event 30",
        "partition 2 has halted",
        "the journal CHECKOUT was replaced by another one (epoch two)",
    ] {
        caught(fallen(words), |_| ());
    }
    let words = "the journal CHECKOUT ends at event 2 but had event 3";
    caught(fallen(words), |run| drop(run.alarms.pop()));
    caught(fallen(words), |run| run.alarms[1].words = "(epoch three)".to_owned());
    // When it was whole again nobody could mean it any more.
    caught(fallen(words), |run| run.alarms[0].at = Instant::now());
    // Nobody could mean it before it was seen to be as long as that.
    caught(fallen(words), |run| {
        run.alarms[0].at = run.ends[0].at;
        run.ends[1].at = run.ends[2].at;
    });
}

/// A viewer that saw one event, was cut off, had a snapshot with two, was cut off again, and saw the third.
fn viewed() -> Viewed {
    let update = |sequence| Sight::Update {
        sequence,
        session: SESSION.into(),
        version: sequence,
    };
    let empty = Sight::Snapshot {
        baskets: Vec::new(),
        up_to: Some(0),
    };
    let snapshot = Sight::Snapshot {
        baskets: vec![(SESSION.into(), 2)],
        up_to: Some(1),
    };
    Viewed {
        shop: SHOP.into(),
        sights: vec![
            Sight::Hello { recovered: false },
            empty,
            update(1),
            Sight::Hello { recovered: false },
            snapshot,
            Sight::Hello { recovered: true },
            update(3),
        ],
    }
}

fn sights(evidence: &mut Evidence) -> &mut Vec<Sight> {
    &mut evidence.viewers[0].sights
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
    basket.insert("sequence", 4_i64);
    basket.insert("abandonments", vec![doc! { "sequence": 4_i64, "after": 3_i64 }]);
    evidence.rebuilt = Some(evidence.baskets.clone());
    sights(&mut evidence).push(Sight::Update {
        sequence: 4,
        session: SESSION.into(),
        version: 4,
    });
    evidence.checkpoints.insert(2, 4);
    evidence.copies.clear();
    evidence
}

/// Damages a history, and expects the checker to say these words of it, and which promise that breaks.
fn expect_caught(mut evidence: Evidence, damage: fn(&mut Evidence), promise: Option<Promise>, words: &str) {
    damage(&mut evidence);
    let report = check(&evidence);
    let told = report.violations.iter().any(|violation| {
        promise.is_none_or(|promise| violation.promise == promise) && violation.to_string().contains(words)
    });
    assert!(told, "{promise:?} with {words:?} is not among {:#?}", report.violations);
}

#[test]
fn a_basket_that_is_abandoned_in_time_passes_and_every_damage_to_it_is_caught() {
    let report = check(&abandoned());
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    let caught = |damage: fn(&mut Evidence), words: &str| expect_caught(abandoned(), damage, None, words);
    caught(
        |run| run.abandon_after_ms = 7_001,
        "I3: event 4 says after Some(7000) ms",
    );
    caught(|run| run.journal[2].session = None, "I3: event 4 says after None ms");
    caught(|run| run.abandon_after_ms = 0, "I3: event 4 says after");
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
    assert!(report.total() > 20, "{}", report.total());
}

#[test]
fn every_kind_of_damage_is_caught() {
    let caught = |damage: fn(&mut Evidence), words: &str| expect_caught(sound(), damage, None, words);
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
    caught(
        |run| run.seen.push((Promise::I5, "the fence fell".into())),
        "I5: the fence fell",
    );
}

#[test]
fn every_damage_names_the_promise_that_it_breaks() {
    let caught = |damage: fn(&mut Evidence), promise: Promise, words: &str| {
        expect_caught(sound(), damage, Some(promise), words);
    };
    let twice = |run: &mut Evidence| run.journal[2].body = run.journal[1].body.clone();
    caught(twice, Promise::I1, "in the journal more than once");
    let copied = |run: &mut Evidence| run.copies.get_mut("n3").unwrap()[1].as_mut().unwrap().body[5] ^= 1;
    caught(copied, Promise::I1, "n3 has Some(Copied");
    let headed = |run: &mut Evidence| run.copies.get_mut("n2").unwrap()[2].as_mut().unwrap().headers.push(0);
    caught(headed, Promise::I1, "as event 3 and n1 has");
    let timed = |run: &mut Evidence| {
        run.copies.get_mut("n2").unwrap()[0]
            .as_mut()
            .unwrap()
            .recorded
            .push('0');
    };
    caught(timed, Promise::I1, "as event 1 and n1 has");
    let lacking = |run: &mut Evidence| run.copies.get_mut("n1").unwrap()[0] = None;
    caught(lacking, Promise::I1, "n1 has None as event 1");
    let shorter = |run: &mut Evidence| drop(run.copies.get_mut("n1").unwrap().pop());
    caught(shorter, Promise::I1, "n1 has 2 events and not 3");
    let unanswered = |run: &mut Evidence| {
        run.journal[2].body = run.journal[1].body.clone();
        run.phones.events.values_mut().for_each(|told| told.receipts.clear());
    };
    caught(unanswered, Promise::I2, "in the journal more than once");
    caught(|run| run.phones.events.clear(), Promise::I3, "nobody sent event 1");
    caught(|run| drop(actions(run).pop()), Promise::I4, "has the events [1, 2] ");
    caught(
        |run| run.updates[2].body["basket"]["total"] = json!(3.74),
        Promise::I4,
        "the updates moved 37400",
    );
    caught(
        |run| drop(basket(run).insert("sequence", 2_i64)),
        Promise::I5,
        "is as of 2",
    );
    caught(
        |run| *run.checkpoints.get_mut(&2).unwrap() = 2,
        Promise::I5,
        "checkpoints are",
    );
    let swapped = |run: &mut Evidence| run.phones.order.get_mut(SESSION).unwrap().swap(0, 1);
    caught(swapped, Promise::I6, "sent one after the other");
    caught(|run| run.parked.push(3), Promise::I9, "parked are [3]");
    let answered = |run: &mut Evidence| run.strangers[0].stranger = 200;
    caught(answered, Promise::I10, "was answered 200 and not 404");
    let otherwise = |run: &mut Evidence| run.strangers[0].stranger = 500;
    caught(otherwise, Promise::I10, "was answered 500 and not 404");
    let in_an_outage = |run: &mut Evidence| run.strangers[3].stranger = 200;
    caught(in_an_outage, Promise::I10, "was answered 200 and not 404, and 503");
    let never = |run: &mut Evidence| run.strangers[0].permitted = 404;
    caught(never, Promise::I10, "nothing shows that a basket is refused");
    let changed = |run: &mut Evidence| run.foreign.push(("Eve".to_owned(), "a correction".to_owned()));
    caught(changed, Promise::I10, "Eve of another shop has changed something");
    let rebuilt = |run: &mut Evidence| {
        let rebuilt = run.rebuilt.as_mut().unwrap();
        rebuilt.values_mut().next().unwrap().remove("total");
    };
    caught(rebuilt, Promise::I11, "was rebuilt as");
    caught(
        |run| run.rebuilt.as_mut().unwrap().clear(),
        Promise::I11,
        "was rebuilt as None",
    );
    caught(
        |run| drop(run.journal.remove(1)),
        Promise::I12,
        "was acknowledged at 2 and is at []",
    );
    caught(
        |run| run.most.get_mut("api").unwrap().memory = 1 << 40,
        Promise::I13,
        "bytes of memory",
    );
    caught(
        |run| run.most.get_mut("api").unwrap().descriptors = 9_999,
        Promise::I13,
        "9999 descriptors",
    );
    let stood = |run: &mut Evidence| run.recovered.as_mut().unwrap().standstill = Duration::from_secs(31);
    caught(stood, Promise::I14, "nothing was told for 31.0s");
    let behind = |run: &mut Evidence| run.recovered.as_mut().unwrap().is_well = false;
    caught(behind, Promise::I14, "not told at once again 90.0s after the fault");
    caught(|run| run.ends.swap(0, 1), Promise::I15, "nobody said so");
    caught(
        |run| run.ends[1].epoch = "another".into(),
        Promise::I15,
        "nobody said so",
    );
    caught(
        |run| run.journal[1].sequence = 7,
        Promise::I15,
        "the journal has 7 where 2 should be",
    );
}

#[test]
fn every_fault_that_a_viewer_sees_is_caught() {
    let caught = |damage: fn(&mut Vec<Sight>), words: &str| {
        let mut evidence = sound();
        damage(sights(&mut evidence));
        let report = check(&evidence);
        let told = report
            .violations
            .iter()
            .any(|violation| violation.promise == Promise::I7 && violation.what.contains(words));
        assert!(told, "{words:?} is not among {:#?}", report.violations);
    };
    // The end is missing; one event is told again; one is missing; the snapshot is older than what was shown.
    caught(|sights| drop(sights.pop()), "in version Some(2), and it is 3");
    caught(
        |sights| sights.push(sights[6].clone()),
        "in version 3 and was told of 3",
    );
    let less = |sights: &mut Vec<Sight>| {
        sights[4] = Sight::Snapshot {
            baskets: vec![(SESSION.into(), 1)],
            up_to: Some(1),
        };
    };
    caught(less, "without [2]");
    let older = |sights: &mut Vec<Sight>| {
        sights[4] = Sight::Snapshot {
            baskets: vec![(SESSION.into(), 0)],
            up_to: Some(1),
        };
    };
    caught(older, "in version 1 and got a snapshot with 0");
    let no_place = |sights: &mut Vec<Sight>| drop(sights.splice(..2, [Sight::Hello { recovered: true }]));
    caught(no_place, "and had no place");
    let unknown = |sights: &mut Vec<Sight>| {
        sights[2] = Sight::Update {
            sequence: 9,
            session: SESSION.into(),
            version: 1,
        };
    };
    caught(unknown, "was told of 9");
    // A snapshot that is ahead of its place is followed by what it has already, on the next connection.
    let mut evidence = sound();
    sights(&mut evidence)[4] = Sight::Snapshot {
        baskets: vec![(SESSION.into(), 3)],
        up_to: Some(2),
    };
    let report = check(&evidence);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    // What is left out may be so where it was said.
    let mut evidence = sound();
    sights(&mut evidence).splice(2..6, [Sight::Coalesced]);
    let report = check(&evidence);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}
