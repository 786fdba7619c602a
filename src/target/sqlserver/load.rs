//! Rows into a table by a bulk load, values that stand elsewhere part by part.

use std::collections::VecDeque;

use arrow::array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};

use crate::{
    data::{Beside, Besides, LargeValue, TableSchema, Travel},
    failpoint::{self, Point},
    sqlserver::{
        Session,
        bulk::{self, Feed, Sent},
        wire::{self, Cells, Refused, Wire},
    },
    target::{Error, LargeValues, tds::kind::Kind},
};

/// Bytes that are made ready at once.
const READY: usize = 1 << 17;

/// A column that is loaded.
pub(super) struct Column {
    /// Its name in the table that is loaded.
    pub(super) sent: Sent,
    /// Its name for people.
    name: String,
    /// How its values come.
    travel: Travel,
}

impl Column {
    /// A column of the target's table.
    pub(super) fn of(schema: &TableSchema, at: usize, kind: &Kind) -> Self {
        let column = &schema.columns[at];
        Self { sent: Sent { name: column.name.clone(), wire: kind.wire }, name: column.name.clone(), travel: column.travel }
    }

    /// The same, staged under a name of our own.
    pub(super) fn staged(schema: &TableSchema, at: usize, kind: &Kind, name: String) -> Self {
        Self { sent: Sent { name, wire: kind.staged_wire() }, ..Self::of(schema, at, kind) }
    }

    /// A whole number of ours.
    pub(super) fn number(name: &str) -> Self {
        Self { sent: Sent { name: name.to_owned(), wire: Wire::Int }, name: name.to_owned(), travel: Travel::Int32 }
    }
}

/// Rows that come together.
pub(super) struct Batch {
    /// A column each.
    columns: Vec<ArrayRef>,
    rows: usize,
    /// Values of cells that are NULL in them.
    beside: Besides,
}

impl Batch {
    /// The first `count` columns of a batch, and after them columns of ours.
    pub(super) fn new(batch: &RecordBatch, count: usize, beside: Besides, numbers: Vec<ArrayRef>) -> Result<Self, Error> {
        let Some(columns) = batch.columns().get(..count) else {
            return Err(Error::InputFailed(format!("a batch has {} columns where {count} are needed", batch.num_columns())));
        };
        let columns = columns.iter().cloned().chain(numbers).collect();
        Ok(Self { columns, rows: batch.num_rows(), beside })
    }
}

/// Loads all rows into `into` (quoted), whose columns are `columns`. `table`: the target's table, for people. `lock`: as
/// [`bulk::load`]. Returns how many there were.
pub(super) async fn load(
    session: &mut Session,
    into: &str,
    columns: Vec<Column>,
    lock: bool,
    batches: BoxStream<'_, Result<Batch, Error>>,
    table: &str,
    values: Option<&dyn LargeValues>,
) -> Result<u64, Error> {
    let sent: Vec<Sent> = columns.iter().map(|column| column.sent.clone()).collect();
    let mut loaded = 0;
    let rows = Rows { columns, batches, batch: None, row: 0, column: 0, waiting: VecDeque::new(), table, values, loaded: &mut loaded };
    failpoint::around(Point::StagingLoad, bulk::load(session, into, &sent, lock, rows)).await?;
    Ok(loaded)
}

/// Rows on their way.
struct Rows<'a> {
    columns: Vec<Column>,
    batches: BoxStream<'a, Result<Batch, Error>>,
    batch: Option<(Vec<Cells>, Batch)>,
    /// What comes next of the batch.
    row: usize,
    column: usize,
    /// Parts of a large value that come before that.
    waiting: VecDeque<Part>,
    table: &'a str,
    values: Option<&'a dyn LargeValues>,
    loaded: &'a mut u64,
}

/// A part of a large value.
struct Part {
    value: LargeValue,
    number: u32,
    is_text: bool,
    /// The bytes of a character of which the part before had only the beginning.
    begun: Vec<u8>,
}

