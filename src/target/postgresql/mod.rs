//! PostgreSQL as a target, version 14 or newer.
//!
//! [`progress`] keeps the link's own tables (claims, progress, chunks), [`snapshot`] the table aside and the swap, [`adopt`]
//! takes over one that is there, [`merge`] applies changes, [`together`] moves the progress of several tables, [`encode`] and
//! [`copy`] bring rows to the server. Each call is one session and, but for the swap's preparation, one transaction; a call that
//! fails or is dropped closes its session and so leaves nothing.

mod adopt;
mod copy;
mod ddl;
mod encode;
mod error;
mod merge;
mod pool;
mod preflight;
mod progress;
mod snapshot;
mod together;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio_postgres::Transaction;

use self::{merge::Place, pool::Pool};
use super::{
    Advance, Apart, Claim, Error, Incarnation, LargeValues, Outline, Progress, Steps, Stride, Target, TargetTable, Together, Untouched,
    aside,
};
use crate::{
    api::{
        database::{OnExistingTable, PostgresqlTarget},
        fault::Check,
    },
    data::{Among, Digests, KeyRange, RowDigests, TableName, TableSchema},
    failpoint::{self, Point},
    postgresql::{Connected, digest::Digested},
    secrets::Secrets,
};

/// A PostgreSQL database that holds copies of linked tables.
pub struct Postgresql {
    pool: Pool,
    on_existing: OnExistingTable,
    values: Option<Arc<dyn LargeValues>>,
}

impl Postgresql {
    /// The target of a link. Opens no connection yet. `values`: where its rows' large values are.
    pub fn new(target: PostgresqlTarget, secrets: Secrets, link_id: &str, values: Option<Arc<dyn LargeValues>>) -> Self {
        let application = format!("link-operator {link_id}");
        Self { on_existing: target.on_existing_table, pool: Pool::new(target.database, secrets, application), values }
    }
}

/// Runs `$body` in a transaction of a pooled session: committed and the session kept if it ends well, else both dropped.
macro_rules! transaction {
    ($self:ident, |$transaction:ident| $body:expr) => {{
        let mut session: Connected = $self.pool.get().await?;
        let $transaction: Transaction<'_> = session.transaction().await?;
        let result = $body;
        failpoint::around(Point::TargetCommit, $transaction.commit()).await?;
        $self.pool.put(session);
        result
    }};
}

impl Postgresql {
    /// Applies changes to a table in its place, which is exact, or not yet.
    async fn apply_in_place(
        &self,
        table: &TargetTable,
        schema: &TableSchema,
        advance: Advance,
        steps: Steps<'_>,
        exact: bool,
    ) -> Result<u64, Error> {
        Ok(transaction!(self, |transaction| {
            progress::advance(&transaction, table, &advance, exact, false).await?;
            let rows = merge::apply(&transaction, &table.name, schema, steps, Place::InPlace, self.values.as_deref()).await?;
            progress::count(&transaction, table, rows).await?;
            rows
        }))
    }
}

#[async_trait]
impl Target for Postgresql {
    async fn preflight(&self) -> Vec<Check> {
        match self.pool.get().await {
            Ok(session) => preflight::checks(&session).await,
            Err(error) => vec![preflight::failed("TargetReachable", &Error::from(error))],
        }
    }

    async fn outline(&self, table: &TargetTable, schema: &TableSchema) -> Result<Outline, Error> {
        Ok(ddl::outline(&table.name, schema))
    }

