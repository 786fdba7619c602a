//! Which tables can be linked.

use std::collections::HashMap;

use super::{SqlServer, catalog, eligible};
use crate::{api::database::CaptureMode, data::TableName, source::Error, sqlserver::Row};

/// Tables that are not the server's own.
pub const LISTED: &str = "s.name NOT IN (N'cdc', N'sys') AND t.is_ms_shipped = 0 AND t.name NOT IN (N'systranschemas', N'sysdiagrams')";

/// All tables of the database that the user sees, those of the server's own left out, from three questions.
pub async fn discover(source: &SqlServer) -> Result<Vec<(TableName, Option<Error>)>, Error> {
    let mut session = source.session().await?;
    let tables = session.query(&catalog::tables_query(LISTED)).await?;
    let of_tables = |alias: &str| format!("{alias}.object_id IN (SELECT t.object_id FROM sys.tables AS t)");
    let mut columns = by_table(session.query(&catalog::columns_query(&of_tables("c"))).await?);
    let mut keys = by_table(session.query(&catalog::keys_query(&of_tables("i"))).await?);
    let instances = match source.mode() {
        CaptureMode::ChangeTracking => Vec::new(),
        CaptureMode::ChangeDataCapture => catalog::instances(&mut session, None).await?,
    };
    let eligible = tables.iter().map(|row| {
        let (object_id, about) = catalog::facts(row);
        let table = TableName::new(row.text(1).unwrap_or_default(), row.text(2).unwrap_or_default());
        let id = Some(i64::from(object_id.cast_signed()));
        let facets = columns.remove(&id).unwrap_or_default().iter().map(catalog::facet).collect();
        let indexes = catalog::indexes(&keys.remove(&id).unwrap_or_default());
        let captured: Vec<_> = instances.iter().filter(|instance| instance.object_id == object_id).cloned().collect();
        let built = eligible::build(source.mode(), &table, object_id, &about, facets, &indexes, &captured);
        (table, built.err())
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
