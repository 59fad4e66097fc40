//! Resgate as a child: the gateway between browsers and NATS, with the settings in `nats/resgate.json`.
//!
//! It keeps nothing on disk, and it ends with code 1 whenever it loses NATS and whenever NATS is not there at its
//! start: whoever runs one starts it after nats-server, and again when it ends.
//!
//! What the settings are for: requests may take as long as a slow read of MongoDB (`requestTimeout`), a burst of
//! updates does not overrun it (`bufferSize`, since a Resgate that is overrun ends), and neither a reset nor a long
//! list asks for everything at once (`resetThrottle`, `referenceThrottle`). Production names its origins
//! (`allowOrigin`), since an answer to any origin carries no credentials.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Map, Value};

use super::{ServersError, child::Child, free_port, put_private};

const SETTINGS: &str = include_str!("../../../nats/resgate.json");

/// It starts in some 10 ms, as it has nothing to recover.
const READY: Duration = Duration::from_secs(30);
/// What it writes last.
const STOPPED: &str = "[INF] Server stopped";
/// It waits up to ten seconds for clients to close their sockets, and has nothing else to do.
const STOP: Duration = Duration::from_secs(3);

/// How to start a Resgate.
#[derive(Debug, Clone)]
pub struct ResgateOptions {
    /// Folder of its settings; created where it is missing.
    pub data: PathBuf,
    /// Where its nats-server is.
    pub nats_url: String,
    /// Address and port for clients; None takes a free port of loopback.
    pub addr: Option<SocketAddr>,
    /// Port for metrics over HTTP, at the same address; None takes a free one.
    pub metrics_port: Option<u16>,
    /// Log each subscription and connection.
    pub debug: bool,
    /// Log each message, with the tokens that it carries.
    pub trace: bool,
    /// File that its output is appended to.
    pub log: PathBuf,
}

impl ResgateOptions {
    /// A Resgate on free ports for this nats-server, with everything below one folder.
    pub fn in_folder(folder: &Path, nats_url: String) -> Self {
        Self {
            data: folder.to_owned(),
            nats_url,
            addr: None,
            metrics_port: None,
            debug: false,
            trace: false,
            log: folder.join("resgate.log"),
        }
    }
}

/// A Resgate that is our child. Dropping it kills it.
#[derive(Debug)]
pub struct ResgateServer {
    binary: PathBuf,
    options: ResgateOptions,
    addr: SocketAddr,
    metrics_port: u16,
    http: reqwest::Client,
    child: Child,
}

impl ResgateServer {
    /// Starts a Resgate and waits until it serves clients and is connected to NATS.
    ///
    /// # Errors
    /// When it cannot be started, ends (its last lines are in the error: a port that is taken, NATS that is not
    /// there), or is not ready within half a minute.
    pub async fn start(binary: &Path, options: ResgateOptions) -> Result<Self, ServersError> {
        let addr = match options.addr {
            Some(addr) => addr,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let metrics_port = options.metrics_port.map_or_else(free_port, Ok)?;
        let child = spawn(binary, &options, addr, metrics_port).await?;
        // A proxy of the environment has no business on loopback.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(1))
            .build();
        let http = http.expect("a client without TLS can be built");
        let mut server = Self {
            binary: binary.to_owned(),
            options,
            addr,
            metrics_port,
            http,
            child,
        };
        server.ready().await?;
        Ok(server)
    }

    /// The address for `WebSocket` clients.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.addr)
    }

