//! Who of the staff handles a basket, for a limited time. It is no part of the basket: nothing is folded from it.

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{DateTime, doc};
use serde::Deserialize;
use time::OffsetDateTime;

use super::document::{date, time as read_time};
use super::{DUPLICATE_KEY, ViewError, Views, durable, within, write_command};
use crate::core::id::{BasketId, SessionId, ShopId};

pub(super) const HANDLINGS: &str = "handlings";
/// Longest name of a person, in bytes.
pub const HANDLER_MAX: usize = 100;
/// How long somebody may handle a basket, in minutes.
pub const HANDLE_MINUTES: std::ops::RangeInclusive<i64> = 1..=240;
/// And how long it is where he does not say.
pub const HANDLE_MINUTES_DEFAULT: i64 = 10;

/// That somebody handles a basket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handling {
    /// Who.
    pub by: String,
    /// Until when, unless somebody says otherwise.
    pub until: OffsetDateTime,
}

impl Handling {
    /// That somebody handles a basket for so many minutes from now on, as MongoDB keeps it.
    pub fn from_now(by: String, minutes: i64, now: OffsetDateTime) -> Self {
        let until = (now + time::Duration::minutes(minutes)).truncate_to_millisecond();
        Self { by, until }
    }
}

#[derive(Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "_id")]
    id: String,
    by: String,
    until: DateTime,
}

impl Stored {
    pub(super) fn handling(self) -> Option<(BasketId, Handling)> {
        let handling = Handling {
            by: self.by,
            until: read_time(self.until)?,
        };
        Some((BasketId::parse(&self.id).ok()?, handling))
    }
}

/// How often it is tried where others let go of a basket at the same moment.
const HANDLE_TRIES: u32 = 5;

impl Views {
    /// Notes that somebody handles a basket, unless somebody else does at this moment; with `instead` in any case.
    /// Answers who else it is that does.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been noted, and to note it again is safe.
    pub async fn handle(
        &self,
        id: BasketId,
        handling: &Handling,
        instead: bool,
        now: OffsetDateTime,
    ) -> Result<Option<Handling>, ViewError> {
        let mut query = doc! { "_id": id.to_string() };
        if !instead {
            query.insert(
                "$or",
                vec![doc! { "by": &handling.by }, doc! { "until": { "$lte": date(now) } }],
            );
        }
        let set = doc! { "shop_id": id.shop.to_string(), "by": &handling.by, "until": date(handling.until) };
        let command = doc! {
            "update": HANDLINGS,
            "updates": [ { "q": query, "u": { "$set": set }, "upsert": true } ],
            "writeConcern": durable(),
        };
        let operation = "note who handles a basket";
        for _ in 0..HANDLE_TRIES {
            let answer = write_command(&self.database, operation, command.clone()).await?;
            let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
            let by_another = errors
                .iter()
                .filter_map(|error| error.as_document())
                .any(|error| error.get_i32("code").ok() == Some(DUPLICATE_KEY));
            if !by_another {
                return Ok(None);
            }
            // Whoever it was may have let go since.
            let another = self.handling(id).await?;
            let another = another.filter(|another| another.until > now && another.by != handling.by);
            if another.is_some() {
                return Ok(another);
            }
        }
        Err(ViewError::Refused {
            operation,
            reason: "others take the basket and let go of it at the same time".to_owned(),
        })
    }

    /// Notes that nobody handles a basket any more; with a name, only if it is the one who does.
    /// Answers who does nevertheless.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been noted, and to note it again is safe.
    pub async fn release_handling(&self, id: BasketId, by: &str) -> Result<Option<Handling>, ViewError> {
        let mut query = doc! { "_id": id.to_string() };
        if !by.is_empty() {
            query.insert("by", by);
        }
        let command = doc! {
            "delete": HANDLINGS,
            "deletes": [ { "q": query, "limit": 1 } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "note that nobody handles a basket", command).await?;
        let now = OffsetDateTime::now_utc();
        // One whose time is over is taken away within a minute or so.
        Ok(self.handling(id).await?.filter(|handling| handling.until > now))
    }

    async fn handling(&self, id: BasketId) -> Result<Option<Handling>, ViewError> {
        let handlings: Collection<Stored> = self.database.collection(HANDLINGS);
        let find = handlings.find_one(doc! { "_id": id.to_string() });
        let found = within("read who handles a basket", async { find.await }).await?;
        Ok(found.and_then(Stored::handling).map(|(_, handling)| handling))
    }

    /// Who handles which basket of a shop, those included whose time is over for less than a minute or so.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn handlings(&self, shop: ShopId) -> Result<Vec<(SessionId, Handling)>, ViewError> {
        let handlings: Collection<Stored> = self.database.collection(HANDLINGS);
        let found: Vec<Stored> = within("read who handles baskets", async {
            handlings
                .find(doc! { "shop_id": shop.to_string() })
                .await?
                .try_collect()
                .await
        })
        .await?;
        let of_shop = found.into_iter().filter_map(Stored::handling);
        Ok(of_shop.map(|(id, handling)| (id.session, handling)).collect())
    }
}
