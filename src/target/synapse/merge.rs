//! Netted changes into a table: staged first, by load files and COPY, then moved by few statements in one transaction.
//!
//! A row that changed is deleted and inserted: a pool does the same for an update, cannot update the column that spreads a table's
//! rows, and keeps no key unique. Staged columns have names of our own (`c0`, `k0`); keys are compared by the key's own types.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{
    copy::{self, Kinds, Loading, Staging},
    file, progress, shape,
};
use crate::{
    api::link_table::TableOptions,
    data::{Besides, NetChanges, Step, TableName, TableSchema},
    sqlserver::{Class, Session, quote},
    target::{
        Error, Incarnation, Steps, TargetTable, besides,
        tds::{
            groups::{Groups, groups},
            kind::{self, Kind},
        },
    },
};

/// What is to be done in the transaction, in order.
#[derive(Debug)]
enum Act {
    /// A statement.
    Run(String),
    /// One whose rows are those that were written.
    Count(String),
    /// Fills in what only the target's rows have: so many rows, else the question says a key that is missing.
    Fill { sql: String, rows: u64, missing: String },
}

/// Changes that are staged, and wait for the transaction that moves them.
pub(super) struct Prepared {
    acts: Vec<Act>,
    /// The tables that they are staged in.
    staged: Vec<String>,
    name: TableName,
    key: Vec<String>,
}

/// Where changes go.
pub(super) struct Place<'a> {
    /// The table.
    pub(super) table: &'a TargetTable,
    /// Its life.
    pub(super) incarnation: Incarnation,
    /// Where its rows are: in place, or aside.
    pub(super) name: &'a TableName,
    /// The database's collation.
    pub(super) collation: &'a str,
}

/// Stages the steps, and makes the columns that they need. `number`: of the first table that the session stages them in.
pub(super) async fn prepare(
    session: &mut Session,
    place: &Place<'_>,
    schema: &TableSchema,
    mut steps: Steps<'_>,
    loading: &Loading<'_>,
    number: usize,
) -> Result<Prepared, Error> {
    let sql = Sql::new(place.name, schema.clone(), place.collation, &place.table.options);
    let key = sql.key.clone();
    let mut prepared = Prepared { acts: Vec::new(), staged: Vec::new(), name: place.name.clone(), key };
    let mut merge = Merge { sql, place, session, loading, number };
    while let Some(step) = steps.try_next().await? {
        match step {
            // A pool truncates in no transaction.
            Step::Truncate => prepared.acts.push(Act::Run(merge.sql.delete_all())),
            Step::Version(next) => {
                merge.add_columns(&next, &mut prepared.acts).await?;
                merge.sql = Sql::new(place.name, next, place.collation, &place.table.options);
            }
            Step::Merge(changes) if changes.is_empty() => {}
            Step::Merge(changes) => merge.stage(&changes, &mut prepared).await?,
        }
    }
    Ok(prepared)
}

impl Prepared {
    /// How many tables the session stages them in.
    pub(super) fn tables(&self) -> usize {
        self.staged.len()
    }

    /// Moves what is staged, in the session's transaction. Returns the rows deleted and written.
    pub(super) async fn apply(&self, session: &mut Session) -> Result<u64, Error> {
        let mut written = 0;
        for act in &self.acts {
            match act {
                Act::Run(sql) => {
                    session.run(sql).await?;
                }
                Act::Count(sql) => written += session.run(sql).await?,
                Act::Fill { sql, rows, missing } => {
                    if session.run(sql).await? != *rows {
                        let rows = session.query(missing).await?;
                        let key = rows.first().map(|row| self.key_of(row)).unwrap_or_default();
                        return Err(Error::TargetInconsistent(format!(
                            "{} has no row with key ({}) = ({key}), which a change leaves in part as it was",
                            self.name,
                            self.key.join(", ")
                        )));
                    }
                }
            }
        }
        Ok(written)
    }

    fn key_of(&self, row: &crate::sqlserver::Row) -> String {
        (0..self.key.len()).map(|at| row.text(at).unwrap_or_default()).collect::<Vec<_>>().join(", ")
    }

    /// Drops what they were staged in; the session may be used again.
    pub(super) async fn drop(&self, session: &mut Session) -> Result<(), Error> {
        for table in &self.staged {
            session.run(&format!("DROP TABLE {table}")).await?;
        }
        Ok(())
    }
}

