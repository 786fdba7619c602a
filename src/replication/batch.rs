//! Batches: what a run of records holds for tables, and how it is read: netted, and piece by piece if it is large.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::{Context, error::Error, file, net};
use crate::{
    api::fault::Explain,
    data::{NetChanges, Step, TableSchema},
    landing::record::{DataFile, Entry},
    target::{self, Steps},
};

/// Consecutive records are applied as one up to this many bytes of rows in memory; one that is larger is netted and staged
/// piece by piece, in one transaction of the target.
const PIECE_BYTES: u64 = 64 * 1024 * 1024;
/// Files read at once.
const READS_AT_ONCE: usize = 8;

/// And they change no more tables than this: what one transaction of the target locks is bounded.
const TABLES: usize = 200;

/// Where a table is in the log.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the table in the run.
    pub table: u32,
    /// Its incarnation.
    pub incarnation: u64,
    /// All records up to this one are in it.
    pub after: u64,
}

/// What a run of records holds for some tables.
pub struct Batch {
    /// All of these records are in it.
    pub upto: u64,
    /// The source's time of the last record.
    pub as_of: Option<Timestamp>,
    /// The source's position of the last record.
    pub position: String,
    /// For each of the tables, in the order in which they were asked for.
    pub tables: Vec<Share>,
}

/// What a batch holds for one table.
#[derive(Default)]
pub struct Share {
    /// In commit order.
    pub entries: Vec<Entry>,
    /// Of the files.
    pub bytes: u64,
}

impl Share {
    /// The columns that the table has after it, if it says so.
    pub fn schema(&self) -> Option<TableSchema> {
        self.entries.iter().rev().find_map(|entry| if let Entry::Version(version) = entry { Some(version.schema.clone()) } else { None })
    }
}

/// What the log holds for these tables, for each after its place: up to `newest`, or to the record that fills the batch, but not
/// before `at_least`.
pub async fn gather(context: &Context, places: &[Place], newest: u64, at_least: u64) -> Result<Batch, Error> {
    let by_life: HashMap<(u32, u64), usize> = places.iter().enumerate().map(|(at, place)| ((place.table, place.incarnation), at)).collect();
    let after = places.iter().map(|place| place.after).min().unwrap_or(newest);
    let tables = places.iter().map(|_| Share::default()).collect();
    let mut batch = Batch { upto: after, as_of: None, position: String::new(), tables };
    let mut held = 0;
    let mut touched = 0;
    for number in after + 1..=newest {
        let record = context.journal.record(number).await?;
        let found: Vec<(usize, &[Entry])> = record
            .data
            .iter()
            .filter_map(|data| by_life.get(&(data.table, data.incarnation)).map(|at| (*at, data.entries.as_slice())))
            .filter(|(at, _)| places[*at].after < number)
            .collect();
        let memory: u64 = found.iter().flat_map(|(_, entries)| files(entries)).map(DataFile::rows_memory).sum();
        let more = found.iter().filter(|(at, _)| batch.tables[*at].entries.is_empty()).count();
        if number > at_least && touched > 0 && (held + memory > PIECE_BYTES || touched + more > TABLES) {
            break;
        }
        held += memory;
        touched += more;
        for (at, entries) in found {
            let share = &mut batch.tables[at];
            share.bytes += files(entries).map(|file| file.bytes).sum::<u64>();
            share.entries.extend_from_slice(entries);
        }
        batch.upto = number;
        batch.as_of = record.time.or(batch.as_of);
        batch.position = record.to.to_string();
    }
    Ok(batch)
}

fn files(entries: &[Entry]) -> impl Iterator<Item = &DataFile> {
    entries.iter().filter_map(|entry| if let Entry::File(file) = entry { Some(file) } else { None })
}

/// What is to be done: read and netted piece by piece as the target asks for it, so that no more than one piece is in memory,
/// and not before the budget that all tables share has room for it.
pub fn steps<'e>(context: &'e Context, schema: &'e TableSchema, entries: &'e [Entry]) -> Steps<'e> {
    let (truncated, pieces) = pieces(entries);
    let truncate = truncated.then_some(Ok(Step::Truncate));
    stream::iter(truncate).chain(merges(context, schema, pieces)).boxed()
}

/// The same, with the first changes at hand when this returns: nobody holds a connection or a lock of the target while he waits
/// for it.
pub async fn steps_at_hand<'e>(context: &'e Context, schema: &'e TableSchema, entries: &'e [Entry]) -> Result<Steps<'e>, target::Error> {
    let (truncated, pieces) = pieces(entries);
    let truncate = truncated.then_some(Ok(Step::Truncate));
    let mut merges = merges(context, schema, pieces);
    let mut first = Vec::new();
    while let Some(step) = merges.try_next().await? {
        let changes = matches!(step, Step::Merge(_));
        first.push(Ok(step));
        if changes {
            break;
        }
    }
    Ok(stream::iter(truncate).chain(stream::iter(first)).chain(merges).boxed())
}

