//! Events over HTTP: receipts, duplicates, conflicts, many at once; their updates, and their baskets.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::contracts::check;
use crate::support::{Stack, configure_journal, session};

const SESSION: &str = "4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";
/// Longest wait for what the pipeline does by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The original service's example, for this shop.
fn example(shop: &str) -> Value {
    json!({
        "session_id": SESSION, "shop_id": shop, "shopper_id": "ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94",
        "action_id": 101, "create_time": "2023-12-18T10:30:00.000Z", "action": "ADD",
        "product_name": "FUJI Apples", "product_id": 500_100, "product_price": 3.50,
        "UPC": "042100005264", "category_id": "fruit", "basket_total": 12.18
    })
}

fn changed(event: &Value, field: &str, value: Value) -> Value {
    let mut event = event.clone();
    event[field] = value;
    event
}

async fn post(url: String, event: &Value) -> Response {
    let response = Client::new().post(url).json(event).send().await.unwrap();
    check::read("POST", response).await
}

async fn post_lines(url: String, lines: &[String]) -> Response {
    let request = Client::new().post(url).header("content-type", "application/x-ndjson");
    let response = request.body(lines.join("\n")).send().await.unwrap();
    check::read("POST", response).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("no header {name}"))
        .to_str()
        .unwrap()
}

fn sequence(response: &Response) -> u64 {
    header(response, "ezout-sequence").parse().unwrap()
}

#[tokio::test]
async fn the_original_example_is_recorded_once_and_another_price_is_a_conflict() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let url = || format!("{}/publish/{shop}", system.http_url());
    let original_answer = format!("{{\"status\":\"Message sent to shop ID {shop}\"}}");

    let first = post(url(), &example(&shop)).await;
    assert_eq!(first.status(), 200);
    assert_eq!(header(&first, "content-type"), "application/json");
    assert_eq!(header(&first, "ezout-duplicate"), "false");
    assert_eq!(header(&first, "ezout-durability"), "disk");
    let place = sequence(&first);
    assert_eq!(first.text().await.unwrap(), original_answer);

    let again = post(url(), &example(&shop)).await;
    assert_eq!(again.status(), 200);
    assert_eq!(header(&again, "ezout-duplicate"), "true");
    assert_eq!(sequence(&again), place);
    assert_eq!(again.text().await.unwrap(), original_answer);

    let dearer = post(url(), &changed(&example(&shop), "product_price", json!(4.25))).await;
    assert_eq!(dearer.status(), 409);
    assert_eq!(header(&dearer, "content-type"), "application/problem+json");
    let problem: Value = dearer.json().await.unwrap();
    assert_eq!(problem["code"], "conflict");
    assert_eq!(problem["sequence"], place);

    let upper = format!("{}/publish/{}", system.http_url(), shop.to_uppercase());
    let again = post(upper, &example(&shop)).await;
    assert_eq!(header(&again, "ezout-duplicate"), "true");
    assert_eq!(again.text().await.unwrap(), original_answer);
}

#[tokio::test]
async fn the_same_number_at_another_time_is_another_event() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let url = || format!("{}/publish/{shop}", system.http_url());
    let first = post(url(), &example(&shop)).await;
    let later = changed(&example(&shop), "create_time", json!("2023-12-18T10:30:01.000Z"));
    let second = post(url(), &later).await;
    assert_eq!(header(&second, "ezout-duplicate"), "false");
    assert!(sequence(&second) > sequence(&first));
}

#[tokio::test]
async fn the_shop_of_a_sent_event_is_its_own() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let sent = post(format!("{}/send", system.http_url()), &example(&shop)).await;
    assert_eq!(sent.status(), 200);
    let place = sequence(&sent);
    assert_eq!(
        sent.text().await.unwrap(),
        format!("{{\"status\":\"Message sent to shop ID {shop}\"}}")
    );
    let published = post(format!("{}/publish/{shop}", system.http_url()), &example(&shop)).await;
    assert_eq!(header(&published, "ezout-duplicate"), "true");
    assert_eq!(sequence(&published), place);
}

#[tokio::test]
async fn v1_answers_with_the_receipt() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let url = || format!("{}/v1/shops/{shop}/events", system.http_url());
    let first = post(url(), &example(&shop)).await;
    assert_eq!(first.status(), 201);
    let first: Value = first.json().await.unwrap();
    assert_eq!(first["duplicate"], false);
    assert_eq!(first["durability"], "disk");
    let again = post(url(), &example(&shop)).await;
    assert_eq!(again.status(), 200);
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["duplicate"], true);
    assert_eq!(again["sequence"], first["sequence"]);
    assert_eq!(again["id"], first["id"]);
}

