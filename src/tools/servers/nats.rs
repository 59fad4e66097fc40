//! nats-server as a child, alone or as three in a cluster, with the settings in `nats/` that production uses too.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use futures::future::try_join_all;
use rustix::process::Signal;
use serde_json::Value;

use super::{NatsUsers, ServersError, child::Child, free_port};
use crate::nats::User;

const SERVER_CONF: &str = include_str!("../../../nats/server.conf");
const CLUSTER_CONF: &str = include_str!("../../../nats/cluster.conf");
const USERS_CONF: &str = include_str!("../../../nats/users.conf");
const CALLOUT_CONF: &str = include_str!("../../../nats/callout.conf");
const WEBSOCKET_CONF: &str = include_str!("../../../nats/websocket.conf");

/// Lines of `server.conf` that are marked out, and are taken where one asks for it.
const WITH_USERS: &[&str] = &["include ./users.conf", "include ./callout.conf"];
const WITH_WEBSOCKET: &str = "include ./websocket.conf";
/// Whoever names no user is an operator. For a machine of one's own only.
const WITHOUT_USER: &str = "no_auth_user: operator";
/// Where streams are that were made without users, and where they are looked for with them.
const STREAMS_WITHOUT_USERS: &str = "jetstream/$G";
const STREAMS_WITH_USERS: &str = "jetstream/APP";

/// How many watchers there may be, in `users.conf`.
const WATCHERS_MAX: &str = "max_connections: 8000";

/// The one setting that a benchmark may weaken.
const SYNC_ALWAYS: &str = "sync_interval: always";
const SYNC_LAZY: &str = "sync_interval: \"2m\"";

/// It starts in some 20 ms; a large journal on a slow disk takes longer to recover.
const READY: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);

/// How to start a nats-server.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Folder of its data and settings; created where it is missing.
    pub data: PathBuf,
    /// Port for clients; None takes a free one.
    pub port: Option<u16>,
    /// Port for monitoring over HTTP; None takes a free one.
    pub monitor_port: Option<u16>,
    /// Its place in a cluster of three; None is a server alone.
    pub cluster: Option<ClusterMember>,
    /// Flush to disk before each acknowledgement, as in production. Only a benchmark has reason to say false.
    pub sync_always: bool,
    /// The users of `nats/users.conf`, with rights; None lets everybody do everything.
    pub users: Option<NatsUsers>,
    /// With users, and without a port for `WebSocket`: whoever names none is an operator.
    pub operator_without_password: bool,
    /// Port for `WebSocket` clients; None opens none.
    pub websocket_port: Option<u16>,
    /// With users: watchers that may be there at once; None leaves it as in `nats/users.conf`.
    pub watchers_max: Option<u32>,
    /// File that its output is appended to.
    pub log: PathBuf,
}

impl NatsOptions {
    /// A server alone on free ports, durable, with everything below one folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            data: folder.to_owned(),
            port: None,
            monitor_port: None,
            cluster: None,
            sync_always: true,
            users: None,
            operator_without_password: false,
            websocket_port: None,
            watchers_max: None,
            log: folder.join("nats-server.log"),
        }
    }
}

/// One server of a cluster of three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    /// Its name, unique in the cluster and the same at each start.
    pub name: String,
    /// Port on which it listens for the others.
    pub port: u16,
    /// Ports on which the two others listen.
    pub others: [u16; 2],
}

/// A nats-server that is our child. Dropping it kills it.
#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    options: NatsOptions,
    port: u16,
    monitor_port: u16,
    http: reqwest::Client,
    child: Child,
}

