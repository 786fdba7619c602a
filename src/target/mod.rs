//! Targets: the analytical stores. One folder a system, all behind [`Target`].
//!
//! A target loads chunks and applies netted changes, exactly once, and keeps its own progress beside the rows. It knows
//! nothing of sources, of the landing zone or of Kubernetes.

mod aside;
mod kept;
mod outline;
pub mod postgresql;
pub mod sqlserver;
pub mod synapse;
mod tds;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    api::{
        database,
        fault::{Check, Explain, Fault},
        link_table::TableOptions,
    },
    connect::{CORRECT_DATABASE, CORRECT_TLS, ConnectError},
    data::{Among, Besides, Digests, KeyRange, LINK_COLUMN, LargeValue, LinkCell, RowDigests, Step, TableName, TableSchema},
    secrets::Secrets,
};

pub use self::outline::{Fit, Outline, OutlinedColumn};

/// What can go wrong with a target. The variant's name is the reason that users see.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("{0}")]
    TargetUnreachable(String),
    /// Wrong user or password.
    #[error("{0}")]
    TargetAuthenticationFailed(String),
    /// A Secret is not there (yet).
    #[error("{0}")]
    SecretMissing(String),
    /// A Secret lacks a key.
    #[error("{0}")]
    SecretKeyMissing(String),
    /// A right is missing; the remedy has the GRANT.
    #[error("{message}")]
    TargetPermissionDenied {
        /// What is missing.
        message: String,
        /// The statement that cures it.
        remedy: String,
    },
    /// The server is not one that a link can write to (version, standby, encoding).
    #[error("{message}")]
    TargetNotPrepared {
        /// What is wrong.
        message: String,
        /// What cures it.
        remedy: String,
    },
    /// The schema is not there.
    #[error("schema {0} does not exist in the target")]
    TargetSchemaMissing(String),
    /// A table of that name is there, and this link did not create it.
    #[error("table {0} already exists in the target and was not made by this link")]
    TargetTableExists(TableName),
    /// A table of that name is there and is to be adopted, but is not as the link needs it.
    #[error("table {table} of the target cannot be adopted: {difference}")]
    TargetTableDiffers {
        /// The table.
        table: TableName,
        /// What it has, and what is needed.
        difference: String,
        /// The statements that cure it, or what to do instead.
        remedy: String,
    },
    /// Another link writes to that table.
    #[error("table {table} of the target belongs to link {owner}")]
    TargetTableOwned {
        /// The table.
        table: TableName,
        /// Id of the other link, and its source table.
        owner: String,
    },
    /// A column was added in the source, and the target's table has one of that name already.
    #[error("table {table} of the target already has a column {column}, which this link did not make")]
    TargetColumnExists {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// Somebody else moved the table's progress: this applier is not the one any more.
    #[error("{0}")]
    ProgressMoved(String),
    /// The target's rows are not as its progress says.
    #[error("{0}")]
    TargetInconsistent(String),
    /// A value or type that the target cannot hold.
    #[error("{0}")]
    ValueNotSupported(String),
    /// A chunk's or batch's file could not be read while it was written to the target.
    #[error("{0}")]
    InputFailed(String),
    /// The target cannot hold the table as its LinkTable asks.
    #[error("{message}")]
    TargetOptionsUnfit {
        /// What it cannot hold.
        message: String,
        /// What to ask instead.
        remedy: String,
    },
    /// What was to be written could not be made: the fault of whoever makes it.
    #[error("{}", .0.message)]
    StepFailed(Fault),
    /// Any other error that the target reports.
    #[error("{0}")]
    TargetError(String),
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        match error {
            ConnectError::Unreachable(_) | ConnectError::TooManyConnections(_) => Self::TargetUnreachable(message),
            ConnectError::AuthenticationFailed(_) => Self::TargetAuthenticationFailed(message),
            ConnectError::SecretMissing(_) => Self::SecretMissing(message),
            ConnectError::SecretKeyMissing(_) => Self::SecretKeyMissing(message),
            ConnectError::TlsFailed(_) => Self::TargetNotPrepared { message, remedy: CORRECT_TLS.to_owned() },
            ConnectError::DatabaseMissing(_) => Self::TargetNotPrepared { message, remedy: CORRECT_DATABASE.to_owned() },
            ConnectError::Other(_) => Self::TargetError(message),
        }
    }
}

