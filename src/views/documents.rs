//! Documents as they are stored, for those who put them away and bring them back.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{CollectionOptions, ReadConcern};
use mongodb::{Collection, Database};

use super::{ParkedState, ViewError, Views, durable, within, write_command};

/// Documents that are read or written at a time.
const PAGE: usize = 2_000;

/// A collection of which the journal gives nothing back, and which of its documents that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irreplaceable {
    /// The collection.
    pub collection: &'static str,
    /// Whether only those parked events are meant about which it was decided that they never count.
    only_dropped: bool,
}

/// All such collections.
pub const IRREPLACEABLE: &[Irreplaceable] = &[
    whole("members"),
    whole("revocations"),
    whole("shops"),
    Irreplaceable {
        collection: "parked_events",
        only_dropped: true,
    },
    whole("corrections"),
    whole("rebuild_reports"),
    whole("audit"),
];

const fn whole(collection: &'static str) -> Irreplaceable {
    Irreplaceable {
        collection,
        only_dropped: false,
    }
}

impl Irreplaceable {
    fn query(self, after: Option<&Bson>) -> Document {
        let mut query = doc! {};
        if self.only_dropped {
            query.insert(
                "state",
                doc! { "$in": [ParkedState::Drop.word(), ParkedState::Dropped.word()] },
            );
        }
        if let Some(after) = after {
            query.insert("_id", doc! { "$gt": after });
        }
        query
    }
}

impl Views {
    /// The next documents of a collection in the order of their ids, after this one; none where there are no more.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn documents(&self, of: Irreplaceable, after: Option<&Bson>) -> Result<Vec<Document>, ViewError> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::majority())
            .build();
        let collection: Collection<Document> = self.database.collection_with_options(of.collection, options);
        within("read documents", async {
            let found = collection.find(of.query(after)).sort(doc! { "_id": 1 });
            let limit = i64::try_from(PAGE).expect("a small number");
            found.limit(limit).await?.try_collect().await
        })
        .await
    }

    /// Brings documents back. Those that are there stay as they are; answers the ids of those that are there otherwise.
    ///
    /// # Errors
    /// [`ViewError`]; some may have been brought back, and to do it again is safe.
    pub async fn bring_back(&self, collection: &str, documents: &[Document]) -> Result<Vec<Bson>, ViewError> {
        let mut otherwise = Vec::new();
        for some in documents.chunks(PAGE) {
            let command = doc! {
                "insert": collection,
                "documents": some.to_vec(),
                "ordered": false,
                "writeConcern": durable(),
            };
            write_command(&self.database, "bring documents back", command).await?;
            let there = there(&self.database, collection, some).await?;
            let id = |document: &Document| document.get("_id").cloned().unwrap_or(Bson::Null);
            let differs = |document: &&Document| there.get(&id(document).to_string()) != Some(*document);
            otherwise.extend(some.iter().filter(differs).map(id));
        }
        Ok(otherwise)
    }

    /// The journals that baskets of any version were folded from, with each partition and how far it is folded.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn folded(&self) -> Result<Vec<(String, u16, u64)>, ViewError> {
        let checkpoints: Collection<Document> = self.database.collection("checkpoints");
        let found: Vec<Document> = within("look how far baskets are folded", async {
            checkpoints.find(doc! {}).await?.try_collect().await
        })
        .await?;
        let of = |found: &Document| {
            let id = found.get("_id");
            let partition = match id {
                Some(Bson::Int32(partition)) => u16::try_from(*partition).ok(),
                Some(Bson::String(id)) => id.rsplit(':').next().and_then(|partition| partition.parse().ok()),
                _ => None,
            };
            let partition = partition.ok_or_else(|| ViewError::Unreadable {
                id: format!("checkpoints/{id:?}"),
                reason: "it is of no partition".to_owned(),
            })?;
            let at = u64::try_from(found.get_i64("sequence").unwrap_or(0)).unwrap_or(0);
            Ok((found.get_str("epoch").unwrap_or_default().to_owned(), partition, at))
        };
        found.iter().map(of).collect()
    }
}

/// The stored documents with these ids.
async fn there(
    database: &Database,
    collection: &str,
    documents: &[Document],
) -> Result<BTreeMap<String, Document>, ViewError> {
    let ids: Vec<Bson> = documents
        .iter()
        .filter_map(|document| document.get("_id").cloned())
        .collect();
    let collection: Collection<Document> = database.collection(collection);
    let found: Vec<Document> = within("look at what was brought back", async {
        collection
            .find(doc! { "_id": { "$in": ids } })
            .await?
            .try_collect()
            .await
    })
    .await?;
    Ok(found
        .into_iter()
        .filter_map(|document| Some((document.get("_id")?.to_string(), document)))
        .collect())
}
