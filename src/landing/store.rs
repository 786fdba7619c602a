//! The operations on a landing zone, whatever store it is in.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, azure::MicrosoftAzure, path::Path as ObjectPath};

use super::{
    Error,
    azure::{self, Operation, Patience},
    credentials::{SasProvider, SasToken},
    folder::Folder,
    requests::Requests,
};
use crate::{
    api::zone::{AzureZone, ZoneStore},
    secrets::Secrets,
};

/// A link's folder in a landing zone. Cheap to clone.
///
/// Paths are relative to `<folder>/<linkId>/`, parts separated by `/`.
#[derive(Clone)]
pub struct Zone {
    backend: Backend,
    /// Whether the zone is one link's folder, and not the folder of all of them.
    of_link: bool,
    requests: Requests,
}

#[derive(Clone)]
enum Backend {
    Azure(Arc<Azure>),
    Folder(Folder),
}

struct Azure {
    spec: AzureZone,
    provider: Arc<SasProvider>,
    store: MicrosoftAzure,
    /// The same store without retries, for checks.
    quick: MicrosoftAzure,
    /// Empty, or ends in `/`.
    root: String,
}

/// Who made the object that is there after a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// We did, now or in an attempt whose answer was lost.
    Ours,
    /// It was there already, with these bytes.
    Theirs(Bytes),
}

impl Zone {
    /// Opens the folder of a link, or with no link the folder that links' folders are in. `volume` is where a claim is
    /// mounted. Asks nothing of an object store yet.
    pub fn open(store: &ZoneStore, secrets: &Secrets, volume: &Path, link_id: Option<&str>) -> Result<Self, Error> {
        let backend = if let Some(spec) = &store.azure {
            let token = spec.auth.sas_token.as_ref().ok_or(Error::ZoneNotSpecified("the landing zone has no auth.sasToken"))?;
            let provider = Arc::new(SasProvider::new(secrets.clone(), token.secret_key_ref.clone()));
            let root = root(&spec.folder, link_id)?;
            Backend::Azure(Arc::new(Azure {
                store: azure::build(spec, provider.clone(), Patience::Work)?,
                quick: azure::build(spec, provider.clone(), Patience::Check)?,
                spec: spec.clone(),
                provider,
                root: if root.is_empty() { root } else { format!("{root}/") },
            }))
        } else if let Some(claim) = &store.persistent_volume_claim {
            Backend::Folder(Folder::open(volume, &root(&claim.folder, link_id)?)?)
        } else {
            return Err(Error::ZoneNotSpecified("the landing zone names no store"));
        };
        Ok(Self { backend, of_link: link_id.is_some(), requests: Requests::default() })
    }

    /// The same zone, whose requests are counted there.
    #[must_use]
    pub fn counted(self, requests: &Requests) -> Self {
        Self { requests: requests.clone(), ..self }
    }

    /// The same zone for somebody who waits for an answer: it reports a fault at once instead of trying again.
    pub(super) fn impatient(&self) -> Self {
        let backend = match &self.backend {
            Backend::Azure(azure) => Backend::Azure(Arc::new(Azure {
                spec: azure.spec.clone(),
                provider: azure.provider.clone(),
                store: azure.quick.clone(),
                quick: azure.quick.clone(),
                root: azure.root.clone(),
            })),
            Backend::Folder(folder) => Backend::Folder(folder.clone()),
        };
        Self { backend, of_link: self.of_link, requests: self.requests.clone() }
    }

