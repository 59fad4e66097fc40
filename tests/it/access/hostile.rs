//! Hostile tokens and headers, sent to a service that runs.

use std::time::{Duration, Instant};

use ezout::core::policy::Role;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::guarded::{Asker, Got, Guarded};
use crate::support::gateway::Gateway;
use crate::support::{Stack, event, session, wait_for};
use crate::tokens::issuer::Issuer;
use crate::tokens::{HOSTILE, Made, PROJECT, SHOP};

pub(super) fn no_panic_in(log: &std::path::Path) {
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("panic"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_token_is_refused_at_every_door_and_causes_one_fetch() {
    let Some(made) = Made::make(None).await else { return };
    let issuer = Issuer::start(made.set("old")).await;
    let (begun, stack) = (Instant::now(), Stack::start().await);
    let keys_url = issuer.keys_url();
    let firebase = [
        ("EZOUT_AUTH", "firebase"),
        ("EZOUT_AUTH_PROJECT", PROJECT),
        ("EZOUT_AUTH_KEYS_URL", &keys_url),
        ("EZOUT_AUTH_ANONYMOUS", "append"),
    ];
    let service = stack.service_with("serve", &firebase).await;
    let asker = Asker::new(&service, None);
    let look = format!("/v1/shops/{SHOP}/summary");
    let append = format!("/publish/{SHOP}");
    let good = format!("Bearer {}", made.token("good"));
    let with = |method: Method, path: &str, value: &HeaderValue| {
        let request = asker.request(method.clone(), path).header("authorization", value);
        match method {
            Method::POST => request.json(&event(SHOP, &session(), 1, "ADD", 1, 1.5, 1.5)),
            _ => request,
        }
    };
    let good = HeaderValue::from_str(&good).unwrap();
    wait_for("the first right answer", async || {
        (Got::of(with(Method::GET, &look, &good)).await.status == 200).then_some(())
    })
    .await;
    // Whoever has no token may append here, and nothing else.
    let anonymous = asker
        .publish(SHOP, &event(SHOP, &session(), 1, "ADD", 1, 1.5, 1.5))
        .await;
    assert_eq!(anonymous.status, 200);
    assert_eq!(asker.get(&look).await.code(), "no_token");

    let mut wrong = Vec::new();
    for (word, names) in HOSTILE {
        for name in *names {
            let token = made.token(name);
            // One that says so many things about itself would be told to wait.
            let gateway = Gateway::connect(&stack.nats.url()).await;
            let said = gateway.auth("ezout.auth", "jwt", json!({ "jwt": token })).await;
            let code = said.err().map(|error| error["code"].as_str().unwrap().to_owned());
            let wanted = if *word == "expired" {
                "system.accessDenied"
            } else {
                "ezout.invalid_token"
            };
            if code.as_deref() != Some(wanted) || gateway.token() != Value::Null {
                wrong.push(format!("{name}: {code:?} at a gateway"));
            }
            // What no header can hold comes in no other way.
            let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) else {
                continue;
            };
            for (method, path) in [(Method::GET, &look), (Method::POST, &append)] {
                let got = Got::of(with(method.clone(), path, &value)).await;
                let wanted = if *word == "expired" {
                    "token_expired"
                } else {
                    "invalid_token"
                };
                let is_refused = got.status == 401 && got.code() == wanted;
                // Too much for any header.
                if !is_refused && got.status != 431 {
                    wrong.push(format!("{name}: {got:?} to {method} {path}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let pauses = begun.elapsed().as_secs() / 30;
    let fetches = issuer.fetches() as u64;
    assert!(fetches <= 2 + pauses, "{fetches} fetches in {:?}", begun.elapsed());
    assert_eq!(Got::of(with(Method::GET, &look, &good)).await.status, 200);
    no_panic_in(&service.log);
}

#[tokio::test]
async fn a_header_of_an_odd_form_is_refused_and_never_taken_for_none() {
    let guarded = Guarded::shared().await;
    let shop = session();
    let token = guarded.token(Role::Admin, &["*"]);
    let nobody = guarded.caller(None);
    let odd: Vec<Vec<Vec<u8>>> = [
        vec![format!("Bearer {token}"), format!("Bearer {token}")],
        vec![format!("Bearer {token}"), String::new()],
        vec![String::new()],
        vec!["Bearer".to_owned()],
        vec!["Bearer ".to_owned()],
        vec![format!("Bearer\t{token}")],
        vec![format!("Bearer{token}")],
        vec![format!("Bearer {token} {token}")],
        vec![format!("Bearer {token}, Bearer {token}")],
        vec![format!("Bearer \"{token}\"")],
        vec![format!("Bearer token={token}")],
        vec![format!("Token {token}")],
        vec![format!("Basic {token}")],
        vec!["Basic YWRhOmFkYQ==".to_owned()],
        vec!["Digest username=\"ada\"".to_owned()],
        vec![token.clone()],
        vec![format!("Bearer {}", "x".repeat(100 * 1024))],
        vec![format!("Bearer {}", "a.".repeat(4_000))],
        vec!["Bearer \u{e4}\u{f6}".to_owned()],
        vec![format!("Bearer {token}\u{a0}")],
    ]
    .into_iter()
    .map(|values| values.into_iter().map(String::into_bytes).collect())
    .chain([vec![b"Bearer \xff\xfe".to_vec()], vec![b"\xff".to_vec()]])
    .collect();
    for values in &odd {
        for (method, path) in [
            (Method::GET, format!("/v1/shops/{shop}/summary")),
            (Method::GET, format!("/v1/shops/{shop}/updates")),
            (Method::POST, format!("/publish/{shop}")),
            (Method::POST, "/send".to_owned()),
        ] {
            let mut request = nobody.request(method.clone(), &path);
            for value in values {
                request = request.header("authorization", HeaderValue::from_bytes(value).unwrap());
            }
            if method == Method::POST {
                request = request.json(&event(&shop, &session(), 1, "ADD", 1, 1.5, 1.5));
            }
            let got = Got::of(request).await;
            let shown: Vec<_> = values
                .iter()
                .map(|value| value[..value.len().min(40)].escape_ascii().to_string())
                .collect();
            if got.status == 431 {
                assert!(values[0].len() > 64 * 1024, "{shown:?}");
                continue;
            }
            assert_eq!(
                (got.status, got.code().as_str()),
                (401, "invalid_token"),
                "{shown:?}: {got:?}"
            );
            assert!(got.headers.contains_key("www-authenticate"), "{shown:?}");
        }
    }
    assert_eq!(guarded.journal_of(&shop).await.len(), 0);
    // How the scheme is written does not matter.
    for scheme in ["bearer", "BEARER", "Bearer  "] {
        let request = nobody.request(Method::GET, &format!("/v1/shops/{shop}/summary"));
        let got = Got::of(request.header("authorization", format!("{scheme} {token}"))).await;
        assert_eq!(got.status, 200, "{scheme}: {got:?}");
    }
    no_panic_in(&guarded.service.log);
}

#[tokio::test]
async fn without_keys_a_token_is_neither_right_nor_wrong() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let stack = Stack::start().await;
    let port = ezout::tools::servers::free_port().unwrap();
    let issuer = format!("http://127.0.0.1:{port}");
    let oidc = [
        ("EZOUT_AUTH", "oidc"),
        ("EZOUT_AUTH_ISSUER", &*issuer),
        ("EZOUT_AUTH_AUDIENCE", "ezout-api"),
    ];
    let service = stack.service_with("serve", &oidc).await;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (header, claims) = (json!({ "alg": "RS256", "kid": "one" }), json!({ "sub": "ada" }));
    let token = format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode([7; 256]));
    let (known, nobody) = (Asker::new(&service, Some(token.clone())), Asker::new(&service, None));
    let shop = session();
    for path in ["summary", "updates", "baskets"] {
        let path = format!("/v1/shops/{shop}/{path}");
        let got = known.get(&path).await;
        assert_eq!((got.status, got.code().as_str()), (503, "access_unavailable"), "{path}");
        assert!(got.headers.contains_key("retry-after"));
        assert_eq!(nobody.get(&path).await.status, 401);
    }
    let added = event(&shop, &session(), 1, "ADD", 1, 1.5, 1.5);
    let got = known.publish(&shop, &added).await;
    assert_eq!((got.status, got.code().as_str()), (503, "access_unavailable"));
    // What is wrong whatever the keys are is said to be.
    let garbage = Asker::new(&service, Some("a.b.c".to_owned()));
    assert_eq!(garbage.publish(&shop, &added).await.code(), "invalid_token");

    // A client keeps what it was given: nothing was learned about it.
    let nats = stack.nats_client().await;
    let cid = "dc2cmhlqmd2tgi8lv4rg";
    let mut given = nats.subscribe(format!("conn.{cid}.*")).await.unwrap();
    nats.flush().await.unwrap();
    let auth = async |is_http: bool| {
        let request = json!({ "cid": cid, "token": { "sub": "ada" }, "params": { "jwt": token }, "isHttp": is_http });
        let answer = nats
            .request("auth.ezout.auth.jwt", request.to_string().into())
            .await
            .unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let answer = auth(false).await;
    assert_eq!(answer["error"]["code"], "ezout.unavailable", "{answer}");
    let answer = auth(true).await;
    assert_eq!(answer["meta"]["status"], 503, "{answer}");
    nats.publish(format!("conn.{cid}.end"), "".into()).await.unwrap();
    let next = tokio::time::timeout(Duration::from_mins(1), futures::StreamExt::next(&mut given)).await;
    assert_eq!(next.unwrap().unwrap().subject.as_str(), format!("conn.{cid}.end"));
    no_panic_in(&service.log);
}
