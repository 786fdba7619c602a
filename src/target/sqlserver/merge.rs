//! Netted changes into a table: staged by bulk loads in temporary tables, then resolved, deleted and inserted set by set.
//!
//! Staged columns have names of our own (`c0`, `k0`), so no column of the user's can clash with them; keys are compared by
//! the key's own types.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use futures::TryStreamExt;

use super::load::{self, Batch, Column};
use crate::{
    data::{Besides, NetChanges, Step, TableName, TableSchema},
    sqlserver::{Class, Session, quote},
    target::{
        Error, LargeValues, Steps, besides,
        tds::{
            groups::{Groups, groups},
            kind::{self, Kind, Types},
        },
    },
};

/// What the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In place, its key unique.
    InPlace,
    /// Aside: a row may be missing or there twice, and no index is there.
    Aside,
}

/// The tables that rows are staged in.
const UPSERTS: &str = "#link_upserts";
const DELETES: &str = "#link_deletes";
const ORIGINS: &str = "#link_origins";

/// Applies the steps in order. Returns the rows deleted and written.
pub(super) async fn apply(
    session: &mut Session,
    name: &TableName,
    schema: &TableSchema,
    types: Types,
    mut steps: Steps<'_>,
    place: Place,
    values: Option<&dyn LargeValues>,
) -> Result<u64, Error> {
    let mut merge = Merge { sql: Sql::new(name, schema.clone(), types, place), session, name, types, values };
    let mut written = 0;
    while let Some(step) = steps.try_next().await? {
        match &step {
            Step::Truncate => {
                let bound = merge.session.query(&merge.sql.asks_truncate()).await?;
                merge.session.run(&merge.sql.truncate(bound.is_empty())).await?;
            }
            Step::Version(next) => {
                merge.add_columns(next).await?;
                merge.sql = Sql::new(name, next.clone(), types, place);
            }
            Step::Merge(changes) if changes.is_empty() => {}
            Step::Merge(changes) => written += merge.merge(changes).await?,
        }
    }
    Ok(written)
}

struct Merge<'t> {
    session: &'t mut Session,
    name: &'t TableName,
    types: Types,
    sql: Sql,
    values: Option<&'t dyn LargeValues>,
}

