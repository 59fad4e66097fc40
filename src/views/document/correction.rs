//! The form of a correction in a basket's document.

use std::str::FromStr as _;

use mongodb::bson::{Bson, DateTime, Decimal128};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{bson, date, decimal, long, money, time, unsigned};
use crate::core::basket::{Basket, Status};
use crate::core::event::{Change, Correction, Recorded};
use crate::core::id::BasketId;

/// A correction as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectionView {
    /// Place in the journal.
    pub sequence: u64,
    /// When the journal took it.
    pub recorded_at: Option<OffsetDateTime>,
    /// Its id.
    pub id: String,
    /// Who made it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Place in the journal of the last event that the author saw.
    pub base_sequence: u64,
    /// Whether it counts, and was not undone.
    pub counts: bool,
    /// What it changes.
    pub changes: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredCorrection {
    sequence: i64,
    recorded_at: DateTime,
    correction_id: String,
    author: String,
    reason: String,
    base_sequence: i64,
    counts: bool,
    changes: Vec<StoredChange>,
}

/// A change of any kind; each kind has its own of these fields.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredChange {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<Decimal128>,
    /// Pieces or money.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Bson>,
    /// A price or a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Bson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Bson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pieces: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correction_id: Option<String>,
}

impl StoredChange {
    pub(crate) fn of(change: &Change) -> Self {
        let stored = Self {
            kind: change.word().to_owned(),
            ..Self::default()
        };
        match *change {
            Change::Pieces { product_id, price, by } => Self {
                product_id: Some(product_id),
                price: Some(decimal(price)),
                by: Some(Bson::Int64(by)),
                ..stored
            },
            Change::Price {
                product_id,
                from,
                to,
                pieces,
            } => Self {
                product_id: Some(product_id),
                from: Some(decimal(from).into()),
                to: Some(decimal(to).into()),
                pieces: Some(long(pieces)),
                ..stored
            },
            Change::Total { by } => Self {
                by: Some(decimal(by).into()),
                ..stored
            },
            Change::Status { from, to } => Self {
                from: Some(from.word().into()),
                to: Some(to.word().into()),
                ..stored
            },
            Change::Undo { correction } => Self {
                correction_id: Some(correction.to_string()),
                ..stored
            },
        }
    }

    pub(crate) fn restore(self) -> Result<Change, String> {
        let lacks = |field: &str| format!("a stored change of kind {:?} has no {field}", self.kind);
        let amount = |field: &str, value: Option<&Bson>| match value {
            Some(Bson::Decimal128(decimal)) => money(*decimal),
            _ => Err(lacks(field)),
        };
        let status = |field: &str, value: Option<&Bson>| {
            let word = value.and_then(Bson::as_str);
            word.and_then(Status::of).ok_or_else(|| lacks(field))
        };
        let product_id = || self.product_id.ok_or_else(|| lacks("product_id"));
        match self.kind.as_str() {
            "pieces" => Ok(Change::Pieces {
                product_id: product_id()?,
                price: money(self.price.ok_or_else(|| lacks("price"))?)?,
                by: self.by.as_ref().and_then(Bson::as_i64).ok_or_else(|| lacks("by"))?,
            }),
            "price" => Ok(Change::Price {
                product_id: product_id()?,
                from: amount("from", self.from.as_ref())?,
                to: amount("to", self.to.as_ref())?,
                pieces: unsigned(self.pieces.ok_or_else(|| lacks("pieces"))?),
            }),
            "total" => Ok(Change::Total {
                by: amount("by", self.by.as_ref())?,
            }),
            "status" => Ok(Change::Status {
                from: status("from", self.from.as_ref())?,
                to: status("to", self.to.as_ref())?,
            }),
            "undo" => {
                let id = self.correction_id.as_deref().and_then(|id| Uuid::from_str(id).ok());
                Ok(Change::Undo {
                    correction: id.ok_or_else(|| lacks("correction_id"))?,
                })
            }
            other => Err(format!("a stored change is of the unknown kind {other:?}")),
        }
    }
}

impl StoredCorrection {
    pub(super) fn of(recorded: &Recorded<Correction>, counts: bool) -> Self {
        let event = &recorded.event;
        Self {
            sequence: long(recorded.sequence),
            recorded_at: date(recorded.recorded_at),
            correction_id: event.id.to_string(),
            author: event.author.clone(),
            reason: event.reason.clone(),
            base_sequence: long(event.base_sequence),
            counts,
            changes: event.changes.iter().map(StoredChange::of).collect(),
        }
    }

    pub(super) fn restore(self, basket: BasketId) -> Result<Recorded<Correction>, String> {
        let changes = self.changes.into_iter().map(StoredChange::restore);
        let event = Correction {
            basket,
            id: Uuid::from_str(&self.correction_id).map_err(|error| error.to_string())?,
            author: self.author,
            reason: self.reason,
            base_sequence: unsigned(self.base_sequence),
            changes: changes.collect::<Result<_, _>>()?,
        };
        Ok(Recorded {
            sequence: unsigned(self.sequence),
            recorded_at: time(self.recorded_at).ok_or("recorded_at is out of range")?,
            event,
        })
    }

    pub(super) fn view(self) -> Result<CorrectionView, String> {
        let changes = self.changes.into_iter().map(StoredChange::restore);
        Ok(CorrectionView {
            sequence: unsigned(self.sequence),
            recorded_at: time(self.recorded_at),
            id: self.correction_id,
            author: self.author,
            reason: self.reason,
            base_sequence: unsigned(self.base_sequence),
            counts: self.counts,
            changes: changes.collect::<Result<_, _>>()?,
        })
    }
}

/// A change in its stored form.
pub(in crate::views) fn stored_change(change: &Change) -> Bson {
    bson(&StoredChange::of(change))
}

/// A basket's corrections in their stored form.
pub(super) fn stored(basket: &Basket) -> Vec<StoredCorrection> {
    let corrections = basket.corrections().iter();
    corrections
        .map(|recorded| StoredCorrection::of(recorded, basket.counts(recorded.event.id)))
        .collect()
}

/// The same as BSON.
pub(in crate::views) fn corrections(basket: &Basket) -> Vec<Bson> {
    stored(basket).iter().map(bson).collect()
}

impl CorrectionView {
    /// A basket's corrections, as they would be read back if it were what is stored.
    pub(super) fn all(basket: &Basket) -> Vec<Self> {
        let corrections = basket.corrections().iter();
        corrections
            .map(|recorded| Self {
                sequence: recorded.sequence,
                recorded_at: time(date(recorded.recorded_at)),
                id: recorded.event.id.to_string(),
                author: recorded.event.author.clone(),
                reason: recorded.event.reason.clone(),
                base_sequence: recorded.event.base_sequence,
                counts: basket.counts(recorded.event.id),
                changes: recorded.event.changes.clone(),
            })
            .collect()
    }
}
