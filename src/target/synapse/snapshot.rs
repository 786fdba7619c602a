//! The table aside: made, loaded chunk by chunk, and put in place of the one before.
//!
//! A pool has no DDL in transactions. Each step says first what it is about to do, in a row or by a name, so that the next attempt
//! goes on where this one ended.

use std::collections::BTreeSet;

use super::{
    merge::Sql,
    progress::{self, Claimed},
    shape,
};
use crate::{
    api::database::OnExistingTable,
    data::TableSchema,
    failpoint::{self, Point},
    protection::Protection,
    sqlserver::Session,
    target::{
        Advance, Error, Incarnation, Progress, TargetTable, aside,
        tds::{
            rights::{self, Right},
            transaction::Transaction,
        },
    },
};

/// The chunks that are loaded, if the incarnation has begun.
pub(super) async fn begun(
    session: &mut Session,
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
    // A table aside that somebody dropped is begun again; one that is in place already is not.
    if !progress.exact
        && progress::existing(session, &aside::build_name(table, incarnation)).await?.is_none()
        && !is_placed(session, table).await?
    {
        return Ok(None);
    }
    progress::chunks(session, table, incarnation).await.map(Some)
}

/// Whether the table that was on its way to the target's name has got there.
async fn is_placed(session: &mut Session, table: &TargetTable) -> Result<bool, Error> {
    let placing = progress::placing(session, table).await?;
    Ok(placing.is_some() && progress::existing(session, &table.name).await?.map(|existing| existing.object_id) == placing)
}

/// Removes what lower incarnations left.
pub(super) async fn clear(session: &mut Session, table: &TargetTable, incarnation: Incarnation) -> Result<(), Error> {
    progress::put_back(session, table).await?;
    for (name, aside) in progress::asides(session, table).await? {
        if aside.incarnation() < incarnation {
            progress::dropped(session.run(&progress::drop(&name)).await)?;
        }
    }
    Ok(())
}

/// Says that the incarnation has begun, before its table is made: who finds it begun and no table has lost no chunk. Whether there
/// is one is asked under the lock, under which chunks are moved.
pub(super) async fn begin(mut transaction: Transaction, table: &TargetTable, incarnation: Incarnation) -> Result<Session, Error> {
    let progress = claim_of(&mut transaction, table).await?.progress;
    if begun(&mut transaction, table, incarnation, progress).await?.is_none() {
        transaction.run(&progress::forget_columns(table)).await?;
        transaction.run(&progress::begin_incarnation(table, incarnation)).await?;
        transaction.run(&progress::forget_placing(table)).await?;
    }
    Ok(transaction.commit().await?)
}

/// Makes the table of an incarnation that has begun, unless it is there.
pub(super) async fn make(
    session: &mut Session,
    table: &TargetTable,
    schema: &TableSchema,
    collation: &str,
    incarnation: Incarnation,
) -> Result<(), Error> {
    let kinds = shape::kinds(schema, collation);
    let build = aside::build_name(table, incarnation);
    progress::made(session.run(&shape::create_table(&build, schema, &kinds, &table.options)).await)?;
    Ok(())
}

/// Why a chunk is not to be loaded, if it is not.
pub(super) async fn check_chunk(session: &mut Session, table: &TargetTable, incarnation: Incarnation, chunk: u32) -> Result<(), Error> {
    if session.query(&progress::is_loading(table, incarnation)).await?.is_empty() {
        return Err(not_loading(table, incarnation));
    }
    has_not(session, table, incarnation, chunk).await
}

async fn has_not(session: &mut Session, table: &TargetTable, incarnation: Incarnation, chunk: u32) -> Result<(), Error> {
    let has = !session.query(&progress::find_chunk(table, incarnation, chunk)).await?.is_empty();
    if has && Protection::ChunkProgress.holds() { Err(progress::moved(table, &format!("chunk {chunk} is loaded already"))) } else { Ok(()) }
}

fn not_loading(table: &TargetTable, incarnation: Incarnation) -> Error {
    progress::moved(table, &format!("incarnation {} of run {} is not being loaded", incarnation.record, incarnation.run))
}

/// Moves a staged chunk into the table aside, its row in the list of chunks with it.
pub(super) async fn move_chunk(
    mut transaction: Transaction,
    table: &TargetTable,
    incarnation: Incarnation,
    chunk: u32,
    rows: u64,
    insert: &str,
) -> Result<Session, Error> {
    if transaction.run(&progress::hold_loading(table, incarnation)).await? != 1 {
        return Err(not_loading(table, incarnation));
    }
    has_not(&mut transaction, table, incarnation, chunk).await?;
    transaction.run(&progress::insert_chunk(table, incarnation, chunk)).await?;
    if rows > 0 {
        transaction.run(insert).await?;
    }
    transaction.run(&progress::count_chunk(table, incarnation, chunk, rows)).await?;
    Ok(failpoint::around(Point::TargetCommit, transaction.commit()).await?)
}

