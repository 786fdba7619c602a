//! The Synapse target against an acted pool, with a real landing zone in Azurite: no pool is to be had here, and none has run
//! these statements.

mod faults;
mod flow;
mod pool;
mod zone;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Schema};
use futures::{StreamExt as _, stream};
use link_operator::{
    api::{
        database::{OnExistingTable, SynapseTarget},
        link_table::{StructureOptions, StructureType, TableOptions},
    },
    data::{Besides, Column, NetChanges, Step, TableName, TableSchema, Travel},
    secrets::Secrets,
    target::{Advance, Error, Incarnation, LoadFiles, Target as _, TargetTable, synapse::Synapse},
};
use serde_json::json;
use tempfile::TempDir;

use self::pool::Pool;

const FIRST: Incarnation = Incarnation { run: 1, record: 10 };

/// A row of the small table: id (its key), name.
type Row<'a> = (i32, Option<&'a str>);

/// A target of a pool with one table `dw.orders`, copy of `public.orders`.
struct Link {
    pool: Pool,
    target: Synapse,
    table: TargetTable,
    schema: TableSchema,
    _folder: TempDir,
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

fn schema_of(columns: Vec<Column>) -> TableSchema {
    let (name, system) = (TableName::new("public", "orders"), "postgresql".to_owned());
    TableSchema { name, object_id: 1, system, columns, key: vec![0], last_number: 0 }
}

fn at(from: u64, to: u64) -> Advance {
    Advance { incarnation: FIRST, from, to, as_of: None, plan_revision: 1 }
}

fn reason(error: &Error) -> &'static str {
    error.into()
}

/// A batch of `arrow_rows` or `arrow_keys`.
fn with_link(schema: Arc<Schema>, mut arrays: Vec<ArrayRef>) -> RecordBatch {
    arrays.push(new_null_array(&DataType::Utf8, arrays[0].len()));
    RecordBatch::try_new(schema, arrays).unwrap()
}

impl Link {
    /// `token`: of the Secret that the pool is to read with; none: by its identity.
    fn new(files: Option<Arc<dyn LoadFiles>>, token: Option<&str>) -> Self {
        let (pool, folder) = (Pool::start(), tempfile::tempdir().unwrap());
        for (secret, key, value) in [("pool", "username", "loader"), ("pool", "password", "p"), ("zone", "read-only", token.unwrap_or(""))]
        {
            std::fs::create_dir_all(folder.path().join(secret)).unwrap();
            std::fs::write(folder.path().join(secret).join(key), value).unwrap();
        }
        let auth = match token {
            Some(_) => json!({"sasToken": {"secretKeyRef": {"name": "zone", "key": "read-only"}}}),
            None => json!({"managedIdentity": {}}),
        };
        let target: SynapseTarget = serde_json::from_value(json!({
            "host": "127.0.0.1", "port": pool.server.address().port(), "database": "pool", "tls": {"mode": "Disable"},
            "auth": {"password": {"secretRef": {"name": "pool"}}}, "copyAuth": auth,
        }))
        .unwrap();
        assert_eq!(target.on_existing_table, OnExistingTable::Fail);
        let target = Synapse::new(target, Secrets::new(folder.path()), "ns.shop", files);
        let options = TableOptions { structure_options: Some(StructureOptions { kind: StructureType::Heap }), ..TableOptions::default() };
        let (source, name) = (TableName::new("public", "orders"), TableName::new("dw", "orders"));
        let table = TargetTable { link_id: "ns.shop".to_owned(), source, name, options };
        let schema = schema_of(vec![column(1, "id", "integer", Travel::Int32), column(2, "name", "text", Travel::Utf8)]);
        Self { pool, target, table, schema, _folder: folder }
    }

    async fn claimed(files: Option<Arc<dyn LoadFiles>>, token: Option<&str>) -> Self {
        let link = Self::new(files, token);
        link.target.claim(&link.table, &link.schema).await.unwrap();
        link
    }

    /// A link whose table is in place, at record 10.
    async fn in_place(files: Option<Arc<dyn LoadFiles>>) -> Self {
        let link = Self::claimed(files, None).await;
        link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
        link.load(0, &[(1, Some("one"))]).await.unwrap();
        link.target.finish_snapshot(&link.table, &link.schema, at(10, 10)).await.unwrap();
        link
    }

    async fn load(&self, chunk: u32, rows: &[Row<'_>]) -> Result<u64, Error> {
        let batch = with_link(self.schema.arrow_rows(), arrays(rows));
        self.target.load_chunk(&self.table, &self.schema, FIRST, chunk, stream::iter([Ok(batch)]).boxed()).await
    }

    fn keys(&self, ids: &[i32]) -> RecordBatch {
        with_link(self.schema.arrow_keys(), vec![Arc::new(Int32Array::from(ids.to_vec()))])
    }

    fn net(&self, deletes: &[i32], upserts: &[Row<'_>]) -> Step {
        let fields = self.schema.arrow_rows().fields()[..2].to_vec();
        Step::Merge(NetChanges {
            deletes: self.keys(deletes),
            upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays(upserts)).unwrap(),
            updates: 0,
            beside: Besides::new(),
            unresolved: Vec::new(),
            origins: self.keys(&[]),
        })
    }

    async fn apply(&self, advance: Advance, steps: Vec<Step>) -> Result<u64, Error> {
        self.target.apply(&self.table, &self.schema, advance, stream::iter(steps.into_iter().map(Ok)).boxed()).await
    }
}

fn arrays(rows: &[Row<'_>]) -> Vec<ArrayRef> {
    vec![
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()),
    ]
}
