//! Files. A key is never readable by others, not even for the moment of its writing; a file is replaced whole, so
//! that a hub that reloads it never reads half of one.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::PemSet;
use crate::ca::CaError;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub(super) fn create_authority(directory: &Path, pem: &PemSet) -> Result<(), CaError> {
    make(directory)?;
    let (key, certificate) = (directory.join("ca.key"), directory.join("ca.crt"));
    let exists = || CaError::AlreadyExists {
        place: directory.display().to_string(),
    };
    if key.exists() || certificate.exists() {
        return Err(exists());
    }
    // `create_new` decides between two commands that run at once: the key is made by one of them.
    for (path, text, mode) in [
        (&key, &pem.key, PRIVATE),
        (&certificate, &pem.certificate, PUBLIC),
    ] {
        write_new(path, text, mode).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => failed("write", path)(error),
        })?;
    }
    Ok(())
}

pub(super) fn read_authority(directory: &Path) -> Result<PemSet, CaError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CaError::NotFound {
                place: directory.display().to_string(),
                missing: name.to_owned(),
            },
            _ => failed("read", &path)(error),
        })
    };
    let certificate = read("ca.crt")?;
    Ok(PemSet {
        key: read("ca.key")?,
        bundle: certificate.clone(),
        certificate,
    })
}

pub(super) fn write_certificate(
    directory: &Path,
    pem: &PemSet,
    replace: bool,
) -> Result<(), CaError> {
    make(directory)?;
    for name in ["tls.key", "tls.crt"] {
        let path = directory.join(name);
        if !replace && path.exists() {
            return Err(CaError::Occupied {
                place: path.display().to_string(),
            });
        }
    }
    // The certificate last: whoever looks for it alone finds the key in place.
    for (name, text, mode) in [
        ("tls.key", &pem.key, PRIVATE),
        ("ca.crt", &pem.bundle, PUBLIC),
        ("tls.crt", &pem.certificate, PUBLIC),
    ] {
        let path = directory.join(name);
        swap_in(&path, text, mode).map_err(failed("write", &path))?;
    }
    Ok(())
}

/// The directory with its parents; a new one is for its owner alone.
fn make(directory: &Path) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create", directory))
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes beside the file, then renames onto it.
fn swap_in(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = Path::new(&beside);
    let written = write_new(beside, text, mode).and_then(|()| fs::rename(beside, path));
    if written.is_err() {
        // What is left of a failed try must not hold a key; the failure itself is what is reported.
        let _ = fs::remove_file(beside);
    }
    written
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File {
        action,
        path,
        source,
    }
}
