//! SQL Server as a target: SQL Server 2016 or newer, Azure SQL Database, SQL Managed Instance.
//!
//! [`progress`] keeps the link's own tables (claims, progress, chunks), [`snapshot`] the table aside and the swap, [`merge`] applies
//! changes, [`load`] brings rows to the server, [`ddl`] says how a table stands there. Each call is one session and, but for the
//! swap's preparation, one transaction; a call that fails or is dropped closes its session and so leaves nothing.

mod ddl;
#[cfg(test)]
mod golden;
mod load;
mod lock;
mod merge;
mod preflight;
mod progress;
mod snapshot;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use self::merge::Place;
use super::{
    Advance, Apart, Claim, Error, Incarnation, LargeValues, Outline, Progress, Steps, Stride, Target, TargetTable, Together, Untouched,
    aside,
    tds::{
        digest,
        kind::{self, Kind, Types},
        outline,
        pool::Pool,
        together,
        transaction::Transaction,
    },
};
use crate::{
    api::{
        database::{OnExistingTable, SqlServerTarget},
        fault::Check,
    },
    data::{Among, Digests, KeyRange, RowDigests, TableName, TableSchema},
    failpoint::{self, Point},
    secrets::Secrets,
    sqlserver::SETTINGS,
};

/// Begins a transaction. Its level is said each time: it stays with the session.
const BEGIN: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN TRANSACTION";

/// A SQL Server database that holds copies of linked tables.
pub struct SqlServer {
    pool: Pool,
    on_existing: OnExistingTable,
    values: Option<Arc<dyn LargeValues>>,
    /// Which types the server has.
    types: OnceCell<Types>,
}

impl SqlServer {
    /// The target of a link. Opens no connection yet. `values`: where its rows' large values are.
    pub fn new(target: SqlServerTarget, secrets: Secrets, link_id: &str, values: Option<Arc<dyn LargeValues>>) -> Self {
        let application = format!("link-operator {link_id}");
        let pool = Pool::new(target.database, secrets, application, SETTINGS);
        Self { on_existing: target.on_existing_table, pool, values, types: OnceCell::new() }
    }

    async fn begin(&self) -> Result<Transaction, Error> {
        Ok(Transaction::begin(self.pool.get().await?, BEGIN).await?)
    }

    async fn types(&self, transaction: &mut Transaction) -> Result<Types, Error> {
        let ask = async || -> Result<Types, Error> {
            let names: Vec<String> = transaction.query(ddl::TYPES).await?.iter().filter_map(|row| row.text(0)).collect();
            let has = |name: &str| names.iter().any(|other| other == name);
            Ok(Types {
                xml: has("xml"),
                hierarchyid: has("hierarchyid"),
                geometry: has("geometry"),
                geography: has("geography"),
                babelfish: has("babelfish"),
            })
        };
        self.types.get_or_try_init(ask).await.copied()
    }
}

/// Runs `$body` in a transaction of a pooled session: committed and the session kept if it ends well, else both dropped.
macro_rules! transaction {
    ($self:ident, |$transaction:ident| $body:expr) => {{
        let mut $transaction = $self.begin().await?;
        let result = $body;
        $self.pool.put(failpoint::around(Point::TargetCommit, $transaction.commit()).await?);
        result
    }};
}

#[async_trait]
impl Target for SqlServer {
    async fn preflight(&self) -> Vec<Check> {
        match self.pool.get().await {
            Ok(mut session) => preflight::checks(&mut session).await,
            Err(error) => vec![preflight::failed("TargetReachable", &Error::from(error))],
        }
    }

    async fn outline(&self, table: &TargetTable, schema: &TableSchema) -> Result<Outline, Error> {
        let types = transaction!(self, |transaction| self.types(&mut transaction).await?);
        let (name, kinds) = (&table.name, Kind::all(schema, types));
        let statements = vec![ddl::create_table(name, schema, &kinds), ddl::primary_key(name, schema, &kinds)];
        Ok(Outline { columns: outline::columns(schema, &kinds), statements })
    }

