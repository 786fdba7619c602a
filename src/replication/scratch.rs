//! What a capture cannot hold in memory, kept in the landing zone.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    api::fault::Explain,
    landing::{self, Zone, layout},
    source::{self, Scratch},
};

/// A folder of one capture in the landing zone. What is left in it when the capture ends goes when the next begins.
pub struct ZoneScratch {
    zone: Zone,
    run: u32,
    term: u64,
    capture: String,
}

impl ZoneScratch {
    /// For the capture that begins now.
    pub fn new(zone: Zone, run: u32, term: u64) -> Self {
        // A zombie of the same process may still write.
        Self { zone, run, term, capture: uuid::Uuid::new_v4().simple().to_string() }
    }

    fn path(&self, name: &str) -> String {
        layout::stream(self.run, self.term, &self.capture, name)
    }
}

#[async_trait]
impl Scratch for ZoneScratch {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), source::Error> {
        self.zone.put(&self.path(name), bytes).await.map_err(failed)
    }

    async fn get(&self, name: &str) -> Result<Bytes, source::Error> {
        let path = self.path(name);
        let found = self.zone.get(&path).await.map_err(failed)?;
        found.ok_or_else(|| failed(landing::Error::ZoneCorrupt(format!("{path}, a part of a large transaction, is missing"))))
    }

    async fn delete(&self, names: &[String]) {
        let paths: Vec<String> = names.iter().map(|name| self.path(name)).collect();
        if let Err(error) = self.zone.delete(&paths).await {
            tracing::warn!(%error, "parts of a large transaction stay in the landing zone until it is swept");
        }
    }
}

#[expect(clippy::needless_pass_by_value)] // the signature that map_err wants
fn failed(error: landing::Error) -> source::Error {
    source::Error::ScratchFailed(error.fault())
}
