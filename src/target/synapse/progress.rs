//! The link's own tables in a pool, as it makes and locks them.
//!
//! A pool keeps no key unique, has no lock that one could ask for, and takes no DDL in a transaction. So a row that is updated is the
//! lock: that of a table for what concerns it, the one row of `link_lock` for claims. What DDL makes is made before the transaction
//! that says so, under a name that tells whose it is, and done again it does nothing.

use std::collections::HashMap;

use super::shape::Aside;
use crate::{
    api::database::OnExistingTable,
    data::TableName,
    sqlserver::{
        Class, Failure, Session,
        quote::{identifier, literal, table as quoted},
    },
    target::{Claim, Error, Incarnation, Progress, TargetTable, aside, tds::transaction::Transaction},
};

pub(super) use crate::target::tds::progress::*;

/// Begins a transaction. A pool has one isolation level, and which that is, is the database's.
pub(super) const BEGIN: &str = "BEGIN TRANSACTION";

/// Names in the source are compared byte by byte, those of the target as the database compares the names of tables. All rows of a
/// link lie in one distribution, in the order of its tables.
pub(super) const CREATE: [(&str, &str); 7] = [
    ("SCHEMA_ID(N'link_operator')", "CREATE SCHEMA [link_operator]"),
    (
        "OBJECT_ID(N'[link_operator].[link_progress]')",
        "CREATE TABLE [link_operator].[link_progress] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [target_schema] nvarchar(128) NOT NULL, [target_table] nvarchar(128) NOT NULL,
        [run] bigint NULL, [incarnation] bigint NULL, [record] bigint NULL,
        [exact] bit NOT NULL DEFAULT 0, [group_revision] bigint NULL,
        [as_of] datetimeoffset(6) NULL, [rows] bigint NOT NULL DEFAULT 0, [placing] int NULL, [placed] int NULL,
        [updated_at] datetimeoffset(6) NULL, [last_verified] datetimeoffset(6) NULL
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]))",
    ),
    (
        "OBJECT_ID(N'[link_operator].[link_chunks]')",
        "CREATE TABLE [link_operator].[link_chunks] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [run] bigint NOT NULL, [incarnation] bigint NOT NULL, [chunk] bigint NOT NULL, [rows] bigint NOT NULL DEFAULT 0
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]))",
    ),
    // Columns that were added before the transaction in which they count.
    (
        "OBJECT_ID(N'[link_operator].[link_columns]')",
        "CREATE TABLE [link_operator].[link_columns] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [run] bigint NOT NULL, [incarnation] bigint NOT NULL,
        [column_name] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]))",
    ),
    // Whose tables are, also after the link forgot them. A pool has no properties of tables.
    (
        "OBJECT_ID(N'[link_operator].[link_made]')",
        "CREATE TABLE [link_operator].[link_made] ([object_id] int NOT NULL, [mark] nvarchar(1000) COLLATE Latin1_General_100_BIN2 NOT NULL)
        WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)",
    ),
    // Made with its row, in one.
    (
        "OBJECT_ID(N'[link_operator].[link_lock]')",
        "CREATE TABLE [link_operator].[link_lock] WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS SELECT CONVERT(bigint, 0) AS [turn]",
    ),
    // For readers; nothing of ours needs it.
    (
        "OBJECT_ID(N'[link_operator].[link_status]')",
        "CREATE VIEW [link_operator].[link_status] AS
        SELECT [link_id], [source_schema], [source_table], [target_schema], [target_table], [exact],
            CASE WHEN [exact] = 1 THEN [as_of] END AS [consistent_as_of],
            CONVERT(bit, CASE WHEN [group_revision] IS NOT NULL THEN 1 ELSE 0 END) AS [grouped], [last_verified]
        FROM [link_operator].[link_progress]",
    ),
];

/// Takes the lock under which tables are claimed.
pub(super) const LOCK_CLAIMS: &str = "UPDATE [link_operator].[link_lock] SET [turn] = [turn] + 1";

/// Whether our schema and tables are there: one number each.
pub(super) fn exist() -> String {
    let columns: Vec<String> = CREATE.iter().map(|(found, _)| format!("CASE WHEN {found} IS NULL THEN 0 ELSE 1 END")).collect();
    format!("SELECT {}", columns.join(", "))
}

async fn there(session: &mut Session) -> Result<Vec<bool>, Error> {
    let rows = session.query(&exist()).await?;
    Ok((0..CREATE.len()).map(|at| rows.first().is_some_and(|row| row.flag(at))).collect())
}

