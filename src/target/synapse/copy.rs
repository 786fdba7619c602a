//! Rows into tables of the session's own, by load files in the landing zone and COPY INTO.
//!
//! Whether a pool takes COPY within a transaction of a user is not documented, and DDL it does not take there. So all is staged
//! before the transaction that moves the rows on, in temporary tables: they are the session's, and gone with it, so that a worker
//! which dies leaves nothing, and a next attempt meets nothing.
//!
//! A COPY statement may hold a credential: it is never logged, and what the pool says of it is cleaned before anybody sees it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array};
use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};

use super::{
    file::{self, Column, Files},
    shape::{self, StagedColumn},
};
use crate::{
    api::database::CopyAuth,
    connect::ConnectError,
    data::{Besides, TableSchema},
    failpoint::{self, Point},
    secrets::Secrets,
    sqlserver::{Class, Failure, Session, wire::Wire},
    target::{Error, LoadFile, LoadFiles, tds::kind::Kind},
};

/// What a pool's message has in place of a credential.
const HIDDEN: &str = "(hidden)";

/// Where a pool's files lie for it, and how it reads them.
pub(super) struct Loading<'a> {
    pub(super) files: &'a dyn LoadFiles,
    pub(super) auth: &'a CopyAuth,
    pub(super) secrets: &'a Secrets,
}

/// The credential of a COPY statement.
pub(super) enum Credential {
    Identity,
    Sas(String),
}

impl Loading<'_> {
    /// Read for each load, so that a rotated token is in use at once.
    async fn credential(&self) -> Result<Credential, Error> {
        let Some(token) = &self.auth.sas_token else { return Ok(Credential::Identity) };
        let value = self.secrets.read(&token.secret_key_ref.name, &token.secret_key_ref.key).await.map_err(ConnectError::from)?;
        self.files.check_reader(value.expose())?;
        Ok(Credential::Sas(value.expose().trim().trim_start_matches('?').to_owned()))
    }

    /// Has the pool load files into a table.
    async fn copy(&self, session: &mut Session, table: &str, columns: &[Column], files: &[LoadFile]) -> Result<(), Error> {
        let credential = self.credential().await?;
        let urls: Vec<&str> = files.iter().map(|file| file.url.as_str()).collect();
        let copied = failpoint::around(Point::StagingLoad, session.run(&statement(table, columns, &urls, &credential))).await;
        copied.map(|_| ()).map_err(|failure| credential.explain(&failure))
    }
}

impl Credential {
    fn words(&self) -> String {
        match self {
            Self::Identity => "IDENTITY = 'Managed Identity'".to_owned(),
            Self::Sas(token) => format!("IDENTITY = 'Shared Access Signature', SECRET = '{}'", token.replace('\'', "''")),
        }
    }

    /// What went wrong with a COPY, without the credential.
    fn explain(&self, failure: &Failure) -> Error {
        let message = self.clean(&failure.message);
        match failure.class {
            Class::ConnectionLost => Error::TargetUnreachable(message),
            Class::PermissionDenied => Error::TargetPermissionDenied {
                message,
                remedy: "as the pool's administrator: GRANT ADMINISTER DATABASE BULK OPERATIONS TO the user that spec.target logs in as"
                    .to_owned(),
            },
            Class::ValueNotSupported => Error::ValueNotSupported(message),
            _ => Error::TargetError(format!("the pool cannot load files of the landing zone: {message}")),
        }
    }

    fn clean(&self, message: &str) -> String {
        let mut clean = message.to_owned();
        if let Self::Sas(token) = self {
            clean = clean.replace(token.as_str(), HIDDEN);
            // The part of it that is secret, as it is or decoded.
            for (key, value) in url::form_urlencoded::parse(token.replace('+', "%2B").as_bytes()) {
                let encoded: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                if key == "sig" && !value.is_empty() {
                    clean = clean.replace(value.as_ref(), HIDDEN).replace(&encoded, HIDDEN);
                }
            }
        }
        let mut from = 0;
        while let Some(at) = clean[from..].find("sig=").map(|at| from + at + 4) {
            let rest = &clean[at..];
            let end = rest.find(|c: char| c == '&' || c == '\'' || c == '"' || c.is_whitespace()).unwrap_or(rest.len());
            clean.replace_range(at..at + end, HIDDEN);
            from = at + HIDDEN.len();
        }
        clean
    }
}

