//! The stream of `COPY … TO STDOUT (FORMAT binary)` (PostgreSQL manual, COPY, "Binary Format").

use std::sync::Arc;

use super::{
    divert,
    rows::RowsBuilder,
    wire::{Failure, Incoming},
};
use crate::{
    data::{Form, TableSchema},
    source::{Error, LargeValues},
};

/// What a stream begins with.
pub const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags and length of the header extension.
pub const HEADER: usize = SIGNATURE.len() + 4 + 4;
/// Length of a field that stands elsewhere: the length and the name of its value follow. COPY has no field of this length.
pub const APART: i32 = -2;

/// Reads a COPY that has begun, straight into Arrow builders.
pub struct CopyReader {
    values: Arc<dyn LargeValues>,
    columns: usize,
    /// A row that came in several messages; empty always with the servers that there are, which send a message a row.
    rest: Vec<u8>,
    state: State,
    /// Rows so far.
    pub rows: RowsBuilder,
    /// Bytes of messages that were read.
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    End,
}

impl CopyReader {
    /// For rows of `TableSchema::arrow_rows`, selected by `catalog::select`. What is large goes to `values`.
    pub fn new(schema: &TableSchema, values: Arc<dyn LargeValues>) -> Self {
        let (columns, rows) = (schema.columns.len(), RowsBuilder::rows(schema));
        Self { values, columns, rest: Vec::new(), state: State::Header, rows, bytes: 0 }
    }

    /// Reads what has arrived, or a row, or until the batch is full; waits for the first. Says whether the COPY has ended.
    pub async fn read(&mut self, incoming: &mut Incoming) -> Result<bool, Error> {
        let before = self.bytes;
        loop {
            let Some((tag, length)) = incoming.head()? else {
                incoming.read().await?;
                continue;
            };
            // Who wants all rows at once wants more than a batch; large values do not stay in memory then.
            let most = if self.rows.is_full() { divert::LARGE_VALUE } else { divert::LARGE_MESSAGE };
            if tag == b'd' && length > most {
                let row = divert::row(incoming, length, &*self.values).await?;
                self.take(&row)?;
                self.bytes += length;
                return Ok(false);
            }
            let Some(body) = incoming.body(length) else {
                if self.bytes > before {
                    return Ok(false);
                }
                incoming.read().await?;
                continue;
            };
            match tag {
                b'd' => self.take(body)?,
                b'c' if self.state == State::End && self.rest.is_empty() => return Ok(true),
                b'c' => return Err(Error::SourceError("the server ended a COPY before its trailer".to_owned())),
                b'E' => return Err(Failure::general(incoming.refused(body))),
                // NoticeResponse, ParameterStatus
                b'N' | b'S' => {}
                _ => return Err(incoming.unexpected()),
            }
            incoming.pass(length);
            self.bytes += length;
            if self.rows.is_full() {
                return Ok(false);
            }
        }
    }

    /// Takes the next piece of the stream.
    fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.rest.is_empty() {
            let taken = self.take_whole(piece)?;
            self.rest.extend_from_slice(&piece[taken..]);
        } else {
            self.rest.extend_from_slice(piece);
            let rest = std::mem::take(&mut self.rest);
            let taken = self.take_whole(&rest)?;
            self.rest.extend_from_slice(&rest[taken..]);
        }
        Ok(())
    }

    /// Takes the rows that are there as a whole; says how many bytes they are.
    fn take_whole(&mut self, piece: &[u8]) -> Result<usize, Error> {
        let mut at = 0;
        while let Some(taken) = self.take_one(&piece[at..])? {
            at += taken;
        }
        Ok(at)
    }

    /// Takes the header, a row or the trailer; says how many bytes that was, or none if it is not there as a whole.
    fn take_one(&mut self, piece: &[u8]) -> Result<Option<usize>, Error> {
        match self.state {
            State::Header => {
                let Some(head) = piece.get(..HEADER) else { return Ok(None) };
                let extension = u32::from_be_bytes([head[15], head[16], head[17], head[18]]) as usize;
                if !head.starts_with(SIGNATURE) || extension != 0 {
                    return Err(garbled());
                }
                self.state = State::Rows;
                Ok(Some(HEADER))
            }
            State::Rows => {
                let Some(count) = piece.first_chunk::<2>() else { return Ok(None) };
                match i16::from_be_bytes(*count) {
                    -1 => {
                        self.state = State::End;
                        Ok(Some(2))
                    }
                    count if usize::try_from(count) == Ok(self.columns) => self.row(piece),
                    _ => Err(garbled()),
                }
            }
            State::End if piece.is_empty() => Ok(None),
            State::End => Err(garbled()),
        }
    }

    fn row(&mut self, piece: &[u8]) -> Result<Option<usize>, Error> {
        // Only a whole row may reach the builders.
        let mut end = 2;
        for _ in 0..self.columns {
            let Some((field, after)) = field(piece, end) else { return Ok(None) };
            end = after + field.length();
        }
        if piece.len() < end {
            return Ok(None);
        }
        let mut at = 2;
        for column in 0..self.columns {
            let (field, after) = field(piece, at).ok_or_else(garbled)?;
            at = after + field.length();
            match field {
                Field::Null => self.rows.null(column),
                Field::Value(_) => self.rows.binary(column, &piece[after..at])?,
                Field::Apart(_) => self.rows.large(column, &piece[after..at], Form::Plain)?,
            }
        }
        self.rows.end_row(None)?;
        Ok(Some(end))
    }
}

/// A field, and how many bytes of it follow.
enum Field {
    Null,
    Value(usize),
    Apart(usize),
}

impl Field {
    fn length(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Value(length) | Self::Apart(length) => *length,
        }
    }
}

/// The field that begins at `at`, and where its bytes begin.
fn field(piece: &[u8], at: usize) -> Option<(Field, usize)> {
    let number = |at: usize| piece.get(at..)?.first_chunk::<4>().map(|length| i32::from_be_bytes(*length));
    match number(at)? {
        APART => Some((Field::Apart(number(at + 4)? as usize), at + 8)),
        length => Some((usize::try_from(length).map_or(Field::Null, Field::Value), at + 4)),
    }
}

fn garbled() -> Error {
    Error::SourceError("the server's COPY stream is not of the form that its version has".to_owned())
}