impl Explain for Error {
    fn remedy(&self) -> String {
        match self {
            Self::TargetUnreachable(_) => "check host, port and network policies, and that the database is up".to_owned(),
            Self::TargetAuthenticationFailed(_) => "correct the user name or password in the Secret that spec.target names".to_owned(),
            Self::SecretMissing(_) | Self::SecretKeyMissing(_) => "create the Secret, or correct its name or keys in the spec".to_owned(),
            Self::TargetPermissionDenied { remedy, .. }
            | Self::TargetNotPrepared { remedy, .. }
            | Self::TargetOptionsUnfit { remedy, .. }
            | Self::TargetTableDiffers { remedy, .. } => remedy.clone(),
            Self::TargetSchemaMissing(schema) => format!("CREATE SCHEMA \"{schema}\" in the target, or name another schema"),
            Self::TargetTableExists(table) => format!("drop or rename {table}, or set spec.target.….onExistingTable"),
            Self::TargetColumnExists { column, .. } => format!("rename or drop column {column} of the target's table, or reseed the table"),
            Self::TargetTableOwned { .. } => "name another target table, or remove the table from the other link".to_owned(),
            Self::ProgressMoved(_) | Self::InputFailed(_) => "none needed: the work starts again where it was".to_owned(),
            Self::StepFailed(fault) => fault.remedy.clone(),
            Self::TargetInconsistent(_) => "reseed the table: annotate the LinkTable with link-operator.io/reseed-requested-at".to_owned(),
            Self::ValueNotSupported(_) => "exclude the value in the source or give the target a type that holds it".to_owned(),
            Self::TargetError(_) => "read the message; the link goes on trying".to_owned(),
        }
    }

    fn heals(&self) -> bool {
        if let Self::StepFailed(fault) = self {
            return fault.heals;
        }
        !matches!(
            self,
            Self::TargetPermissionDenied { .. }
                | Self::TargetSchemaMissing(_)
                | Self::TargetTableExists(_)
                | Self::TargetTableDiffers { .. }
                | Self::TargetOptionsUnfit { .. }
                | Self::TargetTableOwned { .. }
                | Self::TargetColumnExists { .. }
                | Self::TargetInconsistent(_)
                | Self::ValueNotSupported(_)
        )
    }

    fn fault(&self) -> Fault {
        if let Self::StepFailed(fault) = self {
            return fault.clone();
        }
        let reason: &'static str = self.into();
        Fault { reason: reason.to_owned(), message: self.to_string(), remedy: self.remedy(), heals: self.heals() }
    }
}

/// What a target may use of a landing zone.
pub trait Zone: LargeValues + LoadFiles {}

impl<Z: LargeValues + LoadFiles> Zone for Z {}

/// The target that `spec.target` names, for the link `link_id`. Opens no connection. Without `zone` it cannot take rows that have
/// large values, and one that loads files by itself takes none.
pub fn open(target: &database::Target, secrets: &Secrets, link_id: &str, zone: Option<Arc<dyn Zone>>) -> Result<Arc<dyn Target>, Error> {
    let values = zone.clone().map(|zone| zone as Arc<dyn LargeValues>);
    match target {
        database::Target { postgresql: Some(target), .. } => {
            Ok(Arc::new(postgresql::Postgresql::new(target.clone(), secrets.clone(), link_id, values)))
        }
        database::Target { sql_server: Some(target), .. } => {
            Ok(Arc::new(sqlserver::SqlServer::new(target.clone(), secrets.clone(), link_id, values)))
        }
        database::Target { synapse: Some(target), .. } => {
            let files = zone.map(|zone| zone as Arc<dyn LoadFiles>);
            Ok(Arc::new(synapse::Synapse::new(target.clone(), secrets.clone(), link_id, files)))
        }
        database::Target { postgresql: None, sql_server: None, synapse: None } => {
            Err(Error::TargetError("spec.target names no system that this version knows".to_owned()))
        }
    }
}

/// The values beside a batch whose last column is [`LINK_COLUMN`].
fn besides(batch: &RecordBatch) -> Result<Besides, Error> {
    let mut beside = Besides::new();
    // By position: a table may have a column of that name.
    let Some(link) = batch.columns().last().and_then(|array| array.as_string_opt::<i32>()) else {
        return Err(Error::InputFailed(format!("a batch does not end in a column {LINK_COLUMN}")));
    };
    if link.null_count() == link.len() {
        return Ok(beside);
    }
    for (row, cell) in link.iter().enumerate() {
        let Some(cell) = cell else { continue };
        let cell: LinkCell = serde_json::from_str(cell).map_err(|error| Error::InputFailed(format!("{LINK_COLUMN}: {error}")))?;
        beside.extend(cell.beside.into_iter().map(|(column, value)| ((column, row as u32), value)));
    }
    Ok(beside)
}

