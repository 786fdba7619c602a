//! Removing what a link made: by a release pod, when the link is stopped or deleted and no worker is left.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, ObjectReference, Pod},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::controller::Action,
};

use super::{
    build, children, crew, dereference,
    leftovers::{self, leftovers},
    lifecycle::Course,
    memory::Own,
    plan, status, validate,
};
use crate::{
    api::{
        conditions::{
            Truth, annotation, is_true,
            mark::{LINK, RELEASE_FINALIZER, ROLE},
            set,
        },
        fault::{Explain as _, Fault},
        link_connection::{LinkConnection, LinkPhase, TargetDeletion, ZoneDeletion},
        plan::{Intent, Plan},
        report::Report,
    },
    controller::{
        Error,
        context::Context,
        events::Happened,
        explain,
        landing_zone::question,
        link_table::whole_second,
        names::{self, Component},
        oneshot::{self, Made, Progress, Step},
        pods::{OneShot, PodBase},
        status::{self as shared, Ready},
        watch,
    },
    secrets::Secrets,
    source,
};

/// How long a release is tried before the link goes without it.
const DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// How long workers may take to finish what they have read.
const DRAIN: SignedDuration = SignedDuration::from_mins(1);
/// How soon its progress is looked at again.
const LOOK: Duration = Duration::from_secs(3);

/// Where a release stands.
#[derive(Debug)]
pub enum Released {
    /// All that the link made is gone.
    Yes,
    /// It is under way.
    NotYet {
        /// What hinders it, if known.
        fault: Option<Fault>,
        /// What it came to so far, if it did.
        report: Option<Box<Report>>,
    },
    /// No pod can ever be made in this namespace again.
    NamespaceTerminating,
}

/// Lets a release pod carry out `plan`, one step. The pod is told everything by its argument: under foreground deletion
/// the ConfigMap goes before the link does. Call only when no worker is left.
pub async fn step(link: &LinkConnection, plan: &Plan, base: &PodBase, context: &Context) -> Result<Released, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let request = serde_json::to_string(plan)?;
    let pod = context.pod(&namespace, &names::release(&name));
    let asked = question(&[&request, &base.image, &link.uid().unwrap_or_default()]);
    let progress = oneshot::progress(pod.as_deref(), &asked, Timestamp::now());
    if progress.report().is_some_and(|report| report.released) {
        return Ok(Released::Yes);
    }
    let failed = progress.report().and_then(|report| report.checks.iter().find_map(|check| check.fault.clone()));
    let unclear = matches!(progress, Progress::Answered { .. }).then(|| Fault {
        reason: "NotReleased".to_owned(),
        message: "the release pod did not remove everything".to_owned(),
        remedy: format!("kubectl logs {}; it is tried again", names::release(&name)),
        heals: true,
    });
    let fault = failed.or_else(|| progress.fault().cloned()).or(unclear);
    let step = match progress.step() {
        // An answer that all is well and nothing is released is none.
        Step::Wait(time) if time > oneshot::ASK_AGAIN => Step::Remove,
        step => step,
    };
    match step {
        Step::Wait(_) => {}
        Step::Remove => {
            if let Some(pod) = &pod {
                oneshot::remove(&context.client, pod).await?;
            }
        }
        Step::Create => {
            let one_shot = OneShot {
                component: Component::Release,
                name: names::release(&name),
                namespace: &namespace,
                labels: names::link_labels(&name),
                owner: None,
                asked,
                request,
            };
            match context.ask(base, one_shot).await? {
                Made::Yes => {}
                Made::Refused(fault) => return Ok(Released::NotYet { fault: Some(fault), report: None }),
                Made::NamespaceTerminating => return Ok(Released::NamespaceTerminating),
            }
        }
    }
    Ok(Released::NotYet { fault, report: progress.report().cloned().map(Box::new) })
}

/// Removes the release pod once its answer was heeded.
pub async fn tidy(link: &LinkConnection, context: &Context) -> Result<(), Error> {
    if let Some(pod) = context.pod(&link.namespace().unwrap_or_default(), &names::release(&link.name_any())) {
        oneshot::remove(&context.client, &pod).await?;
    }
    Ok(())
}

/// What a release is to carry out.
pub fn release_plan(link: &LinkConnection, from: Plan, stop_only: bool) -> Plan {
    let policy = &link.spec.deletion_policy;
    let confirmed = link.annotations().get(annotation::CONFIRM_DELETE) == Some(&link.name_any());
    Plan {
        // An argument has room for 128 KiB; what the link made is found by its identity.
        tables: Vec::new(),
        stop_only,
        delete_target_tables: !stop_only && policy.target == TargetDeletion::Delete && confirmed,
        retain_zone: stop_only || policy.landing_zone == ZoneDeletion::Retain,
        ..from
    }
}

