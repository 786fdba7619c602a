//! What many links cost the controller and the API server: `make bench-scale`. Figures beside their goals, no verdicts.
//!
//! A control plane as it is, nodes and pods played by kwok ([`cluster`]), workers played here ([`workers`]), the controller as a
//! process of its own. Two cases, each on a cluster of its own: `LINKS` (1000) links that list `TABLES` (10) tables each, and one
//! link that discovers `BIG` (10000) tables; 0 leaves a case out. Each is measured from the first link's creation until all is Ready,
//! then for `IDLE` (360) seconds while nothing is reported, then for `BEAT` (180) seconds while positions move on each minute
//! though nobody writes to a source. What the API server can write at most is measured before, in the same run ([`limit`]).
//!
//! Runs in a network of its own, which ends with it: it takes root, and nothing of it can be reached from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../tests/support/apiserver.rs"]
#[allow(dead_code)] // the tests need more of it
mod apiserver;

mod case;
mod cluster;
mod counts;
mod limit;
mod workers;

use std::{os::unix::process::CommandExt as _, process::Command, time::Duration};

/// Tells this process that it is in a network of its own.
const ISOLATED: &str = "SCALE_ISOLATED";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn main() {
    if std::env::var_os(ISOLATED).is_none() {
        isolate();
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rest = case::Rest { idle: Duration::from_secs(number("IDLE", 360)), beat: Duration::from_secs(number("BEAT", 180)) };
    let (links, tables, big) = (number("LINKS", 1000), number("TABLES", 10), number("BIG", 10_000));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        if links > 0 {
            case::run(case::Size { links, tables, discovered: false }, rest).await;
        }
        if big > 0 {
            case::run(case::Size { links: 1, tables: big, discovered: true }, rest).await;
        }
    });
}

/// Starts this program again in a network of its own, in which it answers at every pod's address.
fn isolate() -> ! {
    // The API server looks for an address by which it could be reached from elsewhere.
    let script = format!(
        "ip link set lo up && ip address add 10.80.0.1/32 dev lo && ip route add default dev lo src 10.80.0.1 && \
         ip route add local {} dev lo && exec \"$0\"",
        cluster::PODS
    );
    let program = std::env::current_exe().unwrap();
    let error = Command::new("unshare").args(["--net", "sh", "-c", &script]).arg(program).env(ISOLATED, "yes").exec();
    panic!("cannot start unshare: {error}");
}
