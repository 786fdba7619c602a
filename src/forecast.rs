//! What a link would do, before anything of it is done: its tables with what stands against each, the way of each column, the
//! statements that the target would run, sizes and times by the source's statistics.
//!
//! Source and target are asked and left as they are: what a target is tried with is taken back.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time;

use crate::{
    api::{
        discover::Patterns,
        discovery::{Found, IneligibleTable},
        fault::{Explain as _, Fault},
        forecast::{BYTES_A_SECOND, LossyColumn, NAMED, PlanStatus},
        link_table::TableOptions,
        plan::PlannedTable,
    },
    data::{TableName, TableSchema, Travel},
    source::{self, Size, Source, Surveyed},
    target::{self, Claim, Fit, Target, TargetTable},
};

/// Tables that the target is tried with at once.
const AT_ONCE: usize = 4;
/// How long it may take for one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the source may take to tell all of its tables: it may have ten thousand.
const SURVEY_PATIENCE: Duration = Duration::from_mins(1);

/// What a link is to have.
pub struct Wishes<'a> {
    /// The link's lasting identity.
    pub link_id: &'a str,
    /// Its cores.
    pub cores: u32,
    /// Its tables.
    pub tables: &'a [PlannedTable],
    /// And those that patterns ask for.
    pub patterns: Option<&'a Patterns>,
    /// So many tables the target is tried with, none if it is known not to be ready: what stands against them there would be said
    /// for each.
    pub tries: usize,
}

/// What a link would do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Tables that the link would have, in the order of their names.
    pub tables: Vec<TableForecast>,
    /// Others of the source that could be linked.
    pub others: Vec<TableName>,
    /// Others that could not, and why.
    pub ineligible: Vec<IneligibleTable>,
}

/// What would become of a table that stands in the target under the name of a linked one, and is not the link's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It is dropped at the end of the load, with all of its rows.
    Replaced,
    /// It becomes the link's: its rows are compared with the source's and made as they are there.
    Adopted,
}

/// What would become of a table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableForecast {
    /// The table in the source.
    pub source: TableName,
    /// The table in the target.
    pub target: TableName,
    /// Why it cannot be linked as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Fault>,
    /// What becomes of a table that stands there already; none if there is none, or the target was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub there: Option<Standing>,
    /// Rows by the source's statistics; none if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes in the source, by the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long its load may take, seconds, with all of the link's cores; none if its size is not known, or it is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_seconds: Option<u64>,
    /// Its columns.
    pub columns: Vec<ColumnForecast>,
    /// The statements that would make it in the target; none if a table is adopted.
    pub statements: Vec<String>,
}

/// The way of a column.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnForecast {
    /// Its name.
    pub name: String,
    /// Whether rows are known by it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub key: bool,
    /// Its type in the source.
    pub source_type: String,
    /// How its values travel.
    pub travels: String,
    /// Its type in the target.
    pub target_type: String,
    /// Whether something of its values is lost.
    pub lossy: bool,
    /// What is lost, refused, or has another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Asks source and target. `SourceUnreachable` if the source does not tell its tables within a minute.
pub async fn forecast(wishes: &Wishes<'_>, source: &dyn Source, target: &dyn Target) -> Result<Forecast, source::Error> {
    let late = |_| source::Error::SourceUnreachable(format!("it did not tell its tables within {} s", SURVEY_PATIENCE.as_secs()));
    let (tables, rest) = time::timeout(SURVEY_PATIENCE, survey(wishes, source)).await.map_err(late)??;
    let tried = |number: usize| number < wishes.tries;
    let forecasts = tables.into_iter().enumerate().map(|(number, (there, to))| of_table(wishes, there, to, target, tried(number)));
    let tables = stream::iter(forecasts).buffered(AT_ONCE).collect().await;
    let rest = rest.into_iter().map(|other| (other.name, other.table.err().map(|error| error.fault()))).collect();
    let (others, ineligible) = Found::new(Timestamp::now(), rest).parted();
    Ok(Forecast { tables, others, ineligible })
}

/// A table of the source, and what it is to be in the target.
type Asked = (Surveyed, (TableName, TableOptions));

