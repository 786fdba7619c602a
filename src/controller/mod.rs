//! The controller: one folder a kind, each in the steps dereference → validate → build → apply → status.
//!
//! Owns what is in the cluster: children, plans, statuses, Events. Never opens a database or a landing zone: only a pod,
//! from where the data is, does ([`pods`]), and never reads a user's Secret.

pub mod apply;
pub mod availability;
pub mod budget;
pub mod certificate;
pub mod check;
pub mod context;
pub mod events;
pub mod integration_runtime;
pub mod landing_zone;
pub mod leader;
pub mod link_connection;
pub mod link_table;
pub mod metrics;
pub mod names;
pub mod oneshot;
pub mod page;
pub mod pods;
pub mod requests;
mod rollouts;
mod run;
pub mod status;
pub mod tables;
mod trim;
pub mod watch;
mod worker_client;
pub mod workers;

pub use check::{CheckOptions, check};
pub use run::{Options, run, run_with};

use crate::api::fault::{Explain, Fault};

/// Why the controller could not do what it should.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("the API server refused: {0}")]
    ApiServerRefused(#[from] kube::Error),
    /// There is no way to the API server.
    #[error("no configuration of the cluster: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// An object of a name that we need belongs to somebody else.
    #[error("{kind} {name} exists and was not made by link-operator")]
    NameTaken {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The plan does not fit into a ConfigMap.
    #[error("the plan of {tables} tables has {size} bytes, more than fit into a ConfigMap")]
    PlanTooLarge {
        /// Size, gzipped.
        size: usize,
        /// Number of tables.
        tables: usize,
    },
    /// A document could not be written.
    #[error("a document cannot be written: {0}")]
    NotWritable(#[from] serde_json::Error),
    /// Something could not be packed, or a port not opened.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No certificate for the worker API.
    #[error("{0}")]
    CertificateFailed(#[from] certificate::Error),
    /// Nobody says which image workers are to have.
    #[error(
        "which image the pods of links are to have is not known: give --worker-image, or POD_NAME and POD_NAMESPACE of a pod with a container `controller`"
    )]
    ImageUnknown,
    /// An immutable field of an object changes: it is on its way out, without its pods, and is made anew once it is gone.
    #[error("{kind} {name} is being made anew")]
    BeingReplaced {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Another controller leads now.
    #[error("another controller holds the Lease")]
    LeaseLost,
    /// The Lease cannot be held.
    #[error("the Lease cannot be held: {0}")]
    LeaseFailed(String),
}

impl Explain for Error {
    fn remedy(&self) -> String {
        match self {
            Self::NameTaken { kind, name } => format!("delete or rename {kind} {name}, or name the link differently"),
            Self::PlanTooLarge { .. } => "divide the tables among several links".to_owned(),
            Self::ApiServerRefused(_) => "it is tried again; if the message says forbidden, check the operator's rights".to_owned(),
            _ => "it is tried again".to_owned(),
        }
    }

    fn heals(&self) -> bool {
        !matches!(self, Self::NameTaken { .. } | Self::PlanTooLarge { .. })
    }
}

impl Error {
    /// Whether the API server will refuse as long as nobody does something: a right is missing, or an admission plugin objects.
    pub fn is_refusal(&self) -> bool {
        let Self::ApiServerRefused(kube::Error::Api(status)) = self else { return false };
        matches!(status.code, 400 | 403 | 422)
    }

    /// Somebody else changed the object meanwhile, or is about to: it is read and judged again.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::ApiServerRefused(kube::Error::Api(status)) => matches!(status.code, 404 | 409),
            Self::BeingReplaced { .. } => true,
            _ => false,
        }
    }
}

/// A few bytes in place of all that is only compared with what it was before.
pub fn fingerprint(of: impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A fault as a condition's message: what is wrong, and what to do.
pub fn explain(fault: &Fault) -> String {
    match (fault.message.is_empty(), fault.remedy.is_empty()) {
        (_, true) => fault.message.clone(),
        (true, _) => fault.remedy.clone(),
        _ => format!("{}; {}", fault.message, fault.remedy),
    }
}
