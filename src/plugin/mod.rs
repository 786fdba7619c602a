//! `kubectl link`: what a person does with links day by day, over the same fields and annotations that he would set by hand.
//!
//! It knows the API server and nothing else: no worker, no database. The binary is this plugin when it is called `kubectl-link`
//! ([`is_called`]): kubectl finds it by that name. [`show`] makes text of objects, [`act`] asks for something and waits for it,
//! [`logs`] reads what a link's pods tell.

mod act;
mod logs;
mod show;

use std::{ffi::OsStr, path::Path, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    api::{link_connection::LinkConnection, link_table::LinkTable},
    text::printable,
};

/// The name by which kubectl finds a plugin for `kubectl link`.
const NAME: &str = "kubectl-link";

/// Show and steer links of databases.
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl link", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    command: Command,
}

/// Which cluster and namespace, as kubectl has it.
#[derive(Args, Debug)]
struct Cluster {
    /// The namespace. Default: the context's.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig file. Default: the current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The kubeconfig file. Default: KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show links: all, or one with what is wrong with it and its tables.
    Status {
        /// The LinkConnection. Default: all.
        link: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Show tables of a link, or of all.
    Tables {
        /// The LinkConnection. Default: all.
        link: Option<String>,
        #[command(flatten)]
        show: Show,
    },
    /// Print what a link's pods tell.
    Logs(logs::Options),
    /// Load tables anew, beside what the target has: readers see that until the load is complete.
    Reseed {
        #[command(flatten)]
        tables: act::Tables,
        /// All tables of the link.
        #[arg(long, conflicts_with = "table")]
        all: bool,
        #[command(flatten)]
        wait: act::Wait,
    },
    /// Compare tables with the source while the link runs; all of the link's if none is named.
    Verify {
        #[command(flatten)]
        tables: act::Tables,
        /// Make rows that differ as they are in the source.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        wait: act::Wait,
    },
    /// Commit what was read and rest; the position is kept.
    Pause {
        /// The LinkConnection.
        link: String,
        #[command(flatten)]
        wait: act::Wait,
    },
    /// Go on where the link was paused.
    Resume {
        /// The LinkConnection.
        link: String,
        #[command(flatten)]
        wait: act::Wait,
    },
}

#[derive(Args, Debug)]
struct Show {
    /// As a table, with more columns, or as the API server has it.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Wide,
    Json,
    Yaml,
}

/// Why something could not be shown or done.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// The kubeconfig file is not there, or has no such context.
    #[error("no way to a cluster: {0}")]
    NoCluster(String),
    /// The API server refused or did not answer.
    #[error("the API server refused: {0}")]
    ApiServerRefused(#[from] kube::Error),
    /// There is no such link or table.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be asked for as things are.
    #[error("{0}")]
    NotApplicable(String),
    /// It did not come about within the time.
    #[error("{what} is not so after {} s: {now}", .after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// How things are.
        now: String,
    },
    /// What is waited for may not be looked at.
    #[error("{0} cannot be watched: {1}")]
    NotWatchable(String, #[source] kube::runtime::wait::Error),
    /// It ended otherwise than was asked for.
    #[error("{0}")]
    EndedBadly(String),
    /// A document could not be written.
    #[error("it cannot be written: {0}")]
    NotWritable(String),
}

/// Whether the binary was called as the plugin.
pub fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_stem() == Some(OsStr::new(NAME))
}

/// Does what the command line asks for; what is to be read goes to `out`.
pub async fn run(cli: Cli, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let config = cli.cluster.config().await?;
    let namespace = cli.cluster.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let place = Place { client: Client::try_from(config)?, namespace };
    Box::pin(place.run(cli.command, out)).await
}

