//! The process that follows the edits dies, between every two of its effects and at moments by chance, and each edit is one event.
//!
//! `EZOUT_EDIT_KILLS` says how often; `make chaos` has it die 50 times.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use tokio::time::Instant;

use super::editor::Editor;
use super::proof::{self, chosen, say};
use super::shoppers::{Crowd, Visit};
use crate::support::{Service, Stack, session};

/// How often it dies where nobody says.
const KILLS: u64 = 12;
/// Where; nothing stands for a moment by chance.
const PLACES: &[Option<&str>] = &[
    Some("before_edit_append"),
    Some("after_edit_append"),
    Some("before_refold_request"),
    Some("before_edits_place"),
    None,
];
/// How long a place may not be passed, as where edits of one kind only came.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a process that corrects, and dies at a place the so-and-so-manieth time that it passes it.
fn correct(stack: &Stack, place: Option<&str>) -> Service {
    let mut environment = vec![("EZOUT_EDITS_PER_MINUTE", "1000000")];
    environment.extend(place.map(|place| ("EZOUT_FAIL_POINT", place)));
    stack.launch("correct", &environment)
}

/// Whoever had it is dead, and the next one need not wait until it expires.
pub async fn free_lease(stack: &Stack) {
    let leases = stack.database().await.collection::<Document>("leases");
    leases.delete_one(doc! { "_id": "corrections" }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_follower_of_edits_dies_each_edit_is_one_event() {
    let seed = chosen("EZOUT_EDITS_SEED", fastrand::u64(..1_000_000));
    let kills = chosen("EZOUT_EDIT_KILLS", KILLS);
    say(&format!("{kills} kills: EZOUT_EDITS_SEED={seed}"));
    let stack = Stack::start().await;
    let api = stack.service("api").await;
    let _projector = stack.service("project").await;
    let url = api.http_url();
    let shops = [session(), session()];
    let visits: Vec<_> = (0..8).map(|number| Visit::begin(&shops[number % 2])).collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    for visit in &visits {
        visit.act(&url, &mut rng).await;
        let last = visit.act(&url, &mut rng).await;
        api.basket(&visit.shop, &visit.session, last).await;
    }
    let mut first = correct(&stack, None);
    super::followed(&stack).await;
    first.kill().await;
    free_lease(&stack).await;

    let crowd = Crowd::shop(&visits, &url, seed);
    let baskets = stack.database().await.collection("baskets");
    let mut editor = Editor::new(baskets, &visits, &url, seed);
    let mut died = std::collections::BTreeMap::new();
    for kill in 0..usize::try_from(kills).unwrap() {
        let place = PLACES[kill % PLACES.len()];
        let armed = place.map(|place| format!("{place}:{}", rng.u8(1..4)));
        let mut victim = correct(&stack, armed.as_deref());
        let begun = Instant::now();
        let lives = Duration::from_millis(rng.u64(100..1_500));
        loop {
            editor.edit().await;
            let pause = Duration::from_millis(rng.u64(20..120));
            if tokio::time::timeout(pause, victim.exited()).await.is_ok() {
                *died.entry(place.unwrap_or("?")).or_insert(0) += 1;
                break;
            }
            if (place.is_none() && begun.elapsed() > lives) || begun.elapsed() > PATIENCE {
                victim.kill().await;
                *died.entry("a moment by chance").or_insert(0) += 1;
                break;
            }
        }
        free_lease(&stack).await;
    }
    let _last = correct(&stack, None);
    crowd.go_home().await;
    let last = editor.last().await;
    proof::none_is_lost(&stack, &editor.ledger, &last).await;
    let outcome = proof::hold(&stack, &editor.ledger).await;
    say(&format!(
        "{} edits took effect, {} corrections and {} rejections; the process died at {died:?}",
        editor.ledger.total(),
        outcome.corrections.len(),
        outcome.rejected,
    ));
}
