//! Columns and their types: TYPE_INFO of [MS-TDS] 2.2.5.4 and 2.2.5.6.

use bytes::{Buf, BufMut};

use super::tokens::{b_varchar, us_varchar};

/// A SQL Server type with what its TYPE_INFO carries: of decimals precision and scale, of times the digits of the second's
/// fraction, of strings the length as in SQL (bytes, or characters for `N…` types).
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Real,
    Float,
    Decimal(u8, u8),
    Numeric(u8, u8),
    SmallMoney,
    Money,
    Date,
    Time(u8),
    SmallDateTime,
    DateTime,
    DateTime2(u8),
    DateTimeOffset(u8),
    Char(u16, Collation),
    VarChar(u16, Collation),
    VarCharMax(Collation),
    Text(Collation),
    NChar(u16),
    NVarChar(u16),
    NVarCharMax,
    NText,
    Binary(u16),
    VarBinary(u16),
    VarBinaryMax,
    Image,
    UniqueIdentifier,
    Xml,
    SqlVariant,
    /// A CLR type of the schema `sys`, such as `hierarchyid`.
    Udt(String),
}

/// How `char`, `varchar` and `text` are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// `SQL_Latin1_General_CP1_CI_AS`: code page 1252.
    Latin1,
    /// `Latin1_General_100_CI_AS_SC_UTF8`.
    Utf8,
}

/// Characters of code page 1252 from 0x80 to 0x9F; the rest is ISO 8859-1.
const CP1252: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

impl Collation {
    /// COLLATION ([MS-TDS] 2.2.5.1.2): LCID, flags (bit 26: UTF-8), version, sort order.
    pub(super) fn bytes(self) -> [u8; 5] {
        match self {
            Self::Latin1 => [0x09, 0x04, 0xD0, 0x00, 0x34],
            Self::Utf8 => [0x09, 0x04, 0xD0, 0x24, 0x00],
        }
    }

    fn read(input: &mut &[u8]) -> Self {
        let mut bytes = [0; 5];
        input.copy_to_slice(&mut bytes);
        if bytes[3] & 0x04 == 0 { Self::Latin1 } else { Self::Utf8 }
    }

    pub(super) fn encode(self, text: &str) -> Vec<u8> {
        let high = |c: char| if c.is_ascii() { None } else { CP1252.chars().position(|known| known == c) };
        let byte = |c: char| match high(c) {
            Some(index) => 0x80 + index as u8,
            None => u8::try_from(c).unwrap_or(b'?'),
        };
        if self == Self::Utf8 { text.as_bytes().to_vec() } else { text.chars().map(byte).collect() }
    }

    pub(super) fn decode(self, bytes: &[u8]) -> String {
        let char = |&byte: &u8| match byte {
            0x80..=0x9F => CP1252.chars().nth(usize::from(byte - 0x80)).unwrap(),
            _ => char::from(byte),
        };
        if self == Self::Utf8 { String::from_utf8(bytes.to_vec()).unwrap() } else { bytes.iter().map(char).collect() }
    }
}

/// How a value's length is told on the wire: [MS-TDS] 2.2.5.2.2, 2.2.5.2.3 and 2.2.5.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Not at all; such a type has no NULL.
    Fixed(usize),
    /// One byte; 0 is NULL.
    Byte,
    /// Two bytes; 0xFFFF is NULL.
    Short,
    /// A text pointer and four bytes: text, ntext, image.
    Long,
    /// Partially length-prefixed: total length, then chunks.
    Plp,
    /// Four bytes, then the base type: sql_variant.
    Variant,
}

/// Types with a fixed-length token of their own (2.2.5.4.2), the token when they are nullable (2.2.5.4.3), and their length.
const FIXED: [(Type, u8, u8, u8); 11] = [
    (Type::TinyInt, 0x30, 0x26, 1),
    (Type::Bit, 0x32, 0x68, 1),
    (Type::SmallInt, 0x34, 0x26, 2),
    (Type::Int, 0x38, 0x26, 4),
    (Type::SmallDateTime, 0x3A, 0x6F, 4),
    (Type::Real, 0x3B, 0x6D, 4),
    (Type::Money, 0x3C, 0x6E, 8),
    (Type::DateTime, 0x3D, 0x6F, 8),
    (Type::Float, 0x3E, 0x6D, 8),
    (Type::SmallMoney, 0x7A, 0x6E, 4),
    (Type::BigInt, 0x7F, 0x26, 8),
];

