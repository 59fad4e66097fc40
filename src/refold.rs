//! Folding baskets anew from the journal: what the projector makes of events, without its effects.
//!
//! Whoever rebuilds, compares or mends baskets folds with these, so that there is one answer to what
//! becomes of an event: what cannot be read parks its session from there on, unless a person dropped it.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::basket::{Applied, Basket};
use crate::core::event::{ActionIdMeaning, JournalEvent, Recorded, in_milliseconds};
use crate::core::id::{BasketId, ShopId};
use crate::journal::{Journal, RawEvent, ReadError};
use crate::views::{ParkedEvent, ViewError, Views};

/// Header with the type of an event (`CloudEvents` 1.0).
pub(crate) const EVENT_TYPE: &str = "ce-type";
/// Events that are got from the journal at the same time.
const GETS: usize = 32;
/// Events read at a time.
const READ_EVENTS: usize = 1_000;

/// Places in the journal of events that a person has dropped.
pub type Dropped = HashSet<u64>;

/// Why a basket could not be folded anew now.
#[derive(Debug, thiserror::Error)]
pub enum RefoldError {
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// MongoDB failed.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// An event of the journal and what could be read of it.
#[derive(Debug)]
pub struct Decoded {
    /// Its place in the journal.
    pub sequence: u64,
    /// Its basket, where that can be told.
    pub basket: Option<BasketId>,
    /// The event, or why it cannot be read.
    pub event: Result<Recorded<JournalEvent>, String>,
}

impl Decoded {
    /// Reads an event.
    pub fn of(raw: &RawEvent) -> Self {
        let event = decode(raw);
        let basket = event
            .as_ref()
            .map_or_else(|_| basket_of(raw), |recorded| Some(recorded.event.basket()));
        Self {
            sequence: raw.sequence,
            basket,
            event,
        }
    }

    /// Puts the event into its basket, which has all earlier ones. Answers whether that changed the basket.
    pub fn put_into(self, basket: &mut Basket) -> bool {
        if self.sequence <= basket.sequence() || basket.parked_since().is_some() {
            return false;
        }
        let applied = self.event.map(|recorded| basket.put(recorded));
        match applied {
            Ok(Applied::Duplicate) => false,
            Ok(Applied::Counted | Applied::Conflicting) => {
                basket.settle();
                true
            }
            Ok(Applied::Full) | Err(_) => {
                basket.park(self.sequence);
                true
            }
        }
    }
}

/// Folds the events of one basket, in their order. Those of other baskets, and those that were dropped, are left out.
pub fn fold<'a>(
    id: BasketId,
    meaning: ActionIdMeaning,
    events: impl IntoIterator<Item = &'a RawEvent>,
    dropped: &Dropped,
) -> Basket {
    let mut basket = Basket::new(id, meaning);
    for raw in events {
        let decoded = Decoded::of(raw);
        if decoded.basket == Some(id) && !dropped.contains(&raw.sequence) {
            decoded.put_into(&mut basket);
        }
    }
    basket
}

/// Gets the events at these places, in their order; what the journal does not have is left out.
pub async fn events_at(journal: &Journal, sequences: &BTreeSet<u64>) -> Result<Vec<RawEvent>, ReadError> {
    let get = |sequence: u64| {
        let journal = journal.clone();
        async move { journal.get(sequence).await }
    };
    let gets: Vec<_> = sequences.iter().copied().map(get).collect();
    let events: Vec<Option<RawEvent>> = futures::stream::iter(gets).buffered(GETS).try_collect().await?;
    Ok(events.into_iter().flatten().collect())
}

/// Reads a shop's events after one place and up to another, which the journal has reached.
pub async fn events_of_shop(
    journal: &Journal,
    shop: ShopId,
    after: u64,
    until: u64,
    each: impl FnMut(RawEvent),
) -> Result<(), ReadError> {
    some_of_shop(journal, shop, after, until, u64::MAX, each)
        .await
        .map(drop)
}

/// Reads a shop's events as [`events_of_shop`] does, about so many. Answers up to which place it has read, and how many.
pub async fn some_of_shop(
    journal: &Journal,
    shop: ShopId,
    after: u64,
    until: u64,
    max: u64,
    mut each: impl FnMut(RawEvent),
) -> Result<(u64, u64), ReadError> {
    if after >= until {
        return Ok((until, 0));
    }
    let mut reader = journal.read_shop(shop, after).await?;
    if reader.pending_at_open() == 0 {
        return Ok((until, 0));
    }
    let (mut read, mut at) = (0, after);
    while read < max {
        for event in reader.next(READ_EVENTS).await? {
            let pending = event.pending;
            at = event.sequence;
            if at <= until {
                read += 1;
                each(event);
            }
            if at >= until || pending == 0 {
                return Ok((until, read));
            }
        }
    }
    Ok((at, read))
}

/// Which of the events at these places a person has dropped.
pub async fn dropped(
    views: &Views,
    epoch: &str,
    sequences: impl IntoIterator<Item = u64>,
) -> Result<Dropped, ViewError> {
    let ids: Vec<String> = sequences
        .into_iter()
        .map(|sequence| ParkedEvent::id(epoch, sequence))
        .collect();
    let place = |id: &String| id.rsplit(':').next()?.parse().ok();
    Ok(views.dropped(&ids).await?.iter().filter_map(place).collect())
}

/// Reads an event of the journal, or says why it cannot be read.
pub(crate) fn decode(raw: &RawEvent) -> Result<Recorded<JournalEvent>, String> {
    let event = decode_parts(raw.header(EVENT_TYPE), &raw.body, &raw.subject)?;
    Ok(Recorded {
        sequence: raw.sequence,
        recorded_at: in_milliseconds(raw.recorded_at),
        event,
    })
}

/// Reads an event that was kept with its type and subject.
pub(crate) fn decode_parts(event_type: Option<&str>, body: &[u8], subject: &str) -> Result<JournalEvent, String> {
    let event = JournalEvent::read(event_type, body)?;
    let shop = event.basket().shop.to_string();
    if subject.rsplit('.').next() != Some(shop.as_str()) {
        return Err(format!(
            "it is of shop {shop} and was recorded for another one, under {subject}"
        ));
    }
    Ok(event)
}

/// The basket that an unreadable event belongs to, by its headers, where these tell.
pub(crate) fn basket_of(raw: &RawEvent) -> Option<BasketId> {
    Some(BasketId {
        shop: raw.shop()?,
        session: raw.session()?,
    })
}
