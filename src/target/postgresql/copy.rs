//! Rows into a table by COPY, the way a connection takes them fastest.

use std::{mem, pin::Pin};

use bytes::Bytes;
use futures::SinkExt as _;
use tokio_postgres::{CopyInSink, Transaction};

use super::encode::{Apart, Format, Rows, header, trailer};
use crate::{
    failpoint::{self, Point},
    target::{Error, LargeValues},
};

/// Bytes in one message: large enough that the driver's cost a message does not count.
const MESSAGE: usize = 1 << 20;

/// Writes batches into a table. A batch that needs another format than the one before goes on in another COPY of the same
/// transaction.
pub(super) struct Copy<'t> {
    transaction: &'t Transaction<'t>,
    /// Table and columns as they stand between COPY and FROM.
    into: String,
    open: Option<(Format, Pin<Box<CopyInSink<Bytes>>>)>,
    buffer: Vec<u8>,
    rows: u64,
    /// Where values are that do not come with their rows.
    values: Option<&'t dyn LargeValues>,
}

impl<'t> Copy<'t> {
    /// `table` and `columns` are quoted.
    pub(super) fn into(transaction: &'t Transaction<'t>, table: &str, columns: &[String], values: Option<&'t dyn LargeValues>) -> Self {
        Self { transaction, into: format!("{table} ({})", columns.join(", ")), open: None, buffer: Vec::new(), rows: 0, values }
    }

    pub(super) async fn write(&mut self, rows: &Rows<'_>) -> Result<(), Error> {
        if self.open.as_ref().is_some_and(|(format, _)| *format != rows.format()) {
            self.end().await?;
        }
        let mut apart = Vec::new();
        for row in 0..rows.len() {
            if self.open.is_none() {
                self.begin(rows.format()).await?;
            }
            rows.append(row, &mut self.buffer, &mut apart);
            if !apart.is_empty() {
                self.send_with(mem::take(&mut apart)).await?;
            }
            if self.buffer.len() >= MESSAGE {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Ends the COPY. Returns the rows that the server took.
    pub(super) async fn finish(mut self) -> Result<u64, Error> {
        failpoint::around(Point::StagingLoad, self.end()).await?;
        Ok(self.rows)
    }

    async fn begin(&mut self, format: Format) -> Result<(), Error> {
        let name = match format {
            Format::Binary => "binary",
            Format::Text => "text",
        };
        let sink = self.transaction.copy_in(&format!("COPY {} FROM STDIN (FORMAT {name})", self.into)).await?;
        self.buffer.extend_from_slice(header(format));
        self.open = Some((format, Box::pin(sink)));
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        if let Some((_, sink)) = &mut self.open {
            // A little more than a message, so that the last row does not make it grow.
            let full = mem::replace(&mut self.buffer, Vec::with_capacity(MESSAGE + MESSAGE / 8));
            sink.send(Bytes::from(full)).await?;
        }
        Ok(())
    }

    /// Sends what there is, with large values where they belong, part by part.
    async fn send_with(&mut self, apart: Vec<Apart<'_>>) -> Result<(), Error> {
        let Some(values) = self.values else {
            return Err(Error::InputFailed("a row has a large value, and there is no landing zone to read it from".to_owned()));
        };
        let around = mem::take(&mut self.buffer);
        let mut sent = 0;
        for value in apart {
            self.buffer.extend_from_slice(&around[sent..value.at]);
            sent = value.at;
            for part in 0..value.value.parts {
                value.append(&values.part(value.value, part).await?, &mut self.buffer);
                self.send().await?;
            }
        }
        self.buffer.extend_from_slice(&around[sent..]);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        if let Some((format, _)) = &self.open {
            self.buffer.extend_from_slice(trailer(*format));
            self.send().await?;
        }
        if let Some((_, mut sink)) = self.open.take() {
            self.rows += sink.as_mut().finish().await?;
        }
        Ok(())
    }
}
