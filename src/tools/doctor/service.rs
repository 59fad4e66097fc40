//! The service as its clients and its supervisor see it.

use std::time::Instant;

use reqwest::{Client, Response};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::clocks::Clock;
use super::commands::{Commands, curl};
use super::report::Finding;
use super::{Args, LIMIT, reachable};

/// What the service said.
pub(super) struct Service {
    pub(super) findings: Vec<Finding>,
    pub(super) clock: Option<Clock>,
    /// Baskets that are not what the journal says, where this process looks for some.
    pub(super) drift: Option<u64>,
}

/// What the admin address said.
#[derive(Default)]
struct Told {
    findings: Vec<Finding>,
    clock: Option<Clock>,
    /// The process projects.
    projects: bool,
}

#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    name: String,
}

pub(super) async fn check(args: &Args, http: &Client, commands: &Commands) -> Service {
    let (address, admin) = (reachable(&args.http_addr), reachable(&args.admin_addr));
    let (api, readiness, metrics) = tokio::join!(
        api(http, &address, commands),
        readiness(http, &admin, args.admin_token.as_deref(), commands),
        metrics(http, &admin, args.admin_token.as_deref()),
    );
    let mut findings = vec![api];
    findings.extend(readiness.findings);
    findings.push(build(metrics.as_deref(), &admin, commands));
    let metrics = metrics.unwrap_or_default();
    let drift = series(&metrics, "ezout_drift_baskets");
    Service {
        findings,
        clock: readiness.clock,
        drift: drift.filter(|_| readiness.projects),
    }
}

async fn get(http: &Client, url: &str, token: Option<&str>) -> Result<Response, reqwest::Error> {
    let mut request = http.get(url).timeout(LIMIT);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await
}

/// An error of a request, with what lies below it, which is what helps.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

async fn api(http: &Client, address: &str, commands: &Commands) -> Finding {
    const CHECK: &str = "api";
    let url = format!("http://{address}/");
    let begun = Instant::now();
    let answer = match get(http, &url, None).await {
        Ok(answer) => answer,
        Err(error) => {
            let fact = format!("nothing answers at http://{address}: {}", plain(error));
            return Finding::fail(CHECK, fact, commands.serve());
        }
    };
    let (status, took) = (answer.status(), begun.elapsed());
    let is_ours = answer.text().await.is_ok_and(|text| text.contains("EzOut"));
    if !status.is_success() || !is_ours {
        let fact = format!("what answers at http://{address} ({status}) is not this service");
        return Finding::fail(CHECK, fact, curl(&url));
    }
    Finding::ok(CHECK, format!("http://{address} answers in {} ms", took.as_millis()))
}

async fn readiness(http: &Client, address: &str, token: Option<&str>, commands: &Commands) -> Told {
    const CHECK: &str = "readiness";
    let mut told = Told::default();
    let asked = OffsetDateTime::now_utc();
    let answer = match get(http, &format!("http://{address}/readyz"), token).await {
        Ok(answer) => answer,
        Err(error) => {
            let fact = format!("nothing answers at http://{address}/readyz: {}", plain(error));
            told.findings.push(Finding::fail(CHECK, fact, commands.serve()));
            return told;
        }
    };
    let answered = OffsetDateTime::now_utc();
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    // The date of HTTP is that of mail, but for the name of the zone.
    let date = date.and_then(|date| OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok());
    told.clock = date.map(|date| Clock::read("the service".to_owned(), asked, date, answered).of_whole_seconds());
    let Ok(readiness) = answer.json::<Readiness>().await else {
        let fact = format!("what answers at http://{address}/readyz is not this service");
        told.findings.push(Finding::fail(CHECK, fact, commands.readyz()));
        return told;
    };
    if readiness.checks.is_empty() {
        let fact = format!("http://{address} tells its checks only to those who send its token");
        let next = commands.doctor();
        told.findings
            .push(Finding::warn(CHECK, fact, next).first("with EZOUT_ADMIN_TOKEN as the service has it"));
        return told;
    }
    let names: Vec<&str> = readiness.checks.iter().map(|check| check.name.as_str()).collect();
    told.projects = names.contains(&"projector");
    if readiness.ready {
        let fact = format!("ready: {}", names.join(", "));
        told.findings.push(Finding::ok(CHECK, fact));
    }
    let fail = |reason: &String| Finding::fail(CHECK, reason.clone(), commands.readyz());
    told.findings.extend(readiness.reasons.iter().map(fail));
    let warn = |warning: &String| Finding::warn(CHECK, warning.clone(), commands.readyz());
    told.findings.extend(readiness.warnings.iter().map(warn));
    told
}

async fn metrics(http: &Client, address: &str, token: Option<&str>) -> Option<String> {
    let answer = get(http, &format!("http://{address}/metrics"), token).await.ok()?;
    answer.error_for_status().ok()?.text().await.ok()
}

fn series(metrics: &str, name: &str) -> Option<u64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value?.parse().ok()
}

/// Whether the service is of the same version as this program, whose migrations and settings it is compared with.
fn build(metrics: Option<&str>, address: &str, commands: &Commands) -> Finding {
    const CHECK: &str = "version";
    let own = env!("CARGO_PKG_VERSION");
    let Some(metrics) = metrics else {
        return Finding::skipped(CHECK, format!("http://{address}/metrics does not answer"));
    };
    let told = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ezout_build_info{version=\"")?.split('"').next());
    match told {
        Some(version) if version == own => Finding::ok(CHECK, format!("the service is {own}, as this program is")),
        other => {
            let other = other.map_or_else(|| "older than versions that tell theirs".to_owned(), str::to_owned);
            let fact = format!("the service is {other} and this program is {own}, so they may want different things");
            Finding::warn(CHECK, fact, commands.doctor()).first("with the program that the service runs")
        }
    }
}
