//! Makes orders by itself, at a steady rate, to show a pipeline or to load it.
//!
//! What an order looks like is in `shapes`; how fast they come is here.

mod shapes;

use crate::codec::{self, Decoded, Draft, attribute};
use crate::contract::{Contract, Message};
use crate::publish::Publisher;
use arc_swap::ArcSwap;
use chrono::Utc;
use crds::runtime_config::{GeneratorConfig, RuntimeConfig, TopicConfig};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value as Json;
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
/// How soon a changed document is noticed where nothing is due.
const LOOK: Duration = Duration::from_millis(200);
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
    /// Followed while it runs: what is made, and how fast.
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub publisher: Publisher,
    pub counters: Arc<Counters>,
}

/// What is made and where it goes, as the document says it now.
#[derive(Debug, PartialEq)]
struct Plan {
    settings: GeneratorConfig,
    topic: TopicConfig,
}

impl Plan {
    /// None if the document asks for nothing that could be made.
    fn of(config: &RuntimeConfig) -> Option<Plan> {
        let settings = config.generator.clone()?;
        let topic = config.topic(config.event(&settings.publishes)?.topics.first()?)?.clone();
        Some(Plan { settings, topic })
    }
}

/// A plan at work.
struct Work {
    plan: Arc<Plan>,
    maker: Maker,
    random: StdRng,
    /// None: nothing is due, ever.
    every: Option<Duration>,
    due: Instant,
}

impl Work {
    fn new(plan: Plan) -> Work {
        let GeneratorConfig { shape, customers, rate, seed, .. } = plan.settings;
        Work {
            maker: Maker::new(shape, customers),
            random: seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64),
            every: (rate > 0).then(|| Duration::from_secs(1) / rate),
            due: Instant::now(),
            plan: Arc::new(plan),
        }
    }

    /// The next order, if one is due.
    fn next(&mut self, now: Instant) -> Option<Json> {
        let every = self.every?;
        if now.duration_since(self.due) > MAX_ARREARS {
            self.due = now;
        }
        if self.due > now {
            return None;
        }
        self.due += every;
        Some(self.maker.next(&mut self.random))
    }
}

