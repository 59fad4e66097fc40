//! The second address: is the process alive, is it ready, and its metrics.
//!
//! `/livez` answers as long as the process runs: an outside system that is down is no reason to
//! restart it. `/readyz` says with every reason in words why the process should get no work. Where the address
//! has a token, whoever does not send it is told whether the process is ready, and nothing else.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State as Shared;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;

use super::problem::{Code, Problem};
use crate::access;
use crate::keys::is_same_secret;
use crate::metrics::Metrics;
use crate::{journal, views};

type Reasons = Box<dyn Fn() -> Result<(), Vec<String>> + Send + Sync>;
type Warnings = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// One thing that must be in order for the process to be ready.
pub struct Check {
    name: &'static str,
    reasons: Reasons,
    warnings: Option<Warnings>,
}

impl Check {
    /// A check that gives every reason why this is not in order. It is called on each request and must not wait.
    pub fn new(name: &'static str, check: impl Fn() -> Result<(), Vec<String>> + Send + Sync + 'static) -> Self {
        Self {
            name,
            reasons: Box::new(check),
            warnings: None,
        }
    }

    /// The same, which also tells what somebody should know and what does not speak against the process.
    #[must_use]
    pub fn warning(self, warnings: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self {
            warnings: Some(Box::new(warnings)),
            ..self
        }
    }

    /// The journal answers, is not weaker than promised, and stores events, as far as those that this process sent tell.
    pub fn journal(state: watch::Receiver<journal::State>, storing: journal::Storing) -> Self {
        Self::new("journal", move || {
            let mut reasons = match &*state.borrow() {
                journal::State::Unavailable { reason } => vec![reason.clone()],
                journal::State::Open(facts) => facts.weaker.clone(),
            };
            reasons.extend(storing.refusal(Instant::now()));
            if reasons.is_empty() { Ok(()) } else { Err(reasons) }
        })
    }

    /// The views can be had.
    pub fn views(state: watch::Receiver<views::State>) -> Self {
        Self::new("views", move || match &*state.borrow() {
            views::State::Unavailable { reason } => Err(vec![reason.clone()]),
            views::State::Open => Ok(()),
        })
    }
}

struct Health {
    metrics: Arc<Metrics>,
    checks: Vec<Check>,
    token: Option<String>,
}

impl Health {
    /// Whether a request may know everything.
    fn trusts(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = value.and_then(|value| access::bearer(value).ok());
        sent.is_some_and(|sent| is_same_secret(sent, token))
    }
}

/// The routes of the second address, for everybody or, with a token, for those who send it.
pub fn router(metrics: Arc<Metrics>, checks: Vec<Check>, token: Option<String>) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .fallback(async || Problem::new(Code::NotFound, "there are /livez, /readyz and /metrics"))
        .method_not_allowed_fallback(async || Problem::plain(Code::MethodNotAllowed))
        .with_state(Arc::new(Health { metrics, checks, token }))
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Every reason, each after the name of its check.
    reasons: Vec<String>,
    /// What somebody should know although it is ready, in the same way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    checks: Vec<CheckJson>,
}

#[derive(Serialize)]
struct CheckJson {
    name: &'static str,
    ready: bool,
}

async fn ready(Shared(health): Shared<Arc<Health>>, headers: HeaderMap) -> Response {
    let mut readiness = Readiness {
        ready: true,
        reasons: Vec::new(),
        warnings: Vec::new(),
        checks: Vec::new(),
    };
    for check in &health.checks {
        let result = (check.reasons)();
        readiness.ready &= result.is_ok();
        readiness.checks.push(CheckJson {
            name: check.name,
            ready: result.is_ok(),
        });
        let named = |texts: Vec<String>| texts.into_iter().map(|text| format!("{}: {text}", check.name));
        readiness.reasons.extend(named(result.err().unwrap_or_default()));
        let warnings = check.warnings.as_ref().map(|warnings| warnings());
        readiness.warnings.extend(named(warnings.unwrap_or_default()));
    }
    if !health.trusts(&headers) {
        readiness.reasons.clear();
        readiness.warnings.clear();
        readiness.checks.clear();
    }
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let now = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, now, Json(readiness)).into_response()
}

