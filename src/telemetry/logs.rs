//! Logs: text for a person at a terminal, JSON for the machines that collect them in a cluster.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged when `LOG` does not say: ours at info, libraries only when something is wrong.
const DEFAULT_FILTER: &str = "warn,link_operator=info";
/// The same, where somebody is told by other means.
const QUIET_FILTER: &str = "error";

/// Begins to log to standard error. The environment variable `LOG` holds a filter (`debug`, `link_operator::landing=trace`),
/// `LOG_FORMAT` is `json` or `text`; by default text on a terminal, else JSON. Returns the problem with a filter that
/// cannot be read, in whose place the default holds. `quiet`: by default only what somebody should look at.
pub fn start(quiet: bool) -> Option<String> {
    let default = if quiet { QUIET_FILTER } else { DEFAULT_FILTER };
    let wanted = std::env::var("LOG").unwrap_or_default();
    let (filter, problem) = match EnvFilter::try_new(if wanted.is_empty() { default } else { &wanted }) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(format!("LOG={wanted}: {error}"))),
    };
    // The driver of SQL Server logs statements and errors of the server, with credentials and values of rows in them: never, whatever
    // `LOG` says.
    let silent = filter_fn(|metadata| !metadata.target().starts_with("mssql_tds"));
    let terminal = stderr().is_terminal();
    let json = std::env::var("LOG_FORMAT").map_or(!terminal, |format| format == "json");
    let registry = tracing_subscriber::registry().with(filter).with(silent);
    // A second start, in tests, finds the first one's subscriber in place: that one serves as well.
    let _ = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(terminal).with_writer(stderr)).try_init()
    };
    problem
}
