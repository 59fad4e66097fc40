//! Resources as browsers get them: each test compares what a client sees with what the API says.
//!
//! Most tests go through the real Resgate. Those in `resources/strict.rs` need none: their gateway
//! speaks with the service as Resgate does, and takes every rule that is broken for a failure.
//!
//! What a service behind Resgate has to hold to, by number, and the tests that say so:
//!
//! | conformance | what | tests |
//! |---|---|---|
//! | 1 | shape of a snapshot | `lists::a_list_comes_with_all_its_baskets_and_nothing_in_them_is_bare` |
//! | 2 | who has access to what | `what_there_is_not_is_not_found_whoever_asks_for_it`, and the tests of access |
//! | 3 | changes | `a_change_is_told_once_with_just_what_is_other_than_before`; no property ever leaves a model, so none is ever deleted |
//! | 4 | form of events | `every_event_has_the_form_of_the_protocol` |
//! | 5 | entries that come and go | `a_client_sees_the_open_baskets_as_they_change`, `lists::the_newest_baskets_are_in_the_list_and_the_summary_counts_all` |
//! | 6 | end of a basket | `a_change_is_told_once_with_just_what_is_other_than_before` for one that closes and stays, `lists::a_basket_that_is_no_more_leaves_the_list_and_is_deleted` for one that is gone |
//! | 7 | race of a snapshot and events | `clients_that_begin_while_everything_changes_end_right` in 60 rounds, `strict::whoever_begins_between_two_events_misses_neither` |
//! | 8 | a second client in the middle | the same, with three clients a round, and `a_client_sees_the_open_baskets_as_they_change` |
//! | 9 | resets without a change | `resets_without_a_change_are_told_to_nobody` |
//! | 10 | crash of the service | `a_projector_that_is_killed_is_healed_without_an_end_told_to_anybody` |
//! | 11 | the service loses NATS | `what_changes_while_only_the_service_is_cut_off_is_healed_by_one_reset` |
//! | 12 | Resgate and NATS end | `a_gateway_and_its_nats_may_die_and_come_back`, `page::a_page_follows_its_shop_through_the_end_of_its_gateway` |
//! | 13 | queries that mean the same | `pages::what_means_the_same_has_the_same_query_in_every_answer` |
//! | 14 | pages follow | `pages::every_page_follows_and_is_asked_for_once`, `pages_of_sessions_are_the_same_for_all_who_mean_the_same_and_follow_what_happens` |
//! | 15 | a page that could not be told | `pages::a_page_that_could_not_be_read_is_healed_by_a_reset` |
//! | 16 | events of our own | `the_feed_carries_every_update_as_it_is_on_nats`; the strict gateway refuses reserved names |
//! | 17 | calls | `a_person_may_handle_a_basket_for_a_while_and_all_see_it`, `a_basket_is_corrected_by_a_call_as_by_the_route` |
//! | 18 | life of a token | the tests of access |
//! | 19 | slow and large answers | `what_takes_long_is_waited_for_and_what_is_too_large_is_said_to_be` |
//! | 20 | load, and a hand-over in it | `crowd::many_clients_see_many_baskets_change_and_nobody_is_flooded`, `two_projectors_hand_over_under_load_and_every_client_ends_right`; for minutes and with times in `tests/bench/gateway.rs` |
//!
//! After each of them Resgate lives and has logged neither an error nor a deprecation (`support/resgate.rs`), no rule
//! of the protocol was broken, and no client was told the end of something that exists (`support/res_client.rs`).

mod crowd;
mod lists;
mod page;
mod pages;
mod strict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Map, Value, json};

use crate::support::proxy::Proxy;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, event, heard, session, system, wait_for};

/// Whoever sees resources.
trait Sees {
    /// What it sees from a resource on.
    fn sees(&self, rid: &str) -> Option<Value>;
}

impl Sees for ResClient {
    fn sees(&self, rid: &str) -> Option<Value> {
        self.tree(rid)
    }
}

/// The name of a resource of a shop.
fn rid(shop: &str, rest: &str) -> String {
    format!("ezout.shop.{shop}.{rest}")
}

fn basket_rid(shop: &str, session: &str) -> String {
    rid(shop, &format!("basket.{session}"))
}

async fn json_of(url: &str) -> Value {
    wait_for(url, async || {
        let answer = reqwest::get(url).await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    })
    .await
}

