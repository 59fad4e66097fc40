//! The contracts are what the service does: their lists are the code's, and their examples are sent and received here.

mod answers;
pub mod check;
mod examples;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ezout::core::basket::{FindingKind, Status};
use ezout::core::policy::Verb;
use ezout::http::contracts::{ASYNCAPI, OPENAPI};
use ezout::http::problem::Code;
use ezout::http::{Door, doors};
use ezout::journal::Durability;
use ezout::live::Goodbye;
use serde_json::{Value, json};

use crate::readme::routes;
use crate::support::system;

fn words<'a>(schema: &str, document: &'a Value) -> Vec<&'a str> {
    let list = document["components"]["schemas"][schema]["enum"].as_array().unwrap();
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

fn operations() -> Vec<(String, &'static str, &'static Value)> {
    let mut operations = Vec::new();
    for (path, item) in OPENAPI["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "servers" {
                operations.push((method.to_uppercase(), path.as_str(), operation));
            }
        }
    }
    operations
}

/// Every object within a value that has a field of this name.
fn with_field<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    if !value[name].is_null() {
        found.push(value);
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| with_field(name, value, found)),
        Value::Array(items) => items.iter().for_each(|value| with_field(name, value, found)),
        _ => {}
    }
}

#[test]
fn every_route_is_documented_and_nothing_else_is() {
    let documented: BTreeSet<String> = operations()
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert_eq!(documented, routes());
}

#[test]
fn the_lists_in_the_documents_are_those_of_the_code() {
    let statuses: Vec<_> = Status::ALL.iter().map(|status| status.word()).collect();
    assert_eq!(words("Status", &OPENAPI), statuses);
    let kinds: Vec<_> = FindingKind::ALL.iter().map(|kind| kind.word()).collect();
    assert_eq!(words("FindingKind", &OPENAPI), kinds);
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(words("ProblemCode", &OPENAPI), codes);
    let reasons = &ASYNCAPI["components"]["schemas"]["Goodbye"]["properties"]["reason"]["enum"];
    assert_eq!(*reasons, json!(Goodbye::ALL.map(Goodbye::word)));
    let durabilities = [
        Durability::Memory,
        Durability::Quorum,
        Durability::Disk,
        Durability::DiskQuorum,
    ];
    assert_eq!(
        words("Durability", &OPENAPI),
        durabilities.map(|durability| durability.to_string())
    );
    for document in [&OPENAPI, &ASYNCAPI] {
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn every_operation_says_whether_it_takes_a_token_as_its_door_does() {
    let doors = doors();
    for (method, path, operation) in operations() {
        let door = doors
            .iter()
            .find(|(known, of, _)| *known == method.as_str() && *of == path)
            .map(|(_, _, door)| *door);
        let security = operation.get("security").unwrap_or(&OPENAPI["security"]);
        let (expected, refusals) = match door {
            // The second address has no doors.
            None | Some(Door::Open) => (json!([]), &[][..]),
            Some(Door::Known) => (json!([{ "bearer": [] }]), &["401", "429", "503"][..]),
            // What shoppers do is also taken without one, where the service is set up so.
            Some(Door::Shop(Verb::Append) | Door::Body(Verb::Append)) => {
                (json!([{ "bearer": [] }, {}]), &["401", "403", "404", "429", "503"][..])
            }
            Some(Door::Shop(_) | Door::Body(_) | Door::System(_)) => {
                (json!([{ "bearer": [] }]), &["401", "403", "404", "429", "503"][..])
            }
        };
        assert_eq!(*security, expected, "{method} {path}");
        for status in ["401", "403"] {
            let is_documented = !operation["responses"][status].is_null();
            // Metrics ask for a token of their own.
            let expected = refusals.contains(&status) || (status == "401" && path == "/metrics");
            assert_eq!(is_documented, expected, "{method} {path} {status}");
        }
        for status in refusals {
            assert!(!operation["responses"][status].is_null(), "{method} {path} {status}");
        }
    }
    let scheme = &OPENAPI["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
}

#[test]
fn every_code_is_documented_where_it_is_answered_and_with_its_status() {
    let mut documented = BTreeSet::from(["method_not_allowed"]);
    for (method, path, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = match response["$ref"].as_str() {
                Some(reference) => OPENAPI.pointer(reference.trim_start_matches('#')).unwrap(),
                None => response,
            };
            let schema = &response["content"]["application/problem+json"]["schema"];
            let codes = schema["properties"]["code"]["enum"].as_array();
            assert_eq!(schema.is_null(), codes.is_none(), "{method} {path} {status}");
            for word in codes.into_iter().flatten() {
                let code = Code::ALL.iter().find(|code| code.word() == word);
                let code = code.unwrap_or_else(|| panic!("{word} is no code"));
                assert_eq!(code.status().as_str(), status, "{method} {path} {word}");
                let retries = response["headers"]["Retry-After"].is_object();
                assert_eq!(retries, code.may_pass(), "{method} {path} {word}: Retry-After");
                documented.insert(code.word());
            }
        }
    }
    assert_eq!(documented, Code::ALL.iter().map(|code| code.word()).collect());
}

#[test]
fn the_readme_lists_every_code() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let rows: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            format!(
                "| `{}` | {} | {} |",
                code.word(),
                code.status().as_u16(),
                code.explanation()
            )
        })
        .collect();
    assert!(
        readme.contains(&rows.join("\n")),
        "README.md lacks or misstates a code; the whole table is:\n\n{}\n",
        rows.join("\n")
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let mut used = BTreeSet::new();
    for document in [&*OPENAPI, &*ASYNCAPI] {
        let mut referring = Vec::new();
        with_field("$ref", document, &mut referring);
        for reference in referring {
            let reference = reference["$ref"].as_str().unwrap();
            let pointer = reference
                .strip_prefix('#')
                .unwrap_or_else(|| panic!("{reference} is elsewhere"));
            assert!(document.pointer(pointer).is_some(), "nothing is at {reference}");
            used.extend(pointer.strip_prefix("/components/schemas/"));
        }
    }
    let schemas = include_str!("../../src/http/contracts/schemas.json");
    let schemas: serde_json::Map<String, Value> = serde_json::from_str(schemas).unwrap();
    assert_eq!(used, schemas.keys().map(String::as_str).collect());
}

