//! The list of open baskets: how it comes, what leaves it, and where it ends.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::{agrees, basket_rid, place, rid};
use crate::support::gateway::Gateway;
use crate::support::res::check_value;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, document, event, heard, session, system, wait_for};

/// Baskets that a list has at most, as the README says.
const LIST_MAX: usize = 2_000;
/// The owner of a shop looks at all of it again 7 s after it was first asked for it. What is done to the database before is found then.
const LOOKS_AGAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_list_comes_with_all_its_baskets_and_nothing_in_them_is_bare() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    for visit in [session(), session(), session()] {
        for action_id in 1..=3 {
            let added = event(&shop, &visit, action_id, "ADD", action_id, 1.5, 1.5);
            let last = place(&system.service.publish(&shop, &added).await);
            system.service.basket(&shop, &visit, last).await;
        }
    }
    let client = ResClient::connect(&resgate.url()).await;
    let list = rid(&shop, "baskets");
    client.subscribe(&list).await.unwrap();
    let frames = client.frames();
    let came = frames.iter().find(|frame| frame["result"]["collections"].is_object());
    let came = &came.expect("the answer to the subscription")["result"];
    let members: BTreeSet<&String> = came.as_object().unwrap().keys().collect();
    assert_eq!(members.into_iter().collect::<Vec<_>>(), ["collections", "models"]);
    assert_eq!(came["collections"].as_object().unwrap().len(), 1);
    let entries = came["collections"][&list].as_array().unwrap();
    let referenced: BTreeSet<&str> = entries.iter().map(|entry| entry["rid"].as_str().unwrap()).collect();
    let models = came["models"].as_object().unwrap();
    assert_eq!(models.keys().map(String::as_str).collect::<BTreeSet<_>>(), referenced);
    assert_eq!(models.len(), 3);
    for model in models.values() {
        for value in model.as_object().unwrap().values() {
            check_value(value).unwrap();
        }
        for name in ["corrections", "findings", "lines", "missing"] {
            assert!(model[name]["data"].is_array(), "{name} of {model}");
        }
        assert_eq!(model["lines"]["data"].as_array().unwrap().len(), 3);
    }
}

/// A shop with two open baskets, and what `spoil` did to the database right after `begin` had asked for the shop.
async fn spoiled<T>(
    service: &Service,
    begin: impl AsyncFn(&str) -> T,
    spoil: impl AsyncFn(&str, &str),
) -> (String, [String; 2], T) {
    loop {
        let (shop, visits) = (session(), [session(), session()]);
        for visit in &visits {
            let added = event(&shop, visit, 1, "ADD", 1, 1.5, 1.5);
            let last = place(&service.publish(&shop, &added).await);
            service.basket(&shop, visit, last).await;
        }
        let begun = Instant::now();
        let begin = begin(&shop).await;
        spoil(&shop, &visits[0]).await;
        // On a machine that was too slow for that the next look would be minutes away.
        if begun.elapsed() < LOOKS_AGAIN {
            return (shop, visits, begin);
        }
    }
}

#[tokio::test]
async fn a_basket_that_is_no_more_leaves_the_list_and_is_deleted() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start(&stack).await else {
        return;
    };
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let begin = async |shop: &str| {
        let client = ResClient::connect(&resgate.url()).await;
        client.expect_ends();
        client.subscribe(&rid(shop, "baskets")).await.unwrap();
        client
    };
    let spoil = async |shop: &str, visit: &str| {
        let baskets = database.collection::<Document>("baskets");
        let id = doc! { "_id": format!("{shop}.{visit}") };
        assert_eq!(baskets.delete_one(id).await.unwrap().deleted_count, 1);
    };
    let (shop, [gone, stays], client) = spoiled(&service, begin, spoil).await;
    // A page that shows this basket by itself as well.
    let name = basket_rid(&shop, &gone);
    client.subscribe(&name).await.unwrap();
    client.hears(&rid(&shop, "baskets"), "remove").await;
    client.hears(&name, "delete").await;
    wait_for("the subscription to be over", async || client.lost(&name)).await;
    assert_eq!(client.lost(&name).unwrap(), "system.deleted");
    let told = client.events(&name).len();
    assert_eq!(client.get(&name).await.unwrap_err()["code"], "system.notFound");

    // The other one goes on, and of this one nothing more is heard.
    let added = event(&shop, &stays, 2, "ADD", 1, 1.5, 1.5);
    service.publish(&shop, &added).await;
    wait_for("the change of the other", async || {
        let list = client.tree(&rid(&shop, "baskets"))?;
        (list[0]["item_count"] == 2).then_some(())
    })
    .await;
    agrees(&client, &service, &shop).await;
    assert_eq!(client.events(&name).len(), told);
    assert!(document(&database, &shop, &gone).await.is_none());
}

