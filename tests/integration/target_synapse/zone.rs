//! A landing zone whose load files are read back as the pool would, by their address and its own token, before they are removed.

use std::sync::{Arc, Mutex};

use arrow::{array::RecordBatch, util::display::array_value_to_string};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use link_operator::{
    landing::Zone,
    secrets::Secrets,
    target::{Error, LoadFile, LoadFiles},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use crate::support::azurite::{ALL, Azurite, sas};

/// What the pool may.
pub const READER: &str = "rl";

/// The zone of one link, watched.
pub struct Watched {
    pub zone: Zone,
    pub token: String,
    /// The files, in the order in which they went: address and rows.
    pub read: Mutex<Vec<(String, Vec<String>)>>,
    _azurite: Azurite,
    _folder: TempDir,
}

impl Watched {
    pub async fn start() -> Arc<Self> {
        let (azurite, folder) = (Azurite::start().await, tempfile::tempdir().unwrap());
        azurite.create_container("zone").await;
        std::fs::create_dir_all(folder.path().join("zone")).unwrap();
        std::fs::write(folder.path().join("zone/token"), sas("zone", ALL, SignedDuration::from_hours(1))).unwrap();
        let spec = azurite.zone("zone", "zone");
        let zone = Zone::open(&spec, &Secrets::new(folder.path()), folder.path(), Some("ns.shop")).unwrap();
        let token = sas("zone", READER, SignedDuration::from_hours(1));
        Arc::new(Self { zone, token, read: Mutex::default(), _azurite: azurite, _folder: folder })
    }

    /// Objects of the link that are there.
    pub async fn objects(&self) -> Vec<String> {
        self.zone.list("").await.unwrap()
    }

    /// Rows of all files that were read since the last question.
    pub fn rows(&self) -> Vec<String> {
        std::mem::take(&mut *self.read.lock().unwrap()).into_iter().flat_map(|(_, rows)| rows).collect()
    }
}

fn told(batch: &RecordBatch) -> Vec<String> {
    let value = |column: &arrow::array::ArrayRef, row| {
        if column.is_null(row) { "-".to_owned() } else { array_value_to_string(column, row).unwrap() }
    };
    let row = |row| batch.columns().iter().map(|column| value(column, row)).collect::<Vec<_>>().join(",");
    (0..batch.num_rows()).map(row).collect()
}

#[async_trait]
impl LoadFiles for Watched {
    async fn put(&self, bytes: Bytes) -> Result<LoadFile, Error> {
        LoadFiles::put(&self.zone, bytes).await
    }

    async fn remove(&self, files: &[LoadFile]) -> Result<(), Error> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for file in files {
            let answer = client.get(format!("{}?{}", file.url, self.token)).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{}", file.url);
            let reader = ParquetRecordBatchReaderBuilder::try_new(answer.bytes().await.unwrap()).unwrap().build().unwrap();
            let rows = reader.flat_map(|batch| told(&batch.unwrap())).collect();
            self.read.lock().unwrap().push((file.url.clone(), rows));
        }
        self.zone.remove(files).await
    }

    fn check_reader(&self, credential: &str) -> Result<(), Error> {
        self.zone.check_reader(credential)
    }
}

/// A zone that keeps nothing, for tests of what the pool is told.
pub struct Nowhere;

#[async_trait]
impl LoadFiles for Nowhere {
    async fn put(&self, _: Bytes) -> Result<LoadFile, Error> {
        Ok(LoadFile { path: "p".to_owned(), url: "https://zone.blob.core.windows.net/c/p".to_owned() })
    }

    async fn remove(&self, _: &[LoadFile]) -> Result<(), Error> {
        Ok(())
    }

    fn check_reader(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
}
