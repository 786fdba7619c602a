//! Whether the pool is as a link needs it, and what cures it where it is not.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    api::fault::{Check, Explain as _},
    sqlserver::{
        Row, Session,
        quote::{identifier, literal},
    },
    target::Error,
};

/// `EngineEdition` of a dedicated and of a serverless SQL pool.
const DEDICATED: i64 = 6;
const SERVERLESS: i64 = 11;
/// How long it stays true that the pool can read the landing zone: a question is a load, which others in the pool wait behind.
const READABLE: Duration = Duration::from_mins(10);

/// A check that failed with this error.
pub(super) fn failed(name: &str, error: &Error) -> Check {
    Check::failed(name, error.fault())
}

/// What a connected session finds.
pub(super) async fn checks(session: &mut Session) -> Vec<Check> {
    match ask(session).await {
        Ok(found) => {
            let prepared = match found.judge() {
                Ok(()) => Check::passed("TargetPrepared", found.hint()),
                Err(error) => failed("TargetPrepared", &error),
            };
            vec![Check::passed("TargetReachable", "Synapse SQL"), prepared]
        }
        Err(error) => vec![failed("TargetReachable", &error)],
    }
}

async fn ask(session: &mut Session) -> Result<Found, Error> {
    let rows = session.query(ASK).await?;
    let mut found = rows.first().map(Found::of).ok_or_else(|| Error::TargetError("the target does not say what it is".to_owned()))?;
    let texts = |rows: &[Row]| rows.iter().filter_map(|row| row.text(0)).collect();
    if found.edition == DEDICATED {
        found.rights = texts(&session.query(RIGHTS).await?);
        if found.own_schema {
            found.own_rights = texts(&session.query(&schema_rights("link_operator")).await?);
        }
    }
    Ok(found)
}

/// What the pool says of itself.
pub(super) const ASK: &str = "SELECT CONVERT(int, SERVERPROPERTY('EngineEdition')), USER_NAME(), DB_NAME(),
    CASE WHEN SCHEMA_ID(N'link_operator') IS NULL THEN 0 ELSE 1 END,
    (SELECT CONVERT(int, [is_read_committed_snapshot_on]) FROM sys.databases WHERE [name] = DB_NAME())";

/// The rights of the user in the pool, one a row.
pub(super) const RIGHTS: &str = "SELECT [permission_name] FROM sys.fn_my_permissions(NULL, 'DATABASE')";

/// The same in a schema.
pub(super) fn schema_rights(schema: &str) -> String {
    format!("SELECT [permission_name] FROM sys.fn_my_permissions({}, 'SCHEMA')", literal(&identifier(schema)))
}

/// Rights on a schema by which its tables can be made, filled and replaced.
const OF_SCHEMA: [&str; 5] = ["ALTER", "DELETE", "INSERT", "SELECT", "UPDATE"];

#[derive(Clone, Debug, Default)]
struct Found {
    edition: i64,
    user: String,
    database: String,
    own_schema: bool,
    versions_rows: bool,
    rights: Vec<String>,
    own_rights: Vec<String>,
}

impl Found {
    fn of(row: &Row) -> Self {
        Self {
            edition: row.number(0).unwrap_or_default(),
            user: row.text(1).unwrap_or_default(),
            database: row.text(2).unwrap_or_default(),
            own_schema: row.flag(3),
            versions_rows: row.flag(4),
            ..Self::default()
        }
    }

    /// What is missing.
    fn judge(&self) -> Result<(), Error> {
        let user = identifier(&self.user);
        let may = |right: &str| self.rights.iter().any(|held| held == right);
        let denied = |what: &str, remedy: String| {
            Err(Error::TargetPermissionDenied { message: format!("user {} may not {what} in pool {}", self.user, self.database), remedy })
        };
        if self.edition == SERVERLESS {
            return Err(Error::TargetNotPrepared {
                message: "the target is a serverless SQL pool, which holds no tables".to_owned(),
                remedy: "name the workspace's dedicated endpoint in spec.target.synapse.host (without -ondemand), and a dedicated pool in \
                         database"
                    .to_owned(),
            });
        }
        if self.edition != DEDICATED {
            return Err(Error::TargetNotPrepared {
                message: format!("the target is no dedicated SQL pool (its EngineEdition is {}, not {DEDICATED})", self.edition),
                remedy: "name it in spec.target.sqlServer, or another one here".to_owned(),
            });
        }
        if !may("CREATE TABLE") {
            denied("make tables", format!("GRANT CREATE TABLE TO {user}"))
        } else if !may("ADMINISTER DATABASE BULK OPERATIONS") {
            denied("load files", format!("GRANT ADMINISTER DATABASE BULK OPERATIONS TO {user}"))
        } else if !self.own_schema && !may("CREATE SCHEMA") {
            denied("make the schema link_operator", format!("CREATE SCHEMA [link_operator] AUTHORIZATION {user}"))
        } else if self.own_schema && !has_all(&self.own_rights) {
            denied("use the schema link_operator", grant("link_operator", &self.user))
        } else if !may("CREATE VIEW") {
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
            "{rights}; READ_COMMITTED_SNAPSHOT is off, so readers see changes before they are complete: connected to master, ALTER DATABASE \
             {database} SET READ_COMMITTED_SNAPSHOT ON"
        )
    }
}

fn has_all(rights: &[String]) -> bool {
    OF_SCHEMA.iter().all(|right| rights.iter().any(|held| held == right))
}

fn grant(schema: &str, user: &str) -> String {
    format!("GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::{} TO {}", identifier(schema), identifier(user))
}

