//! Every query finds something: a real Prometheus scrapes a running system under load, and is asked for each panel and each rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ezout::tools::simulate::shop_of;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::dashboards::dashboards;
use super::prometheus::{Prometheus, configuration, program, promtool, uncompressed};
use super::{files, place};
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, event, printed, session, wait_for};

/// What a rate looks back over, which Grafana chooses by the time range.
const RATE_INTERVAL: &str = "5m";
/// How long everything may take to be scraped and computed.
const PATIENCE: Duration = Duration::from_mins(2);

/// Series that no panel and no rule uses, by how their names begin, and why.
const NOT_USED: [(&str, &str); 7] = [
    ("ALERTS_FOR_STATE", "Prometheus's own note of when an alert began"),
    ("go_info", "the version of Go in Resgate"),
    ("resgate_info", "the version of Resgate"),
    ("scrape_", "how scraping itself went"),
    ("process_threads", "fixed by the number of processors"),
    (
        "process_virtual_memory_bytes",
        "says nothing that resident memory does not",
    ),
    (
        "resgate_ws_connections_total",
        "how many there were; the panels show how many there are",
    ),
];

#[tokio::test]
async fn the_rules_are_rules_and_fire_when_they_should() {
    let Some(tool) = program("promtool") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    std::fs::write(
        &config,
        configuration(&[("ezout", "127.0.0.1:1"), ("resgate", "127.0.0.1:2")], &place("rules")),
    )
    .unwrap();
    promtool(&tool, &["check", "config", config.to_str().unwrap()]).await;
    let tests = files("rules/tests", "yml");
    let rules = files("rules", "yml");
    for name in rules.keys() {
        promtool(&tool, &["check", "rules", &format!("rules/{name}.yml")]).await;
    }
    let mut cases = BTreeMap::<String, (u32, u32)>::new();
    for (name, path) in &tests {
        promtool(&tool, &["test", "rules", &format!("rules/tests/{name}.yml")]).await;
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(alert) = line.strip_prefix("alertname: ") else {
                continue;
            };
            let (firing, quiet) = cases.entry(alert.to_owned()).or_default();
            match lines[at + 1] {
                "exp_alerts: []" => *quiet += 1,
                _ => *firing += 1,
            }
        }
    }
    let alerts = super::read("rules/alerts.yml");
    for alert in super::said(&alerts, "alert:") {
        let (firing, quiet) = cases.get(alert).copied().unwrap_or_default();
        assert!(
            firing > 0 && quiet > 0,
            "{alert} has {firing} cases in which it fires, and {quiet} in which it does not"
        );
    }
    assert_eq!(
        cases.len(),
        alerts.matches("- alert: ").count() - 4,
        "the levels have two rules each"
    );
}

/// A system with somebody who does each thing that is counted.
struct Busy {
    // Dropped before the servers' folder, which has its log.
    resgate: Resgate,
    service: Service,
    stack: Stack,
    keys: String,
}

impl Busy {
    async fn start() -> Option<Self> {
        let stack = Stack::start().await;
        let resgate = Resgate::start(&stack).await?;
        let keys = stack.folder().join("keys").display().to_string();
        let shown = shop_of(0).to_string();
        let environment = [
            ("EZOUT_SHOP_FIGURES", &*shown),
            ("EZOUT_AUTH", "dev"),
            ("EZOUT_AUTH_DEV_KEYS", &*keys),
            ("EZOUT_EDITS_PER_MINUTE", "60"),
            ("EZOUT_SCRUB_PER_MINUTE", "600"),
            ("EZOUT_HEARTBEAT", "1s"),
        ];
        let service = stack.service_with("serve", &environment).await;
        Some(Self {
            resgate,
            service,
            stack,
            keys,
        })
    }

    /// A Prometheus that has scraped it once: what is counted once has to be seen before, or it was never seen to change.
    async fn scraped(&self, server: &Path) -> Prometheus {
        let admin_url = self.service.admin_url();
        let metrics_url = self.resgate.server.metrics_url();
        // Why grafana/prometheus.yml asks Resgate for nothing compressed: a writer that it uses again sets the headers of the
        // answer before. Where this never comes, it need not any more.
        wait_for("an answer of Resgate that does not say what it is", async || {
            let asked = reqwest::Client::new()
                .get(&metrics_url)
                .header("accept-encoding", "gzip");
            let answer = asked.send().await.ok()?;
            (!answer.headers().contains_key("content-type")).then_some(())
        })
        .await;
        let resgate = uncompressed(metrics_url).await;
        let targets = [
            ("ezout", admin_url.trim_start_matches("http://")),
            ("resgate", &*resgate),
        ];
        let prometheus = Prometheus::start(server, self.stack.folder(), &targets).await;
        wait_for("a first scrape", async || {
            let up = prometheus.find("sum(up)").await.ok()?;
            (up.first()?.1 >= 2.0).then_some(())
        })
        .await;
        prometheus
    }

