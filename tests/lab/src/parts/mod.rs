//! The real programs a lab is made of, wherever they come from: given directories first, else a cache outside the clone, where
//! missing ones are built from pinned Go modules. Gives paths and nothing else; starting them is for others.
//!
//! `BERTH_LAB_BIN` names a directory that has every part; `KUBEBUILDER_ASSETS` one that may have the API server, etcd and kubectl;
//! `BERTH_LAB_CACHE` is where built parts are kept (default `$XDG_CACHE_HOME/berth/lab`).

mod build;
mod cache;
mod catalogue;
mod go;
mod module;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use build::BuildError;
pub use catalogue::Needs;
pub use go::GoError;

use crate::progress::{Progress, Step};
use catalogue::Part;
use go::Go;
use module::{Module, digest};

/// What `KUBEBUILDER_ASSETS` may provide.
const KUBEBUILDER: [&str; 3] = ["kube-apiserver", "etcd", "kubectl"];

/// Why the parts are not all there.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The directory the user named lacks some.
    #[error("BERTH_LAB_BIN={dir} lacks {}: add them (`lab build` makes them), or unset it", missing.join(", "))]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// What is not in it.
        missing: Vec<&'static str>,
    },
    /// Neither a cache directory is named nor a home directory known.
    #[error(
        "there is no place for the lab's parts: set BERTH_LAB_CACHE to a directory (about 2 GB)"
    )]
    NoCache,
    /// The cache cannot be written.
    #[error(
        "the lab's cache at {path} cannot be used: set BERTH_LAB_CACHE to a directory that can be written"
    )]
    Cache {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No usable Go.
    #[error(transparent)]
    Go(#[from] GoError),
    /// One part could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// What the environment says about parts; a value, so that tests need not change the process's own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `BERTH_LAB_BIN`: all parts, ready made.
    pub bin: Option<PathBuf>,
    /// `KUBEBUILDER_ASSETS`: perhaps some of them.
    pub assets: Option<PathBuf>,
    /// Where built ones are kept.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// As this process's environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            bin: path("BERTH_LAB_BIN"),
            assets: path("KUBEBUILDER_ASSETS"),
            cache: cache::root(
                path("BERTH_LAB_CACHE"),
                path("XDG_CACHE_HOME"),
                path("HOME"),
            ),
        }
    }
}

/// Every part a run needs, in one directory.
#[derive(Debug, Clone)]
pub struct Parts {
    bin: PathBuf,
}

impl Parts {
    /// Finds the parts that `needs` asks for, and builds what is missing: about 9 minutes when nothing is there, instantly
    /// when everything is. Blocks; two processes asking at once build once.
    pub fn locate_or_build(needs: Needs, progress: &mut dyn Progress) -> Result<Self, PartsError> {
        Self::locate_or_build_at(&Places::from_env(), needs, progress)
    }

    /// The same, with the environment given.
    pub fn locate_or_build_at(
        places: &Places,
        needs: Needs,
        progress: &mut dyn Progress,
    ) -> Result<Self, PartsError> {
        let wanted = catalogue::wanted(needs);
        let Some(dir) = &places.bin else {
            let root = places.cache.as_deref().ok_or(PartsError::NoCache)?;
            let bin = built(root, places.assets.as_deref(), &wanted, progress)?;
            return Ok(Self { bin });
        };
        let missing = missing(dir, &wanted);
        if missing.is_empty() {
            return Ok(Self { bin: dir.clone() });
        }
        Err(PartsError::Incomplete {
            dir: dir.clone(),
            missing: missing.iter().map(|part| part.name).collect(),
        })
    }

    /// A part by name: `kube-apiserver`, `metallb-speaker`, `grpcurl` …
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The directory that has them all, for a PATH or for `BERTH_LAB_BIN`.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// MetalLB's own manifest, with its CRDs and RBAC.
    #[must_use]
    pub fn metallb_manifests(&self) -> PathBuf {
        self.path(catalogue::METALLB_MANIFEST)
    }

    /// The archive of the image `lab.local/<name>:1`: `echo` or `pause`.
    #[must_use]
    pub fn image(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.tar"))
    }
}

