//! Parked events: what could not be applied, kept whole with its reason.

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::document::{date, long, time};
use super::{ViewError, Views, durable, within, write_command};
use crate::core::id::BasketId;
use crate::core::query::whole_number;

/// What is to become of a parked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParkedState {
    /// It waits for a person.
    Parked,
    /// A person asked to apply it again; the projector does so within seconds.
    Retry,
    /// A person decided that it never counts; the projector takes note within seconds.
    Drop,
    /// It never counts; it stays as the record of that.
    Dropped,
}

impl ParkedState {
    /// The word for it in documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Retry => "retry",
            Self::Drop => "drop",
            Self::Dropped => "dropped",
        }
    }

    /// Whether a person has decided that it never counts.
    pub const fn never_counts(self) -> bool {
        matches!(self, Self::Drop | Self::Dropped)
    }
}

/// What a person decides about a parked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// To apply it again.
    Retry,
    /// That it never counts.
    Drop,
}

impl Decision {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

/// A place among the parked events: after this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedAfter {
    sequence: u64,
    id: String,
}

impl ParkedAfter {
    /// Reads the id of an event.
    pub fn parse(id: &str) -> Option<Self> {
        let (_, sequence) = id.rsplit_once(':')?;
        Some(Self {
            sequence: whole_number(sequence)?,
            id: id.to_owned(),
        })
    }
}

/// An event that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedEvent {
    /// Epoch and sequence, which name it for ever.
    pub id: String,
    /// Epoch of its journal.
    pub epoch: String,
    /// Its partition.
    pub partition: u16,
    /// Its place in the journal.
    pub sequence: u64,
    /// Its basket; `None` where not even that can be told.
    pub basket: Option<BasketId>,
    /// Why it is parked.
    pub reason: String,
    /// What is to become of it.
    pub state: ParkedState,
    /// Its subject in the journal.
    pub subject: String,
    /// Its `ce-type`, if it has one.
    pub event_type: Option<String>,
    /// When the journal took it, in whole milliseconds.
    pub recorded_at: OffsetDateTime,
    /// Its body as it is in the journal.
    pub body: Vec<u8>,
}

impl ParkedEvent {
    /// The id of the event at this place of this journal.
    pub fn id(epoch: &str, sequence: u64) -> String {
        format!("{epoch}:{sequence}")
    }
}

/// Which parked events are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that are not dropped.
    All,
    /// Those of a basket that are not dropped.
    OfBasket(BasketId),
    /// The one with this id, if it is not dropped.
    One(String),
}

/// A parked event in its stored form.
#[derive(Debug, Serialize, Deserialize)]
struct StoredEvent {
    #[serde(rename = "_id")]
    id: String,
    epoch: String,
    partition: i32,
    sequence: i64,
    basket: Option<String>,
    reason: String,
    state: ParkedState,
    subject: String,
    event_type: Option<String>,
    recorded_at: DateTime,
    body: Binary,
}

impl StoredEvent {
    fn of(event: &ParkedEvent) -> Self {
        Self {
            id: event.id.clone(),
            epoch: event.epoch.clone(),
            partition: i32::from(event.partition),
            sequence: long(event.sequence),
            basket: event.basket.map(|basket| basket.to_string()),
            reason: event.reason.clone(),
            state: event.state,
            subject: event.subject.clone(),
            event_type: event.event_type.clone(),
            recorded_at: date(event.recorded_at),
            body: Binary {
                subtype: BinarySubtype::Generic,
                bytes: event.body.clone(),
            },
        }
    }

    fn restore(self) -> Result<ParkedEvent, ViewError> {
        let unreadable = |reason: &str| ViewError::Unreadable {
            id: self.id.clone(),
            reason: reason.to_owned(),
        };
        let basket = self.basket.as_deref().map(BasketId::parse).transpose();
        Ok(ParkedEvent {
            partition: u16::try_from(self.partition).map_err(|_| unreadable("its partition is out of range"))?,
            sequence: u64::try_from(self.sequence).map_err(|_| unreadable("its sequence is out of range"))?,
            basket: basket.map_err(|_| unreadable("its basket is none"))?,
            recorded_at: time(self.recorded_at).ok_or_else(|| unreadable("recorded_at is out of range"))?,
            id: self.id,
            epoch: self.epoch,
            reason: self.reason,
            state: self.state,
            subject: self.subject,
            event_type: self.event_type,
            body: self.body.bytes,
        })
    }
}

impl Views {
    fn parked(&self) -> Collection<StoredEvent> {
        self.database.collection("parked_events")
    }

