//! What the merchants' page is given: itself, who somebody is, shops, who handles a basket, the day, and how everything runs.

use std::time::Duration;

use ezout::core::policy::Role;
use ezout::views::{ParkedEvent, ParkedState};
use mongodb::bson::{DateTime, Document, doc};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::access::guarded::Guarded;
use crate::contracts::check;
use crate::live::viewer::Viewer;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, event, printed, refused, session, system, wait_for};

/// So that tests need not wait long for what heartbeats tell.
const QUICK: [(&str, &str); 1] = [("EZOUT_HEARTBEAT", "200ms")];

async fn send(url: &str, method: Method, body: Option<Value>) -> (u16, Value) {
    let word = method.to_string();
    let mut request = Client::new().request(method, url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let (status, body) = check::answer(&word, request.send().await.unwrap()).await;
    (status, serde_json::from_slice(&body).unwrap())
}

/// A basket that is there.
async fn visit(service: &Service, shop: &str) -> String {
    let visit = session();
    let answer = service.publish(shop, &event(shop, &visit, 1, "ADD", 1, 1.5, 1.5)).await;
    let sequence = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
    service.basket(shop, &visit, sequence).await;
    visit
}

fn handling_url(service: &Service, shop: &str, visit: &str) -> String {
    format!("{}/v1/shops/{shop}/sessions/{visit}/handling", service.http_url())
}

#[tokio::test]
async fn the_page_is_sent_packed_and_only_where_it_is_another_than_before() {
    let system = system().await;
    let get = async |path: &str, name: &str, value: &str| -> Response {
        let request = Client::new().get(format!("{}{path}", system.http_url()));
        request.header(name, value).send().await.unwrap()
    };
    let header = |answer: &Response, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    for path in ["/", "/sign-in", "/shops/any/thing", "/operations"] {
        let answer = get(path, "accept-encoding", "identity").await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "cache-control")),
            (200, "no-cache".to_owned())
        );
        let policy = header(&answer, "content-security-policy");
        assert!(
            policy.contains("script-src 'self';") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        let tag = header(&answer, "etag");
        assert!(answer.text().await.unwrap().contains("/app.js"), "{path}");
        let again = get(path, "if-none-match", &tag).await;
        assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag));
        assert!(again.bytes().await.unwrap().is_empty());
    }
    let plain = get("/app.js", "accept-encoding", "identity")
        .await
        .bytes()
        .await
        .unwrap();
    let answer = get("/app.js", "accept-encoding", "gzip, br").await;
    assert_eq!(header(&answer, "content-type"), "text/javascript; charset=utf-8");
    let is_packed = answer.headers().contains_key("content-encoding");
    let sent = answer.bytes().await.unwrap();
    assert!(if is_packed {
        sent.len() < plain.len()
    } else {
        sent == plain
    });

    let config = get("/config.json", "accept", "*/*").await.text().await.unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["auth"], &config["resgate"]),
        (&json!({ "kind": "off" }), &Value::Null)
    );
}

