//! From the stream's messages to cuts: rows a table, in commit order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    catalog::{Type, TypeId},
    evolve,
    followed::{Followed, Layout, State, malformed},
    lsn::Lsn,
    pgoutput::{Message, Relation},
    replication, rows,
    shape::Shape,
};
use crate::{
    data::{TableName, TableVersion},
    protection::Protection,
    source::{CapturedTable, Cut, CutTable, Error, Segment},
};

/// How types travel, by what the stream calls them.
pub type Types = HashMap<TypeId, Type>;

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
    /// The table that each relation holds rows of.
    table_of: HashMap<u32, u32>,
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
    needs_text: bool,
}

impl Assembler {
    /// For a stream that starts at `from`.
    pub fn new(from: Lsn) -> Self {
        Self {
            relations: HashMap::new(),
            types: Types::new(),
            followed: HashMap::new(),
            table_of: HashMap::new(),
            open: false,
            commit: from,
            transactions: Vec::new(),
            to: from,
            time: None,
            bytes: 0,
            changed: false,
            needs_text: false,
        }
    }

    /// Delivers these tables from now on. Call between cuts.
    pub fn follow(&mut self, tables: Vec<CapturedTable>) {
        let mut before = std::mem::take(&mut self.followed);
        self.table_of.clear();
        for CapturedTable { id, version, from } in tables {
            let oid = version.schema.object_id;
            // A position that is none of ours is before all of ours.
            let from = Lsn::from_position(&from).unwrap_or_default();
            // Of another life, what came before `from` was passed over.
            let same_life = |followed: &Followed| followed.from == from;
            let of_before = before.remove(&oid).filter(same_life).map(|followed| (followed.orders, followed.unused, followed.settles));
            let (orders, unused, settles) = of_before.unwrap_or_default();
            let (state, layouts) = (State::Sound, HashMap::new());
            let followed = Followed { id, version, from, state, layouts, orders, unused, settles, segments: Vec::new(), rows: None };
            self.route(&followed.version);
            self.needs_text |= !rows::have_binary(&followed.version.schema);
            self.followed.insert(oid, followed);
        }
    }

    /// Changes of each part of a table are the table's.
    fn route(&mut self, version: &TableVersion) {
        let oid = version.schema.object_id;
        self.table_of.extend(version.parts.iter().map(|part| (part.object_id, oid)).chain([(oid, oid)]));
    }

    /// The followed table that a relation is, or is a part of.
    pub fn table_of(&self, relation: u32) -> Option<u32> {
        self.table_of.get(&relation).copied()
    }

    /// The tables that may be compared with the catalog.
    pub fn tables(&self) -> Vec<u32> {
        let sound = self.followed.iter().filter(|(_, followed)| matches!(followed.state, State::Sound));
        sound.map(|(oid, _)| *oid).collect()
    }

    /// Those of them that have partitions.
    pub fn partitioned(&self) -> Vec<u32> {
        let partitioned = |oid: &u32| self.followed.get(oid).is_some_and(|followed| followed.version.is_partitioned());
        self.tables().into_iter().filter(partitioned).collect()
    }

    /// The id of the transaction whose changes are arriving.
    pub fn transaction(&self) -> Option<u32> {
        self.transactions.last().copied().filter(|_| self.open)
    }

    /// A table cannot be followed any more.
    pub fn break_off(&mut self, table: u32, why: impl FnOnce(TableName) -> Error) {
        if let Some(followed) = self.followed.get_mut(&table).filter(|followed| matches!(followed.state, State::Sound)) {
            followed.state = State::Broken(Some(why(followed.version.schema.name.clone())));
            self.changed = true;
        }
    }

