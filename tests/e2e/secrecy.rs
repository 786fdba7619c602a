//! Whatever a test did: no credential stands in what was written meanwhile. Every test ends with it.

use std::{collections::BTreeMap, io::Read as _, thread::sleep, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    canaries::Canaries,
    cluster::{condition, kubectl, try_kubectl},
};

/// Namespace and name of the operator.
const OPERATOR: &str = "link-operator";
/// Service of its metrics.
const METRICS: &str = "link-operator-metrics";
/// All kinds that a link has to do with, but Secrets.
const KINDS: &str =
    "lc,lt,lz,ir,configmaps,statefulsets,controllerrevisions,pods,services,serviceaccounts,poddisruptionbudgets,networkpolicies,events";

/// Looks also for the Secrets among manifests.
pub fn remember(canaries: &mut Canaries, manifests: &str) {
    for document in serde_yaml::Deserializer::from_str(manifests) {
        // One that is no YAML is refused when it is applied; what comes after it here is the same again, without end.
        let Ok(document) = Value::deserialize(document) else { break };
        if document["kind"] == "Secret" {
            let data = document["stringData"].as_object().into_iter().flatten();
            let name = document["metadata"]["name"].as_str().unwrap_or_default();
            canaries.add_secret(name, data.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().as_bytes().to_vec())));
        }
    }
}

/// Panics if what is in the namespace, or what the operator says, holds a credential of the namespace.
pub fn check(canaries: &mut Canaries, namespace: &str) {
    for secret in items(&["get", "secrets", "-n", namespace]) {
        let data: BTreeMap<String, String> = serde_json::from_value(secret["data"].clone()).unwrap_or_default();
        let data = data.into_iter().map(|(key, value)| (key, STANDARD.decode(value).unwrap()));
        canaries.add_secret(secret["metadata"]["name"].as_str().unwrap_or_default(), data);
    }
    for mut object in items(&["get", KINDS, "-n", namespace]) {
        let what = format!("{namespace}: {} {}", object["kind"], object["metadata"]["name"]);
        for (_, packed) in object["binaryData"].as_object_mut().into_iter().flatten() {
            let mut text = String::new();
            let bytes = STANDARD.decode(packed.as_str().unwrap()).unwrap();
            GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
            *packed = text.into();
        }
        canaries.absent(&what, &object.to_string());
        if object["kind"] == "Pod" {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            canaries.absent(&what, &logs(namespace, name));
            if is_ready_worker(&object) {
                canaries.absent(&what, &metrics(namespace, &format!("pods/{name}:8080")));
            }
        }
    }
    for pod in items(&["get", "pods", "-n", OPERATOR, "-l", "app.kubernetes.io/name=link-operator"]) {
        canaries.absent("the operator's log", &logs(OPERATOR, pod["metadata"]["name"].as_str().unwrap_or_default()));
    }
    canaries.absent("the operator's Events", &kubectl(&["get", "events", "-n", OPERATOR, "-o", "yaml"]));
    canaries.absent("the operator's metrics", &metrics(OPERATOR, &format!("services/{METRICS}:http")));
}

fn is_ready_worker(pod: &Value) -> bool {
    let worker = pod["metadata"]["labels"]["link-operator.io/role"] == "worker" && pod["metadata"]["deletionTimestamp"].is_null();
    worker && condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// The metrics of a pod or a Service, which must be there; the operator of another test may just be starting again.
fn metrics(namespace: &str, of: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/{of}/proxy/metrics");
    for _ in 0..30 {
        match try_kubectl(&["get", "--raw", &path], "") {
            Ok(text) if text.contains("link_operator_") => return text,
            _ => sleep(Duration::from_secs(1)),
        }
    }
    panic!("{path} has no metrics");
}

fn items(arguments: &[&str]) -> Vec<Value> {
    let list = kubectl(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str::<Value>(&list).unwrap()["items"].as_array().unwrap().clone()
}

/// The log of a pod's process, and that of the process before it.
fn logs(namespace: &str, pod: &str) -> String {
    let log = |more: &[&str]| try_kubectl(&[&["logs", "-n", namespace, pod], more].concat(), "").unwrap_or_default();
    log(&[]) + &log(&["--previous"])
}
