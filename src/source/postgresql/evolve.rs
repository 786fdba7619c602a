//! What became of a table since its newest version: whether its copy can follow, and where the stream's rows have which
//! column. Pure.
//!
//! The catalog is always ahead of the stream. What is compared with it is right for what the stream still brings, because
//! columns get higher and higher numbers and a number is never used again: a row that lacks an added column is older than
//! it, and reads its initial value; a column of the stream that the catalog does not have any more is gone. Where the two
//! leave more than one reading, the table is broken: it may be loaded anew, never guessed at.

use std::collections::{HashMap, HashSet};

use super::{assemble::Types, pgoutput::Relation, shape::Shape};
use crate::data::{Column, Part, TableSchema, TableVersion};

/// The version that follows `known` by what the catalog has now, none if it is the same; or what the copy cannot follow.
/// `settled`: the stream has passed what became of columns up to this number. `empty`: partitions without a row.
pub fn evolve(known: &TableVersion, shape: &Shape, settled: i32, empty: &HashSet<u32>) -> Result<Option<TableVersion>, String> {
    let mut next = known.clone();
    if shape.name != known.schema.name {
        return Err(format!("was renamed to {}", shape.name));
    }
    if shape.no_identity {
        return Err("has REPLICA IDENTITY NOTHING: updates and deletes of it fail".to_owned());
    }
    if shape.has_children {
        return Err("has tables that inherit from it".to_owned());
    }
    let key: Vec<i32> = known.schema.key.iter().map(|&column| known.schema.columns[column].number).collect();
    if shape.key != key {
        return Err("has another key than before".to_owned());
    }
    next.parts = parts(known, shape, empty)?;
    let rewritten = known.parts.iter().any(|part| !next.parts.contains(part));
    next.schema.columns = columns(&known.schema, shape, rewritten)?;
    let (last_number, added) = added(&known.schema, shape, settled)?;
    next.schema.last_number = last_number;
    for column in added {
        let initial = initial(known, shape, &column.name, rewritten)?;
        next.schema.columns.push(Column { initial, ..column.clone() });
    }
    Ok((next != *known).then_some(next))
}

/// The parts as they are now. A partition is no other one only because its rows are in another file.
fn parts(known: &TableVersion, shape: &Shape, empty: &HashSet<u32>) -> Result<Vec<Part>, String> {
    let is_now = |part: &Part| shape.parts.iter().any(|now| (now.part.object_id, &now.part.attached) == (part.object_id, &part.attached));
    if let Some(gone) = known.parts.iter().find(|part| !is_now(part)) {
        let now = shape.parts.iter().find(|now| now.part.object_id == gone.object_id);
        return Err(match now {
            Some(now) => format!("had its partition {} detached and attached again", now.name),
            None => "had a partition detached or dropped".to_owned(),
        });
    }
    let key: Vec<&str> =
        shape.key.iter().filter_map(|number| Some(shape.columns.iter().find(|column| column.number == *number)?.name.as_str())).collect();
    for now in &shape.parts {
        let is_known = known.parts.iter().any(|part| part.object_id == now.part.object_id);
        if !is_known && !known.parts.is_empty() && !now.born && !empty.contains(&now.part.object_id) {
            return Err(format!("had {} attached, with rows in it, as a partition", now.name));
        }
        if let Some(why) = &now.unfit {
            return Err(format!("has a partition {}, which is {why}", now.name));
        }
        if now.key != key {
            return Err(format!("has a partition {}, whose key is another one", now.name));
        }
    }
    Ok(shape.parts.iter().map(|now| now.part.clone()).collect())
}

/// The known columns as they are now.
fn columns(known: &TableSchema, shape: &Shape, rewritten: bool) -> Result<Vec<Column>, String> {
    let now = |column: &Column| {
        let mut column = column.clone();
        if column.dropped {
            return Ok(column);
        }
        let Some(now) = shape.columns.iter().find(|now| now.number == column.number) else {
            column.dropped = true;
            return Ok(column);
        };
        let name = &column.name;
        if now.name != *name {
            return Err(format!("had its column {name} renamed to {}", now.name));
        }
        if (now.travel, &now.source_type) != (column.travel, &column.source_type) {
            return Err(format!("had the type of its column {name} changed from {} to {}", column.source_type, now.source_type));
        }
        // ALTER … TYPE … USING may give the same type and other values. (TRUNCATE changes the file too, and cannot be told from it.)
        if rewritten && now.revision != column.revision && !filled_in(&column.revision, &now.revision) {
            return Err(format!("was rewritten or truncated after a change of its column {name}"));
        }
        let renamed = |(id, label): &&(u32, String)| now.labels.iter().any(|(now, name)| now == id && name != label);
        if let Some((_, label)) = column.labels.iter().find(renamed) {
            return Err(format!("had the value {label} of the type of its column {name} renamed"));
        }
        column.labels.clone_from(&now.labels);
        column.revision.clone_from(&now.revision);
        column.nullable = now.nullable;
        Ok(column)
    };
    known.columns.iter().map(now).collect()
}

