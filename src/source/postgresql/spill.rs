//! Transactions that arrive while they are still open: PostgreSQL sends what exceeds its `logical_decoding_work_mem` at once rather
//! than to keep it on its own disk. Their messages wait here, in pieces in the scratch, until the transaction ends.
//!
//! They are kept as they came, in the order in which they came, each with the subtransaction that it is of: at the commit they are
//! taken in as if they had come only now, without those of subtransactions that were rolled back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::pgoutput::{Malformed, Streamed};
use crate::{
    protection::Protection,
    source::{Error, Scratch},
};

/// Bytes that all open transactions together may hold in memory before compression; the largest goes to the scratch then.
const HELD_BYTES: usize = 4 * 1024 * 1024;
/// Of the compression, which shall cost little: what it writes is read once.
const LEVEL: i32 = 1;

/// Messages of transactions that are still open.
pub struct Spill {
    scratch: Arc<dyn Scratch>,
    open: HashMap<u32, Transaction>,
    held: usize,
    pieces: u64,
}

#[derive(Default)]
struct Transaction {
    /// Names in the scratch, in order.
    pieces: Vec<String>,
    /// Messages since the last piece.
    held: BytesMut,
    /// Subtransactions that were rolled back.
    aborted: HashSet<u32>,
}

impl Spill {
    /// Nothing is open.
    pub fn new(scratch: Arc<dyn Scratch>) -> Self {
        Self { scratch, open: HashMap::new(), held: 0, pieces: 0 }
    }

    /// Keeps a message of transaction `id`.
    pub async fn keep(&mut self, id: u32, message: &Streamed<'_>) -> Result<(), Error> {
        let held = &mut self.open.entry(id).or_default().held;
        let before = held.len();
        held.put_u32(1 + message.rest.len() as u32);
        held.put_u32(message.sub);
        held.put_u8(message.kind);
        held.put_slice(message.rest);
        self.held += held.len() - before;
        if self.held > HELD_BYTES {
            // Half of it, or with many open transactions each message would put a small piece.
            while self.held > HELD_BYTES / 2 {
                self.put_largest().await?;
            }
        }
        Ok(())
    }

    async fn put_largest(&mut self) -> Result<(), Error> {
        let Some(largest) = self.open.values_mut().max_by_key(|transaction| transaction.held.len()) else { return Ok(()) };
        let messages = std::mem::take(&mut largest.held).freeze();
        self.held -= messages.len();
        self.pieces += 1;
        let name = self.pieces.to_string();
        let packed = tokio::task::spawn_blocking(move || zstd::bulk::compress(&messages, LEVEL)).await.map_err(std::io::Error::other);
        self.scratch.put(&name, packed.flatten().map_err(|error| unreadable(&error))?.into()).await?;
        largest.pieces.push(name);
        Ok(())
    }

    /// Subtransaction `sub` of transaction `id` was rolled back, or all of it.
    pub async fn abort(&mut self, id: u32, sub: u32) {
        if id != sub {
            if let Some(transaction) = self.open.get_mut(&id) {
                transaction.aborted.insert(sub);
            }
            return;
        }
        let Some(transaction) = self.open.remove(&id) else { return };
        self.held -= transaction.held.len();
        self.scratch.delete(&transaction.pieces).await;
    }

    /// Nothing is open any more, or all of it comes again.
    pub async fn clear(&mut self) {
        for (_, transaction) in self.open.drain() {
            self.scratch.delete(&transaction.pieces).await;
        }
        self.held = 0;
    }

    /// The transaction committed: its messages.
    pub fn commit(&mut self, id: u32) -> Replay {
        let Transaction { pieces, held, aborted } = self.open.remove(&id).unwrap_or_default();
        self.held -= held.len();
        let scratch = self.scratch.clone();
        Replay { scratch, pieces: pieces.into(), held: Some(held.freeze()), aborted, messages: Bytes::new(), read: None }
    }
}

/// The messages of a transaction that committed.
pub struct Replay {
    scratch: Arc<dyn Scratch>,
    pieces: VecDeque<String>,
    held: Option<Bytes>,
    aborted: HashSet<u32>,
    /// What is left of the present piece.
    messages: Bytes,
    /// Its name in the scratch.
    read: Option<String>,
}

impl Replay {
    /// The next message; none after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            while !self.messages.is_empty() {
                if self.messages.len() < 8 {
                    return Err(Malformed.into());
                }
                let (length, sub) = (self.messages.get_u32() as usize, self.messages.get_u32());
                if self.messages.len() < length {
                    return Err(Malformed.into());
                }
                let message = self.messages.split_to(length);
                // Also how tables are: after a rollback the server tells it again before the next change.
                if !self.aborted.contains(&sub) || !Protection::Savepoints.holds() {
                    return Ok(Some(message));
                }
            }
            if let Some(read) = self.read.take() {
                self.scratch.delete(&[read]).await;
            }
            if let Some(name) = self.pieces.pop_front() {
                let packed = self.scratch.get(&name).await?;
                let unpacked = tokio::task::spawn_blocking(move || zstd::stream::decode_all(packed.reader())).await;
                self.messages = unpacked.map_err(std::io::Error::other).flatten().map_err(|error| unreadable(&error))?.into();
                self.read = Some(name);
            } else if let Some(held) = self.held.take() {
                self.messages = held;
            } else {
                return Ok(None);
            }
        }
    }
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::SourceError(format!("a part of a large transaction cannot be packed or unpacked: {error}"))
}