#[tokio::test]
async fn who_handles_a_basket_is_told_also_where_another_process_has_noted_it() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let database = stack.database().await;
    let gateway = Gateway::connect(&stack.nats.url()).await;
    let begin = async |shop: &str| gateway.subscribe(&rid(shop, "baskets")).await.unwrap();
    let until = DateTime::from_millis(DateTime::now().timestamp_millis() + 600_000);
    // As the owner before notes it, whose last call is still under way when the next one has begun.
    let note = async |shop: &str, visit: &str| {
        let noted = doc! { "_id": format!("{shop}.{visit}"), "shop_id": shop, "by": "Ada", "until": until };
        let handlings = database.collection::<Document>("handlings");
        handlings.insert_one(noted).await.unwrap();
    };
    let (shop, [visit, _], _) = spoiled(&service, begin, note).await;
    let name = basket_rid(&shop, &visit);
    wait_for("Ada to be seen", async || {
        (gateway.tree(&name)?["handled_by"] == "Ada").then_some(())
    })
    .await;
    let refused = gateway.call(&name, "handle", json!({ "by": "Bob" })).await.unwrap_err();
    assert_eq!(refused["code"], "ezout.handled");
    assert_eq!(refused["data"]["handled_by"], "Ada");
    gateway
        .call(&name, "handle", json!({ "by": "Ada", "release": true }))
        .await
        .unwrap();
    assert_eq!(gateway.tree(&name).unwrap()["handled_by"], Value::Null);
}

/// Sends one event of each of these sessions, and answers the last one's place.
async fn send(service: &Service, shop: &str, action: &str, action_id: i64, visits: &[(usize, String)]) -> u64 {
    let mut last = 0;
    for part in visits.chunks(1_000) {
        let lines: Vec<String> = part
            .iter()
            .map(|(second, visit)| {
                let mut event = event(shop, visit, action_id, action, 1, 1.5, 1.5);
                let (hour, minute, second) = (8 + second / 3600, second / 60 % 60, second % 60);
                event["create_time"] = json!(format!("2023-12-18T{hour:02}:{minute:02}:{second:02}.000Z"));
                event.to_string()
            })
            .collect();
        let url = format!("{}/v1/shops/{shop}/events", service.http_url());
        let sent = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        let verdicts = sent.send().await.unwrap().text().await.unwrap();
        for verdict in verdicts.lines() {
            let verdict: Value = serde_json::from_str(verdict).unwrap();
            last = verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{verdict}"));
        }
    }
    last
}

#[tokio::test]
async fn the_newest_baskets_are_in_the_list_and_the_summary_counts_all() {
    let system = system().await;
    let (shop, service) = (system.shop(), &system.service);
    let list = rid(&shop, "baskets");
    let mut open: Vec<(usize, String)> = (0..LIST_MAX + 3).map(|second| (second, session())).collect();
    let last = send(service, &shop, "ADD", 1, &open).await;
    service.basket(&shop, &open.last().unwrap().1, last).await;
    let gateway = Gateway::connect(&system.nats_url()).await;
    gateway.subscribe(&list).await.unwrap();
    let sees = async |open: &[(usize, String)]| {
        let mut newest: Vec<&(usize, String)> = open.iter().collect();
        newest.sort_by_key(|(second, visit)| (Reverse(*second), visit));
        let newest: Vec<&String> = newest.iter().take(LIST_MAX).map(|(_, visit)| visit).collect();
        wait_for("the newest baskets", async || {
            let list = gateway.tree(&list)?;
            let shown = list.as_array()?.iter().map(|basket| basket["session_id"].as_str());
            shown.eq(newest.iter().map(|visit| Some(visit.as_str()))).then_some(())
        })
        .await;
    };
    // As the service tells them; of a reset a gateway makes steps of its own.
    let nats = system.stack.nats_client().await;
    let mut events = nats.subscribe(format!("event.{list}.*")).await.unwrap();
    nats.flush().await.unwrap();
    let mut steps = async |count: usize| {
        let mut steps = Vec::new();
        while steps.len() < count {
            let event = heard(&mut events).await;
            let data: Value = serde_json::from_slice(&event.payload).unwrap();
            let name = event.subject.rsplit('.').next().unwrap().to_owned();
            steps.push(json!([name, data["idx"]]));
        }
        let more = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
        assert!(more.is_err(), "{more:?} after {steps:?}");
        steps
    };
    sees(&open).await;
    let summary = gateway.subscribe(&rid(&shop, "summary")).await.unwrap();
    assert_eq!(summary["open_baskets"], open.len());

    // A newer one comes, and the last one leaves before it.
    let newer = vec![(LIST_MAX + 3, session())];
    send(service, &shop, "ADD", 1, &newer).await;
    open.extend(newer);
    sees(&open).await;
    assert_eq!(steps(2).await, [json!(["remove", LIST_MAX - 1]), json!(["add", 0])]);
    // One of those that are not shown ends, which is told to nobody; then one that is, and there is room for another.
    let hidden = open.remove(0);
    send(service, &shop, "CHECKOUT", 2, &[hidden]).await;
    let shown = open.remove(LIST_MAX - 10);
    let last = send(service, &shop, "CHECKOUT", 2, std::slice::from_ref(&shown)).await;
    service.basket(&shop, &shown.1, last).await;
    sees(&open).await;
    let told = steps(2).await;
    assert_eq!(
        (&told[0][0], &told[1]),
        (&json!("remove"), &json!(["add", LIST_MAX - 1]))
    );
    gateway.forget(&list).await;
    assert_eq!(
        gateway.subscribe(&list).await.unwrap().as_array().unwrap().len(),
        LIST_MAX
    );
    wait_for("the summary to follow", async || {
        (gateway.tree(&rid(&shop, "summary"))?["open_baskets"] == open.len()).then_some(())
    })
    .await;
}
