//! What is not kept of objects that others fill: with a thousand links what nobody asks for is most of the controller's memory. Pure.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodTemplateSpec},
};

/// A pod is asked who and how it is, not what it was to be: that is its StatefulSet's, or its question's.
pub fn pod(pod: &mut Pod) {
    pod.spec = None;
    if let Some(status) = &mut pod.status {
        (status.host_ips, status.pod_ips, status.ephemeral_container_statuses, status.resource_claim_statuses) = (None, None, None, None);
        for container in status.container_statuses.iter_mut().chain(&mut status.init_container_statuses).flatten() {
            (container.volume_mounts, container.resources, container.allocated_resources) = (None, None, None);
        }
    }
}

/// A StatefulSet is asked for its replicas, its marks and how far it is. Who needs its template asks for it.
pub fn set(set: &mut StatefulSet) {
    if let Some(spec) = &mut set.spec {
        spec.template = PodTemplateSpec::default();
        spec.volume_claim_templates = None;
    }
    if let Some(status) = &mut set.status {
        status.conditions = None;
    }
}
