//! Batches as Parquet files and back. Pure.

use std::sync::Arc;

use arrow::{
    array::{Array, RecordBatch, new_null_array},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

/// Rows of one batch when a file is read.
const READ_ROWS: usize = 64 * 1024;
/// Bytes of a row group, as encoded: bounds what a writer holds.
const ROW_GROUP_BYTES: usize = 32 * 1024 * 1024;

/// A file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Parquet library's error.
    #[error("a data file cannot be read or written: {0}")]
    Parquet(#[from] ParquetError),
    /// Arrow's error.
    #[error("a data file cannot be read or written: {0}")]
    Arrow(#[from] ArrowError),
    /// The file's columns are not those of its table.
    #[error("a data file has {found} columns where its table has {expected}")]
    Columns {
        /// In the file.
        found: usize,
        /// By the table's schema.
        expected: usize,
    },
}

/// Writes a file piece by piece. Keeps `__link__` even if no row needs it: that is known only at the end, and a column of
/// NULLs costs a few bytes.
pub struct Writer {
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
}

impl Writer {
    /// A file for batches of `schema`.
    pub fn new(schema: SchemaRef) -> Result<Self, Error> {
        Ok(Self { writer: ArrowWriter::try_new(Vec::new(), schema, Some(properties()))?, rows: 0 })
    }

    /// Writes one batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch)?;
        if self.writer.in_progress_size() > ROW_GROUP_BYTES {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Ends the file; returns it and its rows.
    pub fn finish(self) -> Result<(Bytes, u64), Error> {
        Ok((self.writer.into_inner()?.into(), self.rows))
    }
}

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    WriterProperties::builder().set_compression(Compression::ZSTD(level)).build()
}

/// One batch as a file. Leaves `__link__` out if no row needs it.
pub fn encode(batch: &RecordBatch) -> Result<Bytes, Error> {
    let last = batch.num_columns() - 1;
    let plain = batch.column(last).null_count() == batch.num_rows();
    let batch = if plain { batch.project(&(0..last).collect::<Vec<_>>())? } else { batch.clone() };
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties()))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

/// Reads a file as batches of `schema`, whose last column may be missing in the file.
pub fn decode(file: Bytes, schema: SchemaRef) -> Result<impl Iterator<Item = Result<RecordBatch, Error>> + Send + 'static, Error> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(READ_ROWS).build()?;
    Ok(reader.map(move |batch| complete(&batch?, &schema)))
}

fn complete(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let expected = schema.fields().len();
    let mut columns = batch.columns().to_vec();
    if columns.len() + 1 == expected {
        columns.push(new_null_array(&DataType::Utf8, batch.num_rows()));
    }
    if columns.len() != expected {
        return Err(Error::Columns { found: columns.len(), expected });
    }
    // By position: names may repeat, and the file's own copy of the schema is not trusted over the record's.
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