#[tokio::test]
async fn whoever_tries_it_is_who_they_want_to_be_and_is_told_who_that_is() {
    let guarded = Guarded::shared().await;
    let (own, other) = (session(), session());
    let admin = guarded.admin();
    admin.get_until("/v1/me").await;
    let said = json!({ "name": "Harbour Street", "currency": "EUR", "time_zone": "Europe/Berlin" });
    let put = async |who: &crate::access::guarded::Asker, body: &Value| {
        let request = who.request(Method::PUT, &format!("/v1/shops/{own}")).json(body);
        crate::access::guarded::Got::of(request).await
    };
    let set = put(&admin, &said).await;
    assert_eq!((set.status, &set.json()["shop_id"]), (200, &json!(own)));
    for (field, value) in [("name", ""), ("currency", "EURO"), ("time_zone", "Berlin")] {
        let wrong = put(&admin, &json!({ field: value })).await;
        assert_eq!((wrong.status, wrong.code().as_str()), (422, "invalid_body"), "{field}");
        assert_eq!(wrong.json()["errors"][0]["pointer"], format!("/{field}"));
    }

    let wish = json!({ "role": "merchant", "shop": own, "name": "Mia" });
    let nobody = guarded.caller(None);
    let given = nobody.post("/dev/token", &wish).await;
    assert_eq!(given.status, 200, "{given:?}");
    let mia = guarded.caller(Some(given.json()["token"].as_str().unwrap().to_owned()));
    let me = mia.get_until("/v1/me").await.json();
    let mut shop = said.clone();
    shop["shop_id"] = json!(own);
    assert_eq!(me["expires_at"], given.json()["expires_at"]);
    assert_eq!(
        (&me["subject"], &me["role"], &me["verbs"], &me["all_shops"], &me["more"]),
        (
            &json!("Mia"),
            &json!("merchant"),
            &json!(["look", "handle"]),
            &json!(false),
            &json!(false)
        )
    );
    assert_eq!(me["shops"], json!([shop]));
    assert_eq!(mia.get(&format!("/v1/shops/{own}")).await.json(), shop);
    assert_eq!(mia.get(&format!("/v1/shops/{other}")).await.status, 404);
    assert_eq!(put(&mia, &said).await.status, 403);
    // Whoever shops is told of no shop.
    let shopper = guarded.sign(&crate::access::guarded::grant("shopper", None, &[]));
    let shopper = guarded.caller(Some(shopper)).get("/v1/me").await.json();
    assert_eq!((&shopper["role"], &shopper["shops"]), (&json!("shopper"), &json!([])));
    // An admin of all has those that have said something.
    let all = admin.get("/v1/me").await.json();
    assert!(
        all["all_shops"] == true && all["shops"].as_array().unwrap().contains(&shop),
        "{all}"
    );

    // A page of elsewhere is given nothing.
    let request = nobody.request(Method::POST, "/dev/token").json(&wish);
    let foreign = request.header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 404);
    let request = nobody.request(Method::POST, "/dev/token").json(&wish);
    let rebound = request.header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 404);
}

#[tokio::test]
async fn a_shop_is_named_by_a_command_as_well() {
    let system = system().await;
    let shop = system.shop();
    let set = ["shop", "set", &shop, "--name", "Old Mill", "--currency", "CHF"];
    printed(&system.stack.ezout(&set).await);
    let zone = ["shop", "set", &shop, "--time-zone", "europe/zurich", "--currency", ""];
    printed(&system.stack.ezout(&zone).await);
    let (_, told) = check::json_of(&format!("{}/v1/shops/{shop}", system.http_url())).await;
    let expected = json!({ "shop_id": shop, "name": "Old Mill", "currency": null, "time_zone": "Europe/Zurich" });
    assert_eq!(told, expected);
    let list = printed(&system.stack.ezout(&["shop", "list"]).await);
    let line = list.lines().find(|line| line.starts_with(&shop)).unwrap();
    assert!(line.ends_with("Old Mill") && line.contains("Europe/Zurich"), "{line}");
    let wrong = system.stack.ezout(&["shop", "set", &shop, "--currency", "XX"]).await;
    assert!(refused(&wrong).contains("--currency must be a code of ISO 4217"));
}

