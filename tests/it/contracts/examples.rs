//! The examples of the documents, sent to a service of their own from the first to the last and compared with what it answers.
//!
//! An answer's example is that of the request's example of the same name: of the body, and of each
//! parameter that has one of that name. A parameter with a single example takes it always.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use ezout::core::event::{ABANDONMENT_TYPE, CORRECTION_TYPE};
use ezout::http::contracts::{ASYNCAPI, OPENAPI};
use futures::StreamExt as _;
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{check, operations};
use crate::live::viewer::Viewer;
use crate::support::{Service, Stack, event, session, wait_for};

/// Fields that are the time of the test's run.
const TIMES: [&str; 4] = ["recorded_at", "updated_at", "stale_since", "created_at"];
/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_secs(30);
const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
/// Events that the examples record.
const EVENTS: u64 = 5;

/// An answer's example.
pub struct Example {
    pub name: String,
    pub status: u16,
    media: String,
    value: Value,
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => resolved(OPENAPI.pointer(reference.trim_start_matches('#')).unwrap()),
        None => value,
    }
}

fn fields(value: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    value.as_object().into_iter().flatten()
}

/// The examples of what an operation answers.
pub fn of(operation: &'static Value) -> Vec<Example> {
    let mut examples = Vec::new();
    for (status, response) in fields(&operation["responses"]) {
        for (media, content) in fields(&resolved(response)["content"]) {
            for (name, example) in fields(&content["examples"]) {
                examples.push(Example {
                    name: name.clone(),
                    status: status.parse().unwrap(),
                    media: media.clone(),
                    value: resolved(example)["value"].clone(),
                });
            }
        }
    }
    examples
}

fn parameters(operation: &'static Value) -> impl Iterator<Item = &'static Value> {
    operation["parameters"].as_array().into_iter().flatten().map(resolved)
}

/// The names of the examples of what is sent.
pub fn sent(operation: &'static Value) -> BTreeSet<String> {
    let bodies = fields(&operation["requestBody"]["content"]).map(|(_, content)| content);
    parameters(operation)
        .chain(bodies)
        .flat_map(|part| fields(&part["examples"]))
        .map(|(name, _)| name.clone())
        .collect()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Sends the request of this name.
async fn send(base: &str, method: &str, path: &str, operation: &'static Value, example: &Example) -> reqwest::Response {
    let mut path = path.to_owned();
    let mut query = Vec::new();
    let mut headers = Vec::new();
    for parameter in parameters(operation) {
        let value = match &parameter["examples"][&example.name] {
            Value::Null => &parameter["example"],
            named => &resolved(named)["value"],
        };
        let (name, value) = (parameter["name"].as_str().unwrap(), value);
        if value.is_null() {
            continue;
        }
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace(&format!("{{{name}}}"), &shown(value)),
            "query" => query.push((name, shown(value))),
            _ => headers.push((name, shown(value))),
        }
    }
    let url = Url::parse_with_params(&format!("{base}{path}"), query).unwrap();
    let mut request = Client::new()
        .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
        .header("accept", &example.media);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    for (media, content) in fields(&operation["requestBody"]["content"]) {
        if let Some(body) = content["examples"].get(&example.name) {
            request = request
                .header("content-type", media)
                .body(shown(&resolved(body)["value"]));
        }
    }
    request.send().await.unwrap()
}

/// Whether an answer is the one of the example, times of the run aside.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected.iter().all(|(name, expected)| {
                    let Some(found) = found.get(name) else { return false };
                    let times = || is_time(expected) && is_time(found);
                    (TIMES.contains(&name.as_str()) && times()) || same(expected, found)
                })
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .zip(found)
                    .all(|(expected, found)| same(expected, found))
        }
        _ => expected == found,
    }
}

fn is_time(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| OffsetDateTime::parse(text, &Rfc3339).is_ok())
}

fn assert_same(expected: &Value, found: &Value, what: &str) {
    // The name of a request is that of no example.
    let mut found = found.clone();
    if let (None, Some(fields)) = (expected.get("request_id"), found.as_object_mut()) {
        fields.remove("request_id");
    }
    let found = &found;
    assert!(
        same(expected, found),
        "{what} is documented as\n{expected}\nand is\n{found}"
    );
}

/// A body as the documents show it.
fn read(media: &str, body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).unwrap();
    match media {
        "application/x-ndjson" => text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect(),
        json if json.ends_with("json") => serde_json::from_str(text).unwrap(),
        _ => json!(text),
    }
}

