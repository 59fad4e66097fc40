//! What this process writes into baskets, told within the process to whoever watches a shop.
//!
//! A watcher is told the newest state of each basket that changed since it last looked, so it may be as
//! slow as it likes and costs those who write nothing. Writes of other processes are not told: who
//! watches is the process that owns the shop's partition, which alone writes its baskets.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::{BasketView, Views};
use crate::core::basket::Basket;
use crate::core::id::{BasketId, SessionId, ShopId};

/// What became of a basket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It is this now.
    To(Box<BasketView>),
    /// It may have been written; the view tells.
    Perhaps,
}

/// The watchers of a process.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<HashMap<ShopId, Vec<Weak<Shop>>>>);

#[derive(Debug, Default)]
struct Shop {
    changed: Mutex<BTreeMap<SessionId, Changed>>,
    wake: Notify,
}

impl Shop {
    fn changed(&self) -> MutexGuard<'_, BTreeMap<SessionId, Changed>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What changes in the baskets of a shop from now on, until it is dropped.
#[derive(Debug)]
pub struct Watching {
    id: ShopId,
    shop: Arc<Shop>,
    watched: Arc<Watched>,
}

impl Watching {
    /// Waits until there is something to take. One at a time may wait.
    pub async fn changed(&self) {
        self.shop.wake.notified().await;
    }

    /// The baskets that changed since this was last called, each as it is now.
    pub fn take(&self) -> BTreeMap<SessionId, Changed> {
        std::mem::take(&mut *self.shop.changed())
    }

    /// Gives back what could not be dealt with yet; what has changed since then stands.
    pub fn put_back(&self, session: SessionId, changed: Changed) {
        self.shop.changed().entry(session).or_insert(changed);
        self.shop.wake.notify_one();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Of a shop in which nothing happens nobody else would ever look.
        self.watched.forget(self.id, &self.shop);
    }
}

impl Watched {
    fn watch(self: &Arc<Self>, id: ShopId) -> Watching {
        let shop = Arc::new(Shop::default());
        self.shops().entry(id).or_default().push(Arc::downgrade(&shop));
        Watching {
            id,
            shop,
            watched: Arc::clone(self),
        }
    }

    fn forget(&self, id: ShopId, shop: &Arc<Shop>) {
        let mut shops = self.shops();
        if let Some(watchers) = shops.get_mut(&id) {
            watchers.retain(|watcher| !std::ptr::eq(watcher.as_ptr(), Arc::as_ptr(shop)));
            if watchers.is_empty() {
                shops.remove(&id);
            }
        }
    }

    fn shops(&self) -> MutexGuard<'_, HashMap<ShopId, Vec<Weak<Shop>>>> {
        // Every change of the map is one call, so a panic cannot leave half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: BasketId, changed: impl Fn() -> Changed) {
        let shops = self.shops();
        for shop in shops.get(&id.shop).into_iter().flatten().filter_map(Weak::upgrade) {
            shop.changed().insert(id.session, changed());
            shop.wake.notify_one();
        }
    }
}

impl Views {
    /// Watches what this process writes into the baskets of a shop from now on, in the version that is active.
    pub fn watch(&self, shop: ShopId) -> Watching {
        self.watched.watch(shop)
    }

    /// Tells that baskets were written, or may have been.
    pub(super) fn tell<'a>(&self, baskets: impl Iterator<Item = &'a Basket>, written: bool) {
        for basket in baskets {
            self.watched.tell(basket.id(), || {
                if written {
                    Changed::To(Box::new(BasketView::of(basket)))
                } else {
                    Changed::Perhaps
                }
            });
        }
    }

    /// Tells that a basket may have been written.
    pub(super) fn tell_perhaps(&self, id: BasketId) {
        self.watched.tell(id, || Changed::Perhaps);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn a_watcher_is_told_the_newest_of_each_basket_and_nobody_waits_for_it() {
        let watched = Arc::new(Watched::default());
        let shop = ShopId::from(Uuid::from_u128(1));
        let id = |session| BasketId {
            shop,
            session: SessionId::from(Uuid::from_u128(session)),
        };
        // Nobody watches.
        watched.tell(id(7), || Changed::Perhaps);

        let (watching, another) = (watched.watch(shop), watched.watch(shop));
        for session in [7, 8, 7] {
            watched.tell(id(session), || Changed::Perhaps);
        }
        watching.changed().await;
        let taken = watching.take();
        assert_eq!(taken.len(), 2);
        assert!(watching.take().is_empty());
        for (session, changed) in taken {
            watching.put_back(session, changed);
        }
        watching.changed().await;
        assert_eq!(watching.take().len(), 2);

        drop(watching);
        watched.tell(id(7), || Changed::Perhaps);
        assert_eq!(another.take().len(), 2);
        drop(another);
        assert!(
            watched.shops().is_empty(),
            "who has gone is forgotten, also where nothing happens any more"
        );
    }
}
