//! The Synapse dedicated SQL pool as a target.
//!
//! The pool loads rows by itself: [`file`] writes them as it can read them, and [`copy`] has it load them from the landing zone into
//! tables of the session's own. From there [`merge`] moves changes and [`snapshot`] chunks, each in one transaction that begins with
//! the table's progress ([`progress`]). [`shape`] says how a table stands there. What does not fit into a transaction of a pool, all
//! DDL, comes before or after it and can be done again.

mod copy;
mod file;
#[cfg(test)]
mod golden;
mod merge;
mod preflight;
mod progress;
mod shape;
mod snapshot;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use arrow::array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use jiff::Timestamp;
use tokio::sync::OnceCell;

use self::{
    copy::{Loading, Staging},
    merge::{Place, Prepared, Sql},
    preflight::Readable,
    progress::BEGIN,
};
use super::{
    Advance, Apart, Claim, Error, Incarnation, LoadFiles, Outline, Progress, Steps, Stride, Target, TargetTable, Together, Untouched,
    aside, besides,
    tds::{digest, kind, pool::Pool, together, transaction::Transaction},
};
use crate::{
    api::{
        database::{CopyAuth, OnExistingTable, SynapseTarget},
        fault::Check,
    },
    data::{Among, Besides, Digests, KeyRange, RowDigests, TableName, TableSchema},
    failpoint::{self, Point},
    secrets::Secrets,
    sqlserver::{POOL_SETTINGS, Session},
};

/// How long a check waits for the pool to load a file; what it finds later, the next check says.
const READS_WITHIN: Duration = Duration::from_secs(4);

/// A Synapse dedicated SQL pool that holds copies of linked tables.
pub struct Synapse {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    on_existing: OnExistingTable,
    auth: CopyAuth,
    secrets: Secrets,
    files: Option<Arc<dyn LoadFiles>>,
    /// The pool's own collation.
    collation: OnceCell<String>,
    readable: Readable,
}

/// Asks for the pool's collation.
const COLLATION: &str = "SELECT CONVERT(nvarchar(128), DATABASEPROPERTYEX(DB_NAME(), 'Collation'))";

impl Synapse {
    /// The target of a link. Opens no connection yet. `files`: where the pool finds what it is to load; without, it takes no rows.
    pub fn new(target: SynapseTarget, secrets: Secrets, link_id: &str, files: Option<Arc<dyn LoadFiles>>) -> Self {
        let application = format!("link-operator {link_id}");
        let pool = Pool::new(target.database, secrets.clone(), application, POOL_SETTINGS);
        let (collation, readable) = (OnceCell::new(), Readable::default());
        let inner = Inner { pool, on_existing: target.on_existing_table, auth: target.copy_auth, secrets, files, collation, readable };
        Self { inner: Arc::new(inner) }
    }
}

impl Inner {
    async fn collation(&self, session: &mut Session) -> Result<&str, Error> {
        let ask = async || -> Result<String, Error> {
            let rows = session.query(COLLATION).await?;
            Ok(rows.first().and_then(|row| row.text(0)).unwrap_or_default())
        };
        self.collation.get_or_try_init(ask).await.map(String::as_str)
    }

