//! Makes orders by itself, at a steady rate, to show a pipeline or to load it.
//!
//! What an order looks like is in `shapes`; how fast they come is here.

mod shapes;

use crate::codec::{self, Codecs, Decoded, Draft, Unwritten, attribute};
use crate::contract::{Contract, EventContract, Message};
use crate::publish::{For, Publisher};
use crate::telemetry::{End, Instruments, Kind, Metric, Value};
use arc_swap::ArcSwap;
use chrono::{DateTime, SecondsFormat, Utc};
use crds::json::Json;
use crds::runtime_config::{GeneratorConfig, RuntimeConfig, TopicConfig};
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
const MAX_IN_FLIGHT: usize = 5000;
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// Events due by then are made together: at 20,000 a second a timer for each would cost more than the events.
const TICK: Duration = Duration::from_millis(5);
/// How soon a changed document is noticed where nothing is due.
const LOOK: Duration = Duration::from_millis(200);
/// Orders that are logged one by one in a second (FP-1). Of more, a log would be all that the machine writes.
const TOLD_A_SECOND: u64 = 100;
/// How far behind its schedule it may be before it lets the rest go: an outage is not caught up on with a burst.
const MAX_ARREARS: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Counters {
    pub published: AtomicU64,
    pub failed: AtomicU64,
}

impl Instruments for Counters {
    fn read(&self) -> Vec<Metric> {
        let point = |result: &str, count: &AtomicU64| (vec![("result", result.to_owned())], Value::Total(count.load(Ordering::Relaxed)));
        let points = vec![point("published", &self.published), point("failed", &self.failed)];
        vec![Metric::new("orders_generated_total", "Orders that were made, and whether they were published.", points)]
    }
}

pub struct Generator {
    /// Followed while it runs: what is made, and how fast.
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    pub codecs: Codecs,
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

impl Plan {
    /// The same orders, however fast they come.
    fn makes_what(&self, other: &Plan) -> bool {
        let paceless = |settings: &GeneratorConfig| GeneratorConfig { rate: 0, ..settings.clone() };
        self.topic == other.topic && paceless(&self.settings) == paceless(&other.settings)
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
            every: every(rate),
            due: Instant::now(),
            plan: Arc::new(plan),
        }
    }

    /// Goes on with a changed plan. Another rate is only that: a seed goes on where it is, and the ids are still of this start.
    fn follow(before: Option<Work>, plan: Option<Plan>) -> Option<Work> {
        let plan = plan?;
        match before {
            Some(work) if *work.plan == plan => Some(work),
            Some(work) if work.plan.makes_what(&plan) => {
                let every = every(plan.settings.rate);
                let soonest = every.map_or(work.due, |every| work.due.min(Instant::now() + every));
                Some(Work { every, due: soonest, plan: Arc::new(plan), ..work })
            }
            _ => Some(Work::new(plan)),
        }
    }

    /// The next order, if one is due.
    fn next(&mut self, now: Instant) -> Option<serde_json::Value> {
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

/// An order as its readers will see it.
fn as_read<'t>(event: &str, id: &str, time: DateTime<Utc>, data: Json<'t>) -> Decoded<'t> {
    let own = [(attribute::TYPE, event), (attribute::ID, id), (attribute::SCHEMA_VERSION, codec::SCHEMA_VERSION)];
    let attributes = own.into_iter().chain([("source", "generator")]);
    let attributes = attributes.map(|(name, value)| (name.to_owned(), Json::from(value.to_owned()))).collect();
    Decoded { id: id.to_owned(), publish_time: time, attributes, data }
}

/// Its key, if all holds.
fn key(contract: &Contract, event: &EventContract, message: Message<'_>) -> Result<String, String> {
    let first = event.violations(&message).into_iter().next();
    let key = first.map_or_else(|| event.key(&message), Err);
    let taken = key.and_then(|key| contract.must_be(event, &Message { key: Some(&key), ..message }).map(|()| key));
    taken.map_err(|violation| format!("{}: {}", violation.field, violation.message))
}