/// A basket as a client should see it.
async fn basket(service: &Service, shop: &str, session: &str) -> Value {
    let url = format!("{}/v1/shops/{shop}/sessions/{session}/basket", service.http_url());
    let mut basket = json_of(&url).await;
    let properties = basket.as_object_mut().unwrap();
    properties["sequence"] = properties["basket_sequence"].clone();
    properties.remove("basket_sequence");
    properties.insert("details_left_out".to_owned(), json!(false));
    properties.insert("handled_by".to_owned(), Value::Null);
    properties.insert("handled_until".to_owned(), Value::Null);
    basket
}

/// The list of open baskets as a client should see it.
async fn open_baskets(service: &Service, shop: &str) -> Value {
    let mut open = Vec::new();
    let mut cursor = String::new();
    loop {
        let url = format!("{}/v1/shops/{shop}/baskets?status=open{cursor}", service.http_url());
        let page = json_of(&url).await;
        for listed in page["baskets"].as_array().unwrap() {
            open.push(basket(service, shop, listed["session_id"].as_str().unwrap()).await);
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let text = |basket: &Value, name: &str| basket[name].as_str().unwrap_or_default().to_owned();
    open.sort_by_key(|basket| (std::cmp::Reverse(text(basket, "opened_at")), text(basket, "session_id")));
    Value::Array(open)
}

/// Waits until a client sees what the API says.
async fn agrees(client: &impl Sees, service: &Service, shop: &str) {
    wait_for("the client to see the shop as it is", async || {
        let truth = open_baskets(service, shop).await;
        (client.sees(&rid(shop, "baskets")) == Some(truth)).then_some(())
    })
    .await;
}

/// Shoppers who do this and that.
struct Shoppers {
    shop: String,
    sessions: Vec<(String, i64)>,
    random: fastrand::Rng,
}

impl Shoppers {
    fn new(shop: &str, count: usize, seed: u64) -> Self {
        eprintln!("seed {seed}");
        Self {
            shop: shop.to_owned(),
            sessions: (0..count).map(|_| (session(), 0)).collect(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The next thing that one of them does.
    fn next(&mut self) -> Value {
        let at = self.random.usize(..self.sessions.len());
        let (session_id, action_id) = &mut self.sessions[at];
        *action_id += 1;
        let action = match self.random.u8(..20) {
            0 => "CHECKOUT",
            1 => "CANCEL",
            2..5 => "REMOVE",
            _ => "ADD",
        };
        let happened = event(
            &self.shop,
            session_id,
            *action_id,
            action,
            self.random.i64(1..6),
            1.5,
            1.5,
        );
        if matches!(action, "CHECKOUT" | "CANCEL") {
            self.sessions[at] = (session(), 0);
        }
        happened
    }

    async fn act(&mut self, service: &Service) {
        let happened = self.next();
        assert_eq!(service.publish(&self.shop, &happened).await.status(), 200);
    }
}

/// Where in the journal an event is that was answered so.
fn place(answer: &reqwest::Response) -> u64 {
    answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap()
}

/// What comes into a list comes with what it references, unless the client was sent that before.
fn came_whole(client: &ResClient, list: &str) {
    let mut sent = BTreeSet::new();
    for frame in client.frames() {
        for part in [&frame["result"], &frame["data"]] {
            sent.extend(
                part["models"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(rid, _)| rid.clone()),
            );
        }
        if frame["event"] == format!("{list}.add") {
            let rid = frame["data"]["value"]["rid"].as_str().unwrap();
            assert!(sent.contains(rid), "{frame}");
        }
    }
}

/// A client that was told of nothing that exists that it does not.
fn was_told_of_no_end(client: &ResClient) {
    let frames = client.frames();
    let ends = frames.iter().filter(|frame| {
        frame["event"]
            .as_str()
            .is_some_and(|event| event.ends_with(".delete") || event.ends_with(".unsubscribe"))
    });
    assert_eq!(ends.count(), 0, "{frames:#?}");
}

#[tokio::test]
async fn a_client_sees_the_open_baskets_as_they_change() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    let mut shoppers = Shoppers::new(&shop, 6, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&system.service).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    agrees(&client, &system.service, &shop).await;
    let late = ResClient::connect(&resgate.url()).await;
    for round in 0..30 {
        for _ in 0..shoppers.random.usize(1..5) {
            shoppers.act(&system.service).await;
        }
        if round == 15 {
            late.subscribe(&rid(&shop, "baskets")).await.unwrap();
        }
        agrees(&client, &system.service, &shop).await;
    }
    agrees(&late, &system.service, &shop).await;
    came_whole(&client, &rid(&shop, "baskets"));
    was_told_of_no_end(&client);
    was_told_of_no_end(&late);
    // The REST form is the same.
    let url = format!("{}/ezout/shop/{shop}/baskets", resgate.api_url());
    let listed = json_of(&url).await;
    let models: Vec<Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["model"].clone())
        .collect();
    assert_eq!(Value::Array(models), open_baskets(&system.service, &shop).await);
}

#[tokio::test]
async fn a_change_is_told_once_with_just_what_is_other_than_before() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let (shop, visit) = (system.shop(), session());
    let post = async |action_id, action: &str, product| {
        let event = event(&shop, &visit, action_id, action, product, 1.5, 1.5);
        let answer = system.service.publish(&shop, &event).await;
        let sequence = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
        system.service.basket(&shop, &visit, sequence).await;
    };
    post(1, "ADD", 1).await;
    let client = ResClient::connect(&resgate.url()).await;
    let name = basket_rid(&shop, &visit);
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    let before = client.tree(&name).unwrap();
    assert_eq!(before, basket(&system.service, &shop, &visit).await);

    post(2, "ADD", 1).await;
    let now = basket(&system.service, &shop, &visit).await;
    client.sees(&name, &now).await;
    let changes = client.events(&name);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let told: BTreeSet<&String> = changes[0].data["values"].as_object().unwrap().keys().collect();
    let differs = |(name, value): &(&String, &Value)| before[name.as_str()] != **value;
    let wanted: BTreeSet<&String> = now
        .as_object()
        .unwrap()
        .iter()
        .filter(differs)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(told, wanted);

    // A copy changes nothing, and is told to nobody.
    post(2, "ADD", 1).await;
    // A basket that ends leaves the list, and is still there.
    post(3, "CHECKOUT", 1).await;
    client.sees(&rid(&shop, "baskets"), &json!([])).await;
    assert_eq!(
        client.hears(&rid(&shop, "baskets"), "remove").await,
        json!({ "idx": 0 })
    );
    let ended = client.get(&name).await.unwrap();
    assert_eq!(ended, basket(&system.service, &shop, &visit).await);
    assert_eq!(ended["status"], "paid");
    assert_eq!(
        client
            .events(&name)
            .iter()
            .filter(|event| event.name == "delete")
            .count(),
        0
    );
    assert!(client.events(&name).len() <= 2, "{:?}", client.events(&name));

    // One comes back after it had left.
    post(4, "ADD", 2).await;
    agrees(&client, &system.service, &shop).await;
}

#[tokio::test]
async fn what_there_is_not_is_not_found_whoever_asks_for_it() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let (shop, other, visit) = (system.shop(), system.shop(), session());
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    system.service.publish(&shop, &added).await;
    system.service.basket(&shop, &visit, 1).await;
    let client = ResClient::connect(&resgate.url()).await;
    for name in [
        basket_rid(&other, &visit),
        basket_rid(&shop, &session()),
        rid(&shop, "nothing"),
        rid(&shop, "basket"),
        rid(&shop, "baskets.x"),
        rid(&shop.to_uppercase(), "baskets"),
        rid("x", "baskets"),
        "ezout.auth".to_owned(),
        "ezout.x".to_owned(),
    ] {
        let refused = client.subscribe(&name).await.unwrap_err();
        assert_eq!(refused["code"], "system.notFound", "{name}");
    }
    // A shop of which nothing is known is an empty one.
    assert_eq!(client.subscribe(&rid(&other, "baskets")).await.unwrap(), json!([]));
    let url = format!("{}/ezout%2Eshop/{shop}/x", resgate.api_url());
    assert_eq!(reqwest::get(url).await.unwrap().status(), 404);
    // What is raw on NATS is no resource.
    let raw = client.subscribe(&format!("updates.store.{shop}")).await.unwrap_err();
    assert_eq!(raw["code"], "system.notFound");
}

#[tokio::test]
async fn every_event_has_the_form_of_the_protocol() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    client.subscribe(&rid(&shop, "summary")).await.unwrap();
    let mut events = system
        .stack
        .nats_client()
        .await
        .subscribe(format!("event.ezout.shop.{shop}.>"))
        .await
        .unwrap();
    let mut shoppers = Shoppers::new(&shop, 4, fastrand::u64(..));
    for _ in 0..100 {
        shoppers.act(&system.service).await;
    }
    agrees(&client, &system.service, &shop).await;
    let mut seen = BTreeSet::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), events.next()).await {
        let name = message.subject.rsplit('.').next().unwrap().to_owned();
        let keys = |payload: &[u8]| -> BTreeSet<String> {
            let object: Map<String, Value> = serde_json::from_slice(payload).unwrap();
            object.keys().cloned().collect()
        };
        let wanted: BTreeSet<String> = match name.as_str() {
            "change" => ["values".to_owned()].into(),
            "add" => ["idx".to_owned(), "value".to_owned()].into(),
            "remove" => ["idx".to_owned()].into(),
            other => panic!("{other}"),
        };
        assert_eq!(keys(&message.payload), wanted, "{}", message.subject);
        seen.insert(name);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["add", "change", "remove"]);
}