#[tokio::test]
async fn who_handles_a_basket_is_heard_through_every_process_at_every_door() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &QUICK).await;
    let api = stack.service_with("api", &QUICK).await;
    let shop = session();
    let visit = visit(&service, &shop).await;
    let mut viewers = [
        Viewer::connect(&service.http_url(), &shop, None).await,
        Viewer::connect(&api.http_url(), &shop, None).await,
    ];
    for viewer in &mut viewers {
        assert_eq!(viewer.next_of("handlings").await, json!({ "handlings": [] }));
    }
    let resgate = Resgate::start(&stack).await;
    let rid = format!("ezout.shop.{shop}.basket.{visit}");
    let client = match &resgate {
        Some(resgate) => {
            let client = ResClient::connect(&resgate.url()).await;
            client.subscribe(&rid).await.unwrap();
            Some(client)
        }
        None => None,
    };
    let model_says = async |by: &Value| {
        if let Some(client) = &client {
            wait_for("the model to say who handles the basket", async || {
                (client.tree(&rid)?["handled_by"] == *by).then_some(())
            })
            .await;
        }
    };

    // Said to the process that owns no shop.
    let (status, said) = send(
        &handling_url(&api, &shop, &visit),
        Method::PUT,
        Some(json!({ "by": "Mia" })),
    )
    .await;
    assert_eq!(
        (status, &said["handled_by"], &said["session_id"]),
        (200, &json!("Mia"), &json!(visit))
    );
    for viewer in &mut viewers {
        // Others may come before it, and those are places.
        let (last_id, told) = loop {
            let last_id = viewer.last_id.clone();
            let message = viewer.next().await.expect("the stream goes on");
            if message.event == "handling" {
                break (last_id, message.data);
            }
        };
        assert_eq!(told, said);
        assert_eq!(viewer.last_id, last_id, "it is no place");
    }
    model_says(&json!("Mia")).await;
    let (_, list) = check::json_of(&format!("{}/v1/shops/{shop}/handlings", service.http_url())).await;
    assert_eq!(list, json!({ "handlings": [said] }));

    // Somebody else is told who does, and may take it over.
    let sam = json!({ "by": "Sam", "minutes": 240 });
    let (status, refused) = send(&handling_url(&service, &shop, &visit), Method::PUT, Some(sam)).await;
    assert_eq!(
        (
            status,
            &refused["code"],
            &refused["handled_by"],
            &refused["handled_until"]
        ),
        (409, &json!("handled"), &json!("Mia"), &said["handled_until"])
    );
    for minutes in [0, 241] {
        let wish = json!({ "by": "Mia", "minutes": minutes });
        assert_eq!(
            send(&handling_url(&api, &shop, &visit), Method::PUT, Some(wish))
                .await
                .0,
            422
        );
    }
    let wish = json!({ "by": "Sam", "instead": true });
    if let Some(client) = &client {
        client.call(&rid, "handle", wish).await.unwrap();
    } else {
        let (status, _) = send(&handling_url(&service, &shop, &visit), Method::PUT, Some(wish)).await;
        assert_eq!(status, 200);
    }
    for viewer in &mut viewers {
        assert_eq!(viewer.next_of("handling").await["handled_by"], "Sam");
    }
    // One that comes now, or comes back, is told all of it.
    let mut late = Viewer::connect(&api.http_url(), &shop, viewers[1].last_id.clone()).await;
    assert_eq!(late.next_of("hello").await["recovered"], true);
    assert_eq!(late.next_of("handlings").await["handlings"][0]["handled_by"], "Sam");

    let handling = handling_url(&api, &shop, &visit);
    let release = async |by: &str| send(&handling, Method::DELETE, Some(json!({ "by": by }))).await;
    assert_eq!(release("Mia").await.0, 409);
    let (status, released) = release("Sam").await;
    assert_eq!(
        (status, &released["handled_by"], &released["handled_until"]),
        (200, &Value::Null, &Value::Null)
    );
    for viewer in &mut viewers {
        assert_eq!(viewer.next_of("handling").await, released);
    }
    model_says(&Value::Null).await;
}

