//! Every kind of caller × every kind of shop × every route and every resource, as the policy says.

use std::collections::BTreeSet;
use std::time::Duration;

use ezout::core::id::ShopId;
use ezout::core::policy::{Caller, Denied, Object, Role, Shops, Verb, decide};
use ezout::http::{self, Door};
use ezout::keys::dev;
use ezout::present;
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::guarded::{Got, Guarded, Stocked, grant};
use crate::support::gateway::Gateway;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{event, session};

/// Somebody, and what is known of them.
struct Who {
    name: String,
    token: Option<String>,
    is: Result<Caller, Stranger>,
}

/// Of whom nothing is known.
#[derive(Clone, Copy, PartialEq)]
enum Stranger {
    NoToken,
    Expired,
    OtherKey,
}

impl Stranger {
    const fn code(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Expired => "token_expired",
            Self::OtherKey => "invalid_token",
        }
    }
}

fn only(shop: &str) -> Shops {
    Shops::Only(BTreeSet::from([ShopId::parse(shop).unwrap()]))
}

/// Everybody, of whom the most are in this shop only.
async fn everybody(guarded: &Guarded, own: &str) -> Vec<Who> {
    let known = |name: String, token: String, role, shops| Who {
        name,
        token: Some(token),
        is: Ok(Caller {
            role,
            shops,
            shopper: None,
        }),
    };
    let mut all: Vec<Who> = Role::ALL
        .into_iter()
        .map(|role| known(role.to_string(), guarded.token(role, &[own]), role, only(own)))
        .collect();
    all.push(known(
        "admin of all".to_owned(),
        guarded.token(Role::Admin, &["*"]),
        Role::Admin,
        Shops::All,
    ));
    all.push(known(
        "shopper of all".to_owned(),
        guarded.sign(&grant("somebody", None, &[])),
        Role::Shopper,
        Shops::All,
    ));
    all.push(known(
        "merchant of none".to_owned(),
        guarded.token(Role::Merchant, &[]),
        Role::Merchant,
        Shops::NONE,
    ));
    // Their token says nothing of what they may do.
    let member = session();
    let rights = guarded.rights().await;
    rights.set_member(&member, Role::Merchant, &[own]).await;
    let token = guarded.sign(&grant(&member, None, &[]));
    let summary = format!("/v1/shops/{own}/summary");
    guarded.caller(Some(token.clone())).get_until(&summary).await;
    all.push(known("member".to_owned(), token, Role::Merchant, only(own)));

    let stranger = |name: &str, token, is| Who {
        name: name.to_owned(),
        token,
        is: Err(is),
    };
    let admin = grant("ada", Some(Role::Admin), &["*"]);
    let now = OffsetDateTime::now_utc();
    let ended = guarded.sign_at(&admin, now - Duration::from_hours(2));
    let other = dev::sign(&guarded.stack.folder().join("other keys"), &admin, now).unwrap();
    all.push(stranger("nobody", None, Stranger::NoToken));
    all.push(stranger("expired", Some(ended), Stranger::Expired));
    all.push(stranger("of another key", Some(other), Stranger::OtherKey));
    all
}

/// What is asked of a route.
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// The status where it is allowed: in a shop that has this, and in one that has nothing.
    found: u16,
    missing: u16,
}

