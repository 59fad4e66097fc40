//! What a service says, read strictly: what a gateway would pass over, or take for something else, is a fault.

use serde_json::{Map, Value};

use super::super::res::Resource;

/// What came to the inbox of a request.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// The answer takes longer, at most so many milliseconds from now on.
    Later(u64),
    Result(Value),
    /// The id of a resource.
    Resource(Value),
    Error(Value),
}

/// Reads a reply.
///
/// # Errors
/// What is no reply. A gateway would answer its client with an error, or wait in vain.
pub fn reply(payload: &[u8]) -> Result<Reply, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "a reply that is not UTF-8".to_owned())?;
    if let Some(rest) = text.strip_prefix("timeout:\"") {
        let milliseconds = rest.strip_suffix('"').and_then(|number| number.parse().ok());
        return milliseconds
            .map(Reply::Later)
            .ok_or_else(|| format!("a pre-response without a time: {text}"));
    }
    if !text.starts_with('{') {
        return Err(format!("a reply that does not start with a brace: {text:?}"));
    }
    let mut members = object(payload)?;
    members.shift_remove("meta");
    let only = members.iter().next().filter(|_| members.len() == 1);
    match only.map(|(name, value)| (name.as_str(), value)) {
        Some(("result", value)) => Ok(Reply::Result(value.clone())),
        Some(("resource", value)) if value["rid"].is_string() => Ok(Reply::Resource(value["rid"].clone())),
        Some(("error", value)) if value["code"].is_string() && value["message"].is_string() => {
            Ok(Reply::Error(value.clone()))
        }
        _ => Err(format!("a reply that is not one of result, resource and error: {text}")),
    }
}

/// Reads the result of a get: the resource, and its query in normal form.
///
/// # Errors
/// What is neither a model nor a collection.
pub fn get(result: &Value) -> Result<(Resource, Option<String>), String> {
    let wrong = || format!("an answer to a get that is neither a model nor a collection: {result}");
    let mut members = result.as_object().ok_or_else(wrong)?.clone();
    let query = match members.shift_remove("query") {
        None => None,
        Some(Value::String(query)) => Some(query),
        Some(other) => return Err(format!("a query that is no text: {other}")),
    };
    Ok((content(&members).ok_or_else(wrong)??, query))
}

/// Reads `{"model": …}` or `{"collection": …}`; None where it is neither, or more.
pub fn content(members: &Map<String, Value>) -> Option<Result<Resource, String>> {
    let (name, content) = members.iter().next().filter(|_| members.len() == 1)?;
    match name.as_str() {
        "model" => Some(Resource::model(content)),
        "collection" => Some(Resource::collection(content)),
        _ => None,
    }
}

/// Reads the result of an access request: whether one may get it, and the methods that one may call.
///
/// # Errors
/// What is no such result.
pub fn access(result: &Value) -> Result<(bool, String), String> {
    let wrong = || format!("an answer to an access request that says something else: {result}");
    let members = result.as_object().ok_or_else(wrong)?;
    if members.keys().any(|name| name != "get" && name != "call") {
        return Err(wrong());
    }
    let may_get = match &members.get("get") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(wrong)?,
    };
    let may_call = match &members.get("call") {
        None => "",
        Some(value) => value.as_str().ok_or_else(wrong)?,
    };
    Ok((may_get, may_call.to_owned()))
}

/// Reads an object.
///
/// # Errors
/// What is none.
pub fn object(payload: &[u8]) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(payload).map_err(|_| format!("no JSON object: {:?}", String::from_utf8_lossy(payload)))
}

/// Reads an object that has these members and no others.
///
/// # Errors
/// What is another.
pub fn members<const N: usize>(payload: &[u8], names: [&str; N]) -> Result<[Value; N], String> {
    let mut object = object(payload)?;
    let found = names.map(|name| object.shift_remove(name));
    if found.iter().any(Option::is_none) || !object.is_empty() {
        return Err(format!("not exactly {names:?}: {}", String::from_utf8_lossy(payload)));
    }
    Ok(found.map(Option::unwrap_or_default))
}

/// Whether a pattern of a reset means a resource with this name.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(part)) if wanted == part => {}
            _ => return false,
        }
    }
}

mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reply_is_one_of_three_or_a_promise_of_one() {
        let check =
            |payload: &str, expect: Option<Reply>| assert_eq!(reply(payload.as_bytes()).ok(), expect, "{payload}");
        check("timeout:\"500\"", Some(Reply::Later(500)));
        check(r#"{"result":null}"#, Some(Reply::Result(Value::Null)));
        check(r#"{"result":1,"meta":{"status":403}}"#, Some(Reply::Result(json!(1))));
        check(r#"{"resource":{"rid":"a.b"}}"#, Some(Reply::Resource(json!("a.b"))));
        let error = json!({ "code": "system.notFound", "message": "Not found" });
        check(&json!({ "error": error }).to_string(), Some(Reply::Error(error)));
        for wrong in [
            "",
            "null",
            "true",
            "timeout:500",
            " {\"result\":1}",
            "{}",
            r#"{"result":1,"error":{}}"#,
            r#"{"error":{}}"#,
            r#"{"resource":{}}"#,
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_get_is_answered_with_a_model_or_a_collection() {
        let check = |result: Value, expect: bool| assert_eq!(get(&result).is_ok(), expect, "{result}");
        check(json!({ "model": {} }), true);
        check(json!({ "collection": [], "query": "a=1" }), true);
        check(json!({ "model": null }), false);
        check(json!({ "model": {}, "collection": [] }), false);
        check(json!({ "model": { "a": [] } }), false);
        check(json!({ "collection": [{ "a": 1 }] }), false);
        check(json!({ "collection": [], "query": 1 }), false);
        check(json!({ "query": "a=1" }), false);
        check(json!(null), false);
    }

    #[test]
    fn an_access_answer_says_what_one_may_do() {
        let check = |result: Value, expect: Option<(bool, &str)>| {
            let expect = expect.map(|(get, call)| (get, call.to_owned()));
            assert_eq!(access(&result).ok(), expect, "{result}");
        };
        check(json!({ "get": true, "call": "a,b" }), Some((true, "a,b")));
        check(json!({}), Some((false, "")));
        check(json!({ "get": 1 }), None);
        check(json!({ "get": true, "set": true }), None);
        check(json!(null), None);
    }

    #[test]
    fn a_pattern_means_names_by_their_parts() {
        let check =
            |pattern: &str, name: &str, expect: bool| assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        check("a.b", "a.b", true);
        check("a.>", "a.b.c", true);
        check("a.*", "a.b", true);
        check("*.b", "a.b", true);
        check("a.>", "a", false);
        check("a.*", "a.b.c", false);
        check("a.b", "a.b.c", false);
        check("a.b.c", "a.b", false);
    }
}
