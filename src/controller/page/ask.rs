//! Of many objects those that somebody asks for: filtered, sorted, and so many of them. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::view::{State, lag, link_state, table_has_problem, table_loaded};
use crate::api::{link_connection::LinkConnection, link_table::LinkTable, report::TablePhase};

/// Most objects of one answer.
const MOST: usize = 200;

/// What somebody asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask<O> {
    /// Words that names, addresses or reasons have in them, all of them.
    pub search: String,
    /// The one phase; all if empty.
    pub phase: String,
    /// Only those with a problem.
    pub problems: bool,
    /// What comes first.
    pub sort: O,
    /// The other way round.
    pub descending: bool,
    /// How many to leave out at the beginning.
    pub offset: usize,
    /// How many to give.
    pub limit: usize,
}

impl<O: Default> Default for Ask<O> {
    fn default() -> Self {
        let (search, phase, sort) = (String::new(), String::new(), O::default());
        Self { search, phase, problems: false, sort, descending: false, offset: 0, limit: 100 }
    }
}

/// How links are sorted; those of one place by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LinkOrder {
    /// The worst first.
    #[default]
    Problem,
    /// By namespace and name.
    Name,
    /// In the order in which a link goes through them.
    Phase,
    /// By the number of tables.
    Tables,
    /// The smallest lag first.
    Lag,
    /// By cores at work.
    CoreCount,
    /// The one that was started first.
    StartTime,
}

/// How tables are sorted; those of one place by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TableOrder {
    /// The worst first.
    #[default]
    Problem,
    /// By the source's schema and table.
    Name,
    /// In the order in which a table goes through them.
    Phase,
    /// How much of the first load is done.
    Loaded,
    /// Rows written.
    Rows,
    /// The smallest lag first.
    Lag,
    /// When data was last written.
    Processed,
}

/// An object that can be filtered and sorted.
pub trait Listed {
    /// How it can be sorted.
    type Order: Copy;
    /// What words are looked for in.
    fn text(&self) -> String;
    /// Its phase.
    fn phase(&self) -> &'static str;
    /// Whether something is wrong with it.
    fn has_problem(&self) -> bool;
    /// Its place in an order, and what decides among those of one place.
    fn place(&self, order: Self::Order, now: Timestamp) -> (i64, String);
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found<T> {
    /// How many there are.
    pub total: usize,
    /// How many of them are asked for.
    pub matching: usize,
    /// Some of those.
    pub items: Vec<T>,
}

impl<T> Found<T> {
    /// The same, each as something else.
    pub fn map<U>(self, to: impl FnMut(T) -> U) -> Found<U> {
        Found { total: self.total, matching: self.matching, items: self.items.into_iter().map(to).collect() }
    }
}

/// Finds what is asked for.
pub fn find<T: Listed>(mut objects: Vec<Arc<T>>, ask: &Ask<T::Order>, now: Timestamp) -> Found<Arc<T>> {
    let total = objects.len();
    let words: Vec<String> = ask.search.split_whitespace().map(str::to_lowercase).collect();
    objects.retain(|object| {
        let has_words = || {
            let text = object.text().to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        (!ask.problems || object.has_problem())
            && (ask.phase.is_empty() || object.phase() == ask.phase)
            && (words.is_empty() || has_words())
    });
    objects.sort_by_cached_key(|object| object.place(ask.sort, now));
    if ask.descending {
        objects.reverse();
    }
    let matching = objects.len();
    Found { total, matching, items: objects.into_iter().skip(ask.offset).take(ask.limit.min(MOST)).collect() }
}

impl Listed for LinkConnection {
    type Order = LinkOrder;

    fn text(&self) -> String {
        let status = self.status.as_ref();
        let source = status.and_then(|status| status.source.as_ref()?.version.clone()).unwrap_or_default();
        let target = status.and_then(|status| status.target.as_ref()?.endpoint.clone()).unwrap_or_default();
        let (_, reason) = link_state(self);
        format!("{}/{} {source} {target} {reason}", self.namespace().unwrap_or_default(), self.name_any())
    }

    fn phase(&self) -> &'static str {
        self.status.as_ref().and_then(|status| status.phase).unwrap_or_default().into()
    }

    fn has_problem(&self) -> bool {
        link_state(self).0 != State::Ready
    }

    fn place(&self, order: LinkOrder, now: Timestamp) -> (i64, String) {
        let status = self.status.as_ref();
        let place = match order {
            LinkOrder::Problem => -(link_state(self).0 as i64),
            LinkOrder::Name => 0,
            LinkOrder::Phase => status.and_then(|status| status.phase).unwrap_or_default() as i64,
            LinkOrder::Tables => status.and_then(|status| status.tables.as_ref()).map_or(0, |tables| tables.total.into()),
            LinkOrder::Lag => status.and_then(|status| lag(status.consistent_as_of, now)).map_or(-1, i64::from),
            LinkOrder::CoreCount => status.and_then(|status| status.core_count).map_or(-1, i64::from),
            LinkOrder::StartTime => status.and_then(|status| status.start_time).map_or(i64::MIN, Timestamp::as_second),
        };
        (place, format!("{}/{}", self.namespace().unwrap_or_default(), self.name_any()))
    }
}

impl Listed for LinkTable {
    type Order = TableOrder;

