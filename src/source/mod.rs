//! Sources: the operational databases. One folder a system, all behind [`Source`].
//!
//! A source reads tables in chunks and streams changes; it knows nothing of targets, of the landing zone or of Kubernetes.

mod chunking;
mod limits;
pub mod postgresql;
pub mod sqlserver;

use std::{sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    api::{
        database,
        fault::{Check, Explain, Fault},
    },
    connect::{CORRECT_DATABASE, CORRECT_TLS, ConnectError},
    data::{Among, Digests, KeyRange, KeyTexts, Part, Position, RowDigests, TableName, TableSchema, TableVersion},
    secrets::Secrets,
};

pub use crate::data::{Chunk, ChunkPlan, Identity};

/// What can go wrong with a source. The variant's name is the reason that users see.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("{0}")]
    SourceUnreachable(String),
    /// The server has no connection left.
    #[error("{0}")]
    TooManyConnections(String),
    /// Wrong user or password.
    #[error("{0}")]
    SourceAuthenticationFailed(String),
    /// A Secret is not there (yet).
    #[error("{0}")]
    SecretMissing(String),
    /// A Secret lacks a key.
    #[error("{0}")]
    SecretKeyMissing(String),
    /// A right is missing; the remedy has the GRANT.
    #[error("{message}")]
    SourcePermissionDenied {
        /// What is missing.
        message: String,
        /// The statement that cures it.
        remedy: String,
    },
    /// A setting of the server forbids what a link needs (`wal_level`, slots, version).
    #[error("{message}")]
    SourceNotPrepared {
        /// What is wrong.
        message: String,
        /// The statement or setting that cures it.
        remedy: String,
    },
    /// The table is not there.
    #[error("table {0} does not exist in the source")]
    SourceTableMissing(TableName),
    /// Somebody holds a lock on the table for long.
    #[error("table {0} of the source is locked by another session")]
    SourceTableLocked(TableName),
    /// The table has no key by which its rows could be known.
    #[error("table {0} has no primary key")]
    NoPrimaryKey(TableName),
    /// The table is of a sort that cannot be linked (yet).
    #[error("{message}")]
    TableNotSupported {
        /// Which table, and why.
        message: String,
        /// What to do instead.
        remedy: String,
    },
    /// The table changed in a way that its copies cannot follow.
    #[error("{0}")]
    SchemaChanged(String),
    /// The log no longer holds what was not read yet, or is not the log that was read.
    #[error("{0}")]
    PositionLost(String),
    /// The link itself gave its position up, so that the source need not keep its log any more.
    #[error("{0}")]
    PositionGivenUp(String),
    /// Somebody took the table out of the stream: what changed since is not known.
    #[error(
        "the changes of table {0} were not kept for a while (it was taken out of the publication, or is not tracked), and are not known"
    )]
    TableNotPublished(TableName),
    /// The rows of a table were moved while its chunks were read: the plan is void, the table starts over.
    #[error("{0}")]
    TableRewritten(String),
    /// What does not fit into memory cannot be kept: the fault of whoever keeps it.
    #[error("{}", .0.message)]
    ScratchFailed(Fault),
    /// The server cannot decode its log while a transaction is open (PostgreSQL 15: one that changed a table and took that back
    /// to a savepoint).
    #[error("{0}")]
    DecodingFailed(String),
    /// Another process reads the link's slot.
    #[error("{0}")]
    SlotInUse(String),
    /// What the source keeps of a table's changes begins after what was read of them: cleaned up, truncated, switched off and on.
    #[error("{0}")]
    ChangeVersionExpired(String),
    /// Nobody reads the source's log into its change tables.
    #[error("{message}")]
    CaptureNotRunning {
        /// What is missing.
        message: String,
        /// The statement that starts it.
        remedy: String,
    },
    /// Any other error that the database reports.
    #[error("{0}")]
    SourceError(String),
}

