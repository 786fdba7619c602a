//! `link-operator run`, `verify` and `plan`: the links of a folder of manifests in one process, without a cluster (DESIGN 9).
//!
//! The same manifests, checks and engine as in a cluster; this process is each link's one worker. Secrets come from the
//! manifests or from a folder, claims are folders. Owns what the terminal shows.

mod discovering;
mod display;
mod grants;
mod manifests;
mod plan;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::plan::{PlanOptions, plan};
use self::{
    display::Display,
    manifests::{Link, Manifests},
};
use crate::{
    api::{
        fault::{Explain, Fault},
        link_connection::LinkState,
        plan::{Intent, Plan},
        report::{TablePhase, TableReport},
        verification::VerifyRequest,
    },
    controller::link_connection::loss::{self, Loss},
    data::Position,
    landing::{self, Zone, log},
    replication::{self, EngineReport, Setup},
    secrets::Secrets,
    source, target,
};

/// How long links may take to commit and apply what they have read, once they are to end.
const DRAIN: Duration = Duration::from_mins(1);

/// How often is asked which tables there are, where new ones are to be linked.
const DISCOVER_EVERY: Duration = Duration::from_mins(1);

/// How often is looked whether a run that waits may begin.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Options of the subcommand `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to run, and with what.
    #[command(flatten)]
    pub links: Links,
    /// End as soon as every table is Replicating and holds what was captured.
    #[arg(long)]
    pub once: bool,
}

/// Options of the subcommand `verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyOptions {
    /// What to compare, and with what.
    #[command(flatten)]
    pub links: Links,
    /// Make rows that differ as they are in the source.
    #[arg(long)]
    pub repair: bool,
}

/// Options of all subcommands that work on links without a cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Links {
    /// Manifests: a file, or a folder whose .yaml and .yml files are read.
    #[arg(short, long, value_name = "PATH")]
    pub filename: PathBuf,
    /// Folder with a folder for each Secret and a file for each of its keys, and with ConfigMaps in its folder .configmaps.
    /// Default: those among the manifests.
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// Folder with a folder for each namespace, and in it for each PersistentVolumeClaim; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "link-operator-volumes")]
    pub volumes: PathBuf,
    /// Memory that each link may have, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub memory: u64,
    /// Size of a snapshot's chunks, bytes: small ones for tests.
    #[arg(long, hide = true, default_value_t = replication::CHUNK_BYTES)]
    pub chunk_bytes: u64,
    /// How often the landing zone is swept, milliseconds, of everything that is applied: for tests.
    #[arg(long, hide = true)]
    pub sweep_every: Option<u64>,
}

/// Why links cannot be run, or did not end well.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// A file or folder cannot be read or made.
    #[error("{path}: {error}")]
    FileUnreadable {
        /// Its path.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A document is no manifest of a kind that it says it is.
    #[error("{at}: {problem}")]
    ManifestInvalid {
        /// Its file and its number therein, or its kind and name.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no link to run.
    #[error("{0} has no LinkConnection whose spec.state is Running")]
    NothingToRun(String),
    /// There is no link of which something could be told.
    #[error("{0} has no LinkConnection")]
    NothingToTell(String),
    /// Something keeps a table from being linked.
    #[error("not all tables can be linked as things are: see above")]
    NotAllLinkable,
    /// A link's landing zone does not answer.
    #[error("link {link}: {error}")]
    ZoneFailed {
        /// The link.
        link: String,
        /// The zone's own error.
        error: landing::Error,
    },
    /// A link's systems cannot be opened.
    #[error("link {link}: {}", super::controller::explain(.fault))]
    NotOpened {
        /// The link.
        link: String,
        /// Why.
        fault: Fault,
    },
    /// Some tables are not equal to their sources, or could not be compared.
    #[error("not all tables are equal to their sources: see the table above")]
    NotEqual,
    /// Nothing says that these are equal.
    #[error("not compared: {what}; {remedy}")]
    NotCompared {
        /// What was not compared.
        what: String,
        /// How it can be.
        remedy: &'static str,
    },
    /// Some tables are not Replicating, or a link did not end in time.
    #[error("not all is well: see the table above")]
    Incomplete,
}

/// Runs the links until `stop`, or with `once` until all tables hold all.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    work(&options.links, options.once, None, stop).await
}