impl Generator {
    /// Runs until told to stop, then waits for what is on its way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut seen = self.config.load_full();
        let mut work = Plan::of(&seen).map(Work::new);
        let mut complaint = Complaint::default();
        let mut on_their_way = FuturesUnordered::new();
        while !*stop.borrow() {
            if !Arc::ptr_eq(&seen, &self.config.load()) {
                seen = self.config.load_full();
                let plan = Plan::of(&seen);
                // An edit of something else must not begin a seed anew.
                if plan.as_ref() != work.as_ref().map(|work| &*work.plan) {
                    work = plan.map(Work::new);
                }
            }
            let now = Instant::now();
            while on_their_way.len() < MAX_IN_FLIGHT
                && let Some(work) = &mut work
                && let Some(order) = work.next(now)
            {
                let mut publish = Box::pin(self.publish(work.plan.clone(), order));
                // Polled here once, so that events are handed over in the order in which they were made.
                match futures::poll!(&mut publish) {
                    std::task::Poll::Ready(result) => self.note(result, &mut complaint),
                    std::task::Poll::Pending => on_their_way.push(publish),
                }
            }
            let due = work.as_ref().filter(|work| work.every.is_some()).map_or(now + LOOK, |work| work.due);
            tokio::select! {
                Some(result) = on_their_way.next(), if !on_their_way.is_empty() => self.note(result, &mut complaint),
                () = sleep_until(due.clamp(now + TICK, now + LOOK)), if on_their_way.len() < MAX_IN_FLIGHT => {}
                _ = stop.changed() => {}
            }
        }
        while let Some(result) = on_their_way.next().await {
            self.note(result, &mut complaint);
        }
    }

    async fn publish(&self, plan: Arc<Plan>, data: Json) -> Result<(), String> {
        let Plan { settings, topic } = &*plan;
        let contract = self.contract.load_full();
        let event = contract.event(&settings.publishes).ok_or_else(|| format!("event {} is not in the document", settings.publishes))?;
        let time = Utc::now();
        let id = uuid::Uuid::new_v4().to_string();
        let mut decoded = Decoded {
            id: id.clone(),
            publish_time: time,
            attributes: [(attribute::TYPE, event.config.name.as_str()), (attribute::ID, &id), ("source", "generator")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect(),
            data,
        };
        let message = Message { topic: &topic.name, key: None, decoded: &decoded };
        if let Some(first) = event.violations(&message).into_iter().next() {
            let (shape, name) = (settings.shape, &event.config.name);
            return Err(format!("shape {shape:?} does not fit event {name}: {}: {}", first.field, first.message));
        }
        let text = match event.encrypted() {
            Some(fields) => fields.encrypt(&mut decoded.data, None, &id).map_err(|why| why.to_string())?.1,
            None => decoded.data.to_string().into(),
        };
        let message = Message { topic: &topic.name, key: None, decoded: &decoded };
        let key = event.key(&message).map_err(|v| format!("{}: {}", v.field, v.message))?;
        tracing::debug!(order_id = event.order_id(&message).ok(), key, "order made");
        let draft = Draft {
            event: event.config.name.clone(),
            id,
            time,
            key,
            attributes: vec![("source".into(), "generator".into()), (attribute::SCHEMA_VERSION.into(), codec::SCHEMA_VERSION.into())],
            data: text,
        };
        self.publisher.publish(&codec::encode(topic, &draft), PUBLISH_DEADLINE).await.map(|_| ()).map_err(|e| e.to_string())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::broker::Broker;
    use crate::broker::embedded::EmbeddedBroker;
    use crate::publish::Gate;
    use crate::roles::{Live, wishes};
    use crate::sqlite::{Database, Place};

    fn config(generator: &str) -> RuntimeConfig {
        let text = format!(
            "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {{name: shop}}\nspec:\n  \
             backends: [{{name: kafka, kafka: {{bootstrapServers: 'kafka:9092'}}}}]\n  topics: [{{name: orders}}]\n  \
             events: [{{name: OrderCreated}}]\n  generator: {generator}\n"
        );
        crds::resolve(&crds::document::read(&text).unwrap())
    }

    #[tokio::test]
    async fn it_begins_ends_and_changes_what_it_makes_as_the_document_says() {
        let start = config("{rate: 0}");
        let database = Database::open(&Place::Memory).await.unwrap();
        let broker = Arc::new(EmbeddedBroker::open(database, "kafka").await.unwrap());
        broker.ensure_topics(&wishes(&start.topics)).await.unwrap();
        let live = Live::new(start, None).unwrap();
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let publisher = Publisher::new(broker, Gate::open());
        let generator = Generator { config: live.config.clone(), contract: live.contract.clone(), publisher, counters: counters.clone() };
        let running = tokio::spawn(generator.run(stopped));
        let published = || counters.published.load(Ordering::Relaxed);
        let until = async |more: u64| {
            while published() < more {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert_eq!(published(), 0);
        live.config.store(Arc::new(config("{rate: 500}")));
        until(20).await;
        // An order of this shape has no orderId, which is the key: what is made has changed.
        live.config.store(Arc::new(config("{rate: 500, shape: Food}")));
        while counters.failed.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        live.config.store(Arc::new(config("{rate: 1000}")));
        until(published() + 20).await;
        stop.send_replace(true);
        running.await.unwrap();
    }

    #[test]
    fn a_document_without_its_event_asks_for_nothing() {
        let mut without = config("{rate: 5}");
        assert!(Plan::of(&without).is_some());
        without.events.clear();
        assert_eq!(Plan::of(&without), None);
    }
}
