//! Rows of a result as Arrow, written by the driver straight into builders: nothing is allocated for a row.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder, Float32Builder, Float64Builder,
        Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
    },
    error::ArrowError,
};
use mssql_tds::{
    datatypes::{
        column_values::{
            SqlDate, SqlDateTime, SqlDateTime2, SqlDateTimeOffset, SqlMoney, SqlSmallDateTime, SqlSmallMoney, SqlTime, SqlXml,
        },
        decoder::DecimalParts,
        row_writer::RowWriter,
        sql_json::SqlJson,
        sql_string::EncodingType,
        sql_vector::SqlVector,
    },
    encoding_rs,
};
use uuid::Uuid;

use crate::data::Travel;

/// Days from 0001-01-01, where SQL Server counts from, to 1970-01-01.
const DAYS_FROM_1: i64 = 719_162;
/// Days from 1900-01-01, where `datetime` counts from, to 1970-01-01.
const DAYS_FROM_1900: i64 = 25_567;
const DAY_MICROS: i64 = 86_400_000_000;
/// In units of 100 nanoseconds.
const DAY_UNITS: i64 = 864_000_000_000;

/// Columns that a result's rows are written to, by their place in the result.
pub struct Rows {
    columns: Vec<Builder>,
    travels: Vec<Travel>,
    count: usize,
    bytes: usize,
    /// Text in the encoding that it is stored in, on its way to UTF-8.
    text: String,
    /// The first value that is not what its column's travel holds.
    fault: Option<String>,
}

enum Builder {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    /// Units of 100 nanoseconds, of a day or since 1970.
    Time7(Int64Builder),
    Timestamp7(Int64Builder),
    TimestampOffset(StringBuilder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
}

impl Rows {
    /// For a result whose columns travel so.
    pub fn new(travels: Vec<Travel>) -> Self {
        let columns = travels.iter().map(|travel| Builder::new(*travel)).collect();
        Self { columns, travels, count: 0, bytes: 0, text: String::new(), fault: None }
    }

    /// Rows that are held.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// About so many bytes are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Why a value cannot be held, if one cannot. Looked at before [`Self::take`].
    pub fn fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// What is held, as columns in the order of the result; holds nothing any more.
    pub fn take(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        (self.count, self.bytes) = (0, 0);
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (builder, travel) in self.columns.iter_mut().zip(&self.travels) {
            let array = builder.finish(*travel);
            *builder = Builder::new(*travel);
            arrays.push(array);
        }
        Ok(arrays)
    }

    fn wrong(&mut self, column: usize, what: &str) {
        self.fault.get_or_insert_with(|| format!("column {column} of the answer holds a value of type {what} that was not asked for"));
        self.write_null(column);
    }
}

impl Builder {
    fn new(travel: Travel) -> Self {
        match travel {
            Travel::Bool => Self::Bool(BooleanBuilder::new()),
            Travel::Int16 => Self::Int16(Int16Builder::new()),
            Travel::Int32 => Self::Int32(Int32Builder::new()),
            Travel::Int64 => Self::Int64(Int64Builder::new()),
            Travel::Float32 => Self::Float32(Float32Builder::new()),
            Travel::Float64 => Self::Float64(Float64Builder::new()),
            Travel::Decimal { scale, .. } => Self::Decimal(Decimal128Builder::new().with_data_type(travel.arrow()), scale as u8),
            Travel::Date => Self::Date(Date32Builder::new()),
            Travel::Time => Self::Time(Time64MicrosecondBuilder::new()),
            Travel::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            Travel::TimestampTz => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Travel::Time7 => Self::Time7(Int64Builder::new()),
            Travel::Timestamp7 => Self::Timestamp7(Int64Builder::new()),
            Travel::TimestampOffset => Self::TimestampOffset(StringBuilder::new()),
            Travel::Utf8 | Travel::Text => Self::Text(StringBuilder::new()),
            Travel::Binary => Self::Binary(BinaryBuilder::new()),
            Travel::Uuid => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
        }
    }

