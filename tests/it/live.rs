//! Live updates: each once and in order, however often a viewer is cut off; what is lost is said; nobody waits for the slow.

pub mod viewer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::viewer::{Message, Picture, Shoppers, Viewer, state_of, url};
use crate::contracts::check;
use crate::project;
use crate::rebuild::record;
use crate::support::{self, Stack, event, session, system, wait_for};

/// So that tests need not wait long for what heartbeats tell.
const QUICK: [(&str, &str); 1] = [("EZOUT_HEARTBEAT", "200ms")];

async fn ask(url: &str, last_id: Option<&str>) -> (u16, serde_json::Value) {
    let mut request = reqwest::Client::new().get(url);
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    let (status, body) = check::answer("GET", request.send().await.unwrap()).await;
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_viewer_that_is_cut_off_a_hundred_times_sees_each_event_once_and_in_order() {
    const EVENTS: usize = 5_000;
    const CUTS: usize = 100;
    let system = system().await;
    let (shop, http_url) = (system.shop(), system.http_url());
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    // The first connection is there before the first event, so that nothing is in its snapshot.
    let mut viewer = Viewer::connect(&http_url, &shop, None).await;
    let mut picture = Picture::default();
    while !picture.snapshot_done {
        let message = viewer.next().await.unwrap();
        picture.take(&message);
    }
    let shopping = {
        let (shop, http_url) = (shop.clone(), http_url.clone());
        tokio::spawn(async move {
            let mut shoppers = Shoppers::new(&shop, 40);
            let mut sent = Vec::new();
            while sent.len() < EVENTS {
                sent.extend(shoppers.shop(&http_url, 100).await);
            }
            sent
        })
    };
    let mut cuts = 0;
    while picture.seen.len() < EVENTS {
        // Half of the cuts come when some events were read, and leave others unread; half at some moment.
        // So few at a time that there are events left for the last cut.
        let most = random.usize(1..=EVENTS / CUTS);
        let until = tokio::time::sleep(Duration::from_millis(random.u64(..100)));
        let reads = async {
            for _ in 0..most {
                let message = viewer.next().await.unwrap();
                assert_ne!(message.event, "coalesced", "a fast viewer is sent everything");
                picture.take(&message);
                if picture.seen.len() == EVENTS {
                    break;
                }
            }
        };
        if cuts < CUTS {
            if random.bool() {
                reads.await;
            } else {
                tokio::select! { () = reads => {}, () = until => {} }
            }
            let last_id = viewer.last_id.take();
            drop(viewer);
            viewer = Viewer::connect(&http_url, &shop, last_id).await;
            let hello = viewer.next().await.unwrap();
            assert_eq!(
                (hello.event.as_str(), &hello.data["recovered"]),
                ("hello", &json!(true))
            );
            cuts += 1;
        } else {
            reads.await;
        }
    }
    assert_eq!(cuts, CUTS);
    assert_eq!(picture.seen, shopping.await.unwrap());
}

#[tokio::test]
async fn snapshot_and_updates_join_without_a_gap_or_a_repeat() {
    const EVENTS: usize = 3_000;
    let system = system().await;
    let (shop, http_url) = (system.shop(), system.http_url());
    // More than one page of the snapshot.
    let mut shoppers = Shoppers::new(&shop, 150);
    let first = shoppers.shop(&http_url, 300).await;
    let sessions = shoppers.sessions.clone();
    system.service.basket(&shop, &sessions[0], first[299]).await;
    let viewing = (0..20_u64).map(|n| {
        let (shop, http_url) = (shop.clone(), http_url.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n * 40)).await;
            let mut viewer = Viewer::connect(&http_url, &shop, None).await;
            let mut picture = Picture::default();
            // The picture compares versions as it grows.
            while picture.versions() < EVENTS as u64 {
                let message = viewer.next().await.unwrap();
                if message.event == "heartbeat" {
                    assert_eq!(
                        message.data["place"],
                        json!(message.id),
                        "something was lost on the way"
                    );
                }
                picture.take(&message);
            }
            assert!(picture.snapshot_done);
            picture.baskets
        })
    });
    let viewing: Vec<_> = viewing.collect();
    for _ in 0..(EVENTS - 300) / 50 {
        shoppers.shop(&http_url, 50).await;
    }
    let each = u64::try_from(EVENTS / sessions.len()).unwrap();
    let expected: BTreeMap<_, _> = sessions
        .into_iter()
        .map(|id| (id, (each, each, "open".to_owned())))
        .collect();
    for picture in futures::future::join_all(viewing).await {
        assert_eq!(picture.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_viewer_whose_updates_have_aged_out_is_told_so_and_ends_with_the_right_state() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &QUICK).await;
    let (shop, http_url) = (session(), service.http_url());
    let (mut shoppers, mut leaving) = (Shoppers::new(&shop, 4), Shoppers::new(&shop, 1));
    leaving.shop(&http_url, 2).await;
    let sent = shoppers.shop(&http_url, 8).await;

    let mut viewer = Viewer::connect(&http_url, &shop, None).await;
    let hello = viewer.next().await.unwrap().data;
    assert_eq!((&hello["recovered"], &hello["reason"]), (&json!(false), &json!("new")));
    let mut picture = Picture::default();
    while picture.versions() < 10 {
        picture.take(&viewer.next().await.unwrap());
    }
    let heartbeat = viewer.next_of("heartbeat").await;
    assert_eq!(heartbeat["sequence"], sent[7]);
    assert_eq!(
        (&heartbeat["place"], &heartbeat["stale_since"]),
        (&json!(viewer.last_id), &json!(null))
    );
    let last_id = viewer.last_id.take();
    drop(viewer);

    leaving.checkout(&http_url, 3).await;
    shoppers.shop(&http_url, 40).await;
    let jetstream = stack.jetstream().await;
    let updates = jetstream.get_stream("UPDATES").await.unwrap();
    wait_for("all updates", async || {
        let info = updates.get_info().await.ok()?;
        (info.state.messages == 51).then_some(())
    })
    .await;
    updates.purge().keep(5).await.unwrap();

    // A process that followed the shop has the updates in memory; one that did not has them no more.
    let other = stack.service_with("api", &QUICK).await;
    let mut viewer = Viewer::connect(&other.http_url(), &shop, last_id.clone()).await;
    let hello = viewer.next().await.unwrap();
    picture.take(&hello);
    assert_eq!(
        (&hello.data["recovered"], &hello.data["reason"]),
        (&json!(false), &json!("aged_out"))
    );
    let oldest = hello.data["oldest"].as_str().unwrap().to_owned();
    assert!(oldest.starts_with("47-"), "{oldest}");
    let last = shoppers.shop(&http_url, 40).await[39];
    while !picture.snapshot_done || picture.versions() < 88 {
        picture.take(&viewer.next().await.unwrap());
    }
    assert_eq!(picture.baskets.len(), 4, "who has paid is not in the snapshot");
    for session in &shoppers.sessions {
        let basket = service.basket(&shop, session, last).await;
        assert_eq!(picture.baskets[session], state_of(&basket));
    }

    // The oldest place that can be had can be had.
    let mut viewer = Viewer::connect(&other.http_url(), &shop, Some(oldest)).await;
    let hello = viewer.next_of("hello").await;
    assert_eq!(
        (&hello["recovered"], &hello["heartbeat_ms"]),
        (&json!(true), &json!(200))
    );

    // Of another shop, or of none: never taken for one with nothing new.
    for place in [last_id.as_deref().unwrap(), "99999-7", "46-1"] {
        let mut viewer = Viewer::connect(&other.http_url(), &session(), Some(place.to_owned())).await;
        assert_eq!(viewer.next_of("hello").await["recovered"], false, "{place}");
    }
}

