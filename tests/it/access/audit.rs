//! Who asked for a correction is known of every correction, whatever dies when, and whichever part it came by.

use std::collections::BTreeSet;
use std::time::Duration;

use ezout::core::policy::Role;
use ezout::keys::dev::{self, Grant};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::json;
use time::OffsetDateTime;

use super::guarded::{Asker, Got, Guarded, dev_mode, grant, keys_of};
use crate::support::gateway::Gateway;
use crate::support::{Service, Stack, event, session, wait_for};

/// How often the API dies at a moment by chance.
const KILLS: u32 = 6;

fn token(stack: &Stack, subject: &str, role: Role) -> String {
    let grant = grant(subject, Some(role), &["*"]);
    dev::sign(&keys_of(stack), &grant, OffsetDateTime::now_utc()).unwrap()
}

fn asker(stack: &Stack, service: &Service, subject: &str) -> Asker {
    Asker::new(service, Some(token(stack, subject, Role::Admin)))
}

/// The ids of all corrections that the journal has.
async fn in_journal(stack: &Stack) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (_, message) in stack.recorded().await {
        let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        ids.extend(event["correction_id"].as_str().map(str::to_owned));
    }
    ids
}

/// Who asked for which correction, by the audit.
async fn in_audit(stack: &Stack) -> BTreeSet<(String, String)> {
    let audit = stack.database().await.collection::<Document>("audit");
    let found = audit
        .find(doc! { "verb": "correct", "outcome": "asked" })
        .await
        .unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let noted = found.iter().map(|deed| {
        let what = deed.get_str("what").unwrap();
        let id = what.strip_prefix("correction ").unwrap().to_owned();
        (id, deed.get_str("who").unwrap().to_owned())
    });
    noted.collect()
}

async fn holds(stack: &Stack, who: &str) -> usize {
    let (journal, audit) = (in_journal(stack).await, in_audit(stack).await);
    for id in &journal {
        assert!(
            audit.contains(&(id.clone(), who.to_owned())),
            "nobody knows who asked for {id}"
        );
    }
    journal.len()
}

fn correction(id: &str) -> serde_json::Value {
    json!({ "id": id, "author": "Ada", "reason": "a wrong price", "adjustment": { "by": 1 } })
}

