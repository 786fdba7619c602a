//! The PostgreSQL source against a real server.

mod connecting;
mod snapshot;
mod stream;
mod tables;
mod types;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, Int32Array, RecordBatch, StringArray},
    datatypes::{Int32Type, UInt8Type},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use link_operator::{
    api::{
        database::{CaSource, SecretKey, Tls, TlsMode},
        fault::Explain as _,
    },
    data::{LinkCell, Position, TableName, TableSchema, TableVersion, Travel},
    postgresql::connect,
    source::{
        Capture, CapturedTable, Cut, Error, Identity, Keep, LargeValues, Limits, Scratch, Segment, Source as _, postgresql::Postgresql,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_postgres::SimpleQueryMessage;

use crate::support::postgres::{Database, SECRET, Server};

fn source(database: &Database) -> Postgresql {
    // Slots of all databases of a server share one space of names.
    Postgresql::new(database.spec.clone(), database.secrets.clone(), &database.spec.database)
}

/// The transactions and values of these tests fit into memory.
struct Nothing;

/// For captures and readers whose transactions and values fit into memory.
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

    async fn delete(&self, names: &[String]) {
        assert!(names.is_empty());
    }
}

/// All rows of a table, read in one chunk.
async fn read(source: &Postgresql, schema: &TableSchema) -> Vec<RecordBatch> {
    let plan = source.plan_chunks(schema, 1 << 30).await.unwrap();
    source.read_chunk(schema, &plan.chunks[0], keep().values).await.unwrap().rows.try_collect().await.unwrap()
}
