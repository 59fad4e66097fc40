//! Moving the pointer to other baskets while they lag: nobody reads anything older than before, and no snapshot is older than its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ezout::views::{self, Version, Views};
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use rustix::process::Signal;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::live::viewer::Viewer;
use crate::rebuild::{active, caught_up, record};
use crate::support::{Service, Stack, event, printed, session, wait_for};

/// One session after the other, each with one more piece in each event.
fn adds(shop: &str, session: &str, ids: std::ops::RangeInclusive<i64>) -> Vec<Value> {
    ids.map(|id| event(shop, session, id, "ADD", 7, 1.0, 1.0)).collect()
}

async fn json(url: String) -> Value {
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

/// The sequences that the routes of a shop say they are true at.
async fn sequences(api: &Service, shop: &str, session: &str) -> Vec<u64> {
    let base = format!("{}/v1/shops/{shop}", api.http_url());
    let mut sequences = Vec::new();
    for route in ["baskets", "summary", &format!("sessions/{session}/basket")] {
        let answer = json(format!("{base}/{route}")).await;
        sequences.push(answer["sequence"].as_u64().unwrap_or_else(|| panic!("{answer}")));
    }
    sequences
}

/// The place of a new viewer's snapshot, as a sequence, and how many events are in its baskets.
async fn snapshot(api: &Service, shop: &str) -> (u64, u64) {
    let mut viewer = Viewer::connect(&api.http_url(), shop, None).await;
    let hello = viewer.next_of("hello").await;
    let (_, sequence) = hello["place"].as_str().unwrap().split_once('-').unwrap();
    let mut events = 0;
    loop {
        let page = viewer.next_of("snapshot").await;
        let versions = page["baskets"].as_array().unwrap().iter();
        events += versions.map(|basket| basket["version"].as_u64().unwrap()).sum::<u64>();
        if page["more"] == false {
            return (sequence.parse().unwrap(), events);
        }
    }
}

/// Two processes of a system whose new baskets lag: `before` events are in them, and as many more in those that are
/// read. The pointer was moved, the API has heard of it, and the projector stands still.
struct Lagging {
    stack: Stack,
    api: Service,
    project: Service,
    shop: String,
    session: String,
    /// The place of the last event that is in the new baskets.
    filled: u64,
    /// The place of the last event.
    last: u64,
}

const EACH: i64 = 20;

impl Lagging {
    async fn begin() -> Self {
        let stack = Stack::start().await;
        let (api, project) = (stack.service("api").await, stack.service("project").await);
        let (shop, session) = (session(), session());
        let filled = record(&api, &shop, &adds(&shop, &session, 1..=EACH)).await;
        caught_up(&stack).await;
        printed(&stack.ezout(&["rebuild"]).await);
        let last = record(&api, &shop, &adds(&shop, &session, EACH + 1..=2 * EACH)).await;
        caught_up(&stack).await;

        project.signal(Signal::STOP);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = views::Config {
            uri: stack.mongod.uri(),
            database: "ezout".to_owned(),
        };
        let views = Views::start(&config, &tasks, stop.clone()).await.unwrap();
        let building = views.projections().await.unwrap().building.unwrap();
        views.switch(Version::FIRST, building.version).await.unwrap();
        stop.cancel();
        let moved = "the pointer was moved: baskets are read from baskets_2 as soon as it has caught up";
        said(&api, moved).await;
        Self {
            stack,
            api,
            project,
            shop,
            session,
            filled,
            last,
        }
    }

    async fn sequences(&self) -> Vec<u64> {
        sequences(&self.api, &self.shop, &self.session).await
    }
}

async fn said(service: &Service, what: &str) {
    wait_for(what, async || {
        std::fs::read_to_string(&service.log).ok()?.contains(what).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_baskets_before_are_read_until_the_new_ones_have_caught_up() {
    let lagging = Lagging::begin().await;
    let (last, each) = (lagging.last, u64::try_from(EACH).unwrap());
    assert!(lagging.filled < last);
    assert_eq!(lagging.sequences().await, [last; 3]);
    assert_eq!(snapshot(&lagging.api, &lagging.shop).await, (last, 2 * each));

    // As soon as the projector has gone over, what is new comes from the new ones.
    lagging.project.signal(Signal::CONT);
    said(&lagging.project, "baskets are read from baskets_2").await;
    let more = adds(&lagging.shop, &lagging.session, 2 * EACH + 1..=3 * EACH);
    let last = record(&lagging.api, &lagging.shop, &more).await;
    let basket = lagging.api.basket(&lagging.shop, &lagging.session, last).await;
    assert_eq!(basket["version"], 3 * EACH);
    caught_up(&lagging.stack).await;
    assert_eq!(lagging.sequences().await, [last; 3]);
    assert_eq!(snapshot(&lagging.api, &lagging.shop).await, (last, 3 * each));
    let database = lagging.stack.database().await;
    let id = format!("{}.{}", lagging.shop, lagging.session);
    for (name, version) in [("baskets", 2 * EACH), ("baskets_2", 3 * EACH)] {
        let baskets = database.collection::<Document>(name);
        let stored = baskets.find_one(doc! { "_id": &id }).await.unwrap().unwrap();
        assert_eq!(stored.get_i64("version").unwrap(), version, "{name}");
    }
    let log = std::fs::read_to_string(&lagging.api.log).unwrap();
    assert!(!log.contains("for a while"), "{log}");
}

#[tokio::test]
async fn the_new_baskets_are_read_at_last_though_nobody_has_caught_up() {
    let lagging = Lagging::begin().await;
    let database = lagging.stack.database().await;
    let a_minute_ago = vec![
        doc! { "$set": { "moved_at": { "$dateSubtract": { "startDate": "$moved_at", "unit": "minute", "amount": 1 } } } },
    ];
    let pointer = database.collection::<Document>("projections");
    pointer.update_one(doc! {}, a_minute_ago).await.unwrap();
    wait_for("the new baskets are read", async || {
        (lagging.sequences().await == [lagging.filled; 3]).then_some(())
    })
    .await;
    said(
        &lagging.api,
        "1 partitions are read from baskets_2 from now on, though no projector",
    )
    .await;
}

#[tokio::test]
async fn the_new_baskets_are_read_at_once_where_those_before_are_gone() {
    let lagging = Lagging::begin().await;
    let database = lagging.stack.database().await;
    let of_first = doc! { "_id": { "$type": "int" } };
    let checkpoints = database.collection::<Document>("checkpoints");
    checkpoints.delete_many(of_first).await.unwrap();
    assert_eq!(lagging.sequences().await, [lagging.filled; 3]);
    said(&lagging.api, "the checkpoints of baskets are gone").await;
}

#[tokio::test]
async fn nobody_goes_back_in_time_while_the_pointer_moves_to_and_fro_under_load() {
    let stack = Stack::start().await;
    let apis = [stack.service("api").await, stack.service("api").await];
    let _project = stack.service("project").await;
    let (shop, first) = (session(), session());
    record(&apis[0], &shop, &adds(&shop, &first, 1..=EACH)).await;
    caught_up(&stack).await;

    let over = Arc::new(AtomicBool::new(false));
    let goes_on = || !over.load(Ordering::Relaxed);
    let load = async {
        while goes_on() {
            let session = session();
            for event in adds(&shop, &session, 1..=5) {
                record(&apis[0], &shop, &[event]).await;
            }
        }
    };
    let reading = async {
        let mut newest = vec![0; 3];
        let mut count = 0_u64;
        while goes_on() {
            for api in &apis {
                let now = sequences(api, &shop, &first).await;
                let back = now.iter().zip(&newest).any(|(now, before)| now < before);
                assert!(!back, "{now:?} after {newest:?}");
                newest = now;
                count += 1;
            }
        }
        count
    };
    let viewing = apis.iter().map(|api| async {
        let mut seen = Vec::new();
        while goes_on() {
            seen.push(snapshot(api, &shop).await);
        }
        seen
    });
    let moving = async {
        for (arguments, version) in [
            (&["rebuild", "--switch"][..], "baskets_2"),
            (&["rebuild", "--rollback"], "baskets"),
            (&["rebuild", "--rollback"], "baskets_2"),
        ] {
            printed(&stack.ezout(arguments).await);
            let database = stack.database().await;
            assert_eq!(active(&database).await, version);
            // The projector has gone over as well.
            let visitor = session();
            let last = record(&apis[1], &shop, &adds(&shop, &visitor, 1..=1)).await;
            apis[1].basket(&shop, &visitor, last).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let ((), reads, seen, ()) = tokio::join!(load, reading, join_all(viewing), moving);
    assert!(reads > 0);
    for (place, events) in seen.into_iter().flatten() {
        // The journal has no other shop, so its places are numbers of events.
        let place = stack.lane_of(&shop).place(place);
        assert!(events >= place, "a snapshot at {place} had {events} events");
    }
}
