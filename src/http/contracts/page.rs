//! The documents as one page, to read and to try.
//!
//! All of it is in the text that is served; the script only sends what the reader asks for.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Where the reader puts a token. Only the script looks into it: it is in no form that a browser sends or keeps.
const TOKEN: &str = "<p><label>token <input id=\"token\" type=\"password\" autocomplete=\"off\" spellcheck=\"false\" \
                     placeholder=\"ezout token --role support --shop …\"></label>\
                     <p><small>Sent with what is tried here and may take one, and forgotten with the page. \
                     A link that ends with <code>#token=…</code> fills it in.</small>";

/// The page of both documents.
pub(super) fn page(openapi: &Value, asyncapi: &Value) -> String {
    let operations = operations(openapi);
    let mut contents = String::new();
    let mut body = String::new();
    for tag in items(&openapi["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(contents, "<h2>{}</h2><ul>", escaped(name));
        let _ = write!(body, "<h2>{}</h2>{}", escaped(name), prose(&tag["description"]));
        for operation in operations
            .iter()
            .filter(|operation| operation.value["tags"][0] == tag["name"])
        {
            contents.push_str(&operation.entry());
            body.push_str(&operation.section(openapi));
        }
        contents.push_str("</ul>");
    }
    contents.push_str("<h2>Messages</h2><ul>");
    body.push_str("<h2>Messages</h2>");
    body.push_str(&prose(&asyncapi["info"]["description"]));
    for (name, channel) in entries(&asyncapi["channels"]) {
        let address = escaped(text(&channel["address"]));
        let _ = write!(contents, "<li><a href=\"#channel-{name}\"><code>{address}</code></a>");
        body.push_str(&channel_section(asyncapi, name, channel));
    }
    contents.push_str("</ul><h2>Schemas</h2><ul>");
    body.push_str("<h2>Schemas</h2>");
    let mut schemas = map(&openapi["components"]["schemas"]).clone();
    schemas.extend(map(&asyncapi["components"]["schemas"]).clone());
    for (name, schema) in &schemas {
        let _ = write!(contents, "<li><a href=\"#schema-{name}\">{name}</a>");
        let _ = write!(
            body,
            "<section id=\"schema-{name}\"><h3>{name}</h3>{}{}</section>",
            prose(&schema["description"]),
            schema_body(schema)
        );
    }
    contents.push_str("</ul>");
    let info = &openapi["info"];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<link rel=\"stylesheet\" href=\"/docs/page.css\">\n<script src=\"/docs/page.js\" defer></script>\n\
         <nav><p><a href=\"/openapi.json\">openapi.json</a> <a href=\"/asyncapi.json\">asyncapi.json</a></p>{contents}</nav>\n\
         <main><h1>{title} {version}</h1>{summary}{description}{TOKEN}{body}</main>\n</html>\n",
        title = escaped(text(&info["title"])),
        version = escaped(text(&info["version"])),
        summary = prose(&info["summary"]),
        description = prose(&info["description"]),
    )
}

/// A method of a path.
struct Operation<'a> {
    method: String,
    path: &'a str,
    value: &'a Value,
    /// Whether it is at the address that the page is from.
    is_here: bool,
    takes_token: bool,
    /// Whether it is also done without a token, where the service is set up so.
    does_without: bool,
}

fn operations(openapi: &Value) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    for (path, item) in entries(&openapi["paths"]) {
        for (method, value) in entries(item).filter(|(name, _)| *name != "servers") {
            let security = value.get("security").unwrap_or(&openapi["security"]);
            operations.push(Operation {
                method: method.to_uppercase(),
                path,
                value,
                is_here: item["servers"].is_null(),
                takes_token: items(security).any(|one| !one["bearer"].is_null()),
                does_without: items(security).any(|one| map(one).is_empty()),
            });
        }
    }
    operations
}

