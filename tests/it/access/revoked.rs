//! How long a revocation counts: until the sign-in after it, until its end, or until somebody lifts it.

use std::sync::Arc;
use std::time::Duration;

use ezout::access::{self, Access};
use ezout::keys::{self, Keys, Mode, SKEW_MAX};
use ezout::metrics::Metrics;
use ezout::views::{Revoked, RevokedUntil};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guarded::{Asker, RightsOf, keys_of};
use crate::support::{Stack, printed, session, wait_for};
use crate::tokens::issuer::{Behaviour, Issuer, Signer};

/// Has MongoDB look each second for what has ended, and not each minute.
async fn forget_soon(stack: &Stack) {
    let admin = mongodb::Client::with_uri_str(stack.mongod.uri()).await.unwrap();
    let often = doc! { "setParameter": 1, "ttlMonitorSleepSecs": 1 };
    admin.database("admin").run_command(often).await.unwrap();
}

async fn is_stored(stack: &Stack) -> bool {
    let revocations = stack.database().await.collection::<Document>("revocations");
    revocations.count_documents(doc! {}).await.unwrap() > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_renewed_stays_revoked_unless_it_tells_of_a_new_sign_in() {
    let issuer = Issuer::start(Behaviour::Status(500)).await;
    let signer = Signer::new("one");
    issuer.behave(signer.published());
    let stack = Stack::start().await;
    forget_soon(&stack).await;
    let options = issuer.options();
    let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (*name, &**value)).collect();
    let service = stack.service_with("serve", &options).await;
    let path = format!("/v1/shops/{}/summary", session());
    let begin = OffsetDateTime::now_utc().unix_timestamp();
    // Renewed so many seconds later, in a session that may say when it began.
    let renewed = |after: i64, began: Option<i64>| {
        let mut claims = json!({
            "iss": issuer.url(), "aud": "ezout", "sub": "ada", "iat": begin + after, "exp": begin + 3_600,
            "role": "support", "shops": ["*"],
        });
        if let Some(began) = began {
            claims["auth_time"] = Value::from(begin + began);
        }
        Asker::new(&service, Some(signer.sign(&claims)))
    };
    let first = renewed(-30, None);
    first.get_until(&path).await;

    printed(&stack.ezout(&["revoke", "ada"]).await);
    let refused = async |asker: &Asker| {
        let got = asker.get_until_status(&path, 401).await;
        assert_eq!(got.code(), "token_revoked");
    };
    // By the clock it is of later than the revocation.
    let later = renewed(50, None);
    refused(&first).await;
    refused(&later).await;
    refused(&renewed(50, Some(-30))).await;
    refused(&renewed(50, Some(50))).await;
    // So far ahead no clock of an issuer may be.
    wait_for("the new sign-in to count", async || {
        let passed = OffsetDateTime::now_utc().unix_timestamp() - begin;
        let new = renewed(passed, Some(passed + SKEW_MAX.whole_seconds()));
        (new.get(&path).await.status == 200).then_some(())
    })
    .await;

    let said = printed(&stack.ezout(&["revoke", "--lift", "ada"]).await);
    assert!(said.contains("may count again"), "{said}");
    for asker in [&first, &later] {
        asker.get_until(&path).await;
    }
    let said = printed(&stack.ezout(&["revoke", "--lift", "ada"]).await);
    assert!(said.contains("was not revoked"), "{said}");

    // With an end it counts again by itself, and nothing is left of it.
    let said = printed(&stack.ezout(&["revoke", "ada", "--for", "24h"]).await);
    assert!(said.contains("ada signed in with is revoked until 20"), "{said}");
    refused(&later).await;
    // And is never made shorter by somebody who does not know of it.
    let said = crate::support::refused(&stack.ezout(&["revoke", "ada", "--for", "1s"]).await);
    assert!(said.contains("is revoked for longer already, until 20"), "{said}");
    printed(&stack.ezout(&["revoke", "ada"]).await);
    for shorter in ["1s", "24h"] {
        let said = crate::support::refused(&stack.ezout(&["revoke", "ada", "--for", shorter]).await);
        assert!(said.contains("for longer already, until it is lifted"), "{said}");
    }
    refused(&later).await;
    printed(&stack.ezout(&["revoke", "--lift", "ada"]).await);
    printed(&stack.ezout(&["revoke", "ada", "--for", "1s"]).await);
    later.get_until(&path).await;
    wait_for("the revocation to be forgotten", async || {
        (!is_stored(&stack).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_listed_from_the_newest_on() {
    let stack = Stack::start().await;
    printed(&stack.ezout(&["migrate"]).await);
    let listed = async || printed(&stack.ezout(&["revoke", "--list"]).await);
    assert_eq!(listed().await, "nothing is revoked\n");

    printed(&stack.ezout(&["revoke", "ada"]).await);
    printed(&stack.ezout(&["revoke", "--token", "t-1", "--for", "24h"]).await);
    printed(&stack.ezout(&["revoke", "bob", "--for", "24h"]).await);
    // One of before it was noted by whom, and one that has ended and is still there.
    let revocations = stack.database().await.collection::<Document>("revocations");
    let at = |seconds: i64| mongodb::bson::DateTime::from_millis(1_700_000_000_000 + 1_000 * seconds);
    let stored = [
        doc! { "_id": "subject:of before", "at": at(0) },
        doc! { "_id": "subject:over", "at": at(0), "ends_at": at(1) },
    ];
    revocations.insert_many(stored).await.unwrap();

    let lists = listed().await;
    let lines: Vec<Vec<&str>> = lines_of(&lists);
    let by = format!(", by command of user {}", rustix::process::getuid().as_raw());
    let whats: Vec<&str> = lines.iter().map(|line| line[1]).collect();
    assert_eq!(
        whats,
        ["all of bob", "token t-1", "all of ada", "all of of before"],
        "{lists}"
    );
    assert!(
        lines
            .iter()
            .all(|line| line[0].starts_with("20") && line[0].ends_with('Z')),
        "{lists}"
    );
    assert!(
        lines[0][2].starts_with("until 20") && lines[0][2].ends_with(&by),
        "{lists}"
    );
    assert!(
        lines[1][2].starts_with("until 20") && lines[1][2].ends_with(&by),
        "{lists}"
    );
    assert_eq!(lines[2][2], format!("until it is lifted{by}"));
    assert_eq!(
        lines[3],
        ["2023-11-14T22:13:20Z", "all of of before", "until it is lifted"]
    );

    for more in [&["ada"][..], &["--token", "t-1"], &["--lift"], &["--for", "1h"]] {
        let said = crate::support::refused(&stack.ezout(&[&["revoke", "--list"], more].concat()).await);
        assert!(said.contains("--list"), "{said}");
    }
    printed(&stack.ezout(&["revoke", "--lift", "bob"]).await);
    assert!(!listed().await.contains("bob"));
}

fn lines_of(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("  ").collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_has_ended_is_forgotten_by_mongodb_and_by_every_process() {
    let stack = Stack::start().await;
    forget_soon(&stack).await;
    printed(&stack.ezout(&["migrate"]).await);
    let rights = RightsOf::of(&stack).await;
    let (metrics, tasks, stop) = (Arc::new(Metrics::new()), TaskTracker::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let config = keys::Config {
        mode: Some(Mode::Dev),
        project: None,
        issuer: None,
        audience: None,
        algorithms: vec![keys::Algorithm::Rs256],
        claim: None,
        tenant: None,
        keys_url: None,
        dev_keys: Some(keys_of(&stack)),
    };
    let keys = Keys::start(&config, &metrics, &tasks, stop.clone()).unwrap();
    let config = access::Config { anonymous: None };
    let access = Access::start(&config, keys, rights.views.clone(), metrics, &tasks, stop.clone());
    let mut known = access.changes();
    let mut knows = async |number: usize| {
        let count = |rights: &Option<Arc<ezout::views::Rights>>| rights.as_ref().map(|rights| rights.revoked.len());
        known.wait_for(|rights| count(rights) == Some(number)).await.unwrap();
    };

    let (ada, bob) = (Revoked::Subject("ada".to_owned()), Revoked::Token("bob".to_owned()));
    let revoke = async |revoked: &Revoked, until| rights.views.revoke(revoked, until, "a test").await.unwrap();
    let after = |lasts: Duration| RevokedUntil::At(OffsetDateTime::now_utc() + lasts);
    assert!(revoke(&ada, after(Duration::from_hours(1))).await);
    assert!(revoke(&bob, RevokedUntil::Lifted).await);
    knows(2).await;
    // Whoever revokes once more may say a later end and no sooner one.
    for of_them in [&ada, &bob] {
        assert!(!revoke(of_them, after(Duration::from_secs(1))).await);
    }
    assert!(revoke(&ada, after(Duration::from_hours(2))).await);
    assert!(rights.views.lift(&ada).await.unwrap());
    knows(1).await;
    // Long enough to be heard of.
    assert!(revoke(&ada, after(Duration::from_secs(5))).await);
    knows(2).await;
    knows(1).await;
    assert!(revoke(&ada, RevokedUntil::Lifted).await);
    knows(2).await;
    assert!(rights.views.lift(&ada).await.unwrap());
    assert!(!rights.views.lift(&ada).await.unwrap());
    knows(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_name_nothing_is_not_revoked_and_no_token_is_written_or_said() {
    let stack = Stack::start().await;
    printed(&stack.ezout(&["migrate"]).await);
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({ "sub": "ada", "iat": now, "exp": now + 3_600 });
    let token = Signer::new("one").sign(&claims);
    let (with_scheme, cut, long) = (format!("Bearer {token}"), &token[..token.len() - 9], "x".repeat(129));
    for name in [&token, &with_scheme, cut, &long, "", "a\nb"] {
        for words in [&["revoke", name][..], &["revoke", "--token", name]] {
            let said = crate::support::refused(&stack.ezout(words).await);
            assert!(!said.contains("eyJ") && !said.contains(&long), "{said}");
        }
    }
    for id in ["a b", "a.b.c", "\u{a0}"] {
        crate::support::refused(&stack.ezout(&["revoke", "--token", id]).await);
    }
    assert!(!is_stored(&stack).await);

    // By stdin it may be as it stands in a header.
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_ezout"))
        .args(["revoke", "--token", "-"])
        .env("EZOUT_MONGODB_URI", stack.mongod.uri())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, with_scheme.as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let said = printed(&child.wait_with_output().await.unwrap());
    assert!(said.contains("is revoked until 20") && !said.contains("eyJ"), "{said}");
    let database = stack.database().await;
    for collection in ["revocations", "audit"] {
        let found = database
            .collection::<Document>(collection)
            .find_one(doc! {})
            .await
            .unwrap();
        let found = found.unwrap().to_string();
        assert!(!found.contains("eyJ"), "{collection}: {found}");
    }
}