/// Whether a column has changed only in that its initial value was written into the rows, as a rewrite for reasons of its own
/// (VACUUM FULL) does. A change of the type does too, but makes the default anew.
fn filled_in(known: &str, now: &str) -> bool {
    match (known.split_once('/'), now.split_once('/')) {
        (Some((known, default)), Some((now, same_default))) => known.ends_with('+') && !now.ends_with('+') && default == same_default,
        _ => false,
    }
}

/// Columns that were added, and the number up to which nothing is left open.
fn added<'s>(known: &TableSchema, shape: &'s Shape, settled: i32) -> Result<(i32, Vec<&'s Column>), String> {
    let is_new = |column: &&Column| !known.columns.iter().any(|old| old.number == column.number);
    // Records of a former version do not say the highest number.
    let highest = known.columns.iter().map(|column| column.number).max().unwrap_or_default();
    let mut settled = known.last_number.max(highest).max(settled);
    let mut added = Vec::new();
    for column in shape.columns.iter().filter(is_new) {
        let name = &column.name;
        if column.number <= known.last_number {
            return Err(format!("had the expression of its generated column {name} dropped"));
        }
        if known.columns.iter().any(|old| old.name == *name) {
            return Err(format!("had its column {name} dropped and another one of that name added"));
        }
        // What was added and dropped before it may be in the stream under the same name.
        if (settled + 1..column.number).any(|number| !shape.generated.contains(&number)) {
            return Err(format!("had columns added and dropped before its column {name} was added"));
        }
        settled = settled.max(column.number);
        added.push(column);
    }
    while shape.generated.contains(&(settled + 1)) {
        settled += 1;
    }
    Ok((settled, added))
}

/// What the rows of all parts that were there read in an added column.
fn initial(known: &TableVersion, shape: &Shape, name: &str, rewritten: bool) -> Result<Option<String>, String> {
    let old = shape.parts.iter().filter(|now| known.parts.iter().any(|part| part.object_id == now.part.object_id));
    let mut values: Vec<Option<&String>> = old.map(|part| part.initial.get(name)).collect();
    values.dedup();
    match values.as_slice() {
        // None of them says it: NULL, or each row has its own value, which a rewrite put into it.
        [] | [None] if rewritten => Err(format!(
            "had its column {name} added, and was rewritten or truncated: its rows may have a value each, which the stream does not have"
        )),
        [] => Ok(None),
        [one] => Ok(one.cloned()),
        _ => Err(format!("had its column {name} added, and its partitions differ in what their rows read there")),
    }
}

/// Where a value of a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The stream's column with this index.
    Stream(usize),
    /// The stream's rows are older than the column.
    Initial(Option<String>),
}

