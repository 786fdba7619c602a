//! What the status of a LinkTable says. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use strum::VariantNames as _;

use crate::{
    api::{
        conditions::{Truth, get, is_true, kind, reason, set},
        fault::Fault,
        link_connection::LinkPhase,
        link_table::{LinkTableStatus, Retry, TableError},
        report::{TablePhase, TableReport},
        verification::{TableVerification, Verification, VerificationResult},
    },
    controller::{
        events::Happened,
        explain,
        status::{Change, Ready},
    },
    source,
};

/// What was found out about a table.
pub struct Findings {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Why it is not linked.
    pub refusal: Option<Fault>,
    /// Whether its link made it: the link has told that it did.
    pub owned: bool,
    /// Phase of its link, if there is one.
    pub link_phase: Option<LinkPhase>,
    /// What a worker reports of it.
    pub report: Option<TableReport>,
    /// What a probe found wrong with it in the source, if one looked, while its link rests.
    pub probed: Option<Result<(), Fault>>,
    /// What a worker found by comparing it with its source.
    pub verified: Option<TableVerification>,
    /// Value of its verify annotation.
    pub verify: Option<String>,
}

/// How much changed from one status to the next.
pub fn change(before: &LinkTableStatus, after: &LinkTableStatus) -> Change {
    let state = |status: &LinkTableStatus| {
        let error = status.error.clone();
        let handled = (status.last_handled_reseed_at.clone(), status.last_handled_verify_at.clone());
        let version = status.schema.as_ref().map(|schema| schema.version);
        (status.observed_generation, status.phase, error, status.conditions.clone(), handled, status.verification.clone(), version)
    };
    Change::between(before, after, state)
}

/// The status after these findings, and what happened on the way.
pub fn status(before: &LinkTableStatus, findings: &Findings, now: Timestamp) -> (LinkTableStatus, Vec<Happened>) {
    let mut status = before.clone();
    status.observed_generation = findings.generation;
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
    let was_refused = get(&before.conditions, kind::ACCEPTED).is_some_and(|accepted| accepted.status != "True");
    let at_rest = matches!(findings.link_phase, Some(LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped));
    let report = findings.report.as_ref().filter(|report| !says_nothing(report) || is_known(before));
    let ready = match (&findings.refusal, report) {
        (Some(fault), _) => {
            forget(&mut status);
            Ready::fault(fault)
        }
        (None, Some(report)) if !at_rest => {
            take(&mut status, report);
            if report.reseed.is_some() {
                status.last_handled_reseed_at.clone_from(&report.reseed);
            }
            if let Some(verified) = &findings.verified {
                take_verification(&mut status, verified, findings.verify.as_ref());
            }
            ready(report)
        }
        (None, _) => match (findings.link_phase, &findings.probed) {
            (_, Some(Err(fault))) if at_rest => {
                status.error = Some(error(fault));
                Ready::fault(fault)
            }
            (Some(LinkPhase::Stopped), _) => {
                // The position is dropped: the next start loads the table anew.
                forget(&mut status);
                Ready::yes(reason::STOPPED, "the link is stopped; its next start loads the table anew")
            }
            (Some(LinkPhase::Initial | LinkPhase::Paused), Some(Ok(()))) if status.error.as_ref().is_some_and(is_of_source) => {
                status.error = None;
                Ready::yes(reason::AS_REQUESTED, "what was wrong is mended; the link rests")
            }
            // Nobody has looked whether it still is so.
            (Some(LinkPhase::Initial | LinkPhase::Paused), _) if status.error.is_some() => return finish(before, status, findings.owned),
            (Some(LinkPhase::Paused), _) if status.phase == Some(TablePhase::Replicating) => {
                Ready::yes(reason::PAUSED, "the link is paused; the target table is exact as of status.asOf")
            }
            (Some(LinkPhase::Paused), _) => Ready::yes(reason::PAUSED, "the link is paused; the table is yet to be loaded"),
            (Some(LinkPhase::Initial), Some(Ok(()))) => {
                Ready::yes(reason::AS_REQUESTED, "the link has not been started; the table can be linked")
            }
            // It rested, as its link did.
            (Some(phase @ (LinkPhase::Starting | LinkPhase::Resuming)), _) if rested(before) => {
                Ready::progressing(phase.into(), "no worker has begun with it yet")
            }
            _ if status.phase.is_none() || before.observed_generation != findings.generation || was_refused => {
                status.phase = Some(status.phase.unwrap_or_default());
                Ready::unknown(reason::NEW_GENERATION, "no worker has begun with it yet")
            }
            // What was last heard stands until a worker says otherwise.
            _ => return finish(before, status, findings.owned),
        },
    };
    let code = |status: &LinkTableStatus| status.error.as_ref().map(|error| error.code.clone());
    if code(before) != code(&status) {
        status.remember_error(now);
    }
    let complete = match status.phase {
        Some(TablePhase::Replicating) => true,
        Some(TablePhase::Waiting | TablePhase::Snapshotting) | None => false,
        Some(TablePhase::Suspended | TablePhase::Failed) => is_true(&before.conditions, kind::SNAPSHOT_COMPLETE),
    };
    let word = if complete { reason::AS_REQUESTED } else { reason::PROGRESSING };
    mark(&mut status, kind::SNAPSHOT_COMPLETE, complete.into(), word, "");
    ready.write(&mut status.conditions, findings.generation, now);
    finish(before, status, findings.owned)
}

