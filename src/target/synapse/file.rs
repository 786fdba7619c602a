//! Load files: rows in the shapes of Parquet that a pool reads by COPY, exact, or refused.
//!
//! A pool reads no times of microseconds or finer ("SQL dedicated pools do not currently support Parquet data types with MICROS and
//! NANOS precision", `design-elt-data-loading` of its manual), and small numbers only in part. So numbers of 4 and 8 bytes, bits,
//! texts and bytes go as they are, and all else as text, of which the pool makes the column's type when it moves rows on.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, BinaryArray, Decimal128Array, Float32Array, Float64Array, Int32Array, RecordBatch, StringArray,
    },
    datatypes::{
        DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int64Type, Schema, SchemaRef,
        Time64MicrosecondType, TimestampMicrosecondType,
    },
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::Compression,
    errors::ParquetError,
    file::properties::WriterProperties,
};

use crate::{
    data::{Beside, Besides, Travel, print},
    sqlserver::wire::{Refused, Wire, days, finite},
    target::{Error, tds::kind::Kind},
};

/// The type of values that are staged as text.
const TEXT: &str = "nvarchar(50)";
/// A file is complete when it has so many bytes.
const FILE_BYTES: usize = 32 << 20;
/// A day in units of 100 nanoseconds.
const DAY_UNITS: i128 = 864_000_000_000;
/// Days from 1970-01-01 back to 1753-01-01, where `datetime` begins.
const FIRST_DATETIME: i64 = -79_257;
/// Days from 1970-01-01 back to 1900-01-01, where `smalldatetime` begins.
const FIRST_SMALLDATETIME: i64 = -25_567;

/// How the values of a kind are staged: the type, without its collation.
pub(super) fn staged(kind: &Kind) -> String {
    match kind.wire {
        Wire::Bit => "bit".to_owned(),
        Wire::TinyInt | Wire::SmallInt | Wire::Int => "int".to_owned(),
        Wire::BigInt => "bigint".to_owned(),
        Wire::Real => "real".to_owned(),
        Wire::Float => "float".to_owned(),
        Wire::Text(most) => format!("nvarchar({most})"),
        Wire::TextMax => "nvarchar(max)".to_owned(),
        Wire::Binary(most) | Wire::VarBinary(most) => format!("varbinary({most})"),
        Wire::VarBinaryMax => "varbinary(max)".to_owned(),
        _ => TEXT.to_owned(),
    }
}

/// The kind, its values made of staged ones.
pub(super) fn of_staged(kind: &Kind) -> Kind {
    let spelled = &kind.spelled;
    let convert = match kind.wire {
        Wire::TinyInt | Wire::SmallInt | Wire::Binary(_) | Wire::Decimal { .. } | Wire::Money | Wire::SmallMoney | Wire::Uuid => {
            format!("CONVERT({spelled}, {{}})")
        }
        // As ISO has it, with all digits.
        Wire::Date | Wire::Time(_) | Wire::DateTime2(_) | Wire::DateTimeOffset(_) | Wire::DateTime | Wire::SmallDateTime => {
            format!("CONVERT({spelled}, {{}}, 121)")
        }
        _ => return kind.clone(),
    };
    kind.clone().converted(convert)
}

/// A value of the table as it would have been staged.
pub(super) fn to_staged(kind: &Kind, value: &str) -> String {
    match kind.wire {
        Wire::Money | Wire::SmallMoney => format!("CONVERT({TEXT}, {value}, 2)"),
        Wire::Date | Wire::Time(_) | Wire::DateTime2(_) | Wire::DateTimeOffset(_) | Wire::DateTime | Wire::SmallDateTime => {
            format!("CONVERT({TEXT}, {value}, 121)")
        }
        Wire::Decimal { .. } | Wire::Uuid => format!("CONVERT({TEXT}, {value})"),
        _ => value.to_owned(),
    }
}

/// A column of load files.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its name where it is staged.
    pub(super) name: String,
    /// Its name for people.
    pub(super) people: String,
    pub(super) travel: Travel,
    pub(super) wire: Wire,
}