#[async_trait]
impl Feed for Rows<'_> {
    type Error = Error;

    async fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        if let Some(part) = self.waiting.pop_front() {
            self.part(part, out).await?;
            return Ok(true);
        }
        while self.batch.is_none() {
            let Some(batch) = self.batches.next().await else { return Ok(false) };
            let batch = batch?;
            if batch.rows > 0 {
                self.batch = Some((self.cells(&batch)?, batch));
            }
        }
        self.rows(out)?;
        Ok(true)
    }
}

impl Rows<'_> {
    fn cells(&self, batch: &Batch) -> Result<Vec<Cells>, Error> {
        let cells = self.columns.iter().zip(&batch.columns).map(|(column, array)| {
            Cells::new(column.travel, array).ok_or_else(|| {
                Error::InputFailed(format!("column {} is {} in a batch, not {}", column.name, array.data_type(), column.travel.arrow()))
            })
        });
        cells.collect()
    }

    /// Appends rows until there are enough bytes, the batch ends, or a large value comes next.
    fn rows(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some((cells, batch)) = &self.batch else { return Ok(()) };
        while self.row < batch.rows && out.len() < READY {
            if self.column == 0 {
                out.push(wire::ROW);
            }
            while self.column < cells.len() {
                let at = self.column;
                self.column += 1;
                let (column, cell) = (&self.columns[at], &cells[at]);
                let beside = if batch.beside.is_empty() { None } else { batch.beside.get(&(at as u16, self.row as u32)) };
                match beside.filter(|_| cell.is_null(self.row)) {
                    None => cell.append(column.sent.wire, self.row, out).map_err(|Refused(what)| refused(self.table, column, &what))?,
                    // Only what the column's type does not hold stands beside it.
                    Some(Beside::Text(text)) => return Err(refused(self.table, column, text)),
                    Some(Beside::Large(value)) => {
                        let is_text = match column.sent.wire {
                            Wire::TextMax => true,
                            Wire::VarBinaryMax => false,
                            _ => return Err(refused(self.table, column, &format!("a value of {} bytes", value.size()))),
                        };
                        wire::begin_parts(out);
                        let part = |number| Part { value: value.clone(), number, is_text, begun: Vec::new() };
                        self.waiting.extend((0..value.parts).map(part));
                        if self.waiting.is_empty() {
                            wire::end_of_parts(out);
                            continue;
                        }
                        return Ok(());
                    }
                }
            }
            self.column = 0;
            self.row += 1;
            *self.loaded += 1;
        }
        if self.row == batch.rows {
            (self.row, self.batch) = (0, None);
        }
        Ok(())
    }

    async fn part(&mut self, part: Part, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(values) = self.values else {
            return Err(Error::InputFailed("a row has a large value, and there is no landing zone to read it from".to_owned()));
        };
        let torn = || Error::InputFailed(format!("part {} of {} is not of its form", part.number, part.value.path));
        let bytes: Bytes = values.part(&part.value, part.number).await?;
        let plain = part.value.plain(part.number, &bytes).ok_or_else(torn)?;
        if part.is_text {
            let mut begun = part.begun;
            begun.extend_from_slice(&plain);
            let whole = match std::str::from_utf8(&begun) {
                Ok(text) => text.len(),
                // The rest of the last character is in the next part.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(Error::InputFailed(format!("{} is not UTF-8", part.value.path))),
            };
            let rest = begun.split_off(whole);
            wire::text_part(&String::from_utf8_lossy(&begun), out);
            match self.waiting.front_mut() {
                Some(next) => next.begun = rest,
                None if !rest.is_empty() => return Err(Error::InputFailed(format!("{} ends within a character", part.value.path))),
                None => {}
            }
        } else {
            wire::part(&plain, out);
        }
        if self.waiting.is_empty() {
            wire::end_of_parts(out);
        }
        Ok(())
    }
}

fn refused(table: &str, column: &Column, what: &str) -> Error {
    Error::ValueNotSupported(format!("column {} of {table} is to hold {what}, which its type in the target does not hold", column.name))
}

/// A batch alone.
pub(super) fn only<'a>(batch: Batch) -> BoxStream<'a, Result<Batch, Error>> {
    futures::stream::once(async { Ok(batch) }).boxed()
}