    /// Shoppers, viewers, and each thing once.
    async fn work(&self) {
        let admin = self.token(&["--role", "admin", "--shop", "*"]).await;
        let summary = format!("{}/v1/shops/{}/summary", self.service.http_url(), session());
        wait_for("the rights to be known", async || {
            let answer = reqwest::Client::new()
                .get(&summary)
                .bearer_auth(&admin)
                .send()
                .await
                .ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        let viewers = [0, 1].map(|number| shop_of(number).to_string());
        let _viewing = [
            self.view(&viewers[0], &admin).await,
            self.view(&viewers[1], &admin).await,
        ];
        let (http_url, stack) = (self.service.http_url(), &self.stack);
        let simulate = [
            "simulate",
            "--url",
            &http_url,
            "--shoppers",
            "40",
            "--rate",
            "100",
            "--for",
            "20s",
            "--seed",
            "7",
            "--token",
            &admin,
        ];
        let (simulated, ()) = tokio::join!(stack.ezout(&simulate), self.do_each_thing(&admin));
        printed(&simulated);
    }

    async fn token(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = ["token"].iter().chain(arguments).copied().collect();
        let environment = [("EZOUT_AUTH_DEV_KEYS", &*self.keys)];
        let made = self.stack.ezout_with(&arguments, &environment);
        printed(&made.await).trim().to_owned()
    }

    /// A viewer who takes what comes until sent away.
    async fn view(&self, shop: &str, token: &str) -> tokio::task::JoinHandle<()> {
        let url = format!("{}/v1/shops/{shop}/updates", self.service.http_url());
        let asked = reqwest::Client::new().get(url).bearer_auth(token);
        let mut answer = asked.send().await.unwrap().error_for_status().unwrap();
        let says = reqwest::Client::new()
            .post(format!("{}/v1/shops/{shop}/seen", self.service.http_url()))
            .bearer_auth(token);
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = answer.chunk().await {
                if let Some(sequence) = sequence_in(&String::from_utf8_lossy(&chunk)) {
                    let seen = says.try_clone().unwrap().json(&json!({ "sequence": sequence }));
                    // Whoever is sent away says nothing more.
                    let _ = seen.send().await;
                }
            }
        })
    }

    /// A correction by the API and one by hand, batches, refusals, a revocation, and a look through Resgate.
    async fn do_each_thing(&self, admin: &str) {
        let http = reqwest::Client::new();
        let (shop, visit) = (session(), session());
        let base = format!("{}/v1/shops/{shop}", self.service.http_url());
        let lines: Vec<String> = (1..=300)
            .map(|number| event(&shop, &visit, number, "ADD", 1, 1.5, 1.5).to_string())
            .collect();
        let events = http.post(format!("{base}/events")).bearer_auth(admin);
        let events = events
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        assert_eq!(events.send().await.unwrap().status(), 200);
        let basket = format!("{base}/sessions/{visit}/basket");
        let corrected = async |count: usize| {
            wait_for("the correction", async || {
                let got = http.get(&basket).bearer_auth(admin).send().await.ok()?;
                let got: Value = got.json().await.ok()?;
                (got["corrections"].as_array()?.len() == count).then_some(())
            })
            .await;
        };
        wait_for("the basket", async || {
            let got = http.get(&basket).bearer_auth(admin).send().await.ok()?;
            got.status().is_success().then_some(())
        })
        .await;
        let asked = json!({ "author": "Ada", "reason": "x", "adjustment": { "by": 1 } });
        let filed = http
            .post(format!("{base}/sessions/{visit}/corrections"))
            .bearer_auth(admin);
        assert_eq!(filed.json(&asked).send().await.unwrap().status(), 202);
        corrected(1).await;
        let baskets = self.stack.database().await.collection::<Document>("baskets");
        let edit = doc! { "$set": { "status": "cancelled" } };
        baskets
            .update_one(doc! { "_id": format!("{shop}.{visit}") }, edit)
            .await
            .unwrap();
        corrected(2).await;

        for _ in 0..5 {
            let refused = http.get(format!("{base}/summary")).bearer_auth("no.token.atall").send();
            assert_eq!(refused.await.unwrap().status(), 401);
        }
        let eve = self
            .token(&["--role", "merchant", "--shop", &shop, "--subject", "eve"])
            .await;
        let viewing = self.view(&shop, &eve).await;
        printed(&self.stack.ezout(&["revoke", "eve"]).await);
        viewing.await.unwrap();

        let through = format!(
            "{}/ezout/shop/{shop}/baskets",
            self.resgate.server.api_url().trim_end_matches('/')
        );
        let seen = http.get(through).bearer_auth(admin).send().await.unwrap();
        assert!(seen.status().is_success(), "{}", seen.status());
    }
}

