//! The LinkTables that a link makes and owns: those that `spec.tables` lists, and those that `spec.discover` finds. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kube::ResourceExt;

use super::build::owner;
use crate::{
    api::{
        discover::{Discover, Patterns},
        link_connection::{InlineTable, LinkConnection},
        link_table::{LinkTable, LinkTableSpec, SourceTable, TargetTable},
        report::Report,
        schema::LocalRef,
    },
    controller::{link_table::acceptance, names},
    data::TableName,
};

/// How many tables an Event names.
const NAMED: usize = 5;

/// The LinkTables that a link makes, and those of its own that it no longer asks for.
#[derive(Debug, Default)]
pub struct OwnedTables {
    /// To apply.
    pub wanted: Vec<LinkTable>,
    /// To delete.
    pub orphans: Vec<Arc<LinkTable>>,
    /// LinkTables of persons that take over from one of the link's own, and the identity that they take over.
    pub takeovers: Vec<(Arc<LinkTable>, String)>,
}

/// What workers found that the link asks for and does not have.
pub fn discovered(reports: &[Arc<Report>]) -> Vec<TableName> {
    reports.iter().flat_map(|report| &report.discovered).cloned().collect()
}

/// What becomes of the link's own LinkTables; `tables` are all that refer to it, `discovered` is what workers found. A person's
/// LinkTable for the same source table takes over.
pub fn owned_tables(link: &LinkConnection, tables: &[Arc<LinkTable>], discovered: &[TableName]) -> OwnedTables {
    let mut result = OwnedTables::default();
    let staying = || tables.iter().filter(|table| table.metadata.deletion_timestamp.is_none());
    let is_ours = |table: &&Arc<LinkTable>| acceptance::is_owned_by(table, &link.name_any());
    let persons: Vec<Arc<LinkTable>> = staying().filter(|table| !acceptance::is_owned(table)).cloned().collect();
    let persons = acceptance::winners(&persons);
    let ours: HashMap<String, &Arc<LinkTable>> = staying().filter(is_ours).map(|table| (table.name_any(), table)).collect();
    let asks = Asks::of(link);

    let mut listed = HashSet::new();
    for inline in &link.spec.tables {
        let source = inline.source_name();
        let table = owned_table(link, &source, inline.target.clone());
        // Where its rows go cannot be changed: one that was to go elsewhere leaves first.
        let elsewhere = ours.get(&table.name_any()).is_some_and(|ours| ours.spec.target_name() != table.spec.target_name());
        if !persons.contains_key(&source) && !elsewhere {
            listed.insert(table.name_any());
            result.wanted.push(table);
        }
    }
    // Discovery only adds; reports may be older than the spec.
    let inline: HashSet<TableName> = link.spec.tables.iter().map(InlineTable::source_name).collect();
    for source in discovered.iter().filter(|source| asks.by_pattern(source) && !inline.contains(source) && !persons.contains_key(source)) {
        let table = owned_table(link, source, None);
        if !ours.contains_key(&table.name_any()) && listed.insert(table.name_any()) {
            result.wanted.push(table);
        }
    }
    for table in staying().filter(is_ours).filter(|table| !listed.contains(&table.name_any())) {
        let source = table.spec.source_name();
        let person = persons.get(&source);
        match person.filter(|heir| heir.spec.target_name() == table.spec.target_name()) {
            Some(heir) if acceptance::identity(heir) != acceptance::identity(table) => {
                result.takeovers.push((heir.clone(), acceptance::identity(table)));
            }
            None if person.is_none() && !inline.contains(&source) && asks.keeps(&source) => {}
            _ => result.orphans.push(table.clone()),
        }
    }
    result
}

/// What a link tells of the tables that it has come to link, by name as far as they fit; nothing if there are none.
pub fn linked(tables: &mut [TableName]) -> Option<String> {
    tables.sort();
    let first: Vec<String> = tables.iter().take(NAMED).map(ToString::to_string).collect();
    match (tables.len(), first.join(", ")) {
        (0, _) => None,
        (1, name) => Some(format!("table {name} is linked")),
        (count, names) if count <= NAMED => Some(format!("{count} tables are linked: {names}")),
        (count, names) => Some(format!("{count} tables are linked: {names} and {} more", count - NAMED)),
    }
}

/// What a link asks for by patterns.
enum Asks {
    Nothing,
    By(Patterns),
    /// Nobody can say what, until the spec is corrected.
    Unreadable,
}

impl Asks {
    fn of(link: &LinkConnection) -> Self {
        match link.spec.discover.as_ref().map(Discover::patterns) {
            None => Self::Nothing,
            Some(Ok(patterns)) => Self::By(patterns),
            Some(Err(_)) => Self::Unreadable,
        }
    }

    fn by_pattern(&self, table: &TableName) -> bool {
        matches!(self, Self::By(patterns) if patterns.ask_for(table))
    }

    fn keeps(&self, table: &TableName) -> bool {
        matches!(self, Self::Unreadable) || self.by_pattern(table)
    }
}

