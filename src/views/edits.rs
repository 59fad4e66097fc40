//! Edits of baskets by hand, as the server's change stream tells of them, and the baskets right before and after each.
//!
//! The stream leaves out what the projector wrote, by the seal. An edit is told with the moment at which
//! it happened, and the documents before and after it are read as of that moment, so what the projector
//! writes meanwhile plays no part, and an edit that is handled again is the same edit. The server keeps
//! such moments for minutes; whoever comes later compares the basket with the journal.
//!
//! Change streams: MongoDB manual, "Change Events"; reads of the past: "Read Concern snapshot", `atClusterTime`.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::{Collection, error::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::document::long;
use super::versions::{BASKETS, PROJECTIONS, projections};
use super::{COMMAND_TIMEOUT, Version, ViewError, Views, durable, seal, within, write_command};
use crate::core::id::{BasketId, ShopId};

/// Where a follower of edits keeps its place.
const FEEDS: &str = "feeds";
/// The document with that place.
const PLACE: &str = "edits";
/// How long the server waits for an edit before it answers that there is none.
const WAIT: Duration = Duration::from_millis(500);
/// Errors after which a place in the stream is of no use: the server no longer has what followed it.
const LOST: &[i32] = &[260, 280, 286];
/// Errors that say that a moment is too long ago.
const TOO_OLD: &[i32] = &[239, 246];

/// A moment by the server's own count.
pub type Moment = Timestamp;
/// A document as it was at a moment.
pub type Image = Document;

/// Something that happened to a basket's document, and that the projector did not do.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// Its own id, the same however often it is told. A basket's edits in one transaction, which have one moment, are one.
    pub id: Uuid,
    /// The basket.
    pub basket: BasketId,
    /// The version of the baskets that was edited.
    pub version: Version,
    /// When, by the server's own count.
    pub at: Timestamp,
}

/// What a stream tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An edit.
    Edit(Edit),
    /// A whole version of the baskets was dropped or renamed.
    Gone(Version),
}

/// Why edits cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum EditsError {
    /// The server no longer has what followed the place, or the database was dropped.
    #[error("edits of baskets may have been missed: {0}")]
    Lost(String),
    /// MongoDB failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Why a document of the past cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The moment is too long ago.
    #[error("the server no longer knows how a document was then")]
    TooOld,
    /// MongoDB failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// A place among the edits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EditsPlace {
    token: ResumeToken,
}

/// The edits in their order, as they happen.
#[derive(Debug)]
pub struct Edits {
    stream: ChangeStream<Document>,
}

impl Edits {
    /// The newest place.
    pub fn place(&self) -> Option<EditsPlace> {
        self.stream.resume_token().map(|token| EditsPlace { token })
    }

    /// The next thing that happened, with the place behind it; nothing, with the newest place, if nothing did for a while.
    ///
    /// # Errors
    /// [`EditsError::Lost`] where it cannot go on from here; any other error may pass.
    pub async fn next(&mut self) -> Result<(Option<Told>, Option<EditsPlace>), EditsError> {
        let next = tokio::time::timeout(COMMAND_TIMEOUT + WAIT, self.stream.next_if_any()).await;
        let event = match next {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => return Err(classified(error)),
            Err(_) => {
                let operation = "follow edits";
                return Err(ViewError::TimedOut { operation }.into());
            }
        };
        if event.is_none() && !self.stream.is_alive() {
            return Err(EditsError::Lost("the stream of changes has ended".to_owned()));
        }
        Ok((event.as_ref().and_then(told), self.place()))
    }
}

fn classified(source: mongodb::error::Error) -> EditsError {
    let code = match &*source.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    };
    if code.is_some_and(|code| LOST.contains(&code)) {
        return EditsError::Lost(source.to_string());
    }
    let operation = "follow edits";
    ViewError::of(operation, source).into()
}

/// What an event of the stream tells; nothing where the projector wrote, or where it is about no basket.
fn told(event: &Document) -> Option<Told> {
    let version = Version::parse(event.get_document("ns").ok()?.get_str("coll").ok()?)?;
    let operation = event.get_str("operationType").ok()?;
    if matches!(operation, "drop" | "rename") {
        return Some(Told::Gone(version));
    }
    let whole = event.get_document("fullDocument").ok();
    if operation == "insert" && whole.is_some_and(seal::is_sealed) {
        return None;
    }
    let key = event.get_document("documentKey").ok()?.get_str("_id").ok()?;
    let at = event.get_timestamp("clusterTime").ok()?;
    let name = format!("{version}/{key}@{}.{}", at.time, at.increment);
    Some(Told::Edit(Edit {
        id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
        basket: BasketId::parse(key).ok()?,
        version,
        at,
    }))
}

