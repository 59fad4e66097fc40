//! What a comparison found, for a person and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::core::id::{BasketId, ShopId};
use crate::views::{RebuildReport, ReportReason, Whole};

/// Examples that are kept of each kind of difference.
const EXAMPLES_MAX: usize = 10;
/// Fields whose values an example tells.
const FIELDS_MAX: usize = 4;
/// Kinds of differences that are kept.
const REASONS_MAX: usize = 50;
/// Shops whose digests are printed; the file has all.
const SHOPS_MAX: usize = 10;

/// Baskets that differ in the same way.
#[derive(Debug, Default)]
struct Reason {
    count: u64,
    examples: Vec<String>,
}

/// One shop's baskets as the journal says them.
#[derive(Debug)]
struct Shop {
    id: ShopId,
    baskets: u64,
    digest: Uuid,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Baskets that are the same on both sides.
    pub(super) equal: u64,
    reasons: BTreeMap<String, Reason>,
    shops: Vec<Shop>,
    keys: Vec<String>,
}

impl Report {
    /// Takes a basket into its shop's digest; they come in the order of their ids.
    pub(super) fn digest(&mut self, whole: &Whole) {
        let Some(BasketId { shop, .. }) = whole.id() else {
            return;
        };
        if self.shops.last().is_none_or(|last| last.id != shop) {
            let digest = Uuid::nil();
            self.shops.push(Shop {
                id: shop,
                baskets: 0,
                digest,
            });
        }
        if let Some(last) = self.shops.last_mut() {
            last.baskets += 1;
            last.digest = whole.digest(last.digest);
        }
    }

    /// A basket that is not what the journal says.
    pub(super) fn different(&mut self, wanted: &Whole, found: &Whole, fields: &[String]) {
        let mut example = String::new();
        for field in fields.iter().take(FIELDS_MAX) {
            let _ = write!(
                example,
                "; {field} is {} and should be {}",
                found.shown(field),
                wanted.shown(field)
            );
        }
        self.note(format!("different in {}", fields.join(", ")), wanted.key(), &example);
    }

    /// A basket that is not there.
    pub(super) fn missing(&mut self, wanted: &Whole) {
        self.note("missing".to_owned(), wanted.key(), "");
    }

    /// A basket of which the journal knows nothing.
    pub(super) fn extra(&mut self, found: &Whole) {
        self.note("not in the journal".to_owned(), found.key(), "");
    }

    fn note(&mut self, reason: String, key: &str, example: &str) {
        let reason = self.reasons.entry(reason).or_default();
        reason.count += 1;
        if reason.examples.len() < EXAMPLES_MAX {
            reason.examples.push(format!("{key}{example}"));
        }
        self.keys.push(key.to_owned());
    }

    /// How many baskets are not what the journal says.
    pub(super) fn differing(&self) -> u64 {
        self.reasons.values().map(|reason| reason.count).sum()
    }

    /// Which baskets are not what the journal says.
    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// One digest of all shops.
    fn total(&self) -> Uuid {
        self.shops
            .iter()
            .fold(Uuid::nil(), |all, shop| Uuid::new_v5(&all, shop.digest.as_bytes()))
    }

    /// The report for a person.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} baskets equal, {} not\n", self.equal, self.differing());
        for (name, reason) in &self.reasons {
            let _ = writeln!(text, "{} {name}:", reason.count);
            for example in &reason.examples {
                let _ = writeln!(text, "  {example}");
            }
            let more = reason.count - u64::try_from(reason.examples.len()).unwrap_or(reason.count);
            if more > 0 {
                let _ = writeln!(text, "  and {more} more");
            }
        }
        for shop in self.shops.iter().take(SHOPS_MAX) {
            let _ = writeln!(
                text,
                "shop {}  {} baskets  digest {}",
                shop.id, shop.baskets, shop.digest
            );
        }
        if self.shops.len() > SHOPS_MAX {
            let _ = writeln!(
                text,
                "and {} more shops (--report has all)",
                self.shops.len() - SHOPS_MAX
            );
        }
        let _ = write!(text, "{} shops, digest {}", self.shops.len(), self.total());
        text
    }

    /// What is kept of it.
    pub(super) fn kept(&self, scope: String, version: Option<String>) -> RebuildReport {
        let reasons = self
            .reasons
            .iter()
            .take(REASONS_MAX)
            .map(|(name, reason)| ReportReason {
                reason: name.clone(),
                count: i64::try_from(reason.count).unwrap_or(i64::MAX),
                examples: reason.examples.clone(),
            });
        RebuildReport {
            at: None,
            scope,
            version,
            equal: self.equal,
            different: self.differing(),
            reasons: reasons.collect(),
            shops: u64::try_from(self.shops.len()).unwrap_or(u64::MAX),
            digest: self.total().to_string(),
        }
    }

    /// Writes all of it to a file.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let reasons: Vec<Value> = self
            .reasons
            .iter()
            .map(|(name, reason)| json!({ "reason": name, "count": reason.count, "examples": reason.examples }))
            .collect();
        let shops: Vec<Value> = self
            .shops
            .iter()
            .map(|shop| json!({ "shop": shop.id.to_string(), "baskets": shop.baskets, "digest": shop.digest.to_string() }))
            .collect();
        let report = json!({
            "equal": self.equal,
            "different": self.differing(),
            "reasons": reasons,
            "baskets": self.keys,
            "shops": shops,
            "digest": self.total().to_string(),
        });
        std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }
}