#[tokio::test]
async fn a_late_update_that_has_aged_out_is_not_taken_for_nothing() {
    let stack = Stack::start().await;
    let service = stack.service_with("serve", &QUICK).await;
    let (shop, bad, http_url) = (session(), session(), service.http_url());
    let add = |session: &str| event(&shop, session, 1, "ADD", 7, 1.0, 1.0);
    let poisoned = project::poison(&stack, &shop, &bad, "{").await;
    record(&service, &shop, &[add(&bad)]).await;
    let last = record(&service, &shop, &[add(&session())]).await;
    let mut viewer = Viewer::connect(&http_url, &shop, None).await;
    let newest = format!("1-{last}");
    while viewer.last_id.as_ref() != Some(&newest) {
        viewer.next().await.unwrap();
    }
    drop(viewer);

    // No update says that a basket is held up, but whoever asks is told.
    let held_up = async || {
        let asked = format!("{http_url}/v1/shops/{shop}/baskets?status=open&parked=true");
        let (status, page) = ask(&asked, None).await;
        assert_eq!(status, 200, "{page}");
        let baskets = page["baskets"].as_array().unwrap().clone();
        baskets
            .iter()
            .map(|basket| viewer::text(&basket["session_id"]))
            .collect::<Vec<_>>()
    };
    wait_for("the basket to be held up", async || {
        (held_up().await == [bad.clone()]).then_some(())
    })
    .await;

    // The event that was parked behind the other one is told now, and then nothing is stored any more.
    support::printed(&stack.ezout(&["parked", "drop", &poisoned.to_string()]).await);
    let jetstream = stack.jetstream().await;
    let updates = jetstream.get_stream("UPDATES").await.unwrap();
    wait_for("the late update", async || {
        (updates.get_info().await.ok()?.state.messages == 2).then_some(())
    })
    .await;
    wait_for("the basket to go on", async || held_up().await.is_empty().then_some(())).await;
    updates.purge().await.unwrap();

    // The shop's last event is the one that the viewer had last, and yet it missed something.
    let other = stack.service_with("api", &QUICK).await;
    let mut viewer = Viewer::connect(&other.http_url(), &shop, Some(newest)).await;
    let hello = viewer.next_of("hello").await;
    assert_eq!(
        (&hello["recovered"], &hello["reason"]),
        (&json!(false), &json!("aged_out"))
    );
    let snapshot = viewer.next_of("snapshot").await;
    assert_eq!(snapshot["baskets"].as_array().unwrap().len(), 2);
}