    /// Writes an object, whether there is one or not. On return it is durable.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let work = async {
            let path = valid(path)?;
            match &self.backend {
                Backend::Azure(azure) => {
                    let (at, token) = (azure.at(&path)?, azure.token().await?);
                    let put = azure.store.put(&at, bytes.into()).await;
                    put.map(|_| ()).map_err(|error| azure.explain(&error, Operation::Write, &token))
                }
                Backend::Folder(folder) => blocking(folder, move |folder| folder.put(&path, &bytes)).await,
            }
        };
        self.requests.counted("put", work).await
    }

    /// Writes an object only if there is none, and says who did. On return it is durable.
    ///
    /// `bytes` must hold a token that nobody else can choose: an attempt whose answer got lost is known by it, so after an
    /// error call again with the same bytes.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, Error> {
        let work = async {
            // What to report if reading back does not settle it; none when the store says that something is there.
            let failure = match &self.backend {
                Backend::Azure(azure) => {
                    let (at, token) = (azure.at(&valid(path)?)?, azure.token().await?);
                    match azure.store.put_opts(&at, bytes.clone().into(), PutMode::Create.into()).await {
                        Ok(_) => return Ok(Created::Ours),
                        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => None,
                        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                            return Err(Error::ConditionalWritesUnsupported("the store says so".to_owned()));
                        }
                        // Even a failed request may have done its work before its answer was lost.
                        Err(error) => Some(azure.explain(&error, Operation::Create, &token)),
                    }
                }
                Backend::Folder(folder) => {
                    let (path, bytes) = (valid(path)?, bytes.clone());
                    if blocking(folder, move |folder| folder.create(&path, &bytes)).await? {
                        return Ok(Created::Ours);
                    }
                    None
                }
            };
            match (self.get(path).await, failure) {
                (Ok(Some(found)), _) if found == bytes => Ok(Created::Ours),
                (Ok(Some(found)), _) => Ok(Created::Theirs(found)),
                (_, Some(failure)) => Err(failure),
                (Err(error), None) => Err(error),
                (Ok(None), None) => Err(Error::ZoneError(format!("{path} is reported to be there and cannot be found"))),
            }
        };
        self.requests.counted("create", work).await
    }

    /// Reads an object whole; none if it is not there.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let work = async {
            let path = valid(path)?;
            match &self.backend {
                Backend::Azure(azure) => {
                    let (at, token) = (azure.at(&path)?, azure.token().await?);
                    let read = async { azure.store.get(&at).await?.bytes().await };
                    match read.await {
                        Ok(bytes) => Ok(Some(bytes)),
                        Err(error) => azure.absent(&error, &token).map(|()| None),
                    }
                }
                Backend::Folder(folder) => blocking(folder, move |folder| folder.get(&path)).await,
            }
        };
        self.requests.counted("get", work).await
    }

    /// Whether an object is there.
    pub async fn exists(&self, path: &str) -> Result<bool, Error> {
        let work = async {
            let path = valid(path)?;
            match &self.backend {
                Backend::Azure(azure) => {
                    let (at, token) = (azure.at(&path)?, azure.token().await?);
                    match azure.store.head(&at).await {
                        Ok(_) => Ok(true),
                        // The answer to HEAD has no body: only GET tells a missing object from a missing container.
                        Err(object_store::Error::NotFound { .. }) => match azure.store.get(&at).await {
                            Ok(_) => Ok(true),
                            Err(error) => azure.absent(&error, &token).map(|()| false),
                        },
                        Err(error) => Err(azure.explain(&error, Operation::Read, &token)),
                    }
                }
                Backend::Folder(folder) => blocking(folder, move |folder| folder.exists(&path)).await,
            }
        };
        self.requests.counted("head", work).await
    }

    /// The paths of all objects below `prefix`, a folder (empty: the whole zone), sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let work = async {
            let prefix = valid(prefix)?;
            match &self.backend {
                Backend::Azure(azure) => {
                    let (at, token) = (azure.at(&prefix)?, azure.token().await?);
                    let listed = azure.store.list(Some(&at)).try_collect().await;
                    let objects: Vec<_> = listed.map_err(|error| azure.explain(&error, Operation::List, &token))?;
                    let relative = |path: &str| path.strip_prefix(&azure.root).map(str::to_owned);
                    let mut paths: Vec<_> = objects.iter().filter_map(|object| relative(object.location.as_ref())).collect();
                    paths.sort_unstable();
                    Ok(paths)
                }
                Backend::Folder(folder) => blocking(folder, move |folder| folder.list(&prefix)).await,
            }
        };
        self.requests.counted("list", work).await
    }

    /// Removes objects; those that are not there are no error.
    pub async fn delete(&self, paths: &[String]) -> Result<(), Error> {
        let work = async {
            let paths = paths.iter().map(|path| valid(path)).collect::<Result<Vec<_>, _>>()?;
            match &self.backend {
                Backend::Azure(azure) => {
                    let token = azure.token().await?;
                    let objects = paths.iter().map(|path| azure.at(path)).collect::<Result<Vec<_>, _>>()?;
                    let mut deleted = azure.store.delete_stream(stream::iter(objects).map(Ok).boxed());
                    while let Some(result) = deleted.next().await {
                        match result {
                            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                            Err(error) => return Err(azure.explain(&error, Operation::Delete, &token)),
                        }
                    }
                    Ok(())
                }
                Backend::Folder(folder) => blocking(folder, move |folder| paths.iter().try_for_each(|path| folder.delete(path))).await,
            }
        };
        self.requests.counted("delete", work).await
    }

    /// Removes all objects below `prefix`, a folder; empty: the link's whole folder.
    pub async fn delete_folder(&self, prefix: &str) -> Result<(), Error> {
        let prefix = valid(prefix)?;
        if prefix.is_empty() && !self.of_link {
            // Would take every link's data with it.
            return Err(Error::ZonePathInvalid("an empty prefix outside a link's folder".to_owned()));
        }
        match &self.backend {
            Backend::Azure(_) => {
                let paths = self.list(&prefix).await?;
                self.delete(&paths).await
            }
            Backend::Folder(folder) => blocking(folder, move |folder| folder.delete_folder(&prefix)).await,
        }
    }

    /// The address of an object, for those that have a credential of their own; none of a volume's.
    pub fn url(&self, path: &str) -> Result<Option<String>, Error> {
        match &self.backend {
            Backend::Azure(azure) => {
                let at = azure.at(&valid(path)?)?;
                Ok(Some(format!("{}/{}/{at}", azure::address(&azure.spec).trim_end_matches('/'), azure.spec.container)))
            }
            Backend::Folder(_) => Ok(None),
        }
    }

    /// When the credential that the Secret holds now ends, if it has an end that can be known.
    pub async fn credential_expiry(&self) -> Option<Timestamp> {
        self.credential().await?.ok()?.expiry
    }

    /// What the credential that the Secret holds now says of itself; none if the store needs none.
    pub(super) async fn credential(&self) -> Option<Result<Arc<SasToken>, Error>> {
        match &self.backend {
            Backend::Azure(azure) => Some(azure.token().await),
            Backend::Folder(_) => None,
        }
    }
}

