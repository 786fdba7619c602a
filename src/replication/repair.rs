//! Repair: rows of the source read by key and put into the log beside the changes, so that appliers treat them like any. Pure.
//!
//! What is read is older than what the stream delivers by the time it is committed. So the capture notes, from before the
//! source settles until the commit, which of the keys change in the stream: a key that changed after `v0` (everything up to it
//! is visible to the read) is left out, for its change says it better. The others stood still from `v0` to the place where
//! they are committed, so what was read is what they are there (the watermarks of Netflix' DBLog).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray, UInt8Array, UInt32Array, new_null_array},
    compute::{concat, take, take_record_batch},
};

use super::{
    keys::{Key, Keys, cells},
    net::Error,
};
use crate::{
    data::{Column, LinkCell, Op, Position, TableSchema, Travel},
    protection::Protection,
    source::{Cut, Segment},
};

/// The watch over some keys of a table while their rows are read.
pub struct Repair {
    /// Number of the table.
    pub table: u32,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its columns: of another version nothing can be put in.
    pub schema: TableSchema,
    reader: Keys,
    /// A batch of `TableSchema::arrow_keys`, and where each key last changed.
    wanted: RecordBatch,
    changed: HashMap<Key, Option<Position>>,
    /// Where all of them may have changed last.
    all_changed: Option<Position>,
    /// Changed in a transaction whose end has not come.
    open: HashSet<Key>,
    all_open: bool,
    /// Keys that are spelled differently may be equal.
    loose: bool,
    /// The table has another shape since.
    void: bool,
}

/// What was read for the keys.
pub struct Read {
    /// Everything that was committed up to here is in the rows.
    pub v0: Position,
    /// Rows found, a batch of `TableSchema::arrow_rows`.
    pub rows: RecordBatch,
    /// Nothing that was committed after here is in the rows.
    pub read_at: Position,
}

impl Repair {
    /// A watch over `keys`, a batch of `TableSchema::arrow_keys`.
    pub fn new(table: u32, incarnation: u64, schema: &TableSchema, keys: RecordBatch) -> Result<Self, Error> {
        let reader = Keys::new(schema)?;
        let changed = reader.of_keys(&keys)?.into_iter().map(|key| (key, None)).collect();
        Ok(Self {
            table,
            incarnation,
            schema: schema.clone(),
            reader,
            wanted: keys,
            changed,
            all_changed: None,
            open: HashSet::new(),
            all_open: false,
            void: false,
            loose: has_loose_key(schema),
        })
    }

    /// Takes note of what the stream delivers. A transaction counts from where it ends: visible is all of it or nothing.
    pub fn observe(&mut self, cut: &Cut) -> Result<(), Error> {
        for segment in cut.tables.iter().filter(|table| table.id == self.table).flat_map(|table| &table.segments) {
            match segment {
                Segment::Truncate => self.all_open = true,
                Segment::Version(_) => self.void = true,
                // To delete 1.5 would delete 1.50 too, which this may be about.
                Segment::Rows(_) if self.loose => self.all_open = true,
                Segment::Rows(rows) => {
                    let keys = self.reader.of_rows(rows, &cells(rows)?)?;
                    self.open.extend(keys.into_iter().filter(|key| self.changed.contains_key(key)));
                }
            }
        }
        if cut.whole {
            for key in self.open.drain() {
                self.changed.insert(key, Some(cut.to.clone()));
            }
            if std::mem::take(&mut self.all_open) {
                self.all_changed = Some(cut.to.clone());
            }
        }
        Ok(())
    }

    /// Whether what was read is of the table as it was.
    pub fn is_void(&self) -> bool {
        self.void
    }

