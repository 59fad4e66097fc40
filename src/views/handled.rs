//! Who handles which basket, kept in memory as MongoDB has it, and told to whoever watches a shop.
//!
//! One stream of changes a process says what is noted by any process. It begins with everything that is
//! there, also after it was lost, so a watcher, who is given the state and not the changes, misses nothing.
//! What has an end is over at that moment, whenever MongoDB takes it away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType};
use mongodb::options::FullDocumentType;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::handling::{HANDLINGS, Stored};
use super::{CHANGES_WAIT, Handling, ViewError, Views, next_change, within};
use crate::core::error_chain;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::core::retry::Backoff;

/// Who handles which baskets of a shop, as of a moment.
pub type HandledBaskets = Arc<BTreeMap<SessionId, Handling>>;

/// What this process knows; nothing before it was read for the first time.
#[derive(Debug, Default)]
pub(super) struct Handled {
    state: Mutex<State>,
    /// Something is over sooner than what was waited for.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_known: bool,
    shops: HashMap<ShopId, BTreeMap<SessionId, Handling>>,
    ends: BTreeSet<(OffsetDateTime, BasketId)>,
    watched: HashMap<ShopId, watch::Sender<Option<HandledBaskets>>>,
}

impl State {
    fn of(&self, shop: ShopId) -> Option<HandledBaskets> {
        let known = || Arc::new(self.shops.get(&shop).cloned().unwrap_or_default());
        self.is_known.then(known)
    }

    fn set(&mut self, id: BasketId, handling: Option<&Handling>) {
        let shop = self.shops.entry(id.shop).or_default();
        let before = match handling {
            Some(handling) => shop.insert(id.session, handling.clone()),
            None => shop.remove(&id.session),
        };
        if shop.is_empty() {
            self.shops.remove(&id.shop);
        }
        if let Some(before) = &before {
            self.ends.remove(&(before.until, id));
        }
        if let Some(handling) = handling {
            self.ends.insert((handling.until, id));
        }
        if before.as_ref() != handling {
            self.tell(id.shop);
        }
    }

    fn tell(&mut self, shop: ShopId) {
        let now = self.of(shop);
        let Some(watchers) = self.watched.get(&shop) else {
            return;
        };
        if watchers.receiver_count() == 0 {
            self.watched.remove(&shop);
            return;
        }
        watchers.send_if_modified(|before| {
            let is_other = *before != now;
            *before = now;
            is_other
        });
    }
}

impl Handled {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves half done is put right when everything is read again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, shop: ShopId) -> watch::Receiver<Option<HandledBaskets>> {
        let mut state = self.state();
        let now = state.of(shop);
        let watchers = state.watched.entry(shop).or_insert_with(|| watch::Sender::new(now));
        watchers.subscribe()
    }

    fn set(&self, id: BasketId, handling: Option<Handling>, now: OffsetDateTime) {
        let handling = handling.filter(|handling| handling.until > now);
        self.state().set(id, handling.as_ref());
        self.sooner.notify_one();
    }

    /// Takes everything that is there for all that there is.
    fn replace(&self, all: Vec<(BasketId, Handling)>, now: OffsetDateTime) {
        let mut state = self.state();
        state.is_known = true;
        state.shops.clear();
        state.ends.clear();
        for (id, handling) in all.into_iter().filter(|(_, handling)| handling.until > now) {
            state.ends.insert((handling.until, id));
            state.shops.entry(id.shop).or_default().insert(id.session, handling);
        }
        let watched: Vec<ShopId> = state.watched.keys().copied().collect();
        for shop in watched {
            state.tell(shop);
        }
        drop(state);
        self.sooner.notify_one();
    }

    /// Ends what is over, and answers when the next is.
    fn end(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let mut state = self.state();
        while let Some((until, id)) = state.ends.first().copied() {
            if until > now {
                return Some(until);
            }
            state.set(id, None);
            // It stands there alone where somebody has spoilt the rest.
            state.ends.remove(&(until, id));
        }
        None
    }

    /// Forgets the shops that nobody watches any more.
    fn sweep(&self) {
        self.state().watched.retain(|_, watchers| watchers.receiver_count() > 0);
    }
}

impl Views {
    /// Who handles which baskets of a shop, now and whenever that changes; nothing as long as it was never read.
    /// Somebody has to run [`Views::keep_handlings`].
    pub fn watch_handlings(&self, shop: ShopId) -> watch::Receiver<Option<HandledBaskets>> {
        self.handled.watch(shop)
    }

    /// Keeps what this process knows about handlings as it is in MongoDB, for ever.
    pub async fn keep_handlings(&self) {
        tokio::join!(self.follow_handlings(), self.end_handlings());
    }

