//! Who handles a basket: noting what a call asks for, and telling it, whichever process has noted it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::reading::{Read, not_read, one};
use super::{Presented, SLOW_PAUSE, reply};
use crate::core::id::SessionId;
use crate::present::model;
use crate::present::route::Resource;
use crate::resgate::{Answer, Failure, Request, ResourceEvent, properties_json};
use crate::views::{HANDLE_MINUTES, HANDLE_MINUTES_DEFAULT, HANDLER_MAX, Handling, ViewError};

/// What came of wanting to handle a basket.
pub(super) enum Handled {
    /// He does.
    By(Handling),
    /// Nobody does any more.
    Released,
    /// Somebody else does.
    ByAnother(Handling),
    /// There is no such basket.
    NoBasket,
}

/// What somebody says who wants to handle a basket.
pub(super) struct Handle {
    by: String,
    minutes: i64,
    instead: bool,
    release: bool,
}

impl Handle {
    pub(super) fn read(request: &Request) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            by: Option<String>,
            minutes: Option<i64>,
            #[serde(default)]
            instead: bool,
            #[serde(default)]
            release: bool,
        }
        let body = request.body();
        let params = body.params.map_or("{}", |params| params.get());
        let params: Params = serde_json::from_str(params).map_err(|error| error.to_string())?;
        let by = params.by.unwrap_or_default().trim().to_owned();
        if !params.release && (by.is_empty() || by.len() > HANDLER_MAX) {
            return Err(format!("by must be a name of 1 to {HANDLER_MAX} bytes"));
        }
        let minutes = params.minutes.unwrap_or(HANDLE_MINUTES_DEFAULT);
        if !HANDLE_MINUTES.contains(&minutes) {
            return Err(format!(
                "minutes must be from {} to {}",
                HANDLE_MINUTES.start(),
                HANDLE_MINUTES.end()
            ));
        }
        Ok(Self {
            by,
            minutes,
            instead: params.instead,
            release: params.release,
        })
    }
}

impl Presented {
    pub(super) fn handle_next(&mut self) {
        if self.is_handling {
            return;
        }
        let Some((session, request, handle)) = self.handles.pop_front() else {
            return;
        };
        self.is_handling = true;
        let (views, partition, id) = (self.parts.views.clone(), self.partition, self.basket_id(session));
        self.answers.push(Box::pin(async move {
            let noted = async {
                if one(&views, partition, id).await?.is_none() {
                    return Ok(Handled::NoBasket);
                }
                if handle.release {
                    let another = views.release_handling(id, &handle.by).await?;
                    return Ok(another.map_or(Handled::Released, Handled::ByAnother));
                }
                let now = OffsetDateTime::now_utc();
                let handling = Handling::from_now(handle.by, handle.minutes, now);
                let another = views.handle(id, &handling, handle.instead, now).await?;
                Ok(another.map_or(Handled::By(handling), Handled::ByAnother))
            };
            let noted = noted.await;
            Read::Handled(session, request, noted)
        }));
    }

    /// Tells who handles a basket now, and answers the one who wanted to.
    pub(super) async fn handled(&mut self, session: SessionId, request: Request, read: Result<Handled, ViewError>) {
        self.is_handling = false;
        self.handled_count += 1;
        self.handle_next();
        let answer = match read {
            Ok(Handled::By(handling)) => {
                let json = handled_json(Some(&handling));
                self.set_handling(session, Some(handling)).await;
                Answer::Result(json)
            }
            Ok(Handled::Released) => {
                self.set_handling(session, None).await;
                Answer::Result(handled_json(None))
            }
            Ok(Handled::ByAnother(handling)) => Answer::Failure(Failure {
                data: Some(handled_json(Some(&handling))),
                ..Failure::new(
                    "ezout.handled",
                    "somebody else handles this basket; send instead: true to take it over",
                )
            }),
            Ok(Handled::NoBasket) => Answer::Failure(Failure::not_found()),
            Err(error) => {
                not_read(&error);
                // It may have been noted all the same.
                self.refresh_at.push(Instant::now() + SLOW_PAUSE);
                Answer::Failure(Failure::new("ezout.unavailable", "it could not be noted; try again"))
            }
        };
        reply(&self.parts.gateway, &request, answer).await;
    }

    /// Takes what became otherwise in who handles baskets, whichever process has noted it.
    pub(super) async fn hear_handlings(&mut self) {
        let Some(there) = self.handled_everywhere.borrow_and_update().clone() else {
            return;
        };
        let before = std::mem::replace(&mut self.handled_heard, Arc::clone(&there));
        let sessions: BTreeSet<SessionId> = before.keys().chain(there.keys()).copied().collect();
        for session in sessions {
            let now = there.get(&session);
            // What was noted here is known already, and may be newer.
            if before.get(&session) != now && self.handlings.get(&session) != now {
                // What is being read of it may be older.
                self.handled_count += 1;
                self.set_handling(session, now.cloned()).await;
            }
        }
    }

    /// Tells who handles which basket where that is otherwise than was known: the owner before may have noted it last.
    pub(super) async fn refreshed_handlings(&mut self, handled: u64, there: Vec<(SessionId, Handling)>) {
        if handled != self.handled_count {
            // Somebody handles a basket since it was read.
            self.refresh_at.push(Instant::now() + SLOW_PAUSE);
            return;
        }
        let now = OffsetDateTime::now_utc();
        let there: HashMap<SessionId, Handling> =
            there.into_iter().filter(|(_, handling)| handling.until > now).collect();
        let sessions: BTreeSet<SessionId> = self.handlings.keys().chain(there.keys()).copied().collect();
        for session in sessions {
            if self.handlings.get(&session) != there.get(&session) {
                self.set_handling(session, there.get(&session).cloned()).await;
            }
        }
    }

    pub(super) async fn set_handling(&mut self, session: SessionId, handling: Option<Handling>) {
        let properties = model::handled(handling.as_ref());
        match handling {
            Some(handling) => self.handlings.insert(session, handling),
            None => self.handlings.remove(&session),
        };
        let Some(known) = &mut self.known else { return };
        let changes = match known.baskets.get_mut(&session) {
            Some(basket) => {
                let before = basket.model.clone();
                basket.model.extend(properties);
                model::difference(&before, &basket.model)
            }
            None => known.may_be_had().then(|| properties_json(&properties.into())),
        };
        if let Some(changes) = changes {
            self.tell(Resource::Basket(session), ResourceEvent::Change(changes))
                .await;
        }
    }

    /// Tells that nobody handles the baskets any more whose time is over.
    pub(super) async fn end_handlings(&mut self) {
        let now = OffsetDateTime::now_utc();
        let over: Vec<SessionId> = self
            .handlings
            .iter()
            .filter(|(_, handling)| handling.until <= now)
            .map(|(session, _)| *session)
            .collect();
        for session in over {
            self.set_handling(session, None).await;
        }
    }
}

/// The properties that say who handles a basket, as JSON.
fn handled_json(handling: Option<&Handling>) -> String {
    properties_json(&model::handled(handling).into())
}
