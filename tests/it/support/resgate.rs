//! The real Resgate in tests that need it: started against a stack, and asked at the end whether it had anything to complain about.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;

use ezout::nats::User;
use ezout::tools::servers::{ResgateOptions, ResgateServer, free_port};

use super::{Stack, binaries, skip};

/// Resgate's program; None where there is none, which is then said loudly, and is a failure with `EZOUT_TEST_REQUIRE=resgate`.
pub fn program() -> Option<PathBuf> {
    let program = binaries().resgate;
    if program.is_none() {
        skip(
            "resgate",
            "there is no resgate 1.8 on PATH, and EZOUT_RESGATE_BIN names none; \
             `go install github.com/resgateio/resgate@v1.8.0` brings it",
        );
    }
    program
}

/// A Resgate of a test's own.
///
/// When it is dropped, the test fails if its log has an error or a deprecation, or if it has ended without the test's doing.
pub struct Resgate {
    pub server: ResgateServer,
    /// Ended by the test; what it wrote then is no fault.
    ended: bool,
    tolerated: Vec<&'static str>,
}

impl Resgate {
    /// Starts one for the stack's NATS. None where there is no program: the test is over then.
    pub async fn start(stack: &Stack) -> Option<Self> {
        Self::start_with(stack, |_| ()).await
    }

    /// Starts one with other options. Without other options it logs every message, so that a failure can be understood.
    pub async fn start_with(stack: &Stack, choose: impl FnOnce(&mut ResgateOptions)) -> Option<Self> {
        let program = program()?;
        let name = format!("resgate-{}", free_port().expect("a port"));
        let mut options = ResgateOptions::in_folder(&stack.folder().join(name), stack.nats.url_of(User::Resgate));
        options.trace = true;
        choose(&mut options);
        let server = ResgateServer::start(&program, options).await.expect("Resgate starts");
        Some(Self {
            server,
            ended: false,
            tolerated: Vec::new(),
        })
    }

    /// The address for `WebSocket` clients.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The address of the resources over HTTP, to be followed by a name with slashes for its dots.
    pub fn api_url(&self) -> String {
        self.server.api_url()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.server.log()).expect("its log can be read")
    }

    /// Takes an error in its log that contains `part` for no fault: the test has brought it about.
    pub fn tolerate(&mut self, part: &'static str) {
        self.tolerated.push(part);
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        self.ended = true;
        self.server.kill().await;
    }

    /// Waits until it has ended since the test took its NATS away, as it does.
    pub async fn loses_nats(&mut self) -> ExitStatus {
        self.ended = true;
        self.tolerate("lost NATS connection");
        self.server.exited().await
    }

    /// Starts it again at the same address.
    pub async fn restart(&mut self) {
        self.server.restart().await.expect("Resgate starts again");
        self.ended = false;
    }

    /// What it has complained about that the test did not bring about.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| !line.contains("[TRC]"));
        lines
            .filter(|line| line.contains("[ERR]") || line.contains("Deprecation"))
            .filter(|line| !self.tolerated.iter().any(|part| line.contains(part)))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Resgate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "Resgate complains:\n{}", complaints.join("\n"));
        assert!(
            self.ended || self.server.is_running(),
            "Resgate has ended:\n{}",
            self.log()
        );
    }
}
