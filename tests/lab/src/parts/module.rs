//! The pinned Go modules that the parts come from, and the keys their builds are cached under. Text in, text out: it knows
//! go.mod files and hashing, and must not run or write anything.

use sha2::{Digest, Sha256};

/// Build tags: what containerd would otherwise need C libraries for. They are part of the Go build cache's key too, so every
/// module gets the same.
pub(super) const TAGS: &str = "no_btrfs,no_devmapper,no_zfs,no_aufs";

/// One module: its files, as they are in the repository at compile time, so that a copied `lab` binary needs no clone.
#[derive(Debug)]
pub(super) struct Module {
    /// Its directory's name here and in the cache.
    pub(super) name: &'static str,
    /// Relative path and content of every file.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// The dependency whose version is stamped into the binaries; without it Kubernetes reports v0.0.0, which helm refuses.
    stamped: Option<&'static str>,
}

macro_rules! pinned {
    ($name:literal, $stamped:expr) => {
        Module {
            name: $name,
            files: &[
                (
                    "go.mod",
                    include_str!(concat!("../../modules/", $name, "/go.mod")),
                ),
                (
                    "go.sum",
                    include_str!(concat!("../../modules/", $name, "/go.sum")),
                ),
            ],
            stamped: $stamped,
        }
    };
}

pub(super) static KUBERNETES: Module = pinned!("kubernetes", Some("k8s.io/kubernetes"));
pub(super) static METALLB: Module = pinned!("metallb", None);
pub(super) static CONTAINERD: Module = pinned!("containerd", None);
pub(super) static TOOLS: Module = pinned!("tools", None);
/// Our own small programs; they depend on nothing.
pub(super) static PROGRAMS: Module = Module {
    name: "programs",
    files: &[
        ("go.mod", include_str!("../../programs/go.mod")),
        ("echo/main.go", include_str!("../../programs/echo/main.go")),
        (
            "pause/main.go",
            include_str!("../../programs/pause/main.go"),
        ),
    ],
    stamped: None,
};

impl Module {
    /// What the linker gets: no symbol tables (a fifth of the size), and the version where one is stamped.
    pub(super) fn ldflags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        if let Some(version) = self
            .stamped
            .and_then(|path| version_of(self.go_mod(), path))
        {
            let minor = version.split('.').nth(1).unwrap_or_default();
            for (name, value) in [
                ("gitVersion", version),
                ("gitMajor", "1"),
                ("gitMinor", minor),
                ("gitTreeState", "clean"),
                ("gitCommit", "lab"),
            ] {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        flags
    }

    /// The least version of Go that builds it, as go.mod says: `1.26.6`.
    pub(super) fn needs_go(&self) -> &'static str {
        directive(self.go_mod(), "go").unwrap_or_default()
    }

    /// What its binaries are cached under: everything that decides what comes out.
    pub(super) fn key(&self, go_version: &str) -> String {
        let mut fields = vec![self.name, TAGS, go_version];
        let ldflags = self.ldflags();
        fields.push(&ldflags);
        fields.extend(self.files.iter().flat_map(|(path, text)| [*path, *text]));
        digest(&fields)
    }

    fn go_mod(&self) -> &'static str {
        self.files
            .iter()
            .find_map(|(path, text)| (*path == "go.mod").then_some(*text))
            .unwrap_or_default()
    }
}

/// A short hash over fields; each is preceded by its length, so that no two lists of fields look alike.
pub(super) fn digest(fields: &[&str]) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The version that a go.mod requires of `path`.
fn version_of<'a>(go_mod: &'a str, path: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split(' ');
        (words.next() == Some(path))
            .then(|| words.next())
            .flatten()
            .filter(|version| version.starts_with('v'))
    })
}

/// The value of a one-word directive such as `go 1.26.0`.
fn directive<'a>(go_mod: &'a str, name: &str) -> Option<&'a str> {
    go_mod
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module lab/x\n\ngo 1.26.6\n\ngodebug default=go1.26\n\nrequire (\n\texample.org/a v1.2.3 // indirect\n\texample.org/ab v9.9.9 // indirect\n)\n\nreplace example.org/c => example.org/c v0.1.0\n";

    #[test]
    fn reads_versions_and_directives() {
        assert_eq!(version_of(GO_MOD, "example.org/a"), Some("v1.2.3"));
        assert_eq!(version_of(GO_MOD, "example.org/c"), None);
        assert_eq!(
            version_of("require example.org/a v1.0.0", "example.org/a"),
            Some("v1.0.0")
        );
        assert_eq!(directive(GO_MOD, "go"), Some("1.26.6"));
    }

    #[test]
    fn kubernetes_is_stamped_with_its_own_version() {
        let flags = KUBERNETES.ldflags();
        assert!(
            flags.contains("version.gitVersion=v1.") && flags.contains("version.gitMinor="),
            "{flags}"
        );
        assert_eq!(TOOLS.ldflags(), "-s -w");
    }

    #[test]
    fn a_changed_pin_changes_only_its_own_key() {
        static CHANGED: Module = Module {
            name: "tools",
            files: &[("go.mod", "module lab/tools\n\ngo 1.26.0\n")],
            stamped: None,
        };
        assert_ne!(CHANGED.key("go1.26.8"), TOOLS.key("go1.26.8"));
        assert_ne!(TOOLS.key("go1.26.8"), TOOLS.key("go1.26.9"));
        assert_eq!(TOOLS.key("go1.26.8"), TOOLS.key("go1.26.8"));
        assert_ne!(TOOLS.key("go1.26.8"), METALLB.key("go1.26.8"));
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&[]).len(), 16);
    }

    #[test]
    fn every_module_says_which_go_it_needs() {
        for module in [&KUBERNETES, &METALLB, &CONTAINERD, &TOOLS, &PROGRAMS] {
            assert!(
                module.needs_go().starts_with("1."),
                "{} has no go line",
                module.name
            );
        }
    }
}
