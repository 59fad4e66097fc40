//! What a token says, held to every rule.
//!
//! Each claim is demanded by name and by type: what is absent or of another type is refused and never skipped.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::token::Token;
use super::{LIFE_MAX, Mode, Refused, Rules, SKEW_MAX, hex, sha256};

/// Longest subject, in characters.
const SUBJECT_MAX: usize = 128;
/// Longest `jti` that is taken for the name of a token, in bytes.
const JTI_BYTES_MAX: usize = 128;
/// For whom a Firebase custom token is.
const CUSTOM_TOKEN_AUDIENCE: &str =
    "https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit";

/// What a token says of its bearer, signed by the issuer. What it gives a right to is not decided here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who it is, by the issuer: 1 to 128 characters, none of them a control character.
    pub subject: String,
    /// The name of this one token, the same at each check: its `jti`, or else 32 digits made from what is signed.
    pub token_id: String,
    /// When the token was made.
    pub issued_at: OffsetDateTime,
    /// When its bearer signed in; nothing where the issuer does not say.
    pub authenticated_at: Option<OffsetDateTime>,
    /// When it ends: from this moment on it is refused.
    pub expires_at: OffsetDateTime,
    /// The role, as it was written. Any text.
    pub role: Option<String>,
    /// The shops, of `shops` and `shop`, as they were written. Any texts.
    pub shops: Vec<String>,
    /// The shopper, as it was written. Any text.
    pub shopper_id: Option<String>,
    /// Whether Firebase let somebody in without asking who it is.
    pub anonymous: bool,
}

impl Claims {
    /// Holds claims, whose signature was checked, to the rules.
    pub(super) fn read(
        claims: &Map<String, Value>,
        signed: &str,
        rules: &Rules,
        now: OffsetDateTime,
    ) -> Result<Self, Refused> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&*rules.issuer) {
            return Err(Refused::Issuer);
        }
        // A list is refused even if we are in it: the token is good for somebody else as well.
        if text("aud") != Some(&*rules.audience) {
            let custom = rules.mode == Mode::Firebase && text("aud") == Some(CUSTOM_TOKEN_AUDIENCE);
            return Err(if custom {
                Refused::CustomToken
            } else {
                Refused::Audience
            });
        }
        if rules.mode == Mode::Firebase {
            // Of all tenants of a project issuer and audience are the same, and whoever has a tenant says who is in it.
            let tenant = claims.get("firebase").and_then(|firebase| firebase.get("tenant"));
            let is_ours = match (tenant, &rules.tenant) {
                (None | Some(Value::Null), None) => true,
                (Some(tenant), Some(ours)) => tenant.as_str() == Some(ours),
                _ => false,
            };
            if !is_ours {
                return Err(Refused::Tenant);
            }
        }
        let subject = text("sub")
            .filter(|subject| !subject.is_empty() && subject.chars().count() <= SUBJECT_MAX)
            .filter(|subject| !subject.chars().any(char::is_control))
            .ok_or(Refused::Subject)?;

        let expires_at = needed(moment(claims, "exp"), "exp is missing or no whole number of seconds")?;
        if expires_at <= now {
            return Err(Refused::Expired);
        }
        let latest = now.checked_add(SKEW_MAX).unwrap_or(now);
        let issued_at = needed(moment(claims, "iat"), "iat is missing or no whole number of seconds")?;
        let authenticated_at = match moment(claims, "auth_time") {
            Moment::Missing if rules.mode != Mode::Firebase => None,
            other => Some(needed(other, "auth_time is missing or no whole number of seconds")?),
        };
        let begins_at = match moment(claims, "nbf") {
            Moment::Missing => issued_at,
            other => needed(other, "nbf is no whole number of seconds")?,
        };
        if issued_at > latest || authenticated_at.is_some_and(|at| at > latest) || begins_at > latest {
            return Err(Refused::NotYetValid);
        }
        if expires_at - issued_at > LIFE_MAX {
            return Err(Refused::Malformed("it lasts longer than 366 days"));
        }

        let token_id = token_id(claims, signed);
        let rights = match &rules.claim {
            Some(name) => match claims.get(name) {
                None | Some(Value::Null) => None,
                Some(Value::Object(rights)) => Some(rights),
                Some(_) => return Err(Refused::Malformed("the claim of its rights is no object")),
            },
            None => Some(claims),
        };
        let mut read = Self {
            subject: subject.to_owned(),
            token_id,
            issued_at,
            authenticated_at,
            expires_at,
            role: None,
            shops: Vec::new(),
            shopper_id: None,
            anonymous: rules.mode == Mode::Firebase
                && claims
                    .get("firebase")
                    .and_then(|firebase| firebase.get("sign_in_provider"))
                    .and_then(Value::as_str)
                    == Some("anonymous"),
        };
        if let Some(rights) = rights {
            read.role = optional_text(rights, "role", "role is no text")?;
            read.shopper_id = optional_text(rights, "shopper_id", "shopper_id is no text")?;
            read.shops = shops(rights)?;
        }
        Ok(read)
    }
}

