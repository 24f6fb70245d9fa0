//! The whole worker over a broker and a store that fail on request.

mod fakes;
mod following;
mod interruptions;
mod order;
mod poison;
mod privacy;
mod review;
mod switching;

use super::{Limits, WorkerDeps, WorkerError, WorkerHealth, run};
use crate::broker::{Broker, Completion, Outgoing, Partition};
use crate::codec::{self, Draft};
use crate::contract::Contract;
use crate::control::Switching;
use crate::publish::{Gate, Publisher};
use arc_swap::ArcSwap;
use crds::runtime_config::{RetryPolicy, RuntimeConfig};
use fakes::{FakeBroker, FakeStore};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop, namespace: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders, partitions: 4}, {name: shipments, partitions: 1}]
  events:
  - name: Placed
    topics: [orders]
    effect: Create
    schema: {type: object, required: [quantity], properties: {quantity: {type: integer, minimum: 1}}}
    order: {tenant: data.tenant}
    emit: EMITS
  - name: Noted
    topics: [orders]
    effect: Update
    append: {notes: data.note}
  worker: {}
";

const TOPICS: [(&str, usize); 4] = [("orders", 4), ("orders-dlq", 1), ("shipments", 1), ("shipments-dlq", 1)];

struct Scene {
    broker: Arc<FakeBroker>,
    store: Arc<FakeStore>,
    health: Arc<WorkerHealth>,
    config: RuntimeConfig,
    limits: Limits,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), WorkerError>>,
}

impl Scene {
    fn new(store: FakeStore) -> Scene {
        Scene::emitting(store, "[]")
    }

    fn emitting(store: FakeStore, emits: &str) -> Scene {
        let document = crds::document::read(&DOCUMENT.replace("EMITS", emits)).unwrap();
        let mut config = crds::pipeline::resolve(&document);
        let worker = config.worker.as_mut().unwrap();
        worker.poll_interval = Duration::from_millis(10);
        worker.retry = RetryPolicy { attempts: 3, base: Duration::from_millis(5), max: Duration::from_millis(20), jitter_percent: 25 };
        let broker = FakeBroker::new(&TOPICS);
        Scene { broker, store: Arc::new(store), health: Arc::default(), config, limits: Limits::default() }
    }

    fn start(&self) -> Running {
        self.start_with_config().1
    }

    /// Also the configuration that the worker looks at.
    fn start_with_config(&self) -> (Arc<ArcSwap<RuntimeConfig>>, Running) {
        let config = Arc::new(ArcSwap::from_pointee(self.config.clone()));
        let publisher = Publisher::new(self.broker.clone(), Gate::open());
        (config.clone(), Running::start(self.deps(config, self.contract(), self.broker.clone(), publisher, None)))
    }

    fn contract(&self) -> Arc<ArcSwap<Contract>> {
        Arc::new(ArcSwap::from_pointee(Contract::compile(&self.config).unwrap()))
    }

    fn deps(
        &self,
        config: Arc<ArcSwap<RuntimeConfig>>,
        contract: Arc<ArcSwap<Contract>>,
        broker: Arc<dyn Broker>,
        publisher: Publisher,
        switching: Option<Arc<Switching>>,
    ) -> WorkerDeps {
        WorkerDeps {
            contract,
            config,
            codecs: Default::default(),
            publisher,
            broker,
            switching,
            store: self.store.clone(),
            health: self.health.clone(),
            limits: self.limits,
            grace: Duration::from_secs(5),
        }
    }

    /// Publishes an event of an order and returns nothing: the fake broker takes everything.
    fn publish(&self, event: &str, order: &str, id: &str, data: &str) {
        self.send(self.message(event, order, id, data));
    }

    fn message(&self, event: &str, order: &str, id: &str, data: &str) -> Outgoing {
        let topic = self.config.topic("orders").unwrap();
        let data = format!("{{\"orderId\": \"{order}\"{data}}}");
        let draft = Draft {
            event: event.into(),
            id: id.into(),
            time: chrono::DateTime::UNIX_EPOCH,
            key: order.into(),
            attributes: vec![("requestId".into(), format!("r-{id}"))],
            data: data.into(),
        };
        codec::encode(topic, &draft)
    }

    fn send(&self, message: Outgoing) {
        self.broker.publish(message, Completion::new(None).0);
    }

    fn place(&self, order: &str) {
        self.publish("Placed", order, &format!("{order}-0"), ", \"quantity\": 1");
    }

    fn note(&self, order: &str, number: usize) {
        self.publish("Noted", order, &format!("{order}-{number}"), &format!(", \"note\": {number}"));
    }

    /// Places orders, each followed by so many notes; one event of each in turn.
    fn place_many(&self, orders: usize, notes: usize) {
        for number in 0..=notes {
            for order in 0..orders {
                if number == 0 { self.place(&format!("O{order}")) } else { self.note(&format!("O{order}"), number) }
            }
        }
    }

    /// Every event took effect exactly once, in the order of its order, and is committed.
    fn assert_all_in_order(&self, orders: usize, notes: usize) {
        self.assert_effects_in_order(orders, notes);
        assert!(self.broker.drained("orders"));
    }

    fn assert_effects_in_order(&self, orders: usize, notes: usize) {
        for order in 0..orders {
            let expected: Vec<String> = (0..=notes).map(|number| format!("O{order}-{number}")).collect();
            assert_eq!(self.store.effects(&format!("O{order}")), expected);
        }
    }

    /// One worker, from its start until nothing is left to do.
    async fn run_until_drained(&self) {
        let worker = self.start();
        self.drained().await;
        worker.stop().await;
    }

    async fn drained(&self) {
        eventually("every event is complete and committed", || self.broker.drained("orders")).await;
    }

    /// Waits until an apply has begun that nobody has let through the gate.
    async fn applying(&self, begun: usize) {
        eventually("a batch is in the store's hands", || self.store.begun.load(SeqCst) >= begun).await;
    }

    /// Waits until the worker has dealt with all that it was told.
    async fn obeyed(&self) {
        let before = self.broker.polls.load(SeqCst);
        eventually("the worker has obeyed", || self.broker.polls.load(SeqCst) > before + 2).await;
    }

    /// A header of each dead letter.
    fn letters(&self, header: &str) -> Vec<String> {
        let text = |m: &crate::broker::Incoming| String::from_utf8(m.header(header).unwrap_or_default().to_vec()).unwrap();
        self.broker.messages("orders-dlq").iter().map(text).collect()
    }

    fn partition_of(&self, order: &str) -> Partition {
        self.partition_on(&self.broker, order)
    }

    fn partition_on(&self, broker: &FakeBroker, order: &str) -> Partition {
        let messages = broker.messages("orders");
        messages.iter().find(|m| m.key.as_deref() == Some(order.as_bytes())).unwrap().at.partition.clone()
    }
}

impl Running {
    fn start(deps: WorkerDeps) -> Running {
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(run(deps, async {
            let _ = stopped.await;
        }));
        Running { stop, ended }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.ended.await.unwrap().unwrap();
    }

    /// As kill -9: no goodbye, no commit.
    async fn kill(self) {
        self.ended.abort();
        let _ = self.ended.await;
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}