impl Column {
    /// A whole number of ours.
    pub(super) fn number(name: &str) -> Self {
        Self { name: name.to_owned(), people: name.to_owned(), travel: Travel::Int32, wire: Wire::Int }
    }

    fn field(&self) -> Field {
        let data_type = match self.wire {
            Wire::Bit => DataType::Boolean,
            Wire::TinyInt | Wire::SmallInt | Wire::Int => DataType::Int32,
            Wire::BigInt => DataType::Int64,
            Wire::Real => DataType::Float32,
            Wire::Float => DataType::Float64,
            Wire::Binary(_) | Wire::VarBinary(_) | Wire::VarBinaryMax => DataType::Binary,
            _ => DataType::Utf8,
        };
        Field::new(&self.name, data_type, true)
    }

    /// The values as the file has them.
    fn values(&self, array: &ArrayRef) -> Result<ArrayRef, Refused> {
        let other = || Refused(format!("{} where {} is asked for", array.data_type(), self.travel.arrow()));
        // What was written for another version would be read as other values.
        let is_decimal_of = |scale: i8| matches!(array.data_type(), DataType::Decimal128(_, found) if *found == scale);
        match self.travel {
            Travel::Decimal { scale, .. } if !is_decimal_of(scale) => return Err(other()),
            Travel::Decimal { .. } => {}
            travel if *array.data_type() != travel.arrow() => return Err(other()),
            _ => {}
        }
        Ok(match self.wire {
            Wire::Bit | Wire::Int | Wire::BigInt => array.clone(),
            Wire::TinyInt | Wire::SmallInt => {
                let numbers = array.as_primitive_opt::<Int16Type>().ok_or_else(other)?;
                if self.wire == Wire::TinyInt
                    && let Some(wrong) = numbers.iter().flatten().find(|number| u8::try_from(*number).is_err())
                {
                    return Err(Refused(wrong.to_string()));
                }
                Arc::new(numbers.iter().map(|number| number.map(i32::from)).collect::<Int32Array>())
            }
            Wire::Real => {
                let numbers: &Float32Array = array.as_primitive_opt::<Float32Type>().ok_or_else(other)?;
                numbers.iter().flatten().try_for_each(|number| finite(number.into()).map(|_| ()))?;
                array.clone()
            }
            Wire::Float => {
                let numbers: &Float64Array = array.as_primitive_opt::<Float64Type>().ok_or_else(other)?;
                numbers.iter().flatten().try_for_each(|number| finite(number).map(|_| ()))?;
                array.clone()
            }
            Wire::Text(_) | Wire::TextMax => {
                let texts: &StringArray = array.as_string_opt().ok_or_else(other)?;
                if let Wire::Text(most) = self.wire {
                    let length = |text: &str| text.encode_utf16().count();
                    if let Some(long) =
                        texts.iter().flatten().find(|text| text.len() > usize::from(most) && length(text) > usize::from(most))
                    {
                        return Err(Refused(format!("a text of {} characters", length(long))));
                    }
                }
                array.clone()
            }
            Wire::Binary(_) | Wire::VarBinary(_) | Wire::VarBinaryMax => {
                let values: &BinaryArray = array.as_binary_opt().ok_or_else(other)?;
                if let Wire::Binary(most) | Wire::VarBinary(most) = self.wire
                    && let Some(long) = values.iter().flatten().find(|value| value.len() > usize::from(most))
                {
                    return Err(Refused(format!("a value of {} bytes", long.len())));
                }
                array.clone()
            }
            _ => {
                let text = |row| (!array.is_null(row)).then(|| self.text(array, row)).transpose();
                Arc::new((0..array.len()).map(text).collect::<Result<StringArray, Refused>>()?)
            }
        })
    }

