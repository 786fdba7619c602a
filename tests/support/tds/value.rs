//! Values, and their encodings by type: [MS-TDS] 2.2.5.5.

use bytes::{Buf, BufMut};
use uuid::Uuid;

use super::{
    calendar::Moment,
    tokens::{from_utf16, take, utf16},
    types::{Layout, Type, decimal_len},
};

/// A value of a column or parameter.
///
/// Decimals and money are text (`-12.50`), as are times (`2024-01-31 23:59:59.1234567 +02:00`, or the part that the type has)
/// and GUIDs.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bit(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// For `max` types and xml: these very bytes as PLP chunks of unknown total length.
    Chunks(Vec<Vec<u8>>),
    /// For sql_variant: a value with its base type.
    Variant(Box<Type>, Box<Value>),
}

impl Value {
    /// A sql_variant of that base type.
    pub fn variant(ty: Type, value: impl Into<Self>) -> Self {
        Self::Variant(Box::new(ty), Box::new(value.into()))
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}
from!(bool => Bit, i32 => Int, i64 => Int, f32 => Float, f64 => Float, &str => Text, String => Text, &[u8] => Bytes, Vec<u8> => Bytes);

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A decimal text without its point, with so many digits after it.
fn unscaled(text: &str, scale: u8) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= usize::from(scale), "{text} has more than {scale} decimal digits");
    format!("{whole}{fraction:0<width$}", width = usize::from(scale)).parse().unwrap()
}

/// The reverse of [`unscaled`].
fn scaled(value: i128, scale: u8) -> String {
    let width = usize::from(scale) + 1;
    let mut digits = format!("{:0width$}", value.unsigned_abs());
    if scale > 0 {
        digits.insert(digits.len() - usize::from(scale), '.');
    }
    if value < 0 { format!("-{digits}") } else { digits }
}

/// The bytes of a value that is not NULL, without length.
fn encode(ty: &Type, value: &Value) -> Vec<u8> {
    use Type as T;
    match (ty, value) {
        (T::Bit, Value::Bit(bit)) => vec![u8::from(*bit)],
        (T::TinyInt, Value::Int(int)) => vec![u8::try_from(*int).unwrap()],
        (T::SmallInt, Value::Int(int)) => i16::try_from(*int).unwrap().to_le_bytes().to_vec(),
        (T::Int, Value::Int(int)) => i32::try_from(*int).unwrap().to_le_bytes().to_vec(),
        (T::BigInt, Value::Int(int)) => int.to_le_bytes().to_vec(),
        (T::Real, Value::Float(float)) => (*float as f32).to_le_bytes().to_vec(),
        (T::Float, Value::Float(float)) => float.to_le_bytes().to_vec(),
        (T::Decimal(..) | T::Numeric(..) | T::Money | T::SmallMoney, Value::Int(int)) => encode(ty, &int.to_string().into()),
        (T::Decimal(precision, scale) | T::Numeric(precision, scale), Value::Text(text)) => {
            let value = unscaled(text, *scale);
            assert!(value.unsigned_abs() < 10_u128.pow(u32::from(*precision)), "{text} overflows {ty:?}");
            let mut out = vec![u8::from(value >= 0)];
            out.extend(&value.unsigned_abs().to_le_bytes()[..decimal_len(*precision)]);
            out
        }
        (T::Money, Value::Text(text)) => {
            let mut out = i64::try_from(unscaled(text, 4)).unwrap().to_le_bytes().to_vec();
            out.rotate_left(4); // the more significant half comes first
            out
        }
        (T::SmallMoney, Value::Text(text)) => i32::try_from(unscaled(text, 4)).unwrap().to_le_bytes().to_vec(),
        (T::Date | T::Time(_) | T::SmallDateTime | T::DateTime | T::DateTime2(_) | T::DateTimeOffset(_), Value::Text(text)) => {
            Moment::parse(text).encode(ty)
        }
        (T::Char(n, collation), Value::Text(text)) => padded(collation.encode(text), usize::from(*n), b" "),
        (T::VarChar(_, collation) | T::VarCharMax(collation) | T::Text(collation), Value::Text(text)) => collation.encode(text),
        (T::NChar(n), Value::Text(text)) => padded(utf16(text), 2 * usize::from(*n), b" \0"),
        (T::NVarChar(_) | T::NVarCharMax | T::NText | T::Xml, Value::Text(text)) => utf16(text),
        (T::Binary(n), Value::Bytes(bytes)) => padded(bytes.clone(), usize::from(*n), b"\0"),
        (T::VarBinary(_) | T::VarBinaryMax | T::Image | T::Udt(_), Value::Bytes(bytes)) => bytes.clone(),
        (T::UniqueIdentifier, Value::Text(text)) => Uuid::parse_str(text).unwrap().to_bytes_le().to_vec(),
        _ => panic!("{value:?} is not a value of {ty:?}"),
    }
}

fn padded(mut bytes: Vec<u8>, len: usize, with: &[u8]) -> Vec<u8> {
    while bytes.len() < len {
        bytes.extend(with);
    }
    bytes
}

