//! Progress of several tables at once: moved in the transaction that moves the rows of all (DESIGN 5.5), or told as of when it is.
//! Statements go in the order of names: two who move the same tables must not wait for each other.

use super::progress::{its_source, of, time};
use crate::{
    data::TableName,
    failpoint::{self, Moment, Point},
    protection::Protection,
    sqlserver::{Session, quote::literal},
    target::{Error, Incarnation, Stride, Untouched},
};

/// Where a table is thought to be.
#[derive(Clone, Copy)]
pub(in crate::target) struct Place<'a> {
    pub(in crate::target) source: &'a TableName,
    pub(in crate::target) incarnation: Incarnation,
    pub(in crate::target) record: u64,
}

pub(in crate::target) fn stride(stride: Stride<'_>, tables: &[Place<'_>]) -> String {
    let Stride { link_id, to, as_of, plan_revision } = stride;
    let mut tables = tables.to_vec();
    tables.sort_by_key(|table| table.source);
    let statements = tables.iter().map(|Place { source, incarnation, record }| {
        format!(
            "UPDATE [link_operator].[link_progress] SET [record] = {to}, [as_of] = COALESCE({}, [as_of]), [group_revision] = {plan_revision}, \
             [updated_at] = SYSDATETIMEOFFSET() WHERE {} AND {} AND [record] = {record} AND [exact] = 1 \
             AND ([group_revision] IS NULL OR [group_revision] <= {plan_revision})",
            time(as_of),
            its_source(link_id, source),
            of(*incarnation)
        )
    });
    statements.collect::<Vec<_>>().join("; ")
}

/// Takes tables out of the group that moved with others before and do not now.
pub(in crate::target) fn leave(stride: Stride<'_>, tables: &[Place<'_>]) -> String {
    let others = tables.iter().map(|table| {
        format!(
            " AND NOT ([source_schema] = {} AND [source_table] = {})",
            literal(&table.source.schema_name),
            literal(&table.source.table_name)
        )
    });
    format!(
        "UPDATE [link_operator].[link_progress] SET [group_revision] = NULL WHERE [link_id] = {} AND [group_revision] <= {}{}",
        literal(stride.link_id),
        stride.plan_revision,
        others.collect::<String>()
    )
}

/// Moves the progress of all tables by compare-and-set, or of none. Every table's is moved, also that of tables to which nothing is
/// done: whoever believes in another place of only one of them moves nothing.
pub(in crate::target) async fn advance(session: &mut Session, move_all: Stride<'_>, tables: &[Place<'_>]) -> Result<(), Error> {
    failpoint::at(Point::ProgressUpdate, Moment::Before).await;
    let moved = if tables.is_empty() { 0 } else { session.run(&stride(move_all, tables)).await? };
    if moved != tables.len() as u64 && Protection::CompareAndSet.holds() {
        let missing = (tables.len() as u64).saturating_sub(moved);
        return Err(Error::ProgressMoved(format!(
            "{missing} of {} tables that move together are not where they are thought",
            tables.len()
        )));
    }
    session.run(&leave(move_all, tables)).await?;
    failpoint::at(Point::ProgressUpdate, Moment::After).await;
    Ok(())
}

/// Moves `as_of` of tables that nothing has changed, see [`crate::target::Target::touch`].
pub(in crate::target) fn touch(link_id: &str, tables: &[Untouched]) -> String {
    let mut tables: Vec<&Untouched> = tables.iter().collect();
    tables.sort_by_key(|table| &table.source);
    let statements = tables.iter().map(|table| {
        let as_of = time(Some(table.as_of));
        format!(
            "UPDATE [link_operator].[link_progress] SET [as_of] = {as_of}, [updated_at] = SYSDATETIMEOFFSET() \
             WHERE {} AND {} AND [record] = {} AND [exact] = 1 AND ([as_of] IS NULL OR [as_of] < {as_of})",
            its_source(link_id, &table.source),
            of(table.incarnation),
            table.record
        )
    });
    statements.collect::<Vec<_>>().join("; ")
}