    fn finish(&mut self, travel: Travel) -> ArrayRef {
        match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) | Self::Time7(b) | Self::Timestamp7(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Decimal(b, _) => Arc::new(b.finish().with_data_type(travel.arrow())),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::TimestampOffset(b) | Self::Text(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Uuid(b) => Arc::new(b.finish()),
        }
    }
}

/// Microseconds of a day.
fn micros(time: &SqlTime) -> i64 {
    units(time) / 10
}

/// Units of 100 nanoseconds of a day: the driver counts in these, whatever the field's name says and the type's digits are.
fn units(time: &SqlTime) -> i64 {
    time.time_nanoseconds as i64
}

impl RowWriter for Rows {
    fn write_null(&mut self, col: usize) {
        match self.columns.get_mut(col) {
            Some(Builder::Bool(b)) => b.append_null(),
            Some(Builder::Int16(b)) => b.append_null(),
            Some(Builder::Int32(b)) => b.append_null(),
            Some(Builder::Int64(b) | Builder::Time7(b) | Builder::Timestamp7(b)) => b.append_null(),
            Some(Builder::Float32(b)) => b.append_null(),
            Some(Builder::Float64(b)) => b.append_null(),
            Some(Builder::Decimal(b, _)) => b.append_null(),
            Some(Builder::Date(b)) => b.append_null(),
            Some(Builder::Time(b)) => b.append_null(),
            Some(Builder::Timestamp(b)) => b.append_null(),
            Some(Builder::TimestampOffset(b) | Builder::Text(b)) => b.append_null(),
            Some(Builder::Binary(b)) => b.append_null(),
            Some(Builder::Uuid(b)) => b.append_null(),
            None => {}
        }
    }

    fn write_bool(&mut self, col: usize, val: bool) {
        match self.columns.get_mut(col) {
            Some(Builder::Bool(b)) => b.append_value(val),
            _ => self.wrong(col, "bit"),
        }
    }

    fn write_u8(&mut self, col: usize, val: u8) {
        self.write_i64(col, val.into());
    }

    fn write_i16(&mut self, col: usize, val: i16) {
        self.write_i64(col, val.into());
    }

    fn write_i32(&mut self, col: usize, val: i32) {
        self.write_i64(col, val.into());
    }

    fn write_i64(&mut self, col: usize, val: i64) {
        self.bytes += 8;
        match self.columns.get_mut(col) {
            Some(Builder::Int16(b)) if i16::try_from(val).is_ok() => b.append_value(val as i16),
            Some(Builder::Int32(b)) if i32::try_from(val).is_ok() => b.append_value(val as i32),
            Some(Builder::Int64(b)) => b.append_value(val),
            _ => self.wrong(col, "int"),
        }
    }

    fn write_f32(&mut self, col: usize, val: f32) {
        self.bytes += 4;
        match self.columns.get_mut(col) {
            Some(Builder::Float32(b)) => b.append_value(val),
            Some(Builder::Float64(b)) => b.append_value(val.into()),
            _ => self.wrong(col, "real"),
        }
    }

    fn write_f64(&mut self, col: usize, val: f64) {
        self.bytes += 8;
        match self.columns.get_mut(col) {
            Some(Builder::Float64(b)) => b.append_value(val),
            // A type of 24 bits or fewer is sent as a wide one by some servers.
            Some(Builder::Float32(b)) => b.append_value(val as f32),
            _ => self.wrong(col, "float"),
        }
    }

