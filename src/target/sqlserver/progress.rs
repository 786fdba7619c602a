//! The link's own tables in the target database: who owns a target table, how far it is, which chunks it holds.
//!
//! Progress moves by compare-and-set as the first statement of the transaction that moves the rows (DESIGN 5.4): whoever is
//! late finds no row, and nothing of his transaction happens. Rows are locked by updates alone, which every server with this
//! protocol locks alike, and what loads of chunks share, by `sp_getapplock`.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::{
    ddl,
    transaction::{Mode, Transaction},
};
use crate::{
    api::database::OnExistingTable,
    data::TableName,
    failpoint::{self, Moment, Point},
    protection::Protection,
    sqlserver::{
        Class, Row,
        quote::{self, literal},
    },
    target::{Advance, Claim, Error, Incarnation, Progress, TargetTable, aside},
};

/// The lock under which tables are claimed, and ours are made.
const CLAIMS: &str = "claims";

/// Names in the source are compared byte by byte, those of the target as the database compares the names of tables.
pub(super) const CREATE: [&str; 4] = [
    "EXEC(N'CREATE SCHEMA [link_operator]')",
    "CREATE TABLE [link_operator].[link_progress] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [target_schema] nvarchar(128) COLLATE DATABASE_DEFAULT NOT NULL,
        [target_table] nvarchar(128) COLLATE DATABASE_DEFAULT NOT NULL,
        [run] bigint NULL, [incarnation] bigint NULL, [record] bigint NULL,
        [exact] bit NOT NULL DEFAULT 0, [group_revision] bigint NULL,
        [as_of] datetimeoffset(6) NULL, [rows] bigint NOT NULL DEFAULT 0, [placed] int NULL,
        [updated_at] datetimeoffset(6) NOT NULL DEFAULT SYSDATETIMEOFFSET(), [last_verified] datetimeoffset(6) NULL,
        CONSTRAINT [pk_link_progress] PRIMARY KEY ([link_id], [source_schema], [source_table]),
        CONSTRAINT [uq_link_progress] UNIQUE ([target_schema], [target_table])
    )",
    "CREATE TABLE [link_operator].[link_chunks] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [run] bigint NOT NULL, [incarnation] bigint NOT NULL, [chunk] bigint NOT NULL, [rows] bigint NOT NULL DEFAULT 0,
        CONSTRAINT [pk_link_chunks] PRIMARY KEY ([link_id], [source_schema], [source_table], [run], [incarnation], [chunk])
    )",
    // For readers; nothing of ours needs it.
    "EXEC(N'CREATE VIEW [link_operator].[link_status] AS
        SELECT [link_id], [source_schema], [source_table], [target_schema], [target_table], [exact],
            CASE WHEN [exact] = 1 THEN [as_of] END AS [consistent_as_of],
            CONVERT(bit, CASE WHEN [group_revision] IS NOT NULL THEN 1 ELSE 0 END) AS [grouped], [last_verified]
        FROM [link_operator].[link_progress]')",
];

/// Whether our schema and tables are there: one number each.
pub(super) const EXIST: &str = "SELECT CASE WHEN SCHEMA_ID(N'link_operator') IS NULL THEN 0 ELSE 1 END,
    CASE WHEN OBJECT_ID(N'[link_operator].[link_progress]') IS NULL THEN 0 ELSE 1 END,
    CASE WHEN OBJECT_ID(N'[link_operator].[link_chunks]') IS NULL THEN 0 ELSE 1 END,
    CASE WHEN OBJECT_ID(N'[link_operator].[link_status]') IS NULL THEN 0 ELSE 1 END";

/// Columns that a [`Progress`] is read from.
const PROGRESS: &str = "[run], [incarnation], [record], [exact], [rows], [group_revision]";

/// A table as the catalog has it.
pub(super) struct Existing {
    pub(super) object_id: i64,
    /// An ordinary table, which a link may replace; not a view, an external or a temporal table.
    pub(super) replaceable: bool,
    mark: Option<String>,
}

