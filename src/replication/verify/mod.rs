//! Compares tables with their source while the link runs, and repairs them if asked to (DESIGN, promise 1).
//!
//! The capturing worker does it for all tables, one at a time and range by range: the databases compute the checksums, and
//! a repair goes through the log that this worker writes. [`compare`] is one table's comparison, [`trial`] says when a row
//! differs.

mod compare;
mod trial;

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use self::compare::Comparison;
use super::{Context, capture::Order, error::Error, retry, state::RunState};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::PlannedTable,
        verification::{TableVerification, Verification, VerificationResult, VerifyRequest},
    },
    replication::state::TableState,
};

/// How often it is looked for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A comparison that failed so often for reasons that may pass is given up.
const ATTEMPTS: u32 = 5;

/// A table that is to be compared.
struct Job {
    planned: PlannedTable,
    requests: Vec<String>,
    repair: bool,
}

/// Whether a table can be compared now.
enum Readiness {
    /// It is not exact yet, or not for now.
    NotYet,
    /// It will not be before a person does something.
    Never(Fault),
    /// It is exact.
    Ready(u32, Box<TableState>),
}

/// Compares the tables for which the plan asks it, for ever. What was found stands on the board; a request is done with once
/// it stands there.
pub async fn manage(context: &Context, orders: mpsc::Sender<Order>) -> Result<(), Error> {
    let mut plan = context.plan.clone();
    let mut retries: HashMap<String, (u32, Instant)> = HashMap::new();
    loop {
        let planned = plan.borrow_and_update().clone();
        let state = context.journal.state();
        let due = |job: &Job| retries.get(&job.planned.uid).is_none_or(|(_, at)| *at <= Instant::now());
        let jobs = planned
            .tables
            .iter()
            .filter_map(|table| wanted(table, planned.verify.as_ref(), |request| context.board.has_verified(&table.uid, request)));
        let mut ready = None;
        for job in jobs.filter(due) {
            match readiness(&state, &job.planned, context.board.failure(&job.planned.uid)) {
                Readiness::NotYet => {}
                Readiness::Never(fault) => tell(context, &job, failed(&fault)),
                Readiness::Ready(id, table) => {
                    ready = Some((job, id, table));
                    break;
                }
            }
        }
        let Some((job, id, table)) = ready else {
            tokio::select! {
                changed = plan.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            continue;
        };
        let name = table.schema.name.clone();
        tracing::info!(table = %name, repair = job.repair, "comparing the table with its source");
        match Comparison::new(context, &orders, id, *table, job.repair).run().await {
            Ok(found) => {
                retries.remove(&job.planned.uid);
                tell(context, &job, found);
            }
            Err(error) => {
                let attempt = retries.get(&job.planned.uid).map_or(1, |(attempt, _)| attempt + 1);
                let fault = error.fault();
                tracing::warn!(table = %name, reason = fault.reason, message = fault.message, attempt, "the comparison was not completed");
                // One that was interrupted begins again once the table is exact again, however often.
                let interrupted = matches!(error, Error::VerificationInterrupted(_));
                if !interrupted && (!fault.heals || attempt >= ATTEMPTS) {
                    retries.remove(&job.planned.uid);
                    tell(context, &job, failed(&fault));
                } else {
                    retries.insert(job.planned.uid, (attempt, Instant::now() + retry::delay(attempt)));
                }
            }
        }
    }
}

/// The comparison that the plan asks for and that was not made yet, the table's own request and the link's in one.
fn wanted(table: &PlannedTable, of_link: Option<&VerifyRequest>, done: impl Fn(&str) -> bool) -> Option<Job> {
    let open: Vec<&VerifyRequest> =
        [table.verify.as_ref(), of_link].into_iter().flatten().filter(|asked| !done(&asked.requested_at)).collect();
    let requests: Vec<String> = open.iter().map(|asked| asked.requested_at.clone()).collect();
    let repair = open.iter().any(|asked| asked.repair);
    (!requests.is_empty()).then(|| Job { planned: table.clone(), requests, repair })
}

fn readiness(state: &RunState, planned: &PlannedTable, failure: Option<Fault>) -> Readiness {
    if let Some(fault) = failure {
        return Readiness::Never(fault);
    }
    let Some((id, table)) = state.table(&planned.source).filter(|(_, table)| table.uid == planned.uid && !table.left) else {
        return Readiness::NotYet;
    };
    match &table.fault {
        Some(fault) if !fault.heals => Readiness::Never(fault.clone()),
        None if table.exact.is_some() && table.reseed == planned.reseed => Readiness::Ready(id, Box::new(table.clone())),
        _ => Readiness::NotYet,
    }
}

fn tell(context: &Context, job: &Job, found: Verification) {
    tracing::info!(table = %job.planned.source, result = %found.result, "{}", found.summary());
    context.board.verified(TableVerification { uid: job.planned.uid.clone(), requests: job.requests.clone(), found });
}

fn failed(fault: &Fault) -> Verification {
    Verification { message: Some(format!("{}: {}; {}", fault.reason, fault.message, fault.remedy)), ..blank(VerificationResult::Failed) }
}

/// A comparison that has found nothing.
fn blank(result: VerificationResult) -> Verification {
    Verification {
        time: Timestamp::now(),
        position: None,
        result,
        source_rows: 0,
        target_rows: 0,
        differing_rows: 0,
        repaired: 0,
        unsettled_rows: 0,
        differing_ranges: vec![],
        message: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TableName;

    #[test]
    fn requests_of_table_and_link_are_answered_once_and_together() {
        let request = |at: &str, repair| Some(VerifyRequest { requested_at: at.to_owned(), repair });
        let name = TableName::new("public", "t");
        let planned =
            |verify| PlannedTable { name: "t".into(), uid: "u".into(), source: name.clone(), target: name.clone(), reseed: None, verify };
        let of_link = request("l1", false);
        let of = |table: &PlannedTable, done: &[&str]| {
            wanted(table, of_link.as_ref(), |request| done.contains(&request)).map(|job| (job.requests.join(" "), job.repair))
        };
        assert_eq!(of(&planned(request("t1", true)), &[]), Some(("t1 l1".to_owned(), true)));
        assert_eq!(of(&planned(request("t1", true)), &["t1"]), Some(("l1".to_owned(), false)));
        assert_eq!(of(&planned(request("t1", true)), &["t1", "l1"]), None);
        assert_eq!(of(&planned(None), &["l1"]), None);
    }
}
