//! From the stream's messages to cuts: rows a table, in commit order.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use jiff::Timestamp;

use super::{
    catalog::TypeId,
    lsn::Lsn,
    pgoutput::{Cell, Malformed, Message, Relation},
    replication,
    rows::RowsBuilder,
};
use crate::{
    data::{Op, TableName, TableSchema, Travel},
    protection::Protection,
    source::{CapturedTable, Cut, CutTable, Error, Segment},
};

/// How types travel, by what the stream calls them.
pub type Types = HashMap<TypeId, (Travel, String)>;

/// What happened to each table, and the tables that broke.
type Gathered = (Vec<CutTable>, Vec<(u32, Error)>);

/// Gathers changes until a cut is taken.
pub struct Assembler {
    /// Every table that the stream described: it does so only once a session.
    relations: HashMap<u32, Relation>,
    /// Types of columns of `relations`; one that is gone is not in it.
    types: Types,
    /// Tables to deliver, by oid.
    followed: HashMap<u32, Followed>,
    /// Whether a transaction's changes are arriving.
    open: bool,
    /// Where the newest transaction's commit stands in the log.
    commit: Lsn,
    /// The transactions since the cut before.
    transactions: Vec<u32>,
    /// Everything committed before is in a cut or in `followed`.
    to: Lsn,
    time: Option<Timestamp>,
    bytes: usize,
    changed: bool,
}

struct Followed {
    id: u32,
    schema: TableSchema,
    /// Changes of transactions that committed before are dropped.
    from: Lsn,
    state: State,
    segments: Vec<Segment>,
    /// Made at the first change of a cut: builders of idle tables would cost memory.
    rows: Option<RowsBuilder>,
}

enum State {
    /// To be compared with the newest relation message.
    Unverified,
    /// As it was when it was admitted.
    Same,
    /// No longer: its changes are dropped. The error, until a cut has told it.
    Broken(Option<Error>),
}

impl Assembler {
    /// For a stream that starts at `from`.
    pub fn new(from: Lsn) -> Self {
        Self {
            relations: HashMap::new(),
            types: Types::new(),
            followed: HashMap::new(),
            open: false,
            commit: from,
            transactions: Vec::new(),
            to: from,
            time: None,
            bytes: 0,
            changed: false,
        }
    }

    /// Delivers these tables from now on. Call between cuts.
    pub fn follow(&mut self, tables: Vec<CapturedTable>) {
        let follow = |CapturedTable { id, schema, from }| {
            // A position that is none of ours is before all of ours.
            let from = Lsn::from_position(&from).unwrap_or_default();
            let followed = Followed { id, schema, from, state: State::Unverified, segments: Vec::new(), rows: None };
            (followed.schema.object_id, followed)
        };
        self.followed = tables.into_iter().map(follow).collect();
    }

    /// Whether a transaction's changes are arriving: no cut now.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a cut would tell anything.
    pub fn has_changes(&self) -> bool {
        self.changed
    }

    /// Bytes of values that wait for a cut.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Types of a relation that are not known yet.
    pub fn unknown_types(&self, relation: &Relation) -> Vec<TypeId> {
        relation.columns.iter().map(|column| column.type_id).filter(|type_id| !self.types.contains_key(type_id)).collect()
    }

    /// Takes in what the catalog says of types.
    pub fn learn(&mut self, types: Types) {
        self.types.extend(types);
    }

    /// The server has nothing more for us up to `end`.
    pub fn keepalive(&mut self, end: Lsn, time: Timestamp) {
        // Within a transaction this is how far the server has read, while its changes are still on their way.
        if !self.open {
            self.to = self.to.max(end);
            if !self.changed {
                self.time = Some(time);
            }
        }
    }

