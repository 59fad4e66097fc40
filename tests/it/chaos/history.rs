//! What was sent and seen during a run: all that the checker knows.

use std::collections::{BTreeMap, BTreeSet};

use std::time::{Duration, Instant};

use mongodb::bson::Document;
use serde_json::Value;

use super::promise::Promise;

/// What makes two events the same one: shop, session, number, time as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub shop: String,
    pub session: String,
    pub action_id: i64,
    pub create_time: String,
}

impl Identity {
    /// Reads it from a body, where it is one.
    pub fn of(body: &Value) -> Option<Self> {
        let text = |field: &str| Some(body.get(field)?.as_str()?.to_owned());
        Some(Self {
            shop: text("shop_id")?,
            session: text("session_id")?,
            action_id: body.get("action_id")?.as_i64()?,
            create_time: text("create_time")?,
        })
    }
}

/// A receipt as a phone got it.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    pub sequence: u64,
    pub duplicate: bool,
    /// Which of the event's bodies it was given for.
    pub body: usize,
}

/// Everything that phones know of one event.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The bodies that were sent under this identity; more than one where a phone contradicted itself.
    pub bodies: Vec<Value>,
    pub receipts: Vec<Receipt>,
    /// Requests, answered or not.
    pub tries: u64,
}

/// An answer to an event that is to come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOff {
    pub status: u16,
    pub code: String,
    /// What it says to do.
    pub detail: String,
    /// After how many seconds.
    pub retry_after: Option<u64>,
}

/// What all phones did.
#[derive(Debug, Clone, Default)]
pub struct Phones {
    pub events: BTreeMap<Identity, Told>,
    /// By session, the sequences of events that were each acknowledged before the next was sent.
    pub order: BTreeMap<String, Vec<u64>>,
    /// Answers that no phone should get, in words.
    pub surprises: Vec<String>,
    pub conflicts: u64,
    pub unanswered: u64,
    /// How often each status was answered to single events, 0 for none.
    pub answers: BTreeMap<u16, u64>,
    /// What single events were told that were to come again.
    pub put_off: Vec<PutOff>,
    /// When receipts came.
    pub acknowledged_at: Vec<Instant>,
}

impl Phones {
    /// Notes that a body is about to be sent, and answers its place among those of its event.
    pub fn sending(&mut self, identity: &Identity, body: &Value) -> usize {
        let told = self.events.entry(identity.clone()).or_default();
        told.tries += 1;
        if let Some(place) = told.bodies.iter().position(|known| known == body) {
            return place;
        }
        told.bodies.push(body.clone());
        told.bodies.len() - 1
    }

    /// Notes a receipt.
    pub fn acknowledged(&mut self, identity: &Identity, receipt: Receipt) {
        let told = self.events.get_mut(identity).expect("it was sent");
        told.receipts.push(receipt);
        self.acknowledged_at.push(Instant::now());
    }
}

/// A message of the journal as it is stored.
#[derive(Debug, Clone)]
pub struct JournalEvent {
    pub sequence: u64,
    pub subject: String,
    /// When the server stored it, in milliseconds since 1970.
    pub recorded_ms: i64,
    /// The session that its headers name.
    pub session: Option<String>,
    /// Whether its headers say that nobody sent it, and that the service itself found a basket to be abandoned.
    pub is_abandonment: bool,
    pub body: Vec<u8>,
}

/// A message of the journal as one of several servers has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub subject: String,
    /// When the leader of then stored it.
    pub recorded: String,
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
}

/// A message of `UPDATES` as it is stored.
#[derive(Debug, Clone)]
pub struct StoredUpdate {
    pub subject: String,
    pub sequence: u64,
    pub body: Value,
}

