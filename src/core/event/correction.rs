//! A change to a basket by a person who is not the shopper, recorded as the difference that it made.
//!
//! A correction says by how much, not to what: pieces that came or left at a price, pieces that cost
//! another price now, an amount on top of the total. So later actions of the shopper keep counting, and
//! two corrections of one line add up. What a person asks for is made into such differences by
//! [`Basket::plan`](crate::core::basket::Basket::plan).

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{NAMESPACE, quoted};
use crate::core::basket::Status;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::money::Money;

/// `ce-type` of a correction.
pub const CORRECTION_TYPE: &str = "ezout.checkout.correction.v1";
/// Author of a correction that comes from an edit by hand in the database.
pub const BY_HAND: &str = "database";
/// Longest name of an author, in bytes.
pub const AUTHOR_MAX: usize = 200;
/// Longest reason, in bytes.
pub const REASON_MAX: usize = 1_000;

/// A correction of a basket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// The basket.
    pub basket: BasketId,
    /// The correction's own id, which is its identity in the journal as well.
    pub id: Uuid,
    /// Who made it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Place in the journal of the last event of the basket that the author saw.
    pub base_sequence: u64,
    /// What it changes, in this order.
    pub changes: Vec<Change>,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Pieces came to a line at a price, or left it. Those that leave and are not there at this price leave at the newest.
    Pieces {
        /// The line.
        product_id: i64,
        /// Price of one piece.
        price: Money,
        /// How many came; below 0, how many left.
        by: i64,
    },
    /// Pieces of a line cost another price, as far as they are still there at the one before.
    Price {
        /// The line.
        product_id: i64,
        /// Price of one piece before.
        from: Money,
        /// Price of one piece now.
        to: Money,
        /// How many pieces.
        pieces: u64,
    },
    /// An amount on top of what the pieces cost; below 0, off it.
    Total {
        /// The amount.
        by: Money,
    },
    /// The visit stands elsewhere.
    Status {
        /// Where it stood.
        from: Status,
        /// Where it stands now: open, paid or cancelled.
        to: Status,
    },
    /// An earlier correction counts no more. Where that one undid another, the other counts again.
    Undo {
        /// The earlier correction.
        correction: Uuid,
    },
}

#[derive(Deserialize)]
struct Body<'a> {
    session_id: String,
    shop_id: String,
    correction_id: String,
    author: String,
    reason: String,
    base_sequence: u64,
    #[serde(borrow)]
    changes: Vec<ChangeBody<'a>>,
}

#[derive(Deserialize)]
struct ChangeBody<'a> {
    kind: String,
    product_id: Option<i64>,
    #[serde(borrow)]
    price: Option<&'a RawValue>,
    #[serde(borrow)]
    by: Option<&'a RawValue>,
    #[serde(borrow)]
    from: Option<&'a RawValue>,
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    pieces: Option<u64>,
    correction_id: Option<String>,
}

impl Change {
    /// The word for its kind in documents and messages.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pieces { .. } => "pieces",
            Self::Price { .. } => "price",
            Self::Total { .. } => "total",
            Self::Status { .. } => "status",
            Self::Undo { .. } => "undo",
        }
    }

    /// Its JSON, an object.
    pub fn json(&self) -> String {
        let rest = match self {
            Self::Pieces { product_id, price, by } => {
                format!("\"product_id\":{product_id},\"price\":{price},\"by\":{by}")
            }
            Self::Price {
                product_id,
                from,
                to,
                pieces,
            } => format!("\"product_id\":{product_id},\"from\":{from},\"to\":{to},\"pieces\":{pieces}"),
            Self::Total { by } => format!("\"by\":{by}"),
            Self::Status { from, to } => format!("\"from\":\"{}\",\"to\":\"{}\"", from.word(), to.word()),
            Self::Undo { correction } => format!("\"correction_id\":\"{correction}\""),
        };
        format!("{{\"kind\":\"{}\",{rest}}}", self.word())
    }

    fn parse(body: &ChangeBody<'_>) -> Result<Self, String> {
        let kind = &body.kind;
        let lacks = |field: &str| format!("a change of kind {kind:?} needs {field}");
        let money = |field: &str, value: Option<&RawValue>| {
            let value = value.ok_or_else(|| lacks(field))?;
            Money::parse_sum(value.get()).map_err(|error| format!("{field} of a change {error}"))
        };
        let status = |field: &str, value: Option<&RawValue>| {
            let word = value.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
            word.as_deref().and_then(Status::of).ok_or_else(|| lacks(field))
        };
        let product_id = || body.product_id.ok_or_else(|| lacks("product_id"));
        match kind.as_str() {
            "pieces" => Ok(Self::Pieces {
                product_id: product_id()?,
                price: money("price", body.price)?,
                by: body
                    .by
                    .and_then(|by| by.get().parse().ok())
                    .ok_or_else(|| lacks("by, a whole number"))?,
            }),
            "price" => Ok(Self::Price {
                product_id: product_id()?,
                from: money("from", body.from)?,
                to: money("to", body.to)?,
                pieces: body.pieces.ok_or_else(|| lacks("pieces"))?,
            }),
            "total" => Ok(Self::Total {
                by: money("by", body.by)?,
            }),
            "status" => Ok(Self::Status {
                from: status("from", body.from)?,
                to: status("to", body.to).and_then(|to| {
                    let stands = to != Status::Abandoned;
                    stands.then_some(to).ok_or_else(|| lacks("to: open, paid or cancelled"))
                })?,
            }),
            "undo" => Ok(Self::Undo {
                correction: body
                    .correction_id
                    .as_deref()
                    .and_then(|id| Uuid::try_parse(id).ok())
                    .ok_or_else(|| lacks("correction_id"))?,
            }),
            _ => Err(format!("this version does not know changes of kind {kind:?}")),
        }
    }
}

