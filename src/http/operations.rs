//! How the whole system runs, for those who look after it: stages, partitions, what is held back and why.
//!
//! Pages ask every other second, so what was found serves everybody who asks within one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Api;
use super::body;
use super::corrections::FiledJson;
use super::problem::{Code, Problem};
use super::read::{unread, views_of};
use crate::access::Identity;
use crate::core::event::rfc3339;
use crate::core::id::BasketId;
use crate::core::query::{Query, whole_number};
use crate::journal::{self, Backlog};
use crate::views::{
    Decision, Deed, LeaseState, ParkedAfter, ParkedEvent, RebuildReport, ReportReason, ViewError, Views,
};

/// How long what was found serves those who ask later.
const FRESH: Duration = Duration::from_secs(1);
/// Partitions that are asked for at a time.
const SIDE_BY_SIDE: usize = 16;
/// As far as what is held back is counted; more is as bad.
const COUNTED_MAX: u64 = 100_000;
/// Reports of rebuilds in an answer.
const REPORTS_MAX: u16 = 10;
/// Entries of a list, where the request does not say, and at most.
const LIMIT: u16 = 50;
const LIMIT_MAX: u16 = 200;
/// How much of the body of an event is shown, in bytes.
const BODY_MAX: usize = 4 * 1024;
/// Longest reason for a decision, in bytes.
const REASON_MAX: usize = 500;

/// What was found lately.
pub(super) type Found = tokio::sync::Mutex<Option<(Instant, Arc<str>)>>;

#[derive(Serialize)]
struct OperationsJson {
    at: String,
    version: &'static str,
    journal: JournalJson,
    updates: Option<UpdatesJson>,
    stages: Vec<StageJson>,
    partitions: Vec<PartitionJson>,
    parked: CountJson,
    corrections: CorrectionsJson,
    drift: Option<DriftJson>,
    rebuild: RebuildJson,
}

#[derive(Serialize)]
struct JournalJson {
    epoch: String,
    first_sequence: u64,
    last_sequence: u64,
    messages: u64,
    bytes: u64,
    durability: String,
    partitions: u16,
    last_at: Option<String>,
}

#[derive(Serialize)]
struct UpdatesJson {
    first_place: u64,
    last_place: u64,
    messages: u64,
    bytes: u64,
    last_at: Option<String>,
}

#[derive(Serialize)]
struct StageJson {
    stage: &'static str,
    sequence: Option<u64>,
    lag_events: u64,
    lag_seconds: f64,
}

#[derive(Serialize)]
struct PartitionJson {
    partition: u16,
    owner: Option<String>,
    lease_until: Option<String>,
    checkpoint: u64,
    lag_events: u64,
    lag_seconds: f64,
    halted: Option<String>,
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
}

#[derive(Serialize)]
struct CorrectionsJson {
    waiting: u64,
    decided: u64,
    held_shops: Vec<String>,
}

#[derive(Serialize)]
struct DriftJson {
    checked: u64,
    different: u64,
}

#[derive(Serialize)]
struct RebuildJson {
    active: String,
    previous: Option<String>,
    building: Option<BuildingJson>,
    reports: Vec<ReportJson>,
}

#[derive(Serialize)]
struct BuildingJson {
    version: String,
    epoch: String,
    action_id: String,
}

#[derive(Serialize)]
struct ReportJson {
    at: Option<String>,
    scope: String,
    version: Option<String>,
    equal: u64,
    different: u64,
    reasons: Vec<ReportReason>,
    shops: u64,
    digest: String,
}

impl From<RebuildReport> for ReportJson {
    fn from(report: RebuildReport) -> Self {
        Self {
            at: report.at.map(rfc3339),
            scope: report.scope,
            version: report.version,
            equal: report.equal,
            different: report.different,
            reasons: report.reasons,
            shops: report.shops,
            digest: report.digest,
        }
    }
}

