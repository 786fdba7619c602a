//! LandingZone: a folder in object storage, or in a volume, that links stage their files in.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{schema::time, zone::ZoneStore};

/// Where the folder is: exactly one of `azure` and `persistentVolumeClaim`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "link-operator.io",
    version = "v1alpha1",
    kind = "LandingZone",
    namespaced,
    shortname = "lz",
    category = "linkop",
    status = "LandingZoneStatus",
    derive = "PartialEq",
    doc = "A LandingZone is a folder in object storage or in a volume that links stage their files in, on the way from source to target. \
           Any number of links can share one. Synapse: the landing zone of a link connection.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Pending, Ready or Degraded"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether links can use it"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why"),
    printcolumn(
        name = "Credential-Expiry",
        type_ = "string",
        json_path = ".status.credentialExpiryTime",
        description = "When its credential ends"
    ),
    printcolumn(
        name = "Account",
        type_ = "string",
        json_path = ".spec.azure.account",
        description = "Azure storage account",
        priority = 1
    ),
    printcolumn(name = "Container", type_ = "string", json_path = ".spec.azure.container", description = "Azure container", priority = 1),
    printcolumn(
        name = "Claim",
        type_ = "string",
        json_path = ".spec.persistentVolumeClaim.claimName",
        description = "PersistentVolumeClaim",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists")
)]
#[x_kube(
    validation = (
        "[has(self.azure), has(self.persistentVolumeClaim)].filter(it, it).size() == 1",
        "set exactly one of azure and persistentVolumeClaim: it says where the links' files are staged"
    ),
    validation = (
        "has(self.azure) == has(oldSelf.azure) && has(self.persistentVolumeClaim) == has(oldSelf.persistentVolumeClaim)",
        "the store is immutable: create another LandingZone for another store"
    ),
    validation = (
        "!has(self.azure) || !has(oldSelf.azure) || (self.azure.account == oldSelf.azure.account \
         && self.azure.container == oldSelf.azure.container && self.azure.folder == oldSelf.azure.folder)",
        "azure.account, azure.container and azure.folder are immutable: create another LandingZone for another folder"
    ),
    validation = (
        "!has(self.persistentVolumeClaim) || !has(oldSelf.persistentVolumeClaim) \
         || (self.persistentVolumeClaim.claimName == oldSelf.persistentVolumeClaim.claimName \
         && self.persistentVolumeClaim.folder == oldSelf.persistentVolumeClaim.folder)",
        "persistentVolumeClaim.claimName and persistentVolumeClaim.folder are immutable: create another LandingZone for another folder"
    ),
)]
#[serde(rename_all = "camelCase")]
pub struct LandingZoneSpec {
    /// The store.
    #[serde(flatten)]
    pub store: ZoneStore,
    /// How long what was staged stays.
    #[serde(default)]
    pub retention: Retention,
}

/// How long what was staged stays.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.committedFiles.matches('^[0-9]{1,5}(m|h)$') && duration(self.committedFiles) >= duration('1h') \
         && duration(self.committedFiles) <= duration('8760h')")
        .message("committedFiles is a whole number of m or h from 1h to 8760h, such as 24h")
        .field_path(".committedFiles"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Files whose changes are in the target stay this long after they were committed, then they are removed; files that a
    /// table has yet to apply stay in any case. From 1h to 8760h. Default: 24h.
    #[schemars(length(min = 2, max = 8))]
    #[serde(default = "default_committed_files")]
    pub committed_files: String,
}

fn default_committed_files() -> String {
    "24h".to_owned()
}

impl Default for Retention {
    fn default() -> Self {
        Self { committed_files: default_committed_files() }
    }
}

impl Retention {
    /// How long committed files stay; none if the field is not such a time.
    pub fn committed_files(&self) -> Option<Duration> {
        let (digits, unit) = self.committed_files.split_at_checked(self.committed_files.len().checked_sub(1)?)?;
        let number: u64 = digits.parse().ok()?;
        let seconds = match unit {
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let time = Duration::from_secs(number.checked_mul(seconds)?);
        (Duration::from_hours(1)..=Duration::from_hours(8760)).contains(&time).then_some(time)
    }
}

/// What is known of the zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LandingZoneStatus {
    /// Generation of the spec that this status speaks of; -1 before the controller has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether links can use the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ZonePhase>,
    /// When the zone's credential ends, where that can be known (a shared access signature says so). Put a new one into the
    /// Secret before then: workers take it up within two minutes, nothing restarts.
    /// Synapse: `landingZoneCredentialExpireTime`.
    #[schemars(schema_with = "time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expiry_time: Option<Timestamp>,
    /// Value of the annotation `link-operator.io/test-requested-at` that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_test_at: Option<String>,
    /// Ready, Reconciling, Stalled, Accepted, ZoneReadable, ZoneWritable, CredentialValid, CredentialExpiring (True: within seven days); each with a reason and what to do.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Pending: not asked yet. Ready: it was read, listed and written. Degraded: it was not; `conditions` say why and what to do.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display, strum::EnumIter, strum::IntoStaticStr,
)]
pub enum ZonePhase {
    /// Not asked yet.
    #[default]
    Pending,
    /// It was read, listed and written.
    Ready,
    /// It was not.
    Degraded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_files_is_minutes_or_hours() {
        let parse = |text: &str| Retention { committed_files: text.to_owned() }.committed_files();
        assert_eq!(parse("24h"), Some(Duration::from_hours(24)));
        assert_eq!(parse("90m"), Some(Duration::from_mins(90)));
        for refused in ["", "h", "59m", "8761h", "1d", "-1h", "1.5h", "99999999999999999999h", "24ü"] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }
}
