//! Checkout events: the wire format of the phones, its canonical form in the journal, and identity.
//!
//! The format is the one that the phones already speak: twelve fields, of which money is a JSON
//! number. It is read from the decimal text, every fault of a body is reported at once, and what
//! the canonical form writes, the reader reads back to the same event.

mod abandonment;
mod correction;
mod fields;
mod proposal;

use std::fmt::Write as _;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use crate::core::id::{BasketId, SessionId, ShopId, ShopperId};
use crate::core::money::Money;
use fields::{Fault, Fields};

pub use abandonment::{ABANDONMENT_TYPE, Abandonment};
pub use correction::{AUTHOR_MAX, BY_HAND, CORRECTION_TYPE, Change, Correction, REASON_MAX};
pub use fields::minified;
pub use proposal::{Proposal, Proposed};

/// Largest number of pieces that one action may name.
pub const QUANTITY_MAX: u32 = 10_000;
/// Longest word that may stand as an action, in letters.
const ACTION_LETTERS_MAX: usize = 32;
/// Separates our derived ids from everybody else's; fixed for ever, as ids in the journal depend on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_5f2e_4c0b_5d0e_9c55_e2f0_7a1d_3b64);

/// What the app's `action_id` stands for, which decides identity and order within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ActionIdMeaning {
    /// Not known: the number of the action while no id of the session repeats, else the code of its kind.
    #[default]
    Auto,
    /// The number of the action: it alone identifies and orders.
    Number,
    /// The code of the kind of action: time orders.
    Code,
}

/// What an action does to the basket; any other word is kept, and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pieces of a product go into the basket.
    Add,
    /// Pieces of a product leave the basket.
    Remove,
    /// The shopper pays.
    Checkout,
    /// The shopper leaves without paying.
    Cancel,
    /// A word that has no meaning here.
    Other,
}

impl Kind {
    /// The meaning of a word, in any case.
    fn of(word: &str) -> Self {
        match word.to_ascii_uppercase().as_str() {
            "ADD" => Self::Add,
            "REMOVE" => Self::Remove,
            "CHECKOUT" => Self::Checkout,
            "CANCEL" => Self::Cancel,
            _ => Self::Other,
        }
    }

    /// Whether an action of this kind ends the visit and so needs no product.
    fn ends_visit(self) -> bool {
        matches!(self, Self::Checkout | Self::Cancel)
    }
}

/// What a shopper did, as the phone told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The visit.
    pub session: SessionId,
    /// The shop visited.
    pub shop: ShopId,
    /// Who shops.
    pub shopper: ShopperId,
    /// The action's number, or the code of its kind: see [`ActionIdMeaning`].
    pub action_id: i64,
    /// When the phone made the action, in UTC, whole microseconds.
    pub create_time: OffsetDateTime,
    /// The action's word as it was sent.
    pub action: String,
    /// Product name.
    pub product_name: Option<String>,
    /// Product number; it names the basket's line.
    pub product_id: Option<i64>,
    /// Price of one piece.
    pub product_price: Option<Money>,
    /// Bar code.
    pub upc: Option<String>,
    /// Product category.
    pub category_id: Option<String>,
    /// What the app believes the basket to cost after this action.
    pub basket_total: Money,
    /// Number of pieces, from 1 to [`QUANTITY_MAX`].
    pub quantity: u32,
    /// Fields that this version does not know, as name and compact JSON, by name.
    pub unknown: Vec<(String, String)>,
}

/// An event of any kind, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEvent {
    /// What a shopper did.
    Action(Event),
    /// That the shopper did nothing for a long time.
    Abandonment(Abandonment),
    /// What a person who is not the shopper changed.
    Correction(Correction),
}

impl JournalEvent {
    /// Reads an event by its `ce-type`. One without a type is an action: only our own API sets one.
    ///
    /// # Errors
    /// Why it cannot be read, for a person.
    pub fn read(event_type: Option<&str>, body: &[u8]) -> Result<Self, String> {
        match event_type {
            None | Some(ACTION_TYPE) => Event::parse(body, Strictness::Original)
                .map(Self::Action)
                .map_err(|error| error.to_string()),
            Some(ABANDONMENT_TYPE) => Abandonment::parse(body).map(Self::Abandonment),
            Some(CORRECTION_TYPE) => Correction::parse(body).map(Self::Correction),
            Some(other) => Err(format!("this version does not know events of type {other:?}")),
        }
    }

