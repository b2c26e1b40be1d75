//! The lab's directory: everything it writes is in here, and is gone when it ends. Knows names and owners of files; must not
//! know their content.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// How every lab's directory begins, under the system's temporary directory.
pub(crate) const PREFIX: &str = "berth-lab-";

/// The directory for run directories. `/run` would not do: the lab's inside has its own.
pub(crate) fn parent() -> PathBuf {
    let parent = std::env::temp_dir();
    if parent.starts_with("/run") {
        PathBuf::from("/tmp")
    } else {
        parent
    }
}

/// One lab's directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    path: PathBuf,
    owner: Option<u32>,
}

impl RunDir {
    /// Makes a new one, readable by its owner only. `owner` is another user than the caller, for a caller that is root.
    pub(crate) fn create(owner: Option<u32>) -> Result<Self> {
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent());
        let path = made.context("cannot make the lab's directory")?.keep();
        let run_dir = Self { path, owner };
        run_dir.own(&run_dir.path)?;
        run_dir.directory("log")?;
        Ok(run_dir)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component: unique on this machine, and so the name for whatever else the lab must name.
    pub(crate) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Makes a directory below it, with those on the way.
    pub(crate) fn directory(&self, relative: &str) -> Result<PathBuf> {
        let mut path = self.path.clone();
        for part in Path::new(relative) {
            path.push(part);
            if !path.is_dir() {
                fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
                self.own(&path)?;
            }
        }
        Ok(path)
    }

    /// Writes a file below it. Secrets need no mode of their own: nobody else can enter the directory.
    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        if let Some((directory, _)) = relative.rsplit_once('/') {
            self.directory(directory)?;
        }
        let path = self.path.join(relative);
        let doing = || format!("cannot write {}", path.display());
        fs::write(&path, content).with_context(doing)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).with_context(doing)?;
        self.own(&path)?;
        Ok(path)
    }

    /// The log file of a process.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        let file = process.replace('/', "-");
        self.path.join("log").join(file + ".log")
    }

    fn own(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.owner else {
            return Ok(());
        };
        chown(path, Some(owner), Some(owner))
            .with_context(|| format!("cannot give {} away", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_enter_where_secrets_are() {
        let run_dir = RunDir::create(None).unwrap();
        run_dir.write("acme/pki/ca.key", "secret").unwrap();
        let mode = fs::metadata(run_dir.path()).unwrap().permissions().mode();
        let read = fs::read_to_string(run_dir.path().join("acme/pki/ca.key"));
        fs::remove_dir_all(run_dir.path()).unwrap();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(read.unwrap(), "secret");
    }
}
