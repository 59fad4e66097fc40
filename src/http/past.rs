//! A basket as it was, and why: folded again from the events that it keeps.
//!
//! A moment of the past is a place in the journal, or a time by the journal's clock; the phones'
//! clocks play no part.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::Api;
use super::append::SEQUENCE;
use super::problem::{Code, Problem};
use super::read::{basket_of, no_event, reading, unread};
use crate::core::basket::{Basket, Effect, Explanation, Idle};
use crate::core::event::{Abandonment, Change, Event, Recorded, rfc3339};
use crate::core::id::BasketId;
use crate::core::money::Money;
use crate::core::query::Query;
use crate::views::ViewError;
use crate::views::json::{DivergenceJson, Exact, verdict};

/// Which state of a basket is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// When the journal had taken nothing later than this.
    Time(OffsetDateTime),
    /// When the journal ended at this place.
    Sequence(u64),
}

impl Moment {
    /// The moment that the parameters `at` and `sequence` name; none is now.
    pub(super) fn of(query: &Query) -> Result<Option<Self>, Problem> {
        query.at_most_one_of(&["at", "sequence", "min_sequence"])?;
        let time = query.time("at")?.map(Self::Time);
        Ok(time.or(query.place("sequence")?.map(Self::Sequence)))
    }
}

/// A basket with its events, and the place in the journal that it is true at.
pub(super) struct Past {
    pub(super) basket: Basket,
    pub(super) sequence: u64,
}

/// Folds the basket as it was at a moment.
///
/// # Errors
/// [`Code::NotFound`] where the session had no event then.
pub(super) async fn load(api: &Api, id: BasketId, moment: Option<Moment>) -> Result<Past, Problem> {
    let (views, checkpoint) = reading(api, id.shop).await?;
    let mut found = views.load(&[id], api.meaning()).await.map_err(|error| unread(&error))?;
    let Some(found) = found.pop() else {
        return Err(no_event(checkpoint));
    };
    let (basket, _) = found.basket.map_err(|reason| {
        unread(&ViewError::Unreadable {
            id: id.to_string(),
            reason,
        })
    })?;
    // Where the basket was cut, the next event of the session bounds what the answer is true at.
    let newest = checkpoint.max(basket.sequence());
    let sequence = match moment {
        None => newest,
        Some(Moment::Sequence(place)) => newest.min(place),
        Some(Moment::Time(time)) => {
            let parked = match basket.parked_since() {
                Some(since) if recorded_at(api, since).await? > time => Some(since),
                _ => None,
            };
            let next = basket.first_after(time).into_iter().chain(parked).min();
            next.map_or(newest, |next| next - 1)
        }
    };
    let basket = if moment.is_some() {
        basket.as_of(sequence)
    } else {
        basket
    };
    if basket.sequence() == 0 {
        return Err(no_event(sequence));
    }
    Ok(Past { basket, sequence })
}

/// When the journal took an event that is parked, which the basket does not know.
async fn recorded_at(api: &Api, sequence: u64) -> Result<OffsetDateTime, Problem> {
    let event = api.journal().get(sequence).await.map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot read event {sequence}");
        Problem::journal_unread()
    })?;
    event.map(|event| event.recorded_at).ok_or_else(|| {
        tracing::error!(
            event.sequence = sequence,
            "the journal lacks event {sequence}, which is parked"
        );
        Problem::plain(Code::Internal)
    })
}

#[derive(Serialize)]
struct ExplanationJson<'a> {
    shop_id: String,
    session_id: String,
    sequence: u64,
    basket_sequence: u64,
    version: usize,
    status: &'static str,
    item_count: u64,
    adjustment: Exact,
    total: Exact,
    claimed_total: Option<Exact>,
    verdict: &'static str,
    divergence: Option<DivergenceJson>,
    lines: Vec<LineJson<'a>>,
    claims: Vec<ClaimJson<'a>>,
    without_effect: Vec<IdleJson<'a>>,
    corrections: Vec<CorrectionJson<'a>>,
    abandonments: Vec<AbandonmentJson>,
}

