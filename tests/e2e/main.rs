//! Tests on a real cluster on which the operator is installed: KUBECONFIG says which. `make e2e` provides both.
//!
//! Everything is done as a user does it, by kubectl and SQL. A namespace a test; one source server, one target server and one
//! Azurite for all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests may fail as tests do

#[path = "../support/azurite.rs"]
#[allow(dead_code)] // only its tokens: here Azurite runs in a pod
mod azurite;
#[path = "../support/canaries.rs"]
mod canaries;
mod cluster;

mod crash;
mod faults;
mod flow;
mod installation;
mod lifecycle;
mod memory;
mod network_policies;
mod outage;
mod scale;
mod secrecy;