impl Existing {
    /// Whether the link made it: by its object id, or by its mark where progress was forgotten or the database restored.
    fn made_by(&self, table: &TargetTable, placed: Option<i64>) -> bool {
        placed == Some(self.object_id) || self.mark.as_ref() == Some(&aside::mark(table))
    }
}

/// The condition that finds the table's rows in our tables.
fn its(table: &TargetTable) -> String {
    its_source(&table.link_id, &table.source)
}

pub(super) fn its_source(link_id: &str, source: &TableName) -> String {
    format!(
        "[link_id] = {} AND [source_schema] = {} AND [source_table] = {}",
        literal(link_id),
        literal(&source.schema_name),
        literal(&source.table_name)
    )
}

/// The condition that a row is of the incarnation.
pub(super) fn of(incarnation: Incarnation) -> String {
    format!("[run] = {} AND [incarnation] = {}", incarnation.run, incarnation.record)
}

/// A time, cut to microseconds; NULL if there is none.
pub(super) fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(
        || "NULL".to_owned(),
        |time| format!("CONVERT(datetimeoffset(6), {})", literal(&time.strftime("%Y-%m-%d %H:%M:%S.%6f +00:00").to_string())),
    )
}

/// Makes our schema and tables unless they are there.
pub(super) async fn ensure(transaction: &mut Transaction) -> Result<(), Error> {
    if there(transaction).await?.contains(&false) {
        transaction.lock(CLAIMS, Mode::Exclusive).await?;
        for (statement, there) in CREATE.iter().zip(there(transaction).await?) {
            if !there {
                transaction.run(statement).await?;
            }
        }
    }
    Ok(())
}

async fn there(transaction: &mut Transaction) -> Result<Vec<bool>, Error> {
    let rows = transaction.query(EXIST).await?;
    Ok((0..CREATE.len()).map(|at| rows.first().is_some_and(|row| row.flag(at))).collect())
}

/// The question, which has no answer where our tables are not there.
fn if_there(sql: &str) -> String {
    format!("IF OBJECT_ID(N'[link_operator].[link_progress]') IS NOT NULL {sql}")
}

pub(super) fn own_claim(table: &TargetTable) -> String {
    let TargetTable { link_id, source, name } = table;
    format!(
        "INSERT INTO [link_operator].[link_progress] ([link_id], [source_schema], [source_table], [target_schema], [target_table]) \
         SELECT {link}, {source_schema}, {source_table}, {schema}, {table} \
         WHERE NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE {its}) \
         AND NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE [target_schema] = {schema} AND [target_table] = {table})",
        link = literal(link_id),
        source_schema = literal(&source.schema_name),
        source_table = literal(&source.table_name),
        schema = literal(&name.schema_name),
        table = literal(&name.table_name),
        its = its(table),
    )
}

pub(super) fn owner(name: &TableName) -> String {
    format!(
        "SELECT [link_id], [source_schema], [source_table], [placed] FROM [link_operator].[link_progress] \
         WHERE [target_schema] = {} AND [target_table] = {}",
        literal(&name.schema_name),
        literal(&name.table_name)
    )
}

pub(super) fn claimed_name(table: &TargetTable) -> String {
    format!("SELECT [target_schema], [target_table] FROM [link_operator].[link_progress] WHERE {}", its(table))
}

/// The name as it is spelled now: the database may compare names without case.
pub(super) fn respell(table: &TargetTable) -> String {
    let TableName { schema_name, table_name } = &table.name;
    format!(
        "UPDATE [link_operator].[link_progress] SET [target_schema] = {}, [target_table] = {} WHERE {}",
        literal(schema_name),
        literal(table_name),
        its(table)
    )
}

