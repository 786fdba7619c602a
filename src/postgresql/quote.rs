//! Names and values in SQL text.

use crate::data::TableName;

/// A name as SQL takes it, whatever is in it: `a"b` becomes `"a""b"`.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name with its schema.
pub fn table(name: &TableName) -> String {
    format!("{}.{}", identifier(&name.schema_name), identifier(&name.table_name))
}

/// A text value, right whatever `standard_conforming_strings` says.
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_whatever_a_name_or_value_holds() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(table(&TableName::new("Öl", "t.x")), "\"Öl\".\"t.x\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
    }
}
