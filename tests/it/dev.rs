//! `ezout dev` as somebody uses it who has never seen it: every line that it prints works as it stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ezout::tools::servers::free_port;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{binaries, path, skip, wait_for};

const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const BEARER: &str = "-H \"Authorization: Bearer $TOKEN\" ";
/// How a line begins that makes a token known, and one that follows a shop with Node.
const EXPORT: &str = "export TOKEN=";
const FOLLOWS: &str = "node --experimental-websocket -e ";
/// How long a line is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// `ezout dev` with everything on ports of its own.
struct Dev {
    // Its servers die with it.
    _process: Child,
    banner: String,
    log: PathBuf,
    http: String,
}

impl Dev {
    /// Starts it, and waits until it has said what to try.
    async fn start(folder: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let port = || free_port().unwrap();
        let log = folder.join("log");
        let http = format!("127.0.0.1:{}", port());
        let mut process = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                env!("CARGO_BIN_EXE_ezout"),
                "dev",
                "--data",
            ])
            .arg(folder.join("data"))
            .args(options)
            .env("EZOUT_NATS_URL", format!("nats://127.0.0.1:{}", port()))
            .env("EZOUT_NATS_MONITOR_URL", format!("http://127.0.0.1:{}", port()))
            .env(
                "EZOUT_MONGODB_URI",
                format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", port()),
            )
            .env("EZOUT_HTTP_ADDR", &http)
            .env("EZOUT_ADMIN_ADDR", format!("127.0.0.1:{}", port()))
            .env("EZOUT_RESGATE_ADDR", format!("127.0.0.1:{}", port()))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        while !banner.contains("Ctrl-C stops everything.") {
            let line = tokio::time::timeout(PATIENCE, said.next_line()).await;
            let line = line.ok().and_then(|line| line.unwrap());
            let line = line.unwrap_or_else(|| panic!("{banner}\n{}", fs::read_to_string(&log).unwrap()));
            banner += &(line + "\n");
        }
        Self {
            _process: process,
            banner,
            log,
            http,
        }
    }

    /// The lines to be typed, in their order.
    fn commands(&self) -> Vec<String> {
        let indented = self.banner.split("\n\n").filter(|part| part.starts_with("  "));
        let commands =
            indented.filter(|part| !part.trim_start().starts_with("http://") && !part.contains("  metrics  "));
        commands.map(|command| command.trim().to_owned()).collect()
    }

    /// Tries every line; `token` is that of the line that makes one known. Answers how many there were.
    async fn try_all(&self) -> usize {
        let mut token = String::new();
        let commands = self.commands();
        for command in &commands {
            if let Some(made) = command.strip_prefix(EXPORT) {
                made.clone_into(&mut token);
            } else if command.starts_with("curl ") {
                Self::ask(command, &token).await;
            } else if command.starts_with(FOLLOWS) {
                Self::follow(command, &token).await;
            } else if command.contains(" token ") {
                // Another one is as good for looking.
                let other = printed(command, "").await;
                let basket = commands.iter().find(|command| command.contains("/basket")).unwrap();
                Self::ask(basket, other.trim()).await;
            } else if command.contains(" tail ") {
                Self::tail(command, &commands[0]).await;
            } else {
                assert!(command.starts_with("go install "), "what is {command}?");
            }
        }
        commands.len()
    }

    /// Runs a line of curl, if it carries a token also without it.
    async fn ask(command: &str, token: &str) {
        // The basket, and the first of all events, come a moment later.
        wait_for(command, async || {
            let printed = printed(command, token).await;
            let stream = command.contains("/updates") && printed.contains("event: hello");
            (printed.ends_with("\n200") || stream).then_some(())
        })
        .await;
        if command.contains(BEARER) {
            let printed = printed(&command.replace(BEARER, ""), "").await;
            assert!(
                printed.ends_with("\n401"),
                "without a token {command}\nprints {printed}"
            );
        }
    }

    /// Runs the line that prints updates, until it has printed one.
    async fn tail(command: &str, sends: &str) {
        let (_child, mut lines) = following(command, "");
        let mut number = 200;
        let line = wait_for("an update", async || {
            number += 1;
            // Another action each time; the same would have no update.
            let printed = printed(
                &sends.replace("\"action_id\":101", &format!("\"action_id\":{number}")),
                "",
            )
            .await;
            assert!(printed.ends_with("\n200"), "{printed}");
            let line = tokio::time::timeout(Duration::from_millis(500), lines.next_line()).await;
            line.ok()?.unwrap()
        })
        .await;
        let update: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(update["shop_id"], SHOP);
    }

    /// Runs the line that follows the baskets with Node, until it has printed them.
    async fn follow(command: &str, token: &str) {
        let flag = Command::new("env")
            .args(["node", "--experimental-websocket", "-e", ""])
            .env("PATH", path())
            .output();
        if !flag.await.is_ok_and(|output| output.status.success()) {
            skip("node", "there is no Node 20.10 or later on PATH");
            return;
        }
        let (_child, mut lines) = following(command, token);
        loop {
            let line = tokio::time::timeout(PATIENCE, lines.next_line())
                .await
                .expect("a frame");
            let frame: Value = serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap();
            assert!(frame["error"].is_null(), "{frame}");
            if frame["result"]["collections"][format!("ezout.shop.{SHOP}.baskets")].is_array() {
                return;
            }
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// Runs a line in a shell, as its user would who has typed `export TOKEN=` before.
fn shell(command: &str, token: &str) -> Command {
    let mut shell = Command::new("sh");
    // The status is the last line of what curl prints.
    let curl = "curl() { command curl -sS --max-time 5 -w '\\n%{http_code}' \"$@\"; }";
    shell
        .args(["-c", &format!("{curl}\n{command}\n")])
        .env("TOKEN", token)
        .env("PATH", path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    shell
}

/// What a line prints that ends.
async fn printed(command: &str, token: &str) -> String {
    let output = shell(command, token).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a line prints that goes on.
fn following(command: &str, token: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut shell = shell(&format!("exec {command}"), token);
    let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[tokio::test]
async fn the_lines_that_dev_prints_work_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path(), &[], &[]).await;
    let lines = dev.try_all().await;
    assert!(lines > 5, "{}", dev.banner);

    // The token is in the links as well, and in nothing that is kept.
    let (_, token) = dev.banner.split_once(EXPORT).unwrap();
    let token = token.lines().next().unwrap();
    assert!(
        dev.banner
            .contains(&format!("http://{}/docs#token={token}\n", dev.http))
    );
    assert!(!dev.log().contains(token));
    // What is to be opened comes first, and is there.
    let board = format!("http://{}/shops/{SHOP}", dev.http);
    let (first, _) = dev.banner.split_once("\n\n  to try").unwrap();
    assert!(
        first.contains(&format!("Open this:\n\n  {board}#token={token}\n")),
        "{first}"
    );
    let page = reqwest::get(&board).await.unwrap();
    assert!(page.status() == 200 && page.text().await.unwrap().contains("/app.js"));
    let config: Value = reqwest::get(format!("http://{}/config.json", dev.http))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&config["auth"]["kind"], &config["auth"]["shop"]),
        (&Value::from("dev"), &Value::from(SHOP))
    );
    assert_eq!(config["resgate"].is_object(), binaries().resgate.is_some());
    // The keys are with the data.
    assert!(folder.path().join("data/keys/private.pem").exists());
    if binaries().resgate.is_none() {
        skip(
            "resgate",
            "there is no resgate 1.8 on PATH, so its lines were not tried",
        );
    }
}

#[tokio::test]
async fn the_lines_of_dev_carry_a_token_where_sending_needs_one_and_none_where_nobody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("my keys");
    let environment = [
        ("EZOUT_AUTH_ANONYMOUS", "none"),
        ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap()),
    ];
    let dev = Dev::start(folder.path(), &["--demo"], &environment).await;
    assert!(dev.banner.contains("Simulated shoppers are shopping in it"));
    dev.try_all().await;
    assert!(keys.join("private.pem").exists());
    assert!(!folder.path().join("data/keys").exists());
    // Their shops are named.
    let (_, token) = dev.banner.split_once(EXPORT).unwrap();
    let shop = reqwest::Client::new().get(format!("http://{}/v1/shops/{SHOP}", dev.http));
    let shop = shop.bearer_auth(token.lines().next().unwrap());
    wait_for("the name of the demo's shop", async || {
        let shop: Value = shop.try_clone()?.send().await.ok()?.json().await.ok()?;
        (shop["name"] == "Harbour Street" && shop["currency"] == "EUR").then_some(())
    })
    .await;
    // The simulated shoppers are let in as well: their shops have baskets.
    let (_, rest) = dev.banner.split_once("metrics            ").unwrap();
    let metrics = rest.lines().next().unwrap();
    wait_for("a simulated shopper", async || {
        let metrics = reqwest::get(metrics).await.ok()?.text().await.ok()?;
        let recorded = metrics
            .lines()
            .find_map(|line| line.strip_prefix("ezout_received_events_total{outcome=\"recorded\"} "))?;
        // More than the lines above have sent.
        (recorded.parse::<f64>().ok()? > 50.0).then_some(())
    })
    .await;
    drop(dev);

    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path(), &[], &[("EZOUT_AUTH", "off")]).await;
    assert!(!dev.banner.to_lowercase().contains("token"), "{}", dev.banner);
    dev.try_all().await;
}

#[tokio::test]
async fn where_nobody_is_asked_resgate_serves_this_machine_only() {
    if binaries().resgate.is_none() {
        return skip("resgate", "there is no resgate on PATH");
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ezout"))
        .args(["dev", "--data"])
        .arg(folder.path().join("data"))
        .env("EZOUT_AUTH", "off")
        .env("EZOUT_RESGATE_ADDR", format!("0.0.0.0:{}", free_port().unwrap()))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let said = crate::support::refused(&output);
    assert!(said.contains("EZOUT_AUTH=off lets everybody see everything"), "{said}");
    assert!(said.contains("EZOUT_RESGATE_ADDR"), "{said}");
}
