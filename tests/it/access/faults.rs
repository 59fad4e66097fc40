//! What is answered while it cannot be known who may do what, and how a service must not start.

use std::process::Stdio;

use ezout::core::policy::Role;
use ezout::keys::dev;
use ezout::tools::servers::free_port;
use ezout::views::Revoked;
use time::OffsetDateTime;
use tokio::process::Command;

use super::guarded::{Asker, Got, RightsOf, dev_mode, grant, keys_of};
use crate::support::{Stack, event, refused, session, wait_for};

fn problem(got: &Got) -> (u16, String) {
    (got.status, got.code())
}

#[tokio::test]
async fn without_mongodb_events_are_taken_and_what_was_known_stays_in_force() {
    let mut stack = Stack::start().await;
    let keys = keys_of(&stack);
    let sign = |subject: &str, role: Option<Role>, shops: &[&str]| {
        dev::sign(&keys, &grant(subject, role, shops), OffsetDateTime::now_utc()).unwrap()
    };
    let (shop, other) = (session(), session());
    let (ada, carol) = (session(), session());
    // At the start nothing is known of anybody.
    stack.mongod.kill().await;
    let service = stack.launch("serve", &dev_mode(&keys));
    let of = |token: String| Asker::new(&service, Some(token));
    let phone = of(sign("phone", Some(Role::Service), &[&shop]));
    let merchant = of(sign("merchant", Some(Role::Merchant), &[&shop]));
    let adas = of(sign(&ada, Some(Role::Merchant), &[&shop]));
    let carols = of(sign(&carol, None, &[]));
    let added = || event(&shop, &session(), 1, "ADD", 1, 1.5, 1.5);
    wait_for("the journal", async || {
        let request = phone.request(reqwest::Method::POST, &format!("/publish/{shop}"));
        let sent = request.json(&added()).send().await.ok()?;
        (sent.status() == 200).then_some(())
    })
    .await;
    let (summary, updates) = (format!("/v1/shops/{shop}/summary"), format!("/v1/shops/{shop}/updates"));
    for path in [&summary, &updates] {
        let got = merchant.get(path).await;
        assert_eq!(problem(&got), (503, "access_unavailable".to_owned()), "{path}");
        assert!(got.headers.contains_key("retry-after"), "{path}");
    }
    // What a token alone forbids is forbidden.
    let got = merchant.publish(&shop, &added()).await;
    assert_eq!(problem(&got), (403, "forbidden".to_owned()));
    let elsewhere = event(&other, &session(), 1, "ADD", 1, 1.5, 1.5);
    assert_eq!(
        problem(&phone.publish(&other, &elsewhere).await),
        (404, "not_found".to_owned())
    );
    assert_eq!(of("a.b.c".to_owned()).publish(&shop, &added()).await.status, 401);

    stack.mongod.restart().await.unwrap();
    for path in [&summary, &updates] {
        merchant.get_until(path).await;
    }

    // And later.
    let rights = RightsOf::of(&stack).await;
    rights.set_member(&carol, Role::Merchant, &[&shop]).await;
    rights.revoke(&Revoked::Subject(ada.clone())).await;
    carols.get_until(&summary).await;
    adas.get_until_status(&summary, 401).await;
    stack.mongod.kill().await;
    // It is known who she is, and what she asks for is not there.
    wait_for("the loss of the baskets", async || {
        let got = carols.get(&summary).await;
        (problem(&got) == (503, "views_unavailable".to_owned())).then_some(())
    })
    .await;
    assert_eq!(problem(&adas.get(&summary).await), (401, "token_revoked".to_owned()));
    assert_eq!(
        problem(&adas.publish(&shop, &added()).await),
        (401, "token_revoked".to_owned())
    );
    let foreign = format!("/v1/shops/{other}/summary");
    assert_eq!(problem(&carols.get(&foreign).await), (404, "not_found".to_owned()));
    assert_eq!(phone.publish(&shop, &added()).await.status, 200);
    stack.mongod.restart().await.unwrap();
    carols.get_until(&summary).await;
    assert!(rights.views.remove_member(&carol).await.unwrap());
    carols.get_until_status(&summary, 403).await;
    assert!(!std::fs::read_to_string(&service.log).unwrap().contains("panic"));
}

#[tokio::test]
async fn a_service_that_asks_nobody_serves_this_machine_only() {
    let stack = Stack::start().await;
    let keys = keys_of(&stack);
    let public = format!("0.0.0.0:{}", free_port().unwrap());
    let admin = format!("127.0.0.1:{}", free_port().unwrap());
    let addresses = [("EZOUT_HTTP_ADDR", &*public), ("EZOUT_ADMIN_ADDR", &*admin)];
    for role in ["serve", "api"] {
        for mode in [&[][..], &[("EZOUT_AUTH", "off")]] {
            let environment = [&addresses[..], mode].concat();
            let said = refused(&stack.ezout_with(&[role], &environment).await);
            assert!(
                said.contains("EZOUT_AUTH=off lets everybody do everything")
                    && said.contains("can be reached from elsewhere"),
                "{role}: {said}"
            );
        }
    }
    let _service = Command::new(env!("CARGO_BIN_EXE_ezout"))
        .arg("serve")
        .env("EZOUT_NATS_URL", stack.nats.url())
        .env("EZOUT_MONGODB_URI", stack.mongod.uri())
        .envs(dev_mode(&keys))
        .envs(addresses)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = format!(
        "http://{}/v1/shops/{}/summary",
        public.replace("0.0.0.0", "127.0.0.1"),
        session()
    );
    let status = wait_for("the service", async || Some(reqwest::get(&url).await.ok()?.status())).await;
    assert_eq!(status, 401);
}
