//! Netting must leave a target exactly as if each change had been applied by itself.

use std::collections::BTreeMap;

use arrow::{
    array::{Int32Array, StringArray, UInt8Array},
    datatypes::Int32Type,
};

use super::*;
use crate::{
    data::{
        Position, Travel,
        fixtures::{column, table},
    },
    replication::fill::Filling,
};

fn schema() -> TableSchema {
    let columns = vec![column(1, "a", Travel::Utf8), column(2, "id", Travel::Int32), column(3, "b", Travel::Utf8)];
    table("t", columns, &[1])
}

/// Values of `a` and `b`; in a change, None is "left unchanged and not sent".
type Values = [Option<String>; 2];

struct Change(Op, i32, Values);

fn batch(changes: &[Change]) -> RecordBatch {
    let link = |change: &Change| {
        let unsent = |at: usize| change.2[at].is_none() && change.0 == Op::Update;
        let unchanged: Vec<u16> = [(0, 0), (1, 2)].iter().filter(|(at, _)| unsent(*at)).map(|(_, column)| *column).collect();
        (!unchanged.is_empty()).then(|| serde_json::to_string(&LinkCell { unchanged, beside: vec![] }).unwrap())
    };
    let text = |at: usize| changes.iter().map(|change| change.2[at].clone()).collect::<StringArray>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(text(0)),
        Arc::new(Int32Array::from_iter_values(changes.iter().map(|change| change.1))),
        Arc::new(text(1)),
        Arc::new(UInt8Array::from_iter_values(changes.iter().map(|change| change.0 as u8))),
        Arc::new(changes.iter().map(link).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema().arrow_changes(), columns).unwrap()
}

/// A target that does what `NetChanges` says: resolve, delete, upsert.
fn apply(target: &mut BTreeMap<i32, [String; 2]>, net: &NetChanges) {
    let ids = |batch: &RecordBatch, column: usize| batch.column(column).as_primitive::<Int32Type>().values().to_vec();
    let text = |column: usize, row: usize| net.upserts.column(column).as_string::<i32>().value(row).to_owned();
    let mut rows: Vec<[String; 2]> = (0..net.upserts.num_rows()).map(|row| [text(0, row), text(2, row)]).collect();
    for (unresolved, origin) in net.unresolved.iter().zip(ids(&net.origins, 0)) {
        let held = target.get(&origin).expect("the row that has the unchanged values");
        for column in &unresolved.columns {
            let at = usize::from(*column) / 2;
            rows[unresolved.row as usize][at] = held[at].clone();
        }
    }
    for id in ids(&net.deletes, 0) {
        target.remove(&id);
    }
    for (id, row) in ids(&net.upserts, 1).into_iter().zip(rows) {
        target.insert(id, row);
    }
}

/// A small generator of numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Changes `table` at random and says how a source would tell it.
fn mutate(table: &mut BTreeMap<i32, [String; 2]>, random: &mut Random, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    for number in 0..count {
        let id = random.below(6) as i32;
        let fresh = format!("{number}-{}", random.below(1000));
        match (table.get(&id).cloned(), random.below(4)) {
            (None, _) => {
                let row = [fresh.clone(), format!("{fresh} b")];
                changes.push(Change(Op::Insert, id, row.clone().map(Some)));
                table.insert(id, row);
            }
            (Some(_), 0) => {
                table.remove(&id);
                changes.push(Change(Op::Delete, id, [None, None]));
            }
            (Some(row), 1) => {
                let to = random.below(9) as i32;
                if table.contains_key(&to) {
                    continue;
                }
                // The key changes, `b` is not sent.
                let row = [fresh.clone(), row[1].clone()];
                changes.push(Change(Op::Move, id, [None, None]));
                changes.push(Change(Op::Update, to, [Some(fresh), None]));
                table.remove(&id);
                table.insert(to, row);
            }
            (Some(row), sent) => {
                let sent = [sent == 2, random.below(2) == 0];
                let next = [0, 1].map(|at| if sent[at] { format!("{fresh} {at}") } else { row[at].clone() });
                changes.push(Change(Op::Update, id, [0, 1].map(|at| sent[at].then(|| next[at].clone()))));
                table.insert(id, next);
            }
        }
    }
    changes
}

