//! What is read from MongoDB beside the task, and what the task does when it is there.

use time::{OffsetDateTime, Time};
use tokio::time::Instant;

use super::changes::Corrected;
use super::handling::Handled;
use super::known::{State, is_open};
use super::{Presented, SLOW_PAUSE, Waiting, reply};
use crate::core::error_chain;
use crate::core::id::{BasketId, SessionId, ShopId};
use crate::present::model::{self, Model};
use crate::present::route::Resource;
use crate::resgate::{Answer, Failure, Request, ResourceEvent, Value};
use crate::views::{BasketView, Changed, Handling, Listing, Summary, ViewError, Views};

/// Open baskets that are read at a time.
const PAGE_BASKETS: u16 = 500;

/// What was read from MongoDB.
pub(super) enum Read {
    /// The open baskets, and who handles which.
    Open(u64, Result<OpenShop, ViewError>),
    /// The open baskets, and who handles which, once more.
    Refreshed(u64, Result<OpenShop, ViewError>),
    /// A basket of which nothing is known: it is not open, or is so since a moment ago.
    Basket(SessionId, Result<Option<BasketView>, ViewError>),
    /// A basket that may have been written, and what was known of it when it was asked for.
    Again(SessionId, Option<State>, Result<Option<BasketView>, ViewError>),
    /// The shop in a few numbers.
    Summary(Result<Model, ViewError>),
    /// A page of sessions, for those who asked for it, as of then.
    Page(Request, Listing, u64, Result<Vec<Value>, ViewError>),
    /// What came of a correction that was asked for, and where in the journal it is.
    Corrected(SessionId, Request, Option<u64>, Answer),
    /// Who handles a basket, after somebody wanted to.
    Handled(SessionId, Request, Result<Handled, ViewError>),
}

pub(super) struct OpenShop {
    pub(super) baskets: Vec<(BasketId, BasketView)>,
    pub(super) handlings: Vec<(SessionId, Handling)>,
}

impl Presented {
    /// Begins to read what those who wait need.
    pub(super) fn read_what_is_missing(&mut self) {
        let wanted: Vec<Resource> = self.waiting.iter().map(|waiting| waiting.asked.resource).collect();
        for resource in wanted {
            match resource {
                Resource::Summary => self.read_summary(),
                Resource::Basket(session) if self.known.is_some() => self.read_basket(session),
                Resource::Baskets | Resource::Basket(_) => self.read_open(),
                Resource::Sessions | Resource::Feed => {}
            }
        }
    }

    pub(super) fn read_open(&mut self) {
        if self.known.is_some() || std::mem::replace(&mut self.reading.open, true) {
            return;
        }
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let handled = self.handled_count;
        self.reads.push(Box::pin(async move {
            let read = open_shop(&views, partition, shop).await;
            Read::Open(handled, read)
        }));
    }

    pub(super) fn refresh(&mut self) {
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let handled = self.handled_count;
        self.reads.push(Box::pin(async move {
            let read = open_shop(&views, partition, shop).await;
            Read::Refreshed(handled, read)
        }));
    }

    pub(super) fn read_basket(&mut self, session: SessionId) {
        if !self.fetched.insert(session) {
            return;
        }
        let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
        self.reads.push(Box::pin(async move {
            Read::Basket(session, one(&views, partition, id).await)
        }));
    }

    pub(super) fn read_summary(&mut self) {
        if std::mem::replace(&mut self.reading.summary, true) {
            return;
        }
        self.due.summary = false;
        self.summed_at = Instant::now();
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        self.reads.push(Box::pin(async move {
            let day_start = OffsetDateTime::now_utc().replace_time(Time::MIDNIGHT);
            let read = async {
                let (views, _) = views.reading(partition).await?;
                let summary: Summary = views.summary(shop, day_start).await?;
                Ok(model::summary(&summary, day_start))
            };
            Read::Summary(read.await)
        }));
    }

    pub(super) fn read_page(&mut self, request: Request, listing: Listing) {
        let (views, partition, shop) = (self.parts.views.clone(), self.partition, self.shop);
        let queried = self.queried_count;
        self.answers.push(Box::pin(async move {
            let found = page(&views, partition, shop, listing).await;
            Read::Page(request, listing, queried, found)
        }));
    }

