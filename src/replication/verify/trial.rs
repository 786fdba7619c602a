//! Whether a row differs, on a link that runs: the source is ahead of the target, and both change between two looks. Pure.
//!
//! A look reads a row in the source, waits until the target has applied all that this read can have seen, and reads the row
//! there. Equal hashes are equal rows. Different ones may only say that the row changed after the first read. But if the next
//! look finds it in the source as it was, written by nobody since (the same version), the source had the row like that also at
//! the place where the target was at the first look, and the target must have had it like that: it is wrong, whatever is written
//! to it meanwhile. Of a row that is in neither look of the source, the version in the target proves the same. All of this holds
//! if what the target was sent by the first look is visible in the source by the next: a commit reaches the stream before others
//! see it, for as long as a synchronous standby does not answer. So between two looks all transactions end that were open at the
//! first.

use std::collections::BTreeSet;

use crate::data::{Digests, KeyTexts, RowDigest, RowDigests};

/// What stands still if the row does: as the source has it, or as only the target does.
#[derive(Debug, PartialEq, Eq)]
enum Still {
    Source(RowDigest),
    Target(RowDigest),
}

/// The looks at one row.
#[derive(Debug, Default)]
pub struct Trial {
    last: Option<Still>,
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The target has other values.
    Values,
    /// The target does not have it.
    Missing,
    /// The source does not have it.
    TooMany,
}

/// What is known of a row after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is equal.
    Equal,
    /// It differs.
    Different(Difference),
    /// It may have changed meanwhile.
    Open,
}

impl Trial {
    /// Takes in a look. Since the one before all transactions of the source have ended that were open then.
    pub fn look(&mut self, source: Option<&RowDigest>, target: Option<&RowDigest>) -> Verdict {
        let (difference, still) = match (source, target) {
            (None, None) => return Verdict::Equal,
            (Some(source), Some(target)) if source.hash == target.hash => return Verdict::Equal,
            (Some(source), Some(_)) => (Difference::Values, Still::Source(source.clone())),
            (Some(source), None) => (Difference::Missing, Still::Source(source.clone())),
            (None, Some(target)) => (Difference::TooMany, Still::Target(target.clone())),
        };
        if self.last.as_ref() == Some(&still) {
            return Verdict::Different(difference);
        }
        self.last = Some(still);
        Verdict::Open
    }
}

/// The buckets that are not alike, in groups of about so many rows on either side.
pub fn differing_buckets(source: &Digests, target: &Digests, rows: u64) -> Vec<Vec<String>> {
    let all: BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut room = 0;
    for bucket in all.into_iter().filter(|bucket| source.get(*bucket) != target.get(*bucket)) {
        let count = |side: &Digests| side.get(bucket).map_or(0, |digest| digest.rows);
        let size = count(source).max(count(target));
        if let Some(group) = groups.last_mut().filter(|_| size <= room) {
            group.push(bucket.clone());
        } else {
            groups.push(vec![bucket.clone()]);
            room = rows;
        }
        room = room.saturating_sub(size);
    }
    groups
}

/// The keys of rows that are not alike.
pub fn differing_keys(source: &RowDigests, target: &RowDigests) -> Vec<KeyTexts> {
    let hash = |side: &RowDigests, key: &KeyTexts| side.get(key).map(|row| row.hash.clone());
    let all: BTreeSet<&KeyTexts> = source.keys().chain(target.keys()).collect();
    all.into_iter().filter(|key| hash(source, key) != hash(target, key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Digest;

    fn row(hash: &str, version: &str) -> RowDigest {
        RowDigest { hash: hash.into(), version: version.into() }
    }

    #[test]
    fn a_row_that_stands_still_and_differs_is_different() {
        for (source, target, difference) in [
            (Some(row("a", "1")), Some(row("b", "7")), Difference::Values),
            (Some(row("a", "1")), None, Difference::Missing),
            (None, Some(row("b", "7")), Difference::TooMany),
        ] {
            let mut trial = Trial::default();
            let looks: Vec<Verdict> = (0..2).map(|_| trial.look(source.as_ref(), target.as_ref())).collect();
            assert_eq!(looks, [Verdict::Open, Verdict::Different(difference)]);
        }
    }

    #[test]
    fn a_row_that_stands_still_in_the_source_differs_whatever_the_target_does() {
        for (target, difference) in [(Some(row("c", "8")), Difference::Values), (None, Difference::Missing)] {
            let mut trial = Trial::default();
            assert_eq!(trial.look(Some(&row("a", "1")), Some(&row("b", "7"))), Verdict::Open);
            assert_eq!(trial.look(Some(&row("a", "1")), target.as_ref()), Verdict::Different(difference));
        }
    }

    #[test]
    fn a_row_that_changes_between_looks_is_open_until_it_is_equal() {
        let mut trial = Trial::default();
        for version in 0..10 {
            // To and fro between two values: seen alike on each side, but written anew.
            assert_eq!(trial.look(Some(&row("a", &version.to_string())), Some(&row("b", "7"))), Verdict::Open);
            assert_eq!(trial.look(None, Some(&row("b", &version.to_string()))), Verdict::Open);
        }
        assert_eq!(trial.look(Some(&row("a", "1")), Some(&row("a", "9"))), Verdict::Equal);
        assert_eq!(trial.look(None, None), Verdict::Equal);
    }

    #[test]
    fn finds_what_is_not_alike_and_takes_it_in_bounded_groups() {
        let digest = |rows: u64, checksum: &str| Digest { rows, checksum: checksum.into() };
        let side = |all: &[(&str, Digest)]| all.iter().map(|(bucket, digest)| ((*bucket).to_owned(), digest.clone())).collect::<Digests>();
        let source = side(&[("0", digest(5, "x")), ("1", digest(6, "x")), ("2", digest(3, "x")), ("3", digest(1, "x"))]);
        let target = side(&[("0", digest(5, "y")), ("1", digest(6, "x")), ("2", digest(4, "x")), ("4", digest(100, "x"))]);
        assert_eq!(differing_buckets(&source, &target, 9), [vec!["0", "2"], vec!["3"], vec!["4"]]);
        assert!(differing_buckets(&source, &source, 9).is_empty());

        let rows =
            |all: &[(&str, &str, &str)]| all.iter().map(|(key, hash, version)| (vec![(*key).to_owned()], row(hash, version))).collect();
        let found = differing_keys(
            &rows(&[("a", "1", "v"), ("b", "1", "v"), ("c", "1", "v")]),
            &rows(&[("a", "1", "w"), ("b", "2", "v"), ("d", "1", "v")]),
        );
        assert_eq!(found.concat(), ["b", "c", "d"]);
    }
}
