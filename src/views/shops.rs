//! What shops say about themselves, and which shops there are.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::doc;
use serde::Deserialize;

use super::{ViewError, Views, durable, within, write_command};
use crate::core::id::ShopId;
use crate::core::shop::ShopDetails;

const SHOPS: &str = "shops";

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    name: Option<String>,
    currency: Option<String>,
    time_zone: Option<String>,
}

impl Stored {
    fn details(self) -> Option<(ShopId, ShopDetails)> {
        let details = ShopDetails {
            name: self.name,
            currency: self.currency,
            time_zone: self.time_zone,
        };
        Some((ShopId::parse(&self.id).ok()?, details))
    }
}

impl Views {
    fn shops_said(&self) -> Collection<Stored> {
        self.database.collection(SHOPS)
    }

    /// What a shop says about itself; nothing of one that has said nothing.
    pub async fn shop_details(&self, shop: ShopId) -> Result<ShopDetails, ViewError> {
        let said = self.shops_said();
        let find = said.find_one(doc! { "_id": shop.to_string() });
        let found = within("read what a shop says", async { find.await }).await?;
        Ok(found
            .and_then(Stored::details)
            .map(|(_, details)| details)
            .unwrap_or_default())
    }

    /// What these shops say about themselves, those included that have said nothing.
    pub async fn details_of(&self, shops: &BTreeSet<ShopId>) -> Result<BTreeMap<ShopId, ShopDetails>, ViewError> {
        let ids: Vec<String> = shops.iter().map(ToString::to_string).collect();
        let said = self.shops_said();
        let found: Vec<Stored> = within("read what shops say", async {
            said.find(doc! { "_id": { "$in": ids } }).await?.try_collect().await
        })
        .await?;
        let mut details: BTreeMap<_, _> = shops.iter().map(|shop| (*shop, ShopDetails::default())).collect();
        details.extend(found.into_iter().filter_map(Stored::details));
        Ok(details)
    }

    /// Shops that have said something or have a basket, at most so many, and whether there are others.
    pub async fn some_shops(&self, limit: u16) -> Result<(BTreeMap<ShopId, ShopDetails>, bool), ViewError> {
        let said = self.shops_said();
        let found: Vec<Stored> = within("list what shops say", async {
            said.find(doc! {})
                .limit(i64::from(limit) + 1)
                .await?
                .try_collect()
                .await
        })
        .await?;
        let mut shops: BTreeMap<ShopId, ShopDetails> = found.into_iter().filter_map(Stored::details).collect();
        for shop in self.shops_with_baskets(Some(i64::from(limit) + 1)).await? {
            shops.entry(shop).or_default();
        }
        let more = shops.len() > usize::from(limit);
        while shops.len() > usize::from(limit) {
            // Those that have a name are the ones that people look for.
            let nameless = shops.iter().rev().find(|(_, details)| details.name.is_none());
            match nameless.map(|(shop, _)| *shop) {
                Some(shop) => shops.remove(&shop),
                None => shops.pop_last().map(|(_, details)| details),
            };
        }
        Ok((shops, more))
    }

    /// Notes what a shop says about itself from now on.
    ///
    /// # Errors
    /// [`ViewError`]; it may have been noted, and to note it again is safe.
    pub async fn set_shop(&self, shop: ShopId, details: &ShopDetails) -> Result<(), ViewError> {
        let literal = |text: &Option<String>| text.as_ref().map(|text| doc! { "$literal": text });
        let set = doc! {
            "name": literal(&details.name),
            "currency": literal(&details.currency),
            "time_zone": literal(&details.time_zone),
            "changed_at": "$$NOW",
        };
        let command = doc! {
            "update": SHOPS,
            "updates": [ { "q": { "_id": shop.to_string() }, "u": [ { "$set": set } ], "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "note what a shop says", command).await?;
        Ok(())
    }
}
