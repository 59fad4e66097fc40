//! What rebuilds have found, kept so that it can be shown.

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::document::{long, time, unsigned};
use super::{ViewError, Views, durable, within, write_command};

const REPORTS: &str = "rebuild_reports";
/// Reports that are kept; the oldest go first.
const KEPT_MAX: u64 = 100;

/// What a comparison of baskets with the journal has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// When it was made, by the server's clock; not known of one that is to be kept.
    pub at: Option<OffsetDateTime>,
    /// What was compared: `all`, a shop, or a basket.
    pub scope: String,
    /// The version that was filled; nothing where baskets were compared in place.
    pub version: Option<String>,
    /// Baskets that are the same on both sides.
    pub equal: u64,
    /// Baskets that are not what the journal says.
    pub different: u64,
    /// How they differ, each kind once.
    pub reasons: Vec<ReportReason>,
    /// Shops of these baskets.
    pub shops: u64,
    /// One digest of all of them, as the journal says them.
    pub digest: String,
}

/// Baskets that differ in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReason {
    /// How.
    pub reason: String,
    /// How many do.
    pub count: i64,
    /// Some of them.
    pub examples: Vec<String>,
}

#[derive(Deserialize)]
struct Stored {
    at: DateTime,
    scope: String,
    version: Option<String>,
    equal: i64,
    different: i64,
    reasons: Vec<ReportReason>,
    #[serde(default)]
    shops: i64,
    #[serde(default)]
    digest: String,
}

impl Stored {
    fn report(self) -> RebuildReport {
        RebuildReport {
            at: time(self.at),
            scope: self.scope,
            version: self.version,
            equal: unsigned(self.equal),
            different: unsigned(self.different),
            reasons: self.reasons,
            shops: unsigned(self.shops),
            digest: self.digest,
        }
    }
}

impl Views {
    /// Keeps a report, and of all reports the newest.
    ///
    /// # Errors
    /// [`ViewError`]; it may be kept, and to keep it again makes two of it.
    pub async fn keep_report(&self, report: &RebuildReport) -> Result<(), ViewError> {
        let reasons = mongodb::bson::serialize_to_bson(&report.reasons).expect("texts and numbers are BSON");
        let set = doc! {
            "at": "$$NOW",
            "scope": &report.scope,
            "version": report.version.as_ref().map(|version| doc! { "$literal": version }),
            "equal": long(report.equal),
            "different": long(report.different),
            "reasons": { "$literal": reasons },
            "shops": long(report.shops),
            "digest": &report.digest,
        };
        let command = doc! {
            "update": REPORTS,
            "updates": [ { "q": { "_id": ObjectId::new() }, "u": [ { "$set": set } ], "upsert": true } ],
            "writeConcern": durable(),
        };
        write_command(&self.database, "keep a report", command).await?;
        let reports: Collection<Document> = self.database.collection(REPORTS);
        let first_too_many = reports.find_one(doc! {}).sort(newest()).skip(KEPT_MAX);
        let first_too_many = within("look for old reports", async { first_too_many.await }).await?;
        if let Some(at) = first_too_many.and_then(|report| report.get_datetime("at").ok().copied()) {
            let old = reports.delete_many(doc! { "at": { "$lte": at } });
            within("forget old reports", async { old.await }).await?;
        }
        Ok(())
    }

    /// The newest reports, at most so many. One that cannot be read is left out.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn reports(&self, limit: u16) -> Result<Vec<RebuildReport>, ViewError> {
        let reports: Collection<Document> = self.database.collection(REPORTS);
        let found: Vec<Document> = within("read the reports", async {
            let find = reports.find(doc! {}).sort(newest()).limit(limit.into());
            find.await?.try_collect().await
        })
        .await?;
        let read = |document| mongodb::bson::deserialize_from_document::<Stored>(document).ok();
        Ok(found.into_iter().filter_map(read).map(Stored::report).collect())
    }
}

fn newest() -> Document {
    doc! { "at": -1, "_id": -1 }
}