/// Whether no worker of the link is left: asked of the API server, since what the watch shows may be older than a pod.
/// One that outstays its grace by far is removed by force, which is safe: correctness never depends on it being gone.
pub async fn workers_are_gone(link: &LinkConnection, context: &Context) -> Result<bool, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
    if let Some(set) = sets.get_opt(&names::workers(&name)).await? {
        let asks = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = set.status.unwrap_or_default();
        // Until its controller has seen the scaling, it may still make a pod.
        let unseen = status.observed_generation.unwrap_or_default() < set.metadata.generation.unwrap_or_default();
        if set.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LINK)) && (asks > 0 || unseen || status.replicas > 0) {
            return Ok(false);
        }
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let selector = format!("{LINK}={name},{ROLE}={}", Component::Worker);
    let left = pods.list(&ListParams::default().labels(&selector)).await?.items;
    for pod in &left {
        if oneshot::outstays(pod, Timestamp::now()) {
            tracing::warn!(pod = pod.name_any(), namespace, "pod outstays its grace; removing it by force");
            oneshot::remove(&context.client, pod).await?;
        }
    }
    Ok(left.is_empty())
}

/// One step of a link's deletion.
pub async fn delete(link: &Arc<LinkConnection>, context: &Context) -> Result<Action, Error> {
    let uid = link.uid().unwrap_or_default();
    if !link.finalizers().iter().any(|finalizer| finalizer == RELEASE_FINALIZER) {
        context.workers.forget(&uid);
        context.memory.forget(&uid);
        return Ok(Action::await_change());
    }
    let (fault, report) = match Box::pin(free(link, context)).await {
        Ok(Freed::Forgotten) => return Ok(Action::await_change()),
        Ok(Freed::NothingMade) => return let_go(link, context).await,
        Ok(Freed::Released(Released::Yes)) => {
            tidy(link, context).await?;
            let happened = Happened::normal(status::RELEASED, "what the link made was removed");
            context.events.publish(&link.object_ref(&()), &happened).await;
            return let_go(link, context).await;
        }
        Ok(Freed::Released(Released::NamespaceTerminating)) => {
            return announce(link, context, "its namespace is being deleted, so nothing can run in it any more", None).await;
        }
        Ok(Freed::Released(Released::NotYet { fault, report })) => (fault, report),
        Ok(Freed::WorkersLeft) => (None, None),
        Err(error) if error.is_conflict() => return Err(error),
        // Whatever refuses, and for however long: nobody waits for it for ever.
        Err(error) => (Some(error.fault()), None),
    };
    // Of what was tried, not of what was asked for while nobody was there to try.
    let began = link.status.as_ref().and_then(|status| status.release_start_time);
    if began.is_some_and(|began| Timestamp::now().duration_since(began) > DEADLINE) {
        let why = fault.as_ref().map_or_else(|| "it did not end in time".to_owned(), explain);
        return announce(link, context, &why, report.as_deref()).await;
    }
    tell(link, context, fault.as_ref()).await?;
    Ok(Action::requeue(LOOK))
}

/// How one step of freeing what a link made ended.
enum Freed {
    /// No worker ever made anything.
    NothingMade,
    /// Its workers are still there.
    WorkersLeft,
    /// It was let go a moment ago.
    Forgotten,
    /// So far it is.
    Released(Released),
}

/// Lets the workers commit and apply what they have read, as before a stop: the target keeps its tables. Whether they have, or nobody is
/// there to, or it takes too long.
async fn are_drained(link: &LinkConnection, context: &Context) -> Result<bool, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let status = link.status.clone().unwrap_or_default();
    let is_late = status.release_start_time.is_some_and(|began| Timestamp::now().duration_since(began) > DRAIN);
    let rests = matches!(status.phase.unwrap_or_default(), LinkPhase::Initial | LinkPhase::Paused | LinkPhase::Stopped);
    let set = watch::get(&context.stores.workers, &namespace, &names::workers(&name));
    let works = set
        .is_some_and(|set| set.metadata.deletion_timestamp.is_none() && set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) > 0);
    let worker: &str = Component::Worker.into();
    let pods = watch::list(&context.stores.pods, &namespace, |pod: &Pod| {
        pod.labels().get(LINK) == Some(&name) && pod.labels().get(ROLE).map(String::as_str) == Some(worker)
    });
    if is_late || rests || !works || crew::reachable(&pods).is_empty() {
        return Ok(true);
    }
    let memory = context.memory.link(&link.uid().unwrap_or_default());
    let mut own = memory.own.lock().await;
    let drained = drain(link, &mut own, &pods, context).await;
    own.rest();
    drained
}

