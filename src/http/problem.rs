//! What a request is answered that could not be done: RFC 9457, `application/problem+json`.
//!
//! [`Code`] is the one list of codes. A code never changes its meaning; clients act on it, people
//! read `detail`. The private cause of a failure goes to the log, never into an answer.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::core::event::{EventError, FieldError, rfc3339};
use crate::core::query::QueryError;
use crate::journal::AppendError;
use crate::trace;
use crate::views::Handling;

/// Pause that is asked for where nothing is known about how long a failure lasts, in seconds.
const RETRY_SECONDS: u16 = 2;
/// Pause that is asked for when too much came at once, in seconds.
const OVERLOAD_SECONDS: u16 = 1;
/// Pause that is asked for when somebody has to make room first, in seconds.
const FULL_SECONDS: u16 = 30;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $word:literal, $status:ident, $title:literal;)+) => {
        /// Why a request was not done; the doc comment of a code is the explanation that is served under its type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $($(#[doc = $doc])+ $code,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code,)+];

            /// The stable word for it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$code => $word,)+ }
            }

            /// The status that it is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)+ }
            }

            /// A title, the same whenever the code is used.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)+ }
            }

            /// Whether the same request may be answered otherwise a little later, without anybody having changed it.
            pub fn may_pass(self) -> bool {
                matches!(
                    self.status(),
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT | StatusCode::INSUFFICIENT_STORAGE
                )
            }

            /// What it means and what to do.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$code => concat!($($doc),+),)+ }.trim()
            }
        }
    };
}

