//! Server-side apply of children, sparing the API server: what has not changed is not sent again for a while.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{Error, names::MANAGED_BY_LABEL};
use crate::api::conditions::mark::MANAGER;

/// After this long an unchanged child is sent again, which heals what others changed.
const REFRESH: Duration = Duration::from_mins(5);

/// Applies children and remembers what it applied.
pub struct Applier {
    client: Client,
    applied: Mutex<HashMap<String, Applied>>,
}

struct Applied {
    digest: [u8; 32],
    at: Instant,
}

impl Applier {
    /// Nothing applied yet.
    pub fn new(client: Client) -> Self {
        Self { client, applied: Mutex::default() }
    }

    /// Applies a child; whether it was sent. An object of the same name that somebody else made is left alone.
    pub async fn apply<K>(&self, child: &K) -> Result<bool, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let (namespace, name) = (child.namespace().unwrap_or_default(), child.name_any());
        let key = key::<K>(&namespace, &name);
        let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(child)?).into();
        let known = {
            let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            match applied.get(&key) {
                Some(last) if last.digest == digest && last.at.elapsed() < REFRESH => return Ok(false),
                last => last.is_some(),
            }
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        if !known {
            let there = api.get_metadata_opt(&name).await?;
            if there.is_some_and(|there| there.labels().get(MANAGED_BY_LABEL).map(String::as_str) != Some(MANAGER)) {
                return Err(Error::NameTaken { kind: K::kind(&()).into_owned(), name });
            }
        }
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(&name, &params, &Patch::Apply(child)).await {
            Ok(_) => {}
            // An immutable field changed: make it anew and leave its pods alone. It is gone only when the garbage collector has let
            // go of them; that wakes the link.
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("updates to statefulset spec") => {
                let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
                api.delete(&name, &orphan).await?;
                return Err(Error::BeingReplaced { kind: K::kind(&()).into_owned(), name });
            }
            Err(error) => return Err(error.into()),
        }
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Applied { digest, at: Instant::now() });
        Ok(true)
    }

    /// Forgets a child, so that it is applied again next time: somebody else removed or changed it.
    pub fn forget<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).remove(&key::<K>(namespace, name));
    }
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", K::kind(&()))
}
