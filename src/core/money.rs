//! Exact money: a whole number of 1/10,000 of the currency unit.
//!
//! Amounts come from decimal text and never pass through a float. Phones add prices up in doubles
//! and send `12.180000000000001`, so what lies within 10^-6 of four decimals is rounded to them.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// Units of [`Money`] in one unit of the currency.
const SCALE: i128 = 10_000;
/// Largest absolute amount that an event may name, in currency units.
const LIMIT: i128 = 100_000_000_000;

/// An amount of money in 1/10,000 of the currency unit.
///
/// Sums cannot overflow: an event names at most 10^11 currency units and a basket has a bounded
/// number of events, which leaves 128 bits far from full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Money(i128);

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("must be a decimal number such as 3.50")]
    NotANumber,
    /// More decimals than money has.
    #[error("must have at most four decimals")]
    TooPrecise,
    /// Beyond the limit.
    #[error("must be at most 100000000000")]
    TooLarge,
}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount given in 1/10,000 of the currency unit.
    pub const fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// The amount in 1/10,000 of the currency unit.
    pub const fn units(self) -> i128 {
        self.0
    }

    /// The amount in whole currency units, as near as a double comes: for pictures, never to reckon with.
    #[expect(clippy::cast_precision_loss, reason = "a picture does not need more")]
    pub fn nearly(self) -> f64 {
        self.0 as f64 / SCALE as f64
    }

    /// Whether the amount is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The amount of `quantity` pieces at this price.
    #[must_use]
    pub fn times(self, quantity: u32) -> Self {
        Self(self.0 * i128::from(quantity))
    }

    /// Reads a decimal number: optional minus, digits, optional fraction, optional exponent.
    ///
    /// # Errors
    /// [`MoneyError`], which says which rule was broken.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let money = Self::parse_sum(text)?;
        if money.0.abs() > LIMIT * SCALE {
            Err(MoneyError::TooLarge)
        } else {
            Ok(money)
        }
    }

    /// Reads a decimal number as [`parse`](Self::parse) does, for sums, which may be larger than what an event may name.
    ///
    /// # Errors
    /// [`MoneyError`]; too large is what has more than 22 digits before the point.
    pub fn parse_sum(text: &str) -> Result<Self, MoneyError> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || mantissa.ends_with('.') {
            return Err(MoneyError::NotANumber);
        }
        let digits = || {
            whole
                .bytes()
                .chain(fraction.bytes())
                .map(|byte| i128::from(byte - b'0'))
        };
        if digits().all(|digit| digit == 0) {
            return Ok(Self::ZERO);
        }
        // The number is `digits` read as one whole number, with the point this far from its left end.
        let point = i64::try_from(whole.len())
            .map_err(|_| MoneyError::TooLarge)?
            .saturating_add(exponent);
        let leading_zeros =
            i64::try_from(digits().take_while(|digit| *digit == 0).count()).map_err(|_| MoneyError::TooLarge)?;
        if point.saturating_sub(leading_zeros) > 22 {
            return Err(MoneyError::TooLarge);
        }
        // Ten decimals are enough to tell noise (below 10^-6) from a fifth decimal; later ones only
        // matter on the boundary, where they can push an amount over it, never under.
        let mut value: i128 = 0;
        let mut rest_is_zero = true;
        for (place, digit) in (1_i64..).zip(digits()) {
            if place <= point.saturating_add(10) {
                value = value * 10 + digit;
            } else {
                rest_is_zero &= digit == 0;
            }
        }
        let count = i64::try_from(whole.len() + fraction.len()).map_err(|_| MoneyError::TooLarge)?;
        for _ in count..point.saturating_add(10) {
            value *= 10;
        }
        // Now `value` counts 10^-10 of the unit; a unit of money is a million of these.
        let unit = 1_000_000;
        let rounded = (value + unit / 2) / unit;
        let noise = (value - rounded * unit).abs();
        let noise_limit = 10_000;
        if noise > noise_limit || (noise == noise_limit && !rest_is_zero && value > rounded * unit) {
            return Err(MoneyError::TooPrecise);
        }
        Ok(Self(if negative { -rounded } else { rounded }))
    }
}

fn parse_exponent(text: &str) -> Result<i64, MoneyError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MoneyError::NotANumber);
    }
    // Far beyond any amount either way, so the clamp changes no verdict.
    let magnitude = digits.parse::<i64>().unwrap_or(1_000_000).min(1_000_000);
    Ok(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// The shortest decimal form with at least one decimal (`3.5`, `3.0`, `12.18`), which is a JSON number.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (
            self.0.unsigned_abs() / SCALE.unsigned_abs(),
            self.0.unsigned_abs() % SCALE.unsigned_abs(),
        );
        let digits = format!("{fraction:04}");
        let shown = digits.trim_end_matches('0');
        write!(f, "{sign}{whole}.{}", if shown.is_empty() { "0" } else { shown })
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
impl Neg for Money {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}
impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, MoneyError>) {
        assert_eq!(
            Money::parse(text)
                .map(|money| money.to_string())
                .as_deref()
                .map_err(|error| *error),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn decimal_text_is_read_exactly() {
        check("3.50", Ok("3.5"));
        check("3", Ok("3.0"));
        check("0", Ok("0.0"));
        check("-0.0", Ok("0.0"));
        check("-1.25", Ok("-1.25"));
        check("12.18", Ok("12.18"));
        check("0.0001", Ok("0.0001"));
        check("1e2", Ok("100.0"));
        check("1.5E-3", Ok("0.0015"));
        check("350e-2", Ok("3.5"));
        check("0.00000000000000000000001e23", Ok("1.0"));
        check("100000000000", Ok("100000000000.0"));
        check("0e999999999999999999", Ok("0.0"));
    }

    #[test]
    fn the_noise_of_doubles_is_rounded_away() {
        check("12.180000000000001", Ok("12.18"));
        check("12.179999999999999", Ok("12.18"));
        check("0.30000000000000004", Ok("0.3"));
        check("3.500001", Ok("3.5"));
        check("3.499999", Ok("3.5"));
        check("1e-30", Ok("0.0"));
    }

    #[test]
    fn what_is_not_money_is_refused_with_the_rule() {
        for text in [
            "", "-", ".", "1.", ".5", "NaN", "Infinity", "1e", "1e+", "0x10", "1,5", " 1", "1 ", "--1", "+1", "1.2.3",
        ] {
            check(text, Err(MoneyError::NotANumber));
        }
        check("3.50001", Err(MoneyError::TooPrecise));
        check("3.5000011", Err(MoneyError::TooPrecise));
        check("0.00005", Err(MoneyError::TooPrecise));
        check("100000000000.0001", Err(MoneyError::TooLarge));
        check("1e400", Err(MoneyError::TooLarge));
        check(
            "999999999999999999999999999999999999999999999",
            Err(MoneyError::TooLarge),
        );
    }
}