#[test]
fn leaves_the_target_as_the_source_whatever_the_changes() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut source = BTreeMap::new();
        mutate(&mut source, &mut random, 12);
        let mut target = source.clone();
        let changes = mutate(&mut source, &mut random, 25);
        // Also between a move and the row's new state.
        let cut = (1..changes.len()).find(|&at| changes[at - 1].0 == Op::Move).unwrap_or(changes.len() / 2);
        let net = net(&schema(), &[batch(&changes[..cut]), batch(&changes[cut..])]).unwrap();
        let ids = net.upserts.column(1).as_primitive::<Int32Type>().values();
        assert!(ids.is_sorted(), "seed {seed}");
        assert_eq!(net.updates, ids.iter().filter(|id| target.contains_key(id)).count(), "seed {seed}");
        apply(&mut target, &net);
        assert_eq!(target, source, "seed {seed}");
    }
}

#[test]
fn takes_large_values_from_earlier_changes_and_else_from_under_the_old_key() {
    let some = |text: &str| Some(text.to_owned());
    let changes = [
        Change(Op::Update, 1, [some("x"), None]),
        Change(Op::Move, 1, [None, None]),
        Change(Op::Update, 2, [None, None]),
        Change(Op::Update, 3, [some("y"), some("z")]),
        Change(Op::Update, 3, [None, some("w")]),
    ];
    let net = net(&schema(), &[batch(&changes)]).unwrap();
    assert_eq!(net.unresolved, [Unresolved { row: 0, columns: vec![2] }], "a of row 2 is known from the change before its move");
    assert_eq!(net.origins.column(0).as_primitive::<Int32Type>().values(), &[1]);
    assert_eq!(net.deletes.column(0).as_primitive::<Int32Type>().values(), &[1]);
    let a = net.upserts.column(0).as_string::<i32>();
    assert_eq!((a.value(0), a.value(1)), ("x", "y"));
}

#[test]
fn refuses_a_move_without_the_new_row() {
    let only = [Change(Op::Move, 1, [None, None])];
    assert!(matches!(net(&schema(), &[batch(&only)]), Err(Error::Operation)));
    let wrong = [Change(Op::Move, 1, [None, None]), Change(Op::Delete, 2, [None, None])];
    assert!(matches!(net(&schema(), &[batch(&wrong)]), Err(Error::Operation)));
}

#[test]
fn keys_with_besides_are_told_apart() {
    let mut schema = schema();
    schema.columns[1].travel = Travel::Date;
    let link =
        |text: &str| Some(serde_json::to_string(&LinkCell { unchanged: vec![], beside: vec![(1, Beside::Text(text.into()))] }).unwrap());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["late", "early", "later"])),
        Arc::new(arrow::array::Date32Array::from(vec![None, None, None])),
        Arc::new(StringArray::from(vec![None::<&str>; 3])),
        Arc::new(UInt8Array::from(vec![1, 1, 2])),
        Arc::new(StringArray::from(vec![link("infinity"), link("-infinity"), link("infinity")])),
    ];
    let changes = RecordBatch::try_new(schema.arrow_changes(), columns).unwrap();
    let net = net(&schema, &[changes]).unwrap();
    assert_eq!(net.upserts.num_rows(), 2);
    assert_eq!(net.upserts.column(0).as_string::<i32>().value(1), "later");
    assert_eq!(net.beside.get(&(1, 0)).map(Beside::text), Some("-infinity"));
}

#[test]
fn fills_what_a_change_did_not_carry() {
    let some = |text: &str| Some(text.to_owned());
    let changes = batch(&[
        Change(Op::Update, 1, [some("x"), None]),
        Change(Op::Update, 2, [None, None]),
        Change(Op::Insert, 3, [some("i"), some("j")]),
    ]);
    let mut filling = Filling::new(schema()).unwrap();
    let lacking = filling.lacking(&changes).unwrap().unwrap();
    assert_eq!(lacking.keys.column(0).as_primitive::<Int32Type>().values(), &[1, 2]);

    // Row 2 is gone from the source by now.
    let filled = filling.fill(changes, Some((&lacking, &found(1, "newer", "large"), &at(5)))).unwrap();
    let net = net(&schema(), &[filled]).unwrap();
    assert!(net.unresolved.is_empty());
    let (a, b) = (net.upserts.column(0).as_string::<i32>(), net.upserts.column(2).as_string::<i32>());
    assert_eq!((a.value(0), b.value(0)), ("x", "large"), "what the change carried stays");
    assert!(b.is_null(1));
    assert_eq!(b.value(2), "j");
    assert!(!filling.pass(&at(9)), "row 2 is an orphan");
}