/// What a query finds, as one word.
fn shown(found: &[(Value, f64)]) -> String {
    let values = found.iter().map(|(labels, value)| {
        let labels = labels
            .as_object()
            .unwrap()
            .iter()
            .filter(|(label, _)| *label != "__name__");
        let name = labels
            .filter_map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        let value = if *value == 0.0 || value.abs() >= 100.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.4}")
        };
        if name.is_empty() {
            value
        } else {
            format!("{name} {value}")
        }
    });
    let all: Vec<String> = values.collect();
    match all.len() {
        0 => "NOTHING".to_owned(),
        1..=6 => all.join(", "),
        more => format!("{}, and {} more", all[..6].join(", "), more - 6),
    }
}

/// The selectors of series in an expression: names with what is in braces behind them.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '[') {
        rest = &rest[begin..];
        if let Some(close) = [('"', '"'), ('[', ']')]
            .into_iter()
            .find(|(open, _)| rest.starts_with(*open))
        {
            let end = rest[1..].find(close.1).unwrap();
            rest = &rest[end + 2..];
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let braces = behind
            .strip_prefix('{')
            .map_or(0, |inside| inside.find('}').unwrap() + 2);
        let ours = ["ezout_", "ezout:", "process_", "resgate_", "go_"];
        if name == "up" || ours.iter().any(|start| name.starts_with(start)) {
            found.insert(format!("{name}{}", &behind[..braces]));
        }
        rest = &behind[braces..];
    }
    found
}

/// What is asked: the query, and where it comes from.
fn asked(rules: &[Value]) -> Vec<(String, String)> {
    let mut asked = Vec::new();
    for dashboard in dashboards() {
        for panel in &dashboard.panels {
            for query in &panel.queries {
                let expression = query.expression.replace("$__rate_interval", RATE_INTERVAL);
                let legend = if panel.queries.len() > 1 && !query.legend.starts_with("{{") {
                    format!(" ({})", query.legend)
                } else {
                    String::new()
                };
                asked.push((format!("{}: {}{legend}", dashboard.name, panel.title), expression));
            }
        }
    }
    for rule in rules {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        if rule["type"] == "recording" {
            asked.push((format!("rule {name}"), name.to_owned()));
        } else {
            // An alert that is quiet finds nothing; what it looks at is there all the same.
            asked.extend(
                selectors(query)
                    .into_iter()
                    .map(|selector| (format!("alert {name}: {selector}"), selector)),
            );
        }
    }
    asked
}

/// What a query found, after where it comes from and the query itself.
type Answer = (String, String, Vec<(Value, f64)>);