codes! {
    /// Fields of the event break rules. `errors` names each field and its rule; nothing was recorded.
    InvalidEvent = "invalid_event", UNPROCESSABLE_ENTITY, "The event breaks rules";
    /// The body is not one JSON object. Send one in UTF-8, each field once.
    NotAnObject = "not_an_object", UNPROCESSABLE_ENTITY, "The body is not a JSON object";
    /// The shop in the path is not a UUID, so no shop can have that name.
    InvalidShop = "invalid_shop", UNPROCESSABLE_ENTITY, "The shop is not a UUID";
    /// The session in the path is not a UUID, so no session can have that name.
    InvalidSession = "invalid_session", UNPROCESSABLE_ENTITY, "The session is not a UUID";
    /// The path names one shop and the event another. Send the event to its own shop; nothing was recorded.
    ShopMismatch = "shop_mismatch", UNPROCESSABLE_ENTITY, "The event is of another shop";
    /// The journal has this action of this session already, and there it says something else; or a correction of this id was
    /// filed, which says something else. What is there stays; nothing was recorded. Sending it again will not help.
    Conflict = "conflict", CONFLICT, "Another event has this identity";
    /// Fields of the correction break rules. `errors` names each field and its rule; nothing was filed.
    InvalidCorrection = "invalid_correction", UNPROCESSABLE_ENTITY, "The correction breaks rules";
    /// The basket has events after the correction's `base_sequence`. `changed` is what they changed: look, and ask again
    /// with the basket's `sequence` if it is still right.
    MovedOn = "moved_on", CONFLICT, "The basket has moved on";
    /// An event of the session could not be applied, and a correction would wait behind it. An operator has to decide about it first.
    BasketParked = "basket_parked", CONFLICT, "Events of the session are parked";
    /// The basket has as many events as it keeps, so no correction of it can be.
    BasketFull = "basket_full", CONFLICT, "The basket is full";
    /// The basket is already as the correction asks.
    NothingToChange = "nothing_to_change", UNPROCESSABLE_ENTITY, "Nothing would change";
    /// The basket has no line of this product, and a correction adds none.
    NoLine = "no_line", UNPROCESSABLE_ENTITY, "There is no such line";
    /// The line is empty, so new pieces need a `price`.
    NoPrice = "no_price", UNPROCESSABLE_ENTITY, "New pieces need a price";
    /// A line cannot have so many pieces.
    TooManyPieces = "too_many_pieces", UNPROCESSABLE_ENTITY, "Too many pieces";
    /// The basket would cost less than nothing.
    NegativeTotal = "negative_total", UNPROCESSABLE_ENTITY, "The total would be negative";
    /// The basket has no correction of this id, so there is nothing to undo.
    NoCorrection = "no_correction", UNPROCESSABLE_ENTITY, "There is no such correction";
    /// The correction that is to be undone does not count any more. Undo what undid it to have it again.
    AlreadyUndone = "already_undone", UNPROCESSABLE_ENTITY, "The correction is undone already";
    /// The correction makes more differences than one event of the journal can hold. Ask for less at a time.
    TooLarge = "too_large", UNPROCESSABLE_ENTITY, "The correction is too large";
    /// Fields of the body break rules, or are none that there are. `detail` or `errors` says which; nothing was done.
    InvalidBody = "invalid_body", UNPROCESSABLE_ENTITY, "The body breaks rules";
    /// Somebody else handles the basket, as `handled_by` and `handled_until` say. Send `instead: true` to take it over.
    Handled = "handled", CONFLICT, "Somebody else handles the basket";
    /// A query parameter is not known here. Leave it out.
    UnknownParameter = "unknown_parameter", BAD_REQUEST, "A query parameter is unknown";
    /// A query parameter breaks its rule.
    InvalidParameter = "invalid_parameter", BAD_REQUEST, "A query parameter breaks its rule";
    /// The body ended before it was complete. Send the request again.
    IncompleteBody = "incomplete_body", BAD_REQUEST, "The body is incomplete";
    /// The body came too slowly. Send the request again.
    SlowBody = "slow_body", REQUEST_TIMEOUT, "The body came too slowly";
    /// The body is larger than it may be. Nothing was recorded.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body has more lines than one request may have. Send the lines in several requests; nothing was recorded.
    TooManyLines = "too_many_lines", PAYLOAD_TOO_LARGE, "The body has too many lines";
    /// The body is of a type, or packed in a way, that is not read here. `detail` says what is.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body's type is not read here";
    /// The request has no token, and needs one. Send it as `Authorization: Bearer TOKEN`.
    NoToken = "no_token", UNAUTHORIZED, "A token is needed";
    /// The token is none that counts here. `detail` says why. Sign in again.
    InvalidToken = "invalid_token", UNAUTHORIZED, "The token does not count";
    /// The time of the token is over. Sign in again, or have it renewed.
    TokenExpired = "token_expired", UNAUTHORIZED, "The token has expired";
    /// The token, or everything that its owner signed in with before, was revoked. Sign in again, a minute later.
    TokenRevoked = "token_revoked", UNAUTHORIZED, "The token was revoked";
    /// The token is right and its role, or its shopper, is not the one that may do this. With `EZOUT_AUTH=off`: `Host` is not this machine.
    Forbidden = "forbidden", FORBIDDEN, "Not allowed";
    /// The keys that tokens are checked with, or who may do what, cannot be had now. Ask again after Retry-After.
    AccessUnavailable = "access_unavailable", SERVICE_UNAVAILABLE, "Tokens cannot be checked";
    /// Nothing is here, or nothing that this caller may see.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The path exists, the method does not. The Allow header names those that do.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed";
    /// This caller, this address or this shop asks more often than it may, or has as many live streams as it may. Nothing was done; ask again after Retry-After.
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, "Too many requests";
    /// More events came at once than can be recorded. This one is not recorded; send the same event again after Retry-After.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too many events at once";
    /// The journal cannot be reached now. An event that was sent is not recorded; send the same again after Retry-After.
    JournalUnavailable = "journal_unavailable", SERVICE_UNAVAILABLE, "The journal is not available";
    /// The journal did not answer in time, so the event may have been recorded.
    /// Send the same event again after Retry-After; it will not count twice.
    OutcomeUnknown = "outcome_unknown", SERVICE_UNAVAILABLE, "The outcome is not known";
    /// The journal has no room left. The event is not recorded; keep it and send it again later. An operator has to make room.
    JournalFull = "journal_full", INSUFFICIENT_STORAGE, "The journal is full";
    /// The baskets cannot be read now. Ask again after Retry-After.
    ViewsUnavailable = "views_unavailable", SERVICE_UNAVAILABLE, "The baskets are not available";
    /// As many viewers are connected as this process serves. Ask again after Retry-After, or ask another process.
    TooManyViewers = "too_many_viewers", SERVICE_UNAVAILABLE, "Too many viewers";
    /// The basket is not yet as new as `min_sequence` asks. `basket` is what there is, true at `sequence`; ask again after Retry-After.
    NotYet = "not_yet", GATEWAY_TIMEOUT, "The basket is not that new yet";
    /// The request failed for a reason of ours, which the log has.
    /// If it was an event it may have been recorded; send the same event again, it will not count twice.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
}

/// The answer to a request that was not done.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    sequence: Option<u64>,
    basket: Option<Box<RawValue>>,
    changed: Option<Box<RawValue>>,
    handled: Option<Box<Handling>>,
    retry_after_seconds: Option<u16>,
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Unknown(detail) => Self::new(Code::UnknownParameter, detail),
            QueryError::Invalid(detail) => Self::new(Code::InvalidParameter, detail),
        }
    }
}

