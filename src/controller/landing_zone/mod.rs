//! LandingZones: a probe pod asks whether a zone can be used; a finalizer holds it while a link refers to it.

mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{Resource, ResourceExt, runtime::controller::Action};
use sha2::{Digest, Sha256};

use super::{
    Error,
    context::Context,
    names::{self, Component},
    oneshot::{self, Made, Step},
    pods::{self, OneShot, PodBase},
    status as shared,
};
use crate::api::{conditions::mark::IN_USE_FINALIZER, landing_zone::LandingZone, link_connection::LinkConnection, plan::ProbeRequest};
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
    let probe = probe(&zone, &base)?;
    let asked = probe.metadata.annotations.as_ref().and_then(|annotations| annotations.get(names::ASKED)).cloned().unwrap_or_default();
    let pod = context.pod(&namespace, &names::zone_probe(&name));
    let progress = oneshot::progress(pod.as_deref(), &asked, now);
    let mut obstacle = progress.fault().cloned();
    let mut requeue = oneshot::ASK_AGAIN;
    match progress.step() {
        _ if deleting => {}
        Step::Wait(time) => requeue = time,
        Step::Remove => {
            if let Some(pod) = &pod {
                oneshot::remove(&context.client, pod).await?;
            }
        }
        Step::Create => {
            // A zone may be there before the first link.
            let account = pods::service_account(&base, Some(namespace.clone()));
            context.applier.apply(&account).await?;
            match oneshot::create(&context.client, &probe).await? {
                Made::Yes | Made::NamespaceTerminating => {}
                Made::Refused(fault) => {
                    // A namespace of the same name may have been made again, without the account.
                    context.applier.forget::<ServiceAccount>(&namespace, &account.name_any());
                    obstacle = Some(fault);
                }
            }
        }
    }
    let findings = Findings { generation: zone.metadata.generation, report: progress.report(), obstacle: obstacle.as_ref(), deleting };
    let (after, events) = status::status(&before, &findings, now);
    if after != before {
        shared::write(&context.client, zone.as_ref(), &after).await?;
    }
    for happened in &events {
        context.events.publish(&zone.object_ref(&()), happened).await;
    }
    Ok(Action::requeue(requeue))
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

/// The pod that asks.
fn probe(zone: &LandingZone, base: &PodBase) -> Result<Pod, Error> {
    let namespace = zone.namespace().unwrap_or_default();
    let request = serde_json::to_string(&ProbeRequest { zone: Some(zone.spec.store.clone()), ..Default::default() })?;
    let wish = zone.annotations().get(names::TEST_REQUESTED).map_or("", String::as_str);
    let asked = question(&[&request, &zone.metadata.generation.unwrap_or_default().to_string(), wish, &base.image]);
    let one_shot = OneShot {
        component: Component::Probe,
        name: names::zone_probe(&zone.name_any()),
        namespace: &namespace,
        labels: names::common_labels(),
        owner: zone.controller_owner_ref(&()),
        asked,
        request,
    };
    Ok(pods::one_shot(base, one_shot))
}

/// Identifies a question by all that it depends on.
pub fn question(parts: &[&str]) -> String {
    hex::encode(&Sha256::digest(parts.join("\0"))[..10])
}
