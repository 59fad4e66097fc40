//! `POST /dev/token`: tokens for those who try it, where anybody may be anybody.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::origin::is_own_page;
use crate::core::event::rfc3339;
use crate::core::id::ShopId;
use crate::core::policy::Role;
use crate::http::Api;
use crate::http::body;
use crate::http::problem::{Code, Problem};
use crate::keys::dev::{self, Grant};

/// How long a token counts that the page asked for, where anybody may be anybody.
const DEV_TOKEN_LASTS: Duration = Duration::from_hours(1);
/// Longest name of somebody who tries it, in characters.
const DEV_NAME_MAX: usize = 100;

/// Whom somebody wants to be who tries it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    role: String,
    shop: String,
    name: String,
}

/// `POST /dev/token`
pub(in crate::http) async fn dev_token(State(api): State<Api>, request: Request) -> Response {
    let _timer = api.timer("page");
    let answer = async {
        let keys = api.web().dev_keys.as_deref();
        let keys = keys.filter(|_| is_own_page(request.headers())).ok_or_else(|| {
            let detail =
                "tokens are made with EZOUT_AUTH=dev only, for pages and programs of this machine; `ezout token` makes one as well";
            Problem::new(Code::NotFound, detail)
        })?;
        let wanted: Wanted = body::fields(request, &api).await?;
        let now = OffsetDateTime::now_utc();
        let token = dev::sign(keys, &wanted.grant()?, now).map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no token could be made");
            Problem::plain(Code::Internal)
        })?;
        let expires_at = rfc3339((now + DEV_TOKEN_LASTS).truncate_to_second());
        let json = Json(json!({ "token": token, "expires_at": expires_at }));
        Ok(([(CACHE_CONTROL, "no-store")], json).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

impl Wanted {
    fn grant(self) -> Result<Grant, Problem> {
        let role = Role::parse(&self.role).ok_or_else(|| body::broken("/role", "word", "must be a role"))?;
        let is_shop = self.shop == "*" || ShopId::parse(&self.shop).is_ok();
        if !is_shop {
            return Err(body::broken(
                "/shop",
                "uuid",
                "must be the UUID of a shop, or * for all",
            ));
        }
        let name = self.name.trim();
        if !(1..=DEV_NAME_MAX).contains(&name.chars().count()) {
            return Err(body::broken("/name", "text", "must have 1 to 100 characters"));
        }
        Ok(Grant {
            subject: name.to_owned(),
            role: Some(role.word().to_owned()),
            shops: vec![self.shop],
            shopper_id: None,
            lasts: DEV_TOKEN_LASTS,
        })
    }
}