impl Correction {
    /// Reads what [`canonical`](Self::canonical) wrote.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(Self {
            basket: BasketId {
                shop: ShopId::parse(&body.shop_id).map_err(|error| format!("shop_id {error}"))?,
                session: SessionId::parse(&body.session_id).map_err(|error| format!("session_id {error}"))?,
            },
            id: Uuid::try_parse(&body.correction_id).map_err(|_| "correction_id must be a UUID".to_owned())?,
            author: body.author,
            reason: body.reason,
            base_sequence: body.base_sequence,
            changes: body.changes.iter().map(Change::parse).collect::<Result<_, _>>()?,
        })
    }

    /// The JSON that the journal keeps, and its digest.
    pub fn canonical(&self) -> (String, u128) {
        let mut json = format!(
            "{{\"session_id\":\"{}\",\"shop_id\":\"{}\",\"correction_id\":\"{}\",\"author\":{},\"reason\":{},\"base_sequence\":{},\"changes\":[",
            self.basket.session,
            self.basket.shop,
            self.id,
            quoted(&self.author),
            quoted(&self.reason),
            self.base_sequence
        );
        for (place, change) in self.changes.iter().enumerate() {
            let separator = if place == 0 { "" } else { "," };
            let _ = write!(json, "{separator}{}", change.json());
        }
        json.push_str("]}");
        let digest = Uuid::new_v5(&NAMESPACE, json.as_bytes()).as_u128();
        (json, digest)
    }

    /// The event's `CloudEvents` attributes as NATS headers.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        super::attributes(self.basket, self.id, CORRECTION_TYPE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::JournalEvent;

    fn correction() -> Correction {
        let money = |text| Money::parse(text).unwrap();
        Correction {
            basket: BasketId::parse("123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94")
                .unwrap(),
            id: Uuid::from_u128(7),
            author: "Ada \"the agent\"".to_owned(),
            reason: "scanned\ntwice".to_owned(),
            base_sequence: 12,
            changes: vec![
                Change::Pieces {
                    product_id: 5,
                    price: money("3.5"),
                    by: -2,
                },
                Change::Price {
                    product_id: 5,
                    from: money("3.5"),
                    to: money("3.0001"),
                    pieces: 4,
                },
                Change::Total { by: money("-0.25") },
                Change::Status {
                    from: Status::Abandoned,
                    to: Status::Paid,
                },
                Change::Undo {
                    correction: Uuid::from_u128(6),
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (json, _) = correction().canonical();
        let read = JournalEvent::read(Some(CORRECTION_TYPE), json.as_bytes());
        assert_eq!(read, Ok(JournalEvent::Correction(correction())));
    }

    #[test]
    fn what_is_no_correction_is_told_by_the_field() {
        let (json, _) = correction().canonical();
        for (from, to, told) in [
            ("\"by\":-2", "\"by\":-2.5", "needs by, a whole number"),
            (
                "\"to\":3.0001",
                "\"to\":\"x\"",
                "to of a change must be a decimal number",
            ),
            ("\"pieces\":4", "\"pieces\":null", "needs pieces"),
            ("\"to\":\"paid\"", "\"to\":\"abandoned\"", "open, paid or cancelled"),
            (
                "\"kind\":\"undo\"",
                "\"kind\":\"redo\"",
                "does not know changes of kind \"redo\"",
            ),
            ("\"base_sequence\":12", "\"base_sequence\":-1", "expected u64"),
        ] {
            assert!(json.contains(from), "{from}");
            let error = Correction::parse(json.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