    /// The basket that the event belongs to.
    pub fn basket(&self) -> BasketId {
        match self {
            Self::Action(event) => event.basket(),
            Self::Abandonment(abandonment) => abandonment.basket,
            Self::Correction(correction) => correction.basket,
        }
    }
}

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded<E = Event> {
    /// Place in the journal.
    pub sequence: u64,
    /// When the journal took it, in UTC; the views keep milliseconds.
    pub recorded_at: OffsetDateTime,
    /// The event.
    pub event: E,
}

impl<E> Recorded<E> {
    /// The same place with another event, or another form of it.
    pub fn with<F>(&self, event: F) -> Recorded<F> {
        Recorded {
            sequence: self.sequence,
            recorded_at: self.recorded_at,
            event,
        }
    }
}

/// Which fields a body may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As the original service read it: unknown fields are kept, numbers may come as text, a time
    /// may lack its zone (then it is UTC) or be a number of seconds.
    Original,
    /// Unknown fields are refused by name, and every value has exactly its JSON type.
    Strict,
}

/// A rule that a field of a body breaks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// JSON pointer to the field.
    pub pointer: String,
    /// Stable word for the rule.
    pub code: &'static str,
    /// The rule, for a person.
    pub detail: String,
}

/// Why a body is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The body is not a JSON object, or names a field twice.
    #[error("the body is not a JSON object: {0}")]
    NotAnObject(String),
    /// Fields break rules; all of them are told.
    #[error("{}", summary(.0))]
    Fields(Vec<FieldError>),
}

fn summary(errors: &[FieldError]) -> String {
    let mut text = String::new();
    for (place, error) in errors.iter().enumerate() {
        let separator = if place == 0 { "" } else { "; " };
        let _ = write!(
            text,
            "{separator}{} {}",
            error.pointer.trim_start_matches('/'),
            error.detail
        );
    }
    text
}

impl Event {
    /// Reads an event from JSON.
    ///
    /// # Errors
    /// [`EventError`] with every rule that the body breaks, not only the first.
    pub fn parse(body: &[u8], strictness: Strictness) -> Result<Self, EventError> {
        let mut fields = Fields::read(body, strictness, "an event")?;
        let session = fields.required("session_id", Fields::id(SessionId::parse));
        let shop = fields.required("shop_id", Fields::id(ShopId::parse));
        let shopper = fields.required("shopper_id", Fields::id(ShopperId::parse));
        let action_id = fields.required("action_id", Fields::integer);
        let create_time = fields.required("create_time", Fields::time);
        let action = fields.required("action", action_word);
        let needs_product = action.as_deref().is_none_or(|word| !Kind::of(word).ends_visit());
        let product_name = fields.product("product_name", needs_product, Fields::text);
        let product_id = fields.product("product_id", needs_product, Fields::integer);
        let product_price = fields.product("product_price", needs_product, Fields::price);
        let upc = fields.product("UPC", needs_product, Fields::text);
        let category_id = fields.product("category_id", needs_product, Fields::text);
        let basket_total = fields.required("basket_total", Fields::price);
        let quantity = fields.optional("quantity", quantity);
        let unknown = fields.finish()?;
        let (
            Some(session),
            Some(shop),
            Some(shopper),
            Some(action_id),
            Some(create_time),
            Some(action),
            Some(basket_total),
        ) = (session, shop, shopper, action_id, create_time, action, basket_total)
        else {
            unreachable!("a required field without a value is an error, and finish reports those");
        };
        Ok(Self {
            session,
            shop,
            shopper,
            action_id,
            create_time,
            action,
            product_name,
            product_id,
            product_price,
            upc,
            category_id,
            basket_total,
            quantity: quantity.unwrap_or(1),
            unknown,
        })
    }

