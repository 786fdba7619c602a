//! Values that are too large for memory, kept in the landing zone beside the data files that name them.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    api::fault::{Explain, Fault},
    data::{LargeValue, part_path},
    landing::{self, Zone, layout},
    source,
    target::{self, LoadFile},
};

/// Of the compression, which shall cost little: what it writes is read once.
const LEVEL: i32 = 1;

/// Keeps the values that are read for a table, or for all that a capture follows.
pub struct ZoneValues {
    zone: Zone,
    run: u32,
    table: u32,
    incarnation: u64,
    term: u64,
}

impl ZoneValues {
    /// For the chunks of a table's incarnation: they stay as long as those.
    pub fn of_chunks(zone: Zone, run: u32, table: u32, incarnation: u64) -> Self {
        Self { zone, run, table, incarnation, term: 0 }
    }

    /// For what a capture reads in its term: they go with the records that name them, and what none names after the term.
    pub fn of_changes(zone: Zone, run: u32, term: u64) -> Self {
        Self { zone, run, table: 0, incarnation: 0, term }
    }
}

#[async_trait]
impl source::LargeValues for ZoneValues {
    fn path(&self) -> String {
        layout::value(self.run, self.table, self.incarnation, self.term)
    }

    async fn put(&self, path: &str, part: u32, bytes: Bytes) -> Result<(), source::Error> {
        let packed = tokio::task::spawn_blocking(move || zstd::bulk::compress(&bytes, LEVEL)).await.map_err(std::io::Error::other);
        let packed = packed.flatten().map_err(|error| source::Error::ScratchFailed(unreadable(path, &error).fault()))?;
        self.zone.put(&part_path(path, part), packed.into()).await.map_err(|error| source::Error::ScratchFailed(error.fault()))
    }
}

#[async_trait]
impl target::LargeValues for Zone {
    async fn part(&self, value: &LargeValue, part: u32) -> Result<Bytes, target::Error> {
        self::part(self, value, part).await.map_err(|error| of_zone(&error))
    }
}

#[async_trait]
impl target::LoadFiles for Zone {
    async fn put(&self, bytes: Bytes) -> Result<LoadFile, target::Error> {
        let path = layout::load(Timestamp::now());
        let Some(url) = self.url(&path).map_err(|error| of_zone(&error))? else {
            return Err(of_zone(&landing::Error::ZoneNotSpecified("the landing zone is in a volume, which no database server can read")));
        };
        Self::put(self, &path, bytes).await.map_err(|error| of_zone(&error))?;
        Ok(LoadFile { path, url })
    }

    async fn remove(&self, files: &[LoadFile]) -> Result<(), target::Error> {
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        self.delete(&paths).await.map_err(|error| of_zone(&error))
    }

    fn check_reader(&self, credential: &str) -> Result<(), target::Error> {
        let wrong = |message: String| target::Error::TargetNotPrepared {
            message: format!("copyAuth.sasToken: {message}"),
            remedy:
                "write a token into its Secret that may read and list, and no more: az storage container generate-sas --permissions rl \
                     --expiry …"
                    .to_owned(),
        };
        let token = landing::SasToken::parse(credential).map_err(|error| wrong(error.to_string()))?;
        token.check_time(Timestamp::now()).map_err(|error| wrong(error.to_string()))?;
        if let Some(missing) = ['r', 'l'].into_iter().find(|right| token.lacks(*right)) {
            return Err(wrong(format!("it lacks the right {missing}")));
        }
        let more: String = token.rights.iter().flat_map(|rights| rights.chars()).filter(|right| !matches!(right, 'r' | 'l')).collect();
        if more.is_empty() { Ok(()) } else { Err(wrong(format!("it has more rights than a reader needs: {more}"))) }
    }
}

/// A fault of the zone while a target was written to: it passes, as far as the target can tell.
fn of_zone(error: &landing::Error) -> target::Error {
    target::Error::StepFailed(Fault { heals: true, ..error.fault() })
}

async fn part(zone: &Zone, value: &LargeValue, part: u32) -> Result<Bytes, landing::Error> {
    let path = part_path(&value.path, part);
    let Some(packed) = zone.get(&path).await? else {
        return Err(landing::Error::ZoneCorrupt(format!("{path}, a part of a large value, is missing")));
    };
    let unpacked = tokio::task::spawn_blocking(move || zstd::stream::decode_all(packed.as_ref())).await.map_err(std::io::Error::other);
    let bytes = unpacked.flatten().map_err(|error| unreadable(&path, &error))?;
    let plain = value.plain(part, &bytes).map(|plain| Bytes::copy_from_slice(&plain));
    plain.ok_or_else(|| landing::Error::ZoneCorrupt(format!("{path} is not a part of a large value")))
}

fn unreadable(path: &str, error: &std::io::Error) -> landing::Error {
    landing::Error::ZoneCorrupt(format!("{path}, a part of a large value, cannot be packed or unpacked: {error}"))
}
