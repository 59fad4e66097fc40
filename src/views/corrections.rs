//! Corrections as the collection has them: what was asked for, and what became of it.
//!
//! The collection is the truth about what people want: what is `new` there is made a correction of the
//! journal, however often somebody dies on the way. Each step of that is one guarded write, so two
//! processes that take the same one do it once: which differences it makes is decided by the first
//! that notes them, and what became of it by the first that notes that.

use std::collections::HashSet;
use std::str::FromStr as _;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, DateTime, Decimal128, Document, doc};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::document::{StoredChange, decimal, long, money, stored_change, time, unsigned};
use super::{Refusal, ViewError, Views, durable, within, write_command};
use crate::core::basket::{Asked, Plan, Status};
use crate::core::event::{Change, Proposal};
use crate::core::id::BasketId;

/// The collection.
const CORRECTIONS: &str = "corrections";

/// First and longest pause between two looks at what became of a correction.
const OUTCOME_PAUSE_FIRST: Duration = Duration::from_millis(5);
const OUTCOME_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Another correction was filed under this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another correction was filed under the id {0}; it stays, and this one was not filed")]
pub struct NotSame(pub Uuid);

/// Where a correction came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody asked for it.
    Api,
    /// Somebody edited a basket's document.
    Database,
}

impl Source {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Database => "database",
        }
    }
}

/// A correction as the collection has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// Its id, which is that of its event in the journal as well.
    pub id: Uuid,
    /// The basket.
    pub basket: BasketId,
    /// Who made it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Place in the journal up to which the author saw the basket, where that is known.
    pub base_sequence: Option<u64>,
    /// Where it came from.
    pub source: Source,
    /// When it was noted, by the clock of the process that did.
    pub created_at: OffsetDateTime,
    /// What was asked for; nothing for an edit by hand.
    pub asked: Option<Asked>,
    /// The differences that it makes, once they are decided.
    pub planned: Option<Plan>,
    /// What became of it.
    pub standing: Standing,
}

/// What became of a correction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has taken it yet, or it is under way.
    New,
    /// It is in the journal.
    Published {
        /// At this place.
        sequence: u64,
        /// With these differences.
        changes: Vec<Change>,
    },
    /// It is no correction.
    Rejected {
        /// Stable word for the rule.
        code: String,
        /// The rule, for a person.
        reason: String,
    },
}

impl Filed {
    /// What was asked for; nothing for an edit by hand.
    pub fn proposal(&self) -> Option<Proposal> {
        let asked = self.asked.clone()?;
        Some(Proposal {
            author: self.author.clone(),
            reason: self.reason.clone(),
            base_sequence: self.base_sequence,
            asked,
        })
    }
}

/// A document that asks for something that cannot be read, as one that somebody wrote by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Its `_id`.
    pub id: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What is noted of an edit by hand.
#[derive(Debug, Clone, Copy)]
pub struct Noted<'a> {
    /// Its id.
    pub id: Uuid,
    /// The basket.
    pub basket: BasketId,
    /// Who made it.
    pub author: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Place in the journal of the last event of the basket before it.
    pub base_sequence: u64,
    /// What became of it.
    pub outcome: Outcome<'a>,
}

/// What becomes of a correction.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// It is in the journal.
    Published {
        /// At this place.
        sequence: u64,
        /// With these differences.
        changes: &'a [Change],
    },
    /// It is no correction.
    Rejected(&'a Refusal),
}

impl Outcome<'_> {
    fn fields(self) -> Document {
        match self {
            Self::Published { sequence, changes } => {
                doc! { "state": "published", "sequence": long(sequence), "changes": stored_changes(changes) }
            }
            Self::Rejected(refusal) => {
                let rejection = doc! { "code": refusal.code, "reason": &refusal.reason };
                doc! { "state": "rejected", "rejection": rejection }
            }
        }
    }
}

fn stored_changes(changes: &[Change]) -> Vec<Bson> {
    changes.iter().map(stored_change).collect()
}

