//! `link-operator plan`: what the links of some manifests would do, before anything is touched.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    Error,
    manifests::{Link, Manifests},
    private_secrets,
};
use crate::{
    api::{
        conditions::kind,
        discovery::IneligibleTable,
        fault::{Check, Explain as _, Fault},
        forecast::{BYTES_A_SECOND, PlanStatus},
    },
    controller::explain,
    data::TableName,
    forecast::{Forecast, Standing, TableForecast, Wishes, forecast},
    landing::Zone,
    secrets::Secrets,
    source, target,
    text::{Table, bytes, printable},
    worker::{ask_source, ask_target, ask_zone},
};

/// How long one system may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most names in one line.
const NAMED: usize = 10;

/// Options of the subcommand `plan`.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanOptions {
    /// Manifests: a file, or a folder whose .yaml and .yml files are read.
    #[arg(short, long, value_name = "PATH")]
    pub filename: PathBuf,
    /// Folder with a folder for each Secret and a file for each of its keys, and with ConfigMaps in its folder .configmaps.
    /// Default: those among the manifests.
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// As text for people, or for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,
}

/// The form of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned text.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What a link would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkForecast {
    /// Namespace and name.
    link: String,
    cores: u32,
    checks: Vec<Check>,
    /// None if the source does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<PlanStatus>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    forecast: Option<Forecast>,
    /// The script that makes all rights that the link needs, if some are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<String>,
    /// Why sizes and times are what they are.
    assumption: String,
}

/// Tells what the links would do. `NotAllLinked` if something keeps one of their tables from being linked.
pub async fn plan(options: &PlanOptions, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let manifests = Manifests::read(&options.filename)?;
    let links = manifests.all_links()?;
    if links.is_empty() {
        return Err(Error::NothingToTell(options.filename.display().to_string()));
    }
    let folder = private_secrets(&manifests)?;
    let mut forecasts = Vec::new();
    for link in &links {
        let secrets = options.secrets.clone().unwrap_or_else(|| folder.path().join(&link.plan.link.namespace));
        forecasts.push(of_link(link, &Secrets::new(secrets), &manifests).await);
    }
    let not_writable = |problem: String| Error::ManifestInvalid { at: "the plan".to_owned(), problem };
    let text = match options.output {
        Output::Text => printable(&forecasts.iter().map(text).collect::<Vec<_>>().join("\n")).into_owned(),
        Output::Json => serde_json::to_string_pretty(&forecasts).map_err(|error| not_writable(error.to_string()))? + "\n",
        Output::Yaml => serde_yaml::to_string(&forecasts).map_err(|error| not_writable(error.to_string()))?,
    };
    // Whoever reads it may have had enough.
    let _ = out.write_all(text.as_bytes());
    if forecasts.iter().all(LinkForecast::is_well) { Ok(()) } else { Err(Error::NotAllLinkable) }
}

