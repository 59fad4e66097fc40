//! Holds what is answered and published to the documents.
//!
//! A field that the documents do not name is a fault here, though clients are to expect new ones.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use ezout::http::contracts::{ASYNCAPI, OPENAPI};
use jsonschema::Validator;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

static HTTP: LazyLock<Document> = LazyLock::new(|| Document::of(&OPENAPI));
static MESSAGES: LazyLock<Document> = LazyLock::new(|| Document::of(&ASYNCAPI));

/// A document, and the schemas in it that something was held to.
struct Document {
    strict: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Document {
    fn of(document: &Value) -> Self {
        let mut strict = document.clone();
        close(&mut strict);
        Self {
            strict,
            validators: Mutex::default(),
        }
    }

    /// The schema at a place of the document, with what it refers to.
    fn validator(&self, pointer: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap();
        let validator = validators.entry(pointer.to_owned()).or_insert_with(|| {
            let mut schema = self.strict.clone();
            // A reference is a URI, in which braces are written so.
            let pointer = pointer.replace('{', "%7B").replace('}', "%7D");
            schema["$ref"] = json!(format!("#{pointer}"));
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            Arc::new(
                options
                    .build(&schema)
                    .unwrap_or_else(|error| panic!("{pointer}: {error}")),
            )
        });
        Arc::clone(validator)
    }

    fn hold(&self, pointer: &str, value: &Value, what: &str) {
        let validator = self.validator(pointer);
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            faults.is_empty(),
            "{what} does not fit {pointer}:\n{}\n{value:#}",
            faults.join("\n")
        );
    }

    /// Where a place leads to, if there is a reference.
    fn resolved(&self, pointer: String) -> String {
        match self
            .strict
            .pointer(&pointer)
            .unwrap_or_else(|| panic!("nothing is at {pointer}"))["$ref"]
            .as_str()
        {
            Some(reference) => self.resolved(reference.trim_start_matches('#').to_owned()),
            None => pointer,
        }
    }

    fn at(&self, pointer: &str) -> &Value {
        self.strict.pointer(pointer).unwrap_or(&Value::Null)
    }
}

/// Lets objects have no other fields than those that are named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let is_object = match &fields.get("type") {
                Some(Value::String(kind)) => kind == "object",
                Some(Value::Array(kinds)) => kinds.contains(&json!("object")),
                _ => false,
            };
            if is_object && fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

pub fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// The path of the document that a request is for.
pub fn template(path: &str) -> &'static str {
    let asked: Vec<&str> = path.split(['?', '#']).next().unwrap().split('/').collect();
    let mut matching = OPENAPI["paths"].as_object().unwrap().keys().filter(|template| {
        let parts: Vec<&str> = template.split('/').collect();
        parts.len() == asked.len()
            && parts
                .iter()
                .zip(&asked)
                .all(|(part, asked)| part.starts_with('{') || part == asked)
    });
    matching
        .next()
        .unwrap_or_else(|| panic!("no path of openapi.json is that of {path}"))
}

/// Holds an answer to what is documented for its request, and gives back its status and body.
pub async fn answer(method: &str, response: reqwest::Response) -> (u16, Vec<u8>) {
    let path = response.url().path().to_owned();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("the answer is whole").to_vec();
    hold(method, &path, status, &headers, &body);
    (status, body)
}

/// Holds an answer to what is documented for its request, and gives it back to be read.
pub async fn read(method: &str, response: reqwest::Response) -> reqwest::Response {
    let path = response.url().path().to_owned();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.expect("the answer is whole");
    hold(method, &path, status.as_u16(), &headers, &body);
    let mut again = axum::http::Response::new(body);
    *again.status_mut() = status;
    *again.headers_mut() = headers;
    again.into()
}

/// Holds the answer to a GET, and gives back its status and JSON.
pub async fn json_of(url: &str) -> (u16, Value) {
    let (status, body) = answer("GET", reqwest::get(url).await.expect("an answer")).await;
    (status, serde_json::from_slice(&body).expect("JSON"))
}

