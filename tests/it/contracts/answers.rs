//! Every answer that is documented is given, and fits: those that have no example, and those in an outage.

use std::collections::BTreeSet;

use ezout::core::policy::{Role, Verb};
use ezout::http::{Door, doors};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use super::{check, examples, operations};
use crate::readme;
use crate::support::{Service, Stack, event, printed, session, wait_for};

/// Answers of POST that a request of a test does not get: the body comes too slowly or is cut off, the journal is
/// full, or something is wrong with us. The unit tests of `src/http` and the tests of the journal have them.
const ELSEWHERE: [&str; 4] = ["400", "408", "500", "507"];

/// Methods that send a body.
const SENDING: [&str; 3] = ["POST", "PUT", "DELETE"];
/// An id that no correction has.
const CORRECTION: &str = "00000000-0000-4000-8000-000000000000";

type Seen = BTreeSet<(String, &'static str, u16)>;

async fn note(seen: &mut Seen, method: &str, response: Response) -> u16 {
    let path = check::template(response.url().path());
    let (status, _) = check::answer(method, response).await;
    seen.insert((method.to_owned(), path, status));
    status
}

async fn get(seen: &mut Seen, url: &str) -> u16 {
    note(seen, "GET", reqwest::get(url).await.unwrap()).await
}

async fn post(seen: &mut Seen, url: &str, media: &str, body: impl Into<reqwest::Body>) -> u16 {
    let request = Client::new().post(url).header("content-type", media);
    note(seen, "POST", request.body(body).send().await.unwrap()).await
}

/// The paths that reads of a shop and of a visit have.
fn reads(shop: &str, visited: &str) -> Vec<String> {
    let reads = operations()
        .into_iter()
        .filter(|(method, path, _)| method == "GET" && path.starts_with("/v1/"));
    reads
        .map(|(_, path, _)| {
            let path = path.replace("{shop}", shop).replace("{session}", visited);
            path.replace("{correction}", CORRECTION)
        })
        .collect()
}

#[tokio::test]
async fn every_documented_answer_is_given_and_fits() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &[("EZOUT_VIEWERS", "1")]).await;
    let (shop, visited) = (session(), session());
    let (http, admin) = (service.http_url(), service.admin_url());
    let mut seen = Seen::new();

    for (_, path, operation) in operations() {
        for example in examples::of(operation) {
            let method = if operation["requestBody"].is_null() {
                "GET"
            } else {
                "POST"
            };
            seen.insert((method.to_owned(), path, example.status));
        }
    }
    about(&mut seen, &http).await;
    get(&mut seen, &format!("{admin}/metrics")).await;

    events(&mut seen, &http, &shop, &visited).await;
    service.basket(&shop, &visited, 1).await;
    corrections(&mut seen, &http, &shop, &visited).await;
    readme::park(&stack).await;
    page(&mut seen, &http, &shop, &visited).await;
    for path in reads(&shop, &visited) {
        assert_eq!(get(&mut seen, &format!("{http}{path}?colour=red")).await, 400);
    }
    for path in reads("shop", &visited).into_iter().chain(reads(&shop, "session")) {
        if path.contains("/shop/") || path.ends_with("/shop") || path.contains("/session/") {
            assert_eq!(get(&mut seen, &format!("{http}{path}")).await, 422, "{path}");
        }
    }
    for path in reads(&shop, &session())
        .iter()
        .filter(|path| path.contains("/sessions/"))
    {
        assert_eq!(get(&mut seen, &format!("{http}{path}")).await, 404, "{path}");
    }
    let basket = format!("{http}/v1/shops/{shop}/sessions/{visited}/basket");
    let known = Client::new()
        .get(basket)
        .header("if-none-match", "*")
        .send()
        .await
        .unwrap();
    assert_eq!(note(&mut seen, "GET", known).await, 304);
    let replay = format!("{http}/v1/shops/{shop}/sessions/{visited}/events?speed=1000");
    let replay = Client::new().get(replay).header("accept", "text/event-stream");
    assert_eq!(note(&mut seen, "GET", replay.send().await.unwrap()).await, 200);

    let updates = format!("{http}/v1/shops/{shop}/updates");
    let viewer = reqwest::get(&updates).await.unwrap();
    assert_eq!(viewer.status(), 200);
    seen.insert(("GET".to_owned(), check::template(viewer.url().path()), 200));
    assert_eq!(get(&mut seen, &updates).await, 503);

    refusals(&mut seen, &stack, &shop, &visited).await;

    outage(&mut seen, stack, &http, &shop, &visited).await;
    get(&mut seen, &format!("{admin}/readyz")).await;

    for (method, path, operation) in operations() {
        for status in operation["responses"].as_object().unwrap().keys() {
            let sends = SENDING.contains(&method.as_str());
            let elsewhere = ELSEWHERE.contains(&status.as_str()) && (sends || status == "500");
            // Nothing is away that this needs but who may do what; the tests of access have it.
            let elsewhere = elsewhere || (path.ends_with("/seen") && status == "503");
            let given = seen.contains(&(method.clone(), path, status.parse().unwrap()));
            assert!(given || elsewhere, "no test is answered {status} by {method} {path}");
        }
    }
}