/// What is not of the projector.
fn of_others() -> Document {
    doc! { "$match": {
        "ns.coll": { "$regex": "^baskets(_[0-9]+)?$" },
        "$or": [
            { "operationType": { "$in": ["insert", "replace", "delete", "drop", "rename"] } },
            { "operationType": "update", (format!("updateDescription.updatedFields.{}", seal::SEAL)): { "$exists": false } },
        ],
    } }
}

impl Views {
    /// Follows the edits after a place, or from a moment on.
    ///
    /// # Errors
    /// [`EditsError::Lost`] where the server no longer has what followed.
    pub async fn edits(&self, from: Result<EditsPlace, Timestamp>) -> Result<Edits, EditsError> {
        let watch = self.database.watch().pipeline([of_others()]).max_await_time(WAIT);
        let watch = match from {
            Ok(place) => watch.start_after(place.token),
            Err(moment) => watch.start_at_operation_time(moment),
        };
        let stream = tokio::time::timeout(COMMAND_TIMEOUT, async { watch.await }).await;
        match stream {
            Ok(Ok(stream)) => Ok(Edits {
                stream: stream.with_type::<Document>(),
            }),
            Ok(Err(error)) => Err(classified(error)),
            Err(_) => {
                let operation = "follow edits";
                Err(ViewError::TimedOut { operation }.into())
            }
        }
    }

    /// The present moment by the server's own count.
    pub async fn moment(&self) -> Result<Timestamp, ViewError> {
        let operation = "ask for the time";
        let answer = within(operation, async { self.database.run_command(doc! { "ping": 1 }).await }).await?;
        answer.get_timestamp("operationTime").map_err(|_| ViewError::Refused {
            operation,
            reason: "the server tells no operationTime; is it a member of a replica set?".to_owned(),
        })
    }

    /// The document of a basket as it was at a moment.
    ///
    /// # Errors
    /// [`ImageError::TooOld`] where that is more than some minutes ago.
    pub async fn image(&self, basket: BasketId, at: Timestamp) -> Result<Option<Document>, ImageError> {
        self.past(&self.version().to_string(), basket.to_string().into(), at)
            .await
    }

    /// The place up to which a partition was folded at a moment.
    ///
    /// # Errors
    /// As of [`image`](Self::image).
    pub async fn checkpoint_at(&self, partition: u16, at: Timestamp) -> Result<u64, ImageError> {
        let id = self.version().checkpoint_id(partition);
        let found = self.past("checkpoints", id, at).await?;
        let sequence = found.and_then(|checkpoint| checkpoint.get_i64("sequence").ok());
        Ok(sequence.and_then(|sequence| sequence.try_into().ok()).unwrap_or(0))
    }

    /// The version of the baskets that was read and written at a moment.
    ///
    /// # Errors
    /// As of [`image`](Self::image).
    pub async fn active_at(&self, at: Timestamp) -> Result<Version, ImageError> {
        let pointer = self.past(PROJECTIONS, BASKETS.into(), at).await?;
        Ok(projections(pointer.as_ref())?.active)
    }

    async fn past(&self, collection: &str, id: Bson, at: Timestamp) -> Result<Option<Document>, ImageError> {
        let operation = "read a document of the past";
        let find = doc! {
            "find": collection,
            "filter": { "_id": id },
            "limit": 1,
            "readConcern": { "level": "snapshot", "atClusterTime": at },
        };
        let answer = match within(operation, async { self.database.run_command(find).await }).await {
            Ok(answer) => answer,
            Err(ViewError::Unavailable { source, .. }) if matches!(&*source.kind, ErrorKind::Command(error) if TOO_OLD.contains(&error.code)) =>
            {
                return Err(ImageError::TooOld);
            }
            Err(error) => return Err(error.into()),
        };
        let batch = answer
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        let first = batch.ok().and_then(|batch| batch.first());
        Ok(first.and_then(Bson::as_document).cloned())
    }

