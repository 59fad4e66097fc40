//! The life of an event, told by its trace at a collector, by `ezout trace`, and by the name of its request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value;

use crate::live::viewer::Viewer;
use crate::support::{Service, Stack, all_printed, event, printed, session, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that takes traces by OTLP over HTTP, and keeps them.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Whether it refuses.
    refuses: Arc<Mutex<bool>>,
}

impl Collector {
    async fn start(&self) -> String {
        let routes = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    /// The parts of a trace, by their names.
    fn parts(&self, trace: &str) -> BTreeMap<String, Span> {
        let spans = self.spans.lock().unwrap();
        let of_it = spans.iter().filter(|span| hex(&span.trace_id) == trace);
        of_it.map(|span| (span.name.clone(), span.clone())).collect()
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if *collector.refuses.lock().unwrap() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let sent = ExportTraceServiceRequest::decode(body).unwrap();
    let spans = sent.resource_spans.into_iter().flat_map(|of_process| {
        let attributes = of_process.resource.unwrap().attributes;
        assert!(attributes.iter().any(|attribute| attribute.key == "service.name"));
        of_process.scope_spans.into_iter().flat_map(|scope| scope.spans)
    });
    collector.spans.lock().unwrap().extend(spans);
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

async fn send(service: &Service, shop: &str, event: &Value, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new()
        .post(format!("{}/v1/shops/{shop}/events", service.http_url()))
        .json(event);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_an_event_has_every_stage_at_the_collector() {
    let (stack, collector) = (Stack::start().await, Collector::default());
    let url = collector.start().await;
    // A projector of its own: the trace goes through the journal from one process to another.
    let environment = [("EZOUT_OTLP_ENDPOINT", url.as_str()), ("EZOUT_TRACE_RATIO", "0")];
    let api = stack.service_with("api", &environment).await;
    let _projector = stack.service_with("project", &environment).await;
    let (shop, visit) = (session(), session());
    let mut viewer = Viewer::connect(&api.http_url(), &shop, None).await;
    viewer.next_of("hello").await;

    let answer = send(
        &api,
        &shop,
        &event(&shop, &visit, 1, "ADD", 5, 3.5, 3.5),
        &[("traceparent", SENT)],
    )
    .await;
    assert_eq!(answer.status(), 201);
    let name = answer.headers()["ezout-request-id"].to_str().unwrap().to_owned();
    assert!(name.starts_with(TRACE), "{name}");
    // Nobody asked for this one.
    send(&api, &shop, &event(&shop, &visit, 2, "ADD", 5, 3.5, 7.0), &[]).await;

    let parts = wait_for("every part of the trace", async || {
        Some(collector.parts(TRACE)).filter(|parts| parts.len() == 5)
    })
    .await;
    let names: Vec<&str> = parts.keys().map(String::as_str).collect();
    let request = "POST /v1/shops/{shop}/events";
    assert_eq!(
        names,
        [
            request,
            "append to the journal",
            "project",
            "publish the update",
            "tell viewers"
        ]
    );
    let below = |part: &str, above: &str| {
        assert_eq!(
            parts[part].parent_span_id, parts[above].span_id,
            "{part} is below {above}"
        );
        assert!(parts[part].end_time_unix_nano >= parts[part].start_time_unix_nano);
    };
    assert_eq!(hex(&parts[request].parent_span_id), "00f067aa0ba902b7");
    assert_eq!(name, format!("{TRACE}-{}", hex(&parts[request].span_id)));
    below("append to the journal", request);
    below("project", "append to the journal");
    below("publish the update", "project");
    below("tell viewers", "project");
    let traces: Vec<String> = collector
        .spans
        .lock()
        .unwrap()
        .iter()
        .map(|span| hex(&span.trace_id))
        .collect();
    assert!(traces.iter().all(|trace| trace == TRACE), "others were exported");

    // A collector that refuses costs nobody anything, and is told of in the metrics.
    *collector.refuses.lock().unwrap() = true;
    let answer = send(
        &api,
        &shop,
        &event(&shop, &visit, 3, "ADD", 5, 3.5, 10.5),
        &[("traceparent", SENT)],
    )
    .await;
    assert_eq!(answer.status(), 201);
    wait_for("the failure in the metrics", async || {
        let failed = api.metric("ezout_trace_spans_total{outcome=\"failed\"}").await?;
        (failed > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_an_event_is_told_stage_by_stage() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let (shop, visit) = (session(), session());
    for (number, headers) in [(1, vec![]), (2, vec![("traceparent", SENT)])] {
        let answer = send(
            &service,
            &shop,
            &event(&shop, &visit, number, "ADD", 5, 3.5, 3.5),
            &headers,
        )
        .await;
        assert_eq!(answer.status(), 201);
    }
    service.basket(&shop, &visit, 2).await;

    // Without a collector what was sent goes on as it is.
    let told = printed(&stack.ezout(&["trace", &shop, &visit, "2"]).await);
    let stages: Vec<&str> = told
        .lines()
        .skip_while(|line| !line.is_empty())
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        stages,
        ["sent", "received", "recorded", "projected", "published"],
        "{told}"
    );
    assert!(told.contains(&format!("trace {TRACE}")), "{told}");
    assert!(
        told.contains("place 2 of CHECKOUT") && told.contains("place 2 of UPDATES"),
        "{told}"
    );
    // From when its body was here on, the times are in the order of the stages.
    let times: Vec<&str> = told
        .lines()
        .filter(|line| !line.starts_with("sent"))
        .filter_map(|line| line.split_whitespace().nth(1).filter(|word| word.ends_with('Z')))
        .collect();
    assert_eq!(times.len(), 4, "{told}");
    assert!(times.is_sorted(), "{told}");

    // By the event's id, without a trace.
    let id = printed(&stack.ezout(&["trace", &shop, &visit, "1"]).await);
    let id = id.split_whitespace().nth(1).unwrap().to_owned();
    let told = printed(&stack.ezout(&["trace", &shop, &visit, &id]).await);
    assert!(
        told.contains("place 1 of CHECKOUT") && !told.contains("trace "),
        "{told}"
    );

    let none = stack.ezout(&["trace", &shop, &visit, "9"]).await;
    assert!(!none.status.success());
    assert!(all_printed(&none).contains("the journal has no such action"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_named_in_its_answer_and_in_its_header() {
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let shop = session();
    let answer = send(&service, &shop, &serde_json::json!({}), &[("traceparent", SENT)]).await;
    assert_eq!(answer.status(), 422);
    let name = answer.headers()["ezout-request-id"].to_str().unwrap().to_owned();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["request_id"], name);
    assert!(name.starts_with(TRACE));
    // What is malformed is as if it was not there, and two requests have two names.
    let mut names = Vec::new();
    for sent in ["nonsense", &SENT.to_uppercase()] {
        let answer = send(&service, &shop, &serde_json::json!({}), &[("traceparent", sent)]).await;
        let problem: Value = answer.json().await.unwrap();
        names.push(problem["request_id"].as_str().unwrap().to_owned());
    }
    assert!(names.iter().all(|name| !name.starts_with(TRACE) && name.len() == 49));
    assert_ne!(names[0], names[1]);
}
