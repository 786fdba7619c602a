//! LinkConnections: [`dereference`] → [`validate`] → [`build`] and [`plan`] → [`children`] → [`status`], along the course
//! that [`lifecycle`] sets; [`release`] removes what a link made when it is stopped or deleted.

pub mod build;
mod children;
mod credentials;
pub mod crew;
mod deadline;
mod dereference;
#[cfg(test)]
mod fixtures;
mod leftovers;
pub mod lifecycle;
pub mod loss;
mod memory;
mod numbers;
mod others;
pub mod owned;
pub mod plan;
mod probe;
mod release;
mod retained;
mod schedule;
pub mod status;
#[cfg(test)]
mod status_tests;
mod told;
pub mod validate;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::{controller::Action, reflector::ObjectRef},
};

pub use memory::{Memory, ZONE_CHECKS, ZoneAnswer};

use super::{
    Error,
    availability::refusal_in_events,
    context::Context,
    link_table::acceptance,
    names::{self, Component},
    oneshot,
    status::{self as shared, Change, Ready},
    watch,
    workers::WorkerView,
};
use crate::api::{
    conditions::{
        annotation,
        mark::{LINK, RELEASE_FINALIZER, ROLE},
        reason,
    },
    fault::{Explain, Fault},
    link_connection::{LinkConnection, LinkConnectionStatus, LinkPhase, LinkState},
    link_table::LinkTable,
    plan::Intent,
    report::Report,
};
use children::Applied;
use lifecycle::{Course, Facts};
use loss::Loss;
use memory::{LinkMemory, Own};
use release::Released;
use status::{Crew, Findings};
use validate::Validated;

/// How long workers may take to commit and apply what they have read.
const DRAIN: Duration = Duration::from_mins(1);
/// How soon one whose phase changed is looked at again.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How soon a link on its way is looked at again.
const ON_THE_WAY: Duration = Duration::from_secs(5);
/// How soon one that runs is: its workers may have fallen silent.
const RUNNING: Duration = Duration::from_secs(30);
/// How soon one that met trouble is.
const TROUBLED: Duration = Duration::from_secs(10);

/// Brings a LinkConnection, its children and its status up to date.
pub async fn reconcile(link: Arc<LinkConnection>, context: Arc<Context>) -> Result<Action, Error> {
    let link = context.memory.newest.newest(&link);
    if link.metadata.deletion_timestamp.is_some() {
        return Box::pin(release::delete(&link, &context)).await;
    }
    if let Some(written) = shared::set_finalizer(&context.client, link.as_ref(), RELEASE_FINALIZER, true).await? {
        context.memory.newest.wrote(written);
        return Ok(Action::await_change());
    }
    let link = first_sight(link, &context).await?;
    let memory = context.memory.link(&link.uid().unwrap_or_default());
    let mut own = memory.own.lock().await;
    let done = Box::pin(advance(&link, &memory, &mut own, &context)).await;
    own.rest();
    if let Err(error) = &done
        && error.is_refusal()
    {
        tell_refusal(&context.memory.newest.newest(&link), error, &context).await?;
    }
    done
}