#[tokio::test]
async fn the_documents_are_served_as_they_are_and_the_page_shows_all_of_them() {
    let system = system().await;
    let url = |path: &str| format!("{}{path}", system.http_url());
    for (path, document) in [("/openapi.json", &*OPENAPI), ("/asyncapi.json", &*ASYNCAPI)] {
        let (status, served) = check::json_of(&url(path)).await;
        assert_eq!((status, &served), (200, document), "{path}");
    }

    let response = reqwest::get(url("/docs")).await.unwrap();
    let policy = response.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"),
        "{policy}"
    );
    let (status, page) = check::answer("GET", response).await;
    let page = String::from_utf8(page).unwrap();
    assert_eq!(status, 200);
    for (method, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            page.contains(&format!("<b>{method}</b> <code>{path}</code>")),
            "{method} {path}"
        );
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    for channel in ASYNCAPI["channels"].as_object().unwrap().values() {
        assert!(page.contains(channel["address"].as_str().unwrap()), "{channel}");
    }
    // Its token is in no form that a browser would send or keep, and goes with what may take one.
    let takes = operations()
        .iter()
        .filter(|(_, _, operation)| operation.get("security") != Some(&json!([])))
        .count();
    assert!(takes > 0 && page.matches(" data-token>").count() == takes, "{takes}");
    let (before, _) = page.split_once("<input id=\"token\"").unwrap();
    assert_eq!(before.matches("<form").count(), 0);
    let script = reqwest::get(url("/docs/page.js")).await.unwrap().text().await.unwrap();
    for banned in ["localStorage", "sessionStorage", "cookie", "indexedDB"] {
        assert!(!script.contains(banned), "{banned}");
    }
    // Each link within the page leads somewhere, and what the page loads is here.
    for link in page.split("href=\"").skip(1).chain(page.split("src=\"").skip(1)) {
        let link = link.split('"').next().unwrap();
        if let Some(id) = link.strip_prefix('#') {
            assert!(page.contains(&format!("id=\"{id}\"")), "nothing is at {link}");
        } else {
            let (status, _) = check::answer("GET", reqwest::get(url(link)).await.unwrap()).await;
            assert_eq!(status, 200, "{link}");
        }
    }
    // The policy lets nothing run or look otherwise.
    for banned in [" style=", "<style", " onclick=", "<script>", "javascript:"] {
        assert!(!page.contains(banned), "{banned}");
    }
}

#[test]
fn every_example_has_a_name_that_tells_which_answer_it_gets() {
    for (method, path, operation) in operations() {
        let answered: BTreeSet<String> = examples::of(operation)
            .into_iter()
            .map(|example| example.name)
            .collect();
        let sent = examples::sent(operation);
        let unknown: Vec<_> = sent.difference(&answered).collect();
        assert_eq!(
            json!(unknown),
            json!([]),
            "{method} {path} does not say what these are answered"
        );
    }
}
