//! Requests to fold single baskets anew, each for one version.
//!
//! Commands and corrections ask and the owner of the partition does it within seconds, since only it writes baskets.
//!
//! Who asks knows some of the basket's events, and from where on the journal has to be read for others.
//! What is asked twice is one request that knows what both know. Each asking has its own token, and only
//! what has been carried out is forgotten: not what was asked meanwhile.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use uuid::Uuid;

use super::document::long;
use super::{ViewError, Views, durable, within, write_command};
use crate::core::id::{BasketId, partition_of};

/// Most requests that are taken together.
const TAKEN_MAX: i64 = 100;

/// A basket to be folded anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refold {
    /// Which.
    pub basket: BasketId,
    /// Its partition.
    pub partition: u16,
    /// Places in the journal of all events of the session up to `through`.
    pub sequences: Vec<u64>,
    /// Up to where whoever asks has read the journal; 0 for not at all.
    pub through: u64,
}

/// A request, as it is found.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedRefold {
    /// What is asked for.
    pub refold: Refold,
    id: Bson,
    token: Bson,
}

impl AskedRefold {
    /// Finds this request, unless it was asked for again.
    fn query(&self) -> Document {
        doc! { "_id": { "$eq": self.id.clone() }, "token": { "$eq": self.token.clone() } }
    }
}

/// A basket that waits to be folded anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRefold {
    /// The version that it is in.
    pub version: String,
    /// Which.
    pub basket: String,
    /// Its partition.
    pub partition: i32,
}

#[derive(Debug, Deserialize)]
struct StoredRefold {
    basket: String,
    sequences: Vec<i64>,
    through: i64,
}

/// Reads a request of a partition, or says why it is none.
fn restore(stored: Document, partition: u16, partitions: u16) -> Result<Refold, String> {
    let stored: StoredRefold = mongodb::bson::deserialize_from_document(stored).map_err(|error| error.to_string())?;
    let basket = BasketId::parse(&stored.basket).map_err(|error| error.to_string())?;
    if partition_of(basket.shop, partitions) != partition {
        return Err(format!("the basket is not of partition {partition}"));
    }
    let place = |place: i64| u64::try_from(place).map_err(|_| format!("{place} is no place in the journal"));
    let sequences = stored
        .sequences
        .into_iter()
        .map(place)
        .collect::<Result<Vec<u64>, String>>()?;
    if sequences.contains(&0) {
        return Err("0 is no place in the journal".to_owned());
    }
    Ok(Refold {
        basket,
        partition,
        sequences,
        through: place(stored.through)?,
    })
}

impl Views {
    fn refolds(&self) -> Collection<Document> {
        self.database.collection("refolds")
    }

    /// The name of a request: one for another version is another one.
    fn refold_id(&self, basket: BasketId) -> String {
        format!("{}/{basket}", self.version())
    }

    /// Asks the owners of the partitions to fold baskets of the version that is meant anew.
    /// They do it when that version is the active one.
    pub async fn ask_refolds(&self, refolds: &[Refold]) -> Result<(), ViewError> {
        for some in refolds.chunks(1_000) {
            let statement = |refold: &Refold| {
                let sequences: Vec<i64> = refold.sequences.iter().copied().map(long).collect();
                // What another one knows who asked stays known: a document may have lost events by now.
                let known = doc! { "$cond": [{ "$isArray": "$sequences" }, "$sequences", []] };
                let fields = doc! {
                    "version": self.version().to_string(),
                    "basket": refold.basket.to_string(),
                    "partition": i32::from(refold.partition),
                    "sequences": { "$setUnion": [known, { "$literal": sequences }] },
                    "through": { "$min": ["$through", long(refold.through)] },
                    "token": Uuid::new_v4().to_string(),
                };
                doc! { "q": { "_id": self.refold_id(refold.basket) }, "u": [{ "$set": fields }], "upsert": true }
            };
            let updates: Vec<Document> = some.iter().map(statement).collect();
            let command = doc! { "update": "refolds", "updates": updates, "ordered": false, "writeConcern": durable() };
            write_command(&self.database, "ask for refolds", command).await?;
        }
        Ok(())
    }

