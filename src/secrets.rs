//! Secrets as workers see them: folders of files that the kubelet keeps up to date. ConfigMaps, which may hold certificate
//! authorities, stand beside them in the folder [`CONFIG_MAPS`].
//!
//! A value is read when it is needed and never kept, so a rotated Secret is in use at the next connection. Values have no
//! `Debug` and no `Display`: they cannot reach a log.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::api::database::CaSource;

/// The folder of the ConfigMaps among those of the Secrets: a name that no Secret can have.
pub const CONFIG_MAPS: &str = ".configmaps";

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
    /// Certificate authorities are not where the spec says.
    #[error("tls.ca: {0}")]
    AuthoritiesMissing(String),
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

impl Secrets {
    /// Reads a bundle of certificate authorities, PEM.
    pub async fn authorities(&self, ca: &CaSource) -> Result<String, Error> {
        if let Some(key) = &ca.secret_key_ref {
            return Ok(self.read(&key.name, &key.key).await?.0);
        }
        let missing = |what: String| Error::AuthoritiesMissing(what);
        let Some(key) = &ca.config_map_key_ref else { return Err(missing("it names no Secret and no ConfigMap".to_owned())) };
        let maps = Self::new(self.root.join(CONFIG_MAPS));
        maps.read(&key.name, &key.key).await.map(|value| value.0).map_err(|error| match error {
            Error::SecretMissing(name) => missing(format!("ConfigMap {name} does not exist")),
            Error::SecretKeyMissing { name, key } => missing(format!("ConfigMap {name} has no key {key}")),
            other => missing(format!("ConfigMap {}: {other}", key.name)),
        })
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

    #[tokio::test]
    async fn authorities_come_from_a_secret_or_a_config_map() {
        let root = tempfile::tempdir().unwrap();
        for (folder, text) in [("ca", "of the Secret"), (".configmaps/ca", "of the ConfigMap")] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::write(root.path().join(folder).join("ca.crt"), text).unwrap();
        }
        let secrets = Secrets::new(root.path());
        let read = async |from: serde_json::Value| {
            let read = secrets.authorities(&serde_json::from_value(from).unwrap()).await;
            read.map_err(|error| format!("{} {error}", <&str>::from(&error)))
        };
        let named = |name: &str, key: &str| serde_json::json!({"name": name, "key": key});
        assert_eq!(read(serde_json::json!({"secretKeyRef": named("ca", "ca.crt")})).await.unwrap(), "of the Secret");
        assert_eq!(read(serde_json::json!({"configMapKeyRef": named("ca", "ca.crt")})).await.unwrap(), "of the ConfigMap");
        let absent = read(serde_json::json!({"configMapKeyRef": named("absent", "ca.crt")})).await.unwrap_err();
        assert_eq!(absent, "AuthoritiesMissing tls.ca: ConfigMap absent does not exist");
        let keyless = read(serde_json::json!({"configMapKeyRef": named("ca", "tls.crt")})).await.unwrap_err();
        assert_eq!(keyless, "AuthoritiesMissing tls.ca: ConfigMap ca has no key tls.crt");
    }
}
