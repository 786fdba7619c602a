//! Whether a table can be linked, by what the catalog says of it, and how it travels then. Pure.

use super::{
    Error,
    catalog::{Facet, Facts, Instance, Table},
    keys::KeyColumn,
    position,
    position::Lsn,
};
use crate::{
    api::database::CaptureMode,
    data::{Column, TableName, TableSchema, Travel},
    sqlserver::{quote, types::CatalogType},
};

/// The table, or why it cannot be linked.
pub fn build(
    mode: CaptureMode,
    name: &TableName,
    object_id: u32,
    about: &Facts,
    mut facets: Vec<Facet>,
    indexes: &[(bool, Vec<i32>)],
    instances: &[Instance],
) -> Result<Table, Error> {
    let quoted = quote::table(name);
    let unfit = |why: &str, remedy: &str| Error::TableNotSupported { message: format!("table {name} {why}"), remedy: remedy.to_owned() };
    let denied = |right: &str, remedy: String| Error::SourcePermissionDenied {
        message: format!("the link's user has no {right} on {name}"),
        remedy,
    };
    refuse_sort(name, about)?;
    if !about.may_select {
        return Err(denied("SELECT", format!("GRANT SELECT ON {quoted} TO the link's user")));
    }
    // It is another form of the sparse columns, which travel each by itself.
    facets.retain(|facet| !facet.column_set);
    let named = |of: &dyn Fn(&Facet) -> bool| facets.iter().find(|facet| of(facet)).map(|facet| facet.name.clone());
    if let Some(column) = named(&|facet| facet.encrypted) {
        return Err(unfit(
            &format!("has the column {column}, which only its clients can decrypt (Always Encrypted)"),
            "leave the table out of the link, or decrypt the column",
        ));
    }
    if let Some(column) = named(&|facet| facet.masked && !about.may_unmask) {
        let message = format!("the link's user reads the column {column} of {name} only masked");
        return Err(Error::SourcePermissionDenied { message, remedy: "GRANT UNMASK TO the link's user".to_owned() });
    }
    let (tracked_since, changes_from) = match mode {
        CaptureMode::ChangeTracking => {
            if let Some(column) = named(&|facet| facet.computed.is_some() && !facet.deterministic) {
                return Err(unfit(
                    &format!("has the computed column {column}, whose values change without a change of the row"),
                    "leave the table out of the link, or drop the column",
                ));
            }
            if !about.may_view_tracking {
                return Err(denied("VIEW CHANGE TRACKING", format!("GRANT VIEW CHANGE TRACKING ON {quoted} TO the link's user")));
            }
            let Some(since) = about.tracked_since else {
                // Change Tracking needs it, too.
                primary_key(name, indexes)?;
                return Err(unfit(
                    "is not tracked",
                    &format!("ALTER TABLE {quoted} ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = OFF)"),
                ));
            };
            (since.to_string(), position::of_version(since))
        }
        CaptureMode::ChangeDataCapture => {
            if let Some(column) = named(&|facet| facet.computed.is_some()) {
                return Err(unfit(
                    &format!("has the computed column {column}, which change data capture leaves NULL"),
                    "use captureMode ChangeTracking, or drop the column",
                ));
            }
            let instance = newest(name, instances)?;
            if let Some(column) = named(&|facet| !instance.columns.contains(&facet.name)) {
                return Err(unfit(
                    &format!("has the column {column}, which capture instance {} does not capture", instance.name),
                    &enable(name, instances),
                ));
            }
            let oldest = instances.iter().filter_map(|instance| instance.from).min().unwrap_or_default();
            (String::new(), oldest.position())
        }
    };
    let numbers = match mode {
        CaptureMode::ChangeTracking => primary_key(name, indexes)?.to_vec(),
        CaptureMode::ChangeDataCapture => {
            let not_null =
                |columns: &[i32]| columns.iter().all(|number| facets.iter().any(|facet| facet.number == *number && !facet.nullable));
            let unique = indexes.iter().filter(|(primary, columns)| !primary && not_null(columns)).min_by_key(|(_, columns)| columns.len());
            primary_key(name, indexes).or_else(|error| unique.map(|(_, columns)| columns.as_slice()).ok_or(error))?.to_vec()
        }
    };
    let mut key = Vec::new();
    let mut keys = Vec::new();
    for number in numbers {
        let place = facets.iter().position(|facet| facet.number == number);
        let place = place.ok_or_else(|| unfit("has a key whose columns are hidden", "GRANT SELECT on all columns"))?;
        let facet = &facets[place];
        if !is_key(&facet.kind) {
            let kind = facet.kind.spelled();
            let why = format!("has the key column {} of type {kind}, whose values cannot be told apart surely", facet.name);
            return Err(unfit(&why, &format!("ALTER TABLE {quoted} with a primary key of other columns")));
        }
        keys.push(KeyColumn {
            name: facet.name.clone(),
            travel: facet.kind.travel(),
            source_type: facet.kind.spelled(),
            collation: facet.collation.clone(),
        });
        key.push(place);
    }
    let filled = facets.iter().filter(|facet| facet.has_default || facet.computed.is_some()).map(|facet| facet.number).collect();
    let last_number = facets.iter().map(|facet| facet.number).max().unwrap_or_default();
    let columns = facets.into_iter().map(column).collect();
    let schema = TableSchema { name: name.clone(), object_id, system: "sqlserver".to_owned(), columns, key, last_number };
    Ok(Table { schema, keys, filled, tracked_since, changes_from })
}