    /// Takes in a message. Types of a relation must have been learned.
    pub fn message(&mut self, message: Message<'_>) -> Result<(), Error> {
        match message {
            Message::Begin { commit, id } => {
                self.open = true;
                self.commit = commit;
                self.transactions.push(id);
            }
            Message::Commit { end, time } => {
                self.open = false;
                self.to = self.to.max(end);
                self.time = Some(replication::timestamp(time).map_err(|()| malformed())?);
            }
            Message::Relation(relation) => {
                if let Some(followed) = self.followed.get_mut(&relation.oid)
                    && matches!(followed.state, State::Same)
                {
                    followed.state = State::Unverified;
                }
                self.relations.insert(relation.oid, relation);
            }
            Message::Insert { oid, new } => self.change(oid, |followed| followed.insert(&new))?,
            Message::Update { oid, old, new } => self.change(oid, |followed| followed.update(old.as_deref(), &new))?,
            Message::Delete { oid, old } => self.change(oid, |followed| followed.delete(&old))?,
            Message::Truncate(oids) => {
                for oid in oids {
                    self.change(oid, Followed::truncate)?;
                }
            }
            // What is of open transactions waits elsewhere for their commit.
            Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. }
            | Message::Other => {}
        }
        Ok(())
    }

    /// Carries a change into its table, if that is followed and still as it was.
    fn change(&mut self, oid: u32, carry: impl FnOnce(&mut Followed) -> Result<(), Error>) -> Result<(), Error> {
        let Some(followed) = self.followed.get_mut(&oid).filter(|followed| followed.from <= self.commit || !Protection::JoinedFrom.holds())
        else {
            return Ok(());
        };
        match followed.state {
            State::Broken(_) => return Ok(()),
            State::Same => {}
            State::Unverified => {
                self.changed = true;
                let relation = self.relations.get(&oid).ok_or_else(malformed)?;
                if let Err(what) = same(&followed.schema, relation, &self.types) {
                    followed.state = State::Broken(Some(Error::SchemaChanged(format!("{}: {what}", followed.schema.name))));
                    return Ok(());
                }
                followed.state = State::Same;
            }
        }
        let before = followed.bytes();
        if let Err(error) = carry(followed) {
            // The row is half built.
            followed.rows = None;
            followed.state = State::Broken(Some(error));
        }
        self.bytes += followed.bytes().saturating_sub(before);
        self.changed = true;
        Ok(())
    }

    /// Everything gathered since the cut before. Call when no transaction is open.
    pub fn cut(&mut self) -> Result<Cut, Error> {
        let (tables, broken) = self.gathered()?;
        self.changed = false;
        let transactions = std::mem::take(&mut self.transactions);
        Ok(Cut { whole: true, to: self.to.position(), time: self.time.take(), transactions, tables, broken })
    }

    /// What was gathered so far of a transaction that is still arriving. It stays open: [`Self::has_changes`] holds until
    /// the cut that ends it.
    pub fn part(&mut self) -> Result<Cut, Error> {
        let (tables, broken) = self.gathered()?;
        Ok(Cut { whole: false, to: self.to.position(), time: None, transactions: self.transactions.clone(), tables, broken })
    }

    fn gathered(&mut self) -> Result<Gathered, Error> {
        let mut tables = Vec::new();
        let mut broken = Vec::new();
        if self.changed {
            for followed in self.followed.values_mut() {
                followed.end_segment()?;
                let segments = std::mem::take(&mut followed.segments);
                if !segments.is_empty() {
                    tables.push(CutTable { id: followed.id, segments });
                }
                followed.rows = None;
                if let State::Broken(error) = &mut followed.state {
                    broken.extend(error.take().map(|error| (followed.id, error)));
                }
            }
        }
        tables.sort_by_key(|table| table.id);
        self.bytes = 0;
        Ok((tables, broken))
    }
}

fn malformed() -> Error {
    Malformed.into()
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::SourceError("the server sent a change that is not of the form that pgoutput has".to_owned())
    }
}

