//! SQL Server 2016 and newer, Azure SQL Database and SQL Managed Instance as a source, by Change Tracking or by change data
//! capture.
//!
//! A link makes nothing in the source: a person switches on what keeps the changes, the link reads it. [`catalog`] says how tables
//! are, [`eligible`] which can be linked and how they travel, [`evolve`] what became of them; [`chunks`] reads them by ranges of
//! [`keys`] and [`fetch`] by key, [`digest`] sums up what is compared with the target. [`tracking`] and [`cdc`] follow the changes;
//! [`kept`] says whether Change Tracking still has them. Whatever belongs together is read in one SNAPSHOT transaction, in which
//! nothing waits for a lock and no writer waits for us. [`position`] says where changes are.

mod catalog;
mod cdc;
mod chunks;
mod continuity;
mod digest;
mod discover;
mod eligible;
mod evolve;
mod fetch;
#[cfg(test)]
mod golden;
mod kept;
mod keys;
mod position;
mod preflight;
mod rows;
mod tracking;

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::{
    Admitted, Capture, CapturedTable, Chunk, ChunkPlan, ChunkRows, Error, Filled, Identity, Keep, LargeValues, ReadLimits, RetainedLog,
    Source, Surveyed,
    limits::{Kind, Limits, Permit},
};
use crate::{
    api::{
        database::{CaptureMode, SqlServerSource},
        fault::Check,
    },
    data::{Among, Digests, KeyRange, KeyTexts, Position, RowDigests, TableName, TableSchema},
    secrets::Secrets,
    sqlserver::{self, Class, Failure, quote},
};

/// Name of our sessions in `sys.dm_exec_sessions`.
const APPLICATION: &str = "link-operator";

/// Begins a transaction that sees the database as it is at its first read, and waits for nobody.
const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION";

/// A SQL Server database as the source of a link.
#[derive(Clone)]
pub struct SqlServer {
    spec: SqlServerSource,
    secrets: Secrets,
    /// Of this process.
    limits: Arc<Limits>,
}

/// A session, and its place among those that there may be. Closed before the place is free.
struct Session {
    inner: sqlserver::Session,
    _permit: Permit,
}

impl Deref for Session {
    type Target = sqlserver::Session;

    fn deref(&self) -> &sqlserver::Session {
        &self.inner
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut sqlserver::Session {
        &mut self.inner
    }
}

impl SqlServer {
    /// The source that `spec` names. Opens no connection.
    pub fn new(spec: SqlServerSource, secrets: Secrets) -> Self {
        Self { spec, secrets, limits: Arc::default() }
    }

    fn mode(&self) -> CaptureMode {
        self.spec.capture_mode
    }

    /// A session for a question.
    async fn session(&self) -> Result<Session, Error> {
        self.session_for(Kind::Question).await
    }

    async fn session_for(&self, kind: Kind) -> Result<Session, Error> {
        let permit = self.limits.permit(kind).await;
        Ok(Session { inner: sqlserver::connect(&self.spec.database, &self.secrets, APPLICATION).await?, _permit: permit })
    }

    /// A session that reads in a SNAPSHOT transaction, which ends with it.
    async fn snapshot(&self, kind: Kind) -> Result<Session, Error> {
        let mut session = self.session_for(kind).await?;
        session.run(SNAPSHOT).await?;
        Ok(session)
    }
}

/// An error that a statement on a table gave.
fn table_error(table: &TableName, failure: Failure) -> Error {
    let message = format!("{table}: {}", failure.message);
    match failure.class {
        Class::ObjectMissing => Error::SourceTableMissing(table.clone()),
        // Lock request time out: whoever alters the table holds Sch-M, for which also a SNAPSHOT read waits.
        Class::Conflict if failure.number == 1222 => Error::SourceTableLocked(table.clone()),
        Class::ColumnMissing => Error::SchemaChanged(message),
        Class::PermissionDenied => Error::SourcePermissionDenied {
            message,
            remedy: format!("GRANT SELECT ON {} TO the user that the Secret of spec.source names", quote::table(table)),
        },
        _ => failure.into(),
    }
}

/// The rows of a question about the server, not about a table.
fn unexpected(what: &str) -> Error {
    Error::SourceError(format!("the server did not say {what}"))
}

#[async_trait]
impl Source for SqlServer {
    async fn identity(&self) -> Result<Identity, Error> {
        continuity::identity(&mut *self.session().await?).await
    }

    async fn preflight(&self) -> Vec<Check> {
        preflight::preflight(self).await
    }

    async fn describe(&self, table: &TableName) -> Result<TableSchema, Error> {
        Ok(catalog::describe(&mut *self.session().await?, self.mode(), table).await?.schema)
    }

