//! Corrections: asking for one, and what became of it and of those before.
//!
//! What is asked for is filed when it is answered, and the process that takes corrections makes it an
//! event. What cannot be is refused at once as far as that is known; the rest is told by its state.

mod shown;

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use self::shown::FiledJson;
use self::shown::changed_json;
use super::Api;
use super::append::{EVENT_BYTES_MAX, EVENT_DEADLINE, SEQUENCE};
use super::body::{self, MediaType};
use super::past;
use super::problem::{Code, Problem};
use super::read::{PAUSE_FIRST, PAUSE_MAX, basket_of, no_event, reading, unread, views_of};
use crate::access::Identity;
use crate::core::basket::{Refused, Since};
use crate::core::event::{EventError, FieldError, Proposal, Proposed};
use crate::core::failpoint;
use crate::core::id::{BasketId, SessionId};
use crate::core::policy::Verb;
use crate::core::query::{Query, whole_number};
use crate::views::{Deed, Filed, Standing};

/// How long an answer waits for the correction to be in the journal, and before that for the basket to be as new as its author saw it.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Corrections in a list, where the request does not say, and at most.
const LIMIT: u16 = 50;
const LIMIT_MAX: u16 = 200;

/// `POST /v1/shops/{shop}/sessions/{session}/corrections`
pub(super) async fn create(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("corrections");
    let answer = async {
        let basket = basket_of(path)?;
        body::refuse_encoding(request.headers())?;
        if body::media_type(request.headers()) != MediaType::Json {
            let rule = "send one correction as application/json";
            return Err(Problem::new(Code::UnsupportedMediaType, rule));
        }
        let body = body::received(request, EVENT_BYTES_MAX, EVENT_DEADLINE, &api).await?;
        let Proposed { id, mut proposal } = Proposed::parse(&body.bytes).map_err(no_correction)?;
        drop(body);
        if let Some(subject) = identity.subject() {
            proposal = proposal.signed(subject);
        }
        let views = views_of(&api)?;
        let known = match id {
            Some(id) => views.filed(id).await.map_err(|error| unread(&error))?,
            None => None,
        };
        let id = id.unwrap_or_else(Uuid::new_v4);
        if known.is_none() {
            check(&api, basket, id, &proposal).await?;
            let deed =
                Deed::in_shop(Verb::Correct, format!("correction {id}"), basket.shop).with_session(basket.session);
            let noting = api.access().note(&identity, deed);
            noting.await.map_err(|error| unread(&error))?;
            failpoint::hit("before_proposal");
            let filing = views.propose(id, basket, &proposal);
            filing.await.map_err(|error| unread(&error))?;
            failpoint::hit("after_proposal");
        }
        // Under the id there may be another one, since before or since this moment.
        let filed = views.outcome(id, basket, &proposal, WAIT_MAX).await;
        let filed = filed.map_err(|error| unread(&error))?;
        filed.map_err(|another| Problem::new(Code::Conflict, another.to_string()))
    };
    match answer.await {
        Ok(filed) => created(&api, &filed).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses at once what cannot be, as far as the views tell.
async fn check(api: &Api, basket: BasketId, id: Uuid, proposal: &Proposal) -> Result<(), Problem> {
    let base = proposal.base_sequence.unwrap_or(0);
    let deadline = Instant::now() + WAIT_MAX;
    let mut pause = PAUSE_FIRST;
    let mut is_there = base == 0;
    loop {
        let found = past::load(api, basket, None).await;
        let sequence = match &found {
            Ok(found) => found.sequence,
            Err(problem) if problem.code() == Code::NotFound => problem.sequence().unwrap_or(0),
            Err(_) => base,
        };
        if sequence >= base {
            let refused = found?.basket.decide(id, proposal).map(drop);
            return refused.map_err(|refused| refusal(&refused));
        }
        if !is_there {
            let end = api.journal().tail_of_shop(basket.shop).await;
            let end = end.map_err(|_| Problem::journal_unread())?;
            if base > end.last_sequence {
                return Err(beyond(base, end.last_sequence));
            }
            is_there = true;
        }
        if Instant::now() >= deadline {
            // The views are behind. Whoever takes the correction reads the journal.
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 3 / 2);
    }
}

async fn created(api: &Api, filed: &Filed) -> Response {
    let mut response = match &filed.standing {
        Standing::Rejected { code, reason } => {
            let code = Code::ALL.iter().find(|known| known.word() == code);
            let code = code.copied().unwrap_or(Code::InvalidCorrection);
            let problem = Problem::new(code, reason.clone());
            let since = match code {
                Code::MovedOn => since(api, filed).await,
                _ => None,
            };
            match since {
                Some(since) => told(problem, &since).into_response(),
                None => problem.into_response(),
            }
        }
        _ => (StatusCode::ACCEPTED, Json(FiledJson::of(filed, false))).into_response(),
    };
    let BasketId { shop, session } = filed.basket;
    let location = format!("/v1/shops/{shop}/sessions/{session}/corrections/{}", filed.id);
    let location = HeaderValue::try_from(location).expect("ids are a header's value");
    response.headers_mut().insert(LOCATION, location);
    response
}

/// What became otherwise in the basket since the author saw it, as far as the views tell.
async fn since(api: &Api, filed: &Filed) -> Option<Since> {
    let base = filed.base_sequence?;
    past::load(api, filed.basket, None).await.ok()?.basket.since(base)
}

fn told(problem: Problem, since: &Since) -> Problem {
    problem.with_sequence(since.sequence).with_changed(changed_json(since))
}

fn no_correction(error: EventError) -> Problem {
    match error {
        EventError::Fields(errors) => Problem::new(
            Code::InvalidCorrection,
            "the body breaks the rules named in errors; nothing was filed",
        )
        .with_errors(errors),
        not_an_object @ EventError::NotAnObject(_) => not_an_object.into(),
    }
}

fn beyond(base: u64, end: u64) -> Problem {
    let rule = FieldError {
        pointer: "/base_sequence".to_owned(),
        code: "range",
        detail: format!("must be a place that the journal has; it ends at {end}, and this is {base}"),
    };
    no_correction(EventError::Fields(vec![rule]))
}

fn refusal(refused: &Refused) -> Problem {
    let code = Code::ALL.iter().find(|code| code.word() == refused.word());
    let problem = Problem::new(
        code.copied().unwrap_or(Code::InvalidCorrection),
        format!("{refused}; nothing was filed"),
    );
    match refused {
        Refused::MovedOn(since) => told(problem, since),
        _ => problem,
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    shop_id: String,
    session_id: String,
    sequence: u64,
    corrections: Vec<FiledJson<'a>>,
}

/// `GET /v1/shops/{shop}/sessions/{session}/corrections`
pub(super) async fn list(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("corrections");
    let answer = async {
        let basket = basket_of(path)?;
        let query = Query::read(query.as_deref(), &["limit"])?;
        let limit = query.value("limit", &format!("a whole number from 1 to {LIMIT_MAX}"), |text| {
            let limit = u16::try_from(whole_number(text)?).ok()?;
            (1..=LIMIT_MAX).contains(&limit).then_some(limit)
        })?;
        let (views, sequence) = reading(&api, basket.shop).await?;
        let filed = views.filed_of(basket, limit.unwrap_or(LIMIT)).await;
        let filed = filed.map_err(|error| unread(&error))?;
        let applied = views.applied_corrections(basket).await;
        let applied = applied.map_err(|error| unread(&error))?;
        if filed.is_empty() && applied.is_none() {
            return Err(no_event(sequence));
        }
        let applied = applied.unwrap_or_default();
        let json = ListJson {
            shop_id: basket.shop.to_string(),
            session_id: basket.session.to_string(),
            sequence,
            corrections: filed
                .iter()
                .map(|filed| FiledJson::of(filed, applied.contains(&filed.id)))
                .collect(),
        };
        Ok(([(SEQUENCE, sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

/// `GET /v1/shops/{shop}/sessions/{session}/corrections/{correction}`
pub(super) async fn show(
    State(api): State<Api>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("corrections");
    let answer = async {
        let (shop, session, id) = path.map_or_else(|_| Default::default(), |Path(path)| path);
        let basket = basket_of(Ok(Path((shop, session))))?;
        Query::read(query.as_deref(), &[])?;
        let (views, sequence) = reading(&api, basket.shop).await?;
        let missing = || Problem::new(Code::NotFound, "no correction of this id was filed for this session");
        // An id is written as every other one.
        let id = SessionId::parse(&id)
            .map_err(|_| missing().with_sequence(sequence))?
            .uuid();
        let filed = views.filed(id).await.map_err(|error| unread(&error))?;
        let Some(filed) = filed.filter(|filed| filed.basket == basket) else {
            return Err(missing().with_sequence(sequence));
        };
        let applied = views.applied_corrections(basket).await;
        let applied = applied.map_err(|error| unread(&error))?.unwrap_or_default();
        let json = FiledJson::of(&filed, applied.contains(&id));
        Ok(([(SEQUENCE, sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}