    /// A value as text, of which the pool makes the same value.
    fn text(&self, array: &ArrayRef, row: usize) -> Result<String, Refused> {
        let micros = |array: &ArrayRef| array.as_primitive::<TimestampMicrosecondType>().value(row);
        Ok(match (self.travel, self.wire) {
            (Travel::Decimal { .. }, wire) => decimal(array.as_primitive::<Decimal128Type>(), row, wire)?,
            (Travel::Uuid, _) => print::value(self.travel, array, row),
            (Travel::Date, _) => {
                let day = i64::from(array.as_primitive::<Date32Type>().value(row));
                days(day)?;
                print::date(day)
            }
            (Travel::Time, Wire::Time(digits)) => time(i128::from(array.as_primitive::<Time64MicrosecondType>().value(row)) * 10, digits)?,
            (Travel::Time7, Wire::Time(digits)) => time(array.as_primitive::<Int64Type>().value(row).into(), digits)?,
            (Travel::Timestamp, Wire::DateTime2(digits)) => moment(i128::from(micros(array)) * 10, digits)?,
            (Travel::Timestamp7, Wire::DateTime2(digits)) => moment(array.as_primitive::<Int64Type>().value(row).into(), digits)?,
            (Travel::TimestampTz, Wire::DateTimeOffset(digits)) => {
                format!("{} +00:00", moment(i128::from(micros(array)) * 10, digits)?)
            }
            (Travel::TimestampOffset, _) => {
                let text = array.as_string::<i32>().value(row);
                let units = print::read_moment_at(text).ok_or_else(|| Refused(text.to_owned()))?;
                days(units.div_euclid(DAY_UNITS) as i64)?;
                text.to_owned()
            }
            (Travel::Timestamp, Wire::DateTime) => {
                // Ticks of 1/300 s, told in milliseconds: the type's own way to print them.
                let micros = micros(array);
                let (day, of_day) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
                let ticks = (of_day * 300 + 500_000) / 1_000_000;
                if day < FIRST_DATETIME || ticks >= 25_920_000 {
                    return Err(Refused(print::moment(micros.into(), "")));
                }
                moment(i128::from(day) * DAY_UNITS + i128::from((ticks * 10 + 1) / 3) * 10_000, 3)?
            }
            (Travel::Timestamp, Wire::SmallDateTime) => {
                let micros = micros(array);
                if u16::try_from(micros.div_euclid(86_400_000_000) - FIRST_SMALLDATETIME).is_err() {
                    return Err(Refused(print::moment(micros.into(), "")));
                }
                moment(i128::from(micros) * 10, 0)?
            }
            (travel, wire) => return Err(Refused(format!("a value of {travel:?} that cannot be loaded as {wire:?}"))),
        })
    }
}

fn decimal(array: &Decimal128Array, row: usize, wire: Wire) -> Result<String, Refused> {
    let value = array.value(row).unsigned_abs();
    let fits = match wire {
        Wire::Decimal { precision, .. } => 10_u128.checked_pow(precision.into()).is_none_or(|end| value < end),
        Wire::Money => i64::try_from(array.value(row)).is_ok(),
        Wire::SmallMoney => i32::try_from(array.value(row)).is_ok(),
        _ => false,
    };
    if fits { Ok(array.value_as_string(row)) } else { Err(Refused(array.value_as_string(row))) }
}

/// A moment without a zone. `units`: of 100 nanoseconds since 1970-01-01.
fn moment(units: i128, digits: u8) -> Result<String, Refused> {
    days(units.div_euclid(DAY_UNITS) as i64).map_err(|_| Refused(print::moment(units.div_euclid(10), "")))?;
    let text = print::moment_at(units, 0, digits);
    Ok(text.strip_suffix(" +00:00").map(str::to_owned).unwrap_or(text))
}

/// A time of day. `units`: of 100 nanoseconds.
fn time(units: i128, digits: u8) -> Result<String, Refused> {
    if !(0..DAY_UNITS).contains(&units) {
        return Err(Refused(print::time((units / 10) as i64)));
    }
    let text = moment(units, digits)?;
    Ok(text.split_once(' ').map(|(_, time)| time.to_owned()).unwrap_or_default())
}

/// Writes rows into files, one after the other.
pub(super) struct Files<'a> {
    columns: &'a [Column],
    /// The target's table, for people.
    table: &'a str,
    schema: SchemaRef,
    open: Option<ArrowWriter<Vec<u8>>>,
    /// Rows so far.
    pub(super) rows: u64,
}

