//! Checksums of a table, computed where its rows are (the definition: [`crate::data`]'s `digest`). The same statements for
//! source and target, so that both give the same for the same rows, whatever types hold them.

use tokio_postgres::{Error, Row, Transaction, types::ToSql};

use super::quote;
use crate::data::{Among, Column, Digest, Digests, KeyRange, KeyTexts, RowDigest, RowDigests, TableName, TableSchema, Travel};

/// Functions take at most 100 arguments: columns are joined in groups of so many.
const GROUP: usize = 50;

/// Along the key's index, with whatever statistics: one range must not cost a walk through the table, nor a sort of the rest.
const BY_INDEX: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; \
     SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// A table as one of the two databases has it.
#[derive(Clone, Copy)]
pub struct Digested<'a> {
    /// Its columns and key.
    pub schema: &'a TableSchema,
    /// Its name here.
    pub name: &'a TableName,
}

impl Digested<'_> {
    /// The key at the end of the range of so many rows that begins after `after`; none if there are no more. By the columns of
    /// [`TableSchema::ordered_key`], of which there must be some.
    pub async fn cut(&self, transaction: &Transaction<'_>, after: Option<&KeyTexts>, rows: u64) -> Result<Option<KeyTexts>, Error> {
        transaction.batch_execute(BY_INDEX).await?;
        let names = self.ordered();
        let texts: Vec<String> = names.iter().map(|name| format!("format('%s', {name})")).collect();
        let range = KeyRange { after: after.cloned(), upto: None };
        let (condition, values) = self.within(&range);
        let sql = format!(
            "SELECT {} FROM {} AS t WHERE {condition} ORDER BY {} OFFSET {} LIMIT 1",
            texts.join(", "),
            quote::table(self.name),
            names.join(", "),
            rows.saturating_sub(1)
        );
        let row = transaction.query_opt(&sql, &as_parameters(&values)).await?;
        Ok(row.map(|row| (0..names.len()).map(|at| row.get(at)).collect()))
    }

    /// The rows of a range, by bucket.
    pub async fn digest(&self, transaction: &Transaction<'_>, range: &KeyRange) -> Result<Digests, Error> {
        self.prepare(transaction, range).await?;
        let (condition, values) = self.within(range);
        // OFFSET 0: each hash is computed once.
        let sql = format!(
            "SELECT left(k, {digits}), count(*), \
                    sum(('x' || substr(r, 1, 16))::bit(64)::bigint)::text || ' ' || sum(('x' || substr(r, 17, 16))::bit(64)::bigint)::text \
               FROM (SELECT {key} AS k, {row} AS r FROM {table} AS t WHERE {condition} OFFSET 0) AS hashed GROUP BY 1",
            digits = self.schema.bucket_digits(),
            key = hash(&self.key_text()),
            row = hash(&self.row_text()),
            table = quote::table(self.name)
        );
        let digest = |row: &Row| (row.get(0), Digest { rows: row.get::<_, i64>(1).unsigned_abs(), checksum: row.get(2) });
        Ok(transaction.query(&sql, &as_parameters(&values)).await?.iter().map(digest).collect())
    }

    /// Single rows, by key.
    pub async fn rows(&self, transaction: &Transaction<'_>, among: Among<'_>) -> Result<RowDigests, Error> {
        let names: Vec<String> = self.schema.key.iter().map(|&column| self.column(column)).collect();
        let texts: Vec<String> = names.iter().map(|name| format!("format('%s', {name})")).collect();
        let select = format!(
            "SELECT {}, left({}, 32), t.xmin::text FROM {} AS t",
            texts.join(", "),
            hash(&self.row_text()),
            quote::table(self.name)
        );
        let rows = match among {
            Among::Buckets(range, buckets) => {
                self.prepare(transaction, range).await?;
                let (condition, mut values) = self.within(range);
                values.push(buckets.to_vec().into());
                let sql = format!(
                    "{select} WHERE {condition} AND left({}, {}) = ANY (${}::text[])",
                    hash(&self.key_text()),
                    self.schema.bucket_digits(),
                    values.len()
                );
                transaction.query(&sql, &as_parameters(&values)).await?
            }
            Among::Keys(keys) => {
                transaction.batch_execute(BY_INDEX).await?;
                let types = self.key_types(transaction).await?;
                let values: Vec<Parameter> =
                    (0..names.len()).map(|at| keys.iter().map(|key| key[at].clone()).collect::<Vec<_>>().into()).collect();
                let lists: Vec<String> = (1..=names.len()).map(|at| format!("${at}::text[]")).collect();
                let wanted: Vec<String> = (0..names.len()).map(|at| format!("k{at}")).collect();
                let same: Vec<String> =
                    names.iter().zip(&types).enumerate().map(|(at, (name, kind))| format!("{name} = wanted.k{at}::{kind}")).collect();
                // OFFSET 0: the index is asked for each key.
                let sql = format!(
                    "{select} JOIN (SELECT * FROM unnest({}) AS w ({}) OFFSET 0) AS wanted ON {}",
                    lists.join(", "),
                    wanted.join(", "),
                    same.join(" AND ")
                );
                transaction.query(&sql, &as_parameters(&values)).await?
            }
        };
        let count = names.len();
        let digest = |row: &Row| {
            let key: KeyTexts = (0..count).map(|at| row.get(at)).collect();
            (key, RowDigest { hash: row.get(count), version: row.get(count + 1) })
        };
        Ok(rows.iter().map(digest).collect())
    }

    async fn prepare(&self, transaction: &Transaction<'_>, range: &KeyRange) -> Result<(), Error> {
        if *range != KeyRange::default() {
            transaction.batch_execute(BY_INDEX).await?;
        }
        Ok(())
    }

    /// The types of the key's columns here, without modifiers: a cast to `char(3)` would cut.
    async fn key_types(&self, transaction: &Transaction<'_>) -> Result<Vec<String>, Error> {
        let sql = "SELECT a.attname::text, format_type(a.atttypid, -1) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                   JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = transaction.query(sql, &[&self.name.schema_name, &self.name.table_name]).await?;
        let kind = |column: &usize| {
            let name = &self.schema.columns[*column].name;
            // A column that is gone: the statement that names it says so.
            rows.iter().find(|row| row.get::<_, &str>(0) == name).map_or_else(|| "text".to_owned(), |row| row.get(1))
        };
        Ok(self.schema.key.iter().map(kind).collect())
    }

    /// The condition of a range, and its parameters.
    fn within(&self, range: &KeyRange) -> (String, Vec<Parameter>) {
        let names = self.ordered().join(", ");
        let mut values: Vec<Parameter> = Vec::new();
        let mut conditions = Vec::new();
        for (bound, compare) in [(&range.after, ">"), (&range.upto, "<=")] {
            let Some(bound) = bound else { continue };
            let columns = self.schema.ordered_key().iter().map(|&column| &self.schema.columns[column]);
            let bounds: Vec<String> = columns
                .zip(bound)
                .map(|(column, text)| {
                    values.push(text.clone().into());
                    format!("${}::text::{}", values.len(), bound_type(column))
                })
                .collect();
            conditions.push(format!("({names}) {compare} ({})", bounds.join(", ")));
        }
        if conditions.is_empty() { ("true".to_owned(), values) } else { (conditions.join(" AND "), values) }
    }

    fn ordered(&self) -> Vec<String> {
        self.schema.ordered_key().iter().map(|&column| self.column(column)).collect()
    }

    fn column(&self, column: usize) -> String {
        format!("t.{}", quote::identifier(&self.schema.columns[column].name))
    }

    fn row_text(&self) -> String {
        // What is gone from the source stays in the target, in rows that nobody wrote since.
        joined(&self.schema.columns.iter().filter(|column| !column.dropped).map(element).collect::<Vec<_>>())
    }

    fn key_text(&self) -> String {
        joined(&self.schema.key.iter().map(|&column| element(&self.schema.columns[column])).collect::<Vec<_>>())
    }
}