fn owned_table(link: &LinkConnection, source: &TableName, target: Option<TargetTable>) -> LinkTable {
    let mut table = LinkTable::new(
        &names::owned_table(&link.name_any(), source),
        LinkTableSpec {
            link_connection_ref: LocalRef::new(link.name_any()),
            source: SourceTable { schema_name: source.schema_name.clone(), table_name: source.table_name.clone() },
            target,
        },
    );
    table.metadata.namespace = link.namespace();
    table.metadata.labels = Some(names::table_labels(&link.name_any(), source));
    table.metadata.owner_references = Some(vec![owner(link)]);
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::link_connection::fixtures;

    fn made(owned: OwnedTables) -> Arc<LinkTable> {
        let mut table = owned.wanted.into_iter().next().unwrap();
        table.metadata.uid = Some("own".into());
        Arc::new(table)
    }

    #[test]
    fn a_person_takes_over_from_the_links_own_table_and_is_known_as_it() {
        let link = fixtures::link();
        let own = made(owned_tables(&link, &[], &[]));
        assert!(own.name_any().starts_with("shop-orders-"), "{}", own.name_any());
        assert_eq!(owned_tables(&link, std::slice::from_ref(&own), &[]).orphans.len(), 0);

        let mut mine = LinkTable::new("mine", own.spec.clone());
        mine.metadata.uid = Some("mine".into());
        let result = owned_tables(&link, &[own.clone(), Arc::new(mine.clone())], &[]);
        assert!(result.wanted.is_empty() && result.orphans.is_empty());
        assert_eq!(result.takeovers[0].1, "own");

        mine.metadata.annotations = Some([(names::TAKES_OVER.to_owned(), "own".to_owned())].into());
        let result = owned_tables(&link, &[own.clone(), Arc::new(mine)], &[]);
        assert_eq!((result.takeovers.len(), result.orphans.len()), (0, 1));

        let mut less = link.clone();
        less.spec.tables.clear();
        assert_eq!(owned_tables(&less, &[own], &[]).orphans.len(), 1);
    }

    #[test]
    fn a_link_tells_of_its_tables_once_however_many_they_are() {
        let told = |count: usize| linked(&mut (0..count).rev().map(|n| TableName::new("public", format!("t{n}"))).collect::<Vec<_>>());
        assert_eq!(told(0), None);
        assert_eq!(told(1).unwrap(), "table public.t0 is linked");
        assert_eq!(told(2).unwrap(), "2 tables are linked: public.t0, public.t1");
        assert_eq!(told(9).unwrap(), "9 tables are linked: public.t0, public.t1, public.t2, public.t3, public.t4 and 4 more");
    }

    #[test]
    fn discovery_only_adds_what_the_spec_asks_for() {
        let mut link = fixtures::link();
        link.spec.tables.clear();
        link.spec.discover = serde_json::from_value(json!({"include": ["public.*"], "exclude": ["*.tmp_*"]})).unwrap();
        let table = |name: &str| TableName::new("public", name);
        // A worker that has an older plan tells of one that is no longer asked for.
        let result = owned_tables(&link, &[], &[table("a"), table("tmp_1"), table("a")]);
        assert_eq!(result.wanted.iter().map(|table| table.spec.source_name()).collect::<Vec<_>>(), [table("a")]);
        let own = made(result);
        // It vanished from the source, or its worker is away: it stays, and is not applied again and again.
        let result = owned_tables(&link, std::slice::from_ref(&own), &[]);
        assert!(result.wanted.is_empty() && result.orphans.is_empty());

        // Named in the list with another target: that is another table there.
        let mut listed = link.clone();
        let elsewhere = json!([{"schemaName": "public", "tableName": "a", "target": {"schemaName": "dw"}}]);
        listed.spec.tables = serde_json::from_value(elsewhere).unwrap();
        let result = owned_tables(&listed, std::slice::from_ref(&own), &[table("a")]);
        assert_eq!((result.wanted.len(), result.orphans.len()), (0, 1));
        assert_eq!(owned_tables(&listed, &[], &[table("a")]).wanted[0].spec.target_name(), TableName::new("dw", "a"));

        // A person's table takes over.
        let mut mine = LinkTable::new("mine", own.spec.clone());
        mine.metadata.uid = Some("mine".into());
        let mine = Arc::new(mine);
        assert!(owned_tables(&link, std::slice::from_ref(&mine), &[table("a")]).wanted.is_empty());
        assert_eq!(owned_tables(&link, &[own.clone(), mine], &[]).takeovers[0].1, "own");

        // No longer asked for, or nobody can say.
        let discover = |include: &str| serde_json::from_value(json!({"include": [include]})).unwrap();
        link.spec.discover = discover("sales.*");
        assert_eq!(owned_tables(&link, std::slice::from_ref(&own), &[]).orphans.len(), 1);
        link.spec.discover = discover("public.[");
        assert_eq!(owned_tables(&link, std::slice::from_ref(&own), &[]).orphans.len(), 0);
        link.spec.discover = None;
        assert_eq!(owned_tables(&link, &[own], &[]).orphans.len(), 1);
    }
}
