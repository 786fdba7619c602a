//! Sweeping: what nobody needs any more leaves the landing zone (DESIGN 5.2). The capture that reigns does it.
//!
//! A record and its files go once every table that is still followed holds them and they are older than the zone's
//! retention. A worker that slept for so long would take the gap for the log's end, so a log is swept only below its
//! checkpoints, and whoever is about to write after a long pause looks whether there is a newer one
//! ([`super::journal::Journal::is_newest`]).

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::{Context, error::Error, state::RunState};
use crate::{
    data::TableName,
    failpoint::{self, Point},
    landing::{
        Zone,
        layout::{self, Object},
        log::{self, Log},
        record::{Entry, Record},
    },
    protection::Protection,
    target::{Incarnation, Progress},
};

/// Records that are read and removed together.
const AT_ONCE: usize = 256;
/// Requests under way at once.
const REQUESTS: usize = 16;

/// No server takes as long to load a file.
const LOAD: SignedDuration = SignedDuration::from_hours(24);

/// How far each source table is in the target.
type Progresses = HashMap<TableName, Progress>;

/// What a pass over all files would find: if it is as at the last pass, there is none.
#[derive(PartialEq, Eq)]
struct Seen {
    term: u64,
    tables: Vec<(u32, u64, bool, bool)>,
}

/// Sweeps again and again. What cannot be removed now stays for the next time: nothing waits for it.
pub async fn keep_sweeping(context: &Context) -> Result<(), Error> {
    let mut seen = None;
    loop {
        tokio::time::sleep(context.setup.sweep_every).await;
        let retention = Duration::from_secs(context.plan.borrow().retention_seconds);
        if let Err(error) = sweep(context, retention, &mut seen).await {
            tracing::warn!(%error, "the landing zone is not swept");
        }
    }
}

/// Removes what former captures kept of transactions that were open: the source sends them again to the one that begins. At once,
/// for if the source ends each of them after minutes, none would last until the first sweep.
pub async fn streams(log: &Log, term: u64) -> Result<(), Error> {
    let mut paths = log.zone().list(&layout::streams(log.run())).await?;
    paths.retain(|path| layout::stream_term(path).is_some_and(|of| of < term));
    Ok(log.zone().delete(&paths).await?)
}

/// Removes files that a target's server was to load, and that whoever wrote them did not live to remove.
async fn remove_loads(zone: &Zone) -> Result<(), Error> {
    let before = Timestamp::now().checked_sub(LOAD).unwrap_or(Timestamp::MIN);
    let mut paths = zone.list(layout::LOADS).await?;
    paths.retain(|path| layout::load_time(path).is_some_and(|since| since < before));
    Ok(zone.delete(&paths).await?)
}

async fn sweep(context: &Context, retention: Duration, seen: &mut Option<Seen>) -> Result<(), Error> {
    let log = context.journal.log();
    remove_loads(log.zone()).await?;
    let state = context.journal.state();
    let link_id = context.plan.borrow().link.link_id.clone();
    // Asked after the state was taken: what the target has lies in the state or after it.
    let progresses = context.setup.target.link_progress(&link_id).await?;
    if log.checkpoints().await?.last().is_none_or(|newest| *newest < state.number) {
        log.put_checkpoint(state.number, &*state).await?;
    }
    let Some(checkpoint) = log.checkpoints().await?.first().copied() else { return Ok(()) };
    let before = SignedDuration::try_from(retention).ok().and_then(|retention| Timestamp::now().checked_sub(retention).ok());
    let floor = needed_from(&state, &progresses).min(checkpoint).min(state.number).saturating_sub(1);
    let left = remove_records(log, floor, before.unwrap_or(Timestamp::MIN)).await?;
    context.setup.metrics.swept(left.as_ref().map(|left| (left.records, left.oldest.created)));
    let Some(Left { oldest, .. }) = left else { return Ok(()) };

    let now = Seen {
        term: oldest.term,
        tables: state.tables.iter().map(|(id, table)| (*id, table.incarnation, table.left, in_place(&state, *id, &progresses))).collect(),
    };
    if seen.as_ref() != Some(&now) {
        remove_litter(log, &state, &progresses, oldest.term).await?;
        *seen = Some(now);
    }
    Ok(())
}

