//! The command line of `lab`: what a person calls, and the hidden programs that the lab runs inside itself. Knows how to read
//! arguments and to report errors; the work is done elsewhere.

mod enter;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Context, Error, Result};
use crate::parts::{Needs, Parts};
use crate::progress::Console;
use crate::{demo, init, keeper, kubelet, packages, runtime};

/// Real Kubernetes clusters on this machine, without Docker and without root.
///
/// `lab up` starts a management cluster with MetalLB, a tenant cluster `acme`, the hub, acme's agent and a client host on one
/// network, all inside namespaces of their own. Ctrl-C, or the end of that process for any other reason, ends everything.
/// Meanwhile `lab shell` and `lab exec` enter it from another terminal.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a lab and keeps it until Ctrl-C.
    Up(up::Options),
    /// Shows the main job from beginning to end: a tenant's Service gets its IP, and packets arrive.
    Demo(demo::Options),
    /// Opens a shell inside a running lab, with kubectl for both clusters.
    Shell {
        /// Which lab, when there are several: the name of its directory.
        #[arg(long)]
        lab: Option<String>,
    },
    /// Runs a command on a host of a running lab: `lab exec -- curl http://10.10.255.200:3000/`.
    Exec {
        /// Which lab, when there are several: the name of its directory.
        #[arg(long)]
        lab: Option<String>,
        /// The host: client, m1, m2, a1 or a2.
        #[arg(long, default_value = "client")]
        on: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Ends a running lab, and removes what killed ones have left.
    Down {
        /// Which lab, when there are several: the name of its directory.
        #[arg(long, conflicts_with = "all")]
        lab: Option<String>,
        /// Every lab of this user.
        #[arg(long)]
        all: bool,
    },
    /// Builds the parts a lab is made of, or finds them in the cache (about 9 minutes the first time).
    Build,
    /// Installs the programs of the system that a lab calls, or names them.
    Packages,
    /// Outlives the lab's inside and tidies up.
    #[command(hide = true)]
    Keeper {
        run_dir: PathBuf,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Shows directories under other paths, then becomes a command.
    #[command(hide = true)]
    Stage {
        #[arg(long, num_args = 2)]
        bind: Vec<PathBuf>,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// The lab's inside.
    #[command(hide = true)]
    Init {
        #[arg(long)]
        sandbox: bool,
        run_dir: PathBuf,
    },
    /// One node as a real kubelet.
    #[command(hide = true)]
    Node { spec: PathBuf },
    /// runc without cgroups.
    #[command(hide = true, disable_help_flag = true)]
    Runc {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write;
            // Whoever would read it may be gone.
            let _ = writeln!(std::io::stderr(), "lab: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => block_on(up::main(options)),
        Command::Demo(options) => block_on(demo::main(options)),
        Command::Shell { lab } => block_on(enter::shell(lab)),
        Command::Exec { lab, on, command } => block_on(enter::exec(lab, on, command)),
        Command::Down { lab, all } => block_on(enter::down(lab, all)),
        Command::Build => {
            let parts = Parts::locate_or_build(Needs::ALL, &mut Console::stderr());
            let parts = parts.context("the lab's parts cannot be built")?;
            println!("{}", parts.bin().display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Packages => packages::ensure(Needs::ALL, &mut Console::stderr())
            .context("the lab needs programs of the system")
            .map(|()| ExitCode::SUCCESS),
        Command::Keeper { run_dir, command } => {
            let status = keeper::main(&run_dir, &command)?;
            Ok(ExitCode::from(if status.success() { 0 } else { 1 }))
        }
        Command::Stage { bind, command } => {
            let binds: Vec<_> = bind
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect();
            keeper::stage(&binds, &command).map(|()| ExitCode::SUCCESS)
        }
        Command::Init { sandbox, run_dir } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("the system gives no event queue")?;
            runtime.block_on(init::main(&run_dir, sandbox))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Node { spec } => match kubelet::main(&spec) {
            Err(error) => Err(error).context("the node has ended"),
        },
        Command::Runc { arguments } => {
            Err(kubelet::runc::main(&arguments)).context("a container cannot be run")
        }
    }
}

/// Runs a command of the lab's runtime on this thread.
fn block_on(task: impl Future<Output = Result<ExitCode>> + Send + 'static) -> Result<ExitCode> {
    runtime::handle().block_on(async move { runtime::on(task).await })
}

/// An error without a cause.
fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Start(why.into()))
}
