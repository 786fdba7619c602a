//! The engine: snapshot, capture, batch, commit, apply. Knows no Kubernetes and no vendor.
//!
//! - [`state`] folds the log's records to the state of the run, the same in every worker; [`journal`] is a worker's view of it
//! - [`capture`] is one worker's reign over the log; [`join`] lets tables join and leave; [`fill`] completes changes
//! - [`snapshot`] reads and loads chunks, [`apply`] brings a table to the present, [`group`] all tables together; [`batch`] is what
//!   they apply, [`net`] and [`file`] are their pure parts
//! - `verify` compares tables with their source, [`repair`] puts rows into the log beside the changes
//! - `owner` says whose the folder is; [`share`] says who does what, [`board`] gathers what is known for the report, [`memory`] bounds
//!   what is held at once; [`metrics`] what it counted; [`sweep`] removes what nobody needs any more; [`protect`] bounds what is asked
//!   of the source

pub mod apply;
pub mod batch;
pub mod board;
pub mod capture;
pub mod error;
pub mod file;
pub mod fill;
pub mod group;
pub mod join;
pub mod journal;
pub mod keys;
pub mod memory;
pub mod metrics;
pub mod net;
mod owner;
mod pending;
pub mod protect;
pub mod repair;
pub mod retry;
pub mod scratch;
pub mod share;
pub mod snapshot;
pub mod state;
mod supervise;
mod sweep;
pub mod values;
mod verify;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use self::{
    board::Board,
    error::Error,
    group::Group,
    journal::Journal,
    memory::Memory,
    metrics::{Metrics, Task},
    state::TableState,
    values::ZoneValues,
};
use crate::{
    api::{
        fault::{Check, Fault},
        plan::Plan,
        report::{PositionLost, PositionReport, SourceReport, TableReport},
        verification::TableVerification,
    },
    data::Position,
    landing::Zone,
    source::{self, Source},
    target::{Target, TargetTable},
};

pub use supervise::run;

/// What an engine works with.
#[derive(Clone)]
pub struct Setup {
    /// Name of this worker, for logs.
    pub worker: String,
    /// Which of the plan's workers this is, from 0.
    pub ordinal: u32,
    /// Where files are staged.
    pub zone: Zone,
    /// The operational database.
    pub source: Arc<dyn Source>,
    /// The analytical target.
    pub target: Arc<dyn Target>,
    /// Size of a snapshot's chunks in the source, bytes: [`CHUNK_BYTES`] but in tests.
    pub chunk_bytes: u64,
    /// Memory that the process may have, bytes.
    pub memory: u64,
    /// How often the landing zone is swept: [`SWEEP_EVERY`] but in tests.
    pub sweep_every: Duration,
    /// How often tables are compared with what the source says they are: [`COMPARE_EVERY`] but in tests.
    pub compare_every: Duration,
    /// How long rows that change whenever they are compared are looked at: [`SETTLE_FOR`] but in tests.
    pub settle_for: Duration,
    /// How long a comparison waits for transactions that are open in the source: [`WAIT_FOR`] but in tests.
    pub wait_for: Duration,
    /// Where to count.
    pub metrics: Metrics,
}

/// Size of a snapshot's chunks in the source: a few seconds of reading, and what a killed worker does again at most.
pub const CHUNK_BYTES: u64 = 64 * 1024 * 1024;

/// How long rows that change whenever they are compared with the source are looked at, before they are said to.
pub const SETTLE_FOR: Duration = Duration::from_secs(30);

/// How long a comparison waits for transactions that are open in the source, before it says what it knows.
pub const WAIT_FOR: Duration = Duration::from_mins(10);

/// How often the landing zone is swept.
pub const SWEEP_EVERY: Duration = Duration::from_mins(5);

/// How often tables are compared with what the source says they are, for what its stream does not show.
pub const COMPARE_EVERY: Duration = Duration::from_mins(1);

