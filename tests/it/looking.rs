//! Looking: pages and summaries of a shop, histories, replays, baskets of the past, and their reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ezout::core::event::{Event, Strictness};
use ezout::core::id::ShopId;
use ezout::core::money::Money;
use ezout::views::Views;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::contracts::check;
use crate::project::poison;
use crate::support::{Stack, System, event, session, system, wait_for};

/// Longest wait for an update.
const PATIENCE: Duration = Duration::from_secs(10);

/// Records events in their order and answers their places.
async fn record(system: &System, shop: &str, events: &[Value]) -> Vec<u64> {
    let url = format!("{}/v1/shops/{shop}/events", system.http_url());
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    let request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/x-ndjson");
    let answer = request.body(lines.join("\n")).send().await.unwrap();
    let verdicts = check::read("POST", answer).await.text().await.unwrap();
    let place = |line: &str| {
        let verdict: Value = serde_json::from_str(line).unwrap();
        verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{line}"))
    };
    verdicts.lines().map(place).collect()
}

async fn get(system: &System, path: &str) -> (u16, Value) {
    check::json_of(&format!("{}{path}", system.http_url())).await
}

async fn ok(system: &System, path: &str) -> Value {
    let (status, body) = get(system, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn money(value: &Value) -> Money {
    Money::parse_sum(&value.to_string()).unwrap()
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}"))
}

fn session_path(shop: &str, session: &str) -> String {
    format!("/v1/shops/{shop}/sessions/{session}")
}

fn time(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}

/// A visit of this many actions, some of which come late, in the order in which they are sent.
fn visit(random: &mut fastrand::Rng, shop: &str, session: &str, count: i64) -> Vec<Value> {
    let mut events: Vec<Value> = (1..=count)
        .map(|id| {
            let action = if id == count * 9 / 10 {
                "CHECKOUT"
            } else {
                random
                    .choice(["ADD", "ADD", "ADD", "REMOVE", "REMOVE", "LOOK"])
                    .unwrap()
            };
            let price = f64::from(random.u32(1..4)) * 1.25;
            let claimed = f64::from(random.u32(0..40)) * 0.25;
            let mut event = event(shop, session, id, action, random.i64(1..6), price, claimed);
            event["quantity"] = json!(random.u32(1..4));
            event
        })
        .collect();
    for place in 0..events.len() - 1 {
        if random.u8(0..5) == 0 {
            events.swap(place, place + 1);
        }
    }
    events
}

/// What a basket and the updates have in common.
fn common(basket: &Value) -> Vec<Value> {
    let fields = [
        "status",
        "item_count",
        "total",
        "claimed_total",
        "verdict",
        "finding_count",
        "version",
    ];
    fields.iter().map(|field| basket[field].clone()).collect()
}

/// What two sessions of the same actions have in common, whatever their places in the journal.
fn picture(basket: &Value) -> Vec<Value> {
    let mut picture = common(basket);
    let fields = ["lines", "missing", "opened_at", "last_action_at", "last_action"];
    picture.extend(fields.iter().map(|field| basket[field].clone()));
    let findings = array(&basket["findings"]).iter();
    picture.extend(findings.map(|finding| json!([finding["kind"], finding["action_id"], finding["product_id"]])));
    picture.push(basket["divergence"]["since_action_id"].clone());
    picture
}

#[tokio::test]
async fn a_basket_of_the_past_is_the_one_that_was_told_then() {
    let system = system().await;
    let (shop, visited) = (system.shop(), session());
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let client = async_nats::connect(system.nats_url()).await.unwrap();
    let mut updates = client.subscribe(format!("updates.store.{shop}")).await.unwrap();
    client.flush().await.unwrap();

    let events = visit(&mut random, &shop, &visited, 200);
    let mut places = Vec::new();
    for some in events.chunks(10) {
        places.extend(record(system, &shop, some).await);
    }
    let mut told: BTreeMap<u64, Value> = BTreeMap::new();
    while told.len() < events.len() {
        let update = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap().unwrap();
        let update: Value = serde_json::from_slice(&update.payload).unwrap();
        told.insert(update["sequence"].as_u64().unwrap(), update["basket"].clone());
    }
    system.service.basket(&shop, &visited, *places.last().unwrap()).await;

    // At each place in the journal.
    let path = session_path(&shop, &visited);
    let baskets: Vec<Value> = stream::iter(&places)
        .map(|place| {
            let path = format!("{path}/basket?sequence={place}");
            async move { ok(system, &path).await }
        })
        .buffered(8)
        .collect()
        .await;
    for (place, basket) in places.iter().zip(&baskets) {
        assert_eq!(common(basket), common(&told[place]), "at {place}");
        assert_eq!(basket["basket_sequence"], *place);
        assert_eq!(basket["sequence"], *place);
        assert_eq!(basket["shop_id"], shop);
    }

    // At each time: the newest state that was recorded by then.
    let history = ok(system, &format!("{path}/events")).await;
    let recorded: Vec<OffsetDateTime> = array(&history["events"])
        .iter()
        .map(|event| time(&event["recorded_at"]))
        .collect();
    let in_milliseconds = |time: OffsetDateTime| time.replace_millisecond(time.millisecond()).unwrap();
    for (number, at) in recorded.iter().enumerate().step_by(7) {
        let later = recorded.iter().position(|other| in_milliseconds(*other) > *at);
        let expected = &baskets[later.unwrap_or(baskets.len()) - 1];
        let text = array(&history["events"])[number]["recorded_at"].as_str().unwrap();
        let basket = ok(system, &format!("{path}/basket?at={text}")).await;
        assert_eq!(picture(&basket), picture(expected), "at {text}");
        assert_eq!(basket["basket_sequence"], expected["basket_sequence"]);
        assert!(basket["sequence"].as_u64() >= basket["basket_sequence"].as_u64());
    }

    // Folded on its own, a session that only ever had the first of these actions is the same.
    for count in [1, 17, 100, 183, 200] {
        let other = session();
        let prefix: Vec<Value> = events[..count]
            .iter()
            .map(|event| {
                let mut event = event.clone();
                event["session_id"] = json!(other);
                event
            })
            .collect();
        let last = *record(system, &shop, &prefix).await.last().unwrap();
        let basket = system.service.basket(&shop, &other, last).await;
        assert_eq!(picture(&basket), picture(&baskets[count - 1]), "after {count}");
        assert_eq!(
            basket["findings"].as_array().unwrap().len(),
            baskets[count - 1]["findings"].as_array().unwrap().len()
        );
    }

    // The future is now, and before the first event there is nothing.
    let now = ok(system, &format!("{path}/basket")).await;
    for query in ["sequence=18446744073709551615", "at=2999-01-01T00:00:00Z"] {
        let basket = ok(system, &format!("{path}/basket?{query}")).await;
        assert_eq!(picture(&basket), picture(&now), "{query}");
        assert_eq!(basket["updated_at"], now["updated_at"]);
    }
    for query in [
        format!("sequence={}", places[0] - 1),
        "at=2000-01-01T00:00:00Z".to_owned(),
    ] {
        let (status, problem) = get(system, &format!("{path}/basket?{query}")).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{query}");
    }
}

#[tokio::test]
async fn an_explanation_accounts_for_every_line_and_the_whole_total() {
    let system = system().await;
    let shop = system.shop();
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for count in [1, 20, 60, 150] {
        let visited = session();
        let events = visit(&mut random, &shop, &visited, count);
        let places = record(system, &shop, &events).await;
        let now = system.service.basket(&shop, &visited, *places.last().unwrap()).await;
        let path = session_path(&shop, &visited);
        let middle = places[places.len() / 2];
        let then = ok(system, &format!("{path}/basket?sequence={middle}")).await;
        for (query, basket, actions) in [
            (String::new(), now, places.len()),
            (format!("?sequence={middle}"), then, places.len() / 2 + 1),
        ] {
            let explanation = ok(system, &format!("{path}/explain{query}")).await;
            check_explanation(&explanation, &basket, actions);
        }
    }
}

fn check_explanation(explanation: &Value, basket: &Value, actions: usize) {
    let mut total = Money::ZERO;
    for line in array(&explanation["lines"]) {
        let because = array(&line["because"]);
        let amount: Money = because.iter().map(|effect| money(&effect["amount_change"])).sum();
        let quantity: i64 = because
            .iter()
            .map(|effect| effect["quantity_change"].as_i64().unwrap())
            .sum();
        assert_eq!(amount, money(&line["amount"]), "{line}");
        assert_eq!(quantity, line["quantity"].as_i64().unwrap(), "{line}");
        for effect in because {
            assert_eq!(effect["why_not"].is_null(), effect["quantity_change"] != 0, "{effect}");
        }
        total += amount;
    }
    assert_eq!(total, money(&explanation["total"]));
    let lines = |json: &Value| -> Vec<Value> {
        let lines = array(&json["lines"]).iter().filter(|line| line["quantity"] != 0);
        lines
            .map(|line| {
                json!([
                    line["product_id"],
                    line["quantity"],
                    line["amount"],
                    line["product_name"]
                ])
            })
            .collect()
    };
    assert_eq!(lines(explanation), lines(basket));
    for field in [
        "total",
        "claimed_total",
        "verdict",
        "divergence",
        "status",
        "item_count",
        "version",
    ] {
        assert_eq!(explanation[field], basket[field], "{field}");
    }

    let claims = array(&explanation["claims"]);
    assert_eq!(claims.len(), actions);
    let divergence = &basket["divergence"];
    let last_compared = claims.iter().rfind(|claim| !claim["difference"].is_null()).unwrap();
    assert_eq!(last_compared["diverged"], json!(!divergence.is_null()));
    if !divergence.is_null() {
        assert_eq!(last_compared["difference"], divergence["by"]);
        let since = claims
            .iter()
            .position(|claim| claim["sequence"] == divergence["since_sequence"])
            .unwrap();
        assert!(claims[since..].iter().all(|claim| claim["diverged"] == true));
        assert!(since == 0 || claims[since - 1]["diverged"] == false);
    }
    for idle in array(&explanation["without_effect"]) {
        let why = idle["why_not"].as_str().unwrap();
        assert!(
            ["after_end", "unknown_action", "removed_absent"].contains(&why),
            "{idle}"
        );
    }
    let looked = claims.iter().filter(|claim| claim["action"] == "LOOK").count();
    let idle = array(&explanation["without_effect"]).iter();
    assert_eq!(idle.filter(|idle| idle["action"] == "LOOK").count(), looked);
}

#[tokio::test]
async fn a_history_is_what_was_recorded_in_the_order_of_the_journal() {
    let system = system().await;
    let (shop, visited) = (system.shop(), session());
    let mut random = fastrand::Rng::with_seed(7);
    let events = visit(&mut random, &shop, &visited, 100);
    let places = record(system, &shop, &events).await;
    // Another session in between, and a copy, which is no event of its own.
    record(system, &shop, &visit(&mut random, &shop, &session(), 20)).await;
    let mut late = event(&shop, &visited, 101, "ADD", 1, 1.0, 1.0);
    late["colour"] = json!("red");
    system.service.publish(&shop, &events[3]).await;
    let answer = system.service.publish(&shop, &late).await;
    let last: u64 = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
    system.service.basket(&shop, &visited, last).await;

    let expected: Vec<(u64, String)> = events
        .iter()
        .chain([&late])
        .zip(places.iter().chain([&last]))
        .map(|(event, place)| {
            let event = Event::parse(event.to_string().as_bytes(), Strictness::Original).unwrap();
            (*place, event.canonical_json())
        })
        .collect();
    let url = format!("{}{}/events", system.http_url(), session_path(&shop, &visited));
    let lines = async |url: &str| {
        let request = reqwest::Client::new().get(url).header("accept", "application/x-ndjson");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        answer.text().await.unwrap()
    };
    let text = lines(&url).await;
    assert_eq!(text.lines().count(), expected.len());
    for (line, (place, json)) in text.lines().zip(&expected) {
        assert!(
            line.starts_with(&format!("{{\"sequence\":{place},\"recorded_at\":\"")),
            "{line}"
        );
        assert!(line.ends_with(&format!(",\"event\":{json}}}")), "{line}\n{json}");
    }
    let whole = reqwest::get(&url).await.unwrap().text().await.unwrap();
    let joined = text.lines().collect::<Vec<_>>().join(",");
    assert!(whole.ends_with(&format!(",\"events\":[{joined}]}}")), "{whole}");
    let document: Value = serde_json::from_str(&whole).unwrap();
    assert!(document["sequence"].as_u64().unwrap() >= last);

    let rest = lines(&format!("{url}?after={}", places[59])).await;
    assert_eq!(
        rest.lines().collect::<Vec<_>>(),
        text.lines().skip(60).collect::<Vec<_>>()
    );
    assert_eq!(lines(&format!("{url}?after={last}")).await, "");

    let (status, problem) = get(system, &format!("{}/events", session_path(&shop, &session()))).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
}

/// The messages of an event stream that has ended: kind, id, data.
fn messages(text: &str) -> Vec<(String, Option<u64>, Value)> {
    let field = |message: &str, name: &str| {
        let found = message.lines().find_map(|line| line.strip_prefix(name));
        found.map(|value| value.trim_start_matches(':').trim().to_owned())
    };
    text.split("\n\n")
        .filter(|message| !message.trim().is_empty())
        .map(|message| {
            (
                field(message, "event").unwrap_or_default(),
                field(message, "id").map(|id| id.parse().unwrap()),
                serde_json::from_str(&field(message, "data").unwrap()).unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_replay_keeps_the_pace_of_the_visit_and_goes_on_where_it_was_cut_off() {
    let system = system().await;
    let (shop, visited) = (system.shop(), session());
    // 8 s in all, of which one action came late.
    let events = [1, 3, 5, 4, 9].map(|id| event(&shop, &visited, id, "ADD", 1, 1.0, 1.0));
    let places = record(system, &shop, &events).await;
    system.service.basket(&shop, &visited, places[4]).await;
    let url = format!("{}{}/events", system.http_url(), session_path(&shop, &visited));
    let replay = async |query: &str, last: Option<u64>| {
        let mut request = reqwest::Client::new()
            .get(format!("{url}{query}"))
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let begun = Instant::now();
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let text = answer.text().await.unwrap();
        (messages(&text), begun.elapsed())
    };
    let (told, took) = replay("?speed=10", None).await;
    // 2 + 2 + 0 + 5 seconds of the visit.
    assert!(took >= Duration::from_millis(900), "{took:?}");
    let ids: Vec<_> = told.iter().map(|message| message.1).collect();
    assert_eq!(
        ids,
        places
            .iter()
            .map(|place| Some(*place))
            .chain([None])
            .collect::<Vec<_>>()
    );
    assert_eq!(told[5].0, "end");
    assert!(told[5].2["sequence"].as_u64().unwrap() >= places[4]);
    for (message, sent) in told.iter().zip(&events) {
        assert_eq!(message.2["event"]["action_id"], sent["action_id"]);
        assert_eq!(message.2["sequence"], message.1.unwrap());
    }
    // The end says what was true when it came.
    let events_of = |messages: &[(String, Option<u64>, Value)]| messages[..messages.len() - 1].to_vec();
    let (rest, _) = replay("?speed=1000000", Some(places[2])).await;
    assert_eq!(events_of(&rest), told[3..5]);
    let (rest, _) = replay(&format!("?speed=1000000&after={}", places[1]), None).await;
    assert_eq!(events_of(&rest), told[2..5]);
    let (rest, _) = replay(&format!("?speed=1000000&after={}", places[0]), Some(places[4])).await;
    assert_eq!(events_of(&rest), told[5..5]);
}

/// Baskets in every state: sessions by what was done in them, and the place of the last event.
async fn furnish(system: &System, shop: &str, count: usize) -> (Vec<String>, u64) {
    let sessions: Vec<String> = (0..count).map(|_| session()).collect();
    let mut events = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        let claimed = if number % 4 == 0 { 9.75 } else { 7.0 };
        let product = i64::try_from(number % 3).unwrap();
        events.push(event(shop, session, 1, "ADD", product, 3.5, 3.5));
        events.push(event(shop, session, 2, "ADD", product, 3.5, claimed));
        match number % 5 {
            1 => events.push(event(shop, session, 3, "CHECKOUT", product, 3.5, claimed)),
            2 => events.push(event(shop, session, 3, "CANCEL", product, 3.5, 0.0)),
            _ => {}
        }
    }
    let last = *record(system, shop, &events).await.last().unwrap();
    for session in &sessions {
        system.service.basket(shop, session, last).await;
    }
    (sessions, last)
}

/// All pages of a list, one after the other.
async fn pages(system: &System, shop: &str, query: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = ok(
            system,
            &format!("/v1/shops/{shop}/baskets?limit={limit}{query}{cursor}"),
        )
        .await;
        let baskets = array(&page["baskets"]);
        assert!(baskets.len() <= limit);
        all.extend(baskets.iter().cloned());
        match page["next"].as_str() {
            Some(next) => {
                assert_eq!(baskets.len(), limit);
                cursor = format!("&cursor={next}");
            }
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_list_goes_on_behind_a_basket_that_cannot_be_read() {
    // A system of its own, since nobody mends what is spoiled here.
    let stack = Stack::start().await;
    let system = System {
        service: stack.service("serve").await,
        stack,
    };
    let shop = session();
    let (sessions, _) = furnish(&system, &shop, 6).await;
    let spoilt = doc! { "_id": format!("{shop}.{}", sessions[3]) };
    let baskets = system.stack.database().await.collection::<Document>("baskets");
    let total = doc! { "$set": { "total": "much" } };
    let spoiling = baskets.update_one(spoilt, total).bypass_document_validation(true);
    assert_eq!(spoiling.await.unwrap().modified_count, 1);
    for limit in [1, 2, 5] {
        let mut listed = BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let page = ok(&system, &format!("/v1/shops/{shop}/baskets?limit={limit}{cursor}")).await;
            let ids = array(&page["baskets"])
                .iter()
                .map(|basket| basket["session_id"].to_string());
            listed.extend(ids);
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(listed.len(), 5, "in pages of {limit}");
        assert!(!listed.contains(&json!(sessions[3]).to_string()));
    }
}

#[tokio::test]
async fn filters_let_through_what_they_say_and_pages_of_any_size_are_the_same_list() {
    let system = system().await;
    let shop = system.shop();
    let (sessions, last) = furnish(system, &shop, 37).await;
    let page = ok(system, &format!("/v1/shops/{shop}/baskets?limit=200")).await;
    assert!(page["sequence"].as_u64().unwrap() >= last);
    assert!(page["next"].is_null());
    let all = array(&page["baskets"]);
    assert_eq!(all.len(), sessions.len());
    assert!(all.is_sorted_by(|one, next| one["basket_sequence"].as_u64() > next["basket_sequence"].as_u64()));
    // Each says what the basket itself says.
    for listed in all {
        let path = session_path(&shop, listed["session_id"].as_str().unwrap());
        let basket = ok(system, &format!("{path}/basket")).await;
        for (field, value) in listed.as_object().unwrap() {
            assert_eq!(value, &basket[field], "{field}");
        }
    }
    let middle = all[18]["updated_at"].as_str().unwrap();
    let earlier = all[30]["updated_at"].as_str().unwrap();
    for status in ["", "open", "abandoned", "paid", "cancelled"] {
        for verdict in ["", "ok", "diverged"] {
            for (since, until) in [
                ("", ""),
                (middle, ""),
                ("2999-01-01T00:00:00Z", ""),
                ("", middle),
                (earlier, middle),
                (middle, middle),
                ("", "2999-01-01T00:00:00Z"),
            ] {
                let mut query = String::new();
                for (name, value) in [
                    ("status", status),
                    ("verdict", verdict),
                    ("since", since),
                    ("until", until),
                ] {
                    if !value.is_empty() {
                        let _ = write!(query, "&{name}={value}");
                    }
                }
                let expected: Vec<Value> = all
                    .iter()
                    .filter(|basket| status.is_empty() || basket["status"] == status)
                    .filter(|basket| verdict.is_empty() || basket["verdict"] == verdict)
                    .filter(|basket| since.is_empty() || time(&basket["updated_at"]) >= time(&json!(since)))
                    .filter(|basket| until.is_empty() || time(&basket["updated_at"]) < time(&json!(until)))
                    .cloned()
                    .collect();
                for limit in [1, 4, 200] {
                    assert_eq!(
                        pages(system, &shop, &query, limit).await,
                        expected,
                        "{query} by {limit}"
                    );
                }
            }
        }
    }
    let default = ok(system, &format!("/v1/shops/{shop}/baskets")).await;
    assert_eq!(array(&default["baskets"]).len(), 37);
    assert_eq!(pages(system, &system.shop(), "", 50).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_basket_without_a_single_applied_event_is_on_the_last_page() {
    let system = system().await;
    let (shop, bad, worse) = (system.shop(), session(), session());
    let first = poison(&system.stack, &shop, &bad, "{").await;
    let second = poison(&system.stack, &shop, &worse, "{").await;
    let good = session();
    let last = record(system, &shop, &[event(&shop, &good, 1, "ADD", 1, 1.0, 1.0)]).await[0];
    system.service.basket(&shop, &good, last).await;
    for limit in [1, 2, 200] {
        let all = pages(system, &shop, "", limit).await;
        let listed: Vec<_> = all
            .iter()
            .map(|basket| basket["session_id"].as_str().unwrap())
            .collect();
        assert_eq!(listed, [&good, &worse, &bad], "by {limit}");
        assert_eq!(all[2]["parked_since"], first);
    }
    for query in ["&since=2000-01-01T00:00:00Z", "&until=2999-01-01T00:00:00Z"] {
        assert_eq!(pages(system, &shop, query, 1).await.len(), 1, "{query}");
    }
    let summary = ok(system, &format!("/v1/shops/{shop}/summary")).await;
    assert_eq!(summary["oldest_untouched"]["session_id"], json!(good));
    assert_eq!(summary["open_baskets"], 3);
    // It had no event before it was parked, by either measure of the past.
    let path = session_path(&shop, &worse);
    let (status, _) = get(system, &format!("{path}/basket?sequence={}", second - 1)).await;
    assert_eq!(status, 404);
    let (status, _) = get(system, &format!("{path}/basket?at=2000-01-01T00:00:00Z")).await;
    assert_eq!(status, 404);
    let basket = ok(system, &format!("{path}/basket?at=2999-01-01T00:00:00Z")).await;
    assert_eq!(basket["parked_since"], second);
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_a_basket_that_is_left_alone() {
    let system = system().await;
    let shop = system.shop();
    let (sessions, _) = furnish(system, &shop, 80).await;
    let (busy, quiet): (Vec<_>, Vec<_>) = sessions.iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let quiet: BTreeSet<&str> = quiet.into_iter().map(|(_, session)| session.as_str()).collect();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut seen, mut cursor, mut rounds) = (Vec::new(), String::new(), 0);
    loop {
        let page = ok(system, &format!("/v1/shops/{shop}/baskets?limit=7{cursor}")).await;
        let listed = array(&page["baskets"])
            .iter()
            .map(|basket| basket["session_id"].as_str().unwrap().to_owned());
        seen.extend(listed);
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
        // Baskets behind and before the cursor move to the front, and new ones come.
        rounds += 1;
        let mut events: Vec<Value> = (0..5)
            .map(|number| {
                let (_, session) = random.choice(busy.iter()).unwrap();
                event(&shop, session, 10 + rounds * 5 + number, "ADD", 4, 1.0, 1.0)
            })
            .collect();
        events.push(event(&shop, &session(), 1, "ADD", 4, 1.0, 1.0));
        let last = *record(system, &shop, &events).await.last().unwrap();
        system
            .service
            .basket(&shop, events[5]["session_id"].as_str().unwrap(), last)
            .await;
    }
    assert!(rounds > 5);
    let of_quiet: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|session| quiet.contains(session))
        .collect();
    assert_eq!(of_quiet.len(), quiet.len());
    assert_eq!(of_quiet.into_iter().collect::<BTreeSet<_>>(), quiet);
}

#[tokio::test]
async fn a_summary_is_what_the_baskets_add_up_to() {
    let system = system().await;
    let shop = system.shop();
    let (_, last) = furnish(system, &shop, 31).await;
    let all = pages(system, &shop, "", 200).await;
    let middle = all[15]["updated_at"].as_str().unwrap();
    for day_start in ["2000-01-01T00:00:00Z", middle, "2999-01-01T00:00:00%2B01:00"] {
        let summary = ok(system, &format!("/v1/shops/{shop}/summary?day_start={day_start}")).await;
        let of = |status: &'static str| all.iter().filter(move |basket| basket["status"] == status);
        let begin = time(&json!(day_start.replace("%2B", "+")));
        let today = |basket: &&Value| time(&basket["updated_at"]) >= begin;
        let diverged = |basket: &&Value| basket["verdict"] == "diverged";
        let count = |status| of(status).filter(today).count();
        let amount = |status| -> Money { of(status).filter(today).map(|basket| money(&basket["total"])).sum() };
        let items: u64 = of("open").map(|basket| basket["item_count"].as_u64().unwrap()).sum();
        let at_risk: Money = of("open").map(|basket| money(&basket["total"])).sum();
        assert!(summary["sequence"].as_u64().unwrap() >= last);
        assert_eq!(summary["open_baskets"], of("open").count());
        assert_eq!(summary["open_items"], items);
        assert_eq!(money(&summary["value_at_risk"]), at_risk);
        for (field, status) in [
            ("abandoned_today", "abandoned"),
            ("paid_today", "paid"),
            ("cancelled_today", "cancelled"),
        ] {
            assert_eq!(summary[field]["count"], count(status), "{field} since {day_start}");
            assert_eq!(
                money(&summary[field]["amount"]),
                amount(status),
                "{field} since {day_start}"
            );
        }
        assert_eq!(summary["diverged"], of("open").filter(diverged).count());
        assert_eq!(
            summary["diverged_today"],
            all.iter().filter(diverged).filter(today).count()
        );
        let oldest = of("open").next_back().unwrap();
        assert_eq!(summary["oldest_untouched"]["session_id"], oldest["session_id"]);
        assert_eq!(summary["oldest_untouched"]["updated_at"], oldest["updated_at"]);
    }
    let today = ok(system, &format!("/v1/shops/{shop}/summary")).await;
    assert!(today["day_start"].as_str().unwrap().ends_with("T00:00:00Z"));
    let empty = ok(system, &format!("/v1/shops/{}/summary", system.shop())).await;
    assert_eq!(empty["open_baskets"], 0);
    assert_eq!(empty["value_at_risk"].to_string(), "0.0");
    assert!(empty["oldest_untouched"].is_null());
}

/// Has MongoDB note what it does for such questions.
async fn profile(database: &mongodb::Database, which: Document) {
    // Of its usual megabyte others who look at the same time would take so much that what was asked first is gone.
    let room = doc! { "create": "system.profile", "capped": true, "size": 64 * 1024 * 1024 };
    database.run_command(room).await.unwrap();
    let on = doc! { "profile": 2, "filter": which };
    database.run_command(on).await.unwrap();
}

/// What MongoDB did for the questions of a shop since the last call.
async fn profiled(database: &mongodb::Database, shop: &str, seen: &mut usize) -> Vec<Document> {
    let entries = wait_for("the profile of a question", async || {
        let profile = database.collection::<Document>("system.profile");
        let found: Vec<Document> = profile
            .find(doc! {})
            .sort(doc! { "$natural": 1 })
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let own: Vec<Document> = found
            .into_iter()
            .filter(|entry| {
                entry
                    .get("command")
                    .is_some_and(|command| command.to_string().contains(shop))
            })
            .collect();
        (own.len() > *seen).then_some(own)
    })
    .await;
    let new = entries[*seen..].to_vec();
    *seen = entries.len();
    new
}

/// Asks a question, and answers what MongoDB did for it; again where MongoDB did not note that, as it may if it is busy.
async fn noted(
    (system, path): (&System, &str),
    database: &mongodb::Database,
    shop: &str,
    seen: &mut usize,
) -> (Value, Vec<Document>) {
    for _ in 0..20 {
        let answer = ok(system, path).await;
        let noted = tokio::time::timeout(Duration::from_secs(5), profiled(database, shop, seen)).await;
        if let Ok(entries) = noted {
            return (answer, entries);
        }
    }
    panic!("MongoDB does not note what it does for {path}");
}

fn number(entry: &Document, field: &str) -> i64 {
    let value = entry.get(field).unwrap_or_else(|| panic!("no {field} in {entry}"));
    value.as_i64().or(value.as_i32().map(i64::from)).unwrap()
}

/// A day is found by the index as well, and reads only the baskets that had an event in it.
async fn check_day(
    system: &System,
    database: &mongodb::Database,
    shop: &str,
    (all, start): (&[Value], &str),
    seen: &mut usize,
) {
    let start_time = time(&json!(start));
    let since = all.iter().filter(|basket| time(&basket["updated_at"]) >= start_time);
    let since = i64::try_from(since.count()).unwrap();
    let path = format!("/v1/shops/{shop}/day?day_start={start}");
    for entry in noted((system, &path), database, shop, seen).await.1 {
        check_plan(&entry, "day", since);
    }
}

/// A summary reads the baskets that are open or changed since then, of those that differ alone what changed since then, and
/// the oldest.
async fn check_summary(
    system: &System,
    database: &mongodb::Database,
    shop: &str,
    (all, start): (&[Value], &str),
    seen: &mut usize,
) {
    let start_time = time(&json!(start));
    let changed = |basket: &Value| time(&basket["updated_at"]) >= start_time;
    let count = |which: &dyn Fn(&Value) -> bool| {
        let count = all.iter().filter(|basket| which(basket)).count();
        i64::try_from(count).unwrap()
    };
    let summed = count(&|basket| basket["status"] == "open" || changed(basket));
    let differing = count(&|basket| basket["verdict"] == "diverged" && changed(basket));
    let path = format!("/v1/shops/{shop}/summary?day_start={start}");
    let mut questions = BTreeSet::new();
    wait_for("the questions of a summary", async || {
        for entry in noted((system, &path), database, shop, seen).await.1 {
            let command = entry.get_document("command").unwrap();
            let of_differing = command.get_str("hint").is_ok_and(|hint| hint.starts_with("diverged"));
            let (question, wanted) = match command.contains_key("aggregate") {
                true if of_differing => ("summary: how many differ", differing),
                true => ("summary: sums", summed),
                false => ("summary: the oldest", 1),
            };
            check_plan(&entry, question, wanted);
            questions.insert(question);
        }
        (questions.len() == 3).then_some(())
    })
    .await;
}

/// Questions for baskets that changed before a time.
fn day_questions(until: &str, since: &str, cursor: &str) -> [String; 5] {
    [
        format!("limit=10&until={until}"),
        format!("limit=10&since={since}&until={until}"),
        format!("limit=10&since={since}&until={until}&cursor={cursor}"),
        format!("limit=10&status=paid&since={since}&until={until}"),
        format!("limit=10&verdict=diverged&until={until}"),
    ]
}

#[tokio::test]
async fn no_question_reads_more_of_an_index_than_it_must() {
    let system = system().await;
    let shop = system.shop();
    furnish(system, &shop, 120).await;
    let all = pages(system, &shop, "", 200).await;
    let middle = all[60]["updated_at"].as_str().unwrap();
    let next = |limit: usize, query: &str| {
        let path = format!("/v1/shops/{shop}/baskets?limit={limit}{query}");
        async move { ok(system, &path).await["next"].as_str().unwrap().to_owned() }
    };
    let cursor = next(20, "").await;
    let open_cursor = next(20, "&status=open").await;
    let diverged_cursor = next(10, "&verdict=diverged").await;
    // Many may have changed in the same millisecond, so the bounds lie outside.
    let earlier = "2000-01-01T00:00:00Z";
    let day_cursor = next(10, &format!("&since={earlier}&until=2999-01-01T00:00:00Z")).await;

    let database = system.stack.database().await;
    let of_looking = doc! { "ns": "ezout.baskets", "$or": [
        { "op": "query", "command.limit": { "$in": [999, 7] } },
        { "op": "query", "command.filter.shop_id": &shop },
        { "op": "command", "command.aggregate": "baskets" },
    ] };
    profile(&database, of_looking).await;
    let mut seen = 0;
    for query in day_questions(middle, earlier, &day_cursor).into_iter().chain([
        "limit=10".to_owned(),
        "limit=200".to_owned(),
        format!("limit=10&cursor={cursor}"),
        format!("limit=10&since={middle}"),
        format!("limit=10&since={middle}&cursor={cursor}"),
        "limit=10&status=open".to_owned(),
        format!("limit=10&status=open&cursor={open_cursor}"),
        "limit=10&status=paid".to_owned(),
        format!("limit=10&status=cancelled&since={middle}"),
        "limit=10&verdict=diverged".to_owned(),
        format!("limit=10&verdict=diverged&cursor={diverged_cursor}"),
        "limit=10&verdict=diverged&status=paid".to_owned(),
        format!("limit=10&verdict=diverged&status=open&since={middle}"),
    ]) {
        let path = format!("/v1/shops/{shop}/baskets?{query}");
        for entry in noted((system, &path), &database, &shop, &mut seen).await.1 {
            check_plan(&entry, &query, number(&entry, "nreturned"));
        }
    }
    let open = all.iter().filter(|basket| basket["status"] == "open").count();
    check_summary(system, &database, &shop, (&all, middle), &mut seen).await;
    check_day(system, &database, &shop, (&all, middle), &mut seen).await;
    // What agrees is found in passing over what does not.
    let diverged = i64::try_from(all.iter().filter(|basket| basket["verdict"] == "diverged").count()).unwrap();
    assert!(diverged > 0);
    let path = format!("/v1/shops/{shop}/baskets?limit=10&verdict=ok");
    let (agreeing, entries) = noted((system, &path), &database, &shop, &mut seen).await;
    assert_eq!(array(&agreeing["baskets"]).len(), 10);
    for entry in entries {
        assert!(number(&entry, "docsExamined") <= 10 + diverged, "{entry}");
        assert!(entry.get_str("planSummary").unwrap().starts_with("IXSCAN"), "{entry}");
    }
    // What the timers ask of every shop: a step in the index for each, and for each what is due.
    let (config, stop) = (system.stack.views_config(), CancellationToken::new());
    let views = Views::start(&config, &TaskTracker::new(), stop.clone()).await.unwrap();
    let before = OffsetDateTime::now_utc() + time::Duration::hours(1);
    let profile = database.collection::<Document>("system.profile");
    // Asked again and again, since MongoDB may not note it.
    let idle = wait_for("the question to be in the profile", async || {
        let due = views.idle(&[ShopId::parse(&shop).unwrap()], before, 999).await.unwrap();
        assert_eq!(due.len(), open);
        profile.find_one(doc! { "command.limit": 999 }).await.unwrap()
    })
    .await;
    check_plan(&idle, "idle", i64::try_from(open).unwrap());
    let shops = views.shops().await.unwrap();
    assert!(shops.contains(&ShopId::parse(&shop).unwrap()));
    check_snapshots(&views, &database, &shop, open).await;
    stop.cancel();
    let listed = database
        .run_command(
            doc! { "explain": { "aggregate": "baskets", "cursor": {}, "hint": "by_status_and_change", "pipeline": [
                { "$sort": { "shop_id": 1 } }, { "$group": { "_id": "$shop_id" } }
            ] }, "verbosity": "queryPlanner" },
        )
        .await
        .unwrap();
    assert!(listed.to_string().contains("DISTINCT_SCAN"), "{listed}");
    database
        .run_command(doc! { "profile": 0, "filter": "unset" })
        .await
        .unwrap();
}

/// What a viewer gets who begins, a page at a time, though most baskets of a shop are closed.
async fn check_snapshots(views: &Views, database: &mongodb::Database, shop: &str, open: usize) {
    let shop = ShopId::parse(shop).unwrap();
    let profile = database.collection::<Document>("system.profile");
    // Read again and again, since MongoDB may not note each.
    wait_for("as many pages as there are to be in the profile", async || {
        let (mut after, mut snapshot, mut pages) = (None::<String>, 0, 0);
        loop {
            let page = views.open_baskets(shop, after.as_deref(), 7).await.unwrap();
            snapshot += page.baskets.len();
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(snapshot, open);
        let mut found = profile.find(doc! { "command.limit": 7 }).await.unwrap();
        while found.advance().await.unwrap() {
            let entry: Document = found.deserialize_current().unwrap();
            check_plan(&entry, "snapshot", number(&entry, "nreturned"));
            pages += 1;
        }
        (pages > open / 7).then_some(())
    })
    .await;
}

/// An index alone finds what is asked, in order, and no more than is asked: `wanted` documents, and a step for
/// each of the ranges that a question about any status is merged from.
fn check_plan(entry: &Document, query: &str, wanted: i64) {
    let plan = entry.get_str("planSummary").unwrap();
    assert!(
        plan.starts_with("IXSCAN") && !plan.contains("COLLSCAN"),
        "{query}: {plan}"
    );
    assert!(
        !entry.get_bool("hasSortStage").unwrap_or(false),
        "{query} sorts: {entry}"
    );
    assert_eq!(number(entry, "docsExamined"), wanted, "{query}: {entry}");
    let keys = number(entry, "keysExamined");
    assert!(keys <= wanted + 8, "{query} examines {keys} keys for {wanted}: {entry}");
}

#[tokio::test]
async fn a_session_has_its_history_before_it_has_a_basket_and_when_the_baskets_are_gone() {
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let (shop, visited, other) = (session(), session(), session());
    let mut places = Vec::new();
    for (visit, action_id) in [(&visited, 1), (&other, 1), (&visited, 2), (&visited, 3)] {
        let event = event(&shop, visit, action_id, "ADD", 5, 1.0, 1.0);
        let answer = api.publish(&shop, &event).await;
        places.push(
            answer.headers()["ezout-sequence"]
                .to_str()
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
    }
    // What cannot be read is no part of it.
    poison(&stack, &shop, &visited, "{\"shop_id\":").await;
    let url = |of: &str| format!("{}{}/events", api.http_url(), session_path(&shop, of));
    let lines = async |url: String| {
        let request = reqwest::Client::new().get(url).header("accept", "application/x-ndjson");
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, before) = lines(url(&visited)).await;
    assert_eq!((status, before.lines().count()), (200, 3), "{before}");
    let (_, rest) = lines(format!("{}?after={}", url(&visited), places[0])).await;
    assert_eq!(
        rest.lines().collect::<Vec<_>>(),
        before.lines().skip(1).collect::<Vec<_>>()
    );
    assert_eq!(lines(url(&session())).await.0, 404);

    let mut projector = stack.service("project").await;
    api.basket(&shop, &visited, places[3]).await;
    assert_eq!(lines(url(&visited)).await, (200, before.clone()));
    assert!(projector.stop().await.success());
    let database = stack.database().await;
    for collection in ["baskets", "checkpoints"] {
        database.collection::<Document>(collection).drop().await.unwrap();
    }
    assert_eq!(lines(url(&visited)).await, (200, before));
}
