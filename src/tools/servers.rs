//! Real servers as children of this process: `ezout dev`, the tests, chaos and the benchmark all start them here.
//!
//! A child listens on loopback, writes its output to a log file, is in a process group of its own (the terminal's
//! Ctrl-C reaches only us, and we stop our children in order), and is killed with us whatever we die of.
//! What a server has acknowledged is in its data folder: `kill` and `restart` may be called at any moment.

mod child;
mod mongod;
mod nats;
mod resgate;
mod users;

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

pub use mongod::{Mongod, MongodOptions};
pub use nats::{ClusterMember, NatsOptions, NatsServer};
pub use resgate::{ResgateOptions, ResgateServer};
pub use users::NatsUsers;

/// Where to find the servers' programs; what is not named is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct BinaryOptions {
    /// The nats-server program, 2.12 or later [default: from PATH, then from .servers/bin]
    #[arg(long, env = "EZOUT_NATS_SERVER_BIN", value_name = "FILE")]
    pub nats_server_bin: Option<PathBuf>,
    /// The mongod program, 6.0 or later [default: from PATH, then from .servers/bin]
    #[arg(long, env = "EZOUT_MONGOD_BIN", value_name = "FILE")]
    pub mongod_bin: Option<PathBuf>,
    /// The resgate program, 1.8 or later [default: from PATH; everything works without it]
    #[arg(long, env = "EZOUT_RESGATE_BIN", value_name = "FILE")]
    pub resgate_bin: Option<PathBuf>,
}

impl BinaryOptions {
    /// Reads the options from the environment alone, for tests and benchmarks, which have no command line of ours.
    pub fn from_environment() -> Self {
        use clap::{Args as _, FromArgMatches as _};
        let matches = Self::augment_args(clap::Command::new("servers")).get_matches_from(["servers"]);
        Self::from_arg_matches(&matches).expect("every option may be absent")
    }
}

/// Where the servers' programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// nats-server, 2.12 or later: the journal needs atomic batches.
    pub nats_server: PathBuf,
    /// mongod, 6.0 or later.
    pub mongod: PathBuf,
    /// Resgate, 1.8 or later, where there is one.
    pub resgate: Option<PathBuf>,
}

impl Binaries {
    /// Finds the programs: as named in the options, else on PATH, else in `.servers/bin` of the working directory, of
    /// the folder of our own program, or of a folder above either.
    ///
    /// # Errors
    /// A program that was named and cannot be used, and one that is nowhere or is too old everywhere. The message
    /// says what was passed over and what to do. A Resgate that nobody named and that cannot be used is as none.
    pub fn find(options: &BinaryOptions) -> Result<Self, ServersError> {
        Ok(Self {
            nats_server: NATS_SERVER.find(options.nats_server_bin.as_deref())?,
            mongod: MONGOD.find(options.mongod_bin.as_deref())?,
            resgate: match &options.resgate_bin {
                Some(named) => Some(RESGATE.find(Some(named))?),
                None => RESGATE.find(None).ok(),
            },
        })
    }
}

/// A server program, and what it has to be.
struct Program {
    name: &'static str,
    variable: &'static str,
    needed: (u32, u32),
}

const NATS_SERVER: Program = Program {
    name: "nats-server",
    variable: "EZOUT_NATS_SERVER_BIN",
    needed: (2, 12),
};
const MONGOD: Program = Program {
    name: "mongod",
    variable: "EZOUT_MONGOD_BIN",
    needed: (6, 0),
};
const RESGATE: Program = Program {
    name: "resgate",
    variable: "EZOUT_RESGATE_BIN",
    needed: (1, 8),
};

impl Program {
    fn find(&self, named: Option<&Path>) -> Result<PathBuf, ServersError> {
        if let Some(named) = named {
            return match self.check(named) {
                Ok(()) => Ok(named.to_owned()),
                Err(reason) => Err(ServersError::Unusable {
                    variable: self.variable,
                    path: named.to_owned(),
                    reason,
                }),
            };
        }
        let mut passed_over = String::new();
        for candidate in on_path(self.name).into_iter().chain(fetched(self.name)) {
            match self.check(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(reason) => {
                    let candidate = candidate.display();
                    // Writing to a string cannot fail.
                    let _ = write!(passed_over, " ({candidate} was passed over: {reason})");
                }
            }
        }
        Err(ServersError::Missing {
            name: self.name,
            needed: self.needed,
            variable: self.variable,
            passed_over,
        })
    }

