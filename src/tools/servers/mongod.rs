//! mongod as a child: a replica set of one, since change streams and majority writes need a set.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use bson::{Document, doc};
use mongodb::{
    Client,
    error::ErrorKind,
    options::{ClientOptions, ServerAddress},
};
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::{ServersError, child::Child, free_port};

/// The name of the replica set, as in the default `EZOUT_MONGODB_URI`.
const SET: &str = "rs0";

/// It starts in about a second; recovery after a crash under load takes longer.
const READY: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);

/// How to start a mongod.
#[derive(Debug, Clone)]
pub struct MongodOptions {
    /// Folder of its data; created where it is missing.
    pub data: PathBuf,
    /// Its port; None takes a free one.
    pub port: Option<u16>,
    /// Memory for its cache, in gigabytes; 0.25 is the least that it takes.
    pub cache_gb: f64,
    /// Size of the log that change streams resume from, in megabytes. Counts when the folder is new.
    pub oplog_mb: u32,
    /// How often it brings its data files up to date, in seconds; what that log has is kept until then.
    pub checkpoint_seconds: u32,
    /// File that its output is appended to.
    pub log: PathBuf,
}

impl MongodOptions {
    /// A small mongod on a free port, with everything below one folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            data: folder.to_owned(),
            port: None,
            cache_gb: 0.25,
            oplog_mb: 512,
            checkpoint_seconds: 60,
            log: folder.join("mongod.log"),
        }
    }
}

/// A mongod that is our child and the primary of its set. Dropping it kills it.
#[derive(Debug)]
pub struct Mongod {
    binary: PathBuf,
    options: MongodOptions,
    port: u16,
    child: Child,
}

impl Mongod {
    /// A client that speaks to the server at this port of this machine alone, whatever its set believes.
    ///
    /// # Errors
    /// When the driver takes no such address. It connects when it is used.
    pub fn client_at(port: u16) -> Result<Client, ServersError> {
        let options = ClientOptions::builder()
            .hosts(vec![ServerAddress::Tcp {
                host: "127.0.0.1".to_owned(),
                port: Some(port),
            }])
            .direct_connection(true)
            .server_selection_timeout(Duration::from_secs(2))
            .build();
        Client::with_options(options).map_err(|source| ServersError::ReplicaSet {
            operation: "be connected to",
            source,
        })
    }

    /// Starts a mongod and waits until it takes writes.
    ///
    /// A new data folder becomes a replica set; one that was in use under another port is moved to this one.
    ///
    /// # Errors
    /// When it cannot be started, ends (its complaints are in the error), or takes no writes within a minute.
    pub async fn start(binary: &Path, options: MongodOptions) -> Result<Self, ServersError> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let child = spawn(binary, &options, port).await?;
        let mut mongod = Self {
            binary: binary.to_owned(),
            options,
            port,
            child,
        };
        mongod.ready().await?;
        Ok(mongod)
    }

    /// The address for drivers.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet={SET}", self.port)
    }

    /// The port.
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

    /// Starts the server again on the same port with the same data; one that still runs is killed first.
    ///
    /// # Errors
    /// As for `start`. It may be tried again.
    pub async fn restart(&mut self) -> Result<(), ServersError> {
        self.child.kill().await;
        self.child = spawn(&self.binary, &self.options, self.port).await?;
        self.ready().await
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

    async fn ready(&mut self) -> Result<(), ServersError> {
        let (port, pid) = (self.port, self.child.pid());
        let client = Self::client_at(port)?;
        let mut configured = false;
        self.child
            .ready(READY, async || {
                // Without this every attempt of the driver before the server listens costs half a second.
                if TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    return Ok(Some("it does not listen yet".to_owned()));
                }
                if !configured {
                    // A stranger on our port must neither be taken for ours nor be configured.
                    if process_of(&client).await != Some(pid.into()) {
                        return Ok(Some(format!("it does not answer on port {port}")));
                    }
                    configured = configure_set(&client, port).await?;
                }
                let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
                let primary = hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false));
                Ok((!primary).then(|| "it is not the primary yet".to_owned()))
            })
            .await
    }
}

async fn spawn(binary: &Path, options: &MongodOptions, port: u16) -> Result<Child, ServersError> {
    std::fs::create_dir_all(&options.data).map_err(|source| ServersError::Prepare {
        path: options.data.clone(),
        source,
    })?;
    let configure = |command: &mut std::process::Command| {
        command.arg("--dbpath").arg(&options.data);
        command.args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--nounixsocket"]);
        command.args(["--replSet", SET, "--oplogSize", &options.oplog_mb.to_string()]);
        command.args(["--syncdelay", &options.checkpoint_seconds.to_string()]);
        command.args(["--wiredTigerCacheSizeGB", &options.cache_gb.to_string(), "--quiet"]);
        // Its journal files are written in advance: 50 MB on disk instead of 300 for an empty database.
        command.args(["--wiredTigerEngineConfigString", "log=(file_max=16MB)"]);
        // Diagnostics are for a support case, and write to disk every second.
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        // On SIGTERM a primary waits this long for others to take over, and there are none.
        command.args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"]);
    };
    Child::spawn("mongod", binary, configure, &options.log).await
}

/// The process id of the server that answers, if one does.
async fn process_of(client: &Client) -> Option<i64> {
    let command = doc! { "serverStatus": 1, "repl": 0, "metrics": 0, "wiredTiger": 0 };
    let status = client.database("admin").run_command(command).await.ok()?;
    status.get_i64("pid").ok()
}

/// Makes the set's only member this server at this port. Answers false if it is too early for that.
async fn configure_set(client: &Client, port: u16) -> Result<bool, ServersError> {
    /// Just started: it has not read its own configuration yet.
    const NOT_YET_INITIALIZED: i32 = 94;

    let host = format!("127.0.0.1:{port}");
    // The stored configuration can be read whether or not the server finds itself in it.
    let stored = client
        .database("local")
        .collection::<Document>("system.replset")
        .find_one(doc! {})
        .await
        .map_err(|source| ServersError::ReplicaSet {
            operation: "show its replica set",
            source,
        })?;
    let member = doc! { "_id": 0, "host": &host };
    let (operation, command) = match stored {
        None => (
            "initiate its replica set",
            doc! { "replSetInitiate": { "_id": SET, "members": [member] } },
        ),
        Some(config) if first_host(&config) == Some(&host) => return Ok(true),
        Some(mut config) => {
            config.insert("members", vec![member]);
            // Forced, as the server does not find itself in the old configuration and so is no primary.
            (
                "move its replica set to a new port",
                doc! { "replSetReconfig": config, "force": true },
            )
        }
    };
    match client.database("admin").run_command(command).await {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == Some(NOT_YET_INITIALIZED) => Ok(false),
        Err(source) => Err(ServersError::ReplicaSet { operation, source }),
    }
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(refusal) => Some(refusal.code),
        _ => None,
    }
}

fn first_host(config: &Document) -> Option<&str> {
    config
        .get_array("members")
        .ok()?
        .first()?
        .as_document()?
        .get_str("host")
        .ok()
}
