//! Answers: one JSON object with a result or an error, and the values that resources are made of.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// A value of a model or of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A JSON text of a string, a number, true, false or null, as it is; anything else is wrapped, as the protocol demands.
    Json(String),
    /// Another resource, which is loaded and followed with this one.
    Reference(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(json) if json.starts_with(['{', '[']) => write!(f, "{{\"data\":{json}}}"),
            Self::Json(json) => f.write_str(json),
            // Names of resources need no escapes.
            Self::Reference(name) => write!(f, "{{\"rid\":\"{name}\"}}"),
        }
    }
}

/// Why a request is not done; it then had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word: the protocol's own begin with `system.`
    pub code: String,
    /// What it is, for people.
    pub message: String,
    /// What else helps, as JSON.
    pub data: Option<String>,
    /// The status of the HTTP request that ends here, where there is one.
    pub status: Option<u16>,
}

impl Failure {
    /// A failure of this code.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            data: None,
            status: None,
        }
    }

    /// There is no such resource, or none for this caller.
    pub fn not_found() -> Self {
        Self::new("system.notFound", "Not found")
    }

    /// The resource has no such method.
    pub fn method_not_found() -> Self {
        Self::new("system.methodNotFound", "Method not found")
    }

    /// The parameters of a call break this rule.
    pub fn invalid_params(rule: impl Into<String>) -> Self {
        Self::new("system.invalidParams", rule)
    }

    /// The query of a resource breaks this rule.
    pub fn invalid_query(rule: impl Into<String>) -> Self {
        Self::new("system.invalidQuery", rule)
    }

    /// It is our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("system.internalError", message)
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A model: its properties in the order of their names.
    Model(BTreeMap<String, Value>),
    /// A collection, and the normalised query where it depends on one.
    Collection {
        /// Its entries.
        values: Vec<Value>,
        /// The same for all queries that mean the same.
        query: Option<String>,
    },
    /// What came of a call or of an auth request, as JSON.
    Result(String),
    /// Which access a client has: to get, and the methods that it may call.
    Access {
        /// Separated by commas.
        call: String,
    },
    /// It is not done.
    Failure(Failure),
}

impl Answer {
    pub(super) fn payload(self) -> Bytes {
        match self {
            Self::Model(properties) => format!("{{\"result\":{{\"model\":{}}}}}", properties_json(&properties)),
            Self::Collection { values, query } => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                let query = query
                    .map(|query| format!(",\"query\":{}", quoted(&query)))
                    .unwrap_or_default();
                format!("{{\"result\":{{\"collection\":[{}]{query}}}}}", values.join(","))
            }
            Self::Result(json) => format!("{{\"result\":{json}}}"),
            Self::Access { call } if call.is_empty() => "{\"result\":{\"get\":true}}".to_owned(),
            Self::Access { call } => format!("{{\"result\":{{\"get\":true,\"call\":\"{call}\"}}}}"),
            Self::Failure(failure) => {
                let data = failure.data.map(|data| format!(",\"data\":{data}")).unwrap_or_default();
                let message = quoted(&failure.message);
                let meta = failure
                    .status
                    .map(|status| format!(",\"meta\":{{\"status\":{status}}}"));
                format!(
                    "{{\"error\":{{\"code\":\"{}\",\"message\":{message}{data}}}{}}}",
                    failure.code,
                    meta.unwrap_or_default()
                )
            }
        }
        .into()
    }
}

/// The JSON object of properties.
pub fn properties_json(properties: &BTreeMap<String, Value>) -> String {
    let properties: Vec<String> = properties
        .iter()
        .map(|(name, value)| format!("{}:{value}", quoted(name)))
        .collect();
    format!("{{{}}}", properties.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_one_object_of_the_protocols_form() {
        let json = |text: &str| Value::Json(text.to_owned());
        let model = BTreeMap::from([
            ("total".to_owned(), json("1.50")),
            ("lines".to_owned(), json("[{\"a\":1}]")),
            ("by".to_owned(), json("null")),
        ]);
        let values = vec![Value::Reference("ezout.a".to_owned()), json("{\"b\":2}")];
        let failure = Failure {
            data: Some("{\"sequence\":3}".to_owned()),
            ..Failure::new("ezout.moved_on", "it \"moved\" on")
        };
        for (answer, payload) in [
            (
                Answer::Model(model),
                r#"{"result":{"model":{"by":null,"lines":{"data":[{"a":1}]},"total":1.50}}}"#,
            ),
            (
                Answer::Collection {
                    values,
                    query: Some("limit=5".to_owned()),
                },
                r#"{"result":{"collection":[{"rid":"ezout.a"},{"data":{"b":2}}],"query":"limit=5"}}"#,
            ),
            (Answer::Result("null".to_owned()), r#"{"result":null}"#),
            (Answer::Access { call: String::new() }, r#"{"result":{"get":true}}"#),
            (
                Answer::Access { call: "a,b".to_owned() },
                r#"{"result":{"get":true,"call":"a,b"}}"#,
            ),
            (
                Answer::Failure(Failure::not_found()),
                r#"{"error":{"code":"system.notFound","message":"Not found"}}"#,
            ),
            (
                Answer::Failure(failure),
                r#"{"error":{"code":"ezout.moved_on","message":"it \"moved\" on","data":{"sequence":3}}}"#,
            ),
        ] {
            let written = answer.payload();
            assert_eq!(written, payload);
            serde_json::from_slice::<serde_json::Value>(&written).unwrap();
        }
    }
}
