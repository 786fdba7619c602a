//! Rows that lack the same columns, which one statement fills. Pure.

use std::collections::BTreeMap;

use crate::data::Unresolved;

/// Rows of which some columns stand only in the target, told apart by which: there are few such groups (the large columns).
pub(in crate::target) struct Groups<'a> {
    /// By their columns: a group's number, and how many rows it has.
    pub(in crate::target) groups: BTreeMap<&'a [u16], (i32, u64)>,
    /// The group of each row.
    pub(in crate::target) of: Vec<i32>,
}

pub(in crate::target) fn groups(unresolved: &[Unresolved]) -> Groups<'_> {
    let mut groups: BTreeMap<&[u16], (i32, u64)> = BTreeMap::new();
    let mut of = Vec::with_capacity(unresolved.len());
    for row in unresolved {
        let next = groups.len() as i32;
        let group = groups.entry(&row.columns).or_insert((next, 0));
        group.1 += 1;
        of.push(group.0);
    }
    Groups { groups, of }
}
