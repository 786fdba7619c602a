//! Shapes of what a link makes in a pool. Pure: SQL text in, SQL text out.

use crate::{
    api::link_table::{DistributionType, StructureType, TableOptions},
    data::{TableName, TableSchema},
    sqlserver::{
        quote::{identifier, table as quoted},
        wire::Wire,
    },
    target::{
        Error, Fit, Incarnation, OutlinedColumn, TargetTable, aside,
        tds::{
            kind::{self, Kind, Types},
            outline,
        },
    },
};

/// Most bytes of a clustered index's key.
const CLUSTERED_BYTES: usize = 900;
/// Most columns of a table.
const COLUMNS: usize = 1024;

/// How the columns stand in a pool, which has none of the types that are told as text; `collation`: the database's own. A column
/// that compares as the database does says nothing of it: the pool lets a column name a Windows collation only, and its own
/// default is none.
pub(super) fn kinds(schema: &TableSchema, collation: &str) -> Vec<Kind> {
    let mut kinds = Kind::all(schema, Types::default());
    for kind in &mut kinds {
        kind.collation.take_if(|name| name == collation);
    }
    kinds
}

/// Whether a column of the kind is of a `(max)` type.
fn is_max(kind: &Kind) -> bool {
    matches!(kind.wire, Wire::TextMax | Wire::VarBinaryMax) && kind.spelled.ends_with("(max)")
}

fn structure(options: &TableOptions) -> StructureType {
    options.structure_options.as_ref().map(|options| options.kind).unwrap_or_default()
}

/// The column by whose value rows are spread, if they are.
fn hashed(options: &TableOptions) -> Option<&str> {
    let options = options.distribution_options.as_ref().filter(|options| options.kind == DistributionType::Hash)?;
    options.distribution_column.as_deref()
}

/// Why the pool cannot hold the table as its options say, if it cannot.
pub(super) fn check(schema: &TableSchema, kinds: &[Kind], options: &TableOptions) -> Result<(), Error> {
    let table = &schema.name;
    let unfit = |message: String, remedy: String| Err(Error::TargetOptionsUnfit { message, remedy });
    let again = |option: &str| format!("delete the LinkTable and create it again with {option}");
    if kinds.len() > COLUMNS {
        return unfit(
            format!("{table} has {} columns, and a table of the pool has at most {COLUMNS}", kinds.len()),
            "link fewer".to_owned(),
        );
    }
    if let Some(name) = hashed(options) {
        let Some(at) = schema.columns.iter().position(|column| column.name == name && !column.dropped) else {
            let message = format!("{table} has no column {name}, which target.distributionOptions names");
            return unfit(message, again("a distributionColumn that the table has"));
        };
        if is_max(&kinds[at]) {
            let message = format!("column {name} of {table} is {}, and no value of that type spreads rows", kinds[at].spelled);
            return unfit(message, again("another distributionColumn, or target.distributionOptions: {type: RoundRobin}"));
        }
    }
    let max: Vec<String> = schema
        .columns
        .iter()
        .zip(kinds)
        .filter(|(_, kind)| is_max(kind))
        .map(|(column, kind)| format!("{} ({})", column.name, kind.spelled))
        .collect();
    match structure(options) {
        StructureType::ClusteredColumnstoreIndex if !max.is_empty() => unfit(
            format!("a clustered columnstore index, in which {table} is to stand, cannot hold {}", max.join(", ")),
            again("target.structureOptions: {type: Heap}, or {type: ClusteredIndex}"),
        ),
        StructureType::ClusteredIndex
            if schema.key.iter().map(|&at| kinds[at].key_bytes().unwrap_or(CLUSTERED_BYTES + 1)).sum::<usize>() > CLUSTERED_BYTES =>
        {
            unfit(
                format!("the key of {table} is wider than {CLUSTERED_BYTES} bytes, the most of a clustered index"),
                again("target.structureOptions: {type: Heap}"),
            )
        }
        _ => Ok(()),
    }
}