    /// Where the edits were left.
    pub async fn edits_place(&self) -> Result<Option<EditsPlace>, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let found = within("read the place among the edits", async {
            feeds.find_one(doc! { "_id": PLACE }).await
        })
        .await?;
        // A token that is nothing would be read as one that begins now.
        let found = found.filter(|place| matches!(place.get("token"), Some(Bson::Document(_))));
        Ok(found.and_then(|place| mongodb::bson::deserialize_from_document(place).ok()))
    }

    /// Notes where the edits are left; everything before is done.
    pub async fn leave_edits_at(&self, place: Option<&EditsPlace>) -> Result<(), ViewError> {
        let update = if let Some(place) = place {
            let token = mongodb::bson::serialize_to_bson(&place.token).expect("a token is BSON");
            doc! { "$set": { "token": token } }
        } else {
            // All are compared once more, and what that finds is found anew.
            doc! { "$unset": { "token": "", "scan": "" } }
        };
        let statement = doc! { "q": { "_id": PLACE }, "u": update, "upsert": true };
        let command = doc! { "update": FEEDS, "updates": [statement], "writeConcern": durable() };
        write_command(&self.database, "note the place among the edits", command).await?;
        Ok(())
    }
}

/// A shop whose edits are not taken, in `feeds`.
const HELD: &str = "held:";

/// Up to when a basket's edits are taken, in `feeds`.
const COVERED: &str = "covered:";
/// How long that is kept: beyond the time for which a server tells of edits.
const COVERED_SECONDS: u32 = 7 * 24 * 3_600;

/// A comparison of all baskets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Its own id.
    pub id: Uuid,
    /// When it was begun. What is edited later is told by the stream as well.
    pub moment: Timestamp,
}

/// All edits of one basket up to a moment, which were taken together as one difference from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cover {
    /// Id of what became of it.
    pub id: Uuid,
    /// The moment.
    pub until: Timestamp,
    /// The place in the journal up to which the basket was compared.
    pub base: u64,
}

impl Views {
    /// Whether it is noted what became of an edit.
    pub async fn is_noted(&self, id: Uuid) -> Result<bool, ViewError> {
        let corrections: Collection<Document> = self.database.collection("corrections");
        let found = within("look for an edit", async {
            corrections.find_one(doc! { "_id": id.to_string() }).await
        })
        .await?;
        Ok(found.is_some())
    }

    /// The place in the journal of a correction that its basket has.
    pub async fn place_of_correction(&self, basket: BasketId, id: Uuid) -> Result<Option<u64>, ViewError> {
        let baskets = self.stored::<Document>();
        let query = doc! { "_id": basket.to_string(), "corrections.correction_id": id.to_string() };
        let found = within("look for a correction", async {
            baskets.find_one(query).projection(doc! { "corrections.$": 1 }).await
        })
        .await?;
        let place = |found: &Document| {
            let correction = found.get_array("corrections").ok()?.first()?.as_document()?;
            correction.get_i64("sequence").ok()?.try_into().ok()
        };
        Ok(found.as_ref().and_then(place))
    }

    /// Begins to compare all baskets, or goes on with what a process was about that has ended.
    pub async fn begin_scan(&self) -> Result<Scan, ViewError> {
        let new = doc! { "id": Uuid::new_v4().to_string(), "moment": self.moment().await? };
        let begin = vec![doc! { "$set": { "scan": { "$ifNull": ["$scan", { "$literal": new }] } } }];
        let command = doc! {
            "update": FEEDS,
            "updates": [ { "q": { "_id": PLACE }, "u": begin, "upsert": true } ],
            "writeConcern": durable(),
        };
        let operation = "begin a comparison";
        write_command(&self.database, operation, command).await?;
        self.scan_under_way().await?.ok_or_else(|| ViewError::Refused {
            operation,
            reason: "somebody else has ended it".to_owned(),
        })
    }

