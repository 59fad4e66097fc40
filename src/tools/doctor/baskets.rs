//! The baskets: which version is read, what a rebuild has left, and what waits for a person or for a projector.

use std::time::Duration;

use time::OffsetDateTime;

use super::commands::Commands;
use super::report::{Finding, counted};
use crate::core::error_chain;
use crate::core::event::rfc3339;
use crate::views::{Projections, ViewError, Views, WaitingRefold};

/// As far as parked events are counted; more is as bad.
const COUNTED_MAX: u64 = 100_000;
/// Requests that are looked at.
const REQUESTS_MAX: i64 = 1_000;
/// A projector takes a request within seconds; what is still there after this pause is left over.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);

/// Which version is read, and what else there is.
pub(super) async fn versions(views: &Views, action_id: Option<&str>, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "baskets";
    let looked = async { Ok((views.projections().await?, views.versions().await?)) };
    let (known, all) = match looked.await {
        Ok(found) => found,
        Err(error) => {
            let error: ViewError = error;
            return vec![Finding::fail(CHECK, error_chain(&error), commands.doctor())];
        }
    };
    let mut findings = Vec::new();
    if !all.contains(&known.active) {
        let fact = format!(
            "baskets are read from {}, and there is no such collection",
            known.active
        );
        findings.push(Finding::fail(CHECK, fact, commands.migrate()));
    }
    if let Some(building) = &known.building {
        let fact = format!(
            "{} is being filled by a rebuild, or was left so by one that was stopped",
            building.version
        );
        let goes_on = commands.rebuild("--switch", action_id);
        let finding = Finding::warn(CHECK, fact, goes_on);
        findings.push(finding.first("goes on with it, compares and switches; --anew gives it up"));
    }
    let building = known.building.as_ref().map(|building| building.version);
    let old: Vec<String> = all
        .iter()
        .filter(|version| **version != known.active && Some(**version) != building)
        .map(ToString::to_string)
        .collect();
    if !old.is_empty() {
        let ago = known
            .moved_seconds_ago
            .map(|seconds| format!(", {} ago", age(seconds)))
            .unwrap_or_default();
        let fact = format!(
            "{} {} no longer read{ago}",
            old.join(" and "),
            if old.len() == 1 { "is" } else { "are" }
        );
        findings.push(
            Finding::warn(CHECK, fact, commands.rebuild("--drop-old", None))
                .first("when nobody wants to go back any more"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("read from {}; no rebuild has left anything", known.active),
        ));
    }
    findings
}

/// Events that wait for a person.
pub(super) async fn parked(views: &Views, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "parked";
    let looked = async {
        let count = views.count_parked(COUNTED_MAX).await?;
        Ok::<_, ViewError>((count, views.list_parked(false, 1).await?.pop()))
    };
    vec![match looked.await {
        Ok((0, _)) => Finding::ok(CHECK, "no event is parked"),
        Ok((count, oldest)) => {
            let count = if count == COUNTED_MAX {
                format!("{count} events or more")
            } else {
                counted(count, "event")
            };
            let oldest = oldest.map(|event| {
                let waits = age((OffsetDateTime::now_utc() - event.recorded_at).whole_seconds());
                let (at, reason) = (rfc3339(event.recorded_at), event.reason);
                format!(
                    "; the first is {}, recorded at {at} ({waits} ago): {reason}",
                    event.sequence
                )
            });
            let fact = format!("{count} could not be applied{}", oldest.unwrap_or_default());
            Finding::warn(CHECK, fact, commands.parked_list())
        }
        Err(error) => Finding::fail(CHECK, error_chain(&error), commands.doctor()),
    }]
}

/// Requests to fold a basket anew that nobody takes.
pub(super) async fn refolds(views: &Views, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "refolds";
    let looked = async {
        let mut waiting = views.waiting_refolds(REQUESTS_MAX).await?;
        if !waiting.is_empty() {
            tokio::time::sleep(TAKEN_WITHIN).await;
            let still = views.waiting_refolds(REQUESTS_MAX).await?;
            waiting.retain(|request| still.contains(request));
        }
        Ok::<_, ViewError>((waiting, views.projections().await?))
    };
    match looked.await {
        Ok((waiting, known)) => judge_refolds(CHECK, &waiting, &known, commands),
        Err(error) => vec![Finding::fail(CHECK, error_chain(&error), commands.doctor())],
    }
}

fn judge_refolds(
    check: &'static str,
    waiting: &[WaitingRefold],
    known: &Projections,
    commands: &Commands,
) -> Vec<Finding> {
    let building = known.building.as_ref().map(|building| building.version.to_string());
    let of = |wanted: &dyn Fn(&str) -> bool| waiting.iter().filter(|request| wanted(&request.version)).collect();
    let active = known.active.to_string();
    let now: Vec<&WaitingRefold> = of(&|version| version == active);
    // What is for a version that is being filled is done when that one is read.
    let never: Vec<&WaitingRefold> = of(&|version| version != active && Some(version) != building.as_deref());
    let told = |of: &[&WaitingRefold]| {
        let first = of.first().map(|request| request.basket.as_str()).unwrap_or_default();
        format!("{}, {first} first", counted(of.len() as u64, "request"))
    };
    let mut findings = Vec::new();
    if !now.is_empty() {
        let fact = format!("{} to fold a basket anew, and no projector takes it up", told(&now));
        findings.push(Finding::warn(check, fact, commands.readyz()));
    }
    if !never.is_empty() {
        let fact = format!("{} for baskets that are not read", told(&never));
        findings.push(Finding::warn(check, fact, commands.rebuild("--drop-old", None)));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, "no basket waits to be folded anew"));
    }
    findings
}

/// What the projector found when it folded some baskets anew.
pub(super) fn drift(drift: Option<u64>, commands: &Commands) -> Finding {
    const CHECK: &str = "drift";
    match drift {
        None => Finding::skipped(CHECK, "the process at this admin address projects nothing"),
        Some(0) => Finding::ok(
            CHECK,
            "no basket is other than the journal says, of those that were folded anew",
        ),
        Some(baskets) => {
            let fact = format!(
                "{} or its last update is not what the journal says",
                counted(baskets, "basket")
            );
            Finding::fail(CHECK, fact, commands.rebuild("--report drift.json", None)).first("names them all:")
        }
    }
}

/// A time span for a person.
fn age(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    indicatif::HumanDuration(Duration::from_secs(seconds)).to_string()
}
