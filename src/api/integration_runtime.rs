//! IntegrationRuntime: where a link's work runs.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{OBJECT_NAME, at_most, bounded_strings};

/// Name of the ServiceAccount of workers whose runtime names none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "link-worker";

/// Where the work runs: `kubernetes`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "link-operator.io",
    version = "v1alpha1",
    kind = "IntegrationRuntime",
    namespaced,
    shortname = "ir",
    category = "linkop",
    status = "IntegrationRuntimeStatus",
    derive = "PartialEq",
    doc = "An IntegrationRuntime says where the pods of links run: on which nodes, under which identity, with which labels. \
           A link without one runs where the scheduler puts it. Synapse: an integration runtime.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Online or Offline"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether links can use it"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists")
)]
#[x_kube(validation = ("has(self.kubernetes)", "set exactly one kind of runtime: kubernetes ({} is enough)"))]
#[serde(rename_all = "camelCase")]
pub struct IntegrationRuntimeSpec {
    /// Work runs in pods of this cluster. Synapse: the Azure integration runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesRuntime>,
}

/// How the pods of links are placed and named.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "!has(self.podLabels) || self.podLabels.all(key, !key.startsWith('link-operator.io/') && !key.startsWith('app.kubernetes.io/'))",
        "podLabels must not begin with link-operator.io/ or app.kubernetes.io/: the operator finds its pods by those"
    ),
    validation = (
        "!has(self.podAnnotations) || self.podAnnotations.all(key, !key.startsWith('link-operator.io/'))",
        "podAnnotations must not begin with link-operator.io/: those are the operator's own"
    ),
)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesRuntime {
    /// Labels that a node must have for pods to run on it. Default: any node.
    #[schemars(schema_with = "bounded_strings")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity and anti-affinity to nodes and other pods, as in a pod. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that pods tolerate, as in a pod. Default: none beyond those that the operator always adds.
    #[schemars(schema_with = "at_most::<Toleration, 32>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How pods spread over zones and nodes, as in a pod; without a `labelSelector` the link's own pods are counted.
    /// Default: the scheduler's.
    #[schemars(schema_with = "at_most::<TopologySpreadConstraint, 16>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of the pods. Default: the cluster's default.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Secrets with credentials for the image's registry, in the link's namespace. Default: none.
    #[schemars(schema_with = "at_most::<LocalObjectReference, 16>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels to add to the pods, for network policies, cost reports or a cloud's workload identity. Default: none.
    #[schemars(schema_with = "bounded_strings")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations to add to the pods. Default: none.
    #[schemars(schema_with = "bounded_strings")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
    /// The ServiceAccount that pods run under.
    #[serde(default)]
    pub service_account: RuntimeServiceAccount,
}

/// The ServiceAccount of a runtime's pods. It has no rights in the cluster and its token is not mounted: it is an identity for
/// clouds to trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeServiceAccount {
    /// Name of the ServiceAccount in the link's namespace, made by the operator. Default: `link-worker`.
    #[schemars(length(min = 1, max = 63), regex(pattern = OBJECT_NAME))]
    #[serde(default = "default_service_account")]
    pub name: String,
    /// Annotations of the ServiceAccount, for instance a cloud's role (`azure.workload.identity/client-id`). Default: none.
    #[schemars(schema_with = "bounded_strings")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn default_service_account() -> String {
    DEFAULT_SERVICE_ACCOUNT.to_owned()
}

impl Default for RuntimeServiceAccount {
    fn default() -> Self {
        Self { name: default_service_account(), annotations: BTreeMap::new() }
    }
}

/// What is known of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntegrationRuntimeStatus {
    /// Generation of the spec that this status speaks of; -1 before the controller has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether links can use the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RuntimePhase>,
    /// Ready, Reconciling, Stalled, Accepted; each with a reason and what to do.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Online: links can use it. Offline: they cannot; `conditions` say why. Synapse: `state` of an integration runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display, strum::IntoStaticStr)]
pub enum RuntimePhase {
    /// Links can use it.
    Online,
    /// Links cannot use it.
    Offline,
}