/// Refuses tables of sorts whose changes are not kept, or that are not an application's own.
fn refuse_sort(name: &TableName, about: &Facts) -> Result<(), Error> {
    for (is, why) in [
        (about.external, "is an external table"),
        (about.file_table, "is a FileTable"),
        (about.graph, "is a node or edge table of a graph"),
        (about.history, "is the history of another table"),
        (about.memory_optimized, "is memory-optimized: its changes are not kept"),
    ] {
        if is {
            let remedy = "leave the table out of the link, or copy its rows into an ordinary table and link that".to_owned();
            return Err(Error::TableNotSupported { message: format!("table {name} {why}"), remedy });
        }
    }
    Ok(())
}

fn primary_key<'a>(name: &TableName, indexes: &'a [(bool, Vec<i32>)]) -> Result<&'a [i32], Error> {
    indexes.iter().find(|(primary, _)| *primary).map(|(_, columns)| columns.as_slice()).ok_or_else(|| Error::NoPrimaryKey(name.clone()))
}

/// The instance that was made last.
fn newest<'a>(name: &TableName, instances: &'a [Instance]) -> Result<&'a Instance, Error> {
    let newest = instances.iter().max_by_key(|instance| instance.from.unwrap_or(Lsn([u8::MAX; 10])));
    newest.ok_or_else(|| Error::TableNotSupported { message: format!("table {name} is not captured"), remedy: enable(name, instances) })
}

/// The statement that makes a capture instance of all columns.
fn enable(name: &TableName, instances: &[Instance]) -> String {
    let free = (1..).map(|number| format!("{}_{}_{number}", name.schema_name, name.table_name));
    let free = free.take(3).find(|free| !instances.iter().any(|instance| instance.name == *free)).unwrap_or_default();
    let too_many = if instances.len() > 1 { "EXEC sys.sp_cdc_disable_table of the older instance, then " } else { "" };
    format!(
        "{too_many}EXEC sys.sp_cdc_enable_table @source_schema = {}, @source_name = {}, @capture_instance = {}, @role_name = NULL",
        quote::literal(&name.schema_name),
        quote::literal(&name.table_name),
        quote::literal(&free)
    )
}

/// Whether two values of the type are the same key only if they are the same value.
fn is_key(kind: &CatalogType) -> bool {
    !kind.is_clr
        && !matches!(kind.travel(), Travel::Float32 | Travel::Float64 | Travel::Text)
        && !matches!(kind.name.as_str(), "timestamp" | "rowversion")
}

