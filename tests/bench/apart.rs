//! Processes that this program starts of itself: clients, and what the service is compared with.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// What such a process says when it is ready.
const READY: &[u8; 6] = b"ready\n";

/// Such a process; it is killed when this is dropped.
pub(crate) struct Apart(Child);

impl Apart {
    /// Clients of that kind, which have the processors only when nobody else wants them: elsewhere they would be on
    /// other machines.
    pub(crate) async fn behind(kind: &str, address: SocketAddr) -> Self {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(this_program());
        Self::start(command, kind, &[&address.to_string()]).await
    }

    /// Something that is measured itself.
    pub(crate) async fn beside(kind: &str, words: &[&str]) -> Self {
        Self::start(Command::new(this_program()), kind, words).await
    }

    /// Returns when it has said that it is ready.
    async fn start(mut command: Command, kind: &str, words: &[&str]) -> Self {
        let mut process = command
            .arg(kind)
            .args(words)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut said = [0; READY.len()];
        let out = process.stdout.as_mut().expect("it is piped");
        out.read_exact(&mut said).await.expect("it becomes ready");
        assert_eq!(said, *READY);
        Self(process)
    }

    /// For who used the processors.
    pub(crate) fn id(&self) -> u32 {
        self.0.id().expect("nobody waited for it")
    }

    pub(crate) fn is_there(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_none()
    }
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("the bench is a program")
}

/// Says to who started this process that it is ready.
pub(crate) fn say_ready() {
    let mut out = std::io::stdout();
    out.write_all(READY).expect("somebody waits");
    out.flush().expect("somebody waits");
}