/// Why no order that the generator would make can be what it is to publish. None: some can, or other mistakes come first. `seen` makes of
/// data what readers of a topic see of it, or says why it cannot be written there; None where it does not know the topic.
pub fn misfit(config: &RuntimeConfig, seen: impl Fn(&TopicConfig, &mut Json<'_>) -> Option<Result<(), String>>) -> Option<String> {
    const TRIED: usize = 20;
    let plan = Plan::of(config)?;
    let contract = Contract::unencrypted(config).ok()?;
    let event = contract.event(&plan.settings.publishes)?;
    let (mut maker, mut random) = (Maker::new(plan.settings.shape, plan.settings.customers), StdRng::seed_from_u64(0));
    let mut first = None;
    for _ in 0..TRIED {
        let order = maker.next(&mut random);
        let mut data = Json::from(&order);
        let key = seen(&plan.topic, &mut data)?.and_then(|()| {
            let decoded = as_read(&event.config.name, "generated", Utc::now(), data);
            key(&contract, event, Message { topic: &plan.topic.name, key: None, decoded: &decoded })
        });
        first.get_or_insert(key.err()?);
    }
    let shapes = "Orders, Food, Retail and Cart";
    Some(format!(
        "orders of the shape {:?} are none of {}: {}: choose another shape ({shapes}), or make the event's schema fit it",
        plan.settings.shape, event.config.name, first?
    ))
}

fn every(rate: u32) -> Option<Duration> {
    (rate > 0).then(|| Duration::from_secs(1) / rate)
}

impl Generator {
    /// Runs until told to stop, then waits for what is on its way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut seen = self.config.load_full();
        let mut work = Plan::of(&seen).map(Work::new);
        let (mut complaint, mut telling) = (Complaint::default(), Telling::default());
        let mut on_their_way = FuturesUnordered::new();
        while !*stop.borrow() {
            if !Arc::ptr_eq(&seen, &self.config.load()) {
                seen = self.config.load_full();
                work = Work::follow(work, Plan::of(&seen));
            }
            let now = Instant::now();
            while on_their_way.len() < MAX_IN_FLIGHT
                && let Some(work) = &mut work
                && let Some(order) = work.next(now)
            {
                let mut publish = Box::pin(self.publish(work.plan.clone(), order, telling.next(now)));
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

    async fn publish(&self, plan: Arc<Plan>, order: serde_json::Value, told: bool) -> Result<(), String> {
        let Plan { settings, topic } = &*plan;
        let contract = self.contract.load_full();
        let event = contract.event(&settings.publishes).ok_or_else(|| format!("event {} is not in the document", settings.publishes))?;
        let time = Utc::now();
        let id = uuid::Uuid::new_v4().to_string();
        let mut data = Json::from(&order);
        let mut body = self.codecs.body(topic, data.to_string().into(), &mut data).map_err(|why| match why {
            Unwritten::Unfit(why) => format!("shape {:?} does not fit topic {}: {}: {}", settings.shape, topic.name, why.path, why.message),
            Unwritten::NotYet(wanted) => wanted.why(),
        })?;
        let mut decoded = as_read(&event.config.name, &id, time, data);
        let unfit = |why| format!("shape {:?} does not fit event {}: {why}", settings.shape, event.config.name);
        let mut key = key(&contract, event, Message { topic: &topic.name, key: None, decoded: &decoded }).map_err(unfit)?;
        if let Some(fields) = event.encrypted() {
            let text = std::str::from_utf8(&body).ok();
            body = fields.encrypt(&mut decoded.data, text, &id).map_err(|why| why.to_string())?.1;
            let message = Message { topic: &topic.name, key: None, decoded: &decoded };
            key = event.key(&message).map_err(|v| format!("{}: {}", v.field, v.message))?;
        }
        let message = Message { topic: &topic.name, key: None, decoded: &decoded };
        let order_id = if told { event.order_id(&message).ok() } else { None };
        let draft = Draft {
            event: event.config.name.clone(),
            id,
            time,
            key,
            attributes: vec![("source".into(), "generator".into()), (attribute::SCHEMA_VERSION.into(), codec::SCHEMA_VERSION.into())],
            data: body,
        };
        let tracer = self.publisher.tracer();
        let span = tracer.enter(None);
        let what = For { trace: span.map(|span| span.context), order_id: None };
        let result = self.publisher.publish_for(what, &codec::encode(topic, &draft), PUBLISH_DEADLINE).await;
        tracer.end(span, || End::new(Kind::Internal, "generate").failed(result.as_ref().err().map(ToString::to_string)));
        result.map_err(|e| e.to_string())?;
        if told {
            let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            tracing::info!(orderId = order_id, made_at = time, key = draft.key, "order published");
        }
        Ok(())
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

/// Which orders are logged one by one: the first ones of each second.
#[derive(Default)]
struct Telling {
    since: Option<Instant>,
    made: u64,
}

impl Telling {
    fn next(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            if self.made > TOLD_A_SECOND {
                let more = self.made - TOLD_A_SECOND;
                tracing::info!(more, "orders were made in the last second that are not logged one by one");
            }
            (self.since, self.made) = (Some(now), 0);
        }
        self.made += 1;
        self.made <= TOLD_A_SECOND
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::broker::Broker;
    use crate::broker::embedded::EmbeddedBroker;
    use crate::codec::avro::Own;
    use crate::publish::Gate;
    use crate::roles::{Live, wishes};
    use crate::sqlite::{Database, Place};
    use crds::runtime_config::CodecConfig;

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
        let live = Live::new(start, Codecs::default(), None).unwrap();
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let publisher = Publisher::new(broker, Gate::open());
        let generator = Generator {
            config: live.config.clone(),
            contract: live.contract.clone(),
            codecs: Codecs::default(),
            publisher,
            counters: counters.clone(),
        };
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

    #[tokio::test]
    async fn another_rate_goes_on_with_the_same_orders_and_another_seed_begins_anew() {
        let plan = |generator: &str| Plan::of(&config(generator));
        let mut work = Work::follow(None, plan("{rate: 10, seed: 7}"));
        let mut alone = Work::follow(None, plan("{rate: 10, seed: 7}")).unwrap();
        let mut next = |work: &mut Option<Work>| {
            let work = work.as_mut().unwrap();
            (work.maker.next(&mut work.random), alone.maker.next(&mut alone.random))
        };
        let customers = |(one, other): &(serde_json::Value, serde_json::Value)| (one["customerId"].clone(), other["customerId"].clone());
        let first = next(&mut work);
        let run = |order: &serde_json::Value| order["orderId"].as_str().unwrap().split('-').nth(2).unwrap().to_owned();
        for rate in ["1000", "0", "20000"] {
            work = Work::follow(work, plan(&format!("{{rate: {rate}, seed: 7}}")));
            let now = next(&mut work);
            let (one, other) = customers(&now);
            assert_eq!(one, other, "the orders are those that would have come");
            assert_eq!(run(&now.0), run(&first.0), "of the same start");
        }
        assert_eq!(work.as_ref().unwrap().every, Some(Duration::from_micros(50)));
        work = Work::follow(work, plan("{rate: 20000, seed: 8}"));
        assert_ne!(run(&next(&mut work).0), run(&first.0), "another start");
    }

    #[tokio::test]
    async fn a_rate_that_is_raised_does_not_wait_for_what_was_due_before() {
        let slow = Work::follow(None, Plan::of(&config("{rate: 1}"))).unwrap();
        let due_late = Work { due: Instant::now() + Duration::from_secs(1), ..slow };
        let fast = Work::follow(Some(due_late), Plan::of(&config("{rate: 1000}"))).unwrap();
        assert!(fast.due <= Instant::now() + Duration::from_millis(1));
    }

    #[test]
    fn of_a_fast_generator_only_the_first_orders_of_a_second_are_logged() {
        let (mut telling, now) = (Telling::default(), Instant::now());
        assert_eq!((0..20_000).filter(|_| telling.next(now)).count(), 100);
        assert_eq!((0..50).filter(|_| telling.next(now + Duration::from_secs(1))).count(), 50);
    }

    #[test]
    fn every_shape_is_what_the_example_of_its_system_takes_and_another_one_is_told() {
        for (system, shape, other) in
            [("orders", "Orders", "Food"), ("food", "Food", "Orders"), ("retail", "Retail", "Food"), ("cart", "Cart", "Food")]
        {
            let file = format!("{}/../examples/{system}/pipeline.yaml", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&file).unwrap();
            let mut config = crds::resolve(&crds::document::read(&text).unwrap());
            let settings = |shape: &str| super::tests::config(&format!("{{shape: {shape}}}")).generator.unwrap();
            let publishes = config.generator.as_ref().map_or("OrderCreated", |generator| &generator.publishes).to_owned();
            config.generator = Some(GeneratorConfig { publishes: publishes.clone(), ..settings(shape) });
            let avro =
                std::fs::read_to_string(file.replace("pipeline.yaml", "order-event.avsc")).ok().map(|text| Own::parse(&text).unwrap());
            let seen = |topic: &TopicConfig, data: &mut Json<'_>| {
                let Some(own) = avro.as_ref().filter(|_| topic.codec != CodecConfig::Json) else { return Some(Ok(())) };
                Some(own.write(data, &mut Vec::new()).map_err(|unfit| unfit.message))
            };
            assert_eq!(misfit(&config, seen), None, "{system}");
            config.generator = Some(GeneratorConfig { publishes, ..settings(other) });
            let told = misfit(&config, seen).unwrap();
            assert!(told.starts_with(&format!("orders of the shape {other} are none of ")), "{told}");
        }
    }

    #[test]
    fn a_document_without_its_event_asks_for_nothing() {
        let mut without = config("{rate: 5}");
        assert!(Plan::of(&without).is_some());
        without.events.clear();
        assert_eq!(Plan::of(&without), None);
    }
}
