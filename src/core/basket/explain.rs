//! Why a basket is what it is: what each event did to its line and to the total.
//!
//! The explanation watches the fold itself, step by step, so it cannot say anything else than what
//! the fold did: the effects on a line add up to its quantity and amount, and all of them to the total.

use super::{Basket, Finding, FindingKind, Status, Step};
use crate::core::event::{Correction, Kind, Recorded};
use crate::core::money::Money;

/// What one action did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect<'a> {
    /// The action.
    pub recorded: &'a Recorded,
    /// The place of the line of its product, if there is one by then and the action is about a product.
    pub line: Option<usize>,
    /// Pieces that came to the line, or left it.
    pub quantity: i64,
    /// What came to the line's amount, or left it.
    pub amount: Money,
    /// The total after the action.
    pub total: Money,
    /// What the app claimed, less the total; none after the end of the visit, when claims no longer count.
    pub claim_difference: Option<Money>,
    /// Whether claim and total count as different after the action.
    pub diverged: bool,
    /// What was found at the action; all of it, also where the basket's own list is full.
    pub findings: Vec<Finding>,
    /// Why the action changed nothing, if it did not.
    pub idle: Option<Idle>,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// For what was found at it.
    Found(FindingKind),
    /// It names no product, or no price.
    NoProduct,
}

impl Idle {
    /// The word for it in documents and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Found(kind) => kind.word(),
            Self::NoProduct => "no_product",
        }
    }
}

/// What one correction that counts did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectionEffect<'a> {
    /// The correction.
    pub recorded: &'a Recorded<Correction>,
    /// The lines that it changed: the place of each, the pieces that came or left, and what came to its amount or left it.
    pub lines: Vec<(usize, i64, Money)>,
    /// What it put on top of the total, apart from the lines.
    pub adjustment: Money,
    /// The total after it.
    pub total: Money,
    /// How many actions it stands behind, in the order of the visit.
    pub behind: usize,
}

/// A basket's explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// What each action that counts did, in the order of the visit.
    pub effects: Vec<Effect<'a>>,
    /// What each correction that counts did, in the order in which they were taken.
    pub corrections: Vec<CorrectionEffect<'a>>,
    /// Other bodies under the identity of an action, each with the place of the one that counts, in the order of the journal.
    pub conflicts: Vec<(&'a Recorded, u64)>,
}

impl Basket {
    /// Explains the basket.
    pub fn explain(&self) -> Explanation<'_> {
        let mut effects = Vec::with_capacity(self.actions.len());
        let mut lines: Vec<(u64, Money)> = Vec::new();
        let mut corrections = Vec::new();
        let mut adjustment = Money::ZERO;
        let mut ended: Option<Status> = None;
        self.folded_with(|fold, step| {
            lines.resize(fold.lines.len(), (0, Money::ZERO));
            let (recorded, touched) = match step {
                Step::Action(recorded, touched) => (recorded, touched),
                Step::Correction(recorded) => {
                    let mut changed = Vec::new();
                    for (place, line) in fold.lines.iter().enumerate() {
                        let before = std::mem::replace(&mut lines[place], (line.quantity, line.amount));
                        if before != lines[place] {
                            let quantity = signed(line.quantity) - signed(before.0);
                            changed.push((place, quantity, line.amount - before.1));
                        }
                    }
                    corrections.push(CorrectionEffect {
                        recorded,
                        lines: changed,
                        adjustment: fold.adjustment - std::mem::replace(&mut adjustment, fold.adjustment),
                        total: fold.total,
                        behind: effects.len(),
                    });
                    ended = fold.ended;
                    return;
                }
            };
            let (mut quantity, mut amount) = (0, Money::ZERO);
            if let Some(place) = touched {
                let line = &fold.lines[place];
                let before = std::mem::replace(&mut lines[place], (line.quantity, line.amount));
                quantity = signed(line.quantity) - signed(before.0);
                amount = line.amount - before.1;
            }
            let event = &recorded.event;
            // Each step's own, so that none is lost where the basket's list is full.
            let findings = std::mem::take(&mut fold.findings);
            let changed = quantity != 0 || fold.ended != ended;
            let product = event
                .product_id
                .filter(|_| !matches!(event.kind(), Kind::Checkout | Kind::Cancel));
            effects.push(Effect {
                recorded,
                line: touched.or_else(|| fold.line_of.get(&product?).copied()),
                quantity,
                amount,
                total: fold.total,
                claim_difference: ended.is_none().then(|| event.basket_total - fold.total),
                diverged: fold.divergence.is_some(),
                idle: (!changed).then(|| why_idle(&findings)),
                findings,
            });
            ended = fold.ended;
        });
        let conflicts = self
            .conflicts
            .iter()
            .filter_map(|copy| {
                let place = self.by_identity.get(&self.identity(&copy.event))?;
                Some((copy, self.actions[*place].sequence))
            })
            .collect();
        Explanation {
            effects,
            corrections,
            conflicts,
        }
    }
}

fn why_idle(findings: &[Finding]) -> Idle {
    let reasons = [
        FindingKind::AfterEnd,
        FindingKind::UnknownAction,
        FindingKind::RemovedAbsent,
    ];
    findings
        .iter()
        .map(|finding| finding.kind)
        .find(|kind| reasons.contains(kind))
        .map_or(Idle::NoProduct, Idle::Found)
}

fn signed(quantity: u64) -> i64 {
    i64::try_from(quantity).expect("a basket has at most 10^8 pieces")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_word() {
        assert_eq!(Idle::Found(FindingKind::AfterEnd).word(), "after_end");
        assert_eq!(Idle::NoProduct.word(), "no_product");
        assert_eq!(why_idle(&[]), Idle::NoProduct);
    }
}
