//! Filling in what a change did not carry, while its table's snapshot is under way.
//!
//! PostgreSQL does not send a large value that an update left unchanged. A row that no chunk holds (it moved while the
//! chunks were read) is carried by its change alone, so until the table is exact such values are read by key from the
//! source. A row that is not found was deleted or got another key since: the change that did it is still to come, and the
//! table is exact only after it (DESIGN 5.3, step 5).

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array},
    compute::{interleave, take_record_batch},
    row::{OwnedRow, RowConverter, SortField},
};

use super::net::{self, links};
use crate::data::{LinkCell, TableSchema};

/// The rows of a change batch that lack values: their indexes, and their keys as a batch of `TableSchema::arrow_keys`.
pub fn lacking(schema: &TableSchema, changes: &RecordBatch) -> Result<Option<(Vec<u32>, RecordBatch)>, net::Error> {
    let cells = links(link_column(changes)?)?;
    let mut rows: Vec<u32> = cells.iter().filter(|(_, cell)| !cell.unchanged.is_empty()).map(|(row, _)| *row as u32).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    rows.sort_unstable();
    let taken = take_record_batch(changes, &UInt32Array::from(rows.clone()))?;
    let mut columns: Vec<ArrayRef> = schema.key.iter().map(|&column| taken.column(column).clone()).collect();
    let link = rows.iter().map(|row| key_cell(schema, cells.get(&(*row as usize)))).collect::<Result<Vec<_>, _>>()?;
    columns.push(Arc::new(StringArray::from(link)));
    Ok(Some((rows, RecordBatch::try_new(schema.arrow_keys(), columns)?)))
}

/// Puts the values of `found` (of `TableSchema::arrow_rows`) into the rows of `changes` that lack them. No row lacks any
/// after; what was not found is NULL.
pub fn fill(schema: &TableSchema, changes: &RecordBatch, lacking: &[u32], found: &RecordBatch) -> Result<RecordBatch, net::Error> {
    let mut cells = links(link_column(changes)?)?;
    let found_cells = links(found.column(schema.columns.len()).as_string_opt::<i32>().ok_or(net::Error::Columns)?)?;

    let fields = schema.key.iter().map(|&column| SortField::new(schema.columns[column].travel.arrow())).collect();
    let converter = RowConverter::new(fields)?;
    let key_of = |batch: &RecordBatch, cells: &HashMap<usize, LinkCell>| -> Result<Vec<(OwnedRow, String)>, net::Error> {
        let columns: Vec<ArrayRef> = schema.key.iter().map(|&column| batch.column(column).clone()).collect();
        let rows = converter.convert_columns(&columns)?;
        (0..batch.num_rows()).map(|row| Ok((rows.row(row).owned(), key_cell(schema, cells.get(&row))?.unwrap_or_default()))).collect()
    };
    let by_key: HashMap<(OwnedRow, String), usize> =
        key_of(found, &found_cells)?.into_iter().enumerate().map(|(row, key)| (key, row)).collect();
    let keys = key_of(changes, &cells)?;

    // For each column, the rows to take from `found` instead.
    let mut from_found: HashMap<u16, Vec<(usize, usize)>> = HashMap::new();
    for &row in lacking {
        let row = row as usize;
        let source = by_key.get(&keys[row]).copied();
        let Some(cell) = cells.get_mut(&row) else { continue };
        for column in std::mem::take(&mut cell.unchanged) {
            let Some(source) = source else { continue };
            from_found.entry(column).or_default().push((row, source));
            let exact = found_cells.get(&source).map_or(&[][..], |cell| &cell.exact);
            cell.exact.extend(exact.iter().filter(|(exact, _)| *exact == column).cloned());
        }
    }

    let mut columns = changes.columns().to_vec();
    for (column, rows) in from_found {
        let column = usize::from(column);
        let mut places: Vec<(usize, usize)> = (0..changes.num_rows()).map(|row| (0, row)).collect();
        for (row, source) in rows {
            places[row] = (1, source);
        }
        columns[column] = interleave(&[changes.column(column).as_ref(), found.column(column).as_ref()], &places)?;
    }
    let link = (0..changes.num_rows()).map(|row| match cells.get(&row) {
        Some(cell) if *cell != LinkCell::default() => serde_json::to_string(cell).map(Some),
        _ => Ok(None),
    });
    let last = columns.len() - 1;
    columns[last] = Arc::new(StringArray::from(link.collect::<Result<Vec<_>, _>>()?));
    Ok(RecordBatch::try_new(changes.schema(), columns)?)
}

fn link_column(changes: &RecordBatch) -> Result<&StringArray, net::Error> {
    changes.columns().last().and_then(|column| column.as_string_opt::<i32>()).ok_or(net::Error::Columns)
}

/// The exact texts of a row's key, as the cell of a key batch.
fn key_cell(schema: &TableSchema, cell: Option<&LinkCell>) -> Result<Option<String>, serde_json::Error> {
    let Some(cell) = cell else { return Ok(None) };
    let mut key = LinkCell::default();
    for (number, column) in schema.key.iter().enumerate() {
        let texts = cell.exact.iter().filter(|(exact, _)| usize::from(*exact) == *column);
        key.exact.extend(texts.map(|(_, text)| (number as u16, text.clone())));
    }
    if key.exact.is_empty() { Ok(None) } else { serde_json::to_string(&key).map(Some) }
}
