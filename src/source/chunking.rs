//! How large the chunks of a table are.

/// A table is cut into so many chunks at least, so that all readers are busy to its end,
const LEAST_CHUNKS: u64 = 32;
/// but for the sake of a few more no chunk gets smaller than this: each costs a session, a file and a transaction.
const SMALL_CHUNK_BYTES: u64 = 16 << 20;

/// Bytes of a chunk of a table of so many bytes, at most `largest`.
pub fn chunk_size(table: u64, largest: u64) -> u64 {
    (table / LEAST_CHUNKS).max(SMALL_CHUNK_BYTES).min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_many_or_small() {
        let mib = |n: u64| n << 20;
        assert_eq!(chunk_size(mib(1), mib(64)), mib(16));
        assert_eq!(chunk_size(mib(1024), mib(64)), mib(32));
        assert_eq!(chunk_size(mib(100_000), mib(64)), mib(64));
        assert_eq!(chunk_size(mib(100_000), mib(1)), mib(1));
    }
}
