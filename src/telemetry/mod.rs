//! Logs, metrics and health: how a process tells what it does to those who run it.
//!
//! Owns how metrics are made and the plain HTTP endpoints. Must never be given a secret.

mod health;
mod logs;
mod metrics;

pub use health::{Readiness, listen, serve_health};
pub use logs::{follow as follow_logs, start as start_logs};
pub use metrics::{Described, Meters, retain};
