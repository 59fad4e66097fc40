//! Corrections by the API: each is one event, whatever dies on the way, and is told by its state.

use std::collections::BTreeMap;
use std::time::Duration;

use ezout::core::basket::Basket;
use ezout::core::event::{ActionIdMeaning, JournalEvent, Recorded, rfc3339};
use ezout::core::id::{BasketId, SessionId, ShopId};
use ezout::views::Views;
use mongodb::Collection;
use mongodb::bson::{DateTime, Decimal128, Document, doc};
use reqwest::Client;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::contracts::check;
use crate::support::{Service, Stack, configure_journal, event, printed, session, system, wait_for};

/// Appends a product to a visit, and answers its place in the journal.
async fn add(service: &Service, shop: &str, visit: &str, action: i64, product: i64, pieces: u32) -> u64 {
    let mut added = event(shop, visit, action, "ADD", product, 2.5, 0.0);
    added["quantity"] = json!(pieces);
    let answer = service.publish(shop, &added).await;
    assert_eq!(answer.status(), 200);
    answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap()
}

fn path(shop: &str, visit: &str) -> String {
    format!("/v1/shops/{shop}/sessions/{visit}/corrections")
}

/// A correction as it is sent, with what is given.
fn wish(rest: &Value) -> Value {
    let mut wish = json!({ "author": "Ada", "reason": "scanned twice" });
    let fields = rest.as_object().unwrap().clone();
    wish.as_object_mut().unwrap().extend(fields);
    wish
}

/// Asks for a correction, and answers the status and the body.
async fn ask(service: &Service, shop: &str, visit: &str, rest: &Value) -> (u16, Value) {
    let url = format!("{}{}", service.http_url(), path(shop, visit));
    let answer = Client::new().post(url).json(&wish(rest)).send().await.unwrap();
    let location = answer.headers().get("location").cloned();
    let (status, body) = check::answer("POST", answer).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    if status == 202 {
        let expected = format!("{}/{}", path(shop, visit), body["id"].as_str().unwrap());
        assert_eq!(location.unwrap().to_str().unwrap(), expected);
    }
    (status, body)
}

/// Asks for a correction that is published at once, and answers it.
async fn published(service: &Service, shop: &str, visit: &str, rest: &Value) -> Value {
    let (status, body) = ask(service, shop, visit, rest).await;
    assert_eq!((status, &body["state"]), (202, &json!("published")), "{body}");
    body
}

async fn get(service: &Service, path: &str) -> Value {
    let (status, json) = check::json_of(&format!("{}{path}", service.http_url())).await;
    assert_eq!(status, 200, "{json}");
    json
}

/// The correction, once it is in this state.
async fn until(service: &Service, shop: &str, visit: &str, id: &str, state: &str) -> Value {
    let path = format!("{}/{id}", path(shop, visit));
    wait_for(&format!("correction {id} to be {state}"), async || {
        let filed = get(service, &path).await;
        (filed["state"] == state).then_some(filed)
    })
    .await
}

/// The events of a visit that are corrections.
async fn corrections_of(service: &Service, shop: &str, visit: &str) -> Vec<Value> {
    let history = get(service, &format!("/v1/shops/{shop}/sessions/{visit}/events")).await;
    let events = history["events"].as_array().unwrap().iter();
    events
        .filter(|recorded| recorded["event"]["correction_id"].is_string())
        .cloned()
        .collect()
}

