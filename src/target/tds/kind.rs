//! How a column stands in a target that speaks T-SQL, and the parts of statements that follow from it. Pure.

use crate::{
    data::{Column, TableSchema, Travel},
    sqlserver::{
        quote::{identifier, literal},
        wire::Wire,
    },
    target::Error,
};

/// The collation of keys that compare byte by byte in their source.
const BYTE_BY_BYTE: &str = "Latin1_General_100_BIN2";
/// Characters of a text, and bytes of a binary value, in a key of a source that bounds neither: an index has at most 900 bytes of key.
const KEY_CHARACTERS: u16 = 450;
const KEY_BYTES: u16 = 900;

/// Which types the server has that not every one has.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::target) struct Types {
    pub(in crate::target) xml: bool,
    pub(in crate::target) hierarchyid: bool,
    pub(in crate::target) geometry: bool,
    pub(in crate::target) geography: bool,
    /// It is Babelfish, which tells the driver only the last column of a table that is loaded, unless that is a temporary one.
    pub(in crate::target) babelfish: bool,
}

/// How a column stands in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::target) struct Kind {
    /// Its type.
    pub(in crate::target) spelled: String,
    /// Of a text: how it compares, if not as the database does.
    pub(in crate::target) collation: Option<String>,
    /// How its values are sent.
    pub(in crate::target) wire: Wire,
    /// What makes a value of a staged one, for which `{}` stands.
    convert: Option<String>,
}

impl Kind {
    /// The column of the column's number in `schema`.
    pub(in crate::target) fn of(schema: &TableSchema, at: usize, types: Types) -> Self {
        let column = &schema.columns[at];
        let is_key = schema.key.contains(&at);
        if schema.system == "sqlserver" { of_sqlserver(column, is_key, types) } else { of_travel(column.travel, is_key) }
    }

    /// Of all columns.
    pub(in crate::target) fn all(schema: &TableSchema, types: Types) -> Vec<Self> {
        (0..schema.columns.len()).map(|at| Self::of(schema, at, types)).collect()
    }

    fn new(spelled: impl Into<String>, wire: Wire) -> Self {
        Self { spelled: spelled.into(), collation: None, wire, convert: None }
    }

    pub(in crate::target) fn converted(mut self, convert: impl Into<String>) -> Self {
        self.convert = Some(convert.into());
        self
    }

    fn is_text(&self) -> bool {
        matches!(self.wire, Wire::Text(_) | Wire::TextMax)
    }

    /// How its values are sent to be staged: numbers as the widest, for Babelfish misreads others.
    pub(in crate::target) fn staged_wire(&self) -> Wire {
        match self.wire {
            Wire::Decimal { scale, .. } => Wire::Decimal { precision: 38, scale },
            wire => wire,
        }
    }

    /// The type of a column that its values are staged in. There, the database's collation must be asked for: it is another
    /// database's table.
    pub(in crate::target) fn staged(&self) -> String {
        let spelled = match self.wire {
            Wire::Text(most) => format!("nvarchar({most})"),
            Wire::TextMax => "nvarchar(max)".to_owned(),
            Wire::Decimal { scale, .. } => return format!("decimal(38,{scale})"),
            _ => return self.spelled.clone(),
        };
        format!("{spelled} COLLATE {}", self.collation.as_deref().unwrap_or("DATABASE_DEFAULT"))
    }

    /// The value as the column has it, of `staged`, an expression.
    pub(in crate::target) fn value(&self, staged: &str) -> String {
        match (&self.convert, self.wire) {
            (Some(convert), _) => convert.replace("{}", staged),
            (None, Wire::Decimal { .. }) => format!("CONVERT({}, {staged})", self.spelled),
            (None, _) => staged.to_owned(),
        }
    }

    /// Whether values can be loaded into the column as they are sent.
    pub(in crate::target) fn is_direct(&self) -> bool {
        self.convert.is_none()
    }

    /// Most bytes of a value in an index; none if it cannot be of one.
    pub(in crate::target) fn key_bytes(&self) -> Option<usize> {
        Some(match self.wire {
            Wire::Bit | Wire::TinyInt => 1,
            Wire::SmallInt => 2,
            Wire::Int | Wire::Real | Wire::SmallMoney | Wire::SmallDateTime => 4,
            Wire::BigInt | Wire::Float | Wire::Money | Wire::DateTime | Wire::DateTime2(_) => 8,
            Wire::Decimal { .. } => 17,
            Wire::Date => 3,
            Wire::Time(_) => 5,
            Wire::DateTimeOffset(_) => 10,
            Wire::Uuid => 16,
            Wire::Binary(bytes) | Wire::VarBinary(bytes) => bytes.into(),
            Wire::Text(most) if self.spelled.starts_with('n') => 2 * usize::from(most),
            Wire::Text(most) => most.into(),
            Wire::TextMax if self.spelled == "hierarchyid" => 892,
            Wire::TextMax | Wire::VarBinaryMax => return None,
        })
    }
}