/// The first record that somebody may still read. Pure.
fn needed_from(state: &RunState, progresses: &Progresses) -> u64 {
    let of_table = |table: &super::state::TableState| {
        let life = Incarnation { run: state.run, record: table.incarnation };
        match progresses.get(&table.schema.name).filter(|progress| progress.incarnation == life) {
            Some(progress) if progress.exact => progress.record + 1,
            // Where its first catch-up ended is read once more when it becomes exact.
            Some(progress) => progress.record,
            None => table.incarnation,
        }
    };
    let followed = state.tables.values().filter(|table| table.followed() && Protection::SweepFloor.holds());
    followed.map(of_table).min().unwrap_or(state.number)
}

/// Whether the table stands in the target as of its newest incarnation: nobody reads its chunks again.
fn in_place(state: &RunState, id: u32, progresses: &Progresses) -> bool {
    state.tables.get(&id).is_some_and(|table| {
        let life = Incarnation { run: state.run, record: table.incarnation };
        progresses.get(&table.schema.name).is_some_and(|progress| progress.incarnation == life && progress.exact)
    })
}

/// Records that stay.
struct Left {
    oldest: Record,
    records: usize,
}

/// Removes the records up to `floor` that were made before `before`, each after its files.
async fn remove_records(log: &Log, floor: u64, before: Timestamp) -> Result<Option<Left>, Error> {
    let numbers = log.numbers().await?;
    let mut removed = 0;
    for some in numbers.chunks(AT_ONCE) {
        let found: Vec<Option<Record>> =
            stream::iter(some.to_vec()).map(|number| async move { log.read(number).await }).buffered(REQUESTS).try_collect().await?;
        let mut gone = found.into_iter().flatten().peekable();
        let mut files = Vec::new();
        let mut records = Vec::new();
        while let Some(record) = gone.next_if(|record| record.number <= floor && record.created < before) {
            let entries = record.data.iter().flat_map(|data| &data.entries);
            let of_record = entries.filter_map(|entry| if let Entry::File(file) = entry { Some(file) } else { None });
            files.extend(of_record.flat_map(|file| file.large.iter().chain([&file.path]).cloned()));
            records.push(layout::record(log.run(), record.number));
        }
        failpoint::around(Point::SweepDelete, log.zone().delete(&files)).await?;
        log.zone().delete(&records).await?;
        removed += records.len();
        if !records.is_empty() {
            tracing::debug!(records = records.len(), files = files.len(), "swept");
        }
        if let Some(oldest) = gone.next() {
            return Ok(Some(Left { oldest, records: numbers.len() - removed }));
        }
    }
    Ok(None)
}

/// Removes files that no record names any more or ever did, chunks that are loaded, and runs that are over.
async fn remove_litter(log: &Log, state: &RunState, progresses: &Progresses, oldest_term: u64) -> Result<(), Error> {
    let zone = log.zone();
    for folder in [layout::data_files(log.run()), layout::all_chunks(log.run())] {
        let mut paths = zone.list(&folder).await?;
        paths.retain(|path| layout::object(path).is_some_and(|object| is_litter(object, state, progresses, oldest_term)));
        zone.delete(&paths).await?;
    }
    log::remove_runs_before(zone, log.run()).await?;
    Ok(())
}

