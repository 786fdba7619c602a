//! One-shot pods: a finished one stays, with its log, as the record of its answer, so that the controller need not
//! remember what was asked when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{
    availability::{pod_problem, refusal},
    names::ASKED,
};
use crate::api::{fault::Fault, report::Report};

/// How old an answer that was all well may become.
pub const GOOD_FOR: Duration = Duration::from_hours(6);
/// How soon a question whose answer was not well is asked again.
pub const ASK_AGAIN: Duration = Duration::from_secs(15);

/// A pod may stay so long past the end of its grace. On a node that is lost it stays until somebody says that it is gone: removing it by
/// force lets its successor start, and is safe even if it still runs.
const PAST_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// Whether a pod that is being deleted stays for too long.
pub fn outstays(pod: &Pod, now: Timestamp) -> bool {
    pod.metadata.deletion_timestamp.as_ref().is_some_and(|end| now.duration_since(end.0) > PAST_GRACE)
}

/// Where a question stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// No pod asks it.
    NotAsked,
    /// A pod of an earlier question is in the way.
    Outdated,
    /// A pod is on its way; what keeps it, if known.
    Asking(Option<Fault>),
    /// The pod ended without an answer.
    Unanswered {
        /// Why.
        fault: Fault,
        /// Since when, seconds.
        age: Duration,
    },
    /// The pod answered.
    Answered {
        /// What.
        report: Box<Report>,
        /// How long ago.
        age: Duration,
    },
}

/// What is to be done about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the pod.
    Create,
    /// Remove the pod; its end wakes the reconciler, which then makes a new one.
    Remove,
    /// Nothing for so long.
    Wait(Duration),
}

/// Where the question `asked` stands, by its pod.
pub fn progress(pod: Option<&Pod>, asked: &str, now: Timestamp) -> Progress {
    let Some(pod) = pod else { return Progress::NotAsked };
    if pod.annotations().get(ASKED).map(String::as_str) != Some(asked) || outstays(pod, now) {
        return Progress::Outdated;
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if !matches!(phase, "Succeeded" | "Failed") {
        return Progress::Asking(pod_problem(pod));
    }
    let terminated =
        status.and_then(|status| status.container_statuses.as_ref()?.first()?.state.as_ref()).and_then(|state| state.terminated.as_ref());
    let ended = terminated.and_then(|terminated| terminated.finished_at.as_ref()).map(|time| time.0);
    let ended = ended.or(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)).unwrap_or(now);
    let age = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
    let said = terminated.and_then(|terminated| terminated.message.as_deref()).unwrap_or_default();
    if let Ok(report) = serde_json::from_str::<Report>(said) {
        return Progress::Answered { report: Box::new(report), age };
    }
    let why = status.and_then(|status| status.reason.clone());
    let why = why.unwrap_or_else(|| terminated.map_or_else(|| "it was removed".to_owned(), |end| format!("exit code {}", end.exit_code)));
    let fault = Fault {
        reason: "NoAnswer".to_owned(),
        message: format!("pod {} ended without an answer: {why}", pod.name_any()),
        remedy: format!("kubectl logs {}; it is tried again", pod.name_any()),
        heals: true,
    };
    Progress::Unanswered { fault, age }
}

impl Progress {
    /// What is to be done about a probe.
    pub fn step(&self) -> Step {
        self.step_within(GOOD_FOR)
    }

    /// The same, where an answer that was all well may become so old.
    pub fn step_within(&self, good_for: Duration) -> Step {
        let within = |limit: Duration, age: Duration| if age >= limit { Step::Remove } else { Step::Wait(limit.saturating_sub(age)) };
        match self {
            Self::NotAsked => Step::Create,
            Self::Outdated => Step::Remove,
            Self::Asking(_) => Step::Wait(ASK_AGAIN),
            Self::Unanswered { age, .. } => within(ASK_AGAIN, *age),
            Self::Answered { report, age } => {
                let well = report.checks.iter().all(|check| check.fault.is_none());
                within(if well { good_for } else { ASK_AGAIN }, *age)
            }
        }
    }

    /// What keeps the question from being answered, if known.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Asking(fault) => fault.as_ref(),
            Self::Unanswered { fault, .. } => Some(fault),
            _ => None,
        }
    }

    /// How long ago the answer was given.
    pub fn answered_ago(&self) -> Option<Duration> {
        match self {
            Self::Answered { age, .. } => Some(*age),
            _ => None,
        }
    }

    /// The answer.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Answered { report, .. } => Some(report),
            _ => None,
        }
    }
}

/// How making a pod ended.
#[derive(Debug)]
pub enum Made {
    /// It is there.
    Yes,
    /// The API server refused it.
    Refused(Fault),
    /// The namespace is going away: no pod can be made in it ever again.
    NamespaceTerminating,
}

/// Makes a one-shot pod.
pub async fn create(client: &Client, pod: &Pod) -> Result<Made, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), pod).await {
        Ok(_) => Ok(Made::Yes),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Made::Yes),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
            let mut causes = status.details.iter().flat_map(|details| &details.causes);
            if causes.any(|cause| cause.reason == "NamespaceTerminating") {
                Ok(Made::NamespaceTerminating)
            } else {
                Ok(Made::Refused(refusal(&status.message)))
            }
        }
        Err(error) => Err(error),
    }
}

/// Removes a one-shot pod at once: it holds nothing.
pub async fn remove(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // Another pod has the name by now; or this one is there still, and who goes on would leave it for ever.
        Err(error @ kube::Error::Api(_)) => match api.get_metadata_opt(&pod.name_any()).await? {
            Some(there) if there.metadata.uid == pod.metadata.uid => Err(error),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_a_lost_node_is_in_the_way_once_its_grace_is_long_over() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "shop-link-probe", "annotations": {ASKED: "this"}, "deletionTimestamp": at(1000)},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        let step = |second| progress(Some(&pod), "this", at(second)).step();
        assert_eq!((step(1000), step(1030)), (Step::Wait(ASK_AGAIN), Step::Wait(ASK_AGAIN)));
        assert_eq!(step(1031), Step::Remove);
        assert_eq!(progress(Some(&pod), "that", at(0)), Progress::Outdated);
    }
}