    async fn follow_handlings(&self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut told = false;
        loop {
            let Err(error) = self.follow_while_there(&mut backoff, &mut told).await;
            if std::mem::replace(&mut told, true) {
                tracing::debug!("{}", error_chain(&error));
            } else {
                tracing::warn!("who handles baskets cannot be followed: {}", error_chain(&error));
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn follow_while_there(&self, backoff: &mut Backoff, told: &mut bool) -> Result<Infallible, ViewError> {
        let collection: Collection<Document> = self.database.collection(HANDLINGS);
        let watch = collection
            .watch()
            .full_document(FullDocumentType::UpdateLookup)
            .max_await_time(CHANGES_WAIT);
        // It begins before the reading, so nothing falls between the two.
        let mut changes = within("follow who handles baskets", async { watch.await }).await?;
        let all: Collection<Stored> = self.database.collection(HANDLINGS);
        let all: Vec<Stored> = within("read who handles baskets", async {
            all.find(doc! {}).await?.try_collect().await
        })
        .await?;
        let all = all.into_iter().filter_map(Stored::handling).collect();
        self.handled.replace(all, OffsetDateTime::now_utc());
        backoff.reset();
        *told = false;
        loop {
            match next_change("follow who handles baskets", &mut changes).await? {
                Some(change) => {
                    if let Some((id, handling)) = read(change) {
                        self.handled.set(id, handling, OffsetDateTime::now_utc());
                    }
                }
                None => self.handled.sweep(),
            }
        }
    }

    async fn end_handlings(&self) -> Infallible {
        loop {
            let now = OffsetDateTime::now_utc();
            let left = self.handled.end(now).map(|until| until - now);
            let over = async {
                match left {
                    // A moment late rather than early, so that it is over when it is looked at again.
                    Some(left) => {
                        let left = Duration::try_from(left).unwrap_or_default();
                        tokio::time::sleep(left + Duration::from_millis(1)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.handled.sooner.notified() => {}
            }
        }
    }
}

/// What a change leaves: who handles which basket; nothing if it is none of ours.
fn read(change: ChangeStreamEvent<Document>) -> Option<(BasketId, Option<Handling>)> {
    let key = change.document_key?;
    let id = BasketId::parse(key.get_str("_id").ok()?).ok()?;
    if change.operation_type == OperationType::Delete {
        return Some((id, None));
    }
    // Without a document it is gone by now, which is told next.
    let stored: Option<Stored> = change
        .full_document
        .and_then(|document| mongodb::bson::deserialize_from_document(document).ok());
    Some((id, stored.and_then(Stored::handling).map(|(_, handling)| handling)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(shop: u128, session: u128) -> BasketId {
        BasketId {
            shop: ShopId::from(Uuid::from_u128(shop)),
            session: SessionId::from(Uuid::from_u128(session)),
        }
    }

    fn handling(by: &str, until: i64) -> Handling {
        Handling {
            by: by.to_owned(),
            until: at(until),
        }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    #[test]
    fn a_watcher_has_the_newest_state_of_its_shop_and_hears_of_no_other() {
        let handled = Handled::default();
        let (mut one, mut other) = (handled.watch(id(1, 0).shop), handled.watch(id(2, 0).shop));
        assert_eq!(*one.borrow_and_update(), None, "nothing was read yet");
        let gone = (id(1, 9), handling("Bob", 5));
        handled.replace(vec![(id(1, 7), handling("Ada", 100)), gone], at(10));
        let sees = |watch: &mut watch::Receiver<Option<HandledBaskets>>| {
            let now = watch.borrow_and_update().clone().unwrap();
            now.values().map(|handling| handling.by.clone()).collect::<Vec<_>>()
        };
        assert_eq!(sees(&mut one), ["Ada"], "what is over is not there");
        assert!(sees(&mut other).is_empty());

        handled.set(id(1, 8), Some(handling("Bob", 60)), at(10));
        assert!(one.has_changed().unwrap() && !other.has_changed().unwrap());
        assert_eq!(sees(&mut one), ["Ada", "Bob"]);
        handled.set(id(1, 8), Some(handling("Bob", 60)), at(10));
        assert!(!one.has_changed().unwrap(), "the same again is no news");

        // Taken over for longer, so its first end is none any more.
        handled.set(id(1, 8), Some(handling("Eve", 200)), at(10));
        assert_eq!(handled.end(at(60)), Some(at(100)));
        assert_eq!(sees(&mut one), ["Ada", "Eve"]);
        assert_eq!(handled.end(at(100)), Some(at(200)));
        assert_eq!(sees(&mut one), ["Eve"]);
        // Everything is read again, and it is gone.
        handled.replace(Vec::new(), at(100));
        assert!(sees(&mut one).is_empty());
        assert_eq!(handled.end(at(300)), None);
        drop((one, other));
        handled.sweep();
        assert!(handled.state().watched.is_empty());
    }
}