/// A table of the target and whose copy it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetTable {
    /// Id of the link.
    pub link_id: String,
    /// The table in the source: with the link's id, the table's owner.
    pub source: TableName,
    /// The table in the target.
    pub name: TableName,
    /// How it is to stand there, once it is made.
    pub options: TableOptions,
}

/// One life of a table within a link: a newer one has a higher run, or the same run and a higher record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// Number of the run.
    pub run: u32,
    /// Number of the record that admitted the table.
    pub record: u64,
}

/// How a table that was claimed gets its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// By a load: [`Target::begin_snapshot`]. What is there is the link's own, if anything.
    Load,
    /// By a load, too: what is there, which the link did not make, is replaced at its end.
    Replace,
    /// It has them, or most of them: [`Target::adopt`].
    Adopt,
}

/// How far a target table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The life of the table that the rows belong to.
    pub incarnation: Incarnation,
    /// All records up to this one are in the rows (meaningful from the first catch-up on, else the incarnation's record).
    pub record: u64,
    /// Whether the table is complete and in place under its name.
    pub exact: bool,
    /// Rows written since the incarnation began: loaded, inserted, updated and deleted.
    pub rows: u64,
    /// It was last moved together with other tables, and they with it: [`Target::apply_together`].
    pub grouped: bool,
}

/// A move of a table's progress, made in the transaction that moves the rows.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    /// The life of the table.
    pub incarnation: Incarnation,
    /// Progress must be at this record, else `ProgressMoved` and nothing is done.
    pub from: u64,
    /// Progress after.
    pub to: u64,
    /// The table holds everything that the source committed before this time.
    pub as_of: Option<Timestamp>,
    /// Revision of the plan that asks for it: what moved with other tables under a newer plan is not moved alone under an older.
    pub plan_revision: u64,
}

/// A table's part of a batch that is applied to several tables together.
pub struct Together<'a> {
    /// The table.
    pub table: &'a TargetTable,
    /// Its columns and key.
    pub schema: &'a TableSchema,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its progress must be at this record, else `ProgressMoved` and nothing is done to any table.
    pub from: u64,
    /// What is to be done to it, if anything.
    pub steps: Option<Steps<'a>>,
}

/// How several tables move together.
#[derive(Clone, Copy, Debug)]
pub struct Stride<'a> {
    /// The link.
    pub link_id: &'a str,
    /// Progress of all after.
    pub to: u64,
    /// All hold everything that the source committed before this time.
    pub as_of: Option<Timestamp>,
    /// As in [`Advance`].
    pub plan_revision: u64,
}

/// Why several tables could not be moved together.
#[derive(Debug)]
pub struct Apart {
    /// The table that it lies with, by its place in what was asked for; none if it concerns all.
    pub table: Option<usize>,
    /// What went wrong.
    pub error: Error,
}

/// A table in place that nothing has changed since its progress was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untouched {
    /// The table in the source.
    pub source: TableName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where its progress is.
    pub record: u64,
    /// It holds everything that the source committed before this time.
    pub as_of: Timestamp,
}

/// What is to be done to a table, step by step: a batch that is too large for memory comes in several.
pub type Steps<'a> = BoxStream<'a, Result<Step, Error>>;

/// Where values are that are too large for memory.
#[async_trait]
pub trait LargeValues: Send + Sync {
    /// What a part of the value has of it.
    async fn part(&self, value: &LargeValue, part: u32) -> Result<Bytes, Error>;
}

/// Where files lie for the while that a target's own server loads them from there.
#[async_trait]
pub trait LoadFiles: Send + Sync {
    /// Writes a file under a name that nobody else can choose.
    async fn put(&self, bytes: Bytes) -> Result<LoadFile, Error>;

    /// Removes files that are loaded. One that stays is swept.
    async fn remove(&self, files: &[LoadFile]) -> Result<(), Error>;

    /// What is wrong with a credential that the server is to read files with: it must let read and list, now, and nothing else.
    fn check_reader(&self, credential: &str) -> Result<(), Error>;
}

/// A file that is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFile {
    /// Its path for whoever wrote it.
    pub path: String,
    /// Its address for the server, without a credential.
    pub url: String,
}

