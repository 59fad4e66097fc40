//! Resources of the RES protocol as a client or a gateway keeps them, by the strict reading of its rules.
//!
//! Whatever breaks a rule is an error that says which: real gateways pass over much of it in silence, and clients
//! are then wrong for good.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A resource, as the one who asked for it has it now.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Model(Map<String, Value>),
    Collection(Vec<Value>),
    /// It could not be had, or is gone.
    Error(Value),
}

impl Resource {
    /// Takes the content of a model.
    pub fn model(content: &Value) -> Result<Self, String> {
        let Value::Object(properties) = content else {
            return Err(format!("a model is an object, not {content}"));
        };
        properties.values().try_for_each(check_value)?;
        Ok(Self::Model(properties.clone()))
    }

    /// Takes the content of a collection.
    pub fn collection(content: &Value) -> Result<Self, String> {
        let Value::Array(values) = content else {
            return Err(format!("a collection is an array, not {content}"));
        };
        values.iter().try_for_each(check_value)?;
        Ok(Self::Collection(values.clone()))
    }

    /// One that was deleted.
    pub fn deleted() -> Self {
        Self::Error(json!({ "code": "system.deleted", "message": "Deleted" }))
    }

    /// Sets and deletes properties, and answers those that really changed.
    pub fn change(&mut self, values: &Map<String, Value>) -> Result<Map<String, Value>, String> {
        let Self::Model(properties) = self else {
            return Err("a change of what is no model".to_owned());
        };
        let is_delete = |value: &Value| *value == json!({ "action": "delete" });
        values
            .values()
            .filter(|value| !is_delete(value))
            .try_for_each(check_value)?;
        let mut changed = Map::new();
        for (name, value) in values {
            let before = properties.get(name);
            if is_delete(value) {
                if properties.shift_remove(name).is_some() {
                    changed.insert(name.clone(), value.clone());
                }
            } else if !before.is_some_and(|before| is_same(before, value)) {
                properties.insert(name.clone(), value.clone());
                changed.insert(name.clone(), value.clone());
            }
        }
        Ok(changed)
    }

    /// Inserts a value before the one that is at `index`.
    pub fn add(&mut self, index: &Value, value: &Value) -> Result<(), String> {
        let Self::Collection(values) = self else {
            return Err("an add to what is no collection".to_owned());
        };
        check_value(value)?;
        let index = position(index, values.len() + 1)?;
        values.insert(index, value.clone());
        Ok(())
    }

    /// Takes out the value at `index`.
    pub fn remove(&mut self, index: &Value) -> Result<Value, String> {
        let Self::Collection(values) = self else {
            return Err("a remove from what is no collection".to_owned());
        };
        let index = position(index, values.len())?;
        Ok(values.remove(index))
    }

    /// The resources that it references and that come with it.
    pub fn references(&self) -> Vec<String> {
        let hard = |value: &Value| {
            let is_soft = value["soft"] == true;
            value["rid"].as_str().filter(|_| !is_soft).map(str::to_owned)
        };
        match self {
            Self::Model(properties) => properties.values().filter_map(hard).collect(),
            Self::Collection(values) => values.iter().filter_map(hard).collect(),
            Self::Error(_) => Vec::new(),
        }
    }
}

/// Whether a gateway would take two values for the same: it compares their text.
pub fn is_same(one: &Value, other: &Value) -> bool {
    // Compared as values, objects would be the same in whatever order their members are.
    let texts = [one, other].map(Value::to_string);
    texts[0] == texts[1]
}

/// Checks a model's property or a collection's entry.
///
/// # Errors
/// What is neither a primitive nor a reference nor a data value, such as an array that stands for itself.
pub fn check_value(value: &Value) -> Result<(), String> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(_) => Err(format!("an array that is not wrapped as data: {value}")),
        Value::Object(members) => {
            let names: Vec<&str> = members.keys().map(String::as_str).collect();
            match (&names[..], &value["rid"]) {
                (["data"], _) => Ok(()),
                (["rid"], Value::String(rid)) => check_rid(rid),
                (["rid", "soft"] | ["soft", "rid"], Value::String(rid)) if value["soft"].is_boolean() => check_rid(rid),
                _ => Err(format!(
                    "an object that is no reference and not wrapped as data: {value}"
                )),
            }
        }
    }
}

/// Checks a resource id: parts of printable characters with dots between them, and perhaps a query.
pub fn check_rid(rid: &str) -> Result<(), String> {
    let (name, _) = split_query(rid);
    let is_legal = |part: &str| {
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"*>?".contains(&byte);
        !part.is_empty() && part.bytes().all(legal)
    };
    if name.split('.').all(is_legal) {
        Ok(())
    } else {
        Err(format!("{rid:?} is no resource id"))
    }
}

/// A resource id's name and query.
pub fn split_query(rid: &str) -> (&str, Option<&str>) {
    match rid.split_once('?') {
        Some((name, query)) => (name, Some(query)),
        None => (rid, None),
    }
}

/// Everything that one sees from a resource on, as plain JSON: references are followed, data values unwrapped,
/// soft references stay, and what could not be had is `{"error": …}`. None where the resource is not there.
pub fn tree(resources: &BTreeMap<String, Resource>, rid: &str) -> Option<Value> {
    grow(resources, rid, &mut Vec::new())
}