#[tokio::test]
async fn a_handling_ends_at_its_time_and_is_heard_though_the_changes_were_lost() {
    let mut stack = Stack::start().await;
    let service = stack.service_with("serve", &QUICK).await;
    let shop = session();
    let visit = visit(&service, &shop).await;
    let mut viewer = Viewer::connect(&service.http_url(), &shop, None).await;
    assert_eq!(viewer.next_of("handlings").await, json!({ "handlings": [] }));
    // It is over at its time, however late MongoDB takes it away.
    let id = format!("{shop}.{visit}");
    let ends_in = |time: Duration| {
        let until = DateTime::from_system_time(std::time::SystemTime::now() + time);
        doc! { "$set": { "shop_id": &shop, "by": "Eve", "until": until } }
    };
    let note = async |stack: &Stack, time: Duration| {
        let handlings = stack.database().await.collection::<Document>("handlings");
        let noted = handlings.update_one(doc! { "_id": &id }, ends_in(time));
        noted.upsert(true).await.unwrap();
    };
    note(&stack, Duration::from_millis(700)).await;
    assert_eq!(viewer.next_of("handling").await["handled_by"], "Eve");
    assert_eq!(
        viewer.next_of("handling").await,
        json!({ "session_id": visit, "handled_by": null, "handled_until": null })
    );
    // What is noted while the stream of changes is lost is heard all the same.
    stack.mongod.kill().await;
    stack.mongod.restart().await.unwrap();
    note(&stack, Duration::from_mins(5)).await;
    assert_eq!(viewer.next_of("handling").await["handled_by"], "Eve");
}

#[tokio::test]
async fn a_day_counts_each_event_visit_and_payment_once() {
    let system = system().await;
    let shop = system.shop();
    let start = OffsetDateTime::now_utc() - Duration::from_mins(90);
    for number in 0..10 {
        let visit = session();
        let mut events = vec![event(&shop, &visit, 1, "ADD", 1, 2.25, 2.25)];
        if number < 4 {
            events.push(event(&shop, &visit, 2, "CHECKOUT", 1, 2.25, 2.25));
        }
        let mut last = 0;
        for event in events {
            let answer = system.service.publish(&shop, &event).await;
            last = answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap();
        }
        system.service.basket(&shop, &visit, last).await;
    }
    let start = ezout::core::event::rfc3339(start);
    let url = format!(
        "{}/v1/shops/{shop}/day?day_start={start}&interval=1h",
        system.http_url()
    );
    let (status, day) = check::json_of(&url).await;
    assert_eq!((status, &day["interval_seconds"]), (200, &json!(3_600)), "{day}");
    assert!(day["sequence"].is_u64());
    let points = day["points"].as_array().unwrap();
    // An hour that is over, and one that has begun, in which everything was.
    assert_eq!(points.len(), 2, "{day}");
    assert_eq!((&points[0]["at"], &points[0]["events"]), (&json!(start), &json!(0)));
    let point = &points[1];
    assert_eq!(
        (
            &point["events"],
            &point["visits"],
            &point["paid_count"],
            point["paid_total"].to_string().as_str()
        ),
        (&json!(14), &json!(10), &json!(4), "9.0"),
        "{day}"
    );
    // Within some seconds everybody gets the same answer.
    assert_eq!(check::json_of(&url).await.1, day);
}

