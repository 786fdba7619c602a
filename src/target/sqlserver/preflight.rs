//! Whether the database is as a link needs it, and what cures it where it is not.

use crate::{
    api::fault::{Check, Explain as _},
    sqlserver::{
        Row, Session,
        quote::{identifier, literal},
    },
    target::Error,
};

/// The oldest version that works: SQL Server 2016.
const OLDEST: i64 = 13;
/// `EngineEdition` of the editions that have versions of their own: Azure's are always new, whatever they say.
const BOXED: std::ops::RangeInclusive<i64> = 1..=4;
/// `EngineEdition` of a dedicated and of a serverless SQL pool.
const POOLS: [i64; 2] = [6, 11];

/// A check that failed with this error.
pub(super) fn failed(name: &str, error: &Error) -> Check {
    Check::failed(name, error.fault())
}

/// What a connected session finds.
pub(super) async fn checks(session: &mut Session) -> Vec<Check> {
    let found = match session.query(ASK).await {
        Ok(rows) => rows.first().map(Found::of).ok_or_else(|| Error::TargetError("the target does not say what it is".to_owned())),
        Err(failure) => Err(failure.into()),
    };
    match found {
        Ok(found) => {
            let prepared = match found.judge() {
                Ok(()) => Check::passed("TargetPrepared", found.hint()),
                Err(error) => failed("TargetPrepared", &error),
            };
            vec![Check::passed("TargetReachable", format!("SQL Server {}", found.version)), prepared]
        }
        Err(error) => vec![failed("TargetReachable", &error)],
    }
}

/// Babelfish has its own version, and calls itself one of SQL Server's.
pub(super) const ASK: &str = "SELECT CONVERT(nvarchar(128), SERVERPROPERTY('ProductVersion')), CONVERT(int, SERVERPROPERTY('EngineEdition')),
    CASE WHEN SERVERPROPERTY('BabelfishVersion') IS NULL THEN 0 ELSE 1 END, CONVERT(nvarchar(128), DATABASEPROPERTYEX(DB_NAME(), 'Updateability')),
    USER_NAME(), DB_NAME(), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE SCHEMA'),
    HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE VIEW'), CASE WHEN SCHEMA_ID(N'link_operator') IS NULL THEN 0 ELSE 1 END,
    CASE WHEN HAS_PERMS_BY_NAME(N'link_operator', 'SCHEMA', 'ALTER') = 1 AND HAS_PERMS_BY_NAME(N'link_operator', 'SCHEMA', 'SELECT') = 1
          AND HAS_PERMS_BY_NAME(N'link_operator', 'SCHEMA', 'INSERT') = 1 AND HAS_PERMS_BY_NAME(N'link_operator', 'SCHEMA', 'UPDATE') = 1
          AND HAS_PERMS_BY_NAME(N'link_operator', 'SCHEMA', 'DELETE') = 1 THEN 1 ELSE 0 END,
    (SELECT CONVERT(int, [is_read_committed_snapshot_on]) FROM sys.databases WHERE [name] = DB_NAME())";

/// What the database says of itself.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question")]
struct Found {
    version: String,
    edition: i64,
    is_babelfish: bool,
    updateability: String,
    user: String,
    database: String,
    may_create_tables: bool,
    may_create_schemas: bool,
    may_create_views: bool,
    own_schema: bool,
    own_rights: bool,
    versions_rows: bool,
}

impl Found {
    fn of(row: &Row) -> Self {
        let text = |at| row.text(at).unwrap_or_default();
        Self {
            version: text(0),
            edition: row.number(1).unwrap_or_default(),
            is_babelfish: row.flag(2),
            updateability: text(3),
            user: text(4),
            database: text(5),
            may_create_tables: row.flag(6),
            may_create_schemas: row.flag(7),
            may_create_views: row.flag(8),
            own_schema: row.flag(9),
            own_rights: row.flag(10),
            versions_rows: row.flag(11),
        }
    }

