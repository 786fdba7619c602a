//! Server-side apply of children, sparing the API server: what has not changed is not sent again, unless others changed it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{Error, fingerprint, names::MANAGED_BY_LABEL};
use crate::api::conditions::mark::MANAGER;

/// How long what was applied is relied on.
#[derive(Clone, Copy)]
struct Times {
    /// After this long it is looked whether others changed a child, which heals it.
    refresh: Duration,
    /// After this long without a look nobody applies it any more.
    kept: Duration,
}

const TIMES: Times = Times { refresh: Duration::from_mins(5), kept: Duration::from_hours(1) };

/// Applies children and remembers what it applied.
pub struct Applier {
    client: Client,
    times: Times,
    applied: Mutex<HashMap<String, Applied>>,
}

#[derive(Clone)]
struct Applied {
    digest: [u8; 32],
    at: Instant,
    version: Version,
}

/// Which object it is, and how often it was changed: by its generation, which its status does not raise, if its kind has one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version(u64);

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let generation = meta.generation.filter(|generation| *generation > 0);
        Self(fingerprint((&meta.uid, generation, meta.resource_version.as_ref().filter(|_| generation.is_none()))))
    }
}

/// Whether a child is as it was applied: nobody changed its content, and what we say of it stands there.
fn stands(child: &ObjectMeta, applied: Version, there: &ObjectMeta) -> bool {
    let said = |ours: &Option<BTreeMap<String, String>>, theirs: &Option<BTreeMap<String, String>>| {
        ours.iter().flatten().all(|(key, value)| theirs.as_ref().and_then(|theirs| theirs.get(key)) == Some(value))
    };
    let owners = |meta: &ObjectMeta| meta.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
    let theirs = owners(there);
    applied == Version::of(there)
        && said(&child.labels, &there.labels)
        && said(&child.annotations, &there.annotations)
        && owners(child).iter().all(|owner| theirs.contains(owner))
}

impl Applier {
    /// Nothing applied yet.
    pub fn new(client: Client) -> Self {
        Self { client, times: TIMES, applied: Mutex::default() }
    }

    /// Applies a child; whether it was sent. An object of the same name that somebody else made is left alone.
    pub async fn apply<K>(&self, child: &K) -> Result<bool, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        self.apply_over(child, None).await
    }

    /// The same of a child that is watched: nobody need ask for it.
    pub async fn apply_over<K>(&self, child: &K, there: Option<&K>) -> Result<bool, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let (namespace, name) = (child.namespace().unwrap_or_default(), child.name_any());
        let key = key::<K>(&namespace, &name);
        let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(child)?).into();
        let last = self.applied.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let same = last.as_ref().filter(|last| last.digest == digest);
        if same.is_some_and(|last| last.at.elapsed() < self.times.refresh) {
            return Ok(false);
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        if let Some(last) = same {
            let there = match there {
                // Of labels that are as they should be the watch need keep none.
                Some(there) => {
                    Some(ObjectMeta { labels: there.meta().labels.clone().or_else(|| child.meta().labels.clone()), ..there.meta().clone() })
                }
                None => api.get_metadata_opt(&name).await?.map(|there| there.metadata),
            };
            if there.is_some_and(|there| stands(child.meta(), last.version, &there)) {
                let last = Applied { at: Instant::now(), ..last.clone() };
                self.applied.lock().unwrap_or_else(PoisonError::into_inner).insert(key, last);
                return Ok(false);
            }
        } else if last.is_none() {
            let there = api.get_metadata_opt(&name).await?;
            if there.is_some_and(|there| there.labels().get(MANAGED_BY_LABEL).map(String::as_str) != Some(MANAGER)) {
                return Err(Error::NameTaken { kind: K::kind(&()).into_owned(), name });
            }
        }
        let params = PatchParams::apply(MANAGER).force();
        let version = match api.patch(&name, &params, &Patch::Apply(child)).await {
            Ok(there) => Version::of(there.meta()),
            // An immutable field changed: make it anew and leave its pods alone. It is gone only when the garbage collector has let
            // go of them; that wakes the link.
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("updates to statefulset spec") => {
                let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
                api.delete(&name, &orphan).await?;
                return Err(Error::BeingReplaced { kind: K::kind(&()).into_owned(), name });
            }
            Err(error) => return Err(error.into()),
        };
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.insert(key, Applied { digest, at: Instant::now(), version });
        // Whose object still wants it is looked at every few minutes.
        if applied.len().is_power_of_two() {
            applied.retain(|_, last| last.at.elapsed() < self.times.kept);
        }
        Ok(true)
    }

    /// Forgets a child, so that it is applied again next time: it is gone, or somebody else changed it.
    pub fn forget<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).remove(&key::<K>(namespace, name));
    }

    /// Forgets all children of a kind in a namespace.
    pub fn forget_all<K: Resource<DynamicType = ()>>(&self, namespace: &str) {
        let of_kind = key::<K>(namespace, "");
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| !key.starts_with(&of_kind));
    }
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", K::kind(&()))
}