/// Has the pool load files, field by field. By identity it reads through the Data Lake's endpoint alone, by a token through that
/// of blobs.
pub(super) fn statement(table: &str, columns: &[Column], urls: &[&str], credential: &Credential) -> String {
    let columns: Vec<String> = columns.iter().enumerate().map(|(at, column)| format!("[{}] {}", column.name, at + 1)).collect();
    let urls = urls.iter().map(|url| {
        let url = match credential {
            Credential::Identity => url.replacen(".blob.", ".dfs.", 1),
            Credential::Sas(_) => (*url).to_owned(),
        };
        format!("'{}'", url.replace('\'', "''"))
    });
    format!(
        "COPY INTO {table} ({}) FROM {} WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = ({}))",
        columns.join(", "),
        urls.collect::<Vec<_>>().join(", "),
        credential.words()
    )
}

/// A table that rows are staged in, and what is written for it.
pub(super) struct Staging<'a> {
    loading: &'a Loading<'a>,
    table: String,
    columns: Vec<Column>,
    /// The target's table, for people.
    people: String,
    files: Vec<LoadFile>,
}

/// Columns of the table by their places in `schema`, staged as `letter` and a number, and numbers of ours.
pub(super) fn columns(schema: &TableSchema, kinds: &[Kind], letter: char, places: &[usize], numbers: &[&str]) -> Vec<Column> {
    let of = |(number, &at): (usize, &usize)| Column {
        name: format!("{letter}{number}"),
        people: schema.columns[at].name.clone(),
        travel: schema.columns[at].travel,
        wire: kinds[at].wire,
    };
    places.iter().enumerate().map(of).chain(numbers.iter().map(|name| Column::number(name))).collect()
}

/// Makes the table for such columns. Texts compare there as they do in the table: temporary tables need not be of the database's
/// collation, which stands for none that is said. One of SQL Server's own, which the pool lets nobody say, is the default of both.
pub(super) fn create(table: &str, sql: &Kinds<'_>, letter: char, places: &[usize], numbers: &[&str], hashed: Option<&str>) -> String {
    let of = |(number, &at): (usize, &usize)| {
        let kind = &sql.kinds[at];
        let is_text = matches!(kind.wire, Wire::Text(_) | Wire::TextMax);
        let database = Some(sql.collation).filter(|name| !name.is_empty() && !name.starts_with("SQL_"));
        let collation = kind.collation.as_deref().or(database).filter(|_| is_text);
        let collation = collation.map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        StagedColumn { name: format!("{letter}{number}"), spelled: format!("{}{collation}", file::staged(kind)) }
    };
    let numbers = numbers.iter().map(|name| StagedColumn { name: (*name).to_owned(), spelled: "int".to_owned() });
    let columns: Vec<StagedColumn> = places.iter().enumerate().map(of).chain(numbers).collect();
    shape::create_staged(table, &columns, hashed)
}

/// How the columns of a table stand in it, and the database's collation.
pub(super) struct Kinds<'a> {
    pub(super) kinds: &'a [Kind],
    pub(super) collation: &'a str,
}

impl<'a> Staging<'a> {
    /// For a table of the session's that is there and empty.
    pub(super) fn new(loading: &'a Loading<'a>, table: &str, columns: Vec<Column>, people: &str) -> Self {
        Self { loading, table: table.to_owned(), columns, people: people.to_owned(), files: Vec::new() }
    }

    /// Puts a file where the pool finds it.
    async fn put(&mut self, file: Option<Bytes>) -> Result<(), Error> {
        if let Some(file) = file {
            self.files.push(self.loading.files.put(file).await?);
        }
        Ok(())
    }

