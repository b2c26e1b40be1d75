//! A node's view of the file system: the host's, with private places where kubelet and containerd write. Knows paths that
//! those two have built in; everything that can be configured is in [`super::config`] instead.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{Doing, NodeError};

/// Where paths are built in: kubelet's device plugins, libcni's cache, the directory of container log links. Overlays, for
/// an ordinary user may not make directories in the host's.
const PRIVATE: [&str; 2] = ["/var/lib", "/var/log"];

/// Host-wide settings that a kubelet rewrites; it gets files of its own in their place.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

const NOTHING: Option<&str> = None;

/// Lays out the calling process's mount namespace, its private files in `dir`.
pub(super) fn lay_out(dir: &Path) -> Result<(), NodeError> {
    // Kubelets want mounts of pods to propagate; nothing here propagates to the host, which the lab's own namespace cut off.
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        NOTHING,
    )
    .doing(|| "share mounts within the node".into())?;
    for path in PRIVATE {
        overlay(path, dir).doing(|| format!("lay a private overlay over {path}"))?;
    }
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .doing(|| "mount a private /run".into())?;
    for setting in SETTINGS {
        replace(setting, dir).doing(|| format!("replace the setting {setting}"))?;
    }
    Ok(())
}

/// Everything written below `path` lands in `dir`.
fn overlay(path: &str, dir: &Path) -> std::io::Result<()> {
    let own = dir.join("overlay").join(path.trim_start_matches('/'));
    let (upper, work) = (own.join("upper"), own.join("work"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    // Without `userxattr` only the real root may mount an overlay.
    let options = format!(
        "lowerdir={path},upperdir={},workdir={},userxattr",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        path,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Puts a copy of a setting's file over it.
fn replace(setting: &str, dir: &Path) -> std::io::Result<()> {
    let path = Path::new("/proc/sys").join(setting);
    let own = dir.join("settings").join(setting.replace('/', "_"));
    std::fs::create_dir_all(dir.join("settings"))?;
    std::fs::write(&own, std::fs::read(&path)?)?;
    mount(Some(&own), &path, NOTHING, MsFlags::MS_BIND, NOTHING)?;
    Ok(())
}