/// What an engine knows of its share of the link; becomes part of the worker's report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineReport {
    /// The run it works in.
    pub run: Option<u32>,
    /// The term of its capture.
    pub term: Option<u64>,
    /// Intent Drain was carried out.
    pub drained: bool,
    /// The plan's batch was read: its end was captured, and of every table all that is to be loaded, but for those that need a
    /// person.
    pub batch_done: Option<Timestamp>,
    /// The batch up to whose end the capture has read.
    pub batch_read: Option<Timestamp>,
    /// What stops the link as a whole, by the name of a condition.
    pub checks: Vec<Check>,
    /// What the source says of itself.
    pub source: Option<SourceReport>,
    /// Where the link is.
    pub position: Option<PositionReport>,
    /// The run's position is lost.
    pub position_lost: Option<PositionLost>,
    /// The capture has read the source's log up to here, and committed all that concerns the link.
    pub read_to: Option<Position>,
    /// The tables that this worker owns.
    pub tables: Vec<TableReport>,
    /// What was found by comparing tables with the source.
    pub verifications: Vec<TableVerification>,
}

/// What every task of the engine works with.
#[derive(Clone)]
pub struct Context {
    /// The systems around.
    pub setup: Setup,
    /// The newest plan.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// The run's log.
    pub journal: Arc<Journal>,
    /// Where to write what is known.
    pub board: Arc<Board>,
    /// One permit a chunk that is read or loaded.
    pub permits: Arc<Semaphore>,
    /// Room for the rows that all tables hold.
    pub memory: Arc<Memory>,
    /// The tables that move together.
    pub group: Arc<Group>,
    /// By table and incarnation: how far its applier is.
    applied: Arc<Mutex<HashMap<(u32, u64), Applied>>>,
}

impl Context {
    /// The target's name for a table of the run.
    pub fn target_table(&self, table: &TableState) -> TargetTable {
        let link_id = self.plan.borrow().link.link_id.clone();
        TargetTable { link_id, source: table.schema.name.clone(), name: table.target.clone(), options: table.options.clone() }
    }

    /// How many chunks of one table are under way at once. One more than there are cores: while one waits for a disk or the
    /// network, another uses the core.
    pub fn chunks_at_once(&self) -> usize {
        self.plan.borrow().cores_per_worker as usize + 1
    }

    /// Reads a data file that a record names.
    pub async fn data_file(&self, path: &str) -> Result<Bytes, Error> {
        let missing = || Error::DataFileUnreadable(format!("data file {path} is missing in the landing zone"));
        self.setup.zone.get(path).await?.ok_or_else(missing)
    }

    /// Keeps large values of changes that the capture of a term records.
    fn values_of_changes(&self, term: u64) -> Arc<dyn source::LargeValues> {
        Arc::new(ZoneValues::of_changes(self.setup.zone.clone(), self.journal.log().run(), term))
    }

    /// A step of a table's work failed and will be tried again after `delay`.
    fn table_failed(&self, task: Task, uid: &str, fault: Fault, attempt: u32, delay: Duration) {
        self.setup.metrics.failed(task, &fault.reason);
        self.board.table_failed(uid, fault, attempt, delay);
    }

    /// A table's applier is so far.
    fn applied(&self, table: u32, incarnation: u64, applied: Applied) {
        let mut all = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known, _| known.0 != table || known.1 == incarnation);
        all.insert((table, incarnation), applied);
    }

    fn applied_upto(&self, table: u32, incarnation: u64) -> Option<Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).get(&(table, incarnation)).copied()
    }
}

/// How far the applier of a table is.
#[derive(Clone, Copy, Debug)]
struct Applied {
    /// All records up to this one are in the table.
    seen: u64,
    /// The source's time of that record.
    as_of: Option<Timestamp>,
    /// Where its progress in the target is: records after it hold nothing for the table.
    at: u64,
}
