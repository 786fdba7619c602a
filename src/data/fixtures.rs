//! Tables for the tests of this crate.

use super::{Column, TableName, TableSchema, Travel};

/// A column that may be NULL.
pub fn column(number: i32, name: &str, travel: Travel) -> Column {
    let (name, source_type, revision) = (name.to_owned(), String::new(), String::new());
    Column { number, name, travel, source_type, nullable: true, initial: None, revision, collation: None, labels: vec![], dropped: false }
}

/// A table of `public` that knows of no columns but these. `key`: indexes into them.
pub fn table(name: &str, columns: Vec<Column>, key: &[usize]) -> TableSchema {
    let last_number = columns.iter().map(|column| column.number).max().unwrap_or_default();
    TableSchema {
        name: TableName::new("public", name),
        object_id: 1,
        system: "postgresql".to_owned(),
        columns,
        key: key.to_vec(),
        last_number,
    }
}