fn restored(changes: Vec<StoredChange>) -> Result<Vec<Change>, String> {
    changes.into_iter().map(StoredChange::restore).collect()
}

#[derive(Debug, Deserialize)]
struct StoredFiled {
    #[serde(rename = "_id")]
    id: String,
    basket: String,
    author: String,
    reason: String,
    base_sequence: Option<i64>,
    source: String,
    created_at: DateTime,
    asked: Option<StoredAsked>,
    planned: Option<StoredPlan>,
    state: String,
    sequence: Option<i64>,
    changes: Option<Vec<StoredChange>>,
    rejection: Option<StoredRejection>,
}

/// What is asked for, of any kind; each kind has its own of these fields.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredAsked {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<Decimal128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Decimal128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correction_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StoredPlan {
    base_sequence: i64,
    changes: Vec<StoredChange>,
}

#[derive(Debug, Deserialize)]
struct StoredRejection {
    code: String,
    reason: String,
}

impl StoredAsked {
    fn of(asked: &Asked) -> Self {
        let kind = |kind: &str| Self {
            kind: kind.to_owned(),
            ..Self::default()
        };
        match asked {
            Asked::Quantity {
                product_id,
                quantity,
                price,
            } => Self {
                product_id: Some(*product_id),
                quantity: Some(long(*quantity)),
                price: price.map(decimal),
                ..kind("quantity")
            },
            Asked::Price { product_id, price } => Self {
                product_id: Some(*product_id),
                price: Some(decimal(*price)),
                ..kind("price")
            },
            Asked::Adjustment { by } => Self {
                by: Some(decimal(*by)),
                ..kind("adjustment")
            },
            Asked::Status { status } => Self {
                to: Some(status.word().to_owned()),
                ..kind("status")
            },
            Asked::Undo { correction } => Self {
                correction_id: Some(correction.to_string()),
                ..kind("undo")
            },
        }
    }

    fn restore(&self) -> Result<Asked, String> {
        let lacks = |field: &str| format!("what is asked for, of kind {:?}, has no {field}", self.kind);
        let product_id = || self.product_id.ok_or_else(|| lacks("product_id"));
        match self.kind.as_str() {
            "quantity" => {
                let quantity = self.quantity.and_then(|quantity| u64::try_from(quantity).ok());
                Ok(Asked::Quantity {
                    product_id: product_id()?,
                    quantity: quantity.ok_or_else(|| lacks("quantity from 0"))?,
                    price: self.price.map(money).transpose()?,
                })
            }
            "price" => Ok(Asked::Price {
                product_id: product_id()?,
                price: money(self.price.ok_or_else(|| lacks("price"))?)?,
            }),
            "adjustment" => Ok(Asked::Adjustment {
                by: money(self.by.ok_or_else(|| lacks("by"))?)?,
            }),
            "status" => Ok(Asked::Status {
                status: self.to.as_deref().and_then(Status::of).ok_or_else(|| lacks("status"))?,
            }),
            "undo" => {
                let id = self.correction_id.as_deref().and_then(|id| Uuid::from_str(id).ok());
                Ok(Asked::Undo {
                    correction: id.ok_or_else(|| lacks("correction_id"))?,
                })
            }
            other => Err(format!("what is asked for is of the unknown kind {other:?}")),
        }
    }
}