/// Asks for a schema.
pub(super) fn ask_schema(schema: &str) -> String {
    format!("SELECT USER_NAME() FROM sys.schemas WHERE [name] = {}", literal(schema))
}

/// Whether the schema that a table is to stand in is there and lets the link make and fill tables in it.
pub(super) async fn check_schema(session: &mut Session, schema: &str) -> Result<(), Error> {
    let rows = session.query(&ask_schema(schema)).await?;
    let Some(row) = rows.first() else {
        return Err(Error::TargetSchemaMissing(schema.to_owned()));
    };
    let rights: Vec<String> = session.query(&schema_rights(schema)).await?.iter().filter_map(|row| row.text(0)).collect();
    if has_all(&rights) {
        return Ok(());
    }
    let user = row.text(0).unwrap_or_default();
    Err(Error::TargetPermissionDenied {
        message: format!("user {user} may not make and fill tables in schema {schema} of the target"),
        remedy: grant(schema, &user),
    })
}

/// Whether the pool can read the landing zone, asked in the background: a load may take longer than a check may.
#[derive(Default)]
pub(super) struct Readable(Mutex<State>);

#[derive(Default)]
struct State {
    /// When it was found, and what.
    last: Option<(Instant, Check)>,
    asking: bool,
}

impl Readable {
    /// What was found last.
    pub(super) fn last(&self) -> Option<Check> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.as_ref().map(|(_, check)| check.clone())
    }

    /// Whether it is to be asked anew. Who is told so must [`Self::answer`].
    pub(super) fn asks(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = state.last.as_ref().is_some_and(|(at, check)| check.fault.is_none() && at.elapsed() < READABLE);
        let asks = !is_fresh && !state.asking;
        state.asking |= asks;
        asks
    }

    /// Takes the answer; none if it did not come to one.
    pub(super) fn answer(&self, check: Option<Check>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.asking = false;
        if let Some(check) = check {
            state.last = Some((Instant::now(), check));
        }
    }
}

/// What the answer of a pool that was to load a file from the zone means.
pub(super) fn readable(answer: Result<(), Error>, by_identity: bool) -> Check {
    const NAME: &str = "TargetReadsZone";
    match answer {
        Ok(()) => Check::passed(NAME, "the pool loads files of the landing zone"),
        Err(Error::TargetError(message)) => {
            let remedy = if by_identity {
                "give the identity of the pool's workspace or server the right to read the container: az role assignment create --role \
                 'Storage Blob Data Contributor' --assignee-object-id <its object id> --scope <the container's resource id>; the account must \
                 have a hierarchical namespace and admit the pool through its firewall"
            } else {
                "write a token of the landing zone's container into the Secret that copyAuth.sasToken names: az storage container generate-sas \
                 --account-name <account> --name <container> --permissions rl --expiry <time>; the account's firewall must admit the pool, or \
                 use copyAuth.managedIdentity"
            };
            failed(NAME, &Error::TargetNotPrepared { message, remedy: remedy.to_owned() })
        }
        Err(error) => failed(NAME, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rights: &[&str]) -> Vec<String> {
        rights.iter().map(|right| (*right).to_owned()).collect()
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let rights = ["CREATE TABLE", "CREATE SCHEMA", "CREATE VIEW", "ADMINISTER DATABASE BULK OPERATIONS"];
        let good = Found {
            edition: 6,
            user: "loader".into(),
            database: "pool".into(),
            versions_rows: true,
            rights: all(&rights),
            ..Found::default()
        };
        assert_eq!((good.judge().is_ok(), good.hint().as_str()), (true, "rights to make and fill tables"));
        let hint = Found { versions_rows: false, ..good.clone() }.hint();
        assert!(hint.ends_with("connected to master, ALTER DATABASE [pool] SET READ_COMMITTED_SNAPSHOT ON"), "{hint}");
        let without = |right: &str| {
            let rights: Vec<&str> = rights.iter().copied().filter(|held| *held != right).collect();
            Found { rights: all(&rights), ..good.clone() }
        };
        let own = Found { own_schema: true, own_rights: all(&["ALTER", "SELECT", "INSERT", "UPDATE"]), ..good.clone() };
        for (found, remedy) in [
            (Found { edition: 3, ..good.clone() }, "name it in spec.target.sqlServer, or another one here"),
            (without("CREATE TABLE"), "GRANT CREATE TABLE TO [loader]"),
            (without("ADMINISTER DATABASE BULK OPERATIONS"), "GRANT ADMINISTER DATABASE BULK OPERATIONS TO [loader]"),
            (without("CREATE SCHEMA"), "CREATE SCHEMA [link_operator] AUTHORIZATION [loader]"),
            (own, "GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[link_operator] TO [loader]"),
            (without("CREATE VIEW"), "GRANT CREATE VIEW TO [loader]"),
        ] {
            assert_eq!(found.judge().unwrap_err().remedy(), remedy);
        }
        assert!(Found { edition: 11, ..good }.judge().unwrap_err().to_string().contains("serverless"));
    }

    #[test]
    fn the_pool_is_asked_to_read_once_in_a_while() {
        let known = Readable::default();
        assert!(known.asks());
        assert!(!known.asks(), "somebody asks already");
        known.answer(Some(readable(Err(Error::TargetError("x".into())), true)));
        assert!(known.last().unwrap().fault.unwrap().remedy.contains("Storage Blob Data Contributor"));
        assert!(known.asks(), "it may have healed");
        known.answer(Some(readable(Ok(()), false)));
        assert!(!known.asks() && known.last().unwrap().fault.is_none());
    }
}
