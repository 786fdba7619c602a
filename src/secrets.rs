//! Secrets as workers see them: folders of files that the kubelet keeps up to date.
//!
//! A value is read when it is needed and never kept, so a rotated Secret is in use at the next connection. Values have no
//! `Debug` and no `Display`: they cannot reach a log.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A folder that holds one folder for each mounted Secret, one file for each of its keys.
#[derive(Clone, Debug)]
pub struct Secrets {
    root: PathBuf,
}

/// A secret value.
pub struct SecretValue(String);

/// Why a secret value cannot be had. Names the Secret and the key, never the value.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// The Secret is not mounted: it does not exist, or only just came to be.
    #[error("Secret {0} does not exist")]
    SecretMissing(String),
    /// The Secret is there without the key.
    #[error("Secret {name} has no key {key}")]
    SecretKeyMissing {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The file is there and cannot be read as text.
    #[error("key {key} of Secret {name} cannot be read: {kind}")]
    SecretUnreadable {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
        /// What the system said.
        kind: io::ErrorKind,
    },
}

impl Secrets {
    /// Secrets below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Reads one key of one Secret. Trailing line breaks, which editors and `echo` add, are cut off.
    pub async fn read(&self, name: &str, key: &str) -> Result<SecretValue, Error> {
        let folder = self.root.join(name);
        match tokio::fs::read_to_string(folder.join(key)).await {
            Ok(text) => Ok(SecretValue(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let empty = is_empty(&folder).await;
                Err(if empty {
                    Error::SecretMissing(name.to_owned())
                } else {
                    Error::SecretKeyMissing { name: name.to_owned(), key: key.to_owned() }
                })
            }
            Err(error) => Err(Error::SecretUnreadable { name: name.to_owned(), key: key.to_owned(), kind: error.kind() }),
        }
    }
}

/// Whether the mount has no key. An optional mount of a missing Secret is not quite empty: the kubelet keeps its own `..data`
/// in it.
async fn is_empty(folder: &Path) -> bool {
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return true };
    while let Ok(Some(entry)) = entries.next_entry().await {
        if !entry.file_name().to_string_lossy().starts_with("..") {
            return false;
        }
    }
    true
}

impl SecretValue {
    /// The value itself, for the one place that hands it to a driver.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_what_is_missing_and_never_the_value() {
        let root = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(root.path());
        std::fs::create_dir_all(root.path().join("empty/..2026_11_21")).unwrap();
        std::fs::write(root.path().join("empty/..data"), "").unwrap();
        std::fs::create_dir(root.path().join("there")).unwrap();
        std::fs::write(root.path().join("there/password"), "s3cret\n").unwrap();

        assert_eq!(secrets.read("there", "password").await.ok().unwrap().expose(), "s3cret");
        for (name, key, reason) in
            [("absent", "password", "SecretMissing"), ("empty", "password", "SecretMissing"), ("there", "user", "SecretKeyMissing")]
        {
            let error = secrets.read(name, key).await.err().unwrap();
            assert_eq!(<&str>::from(&error), reason, "{error}");
        }
    }
}
