//! Filling in what a change did not carry, while its table's snapshot is under way.
//!
//! PostgreSQL does not send a large value that an update left unchanged. A row that no chunk holds (it moved while the
//! chunks were read) is carried by its change alone, so until all chunks are passed such values are read by key from the
//! source. A row that is not found was deleted or got another key since, and the change that did it is still to come: it is
//! an *orphan* until then. One that is found may be another row that took the key since: it is doubtful until the capture
//! has passed the read. The table is exact once all chunks are passed and there is neither (DESIGN 5.3, step 5, where the
//! rule is "after every fill that found no row"; under steady writing there is always one more, and a table would never
//! become exact. So past the chunks only orphans and what doubtful rows become are filled: every other row is right).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array},
    compute::{interleave, take_record_batch},
    datatypes::UInt8Type,
};

use super::{
    keys::{Key, Keys, key_cell},
    net::{Error, links},
};
use crate::data::{LinkCell, Op, Position, TableSchema};

/// The fills of one table, from its joining to when it is exact.
pub struct Filling {
    schema: TableSchema,
    keys: Keys,
    /// Whether the capture has passed all chunks.
    passed: bool,
    /// Keys of rows that are not surely right.
    unsure: HashMap<Key, Doubt>,
}

/// Why a row is not surely right.
#[derive(Clone)]
enum Doubt {
    /// It lacks a value that could not be found.
    Orphan,
    /// What was found may be of another row, until this position is passed.
    Until(Position),
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
        Ok(Self { keys: Keys::new(&schema)?, schema, passed: false, unsure: HashMap::new() })
    }

    /// The capture is at `to`, and all chunks are passed: from here on only unsure rows are filled. Returns whether there are
    /// none.
    pub fn pass(&mut self, to: &Position) -> bool {
        self.passed = true;
        self.forget(to);
        self.unsure.is_empty()
    }

    /// The capture is at `to`: what was found before is of the row that it was found for.
    pub fn forget(&mut self, to: &Position) {
        self.unsure.retain(|_, doubt| !matches!(doubt, Doubt::Until(read_at) if *read_at <= *to));
    }

    /// All rows are gone.
    pub fn truncate(&mut self) {
        self.unsure.clear();
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
            let needed = self.needed(changes, &cells)?;
            rows.retain(|row| needed.contains(row));
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

    /// The rows that must be filled past the chunks, if nothing is found for any of them.
    fn needed(&self, changes: &RecordBatch, cells: &HashMap<usize, LinkCell>) -> Result<HashSet<usize>, Error> {
        let mut rows = HashSet::new();
        if !self.unsure.is_empty() {
            let mut unsure = self.unsure.clone();
            let judge = |row: usize, before: Option<Doubt>, moved: bool| match before {
                // Under its own key it holds what was found for it.
                Some(Doubt::Until(read_at)) if !moved => Some(Doubt::Until(read_at)),
                Some(_) => {
                    rows.insert(row);
                    Some(Doubt::Orphan)
                }
                None => None,
            };
            self.walk(changes, cells, judge, &mut unsure)?;
        }
        Ok(rows)
    }

    /// Puts the values that were `found` (of `TableSchema::arrow_rows`, as of a position) into the rows that lack them; what
    /// was not found is NULL. Without them, only follows what becomes of the unsure rows.
    pub fn fill(&mut self, changes: RecordBatch, found: Option<(&Lacking, &RecordBatch, &Position)>) -> Result<RecordBatch, Error> {
        if found.is_none() && self.unsure.is_empty() {
            return Ok(changes);
        }
        let mut cells = links(link_column(&changes)?)?;
        let mut missing = HashSet::new();
        let filled = match found {
            Some((lacking, rows, _)) => self.complete(&changes, &mut cells, lacking, rows, &mut missing)?,
            None => changes,
        };
        let mut unsure = std::mem::take(&mut self.unsure);
        let cells = links(link_column(&filled)?)?;
        let asked: HashSet<usize> = found.iter().flat_map(|(lacking, ..)| lacking.rows.iter().copied()).collect();
        let judge = |row: usize, before: Option<Doubt>, _| {
            if missing.contains(&row) {
                Some(Doubt::Orphan)
            } else if asked.contains(&row) {
                found.map(|(_, _, read_at)| Doubt::Until(read_at.clone()))
            } else {
                // A change that carries the whole row leaves no doubt.
                before.filter(|_| cells.get(&row).is_some_and(|cell| !cell.unchanged.is_empty()))
            }
        };
        self.walk(&filled, &cells, judge, &mut unsure)?;
        self.unsure = unsure;
        Ok(filled)
    }

    /// Follows keys through a batch. `judge` is told of each new state of a row what was doubted of the one before and whether
    /// its key changed, and says what is doubted now.
    fn walk(
        &self,
        changes: &RecordBatch,
        cells: &HashMap<usize, LinkCell>,
        mut judge: impl FnMut(usize, Option<Doubt>, bool) -> Option<Doubt>,
        unsure: &mut HashMap<Key, Doubt>,
    ) -> Result<(), Error> {
        let keys = self.keys.of_rows(changes, cells)?;
        let ops = changes.column(self.schema.columns.len()).as_primitive_opt::<UInt8Type>().ok_or(Error::Columns)?;
        let mut moved: Option<Option<Doubt>> = None;
        for (row, key) in keys.into_iter().enumerate() {
            let before = unsure.remove(&key);
            match Op::from_u8(ops.value(row)).ok_or(Error::Operation)? {
                Op::Insert | Op::Delete => {}
                Op::Move => moved = Some(before),
                Op::Update => {
                    let (before, has_moved) = moved.take().map_or((before, false), |before| (before, true));
                    if let Some(doubt) = judge(row, before, has_moved) {
                        unsure.insert(key, doubt);
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
        let by_key: HashMap<Key, usize> =
            self.keys.of_rows(found, &found_cells)?.into_iter().enumerate().map(|(row, key)| (key, row)).collect();
        let keys = self.keys.of_rows(changes, cells)?;

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
                let beside = found_cells.get(&source).map_or(&[][..], |cell| &cell.beside);
                cell.beside.extend(beside.iter().filter(|(beside, _)| *beside == column).cloned());
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
}

fn link_column(changes: &RecordBatch) -> Result<&StringArray, Error> {
    changes.columns().last().and_then(|column| column.as_string_opt::<i32>()).ok_or(Error::Columns)
}
