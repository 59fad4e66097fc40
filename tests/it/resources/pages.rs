//! Pages of sessions: one page for all who mean the same, told anew once when something happens, and healed where it could not be.

use std::time::Duration;

use futures::StreamExt as _;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{Shoppers, json_of, place, rid};
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Stack, event, heard, printed, session, system, wait_for};

#[tokio::test]
async fn what_means_the_same_has_the_same_query_in_every_answer() {
    let system = system().await;
    let shop = system.shop();
    let mut shoppers = Shoppers::new(&shop, 3, 1);
    for _ in 0..5 {
        shoppers.act(&system.service).await;
    }
    let nats = system.stack.nats_client().await;
    let get = async |query: Option<&str>| -> Value {
        let inbox = nats.new_inbox();
        let mut answers = nats.subscribe(inbox.clone()).await.unwrap();
        let request = query.map_or_else(|| json!({}), |query| json!({ "query": query }));
        let subject = format!("get.{}", rid(&shop, "sessions"));
        nats.publish_with_reply(subject, inbox, request.to_string().into())
            .await
            .unwrap();
        loop {
            let answer = heard(&mut answers).await;
            if answer.payload.starts_with(b"{") {
                return serde_json::from_slice(&answer.payload).unwrap();
            }
        }
    };
    for (queries, normal) in [
        (&[None, Some(""), Some("limit=50"), Some("limit=050")][..], "limit=50"),
        (
            &[
                Some("limit=3&status=open"),
                Some("status=open&limit=3"),
                Some("status=open&limit=03"),
            ],
            "limit=3&status=open",
        ),
        (
            &[
                Some("verdict=ok&since=2023-12-18T10:00:00Z"),
                Some("since=2023-12-18T11:00:00%2B01:00&verdict=ok"),
            ],
            "limit=50&since=2023-12-18T10:00:00Z&verdict=ok",
        ),
    ] {
        for query in queries {
            let answer = get(*query).await;
            assert_eq!(answer["result"]["query"], normal, "{query:?}: {answer}");
            assert!(answer["result"]["collection"].is_array(), "{query:?}: {answer}");
        }
        // It means itself.
        assert_eq!(get(Some(normal)).await["result"]["query"], normal);
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "status=gone",
        "since=now",
        "page=1",
        "limit=1&limit=2",
        "cursor=x",
    ] {
        let answer = get(Some(query)).await;
        assert_eq!(answer["error"]["code"], "system.invalidQuery", "{query}: {answer}");
    }
}

#[tokio::test]
async fn every_page_follows_and_is_asked_for_once() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start(&stack).await else {
        return;
    };
    let service = stack.service("serve").await;
    let shop = session();
    let mut shoppers = Shoppers::new(&shop, 6, fastrand::u64(..));
    for _ in 0..60 {
        shoppers.act(&service).await;
    }
    let visit = session();
    let last = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    let last = place(&service.publish(&shop, &last).await);
    service.basket(&shop, &visit, last).await;
    let api = |query: &str| {
        format!(
            "{}/v1/shops/{shop}/{}",
            service.http_url(),
            query.replacen("sessions", "baskets", 1)
        )
    };
    let first = json_of(&api("sessions?limit=2")).await;
    let second = format!("sessions?limit=2&cursor={}", first["next"].as_str().unwrap());
    let client = ResClient::connect(&resgate.url()).await;
    // Two of them are one page.
    let queries = ["sessions", "sessions?limit=50", "sessions?limit=2", &second];
    for query in queries {
        client.subscribe(&rid(&shop, query)).await.unwrap();
    }
    let nats = stack.nats_client().await;
    // Whoever it is that asks there, and whatever inboxes are called.
    let mut inboxes = nats.subscribe(">").await.unwrap();
    let mut events = nats
        .subscribe(format!("event.{}.query", rid(&shop, "sessions")))
        .await
        .unwrap();
    nats.flush().await.unwrap();
    // A visit that begins is the first on the first page.
    let begins = event(&shop, &session(), 1, "ADD", 1, 1.5, 1.5);
    assert_eq!(service.publish(&shop, &begins).await.status(), 200);
    let told = heard(&mut events).await;
    let told: Value = serde_json::from_slice(&told.payload).unwrap();
    let inbox = told["subject"].as_str().unwrap().to_owned();
    // Another gateway would be answered as well.
    let late = nats
        .request(inbox.clone(), json!({ "query": "limit=2" }).to_string().into())
        .await
        .unwrap();
    let late: Value = serde_json::from_slice(&late.payload).unwrap();
    assert_eq!(late["result"]["collection"].as_array().unwrap().len(), 2, "{late}");
    for query in queries {
        wait_for(&format!("{query} as the API says"), async || {
            let truth = json_of(&api(query)).await["baskets"].clone();
            (client.tree(&rid(&shop, query)) == Some(truth)).then_some(())
        })
        .await;
    }
    let mut asked = Vec::new();
    while let Ok(Some(request)) = tokio::time::timeout(Duration::from_millis(300), inboxes.next()).await {
        if request.subject.as_str() == inbox {
            let request: Value = serde_json::from_slice(&request.payload).unwrap();
            asked.push(request["query"].as_str().unwrap().to_owned());
        }
    }
    // One of them was the test itself.
    let own = asked.iter().position(|query| query == "limit=2");
    asked.remove(own.expect("the test asked"));
    asked.sort_unstable();
    let cursor = second.rsplit_once('=').unwrap().1;
    assert_eq!(
        asked,
        [
            format!("cursor={cursor}&limit=2"),
            "limit=2".to_owned(),
            "limit=50".to_owned()
        ]
    );
}

#[tokio::test]
async fn a_page_that_could_not_be_read_is_healed_by_a_reset() {
    let stack = Stack::start().await;
    let Some(mut resgate) = Resgate::start(&stack).await else {
        return;
    };
    // What Resgate makes of a page that it is not told.
    resgate.tolerate("the sessions cannot be read");
    let service = stack.service("serve").await;
    let shop = session();
    let mut shoppers = Shoppers::new(&shop, 4, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&service).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    let page = rid(&shop, "sessions?limit=5");
    client.subscribe(&page).await.unwrap();
    let nats = stack.nats_client().await;
    let mut answers = nats.subscribe("_INBOX.>").await.unwrap();
    let mut resets = nats.subscribe("system.reset").await.unwrap();
    nats.flush().await.unwrap();
    // Without its index a page is not read.
    let drop_index = doc! { "dropIndexes": "baskets", "index": "by_status_and_change" };
    let database = stack.database().await;
    wait_for("the page not to be read", async || {
        // Somebody may bring the index back meanwhile.
        let _ = database.run_command(drop_index.clone()).await;
        shoppers.act(&service).await;
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(300), answers.next()).await {
            if answer.payload.starts_with(b"{\"error\"") {
                return Some(());
            }
        }
        None
    })
    .await;
    printed(&stack.ezout(&["migrate"]).await);
    wait_for("the page as the API says", async || {
        let url = format!("{}/v1/shops/{shop}/baskets?limit=5", service.http_url());
        let truth = json_of(&url).await["baskets"].clone();
        (client.tree(&page) == Some(truth)).then_some(())
    })
    .await;
    let of_shop = json!({ "resources": [rid(&shop, ">")] });
    loop {
        let reset = heard(&mut resets).await;
        if serde_json::from_slice::<Value>(&reset.payload).unwrap() == of_shop {
            break;
        }
    }
}
