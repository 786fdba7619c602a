//! The three shapes of one pod: worker, probe and release share image, mounts, ServiceAccount, placement and security.
//! Pure: values in, manifests out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ProjectedVolumeSource, ResourceFieldSelector, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext,
        ServiceAccount, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use sha2::{Digest, Sha256};

use super::names::{self, ASKED, Component};
use crate::{
    api::{
        conditions::mark::ROLE,
        database::{PasswordAuth, Source, Target, Tls},
        integration_runtime::{DEFAULT_SERVICE_ACCOUNT, KubernetesRuntime},
        plan::{API_DIR, API_PORT, HEALTH_PORT, IDENTITY_DIR, IDENTITY_FILE, MEMORY_LIMIT, PLAN_DIR, SECRETS_DIR, ZONE_DIR},
        zone::ZoneStore,
    },
    secrets::CONFIG_MAPS,
};

/// User and group of all pods.
const USER: i64 = 65532;
/// Time that a worker has to drain, seconds.
const GRACE: i64 = 60;
/// The allocator gives large buffers back at once, and keeps what is freed in few places: else each thread holds on to buffers of
/// batches that are long gone, and a worker of little memory runs out of it.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1048576")];
/// How long a pod stays on a node that is lost, seconds.
const LOST_NODE: i64 = 30;
/// How long a probe may take, seconds.
const PROBE_DEADLINE: i64 = 60;
/// For whom the token of a workload identity is (Entra ID, "Workload identity federation").
const IDENTITY_AUDIENCE: &str = "api://AzureADTokenExchange";
/// How long that token is valid, seconds; the kubelet renews it before.
const IDENTITY_SECONDS: i64 = 3600;
/// How long one attempt to release may take, seconds.
const RELEASE_DEADLINE: i64 = 300;

/// What all pods of one link, or of one landing zone, have in common.
#[derive(Clone, Debug, Default)]
pub struct PodBase {
    /// Image of the worker.
    pub image: String,
    /// When to pull it.
    pub pull_policy: String,
    /// What is mounted.
    pub inputs: Inputs,
    /// Claim of the landing zone.
    pub claim: Option<String>,
    /// Where and how pods run.
    pub runtime: Option<KubernetesRuntime>,
}

/// What the spec's references bring into a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Secrets, each whole.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps, each whole.
    pub config_maps: BTreeSet<String>,
    /// A token of the ServiceAccount for Entra ID, which exchanges it for one of its own (workload identity federation).
    pub identity_token: bool,
}

/// What a one-shot pod is asked.
pub struct OneShot<'a> {
    /// Probe or Release.
    pub component: Component,
    /// Name of the pod.
    pub name: String,
    /// Namespace.
    pub namespace: &'a str,
    /// Labels beside those of every object.
    pub labels: BTreeMap<String, String>,
    /// Who it belongs to. None for a release: foreground deletion would take it away.
    pub owner: Option<OwnerReference>,
    /// Identifies the question, so that its answer is known again.
    pub asked: String,
    /// The question as JSON.
    pub request: String,
}

impl Inputs {
    /// What a link's work needs.
    pub fn of(source: Option<&Source>, target: Option<&Target>, zone: Option<&ZoneStore>) -> Self {
        let mut inputs = Self::default();
        let postgresql = source.and_then(|source| source.postgresql.as_ref()).into_iter();
        for database in postgresql.chain(target.and_then(|target| target.postgresql.as_ref()).map(|target| &target.database)) {
            inputs.add(database.auth.password.as_ref(), &database.tls);
        }
        let sql_server = source.and_then(|source| source.sql_server.as_ref()).map(|source| &source.database).into_iter();
        for database in sql_server.chain(target.and_then(Target::sql_server_database)) {
            inputs.add(database.auth.password.as_ref(), &database.tls);
            inputs.secrets.extend(database.auth.service_principal.iter().map(|auth| auth.client_secret.secret_key_ref.name.clone()));
            inputs.identity_token |= database.auth.workload_identity.is_some();
        }
        let copy = target.and_then(|target| target.synapse.as_ref()).and_then(|target| target.copy_auth.sas_token.as_ref());
        inputs.secrets.extend(copy.map(|token| token.secret_key_ref.name.clone()));
        let token = zone.and_then(|zone| zone.azure.as_ref()).and_then(|azure| azure.auth.sas_token.as_ref());
        inputs.secrets.extend(token.map(|token| token.secret_key_ref.name.clone()));
        inputs
    }

    fn add(&mut self, password: Option<&PasswordAuth>, tls: &Tls) {
        let (secret, config_map) = tls.ca.as_ref().map(|ca| (&ca.secret_key_ref, &ca.config_map_key_ref)).unzip();
        self.secrets.extend(password.map(|password| password.secret_ref.name.clone()));
        self.secrets.extend(secret.into_iter().flatten().map(|key| key.name.clone()));
        self.config_maps.extend(config_map.into_iter().flatten().map(|key| key.name.clone()));
    }