struct Merge<'a> {
    sql: Sql,
    place: &'a Place<'a>,
    session: &'a mut Session,
    loading: &'a Loading<'a>,
    /// Of the next table to stage in.
    number: usize,
}

impl Merge<'_> {
    /// Adds the columns by which `next` is wider: before the transaction, which takes no DDL. Readers see them empty until it
    /// gives the rows that are there what they read in the source. What is done already is known by a note of ours.
    async fn add_columns(&mut self, next: &TableSchema, acts: &mut Vec<Act>) -> Result<(), Error> {
        let kinds = shape::kinds(next, self.place.collation);
        shape::check(next, &kinds, &self.place.table.options)?;
        for (at, kind) in kinds.iter().enumerate().skip(self.sql.schema.columns.len()) {
            let column = &next.columns[at].name;
            let mut statements = kind::add_column(next, at, kind, &self.sql.table)?.into_iter();
            let add = statements.next().unwrap_or_default();
            let (Place { table, incarnation, name, .. }, session) = (self.place, &mut *self.session);
            let exists = || Error::TargetColumnExists { table: (*name).clone(), column: column.clone() };
            let is_there = !session.query(&progress::find_column(name, column)).await?.is_empty();
            let is_ours = !session.query(&progress::find_noted(table, *incarnation, column)).await?.is_empty();
            if is_there && !is_ours {
                return Err(exists());
            }
            if !is_ours {
                session.run(&progress::note_column(table, *incarnation, column)).await?;
            }
            if !is_there {
                session.run(&add).await.map_err(|failure| match failure.class {
                    Class::ObjectExists => exists(),
                    _ => failure.into(),
                })?;
            }
            acts.extend(statements.map(Act::Run));
        }
        Ok(())
    }

    async fn stage(&mut self, changes: &NetChanges, prepared: &mut Prepared) -> Result<(), Error> {
        let unresolved = !changes.unresolved.is_empty();
        if unresolved && changes.origins.num_rows() != changes.unresolved.len() {
            let name = self.place.name;
            return Err(Error::TargetInconsistent(format!("changes of {name} leave columns open that nothing can fill")));
        }
        let upserts = if changes.upserts.num_rows() > 0 { Some(self.stage_upserts(changes, prepared).await?) } else { None };
        if let Some(upserts) = upserts.as_ref().filter(|_| unresolved) {
            let Groups { groups, of } = groups(&changes.unresolved);
            let rows: ArrayRef = Arc::new(Int32Array::from_iter_values(changes.unresolved.iter().map(|row| row.row as i32)));
            let numbers = vec![("n", rows), ("g", Arc::new(Int32Array::from(of)) as ArrayRef)];
            let origins = self.stage_keys("link_origins", &changes.origins, numbers, prepared).await?;
            for (columns, (group, rows)) in groups {
                if let Some(column) = columns.iter().find(|column| usize::from(**column) >= self.sql.kinds.len()) {
                    let name = self.place.name;
                    return Err(Error::InputFailed(format!("a change names column {column} of {name}, which is not there")));
                }
                if !columns.is_empty() {
                    let sql = self.sql.fill(upserts, &origins, columns, group);
                    prepared.acts.push(Act::Fill { sql, rows, missing: self.sql.missing(&origins, group) });
                }
            }
        }
        if changes.deletes.num_rows() > 0 {
            let deletes = self.stage_keys("link_deletes", &changes.deletes, Vec::new(), prepared).await?;
            prepared.acts.push(Act::Count(self.sql.delete(&deletes, |place| format!("[k{place}]"))));
        }
        if let Some(upserts) = upserts {
            let key = self.sql.schema.key.clone();
            prepared.acts.push(Act::Run(self.sql.delete(&upserts, |place| format!("[c{}]", key[place]))));
            prepared.acts.push(Act::Count(self.sql.insert(&upserts)));
        }
        Ok(())
    }

    /// The table's columns as `c0`, `c1` …, and each row's number as `n` if rows must be found again.
    async fn stage_upserts(&mut self, changes: &NetChanges, prepared: &mut Prepared) -> Result<String, Error> {
        let all: Vec<usize> = (0..self.sql.kinds.len()).collect();
        let unresolved = !changes.unresolved.is_empty();
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..changes.upserts.num_rows() as i32));
        let numbers: Vec<(&str, ArrayRef)> = if unresolved { vec![("n", numbers)] } else { vec![] };
        // Nor in a staged table can the column be updated that spreads its rows.
        let alongside = self.sql.alongside.filter(|_| !unresolved).map(|at| format!("c{at}"));
        let staged = self.load("link_upserts", 'c', &all, &changes.upserts, changes.beside.clone(), numbers, alongside, prepared).await?;
        if let Some(twice) = self.sql.alike(&staged)
            && let Some(row) = self.session.query(&twice).await?.first()
        {
            return Err(Error::TargetInconsistent(format!(
                "rows of {} with key ({}) = ({}) and another spelling of it came at once: which is the newer one cannot be told",
                self.place.name,
                self.sql.key.join(", "),
                prepared.key_of(row)
            )));
        }
        Ok(staged)
    }

    /// A table of keys, their columns as `k0`, `k1` … in key order.
    async fn stage_keys(
        &mut self,
        what: &str,
        keys: &RecordBatch,
        numbers: Vec<(&str, ArrayRef)>,
        prepared: &mut Prepared,
    ) -> Result<String, Error> {
        let key = self.sql.schema.key.clone();
        let alongside = self.sql.alongside.and_then(|at| key.iter().position(|column| *column == at)).map(|place| format!("k{place}"));
        self.load(what, 'k', &key, keys, besides(keys)?, numbers, alongside, prepared).await
    }

    #[expect(clippy::too_many_arguments, reason = "what is staged, and how: each of another sort")]
    async fn load(
        &mut self,
        what: &str,
        letter: char,
        places: &[usize],
        batch: &RecordBatch,
        beside: Besides,
        numbers: Vec<(&str, ArrayRef)>,
        alongside: Option<String>,
        prepared: &mut Prepared,
    ) -> Result<String, Error> {
        let Some(columns) = batch.columns().get(..places.len()) else {
            let (found, needed) = (batch.num_columns(), places.len());
            return Err(Error::InputFailed(format!("a batch has {found} columns where {needed} are needed")));
        };
        let staged = format!("#{what}{}", self.number);
        self.number += 1;
        let (names, numbers): (Vec<&str>, Vec<ArrayRef>) = numbers.into_iter().unzip();
        let Sql { schema, kinds, .. } = &self.sql;
        self.session.run(&copy::create(&staged, &self.sql.as_staged(), letter, places, &names, alongside.as_deref())).await?;
        prepared.staged.push(staged.clone());
        let arrays: Vec<ArrayRef> = columns.iter().cloned().chain(numbers).collect();
        let sent = copy::columns(schema, kinds, letter, places, &names);
        let batches = futures::stream::once(async { Ok((arrays, beside)) }).boxed();
        Staging::new(self.loading, &staged, sent, &self.place.name.to_string()).load(self.session, batches).await?;
        Ok(staged)
    }
}