    /// Runs the program to see that it can run, and that it is recent enough.
    fn check(&self, path: &Path) -> Result<(), String> {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("it cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match version_in(&said) {
            Some(version) if version >= self.needed => Ok(()),
            Some((major, minor)) => Err(format!(
                "it is {major}.{minor}, and {}.{} or later is needed",
                self.needed.0, self.needed.1
            )),
            None => Err(format!(
                "it does not say its version: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }
}

/// The major and minor version in what a server says: `nats-server: v2.15.1`, `db version v6.0.5`.
fn version_in(said: &str) -> Option<(u32, u32)> {
    let word = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v').filter(|rest| rest.contains('.')))?;
    let mut numbers = word.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[expect(clippy::disallowed_methods, reason = "PATH is the system's, not an option of ours")]
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// What `make servers` fetched. The tests' working directory is the package, and a program in `target/` is below it.
fn fetched(name: &str) -> Option<PathBuf> {
    let starts = [std::env::current_dir(), std::env::current_exe()];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find_map(|folder| {
            let candidate = folder.join(".servers/bin").join(name);
            candidate.is_file().then_some(candidate)
        })
}

/// Writes a file that only its owner may read, in a folder that is made where it is missing.
fn put_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // One that is there already keeps the rights that it was made with.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The next free port on loopback; never the same one twice in a process.
///
/// Ports are taken from below the range that the system gives to outgoing connections. In that range a client that
/// reconnects to a server while it is down may be given the server's own port, connect to itself, and keep the
/// server from coming back.
///
/// # Errors
/// When a thousand ports in a row are taken.
pub fn free_port() -> Result<u16, ServersError> {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 17_000;
    // Two test processes at once start at different places.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    if NEXT.load(Ordering::Relaxed) == 0 {
        let _ = NEXT.compare_exchange(0, 1 + fastrand::u16(..COUNT), Ordering::Relaxed, Ordering::Relaxed);
    }
    for _ in 0..1000 {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(ServersError::NoFreePort)
}

/// Says whether nothing listens on this port of loopback.
///
/// It knocks and does not listen itself: a child that is started at that moment by another thread would inherit the
/// listening socket for a millisecond, and the port would be taken by nobody.
pub fn is_free(port: u16) -> bool {
    const ANSWERS: Duration = Duration::from_millis(200);
    let knock = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), ANSWERS);
    knock.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Why a server could not be had. What a server wrote itself is part of the message, since it is the cause.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// The program is nowhere, or too old everywhere.
    #[error(
        "{name} {}.{} or later was not found{passed_over}; `make servers` fetches it, {variable} names one",
        needed.0, needed.1
    )]
    Missing {
        /// The program.
        name: &'static str,
        /// The lowest version that will do.
        needed: (u32, u32),
        /// The environment variable that names one.
        variable: &'static str,
        /// What was found and is no use, with the reason.
        passed_over: String,
    },
    /// The program that was named will not do.
    #[error("{variable} names {}, which cannot be used: {reason}", path.display())]
    Unusable {
        /// The environment variable that names it.
        variable: &'static str,
        /// The file that it names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder of the server could not be written.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system did not start the program.
    #[error("cannot start {name}")]
    Spawn {
        /// The server.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended before it was ready.
    #[error("{name} ended with {status} while it was starting; the end of {}:\n{tail}", log.display())]
    Exited {
        /// The server.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines that it wrote.
        tail: String,
    },
    /// The server runs, but is not ready in time.
    #[error("{name} is not ready after {seconds} s, {waiting_for}; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// The server.
        name: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// What did not happen.
        waiting_for: String,
        /// Its log.
        log: PathBuf,
        /// The last lines that it wrote.
        tail: String,
    },
    /// The replica set could not be set up.
    #[error("mongod refused to {operation}")]
    ReplicaSet {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        source: mongodb::error::Error,
    },
    /// No port is free.
    #[error("no free port was found on 127.0.0.1")]
    NoFreePort,
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn a_version_is_read_from_what_servers_say() {
        let check = |said: &str, expect| assert_eq!(version_in(said), expect, "{said}");
        check("nats-server: v2.15.1\n", Some((2, 15)));
        check("resgate  v1.8.0\nprotocol v1.2.3\n", Some((1, 8)));
        check("db version v6.0.5\nBuild Info: {}", Some((6, 0)));
        check("nats-server: v2.14.0-RC.1", Some((2, 14)));
        check("very nice", None);
        check("", None);
    }
}
