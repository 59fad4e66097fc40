//! Resources as a gateway gets them that forgives nothing, under whatever may happen to the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Sees, Shoppers, agrees, agrees_when_folded, basket, basket_rid, json_of, rid};
use crate::support::gateway::Gateway;
use crate::support::proxy::Proxy;
use crate::support::{Stack, event, heard, session, system, wait_for};

impl Sees for Gateway {
    fn sees(&self, rid: &str) -> Option<Value> {
        self.tree(rid)
    }
}

/// Nothing that exists was told to be no more.
fn told_of_no_end(gateway: &Gateway) {
    let told = gateway.told();
    let ends: Vec<_> = told
        .iter()
        .filter(|told| matches!(told.event.as_str(), "delete" | "unsubscribe"))
        .collect();
    assert!(ends.is_empty(), "{ends:#?}");
}

/// The race that costs a gateway an event: what is told before an answer has to be in it, and what is told after it must not be missed.
#[tokio::test]
async fn whoever_begins_between_two_events_misses_neither() {
    let system = system().await;
    let (shop, visit) = (system.shop(), session());
    let gateway = Gateway::connect(&system.nats_url()).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let over = Arc::new(AtomicBool::new(false));
    let changing = async {
        let mut action_id = 0;
        while !over.load(Ordering::Relaxed) {
            action_id += 1;
            let added = event(&shop, &visit, action_id, "ADD", 1, 1.5, 1.5);
            assert_eq!(system.service.publish(&shop, &added).await.status(), 200);
            if action_id % 10 == 0 {
                let visit = session();
                for (action_id, action) in [(1, "ADD"), (2, "CHECKOUT")] {
                    let other = event(&shop, &visit, action_id, action, 1, 1.5, 1.5);
                    system.service.publish(&shop, &other).await;
                }
            }
        }
    };
    let beginning = async {
        let name = basket_rid(&shop, &visit);
        wait_for("the basket", async || gateway.subscribe(&name).await.ok()).await;
        for _ in 0..100 {
            gateway.forget(&name).await;
            tokio::time::sleep(Duration::from_micros(random.u64(..20_000))).await;
            let mut sequence = gateway.subscribe(&name).await.unwrap()["sequence"].as_u64();
            let list = rid(&shop, "baskets");
            gateway.subscribe(&list).await.unwrap();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_micros(random.u64(..10_000))).await;
                let now = gateway.tree(&name).unwrap()["sequence"].as_u64();
                assert!(now >= sequence, "{sequence:?} and then {now:?}");
                sequence = now;
            }
            gateway.forget(&list).await;
        }
        over.store(true, Ordering::Relaxed);
        let list = rid(&shop, "baskets");
        gateway.subscribe(&list).await.unwrap();
    };
    tokio::join!(changing, beginning);
    agrees(&gateway, &system.service, &shop).await;
    told_of_no_end(&gateway);
}

#[tokio::test]
async fn projectors_come_and_go_and_a_gateway_ends_right() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let gateway = Gateway::connect(&stack.nats.url()).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all: Vec<Shoppers> = (0..4).map(|_| Shoppers::new(&session(), 4, seed)).collect();
    let mut projectors = vec![stack.service("project").await];
    for shoppers in &mut all {
        shoppers.act(&api).await;
        gateway.subscribe(&rid(&shoppers.shop, "baskets")).await.unwrap();
        gateway.subscribe(&rid(&shoppers.shop, "summary")).await.unwrap();
    }
    for _ in 0..6 {
        for _ in 0..10 {
            for shoppers in &mut all {
                shoppers.act(&api).await;
            }
        }
        match random.u8(..4) {
            0 if projectors.len() < 3 => projectors.push(stack.service("project").await),
            1 if projectors.len() > 1 => {
                projectors.swap_remove(random.usize(..projectors.len())).stop().await;
            }
            _ => {
                projectors.swap_remove(random.usize(..projectors.len())).kill().await;
                if projectors.is_empty() {
                    // For a moment nobody answers.
                    for shoppers in &mut all {
                        shoppers.act(&api).await;
                    }
                    projectors.push(stack.service("project").await);
                }
            }
        }
    }
    for shoppers in &mut all {
        agrees_when_folded(&gateway, &api, shoppers).await;
    }
    told_of_no_end(&gateway);
}

