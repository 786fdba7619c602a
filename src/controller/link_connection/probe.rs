//! Asking for a link that has no live worker: source, target, zone and tables, by a one-shot pod.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::{Seen, build, lifecycle::Course, plan, retained, status, validate::Validated};
use crate::{
    api::{
        conditions::annotation,
        discover::Discover,
        fault::Fault,
        link_connection::{LinkConnection, LinkPhase},
        plan::{KeptPosition, PlannedTable, ProbeRequest},
        report::Report,
    },
    controller::{
        Error,
        availability::is_ready,
        context::Context,
        landing_zone::question,
        names::{self, Component},
        oneshot::{self, Made, Step},
        pods::OneShot,
    },
    replication::share,
};

/// At most so many tables are asked for: an argument has room for 128 KiB, an answer for 4.
const TABLES: usize = 200;

/// How asking went.
#[derive(Default)]
pub struct Probed {
    /// The answer.
    pub report: Option<Report>,
    /// When it was given.
    pub at: Option<Timestamp>,
    /// What keeps it from coming.
    pub obstacle: Option<Fault>,
    /// Workers answer now.
    pub over: bool,
    /// It is asked what the source keeps for the link, and for too much: no worker watches that.
    pub guards: bool,
    /// When to look again.
    pub again: Duration,
}

/// One step of asking, if it is needed.
pub async fn step(
    link: &LinkConnection,
    validated: Option<&Validated>,
    course: &Course,
    seen: &Seen,
    context: &Context,
) -> Result<Probed, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let pod = context.pod(&namespace, &names::link_probe(&name));
    let rests = matches!(course.phase, LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped);
    let cannot_start = course.workers && seen.crew.problem.is_some() && !captures(&name, seen);
    // Between two batches only a log that is bounded needs to be watched, and what the next batch would meet first is asked before.
    let bounded = course.is_idle() && validated.is_some_and(|validated| validated.bounds.max_retained_log.is_some());
    let wish = link.annotations().get(annotation::TEST);
    let handled = link.status.as_ref().and_then(|status| status.last_handled_test_at.as_ref());
    let idle = bounded
        || (course.is_idle() && (!status::is_answered(link) || status::has_failed(link) || wish.is_some_and(|wish| Some(wish) != handled)));
    let guards = course.phase == LinkPhase::Paused || cannot_start || bounded;
    let Some(validated) = validated else {
        return Ok(Probed { again: oneshot::ASK_AGAIN, ..Probed::default() });
    };
    if !rests && !cannot_start && !idle {
        // A live worker answers the same questions.
        if let (Some(pod), true) = (&pod, seen.crew.ready > 0) {
            oneshot::remove(&context.client, pod).await?;
        }
        return Ok(Probed { over: seen.crew.ready > 0, again: oneshot::ASK_AGAIN, ..Probed::default() });
    }
    let base = build::pod_base(link, validated, context.pod_base());
    let mut tables = plan::plan(link, validated, course, &seen.linked).tables;
    let left_out = tables.split_off(tables.len().min(TABLES));
    let request = ProbeRequest {
        link_id: Some(validated.link_id.clone()),
        source: Some(link.spec.source.clone()),
        target: Some(link.spec.target.clone()),
        zone: Some(validated.zone.clone()),
        tables,
        not_asked: not_asked(&left_out, link.spec.discover.as_ref()),
        discover: link.spec.discover.clone(),
        // What has begun has no other plan than to go on.
        forecast_cores: matches!(course.phase, LinkPhase::Initial | LinkPhase::Stopped)
            .then(|| u32::try_from(link.spec.compute.core_count).unwrap_or(1)),
        kept: guards.then(|| KeptPosition {
            uid: link.uid().unwrap_or_default(),
            run: course.run,
            on_position_lost: link.spec.on_position_lost,
            give_up_above: validated.bounds.max_retained_log.filter(|_| validated.bounds.give_up),
        }),
    };
    let request = serde_json::to_string(&request)?;
    let wish = wish.map_or("", String::as_str);
    let asked = question(&[&request, &link.metadata.generation.unwrap_or_default().to_string(), wish, &base.image]);
    let now = Timestamp::now();
    let progress = oneshot::progress(pod.as_deref(), &asked, now);
    let mut probed = Probed {
        report: progress.report().cloned(),
        at: progress.answered_ago().and_then(|age| now.checked_sub(age).ok()),
        obstacle: progress.fault().cloned(),
        over: false,
        guards,
        again: oneshot::ASK_AGAIN,
    };
    let room = progress.report().and_then(|report| report.source.as_ref()?.log_room_bytes);
    let good_for = match &link.status {
        Some(status) if course.phase == LinkPhase::Paused || bounded => retained::good_for(status, &validated.bounds, room),
        _ if guards => retained::ASK_AT_MOST,
        _ => oneshot::GOOD_FOR,
    };
    match progress.step_within(good_for) {
        Step::Wait(time) => probed.again = time,
        Step::Remove => {
            if let Some(pod) = &pod {
                oneshot::remove(&context.client, pod).await?;
            }
        }
        Step::Create => {
            let one_shot = OneShot {
                component: Component::Probe,
                name: names::link_probe(&name),
                namespace: &namespace,
                labels: names::link_labels(&name),
                owner: link.controller_owner_ref(&()),
                asked,
                request,
            };
            if let Made::Refused(fault) = context.ask(&base, one_shot).await? {
                probed.obstacle = Some(fault);
            }
        }
    }
    Ok(probed)
}

/// Tables of which a probe is told neither by their names nor by patterns.
fn not_asked(left_out: &[PlannedTable], discover: Option<&Discover>) -> u32 {
    let patterns = discover.and_then(|discover| discover.patterns().ok());
    let unknown = |table: &&PlannedTable| patterns.as_ref().is_none_or(|patterns| !patterns.ask_for(&table.source));
    u32::try_from(left_out.iter().filter(unknown).count()).unwrap_or(u32::MAX)
}

/// Whether the worker that captures is ready: it watches what the source keeps.
fn captures(link: &str, seen: &Seen) -> bool {
    let name = format!("{}-{}", names::workers(link), share::capturer(seen.crew.desired));
    seen.pods.iter().any(|pod| pod.name_any() == name && is_ready(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TableName;

    #[test]
    fn tables_that_no_pattern_asks_for_are_not_asked() {
        let table = |schema: &str, name: &str| PlannedTable {
            name: name.to_owned(),
            uid: name.to_owned(),
            source: TableName::new(schema, name),
            target: TableName::new(schema, name),
            options: crate::api::link_table::TableOptions::default(),
            reseed: None,
            verify: None,
        };
        let left_out = [table("shop", "a"), table("shop", "b"), table("hr", "c")];
        let discover = |pattern: &str| serde_json::from_value::<Discover>(serde_json::json!({"include": [pattern]})).unwrap();
        assert_eq!(not_asked(&left_out, None), 3);
        assert_eq!(not_asked(&left_out, Some(&discover("shop.*"))), 1);
        assert_eq!(not_asked(&[], None), 0);
    }
}