/// For each column of a table, where rows of a part that come as `relation` have it; or what the copy cannot follow.
/// `order`: the names of the part's columns by number, if the catalog was asked.
pub fn origins(schema: &TableSchema, relation: &Relation, order: Option<&[String]>, types: &Types) -> Result<Vec<Origin>, String> {
    let by_name: HashMap<&str, usize> = relation.columns.iter().enumerate().map(|(index, column)| (column.name.as_str(), index)).collect();
    let mut missing = None;
    let mut origins = Vec::with_capacity(schema.columns.len());
    for (index, column) in schema.columns.iter().enumerate() {
        let name = &column.name;
        let origin = match by_name.get(name.as_str()) {
            _ if column.dropped => Origin::Initial(None),
            Some(&place) => {
                let now = &relation.columns[place];
                let type_now = types.get(&now.type_id);
                if type_now.is_none_or(|now| (now.travel, &now.name) != (column.travel, &column.source_type)) {
                    let type_now = type_now.map_or("a type that is gone", |now| &now.name);
                    return Err(format!("had the type of its column {name} changed from {} to {type_now}", column.source_type));
                }
                if !relation.full && now.key != schema.key.contains(&index) {
                    return Err(format!("had its column {name} {} the key", if now.key { "join" } else { "leave" }));
                }
                Origin::Stream(place)
            }
            None => {
                missing = Some(name);
                Origin::Initial(column.initial.clone())
            }
        };
        origins.push(origin);
    }
    // A column that is gone from the catalog too, unless it has another name now.
    let gone = relation.columns.iter().find(|column| !schema.columns.iter().any(|known| known.name == column.name));
    if let (Some(missing), Some(gone)) = (missing, gone) {
        return Err(format!("had its column {} dropped, or renamed to {missing}", gone.name));
    }
    // Names that were exchanged are found by their order, which is that of the numbers.
    let places = order.into_iter().flatten().filter_map(|name| by_name.get(name.as_str()));
    if !places.is_sorted() {
        return Err("had columns renamed".to_owned());
    }
    Ok(origins)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        data::{TableName, Travel, fixtures},
        source::postgresql::{catalog::Type, pgoutput::RelationColumn, shape::PartShape},
    };

    const INT: (u32, i32) = (23, -1);

    fn column(number: i32, name: &str) -> Column {
        Column { source_type: "integer".into(), revision: "5".into(), ..fixtures::column(number, name, Travel::Int32) }
    }

    fn known(columns: &[(i32, &str)], last_number: i32) -> TableVersion {
        let columns = columns.iter().map(|(number, name)| column(*number, name)).collect();
        let schema = TableSchema { object_id: 9, last_number, ..fixtures::table("t", columns, &[0]) };
        TableVersion { schema, parts: vec![Part { object_id: 9, file_id: 9, attached: String::new() }] }
    }

    fn shape(columns: &[(i32, &str)], last_number: i32) -> Shape {
        let TableVersion { schema, mut parts } = known(columns, last_number);
        let part = PartShape {
            part: parts.remove(0),
            name: schema.name.clone(),
            born: true,
            unfit: None,
            columns: schema.columns.iter().map(|column| column.name.clone()).collect(),
            key: vec!["id".into()],
            initial: HashMap::new(),
        };
        Shape {
            name: schema.name,
            no_identity: false,
            has_children: false,
            last_number,
            columns: schema.columns,
            generated: BTreeSet::new(),
            key: vec![1],
            parts: vec![part],
        }
    }

    fn next(known: &TableVersion, shape: &Shape, settled: i32) -> Result<Option<TableVersion>, String> {
        evolve(known, shape, settled, &HashSet::new())
    }

    #[test]
    fn numbers_that_came_and_went_are_open_until_the_stream_has_passed_them() {
        let before = known(&[(1, "id"), (2, "v")], 2);
        assert_eq!(next(&before, &shape(&[(1, "id"), (2, "v")], 2), 0), Ok(None));
        // Number 3 came and went: nothing to do, and nothing to forget.
        assert_eq!(next(&before, &shape(&[(1, "id"), (2, "v")], 3), 0), Ok(None));
        let again = shape(&[(1, "id"), (2, "v"), (4, "x")], 4);
        assert!(next(&before, &again, 0).unwrap_err().contains("added and dropped before its column x"));
        let after = next(&before, &again, 3).unwrap().unwrap();
        assert_eq!((after.schema.columns.len(), after.schema.last_number), (3, 4));
    }

    #[test]
    fn a_generated_column_is_passed_over_and_its_expression_must_stay() {
        let before = known(&[(1, "id")], 1);
        let mut with_generated = shape(&[(1, "id")], 2);
        with_generated.generated.insert(2);
        let passed = next(&before, &with_generated, 0).unwrap().unwrap();
        assert_eq!(passed.schema.last_number, 2);
        assert!(next(&passed, &shape(&[(1, "id"), (2, "g")], 2), 0).unwrap_err().contains("generated column g"));
    }

    #[test]
    fn a_rewrite_matters_only_together_with_a_column() {
        let before = known(&[(1, "id"), (2, "v")], 2);
        let mut rewritten = shape(&[(1, "id"), (2, "v")], 2);
        rewritten.parts[0].part.file_id = 10;
        assert_eq!(next(&before, &rewritten, 0).unwrap().unwrap().parts[0].file_id, 10);
        rewritten.columns[1].revision = "6".into();
        assert!(next(&before, &rewritten, 0).unwrap_err().contains("rewritten"));
        // VACUUM FULL wrote its initial value into the rows.
        let mut filled = before.clone();
        filled.schema.columns[1].revision = "5+/16400".into();
        for (revision, follows) in [("6/16400", true), ("6+/16400", false), ("6", false), ("6/16401", false)] {
            rewritten.columns[1].revision = revision.into();
            assert_eq!(next(&filled, &rewritten, 0).is_ok(), follows, "{revision}");
        }

        let mut computed = shape(&[(1, "id"), (2, "v"), (3, "x")], 3);
        assert_eq!(next(&before, &computed, 0).unwrap().unwrap().schema.columns[2].initial, None);
        computed.parts[0].part.file_id = 10;
        assert!(next(&before, &computed, 0).unwrap_err().contains("value each"));
        computed.parts[0].initial.insert("x".into(), "7".into());
        assert_eq!(next(&before, &computed, 0).unwrap().unwrap().schema.columns[2].initial.as_deref(), Some("7"));
    }

    #[test]
    fn values_of_an_enum_may_be_added_and_not_renamed() {
        let labels = |labels: &[(u32, &str)]| labels.iter().map(|(id, label)| (*id, (*label).to_owned())).collect();
        let mut before = known(&[(1, "id"), (2, "v")], 2);
        before.schema.columns[1].labels = labels(&[(7, "sad"), (8, "fine")]);
        let mut now = shape(&[(1, "id"), (2, "v")], 2);
        now.columns[1].labels = labels(&[(7, "sad"), (9, "new"), (8, "fine")]);
        assert_eq!(next(&before, &now, 0).unwrap().unwrap().schema.columns[1].labels.len(), 3);
        now.columns[1].labels = labels(&[(7, "blue"), (8, "fine")]);
        assert!(next(&before, &now, 0).unwrap_err().contains("value sad of the type of its column v renamed"));
    }

    #[test]
    fn partitions_come_only_without_rows_of_their_own_and_never_go() {
        let part = |oid: u32, born| PartShape {
            part: Part { object_id: oid, file_id: oid, attached: "/7".into() },
            name: TableName::new("public", format!("p{oid}")),
            born,
            unfit: None,
            columns: vec!["id".into()],
            key: vec!["id".into()],
            initial: HashMap::new(),
        };
        let mut before = known(&[(1, "id")], 1);
        before.parts = vec![part(1, true).part, part(2, false).part];
        let now = |parts| Shape { parts, ..shape(&[(1, "id")], 1) };
        assert_eq!(next(&before, &now(vec![part(1, true), part(2, false)]), 0), Ok(None));
        assert_eq!(next(&before, &now(vec![part(1, true), part(2, false), part(3, true)]), 0).unwrap().unwrap().parts.len(), 3);
        let attached = now(vec![part(1, true), part(2, false), part(3, false)]);
        assert!(next(&before, &attached, 0).unwrap_err().contains("public.p3 attached"));
        assert!(evolve(&before, &attached, 0, &HashSet::from([3])).unwrap().is_some());
        assert!(next(&before, &now(vec![part(1, true)]), 0).unwrap_err().contains("detached or dropped"));
        let mut again = part(2, false);
        again.part.attached = "/8".into();
        assert!(next(&before, &now(vec![part(1, true), again]), 0).unwrap_err().contains("public.p2 detached and attached again"));
        // A default that was computed once for each partition.
        let mut grown = now(vec![part(1, true), part(2, false)]);
        grown.columns.push(column(2, "x"));
        grown.parts[0].initial.insert("x".into(), "1".into());
        assert!(next(&before, &grown, 0).unwrap_err().contains("differ"));
    }

    #[test]
    fn rows_of_every_shape_find_their_columns() {
        let relation = |columns: &[&str]| Relation {
            oid: 9,
            name: ("public".into(), "t".into()),
            full: false,
            columns: columns.iter().map(|name| RelationColumn { key: *name == "id", name: (*name).into(), type_id: INT }).collect(),
        };
        let types = Types::from([(INT, Type { travel: Travel::Int32, name: "integer".into(), labels: vec![] })]);
        let mut table = known(&[(1, "id"), (2, "v"), (3, "x"), (4, "y")], 4).schema;
        table.columns[2].initial = Some("7".into());
        let order: Vec<String> = ["id", "v", "x", "y"].map(Into::into).to_vec();
        let find = |table: &TableSchema, columns: &[&str]| origins(table, &relation(columns), Some(&order), &types);
        let at = Origin::Stream;
        assert_eq!(find(&table, &["id", "v", "x", "y"]), Ok(vec![at(0), at(1), at(2), at(3)]));
        assert_eq!(find(&table, &["id", "v"]), Ok(vec![at(0), at(1), Origin::Initial(Some("7".into())), Origin::Initial(None)]));
        // A column that is gone by now.
        assert_eq!(find(&table, &["id", "v", "x", "gone", "y"]), Ok(vec![at(0), at(1), at(2), at(4)]));
        assert!(find(&table, &["id", "v", "x", "other"]).unwrap_err().contains("column other dropped, or renamed to y"));
        assert!(find(&table, &["id", "v", "y", "x"]).is_err(), "names were exchanged");
        table.columns[1].dropped = true;
        assert_eq!(find(&table, &["id", "v", "x", "y"]).unwrap()[1], Origin::Initial(None));
        assert_eq!(find(&table, &["id", "x", "y"]).unwrap()[1..], [Origin::Initial(None), at(1), at(2)]);
    }
}
