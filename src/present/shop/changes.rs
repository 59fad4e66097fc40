//! Telling gateways what has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::StreamExt as _;
use tokio::time::Instant;

use super::known::{Basket, Known, State};
use super::reading::{OpenShop, Read, not_read, one, page};
use super::{FLUSH_PAUSE, Presented, reply};
use crate::core::id::{BasketId, SessionId};
use crate::present::list::{LIST_MAX, List, Step};
use crate::present::model;
use crate::present::route::Resource;
use crate::resgate::{Answer, Failure, Request, ResourceEvent, properties_json};
use crate::views::{BasketView, Changed, Listing};

/// How long gateways may ask for pages of sessions after they were told that these may have changed.
const QUERY_WAIT: Duration = Duration::from_secs(6);
/// How long the answer to a correction waits for the basket that has it.
const CORRECTED_WAIT: Duration = Duration::from_secs(2);
/// Pages of sessions that are read at the same time.
const PAGES_AT_ONCE: usize = 16;

/// A correction that is to be answered.
pub(super) struct Corrected {
    pub(super) session: SessionId,
    pub(super) request: Request,
    pub(super) sequence: u64,
    pub(super) answer: Answer,
    pub(super) since: Instant,
}

impl Presented {
    pub(super) fn know(&mut self, open: OpenShop) {
        self.handlings = open.handlings.into_iter().collect();
        let now = Instant::now();
        let baskets: HashMap<SessionId, Basket> = open
            .baskets
            .iter()
            .map(|(id, view)| {
                let handling = self.handlings.get(&id.session);
                (id.session, Basket::of(*id, view, handling, now))
            })
            .collect();
        let keys = baskets.values().map(|basket| basket.key).collect();
        self.known = Some(Known {
            list: List::new(keys, LIST_MAX),
            baskets,
            dropped_at: None,
        });
    }

    pub(super) fn know_basket(&mut self, session: SessionId, view: &BasketView) {
        let id = self.basket_id(session);
        let Some(known) = &mut self.known else { return };
        // What was told meanwhile is newer than what was read.
        known
            .baskets
            .entry(session)
            .or_insert_with(|| Basket::of(id, view, self.handlings.get(&session), Instant::now()));
    }

    /// Tells what has changed since the last time.
    pub(super) async fn flush(&mut self) {
        self.flush_at = None;
        self.flushed_at = Instant::now();
        if self.known.is_none() && !self.reading.open {
            // Nobody has a basket.
            if !self.watching.take().is_empty() {
                self.due.summary = true;
                self.due.sessions = true;
            }
            return;
        }
        if self.reading.open {
            // What is read may be older or newer; it is told after that.
            self.flush_at = Some(Instant::now() + FLUSH_PAUSE);
            return;
        }
        for (session, changed) in self.watching.take() {
            self.due.summary = true;
            self.due.sessions = true;
            match changed {
                Changed::To(view) => self.change(session, Some(&view)).await,
                Changed::Perhaps => {
                    let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
                    let before = self.state(session);
                    self.reads.push(Box::pin(async move {
                        let read = one(&views, partition, id).await;
                        Read::Again(session, before, read)
                    }));
                }
            }
        }
        self.answer_corrected().await;
    }

    /// What is known of a basket.
    pub(super) fn state(&self, session: SessionId) -> Option<State> {
        Some(self.known.as_ref()?.baskets.get(&session)?.state)
    }

    /// Tells what is otherwise in the open baskets than was known, and has the others of the list looked at.
    pub(super) async fn refreshed(&mut self, handled: u64, open: OpenShop) {
        let Some(known) = &self.known else { return };
        let there: HashSet<SessionId> = open.baskets.iter().map(|(id, _)| id.session).collect();
        for session in known.list.all().filter(|session| !there.contains(session)) {
            self.watching.put_back(session, Changed::Perhaps);
        }
        for (id, view) in &open.baskets {
            self.change(id.session, Some(view)).await;
        }
        self.refreshed_handlings(handled, open.handlings).await;
    }

    /// Answers those whose correction is in its basket, or is not for too long.
    pub(super) async fn answer_corrected(&mut self) {
        let known = &self.known;
        let is_told = |corrected: &mut Corrected| {
            let basket = known.as_ref().and_then(|known| known.baskets.get(&corrected.session));
            basket.is_none_or(|basket| basket.state.sequence >= corrected.sequence)
                || corrected.since.elapsed() > CORRECTED_WAIT
        };
        let told: Vec<Corrected> = self.corrected.extract_if(.., is_told).collect();
        for corrected in told {
            reply(&self.parts.gateway, &corrected.request, corrected.answer).await;
        }
    }

