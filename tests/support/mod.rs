//! Real servers that tests start on loopback and stop by their pid.
#![allow(dead_code)] // each test binary uses its own part

pub mod apiserver;
pub mod azurite;
pub mod browser;
pub mod canaries;
pub mod postgres;
pub mod sqlfluff;
pub mod sqlserver;
pub mod tds;
