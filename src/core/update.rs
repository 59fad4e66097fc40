//! The message on `updates.store.{shop}` that tells of one event and of the basket after it.

use std::fmt::Write as _;

use crate::core::basket::Basket;
use crate::core::event::{Recorded, original_time};

/// The update's JSON: the twelve original fields in the form that the original service published,
/// then `sequence` and `basket`.
///
/// `quantity` is there where it is not 1. `basket` is the basket as it is after `recorded`, which
/// must be the last event that was applied to it.
pub fn update_json(recorded: &Recorded, basket: &Basket) -> String {
    let event = &recorded.event;
    let state = basket.state();
    let mut json = event.twelve_fields(&original_time(event.create_time));
    json.pop();
    if event.quantity != 1 {
        let _ = write!(json, ",\"quantity\":{}", event.quantity);
    }
    let claimed = state
        .claimed_total
        .map_or_else(|| "null".to_owned(), |claimed| claimed.to_string());
    let _ = write!(
        json,
        ",\"sequence\":{},\"basket\":{{\"status\":\"{}\",\"item_count\":{},\"total\":{},\"claimed_total\":{claimed},\"verdict\":\"{}\",\"finding_count\":{},\"version\":{}}}}}",
        recorded.sequence,
        state.status.word(),
        state.item_count,
        state.total,
        verdict_word(basket),
        state.finding_count,
        basket.version(),
    );
    json
}

/// The word for whether the claimed total is the computed one.
pub fn verdict_word(basket: &Basket) -> &'static str {
    if basket.state().divergence.is_some() {
        "diverged"
    } else {
        "ok"
    }
}