/// `GET /v1/operations`
pub(super) async fn show(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let _timer = api.timer("operations");
    let answer = async {
        Query::read(query.as_deref(), &[])?;
        let mut found = api.operations().lock().await;
        if let Some((at, json)) = found.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(json));
        }
        let at = Instant::now();
        let json = serde_json::to_string(&look(&api).await?).expect("what was found is JSON");
        let json: Arc<str> = json.into();
        *found = Some((at, Arc::clone(&json)));
        Ok(json)
    };
    match answer.await {
        Ok(json) => {
            let json = (
                [(axum::http::header::CONTENT_TYPE, "application/json")],
                json.to_string(),
            );
            json.into_response()
        }
        Err(problem) => Problem::into_response(problem),
    }
}

async fn look(api: &Api) -> Result<OperationsJson, Problem> {
    let views = views_of(api)?;
    let now = OffsetDateTime::now_utc();
    let facts = match &*api.journal().state().borrow() {
        journal::State::Open(facts) => facts.clone(),
        journal::State::Unavailable { .. } => return Err(Problem::journal_unread()),
    };
    let size = api.journal().size().await.map_err(|_| Problem::journal_unread())?;
    let updates = match api.live() {
        Some(live) => Some(live.extent().await.map_err(|_| Problem::journal_unread())?),
        None => None,
    };
    let partitions: Vec<Folded> = stream::iter(0..facts.partitions)
        .map(|partition| folded(api, views, partition))
        .buffered(SIDE_BY_SIDE)
        .try_collect()
        .await?;
    let held = held(views).await.map_err(|error| unread(&error))?;
    let last = size.last_sequence;
    Ok(OperationsJson {
        at: rfc3339(now),
        version: env!("CARGO_PKG_VERSION"),
        journal: JournalJson {
            epoch: size.epoch.to_string(),
            first_sequence: size.first_sequence,
            last_sequence: last,
            messages: size.messages,
            bytes: size.bytes,
            durability: facts.durability.to_string(),
            partitions: facts.partitions,
            last_at: size.last_at.map(rfc3339),
        },
        updates: updates.map(|extent| UpdatesJson {
            first_place: extent.first,
            last_place: extent.last,
            messages: extent.messages,
            bytes: extent.bytes,
            last_at: extent.last_at.map(rfc3339),
        }),
        stages: stages(last, &partitions, &held, now),
        partitions: partitions
            .into_iter()
            .map(|folded| {
                let lease = held.leases.get(&folded.partition);
                folded.json(lease, now)
            })
            .collect(),
        parked: CountJson { count: held.parked },
        corrections: CorrectionsJson {
            waiting: held.waiting,
            decided: held.decided,
            held_shops: held.shops,
        },
        drift: drift(held.leases.values()),
        rebuild: held.rebuild,
    })
}

/// What all owners have found in their baskets together; nothing where none compares any.
fn drift<'a>(leases: impl Iterator<Item = &'a LeaseState>) -> Option<DriftJson> {
    let found = leases.filter_map(|lease| lease.scrubbed).map(|scrubbed| DriftJson {
        checked: scrubbed.checked,
        different: scrubbed.different,
    });
    found.reduce(|one, other| DriftJson {
        checked: one.checked + other.checked,
        different: one.different + other.different,
    })
}

/// What MongoDB knows of the whole system.
struct Held {
    leases: HashMap<u16, LeaseState>,
    parked: u64,
    waiting: u64,
    waiting_since: Option<OffsetDateTime>,
    decided: u64,
    /// Where in the journal the newest correction is.
    corrected: Option<u64>,
    shops: Vec<String>,
    rebuild: RebuildJson,
}