impl NatsServer {
    /// Starts a server and waits until it serves clients and has recovered its streams.
    ///
    /// # Errors
    /// When it cannot be started, ends (its last lines are in the error: a port that is taken, a disk that is full),
    /// or is not ready within a minute.
    pub async fn start(binary: &Path, options: NatsOptions) -> Result<Self, ServersError> {
        let mut server = Self::launch(binary, options).await?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts three servers as one cluster, each in a folder of its own below `root`, and waits until they have
    /// elected a leader and all follow it.
    ///
    /// # Errors
    /// As for `start`; the servers that did start are killed.
    pub async fn start_cluster(binary: &Path, root: &Path) -> Result<[Self; 3], ServersError> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let launches = (0..3).map(|index| {
            let name = format!("n{}", index + 1);
            let folder = root.join(&name);
            let others = [ports[(index + 1) % 3], ports[(index + 2) % 3]];
            let options = NatsOptions {
                cluster: Some(ClusterMember {
                    name,
                    port: ports[index],
                    others,
                }),
                ..NatsOptions::in_folder(&folder)
            };
            Self::launch(binary, options)
        });
        // None of them is ready before the others run.
        let mut servers = try_join_all(launches).await?;
        try_join_all(servers.iter_mut().map(Self::ready)).await?;
        Ok(<[Self; 3]>::try_from(servers).expect("three were started"))
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The address for a client that is this user; without users it is that for everybody.
    pub fn url_of(&self, user: User) -> String {
        let url = self.url();
        match &self.options.users {
            Some(users) => users.url(&url, user),
            None => url,
        }
    }

    /// The users, where it has some.
    pub fn users(&self) -> Option<&NatsUsers> {
        self.options.users.as_ref()
    }

    /// The address of the monitoring routes, such as `/varz`.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
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

    /// Ends the server at once, as a crash of its process would (SIGKILL).
    pub async fn kill(&mut self) {
        self.child.kill().await;
    }

    /// Starts the server again on the same ports with the same data; one that still runs is killed first.
    ///
    /// # Errors
    /// As for `start`. It may be tried again.
    pub async fn restart(&mut self) -> Result<(), ServersError> {
        self.relaunch().await?;
        self.ready().await
    }

    /// As `restart`, without waiting: a server of a cluster is ready only with another one.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub async fn relaunch(&mut self) -> Result<(), ServersError> {
        self.child.kill().await;
        self.child = spawn(&self.binary, &self.options, self.port, self.monitor_port).await?;
        Ok(())
    }

    /// Stops the server in order: SIGTERM, and SIGKILL if that takes more than ten seconds.
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

    async fn launch(binary: &Path, options: NatsOptions) -> Result<Self, ServersError> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let monitor_port = options.monitor_port.map_or_else(free_port, Ok)?;
        let child = spawn(binary, &options, port, monitor_port).await?;
        // A proxy of the environment has no business on loopback.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(1))
            .build();
        let http = http.expect("a client without TLS can be built");
        Ok(Self {
            binary: binary.to_owned(),
            options,
            port,
            monitor_port,
            http,
            child,
        })
    }

    /// Waits until the server is ready for clients and for `JetStream`.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn ready(&mut self) -> Result<(), ServersError> {
        // Written by this very process when it listens; another one that has our port would be no proof.
        let ports = ports_folder(&self.options.data).join(format!(
            "{}_{}.ports",
            self.binary.file_name().unwrap_or(OsStr::new("nats-server")).display(),
            self.child.pid()
        ));
        let monitor = format!("http://127.0.0.1:{}", self.monitor_port);
        let clustered = self.options.cluster.is_some();
        let http = self.http.clone();
        let is_ready = async || {
            if !ports.exists() {
                return Ok(Some("it does not listen yet".to_owned()));
            }
            if let Some(problem) = unhealthy(&http, &monitor).await {
                return Ok(Some(problem));
            }
            Ok(if clustered {
                without_leader(&http, &monitor).await
            } else {
                None
            })
        };
        self.child.ready(READY, is_ready).await
    }
}

async fn spawn(binary: &Path, options: &NatsOptions, port: u16, monitor_port: u16) -> Result<Child, ServersError> {
    let conf = write_settings(options)?;
    let configure = |command: &mut std::process::Command| {
        command.arg("--config").arg(conf);
        command.args([
            "--addr",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--http_port",
            &monitor_port.to_string(),
        ]);
        command.arg("--store_dir").arg(&options.data);
        command.arg("--ports_file_dir").arg(ports_folder(&options.data));
        if let Some(users) = &options.users {
            command.envs(users.variables());
        }
        if let Some(port) = options.websocket_port {
            command.env("EZOUT_NATS_WEBSOCKET_LISTEN", format!("127.0.0.1:{port}"));
        }
        if let Some(member) = &options.cluster {
            let [one, two] = member.others;
            command
                .env("EZOUT_NATS_NAME", &member.name)
                .env("EZOUT_NATS_CLUSTER_LISTEN", format!("127.0.0.1:{}", member.port))
                .env("EZOUT_NATS_ROUTE_1", format!("nats://127.0.0.1:{one}"))
                .env("EZOUT_NATS_ROUTE_2", format!("nats://127.0.0.1:{two}"));
        }
    };
    Child::spawn("nats-server", binary, configure, &options.log).await
}

