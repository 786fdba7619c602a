//! What a capture keeps for its next record: events that were asked for, tables on their way to exact, a repair. Pure.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::{
    capture::Order,
    error::Error,
    fill::Filling,
    repair::{Read, Repair},
    state::RunState,
};
use crate::{
    data::Position,
    landing::record::Event,
    source::{Cut, CutTable, Segment},
};

/// What waits for the next record.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) events: Vec<Event>,
    pub(super) replies: Vec<oneshot::Sender<u64>>,
    /// By table and incarnation: the position that must be passed before the table is exact.
    pub(super) unfinished: HashMap<(u32, u64), Position>,
    /// The source's position when the reign began: what an earlier reign could not find was gone by then.
    pub(super) barrier: Position,
    /// By table and incarnation: what its changes did not carry.
    pub(super) fillings: HashMap<(u32, u64), Filling>,
    /// Who waits until a position is passed.
    pub(super) passing: Vec<(Position, oneshot::Sender<u64>)>,
    /// The keys that are watched for a repair.
    pub(super) watch: Option<Box<Repair>>,
    /// What was read for them.
    pub(super) read: Option<(Box<Read>, oneshot::Sender<u64>)>,
    /// What is told once the repair is committed.
    pub(super) repaired: Option<(u64, oneshot::Sender<u64>)>,
}

impl Pending {
    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Commit(event, reply) => {
                self.events.push(*event);
                self.replies.push(reply);
            }
            Order::ChunksRead { table, incarnation, read_at } => {
                self.unfinished.insert((table, incarnation), read_at);
            }
            Order::Passed(position, reply) => self.passing.push((position, reply)),
            Order::Watch(repair, reply) => {
                (self.watch, self.read) = (Some(repair), None);
                let _ = reply.send(());
            }
            Order::Repair(read, reply) => self.read = Some((read, reply)),
        }
    }

    /// The watch takes note of a cut. It ends with the incarnation that it is of: what comes under the table's number afterwards
    /// may have another key.
    pub(super) fn observe(&mut self, cut: &Cut, state: &RunState) -> Result<(), Error> {
        let ended = |watch: &mut Box<Repair>| state.tables.get(&watch.table).is_none_or(|table| table.incarnation != watch.incarnation);
        self.watch.take_if(ended);
        if let Some(watch) = &mut self.watch {
            watch.observe(cut)?;
        }
        Ok(())
    }

    /// Whether the next record says that a table can be followed no longer.
    pub(super) fn fails(&self, id: u32, of: u64) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Fail { table, incarnation, .. } if (*table, *incarnation) == (id, of)))
    }

    /// The repair as something that the source committed at `to`, once all is passed that may be in what was read. To a table
    /// that began anew, changed its shape, left or failed since, it says nothing any more: whoever asked is left without an answer.
    pub(super) fn repair(&mut self, to: &Position, state: &RunState) -> Result<Option<Cut>, Error> {
        if self.read.as_ref().is_none_or(|(read, _)| read.read_at > *to) {
            return Ok(None);
        }
        let (Some((read, reply)), Some(watch)) = (self.read.take(), self.watch.take()) else { return Ok(None) };
        let current = state.tables.get(&watch.table).is_some_and(|table| {
            let stands = table.exact.is_some() || table.adopting();
            table.incarnation == watch.incarnation && stands && table.followed() && table.schema == watch.schema
        });
        let ends = |event: &Event| match event {
            Event::Fail { table, .. } | Event::Leave { table } => *table == watch.table,
            _ => false,
        };
        if !current || watch.is_void() || self.events.iter().any(ends) {
            return Ok(None);
        }
        let (changes, keys) = watch.changes(&read)?;
        let Some(changes) = changes else {
            let _ = reply.send(0);
            return Ok(None);
        };
        self.repaired = Some((keys, reply));
        let tables = vec![CutTable { id: watch.table, segments: vec![Segment::Rows(changes)] }];
        Ok(Some(Cut { whole: true, to: to.clone(), time: None, transactions: vec![], tables, broken: vec![] }))
    }

    /// Adds an event for each table that has passed all its chunks at `to`: exact, or waiting for its orphans.
    pub(super) fn finish(&mut self, to: &Position, state: &RunState) {
        let Self { events, unfinished, barrier, fillings, .. } = self;
        let current = |&(table, incarnation): &(u32, u64)| {
            state.tables.get(&table).filter(|known| known.incarnation == incarnation && known.exact.is_none() && known.followed())
        };
        unfinished.retain(|life, _| current(life).is_some());
        fillings.retain(|life, _| current(life).is_some());
        for filling in fillings.values_mut() {
            filling.forget(to);
        }
        unfinished.retain(|life, read_at| {
            let (table, incarnation) = *life;
            let passed = current(life).is_some_and(|known| known.passed.is_some());
            if *to < *read_at || *to < *barrier {
                return true;
            }
            if fillings.get_mut(life).is_none_or(|filling| filling.pass(to)) {
                events.push(Event::Exact { table, incarnation });
                return false;
            }
            if !passed {
                events.push(Event::Passed { table, incarnation });
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt8Array};

    use super::*;
    use crate::{
        data::{Op, TableSchema, Travel, fixtures},
        replication::state::TableState,
    };

    fn schema(key: Travel) -> TableSchema {
        fixtures::table("t", vec![fixtures::column(1, "id", key)], &[0])
    }

    fn state(incarnation: u64, key: Travel) -> RunState {
        let table = TableState::new(String::new(), schema(key).name, schema(key), incarnation);
        RunState { tables: [(7, table)].into(), ..RunState::new(1) }
    }

    #[test]
    fn a_watch_ends_with_the_incarnation_that_it_is_of() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a"])),
            Arc::new(UInt8Array::from(vec![Op::Insert as u8])),
            Arc::new(StringArray::from(vec![None::<&str>])),
        ];
        let rows = RecordBatch::try_new(schema(Travel::Utf8).arrow_changes(), columns).unwrap();
        let tables = vec![CutTable { id: 7, segments: vec![Segment::Rows(rows)] }];
        let of_texts = Cut { whole: true, to: Position("5".into()), time: None, transactions: vec![], tables, broken: vec![] };

        let numbers = RecordBatch::new_empty(schema(Travel::Int32).arrow_keys());
        let watch = Repair::new(7, 1, &schema(Travel::Int32), numbers).unwrap();
        let mut pending = Pending { watch: Some(Box::new(watch)), ..Pending::default() };
        let idle = Cut { whole: true, to: Position("4".into()), time: None, transactions: vec![], tables: vec![], broken: vec![] };
        pending.observe(&idle, &state(1, Travel::Int32)).unwrap();
        assert!(pending.watch.is_some());
        // The table was loaded anew with another key, whose cells the watch could not read.
        pending.observe(&of_texts, &state(3, Travel::Utf8)).unwrap();
        assert!(pending.watch.is_none());
    }
}
