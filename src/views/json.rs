//! The JSON of a basket as every route shows it: money with exactly its decimals, times in RFC 3339.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{BasketView, CorrectionView, Handling, Summary, Totals};
use crate::core::basket::Divergence;
use crate::core::event::{Change, rfc3339};
use crate::core::id::{BasketId, SessionId};
use crate::core::money::Money;

impl BasketView {
    /// The JSON that the API shows, true at `sequence` of the journal, without lines that have become empty.
    pub fn json(&self, id: BasketId, sequence: u64) -> String {
        let time = |time: Option<OffsetDateTime>| time.map(rfc3339);
        let lines = self.lines.iter().filter(|line| line.quantity > 0);
        let json = BasketJson {
            shop_id: id.shop.to_string(),
            session_id: id.session.to_string(),
            shopper_id: self.shopper.map(|shopper| shopper.to_string()),
            sequence,
            basket_sequence: self.sequence,
            version: self.version,
            status: &self.status,
            item_count: self.item_count,
            adjustment: Exact(self.adjustment),
            total: Exact(self.total),
            claimed_total: self.claimed_total.map(Exact),
            verdict: verdict(self.divergence),
            divergence: self.divergence.map(DivergenceJson::of),
            lines: lines
                .map(|line| LineJson {
                    product_id: line.product_id,
                    product_name: line.product_name.as_deref(),
                    upc: line.upc.as_deref(),
                    category_id: line.category_id.as_deref(),
                    quantity: line.quantity,
                    amount: Exact(line.amount),
                    prices: line
                        .lots
                        .iter()
                        .filter(|lot| lot.quantity > 0)
                        .map(|lot| PriceJson {
                            price: Exact(lot.price),
                            quantity: lot.quantity,
                        })
                        .collect(),
                })
                .collect(),
            findings: self
                .findings
                .iter()
                .map(|finding| FindingJson {
                    kind: &finding.kind,
                    sequence: finding.sequence,
                    action_id: finding.action_id,
                    product_id: finding.product_id,
                })
                .collect(),
            finding_count: self.finding_count,
            corrections: self.corrections.iter().map(CorrectionJson::of).collect(),
            missing: &self.missing,
            opened_at: time(self.opened_at),
            last_action_at: time(self.last_action_at),
            last_action: self.last_action.as_deref(),
            updated_at: time(self.updated_at),
            parked_since: self.parked_since,
        };
        serde_json::to_string(&json).expect("a basket is JSON")
    }
}

#[derive(Serialize)]
struct BasketJson<'a> {
    shop_id: String,
    session_id: String,
    shopper_id: Option<String>,
    sequence: u64,
    basket_sequence: u64,
    version: u64,
    status: &'a str,
    item_count: u64,
    adjustment: Exact,
    total: Exact,
    claimed_total: Option<Exact>,
    verdict: &'static str,
    divergence: Option<DivergenceJson>,
    lines: Vec<LineJson<'a>>,
    findings: Vec<FindingJson<'a>>,
    finding_count: u64,
    corrections: Vec<CorrectionJson<'a>>,
    missing: &'a [i64],
    opened_at: Option<String>,
    last_action_at: Option<String>,
    last_action: Option<&'a str>,
    updated_at: Option<String>,
    parked_since: Option<u64>,
}

impl BasketView {
    /// The JSON of a basket in a list: without what is long.
    pub fn listed(&self, id: BasketId) -> ListedJson<'_> {
        ListedJson {
            session_id: id.session.to_string(),
            shopper_id: self.shopper.map(|shopper| shopper.to_string()),
            basket_sequence: self.sequence,
            version: self.version,
            status: &self.status,
            item_count: self.item_count,
            total: Exact(self.total),
            claimed_total: self.claimed_total.map(Exact),
            verdict: verdict(self.divergence),
            divergence: self.divergence.map(DivergenceJson::of),
            finding_count: self.finding_count,
            opened_at: self.opened_at.map(rfc3339),
            last_action_at: self.last_action_at.map(rfc3339),
            last_action: self.last_action.as_deref(),
            updated_at: self.updated_at.map(rfc3339),
            parked_since: self.parked_since,
        }
    }
}

