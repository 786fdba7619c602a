//! Makes one report of all that the worker knows, at most about two a second.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};

use super::checks::Answers;
use crate::{
    api::{
        fault::Check,
        plan::Plan,
        report::{REPORT_FORMAT, Report},
    },
    replication::EngineReport,
};

/// Shortest time between two reports.
const COALESCE: Duration = Duration::from_millis(500);

/// The newest report; none before there is a plan.
pub type Newest = Option<Arc<Report>>;

/// Puts a new report into `newest` whenever plan, answers or the engine's report changed. Never ends while they can.
pub(super) async fn collect(
    worker: String,
    mut plans: watch::Receiver<Option<Arc<Plan>>>,
    mut answers: watch::Receiver<Answers>,
    mut engine: watch::Receiver<EngineReport>,
    newest: watch::Sender<Newest>,
) {
    let mut sequence = 0;
    loop {
        let plan = plans.borrow_and_update().clone();
        let (answers_now, engine_now) = (answers.borrow_and_update().clone(), engine.borrow_and_update().clone());
        if let Some(plan) = plan {
            sequence += 1;
            let report = build(sequence, &worker, plan.revision, answers_now, engine_now);
            newest.send_if_modified(|newest| {
                let news = newest.as_ref().is_none_or(|old| Report { sequence, ..(**old).clone() } != report);
                if news {
                    *newest = Some(Arc::new(report));
                }
                news
            });
            time::sleep(COALESCE).await;
        }
        let changed = tokio::select! {
            changed = plans.changed() => changed,
            changed = answers.changed() => changed,
            changed = engine.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A report without anything known yet.
pub(super) fn empty(worker: String) -> Report {
    Report {
        format_version: REPORT_FORMAT,
        sequence: 1,
        worker,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plan_revision: 0,
        run: None,
        term: None,
        drained: false,
        released: false,
        checks: Vec::new(),
        credential_expiry: None,
        source: None,
        discovery: None,
        position: None,
        position_lost: None,
        tables: Vec::new(),
        verifications: Vec::new(),
    }
}

fn build(sequence: u64, worker: &str, plan_revision: u64, answers: Answers, engine: EngineReport) -> Report {
    Report {
        sequence,
        plan_revision,
        run: engine.run,
        term: engine.term,
        drained: engine.drained,
        checks: merge(answers.checks, engine.checks),
        credential_expiry: answers.credential_expiry,
        source: engine.source,
        discovery: answers.discovery,
        position: engine.position,
        position_lost: engine.position_lost,
        tables: engine.tables,
        verifications: engine.verifications,
        ..empty(worker.to_owned())
    }
}

/// One check a name: what the engine met while working counts, unless all is well with it and the question was answered
/// with a fault.
fn merge(asked: Vec<Check>, met: Vec<Check>) -> Vec<Check> {
    let mut merged = asked;
    for check in met {
        match merged.iter_mut().find(|other| other.name == check.name) {
            Some(other) if check.fault.is_some() || other.fault.is_none() => *other = check,
            Some(_) => {}
            None => merged.push(check),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fault::Fault;

    #[test]
    fn a_fault_wins_over_all_well_whoever_found_it() {
        let fault = |reason: &str| Fault { reason: reason.to_owned(), message: String::new(), remedy: String::new(), heals: true };
        let failed = |name: &str, reason: &str| Check::failed(name, fault(reason));
        let merged = merge(
            vec![failed("A", "asked"), Check::passed("B", ""), failed("C", "asked")],
            vec![Check::passed("A", ""), failed("B", "met"), failed("C", "met"), failed("D", "met")],
        );
        let reasons: Vec<_> = merged.iter().map(|check| (check.name.as_str(), check.fault.as_ref().map(|f| f.reason.as_str()))).collect();
        assert_eq!(reasons, [("A", Some("asked")), ("B", Some("met")), ("C", Some("met")), ("D", Some("met"))]);
    }
}