    async fn try_claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        if self.on_existing == OnExistingTable::Adopt {
            return Err(not_adopted(table));
        }
        // Dropped and not committed: the session ends, and takes all of it back.
        let mut transaction = self.begin().await?;
        kind::check_key(schema, self.types(&mut transaction).await?)?;
        preflight::check_schema(&mut transaction, &table.name.schema_name).await?;
        progress::ensure(&mut transaction).await?;
        progress::claim(&mut transaction, table, self.on_existing).await
    }

    async fn claim(&self, table: &TargetTable, schema: &TableSchema) -> Result<Claim, Error> {
        if self.on_existing == OnExistingTable::Adopt {
            return Err(not_adopted(table));
        }
        Ok(transaction!(self, |transaction| {
            kind::check_key(schema, self.types(&mut transaction).await?)?;
            preflight::check_schema(&mut transaction, &table.name.schema_name).await?;
            progress::ensure(&mut transaction).await?;
            progress::claim(&mut transaction, table, self.on_existing).await?
        }))
    }

    async fn progress(&self, table: &TargetTable) -> Result<Option<Progress>, Error> {
        Ok(transaction!(self, |transaction| progress::read(&mut transaction, table).await?))
    }

    async fn link_progress(&self, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
        Ok(transaction!(self, |transaction| progress::of_link(&mut transaction, link_id).await?))
    }

    async fn touch(&self, link_id: &str, tables: &[Untouched]) -> Result<(), Error> {
        if tables.is_empty() {
            return Ok(());
        }
        transaction!(self, |transaction| transaction.run(&together::touch(link_id, tables)).await?);
        Ok(())
    }

    async fn begin_snapshot(&self, table: &TargetTable, schema: &TableSchema, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error> {
        Ok(transaction!(self, |transaction| {
            let types = self.types(&mut transaction).await?;
            snapshot::begin(&mut transaction, table, schema, types, incarnation).await?
        }))
    }

    async fn load_chunk(
        &self,
        table: &TargetTable,
        schema: &TableSchema,
        incarnation: Incarnation,
        chunk: u32,
        rows: BoxStream<'static, Result<RecordBatch, Error>>,
    ) -> Result<u64, Error> {
        let chunk = snapshot::Chunk { number: chunk, rows };
        Ok(transaction!(self, |transaction| {
            let types = self.types(&mut transaction).await?;
            snapshot::load(&mut transaction, table, schema, types, incarnation, chunk, self.values.as_deref()).await?
        }))
    }

    async fn catch_up(&self, table: &TargetTable, schema: &TableSchema, advance: Advance, steps: Steps<'_>) -> Result<u64, Error> {
        Ok(transaction!(self, |transaction| {
            progress::advance(&mut transaction, table, &advance, false, false).await?;
            let (build, types) = (aside::build_name(table, advance.incarnation), self.types(&mut transaction).await?);
            let values = self.values.as_deref();
            let rows = merge::apply(&mut transaction, &build, schema, types, steps, Place::Aside, values).await?;
            transaction.run(&progress::count(table, rows)).await?;
            rows
        }))
    }

    async fn finish_snapshot(&self, table: &TargetTable, schema: &TableSchema, advance: Advance) -> Result<(), Error> {
        transaction!(self, |transaction| {
            let types = self.types(&mut transaction).await?;
            snapshot::seal(&mut transaction, table, schema, types, &advance).await?;
        });
        transaction!(self, |transaction| snapshot::swap(&mut transaction, table, &advance, self.on_existing).await?);
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
        Ok(transaction!(self, |transaction| {
            progress::advance(&mut transaction, table, &advance, true, false).await?;
            let (types, values) = (self.types(&mut transaction).await?, self.values.as_deref());
            let rows = merge::apply(&mut transaction, &table.name, schema, types, steps, Place::InPlace, values).await?;
            transaction.run(&progress::count(table, rows)).await?;
            rows
        }))
    }

    async fn apply_together(&self, stride: Stride<'_>, tables: Vec<Together<'_>>) -> Result<Vec<u64>, Apart> {
        let of_all = |error: Error| Apart { table: None, error };
        let mut transaction = self.begin().await.map_err(of_all)?;
        let types = self.types(&mut transaction).await.map_err(of_all)?;
        let places: Vec<together::Place<'_>> = tables
            .iter()
            .map(|part| together::Place { source: &part.table.source, incarnation: part.incarnation, record: part.from })
            .collect();
        together::advance(&mut transaction, stride, &places).await.map_err(of_all)?;
        let mut written = Vec::with_capacity(tables.len());
        for (at, part) in tables.into_iter().enumerate() {
            // A lost connection is nobody's fault.
            let of_table = |error: Error| Apart { table: (!matches!(error, Error::TargetUnreachable(_))).then_some(at), error };
            let Some(steps) = part.steps else {
                written.push(0);
                continue;
            };
            let values = self.values.as_deref();
            let rows = merge::apply(&mut transaction, &part.table.name, part.schema, types, steps, Place::InPlace, values).await;
            let rows = rows.map_err(of_table)?;
            transaction.run(&progress::count(part.table, rows)).await.map_err(|failure| of_table(failure.into()))?;
            written.push(rows);
        }
        let session = failpoint::around(Point::TargetCommit, transaction.commit()).await.map_err(|failure| of_all(failure.into()))?;
        self.pool.put(session);
        Ok(written)
    }

    async fn digest(&self, table: &TargetTable, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
        Ok(transaction!(self, |transaction| {
            let kinds = Kind::all(schema, self.types(&mut transaction).await?);
            digest::digest(&mut transaction, &table.name, schema, &kinds, range).await?
        }))
    }

    async fn row_digests(&self, table: &TargetTable, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
        Ok(transaction!(self, |transaction| {
            let kinds = Kind::all(schema, self.types(&mut transaction).await?);
            digest::rows(&mut transaction, &table.name, schema, &kinds, among).await?
        }))
    }

    async fn verified(&self, table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> Result<(), Error> {
        transaction!(self, |transaction| transaction.run(&progress::set_verified(table, incarnation, at)).await?);
        Ok(())
    }

    async fn forget(&self, table: &TargetTable, delete: bool) -> Result<(), Error> {
        transaction!(self, |transaction| progress::forget(&mut transaction, table, delete).await?);
        Ok(())
    }

    async fn release(&self, link_id: &str, delete: bool) -> Result<(), Error> {
        for table in transaction!(self, |transaction| progress::tables_of(&mut transaction, link_id).await?) {
            self.forget(&table, delete).await?;
        }
        Ok(())
    }
}

/// What a table of this target is not.
fn not_adopted(table: &TargetTable) -> Error {
    Error::TargetTableDiffers {
        table: table.name.clone(),
        difference: "a SQL Server target takes over no table that it did not make".to_owned(),
        remedy: "set spec.target.sqlServer.onExistingTable to Fail or Recreate".to_owned(),
    }
}
