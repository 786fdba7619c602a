//! What the status of a LinkTable says. Pure.

use jiff::Timestamp;

use crate::{
    api::{
        conditions::{Truth, get, is_true, kind, reason, set},
        fault::Fault,
        link_connection::LinkPhase,
        link_table::{LinkTableStatus, Retry, TableError},
        report::{TablePhase, TableReport},
    },
    controller::{events::Happened, explain, status::Ready},
};

/// What was found out about a table.
pub struct Findings {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Why it is not linked.
    pub refusal: Option<Fault>,
    /// Phase of its link, if there is one.
    pub link_phase: Option<LinkPhase>,
    /// What a worker reports of it.
    pub report: Option<TableReport>,
    /// What a probe found wrong with it, while its link rests.
    pub probed: Option<Fault>,
    /// Value of its reseed annotation.
    pub reseed: Option<String>,
}

/// How much a status changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// Numbers and times only.
    Progress,
    /// Phase, error or conditions.
    State,
}

/// How much changed from one status to the next.
pub fn change(before: &LinkTableStatus, after: &LinkTableStatus) -> Change {
    let state = |status: &LinkTableStatus| {
        let error = status.error.clone();
        (status.observed_generation, status.phase, error, status.conditions.clone(), status.last_handled_reseed_at.clone())
    };
    if before == after {
        Change::None
    } else if state(before) == state(after) {
        Change::Progress
    } else {
        Change::State
    }
}

/// The status after these findings, and what happened on the way.
pub fn status(before: &LinkTableStatus, findings: &Findings, now: Timestamp) -> (LinkTableStatus, Vec<Happened>) {
    let mut status = before.clone();
    status.observed_generation = findings.generation;
    let phase_before = before.phase.unwrap_or_default();
    let mark = |status: &mut LinkTableStatus, kind: &str, truth: Truth, reason: &str, message: &str| {
        set(&mut status.conditions, kind, truth, reason, message, findings.generation, now);
    };
    match &findings.refusal {
        // Without its link nobody can say whether the table is accepted.
        Some(fault) if findings.link_phase.is_none() => {
            mark(&mut status, kind::ACCEPTED, Truth::Unknown, &fault.reason, &explain(fault));
        }
        Some(fault) => mark(&mut status, kind::ACCEPTED, Truth::False, &fault.reason, &explain(fault)),
        None => mark(&mut status, kind::ACCEPTED, Truth::True, reason::AS_REQUESTED, ""),
    }
    let at_rest = matches!(findings.link_phase, Some(LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped));
    let ready = match (&findings.refusal, &findings.report) {
        (Some(fault), _) => {
            forget(&mut status);
            Ready::fault(fault)
        }
        (None, Some(report)) if !at_rest => {
            take(&mut status, report);
            status.last_handled_reseed_at.clone_from(&findings.reseed);
            ready(report)
        }
        (None, _) => match findings.link_phase {
            _ if at_rest && findings.probed.is_some() => {
                status.error = findings.probed.as_ref().map(error);
                findings.probed.as_ref().map_or_else(|| Ready::unknown(reason::NOT_CHECKED, ""), Ready::fault)
            }
            Some(LinkPhase::Stopped) => {
                // The position is dropped: the next start loads the table anew.
                forget(&mut status);
                Ready::progressing(reason::STOPPED, "the link is stopped; the next start is a full load")
            }
            Some(LinkPhase::Initial | LinkPhase::Paused) if status.error.take().is_some() => {
                Ready::progressing(reason::PROGRESSING, "what was wrong is mended; the link rests")
            }
            Some(LinkPhase::Paused) if status.phase == Some(TablePhase::Replicating) => {
                Ready::yes(reason::PAUSED, "the link is paused; the target table is exact as of status.asOf")
            }
            Some(LinkPhase::Paused) => Ready::progressing(reason::PAUSED, "the link is paused"),
            _ if status.phase.is_none() || before.observed_generation != findings.generation => {
                status.phase = Some(status.phase.unwrap_or_default());
                Ready::unknown(reason::NEW_GENERATION, "no worker has reported on it yet")
            }
            // What was last heard stands until a worker says otherwise.
            _ => return finish(before, status, phase_before),
        },
    };
    let complete = match status.phase {
        Some(TablePhase::Replicating) => true,
        Some(TablePhase::Waiting | TablePhase::Snapshotting) | None => false,
        Some(TablePhase::Suspended | TablePhase::Failed) => is_true(&before.conditions, kind::SNAPSHOT_COMPLETE),
    };
    let word = if complete { reason::AS_REQUESTED } else { reason::PROGRESSING };
    mark(&mut status, kind::SNAPSHOT_COMPLETE, complete.into(), word, "");
    ready.write(&mut status.conditions, findings.generation, now);
    finish(before, status, phase_before)
}

