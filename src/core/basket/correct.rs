//! Corrections of a basket: which of them count, and what a person's wish is as a difference.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Basket, Line, Status};
use crate::core::event::{Change, Correction, Recorded};
use crate::core::money::Money;

/// Most pieces that a person may want a line to have.
const PIECES_MAX: u64 = 1_000_000;

/// What a person wants to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A line has this many pieces. New ones cost what is said, else what the newest cost.
    Quantity {
        /// The line.
        product_id: i64,
        /// Number of pieces.
        quantity: u64,
        /// Price of a new piece.
        price: Option<Money>,
    },
    /// Each piece of a line costs this.
    Price {
        /// The line.
        product_id: i64,
        /// Price of one piece.
        price: Money,
    },
    /// An amount more, or less where it is below 0.
    Adjustment {
        /// The amount.
        by: Money,
    },
    /// The visit stands here.
    Status {
        /// Open, paid or cancelled.
        status: Status,
    },
    /// An earlier correction counts no more.
    Undo {
        /// The earlier correction.
        correction: Uuid,
    },
}

/// Why a basket cannot be made to be so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing would change.
    #[error("the basket is so already")]
    Nothing,
    /// There is no line of this product.
    #[error("the basket has no line of product {0}")]
    NoLine(i64),
    /// New pieces need a price where the line has none.
    #[error("the line of product {0} is empty, so new pieces need a price")]
    NoPrice(i64),
    /// More pieces than a line may have.
    #[error("a line has at most {PIECES_MAX} pieces")]
    TooMany,
    /// A price below zero.
    #[error("a price must not be below 0")]
    NegativePrice,
    /// The total would be below zero.
    #[error("the total would be {0}, and it must not be below 0")]
    NegativeTotal(Money),
    /// Only the service itself finds a basket to be abandoned.
    #[error("a basket is made open, paid or cancelled by a person")]
    NoStatus,
    /// The basket has no such correction.
    #[error("the basket has no correction {0}")]
    NoCorrection(Uuid),
    /// The correction was undone before.
    #[error("correction {0} was undone already")]
    Undone(Uuid),
}

impl PlanError {
    /// The stable word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing_to_change",
            Self::NoLine(_) => "no_line",
            Self::NoPrice(_) => "no_price",
            Self::TooMany => "too_many_pieces",
            Self::NegativePrice => "negative_price",
            Self::NegativeTotal(_) => "negative_total",
            Self::NoStatus => "no_status",
            Self::NoCorrection(_) => "no_correction",
            Self::Undone(_) => "already_undone",
        }
    }
}

impl Basket {
    /// All corrections, in the order of the journal.
    pub fn corrections(&self) -> &[Recorded<Correction>] {
        &self.corrections
    }

    /// Whether a correction counts, and was not undone.
    pub fn counts(&self, correction: Uuid) -> bool {
        self.counting().iter().any(|counting| counting.event.id == correction)
    }

    /// The corrections that count, in the order of the journal. A correction is undone by a later one that counts.
    pub(super) fn counting(&self) -> Vec<&Recorded<Correction>> {
        let mut undone: HashSet<Uuid> = HashSet::new();
        let mut counting = Vec::new();
        for correction in self.corrections.iter().rev() {
            if undone.contains(&correction.event.id) {
                continue;
            }
            for change in &correction.event.changes {
                if let Change::Undo { correction } = change {
                    undone.insert(*correction);
                }
            }
            counting.push(correction);
        }
        counting.reverse();
        counting
    }

    /// The differences that make the basket, as it is now, what a person wants.
    ///
    /// # Errors
    /// [`PlanError`] where there is nothing to change, or it makes no sense.
    pub fn plan(&self, asked: &Asked) -> Result<Vec<Change>, PlanError> {
        let state = self.state();
        let line = |product_id: i64| {
            let place = state.line_of.get(&product_id);
            place
                .map(|place| &state.lines[*place])
                .ok_or(PlanError::NoLine(product_id))
        };
        let changes = match *asked {
            Asked::Quantity {
                product_id,
                quantity,
                price,
            } => pieces(line(product_id)?, quantity, price)?,
            Asked::Price { product_id, price } => {
                if price.is_negative() {
                    return Err(PlanError::NegativePrice);
                }
                let lots = line(product_id)?.lots.iter();
                let lots = lots.filter(|lot| lot.price != price && lot.quantity > 0);
                lots.map(|lot| Change::Price {
                    product_id,
                    from: lot.price,
                    to: price,
                    pieces: lot.quantity,
                })
                .collect()
            }
            Asked::Adjustment { by } => {
                let total = state.total + by;
                if total.is_negative() && by.is_negative() {
                    return Err(PlanError::NegativeTotal(total));
                }
                Vec::from_iter((by != Money::ZERO).then_some(Change::Total { by }))
            }
            Asked::Status { status } => {
                if status == Status::Abandoned {
                    return Err(PlanError::NoStatus);
                }
                let from = self.status();
                Vec::from_iter((from != status).then_some(Change::Status { from, to: status }))
            }
            Asked::Undo { correction } => {
                if self.corrections.iter().all(|known| known.event.id != correction) {
                    return Err(PlanError::NoCorrection(correction));
                }
                if !self.counts(correction) {
                    return Err(PlanError::Undone(correction));
                }
                vec![Change::Undo { correction }]
            }
        };
        if changes.is_empty() {
            return Err(PlanError::Nothing);
        }
        Ok(changes)
    }
}

/// Pieces that come or leave so that a line has this many; the newest leave first.
fn pieces(line: &Line, quantity: u64, price: Option<Money>) -> Result<Vec<Change>, PlanError> {
    let product_id = line.product_id;
    if quantity > PIECES_MAX {
        return Err(PlanError::TooMany);
    }
    if price.is_some_and(Money::is_negative) {
        return Err(PlanError::NegativePrice);
    }
    let signed = |pieces: u64| i64::try_from(pieces).unwrap_or(i64::MAX);
    if quantity > line.quantity {
        let price = price.or(line.lots.last().map(|lot| lot.price));
        return Ok(vec![Change::Pieces {
            product_id,
            price: price.ok_or(PlanError::NoPrice(product_id))?,
            by: signed(quantity - line.quantity),
        }]);
    }
    let mut left = line.quantity - quantity;
    let mut changes = Vec::new();
    for lot in line.lots.iter().rev() {
        let taken = left.min(lot.quantity);
        if taken > 0 {
            changes.push(Change::Pieces {
                product_id,
                price: lot.price,
                by: -signed(taken),
            });
        }
        left -= taken;
    }
    Ok(changes)
}
