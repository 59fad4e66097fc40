//! Writing baskets: one command a step, each write guarded, and as large as the change.

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

use super::document::{abandonments, actions, corrections, findings, line, long, raw, scalars, whole};
use super::seal::{SEAL, seal};
use super::{DUPLICATE_KEY, ViewError, Views, durable, within, write_command};
use crate::core::basket::{Basket, LineChanges};
use crate::core::event::Recorded;

/// Most actions in one command; keeps it far below MongoDB's limit of 48 MB for a message.
const COMMAND_ACTIONS_MAX: usize = 20_000;
/// Most baskets that one command inserts; MongoDB takes 100,000.
const COMMAND_BASKETS_MAX: usize = 5_000;

/// What a stored basket was when it was read; a write states that it still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Epoch of the journal that it was folded from.
    pub epoch: String,
    /// Its `sequence`.
    pub sequence: i64,
    /// Its `version`.
    pub version: i64,
}

/// A basket to write, and what is there now.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// The basket, settled.
    pub basket: &'a Basket,
    /// What is stored; `None` where nothing is.
    pub stored: Option<&'a Stored>,
}

/// What became of a write of baskets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// All were written.
    All,
    /// Some were not as expected and were left alone; the caller loads and folds again.
    Stale,
}

impl Views {
    /// Writes baskets in one round trip. Each is written only if it is as it was read and no later
    /// fence has written it, so a projector that lost its lease changes nothing, and a write that is
    /// repeated after a crash finds itself done and is [`Saved::Stale`].
    ///
    /// # Errors
    /// [`ViewError`]; any of the writes may have happened.
    pub async fn save(&self, writes: &[Write<'_>], epoch: &str, fence: i64) -> Result<Saved, ViewError> {
        let mut saved = Saved::All;
        let mut rest = writes;
        while !rest.is_empty() {
            let mut actions = 0;
            let fits = rest.iter().take_while(|write| {
                actions += write.basket.version()
                    - if write.stored.is_some() {
                        write.basket.changes().actions_from
                    } else {
                        0
                    };
                actions <= COMMAND_ACTIONS_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let outcome = self.save_command(now, epoch, fence).await;
            let written = matches!(outcome, Ok(Saved::All));
            self.tell(now.iter().map(|write| write.basket), written);
            if outcome? == Saved::Stale {
                saved = Saved::Stale;
            }
            rest = later;
        }
        Ok(saved)
    }

    /// Writes baskets of a version that is being filled: new ones whole, which costs the server least.
    /// Guarded as [`save`](Self::save) is.
    ///
    /// # Errors
    /// [`ViewError`]; any of the writes may have happened.
    pub async fn fill(&self, writes: &[Write<'_>], epoch: &str, fence: i64) -> Result<Saved, ViewError> {
        let (known, new): (Vec<_>, Vec<_>) = writes
            .iter()
            .partition::<Vec<Write<'_>>, _>(|write| write.stored.is_some());
        let mut saved = if known.is_empty() {
            Saved::All
        } else {
            self.save(&known, epoch, fence).await?
        };
        let mut rest = new.as_slice();
        while !rest.is_empty() {
            let mut actions = 0;
            let fits = rest.iter().take(COMMAND_BASKETS_MAX).take_while(|write| {
                actions += write.basket.version();
                actions <= COMMAND_ACTIONS_MAX
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let documents: Vec<RawDocumentBuf> = now.iter().map(|write| raw(write.basket, epoch, fence)).collect();
            if self.insert(documents).await? == Saved::Stale {
                saved = Saved::Stale;
            }
            rest = later;
        }
        Ok(saved)
    }

    /// Inserts documents; those that are there already are left alone.
    async fn insert(&self, documents: Vec<RawDocumentBuf>) -> Result<Saved, ViewError> {
        let operation = "fill in baskets";
        let baskets = self.stored::<RawDocumentBuf>();
        let insert = baskets.insert_many(documents).ordered(false);
        let source = match within(operation, async { insert.await }).await {
            Ok(_) => return Ok(Saved::All),
            Err(ViewError::Unavailable { source, .. }) => source,
            Err(error) => return Err(error),
        };
        let mongodb::error::ErrorKind::InsertMany(failed) = &*source.kind else {
            return Err(ViewError::Unavailable { operation, source });
        };
        let errors = failed.write_errors.as_deref().unwrap_or_default();
        match errors.iter().find(|error| error.code != DUPLICATE_KEY) {
            Some(error) => Err(ViewError::Refused {
                operation,
                reason: error.message.clone(),
            }),
            None if failed.write_concern_error.is_some() => Err(ViewError::Unavailable { operation, source }),
            None => Ok(Saved::Stale),
        }
    }

    async fn save_command(&self, writes: &[Write<'_>], epoch: &str, fence: i64) -> Result<Saved, ViewError> {
        let updates: Vec<Bson> = writes
            .iter()
            .map(|write| statement(*write, epoch, fence).into())
            .collect();
        let expected = long(updates.len());
        let inserts = long(writes.iter().filter(|write| write.stored.is_none()).count());
        let collection = self.version().to_string();
        let command = doc! { "update": collection, "updates": updates, "ordered": false, "writeConcern": durable() };
        let answer = write_command(&self.database, "write baskets", command).await?;
        // An insert that finds a document counts among `n`, but not among those that were upserted.
        let found = answer.get_i32("n").map_or(0, i64::from);
        let inserted = answer.get_array("upserted").map_or(0, |upserted| long(upserted.len()));
        Ok(if found == expected && inserted == inserts {
            Saved::All
        } else {
            Saved::Stale
        })
    }
}

fn statement(write: Write<'_>, epoch: &str, fence: i64) -> Document {
    let basket = write.basket;
    let id = basket.id();
    let Some(stored) = write.stored else {
        let mut set = whole(basket, epoch);
        set.insert("fence", fence);
        set.insert(SEAL, seal(id, epoch, &set));
        return doc! { "q": { "_id": id.to_string() }, "u": { "$setOnInsert": set }, "upsert": true };
    };

    let mut set = scalars(basket);
    set.insert("fence", fence);
    set.insert(SEAL, seal(id, epoch, &set));
    let changes = basket.changes();
    if changes.findings || changes.everything {
        set.insert("findings", findings(&basket.state().findings));
    }
    // There are few of both, so they are written whole.
    if changes.marks || changes.everything {
        set.insert("abandonments", abandonments(basket.abandonments()));
        set.insert("corrections", corrections(basket));
    }
    // What is set at the place behind the last one of an array is appended by MongoDB. In a long session that costs
    // a third of `$push`, which unpacks the whole array first.
    match &changes.lines {
        LineChanges::Some(places) if !changes.everything => {
            for place in places {
                set.insert(format!("lines.{place}"), line(&basket.state().lines[*place]));
            }
        }
        _ => {
            set.insert("lines", basket.state().lines.iter().map(line).collect::<Vec<_>>());
        }
    }
    if changes.everything {
        set.insert("actions", actions(basket.actions()));
        set.insert("conflicts", actions(basket.conflicts()));
    } else {
        let mut append = |field: &str, all: &[Recorded], from: usize| {
            for (place, action) in (from..).zip(actions(&all[from..])) {
                set.insert(format!("{field}.{place}"), action);
            }
        };
        append("actions", basket.actions(), changes.actions_from);
        append("conflicts", basket.conflicts(), changes.conflicts_from);
    }
    let guard = doc! {
        "_id": id.to_string(),
        "epoch": epoch,
        "sequence": stored.sequence,
        "version": stored.version,
        "fence": { "$lte": fence },
    };
    doc! { "q": guard, "u": { "$set": set } }
}
