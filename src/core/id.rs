//! Ids of shops, sessions and shoppers: parsed once, legal everywhere afterwards.
//!
//! Every id is a UUID in canonical form (lower case, hyphens), so whatever is parsed is legal as a
//! NATS token, a RES name part and a MongoDB key. NATS accepts `*` and `>` in a *publish* subject,
//! so this is a security rule and not only a matter of taste.

use std::fmt;

use uuid::Uuid;

/// What is wrong with a text that should be an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a UUID such as 123e4567-e89b-42d3-a456-426614174000")]
pub struct IdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Parses a UUID in upper or lower case, with or without hyphens.
            ///
            /// # Errors
            /// [`IdError`] for anything else, the braced and `urn:` forms included.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if text.len() != 36 && text.len() != 32 {
                    return Err(IdError);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| IdError)
            }

            /// The id as a UUID.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

id! {
    /// A shop.
    ShopId
}
id! {
    /// One visit of a shopper to a shop; it has one basket.
    SessionId
}
id! {
    /// A person who shops.
    ShopperId
}

/// Names one basket: a session within a shop. The phone makes session ids, so one alone names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BasketId {
    /// The shop visited.
    pub shop: ShopId,
    /// The visit.
    pub session: SessionId,
}

impl BasketId {
    /// Reads what [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    /// [`IdError`] unless the text is two ids with a dot between them.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (shop, session) = text.split_once('.').ok_or(IdError)?;
        Ok(Self {
            shop: ShopId::parse(shop)?,
            session: SessionId::parse(session)?,
        })
    }
}

impl fmt::Display for BasketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shop, self.session)
    }
}

/// The partition of a shop: FNV-1a (64 bit) of the canonical id, modulo the number of partitions.
///
/// The result is part of the journal's subjects and so is fixed for ever.
pub fn partition_of(shop: ShopId, partitions: u16) -> u16 {
    let mut buffer = Uuid::encode_buffer();
    let text = shop.0.as_hyphenated().encode_lower(&mut buffer);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u16::try_from(hash % u64::from(partitions.max(1))).expect("a remainder is below its divisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANONICAL: &str = "123e4567-e89b-42d3-a456-426614174000";

    #[test]
    fn an_id_is_canonical_whatever_form_it_came_in() {
        for text in [
            CANONICAL,
            "123E4567-E89B-42D3-A456-426614174000",
            "123e4567e89b42d3a456426614174000",
        ] {
            assert_eq!(ShopId::parse(text).unwrap().to_string(), CANONICAL);
        }
    }

    #[test]
    fn what_could_reach_beyond_a_subject_token_is_no_id() {
        for text in [
            "",
            ".",
            "*",
            ">",
            " ",
            "a.b",
            "\0",
            "{123e4567-e89b-42d3-a456-426614174000}",
            "urn:uuid:123e4567-e89b-42d3-a456-426614174000",
            "123e4567-e89b-42d3-a456-42661417400",
            "123e4567-e89b-42d3-a456-42661417400*",
            "123e4567-e89b-42d3-a456-4266141740000",
        ] {
            assert_eq!(ShopId::parse(text), Err(IdError), "{text:?}");
        }
    }

    #[test]
    fn a_partition_never_changes() {
        let shop = ShopId::parse(CANONICAL).unwrap();
        assert_eq!(partition_of(shop, 1), 0);
        assert_eq!(partition_of(shop, 16), 2);
    }
}
