//! Durable timers: baskets to which nothing happens are abandoned by an event, and open again when the shopper comes back.

use mongodb::bson::doc;
use serde_json::{Value, json};

use crate::support::{Service, Stack, document, event, session, wait_for};

async fn get(service: &Service, path: &str) -> Value {
    let answer = reqwest::get(format!("{}{path}", service.http_url())).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn with_status(service: &Service, shop: &str, session: &str, status: &str) -> Value {
    let path = format!("/v1/shops/{shop}/sessions/{session}/basket");
    wait_for(&format!("a basket that is {status}"), async || {
        let answer = reqwest::get(format!("{}{path}", service.http_url())).await.unwrap();
        let basket: Value = answer.json().await.ok()?;
        (basket["status"] == status).then_some(basket)
    })
    .await
}

/// How many baskets the process has said to be abandoned.
async fn abandonments(service: &Service) -> String {
    service.metric("ezout_abandonments_total").await.unwrap().to_string()
}

async fn updates(stack: &Stack) -> Vec<Value> {
    let stream = stack.jetstream().await.get_stream("UPDATES").await.unwrap();
    let last = stream.get_info().await.unwrap().state.last_sequence;
    let mut updates = Vec::new();
    for place in 1..=last {
        let message = stream.get_raw_message(place).await.unwrap();
        updates.push(serde_json::from_slice(&message.payload).unwrap());
    }
    updates
}

#[tokio::test]
async fn an_idle_basket_is_abandoned_once_by_an_event_and_opens_when_the_shopper_comes_back() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_ABANDON_AFTER", "1s")]).await;
    let (shop, idle, paid) = (session(), session(), session());
    let add = |session: &str, id: i32| event(&shop, session, id.into(), "ADD", 5, 3.5, 3.5 * f64::from(id));
    for event in [
        add(&idle, 1),
        add(&paid, 1),
        event(&shop, &paid, 2, "CHECKOUT", 5, 3.5, 3.5),
    ] {
        assert_eq!(service.publish(&shop, &event).await.status(), 200);
    }
    let basket = with_status(&service, &shop, &idle, "abandoned").await;
    assert_eq!(
        (&basket["total"], &basket["version"]),
        (&json!(3.5), &json!(2)),
        "{basket}"
    );
    assert_eq!(basket["last_action"], "ADD", "the last thing that the shopper did");

    // It is an event of the session like any other.
    let base = format!("/v1/shops/{shop}/sessions/{idle}");
    let history = get(&service, &format!("{base}/events")).await;
    let told = &history["events"][1];
    assert_eq!(
        (&told["event"]["after"], &told["event"]["session_id"]),
        (&history["events"][0]["sequence"], &json!(idle)),
        "{history}"
    );
    let explained = get(&service, &format!("{base}/explain")).await;
    assert_eq!(
        (&explained["status"], &explained["abandonments"][0]["void"]),
        (&json!("abandoned"), &json!(false)),
        "{explained}"
    );
    let summary = get(&service, &format!("/v1/shops/{shop}/summary")).await;
    assert_eq!(
        (&summary["open_baskets"], &summary["abandoned_today"]),
        (&json!(0), &json!({ "count": 1, "amount": 3.5 })),
        "{summary}"
    );
    let listed = get(&service, &format!("/v1/shops/{shop}/baskets?status=abandoned")).await;
    assert_eq!(listed["baskets"][0]["session_id"], json!(idle), "{listed}");
    let update = wait_for("the update of the abandonment", async || {
        updates(&stack)
            .await
            .pop()
            .filter(|update| update["action"] == "ABANDONED")
    })
    .await;
    assert_eq!(
        (
            &update["action"],
            &update["action_id"],
            &update["shopper_id"],
            &update["product_price"]
        ),
        (
            &json!("ABANDONED"),
            &json!(0),
            &add(&idle, 1)["shopper_id"],
            &Value::Null
        ),
        "{update}"
    );
    assert_eq!(
        (&update["basket_total"], &update["basket"]["status"]),
        (&json!(3.5), &json!("abandoned"))
    );

    assert_eq!(service.publish(&shop, &add(&idle, 2)).await.status(), 200);
    let basket = with_status(&service, &shop, &idle, "open").await;
    assert_eq!((&basket["total"], &basket["version"]), (&json!(7.0), &json!(3)));
    let before = told["sequence"].as_u64().unwrap();
    let past = get(&service, &format!("{base}/basket?sequence={before}")).await;
    assert_eq!(past["status"], "abandoned");
    assert_eq!(
        get(&service, &format!("{base}/explain")).await["abandonments"][0]["void"],
        true
    );
    with_status(&service, &shop, &idle, "abandoned").await;

    // Nothing more is said of it, however often one looks.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(abandonments(&service).await, "2");
    wait_for("the last update", async || {
        (updates(&stack).await.len() >= 6).then_some(())
    })
    .await;
    assert_eq!(
        updates(&stack).await.len(),
        6,
        "one for each event, and none for those of baskets that ended"
    );
}

#[tokio::test]
async fn what_became_due_while_nobody_looked_is_found_afterwards_and_folds_again_to_the_same_bytes() {
    let stack = Stack::start().await;
    let mut service = stack.service_with("serve", &[("EZOUT_ABANDON_AFTER", "never")]).await;
    let (shop, one, other) = (session(), session(), session());
    let add = |session: &str, id: i32| event(&shop, session, id.into(), "ADD", 5, 3.5, 3.5 * f64::from(id));
    for event in [add(&one, 1), add(&one, 2), add(&other, 1)] {
        assert_eq!(service.publish(&shop, &event).await.status(), 200);
    }
    with_status(&service, &shop, &other, "open").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert_eq!(abandonments(&service).await, "0");
    service.kill().await;

    // Two that look at once say it once.
    let settings = [("EZOUT_ABANDON_AFTER", "1s")];
    let (mut service, mut second) = tokio::join!(
        stack.service_with("serve", &settings),
        stack.service_with("project", &settings)
    );
    for session in [&one, &other] {
        with_status(&service, &shop, session, "abandoned").await;
    }
    // An update follows its basket within milliseconds.
    wait_for("the last update", async || {
        (updates(&stack).await.len() == 5).then_some(())
    })
    .await;
    let database = stack.database().await;
    let before = document(&database, &shop, &one).await.unwrap();
    assert_eq!(before.get_array("abandonments").unwrap().len(), 1);
    second.stop().await;
    service.stop().await;

    for collection in ["baskets", "checkpoints"] {
        database
            .collection::<mongodb::bson::Document>(collection)
            .delete_many(doc! {})
            .await
            .unwrap();
    }
    let service = stack.service_with("serve", &settings).await;
    with_status(&service, &shop, &other, "abandoned").await;
    let after = document(&database, &shop, &one).await.unwrap();
    let without_fence = |mut document: mongodb::bson::Document| {
        document.remove("fence");
        document.remove("seal");
        document
    };
    assert_eq!(without_fence(after), without_fence(before));
    assert_eq!(updates(&stack).await.len(), 5, "no update is sent again");
}
