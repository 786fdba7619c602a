//! Names and texts in T-SQL statements.

use crate::data::TableName;

/// A name, as it is spelled.
pub fn identifier(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}

/// A table with its schema.
pub fn table(name: &TableName) -> String {
    format!("{}.{}", identifier(&name.schema_name), identifier(&name.table_name))
}

/// A Unicode text.
pub fn literal(text: &str) -> String {
    format!("N'{}'", text.replace('\'', "''"))
}

/// Bytes.
pub fn binary(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_and_texts_stay_what_they_are() {
        assert_eq!(table(&TableName::new("dbo", "a]; DROP TABLE x--")), "[dbo].[a]]; DROP TABLE x--]");
        assert_eq!(literal("O'Neil"), "N'O''Neil'");
        assert_eq!(binary(&[0, 255]), "0x00ff");
    }
}
