//! Durations as options write them: a whole number and its unit.

use std::str::FromStr;
use std::time::Duration;

/// Reads `250ms`, `5s`, `10m` or `24h`; the unit is required, and nothing lasts 0.
///
/// # Errors
/// The rule, for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let rule = || "must be a whole number above 0 with its unit, such as 250ms, 5s, 10m or 24h".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(rule)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(rule()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(rule)
}

/// A duration, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNever(pub Option<Duration>);

impl FromStr for OrNever {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        parse_duration(text)
            .map(|duration| Self(Some(duration)))
            .map_err(|rule| format!("{rule}; or never"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_no_duration() {
        assert_eq!("never".parse(), Ok(OrNever(None)));
        assert_eq!("30m".parse(), Ok(OrNever(Some(Duration::from_mins(30)))));
        assert!("0s".parse::<OrNever>().unwrap_err().ends_with("or never"));
    }

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("24h", 86_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "1.5s", "5 s", "5S", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
