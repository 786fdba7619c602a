//! What a link refers to. I/O only; decides nothing.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt};

use super::validate::References;
use crate::{
    api::link_connection::LinkConnection,
    controller::{context::Context, watch},
};

/// Finds what the link refers to.
pub async fn dereference(link: &LinkConnection, context: &Context) -> Result<References, kube::Error> {
    let namespace = link.namespace().unwrap_or_default();
    let zone = watch::get(&context.stores.zones, &namespace, &link.spec.landing_zone_ref.name);
    let runtime = link.spec.compute.integration_runtime_ref.as_ref();
    let runtime = runtime.and_then(|runtime| watch::get(&context.stores.runtimes, &namespace, &runtime.name));
    let claim = zone.as_ref().and_then(|zone| zone.spec.store.persistent_volume_claim.as_ref());
    let claim = match claim {
        // Its access modes matter only to several workers.
        Some(claim) if link.spec.compute.workers() > 1 => {
            Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &namespace).get_opt(&claim.claim_name).await?
        }
        _ => None,
    };
    Ok(References { zone, runtime, claim })
}
