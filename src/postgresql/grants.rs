//! The rights that a link needs in a PostgreSQL database, and what makes them: what `link-operator sql grants` prints. Pure.
//!
//! Each statement may be run again, by a superuser or the administrator of a managed service.

use std::collections::BTreeSet;

use super::quote::{identifier, literal, table as quoted};
use crate::data::TableName;

/// Schema of what a link keeps for itself in a target.
const OWN_SCHEMA: &str = "link_operator";

/// All that a source needs.
pub fn source(database: &str, tables: &[TableName], user: &str) -> Vec<String> {
    let (role, database) = (identifier(user), identifier(database));
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema_name.as_str()).collect();
    let mut script = vec![
        "-- SHOW wal_level must say logical, else: ALTER SYSTEM SET wal_level = 'logical'; and restart the server".to_owned(),
        format!("ALTER ROLE {role} REPLICATION; -- Amazon RDS: GRANT rds_replication TO {role}"),
        format!("GRANT CREATE ON DATABASE {database} TO {role};"),
    ];
    script.extend(schemas.iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {role};", identifier(schema))));
    script.extend(tables.iter().map(|table| format!("GRANT SELECT ON {} TO {role};", quoted(table))));
    if !tables.is_empty() {
        script.push(own_tables(tables, user));
    }
    script
}

/// Only who owns a table may publish it: the user becomes a member of the owners' roles.
fn own_tables(tables: &[TableName], user: &str) -> String {
    let names: Vec<String> = tables.iter().map(|table| format!("{}::regclass", literal(&quoted(table)))).collect();
    let user = literal(user);
    format!(
        "-- Only the owner of a table may publish it.\n\
         DO $grants$\n\
         DECLARE owner name;\n\
         BEGIN\n  \
         FOR owner IN SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid IN ({}) LOOP\n    \
         IF NOT pg_has_role({user}, owner, 'MEMBER') THEN EXECUTE format('GRANT %I TO %I', owner, {user}); END IF;\n  \
         END LOOP;\n\
         END $grants$;",
        names.join(", ")
    )
}

/// All that a target needs.
pub fn target(database: &str, tables: &[TableName], user: &str) -> Vec<String> {
    let (role, database) = (identifier(user), identifier(database));
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema_name.as_str()).collect();
    let mut script = vec![
        format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"),
        format!("CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA} AUTHORIZATION {role};"),
    ];
    for schema in schemas.into_iter().map(identifier) {
        script.push(format!("CREATE SCHEMA IF NOT EXISTS {schema};"));
        script.push(format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"));
    }
    script
}
