//! Whole documents of baskets, to be compared with what the journal says.
//!
//! Everything is compared but the fence and the seal, which tell of writes and not of events. A document that was
//! spoiled by hand is compared like any other: nothing here needs it to be readable as a basket.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{Bson, Document, doc};
use uuid::Uuid;

use super::document::{restore, whole};
use super::seal::{SEAL, seal, void};
use super::{Saved, ViewError, Views, durable, within, write_command};
use crate::core::basket::Basket;
use crate::core::event::ActionIdMeaning;
use crate::core::id::{BasketId, ShopId};

/// Longest form of a value in a report, in characters.
const SHOWN_MAX: usize = 60;

/// A basket's whole document, apart from its fence and its seal.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    id: String,
    fence: Option<Bson>,
    fields: Document,
}

impl Whole {
    /// The document that this basket should have.
    pub fn of(basket: &Basket, epoch: &str) -> Self {
        Self {
            id: basket.id().to_string(),
            fence: None,
            fields: whole(basket, epoch),
        }
    }

    /// A document as it is stored.
    pub fn stored(mut document: Document) -> Self {
        let id = match document.remove("_id") {
            Some(Bson::String(id)) => id,
            other => format!("{other:?}"),
        };
        document.remove(SEAL);
        Self {
            id,
            fence: document.remove("fence"),
            fields: document,
        }
    }

    /// The basket that follows from the events that the document says it has; nothing where it cannot be read.
    pub fn basket(&self, meaning: ActionIdMeaning) -> Option<Basket> {
        let mut document = self.fields.clone();
        document.insert("_id", &self.id);
        let loaded = restore(document, meaning)?;
        loaded.basket.ok().map(|(basket, _)| basket)
    }

    /// Its fields, by name.
    pub fn fields(&self) -> &Document {
        &self.fields
    }

    /// Its `_id`.
    pub fn key(&self) -> &str {
        &self.id
    }

    /// The basket that it is of; `None` where somebody wrote a document that is none.
    pub fn id(&self) -> Option<BasketId> {
        BasketId::parse(&self.id).ok()
    }

    /// The place in the journal that it says it is true at; 0 where it says none.
    pub fn sequence(&self) -> u64 {
        self.number("sequence").unwrap_or(0)
    }

    /// The fence under which it was written, where it has one.
    pub fn fence(&self) -> Option<i64> {
        self.fence.as_ref()?.as_i64()
    }

    /// The first parked event of the session, where it says so.
    pub fn parked_since(&self) -> Option<u64> {
        self.number("parked_since")
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.fields
            .get_i64(field)
            .ok()
            .and_then(|number| number.try_into().ok())
    }

    /// Places in the journal of the events that it holds.
    pub fn sequences(&self) -> BTreeSet<u64> {
        let of = |field: &str| self.fields.get_array(field).map(Vec::as_slice).unwrap_or_default();
        of("actions")
            .iter()
            .chain(of("conflicts"))
            .chain(of("abandonments"))
            .chain(of("corrections"))
            .filter_map(|event| event.as_document()?.get_i64("sequence").ok()?.try_into().ok())
            .collect()
    }

    /// The fields in which `found` differs from this, by name.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.fields.keys().chain(found.fields.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.fields.get(*name) != found.fields.get(*name))
            .cloned()
            .collect()
    }

    /// A field's value in few characters.
    pub fn shown(&self, field: &str) -> String {
        let text = self
            .fields
            .get(field)
            .map_or_else(|| "nothing".to_owned(), ToString::to_string);
        if text.chars().count() <= SHOWN_MAX {
            return text;
        }
        text.chars().take(SHOWN_MAX).chain(['…']).collect()
    }

    /// A digest of these and of all documents before it; equal baskets in equal order have equal digests.
    pub fn digest(&self, before: Uuid) -> Uuid {
        let mut bytes = self.id.clone().into_bytes();
        let sorted = sorted(&Bson::Document(self.fields.clone()));
        if let Some(document) = sorted.as_document() {
            bytes.extend(document.to_vec().unwrap_or_default());
        }
        Uuid::new_v5(&before, &bytes)
    }
}

