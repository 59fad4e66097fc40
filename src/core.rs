//! The pure core: no I/O, no clock, and total on stored data.
//!
//! Everything here is a function of its arguments, so the domain is tested without a runtime, and a
//! basket folded again from the journal comes out the same to the byte.

pub mod address;
pub mod basket;
pub mod duration;
pub mod event;
pub mod failpoint;
pub mod id;
pub mod money;
pub(crate) mod places;
pub mod policy;
pub mod query;
pub mod retry;
pub mod shop;
pub mod trace;
pub mod update;

/// An error with all of its causes, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