    fn loading(&self) -> Result<Loading<'_>, Error> {
        let files = self.files.as_deref().ok_or_else(|| Error::InputFailed("there is no landing zone to load files from".to_owned()))?;
        Ok(Loading { files, auth: &self.auth, secrets: &self.secrets })
    }

    /// A session, once nothing but other tables can stand against the claim.
    async fn check_claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Session, Error> {
        if self.on_existing == OnExistingTable::Adopt {
            return Err(not_adopted(table));
        }
        let mut session = self.pool.get().await?;
        let collation = self.collation(&mut session).await?;
        shape::check(schema, &shape::kinds(schema, collation), &table.options)?;
        kind::check_key(schema, kind::Types::default())?;
        preflight::check_schema(&mut session, &table.name.schema_name).await?;
        Ok(session)
    }

    /// Whether the pool can load a file of the landing zone.
    async fn reads(&self) -> Option<Check> {
        let asked = async {
            let mut session = self.pool.get().await?;
            copy::probe(&mut session, &self.loading()?).await?;
            self.pool.put(session);
            Ok(())
        };
        let answer = asked.await;
        // Of a pool that is paused or away, another check tells.
        (!matches!(answer, Err(Error::TargetUnreachable(_)))).then(|| preflight::readable(answer, self.auth.managed_identity.is_some()))
    }

    /// Stages the changes of a table that is where it is thought to be.
    async fn prepare(
        &self,
        session: &mut Session,
        place: &Place<'_>,
        schema: &TableSchema,
        steps: Steps<'_>,
        at: (u64, bool),
        number: usize,
    ) -> Result<Prepared, Error> {
        // Who is late by now need not load: the transaction would say so in the end.
        let progress = progress::progress(session, place.table).await?;
        if !progress.is_some_and(|p| p.incarnation == place.incarnation && (p.record, p.exact) == at) {
            return Err(progress::moved(place.table, &format!("it is not at record {} of incarnation {:?}", at.0, place.incarnation)));
        }
        merge::prepare(session, place, schema, steps, &self.loading()?, number).await
    }

    /// Stages changes, and moves them and the table's progress in one transaction. `exact`: what the table must be.
    async fn change(
        &self,
        table: &TargetTable,
        name: &TableName,
        schema: &TableSchema,
        advance: Advance,
        steps: Steps<'_>,
        exact: bool,
    ) -> Result<u64, Error> {
        let mut session = self.pool.get().await?;
        let collation = self.collation(&mut session).await?;
        let place = Place { table, incarnation: advance.incarnation, name, collation };
        let prepared = self.prepare(&mut session, &place, schema, steps, (advance.from, exact), 0).await?;
        let mut transaction = Transaction::begin(session, BEGIN).await?;
        progress::advance(&mut transaction, table, &advance, exact, false).await?;
        let rows = prepared.apply(&mut transaction).await?;
        transaction.run(&progress::count(table, rows)).await?;
        let session = failpoint::around(Point::TargetCommit, transaction.commit()).await?;
        self.put(session, &[prepared]).await;
        Ok(rows)
    }

    /// Keeps a session whose staged changes are moved. One that cannot drop them is closed, and they go with it.
    async fn put(&self, mut session: Session, prepared: &[Prepared]) {
        for prepared in prepared {
            if prepared.drop(&mut session).await.is_err() {
                return;
            }
        }
        self.pool.put(session);
    }

    async fn forget(&self, table: &TargetTable, delete: bool) -> Result<(), Error> {
        let mut session = self.pool.get().await?;
        if progress::is_made(&mut session).await?
            && let Some(claimed) = progress::read_claimed(&mut session, table).await?
        {
            let claimed_table = TargetTable { name: claimed.name.clone(), ..table.clone() };
            progress::put_back(&mut session, &claimed_table).await?;
            progress::drop_asides(&mut session, table).await?;
            let mut gone = None;
            if delete
                && let Some(existing) = progress::existing(&mut session, &claimed.name).await?
                && existing.made_by(table, claimed.placed)
            {
                progress::dropped(session.run(&progress::drop(&claimed.name)).await)?;
                gone = Some(existing.object_id);
            }
            let mut transaction = Transaction::begin(session, BEGIN).await?;
            transaction.run(&progress::forget_rows(table)).await?;
            transaction.run(&progress::forget_columns(table)).await?;
            if let Some(object_id) = gone {
                transaction.run(&progress::forget_mark(object_id)).await?;
            }
            session = transaction.commit().await?;
        }
        self.pool.put(session);
        Ok(())
    }
}