impl Operation<'_> {
    fn id(&self) -> &str {
        text(&self.value["operationId"])
    }

    fn entry(&self) -> String {
        let (id, method, path) = (self.id(), &self.method, escaped(self.path));
        format!("<li><a href=\"#{id}\"><b>{method}</b> <code>{path}</code></a>")
    }

    fn section(&self, openapi: &Value) -> String {
        let value = self.value;
        let parameters: Vec<&Value> = items(&value["parameters"])
            .map(|parameter| resolved(openapi, parameter))
            .collect();
        let mut html = format!(
            "<section id=\"{}\"><h3><b>{}</b> <code>{}</code></h3><p class=\"summary\">{}{}",
            self.id(),
            self.method,
            escaped(self.path),
            escaped(text(&value["summary"])),
            prose(&value["description"])
        );
        html.push_str(match (self.takes_token, self.does_without) {
            (true, true) => "<p><small>Takes a token, or none where <code>EZOUT_AUTH_ANONYMOUS=append</code>.</small>",
            (true, false) => "<p><small>Needs a token where callers are asked who they are.</small>",
            (false, _) => "",
        });
        if !parameters.is_empty() {
            html.push_str("<h4>Parameters</h4><table>");
            for parameter in &parameters {
                let _ = write!(
                    html,
                    "<tr><td><code>{}</code><small>{}{}</small><td>{}<td>{}",
                    escaped(text(&parameter["name"])),
                    text(&parameter["in"]),
                    if parameter["required"] == true {
                        ", required"
                    } else {
                        ""
                    },
                    kind(&parameter["schema"]),
                    inline(text(&parameter["description"])),
                );
            }
            html.push_str("</table>");
        }
        if !value["requestBody"].is_null() {
            html.push_str("<h4>Body</h4>");
            html.push_str(&prose(&value["requestBody"]["description"]));
            html.push_str(&content(openapi, &value["requestBody"]["content"]));
        }
        if self.is_here {
            html.push_str(&self.form(openapi, &parameters));
        } else {
            html.push_str("<p><small>On the second address, so not to be tried from here.</small>");
        }
        html.push_str("<h4>Answers</h4>");
        for (status, response) in entries(&value["responses"]) {
            let response = resolved(openapi, response);
            let headers: Vec<String> = entries(&response["headers"])
                .map(|(name, header)| {
                    let header = resolved(openapi, header);
                    let description = inline(text(&header["description"]));
                    format!(
                        "<tr><td><code>{name}</code><small>header</small><td>{}<td>{description}",
                        kind(&header["schema"])
                    )
                })
                .collect();
            let _ = write!(
                html,
                "<div class=\"answer s{}\"><p><b>{status}</b> {}</p>",
                &status[..1],
                inline(text(&response["description"]))
            );
            if !headers.is_empty() {
                let _ = write!(html, "<table>{}</table>", headers.concat());
            }
            html.push_str(&content(openapi, &response["content"]));
            html.push_str("</div>");
        }
        html.push_str("</section>");
        html
    }

    /// What is sent by the reader, filled with the first example.
    fn form(&self, openapi: &Value, parameters: &[&Value]) -> String {
        let mut html = format!(
            "<details><summary>Try it</summary><form data-method=\"{}\" data-path=\"{}\"{}>",
            self.method,
            escaped(self.path),
            if self.takes_token { " data-token" } else { "" }
        );
        for parameter in parameters {
            let name = escaped(text(&parameter["name"]));
            let value = shown(&parameter["example"]);
            let _ = write!(
                html,
                "<label>{name} <input name=\"{name}\" data-in=\"{}\" value=\"{}\"></label>",
                text(&parameter["in"]),
                escaped(&value)
            );
        }
        let bodies: Vec<(&str, String)> = entries(&self.value["requestBody"]["content"])
            .map(|(media, content)| {
                let example = entries(&content["examples"]).next().map(|(_, example)| example);
                (
                    media,
                    example.map_or_else(String::new, |example| shown(&resolved(openapi, example)["value"])),
                )
            })
            .collect();
        if !bodies.is_empty() {
            html.push_str("<label>type <select name=\"type\">");
            for (media, body) in &bodies {
                let _ = write!(html, "<option data-body=\"{}\">{media}</option>", escaped(body));
            }
            let _ = write!(
                html,
                "</select></label><textarea rows=\"12\" spellcheck=\"false\">{}</textarea>",
                escaped(&bodies[0].1)
            );
        }
        let answers = entries(&self.value["responses"]["200"]["content"]).count();
        if answers > 1 && bodies.is_empty() {
            html.push_str("<label>accept <select name=\"accept\">");
            for (media, _) in entries(&self.value["responses"]["200"]["content"]) {
                let _ = write!(html, "<option>{media}</option>");
            }
            html.push_str("</select></label>");
        }
        html.push_str(
            "<button>Send</button> <button type=\"button\" hidden>Stop</button><pre hidden></pre></form></details>",
        );
        html
    }
}

/// The forms of a body, each with its examples.
fn content(openapi: &Value, content: &Value) -> String {
    let mut html = String::new();
    for (media, form) in entries(content) {
        let schema = &form["schema"];
        let _ = write!(html, "<p><code>{media}</code> {}", kind(schema));
        if schema["$ref"].is_null() && !schema["description"].is_null() {
            let _ = write!(html, ": {}", inline(text(&schema["description"])));
        }
        let codes: Vec<String> = items(&schema["properties"]["code"]["enum"])
            .map(|code| format!("<a href=\"/problems/{0}\"><code>{0}</code></a>", text(code)))
            .collect();
        if !codes.is_empty() {
            let _ = write!(html, " with the code {}", codes.join(", "));
        }
        for (name, example) in entries(&form["examples"]) {
            html.push_str(&example_block(name, resolved(openapi, example)));
        }
    }
    html
}

