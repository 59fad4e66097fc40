//! What gateways ask for those whom nobody lets in: it has a place for a moment, and leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ezout::core::policy::Role;
use ezout::present;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::alike::{asked_of_mongodb, note_all};
use super::guarded::{Asker, Guarded, Stocked, dev_mode, grant, keys_of};
use super::matrix::{Client, resource};
use crate::support::gateway::Gateway;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, event, session, wait_for};

const SHOPS: &str = "ezout_res_shops";
const FULL: &str = "ezout_limited_places_total{place=\"resource\"}";

fn named(of: &Stocked, rest: &str) -> String {
    format!("ezout.shop.{}.{rest}", of.shop)
}

/// Every resource of a shop.
fn names(of: &Stocked) -> Vec<String> {
    let name = |word| named(of, &resource(word, of).expect("the matrix knows each resource").0);
    present::resources().into_iter().map(|(word, _)| name(word)).collect()
}

/// Somebody without a token and somebody of another shop, who ask for everything in shops that there are and in others.
async fn leave_nothing_behind<C: Client>(guarded: &Guarded, url: &str) {
    const MADE_UP: usize = 50;
    let database = guarded.stack.database().await;
    let real = guarded.shop_with(&session(), "pears").await;
    let mut shops: Vec<Stocked> = (0..MADE_UP).map(|_| Stocked::nowhere()).collect();
    shops.push(real.clone());
    note_all(&database).await;
    let (nobody, merchant) = (C::connect(url).await, C::connect(url).await);
    let token = guarded.token(Role::Merchant, &[&session()]);
    assert_eq!(merchant.say("jwt", json!({ "jwt": token })).await, Ok(Value::Null));
    for of in &shops {
        for name in names(of) {
            for (client, code) in [(&nobody, "system.accessDenied"), (&merchant, "system.notFound")] {
                let refused = client.get(&name).await.unwrap_err();
                assert_eq!(refused["code"], code, "{name}");
            }
        }
    }
    assert_eq!(
        guarded.service.metric(SHOPS).await,
        Some(0.0),
        "nothing is begun for them"
    );
    // The projector may still be at work on the one that there is.
    for of in &shops[..MADE_UP] {
        let asked = asked_of_mongodb(&database, of).await;
        assert!(asked.is_empty(), "{asked:?}");
    }
    // Whoever may is answered all the same, and now there is one shop.
    let token = guarded.token(Role::Merchant, &[&real.shop]);
    assert_eq!(merchant.say("jwt", json!({ "jwt": token })).await, Ok(Value::Null));
    for name in names(&real) {
        merchant.get(&name).await.unwrap();
    }
    assert_eq!(guarded.service.metric(SHOPS).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_see_is_not_read_and_leaves_nothing_behind() {
    let guarded = Guarded::start().await;
    leave_nothing_behind::<Gateway>(&guarded, &guarded.stack.nats.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_browser_may_see_is_not_read_and_leaves_nothing_behind() {
    let guarded = Guarded::start().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    leave_nothing_behind::<ResClient>(&guarded, &resgate.url()).await;
}

/// Asks for resources of shops that there are not until it is stopped, always about more of them than there is room for.
struct Flood {
    stop: CancellationToken,
    asks: JoinHandle<usize>,
    answers: JoinHandle<BTreeMap<String, usize>>,
}

impl Flood {
    async fn begin(stack: &Stack) -> Self {
        const UNANSWERED: usize = 6_000;
        const AT_ONCE: usize = 500;
        let nats = stack.nats_client().await;
        let inbox = nats.new_inbox();
        let mut replies = nats.subscribe(inbox.clone()).await.unwrap();
        nats.flush().await.unwrap();
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (told, mut all) = tokio::sync::watch::channel(None);
        let (stopped, heard) = (stop.clone(), Arc::clone(&answered));
        let asks = tokio::spawn(async move {
            let mut sent = 0;
            while !stopped.is_cancelled() {
                if sent - heard.load(Ordering::Relaxed) > UNANSWERED {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                for _ in 0..AT_ONCE {
                    let subject = format!("get.ezout.shop.{}.baskets", session());
                    let asking = nats.publish_with_reply(subject, inbox.clone(), "{}".into());
                    asking.await.unwrap();
                }
                sent += AT_ONCE;
            }
            told.send(Some(sent)).unwrap();
            sent
        });
        let answers = tokio::spawn(async move {
            let (mut codes, mut count) = (BTreeMap::new(), 0);
            loop {
                if *all.borrow() == Some(count) {
                    break codes;
                }
                tokio::select! {
                    reply = replies.next() => {
                        let answer: Value = serde_json::from_slice(&reply.unwrap().payload).unwrap();
                        let code = answer["error"]["code"].as_str().expect("nobody is told what it is");
                        *codes.entry(code.to_owned()).or_default() += 1;
                        count += 1;
                        answered.store(count, Ordering::Relaxed);
                    }
                    _ = all.changed() => {}
                }
            }
        });
        Self { stop, asks, answers }
    }

    /// How many it asked for, and the codes of the answers.
    async fn end(self) -> (usize, BTreeMap<String, usize>) {
        self.stop.cancel();
        let sent = self.asks.await.unwrap();
        let answered = tokio::time::timeout(Duration::from_mins(2), self.answers).await;
        (sent, answered.expect("each is answered").unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_shops_has_so_many_places_and_shops_with_watchers_go_on() {
    let guarded = Guarded::start().await;
    let of = guarded.shop_with(&session(), "pears").await;
    let url = guarded.stack.nats.url();
    let watcher = async |of: &Stocked| {
        let client = Gateway::connect(&url).await;
        let token = guarded.token(Role::Merchant, &[&of.shop]);
        client.say("jwt", json!({ "jwt": token })).await.unwrap();
        client
    };
    let (list, basket) = (named(&of, "baskets"), named(&of, &format!("basket.{}", of.session)));
    let watches = watcher(&of).await;
    watches.subscribe(&list).await.unwrap();

    let flood = Flood::begin(&guarded.stack).await;
    wait_for("more than there is room for", async || {
        (guarded.service.metric(FULL).await? >= 1.0).then_some(())
    })
    .await;
    // One who watches goes on, and another one comes.
    let mut added = event(&of.shop, &of.session, 2, "ADD", 1, 1.5, 1.5);
    added["shopper_id"] = json!(of.shopper);
    let sequence = guarded.admin().publish(&of.shop, &added).await.sequence();
    wait_for("the change", async || {
        (watches.tree(&basket)?["sequence"].as_u64()? >= sequence).then_some(())
    })
    .await;
    watcher(&of).await.subscribe(&list).await.unwrap();
    // In a shop that nobody watched, whoever was let in comes in with the second question at the latest.
    let other = guarded.shop_with(&session(), "plums").await;
    let comes = watcher(&other).await;
    if let Err(refused) = comes.subscribe(&named(&other, "baskets")).await {
        assert_eq!(refused["code"], "ezout.unavailable");
        comes.subscribe(&named(&other, "baskets")).await.unwrap();
    }
    let (sent, codes) = flood.end().await;
    assert_eq!(codes.values().sum::<usize>(), sent);
    assert!(
        codes.keys().eq(["ezout.unavailable", "system.timeout"]),
        "each is refused at once, or after it has waited: {codes:?}"
    );
    assert_eq!(guarded.service.metric(SHOPS).await, Some(2.0));
    eprintln!("{sent} requests about made-up shops: {codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_none_is_refused_before_it_waits() {
    let guarded = Guarded::shared().await;
    let nats = guarded.stack.nats_client().await;
    let request = json!({ "query": format!("cursor={}", "x".repeat(10_000)) });
    let subject = format!("get.ezout.shop.{}.sessions", session());
    let answer = super::resources::ask(&nats, subject, &request).await;
    assert_eq!(answer["error"]["code"], "system.invalidQuery", "{answer}");
}

/// A service of a stack that asks its callers, as any number of them may run.
async fn one_more(stack: &Stack) -> Service {
    stack.service_with("serve", &dev_mode(&keys_of(stack))).await
}

/// Adds to a basket by one of the services, and waits until the client sees it.
async fn follows(guarded: &Guarded, by: &Service, client: &Gateway, of: &Stocked, action_id: i64) {
    let mut added = event(&of.shop, &of.session, action_id, "ADD", 1, 1.5, 1.5);
    added["shopper_id"] = json!(of.shopper);
    let phone = Asker::new(by, Some(guarded.token(Role::Service, &[&of.shop])));
    let sequence = phone.publish(&of.shop, &added).await.sequence();
    let basket = named(of, &format!("basket.{}", of.session));
    wait_for("the change", async || {
        (client.tree(&basket)?["sequence"].as_u64()? >= sequence).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_let_in_goes_on_when_another_process_becomes_the_owner() {
    let mut guarded = Guarded::start().await;
    let of = guarded.shop_with(&session(), "pears").await;
    let client = Gateway::connect(&guarded.stack.nats.url()).await;
    let token = guarded.sign(&grant("ada", Some(Role::Merchant), &[&of.shop]));
    client.say("jwt", json!({ "jwt": token })).await.unwrap();
    let list = named(&of, "baskets");
    client.subscribe(&list).await.unwrap();

    let second = one_more(&guarded.stack).await;
    let held = async |service: &Service, least: f64| {
        wait_for("partitions", async || {
            (service.metric("ezout_leases_held").await? >= least).then_some(())
        })
        .await;
    };
    held(&second, 8.0).await;
    follows(&guarded, &second, &client, &of, 2).await;
    guarded.service.stop().await;
    held(&second, 16.0).await;
    follows(&guarded, &second, &client, &of, 3).await;
    let third = one_more(&guarded.stack).await;
    held(&third, 8.0).await;
    let mut second = second;
    second.stop().await;
    held(&third, 16.0).await;
    follows(&guarded, &third, &client, &of, 4).await;
    assert_eq!(third.metric(SHOPS).await, Some(1.0));
    // Somebody new, at the process that was never asked before.
    let late = Gateway::connect(&guarded.stack.nats.url()).await;
    late.say("jwt", json!({ "jwt": guarded.token(Role::Support, &[&of.shop]) }))
        .await
        .unwrap();
    late.subscribe(&list).await.unwrap();
    assert_eq!(client.lost(&list), None);
}