#[derive(Serialize)]
struct LineJson<'a> {
    product_id: i64,
    product_name: Option<&'a str>,
    quantity: u64,
    amount: Exact,
    because: Vec<EffectJson<'a>>,
}

/// An action, as it stands everywhere in an explanation.
#[derive(Serialize)]
struct ActionJson<'a> {
    sequence: u64,
    action_id: i64,
    create_time: String,
    action: &'a str,
}

#[derive(Serialize)]
struct EffectJson<'a> {
    #[serde(flatten)]
    action: ActionJson<'a>,
    quantity: u32,
    price: Option<Exact>,
    quantity_change: i64,
    amount_change: Exact,
    why_not: Option<&'static str>,
    findings: Vec<&'static str>,
}

#[derive(Serialize)]
struct ClaimJson<'a> {
    #[serde(flatten)]
    action: ActionJson<'a>,
    claimed: Exact,
    total: Exact,
    difference: Option<Exact>,
    diverged: bool,
}

#[derive(Serialize)]
struct IdleJson<'a> {
    #[serde(flatten)]
    action: ActionJson<'a>,
    product_id: Option<i64>,
    quantity: u32,
    price: Option<Exact>,
    why_not: &'static str,
    counts_instead: Option<u64>,
}

/// A correction, and what it did.
#[derive(Serialize)]
struct CorrectionJson<'a> {
    sequence: u64,
    correction_id: String,
    author: &'a str,
    reason: &'a str,
    recorded_at: String,
    base_sequence: u64,
    counts: bool,
    changes: Vec<Box<RawValue>>,
    /// Nothing where it does not count.
    effect: Option<CorrectionEffectJson>,
}

#[derive(Serialize)]
struct CorrectionEffectJson {
    behind_actions: usize,
    lines: Vec<LineChangeJson>,
    adjustment_change: Exact,
    total: Exact,
}

#[derive(Serialize)]
struct LineChangeJson {
    product_id: i64,
    quantity_change: i64,
    amount_change: Exact,
}

/// That the shopper did nothing for a long time.
#[derive(Serialize)]
struct AbandonmentJson {
    sequence: u64,
    recorded_at: String,
    idle_since: String,
    after: u64,
    void: bool,
}

impl<'a> ActionJson<'a> {
    fn of(sequence: u64, event: &'a Event) -> Self {
        Self {
            sequence,
            action_id: event.action_id,
            create_time: rfc3339(event.create_time),
            action: &event.action,
        }
    }
}

impl<'a> EffectJson<'a> {
    fn of(effect: &Effect<'a>) -> Self {
        let event = &effect.recorded.event;
        Self {
            action: ActionJson::of(effect.recorded.sequence, event),
            quantity: event.quantity,
            price: event.product_price.map(Exact),
            quantity_change: effect.quantity,
            amount_change: Exact(effect.amount),
            why_not: effect.idle.map(Idle::word),
            findings: effect.findings.iter().map(|finding| finding.kind.word()).collect(),
        }
    }
}

/// `GET /v1/shops/{shop}/sessions/{session}/explain`
pub(super) async fn explain(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let _timer = api.timer("explain");
    let answer = async {
        let id = basket_of(path)?;
        let moment = Moment::of(&Query::read(query.as_deref(), &["at", "sequence"])?)?;
        let past = load(&api, id, moment).await?;
        let json = explanation(&past);
        Ok(([(SEQUENCE, past.sequence.to_string())], Json(json)).into_response())
    };
    answer.await.unwrap_or_else(Problem::into_response)
}

