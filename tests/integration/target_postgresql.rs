//! The PostgreSQL target against a real server.

#[path = "target_postgresql/adopting.rs"]
mod adopting;
#[path = "target_postgresql/changes.rs"]
mod changes;
#[path = "target_postgresql/claims.rs"]
mod claims;
#[path = "target_postgresql/snapshots.rs"]
mod snapshots;
#[path = "target_postgresql/values.rs"]
mod values;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Schema};
use futures::{StreamExt as _, stream};
use link_operator::{
    api::{
        database::{OnExistingTable, PostgresqlTarget},
        link_table::TableOptions,
    },
    data::{Beside, Besides, Column, NetChanges, Step, TableName, TableSchema, Travel},
    target::{Advance, Claim, Error, Incarnation, Steps, Target as _, TargetTable, postgresql::Postgresql},
};

use crate::support::postgres::{Database, Server};

const FIRST: Incarnation = Incarnation { run: 1, record: 10 };

/// A row of the small table: id (its key), name, note.
type Row<'a> = (i32, Option<&'a str>, Option<&'a str>);

/// A target with one claimed table `dw.orders`, copy of `public.orders`.
struct Link {
    database: Database,
    target: Arc<Postgresql>,
    table: TargetTable,
    schema: TableSchema,
}

fn target_of(database: &Database, link: &str, on_existing_table: OnExistingTable) -> Postgresql {
    let target = PostgresqlTarget { database: database.spec.clone(), on_existing_table };
    Postgresql::new(target, database.secrets.clone(), link, None)
}

fn table_of(link: &str) -> TargetTable {
    TargetTable {
        link_id: link.to_owned(),
        source: TableName::new("public", "orders"),
        name: TableName::new("dw", "orders"),
        options: TableOptions::default(),
    }
}

fn column(number: i32, name: &str, source_type: &str, travel: Travel) -> Column {
    Column {
        number,
        name: name.to_owned(),
        travel,
        source_type: source_type.to_owned(),
        nullable: true,
        initial: None,
        revision: String::new(),
        collation: None,
        labels: Vec::new(),
        dropped: false,
    }
}

fn schema_of(columns: Vec<Column>, key: Vec<usize>) -> TableSchema {
    TableSchema { name: TableName::new("public", "orders"), object_id: 1, system: "postgresql".to_owned(), columns, key, last_number: 0 }
}

/// A key and nothing else.
fn small() -> TableSchema {
    schema_of(vec![column(1, "id", "integer", Travel::Int32)], vec![0])
}

fn reason(error: &Error) -> &'static str {
    error.into()
}

fn at(from: u64, to: u64) -> Advance {
    Advance { incarnation: FIRST, from, to, as_of: None, plan_revision: 1 }
}

/// A batch of `arrow_rows` or `arrow_keys`: the arrays, then a column of exact texts.
fn with_link(schema: Arc<Schema>, mut arrays: Vec<ArrayRef>, link: Option<StringArray>) -> RecordBatch {
    let rows = arrays[0].len();
    arrays.push(link.map_or_else(|| new_null_array(&DataType::Utf8, rows), |link| Arc::new(link) as ArrayRef));
    RecordBatch::try_new(schema, arrays).unwrap()
}

fn stream_of(batches: Vec<RecordBatch>) -> futures::stream::BoxStream<'static, Result<RecordBatch, Error>> {
    stream::iter(batches.into_iter().map(Ok)).boxed()
}

impl Link {
    async fn new() -> Self {
        let database = Server::shared().create_database().await;
        database.execute("CREATE SCHEMA dw").await;
        Self::on(database).await
    }

    async fn on(database: Database) -> Self {
        let columns = vec![
            column(1, "id", "integer", Travel::Int32),
            column(2, "name", "text", Travel::Utf8),
            column(4, "note", "text", Travel::Utf8),
        ];
        let target = Arc::new(target_of(&database, "shop.shop", OnExistingTable::Fail));
        let link = Self { database, target, table: table_of("shop.shop"), schema: schema_of(columns, vec![0]) };
        link.target.claim(&link.table, &link.schema).await.unwrap();
        link
    }

    /// A link whose table is in place with these rows, at record 10 of incarnation [`FIRST`].
    async fn with(rows: &[Row<'_>]) -> Self {
        let link = Self::new().await;
        link.seed(FIRST, rows).await;
        link
    }

    async fn seed(&self, incarnation: Incarnation, rows: &[Row<'_>]) {
        self.target.begin_snapshot(&self.table, &self.schema, incarnation).await.unwrap();
        self.load(incarnation, 0, rows).await.unwrap();
        let advance = Advance { incarnation, from: incarnation.record, to: incarnation.record, as_of: None, plan_revision: 1 };
        self.target.finish_snapshot(&self.table, &self.schema, advance).await.unwrap();
    }

    async fn load(&self, incarnation: Incarnation, chunk: u32, rows: &[Row<'_>]) -> Result<u64, Error> {
        let batch = with_link(self.schema.arrow_rows(), arrays(rows), None);
        self.target.load_chunk(&self.table, &self.schema, incarnation, chunk, stream_of(vec![batch])).await
    }

    fn keys(&self, ids: &[i32]) -> RecordBatch {
        with_link(self.schema.arrow_keys(), vec![Arc::new(Int32Array::from(ids.to_vec()))], None)
    }

    fn net(&self, deletes: &[i32], upserts: &[Row<'_>]) -> NetChanges {
        let fields = self.schema.arrow_rows().fields()[..3].to_vec();
        NetChanges {
            deletes: self.keys(deletes),
            upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays(upserts)).unwrap(),
            // Also where some are new.
            updates: upserts.len(),
            beside: Besides::new(),
            unresolved: Vec::new(),
            origins: self.keys(&[]),
        }
    }

    async fn apply(&self, advance: Advance, changes: Vec<NetChanges>) -> Result<u64, Error> {
        self.target.apply(&self.table, &self.schema, advance, steps(changes.into_iter().map(Step::Merge).collect())).await
    }

    /// Rows of a table as text, ordered.
    async fn rows(&self) -> Vec<String> {
        self.column("SELECT t::text FROM dw.orders t ORDER BY 1").await
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.database.connect().await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect()
    }
}

fn arrays(rows: &[Row<'_>]) -> Vec<ArrayRef> {
    vec![
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
    ]
}

/// Steps as a target takes them.
fn steps(steps: Vec<Step>) -> Steps<'static> {
    futures::stream::iter(steps.into_iter().map(Ok)).boxed()
}
