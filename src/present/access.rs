//! Who may see and do what: a client says who it is once, and the gateway keeps what that came to.
//!
//! What a connection is given is the claims of its token, never the token. A gateway knows nothing of their
//! time, so it is told to ask again about a connection when its time is over, when somebody was revoked, and
//! now and then; and each call is looked at once more.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::route::{Resource, Route, SERVICE};
use crate::access::{Access, Identity, Refusal};
use crate::core::id::ShopId;
use crate::core::policy::{Denied, Object, Shops, Verb};
use crate::keys::Refused;
use crate::metrics::Metrics;
use crate::resgate::{Answer, Body, Failure, Gateway, Request};
use crate::views::{Revoked, Rights};

/// The token of a client where nobody is asked who he is.
const ANYBODY: &str = "{\"role\":\"anybody\"}";
/// The cookie that may have a token.
const COOKIE: &str = "ezout_token";
/// How often gateways are told to ask again about every access. Whoever lost a right, and was not told so, sees no more after that.
const ASK_AGAIN: Duration = Duration::from_mins(1);
/// Shops that a token may name to be asked about apart; with more it is all of them.
const SHOPS_MAX: usize = 100;
/// Ends that are known ahead; beyond it [`ASK_AGAIN`] has to do.
const ENDS_MAX: usize = 100_000;
/// Connections that are remembered to have been sent away, so that each is counted once.
const OVER_MAX: usize = 10_000;
/// Names of tokens, and patterns, in one message.
const NAMES_MAX: usize = 500;
/// How often a second one connection may say who it is, and how often at once.
const SAYS_A_SECOND: NonZeroU32 = NonZeroU32::new(2).unwrap();
const SAYS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// The one who asks clients who they are. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    access: Access,
    gateway: Gateway,
    metrics: Arc<Metrics>,
    /// How often each connection has said lately who it is.
    says: DefaultKeyedRateLimiter<String>,
    /// When tokens end, and what they let their bearers see.
    ends: Mutex<BTreeSet<(OffsetDateTime, String)>>,
    sooner: Notify,
    /// Connections that were sent away, and when the token ends that they had.
    over: Mutex<BTreeSet<(OffsetDateTime, String)>>,
}

