//! What the operator counts, in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub struct Metrics {
    reconciles: AtomicU64,
    failures: AtomicU64,
    applied: AtomicU64,
    pruned: AtomicU64,
    statuses: AtomicU64,
    switches: AtomicU64,
    leader: AtomicBool,
}

impl Metrics {
    pub fn reconciled(&self) {
        self.reconciles.fetch_add(1, Relaxed);
    }
    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }
    pub fn applied(&self) {
        self.applied.fetch_add(1, Relaxed);
    }
    pub fn pruned(&self) {
        self.pruned.fetch_add(1, Relaxed);
    }
    pub fn status_written(&self) {
        self.statuses.fetch_add(1, Relaxed);
    }
    pub fn switch_written(&self) {
        self.switches.fetch_add(1, Relaxed);
    }
    pub fn leads(&self) {
        self.leader.store(true, Relaxed);
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(out, "# HELP orderpipeline_operator_{name} {help}\n# TYPE orderpipeline_operator_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "orderpipeline_operator_{name}{labels} {value}");
            }
        };
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        metric("reconciles_total", "counter", "Reconciles that came to an end.", &[("", of(&self.reconciles))]);
        metric("reconcile_failures_total", "counter", "Reconciles that failed and are tried again.", &[("", of(&self.failures))]);
        let writes = [
            ("{kind=\"apply\"}", of(&self.applied)),
            ("{kind=\"prune\"}", of(&self.pruned)),
            ("{kind=\"status\"}", of(&self.statuses)),
            ("{kind=\"switch\"}", of(&self.switches)),
        ];
        metric("writes_total", "counter", "Writes to the API server.", &writes);
        metric("leader", "gauge", "1 where this process leads.", &[("", self.leader.load(Relaxed).into())]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_kind() {
        let metrics = Metrics::default();
        metrics.applied();
        metrics.applied();
        metrics.pruned();
        let text = metrics.text();
        assert!(text.contains("orderpipeline_operator_writes_total{kind=\"apply\"} 2\n"), "{text}");
        assert!(text.contains("orderpipeline_operator_writes_total{kind=\"prune\"} 1\n"), "{text}");
    }
}