async fn metrics_text(Shared(health): Shared<Arc<Health>>, headers: HeaderMap) -> Response {
    if !health.trusts(&headers) {
        return Problem::new(Code::NoToken, "the metrics are for those who send EZOUT_ADMIN_TOKEN").into_response();
    }
    let format = [(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"))];
    (format, health.metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn get_text(path: &str, checks: Vec<Check>) -> (u16, String) {
        ask(path, checks, None, None).await
    }

    async fn ask(path: &str, checks: Vec<Check>, token: Option<&str>, sent: Option<&str>) -> (u16, String) {
        let router = router(Arc::new(Metrics::new()), checks, token.map(str::to_owned));
        let mut request = Request::get(path);
        if let Some(sent) = sent {
            request = request.header(AUTHORIZATION, sent);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_tells_every_reason_and_liveness_none() {
        let checks = || {
            let (_, views) = watch::channel(views::State::Unavailable {
                reason: "no server".to_owned(),
            });
            let halted = || Err(vec!["partition 3 halted".to_owned(), "partition 5 halted".to_owned()]);
            vec![
                Check::new("journal", || Ok(())),
                Check::views(views),
                Check::new("projector", halted),
            ]
        };
        let (status, body) = get_text("/readyz", checks()).await;
        assert_eq!(status, 503);
        assert_eq!(
            body,
            r#"{"ready":false,"reasons":["views: no server","projector: partition 3 halted","projector: partition 5 halted"],"checks":[{"name":"journal","ready":true},{"name":"views","ready":false},{"name":"projector","ready":false}]}"#
        );
        assert_eq!(get_text("/livez", checks()).await.0, 200);
    }

    #[tokio::test]
    async fn a_process_is_ready_when_nothing_speaks_against_it() {
        let (status, body) = get_text("/readyz", vec![Check::new("journal", || Ok(()))]).await;
        assert_eq!(
            (status, body.as_str()),
            (
                200,
                r#"{"ready":true,"reasons":[],"checks":[{"name":"journal","ready":true}]}"#
            )
        );
    }

    #[tokio::test]
    async fn a_warning_is_told_to_those_who_may_know_and_does_not_speak_against_the_process() {
        let checks = || vec![Check::new("rights", || Ok(())).warning(|| vec!["too many".to_owned()])];
        let (status, body) = get_text("/readyz", checks()).await;
        assert_eq!(
            (status, body.as_str()),
            (
                200,
                r#"{"ready":true,"reasons":[],"warnings":["rights: too many"],"checks":[{"name":"rights","ready":true}]}"#
            )
        );
        let (_, body) = ask("/readyz", checks(), Some("secret"), None).await;
        assert_eq!(body, r#"{"ready":true,"reasons":[],"checks":[]}"#);
    }

    #[tokio::test]
    async fn who_does_not_send_the_token_is_told_whether_it_is_ready_and_no_more() {
        let checks = || vec![Check::new("journal", || Err(vec!["nats.internal refused".to_owned()]))];
        for sent in [None, Some("Bearer wrong"), Some("Basic secret"), Some("Bearer secret2")] {
            let (status, body) = ask("/readyz", checks(), Some("secret"), sent).await;
            assert_eq!(
                (status, body.as_str()),
                (503, r#"{"ready":false,"reasons":[],"checks":[]}"#)
            );
            assert_eq!(ask("/metrics", checks(), Some("secret"), sent).await.0, 401);
            assert_eq!(ask("/livez", checks(), Some("secret"), sent).await.0, 200);
        }
        let (_, body) = ask("/readyz", checks(), Some("secret"), Some("Bearer secret")).await;
        assert!(body.contains("nats.internal"), "{body}");
        let (status, _) = ask("/metrics", checks(), Some("secret"), Some("bearer secret")).await;
        assert_eq!(status, 200);
    }

    #[tokio::test]
    async fn metrics_are_in_prometheus_text() {
        let (status, body) = get_text("/metrics", Vec::new()).await;
        assert_eq!(status, 200);
        assert!(body.contains("# TYPE ezout_http_connections gauge"));
        assert_eq!(get_text("/elsewhere", Vec::new()).await.0, 404);
    }
}