    /// Loads what comes; all of it is in the table when this returns, or the session is of no use any more. Returns the rows.
    pub(super) async fn load(
        &mut self,
        session: &mut Session,
        mut batches: BoxStream<'_, Result<(Vec<ArrayRef>, Besides), Error>>,
    ) -> Result<u64, Error> {
        let loaded = async {
            let (columns, people) = (self.columns.clone(), self.people.clone());
            let mut writer = Files::new(&columns, &people);
            while let Some((arrays, beside)) = batches.try_next().await? {
                let file = writer.add(&arrays, &beside)?;
                self.put(file).await?;
            }
            let file = writer.finish()?;
            self.put(file).await?;
            if !self.files.is_empty() {
                self.loading.copy(session, &self.table, &self.columns, &self.files).await?;
            }
            Ok(writer.rows)
        };
        let loaded = loaded.await;
        if !self.files.is_empty()
            && let Err(error) = self.loading.files.remove(&self.files).await
        {
            tracing::debug!(%error, "load files stay until they are swept");
        }
        loaded
    }
}

/// Asks the pool to load a file of one row, and so whether it can read the landing zone.
pub(super) async fn probe(session: &mut Session, loading: &Loading<'_>) -> Result<(), Error> {
    let table = "#link_probe";
    session.run(&shape::create_staged(table, &[StagedColumn { name: "n".to_owned(), spelled: "int".to_owned() }], None)).await?;
    let row: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let batch = stream::once(async { Ok((vec![row], Besides::new())) }).boxed();
    Staging::new(loading, table, vec![Column::number("n")], "link_probe").load(session, batch).await?;
    session.run(&format!("DROP TABLE {table}")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Travel, fixtures};

    #[test]
    fn staged_texts_compare_as_those_of_the_table() {
        let mut schema = fixtures::table("t", vec![fixtures::column(1, "c", Travel::Utf8)], &[0]);
        schema.columns[0].source_type = "nvarchar(9)".into();
        schema.system = "sqlserver".into();
        let staged = |schema: &TableSchema, collation: &str| {
            let kinds = Kinds { kinds: &shape::kinds(schema, collation), collation };
            create("#t", &kinds, 'c', &[0], &[], None).replace("CREATE TABLE #t ([c0] nvarchar(9)", "").replace(" NULL) WITH", "|")
        };
        assert_eq!(staged(&schema, "Greek_CI_AS").split('|').next(), Some(" COLLATE Greek_CI_AS"));
        assert_eq!(staged(&schema, "SQL_Latin1_General_CP1_CI_AS").split('|').next(), Some(""));
        schema.columns[0].collation = Some("Thai_BIN".into());
        assert_eq!(staged(&schema, "Greek_CI_AS").split('|').next(), Some(" COLLATE Thai_BIN"));
    }

    #[test]
    fn a_pool_reads_by_its_identity_or_by_a_token_each_by_its_endpoint() {
        let columns = [Column::number("c0"), Column::number("n")];
        let urls = ["https://a.blob.core.windows.net/c/it's/1.parquet", "https://a.blob.core.windows.net/c/2.parquet"];
        assert_eq!(
            statement("#t", &columns, &urls, &Credential::Identity),
            "COPY INTO #t ([c0] 1, [n] 2) FROM 'https://a.dfs.core.windows.net/c/it''s/1.parquet', \
             'https://a.dfs.core.windows.net/c/2.parquet' WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Managed Identity'))"
        );
        let by_token = statement("#t", &columns[..1], &urls[1..], &Credential::Sas("sv=1&sig=a%2Bb".into()));
        assert_eq!(
            by_token,
            "COPY INTO #t ([c0] 1) FROM 'https://a.blob.core.windows.net/c/2.parquet' WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = \
             (IDENTITY = 'Shared Access Signature', SECRET = 'sv=1&sig=a%2Bb'))"
        );
    }

    #[test]
    fn what_the_pool_says_of_a_credential_is_hidden() {
        let credential = Credential::Sas("sv=1&sp=rl&sig=hunter2%3D".into());
        for said in [
            "Incorrect syntax near 'sv=1&sp=rl&sig=hunter2%3D'.",
            "cannot read https://a/c/1.parquet?sv=1&sig=hunter2%3D&sp=rl",
            "cannot read https://a/c/1.parquet?sig=hunter2 and \"sig=hunter2\"",
            "near 'hunter2%3D' or 'hunter2='",
            "sig=hunter2",
        ] {
            let failure = Failure { number: 105_215, class: Class::Other, message: said.to_owned() };
            let error = credential.explain(&failure).to_string();
            assert!(!error.contains("hunter2") && error.contains(HIDDEN), "{error}");
        }
    }
}
