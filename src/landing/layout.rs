//! Where everything stands in a link's folder. All paths are relative to `<folder>/<linkId>/`.

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
    format!("_link/{run:010}/log/{number:020}.json")
}

/// The folder of a run's checkpoints.
pub fn checkpoints(run: u32) -> String {
    format!("_link/{run:010}/checkpoints/")
}

/// The state at a record.
pub fn checkpoint(run: u32, number: u64) -> String {
    format!("{}{number:020}.json", checkpoints(run))
}

/// The folder of the records of chunks that were read.
pub fn chunks(run: u32, table: u32, incarnation: u64) -> String {
    format!("_link/{run:010}/chunks/{table}/{incarnation}/")
}

/// The record of one chunk that was read.
pub fn chunk(run: u32, table: u32, incarnation: u64, chunk: u32) -> String {
    format!("{}{chunk:010}.json", chunks(run, table, incarnation))
}

/// A data file, under a name that nobody else can choose. Term 0: a chunk of a snapshot, which needs no term.
pub fn data(run: u32, table: u32, incarnation: u64, term: u64) -> String {
    format!("_link/{run:010}/data/{table}/{incarnation}/{term}-{}.parquet", uuid::Uuid::new_v4().simple())
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
}
