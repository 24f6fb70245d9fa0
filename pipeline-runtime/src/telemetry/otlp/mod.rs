//! Carries spans, log lines and metrics to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! Beside everything else, never before it: what is to be carried lies in bounded queues that drop and count when they are full, and a
//! collector that is away, slow or wrong costs one line in the log, and another one when it is back.

mod encode;
mod link;

pub use encode::Resource;

use super::logs::Line;
use super::metrics::{Count, Instruments, Labels, Metric, Metrics, Value};
use super::spans::Span;
use link::Link;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// What may wait for the collector, of spans and of lines each: a few MB.
const ROOM: usize = 4096;
/// The most that goes in one request, and how long the first of it waits for more.
const BATCH: usize = 512;
const LINGER: Duration = Duration::from_secs(1);
/// How often metrics are carried, unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
pub const EVERY: Duration = Duration::from_secs(15);

/// Where things wait to be carried. Cheap to clone.
pub struct Queue<T> {
    sender: mpsc::Sender<T>,
    dropped: Arc<Count>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue { sender: self.sender.clone(), dropped: self.dropped.clone() }
    }
}

impl<T> Queue<T> {
    pub fn new(room: usize, dropped: Arc<Count>) -> (Queue<T>, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(room);
        (Queue { sender, dropped }, receiver)
    }

    /// Never waits.
    pub fn put(&self, thing: T) {
        if self.sender.try_send(thing).is_err() {
            self.dropped.add(1);
        }
    }

    #[cfg(test)]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

/// What was not carried.
#[derive(Debug, Default)]
struct Dropped {
    spans: Arc<Count>,
    lines: Arc<Count>,
}

impl Instruments for Dropped {
    fn read(&self) -> Vec<Metric> {
        let point = |signal: &str, count: &Count| -> (Labels, Value) { (vec![("signal", signal.to_owned())], Value::Total(count.get())) };
        let points = vec![point("traces", &self.spans), point("logs", &self.lines)];
        vec![Metric::new("telemetry_dropped_total", "Spans and log lines that the collector did not get.", points)]
    }
}

/// What carries, until it is ended.
pub struct Exporter {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Begins to carry. Without a collector nothing of it exists.
pub fn start(
    endpoint: &str,
    resource: Resource,
    metrics: &Metrics,
    every: Duration,
) -> Result<(Exporter, Queue<Span>, Queue<Line>), String> {
    let stop = watch::Sender::new(false);
    let link = Arc::new(Link::new(endpoint, stop.subscribe())?);
    let dropped = Arc::new(Dropped::default());
    metrics.add(dropped.clone());
    let (spans, waiting_spans) = Queue::new(ROOM, dropped.spans.clone());
    let (lines, waiting_lines) = Queue::new(ROOM, dropped.lines.clone());
    let resource = Arc::new(resource);
    let mut tasks = JoinSet::new();
    let of = resource.clone();
    let carrier = Carrier { link: link.clone(), path: "v1/traces", dropped: dropped.spans.clone(), stop: stop.subscribe() };
    tasks.spawn(carrier.carry(waiting_spans, move |spans| encode::spans(&of, spans)));
    let of = resource.clone();
    let carrier = Carrier { link: link.clone(), path: "v1/logs", dropped: dropped.lines.clone(), stop: stop.subscribe() };
    tasks.spawn(carrier.carry(waiting_lines, move |lines| encode::lines(&of, lines)));
    tasks.spawn(carry_metrics(link, resource, metrics.clone(), every, stop.subscribe()));
    Ok((Exporter { stop, tasks }, spans, lines))
}

impl Exporter {
    /// Carries what waits, as far as that is possible within the time.
    pub async fn end(mut self, within: Duration) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // What is left is lost: the process ends, and orders do not depend on it.
        let _ = timeout(within, all).await;
    }
}

struct Carrier {
    link: Arc<Link>,
    path: &'static str,
    dropped: Arc<Count>,
    stop: watch::Receiver<bool>,
}

impl Carrier {
    async fn carry<T>(mut self, mut queue: mpsc::Receiver<T>, encode: impl Fn(Vec<T>) -> Vec<u8>) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                // Closed when nobody is left who could put anything in.
                some = queue.recv_many(&mut batch, BATCH) => if some == 0 { return },
                () = stopped(&mut self.stop) => {}
            }
            if batch.len() < BATCH {
                tokio::select! {
                    () = sleep(LINGER) => {}
                    () = stopped(&mut self.stop) => {}
                }
                while batch.len() < BATCH
                    && let Ok(more) = queue.try_recv()
                {
                    batch.push(more);
                }
            }
            if batch.is_empty() {
                return; // told to stop, and nothing is left
            }
            let count = batch.len() as u64;
            if !self.link.deliver(self.path, encode(batch)).await {
                self.dropped.add(count);
            }
        }
    }
}

/// They are totals: one that is not delivered is made good by the next one.
async fn carry_metrics(link: Arc<Link>, resource: Arc<Resource>, metrics: Metrics, every: Duration, mut stop: watch::Receiver<bool>) {
    let began = SystemTime::now();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(&mut stop) => {}
        }
        link.try_once("v1/metrics", encode::metrics(&resource, &metrics.read(), began, SystemTime::now())).await;
        if *stop.borrow() {
            return;
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the exporter is gone, which is an end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}