fn explanation(past: &Past) -> ExplanationJson<'_> {
    let basket = &past.basket;
    let state = basket.state();
    let explanation = basket.explain();
    let mut lines: Vec<LineJson<'_>> = state
        .lines
        .iter()
        .map(|line| LineJson {
            product_id: line.product_id,
            product_name: line.product_name.as_deref(),
            quantity: line.quantity,
            amount: Exact(line.amount),
            because: Vec::new(),
        })
        .collect();
    let mut claims = Vec::with_capacity(explanation.effects.len());
    let mut without_effect = Vec::new();
    for effect in &explanation.effects {
        let event = &effect.recorded.event;
        if let Some(line) = effect.line {
            lines[line].because.push(EffectJson::of(effect));
        }
        claims.push(ClaimJson {
            action: ActionJson::of(effect.recorded.sequence, event),
            claimed: Exact(event.basket_total),
            total: Exact(effect.total),
            difference: effect.claim_difference.map(Exact),
            diverged: effect.diverged,
        });
        if let Some(idle) = effect.idle {
            without_effect.push(idle_json(effect.recorded.sequence, event, idle.word(), None));
        }
    }
    for (copy, counts) in &explanation.conflicts {
        without_effect.push(idle_json(copy.sequence, &copy.event, "conflicting_copy", Some(*counts)));
    }
    debug_assert_eq!(
        lines.iter().map(|line| line.amount.0).sum::<Money>() + state.adjustment,
        state.total
    );
    ExplanationJson {
        shop_id: basket.id().shop.to_string(),
        session_id: basket.id().session.to_string(),
        sequence: past.sequence,
        basket_sequence: basket.sequence(),
        version: basket.version(),
        status: basket.status().word(),
        item_count: state.item_count,
        adjustment: Exact(state.adjustment),
        total: Exact(state.total),
        claimed_total: state.claimed_total.map(Exact),
        verdict: verdict(state.divergence),
        divergence: state.divergence.map(DivergenceJson::of),
        lines,
        claims,
        without_effect,
        corrections: corrections(basket, &explanation),
        abandonments: basket
            .abandonments()
            .iter()
            .map(|recorded| abandonment_json(recorded, basket))
            .collect(),
    }
}

fn corrections<'a>(basket: &'a Basket, explanation: &Explanation<'_>) -> Vec<CorrectionJson<'a>> {
    let lines = &basket.state().lines;
    let effect = |sequence: u64| {
        let effect = explanation
            .corrections
            .iter()
            .find(|effect| effect.recorded.sequence == sequence)?;
        let changed = effect.lines.iter().map(|(place, quantity, amount)| LineChangeJson {
            product_id: lines[*place].product_id,
            quantity_change: *quantity,
            amount_change: Exact(*amount),
        });
        Some(CorrectionEffectJson {
            behind_actions: effect.behind,
            lines: changed.collect(),
            adjustment_change: Exact(effect.adjustment),
            total: Exact(effect.total),
        })
    };
    let json = |change: &Change| RawValue::from_string(change.json()).expect("a change is JSON");
    let corrections = basket.corrections().iter();
    corrections
        .map(|recorded| CorrectionJson {
            sequence: recorded.sequence,
            correction_id: recorded.event.id.to_string(),
            author: &recorded.event.author,
            reason: &recorded.event.reason,
            recorded_at: rfc3339(recorded.recorded_at),
            base_sequence: recorded.event.base_sequence,
            counts: basket.counts(recorded.event.id),
            changes: recorded.event.changes.iter().map(json).collect(),
            effect: effect(recorded.sequence),
        })
        .collect()
}

fn abandonment_json(recorded: &Recorded<Abandonment>, basket: &Basket) -> AbandonmentJson {
    AbandonmentJson {
        sequence: recorded.sequence,
        recorded_at: rfc3339(recorded.recorded_at),
        idle_since: rfc3339(recorded.event.idle_since),
        after: recorded.event.after,
        void: basket.is_void(&recorded.event),
    }
}

fn idle_json<'a>(sequence: u64, event: &'a Event, why_not: &'static str, counts_instead: Option<u64>) -> IdleJson<'a> {
    IdleJson {
        action: ActionJson::of(sequence, event),
        product_id: event.product_id,
        quantity: event.quantity,
        price: event.product_price.map(Exact),
        why_not,
        counts_instead,
    }
}
