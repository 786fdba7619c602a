//! The table aside: made, loaded chunk by chunk, and put in place of the one before.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use futures::{StreamExt as _, stream::BoxStream};
use tokio_postgres::Transaction;

use super::{
    copy::Copy,
    ddl,
    encode::Rows,
    error::is_duplicate,
    progress::{self, Claimed},
};
use crate::{
    api::database::OnExistingTable,
    data::{TableName, TableSchema},
    postgresql::quote::{self, identifier, literal},
    target::{Advance, Error, Incarnation, LargeValues, Progress, TargetTable, aside, besides},
};

/// Makes the table of this incarnation, see [`crate::target::Target::begin_snapshot`].
pub(super) async fn begin(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    schema: &TableSchema,
    incarnation: Incarnation,
) -> Result<BTreeSet<u32>, Error> {
    // First without the lock: this is asked again and again while chunks load, and their loads hold it.
    if let Some(chunks) = begun(transaction, table, incarnation, progress::read(transaction, table).await?).await? {
        return Ok(chunks);
    }
    let progress = claim_of(transaction, table).await?.progress;
    if let Some(chunks) = begun(transaction, table, incarnation, progress).await? {
        return Ok(chunks);
    }
    let build = aside::build_name(table, incarnation);
    progress::drop_aside(transaction, table).await?;
    let create = format!("CREATE TABLE {} ({})", quote::table(&build), ddl::column_definitions(schema));
    transaction.batch_execute(&create).await?;
    progress::begin(transaction, table, incarnation).await?;
    Ok(BTreeSet::new())
}

/// The chunks that are loaded, if the incarnation has begun.
async fn begun(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    incarnation: Incarnation,
    progress: Option<Progress>,
) -> Result<Option<BTreeSet<u32>>, Error> {
    let Some(progress) = progress else { return Ok(None) };
    if progress.incarnation > incarnation {
        return Err(progress::moved(table, &format!("{:?} has begun", progress.incarnation)));
    }
    if progress.incarnation < incarnation {
        return Ok(None);
    }
    // A table aside that somebody dropped is begun again.
    if !progress.exact && progress::existing(transaction, &aside::build_name(table, incarnation)).await?.is_none() {
        return Ok(None);
    }
    progress::chunks(transaction, table, incarnation).await.map(Some)
}

/// Loads one chunk, see [`crate::target::Target::load_chunk`].
pub(super) async fn load(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    schema: &TableSchema,
    incarnation: Incarnation,
    chunk: u32,
    mut rows: BoxStream<'static, Result<RecordBatch, Error>>,
    values: Option<&dyn LargeValues>,
) -> Result<u64, Error> {
    progress::add_chunk(transaction, table, incarnation, chunk).await?;
    let build = aside::build_name(table, incarnation);
    let columns: Vec<usize> = (0..schema.columns.len()).collect();
    let mut copy = Copy::into(transaction, &quote::table(&build), &ddl::columns(schema), values);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let beside = besides(&batch)?;
        copy.write(&Rows::new(schema, &columns, &batch, &beside, &[])?).await?;
    }
    let rows = copy.finish().await?;
    progress::count_chunk(transaction, table, incarnation, chunk, rows).await?;
    Ok(rows)
}

/// Makes the key of the table aside unique and gathers its statistics. In a transaction of its own, before the one that
/// swaps: building the index of a large table takes minutes, the swap must take none. Done again, it does nothing.
pub(super) async fn seal(transaction: &Transaction<'_>, table: &TargetTable, schema: &TableSchema, advance: &Advance) -> Result<(), Error> {
    let progress = claim_of(transaction, table).await?.progress;
    if !progress.is_some_and(|p| p.incarnation == advance.incarnation && p.record == advance.from && !p.exact) {
        return Err(progress::moved(table, &format!("it is not at record {} of {:?}", advance.from, advance.incarnation)));
    }
    let build = aside::build_name(table, advance.incarnation);
    let quoted = quote::table(&build);
    let sealed = "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = $1 AND indisprimary)";
    let oid = oid_of(transaction, &build).await?;
    if !transaction.query_one(sealed, &[&oid]).await?.get::<_, bool>(0) {
        let key = ddl::key_columns(schema).join(", ");
        transaction.batch_execute(&format!("ALTER TABLE {quoted} ADD PRIMARY KEY ({key})")).await.map_err(|error| {
            if is_duplicate(&error) {
                let message = crate::postgresql::errors::message(&error);
                Error::TargetInconsistent(format!("the snapshot of {} has a row twice: {message}", table.source))
            } else {
                Error::from(&error)
            }
        })?;
    }
    transaction.batch_execute(&format!("ANALYZE {quoted}; COMMENT ON TABLE {quoted} IS {}", literal(&aside::mark(table)))).await?;
    Ok(())
}