/// A request to a route about this shop; nothing for a route that is not known here.
pub(super) fn request(method: &Method, path: &str, shop: &str, of: &Stocked, number: i64) -> Option<Asked> {
    let filled = path
        .replace("{shop_id}", shop)
        .replace("{shop}", shop)
        .replace("{session}", &of.session)
        .replace("{correction}", &of.correction)
        .replace("{code}", "not_found")
        .replace("{rest}", shop)
        .replace("{id}", "another:1")
        .replace("{file}", "page.css");
    let appended = || Some(event(shop, &session(), number, "ADD", 1, 1.5, 1.5));
    let corrected = || Some(json!({ "author": "Bob", "reason": "matrix", "adjustment": { "by": number } }));
    let (body, found, missing) = match (method.as_str(), path) {
        ("POST", "/publish/{shop_id}" | "/send") => (appended(), 200, 200),
        ("POST", "/v1/shops/{shop}/events") => (appended(), 201, 201),
        ("POST", "/v1/shops/{shop}/sessions/{session}/corrections") => (corrected(), 202, 404),
        (
            "GET",
            "/v1/shops/{shop}/baskets"
            | "/v1/shops/{shop}/summary"
            | "/v1/shops/{shop}/audit"
            | "/v1/shops/{shop}/updates"
            | "/v1/shops/{shop}"
            | "/v1/shops/{shop}/day"
            | "/v1/shops/{shop}/handlings"
            | "/v1/me"
            | "/v1/operations"
            | "/v1/operations/parked"
            | "/v1/operations/corrections"
            | "/problems/{code}"
            | "/"
            | "/sign-in"
            | "/shops/{rest}"
            | "/operations"
            | "/app.js"
            | "/app.css"
            | "/icon.svg"
            | "/config.json"
            | "/docs"
            | "/docs/{file}"
            | "/openapi.json"
            | "/asyncapi.json",
        ) => (None, 200, 200),
        (
            "GET",
            "/v1/shops/{shop}/sessions/{session}/basket"
            | "/v1/shops/{shop}/sessions/{session}/events"
            | "/v1/shops/{shop}/sessions/{session}/explain"
            | "/v1/shops/{shop}/sessions/{session}/corrections"
            | "/v1/shops/{shop}/sessions/{session}/corrections/{correction}",
        ) => (None, 200, 404),
        ("POST", "/v1/shops/{shop}/seen") => (Some(json!({ "sequence": 1 })), 204, 204),
        ("DELETE", "/v1/shops/{shop}/sessions/{session}/handling") => (Some(json!({ "by": "Bob" })), 200, 404),
        ("PUT", "/v1/shops/{shop}") => (Some(json!({ "name": "matrix" })), 200, 200),
        ("PUT", "/v1/shops/{shop}/sessions/{session}/handling") => {
            (Some(json!({ "by": "Bob", "instead": true })), 200, 404)
        }
        // None of this name is there.
        ("GET", "/assets/{file}") => (None, 404, 404),
        ("POST", "/v1/operations/parked/{id}") => (Some(json!({ "decision": "retry", "reason": "matrix" })), 404, 404),
        ("POST", "/dev/token") => {
            let wish = json!({ "role": "merchant", "shop": shop, "name": "Mia" });
            (Some(wish), 200, 200)
        }
        _ => return None,
    };
    Some(Asked {
        path: filled,
        body,
        found,
        missing,
    })
}

/// Which shop a row is about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Which {
    Own,
    /// Of somebody else, with data.
    Other,
    /// One that there is not.
    Missing,
    /// The own one, with the session of the other.
    Crossed,
    /// A name that stands for all in other places.
    Star,
}

const WHICH: [Which; 5] = [Which::Own, Which::Other, Which::Missing, Which::Crossed, Which::Star];

/// The own shop and one of somebody else, both with data.
async fn shops(guarded: &Guarded) -> (Stocked, Stocked) {
    let (own, other) = (session(), session());
    let named = |kind: &str| format!("{kind}-{}", session());
    (
        guarded.shop_with(&own, &named("own")).await,
        guarded.shop_with(&other, &named("foreign")).await,
    )
}

