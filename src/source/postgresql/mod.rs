//! PostgreSQL 14 and newer as a source, by logical replication.
//!
//! A link has one publication and one replication slot, both named after the link's id; [`publication`] and [`slot`] make
//! and remove them, [`settle`] waits until every transaction knows of them. [`catalog`] says how tables travel; [`chunks`]
//! reads them by COPY and [`fetch`] by key; [`capture`] follows the slot's [`stream`], [`shape`] and [`evolve`] what becomes of the tables;
//! [`given_up`] lets the slot go before it does harm, and the limits of [`crate::source`] bound what all of them ask at once. All values end in the
//! builders of [`rows`], but for those that are too large for memory ([`divert`]). [`wire`] is the session below the stream and
//! COPY. [`digest`] sums up what is compared with the target.

mod assemble;
mod capture;
mod catalog;
mod chunks;
mod continuity;
mod copy;
mod digest;
mod divert;
mod evolve;
mod fetch;
mod followed;
mod given_up;
mod lsn;
mod pgoutput;
mod preflight;
mod publication;
mod replication;
mod rows;
mod settle;
mod shape;
mod slot;
mod spill;
mod stream;
mod survey;
mod values;
mod wire;

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::AtomicBool},
};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use self::{
    lsn::Lsn,
    wire::{Failure, Wire},
};
use super::{
    Admitted, Capture, CapturedTable, Chunk, ChunkPlan, ChunkRows, Error, Filled, Identity, Keep, LargeValues, ReadLimits, RetainedLog,
    Source, Surveyed,
    limits::{Kind, Limits, Permit},
};
use crate::{
    api::{database::PostgresqlDatabase, fault::Check},
    data::{Among, Digests, KeyRange, KeyTexts, Position, RowDigests, TableName, TableSchema},
    postgresql::{Connected, connect, errors, errors::Class, quote},
    secrets::Secrets,
};

/// Name of our sessions in `pg_stat_activity`.
const APPLICATION: &str = "link-operator";

/// Makes a session wait for locks only so long.
const BRIEFLY: &str = "SET lock_timeout = '3s'";

/// A PostgreSQL database as the source of a link.
#[derive(Clone)]
pub struct Postgresql {
    database: PostgresqlDatabase,
    secrets: Secrets,
    /// Name of the link's slot and publication.
    name: String,
    /// The server failed to send a transaction while it was open: the next capture takes each only after its end.
    without_streaming: Arc<AtomicBool>,
    /// A table of the link has values that come only as text: so all of the stream does.
    in_text: Arc<AtomicBool>,
    /// Of this process.
    limits: Arc<Limits>,
    /// Whom the one who waits for open transactions waits for.
    waits_for: watch::Sender<Option<String>>,
}

/// A session, and its place among those that there may be. Closed before the place is free.
struct Session {
    connected: Connected,
    _permit: Permit,
}

/// A session that speaks the protocol itself, and its place. Closed before the place is free.
struct WireSession {
    wire: Wire,
    _permit: Permit,
}

impl Session {
    /// Closes the session; its place is kept.
    fn close(self) -> Permit {
        let Self { connected, _permit: permit } = self;
        drop(connected);
        permit
    }
}

impl Deref for Session {
    type Target = Connected;

    fn deref(&self) -> &Connected {
        &self.connected
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Connected {
        &mut self.connected
    }
}

impl Postgresql {
    /// The source of the link `link_id`. Opens no connection.
    pub fn new(database: PostgresqlDatabase, secrets: Secrets, link_id: &str) -> Self {
        let digest = hex::encode(Sha256::digest(link_id.as_bytes()));
        let name = format!("link_{}", &digest[..16]);
        Self {
            database,
            secrets,
            name,
            without_streaming: Arc::default(),
            in_text: Arc::default(),
            limits: Arc::default(),
            waits_for: watch::Sender::default(),
        }
    }

    /// A session for a question.
    async fn session(&self) -> Result<Session, Error> {
        self.session_for(Kind::Question).await
    }

    async fn session_for(&self, kind: Kind) -> Result<Session, Error> {
        self.session_in(self.limits.permit(kind).await).await
    }

    async fn session_in(&self, permit: Permit) -> Result<Session, Error> {
        Ok(Session { connected: connect(&self.database, &self.secrets, APPLICATION).await?, _permit: permit })
    }

    /// A session that speaks the protocol itself, and its place.
    async fn wire(&self, permit: Permit) -> Result<WireSession, Error> {
        Ok(WireSession { wire: Wire::connect(&self.database, &self.secrets, false).await?, _permit: permit })
    }

    /// Commits a message to the log, which flushes it; says where it ends.
    async fn beat(&self) -> Result<Lsn, Error> {
        let session = self.session_for(Kind::Inner).await?;
        // Flushed here is enough: a standby's word is not waited for.
        session.batch_execute("SET synchronous_commit = local").await?;
        let row = session.query_one("SELECT pg_logical_emit_message(true, 'link-operator', '')::text", &[]).await?;
        row.get::<_, &str>(0).parse()
    }

    /// What the server knows of how `timeline` came to be.
    async fn timeline_history(&self, timeline: u32) -> Result<String, Error> {
        let _permit = self.limits.permit(Kind::Inner).await;
        replication::timeline_history(&self.database, &self.secrets, timeline).await
    }