/// Makes a table that stands as its options say. The pool would not enforce that the key is unique: nothing says that it is.
pub(super) fn create_table(name: &TableName, schema: &TableSchema, kinds: &[Kind], options: &TableOptions) -> String {
    let distribution = match (options.distribution_options.as_ref().map(|options| options.kind), hashed(options)) {
        (_, Some(column)) => format!("HASH ({})", identifier(column)),
        (Some(DistributionType::Replicate), None) => "REPLICATE".to_owned(),
        _ => "ROUND_ROBIN".to_owned(),
    };
    let structure = match structure(options) {
        StructureType::ClusteredColumnstoreIndex => "CLUSTERED COLUMNSTORE INDEX".to_owned(),
        StructureType::ClusteredIndex => format!("CLUSTERED INDEX ({})", kind::key_columns(schema).join(", ")),
        StructureType::Heap => "HEAP".to_owned(),
    };
    format!("CREATE TABLE {} ({}) WITH (DISTRIBUTION = {distribution}, {structure})", quoted(name), kind::definitions(schema, kinds))
}

/// How the columns would stand, and what becomes of their values.
pub(super) fn outline(schema: &TableSchema, kinds: &[Kind]) -> Vec<OutlinedColumn> {
    let mut columns = outline::columns(schema, kinds);
    for (column, _) in columns.iter_mut().zip(kinds).filter(|(column, kind)| column.fit == Fit::Whole && is_max(kind)) {
        column.fit = Fit::Refuses("values that are too large for memory".to_owned());
    }
    columns
}

/// A column that rows are staged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagedColumn {
    pub(super) name: String,
    /// Its type, with its collation.
    pub(super) spelled: String,
}

/// Makes a table of the session's own that rows are staged in, spread as `distribution` says.
pub(super) fn create_staged(name: &str, columns: &[StagedColumn], distribution: Option<&str>) -> String {
    let definitions: Vec<String> = columns.iter().map(|column| format!("[{}] {} NULL", column.name, column.spelled)).collect();
    let distribution = distribution.map_or_else(|| "ROUND_ROBIN".to_owned(), |column| format!("HASH ([{column}])"));
    format!("CREATE TABLE {name} ({}) WITH (DISTRIBUTION = {distribution}, HEAP)", definitions.join(", "))
}

/// The staged column by which staged rows lie where those of the table do; none if they cannot.
pub(super) fn alongside(schema: &TableSchema, kinds: &[Kind], options: &TableOptions) -> Option<usize> {
    let name = hashed(options)?;
    let at = schema.columns.iter().position(|column| column.name == name)?;
    // Values of another type lie elsewhere.
    (super::file::staged(&kinds[at]) == kinds[at].spelled && kinds[at].is_direct()).then_some(at)
}

/// Gives a table another name.
pub(super) fn rename(from: &TableName, to: &str) -> String {
    format!("RENAME OBJECT {} TO {}", quoted(from), identifier(to))
}

/// Where the table that is replaced stands until it is dropped.
pub(super) fn old_name(table: &TargetTable, incarnation: Incarnation) -> TableName {
    let build = aside::build_name(table, incarnation);
    TableName::new(build.schema_name, format!("{}_old", build.table_name))
}

/// What a table aside is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// Built for an incarnation.
    Build(Incarnation),
    /// Replaced by that of an incarnation.
    Old(Incarnation),
}

impl Aside {
    /// By its name.
    pub(super) fn of(table: &TargetTable, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(&aside::build_prefix(table))?.strip_prefix('_')?;
        let (numbers, is_old) = rest.strip_suffix("_old").map_or((rest, false), |numbers| (numbers, true));
        let (run, record) = numbers.split_once('_')?;
        let incarnation = Incarnation { run: run.parse().ok()?, record: record.parse().ok()? };
        Some(if is_old { Self::Old(incarnation) } else { Self::Build(incarnation) })
    }

    pub(super) fn incarnation(self) -> Incarnation {
        match self {
            Self::Build(incarnation) | Self::Old(incarnation) => incarnation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            fault::Explain as _,
            link_table::{DistributionOptions, StructureOptions},
        },
        data::{Column, Travel, fixtures},
    };