/// Status and, of a refusal, code.
fn expected(who: &Who, door: Door, which: Which, shop: &str, asked: &Asked) -> (u16, &'static str) {
    if door == Door::Open {
        return (asked.found, "");
    }
    let caller = match &who.is {
        Err(stranger) => return (401, stranger.code()),
        Ok(caller) => caller,
    };
    let verb = match door {
        Door::Shop(verb) | Door::Body(verb) => verb,
        Door::System(verb) => {
            return match decide(caller, verb, Object::System) {
                Err(Denied::Role | Denied::Shopper) => (403, "forbidden"),
                Err(Denied::Shop) => (404, "not_found"),
                Ok(()) => (asked.found, ""),
            };
        }
        Door::Open | Door::Known => return (asked.found, ""),
    };
    let Ok(id) = ShopId::parse(shop) else {
        let code = if matches!(door, Door::Body(_)) {
            "invalid_event"
        } else {
            "invalid_shop"
        };
        return (422, code);
    };
    match decide(caller, verb, Object::Shop(id)) {
        Err(Denied::Role | Denied::Shopper) => (403, "forbidden"),
        Err(Denied::Shop) => (404, "not_found"),
        Ok(()) if matches!(which, Which::Own | Which::Other) => (asked.found, ""),
        Ok(()) if asked.missing == 404 => (404, "not_found"),
        Ok(()) => (asked.missing, ""),
    }
}