fn at(position: u32) -> Position {
    Position(format!("{position:08}"))
}

#[test]
fn what_was_found_under_a_key_that_another_row_took_is_not_handed_on() {
    // Update of row 1; when it is read, row 1 has become row 2, and there is a new row 1.
    let update = batch(&[Change(Op::Update, 1, [Some("x".into()), None])]);
    let mut filling = Filling::new(schema()).unwrap();
    let lacking = filling.lacking(&update).unwrap().unwrap();
    filling.fill(update, Some((&lacking, &found(1, "new", "of the new row"), &at(9)))).unwrap();
    assert!(!filling.pass(&at(5)));
    let moves = [
        Change(Op::Move, 1, [None, None]),
        Change(Op::Update, 2, [Some("x".into()), None]),
        Change(Op::Insert, 1, [Some("new".into()), Some("of the new row".into())]),
    ];
    let lacking = filling.lacking(&batch(&moves)).unwrap().expect("row 2 is read by its own key");
    assert_eq!(lacking.keys.column(0).as_primitive::<Int32Type>().values(), &[2]);
}

#[test]
fn a_truncation_leaves_no_orphans() {
    let nothing = RecordBatch::new_empty(schema().arrow_rows());
    let update = batch(&[Change(Op::Update, 1, [Some("x".into()), None])]);
    let mut filling = Filling::new(schema()).unwrap();
    let lacking = filling.lacking(&update).unwrap().unwrap();
    filling.fill(update, Some((&lacking, &nothing, &at(5)))).unwrap();
    filling.truncate();
    assert!(filling.pass(&at(6)));
}

/// A row as it is found in the source.
fn found(id: i32, a: &str, b: &str) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![a])),
        Arc::new(Int32Array::from(vec![id])),
        Arc::new(StringArray::from(vec![b])),
        Arc::new(StringArray::from(vec![None::<&str>])),
    ];
    RecordBatch::try_new(schema().arrow_rows(), columns).unwrap()
}

#[test]
fn past_the_chunks_only_orphans_are_filled_under_whatever_key() {
    let nothing = RecordBatch::new_empty(schema().arrow_rows());
    let update = |id| batch(&[Change(Op::Update, id, [Some("x".into()), None])]);
    let mut filling = Filling::new(schema()).unwrap();
    let lacking = filling.lacking(&update(1)).unwrap().unwrap();
    filling.fill(update(1), Some((&lacking, &nothing, &at(5)))).unwrap();
    assert!(!filling.pass(&at(6)));

    assert!(filling.lacking(&update(7)).unwrap().is_none(), "any other row is right by now");
    let moves = [Change(Op::Move, 1, [None, None]), Change(Op::Update, 2, [Some("y".into()), None])];
    let lacking = filling.lacking(&batch(&moves)).unwrap().expect("the orphan under its new key");
    assert_eq!(lacking.keys.column(0).as_primitive::<Int32Type>().values(), &[2]);
    filling.fill(batch(&moves), Some((&lacking, &nothing, &at(5)))).unwrap();
    assert!(!filling.pass(&at(6)), "it is gone from there too");

    let again = [Change(Op::Move, 2, [None, None]), Change(Op::Update, 3, [Some("y".into()), None])];
    let lacking = filling.lacking(&batch(&again)).unwrap().unwrap();
    let filled = filling.fill(batch(&again), Some((&lacking, &found(3, "y", "large"), &at(7)))).unwrap();
    assert_eq!(filled.column(2).as_string::<i32>().value(1), "large");
    assert!(!filling.pass(&at(6)), "until what was found is passed, it may be another row's");
    assert!(filling.pass(&at(7)));
}

#[test]
fn an_orphan_that_is_deleted_is_none_any_more() {
    let nothing = RecordBatch::new_empty(schema().arrow_rows());
    let update = batch(&[Change(Op::Update, 1, [Some("x".into()), None])]);
    let mut filling = Filling::new(schema()).unwrap();
    let lacking = filling.lacking(&update).unwrap().unwrap();
    filling.fill(update, Some((&lacking, &nothing, &at(5)))).unwrap();
    assert!(!filling.pass(&at(6)));
    filling.fill(batch(&[Change(Op::Delete, 1, [None, None])]), None).unwrap();
    assert!(filling.pass(&at(6)));
}
