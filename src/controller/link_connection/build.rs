//! The children of a link. Pure: a validated spec in, manifests out.

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy},
        core::v1::{PodTemplateSpec, Secret, Service, ServicePort, ServiceSpec},
        networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};

use super::validate::Validated;
use crate::{
    api::{
        conditions::annotation,
        link_connection::LinkConnection,
        plan::{API_PORT, HEALTH_PORT},
    },
    controller::{
        certificate::Credentials,
        names,
        pods::{self, PodBase},
    },
};

/// All children but plan, credentials and LinkTables.
#[derive(Clone, Debug)]
pub struct Children {
    /// Names the workers.
    pub service: Service,
    /// The workers.
    pub workers: StatefulSet,
    /// At most one worker is evicted at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// Who may reach the workers.
    pub network_policy: NetworkPolicy,
}

/// The link as an owner.
pub fn owner(link: &LinkConnection) -> OwnerReference {
    OwnerReference {
        api_version: LinkConnection::api_version(&()).into_owned(),
        kind: LinkConnection::kind(&()).into_owned(),
        name: link.name_any(),
        uid: link.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What all pods of the link have in common.
pub fn pod_base(link: &LinkConnection, validated: &Validated, base: PodBase) -> PodBase {
    PodBase {
        inputs: pods::Inputs::of(Some(&link.spec.source), Some(&link.spec.target), Some(&validated.zone)),
        claim: validated.zone.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone()),
        runtime: validated.runtime.clone(),
        ..base
    }
}

/// The children. `running` says whether workers are wanted; `operator` is the controller's own namespace.
pub fn children(link: &LinkConnection, validated: &Validated, base: &PodBase, running: bool, operator: Option<&str>) -> Children {
    let name = link.name_any();
    let meta = |name: String| ObjectMeta {
        name: Some(name),
        namespace: link.namespace(),
        labels: Some(names::link_labels(&link.name_any())),
        owner_references: Some(vec![owner(link)]),
        ..Default::default()
    };
    let selector = || LabelSelector { match_labels: Some(names::worker_selector(&name)), match_expressions: None };
    let compute = &link.spec.compute;
    let replicas = if running { compute.workers() } else { 0 };
    let cores = compute.worker_cores().try_into().unwrap_or(i32::MAX);
    Children {
        service: Service {
            metadata: meta(names::workers(&name)),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                // Workers find each other, and drain, also while they are not ready.
                publish_not_ready_addresses: Some(true),
                selector: Some(names::worker_selector(&name)),
                ports: Some(vec![service_port("api", API_PORT), service_port("http", HEALTH_PORT)]),
                ..Default::default()
            }),
            status: None,
        },
        workers: StatefulSet {
            metadata: meta(names::workers(&name)),
            spec: Some(StatefulSetSpec {
                replicas: Some(replicas.try_into().unwrap_or(i32::MAX)),
                pod_management_policy: Some("Parallel".to_owned()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateStatefulSetStrategy { partition: Some(0), max_unavailable: None }),
                }),
                service_name: Some(names::workers(&name)),
                selector: selector(),
                revision_history_limit: Some(2),
                template: restarted(pods::worker_template(base, &name, cores, &validated.memory), restart(link)),
                ..Default::default()
            }),
            status: None,
        },
        disruption_budget: PodDisruptionBudget {
            metadata: meta(names::workers(&name)),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(selector()),
                // A worker that is not ready protects nothing.
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..Default::default()
            }),
            status: None,
        },
        network_policy: NetworkPolicy {
            metadata: meta(names::workers(&name)),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector()),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(vec![ingress(API_PORT, operator), ingress(HEALTH_PORT, None)]),
                egress: None,
            }),
        },
    }
}

/// The restart that was asked for last. Who takes the annotation away again asks for none.
pub fn restart(link: &LinkConnection) -> Option<&String> {
    let handled = || link.status.as_ref().and_then(|status| status.last_handled_restart_at.as_ref());
    link.annotations().get(annotation::RESTART).or_else(handled)
}

/// Pods of another template are made anew.
fn restarted(mut template: PodTemplateSpec, restart: Option<&String>) -> PodTemplateSpec {
    if let Some(restart) = restart {
        let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
        annotations.insert(annotation::RESTART.to_owned(), restart.clone());
    }
    template
}

fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

/// Lets a namespace, or everybody, reach a port.
fn ingress(port: u16, namespace: Option<&str>) -> NetworkPolicyIngressRule {
    let labels = namespace.map(|namespace| [("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())].into());
    NetworkPolicyIngressRule {
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(port.into())),
            protocol: Some("TCP".to_owned()),
            end_port: None,
        }]),
        from: labels.map(|labels| {
            vec![NetworkPolicyPeer {
                namespace_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
                ..Default::default()
            }]
        }),
    }
}

/// The Secret with the worker API's credentials.
pub fn api_secret(link: &LinkConnection, credentials: &Credentials) -> Secret {
    let data = [
        ("tls.crt", &credentials.certificate),
        ("tls.key", &credentials.key),
        ("ca.crt", &credentials.trust.authorities),
        ("token", &credentials.trust.token),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(names::api(&link.name_any())),
            namespace: link.namespace(),
            labels: Some(names::link_labels(&link.name_any())),
            annotations: Some([(names::RENEW_AT.to_owned(), credentials.trust.renew_at.to_string())].into()),
            owner_references: Some(vec![owner(link)]),
            ..Default::default()
        },
        data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes()))).into()),
        ..Default::default()
    }
}