async fn held(views: &Views) -> Result<Held, ViewError> {
    let leases = views.leases_now().await?.partitions;
    let parked = views.count_parked(COUNTED_MAX).await?;
    let (waiting, waiting_since) = views.waiting_corrections(COUNTED_MAX).await?;
    let (filed, corrected) = views.filed_so_far().await?;
    let shops = views.held_shops().await?;
    let projections = views.projections().await?;
    let reports = views.reports(REPORTS_MAX).await?;
    Ok(Held {
        leases: leases.into_iter().map(|lease| (lease.partition, lease)).collect(),
        parked,
        waiting,
        waiting_since,
        decided: filed.saturating_sub(waiting),
        corrected,
        shops: shops.iter().map(ToString::to_string).collect(),
        rebuild: RebuildJson {
            active: projections.active.to_string(),
            previous: projections.previous.map(|previous| previous.to_string()),
            building: projections.building.map(|building| BuildingJson {
                version: building.version.to_string(),
                epoch: building.epoch,
                action_id: building.action_id,
            }),
            reports: reports.into_iter().map(ReportJson::from).collect(),
        },
    })
}

/// How far everything is, where the journal ends at `last`.
fn stages(last: u64, partitions: &[Folded], held: &Held, now: OffsetDateTime) -> Vec<StageJson> {
    // A partition without anything beyond its checkpoint is folded as far as the journal goes.
    let behind = partitions.iter().filter(|folded| folded.backlog.events > 0);
    let projected = behind.map(|folded| folded.checkpoint).min().unwrap_or(last);
    let since = partitions.iter().filter_map(|folded| folded.backlog.since).min();
    vec![
        StageJson {
            stage: "journal",
            sequence: Some(last),
            lag_events: 0,
            lag_seconds: 0.0,
        },
        StageJson {
            stage: "projected",
            sequence: Some(projected),
            lag_events: partitions.iter().map(|folded| folded.backlog.events).sum(),
            lag_seconds: seconds_since(since, now),
        },
        StageJson {
            stage: "corrections",
            sequence: held.corrected,
            lag_events: held.waiting,
            lag_seconds: seconds_since(held.waiting_since, now),
        },
    ]
}

/// A partition as it is folded.
struct Folded {
    partition: u16,
    checkpoint: u64,
    backlog: Backlog,
}

impl Folded {
    fn json(self, lease: Option<&LeaseState>, now: OffsetDateTime) -> PartitionJson {
        let held = lease.filter(|lease| lease.owner.is_some() && lease.left_ms > 0);
        let until = |lease: &LeaseState| now + time::Duration::milliseconds(lease.left_ms);
        PartitionJson {
            partition: self.partition,
            owner: held.and_then(|lease| lease.owner.clone()),
            lease_until: held.map(until).map(|until| rfc3339(until.truncate_to_millisecond())),
            checkpoint: self.checkpoint,
            lag_events: self.backlog.events,
            lag_seconds: seconds_since(self.backlog.since, now),
            halted: held.and_then(|lease| lease.halted.clone()),
        }
    }
}

async fn folded(api: &Api, views: &Views, partition: u16) -> Result<Folded, Problem> {
    let checkpoint = views.checkpoint(partition).await.map_err(|error| unread(&error))?;
    let checkpoint = checkpoint.unwrap_or(0);
    let backlog = api.journal().backlog(partition, checkpoint).await;
    Ok(Folded {
        partition,
        checkpoint,
        backlog: backlog.map_err(|_| Problem::journal_unread())?,
    })
}

/// How long something has been waiting, in seconds with three decimals.
fn seconds_since(since: Option<OffsetDateTime>, now: OffsetDateTime) -> f64 {
    let waits = since.map_or(0.0, |since| (now - since).as_seconds_f64().max(0.0));
    (waits * 1_000.0).round() / 1_000.0
}

#[derive(Serialize)]
struct ParkedListJson {
    parked: Vec<ParkedJson>,
    next: Option<String>,
}

#[derive(Serialize)]
struct ParkedJson {
    id: String,
    partition: u16,
    sequence: u64,
    shop_id: Option<String>,
    session_id: Option<String>,
    reason: String,
    state: &'static str,
    event_type: Option<String>,
    recorded_at: String,
    body: String,
}