fn of_travel(travel: Travel, is_key: bool) -> Kind {
    match travel {
        Travel::Bool => Kind::new("bit", Wire::Bit),
        Travel::Int16 => Kind::new("smallint", Wire::SmallInt),
        Travel::Int32 => Kind::new("int", Wire::Int),
        Travel::Int64 => Kind::new("bigint", Wire::BigInt),
        Travel::Float32 => Kind::new("real", Wire::Real),
        Travel::Float64 => Kind::new("float", Wire::Float),
        Travel::Decimal { precision, scale } => {
            let scale = scale.unsigned_abs();
            Kind::new(format!("decimal({precision},{scale})"), Wire::Decimal { precision, scale })
        }
        Travel::Date => Kind::new("date", Wire::Date),
        Travel::Time => Kind::new("time(6)", Wire::Time(6)),
        Travel::Time7 => Kind::new("time(7)", Wire::Time(7)),
        Travel::Timestamp => Kind::new("datetime2(6)", Wire::DateTime2(6)),
        Travel::Timestamp7 => Kind::new("datetime2(7)", Wire::DateTime2(7)),
        Travel::TimestampTz => Kind::new("datetimeoffset(6)", Wire::DateTimeOffset(6)),
        Travel::TimestampOffset => Kind::new("datetimeoffset(7)", Wire::DateTimeOffset(7)),
        Travel::Utf8 | Travel::Text if is_key => Kind {
            collation: Some(BYTE_BY_BYTE.to_owned()),
            ..Kind::new(format!("nvarchar({KEY_CHARACTERS})"), Wire::Text(KEY_CHARACTERS))
        },
        Travel::Utf8 | Travel::Text => Kind::new("nvarchar(max)", Wire::TextMax),
        Travel::Binary if is_key => Kind::new(format!("varbinary({KEY_BYTES})"), Wire::VarBinary(KEY_BYTES)),
        Travel::Binary => Kind::new("varbinary(max)", Wire::VarBinaryMax),
        Travel::Uuid => Kind::new("uniqueidentifier", Wire::Uuid),
    }
}

fn of_sqlserver(column: &Column, is_key: bool, types: Types) -> Kind {
    let spelled = column.source_type.as_str();
    let (name, arguments) = spelled.split_once('(').unwrap_or((spelled, ""));
    let is_max = arguments.starts_with("max");
    let mut numbers = arguments.trim_end_matches(')').split(',').map(|number| number.trim().parse::<u16>().unwrap_or_default());
    let (first, second) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let kind = |wire| Kind::new(spelled, wire);
    let kind = match name {
        "bit" => kind(Wire::Bit),
        "tinyint" => kind(Wire::TinyInt),
        "smallint" => kind(Wire::SmallInt),
        "int" => kind(Wire::Int),
        "bigint" => kind(Wire::BigInt),
        "real" => kind(Wire::Real),
        "float" => kind(Wire::Float),
        "decimal" | "numeric" => kind(Wire::Decimal { precision: first as u8, scale: second as u8 }),
        "money" => kind(Wire::Money),
        "smallmoney" => kind(Wire::SmallMoney),
        "date" => kind(Wire::Date),
        "time" => kind(Wire::Time(first as u8)),
        "datetime2" => kind(Wire::DateTime2(first as u8)),
        "datetimeoffset" => kind(Wire::DateTimeOffset(first as u8)),
        "datetime" => kind(Wire::DateTime),
        "smalldatetime" => kind(Wire::SmallDateTime),
        "uniqueidentifier" => kind(Wire::Uuid),
        "nchar" | "nvarchar" => kind(if is_max { Wire::TextMax } else { Wire::Text(first) }),
        // Sent as nvarchar: what a code page makes of it, the server knows. Made what it is before it is compared, so that an
        // index is used.
        "char" | "varchar" => {
            kind(if is_max || first > 4000 { Wire::TextMax } else { Wire::Text(first) }).converted(format!("CONVERT({spelled}, {{}})"))
        }
        "text" => Kind::new("varchar(max)", Wire::TextMax).converted("CONVERT(varchar(max), {})"),
        "ntext" => Kind::new("nvarchar(max)", Wire::TextMax),
        "binary" => kind(Wire::Binary(first)),
        "varbinary" if is_max => kind(Wire::VarBinaryMax),
        "varbinary" => kind(Wire::VarBinary(first)),
        "image" => Kind::new("varbinary(max)", Wire::VarBinaryMax),
        "rowversion" => Kind::new("binary(8)", Wire::Binary(8)),
        // White space between elements is of the value.
        "xml" if types.xml => kind(Wire::TextMax).converted("CONVERT(xml, {}, 1)"),
        "hierarchyid" if types.hierarchyid => kind(Wire::TextMax).converted("hierarchyid::Parse({})"),
        "geometry" if types.geometry => kind(Wire::TextMax).converted(shape("geometry")),
        "geography" if types.geography => kind(Wire::TextMax).converted(shape("geography")),
        // Of a type of a user's, as many bytes as there are.
        _ => of_travel(column.travel, is_key && column.travel != Travel::Binary),
    };
    let collation = column.collation.clone().filter(|name| kind.is_text() && is_token(name));
    Kind { collation: collation.or(kind.collation), ..kind }
}

