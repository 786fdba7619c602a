//! Tests against real servers on loopback: PostgreSQL, Azurite, an API server. One file a capability or failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may fail as tests do

#[path = "../support/mod.rs"]
mod support;

mod charts;
mod controller;
mod crds;
mod engine;
mod grants;
mod landing;
mod monitoring;
mod process;
mod source_postgresql;
mod source_sqlserver;
mod sqlserver_connecting;
mod target_postgresql;
mod target_sqlserver;
mod target_synapse;
mod tds_server;
mod tsql;
mod worker;
