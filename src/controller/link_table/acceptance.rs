//! Which LinkTables are linked: of a source table one in its link, and one among all links from its database to the same target.
//! Pure.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::{
    api::{
        conditions::reason,
        database::{Source, Target},
        fault::Fault,
        link_connection::LinkConnection,
        link_table::LinkTable,
    },
    controller::names::TAKES_OVER,
    data::TableName,
};

/// Whether a LinkTable is one that a LinkConnection made from its own `spec.tables`.
pub fn is_owned(table: &LinkTable) -> bool {
    owner(table).is_some()
}

/// Whether it was made from that of the LinkConnection of this name.
pub fn is_owned_by(table: &LinkTable, link: &str) -> bool {
    owner(table).is_some_and(|owner| owner.name == link)
}

fn owner(table: &LinkTable) -> Option<&OwnerReference> {
    table.owner_references().iter().find(|owner| owner.kind == "LinkConnection")
}

/// By what a LinkTable is known to workers: its UID, or that of the link's own LinkTable that it took over from, so that
/// nothing is loaded again.
pub fn identity(table: &LinkTable) -> String {
    table.annotations().get(TAKES_OVER).cloned().or_else(|| table.uid()).unwrap_or_default()
}

/// For each source table the LinkTable that has it: a person's before a link's own, the oldest before the others.
///
/// A person's that is to take over has it once that stands in its annotations: until then workers would take it for another table,
/// and load it.
pub fn winners(tables: &[Arc<LinkTable>]) -> HashMap<TableName, Arc<LinkTable>> {
    let mut winners = first(tables, |_| true);
    for heir in winners.values_mut().filter(|table| !is_owned(table) && !table.annotations().contains_key(TAKES_OVER)) {
        let (source, target) = (heir.spec.source_name(), heir.spec.target_name());
        let same = |table: &LinkTable| is_owned(table) && table.spec.source_name() == source && table.spec.target_name() == target;
        if let Some(before) = first(tables, same).remove(&source) {
            *heir = before;
        }
    }
    winners
}

/// The same, whoever is yet to take over, of those LinkTables that satisfy a predicate.
fn first(tables: &[Arc<LinkTable>], wanted: impl Fn(&LinkTable) -> bool) -> HashMap<TableName, Arc<LinkTable>> {
    let rank = |table: &LinkTable| {
        let created = table.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // A table that is going away has given its source table up.
        (table.metadata.deletion_timestamp.is_some(), is_owned(table), created, table.name_any())
    };
    let mut winners: HashMap<TableName, Arc<LinkTable>> = HashMap::new();
    for table in tables.iter().filter(|table| wanted(table)) {
        let winner = winners.entry(table.spec.source_name()).or_insert_with(|| table.clone());
        if rank(table) < rank(winner) {
            *winner = table.clone();
        }
    }
    winners.retain(|_, table| table.metadata.deletion_timestamp.is_none());
    winners
}

/// A LinkTable of another link that reads the same database and writes to the same target system.
#[derive(Clone, Debug)]
pub struct Rival {
    /// The other link.
    pub link: Arc<LinkConnection>,
    /// The LinkTable that is linked there.
    pub table: Arc<LinkTable>,
}

/// Whether two links read the same database, by its address or by what it says that it is, and write to the same target system.
pub fn are_rivals(one: &LinkConnection, other: &LinkConnection) -> bool {
    // Asked of every two links: nothing is copied.
    let same_source = || {
        source_address(&one.spec.source) == source_address(&other.spec.source)
            || source_identity(one).is_some_and(|found| source_identity(other) == Some(found))
    };
    let target = target_address(&one.spec.target);
    target.is_some() && target == target_address(&other.spec.target) && same_source() && one.metadata.uid != other.metadata.uid
}

fn source_identity(link: &LinkConnection) -> Option<&str> {
    link.status.as_ref()?.source.as_ref()?.identity.as_deref()
}

/// The rival that has a LinkTable's source table: one that is older.
pub fn holder<'a>(table: &LinkTable, rivals: &'a [Rival]) -> Option<&'a Rival> {
    let age = |table: &LinkTable| (table.metadata.creation_timestamp.as_ref().map(|time| time.0), table.namespace(), table.name_any());
    let same = |rival: &&Rival| rival.table.spec.source_name() == table.spec.source_name();
    rivals.iter().filter(same).filter(|rival| age(&rival.table) < age(table)).min_by_key(|rival| age(&rival.table))
}

/// System, host, port and database.
type Address<'a> = Option<(&'static str, Host<'a>, u16, &'a str)>;

/// The name of a host, in whichever case.
#[derive(Clone, Copy)]
struct Host<'a>(&'a str);

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