/// Claims the table, see [`crate::target::Target::claim`].
pub(super) async fn claim(transaction: &mut Transaction, table: &TargetTable, on_existing: OnExistingTable) -> Result<Claim, Error> {
    let TargetTable { link_id, source, name } = table;
    // Claimants come one after the other: whom each meets is certain.
    transaction.lock(CLAIMS, Mode::Exclusive).await?;
    let its_owner = async |transaction: &mut Transaction| -> Result<_, Error> {
        let owner = transaction.query(&owner(name)).await?;
        Ok(owner.first().map(|row| ((row.text(0).unwrap_or_default(), name_of(row, 1)), row.number(3))))
    };
    let us = (link_id.clone(), source.clone());
    // Read without the lock, which loads of an older incarnation may hold for long.
    let before = transaction.query(&claimed_name(table)).await?.first().map(|row| name_of(row, 0));
    if let Some(before) = before.filter(|before| before != name) {
        if its_owner(transaction).await?.is_some_and(|(owner, _)| owner == us) {
            transaction.run(&respell(table)).await?;
        } else {
            // A LinkTable that was made again for another target table: what it claimed before is no longer asked for.
            forget(transaction, &TargetTable { name: before, ..table.clone() }, false).await?;
        }
    }
    transaction.run(&own_claim(table)).await?;
    let placed = match its_owner(transaction).await? {
        Some((owner, placed)) if owner == us => placed,
        Some(((link, source), _)) => {
            return Err(Error::TargetTableOwned { table: name.clone(), owner: format!("{link} (its table {source})") });
        }
        None => {
            return Err(Error::TargetError(format!(
                "{name} cannot be claimed: another table of link {link_id} has a name that the target cannot tell from {source}"
            )));
        }
    };
    if let Some(existing) = existing(transaction, name).await? {
        check_replaceable(table, &existing, placed, on_existing)?;
    }
    Ok(Claim::Load)
}

fn name_of(row: &Row, at: usize) -> TableName {
    TableName::new(row.text(at).unwrap_or_default(), row.text(at + 1).unwrap_or_default())
}

/// Whether the link may put its own table in place of one that is there.
pub(super) fn check_replaceable(
    table: &TargetTable,
    existing: &Existing,
    placed: Option<i64>,
    on_existing: OnExistingTable,
) -> Result<(), Error> {
    if existing.made_by(table, placed) || (existing.replaceable && on_existing == OnExistingTable::Recreate) {
        return Ok(());
    }
    Err(Error::TargetTableExists(table.name.clone()))
}

pub(super) fn find(name: &TableName) -> String {
    format!(
        "SELECT o.[object_id], CASE WHEN o.[type] = 'U' AND t.[is_external] = 0 AND t.[temporal_type] = 0 THEN 1 ELSE 0 END, \
         CONVERT(nvarchar(4000), p.[value]) \
         FROM sys.objects o JOIN sys.schemas s ON s.[schema_id] = o.[schema_id] LEFT JOIN sys.tables t ON t.[object_id] = o.[object_id] \
         LEFT JOIN sys.extended_properties p ON p.[class] = 1 AND p.[major_id] = o.[object_id] AND p.[minor_id] = 0 AND p.[name] = N'{}' \
         WHERE s.[name] = {} AND o.[name] = {}",
        ddl::PROPERTY,
        literal(&name.schema_name),
        literal(&name.table_name)
    )
}

/// Looks an object up by its name.
pub(super) async fn existing(transaction: &mut Transaction, name: &TableName) -> Result<Option<Existing>, Error> {
    let rows = transaction.query(&find(name)).await?;
    let of = |row: &Row| Some(Existing { object_id: row.number(0)?, replaceable: row.flag(1), mark: row.text(2) });
    Ok(rows.first().and_then(of))
}

/// A claim, and how far its table is.
pub(super) struct Claimed {
    pub(super) name: TableName,
    pub(super) placed: Option<i64>,
    pub(super) progress: Option<Progress>,
}

/// Held by an update that changes nothing.
pub(super) fn hold(table: &TargetTable) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [updated_at] = [updated_at] WHERE {}", its(table))
}

