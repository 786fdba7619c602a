//! The operator does its work with the rights that the chart gives it, and no others: it runs here as the ServiceAccount.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, Secret, Service},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    discovery::{Scope, pinned_kind},
};
use link_operator::{
    api::{landing_zone::LandingZone, link_connection::LinkConnection},
    controller::{Options, page, run_with},
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{documents, helm};
use crate::support::apiserver::{ApiServer, install_crds};

const PATIENCE: Duration = Duration::from_mins(1);
const IMAGE: &str = "registry.test/link-operator@sha256:0123";
/// Rights that a link does not need to begin: what it needs them for has tests of its own, with all rights.
const LATER: [(&str, &str); 14] = [
    // Looked at again when somebody else changed the finalizers.
    ("get", "linkconnections"),
    ("get", "landingzones"),
    ("get", "integrationruntimes"),
    ("patch", "integrationruntimes"),
    ("patch", "integrationruntimes/status"),
    // A table that the link no longer asks for, workers whose template cannot be changed, a probe that has answered.
    ("delete", "linktables"),
    ("delete", "statefulsets"),
    ("delete", "pods"),
    // Whether several workers can have a claim.
    ("get", "persistentvolumeclaims"),
    // Another plan.
    ("update", "configmaps"),
    // Whether the link's namespace is going, and why workers cannot be made.
    ("get", "namespaces"),
    ("list", "events"),
    // What happened again.
    ("patch", "events"),
    // Never asked for: it permits children that keep their owner.
    ("update", "linkconnections/finalizers"),
];

/// Makes the chart's ServiceAccount, roles and bindings. Returns what the operator may do to what.
async fn install_rights(client: &Client, home: &str, watched: &str) -> BTreeSet<(String, String)> {
    let values = format!("watchNamespace={watched}");
    let objects = documents(&helm(&["template", "link-operator", "charts/link-operator", "--namespace", home, "--set", &values]).unwrap());
    let mut rights = BTreeSet::new();
    for object in objects {
        let types = object.types.clone().unwrap();
        // Roles of users have others' names.
        if object.name_any() == "link-operator" || object.name_any() == "link-operator-own" {
            let texts = |rule: &Value, field: &str| serde_json::from_value::<Vec<String>>(rule[field].clone()).unwrap();
            for rule in object.data["rules"].as_array().into_iter().flatten() {
                for verb in texts(rule, "verbs") {
                    rights.extend(texts(rule, "resources").into_iter().map(|resource| (verb.clone(), resource)));
                }
            }
        }
        if !(types.kind.contains("Role") || types.kind == "ServiceAccount") {
            continue;
        }
        let (resource, capabilities) = pinned_kind(client, &(&types).try_into().unwrap()).await.unwrap();
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(client.clone(), &object.namespace().unwrap(), &resource),
            Scope::Cluster => Api::all_with(client.clone(), &resource),
        };
        api.patch(&object.name_any(), &PatchParams::apply("chart").force(), &Patch::Apply(&object)).await.unwrap();
    }
    rights
}

/// A replica of the operator: its pod, as the chart makes it, and its process, with the rights of the ServiceAccount.
struct Replica {
    port: u16,
    stop: CancellationToken,
    _process: AbortOnDropHandle<()>,
}

