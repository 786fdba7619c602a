//! Keeps the engine running: from the first plan until the process is told to stop, anew when a plan moves the link.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinError, time};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    systems::{Systems, same_places},
};
use crate::{
    api::plan::Plan,
    replication::{self, EngineReport, Setup},
};

/// How long an engine may take to finish what is in flight.
const DRAIN: Duration = Duration::from_secs(30);
/// Pause between attempts to open systems that cannot be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Supervisor<Open> {
    pub worker: String,
    pub ordinal: u32,
    /// Memory that the process may have, bytes.
    pub memory: u64,
    pub metrics: replication::metrics::Metrics,
    /// Opens a plan's systems.
    pub open: Open,
    pub plans: watch::Receiver<Option<Arc<Plan>>>,
    /// Told what is open, for those who check.
    pub systems: watch::Sender<Option<Arc<Systems>>>,
    /// Told by which plan it works: of one that moves the link only once the engine before has ended.
    pub revision: watch::Sender<u64>,
    pub report: watch::Sender<EngineReport>,
}

/// Why an engine was stopped.
enum Stopped {
    Moved,
    ForGood,
}

impl<Open: Fn(&Plan) -> Systems> Supervisor<Open> {
    /// Returns after `stop`, or with what ended the engine.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let plan = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                plan = newest(&mut self.plans) => plan,
            };
            let systems = Arc::new((self.open)(&plan));
            self.systems.send_replace(Some(systems.clone()));
            self.revision.send_replace(plan.revision);
            let (Ok(zone), Ok(source), Ok(target)) = (systems.zone.clone(), systems.source.clone(), systems.target.clone()) else {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    _ = self.plans.changed() => {}
                    () = time::sleep(OPEN_AGAIN) => {}
                }
                continue;
            };
            let setup = Setup {
                worker: self.worker.clone(),
                ordinal: self.ordinal,
                zone,
                source,
                target,
                chunk_bytes: replication::CHUNK_BYTES,
                memory: self.memory,
                sweep_every: replication::SWEEP_EVERY,
                compare_every: replication::COMPARE_EVERY,
                settle_for: replication::SETTLE_FOR,
                wait_for: replication::WAIT_FOR,
                metrics: self.metrics.clone(),
            };
            match self.run_engine(setup, plan, &stop).await? {
                Stopped::ForGood => return Ok(()),
                Stopped::Moved => {}
            }
        }
    }

    async fn run_engine(&mut self, setup: Setup, plan: Arc<Plan>, stop: &CancellationToken) -> Result<Stopped, Error> {
        tracing::info!(revision = plan.revision, run = plan.run, "engine starts");
        let engine_stop = CancellationToken::new();
        let (plan_sender, plan_receiver) = watch::channel(plan.clone());
        self.report.send_replace(EngineReport::default());
        let mut engine = tokio::spawn(replication::run(setup, plan_receiver, self.report.clone(), engine_stop.clone()));
        let why = loop {
            tokio::select! {
                () = stop.cancelled() => break Stopped::ForGood,
                result = &mut engine => return Err(Error::EngineEnded(describe(result))),
                newest = next(&mut self.plans) => {
                    if !same_places(&plan, &newest) {
                        tracing::info!(revision = newest.revision, "source, target or zone moved");
                        break Stopped::Moved;
                    }
                    self.revision.send_replace(newest.revision);
                    plan_sender.send_replace(newest);
                }
            }
        };
        engine_stop.cancel();
        match time::timeout(DRAIN, &mut engine).await {
            Ok(Ok(())) => tracing::info!("engine stopped"),
            Ok(Err(error)) => return Err(Error::EngineEnded(describe(Err(error)))),
            Err(_) => {
                tracing::warn!("engine did not stop within {DRAIN:?} and was cut off: it goes on from the last commit");
                engine.abort();
            }
        }
        Ok(why)
    }
}

fn describe(result: Result<(), JoinError>) -> String {
    result.map_or_else(|error| error.to_string(), |()| "without being told to".to_owned())
}

/// The plan in force, once there is one.
async fn newest(plans: &mut watch::Receiver<Option<Arc<Plan>>>) -> Arc<Plan> {
    loop {
        if let Some(plan) = plans.borrow_and_update().clone() {
            return plan;
        }
        changed(plans).await;
    }
}

/// The next plan.
async fn next(plans: &mut watch::Receiver<Option<Arc<Plan>>>) -> Arc<Plan> {
    changed(plans).await;
    newest(plans).await
}

async fn changed(plans: &mut watch::Receiver<Option<Arc<Plan>>>) {
    if plans.changed().await.is_err() {
        // Nobody can offer a plan any more: there will be no other.
        std::future::pending::<()>().await;
    }
}