pub(super) fn read_claim(table: &TargetTable) -> String {
    format!("SELECT [target_schema], [target_table], [placed], {PROGRESS} FROM [link_operator].[link_progress] WHERE {}", its(table))
}

/// Reads a claim and holds it until the transaction ends, so that nobody loads or moves the table meanwhile.
pub(super) async fn claimed(transaction: &mut Transaction, table: &TargetTable) -> Result<Option<Claimed>, Error> {
    transaction.lock(&aside::build_prefix(table), Mode::Exclusive).await?;
    transaction.run(&hold(table)).await?;
    let rows = transaction.query(&read_claim(table)).await?;
    Ok(rows.first().map(|row| Claimed { name: name_of(row, 0), placed: row.number(2), progress: progress_of(row, 3) }))
}

pub(super) fn read_progress(table: &TargetTable) -> String {
    if_there(&format!("SELECT {PROGRESS} FROM [link_operator].[link_progress] WHERE {}", its(table)))
}

/// How far the table is.
pub(super) async fn read(transaction: &mut Transaction, table: &TargetTable) -> Result<Option<Progress>, Error> {
    Ok(transaction.query(&read_progress(table)).await?.first().and_then(|row| progress_of(row, 0)))
}

pub(super) fn read_link(link_id: &str) -> String {
    let sql = format!(
        "SELECT [source_schema], [source_table], {PROGRESS} FROM [link_operator].[link_progress] WHERE [link_id] = {}",
        literal(link_id)
    );
    if_there(&sql)
}

/// How far each table of a link is, by its name in the source.
pub(super) async fn of_link(transaction: &mut Transaction, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
    let rows = transaction.query(&read_link(link_id)).await?;
    Ok(rows.iter().filter_map(|row| Some((name_of(row, 0), progress_of(row, 2)?))).collect())
}

/// From the columns of [`PROGRESS`].
fn progress_of(row: &Row, at: usize) -> Option<Progress> {
    let incarnation = Incarnation { run: row.number(at)? as u32, record: row.number(at + 1)? as u64 };
    Some(Progress {
        incarnation,
        record: row.number(at + 2)? as u64,
        exact: row.flag(at + 3),
        rows: row.number(at + 4)? as u64,
        grouped: row.number(at + 5).is_some(),
    })
}

pub(super) fn begin_incarnation(table: &TargetTable, incarnation: Incarnation) -> String {
    format!(
        "DELETE FROM [link_operator].[link_chunks] WHERE {its}; \
         UPDATE [link_operator].[link_progress] SET [run] = {run}, [incarnation] = {record}, [record] = {record}, [exact] = 0, \
         [group_revision] = NULL, [as_of] = NULL, [rows] = 0, [last_verified] = NULL, [updated_at] = SYSDATETIMEOFFSET() WHERE {its}",
        its = its(table),
        run = incarnation.run,
        record = incarnation.record
    )
}

pub(super) fn read_chunks(table: &TargetTable, incarnation: Incarnation) -> String {
    format!("SELECT [chunk] FROM [link_operator].[link_chunks] WHERE {} AND {}", its(table), of(incarnation))
}

/// The chunks that the incarnation holds.
pub(super) async fn chunks(transaction: &mut Transaction, table: &TargetTable, incarnation: Incarnation) -> Result<BTreeSet<u32>, Error> {
    let rows = transaction.query(&read_chunks(table, incarnation)).await?;
    Ok(rows.iter().filter_map(|row| Some(row.number(0)? as u32)).collect())
}

pub(super) fn is_loading(table: &TargetTable, incarnation: Incarnation) -> String {
    format!("SELECT 1 FROM [link_operator].[link_progress] WHERE {} AND {} AND [exact] = 0", its(table), of(incarnation))
}

