//! What the routes answer without a journal: every refusal, and that nothing else is refused.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request};
use clap::Parser as _;
use futures::stream;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::*;

const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const OTHER_SHOP: &str = "223e4567-e89b-42d3-a456-426614174000";
const SESSION: &str = "4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";
const EXAMPLE: &str = r#"{"session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shop_id":"123e4567-e89b-42d3-a456-426614174000","shopper_id":"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","action_id":101,"create_time":"2023-12-18T10:30:00.000Z","action":"ADD","product_name":"FUJI Apples","product_id":500100,"product_price":3.50,"UPC":"042100005264","category_id":"fruit","basket_total":12.18}"#;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    journal: journal::Config,
}

/// An API whose journal is not there, so what it does not refuse is answered as unavailable.
async fn api() -> Api {
    let arguments = Arguments::parse_from(["test", "--nats-url", "nats://127.0.0.1:1"]);
    let metrics = Arc::new(Metrics::new());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let journal = Journal::start(arguments.journal, Arc::clone(&metrics), &tasks, stop)
        .await
        .unwrap();
    Api::new(journal, None, ActionIdMeaning::Auto, metrics)
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn answer(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap(),
    }
}

async fn post_to(path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(path).header("content-type", content_type);
    answer(router(api().await), request.body(body.into()).unwrap()).await
}

async fn get_from(path: &str) -> Answer {
    let request = Request::get(path).body(Body::empty()).unwrap();
    answer(router(api().await), request).await
}

fn with(field: &str, value: &str) -> String {
    let mut event: serde_json::Map<String, Value> = serde_json::from_str(EXAMPLE).unwrap();
    event.remove(field);
    let rest = serde_json::to_string(&event).unwrap();
    format!("{{\"{field}\":{value},{}", &rest[1..])
}

fn without(field: &str) -> String {
    let mut event: serde_json::Map<String, Value> = serde_json::from_str(EXAMPLE).unwrap();
    event.remove(field).unwrap();
    serde_json::to_string(&event).unwrap()
}

fn check_problem(answer: &Answer, status: u16, code: &str, context: &str) {
    assert_eq!(answer.status, status, "{context}: {}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{context}");
    let problem = answer.json();
    assert_eq!(problem["code"], code, "{context}");
    assert_eq!(problem["status"], status, "{context}");
    assert_eq!(problem["type"], format!("/problems/{code}"), "{context}");
    assert!(
        problem["title"].is_string() && problem["detail"].is_string(),
        "{context}"
    );
}

fn routes() -> [String; 3] {
    [
        format!("/publish/{SHOP}"),
        "/send".to_owned(),
        format!("/v1/shops/{SHOP}/events"),
    ]
}

#[tokio::test]
async fn a_field_that_breaks_a_rule_is_named_on_every_route() {
    for route in routes() {
        for (field, value, rule) in [
            ("session_id", "\".\"", "uuid"),
            ("session_id", "\"*\"", "uuid"),
            ("session_id", "\">\"", "uuid"),
            ("session_id", "\" \"", "uuid"),
            ("session_id", "\"\\u0000\"", "uuid"),
            ("shop_id", "\"*\"", "uuid"),
            ("shopper_id", "17", "uuid"),
            ("action_id", "1.5", "integer"),
            ("action_id", "null", "integer"),
            ("action_id", "9223372036854775808", "integer"),
            ("create_time", "\"yesterday\"", "time"),
            ("action", "\"A B\"", "word"),
            ("product_id", "\"x\"", "integer"),
            ("product_price", "\"cheap\"", "money"),
            ("product_price", "\"NaN\"", "money"),
            ("product_price", "-0.01", "money"),
            ("product_price", "1e400", "money"),
            ("product_price", "3.50001", "money"),
            ("basket_total", "100000000001", "money"),
            ("basket_total", "[]", "money"),
            ("UPC", "42", "text"),
            ("quantity", "0", "range"),
        ] {
            let context = format!("{route} {field}={value}");
            let answer = post_to(&route, "application/json", with(field, value)).await;
            check_problem(&answer, 422, "invalid_event", &context);
            let errors = answer.json()["errors"].clone();
            assert_eq!(errors[0]["pointer"], format!("/{field}"), "{context}");
            assert_eq!(errors[0]["code"], rule, "{context}");
            assert!(errors[0]["detail"].is_string(), "{context}");
        }
    }
}

