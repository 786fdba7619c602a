//! Filling in what a change did not carry, while its table's snapshot is under way.
//!
//! PostgreSQL does not send a large value that an update left unchanged. A row that no chunk holds (it moved while the
//! chunks were read) is carried by its change alone, so until all chunks are passed such values are read by key from the
//! source. A row that is not found was deleted or got another key since, and the change that did it is still to come: it is
//! an *orphan* until then. The table is exact once all chunks are passed and there is no orphan (DESIGN 5.3, step 5, where
//! the rule is "after every fill that found no row"; under steady writing there is always one more, and a table would
//! never become exact. So past the chunks only orphans are filled: every other row is right by then).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array},
    compute::{interleave, take_record_batch},
    datatypes::UInt8Type,
    row::{OwnedRow, RowConverter, SortField},
};

use super::net::{Error, links};
use crate::data::{LinkCell, Op, TableSchema};

/// A row's key: its native values, and the exact texts among them.
type Key = (OwnedRow, String);

/// The fills of one table, from its joining to when it is exact.
pub struct Filling {
    schema: TableSchema,
    converter: RowConverter,
    /// Whether the capture has passed all chunks.
    passed: bool,
    /// Keys of rows that lack a value which could not be found.
    orphans: HashSet<Key>,
}

/// What is to be read for one change batch.
pub struct Lacking {
    /// The rows of the batch, in order.
    rows: Vec<usize>,
    /// Their keys, a batch of `TableSchema::arrow_keys`.
    pub keys: RecordBatch,
}

impl Filling {
    /// Nothing is filled yet.
    pub fn new(schema: TableSchema) -> Result<Self, Error> {
        let fields = schema.key.iter().map(|&column| SortField::new(schema.columns[column].travel.arrow())).collect();
        Ok(Self { schema, converter: RowConverter::new(fields)?, passed: false, orphans: HashSet::new() })
    }

    /// All chunks are passed: from here on only orphans are filled. Returns whether there are none.
    pub fn pass(&mut self) -> bool {
        self.passed = true;
        self.orphans.is_empty()
    }