    async fn try_claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        ddl::check_key(schema)?;
        let mut session = self.pool.get().await?;
        let transaction = session.transaction().await?;
        // Not committed: the transaction takes all of it back.
        let claim = async {
            preflight::check_schema(&transaction, &table.name.schema_name).await?;
            progress::ensure(&transaction).await?;
            progress::claim(&transaction, table, schema, self.on_existing).await
        };
        let claim = claim.await;
        transaction.rollback().await?;
        self.pool.put(session);
        claim
    }

    async fn claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        ddl::check_key(schema)?;
        Ok(transaction!(self, |transaction| {
            preflight::check_schema(&transaction, &table.name.schema_name).await?;
            progress::ensure(&transaction).await?;
            progress::claim(&transaction, table, schema, self.on_existing).await?
        }))
    }

    async fn progress(&self, table: &TargetTable) -> Result<Option<Progress>, Error> {
        let progress = transaction!(self, |transaction| {
            if progress::exist(&transaction).await? { progress::read(&transaction, table).await? } else { None }
        });
        Ok(progress)
    }

    async fn link_progress(&self, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
        Ok(transaction!(self, |transaction| {
            if progress::exist(&transaction).await? { progress::of_link(&transaction, link_id).await? } else { HashMap::new() }
        }))
    }

    async fn touch(&self, link_id: &str, tables: &[Untouched]) -> Result<(), Error> {
        transaction!(self, |transaction| together::touch(&transaction, link_id, tables).await?);
        Ok(())
    }

    async fn begin_snapshot(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error> {
        Ok(transaction!(self, |transaction| snapshot::begin(&transaction, table, schema, incarnation).await?))
    }

    async fn load_chunk(
        &self,
        table: &TargetTable,
        schema: &TableSchema,
        incarnation: Incarnation,
        chunk: u32,
        rows: BoxStream<'static, Result<RecordBatch, Error>>,
    ) -> Result<u64, Error> {
        Ok(transaction!(self, |transaction| snapshot::load(&transaction, table, schema, incarnation, chunk, rows, self.values.as_deref())
            .await?))
    }

    async fn catch_up(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        Ok(transaction!(self, |transaction| {
            progress::advance(&transaction, table, &advance, false, false).await?;
            let build = aside::build_name(table, advance.incarnation);
            let rows = merge::apply(&transaction, &build, schema, steps, Place::Aside, self.values.as_deref()).await?;
            progress::count(&transaction, table, rows).await?;
            rows
        }))
    }

    async fn finish_snapshot(&self, table: &TargetTable, schema: &TableSchema, advance: Advance) -> Result<(), Error> {
        transaction!(self, |transaction| snapshot::seal(&transaction, table, schema, &advance).await?);
        transaction!(self, |transaction| snapshot::swap(&transaction, table, &advance, self.on_existing).await?);
        Ok(())
    }

    async fn adopt(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<u64, Error> {
        Ok(transaction!(self, |transaction| adopt::begin(&transaction, table, schema, incarnation, self.on_existing).await?))
    }

    async fn apply_adopting(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        self.apply_in_place(table, schema, advance, steps, false).await
    }

    async fn finish_adoption(&self, table: &TargetTable, advance: Advance) -> Result<(), Error> {
        transaction!(self, |transaction| progress::advance(&transaction, table, &advance, false, true).await?);
        Ok(())
    }

    async fn apply(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        self.apply_in_place(table, schema, advance, steps, true).await
    }

    async fn apply_together(&self, stride: Stride<'_>, tables: Vec<Together<'_>>) -> Result<Vec<u64>, Apart> {
        let of_all = |error: Error| Apart { table: None, error };
        let mut session = self.pool.get().await.map_err(|error| of_all(error.into()))?;
        let transaction = session.transaction().await.map_err(|error| of_all(error.into()))?;
        let places: Vec<together::Place<'_>> = tables
            .iter()
            .map(|part| together::Place { source: &part.table.source, incarnation: part.incarnation, record: part.from })
            .collect();
        together::advance(&transaction, stride, &places).await.map_err(of_all)?;
        let mut written = Vec::with_capacity(tables.len());
        for (at, part) in tables.into_iter().enumerate() {
            // A lost connection is nobody's fault.
            let of_table = |error: Error| Apart { table: (!matches!(error, Error::TargetUnreachable(_))).then_some(at), error };
            let Some(steps) = part.steps else {
                written.push(0);
                continue;
            };
            let values = self.values.as_deref();
            let rows = merge::apply(&transaction, &part.table.name, part.schema, steps, Place::InPlace, values).await.map_err(of_table)?;
            progress::count(&transaction, part.table, rows).await.map_err(of_table)?;
            written.push(rows);
        }
        failpoint::around(Point::TargetCommit, transaction.commit()).await.map_err(|error| of_all(error.into()))?;
        self.pool.put(session);
        Ok(written)
    }

    async fn digest(&self, table: &TargetTable, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
        Ok(transaction!(self, |transaction| Digested { schema, name: &table.name }.digest(&transaction, range).await?))
    }

    async fn row_digests(&self, table: &TargetTable, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
        Ok(transaction!(self, |transaction| Digested { schema, name: &table.name }.rows(&transaction, among).await?))
    }

    async fn verified(&self, table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> Result<(), Error> {
        transaction!(self, |transaction| progress::verified(&transaction, table, incarnation, at).await?);
        Ok(())
    }

    async fn forget(&self, table: &TargetTable, delete: bool) -> Result<(), Error> {
        transaction!(self, |transaction| {
            if progress::exist(&transaction).await? {
                progress::forget(&transaction, table, delete).await?;
            }
        });
        Ok(())
    }

    async fn release(&self, link_id: &str, delete: bool) -> Result<(), Error> {
        let tables = transaction!(self, |transaction| {
            if progress::exist(&transaction).await? { progress::tables_of(&transaction, link_id).await? } else { Vec::new() }
        });
        for table in tables {
            self.forget(&table, delete).await?;
        }
        Ok(())
    }
}