/// Whether all of ours is there.
pub(super) async fn is_made(session: &mut Session) -> Result<bool, Error> {
    Ok(!there(session).await?.contains(&false))
}

/// Makes our schema and tables unless they are there. Who comes second finds them.
pub(super) async fn ensure(session: &mut Session) -> Result<(), Error> {
    for ((_, create), there) in CREATE.iter().zip(there(session).await?) {
        if !there {
            made(session.run(create).await)?;
        }
    }
    Ok(())
}

/// Whether something was made, now or by somebody else.
pub(super) fn made(result: Result<u64, Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.class == Class::ObjectExists => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Takes the name for its link, in a transaction that has the lock, and says whether the link may put its own table in place of
/// one that is there.
pub(super) async fn take_name(session: &mut Session, table: &TargetTable, on_existing: OnExistingTable) -> Result<Claim, Error> {
    let placed = take(session, table).await?;
    let Some(existing) = existing(session, &table.name).await? else { return Ok(Claim::Load) };
    check_replaceable(table, &existing, placed, on_existing)
}

/// The object of the name, whoever made it, and whether a link may replace it.
pub(super) async fn found(session: &mut Session, name: &TableName) -> Result<Option<(i64, bool)>, Error> {
    Ok(session.query(&find(name)).await?.first().and_then(|row| Some((row.number(0)?, row.flag(1)))))
}

pub(super) fn find(name: &TableName) -> String {
    format!(
        "SELECT o.[object_id], CASE WHEN o.[type] = 'U' AND t.[is_external] = 0 THEN 1 ELSE 0 END \
         FROM sys.objects o JOIN sys.schemas s ON s.[schema_id] = o.[schema_id] LEFT JOIN sys.tables t ON t.[object_id] = o.[object_id] \
         WHERE s.[name] = {} AND o.[name] = {}",
        literal(&name.schema_name),
        literal(&name.table_name)
    )
}

/// Asks for a mark: by itself, for a pool keeps its catalog elsewhere than rows.
pub(super) fn read_mark(object_id: i64) -> String {
    format!("SELECT [mark] FROM [link_operator].[link_made] WHERE [object_id] = {object_id}")
}

/// Looks an object up by its name.
pub(super) async fn existing(session: &mut Session, name: &TableName) -> Result<Option<Existing>, Error> {
    let Some((object_id, replaceable)) = found(session, name).await? else { return Ok(None) };
    let mark = session.query(&read_mark(object_id)).await?.first().and_then(|row| row.text(0));
    Ok(Some(Existing { object_id, replaceable, mark }))
}

pub(super) fn read_placing(table: &TargetTable) -> String {
    format!("SELECT [placing] FROM [link_operator].[link_progress] WHERE {}", its(table))
}

/// The table that is on its way to the target's name.
pub(super) async fn placing(session: &mut Session, table: &TargetTable) -> Result<Option<i64>, Error> {
    Ok(session.query(&read_placing(table)).await?.first().and_then(|row| row.number(0)))
}

/// Says which table is on its way to the target's name, if progress is where it is thought to be.
pub(super) fn set_placing(table: &TargetTable, incarnation: Incarnation, record: u64, object_id: i64) -> String {
    format!(
        "UPDATE [link_operator].[link_progress] SET [placing] = {object_id} WHERE {} AND {} AND [record] = {record} AND [exact] = 0",
        its(table),
        of(incarnation)
    )
}

pub(super) fn forget_placing(table: &TargetTable) -> String {
    format!("UPDATE [link_operator].[link_progress] SET [placing] = NULL WHERE {}", its(table))
}

/// A claim, which the transaction holds from here on.
pub(super) async fn claimed(transaction: &mut Transaction, table: &TargetTable) -> Result<Option<Claimed>, Error> {
    transaction.run(&hold(table)).await?;
    read_claimed(transaction, table).await
}

/// A claim as it is now.
pub(super) async fn read_claimed(session: &mut Session, table: &TargetTable) -> Result<Option<Claimed>, Error> {
    let rows = session.query(&read_claim(table)).await?;
    Ok(rows.first().map(|row| Claimed { name: name_of(row, 0), placed: row.number(2), progress: progress_of(row, 3) }))
}

/// How far the table is; none also where nothing was made yet.
pub(super) async fn progress(session: &mut Session, table: &TargetTable) -> Result<Option<Progress>, Error> {
    if is_made(session).await? { read(session, table).await } else { Ok(None) }
}

/// How far each table of a link is, by its name in the source.
pub(super) async fn all(session: &mut Session, link_id: &str) -> Result<HashMap<TableName, Progress>, Error> {
    if is_made(session).await? { of_link(session, link_id).await } else { Ok(HashMap::new()) }
}

pub(super) fn forget_columns(table: &TargetTable) -> String {
    format!("DELETE FROM [link_operator].[link_columns] WHERE {}", its(table))
}

pub(super) fn note_column(table: &TargetTable, incarnation: Incarnation, column: &str) -> String {
    let TargetTable { link_id, source, .. } = table;
    format!(
        "INSERT INTO [link_operator].[link_columns] ([link_id], [source_schema], [source_table], [run], [incarnation], [column_name]) \
         VALUES ({}, {}, {}, {}, {}, {})",
        literal(link_id),
        literal(&source.schema_name),
        literal(&source.table_name),
        incarnation.run,
        incarnation.record,
        literal(column)
    )
}

pub(super) fn find_noted(table: &TargetTable, incarnation: Incarnation, column: &str) -> String {
    format!(
        "SELECT TOP (1) 1 FROM [link_operator].[link_columns] WHERE {} AND {} AND [column_name] = {}",
        its(table),
        of(incarnation),
        literal(column)
    )
}

pub(super) fn find_column(table: &TableName, column: &str) -> String {
    format!("SELECT 1 FROM sys.columns WHERE [object_id] = OBJECT_ID({}) AND [name] = {}", literal(&quoted(table)), literal(column))
}

/// Marks a table as the link's.
pub(super) fn set_mark(table: &TargetTable, object_id: i64) -> String {
    format!("INSERT INTO [link_operator].[link_made] ([object_id], [mark]) VALUES ({object_id}, {})", literal(&aside::mark(table)))
}

pub(super) fn forget_mark(object_id: i64) -> String {
    format!("DELETE FROM [link_operator].[link_made] WHERE [object_id] = {object_id}")
}

/// Locks the table against whoever loads or moves it, while it is still loaded in this incarnation.
pub(super) fn hold_loading(table: &TargetTable, incarnation: Incarnation) -> String {
    format!(
        "UPDATE [link_operator].[link_progress] SET [updated_at] = SYSDATETIMEOFFSET() WHERE {} AND {} AND [exact] = 0",
        its(table),
        of(incarnation)
    )
}

pub(super) fn find_chunk(table: &TargetTable, incarnation: Incarnation, chunk: u32) -> String {
    format!("SELECT 1 FROM [link_operator].[link_chunks] WHERE {} AND {} AND [chunk] = {chunk}", its(table), of(incarnation))
}

/// The tables that stand aside for the table.
pub(super) async fn asides(session: &mut Session, table: &TargetTable) -> Result<Vec<(TableName, Aside)>, Error> {
    let rows = session.query(&find_aside(table)).await?;
    let names = rows.iter().map(|row| name_of(row, 0));
    Ok(names.filter_map(|name| Aside::of(table, &name.table_name).map(|aside| (name, aside))).collect())
}

/// Drops all tables that stand aside for the table.
pub(super) async fn drop_asides(session: &mut Session, table: &TargetTable) -> Result<(), Error> {
    for (name, _) in asides(session, table).await? {
        dropped(session.run(&drop(&name)).await)?;
    }
    Ok(())
}

/// Whether something was dropped, now or by somebody else.
pub(super) fn dropped(result: Result<u64, Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.class == Class::ObjectMissing => Ok(()),
        result => result.map(|_| ()),
    }
}

/// If the target's name was left without a table by a swap that did not end, the table that stood there stands there again.
pub(super) async fn put_back(session: &mut Session, table: &TargetTable) -> Result<(), Error> {
    if existing(session, &table.name).await?.is_some() {
        return Ok(());
    }
    let old = asides(session, table).await?.into_iter().filter(|(_, aside)| matches!(aside, Aside::Old(_)));
    if let Some((old, _)) = old.max_by_key(|(_, aside)| aside.incarnation()) {
        session.run(&super::shape::rename(&old, &table.name.table_name)).await?;
    }
    Ok(())
}

/// What lets a link pass on the rights that others have on a table.
pub(super) fn denied_control(schema: &str) -> String {
    format!("GRANT CONTROL ON SCHEMA::{} TO the user that spec.target logs in as", identifier(schema))
}
