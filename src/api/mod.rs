//! The four kinds and the documents that controller and workers exchange. Plain data without I/O.
//!
//! The kinds are what users write and read; [`plan`] is what the controller tells a link's workers, [`report`] what they
//! answer, [`fault`] how anything that went wrong is told to a person, [`verification`] what a comparison of both ends found,
//! [`runbook`] where more is written about it.

// Printer columns repeat their types; clippy takes them for attributes.
#![allow(clippy::duplicated_attributes)]

pub mod compute;
pub mod conditions;
pub mod crds;
pub mod database;
pub mod discover;
pub mod discovery;
pub mod fault;
pub mod forecast;
pub mod integration_runtime;
pub mod landing_zone;
pub mod link_connection;
pub mod link_table;
pub mod plan;
pub mod report;
pub mod runbook;
pub mod schema;
pub mod source_protection;
pub mod verification;
pub mod zone;
