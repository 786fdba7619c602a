//! Digests computed from rows, for systems that cannot compute them where the rows are (the definition: [`super::digest`]).

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use sha2::{Digest as _, Sha256};

use super::{Besides, Digest, Digests, KeyTexts, LINK_COLUMN, LinkCell, RowDigest, RowDigests, TableSchema, print};

/// Rows that are digested one batch after the other.
pub struct Digesting<'a> {
    schema: &'a TableSchema,
    /// By bucket: the rows, and the sums of both halves of their hashes.
    sums: BTreeMap<String, (u64, i128, i128)>,
}

impl<'a> Digesting<'a> {
    /// No rows yet of this table.
    pub fn new(schema: &'a TableSchema) -> Self {
        Self { schema, sums: BTreeMap::new() }
    }

    /// Takes in a batch of [`TableSchema::arrow_rows`].
    pub fn add(&mut self, rows: &RecordBatch) {
        let texts = Texts::new(self.schema, rows);
        for row in 0..rows.num_rows() {
            let hash = texts.hash(row);
            let half = |at: usize| hash[at..at + 8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)).cast_signed();
            let sum = self.sums.entry(texts.bucket(row)).or_default();
            *sum = (sum.0 + 1, sum.1 + i128::from(half(0)), sum.2 + i128::from(half(8)));
        }
    }

    /// What they are taken together.
    pub fn finish(self) -> Digests {
        let digest = |(rows, first, second)| Digest { rows, checksum: format!("{first} {second}") };
        self.sums.into_iter().map(|(bucket, sum)| (bucket, digest(sum))).collect()
    }
}

/// Lists the rows of a batch of [`TableSchema::arrow_rows`], those of some buckets or all. As nothing else is known of a row, its
/// version is its hash: a row that was written anew with the same values is taken for one that stood still, which it equals.
pub fn list_rows(schema: &TableSchema, rows: &RecordBatch, buckets: Option<&[String]>, listed: &mut RowDigests) {
    let texts = Texts::new(schema, rows);
    for row in (0..rows.num_rows()).filter(|row| buckets.is_none_or(|buckets| buckets.contains(&texts.bucket(*row)))) {
        let hash = hex::encode(&texts.hash(row)[..16]);
        listed.insert(texts.key(row), RowDigest { version: hash.clone(), hash });
    }
}

/// The texts of a batch's values.
struct Texts<'a> {
    schema: &'a TableSchema,
    rows: &'a RecordBatch,
    /// What stands beside the native values.
    beside: Besides,
}

impl<'a> Texts<'a> {
    fn new(schema: &'a TableSchema, rows: &'a RecordBatch) -> Self {
        let mut beside = Besides::new();
        let links = rows.column_by_name(LINK_COLUMN).and_then(|links| links.as_string_opt::<i32>());
        for (row, link) in (0..).zip(links.into_iter().flatten()) {
            let cell: LinkCell = link.and_then(|link| serde_json::from_str(link).ok()).unwrap_or_default();
            beside.extend(cell.beside.into_iter().map(|(column, value)| ((column, row), value)));
        }
        Self { schema, rows, beside }
    }

    /// A value as text; none: NULL.
    fn value(&self, column: usize, row: usize) -> Option<String> {
        if let Some(beside) = self.beside.get(&(column as u16, row as u32)) {
            return Some(beside.text().to_owned());
        }
        let array = self.rows.column(column);
        (!array.is_null(row)).then(|| print::value(self.schema.columns[column].travel, array, row))
    }

    fn text(&self, columns: impl Iterator<Item = usize>, row: usize) -> String {
        let mut text = String::new();
        for (place, column) in columns.enumerate() {
            if place > 0 {
                text.push('|');
            }
            match self.value(column, row) {
                None => text.push('-'),
                Some(value) => {
                    text.push('=');
                    text.push_str(&value.replace('|', "||"));
                }
            }
        }
        text
    }

    fn hash(&self, row: usize) -> [u8; 32] {
        let here = (0..self.schema.columns.len()).filter(|column| !self.schema.columns[*column].dropped);
        Sha256::digest(self.text(here, row)).into()
    }

    fn bucket(&self, row: usize) -> String {
        let mut digits = hex::encode(Sha256::digest(self.text(self.schema.key.iter().copied(), row)));
        digits.truncate(self.schema.bucket_digits());
        digits
    }

    fn key(&self, row: usize) -> KeyTexts {
        let text = |&column: &usize| match self.beside.get(&(column as u16, row as u32)) {
            Some(beside) => beside.text().to_owned(),
            None => print::key(self.schema.columns[column].travel, self.rows.column(column), row),
        };
        self.schema.key.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};

    use super::*;
    use crate::data::{Travel, fixtures};

    /// The text of a row, its hash and its bucket by `printf … | sha256sum`.
    #[test]
    fn rows_are_hashed_as_the_definition_says() {
        let columns = vec![
            fixtures::column(1, "id", Travel::Int32),
            fixtures::column(2, "gone", Travel::Utf8),
            fixtures::column(3, "note", Travel::Utf8),
        ];
        let mut schema = fixtures::table("t", columns, &[0]);
        schema.columns[1].dropped = true;
        let rows = RecordBatch::try_new(
            schema.arrow_rows(),
            vec![
                Arc::new(Int32Array::from(vec![1, 2])),
                Arc::new(StringArray::from(vec![Some("x"), None])),
                Arc::new(StringArray::from(vec![Some("a|b"), None])),
                Arc::new(StringArray::from(vec![None, Some(r#"{"x":[[2,"exact"]]}"#)])),
            ],
        )
        .unwrap();
        let hash = |text: &str| hex::encode(Sha256::digest(text));
        assert_eq!(hash("=1|=a||b")[..32], *"90374739662b3078347135e559838c4a");
        let mut listed = RowDigests::new();
        list_rows(&schema, &rows, None, &mut listed);
        let hashes: Vec<&str> = listed.values().map(|row| row.hash.as_str()).collect();
        assert_eq!(hashes, [&hash("=1|=a||b")[..32], &hash("=2|=exact")[..32]]);
        assert_eq!(listed.keys().cloned().collect::<Vec<_>>().concat(), ["1", "2"]);

        let bucket = hash("=1")[..2].to_owned();
        let mut some = RowDigests::new();
        list_rows(&schema, &rows, Some(std::slice::from_ref(&bucket)), &mut some);
        assert_eq!(some.keys().collect::<Vec<_>>(), [&["1".to_owned()]]);

        let mut digesting = Digesting::new(&schema);
        digesting.add(&rows.slice(0, 1));
        digesting.add(&rows.slice(0, 1));
        let half = |at: usize| i128::from(u64::from_str_radix(&hash("=1|=a||b")[at..at + 16], 16).unwrap().cast_signed()) * 2;
        let checksum = format!("{} {}", half(0), half(16));
        assert_eq!(digesting.finish(), Digests::from([(bucket, Digest { rows: 2, checksum })]));
    }
}
