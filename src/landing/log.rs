//! The log of a link's runs in its landing zone: owners, runs, records, checkpoints and chunk records. Reads and creates
//! them; what they mean is the engine's business.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Created, Error, Zone, layout,
    record::{ChunkRecord, Owner, Record, Run},
};

/// Checkpoints that are kept.
const CHECKPOINTS_KEPT: usize = 2;

/// What became of a create.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It stands as given.
    Ours,
    /// Another one stood there before.
    Theirs(T),
}

/// The log of one run.
#[derive(Clone)]
pub struct Log {
    zone: Zone,
    run: u32,
}

impl Log {
    /// The log of a run that exists.
    pub fn new(zone: Zone, run: u32) -> Self {
        Self { zone, run }
    }

    /// The run.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// The folder that it is in.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Reads a record; none if it was not created yet.
    pub async fn read(&self, number: u64) -> Result<Option<Record>, Error> {
        read(&self.zone, &layout::record(self.run, number)).await
    }

    /// Creates a record: the commit point.
    pub async fn append(&self, record: &Record) -> Result<Outcome<Record>, Error> {
        create(&self.zone, &layout::record(self.run, record.number), record).await
    }

    /// The numbers of the records that are there, in order.
    pub async fn numbers(&self) -> Result<Vec<u64>, Error> {
        Ok(self.zone.list(&layout::records(self.run)).await?.iter().filter_map(|path| layout::number(path)).collect())
    }

    /// The newest checkpoint, if any.
    pub async fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        loop {
            let Some(newest) = self.checkpoints().await?.last().copied() else { return Ok(None) };
            // One that is gone since has made room for a newer one; a log without its checkpoint would seem to be empty.
            if let Some(found) = read(&self.zone, &layout::checkpoint(self.run, newest)).await? {
                return Ok(Some(found));
            }
        }
    }

    /// The numbers of the records that have a checkpoint, in order.
    pub async fn checkpoints(&self) -> Result<Vec<u64>, Error> {
        Ok(self.zone.list(&layout::checkpoints(self.run)).await?.iter().filter_map(|path| layout::number(path)).collect())
    }

    /// Writes the state at a record, and removes all but the newest checkpoints.
    pub async fn put_checkpoint<T: Serialize>(&self, number: u64, state: &T) -> Result<(), Error> {
        self.zone.put(&layout::checkpoint(self.run, number), encode(state)?).await?;
        let all = self.zone.list(&layout::checkpoints(self.run)).await?;
        let old = all.len().saturating_sub(CHECKPOINTS_KEPT);
        if old > 0 { self.zone.delete(&all[..old]).await } else { Ok(()) }
    }

    /// The numbers of an incarnation's chunks that were read.
    pub async fn chunks_read(&self, table: u32, incarnation: u64) -> Result<Vec<u32>, Error> {
        let paths = self.zone.list(&layout::chunks(self.run, table, incarnation)).await?;
        Ok(paths.iter().filter_map(|path| layout::number(path)).map(|number| number as u32).collect())
    }

    /// Reads the record of a chunk; none if it was not read yet.
    pub async fn chunk(&self, table: u32, incarnation: u64, chunk: u32) -> Result<Option<ChunkRecord>, Error> {
        read(&self.zone, &layout::chunk(self.run, table, incarnation, chunk)).await
    }

    /// Says that a chunk was read.
    pub async fn create_chunk(
        &self,
        table: u32,
        incarnation: u64,
        chunk: u32,
        record: &ChunkRecord,
    ) -> Result<Outcome<ChunkRecord>, Error> {
        create(&self.zone, &layout::chunk(self.run, table, incarnation, chunk), record).await
    }
}

/// Whose a folder is.
pub async fn owner(zone: &Zone) -> Result<Option<Owner>, Error> {
    match zone.list(layout::OWNERS).await?.last() {
        Some(path) => read(zone, path).await,
        None => Ok(None),
    }
}

/// All owners that a folder has had, the present one last.
pub async fn owners(zone: &Zone) -> Result<Vec<Owner>, Error> {
    let mut owners = Vec::new();
    for path in zone.list(layout::OWNERS).await? {
        owners.extend(read(zone, &path).await?);
    }
    Ok(owners)
}

/// Makes `us` the `number`-th owner of a folder, from 1, unless somebody else was faster.
pub async fn own(zone: &Zone, number: usize, us: &Owner) -> Result<Outcome<Owner>, Error> {
    create(zone, &layout::owner(number as u64), us).await
}

/// The newest run of a folder; 0 if none began.
pub async fn newest_run(zone: &Zone) -> Result<u32, Error> {
    let runs = zone.list(layout::RUNS).await?;
    Ok(runs.last().and_then(|path| layout::number(path)).unwrap_or_default() as u32)
}

/// Says that a run began; the same run may be begun twice.
pub async fn begin_run(zone: &Zone, run: &Run) -> Result<(), Error> {
    create(zone, &layout::run(run.run), run).await.map(|_| ())
}

/// Removes what runs before this one have left.
pub async fn remove_runs_before(zone: &Zone, run: u32) -> Result<(), Error> {
    for path in zone.list(layout::RUNS).await? {
        let Some(over) = layout::number(&path).and_then(|number| u32::try_from(number).ok()).filter(|number| *number < run) else {
            continue;
        };
        zone.delete_folder(&layout::folder(over)).await?;
        zone.delete(&[path]).await?;
    }
    Ok(())
}

async fn read<T: DeserializeOwned>(zone: &Zone, path: &str) -> Result<Option<T>, Error> {
    zone.get(path).await?.map(|bytes| decode(path, &bytes)).transpose()
}

async fn create<T: Serialize + DeserializeOwned>(zone: &Zone, path: &str, value: &T) -> Result<Outcome<T>, Error> {
    Ok(match zone.create(path, encode(value)?).await? {
        Created::Ours => Outcome::Ours,
        Created::Theirs(bytes) => Outcome::Theirs(decode(path, &bytes)?),
    })
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::ZoneCorrupt(error.to_string()))
}

fn decode<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::ZoneCorrupt(format!("{path} cannot be read: {error}")))
}