#[tokio::test]
async fn a_request_waits_for_an_owner_and_is_not_taken_for_one_about_nothing() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let (shop, visit) = (session(), session());
    let mut projector = stack.service("project").await;
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    api.publish(&shop, &added).await;
    api.basket(&shop, &visit, 1).await;
    projector.kill().await;
    let gateway = Gateway::connect(&stack.nats.url()).await;
    // Nobody owns the shop before the lease of the one that was killed is over.
    let name = basket_rid(&shop, &visit);
    let asking = gateway.subscribe(&name);
    let starting = async {
        wait_for("the request to be there", async || {
            (!gateway.asked().is_empty()).then_some(())
        })
        .await;
        stack.service("project").await
    };
    let (seen, _projector) = tokio::join!(asking, starting);
    assert_eq!(seen.unwrap(), basket(&api, &shop, &visit).await);
    told_of_no_end(&gateway);
}

#[tokio::test]
async fn what_changes_while_the_service_is_cut_off_from_nats_is_healed_afterwards() {
    let stack = Stack::start().await;
    let url = stack.nats.url();
    let proxy = Proxy::start(&url).await;
    let api = stack.service("api").await;
    let through = proxy.url();
    let nats = stack.nats_client().await;
    let mut resets = nats.subscribe("system.reset").await.unwrap();
    nats.flush().await.unwrap();
    let _projector = stack
        .service_with("project", &[("EZOUT_NATS_URL", through.as_str())])
        .await;
    let gateway = Gateway::connect(&url).await;
    let mut shoppers = Shoppers::new(&session(), 4, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&api).await;
    }
    gateway.subscribe(&rid(&shoppers.shop, "baskets")).await.unwrap();
    // What is asked because of the take-over is answered before the first cut: an answer that is lost is one that is missing.
    for _ in 0..2 {
        heard(&mut resets).await;
    }
    agrees_when_folded(&gateway, &api, &mut shoppers).await;
    for _ in 0..3 {
        proxy.cut();
        for _ in 0..20 {
            shoppers.act(&api).await;
        }
        proxy.mend();
        agrees_when_folded(&gateway, &api, &mut shoppers).await;
    }
    told_of_no_end(&gateway);
}

#[tokio::test]
async fn pages_of_sessions_follow_what_happens() {
    let system = system().await;
    let gateway = Gateway::connect(&system.nats_url()).await;
    let shop = system.shop();
    let mut shoppers = Shoppers::new(&shop, 5, fastrand::u64(..));
    for _ in 0..30 {
        shoppers.act(&system.service).await;
    }
    let queries = [
        "sessions",
        "sessions?limit=3&status=open",
        "sessions?verdict=diverged&limit=5",
    ];
    for query in queries {
        gateway.subscribe(&rid(&shop, query)).await.unwrap();
    }
    for _ in 0..3 {
        for _ in 0..10 {
            shoppers.act(&system.service).await;
        }
        for query in queries {
            let path = query.replacen("sessions", "baskets", 1);
            let url = format!("{}/v1/shops/{shop}/{path}", system.http_url());
            wait_for(&format!("{query} as the API says"), async || {
                let truth = json_of(&url).await["baskets"].clone();
                (gateway.tree(&rid(&shop, query)) == Some(truth)).then_some(())
            })
            .await;
        }
    }
    let refused = gateway.subscribe(&rid(&shop, "sessions?limit=x")).await.unwrap_err();
    assert_eq!(refused["code"], "system.invalidQuery");
}

#[tokio::test]
async fn clients_have_their_token_before_the_answer() {
    let system = system().await;
    let gateway = Gateway::connect(&system.nats_url()).await;
    assert_eq!(
        gateway.auth("ezout.auth", "jwt", json!({ "jwt": "x" })).await,
        Ok(Value::Null)
    );
    assert_eq!(gateway.token(), json!({ "role": "anybody" }));
    assert_eq!(gateway.auth("ezout.auth", "logout", Value::Null).await, Ok(Value::Null));
    assert_eq!(gateway.token(), Value::Null);
}
