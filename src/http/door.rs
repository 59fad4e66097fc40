//! Doors: a route is made with what it takes to come through, and there is no other way to make one.
//!
//! A door looks at the token and at the shop in the path, before anything is read, so a caller who may
//! not is answered the same and as fast whatever there is. What belongs to another shop is answered as
//! what does not exist. Who sends a body is asked again when all of it is there.

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::handler::Handler;
use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderMap, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use time::OffsetDateTime;

use super::Api;
use super::problem::{Code, Problem};
use super::serve::Peer;
use super::web;
use crate::access::{self, Identity, Refusal};
use crate::core::id::ShopId;
use crate::core::policy::{Denied, Object, Verb};
use crate::keys::Refused;

/// What it takes to come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Nothing.
    Open,
    /// To be somebody of whom it is known who they are.
    Known,
    /// To be allowed this in the shop that the path names.
    Shop(Verb),
    /// To be allowed this in the shop that the body names, which is asked when it is read.
    Body(Verb),
    /// To be allowed this where it is about no shop, but about all.
    System(Verb),
}

/// A route: how it is reached, what that takes, and who answers.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) door: Door,
    answers: MethodRouter<Api>,
}

impl Route {
    pub(super) fn get<T: 'static>(path: &'static str, door: Door, handler: impl Handler<T, Api>) -> Self {
        Self::of(Method::GET, MethodFilter::GET, path, door, handler)
    }

    pub(super) fn post<T: 'static>(path: &'static str, door: Door, handler: impl Handler<T, Api>) -> Self {
        Self::of(Method::POST, MethodFilter::POST, path, door, handler)
    }

    pub(super) fn put<T: 'static>(path: &'static str, door: Door, handler: impl Handler<T, Api>) -> Self {
        Self::of(Method::PUT, MethodFilter::PUT, path, door, handler)
    }

    pub(super) fn delete<T: 'static>(path: &'static str, door: Door, handler: impl Handler<T, Api>) -> Self {
        Self::of(Method::DELETE, MethodFilter::DELETE, path, door, handler)
    }

    fn of<T: 'static>(
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        door: Door,
        handler: impl Handler<T, Api>,
    ) -> Self {
        Self {
            method,
            path,
            door,
            answers: on(filter, handler),
        }
    }

    /// What answers, behind the door.
    pub(super) fn guarded(self, api: &Api) -> MethodRouter<Api> {
        let door = self.door;
        if door == Door::Open {
            return self.answers;
        }
        let guard = move |State(api): State<Api>, path: ShopPath, request: Request, next: Next| async move {
            pass(&api, door, path, request, next).await
        };
        self.answers
            .route_layer(middleware::from_fn_with_state(api.clone(), guard))
    }
}

/// Counts a request of its address, whatever it asks for, also what is open and what there is not.
pub(super) async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    match peer.map_or(Ok(()), |Peer(peer)| api.limits().address(*peer)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Counts a request that asks whether a page may ask, as any other.
pub(super) async fn count_preflight(api: State<Api>, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        count(api, request, next).await
    } else {
        next.run(request).await
    }
}

/// What a door has let somebody in for.
#[derive(Debug, Clone)]
struct LetIn {
    identity: Identity,
    verb: Verb,
    object: Object,
}

impl LetIn {
    /// Whether they may do it now.
    fn decide(&self, api: &Api, now: OffsetDateTime) -> Result<(), Problem> {
        let Self { identity, verb, object } = self;
        let access = api.access();
        let decided = access.decide(identity, *verb, *object, now);
        let decided = decided.inspect_err(|refusal| access.note_refused(identity, *verb, *object, refusal));
        decided.map_err(|refusal| refused(api, &refusal))
    }
}

/// Asks whether the sender of a request with these extensions still may do what they were let in for.
pub(super) fn ask_again(api: &Api, extensions: &Extensions) -> Result<(), Problem> {
    match extensions.get::<LetIn>() {
        Some(let_in) => let_in.decide(api, OffsetDateTime::now_utc()),
        // Where the body names the shop, it is asked when that is read.
        None => Ok(()),
    }
}

/// What a path names, unless it is no text.
type ShopPath = Result<RawPathParams, RawPathParamsRejection>;

async fn pass(api: &Api, door: Door, path: ShopPath, mut request: Request, next: Next) -> Response {
    let shop = path.ok().and_then(|path| shop_of(&path));
    // Where nobody is asked who they are, being on this machine is all that is asked, and a page from elsewhere is not.
    if !api.access().asks() && !web::asks_this_machine(request.uri(), request.headers()) {
        let detail = "with EZOUT_AUTH=off only this machine is answered; ask by an address of it, such as 127.0.0.1 or localhost";
        return Problem::new(Code::Forbidden, detail).into_response();
    }
    match enter(api, door, shop, request.headers()).await {
        Ok((identity, let_in)) => {
            let extensions = request.extensions_mut();
            extensions.insert(identity);
            if let Some(let_in) = let_in {
                extensions.insert(let_in);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn enter(
    api: &Api,
    door: Door,
    shop: Option<ShopId>,
    headers: &HeaderMap,
) -> Result<(Identity, Option<LetIn>), Problem> {
    let limits = api.limits();
    let now = OffsetDateTime::now_utc();
    let access = api.access();
    let refused = |refusal: Refusal| refused(api, &refusal);
    let identity = access
        .identify(bearer(headers).map_err(refused)?, now)
        .await
        .map_err(refused)?;
    if let Some(subject) = identity.subject() {
        limits.caller(subject)?;
    }
    let asked = match (door, shop) {
        (Door::Shop(verb), Some(shop)) => Some((verb, Object::Shop(shop))),
        (Door::System(verb), _) => Some((verb, Object::System)),
        _ => None,
    };
    let let_in = asked.map(|(verb, object)| LetIn {
        identity: identity.clone(),
        verb,
        object,
    });
    if let Some(let_in) = &let_in {
        let_in.decide(api, now)?;
        let LetIn { verb, object, .. } = *let_in;
        if let (Verb::Append, Object::Shop(shop)) = (verb, object) {
            limits.shop(shop, 1)?;
        }
    }
    if door == Door::Known {
        access.caller(&identity, now).map_err(refused)?;
    }
    // A name that no shop can have is for the route to refuse.
    Ok((identity, let_in))
}

/// The shop that a path names, if it can be one.
fn shop_of(path: &RawPathParams) -> Option<ShopId> {
    let (_, shop) = path.iter().find(|(name, _)| matches!(*name, "shop" | "shop_id"))?;
    ShopId::parse(shop).ok()
}

/// The token of a request, where it has one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(value) if values.next().is_none() => access::bearer(value).map(Some),
        _ => Err(Refusal::Token(Refused::Malformed(
            "there has to be one header Authorization",
        ))),
    }
}

/// What somebody is answered who is not let in.
pub(super) fn refused(api: &Api, refusal: &Refusal) -> Problem {
    api.count_refusal(refusal.word());
    let code = match refusal {
        Refusal::NoToken => Code::NoToken,
        Refusal::Token(Refused::KeysUnavailable) | Refusal::Unavailable => Code::AccessUnavailable,
        Refusal::Token(Refused::Expired) => Code::TokenExpired,
        Refusal::Token(_) => Code::InvalidToken,
        Refusal::Revoked => Code::TokenRevoked,
        Refusal::Denied(Denied::Role | Denied::Shopper) => Code::Forbidden,
        Refusal::Denied(Denied::Shop) => return Problem::plain(Code::NotFound),
    };
    Problem::new(code, refusal.to_string())
}