async fn drain(link: &LinkConnection, own: &mut Own, pods: &[Arc<Pod>], context: &Context) -> Result<bool, Error> {
    children::recall(link, own, context).await?;
    let Some(stored) = own.plan.as_deref() else { return Ok(true) };
    let drained = Plan { intent: Intent::Drain, ..stored.plan.clone() };
    if let Some(revised) = plan::revise(Some(&stored.plan), drained, own.revision, Timestamp::now()) {
        own.revision = revised.revision;
        match plan::store(&context.client, revised, Some(stored), build::owner(link)).await {
            Ok(stored) => own.plan = Some(Box::new(stored)),
            // Under foreground deletion the ConfigMap goes before the link does: nothing tells the workers.
            Err(Error::ApiServerRefused(kube::Error::Api(status))) if status.code == 404 => return Ok(true),
            Err(error) => {
                // Perhaps it was stored: it is read again.
                own.plan = None;
                return Err(error);
            }
        }
    }
    children::talk(link, own, pods, context).await?;
    let revision = own.plan.as_ref().map(|stored| stored.plan.revision);
    Ok(crew::drained(&context.workers.view(&link.uid().unwrap_or_default()), revision))
}

/// One step of freeing what a link made: the workers go, then a release pod does its work.
async fn free(link: &LinkConnection, context: &Context) -> Result<Freed, Error> {
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    // The watch may still show a link that was let go a moment ago: nothing is released for it again.
    let api: Api<LinkConnection> = Api::namespaced(context.client.clone(), &namespace);
    let held = |now: &LinkConnection| now.uid() == link.uid() && now.finalizers().iter().any(|name| name == RELEASE_FINALIZER);
    let Some(current) = api.get_opt(&name).await?.filter(held) else {
        return Ok(Freed::Forgotten);
    };
    if !has_started(link, context).await? {
        return Ok(Freed::NothingMade);
    }
    if is_terminating(&namespace, context).await? {
        return Ok(Freed::Released(Released::NamespaceTerminating));
    }
    if !are_drained(link, context).await? {
        return Ok(Freed::WorkersLeft);
    }
    context.workers.forget(&link.uid().unwrap_or_default());
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
    if let Some(set) = sets.get_opt(&names::workers(&name)).await?
        && set.labels().get(LINK) == Some(&name)
        && set.metadata.deletion_timestamp.is_none()
    {
        sets.delete(&names::workers(&name), &DeleteParams::background()).await?;
    }
    if !workers_are_gone(link, context).await? {
        return Ok(Freed::WorkersLeft);
    }
    Ok(Freed::Released(match prepared(&current, context).await? {
        Ok((plan, base)) => step(&current, &plan, &base, context).await?,
        Err(fault) => Released::NotYet { fault: Some(fault), report: None },
    }))
}

/// Whether workers may ever have made anything: their plan stood before the status said so.
async fn has_started(link: &LinkConnection, context: &Context) -> Result<bool, Error> {
    if link.status.as_ref().is_some_and(|status| status.run_id.is_some()) {
        return Ok(true);
    }
    let stored = plan::load(&context.client, &link.namespace().unwrap_or_default(), &link.name_any()).await?;
    Ok(stored.is_some_and(|stored| stored.plan.begins_after(link)))
}

/// Plan and pods of a release: by the link's spec, or by the plan that was stored last; else why there is none. Under foreground deletion
/// the ConfigMap goes before the link does: then the plan is the one that this process knows.
async fn prepared(link: &LinkConnection, context: &Context) -> Result<Result<(Plan, PodBase), Fault>, Error> {
    let references = dereference::dereference(link, context).await?;
    let validated = match validate::validate(link, &references) {
        Ok(validated) => validated,
        Err(refusal) => {
            let memory = context.memory.link(&link.uid().unwrap_or_default());
            let mut own = memory.own.lock().await;
            own.wake();
            let stored = match own.plan.as_deref().cloned() {
                Some(known) => Some(known),
                None => plan::load(&context.client, &link.namespace().unwrap_or_default(), &link.name_any()).await?,
            };
            match stored {
                Some(stored) => validate::as_planned(link, &stored.plan, &references),
                None => return Ok(Err(refusal)),
            }
        }
    };
    let run = link.status.as_ref().and_then(|status| status.run_id).unwrap_or_default();
    let course = Course { phase: LinkPhase::Stopping, run, workers: false, intent: Intent::Drain, release: true, batch: None };
    let plan = plan::plan(link, &validated, &course, &[]);
    Ok(Ok((release_plan(link, plan, false), build::pod_base(link, &validated, context.pod_base()))))
}