    /// The volumes, and where each is mounted.
    fn volumes(&self) -> Vec<(Volume, String)> {
        let secrets =
            self.secrets.iter().map(|name| (secret_volume(&volume_name("secret", name), name, true), format!("{SECRETS_DIR}/{name}")));
        let config_maps = self.config_maps.iter().map(|name| {
            let source = ConfigMapVolumeSource { name: name.clone(), optional: Some(true), ..Default::default() };
            let volume = Volume { name: volume_name("configmap", name), config_map: Some(source), ..Default::default() };
            (volume, format!("{SECRETS_DIR}/{CONFIG_MAPS}/{name}"))
        });
        let token = self.identity_token.then(|| (identity_volume(), IDENTITY_DIR.to_owned()));
        secrets.chain(config_maps).chain(token).collect()
    }
}

/// A token of the pod's ServiceAccount that Entra ID takes, renewed by the kubelet.
fn identity_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(IDENTITY_AUDIENCE.to_owned()),
        expiration_seconds: Some(IDENTITY_SECONDS),
        path: IDENTITY_FILE.to_owned(),
    };
    let sources = vec![VolumeProjection { service_account_token: Some(token), ..Default::default() }];
    Volume {
        name: "identity".to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), ..Default::default() }),
        ..Default::default()
    }
}

/// The template of a link's workers. Nothing in it changes with the number of workers or with the plan, so that neither
/// restarts anybody. `cores` and `memory` are those of each worker.
pub fn worker_template(base: &PodBase, link: &str, cores: i32, memory: &Quantity) -> PodTemplateSpec {
    let resources: BTreeMap<String, Quantity> =
        [("cpu".to_owned(), Quantity(cores.to_string())), ("memory".to_owned(), memory.clone())].into();
    let mut container = container(base, vec!["worker".to_owned()]);
    container.resources = Some(ResourceRequirements { limits: Some(resources.clone()), requests: Some(resources), ..Default::default() });
    let env = container.env.get_or_insert_default();
    env.extend(ALLOCATOR.map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }));
    env.push(EnvVar {
        name: MEMORY_LIMIT.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector { resource: "limits.memory".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
    });
    container.ports = Some(vec![port("api", API_PORT), port("http", HEALTH_PORT)]);
    container.readiness_probe = Some(http_probe("/readyz", 2, 3));
    container.startup_probe = Some(http_probe("/healthz", 1, 60));
    container.liveness_probe = Some(http_probe("/healthz", 10, 6));
    mounts(&mut container).extend([mount("plan", PLAN_DIR, true), mount("api", API_DIR, true)]);

    let mut spec = pod_spec(base, container, &names::worker_selector(link));
    spec.termination_grace_period_seconds = Some(GRACE);
    spec.volumes.get_or_insert_default().extend([
        Volume {
            name: "plan".to_owned(),
            // Optional: a worker starts without it and waits for the plan that the controller pushes.
            config_map: Some(ConfigMapVolumeSource { name: names::plan(link), optional: Some(true), ..Default::default() }),
            ..Default::default()
        },
        secret_volume("api", &names::api(link), false),
    ]);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels(base, names::link_labels(link), Component::Worker)),
            annotations: pod_annotations(base),
            ..Default::default()
        }),
        spec: Some(spec),
    }
}

