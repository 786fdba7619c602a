//! The SQL Server target against a real server, if one is given.

mod changes;
mod claims;
mod snapshots;
mod together;
mod values;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Schema};
use futures::{StreamExt as _, stream};
use link_operator::{
    api::{
        database::{OnExistingTable, SqlServerTarget},
        link_table::TableOptions,
    },
    data::{Beside, Besides, Column, NetChanges, Step, TableName, TableSchema, Travel},
    target::{Advance, Claim, Error, Incarnation, LargeValues, Steps, Target as _, TargetTable, sqlserver::SqlServer},
};

use crate::support::sqlserver::{self, Database};

const FIRST: Incarnation = Incarnation { run: 1, record: 10 };

/// A row of the small table: id (its key), name, note.
type Row<'a> = (i32, Option<&'a str>, Option<&'a str>);

/// A target with one claimed table `dw.orders`, copy of `public.orders`.
struct Link {
    database: Database,
    target: Arc<SqlServer>,
    table: TargetTable,
    schema: TableSchema,
}

/// A new database with a schema `dw`, if a server is given.
pub async fn database(what: &str) -> Option<Database> {
    let database = sqlserver::given(what)?.create().await;
    database.run("EXEC(N'CREATE SCHEMA [dw]')").await;
    // The driver asks for the collations of a temporary table in a way that Babelfish does not know.
    let procedure =
        "SELECT 1 WHERE SERVERPROPERTY('BabelfishVersion') IS NOT NULL AND OBJECT_ID(N'tempdb.dbo.sp_tablecollations_100') IS NULL";
    if !database.query(procedure).await.is_empty() {
        let mut session = database.session().await;
        session.run("USE tempdb").await.unwrap();
        let create = "CREATE PROCEDURE dbo.sp_tablecollations_100 @t nvarchar(4000) AS
                      SELECT 0 AS colid, N'' AS name, 0x AS tds_collation, N'' AS collation WHERE 1 = 0";
        // Another test may have made it meanwhile.
        let _ = session.run(create).await;
    }
    Some(database)
}

fn target_of(database: &Database, link: &str, on_existing_table: OnExistingTable) -> SqlServer {
    target_with(database, link, on_existing_table, None)
}

fn target_with(database: &Database, link: &str, on_existing_table: OnExistingTable, values: Option<Arc<dyn LargeValues>>) -> SqlServer {
    let target = SqlServerTarget { database: database.spec.clone(), on_existing_table };
    SqlServer::new(target, database.secrets.clone(), link, values)
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

fn schema_of(system: &str, columns: Vec<Column>, key: Vec<usize>) -> TableSchema {
    TableSchema { name: TableName::new("public", "orders"), object_id: 1, system: system.to_owned(), columns, key, last_number: 0 }
}

/// A key and nothing else.
fn small() -> TableSchema {
    schema_of("postgresql", vec![column(1, "id", "integer", Travel::Int32)], vec![0])
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
    async fn new(what: &str) -> Option<Self> {
        let database = database(what).await?;
        let columns = vec![
            column(1, "id", "integer", Travel::Int32),
            column(2, "name", "text", Travel::Utf8),
            column(4, "note", "text", Travel::Utf8),
        ];
        let target = Arc::new(target_of(&database, "shop.shop", OnExistingTable::Fail));
        let link = Self { database, target, table: table_of("shop.shop"), schema: schema_of("postgresql", columns, vec![0]) };
        link.target.claim(&link.table, &link.schema).await.unwrap();
        Some(link)
    }

    /// A link whose table is in place with these rows, at record 10 of incarnation [`FIRST`].
    async fn with(what: &str, rows: &[Row<'_>]) -> Option<Self> {
        let link = Self::new(what).await?;
        link.seed(FIRST, rows).await;
        Some(link)
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

    /// Rows of the table as text, ordered.
    async fn rows(&self) -> Vec<String> {
        self.column("SELECT CONCAT([id], N',', COALESCE([name], N'-'), N',', COALESCE([note], N'-')) FROM [dw].[orders] ORDER BY [id]")
            .await
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        self.database.query(sql).await.iter().map(|row| row.text(0).or(row.number(0).map(|n| n.to_string())).unwrap_or_default()).collect()
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