    fn write_string(&mut self, col: usize, bytes: Cow<'_, [u8]>, encoding_type: EncodingType) {
        self.bytes += bytes.len();
        if !matches!(self.columns.get(col), Some(Builder::Text(_) | Builder::TimestampOffset(_))) {
            return self.wrong(col, "nvarchar");
        }
        let Some(encoding) = encoding_type.encoding() else {
            // A code page that only the driver knows.
            let text = mssql_tds::datatypes::sql_string::SqlString::new(bytes.into_owned(), encoding_type).to_utf8_string();
            if let Some(Builder::Text(b)) = self.columns.get_mut(col) {
                b.append_value(text);
            }
            return;
        };
        let malformed = if encoding == encoding_rs::UTF_8
            && let Ok(text) = std::str::from_utf8(&bytes)
        {
            if let Some(Builder::Text(b) | Builder::TimestampOffset(b)) = self.columns.get_mut(col) {
                b.append_value(text);
            }
            return;
        } else {
            self.text.clear();
            let mut decoder = encoding.new_decoder_without_bom_handling();
            self.text.reserve(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or_default());
            decoder.decode_to_string(&bytes, &mut self.text, true).2
        };
        if malformed {
            self.fault.get_or_insert_with(|| {
                format!("column {col} of the answer holds a text that is not valid {}: half a character cannot travel", encoding.name())
            });
        }
        if let Some(Builder::Text(b) | Builder::TimestampOffset(b)) = self.columns.get_mut(col) {
            b.append_value(&self.text);
        }
    }

    fn write_bytes(&mut self, col: usize, bytes: Cow<'_, [u8]>) {
        self.bytes += bytes.len();
        match self.columns.get_mut(col) {
            Some(Builder::Binary(b)) => b.append_value(&*bytes),
            _ => self.wrong(col, "varbinary"),
        }
    }

    fn write_decimal(&mut self, col: usize, val: DecimalParts) {
        self.bytes += 16;
        let magnitude = i128::try_from(val.magnitude()).unwrap_or(i128::MAX);
        let value = if val.is_positive { magnitude } else { -magnitude };
        match self.columns.get_mut(col) {
            Some(Builder::Decimal(b, scale)) if *scale == val.scale => b.append_value(value),
            // A sum of whole numbers, or a bigint of some servers.
            Some(Builder::Int64(b)) if val.scale == 0 && i64::try_from(value).is_ok() => b.append_value(value as i64),
            _ => self.wrong(col, "decimal"),
        }
    }

    fn write_numeric(&mut self, col: usize, val: DecimalParts) {
        self.write_decimal(col, val);
    }

    fn write_date(&mut self, col: usize, val: SqlDate) {
        self.bytes += 4;
        match self.columns.get_mut(col) {
            Some(Builder::Date(b)) => b.append_value((i64::from(val.get_days()) - DAYS_FROM_1) as i32),
            _ => self.wrong(col, "date"),
        }
    }

    fn write_time(&mut self, col: usize, val: SqlTime) {
        self.bytes += 8;
        match self.columns.get_mut(col) {
            Some(Builder::Time(b)) => b.append_value(micros(&val)),
            Some(Builder::Time7(b)) => b.append_value(units(&val)),
            _ => self.wrong(col, "time"),
        }
    }

    fn write_datetime(&mut self, col: usize, val: SqlDateTime) {
        self.bytes += 8;
        // Ticks of 1/300 s, told in milliseconds as the server tells them: .000, .003, .007.
        let millis = (i64::from(val.time) * 10 + 1) / 3;
        match self.columns.get_mut(col) {
            Some(Builder::Timestamp(b)) => b.append_value((i64::from(val.days) - DAYS_FROM_1900) * DAY_MICROS + millis * 1_000),
            _ => self.wrong(col, "datetime"),
        }
    }

    fn write_smalldatetime(&mut self, col: usize, val: SqlSmallDateTime) {
        self.bytes += 8;
        match self.columns.get_mut(col) {
            Some(Builder::Timestamp(b)) => {
                b.append_value((i64::from(val.days) - DAYS_FROM_1900) * DAY_MICROS + i64::from(val.time) * 60_000_000);
            }
            _ => self.wrong(col, "smalldatetime"),
        }
    }

    fn write_datetime2(&mut self, col: usize, val: SqlDateTime2) {
        self.bytes += 8;
        let days = i64::from(val.days) - DAYS_FROM_1;
        match self.columns.get_mut(col) {
            Some(Builder::Timestamp(b)) => b.append_value(days * DAY_MICROS + micros(&val.time)),
            Some(Builder::Timestamp7(b)) => b.append_value(days * DAY_UNITS + units(&val.time)),
            _ => self.wrong(col, "datetime2"),
        }
    }

