//! Protections that can be switched off, so that tests are seen to fail without them (`make protections`).
//!
//! `LINK_UNPROTECTED=fills,terms` switches off two, in a build with debug assertions; a release knows nothing of it.

use std::{collections::HashSet, sync::LazyLock};

use strum::{EnumString, IntoStaticStr};

/// The environment variable that names what is switched off.
pub const VARIABLE: &str = "LINK_UNPROTECTED";

/// A rule of which it was seen that breaking it loses or doubles rows, or harms the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumString, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Protection {
    /// A table that joins waits for transactions that were open.
    WaitOut,
    /// A chunk is read only of the file that the chunk plan was made for.
    Filenode,
    /// A table's changes count from its joining on, whatever the stream had before.
    JoinedFrom,
    /// A row is read by key only once what changed it is visible.
    VisibleCommits,
    /// Values that a change did not carry are read by key while a table's chunks are read.
    Fills,
    /// Changes are netted column by column.
    ColumnNetting,
    /// The target refuses a chunk that it has.
    ChunkProgress,
    /// The target's progress moves by compare-and-set.
    CompareAndSet,
    /// Of an open transaction, what was rolled back to a savepoint is left out.
    Savepoints,
    /// Tables that moved together wait for each other after an interruption.
    Reunion,
    /// A capture that meets a record of a newer term gives up.
    Terms,
    /// A capture begins only where the source's log goes on.
    Continuity,
    /// Tables are compared with the catalog when the stream describes them.
    Catalog,
    /// What a table has yet to apply is not swept.
    SweepFloor,
    /// A position for which the source keeps too much log is given up.
    GiveUp,
    /// No more sessions are opened to the source than may be.
    Connections,
    /// A repaired row that changed while it was read is left to its change.
    RepairWindow,
    /// An adopted table is compared and repaired before it is exact.
    Adoption,
}

impl Protection {
    /// Whether it is in force.
    pub fn holds(self) -> bool {
        static OFF: LazyLock<HashSet<Protection>> = LazyLock::new(|| {
            let names = std::env::var(VARIABLE).unwrap_or_default();
            names.split(',').filter_map(|name| name.parse().ok()).collect()
        });
        !cfg!(debug_assertions) || !OFF.contains(&self)
    }
}