fn source_address(source: &Source) -> Address<'_> {
    let postgresql = source.postgresql.as_ref().map(|it| ("postgresql", &it.host, it.port, &it.database));
    let sql_server = source.sql_server.as_ref().map(|it| ("sqlServer", &it.database.host, it.database.port, &it.database.database));
    postgresql.or(sql_server).map(|(system, host, port, database)| (system, Host(host), port, database.as_str()))
}

fn target_address(target: &Target) -> Address<'_> {
    let postgresql = target.postgresql.as_ref().map(|it| ("postgresql", &it.database.host, it.database.port, &it.database.database));
    let sql_server = target.sql_server_database().map(|it| ("sqlServer", &it.host, it.port, &it.database));
    postgresql.or(sql_server).map(|(system, host, port, database)| (system, Host(host), port, database.as_str()))
}

/// Why this table is not linked, if it is not; `tables` are all of its link, `rivals` those of others.
pub fn refusal(table: &LinkTable, tables: &[Arc<LinkTable>], rivals: &[Rival], link: Option<&LinkConnection>) -> Option<Fault> {
    let name = &table.spec.link_connection_ref.name;
    let Some(link) = link else {
        return Some(Fault {
            reason: "LinkConnectionNotFound".to_owned(),
            message: format!("LinkConnection {name} does not exist in this namespace"),
            remedy: format!("create LinkConnection {name}, or delete this LinkTable"),
            heals: true,
        });
    };
    if link.metadata.deletion_timestamp.is_some() {
        return Some(Fault {
            reason: "LinkConnectionDeleted".to_owned(),
            message: format!("LinkConnection {name} is being deleted"),
            remedy: format!("create LinkConnection {name} anew once it is gone, or delete this LinkTable"),
            heals: true,
        });
    }
    if let Some(fault) = unfit(table, link) {
        return Some(fault);
    }
    let by = if let Some(Rival { link, table }) = holder(table, rivals) {
        let (namespace, link, table) = (link.namespace().unwrap_or_default(), link.name_any(), table.name_any());
        format!("LinkTable {namespace}/{table} of LinkConnection {namespace}/{link}, from the same database to the same target,")
    } else {
        // Who is to take over is not refused before he does.
        let winner = first(tables, |table| unfit(table, link).is_none())
            .remove(&table.spec.source_name())
            .filter(|winner| winner.uid() != table.uid())?;
        format!("LinkTable {}", winner.name_any())
    };
    Some(Fault {
        reason: "TableAlreadyLinked".to_owned(),
        message: format!("table {} is linked by {by} already", table.spec.source_name()),
        remedy: "delete one of the two LinkTables".to_owned(),
        heals: false,
    })
}

