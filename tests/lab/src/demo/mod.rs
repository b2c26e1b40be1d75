//! `lab demo`: the main job shown to a person in four numbered steps, with the tutorial's own workload. Knows what to do and say
//! in which order; how clusters, hub and agent start is the lab's.

mod menu;
mod release;
mod workload;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Context, Result};
use crate::isolation::Isolation;
use crate::lab::{ACME, Lab};
use crate::packages;
use crate::parts::Needs;
use crate::progress::Console;

/// How the demo is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Options {
    /// Ends by itself after the last step instead of leaving the lab running.
    #[arg(long)]
    once: bool,
    /// As an ordinary user would, though this is root.
    #[arg(long)]
    rootless: bool,
}

/// Runs the demo. Ctrl-C ends it at any time, and everything it started with it.
pub(crate) async fn main(options: Options) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut lab = None;
    let mut end = tokio::select! {
        shown = show(options, &mut lab) => shown.map(|()| ExitCode::SUCCESS),
        code = told_to_stop(&mut interrupt, &mut terminate) => Ok(ExitCode::from(code)),
    };
    let Some(lab) = lab else {
        return end;
    };
    if !options.once && matches!(end, Ok(ExitCode::SUCCESS)) {
        tokio::select! {
            served = menu::serve(&lab) => end = served.map(|()| ExitCode::SUCCESS),
            // Here it is one of the ways that the menu names.
            _ = told_to_stop(&mut interrupt, &mut terminate) => println!(),
        }
    }
    let directory = lab.directory().to_owned();
    lab.stop().await?;
    println!(
        "\nThe lab has ended: no process, namespace, mount or cgroup of it is left, and {} is gone.",
        directory.display()
    );
    end
}

/// Waits for Ctrl-C or SIGTERM, and returns the exit code that shells give to such an end.
async fn told_to_stop(interrupt: &mut Signal, terminate: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

/// The four steps. The lab is left in `slot` as soon as there is one, so that whoever interrupts this can end it in order.
async fn show(options: Options, slot: &mut Option<Lab>) -> Result<()> {
    let began = Instant::now();
    println!(
        "A Service of type LoadBalancer in a tenant cluster gets its IP from the management cluster.\n"
    );

    step(1, "Two real Kubernetes clusters on one network");
    let lab = slot.insert(start(options).await?);
    println!("{}", lab.isolation().explain());

    step(
        2,
        "berth-hub in the management cluster, berth-agent in the tenant's",
    );
    let since = Instant::now();
    let hub = lab.start_hub().await?;
    println!("{}  berth-hub is ready at {}", took(since), hub.address());
    let since = Instant::now();
    let acme = lab.tenant(ACME).await?;
    println!("{}  berth-agent of {ACME} is connected", took(since));
    println!(
        "Each runs with the rights of its chart in deploy/charts, and certificates that `berth-hub cert issue` made."
    );

    step(3, "The tutorial's workload: docs/tutorial/backend.yaml");
    let ip = workload::apply(&acme).await?;
    workload::show(lab, &acme, &ip).await?;

    step(4, "The Service is deleted");
    release::delete(lab, &acme, &ip).await?;
    println!(
        "\nThat was the main job, from nothing, in {:.0} s.",
        began.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Starts the clusters, with real kubelets where this user may have them.
async fn start(options: Options) -> Result<Lab> {
    let mut builder = Lab::builder()
        .hub_later()
        .kubelets(kubelets(options))
        .progress(Console::new(
            std::io::stdout(),
            std::io::stdout().is_terminal(),
        ));
    if options.rootless {
        builder = builder.rootless();
    }
    builder.start_own().await
}

/// Whether nodes can be real kubelets. Root has what it takes installed; anyone else is not asked to for a demo.
fn kubelets(options: Options) -> bool {
    let root = nix::unistd::geteuid().is_root();
    match Isolation::detect(options.rootless && root) {
        Isolation::Root => true,
        Isolation::User { subordinate: true } => {
            let needs = Needs {
                kubelets: true,
                ..Needs::CONTROL_PLANES
            };
            let missing = packages::missing(needs);
            if !missing.is_empty() {
                println!(
                    "Nodes and pods are hand-made: real ones need {}.",
                    packages::line(&missing)
                );
            }
            missing.is_empty()
        }
        Isolation::User { subordinate: false } => {
            println!(
                "Nodes and pods are hand-made: real kubelets need newuidmap (package uidmap) and a range of this user in /etc/subuid and /etc/subgid."
            );
            false
        }
        Isolation::Loopback => false,
    }
}

fn step(number: u8, title: &str) {
    println!("\n{number}. {title}");
}

/// How long something took, in the lab's column.
fn took(since: Instant) -> String {
    format!("{:5.1} s", since.elapsed().as_secs_f32())
}

/// A duration as a person reads it.
fn human(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f32()),
    }
}

/// A command line and what it printed, as it would look in a terminal.
fn transcript(prompt: &str, command: &str, output: &str) {
    println!("\n{prompt} $ {command}\n{}", output.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_micros(85_400)), "85 ms");
        assert_eq!(human(Duration::from_millis(1_260)), "1.3 s");
    }
}
