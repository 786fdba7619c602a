//! How much the API server writes at most: statuses of LinkTables by server-side apply, as many at once as the controller writes.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use link_operator::api::link_table::LinkTable;
use serde_json::json;

use crate::cluster::named;

/// As many of one kind as the controller reconciles at once.
const WRITERS: usize = 16;
const TIME: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "limit";

/// Statuses a second.
pub async fn measure(client: &Client) -> f64 {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &named(&json!({"name": NAMESPACE}))).await.unwrap();
    let began = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let api: Api<LinkTable> = Api::namespaced(client.clone(), NAMESPACE);
        tokio::spawn(async move {
            let mut written = 0_u64;
            for object in 0.. {
                let name = format!("t-{writer}-{object}");
                let spec = json!({"linkConnectionRef": {"name": "none"}, "source": {"schemaName": "public", "tableName": name}});
                let table = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkTable", "metadata": {"name": name}, "spec": spec});
                let uid = api.create(&PostParams::default(), &serde_json::from_value(table).unwrap()).await.unwrap().metadata.uid;
                written += 1;
                for count in 0..4 {
                    if began.elapsed() >= TIME {
                        return written;
                    }
                    let conditions: Vec<_> = ["Accepted", "SnapshotComplete", "Ready", "Reconciling", "Stalled"]
                        .map(|kind| {
                            json!({"type": kind, "status": "True", "reason": "AsRequested", "message": format!("it was written {count} times"),
                                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
                        })
                        .into();
                    let status = json!({"phase": "Replicating", "count": count, "conditions": conditions});
                    let patch = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkTable", "metadata": {"uid": uid}, "status": status});
                    api.patch_status(&name, &PatchParams::apply("limit").force(), &Patch::Apply(&patch)).await.unwrap();
                    written += 1;
                }
            }
            written
        })
    });
    let mut written = 0;
    for writer in writers.collect::<Vec<_>>() {
        written += writer.await.unwrap();
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    // They are nobody's: gone before the controller's are counted.
    let api: Api<LinkTable> = Api::namespaced(client.clone(), NAMESPACE);
    api.delete_collection(&kube::api::DeleteParams::default(), &kube::api::ListParams::default()).await.unwrap();
    rate
}
