//! The form of a basket in MongoDB: money as Decimal128, times of the phone as exact text.

mod correction;

use std::str::FromStr;

use mongodb::bson::{Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::seal::seal;
use super::{Stored, ViewError};
use crate::core::basket::{Basket, Divergence, Finding, Line, Lot};
use crate::core::event::{Abandonment, ActionIdMeaning, Event, Recorded, rfc3339};
use crate::core::id::{BasketId, ShopperId};
use crate::core::money::Money;
use crate::core::update::verdict_word;
use correction::StoredCorrection;

pub use correction::CorrectionView;
pub(super) use correction::{StoredChange, corrections, stored_change};

/// A basket as readers see it: everything but its actions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is that of core::basket under the same name")]
pub struct BasketView {
    pub shopper: Option<ShopperId>,
    pub sequence: u64,
    pub version: u64,
    pub status: String,
    pub item_count: u64,
    pub adjustment: Money,
    pub total: Money,
    pub claimed_total: Option<Money>,
    pub divergence: Option<Divergence>,
    pub lines: Vec<Line>,
    pub findings: Vec<FoundView>,
    pub finding_count: u64,
    pub corrections: Vec<CorrectionView>,
    pub missing: Vec<i64>,
    pub opened_at: Option<OffsetDateTime>,
    pub last_action_at: Option<OffsetDateTime>,
    pub last_action: Option<String>,
    pub updated_at: Option<OffsetDateTime>,
    pub parked_since: Option<u64>,
}

/// A finding as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is that of core::basket::Finding under the same name"
)]
pub struct FoundView {
    pub kind: String,
    pub sequence: u64,
    pub action_id: i64,
    pub product_id: Option<i64>,
}