impl Guard {
    pub(super) fn new(access: Access, gateway: Gateway, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            access,
            gateway,
            metrics,
            says: RateLimiter::keyed(Quota::per_second(SAYS_A_SECOND).allow_burst(SAYS_AT_ONCE)),
            ends: Mutex::default(),
            sooner: Notify::new(),
            over: Mutex::default(),
        }))
    }

    /// What a client may do with what a name stands for.
    pub(super) fn access(&self, route: Option<Route>, request: &Request) -> Answer {
        let Some(Route::Shop(shop, resource)) = route else {
            return Answer::Failure(Failure::not_found());
        };
        let decided = identity(&self.0.access, &request.body()).and_then(|identity| {
            self.decide(&identity, Verb::Look, shop)?;
            Ok(identity)
        });
        match decided {
            Ok(identity) => {
                let methods = resource.methods().iter().filter(|(_, verb)| {
                    // What is not theirs is not offered, and that is no refusal.
                    self.decide(&identity, *verb, shop).is_ok()
                });
                let methods: Vec<&str> = methods.map(|(method, _)| *method).collect();
                Answer::Access {
                    call: methods.join(","),
                }
            }
            Err(refusal) => {
                let body = request.body();
                if let Ok(identity) = identity(&self.0.access, &body) {
                    let access = &self.0.access;
                    access.note_refused(&identity, Verb::Look, Object::Shop(shop), &refusal);
                    let is_over = matches!(refusal, Refusal::Revoked | Refusal::Token(Refused::Expired));
                    if is_over && self.is_first(body.cid, &identity) {
                        self.0.metrics.access_ends.with_label_values(&["resgate"]).inc();
                        if refusal == Refusal::Revoked {
                            access.sent_away(&identity, "resgate", None);
                        }
                    }
                }
                Answer::Failure(self.failure(&refusal, false))
            }
        }
    }

    /// Whether a connection was not sent away before with this token: it goes on asking.
    fn is_first(&self, cid: Option<String>, identity: &Identity) -> bool {
        let (Some(cid), Some(until)) = (cid, identity.expires_at()) else {
            return true;
        };
        let mut over = self.0.over.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = over.insert((until, cid));
        if over.len() > OVER_MAX {
            // The one that is least likely to come again.
            over.pop_first();
        }
        is_first
    }

    /// Looks once more at whoever calls: the answer about the access may be old.
    pub(super) fn call(&self, shop: ShopId, resource: Resource, request: &Request) -> Result<(), Failure> {
        let methods = resource.methods();
        let Some((_, verb)) = methods.iter().find(|(method, _)| *method == request.method()) else {
            // Whether there is such a method is for those to know who may see the resource.
            return self.check(shop, Verb::Look, request);
        };
        self.check(shop, *verb, request)
    }

    fn check(&self, shop: ShopId, verb: Verb, request: &Request) -> Result<(), Failure> {
        identity(&self.0.access, &request.body())
            .and_then(|identity| {
                let decided = self.decide(&identity, verb, shop);
                let access = &self.0.access;
                decided.inspect_err(|refusal| access.note_refused(&identity, verb, Object::Shop(shop), refusal))
            })
            .map_err(|refusal| self.failure(&refusal, false))
    }

    fn decide(&self, identity: &Identity, verb: Verb, shop: ShopId) -> Result<(), Refusal> {
        let now = OffsetDateTime::now_utc();
        self.0.access.decide(identity, verb, Object::Shop(shop), now)
    }

    /// Takes what a client says about who it is, and gives its connection what that comes to, or takes it away.
    pub(super) async fn auth(&self, request: &Request) -> Answer {
        let body = request.body();
        let Some(cid) = body.cid.as_deref().filter(|cid| is_connection(cid)) else {
            return Answer::Failure(Failure::invalid_params("the request names no connection"));
        };
        // To be asked about is nothing that a client does.
        if request.method() != "renew" && self.0.says.check_key(&cid.to_owned()).is_err() {
            self.0.metrics.limited_requests.with_label_values(&["connection"]).inc();
            let detail = "this connection says who it is more often than it may; wait some seconds";
            return Answer::Failure(Failure::new("ezout.too_many_requests", detail));
        }
        let said = match request.method() {
            "jwt" => match body
                .params
                .map(|params| serde_json::from_str::<JwtParams>(params.get()))
            {
                Some(Ok(params)) => Some(params.jwt),
                _ if !self.0.access.asks() => None,
                _ => {
                    let rule = "the parameters are {\"jwt\": the token}";
                    return Answer::Failure(Failure::invalid_params(rule));
                }
            },
            "header" => match bearer(&body) {
                Ok(token) => token.or_else(|| cookie(&body)),
                Err(refusal) => return Answer::Failure(self.failure(&refusal, body.is_http)),
            },
            "cookie" => cookie(&body),
            "renew" => return self.renew(cid, &body).await,
            "logout" => return self.give(cid, None).await,
            _ => return Answer::Failure(Failure::method_not_found()),
        };
        match self.0.access.identify(said.as_deref(), OffsetDateTime::now_utc()).await {
            Ok(identity) => {
                if !body.is_http {
                    self.note_end(&identity);
                }
                self.give(cid, Some(&identity)).await
            }
            // Without a token a client is nobody, which is no failure before it asks for something.
            Err(Refusal::NoToken) => self.give(cid, None).await,
            // Nothing was learned about them, so they stay who they are.
            Err(refusal @ (Refusal::Token(Refused::KeysUnavailable) | Refusal::Unavailable)) => {
                Answer::Failure(self.failure(&refusal, body.is_http))
            }
            Err(refusal) => {
                let failure = self.failure(&refusal, body.is_http);
                match self.give(cid, None).await {
                    Answer::Result(_) => Answer::Failure(failure),
                    other => other,
                }
            }
        }
    }

    /// Looks whether what a connection was given still counts, and takes it away if not.
    async fn renew(&self, cid: &str, body: &Body<'_>) -> Answer {
        let now = OffsetDateTime::now_utc();
        let found = identity(&self.0.access, body);
        match found.and_then(|identity| self.0.access.check(&identity, now)) {
            // One that has expired may be on its way to be replaced, and nothing is to be put over the new one.
            Ok(()) | Err(Refusal::Token(Refused::Expired)) => Answer::Result("null".to_owned()),
            Err(_) => self.give(cid, None).await,
        }
    }

    /// Gives a connection what it is known to be, or nothing.
    async fn give(&self, cid: &str, identity: Option<&Identity>) -> Answer {
        let (token, name) = match identity {
            None | Some(Identity::Anonymous) => ("null".to_owned(), None),
            Some(Identity::Anybody) => (ANYBODY.to_owned(), None),
            Some(Identity::Known(known)) => (known.json(), Some(quoted(known.subject()))),
        };
        match self.0.gateway.give_token(cid, &token, name.as_deref()).await {
            Ok(()) => Answer::Result("null".to_owned()),
            Err(error) => {
                tracing::debug!("{error}");
                Answer::Failure(Failure::internal("the token could not be given; try again"))
            }
        }
    }

    /// What a client is told that may not. What belongs to another shop is told as what does not exist.
    fn failure(&self, refusal: &Refusal, is_http: bool) -> Failure {
        self.0.metrics.refusals.with_label_values(&[refusal.word()]).inc();
        let code = match refusal {
            Refusal::Denied(Denied::Shop) => return Failure::not_found(),
            Refusal::Denied(Denied::Role | Denied::Shopper)
            | Refusal::NoToken
            | Refusal::Revoked
            | Refusal::Token(Refused::Expired) => "system.accessDenied",
            Refusal::Token(Refused::KeysUnavailable) | Refusal::Unavailable => "ezout.unavailable",
            Refusal::Token(_) => "ezout.invalid_token",
        };
        Failure {
            // Over HTTP the request ends here, and its status is that of the API.
            status: is_http.then_some(if code == "ezout.unavailable" { 503 } else { 401 }),
            ..Failure::new(code, refusal.to_string())
        }
    }

    fn note_end(&self, identity: &Identity) {
        let Some(at) = identity.expires_at() else {
            return;
        };
        let patterns = match self.0.access.shops(identity, Verb::Look, OffsetDateTime::now_utc()) {
            // They see nothing that could end.
            Err(Refusal::Denied(_)) => return,
            Ok(Shops::Only(shops)) if shops.len() <= SHOPS_MAX => {
                shops.iter().map(|shop| format!("{SERVICE}.shop.{shop}.>")).collect()
            }
            _ => vec![format!("{SERVICE}.>")],
        };
        let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() < ENDS_MAX {
            ends.extend(patterns.into_iter().map(|pattern| (at, pattern)));
            drop(ends);
            self.0.sooner.notify_one();
        }
    }

    /// What is to be asked about since somebody's time is over, and how long it is until the next.
    fn ended(&self, now: OffsetDateTime) -> (BTreeSet<String>, Option<Duration>) {
        let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = BTreeSet::new();
        while let Some((at, pattern)) = ends.pop_first() {
            if at > now {
                let left = Duration::try_from(at - now).unwrap_or_default();
                ends.insert((at, pattern));
                return (ended, Some(left + Duration::from_millis(1)));
            }
            ended.insert(pattern);
        }
        (ended, None)
    }

    /// Has gateways ask again about those whose time is over or whose rights are others, and now and then without a reason,
    /// for ever. Each process does that by itself: when a token ends is known only to the one that has seen it.
    pub(super) async fn watch(&self) {
        if !self.0.access.asks() {
            return std::future::pending().await;
        }
        let mut rights = self.0.access.changes();
        let mut known = rights.borrow_and_update().clone();
        let mut again = tokio::time::interval(ASK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (mut patterns, left) = self.ended(OffsetDateTime::now_utc());
            let mut subjects = BTreeSet::new();
            if patterns.is_empty() {
                let next_end = async {
                    match left {
                        Some(left) => tokio::time::sleep(left).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = next_end => continue,
                    () = self.0.sooner.notified() => continue,
                    changed = rights.changed() => {
                        if changed.is_err() {
                            return std::future::pending().await;
                        }
                        let now = rights.borrow_and_update().clone();
                        subjects = revoked_since(known.as_deref(), now.as_deref());
                        known = now;
                        patterns.insert(format!("{SERVICE}.>"));
                    }
                    _ = again.tick() => {
                        self.0.says.retain_recent();
                        self.0.says.shrink_to_fit();
                        patterns.insert(format!("{SERVICE}.>"));
                    }
                }
            }
            self.tell(&subjects, &patterns).await;
        }
    }

    async fn tell(&self, subjects: &BTreeSet<String>, patterns: &BTreeSet<String>) {
        let gateway = &self.0.gateway;
        let names: Vec<String> = subjects.iter().map(|subject| quoted(subject)).collect();
        for names in names.chunks(NAMES_MAX) {
            if let Err(error) = gateway.reset_tokens(names, &format!("auth.{SERVICE}.auth.renew")).await {
                tracing::debug!("{error}");
            }
        }
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        for patterns in patterns.chunks(NAMES_MAX) {
            if let Err(error) = gateway.reset_access(patterns).await {
                tracing::debug!("{error}");
            }
        }
    }
}

