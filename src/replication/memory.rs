//! A budget of memory that all tables of a worker share: whoever is about to hold many rows asks for room first.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// Rows are in memory up to about three times at once, as they are read, netted and written, and the rest of the process
/// needs some too: so much of the process's memory is given out.
const SHARE: u64 = 5;
/// The budget is counted in these.
const UNIT: u64 = 64 * 1024;

/// What a chunk takes at most while it is read or loaded: its file, a row group and some batches.
const CHUNK: u64 = 192 << 20;

/// How many chunks are read or loaded at once, at most `wanted`, in a process that may have `limit` bytes. They take no room of
/// the budget: a load may wait for a lock that an applier holds who waits for room.
pub fn chunks_at_once(limit: u64, wanted: usize) -> usize {
    usize::try_from(limit / CHUNK).unwrap_or(usize::MAX).clamp(1, wanted.max(1))
}

/// Room for rows, given out until it is given back by dropping what [`Memory::room`] returned.
pub struct Memory {
    units: u32,
    free: Arc<Semaphore>,
}

impl Memory {
    /// A budget for a process that may have `limit` bytes.
    pub fn new(limit: u64) -> Self {
        let units = u32::try_from(limit / SHARE / UNIT).unwrap_or(u32::MAX >> 4).max(1);
        Self { units, free: Arc::new(Semaphore::new(units as usize)) }
    }

    /// Waits until there is room for so many bytes of rows. What is larger than the budget gets all of it, alone. Ask for
    /// nothing more while you hold it: two who wait for each other wait for ever.
    pub async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        self.free.clone().acquire_many_owned(units).await.map_err(|_| Error::Internal("the engine ends".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[test]
    fn little_memory_holds_few_chunks() {
        assert_eq!([chunks_at_once(256 << 20, 2), chunks_at_once(512 << 20, 3), chunks_at_once(8 << 30, 5)], [1, 2, 5]);
    }

    #[tokio::test]
    async fn who_asks_waits_for_room_and_the_largest_gets_all_of_it() {
        let memory = Memory::new(SHARE * UNIT * 10);
        let first = memory.room(6 * UNIT).await.unwrap();
        assert!(timeout(Duration::from_millis(50), memory.room(5 * UNIT)).await.is_err());
        let second = memory.room(4 * UNIT).await.unwrap();
        drop((first, second));
        let all = memory.room(1000 * UNIT).await.unwrap();
        assert!(timeout(Duration::from_millis(50), memory.room(1)).await.is_err());
        drop(all);
        drop(memory.room(1).await.unwrap());
    }
}
