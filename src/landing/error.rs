//! What can go wrong with a landing zone, in the words of a condition.

use jiff::Timestamp;

use crate::{api::fault::Explain, secrets};

/// What can go wrong with a landing zone. The variant's name is the reason that users see. Never holds a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// Nobody answers, or only with a failure of the server's own.
    #[error("the landing zone does not answer: {0}")]
    ZoneUnreachable(String),
    /// The store is there, the container is not.
    #[error("container {0} does not exist")]
    ZoneContainerMissing(String),
    /// The claim's volume is not mounted.
    #[error("the landing zone's volume is not mounted at {0}")]
    ZoneNotFound(String),
    /// The credential's time is over.
    #[error("the landing zone's SAS token expired at {0}")]
    CredentialExpired(Timestamp),
    /// The credential's time has not begun.
    #[error("the landing zone's SAS token is not valid before {0}")]
    CredentialNotYetValid(Timestamp),
    /// The store does not accept the credential.
    #[error("the landing zone refuses the credential: {0}")]
    CredentialRejected(String),
    /// What the Secret holds is no SAS token.
    #[error("the landing zone's SAS token cannot be read: {0}")]
    CredentialMalformed(&'static str),
    /// The credential is good, a right is missing.
    #[error("{0}")]
    ZonePermissionDenied(String),
    /// A Secret is not there (yet).
    #[error("{0}")]
    SecretMissing(String),
    /// A Secret lacks a key.
    #[error("{0}")]
    SecretKeyMissing(String),
    /// No room left.
    #[error("the landing zone is full: {0}")]
    ZoneFull(String),
    /// The store cannot create an object only if it is absent, which all safety rests on.
    #[error("the landing zone cannot create files atomically: {0}")]
    ConditionalWritesUnsupported(String),
    /// A path that no store accepts.
    #[error("{0} is no path in a landing zone")]
    ZonePathInvalid(String),
    /// The spec names no store, or no credential for it.
    #[error("{0}")]
    ZoneNotSpecified(&'static str),
    /// An object of the log is not what was written.
    #[error("{0}")]
    ZoneCorrupt(String),
    /// Any other error that the store reports.
    #[error("the landing zone reports an error: {0}")]
    ZoneError(String),
}

impl Explain for Error {
    fn remedy(&self) -> String {
        match self {
            Self::ZoneUnreachable(_) => "check account, endpoint and network policies of the LandingZone",
            Self::ZoneContainerMissing(container) => {
                return format!("create it: az storage container create --name {container} --account-name <account>");
            }
            Self::ZoneNotFound(_) => "check that the PersistentVolumeClaim that the LandingZone names is bound",
            Self::CredentialExpired(_) => "write a new SAS token into the Secret that the LandingZone names; no restart is needed",
            Self::CredentialNotYetValid(_) => "wait, or write a SAS token with an earlier start time into the Secret",
            Self::CredentialRejected(_) => {
                "check that the Secret holds a SAS token of this account and container, signed with a key or policy that still exists, and \
                 that the account's firewall admits the cluster"
            }
            Self::CredentialMalformed(_) => "the Secret's key must hold the token alone, like sv=…&sp=racwdl&se=…&sig=…",
            Self::ZonePermissionDenied(_) => {
                "give the SAS token the rights racwdl (read, add, create, write, delete, list) or the volume to the pod's group"
            }
            Self::SecretMissing(_) | Self::SecretKeyMissing(_) => "create the Secret, or correct its name or key in the LandingZone",
            Self::ZoneFull(_) => "enlarge the volume or free space in it",
            Self::ConditionalWritesUnsupported(_) => {
                "use another store: a volume must support hard links (NFS, CephFS, local disks do; SMB does not)"
            }
            Self::ZonePathInvalid(_) => "use a folder without empty, . or .. parts",
            Self::ZoneNotSpecified(_) => "give spec.azure with auth.sasToken, or spec.persistentVolumeClaim",
            Self::ZoneCorrupt(_) => {
                "objects of the landing zone were changed or removed: start the link over by setting spec.state to Stopped, then to Running"
            }
            Self::ZoneError(_) => "read the message; the link goes on trying",
        }
        .to_owned()
    }

    fn heals(&self) -> bool {
        !matches!(self, Self::ConditionalWritesUnsupported(_) | Self::ZonePathInvalid(_) | Self::ZoneNotSpecified(_) | Self::ZoneCorrupt(_))
    }
}

impl From<secrets::Error> for Error {
    fn from(error: secrets::Error) -> Self {
        match error {
            secrets::Error::SecretMissing(_) => Self::SecretMissing(error.to_string()),
            secrets::Error::SecretKeyMissing { .. } | secrets::Error::SecretUnreadable { .. } | secrets::Error::AuthoritiesMissing(_) => {
                Self::SecretKeyMissing(error.to_string())
            }
        }
    }
}

impl Error {
    /// Whether the credential is at fault, and not the store.
    pub(super) fn is_of_credential(&self) -> bool {
        matches!(
            self,
            Self::CredentialExpired(_)
                | Self::CredentialNotYetValid(_)
                | Self::CredentialRejected(_)
                | Self::CredentialMalformed(_)
                | Self::SecretMissing(_)
                | Self::SecretKeyMissing(_)
        )
    }
}