/// A shape of `SRID=4326;POINT (1 2)`.
fn shape(name: &str) -> String {
    format!(
        "{name}::STGeomFromText(SUBSTRING({{}}, CHARINDEX(N';', {{}}) + 1, LEN({{}})), \
         CONVERT(int, SUBSTRING({{}}, 6, CHARINDEX(N';', {{}}) - 6)))"
    )
}

/// Whether a collation's name can stand in a statement, where it has no quotes.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Why rows cannot be known by the key here, if they cannot.
pub(in crate::target) fn check_key(schema: &TableSchema, types: Types) -> Result<(), Error> {
    for &at in &schema.key {
        let column = &schema.columns[at];
        let why = if schema.system == "sqlserver" {
            match column.source_type.as_str() {
                "sql_variant" => "values of different types may be one key",
                "xml" | "geometry" | "geography" => "the type cannot be of a key",
                _ if Kind::of(schema, at, types).key_bytes().is_none() => "the type cannot be of a key",
                _ => continue,
            }
        } else if let Some(collation) = &column.collation {
            &*format!("its texts compare by collation {collation}, which SQL Server does not have")
        } else {
            continue;
        };
        return Err(Error::ValueNotSupported(format!("key column {} of {} is {}: {why}", column.name, schema.name, column.source_type)));
    }
    Ok(())
}

/// The condition that row `of` of the table has the key that staged row `other` has in columns that `staged` names by the key's
/// place. Texts of another system are one key only if they are the same: to SQL Server, blanks at the end, and zeros at the end
/// of bytes, are nothing.
pub(in crate::target) fn same_key(schema: &TableSchema, kinds: &[Kind], of: &str, other: &str, staged: impl Fn(usize) -> String) -> String {
    let pairs = schema.key.iter().enumerate().map(|(place, &at)| {
        let (name, value) = (identifier(&schema.columns[at].name), kinds[at].value(&format!("{other}.{}", staged(place))));
        let equal = format!("{of}.{name} = {value}");
        if schema.system != "sqlserver" && matches!(kinds[at].wire, Wire::Text(_) | Wire::VarBinary(_)) {
            format!("{equal} AND DATALENGTH({of}.{name}) = DATALENGTH({value})")
        } else {
            equal
        }
    });
    pairs.collect::<Vec<_>>().join(" AND ")
}

/// All columns, quoted, in order.
pub(in crate::target) fn columns(schema: &TableSchema) -> Vec<String> {
    schema.columns.iter().map(|column| identifier(&column.name)).collect()
}

/// The key's columns, quoted, in key order.
pub(in crate::target) fn key_columns(schema: &TableSchema) -> Vec<String> {
    schema.key.iter().map(|&column| identifier(&schema.columns[column].name)).collect()
}

/// All columns as a table has them. Only the key refuses NULL: the copy must hold whatever the source holds, now and later.
pub(in crate::target) fn definitions(schema: &TableSchema, kinds: &[Kind]) -> String {
    let definitions = schema.columns.iter().zip(kinds).enumerate().map(|(at, (column, kind))| {
        let collation = kind.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        let null = if schema.key.contains(&at) { "NOT NULL" } else { "NULL" };
        format!("{} {}{collation} {null}", identifier(&column.name), kind.spelled)
    });
    definitions.collect::<Vec<_>>().join(", ")
}