/// The statements that a table's changes are applied by. Pure.
pub(super) struct Sql {
    table: String,
    schema: TableSchema,
    /// As values are staged.
    kinds: Vec<Kind>,
    columns: Vec<String>,
    key: Vec<String>,
    /// The column by which staged rows lie where those of the table do.
    alongside: Option<usize>,
    /// The database's.
    collation: String,
}

impl Sql {
    pub(super) fn new(name: &TableName, schema: TableSchema, collation: &str, options: &TableOptions) -> Self {
        let kinds = shape::kinds(&schema, collation);
        let alongside = shape::alongside(&schema, &kinds, options);
        let (columns, key) = (kind::columns(&schema), kind::key_columns(&schema));
        Self {
            table: quote::table(name),
            schema,
            kinds: kinds.iter().map(file::of_staged).collect(),
            columns,
            key,
            alongside,
            collation: collation.to_owned(),
        }
    }

    fn as_staged(&self) -> Kinds<'_> {
        Kinds { kinds: &self.kinds, collation: &self.collation }
    }

    /// Makes a table to stage whole rows in.
    pub(super) fn create_staged(&self, staged: &str) -> String {
        let all: Vec<usize> = (0..self.kinds.len()).collect();
        copy::create(staged, &self.as_staged(), 'c', &all, &[], self.alongside.map(|at| format!("c{at}")).as_deref())
    }

    /// What is loaded into it.
    pub(super) fn staged_columns(&self) -> Vec<file::Column> {
        let all: Vec<usize> = (0..self.kinds.len()).collect();
        copy::columns(&self.schema, &self.kinds, 'c', &all, &[])
    }

    pub(super) fn delete_all(&self) -> String {
        format!("DELETE FROM {}", self.table)
    }

    fn same_key(&self, of: &str, other: &str, staged: impl Fn(usize) -> String) -> String {
        kind::same_key(&self.schema, &self.kinds, of, other, staged)
    }

    /// Deletes all rows whose key is among those of a staged table, the columns of which `name` gives by the key's place. The pool
    /// knows the table by no other name there.
    pub(super) fn delete(&self, staged: &str, name: impl Fn(usize) -> String) -> String {
        let same_key = self.same_key(&self.table, "d", name);
        format!("DELETE FROM {} WHERE EXISTS (SELECT 1 FROM {staged} d WHERE {same_key})", self.table)
    }

    /// Fills in columns of rows of a group of `origins`.
    pub(super) fn fill(&self, upserts: &str, origins: &str, columns: &[u16], group: i32) -> String {
        let sets = columns.iter().map(|&column| {
            let at = usize::from(column);
            format!("[c{at}] = {}", file::to_staged(&self.kinds[at], &format!("t.{}", self.columns[at])))
        });
        let same_key = self.same_key("t", "o", |place| format!("[k{place}]"));
        format!(
            "UPDATE {upserts} SET {} FROM {upserts} JOIN {origins} AS o ON {upserts}.[n] = o.[n] AND o.[g] = {group} JOIN {} AS t ON {same_key}",
            sets.collect::<Vec<_>>().join(", "),
            self.table
        )
    }

    /// Asks for a key of a group of `origins` that the table does not have.
    pub(super) fn missing(&self, origins: &str, group: i32) -> String {
        let key: Vec<String> = (0..self.key.len()).map(|place| format!("CONVERT(nvarchar(4000), o.[k{place}])")).collect();
        let same_key = self.same_key("t", "o", |place| format!("[k{place}]"));
        format!(
            "SELECT TOP (1) {} FROM {origins} o WHERE o.[g] = {group} AND NOT EXISTS (SELECT 1 FROM {} t WHERE {same_key})",
            key.join(", "),
            self.table
        )
    }

    /// Asks for a key that several staged rows have, where texts that differ are one key: a source tells such rows apart.
    pub(super) fn alike(&self, upserts: &str) -> Option<String> {
        let loose = |&at: &usize| self.schema.system == "sqlserver" && self.schema.columns[at].collation.is_some();
        if !self.schema.key.iter().any(loose) {
            return None;
        }
        let group: Vec<String> = self.schema.key.iter().map(|&at| self.kinds[at].value(&format!("u.[c{at}]"))).collect();
        let shown: Vec<String> = self.schema.key.iter().map(|at| format!("MAX(CONVERT(nvarchar(4000), u.[c{at}]))")).collect();
        Some(format!("SELECT TOP (1) {} FROM {upserts} u GROUP BY {} HAVING COUNT(*) > 1", shown.join(", "), group.join(", ")))
    }

    /// Inserts the staged rows.
    pub(super) fn insert(&self, upserts: &str) -> String {
        let values: Vec<String> = self.kinds.iter().enumerate().map(|(at, kind)| kind.value(&format!("u.[c{at}]"))).collect();
        format!("INSERT INTO {} ({}) SELECT {} FROM {upserts} u", self.table, self.columns.join(", "), values.join(", "))
    }

    /// Asks for a key that two rows of the table have: nothing in the pool keeps it from that.
    pub(super) fn twice(&self) -> String {
        let shown: Vec<String> = self.key.iter().map(|key| format!("CONVERT(nvarchar(4000), t.{key})")).collect();
        let group: Vec<String> = self.key.iter().map(|key| format!("t.{key}")).collect();
        format!("SELECT TOP (1) {} FROM {} t GROUP BY {} HAVING COUNT(*) > 1", shown.join(", "), self.table, group.join(", "))
    }
}
