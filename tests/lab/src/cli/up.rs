//! `lab up`: starts a lab in the foreground, says what it did and what can be done with it, and ends it. Knows people; must not
//! know how clusters start.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};
use crate::lab::{ACME, Lab};
use crate::{check, progress::Console};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Nodes are real kubelets with containerd, where this user may have them.
    #[arg(long)]
    kubelets: bool,
    /// As an ordinary user would, though this is root.
    #[arg(long)]
    rootless: bool,
    /// Kubernetes and MetalLB only, without hub and agent.
    #[arg(long)]
    without_berth: bool,
    /// Sends a packet from the client to a pod through MetalLB and both kube-proxies, then ends.
    #[arg(long)]
    check: bool,
}

pub(super) async fn main(options: Options) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut lab = None;
    let done = tokio::select! {
        done = run(&options, &mut lab) => done.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    };
    // A lab that is still starting ends with this process.
    if let Some(lab) = lab {
        lab.stop().await?;
    }
    done
}

/// Starts the lab and stays as long as it does. It is left in `slot` as soon as there is one.
async fn run(options: &Options, slot: &mut Option<Lab>) -> Result<()> {
    let started = Instant::now();
    let mut builder = Lab::builder()
        .kubelets(options.kubelets)
        .progress(Console::stderr());
    if options.rootless {
        builder = builder.rootless();
    }
    if options.without_berth {
        builder = builder.without_berth();
    }
    let lab = slot.insert(builder.start_own().await?);
    if !options.without_berth {
        lab.tenant(ACME).await?;
    }
    let took = started.elapsed().as_secs_f32();
    println!("The lab is up after {took:.1} s.");
    if options.check {
        println!("{}", check::packets(lab).await?);
        return Ok(());
    }
    println!("{}", menu(lab));
    lab.ended().await
}

fn menu(lab: &Lab) -> String {
    format!(
        "{}\n\
         \n  From another terminal:\n\
         \x20   lab shell                                   a shell inside: m and a are kubectl for management and acme\n\
         \x20   lab exec -- curl http://<address>:3000/     a command on the client host\n\
         \x20   lab down                                    ends it, as does Ctrl-C here\n\
         \n  Or with your own kubectl:\n\
         \x20   export KUBECONFIG={}\n\
         \x20   export KUBECONFIG={}\n\
         \n  Logs: {}",
        lab.isolation().explain(),
        lab.management().kubeconfig().display(),
        lab.acme().kubeconfig().display(),
        lab.directory().join("log").display(),
    )
}