/// A viewer that reads only when the test does, and what it has read. With a small buffer at its end of the
/// connection, the server notices soon that nobody reads.
async fn slow_viewer(http_url: &str, shop: &str) -> (tokio::net::TcpStream, Vec<u8>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = http_url.trim_start_matches("http://").parse().unwrap();
    let mut slow = socket.connect(address).await.unwrap();
    let request = format!("GET /v1/shops/{shop}/updates HTTP/1.1\r\nhost: localhost\r\n\r\n");
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut text = vec![0; 2_048];
    let length = slow.read(&mut text).await.unwrap();
    text.truncate(length);
    (slow, text)
}

#[tokio::test]
async fn a_viewer_that_stopped_reading_does_not_hold_up_a_stop() {
    let stack = Stack::start().await;
    let mut service = stack.service_with("serve", &QUICK).await;
    let (shop, http_url) = (session(), service.http_url());
    let (_stopped, _) = slow_viewer(&http_url, &shop).await;
    let mut fast = Viewer::connect(&http_url, &shop, None).await;
    fast.next_of("snapshot").await;
    // More bytes than the system keeps for a connection.
    let name = "x".repeat(12 * 1024);
    for _ in 0..4 {
        let mut lines = String::new();
        for _ in 0..250 {
            let mut event = event(&shop, &session(), 1, "ADD", 7, 1.0, 1.0);
            event["product_name"] = json!(name);
            lines += &event.to_string();
            lines.push('\n');
        }
        let request = reqwest::Client::new().post(format!("{http_url}/v1/shops/{shop}/events"));
        let answer = request
            .header("content-type", "application/x-ndjson")
            .body(lines)
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    for _ in 0..1_000 {
        fast.next_of("update").await;
    }
    assert!(service.stop().await.success());
    assert_eq!(fast.next_of("bye").await, json!({ "reason": "stopping" }));
    let log = std::fs::read_to_string(&service.log).unwrap();
    assert!(!log.contains("cut off"), "{log}");
}

#[tokio::test]
async fn a_slow_viewer_gets_the_newest_of_each_basket_and_costs_the_others_nothing() {
    const EVENTS: usize = 12_000;
    const SESSIONS: usize = 20;
    let system = system().await;
    let (shop, http_url) = (system.shop(), system.http_url());
    let (mut slow, mut text) = slow_viewer(&http_url, &shop).await;

    let mut fast = Viewer::connect(&http_url, &shop, None).await;
    fast.next_of("snapshot").await;
    let watching = tokio::spawn(async move {
        let (mut picture, mut longest) = (Picture::default(), Duration::ZERO);
        let mut last = Instant::now();
        while picture.seen.len() < EVENTS {
            let message = fast.next().await.unwrap();
            assert_ne!(message.event, "coalesced", "a fast viewer is sent everything");
            picture.take(&message);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        (picture.seen, longest)
    });
    let mut shoppers = Shoppers::new(&shop, SESSIONS);
    let mut sent = Vec::new();
    while sent.len() < EVENTS {
        sent.extend(shoppers.shop(&http_url, 500).await);
        // Who takes nothing at all is cut off.
        let mut little = vec![0; 4_096];
        let length = slow.read(&mut little).await.unwrap();
        text.extend_from_slice(&little[..length]);
    }
    let (seen, longest) = watching.await.unwrap();
    assert_eq!(seen, sent);
    eprintln!("the longest time in which the fast viewer got nothing was {longest:?}");

    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let (mut updates, mut left_out) = (0, 0);
    let (mut ends, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let each = u64::try_from(EVENTS / SESSIONS).unwrap();
    while newest.values().sum::<u64>() < EVENTS as u64 {
        let mut more = vec![0; 65_536];
        let length = tokio::time::timeout(Duration::from_secs(20), slow.read(&mut more))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "the stream goes on");
        text.extend_from_slice(&more[..length]);
        // What is in chunks of HTTP is put together by leaving out the lines with their sizes.
        let whole = String::from_utf8_lossy(&text).replace("\r\n", "\u{0}");
        let mut plain = String::new();
        for (n, part) in whole.split('\u{0}').enumerate() {
            if n < 6 || part.len() > 8 || part.contains('\n') {
                plain.push_str(part);
            }
        }
        (updates, left_out) = (0, 0);
        for line in plain.lines() {
            ids.extend(line.strip_prefix("id: ").map(str::to_owned));
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            let Ok(data) = serde_json::from_str::<serde_json::Value>(data) else {
                continue;
            };
            if let Some(count) = data["left_out"].as_u64() {
                left_out += count;
                ends.insert(viewer::text(&data["newest"]));
            } else if let Some(version) = data["basket"]["version"].as_u64() {
                updates += 1;
                let before = newest.entry(viewer::text(&data["session_id"])).or_default();
                *before = version.max(*before);
            }
        }
    }
    eprintln!("the slow viewer got {updates} updates and was spared {left_out}");
    assert!(left_out > 0);
    assert_eq!(updates + left_out, EVENTS as u64);
    assert!(newest.values().all(|version| *version == each));
    assert!(ends.is_subset(&ids), "{ends:?} was to come");
    let coalesced = system
        .service
        .metric("ezout_live_coalesced_updates_total")
        .await
        .unwrap();
    assert!(coalesced > 0.0);
}

/// Reads until the picture has as many updates, through heartbeats; answers the last stale time that one told.
async fn watch(viewer: &mut Viewer, picture: &mut Picture, until: impl Fn(&Picture, &Message) -> bool) {
    loop {
        let message = viewer.next().await.expect("the stream stays open");
        picture.take(&message);
        if until(picture, &message) {
            return;
        }
    }
}

#[tokio::test]
async fn a_stream_outlives_the_stores_and_says_that_it_is_stale() {
    let mut stack = Stack::start().await;
    let service = stack.service_with("serve", &QUICK).await;
    let (shop, http_url) = (session(), service.http_url());
    let mut viewer = Viewer::connect(&http_url, &shop, None).await;
    let mut picture = Picture::default();
    let mut shoppers = Shoppers::new(&shop, 4);
    let is_stale =
        |_: &Picture, message: &Message| message.event == "heartbeat" && !message.data["stale_since"].is_null();
    let is_fresh =
        |_: &Picture, message: &Message| message.event == "heartbeat" && message.data["stale_since"].is_null();

    let mut sent = Vec::new();
    watch(&mut viewer, &mut picture, |picture, _| picture.snapshot_done).await;
    for round in 0..4 {
        sent.extend(shoppers.shop(&http_url, 20).await);
        if round % 2 == 0 {
            stack.nats.kill().await;
            watch(&mut viewer, &mut picture, is_stale).await;
            stack.nats.restart().await.unwrap();
        } else {
            stack.mongod.kill().await;
            watch(&mut viewer, &mut picture, is_stale).await;
            sent.extend(shoppers.shop(&http_url, 20).await);
            stack.mongod.restart().await.unwrap();
        }
        service.wait_ready().await;
        let count = sent.len();
        watch(&mut viewer, &mut picture, |picture, _| picture.seen.len() >= count).await;
        watch(&mut viewer, &mut picture, is_fresh).await;
        assert_eq!(picture.seen, sent, "round {round}");
    }
}

#[tokio::test]
async fn viewers_have_their_limit_and_do_not_hold_up_a_stop() {
    let stack = Stack::start().await;
    let mut service = stack.service_with("serve", &[QUICK[0], ("EZOUT_VIEWERS", "50")]).await;
    let http_url = service.http_url();
    let shop = session();
    for (path, last_id, status, code) in [
        (url(&http_url, "everything"), None, 422, "invalid_shop"),
        (url(&http_url, "*"), None, 422, "invalid_shop"),
        (
            format!("{}?after=latest", url(&http_url, &shop)),
            None,
            400,
            "invalid_parameter",
        ),
        (
            format!("{}?since=1-1", url(&http_url, &shop)),
            None,
            400,
            "unknown_parameter",
        ),
        (url(&http_url, &shop), Some("latest"), 400, "invalid_parameter"),
    ] {
        let (answered, problem) = ask(&path, last_id).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{path}");
    }
    let mut viewers = Vec::new();
    for _ in 0..50 {
        let mut viewer = Viewer::connect(&http_url, &shop, None).await;
        assert_eq!(viewer.next().await.unwrap().event, "hello");
        viewers.push(viewer);
    }
    let (status, problem) = ask(&url(&http_url, &shop), None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("too_many_viewers")));
    assert_eq!(service.metric("ezout_live_viewers").await, Some(50.0));
    assert_eq!(service.metric("ezout_live_shops").await, Some(1.0));
    viewers.pop();
    wait_for("a seat", async || {
        (service.metric("ezout_live_viewers").await? < 50.0).then_some(())
    })
    .await;

    let begun = Instant::now();
    assert!(service.stop().await.success());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "the stop took {:?}",
        begun.elapsed()
    );
    for mut viewer in viewers {
        assert_eq!(viewer.next_of("bye").await, json!({ "reason": "stopping" }));
        assert!(viewer.next().await.is_none());
    }
}