#[tokio::test]
async fn what_was_paid_stays_at_its_time_when_it_is_corrected() {
    let service = &system().await.service;
    let (shop, by_shopper, by_hand) = (session(), session(), session());
    add(service, &shop, &by_shopper, 1, 5, 1).await;
    let base = add(service, &shop, &by_hand, 1, 5, 1).await;
    let paid = event(&shop, &by_shopper, 2, "checkout", 5, 2.5, 2.5);
    let paid = service.publish(&shop, &paid).await;
    let paid: u64 = paid.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
    service.basket(&shop, &by_shopper, paid).await;
    let correct = async |visit: &str, base: u64, mut asked: Value| {
        asked["base_sequence"] = json!(base);
        let filed = published(service, &shop, visit, &asked).await;
        let sequence = filed["sequence"].as_u64().unwrap();
        service.basket(&shop, visit, sequence).await;
        sequence
    };
    let base = correct(&by_hand, base, json!({ "status": { "to": "paid" } })).await;
    let corrected = json!({ "adjustment": { "by": -0.25 } });
    let first = correct(&by_shopper, paid, corrected.clone()).await;
    let base = correct(&by_hand, base, corrected).await;
    let recorded_at = async |visit: &str, sequence: u64| {
        let history = get(service, &format!("/v1/shops/{shop}/sessions/{visit}/events")).await;
        let mut recorded = history["events"].as_array().unwrap().iter();
        let event = recorded.find(|event| event["sequence"] == sequence).unwrap();
        event["recorded_at"].as_str().unwrap().to_owned()
    };

    let since = async |start: &str| {
        let get = async |what: &str| get(service, &format!("/v1/shops/{shop}/{what}?day_start={start}")).await;
        (get("summary").await, get("day").await["points"][0].clone())
    };
    // Both were paid before the first of the corrections was recorded.
    let (summary, day) = since(&recorded_at(&by_shopper, first).await).await;
    assert_eq!(summary["paid_today"], json!({ "count": 0, "amount": 0.0 }), "{summary}");
    assert_eq!(
        summary["diverged_today"], 1,
        "the one without a total of the app changed: {summary}"
    );
    assert_eq!((&day["events"], &day["paid_count"]), (&json!(2), &json!(0)), "{day}");
    let long_ago = rfc3339(OffsetDateTime::now_utc() - Duration::from_mins(10));
    let (summary, day) = since(&long_ago).await;
    assert_eq!(summary["paid_today"], json!({ "count": 2, "amount": 4.5 }), "{summary}");
    assert_eq!(
        (&day["paid_count"], &day["paid_total"]),
        (&json!(2), &json!(4.5)),
        "{day}"
    );

    // One that was made open again is paid when it is paid again.
    let base = correct(&by_hand, base, json!({ "status": { "to": "open" } })).await;
    let again = correct(&by_hand, base, json!({ "status": { "to": "paid" } })).await;
    let (summary, _) = since(&recorded_at(&by_hand, again).await).await;
    assert_eq!(
        summary["paid_today"],
        json!({ "count": 1, "amount": 2.25 }),
        "{summary}"
    );
}

#[tokio::test]
async fn a_basket_that_somebody_spoiled_does_not_spoil_the_numbers_of_its_shop() {
    // A system of its own, since nobody mends what is spoiled here.
    let stack = Stack::start().await;
    let (service, shop) = (&stack.service("serve").await, session());
    let baskets: Collection<Document> = stack.database().await.collection("baskets");
    for spoiled in [
        doc! { "actions.0.action": { "no": "word" } },
        doc! { "corrections": "none" },
        doc! { "corrections": [{ "counts": true, "changes": 5 }, 5] },
        doc! { "actions": [], "abandonments": 5 },
    ] {
        let visit = session();
        add(service, &shop, &visit, 1, 5, 1).await;
        let paid = event(&shop, &visit, 2, "CHECKOUT", 5, 2.5, 2.5);
        let paid = service.publish(&shop, &paid).await;
        let paid = paid.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
        service.basket(&shop, &visit, paid).await;
        let id = doc! { "_id": format!("{shop}.{visit}") };
        let spoiling = baskets.update_one(id, doc! { "$set": spoiled });
        spoiling.bypass_document_validation(true).await.unwrap();
    }
    let summary = get(service, &format!("/v1/shops/{shop}/summary")).await;
    assert_eq!(summary["paid_today"]["count"], 4, "{summary}");
}

