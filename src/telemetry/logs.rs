//! Logs: text for a person at a terminal, JSON for the machines that collect them in a cluster.

use std::{
    io::{IsTerminal, stderr},
    sync::OnceLock,
};

use tracing_subscriber::{
    EnvFilter, Registry,
    filter::filter_fn,
    fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

/// What is logged when `LOG` does not say: ours at info, libraries only when something is wrong.
const DEFAULT_FILTER: &str = "warn,link_operator=info";
/// The same, where somebody is told by other means.
const QUIET_FILTER: &str = "error";

/// What this process logs, and what it logs unless told otherwise.
static CURRENT: OnceLock<(Handle<EnvFilter, Registry>, String)> = OnceLock::new();

/// Begins to log to standard error. The environment variable `LOG` holds a filter (`debug`, `link_operator::landing=trace`),
/// `LOG_FORMAT` is `json` or `text`; by default text on a terminal, else JSON. Returns the problem with a filter that
/// cannot be read, in whose place the default holds. `quiet`: by default only what somebody should look at.
pub fn start(quiet: bool) -> Option<String> {
    let default = if quiet { QUIET_FILTER } else { DEFAULT_FILTER };
    let wanted = std::env::var("LOG").unwrap_or_default();
    let (usual, problem) = match EnvFilter::try_new(&wanted) {
        Ok(_) if !wanted.is_empty() => (wanted, None),
        Ok(_) => (default.to_owned(), None),
        Err(error) => (default.to_owned(), Some(format!("LOG={wanted}: {error}"))),
    };
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&usual));
    // The driver of SQL Server logs statements and errors of the server, with credentials and values of rows in them: never, whatever
    // `LOG` says.
    let silent = filter_fn(|metadata| !metadata.target().starts_with("mssql_tds"));
    let terminal = stderr().is_terminal();
    let json = std::env::var("LOG_FORMAT").map_or(!terminal, |format| format == "json");
    let registry = tracing_subscriber::registry().with(filter).with(silent);
    // A second start, in tests, finds the first one's subscriber in place: that one serves as well.
    let started = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(terminal).with_writer(stderr)).try_init()
    };
    if started.is_ok() {
        let _ = CURRENT.set((handle, usual));
    }
    problem
}

/// From now on logs what this filter lets through, or what it did at first. Returns the problem with a filter that cannot be read, in
/// whose place the first one holds.
pub fn follow(wanted: Option<&str>) -> Option<String> {
    let (handle, usual) = CURRENT.get()?;
    let (filter, problem) = match wanted.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(usual), Some(error.to_string())),
        None => (EnvFilter::new(usual), None),
    };
    // Fails only when the process is about to end.
    let _ = handle.reload(filter);
    problem
}