/// Bytes of a decimal's magnitude (2.2.5.5.1.6).
pub(super) fn decimal_len(precision: u8) -> usize {
    match precision {
        0..=9 => 4,
        10..=19 => 8,
        20..=28 => 12,
        _ => 16,
    }
}

/// What follows the token of a string type: its length in bytes, and its collation.
fn sized(len: impl Into<u32>, collation: Option<Collation>, width: usize) -> Vec<u8> {
    let mut properties = len.into().to_le_bytes()[..width].to_vec();
    properties.extend(collation.iter().flat_map(|collation| collation.bytes()));
    properties
}

impl Type {
    /// Writes TYPE_INFO (2.2.5.6) and tells how values follow.
    pub(super) fn write_info(&self, nullable: bool, out: &mut Vec<u8>) -> Layout {
        const MAX: u16 = u16::MAX;
        if let Some((_, fixed, token, len)) = FIXED.iter().find(|row| row.0 == *self) {
            return if nullable {
                out.extend([*token, *len]);
                Layout::Byte
            } else {
                out.push(*fixed);
                Layout::Fixed(usize::from(*len))
            };
        }
        let unicode = Some(Collation::Latin1);
        let (token, properties, layout) = match self {
            Self::UniqueIdentifier => (0x24, vec![16], Layout::Byte),
            Self::Decimal(p, s) => (0x6A, vec![decimal_len(*p) as u8 + 1, *p, *s], Layout::Byte),
            Self::Numeric(p, s) => (0x6C, vec![decimal_len(*p) as u8 + 1, *p, *s], Layout::Byte),
            Self::Date => (0x28, vec![], Layout::Byte),
            Self::Time(scale) => (0x29, vec![*scale], Layout::Byte),
            Self::DateTime2(scale) => (0x2A, vec![*scale], Layout::Byte),
            Self::DateTimeOffset(scale) => (0x2B, vec![*scale], Layout::Byte),
            Self::Char(n, collation) => (0xAF, sized(*n, Some(*collation), 2), Layout::Short),
            Self::VarChar(n, collation) => (0xA7, sized(*n, Some(*collation), 2), Layout::Short),
            Self::VarCharMax(collation) => (0xA7, sized(MAX, Some(*collation), 2), Layout::Plp),
            Self::NChar(n) => (0xEF, sized(2 * n, unicode, 2), Layout::Short),
            Self::NVarChar(n) => (0xE7, sized(2 * n, unicode, 2), Layout::Short),
            Self::NVarCharMax => (0xE7, sized(MAX, unicode, 2), Layout::Plp),
            Self::Binary(n) => (0xAD, sized(*n, None, 2), Layout::Short),
            Self::VarBinary(n) => (0xA5, sized(*n, None, 2), Layout::Short),
            Self::VarBinaryMax => (0xA5, sized(MAX, None, 2), Layout::Plp),
            Self::Text(collation) => (0x23, sized(0x7FFF_FFFF_u32, Some(*collation), 4), Layout::Long),
            Self::NText => (0x63, sized(0x7FFF_FFFE_u32, unicode, 4), Layout::Long),
            Self::Image => (0x22, sized(0x7FFF_FFFF_u32, None, 4), Layout::Long),
            Self::Xml => (0xF1, vec![0], Layout::Plp), // no schema (2.2.5.5.3)
            Self::SqlVariant => (0x62, sized(8016_u32, None, 4), Layout::Variant),
            Self::Udt(name) => {
                let mut info = sized(if name == "hierarchyid" { 892 } else { MAX }, None, 2); // UDT_INFO (2.2.5.5.2)
                for part in ["master", "sys", name] {
                    b_varchar(&mut info, part);
                }
                us_varchar(&mut info, &format!("Microsoft.SqlServer.Types.Sql{name}, Microsoft.SqlServer.Types, Version=11.0.0.0"));
                (0xF0, info, Layout::Plp)
            }
            _ => unreachable!("{self:?} has a fixed length"),
        };
        out.push(token);
        out.extend(properties);
        layout
    }

