//! The contracts: what the API and the subjects of NATS are, for programs and for people.
//!
//! `openapi.json` and `asyncapi.json` beside this file are the source, with the schemas of both in
//! `schemas.json`; tests hold them to the code. Each is served in one piece, with the schemas that it
//! uses, and `page.rs` shows them in a browser without anything from elsewhere.

mod page;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Map, Value};

use super::Api;
use super::problem::{Code, Problem};

/// What the page may load and ask: this service, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The HTTP API as OpenAPI 3.1.
pub static OPENAPI: LazyLock<Value> = LazyLock::new(|| bundled(include_str!("contracts/openapi.json")));
/// The subjects of NATS and the live updates as AsyncAPI 3.0.
pub static ASYNCAPI: LazyLock<Value> = LazyLock::new(|| bundled(include_str!("contracts/asyncapi.json")));
static OPENAPI_TEXT: LazyLock<Bytes> = LazyLock::new(|| text(&OPENAPI));
static ASYNCAPI_TEXT: LazyLock<Bytes> = LazyLock::new(|| text(&ASYNCAPI));
static PAGE: LazyLock<String> = LazyLock::new(|| page::page(&OPENAPI, &ASYNCAPI));

/// A document with the schemas that it uses.
fn bundled(source: &str) -> Value {
    const HERE: &str = "\"#/components/schemas/";
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("the file is JSON");
    let mut schemas: Map<String, Value> =
        serde_json::from_str(&include_str!("contracts/schemas.json").replace("\"#/", HERE))
            .expect("the schemas are an object");
    let source = source.replace("\"schemas.json#/", HERE);
    let mut document = parse(&source);

    let mut used = BTreeSet::new();
    let mut unread = vec![source];
    while let Some(text) = unread.pop() {
        for (name, schema) in &schemas {
            if text.contains(&format!("{HERE}{name}\"")) && used.insert(name.clone()) {
                unread.push(schema.to_string());
            }
        }
    }
    schemas.retain(|name, _| used.contains(name));
    document["components"]["schemas"] = Value::Object(schemas);
    document
}

/// The document as all answers share it: those who do not read theirs must not each have one of their own.
fn text(document: &Value) -> Bytes {
    serde_json::to_vec_pretty(document).expect("a document is JSON").into()
}

fn json(text: &Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.clone()).into_response()
}

/// `GET /openapi.json`
pub(super) async fn openapi(State(api): State<Api>) -> Response {
    let _timer = api.timer("other");
    json(&OPENAPI_TEXT)
}

/// `GET /asyncapi.json`
pub(super) async fn asyncapi(State(api): State<Api>) -> Response {
    let _timer = api.timer("other");
    json(&ASYNCAPI_TEXT)
}

/// `GET /docs`
pub(super) async fn docs(State(api): State<Api>) -> Response {
    let _timer = api.timer("other");
    ([(CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE.as_str())).into_response()
}

/// `GET /docs/{file}`
pub(super) async fn docs_file(State(api): State<Api>, file: Result<Path<String>, PathRejection>) -> Response {
    let _timer = api.timer("other");
    let (content_type, text) = match file.as_ref().map(|Path(file)| file.as_str()) {
        Ok("page.css") => ("text/css", include_str!("contracts/page.css")),
        Ok("page.js") => ("text/javascript", include_str!("contracts/page.js")),
        _ => return Problem::new(Code::NotFound, "there are page.css and page.js").into_response(),
    };
    ([(CONTENT_TYPE, content_type)], text).into_response()
}
