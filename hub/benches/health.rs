//! What it costs the hub to probe many nodes: CPU time of the thread that probes, for each second. Real sockets on the
//! loopback network, with a listener of its own for each node. Part of the kernel's work for the answers is in it, for
//! on the loopback the sender's thread does the receiver's part. The listeners' own thread is not counted.
//!
//! `cargo bench -p berth-hub --bench health -- [NODES] [SECONDS]`

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use berth_common::identity::TenantName;
use berth_hub::health::{Health, Policy, demand::Demand, metrics::HealthMetrics, watch::Ground};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Until the start is over.
const WARM_UP: Duration = Duration::from_secs(3);

struct Fixed(Demand);

impl Ground for Fixed {
    fn demand(&self, _: &TenantName) -> Option<Demand> {
        Some(self.0.clone())
    }

    fn changed(&self, _: &TenantName) {}
}

fn node(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 9, high, low).into()
}

async fn serve(mut stream: TcpStream) {
    let mut request = [0; 512];
    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\r\n{\"lastUpdated\": \"2026-01-01 00:00:00\",\"currentTime\": \"2026-01-01 00:00:00\"}").await;
    }
}

/// Binds one listener for each node, all on the same port, and serves them in a thread of their own.
fn nodes(count: u16) -> io::Result<u16> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (port, listeners) = runtime.block_on(async {
        let first = TcpListener::bind((node(1), 0)).await?;
        let port = first.local_addr()?.port();
        let mut listeners = vec![first];
        for n in 2..=count {
            listeners.push(TcpListener::bind((node(n), port)).await?);
        }
        io::Result::Ok((port, listeners))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let mut accepting = JoinSet::new();
            for listener in listeners {
                accepting.spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(serve(stream));
                    }
                });
            }
            while accepting.join_next().await.is_some() {}
        });
    });
    Ok(port)
}

/// What this thread has run for.
fn cpu() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let nanoseconds = first.parse().map_err(io::Error::other)?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<u16> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let count = numbers.first().copied().unwrap_or(1_000).max(1);
    let time = Duration::from_secs(numbers.get(1).copied().unwrap_or(20).into());
    let port = nodes(count)?;

    let addresses: BTreeSet<IpAddr> = (1..=count).map(node).collect();
    let policy = Policy {
        port,
        ..Policy::default()
    };
    let ground = Arc::new(Fixed(Demand {
        policy,
        addresses,
        ports: Vec::new(),
    }));
    let metrics = HealthMetrics::default();
    let health = Arc::new(Health::new(metrics.clone()));
    let tenant = TenantName::parse("acme")?;
    health.touch(&tenant);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (used, took, probes) = runtime.block_on(async {
        let stop = CancellationToken::new();
        let running = tokio::spawn(health.clone().run(ground, stop.clone()));
        tokio::time::sleep(WARM_UP).await;
        let (from, began, before) = (cpu()?, Instant::now(), metrics.total());
        tokio::time::sleep(time).await;
        let (used, took) = (cpu()? - from, began.elapsed());
        let probes = metrics.total() - before;
        stop.cancel();
        let _ = running.await;
        io::Result::Ok((used, took, probes))
    })?;
    let verdicts = health.of(&tenant);
    let (good, failing) = (verdicts.good.len(), verdicts.failing.len());
    println!(
        "{count} nodes ({good} good, {failing} failing): {:.0} probes/s, {:.1} ms CPU/s, {:.1} µs a probe",
        probes as f64 / took.as_secs_f64(),
        used.as_secs_f64() * 1e3 / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / probes.max(1) as f64,
    );
    Ok(())
}