    /// Reads TYPE_INFO as clients send it with parameters and bulk rows.
    pub(super) fn read_info(input: &mut &[u8]) -> (Self, Layout) {
        let token = input.get_u8();
        if let Some((ty, .., len)) = FIXED.iter().find(|row| row.1 == token) {
            return (ty.clone(), Layout::Fixed(usize::from(*len)));
        }
        let (len, layout) = match token {
            0x28..=0x2B => (0, Layout::Byte),
            0x24 | 0x26 | 0x68 | 0x6A | 0x6C..=0x6F => (input.get_u8().into(), Layout::Byte),
            0xA5 | 0xA7 | 0xAD | 0xAF | 0xE7 | 0xEF => match input.get_u16_le() {
                u16::MAX => (u16::MAX, Layout::Plp),
                len => (len, Layout::Short),
            },
            0x22 | 0x23 | 0x63 => (input.get_u32_le() as u16, Layout::Long),
            0xF1 => (input.get_u8().into(), Layout::Plp),
            _ => panic!("type 0x{token:02X} is not covered"),
        };
        if let Some((ty, ..)) = FIXED.iter().find(|row| row.2 == token && u16::from(row.3) == len) {
            return (ty.clone(), layout);
        }
        let mut collation = || Collation::read(input);
        let ty = match (token, layout) {
            (0x24, _) => Self::UniqueIdentifier,
            (0x6A, _) => Self::Decimal(input.get_u8(), input.get_u8()),
            (0x6C, _) => Self::Numeric(input.get_u8(), input.get_u8()),
            (0x28, _) => Self::Date,
            (0x29, _) => Self::Time(input.get_u8()),
            (0x2A, _) => Self::DateTime2(input.get_u8()),
            (0x2B, _) => Self::DateTimeOffset(input.get_u8()),
            (0xAF, _) => Self::Char(len, collation()),
            (0xA7, Layout::Plp) => Self::VarCharMax(collation()),
            (0xA7, _) => Self::VarChar(len, collation()),
            (0xAD, _) => Self::Binary(len),
            (0xA5, Layout::Plp) => Self::VarBinaryMax,
            (0xA5, _) => Self::VarBinary(len),
            (0x22, _) => Self::Image,
            (0x23, _) => Self::Text(collation()),
            (0xF1, _) => Self::Xml,
            _ => {
                collation(); // which does not matter for UTF-16
                match (token, layout) {
                    (0x63, _) => Self::NText,
                    (0xEF, _) => Self::NChar(len / 2),
                    (_, Layout::Plp) => Self::NVarCharMax,
                    _ => Self::NVarChar(len / 2),
                }
            }
        };
        (ty, layout)
    }
}

/// A column of a result set or bulk load.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub nullable: bool,
    pub identity: bool,
}

impl Column {
    /// A nullable column.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self { name: name.into(), ty, nullable: true, identity: false }
    }

    /// The same, NOT NULL: numbers then have their fixed-length token.
    #[must_use]
    pub fn not_null(self) -> Self {
        Self { nullable: false, ..self }
    }

    /// The same with the identity property.
    #[must_use]
    pub fn identity(self) -> Self {
        Self { identity: true, ..self }
    }

    /// A column of COLMETADATA (2.2.7.4).
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Layout {
        out.put_u32_le(0); // UserType
        out.put_u16_le(0x0008 | u16::from(self.nullable) | u16::from(self.identity) << 4);
        let layout = self.ty.write_info(self.nullable, out);
        if layout == Layout::Long {
            out.push(1); // TableName: one part
            us_varchar(out, "table");
        }
        b_varchar(out, &self.name);
        layout
    }

    /// The same from a client's bulk load.
    pub(super) fn read(input: &mut &[u8]) -> (Self, Layout) {
        input.advance(4);
        let flags = input.get_u16_le();
        let (ty, layout) = Type::read_info(input);
        if layout == Layout::Long {
            let len = input.get_u16_le(); // in a bulk load the table has one part without a count
            input.advance(2 * usize::from(len));
        }
        let name = super::tokens::read_b_varchar(input);
        (Self { name, ty, nullable: flags & 0x01 != 0, identity: flags & 0x10 != 0 }, layout)
    }
}

impl From<(&str, Type)> for Column {
    fn from((name, ty): (&str, Type)) -> Self {
        Self::new(name, ty)
    }
}
