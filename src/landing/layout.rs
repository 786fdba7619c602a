//! Where everything stands in a link's folder. All paths are relative to `<folder>/<linkId>/`.

use jiff::Timestamp;

/// Below it: who owns the folder, one object a change of owner; the highest counts.
pub const OWNERS: &str = "_link/owner/";
/// Below it: one object a run; the highest counts.
pub const RUNS: &str = "_link/runs/";

/// The record of the `number`-th owner.
pub fn owner(number: u64) -> String {
    format!("{OWNERS}{number:010}.json")
}

/// The record of a run.
pub fn run(run: u32) -> String {
    format!("{RUNS}{run:010}.json")
}

/// A record of a run's log.
pub fn record(run: u32, number: u64) -> String {
    format!("{}{number:020}.json", records(run))
}

/// The folder of a run's log.
pub fn records(run: u32) -> String {
    format!("{}log/", folder(run))
}

/// All that a run has written.
pub fn folder(run: u32) -> String {
    format!("_link/{run:010}/")
}

/// The folder of a run's checkpoints.
pub fn checkpoints(run: u32) -> String {
    format!("{}checkpoints/", folder(run))
}

/// The state at a record.
pub fn checkpoint(run: u32, number: u64) -> String {
    format!("{}{number:020}.json", checkpoints(run))
}

/// The folder of the records of all chunks of a run that were read.
pub fn all_chunks(run: u32) -> String {
    format!("{}chunks/", folder(run))
}

/// The folder of the records of an incarnation's chunks that were read.
pub fn chunks(run: u32, table: u32, incarnation: u64) -> String {
    format!("{}{table}/{incarnation}/", all_chunks(run))
}

/// The record of one chunk that was read.
pub fn chunk(run: u32, table: u32, incarnation: u64, chunk: u32) -> String {
    format!("{}{chunk:010}.json", chunks(run, table, incarnation))
}

/// The folder of a run's data files.
pub fn data_files(run: u32) -> String {
    format!("{}data/", folder(run))
}

/// A data file, under a name that nobody else can choose. Term 0: a chunk of a snapshot, which needs no term.
pub fn data(run: u32, table: u32, incarnation: u64, term: u64) -> String {
    format!("{}{table}/{incarnation}/{term}-{}.parquet", data_files(run), uuid::Uuid::new_v4().simple())
}

/// A value that is too large for a data file, beside those: what its parts' paths begin with.
pub fn value(run: u32, table: u32, incarnation: u64, term: u64) -> String {
    format!("{}{table}/{incarnation}/{term}-{}.value", data_files(run), uuid::Uuid::new_v4().simple())
}

/// Below it: files that a target's server loads by itself; each for a minute.
pub const LOADS: &str = "_link/load/";

/// A file that a target's server is to load, under a name that nobody else can choose and that says since when it is there.
pub fn load(now: Timestamp) -> String {
    format!("{LOADS}{}-{}.parquet", now.as_second(), uuid::Uuid::new_v4().simple())
}

/// Since when an object below [`LOADS`] is there.
pub fn load_time(path: &str) -> Option<Timestamp> {
    let (second, _) = path.strip_prefix(LOADS)?.split_once('-')?;
    Timestamp::from_second(second.parse().ok()?).ok()
}

/// The folder of what captures keep of transactions that are still open.
pub fn streams(run: u32) -> String {
    format!("{}stream/", folder(run))
}

/// What one capture keeps of them, in a folder of its own.
pub fn stream(run: u32, term: u64, capture: &str, name: &str) -> String {
    format!("{}{term}/{capture}/{name}", streams(run))
}

/// The term of an object below [`streams`].
pub fn stream_term(path: &str) -> Option<u64> {
    let mut parts = path.rsplit('/').skip(2);
    let term = parts.next()?.parse().ok()?;
    (parts.next() == Some("stream")).then_some(term)
}

/// What an object below [`data_files`] or [`all_chunks`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// Changes, put in a term.
    Changes {
        /// The term.
        term: u64,
    },
    /// Rows of a chunk, or the record that it was read.
    Chunk {
        /// The table.
        table: u32,
        /// Its incarnation.
        incarnation: u64,
    },
}

/// What an object is, by its path; none if it is none of ours.
pub fn object(path: &str) -> Option<Object> {
    let mut parts = path.rsplit('/');
    let (name, incarnation, table, folder) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (table, incarnation) = (table.parse().ok()?, incarnation.parse().ok()?);
    match (folder, name.split_once('-')) {
        ("chunks", None) | ("data", Some(("0", _))) => Some(Object::Chunk { table, incarnation }),
        ("data", Some((term, _))) => Some(Object::Changes { term: term.parse().ok()? }),
        _ => None,
    }
}

/// The number in the last part of a path: `…/0000000042.json` is 42.
pub fn number(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_text_and_read_back() {
        assert!(record(3, 9) < record(3, 10));
        assert_eq!(number(&record(3, 42)), Some(42));
        assert_eq!(number(&chunk(1, 2, 3, 7)), Some(7));
        assert_eq!(number("_link/owner/x"), None);
        assert_ne!(data(1, 2, 3, 4), data(1, 2, 3, 4));
    }

    #[test]
    fn objects_are_known_by_their_paths() {
        assert_eq!(object(&data(1, 2, 3, 4)), Some(Object::Changes { term: 4 }));
        assert_eq!(object(&data(1, 2, 3, 0)), Some(Object::Chunk { table: 2, incarnation: 3 }));
        assert_eq!(object(&chunk(1, 2, 3, 7)), Some(Object::Chunk { table: 2, incarnation: 3 }));
        assert_eq!((object(&stream(1, 4, "some", "1")), stream_term(&stream(1, 4, "some", "1"))), (None, Some(4)));
        assert_eq!(stream_term(&data(1, 2, 3, 4)), None);
        assert_eq!(object(&record(1, 7)), None);
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!((object(&load(now)), load_time(&load(now)), load_time(&record(1, 7))), (None, Some(now), None));
        assert_eq!(object("_link/0000000001/data/2/3/readme.txt"), None);
    }
}
