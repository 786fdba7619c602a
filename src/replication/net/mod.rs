//! Netting: what is left of a run of changes when only the last state of each key counts. Pure.
//!
//! Merges column by column: a value that an update left unchanged is that of the row's change before, following key
//! changes. Only if no change in the run has it does the row stay *unresolved*, with the key under which the target holds
//! it. Taking the later change whole instead would overwrite large values with NULL, for PostgreSQL does not send them.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt8Array},
    compute::interleave,
    datatypes::{Schema, UInt8Type},
    error::ArrowError,
    row::{RowConverter, Rows, SortField},
};

use crate::{
    data::{Beside, Besides, LinkCell, NetChanges, Op, TableSchema, Unresolved},
    protection::Protection,
};

/// A file whose content is not what its record says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the columns of a change batch.
    #[error("a change file does not have the columns of its table's version")]
    Columns,
    /// An operation that does not exist, or a move without the row's new state.
    #[error("a change file holds an operation that cannot be read")]
    Operation,
    /// A `__link__` cell that cannot be read.
    #[error("a change file holds a cell that cannot be read: {0}")]
    Cell(#[from] serde_json::Error),
    /// Arrow's own errors.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// A row in one of the batches.
type Place = (usize, usize);

/// Where the cells of a key's last state are.
struct Row {
    /// The row that has all columns but `older`.
    base: Place,
    /// Columns whose value is that of an earlier change.
    older: Vec<(u16, Place)>,
    /// Columns that only the target has.
    unresolved: Vec<u16>,
    /// A row with the key under which the target holds them.
    origin: Place,
}

/// What the changes do to one key.
struct Fate {
    /// A row with this key.
    key: Place,
    /// Its last state; none if it is gone.
    row: Option<Row>,
    /// Whether there was a row with this key before.
    existed: bool,
}

/// Nets `batches` (of `TableSchema::arrow_changes`, in commit order).
pub fn net(schema: &TableSchema, batches: &[RecordBatch]) -> Result<NetChanges, Error> {
    let input = Input::new(schema, batches)?;
    let mut fates: Vec<Fate> = Vec::new();
    let mut by_key: HashMap<Cow<'_, [u8]>, usize> = HashMap::new();

    // A file may be read in batches that end between a move and the row's new state.
    let mut moved: Option<(Place, Option<Row>)> = None;
    for (batch, ops) in input.ops.iter().enumerate() {
        for index in 0..ops.len() {
            let place = (batch, index);
            let op = Op::from_u8(ops.value(index)).ok_or(Error::Operation)?;
            if moved.is_some() && op != Op::Update {
                return Err(Error::Operation);
            }
            let fate = *by_key.entry(input.key(place)).or_insert_with(|| {
                fates.push(Fate { key: place, row: None, existed: op != Op::Insert && moved.is_none() });
                fates.len() - 1
            });
            match op {
                Op::Insert => fates[fate].row = Some(Row::whole(place)),
                Op::Update => {
                    let (origin, before) = match moved.take() {
                        Some((origin, before)) => (origin, before),
                        None => (place, fates[fate].row.take()),
                    };
                    fates[fate].row = Some(input.updated(place, origin, before));
                }
                Op::Delete => fates[fate].row = None,
                Op::Move => moved = Some((place, fates[fate].row.take())),
            }
        }
    }
    if moved.is_some() {
        return Err(Error::Operation);
    }
    // A target that meets its keys in order reads and writes each page once.
    fates.sort_unstable_by(|a, b| input.key(a.key).cmp(&input.key(b.key)));
    input.output(&fates)
}

impl Row {
    fn whole(place: Place) -> Self {
        Self { base: place, older: Vec::new(), unresolved: Vec::new(), origin: place }
    }

    fn place_of(&self, column: u16) -> Place {
        self.older.iter().find(|(older, _)| *older == column).map_or(self.base, |(_, place)| *place)
    }
}

/// The batches, taken apart.
struct Input<'a> {
    schema: &'a TableSchema,
    batches: &'a [RecordBatch],
    ops: Vec<&'a UInt8Array>,
    /// The key of each row, comparable as bytes.
    keys: Vec<Rows>,
    /// The `__link__` cells that are not NULL.
    links: Vec<HashMap<usize, LinkCell>>,
}

impl<'a> Input<'a> {
    fn new(schema: &'a TableSchema, batches: &'a [RecordBatch]) -> Result<Self, Error> {
        let columns = schema.columns.len();
        let fields = schema.key.iter().map(|&column| SortField::new(schema.columns[column].travel.arrow())).collect();
        let converter = RowConverter::new(fields)?;
        let mut input = Self { schema, batches, ops: vec![], keys: vec![], links: vec![] };
        for batch in batches {
            if batch.num_columns() != columns + 2 {
                return Err(Error::Columns);
            }
            let keys: Vec<ArrayRef> = schema.key.iter().map(|&column| batch.column(column).clone()).collect();
            input.keys.push(converter.convert_columns(&keys)?);
            input.ops.push(batch.column(columns).as_primitive_opt::<UInt8Type>().ok_or(Error::Columns)?);
            input.links.push(links(batch.column(columns + 1).as_string_opt::<i32>().ok_or(Error::Columns)?)?);
        }
        Ok(input)
    }