fn ports_folder(data: &Path) -> PathBuf {
    data.join("ports")
}

/// Writes the settings into the data folder, and answers the file to start with.
fn write_settings(options: &NatsOptions) -> Result<PathBuf, ServersError> {
    let ports = ports_folder(&options.data);
    // A killed server leaves its ports file, and process ids come round again.
    let _ = fs::remove_dir_all(&ports);
    fs::create_dir_all(&ports).map_err(|source| ServersError::Prepare { path: ports, source })?;

    let write = |name: &str, text: &str| {
        let path = options.data.join(name);
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(ServersError::Prepare { path, source }),
        }
    };
    let mut alone = if options.sync_always {
        SERVER_CONF.to_owned()
    } else {
        SERVER_CONF.replace(SYNC_ALWAYS, SYNC_LAZY)
    };
    let mut take = |line: &str| alone = alone.replace(&format!("# {line}\n"), &format!("{line}\n"));
    if options.users.is_some() {
        for line in WITH_USERS {
            take(line);
        }
        // A page of anywhere reaches the port for WebSocket, and must not be an operator for having no name.
        if options.operator_without_password && options.websocket_port.is_none() {
            take(WITHOUT_USER);
        }
        move_streams(&options.data)?;
    }
    if options.websocket_port.is_some() {
        take(WITH_WEBSOCKET);
    }
    let users = match options.watchers_max {
        Some(most) => &USERS_CONF.replace(WATCHERS_MAX, &format!("max_connections: {most}")),
        None => USERS_CONF,
    };
    write("users.conf", users)?;
    write("callout.conf", CALLOUT_CONF)?;
    write("websocket.conf", WEBSOCKET_CONF)?;
    let server = write("server.conf", &alone)?;
    if options.cluster.is_some() {
        write("cluster.conf", CLUSTER_CONF)
    } else {
        Ok(server)
    }
}

/// Streams that were made before there were users belong to nobody's account; with users they are the service's.
fn move_streams(data: &Path) -> Result<(), ServersError> {
    let (from, to) = (data.join(STREAMS_WITHOUT_USERS), data.join(STREAMS_WITH_USERS));
    if !from.exists() || to.exists() {
        return Ok(());
    }
    fs::rename(&from, &to).map_err(|source| ServersError::Prepare { path: to, source })
}

/// What the server says is wrong with itself, if anything.
async fn unhealthy(http: &reqwest::Client, monitor: &str) -> Option<String> {
    match http.get(format!("{monitor}/healthz")).send().await {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("it says {}", answer.text().await.unwrap_or_default().trim())),
        Err(_) => Some("its monitoring port does not answer".to_owned()),
    }
}

/// What the cluster still lacks, if anything: a leader, and three servers that follow it.
async fn without_leader(http: &reqwest::Client, monitor: &str) -> Option<String> {
    let answer = async {
        let body = http
            .get(format!("{monitor}/jsz"))
            .send()
            .await
            .ok()?
            .bytes()
            .await
            .ok()?;
        serde_json::from_slice::<Value>(&body).ok()
    };
    let cluster = answer
        .await
        .map(|mut state| state["meta_cluster"].take())
        .unwrap_or_default();
    if cluster["leader"].as_str().is_none_or(str::is_empty) {
        return Some("the cluster has no leader".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{SERVER_CONF, SYNC_ALWAYS, USERS_CONF, WATCHERS_MAX, WITH_USERS, WITH_WEBSOCKET, WITHOUT_USER};

    #[test]
    fn the_settings_flush_before_each_acknowledgement() {
        assert!(SERVER_CONF.lines().any(|line| line.trim() == SYNC_ALWAYS));
    }

    #[test]
    fn watchers_leave_room_for_the_parts() {
        let number = |line: &str| -> u32 { line.rsplit(' ').next().unwrap().parse().unwrap() };
        let of_server = SERVER_CONF.lines().find(|line| line.starts_with("max_connections: "));
        assert!(USERS_CONF.contains(&format!("limits {{ {WATCHERS_MAX} }}")));
        assert!(number(WATCHERS_MAX) + 1_000 <= number(of_server.unwrap()));
    }

    #[test]
    fn what_one_may_ask_for_stands_in_the_settings_marked_out() {
        for line in WITH_USERS.iter().chain([&WITH_WEBSOCKET, &WITHOUT_USER]) {
            assert!(SERVER_CONF.contains(&format!("\n# {line}\n")), "{line}");
        }
    }
}
