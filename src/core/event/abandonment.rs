//! That a shopper did nothing for a long time, recorded by the service itself.
//!
//! It is an event like any other, so that a basket that was abandoned is so again when the journal is
//! replayed, whatever the clocks say then. It names the last event that the basket had, so it means
//! nothing any more once the shopper comes back, in whatever order the two were recorded.

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{NAMESPACE, rfc3339};
use crate::core::id::{BasketId, SessionId, ShopId};

/// `ce-type` of an abandonment.
pub const ABANDONMENT_TYPE: &str = "ezout.checkout.abandonment.v1";

/// A visit without an action for a long time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandonment {
    /// The visit.
    pub basket: BasketId,
    /// Place in the journal of the last event that the basket had. Any later action makes the abandonment void.
    pub after: u64,
    /// When the journal took that event, in whole milliseconds.
    pub idle_since: OffsetDateTime,
}

#[derive(Deserialize)]
struct Body {
    session_id: String,
    shop_id: String,
    after: u64,
    idle_since: String,
}

impl Abandonment {
    /// Reads what [`canonical`](Self::canonical) wrote.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(Self {
            basket: BasketId {
                shop: ShopId::parse(&body.shop_id).map_err(|error| format!("shop_id {error}"))?,
                session: SessionId::parse(&body.session_id).map_err(|error| format!("session_id {error}"))?,
            },
            after: body.after,
            idle_since: OffsetDateTime::parse(&body.idle_since, &Rfc3339)
                .map_err(|error| format!("idle_since is no time: {error}"))?,
        })
    }

    /// Its identity: one for each last event of a basket, whoever notices that nothing followed it.
    pub fn identity(&self) -> Uuid {
        let mut key = [0_u8; 51];
        key[..3].copy_from_slice(b"idl");
        key[3..19].copy_from_slice(self.basket.shop.uuid().as_bytes());
        key[19..35].copy_from_slice(self.basket.session.uuid().as_bytes());
        key[35..43].copy_from_slice(&self.after.to_be_bytes());
        Uuid::new_v5(&NAMESPACE, &key)
    }

    /// The JSON that the journal keeps, and its digest.
    pub fn canonical(&self) -> (String, u128) {
        let json = format!(
            "{{\"session_id\":\"{}\",\"shop_id\":\"{}\",\"after\":{},\"idle_since\":\"{}\"}}",
            self.basket.session,
            self.basket.shop,
            self.after,
            rfc3339(self.idle_since)
        );
        let digest = Uuid::new_v5(&NAMESPACE, json.as_bytes()).as_u128();
        (json, digest)
    }

    /// The event's `CloudEvents` attributes as NATS headers.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        super::attributes(self.basket, self.identity(), ABANDONMENT_TYPE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::JournalEvent;

    fn abandonment() -> Abandonment {
        Abandonment {
            basket: BasketId::parse("123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94")
                .unwrap(),
            after: 17,
            idle_since: OffsetDateTime::from_unix_timestamp_nanos(1_702_895_400_250_000_000).unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (json, _) = abandonment().canonical();
        let read = JournalEvent::read(Some(ABANDONMENT_TYPE), json.as_bytes());
        assert_eq!(read, Ok(JournalEvent::Abandonment(abandonment())));
    }

    #[test]
    fn what_is_no_abandonment_is_told_by_the_field() {
        let (json, _) = abandonment().canonical();
        for (from, to, told) in [
            ("17", "-1", "expected u64"),
            ("123e4567-e89b", "*", "shop_id must be a UUID"),
            ("4e29b2d3-7c8a", ">", "session_id must be a UUID"),
            ("2023-12-18T", "yesterday ", "idle_since is no time"),
        ] {
            let error = Abandonment::parse(json.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn an_identity_is_that_of_the_last_event_and_stays_for_ever() {
        let one = abandonment();
        let later = Abandonment {
            after: 18,
            ..one.clone()
        };
        assert_eq!(one.identity(), abandonment().identity());
        assert_ne!(one.identity(), later.identity());
        assert_eq!(one.identity().to_string(), "56979198-f1ce-5ed2-8eac-070f4a09cc3e");
    }
}
