//! The checker: compares what phones were told, the journal, the baskets and the updates with each other.
//!
//! It shares no code with the product. Every broken promise is one line of its report.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document};
use serde_json::Value;

use super::history::{Evidence, Identity, JournalEvent};
use super::oracle::{Action, Expected, Idle, Line, expected, money};

/// What the checker found.
#[derive(Debug, Default)]
pub struct Report {
    pub checks: u64,
    pub violations: Vec<String>,
}

impl Report {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.violations.push(otherwise());
        }
    }
}

/// What the journal says must have come of it.
#[derive(Default)]
struct Wanted {
    /// By basket, the actions that count, as the journal has them.
    actions: BTreeMap<String, Vec<Action>>,
    /// By basket, when it was found to be abandoned.
    idles: BTreeMap<String, Vec<Idle>>,
    /// By sequence, the basket after that event.
    after: BTreeMap<u64, Expected>,
    parked: BTreeSet<u64>,
    /// By basket, its first parked event.
    parked_since: BTreeMap<String, u64>,
}

/// Checks everything.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    let wanted = want(evidence);
    check_phones(evidence, &mut report);
    check_journal(evidence, &mut report);
    check_baskets(evidence, &wanted, &mut report);
    check_updates(evidence, &wanted, &mut report);
    check_heard(evidence, &wanted, &mut report);
    check_checkpoints(evidence, &mut report);
    let parked: Vec<u64> = wanted.parked.iter().copied().collect();
    report.expect(evidence.parked == parked, || {
        format!("parked are {:?} instead of {parked:?}", evidence.parked)
    });
    report
        .violations
        .extend(evidence.phones.surprises.iter().chain(&evidence.seen).cloned());
    report
}

fn want(evidence: &Evidence) -> Wanted {
    let mut wanted = Wanted::default();
    let counts = |event: &&JournalEvent| !evidence.dropped.contains(&event.sequence);
    for event in evidence.journal.iter().filter(counts) {
        if event.is_abandonment {
            wanted.idle(event);
            continue;
        }
        let action = Action::read(event.sequence, &event.body);
        let shop = event.subject.rsplit('.').next().unwrap_or_default();
        let named = event.session.as_ref().map(|session| format!("{shop}.{session}"));
        let late = evidence.late.contains(&event.sequence);
        let Some(basket) = action.as_ref().map(|action| action.basket.clone()).or(named) else {
            wanted.parked.insert(event.sequence);
            continue;
        };
        let Some(action) = action.filter(|_| late || !wanted.parked_since.contains_key(&basket)) else {
            wanted.parked.insert(event.sequence);
            wanted.parked_since.entry(basket).or_insert(event.sequence);
            continue;
        };
        let idles = wanted.idles.get(&basket).map_or(&[][..], Vec::as_slice);
        let actions = wanted.actions.entry(basket).or_default();
        if actions.iter().all(|known| known.identity() != action.identity()) {
            actions.push(action);
            wanted.after.insert(event.sequence, expected(actions, idles));
        }
    }
    wanted
}

impl Wanted {
    fn idle(&mut self, event: &JournalEvent) {
        let Some((basket, idle)) = Idle::read(event.sequence, &event.body) else {
            self.parked.insert(event.sequence);
            return;
        };
        if self.parked_since.contains_key(&basket) {
            self.parked.insert(event.sequence);
            return;
        }
        let actions = self.actions.get(&basket).map_or(&[][..], Vec::as_slice);
        let idles = self.idles.entry(basket).or_default();
        if idles.iter().all(|known| known.after != idle.after) {
            idles.push(idle);
            self.after.insert(event.sequence, expected(actions, idles));
        }
    }

    fn idles_of(&self, basket: &str) -> &[Idle] {
        self.idles.get(basket).map_or(&[][..], Vec::as_slice)
    }
}

fn identity(event: &JournalEvent) -> Option<(Identity, Value)> {
    let body: Value = serde_json::from_slice(&event.body).ok()?;
    Some((Identity::of(&body)?, body))
}

/// Acknowledged once means recorded once, at the place of the receipt; unacknowledged, at most once.
fn check_phones(evidence: &Evidence, report: &mut Report) {
    let mut places: BTreeMap<Identity, Vec<(u64, Value)>> = BTreeMap::new();
    for event in &evidence.journal {
        if let Some((identity, body)) = identity(event) {
            places.entry(identity).or_default().push((event.sequence, body));
        }
    }
    for (identity, told) in &evidence.phones.events {
        let found = places.get(identity).map_or(&[][..], Vec::as_slice);
        let at: Vec<u64> = found.iter().map(|(sequence, _)| *sequence).collect();
        report.expect(found.len() <= 1, || {
            format!("{identity:?} is in the journal more than once, at {at:?}")
        });
        let firsts = told.receipts.iter().filter(|receipt| !receipt.duplicate).count();
        report.expect(firsts <= 1, || {
            format!(
                "{identity:?} was acknowledged as new {firsts} times: {:?}",
                told.receipts
            )
        });
        for receipt in &told.receipts {
            let stored = found.iter().find(|(sequence, _)| *sequence == receipt.sequence);
            report.expect(stored.is_some(), || {
                format!("{identity:?} was acknowledged at {} and is at {at:?}", receipt.sequence)
            });
            report.expect(
                stored.is_none_or(|(_, body)| *body == told.bodies[receipt.body]),
                || {
                    format!(
                        "{identity:?} was acknowledged at {} with another body",
                        receipt.sequence
                    )
                },
            );
        }
    }
    for (session, order) in &evidence.phones.order {
        report.expect(order.is_sorted_by(|one, next| one < next), || {
            format!("session {session} sent one after the other and was recorded as {order:?}")
        });
    }
}