async fn advance(link: &LinkConnection, memory: &LinkMemory, own: &mut Own, context: &Context) -> Result<Action, Error> {
    children::recall(link, own, context).await?;
    let references = dereference::dereference(link, context).await?;
    let verdict = validate::validate(link, &references);
    // To rest takes no more than the workers have: whoever asks for it gets it, whatever has become of the rest of the spec.
    let validated = verdict.as_ref().ok().cloned().or_else(|| {
        let stored = own.plan.as_ref().filter(|_| link.spec.state != LinkState::Running)?;
        Some(validate::as_planned(link, &stored.plan, &references))
    });
    let mut seen = look(link, own, context).await?;
    let run = run(link, own, &seen.crew.reports);
    let loss = heed(link, seen.crew.reports.iter().map(AsRef::as_ref), run);
    let course = course(link, run, validated.as_ref(), loss.due, &seen, own, context).await?;
    // Many wanted now may be another number than before.
    seen.crew.desired = if course.workers { link.spec.compute.workers() } else { 0 };

    let mut trouble = None;
    // Whatever has become of the spec: the workers go on by the last plan, and are heard.
    let mut by_last_plan = validated.is_none();
    let mut done = Done::default();
    let mut tables_to_come = false;
    match children::own_tables(link, &seen.tables, &owned::discovered(&seen.crew.reports), context).await {
        Ok(to_come) => tables_to_come = to_come,
        Err(error) => trouble = Some(note(link, error, context)?),
    }
    if let (Some(validated), true) = (&validated, course.phase != LinkPhase::Initial) {
        match carry_out(link, validated, &course, &seen, tables_to_come, own, context).await {
            Ok(all) => done = all,
            Err(error) => {
                trouble = Some(note(link, error, context)?);
                by_last_plan = true;
            }
        }
    }
    if by_last_plan && let Err(error) = children::talk(link, own, &seen.pods, context).await {
        trouble = Some(note(link, error, context)?);
    }
    if done.renews {
        seen.crew.ready = 0;
    }
    heed_plan(&mut seen, own, done.plan_waits.is_some() || tables_to_come);
    let Done { released, obstacle: release_obstacle, plan_waits, rollout_waits, applied, .. } = done;
    let soon = plan_waits.into_iter().chain(rollout_waits).min();
    // What was released counts at once: the next look goes on from here.
    let course = if released {
        lifecycle::course(course.phase, course.run, link.spec.state, &Facts { released, gone: true, ..Facts::default() })
    } else {
        course
    };
    let probed = probe::step(link, verdict.as_ref().ok(), &course, &seen, context).await?;
    let reported = crew::reported(&seen.crew.reports);
    let probe_before = memory.probe();
    let findings = Findings {
        generation: link.metadata.generation,
        spec: &link.spec,
        link_id: validate::link_id(link),
        course,
        refusal: verdict.err(),
        trouble: trouble.clone(),
        crew: seen.crew.clone(),
        rollout_waits: rollout_waits.is_some(),
        bounds: link.spec.source_protection.bounds().unwrap_or_default(),
        // The next run waits for a worker that can begin it.
        loss: if probed.guards { heed(link, &probed.report, course.run) } else { loss },
        probe: probed.report.as_ref(),
        probed_at: probed.at,
        probe_obstacle: probed.obstacle.clone(),
        release_obstacle,
        tables_to_come,
        tables: crew::tables(&seen.linked, &reported, probed.report.as_ref().or(probe_before.as_deref())),
        verified: crew::verified(link, &seen.linked, &seen.crew.reports),
        test: link.annotations().get(annotation::TEST),
        restarted: link.annotations().get(annotation::RESTART).filter(|_| applied).cloned(),
        deleting: false,
    };
    let before = link.status.clone().unwrap_or_default();
    let (after, events) = status::status(&before, &findings, Timestamp::now());
    write(link, &after, context).await?;
    for happened in &events {
        context.events.publish(&link.object_ref(&()), happened).await;
    }
    // Also one that was to be removed before, and stayed: nobody asks for it any more.
    if course.phase != LinkPhase::Stopping
        && let Err(error) = release::tidy(link, context).await
    {
        note(link, error, context)?;
    }
    let all = before.phase != after.phase || before.observed_generation != after.observed_generation;
    others::tell(link, &course, seen, &probed, memory, own, all, context);

    let due = after.next_batch_time.filter(|_| course.is_idle());
    let due = due.map(|due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default());
    let calm = match course.phase {
        _ if trouble.is_some() => TROUBLED,
        _ if before.phase != after.phase => AT_ONCE,
        LinkPhase::Running => due.map_or(RUNNING, |due| due.clamp(AT_ONCE, RUNNING)),
        LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped => probed.again,
        _ => ON_THE_WAY,
    };
    Ok(Action::requeue(soon.map_or(calm, |soon| soon.min(calm))))
}

