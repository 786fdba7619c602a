//! Where a landing zone's folder is: the part of a LandingZone's spec that workers need too.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    database::SecretKey,
    schema::{FOLDER_MESSAGE, FOLDER_RULE, OBJECT_NAME},
};

/// The store that a landing zone is in: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZoneStore {
    /// Azure Blob Storage or Azure Data Lake Storage Gen2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureZone>,
    /// A PersistentVolumeClaim in the same namespace; with more than one worker it must be ReadWriteMany.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimZone>,
}

/// A folder in a container of an Azure storage account.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (FOLDER_RULE, FOLDER_MESSAGE),
    validation = (
        "!has(self.endpoint) || (isURL(self.endpoint) && url(self.endpoint).getScheme() in ['http', 'https'] && !self.endpoint.contains('?'))",
        "endpoint is the blob service's address, https://host or http://host:port/account, without a query: the token goes into a Secret"
    ),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureZone {
    /// Name of the storage account. Cannot be changed.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]+$"))]
    pub account: String,
    /// Name of the container; it must exist. Cannot be changed.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9](-?[a-z0-9])*$"))]
    pub container: String,
    /// Folder within the container; all that links write is below it. Cannot be changed. Default: the container itself.
    #[schemars(length(max = 512))]
    #[serde(default)]
    pub folder: String,
    /// Address of the blob service where it is not `https://<account>.blob.core.windows.net`, for sovereign clouds,
    /// private endpoints and emulators (`http://host:port/account`).
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How to prove who we are: exactly one of `sasToken`.
    pub auth: AzureAuth,
}

/// Credentials for an Azure storage account: exactly one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("has(self.sasToken)", "set exactly one credential: sasToken (a shared access signature from a Secret)"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureAuth {
    /// A shared access signature with the rights read, add, create, write, delete and list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_token: Option<SecretValue>,
}

/// One secret value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretValue {
    /// Where it is kept.
    pub secret_key_ref: SecretKey,
}

/// A folder in a PersistentVolumeClaim.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (FOLDER_RULE, FOLDER_MESSAGE))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimZone {
    /// Name of the claim. Cannot be changed.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub claim_name: String,
    /// Folder within the volume; all that links write is below it. Cannot be changed. Default: the volume itself.
    #[schemars(length(max = 512))]
    #[serde(default)]
    pub folder: String,
}