/// A probe or release pod.
pub fn one_shot(base: &PodBase, ask: OneShot<'_>) -> Pod {
    let mut args = vec!["worker".to_owned(), format!("--{}", ask.component)];
    // Kubernetes makes one of two, and would put variables in.
    args.extend(["--request".to_owned(), ask.request.replace('$', "$$")]);
    let mut container = container(base, args);
    container.resources = Some(ResourceRequirements {
        requests: Some([("cpu", "20m"), ("memory", "64Mi")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into()),
        limits: Some([("cpu", "1"), ("memory", "512Mi")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into()),
        ..Default::default()
    });
    container.termination_message_policy = Some("File".to_owned());

    let mut labels = names::common_labels();
    labels.extend(ask.labels);
    let mut spec = pod_spec(base, container, &labels);
    spec.restart_policy = Some("Never".to_owned());
    spec.termination_grace_period_seconds = Some(5);
    spec.active_deadline_seconds = Some(if ask.component == Component::Release { RELEASE_DEADLINE } else { PROBE_DEADLINE });
    let mut annotations = pod_annotations(base).unwrap_or_default();
    annotations.insert(ASKED.to_owned(), ask.asked);
    Pod {
        metadata: ObjectMeta {
            name: Some(ask.name),
            namespace: Some(ask.namespace.to_owned()),
            labels: Some(pod_labels(base, labels, ask.component)),
            annotations: Some(annotations),
            owner_references: ask.owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The ServiceAccount of these pods: one for all links of a runtime, so that one trust entry serves a cloud identity. `runtimes`: those of
/// the namespace in an order that stays; it has the annotations of all that name it, so that it is the same whoever applies it.
pub fn service_account<'a>(base: &PodBase, namespace: &str, runtimes: impl IntoIterator<Item = &'a KubernetesRuntime>) -> ServiceAccount {
    let name = service_account_name(base);
    let naming = runtimes.into_iter().map(|runtime| &runtime.service_account).filter(|account| account.name == name);
    let annotations: BTreeMap<String, String> = naming.flat_map(|account| account.annotations.clone()).collect();
    ServiceAccount {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some(names::common_labels()),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..Default::default()
        },
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

fn service_account_name(base: &PodBase) -> String {
    base.runtime.as_ref().map_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned(), |runtime| runtime.service_account.name.clone())
}

fn pod_labels(base: &PodBase, ours: BTreeMap<String, String>, component: Component) -> BTreeMap<String, String> {
    let mut labels = base.runtime.as_ref().map(|runtime| runtime.pod_labels.clone()).unwrap_or_default();
    // Ours win: pods are found by them.
    labels.extend(ours);
    labels.insert(ROLE.to_owned(), component.to_string());
    labels
}

fn pod_annotations(base: &PodBase) -> Option<BTreeMap<String, String>> {
    base.runtime.as_ref().map(|runtime| runtime.pod_annotations.clone()).filter(|annotations| !annotations.is_empty())
}

fn container(base: &PodBase, args: Vec<String>) -> Container {
    let mut volume_mounts = vec![mount("scratch", "/tmp", false)];
    volume_mounts.extend(base.inputs.volumes().iter().map(|(volume, path)| mount(&volume.name, path, true)));
    if base.claim.is_some() {
        volume_mounts.push(mount("zone", ZONE_DIR, false));
    }
    Container {
        name: "worker".to_owned(),
        image: Some(base.image.clone()),
        image_pull_policy: Some(base.pull_policy.clone()),
        command: Some(vec!["link-operator".to_owned()]),
        args: Some(args),
        env: Some(vec![field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")]),
        volume_mounts: Some(volume_mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod_spec(base: &PodBase, container: Container, own: &BTreeMap<String, String>) -> PodSpec {
    let mut volumes = vec![Volume { name: "scratch".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() }];
    volumes.extend(base.inputs.volumes().into_iter().map(|(volume, _)| volume));
    if let Some(claim) = &base.claim {
        volumes.push(Volume {
            name: "zone".to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: None }),
            ..Default::default()
        });
    }
    let runtime = base.runtime.clone().unwrap_or_default();
    let mut tolerations = runtime.tolerations;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| toleration.key.as_deref() == Some(key)) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(LOST_NODE),
                value: None,
            });
        }
    }
    let mut spread = runtime.topology_spread_constraints;
    for constraint in &mut spread {
        // Without a selector a constraint counts nothing: count the pods of the link.
        constraint.label_selector.get_or_insert_with(|| LabelSelector { match_labels: Some(own.clone()), match_expressions: None });
    }
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        service_account_name: Some(service_account_name(base)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // A zone may hold millions of files: do not walk them at every start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..Default::default()
        }),
        node_selector: (!runtime.node_selector.is_empty()).then_some(runtime.node_selector),
        affinity: runtime.affinity,
        tolerations: Some(tolerations),
        topology_spread_constraints: (!spread.is_empty()).then_some(spread),
        priority_class_name: runtime.priority_class_name,
        image_pull_secrets: (!runtime.image_pull_secrets.is_empty()).then_some(runtime.image_pull_secrets),
        ..Default::default()
    }
}

/// An object's name may be longer than a volume's.
fn volume_name(kind: &str, object: &str) -> String {
    format!("{kind}-{}", hex::encode(&Sha256::digest(object)[..5]))
}

fn secret_volume(name: &str, secret: &str, optional: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(secret.to_owned()), optional: Some(optional), ..Default::default() }),
        ..Default::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only: read_only.then_some(true), ..Default::default() }
}

fn mounts(container: &mut Container) -> &mut Vec<VolumeMount> {
    container.volume_mounts.get_or_insert_default()
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number.into(), ..Default::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
            ..Default::default()
        }),
    }
}

fn http_probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::String("http".to_owned()), ..Default::default() }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_is_the_same_whoever_of_those_that_share_it_asks_for_it() {
        let runtime = |name: &str, key: &str| -> KubernetesRuntime {
            serde_json::from_value(json!({"serviceAccount": {"name": name, "annotations": {key: "x"}}})).unwrap()
        };
        let all = [runtime(DEFAULT_SERVICE_ACCOUNT, "azure"), runtime(DEFAULT_SERVICE_ACCOUNT, "aws"), runtime("other", "gcp")];
        let of = |runtime: Option<&KubernetesRuntime>| {
            let base = PodBase { runtime: runtime.cloned(), ..PodBase::default() };
            service_account(&base, "shops", &all).metadata
        };
        let shared = of(None);
        assert_eq!(shared.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["aws", "azure"]);
        assert_eq!((of(Some(&all[0])), of(Some(&all[1]))), (shared.clone(), shared));
        assert_eq!(of(Some(&all[2])).annotations.unwrap().keys().collect::<Vec<_>>(), ["gcp"]);
    }
}