impl<'a> Files<'a> {
    pub(super) fn new(columns: &'a [Column], table: &'a str) -> Self {
        let fields: Vec<Field> = columns.iter().map(Column::field).collect();
        Self { columns, table, schema: Arc::new(Schema::new(fields)), open: None, rows: 0 }
    }

    /// Takes in rows: a column each, in the columns' order. `beside`: what they cannot hold. Returns a file that is complete.
    pub(super) fn add(&mut self, arrays: &[ArrayRef], beside: &Besides) -> Result<Option<Bytes>, Error> {
        if let Some(((column, _), value)) = beside.iter().find(|((column, _), _)| usize::from(*column) < self.columns.len()) {
            let what = match value {
                Beside::Text(text) => text.clone(),
                Beside::Large(value) => format!("a value of {} bytes, more than is loaded into a pool", value.size()),
            };
            return Err(self.refused(usize::from(*column), &what));
        }
        let rows = arrays.first().map_or(0, Array::len);
        if rows == 0 {
            return Ok(None);
        }
        let values = self
            .columns
            .iter()
            .zip(arrays)
            .enumerate()
            .map(|(at, (column, array))| column.values(array).map_err(|Refused(what)| self.refused(at, &what)));
        let values = values.collect::<Result<Vec<_>, Error>>()?;
        let batch = RecordBatch::try_new(self.schema.clone(), values).map_err(|error| Error::InputFailed(error.to_string()))?;
        let writer = match &mut self.open {
            Some(writer) => writer,
            open @ None => {
                // It lives for a minute, and within a cloud a byte costs less than packing it.
                let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).build();
                let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
                open.insert(ArrowWriter::try_new_with_options(Vec::new(), self.schema.clone(), options).map_err(|error| unwritten(&error))?)
            }
        };
        writer.write(&batch).map_err(|error| unwritten(&error))?;
        self.rows += rows as u64;
        if writer.bytes_written() + writer.in_progress_size() >= FILE_BYTES { self.finish() } else { Ok(None) }
    }

    /// The last file, if there is one.
    pub(super) fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(writer) = self.open.take() else { return Ok(None) };
        writer.into_inner().map(|bytes| Some(bytes.into())).map_err(|error| unwritten(&error))
    }

    fn refused(&self, at: usize, what: &str) -> Error {
        let column = &self.columns[at].people;
        Error::ValueNotSupported(format!("column {column} of {} is to hold {what}, which its type in the target does not hold", self.table))
    }
}

