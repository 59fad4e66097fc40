//! What a person asks for: a correction before it is known which differences it makes.
//!
//! A proposal says how something shall be, in the words of a person, and exactly one thing. The basket
//! decides what that is as differences, or why it cannot be:
//! [`Basket::decide`](crate::core::basket::Basket::decide).

use uuid::Uuid;

use super::fields::fault;
use super::{AUTHOR_MAX, BY_HAND, EventError, Fault, Fields, REASON_MAX, Strictness};
use crate::core::basket::{Asked, Status};

/// What exactly one of must be there.
const KINDS: [&str; 6] = ["quantity", "price", "remove", "adjustment", "status", "undo"];

/// What a person asks for, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Who asks.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Place in the journal up to which the author saw the basket; without it, whatever it is by then.
    pub base_sequence: Option<u64>,
    /// What shall be so.
    pub asked: Asked,
}

/// A proposal as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// The id under which it is sent again, where the client chose one.
    pub id: Option<Uuid>,
    /// What is asked for.
    pub proposal: Proposal,
}

impl Proposal {
    /// Holds an author and a reason that came in another way to the rules of those that are sent.
    ///
    /// # Errors
    /// The rule that one of them breaks, for a person.
    pub fn check_texts(author: &str, reason: &str) -> Result<(), String> {
        let told = |field: &'static str| move |fault: Fault| format!("its {field} {}", fault.detail);
        check_author(author).map_err(told("author"))?;
        check_text(reason, REASON_MAX).map_err(told("reason"))
    }
}

impl Proposed {
    /// Reads a proposal from JSON. Every value has exactly its type, and unknown fields are refused.
    ///
    /// # Errors
    /// [`EventError`] with every rule that the body breaks, not only the first.
    pub fn parse(body: &[u8]) -> Result<Self, EventError> {
        let mut fields = Fields::read(body, Strictness::Strict, "a correction")?;
        let id = fields.optional("id", Fields::uuid);
        let author = fields.required("author", |value, _| author_name(value));
        let reason = fields.required("reason", |value, _| short_text(value, REASON_MAX));
        let base_sequence = fields.optional("base_sequence", |value, strictness| {
            whole(value, strictness, "a place in the journal, a whole number from 0")
        });
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| fields.has(kind)).collect();
        if kinds.len() != 1 {
            let found = if kinds.is_empty() {
                "none is there".to_owned()
            } else {
                format!("{} are there", kinds.join(" and "))
            };
            let rule = format!("exactly one of {} must be there, and {found}", KINDS.join(", "));
            fields.fail_whole(fault("one_of", rule));
        }
        let mut asked = None;
        for kind in KINDS {
            asked = read(&mut fields, kind).or(asked);
        }
        fields.finish()?;
        let (Some(author), Some(reason), Some(asked)) = (author, reason, asked) else {
            unreachable!("a required field without a value is an error, and finish reports those");
        };
        Ok(Self {
            id,
            proposal: Proposal {
                author,
                reason,
                base_sequence,
                asked,
            },
        })
    }
}

impl Proposal {
    /// Says who really asks, after the name that they give themselves: anybody can write any name, and nobody another's subject.
    #[must_use]
    pub fn signed(mut self, subject: &str) -> Self {
        if self.author == subject {
            return self;
        }
        let signature = format!(" ({subject})");
        let room = AUTHOR_MAX.saturating_sub(signature.len());
        if room == 0 {
            // The subject says it all.
            self.author = subject.chars().take(AUTHOR_MAX / 4).collect();
            return self;
        }
        while self.author.len() > room {
            self.author.pop();
        }
        self.author.push_str(&signature);
        self
    }
}

