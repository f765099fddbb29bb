//! What `/metrics` shows, in OpenMetrics' text format.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::error::Outcome;
use crate::listener::Connections;

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `POST /act`.
    Act,
    /// openpi's websocket.
    OpenPi,
    /// vla-eval's websocket.
    VlaEval,
    /// Refused before its protocol mattered.
    None,
}

impl Protocol {
    fn label(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::OpenPi => "openpi",
            Self::VlaEval => "vla_eval",
            Self::None => "none",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    protocol: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    protocol: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Ended, Counter>,
    received: Family<Of, Counter>,
    sent: Family<Of, Counter>,
    /// Requests waiting for the policy.
    pub(crate) waiting: Gauge,
    /// Open and refused connections.
    pub(crate) connections: Connections,
    /// Seconds in the policy.
    pub(crate) inference: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("openvla");
        let requests = Family::default();
        registry.register("requests", "Requests by protocol and outcome", requests.clone());
        let waiting = Gauge::default();
        registry.register("requests_waiting", "Requests that wait for the policy", waiting.clone());
        let connections = Connections::default();
        registry.register("connections", "Open connections", connections.open.clone());
        let text = "Connections refused because too many were open";
        registry.register("connections_refused", text, connections.refused.clone());
        let (received, sent) = (Family::default(), Family::default());
        let bytes = || Unit::Bytes;
        registry.register_with_unit("received", "Bodies and messages", bytes(), received.clone());
        registry.register_with_unit("sent", "Answers", bytes(), sent.clone());
        // 1 ms to 65 s.
        let inference = Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let text = "Time of an inference";
        registry.register_with_unit("inference", text, Unit::Seconds, inference.clone());
        Self { registry, requests, received, sent, waiting, connections, inference }
    }

    pub(crate) fn ended(&self, protocol: Protocol, outcome: Outcome) {
        let labels = Ended { protocol: protocol.label(), outcome: outcome.label() };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn received(&self, protocol: Protocol, bytes: usize) {
        self.received.get_or_create(&Of { protocol: protocol.label() }).inc_by(bytes as u64);
    }

    pub(crate) fn sent(&self, protocol: Protocol, bytes: usize) {
        self.sent.get_or_create(&Of { protocol: protocol.label() }).inc_by(bytes as u64);
    }

    pub(crate) fn text(&self) -> String {
        let mut shown = String::new();
        // A String takes everything.
        let _ = text::encode(&mut shown, &self.registry);
        shown
    }
}

/// Counts a request once: with the outcome that it is given, or as gone when it is dropped, which
/// hyper does with the task of a connection that the client closed.
pub(crate) struct Counted<'a> {
    metrics: &'a Metrics,
    protocol: Protocol,
    outcome: Outcome,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(metrics: &'a Metrics, protocol: Protocol) -> Self {
        Self { metrics, protocol, outcome: Outcome::Gone }
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.ended(self.protocol, self.outcome);
    }
}