#[derive(Deserialize)]
struct JwtParams {
    jwt: String,
}

/// Who the gateway says that the client is: what it was given by us.
pub(super) fn identity(access: &Access, body: &Body<'_>) -> Result<Identity, Refusal> {
    match body.token.map(serde_json::value::RawValue::get) {
        // Where nobody is asked, it is still told who it was where somebody else asked.
        None | Some("null" | ANYBODY) if !access.asks() => Ok(Identity::Anybody),
        None | Some("null") => Err(Refusal::NoToken),
        Some(token) => Identity::from_json(token),
    }
}

/// The token of the header `Authorization`.
fn bearer(body: &Body<'_>) -> Result<Option<String>, Refusal> {
    let Some(values) = header(body, "authorization") else {
        return Ok(None);
    };
    match values {
        [value] => crate::access::bearer(value).map(|token| Some(token.to_owned())),
        _ => Err(Refusal::Token(Refused::Malformed(
            "there has to be one header Authorization",
        ))),
    }
}

/// The token of the cookie, unless a page of another origin uses it: a browser sends cookies along whoever asks it to.
fn cookie(body: &Body<'_>) -> Option<String> {
    let is_foreign = match header(body, "origin") {
        None => false,
        Some([origin]) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_none() || host != body.host.as_deref()
        }
        Some(_) => true,
    };
    if is_foreign {
        return None;
    }
    let cookies = header(body, "cookie")?;
    let pairs = cookies.iter().flat_map(|line| line.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    values.next().map(str::to_owned)
}

