//! What can stop the engine, or one of its tables.

use crate::{
    api::fault::{Explain, Fault},
    landing, source, target,
};

use super::{file, net};

/// What can go wrong while replicating. Errors of the systems around the engine keep their own names.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// The source's own.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The target's own.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// The landing zone's own.
    #[error(transparent)]
    Zone(#[from] landing::Error),
    /// A file of the zone is not what its record says.
    #[error("{0}")]
    DataFileUnreadable(String),
    /// The zone's log has a hole.
    #[error("record {number} of run {run} is missing in the landing zone, although later ones exist")]
    RecordMissing {
        /// The run.
        run: u32,
        /// The record.
        number: u64,
    },
    /// Others went on while this worker slept, and what it had yet to read is swept: it opens the log anew.
    #[error("the log is at record {newest} or after, this worker knows it up to {ours}")]
    LogMovedOn {
        /// The newest record that we know.
        ours: u64,
        /// The record of the newest checkpoint.
        newest: u64,
    },
    /// A newer capture took over.
    #[error("another worker captures in term {theirs}, this one's was {ours}")]
    TermLost {
        /// Our term.
        ours: u64,
        /// The newer one.
        theirs: u64,
    },
    /// Another capture was faster by one record.
    #[error("record {number} was created by the capture before")]
    RecordTaken {
        /// The record.
        number: u64,
    },
    /// The source is not the database that the run began with.
    #[error("the source is {found}, the link began with {expected}")]
    SourceIdentityChanged {
        /// By the log.
        expected: String,
        /// By the database.
        found: String,
    },
    /// The worker's plan is older than the log.
    #[error("the worker has plan {ours}, the log was written under plan {newest}")]
    PlanOutdated {
        /// Our plan's revision.
        ours: u64,
        /// The newest record's.
        newest: u64,
    },
    /// The folder belongs to another LinkConnection.
    #[error("the landing zone's folder belongs to LinkConnection {owner}")]
    ZoneNotEmpty {
        /// Namespace, name and UID of the owner.
        owner: String,
    },
    /// Another LinkConnection with the same linkId took the folder over.
    #[error("another LinkConnection with the same linkId, {by}, has taken the link over")]
    LinkTakenOver {
        /// Namespace, name and UID of the owner.
        by: String,
    },
    /// The plan asks for a newer run.
    #[error("run {ended} ended, run {begins} begins")]
    RunEnded {
        /// The run that is open.
        ended: u32,
        /// The plan's.
        begins: u32,
    },
    /// A table that is compared with its source left, failed, changed or began anew.
    #[error("table {0} was loaded anew, changed its columns, left or failed while it was compared with its source")]
    VerificationInterrupted(crate::data::TableName),
    /// The target stays behind, and can be compared with nothing.
    #[error("the target has not applied changes of {0} that were captured long ago")]
    TargetBehind(crate::data::TableName),
    /// A task of the engine ended in a way that it must not.
    #[error("{0}")]
    Internal(String),
}

impl From<file::Error> for Error {
    fn from(error: file::Error) -> Self {
        Self::DataFileUnreadable(error.to_string())
    }
}

impl From<net::Error> for Error {
    fn from(error: net::Error) -> Self {
        Self::DataFileUnreadable(error.to_string())
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl Explain for Error {
    fn remedy(&self) -> String {
        match self {
            Self::Source(error) => error.remedy(),
            Self::Target(error) => error.remedy(),
            Self::Zone(error) => error.remedy(),
            Self::DataFileUnreadable(_) | Self::RecordMissing { .. } => {
                "objects of the landing zone were changed or removed: start the link over by setting spec.state to Stopped, then to Running".to_owned()
            }
            Self::LogMovedOn { .. } | Self::TermLost { .. } | Self::RecordTaken { .. } | Self::PlanOutdated { .. } => "none needed: the newer worker goes on".to_owned(),
            Self::SourceIdentityChanged { .. } => {
                "point spec.source at the database that the link began with, or start the link over by setting spec.state to Stopped, then to Running".to_owned()
            }
            Self::RunEnded { .. } => "none needed: all tables are loaded anew".to_owned(),
            Self::ZoneNotEmpty { .. } => "if that LinkConnection is gone, set spec.relinkPolicy to Adopt to go on where it was, or to Purge to load \
                 everything anew; if it is alive, give this one another spec.linkId"
                .to_owned(),
            Self::LinkTakenOver { .. } => "delete one of the two LinkConnections; to take the link back, delete this one and create it anew with \
                 spec.relinkPolicy Adopt"
                .to_owned(),
            Self::VerificationInterrupted(_) => "none needed: it is compared once it replicates again".to_owned(),
            Self::TargetBehind(_) => "see why the table does not replicate, then ask for the verification again".to_owned(),
            Self::Internal(_) => "report it with the worker's log; the link goes on trying".to_owned(),
        }
    }

    fn heals(&self) -> bool {
        match self {
            Self::Source(error) => error.heals(),
            Self::Target(error) => error.heals(),
            Self::Zone(error) => error.heals(),
            Self::LogMovedOn { .. }
            | Self::TermLost { .. }
            | Self::RecordTaken { .. }
            | Self::PlanOutdated { .. }
            | Self::RunEnded { .. }
            | Self::VerificationInterrupted(_)
            | Self::Internal(_) => true,
            Self::DataFileUnreadable(_)
            | Self::RecordMissing { .. }
            | Self::SourceIdentityChanged { .. }
            | Self::ZoneNotEmpty { .. }
            | Self::LinkTakenOver { .. }
            | Self::TargetBehind(_) => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Source(error) => error.fault(),
            Self::Target(error) => error.fault(),
            Self::Zone(error) => error.fault(),
            own => {
                let reason: &'static str = own.into();
                Fault { reason: reason.to_owned(), message: own.to_string(), remedy: own.remedy(), heals: own.heals() }
            }
        }
    }
}
