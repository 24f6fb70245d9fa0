//! What the worker tells of itself: whether it is connected, and what it has done.

use super::failure::Kind;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of `processing_duration_seconds`, in milliseconds.
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether work waits for something that is down, and how often that was so.
#[derive(Debug, Default)]
pub struct CircuitHealth {
    open: Count,
    opened: Count,
}

impl CircuitHealth {
    pub(super) fn opened(&self) {
        self.open.add(1);
        self.opened.add(1);
    }
    /// After each `opened`, once.
    pub(super) fn closed(&self) {
        self.open.add(1u64.wrapping_neg());
    }
    /// How many of the process's circuits are open: one for each broker that is read.
    pub fn open(&self) -> u64 {
        self.open.get()
    }
    pub fn times(&self) -> u64 {
        self.opened.get()
    }
}

/// What one engine contributes to a gauge: those of a process that reads several brokers have one in common.
#[derive(Debug, Default)]
pub(super) struct Share(AtomicU64);

impl Share {
    pub(super) fn set(&self, gauge: &Count, value: u64) {
        let before = self.0.swap(value, Ordering::Relaxed);
        // Wraps around where it is less than before, and so does the sum.
        gauge.0.fetch_add(value.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// Counters since the start, and gauges. Names as OW-12 has them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events that took effect.
    pub processed: Count,
    /// Events that had taken effect before.
    pub repeats: Count,
    /// Updates that came before their order.
    pub waiting: Count,
    /// Messages that are no event of this pipeline or another tenant's.
    pub passed_over: Count,
    /// Messages that came behind the seal of their epoch, or whose epoch was left behind.
    pub late: Count,
    pub failed: Count,
    pub conflicts: Count,
    pub retries: Count,
    pub dead_letters: Count,
    pub emitted: Count,
    pub callbacks: Count,
    /// Dead letters that were kept for review, and those of which somebody was told, or could not be.
    pub letters_kept: Count,
    pub alerts: Count,
    pub alerts_given_up: Count,
    pub store_circuit: Arc<CircuitHealth>,
    pub callback_circuit: Arc<CircuitHealth>,
    pub alert_circuit: Arc<CircuitHealth>,
    /// Messages in hand, and their bytes.
    pub in_hand: Count,
    pub in_hand_bytes: Count,
    /// What is on the broker for this worker's partitions and not complete.
    pub backlog: Count,
    pub concurrency: Count,
    duration: [Count; BUCKETS_MS.len() + 1],
    duration_sum_us: Count,
}

impl Counters {
    pub fn failed(&self, kind: Kind) {
        self.failed.add(1);
        if kind == Kind::Conflict {
            self.conflicts.add(1);
        }
    }

    /// From an event's read to its completion.
    pub fn took(&self, duration: Duration) {
        let ms = duration.as_millis() as u64;
        let bucket = BUCKETS_MS.iter().position(|bound| ms < *bound).unwrap_or(BUCKETS_MS.len());
        self.duration[bucket].add(1);
        self.duration_sum_us.add(duration.as_micros() as u64);
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(2048);
        let counters = [
            ("orders_processed_total", &self.processed),
            ("orders_repeated_total", &self.repeats),
            ("orders_waiting_total", &self.waiting),
            ("orders_passed_over_total", &self.passed_over),
            ("late_messages_total", &self.late),
            ("orders_failed_total", &self.failed),
            ("orders_conflict_total", &self.conflicts),
            ("retries_total", &self.retries),
            ("dlq_messages_total", &self.dead_letters),
            ("emitted_messages_total", &self.emitted),
            ("callbacks_total", &self.callbacks),
            ("failed_messages_kept_total", &self.letters_kept),
            ("dlq_alerts_total", &self.alerts),
            ("dlq_alerts_given_up_total", &self.alerts_given_up),
        ];
        for (name, count) in counters {
            let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", count.get());
        }
        let gauges = [
            ("current_backlog", &self.backlog),
            ("worker_concurrency", &self.concurrency),
            ("worker_in_hand_messages", &self.in_hand),
            ("worker_in_hand_bytes", &self.in_hand_bytes),
        ];
        for (name, gauge) in gauges {
            let _ = writeln!(text, "# TYPE {name} gauge\n{name} {}", gauge.get());
        }
        let circuits = [("store", &self.store_circuit), ("callback", &self.callback_circuit), ("alert", &self.alert_circuit)];
        for (name, kind) in [("circuit_open", "gauge"), ("circuit_opened_total", "counter")] {
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for (of, circuit) in circuits {
                let value = if kind == "gauge" { circuit.open() } else { circuit.times() };
                let _ = writeln!(text, "{name}{{to=\"{of}\"}} {value}");
            }
        }
        let name = "processing_duration_seconds";
        let _ = writeln!(text, "# TYPE {name} histogram");
        let mut count = 0;
        for (bucket, bound) in self.duration.iter().zip(BUCKETS_MS) {
            count += bucket.get();
            let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", bound as f64 / 1000.0);
        }
        count += self.duration[BUCKETS_MS.len()].get();
        let sum = self.duration_sum_us.get() as f64 / 1e6;
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
        text
    }
}

/// Shared with whoever answers `/readyz` and `/metrics`.
#[derive(Debug)]
pub struct WorkerHealth {
    pub counters: Counters,
    /// Why it is not connected, None if it is.
    trouble: Mutex<Option<String>>,
    store_trouble: Mutex<Option<String>>,
}

impl Default for WorkerHealth {
    fn default() -> Self {
        let trouble = Mutex::new(Some("the worker has not connected yet".to_owned()));
        WorkerHealth { counters: Counters::default(), trouble, store_trouble: Mutex::default() }
    }
}

impl WorkerHealth {
    /// Connected to the backend, or why not. A store that is away is no reason: work waits for it, and a restart would not help.
    pub fn ready(&self) -> Result<(), String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// Why the store takes nothing at the moment.
    pub fn store_trouble(&self) -> Option<String> {
        self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_connected(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn set_store_trouble(&self, trouble: Option<String>) {
        *self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_text_adds_up() {
        let counters = Counters::default();
        counters.processed.add(3);
        for ms in [0, 3, 40_000] {
            counters.took(Duration::from_millis(ms));
        }
        let text = counters.render();
        for line in [
            "orders_processed_total 3",
            "processing_duration_seconds_bucket{le=\"0.001\"} 1",
            "processing_duration_seconds_bucket{le=\"0.005\"} 2",
            "processing_duration_seconds_bucket{le=\"+Inf\"} 3",
            "processing_duration_seconds_count 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_gauge_is_the_sum_of_what_the_engines_of_a_process_contribute() {
        let (gauge, kafka, azure) = (Count::default(), Share::default(), Share::default());
        kafka.set(&gauge, 10);
        azure.set(&gauge, 5);
        kafka.set(&gauge, 3);
        assert_eq!(gauge.get(), 8);
    }

    #[test]
    fn a_worker_is_not_ready_before_it_has_connected() {
        let health = WorkerHealth::default();
        assert!(health.ready().is_err());
        health.set_connected(None);
        assert_eq!(health.ready(), Ok(()));
    }
}
