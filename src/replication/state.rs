//! The state of a run: what its records say, taken together. Pure; every worker folds the same records to the same state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{fault::Fault, link_table::TableOptions},
    data::{ChunkPlan, Identity, Part, Position, TableName, TableSchema, TableVersion},
    landing::record::{Entry, Event, Record},
};

/// A run at one of its records. Also the content of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunState {
    /// Number of the run.
    pub run: u32,
    /// The newest record; 0 before the first.
    pub number: u64,
    /// The newest term; 0 before the first.
    pub term: u64,
    /// Revision of the plan that the newest record was made under.
    pub plan_revision: u64,
    /// UID of the LinkConnection that the newest record was made for; empty if its version did not say.
    #[serde(default)]
    pub owner: String,
    /// The landing zone holds everything that the source committed up to here. Empty before the slot is made.
    pub to: Position,
    /// The source's time of `to`.
    pub time: Option<Timestamp>,
    /// What the source said it is.
    pub source: Option<Identity>,
    /// By number.
    pub tables: BTreeMap<u32, TableState>,
}

/// A table of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableState {
    /// UID of the LinkTable.
    pub uid: String,
    /// The reseed request that this incarnation answers.
    pub reseed: Option<String>,
    /// Name in the target.
    pub target: TableName,
    /// How it stands there.
    #[serde(default, skip_serializing_if = "TableOptions::is_empty")]
    pub options: TableOptions,
    /// The table as it is.
    pub schema: TableSchema,
    /// What holds its rows.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// What it lacked before it became as it is, in the order of the records.
    #[serde(default)]
    pub narrower: Vec<Narrower>,
    /// From here on all its changes are in the source's stream.
    #[serde(default)]
    pub from: Position,
    /// Number of the record that admitted it.
    pub incarnation: u64,
    /// How its snapshot is cut; none before its source has settled, and of an adopted table.
    pub plan: Option<ChunkPlan>,
    /// It was there, and is compared and repaired instead of loaded.
    #[serde(default)]
    pub adopted: bool,
    /// The record at whose `to` all chunks were passed, if it was not exact there.
    pub passed: Option<u64>,
    /// The record at whose `to` it is exact.
    pub exact: Option<u64>,
    /// Why it is followed no longer.
    pub fault: Option<Fault>,
    /// It left the link.
    pub left: bool,
    /// It is that of a former LinkConnection until a LinkTable of the same names takes it over.
    #[serde(default)]
    pub inherited: bool,
}

/// That a table had fewer columns before a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Narrower {
    /// Number of the record that has the version with more.
    pub before: u64,
    /// How many columns the table had: the first of those that it has now.
    pub columns: usize,
}

impl TableState {
    /// A table that joined by the record `incarnation`.
    pub fn new(uid: String, target: TableName, schema: TableSchema, incarnation: u64) -> Self {
        Self {
            uid,
            reseed: None,
            target,
            options: TableOptions::default(),
            schema,
            parts: Vec::new(),
            narrower: Vec::new(),
            from: Position::default(),
            incarnation,
            plan: None,
            adopted: false,
            passed: None,
            exact: None,
            fault: None,
            left: false,
            inherited: false,
        }
    }

    /// Its columns after a record, and the files of the next as they begin.
    pub fn schema_after(&self, record: u64) -> TableSchema {
        let mut schema = self.schema.clone();
        if let Some(narrower) = self.narrower.iter().find(|narrower| narrower.before > record) {
            schema.columns.truncate(narrower.columns);
        }
        schema
    }

    /// The table as it joined.
    #[must_use]
    pub fn joined(&self) -> Self {
        Self { schema: self.schema_after(self.incarnation), ..self.clone() }
    }

    /// Its newest version.
    pub fn version(&self) -> TableVersion {
        TableVersion { schema: self.schema.clone(), parts: self.parts.clone() }
    }

    /// Whether it is known how it gets its rows.
    pub fn planned(&self) -> bool {
        self.plan.is_some() || self.adopted
    }

    /// Whether it stands in its place in the target, and rows of it may be wrong.
    pub fn adopting(&self) -> bool {
        self.adopted && self.exact.is_none() && self.followed()
    }

    /// Whether its changes are captured.
    pub fn followed(&self) -> bool {
        !self.left && self.fault.is_none()
    }
}

/// A record that does not continue the log.
#[derive(Debug, thiserror::Error)]
#[error("record {found} cannot follow record {after} of run {run}")]
pub struct Gap {
    run: u32,
    after: u64,
    found: u64,
}

impl RunState {
    /// The state of a run without records.
    pub fn new(run: u32) -> Self {
        Self { run, ..Self::default() }
    }

