//! The cgroup that a node's pods live below, in version 1 (one tree per controller) and version 2 (one tree). Knows the layout
//! of the cgroup file system; removing what stays behind is the keeper's, which outlives every node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the system keeps its cgroups.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// Makes `<lab>/<node>` in every hierarchy below `root`.
pub(super) fn create(root: &Path, lab: &str, node: &str) -> io::Result<()> {
    let controllers = root.join("cgroup.controllers");
    if controllers.exists() {
        return create_unified(root, &fs::read_to_string(controllers)?, lab, node);
    }
    for hierarchy in hierarchies(root)? {
        for group in [hierarchy.join(lab), hierarchy.join(lab).join(node)] {
            fs::create_dir_all(&group)?;
            // A new cpuset is empty, and nothing can run in it.
            for list in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.join(list).exists() {
                    fs::write(group.join(list), fs::read(hierarchy.join(list))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Version 1: one directory per controller; links (`cpu` to `cpu,cpuacct`) and the unified tree beside them do not count.
fn hierarchies(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir()
            && path.join("cgroup.procs").exists()
            && !path.join("cgroup.controllers").exists()
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Version 2: a controller works in a group only if every group above passes it on.
fn create_unified(root: &Path, controllers: &str, lab: &str, node: &str) -> io::Result<()> {
    let pass_on: Vec<String> = controllers
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    let mut group = root.to_owned();
    for name in [lab, node] {
        // One by one: a controller that cannot be passed on (a real-time one, say) must not take the others with it. A
        // kubelet names what it misses.
        for controller in &pass_on {
            let _ = fs::write(group.join("cgroup.subtree_control"), controller);
        }
        group.push(name);
        fs::create_dir_all(&group)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_1_has_a_group_per_controller_and_filled_cpusets() {
        let root = tree(&[
            ("cpuset/cgroup.procs", ""),
            ("cpuset/cpuset.cpus", "0-1"),
            ("cpuset/cpuset.mems", "0"),
            ("memory/cgroup.procs", ""),
            ("unified/cgroup.procs", ""),
            ("unified/cgroup.controllers", ""),
        ]);
        create(root.path(), "lab", "a1").unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("cpuset/lab/cpuset.cpus"), "0-1");
        assert_eq!(read("cpuset/lab/a1/cpuset.mems"), "0");
        assert!(root.path().join("memory/lab/a1").is_dir());
        assert!(!root.path().join("unified/lab").exists());
    }

    #[test]
    fn version_2_passes_controllers_down_to_the_node() {
        let root = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("cgroup.subtree_control", ""),
        ]);
        create(root.path(), "lab", "a1").unwrap();
        assert!(root.path().join("lab/a1").is_dir());
        for group in ["", "lab/"] {
            let file = root.path().join(format!("{group}cgroup.subtree_control"));
            assert_eq!(fs::read_to_string(file).unwrap(), "+memory");
        }
    }
}