#[tokio::test]
async fn those_who_look_after_the_system_see_it_and_those_who_run_it_decide() {
    let guarded = Guarded::shared().await;
    let shop = session();
    let stocked = guarded.shop_with(&shop, &session()).await;
    let support = guarded.caller(Some(guarded.token(Role::Support, &["*"])));
    let admin = guarded.admin();
    let now = support.get_until("/v1/operations").await.json();
    let partitions = now["partitions"].as_array().unwrap();
    assert_eq!((partitions.len(), &now["journal"]["partitions"]), (16, &json!(16)));
    assert!(
        partitions
            .iter()
            .all(|partition| partition["owner"].is_string() && partition["halted"].is_null())
    );
    assert!(now["journal"]["messages"].as_u64().unwrap() >= 2, "{now}");
    wait_for("everything to be projected", async || {
        let stages = support.get("/v1/operations").await.json()["stages"].clone();
        (stages[1]["lag_events"] == 0 && stages[1]["sequence"] == stages[0]["sequence"]).then_some(())
    })
    .await;
    let newest = support.get("/v1/operations/corrections?limit=200").await.json();
    let newest = newest["corrections"].as_array().unwrap();
    let own = newest.iter().find(|filed| filed["id"] == stocked.correction).unwrap();
    assert_eq!((&own["state"], &own["shop_id"]), (&json!("applied"), &json!(shop)));
    let now = wait_for("the correction to be counted", async || {
        let now = support.get("/v1/operations").await.json();
        (now["corrections"]["decided"].as_u64()? > 0).then_some(now)
    })
    .await;
    assert!(now["stages"][2]["sequence"].as_u64() > Some(0), "{now}");

    // Events of another journal, so that no projector takes them up.
    let views = guarded.rights().await.views;
    let epoch = session();
    let basket = ezout::core::id::BasketId::parse(&format!("{shop}.{}", stocked.session)).unwrap();
    let parked = |sequence: u64| ParkedEvent {
        id: ParkedEvent::id(&epoch, sequence),
        epoch: epoch.clone(),
        partition: 3,
        sequence,
        basket: Some(basket),
        reason: "a test".to_owned(),
        state: ParkedState::Parked,
        subject: format!("checkout.3.{shop}"),
        event_type: None,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        body: vec![b'x'; 5_000],
    };
    views.park(&[parked(1), parked(2)]).await.unwrap();
    let mut path = "/v1/operations/parked?limit=1".to_owned();
    let mut listed = Vec::new();
    loop {
        let page = support.get(&path).await.json();
        listed.extend(page["parked"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/operations/parked?limit=1&cursor={next}");
    }
    let listed: Vec<&Value> = listed.iter().filter(|event| event["shop_id"] == json!(shop)).collect();
    let sequences: Vec<&Value> = listed.iter().map(|event| &event["sequence"]).collect();
    assert_eq!(sequences, [1, 2], "each once, in the order of the journal");
    assert_eq!(listed[0]["body"].as_str().unwrap().len(), 4_096);

    let path = format!("/v1/operations/parked/{}", listed[0]["id"].as_str().unwrap());
    let decision = json!({ "decision": "drop", "reason": "a test phone" });
    assert_eq!(support.post(&path, &decision).await.status, 403);
    for wrong in [
        json!({ "decision": "drop", "reason": " " }),
        json!({ "decision": "keep", "reason": "x" }),
    ] {
        assert_eq!(admin.post(&path, &wrong).await.status, 422, "{wrong}");
    }
    let dropped = admin.post(&path, &decision).await;
    assert_eq!((dropped.status, &dropped.json()["state"]), (202, &json!("drop")));
    let states = views.parked_of(&epoch, basket).await.unwrap();
    let states: Vec<ParkedState> = states.iter().map(|event| event.state).collect();
    assert_eq!(
        states,
        [ParkedState::Drop, ParkedState::Retry],
        "what is behind it is applied"
    );
    let audit = admin.get(&format!("/v1/shops/{shop}/audit?limit=200")).await.json();
    let entries = audit["entries"].as_array().unwrap();
    let noted = |what: &str| {
        entries
            .iter()
            .any(|entry| entry["what"] == what && entry["outcome"] == "asked")
    };
    assert!(noted("parked event 1: drop: a test phone"), "{audit}");
    assert_eq!(admin.post("/v1/operations/parked/none:7", &decision).await.status, 404);
    views
        .note_dropped(&[ParkedEvent::id(&epoch, 1), ParkedEvent::id(&epoch, 2)])
        .await
        .unwrap();
    assert_eq!(admin.post(&path, &decision).await.status, 404, "it is decided for good");
}

#[tokio::test]
async fn what_a_rebuild_has_found_is_shown() {
    let system = system().await;
    let shop = system.shop();
    visit(&system.service, &shop).await;
    printed(&system.stack.ezout(&["rebuild", "--shop", &shop]).await);
    let url = format!("{}/v1/operations", system.http_url());
    wait_for("the report", async || {
        let (_, now) = check::json_of(&url).await;
        let reports = now["rebuild"]["reports"].as_array()?.clone();
        let report = reports.into_iter().find(|report| report["scope"] == json!(shop))?;
        assert_eq!(
            (&report["equal"], &report["different"], &report["shops"]),
            (&json!(1), &json!(0), &json!(1))
        );
        Some(())
    })
    .await;
}
