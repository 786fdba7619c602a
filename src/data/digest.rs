//! What two systems compare of a table without moving its rows.
//!
//! The definition, for every source and target alike (and for whoever must compute it from rows):
//!
//! - The *text of a value* is what PostgreSQL prints under the fixed session settings: booleans `true` and `false`; numbers in
//!   decimal, of a decimal all digits of its scale, floats with the fewest digits that tell them apart; dates and times in
//!   ISO form, of a second's fraction the microseconds without trailing zeros, moments in UTC with `+00`; bytes `\x` and lower hexadecimal digits;
//!   UUIDs in lower hexadecimal digits with hyphens; values that travel as text as they travel.
//! - The *text of a row* is that of its columns in order but for those that are gone from the source, joined by `|`: `-` for
//!   NULL, else `=` and the value's text with each `|` doubled. So NULL is not the empty text, and no text looks like a border.
//! - The *hash of a row* is the first 16 bytes of the SHA-256 of its text in UTF-8.
//! - The *bucket of a row* is the first hexadecimal digits of the SHA-256 of its key's text, made as a row's of the key's
//!   columns in key order: how many, [`TableSchema::bucket_digits`] says.
//! - The *checksum* of rows is the sum of the first halves of their hashes and the sum of the second ones, as 64-bit integers with a
//!   sign, in decimal, with a space between: it does not depend on an order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{TableSchema, Travel};

/// Values of some or all columns of a key, as text that the column's type reads.
pub type KeyTexts = Vec<String>;

/// Rows whose key is after one place and not after another: where two systems are compared, by the columns of
/// [`TableSchema::ordered_key`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The last key before the range; none: it begins with the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<KeyTexts>,
    /// The last key of the range; none: it ends with the last row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<KeyTexts>,
}

impl KeyRange {
    /// Whether all rows are in it.
    pub fn is_everything(&self) -> bool {
        self.after.is_none() && self.upto.is_none()
    }
}

/// Some rows taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many there are.
    pub rows: u64,
    /// Their checksum.
    pub checksum: String,
}

/// The rows of a range, taken together by their bucket.
pub type Digests = BTreeMap<String, Digest>;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDigest {
    /// Its hash, in hexadecimal digits.
    pub hash: String,
    /// Changes whenever somebody writes the row, also if its values stay; PostgreSQL: the transaction that wrote it.
    pub version: String,
}

/// Rows by their keys.
pub type RowDigests = BTreeMap<KeyTexts, RowDigest>;

/// Which rows are meant.
#[derive(Clone, Copy, Debug)]
pub enum Among<'a> {
    /// Those of these buckets of a range.
    Buckets(&'a KeyRange, &'a [String]),
    /// Those with these keys, all columns of each.
    Keys(&'a [KeyTexts]),
}

impl TableSchema {
    /// The first columns of the key, as far as every system puts their values into the same order: text is compared by a
    /// collation that two databases need not share.
    pub fn ordered_key(&self) -> &[usize] {
        let alike = |travel: Travel| {
            // SQL Server compares the last six bytes of a UUID first.
            let uuid = travel == Travel::Uuid && self.system == "postgresql";
            uuid || matches!(
                travel,
                Travel::Int16
                    | Travel::Int32
                    | Travel::Int64
                    | Travel::Decimal { .. }
                    | Travel::Date
                    | Travel::Time
                    | Travel::Timestamp
                    | Travel::TimestampTz
            )
        };
        let count = self.key.iter().take_while(|&&column| alike(self.columns[column].travel)).count();
        &self.key[..count]
    }

    /// How many digits tell buckets apart: more where all of the table is one range.
    pub fn bucket_digits(&self) -> usize {
        if self.ordered_key().is_empty() { 3 } else { 2 }
    }

    /// Whether a table that is now described as `now` still has all that this one has, each as it was. More columns do not
    /// matter, nor do those that are gone already.
    pub fn is_within(&self, now: &Self) -> bool {
        let names = |schema: &Self| schema.key.iter().map(|&column| schema.columns[column].number).collect::<Vec<_>>();
        let same = |column: &super::Column| {
            now.columns.iter().any(|other| {
                (column.number, &column.name, column.travel, &column.source_type)
                    == (other.number, &other.name, other.travel, &other.source_type)
            })
        };
        self.object_id == now.object_id && names(self) == names(now) && self.columns.iter().filter(|column| !column.dropped).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixtures;

    fn table(travels: &[Travel], key: &[usize]) -> TableSchema {
        let columns = (0..).zip(travels).map(|(number, travel)| fixtures::column(number, &format!("c{number}"), *travel));
        fixtures::table("t", columns.collect(), key)
    }

    #[test]
    fn ranges_go_by_the_first_columns_that_have_one_order_everywhere() {
        let of = |columns: &[Travel], key: &[usize]| table(columns, key).ordered_key().to_vec();
        assert_eq!(of(&[Travel::Text, Travel::Int64], &[1]), [1]);
        assert_eq!(of(&[Travel::Uuid, Travel::Utf8, Travel::Int32], &[0, 1, 2]), [0]);
        assert!(of(&[Travel::Utf8, Travel::Int32], &[0, 1]).is_empty());
        assert_eq!((table(&[Travel::Utf8], &[0]).bucket_digits(), table(&[Travel::Date], &[0]).bucket_digits()), (3, 2));
    }

    #[test]
    fn a_table_may_gain_columns_and_no_more() {
        let before = table(&[Travel::Int32, Travel::Utf8], &[0]);
        assert!(before.is_within(&table(&[Travel::Int32, Travel::Utf8, Travel::Date], &[0])));
        assert!(!before.is_within(&table(&[Travel::Int32], &[0])));
        assert!(!before.is_within(&table(&[Travel::Int32, Travel::Date], &[0])));
        assert!(!before.is_within(&table(&[Travel::Int32, Travel::Utf8], &[1])));
        assert!(!before.is_within(&TableSchema { object_id: 2, ..before.clone() }));
    }
}