fn example_block(name: &str, example: &Value) -> String {
    let summary = example["summary"].as_str().map_or_else(
        || escaped(&name.replace('_', " ")),
        |summary| format!("{}: {}", escaped(&name.replace('_', " ")), escaped(summary)),
    );
    let value = if example["value"].is_null() {
        &example["payload"]
    } else {
        &example["value"]
    };
    format!(
        "<details><summary>Example, {summary}</summary><pre>{}</pre></details>",
        escaped(&shown(value))
    )
}

fn channel_section(asyncapi: &Value, name: &str, channel: &Value) -> String {
    let mut html = format!(
        "<section id=\"channel-{name}\"><h3><code>{}</code></h3><p class=\"summary\">{}{}",
        escaped(text(&channel["address"])),
        escaped(text(&channel["title"])),
        prose(&channel["description"])
    );
    let parameters: Vec<(&str, &Value)> = entries(&channel["parameters"]).collect();
    html.push_str("<h4>Parameters</h4><table>");
    for (name, parameter) in parameters {
        let description = inline(text(&resolved(asyncapi, parameter)["description"]));
        let _ = write!(html, "<tr><td><code>{name}</code><td>{description}");
    }
    html.push_str("</table><h4>Messages</h4>");
    for (name, message) in entries(&channel["messages"]) {
        let message = resolved(asyncapi, message);
        let _ = write!(
            html,
            "<div class=\"answer\"><p><b>{name}</b> {}: {}</p>",
            escaped(text(&message["title"])),
            kind(&message["payload"])
        );
        if !message["headers"].is_null() {
            let _ = write!(html, "<h4>Headers</h4>{}", schema_body(&message["headers"]));
        }
        for example in items(&message["examples"]) {
            html.push_str(&example_block(text(&example["name"]), example));
        }
        html.push_str("</div>");
    }
    html.push_str("</section>");
    html
}

/// A schema in full: its fields, or in one line what it is.
fn schema_body(schema: &Value) -> String {
    let properties = map(&schema["properties"]);
    if properties.is_empty() {
        return format!("<p>{}", kind(schema));
    }
    let mut html = "<table>".to_owned();
    for (name, property) in properties {
        let required = items(&schema["required"]).any(|required| required == name);
        let _ = write!(
            html,
            "<tr><td><code>{}</code>{}<td>{}<td>{}",
            escaped(name),
            if required { "" } else { "<small>optional</small>" },
            kind(property),
            inline(text(&property["description"])),
        );
    }
    html.push_str("</table>");
    html
}

/// What a value of a schema is, in one line.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/components/schemas/"))
    {
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(constant) = schema.get("const") {
        return format!("<code>{}</code>", escaped(&constant.to_string()));
    }
    let joined = |parts: Vec<String>, separator: &str| parts.join(separator);
    if schema["enum"].is_array() {
        let values = items(&schema["enum"]).map(|value| format!("<code>{}</code>", escaped(&shown(value))));
        return joined(values.collect(), " | ");
    }
    if schema["anyOf"].is_array() {
        return joined(items(&schema["anyOf"]).map(kind).collect(), " or ");
    }
    if !schema["contentSchema"].is_null() {
        return format!("text of {}", kind(&schema["contentSchema"]));
    }
    let mut html = match &schema["type"] {
        Value::Array(types) => joined(types.iter().map(|kind| text(kind).to_owned()).collect(), " or "),
        one => text(one).to_owned(),
    };
    if html.is_empty() {
        "object".clone_into(&mut html);
    }
    if !schema["items"].is_null() {
        html = format!("array of {}", kind(&schema["items"]));
    }
    if !map(&schema["properties"]).is_empty() && !schema["items"].is_object() {
        let names: Vec<String> = map(&schema["properties"])
            .iter()
            .map(|(name, property)| format!("<code>{}</code> {}", escaped(name), kind(property)))
            .collect();
        html = format!("{html} of {}", names.join(", "));
    }
    for (word, before) in [
        ("format", ", "),
        ("minimum", ", from "),
        ("exclusiveMinimum", ", above "),
        ("maximum", ", to "),
        ("maxItems", ", at most "),
        ("default", ", else "),
    ] {
        if let Some(value) = schema.get(word) {
            let _ = write!(html, "{before}{}", escaped(&shown(value)));
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let _ = write!(html, " <code>{}</code>", escaped(pattern));
    }
    html
}

/// What a reference within the document leads to; anything else is itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    match pointer.and_then(|pointer| document.pointer(pointer)) {
        Some(target) => resolved(document, target),
        None => value,
    }
}

fn map(value: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    map(value).iter().map(|(name, value)| (name.as_str(), value))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A value as a reader types it: text as it is, nothing for null, the rest as indented JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).expect("a value is JSON"),
    }
}

/// Paragraphs.
fn prose(value: &Value) -> String {
    let mut html = String::new();
    for paragraph in text(value).split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let _ = write!(html, "<p>{}", inline(paragraph));
    }
    html
}

/// Text in which what stands in backticks is code.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (number, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if number % 2 == 1 {
            let _ = write!(html, "<code>{part}</code>");
        } else {
            html.push_str(&part);
        }
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