/// Of what is told before an answer nothing is missed, and nothing comes twice: a client that begins in the middle ends right.
#[tokio::test]
async fn clients_that_begin_while_everything_changes_end_right() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // A gateway keeps what nobody has for 5 s, so each round has a shop and a basket that it has not seen yet.
    for round in 0..60 {
        let (shop, visit) = (system.shop(), session());
        let name = if round % 2 == 0 {
            basket_rid(&shop, &visit)
        } else {
            rid(&shop, "baskets")
        };
        let (mut clients, mut last) = (Vec::new(), 0);
        let begins: BTreeSet<i64> = (0..3).map(|_| random.i64(1..20)).collect();
        for action_id in 1..=20 {
            let added = event(&shop, &visit, action_id, "ADD", 1, 1.5, 1.5);
            last = place(&system.service.publish(&shop, &added).await);
            // Others come into the list, of which some leave it again.
            if action_id % 2 == 0 {
                let other = session();
                for (action_id, action) in [(1, "ADD"), (2, "CHECKOUT")].iter().take(random.usize(1..3)) {
                    let other = event(&shop, &other, *action_id, action, 1, 1.5, 1.5);
                    last = place(&system.service.publish(&shop, &other).await);
                }
            }
            if begins.contains(&action_id) {
                system.service.basket(&shop, &visit, last).await;
                let client = ResClient::connect(&resgate.url()).await;
                let name = name.clone();
                clients.push(tokio::spawn(async move {
                    client.subscribe(&name).await.unwrap();
                    client
                }));
            }
        }
        system.service.basket(&shop, &visit, last).await;
        let truth = if round % 2 == 0 {
            basket(&system.service, &shop, &visit).await
        } else {
            open_baskets(&system.service, &shop).await
        };
        for client in clients {
            let client = client.await.unwrap();
            client.sees(&name, &truth).await;
            let changes = client.events(&basket_rid(&shop, &visit));
            let sequences = changes.iter().map(|event| event.data["values"]["sequence"].as_u64());
            assert!(sequences.is_sorted(), "{changes:?}");
        }
    }
}