/// Whether the stream's table is still the one that was admitted; else what is not.
fn same(schema: &TableSchema, relation: &Relation, types: &Types) -> Result<(), String> {
    let name = TableName::new(&relation.name.0, &relation.name.1);
    if name != schema.name {
        return Err(format!("was renamed to {name}"));
    }
    for (index, column) in schema.columns.iter().enumerate() {
        let Some(now) = relation.columns.get(index).filter(|now| now.name == column.name) else {
            return Err(format!("column {} was dropped, renamed or replaced", column.name));
        };
        let type_now = types.get(&now.type_id);
        if type_now != Some(&(column.travel, column.source_type.clone())) {
            let type_now = type_now.map_or("a type that is gone", |(_, name)| name);
            return Err(format!("column {} changed its type from {} to {type_now}", column.name, column.source_type));
        }
        if !relation.full && now.key != schema.key.contains(&index) {
            return Err(format!("column {} {} the key", column.name, if now.key { "joined" } else { "left" }));
        }
    }
    match relation.columns.get(schema.columns.len()) {
        Some(added) => Err(format!("column {} was added", added.name)),
        None => Ok(()),
    }
}

impl Followed {
    fn bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, RowsBuilder::bytes)
    }

    fn insert(&mut self, new: &[Cell<'_>]) -> Result<(), Error> {
        self.whole_row(new, None)
    }

    fn update(&mut self, old: Option<&[Cell<'_>]>, new: &[Cell<'_>]) -> Result<(), Error> {
        if let Some(old) = old {
            let moved = self.schema.key.iter().any(|&column| match (old.get(column), new.get(column)) {
                (_, Some(Cell::Unchanged)) => false,
                (old, new) => old != new,
            });
            if moved {
                self.key_row(old, Op::Move)?;
            }
        }
        self.whole_row_as(new, old, Op::Update)?;
        self.end_full_batch()
    }

    fn delete(&mut self, old: &[Cell<'_>]) -> Result<(), Error> {
        self.key_row(old, Op::Delete)?;
        self.end_full_batch()
    }

    fn truncate(&mut self) -> Result<(), Error> {
        self.end_segment()?;
        self.segments.push(Segment::Truncate);
        Ok(())
    }

    fn whole_row(&mut self, new: &[Cell<'_>], old: Option<&[Cell<'_>]>) -> Result<(), Error> {
        self.whole_row_as(new, old, Op::Insert)?;
        self.end_full_batch()
    }

    /// A row with all its columns. What the change left as it was comes from the old row, where that was sent.
    fn whole_row_as(&mut self, new: &[Cell<'_>], old: Option<&[Cell<'_>]>, op: Op) -> Result<(), Error> {
        let width = self.schema.columns.len();
        if new.len() != width || old.is_some_and(|old| old.len() != width) {
            return Err(malformed());
        }
        let rows = self.rows.get_or_insert_with(|| RowsBuilder::changes(&self.schema));
        for (column, cell) in new.iter().enumerate() {
            let in_key = self.schema.key.contains(&column);
            match (*cell, old.map(|old| old[column])) {
                (Cell::Text(text), _) | (Cell::Unchanged, Some(Cell::Text(text))) => rows.text(column, text)?,
                (Cell::Null, _) => rows.null(column),
                // A key never travels without its value.
                (Cell::Unchanged, _) if in_key => return Err(malformed()),
                // NULL in an old key row says nothing; an old whole row has no large value as NULL that is unchanged.
                (Cell::Unchanged, _) => rows.unchanged(column),
            }
        }
        rows.end_row(Some(op))
    }

    /// A row of which only the key is known.
    fn key_row(&mut self, old: &[Cell<'_>], op: Op) -> Result<(), Error> {
        if old.len() != self.schema.columns.len() {
            return Err(malformed());
        }
        let rows = self.rows.get_or_insert_with(|| RowsBuilder::changes(&self.schema));
        for (column, cell) in old.iter().enumerate() {
            match cell {
                Cell::Text(text) if self.schema.key.contains(&column) => rows.text(column, text)?,
                _ if self.schema.key.contains(&column) => return Err(malformed()),
                _ => rows.null(column),
            }
        }
        rows.end_row(Some(op))
    }

    fn end_full_batch(&mut self) -> Result<(), Error> {
        if self.rows.as_ref().is_some_and(RowsBuilder::is_full) { self.end_segment() } else { Ok(()) }
    }

    fn end_segment(&mut self) -> Result<(), Error> {
        if let Some(rows) = self.rows.as_mut().filter(|rows| rows.len() > 0) {
            let batch: RecordBatch = rows.finish()?;
            self.segments.push(Segment::Rows(batch));
        }
        Ok(())
    }
}
