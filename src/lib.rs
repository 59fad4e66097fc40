//! placeholder
pub mod core;
pub mod metrics;
