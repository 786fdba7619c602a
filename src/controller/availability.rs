//! Why pods are missing or do not start, in the words of a condition. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

use crate::api::fault::Fault;

/// Condition of a pod that says that it is ready,
const READY: &str = "Ready";
/// and one that says whether it has a node.
const SCHEDULED: &str = "PodScheduled";
/// Conditions of a pod that are asked for.
pub const ASKED: [&str; 2] = [READY, SCHEDULED];

/// Whether the pod is ready, and stays.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|condition| condition.type_ == READY && condition.status == "True")
}

/// What keeps this pod from running, if anything is known.
pub fn pod_problem(pod: &Pod) -> Option<Fault> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == SCHEDULED);
    if let Some(condition) = scheduled.filter(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable")) {
        return Some(fault(
            "Unschedulable",
            format!("pod {name} finds no node: {}", condition.message.as_deref().unwrap_or("no reason given")),
            "add a node that fits, lower spec.compute, or fix the claim that it waits for",
        ));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| container_problem(name, container))
}

fn container_problem(pod: &str, container: &ContainerStatus) -> Option<Fault> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let message = waiting.message.as_deref().unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => Some(fault(
            "ImagePullFailed",
            format!("pod {pod} cannot pull image {}: {message}", container.image),
            "check the image's name, the registry and imagePullSecrets of the integration runtime",
        )),
        "CrashLoopBackOff" => {
            let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let why = last.map_or_else(String::new, |last| {
                let said = last.message.as_deref().unwrap_or_default().trim();
                format!(" with exit code {} ({}) {said}", last.exit_code, last.reason.as_deref().unwrap_or("Error"))
            });
            let remedy = if last.is_some_and(|last| last.reason.as_deref() == Some("OOMKilled")) {
                "raise spec.compute.memoryPerCore".to_owned()
            } else {
                format!("kubectl logs {pod} --previous")
            };
            Some(fault("CrashLoop", format!("pod {pod} ended {} times, last{why}", container.restart_count), remedy))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(fault("CannotStart", format!("pod {pod} cannot start: {message}"), format!("kubectl describe pod {pod}")))
        }
        _ => None,
    }
}

/// Why a controller of pods cannot make them, from the Events about it; the newest counts, unless it has made that pod since.
pub fn refusal_in_events(events: &[Event]) -> Option<Fault> {
    let time = |event: &Event| event.last_timestamp.as_ref().map(|t| t.0).or(event.event_time.as_ref().map(|t| t.0));
    let of = |reason: &'static str| events.iter().filter(move |event| event.reason.as_deref() == Some(reason));
    // "create Pod shop-0 in StatefulSet shop failed error: …"
    let pod = |event: &Event| event.message.as_deref().and_then(|message| message.split_whitespace().nth(2)).map(str::to_owned);
    let newest = of("FailedCreate").max_by_key(|event| time(event))?;
    let was_made = of("SuccessfulCreate").any(|made| pod(made) == pod(newest) && time(made) > time(newest));
    (!was_made).then(|| refusal(newest.message.as_deref().unwrap_or_default()))
}

/// Why the API server refused a pod, from what it said.
pub fn refusal(message: &str) -> Fault {
    if message.contains("exceeded quota") {
        fault("QuotaExceeded", message.to_owned(), "raise the namespace's quota or lower spec.compute")
    } else if message.contains("violates PodSecurity") {
        fault(
            "PodSecurityRefused",
            message.to_owned(),
            "the operator's pods satisfy the level restricted; check what the integration runtime and admission webhooks add",
        )
    } else {
        fault("PodRefused", message.to_owned(), "see the message; the pod is tried again")
    }
}

fn fault(reason: &str, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
    // A registry, a quota or a node that is mended needs no change of the link.
    Fault { reason: reason.to_owned(), message: message.into(), remedy: remedy.into(), heals: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn problem(status: &Value) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "shop-0"}, "status": status})).unwrap();
        pod_problem(&pod).map(|fault| fault.reason)
    }

    #[test]
    fn names_why_a_pod_does_not_run() {
        let waiting = |reason: &str| {
            json!({"containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": reason, "message": "m"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]})
        };
        let unschedulable =
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]});
        for (status, reason) in [
            (unschedulable, Some("Unschedulable")),
            (waiting("ImagePullBackOff"), Some("ImagePullFailed")),
            (waiting("CrashLoopBackOff"), Some("CrashLoop")),
            (waiting("ContainerCreating"), None),
            (json!({"phase": "Running"}), None),
        ] {
            assert_eq!(problem(&status).as_deref(), reason, "{status}");
        }
    }

    #[test]
    fn names_why_pods_are_refused() {
        for (message, reason) in [
            ("pods \"shop-0\" is forbidden: exceeded quota: small, requested: cpu=4", "QuotaExceeded"),
            ("pods \"shop-0\" is forbidden: violates PodSecurity \"restricted:latest\"", "PodSecurityRefused"),
            ("admission webhook denied the request", "PodRefused"),
        ] {
            let events: Vec<Event> = serde_json::from_value(json!([
                {"metadata": {}, "involvedObject": {}, "reason": "FailedCreate", "message": message, "lastTimestamp": "2026-01-02T00:00:00Z"},
                {"metadata": {}, "involvedObject": {}, "reason": "SuccessfulCreate", "message": "x", "lastTimestamp": "2026-01-03T00:00:00Z"},
                {"metadata": {}, "involvedObject": {}, "reason": "FailedCreate", "message": "older", "lastTimestamp": "2026-01-01T00:00:00Z"},
            ]))
            .unwrap();
            assert_eq!(refusal_in_events(&events).unwrap().reason, reason);
        }
    }

    #[test]
    fn a_pod_that_was_made_since_is_refused_no_more() {
        let event = |reason: &str, message: &str, minute: u32| {
            let time = format!("2026-01-01T00:{minute:02}:00Z");
            json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": message, "lastTimestamp": time})
        };
        let refused = event("FailedCreate", "create Pod shop-0 in StatefulSet shop failed error: exceeded quota", 5);
        let made = |pod: &str, minute| event("SuccessfulCreate", &format!("create Pod {pod} in StatefulSet shop successful"), minute);
        let told = |other: Value| {
            let events: Vec<Event> = serde_json::from_value(json!([refused, other])).unwrap();
            refusal_in_events(&events).is_some()
        };
        assert!(!told(made("shop-0", 6)));
        assert!(told(made("shop-0", 4)) && told(made("shop-1", 6)));
    }
}