/// What the table asks of its link's target that this cannot do.
pub fn unfit(table: &LinkTable, link: &LinkConnection) -> Option<Fault> {
    let options = table.spec.target_options();
    let named = match (&options.distribution_options, &options.structure_options) {
        _ if link.spec.target.synapse.is_some() => return None,
        (Some(_), Some(_)) => "distributionOptions and structureOptions",
        (Some(_), None) => "distributionOptions",
        (None, Some(_)) => "structureOptions",
        (None, None) => return None,
    };
    Some(Fault {
        reason: reason::NOT_APPLICABLE.to_owned(),
        message: format!("target.{named} is for tables of a Synapse pool, and LinkConnection {} has another target", link.name_any()),
        remedy: format!("delete this LinkTable and create it again without target.{named}"),
        heals: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(name: &str, source: &str, second: u32, owned: bool) -> Arc<LinkTable> {
        let owners = if owned { json!([{"apiVersion": "v", "kind": "LinkConnection", "name": "shop", "uid": "1"}]) } else { json!([]) };
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkTable",
                "metadata": {"name": name, "uid": name, "ownerReferences": owners,
                    "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
                "spec": {"linkConnectionRef": {"name": "shop"}, "source": {"schemaName": "public", "tableName": source}},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_oldest_wins_and_a_person_before_the_link_once_he_is_known_as_it() {
        let (own, mine) = (table("own", "b", 1, true), table("mine", "b", 5, false));
        let tables = [table("young", "a", 9, false), table("old", "a", 1, false), own.clone(), mine.clone()];
        let winner = |tables: &[Arc<LinkTable>], source: &str| winners(tables)[&TableName::new("public", source)].name_any();
        assert_eq!(winner(&tables, "a"), "old");
        // Planned before, it would be loaded anew.
        assert_eq!(winner(&tables, "b"), "own");
        let changed = |change: &dyn Fn(&mut LinkTable)| {
            let mut heir = mine.as_ref().clone();
            change(&mut heir);
            winner(&[own.clone(), Arc::new(heir)], "b")
        };
        assert_eq!(changed(&|heir| heir.metadata.annotations = Some([(TAKES_OVER.to_owned(), "own".to_owned())].into())), "mine");
        let elsewhere = |heir: &mut LinkTable| heir.spec.target = serde_json::from_value(json!({"schemaName": "dw"})).unwrap();
        assert_eq!(changed(&elsewhere), "mine", "that is another table");
        assert_eq!(winner(std::slice::from_ref(&mine), "b"), "mine");
        let link: LinkConnection = serde_json::from_value(json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop"},
            "spec": {"source": {}, "target": {}, "landingZoneRef": {"name": "z"}},
        }))
        .unwrap();
        assert_eq!(refusal(&mine, &tables, &[], Some(&link)), None);
    }

    #[test]
    fn among_links_of_the_same_systems_the_oldest_table_is_linked_and_the_loser_says_who_has_it() {
        let database =
            |host: &str| json!({"postgresql": {"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": "s"}}}}});
        let link = |name: &str, source: &str, target: &str, identity: &str| -> Arc<LinkConnection> {
            let status = json!({"source": {"type": "postgresql", "identity": identity}});
            Arc::new(
                serde_json::from_value(json!({
                    "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection",
                    "metadata": {"name": name, "namespace": "other", "uid": name}, "status": status,
                    "spec": {"source": database(source), "target": database(target), "landingZoneRef": {"name": "z"}},
                }))
                .unwrap(),
            )
        };
        let ours = link("ours", "db", "dw", "1/1");
        assert!(are_rivals(&ours, &link("same", "DB", "dw", "2/2")), "by address");
        assert!(are_rivals(&ours, &link("moved", "db-2", "dw", "1/1")), "by identity");
        assert!(!are_rivals(&ours, &link("else", "db-2", "dw", "2/2")) && !are_rivals(&ours, &link("away", "db", "dw-2", "1/1")));
        assert!(!are_rivals(&ours, &ours));
        let pool = |name: &str, pool: &str| {
            let mut link = link(name, "db", "dw", "1/1").as_ref().clone();
            link.spec.target = serde_json::from_value(json!({"synapse": {
                "host": "w", "database": pool, "auth": {"managedIdentity": {}}, "copyAuth": {"managedIdentity": {}},
            }}))
            .unwrap();
            link
        };
        assert!(are_rivals(&pool("one", "pool"), &pool("two", "pool")) && !are_rivals(&pool("one", "pool"), &pool("two", "pool-2")));

        let rival =
            |source: &str, second: u32| Rival { link: link("shop", "db", "dw", "1/1"), table: table("theirs", source, second, false) };
        let mine = table("mine", "a", 5, false);
        assert!(holder(&mine, &[rival("b", 1), rival("a", 9)]).is_none(), "another table, or a younger one");
        let rivals = [rival("a", 1)];
        let fault = refusal(&mine, std::slice::from_ref(&mine), &rivals, Some(&ours)).unwrap();
        assert!(fault.reason == "TableAlreadyLinked" && fault.message.contains("other/theirs of LinkConnection other/shop"), "{fault:?}");
        assert_eq!(refusal(&mine, std::slice::from_ref(&mine), &[rival("a", 9)], Some(&ours)), None);
    }

    #[test]
    fn the_loser_says_who_holds_the_table() {
        let link: LinkConnection = serde_json::from_value(json!({
            "apiVersion": "link-operator.io/v1alpha1", "kind": "LinkConnection", "metadata": {"name": "shop"},
            "spec": {"source": {}, "target": {}, "landingZoneRef": {"name": "z"}},
        }))
        .unwrap();
        let tables = [table("young", "a", 9, false), table("old", "a", 1, false)];
        let fault = refusal(&tables[0], &tables, &[], Some(&link)).unwrap();
        assert_eq!(fault.reason, "TableAlreadyLinked");
        assert!(fault.message.contains("LinkTable old"), "{}", fault.message);
        assert_eq!(refusal(&tables[1], &tables, &[], Some(&link)), None);
        assert_eq!(refusal(&tables[1], &tables, &[], None).unwrap().reason, "LinkConnectionNotFound");

        let mut spread = tables[1].as_ref().clone();
        spread.spec.target = serde_json::from_value(json!({"distributionOptions": {"type": "Replicate"}})).unwrap();
        let fault = refusal(&spread, &tables, &[], Some(&link)).unwrap();
        assert!(fault.reason == "NotApplicable" && fault.message.starts_with("target.distributionOptions is for"), "{fault:?}");
        let mut pool = link.clone();
        pool.spec.target = serde_json::from_value(json!({"synapse": {
            "host": "w", "database": "pool", "auth": {"managedIdentity": {}}, "copyAuth": {"managedIdentity": {}},
        }}))
        .unwrap();
        assert_eq!(refusal(&spread, &tables, &[], Some(&pool)), None);
        let mut leaving = link;
        leaving.metadata.deletion_timestamp = tables[0].metadata.creation_timestamp.clone();
        assert_eq!(refusal(&tables[1], &tables, &[], Some(&leaving)).unwrap().reason, "LinkConnectionDeleted");
    }
}