    fn options(distribution: DistributionType, column: Option<&str>, structure: StructureType) -> TableOptions {
        TableOptions {
            distribution_options: Some(DistributionOptions { kind: distribution, distribution_column: column.map(str::to_owned) }),
            structure_options: Some(StructureOptions { kind: structure }),
        }
    }

    fn orders() -> TableSchema {
        let text = Column { source_type: "nvarchar(20)".into(), ..fixtures::column(2, "name", Travel::Utf8) };
        let note = Column { source_type: "nvarchar(max)".into(), ..fixtures::column(3, "note", Travel::Utf8) };
        let id = Column { source_type: "int".into(), ..fixtures::column(1, "id", Travel::Int32) };
        TableSchema { system: "sqlserver".into(), ..fixtures::table("orders", vec![id, text, note], &[0]) }
    }

    #[test]
    fn a_table_stands_as_it_is_asked_to() {
        let name = TableName::new("dw", "orders");
        let made = |options: &TableOptions| {
            let schema = orders();
            create_table(&name, &schema, &kinds(&schema, "x"), options).split_once(" WITH ").unwrap().1.to_owned()
        };
        assert_eq!(made(&TableOptions::default()), "(DISTRIBUTION = ROUND_ROBIN, CLUSTERED COLUMNSTORE INDEX)");
        assert_eq!(made(&options(DistributionType::Hash, Some("id"), StructureType::Heap)), "(DISTRIBUTION = HASH ([id]), HEAP)");
        assert_eq!(
            made(&options(DistributionType::Replicate, None, StructureType::ClusteredIndex)),
            "(DISTRIBUTION = REPLICATE, CLUSTERED INDEX ([id]))"
        );
    }

    #[test]
    fn what_a_pool_cannot_hold_is_refused_with_what_to_ask_instead() {
        let refused = |schema: &TableSchema, options: &TableOptions| check(schema, &kinds(schema, "x"), options).err();
        let schema = orders();
        let error = refused(&schema, &TableOptions::default()).unwrap();
        assert_eq!(
            error.to_string(),
            "a clustered columnstore index, in which public.orders is to stand, cannot hold note (nvarchar(max))"
        );
        assert!(error.remedy().contains("target.structureOptions: {type: Heap}") && !error.heals());
        for structure in [StructureType::Heap, StructureType::ClusteredIndex] {
            assert!(refused(&schema, &options(DistributionType::RoundRobin, None, structure)).is_none());
        }
        let heap = |column| options(DistributionType::Hash, Some(column), StructureType::Heap);
        assert!(refused(&schema, &heap("name")).is_none());
        assert!(refused(&schema, &heap("note")).unwrap().to_string().contains("no value of that type spreads rows"));
        assert!(refused(&schema, &heap("Name")).unwrap().to_string().contains("has no column Name"));
        let wide = TableSchema { key: vec![1, 0], system: "postgresql".into(), ..schema.clone() };
        let clustered = options(DistributionType::RoundRobin, None, StructureType::ClusteredIndex);
        assert!(refused(&wide, &clustered).unwrap().to_string().contains("wider than 900 bytes"));
    }

    #[test]
    fn the_databases_own_collation_is_not_said() {
        let mut schema = orders();
        schema.columns[1].collation = Some("SQL_Latin1_General_CP1_CI_AS".into());
        assert_eq!(kinds(&schema, "SQL_Latin1_General_CP1_CI_AS")[1].collation, None);
        assert!(kinds(&schema, "Greek_CI_AS")[1].collation.is_some());
    }

    #[test]
    fn tables_aside_are_known_by_their_names() {
        let table = TargetTable {
            link_id: "l".into(),
            source: TableName::new("a", "b"),
            name: TableName::new("dw", "t"),
            options: TableOptions::default(),
        };
        let life = Incarnation { run: 3, record: 42 };
        assert_eq!(Aside::of(&table, &aside::build_name(&table, life).table_name), Some(Aside::Build(life)));
        assert_eq!(Aside::of(&table, &old_name(&table, life).table_name), Some(Aside::Old(life)));
        assert_eq!(Aside::of(&table, "link_0_3_42"), None);
    }
}