/// A basket in a list.
#[derive(Debug, Serialize)]
pub struct ListedJson<'a> {
    session_id: String,
    shopper_id: Option<String>,
    basket_sequence: u64,
    version: u64,
    status: &'a str,
    item_count: u64,
    total: Exact,
    claimed_total: Option<Exact>,
    verdict: &'static str,
    divergence: Option<DivergenceJson>,
    finding_count: u64,
    opened_at: Option<String>,
    last_action_at: Option<String>,
    last_action: Option<&'a str>,
    updated_at: Option<String>,
    parked_since: Option<u64>,
}

impl Summary {
    /// The JSON of a shop in a few numbers, true at `sequence` of the journal, for the day that began then.
    pub fn json(&self, sequence: u64, day_start: OffsetDateTime) -> String {
        let count = |totals: Totals| CountJson {
            count: totals.baskets,
            amount: Exact(totals.amount),
        };
        let json = SummaryJson {
            sequence,
            day_start: rfc3339(day_start),
            open_baskets: self.open.baskets,
            open_items: self.open.items,
            value_at_risk: Exact(self.open.amount),
            abandoned_today: count(self.abandoned_today),
            paid_today: count(self.paid_today),
            cancelled_today: count(self.cancelled_today),
            diverged: self.open.diverged,
            diverged_today: self.diverged_today,
            oldest_untouched: self.oldest_untouched.map(|(session, time)| UntouchedJson {
                session_id: session.to_string(),
                updated_at: rfc3339(time),
            }),
        };
        serde_json::to_string(&json).expect("a summary is JSON")
    }
}

#[derive(Serialize)]
struct SummaryJson {
    sequence: u64,
    day_start: String,
    open_baskets: u64,
    open_items: u64,
    value_at_risk: Exact,
    abandoned_today: CountJson,
    paid_today: CountJson,
    cancelled_today: CountJson,
    diverged: u64,
    diverged_today: u64,
    oldest_untouched: Option<UntouchedJson>,
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
    amount: Exact,
}

#[derive(Serialize)]
struct UntouchedJson {
    session_id: String,
    updated_at: String,
}

/// Who handles a basket, or that nobody does.
pub fn handling(session: SessionId, handling: Option<&Handling>) -> String {
    let json = HandlingJson {
        session_id: session.to_string(),
        handled_by: handling.map(|handling| handling.by.as_str()),
        handled_until: handling.map(|handling| rfc3339(handling.until)),
    };
    serde_json::to_string(&json).expect("texts are JSON")
}

/// Who handles which baskets.
pub fn handlings<'a>(all: impl Iterator<Item = (SessionId, &'a Handling)>) -> String {
    let all: Vec<String> = all.map(|(session, by)| handling(session, Some(by))).collect();
    format!("{{\"handlings\":[{}]}}", all.join(","))
}

#[derive(Serialize)]
struct HandlingJson<'a> {
    session_id: String,
    handled_by: Option<&'a str>,
    handled_until: Option<String>,
}

/// How claim and computation differ.
#[derive(Debug, Serialize)]
pub struct DivergenceJson {
    since_sequence: u64,
    since_action_id: i64,
    by: Exact,
}

#[derive(Serialize)]
struct LineJson<'a> {
    product_id: i64,
    product_name: Option<&'a str>,
    #[serde(rename = "UPC")]
    upc: Option<&'a str>,
    category_id: Option<&'a str>,
    quantity: u64,
    amount: Exact,
    prices: Vec<PriceJson>,
}

#[derive(Serialize)]
struct PriceJson {
    price: Exact,
    quantity: u64,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    kind: &'a str,
    sequence: u64,
    action_id: i64,
    product_id: Option<i64>,
}