fn column(facet: Facet) -> Column {
    let null = if facet.nullable { "NULL" } else { "NOT NULL" };
    let computed = facet.computed.map(|definition| format!(" AS {definition}")).unwrap_or_default();
    let kind = facet.kind.spelled();
    let collation = facet.collation.as_ref().map(|collation| format!(" COLLATE {collation}")).unwrap_or_default();
    Column {
        number: facet.number,
        name: facet.name,
        travel: facet.kind.travel(),
        revision: format!("{kind}{collation} {null}{computed}"),
        source_type: kind,
        nullable: facet.nullable,
        initial: None,
        collation: facet.collation.filter(|collation| !collation.contains("_BIN2")),
        labels: Vec::new(),
        dropped: false,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::api::fault::Explain as _;

    pub fn facets() -> Vec<Facet> {
        let kind = |name: &str, max_length| CatalogType { name: name.into(), max_length, ..CatalogType::default() };
        vec![
            Facet { number: 1, name: "id".into(), kind: kind("int", 4), ..Facet::default() },
            Facet {
                number: 2,
                name: "note".into(),
                kind: kind("varchar", 20),
                nullable: true,
                collation: Some("Latin1_General_BIN2".into()),
                ..Facet::default()
            },
        ]
    }

    fn open() -> Facts {
        Facts { may_select: true, may_view_tracking: true, tracked_since: Some(7), ..Facts::default() }
    }

    pub fn build_tracked(about: &Facts, facets: Vec<Facet>, indexes: &[(bool, Vec<i32>)]) -> Result<Table, Error> {
        build(CaptureMode::ChangeTracking, &TableName::new("dbo", "t"), 9, about, facets, indexes, &[])
    }

    fn refusal(about: &Facts, change: impl Fn(&mut Facet)) -> (&'static str, String) {
        let mut facets = facets();
        change(&mut facets[1]);
        let error = build_tracked(about, facets, &[(true, vec![1])]).unwrap_err();
        ((&error).into(), error.remedy())
    }

    #[test]
    fn a_tracked_table_is_described() {
        let table = build_tracked(&open(), facets(), &[(true, vec![2, 1])]).unwrap();
        assert_eq!(table.schema.key, [1, 0]);
        assert_eq!(table.keys[0].collation.as_deref(), Some("Latin1_General_BIN2"));
        assert_eq!(table.schema.columns[1].collation, None, "compared byte by byte");
        assert_eq!(table.schema.columns[1].revision, "varchar(20) COLLATE Latin1_General_BIN2 NULL");
        assert_eq!((table.part().attached.as_str(), table.changes_from.0.as_str()), ("7", "00000000000000000007"));
    }

    #[test]
    fn what_cannot_be_linked_says_why_and_what_to_do() {
        for (about, reason, remedy) in [
            (Facts { may_select: false, ..open() }, "SourcePermissionDenied", "GRANT SELECT ON [dbo].[t]"),
            (Facts { may_view_tracking: false, ..open() }, "SourcePermissionDenied", "GRANT VIEW CHANGE TRACKING ON [dbo].[t]"),
            (Facts { tracked_since: None, ..open() }, "TableNotSupported", "ALTER TABLE [dbo].[t] ENABLE CHANGE_TRACKING"),
            (Facts { memory_optimized: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { history: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { graph: true, ..open() }, "TableNotSupported", "ordinary table"),
            (Facts { external: true, ..open() }, "TableNotSupported", "ordinary table"),
        ] {
            let found = refusal(&about, |_| {});
            assert!(found.0 == reason && found.1.contains(remedy), "{found:?}");
        }
        assert_eq!(refusal(&open(), |facet| facet.encrypted = true).0, "TableNotSupported");
        assert!(refusal(&open(), |facet| facet.masked = true).1.contains("GRANT UNMASK"));
        assert_eq!(refusal(&open(), |facet| facet.computed = Some("getdate()".into())).0, "TableNotSupported");
        assert!(matches!(build_tracked(&open(), facets(), &[(false, vec![1])]), Err(Error::NoPrimaryKey(_))));
        for kind in ["float", "real", "sql_variant", "hierarchyid", "timestamp"] {
            let mut facets = facets();
            facets[0].kind.name = kind.into();
            assert!(matches!(build_tracked(&open(), facets, &[(true, vec![1])]), Err(Error::TableNotSupported { .. })), "{kind}");
        }
    }

    #[test]
    fn a_captured_table_needs_an_instance_of_all_columns_and_may_have_another_key() {
        let about = Facts { may_select: true, ..Facts::default() };
        let instance = |columns: &[&str]| Instance {
            object_id: 9,
            name: "dbo_t_1".into(),
            from: Some(Lsn([1; 10])),
            has_command_id: true,
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        };
        let build = |facets, indexes: &[(bool, Vec<i32>)], instances: &[Instance]| {
            build(CaptureMode::ChangeDataCapture, &TableName::new("dbo", "t"), 9, &about, facets, indexes, instances)
        };
        let all = [instance(&["id", "note"])];
        assert_eq!(build(facets(), &[(false, vec![1, 2]), (false, vec![1])], &all).unwrap().schema.key, [0]);
        let nullable = build(facets(), &[(false, vec![2])], &all);
        assert!(matches!(nullable, Err(Error::NoPrimaryKey(_))));
        let partly = build(facets(), &[(true, vec![1])], &[instance(&["id"])]).unwrap_err();
        assert!(partly.to_string().contains("note") && partly.remedy().contains("@capture_instance = N'dbo_t_2'"), "{partly}");
        assert!(build(facets(), &[(true, vec![1])], &[]).unwrap_err().remedy().contains("sp_cdc_enable_table"));
        let mut computed = facets();
        computed[1].computed = Some("(1)".into());
        computed[1].deterministic = true;
        assert!(build(computed, &[(true, vec![1])], &all).unwrap_err().remedy().contains("ChangeTracking"));
    }
}
