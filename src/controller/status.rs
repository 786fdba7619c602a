//! What all kinds' statuses share: the trio Ready, Reconciling, Stalled, and writing a status only when it changed. The
//! trio is pure.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{budget, explain};
use crate::api::{
    conditions::{Truth, kind, mark::MANAGER, reason, set},
    fault::Fault,
};

/// How often a finalizer's removal gives way to others before it is left to the next reconciliation.
const CONFLICTS: u32 = 5;

/// How much a status changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// Numbers and times only: these writes share a budget, and the object rests so long between two.
    Progress(Duration),
    /// Phase, error or conditions.
    State,
}

impl Change {
    /// How much changed from one status to the next; `state` is all but progress.
    pub fn between<S: PartialEq, T: PartialEq>(before: &S, after: &S, state: impl Fn(&S) -> T) -> Self {
        if before == after {
            Self::None
        } else if state(before) == state(after) {
            Self::Progress(budget::EACH)
        } else {
            Self::State
        }
    }
}

/// What the condition `Ready` says, and whether anybody is at work on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whether it is so.
    pub truth: Truth,
    /// One word.
    pub reason: String,
    /// One or two sentences.
    pub message: String,
    /// Nothing will change until a person acts.
    pub stalled: bool,
}

impl Ready {
    /// The object does what its spec asks.
    pub fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self { truth: Truth::True, reason: reason.to_owned(), message: message.into(), stalled: false }
    }

    /// Not yet; it will come by itself.
    pub fn progressing(reason: &str, message: impl Into<String>) -> Self {
        Self { truth: Truth::False, reason: reason.to_owned(), message: message.into(), stalled: false }
    }

    /// Not yet known.
    pub fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self { truth: Truth::Unknown, reason: reason.to_owned(), message: message.into(), stalled: false }
    }

    /// Not without a person.
    pub fn stalled(reason: &str, message: impl Into<String>) -> Self {
        Self { truth: Truth::False, reason: reason.to_owned(), message: message.into(), stalled: true }
    }

    /// Not so because of a fault.
    pub fn fault(fault: &Fault) -> Self {
        if fault.heals { Self::progressing(&fault.reason, explain(fault)) } else { Self::stalled(&fault.reason, explain(fault)) }
    }

    /// Writes the trio.
    pub fn write(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Timestamp) {
        set(conditions, kind::READY, self.truth, &self.reason, &self.message, generation, now);
        let busy = self.truth != Truth::True && !self.stalled;
        let (word, text) = if busy { (self.reason.as_str(), self.message.as_str()) } else { (reason::AS_REQUESTED, "") };
        set(conditions, kind::RECONCILING, busy.into(), word, text, generation, now);
        let (word, text) = if self.stalled { (self.reason.as_str(), self.message.as_str()) } else { (reason::AS_REQUESTED, "") };
        set(conditions, kind::STALLED, self.stalled.into(), word, text, generation, now);
    }
}

/// Writes a status by server-side apply, so that what it no longer holds goes. Returns the object as it is then.
pub async fn write<K, S>(client: &Client, object: &K, status: &S) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // The UID: a namesake that came since is not meant.
        "metadata": {"uid": object.uid()},
        "status": status,
    });
    api.patch_status(&object.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await
}

/// Adds or removes a finalizer; the object as it is then, if it was changed.
pub async fn set_finalizer<K>(client: &Client, object: &K, finalizer: &str, wanted: bool) -> Result<Option<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers = object.finalizers().to_vec();
    let there = finalizers.iter().any(|name| name == finalizer);
    // A finalizer cannot be added to what is being deleted.
    if there == wanted || (wanted && object.meta().deletion_timestamp.is_some()) {
        return Ok(None);
    }
    finalizers.retain(|name| name != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    // The list is replaced as a whole, so it must be the list that was read.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()}});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 && !wanted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a finalizer, whoever else changes the object meanwhile: the garbage collector has finalizers of its own.
pub async fn remove_finalizer<K>(client: &Client, object: &K, finalizer: &str) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let mut object = object.clone();
    for _ in 0..CONFLICTS {
        match set_finalizer(client, &object, finalizer, false).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            done => return done.map(|_| ()),
        }
        match api.get_opt(&object.name_any()).await? {
            Some(now) if now.uid() == object.uid() => object = now,
            _ => return Ok(()),
        }
    }
    set_finalizer(client, &object, finalizer, false).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_trio_exactly_one_is_true_unless_unknown() {
        let now = Timestamp::UNIX_EPOCH;
        let fault = |heals| Fault { reason: "LoginRefused".into(), message: "no".into(), remedy: "mend".into(), heals };
        for (ready, expected) in [
            (Ready::yes("Replicating", ""), ["True", "False", "False"]),
            (Ready::fault(&fault(true)), ["False", "True", "False"]),
            (Ready::fault(&fault(false)), ["False", "False", "True"]),
            (Ready::unknown("NewGeneration", ""), ["Unknown", "True", "False"]),
        ] {
            let mut conditions = Vec::new();
            ready.write(&mut conditions, Some(3), now);
            let found = [kind::READY, kind::RECONCILING, kind::STALLED]
                .map(|kind| conditions.iter().find(|condition| condition.type_ == kind).unwrap().status.clone());
            assert_eq!(found, expected, "{ready:?}");
            assert!(conditions.iter().all(|condition| condition.observed_generation == Some(3)));
        }
    }
}
