//! How corrections are shown: what was asked for in the form in which it is asked, and what became of it.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::core::basket::{Asked, Since};
use crate::core::event::{Change, rfc3339};
use crate::views::json::Exact;
use crate::views::{Filed, Standing};

#[derive(Serialize)]
pub(in crate::http) struct FiledJson<'a> {
    id: String,
    shop_id: String,
    session_id: String,
    state: &'static str,
    source: &'static str,
    author: &'a str,
    reason: &'a str,
    base_sequence: Option<u64>,
    created_at: String,
    asked: Option<AskedJson>,
    sequence: Option<u64>,
    changes: Option<Vec<Box<RawValue>>>,
    rejection: Option<RejectionJson<'a>>,
}

#[derive(Serialize)]
struct RejectionJson<'a> {
    code: &'a str,
    reason: &'a str,
}

/// One field, which has the name of the kind.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum AskedJson {
    Quantity {
        product_id: i64,
        quantity: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        price: Option<Exact>,
    },
    Price {
        product_id: i64,
        price: Exact,
    },
    Adjustment {
        by: Exact,
    },
    Status {
        to: &'static str,
    },
    Undo {
        correction_id: String,
    },
}

impl AskedJson {
    fn of(asked: &Asked) -> Self {
        match *asked {
            Asked::Quantity {
                product_id,
                quantity,
                price,
            } => Self::Quantity {
                product_id,
                quantity,
                price: price.map(Exact),
            },
            Asked::Price { product_id, price } => Self::Price {
                product_id,
                price: Exact(price),
            },
            Asked::Adjustment { by } => Self::Adjustment { by: Exact(by) },
            Asked::Status { status } => Self::Status { to: status.word() },
            Asked::Undo { correction } => Self::Undo {
                correction_id: correction.to_string(),
            },
        }
    }
}

impl<'a> FiledJson<'a> {
    /// A correction, and whether its basket is known to hold it.
    pub(in crate::http) fn of(filed: &'a Filed, applied: bool) -> Self {
        let json = |change: &Change| RawValue::from_string(change.json()).expect("a change is JSON");
        let (state, sequence, changes, rejection) = match &filed.standing {
            Standing::New => ("new", None, None, None),
            Standing::Published { sequence, changes } => {
                let state = if applied { "applied" } else { "published" };
                let changes = changes.iter().map(json).collect();
                (state, Some(*sequence), Some(changes), None)
            }
            Standing::Rejected { code, reason } => ("rejected", None, None, Some(RejectionJson { code, reason })),
        };
        let planned = filed.planned.as_ref().map(|plan| plan.base_sequence);
        Self {
            id: filed.id.to_string(),
            shop_id: filed.basket.shop.to_string(),
            session_id: filed.basket.session.to_string(),
            state,
            source: filed.source.word(),
            author: &filed.author,
            reason: &filed.reason,
            base_sequence: filed.base_sequence.or(planned),
            created_at: rfc3339(filed.created_at),
            asked: filed.asked.as_ref().map(AskedJson::of),
            sequence,
            changes,
            rejection,
        }
    }
}

#[derive(Serialize)]
struct ChangedJson<'a> {
    since: u64,
    events: usize,
    status: Option<Moved<&'static str>>,
    total: Option<Moved<Exact>>,
    lines: Vec<ChangedLineJson<'a>>,
}

#[derive(Serialize)]
struct ChangedLineJson<'a> {
    product_id: i64,
    product_name: Option<&'a str>,
    quantity: Moved<u64>,
    amount: Moved<Exact>,
}

/// What was so, and is so now.
#[derive(Serialize)]
struct Moved<T> {
    from: T,
    to: T,
}

/// What became otherwise in a basket since its author saw it.
pub(super) fn changed_json(since: &Since) -> Box<RawValue> {
    let lines = since.lines.iter().map(|line| ChangedLineJson {
        product_id: line.product_id,
        product_name: line.product_name.as_deref(),
        quantity: Moved {
            from: line.quantity.0,
            to: line.quantity.1,
        },
        amount: Moved {
            from: Exact(line.amount.0),
            to: Exact(line.amount.1),
        },
    });
    let json = ChangedJson {
        since: since.place,
        events: since.events,
        status: since.status.map(|(from, to)| Moved {
            from: from.word(),
            to: to.word(),
        }),
        total: since.total.map(|(from, to)| Moved {
            from: Exact(from),
            to: Exact(to),
        }),
        lines: lines.collect(),
    };
    serde_json::value::to_raw_value(&json).expect("what differs is JSON")
}