/// Reads what is asked for under this name.
fn read(fields: &mut Fields<'_>, kind: &str) -> Option<Asked> {
    match kind {
        "quantity" => fields.object(kind, "a quantity", |fields| {
            let product_id = fields.required("product_id", Fields::integer);
            let quantity = fields.required("quantity", |value, strictness| {
                whole(value, strictness, "a number of pieces, a whole number from 0")
            });
            let price = fields.optional("price", Fields::price);
            Some(Asked::Quantity {
                product_id: product_id?,
                quantity: quantity?,
                price,
            })
        }),
        "price" => fields.object(kind, "a price", |fields| {
            let product_id = fields.required("product_id", Fields::integer);
            let price = fields.required("price", Fields::price);
            Some(Asked::Price {
                product_id: product_id?,
                price: price?,
            })
        }),
        "remove" => fields.object(kind, "a removal", |fields| {
            Some(Asked::Quantity {
                product_id: fields.required("product_id", Fields::integer)?,
                quantity: 0,
                price: None,
            })
        }),
        "adjustment" => fields.object(kind, "an adjustment", |fields| {
            let by = fields.required("by", Fields::amount)?;
            Some(Asked::Adjustment { by })
        }),
        "status" => fields.object(kind, "a status", |fields| {
            let status = fields.required("to", status)?;
            Some(Asked::Status { status })
        }),
        _ => fields.object(kind, "an undoing", |fields| {
            let correction = fields.required("correction_id", Fields::uuid)?;
            Some(Asked::Undo { correction })
        }),
    }
}

/// The name of a person, who cannot be the one to whom edits by hand are put down.
fn author_name(value: &str) -> Result<String, Fault> {
    let name = Fields::text(value, Strictness::Strict)?;
    check_author(&name).map(|()| name)
}

/// Text that is not blank and has at most so many bytes.
fn short_text(value: &str, bytes_max: usize) -> Result<String, Fault> {
    let text = Fields::text(value, Strictness::Strict)?;
    check_text(&text, bytes_max).map(|()| text)
}

fn check_author(name: &str) -> Result<(), Fault> {
    check_text(name, AUTHOR_MAX)?;
    if name.trim().eq_ignore_ascii_case(BY_HAND) {
        return Err(fault(
            "reserved",
            format!("must not be {BY_HAND:?}, which stands for edits by hand"),
        ));
    }
    Ok(())
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return Err(fault("blank", "must not be blank"));
    }
    if text.len() > bytes_max {
        return Err(fault(
            "length",
            format!("must have at most {bytes_max} bytes in UTF-8, and has {}", text.len()),
        ));
    }
    Ok(())
}

fn whole(value: &str, strictness: Strictness, rule: &str) -> Result<u64, Fault> {
    let number = Fields::integer(value, strictness)?;
    u64::try_from(number).map_err(|_| fault("range", format!("must be {rule}")))
}