/// What is answered to whoever has no token, one of a role that does not do that, and one of another shop.
async fn refusals(seen: &mut Seen, stack: &Stack, shop: &str, visited: &str) {
    let keys = stack.folder().join("keys").display().to_string();
    let keys = [("EZOUT_AUTH", "dev"), ("EZOUT_AUTH_DEV_KEYS", &*keys)];
    let service = stack.service_with("api", &keys).await;
    let other_shop = session();
    let mut tokens = Vec::new();
    for role in Role::ALL {
        let arguments = ["token", "--role", role.word(), "--shop", shop];
        let token = stack.ezout_with(&arguments, &keys).await;
        tokens.push((role, printed(&token).trim().to_owned()));
    }
    let token = |verb: Verb, may: bool| {
        let of_role = tokens.iter().find(|(role, _)| role.may(verb) == may);
        of_role.map(|(_, token)| token.as_str()).unwrap()
    };
    let ask = async |method: &Method, path: &str, shop: &str, token: Option<&str>| {
        let path = path.replace("{shop}", shop).replace("{shop_id}", shop);
        let path = path.replace("{session}", visited).replace("{correction}", CORRECTION);
        ask(&service, method, &path, shop, visited, token).await
    };
    // Who may look is known once members and revocations were read.
    wait_for("the rights to be known", async || {
        let looks = Some(token(Verb::Look, true));
        let answer = ask(&Method::GET, "/v1/shops/{shop}/summary", shop, looks).await;
        answer.status().is_success().then_some(())
    })
    .await;

    // With a key pair of this machine there are tokens.
    for (wish, status) in [
        (json!({ "role": "merchant", "shop": "*", "name": "Mia" }), 200),
        (json!({ "role": "owner", "shop": "*", "name": "Mia" }), 422),
    ] {
        let answer = send(&service.http_url(), "POST", "/dev/token", Some(wish)).await;
        assert_eq!(note(seen, "POST", answer).await, status);
    }
    let url = format!("{}/dev/token", service.http_url());
    assert_eq!(post(seen, &url, "text/plain", "x").await, 415);
    assert_eq!(post(seen, &url, "application/json", " ".repeat(17 * 1024)).await, 413);
    for (method, path, door) in doors() {
        let verb = match door {
            Door::Shop(verb) | Door::Body(verb) | Door::System(verb) => verb,
            Door::Known => {
                let answer = ask(&method, &path, shop, None).await;
                assert_eq!(note(seen, method.as_str(), answer).await, 401, "{method} {path}");
                continue;
            }
            Door::Open => continue,
        };
        for (shop, token, status) in [
            (shop, None, 401),
            (shop, Some("a.b.c"), 401),
            (&*other_shop, None, 401),
            (&*other_shop, Some(token(verb, true)), 404),
        ] {
            let answer = ask(&method, &path, shop, token).await;
            assert_eq!(
                note(seen, method.as_str(), answer).await,
                status,
                "{method} {path} {token:?}"
            );
        }
        let answer = ask(&method, &path, shop, Some(token(verb, false))).await;
        assert_eq!(note(seen, method.as_str(), answer).await, 403, "{method} {path}");
    }
    limited(seen, stack, keys, shop, visited, token(Verb::Append, true)).await;
}