/// Puts the table aside in place of the one before, whose grants it takes over.
pub(super) async fn swap(
    transaction: &Transaction<'_>,
    table: &TargetTable,
    advance: &Advance,
    on_existing: OnExistingTable,
) -> Result<(), Error> {
    progress::advance(transaction, table, advance, false, true).await?;
    progress::count_chunks(transaction, table).await?;
    let build = aside::build_name(table, advance.incarnation);
    let oid = oid_of(transaction, &build).await?;
    if let Some(before) = progress::existing(transaction, &table.name).await? {
        let placed = claim_of(transaction, table).await?.placed;
        progress::check_replaceable(table, &before, placed, on_existing)?;
        transaction.batch_execute(&grants(transaction, before.oid, oid, &build).await?).await?;
        progress::drop_table(transaction, &table.name).await?;
    }
    let rename = format!("ALTER TABLE {} RENAME TO {}", quote::table(&build), identifier(&table.name.table_name));
    transaction.batch_execute(&rename).await?;
    progress::set_placed(transaction, table, oid).await
}

/// The table's claim, held as [`progress::claimed`] does.
pub(super) async fn claim_of(transaction: &Transaction<'_>, table: &TargetTable) -> Result<Claimed, Error> {
    match progress::claimed(transaction, table).await? {
        Some(claimed) if claimed.name == table.name => Ok(claimed),
        _ => Err(progress::moved(table, "it is not claimed")),
    }
}

async fn oid_of(transaction: &Transaction<'_>, name: &TableName) -> Result<u32, Error> {
    let found = progress::existing(transaction, name).await?;
    found.map(|table| table.oid).ok_or_else(|| Error::TargetInconsistent(format!("table {name}, which a snapshot is loaded into, is gone")))
}

/// The statements that give `new` the rights that readers were given on `old`, on the table and on its columns. A table
/// without any GRANT or REVOKE has its schema's defaults, and so has the new one already.
async fn grants(transaction: &Transaction<'_>, old: u32, new: u32, build: &TableName) -> Result<String, Error> {
    let sql = "
        WITH old AS (SELECT * FROM pg_class WHERE oid = $1),
        rights AS (
            SELECT a.*, NULL::name AS attname FROM old, aclexplode(old.relacl) a WHERE a.grantee <> old.relowner
            UNION ALL
            SELECT a.*, n.attname FROM pg_attribute o
            JOIN pg_attribute n ON n.attrelid = $2 AND n.attname = o.attname AND NOT n.attisdropped, aclexplode(o.attacl) a
            WHERE o.attrelid = $1 AND NOT o.attisdropped AND o.attacl IS NOT NULL)
        SELECT format('REVOKE ALL ON TABLE %s FROM %s', $3::text, coalesce(quote_ident(r.rolname), 'PUBLIC'))
        FROM old, pg_class new, aclexplode(new.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE old.relacl IS NOT NULL AND new.oid = $2 AND a.grantee <> new.relowner AND (a.grantee = 0 OR r.oid IS NOT NULL)
        UNION ALL
        SELECT format('GRANT %s%s ON TABLE %s TO %s%s', privilege_type, CASE WHEN attname IS NULL THEN '' ELSE format(' (%I)', attname) END,
                      $3::text, coalesce(quote_ident(r.rolname), 'PUBLIC'), CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM rights LEFT JOIN pg_roles r ON r.oid = grantee WHERE grantee = 0 OR r.oid IS NOT NULL";
    let rows = transaction.query(sql, &[&old, &new, &quote::table(build)]).await?;
    Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("; "))
}