/// Says at once that a new generation was seen, so that nobody takes the old answer for one to the new question.
async fn first_sight(link: Arc<LinkConnection>, context: &Context) -> Result<Arc<LinkConnection>, Error> {
    let before = link.status.clone().unwrap_or_default();
    // One that is new has no old answer: its status says from the start that nobody has seen it.
    if before.observed_generation == link.metadata.generation || before.observed_generation.is_none_or(|seen| seen < 0) {
        return Ok(link);
    }
    let mut status = LinkConnectionStatus { observed_generation: link.metadata.generation, ..before };
    status.phase.get_or_insert(LinkPhase::Initial);
    Ready::unknown(reason::NEW_GENERATION, "the spec was only just seen").write(
        &mut status.conditions,
        link.metadata.generation,
        Timestamp::now(),
    );
    let written = shared::write(&context.client, link.as_ref(), &status).await?;
    context.memory.newest.wrote(written.clone());
    Ok(Arc::new(written))
}

/// Says what keeps the link from even being judged, so that an old answer does not stand for it.
async fn tell_refusal(link: &LinkConnection, error: &Error, context: &Context) -> Result<(), Error> {
    let mut status = LinkConnectionStatus { observed_generation: link.metadata.generation, ..link.status.clone().unwrap_or_default() };
    Ready::fault(&error.fault()).write(&mut status.conditions, link.metadata.generation, Timestamp::now());
    write(link, &status, context).await
}

async fn write(link: &LinkConnection, status: &LinkConnectionStatus, context: &Context) -> Result<(), Error> {
    let this = ObjectRef::from_obj(link).into();
    match link.status.as_ref().map_or(Change::State, |before| status::change(before, status)) {
        Change::None => {}
        Change::Progress(rest) if !context.budget.ask(&this, rest) => {}
        Change::Progress(_) | Change::State => {
            let written = shared::write(&context.client, link, status).await?;
            context.memory.newest.wrote(written);
            context.budget.written(&this, Instant::now());
        }
    }
    Ok(())
}

/// An error as a condition tells it. Conflicts are no trouble: the link is judged again from the start.
fn note(link: &LinkConnection, error: Error, context: &Context) -> Result<Fault, Error> {
    if error.is_conflict() {
        return Err(error);
    }
    context.metrics.failed(&LinkConnection::kind(&()), &error);
    tracing::warn!(link = link.name_any(), namespace = link.namespace(), %error, "the link cannot be carried out");
    Ok(error.fault())
}

/// What is there.
struct Seen {
    /// All LinkTables of the link.
    tables: Vec<Arc<LinkTable>>,
    /// Those that its target can do and whose source table no other link has.
    linked: Vec<Arc<LinkTable>>,
    pods: Vec<Arc<Pod>>,
    /// The StatefulSet asks for no workers, or is not there.
    scaled_down: bool,
    views: Vec<WorkerView>,
    crew: Crew,
    drained: bool,
    batch_done: bool,
}

