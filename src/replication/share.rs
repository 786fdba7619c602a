//! Who does what: work is shared among workers by rendezvous hashing, so that a change of their number moves as little of
//! it as can be. Pure. Nothing rests on two workers agreeing: progress is compared and set.

use sha2::{Digest, Sha256};

use crate::api::plan::Plan;

/// The worker that a piece of work falls to.
pub fn owner(workers: u32, work: &str) -> u32 {
    let weight = |worker: &u32| {
        let digest = Sha256::new().chain_update(worker.to_be_bytes()).chain_update(work.as_bytes()).finalize();
        <[u8; 32]>::from(digest)
    };
    (0..workers.max(1)).max_by_key(weight).unwrap_or_default()
}

/// The worker that captures the source's changes.
pub fn capturer(workers: u32) -> u32 {
    owner(workers, "capture")
}

/// The worker that moves all tables together, where that is asked for.
pub fn mover(workers: u32) -> u32 {
    owner(workers, "tables")
}

/// The worker that applies a table's changes.
pub fn applier(plan: &Plan, table: u32) -> u32 {
    if plan.transactional_consistency { mover(plan.workers) } else { of_table(plan.workers, table) }
}

fn of_table(workers: u32, table: u32) -> u32 {
    owner(workers, &format!("table {table}"))
}

/// The worker that reads and loads a chunk.
pub fn reader(workers: u32, table: u32, incarnation: u64, chunk: u32) -> u32 {
    owner(workers, &format!("chunk {table} {incarnation} {chunk}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_evenly_and_moves_little() {
        let share = |workers: u32| (0..1000).map(|table| of_table(workers, table)).collect::<Vec<_>>();
        let (two, three) = (share(2), share(3));
        let first = two.iter().filter(|&&owner| owner == 0).count();
        assert!((400..600).contains(&first), "{first} of 1000 on the first of two workers");
        for (before, after) in two.iter().zip(&three) {
            assert!(before == after || *after == 2, "moved between workers that were both there before");
        }
    }
}
