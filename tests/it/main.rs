//! The integration tests: everything real, one binary, servers shared where a test allows it.
#![expect(unreachable_pub, reason = "nothing is outside of a test binary")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod abandon;
mod access;
mod append;
mod backup;
mod chaos;
mod compose;
mod contracts;
mod corrections;
mod dev;
mod doctor;
mod edits;
mod fuzz;
mod grafana;
mod handling;
mod handover;
mod journal;
mod live;
mod looking;
mod migrate;
mod mongodb_roles;
mod nats_users;
mod page;
mod project;
mod readme;
mod rebuild;
mod resources;
mod servers;
mod support;
mod tidy;
mod tokens;
mod traces;
mod updates;
mod web;