fn header<'a>(body: &'a Body<'_>, name: &str) -> Option<&'a [String]> {
    let found = body.header.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, values)| values.as_slice())
}

/// Subjects of whom tokens were revoked in between.
fn revoked_since(before: Option<&Rights>, now: Option<&Rights>) -> BTreeSet<String> {
    let Some(now) = now else {
        return BTreeSet::new();
    };
    let is_new =
        |revoked: &Revoked| before.is_none_or(|before| before.revoked.get(revoked) != now.revoked.get(revoked));
    let revoked = now.revoked.keys().filter(|revoked| is_new(revoked));
    revoked
        .filter_map(|revoked| match revoked {
            Revoked::Subject(subject) => Some(subject.clone()),
            // Whose it is is not known: every access is asked about.
            Revoked::Token(_) => None,
        })
        .collect()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a text is the name of a connection as gateways make them. It becomes part of a subject, so nothing else may be in it.
fn is_connection(cid: &str) -> bool {
    cid.len() == 20 && cid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_gateway_makes_names_a_connection() {
        assert!(is_connection("dc2cmhlqmd2tgi8lv4rg"));
        for other in [
            "",
            "dc2cmhlqmd2tgi8lv4r",
            "dc2cmhlqmd2tgi8lv4r.",
            "dc2cmhlqmd2tgi8lv4rz",
            "*",
            ">",
        ] {
            assert!(!is_connection(other), "{other}");
        }
    }

    #[test]
    fn a_cookie_counts_only_for_pages_of_the_same_origin() {
        let body = |origin: Option<&str>, cookie: &str| {
            let mut body = Body {
                host: Some("live.example:8080".to_owned()),
                ..Body::default()
            };
            body.header.insert("Cookie".to_owned(), vec![cookie.to_owned()]);
            if let Some(origin) = origin {
                body.header.insert("Origin".to_owned(), vec![origin.to_owned()]);
            }
            super::cookie(&body)
        };
        let token = Some("a.b.c".to_owned());
        assert_eq!(body(None, "x=1; ezout_token=a.b.c"), token);
        assert_eq!(body(Some("https://live.example:8080"), "ezout_token=a.b.c; y=2"), token);
        assert_eq!(body(Some("https://evil.example"), "ezout_token=a.b.c"), None);
        assert_eq!(body(Some("null"), "ezout_token=a.b.c"), None);
        assert_eq!(body(None, "ezout_token2=a.b.c"), None);
    }
}
