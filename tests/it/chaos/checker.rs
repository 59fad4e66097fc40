//! The checker: compares what phones were told, the journal, the baskets and the updates with each other.
//!
//! It shares no code with the product. Every check is of one promise, and every broken one is a line of its report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mongodb::bson::{Bson, Document};
use serde_json::Value;

use super::history::{Asked, Evidence, Identity, JournalEvent};
use super::oracle::{Action, Expected, Idle, Line, expected, money};
use super::promise::Promise::{self, I1, I2, I3, I4, I5, I6, I7, I9, I10, I11, I12, I13, I14, I15};
use super::watched;

/// What the checker found.
#[derive(Debug, Default)]
pub struct Report {
    /// How often each promise was checked.
    pub checks: BTreeMap<Promise, u64>,
    pub violations: Vec<Violation>,
}

/// A promise that was broken, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Report {
    /// Notes that a promise was checked, and how it was broken if it was.
    pub fn expect(&mut self, promise: Promise, holds: bool, otherwise: impl FnOnce() -> String) {
        self.kept(promise, 1);
        if !holds {
            let what = otherwise();
            self.violations.push(Violation { promise, what });
        }
    }

    /// Notes that a promise was found to be kept so many times.
    pub fn kept(&mut self, promise: Promise, times: u64) {
        *self.checks.entry(promise).or_default() += times;
    }

    /// Checks of all promises.
    pub fn total(&self) -> u64 {
        self.checks.values().sum()
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
    check_copies(evidence, &mut report);
    check_baskets(evidence, &wanted, &mut report);
    check_money(evidence, &wanted, &mut report);
    check_updates(evidence, &wanted, &mut report);
    check_heard(evidence, &wanted, &mut report);
    check_checkpoints(evidence, &mut report);
    let parked: Vec<u64> = wanted.parked.iter().copied().collect();
    report.expect(I9, evidence.parked == parked, || {
        format!("parked are {:?} instead of {parked:?}", evidence.parked)
    });
    check_rebuilt(evidence, &mut report);
    check_strangers(evidence, &mut report);
    check_processes(evidence, &mut report);
    check_recovery(evidence, &mut report);
    check_ends(evidence, &mut report);
    for viewer in &evidence.viewers {
        watched::check(evidence, viewer, &mut report);
    }
    for surprise in &evidence.phones.surprises {
        report.expect(I12, false, || surprise.clone());
    }
    for (promise, seen) in &evidence.seen {
        report.expect(*promise, false, || seen.clone());
    }
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

/// Acknowledged once means recorded once, at the place of the receipt; with a try that was not, still at most once.
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
        let recorded = if told.tries > told.receipts.len() as u64 {
            I2
        } else {
            I1
        };
        report.expect(recorded, found.len() <= 1 || evidence.forgets, || {
            format!("{identity:?} is in the journal more than once, at {at:?}")
        });
        let firsts = told.receipts.iter().filter(|receipt| !receipt.duplicate).count();
        report.expect(I1, firsts <= 1 || evidence.forgets, || {
            format!(
                "{identity:?} was acknowledged as new {firsts} times: {:?}",
                told.receipts
            )
        });
        for receipt in &told.receipts {
            let stored = found.iter().find(|(sequence, _)| *sequence == receipt.sequence);
            report.expect(I12, stored.is_some(), || {
                format!("{identity:?} was acknowledged at {} and is at {at:?}", receipt.sequence)
            });
            report.expect(
                I12,
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
        report.expect(I6, order.is_sorted_by(|one, next| one < next), || {
            format!("session {session} sent one after the other and was recorded as {order:?}")
        });
    }
}

/// Nothing is in the journal that nobody sent, and it has no gaps.
fn check_journal(evidence: &Evidence, report: &mut Report) {
    let mut idles = BTreeSet::new();
    let streams = evidence.streams.max(1);
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    for event in &evidence.journal {
        let stream = event.sequence.saturating_sub(1) % streams;
        let place = places.entry(stream).or_insert(stream + 1);
        report.expect(I15, event.sequence == *place, || {
            format!("the journal has {} where {place} should be", event.sequence)
        });
        *place += streams;
        if evidence.planted.contains(&event.sequence) {
            continue;
        }
        if event.is_abandonment {
            check_idle(evidence, event, report);
            report.expect(I3, idles.insert(&event.body), || {
                format!("event {} says again that a basket is abandoned", event.sequence)
            });
            continue;
        }
        let sent = identity(event).is_some_and(|(identity, body)| {
            let told = evidence.phones.events.get(&identity);
            let subject = format!("checkout.{}.{}", partition(&identity.shop), identity.shop);
            event.subject == subject && told.is_some_and(|told| told.bodies.contains(&body))
        });
        report.expect(I3, sent, || {
            let body = String::from_utf8_lossy(&event.body);
            format!(
                "nobody sent event {} of the journal, on {}: {body}",
                event.sequence, event.subject
            )
        });
    }
}

/// Each server has each event as every other one has it, byte for byte.
fn check_copies(evidence: &Evidence, report: &mut Report) {
    let Some((first, of_first)) = evidence.copies.first_key_value() else {
        return;
    };
    for (server, copy) in &evidence.copies {
        report.expect(I1, copy.len() == evidence.journal.len(), || {
            format!("{server} has {} events and not {}", copy.len(), evidence.journal.len())
        });
        for (place, event) in evidence.journal.iter().enumerate() {
            let copied = copy.get(place).and_then(Option::as_ref);
            let is_so = copied.is_some_and(|copied| (&copied.subject, &copied.body) == (&event.subject, &event.body));
            report.expect(I1, is_so, || {
                format!("{server} has {copied:?} as event {} and not {event:?}", event.sequence)
            });
            let other = of_first.get(place).and_then(Option::as_ref);
            report.expect(I1, copied == other, || {
                format!(
                    "{server} has {copied:?} as event {} and {first} has {other:?}",
                    event.sequence
                )
            });
        }
    }
}

/// The service says that a basket was abandoned only after nothing happened for as long as it must.
fn check_idle(evidence: &Evidence, event: &JournalEvent, report: &mut Report) {
    let idle = Idle::read(event.sequence, &event.body);
    let same = |other: &JournalEvent| other.session == event.session && other.subject == event.subject;
    let last = idle.as_ref().and_then(|(_, idle)| {
        let mut journal = evidence.journal.iter();
        journal.find(|other| other.sequence == idle.after)
    });
    let silence = last
        .filter(|last| same(last))
        .map(|last| event.recorded_ms - last.recorded_ms);
    let due = silence.is_some_and(|silence| evidence.abandon_after_ms > 0 && silence >= evidence.abandon_after_ms);
    report.expect(I3, due, || {
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
            report.expect(I4, false, || format!("there is no basket {id}"));
            continue;
        };
        let sequences: Vec<i128> = documents(basket, "actions")
            .map(|action| number(action.get("sequence")))
            .collect();
        let in_journal: Vec<i128> = actions.iter().map(|action| i128::from(action.sequence)).collect();
        report.expect(I4, sequences == in_journal, || {
            format!("basket {id} has the events {sequences:?} and the journal {in_journal:?}")
        });
        let (is, should) = (stored(basket), expected(actions, wanted.idles_of(id)));
        report.expect(I4, is.as_ref() == Some(&should), || {
            format!("basket {id} is {is:?} and should be {should:?}")
        });
        let last = actions.iter().map(|action| action.sequence);
        let last = last.chain(wanted.idles_of(id).iter().map(|idle| idle.sequence)).max();
        let at = number(basket.get("sequence"));
        report.expect(I5, last.map(i128::from) == Some(at), || {
            format!("basket {id} is as of {at} and its last event is {last:?}")
        });
        let idles: Vec<i128> = documents(basket, "abandonments")
            .map(|idle| number(idle.get("sequence")))
            .collect();
        let in_journal: Vec<i128> = wanted
            .idles_of(id)
            .iter()
            .map(|idle| i128::from(idle.sequence))
            .collect();
        report.expect(I4, idles == in_journal, || {
            format!("basket {id} was abandoned at {idles:?} and in the journal at {in_journal:?}")
        });
        let since = wanted.parked_since.get(id).map(|since| i128::from(*since));
        let marked = basket.get("parked_since").filter(|since| **since != Bson::Null);
        report.expect(I9, marked.map(|marked| number(Some(marked))) == since, || {
            format!("basket {id} is parked since {marked:?} and should be since {since:?}")
        });
    }
    for id in evidence.baskets.keys() {
        let known = wanted.actions.contains_key(id) || wanted.parked_since.contains_key(id);
        report.expect(I4, known, || format!("basket {id} has no event in the journal"));
    }
}

/// What each update says that its event moved adds up to what is in the baskets.
fn check_money(evidence: &Evidence, wanted: &Wanted, report: &mut Report) {
    let mut basket_of: BTreeMap<u64, &str> = BTreeMap::new();
    for (id, actions) in &wanted.actions {
        basket_of.extend(actions.iter().map(|action| (action.sequence, id.as_str())));
    }
    for (id, idles) in &wanted.idles {
        basket_of.extend(idles.iter().map(|idle| (idle.sequence, id.as_str())));
    }
    let mut totals: BTreeMap<&str, i128> = BTreeMap::new();
    let mut moved = 0;
    for update in &evidence.updates {
        let shown = shown(&update.body);
        let (Some(basket), Some(shown)) = (basket_of.get(&update.sequence), shown) else {
            continue;
        };
        moved += shown.total - totals.insert(basket, shown.total).unwrap_or(0);
    }
    let stored = evidence
        .baskets
        .values()
        .filter_map(|basket| amount(basket.get("total")));
    let stored: i128 = stored.sum();
    report.expect(I4, stored == moved, || {
        format!("the totals of all baskets are {stored} together, and the updates moved {moved}")
    });
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
        report.expect(I7, told.insert(sequence), || {
            format!("UPDATES tells of event {sequence} again, on {}", update.subject)
        });
        if !evidence.late.contains(&sequence) {
            let before = last.insert(&update.subject, sequence).unwrap_or(0);
            report.expect(I7, before < sequence, || {
                format!(
                    "UPDATES tells of event {sequence} after {before}, on {}",
                    update.subject
                )
            });
        }
        let (is, should) = (shown(&update.body), wanted.after.get(&sequence));
        let same = should.is_some_and(|should| is == Some(without_lines(should)));
        report.expect(I7, same, || {
            format!(
                "the update of event {sequence} shows {} and should show {should:?}",
                update.body
            )
        });
    }
    let missing: Vec<u64> = wanted.after.keys().copied().filter(|one| !told.contains(one)).collect();
    report.expect(I7, missing.is_empty(), || {
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

/// A subscriber hears nothing twice, nothing backwards, and nothing that is not so. Where three servers keep the stream of updates and
/// one of them is lost, the next leader may give out again what the last one has; then the first of each counts.
fn check_heard(evidence: &Evidence, wanted: &Wanted, report: &mut Report) {
    for (shop, heard) in &evidence.heard {
        let mut before = BTreeSet::new();
        let in_turn: Vec<u64> = heard
            .iter()
            .copied()
            .filter(|one| !evidence.late.contains(one))
            .filter(|one| before.insert(*one) || !evidence.replicated)
            .collect();
        for pair in in_turn.windows(2) {
            report.expect(I7, pair[0] < pair[1], || {
                format!("a subscriber of shop {shop} heard {} after {}", pair[1], pair[0])
            });
        }
        let unknown: Vec<_> = heard.iter().filter(|one| !wanted.after.contains_key(one)).collect();
        report.expect(I7, unknown.is_empty(), || {
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
    report.expect(I5, ends == evidence.checkpoints, || {
        format!(
            "checkpoints are {:?} and the journal ends at {ends:?}",
            evidence.checkpoints
        )
    });
}

/// Fields that a write of a basket has beside what the basket is.
const OF_THE_WRITE: [&str; 2] = ["seal", "fence"];

/// A second fold of the journal by the product itself makes the same documents.
fn check_rebuilt(evidence: &Evidence, report: &mut Report) {
    let Some(rebuilt) = &evidence.rebuilt else { return };
    let bare = |basket: &Document| {
        let mut basket = basket.clone();
        for field in OF_THE_WRITE {
            basket.remove(field);
        }
        basket
    };
    for (id, basket) in &evidence.baskets {
        let again = rebuilt.get(id);
        report.expect(I11, again.map(bare) == Some(bare(basket)), || {
            format!("basket {id} is {basket} and was rebuilt as {again:?}")
        });
    }
    for id in rebuilt.keys().filter(|id| !evidence.baskets.contains_key(*id)) {
        report.expect(I11, false, || format!("there is no basket {id}, and it was rebuilt"));
    }
}

/// Statuses of an outage, which say nothing of who may do what: no answer, and one to come again.
const OUTAGES: [u16; 2] = [0, 503];

/// Whoever is of another shop is refused as the policy says while the very same is answered to whoever may, which is seen of each
/// request at least once.
fn check_strangers(evidence: &Evidence, report: &mut Report) {
    let mut shown: BTreeMap<&str, bool> = BTreeMap::new();
    for asked in &evidence.strangers {
        let Asked {
            what,
            refusal,
            stranger,
            permitted,
        } = asked;
        let is_shown = shown.entry(what).or_default();
        if OUTAGES.contains(stranger) {
            continue;
        }
        let is_refused = stranger == refusal;
        if is_refused && !asked.is_proof() {
            continue;
        }
        *is_shown = true;
        report.expect(I10, is_refused, || {
            format!("{what} was answered {stranger} and not {refusal}, and {permitted} to whoever may")
        });
    }
    for (what, is_shown) in shown {
        report.expect(I10, is_shown, || {
            format!("nothing shows that {what} is refused: it was never answered to whoever may")
        });
    }
    for (who, what) in &evidence.foreign {
        report.expect(I10, false, || {
            format!("{who} of another shop has changed something: {what}")
        });
    }
}

/// Bytes of memory that no process of the service or of its servers may have in a run.
const MEMORY_MAX: u64 = 1 << 30;
/// Descriptors that none of them may have in a run.
const DESCRIPTORS_MAX: usize = 1_000;

fn check_processes(evidence: &Evidence, report: &mut Report) {
    for (process, most) in &evidence.most {
        report.expect(I13, most.memory <= MEMORY_MAX, || {
            format!("{process} had {} bytes of memory", most.memory)
        });
        report.expect(I13, most.descriptors <= DESCRIPTORS_MAX, || {
            format!("{process} had {} descriptors", most.descriptors)
        });
    }
    report.kept(I13, evidence.logs_read);
}

/// How long everything may stand still after a fault. What there is to catch up with takes as long as the machine takes.
const STANDSTILL_MAX: std::time::Duration = std::time::Duration::from_secs(30);

fn check_recovery(evidence: &Evidence, report: &mut Report) {
    let Some(recovered) = evidence.recovered else { return };
    report.expect(I14, recovered.standstill <= STANDSTILL_MAX, || {
        format!("after the fault nothing was told for {:.1?}", recovered.standstill)
    });
    report.expect(I14, recovered.is_well, || {
        format!(
            "events were not told at once again {:.1?} after the fault",
            recovered.took
        )
    });
}

/// A journal that falls back or becomes another one has stopped whoever reads it: somebody said so, of this fall, and before it was
/// otherwise again.
fn check_ends(evidence: &Evidence, report: &mut Report) {
    for (place, pair) in evidence.ends.windows(2).enumerate() {
        let (before, after) = (&pair[0], &pair[1]);
        let over = evidence.ends.get(place + 2).map(|next| next.at);
        let is_said = || {
            let mut alarms = evidence.alarms.iter();
            alarms.any(|alarm| {
                let in_time = before.at <= alarm.at && over.is_none_or(|over| alarm.at <= over);
                in_time && alarm.speaks_of(before, after)
            })
        };
        report.expect(I15, !after.is_fall_from(before) || is_said(), || {
            format!("the journal went from {before:?} to {after:?}, and nobody said so")
        });
    }
}