impl StoredFiled {
    fn restore(self) -> Result<Filed, String> {
        let planned = self.planned.map(|plan| {
            Ok::<_, String>(Plan {
                base_sequence: unsigned(plan.base_sequence),
                changes: restored(plan.changes)?,
            })
        });
        let asked = self.asked.as_ref().map(StoredAsked::restore).transpose()?;
        let standing = match (self.state.as_str(), self.sequence, self.rejection) {
            ("new", ..) if asked.is_some() => {
                // Whoever filed it by hand may say no more than who sends it.
                Proposal::check_texts(&self.author, &self.reason)?;
                Standing::New
            }
            ("new", ..) => return Err("it asks for nothing".to_owned()),
            ("published", Some(sequence), _) => Standing::Published {
                sequence: unsigned(sequence),
                changes: restored(self.changes.unwrap_or_default())?,
            },
            ("rejected", _, Some(rejection)) => Standing::Rejected {
                code: rejection.code,
                reason: rejection.reason,
            },
            (state, ..) => return Err(format!("it is {state:?} and does not say how")),
        };
        Ok(Filed {
            id: Uuid::from_str(&self.id).map_err(|error| error.to_string())?,
            basket: BasketId::parse(&self.basket).map_err(|error| format!("its basket {error}"))?,
            author: self.author,
            reason: self.reason,
            base_sequence: self.base_sequence.map(unsigned),
            source: if self.source == Source::Database.word() {
                Source::Database
            } else {
                Source::Api
            },
            created_at: time(self.created_at).ok_or("created_at is out of range")?,
            asked,
            planned: planned.transpose()?,
            standing,
        })
    }
}

fn restore(document: Document) -> Result<Filed, Malformed> {
    let id = document.get_str("_id").unwrap_or_default().to_owned();
    let stored: Result<StoredFiled, _> = mongodb::bson::deserialize_from_document(document);
    let filed = stored.map_err(|error| error.to_string()).and_then(StoredFiled::restore);
    filed.map_err(|reason| Malformed { id, reason })
}

/// What a document has in any state.
fn filing(basket: BasketId, author: &str, reason: &str, base_sequence: Option<u64>, source: Source) -> Document {
    doc! {
        "basket": basket.to_string(),
        "shop_id": basket.shop.to_string(),
        "session_id": basket.session.to_string(),
        "author": author,
        "reason": reason,
        "base_sequence": base_sequence.map(long),
        "source": source.word(),
        "created_at": DateTime::now(),
    }
}

impl Views {
    fn filed_documents(&self) -> Collection<Document> {
        self.database.collection(CORRECTIONS)
    }

    /// Files what is asked for under an id, unless there is one of that id, and wakes whoever takes corrections in
    /// this process. It is as safe as a basket when this returns, also where it was there before.
    pub async fn propose(&self, id: Uuid, basket: BasketId, proposal: &Proposal) -> Result<(), ViewError> {
        let (author, reason, base) = (&proposal.author, &proposal.reason, proposal.base_sequence);
        let mut fields = filing(basket, author, reason, base, Source::Api);
        let asked = StoredAsked::of(&proposal.asked);
        let asked = mongodb::bson::serialize_to_bson(&asked).expect("what is asked for is BSON");
        fields.extend(doc! { "asked": asked, "state": "new" });
        self.file(id, fields, "file a correction").await?;
        self.proposed.notify_one();
        Ok(())
    }

    /// Waits until a correction is filed in this process, at most for so long. One that was filed while nobody waited counts.
    pub async fn proposed(&self, longest: Duration) {
        let _ = tokio::time::timeout(longest, self.proposed.notified()).await;
    }

    /// Waits until it is decided what becomes of a correction that was filed, at most for so long.
    ///
    /// # Errors
    /// [`NotSame`] where another one was filed under its id; that one stays. [`ViewError::Unreadable`] where somebody has
    /// taken it out of the collection.
    pub async fn outcome(
        &self,
        id: Uuid,
        basket: BasketId,
        proposal: &Proposal,
        longest: Duration,
    ) -> Result<Result<Filed, NotSame>, ViewError> {
        let deadline = Instant::now() + longest;
        let mut pause = OUTCOME_PAUSE_FIRST;
        loop {
            let filed = self.filed(id).await?.ok_or_else(|| ViewError::Unreadable {
                id: id.to_string(),
                reason: "it was filed and is gone".to_owned(),
            })?;
            if filed.basket != basket || filed.proposal().as_ref() != Some(proposal) {
                return Ok(Err(NotSame(id)));
            }
            let now = Instant::now();
            if filed.standing != Standing::New || now >= deadline {
                return Ok(Ok(filed));
            }
            tokio::time::sleep_until(deadline.min(now + pause)).await;
            pause = OUTCOME_PAUSE_MAX.min(pause * 3 / 2);
        }
    }