impl Error {
    /// Whether it concerns one table, and not the way to the source.
    pub fn is_of_table(&self) -> bool {
        matches!(
            self,
            Self::SourcePermissionDenied { .. }
                | Self::SourceTableMissing(_)
                | Self::SourceTableLocked(_)
                | Self::NoPrimaryKey(_)
                | Self::TableNotSupported { .. }
                | Self::SchemaChanged(_)
                | Self::TableRewritten(_)
                | Self::TableNotPublished(_)
                | Self::ChangeVersionExpired(_)
                | Self::SourceError(_)
        )
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        match error {
            ConnectError::Unreachable(_) => Self::SourceUnreachable(message),
            ConnectError::AuthenticationFailed(_) => Self::SourceAuthenticationFailed(message),
            ConnectError::SecretMissing(_) => Self::SecretMissing(message),
            ConnectError::SecretKeyMissing(_) => Self::SecretKeyMissing(message),
            ConnectError::TlsFailed(_) => Self::SourceNotPrepared { message, remedy: CORRECT_TLS.to_owned() },
            ConnectError::DatabaseMissing(_) => Self::SourceNotPrepared { message, remedy: CORRECT_DATABASE.to_owned() },
            ConnectError::TooManyConnections(_) => Self::TooManyConnections(message),
            ConnectError::Other(_) => Self::SourceError(message),
        }
    }
}

impl Explain for Error {
    fn remedy(&self) -> String {
        match self {
            Self::SourceUnreachable(_) => "check host, port and network policies, and that the database is up".to_owned(),
            Self::TooManyConnections(_) => {
                "none needed: the link goes on trying; end sessions that are not needed, or allow more (PostgreSQL: ALTER SYSTEM SET max_connections = …, then restart)"
                    .to_owned()
            }
            Self::SourceAuthenticationFailed(_) => "correct the user name or password in the Secret that spec.source names".to_owned(),
            Self::SecretMissing(_) | Self::SecretKeyMissing(_) => "create the Secret, or correct its name or keys in the spec".to_owned(),
            Self::SourcePermissionDenied { remedy, .. }
            | Self::SourceNotPrepared { remedy, .. }
            | Self::TableNotSupported { remedy, .. }
            | Self::CaptureNotRunning { remedy, .. } => remedy.clone(),
            Self::ScratchFailed(fault) => fault.remedy.clone(),
            Self::SourceTableMissing(table) => format!("create {table} in the source, or delete the LinkTable"),
            Self::SourceTableLocked(table) => format!(
                "none needed: the link goes on trying; who it is shows SELECT pid, mode FROM pg_locks WHERE relation = '{table}'::regclass (PostgreSQL), or \
                 SELECT request_session_id, request_mode FROM sys.dm_tran_locks WHERE resource_associated_entity_id = OBJECT_ID('{table}') (SQL Server)"
            ),
            Self::NoPrimaryKey(table) => format!(
                "ALTER TABLE {table} ADD PRIMARY KEY (…), or, in PostgreSQL, ALTER TABLE {table} REPLICA IDENTITY USING INDEX … with a unique index of NOT NULL columns"
            ),
            Self::SchemaChanged(_) => "reseed the table: annotate the LinkTable with link-operator.io/reseed-requested-at".to_owned(),
            Self::PositionLost(_) => "start the link over: set spec.state to Stopped, then to Running".to_owned(),
            Self::PositionGivenUp(_) => "none needed: all tables are loaded anew".to_owned(),
            Self::TableRewritten(_) => "none needed: the table's snapshot starts over".to_owned(),
            Self::ChangeVersionExpired(_) => {
                "none needed: the table is loaded anew; keep changes longer than the longest pause of the link".to_owned()
            }
            Self::TableNotPublished(_) => "none needed: the table's load starts over; leave the publication to the link, and change tracking or capture on".to_owned(),
            Self::DecodingFailed(_) => "none needed: the log is read again, large transactions only once they have ended".to_owned(),
            Self::SlotInUse(_) => "none needed if a worker was just replaced; else end the other reader of the slot".to_owned(),
            Self::SourceError(_) => "read the message; the link goes on trying".to_owned(),
        }
    }