async fn look(link: &LinkConnection, own: &Own, context: &Context) -> Result<Seen, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let worker: &str = Component::Worker.into();
    let pods = watch::list(&context.stores.pods, &namespace, |pod: &Pod| {
        pod.labels().get(LINK) == Some(&name) && pod.labels().get(ROLE).map(String::as_str) == Some(worker)
    });
    remove_overdue(&pods, context).await?;
    let set = watch::get(&context.stores.workers, &namespace, &names::workers(&name));
    let asked = set.as_ref().map_or(0, |set| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1));
    let revision = own.plan.as_ref().map(|stored| stored.plan.revision);
    let views = context.workers.view(&link.uid().unwrap_or_default());
    let refused = match &set {
        // Its pods do not even exist: its Events say why.
        Some(set) if usize::try_from(asked).unwrap_or(0) > pods.len() => {
            refused(set.uid().unwrap_or_default(), &namespace, context).await?
        }
        _ => None,
    };
    let tables = context.stores.tables.of_link(&namespace, &name);
    let rivals = context.rival_links(link);
    let is_held = |table: &LinkTable| acceptance::holder(table, &context.rivals(&rivals, &table.spec.source_name())).is_some();
    let is_fit = |table: &LinkTable| acceptance::unfit(table, link).is_none();
    let linked = tables.iter().filter(|table| is_fit(table) && (rivals.is_empty() || !is_held(table))).cloned().collect();
    let renewed = set.as_deref().and_then(crew::renewed).unwrap_or(u32::MAX);
    let mut crew = crew::crew(&pods, &views, link.spec.compute.workers(), revision, refused);
    crew.ready = crew.ready.min(renewed);
    let draining = own.plan.as_ref().is_some_and(|stored| stored.plan.intent == Intent::Drain);
    Ok(Seen {
        tables,
        linked,
        scaled_down: asked == 0,
        crew,
        drained: draining && crew::drained(&views, revision),
        batch_done: crew::batch_done(&views, own.plan.as_ref().map(|stored| &stored.plan)),
        views,
        pods,
    })
}

async fn refused(set: String, namespace: &str, context: &Context) -> Result<Option<Fault>, Error> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={set}")).limit(100);
    Ok(refusal_in_events(&api.list(&about).await?.items))
}

