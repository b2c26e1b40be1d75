//! Files. A key is never readable by others, not even for the moment of its writing; a file is replaced whole, so
//! that a hub that reloads it never reads half of one.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::PemSet;
use crate::ca::{CaError, Kept, kept};

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub(super) fn create_authority(directory: &Path, kept: &Kept) -> Result<(), CaError> {
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
        (&key, &kept.key, PRIVATE),
        (&certificate, &kept.certificate, PUBLIC),
    ] {
        write_new(path, text, mode).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => failed("write", path)(error),
        })?;
    }
    Ok(())
}

/// `ca.crt` has the authority that signs first, and then the others to trust.
pub(super) fn read_authority(directory: &Path) -> Result<Kept, CaError> {
    let place = directory.display().to_string();
    let (bundle, key) = match (read(directory, "ca.crt")?, read(directory, "ca.key")?) {
        (Some(bundle), Some(key)) => (bundle, key),
        (None, None) => {
            let missing = match directory.is_dir() {
                true => "ca.crt and ca.key are missing",
                false => "there is no such directory",
            };
            let (missing, option) = (missing.into(), format!("--dir {place}"));
            return Err(CaError::NotFound {
                place,
                missing,
                option,
            });
        }
        (bundle, _) => {
            let missing = if bundle.is_none() { "ca.crt" } else { "ca.key" };
            let missing = format!("{missing} is missing");
            return Err(CaError::Incomplete { place, missing });
        }
    };
    let kept = Kept {
        certificate: kept::first(&bundle).map_or_else(|| bundle.clone(), |it| format!("{it}\n")),
        key,
        bundle,
        next: read(directory, "next.crt")?.zip(read(directory, "next.key")?),
        previous: read(directory, "previous.crt")?,
        cross: read(directory, "cross.crt")?,
        since: read(directory, "since")?.and_then(|since| since.trim().parse().ok()),
    };
    Ok(whole(kept))
}

/// Several files are not replaced in one instant. The key is the one that decides: where it is the next authority's already, the next
/// authority signs, whatever else is still to be written or taken away.
fn whole(kept: Kept) -> Kept {
    match &kept.next {
        Some((certificate, key)) if *key == kept.key => {
            let first = kept::first(&kept.bundle);
            let behind = first != kept::first(certificate);
            match behind.then(|| kept.switched()).flatten() {
                Some(switched) => switched,
                None => Kept { next: None, ..kept },
            }
        }
        // Made known is what everybody trusts.
        Some((certificate, _)) if !kept::has(&kept.bundle, certificate) => Kept {
            next: None,
            previous: None,
            cross: None,
            since: None,
            ..kept
        },
        // Nor is what has been dropped trusted by anybody.
        _ if kept
            .previous
            .as_ref()
            .is_some_and(|it| !kept::has(&kept.bundle, it)) =>
        {
            Kept {
                previous: None,
                cross: None,
                ..kept
            }
        }
        _ => kept,
    }
}

/// In an order in which an interruption leaves one state or the other (see [`whole`]).
pub(super) fn replace_authority(
    directory: &Path,
    kept: &Kept,
    before: &Kept,
) -> Result<(), CaError> {
    if read_authority(directory)? != *before {
        return Err(CaError::Changed {
            place: directory.display().to_string(),
        });
    }
    let since = kept.since.map(|since| since.to_string());
    let next = kept.next.as_ref();
    for (name, text, mode) in [
        ("cross.crt", kept.cross.as_ref(), PUBLIC),
        ("previous.crt", kept.previous.as_ref(), PUBLIC),
        ("next.key", next.map(|(_, key)| key), PRIVATE),
        ("next.crt", next.map(|(certificate, _)| certificate), PUBLIC),
        ("since", since.as_ref(), PUBLIC),
        ("ca.key", Some(&kept.key), PRIVATE),
        ("ca.crt", Some(&kept.bundle), PUBLIC),
    ] {
        if let Some(text) = text {
            let path = directory.join(name);
            swap_in(&path, text, mode).map_err(failed("write", &path))?;
        }
    }
    for (name, there) in [
        ("previous.crt", kept.previous.is_some()),
        ("cross.crt", kept.cross.is_some()),
        ("next.crt", next.is_some()),
        ("next.key", next.is_some()),
    ] {
        let path = directory.join(name);
        if !there && path.exists() {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// None where there is no such file.
fn read(directory: &Path, name: &str) -> Result<Option<String>, CaError> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
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