    fn write_datetimeoffset(&mut self, col: usize, val: SqlDateTimeOffset) {
        self.bytes += 34;
        let Some(Builder::TimestampOffset(b)) = self.columns.get_mut(col) else { return self.wrong(col, "datetimeoffset") };
        let days = i64::from(val.datetime2.days) - DAYS_FROM_1;
        let utc = i128::from(days) * i128::from(DAY_UNITS) + i128::from(units(&val.datetime2.time));
        b.append_value(crate::data::print::moment_at(utc, val.offset, val.datetime2.time.scale));
    }

    fn write_money(&mut self, col: usize, val: SqlMoney) {
        self.bytes += 16;
        let value = (i64::from(val.msb_part) << 32) | i64::from(val.lsb_part as u32);
        match self.columns.get_mut(col) {
            Some(Builder::Decimal(b, 4)) => b.append_value(value.into()),
            _ => self.wrong(col, "money"),
        }
    }

    fn write_smallmoney(&mut self, col: usize, val: SqlSmallMoney) {
        self.bytes += 16;
        match self.columns.get_mut(col) {
            Some(Builder::Decimal(b, 4)) => b.append_value(val.int_val.into()),
            _ => self.wrong(col, "smallmoney"),
        }
    }

    fn write_uuid(&mut self, col: usize, val: Uuid) {
        self.bytes += 16;
        let written = if let Some(Builder::Uuid(b)) = self.columns.get_mut(col) { b.append_value(val.as_bytes()).is_ok() } else { false };
        if !written {
            self.wrong(col, "uniqueidentifier");
        }
    }

    // What follows is selected as text, never as what it is.
    fn write_xml(&mut self, col: usize, _: SqlXml) {
        self.wrong(col, "xml");
    }

    fn write_json(&mut self, col: usize, _: SqlJson) {
        self.wrong(col, "json");
    }

    fn write_vector(&mut self, col: usize, _: SqlVector) {
        self.wrong(col, "vector");
    }

    fn end_row(&mut self) {
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{Int64Type, Time64MicrosecondType, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn times_of_any_number_of_digits_are_what_they_say() {
        let time = |scale: u8, units: u64| SqlTime { time_nanoseconds: units, scale };
        let mut rows = Rows::new(vec![Travel::Time, Travel::Time7, Travel::Timestamp, Travel::Timestamp7, Travel::TimestampOffset]);
        // 12:00:00.001 and 12:00:00.0000001.
        let (millisecond, shortest) = (432_000_000_000 + 10_000, 432_000_000_000 + 1);
        rows.write_time(0, time(3, millisecond));
        rows.write_time(1, time(7, shortest));
        rows.write_datetime2(2, SqlDateTime2 { days: 719_163, time: time(3, millisecond) });
        rows.write_datetime2(3, SqlDateTime2 { days: 719_161, time: time(7, shortest) });
        rows.write_datetimeoffset(
            4,
            SqlDateTimeOffset { datetime2: SqlDateTime2 { days: 719_162, time: time(6, millisecond) }, offset: 90 },
        );
        rows.end_row();
        let columns = rows.take().unwrap();
        assert_eq!(columns[0].as_primitive::<Time64MicrosecondType>().value(0), 43_200_001_000);
        assert_eq!(columns[1].as_primitive::<Int64Type>().value(0), shortest as i64);
        assert_eq!(columns[2].as_primitive::<TimestampMicrosecondType>().value(0), DAY_MICROS + 43_200_001_000);
        assert_eq!(columns[3].as_primitive::<Int64Type>().value(0), shortest as i64 - DAY_UNITS);
        assert_eq!(columns[4].as_string::<i32>().value(0), "1970-01-01 13:30:00.001000 +01:30");
        assert!(rows.fault().is_none());
    }
}