#[tokio::test]
async fn each_line_has_a_verdict_and_a_bad_one_spoils_no_other() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let event = example(&shop);
    let lines = [
        event.to_string(),
        "nonsense".to_owned(),
        changed(&event, "action_id", json!(102)).to_string(),
        String::new(),
        event.to_string(),
        changed(&event, "product_price", json!(4.25)).to_string(),
        changed(&event, "colour", json!("red")).to_string(),
    ];
    let answer = post_lines(format!("{}/v1/shops/{shop}/events", system.http_url()), &lines).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), "application/x-ndjson");
    let body = answer.text().await.unwrap();
    let verdicts: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = verdicts
        .iter()
        .map(|verdict| (verdict["line"].as_u64().unwrap(), verdict["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            (1, "recorded"),
            (2, "refused"),
            (3, "recorded"),
            (5, "duplicate"),
            (6, "conflict"),
            (7, "refused"),
        ],
        "{body}"
    );
    assert_eq!(verdicts[3]["sequence"], verdicts[0]["sequence"]);
    assert_eq!(verdicts[4]["sequence"], verdicts[0]["sequence"]);
    assert_eq!(verdicts[0]["durability"], "disk");
    assert_eq!(verdicts[5]["errors"][0]["pointer"], "/colour");
}

#[tokio::test]
async fn lines_are_recorded_in_the_order_in_which_they_stand() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let lines: Vec<String> = (1..=1_000)
        .map(|number| changed(&example(&shop), "action_id", json!(number)).to_string())
        .collect();
    let answer = post_lines(format!("{}/v1/shops/{shop}/events", system.http_url()), &lines).await;
    assert_eq!(answer.status(), 200);
    let body = answer.text().await.unwrap();
    let places: Vec<u64> = body
        .lines()
        .map(|line| {
            let verdict: Value = serde_json::from_str(line).unwrap();
            assert_eq!(verdict["status"], "recorded", "{line}");
            verdict["sequence"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(places.len(), 1_000);
    assert!(places.is_sorted_by(|one, next| one < next));
}

#[tokio::test]
async fn nothing_is_recorded_of_what_is_refused() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let url = || format!("{}/publish/{shop}", system.http_url());
    let event = example(&shop);
    for refused in [
        changed(&event, "session_id", json!("*")),
        changed(&event, "product_price", json!(-1)),
        changed(&event, "product_name", json!("x".repeat(64 * 1024))),
        changed(&event, "shop_id", json!("123e4567-e89b-42d3-a456-426614174000")),
    ] {
        let answer = post(url(), &refused).await;
        assert!(answer.status().is_client_error(), "{answer:?}");
        assert_eq!(header(&answer, "content-type"), "application/problem+json");
    }
    let first = post(url(), &event).await;
    let place = sequence(&first);
    let basket = read_basket(&system.http_url(), &shop, place).await;
    assert_eq!(basket["version"], 1, "{basket}");
}

#[tokio::test]
async fn a_plain_subscriber_hears_the_twelve_fields_as_the_original_sent_them() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let client = async_nats::connect(system.nats_url()).await.unwrap();
    let mut updates = client.subscribe(format!("updates.store.{shop}")).await.unwrap();
    client.flush().await.unwrap();
    let sent = post(format!("{}/publish/{shop}", system.http_url()), &example(&shop)).await;
    let place = sequence(&sent);
    let update = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap();
    let text = String::from_utf8(update.payload.to_vec()).unwrap();
    let twelve = format!(
        "{{\"session_id\":\"{SESSION}\",\"shop_id\":\"{shop}\",\"shopper_id\":\"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94\",\"action_id\":101,\"create_time\":\"2023-12-18 10:30:00+00:00\",\"action\":\"ADD\",\"product_name\":\"FUJI Apples\",\"product_id\":500100,\"product_price\":3.5,\"UPC\":\"042100005264\",\"category_id\":\"fruit\",\"basket_total\":12.18,"
    );
    assert!(text.starts_with(&twelve), "{text}");
    let update: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(update["sequence"], place);
    assert_eq!(update["basket"]["item_count"], 1);
    assert_eq!(update["basket"]["total"].to_string(), "3.5");
    assert_eq!(update["basket"]["verdict"], "diverged");
}

fn basket_url(http_url: &str, shop: &str) -> String {
    format!("{http_url}/v1/shops/{shop}/sessions/{SESSION}/basket")
}

