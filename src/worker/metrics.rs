//! What a worker counts.

use std::sync::LazyLock;

use prometheus::IntGaugeVec;

use crate::telemetry::gauge;

/// Revision of the plan in force.
pub(super) static PLAN_REVISION: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("link_operator_plan_revision", "Revision of the plan that the worker works by.", &[]));

/// Whether a check fails.
pub(super) static CHECK_FAILED: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauge("link_operator_check_failed", "1 while the check of this name fails, else 0.", &["check"]));