#[tokio::test]
async fn resets_without_a_change_are_told_to_nobody() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    let mut shoppers = Shoppers::new(&shop, 5, 7);
    for _ in 0..40 {
        shoppers.act(&system.service).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    client.subscribe(&rid(&shop, "summary")).await.unwrap();
    client.subscribe(&rid(&shop, "sessions?limit=3")).await.unwrap();
    client.subscribe(&rid(&shop, "feed")).await.unwrap();
    agrees(&client, &system.service, &shop).await;
    // What changes a second at a time has been told, and a basket that was closed meanwhile has left Resgate's memory.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let before = client.frames().len();
    let nats = system.stack.nats_client().await;
    let mut gets = nats.subscribe(format!("get.ezout.shop.{shop}.>")).await.unwrap();
    let mut resets = nats.subscribe("system.reset").await.unwrap();
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..2 {
        let all = json!({ "resources": ["ezout.>"] }).to_string();
        nats.publish("system.reset", all.into()).await.unwrap();
        while let Ok(Some(get)) = tokio::time::timeout(Duration::from_millis(700), gets.next()).await {
            *asked.entry(get.subject.to_string()).or_default() += 1;
        }
    }
    let open = open_baskets(&system.service, &shop).await.as_array().unwrap().len();
    // The list, its baskets, the summary, a page and the feed.
    assert_eq!(asked.len(), open + 4, "{asked:?}");
    assert!(asked.values().all(|times| *times >= 2), "{asked:?}");
    let mut heard = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(100), resets.next()).await {
        heard += 1;
    }
    // The service itself may have had something to heal.
    assert!(heard > 2 || asked.values().all(|times| *times == 2), "{asked:?}");
    assert_eq!(client.frames().len(), before, "{:#?}", &client.frames()[before..]);
}