    /// Notes what became of an edit by hand, and answers whether that was not noted before.
    pub async fn note_edit(&self, noted: &Noted<'_>) -> Result<bool, ViewError> {
        let base = Some(noted.base_sequence);
        let mut fields = filing(noted.basket, noted.author, noted.reason, base, Source::Database);
        fields.extend(noted.outcome.fields());
        self.file(noted.id, fields, "note an edit").await
    }

    async fn file(&self, id: Uuid, fields: Document, operation: &'static str) -> Result<bool, ViewError> {
        let statement = doc! { "q": { "_id": id.to_string() }, "u": { "$setOnInsert": fields }, "upsert": true };
        let command = doc! { "update": CORRECTIONS, "updates": [statement], "writeConcern": durable() };
        let answer = write_command(&self.database, operation, command).await?;
        Ok(answer.get_array("upserted").is_ok_and(|upserted| !upserted.is_empty()))
    }

    /// The correction of this id.
    ///
    /// # Errors
    /// [`ViewError::Unreadable`] where somebody wrote a document that is none.
    pub async fn filed(&self, id: Uuid) -> Result<Option<Filed>, ViewError> {
        let found = within("read a correction", async {
            self.filed_documents().find_one(doc! { "_id": id.to_string() }).await
        })
        .await?;
        let unreadable = |Malformed { id, reason }| ViewError::Unreadable { id, reason };
        found.map(|found| restore(found).map_err(unreadable)).transpose()
    }

    /// The newest corrections of a basket, the newest first. Those that cannot be read are left out.
    pub async fn filed_of(&self, basket: BasketId, limit: u16) -> Result<Vec<Filed>, ViewError> {
        let filed = self.filed_documents();
        let found: Vec<Document> = within("list the corrections of a basket", async {
            let newest = doc! { "created_at": -1, "_id": -1 };
            let find = filed.find(doc! { "basket": basket.to_string() }).sort(newest);
            find.limit(limit.into()).await?.try_collect().await
        })
        .await?;
        Ok(found.into_iter().filter_map(|found| restore(found).ok()).collect())
    }

    /// The newest corrections of all shops, the newest first. Those that cannot be read are left out.
    pub async fn newest_filed(&self, limit: u16) -> Result<Vec<Filed>, ViewError> {
        let filed = self.filed_documents();
        let found: Vec<Document> = within("list the newest corrections", async {
            let newest = doc! { "created_at": -1, "_id": -1 };
            let find = filed.find(doc! {}).sort(newest);
            find.limit(limit.into()).await?.try_collect().await
        })
        .await?;
        Ok(found.into_iter().filter_map(|found| restore(found).ok()).collect())
    }

    /// How many corrections nobody has taken, counted up to `limit`, and since when the oldest of them waits.
    pub async fn waiting_corrections(&self, limit: u64) -> Result<(u64, Option<OffsetDateTime>), ViewError> {
        let filed = self.filed_documents();
        let new = || doc! { "state": "new" };
        let count = filed.count_documents(new()).limit(limit);
        let count = within("count new corrections", async { count.await }).await?;
        let oldest = filed.find_one(new()).sort(doc! { "created_at": 1 });
        let oldest = oldest.projection(doc! { "created_at": 1 });
        let oldest = within("look for the oldest new correction", async { oldest.await }).await?;
        let since = oldest.and_then(|oldest| time(*oldest.get_datetime("created_at").ok()?));
        Ok((count, since))
    }

    /// About how many corrections there are, whatever became of them, and where in the journal the newest is that is there.
    pub async fn filed_so_far(&self) -> Result<(u64, Option<u64>), ViewError> {
        let filed = self.filed_documents();
        let all = within("count all corrections", async {
            filed.estimated_document_count().await
        })
        .await?;
        let newest = filed.find_one(doc! { "state": "published" });
        let newest = newest
            .sort(doc! { "created_at": -1, "_id": -1 })
            .projection(doc! { "sequence": 1 });
        let newest = within("look for the newest correction", async { newest.await }).await?;
        Ok((
            all,
            newest.and_then(|newest| newest.get_i64("sequence").ok()).map(unsigned),
        ))
    }

