//! What is not kept of objects: with a thousand links what nobody asks for is most of the controller's memory. Pure.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{availability, names};
use crate::api::link_table::LinkTable;

/// Of all kinds. Who changed which field is as large as the object.
pub fn meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
}

/// There are ten thousand of them. Labels are for those who select by them, people and the API server: that a link's own LinkTable has
/// those that it should have is all that is kept of them, by keeping none.
pub fn table(table: &mut LinkTable) {
    let wanted = names::table_labels(&table.spec.link_connection_ref.name, &table.spec.source_name());
    let labels = table.metadata.labels.get_or_insert_default();
    if wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        table.metadata.labels = None;
    }
}

/// A pod is asked who and how it is, not what it was to be: that is its StatefulSet's, or its question's.
pub fn pod(pod: &mut Pod) {
    pod.spec = None;
    if let Some(status) = &mut pod.status {
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| availability::ASKED.contains(&condition.type_.as_str()));
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_link_table_labels_are_kept_that_are_not_as_they_should_be() {
        let kept = |labels: serde_json::Value| {
            let spec = json!({"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": "orders"}});
            let mut there: LinkTable = serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec})).unwrap();
            table(&mut there);
            there.metadata.labels
        };
        let mut labels = names::table_labels("shop", &crate::data::TableName::new("public", "orders"));
        assert_eq!(kept(json!(labels)), None);
        labels.insert("team".to_owned(), "a".to_owned());
        assert_eq!(kept(json!(labels)), None);
        labels.remove(names::TABLE_LABEL);
        assert_eq!(kept(json!(labels)), Some(labels));
        assert_eq!(kept(json!(null)), Some(BTreeMap::new()));
    }

    #[test]
    fn of_pods_and_stateful_sets_stays_what_is_asked_of_them() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "worker", "image": "i"}]}});
        let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(|kind| json!({"type": kind, "status": "True"}));
        let mut pod_there: Pod = serde_json::from_value(json!({
            "metadata": {"name": "shop-0", "uid": "u", "labels": {"a": "b"}},
            "spec": template["spec"],
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": conditions,
                "containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "volumeMounts": [{"name": "zone", "mountPath": "/zone"}]}]},
        }))
        .unwrap();
        let before = serde_json::to_value(&pod_there).unwrap();
        pod(&mut pod_there);
        let after = serde_json::to_value(&pod_there).unwrap();
        assert!(after["spec"].is_null() && after["status"]["podIPs"].is_null());
        assert!(after["status"]["containerStatuses"][0]["volumeMounts"].is_null());
        assert_eq!(after["status"]["conditions"].as_array().map(Vec::len), Some(2));
        assert!(availability::is_ready(&pod_there));
        for kept in ["/metadata", "/status/phase", "/status/podIP", "/status/containerStatuses/0/state"] {
            assert_eq!(after.pointer(kept), before.pointer(kept), "{kept}");
        }

        let mut set_there: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "shop", "uid": "u", "generation": 3, "annotations": {"a": "b"}},
            "spec": {"replicas": 2, "template": template, "selector": {}, "serviceName": "shop"},
            "status": {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "observedGeneration": 3},
        }))
        .unwrap();
        let before = serde_json::to_value(&set_there).unwrap();
        set(&mut set_there);
        let after = serde_json::to_value(&set_there).unwrap();
        assert_eq!(after["spec"]["template"], serde_json::to_value(PodTemplateSpec::default()).unwrap());
        for kept in ["/metadata", "/spec/replicas", "/status"] {
            assert_eq!(after.pointer(kept), before.pointer(kept), "{kept}");
        }
    }
}