/// A value of a statement.
enum Parameter {
    Text(String),
    Texts(Vec<String>),
}

impl From<String> for Parameter {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<String>> for Parameter {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

fn as_parameters(values: &[Parameter]) -> Vec<&(dyn ToSql + Sync)> {
    fn each(value: &Parameter) -> &(dyn ToSql + Sync) {
        match value {
            Parameter::Text(text) => text,
            Parameter::Texts(texts) => texts,
        }
    }
    values.iter().map(each).collect()
}

fn hash(text: &str) -> String {
    format!("encode(sha256(convert_to({text}, 'UTF8')), 'hex')")
}

/// A column's part of a row's text.
fn element(column: &Column) -> String {
    let name = format!("t.{}", quote::identifier(&column.name));
    let text = match column.travel {
        // A cast to text is not what the type's output function prints, `format` is. (IS DISTINCT FROM: a composite of NULLs
        // "IS NULL", but is a value.)
        Travel::Text => format!("replace(CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END, '|', '||')"),
        Travel::Utf8 => format!("replace({name}::text, '|', '||')"),
        _ => format!("{name}::text"),
    };
    format!("coalesce('=' || {text}, '-')")
}

fn joined(elements: &[String]) -> String {
    if elements.len() <= GROUP {
        return format!("concat_ws('|', {})", elements.join(", "));
    }
    joined(&elements.chunks(GROUP).map(joined).collect::<Vec<_>>())
}

/// The type that reads a bound. A domain's values compare as those of the type under it.
fn bound_type(column: &Column) -> &'static str {
    match column.travel {
        Travel::Int16 => "smallint",
        Travel::Int32 => "integer",
        Travel::Int64 => "bigint",
        Travel::Decimal { .. } => "numeric",
        Travel::Date => "date",
        Travel::Time => "time",
        Travel::Timestamp => "timestamp",
        Travel::TimestampTz => "timestamptz",
        Travel::Uuid => "uuid",
        // Not among the ordered ones.
        _ => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_columns_is_joined_by_functions_of_few_arguments() {
        let elements: Vec<String> = (0..1600).map(|at| format!("e{at}")).collect();
        let text = joined(&elements);
        let most = text.split("concat_ws(").map(|call| call.split(')').next().unwrap_or_default().matches(", ").count()).max();
        assert!(most.unwrap() <= GROUP, "{most:?}");
        assert!(elements.iter().all(|element| text.contains(element.as_str())));
        assert_eq!(joined(&elements[..2]), "concat_ws('|', e0, e1)");
    }
}
