//! Names that mean more than themselves elsewhere: on NATS, in MongoDB, in paths. Here they are refused, or mean themselves.

use ezout::core::policy::Role;
use ezout::keys::dev::Grant;
use ezout::present;
use ezout::views::Revoked;
use reqwest::Method;
use serde_json::{Value, json};

use super::guarded::{Got, Guarded, Stocked, grant};
use crate::support::{event, session};

/// As shops, sessions and shoppers.
fn hostile(other: &Stocked) -> Vec<String> {
    let mut names: Vec<String> = [
        "*",
        ">",
        "",
        ".",
        "..",
        "a.b",
        "*.*",
        "%",
        "%2e%2e",
        "..%2f",
        "$where",
        "$ne",
        "$JS.API.INFO",
        "{}",
        "[]",
        "null",
        "true",
        "0",
        "-1",
        " ",
        "\t",
        "\r\n",
        "a\r\nX: y",
        "\u{0}",
        "'",
        "\"",
        "\\",
        "/",
        "//",
        "../..",
        "\u{1f600}",
        "\u{202e}",
        "\u{ff0a}",
        "123e4567-e89b-42d3-a456-42661417400\u{ff10}",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(65));
    names.push("9".repeat(10 * 1024));
    for end in [".*", ".>", "\u{0}", " ", "\n", "/", "/..", ".x", "%00", "?", "#", ","] {
        names.push(format!("{}{end}", other.shop));
    }
    names.push(format!("{{{}}}", other.shop));
    names.push(format!("urn:uuid:{}", other.shop));
    names.push(format!("{},{}", other.shop, other.shop));
    names
}