pub(super) fn insert_chunk(table: &TargetTable, incarnation: Incarnation, chunk: u32) -> String {
    let TargetTable { link_id, source, .. } = table;
    format!(
        "INSERT INTO [link_operator].[link_chunks] ([link_id], [source_schema], [source_table], [run], [incarnation], [chunk]) \
         VALUES ({}, {}, {}, {}, {}, {chunk})",
        literal(link_id),
        literal(&source.schema_name),
        literal(&source.table_name),
        incarnation.run,
        incarnation.record
    )
}

/// Notes a chunk as loaded, in the transaction that loads it.
pub(super) async fn add_chunk(
    transaction: &mut Transaction,
    table: &TargetTable,
    incarnation: Incarnation,
    chunk: u32,
) -> Result<(), Error> {
    // Shared: chunks load side by side, and a newer incarnation waits until they are through.
    transaction.lock(&aside::build_prefix(table), Mode::Shared).await?;
    if transaction.query(&is_loading(table, incarnation)).await?.is_empty() {
        return Err(moved(table, &format!("incarnation {} of run {} is not being loaded", incarnation.record, incarnation.run)));
    }
    let has = |failure: &crate::sqlserver::Failure| failure.class == Class::Duplicate;
    if !Protection::ChunkProgress.holds() {
        return Ok(());
    }
    // A row that another transaction has yet to commit is waited for.
    match transaction.run(&insert_chunk(table, incarnation, chunk)).await {
        Err(failure) if has(&failure) => Err(moved(table, &format!("chunk {chunk} is loaded already"))),
        inserted => Ok(inserted.map(|_| ())?),
    }
}

/// Notes how many rows a chunk had, in the transaction that loads it.
pub(super) fn count_chunk(table: &TargetTable, incarnation: Incarnation, chunk: u32, rows: u64) -> String {
    format!("UPDATE [link_operator].[link_chunks] SET [rows] = {rows} WHERE {} AND {} AND [chunk] = {chunk}", its(table), of(incarnation))
}

/// Adds to the rows written, in the transaction that writes them.
pub(super) fn count(table: &TargetTable, rows: u64) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [rows] = [rows] + {rows} WHERE {}", its(table))
}

/// Adds the rows of all chunks to the rows written.
pub(super) fn count_chunks(table: &TargetTable, incarnation: Incarnation) -> String {
    let chunks = format!("SELECT COALESCE(SUM([rows]), 0) FROM [link_operator].[link_chunks] WHERE {} AND {}", its(table), of(incarnation));
    format!("UPDATE [link_operator].[link_progress] SET [rows] = [rows] + ({chunks}) WHERE {}", its(table))
}

pub(super) fn compare_and_set(table: &TargetTable, advance: &Advance, exact: bool, finish: bool) -> String {
    format!(
        "UPDATE [link_operator].[link_progress] SET [record] = {to}, [as_of] = COALESCE({as_of}, [as_of]), {finish}[group_revision] = NULL, \
         [updated_at] = SYSDATETIMEOFFSET() WHERE {its} AND {of} AND [record] = {from} AND [exact] = {exact} \
         AND ([group_revision] IS NULL OR [group_revision] <= {revision})",
        to = advance.to,
        as_of = time(advance.as_of),
        finish = if finish { "[exact] = 1, " } else { "" },
        its = its(table),
        of = of(advance.incarnation),
        from = advance.from,
        exact = u8::from(exact),
        revision = advance.plan_revision,
    )
}

/// Moves progress by compare-and-set. `exact`: what the table must be; a table that is not becomes exact if `finish`.
pub(super) async fn advance(
    transaction: &mut Transaction,
    table: &TargetTable,
    advance: &Advance,
    exact: bool,
    finish: bool,
) -> Result<(), Error> {
    failpoint::at(Point::ProgressUpdate, Moment::Before).await;
    let rows = transaction.run(&compare_and_set(table, advance, exact, finish)).await?;
    failpoint::at(Point::ProgressUpdate, Moment::After).await;
    if rows == 1 || !Protection::CompareAndSet.holds() {
        return Ok(());
    }
    Err(moved(table, &format!("it is not at record {} of incarnation {:?}", advance.from, advance.incarnation)))
}