    fn heals(&self) -> bool {
        if let Self::ScratchFailed(fault) = self {
            return fault.heals;
        }
        !matches!(
            self,
            Self::SourcePermissionDenied { .. }
                | Self::SourceNotPrepared { .. }
                | Self::SourceTableMissing(_)
                | Self::NoPrimaryKey(_)
                | Self::TableNotSupported { .. }
                | Self::SchemaChanged(_)
                | Self::PositionLost(_)
        )
    }

    fn fault(&self) -> Fault {
        if let Self::ScratchFailed(fault) = self {
            return fault.clone();
        }
        let reason: &'static str = self.into();
        Fault { reason: reason.to_owned(), message: self.to_string(), remedy: self.remedy(), heals: self.heals() }
    }
}

/// The source that `spec.source` names, for the link `link_id`. Opens no connection.
pub fn open(source: &database::Source, secrets: &Secrets, link_id: &str) -> Result<Arc<dyn Source>, Error> {
    match source {
        database::Source { postgresql: Some(database), .. } => {
            Ok(Arc::new(postgresql::Postgresql::new(database.clone(), secrets.clone(), link_id)))
        }
        database::Source { sql_server: Some(database), .. } => Ok(Arc::new(sqlserver::SqlServer::new(database.clone(), secrets.clone()))),
        database::Source { postgresql: None, sql_server: None } => {
            Err(Error::SourceError("spec.source names no system that this version knows".to_owned()))
        }
    }
}

/// The log that a source keeps for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLog {
    /// How much it is.
    pub bytes: u64,
    /// How much may be written before the source drops it, by a setting of its own, whoever needs it; none if it never does.
    pub room: Option<u64>,
}

/// What one process may ask of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLimits {
    /// Connections at once.
    pub connections: Option<u32>,
    /// Bytes per second that snapshots read.
    pub snapshot_rate: Option<u64>,
}

/// How large a table is by the statistics that its server keeps, as far as it has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: Option<u64>,
    /// Bytes, indexes left out.
    pub bytes: Option<u64>,
}

/// A table of a source.
#[derive(Debug)]
pub struct Surveyed {
    /// Its name.
    pub name: TableName,
    /// How it is, or why it cannot be linked.
    pub table: Result<TableSchema, Error>,
    /// How large it is.
    pub size: Size,
}

/// The rows of one chunk.
pub struct ChunkRows {
    /// Position of the source after the chunk's database snapshot was taken; flushed. Changes up to it may be in the rows.
    pub read_at: Position,
    /// Batches of `TableSchema::arrow_rows`.
    pub rows: BoxStream<'static, Result<RecordBatch, Error>>,
}

/// A table that a capture follows.
#[derive(Clone, Debug)]
pub struct CapturedTable {
    /// Number of the table in the run.
    pub id: u32,
    /// How it is by the newest version that is recorded.
    pub version: TableVersion,
    /// Its changes are delivered from here on. Before, the stream may have had some of them and not others: from when it was
    /// in the link already, and left.
    pub from: Position,
}

/// Where a batch may end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Do not end before this (the flush interval), unless the batch is full.
    pub not_before: tokio::time::Instant,
    /// Return by then even without a change.
    pub idle: Duration,
    /// End at the next transaction's end once the cut holds this many bytes, or within a transaction that is larger.
    pub bytes: usize,
}

/// All that the source committed since the cut before, or a part of it.
#[derive(Debug)]
pub struct Cut {
    /// Whether a batch may end here. If not, a transaction that is larger than [`Limits::bytes`] goes on in the next cut;
    /// nothing of it may be committed before its end has come.
    pub whole: bool,
    /// End of the last transaction in it, or how far the log is known to hold nothing for us.
    pub to: Position,
    /// The source's commit time of the last transaction; of an empty cut: the time at which the source said so.
    pub time: Option<Timestamp>,
    /// The transactions in it, for [`Source::fetch`].
    pub transactions: Vec<u32>,
    /// What happened, a table an entry, by id.
    pub tables: Vec<CutTable>,
    /// Tables that changed in a way that ends their replication; nothing of them after the change is in `tables`.
    pub broken: Vec<(u32, Error)>,
}