    /// The changes that make the rows as they were read, of keys that stood still since: each is deleted, then inserted if it
    /// was found, so that also a row under another spelling of its key goes. And how many keys that are.
    pub fn changes(&self, read: &Read) -> Result<(Option<RecordBatch>, u64), Error> {
        let after = |at: &Position| *at > read.v0 && Protection::RepairWindow.holds();
        if self.all_changed.as_ref().is_some_and(after) {
            return Ok((None, 0));
        }
        let still = |key: &Key| matches!(self.changed.get(key), Some(at) if !at.as_ref().is_some_and(after));
        let chosen = |keys: Vec<Key>| -> UInt32Array { (0u32..).zip(&keys).filter(|(_, key)| still(key)).map(|(at, _)| at).collect() };
        let found_cells = cells(&read.rows)?;
        let deletes = chosen(self.reader.of_keys(&self.wanted)?);
        let inserts = chosen(self.reader.of_rows(&read.rows, &found_cells)?);
        if deletes.is_empty() {
            return Ok((None, 0));
        }
        let rows = take_record_batch(&read.rows, &inserts)?;
        let keys = take_record_batch(&self.wanted, &deletes)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.columns.len() + 2);
        for (at, column) in self.schema.columns.iter().enumerate() {
            let of_deletes = match self.schema.key.iter().position(|&key| key == at) {
                Some(place) => keys.column(place).clone(),
                None => new_null_array(&column.travel.arrow(), deletes.len()),
            };
            columns.push(concat(&[of_deletes.as_ref(), rows.column(at).as_ref()])?);
        }
        let ops = deletes.iter().map(|_| Op::Delete as u8).chain(inserts.iter().map(|_| Op::Insert as u8));
        columns.push(Arc::new(UInt8Array::from_iter_values(ops)));
        let of_keys: Vec<Option<String>> = cells_of_deletes(&self.schema, &keys)?;
        let of_rows = take(read.rows.column(self.schema.columns.len()), &inserts, None)?;
        columns.push(concat(&[&StringArray::from(of_keys), of_rows.as_ref()])?);
        Ok((Some(RecordBatch::try_new(self.schema.arrow_changes(), columns)?), deletes.len() as u64))
    }
}

/// Whether a target may take two keys of the table for equal that are not the same text.
pub(super) fn has_loose_key(schema: &TableSchema) -> bool {
    schema.key.iter().any(|&column| is_loose(&schema.columns[column]))
}

/// Whether a target may take two values of the column for equal that are not the same text: 1.5 and 1.50, 0 and -0.
fn is_loose(column: &Column) -> bool {
    match column.travel {
        Travel::Float32 | Travel::Float64 => true,
        Travel::Text => column.source_type != "text",
        _ => column.collation.is_some(),
    }
}