    /// The oldest corrections that nobody has taken, the oldest first, without the first of them.
    pub async fn new_corrections(&self, without: u64, limit: u16) -> Result<Vec<Result<Filed, Malformed>>, ViewError> {
        let filed = self.filed_documents();
        let found: Vec<Document> = within("look for new corrections", async {
            let find = filed.find(doc! { "state": "new" }).sort(doc! { "created_at": 1 });
            find.skip(without).limit(limit.into()).await?.try_collect().await
        })
        .await?;
        Ok(found.into_iter().map(restore).collect())
    }

    /// Decides which differences a correction makes, unless that is decided, and answers those that stand; nothing
    /// where it is no longer new.
    pub async fn plan_correction(&self, id: Uuid, plan: &Plan) -> Result<Option<Plan>, ViewError> {
        let planned = doc! { "base_sequence": long(plan.base_sequence), "changes": stored_changes(&plan.changes) };
        let unplanned = doc! { "_id": id.to_string(), "state": "new", "planned": { "$exists": false } };
        let statement = doc! { "q": unplanned, "u": { "$set": { "planned": planned } } };
        let command = doc! { "update": CORRECTIONS, "updates": [statement], "writeConcern": durable() };
        let answer = write_command(&self.database, "note what a correction changes", command).await?;
        if answer.get_i32("nModified").is_ok_and(|modified| modified > 0) {
            return Ok(Some(plan.clone()));
        }
        let standing = self.filed(id).await?.filter(|filed| filed.standing == Standing::New);
        Ok(standing.and_then(|filed| filed.planned))
    }

    /// Notes what became of a new correction, and answers whether that was not noted before.
    pub async fn note_outcome(&self, id: Uuid, outcome: Outcome<'_>) -> Result<bool, ViewError> {
        self.note(&id.to_string(), outcome).await
    }

    /// Rejects what asks for something that cannot be read, and answers whether that was not done before.
    pub async fn reject_malformed(&self, malformed: &Malformed, refusal: &Refusal) -> Result<bool, ViewError> {
        self.note(&malformed.id, Outcome::Rejected(refusal)).await
    }

    async fn note(&self, id: &str, outcome: Outcome<'_>) -> Result<bool, ViewError> {
        let statement = doc! { "q": { "_id": id, "state": "new" }, "u": { "$set": outcome.fields() } };
        let command = doc! { "update": CORRECTIONS, "updates": [statement], "writeConcern": durable() };
        let answer = write_command(&self.database, "note what became of a correction", command).await?;
        Ok(answer.get_i32("nModified").is_ok_and(|modified| modified > 0))
    }

    /// The ids of the corrections that a basket's document holds; nothing without a document.
    pub async fn applied_corrections(&self, basket: BasketId) -> Result<Option<HashSet<Uuid>>, ViewError> {
        Ok(self.applied_in(&[basket]).await?.pop())
    }

    /// The ids of the corrections that the documents of these baskets hold, one set for each that there is.
    pub async fn applied_in(&self, baskets: &[BasketId]) -> Result<Vec<HashSet<Uuid>>, ViewError> {
        let ids: Vec<String> = baskets.iter().map(ToString::to_string).collect();
        let baskets: Collection<Document> = self.stored();
        let found: Vec<Document> = within("read which corrections baskets have", async {
            let find = baskets.find(doc! { "_id": { "$in": ids } });
            let find = find.projection(doc! { "corrections.correction_id": 1 });
            find.await?.try_collect().await
        })
        .await?;
        let id = |held: &Bson| Uuid::from_str(held.as_document()?.get_str("correction_id").ok()?).ok();
        let held = |found: &Document| {
            let held = found.get_array("corrections").map(Vec::as_slice).unwrap_or_default();
            held.iter().filter_map(id).collect()
        };
        Ok(found.iter().map(held).collect())
    }
}