    /// Takes in the next record.
    pub fn fold(&mut self, record: &Record) -> Result<(), Gap> {
        if record.run != self.run || record.number != self.number + 1 || record.term < self.term {
            return Err(Gap { run: self.run, after: self.number, found: record.number });
        }
        self.number = record.number;
        self.term = record.term;
        self.plan_revision = record.plan_revision;
        if !record.owner.is_empty() {
            if !self.owner.is_empty() && self.owner != record.owner {
                self.tables.values_mut().for_each(|table| table.inherited = true);
            }
            self.owner.clone_from(&record.owner);
        }
        self.to = record.to.clone();
        self.time = record.time.or(self.time);
        self.source = Some(record.source.clone());
        for event in &record.events {
            self.take(record.number, event);
        }
        for data in &record.data {
            let versions = data.entries.iter().filter_map(|entry| if let Entry::Version(version) = entry { Some(version) } else { None });
            for version in versions {
                self.of(data.table, data.incarnation, |state| {
                    if version.schema.columns.len() > state.schema.columns.len() {
                        state.narrower.push(Narrower { before: record.number, columns: state.schema.columns.len() });
                    }
                    state.schema = version.schema.clone();
                    state.parts.clone_from(&version.parts);
                });
            }
        }
        Ok(())
    }

    fn take(&mut self, number: u64, event: &Event) {
        match event {
            Event::Join { table, uid, reseed, target, options, schema, parts, from } => {
                let (reseed, options, parts, from) = (reseed.clone(), options.as_ref().clone(), parts.clone(), from.clone());
                let joined = TableState::new(uid.clone(), target.clone(), schema.clone(), number);
                let state = TableState { reseed, options, parts, from, ..joined };
                self.tables.insert(*table, state);
            }
            Event::Plan { table, incarnation, plan, .. } => {
                self.of(*table, *incarnation, |state| state.plan = Some(plan.clone()));
            }
            Event::Adopt { table, incarnation, .. } => self.of(*table, *incarnation, |state| state.adopted = true),
            Event::Passed { table, incarnation } => self.of(*table, *incarnation, |state| state.passed = Some(number)),
            Event::Exact { table, incarnation } => self.of(*table, *incarnation, |state| state.exact = Some(number)),
            Event::Fail { table, incarnation, fault } => self.of(*table, *incarnation, |state| state.fault = Some(fault.clone())),
            Event::Inherit { table, incarnation, uid, reseed } => self.of(*table, *incarnation, |state| {
                (state.uid, state.reseed, state.inherited) = (uid.clone(), reseed.clone(), false);
            }),
            Event::Leave { table } => {
                if let Some(state) = self.tables.get_mut(table) {
                    state.left = true;
                }
            }
        }
    }

    /// Events about an incarnation that has ended in the meantime say nothing of the new one.
    fn of(&mut self, table: u32, incarnation: u64, change: impl FnOnce(&mut TableState)) {
        if let Some(state) = self.tables.get_mut(&table).filter(|state| state.incarnation == incarnation) {
            change(state);
        }
    }

    /// The number of a table in this run: the one that it had, or the next.
    pub fn table_id(&self, source: &TableName) -> u32 {
        let known = self.tables.iter().find(|(_, state)| state.schema.name == *source).map(|(id, _)| *id);
        known.unwrap_or_else(|| self.tables.keys().next_back().map_or(1, |last| last + 1))
    }

