//! Rollouts: a template that changed without anybody having changed the link, as an upgrade of the operator changes it, reaches
//! a bounded number of links at a time. If its pods do not become ready, it reaches no more.
//!
//! What is under way stands in the StatefulSets themselves, so that whoever leads next goes on counting.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PodTemplateSpec};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::Error;

/// Annotation of a StatefulSet: its template, in a few characters.
const TEMPLATE: &str = "link-operator.io/template";
/// Annotation of a StatefulSet: the same without what an upgrade of the operator changes.
const SHAPE: &str = "link-operator.io/shape";
/// Annotation of a StatefulSet: what was asked of the link when it got its template.
const ASKED: &str = "link-operator.io/asked-by";
/// Annotation of a StatefulSet: it got its template without anybody having changed the link.
const ROLLOUT: &str = "link-operator.io/rollout";

/// How long one that was let through, and that the watch does not show, may be on its way: longer only if it was never applied.
const ON_ITS_WAY: Duration = Duration::from_mins(1);

/// Lets templates through.
pub struct Rollouts {
    most: usize,
    /// StatefulSets that were let through, by UID: which template, and when; until the watch shows it.
    admitted: Mutex<HashMap<String, (String, Instant)>>,
}

/// What a new template is to the StatefulSet that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It has it, or no pod of it is restarted by it.
    None,
    /// Somebody changed the link so that it has another template.
    Asked,
    /// Nobody did.
    Own,
}

impl Rollouts {
    /// At most so many at a time.
    pub fn new(most: usize) -> Self {
        Self { most, admitted: Mutex::default() }
    }

    /// The StatefulSet to apply where `wanted` is wanted for a link of which this is `asked`: with the template of the one that is
    /// there, if there is no room for another rollout; then the second is true. `all` are those of all links.
    pub fn admit(
        &self,
        mut wanted: StatefulSet,
        asked: &str,
        there: Option<&StatefulSet>,
        all: impl FnOnce() -> Vec<Arc<StatefulSet>>,
    ) -> Result<(StatefulSet, bool), Error> {
        let spec = wanted.spec.get_or_insert_default();
        let (template, shape) = (digest(&spec.template)?, digest(&without_image(&spec.template))?);
        let mut marks = vec![(TEMPLATE, template.clone()), (SHAPE, shape.clone()), (ASKED, asked.to_owned())];
        let mut waits = false;
        match (change(there, &template, &shape, asked), there) {
            // There is nothing that it could break.
            (Change::Own, Some(there)) if is_down(there) => {}
            (Change::Own, Some(there)) => {
                if self.has_room(&there.uid().unwrap_or_default(), &template, &all()) {
                    marks.push((ROLLOUT, template));
                } else {
                    waits = true;
                    marks = marks_of(there);
                    spec.template = there.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
                }
            }
            // It stays a rollout until its pods are ready.
            (Change::None, Some(there)) if has(there, ROLLOUT, &template) && is_rolling(there) => marks = marks_of(there),
            _ => {}
        }
        wanted.annotations_mut().extend(marks.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Ok((wanted, waits))
    }

    fn has_room(&self, uid: &str, template: &str, all: &[Arc<StatefulSet>]) -> bool {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|uid, (template, at)| {
            at.elapsed() < ON_ITS_WAY && all.iter().any(|set| set.uid().as_ref() == Some(uid) && !has(set, TEMPLATE, template))
        });
        let rolling = all.iter().filter(|set| is_rolling(set)).filter_map(|set| set.uid());
        let under_way: HashSet<String> = rolling.chain(admitted.keys().cloned()).collect();
        // One that rolls already may go on with a newer template.
        let room = under_way.contains(uid) || under_way.len() < self.most;
        if room {
            admitted.insert(uid.to_owned(), (template.to_owned(), Instant::now()));
        }
        room
    }
}

fn change(there: Option<&StatefulSet>, template: &str, shape: &str, asked: &str) -> Change {
    let Some(there) = there else { return Change::None };
    let is_other = |annotation: &str, value: &str| there.annotations().get(annotation).is_some_and(|before| before != value);
    if replicas(there) == 0 || has(there, TEMPLATE, template) {
        Change::None
    } else if is_other(ASKED, asked) && is_other(SHAPE, shape) {
        Change::Asked
    } else {
        Change::Own
    }
}

/// Whether the pods of the StatefulSet that is there are made anew once it is what is wanted.
pub fn renews(there: &StatefulSet, wanted: &StatefulSet) -> bool {
    replicas(there) > 0 && there.annotations().get(TEMPLATE) != wanted.annotations().get(TEMPLATE)
}

fn digest(template: &PodTemplateSpec) -> Result<String, Error> {
    Ok(hex::encode(&Sha256::digest(serde_json::to_vec(template)?)[..10]))
}

fn without_image(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    for container in template.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        (container.image, container.image_pull_policy) = (None, None);
    }
    template
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether no pod of it is ready, and none is on its way to by a rollout.
fn is_down(set: &StatefulSet) -> bool {
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
    ready == 0 && !set.annotations().contains_key(ROLLOUT)
}

fn has(set: &StatefulSet, annotation: &str, value: &str) -> bool {
    set.annotations().get(annotation).is_some_and(|found| found == value)
}

fn marks_of(set: &StatefulSet) -> Vec<(&'static str, String)> {
    [TEMPLATE, SHAPE, ASKED, ROLLOUT].into_iter().filter_map(|key| Some((key, set.annotations().get(key)?.clone()))).collect()
}

