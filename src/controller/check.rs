//! Whether an installation works: what `helm test` asks. Needs no rights: whoever the API server knows may ask what it serves.

use std::{collections::BTreeSet, time::Duration};

use backon::{ConstantBuilder, Retryable as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, Config, ResourceExt as _, api::GetParams, core::Request};
use serde_json::Value;

use crate::api::crds;

/// How often and how long after each other the operator is asked whether it is ready: a rollout may just be ending.
const ASK_READY: (usize, Duration) = (10, Duration::from_secs(1));
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many missing fields are named.
const NAMED: usize = 10;

/// Options of the subcommand `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckOptions {
    /// Address of the operator's /readyz, to ask it too.
    #[arg(long, value_name = "URL")]
    pub ready: Option<String>,
}

/// What is wrong with an installation.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum CheckError {
    /// There is no way to the API server.
    #[error("no configuration of the cluster: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// The API server refused or did not answer.
    #[error("the API server refused: {0}")]
    ApiServerRefused(#[from] kube::Error),
    /// A kind is not there.
    #[error("{name} is not served at version {version}; install the chart link-operator-crds")]
    KindMissing {
        /// Name of the definition.
        name: String,
        /// Version of the API.
        version: String,
    },
    /// A kind is older than this program.
    #[error("{name} is older than the operator: it lacks {fields}; upgrade the chart link-operator-crds")]
    KindOutdated {
        /// Name of the definition.
        name: String,
        /// Fields that this version knows and the cluster does not.
        fields: String,
    },
    /// The operator does not say that it is ready.
    #[error("{url} does not say that the operator is ready: {answer}; look into the logs of its pods")]
    NotReady {
        /// Where it was asked.
        url: String,
        /// What came instead.
        answer: String,
    },
}

/// Checks the cluster that the process runs in, or that its kubeconfig names.
pub async fn check(options: CheckOptions) -> Result<(), CheckError> {
    let client = Client::try_from(Config::infer().await?)?;
    kinds_are_served(&client).await?;
    match options.ready {
        Some(url) => is_ready(&url).await,
        None => Ok(()),
    }
}

/// Whether the cluster serves all kinds, with every field that this version knows.
pub async fn kinds_are_served(client: &Client) -> Result<(), CheckError> {
    for crd in crds::all() {
        for version in &crd.spec.versions {
            kind_is_served(client, &crd, &version.name).await?;
        }
    }
    Ok(())
}

async fn kind_is_served(client: &Client, crd: &CustomResourceDefinition, version: &str) -> Result<(), CheckError> {
    let name = crd.name_any();
    let missing = || CheckError::KindMissing { name: name.clone(), version: version.to_owned() };
    let group = format!("/openapi/v3/apis/{}", crd.spec.group);
    let request = Request::new(group).get(version, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    let document: Value = match client.request(request).await {
        Ok(document) => document,
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let kind = serde_json::json!({"group": crd.spec.group, "version": version, "kind": crd.spec.names.kind});
    let is_ours = |schema: &&Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(&kind));
    let served = document["components"]["schemas"].as_object().and_then(|schemas| schemas.values().find(is_ours)).ok_or_else(missing)?;
    let ours = crd.spec.versions.iter().find(|candidate| candidate.name == version).and_then(|version| version.schema.as_ref());
    let lacking = match ours.and_then(|schema| schema.open_api_v3_schema.as_ref()).map(serde_json::to_value) {
        Some(Ok(ours)) => lacking(&ours, served),
        _ => BTreeSet::new(),
    };
    if lacking.is_empty() {
        return Ok(());
    }
    let more = lacking.len().saturating_sub(NAMED);
    let mut fields: Vec<String> = lacking.into_iter().take(NAMED).collect();
    if more > 0 {
        fields.push(format!("{more} more"));
    }
    Err(CheckError::KindOutdated { name, fields: fields.join(", ") })
}

/// Paths of the fields that a schema has and the one that is served lacks. Of a part that lacks, its own parts are not named.
fn lacking(ours: &Value, served: &Value) -> BTreeSet<String> {
    fn walk(path: &str, ours: &Value, served: &Value, found: &mut BTreeSet<String>) {
        for (name, schema) in ours["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match served["properties"].get(name) {
                Some(served) => walk(&path, schema, served, found),
                None => drop(found.insert(path)),
            }
        }
        for (part, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
            if ours[part].is_object() {
                walk(&format!("{path}{mark}"), &ours[part], &served[part], found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk("", ours, served, &mut found);
    found
}

/// Whether the operator says that it is ready, now or soon.
async fn is_ready(url: &str) -> Result<(), CheckError> {
    let ask = || async {
        let not_ready = |answer: String| CheckError::NotReady { url: url.to_owned(), answer };
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().map_err(|error| not_ready(error.to_string()))?;
        let answer = client.get(url).send().await.map_err(|error| not_ready(error.to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(not_ready(format!("{status} {}", answer.text().await.unwrap_or_default().trim_end())))
    };
    ask.retry(ConstantBuilder::default().with_max_times(ASK_READY.0).with_delay(ASK_READY.1)).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_the_cluster_does_not_know_are_named() {
        let ours = json!({"properties": {"spec": {"properties": {
            "state": {"type": "string"},
            "new": {"properties": {"part": {"type": "string"}}},
            "tables": {"items": {"properties": {"name": {"type": "string"}, "filter": {"type": "string"}}}},
            "labels": {"additionalProperties": {"properties": {"value": {"type": "string"}}}},
        }}}});
        let served = json!({"properties": {"spec": {"properties": {
            "state": {"type": "string"},
            "gone": {"type": "string"},
            "tables": {"items": {"properties": {"name": {"type": "string"}}}},
            "labels": {"additionalProperties": {"properties": {}}},
        }}}});
        let found: Vec<String> = lacking(&ours, &served).into_iter().collect();
        assert_eq!(found, ["spec.labels.*.value", "spec.new", "spec.tables[].filter"]);
        assert!(lacking(&ours, &ours).is_empty());
    }
}