impl Problem {
    /// A problem with a detail, which says what to do about this one. One that may pass asks to try again.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            sequence: None,
            basket: None,
            changed: None,
            handled: None,
            retry_after_seconds: code.may_pass().then_some(RETRY_SECONDS),
        }
    }

    /// A problem whose detail is the explanation of its code.
    pub fn plain(code: Code) -> Self {
        Self::new(code, code.explanation())
    }

    /// Names the fields, and the rules they break.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Says as of which place in the journal this is so, or which place it is about.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Adds the basket as it is, in JSON.
    #[must_use]
    pub fn with_basket(mut self, basket: Box<RawValue>) -> Self {
        self.basket = Some(basket);
        self
    }

    /// Adds what became otherwise, in JSON.
    #[must_use]
    pub fn with_changed(mut self, changed: Box<RawValue>) -> Self {
        self.changed = Some(changed);
        self
    }

    /// Says who handles the basket, and until when.
    #[must_use]
    pub fn with_handled(mut self, handled: Handling) -> Self {
        self.handled = Some(Box::new(handled));
        self
    }

    /// Asks to try again after this pause.
    #[must_use]
    pub fn with_retry(mut self, after_seconds: u16) -> Self {
        self.retry_after_seconds = Some(after_seconds);
        self
    }

    /// There is no room for more requests now.
    pub fn overloaded() -> Self {
        Self::plain(Code::Overloaded).with_retry(OVERLOAD_SECONDS)
    }

    /// The baskets cannot be read now.
    pub fn views_unavailable() -> Self {
        Self::plain(Code::ViewsUnavailable)
    }

    /// The journal cannot be read now.
    pub fn journal_unread() -> Self {
        Self::new(
            Code::JournalUnavailable,
            "the journal cannot be read now; ask again after Retry-After",
        )
    }

    /// Why the request was not done.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What to do about it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The place in the journal that it is about.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The fields that break rules.
    pub fn into_errors(self) -> Vec<FieldError> {
        self.errors
    }

    /// The pause after which to try again.
    pub fn retry_after_seconds(&self) -> Option<u16> {
        self.retry_after_seconds
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        match error {
            EventError::NotAnObject(cause) => {
                Self::new(Code::NotAnObject, format!("the body is not one JSON object: {cause}"))
            }
            EventError::Fields(errors) => Self::new(
                Code::InvalidEvent,
                "fields break the rules named in errors; nothing was recorded",
            )
            .with_errors(errors),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { sequence } => Self::new(
                Code::Conflict,
                format!(
                    "event {sequence} of the journal is the same action of the same session but says something else; it stays, and this one was not recorded"
                ),
            )
            .with_sequence(sequence),
            AppendError::Overloaded => Self::overloaded(),
            AppendError::Unavailable { reason } => {
                // The state of the journal is logged when it changes; a line for each phone that meets it would bury that.
                tracing::debug!(reason, "an event was refused since the journal is unavailable");
                Self::plain(Code::JournalUnavailable)
            }
            AppendError::Unknown => Self::plain(Code::OutcomeUnknown),
            AppendError::Full { reason } => {
                tracing::error!(reason, "an event was refused since the journal is full");
                Self::plain(Code::JournalFull).with_retry(FULL_SECONDS)
            }
            AppendError::TooLarge => Self::new(
                Code::BodyTooLarge,
                "the event is larger than the journal accepts; send shorter texts",
            ),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("/problems/{}", self.code.word()))?;
        map.serialize_entry("title", self.code.title())?;
        map.serialize_entry("status", &self.code.status().as_u16())?;
        map.serialize_entry("code", self.code.word())?;
        map.serialize_entry("detail", &self.detail)?;
        if let Some(id) = trace::request_id() {
            map.serialize_entry("request_id", &id)?;
        }
        if !self.errors.is_empty() {
            map.serialize_entry("errors", &self.errors)?;
        }
        if let Some(sequence) = self.sequence {
            map.serialize_entry("sequence", &sequence)?;
        }
        if let Some(handled) = &self.handled {
            map.serialize_entry("handled_by", &handled.by)?;
            map.serialize_entry("handled_until", &rfc3339(handled.until))?;
        }
        if let Some(basket) = &self.basket {
            map.serialize_entry("basket", basket)?;
        }
        if let Some(changed) = &self.changed {
            map.serialize_entry("changed", changed)?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            // RFC 6750, section 3: without a token no error is named.
            let challenge = match self.code {
                Code::NoToken => "Bearer realm=\"ezout\"",
                _ => "Bearer realm=\"ezout\", error=\"invalid_token\"",
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_code_has_a_word_of_its_own_and_says_what_it_means() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(code.explanation().ends_with('.'), "{code:?}");
        }
    }

    #[test]
    fn whatever_may_pass_says_when_to_try_again() {
        for code in Code::ALL {
            let response = Problem::plain(*code).into_response();
            let status = response.status().as_u16();
            let may_pass = [429, 503, 504, 507].contains(&status);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), may_pass, "{code:?}");
        }
    }

    #[test]
    fn every_failure_of_the_journal_that_passes_says_when_to_try_again() {
        let reason = "host 10.0.0.7 refused".to_owned();
        for (error, status, retry) in [
            (AppendError::Conflict { sequence: 7 }, 409, None),
            (AppendError::Overloaded, 503, Some(1)),
            (AppendError::Unavailable { reason: reason.clone() }, 503, Some(2)),
            (AppendError::Unknown, 503, Some(2)),
            (AppendError::Full { reason }, 507, Some(30)),
            (AppendError::TooLarge, 413, None),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.code().status().as_u16(), status);
            assert_eq!(problem.retry_after_seconds(), retry);
            let json = serde_json::to_string(&problem).unwrap();
            assert!(!json.contains("10.0.0.7"), "{json}");
        }
    }

    #[test]
    fn a_conflict_names_what_is_recorded() {
        let problem = Problem::from(AppendError::Conflict { sequence: 7 });
        let json: serde_json::Value = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["code"], "conflict");
        assert_eq!(json["type"], "/problems/conflict");
        assert_eq!(json["status"], 409);
        assert_eq!(json["sequence"], 7);
    }
}
