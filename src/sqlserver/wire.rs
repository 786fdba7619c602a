//! Values of Arrow arrays as a bulk load carries them (MS-TDS 2.2.5.4 and 2.2.7.19): exact, or refused. Pure.

use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int16Array, Int32Array, Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    },
    datatypes::{
        Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
        TimestampMicrosecondType,
    },
};

use crate::data::{Travel, print};

/// Days from 0001-01-01, where SQL Server counts from, to 1970-01-01.
const DAYS_FROM_1: i64 = 719_162;
/// The day after 9999-12-31, from 0001-01-01.
const DAYS_END: i64 = 3_652_059;
/// Days from 1900-01-01, where `datetime` counts from, to 1970-01-01.
const DAYS_FROM_1900: i64 = 25_567;
/// A day in units of 100 nanoseconds.
const DAY_UNITS: i128 = 864_000_000_000;
/// What stands before a row.
pub const ROW: u8 = 0xd1;
/// A value of a `(max)` type of which nobody says how long it is.
const LENGTH_UNKNOWN: u64 = u64::MAX - 1;

/// How the values of a column go over the wire: the type that the load declares for it. Texts go in UTF-16 whatever the column
/// is: the server knows its collation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the types' own names")]
pub enum Wire {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Real,
    Float,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Money,
    SmallMoney,
    Date,
    /// With so many digits of a second's fraction, here and in the next two.
    Time(u8),
    DateTime2(u8),
    DateTimeOffset(u8),
    DateTime,
    SmallDateTime,
    /// At most so many UTF-16 units, up to 4,000.
    Text(u16),
    TextMax,
    /// So many bytes.
    Binary(u16),
    /// At most so many bytes, up to 8,000.
    VarBinary(u16),
    VarBinaryMax,
    Uuid,
}

/// The values of a column, told apart once a batch.
#[expect(missing_docs, reason = "the arrays' own names")]
pub enum Cells {
    Bool(BooleanArray),
    Int16(Int16Array),
    Int32(Int32Array),
    Int64(Int64Array),
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal(Decimal128Array),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    /// With a zone or without.
    Timestamp(TimestampMicrosecondArray),
    /// Units of 100 nanoseconds, here and in the next.
    Time7(Int64Array),
    Timestamp7(Int64Array),
    TimestampOffset(StringArray),
    Text(StringArray),
    Binary(BinaryArray),
    Uuid(FixedSizeBinaryArray),
}