    /// The basket that the event belongs to.
    pub fn basket(&self) -> BasketId {
        BasketId {
            shop: self.shop,
            session: self.session,
        }
    }

    /// What the action does.
    pub fn kind(&self) -> Kind {
        Kind::of(&self.action)
    }

    /// The event's identity for ever: two events with the same one are copies of each other.
    pub fn identity(&self, meaning: ActionIdMeaning) -> Uuid {
        let mut key = [0_u8; 48];
        key[..16].copy_from_slice(self.shop.uuid().as_bytes());
        key[16..32].copy_from_slice(self.session.uuid().as_bytes());
        key[32..40].copy_from_slice(&self.action_id.to_be_bytes());
        if meaning != ActionIdMeaning::Number {
            key[40..].copy_from_slice(&unix_microseconds(self.create_time).to_be_bytes());
        }
        Uuid::new_v5(&NAMESPACE, &key)
    }

    /// A digest of what the event says, for comparing copies of one identity.
    ///
    /// Fields that this version does not know take no part: a phone that counts its attempts in
    /// such a field still sends the same event.
    pub fn digest(&self) -> u128 {
        self.canonical().1
    }

    /// The canonical JSON that the journal keeps: fixed order, compact, money in its shortest form.
    pub fn canonical_json(&self) -> String {
        self.canonical().0
    }

    /// The canonical JSON and the digest, for little more than the price of one.
    pub fn canonical(&self) -> (String, u128) {
        let mut json = self.known_json();
        let digest = Uuid::new_v5(&NAMESPACE, json.as_bytes()).as_u128();
        if !self.unknown.is_empty() {
            json.pop();
            for (name, value) in &self.unknown {
                let _ = write!(json, ",{}:{value}", quoted(name));
            }
            json.push('}');
        }
        (json, digest)
    }

    fn known_json(&self) -> String {
        let mut json = self.twelve_fields(&rfc3339(self.create_time));
        if self.quantity != 1 {
            json.pop();
            let _ = write!(json, ",\"quantity\":{}}}", self.quantity);
        }
        json
    }

    /// A JSON object of the twelve original fields in their original order, with this text as `create_time`.
    pub fn twelve_fields(&self, create_time: &str) -> String {
        let text = |value: &Option<String>| value.as_deref().map_or_else(|| "null".to_owned(), quoted);
        let mut json = String::with_capacity(448);
        let _ = write!(
            json,
            "{{\"session_id\":\"{}\",\"shop_id\":\"{}\",\"shopper_id\":\"{}\",\"action_id\":{},\"create_time\":\"{create_time}\",\"action\":\"{}\",\"product_name\":{},\"product_id\":",
            self.session,
            self.shop,
            self.shopper,
            self.action_id,
            self.action,
            text(&self.product_name)
        );
        match self.product_id {
            Some(id) => {
                let _ = write!(json, "{id}");
            }
            None => json.push_str("null"),
        }
        json.push_str(",\"product_price\":");
        match self.product_price {
            Some(price) => {
                let _ = write!(json, "{price}");
            }
            None => json.push_str("null"),
        }
        let _ = write!(
            json,
            ",\"UPC\":{},\"category_id\":{},\"basket_total\":{}}}",
            text(&self.upc),
            text(&self.category_id),
            self.basket_total
        );
        json
    }

    /// The event's `CloudEvents` attributes as NATS headers (`CloudEvents` 1.0, NATS binding, binary mode).
    ///
    /// `ce-subject` is the session, so that an event whose body cannot be read still names its basket.
    pub fn headers(&self, id: Uuid) -> Vec<(&'static str, String)> {
        let mut headers = attributes(self.basket(), id, ACTION_TYPE);
        headers.push(("ce-time", rfc3339(self.create_time)));
        headers
    }
}

/// The `CloudEvents` attributes that each event has.
fn attributes(basket: BasketId, id: Uuid, event_type: &str) -> Vec<(&'static str, String)> {
    vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", id.to_string()),
        ("ce-source", format!("/shops/{}", basket.shop)),
        ("ce-type", event_type.to_owned()),
        ("ce-subject", basket.session.to_string()),
        ("content-type", "application/json".to_owned()),
    ]
}