/// Every rule, and what every query finds once each has found something, or after long enough.
async fn answers(prometheus: &Prometheus) -> (Vec<Value>, Vec<Answer>) {
    let begun = Instant::now();
    loop {
        let rules = prometheus.rules().await;
        let mut results = Vec::new();
        for (place, query) in asked(&rules) {
            let found = prometheus
                .find(&query)
                .await
                .unwrap_or_else(|error| panic!("{place}: {query}: {error}"));
            results.push((place, query, found));
        }
        let evaluated = rules.iter().all(|rule| rule["health"] != "unknown");
        let found = results.iter().all(|(_, _, found)| !found.is_empty());
        if (evaluated && found) || begun.elapsed() > PATIENCE {
            return (rules, results);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Says how many panels and rules there are, and what each shows.
fn print(rules: &[Value], results: &[Answer]) {
    let mut report = String::new();
    for (place, _, found) in results.iter().filter(|(place, ..)| !place.starts_with("alert")) {
        writeln!(report, "{place}: {}", shown(found)).unwrap();
    }
    let (boards, panels) = (
        dashboards().len(),
        dashboards().iter().map(|board| board.panels.len()).sum::<usize>(),
    );
    let queries = results.len();
    writeln!(
        report,
        "{boards} dashboards, {panels} panels, {} rules, {queries} queries",
        rules.len()
    )
    .unwrap();
    std::io::stdout().write_all(report.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_every_panel_and_rule_finds_something_in_a_busy_system() {
    let Some(server) = program("prometheus") else { return };
    let Some(busy) = Busy::start().await else { return };
    let prometheus = busy.scraped(&server).await;
    busy.work().await;
    let (rules, results) = answers(&prometheus).await;
    print(&rules, &results);
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let empty: Vec<String> = results
        .iter()
        .filter(|(_, _, found)| found.is_empty())
        .map(|(place, query, _)| format!("{place}: {query}"))
        .collect();
    assert!(
        empty.is_empty(),
        "{} queries find nothing:\n{}",
        empty.len(),
        empty.join("\n")
    );
    // How long something takes on the machine of a test says nothing.
    let is_timed =
        |name: &str| name.ends_with("BudgetBurns") || ["BasketsLag", "LeasesLost", "RevocationSlow"].contains(&name);
    let firing = rules.iter().filter(|rule| rule["state"] == "firing");
    let firing: Vec<&Value> = firing
        .filter(|rule| !is_timed(rule["name"].as_str().unwrap()))
        .collect();
    assert!(firing.is_empty(), "a system that is well has alerts: {firing:?}");
    every_series_is_used(&prometheus.names().await, &rules);
}

fn every_series_is_used(names: &[String], rules: &[Value]) {
    let panels = dashboards();
    let queries = panels
        .iter()
        .flat_map(|dashboard| &dashboard.panels)
        .flat_map(|panel| &panel.queries);
    let mut used = BTreeSet::new();
    for expression in queries
        .map(|query| query.expression.as_str())
        .chain(rules.iter().filter_map(|rule| rule["query"].as_str()))
    {
        used.extend(
            selectors(expression)
                .iter()
                .map(|selector| family(selector.split('{').next().unwrap())),
        );
    }
    used.extend(["ALERTS".to_owned()]);
    let has = |name: &str| used.contains(&family(name));
    let listed = |name: &str| NOT_USED.iter().any(|(start, _)| name.starts_with(start)) || name.ends_with("_created");
    let unused: Vec<&String> = names.iter().filter(|name| !has(name) && !listed(name)).collect();
    assert!(unused.is_empty(), "no panel and no rule uses {unused:?}");
    for (start, why) in NOT_USED.iter().filter(|(start, _)| !start.ends_with([':', '_'])) {
        assert!(!has(start), "{start} is used, and listed as not ({why})");
    }
    // What has a label that is not there from the start is in no scrape until it is, so the source is asked as well.
    let source = std::fs::read_to_string(place("../src/metrics.rs")).unwrap();
    let exported = source
        .split('"')
        .filter(|text| text.starts_with("ezout_") && !text.contains(['{', ' ']));
    let unused: Vec<&str> = exported.filter(|name| !has(name)).collect();
    assert!(unused.is_empty(), "no panel and no rule uses {unused:?}");
}

/// The event that an update of a stream tells of, which stands whole in what came.
fn sequence_in(text: &str) -> Option<u64> {
    let update = text.split("event: update\n").nth(1)?;
    let digits = update.split("\"sequence\":").nth(1)?.split(',').next()?;
    digits.parse().ok()
}

/// A series without what a histogram puts behind its name.
fn family(name: &str) -> String {
    let ends = ["_bucket", "_count", "_sum"];
    ends.iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
        .to_owned()
}

#[test]
fn selectors_are_found_where_they_stand() {
    let found = selectors(r#"sum by (door) (rate(ezout_a_total{x=~"up|go_b"}[5m])) / up > 1 or ezout:c:d"#);
    let wanted = ["ezout:c:d", r#"ezout_a_total{x=~"up|go_b"}"#, "up"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}