/// Brings all tables to the present and compares them with their sources; others may go on writing there meanwhile. `NotCompared` if
/// there is no table, or a link rests: the others are compared all the same.
pub async fn verify(options: VerifyOptions, stop: CancellationToken) -> Result<(), Error> {
    let request = VerifyRequest { requested_at: Timestamp::now().to_string(), repair: options.repair };
    work(&options.links, true, Some(request), stop).await
}

/// The least rights that the links of some manifests need in their databases, as SQL scripts.
pub fn grants(filename: &Path) -> Result<String, Error> {
    let script = Manifests::read(filename)?.grants();
    if script.is_empty() { Err(Error::NothingToTell(filename.display().to_string())) } else { Ok(script) }
}

async fn work(options: &Links, once: bool, verify: Option<VerifyRequest>, stop: CancellationToken) -> Result<(), Error> {
    let manifests = Manifests::read(&options.filename)?;
    let links = manifests.links()?;
    if links.is_empty() {
        return Err(Error::NothingToRun(options.filename.display().to_string()));
    }
    let folder = private_secrets(&manifests)?;
    let mut ready = Vec::new();
    for link in links {
        // References never leave their namespace.
        let secrets = options.secrets.clone().unwrap_or_else(|| folder.path().join(&link.plan.link.namespace));
        let setup = open(&link, &Secrets::new(secrets), options)?;
        let mut plan = first_plan(&link, &setup.zone).await?;
        if options.sweep_every.is_some() {
            plan.retention_seconds = 0;
        }
        plan.verify.clone_from(&verify);
        let failed = |fault| Error::NotOpened { link: link.name.clone(), fault };
        let known = discovering::known(&plan, setup.target.as_ref()).await.map_err(|error| failed(error.fault()))?;
        plan.tables.extend(known);
        let joining = discovering::joining(&plan, setup.source.as_ref()).await.map_err(|error| failed(error.fault()))?;
        plan.tables.extend(joining);
        ready.push((plan, setup));
    }
    let resting = if verify.is_some() { manifests.resting() } else { Vec::new() };
    if verify.is_some() && ready.iter().all(|(plan, _)| plan.tables.is_empty()) {
        return Err(no_tables(&options.filename));
    }
    let display = Arc::new(Display::new(ready.iter().map(|(plan, _)| plan)));
    for (link, state) in &resting {
        display.line(&format!("link {link}: not compared: its spec.state is {state}"));
    }
    let mut running = JoinSet::new();
    for (plan, setup) in ready {
        running.spawn(one(plan, setup, once, display.clone(), stop.clone()));
    }
    let ended_well = running.join_all().await.into_iter().all(|well| well);
    display.summary();
    match (ended_well, verify) {
        (false, _) => Err(Error::Incomplete),
        (true, Some(_)) if !display.all_equal() => Err(Error::NotEqual),
        (true, _) => not_resting(&resting),
    }
}

fn no_tables(filename: &Path) -> Error {
    let what = format!("the links of {} have no tables", filename.display());
    Error::NotCompared { what, remedy: "list them in spec.tables, create LinkTables, or ask for them with spec.discover" }
}

/// `NotCompared` if there are links that were left out for they rest.
fn not_resting(resting: &[(String, LinkState)]) -> Result<(), Error> {
    if resting.is_empty() {
        return Ok(());
    }
    let links: Vec<String> = resting.iter().map(|(link, state)| format!("{link} ({state})")).collect();
    let remedy = "set their spec.state to Running, or name manifests without them";
    Err(Error::NotCompared { what: format!("LinkConnections {}", links.join(", ")), remedy })
}

