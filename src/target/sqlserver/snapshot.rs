//! The table aside: made, loaded chunk by chunk, and put in place of the one before.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use futures::{StreamExt as _, stream::BoxStream};

use super::{
    ddl,
    load::{self, Batch, Column},
    merge::{Place, Sql},
    progress::{self, Claimed},
};
use crate::{
    api::database::OnExistingTable,
    data::{TableName, TableSchema},
    sqlserver::{Class, Session, quote},
    target::{
        Advance, Error, Incarnation, LargeValues, Progress, TargetTable, aside, besides,
        tds::{
            kind::{Kind, Types},
            rights::{self, Right},
        },
    },
};

/// Rows on their way into a table aside that cannot be loaded as they are sent.
const STAGED: &str = "#link_upserts";

/// Makes the table of this incarnation, see [`crate::target::Target::begin_snapshot`].
pub(super) async fn begin(
    session: &mut Session,
    table: &TargetTable,
    schema: &TableSchema,
    types: Types,
    incarnation: Incarnation,
) -> Result<BTreeSet<u32>, Error> {
    // First without the lock: this is asked again and again while chunks load, and their loads hold it.
    let progress = progress::read(session, table).await?;
    if let Some(chunks) = begun(session, table, incarnation, progress).await? {
        return Ok(chunks);
    }
    let progress = claim_of(session, table).await?.progress;
    if let Some(chunks) = begun(session, table, incarnation, progress).await? {
        return Ok(chunks);
    }
    progress::drop_aside(session, table).await?;
    let build = aside::build_name(table, incarnation);
    session.run(&ddl::create_table(&build, schema, &Kind::all(schema, types))).await?;
    session.run(&progress::begin_incarnation(table, incarnation)).await?;
    Ok(BTreeSet::new())
}

/// The chunks that are loaded, if the incarnation has begun.
async fn begun(
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
    // A table aside that somebody dropped is begun again.
    if !progress.exact && progress::existing(session, &aside::build_name(table, incarnation)).await?.is_none() {
        return Ok(None);
    }
    progress::chunks(session, table, incarnation).await.map(Some)
}

/// A chunk's rows.
pub(super) struct Chunk {
    pub(super) number: u32,
    pub(super) rows: BoxStream<'static, Result<RecordBatch, Error>>,
}

/// Loads one chunk, see [`crate::target::Target::load_chunk`].
pub(super) async fn load(
    session: &mut Session,
    table: &TargetTable,
    schema: &TableSchema,
    types: Types,
    incarnation: Incarnation,
    chunk: Chunk,
    values: Option<&dyn LargeValues>,
) -> Result<u64, Error> {
    progress::add_chunk(session, table, incarnation, chunk.number).await?;
    let (build, kinds) = (aside::build_name(table, incarnation), Kind::all(schema, types));
    let count = kinds.len();
    let batches = chunk.rows.map(move |batch| batch.and_then(|batch| Batch::new(&batch, count, besides(&batch)?, Vec::new()))).boxed();
    let people = table.name.to_string();
    let rows = if !types.babelfish && kinds.iter().all(Kind::is_direct) {
        let sent = (0..count).map(|at| Column::of(schema, at, &kinds[at])).collect();
        load::load(session, &quote::table(&build), sent, true, batches, &people, values).await?
    } else {
        let sql = Sql::new(&build, schema.clone(), types, Place::Aside);
        let all: Vec<usize> = (0..count).collect();
        session.run(&sql.create_staged(STAGED, 'c', &all, &[])).await?;
        let sent = (0..count).map(|at| Column::staged(schema, at, &kinds[at], format!("c{at}"))).collect();
        let rows = load::load(session, STAGED, sent, false, batches, &people, values).await?;
        session.run(&format!("{}; DROP TABLE {STAGED}", sql.insert(false))).await?;
        rows
    };
    session.run(&progress::count_chunk(table, incarnation, chunk.number, rows)).await?;
    Ok(rows)
}

