//! What the conditions of a LandingZone say. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{
        conditions::{Truth, get, is_true, kind, reason, remove, set},
        fault::{Check, Fault},
        landing_zone::{LandingZoneStatus, ZonePhase},
    },
    controller::{events::Happened, explain, link_connection::ZONE_CHECKS, status::Ready},
};

/// A credential that ends within this time is said to: somebody has to make another one.
const SOON: Duration = Duration::from_hours(7 * 24);

/// What was found out about a zone.
pub struct Findings<'a> {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// The answer to this generation's questions, and when the credential ends; None while it is being asked.
    pub answer: Option<(&'a [Check], Option<Timestamp>)>,
    /// What keeps the probe from answering.
    pub obstacle: Option<&'a Fault>,
    /// The value of the annotation that asks for a test, which is a part of the question.
    pub test: Option<&'a String>,
    /// The object is being deleted.
    pub deleting: bool,
}

/// The status after these findings, and what happened on the way; what is not known anew stays as it was.
pub fn status(before: &LandingZoneStatus, findings: &Findings<'_>, now: Timestamp) -> (LandingZoneStatus, Vec<Happened>) {
    let after = after(before, findings, now);
    let events = events(before, &after);
    (after, events)
}

fn after(before: &LandingZoneStatus, findings: &Findings<'_>, now: Timestamp) -> LandingZoneStatus {
    let mut status = before.clone();
    status.observed_generation = findings.generation;
    let new_generation = before.observed_generation != findings.generation;
    if let Some((checks, _)) = findings.answer {
        // What was not asked this time, because another check failed before, is not known any more.
        let is_asked = |condition: &Condition| checks.iter().any(|check| check.name == condition.type_);
        status.conditions.retain(|condition| !ZONE_CHECKS.contains(&condition.type_.as_str()) || is_asked(condition));
    }
    let mut mark = |kind: &str, truth: Truth, reason: &str, message: &str| {
        set(&mut status.conditions, kind, truth, reason, message, findings.generation, now);
    };
    mark(kind::ACCEPTED, Truth::True, reason::AS_REQUESTED, "");
    if let Some((checks, credential_expiry)) = findings.answer {
        for check in checks {
            match &check.fault {
                None => mark(&check.name, Truth::True, reason::AS_REQUESTED, &check.message),
                Some(fault) => mark(&check.name, Truth::False, &fault.reason, &explain(fault)),
            }
        }
        status.credential_expiry_time = credential_expiry;
        status.last_handled_test_at = findings.test.or(before.last_handled_test_at.as_ref()).cloned();
    }
    let expiring = status.credential_expiry_time.filter(|end| now.checked_add(SOON).is_ok_and(|soon| *end < soon));
    match (expiring, status.credential_expiry_time) {
        (Some(end), _) => {
            let message =
                format!("the credential ends at {end:.0}; put a new one into the Secret that the LandingZone names: nothing restarts");
            set(
                &mut status.conditions,
                kind::CREDENTIAL_EXPIRING,
                Truth::True,
                reason::CREDENTIAL_EXPIRING,
                &message,
                findings.generation,
                now,
            );
        }
        (None, Some(_)) => {
            set(&mut status.conditions, kind::CREDENTIAL_EXPIRING, Truth::False, reason::AS_REQUESTED, "", findings.generation, now);
        }
        (None, None) => {
            remove(&mut status.conditions, kind::CREDENTIAL_EXPIRING);
        }
    }
    let failing = findings.answer.and_then(|(checks, _)| checks.iter().find_map(failing)).or(findings.obstacle);
    let ready = if findings.deleting {
        Ready::progressing(reason::DELETING, "waits until no LinkConnection refers to it")
    } else if let Some(fault) = failing {
        Ready::fault(fault)
    } else if findings.answer.is_some() {
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
        Truth::False if findings.answer.is_none() && before.phase != Some(ZonePhase::Ready) => ZonePhase::Pending,
        Truth::False => ZonePhase::Degraded,
    });
    ready.write(&mut status.conditions, findings.generation, now);
    status
}

fn failing(check: &Check) -> Option<&Fault> {
    check.fault.as_ref()
}

/// What happened from one status to the next.
fn events(before: &LandingZoneStatus, after: &LandingZoneStatus) -> Vec<Happened> {
    let mut events = Vec::new();
    let expiring = |status: &LandingZoneStatus| is_true(&status.conditions, kind::CREDENTIAL_EXPIRING);
    if let (false, Some(condition)) = (expiring(before), get(&after.conditions, kind::CREDENTIAL_EXPIRING).filter(|_| expiring(after))) {
        events.push(Happened::warning(reason::CREDENTIAL_EXPIRING, condition.message.clone()));
    }
    if let (Some(was), Some(now)) = (before.credential_expiry_time, after.credential_expiry_time)
        && was != now
    {
        events.push(Happened::normal("CredentialRotated", format!("the credential that is in use now ends at {now:.0}")));
    }
    if before.phase != after.phase
        && let Some(ready) = get(&after.conditions, kind::READY)
    {
        match after.phase {
            Some(ZonePhase::Ready) => events.push(Happened::normal("ZoneReady", ready.message.clone())),
            Some(ZonePhase::Degraded) => events.push(Happened::warning(ready.reason.clone(), ready.message.clone())),
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_ends_soon_is_told_once_and_so_is_its_successor() {
        const DAY: i64 = 24 * 3600;
        let at = |second| Timestamp::from_second(second).unwrap();
        let look = |before: &LandingZoneStatus, expiry: Option<i64>, now| {
            let answer = Some((&[][..], expiry.map(at)));
            let findings = Findings { generation: Some(1), answer, obstacle: None, test: None, deleting: false };
            let (after, events) = status(before, &findings, at(now));
            let truth = get(&after.conditions, kind::CREDENTIAL_EXPIRING).map(|condition| condition.status.clone());
            (after, truth.unwrap_or_default(), events.into_iter().map(|event| event.reason).collect::<Vec<_>>())
        };
        let (zone, truth, events) = look(&LandingZoneStatus::default(), Some(8 * DAY), 0);
        assert_eq!((truth.as_str(), events), ("False", vec!["ZoneReady".to_owned()]));
        let (zone, truth, events) = look(&zone, Some(8 * DAY), 2 * DAY);
        assert_eq!((truth.as_str(), events), ("True", vec!["CredentialExpiring".to_owned()]));
        let message = &get(&zone.conditions, kind::CREDENTIAL_EXPIRING).unwrap().message;
        assert!(message.contains("1970-01-09T00:00:00Z") && message.ends_with("LinkZoneCredentialExpiring.md"), "{message}");
        let (zone, truth, events) = look(&zone, Some(8 * DAY), 3 * DAY);
        assert_eq!((truth.as_str(), events), ("True", vec![]));
        let (zone, truth, events) = look(&zone, Some(30 * DAY), 4 * DAY);
        assert_eq!((truth.as_str(), events), ("False", vec!["CredentialRotated".to_owned()]));
        // A store without one.
        assert_eq!(look(&zone, None, 4 * DAY).1, "");
    }
}
