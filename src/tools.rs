//! The commands beside the service, one file each, and the servers that some of them start.

pub mod backup;
pub mod corrections;
mod deed;
pub mod dev;
pub mod doctor;
pub mod member;
pub mod migrate;
mod operator;
pub mod parked;
mod past;
pub mod rebuild;
pub mod replay;
pub mod restore;
pub mod revoke;
pub mod servers;
pub mod shop;
pub mod simulate;
pub mod tail;
pub mod token;
pub mod trace;

use std::io::Write as _;

/// Tells the person at the terminal. A terminal that was closed is no reason to stop in disorder.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Tells the person at the terminal what went wrong.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
