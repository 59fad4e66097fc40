//! The fields of a JSON object, read one by one so that every fault is told with its place and rule.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use super::{EventError, FieldError, Strictness};
use crate::core::id::{IdError, SessionId};
use crate::core::money::Money;

/// A rule that a value breaks.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

pub(super) fn fault(code: &'static str, detail: impl Into<String>) -> Fault {
    Fault {
        code,
        detail: detail.into(),
    }
}

/// The fields that are still unread, and the faults of those that were read.
pub(super) struct Fields<'a> {
    unread: Vec<(Cow<'a, str>, &'a RawValue)>,
    errors: Vec<FieldError>,
    strictness: Strictness,
    /// What the object is, for a person.
    noun: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn read(body: &'a [u8], strictness: Strictness, noun: &'static str) -> Result<Self, EventError> {
        let Object(fields) =
            serde_json::from_slice(body).map_err(|error| EventError::NotAnObject(error.to_string()))?;
        Ok(Self {
            unread: fields,
            errors: Vec::new(),
            strictness,
            noun,
        })
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.unread.iter().position(|(field, _)| field == name)?;
        Some(self.unread.swap_remove(place).1)
    }

    /// Whether a field that nobody has read yet is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.unread.iter().any(|(field, _)| field == name)
    }

    pub(super) fn fail(&mut self, name: &str, fault: Fault) {
        // RFC 6901: `~` and `/` are escaped in a pointer.
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        self.errors.push(FieldError {
            pointer,
            code: fault.code,
            detail: fault.detail,
        });
    }

    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str, Strictness) -> Result<T, Fault>,
    ) -> Option<T> {
        let Some(value) = self.take(name) else {
            self.fail(name, fault("required", "is required"));
            return None;
        };
        parse(value.get(), self.strictness)
            .map_err(|fault| self.fail(name, fault))
            .ok()
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str, Strictness) -> Result<T, Fault>,
    ) -> Option<T> {
        let value = self.take(name).filter(|value| value.get() != "null")?;
        parse(value.get(), self.strictness)
            .map_err(|fault| self.fail(name, fault))
            .ok()
    }

    /// A field that is an object; the faults of its fields are told with their places in the whole.
    pub(super) fn object<T>(
        &mut self,
        name: &str,
        noun: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let mut inner = match Self::read(value.get().as_bytes(), self.strictness, noun) {
            Ok(inner) => inner,
            Err(error) => {
                self.fail(name, fault("object", format!("must be an object: {error}")));
                return None;
            }
        };
        let found = read(&mut inner);
        if let Err(EventError::Fields(errors)) = inner.finish() {
            self.errors.extend(errors.into_iter().map(|error| FieldError {
                pointer: format!("/{name}{}", error.pointer),
                ..error
            }));
        }
        found
    }

    /// Tells a fault of the object as a whole.
    pub(super) fn fail_whole(&mut self, fault: Fault) {
        self.errors.push(FieldError {
            pointer: String::new(),
            code: fault.code,
            detail: fault.detail,
        });
    }

    /// A field of the product: required where the action needs one.
    pub(super) fn product<T>(
        &mut self,
        name: &str,
        needed: bool,
        parse: impl Fn(&str, Strictness) -> Result<T, Fault>,
    ) -> Option<T> {
        if needed {
            self.required(name, parse)
        } else {
            self.optional(name, parse)
        }
    }

    /// Ends the reading with the fields that nobody asked for, by name.
    pub(super) fn finish(mut self) -> Result<Vec<(String, String)>, EventError> {
        if self.strictness == Strictness::Strict {
            for (name, _) in std::mem::take(&mut self.unread) {
                let detail = format!("is not a field of {}", self.noun);
                self.fail(&name, fault("unknown_field", detail));
            }
        }
        if !self.errors.is_empty() {
            return Err(EventError::Fields(self.errors));
        }
        let mut unknown: Vec<_> = self
            .unread
            .into_iter()
            .map(|(name, value)| (name.into_owned(), minified(value.get())))
            .collect();
        unknown.sort();
        Ok(unknown)
    }

    pub(super) fn id<T>(parse: fn(&str) -> Result<T, IdError>) -> impl Fn(&str, Strictness) -> Result<T, Fault> {
        move |value, _| {
            let text: String = serde_json::from_str(value).map_err(|_| fault("uuid", IdError.to_string()))?;
            parse(&text).map_err(|error| fault("uuid", error.to_string()))
        }
    }

    pub(super) fn uuid(value: &str, strictness: Strictness) -> Result<Uuid, Fault> {
        // The form in which ids are written is one for all of them.
        Self::id(SessionId::parse)(value, strictness).map(SessionId::uuid)
    }

    pub(super) fn text(value: &str, _: Strictness) -> Result<String, Fault> {
        serde_json::from_str(value).map_err(|_| fault("text", "must be text"))
    }

    pub(super) fn integer(value: &str, strictness: Strictness) -> Result<i64, Fault> {
        let rule = || fault("integer", "must be a whole number of at most 64 bits");
        if strictness == Strictness::Original && value.starts_with('"') {
            let text: String = serde_json::from_str(value).map_err(|_| rule())?;
            return text.parse().map_err(|_| rule());
        }
        // Encoders that know only one kind of number write 101.0 or 1.01e2 for 101, and in JSON it is the same.
        value.parse().ok().or_else(|| whole(value)).ok_or_else(rule)
    }

    /// Money that is not negative, as a JSON number or as decimal text.
    pub(super) fn price(value: &str, strictness: Strictness) -> Result<Money, Fault> {
        let money = Self::amount(value, strictness)?;
        if money.is_negative() {
            return Err(fault("money", "must not be negative"));
        }
        Ok(money)
    }

    /// Money, as a JSON number or as decimal text.
    pub(super) fn amount(value: &str, _: Strictness) -> Result<Money, Fault> {
        let text: Cow<'_, str> = if value.starts_with('"') {
            serde_json::from_str::<String>(value)
                .map_err(|_| fault("money", "must be a decimal number"))?
                .into()
        } else {
            value.into()
        };
        Money::parse(&text).map_err(|error| fault("money", error.to_string()))
    }

    pub(super) fn time(value: &str, strictness: Strictness) -> Result<OffsetDateTime, Fault> {
        let rule = || fault("time", "must be a time such as 2023-12-18T10:30:00.000Z");
        let lax = strictness == Strictness::Original;
        let time = if value.starts_with('"') {
            let text: String = serde_json::from_str(value).map_err(|_| rule())?;
            parse_time(&text, lax).ok_or_else(rule)?
        } else if lax {
            unix_time(value).ok_or_else(rule)?
        } else {
            return Err(rule());
        };
        let time = time
            .checked_to_offset(UtcOffset::UTC)
            .filter(|time| (0..=9999).contains(&time.year()))
            .ok_or_else(rule)?;
        Ok(time
            .replace_nanosecond(time.microsecond() * 1_000)
            .expect("fewer than a second's nanoseconds"))
    }
}

