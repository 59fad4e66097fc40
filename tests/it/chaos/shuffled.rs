//! Ten thousand events, repeated and shuffled: every basket as the oracle folds it, one update for each, in order.

use ezout::tools::simulate::visit::{Visit, shop_of};
use serde_json::Value;
use time::OffsetDateTime;

use super::checker;
use super::collect::Watch;
use super::history::{Identity, Phones, Receipt};
use crate::support::Stack;

const EVENTS: usize = 10_000;
const SEED: u64 = 4;
const LINES: usize = 500;

/// Bodies of simulated visits in 25 shops, a fifth of them twice, in no order.
fn sends() -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut bodies = Vec::new();
    while bodies.len() < EVENTS {
        let shop = shop_of(rng.u32(..25));
        let visit = Visit::new(&mut rng, shop, OffsetDateTime::now_utc());
        bodies.extend(visit.sends.into_iter().map(|send| send.json));
    }
    let again: Vec<String> = bodies.iter().filter(|_| rng.u8(..5) == 0).cloned().collect();
    bodies.extend(again);
    rng.shuffle(&mut bodies);
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_shuffled_and_repeated_events_fold_as_the_oracle_does() {
    let stack = Stack::start().await;
    let watch = Watch::start(&stack).await;
    let service = stack.service("serve").await;
    let client = reqwest::Client::new();
    let mut phones = Phones::default();
    let mut by_shop: std::collections::BTreeMap<String, Vec<Value>> = std::collections::BTreeMap::new();
    for body in sends() {
        let body: Value = serde_json::from_str(&body).unwrap();
        by_shop
            .entry(body["shop_id"].as_str().unwrap().to_owned())
            .or_default()
            .push(body);
    }
    for (shop, bodies) in &by_shop {
        for bodies in bodies.chunks(LINES) {
            let lines: Vec<String> = bodies.iter().map(ToString::to_string).collect();
            let request = client.post(format!("{}/v1/shops/{shop}/events", service.http_url()));
            let request = request
                .header("content-type", "application/x-ndjson")
                .body(lines.join("\n"));
            let answer = request.send().await.unwrap().text().await.unwrap();
            for (body, verdict) in bodies.iter().zip(answer.lines()) {
                let verdict: Value = serde_json::from_str(verdict).unwrap();
                let identity = Identity::of(body).unwrap();
                let place = phones.sending(&identity, body);
                let sequence = verdict["sequence"].as_u64().unwrap_or_else(|| panic!("{verdict}"));
                let duplicate = verdict["status"] == "duplicate";
                phones.acknowledged(
                    &identity,
                    Receipt {
                        sequence,
                        duplicate,
                        body: place,
                    },
                );
            }
        }
    }
    let evidence = watch.gather(&stack, phones).await;
    assert!(
        evidence.journal.len() >= EVENTS * 9 / 10,
        "{} events",
        evidence.journal.len()
    );
    assert_eq!(evidence.updates.len(), evidence.journal.len());
    let report = checker::check(&evidence);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.total() > 50_000, "{} checks", report.total());
}