/// The name of a token: its `jti`, or one made from what is signed.
pub(super) fn token_id(claims: &Map<String, Value>, signed: &str) -> String {
    match claims.get("jti").and_then(Value::as_str) {
        Some(jti) if !jti.is_empty() && jti.len() <= JTI_BYTES_MAX && !jti.chars().any(char::is_control) => {
            jti.to_owned()
        }
        // Not of the whole token: some signatures can be written in two ways by whoever has one of them.
        _ => hex(&sha256(signed.as_bytes())[..16]),
    }
}

/// Whether a token, of which nothing was checked, says that it is a custom token. Only for a better reason to refuse it.
pub(super) fn is_custom_token(mode: Mode, token: &Token<'_>) -> bool {
    if mode != Mode::Firebase {
        return false;
    }
    let Ok(claims) = token.payload() else {
        return false;
    };
    let legacy = token.algorithm() == "HS256"
        && claims.get("v").and_then(Value::as_u64) == Some(0)
        && claims.get("d").is_some_and(|data| data.get("uid").is_some());
    legacy || claims.get("aud").and_then(Value::as_str) == Some(CUSTOM_TOKEN_AUDIENCE)
}

/// When a token ends by what it says, of which nothing was checked.
pub(super) fn end(claims: &Map<String, Value>) -> Option<OffsetDateTime> {
    match moment(claims, "exp") {
        Moment::At(time) => Some(time),
        Moment::Missing | Moment::Malformed => None,
    }
}

#[derive(Clone, Copy)]
enum Moment {
    Missing,
    Malformed,
    At(OffsetDateTime),
}

/// A time in whole seconds since 1970.
fn moment(claims: &Map<String, Value>, name: &str) -> Moment {
    let Some(value) = claims.get(name) else {
        return Moment::Missing;
    };
    value
        .as_i64()
        .filter(|seconds| *seconds >= 0)
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or(Moment::Malformed, Moment::At)
}

fn needed(moment: Moment, otherwise: &'static str) -> Result<OffsetDateTime, Refused> {
    match moment {
        Moment::At(time) => Ok(time),
        Moment::Missing | Moment::Malformed => Err(Refused::Malformed(otherwise)),
    }
}

fn optional_text(rights: &Map<String, Value>, name: &str, otherwise: &'static str) -> Result<Option<String>, Refused> {
    match rights.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Refused::Malformed(otherwise)),
    }
}

fn shops(rights: &Map<String, Value>) -> Result<Vec<String>, Refused> {
    let mut shops = Vec::new();
    match rights.get("shops") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for shop in list {
                let shop = shop.as_str().ok_or(Refused::Malformed("shops is no list of texts"))?;
                shops.push(shop.to_owned());
            }
        }
        Some(_) => return Err(Refused::Malformed("shops is no list of texts")),
    }
    shops.extend(optional_text(rights, "shop", "shop is no text")?);
    Ok(shops)
}