    /// The rows of a change batch that must be filled; none if all is there.
    pub fn lacking(&self, changes: &RecordBatch) -> Result<Option<Lacking>, Error> {
        let cells = links(link_column(changes)?)?;
        if cells.values().all(|cell| cell.unchanged.is_empty()) {
            return Ok(None);
        }
        let mut rows: Vec<usize> = cells.iter().filter(|(_, cell)| !cell.unchanged.is_empty()).map(|(row, _)| *row).collect();
        rows.sort_unstable();
        if self.passed {
            let orphans = self.may_be_orphans(changes, &cells)?;
            rows.retain(|row| orphans.contains(row));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let taken = take_record_batch(changes, &UInt32Array::from_iter_values(rows.iter().map(|row| *row as u32)))?;
        let mut columns: Vec<ArrayRef> = self.schema.key.iter().map(|&column| taken.column(column).clone()).collect();
        let link = rows.iter().map(|row| key_cell(&self.schema, cells.get(row))).collect::<Result<Vec<_>, _>>()?;
        columns.push(Arc::new(StringArray::from(link)));
        let keys = RecordBatch::try_new(self.schema.arrow_keys(), columns)?;
        Ok(Some(Lacking { rows, keys }))
    }

    /// The rows that are orphans if nothing is found.
    fn may_be_orphans(&self, changes: &RecordBatch, cells: &HashMap<usize, LinkCell>) -> Result<HashSet<usize>, Error> {
        let mut orphans = self.orphans.clone();
        let mut rows = HashSet::new();
        if !orphans.is_empty() {
            self.walk(
                changes,
                cells,
                |row, orphan| {
                    if orphan {
                        rows.insert(row);
                    }
                    orphan
                },
                &mut orphans,
            )?;
        }
        Ok(rows)
    }

    /// Puts the values of `found` (of `TableSchema::arrow_rows`) into the rows that lack them; what was not found is NULL,
    /// and its row an orphan. Without `lacking`, only follows what becomes of the orphans.
    pub fn fill(&mut self, changes: RecordBatch, found: Option<(&Lacking, &RecordBatch)>) -> Result<RecordBatch, Error> {
        if found.is_none() && self.orphans.is_empty() {
            return Ok(changes);
        }
        let mut cells = links(link_column(&changes)?)?;
        let mut missing = HashSet::new();
        let filled = match found {
            Some((lacking, found)) => self.complete(&changes, &mut cells, lacking, found, &mut missing)?,
            None => changes,
        };
        let mut orphans = std::mem::take(&mut self.orphans);
        let cells = links(link_column(&filled)?)?;
        self.walk(
            &filled,
            &cells,
            |row, orphan| missing.contains(&row) || (orphan && cells.get(&row).is_some_and(|cell| !cell.unchanged.is_empty())),
            &mut orphans,
        )?;
        self.orphans = orphans;
        Ok(filled)
    }

    /// Follows keys through a batch. `stays` is told of each new state of a row whether the row was an orphan before, and
    /// says whether it is one now.
    fn walk(
        &self,
        changes: &RecordBatch,
        cells: &HashMap<usize, LinkCell>,
        mut stays: impl FnMut(usize, bool) -> bool,
        orphans: &mut HashSet<Key>,
    ) -> Result<(), Error> {
        let keys = self.keys(changes, cells)?;
        let ops = changes.column(self.schema.columns.len()).as_primitive_opt::<UInt8Type>().ok_or(Error::Columns)?;
        let mut moved = false;
        for (row, key) in keys.into_iter().enumerate() {
            let was = orphans.remove(&key);
            match Op::from_u8(ops.value(row)).ok_or(Error::Operation)? {
                Op::Insert | Op::Delete => {}
                Op::Move => moved = was,
                Op::Update => {
                    if stays(row, was || std::mem::take(&mut moved)) {
                        orphans.insert(key);
                    }
                }
            }
        }
        Ok(())
    }

    fn complete(
        &self,
        changes: &RecordBatch,
        cells: &mut HashMap<usize, LinkCell>,
        lacking: &Lacking,
        found: &RecordBatch,
        missing: &mut HashSet<usize>,
    ) -> Result<RecordBatch, Error> {
        let found_cells = links(found.column(self.schema.columns.len()).as_string_opt::<i32>().ok_or(Error::Columns)?)?;
        let by_key: HashMap<Key, usize> = self.keys(found, &found_cells)?.into_iter().enumerate().map(|(row, key)| (key, row)).collect();
        let keys = self.keys(changes, cells)?;

        // For each column, the rows to take from `found` instead.
        let mut from_found: HashMap<u16, Vec<(usize, usize)>> = HashMap::new();
        for &row in &lacking.rows {
            let source = by_key.get(&keys[row]).copied();
            let Some(cell) = cells.get_mut(&row) else { continue };
            for column in std::mem::take(&mut cell.unchanged) {
                let Some(source) = source else {
                    missing.insert(row);
                    continue;
                };
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

    fn keys(&self, batch: &RecordBatch, cells: &HashMap<usize, LinkCell>) -> Result<Vec<Key>, Error> {
        let columns: Vec<ArrayRef> = self.schema.key.iter().map(|&column| batch.column(column).clone()).collect();
        let rows = self.converter.convert_columns(&columns)?;
        (0..batch.num_rows()).map(|row| Ok((rows.row(row).owned(), key_cell(&self.schema, cells.get(&row))?.unwrap_or_default()))).collect()
    }
}

fn link_column(changes: &RecordBatch) -> Result<&StringArray, Error> {
    changes.columns().last().and_then(|column| column.as_string_opt::<i32>()).ok_or(Error::Columns)
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