/// Why a value cannot be sent: what it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl Cells {
    /// The values of an array as `travel` has them; none if it is another array.
    pub fn new(travel: Travel, array: &ArrayRef) -> Option<Self> {
        Some(match travel {
            Travel::Bool => Self::Bool(array.as_boolean_opt()?.clone()),
            Travel::Int16 => Self::Int16(array.as_primitive_opt::<Int16Type>()?.clone()),
            Travel::Int32 => Self::Int32(array.as_primitive_opt::<Int32Type>()?.clone()),
            Travel::Int64 => Self::Int64(array.as_primitive_opt::<Int64Type>()?.clone()),
            Travel::Float32 => Self::Float32(array.as_primitive_opt::<Float32Type>()?.clone()),
            Travel::Float64 => Self::Float64(array.as_primitive_opt::<Float64Type>()?.clone()),
            // A file with another scale would be read as other numbers.
            Travel::Decimal { scale, .. } => {
                Self::Decimal(array.as_primitive_opt::<Decimal128Type>().filter(|a| a.scale() == scale)?.clone())
            }
            Travel::Date => Self::Date(array.as_primitive_opt::<Date32Type>()?.clone()),
            Travel::Time => Self::Time(array.as_primitive_opt::<Time64MicrosecondType>()?.clone()),
            Travel::Timestamp | Travel::TimestampTz => Self::Timestamp(array.as_primitive_opt::<TimestampMicrosecondType>()?.clone()),
            Travel::Time7 => Self::Time7(array.as_primitive_opt::<Int64Type>()?.clone()),
            Travel::Timestamp7 => Self::Timestamp7(array.as_primitive_opt::<Int64Type>()?.clone()),
            Travel::TimestampOffset => Self::TimestampOffset(array.as_string_opt::<i32>()?.clone()),
            Travel::Utf8 | Travel::Text => Self::Text(array.as_string_opt::<i32>()?.clone()),
            Travel::Binary => Self::Binary(array.as_binary_opt::<i32>()?.clone()),
            Travel::Uuid => Self::Uuid(array.as_fixed_size_binary_opt().filter(|a| a.value_length() == 16)?.clone()),
        })
    }

    /// Whether a row has no value.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Bool(a) => a.is_null(row),
            Self::Int16(a) => a.is_null(row),
            Self::Int32(a) => a.is_null(row),
            Self::Int64(a) | Self::Time7(a) | Self::Timestamp7(a) => a.is_null(row),
            Self::Float32(a) => a.is_null(row),
            Self::Float64(a) => a.is_null(row),
            Self::Decimal(a) => a.is_null(row),
            Self::Date(a) => a.is_null(row),
            Self::Time(a) => a.is_null(row),
            Self::Timestamp(a) => a.is_null(row),
            Self::TimestampOffset(a) | Self::Text(a) => a.is_null(row),
            Self::Binary(a) => a.is_null(row),
            Self::Uuid(a) => a.is_null(row),
        }
    }

    /// Appends the value of a row.
    pub fn append(&self, wire: Wire, row: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.is_null(row) {
            null(wire, out);
            return Ok(());
        }
        match (self, wire) {
            (Self::Bool(a), Wire::Bit) => field(out, [u8::from(a.value(row))]),
            (Self::Int16(a), Wire::TinyInt) => field(out, [u8::try_from(a.value(row)).map_err(|_| Refused(a.value(row).to_string()))?]),
            (Self::Int16(a), Wire::SmallInt) => field(out, a.value(row).to_le_bytes()),
            (Self::Int32(a), Wire::Int) => field(out, a.value(row).to_le_bytes()),
            (Self::Int64(a), Wire::BigInt) => field(out, a.value(row).to_le_bytes()),
            (Self::Float32(a), Wire::Real) => field(out, finite(a.value(row).into()).map(|_| a.value(row))?.to_le_bytes()),
            (Self::Float64(a), Wire::Float) => field(out, finite(a.value(row))?.to_le_bytes()),
            (Self::Decimal(a), Wire::Decimal { precision, .. }) => decimal(out, a.value(row), precision)?,
            (Self::Decimal(a), Wire::Money) => {
                let value = i64::try_from(a.value(row)).map_err(|_| Refused(a.value_as_string(row)))?;
                // The upper half comes first.
                field(out, value.rotate_left(32).to_le_bytes());
            }
            (Self::Decimal(a), Wire::SmallMoney) => {
                field(out, i32::try_from(a.value(row)).map_err(|_| Refused(a.value_as_string(row)))?.to_le_bytes());
            }
            (Self::Date(a), Wire::Date) => {
                let days = days(a.value(row).into())?;
                field(out, [days as u8, (days >> 8) as u8, (days >> 16) as u8]);
            }
            (Self::Time(a), Wire::Time(scale)) => moment(out, None, i128::from(a.value(row)) * 10, scale, None)?,
            (Self::Time7(a), Wire::Time(scale)) => moment(out, None, a.value(row).into(), scale, None)?,
            (Self::Timestamp(a), Wire::DateTime2(scale)) => timestamp(out, i128::from(a.value(row)) * 10, scale, None)?,
            (Self::Timestamp7(a), Wire::DateTime2(scale)) => timestamp(out, a.value(row).into(), scale, None)?,
            (Self::Timestamp(a), Wire::DateTimeOffset(scale)) => timestamp(out, i128::from(a.value(row)) * 10, scale, Some(0))?,
            (Self::TimestampOffset(a), Wire::DateTimeOffset(scale)) => {
                let text = a.value(row);
                let refused = || Refused(text.to_owned());
                timestamp(out, print::read_moment_at(text).ok_or_else(refused)?, scale, Some(offset(text).ok_or_else(refused)?))?;
            }
            (Self::Timestamp(a), Wire::DateTime) => datetime(out, a.value(row))?,
            (Self::Timestamp(a), Wire::SmallDateTime) => smalldatetime(out, a.value(row))?,
            (Self::Text(a), Wire::Text(most)) => text(out, a.value(row), most)?,
            (Self::Text(a), Wire::TextMax) => text_max(out, a.value(row)),
            (Self::Binary(a), Wire::Binary(most) | Wire::VarBinary(most)) => {
                let value = a.value(row);
                let length = u16::try_from(value.len()).ok().filter(|length| *length <= most);
                let length = length.ok_or_else(|| Refused(format!("a value of {} bytes", value.len())))?;
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(value);
            }
            (Self::Binary(a), Wire::VarBinaryMax) => {
                let value = a.value(row);
                out.extend_from_slice(&(value.len() as u64).to_le_bytes());
                part(value, out);
                end_of_parts(out);
            }
            (Self::Uuid(a), Wire::Uuid) => {
                let bytes: [u8; 16] = a.value(row).try_into().unwrap_or_default();
                field(out, uuid::Uuid::from_bytes(bytes).to_bytes_le());
            }
            _ => return Err(Refused(format!("a value that cannot be sent as {wire:?}"))),
        }
        Ok(())
    }
}