impl Merge<'_> {
    /// Adds the columns by which `next` is wider. Rows that are there read what they read in the source, and rows that come bring
    /// their own values.
    async fn add_columns(&mut self, next: &TableSchema) -> Result<(), Error> {
        let kinds = Kind::all(next, self.types);
        for (at, kind) in kinds.iter().enumerate().skip(self.sql.schema.columns.len()) {
            for statement in kind::add_column(next, at, kind, &self.sql.table)? {
                self.session.run(&statement).await.map_err(|failure| match failure.class {
                    Class::ObjectExists => Error::TargetColumnExists { table: self.name.clone(), column: next.columns[at].name.clone() },
                    _ => failure.into(),
                })?;
            }
        }
        Ok(())
    }

    async fn merge(&mut self, changes: &NetChanges) -> Result<u64, Error> {
        let mut written = 0;
        let (deletes, upserts) = (changes.deletes.num_rows() > 0, changes.upserts.num_rows() > 0);
        if upserts {
            self.stage_upserts(changes).await?;
        }
        if !changes.unresolved.is_empty() {
            self.resolve(changes).await?;
        }
        if deletes {
            self.stage_keys(DELETES, &changes.deletes, Vec::new()).await?;
            written += self.session.run(&self.sql.delete(DELETES, |place| format!("[k{place}]"))).await?;
        }
        if upserts {
            written += self.upsert(changes.upserts.num_rows() as u64).await?;
        }
        // The next step stages under the same names, and the session is kept.
        let staged = [(upserts, UPSERTS), (deletes, DELETES), (!changes.unresolved.is_empty(), ORIGINS)];
        let drops: Vec<String> = staged.iter().filter(|(is, _)| *is).map(|(_, name)| format!("DROP TABLE {name}")).collect();
        self.session.run(&drops.join("; ")).await?;
        Ok(written)
    }

    /// The table's columns as `c0`, `c1` …, and each row's number as `n` if rows must be found again.
    async fn stage_upserts(&mut self, changes: &NetChanges) -> Result<(), Error> {
        let all: Vec<usize> = (0..self.sql.kinds.len()).collect();
        let numbers = Int32Array::from_iter_values(0..changes.upserts.num_rows() as i32);
        let numbers: Vec<(&str, ArrayRef)> = if changes.unresolved.is_empty() { vec![] } else { vec![("n", Arc::new(numbers))] };
        self.stage(UPSERTS, 'c', &all, &changes.upserts, changes.beside.clone(), numbers).await
    }

    /// A table of keys, their columns as `k0`, `k1` … in key order.
    async fn stage_keys(&mut self, staged: &str, keys: &RecordBatch, numbers: Vec<(&str, ArrayRef)>) -> Result<(), Error> {
        let key = self.sql.schema.key.clone();
        self.stage(staged, 'k', &key, keys, besides(keys)?, numbers).await
    }

    async fn stage(
        &mut self,
        staged: &str,
        letter: char,
        columns: &[usize],
        batch: &RecordBatch,
        beside: Besides,
        numbers: Vec<(&str, ArrayRef)>,
    ) -> Result<(), Error> {
        let (names, numbers): (Vec<&str>, Vec<ArrayRef>) = numbers.into_iter().unzip();
        self.session.run(&self.sql.create_staged(staged, letter, columns, &names)).await?;
        let Sql { schema, kinds, .. } = &self.sql;
        let sent = columns.iter().enumerate().map(|(place, &at)| Column::staged(schema, at, &kinds[at], format!("{letter}{place}")));
        let sent = sent.chain(names.iter().map(|name| Column::number(name))).collect();
        let batch = load::only(Batch::new(batch, columns.len(), beside, numbers)?);
        load::load(self.session, staged, sent, false, batch, &self.name.to_string(), self.values).await?;
        Ok(())
    }

    /// Fills in what only the target's rows have, from the rows under their keys before these changes.
    async fn resolve(&mut self, changes: &NetChanges) -> Result<(), Error> {
        if changes.origins.num_rows() != changes.unresolved.len() {
            return Err(Error::TargetInconsistent(format!("changes of {} leave columns open that nothing can fill", self.name)));
        }
        let Groups { groups, of } = groups(&changes.unresolved);
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(changes.unresolved.iter().map(|row| row.row as i32)));
        self.stage_keys(ORIGINS, &changes.origins, vec![("n", numbers), ("g", Arc::new(Int32Array::from(of)))]).await?;
        for (columns, (group, rows)) in groups {
            if let Some(column) = columns.iter().find(|column| usize::from(**column) >= self.sql.kinds.len()) {
                return Err(Error::InputFailed(format!("a change names column {column} of {}, which is not there", self.name)));
            }
            if !columns.is_empty() && self.session.run(&self.sql.fill(columns, group)).await? != rows {
                return Err(self.missing_origin(group).await?);
            }
        }
        Ok(())
    }

    async fn missing_origin(&mut self, group: i32) -> Result<Error, Error> {
        let rows = self.session.query(&self.sql.missing(group)).await?;
        let key = rows.first().map(|row| (0..self.sql.key.len()).map(|at| row.text(at).unwrap_or_default()).collect::<Vec<_>>());
        Ok(Error::TargetInconsistent(format!(
            "{} has no row with key ({}) = ({}), which a change leaves in part as it was",
            self.name,
            self.sql.key.join(", "),
            key.unwrap_or_default().join(", ")
        )))
    }

    async fn upsert(&mut self, rows: u64) -> Result<u64, Error> {
        if let Some(twice) = self.sql.alike()
            && let Some(row) = self.session.query(&twice).await?.first()
        {
            let key: Vec<String> = (0..self.sql.key.len()).map(|at| row.text(at).unwrap_or_default()).collect();
            return Err(Error::TargetInconsistent(format!(
                "rows of {} with key ({}) = ({}) and another spelling of it came at once: which is the newer one cannot be told",
                self.name,
                self.sql.key.join(", "),
                key.join(", ")
            )));
        }
        if self.sql.place == Place::Aside {
            let key = self.sql.schema.key.clone();
            self.session.run(&self.sql.delete(UPSERTS, |place| format!("[c{}]", key[place]))).await?;
            return Ok(self.session.run(&self.sql.insert(false)).await?);
        }
        let updated = match self.sql.update() {
            Some(update) => self.session.run(&update).await?,
            None => 0,
        };
        let inserted = if updated < rows { self.session.run(&self.sql.insert(true)).await? } else { 0 };
        Ok(updated + inserted)
    }
}

/// The statements that a table's changes are applied by. Pure.
pub(super) struct Sql {
    table: String,
    schema: TableSchema,
    kinds: Vec<Kind>,
    columns: Vec<String>,
    key: Vec<String>,
    place: Place,
}

impl Sql {
    pub(super) fn new(name: &TableName, schema: TableSchema, types: Types, place: Place) -> Self {
        let (kinds, columns, key) = (Kind::all(&schema, types), kind::columns(&schema), kind::key_columns(&schema));
        Self { table: quote::table(name), schema, kinds, columns, key, place }
    }

    /// Asks for what forbids to truncate the table: a foreign key that refers to it, a view that is stored with its rows, replication.
    pub(super) fn asks_truncate(&self) -> String {
        let table = quote::literal(&self.table);
        format!(
            "SELECT 1 FROM sys.foreign_keys WHERE [referenced_object_id] = OBJECT_ID({table}) \
             UNION ALL SELECT 1 FROM sys.tables WHERE [object_id] = OBJECT_ID({table}) AND [is_replicated] = 1 \
             UNION ALL SELECT 1 FROM sys.sql_expression_dependencies d JOIN sys.indexes i ON i.[object_id] = d.[referencing_id] \
             JOIN sys.views v ON v.[object_id] = d.[referencing_id] WHERE d.[referenced_id] = OBJECT_ID({table})"
        )
    }

