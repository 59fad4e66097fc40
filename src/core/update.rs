//! The message on `updates.store.{shop}` that tells of one event and of the basket after it.

use std::fmt::Write as _;

use crate::core::basket::Basket;
use crate::core::event::{Change, JournalEvent, Recorded, original_time};

/// The update's JSON: the twelve original fields in the form that the original service published,
/// then `sequence` and `basket`.
///
/// `quantity` is there where it is not 1. `basket` is the basket as it is after `recorded`, which
/// must be the last event that was applied to it. What the service itself recorded has a word of its
/// own as `action`, `ABANDONED`, and so has a correction, `CORRECTION`; they have the number 0, the journal's time, and no product.
pub fn update_json(recorded: &Recorded<JournalEvent>, basket: &Basket) -> String {
    let state = basket.state();
    let mut json = match &recorded.event {
        JournalEvent::Action(event) => {
            let mut json = event.twelve_fields(&original_time(event.create_time));
            json.pop();
            if event.quantity != 1 {
                let _ = write!(json, ",\"quantity\":{}", event.quantity);
            }
            json
        }
        JournalEvent::Abandonment(_) => own_fields(recorded, "ABANDONED", basket),
        JournalEvent::Correction(correction) => {
            let mut json = own_fields(recorded, "CORRECTION", basket);
            let text = |text: &str| serde_json::Value::from(text).to_string();
            let changes: Vec<String> = correction.changes.iter().map(Change::json).collect();
            let _ = write!(
                json,
                ",\"correction\":{{\"id\":\"{}\",\"author\":{},\"reason\":{},\"changes\":[{}]}}",
                correction.id,
                text(&correction.author),
                text(&correction.reason),
                changes.join(",")
            );
            json
        }
    };
    let claimed = state
        .claimed_total
        .map_or_else(|| "null".to_owned(), |claimed| claimed.to_string());
    let _ = write!(
        json,
        ",\"sequence\":{},\"basket\":{{\"status\":\"{}\",\"item_count\":{},\"total\":{},\"claimed_total\":{claimed},\"verdict\":\"{}\",\"finding_count\":{},\"version\":{}}}}}",
        recorded.sequence,
        basket.status().word(),
        state.item_count,
        state.total,
        verdict_word(basket),
        state.finding_count,
        basket.version(),
    );
    json
}

/// The twelve fields, without the closing brace, of an event that no phone sent.
fn own_fields(recorded: &Recorded<JournalEvent>, action: &str, basket: &Basket) -> String {
    let state = basket.state();
    let shopper = state
        .shopper
        .map_or_else(|| "null".to_owned(), |shopper| format!("\"{shopper}\""));
    format!(
        "{{\"session_id\":\"{}\",\"shop_id\":\"{}\",\"shopper_id\":{shopper},\"action_id\":0,\"create_time\":\"{}\",\"action\":\"{action}\",\"product_name\":null,\"product_id\":null,\"product_price\":null,\"UPC\":null,\"category_id\":null,\"basket_total\":{}",
        basket.id().session,
        basket.id().shop,
        original_time(recorded.recorded_at),
        state.claimed_total.unwrap_or(state.total),
    )
}

/// The word for whether the claimed total is the computed one.
pub fn verdict_word(basket: &Basket) -> &'static str {
    if basket.state().divergence.is_some() {
        "diverged"
    } else {
        "ok"
    }
}
