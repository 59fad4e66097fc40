//! One child process: started, watched, signalled, and never left behind.
//!
//! The process id stays ours until the child's end was noticed here, so a signal can never reach a stranger.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child as Process, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    select,
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{ServersError, on_path};

/// How often a child is looked at: ends are rare, and nobody waits for less.
const POLL: Duration = Duration::from_millis(10);

/// A log that is larger than this is put aside at the next start, so a data folder does not grow for ever by it.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A running or ended server process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: Process,
    output: Output,
}

/// What a child has written, within a log that has the output of those before it too.
#[derive(Debug, Clone)]
pub(super) struct Output {
    log: PathBuf,
    /// Where in the log this child's own output begins.
    start: u64,
}

impl Output {
    /// All of it so far. What cannot be read is as if it were not written: nobody can do more than look into the log.
    pub(super) fn text(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.start))?;
            file.read_to_end(&mut text)
        });
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Child {
    /// Starts a program with its output appended to `log`.
    pub(super) async fn spawn(
        name: &'static str,
        program: &Path,
        configure: impl FnOnce(&mut Command),
        log: &Path,
    ) -> Result<Self, ServersError> {
        let (out, start) = open_log(log).map_err(|source| ServersError::Prepare {
            path: log.to_owned(),
            source,
        })?;
        let err = out.try_clone().map_err(|source| ServersError::Prepare {
            path: log.to_owned(),
            source,
        })?;
        let mut command = mortal(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let process = spawn_on_lasting_thread(command)
            .await
            .map_err(|source| ServersError::Spawn { name, source })?;
        Ok(Self {
            name,
            process,
            output: Output {
                log: log.to_owned(),
                start,
            },
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What this child has written, to be read while it runs.
    pub(super) fn output(&self) -> Output {
        self.output.clone()
    }

    /// The child's end, if it came.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        // An error would mean that this is no child of ours.
        self.process.try_wait().expect("a child can be waited for")
    }

    /// Waits for the child to end.
    pub(super) async fn exited(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            sleep(POLL).await;
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It has not been waited for, so it exists at least as a zombie, and it is ours.
            let _ = kill_process(pid, signal);
        }
    }

    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exited().await;
    }

    /// Asks the child to end, and after `patience` makes it.
    pub(super) async fn stop(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        // One that is paused would not hear it.
        self.signal(Signal::CONT);
        if tokio::time::timeout(patience, self.exited()).await.is_err() {
            self.kill().await;
        }
    }

    /// Waits until `is_ready` answers None; meanwhile it answers what is being waited for.
    pub(super) async fn ready(
        &mut self,
        patience: Duration,
        mut is_ready: impl AsyncFnMut() -> Result<Option<String>, ServersError>,
    ) -> Result<(), ServersError> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = select! {
                // A question to a server that has ended may wait for long.
                biased;
                status = self.exited() => return Err(self.ended_early(status)),
                answer = is_ready() => answer?,
            };
            let Some(waiting_for) = answer else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let (name, log, seconds) = (self.name, self.output.log.clone(), patience.as_secs());
                let tail = self.tail();
                return Err(ServersError::NotReady {
                    name,
                    seconds,
                    waiting_for,
                    log,
                    tail,
                });
            }
            sleep(POLL).await;
        }
    }

    /// That the child ended before it was ready.
    pub(super) fn ended_early(&self, status: ExitStatus) -> ServersError {
        ServersError::Exited {
            name: self.name,
            status,
            log: self.output.log.clone(),
            tail: self.tail(),
        }
    }

    /// The last lines that this child wrote, and of a JSON log the complaints.
    fn tail(&self) -> String {
        const LINES: usize = 8;
        let text = self.output.text();
        let complaints: Vec<String> = text.lines().filter_map(complaint).collect();
        let lines = if complaints.is_empty() {
            text.lines().map(str::to_owned).collect()
        } else {
            complaints
        };
        let from = lines.len().saturating_sub(LINES);
        lines[from..]
            .iter()
            .map(|line| format!("    {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Waiting takes a few milliseconds after a kill, and its data folder is free only then.
        if self.ended().is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// What mongod wrote, if the line is an error: `{"s":"E","msg":"…","attr":{…}}`.
fn complaint(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    if !matches!(entry["s"].as_str(), Some("E" | "F")) {
        return None;
    }
    let message = entry["msg"].as_str()?;
    let attributes = &entry["attr"];
    Some(if attributes.is_null() {
        message.to_owned()
    } else {
        format!("{message}: {attributes}")
    })
}

fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    // Resgate writes down the address of NATS with the password in it.
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let start = file.metadata()?.len();
    Ok((file, start))
}

/// A command that the system kills when the thread that started it ends, where the system can.
///
/// KILL and not TERM, since a child that is paused or stuck must go too; the data is safe against it.
fn mortal(program: &Path) -> Command {
    match on_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Starts a command on a thread that lives as long as the process: the system ends `mortal` children when the
/// *thread* that started them ends, and the runtime's threads come and go.
async fn spawn_on_lasting_thread(command: Command) -> io::Result<Process> {
    type Request = (Command, oneshot::Sender<io::Result<Process>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();

    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    if let Err(Ok(mut unwanted)) = reply.send(command.spawn()) {
                        // Whoever asked has gone: nobody would ever stop this one.
                        let _ = unwanted.kill();
                        let _ = unwanted.wait();
                    }
                }
            })
            .expect("a thread can be started");
        Mutex::new(requests)
    });
    let (reply, answer) = oneshot::channel();
    let sent = spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply));
    sent.expect("the spawner lives as long as the process");
    answer.await.expect("the spawner answers each request")
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn only_errors_of_a_json_log_are_complaints() {
        let check = |line: &str, expect: Option<&str>| {
            assert_eq!(complaint(line).as_deref(), expect, "{line}");
        };
        check(
            r#"{"s":"E","msg":"Failed to set up listener","attr":{"error":"in use"}}"#,
            Some(r#"Failed to set up listener: {"error":"in use"}"#),
        );
        check(r#"{"s":"F","msg":"Fatal"}"#, Some("Fatal"));
        check(r#"{"s":"I","msg":"Started"}"#, None);
        check("[1] [INF] Starting nats-server", None);
    }
}
