//! What the worker tells of itself: whether it is connected, and what it has done.

use super::failure::Kind;
use crate::telemetry::{Count, Durations, Instruments, Labels, Metric, Spread, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a message ended: the `result` of `message_count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It took effect.
    Processed,
    /// It had taken effect before.
    Repeated,
    /// An update before its order: it is kept in the store.
    Waiting,
    /// No event of this pipeline, or another tenant's.
    PassedOver,
    /// It failed, and its topic has no place for dead letters or wants none.
    Dropped,
    DeadLetter,
}

impl Ended {
    const ALL: [Ended; 6] = [Ended::Processed, Ended::Repeated, Ended::Waiting, Ended::PassedOver, Ended::Dropped, Ended::DeadLetter];
    const STATUSES: [&str; 2] = ["success", "error"];

    pub fn name(self) -> &'static str {
        match self {
            Ended::Processed => "processed",
            Ended::Repeated => "repeated",
            Ended::Waiting => "waiting",
            Ended::PassedOver => "passed_over",
            Ended::Dropped => "dropped",
            Ended::DeadLetter => "dead_letter",
        }
    }

    fn failed(self) -> bool {
        matches!(self, Ended::Dropped | Ended::DeadLetter)
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

/// What became of the messages of one topic, as one consumer group reads it.
#[derive(Debug, Default)]
pub struct OfTopic {
    ended: [Count; Ended::ALL.len()],
    /// By whether it failed.
    took: [Durations; Ended::STATUSES.len()],
    dead_letters: [Count; Kind::ALL.len()],
}

impl OfTopic {
    /// `took` is from a message's read to its end.
    pub fn ended(&self, how: Ended, took: Duration) {
        self.ended[how as usize].add(1);
        self.took[usize::from(how.failed())].took(took);
    }

    pub fn buried(&self, kind: Kind) {
        if let Some(count) = self.dead_letters.get(kind as usize) {
            count.add(1);
        }
    }
}

/// Counters since the start, and gauges. Names as OW-12 and RF-9 have them.
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
    /// How often the broker was found to be away.
    pub broker_outages: Count,
    /// Messages in hand, and their bytes.
    pub in_hand: Count,
    pub in_hand_bytes: Count,
    /// What is on the broker for this worker's partitions and not complete.
    pub backlog: Count,
    pub concurrency: Count,
    topics: Mutex<Topics>,
}

/// By consumer group and topic: those that a document names.
type Topics = BTreeMap<(String, String), Arc<OfTopic>>;

impl Counters {
    pub fn failed(&self, kind: Kind) {
        self.failed.add(1);
        if kind == Kind::Conflict {
            self.conflicts.add(1);
        }
    }

    /// An event came to the store, and was this there.
    pub fn came_to_the_store(&self, ended: Ended) {
        let count = match ended {
            Ended::Processed => &self.processed,
            Ended::Repeated => &self.repeats,
            Ended::Waiting => &self.waiting,
            Ended::PassedOver | Ended::Dropped | Ended::DeadLetter => return, // these never came there
        };
        count.add(1);
    }

    /// Those of a topic; asked for once, when reading begins.
    pub fn of_topic(&self, group: &str, topic: &str) -> Arc<OfTopic> {
        self.topics().entry((group.to_owned(), topic.to_owned())).or_default().clone()
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> Vec<Metric> {
        vec![
            Metric::total("orders_processed_total", "Events that took effect.", &self.processed),
            Metric::total("orders_repeated_total", "Events that had taken effect before.", &self.repeats),
            Metric::total("orders_waiting_total", "Updates that came before their order and wait for it in the store.", &self.waiting),
            Metric::total(
                "orders_passed_over_total",
                "Messages that are no event of this pipeline, or another tenant's.",
                &self.passed_over,
            ),
            Metric::total(
                "late_messages_total",
                "Messages behind the seal of their epoch, or of an epoch that was left behind.",
                &self.late,
            ),
            Metric::total("orders_failed_total", "Events that failed for good.", &self.failed),
            Metric::total("orders_conflict_total", "Events that contradict what is stored.", &self.conflicts),
            Metric::total("retries_total", "Attempts that failed and are followed by another one.", &self.retries),
            Metric::total("emitted_messages_total", "Messages that followed from events.", &self.emitted),
            Metric::total("callbacks_total", "Callbacks that were taken.", &self.callbacks),
            Metric::total("failed_messages_kept_total", "Dead letters that were kept for review.", &self.letters_kept),
            Metric::total("dlq_alerts_total", "Dead letters of which somebody was told.", &self.alerts),
            Metric::total("dlq_alerts_given_up_total", "Dead letters of which nobody could be told.", &self.alerts_given_up),
            Metric::total("broker_outages_total", "How often the broker that is read was found to be away.", &self.broker_outages),
            Metric::level(
                "current_backlog",
                "Messages on the broker that are not complete, of this worker's partitions.",
                self.backlog.get(),
            ),
            Metric::level("worker_concurrency", "Batches that may be in the store at once.", self.concurrency.get()),
            Metric::level("worker_in_hand_messages", "Messages that are read and not complete.", self.in_hand.get()),
            Metric::level("worker_in_hand_bytes", "Their size.", self.in_hand_bytes.get()),
        ]
    }
}

impl Instruments for Counters {
    fn read(&self) -> Vec<Metric> {
        let topics = self.topics().clone();
        let (mut counts, mut times, mut buried) = (Vec::new(), Vec::new(), Vec::new());
        for ((group, topic), of) in &topics {
            let labels =
                |name, value: &str| -> Labels { vec![("topic", topic.clone()), ("subscription", group.clone()), (name, value.to_owned())] };
            let ended = Ended::ALL.into_iter().zip(&of.ended);
            counts.extend(ended.map(|(ended, count)| (labels("result", ended.name()), Value::Total(count.get()))));
            let took = Ended::STATUSES.into_iter().zip(&of.took);
            times.extend(took.map(|(status, took)| (labels("status", status), Value::Durations(took.read()))));
            buried.extend(Kind::ALL.into_iter().zip(&of.dead_letters).map(|(kind, count)| {
                let labels = vec![("original_topic", topic.clone()), ("error_type", kind.name().to_owned())];
                (labels, Value::Total(count.get()))
            }));
        }
        let groups: BTreeMap<&String, u64> = topics.keys().map(|(group, _)| (group, self.backlog.get())).collect();
        let lag = groups.into_iter().map(|(group, lag)| (vec![("subscription", group.clone())], Value::Level(lag)));
        let circuits = [("store", &self.store_circuit), ("callback", &self.callback_circuit), ("alert", &self.alert_circuit)];
        let to = |to: &str| -> Labels { vec![("to", to.to_owned())] };
        let open = circuits.iter().map(|(name, circuit)| (to(name), Value::Level(circuit.open()))).collect();
        let opened = circuits.iter().map(|(name, circuit)| (to(name), Value::Total(circuit.times()))).collect();
        let all: Spread = topics.values().flat_map(|of| &of.took).map(Durations::read).sum();
        let all = vec![(Labels::new(), Value::Durations(all))];
        let mut metrics = self.totals();
        metrics.extend([
            Metric::new("circuit_open", "1 while work waits for it, as it is down; of each broker that is read.", open),
            Metric::new("circuit_opened_total", "How often work waited for it.", opened),
            Metric::new("processing_duration_seconds", "From a message's read to its end, in seconds.", all),
            Metric::new("message_processing_time", "From a message's read to its end, in seconds.", times),
            Metric::new("message_count", "Messages by how they ended.", counts),
            Metric::new("dlq_messages", "Dead letters that were written.", buried),
            Metric::new("subscription_lag", "Messages on the broker that are not complete, of this worker's partitions.", lag.collect()),
        ]);
        metrics
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

impl Instruments for WorkerHealth {
    fn read(&self) -> Vec<Metric> {
        self.counters.read()
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
        let mut before = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_none() && trouble.is_some() {
            self.counters.broker_outages.add(1);
        }
        *before = trouble;
    }

    /// The worker ends: it is no longer connected, and nothing was lost.
    pub(super) fn leave(&self, why: &str) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    pub(super) fn set_store_trouble(&self, trouble: Option<String>) {
        *self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn point(counters: &Counters, name: &str, labels: &[(&str, &str)]) -> Value {
        let metric = counters.read().into_iter().find(|metric| metric.name == name).unwrap();
        let same = |(of, _): &(Labels, Value)| of.iter().map(|(name, value)| (*name, value.as_str())).eq(labels.iter().copied());
        metric.points.iter().find(|point| same(point)).unwrap_or_else(|| panic!("{labels:?} is not in {metric:?}")).1.clone()
    }

    #[test]
    fn what_became_of_messages_is_told_by_topic_group_and_how_they_ended() {
        let counters = Counters::default();
        let (orders, payments) = (counters.of_topic("shop", "orders"), counters.of_topic("shop", "payments"));
        counters.backlog.set(7);
        orders.ended(Ended::Processed, Duration::from_millis(3));
        orders.ended(Ended::Repeated, Duration::from_millis(3));
        payments.ended(Ended::DeadLetter, Duration::from_secs(2));
        payments.buried(Kind::Invalid);
        let of = |topic, name, value| [("topic", topic), ("subscription", "shop"), (name, value)];
        assert_eq!(point(&counters, "message_count", &of("orders", "result", "processed")), Value::Total(1));
        assert_eq!(point(&counters, "message_count", &of("payments", "result", "dead_letter")), Value::Total(1));
        assert_eq!(point(&counters, "message_count", &of("payments", "result", "processed")), Value::Total(0));
        let count = |name, labels: &[(&str, &str)]| match point(&counters, name, labels) {
            Value::Durations(spread) => spread.count(),
            other => panic!("{other:?}"),
        };
        assert_eq!(count("message_processing_time", &of("orders", "status", "success")), 2);
        assert_eq!(count("message_processing_time", &of("payments", "status", "error")), 1);
        assert_eq!(count("processing_duration_seconds", &[]), 3);
        let buried = |kind| point(&counters, "dlq_messages", &[("original_topic", "payments"), ("error_type", kind)]);
        assert_eq!((buried("invalid"), buried("store")), (Value::Total(1), Value::Total(0)));
        assert_eq!(point(&counters, "subscription_lag", &[("subscription", "shop")]), Value::Level(7));
    }

    #[test]
    fn each_kind_of_failure_has_its_own_place() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        for (index, ended) in Ended::ALL.into_iter().enumerate() {
            assert_eq!(ended as usize, index);
        }
    }

    #[test]
    fn outages_are_counted_when_they_begin() {
        let health = WorkerHealth::default();
        for trouble in [Some("not yet"), None, Some("away"), Some("still away"), None, Some("away")] {
            health.set_connected(trouble.map(str::to_owned));
        }
        health.leave("the worker ends");
        assert_eq!(health.counters.broker_outages.get(), 2);
    }

    #[test]
    fn a_worker_is_not_ready_before_it_has_connected() {
        let health = WorkerHealth::default();
        assert!(health.ready().is_err());
        health.set_connected(None);
        assert_eq!(health.ready(), Ok(()));
    }
}
