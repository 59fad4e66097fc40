//! Who may do what, at every door: HTTP, live updates, and resources with and without Resgate.
//!
//! What is expected is worked out from the policy and from the tables of routes and resources, so that whatever is added
//! there and is not known here fails by its name.

mod alike;
mod audit;
mod browsers;
mod commands;
mod faults;
mod floods;
pub mod guarded;
mod hostile;
mod matrix;
mod names;
mod rates;
mod resources;
mod revoked;
mod sending;
mod slow;
mod streams;
