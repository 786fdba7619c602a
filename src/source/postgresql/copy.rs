//! The stream of `COPY … TO STDOUT (FORMAT binary)` (PostgreSQL manual, COPY, "Binary Format").

use bytes::{Buf, Bytes, BytesMut};

use super::rows::RowsBuilder;
use crate::{data::TableSchema, source::Error};

/// Signature, flags and length of the header extension.
const HEADER: usize = 11 + 4 + 4;

/// Takes the stream apart, in whatever pieces it comes, straight into Arrow builders.
pub struct CopyDecoder {
    /// A row that is not there as a whole yet; empty nearly always, since the server sends a message a row.
    rest: BytesMut,
    state: State,
    columns: usize,
    /// Rows so far.
    pub rows: RowsBuilder,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    End,
}

impl CopyDecoder {
    /// For rows of `TableSchema::arrow_rows` without the last column, selected by `catalog::select`.
    pub fn new(schema: &TableSchema) -> Self {
        Self { rest: BytesMut::new(), state: State::Header, columns: schema.columns.len(), rows: RowsBuilder::rows(schema) }
    }

    /// Whether the trailer was read: a stream that ends without it was cut off.
    pub fn complete(&self) -> bool {
        self.state == State::End && self.rest.is_empty()
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, mut piece: Bytes) -> Result<(), Error> {
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(&piece);
            piece = std::mem::take(&mut self.rest).freeze();
        }
        while let Some(taken) = self.take(&piece)? {
            piece.advance(taken);
        }
        if !piece.is_empty() {
            self.rest.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// Takes the header, a row or the trailer; says how many bytes that was, or none if it is not there as a whole.
    fn take(&mut self, piece: &[u8]) -> Result<Option<usize>, Error> {
        match self.state {
            State::Header => {
                let Some(head) = piece.get(..HEADER) else { return Ok(None) };
                let extension = u32::from_be_bytes([head[15], head[16], head[17], head[18]]) as usize;
                if !head.starts_with(b"PGCOPY\n\xff\r\n\0") || extension != 0 {
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
            let Some(length) = length_at(piece, end) else { return Ok(None) };
            end += 4 + usize::try_from(length).unwrap_or(0);
        }
        if piece.len() < end {
            return Ok(None);
        }
        let mut at = 2;
        for column in 0..self.columns {
            let length = length_at(piece, at).ok_or_else(garbled)?;
            at += 4;
            match usize::try_from(length) {
                Ok(length) => {
                    self.rows.binary(column, &piece[at..at + length])?;
                    at += length;
                }
                // -1
                Err(_) => self.rows.null(column),
            }
        }
        self.rows.end_row(None)?;
        Ok(Some(end))
    }
}

fn length_at(piece: &[u8], at: usize) -> Option<i32> {
    piece.get(at..)?.first_chunk::<4>().map(|length| i32::from_be_bytes(*length))
}

fn garbled() -> Error {
    Error::SourceError("the server's COPY stream is not of the form that its version has".to_owned())
}
