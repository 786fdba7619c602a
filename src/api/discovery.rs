//! What a source has to link, as its database says it.

use std::collections::HashSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{discover::Patterns, fault::Fault, schema::time};
use crate::data::TableName;

/// Tables that are named, of each sort.
const NAMED: usize = 100;

/// Tables of the source database: those that a link can have, and those that it cannot, with the reason. With `spec.discover`, of the
/// tables that it asks for, else of all. At most 100 of each are named, in the order of their names.
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

impl IneligibleTable {
    /// A table and what stands against it.
    pub fn new(name: TableName, Fault { reason, message, remedy, .. }: &Fault) -> Self {
        Self { name, reason: reason.clone(), message: format!("{message}: {remedy}") }
    }
}

/// All tables that a source has, each with what stands against its being linked, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When the database was asked and first said so.
    pub time: Timestamp,
    tables: Vec<(TableName, Option<Fault>)>,
}

impl Found {
    /// What a database said now.
    pub fn new(time: Timestamp, mut tables: Vec<(TableName, Option<Fault>)>) -> Self {
        tables.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self { time, tables }
    }

    /// Whether it says the same as the other.
    pub fn is_as(&self, other: &Self) -> bool {
        self.tables == other.tables
    }

    /// Those that can be linked, and the others, all of them.
    pub fn parted(self) -> (Vec<TableName>, Vec<IneligibleTable>) {
        let (mut eligible, mut ineligible) = (Vec::new(), Vec::new());
        for (name, obstacle) in self.tables {
            match obstacle {
                None => eligible.push(name),
                Some(fault) => ineligible.push(IneligibleTable::new(name, &fault)),
            }
        }
        (eligible, ineligible)
    }

    /// What is told of it: of the tables that are asked for, of all without patterns.
    pub fn discovery(&self, patterns: Option<&Patterns>) -> Discovery {
        let mut discovery = Discovery { time: self.time, eligible: 0, ineligible: 0, eligible_tables: vec![], ineligible_tables: vec![] };
        for (name, obstacle) in self.tables.iter().filter(|(name, _)| patterns.is_none_or(|patterns| patterns.ask_for(name))) {
            match obstacle {
                None => {
                    discovery.eligible += 1;
                    if discovery.eligible_tables.len() < NAMED {
                        discovery.eligible_tables.push(name.clone());
                    }
                }
                Some(fault) => {
                    discovery.ineligible += 1;
                    if discovery.ineligible_tables.len() < NAMED {
                        discovery.ineligible_tables.push(IneligibleTable::new(name.clone(), fault));
                    }
                }
            }
        }
        discovery
    }

    /// The tables that can be linked and are asked for, but for those that are linked.
    pub fn unlinked<'a>(&'a self, patterns: &'a Patterns, linked: &'a HashSet<&TableName>) -> impl Iterator<Item = &'a TableName> {
        let eligible = self.tables.iter().filter(|(_, obstacle)| obstacle.is_none()).map(|(name, _)| name);
        eligible.filter(|name| !linked.contains(name) && patterns.ask_for(name))
    }
}

impl Discovery {
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
    use crate::api::discover::Discover;

    fn found(time: &str, count: usize) -> Found {
        let fault = Fault { reason: "NoPrimaryKey".into(), message: "no key".into(), remedy: "add one".into(), heals: false };
        let table = |n: usize| (TableName::new("s", format!("t{n:03}")), (!n.is_multiple_of(2)).then(|| fault.clone()));
        Found::new(time.parse().unwrap(), (0..count).rev().map(table).collect())
    }

    #[test]
    fn what_is_said_again_is_as_old_as_it_was_and_long_lists_are_cut() {
        let first = found("2026-01-01T00:00:00Z", 250).discovery(None);
        assert_eq!((first.eligible, first.ineligible, first.eligible_tables.len(), first.ineligible_tables.len()), (125, 125, 100, 100));
        assert_eq!(first.ineligible_tables[0].message, "no key: add one");
        let again = found("2026-01-02T00:00:00Z", 250);
        assert!(again.is_as(&found("2026-01-01T00:00:00Z", 250)));
        assert_eq!(again.discovery(None).since(Some(&first)), first);
        let other = found("2026-01-02T00:00:00Z", 249).discovery(None).since(Some(&first));
        assert_eq!(other.time, "2026-01-02T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn patterns_choose_among_those_that_are_told_and_those_that_join() {
        let discover = Discover { include: vec!["s.t00?".into()], exclude: vec!["*.*4".into()] };
        let patterns = discover.patterns().unwrap();
        let found = found("2026-01-01T00:00:00Z", 250);
        let discovery = found.discovery(Some(&patterns));
        assert_eq!((discovery.eligible, discovery.ineligible), (4, 5));
        let linked = TableName::new("s", "t002");
        let linked = HashSet::from([&linked]);
        let unlinked: Vec<&str> = found.unlinked(&patterns, &linked).map(|table| table.table_name.as_str()).collect();
        assert_eq!(unlinked, ["t000", "t006", "t008"]);
    }
}
