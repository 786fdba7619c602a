//! The engine: snapshot, capture, batch, commit, apply. Knows no Kubernetes and no vendor.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        fault::Check,
        plan::Plan,
        report::{PositionReport, SourceReport, TableReport},
    },
    landing::Zone,
    source::Source,
    target::Target,
};

/// What an engine works with.
#[derive(Clone)]
pub struct Setup {
    /// Name of this worker, for logs.
    pub worker: String,
    /// Which of the plan's workers this is, from 0.
    pub ordinal: u32,
    /// Where files are staged.
    pub zone: Zone,
    /// The operational database.
    pub source: Arc<dyn Source>,
    /// The analytical target.
    pub target: Arc<dyn Target>,
}

/// What an engine knows of its share of the link; becomes part of the worker's report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineReport {
    /// The run it works in.
    pub run: Option<u32>,
    /// The term of its capture.
    pub term: Option<u64>,
    /// Intent Drain was carried out.
    pub drained: bool,
    /// What stops the link as a whole, by the name of a condition (`CapturePrepared`, `ZoneOwned` …).
    pub checks: Vec<Check>,
    /// What the source says of itself.
    pub source: Option<SourceReport>,
    /// Where the link is.
    pub position: Option<PositionReport>,
    /// The tables that this worker owns.
    pub tables: Vec<TableReport>,
}

/// Works by the newest plan until `stop`; then finishes what is in flight, at most seconds, and returns. Errors do not end
/// it: they stand in the report, and the engine tries again with back-off.
pub async fn run(_setup: Setup, _plan: watch::Receiver<Arc<Plan>>, _report: watch::Sender<EngineReport>, stop: CancellationToken) {
    stop.cancelled().await;
}