fn grow<'a>(resources: &'a BTreeMap<String, Resource>, rid: &'a str, path: &mut Vec<&'a str>) -> Option<Value> {
    let resource = resources.get(rid)?;
    if path.contains(&rid) {
        return Some(json!({ "rid": rid }));
    }
    path.push(rid);
    let mut plain = |value: &'a Value| match value {
        Value::Object(members) if members.contains_key("data") => value["data"].clone(),
        Value::Object(_) if value["soft"] != true => {
            let rid = value["rid"].as_str().unwrap_or_default();
            grow(resources, rid, path).unwrap_or_else(|| json!({ "missing": rid }))
        }
        _ => value.clone(),
    };
    let tree = match resource {
        Resource::Model(properties) => {
            let plain = properties.iter().map(|(name, value)| (name.clone(), plain(value)));
            Value::Object(plain.collect())
        }
        Resource::Collection(values) => Value::Array(values.iter().map(&mut plain).collect()),
        Resource::Error(error) => json!({ "error": error }),
    };
    path.pop();
    Some(tree)
}

/// An index into something with so many places.
fn position(index: &Value, places: usize) -> Result<usize, String> {
    index
        .as_u64()
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index < places)
        .ok_or_else(|| format!("index {index} is none of {places}"))
}

mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_a_primitive_a_reference_or_wrapped() {
        let check = |value: Value, expect: bool| assert_eq!(check_value(&value).is_ok(), expect, "{value}");
        check(json!(null), true);
        check(json!(1.5), true);
        check(json!("text"), true);
        check(json!({ "data": [{ "sku": "A" }] }), true);
        check(json!({ "rid": "a.b" }), true);
        check(json!({ "rid": "a.b?start=0&q=a.b", "soft": true }), true);
        check(json!([]), false);
        check(json!({}), false);
        check(json!({ "sku": "A" }), false);
        check(json!({ "data": 1, "rid": "a.b" }), false);
        check(json!({ "rid": "a..b" }), false);
        check(json!({ "rid": "a.*" }), false);
        check(json!({ "rid": 5 }), false);
        check(json!({ "action": "delete" }), false);
    }

    #[test]
    fn a_change_tells_what_really_changed() {
        let mut model = Resource::model(&json!({ "a": 1, "b": { "data": [1] }, "c": null })).unwrap();
        let values = json!({ "a": 1, "b": { "data": [2] }, "c": { "action": "delete" }, "d": { "action": "delete" }, "e": "new" });
        let changed = model.change(values.as_object().unwrap()).unwrap();
        let expected = json!({ "b": { "data": [2] }, "c": { "action": "delete" }, "e": "new" });
        assert_eq!(Value::Object(changed), expected);
        assert_eq!(
            model,
            Resource::model(&json!({ "a": 1, "b": { "data": [2] }, "e": "new" })).unwrap()
        );
        // As text, these differ.
        assert!(!is_same(&json!({ "x": 1, "y": 2 }), &json!({ "y": 2, "x": 1 })));
        assert!(!is_same(&json!(1), &json!(1.0)));
    }

    #[test]
    fn a_change_that_breaks_a_rule_changes_nothing() {
        let before = Resource::model(&json!({ "a": 1 })).unwrap();
        for values in [json!({ "a": 2, "b": [1] }), json!({ "a": 2, "b": { "x": 1 } })] {
            let mut model = before.clone();
            model.change(values.as_object().unwrap()).unwrap_err();
            assert_eq!(model, before);
        }
        let mut list = Resource::collection(&json!([])).unwrap();
        list.change(&Map::new()).unwrap_err();
    }

    #[test]
    fn an_index_is_within_the_collection() {
        let check = |index: Value, can_add: bool, can_remove: bool| {
            let list = Resource::collection(&json!(["a", "b"])).unwrap();
            assert_eq!(list.clone().add(&index, &json!("x")).is_ok(), can_add, "add at {index}");
            assert_eq!(list.clone().remove(&index).is_ok(), can_remove, "remove at {index}");
        };
        check(json!(0), true, true);
        check(json!(1), true, true);
        check(json!(2), true, false);
        check(json!(3), false, false);
        check(json!(-1), false, false);
        check(json!(0.5), false, false);
        check(json!("0"), false, false);
        check(json!(null), false, false);
        let mut model = Resource::model(&json!({})).unwrap();
        model.add(&json!(0), &json!(1)).unwrap_err();
        model.remove(&json!(0)).unwrap_err();
    }

    #[test]
    fn a_tree_follows_references_and_ends() {
        let resources = BTreeMap::from([
            (
                "list".to_owned(),
                Resource::collection(&json!([{ "rid": "m" }, { "rid": "s", "soft": true }, { "rid": "e" }])).unwrap(),
            ),
            (
                "m".to_owned(),
                Resource::model(&json!({ "items": { "data": [1] }, "up": { "rid": "list" } })).unwrap(),
            ),
            ("e".to_owned(), Resource::deleted()),
        ]);
        let expected = json!([
            { "items": [1], "up": { "rid": "list" } },
            { "rid": "s", "soft": true },
            { "error": { "code": "system.deleted", "message": "Deleted" } },
        ]);
        assert_eq!(tree(&resources, "list"), Some(expected));
        assert_eq!(tree(&resources, "other"), None);
        assert_eq!(resources["list"].references(), ["m", "e"]);
    }

    proptest! {
        #[test]
        fn events_made_from_a_list_bring_a_replica_to_it(steps in prop::collection::vec((any::<bool>(), 0usize..20), 0..60)) {
            let mut truth: Vec<Value> = Vec::new();
            let mut replica = Resource::collection(&json!([])).unwrap();
            for (step, (is_add, at)) in steps.into_iter().enumerate() {
                if is_add || truth.is_empty() {
                    let at = at % (truth.len() + 1);
                    truth.insert(at, step.into());
                    replica.add(&at.into(), &step.into()).unwrap();
                } else {
                    let at = at % truth.len();
                    prop_assert_eq!(replica.remove(&at.into()).unwrap(), truth.remove(at));
                }
            }
            prop_assert_eq!(replica, Resource::Collection(truth));
        }
    }
}
