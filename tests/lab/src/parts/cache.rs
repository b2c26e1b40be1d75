//! Where built parts are kept outside the clone, and how two builders keep out of each other's way. Knows directories, links
//! and one lock; must not know how a part is made.
//!
//! ```text
//! <root>/lock                          held while anything is built
//! <root>/modules/<module>-<key>/       one directory per pin: the module's source, its binaries, the builds' logs
//! <root>/<digest of all keys>/bin/     what a run uses: hard links to the above, all parts in one place
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::progress::Progress;

/// Where the cache is: `BERTH_LAB_CACHE`, else below `XDG_CACHE_HOME`, else below the home directory.
pub(super) fn root(
    lab_cache: Option<PathBuf>,
    xdg_cache: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    lab_cache.or_else(|| {
        xdg_cache
            .or_else(|| Some(home?.join(".cache")))
            .map(|cache| cache.join("berth/lab"))
    })
}

/// Waits until no other process builds into `root`. The lock ends with the guard, or with the process however it ends.
pub(super) fn lock(root: &Path, progress: &mut dyn Progress) -> io::Result<Flock<File>> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            progress.note("another process is building the lab's parts; waiting for it");
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
        }
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Puts `from` at `to` as well, in one step: a reader sees the whole file or none. A hard link costs nothing; across file
/// systems, or where links are forbidden, it is a copy.
pub(super) fn place(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = temporary(to);
    remove_if_there(&temporary)?;
    if std::fs::hard_link(from, &temporary).is_err() {
        std::fs::copy(from, &temporary)?;
    }
    std::fs::rename(&temporary, to)?;
    // Renaming one hard link of a file onto another does nothing and leaves the first.
    remove_if_there(&temporary)
}

/// Where a file is made before it gets its name.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Silent, State, Step};
    use std::sync::mpsc::{SyncSender, sync_channel};

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(root(path("/a"), path("/b"), path("/c")), path("/a"));
        assert_eq!(root(None, path("/b"), path("/c")), path("/b/berth/lab"));
        assert_eq!(root(None, None, path("/c")), path("/c/.cache/berth/lab"));
        assert_eq!(root(None, None, None), None);
    }

    #[test]
    fn placing_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&to, "old").unwrap();
        std::fs::write(&from, "new").unwrap();
        place(&from, &to).unwrap();
        place(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// Tells when the waiting line was shown.
    struct Notes(SyncSender<String>);

    impl Progress for Notes {
        fn step(&mut self, _: &Step<'_>, _: State) {}
        fn note(&mut self, line: &str) {
            self.0.send(line.to_owned()).unwrap();
        }
    }

    #[test]
    fn a_second_builder_waits_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path(), &mut Silent).unwrap();
        let (notes, noted) = sync_channel(1);
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || lock(&path, &mut Notes(notes)).map(drop));
        assert!(noted.recv().unwrap().contains("waiting"));
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap().unwrap();
    }
}
