//! The Events that tell of a change of a link's status. Pure.

use super::retained;
use crate::{
    api::{
        conditions::{get, is_true, kind, reason},
        link_connection::{LinkConnectionStatus, LinkPhase},
        verification::{LinkVerification, VerificationResult},
    },
    controller::events::Happened,
};

/// What happened from one status to the next.
pub fn events(before: &LinkConnectionStatus, after: &LinkConnectionStatus) -> Vec<Happened> {
    let mut events = retained::events(before, after);
    if let Some(found) = after.verification.as_ref().filter(|_| before.verification != after.verification) {
        let LinkVerification { tables, equal, differing_rows, repaired, .. } = found;
        let text =
            format!("{equal} of {tables} tables are equal to the source's; {differing_rows} rows differed, {repaired} were repaired");
        events.push(match found.result {
            VerificationResult::Equal | VerificationResult::Unsettled => Happened::normal("VerifyCompleted", text),
            VerificationResult::Different => Happened::warning("VerifyFoundDifferences", text),
            VerificationResult::Failed => Happened::warning("VerifyFailed", text),
        });
    }
    let phases = (before.phase.unwrap_or_default(), after.phase.unwrap_or_default());
    if phases.0 != phases.1 {
        let (word, text) = match phases.1 {
            LinkPhase::Initial => ("LinkCreated", "the link was created"),
            LinkPhase::Starting if retained::reseeds(before, after) => ("LinkStarting", "the workers begin a new run"),
            LinkPhase::Starting => ("LinkStarting", "workers are being started"),
            LinkPhase::Running if phases.0 == LinkPhase::Resuming => ("LinkResumed", "the workers go on where they were"),
            LinkPhase::Running => ("LinkStarted", "the workers work"),
            LinkPhase::Pausing => ("LinkPausing", "what was read is being committed and applied"),
            LinkPhase::Paused => ("LinkPaused", "the link rests; its position is kept"),
            LinkPhase::Resuming => ("LinkResuming", "workers are being started"),
            LinkPhase::Stopping => ("LinkStopping", "the link is being stopped and its position dropped"),
            LinkPhase::Stopped => ("LinkStopped", "the link rests; the next start is a full load"),
        };
        events.push(Happened::normal(word, text));
    }
    let workers = |status: &LinkConnectionStatus| status.workers.as_ref().map_or(0, |workers| workers.desired);
    if let (was @ 1.., now @ 1..) = (workers(before), workers(after))
        && was != now
    {
        events.push(Happened::normal("WorkersScaled", format!("{now} workers instead of {was} share the work")));
    }
    let late = |status: &LinkConnectionStatus| is_true(&status.conditions, kind::START_DEADLINE_EXCEEDED);
    if let (false, true, Some(condition)) = (late(before), late(after), get(&after.conditions, kind::START_DEADLINE_EXCEEDED)) {
        events.push(Happened::warning(reason::START_DEADLINE_EXCEEDED, condition.message.clone()));
    }
    let said = |status: &LinkConnectionStatus| {
        get(&status.conditions, kind::READY).map(|ready| (ready.status.clone(), ready.reason.clone(), ready.message.clone()))
    };
    if let (was, Some((truth, word, text))) = (said(before), said(after))
        && was.as_ref().map(|was| (&was.0, &was.1)) != Some((&truth, &word))
    {
        // Steps on the way are told by the phase; what is told here is what went wrong, and that it is well again.
        let step = [
            reason::START_DEADLINE_EXCEEDED,
            reason::PROGRESSING,
            reason::NEW_GENERATION,
            reason::DELETING,
            reason::WORKERS_MISSING,
            "TablesWaiting",
        ];
        let phase: &str = phases.1.into();
        if truth == "False" && !step.contains(&word.as_str()) && word != phase {
            events.push(Happened::warning(word, text));
        } else if truth == "True" && was.is_some_and(|was| was.0 != "True") {
            events.push(Happened::normal("LinkReady", text));
        }
    }
    events
}
