//! What a source has to link, as its database says it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{fault::Fault, schema::time};
use crate::data::TableName;

/// Tables that are named, of each sort.
const NAMED: usize = 100;

/// The tables of the source database: those that a link can have, and those that it cannot, with the reason. At most 100 of each
/// are named, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// When the database was asked and first said so.
    #[schemars(schema_with = "time")]
    pub time: Timestamp,
    /// How many tables can be linked.
    pub eligible: u32,
    /// How many cannot.
    pub ineligible: u32,
    /// Tables that can be linked.
    #[schemars(length(max = 100))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eligible_tables: Vec<TableName>,
    /// Tables that cannot be linked as they are.
    #[schemars(length(max = 100))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ineligible_tables: Vec<IneligibleTable>,
}

/// A table that cannot be linked as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IneligibleTable {
    /// The table.
    #[serde(flatten)]
    pub name: TableName,
    /// Why, in one word.
    pub reason: String,
    /// Why, and what makes it eligible.
    pub message: String,
}

impl Discovery {
    /// From all tables, each with what stands against it.
    pub fn new(time: Timestamp, mut tables: Vec<(TableName, Option<Fault>)>) -> Self {
        tables.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut discovery = Self { time, eligible: 0, ineligible: 0, eligible_tables: vec![], ineligible_tables: vec![] };
        for (name, obstacle) in tables {
            match obstacle {
                None => {
                    discovery.eligible += 1;
                    discovery.eligible_tables.push(name);
                }
                Some(Fault { reason, message, remedy, .. }) => {
                    discovery.ineligible += 1;
                    discovery.ineligible_tables.push(IneligibleTable { name, reason, message: format!("{message}: {remedy}") });
                }
            }
        }
        discovery.name_at_most(NAMED);
        discovery
    }

    /// Names no more than so many of each sort.
    pub fn name_at_most(&mut self, count: usize) {
        self.eligible_tables.truncate(count);
        self.ineligible_tables.truncate(count);
    }

    /// This, as of when it was first said.
    #[must_use]
    pub fn since(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before.filter(|before| **before == Self { time: before.time, ..self.clone() }) {
            self.time = before.time;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_as_old_as_it_was_and_long_lists_are_cut() {
        let fault = Fault { reason: "NoPrimaryKey".into(), message: "no key".into(), remedy: "add one".into(), heals: false };
        let tables = (0..250).map(|n| (TableName::new("s", format!("t{n:03}")), (n % 2 > 0).then(|| fault.clone()))).collect::<Vec<_>>();
        let at = |text: &str| text.parse().unwrap();
        let first = Discovery::new(at("2026-01-01T00:00:00Z"), tables.clone());
        assert_eq!((first.eligible, first.ineligible, first.eligible_tables.len(), first.ineligible_tables.len()), (125, 125, 100, 100));
        assert_eq!(first.ineligible_tables[0].message, "no key: add one");
        let again = Discovery::new(at("2026-01-02T00:00:00Z"), tables.clone()).since(Some(&first));
        assert_eq!(again, first);
        let other = Discovery::new(at("2026-01-02T00:00:00Z"), tables[1..].to_vec()).since(Some(&first));
        assert_eq!(other.time, at("2026-01-02T00:00:00Z"));
    }
}
