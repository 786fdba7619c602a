//! link-operator links tables of operational databases to analytical targets: a full snapshot, then every change, through
//! a landing zone in object storage.
//!
//! Arrows between the modules run downward only: the command line uses [`controller`], [`worker`] and [`standalone`], the last
//! two run the engine [`replication`], and the engine uses the traits of [`source`], [`target`] and [`landing`]. All may use [`api`]
//! and [`data`], which are plain data, and [`telemetry`]. A source never sees a target, the engine never sees Kubernetes,
//! and the controller never opens a database. [`plugin`], the same binary under another name, knows the API server alone.

pub mod api;
pub mod connect;
pub mod controller;
pub mod data;
pub mod failpoint;
pub mod forecast;
pub mod landing;
pub mod plugin;
pub mod postgresql;
pub mod protection;
pub mod replication;
pub mod secrets;
pub mod source;
pub mod sqlserver;
pub mod standalone;
pub mod target;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod worker;