#[tokio::test]
async fn every_caller_at_every_route_gets_what_the_policy_says() {
    let guarded = Guarded::shared().await;
    let (own, other) = shops(guarded).await;
    let (mut number, mut rows) = (1, 0);
    let mut wrong = Vec::new();
    for who in everybody(guarded, &own.shop).await {
        let caller = guarded.caller(who.token.clone());
        for (method, path, door) in http::doors() {
            let mut foreign: Option<Got> = None;
            for which in WHICH {
                let nothing = Stocked {
                    shop: session(),
                    ..other.clone()
                };
                let (shop, of) = match which {
                    Which::Own => (own.shop.as_str(), &own),
                    Which::Other => (other.shop.as_str(), &other),
                    Which::Missing => (nothing.shop.as_str(), &nothing),
                    Which::Crossed => (own.shop.as_str(), &other),
                    Which::Star => ("*", &other),
                };
                number += 1;
                let asked = request(&method, &path, shop, of, number)
                    .unwrap_or_else(|| panic!("{method} {path} is not in this test; say what is asked of it"));
                let mut request = caller.request(method.clone(), &asked.path);
                if let Some(body) = &asked.body {
                    request = request.json(body);
                }
                let got = Got::of(request).await;
                rows += 1;
                let what = format!("{} at {method} {path}, {which:?}", who.name);
                let wanted = expected(&who, door, which, shop, &asked);
                let code = if wanted.1.is_empty() { String::new() } else { got.code() };
                if (got.status, code.as_str()) != wanted {
                    wrong.push(format!("{what}: {wanted:?} was expected and not {got:?}"));
                }
                let sees_other =
                    matches!(&who.is, Ok(caller) if caller.role.may(Verb::Look) && caller.shops == Shops::All);
                if !(sees_other && (which == Which::Other || matches!(door, Door::System(_)))) {
                    got.has_none_of(&other.secrets(), &what);
                }
                match which {
                    Which::Other if got.status == 404 => foreign = Some(got),
                    // Nothing tells a shop of somebody else from none at all.
                    Which::Missing if foreign.is_some() => {
                        assert_eq!(foreign.take().as_ref().map(Got::whole), Some(got.whole()), "{what}");
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("the matrix of routes has {rows} rows");
}

#[tokio::test]
async fn another_method_of_a_route_opens_no_door() {
    let guarded = Guarded::shared().await;
    let (_, other) = shops(guarded).await;
    let merchant = guarded.caller(Some(guarded.token(Role::Merchant, &[])));
    for caller in [guarded.caller(None), merchant] {
        for (method, path, door) in http::doors() {
            let asked = request(&method, &path, &other.shop, &other, 1).unwrap();
            for another in [
                Method::HEAD,
                Method::PUT,
                Method::DELETE,
                Method::PATCH,
                Method::OPTIONS,
            ] {
                let got = Got::of(caller.request(another.clone(), &asked.path)).await;
                let what = format!("{another} {path}");
                // Who they are themselves they may know.
                let is_open = matches!(door, Door::Open | Door::Known) && another == Method::HEAD;
                assert!(is_open || (400..500).contains(&got.status), "{what}: {got:?}");
                got.has_none_of(&other.secrets(), &what);
                assert!(is_open || got.headers.get("etag").is_none(), "{what}: {got:?}");
            }
        }
    }
}

/// A client of resources.
pub(super) trait Client {
    async fn connect(url: &str) -> Self;
    async fn get(&self, rid: &str) -> Result<Value, Value>;
    async fn invoke(&self, rid: &str, method: &str, params: Value) -> Result<Value, Value>;
    async fn say(&self, method: &str, params: Value) -> Result<Value, Value>;
    /// Why a subscription was taken away, if it was.
    fn lost(&self, rid: &str) -> Option<String>;
    fn sees(&self, rid: &str) -> Option<Value>;
    /// Everything that it was told, as text.
    fn heard(&self) -> String;
}

impl Client for Gateway {
    async fn connect(url: &str) -> Self {
        Self::connect(url).await
    }
    async fn get(&self, rid: &str) -> Result<Value, Value> {
        self.subscribe(rid).await
    }
    async fn invoke(&self, rid: &str, method: &str, params: Value) -> Result<Value, Value> {
        self.call(rid, method, params).await
    }
    async fn say(&self, method: &str, params: Value) -> Result<Value, Value> {
        self.auth("ezout.auth", method, params).await
    }
    fn lost(&self, rid: &str) -> Option<String> {
        let told = self.told();
        let mut ends = told
            .iter()
            .filter(|told| told.rid == rid && told.event == "unsubscribe");
        ends.next_back()
            .map(|end| end.data["reason"]["code"].as_str().unwrap_or_default().to_owned())
    }
    fn sees(&self, rid: &str) -> Option<Value> {
        self.tree(rid)
    }
    fn heard(&self) -> String {
        format!("{:?}", self.told())
    }
}

impl Client for ResClient {
    async fn connect(url: &str) -> Self {
        Self::connect(url).await
    }
    async fn get(&self, rid: &str) -> Result<Value, Value> {
        self.subscribe(rid).await
    }
    async fn invoke(&self, rid: &str, method: &str, params: Value) -> Result<Value, Value> {
        self.call(rid, method, params).await
    }
    async fn say(&self, method: &str, params: Value) -> Result<Value, Value> {
        self.auth("ezout.auth", method, params).await
    }
    fn lost(&self, rid: &str) -> Option<String> {
        self.lost(rid)
    }
    fn sees(&self, rid: &str) -> Option<Value> {
        self.tree(rid)
    }
    fn heard(&self) -> String {
        format!("{:?}", self.frames())
    }
}

/// The rest of a resource's name, and what it is where there is nothing: some answer, or none.
pub(super) fn resource(word: &str, of: &Stocked) -> Option<(String, bool)> {
    match word {
        "baskets" | "summary" | "sessions" | "feed" => Some((word.to_owned(), true)),
        "basket" => Some((format!("basket.{}", of.session), false)),
        _ => None,
    }
}

pub(super) fn params(word: &str, method: &str, number: i64) -> Option<Value> {
    match (word, method) {
        ("basket", "handle") => Some(json!({ "by": "Bob", "instead": true })),
        ("basket", "correct") => Some(json!({ "author": "Bob", "reason": "matrix", "adjustment": { "by": number } })),
        _ => None,
    }
}

/// What comes of it: nothing where it is allowed and there, or else the code.
fn wanted(who: &Who, verb: Verb, shop: &str, is_there: bool) -> Option<&'static str> {
    let Ok(caller) = &who.is else {
        return Some("system.accessDenied");
    };
    let object = Object::Shop(ShopId::parse(shop).unwrap());
    // Who may not see it is told nothing of its methods.
    match decide(caller, Verb::Look, object).and_then(|()| decide(caller, verb, object)) {
        Err(Denied::Role | Denied::Shopper) => Some("system.accessDenied"),
        Ok(()) if is_there => None,
        Ok(()) | Err(Denied::Shop) => Some("system.notFound"),
    }
}

async fn every_caller_at_every_resource<C: Client>(url: &str) {
    let guarded = Guarded::shared().await;
    let (own, other) = shops(guarded).await;
    let (mut number, mut rows) = (1, 0);
    for who in everybody(guarded, &own.shop).await {
        let client = C::connect(url).await;
        if let Some(token) = &who.token {
            let said = client.say("jwt", json!({ "jwt": token })).await;
            let code = match who.is {
                Ok(_) | Err(Stranger::NoToken) => None,
                Err(Stranger::Expired) => Some("system.accessDenied"),
                Err(Stranger::OtherKey) => Some("ezout.invalid_token"),
            };
            let got = said.err();
            assert_eq!(
                got.as_ref().map(|error| error["code"].as_str().unwrap()),
                code,
                "{}",
                who.name
            );
        }
        let mut foreign_errors = Vec::new();
        for which in [Which::Own, Which::Other, Which::Missing] {
            let nothing = Stocked {
                shop: session(),
                ..other.clone()
            };
            let of = match which {
                Which::Own => &own,
                Which::Other => &other,
                _ => &nothing,
            };
            let has_data = which != Which::Missing;
            let mut errors = Vec::new();
            for (word, methods) in present::resources() {
                let (rest, is_always) = resource(word, of)
                    .unwrap_or_else(|| panic!("the resource {word} is not in this test; say what its name is"));
                let rid = format!("ezout.shop.{}.{rest}", of.shop);
                let got = client.get(&rid).await;
                rows += 1;
                let code = got.as_ref().err().map(|error| error["code"].as_str().unwrap());
                let what = format!("{} at {word}, {which:?}", who.name);
                assert_eq!(
                    code,
                    wanted(&who, Verb::Look, &of.shop, has_data || is_always),
                    "{what}: {got:?}"
                );
                errors.extend(got.err());
                for (method, verb) in methods {
                    number += 1;
                    let params = params(word, method, number).unwrap_or_else(|| {
                        panic!("the method {method} of {word} is not in this test; say how it is called")
                    });
                    let got = client.invoke(&rid, method, params).await;
                    rows += 1;
                    let code = got.as_ref().err().map(|error| error["code"].as_str().unwrap());
                    let what = format!("{} calls {method} of {word}, {which:?}", who.name);
                    assert_eq!(code, wanted(&who, *verb, &of.shop, has_data), "{what}: {got:?}");
                    errors.extend(got.err());
                }
            }
            match which {
                Which::Other => foreign_errors = errors,
                // Nothing tells a shop of somebody else from none at all.
                Which::Missing if !foreign_errors.is_empty() => assert_eq!(foreign_errors, errors, "{}", who.name),
                _ => {}
            }
        }
        let heard = client.heard();
        let sees_other = matches!(&who.is, Ok(caller) if caller.role.may(Verb::Look) && caller.shops == Shops::All);
        let shows = other.secrets().iter().any(|secret| heard.contains(secret));
        assert!(sees_other || !shows, "{} was told {heard}", who.name);
    }
    eprintln!("the matrix of resources has {rows} rows");
}

#[tokio::test]
async fn every_caller_at_every_resource_gets_what_the_policy_says() {
    let guarded = Guarded::shared().await;
    every_caller_at_every_resource::<Gateway>(&guarded.stack.nats.url()).await;
}

#[tokio::test]
async fn every_caller_at_every_resource_gets_the_same_through_resgate() {
    let guarded = Guarded::shared().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    every_caller_at_every_resource::<ResClient>(&resgate.url()).await;
}
