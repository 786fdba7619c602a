//! What travels between a source, the landing zone and a target: names, schemas, positions and batches of changes.
//!
//! Plain data without I/O, known to every layer below the worker. Knows no vendor: a source describes its tables in these
//! terms and a target reads them.

mod change;
mod digest;
mod digesting;
#[cfg(test)]
pub mod fixtures;
mod large;
mod position;
pub mod print;
mod schema;
mod snapshot;

pub use change::{Beside, Besides, Cell, LINK_COLUMN, LinkCell, NetChanges, OP_COLUMN, Op, Step, Unresolved};
pub use digest::{Among, Digest, Digests, KeyRange, KeyTexts, RowDigest, RowDigests};
pub use digesting::{Digesting, list_rows};
pub use large::{Form, LargeValue, part_path};
pub use position::Position;
pub use schema::{Column, Part, TableName, TableSchema, TableVersion, Travel};
pub use snapshot::{Chunk, ChunkPlan, Identity};