/// A number as MongoDB keeps it.
pub(super) fn long(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A number read back.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn decimal(money: Money) -> Decimal128 {
    Decimal128::from_str(&money.to_string()).expect("money has fewer digits than Decimal128")
}

/// Money read back.
pub(super) fn money(decimal: Decimal128) -> Result<Money, String> {
    let text = decimal.to_string();
    Money::parse_sum(&text).map_err(|error| format!("{text}: {error}"))
}

/// A time as MongoDB keeps it, in whole milliseconds.
pub(super) fn date(time: OffsetDateTime) -> DateTime {
    DateTime::from_millis(long(time.unix_timestamp_nanos() / 1_000_000))
}

/// A time read back.
pub(super) fn time(date: DateTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(date.timestamp_millis()) * 1_000_000).ok()
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredAction {
    sequence: i64,
    recorded_at: DateTime,
    action_id: i64,
    create_time: String,
    action: String,
    shopper_id: String,
    product_name: Option<String>,
    product_id: Option<i64>,
    product_price: Option<Decimal128>,
    upc: Option<String>,
    category_id: Option<String>,
    quantity: i64,
    basket_total: Decimal128,
}

impl StoredAction {
    fn of(recorded: &Recorded) -> Self {
        let event = &recorded.event;
        Self {
            sequence: long(recorded.sequence),
            recorded_at: date(recorded.recorded_at),
            action_id: event.action_id,
            create_time: rfc3339(event.create_time),
            action: event.action.clone(),
            shopper_id: event.shopper.to_string(),
            product_name: event.product_name.clone(),
            product_id: event.product_id,
            product_price: event.product_price.map(decimal),
            upc: event.upc.clone(),
            category_id: event.category_id.clone(),
            quantity: i64::from(event.quantity),
            basket_total: decimal(event.basket_total),
        }
    }

    fn restore(self, id: BasketId) -> Result<Recorded, String> {
        let event = Event {
            session: id.session,
            shop: id.shop,
            shopper: ShopperId::parse(&self.shopper_id).map_err(|error| error.to_string())?,
            action_id: self.action_id,
            create_time: OffsetDateTime::parse(&self.create_time, &Rfc3339).map_err(|error| error.to_string())?,
            action: self.action,
            product_name: self.product_name,
            product_id: self.product_id,
            product_price: self.product_price.map(money).transpose()?,
            upc: self.upc,
            category_id: self.category_id,
            basket_total: money(self.basket_total)?,
            quantity: u32::try_from(self.quantity).map_err(|error| error.to_string())?,
            unknown: Vec::new(),
        };
        let recorded_at = time(self.recorded_at).ok_or("recorded_at is out of range")?;
        Ok(Recorded {
            sequence: unsigned(self.sequence),
            recorded_at,
            event,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredAbandonment {
    sequence: i64,
    recorded_at: DateTime,
    after: i64,
    idle_since: DateTime,
}

impl StoredAbandonment {
    fn of(recorded: &Recorded<Abandonment>) -> Self {
        Self {
            sequence: long(recorded.sequence),
            recorded_at: date(recorded.recorded_at),
            after: long(recorded.event.after),
            idle_since: date(recorded.event.idle_since),
        }
    }

    fn restore(self, basket: BasketId) -> Result<Recorded<Abandonment>, String> {
        let event = Abandonment {
            basket,
            after: unsigned(self.after),
            idle_since: time(self.idle_since).ok_or("idle_since is out of range")?,
        };
        Ok(Recorded {
            sequence: unsigned(self.sequence),
            recorded_at: time(self.recorded_at).ok_or("recorded_at is out of range")?,
            event,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredLot {
    price: Decimal128,
    quantity: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredLine {
    product_id: i64,
    product_name: Option<String>,
    upc: Option<String>,
    category_id: Option<String>,
    quantity: i64,
    amount: Decimal128,
    prices: Vec<StoredLot>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredFinding {
    kind: String,
    sequence: i64,
    action_id: i64,
    product_id: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDivergence {
    since_sequence: i64,
    since_action_id: i64,
    by: Decimal128,
}

/// What the fold needs of a document.
#[derive(Debug, Deserialize)]
struct StoredBasket {
    epoch: String,
    sequence: i64,
    version: i64,
    parked_since: Option<i64>,
    actions: Vec<StoredAction>,
    conflicts: Vec<StoredAction>,
    abandonments: Vec<StoredAbandonment>,
    corrections: Vec<StoredCorrection>,
}

/// A basket that was looked for and found.
#[derive(Debug)]
pub struct Loaded {
    /// Which basket.
    pub id: BasketId,
    /// The basket and what is stored of it, or why it cannot be read.
    pub basket: Result<(Basket, Stored), String>,
}

/// Reads a document with its actions; nothing where not even its `_id` names a basket.
pub(super) fn restore(document: Document, meaning: ActionIdMeaning) -> Option<Loaded> {
    let id = BasketId::parse(document.get_str("_id").ok()?).ok()?;
    let stored = mongodb::bson::deserialize_from_document::<StoredBasket>(document).map_err(|error| error.to_string());
    Some(Loaded {
        id,
        basket: stored.and_then(|stored| stored.restore(id, meaning)),
    })
}

impl StoredBasket {
    fn restore(self, id: BasketId, meaning: ActionIdMeaning) -> Result<(Basket, Stored), String> {
        let all = |actions: Vec<StoredAction>| {
            actions
                .into_iter()
                .map(|action| action.restore(id))
                .collect::<Result<Vec<_>, _>>()
        };
        let (actions, conflicts) = (all(self.actions)?, all(self.conflicts)?);
        let abandonments = self.abandonments.into_iter().map(|abandonment| abandonment.restore(id));
        let abandonments = abandonments.collect::<Result<_, _>>()?;
        let corrections = self.corrections.into_iter().map(|correction| correction.restore(id));
        let corrections = corrections.collect::<Result<_, _>>()?;
        let stored = Stored {
            epoch: self.epoch,
            sequence: self.sequence,
            version: self.version,
        };
        Ok((
            Basket::restore(
                id,
                meaning,
                actions,
                conflicts,
                abandonments,
                corrections,
                self.parked_since.map(unsigned),
            ),
            stored,
        ))
    }
}

/// What readers need of a document.
#[derive(Debug, Deserialize)]
pub(super) struct StoredView {
    #[serde(rename = "_id")]
    id: String,
    shopper_id: Option<String>,
    sequence: i64,
    version: i64,
    status: String,
    item_count: i64,
    adjustment: Decimal128,
    total: Decimal128,
    claimed_total: Option<Decimal128>,
    divergence: Option<StoredDivergence>,
    // A page of baskets is read without these.
    #[serde(default)]
    lines: Vec<StoredLine>,
    #[serde(default)]
    findings: Vec<StoredFinding>,
    finding_count: i64,
    #[serde(default)]
    corrections: Vec<StoredCorrection>,
    #[serde(default)]
    missing: Vec<i64>,
    opened_at: Option<DateTime>,
    last_action_at: Option<DateTime>,
    last_action: Option<String>,
    updated_at: Option<DateTime>,
    parked_since: Option<i64>,
}

/// The view in a document, with the basket that it is of; nothing, and a line in the log, if it cannot be read.
pub(super) fn identified(document: Document) -> Option<(BasketId, BasketView)> {
    let name = document.get_str("_id").unwrap_or_default().to_owned();
    let id = BasketId::parse(&name).ok();
    let stored = mongodb::bson::deserialize_from_document::<StoredView>(document).map_err(|error| error.to_string());
    let view = stored.and_then(|stored| BasketView::try_from(stored).map_err(|error| error.to_string()));
    match (id, view) {
        (Some(id), Ok(view)) => Some((id, view)),
        (_, view) => {
            let reason = view.err().unwrap_or_else(|| "its _id names no basket".to_owned());
            tracing::warn!("the basket {name} cannot be read and is left out: {reason}");
            None
        }
    }
}

impl TryFrom<StoredView> for BasketView {
    type Error = ViewError;

    fn try_from(stored: StoredView) -> Result<Self, ViewError> {
        let id = stored.id;
        let unreadable = |reason: String| ViewError::Unreadable { id: id.clone(), reason };
        let lot = |lot: StoredLot| {
            Ok(Lot {
                price: money(lot.price)?,
                quantity: unsigned(lot.quantity),
            })
        };
        let line = |line: StoredLine| {
            Ok::<_, String>(Line {
                product_id: line.product_id,
                product_name: line.product_name,
                upc: line.upc,
                category_id: line.category_id,
                quantity: unsigned(line.quantity),
                amount: money(line.amount)?,
                lots: line.prices.into_iter().map(lot).collect::<Result<_, String>>()?,
            })
        };
        let divergence = |divergence: StoredDivergence| {
            Ok::<_, String>(Divergence {
                since_sequence: unsigned(divergence.since_sequence),
                since_action_id: divergence.since_action_id,
                by: money(divergence.by)?,
            })
        };
        let found = |finding: StoredFinding| FoundView {
            kind: finding.kind,
            sequence: unsigned(finding.sequence),
            action_id: finding.action_id,
            product_id: finding.product_id,
        };
        Ok(Self {
            shopper: stored.shopper_id.and_then(|shopper| ShopperId::parse(&shopper).ok()),
            sequence: unsigned(stored.sequence),
            version: unsigned(stored.version),
            status: stored.status,
            item_count: unsigned(stored.item_count),
            adjustment: money(stored.adjustment).map_err(unreadable)?,
            total: money(stored.total).map_err(unreadable)?,
            claimed_total: stored.claimed_total.map(money).transpose().map_err(unreadable)?,
            divergence: stored.divergence.map(divergence).transpose().map_err(unreadable)?,
            lines: stored
                .lines
                .into_iter()
                .map(line)
                .collect::<Result<_, _>>()
                .map_err(unreadable)?,
            findings: stored.findings.into_iter().map(found).collect(),
            finding_count: unsigned(stored.finding_count),
            corrections: stored
                .corrections
                .into_iter()
                .map(StoredCorrection::view)
                .collect::<Result<_, _>>()
                .map_err(unreadable)?,
            missing: stored.missing,
            opened_at: stored.opened_at.and_then(time),
            last_action_at: stored.last_action_at.and_then(time),
            last_action: stored.last_action,
            updated_at: stored.updated_at.and_then(time),
            parked_since: stored.parked_since.map(unsigned),
        })
    }
}

impl BasketView {
    /// The view of a basket, as it would be read back if this were what is stored.
    pub fn of(basket: &Basket) -> Self {
        let state = basket.state();
        let in_milliseconds = |at: OffsetDateTime| time(date(at));
        let found = |finding: &Finding| FoundView {
            kind: finding.kind.word().to_owned(),
            sequence: finding.sequence,
            action_id: finding.action_id,
            product_id: finding.product_id,
        };
        Self {
            shopper: state.shopper,
            sequence: basket.sequence(),
            version: u64::try_from(basket.version()).expect("a number of events"),
            status: basket.status().word().to_owned(),
            item_count: state.item_count,
            adjustment: state.adjustment,
            total: state.total,
            claimed_total: state.claimed_total,
            divergence: state.divergence,
            lines: state.lines.clone(),
            findings: state.findings.iter().map(found).collect(),
            finding_count: u64::try_from(state.finding_count).expect("a number of findings"),
            corrections: CorrectionView::all(basket),
            missing: state.missing().to_vec(),
            opened_at: state.opened_at.and_then(in_milliseconds),
            last_action_at: state.last_action_at.and_then(in_milliseconds),
            last_action: state.last_action.clone(),
            updated_at: updated_at(basket).and_then(in_milliseconds),
            parked_since: basket.parked_since(),
        }
    }
}

/// When the journal took the newest event that the basket holds.
fn updated_at(basket: &Basket) -> Option<OffsetDateTime> {
    fn last<E>(events: &[Recorded<E>]) -> Option<(u64, OffsetDateTime)> {
        // They are in the order of the journal.
        events.last().map(|event| (event.sequence, event.recorded_at))
    }
    [
        last(basket.actions()),
        last(basket.conflicts()),
        last(basket.abandonments()),
        last(basket.corrections()),
    ]
    .into_iter()
    .flatten()
    .max_by_key(|(sequence, _)| *sequence)
    .map(|(_, recorded_at)| recorded_at)
}

fn bson(value: &impl Serialize) -> Bson {
    mongodb::bson::serialize_to_bson(value).expect("numbers, texts and dates have a BSON form")
}

/// Actions in their stored form.
pub(super) fn actions(actions: &[Recorded]) -> Vec<Bson> {
    actions.iter().map(|action| bson(&StoredAction::of(action))).collect()
}

/// Abandonments in their stored form.
pub(super) fn abandonments(abandonments: &[Recorded<Abandonment>]) -> Vec<Bson> {
    abandonments
        .iter()
        .map(|abandonment| bson(&StoredAbandonment::of(abandonment)))
        .collect()
}

/// A line in its stored form.
pub(super) fn line(line: &Line) -> Bson {
    bson(&stored_line(line))
}

fn stored_line(line: &Line) -> StoredLine {
    let lot = |lot: &Lot| StoredLot {
        price: decimal(lot.price),
        quantity: long(lot.quantity),
    };
    StoredLine {
        product_id: line.product_id,
        product_name: line.product_name.clone(),
        upc: line.upc.clone(),
        category_id: line.category_id.clone(),
        quantity: long(line.quantity),
        amount: decimal(line.amount),
        prices: line.lots.iter().map(lot).collect(),
    }
}

/// Findings in their stored form.
pub(super) fn findings(findings: &[Finding]) -> Vec<Bson> {
    findings.iter().map(|finding| bson(&stored_finding(finding))).collect()
}

fn stored_finding(finding: &Finding) -> StoredFinding {
    StoredFinding {
        kind: finding.kind.word().to_owned(),
        sequence: long(finding.sequence),
        action_id: finding.action_id,
        product_id: finding.product_id,
    }
}

/// The fields that one write sets whatever changed.
pub(super) fn scalars(basket: &Basket) -> Document {
    let state = basket.state();
    let divergence = state.divergence.map(|divergence| StoredDivergence {
        since_sequence: long(divergence.since_sequence),
        since_action_id: divergence.since_action_id,
        by: decimal(divergence.by),
    });
    doc! {
        "shopper_id": state.shopper.map(|shopper| shopper.to_string()),
        "sequence": long(basket.sequence()),
        "version": long(basket.version()),
        "status": basket.status().word(),
        "item_count": long(state.item_count),
        "adjustment": decimal(state.adjustment),
        "total": decimal(state.total),
        "claimed_total": state.claimed_total.map(decimal),
        "verdict": verdict_word(basket),
        "divergence": divergence.as_ref().map(bson),
        "finding_count": long(state.finding_count),
        "missing": state.missing().to_vec(),
        "opened_at": state.opened_at.map(date),
        "last_action_at": state.last_action_at.map(date),
        "last_action": state.last_action.as_deref(),
        "updated_at": updated_at(basket).map(date),
        "parked_since": basket.parked_since().map(long),
    }
}

/// A basket's whole document but for its `_id`, the fence and the seal, which tell nothing of its events.
pub(super) fn whole(basket: &Basket, epoch: &str) -> Document {
    let id = basket.id();
    let mut whole = scalars(basket);
    whole.insert("shop_id", id.shop.to_string());
    whole.insert("session_id", id.session.to_string());
    whole.insert("epoch", epoch);
    whole.insert("findings", findings(&basket.state().findings));
    whole.insert("lines", basket.state().lines.iter().map(line).collect::<Vec<_>>());
    whole.insert("actions", actions(basket.actions()));
    whole.insert("conflicts", actions(basket.conflicts()));
    whole.insert("abandonments", abandonments(basket.abandonments()));
    whole.insert("corrections", corrections(basket));
    whole
}

/// The same document with its `_id` and a fence, in the bytes that go to the server: where there are many, that costs least.
pub(super) fn raw(basket: &Basket, epoch: &str, fence: i64) -> RawDocumentBuf {
    #[derive(Serialize)]
    struct Raw<'a> {
        #[serde(rename = "_id")]
        key: String,
        shop_id: String,
        session_id: String,
        epoch: &'a str,
        fence: i64,
        seal: String,
        #[serde(flatten)]
        scalars: Document,
        findings: Vec<StoredFinding>,
        lines: Vec<StoredLine>,
        actions: Vec<StoredAction>,
        conflicts: Vec<StoredAction>,
        abandonments: Vec<StoredAbandonment>,
        corrections: Vec<StoredCorrection>,
    }
    let id = basket.id();
    let actions = |actions: &[Recorded]| actions.iter().map(StoredAction::of).collect();
    let scalars = scalars(basket);
    let raw = Raw {
        key: id.to_string(),
        shop_id: id.shop.to_string(),
        session_id: id.session.to_string(),
        epoch,
        fence,
        seal: seal(id, epoch, &scalars),
        scalars,
        findings: basket.state().findings.iter().map(stored_finding).collect(),
        lines: basket.state().lines.iter().map(stored_line).collect(),
        actions: actions(basket.actions()),
        conflicts: actions(basket.conflicts()),
        abandonments: basket.abandonments().iter().map(StoredAbandonment::of).collect(),
        corrections: correction::stored(basket),
    };
    mongodb::bson::serialize_to_raw_document_buf(&raw).expect("numbers, texts and dates have a BSON form")
}