/// The kind of a source or target: the name of its block in the spec.
pub const POSTGRESQL: &str = "postgresql";
/// See [`POSTGRESQL`].
pub const SQL_SERVER: &str = "sqlServer";
/// See [`POSTGRESQL`].
pub const SYNAPSE: &str = "synapse";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::link_connection::{fixtures, validate::validate};

    fn built(cores: i32, running: bool) -> Children {
        let mut link = fixtures::link();
        link.spec.compute.core_count = cores;
        let validated = validate(&link, &fixtures::references()).unwrap();
        let base = pod_base(&link, &validated, PodBase { image: "image".into(), pull_policy: "Never".into(), ..Default::default() });
        children(&link, &validated, &base, running, Some("link-operator"))
    }

    fn workers(cores: i32) -> Value {
        serde_json::to_value(built(cores, true).workers).unwrap()
    }

    #[test]
    fn above_one_worker_cores_change_replicas_only() {
        let (four, mut eight) = (workers(4), workers(8));
        assert_eq!((&four["spec"]["replicas"], &eight["spec"]["replicas"]), (&json!(1), &json!(2)));
        eight["spec"]["replicas"] = json!(1);
        assert_eq!(four, eight);
        let resources = &four["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "4", "memory": "8Gi"}));
        assert_eq!(resources["limits"], resources["requests"]);
        assert_eq!(workers(1)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "1", "memory": "2Gi"}));
        assert_eq!(built(8, false).workers.spec.unwrap().replicas, Some(0));
    }

    #[test]
    fn pods_satisfy_the_restricted_level_and_mount_secrets_whole_and_optional() {
        let spec = &workers(4)["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
        assert_eq!(spec["automountServiceAccountToken"], json!(false));
        let container = &spec["containers"][0];
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], json!(true));
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], json!(false));
        let mounts = container["volumeMounts"].as_array().unwrap();
        for secret in ["db-app", "dw-app", "zone-sas"] {
            let path = json!(format!("/etc/link-operator/secrets/{secret}"));
            let mount = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{secret}"));
            let volume = spec["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            assert_eq!(volume["secret"], json!({"secretName": secret, "optional": true}));
        }
    }

    #[test]
    fn only_the_operators_namespace_reaches_the_workers_and_everybody_their_metrics() {
        let policy = serde_json::to_value(built(4, true).network_policy.spec).unwrap();
        let of_the_link = json!({"matchLabels": workers(4)["spec"]["selector"]["matchLabels"]});
        let port = |port: u16| json!([{"port": port, "protocol": "TCP"}]);
        let operator = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "link-operator"}}}]);
        assert_eq!(
            policy,
            json!({"podSelector": of_the_link, "policyTypes": ["Ingress"],
                "ingress": [{"ports": port(API_PORT), "from": operator}, {"ports": port(HEALTH_PORT)}]})
        );
        assert_eq!((API_PORT, HEALTH_PORT), (8443, 8080));
    }

    #[test]
    fn one_worker_of_a_link_goes_at_a_time_and_one_that_is_not_ready_holds_up_nobody() {
        let budget = serde_json::to_value(built(8, true).disruption_budget.spec).unwrap();
        let of_the_link = json!({"matchLabels": workers(8)["spec"]["selector"]["matchLabels"]});
        assert_eq!(budget, json!({"maxUnavailable": 1, "selector": of_the_link, "unhealthyPodEvictionPolicy": "AlwaysAllow"}));
    }

    #[test]
    fn pods_of_sql_server_have_what_it_needs_and_no_more() {
        let mut link = fixtures::link();
        link.spec.source = serde_json::from_value(json!({"sqlServer": {
            "host": "db", "database": "shop", "tls": {"ca": {"configMapKeyRef": {"name": "authorities", "key": "ca.crt"}}},
            "auth": {"workloadIdentity": {"tenantId": "t", "clientId": "c"}},
        }}))
        .unwrap();
        link.spec.target = serde_json::from_value(json!({"sqlServer": {
            "host": "dw", "database": "dw", "tls": {"ca": {"secretKeyRef": {"name": "dw-ca", "key": "ca.crt"}}},
            "auth": {"servicePrincipal": {"tenantId": "t", "clientId": "c", "clientSecret": {"secretKeyRef": {"name": "app", "key": "s"}}}},
        }}))
        .unwrap();
        let validated = validate(&link, &fixtures::references()).unwrap();
        let base = pod_base(&link, &validated, PodBase::default());
        assert_eq!(base.inputs.secrets, ["app", "dw-ca", "zone-sas"].map(str::to_owned).into());
        let spec =
            serde_json::to_value(children(&link, &validated, &base, true, None).workers).unwrap()["spec"]["template"]["spec"].clone();
        let volume = |path: &str| {
            let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("nothing at {path}"));
            spec["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap().clone()
        };
        let authorities = volume("/etc/link-operator/secrets/.configmaps/authorities");
        assert_eq!(authorities["configMap"], json!({"name": "authorities", "optional": true}));
        let token = json!({"audience": "api://AzureADTokenExchange", "expirationSeconds": 3600, "path": "token"});
        assert_eq!(volume("/etc/link-operator/identity")["projected"]["sources"], json!([{"serviceAccountToken": token}]));
        // Who needs no such token does not get one.
        assert!(!workers(4).to_string().contains("serviceAccountToken"));
    }
}