/// What a run left behind.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub phones: Phones,
    /// The streams that the journal lies in; 0 stands for one.
    pub streams: u64,
    /// In the order of the sequences, which of each stream have no gaps.
    pub journal: Vec<JournalEvent>,
    /// In the order of the stream.
    pub updates: Vec<StoredUpdate>,
    pub baskets: BTreeMap<String, Document>,
    /// Place of each partition's checkpoint.
    pub checkpoints: BTreeMap<i32, u64>,
    /// Places of the events that wait among the parked ones.
    pub parked: Vec<u64>,
    /// By shop, the sequences that a subscriber heard, as they came.
    pub heard: BTreeMap<String, Vec<u64>>,
    /// How long a basket must have been idle to be abandoned, in milliseconds; 0 where none may be.
    pub abandon_after_ms: i64,
    /// Places of what the test itself wrote into the journal.
    pub planted: BTreeSet<u64>,
    /// Places of events that were parked and applied later, out of the order of their shop.
    pub late: BTreeSet<u64>,
    /// Places of parked events that were decided never to count.
    pub dropped: BTreeSet<u64>,
    /// Whether the server forgets what it has soon, so that a copy may be recorded; it does not count then.
    pub forgets: bool,
    /// Whether three servers keep the streams.
    pub replicated: bool,
    /// By server, what it has at each place of the journal, from the first to the last; nothing there where it has nothing.
    pub copies: BTreeMap<String, Vec<Option<Copied>>>,
    /// What was seen to go wrong while it ran, such as a fence that fell.
    pub seen: Vec<(Promise, String)>,
    /// What viewers of live updates were told.
    pub viewers: Vec<Viewed>,
    /// The baskets of a version that was folded anew beside the one that is read; nothing where none was.
    pub rebuilt: Option<BTreeMap<String, Document>>,
    /// What people of another shop asked for.
    pub strangers: Vec<Asked>,
    /// Who of another shop has changed something all the same, and what.
    pub foreign: Vec<(String, String)>,
    /// By process, the most that it had at any time.
    pub most: BTreeMap<String, Most>,
    /// Logs that were read for panics.
    pub logs_read: u64,
    /// How everything went on after the last fault; nothing where no fault was done.
    pub recovered: Option<Recovery>,
    /// Where the journal ended, as it was seen while it ran.
    pub ends: Vec<End>,
    /// What processes said of a journal that is not what it was.
    pub alarms: Vec<Alarm>,
}

/// A request that somebody of another shop made, and right after that somebody who may.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who, and what.
    pub what: String,
    /// The status with which the policy refuses it.
    pub refusal: u16,
    /// What the stranger was answered; 0 for nothing.
    pub stranger: u16,
    /// What was answered to the one who may; 0 for nothing.
    pub permitted: u16,
}

impl Asked {
    /// Whether it was answered to the one who may, so that an answer to the stranger is no outage.
    pub fn is_proof(&self) -> bool {
        (200..300).contains(&self.permitted)
    }
}

/// How everything went on after the last fault.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// How long it took until events were told at once again, or until nobody waited any longer.
    pub took: Duration,
    /// The longest time of it in which nothing at all was told.
    pub standstill: Duration,
    /// Whether events are told at once again.
    pub is_well: bool,
}

/// The end of the journal from some moment on.
#[derive(Debug, Clone)]
pub struct End {
    pub epoch: String,
    pub last: u64,
    pub at: Instant,
}

impl End {
    /// What the server says of the journal now.
    pub fn of(info: &async_nats::jetstream::stream::Info) -> Self {
        Self {
            epoch: info.config.metadata.get("ezout_epoch").cloned().unwrap_or_default(),
            last: info.state.last_sequence,
            at: Instant::now(),
        }
    }

    /// Whether the journal has become another one since that end, or ends earlier.
    pub fn is_fall_from(&self, before: &Self) -> bool {
        self.epoch != before.epoch || self.last < before.last
    }
}

/// What a process said of the journal.
#[derive(Debug, Clone)]
pub struct Alarm {
    pub words: String,
    pub at: Instant,
}

impl Alarm {
    /// Whether it speaks of this fall: it names the other journal, or the place where this one ends now.
    pub fn speaks_of(&self, before: &End, after: &End) -> bool {
        if before.epoch != after.epoch {
            return self.words.contains(&format!("(epoch {})", after.epoch));
        }
        let Some((_, place)) = self.words.split_once("ends at ") else {
            return false;
        };
        let place = place.strip_prefix("event ").unwrap_or(place);
        let digits = place.find(|letter: char| !letter.is_ascii_digit());
        place[..digits.unwrap_or(place.len())] == after.last.to_string()
    }
}

/// The most that a process had of what there is not much of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Most {
    /// Bytes.
    pub memory: u64,
    pub descriptors: usize,
}

/// What one viewer of live updates was told, over all of its connections.
#[derive(Debug, Clone, Default)]
pub struct Viewed {
    pub shop: String,
    pub sights: Vec<Sight>,
}

/// Something that a viewer was told.
#[derive(Debug, Clone)]
pub enum Sight {
    /// The beginning of a connection: whether everything follows since the last one.
    Hello { recovered: bool },
    /// Versions of baskets; the last page comes with the event up to which they are.
    Snapshot {
        baskets: Vec<(String, u64)>,
        up_to: Option<u64>,
    },
    /// An event of the journal, and its basket in this version.
    Update {
        sequence: u64,
        session: String,
        version: u64,
    },
    /// That some updates are left out, since newer ones of the same baskets follow.
    Coalesced,
}