    pub(super) async fn have_read(&mut self, read: Read) {
        match read {
            Read::Open(handled, read) => {
                self.reading.open = false;
                match read {
                    // Somebody handles a basket since; it is read again below.
                    Ok(_) if handled != self.handled_count => {}
                    Ok(open) => self.know(open),
                    Err(error) => return not_read(&error),
                }
            }
            Read::Basket(session, read) => {
                self.fetched.remove(&session);
                match read {
                    Ok(Some(view)) if is_open(&view) => self.change(session, Some(&view)).await,
                    Ok(Some(view)) => self.know_basket(session, &view),
                    Ok(None) => self.answer_none(session).await,
                    Err(error) => return not_read(&error),
                }
            }
            Read::Refreshed(handled, read) => match read {
                Ok(open) => self.refreshed(handled, open).await,
                Err(error) => {
                    not_read(&error);
                    self.refresh_at.push(Instant::now() + SLOW_PAUSE);
                }
            },
            Read::Again(session, before, read) => match read {
                Ok(view) if before == self.state(session) => {
                    // It is the truth, though it may be less than somebody had written by hand.
                    if let Some(basket) = self.known.as_mut().and_then(|known| known.baskets.get_mut(&session)) {
                        basket.state = State::default();
                    }
                    self.change(session, view.as_ref()).await;
                }
                // Something was told meanwhile.
                Ok(_) => self.watching.put_back(session, Changed::Perhaps),
                Err(error) => {
                    not_read(&error);
                    self.watching.put_back(session, Changed::Perhaps);
                    self.flushed_at = Instant::now() + SLOW_PAUSE;
                }
            },
            Read::Summary(read) => {
                self.reading.summary = false;
                match read {
                    Ok(now) => {
                        let before = self.summary.replace(now);
                        let now = self.summary.as_ref().expect("it was just put there");
                        if let Some(changes) = before.and_then(|before| model::difference(&before, now)) {
                            self.tell(Resource::Summary, ResourceEvent::Change(changes)).await;
                        }
                    }
                    Err(error) => return not_read(&error),
                }
            }
            Read::Page(request, listing, queried, read) => {
                // Whoever was told between the reading and this answer has not taken it for news of this page.
                self.due.sessions |= queried != self.queried_count;
                let answer = match read {
                    Ok(values) => Answer::Collection {
                        values,
                        query: Some(listing.normalised()),
                    },
                    Err(error) => {
                        not_read(&error);
                        // As where somebody waits for too long.
                        self.reset_soon();
                        Answer::Failure(Failure::new(
                            "ezout.unavailable",
                            "the sessions cannot be read; ask again",
                        ))
                    }
                };
                return reply(&self.parts.gateway, &request, answer).await;
            }
            Read::Corrected(session, request, sequence, answer) => {
                self.corrected.push(Corrected {
                    session,
                    request,
                    sequence: sequence.unwrap_or(0),
                    answer,
                    since: Instant::now(),
                });
                return self.answer_corrected().await;
            }
            Read::Handled(session, request, read) => return self.handled(session, request, read).await,
        }
        self.answer_waiting().await;
    }

    pub(super) async fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.answer_now(waiting.asked.resource) {
                Some(answer) => reply(&self.parts.gateway, &waiting.asked.request, answer).await,
                None => self.waiting.push(waiting),
            }
        }
        self.read_what_is_missing();
    }

    /// Answers those who wait for a basket that there is none.
    pub(super) async fn answer_none(&mut self, session: SessionId) {
        let is_it = |waiting: &mut Waiting| waiting.asked.resource == Resource::Basket(session);
        let waiting: Vec<Waiting> = self.waiting.extract_if(.., is_it).collect();
        for waiting in waiting {
            let answer = match self.answer_now(waiting.asked.resource) {
                Some(answer) => answer,
                None => Answer::Failure(Failure::not_found()),
            };
            reply(&self.parts.gateway, &waiting.asked.request, answer).await;
        }
    }
}

pub(in crate::present) fn not_read(error: &ViewError) {
    tracing::debug!("what a gateway asks for cannot be read: {}", error_chain(error));
}

pub(super) async fn open_shop(views: &Views, partition: u16, shop: ShopId) -> Result<OpenShop, ViewError> {
    let handlings = views.handlings(shop).await?;
    let (views, _) = views.reading(partition).await?;
    let (mut baskets, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = views.open_baskets(shop, after.as_deref(), PAGE_BASKETS).await?;
        baskets.extend(page.baskets);
        after = page.next;
        if after.is_none() {
            return Ok(OpenShop { baskets, handlings });
        }
    }
}

pub(super) async fn one(views: &Views, partition: u16, id: BasketId) -> Result<Option<BasketView>, ViewError> {
    let (views, _) = views.reading(partition).await?;
    views.view(id).await
}

pub(super) async fn page(
    views: &Views,
    partition: u16,
    shop: ShopId,
    listing: Listing,
) -> Result<Vec<Value>, ViewError> {
    let (views, _) = views.reading(partition).await?;
    let found = views.baskets(shop, listing).await?;
    let row = |(id, view): &(BasketId, BasketView)| {
        Value::Json(serde_json::to_string(&view.listed(*id)).expect("a basket is JSON"))
    };
    Ok(found.baskets.iter().map(row).collect())
}
