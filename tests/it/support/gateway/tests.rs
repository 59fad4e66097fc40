//! The test clients are tested themselves, against a small service that behaves well or ill as it is told to.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use ezout::tools::servers::{NatsOptions, NatsServer};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{Gateway, Told, difference};
use crate::support::res::Resource;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Stack, binaries};

/// A nats-server of a test's own.
async fn nats(folder: &TempDir) -> NatsServer {
    let options = NatsOptions::in_folder(folder.path());
    NatsServer::start(&binaries().nats_server, options)
        .await
        .expect("nats-server starts")
}

/// Waits until the server knows what the client has subscribed to: a request that nobody answers comes back after that.
async fn settle(client: &Client) {
    client.request("nobody.here", "".into()).await.unwrap_err();
}

/// A service under the name `shop`: one task, one connection, everything in order.
struct Service {
    client: Client,
    /// What is answered to each subject, as it stands; what is not there is not found.
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    /// What was asked, with the requests.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    runs: JoinHandle<()>,
}

impl Service {
    async fn start(url: &str) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let mut requests = client.subscribe("*.shop.>").await.unwrap();
        settle(&client).await;
        let answers: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (replies, known, heard) = (client.clone(), answers.clone(), asked.clone());
        let runs = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let Some(reply) = message.reply else { continue };
                let request: Value = serde_json::from_slice(&message.payload).unwrap();
                let subject = message.subject.to_string();
                let answer = known.lock().unwrap().get(&subject).cloned();
                let answer = answer.unwrap_or_else(|| {
                    if subject.starts_with("access.") {
                        json!({ "result": { "get": true, "call": "*" } }).to_string()
                    } else {
                        json!({ "error": { "code": "system.notFound", "message": "Not found" } }).to_string()
                    }
                });
                heard.lock().unwrap().push((subject, request));
                // More than one line is more than one reply.
                for line in answer.split('\n') {
                    replies.publish(reply.clone(), line.to_owned().into()).await.unwrap();
                }
            }
        });
        let service = Self {
            client,
            answers,
            asked,
            runs,
        };
        service.says(
            "get.shop.list",
            r#"{"result":{"collection":[{"rid":"shop.a"},{"rid":"shop.b"}]}}"#,
        );
        service.says("get.shop.a", r#"{"result":{"model":{"n":1,"items":{"data":[]}}}}"#);
        service.says("get.shop.b", r#"{"result":{"model":{"n":2}}}"#);
        service
    }

    fn says(&self, subject: &str, answer: &str) {
        self.answers
            .lock()
            .unwrap()
            .insert(subject.to_owned(), answer.to_owned());
    }

    async fn publish(&self, subject: &str, payload: &str) {
        self.client
            .publish(subject.to_owned(), payload.to_owned().into())
            .await
            .unwrap();
    }

    /// What the last request to a subject said.
    fn heard(&self, subject: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        let found = asked.iter().rev().find(|(asked, _)| asked == subject);
        found.expect("it was asked").1.clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.runs.abort();
    }
}

