//! Correcting a basket by a call: the same as the HTTP route, with the same words.

use std::time::Duration;

use uuid::Uuid;

use super::Parts;
use crate::access::Identity;
use crate::core::basket::{Basket, Refused};
use crate::core::event::{EventError, Proposal, Proposed};
use crate::core::failpoint;
use crate::core::id::BasketId;
use crate::core::policy::Verb;
use crate::resgate::{Answer, Failure, Request};
use crate::views::{Deed, Filed, Standing, ViewError};

/// How long an answer waits for the correction to be in the journal.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Files what the parameters ask for, and answers what became of it: its id, its state and, once it is in the journal,
/// its place there, which is also given apart. Under an id that the caller chose it may be asked for again.
pub(super) async fn correct(
    parts: Parts,
    partition: u16,
    basket: BasketId,
    request: &Request,
) -> (Option<u64>, Answer) {
    let body = request.body();
    let params = body.params.map_or("{}", |params| params.get());
    let mut proposed = match Proposed::parse(params.as_bytes()) {
        Ok(proposed) => proposed,
        Err(error) => return (None, Answer::Failure(broken(&error))),
    };
    let identity = super::access::identity(&parts.access, &body).unwrap_or(Identity::Anonymous);
    if let Some(subject) = identity.subject() {
        proposed.proposal = proposed.proposal.signed(subject);
    }
    match file(&parts, partition, basket, proposed, &identity, request.id()).await {
        Ok(Ok(filed)) => {
            let sequence = match filed.standing {
                Standing::Published { sequence, .. } => Some(sequence),
                Standing::New | Standing::Rejected { .. } => None,
            };
            (sequence, answer(&filed))
        }
        Ok(Err(failure)) => (None, Answer::Failure(failure)),
        Err(error) => {
            super::shop::not_read(&error);
            let failure = Failure::new(
                "ezout.unavailable",
                "it could not be filed; send it again under the same id",
            );
            (None, Answer::Failure(failure))
        }
    }
}

/// Files a correction under its id, or under `otherwise`, which is the same however often the request comes.
async fn file(
    parts: &Parts,
    partition: u16,
    basket: BasketId,
    proposed: Proposed,
    identity: &Identity,
    otherwise: Uuid,
) -> Result<Result<Filed, Failure>, ViewError> {
    let Proposed { id, proposal } = proposed;
    let id = id.unwrap_or(otherwise);
    if parts.views.filed(id).await?.is_none() {
        if let Err(failure) = check(parts, partition, basket, id, &proposal).await? {
            return Ok(Err(failure));
        }
        let deed = Deed::in_shop(Verb::Correct, format!("correction {id}"), basket.shop).with_session(basket.session);
        parts.access.note(identity, deed).await?;
        failpoint::hit("before_proposal");
        parts.views.propose(id, basket, &proposal).await?;
        failpoint::hit("after_proposal");
    }
    let filed = parts.views.outcome(id, basket, &proposal, WAIT_MAX).await?;
    Ok(filed.map_err(|another| Failure::new("ezout.conflict", another.to_string())))
}

/// Refuses at once what cannot be, as far as the view tells.
async fn check(
    parts: &Parts,
    partition: u16,
    basket: BasketId,
    id: Uuid,
    proposal: &Proposal,
) -> Result<Result<(), Failure>, ViewError> {
    // While a partition is handed over, the active version may lag behind what people see.
    let (views, _) = parts.views.reading(partition).await?;
    let mut found = views.load(&[basket], parts.action_id).await?;
    let Some(loaded) = found.pop() else {
        return Ok(Err(Failure::not_found()));
    };
    let found: Basket = match loaded.basket {
        Ok((found, _)) => found,
        // Whoever takes the correction reads the journal.
        Err(_) => return Ok(Ok(())),
    };
    Ok(found
        .decide(id, proposal)
        .map(drop)
        .map_err(|refused| refusal(&refused)))
}

fn refusal(refused: &Refused) -> Failure {
    let data = match refused {
        Refused::MovedOn(since) => Some(format!("{{\"sequence\":{}}}", since.sequence)),
        _ => None,
    };
    Failure {
        data,
        ..Failure::new(
            format!("ezout.{}", refused.word()),
            format!("{refused}; nothing was filed"),
        )
    }
}

fn broken(error: &EventError) -> Failure {
    Failure::invalid_params(error.to_string())
}

fn answer(filed: &Filed) -> Answer {
    match &filed.standing {
        Standing::New => Answer::Result(format!("{{\"id\":\"{}\",\"state\":\"new\"}}", filed.id)),
        Standing::Published { sequence, .. } => Answer::Result(format!(
            "{{\"id\":\"{}\",\"state\":\"published\",\"sequence\":{sequence}}}",
            filed.id
        )),
        Standing::Rejected { code, reason } => Answer::Failure(Failure::new(format!("ezout.{code}"), reason.clone())),
    }
}
