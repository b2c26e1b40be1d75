//! What everything in the lab stands on: the sandbox, the parts, this project's own programs, and the tasks that live as long
//! as the lab. Knows how to name and start things; must not know clusters.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::task::JoinSet;

use crate::parts::Parts;
use crate::process::Process;
use crate::sandbox::Sandbox;

/// The ground of one lab.
#[derive(Debug)]
pub(crate) struct Site {
    /// Where processes run.
    pub(crate) sandbox: Sandbox,
    /// Everybody else's programs.
    pub(crate) parts: Parts,
    /// The directory with our own.
    pub(crate) programs: PathBuf,
    tasks: Mutex<JoinSet<()>>,
}

impl Site {
    pub(crate) fn new(sandbox: Sandbox, parts: Parts, programs: PathBuf) -> Self {
        Self {
            sandbox,
            parts,
            programs,
            tasks: Mutex::default(),
        }
    }

    /// Whether nodes have networks of their own.
    pub(crate) fn has_packets(&self) -> bool {
        self.sandbox.isolation.has_packets()
    }

    /// A part's path as seen inside.
    pub(crate) fn part(&self, name: &str) -> String {
        self.sandbox.inside(&self.parts.path(name))
    }

    /// The path inside of one of our own programs.
    pub(crate) fn program(&self, name: &str) -> String {
        self.sandbox.inside(&self.programs.join(name))
    }

    /// A path in the run directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.sandbox.run_dir.path().join(relative)
    }

    /// A process, not yet started. Its first argument is the program.
    pub(crate) fn process<S: Into<String>>(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = S>,
    ) -> Process {
        let argv = argv.into_iter().map(Into::into).collect();
        let log = self.sandbox.run_dir.log(name);
        Process::new(self.sandbox.control.clone(), name, argv, log)
    }

    /// Has a task run until the lab ends.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn_on(task, &crate::runtime::handle());
    }
}

/// A path as text. The lab makes its own paths, and they are all text.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
