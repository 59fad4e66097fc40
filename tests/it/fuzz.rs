//! A schema fuzzer asks everything that `/openapi.json` allows, and much that it does not: no answer is one that is not documented.
//!
//! `make fuzz` fetches the fuzzer and asks for as long as there is time in continuous integration; where it
//! is there, `make test` asks a little. `tests/fuzz` says how it asks.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::Client;
use tokio::process::Command;

use crate::support::{Stack, chosen, printed, session, skip, wait_for};

/// Where `servers/install --with-fuzzer` puts it.
const PROGRAM: &str = ".servers/bin/schemathesis";
/// Requests for each operation, phase and kind, where nobody says.
const EXAMPLES: &str = "20";
/// Longest run.
const PATIENCE: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn no_request_gets_an_answer_that_is_not_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(PROGRAM).exists() {
        skip(
            "schemathesis",
            &format!("{PROGRAM} is not there; `make fuzz` brings it"),
        );
        return;
    }
    let stack = Stack::start().await;
    // Whoever asks may do everything, and the fuzzer looks whether that is so without the token as well.
    let keys = stack.folder().join("keys").display().to_string();
    let environment = [
        ("EZOUT_HEARTBEAT", "1s"),
        ("EZOUT_AUTH", "dev"),
        ("EZOUT_AUTH_DEV_KEYS", &*keys),
    ];
    let service = stack.service_with("serve", &environment).await;
    let token = stack.ezout_with(&["token", "--role", "admin", "--shop", "*"], &environment);
    let token = printed(&token.await).trim().to_owned();
    wait_for("the rights to be known", async || {
        let summary = format!("{}/v1/shops/{}/summary", service.http_url(), session());
        let answer = Client::new().get(summary).bearer_auth(&token).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let admin = service.admin_url();
    let (_, admin_port) = admin.rsplit_once(':').unwrap();
    let fuzzing = Command::new(root.join(PROGRAM))
        .arg("--config-file")
        .arg(root.join("tests/fuzz/schemathesis.toml"))
        .args(["--no-color", "run"])
        .arg(format!("{}/openapi.json", service.http_url()))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .arg("--max-examples")
        .arg(chosen("EZOUT_FUZZ_EXAMPLES").unwrap_or_else(|| EXAMPLES.to_owned()))
        .env("EZOUT_FUZZ_HOOKS", root.join("tests/fuzz/hooks.py"))
        .env("EZOUT_FUZZ_ADMIN_PORT", admin_port)
        // What it keeps for its next run is of no use here.
        .current_dir(stack.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let fuzzed = tokio::time::timeout(PATIENCE, fuzzing)
        .await
        .unwrap_or_else(|_| panic!("the fuzzer was not done within {PATIENCE:?}"))
        .unwrap();
    let report = String::from_utf8_lossy(&fuzzed.stdout);
    assert!(
        fuzzed.status.success(),
        "{report}{}",
        String::from_utf8_lossy(&fuzzed.stderr)
    );
    let _ = writeln!(std::io::stderr(), "{report}");

    // What it recorded went all the way.
    let recorded = service
        .metric("ezout_received_events_total{outcome=\"recorded\"}")
        .await;
    assert!(recorded > Some(20.0), "only {recorded:?} events were recorded");
    assert_eq!(service.metric("ezout_parked_events").await, Some(0.0));
    assert_eq!(service.readiness().await.unwrap()["ready"], true);
    let log = std::fs::read_to_string(&service.log).unwrap();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
