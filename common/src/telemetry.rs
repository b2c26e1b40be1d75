//! What a person sees of a running process: log lines and metrics. It knows how they are written and nothing of what
//! they say; every log line is one line, whatever a tenant put into its names.

mod escape;
mod log;
mod metrics;

pub use log::{
    AUDIT, InitError, LOG_FILTER, LOG_FORMAT, LogFilter, LogFormat, LogSettings, init, subscriber,
};
pub use metrics::{Metrics, OPENMETRICS, latency_buckets};
