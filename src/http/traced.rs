//! Each request is a part of a trace and has a name, which its answer, its log lines and its trace have in common.

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::Api;
use crate::core::trace::{TRACEPARENT, TraceContext};
use crate::trace;

/// Header of an answer with the request's name.
const REQUEST_ID: &str = "ezout-request-id";

/// Answers a request as part of the trace that it names, or of one of its own.
///
/// Two values of `traceparent` are none (W3C Trace Context, section 3.3.1).
pub(super) async fn answer(State(api): State<Api>, request: Request, next: Next) -> Response {
    let mut values = request.headers().get_all(TRACEPARENT).iter();
    let sent = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(TraceContext::parse),
        _ => None,
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let span = api.tracer().begin(sent);
    let id = trace::request_id_of(span.context());
    let lines = tracing::error_span!("request", id = %id);
    let mut response = trace::within(&span, next.run(request)).instrument(lines).await;
    let value = HeaderValue::try_from(id).expect("hexadecimal digits are a header's value");
    response.headers_mut().insert(REQUEST_ID, value);
    if span.is_recorded() {
        let route = route.map_or_else(|| "nothing".to_owned(), |route| route.as_str().to_owned());
        let status = response.status();
        let span = span
            .named(format!("{method} {route}"))
            .with("http.request.method", method.to_string())
            .with("http.route", route)
            .with("http.response.status_code", i64::from(status.as_u16()));
        span.end(status.is_server_error().then_some("server error"));
    }
    response
}