/// The same value with the fields of each document in the order of their names.
fn sorted(value: &Bson) -> Bson {
    match value {
        Bson::Document(document) => {
            let mut fields: Vec<_> = document.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, value)| (name.clone(), sorted(value)));
            Bson::Document(fields.collect())
        }
        Bson::Array(values) => values.iter().map(sorted).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// Baskets in the order of their ids: shop by shop, session by session.
pub struct Ordered(Cursor<Document>);

impl std::fmt::Debug for Ordered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ordered")
    }
}

impl Ordered {
    /// The next basket.
    pub async fn next(&mut self) -> Result<Option<Whole>, ViewError> {
        Ok(within("read baskets in order", self.0.try_next())
            .await?
            .map(Whole::stored))
    }
}

/// Takes away fields whose names an update would take for paths, as a write of the projector's own. Its seal is another one
/// than that of the write that follows, which must move it again.
fn without(names: &[&String], id: BasketId, epoch: &str, scalars: &Document) -> Vec<Document> {
    let less = |rest: Bson, name: &&String| {
        doc! { "$unsetField": { "field": { "$literal": name.as_str() }, "input": rest } }.into()
    };
    let rest = names.iter().fold("$$ROOT".into(), less);
    vec![
        doc! { "$replaceWith": rest },
        doc! { "$set": { SEAL: seal(id, epoch, scalars) } },
    ]
}

/// Ids of baskets, from one up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    from: String,
    before: String,
}

impl Keys {
    /// That of one basket.
    pub fn of_basket(basket: BasketId) -> Self {
        Self {
            from: basket.to_string(),
            before: format!("{basket}\0"),
        }
    }

    /// Those of the baskets of a shop whose sessions begin with these four digits, from the first to the last.
    pub fn of_part(shop: ShopId, first: u16, last: u16) -> Self {
        Self {
            from: format!("{shop}.{first:04x}"),
            before: match last.checked_add(1) {
                Some(next) => format!("{shop}.{next:04x}"),
                // A slash is the character after the dot that ends the shop.
                None => format!("{shop}/"),
            },
        }
    }

    fn query(&self) -> Document {
        doc! { "_id": { "$gte": &self.from, "$lt": &self.before } }
    }
}

impl Views {
    /// Reads all baskets in order, or those with some ids.
    pub async fn in_order(&self, keys: Option<&Keys>) -> Result<Ordered, ViewError> {
        let baskets = self.stored::<Document>();
        let find = baskets
            .find(keys.map_or_else(Document::new, Keys::query))
            .sort(doc! { "_id": 1 })
            .batch_size(1_000);
        within("read baskets in order", async { find.await }).await.map(Ordered)
    }

    /// The whole documents of these baskets, as far as there are any.
    pub async fn wholes(&self, keys: &[String]) -> Result<Vec<Whole>, ViewError> {
        let baskets = self.stored::<Document>();
        let found: Vec<Document> = within("read whole baskets", async {
            baskets.find(doc! { "_id": { "$in": keys } }).await?.try_collect().await
        })
        .await?;
        Ok(found.into_iter().map(Whole::stored).collect())
    }

    /// The whole document of a basket.
    pub async fn whole(&self, id: BasketId) -> Result<Option<Whole>, ViewError> {
        Ok(self.wholes(&[id.to_string()]).await?.pop())
    }

    /// Some baskets by chance.
    pub async fn sample(&self, count: u32) -> Result<Vec<BasketId>, ViewError> {
        let baskets = self.stored::<Document>();
        let pick = vec![
            doc! { "$sample": { "size": i64::from(count) } },
            doc! { "$project": { "_id": 1 } },
        ];
        let found: Vec<Document> = within("sample baskets", async {
            baskets.aggregate(pick).await?.try_collect().await
        })
        .await?;
        let id = |basket: &Document| BasketId::parse(basket.get_str("_id").ok()?).ok();
        Ok(found.iter().filter_map(id).collect())
    }