/// Whether nobody needs the object. Pure.
fn is_litter(object: Object, state: &RunState, progresses: &Progresses, oldest_term: u64) -> bool {
    match object {
        // A record that names it would be of its term, and all of them are swept: it was put by a capture that died before its
        // record, or its record went before it did.
        Object::Changes { term } => term < oldest_term,
        Object::Chunk { table, incarnation } => state.tables.get(&table).is_some_and(|known| {
            let over = known.left || in_place(state, table, progresses);
            incarnation < known.incarnation || (incarnation == known.incarnation && over)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::zone::{ClaimZone, ZoneStore},
        data::fixtures,
        replication::state::TableState,
        secrets::Secrets,
    };

    #[tokio::test]
    async fn load_files_that_nobody_removed_go_after_a_day() {
        let volume = tempfile::tempdir().unwrap();
        let claim = ClaimZone { claim_name: "c".into(), folder: String::new() };
        let store = ZoneStore { azure: None, persistent_volume_claim: Some(claim) };
        let zone = Zone::open(&store, &Secrets::new(volume.path()), volume.path(), Some("l")).unwrap();
        let fresh = layout::load(Timestamp::now());
        let data = layout::data(1, 2, 3, 4);
        for path in [&layout::load(Timestamp::now() - SignedDuration::from_hours(25)), &fresh, &data] {
            zone.put(path, bytes::Bytes::from_static(b"x")).await.unwrap();
        }
        remove_loads(&zone).await.unwrap();
        assert_eq!(zone.list("").await.unwrap(), [data, fresh]);
    }

    fn state(tables: &[(u32, &str, u64)]) -> RunState {
        let table = |name: &str, incarnation| {
            TableState::new(name.into(), TableName::new("dw", name), fixtures::table(name, vec![], &[]), incarnation)
        };
        let tables = tables.iter().map(|(id, name, incarnation)| (*id, table(name, *incarnation))).collect();
        RunState { run: 2, number: 100, tables, ..RunState::default() }
    }

    fn progress(name: &str, incarnation: u64, record: u64, exact: bool) -> (TableName, Progress) {
        (
            TableName::new("public", name),
            Progress { incarnation: Incarnation { run: 2, record: incarnation }, record, exact, rows: 0, grouped: false },
        )
    }

    #[test]
    fn what_a_table_has_yet_to_apply_is_needed() {
        let mut state = state(&[(1, "a", 5), (2, "b", 40)]);
        let needed = |state: &RunState, progresses: &[(TableName, Progress)]| needed_from(state, &progresses.iter().cloned().collect());
        assert_eq!(needed(&state, &[]), 5);
        assert_eq!(needed(&state, &[progress("a", 5, 70, true)]), 40, "b has not begun");
        assert_eq!(needed(&state, &[progress("a", 5, 70, true), progress("b", 40, 60, false)]), 60, "b reads its last record again");
        assert_eq!(needed(&state, &[progress("a", 5, 70, true), progress("b", 40, 80, true)]), 71);
        assert_eq!(needed(&state, &[progress("a", 3, 99, true), progress("b", 40, 80, true)]), 5, "an older life of a counts for nothing");
        state.tables.get_mut(&1).unwrap().left = true;
        assert_eq!(needed(&state, &[progress("b", 40, 80, true)]), 81);
        state.tables.clear();
        assert_eq!(needed(&state, &[]), 100);
    }

    #[test]
    fn litter_is_what_no_record_can_name_and_what_is_loaded() {
        let state = state(&[(1, "a", 5), (2, "b", 40)]);
        let progresses: Progresses = [progress("a", 5, 70, true), progress("b", 40, 40, false)].into();
        let litter = |object| is_litter(object, &state, &progresses, 30);
        assert!(litter(Object::Changes { term: 29 }));
        assert!(!litter(Object::Changes { term: 30 }));
        assert!(litter(Object::Chunk { table: 1, incarnation: 5 }), "loaded and in place");
        assert!(!litter(Object::Chunk { table: 2, incarnation: 40 }), "not in place yet");
        assert!(litter(Object::Chunk { table: 2, incarnation: 39 }), "of an older life");
        assert!(!litter(Object::Chunk { table: 2, incarnation: 41 }), "of a life that the state does not know yet");
        assert!(!litter(Object::Chunk { table: 3, incarnation: 1 }), "of a table that the state does not know yet");
    }
}