#[cfg(test)]
mod tests {
    use axum::http::{Method, Request, Response};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::sync::Arc;

    use super::*;

    /// An API server that has this object, whatever is asked or written, and notes by which methods.
    fn server(there: &Arc<Mutex<Value>>) -> (Client, Arc<Mutex<Vec<Method>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (there, noted) = (there.clone(), asked.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            noted.lock().unwrap().push(request.method().clone());
            let body = serde_json::to_vec(&*there.lock().unwrap()).unwrap();
            async move { Ok::<_, std::convert::Infallible>(Response::new(Body::from(body))) }
        });
        (Client::new(service, "shops"), asked)
    }

    #[tokio::test]
    async fn what_is_gone_is_applied_again_and_what_nobody_applies_is_forgotten() {
        let child = |name: &str| {
            let meta = json!({"name": name, "namespace": "shops", "labels": {MANAGED_BY_LABEL: MANAGER}});
            serde_json::from_value::<PodDisruptionBudget>(json!({"metadata": meta})).unwrap()
        };
        let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"uid": "u", "generation": 1,
            "labels": {MANAGED_BY_LABEL: MANAGER}}});
        let (client, _) = server(&Arc::new(Mutex::new(object)));
        let mut applier = Applier::new(client);
        assert!(applier.apply(&child("shop")).await.unwrap());
        assert!(!applier.apply(&child("shop")).await.unwrap());
        applier.forget_all::<PodDisruptionBudget>("shop");
        assert!(!applier.apply(&child("shop")).await.unwrap(), "another namespace");
        applier.forget_all::<PodDisruptionBudget>("shops");
        assert!(applier.apply(&child("shop")).await.unwrap());
        applier.forget::<PodDisruptionBudget>("shops", "shop");
        assert!(applier.apply(&child("shop")).await.unwrap());

        applier.times.kept = Duration::ZERO;
        applier.apply(&child("other")).await.unwrap();
        assert_eq!(applier.applied.lock().unwrap().len(), 0);
    }

    #[tokio::test]
    async fn what_nobody_changed_is_looked_at_and_not_written_again() {
        let child: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "shop", "namespace": "shops", "labels": {MANAGED_BY_LABEL: MANAGER},
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "shop", "uid": "link"}]},
        }))
        .unwrap();
        let mut object = serde_json::to_value(&child).unwrap();
        (object["apiVersion"], object["kind"]) = (json!("policy/v1"), json!("PodDisruptionBudget"));
        (object["metadata"]["uid"], object["metadata"]["generation"]) = (json!("u"), json!(1));
        let there = Arc::new(Mutex::new(object));
        let (client, asked) = server(&there);
        let applier = Applier { times: Times { refresh: Duration::ZERO, ..TIMES }, ..Applier::new(client) };
        let change = |pointer: &str, value: Value| *there.lock().unwrap().pointer_mut(pointer).unwrap() = value;
        let written = async || {
            asked.lock().unwrap().clear();
            let sent = applier.apply(&child).await.unwrap();
            assert_eq!(asked.lock().unwrap().last() == Some(&Method::PATCH), sent);
            sent
        };
        assert!(written().await, "made");
        assert!(!written().await, "nobody changed it");
        there.lock().unwrap()["status"] = json!({"currentHealthy": 1});
        there.lock().unwrap()["metadata"]["resourceVersion"] = json!("9");
        assert!(!written().await, "only its status changed");
        change("/metadata/generation", json!(2));
        assert!(written().await && !written().await, "somebody changed its spec");
        change("/metadata/labels", json!({}));
        assert!(written().await, "somebody took its label");
        change("/metadata/labels", json!({MANAGED_BY_LABEL: MANAGER}));
        assert!(!written().await);
        change("/metadata/uid", json!("another"));
        assert!(written().await, "it was made anew by somebody");

        // Of one that is watched nobody asks.
        let mut seen: PodDisruptionBudget = serde_json::from_value(there.lock().unwrap().clone()).unwrap();
        asked.lock().unwrap().clear();
        assert!(!applier.apply_over(&child, Some(&seen)).await.unwrap());
        seen.metadata.labels = None;
        assert!(!applier.apply_over(&child, Some(&seen)).await.unwrap());
        assert!(asked.lock().unwrap().is_empty());
        seen.metadata.labels = Some(BTreeMap::new());
        assert!(applier.apply_over(&child, Some(&seen)).await.unwrap());
    }
}
