//! Netted changes into a table: staged by COPY in temporary tables, then resolved, deleted and inserted set by set.
//!
//! Staged columns have names of our own (`c0`, `k0`), so no column of the user's can clash with them; keys are compared by
//! the key's own types, never as text.

use std::collections::BTreeMap;

use arrow::array::{Int32Array, RecordBatch};
use futures::TryStreamExt;
use tokio_postgres::{SimpleQueryMessage, Transaction};

use super::{copy::Copy, ddl, encode::Rows, error::is_duplicate_column};
use crate::{
    data::{Besides, NetChanges, Step, TableName, TableSchema},
    postgresql::quote,
    target::{Error, LargeValues, Steps, besides},
};

/// What the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In place, its key unique.
    InPlace,
    /// Aside: a row may be missing or there twice, and no index is there.
    Aside,
}

/// Applies the steps in order. Returns the rows deleted and written.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    name: &TableName,
    schema: &TableSchema,
    mut steps: Steps<'_>,
    place: Place,
    values: Option<&dyn LargeValues>,
) -> Result<u64, Error> {
    let mut merge = Merge::new(transaction, name, schema.clone(), place, values);
    let mut written = 0;
    while let Some(step) = steps.try_next().await? {
        match &step {
            // Readers wait until the transaction ends, which a batch bounds; they must not queue behind a long wait for the lock.
            Step::Truncate => {
                transaction
                    .batch_execute(&format!("SET LOCAL lock_timeout = '5s'; TRUNCATE {}; SET LOCAL lock_timeout TO DEFAULT", merge.table))
                    .await?;
            }
            Step::Version(next) => {
                merge.add_columns(next).await?;
                merge = Merge::new(transaction, name, next.clone(), place, values);
            }
            Step::Merge(changes) if changes.is_empty() => {}
            Step::Merge(changes) => written += merge.merge(changes).await?,
        }
    }
    Ok(written)
}

struct Merge<'t> {
    transaction: &'t Transaction<'t>,
    name: &'t TableName,
    table: String,
    schema: TableSchema,
    columns: Vec<String>,
    key: Vec<String>,
    place: Place,
    values: Option<&'t dyn LargeValues>,
}

impl<'t> Merge<'t> {
    fn new(
        transaction: &'t Transaction<'t>,
        name: &'t TableName,
        schema: TableSchema,
        place: Place,
        values: Option<&'t dyn LargeValues>,
    ) -> Self {
        let (columns, key) = (ddl::columns(&schema), ddl::key_columns(&schema));
        Self { transaction, name, table: quote::table(name), schema, columns, key, place, values }
    }

    /// Adds the columns by which `next` is wider. Rows that are there read what they read in the source; it is not written into
    /// them, so this takes no time, and rows that come bring their own values.
    async fn add_columns(&self, next: &TableSchema) -> Result<(), Error> {
        for column in &next.columns[self.schema.columns.len().min(next.columns.len())..] {
            let sql = ddl::add_column(next, column, &self.table);
            // Readers must not queue behind a long wait for the lock.
            let added = self.transaction.batch_execute(&format!("SET LOCAL lock_timeout = '5s'; {sql}")).await;
            added.map_err(|error| {
                if is_duplicate_column(&error) {
                    Error::TargetColumnExists { table: self.name.clone(), column: column.name.clone() }
                } else {
                    Error::from(&error)
                }
            })?;
        }
        Ok(())
    }

    async fn merge(&self, changes: &NetChanges) -> Result<u64, Error> {
        let mut written = 0;
        let (deletes, upserts) = (changes.deletes.num_rows() > 0, changes.upserts.num_rows() > 0);
        if upserts {
            self.stage_upserts(changes).await?;
        }
        if !changes.unresolved.is_empty() {
            self.resolve(changes).await?;
        }
        if deletes {
            self.stage_keys("link_deletes", &changes.deletes, &[]).await?;
            written += self.delete("SELECT * FROM pg_temp.link_deletes").await?;
        }
        if upserts {
            written += self.upsert(changes).await?;
        }
        // The next step stages under the same names.
        self.transaction.batch_execute("DROP TABLE IF EXISTS pg_temp.link_deletes, pg_temp.link_upserts, pg_temp.link_origins").await?;
        Ok(written)
    }