/// `ce-type` of a shopper's action.
pub const ACTION_TYPE: &str = "ezout.checkout.action.v1";

fn action_word(value: &str, _: Strictness) -> Result<String, Fault> {
    let rule = || Fault {
        code: "word",
        detail: format!("must be a word of 1 to {ACTION_LETTERS_MAX} letters or _, such as ADD"),
    };
    let word: String = serde_json::from_str(value).map_err(|_| rule())?;
    let legal = (1..=ACTION_LETTERS_MAX).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if legal { Ok(word) } else { Err(rule()) }
}

fn quantity(value: &str, strictness: Strictness) -> Result<u32, Fault> {
    let rule = Fault {
        code: "range",
        detail: format!("must be a whole number from 1 to {QUANTITY_MAX}"),
    };
    let quantity = Fields::integer(value, strictness)?;
    u32::try_from(quantity)
        .ok()
        .filter(|quantity| (1..=QUANTITY_MAX).contains(quantity))
        .ok_or(rule)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Microseconds since 1970 in UTC.
pub fn unix_microseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).expect("a four-digit year is within 64 bits of microseconds")
}

/// Reads what [`unix_microseconds`] wrote; nothing if it is no time.
pub fn from_unix_microseconds(text: &str) -> Option<OffsetDateTime> {
    let microseconds: i64 = text.parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1_000).ok()
}

/// A time as exact as the views keep it; an event folded now must equal the same one read back.
pub fn in_milliseconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(u32::from(time.millisecond()) * 1_000_000)
        .expect("fewer than a second's nanoseconds")
}

/// RFC 3339 in UTC with as many decimals (none, three or six) as the microseconds need.
pub fn rfc3339(time: OffsetDateTime) -> String {
    with_decimals(
        time,
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]"),
        "Z",
        true,
    )
}

/// A time as the original service printed it: `2023-12-18 10:30:00+00:00`, with six decimals where there are any.
pub fn original_time(time: OffsetDateTime) -> String {
    with_decimals(
        time,
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
        "+00:00",
        false,
    )
}