/// Whether pods of a rollout are yet to become ready.
fn is_rolling(set: &StatefulSet) -> bool {
    let wanted = replicas(set);
    let status = set.status.clone().unwrap_or_default();
    let seen = status.observed_generation.unwrap_or_default() >= set.metadata.generation.unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or_default() >= wanted && status.updated_replicas.unwrap_or_default() >= wanted;
    set.annotations().contains_key(ROLLOUT) && wanted > 0 && !(seen && ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(uid: &str, image: &str) -> StatefulSet {
        let template = json!({"spec": {"containers": [{"name": "worker", "image": image}]}});
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "generation": 1},
            "spec": {"replicas": 1, "template": template, "selector": {}, "serviceName": "s"},
        }))
        .unwrap()
    }

    fn image(set: &StatefulSet) -> &str {
        set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
    }

    fn ready(mut set: StatefulSet) -> StatefulSet {
        let status = json!({"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1});
        set.status = serde_json::from_value(status).unwrap();
        set
    }

    fn up(mut set: StatefulSet) -> StatefulSet {
        set.status = serde_json::from_value(json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1})).unwrap();
        set
    }

    #[test]
    fn an_upgrade_reaches_the_next_link_once_one_before_is_ready() {
        let rollouts = Rollouts::new(1);
        let made = |uid: &str| up(rollouts.admit(set(uid, "old"), "1", None, Vec::new).unwrap().0);
        let (one, two) = (made("one"), made("two"));
        let all = |one: &StatefulSet, two: &StatefulSet| [one, two].map(|set| Arc::new(set.clone())).to_vec();

        let (next, waits) = rollouts.admit(set("one", "new"), "1", Some(&one), || all(&one, &two)).unwrap();
        assert_eq!((image(&next), waits), ("new", false));
        // The watch does not show it yet, then shows it, then its pods are ready.
        let waiting = |shown: &StatefulSet| {
            let (kept, waits) = rollouts.admit(set("two", "new"), "1", Some(&two), || all(shown, &two)).unwrap();
            assert_eq!((image(&kept) == "old", kept.annotations() == two.annotations()), (waits, waits));
            waits
        };
        assert!(waiting(&one) && waiting(&next));
        // Applied again it is what it was.
        let (again, _) = rollouts.admit(set("one", "new"), "1", Some(&next), || all(&next, &two)).unwrap();
        assert_eq!(again.annotations(), next.annotations());
        // Another leader counts alike.
        let other = Rollouts::new(1);
        assert!(other.admit(set("two", "new"), "1", Some(&two), || all(&next, &two)).unwrap().1);
        assert!(!waiting(&ready(next.clone())));

        // It was one until its pods were ready: whatever ails them later is another matter.
        let (done, _) = rollouts.admit(set("one", "new"), "1", Some(&ready(next)), Vec::new).unwrap();
        assert!(!is_rolling(&done) && !done.annotations().contains_key(ROLLOUT));
    }

    #[test]
    fn a_rollout_that_ended_while_nobody_waited_keeps_nobody_waiting_later() {
        let rollouts = Rollouts::new(1);
        let made = |uid: &str| up(rollouts.admit(set(uid, "old"), "1", None, Vec::new).unwrap().0);
        let (one, two) = (made("one"), made("two"));
        let (next, _) = rollouts.admit(set("one", "new"), "1", Some(&one), || vec![Arc::new(one.clone())]).unwrap();
        let (done, _) = rollouts.admit(set("one", "new"), "1", Some(&ready(next)), Vec::new).unwrap();
        let all = || [&done, &two].map(|set| Arc::new(set.clone())).to_vec();
        assert!(!rollouts.admit(set("two", "new"), "1", Some(&two), all).unwrap().1);
    }

    #[test]
    fn what_somebody_asks_for_and_what_restarts_nobody_does_not_wait() {
        let rollouts = Rollouts::new(0);
        let made = up(rollouts.admit(set("one", "old"), "1", None, Vec::new).unwrap().0);
        let larger = |image: &str| {
            let mut set = set("one", image);
            let container = &mut set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0];
            container.resources = serde_json::from_value(json!({"limits": {"cpu": "2"}})).unwrap();
            set
        };
        let applied = |wanted: StatefulSet, there: &StatefulSet, asked: &str| {
            let (next, waits) = rollouts.admit(wanted, asked, Some(there), Vec::new).unwrap();
            (image(&next).to_owned(), waits)
        };
        assert_eq!(applied(set("one", "new"), &made, "1"), ("old".to_owned(), true));
        // Another interval, say: that restarts nobody, and carries nothing past the bound.
        assert_eq!(applied(set("one", "new"), &made, "2"), ("old".to_owned(), true));
        assert_eq!(applied(larger("new"), &made, "2"), ("new".to_owned(), false));
        assert_eq!(applied(larger("new"), &made, "1"), ("old".to_owned(), true), "a version that makes larger ones");
        let mut resting = made.clone();
        resting.spec.as_mut().unwrap().replicas = Some(0);
        assert_eq!(applied(set("one", "new"), &resting, "1"), ("new".to_owned(), false));
        let mut down = made.clone();
        down.status.as_mut().unwrap().ready_replicas = None;
        let (next, waits) = rollouts.admit(set("one", "new"), "1", Some(&down), Vec::new).unwrap();
        assert!(!waits && image(&next) == "new" && !next.annotations().contains_key(ROLLOUT), "it takes nobody's turn");
        // One that a version without these marks made is treated as if nobody had asked.
        assert_eq!(applied(larger("old"), &up(set("one", "old")), "2"), ("old".to_owned(), true));
    }
}