/// Cells of a key batch as those of whole rows: their columns are numbered otherwise.
fn cells_of_deletes(schema: &TableSchema, keys: &RecordBatch) -> Result<Vec<Option<String>>, Error> {
    let cells = cells(keys)?;
    let cell = |row: usize| {
        let Some(cell) = cells.get(&row) else { return Ok(None) };
        let column = |place: u16| schema.key.get(usize::from(place)).map_or(place, |&column| column as u16);
        let beside = cell.beside.iter().map(|(place, value)| (column(*place), value.clone())).collect();
        serde_json::to_string(&LinkCell { beside, unchanged: vec![] }).map(Some)
    };
    Ok((0..keys.num_rows()).map(cell).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _, Int32Array};

    use super::*;
    use crate::{data::fixtures, source::CutTable};

    fn schema() -> TableSchema {
        fixtures::table("t", vec![fixtures::column(1, "a", Travel::Utf8), fixtures::column(2, "id", Travel::Int32)], &[1])
    }

    fn keys(ids: &[i32]) -> RecordBatch {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(ids.to_vec())), Arc::new(StringArray::from(vec![None::<&str>; ids.len()]))];
        RecordBatch::try_new(schema().arrow_keys(), columns).unwrap()
    }

    fn rows(rows: &[(i32, &str)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(StringArray::from(vec![None::<&str>; rows.len()])),
        ];
        RecordBatch::try_new(schema().arrow_rows(), columns).unwrap()
    }

    fn cut(to: &str, whole: bool, ids: &[i32]) -> Cut {
        let values = rows(&ids.iter().map(|id| (*id, "new")).collect::<Vec<_>>());
        let mut columns = values.columns().to_vec();
        columns.insert(2, Arc::new(UInt8Array::from(vec![Op::Update as u8; ids.len()])));
        let rows = RecordBatch::try_new(schema().arrow_changes(), columns).unwrap();
        let tables = vec![CutTable { id: 7, segments: vec![Segment::Rows(rows)] }];
        Cut { whole, to: Position(to.into()), time: None, transactions: vec![], tables, broken: vec![] }
    }

    fn read(v0: &str, found: &[(i32, &str)]) -> Read {
        Read { v0: Position(v0.into()), rows: rows(found), read_at: Position("9".into()) }
    }

    fn of(changes: &RecordBatch) -> Vec<(u8, i32, Option<String>)> {
        let (texts, ids) = (changes.column(0).as_string::<i32>(), changes.column(1).as_primitive::<arrow::datatypes::Int32Type>());
        let ops = changes.column(2).as_primitive::<arrow::datatypes::UInt8Type>();
        let text = |row| (!texts.is_null(row)).then(|| texts.value(row).to_owned());
        (0..changes.num_rows()).map(|row| (ops.value(row), ids.value(row), text(row))).collect()
    }

    #[test]
    fn rows_that_are_there_are_put_in_and_others_go() {
        let repair = Repair::new(7, 1, &schema(), keys(&[1, 2])).unwrap();
        let (changes, count) = repair.changes(&read("5", &[(2, "b")])).unwrap();
        assert_eq!(of(&changes.unwrap()), [(3, 1, None), (3, 2, None), (1, 2, Some("b".to_owned()))]);
        assert_eq!(count, 2);
    }

    #[test]
    fn a_key_that_changed_after_v0_is_left_to_its_change() {
        let mut repair = Repair::new(7, 1, &schema(), keys(&[1, 2, 3])).unwrap();
        repair.observe(&cut("5", true, &[1])).unwrap();
        // The first part of a transaction that ends after v0.
        repair.observe(&cut("5", false, &[2])).unwrap();
        repair.observe(&cut("6", true, &[])).unwrap();
        let (changes, count) = repair.changes(&read("5", &[(1, "a"), (2, "b"), (3, "c")])).unwrap();
        assert_eq!(of(&changes.unwrap())[2..], [(1, 1, Some("a".to_owned())), (1, 3, Some("c".to_owned()))]);
        assert_eq!(count, 2);
        let (changes, count) = repair.changes(&read("4", &[(3, "c")])).unwrap();
        assert_eq!((of(&changes.unwrap()).len(), count), (2, 1));
    }

    #[test]
    fn where_keys_have_several_spellings_any_change_of_the_table_counts() {
        let column = |travel, source_type: &str| Column { source_type: source_type.into(), travel, ..schema().columns[1].clone() };
        let loose = [column(Travel::Text, "numeric"), column(Travel::Float64, "double precision"), column(Travel::Text, "text")];
        assert_eq!(loose.each_ref().map(is_loose), [true, true, false]);
        let mut repair = Repair { loose: true, ..Repair::new(7, 1, &schema(), keys(&[1])).unwrap() };
        repair.observe(&cut("6", true, &[2])).unwrap();
        assert_eq!(repair.changes(&read("5", &[(1, "a")])).unwrap().1, 0);
        assert_eq!(repair.changes(&read("6", &[(1, "a")])).unwrap().1, 1);
    }

    #[test]
    fn after_a_truncation_nothing_is_put_in() {
        let mut repair = Repair::new(7, 1, &schema(), keys(&[1])).unwrap();
        let tables = vec![CutTable { id: 7, segments: vec![Segment::Truncate] }];
        repair.observe(&Cut { tables, ..cut("6", true, &[]) }).unwrap();
        assert_eq!(repair.changes(&read("5", &[(1, "a")])).unwrap().1, 0);
        assert_eq!(repair.changes(&read("6", &[(1, "a")])).unwrap().1, 1);
    }
}