    fn text(&self) -> String {
        let status = self.status.as_ref();
        let code = status.and_then(|status| status.error.as_ref()).map_or("", |error| error.code.as_str());
        format!("{} {} {} {code}", self.spec.source_name(), self.spec.target_name(), self.name_any())
    }

    fn phase(&self) -> &'static str {
        phase(self).into()
    }

    fn has_problem(&self) -> bool {
        table_has_problem(self)
    }

    fn place(&self, order: TableOrder, now: Timestamp) -> (i64, String) {
        let status = self.status.as_ref();
        let place = match order {
            TableOrder::Problem => match phase(self) {
                TablePhase::Failed => 0,
                TablePhase::Suspended => 1,
                _ if table_has_problem(self) => 2,
                TablePhase::Snapshotting => 3,
                TablePhase::Waiting => 4,
                TablePhase::Replicating => 5,
            },
            TableOrder::Name => 0,
            TableOrder::Phase => phase(self) as i64,
            TableOrder::Loaded => status.and_then(table_loaded).and_then(|loaded| loaded.percent).map_or(-1, i64::from),
            TableOrder::Rows => status.and_then(|status| status.count).unwrap_or(-1),
            TableOrder::Lag => status.and_then(|status| lag(status.as_of, now)).map_or(-1, i64::from),
            TableOrder::Processed => status.and_then(|status| status.last_processed_time).map_or(i64::MIN, Timestamp::as_second),
        };
        (place, self.spec.source_name().to_string())
    }
}

fn phase(table: &LinkTable) -> TablePhase {
    table.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(name: &str, phase: &str, rows: i64) -> Arc<LinkTable> {
        let table = json!({
            "metadata": {"name": format!("shop-{name}")},
            "spec": {"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": name}},
            "status": {"phase": phase, "count": rows},
        });
        Arc::new(serde_json::from_value(table).unwrap())
    }

    fn names(tables: Vec<Arc<LinkTable>>, query: &str) -> (Vec<String>, usize, usize) {
        let ask: Ask<TableOrder> = axum::extract::Query::try_from_uri(&format!("/?{query}").parse().unwrap()).unwrap().0;
        let found = find(tables, &ask, Timestamp::UNIX_EPOCH).map(|table| table.spec.source.table_name.clone());
        (found.items, found.matching, found.total)
    }

    fn some() -> Vec<Arc<LinkTable>> {
        let of = [("orders", "Replicating", 9), ("customers", "Failed", 1), ("items", "Snapshotting", 5), ("stock", "Suspended", 7)];
        of.into_iter().map(|(name, phase, rows)| table(name, phase, rows)).collect()
    }

    #[test]
    fn the_worst_comes_first_unless_somebody_sorts() {
        assert_eq!(names(some(), "").0, ["customers", "stock", "items", "orders"]);
        assert_eq!(names(some(), "sort=name").0, ["customers", "items", "orders", "stock"]);
        assert_eq!(names(some(), "sort=rows&descending=true").0, ["orders", "stock", "items", "customers"]);
    }

    #[test]
    fn filters_narrow_and_say_how_many_they_leave() {
        assert_eq!(names(some(), "search=ORD+public"), (vec!["orders".to_owned()], 1, 4));
        assert_eq!(names(some(), "search=ord+sales").0, [""; 0]);
        assert_eq!(names(some(), "problems=true").0, ["customers", "stock"]);
        assert_eq!(names(some(), "phase=Snapshotting").0, ["items"]);
    }

    #[test]
    fn ten_thousand_tables_come_in_pages() {
        let many: Vec<_> = (0..10_000).map(|number| table(&format!("t{number:05}"), "Replicating", 1)).collect();
        let (first, matching, total) = names(many.clone(), "");
        assert_eq!((first.len(), matching, total), (100, 10_000, 10_000));
        assert_eq!(names(many.clone(), "offset=9990").0.len(), 10);
        assert_eq!(names(many.clone(), "offset=100&limit=1").0, ["t00100"]);
        assert_eq!(names(many, "limit=10000").0.len(), MOST);
    }

    #[test]
    fn what_nobody_can_ask_for_is_refused() {
        let refused = |query: &str| axum::extract::Query::<Ask<TableOrder>>::try_from_uri(&format!("/?{query}").parse().unwrap()).is_err();
        assert!(refused("sort=colour") && refused("limit=-1") && refused("colour=red"));
    }
}