async fn of_link(link: &Link, secrets: &Secrets, manifests: &Manifests) -> LinkForecast {
    let (plan, id) = (&link.plan, &link.plan.link.link_id);
    let source = source::open(&plan.source, secrets, id).map_err(|error| error.fault());
    let target = target::open(&plan.target, secrets, id, None).map_err(|error| error.fault());
    let zone = async {
        if let Some(claim) = &plan.zone.persistent_volume_claim {
            let text = format!("PersistentVolumeClaim {}: only a pod of the cluster can look at it", claim.claim_name);
            return vec![Check::passed("ZoneReadable", text)];
        }
        // No pod has its mount here.
        let zone = Zone::open(&plan.zone, secrets, std::path::Path::new(""), Some(id)).map_err(|error| error.fault());
        ask_zone(&zone, PATIENCE).await.0
    };
    let (mut checks, of_target, of_zone) = tokio::join!(ask_source(&source, PATIENCE), ask_target(&target, PATIENCE), zone);
    let target_is_ready = of_target.iter().all(|check| check.fault.is_none());
    let patterns = plan.discover.as_ref().and_then(|discover| discover.patterns().ok());
    let wishes = Wishes {
        link_id: id,
        cores: plan.cores_per_worker,
        tables: &plan.tables,
        patterns: patterns.as_ref(),
        tries: if target_is_ready { usize::MAX } else { 0 },
    };
    let forecast = match (&source, &target) {
        (Ok(source), Ok(target)) => match forecast(&wishes, source.as_ref(), target.as_ref()).await {
            Ok(forecast) => Some(forecast),
            Err(error) => {
                not_surveyed(&mut checks, error.fault());
                None
            }
        },
        // The checks say what is wrong with it.
        _ => None,
    };
    checks.extend(of_target);
    checks.extend(of_zone);
    let mut names: Vec<(TableName, TableName)> = forecast.as_ref().map_or_else(
        || plan.tables.iter().map(|table| (table.source.clone(), table.target.clone())).collect(),
        |forecast| forecast.tables.iter().map(|table| (table.source.clone(), table.target.clone())).collect(),
    );
    names.sort();
    let obstacles = forecast.iter().flat_map(|forecast| &forecast.tables).filter_map(|table| table.obstacle.as_ref());
    let missing = checks.iter().filter_map(|check| check.fault.as_ref()).chain(obstacles).any(is_of_rights);
    let cores = plan.cores_per_worker;
    LinkForecast {
        link: link.name.clone(),
        cores,
        summary: forecast.as_ref().map(|forecast| forecast.summary(jiff::Timestamp::now(), cores)),
        grants: missing.then(|| manifests.grants_of(&link.name, &names)),
        assumption: format!(
            "sizes are those of the source's statistics; a load is reckoned at {} of them a second and core",
            bytes(BYTES_A_SECOND)
        ),
        checks,
        forecast,
    }
}

/// Adds to the checks of the source why it did not tell its tables. If one of them has failed, that is said already.
fn not_surveyed(of_source: &mut Vec<Check>, fault: Fault) {
    if of_source.iter().any(|check| check.fault.is_some()) {
        return;
    }
    // It passed a moment ago.
    of_source.retain(|check| check.name != kind::SOURCE_REACHABLE);
    of_source.insert(0, Check::failed(kind::SOURCE_REACHABLE, fault));
}

/// Whether the script of grants cures it.
fn is_of_rights(fault: &Fault) -> bool {
    fault.reason.ends_with("PermissionDenied")
        || fault.reason.ends_with("NotPrepared")
        || fault.reason == "TargetSchemaMissing"
        || fault.remedy.contains("CHANGE_TRACKING")
        || fault.remedy.contains("sp_cdc_enable")
}

impl LinkForecast {
    /// Whether all of its tables can be linked.
    fn is_well(&self) -> bool {
        let tables = self.forecast.as_ref().map(|forecast| forecast.tables.iter().all(|table| table.obstacle.is_none()));
        tables.unwrap_or(false) && self.checks.iter().all(|check| check.fault.is_none())
    }
}

/// For people.
fn text(link: &LinkForecast) -> String {
    let mut text = format!("LinkConnection {}\n\nCHECKS\n", link.link);
    let mut checks = Table::new(&[]);
    for check in &link.checks {
        let (word, told) = match &check.fault {
            None => ("ok", check.message.clone()),
            Some(fault) => ("FAILED", format!("{}: {}", fault.reason, explain(fault))),
        };
        checks.row(vec![format!("  {}", check.name), word.to_owned(), told]);
    }
    text.push_str(&checks.to_string());
    let told = link.forecast.as_ref().zip(link.summary.as_ref());
    if let Some((forecast, summary)) = told {
        forecast_text(&mut text, link, forecast, summary);
    }
    // To a String: it cannot fail.
    let _ = match &link.grants {
        Some(grants) => writeln!(text, "\nRIGHTS ARE MISSING: this makes all that the link needs\n\n{}", grants.trim_end()),
        None if told.is_some() => writeln!(text, "\nNo rights are missing."),
        // Nobody knows.
        None => Ok(()),
    };
    text
}