    /// `link_upserts`: the table's columns as `c0`, `c1` …, and each row's number as `n` if rows must be found again.
    async fn stage_upserts(&self, changes: &NetChanges) -> Result<(), Error> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let numbers = (!changes.unresolved.is_empty()).then(|| Int32Array::from_iter_values(0..changes.upserts.num_rows() as i32));
        let numbers: Vec<(&str, &Int32Array)> = numbers.iter().map(|array| ("n", array)).collect();
        self.stage("link_upserts", "c", &all, &changes.upserts, &changes.beside, &numbers).await
    }

    /// A table of keys, their columns as `k0`, `k1` … in key order.
    async fn stage_keys(&self, staged: &str, keys: &RecordBatch, numbers: &[(&str, &Int32Array)]) -> Result<(), Error> {
        let beside = besides(keys)?;
        self.stage(staged, "k", &self.schema.key, keys, &beside, numbers).await
    }

    async fn stage(
        &self,
        staged: &str,
        letter: &str,
        columns: &[usize],
        batch: &RecordBatch,
        beside: &Besides,
        numbers: &[(&str, &Int32Array)],
    ) -> Result<(), Error> {
        let mut names: Vec<String> = (0..columns.len()).map(|at| format!("{letter}{at}")).collect();
        let types = columns.iter().map(|&column| ddl::column_type(&self.schema, &self.schema.columns[column]));
        let mut definitions: Vec<String> = names.iter().zip(types).map(|(name, kind)| format!("{name} {kind}")).collect();
        for (name, _) in numbers {
            names.push((*name).to_owned());
            definitions.push(format!("{name} integer"));
        }
        let create = format!("CREATE TEMPORARY TABLE {staged} ({}) ON COMMIT DROP", definitions.join(", "));
        self.transaction.batch_execute(&create).await?;
        let numbers: Vec<&Int32Array> = numbers.iter().map(|(_, array)| *array).collect();
        let mut copy = Copy::into(self.transaction, &format!("pg_temp.{staged}"), &names, self.values);
        copy.write(&Rows::new(&self.schema, columns, batch, beside, &numbers)?).await?;
        copy.finish().await?;
        Ok(())
    }

    /// Fills in what only the target's rows have, from the rows under their keys before these changes.
    async fn resolve(&self, changes: &NetChanges) -> Result<(), Error> {
        if changes.origins.num_rows() != changes.unresolved.len() {
            return Err(Error::TargetInconsistent(format!("changes of {} leave columns open that nothing can fill", self.name)));
        }
        // Rows that miss the same columns are filled by one statement; there are few such groups (the large columns).
        let mut groups: BTreeMap<&[u16], (i32, u64)> = BTreeMap::new();
        let mut group_of = Vec::with_capacity(changes.unresolved.len());
        for row in &changes.unresolved {
            let next = groups.len() as i32;
            let group = groups.entry(&row.columns).or_insert((next, 0));
            group.1 += 1;
            group_of.push(group.0);
        }
        let numbers = Int32Array::from_iter_values(changes.unresolved.iter().map(|row| row.row as i32));
        self.stage_keys("link_origins", &changes.origins, &[("n", &numbers), ("g", &Int32Array::from(group_of))]).await?;
        let same_key = self.same_key("o");
        for (columns, (group, rows)) in groups {
            let sets: Vec<String> = columns
                .iter()
                .map(|&column| match self.columns.get(usize::from(column)) {
                    Some(name) => Ok(format!("c{column} = t.{name}")),
                    None => Err(Error::InputFailed(format!("a change names column {column} of {}, which is not there", self.name))),
                })
                .collect::<Result<_, _>>()?;
            if sets.is_empty() {
                continue;
            }
            let fill = format!(
                "UPDATE pg_temp.link_upserts u SET {} FROM pg_temp.link_origins o JOIN {} t ON {same_key} WHERE u.n = o.n AND o.g = {group}",
                sets.join(", "),
                self.table
            );
            if self.run(&fill).await? != rows {
                return Err(self.missing_origin(group).await?);
            }
        }
        Ok(())
    }

    async fn missing_origin(&self, group: i32) -> Result<Error, Error> {
        let key: Vec<String> = (0..self.key.len()).map(|at| format!("o.k{at}::text")).collect();
        let sql = format!(
            "SELECT concat_ws(', ', {}) FROM pg_temp.link_origins o WHERE o.g = {group} AND NOT EXISTS (SELECT FROM {} t WHERE {}) LIMIT 1",
            key.join(", "),
            self.table,
            self.same_key("o")
        );
        let key = self.transaction.query_opt(&sql, &[]).await?.and_then(|row| row.get::<_, Option<String>>(0)).unwrap_or_default();
        let columns = self.key.join(", ");
        Ok(Error::TargetInconsistent(format!(
            "{} has no row with key ({columns}) = ({key}), which a change leaves in part as it was",
            self.name
        )))
    }

    /// Deletes all rows whose key is among `keys`, a query that yields the key's columns in key order.
    async fn delete(&self, keys: &str) -> Result<u64, Error> {
        let names: Vec<String> = (0..self.key.len()).map(|at| format!("k{at}")).collect();
        self.run_by_key(&format!("DELETE FROM {} t USING ({keys}) AS d ({}) WHERE {}", self.table, names.join(", "), self.same_key("d")))
            .await
    }

    async fn upsert(&self, changes: &NetChanges) -> Result<u64, Error> {
        let others: Vec<(usize, &String)> = self.columns.iter().enumerate().filter(|(at, _)| !self.schema.key.contains(at)).collect();
        let sets = |staged: &dyn Fn(usize, &str) -> String| {
            let sets: Vec<String> = others.iter().map(|(at, name)| format!("{name} = {}", staged(*at, name))).collect();
            sets.join(", ")
        };
        if self.place == Place::Aside {
            let key: Vec<String> = self.schema.key.iter().map(|column| format!("c{column}")).collect();
            self.delete(&format!("SELECT {} FROM pg_temp.link_upserts", key.join(", "))).await?;
            return self.insert("").await;
        }
        let conflict = format!("ON CONFLICT ({}) DO", self.key.join(", "));
        if others.is_empty() {
            return self.insert(&format!("{conflict} NOTHING")).await;
        }
        if changes.updates == 0 {
            return self.insert(&format!("{conflict} UPDATE SET {}", sets(&|_, name| format!("EXCLUDED.{name}")))).await;
        }
        // Two to four times as fast as an upsert of rows that are there.
        let pairs: Vec<String> = self.schema.key.iter().zip(&self.key).map(|(column, name)| format!("t.{name} = u.c{column}")).collect();
        let sets = sets(&|at, _| format!("u.c{at}"));
        let update = format!("UPDATE {} t SET {sets} FROM pg_temp.link_upserts u WHERE {}", self.table, pairs.join(" AND "));
        let mut written = self.run_by_key(&update).await?;
        if written < changes.upserts.num_rows() as u64 {
            written += self.insert(&format!("{conflict} NOTHING")).await?;
        }
        Ok(written)
    }

    async fn insert(&self, conflict: &str) -> Result<u64, Error> {
        let staged: Vec<String> = (0..self.columns.len()).map(|at| format!("c{at}")).collect();
        self.run(&format!(
            "INSERT INTO {} ({}) SELECT {} FROM pg_temp.link_upserts {conflict}",
            self.table,
            self.columns.join(", "),
            staged.join(", ")
        ))
        .await
    }

    /// The condition that row `t` of the table has the key that staged row `other` has in `k0`, `k1` …
    fn same_key(&self, other: &str) -> String {
        let pairs: Vec<String> = self.key.iter().enumerate().map(|(at, name)| format!("t.{name} = {other}.k{at}")).collect();
        pairs.join(" AND ")
    }

    /// Runs a statement that finds the rows of the table by staged keys: in place, by its index. What is staged has no statistics,
    /// and the planner would rather read the whole table; but keys come in order, and neighbours share pages.
    async fn run_by_key(&self, sql: &str) -> Result<u64, Error> {
        match self.place {
            Place::Aside => self.run(sql).await,
            Place::InPlace => {
                let joins = |value: &str| format!("SET LOCAL enable_hashjoin = {value}; SET LOCAL enable_mergejoin = {value}");
                self.run(&format!("{}; {sql}; {}", joins("off"), joins("DEFAULT"))).await
            }
        }
    }

    /// Runs statements in one round trip. Returns the rows that they changed.
    async fn run(&self, sql: &str) -> Result<u64, Error> {
        let messages = self.transaction.simple_query(sql).await?;
        Ok(messages.iter().map(|message| if let SimpleQueryMessage::CommandComplete(rows) = message { *rows } else { 0 }).sum())
    }
}