impl Cluster {
    async fn config(&self) -> Result<Config, Error> {
        let failed = |error: &dyn std::error::Error| Error::NoCluster(error.to_string());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(file) => {
                let file = Kubeconfig::read_from(file).map_err(|error| failed(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| failed(&error))?,
            // Also from within a pod.
            None => Config::infer().await.map_err(|error| failed(&error))?,
        };
        // Logs that are followed, and what is waited for, may be silent for long.
        config.read_timeout = None;
        Ok(config)
    }
}

/// A namespace of a cluster.
struct Place {
    client: Client,
    namespace: String,
}

impl Place {
    async fn run(&self, command: Command, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
        match command {
            Command::Status { link: Some(name), show } if !show.all_namespaces => {
                let link = self.link(&name).await?;
                match show.output {
                    Some(format @ (Format::Json | Format::Yaml)) => write(out, &show::document(&link, format)?),
                    Some(Format::Wide) => write(out, &show::links(&[link], false, true, jiff::Timestamp::now())),
                    None => write(out, &show::link(&link, &self.tables(&name).await?, jiff::Timestamp::now())),
                }
            }
            Command::Status { link, show } => {
                let mut links = self.api_of::<LinkConnection>(&show).list(&ListParams::default()).await?.items;
                if let Some(name) = &link {
                    links.retain(|found| found.name_any() == *name);
                    if links.is_empty() {
                        return Err(no_link_anywhere(name));
                    }
                }
                match show.output {
                    Some(format @ (Format::Json | Format::Yaml)) => write(out, &show::documents(&links, format)?),
                    format => write(out, &show::links(&links, show.all_namespaces, format.is_some(), jiff::Timestamp::now())),
                }
            }
            Command::Tables { link, show } => {
                let mut tables = self.api_of::<LinkTable>(&show).list(&ListParams::default()).await?.items;
                if let Some(name) = &link {
                    tables.retain(|table| table.spec.link_connection_ref.name == *name);
                    if tables.is_empty() && !show.all_namespaces {
                        self.link(name).await?;
                    } else if tables.is_empty() {
                        let links = Api::<LinkConnection>::all(self.client.clone()).list_metadata(&ListParams::default()).await?.items;
                        links.iter().find(|link| link.name_any() == *name).ok_or_else(|| no_link_anywhere(name))?;
                    }
                }
                match show.output {
                    Some(format @ (Format::Json | Format::Yaml)) => write(out, &show::documents(&tables, format)?),
                    format => write(out, &show::tables(&tables, show.all_namespaces, format.is_some(), jiff::Timestamp::now())),
                }
            }
            Command::Logs(options) => logs::print(self, &options, out).await,
            Command::Reseed { tables, all, wait } => Box::pin(act::reseed(self, &tables, all, &wait, out)).await,
            Command::Verify { tables, repair, wait } => Box::pin(act::verify(self, &tables, repair, &wait, out)).await,
            Command::Pause { link, wait } => Box::pin(act::pause(self, &link, &wait, out)).await,
            Command::Resume { link, wait } => Box::pin(act::resume(self, &link, &wait, out)).await,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn api_of<K>(&self, show: &Show) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        if show.all_namespaces { Api::all(self.client.clone()) } else { self.api() }
    }

    async fn link(&self, name: &str) -> Result<LinkConnection, Error> {
        let found = self.api::<LinkConnection>().get_opt(name).await?;
        found.ok_or_else(|| Error::NotFound(format!("there is no LinkConnection {name} in namespace {}", self.namespace)))
    }

    /// The tables of a link.
    async fn tables(&self, link: &str) -> Result<Vec<LinkTable>, Error> {
        let of_link = ListParams::default().fields(&format!("spec.linkConnectionRef.name={link}"));
        Ok(self.api::<LinkTable>().list(&of_link).await?.items)
    }
}

fn no_link_anywhere(name: &str) -> Error {
    Error::NotFound(format!("there is no LinkConnection {name} in any namespace"))
}

/// Says something; what was asked for is done also if nobody reads it.
fn write(out: &mut (dyn std::io::Write + Send), text: &str) -> Result<(), Error> {
    is_read(out, text).map(|_| ())
}

/// The same; returns whether somebody still reads.
fn is_read(out: &mut (dyn std::io::Write + Send), text: &str) -> Result<bool, Error> {
    match out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::NotWritable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_known_by_its_name() {
        Cli::command().debug_assert();
        assert!(is_called(OsStr::new("/usr/local/bin/kubectl-link")) && is_called(OsStr::new("kubectl-link.exe")));
        assert!(!is_called(OsStr::new("/kubectl-link/link-operator")) && !is_called(OsStr::new("kubectl")));
        let cli = Cli::try_parse_from(["kubectl-link", "status", "shop", "-n", "shops", "--context", "east"]).unwrap();
        assert_eq!((cli.cluster.namespace.as_deref(), cli.cluster.context.as_deref()), (Some("shops"), Some("east")));
        assert!(Cli::try_parse_from(["kubectl-link", "reseed", "shop", "a", "--all"]).is_err());
    }
}
