//! The plan: what the controller tells a link's workers to do.
//!
//! Stored gzipped in the link's ConfigMap under [`PLAN_KEY`], mounted into every worker at [`PLAN_DIR`], and pushed over
//! the workers' API. A plan never holds a secret: it names Secrets, which are mounted below [`SECRETS_DIR`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    database::{Source, Target},
    discover::Discover,
    link_connection::{RelinkPolicy, SchemaChange},
    link_table::TableOptions,
    source_protection::{Bounds, OnPositionLost},
    verification::VerifyRequest,
    zone::ZoneStore,
};
use crate::data::TableName;

/// The format that this version writes; it reads this one and the one before.
pub const PLAN_FORMAT: u32 = 1;
/// Key of the ConfigMap's `binaryData`, and file name in the mount.
pub const PLAN_KEY: &str = "plan.json.gz";
/// Where the plan's ConfigMap is mounted.
pub const PLAN_DIR: &str = "/etc/link-operator/plan";
/// Where each Secret that the plan names is mounted whole, as a folder of its name.
pub const SECRETS_DIR: &str = "/etc/link-operator/secrets";
/// Where the token of the ServiceAccount is mounted that a workload identity trusts,
pub const IDENTITY_DIR: &str = "/etc/link-operator/identity";
/// and its file.
pub const IDENTITY_FILE: &str = "token";
/// Where a PersistentVolumeClaim zone is mounted.
pub const ZONE_DIR: &str = "/var/lib/link-operator/zone";
/// Where the worker API's certificate, key, authority and token are mounted.
pub const API_DIR: &str = "/etc/link-operator/api";
/// Environment variable of a worker: its container's memory limit, bytes.
pub const MEMORY_LIMIT: &str = "MEMORY_LIMIT";
/// The name that the worker API's certificate bears, whatever the address that it is reached by.
pub const API_SERVER_NAME: &str = "worker.link-operator.internal";
/// Port of the worker's HTTPS API.
pub const API_PORT: u16 = 8443;
/// Port of the worker's plain HTTP endpoints: `/healthz`, `/readyz`, `/metrics`.
pub const HEALTH_PORT: u16 = 8080;

/// What a link's workers are to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of a spec, and they are independent")]
pub struct Plan {
    /// Format of this document.
    pub format_version: u32,
    /// Raised with every change of what follows; a worker refuses a lower one than it has.
    pub revision: u64,
    /// Which link.
    pub link: LinkIdentity,
    /// Number of the run that the workers are to work in: they make it if the zone's newest run is lower.
    pub run: u32,
    /// What to do.
    pub intent: Intent,
    /// In scheduled mode: when the batch began. Its end is where the source was when a worker first read this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Timestamp>,
    /// How many workers share the work.
    pub workers: u32,
    /// Cores of each worker.
    pub cores_per_worker: u32,
    /// Shortest time between two batches, milliseconds.
    pub flush_interval_ms: u64,
    /// Committed files that every table has applied stay this long, seconds.
    #[serde(default = "default_retention_seconds")]
    pub retention_seconds: u64,
    /// All exact tables move together, in one transaction of the target a batch.
    #[serde(default)]
    pub transactional_consistency: bool,
    /// What becomes of tables whose columns change.
    #[serde(default)]
    pub schema_change: SchemaChange,
    /// What becomes of a link whose position is lost. The next run is another plan's: workers only say what they met.
    #[serde(default)]
    pub on_position_lost: OnPositionLost,
    /// What becomes of a folder that is a former link's.
    #[serde(default)]
    pub relink_policy: RelinkPolicy,
    /// What bounds the harm to the source; honoured as soon as the plan is there.
    #[serde(default)]
    pub bounds: Bounds,
    /// The operational database.
    pub source: Source,
    /// The analytical target.
    pub target: Target,
    /// Where files are staged.
    pub zone: ZoneStore,
    /// The link tables.
    pub tables: Vec<PlannedTable>,
    /// Tables that are to join as they are found in the source: workers only tell of them, another plan lets them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
    /// All tables are to be compared with the source; stands here until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyRequest>,
    /// What is logged instead of the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// A release of a link that is stopped, not deleted: it frees the source (slot, publication) and nothing else. Tables
    /// and progress of the target and the zone's folder with its owner stay; the next start is a new run.
    #[serde(default)]
    pub stop_only: bool,
    /// Whether a release drops the tables that the link made in the target.
    #[serde(default)]
    pub delete_target_tables: bool,
    /// Whether a release leaves the zone's folder.
    #[serde(default)]
    pub retain_zone: bool,
}

/// Of plans that were stored before they had it.
fn default_retention_seconds() -> u64 {
    24 * 60 * 60
}

/// Which link a plan is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkIdentity {
    /// Namespace of the LinkConnection.
    pub namespace: String,
    /// Name of the LinkConnection.
    pub name: String,
    /// UID of the LinkConnection: the zone's folder belongs to this object.
    pub uid: String,
    /// The link's lasting identity; names the zone's folder and, hashed, slot and publication.
    pub link_id: String,
}

/// What the workers of a link are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// Replicate.
    Run,
    /// Commit and apply what has been read, keep position, then report `drained`.
    Drain,
}

/// One table of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedTable {
    /// Name of the LinkTable.
    pub name: String,
    /// UID of the LinkTable. A table whose UID changed was removed and added again: it starts over.
    pub uid: String,
    /// The table in the source.
    pub source: TableName,
    /// The table in the target.
    pub target: TableName,
    /// How it stands there.
    #[serde(default, skip_serializing_if = "TableOptions::is_empty")]
    pub options: TableOptions,
    /// Value of the last reseed request; a new value starts the table over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseed: Option<String>,
    /// The table is to be compared with the source; stands here until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyRequest>,
}

impl PlannedTable {
    /// Whether a load is asked for that is not the one that was asked for last. Who takes the request away again asks for none, and
    /// neither does a person's LinkTable that took over from one that was loaded anew.
    pub fn asks_for_load(&self, last: Option<&String>) -> bool {
        self.reseed.is_some() && self.reseed.as_ref() != last
    }
}

/// What a probe pod is to ask, as JSON in its `--request` argument: only what is present. Never holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeRequest {
    /// The link that asks, if one does: what it made in the source and the target already counts as its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
    /// Ask the operational database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Ask the analytical target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Ask the landing zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneStore>,
    /// Ask the source whether these can be linked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<PlannedTable>,
    /// So many LinkTables more the link has, for which there is no room, and that `discover` does not ask for.
    #[serde(default, skip_serializing_if = "super::forecast::is_zero")]
    pub not_asked: u32,
    /// Tell of these tables of the source alone what can be linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
    /// Reckon what the link would do with so many cores, if it were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_cores: Option<u32>,
    /// Ask the source what it keeps for the link, since no worker does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptPosition>,
}

/// The position of a link that no worker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptPosition {
    /// UID of the LinkConnection: the source says whose a position is.
    pub uid: String,
    /// Its run.
    pub run: u32,
    /// What becomes of it if its position is lost.
    #[serde(default)]
    pub on_position_lost: OnPositionLost,
    /// Give the position up if the source keeps more bytes of log for it than so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_above: Option<u64>,
}