/// The tables that are asked for, in the order of their names, and the other ones of the source.
async fn survey(wishes: &Wishes<'_>, source: &dyn Source) -> Result<(Vec<Asked>, Vec<Surveyed>), source::Error> {
    let mut surveyed: HashMap<TableName, Surveyed> =
        source.survey().await?.into_iter().map(|surveyed| (surveyed.name.clone(), surveyed)).collect();
    let planned = wishes.tables.iter().map(|table| (table.source.clone(), table.target.clone(), table.options.clone()));
    let mut asked: Vec<(TableName, TableName, TableOptions)> = planned.collect();
    let listed: HashSet<&TableName> = wishes.tables.iter().map(|table| &table.source).collect();
    let found = |name: &&TableName| wishes.patterns.is_some_and(|patterns| patterns.ask_for(name)) && !listed.contains(name);
    asked.extend(surveyed.keys().filter(found).map(|name| (name.clone(), name.clone(), TableOptions::default())));
    asked.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    let mut tables = Vec::new();
    for (name, to, options) in asked {
        let there = match surveyed.remove(&name) {
            Some(there) => there,
            // Not among its tables: it says what it is, if it is there.
            None => Surveyed { table: source.describe(&name).await, name, size: Size::default() },
        };
        tables.push((there, (to, options)));
    }
    Ok((tables, surveyed.into_values().collect()))
}

async fn of_table(
    wishes: &Wishes<'_>,
    there: Surveyed,
    (to, options): (TableName, TableOptions),
    target: &dyn Target,
    tried: bool,
) -> TableForecast {
    let Size { rows, bytes } = there.size;
    let load_seconds = bytes.map(|bytes| load_seconds(bytes, wishes.cores));
    let mut table = TableForecast {
        source: there.name.clone(),
        target: to.clone(),
        obstacle: None,
        there: None,
        rows,
        bytes,
        load_seconds,
        columns: Vec::new(),
        statements: Vec::new(),
    };
    let schema = match there.table {
        Ok(schema) => schema,
        Err(error) => {
            table.obstacle = Some(error.fault());
            return table;
        }
    };
    let place = TargetTable { link_id: wishes.link_id.to_owned(), source: there.name, name: to, options };
    let told = time::timeout(PATIENCE, async {
        let outline = target.outline(&place, &schema).await?;
        table.columns = schema.columns.iter().zip(&outline.columns).enumerate().map(|(at, of)| column(&schema, at, of.0, of.1)).collect();
        table.statements = outline.statements;
        if tried { target.try_claim(&place, &schema).await.map(Some) } else { Ok(None) }
    });
    let late = || target::Error::TargetUnreachable(format!("no answer about table {} within {} s", place.name, PATIENCE.as_secs()));
    match told.await.unwrap_or_else(|_| Err(late())) {
        Ok(claim) => table.meet(claim),
        Err(error) => table.obstacle = Some(error.fault()),
    }
    table
}

impl TableForecast {
    /// Heeds what stands there already. What is adopted is neither made nor loaded.
    fn meet(&mut self, claim: Option<Claim>) {
        match claim {
            Some(Claim::Replace) => self.there = Some(Standing::Replaced),
            Some(Claim::Adopt) => {
                self.there = Some(Standing::Adopted);
                self.load_seconds = None;
                self.statements.clear();
            }
            Some(Claim::Load) | None => {}
        }
    }
}

fn column(schema: &TableSchema, at: usize, column: &crate::data::Column, outlined: &crate::target::OutlinedColumn) -> ColumnForecast {
    let (lossy, note) = match &outlined.fit {
        Fit::Whole => (false, None),
        Fit::Form(form) => (false, Some((*form).to_owned())),
        Fit::Refuses(values) => (false, Some(format!("refuses {values}"))),
        Fit::Lossy(loss) => (true, Some(format!("loses {loss}"))),
    };
    ColumnForecast {
        name: column.name.clone(),
        key: schema.key.contains(&at),
        source_type: column.source_type.clone(),
        travels: travels(column.travel),
        target_type: outlined.kind.clone(),
        lossy,
        note,
    }
}

/// How values travel, in the words of Parquet.
fn travels(travel: Travel) -> String {
    match travel {
        Travel::Bool => "boolean".to_owned(),
        Travel::Int16 => "int16".to_owned(),
        Travel::Int32 => "int32".to_owned(),
        Travel::Int64 => "int64".to_owned(),
        Travel::Float32 => "float".to_owned(),
        Travel::Float64 => "double".to_owned(),
        Travel::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        Travel::Date => "date".to_owned(),
        Travel::Time => "time, µs".to_owned(),
        Travel::Time7 => "time, 100 ns".to_owned(),
        Travel::Timestamp => "timestamp, µs".to_owned(),
        Travel::Timestamp7 => "timestamp, 100 ns".to_owned(),
        Travel::TimestampTz => "timestamp UTC, µs".to_owned(),
        Travel::TimestampOffset => "timestamp with offset, as text".to_owned(),
        Travel::Utf8 => "string".to_owned(),
        Travel::Text => "its text".to_owned(),
        Travel::Binary => "binary".to_owned(),
        Travel::Uuid => "uuid".to_owned(),
    }
}

fn load_seconds(bytes: u64, cores: u32) -> u64 {
    bytes.div_ceil(BYTES_A_SECOND * u64::from(cores.max(1)))
}

