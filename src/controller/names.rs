//! Names, labels and annotations of what the controller makes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    api::conditions::mark::{LINK, MANAGER, ROLE},
    data::TableName,
};

/// Label with the hash of a LinkTable's source table.
pub const TABLE_LABEL: &str = "link-operator.io/table";
/// Label that says who manages an object.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Annotation of a LinkTable that took over from one that the link had made: the UID of that one.
pub const TAKES_OVER: &str = "link-operator.io/takes-over";
/// Annotation of a one-shot pod: what exactly it was asked.
pub const ASKED: &str = "link-operator.io/asked";
/// Annotation of the API's Secret: when its certificate is to be replaced.
pub const RENEW_AT: &str = "link-operator.io/renew-at";

/// The shape of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Component {
    /// Replicates.
    Worker,
    /// Asks and ends.
    Probe,
    /// Removes what a link made and ends.
    Release,
}

/// Name of the StatefulSet, of its Service, of the PodDisruptionBudget and of the NetworkPolicy of a link.
pub fn workers(link: &str) -> String {
    link.to_owned()
}

/// Name of the ConfigMap with a link's plan.
pub fn plan(link: &str) -> String {
    format!("{link}-plan")
}

/// Name of the Secret with the certificate and token of a link's worker API.
pub fn api(link: &str) -> String {
    format!("{link}-api")
}

/// Name of the pod that asks for a link that has no live worker.
pub fn link_probe(link: &str) -> String {
    format!("{link}-link-probe")
}

/// Name of the pod that asks for a landing zone.
pub fn zone_probe(zone: &str) -> String {
    format!("{zone}-zone-probe")
}

/// Name of the pod that releases what a link made.
pub fn release(link: &str) -> String {
    format!("{link}-release")
}

/// Labels of every object that belongs to a link.
pub fn link_labels(link: &str) -> BTreeMap<String, String> {
    let mut labels = common_labels();
    labels.insert(LINK.to_owned(), link.to_owned());
    labels
}

/// Labels of a LinkTable that a link made for a source table.
pub fn table_labels(link: &str, source: &TableName) -> BTreeMap<String, String> {
    let mut labels = link_labels(link);
    labels.insert(TABLE_LABEL.to_owned(), table_hash(source));
    labels
}

/// Labels of every object that the controller makes.
pub fn common_labels() -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", "link-operator"), (MANAGED_BY_LABEL, MANAGER)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Labels by which a link's workers are selected. Never changes: a StatefulSet's selector is immutable.
pub fn worker_selector(link: &str) -> BTreeMap<String, String> {
    [(LINK, link), (ROLE, Component::Worker.into())].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Ten hexadecimal digits that stand for a source table where its name cannot.
pub fn table_hash(table: &TableName) -> String {
    // The zero byte parts the names: it is in neither.
    let digest = Sha256::digest(format!("{}\0{}", table.schema_name, table.table_name));
    hex::encode(&digest[..5])
}

/// Name of the LinkTable that a link owns for a source table: `<link>-<slug>-<hash>`, at most 63 characters.
pub fn owned_table(link: &str, table: &TableName) -> String {
    let hash = table_hash(table);
    let room = 63_usize.saturating_sub(link.len() + hash.len() + 2);
    let slug: String = table
        .table_name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(room)
        .collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() { format!("{link}-{hash}") } else { format!("{link}-{slug}-{hash}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_names_are_names_whatever_the_table_is_called() {
        let name = |table: &str| owned_table("shop", &TableName::new("public", table));
        assert!(name("Orders 2024").starts_with("shop-orders-2024-"), "{}", name("Orders 2024"));
        assert!(name("Ünï\"codé").starts_with("shop-n--cod-"), "{}", name("Ünï\"codé"));
        assert_eq!(name("表").matches('-').count(), 1);
        assert!(name(&"x".repeat(63)).len() <= 63);
        assert_ne!(name("a-b"), name("a_b"));
        assert_ne!(owned_table("shop", &TableName::new("a", "b.c")), owned_table("shop", &TableName::new("a.b", "c")));
    }
}