#[tokio::test]
async fn every_missing_field_is_named() {
    let fields: serde_json::Map<String, Value> = serde_json::from_str(EXAMPLE).unwrap();
    for field in fields.keys() {
        let answer = post_to("/send", "application/json", without(field)).await;
        check_problem(&answer, 422, "invalid_event", field);
        assert_eq!(answer.json()["errors"][0]["code"], "required", "{field}");
    }
    let answer = post_to("/send", "application/json", "{}").await;
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 12);
}

#[tokio::test]
async fn a_body_that_is_no_object_is_refused_on_every_route() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(4_000), "]".repeat(4_000));
    let bodies: [&[u8]; 11] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"hello",
        b"{\"a\":1}x",
        b"{\"a\":1,\"a\":2}",
        b"{\"a\":NaN}",
        b"{\"action\":\"\xff\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ];
    for route in routes() {
        for body in bodies {
            let context = format!("{route} {}", String::from_utf8_lossy(&body[..body.len().min(40)]));
            let answer = post_to(&route, "application/json", body.to_vec()).await;
            assert_eq!(answer.status, 422, "{context}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{context}");
        }
        let answer = post_to(&route, "application/json", "[]").await;
        check_problem(&answer, 422, "not_an_object", &route);
    }
}

#[tokio::test]
async fn what_the_original_took_is_taken_by_its_routes_and_refused_by_v1_where_it_is_strict() {
    for (field, value) in [
        ("colour", "\"red\""),
        ("action_id", "\"101\""),
        ("create_time", "\"2023-12-18T10:30:00\""),
    ] {
        for (route, taken) in routes().iter().zip([true, true, false]) {
            let context = format!("{route} {field}={value}");
            let answer = post_to(route, "application/json", with(field, value)).await;
            let (status, code) = if taken {
                (503, "journal_unavailable")
            } else {
                (422, "invalid_event")
            };
            check_problem(&answer, status, code, &context);
        }
    }
    let answer = post_to(&routes()[2], "application/json", with("colour", "\"red\"")).await;
    assert_eq!(answer.json()["errors"][0]["pointer"], "/colour");
    assert_eq!(answer.json()["errors"][0]["code"], "unknown_field");
    for (field, value) in [
        ("action", "\"Scan_Again\""),
        ("product_price", "3.500000000000001"),
        ("quantity", "10000"),
    ] {
        for route in routes() {
            let answer = post_to(&route, "application/json", with(field, value)).await;
            check_problem(&answer, 503, "journal_unavailable", &format!("{route} {field}={value}"));
        }
    }
}