impl Replica {
    async fn start(server: &ApiServer, name: &str, home: &str, watched: &str) -> Self {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            // What a mesh puts beside it is not it.
            "spec": {"containers": [{"name": "mesh", "image": "mesh"}, {"name": "controller", "image": IMAGE, "imagePullPolicy": "Always"}]},
        }))
        .unwrap();
        Api::namespaced(server.client(), home).create(&PostParams::default(), &pod).await.unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = Options {
            worker_image: String::new(),
            image_pull_policy: "IfNotPresent".to_owned(),
            namespace: Some(watched.to_owned()).filter(|watched| !watched.is_empty()),
            health_port: port,
            page: page::Options::default(),
            no_leader_election: false,
            max_rollouts: 10,
            pod_namespace: Some(home.to_owned()),
            pod_name: Some(name.to_owned()),
        };
        let stop = CancellationToken::new();
        let process = tokio::spawn({
            let (client, stop) = (server.client_as(home, "link-operator"), stop.clone());
            async move { Box::pin(run_with(client, options, stop)).await.expect("the operator ended") }
        });
        Self { port, stop, _process: AbortOnDropHandle::new(process) }
    }

    /// Waits until it says that it is ready.
    async fn is_ready(&self) {
        let until = Instant::now() + PATIENCE;
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(Instant::now() < until, "{url}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until it has used each of these rights.
    async fn uses(&self, rights: &BTreeSet<(String, String)>) {
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = reqwest::get(format!("http://127.0.0.1:{}/metrics", self.port)).await.unwrap().text().await.unwrap();
            let used = |(verb, resource): &&(String, String)| {
                // What is applied is created first.
                let verbs = if verb == "patch" || verb == "create" { vec![verb.as_str(), "apply"] } else { vec![verb.as_str()] };
                verbs.iter().any(|verb| metrics.contains(&format!(r#"resource="{resource}",verb="{verb}"}}"#)))
            };
            let unused: Vec<_> = rights.iter().filter(|right| !used(right)).collect();
            if unused.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "nobody uses {unused:?}: {metrics}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn appears<K>(client: &Client, namespace: &str, name: &str) -> K
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (api, until) = (Api::<K>::namespaced(client.clone(), namespace), Instant::now() + PATIENCE);
    loop {
        if let Some(object) = api.get_opt(name).await.unwrap() {
            return object;
        }
        assert!(Instant::now() < until, "{} {name} never came", K::kind(&()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two replicas get a link as far as a cluster without kubelets lets it.
async fn links_are_looked_after(server: &ApiServer, home: &str, watched: &str, links: &str) {
    let client = server.client();
    let rights = install_rights(&client, home, watched).await;
    let first = Replica::start(server, "operator-a", home, watched).await;
    first.is_ready().await;
    let second = Replica::start(server, "operator-b", home, watched).await;
    second.is_ready().await;

    let zone = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LandingZone", "metadata": {"name": "staging"},
        "spec": {"persistentVolumeClaim": {"claimName": "disk"}}});
    Api::<LandingZone>::namespaced(client.clone(), links)
        .create(&PostParams::default(), &serde_json::from_value(zone).unwrap())
        .await
        .unwrap();
    let database = |host: &str| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": host}}}});
    let link = json!({"apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop"}, "spec": {
        "source": {"postgresql": database("db")}, "target": {"postgresql": database("dw")}, "landingZoneRef": {"name": "staging"},
        "tables": [{"schemaName": "public", "tableName": "orders"}]}});
    Api::<LinkConnection>::namespaced(client.clone(), links)
        .create(&PostParams::default(), &serde_json::from_value(link).unwrap())
        .await
        .unwrap();

    let set: StatefulSet = appears(&client, links, "shop").await;
    let container = set.spec.unwrap().template.spec.unwrap().containers.remove(0);
    assert_eq!((container.image.as_deref(), container.image_pull_policy.as_deref()), (Some(IMAGE), Some("Always")));
    appears::<ConfigMap>(&client, links, "shop-plan").await;
    appears::<Secret>(&client, links, "shop-api").await;
    appears::<Service>(&client, links, "shop").await;
    appears::<Pod>(&client, links, "staging-zone-probe").await;

    let lease: Lease = appears(&client, home, "link-operator-controller").await;
    let holder = lease.spec.unwrap().holder_identity.unwrap();
    assert_eq!(holder, "operator-a");
    second.is_ready().await;
    let later = LATER.map(|(verb, resource)| (verb.to_owned(), resource.to_owned()));
    assert!(later.iter().all(|right| rights.contains(right)), "{rights:?}");
    first.uses(&rights.into_iter().filter(|right| !later.contains(right)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_of_one_namespace_suffice_for_its_links() {
    let server = ApiServer::shared().await;
    let (home, watched) = (server.namespace().await, server.namespace().await);
    links_are_looked_after(server, &home, &watched, &watched).await;
    // And for those only.
    let other = server.namespace().await;
    let links: Api<LinkConnection> = Api::namespaced(server.client_as(&home, "link-operator"), &other);
    let refused = links.list(&kube::api::ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_in_the_cluster_suffice_for_links_anywhere() {
    // A server of its own: this operator looks after all namespaces.
    let server = ApiServer::start();
    server.ready().await;
    install_crds(&server.client()).await;
    let (home, links) = (server.namespace().await, server.namespace().await);
    links_are_looked_after(&server, &home, "", &links).await;
}
