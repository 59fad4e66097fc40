//! When a basket ended, as its document tells: what was paid belongs to the day of the payment, whatever is corrected later.

use mongodb::bson::{Bson, doc};

use crate::core::basket::Status;

/// An expression for when a basket first came to the status that it has: by the shopper's CHECKOUT or CANCEL, or by a
/// correction that counts. Where neither says so, as for an abandoned one, the time of its last event.
pub(super) fn ended_at() -> Bson {
    let by = |status: Status, word: &str, otherwise: Bson| -> Bson {
        doc! { "$cond": [{ "$eq": ["$status", status.word()] }, word, otherwise] }.into()
    };
    // No action has this word, and so no time.
    let word = by(Status::Paid, "CHECKOUT", by(Status::Cancelled, "CANCEL", Bson::Null));
    let acts = doc! { "$eq": [{ "$toUpper": "$$this.action" }, word] };
    let corrects = doc! { "$and": ["$$this.counts", { "$in": ["$status", "$$this.changes.to"] }] };
    let first = |of: &str, which| {
        let which = doc! { "$filter": { "input": { "$ifNull": [of, []] }, "as": "this", "cond": which } };
        doc! { "$min": { "$map": { "input": which, "as": "this", "in": "$$this.recorded_at" } } }
    };
    let firsts = vec![first("$actions", acts), first("$corrections", corrects)];
    doc! { "$ifNull": [{ "$min": firsts }, "$updated_at"] }.into()
}
