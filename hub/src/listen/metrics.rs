//! What the front door counts. Labels come from a closed set, never from a peer.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Refusal;

/// The metrics of one listener; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct ListenMetrics {
    /// Connections that passed the handshake.
    pub accepted: Counter,
    refused: Family<Reason, Counter>,
    frames: Family<FrameLabels, Counter>,
    pub(super) open: Gauge,
    pub(super) handshaking: Gauge,
    handshaking_peak: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FrameLabels {
    frame: &'static str,
    code: &'static str,
}

/// One more of what a gauge counts, until dropped.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }

    /// The same, and the other gauge keeps the highest count so far.
    fn with_peak(gauge: &Gauge, peak: &Gauge) -> Self {
        let now = gauge.inc() + 1;
        peak.inner().fetch_max(now, Ordering::Relaxed);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ListenMetrics {
    /// Registers `berth_accepted_connections_total`, `berth_refused_connections_total{reason}`,
    /// `berth_http2_refusals_total{frame,code}`, `berth_open_connections`, `berth_handshakes_in_progress` and `berth_handshakes_in_progress_peak`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        // The encoder adds `_total` to the counters' names.
        registry.register(
            "berth_accepted_connections",
            "Connections that passed the TLS handshake",
            metrics.accepted.clone(),
        );
        registry.register(
            "berth_refused_connections",
            "Connections that ended before the gRPC layer, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "berth_http2_refusals",
            "Connections (frame goaway) and streams (frame rst-stream) that were ended for what the peer did in HTTP/2, by error code",
            metrics.frames.clone(),
        );
        registry.register(
            "berth_open_connections",
            "Connections open now, handshakes not counted",
            metrics.open.clone(),
        );
        registry.register(
            "berth_handshakes_in_progress",
            "TLS handshakes in progress now",
            metrics.handshaking.clone(),
        );
        registry.register(
            "berth_handshakes_in_progress_peak",
            "The most TLS handshakes that were in progress at once, since the start",
            metrics.handshaking_peak.clone(),
        );
        metrics
    }

    /// How many connections were refused for this reason (see [`Refusal::reason`]).
    pub fn refused(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&Reason { reason }).get()
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        let reason = refusal.reason();
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn refuse_frames(&self, frame: &'static str, code: &'static str) {
        let labels = FrameLabels { frame, code };
        self.frames.get_or_create(&labels).inc();
    }

    pub(super) fn count_open(&self) -> Counted {
        Counted::new(&self.open)
    }

    pub(super) fn count_handshake(&self) -> Counted {
        Counted::with_peak(&self.handshaking, &self.handshaking_peak)
    }

    /// The most handshakes that were in progress at once.
    pub fn most_handshakes(&self) -> i64 {
        self.handshaking_peak.get()
    }
}