/// Asks whether the key of a table is unique.
pub(super) fn is_sealed(build: &TableName) -> String {
    format!("SELECT 1 FROM sys.indexes WHERE [object_id] = OBJECT_ID({}) AND [is_primary_key] = 1", quote::literal(&quote::table(build)))
}

/// Makes the key of the table aside unique. In a transaction of its own, before the one that swaps: building the index of a large
/// table takes minutes, the swap must take none. Done again, it does nothing.
pub(super) async fn seal(
    session: &mut Session,
    table: &TargetTable,
    schema: &TableSchema,
    types: Types,
    advance: &Advance,
) -> Result<(), Error> {
    let progress = claim_of(session, table).await?.progress;
    if !progress.is_some_and(|p| p.incarnation == advance.incarnation && p.record == advance.from && !p.exact) {
        return Err(progress::moved(table, &format!("it is not at record {} of {:?}", advance.from, advance.incarnation)));
    }
    let build = aside::build_name(table, advance.incarnation);
    object_of(session, &build).await?;
    if session.query(&is_sealed(&build)).await?.is_empty() {
        let key = ddl::primary_key(&build, schema, &Kind::all(schema, types));
        session.run(&key).await.map_err(|failure| match failure.class {
            Class::Duplicate => Error::TargetInconsistent(format!(
                "the snapshot of {} has a row twice, or keys that the target compares alike: {}",
                table.source, failure.message
            )),
            _ => failure.into(),
        })?;
    }
    session.run(&ddl::set_mark(&build, table)).await?;
    Ok(())
}

/// Puts the table aside in place of the one before, whose rights it takes over.
pub(super) async fn swap(session: &mut Session, table: &TargetTable, advance: &Advance, on_existing: OnExistingTable) -> Result<(), Error> {
    // As in all that holds a claim, the lock comes before the row.
    let placed = claim_of(session, table).await?.placed;
    progress::advance(session, table, advance, false, true).await?;
    session.run(&progress::count_chunks(table, advance.incarnation)).await?;
    let build = aside::build_name(table, advance.incarnation);
    let object_id = object_of(session, &build).await?;
    if let Some(before) = progress::existing(session, &table.name).await? {
        progress::check_replaceable(table, &before, placed, on_existing)?;
        for row in session.query(&rights::of(before.object_id)).await? {
            let [state, permission, grantee] = [0, 1, 2].map(|at| row.text(at).unwrap_or_default());
            if let Some(give) = rights::give(&Right { state, permission, grantee, column: row.text(3) }, &build) {
                session.run(&give).await.map_err(|failure| not_given(failure.into(), table, &give))?;
            }
        }
        progress::drop_table(session, &table.name).await?;
    }
    session.run(&ddl::rename(&build, &table.name)).await?;
    session.run(&progress::set_placed(table, object_id)).await?;
    Ok(())
}

fn not_given(error: Error, table: &TargetTable, give: &str) -> Error {
    match error {
        Error::TargetPermissionDenied { message, .. } => Error::TargetPermissionDenied {
            message: format!("readers of {} cannot be given the rights that they had ({give}): {message}", table.name),
            remedy: format!(
                "GRANT CONTROL ON SCHEMA::{} TO the user that spec.target logs in as",
                quote::identifier(&table.name.schema_name)
            ),
        },
        other => other,
    }
}

/// The table's claim, held as [`progress::claimed`] does.
async fn claim_of(session: &mut Session, table: &TargetTable) -> Result<Claimed, Error> {
    match progress::claimed(session, table).await? {
        Some(claimed) if claimed.name == table.name => Ok(claimed),
        _ => Err(progress::moved(table, "it is not claimed")),
    }
}

async fn object_of(session: &mut Session, name: &TableName) -> Result<i64, Error> {
    let found = progress::existing(session, name).await?;
    found
        .map(|table| table.object_id)
        .ok_or_else(|| Error::TargetInconsistent(format!("table {name}, which a snapshot is loaded into, is gone")))
}