/// A status that a person may want.
fn status(value: &str, strictness: Strictness) -> Result<Status, Fault> {
    let word = Fields::text(value, strictness)?;
    Status::of(&word)
        .filter(|status| *status != Status::Abandoned)
        .ok_or_else(|| fault("word", "must be open, paid or cancelled"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::money::Money;

    const ID: &str = "9d7c8f0e-4b1a-4c57-8a53-0f6f2f1f7a11";

    fn parse(rest: &str) -> Result<Proposed, EventError> {
        Proposed::parse(format!("{{\"author\":\"Ada\",\"reason\":\"scanned twice\"{rest}}}").as_bytes())
    }

    fn check(rest: &str, asked: &Asked) {
        let proposed = parse(rest).unwrap();
        assert_eq!(&proposed.proposal.asked, asked, "{rest}");
    }

    #[test]
    fn a_signature_says_who_it_is_whatever_name_they_give_themselves() {
        let signed = |author: &str, subject: &str| {
            let body = format!(
                "{{\"author\":\"{author}\",\"reason\":\"r\",\"undo\":{{\"correction_id\":\"{}\"}}}}",
                Uuid::nil()
            );
            Proposed::parse(body.as_bytes())
                .unwrap()
                .proposal
                .signed(subject)
                .author
        };
        assert_eq!(signed("Ada", "u-1"), "Ada (u-1)");
        assert_eq!(signed("u-1", "u-1"), "u-1");
        for (author, subject) in [("é".repeat(50), "u-1".to_owned()), ("Ada".to_owned(), "é".repeat(128))] {
            let author = signed(&author, &subject);
            assert!(author.len() <= AUTHOR_MAX, "{author}");
            assert!(Proposal::check_texts(&author, "r").is_ok());
        }
    }

    #[test]
    fn each_kind_is_read_with_exact_money() {
        let money = |text| Money::parse(text).unwrap();
        let quantity = |quantity, price| Asked::Quantity {
            product_id: 5,
            quantity,
            price,
        };
        check(",\"quantity\":{\"product_id\":5,\"quantity\":2}", &quantity(2, None));
        check(
            ",\"quantity\":{\"product_id\":5,\"quantity\":2.0,\"price\":12.180000000000001}",
            &quantity(2, Some(money("12.18"))),
        );
        check(",\"remove\":{\"product_id\":5}", &quantity(0, None));
        check(
            ",\"price\":{\"product_id\":5,\"price\":\"3.0001\"}",
            &Asked::Price {
                product_id: 5,
                price: money("3.0001"),
            },
        );
        check(
            ",\"adjustment\":{\"by\":-0.25}",
            &Asked::Adjustment { by: money("-0.25") },
        );
        check(",\"status\":{\"to\":\"paid\"}", &Asked::Status { status: Status::Paid });
        let correction = Uuid::parse_str(ID).unwrap();
        check(
            &format!(",\"undo\":{{\"correction_id\":\"{}\"}}", ID.to_uppercase()),
            &Asked::Undo { correction },
        );
        let whole = parse(&format!(
            ",\"id\":\"{ID}\",\"base_sequence\":7,\"remove\":{{\"product_id\":5}}"
        ));
        let whole = whole.unwrap();
        assert_eq!((whole.id, whole.proposal.base_sequence), (Some(correction), Some(7)));
        assert_eq!(
            (whole.proposal.author.as_str(), whole.proposal.reason.as_str()),
            ("Ada", "scanned twice")
        );
    }

    #[test]
    fn every_fault_is_told_with_its_place_and_what_to_do() {
        for (rest, told) in [
            (
                "",
                "exactly one of quantity, price, remove, adjustment, status, undo must be there, and none is there",
            ),
            (
                ",\"remove\":{\"product_id\":5},\"status\":{\"to\":\"paid\"}",
                "and remove and status are there",
            ),
            (",\"status\":null", "status must be an object"),
            (",\"remove\":5", "remove must be an object"),
            (",\"remove\":{}", "remove/product_id is required"),
            (
                ",\"remove\":{\"product_id\":5,\"why\":1}",
                "remove/why is not a field of a removal",
            ),
            (
                ",\"remove\":{\"product_id\":5},\"why\":1",
                "why is not a field of a correction",
            ),
            (
                ",\"quantity\":{\"product_id\":5,\"quantity\":-1}",
                "quantity/quantity must be a number of pieces",
            ),
            (
                ",\"price\":{\"product_id\":5,\"price\":-1}",
                "price/price must not be negative",
            ),
            (",\"adjustment\":{\"by\":0.00001}", "at most four decimals"),
            (",\"status\":{\"to\":\"abandoned\"}", "must be open, paid or cancelled"),
            (",\"undo\":{\"correction_id\":\"last\"}", "correction_id must be a UUID"),
            (
                ",\"base_sequence\":-1,\"remove\":{\"product_id\":5}",
                "base_sequence must be a place",
            ),
            (",\"id\":7,\"remove\":{\"product_id\":5}", "id must be a UUID"),
        ] {
            let error = parse(rest).unwrap_err().to_string();
            assert!(error.contains(told), "{rest}: {error}");
        }
        let body = format!(
            "{{\"author\":\"\",\"reason\":\"{}\",\"remove\":{{\"product_id\":5}}}}",
            "é".repeat(501)
        );
        assert_eq!(
            Proposed::parse(body.as_bytes()).unwrap_err().to_string(),
            "author must not be blank; reason must have at most 1000 bytes in UTF-8, and has 1002"
        );
        assert!(matches!(Proposed::parse(b"[]"), Err(EventError::NotAnObject(_))));
    }
}