/// Runs `$body` with a pooled session, which is kept if it ends well.
macro_rules! session {
    ($self:ident, |$session:ident| $body:expr) => {{
        let mut $session = $self.inner.pool.get().await?;
        let result = $body;
        $self.inner.pool.put($session);
        result
    }};
}

#[async_trait]
impl Target for Synapse {
    async fn preflight(&self) -> Vec<Check> {
        let mut checks = match self.inner.pool.get().await {
            Ok(mut session) => preflight::checks(&mut session).await,
            Err(error) => return vec![preflight::failed("TargetReachable", &Error::from(error))],
        };
        if self.inner.files.is_some() && checks.iter().all(|check| check.fault.is_none()) {
            if self.inner.readable.asks() {
                let inner = self.inner.clone();
                let asked = tokio::spawn(async move {
                    let answer = inner.reads().await;
                    inner.readable.answer(answer);
                });
                // What takes longer goes on by itself.
                let _ = tokio::time::timeout(READS_WITHIN, asked).await;
            }
            checks.extend(self.inner.readable.last());
        }
        checks
    }

    async fn outline(&self, table: &TargetTable, schema: &TableSchema) -> Result<Outline, Error> {
        let kinds = session!(self, |session| shape::kinds(schema, self.inner.collation(&mut session).await?));
        let statements = vec![shape::create_table(&table.name, schema, &kinds, &table.options)];
        Ok(Outline { columns: shape::outline(schema, &kinds), statements })
    }

