//! Somebody who edits baskets in every way that MongoDB knows, by a seed, and writes down what was done.
//!
//! An edit counts where the server changed a document by it. One that changes nothing is none, and
//! neither is one that the server refuses. Several in one transaction are one for each basket, also
//! where the later ones take back what the earlier ones did.

use std::collections::BTreeMap;
use std::sync::Arc;

use mongodb::bson::{Bson, Decimal128, Document, doc};
use mongodb::{ClientSession, Collection};

use super::shoppers::Visit;
use crate::support::{session, wait_for};

/// What was done.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How many edits each basket had, by its `_id`.
    pub made: BTreeMap<String, u64>,
    /// How often each kind was done and changed something.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How many changed nothing.
    pub void: u64,
    /// How many the server refused.
    pub refused: u64,
}

impl Ledger {
    pub fn note(&mut self, key: &str) {
        *self.made.entry(key.to_owned()).or_default() += 1;
    }

    pub fn total(&self) -> u64 {
        self.made.values().sum()
    }
}

/// Kinds of edits, each as likely as its number.
const KINDS: &[(&str, u8)] = &[
    ("quantity", 4),
    ("price", 3),
    ("total", 3),
    ("status", 2),
    ("line", 1),
    ("unset", 2),
    ("forbidden", 4),
    ("guard", 2),
    ("replace", 2),
    ("stale copy", 2),
    ("delete", 3),
    ("fake", 1),
    ("several baskets", 2),
    ("several edits", 2),
    ("back and forth", 1),
    ("race", 3),
];

pub struct Editor {
    pub ledger: Ledger,
    rng: fastrand::Rng,
    baskets: Collection<Document>,
    visits: Vec<Arc<Visit>>,
    url: String,
    /// Documents as they were at some time.
    copies: Vec<Document>,
}

impl Editor {
    pub fn new(baskets: Collection<Document>, visits: &[Arc<Visit>], url: &str, seed: u64) -> Self {
        Self {
            ledger: Ledger::default(),
            rng: fastrand::Rng::with_seed(seed),
            baskets,
            visits: visits.to_vec(),
            url: url.to_owned(),
            copies: Vec::new(),
        }
    }

    /// Makes one edit of a kind by chance.
    pub async fn edit(&mut self) {
        let sum: u8 = KINDS.iter().map(|(_, weight)| weight).sum();
        let mut roll = self.rng.u8(..sum);
        let kind = KINDS.iter().find(|(_, weight)| {
            let found = roll < *weight;
            roll = roll.saturating_sub(*weight);
            found
        });
        let kind = kind.expect("the roll is below the sum").0;
        let before = self.ledger.total();
        self.edit_as(kind).await;
        if self.ledger.total() > before {
            *self.ledger.kinds.entry(kind).or_default() += 1;
        }
    }

    async fn edit_as(&mut self, kind: &str) {
        let visit = Arc::clone(&self.visits[self.rng.usize(..self.visits.len())]);
        let key = visit.key();
        match kind {
            "quantity" => {
                let update = self.quantity();
                self.update(&key, update).await;
            }
            "price" => {
                let price = self.amount();
                self.update(&key, doc! { "$set": { "lines.0.prices.0.price": price } })
                    .await;
            }
            "total" => {
                let total = self.amount();
                self.update(&key, doc! { "$set": { "total": total } }).await;
            }
            "status" => {
                let status = ["paid", "cancelled", "open"][self.rng.usize(..3)];
                self.update(&key, doc! { "$set": { "status": status } }).await;
            }
            "line" => self.update(&key, doc! { "$pop": { "lines": 1 } }).await,
            "unset" => {
                let fields = [
                    "claimed_total",
                    "verdict",
                    "lines.0.amount",
                    "findings",
                    "seal",
                    "actions",
                ];
                let field = fields[self.rng.usize(..fields.len())];
                self.update(&key, doc! { "$unset": { field: "" } }).await;
            }
            "forbidden" => {
                let update = self.forbidden();
                self.update(&key, update).await;
            }
            "guard" => {
                let updates = [
                    doc! { "$inc": { "sequence": 1_000_i64 } },
                    doc! { "$inc": { "version": -1_i64 } },
                    doc! { "$set": { "fence": 1_000_000_i64 } },
                ];
                let update = updates[self.rng.usize(..updates.len())].clone();
                self.update(&key, update).await;
            }
            "replace" => {
                let Some(mut copy) = self.find(&key).await else { return };
                match self.rng.u8(..3) {
                    0 => drop(copy.insert("note", "replaced")),
                    1 => drop(copy.insert("total", self.amount())),
                    _ => drop(copy.insert("odd.name", "$value")),
                }
                self.replace(copy).await;
            }
            "stale copy" => {
                if let Some(copy) = self.find(&key).await {
                    self.copies.push(copy);
                }
                let copy = self.copies[self.rng.usize(..self.copies.len())].clone();
                self.replace(copy).await;
            }
            "delete" => {
                let deleted = self.baskets.delete_one(doc! { "_id": &key }).await.unwrap();
                self.count(&key, deleted.deleted_count);
            }
            "fake" => {
                if let Some(fake) = self.find(&key).await {
                    self.fake(fake, &visit.shop).await;
                }
            }
            "several baskets" | "several edits" | "back and forth" => self.together(kind).await,
            _ => {
                let mut rng = self.rng.fork();
                let url = self.url.clone();
                let update = self.quantity();
                tokio::join!(visit.act(&url, &mut rng), self.update(&key, update));
            }
        }
    }

