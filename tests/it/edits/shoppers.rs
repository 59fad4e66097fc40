//! Shoppers who go on while others edit their baskets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{event, session};

/// Different products, so that lines come and go.
const PRODUCTS: i64 = 5;

/// One visit, in which any number of tasks may act.
pub struct Visit {
    pub shop: String,
    pub session: String,
    next: AtomicI64,
}

impl Visit {
    pub fn begin(shop: &str) -> Arc<Self> {
        Arc::new(Self {
            shop: shop.to_owned(),
            session: session(),
            next: AtomicI64::new(1),
        })
    }

    /// The basket's `_id`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.shop, self.session)
    }

    /// Does one thing, and answers its place in the journal.
    pub async fn act(&self, url: &str, rng: &mut fastrand::Rng) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let action = if rng.u8(..5) == 0 { "REMOVE" } else { "ADD" };
        let product = rng.i64(1..=PRODUCTS);
        let price = [1.0, 2.5, 3.75][rng.usize(..3)];
        let mut event = event(&self.shop, &self.session, number, action, product, price, price);
        event["quantity"] = json!(rng.u8(1..4));
        let request = reqwest::Client::new().post(format!("{url}/publish/{}", self.shop));
        let answer = request.json(&event).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers()["ezout-sequence"].to_str().unwrap().parse().unwrap()
    }
}

/// Tasks that keep shopping until they are stopped.
pub struct Crowd {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    pub fn shop(visits: &[Arc<Visit>], url: &str, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let tasks = (seed..).zip(visits).map(|(seed, visit)| {
            let (visit, url, stop) = (Arc::clone(visit), url.to_owned(), stop.clone());
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed);
                while !stop.is_cancelled() {
                    visit.act(&url, &mut rng).await;
                    tokio::time::sleep(Duration::from_millis(rng.u64(20..200))).await;
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
        }
    }

    pub async fn go_home(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