impl From<ParkedEvent> for ParkedJson {
    fn from(event: ParkedEvent) -> Self {
        let shown = &event.body[..event.body.len().min(BODY_MAX)];
        Self {
            partition: event.partition,
            sequence: event.sequence,
            shop_id: event.basket.map(|basket| basket.shop.to_string()),
            session_id: event.basket.map(|basket| basket.session.to_string()),
            state: event.state.word(),
            recorded_at: rfc3339(event.recorded_at),
            body: String::from_utf8_lossy(shown).into_owned(),
            id: event.id,
            reason: event.reason,
            event_type: event.event_type,
        }
    }
}

fn limit_of(query: &Query) -> Result<u16, Problem> {
    let rule = format!("a whole number from 1 to {LIMIT_MAX}");
    let limit = query.value("limit", &rule, |text| {
        let limit = u16::try_from(whole_number(text)?).ok()?;
        (1..=LIMIT_MAX).contains(&limit).then_some(limit)
    })?;
    Ok(limit.unwrap_or(LIMIT))
}

/// `GET /v1/operations/parked`
pub(super) async fn parked(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let _timer = api.timer("operations");
    let answer = async {
        let query = Query::read(query.as_deref(), &["limit", "cursor"])?;
        let limit = limit_of(&query)?;
        let after = query.value("cursor", "the `next` of an answer before", ParkedAfter::parse)?;
        let found = views_of(&api)?.parked_after(after.as_ref(), limit).await;
        let found = found.map_err(|error| unread(&error))?;
        let next = (found.len() == usize::from(limit)).then(|| found.last().map(|event| event.id.clone()));
        let json = ParkedListJson {
            parked: found.into_iter().map(ParkedJson::from).collect(),
            next: next.flatten(),
        };
        Ok(Json(json).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    decision: Decision,
    reason: String,
}

/// `POST /v1/operations/parked/{id}`
pub(super) async fn decide(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let _timer = api.timer("operations");
    let answer = async {
        let id = path.map(|Path(id)| id).unwrap_or_default();
        let decided: Decided = body::fields(request, &api).await?;
        let reason = decided.reason.trim();
        if !(1..=REASON_MAX).contains(&reason.len()) {
            let rule = format!("must have 1 to {REASON_MAX} bytes");
            return Err(body::broken("/reason", "text", rule));
        }
        let views = views_of(&api)?;
        let found = views.parked_event(&id).await.map_err(|error| unread(&error))?;
        let missing = || Problem::new(Code::NotFound, "no event of this id is parked");
        let event = found.filter(|event| !event.state.never_counts()).ok_or_else(missing)?;
        let deed = Deed::of_parked(&event, decided.decision, Some(reason));
        let noting = api.access().note(&identity, deed);
        noting.await.map_err(|error| unread(&error))?;
        let deciding = views.decide_parked(&event, decided.decision);
        deciding.await.map_err(|error| unread(&error))?;
        let after = views.parked_event(&id).await.map_err(|error| unread(&error))?;
        // It may be applied, and so forgotten, by now.
        let after = after.unwrap_or(event);
        Ok((StatusCode::ACCEPTED, Json(ParkedJson::from(after))).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

#[derive(Serialize)]
struct NewestJson<'a> {
    corrections: Vec<FiledJson<'a>>,
}

/// `GET /v1/operations/corrections`
pub(super) async fn corrections(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let _timer = api.timer("operations");
    let answer = async {
        let limit = limit_of(&Query::read(query.as_deref(), &["limit"])?)?;
        let views = views_of(&api)?;
        let filed = views.newest_filed(limit).await.map_err(|error| unread(&error))?;
        let baskets: BTreeSet<BasketId> = filed.iter().map(|filed| filed.basket).collect();
        let baskets: Vec<BasketId> = baskets.into_iter().collect();
        let applied = views.applied_in(&baskets).await.map_err(|error| unread(&error))?;
        let is_applied = |id| applied.iter().any(|applied| applied.contains(&id));
        let corrections = filed
            .iter()
            .map(|filed| FiledJson::of(filed, is_applied(filed.id)))
            .collect();
        Ok(Json(NewestJson { corrections }).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}