/// What happened to one table, in order.
#[derive(Debug)]
pub struct CutTable {
    /// Number of the table in the run.
    pub id: u32,
    /// In commit order.
    pub segments: Vec<Segment>,
}

/// A run of changes of one table.
#[derive(Debug)]
pub enum Segment {
    /// A batch of `TableSchema::arrow_changes`.
    Rows(RecordBatch),
    /// The table was truncated.
    Truncate,
    /// The table has another shape from here on.
    Version(Box<TableVersion>),
}

/// Where a capture keeps what it cannot hold in memory, while it lasts. Names are its own to choose.
#[async_trait]
pub trait Scratch: Send + Sync {
    /// Keeps this.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error>;

    /// What was kept under that name.
    async fn get(&self, name: &str) -> Result<Bytes, Error>;

    /// It is no longer needed. What cannot be deleted now goes later.
    async fn delete(&self, names: &[String]);
}

/// Where a capture keeps what is not in memory.
#[derive(Clone)]
pub struct Keep {
    /// Open transactions.
    pub scratch: Arc<dyn Scratch>,
    /// Large values.
    pub values: Arc<dyn LargeValues>,
}

/// Where values are kept that are too large for memory.
#[async_trait]
pub trait LargeValues: Send + Sync {
    /// A path that no other value has.
    fn path(&self) -> String;

    /// Keeps a part of the value at `path`.
    async fn put(&self, path: &str, part: u32, bytes: Bytes) -> Result<(), Error>;
}

/// A stream of changes.
#[async_trait]
pub trait Capture: Send {
    /// The tables to deliver from now on; changes of others are dropped. Called between cuts.
    fn follow(&mut self, tables: Vec<CapturedTable>);

    /// Reads to the next place where a batch may end, or as much of a large transaction as `limits` allows. Dropping the future
    /// loses the capture.
    async fn next_cut(&mut self, limits: Limits) -> Result<Cut, Error>;

    /// Compares the tables with what the database says they are now; what it finds is in the next cut. Does nothing within a
    /// transaction that is still arriving.
    async fn compare(&mut self) -> Result<(), Error>;

    /// Nothing up to here is needed from the source any more.
    async fn acknowledge(&mut self, position: &Position) -> Result<(), Error>;
}

/// A table that was let into the stream.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// From here on, all its changes are in the stream.
    pub from: Position,
    /// What held its rows then, or later.
    pub parts: Vec<Part>,
}

/// Rows read by key after a change, to fill in what the change did not carry.
pub struct Filled {
    /// Rows found, in any order. Schema: `TableSchema::arrow_rows`.
    pub rows: RecordBatch,
    /// Position of the source after reading.
    pub read_at: Position,
}

/// An operational database whose tables are linked. Cheap to clone behind an `Arc`; opens connections as needed.
#[async_trait]
pub trait Source: Send + Sync {
    /// What the database says it is.
    async fn identity(&self) -> Result<Identity, Error>;

    /// Asks whether all is as a link needs it: reachable, version, settings, rights. One check a question
    /// (`SourceReachable`, `SourcePrepared`), each failed one with the exact command that cures it.
    async fn preflight(&self) -> Vec<Check>;

    /// The tables of the database, each with what stands against its being linked. Cheap: it looks at the catalog alone.
    async fn discover(&self) -> Result<Vec<(TableName, Option<Error>)>, Error>;

    /// The same tables as they are, with their sizes. As cheap.
    async fn survey(&self) -> Result<Vec<Surveyed>, Error>;

    /// How a table is now; refuses tables that cannot be linked, with the reason.
    async fn describe(&self, table: &TableName) -> Result<TableSchema, Error>;

    /// Makes what a new run needs (PostgreSQL: publication and slot), replacing what an earlier run left, and says from
    /// where changes will come. Writes beside it whose it is: `owner` is the UID of the LinkConnection.
    async fn begin_run(&self, owner: &str) -> Result<Position, Error>;

    /// What the run of a former LinkConnection made is from now on that of this one, whose UID is `owner`.
    async fn take_over(&self, owner: &str) -> Result<(), Error>;

