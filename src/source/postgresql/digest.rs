//! Checksums for whoever compares the source with its copy. Each statement is a short transaction of its own; it may still read
//! for a while, so it takes the place of a chunk's reader and not that of the capture's questions.

use arrow::array::RecordBatch;

use super::{Postgresql, rows::RowsBuilder};
use crate::{
    data::{Among, Digests, KeyRange, KeyTexts, RowDigests, TableSchema},
    postgresql::digest::Digested,
    source::{Error, limits::Kind},
};

/// See [`crate::source::Source::cut_range`].
pub async fn cut(source: &Postgresql, schema: &TableSchema, after: Option<&KeyTexts>, rows: u64) -> Result<Option<KeyTexts>, Error> {
    if schema.ordered_key().is_empty() {
        return Ok(None);
    }
    let mut session = source.session_for(Kind::Chunk).await?;
    let transaction = session.build_transaction().read_only(true).start().await?;
    let cut = Digested { schema, name: &schema.name }.cut(&transaction, after, rows).await;
    cut.map_err(|error| Postgresql::table_error(&schema.name, (&error).into()))
}

/// See [`crate::source::Source::digest`].
pub async fn digest(source: &Postgresql, schema: &TableSchema, range: &KeyRange) -> Result<Digests, Error> {
    let mut session = source.session_for(Kind::Chunk).await?;
    let transaction = session.build_transaction().read_only(true).start().await?;
    let digests = Digested { schema, name: &schema.name }.digest(&transaction, range).await;
    digests.map_err(|error| Postgresql::table_error(&schema.name, (&error).into()))
}

/// See [`crate::source::Source::row_digests`].
pub async fn rows(source: &Postgresql, schema: &TableSchema, among: Among<'_>) -> Result<RowDigests, Error> {
    let mut session = source.session_for(Kind::Chunk).await?;
    let transaction = session.build_transaction().read_only(true).start().await?;
    let rows = Digested { schema, name: &schema.name }.rows(&transaction, among).await;
    rows.map_err(|error| Postgresql::table_error(&schema.name, (&error).into()))
}

/// See [`crate::source::Source::keys`].
pub fn keys(schema: &TableSchema, keys: &[KeyTexts]) -> Result<RecordBatch, Error> {
    // A table of the key's columns alone: its rows are of the form of key batches.
    let columns: Vec<_> = schema.key.iter().map(|&column| schema.columns[column].clone()).collect();
    let of_key = TableSchema { key: (0..columns.len()).collect(), columns, ..schema.clone() };
    let mut builder = RowsBuilder::rows(&of_key);
    for key in keys {
        for (column, text) in key.iter().enumerate() {
            builder.text(column, text.as_bytes())?;
        }
        builder.end_row(None)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _};

    use super::*;
    use crate::data::{
        Travel,
        fixtures::{column, table},
    };

    #[test]
    fn keys_are_read_as_the_stream_is() {
        let columns = vec![column(1, "a", Travel::Utf8), column(2, "b", Travel::Date), column(3, "c", Travel::Bool)];
        let schema = table("t", columns, &[2, 1]);
        let text = |key: [&str; 2]| key.map(str::to_owned).to_vec();
        let batch = keys(&schema, &[text(["t", "2024-02-29"]), text(["f", "infinity"])]).unwrap();
        assert_eq!(batch.schema(), schema.arrow_keys());
        assert!(batch.column(0).as_boolean().value(0) && !batch.column(0).as_boolean().value(1));
        assert!(batch.column(1).is_null(1));
        assert_eq!(batch.column(2).as_string::<i32>().value(1), r#"{"x":[[1,"infinity"]]}"#);
        assert!(keys(&schema, &[text(["t", "tomorrow"])]).is_err());
    }
}