#[tokio::test]
async fn a_projector_that_is_killed_is_healed_without_an_end_told_to_anybody() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start(&stack).await else {
        return;
    };
    let api = stack.service("api").await;
    let mut projector = stack.service("project").await;
    let shop = session();
    let mut shoppers = Shoppers::new(&shop, 5, fastrand::u64(..));
    for _ in 0..30 {
        shoppers.act(&api).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    agrees(&client, &api, &shop).await;
    let nats = stack.nats_client().await;
    let mut resets = nats.subscribe("system.reset").await.unwrap();
    nats.flush().await.unwrap();
    let (asking, list) = (nats.clone(), rid(&shop, "baskets"));
    let answered_resets = tokio::spawn(async move {
        let mut count = 0;
        while resets.next().await.is_some() {
            let inbox = asking.new_inbox();
            let mut answers = asking.subscribe(inbox.clone()).await.unwrap();
            asking
                .publish_with_reply(format!("get.{list}"), inbox, "{}".into())
                .await
                .unwrap();
            let answer = loop {
                let answer = heard(&mut answers).await;
                // Somebody is there, who may want more time.
                assert_eq!(answer.status, None, "nobody answers after a reset");
                if answer.payload.starts_with(b"{") {
                    break serde_json::from_slice::<Value>(&answer.payload).unwrap();
                }
            };
            assert!(answer["result"]["collection"].is_array(), "{answer}");
            count += 1;
            if count == 3 {
                break;
            }
        }
    });
    for _ in 0..2 {
        projector.kill().await;
        for _ in 0..15 {
            shoppers.act(&api).await;
        }
        projector = stack.service("project").await;
        for _ in 0..5 {
            shoppers.act(&api).await;
        }
        agrees_when_folded(&client, &api, &mut shoppers).await;
    }
    // Each take-over heals at once, and the last one, which lasts, once more a while later.
    answered_resets.await.unwrap();
    was_told_of_no_end(&client);
}

/// One more event, and with its basket everything before it is folded; then the client sees what the API says.
async fn agrees_when_folded(client: &impl Sees, service: &Service, shoppers: &mut Shoppers) {
    let visit = session();
    let last = event(&shoppers.shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    let answer = service.publish(&shoppers.shop, &last).await;
    let sequence = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
    service.basket(&shoppers.shop, &visit, sequence).await;
    agrees(client, service, &shoppers.shop).await;
}

#[tokio::test]
async fn two_projectors_hand_over_under_load_and_every_client_ends_right() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start(&stack).await else {
        return;
    };
    let api = stack.service("api").await;
    let mut first = stack.service("project").await;
    let shops: Vec<String> = (0..4).map(|_| session()).collect();
    let seed = fastrand::u64(..);
    let mut all: Vec<Shoppers> = shops.iter().map(|shop| Shoppers::new(shop, 5, seed)).collect();
    let client = ResClient::connect(&resgate.url()).await;
    for shop in &shops {
        client.subscribe(&rid(shop, "baskets")).await.unwrap();
    }
    let act = async |all: &mut Vec<Shoppers>, count: usize| {
        for _ in 0..count {
            for shoppers in all.iter_mut() {
                shoppers.act(&api).await;
            }
        }
    };
    act(&mut all, 20).await;
    // Half of the partitions are handed over.
    let mut second = stack.service("project").await;
    act(&mut all, 40).await;
    wait_for("the second to have its share", async || {
        (second.metric("ezout_leases_held").await? >= 8.0).then_some(())
    })
    .await;
    act(&mut all, 20).await;
    // All of them are taken over from one that is gone without a word.
    first.kill().await;
    act(&mut all, 40).await;
    for shoppers in &mut all {
        agrees_when_folded(&client, &api, shoppers).await;
    }
    // And given back in order.
    first = stack.service("project").await;
    act(&mut all, 20).await;
    second.stop().await;
    act(&mut all, 20).await;
    for shoppers in &mut all {
        agrees_when_folded(&client, &api, shoppers).await;
    }
    was_told_of_no_end(&client);
    drop(first);
}