fn finish(before: &LinkTableStatus, status: LinkTableStatus, phase_before: TablePhase) -> (LinkTableStatus, Vec<Happened>) {
    let mut events = Vec::new();
    if get(&before.conditions, kind::ACCEPTED).is_none_or(|accepted| accepted.status != "True")
        && is_true(&status.conditions, kind::ACCEPTED)
    {
        events.push(Happened::normal("AddTable", "the table is linked"));
    }
    if let (Some(known), Some(now)) = (&before.schema, &status.schema)
        && now.version > known.version
    {
        events.push(Happened::normal("ReplicatingSchema", format!("columns were added; the target table has {}", now.columns)));
    }
    let phase = status.phase.unwrap_or_default();
    if phase != phase_before {
        let error = status.error.as_ref().map(|error| format!("{}: {}; {}", error.code, error.message, error.remedy)).unwrap_or_default();
        events.extend(match phase {
            TablePhase::Snapshotting if before.last_handled_reseed_at != status.last_handled_reseed_at => {
                Some(Happened::normal("StartReseeding", "the first load begins anew"))
            }
            TablePhase::Snapshotting => Some(Happened::normal("StartSnapshotting", "the first load begins")),
            TablePhase::Replicating => Some(Happened::normal("StartReplicating", "the target table is exact; changes flow")),
            TablePhase::Suspended => Some(Happened::warning("SuspendTable", error)),
            TablePhase::Failed => Some(Happened::warning("FailTable", error)),
            TablePhase::Waiting if phase_before == TablePhase::Replicating => {
                Some(Happened::normal("StopTable", "the table is no longer replicated"))
            }
            TablePhase::Waiting => None,
        });
    }
    (status, events)
}

fn forget(status: &mut LinkTableStatus) {
    *status = LinkTableStatus {
        phase: Some(TablePhase::Waiting),
        observed_generation: status.observed_generation,
        last_handled_reseed_at: status.last_handled_reseed_at.take(),
        conditions: std::mem::take(&mut status.conditions),
        ..Default::default()
    };
}

fn take(status: &mut LinkTableStatus, report: &TableReport) {
    status.phase = Some(report.phase);
    status.snapshot.clone_from(&report.snapshot);
    status.count = Some(report.rows.try_into().unwrap_or(i64::MAX));
    status.bytes = Some(report.bytes.try_into().unwrap_or(i64::MAX));
    // Whole seconds: finer ones would be written for nobody.
    status.as_of = report.as_of.map(whole_second);
    status.last_processed_time = report.last_processed_time.map(whole_second);
    status.position.clone_from(&report.position);
    status.schema.clone_from(&report.schema);
    status.error = report.error.as_ref().map(error);
    status.retry = (report.attempt > 0)
        .then(|| Retry { attempt: report.attempt.try_into().unwrap_or(i32::MAX), next_time: report.next_attempt.map(whole_second) });
}

fn error(fault: &Fault) -> TableError {
    TableError { code: fault.reason.clone(), message: fault.message.clone(), remedy: fault.remedy.clone() }
}

/// A time without its fraction.
pub fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn ready(report: &TableReport) -> Ready {
    match (report.phase, &report.error, &report.waiting) {
        (TablePhase::Replicating, _, _) => Ready::yes(reason::REPLICATING, "the target table is exact as of status.asOf"),
        (TablePhase::Snapshotting, None, _) => Ready::progressing(reason::SNAPSHOTTING, "the first load is under way"),
        (TablePhase::Waiting, None, Some(why)) => Ready::progressing(&why.reason, explain(why)),
        (TablePhase::Waiting, None, None) => Ready::progressing(reason::PROGRESSING, "the first load has not begun"),
        (TablePhase::Failed, Some(fault), _) => Ready::stalled(&fault.reason, explain(fault)),
        (TablePhase::Failed, None, _) => Ready::stalled("Failed", "the worker gave no reason"),
        (TablePhase::Suspended, None, _) => Ready::progressing("Suspended", "the worker gave no reason"),
        (_, Some(fault), _) => Ready::progressing(&fault.reason, explain(fault)),
    }
}