/// An analytical store that holds copies of linked tables. Cheap to clone behind an `Arc`; opens connections as needed.
#[async_trait]
pub trait Target: Send + Sync {
    /// Asks whether all is as a link needs it: reachable, version, rights, room for its own tables. One check a question
    /// (`TargetReachable`, `TargetPrepared`), each failed one with the exact command that cures it.
    async fn preflight(&self) -> Vec<Check>;

    /// How a table would stand there. Nothing is made, and no table is looked at.
    async fn outline(&self, table: &TargetTable, schema: &TableSchema) -> Result<Outline, Error>;

    /// What [`Target::claim`] would say now. Nothing of it stays.
    async fn try_claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error>;

    /// Claims the table for this link before anything of it is touched: `TargetTableOwned` if another link has it,
    /// `TargetTableExists` if it is there and `onExistingTable` says Fail, `TargetTableDiffers` if that says Adopt and it cannot
    /// be. Idempotent; says the same until an incarnation has begun.
    async fn claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error>;

    /// How far the table is; none if nothing was begun.
    async fn progress(&self, table: &TargetTable) -> Result<Option<Progress>, Error>;

    /// How far each table of a link is, by its name in the source.
    async fn link_progress(&self, link_id: &str) -> Result<HashMap<TableName, Progress>, Error>;

    /// Tables without changes stay as they are while time goes on: says of each as of when it is exact now, if its progress is
    /// still where it is said to be.
    async fn touch(&self, link_id: &str, tables: &[Untouched]) -> Result<(), Error>;

    /// Makes an empty table aside to load the snapshot of this incarnation into (what lower ones left is removed; a higher
    /// one: `ProgressMoved`), unless that was done before. Returns the chunks that are loaded already.
    async fn begin_snapshot(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error>;

    /// Loads one chunk into the table aside, its row in the list of loaded chunks in the same transaction. A chunk that is
    /// loaded already, or an incarnation that is not the table's, is refused with `ProgressMoved` and changes nothing.
    /// Batches: `TableSchema::arrow_rows`. Returns the rows loaded.
    async fn load_chunk(
        &self,
        table: &TargetTable,
        schema: &TableSchema,
        incarnation: Incarnation,
        chunk: u32,
        rows: BoxStream<'static, Result<RecordBatch, Error>>,
    ) -> Result<u64, Error>;

    /// Applies changes to the table aside, where a row may be missing or there twice: deletes all rows of every key that
    /// occurs in the steps, then inserts. `unresolved` comes only once no row is missing or there twice.
    async fn catch_up(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error>;

    /// All chunks are loaded and caught up to `advance.to`: makes the key unique and puts the table in place of the one
    /// before, in one transaction. Readers never see it empty or half.
    async fn finish_snapshot(&self, table: &TargetTable, schema: &TableSchema, advance: Advance) -> Result<(), Error>;

    /// Takes over the table that stands there as this incarnation, unless that was done before: from here on it is the link's.
    /// Its rows may be missing, wrong or too many. Returns the record that it is at (a higher incarnation: `ProgressMoved`).
    async fn adopt(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<u64, Error>;

    /// Applies changes to a table that is being adopted, where it stands. Its rows may be missing, wrong or too many;
    /// `unresolved` comes only once they are not.
    async fn apply_adopting(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error>;

    /// The adopted table was compared and repaired, and all of that is in it at `advance.to`: it is exact.
    async fn finish_adoption(&self, table: &TargetTable, advance: Advance) -> Result<(), Error>;

    /// Applies changes to the table in place, in one transaction with its progress. Returns the rows written.
    async fn apply(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error>;

    /// Applies a batch to several tables in place, in one transaction with the progress of all: readers see all tables before or
    /// all after. Tables of the link that moved with others before and do not now leave the group. Returns the rows written to
    /// each.
    async fn apply_together(&self, stride: Stride<'_>, tables: Vec<Together<'_>>) -> Result<Vec<u64>, Apart>;

    /// The rows of a range of the table in place, taken together by bucket as [`crate::data`]'s `digest` defines it.
    async fn digest(&self, table: &TargetTable, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error>;

    /// The hashes of single rows of the table in place.
    async fn row_digests(&self, table: &TargetTable, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error>;

    /// The table was found equal to its source at this time: for readers to see.
    async fn verified(&self, table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> Result<(), Error>;

    /// The table left the link: forget progress and claim, remove what stands aside, and drop the table itself if `delete`.
    /// Idempotent.
    async fn forget(&self, table: &TargetTable, delete: bool) -> Result<(), Error>;

    /// The link is gone: `forget` for every table of the link that the target knows of.
    async fn release(&self, link_id: &str, delete: bool) -> Result<(), Error>;
}
