//! All tables as they are, with the sizes that the catalog's statistics have: nothing is locked and no table is looked at.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::catalog;
use crate::source::{Error, Size, Surveyed};

/// What the last VACUUM, ANALYZE or CREATE INDEX counted; -1 rows where there was none. Large values are kept beside a table.
const SIZES: &str = "\
SELECT c.oid, c.reltuples::float8 AS rows, (c.relpages::int8 + coalesce(t.relpages, 0)) * current_setting('block_size')::int8 AS bytes \
  FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = ANY ($1)";

/// See [`crate::source::Source::survey`].
pub async fn survey(client: &Client) -> Result<Vec<Surveyed>, Error> {
    let tables = catalog::all(client).await?;
    let leaves: Vec<u32> = tables.iter().flat_map(|table| &table.parts).copied().collect();
    let rows = client.query(SIZES, &[&leaves]).await?;
    let sizes: HashMap<u32, (f64, i64)> = rows.iter().map(|row| (row.get("oid"), (row.get("rows"), row.get("bytes")))).collect();
    let surveyed = |table: catalog::Judged| {
        let sizes: Vec<(f64, i64)> = table.parts.iter().filter_map(|part| sizes.get(part).copied()).collect();
        Surveyed { size: size(&sizes), name: table.name, table: table.table }
    };
    Ok(tables.into_iter().map(surveyed).collect())
}

/// The size of a table whose parts have these; unknown if one of them was never counted. Pure.
fn size(parts: &[(f64, i64)]) -> Size {
    if parts.is_empty() || parts.iter().any(|(rows, _)| *rows < 0.0) {
        return Size::default();
    }
    let (rows, bytes) = parts.iter().fold((0.0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Size { rows: Some(rows as u64), bytes: Some(bytes.max(0).unsigned_abs()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_large_as_its_parts_if_all_were_counted() {
        assert_eq!(size(&[(3.0, 8192), (4.0, 16384)]), Size { rows: Some(7), bytes: Some(24576) });
        assert_eq!(size(&[(0.0, 0)]), Size { rows: Some(0), bytes: Some(0) });
        assert_eq!((size(&[(3.0, 8192), (-1.0, 0)]), size(&[])), (Size::default(), Size::default()));
    }
}
