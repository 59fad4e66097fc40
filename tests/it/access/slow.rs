//! Whoever is revoked while their body is on its way does nothing with it.

use ezout::core::policy::Role;
use ezout::views::Revoked;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::guarded::Guarded;
use crate::support::{event, session};

/// A request whose head was taken, and whose body is awaited.
struct Begun {
    stream: TcpStream,
    body: String,
}

impl Begun {
    /// Returns when the body is being read: only then the client is told to go on.
    async fn begin(guarded: &Guarded, token: &str, line: &str, kind: &str, body: String) -> Self {
        let address = guarded.service.http_url().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {token}\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut said).await.unwrap() > 0, "{line}: it ended");
        }
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("HTTP/1.1 100 "), "{line}: {said}");
        Self { stream, body }
    }

    async fn end(mut self) -> String {
        self.stream.write_all(self.body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn whoever_is_revoked_while_their_body_comes_does_nothing_with_it() {
    let guarded = Guarded::shared().await;
    let (shop, ada) = (session(), session());
    let of = guarded.shop_with(&shop, "pears").await;
    let before = guarded.journal_of(&shop).await;
    let token = guarded.token_of(&ada, Role::Admin, &["*"]);
    let visit = format!("/v1/shops/{shop}/sessions/{}", of.session);
    let added = event(&shop, &session(), 1, "ADD", 1, 1.5, 1.5).to_string();
    let correction = json!({ "author": "Ada", "reason": "slow", "adjustment": { "by": 1 } }).to_string();
    let (json, lines) = ("application/json", "application/x-ndjson");
    let mut begun = Vec::new();
    for (line, kind, body) in [
        (format!("POST /publish/{shop}"), json, added.clone()),
        ("POST /send".to_owned(), json, added.clone()),
        (format!("POST /v1/shops/{shop}/events"), json, added.clone()),
        (format!("POST /v1/shops/{shop}/events"), lines, added),
        (format!("POST {visit}/corrections"), json, correction),
        (
            format!("PUT {visit}/handling"),
            json,
            json!({ "by": "Ada" }).to_string(),
        ),
        (
            format!("DELETE {visit}/handling"),
            json,
            json!({ "by": "Ada" }).to_string(),
        ),
        (
            format!("PUT /v1/shops/{shop}"),
            json,
            json!({ "name": "Slow" }).to_string(),
        ),
        (
            format!("POST /v1/shops/{shop}/seen"),
            json,
            json!({ "sequence": 1 }).to_string(),
        ),
        (
            "POST /v1/operations/parked/1".to_owned(),
            json,
            json!({ "decision": "drop", "reason": "slow" }).to_string(),
        ),
    ] {
        let request = Begun::begin(guarded, &token, &line, kind, body).await;
        begun.push((line, request));
    }
    guarded.rights().await.revoke(&Revoked::Subject(ada)).await;
    let asks = guarded.caller(Some(token));
    asks.get_until_status("/v1/me", 401).await;
    for (line, request) in begun {
        let answer = request.end().await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{line}: {answer}");
        assert!(answer.contains("\"token_revoked\""), "{line}: {answer}");
    }
    assert_eq!(guarded.journal_of(&shop).await, before);
    let admin = guarded.admin();
    assert!(admin.get(&format!("/v1/shops/{shop}")).await.json()["name"].is_null());
    let handlings = admin.get(&format!("/v1/shops/{shop}/handlings")).await;
    assert!(!handlings.text.contains("Ada"), "{handlings:?}");
}
