//! Logs, metrics and health: how a process tells what it does to those who run it.
//!
//! Owns the one metrics registry and the plain HTTP endpoints. Must never be given a secret.

mod health;
mod logs;

use std::sync::LazyLock;

pub use health::{Readiness, listen, serve_health};
pub use logs::start as start_logs;
use prometheus::Registry;

/// The process's metrics. Names begin with `link_operator_`.
pub fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);
    &REGISTRY
}

/// Adds a metric to [`registry`] and returns it; one that is there already under its name is only returned.
pub fn register<M: prometheus::core::Collector + Clone + 'static>(metric: M) -> M {
    // The only other error is a name that is taken: then the metric counts for itself and is not shown.
    if let Err(error) = registry().register(Box::new(metric.clone())) {
        tracing::warn!(%error, "metric not registered");
    }
    metric
}
