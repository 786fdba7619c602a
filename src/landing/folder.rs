//! A landing zone in a mounted volume.
//!
//! Own code instead of `object_store`'s local store because an object here is a commit point: it must be on the disk,
//! whole, before anybody is told. So each one is written aside, flushed, then named in one step, and the folder that names
//! it is flushed too. Create-if-absent is `link(2)`, which is atomic on every POSIX file system, NFS included.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use uuid::Uuid;

use super::Error;

/// Where objects are written before they get their name. Not listed.
const ASIDE: &str = "_tmp";
/// What lies aside for longer was left by a process that died.
const LEFT_BEHIND: Duration = Duration::from_hours(24);

/// A folder of a mounted volume. Blocking: call from a blocking thread.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// Where the volume is mounted: never created here, or files would land beside a volume that is not mounted.
    mount: PathBuf,
    /// The zone's folder below it.
    root: PathBuf,
}

impl Folder {
    pub fn open(mount: &Path, below: &str) -> Result<Self, Error> {
        if !mount.is_dir() {
            return Err(Error::ZoneNotFound(mount.display().to_string()));
        }
        let folder = Self { mount: mount.to_owned(), root: mount.join(below) };
        folder.sweep();
        Ok(folder)
    }

    /// Replaces or creates.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let aside = self.write_aside(bytes)?;
        let result = self.place(path, |to| fs::rename(&aside, to));
        if result.is_err() {
            let _ = fs::remove_file(&aside);
        }
        result.map_err(|error| self.explain(path, &error))
    }

    /// Creates; false if something is there already.
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, Error> {
        let aside = self.write_aside(bytes)?;
        let result = self.place(path, |to| fs::hard_link(&aside, to));
        let _ = fs::remove_file(&aside);
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            // The file aside could be written, so it is the link that the file system does not know.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                Err(Error::ConditionalWritesUnsupported(format!("its file system refuses hard links ({})", error.kind())))
            }
            Err(error) => Err(self.explain(path, &error)),
        }
    }

    pub fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
        match fs::read(self.root.join(path)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => self.absent(path, &error).map(|()| None),
        }
    }

    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        match fs::metadata(self.root.join(path)) {
            Ok(metadata) => Ok(metadata.is_file()),
            Err(error) => self.absent(path, &error).map(|()| false),
        }
    }

    /// All files below `prefix`, a folder, sorted, by their paths in the zone.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut files = Vec::new();
        let mut folders = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                Err(error) => {
                    self.absent(&folder, &error)?;
                    continue;
                }
            };
            for entry in entries {
                let (name, kind) = match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) {
                    Ok(entry) => entry,
                    // Removed since the folder was read.
                    Err(error) => {
                        self.absent(&folder, &error)?;
                        continue;
                    }
                };
                let name = name.to_string_lossy();
                let path = if folder.is_empty() { name.into_owned() } else { format!("{folder}/{name}") };
                if path == ASIDE {
                    continue;
                }
                if kind.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Removes; what is not there is no error.
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        match fs::remove_file(self.root.join(path)) {
            Ok(()) => Ok(()),
            Err(error) => self.absent(path, &error),
        }
    }

    /// Removes a folder with all that is in it.
    pub fn delete_folder(&self, prefix: &str) -> Result<(), Error> {
        match fs::remove_dir_all(self.root.join(prefix.trim_end_matches('/'))) {
            Ok(()) => Ok(()),
            Err(error) => self.absent(prefix, &error),
        }
    }

    fn write_aside(&self, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = format!("{ASIDE}/{}", Uuid::new_v4().simple());
        let full = self.root.join(&path);
        let write = || {
            make_folders(&self.mount, &self.root.join(ASIDE))?;
            let mut file = File::create_new(&full)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map(|()| full.clone()).map_err(|error| {
            let _ = fs::remove_file(&full);
            self.explain(&path, &error)
        })
    }

    /// Gives a file aside its name by `name`, durably.
    fn place(&self, path: &str, name: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let to = self.root.join(path);
        let parent = to.parent().unwrap_or(&self.root);
        make_folders(&self.mount, parent)?;
        name(&to)?;
        File::open(parent)?.sync_all()
    }

    /// Removes what processes that died left aside. Best effort: it only takes room.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(ASIDE)) else { return };
        for entry in entries.flatten() {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            if written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LEFT_BEHIND)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Nothing is there, and that is an answer, unless the whole volume is gone.
    fn absent(&self, path: &str, error: &io::Error) -> Result<(), Error> {
        let absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        if absent && self.mount.is_dir() { Ok(()) } else { Err(self.explain(path, error)) }
    }

    fn explain(&self, path: &str, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::ZoneFull(error.kind().to_string()),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Error::ZonePermissionDenied(format!("the volume of the landing zone refuses {path}: {}", error.kind()))
            }
            ErrorKind::StaleNetworkFileHandle | ErrorKind::TimedOut | ErrorKind::HostUnreachable => {
                Error::ZoneUnreachable(error.kind().to_string())
            }
            _ if !self.mount.is_dir() => Error::ZoneNotFound(self.mount.display().to_string()),
            _ => Error::ZoneError(format!("{path}: {error}")),
        }
    }
}

/// Like `create_dir_all`, never above `mount`, each new name durable.
fn make_folders(mount: &Path, folder: &Path) -> io::Result<()> {
    if folder == mount || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().ok_or(ErrorKind::NotFound)?;
    make_folders(mount, parent)?;
    match fs::create_dir(folder) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
