//! `GET /v1/me`: who the caller is, what they may do, and in which shops.

use axum::Json;
use axum::extract::{Extension, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use time::OffsetDateTime;

use super::Api;
use super::door::refused;
use super::problem::Problem;
use super::read::{unread, views_of};
use super::shop::ShopJson;
use crate::access::Identity;
use crate::core::event::rfc3339;
use crate::core::policy::{Shops, Verb};
use crate::core::query::Query;

/// Most shops in an answer.
const SHOPS_MAX: u16 = 500;

#[derive(Serialize)]
struct MeJson {
    subject: Option<String>,
    role: &'static str,
    verbs: Vec<&'static str>,
    all_shops: bool,
    shops: Vec<ShopJson>,
    more: bool,
    expires_at: Option<String>,
}

/// `GET /v1/me`
pub(super) async fn me(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
    Extension(identity): Extension<Identity>,
) -> Response {
    let _timer = api.timer("me");
    let answer = async {
        Query::read(query.as_deref(), &[])?;
        let caller = api.access().caller(&identity, OffsetDateTime::now_utc());
        let caller = caller.map_err(|refusal| refused(&api, &refusal))?;
        // Which shops there are is for those who look at them.
        let looks = caller.role.may(Verb::Look);
        let (shops, more) = match &caller.shops {
            Shops::All if looks => {
                let shops = views_of(&api)?.some_shops(SHOPS_MAX).await;
                shops.map_err(|error| unread(&error))?
            }
            Shops::Only(shops) if looks && !shops.is_empty() => {
                let some = shops.iter().take(usize::from(SHOPS_MAX)).copied().collect();
                let details = views_of(&api)?.details_of(&some).await;
                (details.map_err(|error| unread(&error))?, shops.len() > some.len())
            }
            Shops::All | Shops::Only(_) => Default::default(),
        };
        let mut shops: Vec<ShopJson> = shops
            .into_iter()
            .map(|(shop, details)| ShopJson::of(shop, details))
            .collect();
        // Those with a name first, as people look for them.
        shops.sort_by(|one, other| one.order().cmp(&other.order()));
        let verbs = Verb::ALL.into_iter().filter(|verb| caller.role.may(*verb));
        Ok::<_, Problem>(MeJson {
            subject: identity.subject().map(str::to_owned),
            role: caller.role.word(),
            verbs: verbs.map(Verb::word).collect(),
            all_shops: caller.shops == Shops::All,
            shops,
            more,
            expires_at: identity.expires_at().map(rfc3339),
        })
    };
    match answer.await {
        Ok(me) => Json(me).into_response(),
        Err(problem) => problem.into_response(),
    }
}