#[tokio::test]
async fn every_example_is_what_is_sent_and_answered() {
    // The examples tell sequences of one stream.
    let stack = Stack::start_spread(1).await;
    let environment = [("EZOUT_LOG", "warn")];
    let mut service = stack.service_with("serve", &environment).await;
    let client = stack.nats_client().await;
    let mut updates = client.subscribe(format!("updates.store.{SHOP}")).await.unwrap();
    client.flush().await.unwrap();

    for (method, path, operation) in operations() {
        let is_here = OPENAPI["paths"][path]["servers"].is_null();
        let base = if is_here {
            service.http_url()
        } else {
            service.admin_url()
        };
        for example in of(operation) {
            // The documents look at what they have sent.
            all_is_projected(&stack, &service).await;
            let what = format!("the answer {} to {method} {path}", example.name);
            let response = send(&base, &method, path, operation, &example).await;
            let (status, body) = check::answer(&method, response).await;
            assert_eq!(status, example.status, "{what}: {}", String::from_utf8_lossy(&body));
            let expected = read(&example.media, shown(&example.value).as_bytes());
            assert_same(&expected, &read(&example.media, &body), &what);
        }
    }

    let mut told: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    told.insert("RepublishedUpdate", received(&mut updates, EVENTS).await);
    let journal = &stack.lane_of(SHOP).name();
    told.insert("Event", stored(&stack, journal, ("journal", "event"), 1..=EVENTS).await);
    stored(&stack, "UPDATES", ("storedUpdates", "update"), 1..=EVENTS).await;
    many_at_once(&stack, &service).await;
    view(&mut service, &mut told).await;

    for (name, message) in fields(&ASYNCAPI["components"]["messages"]) {
        for example in message["examples"].as_array().into_iter().flatten() {
            let found = told.get(name.as_str()).into_iter().flatten();
            let matches = found.clone().any(|payload| same(&example["payload"], payload));
            assert!(
                matches,
                "{name} is documented as\n{}\nand was\n{}",
                example["payload"],
                found.map(Value::to_string).collect::<Vec<_>>().join("\n")
            );
        }
    }
}

/// Waits until the answers are true at the last event of the journal.
async fn all_is_projected(stack: &Stack, service: &Service) {
    let url = format!("{}/v1/shops/{SHOP}/summary", service.http_url());
    let recorded = stack.recorded().await;
    let last = recorded.last().map_or(0, |(sequence, _)| *sequence);
    wait_for("the last event of the examples", async || {
        let (_, summary) = check::json_of(&url).await;
        (summary["sequence"] == last).then_some(())
    })
    .await;
}

/// So many updates as a subscriber receives them.
async fn received(updates: &mut async_nats::Subscriber, count: u64) -> Vec<Value> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        let message = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap();
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        check::message("updates", "update", &payload, message.headers.as_ref());
        payloads.push(payload);
    }
    payloads
}

/// The messages at these places of a stream.
async fn stored(stack: &Stack, stream: &str, (channel, name): (&str, &str), places: RangeInclusive<u64>) -> Vec<Value> {
    let stream = stack.jetstream().await.get_stream(stream).await.unwrap();
    let mut payloads = Vec::new();
    for place in places {
        let message = stream.get_raw_message(place).await.unwrap();
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        // What is no action says so.
        let name = match message.headers.get("ce-type").map(async_nats::HeaderValue::as_str) {
            Some(ABANDONMENT_TYPE) => "abandonment",
            Some(CORRECTION_TYPE) => "correction",
            _ => name,
        };
        check::message(channel, name, &payload, Some(&message.headers));
        payloads.push(payload);
    }
    payloads
}

/// Records as many events at once as go through NATS in batches.
async fn many_at_once(stack: &Stack, service: &Service) {
    const COUNT: u64 = 200;
    let (shop, visited) = (session(), session());
    let client = stack.nats_client().await;
    let mut updates = client.subscribe(format!("updates.store.{shop}")).await.unwrap();
    client.flush().await.unwrap();
    let lines: Vec<String> = (1..=i64::try_from(COUNT).unwrap())
        .map(|id| event(&shop, &visited, id, "ADD", id % 7, 1.25, 0.0).to_string())
        .collect();
    let request = Client::new()
        .post(format!("{}/v1/shops/{shop}/events", service.http_url()))
        .header("content-type", "application/x-ndjson");
    let response = request.body(lines.join("\n")).send().await.unwrap();
    assert_eq!(check::answer("POST", response).await.0, 200);
    received(&mut updates, COUNT).await;
    let mut journal = stack.jetstream().await.get_stream(stack.lane_of(&shop).name()).await;
    let last = journal.as_mut().unwrap().info().await.unwrap().state.last_sequence;
    let lane = &stack.lane_of(&shop).name();
    stored(stack, lane, ("journal", "event"), last - COUNT + 1..=last).await;
    stored(
        stack,
        "UPDATES",
        ("storedUpdates", "update"),
        EVENTS + 1..=EVENTS + COUNT,
    )
    .await;
}

/// Watches the shop as a viewer who comes, comes back, and stays until the service stops.
async fn view(service: &mut Service, told: &mut BTreeMap<&'static str, Vec<Value>>) {
    let names = ["hello", "snapshot", "handlings", "heartbeat"];
    let mut viewer = Viewer::connect(&service.http_url(), SHOP, None).await;
    for name in names {
        let data = viewer.next_of(name).await;
        told.entry(name).or_default().push(data);
    }
    let mut viewer = Viewer::connect(&service.http_url(), SHOP, viewer.last_id).await;
    told.entry("hello").or_default().push(viewer.next_of("hello").await);
    let (bye, _) = tokio::join!(viewer.next_of("bye"), service.stop());
    told.entry("bye").or_default().push(bye);
}