fn missing(dir: &Path, wanted: &[&'static Part]) -> Vec<&'static Part> {
    wanted
        .iter()
        .copied()
        .filter(|part| !dir.join(part.name).is_file())
        .collect()
}

/// Shows in `bin` what a `KUBEBUILDER_ASSETS` directory has.
fn link_assets(assets: &Path, bin: &Path) -> io::Result<()> {
    for name in KUBEBUILDER {
        let (from, to) = (assets.join(name), bin.join(name));
        if from.is_file() && std::fs::read_link(&to).ok().as_ref() != Some(&from) {
            let temporary = cache::temporary(&to);
            std::os::unix::fs::symlink(&from, &temporary)?;
            std::fs::rename(&temporary, &to)?;
        }
    }
    Ok(())
}

/// The cache's directory for today's pins and toolchain, with `wanted` in it. Runs with `assets` have one of their own.
fn built(
    root: &Path,
    assets: Option<&Path>,
    wanted: &[&'static Part],
    progress: &mut dyn Progress,
) -> Result<PathBuf, PartsError> {
    let go = Go::find(newest_go(wanted))?;
    let bin = root.join(bin_key(&go.version, assets)).join("bin");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| PartsError::Cache { path, source }
    };
    std::fs::create_dir_all(&bin).map_err(at(&bin))?;
    if let Some(assets) = assets {
        link_assets(assets, &bin).map_err(at(&bin))?;
    }
    if missing(&bin, wanted).is_empty() {
        return Ok(bin);
    }
    let _lock = cache::lock(root, progress).map_err(at(root))?;
    // Again: the process we waited for may have built them.
    let missing = missing(&bin, wanted);
    for (index, part) in missing.iter().copied().enumerate() {
        let step = Step {
            number: index + 1,
            total: missing.len(),
            name: part.name,
            doing: "building",
            usual: part.usual(),
        };
        let dir = root.join("modules").join(format!(
            "{}-{}",
            part.module.name,
            part.module.key(&go.version)
        ));
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let path = build::make(&go, part, &dir, &bin, &step, progress)?;
        cache::place(&path, &bin.join(part.name)).map_err(at(&bin))?;
    }
    Ok(bin)
}

/// The newest Go that any of these parts asks for.
fn newest_go(wanted: &[&'static Part]) -> &'static str {
    wanted
        .iter()
        .map(|part| part.module.needs_go())
        .max_by_key(|version| go::parse(version))
        .unwrap_or_default()
}

/// One key over all modules, needed or not: the directory is the same whatever a run asks for.
fn bin_key(go_version: &str, assets: Option<&Path>) -> String {
    let modules: BTreeMap<&str, &Module> = catalogue::CATALOGUE
        .iter()
        .map(|part| (part.module.name, part.module))
        .collect();
    let mut keys: Vec<String> = modules.values().map(|m| m.key(go_version)).collect();
    keys.extend(assets.map(|dir| dir.display().to_string()));
    digest(&keys.iter().map(String::as_str).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn dir_with(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    #[test]
    fn an_incomplete_directory_is_refused_by_name() {
        let dir = dir_with(&["kube-apiserver", "etcd", "kubectl"]);
        let places = Places {
            bin: Some(dir.path().to_owned()),
            ..Places::default()
        };
        let error = Parts::locate_or_build_at(&places, Needs::CONTROL_PLANES, &mut Silent)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("lacks kube-controller-manager, kube-scheduler:"),
            "{error}"
        );
    }

    #[test]
    fn a_complete_directory_needs_neither_go_nor_cache() {
        let all: Vec<_> = catalogue::CATALOGUE.iter().map(|part| part.name).collect();
        let dir = dir_with(&all);
        let places = Places {
            bin: Some(dir.path().to_owned()),
            ..Places::default()
        };
        let parts = Parts::locate_or_build_at(&places, Needs::ALL, &mut Silent).unwrap();
        assert_eq!(parts.path("etcd"), dir.path().join("etcd"));
        assert_eq!(parts.image("echo"), dir.path().join("echo.tar"));
        assert!(parts.metallb_manifests().is_file());
    }

    #[test]
    fn assets_serve_what_they_have() {
        let assets = dir_with(&["etcd", "kubectl", "kube-scheduler"]);
        let bin = tempfile::tempdir().unwrap();
        link_assets(assets.path(), bin.path()).unwrap();
        link_assets(assets.path(), bin.path()).unwrap();
        assert_eq!(
            std::fs::read_link(bin.path().join("etcd")).unwrap(),
            assets.path().join("etcd")
        );
        assert!(!bin.path().join("kube-scheduler").exists());
        assert_eq!(std::fs::read_dir(bin.path()).unwrap().count(), 2);
    }

    #[test]
    fn runs_with_assets_do_not_disturb_runs_without() {
        let plain = bin_key("go1.26.8", None);
        assert_ne!(plain, bin_key("go1.26.8", Some(Path::new("/assets"))));
        assert_eq!(plain, bin_key("go1.26.8", None));
    }

    #[test]
    fn without_a_home_the_error_says_what_to_set() {
        let error =
            Parts::locate_or_build_at(&Places::default(), Needs::CONTROL_PLANES, &mut Silent)
                .unwrap_err();
        assert!(error.to_string().contains("BERTH_LAB_CACHE"));
    }
}