    /// The comparison of all baskets that was begun and is not done.
    pub async fn scan_under_way(&self) -> Result<Option<Scan>, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let found = within("look for a comparison", async {
            feeds.find_one(doc! { "_id": PLACE }).await
        })
        .await?;
        let scan = |found: &Document| {
            let scan = found.get_document("scan").ok()?;
            Some(Scan {
                id: Uuid::try_parse(scan.get_str("id").ok()?).ok()?,
                moment: scan.get_timestamp("moment").ok()?,
            })
        };
        Ok(found.as_ref().and_then(scan))
    }

    /// Notes that all baskets were compared, but those of a shop that was let go since that was begun.
    pub async fn note_scan(&self) -> Result<(), ViewError> {
        let is_due = doc! { "$gte": ["$resumed", "$scan.moment"] };
        let scanned_at = doc! { "$cond": [is_due, "$$REMOVE", "$$NOW"] };
        let done = vec![doc! { "$set": { "scanned_at": scanned_at } }, doc! { "$unset": "scan" }];
        let command = doc! {
            "update": FEEDS,
            "updates": [ { "q": { "_id": PLACE }, "u": done, "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "note a comparison", command).await?;
        Ok(())
    }

    /// Notes that what was changed in a basket up to a moment is taken together, before anything comes of it.
    pub async fn cover(&self, basket: BasketId, cover: &Cover) -> Result<(), ViewError> {
        let fields = doc! { "id": cover.id.to_string(), "until": cover.until, "base": long(cover.base) };
        let command = doc! {
            "update": FEEDS,
            "updates": [ { "q": { "_id": format!("{COVERED}{basket}") }, "u": fields, "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "note what a comparison found", command).await?;
        Ok(())
    }

    /// What was taken together, by basket. What no stream tells any more is forgotten.
    pub async fn covers(&self) -> Result<HashMap<BasketId, Cover>, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let now = self.moment().await?;
        let old = Timestamp {
            time: now.time.saturating_sub(COVERED_SECONDS),
            increment: 0,
        };
        let found: Vec<Document> = within("list what comparisons found", async {
            let covered = doc! { "_id": { "$regex": format!("^{COVERED}") } };
            let mut forgotten = covered.clone();
            forgotten.insert("until", doc! { "$lt": old });
            feeds.delete_many(forgotten).await?;
            feeds.find(covered).await?.try_collect().await
        })
        .await?;
        let cover = |found: &Document| {
            let basket = BasketId::parse(found.get_str("_id").ok()?.strip_prefix(COVERED)?).ok()?;
            let cover = Cover {
                id: Uuid::try_parse(found.get_str("id").ok()?).ok()?,
                until: found.get_timestamp("until").ok()?,
                base: found.get_i64("base").ok()?.try_into().ok()?,
            };
            Some((basket, cover))
        };
        Ok(found.iter().filter_map(cover).collect())
    }

    /// How long ago all baskets were compared, by the server's clock.
    pub async fn seconds_since_scan(&self) -> Result<Option<i64>, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let since = doc! { "$dateDiff": { "startDate": "$scanned_at", "endDate": "$$NOW", "unit": "second" } };
        let pipeline = [
            doc! { "$match": { "_id": PLACE } },
            doc! { "$project": { "since": since } },
        ];
        let found: Vec<Document> = within("ask for the last comparison", async {
            feeds.aggregate(pipeline).await?.try_collect().await
        })
        .await?;
        Ok(found.first().and_then(|found| found.get_i64("since").ok()))
    }

    /// Takes no more edits of a shop.
    pub async fn hold_shop(&self, shop: ShopId) -> Result<(), ViewError> {
        let statement = doc! {
            "q": { "_id": format!("{HELD}{shop}") },
            "u": { "$setOnInsert": { "since": DateTime::now() } },
            "upsert": true,
        };
        let command = doc! { "update": FEEDS, "updates": [statement], "writeConcern": durable() };
        write_command(&self.database, "hold a shop", command).await?;
        Ok(())
    }

    /// Shops whose edits are not taken.
    pub async fn held_shops(&self) -> Result<Vec<ShopId>, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let found: Vec<Document> = within("list the held shops", async {
            let held = doc! { "_id": { "$regex": format!("^{HELD}") } };
            feeds.find(held).await?.try_collect().await
        })
        .await?;
        let shop = |held: &Document| ShopId::parse(held.get_str("_id").ok()?.strip_prefix(HELD)?).ok();
        Ok(found.iter().filter_map(shop).collect())
    }

    /// Takes the edits of a shop again, and answers whether they were not taken before. All baskets are due to be compared
    /// then, whoever follows the edits by that time.
    pub async fn resume_shop(&self, shop: ShopId) -> Result<bool, ViewError> {
        let feeds: Collection<Document> = self.database.collection(FEEDS);
        let deleted = within("resume a shop", async {
            feeds.delete_one(doc! { "_id": format!("{HELD}{shop}") }).await
        })
        .await?;
        // Also where it is not held: whoever let it go may have died before this.
        let due = doc! { "$set": { "resumed": self.moment().await? }, "$unset": { "scanned_at": "" } };
        let command = doc! {
            "update": FEEDS,
            "updates": [ { "q": { "_id": PLACE }, "u": due, "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "have all baskets compared", command).await?;
        Ok(deleted.deleted_count > 0)
    }
}

/// The moment right before another one.
pub fn right_before(at: Timestamp) -> Timestamp {
    match at.increment.checked_sub(1) {
        Some(increment) => Timestamp { increment, ..at },
        None => Timestamp {
            time: at.time.saturating_sub(1),
            increment: u32::MAX,
        },
    }
}
