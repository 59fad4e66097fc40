//! EzOut messaging: from a phone's POST to a durable event, a basket in MongoDB and a live update.
//!
//! ```text
//! phone ─POST─▶ http ─▶ journal ══ stream CHECKOUT ══▶ project ─▶ views (MongoDB) ─▶ http (reads)
//!                                                         └────▶ updates ══ stream UPDATES ══▶ updates.store.{shop}
//! ```
//!
//! The layers, of which each imports only those under it (a test keeps that true):
//!
//! - `main`, [`app`], [`config`], [`tools`] compose;
//! - [`http`], [`live`], [`project`], [`correct`], [`present`], [`admit`] are stages; of them only [`http`] calls another, to hand a viewer to [`live`];
//! - [`access`] knows who is calling, for stages;
//! - [`refold`] folds baskets anew from the journal, for stages and commands;
//! - [`journal`], [`updates`], [`views`], [`resgate`], [`metrics`], [`trace`] are adapters, one outside system each; they never know one another;
//! - [`nats`] is what the adapters of NATS build on: the connection, streams read in order, users and how one comes in;
//! - [`core`] is pure: no I/O, no clock.
//!
//! What always holds: the journal is the only truth; an acknowledged event is in it once and in its
//! basket once; only [`project`] writes baskets; the core never fails on stored data; any step may
//! run twice.

pub mod access;
pub mod admit;
pub mod app;
pub mod config;
pub mod core;
pub mod correct;
pub mod http;
pub mod journal;
pub mod keys;
pub mod live;
pub mod metrics;
pub mod nats;
pub mod present;
pub mod project;
pub mod refold;
pub mod resgate;
pub mod tools;
pub mod trace;
pub mod updates;
pub mod views;