/// The whole number that a JSON number with a point or an exponent is, if it is one.
fn whole(value: &str) -> Option<i64> {
    let (mantissa, exponent) = value.split_once(['e', 'E']).unwrap_or((value, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{integer}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() || significant == "-" {
        return Some(0);
    }
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let decimals = i64::try_from(fraction.len()).ok()?;
    let zeros = exponent.parse::<i64>().ok()?.checked_add(dropped - decimals)?;
    let scale = 10_i64.checked_pow(u32::try_from(zeros).ok()?)?;
    significant.parse::<i64>().ok()?.checked_mul(scale)
}

/// Reads RFC 3339, and where `lax` also what Python's `datetime` readers take: a space for the `T`, no
/// seconds, no zone (then it is UTC), and a zone without its colon or minutes.
fn parse_time(text: &str, lax: bool) -> Option<OffsetDateTime> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(time);
    }
    if !lax || !text.is_ascii() || text.len() < 16 {
        return None;
    }
    let (date, clock) = (&text[..10], &text[11..]);
    let zone_at = clock.find(['Z', 'z', '+', '-']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone_at);
    let seconds = if clock.len() == 5 { ":00" } else { "" };
    let digits: String = zone.chars().skip(1).filter(char::is_ascii_digit).collect();
    let zone = match (zone.chars().next(), digits.len()) {
        (None | Some('Z' | 'z'), _) => "Z".to_owned(),
        (Some(sign), 2) => format!("{sign}{digits}:00"),
        (Some(sign), 4) => format!("{sign}{}:{}", &digits[..2], &digits[2..]),
        _ => return None,
    };
    OffsetDateTime::parse(&format!("{date}T{clock}{seconds}{zone}"), &Rfc3339).ok()
}

/// Seconds since 1970, or milliseconds where seconds would be beyond the year 2603.
fn unix_time(value: &str) -> Option<OffsetDateTime> {
    const SECONDS_MAX: f64 = 2e10;
    // A double tells microseconds apart for every time of today.
    let amount: f64 = value.parse().ok()?;
    let seconds = if amount.abs() > SECONDS_MAX {
        amount / 1e3
    } else {
        amount
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and what saturates is no time"
    )]
    let microseconds = (seconds * 1e6).round() as i128;
    OffsetDateTime::from_unix_timestamp_nanos(microseconds.checked_mul(1_000)?).ok()
}

/// The same JSON without white space between its parts. The text must be valid JSON.
pub fn minified(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&character| {
            let keep = in_string || !character.is_ascii_whitespace();
            if escaped {
                escaped = false;
            } else if in_string && character == '\\' {
                escaped = true;
            } else if character == '"' {
                in_string = !in_string;
            }
            keep
        })
        .collect()
}

/// A JSON object whose values stay text; a repeated name is an error.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                while let Some(Name(name)) = map.next_key()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom(format_args!("more than {FIELDS_MAX} fields")));
                    }
                    if fields.iter().any(|(field, _)| *field == name) {
                        return Err(serde::de::Error::custom(format_args!(
                            "the field {name:?} stands twice"
                        )));
                    }
                    fields.push((name, map.next_value()?));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Most fields that a body may have; also bounds the search for repeated names.
const FIELDS_MAX: usize = 100;

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
