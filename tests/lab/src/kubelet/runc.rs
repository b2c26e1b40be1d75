//! runc for a user who owns no cgroup: takes cgroup paths, limits and mounts out of a container's specification, then becomes
//! the real runc. Knows runc's command line and the specification's three fields; must not change anything else.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::packages;

/// Why runc could not be run in place of this.
#[derive(Debug, thiserror::Error)]
pub enum RuncError {
    /// The container's specification cannot be read or written.
    #[error("cannot change the container specification {path}")]
    Specification {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// There is no runc, or it cannot be started.
    #[error("cannot run runc")]
    Runc(#[source] io::Error),
}

/// Becomes runc; returns only on failure. `arguments` are runc's own.
pub fn main(arguments: &[OsString]) -> RuncError {
    if let Some(path) = bundle(arguments).map(|bundle| bundle.join("config.json"))
        && let Err(source) = rewrite(&path)
    {
        return RuncError::Specification { path, source };
    }
    let Some(runc) = packages::which("runc") else {
        return RuncError::Runc(io::ErrorKind::NotFound.into());
    };
    RuncError::Runc(Command::new(runc).args(arguments).exec())
}

/// The bundle's directory, when a container is about to be made.
fn bundle(arguments: &[OsString]) -> Option<PathBuf> {
    if !arguments.iter().any(|a| a == "create" || a == "run") {
        return None;
    }
    let at = arguments.iter().position(|a| a == "--bundle")?;
    arguments.get(at + 1).map(PathBuf::from)
}

fn rewrite(path: &PathBuf) -> io::Result<()> {
    let mut spec: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    without_cgroups(&mut spec);
    std::fs::write(path, serde_json::to_vec(&spec)?)
}

fn without_cgroups(spec: &mut Value) {
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("cgroupsPath");
        linux.remove("resources");
    }
    if let Some(mounts) = spec.get_mut("mounts").and_then(Value::as_array_mut) {
        mounts.retain(|mount| mount["type"] != "cgroup");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_cgroups_leave_the_specification() {
        let mut spec = json!({
            "process": { "args": ["/echo"] },
            "mounts": [{ "type": "proc" }, { "type": "cgroup" }],
            "linux": { "cgroupsPath": "/x", "resources": {}, "namespaces": [] },
        });
        without_cgroups(&mut spec);
        assert_eq!(
            spec,
            json!({
                "process": { "args": ["/echo"] },
                "mounts": [{ "type": "proc" }],
                "linux": { "namespaces": [] },
            })
        );
    }

    #[test]
    fn only_a_new_container_has_a_bundle_to_change() {
        let arguments = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            bundle(&arguments("--root /r create --bundle /b --pid-file p id")),
            Some(PathBuf::from("/b"))
        );
        assert_eq!(bundle(&arguments("--root /r kill id 9")), None);
    }
}
