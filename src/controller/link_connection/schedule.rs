//! Scheduled mode: when a batch begins, and when its workers may go. Pure.
//!
//! Nothing is remembered but what the stored plan says: the time at which its batch began, and whether it is still to be worked
//! on (intent Run) or over (intent Drain). So whoever leads next goes on in the middle of one.

use std::time::Duration;

use jiff::Timestamp;

use super::lifecycle::Course;
use crate::{
    api::{
        link_connection::{LinkConnectionStatus, LinkPhase},
        plan::{Intent, Plan, PlannedTable},
        source_protection::Bounds,
    },
    controller::link_table::whole_second,
};

/// What is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools)] // they are facts, each by itself
pub struct Facts {
    /// The worker that captures says that the batch of the newest plan is done.
    pub done: bool,
    /// Every worker has applied what was captured.
    pub drained: bool,
    /// The StatefulSet asks for no workers, or does not exist.
    pub scaled_down: bool,
    /// Worker pods exist, be it only until they have ended.
    pub pods: bool,
    /// There is work that is not to wait for the next batch.
    pub urgent: bool,
}

/// The course of a link that works in batches, where without a schedule it would be `course`. `in_force` is the plan in force.
pub fn shift(course: Course, in_force: Option<&Plan>, interval: Duration, facts: Facts, now: Timestamp) -> Course {
    let last = in_force.and_then(|plan| plan.batch);
    // A condition's times are whole seconds, and so are these. No two batches have one: by it a worker's word belongs to a batch.
    let begin = || {
        let after = last.and_then(|last| last.checked_add(Duration::from_secs(1)).ok());
        Course { batch: after.max(Some(whole_second(now))), ..course }
    };
    let Some((since, intent)) = in_force.filter(|plan| plan.run == course.run).and_then(|plan| Some((plan.batch?, plan.intent))) else {
        return if course.intent == Intent::Run { begin() } else { course };
    };
    let on = Course { batch: Some(since), ..course };
    match course.phase {
        LinkPhase::Starting | LinkPhase::Resuming if intent == Intent::Drain => begin(),
        LinkPhase::Starting | LinkPhase::Resuming => on,
        LinkPhase::Running if intent == Intent::Run && (!facts.done || facts.urgent) => on,
        LinkPhase::Running if intent == Intent::Drain && (facts.urgent || next(since, interval) <= now) => begin(),
        LinkPhase::Running => {
            let workers = !(facts.scaled_down || facts.drained || !facts.pods);
            Course { intent: Intent::Drain, workers, ..on }
        }
        _ => course,
    }
}

/// When the batch after the one that began then is due.
pub fn next(began: Timestamp, interval: Duration) -> Timestamp {
    began.checked_add(interval).unwrap_or(began)
}

/// Whether the plan asks for what a batch must not keep waiting: a table to be loaded, or to be compared with its source.
pub fn asks_for_work(wanted: &Plan, stored: &Plan) -> bool {
    let known = |table: &PlannedTable| {
        stored.tables.iter().any(|before| {
            before.uid == table.uid
                && !table.asks_for_load(before.reseed.as_ref())
                && (table.verify.is_none() || before.verify == table.verify)
        })
    };
    (wanted.verify.is_some() && wanted.verify != stored.verify) || !wanted.tables.iter().all(known)
}