async fn is_terminating(namespace: &str, context: &Context) -> Result<bool, Error> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    match api.get_metadata_opt(namespace).await {
        Ok(found) => Ok(found.is_some_and(|found| found.metadata.deletion_timestamp.is_some())),
        // A controller of one namespace may not ask; the pod that it cannot make will tell.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Names what is left, wherever it can still be read, and lets the link go.
async fn announce(link: &LinkConnection, context: &Context, why: &str, report: Option<&Report>) -> Result<Action, Error> {
    let id = validate::link_id(link);
    // Opens no connection and reads no Secret: it is asked for the commands only.
    let commands = source::open(&link.spec.source, &Secrets::new("/nonexistent"), &id).map(|source| source.release_commands());
    let left = leftovers(link, report, &commands.unwrap_or_default());
    // It has no owner: it would stay for ever. The watch may not show yet that it was made.
    let (namespace, name) = (link.namespace().unwrap_or_default(), link.name_any());
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let removed = async {
        match pods.get_opt(&names::release(&name)).await? {
            Some(pod) if pod.labels().get(LINK) == Some(&name) => oneshot::remove(&context.client, &pod).await,
            _ => Ok(()),
        }
    };
    if let Err(error) = removed.await {
        tracing::warn!(%error, "the release pod cannot be removed");
    }
    if left.is_empty() {
        return let_go(link, context).await;
    }
    let told = leftovers::told(&left);
    // An Event has room for 1 KiB: what is cut off is of the reason.
    let message =
        format!("LinkConnection {namespace}/{name} was deleted and not all that it made is gone. Left {told}. It was not freed: {why}");
    tracing::error!(namespace, link = name, left = told, why, "what the link made is left");
    if leftovers::is_in_source(&left) {
        context.metrics.left_behind();
    }
    let fault = Fault { reason: "NotReleased".to_owned(), message: why.to_owned(), remedy: format!("left {told}"), heals: false };
    if let Err(error) = tell(link, context, Some(&fault)).await {
        tracing::warn!(%error, "the last status cannot be written");
    }
    let happened = Happened::warning("NotReleased", message);
    if let Some(namespace) = &context.options.pod_namespace {
        let operator = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(context.options.pod_name.clone().unwrap_or_else(|| "link-operator".to_owned())),
            namespace: Some(namespace.clone()),
            ..Default::default()
        };
        context.events.publish(&operator, &happened).await;
    }
    context.events.publish(&link.object_ref(&()), &happened).await;
    let_go(link, context).await
}

async fn let_go(link: &LinkConnection, context: &Context) -> Result<Action, Error> {
    shared::remove_finalizer(&context.client, link, RELEASE_FINALIZER).await?;
    let uid = link.uid().unwrap_or_default();
    context.workers.forget(&uid);
    context.memory.forget(&uid);
    Ok(Action::await_change())
}

/// Says in the status that the link is being deleted, and what hinders it.
async fn tell(link: &LinkConnection, context: &Context, obstacle: Option<&Fault>) -> Result<(), Error> {
    let before = link.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let (now, generation) = (Timestamp::now(), link.metadata.generation);
    after.observed_generation = generation;
    after.release_start_time.get_or_insert_with(|| whole_second(now));
    let text = obstacle.map_or_else(|| "what the link made is being removed".to_owned(), explain);
    let word = crate::api::conditions::reason::DELETING;
    Ready::progressing(word, text.clone()).write(&mut after.conditions, generation, now);
    let why = obstacle.map_or(word, |fault| &fault.reason);
    // A stop has freed the source already.
    if before.phase != Some(LinkPhase::Stopped) || !is_true(&before.conditions, status::RELEASED) {
        set(&mut after.conditions, status::RELEASED, Truth::False, why, &text, generation, now);
    }
    if after != before {
        let written = shared::write(&context.client, link, &after).await?;
        context.memory.newest.wrote(written);
    }
    Ok(())
}