#[tokio::test]
async fn each_kind_of_correction_changes_the_basket_as_asked() {
    let service = &system().await.service;
    let (shop, visit) = (session(), session());
    add(service, &shop, &visit, 1, 5, 3).await;
    let mut base = add(service, &shop, &visit, 2, 6, 1).await;
    for (asked, total, status) in [
        (json!({ "quantity": { "product_id": 5, "quantity": 2 } }), 7.5, "open"),
        (
            json!({ "price": { "product_id": 5, "price": "3.0001" } }),
            8.5002,
            "open",
        ),
        (json!({ "remove": { "product_id": 6 } }), 6.0002, "open"),
        (json!({ "adjustment": { "by": -0.5 } }), 5.5002, "open"),
        (
            json!({ "quantity": { "product_id": 6, "quantity": 2, "price": 1.25 } }),
            8.0002,
            "open",
        ),
        (json!({ "status": { "to": "paid" } }), 8.0002, "paid"),
    ] {
        let mut rest = asked.clone();
        rest["base_sequence"] = json!(base);
        let filed = published(service, &shop, &visit, &rest).await;
        assert_eq!(filed["base_sequence"], base);
        base = filed["sequence"].as_u64().unwrap();
        let basket = service.basket(&shop, &visit, base).await;
        assert_eq!(
            (&basket["total"], &basket["status"]),
            (&json!(total), &json!(status)),
            "{asked}: {basket}"
        );
        let newest = basket["corrections"].as_array().unwrap().last().unwrap();
        assert_eq!((&newest["id"], &newest["changes"]), (&filed["id"], &filed["changes"]));
    }

    // What was undone counts again when the undoing is undone.
    let all = get(service, &path(&shop, &visit)).await;
    let list = all["corrections"].as_array().unwrap();
    assert_eq!(list.len(), 6);
    assert!(list.iter().all(|filed| filed["state"] == "applied"), "{all}");
    let cheaper = list[2]["id"].clone();
    assert_eq!(list[2]["asked"], json!({ "adjustment": { "by": -0.5 } }));
    let undo = published(service, &shop, &visit, &json!({ "undo": { "correction_id": cheaper } })).await;
    let basket = service.basket(&shop, &visit, undo["sequence"].as_u64().unwrap()).await;
    assert_eq!(basket["total"], 8.5002);
    let again = json!({ "undo": { "correction_id": undo["id"] } });
    let redo = published(service, &shop, &visit, &again).await;
    let basket = service.basket(&shop, &visit, redo["sequence"].as_u64().unwrap()).await;
    assert_eq!(basket["total"], 8.0002);
    let (status, twice) = ask(service, &shop, &visit, &again).await;
    assert_eq!((status, &twice["code"]), (422, &json!("already_undone")), "{twice}");

    let limited = get(service, &format!("{}?limit=2", path(&shop, &visit))).await;
    let ids: Vec<&Value> = limited["corrections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|filed| &filed["id"])
        .collect();
    assert_eq!(ids, [&redo["id"], &undo["id"]]);
    assert_eq!(corrections_of(service, &shop, &visit).await.len(), 8);
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_once_and_not_filed() {
    let service = &system().await.service;
    let (shop, visit) = (session(), session());
    let base = add(service, &shop, &visit, 1, 5, 2).await;
    service.basket(&shop, &visit, base).await;
    let unknown = session();
    for (rest, status, code) in [
        (json!({ "remove": { "product_id": 6 } }), 422, "no_line"),
        (
            json!({ "quantity": { "product_id": 5, "quantity": 2 } }),
            422,
            "nothing_to_change",
        ),
        (
            json!({ "quantity": { "product_id": 5, "quantity": 1_000_001 } }),
            422,
            "too_many_pieces",
        ),
        (json!({ "adjustment": { "by": -5.01 } }), 422, "negative_total"),
        (json!({ "undo": { "correction_id": unknown } }), 422, "no_correction"),
        (json!({ "status": { "to": "abandoned" } }), 422, "invalid_correction"),
        (json!({ "quantity": { "product_id": 5 } }), 422, "invalid_correction"),
        (
            json!({ "adjustment": { "by": 1 }, "colour": "red" }),
            422,
            "invalid_correction",
        ),
        (
            json!({ "adjustment": { "by": 1 }, "base_sequence": i64::MAX }),
            422,
            "invalid_correction",
        ),
    ] {
        let (answered, problem) = ask(service, &shop, &visit, &rest).await;
        assert_eq!(
            (answered, &problem["code"]),
            (status, &json!(code)),
            "{rest}: {problem}"
        );
    }
    let (status, _) = ask(service, &shop, &session(), &json!({ "adjustment": { "by": 1 } })).await;
    assert_eq!(status, 404);
    let none = get(service, &path(&shop, &visit)).await;
    assert_eq!(none["corrections"], json!([]));
    // Nor are those of one basket shown for another.
    let filed = published(service, &shop, &visit, &json!({ "adjustment": { "by": 1 } })).await;
    let other = session();
    add(service, &shop, &other, 1, 5, 1).await;
    let elsewhere = format!(
        "{}{}/{}",
        service.http_url(),
        path(&shop, &other),
        filed["id"].as_str().unwrap()
    );
    assert_eq!(check::json_of(&elsewhere).await.0, 404);
}

#[tokio::test]
async fn a_correction_that_is_sent_again_is_answered_as_the_first_and_another_one_is_a_conflict() {
    let service = &system().await.service;
    let (shop, visit) = (session(), session());
    let base = add(service, &shop, &visit, 1, 5, 3).await;
    let id = session();
    let first = json!({ "id": id, "base_sequence": base, "quantity": { "product_id": 5, "quantity": 1 } });
    let filed = published(service, &shop, &visit, &first).await;
    service.basket(&shop, &visit, filed["sequence"].as_u64().unwrap()).await;
    // By now there is nothing to change, and the basket has moved on.
    for _ in 0..3 {
        assert_eq!(published(service, &shop, &visit, &first).await, filed);
    }
    let other_words =
        json!({ "id": id.to_uppercase(), "base_sequence": base, "quantity": { "product_id": 5, "quantity": 1.0 } });
    assert_eq!(published(service, &shop, &visit, &other_words).await, filed);
    for (field, value) in [
        ("author", json!("Bob")),
        ("reason", json!("because")),
        ("base_sequence", json!(null)),
        ("quantity", json!({ "product_id": 5, "quantity": 2 })),
    ] {
        let mut other = first.clone();
        other[field] = value;
        let (status, problem) = ask(service, &shop, &visit, &other).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    }
    let elsewhere = session();
    add(service, &shop, &elsewhere, 1, 5, 3).await;
    let (status, _) = ask(service, &shop, &elsewhere, &first).await;
    assert_eq!(status, 409);

    // Many at once are one.
    let racing = json!({ "id": session(), "adjustment": { "by": 0.25 } });
    let (shop, visit) = (&shop, &visit);
    let asked = (0..8).map(|_| published(service, shop, visit, &racing));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(corrections_of(service, shop, visit).await.len(), 2);
}

#[tokio::test]
async fn a_basket_that_has_moved_on_is_told_with_what_changed() {
    let service = &system().await.service;
    let (shop, visit) = (session(), session());
    let base = add(service, &shop, &visit, 1, 5, 3).await;
    let last = add(service, &shop, &visit, 2, 6, 1).await;
    service.basket(&shop, &visit, last).await;
    let stale = json!({ "base_sequence": base, "quantity": { "product_id": 5, "quantity": 2 } });
    let (status, problem) = ask(service, &shop, &visit, &stale).await;
    assert_eq!((status, &problem["code"]), (409, &json!("moved_on")));
    assert_eq!(problem["sequence"], last);
    assert_eq!(
        problem["changed"],
        json!({
            "since": base, "events": 1, "status": null, "total": { "from": 7.5, "to": 10.0 },
            "lines": [{
                "product_id": 6, "product_name": "product 6", "quantity": { "from": 0, "to": 1 },
                "amount": { "from": 0.0, "to": 2.5 }
            }]
        })
    );
    let fresh = json!({ "base_sequence": last, "quantity": { "product_id": 5, "quantity": 2 } });
    published(service, &shop, &visit, &fresh).await;
}

#[tokio::test]
async fn a_basket_that_moves_on_before_the_correction_is_taken_has_it_rejected() {
    let stack = Stack::start().await;
    let projector = stack.service("project").await;
    let api = stack.service("api").await;
    let (shop, visit) = (session(), session());
    let base = add(&api, &shop, &visit, 1, 5, 3).await;
    let stale = json!({ "id": session(), "base_sequence": base, "quantity": { "product_id": 5, "quantity": 2 } });
    let fresh = json!({ "id": session(), "quantity": { "product_id": 5, "quantity": 1 } });
    for asked in [&stale, &fresh] {
        let (status, filed) = ask(&api, &shop, &visit, asked).await;
        assert_eq!((status, &filed["state"]), (202, &json!("new")), "nobody takes it");
    }
    // The views do not know of this one, the journal does.
    drop(projector);
    let last = add(&api, &shop, &visit, 2, 6, 1).await;
    let corrector = stack.service("correct").await;
    let rejected = until(&api, &shop, &visit, stale["id"].as_str().unwrap(), "rejected").await;
    assert_eq!(rejected["rejection"]["code"], "moved_on");
    let reason = rejected["rejection"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("1 event after") && reason.contains("its total is 10.0 and was 7.5"),
        "{reason}"
    );
    let (status, problem) = ask(&api, &shop, &visit, &stale).await;
    assert_eq!((status, &problem["code"]), (409, &json!("moved_on")), "{problem}");
    until(&api, &shop, &visit, fresh["id"].as_str().unwrap(), "published").await;
    let _projector = stack.service("project").await;
    until(&api, &shop, &visit, fresh["id"].as_str().unwrap(), "applied").await;
    // By now the views know what changed.
    let (status, problem) = ask(&api, &shop, &visit, &stale).await;
    assert_eq!((status, &problem["code"]), (409, &json!("moved_on")), "{problem}");
    assert!(problem["sequence"].as_u64().unwrap() >= last, "{problem}");
    let changed = &problem["changed"];
    assert_eq!(
        (&changed["since"], &changed["events"]),
        (&json!(base), &json!(2)),
        "{problem}"
    );
    for (series, value) in [
        ("ezout_corrections_total{source=\"api\"}", 1.0),
        ("ezout_corrections_total{source=\"database\"}", 0.0),
        ("ezout_rejected_corrections_total{code=\"moved_on\"}", 1.0),
        ("ezout_correction_events_total{outcome=\"recorded\"}", 1.0),
        ("ezout_waiting_corrections", 0.0),
    ] {
        assert_eq!(corrector.metric(series).await, Some(value), "{series}");
    }
}

#[tokio::test]
async fn what_somebody_files_by_hand_is_taken_or_rejected_with_the_reason() {
    let system = system().await;
    let (service, shop, visit) = (&system.service, session(), session());
    let base = add(service, &shop, &visit, 1, 5, 2).await;
    service.basket(&shop, &visit, base).await;
    let filed: Collection<Document> = system.stack.database().await.collection("corrections");
    let document = |id: &str, visit: &str, asked: Document| {
        doc! {
            "_id": id, "basket": format!("{shop}.{visit}"), "shop_id": &shop, "session_id": visit,
            "author": "Ada", "reason": "from a script", "base_sequence": null, "source": "api",
            "created_at": DateTime::now(), "state": "new", "asked": asked,
        }
    };
    let price: Decimal128 = "1.5".parse().unwrap();
    let (good, bad, nowhere, database) = (session(), session(), session(), session());
    let cheaper = doc! { "kind": "price", "product_id": 5_i64, "price": price };
    for one in [
        document(&good, &visit, cheaper.clone()),
        document(&bad, &visit, doc! { "kind": "price", "product_id": 5_i64 }),
        document(&nowhere, &nowhere, cheaper.clone()),
        {
            let mut of_nobody = document(&database, &visit, cheaper);
            of_nobody.insert("author", "Database");
            of_nobody
        },
    ] {
        filed.insert_one(one).await.unwrap();
    }
    until(service, &shop, &visit, &good, "applied").await;
    let state = async |id: &str| {
        wait_for("a decision", async || {
            let found = filed.find_one(doc! { "_id": id }).await.unwrap().unwrap();
            let code = found.get_document("rejection").ok()?.get_str("code").ok()?;
            Some(code.to_owned())
        })
        .await
    };
    assert_eq!(state(&bad).await, "malformed");
    assert_eq!(state(&database).await, "malformed");
    assert_eq!(state(&nowhere).await, "not_found");
    let name = format!("{shop}.{visit}");
    let listed = printed(&system.stack.ezout(&["corrections", "list", &name]).await);
    assert!(listed.contains("by Ada (api), \"from a script\": event "), "{listed}");
    let untyped = filed.insert_one(doc! { "_id": session(), "state": "new" }).await;
    assert!(untyped.unwrap_err().to_string().contains("Document failed validation"));
}

#[tokio::test]
async fn a_correction_of_a_basket_that_somebody_deleted_waits_until_it_is_healed() {
    let stack = Stack::start().await;
    let projector = stack.service("project").await;
    let api = stack.service("api").await;
    let (shop, visit) = (session(), session());
    let base = add(&api, &shop, &visit, 1, 5, 3).await;
    api.basket(&shop, &visit, base).await;
    let (id, other) = (session(), session());
    let wanted = json!({ "id": id, "quantity": { "product_id": 5, "quantity": 2 } });
    assert_eq!(ask(&api, &shop, &visit, &wanted).await.0, 202);
    let baskets: Collection<Document> = stack.database().await.collection("baskets");
    let key = format!("{shop}.{visit}");
    baskets.delete_one(doc! { "_id": &key }).await.unwrap();
    // More of them than are looked at together.
    let filed: Collection<Document> = stack.database().await.collection("corrections");
    let price: Decimal128 = "1.5".parse().unwrap();
    let more = (0..300).map(|_| {
        doc! {
            "_id": session(), "basket": &key, "shop_id": &shop, "session_id": &visit, "author": "Ada",
            "reason": "from a script", "base_sequence": null, "source": "api", "created_at": DateTime::now(),
            "state": "new", "asked": { "kind": "price", "product_id": 5_i64, "price": price },
        }
    });
    filed.insert_many(more).await.unwrap();
    // Nobody follows edits, so that nobody has it healed.
    let _corrector = stack.service_with("correct", &[("EZOUT_EDITS_PER_MINUTE", "0")]).await;
    let healthy = add(&api, &shop, &other, 1, 5, 3).await;
    api.basket(&shop, &other, healthy).await;
    published(&api, &shop, &other, &json!({ "adjustment": { "by": 0.25 } })).await;
    let found = filed.find_one(doc! { "_id": &id }).await.unwrap().unwrap();
    assert_eq!(found.get_str("state").unwrap(), "new", "{found}");
    printed(&stack.ezout(&["rebuild", "--session", &key, "--switch"]).await);
    until(&api, &shop, &visit, &id, "applied").await;
    drop(projector);
}

/// The journal's events of a visit, folded without the views.
async fn refolded(stack: &Stack, shop: &str, visit: &str) -> Basket {
    let id = BasketId {
        shop: ShopId::parse(shop).unwrap(),
        session: SessionId::parse(visit).unwrap(),
    };
    let mut basket = Basket::new(id, ActionIdMeaning::Auto);
    for (sequence, message) in stack.recorded().await {
        let kind = message.headers.as_ref().and_then(|headers| headers.get("ce-type"));
        let kind = kind.map(|kind| kind.as_str().to_owned());
        let event = JournalEvent::read(kind.as_deref(), &message.payload).unwrap();
        if event.basket() == id {
            basket.put(Recorded {
                sequence,
                recorded_at: OffsetDateTime::UNIX_EPOCH,
                event,
            });
        }
    }
    basket.settle();
    basket
}

#[tokio::test]
async fn a_death_between_any_two_effects_leaves_one_event_for_each_correction() {
    let stack = Stack::start().await;
    let _projector = stack.service("project").await;
    let api = stack.service("api").await;
    // What keeps the second attempt from being a second event is not the journal's memory, which is short.
    let context = stack.jetstream().await;
    configure_journal(&context, stack.spread, |config| {
        config.duplicate_window = Duration::from_millis(100);
    })
    .await;
    let shop = session();
    for point in [
        "before_correction_plan",
        "before_correction_append",
        "after_correction_append",
        "before_correction_rejection",
    ] {
        let visit = session();
        let base = add(&api, &shop, &visit, 1, 5, 3).await;
        // Both are filed before anybody takes them; the second then finds that the basket has moved on.
        let two = json!({ "base_sequence": base, "quantity": { "product_id": 5, "quantity": 2 } });
        let late = json!({ "base_sequence": base, "adjustment": { "by": 0.25 } });
        for asked in [two, late] {
            assert_eq!(ask(&api, &shop, &visit, &asked).await.0, 202);
        }
        let mut armed = stack.launch("correct", &[("EZOUT_FAIL_POINT", point)]);
        assert!(!armed.exited().await.success());
        // What is asked for once more meanwhile is decided otherwise, and stands behind the first.
        add(&api, &shop, &visit, 2, 5, 1).await;
        let one = json!({ "quantity": { "product_id": 5, "quantity": 1 } });
        let (_, one) = ask(&api, &shop, &visit, &one).await;

        // It is never ready, as the journal is weaker than promised, and takes corrections all the same.
        let mut corrector = stack.launch("correct", &[]);
        let second = until(&api, &shop, &visit, one["id"].as_str().unwrap(), "applied").await;
        let list = get(&api, &path(&shop, &visit)).await;
        let states: BTreeMap<&str, usize> =
            list["corrections"]
                .as_array()
                .unwrap()
                .iter()
                .fold(BTreeMap::new(), |mut states, filed| {
                    *states.entry(filed["state"].as_str().unwrap()).or_default() += 1;
                    states
                });
        assert!(!states.contains_key("new"), "{point}: {list}");
        let events = corrections_of(&api, &shop, &visit).await;
        assert_eq!(events.len(), states["applied"], "{point}: {events:?}");
        // What the collection says is what the journal has.
        for filed in list["corrections"].as_array().unwrap() {
            let mut of_id = events
                .iter()
                .filter(|event| event["event"]["correction_id"] == filed["id"]);
            if filed["state"] == "applied" {
                let event = of_id.next().unwrap();
                assert_eq!(
                    (&event["sequence"], &event["event"]["changes"]),
                    (&filed["sequence"], &filed["changes"]),
                    "{point}"
                );
            }
            assert_eq!(of_id.next(), None, "{point}");
        }
        let basket = api.basket(&shop, &visit, second["sequence"].as_u64().unwrap()).await;
        let expected = refolded(&stack, &shop, &visit).await;
        assert_eq!(
            basket["total"].to_string(),
            expected.state().total.to_string(),
            "{point}"
        );
        assert_eq!(corrector.stop().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_api_that_dies_around_the_filing_files_once() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let (shop, visit) = (session(), session());
    let base = add(&service, &shop, &visit, 1, 5, 3).await;
    service.basket(&shop, &visit, base).await;
    for (point, by) in [("before_proposal", 0.25), ("after_proposal", 0.5)] {
        let id = session();
        let asked = json!({ "id": id, "adjustment": { "by": by } });
        let mut armed = stack.service_with("api", &[("EZOUT_FAIL_POINT", point)]).await;
        let url = format!("{}{}", armed.http_url(), path(&shop, &visit));
        assert!(Client::new().post(url).json(&wish(&asked)).send().await.is_err());
        armed.exited().await;
        published(&service, &shop, &visit, &asked).await;
        until(&service, &shop, &visit, &id, "applied").await;
    }
    assert_eq!(corrections_of(&service, &shop, &visit).await.len(), 2);
    let basket = service.basket(&shop, &visit, base).await;
    assert_eq!(basket["adjustment"], 0.75);
}

#[tokio::test]
async fn many_corrections_of_a_basket_while_the_shopper_shops_are_those_of_an_independent_fold() {
    let stack = Stack::start().await;
    let environment = [("EZOUT_EDITS_PER_MINUTE", "60")];
    let (mut one, other) = tokio::join!(
        stack.service_with("serve", &environment),
        stack.service_with("serve", &environment)
    );
    let (shop, visit) = (session(), session());
    add(&one, &shop, &visit, 1, 5, 10).await;
    let last = add(&one, &shop, &visit, 2, 6, 10).await;
    one.basket(&shop, &visit, last).await;
    let shopping = async {
        for action in 3..60 {
            add(&other, &shop, &visit, action, 5 + action % 3, 1).await;
        }
    };
    let correcting = |service, products: [i64; 2]| {
        let (shop, visit) = (&shop, &visit);
        async move {
            let mut filed = Vec::new();
            for round in 1..=12_i64 {
                let product = products[usize::try_from(round % 2).unwrap()];
                let asked = match round % 4 {
                    0 => json!({ "adjustment": { "by": 0.25 } }),
                    1 => json!({ "price": { "product_id": product, "price": 2 + round } }),
                    2 => json!({ "quantity": { "product_id": product, "quantity": 100 + round } }),
                    _ => json!({ "quantity": { "product_id": product, "quantity": round } }),
                };
                let (status, answer) = ask(service, shop, visit, &asked).await;
                assert!(status == 202 || answer["code"] == "nothing_to_change", "{answer}");
                filed.extend((status == 202).then(|| answer["id"].as_str().unwrap().to_owned()));
            }
            filed
        }
    };
    let ((), by_one, by_other) = tokio::join!(shopping, correcting(&one, [5, 6]), correcting(&other, [6, 5]));
    let mut last = 0;
    for id in by_one.iter().chain(&by_other) {
        let filed = until(&other, &shop, &visit, id, "applied").await;
        last = last.max(filed["sequence"].as_u64().unwrap());
    }
    let basket = other.basket(&shop, &visit, last).await;
    let expected = refolded(&stack, &shop, &visit).await;
    assert_eq!(basket["total"].to_string(), expected.state().total.to_string());
    assert_eq!(basket["item_count"], expected.state().item_count);
    assert_eq!(
        corrections_of(&other, &shop, &visit).await.len(),
        by_one.len() + by_other.len()
    );

    // Whoever led is killed, and the other one takes what comes.
    one.kill().await;
    let late = ask(&other, &shop, &visit, &json!({ "adjustment": { "by": 1 } })).await;
    assert_eq!(late.0, 202, "{late:?}");
    until(&other, &shop, &visit, late.1["id"].as_str().unwrap(), "applied").await;

    // Folded from the journal alone, all baskets are the same.
    let rebuilt = printed(&stack.ezout(&["rebuild"]).await);
    assert!(rebuilt.contains("baskets equal, 0 not"), "{rebuilt}");
}

#[tokio::test]
async fn an_index_alone_finds_what_is_new_and_what_is_of_a_basket() {
    let stack = Stack::start().await;
    // One that is ready has migrated.
    let service = stack.service("project").await;
    let database = stack.database().await;
    let filed: Collection<Document> = database.collection("corrections");
    let (shop, visit) = (session(), session());
    let document = |number: i64, visit: &str, state: &str| {
        doc! {
            "_id": session(), "basket": format!("{shop}.{visit}"), "shop_id": &shop, "session_id": visit,
            "author": "Ada", "reason": "many", "base_sequence": 1_i64, "source": "api",
            "created_at": DateTime::from_millis(number), "state": state, "sequence": number + 1, "changes": [],
            "asked": { "kind": "adjustment", "by": "1".parse::<Decimal128>().unwrap() },
        }
    };
    let others: Vec<String> = (0..20).map(|_| session()).collect();
    let mut documents: Vec<Document> = (0..2_000)
        .map(|number| document(number, &others[usize::try_from(number % 20).unwrap()], "published"))
        .collect();
    documents.extend((0..60).map(|number| document(number, &visit, "published")));
    documents.extend((0..7).map(|number| document(number, &session(), "new")));
    filed.insert_many(documents).await.unwrap();

    let of_corrections = doc! { "ns": "ezout.corrections", "op": "query" };
    let profiling = doc! { "profile": 2, "filter": of_corrections };
    database.run_command(profiling).await.unwrap();
    let (config, stop) = (stack.views_config(), CancellationToken::new());
    let views = Views::start(&config, &TaskTracker::new(), stop.clone()).await.unwrap();
    let basket = BasketId::parse(&format!("{shop}.{visit}")).unwrap();
    assert_eq!(views.filed_of(basket, 50).await.unwrap().len(), 50);
    assert_eq!(views.new_corrections(0, 100).await.unwrap().len(), 7);
    stop.cancel();
    let profile = database.collection::<Document>("system.profile");
    for (limit, found, index) in [(50, 50, "by_basket_and_age"), (100, 7, "new_by_age")] {
        let entry = wait_for("the question to be in the profile", async || {
            profile
                .find_one(doc! { "command.find": "corrections", "command.limit": limit })
                .await
                .unwrap()
        })
        .await;
        let plan = entry.to_string();
        assert!(plan.contains(&format!("\"indexName\": \"{index}\"")), "{plan}");
        assert!(!entry.get_bool("hasSortStage").unwrap_or(false), "{plan}");
        for examined in ["docsExamined", "keysExamined"] {
            let examined = entry
                .get_i32(examined)
                .map_or_else(|_| entry.get_i64(examined).unwrap(), i64::from);
            assert_eq!(examined, found, "{plan}");
        }
    }
    drop(service);
}
