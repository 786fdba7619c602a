//! Batches as Parquet files and back. Pure.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt64Array, new_null_array},
    compute::take,
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

/// Rows of one batch when a file is read.
const READ_ROWS: usize = 64 * 1024;
/// Bytes of a row group, as encoded: bounds what a writer holds.
const ROW_GROUP_BYTES: usize = 32 * 1024 * 1024;
/// So many values of a column are looked at to see whether they repeat.
const SAMPLE: usize = 512;

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
    schema: SchemaRef,
    /// From the first batch on, by which columns are encoded.
    parquet: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
}

impl Writer {
    /// A file for batches of `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, parquet: None, rows: 0 }
    }

    /// Writes one batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let writer = match &mut self.parquet {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties(batch)?))?),
        };
        self.rows += batch.num_rows() as u64;
        writer.write(batch)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush()?;
        }
        Ok(())
    }

    /// Ends the file; returns it and its rows.
    pub fn finish(mut self) -> Result<(Bytes, u64), Error> {
        if self.parquet.is_none() {
            self.write(&RecordBatch::new_empty(self.schema.clone()))?;
        }
        let file = self.parquet.map(ArrowWriter::into_inner).transpose()?.unwrap_or_default();
        Ok((file.into(), self.rows))
    }
}

/// How a file is encoded whose first batch this is: fast first, for it is read once, as a whole, and soon removed.
fn properties(batch: &RecordBatch) -> Result<WriterProperties, Error> {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        // Nobody looks for single rows.
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true);
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if repeats(column)? {
            continue;
        }
        let path = ColumnPath::new(vec![field.name().clone()]);
        properties = properties.set_column_dictionary_enabled(path.clone(), false);
        if is_integer(field.data_type()) {
            // Keys and times grow from row to row.
            properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}

/// Whether a column's values occur more than once: only then a dictionary is worth looking each of them up in it.
fn repeats(column: &ArrayRef) -> Result<bool, Error> {
    let step = column.len().div_ceil(SAMPLE).max(1);
    let places = UInt64Array::from_iter_values((0..column.len() as u64).step_by(step));
    let sample = take(column, &places, None)?;
    let rows = RowConverter::new(vec![SortField::new(column.data_type().clone())])?.convert_columns(&[sample])?;
    let distinct: HashSet<&[u8]> = (0..rows.num_rows()).map(|row| rows.row(row).data()).collect();
    Ok(distinct.len() * 2 <= rows.num_rows())
}

/// Whether Parquet stores the type as an integer.
fn is_integer(kind: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Int16, Int32, Int64, Time64, Timestamp};
    matches!(kind, Int16 | Int32 | Int64 | Date32 | Time64(_) | Timestamp(..) | Decimal128(..=18, _))
}

/// One batch as a file. Leaves `__link__` out if no row needs it.
pub fn encode(batch: &RecordBatch) -> Result<Bytes, Error> {
    let last = batch.num_columns() - 1;
    let plain = batch.column(last).null_count() == batch.num_rows();
    let batch = if plain { batch.project(&(0..last).collect::<Vec<_>>())? } else { batch.clone() };
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties(&batch)?))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray},
        datatypes::{Field, Schema},
    };
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    #[test]
    fn only_values_that_repeat_have_a_dictionary_and_all_come_back() {
        let count = 5000;
        let columns: Vec<ArrayRef> = vec![
            Arc::new((0..count).map(Some).collect::<Int64Array>()),
            Arc::new((0..count).map(|row| (row % 7 > 0).then_some(row * 1_000_003)).collect::<TimestampMicrosecondArray>()),
            Arc::new(
                (0..count).map(|row| Some(i128::from(row) * -7)).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap(),
            ),
            Arc::new(
                (0..count).map(|row| Some(i128::from(row) << 64)).collect::<Decimal128Array>().with_precision_and_scale(38, 0).unwrap(),
            ),
            Arc::new((0..count).map(|row| Some(format!("text {row}"))).collect::<StringArray>()),
            Arc::new((0..count).map(|row| Some(["new", "paid"][row as usize % 2])).collect::<StringArray>()),
            Arc::new(StringArray::new_null(count as usize)),
        ];
        let fields: Vec<Field> =
            columns.iter().enumerate().map(|(at, c)| Field::new(format!("c.{at}"), c.data_type().clone(), true)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let mut writer = Writer::new(batch.schema());
        writer.write(&batch.slice(0, 4000)).unwrap();
        writer.write(&batch.slice(4000, 1000)).unwrap();
        let (bytes, rows) = writer.finish().unwrap();
        assert_eq!(rows, 5000);
        for file in [bytes, encode(&batch).unwrap()] {
            let reader = SerializedFileReader::new(file.clone()).unwrap();
            let dictionaries: Vec<bool> =
                reader.metadata().row_group(0).columns().iter().map(|column| column.dictionary_page_offset().is_some()).collect();
            assert_eq!(dictionaries[..6], [false, false, false, false, false, true]);
            let found: Vec<RecordBatch> = decode(file, batch.schema()).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(arrow::compute::concat_batches(&batch.schema(), &found).unwrap(), batch);
        }
    }

    #[test]
    fn a_file_without_rows_can_be_read() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("__link__", DataType::Utf8, true)]));
        let (bytes, rows) = Writer::new(schema.clone()).finish().unwrap();
        assert_eq!(rows, 0);
        assert_eq!(decode(bytes, schema).unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 0);
    }
}