/// The manifests' secrets as files. Removed with the value: they stand nowhere else.
fn private_secrets(manifests: &Manifests) -> Result<TempDir, Error> {
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("link-operator-").permissions(private).tempdir();
    let folder: TempDir = folder.map_err(|error| unreadable(&std::env::temp_dir(), error))?;
    manifests.write_secrets(folder.path()).map_err(|error| unreadable(folder.path(), error))?;
    Ok(folder)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::FileUnreadable { path: path.display().to_string(), error }
}

fn open(link: &Link, secrets: &Secrets, options: &Links) -> Result<Setup, Error> {
    let plan = &link.plan;
    let failed = |fault| Error::NotOpened { link: link.name.clone(), fault };
    let claim = plan.zone.persistent_volume_claim.as_ref().map_or("", |claim| &claim.claim_name);
    let volume = options.volumes.join(&plan.link.namespace).join(claim);
    if !claim.is_empty() {
        std::fs::create_dir_all(&volume).map_err(|error| unreadable(&volume, error))?;
    }
    let id = &plan.link.link_id;
    let zone = Zone::open(&plan.zone, secrets, &volume, Some(id)).map_err(|error| failed(error.fault()))?;
    let staging = Some(Arc::new(zone.clone()) as Arc<dyn target::Zone>);
    Ok(Setup {
        worker: format!("{}-0", plan.link.name),
        ordinal: 0,
        zone,
        source: source::open(&plan.source, secrets, id).map_err(|error| failed(error.fault()))?,
        target: target::open(&plan.target, secrets, id, staging).map_err(|error| failed(error.fault()))?,
        chunk_bytes: options.chunk_bytes,
        memory: options.memory << 20,
        sweep_every: options.sweep_every.map_or(replication::SWEEP_EVERY, Duration::from_millis),
        compare_every: replication::COMPARE_EVERY,
        settle_for: replication::SETTLE_FOR,
        wait_for: replication::WAIT_FOR,
        metrics: replication::metrics::Metrics::default(),
    })
}

/// The plan of a link that goes on where it was: in the run that its zone knows, newer than any that its log has seen.
async fn first_plan(link: &Link, zone: &Zone) -> Result<Plan, Error> {
    let newest = log::newest_run(zone).await.map_err(|error| Error::ZoneFailed { link: link.name.clone(), error })?;
    Ok(Plan { run: newest.max(1), revision: Timestamp::now().as_millisecond().unsigned_abs(), ..link.plan.clone() })
}

/// Runs one link to its end; whether it ended well.
async fn one(plan: Plan, setup: Setup, once: bool, display: Arc<Display>, stop: CancellationToken) -> bool {
    let (id, source) = (plan.link.link_id.clone(), setup.source.clone());
    let verify = plan.verify.clone();
    let mut discovered = Instant::now();
    let discovers = plan.discover.is_some();
    let (plans, newest) = watch::channel(Arc::new(plan));
    let (sender, mut reports) = watch::channel(EngineReport::default());
    let end = CancellationToken::new();
    let engine = tokio::spawn(replication::run(setup, newest, sender, end.clone()));
    let mut complete = false;
    // What the source had committed when all seemed to be there: a capture that only just began knows nothing of it.
    let mut goal: Option<Position> = None;
    let mut loss = Loss::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = reports.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK_EVERY), if loss.waits.is_some() => {}
            () = tokio::time::sleep_until(discovered + DISCOVER_EVERY), if discovers && !once => {
                discovered = Instant::now();
                let plan = plans.borrow().clone();
                // A source that does not answer is told by the engine, and asked again.
                let joining = discovering::joining(&plan, source.as_ref()).await.unwrap_or_default();
                if !joining.is_empty() {
                    display.add(&id, &joining);
                    plans.send_modify(|plan| {
                        let tables = [plan.tables.clone(), joining].concat();
                        *plan = Arc::new(Plan { tables, revision: plan.revision + 1, ..Plan::clone(plan) });
                    });
                }
            }
        }
        let tables = plans.borrow().tables.len();
        let report = reports.borrow_and_update().clone();
        display.show(&id, &report);
        let now = next_run(&loss, &report, &plans);
        if let Some(next) = now.waits.filter(|_| now.waits != loss.waits) {
            display.line(&format!("link {id}: runs lose their position again and again: the next full load begins at {next:.0}"));
        }
        if let Some(lost) = now.last.as_ref().filter(|_| now.due) {
            display.line(&format!("link {id}: run {} begins with a full load of every table: {}", lost.run_id + 1, lost.message));
        }
        loss = now;
        let verified = verify.is_none() || is_verified(&report);
        complete = is_complete(&report, tables, goal.as_ref()) && verified;
        if once && verified && is_stuck(&report, tables) {
            break;
        }
        if once && complete {
            match &goal {
                Some(_) => break,
                // A source that does not answer is told by the engine, and asked again.
                None => goal = source.heartbeat().await.ok(),
            }
        }
    }
    plans.send_modify(|plan| {
        *plan = Arc::new(Plan { intent: Intent::Drain, revision: plan.revision + 1, ..Plan::clone(plan) });
    });
    let drained = async {
        while reports.changed().await.is_ok() {
            let report = reports.borrow_and_update().clone();
            display.show(&id, &report);
            if report.drained {
                return true;
            }
        }
        false
    };
    let drained = tokio::time::timeout(DRAIN, drained).await.unwrap_or(false);
    end.cancel();
    let ended = engine.await.is_ok();
    ended && drained && (complete || !once)
}

