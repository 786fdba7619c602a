//! What the stream does to one table: its rows until the next cut.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::array::RecordBatch;

use super::{
    evolve::Origin,
    lsn::Lsn,
    pgoutput::{Cell, Malformed},
    rows::RowsBuilder,
};
use crate::{
    data::{Op, TableVersion},
    source::{Error, Segment},
};

/// A table that is followed.
pub(super) struct Followed {
    pub(super) id: u32,
    pub(super) version: TableVersion,
    /// Changes of transactions that committed before are dropped.
    pub(super) from: Lsn,
    pub(super) state: State,
    /// By part, once its newest relation message was compared with the version.
    pub(super) layouts: HashMap<u32, Arc<Layout>>,
    /// The columns of each part by number, when the catalog was last asked.
    pub(super) orders: HashMap<u32, Vec<String>>,
    /// Partitions that were made empty, and of which no change has come yet.
    pub(super) unused: HashSet<u32>,
    /// When the stream has passed this position, nothing is open about columns up to this number.
    pub(super) settles: Option<(Lsn, i32)>,
    pub(super) segments: Vec<Segment>,
    /// Made at the first change of a cut: builders of idle tables would cost memory.
    pub(super) rows: Option<RowsBuilder>,
}

/// Whether a table can be followed.
pub(super) enum State {
    /// It can be followed.
    Sound,
    /// No longer: its changes are dropped. The error, until a cut has told it.
    Broken(Option<Error>),
}

/// Where a table's columns are in the rows of one of its parts.
pub(super) struct Layout {
    /// Columns in the stream.
    width: usize,
    origins: Vec<Origin>,
    /// Both have the same columns in the same order.
    same: bool,
}

impl Layout {
    pub(super) fn new(width: usize, origins: Vec<Origin>) -> Self {
        let same = origins.len() == width && origins.iter().enumerate().all(|(index, origin)| *origin == Origin::Stream(index));
        Self { width, origins, same }
    }

    /// A row of the stream, in the order of the table's columns.
    pub(super) fn arrange<'a>(&'a self, row: &'a [Cell<'a>]) -> Result<Cow<'a, [Cell<'a>]>, Error> {
        if row.len() != self.width {
            return Err(malformed());
        }
        if self.same {
            return Ok(Cow::Borrowed(row));
        }
        let cell = |origin: &'a Origin| match origin {
            Origin::Stream(index) => row.get(*index).copied().ok_or_else(malformed),
            Origin::Initial(Some(text)) => Ok(Cell::Text(text.as_bytes())),
            Origin::Initial(None) => Ok(Cell::Null),
        };
        self.origins.iter().map(cell).collect::<Result<Vec<_>, _>>().map(Cow::Owned)
    }
}

impl Followed {
    /// What came before stays in the cut.
    pub(super) fn break_off(&mut self, what: &str) {
        self.state = State::Broken(Some(Error::SchemaChanged(format!("{} {what}", self.version.schema.name))));
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, RowsBuilder::bytes)
    }

    pub(super) fn insert(&mut self, new: &[Cell<'_>]) -> Result<(), Error> {
        self.whole_row(new, None)
    }

    pub(super) fn update(&mut self, old: Option<&[Cell<'_>]>, new: &[Cell<'_>]) -> Result<(), Error> {
        if let Some(old) = old {
            let moved = self.version.schema.key.iter().any(|&column| match (old.get(column), new.get(column)) {
                (_, Some(Cell::Unchanged)) => false,
                (old, new) => old != new,
            });
            if moved {
                self.key_row(old, Op::Move)?;
            }
        }
        self.whole_row_as(new, old, Op::Update)?;
        self.end_full_batch()
    }

    pub(super) fn delete(&mut self, old: &[Cell<'_>]) -> Result<(), Error> {
        self.key_row(old, Op::Delete)?;
        self.end_full_batch()
    }

    pub(super) fn truncate(&mut self) -> Result<(), Error> {
        self.end_segment()?;
        self.segments.push(Segment::Truncate);
        Ok(())
    }

    pub(super) fn whole_row(&mut self, new: &[Cell<'_>], old: Option<&[Cell<'_>]>) -> Result<(), Error> {
        self.whole_row_as(new, old, Op::Insert)?;
        self.end_full_batch()
    }

    /// A row with all its columns. What the change left as it was comes from the old row, where that was sent.
    pub(super) fn whole_row_as(&mut self, new: &[Cell<'_>], old: Option<&[Cell<'_>]>, op: Op) -> Result<(), Error> {
        let width = self.version.schema.columns.len();
        if new.len() != width || old.is_some_and(|old| old.len() != width) {
            return Err(malformed());
        }
        let rows = self.rows.get_or_insert_with(|| RowsBuilder::changes(&self.version.schema));
        for (column, cell) in new.iter().enumerate() {
            let in_key = self.version.schema.key.contains(&column);
            match (*cell, old.map(|old| old[column])) {
                // A key never travels without its value.
                (Cell::Unchanged, None | Some(Cell::Unchanged | Cell::Null)) if in_key => return Err(malformed()),
                // NULL in an old key row says nothing; an old whole row has no large value as NULL that is unchanged.
                (Cell::Unchanged, None | Some(Cell::Unchanged | Cell::Null)) => rows.unchanged(column),
                (Cell::Unchanged, Some(cell)) | (cell, _) => rows.cell(column, cell)?,
            }
        }
        rows.end_row(Some(op))
    }

    /// A row of which only the key is known.
    pub(super) fn key_row(&mut self, old: &[Cell<'_>], op: Op) -> Result<(), Error> {
        if old.len() != self.version.schema.columns.len() {
            return Err(malformed());
        }
        let rows = self.rows.get_or_insert_with(|| RowsBuilder::changes(&self.version.schema));
        for (column, cell) in old.iter().enumerate() {
            match cell {
                Cell::Null | Cell::Unchanged if self.version.schema.key.contains(&column) => return Err(malformed()),
                cell if self.version.schema.key.contains(&column) => rows.cell(column, *cell)?,
                _ => rows.null(column),
            }
        }
        rows.end_row(Some(op))
    }

    pub(super) fn end_full_batch(&mut self) -> Result<(), Error> {
        if self.rows.as_ref().is_some_and(RowsBuilder::is_full) { self.end_segment() } else { Ok(()) }
    }

    pub(super) fn end_segment(&mut self) -> Result<(), Error> {
        if let Some(rows) = self.rows.as_mut().filter(|rows| rows.len() > 0) {
            let batch: RecordBatch = rows.finish()?;
            self.segments.push(Segment::Rows(batch));
        }
        Ok(())
    }
}

/// A change that is not of the form that its table has.
pub(super) fn malformed() -> Error {
    Malformed.into()
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::SourceError("the server sent a change that is not of the form that pgoutput has".to_owned())
    }
}
