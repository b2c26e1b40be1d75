//! The metrics of one process: a registry, what every Berth process says of itself, and how it is written out. Modules
//! register their own metrics at start, under their whole names (`berth_…`), so that a name in a dashboard is found in
//! the code.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// The content type of [`Metrics::encode`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry of one process. Register at start, then share it (`Arc`) with the admin server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry with `berth_build_info{component, version}` and the process's resident memory.
    pub fn new(component: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        // The encoder adds `_info` to the name.
        registry.register(
            "berth_build",
            "The component and version that runs here",
            Info::new([("component", component), ("version", version)]),
        );
        registry.register_collector(Box::new(Process));
        Self { registry }
    }

    /// Where modules register their metrics.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// Upper bounds in seconds for times that a person waits, from 5 ms to 60 s. Finest up to 250 ms, where Berth's own part
/// of a time to IP lies; a minute is where everybody has given up.
pub fn latency_buckets() -> impl Iterator<Item = f64> {
    [
        0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0,
    ]
    .into_iter()
}

/// What the kernel says of this process, read at each scrape.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Absent rather than zero where the kernel does not tell.
        let Some(bytes) = resident_bytes() else {
            return Ok(());
        };
        let gauge = ConstGauge::new(bytes);
        let encoder = encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory of this process",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

fn resident_bytes() -> Option<u64> {
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS:     12345 kB`, where kB has always meant 1024 bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::histogram::Histogram;

    use super::*;

    #[test]
    fn encodes_build_info_and_registered_metrics_as_openmetrics() {
        let mut metrics = Metrics::new("hub", "1.2.3");
        let histogram = Histogram::new(latency_buckets());
        metrics.registry_mut().register(
            "berth_time_to_ip_seconds",
            "From a Service's creation to its address",
            histogram.clone(),
        );
        histogram.observe(0.02);
        let text = metrics.encode().unwrap();
        for line in [
            r#"berth_build_info{component="hub",version="1.2.3"} 1"#,
            r#"berth_time_to_ip_seconds_bucket{le="0.015"} 0"#,
            r#"berth_time_to_ip_seconds_bucket{le="0.025"} 1"#,
            "# TYPE process_resident_memory_bytes gauge",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn buckets_rise_from_5_ms_to_a_minute() {
        let buckets: Vec<f64> = latency_buckets().collect();
        assert!(buckets.is_sorted());
        assert_eq!((buckets[0], *buckets.last().unwrap()), (0.005, 60.0));
    }

    #[test]
    fn reads_resident_memory() {
        assert_eq!(
            parse_resident("Name:\tx\nVmRSS:\t   2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(parse_resident("Name:\tkthreadd\n"), None);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