/// Begins the next run if the position is lost and that is what the manifest asks for. A process that is started anew after its
/// end finds the position lost again.
fn next_run(before: &Loss, report: &EngineReport, plans: &watch::Sender<Arc<Plan>>) -> Loss {
    let run = plans.borrow().run;
    let reported = report.position_lost.as_ref().filter(|lost| lost.run == run);
    let loss = loss::heed(before.last.as_ref(), reported, Timestamp::now());
    if loss.due {
        plans.send_modify(|plan| *plan = Arc::new(Plan { run: run + 1, revision: plan.revision + 1, ..Plan::clone(plan) }));
    }
    loss
}

/// Whether every table that replicates was compared with its source.
fn is_verified(report: &EngineReport) -> bool {
    let replicating = |table: &&TableReport| table.phase == TablePhase::Replicating;
    report.tables.iter().filter(replicating).all(|table| report.verifications.iter().any(|found| found.uid == table.uid))
}

/// Whether nothing more will come of it without a person: some tables are Failed, the others Replicating.
fn is_stuck(report: &EngineReport, tables: usize) -> bool {
    let count = |phase| report.tables.iter().filter(|table| table.phase == phase).count();
    let failed = count(TablePhase::Failed);
    failed > 0 && failed + count(TablePhase::Replicating) == tables
}

/// Whether every table is Replicating and the target holds all that was captured, up to the goal at least.
fn is_complete(report: &EngineReport, tables: usize, goal: Option<&Position>) -> bool {
    let replicating = report.tables.iter().filter(|table| table.phase == TablePhase::Replicating).count();
    let position = report.position.as_ref();
    let value = |of: Option<&crate::api::report::PositionTime>| of.map(|position| position.value.clone());
    let captured = value(position.and_then(|position| position.captured.as_ref()));
    let applied = value(position.and_then(|position| position.applied.as_ref()));
    let enough = goal.is_none_or(|goal| report.read_to.as_ref().is_some_and(|read_to| read_to >= goal));
    replicating == tables && enough && captured.is_some() && captured == applied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_rest_are_named_as_not_compared() {
        assert!(not_resting(&[]).is_ok());
        let resting = [("shops/a".to_owned(), LinkState::Paused), ("shops/b".to_owned(), LinkState::Stopped)];
        let text = not_resting(&resting).unwrap_err().to_string();
        assert!(text.starts_with("not compared: LinkConnections shops/a (Paused), shops/b (Stopped); set their spec.state"), "{text}");
        assert!(no_tables(Path::new("dir")).to_string().starts_with("not compared: the links of dir have no tables; list them"));
    }
}