    /// Keeps events that could not be applied; what is kept already stays as it is. Durable when it returns.
    pub async fn park(&self, events: &[ParkedEvent]) -> Result<(), ViewError> {
        if events.is_empty() {
            return Ok(());
        }
        let statement = |event: &ParkedEvent| {
            let fields = mongodb::bson::serialize_to_document(&StoredEvent::of(event))
                .expect("texts, numbers and bytes have a BSON form");
            doc! { "q": { "_id": &event.id }, "u": { "$setOnInsert": fields }, "upsert": true }
        };
        let updates: Vec<Document> = events.iter().map(statement).collect();
        let command =
            doc! { "update": "parked_events", "updates": updates, "ordered": false, "writeConcern": durable() };
        write_command(&self.database, "park events", command).await?;
        Ok(())
    }

    /// Which of these events a person has dropped.
    pub async fn dropped(&self, ids: &[String]) -> Result<Vec<String>, ViewError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let parked = self.parked();
        let query =
            doc! { "_id": { "$in": ids }, "state": { "$in": [ParkedState::Drop.word(), ParkedState::Dropped.word()] } };
        let found: Vec<StoredEvent> = within("look for dropped events", async {
            parked.find(query).await?.try_collect().await
        })
        .await?;
        Ok(found.into_iter().map(|event| event.id).collect())
    }

    /// The last place of which something is kept here, in a partition of this journal; 0 for none.
    pub async fn parked_through(&self, epoch: &str, partition: u16) -> Result<u64, ViewError> {
        let parked: Collection<Document> = self.parked().clone_with_type();
        // With all states the index gives the order.
        let states = [
            ParkedState::Parked,
            ParkedState::Retry,
            ParkedState::Drop,
            ParkedState::Dropped,
        ];
        let query = doc! {
            "partition": i32::from(partition),
            "state": { "$in": states.map(ParkedState::word).to_vec() },
            "epoch": epoch,
        };
        let last = parked.find_one(query).sort(doc! { "sequence": -1 });
        let last = within("look for the last parked event", async {
            last.projection(doc! { "sequence": 1 }).await
        })
        .await?;
        let sequence = last.and_then(|last| last.get_i64("sequence").ok()).unwrap_or(0);
        Ok(u64::try_from(sequence).unwrap_or(0))
    }

    /// Events of a partition of this journal about which a person decided, up to a place, in the order of the journal.
    pub async fn decided(&self, epoch: &str, partition: u16, up_to: u64) -> Result<Vec<ParkedEvent>, ViewError> {
        let states = [ParkedState::Retry.word(), ParkedState::Drop.word()];
        let query = doc! {
            "partition": i32::from(partition),
            "state": { "$in": states },
            "sequence": { "$lte": long(up_to) },
            "epoch": epoch,
        };
        self.find_parked(query, 1_000).await
    }

    /// All that is kept of a basket's parked events of this journal, in the order of the journal.
    pub async fn parked_of(&self, epoch: &str, basket: BasketId) -> Result<Vec<ParkedEvent>, ViewError> {
        self.find_parked(doc! { "basket": basket.to_string(), "epoch": epoch }, 0)
            .await
    }

    /// Up to `limit` events that wait, in the order of the journal; dropped ones only where asked for.
    pub async fn list_parked(&self, dropped: bool, limit: i64) -> Result<Vec<ParkedEvent>, ViewError> {
        self.find_parked(
            if dropped {
                doc! {}
            } else {
                not_dropped()
            },
            limit,
        )
        .await
    }

    /// The events at a place in the journal; more than one only after the journal was begun anew.
    pub async fn parked_at(&self, sequence: u64) -> Result<Vec<ParkedEvent>, ViewError> {
        self.find_parked(doc! { "sequence": long(sequence) }, 0).await
    }

    async fn find_parked(&self, query: Document, limit: i64) -> Result<Vec<ParkedEvent>, ViewError> {
        let parked: Collection<Document> = self.parked().clone_with_type();
        let found: Vec<Document> = within("find parked events", async {
            parked
                .find(query)
                .sort(doc! { "sequence": 1, "_id": 1 })
                .limit(limit)
                .await?
                .try_collect()
                .await
        })
        .await?;
        Ok(found.into_iter().filter_map(readable).collect())
    }

    /// How many events wait, counted up to `limit`.
    pub async fn count_parked(&self, limit: u64) -> Result<u64, ViewError> {
        let parked = self.parked();
        within("count parked events", async {
            parked.count_documents(not_dropped()).limit(limit).await
        })
        .await
    }

    /// Marks events with what is to become of them. Answers how many.
    pub async fn mark_parked(&self, which: &Which, state: ParkedState) -> Result<u64, ViewError> {
        let parked = self.parked();
        let mut query = doc! { "state": { "$nin": [ParkedState::Drop.word(), ParkedState::Dropped.word()] } };
        match which {
            Which::All => {}
            Which::OfBasket(basket) => {
                query.insert("basket", basket.to_string());
            }
            Which::One(id) => {
                query.insert("_id", id);
            }
        }
        let set = doc! { "$set": { "state": state.word() } };
        Ok(
            within("mark parked events", async { parked.update_many(query, set).await })
                .await?
                .matched_count,
        )
    }

    /// Has waiting events of a basket applied that were parked only since its document could not be read: those up to a
    /// place that are not behind the first one that still cannot be applied.
    pub async fn retry_parked(
        &self,
        epoch: &str,
        basket: BasketId,
        up_to: u64,
        parked_since: Option<u64>,
    ) -> Result<(), ViewError> {
        let parked = self.parked();
        let query = doc! {
            "basket": basket.to_string(),
            "epoch": epoch,
            "state": ParkedState::Parked.word(),
            "sequence": { "$lte": long(up_to), "$lt": parked_since.map_or(i64::MAX, long) },
        };
        let set = doc! { "$set": { "state": ParkedState::Retry.word() } };
        within("retry parked events", async { parked.update_many(query, set).await }).await?;
        Ok(())
    }

    /// Takes note that events are dropped: from now on they are only the record of that.
    pub async fn note_dropped(&self, ids: &[String]) -> Result<(), ViewError> {
        let parked = self.parked();
        let set = doc! { "$set": { "state": ParkedState::Dropped.word() } };
        within("note dropped events", async {
            parked.update_many(doc! { "_id": { "$in": ids } }, set).await
        })
        .await?;
        Ok(())
    }

    /// Puts an event that was to be applied again back, with the reason why that failed.
    pub async fn park_again(&self, id: &str, reason: &str) -> Result<(), ViewError> {
        let parked = self.parked();
        let set = doc! { "$set": { "state": ParkedState::Parked.word(), "reason": reason } };
        within("park an event again", async {
            parked
                .update_one(doc! { "_id": id, "state": ParkedState::Retry.word() }, set)
                .await
        })
        .await?;
        Ok(())
    }

    /// Notes what a person decides about an event, and answers how many events are applied again by it: a retry is of
    /// all that wait in its session, since the later ones wait behind the first; a drop has the later ones applied.
    pub async fn decide_parked(&self, event: &ParkedEvent, decision: Decision) -> Result<u64, ViewError> {
        let one = Which::One(event.id.clone());
        let of_session = event.basket.map(Which::OfBasket);
        match decision {
            Decision::Retry => {
                let which = of_session.unwrap_or(one);
                self.mark_parked(&which, ParkedState::Retry).await
            }
            Decision::Drop => {
                self.mark_parked(&one, ParkedState::Drop).await?;
                match of_session {
                    Some(which) => self.mark_parked(&which, ParkedState::Retry).await,
                    None => Ok(0),
                }
            }
        }
    }

    /// The event of this id; nothing if none is parked, or it cannot be read.
    pub async fn parked_event(&self, id: &str) -> Result<Option<ParkedEvent>, ViewError> {
        Ok(self.find_parked(doc! { "_id": id }, 1).await?.pop())
    }

    /// Events that wait, in the order of the journal, from the one after `after` on, at most so many.
    pub async fn parked_after(&self, after: Option<&ParkedAfter>, limit: u16) -> Result<Vec<ParkedEvent>, ViewError> {
        let mut query = not_dropped();
        if let Some(ParkedAfter { sequence, id }) = after {
            let sequence = long(*sequence);
            query.insert(
                "$or",
                vec![
                    doc! { "sequence": { "$gt": sequence } },
                    doc! { "sequence": sequence, "_id": { "$gt": id } },
                ],
            );
        }
        self.find_parked(query, i64::from(limit)).await
    }

    /// Forgets events that were applied after all.
    pub async fn unpark(&self, ids: &[String]) -> Result<(), ViewError> {
        let parked = self.parked();
        let query = doc! { "_id": { "$in": ids.iter().map(Bson::from).collect::<Vec<_>>() } };
        within("unpark events", async { parked.delete_many(query).await }).await?;
        Ok(())
    }
}

fn not_dropped() -> Document {
    doc! { "state": { "$ne": ParkedState::Dropped.word() } }
}

/// A document that a hand has made unreadable is told and left out, so that it stands in nobody's way.
fn readable(document: Document) -> Option<ParkedEvent> {
    let id = document.get_str("_id").unwrap_or("?").to_owned();
    let stored = mongodb::bson::deserialize_from_document::<StoredEvent>(document).map_err(|error| error.to_string());
    let event = stored.and_then(|stored| stored.restore().map_err(|error| error.to_string()));
    event
        .inspect_err(|error| tracing::warn!("the parked event {id} cannot be read: {error}"))
        .ok()
}
