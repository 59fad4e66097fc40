//! The parameters of a route or of a resource: read whole, or refused by name.
//!
//! A parameter that a route does not have is refused rather than ignored, so that a misspelt one
//! cannot pass for one that had no effect.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why parameters are refused, with the rule that they break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no parameter of this name.
    #[error("{0}")]
    Unknown(String),
    /// A value breaks its rule.
    #[error("{0}")]
    Invalid(String),
}

/// The parameters of one request, each at most once.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query of which only parameters of these names may be part.
    pub fn read(query: Option<&str>, names: &[&str]) -> Result<Self, QueryError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for parameter in query.unwrap_or_default().split('&').filter(|text| !text.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(refused("a parameter is not UTF-8 with % before two hex digits"));
            };
            if !names.contains(&name.as_str()) {
                let known = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                return Err(QueryError::Unknown(format!(
                    "{name} is not a parameter of this route; it has {known}"
                )));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(refused(format!("{name} must be there once")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The parameter as it was sent.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The parameter as `parse` reads it; what that does not read breaks this rule.
    pub fn value<T>(
        &self,
        name: &str,
        rule: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, QueryError> {
        self.text(name)
            .map(|text| parse(text).ok_or_else(|| refused(format!("{name} must be {rule}"))))
            .transpose()
    }

    /// A place in the journal.
    pub fn place(&self, name: &str) -> Result<Option<u64>, QueryError> {
        self.value(
            name,
            "one place in the journal, a whole number of at most 64 bits",
            whole_number,
        )
    }

    /// A time in UTC.
    pub fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, QueryError> {
        self.value(name, "a time such as 2023-12-18T10:30:00.000Z", |text| {
            let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            time.checked_to_offset(time::UtcOffset::UTC)
        })
    }

    /// Refuses a request that has more than one of these parameters.
    pub fn at_most_one_of(&self, names: &[&str]) -> Result<(), QueryError> {
        let count = names.iter().filter(|name| self.text(name).is_some()).count();
        if count > 1 {
            return Err(refused(format!("only one of {} may be there", names.join(", "))));
        }
        Ok(())
    }
}

/// A whole number in digits, without a sign.
pub fn whole_number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// The answer to a parameter that breaks a rule.
pub fn refused(detail: impl Into<String>) -> QueryError {
    QueryError::Invalid(detail.into())
}

/// Undoes percent-encoding. A plus stays one, as it is part of a time's zone and no value here has spaces.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let place = |query: &str| Query::read(Some(query), &["min_sequence", "at"])?.place("min_sequence");
        assert_eq!(place("").unwrap(), None);
        assert_eq!(place("&min%5Fsequence=%31&").unwrap(), Some(1));
        assert_eq!(place("min_sequence=18446744073709551615").unwrap(), Some(u64::MAX));
        for (query, is_unknown) in [
            ("min_sequence", false),
            ("min_sequence=", false),
            ("min_sequence=-1", false),
            ("min_sequence=+1", false),
            ("min_sequence=1.0", false),
            ("min_sequence=18446744073709551616", false),
            ("min_sequence=1&min_sequence=2", false),
            ("min_sequence=%", false),
            ("min_sequence=%3", false),
            ("min_sequence=%zz", false),
            ("min_sequence=%ff", false),
            ("minsequence=1", true),
        ] {
            let unknown = matches!(place(query).unwrap_err(), QueryError::Unknown(_));
            assert_eq!(unknown, is_unknown, "{query}");
        }
    }

    #[test]
    fn a_time_may_have_any_zone_and_is_read_in_utc() {
        let time = |text: &str| Query::read(Some(&format!("at={text}")), &["at"])?.time("at");
        let expected = time("2023-12-18T10:30:00Z").unwrap().unwrap();
        for text in [
            "2023-12-18T11:30:00%2B01:00",
            "2023-12-18T11:30:00+01:00",
            "2023-12-18t10%3A30%3A00z",
        ] {
            assert_eq!(time(text).unwrap().unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "now",
            "2023-12-18",
            "2023-12-18T10:30:00",
            "9999-12-31T23:59:59-01:00",
            "1702895400",
        ] {
            assert!(matches!(time(text).unwrap_err(), QueryError::Invalid(_)), "{text}");
        }
    }

    #[test]
    fn parameters_that_exclude_each_other_are_refused_together() {
        let names = ["at", "sequence"];
        let query = |text: &str| Query::read(Some(text), &names).unwrap().at_most_one_of(&names);
        assert!(query("at=1").is_ok());
        assert!(matches!(query("at=1&sequence=").unwrap_err(), QueryError::Invalid(_)));
    }
}