/// Holds an answer to what is documented for its request.
pub fn hold(method: &str, path: &str, status: u16, headers: &HeaderMap, body: &[u8]) {
    let template = template(path);
    let what = format!("the answer {status} to {method} {path}");
    let responses = format!("/paths/{}/{}/responses", escaped(template), method.to_lowercase());
    assert!(
        !HTTP.at(&responses)[status.to_string()].is_null(),
        "{what} is not documented: {}",
        String::from_utf8_lossy(body)
    );
    let response = HTTP.resolved(format!("{responses}/{status}"));
    hold_headers(&response, headers, &what);

    if HTTP.at(&response)["content"].is_null() {
        assert!(body.is_empty(), "{what} has a body");
        return;
    }
    let media = headers["content-type"].to_str().unwrap();
    let media = media.split(';').next().unwrap();
    let schema = format!("{response}/content/{}/schema", escaped(media));
    assert!(
        !HTTP.at(&schema).is_null(),
        "{what} has the type {media}, which is not documented"
    );
    let text = std::str::from_utf8(body).unwrap_or_else(|_| panic!("{what} is no text"));
    match media {
        "application/x-ndjson" => {
            for line in text.lines() {
                let line = serde_json::from_str(line).unwrap_or_else(|_| panic!("{what}: {line}"));
                HTTP.hold(&format!("{schema}/contentSchema"), &line, &what);
            }
        }
        "text/event-stream" => {
            for message in text.split_terminator("\n\n") {
                hold_message(&schema, message, &what);
            }
        }
        json if json.ends_with("json") => {
            let value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{what}: {text}"));
            HTTP.hold(&schema, &value, &what);
        }
        _ => HTTP.hold(&schema, &json!(text), &what),
    }
}

fn hold_headers(response: &str, headers: &HeaderMap, what: &str) {
    let documented = HTTP.at(response)["headers"].as_object().into_iter().flatten();
    for (name, _) in documented {
        let header = HTTP.resolved(format!("{response}/headers/{name}"));
        let Some(value) = headers.get(name.to_lowercase()) else {
            assert!(HTTP.at(&header)["required"] != true, "{what} lacks the header {name}");
            continue;
        };
        let text = value.to_str().unwrap();
        let schema = HTTP.resolved(format!("{header}/schema"));
        let value = match HTTP.at(&schema)["type"].as_str() {
            Some("integer" | "boolean") => {
                serde_json::from_str(text).unwrap_or_else(|_| panic!("{what}, {name}: {text}"))
            }
            _ => json!(text),
        };
        HTTP.hold(&schema, &value, &format!("{what}, {name}"));
    }
}

/// Holds one Server-Sent Event.
fn hold_message(schema: &str, message: &str, what: &str) {
    let mut fields = serde_json::Map::new();
    for line in message.lines() {
        match line.split_once(": ") {
            Some(("", _)) => {}
            Some(("retry", value)) => {
                fields.insert("retry".to_owned(), serde_json::from_str(value).unwrap());
            }
            Some((name, value)) => {
                fields.insert(name.to_owned(), json!(value));
            }
            None => panic!("{what} has a line without a value: {line}"),
        }
    }
    // A comment, or a place alone, is no message.
    let Some(data) = fields.get("data") else { return };
    let data = serde_json::from_str(data.as_str().unwrap()).unwrap_or_else(|_| panic!("{what}: {message}"));
    HTTP.hold(schema, &Value::Object(fields), what);
    HTTP.hold(&format!("{schema}/properties/data/contentSchema"), &data, what);
}

/// Holds a message of a channel to its schema, and its headers to theirs where it has any.
pub fn message(channel: &str, name: &str, payload: &Value, headers: Option<&async_nats::HeaderMap>) {
    let what = format!("a message {name} on {channel}");
    let message = MESSAGES.resolved(format!("/channels/{channel}/messages/{name}"));
    MESSAGES.hold(&format!("{message}/payload"), payload, &what);
    if let Some(headers) = headers {
        let headers: serde_json::Map<String, Value> = headers
            .iter()
            .map(|(name, values)| (name.to_string(), json!(values[0].as_str())))
            .collect();
        MESSAGES.hold(
            &format!("{message}/headers"),
            &Value::Object(headers),
            &format!("{what}, its headers"),
        );
    }
}