    /// Nothing is made in the source.
    /// It makes nothing that would say whose it is.
    async fn take_over(&self, _owner: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn begin_run(&self, _owner: &str) -> Result<Position, Error> {
        position::now(&mut *self.session().await?, self.mode()).await
    }

    async fn check_continuity(&self, from: &Position, identity: &Identity) -> Result<(), Error> {
        continuity::check(&mut *self.session().await?, self.mode(), from, identity).await
    }

    /// What keeps the table's changes was switched on by a person; without it the table is not described.
    async fn admit(&self, schema: &TableSchema) -> Result<Admitted, Error> {
        let mut session = self.session().await?;
        let table = catalog::describe(&mut session, self.mode(), &schema.name).await?;
        if !evolve::same_rows(schema, &table.schema) {
            return Err(Error::SchemaChanged(format!("{} is no longer as it was when it joined", schema.name)));
        }
        let now = position::now(&mut session, self.mode()).await?;
        Ok(Admitted { from: now.max(table.changes_from.clone()), parts: vec![table.part()] })
    }

    async fn silent(&self, tables: &[TableSchema]) -> Result<Vec<TableName>, Error> {
        catalog::silent(&mut *self.session().await?, self.mode(), tables).await
    }

    /// Others may need what keeps the table's changes.
    async fn expel(&self, _table: &TableName) -> Result<(), Error> {
        Ok(())
    }

    /// Nobody is waited for. A version, and the log's place of a commit, are given when a transaction commits, in the order of the
    /// commits: one that is open now gets a later one, so its changes are in the stream. And what was said to be committed by a
    /// SNAPSHOT transaction is visible to every later one.
    async fn settle(&self, _waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Result<Position, Error> {
        let mut session = self.snapshot(Kind::Question).await?;
        position::now(&mut session, self.mode()).await
    }

    async fn plan_chunks(&self, schema: &TableSchema, chunk_bytes: u64) -> Result<ChunkPlan, Error> {
        chunks::plan(self, schema, chunk_bytes).await
    }

    /// Values of any size are held in memory: the driver gives none in parts.
    async fn read_chunk(&self, schema: &TableSchema, chunk: &Chunk, _values: Arc<dyn LargeValues>) -> Result<ChunkRows, Error> {
        chunks::read(self, schema, chunk).await
    }

    async fn capture(&self, from: &Position, _take_over: bool, tables: Vec<CapturedTable>, _keep: Keep) -> Result<Box<dyn Capture>, Error> {
        Ok(match self.mode() {
            CaptureMode::ChangeTracking => Box::new(tracking::start(self, from, tables).await?),
            CaptureMode::ChangeDataCapture => Box::new(cdc::start(self, from, tables).await?),
        })
    }

    /// Every change carries whole rows, so nobody waits for transactions: only a repair asks, for rows as they are.
    async fn fetch(
        &self,
        schema: &TableSchema,
        keys: &RecordBatch,
        _after: &[u32],
        _values: Arc<dyn LargeValues>,
    ) -> Result<Filled, Error> {
        fetch::fetch(self, schema, keys).await
    }

    async fn cut_range(&self, schema: &TableSchema, after: Option<&KeyTexts>, rows: u64) -> Result<Option<KeyTexts>, Error> {
        digest::cut(self, schema, after, rows).await
    }

    async fn digest(&self, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
        digest::digest(self, schema, range).await
    }

    async fn row_digests(&self, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
        digest::rows(self, schema, among).await
    }

    fn keys(&self, schema: &TableSchema, keys: &[KeyTexts]) -> Result<RecordBatch, Error> {
        keys::read(schema, keys)
    }

    async fn heartbeat(&self) -> Result<Position, Error> {
        self.head().await
    }

    async fn head(&self) -> Result<Position, Error> {
        position::now(&mut *self.session_for(Kind::Inner).await?, self.mode()).await
    }

    /// Change tables are kept for a time, whoever reads them: no log is.
    async fn retained_log(&self, _owner: &str) -> Result<Option<RetainedLog>, Error> {
        Ok(None)
    }

    async fn give_up(&self, _above: u64, _owner: &str) -> Result<Option<RetainedLog>, Error> {
        Ok(None)
    }

    fn limit(&self, limits: &ReadLimits) {
        self.limits.set(limits);
    }

    async fn discover(&self) -> Result<Vec<(TableName, Option<Error>)>, Error> {
        discover::discover(self).await
    }

    async fn survey(&self) -> Result<Vec<Surveyed>, Error> {
        discover::survey(self).await
    }

    async fn release(&self) -> Result<(), Error> {
        Ok(())
    }

    fn release_commands(&self) -> Vec<String> {
        Vec::new()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { number, class, message } = failure;
        match class {
            Class::ConnectionLost => Self::SourceUnreachable(message),
            Class::AuthenticationFailed => Self::SourceAuthenticationFailed(message),
            Class::ResourcesExhausted => Self::TooManyConnections(message),
            Class::PermissionDenied => {
                Self::SourcePermissionDenied { message, remedy: "GRANT the right that the message names to the link's user".to_owned() }
            }
            Class::SnapshotNotAllowed => Self::SourceNotPrepared { message, remedy: preflight::ALLOW_SNAPSHOT.to_owned() },
            // Change tracking is not kept on a secondary; a database that is read only says 3906.
            _ if matches!(number, 22117 | 3906) => Self::SourceNotPrepared { message, remedy: preflight::USE_PRIMARY.to_owned() },
            _ => Self::SourceError(message),
        }
    }
}