/// Removes pods of lost nodes.
async fn remove_overdue(pods: &[Arc<Pod>], context: &Context) -> Result<(), Error> {
    for pod in pods {
        if oneshot::outstays(pod, Timestamp::now()) {
            tracing::warn!(pod = pod.name_any(), namespace = pod.namespace(), "pod outstays its grace; removing it by force");
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
            match api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The phase that the link is in. A start stands in the plan first: who died before he wrote the status has begun it.
fn phase(link: &LinkConnection, own: &Own) -> LinkPhase {
    let phase = link.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
    let begun = || own.plan.as_ref().is_some_and(|stored| stored.plan.begins_after(link));
    if matches!(phase, LinkPhase::Initial | LinkPhase::Stopped) && begun() { LinkPhase::Starting } else { phase }
}

/// What follows from what is reported of the run's position.
fn heed<'a>(link: &LinkConnection, reports: impl IntoIterator<Item = &'a Report>, run: u32) -> Loss {
    let before = link.status.as_ref().and_then(|status| status.position_lost.as_ref());
    loss::heed(before, loss::reported(reports, run), Timestamp::now())
}

/// The run that the link is in. It too stands in the plan first; but who goes on where a former link was learns it from the zone,
/// by the workers.
fn run(link: &LinkConnection, own: &Own, reports: &[Arc<Report>]) -> u32 {
    let known = link.status.as_ref().and_then(|status| status.run_id).unwrap_or_default();
    match phase(link, own) {
        // The next start raises it, from the number in the status.
        LinkPhase::Initial | LinkPhase::Stopped => known,
        _ => {
            let planned = own.plan.as_ref().map_or(0, |stored| stored.plan.run);
            reports.iter().filter_map(|report| report.run).chain([known, planned]).max().unwrap_or_default()
        }
    }
}

/// Where the link goes from here. `reseed`: its position is lost, and the next run is to begin.
async fn course(
    link: &LinkConnection,
    run: u32,
    validated: Option<&Validated>,
    reseed: bool,
    seen: &Seen,
    own: &mut Own,
    context: &Context,
) -> Result<Course, Error> {
    let phase = phase(link, own);
    let Some(validated) = validated else {
        // It stays as it is: workers that run go on by their last plan.
        let batch = own.plan.as_ref().and_then(|stored| stored.plan.batch);
        return Ok(Course { phase, run, workers: !seen.scaled_down, intent: Intent::Run, release: false, batch });
    };
    let since = match own.phase {
        Some((known, since)) if known == phase => since,
        _ => own.phase.insert((phase, Instant::now())).1,
    };
    let fails = seen.crew.reports.iter().flat_map(|report| &report.checks).any(|check| check.fault.is_some());
    let wanted = link.spec.compute.workers();
    let leaving = matches!(phase, LinkPhase::Pausing | LinkPhase::Stopping);
    // Only where it decides something is the API server asked whether the watch is right.
    let gone = leaving && seen.scaled_down && seen.pods.is_empty() && release::workers_are_gone(link, context).await?;
    let facts = Facts {
        pods: seen.pods.len(),
        scaled_down: seen.scaled_down,
        gone,
        working: seen.crew.ready >= wanted && seen.crew.current >= wanted && !fails,
        drained: seen.drained,
        drain_expired: leaving && since.elapsed() > DRAIN,
        released: false,
        reseed,
    };
    let course = lifecycle::course(phase, run, link.spec.state, &facts);
    Ok(match link.spec.compute.process_interval() {
        None => course,
        Some(interval) => scheduled(link, validated, course, interval, seen, own),
    })
}

/// The course of a link that works in batches.
fn scheduled(link: &LinkConnection, validated: &Validated, course: Course, interval: Duration, seen: &Seen, own: &Own) -> Course {
    let stored = own.plan.as_ref().map(|stored| &stored.plan);
    let log_high = || link.status.as_ref().is_some_and(|status| schedule::is_log_high(status, &validated.bounds, Timestamp::now()));
    let asked = || stored.is_some_and(|stored| schedule::asks_for_work(&plan::plan(link, validated, &course, &seen.linked), stored));
    let facts = schedule::Facts {
        done: seen.batch_done,
        drained: seen.drained,
        scaled_down: seen.scaled_down,
        pods: !seen.pods.is_empty(),
        // While workers are there they measure the log, which they are about to read.
        urgent: asked() || (seen.scaled_down && log_high()),
    };
    schedule::shift(course, stored, interval, facts, Timestamp::now())
}

/// Who reported before the plan became what it is, or is to be, has not said anything of it.
fn heed_plan(seen: &mut Seen, own: &Own, is_to_change: bool) {
    let revision = own.plan.as_ref().map(|stored| stored.plan.revision).filter(|_| !is_to_change);
    let fresh = is_to_change || own.plan_written.is_some_and(|written| written.elapsed() < crew::EXPECTED);
    seen.crew.current = crew::current(&seen.views, revision);
    seen.crew.expecting |= fresh;
}

/// What was done.
#[derive(Default)]
struct Done {
    /// When another plan may be stored.
    plan_waits: Option<Duration>,
    /// When a rollout may begin.
    rollout_waits: Option<Duration>,
    /// The workers' template is what is wanted.
    applied: bool,
    /// It was another one until now: the pods that are there are to be made anew.
    renews: bool,
    released: bool,
    obstacle: Option<Fault>,
}

async fn carry_out(
    link: &LinkConnection,
    validated: &Validated,
    course: &Course,
    seen: &Seen,
    tables_to_come: bool,
    own: &mut Own,
    context: &Context,
) -> Result<Done, Error> {
    // Its first plan is one with its tables: they are to be seen at any moment.
    let plan_waits = if tables_to_come && own.plan.is_none() {
        Some(ON_THE_WAY)
    } else {
        children::store_plan(link, validated, course, &seen.linked, own, context).await?
    };
    let Applied { rollout_waits, renews } = Box::pin(children::apply(link, validated, course, own, &seen.pods, context)).await?;
    let mut done = Done { plan_waits, rollout_waits, applied: rollout_waits.is_none(), renews, ..Done::default() };
    // The watch may be behind what was just applied: whether a worker is left is asked of the API server.
    if course.release && release::workers_are_gone(link, context).await? {
        let base = build::pod_base(link, validated, context.pod_base());
        let plan = release::release_plan(link, plan::plan(link, validated, course, &[]), true);
        match release::step(link, &plan, &base, context).await? {
            Released::Yes => done.released = true,
            Released::NotYet { fault, .. } => done.obstacle = fault,
            Released::NamespaceTerminating => {}
        }
    }
    Ok(done)
}
