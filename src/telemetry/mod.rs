//! Logs, metrics and health: how a process tells what it does to those who run it.
//!
//! Owns the one metrics registry and the plain HTTP endpoints. Must never be given a secret.

mod health;
mod logs;

use std::sync::LazyLock;

pub use health::{Readiness, listen, serve_health};
pub use logs::start as start_logs;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// The process's metrics. Names begin with `link_operator_`.
pub fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);
    &REGISTRY
}

/// Makes a gauge in [`registry`]. Names and labels are constants of the program.
///
/// # Panics
/// On a name that is invalid or taken.
#[expect(clippy::expect_used, reason = "only a constant name that is invalid or taken fails: a test shows it at once")]
pub fn gauge(name: &'static str, help: &'static str, labels: &[&'static str]) -> IntGaugeVec {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid name and labels");
    registry().register(Box::new(gauge.clone())).expect("a name of its own");
    gauge
}

/// Makes a counter in [`registry`]. Names and labels are constants of the program.
///
/// # Panics
/// On a name that is invalid or taken.
#[expect(clippy::expect_used, reason = "only a constant name that is invalid or taken fails: a test shows it at once")]
pub fn counter(name: &'static str, help: &'static str, labels: &[&'static str]) -> IntCounterVec {
    let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name and labels");
    registry().register(Box::new(counter.clone())).expect("a name of its own");
    counter
}