/// What would become of the tables.
fn forecast_text(text: &mut String, link: &LinkForecast, forecast: &Forecast, summary: &PlanStatus) {
    // To a String: it cannot fail.
    let _ = writeln!(text, "\nTABLES");
    text.push_str(&tables(forecast));
    let size = bytes(summary.bytes.unsigned_abs());
    let _ = writeln!(
        text,
        "  {} of {} can be linked: {} rows, {size}, about {} with {} cores",
        summary.tables - summary.blocked,
        summary.tables,
        summary.rows,
        duration(summary.load_seconds.unsigned_abs()),
        link.cores
    );
    let _ = writeln!(text, "  ({})", link.assumption);
    if summary.unmeasured > 0 {
        let _ =
            writeln!(text, "  {} have no statistics yet and are not counted in; in PostgreSQL ANALYZE gathers them", summary.unmeasured);
    }
    let blocked: Vec<(&TableName, String)> =
        forecast.tables.iter().filter_map(|table| Some((&table.source, told(table.obstacle.as_ref()?)))).collect();
    section(text, "CANNOT BE LINKED", &blocked);
    section(text, "REPLACES WHAT IS THERE", &standing(forecast, Standing::Replaced));
    section(text, "ADOPTS WHAT IS THERE", &standing(forecast, Standing::Adopted));
    let others: Vec<(&TableName, String)> =
        forecast.ineligible.iter().map(|IneligibleTable { name, reason, message }| (name, format!("{reason}: {message}"))).collect();
    section(text, "NOT ASKED FOR, AND CANNOT BE LINKED", &others);
    if !forecast.others.is_empty() {
        let named: Vec<String> = forecast.others.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if forecast.others.len() > NAMED { ", …" } else { "" };
        let _ = writeln!(text, "\nNOT ASKED FOR: {} that can be linked: {}{more}", forecast.others.len(), named.join(", "));
    }
    let _ = writeln!(text, "\nCOLUMNS");
    text.push_str(&columns(forecast));
    let mut statements = forecast.tables.iter().filter(|table| table.obstacle.is_none()).flat_map(|table| &table.statements).peekable();
    if statements.peek().is_some() {
        let _ = writeln!(text, "\nTHE TARGET WOULD RUN");
    }
    for statement in statements {
        let _ = writeln!(text, "  {statement};");
    }
}

fn tables(forecast: &Forecast) -> String {
    let mut lines = Table::new(&["  SOURCE", "TARGET", "ROWS", "SIZE", "LOAD", "LOSSY COLUMNS"]);
    for table in forecast.tables.iter().filter(|table| table.obstacle.is_none()) {
        let lossy = table.columns.iter().filter(|column| column.lossy).count();
        lines.row(vec![
            format!("  {}", table.source),
            table.target.to_string(),
            table.rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string()),
            table.bytes.map_or_else(|| "?".to_owned(), bytes),
            load(table),
            if lossy > 0 { lossy.to_string() } else { String::new() },
        ]);
    }
    lines.or("  none\n")
}

/// How long a table's load may take.
fn load(table: &TableForecast) -> String {
    match (table.there, table.load_seconds) {
        (Some(Standing::Adopted), _) => "adopted".to_owned(),
        (_, Some(seconds)) => duration(seconds),
        (_, None) => "?".to_owned(),
    }
}

/// Tables that stand in the target already and come to this, and what that means.
fn standing(forecast: &Forecast, fate: Standing) -> Vec<(&TableName, String)> {
    let means = match fate {
        Standing::Replaced => "was not made by this link: it is dropped, with its rows, once the load is complete",
        Standing::Adopted => "is not loaded: its rows are compared with the source's, and what differs is made as it is there",
    };
    let tables = forecast.tables.iter().filter(|table| table.obstacle.is_none() && table.there == Some(fate));
    tables.map(|table| (&table.target, means.to_owned())).collect()
}

fn columns(forecast: &Forecast) -> String {
    let mut lines = Table::new(&["  TABLE", "COLUMN", "SOURCE TYPE", "TRAVELS AS", "TARGET TYPE", ""]);
    for TableForecast { source, columns, .. } in forecast.tables.iter().filter(|table| table.obstacle.is_none()) {
        for column in columns {
            let mut notes: Vec<String> = Vec::new();
            notes.extend(column.key.then(|| "key".to_owned()));
            notes.extend(column.lossy.then(|| "LOSSY".to_owned()));
            notes.extend(column.note.clone());
            lines.row(vec![
                format!("  {source}"),
                column.name.clone(),
                column.source_type.clone(),
                column.travels.clone(),
                column.target_type.clone(),
                notes.join("; "),
            ]);
        }
    }
    lines.or("  none\n")
}