/// The reverse of [`encode`].
fn decode(ty: &Type, mut bytes: &[u8]) -> Value {
    use Type as T;
    match ty {
        T::Bit => Value::Bit(bytes.get_u8() != 0),
        T::TinyInt => Value::Int(bytes.get_u8().into()),
        T::SmallInt | T::Int | T::BigInt => Value::Int(bytes.get_int_le(bytes.len())),
        T::Real => Value::Float(bytes.get_f32_le().into()),
        T::Float => Value::Float(bytes.get_f64_le()),
        T::Decimal(_, scale) | T::Numeric(_, scale) => {
            let negative = bytes.get_u8() == 0;
            let magnitude = padded(bytes.to_vec(), 16, b"\0").as_slice().get_i128_le();
            Value::Text(scaled(if negative { -magnitude } else { magnitude }, *scale))
        }
        T::Money => Value::Text(scaled(i128::from(bytes.get_i32_le()) << 32 | i128::from(bytes.get_u32_le()), 4)),
        T::SmallMoney => Value::Text(scaled(bytes.get_i32_le().into(), 4)),
        T::Date | T::Time(_) | T::SmallDateTime | T::DateTime | T::DateTime2(_) | T::DateTimeOffset(_) => {
            Value::Text(Moment::decode(ty, bytes))
        }
        T::Char(_, collation) | T::VarChar(_, collation) | T::VarCharMax(collation) | T::Text(collation) => {
            Value::Text(collation.decode(bytes))
        }
        T::NChar(_) | T::NVarChar(_) | T::NVarCharMax | T::NText | T::Xml => Value::Text(from_utf16(bytes)),
        T::Binary(_) | T::VarBinary(_) | T::VarBinaryMax | T::Image | T::Udt(_) => Value::Bytes(bytes.to_vec()),
        T::UniqueIdentifier => Value::Text(Uuid::from_slice_le(bytes).unwrap().to_string()),
        T::SqlVariant => panic!("a sql_variant has a base type"),
    }
}

/// Longest chunk of a PLP value whose length is known; SQL Server's are of about this size.
const CHUNK: usize = 8000;
/// PLP_NULL and UNKNOWN_PLP_LEN (2.2.5.2.3).
const PLP_NULL: u64 = u64::MAX;
const PLP_UNKNOWN: u64 = u64::MAX - 1;

/// Writes a value with its length.
pub(super) fn write(ty: &Type, layout: Layout, value: &Value, out: &mut Vec<u8>) {
    match (layout, value) {
        (Layout::Fixed(_), Value::Null) => panic!("NULL in a column that is not nullable"),
        (Layout::Byte | Layout::Long, Value::Null) => out.push(0),
        (Layout::Short, Value::Null) => out.put_u16_le(u16::MAX),
        (Layout::Plp, Value::Null) => out.put_u64_le(PLP_NULL),
        (Layout::Variant, Value::Null) => out.put_u32_le(0),
        (Layout::Plp, Value::Chunks(chunks)) => {
            out.put_u64_le(PLP_UNKNOWN);
            write_chunks(chunks.iter().map(Vec::as_slice), out);
        }
        (Layout::Variant, Value::Variant(base, value)) => {
            let mut body = Vec::new(); // SSVARIANT_INSTANCE (2.2.5.5.4): the type, its properties' length, its properties
            let before = usize::from(matches!(base.as_ref(), Type::Decimal(..) | Type::Numeric(..))); // no length there
            let mut info = Vec::new();
            base.write_info(false, &mut info);
            let mut properties = info.split_off(1);
            match base.as_ref() {
                Type::UniqueIdentifier => properties.clear(),
                // Collation before length, other than in TYPE_INFO.
                Type::Char(..) | Type::VarChar(..) | Type::NChar(_) | Type::NVarChar(_) => properties.rotate_left(2),
                _ => drop(properties.drain(..before)),
            }
            body.extend([info[0], properties.len() as u8]);
            body.extend(properties);
            body.extend(encode(base, value));
            out.put_u32_le(body.len() as u32);
            out.extend(body);
        }
        _ => {
            let bytes = encode(ty, value);
            match layout {
                Layout::Fixed(len) => assert_eq!(bytes.len(), len),
                Layout::Byte => out.push(bytes.len() as u8),
                Layout::Short => out.put_u16_le(bytes.len() as u16),
                Layout::Long => {
                    out.push(16);
                    out.extend([b'p'; 16]); // text pointer
                    out.extend([b't'; 8]); // timestamp
                    out.put_u32_le(bytes.len() as u32);
                }
                Layout::Plp => {
                    out.put_u64_le(bytes.len() as u64);
                    return write_chunks(bytes.chunks(CHUNK), out);
                }
                Layout::Variant => panic!("{value:?} has no base type"),
            }
            out.extend(bytes);
        }
    }
}

fn write_chunks<'a>(chunks: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    for chunk in chunks.filter(|chunk| !chunk.is_empty()) {
        out.put_u32_le(chunk.len() as u32);
        out.extend(chunk);
    }
    out.put_u32_le(0); // PLP_TERMINATOR
}

/// Reads a value with its length.
pub(super) fn read(ty: &Type, layout: Layout, input: &mut &[u8]) -> Value {
    let len = match layout {
        Layout::Fixed(len) => len,
        Layout::Byte => match input.get_u8() {
            0 => return Value::Null,
            len => usize::from(len),
        },
        Layout::Short => match input.get_u16_le() {
            u16::MAX => return Value::Null,
            len => usize::from(len),
        },
        Layout::Long => match input.get_u8() {
            0 => return Value::Null,
            pointer => {
                input.advance(usize::from(pointer) + 8);
                input.get_u32_le() as usize
            }
        },
        Layout::Plp => {
            if input.get_u64_le() == PLP_NULL {
                return Value::Null;
            }
            let mut bytes = Vec::new();
            loop {
                match input.get_u32_le() as usize {
                    0 => return decode(ty, &bytes),
                    len => bytes.extend(take(input, len)),
                }
            }
        }
        Layout::Variant => match input.get_u32_le() {
            0 => return Value::Null,
            _ => panic!("a sql_variant from a client is not covered"),
        },
    };
    decode(ty, take(input, len))
}
