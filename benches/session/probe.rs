//! Looks at processes and the network of the lab from within: memory, processor time, bytes. Only reads.

use anyhow::{Context, Result};
use berth_lab::{Process, Program};

/// The kernel's unit of processor time, which has been this on every Linux for decades.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the figures depend on besides the programs.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, load before the start {load}")
}

/// Resident memory in KiB.
pub(crate) async fn resident(process: &Process) -> Result<f64> {
    Ok(process.resident_kib().await? as f64)
}

/// Processor time used so far, of the program and the kernel for it, in seconds.
pub(crate) async fn cpu(host: &Program, process: &Process) -> Result<f64> {
    let stat = read(host, &format!("/proc/{}/stat", process.pid().await?)).await?;
    // Fields 14 and 15, counted from after the name, which is in parentheses and may hold anything.
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace());
    let ticks: Option<f64> = fields.and_then(|fields| {
        let times: Vec<f64> = fields.skip(11).take(2).flat_map(str::parse).collect();
        (times.len() == 2).then(|| times.iter().sum())
    });
    Ok(ticks.context("/proc/PID/stat is not as expected")? / TICKS_PER_SECOND)
}

/// Bytes that went over the loopback device of a host so far, of every direction, with the headers of TCP and IP.
pub(crate) async fn loopback(host: &Program) -> Result<f64> {
    let devices = read(host, "/proc/net/dev").await?;
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    bytes.context("/proc/net/dev shows no loopback device")
}

async fn read(host: &Program, path: &str) -> Result<String> {
    let (code, text) = host.run_beside(vec!["cat".into(), path.into()]).await?;
    anyhow::ensure!(code == 0, "cannot read {path}: {text}");
    Ok(text)
}