/// Whether the source keeps, or by how fast it grows will by now keep, almost as much log for the link as it may.
pub fn is_log_high(status: &LinkConnectionStatus, bounds: &Bounds, now: Timestamp) -> bool {
    let Some((bound, source)) = bounds.max_retained_log.zip(status.source.as_ref()) else { return false };
    let Some(bytes) = source.retained_log_bytes else { return false };
    let hours = source.retained_log_time.map_or(0.0, |at| now.duration_since(at).as_secs_f64() / 3600.0);
    let grown = source.retained_log_growth.unwrap_or_default() as f64 * hours;
    bytes as f64 + grown > bound as f64 * 0.8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::link_connection::SourceStatus, controller::link_connection::fixtures};

    const INTERVAL: Duration = Duration::from_mins(5);
    const UP: Facts = Facts { done: false, drained: false, scaled_down: false, pods: true, urgent: false };
    const DOWN: Facts = Facts { scaled_down: true, pods: false, ..UP };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 60 * minute).unwrap()
    }

    fn course(phase: LinkPhase, run: u32) -> Course {
        let intent = if matches!(phase, LinkPhase::Pausing) { Intent::Drain } else { Intent::Run };
        Course { phase, run, workers: true, intent, release: false, batch: None }
    }

    fn stored(batch: Option<i64>, intent: Intent) -> Plan {
        Plan { batch: batch.map(at), intent, ..fixtures::plan() }
    }

    #[test]
    fn a_batch_begins_is_worked_on_drained_and_over_until_the_next_is_due() {
        use {Intent::*, LinkPhase as P};
        let done = Facts { done: true, ..UP };
        let (drained, urgent) = (Facts { drained: true, ..UP }, Facts { urgent: true, ..DOWN });
        // phase, run, plan in force, facts, minute → batch, intent, workers
        let table = [
            (P::Starting, 1, None, DOWN, 0, (Some(0), Run, true)),
            (P::Starting, 1, Some((Some(0), Run)), UP, 1, (Some(0), Run, true)),
            (P::Running, 1, Some((Some(0), Run)), UP, 9, (Some(0), Run, true)),
            (P::Running, 1, Some((Some(0), Run)), done, 2, (Some(0), Drain, true)),
            (P::Running, 1, Some((Some(0), Drain)), UP, 3, (Some(0), Drain, true)),
            (P::Running, 1, Some((Some(0), Drain)), drained, 3, (Some(0), Drain, false)),
            (P::Running, 1, Some((Some(0), Drain)), DOWN, 4, (Some(0), Drain, false)),
            (P::Running, 1, Some((Some(0), Drain)), DOWN, 5, (Some(5), Run, true)),
            // One that cannot apply all keeps its workers, and is the next when that is due.
            (P::Running, 1, Some((Some(0), Drain)), UP, 5, (Some(5), Run, true)),
            (P::Running, 1, Some((Some(0), Drain)), urgent, 1, (Some(1), Run, true)),
            // It was continuous before.
            (P::Running, 1, Some((None, Run)), UP, 7, (Some(7), Run, true)),
            // Resumed: at once.
            (P::Resuming, 1, Some((None, Drain)), DOWN, 1, (Some(1), Run, true)),
            (P::Resuming, 1, Some((Some(0), Drain)), DOWN, 1, (Some(1), Run, true)),
            // A new run has no batch yet.
            (P::Starting, 2, Some((Some(0), Run)), UP, 1, (Some(1), Run, true)),
            (P::Pausing, 1, Some((Some(0), Run)), UP, 1, (None, Drain, true)),
        ];
        for (phase, run, plan, facts, minute, expected) in table {
            let plan = plan.map(|(batch, intent)| stored(batch, intent));
            let found = shift(course(phase, run), plan.as_ref(), INTERVAL, facts, at(minute));
            let (batch, intent, workers) = expected;
            assert_eq!((found.batch, found.intent, found.workers), (batch.map(at), intent, workers), "{phase} {facts:?} {minute}");
            assert_eq!(found.phase, phase);
        }
    }

    #[test]
    fn a_batch_in_the_second_of_the_last_one_is_another() {
        let urgent = Facts { urgent: true, ..DOWN };
        for (phase, run, facts) in [(LinkPhase::Running, 1, urgent), (LinkPhase::Resuming, 1, DOWN), (LinkPhase::Starting, 2, DOWN)] {
            let next = shift(course(phase, run), Some(&stored(Some(3), Intent::Drain)), INTERVAL, facts, at(3));
            assert_eq!(next.batch, at(3).checked_add(Duration::from_secs(1)).ok(), "{phase}");
        }
    }

    #[test]
    fn loads_and_comparisons_do_not_wait() {
        use crate::api::verification::VerifyRequest;
        let table = |uid: &str| PlannedTable {
            name: uid.into(),
            uid: uid.into(),
            source: crate::data::TableName::new("public", uid),
            target: crate::data::TableName::new("public", uid),
            options: crate::api::link_table::TableOptions::default(),
            reseed: None,
            verify: None,
        };
        let plan = |tables: Vec<PlannedTable>| Plan { tables, ..fixtures::plan() };
        let stored = plan(vec![table("a"), table("b")]);
        let verify = Some(VerifyRequest { requested_at: "now".into(), repair: false });
        assert!(!asks_for_work(&stored, &stored));
        assert!(!asks_for_work(&plan(vec![table("a")]), &stored), "one that leaves can wait");
        assert!(asks_for_work(&plan(vec![table("a"), table("c")]), &stored));
        assert!(asks_for_work(&plan(vec![PlannedTable { reseed: Some("x".into()), ..table("a") }]), &stored));
        let compared = plan(vec![PlannedTable { verify: verify.clone(), ..table("a") }, table("b")]);
        assert!(asks_for_work(&compared, &stored) && !asks_for_work(&stored, &compared));
        let all = Plan { verify, ..stored.clone() };
        assert!(asks_for_work(&all, &stored) && !asks_for_work(&all, &all) && !asks_for_work(&stored, &all));
    }

    #[test]
    fn a_log_that_grows_is_high_before_it_is_measured_again() {
        let (hour, bounds) = (60, Bounds { max_retained_log: Some(1000), ..Bounds::default() });
        let high = |bytes: Option<i64>, growth: i64, now: i64| {
            let source = SourceStatus {
                retained_log_bytes: bytes,
                retained_log_time: Some(at(0)),
                retained_log_growth: Some(growth),
                ..SourceStatus::default()
            };
            is_log_high(&LinkConnectionStatus { source: Some(source), ..Default::default() }, &bounds, at(now))
        };
        assert!(!high(None, 0, 0) && !high(Some(700), 0, hour) && high(Some(900), 0, 0));
        assert!(!high(Some(700), 50, hour) && high(Some(700), 50, 3 * hour));
        assert!(!is_log_high(&LinkConnectionStatus::default(), &bounds, at(0)));
    }
}
