//! The PostgreSQL source against a real server.

mod connecting;
mod snapshot;
mod stream;
mod tables;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, Int32Array, RecordBatch, StringArray},
    datatypes::{Int32Type, UInt8Type},
};
use futures::TryStreamExt as _;
use link_operator::{
    api::{
        database::{CaSource, SecretKey, Tls, TlsMode},
        fault::Explain as _,
    },
    data::{LinkCell, Position, TableName, TableSchema, Travel},
    postgresql::connect,
    source::{Capture, CapturedTable, Cut, Error, Identity, Limits, Segment, Source as _, postgresql::Postgresql},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_postgres::SimpleQueryMessage;

use crate::support::postgres::{Database, SECRET, Server};

fn source(database: &Database) -> Postgresql {
    // Slots of all databases of a server share one space of names.
    Postgresql::new(database.spec.clone(), database.secrets.clone(), &database.spec.database)
}

/// All rows of a table, read in one chunk.
async fn read(source: &Postgresql, schema: &TableSchema) -> Vec<RecordBatch> {
    let plan = source.plan_chunks(schema, 1 << 30).await.unwrap();
    source.read_chunk(schema, &plan.chunks[0]).await.unwrap().rows.try_collect().await.unwrap()
}
