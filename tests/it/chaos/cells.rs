//! One fail-point at a time: the process dies there, a clean one takes over, and nothing shows of it.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use ezout::core::id::ShopId;
use futures::future::join_all;
use mongodb::bson::{Document, doc};

use super::checker;
use super::collect::Watch;
use super::phones::Network;
use crate::support::{Service, Stack, event, session, wait_for};

/// Phones that shop in a cell: some thirty events.
const VISITS: u64 = 4;
const API_POINTS: &[(&str, u64)] = &[
    ("before_append", 1),
    ("before_append", 7),
    ("after_append", 1),
    ("after_append", 5),
];
const PROJECTOR_POINTS: &[(&str, u64)] = &[
    ("after_park", 1),
    ("after_park", 2),
    ("after_baskets", 1),
    ("after_baskets", 3),
    ("after_one_update", 1),
    ("after_one_update", 3),
    ("after_updates", 1),
    ("after_updates", 3),
    ("after_checkpoint", 1),
    ("after_checkpoint", 2),
];

/// One system for all cells, and everything that happened in it so far.
struct Cells {
    stack: Stack,
    watch: Watch,
    network: Network,
    api: Service,
    planted: BTreeSet<u64>,
    late: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
}

impl Cells {
    async fn start() -> Self {
        Self::on(Stack::start().await).await
    }

    async fn on(stack: Stack) -> Self {
        let watch = Watch::start(&stack).await;
        let api = stack.service("api").await;
        let network = Network::new(api.http_url());
        Self {
            stack,
            watch,
            network,
            api,
            planted: BTreeSet::new(),
            late: BTreeSet::new(),
            dropped: BTreeSet::new(),
        }
    }

    /// Phones shop in fresh shops.
    async fn visits(&self, seed: u64) {
        let visits = (0..VISITS).map(|visit| async move {
            let mut rng = fastrand::Rng::with_seed(seed << 8 | visit);
            let shop = ShopId::from(uuid::Uuid::new_v4());
            self.network.visit(&mut rng, shop, 0..15).await;
        });
        join_all(visits).await;
    }

    /// Writes into the journal past the API.
    async fn plant(&mut self, shop: ShopId, session: &str, kind: &str, body: String) -> u64 {
        let sequence = plant(&self.stack, shop, session, kind, body).await;
        self.planted.insert(sequence);
        sequence
    }

    async fn check(&self, cell: &str) {
        let phones = self.network.phones.lock().unwrap().clone();
        let mut evidence = self.watch.gather(&self.stack, phones).await;
        evidence.planted.clone_from(&self.planted);
        evidence.late.clone_from(&self.late);
        evidence.dropped.clone_from(&self.dropped);
        let report = checker::check(&evidence);
        assert!(report.violations.is_empty(), "{cell}: {:#?}", report.violations);
    }
}

/// Writes an event of a session, which may be none, into the journal past the API, and answers its place.
pub async fn plant(stack: &Stack, shop: ShopId, session: &str, kind: &str, body: String) -> u64 {
    let mut headers = HeaderMap::new();
    headers.insert("ce-subject", session);
    headers.insert("ce-type", kind);
    stack.record(&shop.to_string(), headers, body).await
}

/// Waits until a process dies at the fail-point that was armed.
pub async fn dies(service: &mut Service, cell: &str) {
    let died = tokio::time::timeout(Duration::from_secs(30), service.exited()).await;
    let status = died.unwrap_or_else(|_| panic!("{cell} was never passed"));
    assert!(!status.success(), "{cell}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_that_dies_between_two_effects_leaves_no_trace() {
    projectors_die(Cells::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_of_a_journal_in_four_streams_that_dies_leaves_no_trace() {
    projectors_die(Cells::on(Stack::start_spread(4).await).await).await;
}

async fn projectors_die(mut cells: Cells) {
    for (seed, (point, count)) in (1..).zip(PROJECTOR_POINTS) {
        let cell = format!("{point}:{count}");
        let mut armed = cells.stack.launch("project", &[("EZOUT_FAIL_POINT", &cell)]);
        let shop = ShopId::from(uuid::Uuid::new_v4());
        cells.visits(seed).await;
        let poisoned = session();
        cells
            .plant(shop, &poisoned, "ezout.checkout.action.v1", "no event".to_owned())
            .await;
        let later = event(&shop.to_string(), &poisoned, 1, "ADD", 5, 2.5, 2.5);
        cells
            .plant(shop, &poisoned, "ezout.checkout.action.v1", later.to_string())
            .await;
        dies(&mut armed, &cell).await;
        let mut clean = cells.stack.service("project").await;
        cells.check(&cell).await;
        clean.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_dies_around_an_append_records_each_event_once() {
    let cells = Cells::start().await;
    let _projector = cells.stack.service("project").await;
    for (seed, (point, count)) in (100..).zip(API_POINTS) {
        let cell = format!("{point}:{count}");
        let mut armed = cells.stack.service_with("api", &[("EZOUT_FAIL_POINT", &cell)]).await;
        *cells.network.api.lock().unwrap() = armed.http_url();
        let moved = async {
            dies(&mut armed, &cell).await;
            *cells.network.api.lock().unwrap() = cells.api.http_url();
        };
        tokio::join!(cells.visits(seed), moved);
        cells.check(&cell).await;
    }
}

/// A session of one good event, one that cannot be read, and two good ones that wait behind it.
async fn plant_session(cells: &mut Cells, shop: ShopId, session: &str) {
    for action in 1..=4_i32 {
        let total = f64::from(action) * 2.5;
        let good = event(&shop.to_string(), session, action.into(), "ADD", 5, 2.5, total).to_string();
        let body = if action == 2 { "no event".to_owned() } else { good };
        let sequence = cells.plant(shop, session, "ezout.checkout.action.v1", body).await;
        match action {
            1 => {}
            2 => drop(cells.dropped.insert(sequence)),
            _ => drop(cells.late.insert(sequence)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_events_that_are_applied_later_are_applied_and_told_once() {
    let mut cells = Cells::start().await;
    let database = cells.stack.database().await;
    let events = database.collection::<Document>("parked_events");
    let count = async |query: Document| events.count_documents(query).await.unwrap();
    for (seed, point) in (200..).zip(["after_baskets", "after_one_update:2", "after_retry"]) {
        let mut clean = cells.stack.service("project").await;
        let (shop, parked) = (ShopId::from(uuid::Uuid::new_v4()), session());
        plant_session(&mut cells, shop, &parked).await;
        let waiting = doc! { "basket": format!("{shop}.{parked}"), "state": "parked" };
        wait_for("three parked events", async || {
            (count(waiting.clone()).await == 3).then_some(())
        })
        .await;
        clean.stop().await;

        let mut armed = cells.stack.launch("project", &[("EZOUT_FAIL_POINT", point)]);
        let decided = doc! { "$set": { "state": "retry" } };
        // The first of them is the one that cannot be read.
        let first = doc! { "$set": { "state": "drop" } };
        let by_place = events.find_one_and_update(waiting.clone(), first);
        by_place.sort(doc! { "sequence": 1 }).await.unwrap();
        events.update_many(waiting, decided).await.unwrap();
        dies(&mut armed, point).await;
        let mut clean = cells.stack.service("project").await;
        wait_for("nothing left to decide", async || {
            (count(doc! { "state": { "$ne": "dropped" } }).await == 0).then_some(())
        })
        .await;
        cells.visits(seed).await;
        cells.check(point).await;
        clean.stop().await;
    }
}
