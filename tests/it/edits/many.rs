//! Edits of every kind, while shoppers go on in the same baskets.

use std::time::Duration;

use super::editor::Editor;
use super::proof::{self, chosen, say};
use super::shoppers::{Crowd, Visit};
use crate::support::{Stack, session, wait_for};

/// Edits where nobody says how many.
const EDITS: u64 = 200;
const SHOPS: usize = 3;
const VISITS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_edit_is_one_event_or_one_rejection_and_never_an_echo() {
    let seed = chosen("EZOUT_EDITS_SEED", fastrand::u64(..1_000_000));
    let edits = chosen("EZOUT_EDITS", EDITS);
    say(&format!("{edits} edits: EZOUT_EDITS_SEED={seed}"));
    let stack = Stack::start().await;
    let service = stack
        .service_with("serve", &[("EZOUT_EDITS_PER_MINUTE", "1000000")])
        .await;
    super::followed(&stack).await;
    let url = service.http_url();
    let mut visits = Vec::new();
    for _ in 0..SHOPS {
        let shop = session();
        visits.extend((0..VISITS).map(|_| Visit::begin(&shop)));
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    for visit in &visits {
        visit.act(&url, &mut rng).await;
        let last = visit.act(&url, &mut rng).await;
        service.basket(&visit.shop, &visit.session, last).await;
    }

    let crowd = Crowd::shop(&visits, &url, seed);
    let baskets = stack.database().await.collection("baskets");
    let mut editor = Editor::new(baskets, &visits, &url, seed);
    for _ in 0..edits {
        editor.edit().await;
        // Some edits come one right after the other, before anything is healed, and some do not.
        if rng.bool() {
            tokio::time::sleep(Duration::from_millis(rng.u64(..150))).await;
        }
    }
    crowd.go_home().await;

    let ledger = &editor.ledger;
    let outcome = proof::hold(&stack, ledger).await;
    say(&format!(
        "{} edits took effect, {} changed nothing, {} were refused by mongod: {} corrections and {} rejections\n{:?}",
        ledger.total(),
        ledger.void,
        ledger.refused,
        outcome.corrections.len(),
        outcome.rejected,
        ledger.kinds
    ));
    // One edit makes one event, also by the count of those who take and project them.
    for series in [
        "ezout_corrections_total{source=\"database\"}",
        "ezout_projected_corrections_total{source=\"edit\"}",
    ] {
        wait_for(series, async || {
            let counted = service.metric(series).await?;
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let events = outcome.corrections.len() as f64;
            assert!(counted <= events, "{series} is {counted} for {events} events");
            (counted >= events).then_some(())
        })
        .await;
    }
}
