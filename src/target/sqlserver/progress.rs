//! The link's own tables in the target database, as SQL Server makes and locks them.
//!
//! Rows are locked by updates alone, which every server with this protocol locks alike, and what loads of chunks share, by
//! `sp_getapplock`.

use super::{
    ddl,
    lock::{self, Mode},
};
use crate::{
    api::database::OnExistingTable,
    data::TableName,
    protection::Protection,
    sqlserver::{Class, Failure, Row, Session, quote::literal},
    target::{Claim, Error, Incarnation, TargetTable, aside},
};

pub(super) use crate::target::tds::progress::*;

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

/// Makes our schema and tables unless they are there.
pub(super) async fn ensure(session: &mut Session) -> Result<(), Error> {
    if there(session).await?.contains(&false) {
        lock::take(session, CLAIMS, Mode::Exclusive).await?;
        for (statement, there) in CREATE.iter().zip(there(session).await?) {
            if !there {
                session.run(statement).await?;
            }
        }
    }
    Ok(())
}

async fn there(session: &mut Session) -> Result<Vec<bool>, Error> {
    let rows = session.query(EXIST).await?;
    Ok((0..CREATE.len()).map(|at| rows.first().is_some_and(|row| row.flag(at))).collect())
}

/// Claims the table, see [`crate::target::Target::claim`].
pub(super) async fn claim(session: &mut Session, table: &TargetTable, on_existing: OnExistingTable) -> Result<Claim, Error> {
    // Claimants come one after the other: whom each meets is certain.
    lock::take(session, CLAIMS, Mode::Exclusive).await?;
    // Read without the lock, which loads of an older incarnation may hold for long.
    if let Some(before) = renamed(session, table).await? {
        forget(session, &before, false).await?;
    }
    let placed = take(session, table).await?;
    let Some(existing) = existing(session, &table.name).await? else { return Ok(Claim::Load) };
    check_replaceable(table, &existing, placed, on_existing)
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
pub(super) async fn existing(session: &mut Session, name: &TableName) -> Result<Option<Existing>, Error> {
    let rows = session.query(&find(name)).await?;
    let of = |row: &Row| Some(Existing { object_id: row.number(0)?, replaceable: row.flag(1), mark: row.text(2) });
    Ok(rows.first().and_then(of))
}

/// Reads a claim and holds it until the transaction ends, so that nobody loads or moves the table meanwhile.
pub(super) async fn claimed(session: &mut Session, table: &TargetTable) -> Result<Option<Claimed>, Error> {
    lock::take(session, &aside::build_prefix(table), Mode::Exclusive).await?;
    session.run(&hold(table)).await?;
    let rows = session.query(&read_claim(table)).await?;
    Ok(rows.first().map(|row| Claimed { name: name_of(row, 0), placed: row.number(2), progress: progress_of(row, 3) }))
}

/// Notes a chunk as loaded, in the transaction that loads it.
pub(super) async fn add_chunk(session: &mut Session, table: &TargetTable, incarnation: Incarnation, chunk: u32) -> Result<(), Error> {
    // Shared: chunks load side by side, and a newer incarnation waits until they are through.
    lock::take(session, &aside::build_prefix(table), Mode::Shared).await?;
    if session.query(&is_loading(table, incarnation)).await?.is_empty() {
        return Err(moved(table, &format!("incarnation {} of run {} is not being loaded", incarnation.record, incarnation.run)));
    }
    let has = |failure: &Failure| failure.class == Class::Duplicate;
    if !Protection::ChunkProgress.holds() {
        return Ok(());
    }
    // A row that another transaction has yet to commit is waited for.
    match session.run(&insert_chunk(table, incarnation, chunk)).await {
        Err(failure) if has(&failure) => Err(moved(table, &format!("chunk {chunk} is loaded already"))),
        inserted => Ok(inserted.map(|_| ())?),
    }
}

/// Removes claim, progress and what stands aside, and the table too if `delete` and it is the link's.
pub(super) async fn forget(session: &mut Session, table: &TargetTable, delete: bool) -> Result<(), Error> {
    if there(session).await?.contains(&false) {
        return Ok(());
    }
    let Some(claimed) = claimed(session, table).await? else { return Ok(()) };
    drop_aside(session, table).await?;
    if delete
        && let Some(existing) = existing(session, &claimed.name).await?
        && existing.made_by(table, claimed.placed)
    {
        drop_table(session, &claimed.name).await?;
    }
    session.run(&forget_rows(table)).await?;
    Ok(())
}

/// Drops all tables that were built aside for the table.
pub(super) async fn drop_aside(session: &mut Session, table: &TargetTable) -> Result<(), Error> {
    for row in session.query(&find_aside(table)).await? {
        session.run(&drop(&name_of(&row, 0))).await?;
    }
    Ok(())
}

/// Drops a table that readers may use, and says who depends on it.
pub(super) async fn drop_table(session: &mut Session, name: &TableName) -> Result<(), Error> {
    session.run(&drop(name)).await.map(|_| ()).map_err(|failure| match failure.number {
        // A foreign key refers to it; a view or function is bound to it.
        3726 | 3729 => Error::TargetError(format!(
            "table {name} cannot be replaced or dropped while others depend on it: {}. Drop them (ALTER TABLE … DROP CONSTRAINT, DROP VIEW …) and \
             make them again after",
            failure.message
        )),
        _ => failure.into(),
    })
}