async fn read_basket(http_url: &str, shop: &str, min_sequence: u64) -> Value {
    let url = format!("{}?min_sequence={min_sequence}", basket_url(http_url, shop));
    let answer = Client::new().get(url).send().await.unwrap();
    let status = answer.status();
    let basket: Value = answer.json().await.unwrap();
    assert_eq!(status, 200, "{basket}");
    basket
}

#[tokio::test]
async fn a_basket_is_read_as_new_as_a_receipt() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let url = || format!("{}/publish/{shop}", system.http_url());
    let event = changed(&example(&shop), "basket_total", json!(3.5));
    post(url(), &event).await;
    let more = changed(&event, "action_id", json!(102));
    let more = changed(&more, "quantity", json!(2));
    let more = changed(&more, "basket_total", json!(10.500_000_000_000_002));
    let place = sequence(&post(url(), &more).await);

    let basket = read_basket(&system.http_url(), &shop, place).await;
    assert!(basket["sequence"].as_u64().unwrap() >= place);
    assert_eq!(basket["basket_sequence"], place);
    assert_eq!(basket["shop_id"], shop);
    assert_eq!(basket["session_id"], SESSION);
    assert_eq!(basket["status"], "open");
    assert_eq!(basket["item_count"], 3);
    assert_eq!(basket["total"].to_string(), "10.5");
    assert_eq!(basket["claimed_total"].to_string(), "10.5");
    assert_eq!(basket["verdict"], "ok");
    assert_eq!(basket["lines"][0]["product_id"], 500_100);
    assert_eq!(basket["lines"][0]["quantity"], 3);
    assert_eq!(basket["lines"][0]["UPC"], "042100005264");
    assert_eq!(basket["findings"], json!([]));

    let url = basket_url(&system.http_url(), &shop);
    let answer = Client::new().get(&url).send().await.unwrap();
    let tag = header(&answer, "etag").to_owned();
    let answer = Client::new()
        .get(&url)
        .header("if-none-match", tag)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 304);
}

#[tokio::test]
async fn a_basket_that_is_not_new_enough_in_time_is_shown_as_it_is() {
    let system = crate::support::system().await;
    let shop = system.shop();
    let sent = post(format!("{}/publish/{shop}", system.http_url()), &example(&shop)).await;
    let place = sequence(&sent);
    read_basket(&system.http_url(), &shop, place).await;
    let url = format!("{}?min_sequence={}", basket_url(&system.http_url(), &shop), u64::MAX);
    let answer = Client::new().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert_eq!(header(&answer, "retry-after"), "1");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "not_yet");
    assert!(problem["sequence"].as_u64().unwrap() >= place);
    assert_eq!(problem["basket"]["basket_sequence"], place);
}

#[tokio::test]
async fn a_session_without_events_has_no_basket() {
    let system = crate::support::system().await;
    let url = basket_url(&system.http_url(), &system.shop());
    let answer = Client::new().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "not_found");
    assert!(problem["sequence"].is_u64());
}

#[tokio::test]
async fn the_process_is_ready_and_counts_what_it_does() {
    let system = crate::support::system().await;
    let shop = system.shop();
    post(format!("{}/publish/{shop}", system.http_url()), &example(&shop)).await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", system.admin_url())).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/livez").await.0, 200);
    let (status, readiness) = get("/readyz").await;
    assert_eq!(status, 200, "{readiness}");
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200);
    let recorded = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ezout_received_events_total{outcome=\"recorded\"} "))
        .unwrap();
    assert!(recorded.parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn an_api_without_room_for_events_says_so_and_is_not_ready_until_one_is_recorded() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let context = stack.jetstream().await;
    let shop = session();
    let answer = post(format!("{}/publish/{shop}", api.http_url()), &example(&shop)).await;
    assert_eq!(answer.status(), 200);
    configure_journal(&context, stack.spread, |config| config.max_bytes = 1).await;

    let other = changed(&example(&shop), "action_id", json!(102));
    let answer = post(format!("{}/publish/{shop}", api.http_url()), &other).await;
    assert_eq!(answer.status(), 507);
    assert_eq!(answer.headers()["retry-after"], "30");
    let told = api.readiness().await.unwrap();
    assert_eq!(told["ready"], false, "{told}");
    let reason = told["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("journal: the journal stores nothing"), "{told}");
    // What is there needs no room, and is no sign of any.
    let answer = post(format!("{}/publish/{shop}", api.http_url()), &example(&shop)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(api.readiness().await.unwrap()["ready"], false);

    configure_journal(&context, stack.spread, |config| config.max_bytes = -1).await;
    let answer = post(format!("{}/publish/{shop}", api.http_url()), &other).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(api.readiness().await.unwrap()["ready"], true);
}