    /// Takes a basket as it is now, and tells what is other than gateways have.
    pub(super) async fn change(&mut self, session: SessionId, view: Option<&BasketView>) {
        let id = self.basket_id(session);
        let handling = self.handlings.get(&session).cloned();
        // What is read at this moment may be older than what is told.
        let is_read = self.fetched.contains(&session);
        let is_kept = is_read || !self.reads.is_empty();
        let Some(known) = &mut self.known else { return };
        let mut events: Vec<(Resource, ResourceEvent)> = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        let may_be_had = known.may_be_had();
        let mut is_gone = false;
        match (view, known.baskets.get_mut(&session)) {
            (None, None) if may_be_had => events.push((Resource::Basket(session), ResourceEvent::Delete)),
            (None, None) => {}
            (None, Some(_)) => {
                if let Some(before) = known.baskets.remove(&session) {
                    steps.extend(known.list.leave(before.key));
                }
                is_gone = true;
            }
            // Read or told before; what is newer has been told.
            (Some(view), Some(basket)) if State::of(view) < basket.state => {}
            (Some(view), Some(basket)) => {
                let mut now = Basket::of(id, view, handling.as_ref(), basket.asked_at);
                if let Some(changes) = model::difference(&basket.model, &now.model) {
                    events.push((Resource::Basket(session), ResourceEvent::Change(changes)));
                }
                std::mem::swap(basket, &mut now);
                let (before, key, is_open) = (now, basket.key, basket.is_open);
                if before.is_open && (!is_open || before.key != key) {
                    steps.extend(known.list.leave(before.key));
                }
                if is_open && (!before.is_open || before.key != key) {
                    steps.extend(known.list.enter(key));
                }
            }
            (Some(view), None) => {
                let basket = Basket::of(id, view, handling.as_ref(), Instant::now());
                let (key, is_open) = (basket.key, basket.is_open);
                if may_be_had {
                    let all = properties_json(&basket.model);
                    events.push((Resource::Basket(session), ResourceEvent::Change(all)));
                }
                if is_open || is_kept {
                    known.baskets.insert(session, basket);
                }
                if is_open {
                    steps.extend(known.list.enter(key));
                }
            }
        }
        events.extend(steps.into_iter().map(|step| {
            let event = match step {
                Step::Add(idx, session) => ResourceEvent::Add {
                    idx,
                    value: model::reference(BasketId { session, ..id }),
                },
                Step::Remove(idx) => ResourceEvent::Remove { idx },
            };
            (Resource::Baskets, event)
        }));
        // It leaves the list before it is no more.
        if is_gone {
            events.push((Resource::Basket(session), ResourceEvent::Delete));
        }
        for (resource, event) in events {
            self.tell(resource, event).await;
        }
        if is_read {
            Box::pin(self.answer_waiting()).await;
        }
    }

    pub(super) async fn tell(&mut self, resource: Resource, event: ResourceEvent) {
        if !self.parts.gateway.is_up() {
            self.is_unsure = true;
            return;
        }
        let metrics = &self.parts.metrics;
        metrics.res_events.with_label_values(&[event.name()]).inc();
        if let Err(error) = self.parts.gateway.tell(&resource.name(self.shop), event).await {
            tracing::debug!("{error}");
            self.is_unsure = true;
        }
    }

    /// Has gateways ask for the pages of sessions that they have.
    pub(super) async fn tell_of_sessions(&mut self) {
        self.queried_count += 1;
        let (subject, requests) = match self.parts.gateway.inbox().await {
            Ok(inbox) => inbox,
            Err(error) => return tracing::debug!("{error}"),
        };
        let (parts, partition, shop) = (self.parts.clone(), self.partition, self.shop);
        let page_failed = Arc::clone(&self.page_failed);
        tokio::spawn(async move {
            let (parts, page_failed) = (&parts, &page_failed);
            let until = requests.take_until(tokio::time::sleep(QUERY_WAIT));
            let answering = until.for_each_concurrent(PAGES_AT_ONCE, async |request| {
                let answer = match Listing::read(request.body().query.as_deref()) {
                    Ok(listing) => match page(&parts.views, partition, shop, listing).await {
                        Ok(values) => Answer::Collection { values, query: None },
                        Err(error) => {
                            not_read(&error);
                            page_failed.store(true, Ordering::Relaxed);
                            Answer::Failure(Failure::internal("the sessions cannot be read"))
                        }
                    },
                    Err(error) => Answer::Failure(Failure::invalid_query(error.to_string())),
                };
                reply(&parts.gateway, &request, answer).await;
            });
            answering.await;
        });
        self.tell(Resource::Sessions, ResourceEvent::Query(subject)).await;
    }
}