fn unwritten(error: &ParquetError) -> Error {
    Error::InputFailed(format!("a load file cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Date32Array, FixedSizeBinaryArray, Int16Array, Int64Array, Time64MicrosecondArray, TimestampMicrosecondArray,
    };
    use parquet::{
        arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
        basic::{LogicalType, Type},
    };

    use super::*;
    use crate::data::{Form, LargeValue};

    fn column(travel: Travel, wire: Wire) -> Column {
        Column { name: "c0".into(), people: "c".into(), travel, wire }
    }

    /// What the file has of a value, and the types that it has it in.
    fn written(travel: Travel, array: ArrayRef, wire: Wire) -> Result<(String, Type, Option<LogicalType>), String> {
        let columns = [column(travel, wire)];
        let mut files = Files::new(&columns, "dw.t");
        assert!(files.add(&[array], &Besides::new()).map_err(|error| error.to_string())?.is_none());
        let file = files.finish().unwrap().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let physical = reader.parquet_schema().column(0).physical_type();
        let logical = reader.parquet_schema().column(0).logical_type_ref().cloned();
        assert!(reader.metadata().file_metadata().key_value_metadata().is_none(), "Arrow's own words are no use to a pool");
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let column = batch.column(0);
        let text = match column.data_type() {
            DataType::Binary => hex::encode(column.as_binary::<i32>().value(0)),
            _ => arrow::util::display::array_value_to_string(column, 0).unwrap(),
        };
        Ok((text, physical, logical))
    }

    #[test]
    fn values_are_as_a_pool_reads_them() {
        let micros = |value: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![value])) };
        let utc = |value: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![value]).with_timezone("UTC")) };
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let decimal = |value: i128, precision, scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap())
        };
        let exact = Travel::Decimal { precision: 38, scale: 4 };
        let last = "9999-12-31 23:59:59.9999999";
        let cases: Vec<(Travel, ArrayRef, Wire, &str, Type)> = vec![
            (Travel::Bool, Arc::new(BooleanArray::from(vec![true])), Wire::Bit, "true", Type::BOOLEAN),
            (Travel::Int16, Arc::new(Int16Array::from(vec![-5])), Wire::SmallInt, "-5", Type::INT32),
            (Travel::Int16, Arc::new(Int16Array::from(vec![255])), Wire::TinyInt, "255", Type::INT32),
            (Travel::Int32, Arc::new(Int32Array::from(vec![i32::MIN])), Wire::Int, "-2147483648", Type::INT32),
            (Travel::Int64, Arc::new(Int64Array::from(vec![i64::MIN])), Wire::BigInt, "-9223372036854775808", Type::INT64),
            (Travel::Float32, Arc::new(Float32Array::from(vec![0.1])), Wire::Real, "0.1", Type::FLOAT),
            (Travel::Float64, Arc::new(Float64Array::from(vec![-0.1])), Wire::Float, "-0.1", Type::DOUBLE),
            (
                exact,
                decimal(i128::MAX / 2, 38, 4),
                Wire::Decimal { precision: 38, scale: 4 },
                "8507059173023461586584365185794205.2863",
                Type::BYTE_ARRAY,
            ),
            (
                Travel::Decimal { precision: 19, scale: 4 },
                decimal(i64::MIN.into(), 19, 4),
                Wire::Money,
                "-922337203685477.5808",
                Type::BYTE_ARRAY,
            ),
            (Travel::Date, Arc::new(Date32Array::from(vec![-719_162])), Wire::Date, "0001-01-01", Type::BYTE_ARRAY),
            (
                Travel::Time,
                Arc::new(Time64MicrosecondArray::from(vec![86_399_999_999])),
                Wire::Time(6),
                "23:59:59.999999",
                Type::BYTE_ARRAY,
            ),
            (Travel::Time7, Arc::new(Int64Array::from(vec![863_999_999_999])), Wire::Time(7), "23:59:59.9999999", Type::BYTE_ARRAY),
            (Travel::Time, Arc::new(Time64MicrosecondArray::from(vec![1_000])), Wire::Time(0), "00:00:00", Type::BYTE_ARRAY),
            (Travel::Timestamp, micros(-1), Wire::DateTime2(6), "1969-12-31 23:59:59.999999", Type::BYTE_ARRAY),
            (Travel::Timestamp7, Arc::new(Int64Array::from(vec![2_534_023_007_999_999_999])), Wire::DateTime2(7), last, Type::BYTE_ARRAY),
            // Ticks of 1/300 s as they are printed.
            (Travel::Timestamp, micros(3_333), Wire::DateTime, "1970-01-01 00:00:00.003", Type::BYTE_ARRAY),
            (Travel::Timestamp, micros(7_000), Wire::DateTime, "1970-01-01 00:00:00.007", Type::BYTE_ARRAY),
            (Travel::Timestamp, micros(60_000_000), Wire::SmallDateTime, "1970-01-01 00:01:00", Type::BYTE_ARRAY),
            (Travel::TimestampTz, utc(1), Wire::DateTimeOffset(6), "1970-01-01 00:00:00.000001 +00:00", Type::BYTE_ARRAY),
            (
                Travel::TimestampOffset,
                text("2026-11-21 12:00:00.1234567 +02:00"),
                Wire::DateTimeOffset(7),
                "2026-11-21 12:00:00.1234567 +02:00",
                Type::BYTE_ARRAY,
            ),
            (Travel::Utf8, text("漢🚀"), Wire::Text(3), "漢🚀", Type::BYTE_ARRAY),
            (Travel::Utf8, text(""), Wire::TextMax, "", Type::BYTE_ARRAY),
            (Travel::Binary, Arc::new(BinaryArray::from(vec![&[0_u8, 255][..]])), Wire::VarBinary(2), "00ff", Type::BYTE_ARRAY),
            (
                Travel::Uuid,
                Arc::new(FixedSizeBinaryArray::try_from_iter([[7_u8; 16]].into_iter()).unwrap()),
                Wire::Uuid,
                "07070707-0707-0707-0707-070707070707",
                Type::BYTE_ARRAY,
            ),
        ];
        for (travel, array, wire, value, physical) in cases {
            let (found, found_physical, logical) = written(travel, array, wire).unwrap();
            assert_eq!((found.as_str(), found_physical), (value, physical), "{travel:?} as {wire:?}");
            // Nothing but texts has another meaning than its type's.
            let is_text = physical == Type::BYTE_ARRAY && travel != Travel::Binary;
            assert_eq!(logical, is_text.then_some(LogicalType::String), "{travel:?} as {wire:?}");
        }
    }

    #[test]
    fn what_the_types_do_not_hold_is_refused() {
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let cases: Vec<(Travel, ArrayRef, Wire, &str)> = vec![
            (Travel::Float64, Arc::new(Float64Array::from(vec![f64::NAN])), Wire::Float, "NaN"),
            (Travel::Float32, Arc::new(Float32Array::from(vec![f32::INFINITY])), Wire::Real, "inf"),
            (Travel::Int16, Arc::new(Int16Array::from(vec![256])), Wire::TinyInt, "256"),
            (Travel::Date, Arc::new(Date32Array::from(vec![2_932_897])), Wire::Date, "10000-01-01"),
            (Travel::Time, Arc::new(Time64MicrosecondArray::from(vec![86_400_000_000])), Wire::Time(6), "24:00:00"),
            (Travel::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN])), Wire::DateTime2(6), "BC"),
            (Travel::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![-79_258 * 86_400_000_000])), Wire::DateTime, "1752-12-31"),
            (Travel::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![9_223_372_036_854_775])), Wire::SmallDateTime, "2262"),
            (Travel::Utf8, text("abc🚀"), Wire::Text(4), "a text of 5 characters"),
            (Travel::Binary, Arc::new(BinaryArray::from(vec![&b"12"[..]])), Wire::VarBinary(1), "a value of 2 bytes"),
            (
                Travel::Decimal { precision: 4, scale: 2 },
                Arc::new(Decimal128Array::from(vec![12_345]).with_precision_and_scale(5, 2).unwrap()),
                Wire::Decimal { precision: 4, scale: 2 },
                "123.45",
            ),
            (Travel::Int32, text("1"), Wire::Int, "Utf8 where Int32"),
        ];
        for (travel, array, wire, what) in cases {
            let refused = written(travel, array, wire).unwrap_err();
            assert!(refused.contains("column c of dw.t is to hold") && refused.contains(what), "{refused}");
        }
        let columns = [column(Travel::Utf8, Wire::TextMax)];
        let large = LargeValue { path: "p".into(), parts: 2, bytes: 99, form: Form::Plain };
        for (beside, what) in [(Beside::Text("infinity".into()), "infinity"), (Beside::Large(large), "a value of 99 bytes")] {
            let refused = Files::new(&columns, "dw.t").add(&[text("")], &Besides::from([((0, 0), beside)])).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn many_rows_are_cut_into_files() {
        let columns = [column(Travel::Binary, Wire::VarBinaryMax)];
        let (mut files, mut made) = (Files::new(&columns, "dw.t"), Vec::new());
        for row in 0..10_u8 {
            let value: Vec<u8> = (0..8 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ row).collect();
            made.extend(files.add(&[Arc::new(BinaryArray::from(vec![&value[..]]))], &Besides::new()).unwrap());
        }
        made.extend(files.finish().unwrap());
        assert!(made.len() > 1 && files.rows == 10, "{}", made.len());
        let rows: i64 = made
            .into_iter()
            .map(|file| ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().file_metadata().num_rows())
            .sum();
        assert_eq!(rows, 10);
    }
}