#[tokio::test]
async fn what_changes_while_only_the_service_is_cut_off_is_healed_by_one_reset() {
    let stack = Stack::start().await;
    let Some(resgate) = Resgate::start(&stack).await else {
        return;
    };
    let proxy = Proxy::start(&stack.nats.url()).await;
    let api = stack.service("api").await;
    let through = proxy.url();
    let _projector = stack
        .service_with("project", &[("EZOUT_NATS_URL", through.as_str())])
        .await;
    let mut shoppers = Shoppers::new(&session(), 4, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&api).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shoppers.shop, "baskets")).await.unwrap();
    agrees_when_folded(&client, &api, &mut shoppers).await;
    let nats = stack.nats_client().await;
    let mut resets = nats.subscribe("system.reset").await.unwrap();
    nats.flush().await.unwrap();
    let of_shop = json!({ "resources": [rid(&shoppers.shop, ">")] });
    for _ in 0..3 {
        proxy.cut();
        for _ in 0..20 {
            shoppers.act(&api).await;
        }
        proxy.mend();
        loop {
            let reset = heard(&mut resets).await;
            if serde_json::from_slice::<Value>(&reset.payload).unwrap() == of_shop {
                break;
            }
        }
        agrees_when_folded(&client, &api, &mut shoppers).await;
    }
    while let Ok(Some(reset)) = tokio::time::timeout(Duration::from_secs(3), resets.next()).await {
        let reset: Value = serde_json::from_slice(&reset.payload).unwrap();
        assert_ne!(reset, of_shop, "another reset of the shop");
    }
    was_told_of_no_end(&client);
}

#[tokio::test]
async fn a_gateway_and_its_nats_may_die_and_come_back() {
    let mut stack = Stack::start().await;
    let Some(mut resgate) = Resgate::start(&stack).await else {
        return;
    };
    let service = stack.service("serve").await;
    let shop = session();
    let mut shoppers = Shoppers::new(&shop, 5, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&service).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    client.subscribe(&rid(&shop, "baskets")).await.unwrap();
    agrees(&client, &service, &shop).await;
    stack.nats.kill().await;
    assert!(!resgate.loses_nats().await.success());
    wait_for("the client to hear of it", async || client.is_closed().then_some(())).await;
    stack.nats.restart().await.unwrap();
    resgate.restart().await;
    wait_for("the journal to be open", async || {
        let event = shoppers.next();
        (service.publish(&shop, &event).await.status() == 200).then_some(())
    })
    .await;
    let again = ResClient::connect(&resgate.url()).await;
    // Whoever asks before the service is back is told that nobody is there.
    wait_for("the service to be back", async || {
        again.subscribe(&rid(&shop, "baskets")).await.ok()
    })
    .await;
    for _ in 0..20 {
        shoppers.act(&service).await;
    }
    agrees_when_folded(&again, &service, &mut shoppers).await;
    was_told_of_no_end(&again);
}