/// What is to be done at once.
enum Piece<'e> {
    /// The table has these columns from here on.
    Version(&'e TableSchema),
    /// The changes in these files, of one version.
    Files(Vec<&'e DataFile>),
}

fn merges<'e>(context: &'e Context, schema: &'e TableSchema, pieces: Vec<Piece<'e>>) -> Steps<'e> {
    let merges = stream::try_unfold((pieces.into_iter(), None, schema), move |(mut pieces, before, schema)| async move {
        drop::<Option<OwnedSemaphorePermit>>(before);
        match pieces.next() {
            None => Ok(None),
            Some(Piece::Version(next)) => Ok(Some((Step::Version(next.clone()), (pieces, None, next)))),
            Some(Piece::Files(files)) => {
                let room = context.memory.room(files.iter().map(|file| file.rows_memory()).sum()).await?;
                let changes = net(context, schema, &files).await?;
                Ok(Some((Step::Merge(changes), (pieces, Some(room), schema))))
            }
        }
    });
    merges.map_err(|error: Error| target::Error::StepFailed(error.fault())).boxed()
}

/// Reads files and nets their changes.
async fn net(context: &Context, schema: &TableSchema, files: &[&DataFile]) -> Result<NetChanges, Error> {
    let batches: Vec<Vec<RecordBatch>> = stream::iter(files.iter().map(|file| file.path.clone()).collect::<Vec<_>>())
        .map(|path| async move {
            let bytes = context.data_file(&path).await?;
            let schema = schema.arrow_changes();
            Ok::<_, Error>(tokio::task::spawn_blocking(move || file::decode(bytes, schema)?.collect::<Result<_, _>>()).await??)
        })
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let schema = schema.clone();
    Ok(tokio::task::spawn_blocking(move || net::net(&schema, &batches.concat())).await??)
}

/// Whether the table is truncated, and what comes after the last truncation, the files in pieces that fit into memory. Of what
/// came before it only versions count.
fn pieces(entries: &[Entry]) -> (bool, Vec<Piece<'_>>) {
    let truncated = entries.iter().rposition(|entry| matches!(entry, Entry::Truncate));
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut room = 0;
    for (at, entry) in entries.iter().enumerate() {
        let file = match entry {
            Entry::Version(version) => {
                pieces.push(Piece::Version(&version.schema));
                continue;
            }
            Entry::File(file) if truncated.is_none_or(|truncated| at > truncated) => file,
            Entry::File(_) | Entry::Truncate => continue,
        };
        let memory = file.rows_memory();
        if memory <= room
            && let Some(Piece::Files(piece)) = pieces.last_mut()
        {
            piece.push(file);
        } else {
            pieces.push(Piece::Files(vec![file]));
            room = PIECE_BYTES;
        }
        room = room.saturating_sub(memory);
    }
    (truncated.is_some(), pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{TableVersion, fixtures};

    #[test]
    fn pieces_fit_into_memory_and_begin_after_the_last_truncation() {
        let file = |memory: u64| Entry::File(DataFile { path: memory.to_string(), bytes: 1, memory, rows: 1, large: vec![] });
        let (big, small) = (PIECE_BYTES, PIECE_BYTES / 2);
        let sizes = |entries: &[Entry]| {
            let (truncated, pieces) = pieces(entries);
            let memory = |piece: &Piece<'_>| match piece {
                Piece::Version(_) => vec![],
                Piece::Files(files) => files.iter().map(|file| file.memory).collect(),
            };
            let sizes = pieces.iter().map(memory).collect::<Vec<_>>();
            (truncated, sizes)
        };
        assert_eq!(sizes(&[]), (false, vec![]));
        assert_eq!(sizes(&[file(small), file(small), file(1)]), (false, vec![vec![small, small], vec![1]]));
        assert_eq!(sizes(&[file(big * 2), file(1), file(big)]), (false, vec![vec![big * 2], vec![1], vec![big]]));
        assert_eq!(sizes(&[file(1), Entry::Truncate, file(2), Entry::Truncate, file(3)]), (true, vec![vec![3]]));
        assert_eq!(sizes(&[file(1), Entry::Truncate]), (true, vec![]));
        // A version ends a piece, and counts also before a truncation.
        let schema = fixtures::table("t", vec![], &[]);
        let version = || Entry::Version(Box::new(TableVersion { schema: schema.clone(), parts: vec![] }));
        assert_eq!(sizes(&[file(1), version(), file(2), file(3)]), (false, vec![vec![1], vec![], vec![2, 3]]));
        assert_eq!(sizes(&[file(1), version(), Entry::Truncate, file(2)]), (true, vec![vec![], vec![2]]));
    }
}