/// Notes when the table was found equal to its source.
pub(super) fn set_verified(table: &TargetTable, incarnation: Incarnation, at: Timestamp) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [last_verified] = {} WHERE {} AND {}", time(Some(at)), its(table), of(incarnation))
}

/// The table that is now under the target's name.
pub(super) fn set_placed(table: &TargetTable, object_id: i64) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [placed] = {object_id} WHERE {}", its(table))
}

pub(super) fn forget_rows(table: &TargetTable) -> String {
    let its = its(table);
    format!("DELETE FROM [link_operator].[link_chunks] WHERE {its}; DELETE FROM [link_operator].[link_progress] WHERE {its}")
}

/// Removes claim, progress and what stands aside, and the table too if `delete` and it is the link's.
pub(super) async fn forget(transaction: &mut Transaction, table: &TargetTable, delete: bool) -> Result<(), Error> {
    if there(transaction).await?.contains(&false) {
        return Ok(());
    }
    let Some(claimed) = claimed(transaction, table).await? else { return Ok(()) };
    drop_aside(transaction, table).await?;
    if delete
        && let Some(existing) = existing(transaction, &claimed.name).await?
        && existing.made_by(table, claimed.placed)
    {
        drop_table(transaction, &claimed.name).await?;
    }
    transaction.run(&forget_rows(table)).await?;
    Ok(())
}

pub(super) fn find_aside(table: &TargetTable) -> String {
    // An underscore is any character to LIKE.
    let pattern = format!("{}_%", aside::build_prefix(table)).replace('_', "[_]");
    format!(
        "SELECT s.[name], t.[name] FROM sys.tables t JOIN sys.schemas s ON s.[schema_id] = t.[schema_id] WHERE t.[name] LIKE {}",
        literal(&pattern)
    )
}

/// Drops all tables that were built aside for the table.
pub(super) async fn drop_aside(transaction: &mut Transaction, table: &TargetTable) -> Result<(), Error> {
    for row in transaction.query(&find_aside(table)).await? {
        transaction.run(&drop(&name_of(&row, 0))).await?;
    }
    Ok(())
}

pub(super) fn drop(name: &TableName) -> String {
    format!("DROP TABLE {}", quote::table(name))
}

/// Drops a table that readers may use, and says who depends on it.
pub(super) async fn drop_table(transaction: &mut Transaction, name: &TableName) -> Result<(), Error> {
    transaction.run(&drop(name)).await.map(|_| ()).map_err(|failure| match failure.number {
        // A foreign key refers to it; a view or function is bound to it.
        3726 | 3729 => Error::TargetError(format!(
            "table {name} cannot be replaced or dropped while others depend on it: {}. Drop them (ALTER TABLE … DROP CONSTRAINT, DROP VIEW …) and \
             make them again after",
            failure.message
        )),
        _ => failure.into(),
    })
}

pub(super) fn read_tables(link_id: &str) -> String {
    let columns = "[source_schema], [source_table], [target_schema], [target_table]";
    if_there(&format!("SELECT {columns} FROM [link_operator].[link_progress] WHERE [link_id] = {}", literal(link_id)))
}

/// All tables that a link claims.
pub(super) async fn tables_of(transaction: &mut Transaction, link_id: &str) -> Result<Vec<TargetTable>, Error> {
    let rows = transaction.query(&read_tables(link_id)).await?;
    Ok(rows.iter().map(|row| TargetTable { link_id: link_id.to_owned(), source: name_of(row, 0), name: name_of(row, 2) }).collect())
}

/// The error of whoever is late.
pub(super) fn moved(table: &TargetTable, what: &str) -> Error {
    Error::ProgressMoved(format!("progress of {} is another's: {what}", table.name))
}
