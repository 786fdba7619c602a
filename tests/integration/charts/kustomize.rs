//! deploy/base and deploy/overlays are the chart, as kubectl builds it.

use std::{collections::BTreeMap, process::Command};

use kube::{ResourceExt, api::DynamicObject};

use super::{answer, apply, documents, helm};
use crate::support::apiserver::{ApiServer, binary};

pub fn kustomize(folder: &str) -> Vec<DynamicObject> {
    documents(&answer(Command::new(binary("kubectl")).args(["kustomize", folder])).unwrap())
}

/// By kind, namespace and name, and without what Helm says of itself.
fn by_name(objects: Vec<DynamicObject>) -> BTreeMap<String, DynamicObject> {
    let plain = |mut object: DynamicObject| {
        object.labels_mut().retain(|key, _| key != "helm.sh/chart" && key != "app.kubernetes.io/managed-by");
        if let Some(labels) = object.data.pointer_mut("/spec/template/metadata/labels").and_then(|labels| labels.as_object_mut()) {
            labels.retain(|key, _| key != "helm.sh/chart" && key != "app.kubernetes.io/managed-by");
        }
        let kind = object.types.as_ref().unwrap().kind.clone();
        (format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any()), object)
    };
    objects.into_iter().map(plain).collect()
}

/// The folder makes what the chart makes with these values, beside the kinds and a namespace.
fn same(folder: &str, values: &str) {
    let mut built = by_name(kustomize(folder));
    let namespace = built.remove("Namespace /link-operator").unwrap();
    assert_eq!(namespace.labels()["pod-security.kubernetes.io/enforce"], "restricted");
    let kinds = by_name(documents(&helm(&["template", "kinds", "charts/link-operator-crds"]).unwrap()));
    for (name, kind) in kinds {
        assert_eq!(built.remove(&name).unwrap().data, kind.data, "{folder}: {name}");
    }
    let arguments = ["template", "link-operator", "charts/link-operator", "--namespace", "link-operator", "--skip-tests", "--set", values];
    let chart = by_name(documents(&helm(&arguments).unwrap()));
    assert_eq!(built.keys().collect::<Vec<_>>(), chart.keys().collect::<Vec<_>>(), "{folder}");
    for (name, object) in chart {
        assert_eq!(built[&name], object, "{folder}: {name}");
    }
}

#[test]
fn base_is_the_chart() {
    same("deploy/base", "replicas=1");
}

#[test]
fn overlay_for_high_availability_is_the_chart_with_two_replicas() {
    same("deploy/overlays/ha", "replicas=2");
}

#[test]
fn overlay_for_one_namespace_is_the_chart_for_one_namespace() {
    same("deploy/overlays/namespaced", "watchNamespace=link-operator");
}

#[tokio::test]
async fn server_takes_what_kustomize_builds() {
    let server = ApiServer::shared().await;
    for folder in ["deploy/base", "deploy/overlays/ha", "deploy/overlays/namespaced"] {
        let objects = kustomize(folder);
        // Nothing is kept: the namespace that they name is not there.
        let (namespaces, mut others): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.types.as_ref().unwrap().kind == "Namespace");
        let namespace = server.namespace().await;
        for object in &mut others {
            object.metadata.namespace = object.metadata.namespace.take().map(|_| namespace.clone());
        }
        apply(server, &namespace, namespaces).await;
        apply(server, &namespace, others).await;
    }
}
