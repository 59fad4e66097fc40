//! What a browser has on its screen, said by it now and then, so that the whole way is measured and not only our part.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::append::shop_of;
use super::body;
use super::problem::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    sequence: u64,
}

/// `POST /v1/shops/{shop}/seen`
///
/// What is measured is the time from when the update was stored until the word of it came back, by the clocks of our
/// own side: a browser's clock may be wrong. What is not remembered any more is not measured, and is no mistake.
pub(super) async fn note(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let _timer = api.timer("seen");
    let noting = async {
        let shop = shop_of(path)?;
        let seen: Seen = body::fields(request, &api).await?;
        if let Some(took) = api.live().and_then(|live| live.age(shop, seen.sequence)) {
            api.metrics().seen_seconds.observe(took.as_secs_f64());
        }
        Ok::<_, Problem>(StatusCode::NO_CONTENT)
    };
    noting.await.into_response()
}