    async fn try_claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        let mut session = self.inner.check_claim(table, schema).await?;
        if !progress::is_made(&mut session).await? {
            // Nobody has claimed anything yet; what a link made is not known either.
            return match progress::found(&mut session, &table.name).await? {
                None => Ok(Claim::Load),
                Some((_, true)) if self.inner.on_existing == OnExistingTable::Recreate => Ok(Claim::Replace),
                Some(_) => Err(Error::TargetTableExists(table.name.clone())),
            };
        }
        // Dropped and not committed: the session ends, and takes all of it back.
        let mut transaction = Transaction::begin(session, BEGIN).await?;
        transaction.run(progress::LOCK_CLAIMS).await?;
        if let Some(before) = progress::renamed(&mut transaction, table).await? {
            transaction.run(&progress::forget_rows(&before)).await?;
        }
        progress::take_name(&mut transaction, table, self.inner.on_existing).await
    }

    async fn claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        let mut session = self.inner.check_claim(table, schema).await?;
        progress::ensure(&mut session).await?;
        if let Some(before) = progress::renamed(&mut session, table).await? {
            self.inner.forget(&before, false).await?;
        }
        let mut transaction = Transaction::begin(session, BEGIN).await?;
        // Claimants come one after the other: whom each meets is certain.
        transaction.run(progress::LOCK_CLAIMS).await?;
        let claim = progress::take_name(&mut transaction, table, self.inner.on_existing).await?;
        self.inner.pool.put(transaction.commit().await?);
        Ok(claim)
    }

    async fn progress(&self, table: &TargetTable) -> Result<Option<Progress>, Error> {
        Ok(session!(self, |session| progress::progress(&mut session, table).await?))
    }

    async fn link_progress(&self, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
        Ok(session!(self, |session| progress::all(&mut session, link_id).await?))
    }

    async fn touch(&self, link_id: &str, tables: &[Untouched]) -> Result<(), Error> {
        if !tables.is_empty() {
            session!(self, |session| session.run(&together::touch(link_id, tables)).await?);
        }
        Ok(())
    }

    async fn begin_snapshot(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error> {
        let mut session = self.inner.pool.get().await?;
        let progress = progress::progress(&mut session, table).await?;
        // First without the lock: this is asked again and again while chunks load, and their moves hold it.
        let begun = snapshot::begun(&mut session, table, incarnation, progress).await?;
        let chunks = if let Some(chunks) = begun {
            chunks
        } else {
            let collation = self.inner.collation(&mut session).await?;
            shape::check(schema, &shape::kinds(schema, collation), &table.options)?;
            snapshot::clear(&mut session, table, incarnation).await?;
            session = snapshot::begin(Transaction::begin(session, BEGIN).await?, table, incarnation).await?;
            snapshot::make(&mut session, table, schema, collation, incarnation).await?;
            progress::chunks(&mut session, table, incarnation).await?
        };
        self.inner.pool.put(session);
        Ok(chunks)
    }

    async fn load_chunk(
        &self,
        table: &TargetTable,
        schema: &TableSchema,
        incarnation: Incarnation,
        chunk: u32,
        rows: BoxStream<'static, Result<RecordBatch, Error>>,
    ) -> Result<u64, Error> {
        let mut session = self.inner.pool.get().await?;
        snapshot::check_chunk(&mut session, table, incarnation, chunk).await?;
        let (collation, loading) = (self.inner.collation(&mut session).await?, self.inner.loading()?);
        let build = aside::build_name(table, incarnation);
        let sql = Sql::new(&build, schema.clone(), collation, &table.options);
        let staged = "#link_chunk";
        session.run(&sql.create_staged(staged)).await?;
        let count = schema.columns.len();
        let batches = rows.map(move |batch| batch.and_then(|batch| columns(&batch, count))).boxed();
        let loaded = Staging::new(&loading, staged, sql.staged_columns(), &table.name.to_string()).load(&mut session, batches).await?;
        let transaction = Transaction::begin(session, BEGIN).await?;
        session = snapshot::move_chunk(transaction, table, incarnation, chunk, loaded, &sql.insert(staged)).await?;
        if session.run(&format!("DROP TABLE {staged}")).await.is_ok() {
            self.inner.pool.put(session);
        }
        Ok(loaded)
    }

    async fn catch_up(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        let build = aside::build_name(table, advance.incarnation);
        self.inner.change(table, &build, schema, advance, steps, false).await
    }

    async fn finish_snapshot(&self, table: &TargetTable, schema: &TableSchema, advance: Advance) -> Result<(), Error> {
        let mut session = self.inner.pool.get().await?;
        let collation = self.inner.collation(&mut session).await?;
        let sql = Sql::new(&aside::build_name(table, advance.incarnation), schema.clone(), collation, &table.options);
        let placed = snapshot::place(&mut session, table, &sql, &advance, self.inner.on_existing).await?;
        session = snapshot::finish(Transaction::begin(session, BEGIN).await?, table, &advance, &placed).await?;
        // The next load drops it if this does not.
        match progress::drop_asides(&mut session, table).await {
            Ok(()) => self.inner.pool.put(session),
            Err(error) => tracing::warn!(table = %table.name, %error, "the table that was replaced stands aside still"),
        }
        Ok(())
    }

    async fn adopt(&self, table: &TargetTable, _: &TableSchema, _: Incarnation) -> Result<u64, Error> {
        Err(not_adopted(table))
    }

    async fn apply_adopting(&self, table: &TargetTable, _: &TableSchema, _: Advance, _: Steps<'_>) -> Result<u64, Error> {
        Err(not_adopted(table))
    }

    async fn finish_adoption(&self, table: &TargetTable, _: Advance) -> Result<(), Error> {
        Err(not_adopted(table))
    }

    async fn apply(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        self.inner.change(table, &table.name, schema, advance, steps, true).await
    }

    async fn apply_together(&self, stride: Stride<'_>, tables: Vec<Together<'_>>) -> Result<Vec<u64>, Apart> {
        let of_all = |error: Error| Apart { table: None, error };
        let mut session = self.inner.pool.get().await.map_err(|error| of_all(error.into()))?;
        let collation = self.inner.collation(&mut session).await.map_err(of_all)?;
        // A lost connection is nobody's fault, nor is that another was faster.
        let of_table = |at: usize| {
            move |error: Error| {
                let is_its = !matches!(error, Error::TargetUnreachable(_) | Error::ProgressMoved(_));
                Apart { table: is_its.then_some(at), error }
            }
        };
        let (mut parts, mut prepared, mut number) = (Vec::with_capacity(tables.len()), Vec::new(), 0);
        for (at, part) in tables.into_iter().enumerate() {
            let Together { table, schema, incarnation, from, steps } = part;
            let staged = match steps {
                None => None,
                Some(steps) => {
                    let place = Place { table, incarnation, name: &table.name, collation };
                    let staged =
                        self.inner.prepare(&mut session, &place, schema, steps, (from, true), number).await.map_err(of_table(at))?;
                    number += staged.tables();
                    prepared.push(staged);
                    Some(prepared.len() - 1)
                }
            };
            parts.push((table, incarnation, from, staged));
        }
        let mut transaction = Transaction::begin(session, BEGIN).await.map_err(|failure| of_all(failure.into()))?;
        let places: Vec<together::Place<'_>> =
            parts.iter().map(|&(table, incarnation, record, _)| together::Place { source: &table.source, incarnation, record }).collect();
        together::advance(&mut transaction, stride, &places).await.map_err(of_all)?;
        let mut written = Vec::with_capacity(parts.len());
        for (at, (table, _, _, staged)) in parts.iter().enumerate() {
            let Some(staged) = staged.and_then(|staged| prepared.get(staged)) else {
                written.push(0);
                continue;
            };
            let rows = staged.apply(&mut transaction).await.map_err(of_table(at))?;
            transaction.run(&progress::count(table, rows)).await.map_err(|failure| of_table(at)(failure.into()))?;
            written.push(rows);
        }
        let session = failpoint::around(Point::TargetCommit, transaction.commit()).await.map_err(|failure| of_all(failure.into()))?;
        self.inner.put(session, &prepared).await;
        Ok(written)
    }

    async fn digest(&self, table: &TargetTable, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
        Ok(session!(self, |session| {
            let kinds = shape::kinds(schema, self.inner.collation(&mut session).await?);
            digest::digest(&mut session, &table.name, schema, &kinds, range).await?
        }))
    }

    async fn row_digests(&self, table: &TargetTable, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
        Ok(session!(self, |session| {
            let kinds = shape::kinds(schema, self.inner.collation(&mut session).await?);
            digest::rows(&mut session, &table.name, schema, &kinds, among).await?
        }))
    }

    async fn verified(&self, table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> Result<(), Error> {
        session!(self, |session| session.run(&progress::set_verified(table, incarnation, at)).await?);
        Ok(())
    }

    async fn forget(&self, table: &TargetTable, delete: bool) -> Result<(), Error> {
        self.inner.forget(table, delete).await
    }

    async fn release(&self, link_id: &str, delete: bool) -> Result<(), Error> {
        let tables = session!(self, |session| {
            if progress::is_made(&mut session).await? { progress::tables_of(&mut session, link_id).await? } else { Vec::new() }
        });
        for table in tables {
            self.inner.forget(&table, delete).await?;
        }
        Ok(())
    }
}

/// The first columns of a batch whose last is [`crate::data::LINK_COLUMN`], and the values beside them.
fn columns(batch: &RecordBatch, count: usize) -> Result<(Vec<ArrayRef>, Besides), Error> {
    let Some(columns) = batch.columns().get(..count) else {
        return Err(Error::InputFailed(format!("a batch has {} columns where {count} are needed", batch.num_columns())));
    };
    Ok((columns.to_vec(), besides(batch)?))
}

/// What a table of this target is not.
fn not_adopted(table: &TargetTable) -> Error {
    Error::TargetTableDiffers {
        table: table.name.clone(),
        difference: "a Synapse target takes over no table that it did not make".to_owned(),
        remedy: "set spec.target.synapse.onExistingTable to Fail or Recreate".to_owned(),
    }
}
