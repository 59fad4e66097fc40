//! placeholder
pub mod core;
pub mod metrics;
pub mod views;