fn told(fault: &Fault) -> String {
    format!("{}: {}", fault.reason, explain(fault))
}

fn section(text: &mut String, heading: &str, lines: &[(&TableName, String)]) {
    if lines.is_empty() {
        return;
    }
    let mut table = Table::new(&[]);
    for (name, why) in lines {
        table.row(vec![format!("  {name}"), why.clone()]);
    }
    let _ = write!(text, "\n{heading}\n{table}");
}

/// A time in its largest units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_units_that_people_use() {
        assert_eq!([0, 119, 121, 7200].map(duration), ["0 s", "119 s", "3 min", "2 h"]);
    }

    fn table(name: &str, there: Option<Standing>) -> TableForecast {
        let adopted = there == Some(Standing::Adopted);
        TableForecast {
            source: TableName::new("dbo", name),
            target: TableName::new("dw", name),
            obstacle: None,
            there,
            rows: Some(1),
            bytes: Some(1),
            load_seconds: (!adopted).then_some(1),
            columns: vec![],
            statements: if adopted { vec![] } else { vec![format!("CREATE TABLE {name}")] },
        }
    }

    fn told_of(tables: Option<Vec<TableForecast>>, grants: Option<&str>) -> String {
        let forecast = tables.map(|tables| Forecast { tables, others: vec![], ineligible: vec![] });
        text(&LinkForecast {
            link: "ns/shop".into(),
            cores: 1,
            checks: vec![],
            summary: forecast.as_ref().map(|forecast| forecast.summary(jiff::Timestamp::UNIX_EPOCH, 1)),
            forecast,
            grants: grants.map(str::to_owned),
            assumption: String::new(),
        })
    }

    #[test]
    fn what_stands_in_the_target_is_named_with_what_becomes_of_it() {
        let text = told_of(Some(vec![table("a", None), table("b", Some(Standing::Replaced)), table("c", Some(Standing::Adopted))]), None);
        assert!(text.contains("REPLACES WHAT IS THERE\n  dw.b  was not made by this link"), "{text}");
        assert!(text.contains("ADOPTS WHAT IS THERE\n  dw.c  is not loaded"), "{text}");
        assert!(text.contains("CREATE TABLE b;") && text.contains("adopted") && !text.contains("dw.a  was"), "{text}");
        let text = told_of(Some(vec![table("c", Some(Standing::Adopted))]), None);
        assert!(!text.contains("THE TARGET WOULD RUN") && !text.contains("REPLACES"), "{text}");
    }

    #[test]
    fn grants_are_told_also_where_the_source_does_not_tell_its_tables() {
        let text = told_of(None, Some("GRANT x"));
        assert!(text.contains("RIGHTS ARE MISSING") && text.ends_with("GRANT x\n"), "{text}");
        assert!(!told_of(None, None).contains("rights"));
        assert!(told_of(Some(vec![]), None).ends_with("No rights are missing.\n"));
    }

    #[test]
    fn a_source_that_does_not_tell_its_tables_is_said_once() {
        let fault = || source::Error::SourceUnreachable("silent".into()).fault();
        let names =
            |checks: &[Check]| -> Vec<(String, bool)> { checks.iter().map(|check| (check.name.clone(), check.fault.is_some())).collect() };
        let mut checks = vec![Check::passed(kind::SOURCE_REACHABLE, "15"), Check::passed(kind::SOURCE_PREPARED, "15")];
        not_surveyed(&mut checks, fault());
        assert_eq!(names(&checks), [(kind::SOURCE_REACHABLE.to_owned(), true), (kind::SOURCE_PREPARED.to_owned(), false)]);
        let mut checks = vec![Check::passed(kind::SOURCE_REACHABLE, "15"), Check::failed(kind::SOURCE_PREPARED, fault())];
        let before = names(&checks);
        not_surveyed(&mut checks, fault());
        assert_eq!(names(&checks), before);
    }
}