    /// Takes in what the catalog says of a table, which is at least as new as the stream's newest relation message. `read_at`:
    /// everything that it shows was committed before. `empty`: partitions without a row.
    pub fn compare(&mut self, table: u32, shape: &Shape, read_at: Lsn, empty: &HashSet<u32>) -> Result<(), Error> {
        let to = self.to;
        let Some(followed) = self.followed.get_mut(&table).filter(|followed| matches!(followed.state, State::Sound)) else { return Ok(()) };
        followed.orders = shape.parts.iter().map(|part| (part.part.object_id, part.columns.clone())).collect();
        followed.layouts.clear();
        let settled = followed.settles.take_if(|(passed, _)| to >= *passed).map_or(0, |(_, number)| number);
        match evolve::evolve(&followed.version, shape, settled, empty) {
            Ok(None) => {}
            Ok(Some(version)) => {
                let is_new = |part: &u32| !followed.version.parts.iter().any(|known| known.object_id == *part);
                let new: Vec<u32> = version.parts.iter().map(|part| part.object_id).filter(is_new).collect();
                followed.unused.extend(new);
                followed.end_segment()?;
                followed.rows = None;
                followed.version = version.clone();
                followed.segments.push(Segment::Version(Box::new(version.clone())));
                self.changed = true;
                self.needs_text |= !rows::have_binary(&version.schema);
                self.route(&version);
            }
            Err(what) => {
                followed.break_off(&what);
                self.changed = true;
            }
        }
        if let Some(followed) = self.followed.get_mut(&table)
            && shape.last_number > followed.version.schema.last_number
        {
            followed.settles.get_or_insert((read_at, shape.last_number));
        }
        Ok(())
    }

    /// Whether a transaction's changes are arriving: no cut now.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Everything committed before is in cuts.
    pub fn position(&self) -> Lsn {
        self.to
    }

    /// Whether a table that was followed has values that can be had only as text.
    pub fn needs_text(&self) -> bool {
        self.needs_text
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
                if let Some(followed) = self.table_of(relation.oid).and_then(|table| self.followed.get_mut(&table)) {
                    followed.layouts.remove(&relation.oid);
                }
                self.relations.insert(relation.oid, relation);
            }
            Message::Insert { oid, new } => self.change(oid, |followed, layout| followed.insert(&layout.arrange(&new)?))?,
            Message::Update { oid, old, new } => self.change(oid, |followed, layout| {
                let old = old.as_deref().map(|old| layout.arrange(old)).transpose()?;
                followed.update(old.as_deref(), &layout.arrange(&new)?)
            })?,
            Message::Delete { oid, old } => self.change(oid, |followed, layout| followed.delete(&layout.arrange(&old)?))?,
            Message::Truncate(oids) => self.truncate(&oids)?,
            // What is of open transactions waits elsewhere for their commit.
            Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. }
            | Message::Other => {}
        }
        Ok(())
    }

    /// Carries a change into its table, if that is followed and can be.
    fn change(&mut self, relation: u32, carry: impl FnOnce(&mut Followed, &Layout) -> Result<(), Error>) -> Result<(), Error> {
        let commit = self.commit;
        let Some(followed) = self.table_of(relation).and_then(|table| self.followed.get_mut(&table)) else { return Ok(()) };
        if matches!(followed.state, State::Broken(_)) || (followed.from > commit && Protection::JoinedFrom.holds()) {
            return Ok(());
        }
        self.changed = true;
        let layout = if let Some(layout) = followed.layouts.get(&relation) {
            layout.clone()
        } else {
            let stream = self.relations.get(&relation).ok_or_else(malformed)?;
            let order = followed.orders.get(&relation).map(Vec::as_slice);
            match evolve::origins(&followed.version.schema, stream, order, &self.types) {
                Ok(origins) => {
                    let layout = Arc::new(Layout::new(stream.columns.len(), origins));
                    followed.layouts.insert(relation, layout.clone());
                    layout
                }
                Err(what) => {
                    followed.break_off(&what);
                    return Ok(());
                }
            }
        };
        if !followed.unused.is_empty() {
            followed.unused.remove(&relation);
        }
        let before = followed.bytes();
        if let Err(error) = carry(followed, &layout) {
            // The row is half built.
            followed.rows = None;
            followed.state = State::Broken(Some(error));
        }
        self.bytes += followed.bytes().saturating_sub(before);
        Ok(())
    }

    /// Truncates each table that lost all rows; of a partitioned one the stream names the partitions.
    fn truncate(&mut self, relations: &[u32]) -> Result<(), Error> {
        let tables: HashSet<u32> = relations.iter().filter_map(|relation| self.table_of(*relation)).collect();
        for table in tables {
            let Some(followed) = self.followed.get(&table) else { continue };
            let has_rows = |part: &u32| !relations.contains(part) && !followed.unused.contains(part);
            let whole = !followed.version.is_partitioned() || !followed.version.parts.iter().any(|part| has_rows(&part.object_id));
            let Some(relation) = relations.iter().find(|relation| self.table_of(**relation) == Some(table)) else { continue };
            self.change(*relation, |followed, _| {
                if whole {
                    followed.truncate()
                } else {
                    followed.break_off("had some of its partitions truncated");
                    Ok(())
                }
            })?;
        }
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
