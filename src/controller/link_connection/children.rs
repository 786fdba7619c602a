//! Bringing a link's children into the cluster: the plan first, so that whoever starts finds it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::reflector::ObjectRef,
};
use serde_json::json;

use super::{build, credentials, crew, lifecycle::Course, memory::Own, owned, plan, validate::Validated};
use crate::{
    api::{
        conditions::mark::MANAGER,
        link_connection::LinkConnection,
        link_table::LinkTable,
        plan::{Intent, Plan},
    },
    controller::{Error, context::Context, events::Happened, names, rollouts, workers::StoredPlan},
    data::TableName,
};

/// After this long the stored plan is read again.
const RECHECK: Duration = Duration::from_mins(5);
/// Shortest time between two revisions of a plan: many LinkTables that come at once make few.
const SETTLE: Duration = Duration::from_secs(2);
/// LinkTables that are applied at once: discovery may find thousands.
const TABLES_AT_ONCE: usize = 8;
/// How soon a rollout that has to wait is tried again.
const ROLL_AGAIN: Duration = Duration::from_secs(5);

/// Knows the stored plan, from memory or from its ConfigMap.
pub async fn recall(link: &LinkConnection, own: &mut Own, context: &Context) -> Result<(), Error> {
    own.wake();
    if own.plan.as_ref().is_none_or(|stored| stored.kept.seen.elapsed() > RECHECK) {
        own.plan = plan::load(&context.client, &link.namespace().unwrap_or_default(), &link.name_any()).await?.map(Box::new);
        let stored = own.plan.as_ref().map_or(0, |stored| stored.plan.revision);
        own.revision = own.revision.max(stored);
    }
    Ok(())
}

/// Stores the plan if its content changed. Returns how long to wait if it may not be written yet.
pub async fn store_plan(
    link: &LinkConnection,
    validated: &Validated,
    course: &Course,
    tables: &[Arc<LinkTable>],
    own: &mut Own,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let wanted = plan::plan(link, validated, course, tables);
    let before = own.plan.as_ref().map(|stored| &stored.plan);
    let revise = |wanted: Plan| plan::revise(before, wanted, own.revision, Timestamp::now());
    let revised = match (revise(wanted), before) {
        // To rest takes no more than the workers have, which fits.
        (Some(revised), Some(before)) if course.intent == Intent::Drain && !plan::fits(&revised) => {
            revise(Plan { intent: course.intent, run: course.run, batch: course.batch, ..before.clone() })
        }
        (revised, _) => revised,
    };
    let Some(revised) = revised else { return Ok(None) };
    // A new intent is not kept waiting.
    let same_intent = own.plan.as_ref().is_some_and(|stored| stored.plan.intent == revised.intent && stored.plan.run == revised.run);
    if let Some(written) = own.plan_written.filter(|written| same_intent && written.elapsed() < SETTLE) {
        return Ok(Some(SETTLE.saturating_sub(written.elapsed())));
    }
    let (name, revision) = (link.name_any(), revised.revision);
    match plan::store(&context.client, revised, own.plan.as_deref(), build::owner(link)).await {
        Ok(stored) => {
            tracing::info!(link = name, namespace = link.namespace(), revision, "plan stored");
            own.revision = own.revision.max(revision);
            own.plan = Some(Box::new(stored));
            own.plan_written = Some(Instant::now());
            Ok(None)
        }
        // Nobody was asked to store it.
        Err(error @ Error::PlanTooLarge { .. }) => Err(error),
        Err(error) => {
            // Perhaps somebody else wrote: read it again before anything is decided.
            own.plan = None;
            Err(error)
        }
    }
}

/// What was applied.
pub struct Applied {
    /// When to come again, if a rollout has to wait.
    pub rollout_waits: Option<Duration>,
    /// The workers' pods are to be made anew.
    pub renews: bool,
}

