//! What the workers of a link are at, from their pods and from what was heard of them. Pure.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::ResourceExt;

use super::status::{Crew, TableView};
use crate::{
    api::{
        conditions::{annotation, is_true, kind},
        fault::Fault,
        link_connection::LinkConnection,
        link_table::LinkTable,
        plan::Plan,
        report::{PositionReport, PositionTime, Report, TablePhase, TableReport},
        verification::{LinkVerification, TableVerification, roll_up},
    },
    controller::{
        availability::{is_ready, pod_problem},
        link_table::{acceptance, whole_second},
        workers::{WorkerPod, WorkerView},
    },
};

/// A worker that has not answered for so long is said not to.
const SILENT: Duration = Duration::from_mins(1);
/// How long a worker that is asked for the first time, or that has to take up another plan, may take.
pub const EXPECTED: Duration = Duration::from_secs(15);

/// The pods that can be talked to.
pub fn reachable(pods: &[Arc<Pod>]) -> Vec<WorkerPod> {
    pods.iter()
        .filter_map(|pod| {
            let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"))?;
            Some(WorkerPod { uid: pod.uid()?, name: pod.name_any(), address: status.pod_ip.as_ref()?.parse().ok()? })
        })
        .collect()
}

/// What is known of the workers. `revision` is that of the stored plan; without one nobody works by it.
pub fn crew(pods: &[Arc<Pod>], views: &[WorkerView], desired: u32, revision: Option<u64>, refused: Option<Fault>) -> Crew {
    let ready = pods.iter().filter(|pod| is_ready(pod)).count().try_into().unwrap_or(u32::MAX);
    let silent = views.iter().find(|view| view.heard.at.map_or(view.asked_for, |at| at.elapsed()) > SILENT).map(|view| Fault {
        reason: "WorkerUnreachable".to_owned(),
        message: format!(
            "worker {} has not answered the controller for a minute: {}",
            view.pod.name,
            view.heard.error.as_deref().unwrap_or("no reason known")
        ),
        remedy: format!("let the operator's namespace reach port 8443 of pod {}; it goes on replicating meanwhile", view.pod.name),
        heals: true,
    });
    Crew {
        desired,
        ready,
        current: current(views, revision),
        problem: pods.iter().find_map(|pod| pod_problem(pod)).or(refused),
        reports: views.iter().filter_map(|view| view.heard.report.clone()).collect(),
        silent,
        expecting: views.iter().any(|view| view.heard.report.is_none() && view.asked_for < EXPECTED),
    }
}

/// How many pods have the template that the set has now, if its controller has told. The others are to be made anew: that they are ready
/// says nothing of what was asked for.
pub fn renewed(set: &StatefulSet) -> Option<u32> {
    let status = set.status.as_ref()?;
    let is_seen = status.observed_generation? >= set.metadata.generation.unwrap_or_default();
    let updated = if is_seen { status.updated_replicas.unwrap_or_default() } else { 0 };
    Some(updated.try_into().unwrap_or_default())
}

/// How many report that they work by the plan of this revision.
pub fn current(views: &[WorkerView], revision: Option<u64>) -> u32 {
    let current = |view: &&WorkerView| {
        let revised = view.heard.report.as_ref().zip(revision).is_some_and(|(report, revision)| report.plan_revision >= revision);
        revised && view.heard.at.is_some_and(|at| at.elapsed() < SILENT)
    };
    views.iter().filter(current).count().try_into().unwrap_or(u32::MAX)
}

/// Whether every worker that is there has carried out the intent Drain of the stored plan.
pub fn drained(views: &[WorkerView], revision: Option<u64>) -> bool {
    let done = |report: &Report| report.drained && revision.is_some_and(|revision| report.plan_revision >= revision);
    !views.is_empty() && views.iter().all(|view| view.heard.report.as_deref().is_some_and(done))
}

/// Whether the batch of the stored plan is done: the worker that captures has read all of it, and no table is still loaded into the
/// target, which a worker that drains does not go on with.
pub fn batch_done(views: &[WorkerView], stored: Option<&Plan>) -> bool {
    let Some((batch, plan)) = stored.and_then(|plan| Some((plan.batch?, plan))) else { return false };
    let reports = || views.iter().filter_map(|view| view.heard.report.as_deref());
    let read = |report: &Report| report.batch_done == Some(batch) && report.plan_revision >= plan.revision;
    let phases: HashMap<&str, TablePhase> =
        reports().flat_map(|report| &report.tables).map(|table| (table.uid.as_str(), table.phase)).collect();
    let loads = |phase: Option<&TablePhase>| matches!(phase, None | Some(TablePhase::Waiting | TablePhase::Snapshotting));
    reports().any(read) && !plan.tables.iter().any(|table| loads(phases.get(table.uid.as_str())))
}