impl Azure {
    async fn token(&self) -> Result<Arc<SasToken>, Error> {
        Ok(self.provider.current().await?.token)
    }

    fn at(&self, path: &str) -> Result<ObjectPath, Error> {
        let full = format!("{}{path}", self.root);
        ObjectPath::parse(&full).map_err(|_| Error::ZonePathInvalid(full))
    }

    fn explain(&self, error: &object_store::Error, operation: Operation, token: &SasToken) -> Error {
        azure::explain(error, operation, &self.spec, token, Timestamp::now())
    }

    /// Nothing is there, and that is an answer, unless it is the container that is not there.
    fn absent(&self, error: &object_store::Error, token: &SasToken) -> Result<(), Error> {
        let explained = self.explain(error, Operation::Read, token);
        let object_missing = matches!(error, object_store::Error::NotFound { .. }) && !matches!(explained, Error::ZoneContainerMissing(_));
        if object_missing { Ok(()) } else { Err(explained) }
    }
}

/// A path in the zone, in the one form that every store takes: no empty, `.` or `..` parts.
fn valid(path: &str) -> Result<String, Error> {
    let parsed = ObjectPath::parse(path).map_err(|_| Error::ZonePathInvalid(path.to_owned()))?;
    Ok(parsed.into())
}

/// The folder that a zone's paths are relative to.
fn root(folder: &str, link_id: Option<&str>) -> Result<String, Error> {
    let root = valid(folder)?;
    match link_id {
        None => Ok(root),
        // A part of its own: one link's folder must never be inside another's.
        Some(link) if link.is_empty() || link.contains('/') => Err(Error::ZonePathInvalid(link.to_owned())),
        Some(link) => valid(&if root.is_empty() { link.to_owned() } else { format!("{root}/{link}") }),
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(folder: &Folder, work: impl FnOnce(&Folder) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let folder = folder.clone();
    tokio::task::spawn_blocking(move || work(&folder)).await.map_err(|error| Error::ZoneError(error.to_string()))?
}
