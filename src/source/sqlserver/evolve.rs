//! What became of a table since its newest version: whether its copy can follow. Pure.

use super::catalog::Table;
use crate::{
    api::database::CaptureMode,
    data::{Column, TableSchema, TableVersion},
};

/// The version that follows `known` by what the catalog has now, none if it is the same; or what the copy cannot follow.
pub fn evolve(mode: CaptureMode, known: &TableVersion, now: &Table) -> Result<Option<TableVersion>, String> {
    let (before, after) = (&known.schema, &now.schema);
    if before.object_id != after.object_id {
        return Err("was dropped and created anew".to_owned());
    }
    if key(before) != key(after) {
        return Err("has another key than before".to_owned());
    }
    let mut next = known.clone();
    for column in next.schema.columns.iter_mut().filter(|column| !column.dropped) {
        let name = &column.name;
        match after.columns.iter().find(|now| now.number == column.number) {
            Some(now) if now.name != *name => return Err(format!("had its column {name} renamed to {}", now.name)),
            // NOT NULL or not matters to no value that is there.
            Some(now) if defined(now) == defined(column) => (column.nullable, column.revision) = (now.nullable, now.revision.clone()),
            Some(now) => return Err(format!("had its column {name} changed from {} to {}", column.revision, now.revision)),
            None if column.nullable => column.dropped = true,
            None => return Err(format!("had its column {name}, which was NOT NULL, dropped")),
        }
    }
    for added in after.columns.iter().filter(|now| !before.columns.iter().any(|known| known.number == now.number)) {
        let name = &added.name;
        if before.columns.iter().any(|known| known.name == *name) {
            return Err(format!("had its column {name} dropped and another one of that name added"));
        }
        // Rows that were there got its value without a change of theirs.
        if !added.nullable || now.filled.contains(&added.number) {
            return Err(format!("had its column {name} added, in which its rows may have a value each"));
        }
        // What was written before a change table with the column was made is in none.
        if mode == CaptureMode::ChangeDataCapture {
            return Err(format!("had its column {name} added, whose first values no change table has"));
        }
        next.schema.columns.push(added.clone());
    }
    next.schema.last_number = before.last_number.max(after.last_number);
    Ok((next != *known).then_some(next))
}

/// Whether a table that is now described as `now` can be read as `known`: every column is there as it was. More do not matter.
pub fn same_rows(known: &TableSchema, now: &TableSchema) -> bool {
    let same = |column: &Column| {
        let now = now.columns.iter().find(|now| now.number == column.number);
        now.is_some_and(|now| now.name == column.name && defined(now) == defined(column))
    };
    known.object_id == now.object_id && key(known) == key(now) && known.columns.iter().filter(|column| !column.dropped).all(same)
}

fn key(schema: &TableSchema) -> Vec<i32> {
    schema.key.iter().map(|&column| schema.columns[column].number).collect()
}

/// The definition without what it says of NULL.
fn defined(column: &Column) -> String {
    column.revision.replacen(" NOT NULL", " NULL", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::sqlserver::{
        catalog::{Facet, Facts},
        eligible::tests::{build_tracked, facets},
    };

    fn table(change: impl Fn(&mut Vec<Facet>)) -> Table {
        let about = Facts { may_select: true, may_view_tracking: true, tracked_since: Some(7), ..Facts::default() };
        let mut facets = facets();
        change(&mut facets);
        build_tracked(&about, facets, &[(true, vec![1])]).unwrap()
    }

    fn known() -> TableVersion {
        let table = table(|_| {});
        TableVersion { parts: vec![table.part()], schema: table.schema }
    }

    fn next(change: impl Fn(&mut Vec<Facet>)) -> Result<Option<TableVersion>, String> {
        evolve(CaptureMode::ChangeTracking, &known(), &table(change))
    }

    #[test]
    fn a_column_that_old_rows_read_as_null_is_followed() {
        let add = |facets: &mut Vec<Facet>| {
            let added = Facet { number: 3, name: "more".into(), ..facets[1].clone() };
            facets.push(added);
        };
        assert_eq!(next(|_| {}), Ok(None));
        let grown = next(add).unwrap().unwrap();
        assert_eq!((grown.schema.columns.len(), grown.schema.last_number), (3, 3));
        assert!(evolve(CaptureMode::ChangeDataCapture, &known(), &table(add)).unwrap_err().contains("no change table"));
        let unsure: [fn(&mut Facet); 2] = [|facet| facet.has_default = true, |facet| facet.nullable = false];
        for unsure in unsure {
            let change = |facets: &mut Vec<Facet>| {
                add(facets);
                unsure(&mut facets[2]);
            };
            assert!(next(change).unwrap_err().contains("a value each"));
        }
        assert!(
            next(|facets| {
                facets.pop();
            })
            .unwrap()
            .unwrap()
            .schema
            .columns[1]
                .dropped
        );
        assert!(next(|facets| facets[1].nullable = false).unwrap().is_some());
    }

    #[test]
    fn what_changes_values_or_names_is_not_followed() {
        assert!(next(|facets| facets[1].name = "other".into()).unwrap_err().contains("renamed"));
        assert!(next(|facets| facets[1].kind.max_length = 30).unwrap_err().contains("changed from varchar(20)"));
        assert!(next(|facets| facets[1].collation = Some("Latin1_General_CI_AS".into())).unwrap_err().contains("COLLATE"));
        assert!(next(|facets| facets[1].number = 3).unwrap_err().contains("another one of that name"));
        let mut other = table(|_| {});
        other.schema.object_id = 10;
        assert!(evolve(CaptureMode::ChangeTracking, &known(), &other).unwrap_err().contains("created anew"));
        assert!(same_rows(&known().schema, &table(|_| {}).schema) && !same_rows(&known().schema, &other.schema));
    }
}