/// Whether Ready says that the table rests.
fn rested(status: &LinkTableStatus) -> bool {
    let says = |ready: &Condition| [reason::PAUSED, reason::STOPPED, reason::AS_REQUESTED].contains(&ready.reason.as_str());
    get(&status.conditions, kind::READY).is_some_and(says)
}

/// Whether it is an error that a probe would find again, if it still were one.
fn is_of_source(error: &TableError) -> bool {
    source::Error::VARIANTS.contains(&error.code.as_str())
}

/// Whether a worker has but heard of the table: that is not worth a write for each of thousands that come at once.
fn says_nothing(report: &TableReport) -> bool {
    let TableReport { uid: _, phase, waiting, error, reseed, rows, .. } = report;
    *phase == TablePhase::Waiting && waiting.is_none() && error.is_none() && reseed.is_none() && *rows == 0
}

/// Whether something was ever told of the table that a report may contradict.
fn is_known(status: &LinkTableStatus) -> bool {
    let unknown = |ready: &Condition| ready.status == "Unknown";
    status.phase.unwrap_or_default() != TablePhase::Waiting || !get(&status.conditions, kind::READY).is_none_or(unknown)
}

fn finish(before: &LinkTableStatus, status: LinkTableStatus, owned: bool) -> (LinkTableStatus, Vec<Happened>) {
    let phase_before = before.phase.unwrap_or_default();
    let mut events = Vec::new();
    // A link of a thousand tables tells once that it made them: nothing is left to tell unless one could not be linked until now.
    let was_open = get(&before.conditions, kind::ACCEPTED).map_or(!owned, |accepted| accepted.status != "True");
    if was_open && is_true(&status.conditions, kind::ACCEPTED) {
        events.push(Happened::normal("AddTable", "the table is linked"));
    }
    if let (Some(known), Some(now)) = (&before.schema, &status.schema)
        && now.version > known.version
    {
        events.push(Happened::normal("ReplicatingSchema", format!("columns were added; the target table has {}", now.columns)));
    }
    if before.last_handled_reseed_at != status.last_handled_reseed_at {
        events.push(Happened::normal("StartReseeding", "the first load begins anew, as was asked for"));
    }
    if before.verification != status.verification {
        events.extend(status.verification.as_ref().map(told));
    }
    let phase = status.phase.unwrap_or_default();
    if phase != phase_before {
        let error = status.error.as_ref().map(|error| format!("{}: {}; {}", error.code, error.message, error.remedy)).unwrap_or_default();
        events.extend(match phase {
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
        last_handled_verify_at: status.last_handled_verify_at.take(),
        recent_errors: std::mem::take(&mut status.recent_errors),
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

fn take_verification(status: &mut LinkTableStatus, verified: &TableVerification, asked: Option<&String>) {
    status.verification = Some(Verification { time: whole_second(verified.found.time), ..verified.found.clone() });
    if let Some(asked) = asked.filter(|asked| verified.requests.contains(asked)) {
        status.last_handled_verify_at = Some(asked.clone());
    }
}

/// The Event that tells what a comparison found.
fn told(verification: &Verification) -> Happened {
    let text = verification.summary();
    match verification.result {
        VerificationResult::Equal => Happened::normal("VerifyCompleted", text),
        VerificationResult::Unsettled => Happened::normal("VerifyUnsettled", text),
        VerificationResult::Different => Happened::warning("VerifyFoundDifferences", text),
        VerificationResult::Failed => Happened::warning("VerifyFailed", text),
    }
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
        (TablePhase::Snapshotting, None, Some(how)) => Ready::progressing(&how.reason, explain(how)),
        (TablePhase::Snapshotting, None, None) => Ready::progressing(reason::SNAPSHOTTING, "the first load is under way"),
        (TablePhase::Waiting, None, Some(why)) => Ready::progressing(&why.reason, explain(why)),
        (TablePhase::Waiting, None, None) => Ready::progressing(reason::PROGRESSING, "the first load has not begun"),
        (TablePhase::Failed, Some(fault), _) => Ready::stalled(&fault.reason, explain(fault)),
        (TablePhase::Failed, None, _) => Ready::stalled("Failed", "the worker gave no reason"),
        (TablePhase::Suspended, None, _) => Ready::progressing("Suspended", "the worker gave no reason"),
        (_, Some(fault), _) => Ready::progressing(&fault.reason, explain(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_worker_has_heard_of_a_table_is_no_news_unless_something_else_was_told() {
        let findings = |report: serde_json::Value| Findings {
            generation: Some(1),
            refusal: None,
            owned: false,
            link_phase: Some(LinkPhase::Running),
            report: serde_json::from_value(report).ok(),
            probed: None,
            verified: None,
            verify: None,
        };
        let next = |before: &LinkTableStatus, report| status(before, &findings(report), Timestamp::UNIX_EPOCH).0;
        let said =
            |status: &LinkTableStatus| get(&status.conditions, kind::READY).map(|ready| (ready.status.clone(), ready.reason.clone()));
        let waits = || serde_json::json!({"uid": "u", "phase": "Waiting"});
        let new = next(&LinkTableStatus::default(), serde_json::Value::Null);
        assert_eq!(said(&new), Some(("Unknown".to_owned(), reason::NEW_GENERATION.to_owned())));
        assert_eq!(change(&new, &next(&new, waits())), Change::None);
        // The first that is heard of it is that: the same.
        assert_eq!(next(&LinkTableStatus::default(), waits()), new);

        let why = serde_json::json!({"reason": "OpenTransaction", "message": "m", "remedy": "r", "heals": true});
        let held = next(&new, serde_json::json!({"uid": "u", "phase": "Waiting", "waiting": why}));
        assert_eq!(said(&held), Some(("False".to_owned(), "OpenTransaction".to_owned())));
        assert_eq!(said(&next(&held, waits())), Some(("False".to_owned(), reason::PROGRESSING.to_owned())), "what held it is over");
        let loads = next(&new, serde_json::json!({"uid": "u", "phase": "Snapshotting"}));
        assert_eq!(next(&loads, waits()).phase, Some(TablePhase::Waiting), "it begins anew");
    }

    #[test]
    fn a_table_rests_with_its_link_and_keeps_what_nobody_has_looked_at_again() {
        let table = |phase: TablePhase, code: Option<&str>| {
            let error = code.map(|code| serde_json::json!({"code": code, "message": "m", "remedy": "r", "attempt": 1}));
            let before = serde_json::json!({"observedGeneration": 1, "phase": phase, "error": error});
            serde_json::from_value::<LinkTableStatus>(before).unwrap()
        };
        let next = |before: &LinkTableStatus, link_phase, probed| {
            let rests = Findings {
                generation: Some(1),
                refusal: None,
                owned: false,
                link_phase: Some(link_phase),
                report: None,
                probed,
                verified: None,
                verify: None,
            };
            status(before, &rests, Timestamp::UNIX_EPOCH).0
        };
        let said = |status: &LinkTableStatus| {
            let of = |kind: &str| get(&status.conditions, kind).map(|condition| (condition.status.clone(), condition.reason.clone()));
            (of(kind::READY).unwrap_or_default(), of(kind::RECONCILING).is_some_and(|(status, _)| status == "True"))
        };
        let yes = |reason: &str| (("True".to_owned(), reason.to_owned()), false);
        for phase in [TablePhase::Waiting, TablePhase::Snapshotting, TablePhase::Replicating] {
            assert_eq!(said(&next(&table(phase, None), LinkPhase::Paused, None)), yes(reason::PAUSED));
            assert_eq!(said(&next(&table(phase, None), LinkPhase::Stopped, None)), yes(reason::STOPPED));
        }
        let paused = next(&table(TablePhase::Replicating, None), LinkPhase::Paused, None);
        assert_eq!(said(&next(&paused, LinkPhase::Resuming, None)), (("False".to_owned(), "Resuming".to_owned()), true));

        let failed = table(TablePhase::Failed, Some("SourceTableMissing"));
        let code = |status: LinkTableStatus| status.error.map(|error| error.code);
        assert_eq!(code(next(&failed, LinkPhase::Paused, None)).as_deref(), Some("SourceTableMissing"), "nobody looked");
        assert_eq!(code(next(&failed, LinkPhase::Paused, Some(Ok(())))), None, "it is there again");
        let owned = table(TablePhase::Failed, Some("TargetTableOwned"));
        assert_eq!(code(next(&owned, LinkPhase::Paused, Some(Ok(())))).as_deref(), Some("TargetTableOwned"), "no probe asks the target");
    }

    #[test]
    fn a_table_that_is_adopted_is_not_ready_and_says_so() {
        let waiting = serde_json::json!({"reason": "Adopting", "message": "it was there", "remedy": "none needed", "heals": true});
        let findings = Findings {
            generation: Some(1),
            refusal: None,
            owned: false,
            link_phase: Some(LinkPhase::Running),
            report: serde_json::from_value(serde_json::json!({"uid": "u", "phase": "Snapshotting", "waiting": waiting})).ok(),
            probed: None,
            verified: None,
            verify: None,
        };
        let (status, _) = status(&LinkTableStatus::default(), &findings, Timestamp::UNIX_EPOCH);
        let ready = get(&status.conditions, kind::READY).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Adopting"));
        assert!(ready.message.contains("it was there") && !is_true(&status.conditions, kind::SNAPSHOT_COMPLETE));
    }

    #[test]
    fn a_verification_is_told_once_and_echoes_the_request_that_it_answers() {
        let found = |requests: &[&str], second| {
            TableVerification {
            uid: "u".into(),
            requests: requests.iter().map(|request| (*request).to_owned()).collect(),
            found: serde_json::from_value(serde_json::json!({
                "time": Timestamp::from_second(second).unwrap(), "result": "Different", "sourceRows": 3, "targetRows": 2, "differingRows": 1,
                "repaired": 0, "unsettledRows": 0, "differingRanges": [{"after": "(5)", "rows": 1, "keys": ["(7)"]}],
            }))
            .unwrap(),
        }
        };
        let findings = |verified: Option<TableVerification>| Findings {
            generation: Some(1),
            refusal: None,
            owned: false,
            link_phase: Some(LinkPhase::Running),
            report: serde_json::from_value(serde_json::json!({"uid": "u", "phase": "Replicating"})).ok(),
            probed: None,
            verified,
            verify: Some("now".into()),
        };
        let verifications =
            |events: Vec<Happened>| events.into_iter().filter(|event| event.reason.starts_with("Verify")).collect::<Vec<_>>();
        let (status_before, _) = status(&LinkTableStatus::default(), &findings(None), Timestamp::UNIX_EPOCH);
        assert_eq!((&status_before.verification, &status_before.last_handled_verify_at), (&None, &None));

        // The link's request was answered, its own is open.
        let (of_link, events) = status(&status_before, &findings(Some(found(&["link"], 1))), Timestamp::UNIX_EPOCH);
        assert_eq!(of_link.last_handled_verify_at, None);
        assert_eq!(change(&status_before, &of_link), Change::State);
        let [told] = verifications(events).try_into().unwrap();
        assert_eq!((told.reason.as_str(), told.warning), ("VerifyFoundDifferences", true));
        assert!(told.message.contains("1 after key (5), among them (7)"), "{}", told.message);

        let (own, events) = status(&of_link, &findings(Some(found(&["now", "link"], 2))), Timestamp::UNIX_EPOCH);
        assert_eq!(own.last_handled_verify_at.as_deref(), Some("now"));
        assert_eq!(verifications(events).len(), 1);
        let (again, events) = status(&own, &findings(Some(found(&["now", "link"], 2))), Timestamp::UNIX_EPOCH);
        assert_eq!((again, verifications(events).len()), (own.clone(), 0));

        // Stopped: what was compared goes, that it was asked for stays.
        let stopped = Findings { link_phase: Some(LinkPhase::Stopped), ..findings(None) };
        let (stopped, _) = status(&own, &stopped, Timestamp::UNIX_EPOCH);
        assert_eq!((stopped.verification, stopped.last_handled_verify_at.as_deref()), (None, Some("now")));
    }
}