/// Nothing is in the journal that nobody sent, and it has no gaps.
fn check_journal(evidence: &Evidence, report: &mut Report) {
    let mut idles = BTreeSet::new();
    for (place, event) in (1..).zip(&evidence.journal) {
        report.expect(event.sequence == place, || {
            format!("the journal has {} where {place} should be", event.sequence)
        });
        if evidence.planted.contains(&event.sequence) {
            continue;
        }
        if event.is_abandonment {
            check_idle(evidence, event, report);
            report.expect(idles.insert(&event.body), || {
                format!("event {} says again that a basket is abandoned", event.sequence)
            });
            continue;
        }
        let sent = identity(event).is_some_and(|(identity, body)| {
            let told = evidence.phones.events.get(&identity);
            let subject = format!("checkout.{}.{}", partition(&identity.shop), identity.shop);
            event.subject == subject && told.is_some_and(|told| told.bodies.contains(&body))
        });
        report.expect(sent, || {
            let body = String::from_utf8_lossy(&event.body);
            format!(
                "nobody sent event {} of the journal, on {}: {body}",
                event.sequence, event.subject
            )
        });
    }
}

/// The service says that a basket was abandoned only after nothing happened for as long as it must.
fn check_idle(evidence: &Evidence, event: &JournalEvent, report: &mut Report) {
    let idle = Idle::read(event.sequence, &event.body);
    let same = |other: &JournalEvent| other.session == event.session && other.subject == event.subject;
    let last = idle.as_ref().and_then(|(_, idle)| {
        let place = usize::try_from(idle.after).ok()?.checked_sub(1)?;
        evidence.journal.get(place)
    });
    let silence = last
        .filter(|last| same(last))
        .map(|last| event.recorded_ms - last.recorded_ms);
    let due = silence.is_some_and(|silence| evidence.abandon_after_ms > 0 && silence >= evidence.abandon_after_ms);
    report.expect(due, || {
        let body = String::from_utf8_lossy(&event.body);
        format!(
            "event {} says after {silence:?} ms that a basket is abandoned: {body}",
            event.sequence
        )
    });
}

/// FNV-1a of the shop's text, modulo 16.
fn partition(shop: &str) -> u64 {
    let hash = shop.bytes().fold(14_695_981_039_346_656_037_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    });
    hash % 16
}

/// Every event is in its basket once, and what follows from them is what the oracle says.
fn check_baskets(evidence: &Evidence, wanted: &Wanted, report: &mut Report) {
    for (id, actions) in &wanted.actions {
        let Some(basket) = evidence.baskets.get(id) else {
            report.expect(false, || format!("there is no basket {id}"));
            continue;
        };
        let sequences: Vec<i128> = documents(basket, "actions")
            .map(|action| number(action.get("sequence")))
            .collect();
        let in_journal: Vec<i128> = actions.iter().map(|action| i128::from(action.sequence)).collect();
        report.expect(sequences == in_journal, || {
            format!("basket {id} has the events {sequences:?} and the journal {in_journal:?}")
        });
        let (is, should) = (stored(basket), expected(actions, wanted.idles_of(id)));
        report.expect(is.as_ref() == Some(&should), || {
            format!("basket {id} is {is:?} and should be {should:?}")
        });
        let idles: Vec<i128> = documents(basket, "abandonments")
            .map(|idle| number(idle.get("sequence")))
            .collect();
        let in_journal: Vec<i128> = wanted
            .idles_of(id)
            .iter()
            .map(|idle| i128::from(idle.sequence))
            .collect();
        report.expect(idles == in_journal, || {
            format!("basket {id} was abandoned at {idles:?} and in the journal at {in_journal:?}")
        });
        let since = wanted.parked_since.get(id).map(|since| i128::from(*since));
        let marked = basket.get("parked_since").filter(|since| **since != Bson::Null);
        report.expect(marked.map(|marked| number(Some(marked))) == since, || {
            format!("basket {id} is parked since {marked:?} and should be since {since:?}")
        });
    }
    for id in evidence.baskets.keys() {
        let known = wanted.actions.contains_key(id) || wanted.parked_since.contains_key(id);
        report.expect(known, || format!("basket {id} has no event in the journal"));
    }
}

fn documents<'a>(document: &'a Document, field: &str) -> impl Iterator<Item = &'a Document> {
    let array = document.get_array(field).map_or(&[][..], Vec::as_slice);
    array.iter().filter_map(Bson::as_document)
}