fn encoded(name: &str) -> String {
    let escaped: Vec<String> = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    escaped.concat()
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_and_names_nothing_of_somebody_else() {
    let guarded = Guarded::shared().await;
    let own = session();
    let other = guarded.shop_with(&session(), &session()).await;
    let own_data = guarded.shop_with(&own, "pears").await;
    let before = [
        guarded.journal_of(&own).await.len(),
        guarded.journal_of(&other.shop).await.len(),
    ];
    let callers = [Role::Merchant, Role::Support, Role::Service, Role::Admin]
        .map(|role| (role, guarded.caller(Some(guarded.token(role, &[&own])))));
    for name in hostile(&other) {
        let shown: String = name.chars().take(60).collect();
        for (role, caller) in &callers {
            // As it is where that is a path, and with everything escaped.
            for part in [
                encoded(&name),
                name.replace(|c: char| c.is_ascii_control() || " #?%".contains(c), "~"),
            ] {
                for path in [
                    format!("/v1/shops/{part}/baskets"),
                    format!("/v1/shops/{part}/updates"),
                    format!("/v1/shops/{part}/sessions/{}/basket", other.session),
                    format!("/v1/shops/{own}/sessions/{part}/basket"),
                    format!("/v1/shops/{own}/sessions/{part}/events"),
                    format!("/v1/shops/{own}/sessions/{}/corrections/{part}", own_data.session),
                ] {
                    let got = Got::of(caller.request(Method::GET, &path)).await;
                    let what = format!("{role} at {shown:?} in {path:.100}");
                    // A path that leads up and down again may be that of an own resource.
                    let is_own = path.contains("/..") && got.text.contains(&own) || path.contains("//");
                    assert!(
                        (400..500).contains(&got.status) || is_own && got.status == 200,
                        "{what}: {got:?}"
                    );
                    got.has_none_of(&other.secrets(), &what);
                }
                let body = event(&own, &session(), 1, "ADD", 1, 1.5, 1.5);
                let got = caller.post(&format!("/publish/{part}"), &body).await;
                assert!((400..500).contains(&got.status), "{role} to {shown:?}: {got:?}");
            }
            for field in ["shop_id", "session_id", "shopper_id"] {
                let mut body = event(&own, &session(), 1, "ADD", 1, 1.5, 1.5);
                body[field] = json!(name);
                for path in ["/send", &format!("/publish/{own}"), &format!("/v1/shops/{own}/events")] {
                    let got = caller.post(path, &body).await;
                    let is_refused = got.status == 422 || got.status == 403;
                    assert!(is_refused, "{role}, {field} {shown:?} to {path}: {got:?}");
                    got.has_none_of(&other.secrets(), "a refusal");
                }
            }
        }
    }
    let after = [
        guarded.journal_of(&own).await.len(),
        guarded.journal_of(&other.shop).await.len(),
    ];
    assert_eq!(before, after, "something was recorded");
    let log = std::fs::read_to_string(&guarded.service.log).unwrap();
    assert!(!log.contains("panic"), "{log}");
}

#[tokio::test]
async fn a_name_of_a_resource_is_taken_as_it_is() {
    let guarded = Guarded::shared().await;
    let other = guarded.shop_with(&session(), &session()).await;
    let nats = guarded.stack.nats_client().await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let kept = json!({
        "sub": "ada", "jti": "1", "iat": now, "auth_time": now, "exp": now + 3_600, "role": "admin",
        "shops": [session()], "shopper_id": null, "anonymous": false,
    });
    for name in hostile(&other) {
        // What no subject can hold does not come in.
        let is_subject = |name: &str| {
            !name.is_empty()
                && name.split('.').all(|part| !part.is_empty())
                && !name.contains(|c: char| c.is_ascii_whitespace())
        };
        if !is_subject(&name) || name.contains('>') || name.len() > 1_000 {
            continue;
        }
        let mut subjects = vec![
            format!("access.ezout.shop.{name}.baskets"),
            format!("get.ezout.shop.{name}.baskets"),
            format!("access.ezout.shop.{}.basket.{name}", other.shop),
            format!("get.ezout.shop.{}.basket.{name}", other.shop),
            format!("call.ezout.shop.{}.basket.{name}.handle", other.shop),
            format!("call.ezout.shop.{}.basket.{}.{name}", other.shop, other.session),
            format!("access.ezout.{name}"),
            format!("auth.ezout.{name}.jwt"),
        ];
        for (word, methods) in present::resources() {
            let rest = if word == "basket" {
                format!("{word}.{}", other.session)
            } else {
                word.to_owned()
            };
            let resource = format!("ezout.shop.{name}.{rest}");
            subjects.extend(["access", "get"].map(|kind| format!("{kind}.{resource}")));
            subjects.extend(methods.iter().map(|(method, _)| format!("call.{resource}.{method}")));
        }
        for subject in subjects {
            let request = json!({ "token": kept, "cid": "dc2cmhlqmd2tgi8lv4rg", "params": { "by": "Ada" } });
            let answer = nats.request(subject.clone(), request.to_string().into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(answer["error"]["code"].is_string(), "{subject}: {answer}");
            for secret in other.secrets() {
                assert!(!answer.to_string().contains(secret), "{subject}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_no_right_is_none_and_a_subject_is_itself() {
    let guarded = Guarded::shared().await;
    let other = guarded.shop_with(&session(), &session()).await;
    let look = format!("/v1/shops/{}/baskets", other.shop);
    // Shops that mean more than one, roles and shoppers that are none: the whole token is refused.
    let mut tokens = Vec::new();
    for name in hostile(&other) {
        if name != "*" && name.len() < 1_000 {
            tokens.push((name.clone(), grant("ada", Some(Role::Merchant), &[&name])));
            let own = session();
            tokens.push((name.clone(), grant("ada", Some(Role::Merchant), &[&own, &name])));
        }
        if name.len() < 1_000 {
            let shoppers = Grant {
                shopper_id: Some(name.clone()),
                ..grant("ada", Some(Role::Support), &[&other.shop])
            };
            tokens.push((name.clone(), shoppers));
            tokens.push((
                name.clone(),
                Grant {
                    role: Some(name),
                    ..grant("ada", None, &[&other.shop])
                },
            ));
        }
    }
    for role in ["Admin", "ADMIN", "admin ", "merchant,admin", "root"] {
        tokens.push((
            role.to_owned(),
            Grant {
                role: Some(role.to_owned()),
                ..grant("ada", None, &["*"])
            },
        ));
    }
    for (name, grant) in tokens {
        let got = guarded.caller(Some(guarded.sign(&grant))).get(&look).await;
        assert_eq!(
            (got.status, got.code().as_str()),
            (401, "invalid_token"),
            "{name:?}: {got:?}"
        );
        got.has_none_of(&other.secrets(), &name);
    }

    // Whatever somebody is called, it is only them.
    let rights = guarded.rights().await;
    let bystander = guarded.caller(Some(guarded.sign(&grant("somebody else", None, &[]))));
    let [one, another] = [(), ()].map(|()| guarded.caller(Some(guarded.token(Role::Support, &[&other.shop]))));
    let long = "\u{e4}".repeat(128);
    for subject in [
        "*",
        ">",
        "$set",
        "$ne",
        "$$ROOT",
        "a.b",
        "{\"$ne\":null}",
        "subject:x",
        "token:x",
        "_id",
        "__proto__",
        "x\u{202e}",
        "'",
        "\"",
        &long,
    ] {
        let token = guarded.sign(&grant(subject, None, &[]));
        let caller = guarded.caller(Some(token));
        assert_eq!(caller.get(&look).await.code(), "forbidden", "{subject}");
        rights.set_member(subject, Role::Merchant, &[&other.shop]).await;
        caller.get_until(&look).await;
        assert_eq!(bystander.get(&look).await.code(), "forbidden", "{subject}");
        rights.revoke(&Revoked::Subject(subject.to_owned())).await;
        let got = caller.get_until_status(&look, 401).await;
        assert_eq!(got.code(), "token_revoked", "{subject}");
        rights.revoke(&Revoked::Token(subject.to_owned())).await;
        for other in [&one, &another] {
            assert_eq!(other.get(&look).await.status, 200, "{subject}");
        }
        assert!(rights.views.remove_member(subject).await.unwrap(), "{subject}");
    }
    // No names at all.
    for subject in ["", "a\u{0}", "a\nb", &"x".repeat(129)] {
        let got = guarded
            .caller(Some(guarded.sign(&grant(subject, Some(Role::Admin), &["*"]))))
            .get(&look)
            .await;
        assert_eq!((got.status, got.code().as_str()), (401, "invalid_token"), "{subject:?}");
    }
}
