//! A merchant's page with resclient, the library that pages use: it is a Node program (`tests/resclient`), which is asked over stdin what it shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Shoppers, basket_rid, open_baskets, place};
use crate::support::resgate::Resgate;
use crate::support::{Stack, event, path, session, skip, wait_for};

/// The oldest Node that will do.
const NODE: u32 = 20;

/// A folder with the page and what it needs; None where that cannot be had, which is then said loudly.
fn installed() -> Option<PathBuf> {
    let version = Program::new("env")
        .args(["node", "--version"])
        .env("PATH", path())
        .output()
        .ok();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = version.as_ref().and_then(|version| {
        let major = version.strip_prefix('v')?.split('.').next()?;
        major.parse::<u32>().ok()
    });
    if major.is_none_or(|major| major < NODE) {
        skip("node", &format!("there is no Node {NODE} or later on PATH"));
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resclient");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resclient");
    fs::create_dir_all(&folder).unwrap();
    let is_new = fs::read(folder.join("package-lock.json")).ok() != fs::read(source.join("package-lock.json")).ok();
    for name in ["package.json", "package-lock.json", "page.js"] {
        fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    // Written last by npm.
    if is_new || !folder.join("node_modules/.package-lock.json").exists() {
        let npm = Program::new("env")
            .args(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .env("PATH", path())
            .current_dir(&folder)
            .output();
        let fault = match npm {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(fault) = fault {
            // So that the next run does not take it for complete.
            let _ = fs::remove_file(folder.join("package-lock.json"));
            skip("node", &format!("npm cannot install resclient: {fault}"));
            return None;
        }
    }
    Some(folder)
}

/// A page that is open.
struct Page {
    child: Child,
    asks: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Page {
    async fn open(folder: &Path, url: &str, shop: &str) -> Self {
        let mut child = Command::new("env")
            .args(["node", "page.js", url, shop])
            .env("PATH", path())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut page = Self { child, asks, says };
        assert_eq!(page.says().await, json!({ "ready": true }));
        page
    }

    async fn says(&mut self) -> Value {
        let line = self.says.next_line().await.unwrap();
        serde_json::from_str(&line.expect("the page is open")).unwrap()
    }

    async fn ask(&mut self, command: &str) -> Value {
        self.asks.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        self.says().await
    }

    /// Waits until the page shows what the API says, and answers what it went through.
    async fn agrees(&mut self, service: &crate::support::Service, shop: &str) -> Value {
        wait_for("the page to show the shop as it is", async || {
            let truth = as_javascript(&open_baskets(service, shop).await);
            let seen = self.ask("see").await;
            let mut shown = as_javascript(&seen["baskets"]);
            for basket in shown.as_array_mut()? {
                // The test sets these by itself, and the API does not have them.
                basket["handled_by"] = Value::Null;
                basket["handled_until"] = Value::Null;
            }
            (shown == truth).then(|| seen["passed"].clone())
        })
        .await
    }

    /// Closes the page.
    async fn close(mut self) {
        drop(self.asks);
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// JSON whose numbers are all of the one kind that JavaScript has.
fn as_javascript(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(values) => values.iter().map(as_javascript).collect(),
        Value::Object(members) => {
            let members = members.iter();
            Value::Object(
                members
                    .map(|(name, value)| (name.clone(), as_javascript(value)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_page_follows_its_shop_through_the_end_of_its_gateway() {
    let stack = Stack::start().await;
    let Some(mut resgate) = Resgate::start(&stack).await else {
        return;
    };
    let Some(folder) = installed() else { return };
    let service = stack.service("serve").await;
    let shop = session();
    let mut shoppers = Shoppers::new(&shop, 5, fastrand::u64(..));
    for _ in 0..20 {
        shoppers.act(&service).await;
    }
    let mut page = Page::open(&folder, &resgate.url(), &shop).await;
    let passed = page.agrees(&service, &shop).await;
    assert_eq!(passed["connections"], 1);

    // Events, and the correction of a basket that is there all the time.
    let visit = session();
    let added = place(
        &service
            .publish(&shop, &event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5))
            .await,
    );
    service.basket(&shop, &visit, added).await;
    let mut quantity = 1;
    let mut correct = async || {
        quantity += 1;
        let asked =
            json!({ "author": "Ada", "reason": "counted", "quantity": { "product_id": 1, "quantity": quantity } });
        let url = format!("{}/v1/shops/{shop}/sessions/{visit}/corrections", service.http_url());
        let answer = reqwest::Client::new().post(url).json(&asked).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        quantity
    };
    for _ in 0..3 {
        for _ in 0..10 {
            shoppers.act(&service).await;
        }
        correct().await;
        page.agrees(&service, &shop).await;
    }
    let handled = page.ask(&format!("handle {visit} Ada")).await;
    assert_eq!(handled["result"]["handled_by"], "Ada", "{handled}");
    let refused = page.ask(&format!("handle {visit} Bob")).await;
    assert_eq!(refused, json!({ "error": "ezout.handled" }));

    // What happens while the gateway is away is there when it is back.
    resgate.kill().await;
    for _ in 0..20 {
        shoppers.act(&service).await;
    }
    correct().await;
    resgate.restart().await;
    let last = correct().await;
    for _ in 0..10 {
        shoppers.act(&service).await;
    }
    wait_for("the correction to be in its basket", async || {
        let seen = page.ask("see").await;
        let mut baskets = seen["baskets"].as_array()?.iter();
        let basket = baskets.find(|basket| basket["session_id"] == visit.as_str())?;
        (basket["item_count"] == last && basket["handled_by"] == "Ada").then_some(())
    })
    .await;
    let passed = page.agrees(&service, &shop).await;
    assert_eq!(passed["connections"], 2, "{passed}");
    assert_eq!(passed["ended"], json!([]), "{}", basket_rid(&shop, &visit));
    for what in ["added", "changed"] {
        assert!(passed[what].as_u64().unwrap() > 0, "{passed}");
    }
    page.close().await;
}