#[derive(Serialize)]
struct CorrectionJson<'a> {
    id: &'a str,
    sequence: u64,
    recorded_at: Option<String>,
    author: &'a str,
    reason: &'a str,
    base_sequence: u64,
    counts: bool,
    changes: Vec<Box<RawValue>>,
}

impl<'a> CorrectionJson<'a> {
    fn of(correction: &'a CorrectionView) -> Self {
        let json = |change: &Change| RawValue::from_string(change.json()).expect("a change is JSON");
        Self {
            id: &correction.id,
            sequence: correction.sequence,
            recorded_at: correction.recorded_at.map(rfc3339),
            author: &correction.author,
            reason: &correction.reason,
            base_sequence: correction.base_sequence,
            counts: correction.counts,
            changes: correction.changes.iter().map(json).collect(),
        }
    }
}

impl DivergenceJson {
    /// The form of a divergence.
    pub fn of(divergence: Divergence) -> Self {
        Self {
            since_sequence: divergence.since_sequence,
            since_action_id: divergence.since_action_id,
            by: Exact(divergence.by),
        }
    }
}

/// The word for whether the claimed total is the computed one.
pub fn verdict(divergence: Option<Divergence>) -> &'static str {
    if divergence.is_some() { "diverged" } else { "ok" }
}

/// Money as a JSON number of exactly its decimals.
#[derive(Debug)]
pub struct Exact(pub Money);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::basket::{Line, Lot};
    use crate::views::FoundView;

    fn id() -> BasketId {
        BasketId::parse("123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94").unwrap()
    }

    fn line(product_id: i64, quantity: u64) -> Line {
        let price = Money::parse("0.1").unwrap();
        Line {
            product_id,
            product_name: Some("FUJI \"Apples\"".to_owned()),
            upc: Some("042100005264".to_owned()),
            category_id: None,
            quantity,
            amount: Money::parse("0.3").unwrap(),
            lots: vec![Lot { price, quantity }],
        }
    }

    fn view() -> BasketView {
        let time = OffsetDateTime::from_unix_timestamp(1_702_895_400).unwrap();
        BasketView {
            shopper: None,
            sequence: 7,
            version: 3,
            status: "open".to_owned(),
            item_count: 3,
            adjustment: Money::ZERO,
            total: Money::parse("99999999999.9999").unwrap(),
            claimed_total: Some(Money::parse("12.18").unwrap()),
            divergence: Some(Divergence {
                since_sequence: 5,
                since_action_id: 101,
                by: Money::parse("-0.0001").unwrap(),
            }),
            lines: vec![line(500_100, 3), line(500_200, 0)],
            findings: vec![FoundView {
                kind: "removed_absent".to_owned(),
                sequence: 6,
                action_id: 102,
                product_id: Some(500_200),
            }],
            finding_count: 1,
            corrections: Vec::new(),
            missing: vec![4],
            opened_at: Some(time),
            last_action_at: Some(time),
            updated_at: None,
            last_action: Some("ADD".to_owned()),
            parked_since: None,
        }
    }

    #[test]
    fn a_basket_is_printed_with_exact_money_and_without_empty_lines() {
        assert_eq!(
            view().json(id(), 9),
            r#"{"shop_id":"123e4567-e89b-42d3-a456-426614174000","session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shopper_id":null,"sequence":9,"basket_sequence":7,"version":3,"status":"open","item_count":3,"adjustment":0.0,"total":99999999999.9999,"claimed_total":12.18,"verdict":"diverged","divergence":{"since_sequence":5,"since_action_id":101,"by":-0.0001},"lines":[{"product_id":500100,"product_name":"FUJI \"Apples\"","UPC":"042100005264","category_id":null,"quantity":3,"amount":0.3,"prices":[{"price":0.1,"quantity":3}]}],"findings":[{"kind":"removed_absent","sequence":6,"action_id":102,"product_id":500200}],"finding_count":1,"corrections":[],"missing":[4],"opened_at":"2023-12-18T10:30:00Z","last_action_at":"2023-12-18T10:30:00Z","last_action":"ADD","updated_at":null,"parked_since":null}"#
        );
    }
}