/// Sends a correction until it is taken.
async fn taken(asker: &Asker, path: &str, id: &str) {
    wait_for("the correction to be taken", async || {
        let request = asker.request(reqwest::Method::POST, path).json(&correction(id));
        (request.send().await.ok()?.status() == 202).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_process_dies_it_is_known_who_asked_for_each_correction() {
    let stack = Stack::start().await;
    let keys = keys_of(&stack);
    let with = |place: Option<&'static str>| {
        let mut environment = dev_mode(&keys).to_vec();
        environment.extend(place.map(|place| ("EZOUT_FAIL_POINT", place)));
        environment
    };
    let mut project = stack.service_with("project", &with(None)).await;
    let _correct = stack.service_with("correct", &with(None)).await;
    let (shop, visit) = (session(), session());
    let api = stack.service_with("api", &with(None)).await;
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    let sequence = asker(&stack, &api, "ada").publish(&shop, &added).await.sequence();
    let basket = format!("/v1/shops/{shop}/sessions/{visit}/basket?min_sequence={sequence}");
    asker(&stack, &api, "ada").get_until(&basket).await;
    let path = format!("/v1/shops/{shop}/sessions/{visit}/corrections");
    let mut asked = 0;

    // Between the two writes, and after both.
    for place in ["before_proposal", "after_proposal"] {
        let mut victim = stack.service_with("api", &with(Some(place))).await;
        let (ada, id) = (asker(&stack, &victim, "ada"), session());
        // It may not know yet who may do what.
        wait_for("the process to die", async || {
            let request = ada.request(reqwest::Method::POST, &path).json(&correction(&id));
            request.send().await.is_err().then_some(())
        })
        .await;
        victim.exited().await;
        let noted = in_audit(&stack).await;
        assert!(
            noted.contains(&(id.clone(), "ada".to_owned())),
            "{place}: it was not noted before it was filed"
        );
        taken(&asker(&stack, &api, "ada"), &path, &id).await;
        asked += 1;
    }
    // At moments by chance, in the middle of many.
    for _ in 0..KILLS {
        let mut victim = stack.service_with("api", &with(None)).await;
        let ids: Vec<String> = (0..40).map(|_| session()).collect();
        let ada = asker(&stack, &victim, "ada");
        let sending = async {
            for id in &ids {
                let request = ada.request(reqwest::Method::POST, &path).json(&correction(id));
                if request.send().await.is_err() {
                    break;
                }
            }
        };
        let lives = Duration::from_millis(fastrand::u64(20..400));
        let _ = tokio::time::timeout(lives, sending).await;
        victim.kill().await;
        // The last one, whatever became of it, is sent again.
        taken(&asker(&stack, &api, "ada"), &path, &ids[39]).await;
    }
    // By a call through Resgate, which the owner of the shop answers.
    for place in ["before_proposal", "after_proposal"] {
        project.kill().await;
        let mut victim = stack.service_with("project", &with(Some(place))).await;
        let id = session();
        let gateway = Gateway::connect(&stack.nats.url()).await;
        let jwt = json!({ "jwt": token(&stack, "ada", Role::Admin) });
        gateway.auth("ezout.auth", "jwt", jwt).await.unwrap();
        let name = format!("ezout.shop.{shop}.basket.{visit}");
        let calling = async {
            loop {
                let _ = gateway.call(&name, "correct", correction(&id)).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = calling => {}
            _ = victim.exited() => {}
        }
        let noted = in_audit(&stack).await;
        assert!(
            noted.contains(&(id.clone(), "ada".to_owned())),
            "{place}: it was not noted before it was filed"
        );
        project = stack.service_with("project", &with(None)).await;
        taken(&asker(&stack, &api, "ada"), &path, &id).await;
        asked += 1;
    }
    let list = format!("{path}?limit=200");
    wait_for("every correction to be in the journal", async || {
        let got: Got = asker(&stack, &api, "ada").get(&list).await;
        let json = got.json();
        let all = json["corrections"].as_array()?;
        all.iter().all(|filed| filed["state"] != "new").then_some(())
    })
    .await;
    let held = holds(&stack, "ada").await;
    assert!(held >= asked + usize::try_from(KILLS).unwrap(), "{held} corrections");
    eprintln!("{held} corrections in the journal, and of each it is known who asked for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_by_a_part_that_asks_is_noted_by_one_that_does_not_which_says_so() {
    let stack = Stack::start().await;
    let keys = keys_of(&stack);
    let asking = dev_mode(&keys);
    let (api, project) = tokio::join!(stack.service_with("api", &asking), stack.service("project"));
    let _correct = stack.service("correct").await;
    let (shop, visit) = (session(), session());
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    let sequence = asker(&stack, &api, "ada").publish(&shop, &added).await.sequence();
    let basket = format!("/v1/shops/{shop}/sessions/{visit}/basket?min_sequence={sequence}");
    asker(&stack, &api, "ada").get_until(&basket).await;
    let gateway = Gateway::connect(&stack.nats.url()).await;
    let jwt = json!({ "jwt": token(&stack, "ada", Role::Admin) });
    gateway.auth("ezout.auth", "jwt", jwt).await.unwrap();
    let (name, id) = (format!("ezout.shop.{shop}.basket.{visit}"), session());
    let called = gateway.call(&name, "correct", correction(&id)).await;
    called.unwrap();
    assert_eq!(holds(&stack, "ada").await, 1);
    let log = std::fs::read_to_string(&project.log).unwrap();
    assert_eq!(
        log.matches("give every part of a deployment the same EZOUT_AUTH")
            .count(),
        1,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_by_what_a_body_or_a_resource_names_is_noted_as_well() {
    // A system of its own: in the shared one others may be refused more often than is noted.
    let guarded = &Guarded::start().await;
    let (own, other) = (session(), session());
    let audit = guarded.stack.database().await.collection::<Document>("audit");
    let noted = async |who: &str, outcome: &str, shop: &str| {
        let filter = doc! { "who": who, "outcome": outcome, "shop_id": shop };
        wait_for("the refusal in the audit", async || {
            audit.find_one(filter.clone()).await.unwrap().map(drop)
        })
        .await;
        audit.count_documents(filter).await.unwrap()
    };

    let ada = session();
    let phone = guarded.caller(Some(guarded.token_of(&ada, Role::Shopper, &[&own])));
    let elsewhere = event(&other, &session(), 1, "ADD", 1, 1.5, 1.5);
    assert_eq!(phone.post("/send", &elsewhere).await.status, 404);
    assert_eq!(noted(&ada, "refused: shop", &other).await, 1);

    let bob = session();
    let of_another = Grant {
        shopper_id: Some(session()),
        ..grant(&bob, Some(Role::Shopper), &[&own])
    };
    let phone = guarded.caller(Some(guarded.sign(&of_another)));
    let events: Vec<_> = (1..=300)
        .map(|number| event(&own, &session(), number, "ADD", 1, 1.5, 1.5))
        .collect();
    let left_out = "ezout_audit_left_out_total";
    let before = guarded.service.metric(left_out).await;
    let got = phone.post_lines(&format!("/v1/shops/{own}/events"), &events).await;
    assert_eq!(got.text.matches("forbidden").count(), events.len(), "{got:?}");
    assert_eq!(noted(&bob, "refused: shopper", &own).await, 1);
    assert_eq!(
        guarded.service.metric(left_out).await,
        before,
        "one note for a body is enough"
    );

    let eve = session();
    let gateway = Gateway::connect(&guarded.stack.nats.url()).await;
    let jwt = json!({ "jwt": guarded.token_of(&eve, Role::Merchant, &[&own]) });
    gateway.auth("ezout.auth", "jwt", jwt).await.unwrap();
    let refused = gateway.subscribe(&format!("ezout.shop.{other}.baskets")).await;
    assert_eq!(refused.unwrap_err()["code"], "system.notFound");
    assert_eq!(noted(&eve, "refused: shop", &other).await, 1);
}