#[tokio::test]
async fn pages_of_sessions_are_the_same_for_all_who_mean_the_same_and_follow_what_happens() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    let mut shoppers = Shoppers::new(&shop, 5, fastrand::u64(..));
    for _ in 0..40 {
        shoppers.act(&system.service).await;
    }
    let client = ResClient::connect(&resgate.url()).await;
    let queries = [
        "sessions",
        "sessions?limit=50",
        "sessions?limit=3",
        "sessions?status=open&limit=3",
        "sessions?limit=03&status=open",
        "sessions?verdict=diverged",
    ];
    for query in queries {
        client.subscribe(&rid(&shop, query)).await.unwrap();
    }
    for (query, code) in [
        ("sessions?limit=0", "system.invalidQuery"),
        ("sessions?page=1", "system.invalidQuery"),
        ("sessions?since=now", "system.invalidQuery"),
    ] {
        assert_eq!(
            client.subscribe(&rid(&shop, query)).await.unwrap_err()["code"],
            code,
            "{query}"
        );
    }
    for _ in 0..3 {
        for _ in 0..8 {
            shoppers.act(&system.service).await;
        }
        for query in queries {
            let path = query.replacen("sessions", "baskets", 1).replace("limit=03", "limit=3");
            let url = format!("{}/v1/shops/{shop}/{path}", system.http_url());
            wait_for(&format!("{query} as the API says"), async || {
                let truth = json_of(&url).await["baskets"].clone();
                (client.tree(&rid(&shop, query)) == Some(truth)).then_some(())
            })
            .await;
        }
    }
    // The summary follows as well.
    client.subscribe(&rid(&shop, "summary")).await.unwrap();
    shoppers.act(&system.service).await;
    wait_for("the summary as the API says", async || {
        let mut truth = json_of(&format!("{}/v1/shops/{shop}/summary", system.http_url())).await;
        truth.as_object_mut().unwrap().remove("sequence");
        (client.tree(&rid(&shop, "summary")) == Some(truth)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_feed_carries_every_update_as_it_is_on_nats() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let shop = system.shop();
    let client = ResClient::connect(&resgate.url()).await;
    let model = client.subscribe(&rid(&shop, "feed")).await.unwrap();
    assert_eq!(model, json!({ "shop_id": shop }));
    let nats = system.stack.nats_client().await;
    let mut raw = nats.subscribe(format!("updates.store.{shop}")).await.unwrap();
    nats.flush().await.unwrap();
    let mut shoppers = Shoppers::new(&shop, 3, 1);
    let mut wanted = Vec::new();
    for _ in 0..20 {
        shoppers.act(&system.service).await;
        let update = heard(&mut raw).await;
        wanted.push(serde_json::from_slice::<Value>(&update.payload).unwrap());
    }
    wait_for("twenty updates", async || {
        let told: Vec<Value> = client
            .events(&rid(&shop, "feed"))
            .into_iter()
            .inspect(|event| assert_eq!(event.name, "update"))
            .map(|event| event.data)
            .collect();
        (told.len() == wanted.len()).then(|| assert_eq!(told, wanted))
    })
    .await;
}

#[tokio::test]
async fn a_person_may_handle_a_basket_for_a_while_and_all_see_it() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let (shop, visit) = (system.shop(), session());
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    system.service.publish(&shop, &added).await;
    let (ada, bob) = (
        ResClient::connect(&resgate.url()).await,
        ResClient::connect(&resgate.url()).await,
    );
    let name = basket_rid(&shop, &visit);
    wait_for("the basket", async || ada.subscribe(&name).await.ok()).await;
    bob.subscribe(&name).await.unwrap();
    let handled = ada
        .call(&name, "handle", json!({ "by": "Ada", "minutes": 5 }))
        .await
        .unwrap();
    assert_eq!(handled["handled_by"], "Ada");
    assert_eq!(
        ada.tree(&name).unwrap()["handled_until"],
        handled["handled_until"],
        "the event comes first"
    );
    assert_eq!(bob.hears(&name, "change").await["values"], handled);
    let refused = bob.call(&name, "handle", json!({ "by": "Bob" })).await.unwrap_err();
    assert_eq!(
        (&refused["code"], &refused["data"]),
        (&json!("ezout.handled"), &handled)
    );
    let taken = bob
        .call(&name, "handle", json!({ "by": "Bob", "instead": true }))
        .await
        .unwrap();
    assert_eq!(taken["handled_by"], "Bob");
    // It outlives a change of the basket.
    system
        .service
        .publish(&shop, &event(&shop, &visit, 2, "ADD", 1, 1.5, 1.5))
        .await;
    wait_for("the change", async || {
        (ada.tree(&name)?["item_count"] == 2).then_some(())
    })
    .await;
    assert_eq!(ada.tree(&name).unwrap()["handled_by"], "Bob");
    let released = bob.call(&name, "handle", json!({ "release": true })).await.unwrap();
    assert_eq!(released, json!({ "handled_by": null, "handled_until": null }));

    for (rid, method, params, code) in [
        (&name, "handle", json!({}), "system.invalidParams"),
        (
            &name,
            "handle",
            json!({ "by": "x".repeat(101) }),
            "system.invalidParams",
        ),
        (
            &name,
            "handle",
            json!({ "by": "Ada", "minutes": 0 }),
            "system.invalidParams",
        ),
        (&name, "handle", json!({ "name": "Ada" }), "system.invalidParams"),
        (&name, "destroy", json!({}), "system.accessDenied"),
        (
            &basket_rid(&shop, &session()),
            "handle",
            json!({ "by": "Ada" }),
            "system.notFound",
        ),
        (
            &rid(&shop, "baskets"),
            "handle",
            json!({ "by": "Ada" }),
            "system.accessDenied",
        ),
    ] {
        let refused = ada.call(rid, method, params.clone()).await.unwrap_err();
        assert_eq!(refused["code"], code, "{rid} {method} {params}");
    }
}

#[tokio::test]
async fn a_basket_is_corrected_by_a_call_as_by_the_route() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let (shop, visit) = (system.shop(), session());
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    system.service.publish(&shop, &added).await;
    let client = ResClient::connect(&resgate.url()).await;
    let name = basket_rid(&shop, &visit);
    wait_for("the basket", async || client.subscribe(&name).await.ok()).await;
    let asked = json!({
        "id": session(), "author": "Ada", "reason": "two of them", "quantity": { "product_id": 1, "quantity": 2 },
    });
    let corrected = client.call(&name, "correct", asked.clone()).await.unwrap();
    assert_eq!(
        (&corrected["id"], &corrected["state"]),
        (&asked["id"], &json!("published"))
    );
    let sequence = corrected["sequence"].as_u64().unwrap();
    let truth = system.service.basket(&shop, &visit, sequence).await;
    assert_eq!(
        (&truth["item_count"], &truth["corrections"][0]["author"]),
        (&json!(2), &json!("Ada"))
    );
    client.sees(&name, &basket(&system.service, &shop, &visit).await).await;
    // Once more, and another under the same id.
    assert_eq!(client.call(&name, "correct", asked.clone()).await.unwrap(), corrected);
    let mut other = asked.clone();
    other["reason"] = json!("another");
    let refused = client.call(&name, "correct", other).await.unwrap_err();
    assert_eq!(refused["code"], "ezout.conflict");
    for (params, code) in [
        (json!({ "author": "Ada", "reason": "x" }), "system.invalidParams"),
        (
            json!({ "author": "database", "reason": "x", "adjustment": { "by": 1 } }),
            "system.invalidParams",
        ),
        (
            json!({ "author": "Ada", "reason": "x", "adjustment": { "by": 1 }, "base_sequence": sequence - 1 }),
            "ezout.moved_on",
        ),
        (
            json!({ "author": "Ada", "reason": "x", "remove": { "product_id": 9 } }),
            "ezout.no_line",
        ),
    ] {
        let refused = client.call(&name, "correct", params.clone()).await.unwrap_err();
        assert_eq!(refused["code"], code, "{params}");
    }
}