/// Reports of tables by the tables' identity.
pub type Reported<'a> = HashMap<&'a str, &'a TableReport>;

/// What workers report of each table.
pub fn reported(reports: &[Arc<Report>]) -> Reported<'_> {
    reports.iter().flat_map(|report| &report.tables).map(|table| (table.uid.as_str(), table)).collect()
}

/// What workers found by comparing tables with their source, by the tables' identity.
pub fn verifications(reports: &[Arc<Report>]) -> HashMap<&str, &TableVerification> {
    reports.iter().flat_map(|report| &report.verifications).map(|found| (found.uid.as_str(), found)).collect()
}

/// What the comparison of all tables found that the link's annotation asks for, with the annotation's value.
pub fn verified(link: &LinkConnection, tables: &[Arc<LinkTable>], reports: &[Arc<Report>]) -> Option<(String, LinkVerification)> {
    let asked = link.annotations().get(annotation::VERIFY)?;
    if link.status.as_ref().and_then(|status| status.last_handled_verify_at.as_ref()) == Some(asked) {
        return None;
    }
    let found: Vec<&TableVerification> = reports.iter().flat_map(|report| &report.verifications).collect();
    let identities: Vec<String> = acceptance::winners(tables).values().map(|table| acceptance::identity(table)).collect();
    roll_up(asked, identities.iter().map(String::as_str), &found).map(|found| (asked.clone(), found))
}

/// Where the link is in its source's log: the worker that captures knows its end and what was captured, and applied is what the
/// last of all workers has applied. None before anything is known.
pub fn position(reports: &[Arc<Report>]) -> Option<PositionReport> {
    let known: Vec<&PositionReport> = reports.iter().filter_map(|report| report.position.as_ref()).collect();
    let everybody = known.len() == reports.len() && known.iter().all(|position| position.applied.is_some());
    let applied = known.iter().filter_map(|position| position.applied.as_ref()).min_by(|a, b| a.value.cmp(&b.value));
    let position = PositionReport {
        source_head: known.iter().find_map(|position| position.source_head.clone()),
        captured: known.iter().find_map(|position| position.captured.clone()).map(whole),
        applied: applied.filter(|_| everybody).cloned().map(whole),
    };
    (position != PositionReport::default()).then_some(position)
}

/// Whole seconds: finer ones would be written for nobody.
fn whole(position: PositionTime) -> PositionTime {
    PositionTime { time: position.time.map(whole_second), ..position }
}

/// The tables as the link sees them: as workers report, else as was known before. `probe` knows which cannot be linked.
pub fn tables(tables: &[Arc<LinkTable>], reported: &Reported<'_>, probe: Option<&Report>) -> Vec<TableView> {
    let mut views: Vec<TableView> = acceptance::winners(tables)
        .into_values()
        .map(|table| {
            let before = table.status.as_ref().is_some_and(|status| is_true(&status.conditions, kind::SNAPSHOT_COMPLETE));
            let identity = acceptance::identity(&table);
            let refused = probe.and_then(|probe| probe.tables.iter().find(|found| found.uid == identity && found.error.is_some()));
            let Some(report) = reported.get(identity.as_str()).copied().or(refused) else {
                let status = table.status.clone().unwrap_or_default();
                let fault = status.error.map(|error| Fault {
                    reason: error.code,
                    message: error.message,
                    remedy: error.remedy,
                    heals: status.phase == Some(TablePhase::Suspended),
                });
                let phase = status.phase.unwrap_or_default();
                return TableView {
                    name: table.name_any(),
                    phase,
                    fault,
                    complete: before,
                    consistent: false,
                    as_of: None,
                    loads: false,
                    came_on: None,
                };
            };
            let complete = match report.phase {
                TablePhase::Replicating => true,
                TablePhase::Waiting | TablePhase::Snapshotting => false,
                TablePhase::Suspended | TablePhase::Failed => before,
            };
            let load = report.snapshot.as_ref();
            TableView {
                name: table.name_any(),
                phase: report.phase,
                fault: report.error.clone().or(report.waiting.clone()),
                complete,
                consistent: report.consistent,
                as_of: report.as_of,
                loads: load.is_some_and(|load| load.chunks_done < load.chunks_total),
                came_on: load.and_then(|load| load.last_progress_time),
            }
        })
        .collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}
