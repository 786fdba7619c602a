//! Compares tables with their source while the link runs, and repairs them if asked to (DESIGN, promise 1).
//!
//! The capturing worker does it for all tables, one at a time and range by range: the databases compute the checksums, and
//! a repair goes through the log that this worker writes. A table that is adopted is compared and repaired before it is exact.
//! [`compare`] is one table's comparison, [`trial`] says when a row differs.

mod compare;
mod trial;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use self::compare::Comparison;
use super::{Context, capture::Order, error::Error, group::Life, join, repair, retry, state::RunState};
use crate::{
    api::{
        fault::{Explain, Fault},
        plan::{Plan, PlannedTable},
        verification::{TableVerification, Verification, VerificationResult, VerifyRequest},
    },
    data::Position,
    protection::Protection,
    replication::state::TableState,
    source,
    target::Incarnation,
};

/// How often it is looked for something to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A comparison that failed so often for reasons that may pass is given up.
const ATTEMPTS: u32 = 5;

/// A table that is to be compared.
struct Job {
    planned: PlannedTable,
    /// None: the table is being adopted.
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

/// What is compared next: the number of the table in the run, and its state.
type Next = (Job, u32, Box<TableState>);

/// Compares the tables for which the plan asks it, and those that are adopted, for ever. What was found stands on the board; a
/// request is done with once it stands there, an adoption once nothing differs.
pub async fn manage(context: &Context, orders: mpsc::Sender<Order>) -> Result<(), Error> {
    let mut plan = context.plan.clone();
    let mut retries: HashMap<String, (u32, Instant)> = HashMap::new();
    let mut adopted: HashSet<Life> = HashSet::new();
    loop {
        let planned = plan.borrow_and_update().clone();
        let state = context.journal.state();
        let due = |uid: &str| retries.get(uid).is_none_or(|(_, at)| *at <= Instant::now());
        // Those that are adopted come first: nobody can rely on them before.
        let next = match to_adopt(context, &planned, &state, |life, uid| !adopted.contains(&life) && due(uid)).await {
            None => requested(context, &planned, &state, due),
            adopting => adopting,
        };
        let Some((job, id, table)) = next else {
            tokio::select! {
                changed = plan.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            continue;
        };
        let (name, life, adopting) = (table.schema.name.clone(), (id, table.incarnation), table.adopting());
        tracing::info!(table = %name, repair = job.repair, adopting, "comparing the table with its source");
        // A row that had no rest while it was looked at changed since the table joined, and such changes are whole rows; but in place
        // they leave the key as the target spells it.
        let may_be_restless = !repair::has_loose_key(&table.schema);
        let found = if adopting && !Protection::Adoption.holds() {
            Ok(blank(VerificationResult::Equal))
        } else {
            Comparison::new(context, &orders, id, *table, job.repair).run().await
        };
        let attempt = retries.remove(&job.planned.uid).map_or(1, |(attempt, _)| attempt + 1);
        let mut again = adopting;
        match found {
            Ok(found) => {
                // A row that could not be judged for another reason, which is told, may be wrong.
                let right = match found.result {
                    VerificationResult::Equal => true,
                    VerificationResult::Unsettled => may_be_restless,
                    _ => false,
                };
                if adopting && right && found.message.is_none() {
                    // The capture has passed all that was looked at.
                    join::read_all(&orders, life, Position::default()).await?;
                    adopted.insert(life);
                    again = false;
                }
                tell(context, &job, found);
            }
            Err(error) => {
                let fault = error.fault();
                tracing::warn!(table = %name, reason = fault.reason, message = fault.message, attempt, "the comparison was not completed");
                // One that was interrupted begins again once the table is exact again, however often. What changed in the table is
                // for the capture to judge: soon it has another version, or has failed.
                let interrupted = matches!(error, Error::VerificationInterrupted(_) | Error::Source(source::Error::SchemaChanged(_)));
                if !interrupted && (!fault.heals || attempt >= ATTEMPTS) {
                    tell(context, &job, failed(&fault));
                } else {
                    again = true;
                }
            }
        }
        if again {
            retries.insert(job.planned.uid, (attempt, Instant::now() + retry::delay(attempt)));
        }
    }
}

/// The next table for which the plan asks it.
fn requested(context: &Context, plan: &Plan, state: &RunState, due: impl Fn(&str) -> bool) -> Option<Next> {
    let wanted = |table| wanted(table, plan.verify.as_ref(), |request| context.board.has_verified(&table.uid, request));
    for job in plan.tables.iter().filter(|table| due(&table.uid)).filter_map(wanted) {
        match readiness(state, &job.planned, context.board.failure(&job.planned.uid)) {
            Readiness::NotYet => {}
            Readiness::Never(fault) => tell(context, &job, failed(&fault)),
            Readiness::Ready(id, table) => return Some((job, id, table)),
        }
    }
    None
}

/// The next table that is adopted: the target has taken it over, and it was not found to be right before.
async fn to_adopt(context: &Context, plan: &Plan, state: &RunState, due: impl Fn(Life, &str) -> bool) -> Option<Next> {
    let open = |(id, table): (&u32, &TableState)| table.adopting() && table.passed.is_none() && due((*id, table.incarnation), &table.uid);
    let adopting: Vec<(&u32, &TableState)> = state.tables.iter().filter(|table| open(*table)).collect();
    if adopting.is_empty() {
        return None;
    }
    // Where it cannot be asked, nothing can be compared.
    let progresses = context.setup.target.link_progress(&plan.link.link_id).await.ok()?;
    adopting.into_iter().find_map(|(id, table)| {
        let life = Incarnation { run: state.run, record: table.incarnation };
        progresses.get(&table.schema.name).filter(|progress| progress.incarnation == life)?;
        let planned = plan.tables.iter().find(|planned| planned.uid == table.uid && planned.reseed == table.reseed)?.clone();
        Some((Job { planned, requests: vec![], repair: true }, *id, Box::new(table.clone())))
    })
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
    use crate::{api::link_table::TableOptions, data::TableName};

    #[test]
    fn requests_of_table_and_link_are_answered_once_and_together() {
        let request = |at: &str, repair| Some(VerifyRequest { requested_at: at.to_owned(), repair });
        let name = TableName::new("public", "t");
        let planned = |verify| PlannedTable {
            name: "t".into(),
            uid: "u".into(),
            source: name.clone(),
            target: name.clone(),
            options: TableOptions::default(),
            reseed: None,
            verify,
        };
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