/// Puts the table aside in place of the one before, whose rights it takes over. Returns the table in place and the one before.
/// Between the two names there is, for a moment, no table of that name.
pub(super) async fn place(
    session: &mut Session,
    table: &TargetTable,
    sql: &Sql,
    advance: &Advance,
    on_existing: OnExistingTable,
) -> Result<Placed, Error> {
    let Claimed { placed, progress, .. } = match progress::read_claimed(session, table).await? {
        Some(claimed) if claimed.name == table.name => claimed,
        _ => return Err(progress::moved(table, "it is not claimed")),
    };
    if !progress.is_some_and(|p| p.incarnation == advance.incarnation && p.record == advance.from && !p.exact) {
        return Err(progress::moved(table, &format!("it is not at record {} of {:?}", advance.from, advance.incarnation)));
    }
    let build = aside::build_name(table, advance.incarnation);
    let Some(ours) = progress::existing(session, &build).await? else {
        // An attempt before this one got so far.
        if is_placed(session, table).await? {
            return in_place(session, table).await;
        }
        return Err(Error::TargetInconsistent(format!("table {build}, which a snapshot is loaded into, is gone")));
    };
    if let Some(row) = session.query(&sql.twice()).await?.first() {
        let key = row.text(0).unwrap_or_default();
        let source = &table.source;
        return Err(Error::TargetInconsistent(format!(
            "the snapshot of {source} has a row twice, or keys that the target compares alike: {key}"
        )));
    }
    if session.run(&progress::set_placing(table, advance.incarnation, advance.from, ours.object_id)).await? != 1 {
        return Err(progress::moved(table, &format!("it is not at record {} of {:?}", advance.from, advance.incarnation)));
    }
    let old = shape::old_name(table, advance.incarnation);
    let before = progress::existing(session, &table.name).await?;
    if let Some(before) = &before {
        progress::check_replaceable(table, before, placed, on_existing)?;
        for row in session.query(&rights::of(before.object_id)).await? {
            let [state, permission, grantee] = [0, 1, 2].map(|at| row.text(at).unwrap_or_default());
            if let Some(give) = rights::give(&Right { state, permission, grantee, column: row.text(3) }, &build) {
                session.run(&give).await.map_err(|failure| not_given(failure.into(), table, &give))?;
            }
        }
        // Of an attempt that did not end.
        progress::dropped(session.run(&progress::drop(&old)).await)?;
        session.run(&shape::rename(&table.name, &old.table_name)).await?;
    }
    if let Err(failure) = session.run(&shape::rename(&build, &table.name.table_name)).await {
        if before.is_some()
            && let Err(error) = session.run(&shape::rename(&old, &table.name.table_name)).await
        {
            tracing::warn!(table = %table.name, error = error.message, "the table that was to be replaced stands aside as {old} until the next attempt");
        }
        return Err(failure.into());
    }
    in_place(session, table).await
}

/// What stands under the target's name, and what stood there.
pub(super) struct Placed {
    pub(super) object_id: i64,
    pub(super) before: Option<i64>,
}

async fn in_place(session: &mut Session, table: &TargetTable) -> Result<Placed, Error> {
    let found = progress::existing(session, &table.name).await?;
    let found = found.ok_or_else(|| Error::TargetInconsistent(format!("table {}, which was just put in place, is gone", table.name)))?;
    let before = progress::read_claimed(session, table).await?.and_then(|claimed| claimed.placed);
    Ok(Placed { object_id: found.object_id, before: before.filter(|before| *before != found.object_id) })
}

/// Says that the table is exact, and in place.
pub(super) async fn finish(
    mut transaction: Transaction,
    table: &TargetTable,
    advance: &Advance,
    placed: &Placed,
) -> Result<Session, Error> {
    progress::advance(&mut transaction, table, advance, false, true).await?;
    transaction.run(&progress::count_chunks(table, advance.incarnation)).await?;
    transaction.run(&progress::set_placed(table, placed.object_id)).await?;
    for object_id in placed.before.iter().chain([&placed.object_id]) {
        transaction.run(&progress::forget_mark(*object_id)).await?;
    }
    transaction.run(&progress::set_mark(table, placed.object_id)).await?;
    Ok(failpoint::around(Point::TargetCommit, transaction.commit()).await?)
}

fn not_given(error: Error, table: &TargetTable, give: &str) -> Error {
    match error {
        Error::TargetPermissionDenied { message, .. } => Error::TargetPermissionDenied {
            message: format!("readers of {} cannot be given the rights that they had ({give}): {message}", table.name),
            remedy: progress::denied_control(&table.name.schema_name),
        },
        other => other,
    }
}

/// The table's claim, which the transaction holds.
async fn claim_of(transaction: &mut Transaction, table: &TargetTable) -> Result<Claimed, Error> {
    match progress::claimed(transaction, table).await? {
        Some(claimed) if claimed.name == table.name => Ok(claimed),
        _ => Err(progress::moved(table, "it is not claimed")),
    }
}