    /// The address of the resources over HTTP; a resource's name follows, with slashes for its dots.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.addr)
    }

    /// The address of the metrics.
    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", SocketAddr::new(self.addr.ip(), self.metrics_port))
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.options.log
    }

    /// Waits until the server ends by itself. May be dropped and called again.
    pub async fn exited(&mut self) -> ExitStatus {
        self.child.exited().await
    }

    /// Says whether the server still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.ended().is_none()
    }

    /// Ends the server at once, as a crash of its process would (SIGKILL).
    pub async fn kill(&mut self) {
        self.child.kill().await;
    }

    /// Starts the server again on the same ports; one that still runs is killed first.
    ///
    /// # Errors
    /// As for `start`. It may be tried again.
    pub async fn restart(&mut self) -> Result<(), ServersError> {
        self.child.kill().await;
        self.child = spawn(&self.binary, &self.options, self.addr, self.metrics_port).await?;
        self.ready().await
    }

    /// Stops the server in order: SIGTERM, and SIGKILL if that takes more than three seconds.
    pub async fn stop(mut self) {
        self.child.stop(STOP).await;
    }

    /// Freezes the server (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&mut self) {
        self.child.signal(Signal::STOP);
    }

    /// Lets a frozen server run on (SIGCONT).
    pub fn resume(&mut self) {
        self.child.signal(Signal::CONT);
    }

    async fn ready(&mut self) -> Result<(), ServersError> {
        let output = self.child.output();
        let (http, metrics, api) = (self.http.clone(), self.metrics_url(), self.api_url());
        let is_ready = async || {
            // Written when it has NATS and the metrics port, but before it has the port for clients.
            let said = output.text();
            if said.contains(STOPPED) {
                return Ok(None);
            }
            if !said.contains("Metrics endpoint listening") || !said.contains("Server ready") {
                return Ok(Some("it does not listen for metrics yet".to_owned()));
            }
            // Any answer will do; what proves that it was not a stranger's is that this child has counted it.
            if http.get(format!("{api}/")).send().await.is_err() {
                return Ok(Some("its port for clients does not answer".to_owned()));
            }
            let counted = requests(&http, &metrics).await;
            Ok((counted == 0).then(|| "somebody else has its port for clients".to_owned()))
        };
        self.child.ready(READY, is_ready).await?;
        if self.child.output().text().contains(STOPPED) {
            // One that fails right after its start may miss its own end, and wait for a signal for ever.
            self.child.stop(STOP).await;
            let status = self.child.exited().await;
            return Err(self.child.ended_early(status));
        }
        Ok(())
    }
}

/// How many HTTP requests it says it has had.
async fn requests(http: &reqwest::Client, metrics: &str) -> u64 {
    let answer = async { http.get(metrics).send().await.ok()?.text().await.ok() };
    let text = answer.await.unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let count = line.strip_prefix("resgate_http_requests_total{method=\"GET\"} ")?;
            count.trim().parse().ok()
        })
        .unwrap_or(0)
}

async fn spawn(
    binary: &Path,
    options: &ResgateOptions,
    addr: SocketAddr,
    metrics_port: u16,
) -> Result<Child, ServersError> {
    let path = options.data.join("resgate.json");
    let settings = settings(options, addr, metrics_port);
    // The address of NATS may have a password in it.
    put_private(&path, &settings).map_err(|source| ServersError::Prepare {
        path: path.clone(),
        source,
    })?;
    let configure = |command: &mut std::process::Command| {
        command.arg("--config").arg(path);
    };
    Child::spawn("resgate", binary, configure, &options.log).await
}

/// The text of the file that it is started with.
fn settings(options: &ResgateOptions, addr: SocketAddr, metrics_port: u16) -> String {
    let mut settings: Map<String, Value> = serde_json::from_str(SETTINGS).expect("nats/resgate.json is JSON");
    let own = [
        ("natsUrl", options.nats_url.as_str().into()),
        ("addr", addr.ip().to_string().into()),
        ("port", addr.port().into()),
        ("metricsPort", metrics_port.into()),
        ("debug", options.debug.into()),
        ("trace", options.trace.into()),
    ];
    settings.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Value::Object(settings).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::{ResgateOptions, settings};

    #[test]
    fn the_settings_are_those_of_production_with_the_addresses_of_this_machine() {
        let options = ResgateOptions::in_folder(Path::new("/nowhere"), "nats://127.0.0.1:1".to_owned());
        let text = settings(&options, "127.0.0.1:2".parse().unwrap(), 3);
        let settings: Value = serde_json::from_str(&text).unwrap();
        let check = |name: &str, expect: Value| assert_eq!(settings[name], expect, "{name}");
        check("natsUrl", "nats://127.0.0.1:1".into());
        check("addr", "127.0.0.1".into());
        check("port", 2.into());
        check("metricsPort", 3.into());
        check("bufferSize", 65536.into());
        check("wsPath", "/".into());
        check("apiPath", "/api".into());
        check("headerAuth", "ezout.auth.header".into());
        check("wsHeaderAuth", "ezout.auth.cookie".into());
    }
}
