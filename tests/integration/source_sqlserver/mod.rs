//! The SQL Server source: against a real server where one is given, and against a scripted one for what no other server does.

mod captured;
mod real;
mod tracking;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    datatypes::UInt8Type,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use link_operator::{
    api::database::{CaptureMode, SqlServerSource},
    data::{ChunkPlan, OP_COLUMN, Op, Position, TableName, TableSchema, TableVersion, print},
    source::{
        Admitted, Capture, CapturedTable, Cut, Error, Keep, LargeValues, Limits, Scratch, Segment, Source as _, sqlserver::SqlServer,
    },
};

use crate::support::sqlserver::Database;

fn source(database: &Database, capture_mode: CaptureMode) -> SqlServer {
    SqlServer::new(SqlServerSource { database: database.spec.clone(), capture_mode }, database.secrets.clone())
}

/// The source keeps nothing elsewhere.
struct Nothing;

fn keep() -> Keep {
    Keep { scratch: Arc::new(Nothing), values: Arc::new(Nothing) }
}

#[async_trait]
impl LargeValues for Nothing {
    fn path(&self) -> String {
        panic!("not needed")
    }

    async fn put(&self, _: &str, _: u32, _: Bytes) -> Result<(), Error> {
        panic!("not needed")
    }
}

#[async_trait]
impl Scratch for Nothing {
    async fn put(&self, _: &str, _: Bytes) -> Result<(), Error> {
        panic!("not needed")
    }

    async fn get(&self, _: &str) -> Result<Bytes, Error> {
        panic!("not needed")
    }

    async fn delete(&self, _: &[String]) {}
}

fn limits(bytes: usize) -> Limits {
    Limits { not_before: tokio::time::Instant::now(), idle: Duration::ZERO, bytes }
}

/// The next cut that holds something.
async fn cut(capture: &mut dyn Capture, bytes: usize) -> Result<Cut, Error> {
    let began = Instant::now();
    loop {
        let cut = capture.next_cut(limits(bytes)).await?;
        if !cut.tables.is_empty() || !cut.broken.is_empty() || !cut.whole {
            return Ok(cut);
        }
        assert!(began.elapsed() < Duration::from_secs(10), "no change comes");
    }
}

/// Rows as text, a value NULL as `-`; of changes the operation in front.
fn told(schema: &TableSchema, batch: &RecordBatch) -> Vec<String> {
    let ops = batch.column_by_name(OP_COLUMN).map(|ops| ops.as_primitive::<UInt8Type>().clone());
    let row = |row: usize| {
        let op = ops.as_ref().map(|ops| match Op::from_u8(ops.value(row)) {
            Some(Op::Delete) => "delete".to_owned(),
            Some(Op::Update) => "update".to_owned(),
            other => format!("{other:?}"),
        });
        let values = schema.columns.iter().enumerate().map(|(at, column)| {
            let array = batch.column(at);
            if array.is_null(row) { "-".to_owned() } else { print::value(column.travel, array, row) }
        });
        op.into_iter().chain(values).collect::<Vec<_>>().join(" ")
    };
    (0..batch.num_rows()).map(row).collect()
}

/// What a cut has of a table.
fn of(cut: &Cut, id: u32, schema: &TableSchema) -> Vec<String> {
    let segments = cut.tables.iter().filter(|table| table.id == id).flat_map(|table| &table.segments);
    segments
        .flat_map(|segment| match segment {
            Segment::Rows(rows) => told(schema, rows),
            Segment::Version(version) => vec![format!("version of {} columns", version.schema.columns.len())],
            Segment::Truncate => vec!["truncate".to_owned()],
        })
        .collect()
}

/// A table as the log records it once it was let in.
fn captured(id: u32, schema: &TableSchema, admitted: &Admitted) -> CapturedTable {
    let version = TableVersion { schema: schema.clone(), parts: admitted.parts.clone() };
    CapturedTable { id, version, from: admitted.from.clone() }
}

/// All rows of a table by chunks, and the last place at which one was read.
async fn read(source: &SqlServer, schema: &TableSchema, plan: &ChunkPlan) -> (Vec<String>, Position) {
    let (mut rows, mut last) = (Vec::new(), Position::default());
    for chunk in &plan.chunks {
        let read = source.read_chunk(schema, chunk, keep().values).await.unwrap();
        last = last.max(read.read_at);
        let batches: Vec<RecordBatch> = read.rows.try_collect().await.unwrap();
        rows.extend(batches.iter().flat_map(|batch| told(schema, batch)));
    }
    (rows, last)
}

fn name(table: &str) -> TableName {
    TableName::new("dbo", table)
}
