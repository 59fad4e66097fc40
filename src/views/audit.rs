//! Who did what, and what was refused: documents that are added and never changed.

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::time;
use super::{Decision, ParkedEvent, ViewError, Views, durable, within, write_command};
use crate::core::id::{SessionId, ShopId};
use crate::core::policy::Verb;

const AUDIT: &str = "audit";

/// Something that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Who: the subject of a token, or a name of the operating system's.
    pub who: String,
    /// What it takes to be allowed.
    pub verb: &'static str,
    /// What, in a word or two.
    pub what: String,
    /// What became of it at the door: `asked`, or `refused` and why.
    pub outcome: String,
    /// In which shop, if in one.
    pub shop: Option<ShopId>,
    /// With which session.
    pub session: Option<SessionId>,
}

impl Deed {
    /// Something that was asked for in a shop, by somebody who is still to be named.
    pub fn in_shop(verb: Verb, what: String, shop: ShopId) -> Self {
        Self {
            shop: Some(shop),
            ..Self::of_system(verb, what)
        }
    }

    /// Something that was asked for and is about no shop.
    pub fn of_system(verb: Verb, what: String) -> Self {
        Self {
            who: String::new(),
            verb: verb.word(),
            what,
            outcome: "asked".to_owned(),
            shop: None,
            session: None,
        }
    }

    /// What is decided about a parked event, and why if that is said.
    pub fn of_parked(event: &ParkedEvent, decision: Decision, reason: Option<&str>) -> Self {
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let what = format!("parked event {}: {}{why}", event.sequence, decision.word());
        match event.basket {
            Some(basket) => Self::in_shop(Verb::Operate, what, basket.shop).with_session(basket.session),
            None => Self::of_system(Verb::Operate, what),
        }
    }

    /// With this session.
    #[must_use]
    pub fn with_session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// By this one.
    #[must_use]
    pub fn by(mut self, who: &str) -> Self {
        who.clone_into(&mut self.who);
        self
    }

    /// Which was not let happen, for this reason.
    #[must_use]
    pub fn refused(mut self, reason: &str) -> Self {
        self.outcome = format!("refused: {reason}");
        self
    }
}

/// A deed as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDeed {
    /// Its id, by which those of one moment are ordered.
    pub id: String,
    /// When, by the server's clock.
    pub at: OffsetDateTime,
    /// Who.
    pub who: String,
    /// What it takes to be allowed.
    pub verb: String,
    /// What.
    pub what: String,
    /// What became of it.
    pub outcome: String,
    /// With which session.
    pub session: Option<String>,
}

/// A place among the deeds of a shop: after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeedsAfter {
    at: DateTime,
    id: ObjectId,
}

impl DeedsAfter {
    /// Reads what [`KeptDeed::place`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (at, id) = text.rsplit_once('-')?;
        Some(Self {
            at: DateTime::from_millis(at.parse().ok()?),
            id: ObjectId::parse_str(id).ok()?,
        })
    }
}

impl KeptDeed {
    /// Its place, to go on after it.
    pub fn place(&self) -> String {
        format!("{}-{}", self.at.unix_timestamp_nanos() / 1_000_000, self.id)
    }
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: ObjectId,
    at: DateTime,
    who: String,
    verb: String,
    what: String,
    outcome: String,
    session_id: Option<String>,
}

impl Views {
    /// Keeps a deed.
    ///
    /// # Errors
    /// [`ViewError`]; it may be kept, and to keep it again makes two of it.
    pub async fn keep_deed(&self, deed: &Deed) -> Result<(), ViewError> {
        let mut kept = doc! {
            "_id": ObjectId::new(), "at": "$$NOW", "who": literal(&deed.who), "verb": deed.verb,
            "what": literal(&deed.what), "outcome": literal(&deed.outcome),
        };
        if let Some(shop) = deed.shop {
            kept.insert("shop_id", shop.to_string());
        }
        if let Some(session) = deed.session {
            kept.insert("session_id", session.to_string());
        }
        // A pipeline, so that the time is the server's, and one that only adds, so that no right to change is needed.
        let add = doc! { "into": AUDIT, "whenMatched": "fail", "whenNotMatched": "insert" };
        let command = doc! {
            "aggregate": 1,
            "pipeline": [ { "$documents": [ kept ] }, { "$merge": add } ],
            "cursor": {},
            "writeConcern": durable(),
        };
        write_command(&self.database, "keep who did what", command).await?;
        Ok(())
    }

    /// The newest deeds in a shop, at most `limit`, after a place.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn deeds(&self, shop: ShopId, after: Option<DeedsAfter>, limit: u16) -> Result<Vec<KeptDeed>, ViewError> {
        let mut query = doc! { "shop_id": shop.to_string() };
        if let Some(after) = after {
            query.insert(
                "$or",
                vec![
                    doc! { "at": { "$lt": after.at } },
                    doc! { "at": after.at, "_id": { "$lt": after.id } },
                ],
            );
        }
        let deeds: Collection<Stored> = self.database.collection(AUDIT);
        let found: Vec<Stored> = within("read who did what", async {
            let find = deeds
                .find(query)
                .sort(doc! { "at": -1, "_id": -1 })
                .limit(i64::from(limit));
            find.await?.try_collect().await
        })
        .await?;
        Ok(found
            .into_iter()
            .filter_map(|stored| {
                Some(KeptDeed {
                    id: stored.id.to_hex(),
                    at: time(stored.at)?,
                    who: stored.who,
                    verb: stored.verb,
                    what: stored.what,
                    outcome: stored.outcome,
                    session: stored.session_id,
                })
            })
            .collect())
    }
}

/// A text in a pipeline, where one that begins with `$` would be read as a field.
fn literal(text: &str) -> Document {
    doc! { "$literal": text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_also_from_before_1970() {
        for at in [1_700_000_000_123_i64, 0, -5] {
            let place = format!("{at}-507f1f77bcf86cd799439011");
            assert_eq!(DeedsAfter::parse(&place).unwrap().at.timestamp_millis(), at);
        }
        assert_eq!(DeedsAfter::parse("5"), None);
        assert_eq!(DeedsAfter::parse("5-x"), None);
    }
}
