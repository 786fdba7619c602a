//! Rows' keys, comparable whatever batch they stand in. Pure.

use std::collections::HashMap;

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch},
    row::{OwnedRow, RowConverter, SortField},
};

use super::net::{Error, links};
use crate::data::{LinkCell, TableSchema};

/// A row's key: its native values, and the exact texts among them.
pub type Key = (OwnedRow, String);

/// Reads the keys of a table's batches.
pub struct Keys {
    schema: TableSchema,
    converter: RowConverter,
}

impl Keys {
    /// For batches of this table.
    pub fn new(schema: &TableSchema) -> Result<Self, Error> {
        let fields = schema.key.iter().map(|&column| SortField::new(schema.columns[column].travel.arrow())).collect();
        Ok(Self { schema: schema.clone(), converter: RowConverter::new(fields)? })
    }

    /// The keys of rows or changes; `cells` are those of the batch.
    pub fn of_rows(&self, batch: &RecordBatch, cells: &HashMap<usize, LinkCell>) -> Result<Vec<Key>, Error> {
        let columns: Vec<ArrayRef> = self.schema.key.iter().map(|&column| batch.column(column).clone()).collect();
        let rows = self.converter.convert_columns(&columns)?;
        (0..batch.num_rows()).map(|row| Ok((rows.row(row).owned(), key_cell(&self.schema, cells.get(&row))?.unwrap_or_default()))).collect()
    }

    /// The keys of a batch of `TableSchema::arrow_keys`.
    pub fn of_keys(&self, batch: &RecordBatch) -> Result<Vec<Key>, Error> {
        let (columns, cells) = batch.columns().split_at(self.schema.key.len().min(batch.num_columns()));
        let cells = cells.first().and_then(|cells| cells.as_string_opt::<i32>()).ok_or(Error::Columns)?;
        let rows = self.converter.convert_columns(columns)?;
        let cell = |row: usize| if cells.is_null(row) { String::new() } else { cells.value(row).to_owned() };
        Ok((0..batch.num_rows()).map(|row| (rows.row(row).owned(), cell(row))).collect())
    }
}

/// The exact texts of a row's key, as the cell of a key batch.
pub fn key_cell(schema: &TableSchema, cell: Option<&LinkCell>) -> Result<Option<String>, serde_json::Error> {
    let Some(cell) = cell else { return Ok(None) };
    let mut key = LinkCell::default();
    for (number, column) in schema.key.iter().enumerate() {
        let values = cell.beside.iter().filter(|(beside, _)| usize::from(*beside) == *column);
        key.beside.extend(values.map(|(_, value)| (number as u16, value.clone())));
    }
    if key.beside.is_empty() { Ok(None) } else { serde_json::to_string(&key).map(Some) }
}

/// The cells of a batch whose last column holds them.
pub fn cells(batch: &RecordBatch) -> Result<HashMap<usize, LinkCell>, Error> {
    let column = batch.columns().last().and_then(|column| column.as_string_opt::<i32>()).ok_or(Error::Columns)?;
    Ok(links(column)?)
}
