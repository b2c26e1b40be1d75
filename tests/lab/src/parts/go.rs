//! The Go toolchain of this machine: finding it, refusing one that is too old, and running it the same way every time. Must
//! not know what is built with it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why no usable Go was found.
#[derive(Debug, thiserror::Error)]
pub enum GoError {
    /// There is none.
    #[error(
        "building the lab's parts needs Go {needed} or newer, and there is no `go` on PATH: install Go, or set BERTH_LAB_BIN to a directory that has the parts"
    )]
    Missing {
        /// The least version that serves.
        needed: &'static str,
    },
    /// It is too old, and not allowed to fetch a newer one.
    #[error(
        "building the lab's parts needs Go {needed} or newer, and {path} is {found}: install a newer Go, set GOTOOLCHAIN=auto, or set BERTH_LAB_BIN to a directory that has the parts"
    )]
    TooOld {
        /// The least version that serves.
        needed: &'static str,
        /// Which `go` was asked.
        path: PathBuf,
        /// What it said.
        found: String,
    },
    /// It does not run.
    #[error("{path} does not run: {reason}")]
    Broken {
        /// Which `go` was asked.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// A usable toolchain.
#[derive(Debug, Clone)]
pub(super) struct Go {
    path: PathBuf,
    /// What it calls itself: `go1.26.8`.
    pub(super) version: String,
}

impl Go {
    /// Finds `go` on PATH or at its customary place, and makes sure that it can build modules that need `needed`.
    pub(super) fn find(needed: &'static str) -> Result<Self, GoError> {
        let path = crate::packages::which("go")
            .or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.exists()))
            .ok_or(GoError::Missing { needed })?;
        let said = Command::new(&path)
            .args(["env", "GOVERSION", "GOTOOLCHAIN"])
            .env("GOWORK", "off")
            .current_dir("/")
            .output()
            .map_err(|error| GoError::Broken {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        if !said.status.success() {
            return Err(GoError::Broken {
                path,
                reason: String::from_utf8_lossy(&said.stderr).trim().to_owned(),
            });
        }
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut lines = said.lines();
        let version = lines.next().unwrap_or_default().to_owned();
        let fetches = lines.next().is_some_and(|toolchain| {
            toolchain.starts_with("auto")
                || toolchain.starts_with("path")
                || toolchain.contains("+auto")
        });
        if !fetches && parse(&version) < parse(needed) {
            return Err(GoError::TooOld {
                needed,
                path,
                found: version,
            });
        }
        Ok(Self { path, version })
    }

    /// `go <arguments>` in `dir`, with every setting that changes what comes out fixed.
    pub(super) fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(dir)
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .env_remove("GOOS")
            .env_remove("GOARCH")
            .stdin(std::process::Stdio::null());
        command
    }
}

/// `go1.26.8` or `1.26` as numbers that compare.
pub(super) fn parse(version: &str) -> Vec<u32> {
    version
        .trim_start_matches("go")
        .split('.')
        .map_while(|field| {
            let digits: String = field.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse("go1.26.8") > parse("1.26.6"));
        assert!(parse("go1.9") < parse("1.26.6"));
        assert!(parse("go1.27rc1") > parse("1.26.6"));
        assert!(parse("devel") < parse("1.26.6"));
    }

    #[test]
    fn the_message_says_what_to_install() {
        let text = GoError::Missing { needed: "1.26.6" }.to_string();
        assert!(text.contains("1.26.6") && text.contains("install Go"));
    }
}