    /// Readers wait until the transaction ends, which a batch bounds.
    pub(super) fn truncate(&self, allowed: bool) -> String {
        format!("{} {}", if allowed { "TRUNCATE TABLE" } else { "DELETE FROM" }, self.table)
    }

    pub(super) fn create_staged(&self, staged: &str, letter: char, columns: &[usize], numbers: &[&str]) -> String {
        let columns = columns.iter().enumerate().map(|(place, &at)| format!("[{letter}{place}] {} NULL", self.kinds[at].staged()));
        let columns: Vec<String> = columns.chain(numbers.iter().map(|name| format!("[{name}] int NULL"))).collect();
        format!("CREATE TABLE {staged} ({})", columns.join(", "))
    }

    /// Deletes all rows whose key is among those of a staged table, the columns of which `name` gives by the key's place.
    pub(super) fn delete(&self, staged: &str, name: impl Fn(usize) -> String) -> String {
        let same_key = kind::same_key(&self.schema, &self.kinds, "t", "d", name);
        format!("DELETE t FROM {} t JOIN {staged} d ON {same_key}", self.table)
    }

    /// Fills in columns of rows of a group of `origins`. Only a source whose types go as they are leaves columns open.
    pub(super) fn fill(&self, columns: &[u16], group: i32) -> String {
        let sets = columns.iter().map(|&column| format!("[c{column}] = t.{}", self.columns[usize::from(column)]));
        let same_key = kind::same_key(&self.schema, &self.kinds, "t", "o", |place| format!("[k{place}]"));
        format!(
            "UPDATE u SET {} FROM {UPSERTS} u JOIN {ORIGINS} o ON u.[n] = o.[n] AND o.[g] = {group} JOIN {} t ON {same_key}",
            sets.collect::<Vec<_>>().join(", "),
            self.table
        )
    }

    /// Asks for a key of a group of `origins` that the table does not have.
    pub(super) fn missing(&self, group: i32) -> String {
        let key: Vec<String> = (0..self.key.len()).map(|place| format!("CONVERT(nvarchar(4000), o.[k{place}])")).collect();
        let same_key = kind::same_key(&self.schema, &self.kinds, "t", "o", |place| format!("[k{place}]"));
        format!(
            "SELECT TOP (1) {} FROM {ORIGINS} o WHERE o.[g] = {group} AND NOT EXISTS (SELECT 1 FROM {} t WHERE {same_key})",
            key.join(", "),
            self.table
        )
    }

    /// Asks for a key that several staged rows have, where texts that differ are one key: a source tells such rows apart.
    pub(super) fn alike(&self) -> Option<String> {
        let loose = |&at: &usize| self.schema.system == "sqlserver" && self.schema.columns[at].collation.is_some();
        if !self.schema.key.iter().any(loose) {
            return None;
        }
        let group: Vec<String> = self.schema.key.iter().map(|&at| self.kinds[at].value(&format!("u.[c{at}]"))).collect();
        let shown: Vec<String> = self.schema.key.iter().map(|at| format!("MAX(CONVERT(nvarchar(4000), u.[c{at}]))")).collect();
        Some(format!("SELECT TOP (1) {} FROM {UPSERTS} u GROUP BY {} HAVING COUNT(*) > 1", shown.join(", "), group.join(", ")))
    }

    fn upserts_key(&self) -> String {
        kind::same_key(&self.schema, &self.kinds, "t", "u", |place| format!("[c{}]", self.schema.key[place]))
    }

    /// Brings rows that are there up to date; none if all columns are of the key. A text of the key is written too where texts that
    /// differ are one key.
    pub(super) fn update(&self) -> Option<String> {
        let spelled = |at: usize| self.schema.system == "sqlserver" && self.kinds[at].collation.is_some();
        let written = (0..self.columns.len()).filter(|&at| !self.schema.key.contains(&at) || spelled(at));
        let sets: Vec<String> =
            written.map(|at| format!("{} = {}", self.columns[at], self.kinds[at].value(&format!("u.[c{at}]")))).collect();
        let update = format!("UPDATE t SET {} FROM {} t JOIN {UPSERTS} u ON {}", sets.join(", "), self.table, self.upserts_key());
        (!sets.is_empty()).then_some(update)
    }

    /// Inserts the staged rows; `new`: those whose key is not there.
    pub(super) fn insert(&self, new: bool) -> String {
        let values: Vec<String> = self.kinds.iter().enumerate().map(|(at, kind)| kind.value(&format!("u.[c{at}]"))).collect();
        let which =
            if new { format!(" WHERE NOT EXISTS (SELECT 1 FROM {} t WHERE {})", self.table, self.upserts_key()) } else { String::new() };
        format!("INSERT INTO {} ({}) SELECT {} FROM {UPSERTS} u{which}", self.table, self.columns.join(", "), values.join(", "))
    }
}
