//! The signals that ask the process to stop.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Signals this soon after another one are the same wish: a terminal and a wrapper may both send it.
const SAME_WISH: Duration = Duration::from_millis(300);

/// What asks us to stop: Ctrl-C, a service manager, a terminal that was closed.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    last: Option<Instant>,
}

impl StopSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system has no such signals to give.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            last: None,
        })
    }

    /// Waits until somebody wants the process to stop; the second time, until somebody wants it again.
    pub async fn received(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.hangup.recv() => {}
            }
            let now = Instant::now();
            let before = self.last.replace(now);
            if before.is_none_or(|before| now - before > SAME_WISH) {
                return;
            }
        }
    }
}