fn number(value: Option<&Bson>) -> i128 {
    match value {
        Some(Bson::Int64(number)) => i128::from(*number),
        Some(Bson::Int32(number)) => i128::from(*number),
        _ => -1,
    }
}

fn amount(value: Option<&Bson>) -> Option<i128> {
    match value {
        Some(Bson::Decimal128(decimal)) => money(&decimal.to_string()),
        _ => None,
    }
}

fn status(word: &str) -> Option<&'static str> {
    ["open", "abandoned", "paid", "cancelled"]
        .into_iter()
        .find(|known| *known == word)
}

/// What the document says follows from its actions.
fn stored(basket: &Document) -> Option<Expected> {
    let prices = |line: &Document| {
        documents(line, "prices")
            .map(|lot| Some((amount(lot.get("price"))?, number(lot.get("quantity")))))
            .collect::<Option<Vec<_>>>()
    };
    let lines = documents(basket, "lines").map(|line| {
        Some(Line {
            product: line.get_i64("product_id").ok()?,
            quantity: number(line.get("quantity")),
            amount: amount(line.get("amount"))?,
            prices: prices(line)?,
        })
    });
    Some(Expected {
        status: status(basket.get_str("status").ok()?)?,
        item_count: number(basket.get("item_count")),
        total: amount(basket.get("total"))?,
        claimed: amount(basket.get("claimed_total")),
        diverged: basket.get_str("verdict").ok()? == "diverged",
        findings: number(basket.get("finding_count")),
        version: number(basket.get("version")),
        lines: lines.collect::<Option<_>>()?,
    })
}

/// Each event that counts has one update, in the order of its shop, with the basket as it was then.
fn check_updates(evidence: &Evidence, wanted: &Wanted, report: &mut Report) {
    let mut told: BTreeSet<u64> = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for update in &evidence.updates {
        let sequence = update.sequence;
        report.expect(told.insert(sequence), || {
            format!("UPDATES tells of event {sequence} again, on {}", update.subject)
        });
        if !evidence.late.contains(&sequence) {
            let before = last.insert(&update.subject, sequence).unwrap_or(0);
            report.expect(before < sequence, || {
                format!(
                    "UPDATES tells of event {sequence} after {before}, on {}",
                    update.subject
                )
            });
        }
        let (is, should) = (shown(&update.body), wanted.after.get(&sequence));
        let same = should.is_some_and(|should| is == Some(without_lines(should)));
        report.expect(same, || {
            format!(
                "the update of event {sequence} shows {} and should show {should:?}",
                update.body
            )
        });
    }
    let missing: Vec<u64> = wanted.after.keys().copied().filter(|one| !told.contains(one)).collect();
    report.expect(missing.is_empty(), || {
        format!("UPDATES never tells of {} events: {missing:?}", missing.len())
    });
}

fn without_lines(expected: &Expected) -> Expected {
    Expected {
        lines: Vec::new(),
        ..expected.clone()
    }
}

/// What an update says of its basket.
fn shown(body: &Value) -> Option<Expected> {
    let basket = body.get("basket")?;
    let count = |field: &str| basket.get(field)?.as_i64().map(i128::from);
    let money = |field: &str| money(&basket.get(field)?.to_string());
    Some(Expected {
        status: status(basket.get("status")?.as_str()?)?,
        item_count: count("item_count")?,
        total: money("total")?,
        claimed: money("claimed_total"),
        diverged: basket.get("verdict")?.as_str()? == "diverged",
        findings: count("finding_count")?,
        version: count("version")?,
        lines: Vec::new(),
    })
}

/// A subscriber hears nothing twice, nothing backwards, and nothing that is not so.
fn check_heard(evidence: &Evidence, wanted: &Wanted, report: &mut Report) {
    for (shop, heard) in &evidence.heard {
        let in_turn: Vec<u64> = heard
            .iter()
            .copied()
            .filter(|one| !evidence.late.contains(one))
            .collect();
        for pair in in_turn.windows(2) {
            report.expect(pair[0] < pair[1], || {
                format!("a subscriber of shop {shop} heard {} after {}", pair[1], pair[0])
            });
        }
        let unknown: Vec<_> = heard.iter().filter(|one| !wanted.after.contains_key(one)).collect();
        report.expect(unknown.is_empty(), || {
            format!("a subscriber of shop {shop} heard of {unknown:?}, which do not count")
        });
    }
}

/// Each partition is folded to its end and no further.
fn check_checkpoints(evidence: &Evidence, report: &mut Report) {
    let mut ends: BTreeMap<i32, u64> = BTreeMap::new();
    for event in &evidence.journal {
        let partition = event.subject.split('.').nth(1).and_then(|number| number.parse().ok());
        ends.insert(partition.unwrap_or(-1), event.sequence);
    }
    report.expect(ends == evidence.checkpoints, || {
        format!(
            "checkpoints are {:?} and the journal ends at {ends:?}",
            evidence.checkpoints
        )
    });
}
