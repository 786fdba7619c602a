//! LandingZones: a probe pod asks whether a zone can be used; a finalizer holds it while a link refers to it.

mod status;

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};
use sha2::{Digest, Sha256};

use super::{
    Error,
    context::Context,
    link_connection::ZoneAnswer,
    names::{self, Component},
    oneshot::{self, Made, Step},
    pods::{self, OneShot, PodBase},
    status as shared,
};
use crate::api::{
    conditions::{annotation, mark::IN_USE_FINALIZER},
    fault::Check,
    landing_zone::LandingZone,
    link_connection::LinkConnection,
    plan::ProbeRequest,
    report::Report,
};
use status::Findings;

/// Brings a LandingZone's finalizer, probe and status up to date.
pub async fn reconcile(zone: Arc<LandingZone>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (zone.namespace().unwrap_or_default(), zone.name_any());
    let users = context.links(&namespace, |link| link.spec.landing_zone_ref.name == name);
    let deleting = zone.metadata.deletion_timestamp.is_some();
    if shared::set_finalizer(&context.client, zone.as_ref(), IN_USE_FINALIZER, !users.is_empty()).await?.is_some() {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let before = zone.status.clone().unwrap_or_default();
    let base = pod_base(&zone, &context, &users);
    let probe = probe(&zone, &namespace, &base)?;
    let asked = probe.asked.clone();
    let pod = context.pod(&namespace, &names::zone_probe(&name));
    let progress = oneshot::progress(pod.as_deref(), &asked, now);
    let heard = said_by_workers(&zone, &users, &context);
    let mut obstacle = progress.fault().filter(|_| heard.is_none()).cloned();
    let mut requeue = oneshot::ASK_AGAIN;
    match progress.step() {
        _ if deleting => {}
        // Workers ask all the time. What the pod answered holds again when they are gone, unless they know better.
        _ if heard.is_some() => {
            requeue = oneshot::GOOD_FOR;
            let faults = |checks: &[Check]| checks.iter().filter_map(|check| check.fault.clone()).collect::<Vec<_>>();
            let same = |report: &Report, heard: &ZoneAnswer| {
                faults(&report.checks) == faults(&heard.checks) && report.credential_expiry == heard.credential_expiry
            };
            let outdated = progress.report().zip(heard.as_ref()).is_some_and(|(report, heard)| !same(report, heard));
            if let Some(pod) = pod.as_ref().filter(|_| outdated) {
                oneshot::remove(&context.client, pod).await?;
            }
        }
        Step::Wait(time) => requeue = time,
        Step::Remove => {
            if let Some(pod) = &pod {
                oneshot::remove(&context.client, pod).await?;
            }
        }
        Step::Create => {
            // A zone may be there before the first link.
            if let Made::Refused(fault) = context.ask(&base, probe).await? {
                obstacle = Some(fault);
            }
        }
    }
    let answer = heard.as_ref().map(|heard| (heard.checks.as_slice(), heard.credential_expiry));
    let findings = Findings {
        generation: zone.metadata.generation,
        answer: answer.or(progress.report().map(|report| (report.checks.as_slice(), report.credential_expiry))),
        obstacle: obstacle.as_ref(),
        test: zone.annotations().get(annotation::TEST),
        deleting,
    };
    let (after, events) = status::status(&before, &findings, now);
    if after != before {
        shared::write(&context.client, zone.as_ref(), &after).await?;
    }
    for happened in &events {
        context.events.publish(&zone.object_ref(&()), happened).await;
    }
    Ok(Action::requeue(requeue))
}

/// What workers of links that use the zone say of it, where it is now; of several one that has something to complain of.
fn said_by_workers(zone: &LandingZone, users: &[Arc<LinkConnection>], context: &Context) -> Option<ZoneAnswer> {
    let heard = users.iter().filter_map(|link| context.memory.known(&link.uid()?)?.zone());
    let of_this = heard.filter(|answer| answer.store == zone.spec.store);
    of_this.max_by_key(|answer| answer.checks.iter().filter(|check| check.fault.is_some()).count())
}

/// What the pod that asks has in common with others. It runs where the links that use the zone run, as far as they agree.
fn pod_base(zone: &LandingZone, context: &Context, users: &[Arc<LinkConnection>]) -> PodBase {
    let namespace = zone.namespace().unwrap_or_default();
    let runtime = users.first().and_then(|link| link.spec.compute.integration_runtime_ref.as_ref());
    let runtime = runtime.and_then(|named| super::watch::get(&context.stores.runtimes, &namespace, &named.name));
    PodBase {
        inputs: pods::Inputs::of(None, None, Some(&zone.spec.store)),
        claim: zone.spec.store.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone()),
        runtime: runtime.and_then(|runtime| runtime.spec.kubernetes.clone()),
        ..context.pod_base()
    }
}

/// What is asked.
fn probe<'a>(zone: &LandingZone, namespace: &'a str, base: &PodBase) -> Result<OneShot<'a>, Error> {
    let request = serde_json::to_string(&ProbeRequest { zone: Some(zone.spec.store.clone()), ..Default::default() })?;
    let wish = zone.annotations().get(annotation::TEST).map_or("", String::as_str);
    let asked = question(&[&request, &zone.metadata.generation.unwrap_or_default().to_string(), wish, &base.image]);
    Ok(OneShot {
        component: Component::Probe,
        name: names::zone_probe(&zone.name_any()),
        namespace,
        labels: names::common_labels(),
        owner: zone.controller_owner_ref(&()),
        asked,
        request,
    })
}

/// Identifies a question by all that it depends on.
pub fn question(parts: &[&str]) -> String {
    hex::encode(&Sha256::digest(parts.join("\0"))[..10])
}