/// Appends that there is no value.
pub fn null(wire: Wire, out: &mut Vec<u8>) {
    match wire {
        Wire::Text(_) | Wire::Binary(_) | Wire::VarBinary(_) => out.extend_from_slice(&u16::MAX.to_le_bytes()),
        Wire::TextMax | Wire::VarBinaryMax => out.extend_from_slice(&u64::MAX.to_le_bytes()),
        _ => out.push(0),
    }
}

/// Appends the beginning of a value of a `(max)` type that comes part by part.
pub fn begin_parts(out: &mut Vec<u8>) {
    out.extend_from_slice(&LENGTH_UNKNOWN.to_le_bytes());
}

/// Appends a part of a value's bytes. One of no bytes would end the value.
pub fn part(bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        // A value has less than 2 GiB.
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// Appends a part of a value's text.
pub fn text_part(text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        utf16(text, out);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Appends the end of a value's parts.
pub fn end_of_parts(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

fn field<const N: usize>(out: &mut Vec<u8>, value: [u8; N]) {
    out.push(N as u8);
    out.extend_from_slice(&value);
}

/// The number, which must be one.
pub fn finite(value: f64) -> Result<f64, Refused> {
    if value.is_finite() { Ok(value) } else { Err(Refused(value.to_string())) }
}

/// A sign and a magnitude, as wide as the precision asks.
fn decimal(out: &mut Vec<u8>, value: i128, precision: u8) -> Result<(), Refused> {
    let magnitude = value.unsigned_abs();
    let width = decimal_bytes(precision);
    let bytes = magnitude.to_le_bytes();
    if bytes[width - 1..].iter().any(|byte| *byte != 0) {
        return Err(Refused(format!("a number of more than {precision} digits")));
    }
    out.push(width as u8);
    out.push(u8::from(value >= 0));
    out.extend_from_slice(&bytes[..width - 1]);
    Ok(())
}

/// Bytes of a decimal with its sign.
pub fn decimal_bytes(precision: u8) -> usize {
    match precision {
        0..=9 => 5,
        10..=19 => 9,
        20..=28 => 13,
        _ => 17,
    }
}

/// Days since 0001-01-01 of a day since 1970-01-01; no type of the server's holds one before that or after the year 9999.
pub fn days(day: i64) -> Result<u32, Refused> {
    let days = day.saturating_add(DAYS_FROM_1);
    if (0..DAYS_END).contains(&days) { Ok(days as u32) } else { Err(Refused(print::date(day))) }
}

/// Minutes of a text that ends in ` +02:00`.
fn offset(text: &str) -> Option<i16> {
    let (_, offset) = text.rsplit_once(' ')?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let minutes = hours.parse::<i16>().ok()? * 60 + minutes.parse::<i16>().ok()?;
    Some(if offset.starts_with('-') { -minutes } else { minutes })
}

/// `units`: of 100 nanoseconds since 1970-01-01 in UTC, or without a zone.
fn timestamp(out: &mut Vec<u8>, units: i128, scale: u8, offset: Option<i16>) -> Result<(), Refused> {
    let refused = |_| Refused(print::moment(units.div_euclid(10), ""));
    let day = days(units.div_euclid(DAY_UNITS) as i64).map_err(refused)?;
    // As it is told there: the type holds only years that it can print.
    let local = units + i128::from(offset.unwrap_or_default()) * 600_000_000;
    days(local.div_euclid(DAY_UNITS) as i64).map_err(refused)?;
    moment(out, Some(day), units.rem_euclid(DAY_UNITS), scale, offset)
}

/// A time of day, and with it a day and an offset if the type has them. `units`: of 100 nanoseconds.
fn moment(out: &mut Vec<u8>, day: Option<u32>, units: i128, scale: u8, offset: Option<i16>) -> Result<(), Refused> {
    if !(0..DAY_UNITS).contains(&units) {
        return Err(Refused(print::time((units / 10) as i64)));
    }
    let time = (units as u64) / 10_u64.pow(7 - u32::from(scale.min(7)));
    let width = match scale {
        0..=2 => 3,
        3 | 4 => 4,
        _ => 5,
    };
    out.push(width as u8 + if day.is_some() { 3 } else { 0 } + if offset.is_some() { 2 } else { 0 });
    out.extend_from_slice(&time.to_le_bytes()[..width]);
    if let Some(day) = day {
        out.extend_from_slice(&day.to_le_bytes()[..3]);
    }
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_le_bytes());
    }
    Ok(())
}

/// Days since 1900 and ticks of 1/300 s.
fn datetime(out: &mut Vec<u8>, micros: i64) -> Result<(), Refused> {
    let refused = || Refused(print::moment(micros.into(), ""));
    let days = i32::try_from(micros.div_euclid(86_400_000_000) + DAYS_FROM_1900).map_err(|_| refused())?;
    let ticks = (micros.rem_euclid(86_400_000_000) * 300 + 500_000) / 1_000_000;
    // From 1753-01-01 to 9999-12-31.
    if !(-53_690..=2_958_463).contains(&days) || ticks >= 25_920_000 {
        return Err(refused());
    }
    out.push(8);
    out.extend_from_slice(&days.to_le_bytes());
    out.extend_from_slice(&(ticks as u32).to_le_bytes());
    Ok(())
}

/// Days since 1900 and minutes.
fn smalldatetime(out: &mut Vec<u8>, micros: i64) -> Result<(), Refused> {
    let days = u16::try_from(micros.div_euclid(86_400_000_000) + DAYS_FROM_1900).map_err(|_| Refused(print::moment(micros.into(), "")))?;
    let minutes = micros.rem_euclid(86_400_000_000) / 60_000_000;
    out.push(4);
    out.extend_from_slice(&days.to_le_bytes());
    out.extend_from_slice(&(minutes as u16).to_le_bytes());
    Ok(())
}

fn text(out: &mut Vec<u8>, value: &str, most: u16) -> Result<(), Refused> {
    let at = out.len();
    out.extend_from_slice(&[0; 2]);
    utf16(value, out);
    let length = out.len() - at - 2;
    if length > 2 * usize::from(most) {
        return Err(Refused(format!("a text of {} characters", length / 2)));
    }
    out[at..at + 2].copy_from_slice(&(length as u16).to_le_bytes());
    Ok(())
}

fn text_max(out: &mut Vec<u8>, value: &str) {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    text_part(value, out);
    // Without the part's own length.
    let length = (out.len() - at - 8).saturating_sub(4) as u64;
    out[at..at + 8].copy_from_slice(&length.to_le_bytes());
    end_of_parts(out);
}

fn utf16(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() {
        out.extend(text.bytes().flat_map(|byte| [byte, 0]));
    } else {
        out.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "made where it is passed")]
    fn sent(travel: Travel, array: ArrayRef, wire: Wire) -> Result<String, String> {
        let mut out = Vec::new();
        Cells::new(travel, &array).unwrap().append(wire, 0, &mut out).map_err(|Refused(what)| what)?;
        Ok(hex::encode(out))
    }

    #[test]
    fn values_are_as_the_protocol_says() {
        let decimal =
            |value: i128, precision, scale| Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap();
        let micros = |value: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![value])) };
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let moment = "2026-11-21 12:00:00.1234567 +02:00";
        let cases: Vec<(Travel, ArrayRef, Wire, &str)> = vec![
            (Travel::Bool, Arc::new(BooleanArray::from(vec![true])), Wire::Bit, "0101"),
            (Travel::Int16, Arc::new(Int16Array::from(vec![255])), Wire::TinyInt, "01ff"),
            (Travel::Int32, Arc::new(Int32Array::from(vec![None])), Wire::Int, "00"),
            (Travel::Int64, Arc::new(Int64Array::from(vec![-2])), Wire::BigInt, "08feffffffffffffff"),
            (
                Travel::Decimal { precision: 10, scale: 2 },
                Arc::new(decimal(-5, 10, 2)),
                Wire::Decimal { precision: 10, scale: 2 },
                "09000500000000000000",
            ),
            (Travel::Decimal { precision: 19, scale: 4 }, Arc::new(decimal(1, 19, 4)), Wire::Money, "080000000001000000"),
            (Travel::Decimal { precision: 19, scale: 4 }, Arc::new(decimal(-1, 19, 4)), Wire::Money, "08ffffffffffffffff"),
            (Travel::Date, Arc::new(Date32Array::from(vec![-719_162])), Wire::Date, "03000000"),
            (Travel::Date, Arc::new(Date32Array::from(vec![2_932_896])), Wire::Date, "03dab937"),
            (Travel::Time, Arc::new(Time64MicrosecondArray::from(vec![1_000])), Wire::Time(3), "0401000000"),
            (Travel::Time7, Arc::new(Int64Array::from(vec![863_999_999_999])), Wire::Time(7), "05ffbf692ac9"),
            // 1900-01-01 00:00:00.003, which is one tick.
            (Travel::Timestamp, micros(-25_567 * 86_400_000_000 + 3_000), Wire::DateTime, "080000000001000000"),
            (Travel::Timestamp, micros(-25_567 * 86_400_000_000 + 60_000_000), Wire::SmallDateTime, "0400000100"),
            (Travel::Timestamp, micros(0), Wire::DateTime2(6), "0800000000003af90a"),
            (Travel::TimestampTz, micros(1), Wire::DateTimeOffset(6), "0a01000000003af90a0000"),
            (Travel::TimestampOffset, text(moment), Wire::DateTimeOffset(7), "0a87e6bed153644a0b7800"),
            (Travel::Utf8, text("aé"), Wire::Text(2), "04006100e900"),
            (Travel::Utf8, text("a"), Wire::TextMax, "020000000000000002000000610000000000"),
            (Travel::Utf8, text(""), Wire::TextMax, "000000000000000000000000"),
            (Travel::Binary, Arc::new(BinaryArray::from(vec![&b"\x01\x02"[..]])), Wire::VarBinaryMax, "0200000000000000020000000102"),
            (Travel::Binary, Arc::new(BinaryArray::from(vec![&b"\x01"[..]])), Wire::VarBinary(9), "010001"),
            (Travel::Text, Arc::new(StringArray::from(vec![None::<&str>])), Wire::TextMax, "ffffffffffffffff"),
            (Travel::Text, Arc::new(StringArray::from(vec![None::<&str>])), Wire::Text(4), "ffff"),
        ];
        for (travel, array, wire, bytes) in cases {
            let bytes = if wire == Wire::VarBinaryMax { format!("{bytes}00000000") } else { bytes.to_owned() };
            assert_eq!(sent(travel, array, wire), Ok(bytes), "{wire:?}");
        }
    }

    #[test]
    fn what_the_types_do_not_hold_is_refused() {
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let cases: Vec<(Travel, ArrayRef, Wire, &str)> = vec![
            (Travel::Float64, Arc::new(Float64Array::from(vec![f64::NAN])), Wire::Float, "NaN"),
            (Travel::Float32, Arc::new(Float32Array::from(vec![f32::INFINITY])), Wire::Real, "inf"),
            (Travel::Date, Arc::new(Date32Array::from(vec![-719_163])), Wire::Date, "0001-12-31 BC"),
            (Travel::Date, Arc::new(Date32Array::from(vec![2_932_897])), Wire::Date, "10000-01-01"),
            (Travel::Time, Arc::new(Time64MicrosecondArray::from(vec![86_400_000_000])), Wire::Time(6), "24:00:00"),
            (
                Travel::Timestamp,
                Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX])),
                Wire::DateTime2(6),
                "294247-01-10 04:00:54.775807",
            ),
            (Travel::Int16, Arc::new(Int16Array::from(vec![256])), Wire::TinyInt, "256"),
            (Travel::Utf8, text("abc🚀"), Wire::Text(4), "a text of 5 characters"),
            (Travel::Binary, Arc::new(BinaryArray::from(vec![&b"12"[..]])), Wire::VarBinary(1), "a value of 2 bytes"),
            (Travel::Utf8, text("1"), Wire::Int, "a value that cannot be sent as Int"),
        ];
        for (travel, array, wire, what) in cases {
            assert_eq!(sent(travel, array, wire), Err(what.to_owned()), "{wire:?}");
        }
    }
}
