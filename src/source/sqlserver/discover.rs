//! Which tables can be linked, and how large they are.

use std::collections::HashMap;

use super::{SqlServer, catalog, eligible};
use crate::{
    api::database::CaptureMode,
    data::TableName,
    source::{Error, Size, Surveyed},
    sqlserver::{Row, Session},
};

/// Tables that are not the server's own.
pub const LISTED: &str = "s.name NOT IN (N'cdc', N'sys') AND t.is_ms_shipped = 0 AND t.name NOT IN (N'systranschemas', N'sysdiagrams')";

/// The server's own count of the rows of every table.
pub const ROWS: &str = "SELECT p.object_id, SUM(p.rows) FROM sys.partitions AS p WHERE p.index_id IN (0, 1) GROUP BY p.object_id";

/// And of their bytes, indexes left out.
pub const BYTES: &str = "SELECT q.object_id, SUM(a.total_pages) * 8192 FROM sys.allocation_units AS a JOIN sys.partitions AS q \
     ON a.container_id = q.partition_id OR a.container_id = q.hobt_id WHERE q.index_id IN (0, 1) GROUP BY q.object_id";

/// See [`crate::source::Source::discover`].
pub async fn discover(source: &SqlServer) -> Result<Vec<(TableName, Option<Error>)>, Error> {
    let tables = all(source, &mut *source.session().await?).await?;
    Ok(tables.into_iter().map(|(_, name, table)| (name, table.err())).collect())
}

/// See [`crate::source::Source::survey`].
pub async fn survey(source: &SqlServer) -> Result<Vec<Surveyed>, Error> {
    let tables = all(source, &mut *source.session().await?).await?;
    // Not every server counts, nor tells it to every user; a statement that failed may have broken the session.
    let rows = counted(&mut *source.session().await?, ROWS).await;
    let bytes = counted(&mut *source.session().await?, BYTES).await;
    let size = |id: &Option<i64>| Size { rows: rows.get(id).copied(), bytes: bytes.get(id).copied() };
    Ok(tables.into_iter().map(|(id, name, table)| Surveyed { size: size(&id), name, table: table.map(|table| table.schema) }).collect())
}

async fn counted(session: &mut Session, sql: &str) -> HashMap<Option<i64>, u64> {
    let rows = session.query(sql).await.unwrap_or_default();
    rows.iter().filter_map(|row| Some((row.number(0), u64::try_from(row.number(1)?).ok()?))).collect()
}

/// A table by the number of its object.
type Judged = (Option<i64>, TableName, Result<catalog::Table, Error>);

/// All tables of the database that the user sees, those of the server's own left out, from three questions.
async fn all(source: &SqlServer, session: &mut Session) -> Result<Vec<Judged>, Error> {
    let tables = session.query(&catalog::tables_query(LISTED)).await?;
    let of_tables = |alias: &str| format!("{alias}.object_id IN (SELECT t.object_id FROM sys.tables AS t)");
    let mut columns = by_table(session.query(&catalog::columns_query(&of_tables("c"))).await?);
    let mut keys = by_table(session.query(&catalog::keys_query(&of_tables("i"))).await?);
    let instances = match source.mode() {
        CaptureMode::ChangeTracking => Vec::new(),
        CaptureMode::ChangeDataCapture => catalog::instances(session, None).await?,
    };
    let eligible = tables.iter().map(|row| {
        let (object_id, about) = catalog::facts(row);
        let table = TableName::new(row.text(1).unwrap_or_default(), row.text(2).unwrap_or_default());
        let id = Some(i64::from(object_id.cast_signed()));
        let facets = columns.remove(&id).unwrap_or_default().iter().map(catalog::facet).collect();
        let indexes = catalog::indexes(&keys.remove(&id).unwrap_or_default());
        let captured: Vec<_> = instances.iter().filter(|instance| instance.object_id == object_id).cloned().collect();
        let built = eligible::build(source.mode(), &table, object_id, &about, facets, &indexes, &captured);
        (id, table, built)
    });
    Ok(eligible.collect())
}

fn by_table(rows: Vec<Row>) -> HashMap<Option<i64>, Vec<Row>> {
    let mut tables: HashMap<Option<i64>, Vec<Row>> = HashMap::new();
    for row in rows {
        tables.entry(row.number(0)).or_default().push(row);
    }
    tables
}