#[tokio::test]
async fn a_journal_that_is_away_says_when_to_try_again_and_nothing_of_itself() {
    for route in routes() {
        let answer = post_to(&route, "application/json", EXAMPLE).await;
        check_problem(&answer, 503, "journal_unavailable", &route);
        assert_eq!(answer.headers["retry-after"], "2");
        assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_shop_in_the_path_that_is_no_uuid_is_refused() {
    // A bare `>` is no URI, and hyper refuses it before any route.
    for shop in [
        ".",
        "*",
        "%20",
        "%00",
        "a%2Fb",
        "%2F",
        "..%2Fx",
        "%ff",
        "%3E",
        "shop.%3E",
        "123e4567-e89b-42d3-a456-42661417400*",
        "%7B123e4567-e89b-42d3-a456-426614174000%7D",
        "123e4567-e89b-42d3-a456-426614174000%20",
    ] {
        for route in [format!("/publish/{shop}"), format!("/v1/shops/{shop}/events")] {
            let answer = post_to(&route, "application/json", EXAMPLE).await;
            check_problem(&answer, 422, "invalid_shop", &route);
        }
        for noun in ["baskets", "summary", "updates"] {
            let route = format!("/v1/shops/{shop}/{noun}");
            check_problem(&get_from(&route).await, 422, "invalid_shop", &route);
        }
        for noun in ["basket", "events", "explain"] {
            let route = format!("/v1/shops/{shop}/sessions/{SESSION}/{noun}");
            check_problem(&get_from(&route).await, 422, "invalid_shop", &route);
            if shop != "%ff" {
                let route = format!("/v1/shops/{SHOP}/sessions/{shop}/{noun}");
                check_problem(&get_from(&route).await, 422, "invalid_session", &route);
            }
        }
    }
}

#[tokio::test]
async fn a_shop_in_the_path_may_be_written_in_another_form_but_must_be_that_of_the_event() {
    for shop in [SHOP.to_uppercase(), SHOP.replace('-', "")] {
        let answer = post_to(&format!("/publish/{shop}"), "application/json", EXAMPLE).await;
        check_problem(&answer, 503, "journal_unavailable", &shop);
    }
    for route in [
        format!("/publish/{OTHER_SHOP}"),
        format!("/v1/shops/{OTHER_SHOP}/events"),
    ] {
        let answer = post_to(&route, "application/json", EXAMPLE).await;
        check_problem(&answer, 422, "shop_mismatch", &route);
        assert_eq!(answer.json()["errors"][0]["pointer"], "/shop_id");
    }
}

#[tokio::test]
async fn another_type_of_body_is_refused_with_the_one_to_send() {
    for (route, kind) in routes()
        .iter()
        .zip(["application/json", "application/json", "application/x-ndjson"])
    {
        for sent in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "",
        ] {
            let answer = post_to(route, sent, EXAMPLE).await;
            check_problem(&answer, 415, "unsupported_media_type", &format!("{route} {sent}"));
            assert!(answer.json()["detail"].as_str().unwrap().contains(kind));
        }
        for sent in ["application/json", "Application/JSON; charset=utf-8"] {
            let answer = post_to(route, sent, EXAMPLE).await;
            check_problem(&answer, 503, "journal_unavailable", &format!("{route} {sent}"));
        }
        let packed = Request::post(route)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(EXAMPLE.into())
            .unwrap();
        let answer = answer(router(api().await), packed).await;
        check_problem(&answer, 415, "unsupported_media_type", route);
    }
    for (route, status) in routes().iter().zip([503, 503, 415]) {
        let unstated = Request::post(route).body(EXAMPLE.into()).unwrap();
        assert_eq!(answer(router(api().await), unstated).await.status, status, "{route}");
    }
    let answer = post_to("/send", "application/x-ndjson", EXAMPLE).await;
    check_problem(&answer, 415, "unsupported_media_type", "/send");
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused_whether_or_not_its_size_is_stated() {
    for bytes in [EVENT_BYTES_MAX + 1, 64 * 1024, 4 * 1024 * 1024] {
        let text = with("product_name", &format!("\"{}\"", "x".repeat(bytes)));
        for route in routes() {
            let answer = post_to(&route, "application/json", text.clone()).await;
            check_problem(&answer, 413, "body_too_large", &route);
            let pieces: Vec<_> = text
                .as_bytes()
                .chunks(1_000)
                .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
                .collect();
            let answer = post_to(&route, "application/json", Body::from_stream(stream::iter(pieces))).await;
            check_problem(&answer, 413, "body_too_large", &route);
        }
    }
    let room = EVENT_BYTES_MAX - with("product_name", "\"\"").len();
    let largest = with("product_name", &format!("\"{}\"", "x".repeat(room)));
    let pieces = largest
        .as_bytes()
        .chunks(1_000)
        .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
        .collect::<Vec<_>>();
    let answer = post_to("/send", "application/json", Body::from_stream(stream::iter(pieces))).await;
    check_problem(&answer, 503, "journal_unavailable", "the largest event");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let problem = body::read(body, EVENT_BYTES_MAX, Duration::from_millis(10), &BodyMemory::new())
        .await
        .unwrap_err();
    assert_eq!(problem.code(), Code::SlowBody);
    let broken = stream::iter([
        Ok(Bytes::from_static(b"{")),
        Err(std::io::Error::other("connection reset by 10.0.0.7")),
    ]);
    let problem = body::read(
        Body::from_stream(broken),
        EVENT_BYTES_MAX,
        Duration::from_secs(1),
        &BodyMemory::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(problem.code(), Code::IncompleteBody);
}

async fn verdicts(body: impl Into<Body>) -> (Answer, Vec<Value>) {
    let answer = post_to(&routes()[2], "application/x-ndjson", body).await;
    let verdicts = answer
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (answer, verdicts)
}

#[tokio::test]
async fn each_line_has_its_own_verdict_in_order_and_blank_lines_have_none() {
    let long = with("product_name", &format!("\"{}\"", "x".repeat(EVENT_BYTES_MAX)));
    let lines = [
        &with("action_id", "1.5"),
        "",
        "  \r",
        "nonsense",
        EXAMPLE,
        &with("shop_id", &format!("\"{OTHER_SHOP}\"")),
        &long,
    ];
    let (answer, verdicts) = verdicts(lines.join("\n")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let told: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            (
                verdict["line"].as_u64().unwrap(),
                verdict["status"].as_str().unwrap(),
                verdict["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, "refused", "invalid_event"),
            (4, "refused", "not_an_object"),
            (5, "unavailable", "journal_unavailable"),
            (6, "refused", "shop_mismatch"),
            (7, "refused", "body_too_large"),
        ]
    );
    assert_eq!(verdicts[0]["errors"][0]["pointer"], "/action_id");
    assert!(verdicts[2].get("errors").is_none() && verdicts[2].get("sequence").is_none());
}

#[tokio::test]
async fn lines_that_all_may_pass_later_are_answered_so() {
    let (answer, verdicts) = verdicts(format!("{EXAMPLE}\n{}\n", with("action_id", "102"))).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "2");
    assert_eq!(verdicts.len(), 2);
}

#[tokio::test]
async fn a_body_of_lines_has_its_limits() {
    let (answer, _) = verdicts(format!("{EXAMPLE}\n").repeat(LINES_MAX)).await;
    assert_eq!(answer.status, 503);
    let route = &routes()[2];
    let answer = post_to(route, "application/x-ndjson", "x\n".repeat(LINES_MAX + 1)).await;
    check_problem(&answer, 413, "too_many_lines", "lines");
    let answer = post_to(route, "application/x-ndjson", vec![b'x'; LINES_BYTES_MAX + 1]).await;
    check_problem(&answer, 413, "body_too_large", "bytes");
    for nothing in ["", "\n", "\n \n"] {
        let answer = post_to(route, "application/x-ndjson", nothing).await;
        check_problem(&answer, 422, "not_an_object", "nothing");
    }
}

#[tokio::test]
async fn a_read_is_checked_before_it_is_done() {
    let shop = format!("/v1/shops/{SHOP}");
    let session = format!("{shop}/sessions/{SESSION}");
    for (path, queries) in [
        (
            format!("{session}/basket"),
            &[
                "min_sequence=x",
                "min_sequence=1&min_sequence=1",
                "at=yesterday",
                "at=2023-12-18",
                "sequence=-1",
                "at=2023-12-18T10:30:00Z&sequence=1",
                "min_sequence=1&sequence=1",
                "at=2023-12-18T10:30:00Z&min_sequence=1",
            ][..],
        ),
        (
            format!("{session}/explain"),
            &["at=1", "sequence=x", "at=2023-12-18T10:30:00Z&sequence=1"],
        ),
        (
            format!("{session}/events"),
            &["after=x", "after=", "speed=0", "speed=-1", "speed=inf", "speed=10"],
        ),
        (
            format!("{shop}/baskets"),
            &[
                "limit=0",
                "limit=201",
                "limit=65537",
                "limit=x",
                "status=OPEN",
                "status=",
                "verdict=bad",
                "since=today",
                "cursor=x",
                "cursor=",
                "cursor=0200000000000000010000000000000002",
                "limit=1&limit=1",
                "limit=%f",
            ],
        ),
        (format!("{shop}/summary"), &["day_start=today", "day_start=2023-12-18"]),
        (
            format!("{shop}/updates"),
            &["after=", "after=7", "after=1-2-3", "after=1-1&after=1-1"],
        ),
    ] {
        for query in queries {
            let route = format!("{path}?{query}");
            check_problem(&get_from(&route).await, 400, "invalid_parameter", &route);
        }
        let route = format!("{path}?colour=red");
        check_problem(&get_from(&route).await, 400, "unknown_parameter", &route);
        let answer = get_from(&path).await;
        check_problem(&answer, 503, "views_unavailable", &path);
        assert!(answer.headers.contains_key("retry-after"), "{path}");
    }
    let last = Request::get(format!("{session}/events"))
        .header("accept", "text/event-stream")
        .header("last-event-id", "x");
    let answer = answer(router(api().await), last.body(Body::empty()).unwrap()).await;
    check_problem(&answer, 400, "invalid_parameter", "last-event-id");
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem() {
    for path in [
        "/nowhere",
        "/publish",
        "/publish/",
        "/v1/shops",
        "/problems/none",
        "/problems/%ff",
    ] {
        check_problem(&get_from(path).await, 404, "not_found", path);
    }
    let answer = get_from(&format!("/publish/{SHOP}")).await;
    check_problem(&answer, 405, "method_not_allowed", "publish");
    assert_eq!(answer.headers["allow"], "POST");
    let answer = post_to("/", "application/json", "{}").await;
    check_problem(&answer, 405, "method_not_allowed", "index");
}

#[tokio::test]
async fn the_type_of_a_problem_leads_to_its_explanation() {
    for code in Code::ALL {
        let answer = get_from(&format!("/problems/{}", code.word())).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains(code.explanation()), "{}", answer.body);
    }
    assert!(get_from("/").await.body.contains("/app.js"));
}

#[tokio::test]
async fn what_a_browser_asks_before_it_asks_is_counted_and_has_every_header() {
    let config = limit::Config {
        address: 1,
        caller: 0,
        shop: 0,
        connections_per_address: 0,
        viewers_per_caller: 0,
        viewers_per_address: 0,
    };
    let origin = "https://live.example";
    let api = api().await.with_cors(cors(&[origin.to_owned()]).unwrap());
    let router = router(api.with_limits(&config, &TaskTracker::new(), CancellationToken::new()));
    let ask = async |method: Method| {
        let request = Request::builder().method(method).uri("/send").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let mut request = request.body(Body::empty()).unwrap();
        let elsewhere = ([203, 0, 113, 1], 1).into();
        request.extensions_mut().insert(serve::Peer(elsewhere));
        answer(router.clone(), request).await
    };
    let mut refused = 0;
    for number in 0..20 {
        let got = ask(Method::OPTIONS).await;
        assert!(got.status == 200 || (number > 0 && got.status == 429), "{}", got.status);
        assert_eq!(got.headers["x-content-type-options"], "nosniff");
        refused += u8::from(got.status == 429);
    }
    assert!(refused > 0);
    // What its page asked itself it can read, also that it was too much.
    let got = ask(Method::POST).await;
    assert_eq!(got.status, 429);
    assert_eq!(got.headers["access-control-allow-origin"], origin);
}

#[tokio::test]
async fn a_panic_is_answered_without_what_it_said() {
    let router = Router::new()
        .route("/", axum::routing::get(async || -> &'static str { panic!("secret") }))
        .layer(CatchPanicLayer::custom(after_panic));
    let answer = answer(router, Request::get("/").body(Body::empty()).unwrap()).await;
    check_problem(&answer, 500, "internal", "panic");
    assert!(!answer.body.contains("secret"));
}

#[tokio::test]
async fn every_event_is_counted_by_what_became_of_it_and_every_request_by_its_route() {
    let api = api().await;
    for body in ["{}", EXAMPLE] {
        let request = Request::post("/send").body(Body::from(body)).unwrap();
        answer(router(api.clone()), request).await;
    }
    let lines = Request::post(&routes()[2])
        .header("content-type", "application/x-ndjson")
        .body(Body::from(format!("{{}}\n{EXAMPLE}\n{EXAMPLE}")))
        .unwrap();
    answer(router(api.clone()), lines).await;
    let text = api.0.metrics.text();
    assert!(text.contains("ezout_http_request_seconds_count{route=\"send\"} 2\n"));
    assert!(text.contains("ezout_http_request_seconds_count{route=\"events\"} 1\n"));
    assert!(text.contains("ezout_received_events_total{outcome=\"refused\"} 2\n"));
}

#[tokio::test]
async fn large_bodies_together_have_a_bound_and_leave_room_for_single_events() {
    let memory = BodyMemory::new();
    let large = || Body::from(vec![b' '; 4 * 1024 * 1024]);
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(
            body::read(large(), 4 * 1024 * 1024, Duration::from_secs(1), &memory)
                .await
                .unwrap(),
        );
    }
    let problem = body::read(large(), 4 * 1024 * 1024, Duration::from_secs(1), &memory)
        .await
        .unwrap_err();
    assert_eq!(problem.code(), Code::Overloaded);
    // One event finds room all the same.
    let small = body::read(Body::from("{}"), EVENT_BYTES_MAX, Duration::from_secs(1), &memory);
    assert!(small.await.is_ok());
    held.pop();
    assert!(
        body::read(large(), 4 * 1024 * 1024, Duration::from_secs(1), &memory)
            .await
            .is_ok()
    );
}

#[test]
fn a_door_that_asks_about_a_shop_has_one_in_its_path() {
    for (method, path, door) in doors() {
        let names_one = path.contains("/{shop}") || path.contains("/{shop_id}");
        assert_eq!(matches!(door, Door::Shop(_)), names_one, "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_open_and_what_is_not_there_count_for_the_address_as_well() {
    #[derive(clap::Parser)]
    struct Limits {
        #[command(flatten)]
        limits: limit::Config,
    }
    let Limits { limits } = Limits::parse_from(["test", "--rate-address", "1"]);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let router = router(api().await.with_limits(&limits, &tasks, stop));
    let ask = async |path: &str, from: &str| {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        let peer = SocketAddr::new(from.parse().unwrap(), 1);
        request.extensions_mut().insert(serve::Peer(peer));
        answer(router.clone(), request).await
    };
    let paths = ["/", "/openapi.json", "/nothing"];
    // What is made at its first use takes its time, in which more may be asked.
    for path in paths {
        ask(path, "198.51.100.1").await;
    }
    for (number, path) in paths.into_iter().enumerate() {
        let from = format!("192.0.2.{number}");
        let first = [ask(path, &from).await, ask(path, &from).await].map(|answer| answer.status);
        assert!(!first.contains(&429), "{path}: {first:?}");
        let third = ask(path, &from).await;
        check_problem(&third, 429, "too_many_requests", path);
        assert!(third.headers.contains_key("retry-after"), "{path}");
    }
    // Every route, so that none is made that is not counted.
    for (method, path, _) in doors() {
        let path = path.replace(['{', '}'], "");
        let mut request = Request::builder()
            .method(method)
            .uri(&path)
            .body(Body::empty())
            .unwrap();
        let peer = SocketAddr::new("192.0.2.0".parse().unwrap(), 1);
        request.extensions_mut().insert(serve::Peer(peer));
        assert_eq!(answer(router.clone(), request).await.status, 429, "{path}");
    }
}

#[tokio::test]
async fn where_nobody_is_asked_a_page_whose_name_leads_here_is_not_answered() {
    let router = router(api().await);
    for (method, path, door) in doors() {
        let path = path.replace("{shop}", SHOP).replace("{shop_id}", SHOP);
        let path = path.replace(['{', '}'], "");
        let request = Request::builder().method(method).uri(&path);
        let request = request.header("host", "evil.example:8000").body(Body::empty()).unwrap();
        let answer = answer(router.clone(), request).await;
        if door == Door::Open {
            assert_ne!(answer.status, 403, "{path}");
        } else {
            check_problem(&answer, 403, "forbidden", &path);
        }
    }
    for host in ["127.0.0.1:8000", "localhost", "[::1]:8000"] {
        let request = Request::get("/v1/me").header("host", host).body(Body::empty()).unwrap();
        // It comes through the door, to where MongoDB is missing.
        assert_eq!(answer(router.clone(), request).await.status, 503, "{host}");
    }
}
