//! Named moments at which a test makes this process die, or wait: between any two steps whose order matters.
//!
//! `LINK_FAILPOINTS` names them, in tests and in a real pod alike: `record-create:after=kill@3,data-put:before=sleep:500`
//! kills the process at the third time that a record was created, and waits 500 ms before every data file. A point that
//! nobody named costs one look at a flag.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use strum::{EnumIter, EnumString, IntoStaticStr};

/// The environment variable that names failpoints.
pub const VARIABLE: &str = "LINK_FAILPOINTS";

/// A step whose order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, EnumString, IntoStaticStr, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Point {
    /// A chunk's file is put.
    ChunkPut,
    /// A chunk's record is created: it counts as read.
    ChunkRecord,
    /// A file of changes is put.
    DataPut,
    /// A record of the log is created: the commit point.
    RecordCreate,
    /// The source is told that it need not keep what a record covers.
    Acknowledge,
    /// A table's progress is moved, first in the transaction that moves the rows.
    ProgressUpdate,
    /// Rows are loaded to where they are merged or kept from.
    StagingLoad,
    /// A transaction of the target is committed.
    TargetCommit,
    /// What nobody needs any more is removed from the landing zone.
    SweepDelete,
    /// What is known is reported.
    Report,
}

/// On which side of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, EnumString, IntoStaticStr, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Moment {
    /// It is about to happen.
    Before,
    /// It has happened.
    After,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Sleep(Duration),
}

#[derive(Debug)]
struct Armed {
    action: Action,
    /// At which hit; none: at every one.
    at: Option<u64>,
    hits: AtomicU64,
}

type Failpoints = HashMap<(Point, Moment), Armed>;

static ARMED: OnceLock<Failpoints> = OnceLock::new();

/// Arms what `LINK_FAILPOINTS` names. Returns what is wrong with it, in whose place nothing is armed.
pub fn arm() -> Result<(), String> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let armed =
        parse(&text).ok_or_else(|| format!("{VARIABLE}={text}: give points like record-create:after=kill@3,data-put:before=sleep:500"))?;
    if !armed.is_empty() {
        tracing::warn!(failpoints = text, "this process is armed to fail");
        let _ = ARMED.set(armed);
    }
    Ok(())
}

fn parse(text: &str) -> Option<Failpoints> {
    let one = |entry: &str| {
        let (place, action) = entry.split_once('=')?;
        let (point, moment) = place.split_once(':')?;
        let (action, at) = match action.split_once('@') {
            Some((action, at)) => (action, Some(at.parse().ok()?)),
            None => (action, None),
        };
        let action = match action.split_once(':') {
            None if action == "kill" => Action::Kill,
            Some(("sleep", time)) => Action::Sleep(Duration::from_millis(time.parse().ok()?)),
            _ => return None,
        };
        Some(((point.parse().ok()?, moment.parse().ok()?), Armed { action, at, hits: AtomicU64::new(0) }))
    };
    text.split(',').filter(|entry| !entry.is_empty()).map(one).collect()
}

/// The process is at this point: it goes on, unless somebody armed it.
pub async fn at(point: Point, moment: Moment) {
    let Some(armed) = ARMED.get().and_then(|armed| armed.get(&(point, moment))) else { return };
    let hit = armed.hits.fetch_add(1, Ordering::Relaxed) + 1;
    if armed.at.is_some_and(|at| at != hit) {
        return;
    }
    match armed.action {
        Action::Kill => {
            // Not by the logs: whoever armed it waits for this line.
            eprintln!("failpoint {point}:{moment} hit {hit}: killed");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Action::Sleep(time) => tokio::time::sleep(time).await,
    }
}

/// Does a step between its two moments.
pub async fn around<T>(point: Point, step: impl Future<Output = T>) -> T {
    at(point, Moment::Before).await;
    let done = step.await;
    at(point, Moment::After).await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named_with_moment_action_and_hit() {
        let armed = parse("record-create:after=kill@3,data-put:before=sleep:500").unwrap();
        let kill = &armed[&(Point::RecordCreate, Moment::After)];
        assert_eq!((&kill.action, kill.at), (&Action::Kill, Some(3)));
        let sleep = &armed[&(Point::DataPut, Moment::Before)];
        assert_eq!((&sleep.action, sleep.at), (&Action::Sleep(Duration::from_millis(500)), None));
        assert!(parse("").unwrap().is_empty());
        for wrong in [
            "x",
            "record-create=kill",
            "record-create:after",
            "record-create:later=kill",
            "recordcreate:after=kill",
            "report:after=kill@x",
            "report:after=wait",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
