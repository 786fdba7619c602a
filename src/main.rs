//! The command line.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use link_operator::{
    api::{
        crds,
        plan::{Plan, ProbeRequest, SECRETS_DIR, ZONE_DIR},
    },
    controller, failpoint, plugin,
    secrets::Secrets,
    standalone, telemetry,
    text::printable,
    worker,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Links tables of operational databases to analytical targets.
#[derive(Parser)]
#[command(name = "link-operator", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell whether an installation works: the cluster serves the four kinds as this version needs them, and the operator is
    /// ready. Ends with exit code 1 and what is wrong if not.
    Check(controller::CheckOptions),
    /// Look after the links of a cluster: the program of the operator's own pods.
    Controller(controller::Options),
    /// Print the definitions of the four kinds, as `kubectl apply -f -` takes them.
    Crds {
        /// Write one file a kind into this folder instead.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Tell what the links of a folder of manifests would do, before anything is touched: which tables can be linked, how each column
    /// travels, what the target would run, how much it is and how long it may take. Ends with exit code 1 if something keeps a table
    /// from being linked.
    Plan(standalone::PlanOptions),
    /// Run the links of a folder of manifests in this process, without a cluster: to try out, to develop, to measure.
    Run(standalone::Options),
    /// Print SQL for those who administer a link's databases.
    #[command(subcommand)]
    Sql(Sql),
    /// Bring the tables of a folder of manifests to the present and compare them with their sources, without a cluster. Ends
    /// with exit code 1 unless all are equal, and if there is no table, or a link is Paused or Stopped: it is named, and not compared.
    Verify(standalone::VerifyOptions),
    /// Replicate: the program of a link's pods.
    Worker(WorkerArgs),
}

#[derive(Subcommand)]
enum Sql {
    /// The least rights that the links of some manifests need in their sources and targets, and what makes them. Nothing is
    /// connected to; the scripts may be run again.
    Grants {
        /// Manifests: a file, or a folder whose .yaml and .yml files are read.
        #[arg(short, long, value_name = "PATH")]
        filename: PathBuf,
    },
}

#[derive(Args)]
struct WorkerArgs {
    /// Ask once whether what the request names can be linked, and end.
    #[arg(long, requires = "request", conflicts_with = "release")]
    probe: bool,
    /// Free what the link of the request made in source, target and landing zone, and end.
    #[arg(long, requires = "request")]
    release: bool,
    /// What to ask or to free: a ProbeRequest or a Plan as JSON.
    #[arg(long, value_name = "JSON")]
    request: Option<String>,
    /// File for the answer of --probe and --release.
    #[arg(long, env = "TERMINATION_LOG", default_value = "/dev/termination-log", value_name = "FILE")]
    termination_log: PathBuf,
}

/// A message for a person; the process ends with exit code 1.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    // Before anything speaks TLS: two providers are in the tree, and rustls does not choose.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if std::env::args_os().next().is_some_and(|program| plugin::is_called(&program)) {
        return kubectl_link().await;
    }
    let cli = Cli::parse();
    // A person at a terminal is told by bars and lines; the log has but what they cannot show.
    let quiet = matches!(cli.command, Command::Plan(_) | Command::Run(_) | Command::Verify(_));
    if let Some(problem) = telemetry::start_logs(quiet) {
        tracing::warn!("{problem}");
    }
    if let Err(problem) = failpoint::arm() {
        tracing::warn!("{problem}");
    }
    match run(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The binary as a plugin of kubectl, which says what went wrong as kubectl does.
async fn kubectl_link() -> ExitCode {
    match plugin::run(plugin::Cli::parse(), &mut std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check(options) => {
            controller::check(options).await?;
            println!("link-operator works here");
            Ok(())
        }
        Command::Controller(options) => until_signalled(2, |stop| controller::run(options, stop)).await,
        Command::Crds { dir } => write_crds(dir.as_deref()),
        // It has nothing to finish.
        Command::Plan(options) => until_signalled(1, async |_| standalone::plan(&options, &mut std::io::stdout()).await).await,
        Command::Run(options) => until_signalled(2, |stop| standalone::run(options, stop)).await,
        Command::Sql(Sql::Grants { filename }) => {
            print(&standalone::grants(&filename)?);
            Ok(())
        }
        Command::Verify(options) => until_signalled(2, |stop| standalone::verify(options, stop)).await,
        Command::Worker(arguments) => run_worker(arguments).await,
    }
}

/// Writes to stdout. Whoever reads it may have had enough.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn write_crds(dir: Option<&Path>) -> Result<(), Failure> {
    for (name, text) in crds::yaml()? {
        match dir {
            Some(dir) => {
                let file = dir.join(name);
                std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
            }
            None => print(&format!("---\n{text}")),
        }
    }
    Ok(())
}

async fn run_worker(arguments: WorkerArgs) -> Result<(), Failure> {
    let (secrets, volume) = (Secrets::new(SECRETS_DIR), Path::new(ZONE_DIR));
    let report = match arguments.request {
        None => {
            let options = worker::Options::of_pod()?;
            return until_signalled(2, |stop| worker::run(options, stop)).await;
        }
        Some(request) if arguments.probe => {
            let request: ProbeRequest = serde_json::from_str(&request).map_err(|error| format!("--request is no ProbeRequest: {error}"))?;
            worker::probe(&request, &secrets, volume).await
        }
        Some(request) if arguments.release => {
            let plan: Plan = serde_json::from_str(&request).map_err(|error| format!("--request is no Plan: {error}"))?;
            worker::release(&plan, &secrets, volume).await
        }
        Some(_) => return Err("--request needs --probe or --release".into()),
    };
    let file = &arguments.termination_log;
    Ok(worker::termination::write(report, file).await.map_err(|error| format!("cannot write {}: {error}", file.display()))?)
}

/// Does some work, which is told to stop by the first SIGTERM or SIGINT. By the `last` such signal the process ends at once, and leaves
/// nothing behind that the work would have removed at its end: of `run`, `verify` and `plan`, Secrets.
async fn until_signalled<E>(last: u32, work: impl AsyncFnOnce(CancellationToken) -> Result<(), E>) -> Result<(), Failure>
where
    Failure: From<E>,
{
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let signalled = async {
        for _ in 0..last {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    };
    let result = tokio::select! {
        result = work(stop.clone()) => Some(result),
        () = signalled => None,
    };
    // The work is dropped, and what it kept for itself with it.
    result.map_or_else(|| std::process::exit(130), |result| Ok(result?))
}
