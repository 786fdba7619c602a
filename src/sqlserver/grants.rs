//! The rights that a link needs in a SQL Server database, and what makes them: the statements that remedies name and that
//! `link-operator sql grants` prints. Pure.
//!
//! Each statement may be run again. Whoever runs them needs more rights than the link: `db_owner`; change data capture is enabled
//! by a `sysadmin`.

use std::collections::BTreeSet;

use super::quote::{identifier, literal, table as quoted};
use crate::{api::database::CaptureMode, data::TableName};

/// Schema of what a link keeps for itself in a target.
const OWN_SCHEMA: &str = "link_operator";

/// Lets sessions read a snapshot.
pub const ALLOW_SNAPSHOT: &str = "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON;";

/// Begins Change Tracking in a database. A link may be paused for as long as changes are kept.
pub const TRACK_DATABASE: &str = "\
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_databases WHERE database_id = DB_ID())
    ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON);";

/// Begins change data capture in a database; a `sysadmin` may, or in Azure SQL a `db_owner`. SQL Server Agent must run.
pub const CAPTURE_DATABASE: &str = "\
IF NOT EXISTS (SELECT 1 FROM sys.databases WHERE database_id = DB_ID() AND is_cdc_enabled = 1)
    EXEC sys.sp_cdc_enable_db;";

/// Keeps changes for seven days instead of three: a link may be paused for as long.
pub const KEEP_CAPTURED: &str = "EXEC sys.sp_cdc_change_job @job_type = N'cleanup', @retention = 10080;";

/// Begins Change Tracking of a table.
pub fn track_table(table: &TableName) -> String {
    format!(
        "IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID({}))\n    \
         ALTER TABLE {} ENABLE CHANGE_TRACKING;",
        literal(&quoted(table)),
        quoted(table)
    )
}

/// Begins change data capture of a table, of all its columns.
pub fn capture_table(table: &TableName) -> String {
    let TableName { schema_name, table_name } = table;
    format!(
        "IF NOT EXISTS (SELECT 1 FROM sys.tables WHERE object_id = OBJECT_ID({}) AND is_tracked_by_cdc = 1)\n    \
         EXEC sys.sp_cdc_enable_table @source_schema = {}, @source_name = {}, @capture_instance = {}, @role_name = NULL;",
        literal(&quoted(table)),
        literal(schema_name),
        literal(table_name),
        literal(&format!("{schema_name}_{table_name}_1"))
    )
}

/// Lets a user read a table, and see how its computed columns are made.
pub fn read_table(table: &TableName, user: &str) -> String {
    format!("GRANT SELECT, VIEW DEFINITION ON {} TO {};", quoted(table), identifier(user))
}

/// Lets a user read the changes of a table, by Change Tracking.
pub fn read_changes(table: &TableName, user: &str) -> String {
    format!("GRANT VIEW CHANGE TRACKING ON {} TO {};", quoted(table), identifier(user))
}

/// Lets a user read what change data capture wrote.
pub fn read_captured(user: &str) -> String {
    format!("GRANT SELECT ON SCHEMA::[cdc] TO {};", identifier(user))
}

/// Lets a user see commit times, sizes and the progress of jobs.
pub fn view_state(user: &str) -> String {
    format!("GRANT VIEW DATABASE STATE TO {};", identifier(user))
}

/// Makes a schema.
pub fn create_schema(schema: &str, owner: Option<&str>) -> String {
    let owner = owner.map(|owner| format!(" AUTHORIZATION {}", identifier(owner))).unwrap_or_default();
    let create = format!("CREATE SCHEMA {}{owner}", identifier(schema));
    format!("IF SCHEMA_ID({}) IS NULL EXEC({});", literal(schema), literal(&create))
}

/// Lets a user make tables and views, in schemas that it may alter.
pub fn create_tables(user: &str) -> String {
    format!("GRANT CREATE TABLE, CREATE VIEW TO {};", identifier(user))
}

/// Lets a user make, replace and write tables of a schema.
pub fn write_schema(schema: &str, user: &str) -> String {
    format!("GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::{} TO {};", identifier(schema), identifier(user))
}

/// All that a source needs.
pub fn source(mode: CaptureMode, tables: &[TableName], user: &str) -> Vec<String> {
    let mut script = vec![ALLOW_SNAPSHOT.to_owned()];
    match mode {
        CaptureMode::ChangeTracking => {
            script.push(TRACK_DATABASE.to_owned());
            script.extend(tables.iter().map(track_table));
        }
        CaptureMode::ChangeDataCapture => {
            script.push(CAPTURE_DATABASE.to_owned());
            script.extend(tables.iter().map(capture_table));
            script.push(KEEP_CAPTURED.to_owned());
        }
    }
    script.extend(tables.iter().map(|table| read_table(table, user)));
    match mode {
        CaptureMode::ChangeTracking => script.extend(tables.iter().map(|table| read_changes(table, user))),
        CaptureMode::ChangeDataCapture => script.push(read_captured(user)),
    }
    script.push(view_state(user));
    script.push(format!("-- If columns are masked: GRANT UNMASK TO {};", identifier(user)));
    script
}

/// Lets a user load files.
pub fn load_files(user: &str) -> String {
    format!("GRANT ADMINISTER DATABASE BULK OPERATIONS TO {};", identifier(user))
}

/// All that a Synapse dedicated SQL pool needs.
pub fn pool(tables: &[TableName], database: &str, user: &str) -> Vec<String> {
    let mut script = target(tables, user);
    script.insert(2, load_files(user));
    script.push(format!(
        "-- So that readers see each batch whole, connected to master: ALTER DATABASE {} SET READ_COMMITTED_SNAPSHOT ON",
        identifier(&database.replace(['\r', '\n'], " "))
    ));
    script
}

/// All that a target needs.
pub fn target(tables: &[TableName], user: &str) -> Vec<String> {
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema_name.as_str()).collect();
    let mut script = vec![create_schema(OWN_SCHEMA, Some(user)), create_tables(user)];
    for schema in schemas {
        script.extend([create_schema(schema, None), write_schema(schema, user)]);
    }
    script.push(
        "-- If others have rights on single tables, which a table that is loaded anew is to pass on: GRANT CONTROL on its schema as well."
            .to_owned(),
    );
    script
}