    /// Whether the log still continues at `from` (DESIGN 5.4): the same system, a history that includes `from`, nothing
    /// trimmed or forwarded past it. Else `PositionLost`, saying which.
    async fn check_continuity(&self, from: &Position, identity: &Identity) -> Result<(), Error>;

    /// Lets changes of the table into the stream. Idempotent.
    async fn admit(&self, schema: &TableSchema) -> Result<Admitted, Error>;

    /// Those of the tables whose changes are not in the stream.
    async fn silent(&self, tables: &[TableSchema]) -> Result<Vec<TableName>, Error>;

    /// The table is no longer in the stream. Idempotent; the table may be gone.
    async fn expel(&self, table: &TableName) -> Result<(), Error>;

    /// The double wait of DESIGN 5.3: waits out all transactions that began before now, takes the position v0, waits them
    /// out again. `waiting` is told whom it waits for. Every change committed after v0 is in the stream, everything up to
    /// it is visible to whoever reads after this returns.
    async fn settle(&self, waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Result<Position, Error>;

    /// Cuts a table into chunks of about `chunk_bytes`; call after `settle`.
    async fn plan_chunks(&self, schema: &TableSchema, chunk_bytes: u64) -> Result<ChunkPlan, Error>;

    /// Reads one chunk; `TableRewritten` when the plan is void, `SchemaChanged` when the table is no longer as `schema`.
    async fn read_chunk(&self, schema: &TableSchema, chunk: &Chunk, values: Arc<dyn LargeValues>) -> Result<ChunkRows, Error>;

    /// Streams changes of the tables from `from` on. Ends another reader of the link's slot only if `take_over`.
    async fn capture(&self, from: &Position, take_over: bool, tables: Vec<CapturedTable>, keep: Keep) -> Result<Box<dyn Capture>, Error>;

    /// Reads rows by key, as they are after all of these transactions: their changes may be in the stream a moment before
    /// others see them. `keys`: a batch of `TableSchema::arrow_keys`.
    async fn fetch(&self, schema: &TableSchema, keys: &RecordBatch, after: &[u32], values: Arc<dyn LargeValues>) -> Result<Filled, Error>;

    /// The end of the range of about `rows` rows that begins after `after`; none if it is the table's last.
    async fn cut_range(&self, schema: &TableSchema, after: Option<&KeyTexts>, rows: u64) -> Result<Option<KeyTexts>, Error>;

    /// The rows of a range, taken together by bucket as [`crate::data`]'s `digest` defines it.
    async fn digest(&self, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error>;

    /// The hashes of single rows.
    async fn row_digests(&self, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error>;

    /// Keys as `row_digests` of source or target give them, as a batch of `TableSchema::arrow_keys`.
    fn keys(&self, schema: &TableSchema, keys: &[KeyTexts]) -> Result<RecordBatch, Error>;

    /// Makes the log move on, so that an idle database does not hold it back, and says where its end is.
    async fn heartbeat(&self) -> Result<Position, Error>;

    /// The end of the log now; writes nothing.
    async fn head(&self) -> Result<Position, Error>;

    /// The log that is kept for this link; none if it has no position, or if another's run began under the link's id.
    /// `PositionLost` if it is kept no longer, `PositionGivenUp` if the link gave it up.
    async fn retained_log(&self, owner: &str) -> Result<Option<RetainedLog>, Error>;

    /// Gives the link's position up if more than so many bytes of log are kept for it: leaves a mark in the source that says why,
    /// until the next run begins, and lets the source drop the log. No capture begins where the mark is. Where it was left before,
    /// drops what whoever left it did not come to. Answers as `retained_log` does.
    async fn give_up(&self, above: u64, owner: &str) -> Result<Option<RetainedLog>, Error>;

    /// From now on, these bound what this process asks of the source.
    fn limit(&self, limits: &ReadLimits);

    /// Removes all that the link made in the source. Idempotent.
    async fn release(&self) -> Result<(), Error>;

    /// The commands by which a person removes what the link made, for when it cannot be reached.
    fn release_commands(&self) -> Vec<String>;
}