/// Applies all that runs for a link, and keeps talking to its workers.
pub async fn apply(
    link: &LinkConnection,
    validated: &Validated,
    course: &Course,
    own: &mut Own,
    pods: &[Arc<Pod>],
    context: &Context,
) -> Result<Applied, Error> {
    let namespace = link.namespace().unwrap_or_default();
    let base = build::pod_base(link, validated, context.pod_base());
    let children = build::children(link, validated, &base, course.workers, context.options.pod_namespace.as_deref());
    // Before the pods that mount them.
    credentials::ensure(link, own, context).await?;
    let applier = &context.applier;
    let there = crate::controller::watch::get(&context.stores.workers, &namespace, &names::workers(&link.name_any()));
    context.ensure_account(&base, &namespace).await?;
    applier.apply(&children.service).await?;
    applier.apply(&children.network_policy).await?;
    applier.apply(&children.disruption_budget).await?;
    let generation = link.metadata.generation.unwrap_or_default();
    let asked = build::restart(link).map_or_else(|| generation.to_string(), |restart| format!("{generation}, {restart}"));
    let all = || context.stores.workers.state();
    let (workers, waits) = context.rollouts.admit(children.workers.clone(), &asked, there.as_deref(), all)?;
    let renews = !waits && there.as_deref().is_some_and(|there| rollouts::renews(there, &workers));
    match (waits, there.as_deref()) {
        // It stays as it is, but for its replicas. The watch does not keep templates.
        (true, Some(there)) if replicas(there) == replicas(&workers) => {}
        (true, Some(there)) => {
            let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
            let there = api.get(&there.name_any()).await?;
            let (workers, _) = context.rollouts.admit(children.workers, &asked, Some(&there), all)?;
            applier.apply(&workers).await?;
        }
        (false, there) | (_, there @ None) => {
            applier.apply_over(&workers, there).await?;
        }
    }
    talk(link, own, pods, context).await?;
    Ok(Applied { rollout_waits: waits.then_some(ROLL_AGAIN), renews })
}

/// Keeps talking to the link's workers: by the plan that is stored, if there is one.
pub async fn talk(link: &LinkConnection, own: &mut Own, pods: &[Arc<Pod>], context: &Context) -> Result<(), Error> {
    if own.plan.is_none() {
        return Ok(());
    }
    let trust = credentials::ensure(link, own, context).await?;
    if let Some(stored) = &own.plan {
        let plan: &StoredPlan = &stored.kept.pushed;
        context.workers.sync(&ObjectRef::from_obj(link), &link.uid().unwrap_or_default(), &trust, plan, crew::reachable(pods));
    }
    Ok(())
}

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref().and_then(|spec| spec.replicas)
}

/// Makes, hands over and removes the link's own LinkTables. `discovered`: what workers found. Whether the watch is to show other tables
/// than it does.
pub async fn own_tables(
    link: &LinkConnection,
    tables: &[Arc<LinkTable>],
    discovered: &[TableName],
    context: &Context,
) -> Result<bool, Error> {
    let namespace = link.namespace().unwrap_or_default();
    let there: HashMap<String, &Arc<LinkTable>> = tables.iter().map(|table| (table.name_any(), table)).collect();
    let owned = owned::owned_tables(link, tables, discovered);
    let to_come = owned.wanted.iter().any(|table| !there.contains_key(&table.name_any()));
    let to_come = to_come || !owned.takeovers.is_empty() || !owned.orphans.is_empty();
    let api: Api<LinkTable> = Api::namespaced(context.client.clone(), &namespace);
    let apply = |table: LinkTable| {
        let there = there.get(&table.name_any()).copied();
        async move {
            let sent = context.applier.apply_over(&table, there.map(AsRef::as_ref)).await?;
            Ok::<_, Error>((sent && there.is_none()).then(|| table.spec.source_name()))
        }
    };
    let mut made = Vec::new();
    let mut applied = stream::iter(owned.wanted).map(apply).buffer_unordered(TABLES_AT_ONCE);
    let result = loop {
        match applied.next().await {
            Some(Ok(table)) => made.extend(table),
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    drop(applied);
    if let Some(text) = owned::linked(&mut made) {
        context.events.publish(&link.object_ref(&()), &Happened::normal("AddTable", text)).await;
    }
    result?;
    for (heir, identity) in &owned.takeovers {
        // From then on workers know it as the one before it: nothing is loaded again.
        let patch = json!({
            "metadata": {"annotations": {names::TAKES_OVER: identity}, "resourceVersion": heir.resource_version()}
        });
        api.patch(&heir.name_any(), &PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() }, &Patch::Merge(&patch))
            .await?;
    }
    for orphan in &owned.orphans {
        let precondition = Preconditions { uid: orphan.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(precondition), ..Default::default() };
        match api.delete(&orphan.name_any(), &params).await {
            Ok(_) => {
                let text = format!("table {} is no longer linked", orphan.spec.source_name());
                context.events.publish(&link.object_ref(&()), &Happened::normal("RemoveTable", text)).await;
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(to_come)
}
