//! The four kinds and the documents that controller and workers exchange. Plain data without I/O.
//!
//! The kinds are what users write and read; [`plan`] is what the controller tells a link's workers, [`report`] what they
//! answer, [`fault`] how anything that went wrong is told to a person.

pub mod database;
pub mod fault;
pub mod plan;
pub mod report;
pub mod zone;
