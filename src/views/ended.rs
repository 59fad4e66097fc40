//! When a basket ended, as its document tells: what was paid belongs to the day of the payment, whatever is corrected later.

use mongodb::bson::{Bson, Document, doc};

use crate::core::basket::Status;

/// An expression for when a basket came to the status that it has: by the shopper's CHECKOUT or CANCEL, by a correction
/// that counts, or, for an abandoned one, when it was found to be. What was before somebody corrected it to another status
/// does not count. Where nothing says when, as after an edit by hand that spoiled the document, it is the time of the last event.
pub(super) fn ended_at() -> Bson {
    let of = |field: &str| doc! { "$cond": [{ "$isArray": field }, field, []] };
    let only = |of: Document, which: Document| doc! { "$filter": { "input": of, "as": "this", "cond": which } };
    let times = |of: Document| doc! { "$map": { "input": of, "as": "this", "in": "$$this.recorded_at" } };
    let word = doc! { "$switch": {
        "branches": [
            { "case": { "$eq": ["$status", Status::Paid.word()] }, "then": "CHECKOUT" },
            { "case": { "$eq": ["$status", Status::Cancelled.word()] }, "then": "CANCEL" },
        ],
        // No action has this word.
        "default": "",
    } };
    let text = doc! { "$cond": [{ "$eq": [{ "$type": "$$this.action" }, "string"] }, "$$this.action", " "] };
    let acts = doc! { "$eq": [{ "$toUpper": text }, "$$word"] };
    let statuses = doc! { "$map": {
        "input": only(of("$$this.changes"), doc! { "$eq": ["$$this.kind", "status"] }),
        "as": "change",
        "in": "$$change.to",
    } };
    // A correction has one change of the status at most.
    let to = |same: &str| {
        doc! { "$let": {
            "vars": { "to": { "$first": statuses.clone() } },
            "in": { "$and": [{ "$eq": ["$$this.counts", true] }, { "$ne": [{ "$type": "$$to" }, "missing"] }, { same: ["$$to", "$status"] }] },
        } }
    };
    let corrections = || of("$corrections");
    let left = doc! { "$max": times(only(corrections(), to("$ne"))) };
    let came = doc! { "$concatArrays": [
        times(only(of("$actions"), acts)),
        times(only(corrections(), to("$eq"))),
    ] };
    let first = doc! { "$let": {
        "vars": { "word": word, "left": left },
        "in": { "$min": only(came, doc! { "$gt": ["$$this", "$$left"] }) },
    } };
    let abandoned = doc! { "$max": times(of("$abandonments")) };
    let by_status = doc! { "$cond": [{ "$eq": ["$status", Status::Abandoned.word()] }, abandoned, first] };
    doc! { "$ifNull": [by_status, "$updated_at"] }.into()
}