    /// The table of that name, if it was ever in this run.
    pub fn table(&self, source: &TableName) -> Option<(u32, &TableState)> {
        self.tables.iter().find(|(_, state)| state.schema.name == *source).map(|(id, state)| (*id, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Travel, fixtures},
        landing::record::{RECORD_FORMAT, TableData},
    };

    fn schema(name: &str) -> TableSchema {
        fixtures::table(name, vec![], &[])
    }

    fn join(table: u32, name: &str) -> Event {
        Event::Join {
            table,
            uid: name.into(),
            reseed: None,
            target: TableName::new("public", name),
            options: Box::default(),
            schema: schema(name),
            parts: vec![],
            from: Position::default(),
        }
    }

    fn record(number: u64, term: u64, events: Vec<Event>) -> Record {
        Record {
            format_version: RECORD_FORMAT,
            run: 1,
            number,
            term,
            token: String::new(),
            plan_revision: 1,
            owner: "one".into(),
            source: Identity { system: "s".into(), timeline: 1, version: String::new() },
            to: Position(format!("{number:08}")),
            time: None,
            created: Timestamp::UNIX_EPOCH,
            events,
            data: vec![],
        }
    }

    #[test]
    fn refuses_a_gap_another_run_and_a_lower_term() {
        let mut state = RunState::new(1);
        state.fold(&record(1, 1, vec![])).unwrap();
        state.fold(&record(2, 2, vec![])).unwrap();
        assert!(state.fold(&record(4, 2, vec![])).is_err());
        assert!(state.fold(&record(3, 1, vec![])).is_err());
        assert!(state.fold(&Record { run: 2, ..record(3, 2, vec![]) }).is_err());
        assert_eq!(state.number, 2);
    }

    #[test]
    fn a_table_has_the_columns_of_the_record_that_one_is_at() {
        let column = |number: i32| fixtures::column(number, &number.to_string(), Travel::Int32);
        let version = |columns: i32| {
            let schema = fixtures::table("a", (1..=columns).map(column).collect(), &[]);
            Entry::Version(Box::new(TableVersion { schema, parts: vec![] }))
        };
        let versions = |number: u64, columns: &[i32]| {
            let entries = columns.iter().map(|columns| version(*columns)).collect();
            Record { data: vec![TableData { table: 1, incarnation: 1, entries }], ..record(number, 1, vec![]) }
        };
        let mut state = RunState::new(1);
        state.fold(&record(1, 1, vec![join(1, "a")])).unwrap();
        state.fold(&versions(2, &[1, 1, 3])).unwrap();
        state.fold(&record(3, 1, vec![])).unwrap();
        state.fold(&versions(4, &[4])).unwrap();
        let columns = |record| state.tables[&1].schema_after(record).columns.len();
        assert_eq!([1, 2, 3, 4, 5].map(columns), [0, 3, 3, 4, 4]);
        assert_eq!(state.tables[&1].joined().schema.columns.len(), 0);
        // What is said of a life that has ended says nothing of the next.
        state.fold(&record(5, 1, vec![join(1, "a")])).unwrap();
        state.fold(&versions(6, &[9])).unwrap();
        assert_eq!(state.tables[&1].schema.columns.len(), 0);
    }

    #[test]
    fn a_table_that_is_adopted_has_no_chunks_and_begins_anew_when_it_joins_again() {
        let mut state = RunState::new(1);
        let adopt = Event::Adopt { table: 1, incarnation: 1, v0: Position::default() };
        state.fold(&record(1, 1, vec![join(1, "a")])).unwrap();
        assert!(!state.tables[&1].planned() && !state.tables[&1].adopting());
        state.fold(&record(2, 1, vec![adopt.clone()])).unwrap();
        assert!(state.tables[&1].planned() && state.tables[&1].adopting() && state.tables[&1].plan.is_none());
        state.fold(&record(3, 1, vec![Event::Exact { table: 1, incarnation: 1 }])).unwrap();
        assert!(state.tables[&1].planned() && !state.tables[&1].adopting());
        // A late word about the incarnation before.
        state.fold(&record(4, 1, vec![join(1, "a")])).unwrap();
        state.fold(&record(5, 1, vec![adopt])).unwrap();
        assert!(!state.tables[&1].planned());
    }

    #[test]
    fn tables_of_a_former_link_go_on_as_those_of_the_next() {
        let of = |owner: &str, number: u64, events: Vec<Event>| Record { owner: owner.into(), ..record(number, 1, events) };
        let inherit = |uid: &str| Event::Inherit { table: 1, incarnation: 1, uid: uid.into(), reseed: Some("x".into()) };
        let mut state = RunState::new(1);
        state.fold(&of("", 1, vec![join(1, "a"), Event::Exact { table: 1, incarnation: 1 }])).unwrap();
        state.fold(&of("one", 2, vec![])).unwrap();
        assert!(!state.tables[&1].inherited, "a former version did not say whose it was");
        state.fold(&of("two", 3, vec![])).unwrap();
        assert!(state.tables[&1].inherited);
        state.fold(&of("two", 4, vec![inherit("b")])).unwrap();
        let table = &state.tables[&1];
        assert_eq!((table.uid.as_str(), table.reseed.as_deref(), table.inherited, table.incarnation), ("b", Some("x"), false, 1));
        assert_eq!(table.exact, Some(1));
    }

    #[test]
    fn a_table_that_joins_again_keeps_its_number_and_loses_its_past() {
        let mut state = RunState::new(1);
        state.fold(&record(1, 1, vec![join(1, "a"), join(2, "b")])).unwrap();
        state.fold(&record(2, 1, vec![Event::Exact { table: 1, incarnation: 1 }, Event::Leave { table: 2 }])).unwrap();
        assert_eq!(state.tables[&1].exact, Some(2));
        assert!(!state.tables[&2].followed());
        assert_eq!((state.table_id(&TableName::new("public", "b")), state.table_id(&TableName::new("public", "c"))), (2, 3));

        state.fold(&record(3, 1, vec![join(1, "a")])).unwrap();
        assert_eq!((state.tables[&1].incarnation, state.tables[&1].exact), (3, None));
        // A late word about the incarnation before.
        state.fold(&record(4, 1, vec![Event::Exact { table: 1, incarnation: 1 }])).unwrap();
        assert_eq!(state.tables[&1].exact, None);
    }
}
