//! LinkTables by their link and source table: with many of them nobody can look at all to find a few.

use std::{
    collections::BTreeSet,
    future::Future,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use kube::{
    Api, ResourceExt,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};

use super::{
    apply::Applier,
    budget::Budget,
    context::Queues,
    link_connection::Memory,
    trim,
    watch::{self, Change},
};
use crate::{api::link_table::LinkTable, data::TableName};

/// Names of LinkTables in an order in which those of a link, and of its source tables, stand together. Cheap to clone.
///
/// May name one that is gone, never lacks one that the store has: it hears of each first ([`Index::comes`]), and is told when it
/// went ([`Index::went`]).
#[derive(Clone, Default)]
pub struct Index(Arc<RwLock<BTreeSet<Key>>>);

/// Namespace, link, source table and name.
type Key = (String, String, TableName, String);

fn key(table: &LinkTable) -> Key {
    (table.namespace().unwrap_or_default(), table.spec.link_connection_ref.name.clone(), table.spec.source_name(), table.name_any())
}

impl Index {
    /// The store is about to have it.
    pub fn comes(&self, table: &LinkTable) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key(table));
    }

    /// The store no longer has it.
    pub fn went(&self, table: &LinkTable) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&key(table));
    }

    /// Names after `from`, as long as they are wanted.
    fn names(&self, from: Key, wanted: impl Fn(&Key) -> bool) -> Vec<String> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.range((Bound::Excluded(from), Bound::Unbounded)).take_while(|key| wanted(key)).map(|key| key.3.clone()).collect()
    }
}

/// All LinkTables that are known.
#[derive(Clone)]
pub struct Tables {
    /// By namespace and name.
    pub store: Store<LinkTable>,
    /// By link and source table.
    pub index: Index,
}

impl Tables {
    /// Those that refer to a link, ordered by source table.
    pub fn of_link(&self, namespace: &str, link: &str) -> Vec<Arc<LinkTable>> {
        let from = (namespace.to_owned(), link.to_owned(), TableName::new("", ""), String::new());
        self.get(namespace, link, &self.index.names(from, |key| key.0 == namespace && key.1 == link))
    }

    /// Those that refer to a link and name this source table, ordered by name.
    pub fn of_source(&self, namespace: &str, link: &str, source: &TableName) -> Vec<Arc<LinkTable>> {
        let from = (namespace.to_owned(), link.to_owned(), source.clone(), String::new());
        let mut found = self.get(namespace, link, &self.index.names(from, |key| key.0 == namespace && key.1 == link && key.2 == *source));
        found.retain(|table| table.spec.source_name() == *source);
        found
    }

    fn get(&self, namespace: &str, link: &str, names: &[String]) -> Vec<Arc<LinkTable>> {
        // What was made anew under its name may refer to another link.
        let found = names.iter().filter_map(|name| watch::get(&self.store, namespace, name));
        found.filter(|table| table.spec.link_connection_ref.name == link).collect()
    }
}

/// Keeps all LinkTables, and says whom their changes wake. The future does the work.
pub fn watch_all(
    api: Api<LinkTable>,
    queues: Queues,
    budget: Arc<Budget>,
    memory: Arc<Memory>,
    applier: Arc<Applier>,
) -> (Tables, impl Future<Output = ()> + Send) {
    let index = Index::default();
    let (coming, known) = (index.clone(), index.clone());
    let prepare = move |table: &mut LinkTable| {
        trim::table(table);
        coming.comes(table);
    };
    let (store, work) = watch::watch(api, watcher::Config::default(), prepare, move |table, change, store| {
        memory.tables.heard(table);
        if change == Change::Status {
            return;
        }
        let (namespace, link) = (table.namespace().unwrap_or_default(), &table.spec.link_connection_ref.name);
        if change == Change::Gone {
            memory.tables.forget(&table.uid().unwrap_or_default());
            budget.forget(&ObjectRef::from_obj(table).into());
            applier.forget::<LinkTable>(&namespace, &table.name_any());
            known.went(table);
        }
        queues.links.wake_named(&namespace, link);
        queues.tables.wake(ObjectRef::from_obj(table));
        // Who has the source table may have changed.
        let tables = Tables { store: store.clone(), index: known.clone() };
        for rival in tables.of_source(&namespace, link, &table.spec.source_name()) {
            queues.tables.wake(ObjectRef::from_obj(rival.as_ref()));
        }
    });
    (Tables { store, index }, work)
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;

    fn table(namespace: &str, name: &str, link: &str, source: &str) -> LinkTable {
        serde_json::from_value(json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkTable", "metadata": {"namespace": namespace, "name": name},
            "spec": {"linkConnectionRef": {"name": link}, "source": {"schemaName": "public", "tableName": source}},
        }))
        .unwrap()
    }

    #[test]
    fn tables_are_found_by_link_and_by_source_and_not_after_they_went() {
        let (store, mut writer) = reflector::store();
        let tables = Tables { store, index: Index::default() };
        let all = [
            table("a", "one", "shop", "orders"),
            table("a", "two", "shop", "orders"),
            table("a", "three", "shop", "customers"),
            table("a", "four", "shop-2", "orders"),
            table("b", "one", "shop", "orders"),
        ];
        for table in &all {
            tables.index.comes(table);
            writer.apply_watcher_event(&Event::Apply(table.clone()));
        }
        let names = |found: Vec<Arc<LinkTable>>| found.iter().map(|table| table.name_any()).collect::<Vec<_>>();
        let orders = TableName::new("public", "orders");
        assert_eq!(names(tables.of_link("a", "shop")), ["three", "one", "two"]);
        assert_eq!(names(tables.of_source("a", "shop", &orders)), ["one", "two"]);
        assert_eq!(names(tables.of_source("b", "shop", &orders)), ["one"]);
        assert!(tables.of_link("a", "sho").is_empty() && tables.of_source("a", "shop", &TableName::new("public", "order")).is_empty());

        // Made anew for another link before anybody heard that it went.
        let moved = table("a", "one", "shop-2", "orders");
        tables.index.comes(&moved);
        writer.apply_watcher_event(&Event::Apply(moved));
        assert_eq!(names(tables.of_source("a", "shop", &orders)), ["two"]);
        assert_eq!(names(tables.of_link("a", "shop-2")), ["four", "one"]);
        tables.index.went(&all[1]);
        assert!(tables.of_source("a", "shop", &orders).is_empty());
    }
}
