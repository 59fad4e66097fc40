//! The pure core: no I/O, no clock, and total on stored data.
//!
//! Everything here is a function of its arguments, so the domain is tested without a runtime, and a
//! basket folded again from the journal comes out the same to the byte.

pub mod basket;
pub mod event;
pub mod failpoint;
pub mod id;
pub mod money;
pub mod retry;
pub mod update;