    /// Makes one more edit, of a basket that has no other, and answers which.
    pub async fn last(&mut self) -> String {
        let visit = Arc::clone(&self.visits[0]);
        let basket = wait_for("a basket to copy", async || self.find(&visit.key()).await).await;
        self.fake(basket, &visit.shop).await
    }

    /// Puts a copy of a basket there under the name of a session that there is not.
    async fn fake(&mut self, mut copy: Document, shop: &str) -> String {
        let nobody = session();
        let key = format!("{shop}.{nobody}");
        copy.insert("_id", &key);
        copy.insert("session_id", nobody);
        self.baskets.insert_one(copy).await.unwrap();
        self.ledger.note(&key);
        key
    }

    fn quantity(&mut self) -> Document {
        let field = format!("lines.{}.quantity", self.rng.usize(..2));
        let quantity = self.rng.i32(0..6);
        let number = [
            Bson::Int32(quantity),
            Bson::Int64(quantity.into()),
            Bson::Double(quantity.into()),
            Bson::Int32(-1),
        ];
        doc! { "$set": { field: number[self.rng.usize(..number.len())].clone() } }
    }

    fn amount(&mut self) -> Bson {
        let text = format!("{}.{:02}", self.rng.u8(..40), self.rng.u8(..100));
        match self.rng.u8(..3) {
            0 => Bson::Double(text.parse().unwrap()),
            1 => Bson::Int32(self.rng.i32(0..40)),
            _ => Bson::Decimal128(text.parse::<Decimal128>().unwrap()),
        }
    }

    fn forbidden(&mut self) -> Document {
        let updates = [
            doc! { "$set": { "note": "hello" } },
            doc! { "$set": { "actions.0.quantity": 9_i64 } },
            doc! { "$set": { "actions.0.action_id": "one" } },
            doc! { "$set": { "actions": [] } },
            doc! { "$pop": { "actions": 1 } },
            doc! { "$set": { "corrections": [] } },
            doc! { "$set": { "lines.0.product_name": "Plums" } },
            doc! { "$push": { "lines": { "product_id": 99_i64, "quantity": 1_i64 } } },
            doc! { "$set": { "session_id": "nobody" } },
            doc! { "$inc": { "item_count": 1_i64 } },
            doc! { "$set": { "total": "much" } },
            doc! { "$rename": { "verdict": "opinion" } },
        ];
        updates[self.rng.usize(..updates.len())].clone()
    }

    async fn find(&self, key: &str) -> Option<Document> {
        self.baskets.find_one(doc! { "_id": key }).await.unwrap()
    }

    async fn update(&mut self, key: &str, update: Document) {
        match self.baskets.update_one(doc! { "_id": key }, update).await {
            Ok(updated) => self.count(key, updated.modified_count),
            Err(_) => self.ledger.refused += 1,
        }
    }

    async fn replace(&mut self, document: Document) {
        let key = document.get_str("_id").unwrap().to_owned();
        match self.baskets.replace_one(doc! { "_id": &key }, document).await {
            Ok(replaced) => self.count(&key, replaced.modified_count),
            Err(_) => self.ledger.refused += 1,
        }
    }

    fn count(&mut self, key: &str, changed: u64) {
        if changed == 0 {
            self.ledger.void += 1;
        } else {
            self.ledger.note(key);
        }
    }

    /// A transaction, again from the beginning until it is not in the way of another write.
    async fn together(&mut self, kind: &str) {
        let mut keys: Vec<String> = self.visits.iter().map(|visit| visit.key()).collect();
        self.rng.shuffle(&mut keys);
        let by = doc! { "$inc": { "total": 1.25 } };
        let edits: Vec<(&str, Document)> = match kind {
            "several baskets" => keys.iter().take(3).map(|key| (key.as_str(), by.clone())).collect(),
            "several edits" => vec![
                (&keys[0], doc! { "$set": { "lines.0.quantity": 7 } }),
                (&keys[0], by.clone()),
                (&keys[1], by.clone()),
                (&keys[0], by),
            ],
            _ => vec![
                (&keys[0], doc! { "$set": { "note": "never mind" } }),
                (&keys[0], doc! { "$unset": { "note": "" } }),
            ],
        };
        let mut session = self.baskets.client().start_session().await.unwrap();
        let changed = loop {
            if let Some(changed) = self.attempt(&mut session, &edits).await {
                break changed;
            }
        };
        for key in changed {
            self.ledger.note(&key);
        }
    }

    /// Which baskets were changed; nothing where another write was in the way.
    async fn attempt(&self, session: &mut ClientSession, edits: &[(&str, Document)]) -> Option<Vec<String>> {
        session.start_transaction().await.unwrap();
        let mut changed = Vec::new();
        for (key, update) in edits {
            let update = self.baskets.update_one(doc! { "_id": key }, update.clone());
            let Ok(updated) = update.session(&mut *session).await else {
                let _ = session.abort_transaction().await;
                return None;
            };
            if updated.modified_count > 0 && !changed.iter().any(|other| other == key) {
                changed.push((*key).to_owned());
            }
        }
        session.commit_transaction().await.unwrap();
        Some(changed)
    }
}