/// The statements that add a column to a table, in which all of its rows read the column's initial value; each is a batch of its
/// own, for the second names what the first makes. No default stays.
pub(in crate::target) fn add_column(schema: &TableSchema, at: usize, kind: &Kind, table: &str) -> Result<Vec<String>, Error> {
    let column = &schema.columns[at];
    let name = identifier(&column.name);
    let collation = kind.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let mut statements = vec![format!("ALTER TABLE {table} ADD {name} {}{collation} NULL", kind.spelled)];
    if let Some(text) = &column.initial {
        let value = initial(column, kind, text).ok_or_else(|| {
            Error::ValueNotSupported(format!(
                "rows of {} that are older than its column {} read {text} in it, which {} does not hold",
                schema.name, column.name, kind.spelled
            ))
        })?;
        // Said as the type: not every server makes it of a text by itself.
        let value = if kind.is_direct() { format!("CONVERT({}, {value})", kind.spelled) } else { value };
        statements.push(format!("UPDATE {table} SET {name} = {value}"));
    }
    Ok(statements)
}

/// A value that is told as text, by its source or as [`crate::data::print`] does, as an expression.
pub(in crate::target) fn initial(column: &Column, kind: &Kind, text: &str) -> Option<String> {
    Some(match kind.wire {
        Wire::Binary(_) | Wire::VarBinary(_) | Wire::VarBinaryMax => {
            let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("\\x"))?;
            hex::decode(digits).is_ok().then(|| format!("0x{digits}"))?
        }
        Wire::Bit => match text {
            "t" | "true" | "1" | "True" => "1".to_owned(),
            "f" | "false" | "0" | "False" => "0".to_owned(),
            _ => return None,
        },
        Wire::DateTimeOffset(_) => literal(&text.strip_suffix("+00").map_or_else(|| text.to_owned(), |utc| format!("{utc} +00:00"))),
        _ if matches!(column.travel, Travel::Float32 | Travel::Float64) && text.parse::<f64>().is_ok_and(|value| !value.is_finite()) => {
            return None;
        }
        _ => kind.value(&literal(text)),
    })
}

