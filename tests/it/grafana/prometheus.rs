//! A real Prometheus: its tool, and the server with the rules and the scrape configuration of `grafana/`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ezout::tools::servers::free_port;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::{place, read};
use crate::support::{all_printed, path, skip, wait_for};

/// Where a program of Prometheus is; None where there is none, which is then said loudly, and is a failure with
/// `EZOUT_TEST_REQUIRE=prometheus`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = path();
    let folders = path.split(':').map(Path::new);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let why = format!("there is no {name} on PATH; `servers/install --with-prometheus` brings it");
        skip("prometheus", &why);
    }
    found
}

/// Runs promtool in `grafana/`; what it finds wrong fails the test.
pub async fn promtool(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(place("")).output().await.unwrap();
    let printed = all_printed(&output);
    assert!(output.status.success(), "promtool {}:\n{printed}", arguments.join(" "));
    printed
}

/// The configuration of `grafana/prometheus.yml`, with these targets and the rules of this folder, every second.
pub fn configuration(targets: &[(&str, &str)], rules: &Path) -> String {
    let mut here = String::new();
    let mut job = String::new();
    let mut inside = None;
    for line in read("prometheus.yml").lines() {
        let depth = line.len() - line.trim_start().len();
        if inside.is_some_and(|outside| depth > outside) {
            continue;
        }
        inside = None;
        if let Some(name) = line.trim().strip_prefix("- job_name: ") {
            name.clone_into(&mut job);
        }
        match line.trim() {
            "dns_sd_configs:" => {
                inside = Some(depth);
                let (_, target) = targets
                    .iter()
                    .find(|(name, _)| *name == job)
                    .expect("each job has a target");
                writeln!(here, "    static_configs: [{{ targets: ['{target}'] }}]").unwrap();
            }
            // The address of the test is for this machine and asks for no token.
            "authorization:" => inside = Some(depth),
            // Distributions still have a Prometheus that does not know it; see `uncompressed`.
            "enable_compression: false" => {}
            _ => {
                here += &line.replace("_interval: 15s", "_interval: 1s");
                here.push('\n');
            }
        }
    }
    here.replace("rules/", &format!("{}/", rules.display()))
}

/// What a Prometheus from 2.49 on gets with `enable_compression: false` at the address that is answered: the metrics of
/// `url`, asked for without compression. It ends with the runtime of the test.
pub async fn uncompressed(url: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut asking, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let (Ok(_), Ok(answer)) = tokio::join!(asking.read(&mut request), reqwest::get(&url)) else {
                continue;
            };
            let kind = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
            let body = answer.text().await.unwrap();
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            let _ = asking.write_all((head + &body).as_bytes()).await;
        }
    });
    address
}

/// A server of a test's own.
pub struct Prometheus {
    _child: Child,
    url: String,
}

impl Prometheus {
    /// Starts one that scrapes these targets, each the name of a job and an address.
    pub async fn start(program: &Path, folder: &Path, targets: &[(&str, &str)]) -> Self {
        Self::start_with(program, folder, targets, &place("rules")).await
    }

    /// Starts one with the rules of another folder.
    pub async fn start_with(program: &Path, folder: &Path, targets: &[(&str, &str)], rules: &Path) -> Self {
        let folder = folder.join("prometheus");
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("prometheus.yml");
        fs::write(&config, configuration(targets, rules)).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("http://{address}");
        let ready = format!("{url}/-/ready");
        wait_for("Prometheus", async || {
            let answer = reqwest::get(&ready).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Self { _child: child, url }
    }

    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), parameters).unwrap();
        let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// What a query finds now: for each series its labels and its value. What is no number is not counted.
    pub async fn find(&self, query: &str) -> Result<Vec<(Value, f64)>, String> {
        let mut data = self.ask("query", &[("query", query)]).await?;
        let found = data["result"].as_array_mut().ok_or("no list")?;
        let value = |one: &mut Value| {
            let value: f64 = one["value"][1].as_str()?.parse().ok()?;
            value.is_finite().then(|| (one["metric"].take(), value))
        };
        Ok(found.iter_mut().filter_map(value).collect())
    }

    /// Every rule, as it was understood, and how its last evaluation went.
    pub async fn rules(&self) -> Vec<Value> {
        let data = self.ask("rules", &[]).await.unwrap();
        let groups = data["groups"].as_array().unwrap().iter();
        groups
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }

    /// The name of everything that was scraped or recorded.
    pub async fn names(&self) -> Vec<String> {
        let names = self.ask("label/__name__/values", &[]).await.unwrap();
        serde_json::from_value(names).unwrap()
    }
}