    /// What is missing.
    fn judge(&self) -> Result<(), Error> {
        let (user, database) = (identifier(&self.user), identifier(&self.database));
        let not_prepared = |message: String, remedy: String| Err(Error::TargetNotPrepared { message, remedy });
        let denied = |what: &str, remedy: String| {
            Err(Error::TargetPermissionDenied {
                message: format!("user {} may not {what} in database {}", self.user, self.database),
                remedy,
            })
        };
        let major = self.version.split('.').next().and_then(|major| major.parse::<i64>().ok()).unwrap_or_default();
        if POOLS.contains(&self.edition) {
            not_prepared(
                "the target is a Synapse SQL pool".to_owned(),
                "name it in spec.target.synapse, if it is a dedicated one".to_owned(),
            )
        } else if BOXED.contains(&self.edition) && !self.is_babelfish && major < OLDEST {
            let message = format!("the target is SQL Server {}; 2016 (13.0) is the oldest that works", self.version);
            not_prepared(message, "upgrade the target, or name another one".to_owned())
        } else if self.updateability != "READ_WRITE" {
            not_prepared(
                format!("database {} is read-only: it is a secondary replica, or was set so", self.database),
                format!(
                    "name the primary, or the availability group's listener, in spec.target.sqlServer.host; or ALTER DATABASE {database} SET READ_WRITE"
                ),
            )
        } else if !self.may_create_tables {
            denied("make tables", format!("GRANT CREATE TABLE TO {user}"))
        } else if !self.own_schema && !self.may_create_schemas {
            denied("make the schema link_operator", format!("CREATE SCHEMA [link_operator] AUTHORIZATION {user}"))
        } else if self.own_schema && !self.own_rights {
            let remedy = format!("GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[link_operator] TO {user}");
            denied("use the schema link_operator", remedy)
        } else if !self.may_create_views {
            denied("make the view link_operator.link_status", format!("GRANT CREATE VIEW TO {user}"))
        } else {
            Ok(())
        }
    }

    /// What is there, and what readers would like.
    fn hint(&self) -> String {
        let rights = "rights to make and fill tables";
        if self.versions_rows {
            return rights.to_owned();
        }
        let database = identifier(&self.database);
        format!(
            "{rights}; READ_COMMITTED_SNAPSHOT is off, so readers wait while changes are applied: \
             ALTER DATABASE {database} SET READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE"
        )
    }
}

/// Asks for a schema and the rights on it.
pub(super) fn ask_schema(schema: &str) -> String {
    let quoted = literal(&identifier(schema));
    let rights =
        ["ALTER", "SELECT", "INSERT", "UPDATE", "DELETE"].map(|right| format!("HAS_PERMS_BY_NAME({quoted}, 'SCHEMA', '{right}') = 1"));
    format!("SELECT USER_NAME(), CASE WHEN {} THEN 1 ELSE 0 END FROM sys.schemas WHERE [name] = {}", rights.join(" AND "), literal(schema))
}

/// Whether the schema that a table is to stand in is there and lets the link make and fill tables in it.
pub(super) async fn check_schema(session: &mut Session, schema: &str) -> Result<(), Error> {
    let rows = session.query(&ask_schema(schema)).await?;
    let Some(row) = rows.first() else {
        return Err(Error::TargetSchemaMissing(schema.to_owned()));
    };
    if row.flag(1) {
        return Ok(());
    }
    let user = row.text(0).unwrap_or_default();
    Err(Error::TargetPermissionDenied {
        message: format!("user {user} may not make and fill tables in schema {schema} of the target"),
        remedy: format!("GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::{} TO {}", identifier(schema), identifier(&user)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let good = Found {
            version: "16.0.4135.4".into(),
            edition: 3,
            updateability: "READ_WRITE".into(),
            user: "loader".into(),
            database: "dw".into(),
            may_create_tables: true,
            may_create_schemas: true,
            may_create_views: true,
            versions_rows: true,
            ..Found::default()
        };
        assert_eq!((good.judge().is_ok(), good.hint().as_str()), (true, "rights to make and fill tables"));
        // Azure SQL Database calls itself 12.
        assert!(Found { edition: 5, version: "12.0.2000.8".into(), ..good.clone() }.judge().is_ok());
        assert!(
            Found { versions_rows: false, ..good.clone() }
                .hint()
                .ends_with("ALTER DATABASE [dw] SET READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE")
        );
        for (found, remedy) in [
            (Found { version: "12.0.6024.0".into(), ..good.clone() }, "upgrade the target, or name another one"),
            (Found { edition: 6, ..good.clone() }, "name it in spec.target.synapse, if it is a dedicated one"),
            (
                Found { updateability: "READ_ONLY".into(), ..good.clone() },
                "name the primary, or the availability group's listener, in spec.target.sqlServer.host; or ALTER DATABASE [dw] SET READ_WRITE",
            ),
            (Found { may_create_tables: false, ..good.clone() }, "GRANT CREATE TABLE TO [loader]"),
            (Found { may_create_schemas: false, ..good.clone() }, "CREATE SCHEMA [link_operator] AUTHORIZATION [loader]"),
            (
                Found { own_schema: true, ..good.clone() },
                "GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[link_operator] TO [loader]",
            ),
            (Found { may_create_views: false, ..good.clone() }, "GRANT CREATE VIEW TO [loader]"),
        ] {
            assert_eq!(found.judge().unwrap_err().remedy(), remedy);
        }
    }
}