/// The same as an expression of the type that a staged column has.
pub(in crate::target) fn typed(column: &Column, kind: &Kind, text: &str) -> Option<String> {
    if kind.convert.is_some() {
        return Some(literal(text));
    }
    Some(format!("CONVERT({}, {})", kind.spelled, initial(column, kind, text)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    const ALL: Types = Types { xml: true, hierarchyid: true, geometry: true, geography: true, babelfish: false };

    fn of(system: &str, source_type: &str, travel: Travel, is_key: bool, types: Types) -> (String, Wire, String) {
        let collation = (travel == Travel::Utf8 && system == "sqlserver").then(|| "Greek_CI_AS".to_owned());
        let column = Column { source_type: source_type.to_owned(), collation, ..fixtures::column(1, "c", travel) };
        let other = fixtures::column(2, "id", Travel::Int32);
        let mut schema = fixtures::table("t", vec![column, other], &[usize::from(!is_key)]);
        schema.system = system.to_owned();
        let kind = Kind::of(&schema, 0, types);
        (kind.spelled.clone(), kind.wire, kind.value("x"))
    }

    #[test]
    fn a_type_of_sql_server_stays_what_it_is_if_the_target_has_it() {
        let decimal = Travel::Decimal { precision: 18, scale: 4 };
        for (name, travel, spelled, wire, value) in [
            ("bit", Travel::Bool, "bit", Wire::Bit, "x"),
            ("tinyint", Travel::Int16, "tinyint", Wire::TinyInt, "x"),
            ("decimal(18,4)", decimal, "decimal(18,4)", Wire::Decimal { precision: 18, scale: 4 }, "CONVERT(decimal(18,4), x)"),
            ("money", decimal, "money", Wire::Money, "x"),
            ("time(7)", Travel::Time7, "time(7)", Wire::Time(7), "x"),
            ("datetime2(3)", Travel::Timestamp, "datetime2(3)", Wire::DateTime2(3), "x"),
            ("datetime", Travel::Timestamp, "datetime", Wire::DateTime, "x"),
            ("datetimeoffset(0)", Travel::TimestampOffset, "datetimeoffset(0)", Wire::DateTimeOffset(0), "x"),
            ("nvarchar(50)", Travel::Utf8, "nvarchar(50)", Wire::Text(50), "x"),
            ("nvarchar(max)", Travel::Utf8, "nvarchar(max)", Wire::TextMax, "x"),
            ("nchar(3)", Travel::Utf8, "nchar(3)", Wire::Text(3), "x"),
            ("varchar(20)", Travel::Utf8, "varchar(20)", Wire::Text(20), "CONVERT(varchar(20), x)"),
            ("varchar(8000)", Travel::Utf8, "varchar(8000)", Wire::TextMax, "CONVERT(varchar(8000), x)"),
            ("text", Travel::Utf8, "varchar(max)", Wire::TextMax, "CONVERT(varchar(max), x)"),
            ("ntext", Travel::Utf8, "nvarchar(max)", Wire::TextMax, "x"),
            ("binary(3)", Travel::Binary, "binary(3)", Wire::Binary(3), "x"),
            ("varbinary(max)", Travel::Binary, "varbinary(max)", Wire::VarBinaryMax, "x"),
            ("image", Travel::Binary, "varbinary(max)", Wire::VarBinaryMax, "x"),
            ("rowversion", Travel::Binary, "binary(8)", Wire::Binary(8), "x"),
            ("point3d", Travel::Binary, "varbinary(max)", Wire::VarBinaryMax, "x"),
            ("xml", Travel::Text, "xml", Wire::TextMax, "CONVERT(xml, x, 1)"),
            ("hierarchyid", Travel::Text, "hierarchyid", Wire::TextMax, "hierarchyid::Parse(x)"),
            ("sql_variant", Travel::Text, "nvarchar(max)", Wire::TextMax, "x"),
            ("json", Travel::Text, "nvarchar(max)", Wire::TextMax, "x"),
            ("vector", Travel::Text, "nvarchar(max)", Wire::TextMax, "x"),
        ] {
            assert_eq!(of("sqlserver", name, travel, false, ALL), (spelled.to_owned(), wire, value.to_owned()), "{name}");
        }
        for name in ["xml", "hierarchyid", "geometry", "geography"] {
            let without = of("sqlserver", name, Travel::Text, false, Types::default());
            assert_eq!(without, ("nvarchar(max)".to_owned(), Wire::TextMax, "x".to_owned()), "{name}");
        }
    }

    #[test]
    fn values_of_postgresql_have_a_type_that_holds_them() {
        for (travel, is_key, spelled, wire) in [
            (Travel::Bool, false, "bit", Wire::Bit),
            (Travel::Float32, false, "real", Wire::Real),
            (Travel::Time, false, "time(6)", Wire::Time(6)),
            (Travel::Timestamp, true, "datetime2(6)", Wire::DateTime2(6)),
            (Travel::TimestampTz, false, "datetimeoffset(6)", Wire::DateTimeOffset(6)),
            (Travel::Utf8, false, "nvarchar(max)", Wire::TextMax),
            (Travel::Text, true, "nvarchar(450)", Wire::Text(450)),
            (Travel::Binary, true, "varbinary(900)", Wire::VarBinary(900)),
            (Travel::Uuid, true, "uniqueidentifier", Wire::Uuid),
        ] {
            let (found, sent, _) = of("postgresql", "any", travel, is_key, ALL);
            assert_eq!((found.as_str(), sent), (spelled, wire));
        }
    }

    #[test]
    fn keys_that_are_compared_otherwise_are_refused() {
        let check = |system: &str, source_type: &str, travel, collation: Option<&str>| {
            let collation = collation.map(str::to_owned);
            let column = Column { source_type: source_type.to_owned(), collation, ..fixtures::column(1, "c", travel) };
            let mut schema = fixtures::table("t", vec![column], &[0]);
            schema.system = system.to_owned();
            check_key(&schema, ALL).is_ok()
        };
        assert!(check("sqlserver", "nvarchar(50)", Travel::Utf8, Some("Greek_CI_AS")));
        assert!(check("sqlserver", "hierarchyid", Travel::Text, None));
        for kind in ["sql_variant", "geometry", "xml"] {
            assert!(!check("sqlserver", kind, Travel::Text, None), "{kind}");
        }
        assert!(!check("sqlserver", "point3d", Travel::Binary, None));
        assert!(check("postgresql", "text", Travel::Utf8, None));
        assert!(!check("postgresql", "text", Travel::Utf8, Some("und-x-icu")));
    }
}
