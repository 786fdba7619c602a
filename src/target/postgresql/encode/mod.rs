//! Arrow to COPY: rows as PostgreSQL's COPY reads them, in its binary or its text format.
//!
//! Binary is the fast path: every column's Arrow values have an exact binary form and no cell is an exact text. Values that stand
//! elsewhere are only marked: whoever sends the rows puts them in. Everything
//! else goes as text, so that PostgreSQL's own input functions read what its output functions wrote. Both are exact; which
//! one is used is chosen batch by batch. Nothing here does I/O or allocates per row.

mod binary;
mod text;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};

use super::ddl::column_type;
use crate::{
    data::{Beside, Besides, Column, LargeValue, TableSchema, Travel},
    target::Error,
};

/// Which of COPY's formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `FORMAT binary`: each value as the type's receive function reads it.
    Binary,
    /// `FORMAT text`: each value as the type's input function reads it, special characters escaped.
    Text,
}

/// The values of one column, downcast once a batch.
enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    Timestamp(&'a TimestampMicrosecondArray),
    TimestampTz(&'a TimestampMicrosecondArray),
    /// Of units of 100 nanoseconds, here and in the next.
    Time7(&'a Int64Array),
    Timestamp7(&'a Int64Array),
    TimestampOffset(&'a StringArray),
    Utf8(&'a StringArray),
    /// `jsonb`: in binary its text follows a version byte.
    Jsonb(&'a StringArray),
    Binary(&'a BinaryArray),
    Uuid(&'a FixedSizeBinaryArray),
}

/// A batch ready to be written row by row.
pub(super) struct Rows<'a> {
    cells: Vec<Cells<'a>>,
    beside: &'a Besides,
    count: usize,
    format: Format,
}

impl<'a> Rows<'a> {
    /// Rows of the first columns of `batch`, which are `columns` of `schema`, and after them columns of our own (`integer`).
    pub(super) fn new(
        schema: &TableSchema,
        columns: &[usize],
        batch: &'a RecordBatch,
        beside: &'a Besides,
        numbers: &[&'a Int32Array],
    ) -> Result<Self, Error> {
        if batch.num_columns() < columns.len() {
            return Err(Error::InputFailed(format!("a batch has {} columns where {} are needed", batch.num_columns(), columns.len())));
        }
        let columns: Vec<&Column> = columns.iter().map(|&column| &schema.columns[column]).collect();
        let types: Vec<String> = columns.iter().map(|column| base_type(&column_type(schema, column))).collect();
        let mut cells = Vec::with_capacity(columns.len() + numbers.len());
        for ((column, name), array) in columns.iter().zip(&types).zip(batch.columns()) {
            cells.push(cells_of(column, name, array)?);
        }
        cells.extend(numbers.iter().map(|array| Cells::Int32(array)));
        let native = beside.values().all(|value| matches!(value, Beside::Large(_)))
            && columns.iter().zip(&types).all(|(column, name)| has_binary_form(column.travel, name));
        Ok(Self { cells, beside, count: batch.num_rows(), format: if native { Format::Binary } else { Format::Text } })
    }

    /// The format that holds every cell exactly.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Appends one row in [`Rows::format`], but for values that stand elsewhere: where they belong is added to `apart`.
    pub(super) fn append(&self, row: usize, out: &mut Vec<u8>, apart: &mut Vec<Apart<'a>>) {
        match self.format {
            Format::Binary => binary::append_row(&self.cells, self.beside, row, out, apart),
            Format::Text => text::append_row(&self.cells, self.beside, row, out, apart),
        }
    }
}

/// A value that stands elsewhere and belongs into a row.
pub(super) struct Apart<'a> {
    /// Bytes that stand before it.
    pub(super) at: usize,
    /// Where it is.
    pub(super) value: &'a LargeValue,
    form: ApartForm,
}

/// How a value that stands elsewhere is written.
enum ApartForm {
    AsIs,
    Escaped,
    Hex,
}

impl Apart<'_> {
    /// Appends some bytes of the value as they are written.
    pub(super) fn append(&self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.form {
            ApartForm::AsIs => out.extend_from_slice(bytes),
            ApartForm::Escaped => text::escaped(out, bytes),
            ApartForm::Hex => text::hex(out, bytes),
        }
    }
}

/// What stands before the first row of a COPY.
pub(super) fn header(format: Format) -> &'static [u8] {
    match format {
        // Signature, flags, length of the header's extension (PostgreSQL manual, COPY, "Binary Format").
        Format::Binary => b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0",
        Format::Text => b"",
    }
}

/// What stands after the last row of a COPY.
pub(super) fn trailer(format: Format) -> &'static [u8] {
    match format {
        Format::Binary => &[0xff, 0xff],
        Format::Text => b"",
    }
}

/// The type without its modifiers: `timestamp(3) without time zone` is `timestamp without time zone`.
fn base_type(name: &str) -> String {
    match (name.find('('), name.find(')')) {
        (Some(open), Some(close)) if open < close => format!("{}{}", &name[..open], &name[close + 1..]),
        _ => name.to_owned(),
    }
}

/// Whether the receive function of the column's type reads what we write for its Arrow type. Types that print alike may
/// differ here (an `oid` travels as a number and is not received as `bigint`), so only the known ones are.
fn has_binary_form(travel: Travel, base_type: &str) -> bool {
    let names: &[&str] = match travel {
        Travel::Bool => &["boolean", "bool"],
        Travel::Int16 => &["smallint", "int2"],
        Travel::Int32 => &["integer", "int4", "int"],
        Travel::Int64 => &["bigint", "int8"],
        Travel::Float32 => &["real", "float4"],
        Travel::Float64 => &["double precision", "float8"],
        Travel::Decimal { .. } => &["numeric", "decimal"],
        Travel::Date => &["date"],
        Travel::Time | Travel::Time7 => &["time without time zone", "time"],
        Travel::Timestamp | Travel::Timestamp7 => &["timestamp without time zone", "timestamp"],
        Travel::TimestampTz => &["timestamp with time zone", "timestamptz"],
        Travel::Utf8 | Travel::Text => &["text", "character varying", "varchar", "character", "bpchar", "name", "json", "jsonb"],
        Travel::Binary => &["bytea"],
        Travel::Uuid => &["uuid"],
        Travel::TimestampOffset => &[],
    };
    names.contains(&base_type)
}

fn cells_of<'a>(column: &Column, base_type: &str, array: &'a ArrayRef) -> Result<Cells<'a>, Error> {
    let found = match column.travel {
        Travel::Bool => array.as_boolean_opt().map(Cells::Bool),
        Travel::Int16 => array.as_primitive_opt::<Int16Type>().map(Cells::Int16),
        Travel::Int32 => array.as_primitive_opt::<Int32Type>().map(Cells::Int32),
        Travel::Int64 => array.as_primitive_opt::<Int64Type>().map(Cells::Int64),
        Travel::Float32 => array.as_primitive_opt::<Float32Type>().map(Cells::Float32),
        Travel::Float64 => array.as_primitive_opt::<Float64Type>().map(Cells::Float64),
        Travel::Decimal { scale, .. } => {
            // A file with another scale would be read as other numbers.
            array.as_primitive_opt::<Decimal128Type>().filter(|a| a.scale() == scale).map(|a| Cells::Decimal(a, scale.unsigned_abs()))
        }
        Travel::Date => array.as_primitive_opt::<Date32Type>().map(Cells::Date),
        Travel::Time => array.as_primitive_opt::<Time64MicrosecondType>().map(Cells::Time),
        Travel::Timestamp => array.as_primitive_opt::<TimestampMicrosecondType>().map(Cells::Timestamp),
        Travel::TimestampTz => array.as_primitive_opt::<TimestampMicrosecondType>().map(Cells::TimestampTz),
        Travel::Utf8 | Travel::Text if base_type == "jsonb" => array.as_string_opt::<i32>().map(Cells::Jsonb),
        Travel::Utf8 | Travel::Text => array.as_string_opt::<i32>().map(Cells::Utf8),
        Travel::Binary => array.as_binary_opt::<i32>().map(Cells::Binary),
        Travel::Time7 => array.as_primitive_opt::<Int64Type>().map(Cells::Time7),
        Travel::Timestamp7 => array.as_primitive_opt::<Int64Type>().map(Cells::Timestamp7),
        Travel::TimestampOffset => array.as_string_opt::<i32>().map(Cells::TimestampOffset),
        Travel::Uuid => array.as_fixed_size_binary_opt().filter(|a| a.value_length() == 16).map(Cells::Uuid),
    };
    found.ok_or_else(|| {
        Error::InputFailed(format!("column {} is {} in a batch, not {}", column.name, array.data_type(), column.travel.arrow()))
    })
}

impl Cells<'_> {
    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Bool(a) => a.is_null(row),
            Self::Int16(a) => a.is_null(row),
            Self::Int32(a) => a.is_null(row),
            Self::Int64(a) | Self::Time7(a) | Self::Timestamp7(a) => a.is_null(row),
            Self::Float32(a) => a.is_null(row),
            Self::Float64(a) => a.is_null(row),
            Self::Decimal(a, _) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Time(a) => a.is_null(row),
            Self::Timestamp(a) | Self::TimestampTz(a) => a.is_null(row),
            Self::Utf8(a) | Self::Jsonb(a) | Self::TimestampOffset(a) => a.is_null(row),
            Self::Binary(a) => a.is_null(row),
            Self::Uuid(a) => a.is_null(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    fn format(source_type: &str, travel: Travel, beside: &Besides) -> Format {
        let column = Column { source_type: source_type.to_owned(), ..fixtures::column(1, "c", travel) };
        let schema = fixtures::table("t", vec![column], &[0]);
        let batch = RecordBatch::new_empty(schema.arrow_rows());
        Rows::new(&schema, &[0], &batch, beside, &[]).unwrap().format()
    }

    #[test]
    fn binary_only_where_it_is_exact() {
        let none = Besides::new();
        assert_eq!(format("timestamp(3) without time zone", Travel::Timestamp, &none), Format::Binary);
        assert_eq!(format("character(5)", Travel::Utf8, &none), Format::Binary);
        assert_eq!(format("jsonb", Travel::Text, &none), Format::Binary);
        assert_eq!(format("date", Travel::Date, &Besides::from([((0, 0), Beside::Text("infinity".to_owned()))])), Format::Text);
        for text in ["interval", "numeric", "integer[]", "\"char\"", "jsonb[]", "xml"] {
            assert_eq!(format(text, Travel::Text, &none), Format::Text, "{text}");
        }
        assert_eq!(format("oid", Travel::Int64, &none), Format::Text);
    }
}