    /// The row's key. Exact texts are part of it: their native values are all NULL.
    fn key(&self, (batch, index): Place) -> Cow<'_, [u8]> {
        let native = self.keys[batch].row(index).data();
        let Some(link) = self.links[batch].get(&index) else { return Cow::Borrowed(native) };
        let mut key = Vec::new();
        for (column, value) in link.beside.iter().filter(|(column, _)| self.schema.key.contains(&usize::from(*column))) {
            key.extend_from_slice(&column.to_be_bytes());
            key.extend_from_slice(value.text().as_bytes());
            key.push(0);
        }
        if key.is_empty() {
            return Cow::Borrowed(native);
        }
        key.extend_from_slice(native);
        Cow::Owned(key)
    }

    /// The row at `place`, an update of what `before` was; without it, of what the target holds under the key at `origin`.
    fn updated(&self, place: Place, origin: Place, before: Option<Row>) -> Row {
        let mut row = Row { origin, ..Row::whole(place) };
        if !Protection::ColumnNetting.holds() {
            return row;
        }
        let unchanged = self.links[place.0].get(&place.1).map_or(&[][..], |link| &link.unchanged);
        match before {
            None => row.unresolved = unchanged.to_vec(),
            Some(before) => {
                row.origin = before.origin;
                for &column in unchanged {
                    if before.unresolved.contains(&column) {
                        row.unresolved.push(column);
                    } else {
                        row.older.push((column, before.place_of(column)));
                    }
                }
            }
        }
        row
    }

    fn beside(&self, (batch, index): Place, column: u16) -> Option<&Beside> {
        let link = self.links[batch].get(&index)?;
        link.beside.iter().find(|(beside, _)| *beside == column).map(|(_, value)| value)
    }

    fn output(&self, fates: &[Fate]) -> Result<NetChanges, Error> {
        let gone: Vec<Place> = fates.iter().filter(|fate| fate.row.is_none()).map(|fate| fate.key).collect();
        let rows: Vec<&Row> = fates.iter().filter_map(|fate| fate.row.as_ref()).collect();
        let updates = fates.iter().filter(|fate| fate.existed && fate.row.is_some()).count();

        let base: Vec<Place> = rows.iter().map(|row| row.base).collect();
        let mut places: HashMap<u16, Vec<Place>> = HashMap::new();
        let mut unresolved = Vec::new();
        let mut origins = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            for &(column, place) in &row.older {
                places.entry(column).or_insert_with(|| base.clone())[number] = place;
            }
            if !row.unresolved.is_empty() {
                unresolved.push(Unresolved { row: number as u32, columns: row.unresolved.clone() });
                origins.push(row.origin);
            }
        }

        let mut beside = Besides::new();
        let mut columns = Vec::with_capacity(self.schema.columns.len());
        let any_beside = self.links.iter().any(|links| links.values().any(|link| !link.beside.is_empty()));
        for column in 0..self.schema.columns.len() {
            let places = places.get(&(column as u16)).unwrap_or(&base);
            columns.push(self.column(column, places)?);
            if any_beside {
                for (number, &place) in places.iter().enumerate() {
                    if let Some(value) = self.beside(place, column as u16) {
                        beside.insert((column as u16, number as u32), value.clone());
                    }
                }
            }
        }
        let fields = self.schema.arrow_rows().fields()[..columns.len()].to_vec();
        let upserts = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(NetChanges { deletes: self.key_batch(&gone)?, upserts, updates, beside, unresolved, origins: self.key_batch(&origins)? })
    }

    fn column(&self, column: usize, places: &[Place]) -> Result<ArrayRef, Error> {
        if places.is_empty() {
            return Ok(arrow::array::new_empty_array(&self.schema.columns[column].travel.arrow()));
        }
        let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        Ok(interleave(&arrays, places)?)
    }

    /// A batch of `TableSchema::arrow_keys` of the keys at `places`.
    fn key_batch(&self, places: &[Place]) -> Result<RecordBatch, Error> {
        let mut columns = Vec::with_capacity(self.schema.key.len() + 1);
        for &column in &self.schema.key {
            columns.push(self.column(column, places)?);
        }
        let mut link: Vec<Option<String>> = Vec::with_capacity(places.len());
        for &place in places {
            let mut cell = LinkCell::default();
            for (number, &column) in self.schema.key.iter().enumerate() {
                if let Some(value) = self.beside(place, column as u16) {
                    cell.beside.push((number as u16, value.clone()));
                }
            }
            link.push(if cell.beside.is_empty() { None } else { Some(serde_json::to_string(&cell)?) });
        }
        columns.push(Arc::new(StringArray::from(link)));
        Ok(RecordBatch::try_new(self.schema.arrow_keys(), columns)?)
    }
}

/// Reads the `__link__` cells of a batch.
pub fn links(column: &StringArray) -> Result<HashMap<usize, LinkCell>, serde_json::Error> {
    if column.null_count() == column.len() {
        return Ok(HashMap::new());
    }
    let cells = column.iter().enumerate().filter_map(|(index, text)| text.map(|text| (index, text)));
    cells.map(|(index, text)| Ok((index, serde_json::from_str(text)?))).collect()
}

#[cfg(test)]
mod tests;