    /// Baskets of a partition of so many, in the version that is meant, that are to be folded anew.
    /// What somebody wrote by hand and is no request is told and deleted, so that it stands in nobody's way.
    pub async fn refolds_of(&self, partition: u16, partitions: u16) -> Result<Vec<AskedRefold>, ViewError> {
        let refolds = self.refolds();
        let query = doc! { "partition": i32::from(partition), "version": self.version().to_string() };
        let found: Vec<Document> = within("look for refolds", async {
            refolds.find(query).limit(TAKEN_MAX).await?.try_collect().await
        })
        .await?;
        let mut asked = Vec::new();
        for stored in found {
            let id = stored.get("_id").cloned().unwrap_or(Bson::Null);
            let token = stored.get("token").cloned().unwrap_or(Bson::Null);
            match restore(stored, partition, partitions) {
                Ok(refold) => asked.push(AskedRefold { refold, id, token }),
                Err(reason) => {
                    within("delete what is no refold", async {
                        refolds.delete_one(doc! { "_id": { "$eq": id.clone() } }).await
                    })
                    .await?;
                    tracing::warn!(
                        partition,
                        "deleted the document {id} of refolds, which asks for nothing: {reason}"
                    );
                }
            }
        }
        Ok(asked)
    }

    /// Takes note that a basket was folded anew, as far as that was asked for.
    pub async fn refolded(&self, asked: &AskedRefold) -> Result<(), ViewError> {
        let refolds = self.refolds();
        within("forget a refold", async { refolds.delete_one(asked.query()).await }).await?;
        Ok(())
    }

    /// Takes note that the journal was read further for a request, and of what was found.
    pub async fn read_for_refold(&self, asked: &AskedRefold, found: &[u64], through: u64) -> Result<(), ViewError> {
        let known: BTreeSet<u64> = asked.refold.sequences.iter().chain(found).copied().collect();
        let sequences: Vec<i64> = known.into_iter().map(long).collect();
        let refolds = self.refolds();
        let further = doc! { "$set": { "sequences": sequences, "through": long(through) } };
        within("note how far a refold is", async {
            refolds.update_one(asked.query(), further).await
        })
        .await?;
        Ok(())
    }

    /// Whether any basket of the version that is meant waits to be folded anew.
    pub async fn waits_for_refolds(&self) -> Result<bool, ViewError> {
        let refolds = self.refolds();
        let of_version = doc! { "version": self.version().to_string() };
        let found = within("look for refolds", async { refolds.find_one(of_version).await }).await?;
        Ok(found.is_some())
    }

    /// Forgets what was asked for the version that is meant.
    pub(super) async fn forget_refolds(&self) -> Result<(), ViewError> {
        let refolds = self.refolds();
        let of_version = doc! { "version": self.version().to_string() };
        within("forget refolds", async { refolds.delete_many(of_version).await }).await?;
        Ok(())
    }

    /// Some of the baskets of all versions that wait to be folded anew, at most `limit`.
    pub async fn waiting_refolds(&self, limit: i64) -> Result<Vec<WaitingRefold>, ViewError> {
        let refolds: Collection<Document> = self.refolds().clone_with_type();
        let find = refolds.find(doc! {}).projection(doc! { "sequences": 0 });
        let found: Vec<Document> = within("list refolds", async {
            find.sort(doc! { "_id": 1 }).limit(limit).await?.try_collect().await
        })
        .await?;
        let text = |of: &Document, name: &str| of.get_str(name).unwrap_or_default().to_owned();
        let waiting = |stored: &Document| WaitingRefold {
            version: text(stored, "version"),
            basket: text(stored, "basket"),
            partition: stored.get_i32("partition").unwrap_or(-1),
        };
        Ok(found.iter().map(waiting).collect())
    }

    /// How many of these wait to be folded anew.
    pub async fn count_refolds(&self, baskets: &[BasketId]) -> Result<u64, ViewError> {
        let refolds = self.refolds();
        let keys: Vec<String> = baskets.iter().map(|basket| self.refold_id(*basket)).collect();
        within("count refolds", async {
            refolds.count_documents(doc! { "_id": { "$in": keys } }).await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_of_the_partition_is_one() {
        let basket = "123e4567-e89b-42d3-a456-426614174000.4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";
        let whole = doc! { "basket": basket, "sequences": [3_i64, 7_i64], "through": 9_i64 };
        let id = BasketId::parse(basket).unwrap();
        let partition = partition_of(id.shop, 16);
        let refold = restore(whole.clone(), partition, 16).unwrap();
        assert_eq!((refold.basket, refold.sequences, refold.through), (id, vec![3, 7], 9));
        assert!(restore(whole.clone(), partition + 1, 16).is_err());
        for (field, value) in [
            ("basket", Bson::from("everything")),
            ("basket", Bson::Null),
            ("sequences", Bson::from("all")),
            ("sequences", Bson::from(vec![0_i64])),
            ("sequences", Bson::from(vec![-1_i64])),
            ("through", Bson::from("the end")),
        ] {
            let mut other = whole.clone();
            other.insert(field, value);
            assert!(restore(other.clone(), partition, 16).is_err(), "{other}");
        }
    }
}
