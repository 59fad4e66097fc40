//! What a shop says about itself, to be read and to be set.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Api;
use super::append::shop_of;
use super::body;
use super::problem::Problem;
use super::read::{unread, views_of};
use crate::access::Identity;
use crate::core::id::ShopId;
use crate::core::policy::Verb;
use crate::core::query::Query;
use crate::core::shop::ShopDetails;
use crate::views::Deed;

/// A shop, and what is known of it.
#[derive(Serialize)]
pub(super) struct ShopJson {
    shop_id: String,
    name: Option<String>,
    currency: Option<String>,
    time_zone: Option<String>,
}

impl ShopJson {
    pub(super) fn of(shop: ShopId, details: ShopDetails) -> Self {
        Self {
            shop_id: shop.to_string(),
            name: details.name,
            currency: details.currency,
            time_zone: details.time_zone,
        }
    }

    /// By name, those without one last.
    pub(super) fn order(&self) -> (bool, Option<&str>, &str) {
        (self.name.is_none(), self.name.as_deref(), &self.shop_id)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    name: Option<String>,
    currency: Option<String>,
    time_zone: Option<String>,
}

/// `GET /v1/shops/{shop}`
pub(super) async fn show(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("shop");
    let answer = async {
        let shop = shop_of(path)?;
        Query::read(query.as_deref(), &[])?;
        let details = views_of(&api)?.shop_details(shop).await;
        let details = details.map_err(|error| unread(&error))?;
        Ok(Json(ShopJson::of(shop, details)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// `PUT /v1/shops/{shop}`
pub(super) async fn set(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("shop");
    let answer = async {
        let shop = shop_of(path)?;
        let said: Said = body::fields(request, &api).await?;
        let details = ShopDetails::read(
            said.name.as_deref(),
            said.currency.as_deref(),
            said.time_zone.as_deref(),
        )
        .map_err(|error| {
            let code = if error.field == "name" { "length" } else { "one_of" };
            body::broken(&format!("/{}", error.field), code, error.rule)
        })?;
        let views = views_of(&api)?;
        let deed = Deed::in_shop(Verb::Operate, "name, currency and time zone".to_owned(), shop);
        let noting = api.access().note(&identity, deed);
        noting.await.map_err(|error| unread(&error))?;
        views.set_shop(shop, &details).await.map_err(|error| unread(&error))?;
        Ok(Json(ShopJson::of(shop, details)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}
