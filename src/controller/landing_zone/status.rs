//! What the conditions of a LandingZone say. Pure.

use jiff::Timestamp;

use crate::{
    api::{
        conditions::{Truth, get, kind, reason, set},
        fault::{Check, Fault},
        landing_zone::{LandingZoneStatus, ZonePhase},
        report::Report,
    },
    controller::{explain, status::Ready},
};

/// What was found out about a zone.
pub struct Findings<'a> {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// The answer of the probe to this generation's question; None while it is being asked.
    pub report: Option<&'a Report>,
    /// What keeps the probe from answering.
    pub obstacle: Option<&'a Fault>,
    /// The object is being deleted.
    pub deleting: bool,
}

/// The status after these findings; what is not known anew stays as it was.
pub fn status(before: &LandingZoneStatus, findings: &Findings<'_>, now: Timestamp) -> LandingZoneStatus {
    let mut status = before.clone();
    status.observed_generation = findings.generation;
    let new_generation = before.observed_generation != findings.generation;
    let mut set = |kind: &str, truth: Truth, reason: &str, message: &str| {
        set(&mut status.conditions, kind, truth, reason, message, findings.generation, now);
    };
    set(kind::ACCEPTED, Truth::True, reason::AS_REQUESTED, "");
    if let Some(report) = findings.report {
        for check in &report.checks {
            match &check.fault {
                None => set(&check.name, Truth::True, reason::AS_REQUESTED, &check.message),
                Some(fault) => set(&check.name, Truth::False, &fault.reason, &explain(fault)),
            }
        }
        status.credential_expiry_time = report.credential_expiry;
    }
    let failing = findings.report.and_then(|report| report.checks.iter().find_map(failing)).or(findings.obstacle);
    let ready = if findings.deleting {
        Ready::progressing(reason::DELETING, "waits until no LinkConnection refers to it")
    } else if let Some(fault) = failing {
        Ready::fault(fault)
    } else if findings.report.is_some() {
        Ready::yes(reason::AS_REQUESTED, "the zone was read, listed and written")
    } else if new_generation || get(&status.conditions, kind::READY).is_none() {
        Ready::unknown(reason::NEW_GENERATION, "the zone is being asked")
    } else {
        // It is being asked again: what was found last time stands.
        return status;
    };
    status.phase = Some(match ready.truth {
        Truth::True => ZonePhase::Ready,
        Truth::Unknown => ZonePhase::Pending,
        Truth::False if findings.report.is_none() && before.phase != Some(ZonePhase::Ready) => ZonePhase::Pending,
        Truth::False => ZonePhase::Degraded,
    });
    ready.write(&mut status.conditions, findings.generation, now);
    status
}

fn failing(check: &Check) -> Option<&Fault> {
    check.fault.as_ref()
}
