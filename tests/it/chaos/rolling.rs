//! A rolling restart, as an upgrade does it: each process of each role is stopped and started again while shoppers shop.
//!
//! Phones keep to what the README says: whatever is not answered for good is sent again, to whichever process. Each is
//! answered in the end, and nothing is lost or doubled. `EZOUT_CHAOS_SECONDS` has it go on round after round.

use std::time::Duration;

use tokio::time::Instant;

use super::collect::Watch;
use super::handover::shared_as;
use super::phones::Network;
use super::{checker, chosen, say};
use crate::support::{Service, Stack, printed};

/// In the order of the README: who writes baskets before who reads them.
const ROLES: &[&str] = &["project", "project", "correct", "correct", "api", "api"];
const PHONES: u64 = 40;
/// Rounds at least.
const ROUNDS: u32 = 5;
const SHOPS: u32 = 16;

/// A process that comes back at the same address.
struct Member {
    role: &'static str,
    service: Service,
}

impl Member {
    async fn start(stack: &Stack, role: &'static str) -> Self {
        let service = stack.service_with(role, &[("EZOUT_EDITS_PER_MINUTE", "60")]).await;
        Self { role, service }
    }

    async fn restart(&mut self, stack: &Stack) {
        let address = self.service.http_url().replace("http://", "");
        let ended = self.service.stop().await;
        assert!(ended.success(), "{} ended with {ended}", self.role);
        let environment = [("EZOUT_HTTP_ADDR", address.as_str()), ("EZOUT_EDITS_PER_MINUTE", "60")];
        self.service = stack.service_with(self.role, &environment).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_all_roles_loses_and_doubles_nothing() {
    let seconds = chosen("EZOUT_CHAOS_SECONDS").unwrap_or(0);
    let stack = Stack::start().await;
    let watch = Watch::start(&stack).await;
    let mut members = Vec::new();
    for role in ROLES {
        members.push(Member::start(&stack, role).await);
    }
    let database = stack.database().await;
    shared_as(&database, &[8, 8]).await;
    let mut apis = members
        .iter()
        .filter(|member| member.role == "api")
        .map(|member| member.service.http_url());
    let mut network = Network::new(apis.next().unwrap());
    network.others = apis.collect();

    let begun = Instant::now();
    // Shoppers go on until the last restart is done.
    let (over, is_over) = tokio::sync::watch::channel(false);
    let shoppers: Vec<_> = (0..PHONES)
        .map(|phone| {
            let (network, is_over) = (network.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut visit = 0;
                while !*is_over.borrow() {
                    network
                        .shop(phone << 32 | visit, SHOPS, Instant::now() + Duration::from_millis(1))
                        .await;
                    visit += 1;
                }
            })
        })
        .collect();
    let mut rounds = 0;
    while rounds < ROUNDS || begun.elapsed() < Duration::from_secs(seconds) {
        printed(&stack.ezout(&["migrate"]).await);
        for member in &mut members {
            member.restart(&stack).await;
            if member.role == "project" {
                shared_as(&database, &[8, 8]).await;
            }
        }
        rounds += 1;
    }
    over.send_replace(true);
    let restarted = begun.elapsed();
    for shopper in shoppers {
        let answered = tokio::time::timeout(Duration::from_mins(1), shopper).await;
        answered.expect("every phone is answered in the end").unwrap();
    }

    let phones = network.phones.lock().unwrap().clone();
    let again = phones
        .events
        .values()
        .filter(|told| told.tries > told.bodies.len() as u64)
        .count();
    let evidence = watch.gather(&stack, phones).await;
    let report = checker::check(&evidence);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = evidence.phones.events.len() as f64 / begun.elapsed().as_secs_f64();
    say(&format!(
        "{rounds} rounds of {} restarts in {restarted:.1?}: {} events at {rate:.0}/s, {again} sent more than once, {} tries not answered for good; {} in the journal; {} checks, {} broken",
        members.len(),
        evidence.phones.events.len(),
        evidence.phones.unanswered,
        evidence.journal.len(),
        report.total(),
        report.violations.len(),
    ));
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    let without_receipt = evidence
        .phones
        .events
        .values()
        .filter(|told| told.receipts.is_empty())
        .count();
    assert_eq!(without_receipt, 0, "every event has a receipt");
    for member in &members {
        let log = std::fs::read_to_string(&member.service.log).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
}