    /// Baskets that say that an event of theirs is parked, while none waits any more: a decision was made when another version was active.
    pub async fn parked_for_nothing(&self, epoch: &str) -> Result<Vec<BasketId>, ViewError> {
        let baskets = self.stored::<Document>();
        let marked: Vec<Document> = within("list baskets with parked events", async {
            let find = baskets.find(doc! { "parked_since": { "$type": "long" } });
            find.projection(doc! { "parked_since": 1 }).await?.try_collect().await
        })
        .await?;
        let mut stale = Vec::new();
        for basket in marked {
            let (Ok(key), Ok(since)) = (basket.get_str("_id"), basket.get_i64("parked_since")) else {
                continue;
            };
            let waiting = doc! { "_id": format!("{epoch}:{since}"), "state": { "$in": ["parked", "retry"] } };
            let parked = self.database.collection::<Document>("parked_events");
            let waits = within("look for a parked event", async { parked.find_one(waiting).await }).await?;
            if let (None, Ok(id)) = (waits, BasketId::parse(key)) {
                stale.push(id);
            }
        }
        Ok(stale)
    }

    /// Puts a basket as it was folded anew in the place of the document that was `seen`, whatever that is like;
    /// without a basket the document goes. Answers [`Saved::Stale`] where it is no longer as it was seen.
    pub async fn mend(
        &self,
        id: BasketId,
        seen: Option<&Whole>,
        basket: Option<&Basket>,
        epoch: &str,
        fence: i64,
    ) -> Result<Saved, ViewError> {
        let collection = self.version().to_string();
        // Whatever somebody wrote there is a value and no condition.
        let is = |value: Option<&Bson>| doc! { "$eq": value.cloned().unwrap_or(Bson::Null) };
        let field = |name: &str| is(seen.and_then(|seen| seen.fields.get(name)));
        let as_seen = doc! {
            "_id": id.to_string(),
            "sequence": field("sequence"),
            "version": field("version"),
            "fence": is(seen.and_then(|seen| seen.fence.as_ref())),
        };
        let mut command = match (seen, basket) {
            (None, None) => return Ok(Saved::All),
            (Some(_), None) => {
                // Whoever watches for edits by hand tells by the seal that this deletion is none.
                let mark = doc! { "update": &collection, "updates": [ { "q": &as_seen, "u": { "$set": void() } } ] };
                write_command(&self.database, "mend a basket", mark).await?;
                let mut marked = as_seen;
                marked.extend(void());
                doc! { "delete": collection, "deletes": [ { "q": marked, "limit": 1 } ] }
            }
            (seen, Some(basket)) => {
                let mut set = whole(basket, epoch);
                set.insert("fence", fence);
                set.insert(SEAL, seal(id, epoch, &set));
                let strange = seen.iter().flat_map(|seen| seen.fields.keys());
                let (odd, strange): (Vec<&String>, Vec<&String>) = strange
                    .filter(|name| !set.contains_key(*name))
                    .partition(|name| name.contains(['.', '$']));
                if !odd.is_empty() {
                    let without = without(&odd, id, epoch, &set);
                    let without = doc! { "q": &as_seen, "u": without };
                    let command = doc! { "update": &collection, "updates": [without], "writeConcern": durable() };
                    write_command(&self.database, "mend a basket", command).await?;
                }
                let unset: Document = strange.into_iter().map(|name| (name.clone(), Bson::from(""))).collect();
                let mut update = doc! { "$set": set };
                if !unset.is_empty() {
                    update.insert("$unset", unset);
                }
                let query = if seen.is_some() {
                    as_seen
                } else {
                    doc! { "_id": id.to_string(), "sequence": null }
                };
                doc! { "update": collection, "updates": [ { "q": query, "u": update, "upsert": seen.is_none() } ] }
            }
        };
        command.insert("writeConcern", durable());
        let answer = write_command(&self.database, "mend a basket", command).await;
        self.tell_perhaps(id);
        let answer = answer?;
        Ok(if answer.get_i32("n").is_ok_and(|count| count == 1) {
            Saved::All
        } else {
            Saved::Stale
        })
    }
}