/// Events and answers that both clients must understand in the same way.
async fn shop_for_a_while(service: &Service, sees: impl AsyncFn(Value)) {
    sees(json!([{ "n": 1, "items": [] }, { "n": 2 }])).await;
    service
        .publish("event.shop.a.change", r#"{"values":{"n":5,"items":{"data":["x"]}}}"#)
        .await;
    sees(json!([{ "n": 5, "items": ["x"] }, { "n": 2 }])).await;
    service.says("get.shop.c", r#"{"result":{"model":{"n":3,"gone":null}}}"#);
    service
        .publish("event.shop.list.add", r#"{"idx":0,"value":{"rid":"shop.c"}}"#)
        .await;
    sees(json!([{ "n": 3, "gone": null }, { "n": 5, "items": ["x"] }, { "n": 2 }])).await;
    service
        .publish("event.shop.c.change", r#"{"values":{"gone":{"action":"delete"}}}"#)
        .await;
    service.publish("event.shop.list.remove", r#"{"idx":2}"#).await;
    service.publish("event.shop.b.delete", "").await;
    sees(json!([{ "n": 3 }, { "n": 5, "items": ["x"] }])).await;
    service.publish("event.shop.list.update", r#"{"raw":[1]}"#).await;
}

/// What the service answers after `shop_for_a_while`.
fn catch_up(service: &Service) {
    service.says(
        "get.shop.list",
        r#"{"result":{"collection":[{"rid":"shop.c"},{"rid":"shop.a"}]}}"#,
    );
    service.says("get.shop.a", r#"{"result":{"model":{"n":5,"items":{"data":["x"]}}}}"#);
    service.says("get.shop.c", r#"{"result":{"model":{"n":3}}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_behaves_well_is_understood() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect(&nats.url()).await;

    assert_eq!(
        gateway.subscribe("shop.list").await,
        Ok(json!([{ "n": 1, "items": [] }, { "n": 2 }]))
    );
    shop_for_a_while(&service, async |expected| gateway.sees("shop.list", &expected).await).await;
    assert_eq!(gateway.tells("shop.list", "update").await, json!({ "raw": [1] }));
    assert_eq!(gateway.tells("shop.b", "delete").await, Value::Null);

    // A reset that finds nothing new tells nothing; one that does tells that.
    catch_up(&service);
    let (told, asked) = (gateway.told().len(), gateway.asked().len());
    service.publish("system.reset", r#"{"resources":["shop.>"]}"#).await;
    service.publish("event.shop.list.done", "").await;
    gateway.tells("shop.list", "done").await;
    service.says(
        "get.shop.list",
        r#"{"result":{"collection":[{"rid":"shop.a"},{"rid":"shop.d"}]}}"#,
    );
    service.says("get.shop.d", r#"{"result":{"model":{}}}"#);
    service
        .publish("system.reset", r#"{"resources":["shop.list"],"access":["shop.list"]}"#)
        .await;
    gateway
        .sees("shop.list", &json!([{ "n": 5, "items": ["x"] }, {}]))
        .await;
    let list = |event: &str, data: Value| Told {
        rid: "shop.list".to_owned(),
        event: event.to_owned(),
        data,
    };
    let expected = [
        list("done", Value::Null),
        list("remove", json!({ "idx": 0 })),
        list("add", json!({ "idx": 1, "value": { "rid": "shop.d" } })),
    ];
    assert_eq!(gateway.told()[told..], expected);
    assert_eq!(
        gateway.asked()[asked..asked + 3],
        ["get.shop.a", "get.shop.c", "get.shop.list"]
    );

    // What nobody is subscribed to is asked for again.
    gateway.forget("shop.list").await;
    assert_eq!(gateway.tree("shop.list"), None);
    assert_eq!(gateway.subscribe("shop.d").await, Ok(json!({})));
    assert_eq!(
        gateway.subscribe("shop.nothing").await.unwrap_err()["code"],
        "system.notFound"
    );
    assert_eq!(
        gateway.subscribe("nobody.here").await.unwrap_err()["code"],
        "system.notFound"
    );
    assert_eq!(gateway.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_asked_for_and_taken_away_again() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect(&nats.url()).await;
    let (yes, no) = (
        r#"{"result":{"get":true,"call":"flag,show"}}"#,
        r#"{"result":{"get":false}}"#,
    );

    service.says("access.shop.a", no);
    assert_eq!(
        gateway.subscribe("shop.a").await.unwrap_err()["code"],
        "system.accessDenied"
    );
    service.says("access.shop.a", yes);
    gateway.subscribe("shop.a").await.unwrap();
    service.says("access.shop.a", no);
    service.publish("event.shop.a.reaccess", "").await;
    let reason = gateway.tells("shop.a", "unsubscribe").await;
    assert_eq!(reason["reason"]["code"], "system.accessDenied");

    service.says("access.shop.b", yes);
    service.says("call.shop.b.flag", r#"{"result":{"ok":true}}"#);
    service.says("call.shop.b.show", r#"{"resource":{"rid":"shop.a"}}"#);
    assert_eq!(
        gateway.call("shop.b", "flag", json!({ "why": "x" })).await,
        Ok(json!({ "ok": true }))
    );
    assert_eq!(service.heard("call.shop.b.flag")["params"], json!({ "why": "x" }));
    assert_eq!(gateway.call("shop.b", "show", Value::Null).await, Ok(json!("shop.a")));
    assert_eq!(
        gateway.call("shop.b", "drop", Value::Null).await.unwrap_err()["code"],
        "system.accessDenied"
    );

    // A token is given, renewed when its time is over, and taken away.
    service.says("auth.shop.jwt", r#"{"result":null}"#);
    assert_eq!(
        gateway.auth("shop", "jwt", json!({ "jwt": "x" })).await,
        Ok(Value::Null)
    );
    let cid = service.heard("auth.shop.jwt")["cid"].as_str().unwrap().to_owned();
    let set_token = async |payload: &str| service.publish(&format!("conn.{cid}.token"), payload).await;
    let has_token = async |token: Value| {
        crate::support::wait_for("the token", async || (gateway.token() == token).then_some(())).await;
    };
    set_token(r#"{"token":{"sub":"u"},"tid":"t"}"#).await;
    has_token(json!({ "sub": "u" })).await;
    gateway.subscribe("shop.b").await.unwrap();
    assert_eq!(service.heard("access.shop.b")["token"], json!({ "sub": "u" }));
    service
        .publish(
            "system.tokenReset",
            r#"{"tids":["other","t"],"subject":"auth.shop.renew"}"#,
        )
        .await;
    crate::support::wait_for("the renewal", async || {
        let asked = service.asked.lock().unwrap();
        asked
            .iter()
            .any(|(subject, _)| subject == "auth.shop.renew")
            .then_some(())
    })
    .await;
    service.says(
        "access.shop.b",
        r#"{"error":{"code":"system.accessDenied","message":"no"}}"#,
    );
    set_token(r#"{"token":null}"#).await;
    gateway.tells("shop.b", "unsubscribe").await;
    has_token(Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_a_query_event() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect(&nats.url()).await;
    let page = |of: &str| json!({ "result": { "collection": [of], "query": "limit=1&start=0" } }).to_string();

    service.says("get.shop.pages", &page("one"));
    // However it is asked for, it is one page.
    assert_eq!(gateway.subscribe("shop.pages?start=0").await, Ok(json!(["one"])));
    assert_eq!(gateway.subscribe("shop.pages").await, Ok(json!(["one"])));
    service.says("shop.query", "");
    service.says("query.shop.1", r#"{"result":{"collection":["two"]}}"#);
    service
        .publish("event.shop.pages.query", r#"{"subject":"query.shop.1"}"#)
        .await;
    gateway.sees("shop.pages", &json!(["two"])).await;
    gateway.sees("shop.pages?start=0", &json!(["two"])).await;
    assert_eq!(service.heard("query.shop.1"), json!({ "query": "limit=1&start=0" }));
    assert_eq!(
        gateway
            .asked()
            .iter()
            .filter(|subject| *subject == "query.shop.1")
            .count(),
        1
    );

    let events = r#"{"result":{"events":[{"event":"remove","data":{"idx":0}},{"event":"add","data":{"idx":0,"value":"three"}}]}}"#;
    service.says("query.shop.2", events);
    service
        .publish("event.shop.pages.query", r#"{"subject":"query.shop.2"}"#)
        .await;
    gateway.sees("shop.pages", &json!(["three"])).await;
    service.says("query.shop.3", r#"{"result":{}}"#);
    service
        .publish("event.shop.pages.query", r#"{"subject":"query.shop.3"}"#)
        .await;
    service.says("get.shop.pages", &page("four"));
    service.publish("system.reset", r#"{"resources":["shop.*"]}"#).await;
    gateway.sees("shop.pages", &json!(["four"])).await;
    service
        .publish("event.shop.pages.query", r#"{"subject":"query.shop.4"}"#)
        .await;
    gateway.tells("shop.pages", "unsubscribe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_take_as_long_as_it_says() {
    let patience = Duration::from_secs(2);
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect_with(&nats.url(), patience).await;
    let client = service.client.clone();
    let mut slow = client.subscribe("get.slow").await.unwrap();
    let mut access = client.subscribe("access.slow").await.unwrap();
    settle(&client).await;
    let answering = tokio::spawn(async move {
        let asked = access.next().await.unwrap().reply.unwrap();
        client
            .publish(asked, r#"{"result":{"get":true}}"#.into())
            .await
            .unwrap();
        let asked = slow.next().await.unwrap().reply.unwrap();
        client
            .publish(asked.clone(), r#"timeout:"600000""#.into())
            .await
            .unwrap();
        // Longer than it would be waited for.
        tokio::time::sleep(patience + Duration::from_millis(500)).await;
        client
            .publish(asked, r#"{"result":{"model":{"n":1}}}"#.into())
            .await
            .unwrap();
        // And then nothing any more.
        slow.next().await.unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(gateway.subscribe("slow").await, Ok(json!({ "n": 1 })));
    service.publish("system.reset", r#"{"resources":["slow"]}"#).await;
    gateway.catches("get.slow: no answer in time").await;
    gateway.catches("slow stays as it was").await;
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_answer_is_discarded_even_if_the_answer_lacks_it() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect(&nats.url()).await;
    let client = service.client.clone();
    let mut gets = client.subscribe("get.race").await.unwrap();
    let mut access = client.subscribe("access.race").await.unwrap();
    settle(&client).await;
    let answering = tokio::spawn(async move {
        let asked = access.next().await.unwrap().reply.unwrap();
        client
            .publish(asked, r#"{"result":{"get":true}}"#.into())
            .await
            .unwrap();
        let asked = gets.next().await.unwrap().reply.unwrap();
        // A snapshot that was taken, then an event, then the snapshot: the mistake that nobody sees.
        client
            .publish("event.race.change", r#"{"values":{"n":1}}"#.into())
            .await
            .unwrap();
        client
            .publish(asked, r#"{"result":{"model":{"n":0}}}"#.into())
            .await
            .unwrap();
        client
            .publish("event.race.change", r#"{"values":{"m":1}}"#.into())
            .await
            .unwrap();
    });
    gateway.subscribe("race").await.unwrap();
    gateway.sees("race", &json!({ "n": 0, "m": 1 })).await;
    assert_eq!(gateway.discarded(), 1);
    answering.await.unwrap();
}

proptest::proptest! {
    #[test]
    fn a_reset_leads_from_any_list_to_any_other(before: Vec<u8>, after: Vec<u8>) {
        let list = |of: &[u8]| of.iter().map(|value| Value::from(value % 8)).collect::<Vec<Value>>();
        let mut replica = Resource::Collection(list(&before));
        for (event, data) in difference(&list(&before), &list(&after)) {
            if event == "add" {
                replica.add(&data["idx"], &data["value"]).unwrap();
            } else {
                replica.remove(&data["idx"]).unwrap();
            }
        }
        proptest::prop_assert_eq!(replica, Resource::Collection(list(&after)));
    }
}

/// One way to misbehave, and the violation that it is.
async fn misbehaves<F: Future<Output = ()>>(
    url: &str,
    act: impl FnOnce(Arc<Service>, Arc<Gateway>) -> F,
    expect: &str,
) {
    let service = Arc::new(Service::start(url).await);
    let gateway = Arc::new(Gateway::connect(url).await);
    act(service.clone(), gateway.clone()).await;
    gateway.catches(expect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_that_breaks_a_rule_is_caught() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let check = async |subject: &'static str, answer: &'static str, expect: &str| {
        let act = async |service: Arc<Service>, gateway: Arc<Gateway>| {
            service.says(subject, answer);
            let rid = subject.split_once('.').unwrap().1;
            let _ = gateway.subscribe(rid).await;
        };
        misbehaves(&nats.url(), act, expect).await;
    };
    check("get.shop.a", "null", "does not start with a brace").await;
    check("get.shop.a", "", "does not start with a brace").await;
    check("get.shop.a", "timeout:5", "does not start with a brace").await;
    check("get.shop.a", "{}", "not one of result").await;
    check(
        "get.shop.a",
        r#"{"result":{"model":{}},"error":{}}"#,
        "not one of result",
    )
    .await;
    check("get.shop.a", r#"{"resource":{"rid":"shop.b"}}"#, "with a resource").await;
    check("get.shop.a", r#"{"result":null}"#, "neither a model nor").await;
    check(
        "get.shop.a",
        r#"{"result":{"model":{"items":[]}}}"#,
        "not wrapped as data",
    )
    .await;
    check(
        "get.shop.a",
        r#"{"result":{"model":{"item":{"sku":"A"}}}}"#,
        "not wrapped as data",
    )
    .await;
    check(
        "get.shop.a",
        "{\"result\":{\"model\":{}}}\n{\"result\":{\"model\":{}}}",
        "a second answer",
    )
    .await;
    check(
        "get.shop.list",
        r#"{"result":{"collection":[{"rid":"shop.missing"}]}}"#,
        "it is referenced",
    )
    .await;
    check("access.shop.a", r#"{"result":{"get":"yes"}}"#, "says something else").await;

    let without_query = async |service: Arc<Service>, gateway: Arc<Gateway>| {
        service.says("get.shop.pages", r#"{"result":{"collection":[]}}"#);
        gateway.subscribe("shop.pages?limit=5").await.unwrap();
    };
    misbehaves(&nats.url(), without_query, "answered without one").await;
    let sometimes = async |service: Arc<Service>, gateway: Arc<Gateway>| {
        service.says("get.shop.pages", r#"{"result":{"collection":[],"query":"limit=5"}}"#);
        gateway.subscribe("shop.pages").await.unwrap();
        gateway.forget("shop.pages").await;
        service.says("get.shop.pages", r#"{"result":{"collection":[]}}"#);
        gateway.subscribe("shop.pages").await.unwrap();
    };
    misbehaves(&nats.url(), sometimes, "at one time and without").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_that_breaks_a_rule_is_caught() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let check = async |subject: &'static str, payload: &'static str, expect: &str| {
        let act = async |service: Arc<Service>, gateway: Arc<Gateway>| {
            service.says("get.shop.pages", r#"{"result":{"collection":[],"query":"limit=5"}}"#);
            service.says(
                "query.shop.bad",
                r#"{"error":{"code":"system.internalError","message":"no"}}"#,
            );
            service.says("query.shop.odd", r#"{"result":{"collection":[[]]}}"#);
            service.says(
                "query.shop.far",
                r#"{"result":{"events":[{"event":"remove","data":{"idx":0}}]}}"#,
            );
            gateway.subscribe("shop.list").await.unwrap();
            gateway.subscribe("shop.pages").await.unwrap();
            service.publish(subject, payload).await;
        };
        misbehaves(&nats.url(), act, expect).await;
    };
    check("event.shop.a.change", r#"{"values":{"n":2},"rev":7}"#, "not exactly").await;
    check("event.shop.a.change", r#"{"n":2}"#, "not exactly").await;
    check("event.shop.a.change", r#"{"values":[]}"#, "no object").await;
    check(
        "event.shop.a.change",
        r#"{"values":{"items":[]}}"#,
        "not wrapped as data",
    )
    .await;
    check("event.shop.list.change", r#"{"values":{"n":2}}"#, "no model").await;
    check("event.shop.list.add", r#"{"idx":3,"value":1}"#, "index 3").await;
    check("event.shop.list.add", r#"{"value":1}"#, "not exactly").await;
    check(
        "event.shop.list.add",
        r#"{"idx":0,"value":{"sku":"A"}}"#,
        "not wrapped as data",
    )
    .await;
    check(
        "event.shop.list.add",
        r#"{"idx":0,"value":{"rid":"shop.missing"}}"#,
        "it is referenced",
    )
    .await;
    check("event.shop.list.remove", r#"{"idx":2}"#, "index 2").await;
    check("event.shop.a.remove", r#"{"idx":0}"#, "no collection").await;
    check("event.shop.a.delete", "{}", "a payload").await;
    check("event.shop.a.reaccess", "{}", "a payload").await;
    check("event.shop.a.patch", "{}", "may have that name").await;
    check("event.shop.a.update", "text", "no JSON").await;
    check("event.shop.a.query", r#"{"subject":"query.shop.1"}"#, "have no query").await;
    check(
        "event.shop.pages.add",
        r#"{"idx":0,"value":1}"#,
        "no client of a query resource hears it",
    )
    .await;
    check("event.shop.pages.reaccess", "", "is asked about").await;
    check("event.shop.pages.query", "{}", "not exactly").await;
    check("event.shop.pages.query", r#"{"subject":5}"#, "the subject is 5").await;
    check("event.shop.pages.query", r#"{"subject":"nobody.here"}"#, "out of date").await;
    check(
        "event.shop.pages.query",
        r#"{"subject":"query.shop.bad"}"#,
        "out of date",
    )
    .await;
    check(
        "event.shop.pages.query",
        r#"{"subject":"query.shop.odd"}"#,
        "not wrapped as data",
    )
    .await;
    check(
        "event.shop.pages.query",
        r#"{"subject":"query.shop.far"}"#,
        "index 0 is none of 0",
    )
    .await;
    check("system.reset", r#"{"resources":"shop.>"}"#, "resources").await;
    check("system.reset", r#"{"resource":["shop.>"]}"#, "nobody knows").await;
    check("system.restart", "", "no such subject").await;
    check("system.tokenReset", "{}", "not exactly").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_while_nobody_answers_deletes_what_clients_see() {
    let folder = TempDir::new().unwrap();
    let nats = nats(&folder).await;
    let service = Service::start(&nats.url()).await;
    let gateway = Gateway::connect(&nats.url()).await;
    gateway.subscribe("shop.a").await.unwrap();
    let client = service.client.clone();
    drop(service);
    crate::support::wait_for("nobody to answer", async || {
        client.request("get.shop.a", "{}".into()).await.is_err().then_some(())
    })
    .await;
    client
        .publish("system.reset", r#"{"resources":["shop.>"]}"#.into())
        .await
        .unwrap();
    gateway.tells("shop.a", "delete").await;
    let reason = gateway.tells("shop.a", "unsubscribe").await;
    assert_eq!(reason["reason"]["code"], "system.deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_through_resgate_what_the_service_says() {
    let stack = Stack::start().await;
    let Some(mut resgate) = Resgate::start(&stack).await else {
        return;
    };
    let service = Service::start(&stack.nats.url()).await;
    let browser = ResClient::connect(&resgate.url()).await;
    browser.expect_ends();
    assert_eq!(
        browser.subscribe("shop.list").await,
        Ok(json!([{ "n": 1, "items": [] }, { "n": 2 }]))
    );
    shop_for_a_while(&service, async |expected| browser.sees("shop.list", &expected).await).await;
    assert_eq!(browser.hears("shop.list", "update").await, json!({ "raw": [1] }));
    catch_up(&service);

    // Another one sees the same, over HTTP too.
    let other = ResClient::connect_with(&resgate.url(), &[("Origin", "http://127.0.0.1"), ("Cookie", "a=b")])
        .await
        .unwrap();
    let expected = json!([{ "n": 3 }, { "n": 5, "items": ["x"] }]);
    assert_eq!(other.get("shop.list").await, Ok(expected.clone()));
    assert_eq!(other.tree("shop.list"), None);
    assert_eq!(other.subscribe("shop.list").await, Ok(expected));
    let answer = reqwest::get(format!("{}/shop/a", resgate.api_url())).await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "n": 5, "items": ["x"] }));

    service.says("call.shop.a.flag", r#"{"result":{"ok":true}}"#);
    service.says("call.shop.a.show", r#"{"resource":{"rid":"shop.d"}}"#);
    service.says("get.shop.d", r#"{"result":{"model":{"n":4}}}"#);
    assert_eq!(other.call("shop.a", "flag", json!({})).await, Ok(json!({ "ok": true })));
    assert_eq!(other.call("shop.a", "show", json!({})).await, Ok(json!("shop.d")));
    assert_eq!(other.tree("shop.d"), Some(json!({ "n": 4 })));
    service.says("auth.shop.jwt", r#"{"result":{"exp":1}}"#);
    assert_eq!(
        other.auth("shop", "jwt", json!({ "jwt": "x" })).await,
        Ok(json!({ "exp": 1 }))
    );
    assert_eq!(
        other.subscribe("shop.nothing").await.unwrap_err()["code"],
        "system.notFound"
    );

    other.unsubscribe("shop.d").await.unwrap();
    assert_eq!(other.tree("shop.d"), None);
    assert_eq!(
        other.unsubscribe("shop.d").await.unwrap_err()["code"],
        "system.noSubscription"
    );
    service.says("access.shop.list", r#"{"result":{"get":false}}"#);
    service.publish("event.shop.list.reaccess", "").await;
    other.hears("shop.list", "unsubscribe").await;
    assert_eq!(other.lost("shop.list").as_deref(), Some("system.accessDenied"));
    assert_eq!(other.tree("shop.list"), None);

    assert!(browser.frames().len() > 8 && browser.faults().is_empty());
    resgate.kill().await;
    crate::support::wait_for("the end of the connection", async || browser.is_closed().then_some(())).await;
    assert_eq!(browser.get("shop.a").await.unwrap_err()["code"], "test.closed");
    resgate.restart().await;
    ResClient::connect(&resgate.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resgate_complains_and_the_test_knows() {
    let mut stack = Stack::start().await;
    let Some(mut resgate) = Resgate::start_with(&stack, |options| options.debug = true).await else {
        return;
    };
    let service = Service::start(&stack.nats.url()).await;
    let browser = ResClient::connect(&resgate.url()).await;
    browser.subscribe("shop.list").await.unwrap();
    service.publish("event.shop.list.remove", r#"{"idx":7}"#).await;
    service.publish("event.shop.list.done", "").await;
    browser.hears("shop.list", "done").await;
    assert_eq!(resgate.complaints().len(), 1, "{}", resgate.log());
    resgate.tolerate("remove");
    assert_eq!(resgate.complaints(), Vec::<String>::new());

    stack.nats.kill().await;
    assert_eq!(resgate.loses_nats().await.code(), Some(1));
}