#[tokio::test]
async fn whoever_says_who_he_is_is_believed_as_long_as_nobody_is_asked() {
    let system = system().await;
    let Some(resgate) = Resgate::start(&system.stack).await else {
        return;
    };
    let client = ResClient::connect(&resgate.url()).await;
    for method in ["jwt", "header", "cookie", "logout"] {
        assert_eq!(
            client.auth("ezout.auth", method, json!({ "jwt": "x" })).await,
            Ok(Value::Null),
            "{method}"
        );
    }
    let refused = client.auth("ezout.auth", "other", Value::Null).await.unwrap_err();
    assert_eq!(refused["code"], "system.methodNotFound");
    let elsewhere = client.auth("ezout.shop", "jwt", Value::Null).await.unwrap_err();
    assert_eq!(elsewhere["code"], "system.notFound");
}

#[tokio::test]
async fn what_takes_long_is_waited_for_and_what_is_too_large_is_said_to_be() {
    let mut stack = Stack::start().await;
    let Some(resgate) = Resgate::start_with(&stack, |options| options.trace = false).await else {
        return;
    };
    let service = stack.service("serve").await;
    let (shop, visit) = (session(), session());
    let mut last = 0;
    // Far more text than a message may have.
    let lines: Vec<String> = (1..=400)
        .map(|action_id| {
            let mut added = event(&shop, &visit, action_id, "ADD", action_id, 1.5, 1.5);
            added["product_name"] = json!("x".repeat(3_000));
            added.to_string()
        })
        .collect();
    let url = format!("{}/v1/shops/{shop}/events", service.http_url());
    let sent = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/x-ndjson");
    let verdicts = sent.body(lines.join("\n")).send().await.unwrap().text().await.unwrap();
    for verdict in verdicts.lines() {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        last = verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{verdict}"));
    }
    service.basket(&shop, &visit, last).await;
    // Longer than a gateway waits for an answer that nobody announces.
    stack.mongod.pause();
    let client = ResClient::connect(&resgate.url()).await;
    let name = basket_rid(&shop, &visit);
    let subscribing = client.subscribe(&name);
    let resuming = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        stack.mongod.resume();
    };
    let (subscribed, ()) = tokio::join!(subscribing, resuming);
    let seen = subscribed.unwrap();
    assert_eq!(
        (&seen["details_left_out"], &seen["lines"], &seen["item_count"]),
        (&json!(true), &json!([]), &json!(400))
    );
    drop(client);
    // Before its folder goes.
    drop(resgate);
}