impl Forecast {
    /// In short, for the status of a link of so many cores.
    pub fn summary(&self, time: Timestamp, cores: u32) -> PlanStatus {
        let linked = || self.tables.iter().filter(|table| table.obstacle.is_none());
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let bytes: u64 = linked().filter_map(|table| table.bytes).sum();
        let to_load: u64 = linked().filter(|table| table.there != Some(Standing::Adopted)).filter_map(|table| table.bytes).sum();
        let lossy = || linked().flat_map(|table| table.columns.iter().filter(|column| column.lossy).map(move |column| (table, column)));
        let blocked = self.tables.iter().filter_map(|table| Some((table, table.obstacle.as_ref()?)));
        PlanStatus {
            time,
            tables: count(self.tables.len()),
            not_asked: 0,
            blocked: count(self.tables.len() - linked().count()),
            rows: signed(linked().filter_map(|table| table.rows).sum()),
            bytes: signed(bytes),
            unmeasured: count(linked().filter(|table| table.bytes.is_none()).count()),
            load_seconds: signed(load_seconds(to_load, cores)),
            lossy: count(lossy().count()),
            lossy_columns: lossy()
                .take(NAMED)
                .map(|(table, column)| LossyColumn {
                    table: table.source.clone(),
                    column_name: column.name.clone(),
                    source_type: column.source_type.clone(),
                    target_type: column.target_type.clone(),
                    loss: column.note.clone().unwrap_or_default(),
                })
                .collect(),
            blocked_tables: blocked.take(NAMED).map(|(table, fault)| IneligibleTable::new(table.source.clone(), fault)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, obstacle: bool, bytes: Option<u64>, lossy: bool) -> TableForecast {
        let fault = Fault { reason: "NoPrimaryKey".into(), message: "no key".into(), remedy: "add one".into(), heals: false };
        let (source_type, target_type) = ("datetime2(7)".to_owned(), "timestamp".to_owned());
        TableForecast {
            source: TableName::new("dbo", name),
            target: TableName::new("dbo", name),
            obstacle: obstacle.then_some(fault),
            there: None,
            rows: bytes.map(|bytes| bytes / 100),
            bytes,
            load_seconds: None,
            columns: vec![ColumnForecast {
                name: "at".into(),
                key: false,
                source_type,
                travels: String::new(),
                target_type,
                lossy,
                note: Some("loses x".into()),
            }],
            statements: vec![],
        }
    }

    #[test]
    fn a_summary_counts_what_would_be_linked_and_names_the_rest() {
        let tables = vec![
            table("a", false, Some(400 << 20), true),
            table("b", false, None, false),
            // What is not linked loses nothing and takes no time.
            table("c", true, Some(1 << 40), true),
        ];
        let forecast = Forecast { tables, others: vec![], ineligible: vec![] };
        let summary = forecast.summary(Timestamp::UNIX_EPOCH, 4);
        assert_eq!((summary.tables, summary.blocked, summary.unmeasured, summary.lossy), (3, 1, 1, 1));
        assert_eq!((summary.bytes, summary.load_seconds), (400 << 20, 5));
        assert_eq!(summary.lossy_columns[0].table.table_name, "a");
        assert_eq!(summary.blocked_tables[0].message, "no key: add one");
        let mut adopted = forecast.clone();
        adopted.tables[0].meet(Some(Claim::Adopt));
        let summary = adopted.summary(Timestamp::UNIX_EPOCH, 4);
        assert_eq!((summary.bytes, summary.load_seconds), (400 << 20, 0));
        let many = Forecast { tables: (0..50_u32).map(|n| table(&n.to_string(), !n.is_multiple_of(2), None, true)).collect(), ..forecast };
        let summary = many.summary(Timestamp::UNIX_EPOCH, 1);
        assert_eq!((summary.lossy, summary.lossy_columns.len(), summary.blocked, summary.blocked_tables.len()), (25, NAMED, 25, NAMED));
    }

    #[test]
    fn what_stands_there_is_told_and_what_is_adopted_is_not_made() {
        let meet = |claim: Option<Claim>| {
            let made = TableForecast { load_seconds: Some(1), statements: vec!["CREATE".into()], ..table("a", false, Some(1), false) };
            let mut table = made;
            table.meet(claim);
            let told = serde_json::to_value(&table).unwrap();
            (told["there"].clone(), told["loadSeconds"].is_null(), table.statements.len())
        };
        assert_eq!(meet(None), (serde_json::Value::Null, false, 1));
        assert_eq!(meet(Some(Claim::Load)), (serde_json::Value::Null, false, 1));
        assert_eq!(meet(Some(Claim::Replace)), ("replaced".into(), false, 1));
        assert_eq!(meet(Some(Claim::Adopt)), ("adopted".into(), true, 0));
    }
}
