//! Names of what a link makes in a target, and how it knows that again. Pure.

use sha2::{Digest as _, Sha256};

use super::{Incarnation, TargetTable};
use crate::data::TableName;

/// What all tables that are built aside for a table are called, whatever their incarnation. 16 hex digits of a hash stand
/// for link and source table, so that any names fit PostgreSQL's 63 bytes.
pub(super) fn build_prefix(table: &TargetTable) -> String {
    let mut hash = Sha256::new();
    for part in [&table.link_id, &table.source.schema_name, &table.source.table_name] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("link_{}", hex::encode(&hash.finalize()[..8]))
}

/// The table that an incarnation is built in, in the target table's own schema: the swap is a rename.
pub(super) fn build_name(table: &TargetTable, incarnation: Incarnation) -> TableName {
    let name = format!("{}_{}_{}", build_prefix(table), incarnation.run, incarnation.record);
    TableName::new(&table.name.schema_name, name)
}

/// The words by which a link knows a table as its own, also after the link forgot its progress.
pub(super) fn mark(table: &TargetTable) -> String {
    format!("Copy of {} by link {} (link-operator)", table.source, table.link_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::link_table::TableOptions;

    #[test]
    fn build_names_fit_and_differ() {
        let table = |link: &str, schema: &str| TargetTable {
            link_id: link.to_owned(),
            source: TableName::new(schema, "t".repeat(63)),
            name: TableName::new("dw", "t"),
            options: TableOptions::default(),
        };
        let longest = Incarnation { run: u32::MAX, record: u64::MAX };
        assert!(build_name(&table("a", "b"), longest).table_name.len() <= 63);
        assert_ne!(build_name(&table("a", "bc"), longest), build_name(&table("ab", "c"), longest));
    }
}
