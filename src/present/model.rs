//! What is in a resource: models as properties, and how one differs from the next.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::route::Resource;
use crate::core::event::rfc3339;
use crate::core::id::{BasketId, ShopId};
use crate::resgate::{Value, properties_json};
use crate::views::{BasketView, Handling, Summary};

/// The properties of a model, in the order of their names, so that equal models are equal bytes.
pub(super) type Model = BTreeMap<String, Value>;

/// Most bytes of a basket's lines, findings and corrections together; NATS takes messages of 1 MiB.
const DETAILS_BYTES_MAX: usize = 512 * 1024;
/// What is left out of a basket that is larger than that.
const DETAILS: [&str; 4] = ["corrections", "findings", "lines", "missing"];

/// A basket, as the API shows it, true at its own last event, and who handles it.
pub(super) fn basket(id: BasketId, view: &BasketView, handling: Option<&Handling>) -> Model {
    let mut model = model(&view.json(id, view.sequence));
    // The same as its sequence here.
    model.remove("basket_sequence");
    let bytes = |name: &str| match model.get(name) {
        Some(Value::Json(json)) => json.len(),
        _ => 0,
    };
    let is_large = DETAILS.into_iter().map(bytes).sum::<usize>() > DETAILS_BYTES_MAX;
    if is_large {
        for name in DETAILS {
            model.insert(name.to_owned(), Value::Json("[]".to_owned()));
        }
    }
    model.insert("details_left_out".to_owned(), Value::Json(is_large.to_string()));
    model.extend(handled(handling));
    model
}

/// The properties that say who handles a basket.
pub(super) fn handled(handling: Option<&Handling>) -> [(String, Value); 2] {
    let by = handling.map(|handling| serde_json::to_string(&handling.by).expect("a text is JSON"));
    let until = handling.map(|handling| format!("\"{}\"", rfc3339(handling.until)));
    let value = |json: Option<String>| Value::Json(json.unwrap_or_else(|| "null".to_owned()));
    [
        ("handled_by".to_owned(), value(by)),
        ("handled_until".to_owned(), value(until)),
    ]
}

/// A shop in a few numbers. The place that they are true at is left out: it goes up with what happens in other shops.
pub(super) fn summary(summary: &Summary, day_start: OffsetDateTime) -> Model {
    let mut model = model(&summary.json(0, day_start));
    model.remove("sequence");
    model
}

/// The model of those who only want the updates.
pub(super) fn feed(shop: ShopId) -> Model {
    BTreeMap::from([("shop_id".to_owned(), Value::Json(format!("\"{shop}\"")))])
}

/// The entry of an open basket in the list of them.
pub(super) fn reference(id: BasketId) -> Value {
    Value::Reference(Resource::Basket(id.session).name(id.shop))
}

fn model(json: &str) -> Model {
    let properties: BTreeMap<String, &RawValue> = serde_json::from_str(json).expect("our own JSON is an object");
    properties
        .into_iter()
        .map(|(name, value)| (name, Value::Json(value.get().to_owned())))
        .collect()
}

/// The properties of `now` that are not so in `before`, as JSON; nothing if there are none. A model has the same properties always.
pub(super) fn difference(before: &Model, now: &Model) -> Option<String> {
    let changed: Model = now
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!changed.is_empty()).then(|| properties_json(&changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_other_than_before_is_told() {
        let before = model(r#"{"total":1.50,"lines":[{"a":1}],"status":"open"}"#);
        assert_eq!(difference(&before, &before), None);
        let now = model(r#"{"total":2.00,"lines":[],"status":"open"}"#);
        assert_eq!(
            difference(&before, &now).unwrap(),
            r#"{"lines":{"data":[]},"total":2.00}"#
        );
    }
}
