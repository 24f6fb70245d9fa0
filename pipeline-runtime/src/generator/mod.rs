//! Makes orders by itself, at a steady rate, to show a pipeline or to load it.
//!
//! What an order looks like is in `shapes`; how fast they come is here.

mod shapes;

use crate::codec::{self, Decoded, Draft, attribute};
use crate::contract::{Contract, Message};
use crate::publish::Publisher;
use arc_swap::ArcSwap;
use chrono::Utc;
use crds::runtime_config::{GeneratorConfig, TopicConfig};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::SeedableRng;
use rand::rngs::StdRng;
use shapes::Maker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The most events on their way at once. Beyond it the generator falls behind its rate instead of piling up.
const MAX_IN_FLIGHT: usize = 1000;
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// Events due by then are made together: at 20,000 a second a timer for each would cost more than the events.
const TICK: Duration = Duration::from_millis(5);
/// How far behind its schedule it may be before it lets the rest go: an outage is not caught up on with a burst.
const MAX_ARREARS: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Counters {
    pub published: AtomicU64,
    pub failed: AtomicU64,
}

impl Counters {
    /// As Prometheus reads it.
    pub fn render(&self) -> String {
        let (published, failed) = (self.published.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        format!(
            "# TYPE orders_generated_total counter\norders_generated_total{{result=\"published\"}} {published}\n\
             orders_generated_total{{result=\"failed\"}} {failed}\n"
        )
    }
}

pub struct Generator {
    pub config: GeneratorConfig,
    pub topic: TopicConfig,
    pub contract: Arc<ArcSwap<Contract>>,
    pub publisher: Publisher,
    pub counters: Arc<Counters>,
}

impl Generator {
    /// Runs until told to stop, then waits for what is on its way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        if self.config.rate == 0 {
            let _ = stop.wait_for(|stop| *stop).await;
            return;
        }
        let mut random = match self.config.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        };
        let mut maker = Maker::new(self.config.shape, self.config.customers);
        let every = Duration::from_secs(1) / self.config.rate;
        let mut due = Instant::now();
        let mut complaint = Complaint::default();
        let mut on_their_way = FuturesUnordered::new();
        while !*stop.borrow() {
            let now = Instant::now();
            if now.duration_since(due) > MAX_ARREARS {
                due = now;
            }
            while due <= now && on_their_way.len() < MAX_IN_FLIGHT {
                let order = maker.next(&mut random);
                let mut publish = Box::pin(self.publish(order));
                // Polled here once, so that events are handed over in the order in which they were made.
                match futures::poll!(&mut publish) {
                    std::task::Poll::Ready(result) => self.note(result, &mut complaint),
                    std::task::Poll::Pending => on_their_way.push(publish),
                }
                due += every;
            }
            tokio::select! {
                Some(result) = on_their_way.next(), if !on_their_way.is_empty() => self.note(result, &mut complaint),
                () = sleep_until(due.max(now + TICK)), if on_their_way.len() < MAX_IN_FLIGHT => {}
                _ = stop.changed() => {}
            }
        }
        while let Some(result) = on_their_way.next().await {
            self.note(result, &mut complaint);
        }
    }

    async fn publish(&self, data: serde_json::Value) -> Result<(), String> {
        let contract = self.contract.load_full();
        let event =
            contract.event(&self.config.publishes).ok_or_else(|| format!("event {} is not in the document", self.config.publishes))?;
        let time = Utc::now();
        let id = uuid::Uuid::new_v4().to_string();
        let decoded = Decoded {
            id: id.clone(),
            publish_time: time,
            attributes: [(attribute::TYPE, event.config.name.as_str()), (attribute::ID, &id), ("source", "generator")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
            data,
        };
        let message = Message { topic: &self.topic.name, key: None, decoded: &decoded };
        if let Some(first) = event.violations(&message).into_iter().next() {
            return Err(format!(
                "shape {:?} does not fit event {}: {}: {}",
                self.config.shape, event.config.name, first.field, first.message
            ));
        }
        let key = event.key(&message).map_err(|v| format!("{}: {}", v.field, v.message))?;
        tracing::debug!(order_id = decoded.data["orderId"].as_str().or(decoded.data["order_id"].as_str()), key, "order made");
        let draft = Draft {
            event: event.config.name.clone(),
            id,
            time,
            key,
            attributes: vec![("source".into(), "generator".into()), (attribute::SCHEMA_VERSION.into(), codec::SCHEMA_VERSION.into())],
            data: decoded.data.to_string().into(),
        };
        self.publisher.publish(codec::encode(&self.topic, &draft), PUBLISH_DEADLINE).await.map(|_| ()).map_err(|e| e.to_string())
    }

    fn note(&self, result: Result<(), String>, complaint: &mut Complaint) {
        match result {
            Ok(()) => {
                self.counters.published.fetch_add(1, Ordering::Relaxed);
            }
            Err(reason) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                complaint.say(&reason);
            }
        }
    }
}

/// A failing broker fails every event: one line every ten seconds says it as well as a thousand.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    kept_back: u64,
}

impl Complaint {
    fn say(&mut self, reason: &str) {
        if self.last.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
            tracing::warn!(reason, not_shown = self.kept_back, "generated orders were not published; going on");
            (self.last, self.kept_back) = (Some(Instant::now()), 0);
        } else {
            self.kept_back += 1;
        }
    }
}