fn with_decimals(time: OffsetDateTime, format: &[BorrowedFormatItem<'_>], zone: &str, milliseconds: bool) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let mut text = time.format(format).expect("a valid time has all of these parts");
    let microsecond = time.microsecond();
    if milliseconds && microsecond.is_multiple_of(1_000) && microsecond != 0 {
        let _ = write!(text, ".{:03}", microsecond / 1_000);
    } else if microsecond != 0 {
        let _ = write!(text, ".{microsecond:06}");
    }
    text.push_str(zone);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shop_id":"123e4567-e89b-42d3-a456-426614174000",
        "shopper_id":"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","action_id":101,"create_time":"2023-12-18T10:30:00.000Z",
        "action":"ADD","product_name":"FUJI Apples","product_id":500100,"product_price":3.50,"UPC":"042100005264",
        "category_id":"fruit","basket_total":12.18}"#;
    const CANONICAL: &str = r#"{"session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shop_id":"123e4567-e89b-42d3-a456-426614174000","shopper_id":"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","action_id":101,"create_time":"2023-12-18T10:30:00Z","action":"ADD","product_name":"FUJI Apples","product_id":500100,"product_price":3.5,"UPC":"042100005264","category_id":"fruit","basket_total":12.18}"#;

    fn with(field: &str, value: &str) -> Vec<u8> {
        let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(EXAMPLE).unwrap();
        body.remove(field);
        let rest = serde_json::to_string(&body).unwrap();
        format!("{{{}:{value},{}", quoted(field), &rest[1..]).into_bytes()
    }

    fn accepts(field: &str, value: &str, strictness: Strictness) -> Event {
        Event::parse(&with(field, value), strictness).unwrap_or_else(|error| panic!("{field}={value}: {error}"))
    }

    fn refuses(field: &str, value: &str, strictness: Strictness, code: &str) {
        match Event::parse(&with(field, value), strictness) {
            Err(EventError::Fields(errors)) => assert!(
                errors
                    .iter()
                    .any(|error| error.code == code && error.pointer == format!("/{field}")),
                "{field}={value}: {errors:?}"
            ),
            other => panic!("{field}={value}: {other:?}"),
        }
    }

    #[test]
    fn the_original_example_has_one_canonical_form() {
        let event = Event::parse(EXAMPLE.as_bytes(), Strictness::Strict).unwrap();
        assert_eq!(event.canonical_json(), CANONICAL);
        assert_eq!(Event::parse(CANONICAL.as_bytes(), Strictness::Strict).unwrap(), event);
    }

    #[test]
    fn what_is_kept_reads_back_to_the_same_event() {
        for (field, value) in [
            ("quantity", "3"),
            ("attempt", "{ \"n\": [1, 2.50, \" a \\\" b\"] }"),
            ("product_name", "\"Caf\\u00e9 \\\"x\\\"\\n\""),
        ] {
            let event = accepts(field, value, Strictness::Original);
            assert_eq!(
                Event::parse(event.canonical_json().as_bytes(), Strictness::Original).unwrap(),
                event
            );
        }
        let kept = accepts("attempt", "{ \"n\": [1, 2.50, \" a \\\" b\"] }", Strictness::Original);
        assert!(
            kept.canonical_json()
                .ends_with(r#","attempt":{"n":[1,2.50," a \" b"]}}"#)
        );
    }

    #[test]
    fn what_the_original_accepted_is_accepted() {
        use Strictness::Original;
        let example = Event::parse(EXAMPLE.as_bytes(), Original).unwrap();
        assert_eq!(accepts("product_price", "3.500000000000001", Original), example);
        assert_eq!(accepts("product_price", "\"3.50\"", Original), example);
        assert_eq!(accepts("action_id", "\"101\"", Original), example);
        assert_eq!(accepts("create_time", "\"2023-12-18 10:30:00\"", Original), example);
        assert_eq!(
            accepts("create_time", "\"2023-12-18T12:30:00+02:00\"", Original),
            example
        );
        assert_eq!(accepts("create_time", "\"2023-12-18T10:30\"", Original), example);
        assert_eq!(
            accepts("create_time", "\"2023-12-18 12:30:00+0200\"", Original),
            example
        );
        assert_eq!(accepts("create_time", "1702895400", Original), example);
        assert_eq!(accepts("create_time", "1702895400000", Original), example);
        assert_eq!(
            accepts("session_id", "\"4E29B2D37C8A446EA4E1D8E2A51C0E94\"", Original),
            example
        );
        assert_eq!(accepts("action", "\"Scan_Again\"", Original).kind(), Kind::Other);
        assert_eq!(accepts("action", "\"remove\"", Original).kind(), Kind::Remove);
    }

    #[test]
    fn a_whole_number_is_one_however_json_writes_it() {
        use Strictness::{Original, Strict};
        let example = Event::parse(EXAMPLE.as_bytes(), Strict).unwrap();
        for number in ["101.0", "101.000", "1.01e2", "1010E-1", "0.101e+3"] {
            assert_eq!(accepts("action_id", number, Original), example, "{number}");
            assert_eq!(accepts("action_id", number, Strict), example, "{number}");
        }
        for (number, expected) in [
            ("-0.0", 0),
            ("0e99", 0),
            ("9223372036854775800.0", 9_223_372_036_854_775_800),
            ("-9223372036854775808.0", i64::MIN),
        ] {
            assert_eq!(accepts("action_id", number, Strict).action_id, expected, "{number}");
        }
    }

    #[test]
    fn a_body_that_breaks_a_rule_is_refused_by_field_and_rule() {
        use Strictness::{Original, Strict};
        for id in ["\".\"", "\"*\"", "\">\"", "\" \"", "\"\\u0000\"", "1", "null"] {
            refuses("session_id", id, Original, "uuid");
            refuses("shop_id", id, Original, "uuid");
        }
        for price in [
            "-1",
            "-0.01",
            "1e400",
            "3.50001",
            "\"NaN\"",
            "null",
            "true",
            "[]",
            "100000000001",
            "\"\"",
        ] {
            refuses("product_price", price, Original, "money");
            refuses("basket_total", price, Original, "money");
        }
        for word in [
            "\"\"",
            "\"A B\"",
            "\"ADD.1\"",
            "1",
            "null",
            "\"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG\"",
            "\"\\u0000\"",
        ] {
            refuses("action", word, Original, "word");
        }
        for number in [
            "1.5",
            "\"x\"",
            "\"\"",
            "null",
            "9223372036854775808",
            "9223372036854775808.0",
            "true",
            "1e-1",
            "1e19",
            "1e99999999999999999999",
        ] {
            refuses("action_id", number, Original, "integer");
        }
        for time in [
            "\"yesterday\"",
            "null",
            "\"2023-13-01T00:00:00Z\"",
            "\"\"",
            "true",
            "1e300",
            "-1e300",
        ] {
            refuses("create_time", time, Original, "time");
        }
        refuses("create_time", "1702895400", Strict, "time");
        refuses("create_time", "\"2023-12-18T10:30:00\"", Strict, "time");
        refuses("action_id", "\"101\"", Strict, "integer");
        refuses("colour", "\"red\"", Strict, "unknown_field");
        refuses("quantity", "0", Original, "range");
        refuses("quantity", "10001", Original, "range");
        refuses("UPC", "42", Original, "text");
    }

    #[test]
    fn every_missing_field_is_named() {
        let Err(EventError::Fields(errors)) = Event::parse(b"{}", Strictness::Original) else {
            panic!("accepted")
        };
        assert_eq!(errors.len(), 12);
        assert!(errors.iter().all(|error| error.code == "required"));
    }

    #[test]
    fn paying_needs_no_product() {
        let body = br#"{"session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shop_id":"123e4567-e89b-42d3-a456-426614174000",
            "shopper_id":"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","action_id":7,"create_time":"2023-12-18T10:30:00.000Z","action":"CHECKOUT","basket_total":1}"#;
        let event = Event::parse(body, Strictness::Strict).unwrap();
        assert_eq!(event.product_id, None);
        assert_eq!(
            Event::parse(event.canonical_json().as_bytes(), Strictness::Strict).unwrap(),
            event
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{\"a\":1}x",
            "{\"a\":1,\"a\":2}",
            "{\"a\":NaN}",
            "\u{feff}{}",
            deep.as_str(),
        ] {
            assert!(
                Event::parse(body.as_bytes(), Strictness::Original).is_err(),
                "{}",
                &body[..body.len().min(40)]
            );
        }
        assert!(Event::parse(b"{\"action\":\"\xff\"}", Strictness::Original).is_err());
    }

    #[test]
    fn identity_is_the_action_and_its_time_and_the_digest_what_it_says() {
        use ActionIdMeaning::{Auto, Number};
        let example = Event::parse(EXAMPLE.as_bytes(), Strictness::Original).unwrap();
        let dearer = accepts("product_price", "4", Strictness::Original);
        let later = accepts("create_time", "\"2023-12-18T10:30:00.001Z\"", Strictness::Original);
        let counted = accepts("attempt", "2", Strictness::Original);
        assert_eq!(example.identity(Auto), dearer.identity(Auto));
        assert_ne!(example.digest(), dearer.digest());
        assert_ne!(example.identity(Auto), later.identity(Auto));
        assert_eq!(example.identity(Number), later.identity(Number));
        assert_eq!(example.digest(), counted.digest());
    }

    #[test]
    fn the_original_form_of_a_time_is_kept() {
        let event = Event::parse(EXAMPLE.as_bytes(), Strictness::Original).unwrap();
        assert_eq!(original_time(event.create_time), "2023-12-18 10:30:00+00:00");
        let event = accepts("create_time", "\"2023-12-18T10:30:00.123Z\"", Strictness::Original);
        assert_eq!(original_time(event.create_time), "2023-12-18 10:30:00.123000+00:00");
        assert_eq!(rfc3339(event.create_time), "2023-12-18T10:30:00.123Z");
    }
}