    /// An error that a statement on a table gave.
    fn table_error(table: &TableName, failure: Failure) -> Error {
        let Failure::Refused { class, message } = failure else { return failure.general() };
        let message = format!("{table}: {message}");
        match class {
            Class::ObjectMissing => Error::SourceTableMissing(table.clone()),
            Class::Conflict => Error::SourceTableLocked(table.clone()),
            Class::ColumnMissing => Error::SchemaChanged(message),
            Class::PermissionDenied => Error::SourcePermissionDenied {
                message,
                remedy: format!("GRANT SELECT ON {} TO the user that the Secret of spec.source names", quote::table(table)),
            },
            Class::ConnectionLost => Error::SourceUnreachable(message),
            _ => Error::SourceError(message),
        }
    }
}

#[async_trait]
impl Source for Postgresql {
    async fn identity(&self) -> Result<Identity, Error> {
        continuity::identity(&*self.session().await?).await
    }

    async fn preflight(&self) -> Vec<Check> {
        preflight::preflight(self).await
    }

    async fn discover(&self) -> Result<Vec<(TableName, Option<Error>)>, Error> {
        let tables = catalog::all(&*self.session().await?).await?;
        Ok(tables.into_iter().map(|table| (table.name, table.table.err())).collect())
    }

    async fn survey(&self) -> Result<Vec<Surveyed>, Error> {
        survey::survey(&*self.session().await?).await
    }

    async fn describe(&self, table: &TableName) -> Result<TableSchema, Error> {
        Ok(catalog::describe(&*self.session().await?, table).await?.schema)
    }

    async fn begin_run(&self, owner: &str) -> Result<Position, Error> {
        // To make a slot waits for open transactions.
        let session = self.session_for(Kind::Wait).await?;
        slot::remove(&session, &self.name).await?;
        publication::remove(&session, &self.name).await?;
        publication::create(&session, &self.name, &given_up::comment(owner, None)).await?;
        Ok(slot::create(&session, &self.name).await?.position())
    }

    async fn take_over(&self, owner: &str) -> Result<(), Error> {
        given_up::take_over(&*self.session().await?, &self.name, owner).await
    }

    async fn check_continuity(&self, from: &Position, identity: &Identity) -> Result<(), Error> {
        continuity::check(self, &*self.session().await?, Lsn::from_position(from)?, identity).await
    }

    async fn admit(&self, schema: &TableSchema) -> Result<Admitted, Error> {
        let session = self.session().await?;
        publication::add(&session, &self.name, schema).await?;
        // A partition that is attached from here on is one more than are recorded.
        let shape = shape::read(&session, &[schema.object_id]).await?.remove(&schema.object_id);
        let shape = shape.ok_or_else(|| Error::SourceTableMissing(schema.name.clone()))?;
        let parts = shape.parts.into_iter().map(|part| part.part).collect();
        Ok(Admitted { from: chunks::insert_lsn(&session).await?.position(), parts })
    }

    async fn silent(&self, tables: &[TableSchema]) -> Result<Vec<TableName>, Error> {
        publication::without(&*self.session().await?, &self.name, tables).await
    }

    async fn expel(&self, table: &TableName) -> Result<(), Error> {
        publication::drop(&*self.session().await?, &self.name, table).await
    }

    async fn settle(&self, waiting: &(dyn Fn(Option<String>) + Send + Sync)) -> Result<Position, Error> {
        Ok(settle::settle(self, waiting).await?.position())
    }

    async fn plan_chunks(&self, schema: &TableSchema, chunk_bytes: u64) -> Result<ChunkPlan, Error> {
        chunks::plan(&*self.session().await?, schema, chunk_bytes).await
    }

    async fn read_chunk(&self, schema: &TableSchema, chunk: &Chunk, values: Arc<dyn LargeValues>) -> Result<ChunkRows, Error> {
        chunks::read(self, schema, chunk, values).await
    }

    async fn capture(&self, from: &Position, take_over: bool, tables: Vec<CapturedTable>, keep: Keep) -> Result<Box<dyn Capture>, Error> {
        Ok(Box::new(capture::start(self, Lsn::from_position(from)?, take_over, tables, keep).await?))
    }

    async fn fetch(&self, schema: &TableSchema, keys: &RecordBatch, after: &[u32], values: Arc<dyn LargeValues>) -> Result<Filled, Error> {
        fetch::fetch(self, schema, keys, after, values).await
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
        digest::keys(schema, keys)
    }

    async fn heartbeat(&self) -> Result<Position, Error> {
        Ok(self.beat().await?.position())
    }

    async fn head(&self) -> Result<Position, Error> {
        Ok(chunks::insert_lsn(&*self.session_for(Kind::Inner).await?).await?.position())
    }

    async fn retained_log(&self, owner: &str) -> Result<Option<RetainedLog>, Error> {
        given_up::retained(&*self.session_for(Kind::Inner).await?, &self.name, owner).await
    }

    async fn give_up(&self, above: u64, owner: &str) -> Result<Option<RetainedLog>, Error> {
        given_up::give_up(&*self.session_for(Kind::Inner).await?, &self.name, above, owner).await
    }

    fn limit(&self, limits: &ReadLimits) {
        self.limits.set(limits);
    }

    async fn release(&self) -> Result<(), Error> {
        let session = self.session().await?;
        slot::remove(&session, &self.name).await?;
        publication::remove(&session, &self.name).await
    }

    fn release_commands(&self) -> Vec<String> {
        let PostgresqlDatabase { host, port, database, .. } = &self.database;
        let name = &self.name;
        vec![
            format!("psql -h {host} -p {port} -d {database} -c \"SELECT pg_drop_replication_slot('{name}')\""),
            format!("psql -h {host} -p {port} -d {database} -c 'DROP PUBLICATION IF EXISTS {name}'"),
        ]
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let message = errors::message(&error);
        match errors::class(&error) {
            Class::ConnectionLost => Self::SourceUnreachable(message),
            Class::PermissionDenied => {
                Self::SourcePermissionDenied { message, remedy: "GRANT the right that the message names to the link's user".to_owned() }
            }
            Class::ObjectInUse => Self::SlotInUse(message),
            _ => Self::SourceError(message),
        }
    }
}