/// What is answered to whoever asks too often, and about metrics to whoever has no token for them.
async fn limited(seen: &mut Seen, stack: &Stack, keys: [(&str, &str); 2], shop: &str, visited: &str, token: &str) {
    let options = [
        keys[0],
        keys[1],
        ("EZOUT_RATE_CALLER", "1"),
        ("EZOUT_ADMIN_TOKEN", "secret"),
    ];
    let service = stack.service_with("api", &options).await;
    let metrics = format!("{}/metrics", service.admin_url());
    assert_eq!(get(seen, &metrics).await, 401);
    for (method, path, door) in doors() {
        if door == Door::Open {
            continue;
        }
        let path = path.replace("{shop}", shop).replace("{shop_id}", shop);
        let path = path.replace("{session}", visited).replace("{correction}", CORRECTION);
        wait_for("a caller to be too fast", async || {
            let answer = ask(&service, &method, &path, shop, visited, Some(token)).await;
            if answer.status() != 429 {
                return None;
            }
            note(seen, method.as_str(), answer).await;
            Some(())
        })
        .await;
    }
}

async fn ask(
    service: &Service,
    method: &Method,
    path: &str,
    shop: &str,
    visited: &str,
    token: Option<&str>,
) -> Response {
    let mut request = Client::new().request(method.clone(), format!("{}{path}", service.http_url()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if *method == Method::POST {
        request = request.json(&event(shop, visited, 20, "ADD", 1, 1.0, 1.0));
    }
    request.send().await.unwrap()
}

/// What is answered to events that are sent again, that are others, and that are none.
async fn events(seen: &mut Seen, http: &str, shop: &str, visited: &str) {
    let event = |price: f64| event(shop, visited, 1, "ADD", 1, price, 1.0);
    for path in [
        "/send",
        &format!("/publish/{shop}"),
        &format!("/v1/shops/{shop}/events"),
    ] {
        let url = &format!("{http}{path}");
        let json = "application/json";
        assert!(post(seen, url, json, event(1.0).to_string()).await < 300);
        assert_eq!(post(seen, url, json, event(2.0).to_string()).await, 409);
        assert_eq!(post(seen, url, json, "[]").await, 422);
        assert_eq!(post(seen, url, json, " ".repeat(17 * 1024)).await, 413);
        assert_eq!(post(seen, url, "text/plain", "ADD").await, 415);
        // Text of a number where a number should be.
        let mut lax = event(1.0);
        lax["action_id"] = json!("1");
        let strict = path.starts_with("/v1");
        assert_eq!(
            post(seen, url, json, lax.to_string()).await,
            if strict { 422 } else { 200 }
        );
    }
    let lines = format!("{}\n\nno event\n", event(3.0));
    let url = format!("{http}/v1/shops/{shop}/events");
    assert_eq!(post(seen, &url, "application/x-ndjson", lines).await, 200);
    assert_eq!(post(seen, &url, "application/x-ndjson", "x\n".repeat(1_001)).await, 413);
    let elsewhere = format!("{http}/publish/{}", session());
    assert_eq!(
        post(seen, &elsewhere, "application/json", event(1.0).to_string()).await,
        422
    );
}

/// What the service says about itself, and the files of its page.
async fn about(seen: &mut Seen, http: &str) {
    for path in [
        "/",
        "/sign-in",
        "/shops/any",
        "/operations",
        "/app.js",
        "/app.css",
        "/icon.svg",
        "/assets/firebase.js",
        "/assets/other",
        "/config.json",
        "/docs",
        "/docs/page.js",
        "/docs/other",
        "/openapi.json",
        "/asyncapi.json",
        "/problems/other",
    ] {
        get(seen, &format!("{http}{path}")).await;
    }
    for path in [
        "/",
        "/sign-in",
        "/shops/any",
        "/operations",
        "/app.js",
        "/app.css",
        "/icon.svg",
        "/assets/firebase.js",
    ] {
        let known = Client::new().get(format!("{http}{path}")).header("if-none-match", "*");
        assert_eq!(note(seen, "GET", known.send().await.unwrap()).await, 304, "{path}");
    }
}

/// What is answered while MongoDB is away, and then NATS as well.
async fn outage(seen: &mut Seen, stack: Stack, http: &str, shop: &str, visited: &str) {
    stack.mongod.stop().await;
    for path in reads(shop, visited).iter().filter(|path| !path.ends_with("/updates")) {
        assert_eq!(get(seen, &format!("{http}{path}")).await, 503, "{path}");
    }
    for (method, path, body) in changes(shop, visited) {
        let status = note(seen, method, send(http, method, &path, body).await).await;
        // What a page shows has nothing to do with MongoDB.
        let expected = if path.ends_with("/seen") { 204 } else { 503 };
        assert_eq!(status, expected, "{method} {path}");
    }
    stack.nats.stop().await;
    let corrections = format!("{http}/v1/shops/{shop}/sessions/{visited}/corrections");
    let wish = r#"{"author":"Ada","reason":"a test","remove":{"product_id":1}}"#;
    assert_eq!(post(seen, &corrections, "application/json", wish).await, 503);
    for path in [
        "/send",
        &format!("/publish/{shop}"),
        &format!("/v1/shops/{shop}/events"),
    ] {
        let event = event(shop, visited, 9, "ADD", 1, 1.0, 1.0).to_string();
        assert_eq!(
            post(seen, &format!("{http}{path}"), "application/json", event).await,
            503,
            "{path}"
        );
    }
}

/// What changes something for the merchants' page, and would be answered.
fn changes(shop: &str, visited: &str) -> [(&'static str, String, Option<Value>); 5] {
    let handling = format!("/v1/shops/{shop}/sessions/{visited}/handling");
    let decision = json!({ "decision": "retry", "reason": "a test" });
    let (epoch, sequence) = readme::PARKED;
    [
        (
            "PUT",
            format!("/v1/shops/{shop}"),
            Some(json!({ "name": "Harbour Street" })),
        ),
        ("PUT", handling.clone(), Some(json!({ "by": "Ada" }))),
        ("DELETE", handling, Some(json!({ "by": "Ada" }))),
        ("POST", format!("/v1/shops/{shop}/seen"), Some(json!({ "sequence": 1 }))),
        (
            "POST",
            format!("/v1/operations/parked/{epoch}:{sequence}"),
            Some(decision),
        ),
    ]
}

async fn send(http: &str, method: &str, path: &str, body: Option<Value>) -> Response {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Client::new().request(method, format!("{http}{path}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    request.send().await.unwrap()
}

/// What the merchants' page is answered.
async fn page(seen: &mut Seen, http: &str, shop: &str, visited: &str) {
    for path in ["me", "operations", "operations/parked", "operations/corrections"] {
        assert_eq!(get(seen, &format!("{http}/v1/{path}")).await, 200, "{path}");
    }
    for path in ["", "/day?interval=1h", "/handlings"] {
        assert_eq!(get(seen, &format!("{http}/v1/shops/{shop}{path}")).await, 200, "{path}");
    }
    for (method, path, body) in changes(shop, visited) {
        let status = note(seen, method, send(http, method, &path, body.clone()).await).await;
        let done = match path.rsplit('/').next() {
            Some("seen") => 204,
            _ if method == "POST" => 202,
            _ => 200,
        };
        assert_eq!(status, done, "{method} {path}");
        let Some(body) = body else { continue };
        let mut unknown = body.clone();
        unknown["colour"] = json!("red");
        let answer = send(http, method, &path, Some(unknown)).await;
        assert_eq!(note(seen, method, answer).await, 422, "{method} {path}");
        for (media, text, status) in [
            ("text/plain", "x", 415),
            ("application/json", &*" ".repeat(17 * 1024), 413),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = Client::new().request(method.clone(), format!("{http}{path}"));
            let request = request.header("content-type", media).body(text.to_owned());
            let answer = request.send().await.unwrap();
            assert_eq!(note(seen, method.as_str(), answer).await, status, "{method} {path}");
        }
    }
    let decision = json!({ "decision": "retry", "reason": "a test" });
    let unknown = send(http, "POST", "/v1/operations/parked/another:1", Some(decision)).await;
    assert_eq!(note(seen, "POST", unknown).await, 404);
    // Bob handles it, and Ada would.
    let handling = format!("/v1/shops/{shop}/sessions/{visited}/handling");
    let bob = send(http, "PUT", &handling, Some(json!({ "by": "Bob" }))).await;
    assert_eq!(note(seen, "PUT", bob).await, 200);
    let ada = send(http, "PUT", &handling, Some(json!({ "by": "Ada" }))).await;
    assert_eq!(note(seen, "PUT", ada).await, 409);
    let ada = send(http, "DELETE", &handling, Some(json!({ "by": "Ada" }))).await;
    assert_eq!(note(seen, "DELETE", ada).await, 409);
    let elsewhere = format!("/v1/shops/{shop}/sessions/{}/handling", session());
    let broken = format!("/v1/shops/{shop}/sessions/session/handling");
    for (path, status) in [(&elsewhere, 404), (&broken, 422)] {
        let wish = send(http, "PUT", path, Some(json!({ "by": "Ada" }))).await;
        assert_eq!(note(seen, "PUT", wish).await, status);
        let release = send(http, "DELETE", path, Some(json!({ "by": "Ada" }))).await;
        assert_eq!(note(seen, "DELETE", release).await, status);
    }
    // Nobody is asked who they are, so nobody is given a token.
    let wish = json!({ "role": "merchant", "shop": "*", "name": "Mia" });
    let token = send(http, "POST", "/dev/token", Some(wish)).await;
    assert_eq!(note(seen, "POST", token).await, 404);
}

/// What is answered to corrections that can be, that cannot, and that are none.
async fn corrections(seen: &mut Seen, http: &str, shop: &str, visited: &str) {
    let json = "application/json";
    let url = |visited: &str| format!("{http}/v1/shops/{shop}/sessions/{visited}/corrections");
    let wish = |rest: &str| format!("{{\"author\":\"Ada\",\"reason\":\"a test\",{rest}}}");
    let cheaper = wish("\"adjustment\":{\"by\":-0.25}");
    assert_eq!(post(seen, &url(visited), json, cheaper.clone()).await, 202);
    assert_eq!(post(seen, &url(&session()), json, cheaper.clone()).await, 404);
    assert_eq!(post(seen, &url("session"), json, cheaper.clone()).await, 422);
    let late = wish("\"base_sequence\":0,\"adjustment\":{\"by\":-0.25}");
    assert_eq!(post(seen, &url(visited), json, late).await, 409);
    assert_eq!(post(seen, &url(visited), json, "[]").await, 422);
    assert_eq!(post(seen, &url(visited), json, " ".repeat(17 * 1024)).await, 413);
    assert_eq!(post(seen, &url(visited), "text/plain", cheaper).await, 415);
}
