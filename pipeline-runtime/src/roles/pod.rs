//! One role of a pod: the API, the worker or the generator, on the broker and the store of the document.

use super::engines::Engines;
use super::membership::Membership;
use super::parts::{Beside, Live, keyring, keys, keys_in, make_topics, registry, wishes};
use super::{GRACE, SETTLE, credentials, stopped, told_to_stop};
use crate::api::{Admin, ApiParts, ApiState, Health, Limits, health, router, serve};
use crate::broker::Broker;
use crate::broker::kafka::{Kafka, KafkaSettings, Publishing};
use crate::codec::Codecs;
use crate::config::{Environment, Schemas, Secrets, Source, follow};
use crate::control::kubernetes::mounted;
use crate::generator::{Counters, Generator};
use crate::publish::{Brokers, Publisher};
use crate::sqlite::Place;
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{FailedMessages, Store, StoreError, Stores};
use crate::telemetry::{self, Carried, Lines};
use crate::worker::WorkerHealth;
use anyhow::Context;
use axum::Router;
use crds::Role;
use crds::document::Purpose;
use crds::pipeline::{Backend, SecretKeyRef};
use crds::runtime_config::{CONFIG_DIR, CONFIG_FILE, RuntimeConfig, SCHEMAS_DIR, SECRETS_DIR, StoreConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Debug, clap::Args)]
pub struct PodFlags {
    /// What to run: the configuration that the operator writes, or an OrderPipeline document.
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(CONFIG_DIR).join(CONFIG_FILE))]
    pub config: PathBuf,
    /// Where Secrets are mounted, as NAME/KEY; what is not there is taken from the environment (NAME_KEY).
    #[arg(long, value_name = "DIR", default_value = SECRETS_DIR)]
    pub secrets: PathBuf,
    /// Where ConfigMaps with Avro schemas are mounted, as NAME/KEY; what is not there is looked for beside the configuration, as KEY.
    #[arg(long, value_name = "DIR", default_value = SCHEMAS_DIR)]
    pub schemas: PathBuf,
    /// Where to listen: the API, or health and metrics of the other roles. Default: 0.0.0.0:8080 for the API, else 0.0.0.0:8081.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where the state of the switch is mounted: it brings the news when the API server is away.
    #[arg(long, value_name = "FILE", default_value_os_t = mounted())]
    pub switch: PathBuf,
}

/// Runs a role until SIGTERM.
pub async fn run(role: Role, flags: PodFlags) -> anyhow::Result<()> {
    let (stop, started) = (told_to_stop()?, chrono::Utc::now());
    let environment = Environment::here(Path::new(".")).map_err(anyhow::Error::msg)?;
    let schemas = Schemas::new(&flags.schemas, &flags.config);
    let source = Source { file: flags.config, purpose: Purpose::Deploy, environment: environment.clone() };
    let (config, said) = source.read().map_err(anyhow::Error::msg)?;
    telemetry::start(config.telemetry.log_level, Lines::Collected);
    for what in said {
        tracing::info!("from the environment: {what}");
    }
    let listen = flags.listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], role.port())));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("{listen} cannot be listened on"))?;
    let secrets = Secrets::new(&flags.secrets, environment);
    let mut beside = Beside::new();
    let (opened_by, known) = (config.clone(), secrets.clone());
    let brokers = Brokers::new(move |name| kafka(&opened_by, name, &known, role).map_err(|error| format!("{error:#}")));
    let mut membership = tokio::select! {
        begun = Membership::begin(&config, role, brokers, flags.switch, started, &mut beside) => begun?,
        () = stopped(stop.subscribe()) => return Ok(()),
    };
    beside.spawn(make_topics(membership.publisher.broker(), wishes(&config.topics)));
    let used = |backend: &&Backend| membership.switching.is_some() || *backend.name == *config.backend;
    for backend in config.backends.iter().filter(used) {
        let (backend, secrets, stop) = (backend.clone(), secrets.clone(), stop.clone());
        beside.spawn(async move {
            credentials::rotated(&backend, &secrets, credentials::EVERY, credentials::SPREAD).await;
            stop.send_replace(true);
        });
    }
    let codecs = Codecs::of(&config, |at| schemas.text(at), registry).map_err(anyhow::Error::msg)?;
    beside.spawn(codecs.clone().register());
    let keyring = keyring(&config, &secrets, None, &mut beside)?;
    let live = Live::new(config, codecs, keyring)?;
    let carried = Carried::start(&live.config, Some(role.name()), secrets.environment()).map_err(anyhow::Error::msg)?;
    membership.publisher = membership.publisher.traced(carried.tracer.clone());
    carried.metrics.add(membership.publisher.counted().clone());
    let pod = Pod { role, live, membership, secrets, source, stop: stop.subscribe(), beside, carried };
    match role {
        Role::Api => pod.api(listener).await,
        Role::Worker => pod.worker(listener).await,
        Role::Generator => pod.generator(listener).await,
    }
}

/// The Kafka client of a backend.
pub(super) fn kafka(config: &RuntimeConfig, backend: &str, secrets: &Secrets, role: Role) -> anyhow::Result<Arc<dyn Broker>> {
    let backend =
        config.backends.iter().find(|b| *b.name == *backend).with_context(|| format!("backend {backend} is not among spec.backends"))?;
    let document = backend.kafka.as_ref();
    let document = document.with_context(|| format!("backend {} is no Kafka: this version reaches no other backend", backend.name))?;
    let mut settings = KafkaSettings::read(&backend.name, document, |at| secrets.value(at))?;
    if role == Role::Generator {
        settings.publishing = Publishing::throughput();
    } else if let Some(api) = config.api.as_ref().filter(|_| role == Role::Api) {
        settings.publishing.deadline = api.publish_deadline;
    }
    let smallest = config.topics.iter().map(|topic| topic.max_message_bytes).min();
    settings.publishing = settings.publishing.for_topics_of(smallest.unwrap_or(usize::MAX));
    Ok(Arc::new(Kafka::new(settings)?))
}

/// The document's store; migrated by whoever comes first, as soon as it answers.
pub(super) async fn store(config: &RuntimeConfig, secrets: &Secrets, beside: &mut Beside) -> anyhow::Result<Stores> {
    let mut letters: Option<Arc<dyn FailedMessages>> = None;
    let store: Arc<dyn Store> = match &config.store {
        StoreConfig::Postgres { url, schema } => {
            let first = secrets.value(url)?;
            let store = Arc::new(PostgresStore::connect(&first, schema, PostgresOptions::default()).await?);
            beside.spawn(follow_url(store.clone(), first, url.clone(), secrets.clone()));
            letters = Some(store.clone());
            store
        }
        StoreConfig::Memory { max_orders } => Arc::new(SqliteStore::open(&Place::Memory, Some(*max_orders)).await?),
    };
    let (migrating, mut pause) = (store.clone(), Duration::from_millis(100));
    let migrate = async move {
        loop {
            match migrating.migrate().await {
                Ok(()) => return Ok(()),
                Err(StoreError::Transient(reason) | StoreError::Away(reason)) => {
                    tracing::warn!(reason, "the store's tables cannot be made yet, trying again in {pause:?}")
                }
                Err(refused) => return Err(refused),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    };
    // A database that is away must not keep a process from starting: it says 503, and waits.
    let mut migrate = tokio::spawn(migrate);
    if let Ok(done) = tokio::time::timeout(Duration::from_secs(5), &mut migrate).await {
        done??;
    }
    Ok(Stores { orders: store, letters })
}

/// New connections are made with the address and the password that are mounted now.
async fn follow_url(store: Arc<PostgresStore>, first: String, url: SecretKeyRef, secrets: Secrets) {
    let read = || secrets.value(&url).map_err(|e| e.to_string());
    let take_up = |new: &String| {
        store.set_url(new).map_err(|e| e.to_string())?;
        tracing::info!(secret = url.name, "the database's address or password has changed: new connections use it");
        Ok(())
    };
    follow(credentials::EVERY, first, read, take_up).await;
}

struct Pod {
    role: Role,
    live: Live,
    membership: Membership,
    secrets: Secrets,
    source: Source,
    stop: watch::Receiver<bool>,
    beside: Beside,
    carried: Carried,
}

impl Pod {
    fn publisher(&self) -> Publisher {
        self.membership.publisher.clone()
    }

    fn engines(&self, stores: Stores) -> Engines {
        let (live, secrets) = (self.live.clone(), self.secrets.clone());
        Engines { live, secrets, publisher: self.publisher(), switching: self.membership.switching.clone(), stores }
    }

    /// The very last: what was published is answered for, and nobody waits for this pod any more.
    async fn end(self) {
        settle(&self.membership.publisher).await;
        self.membership.end().await;
        self.carried.end().await;
    }

    /// What needs a new start is not for this pod: the operator makes new ones for it.
    fn follow(&mut self, take_up: impl Fn(&RuntimeConfig) -> Result<(), String> + Send + Sync + 'static) {
        let role = self.role;
        let opened = move |config: &RuntimeConfig| config.opened_once(role);
        self.beside.spawn(self.live.clone().follow(self.source.clone(), opened, take_up, |_| Ok(())));
    }

    async fn api(mut self, listener: TcpListener) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let api = config.api.as_ref().context("this pipeline has no spec.api: there is nothing to serve")?;
        let keys = keys(&api.keys, &self.secrets, None, &mut self.beside)?;
        let stores = store(&config, &self.secrets, &mut self.beside).await?;
        let admin = match &api.admin_keys {
            Some(secret) => {
                let keys = keys_in(secret, &self.secrets, &mut self.beside)?;
                Some(Admin {
                    keys,
                    requests: self.membership.requests(&self.live),
                    config: self.live.config.clone(),
                    letters: stores.letters.clone(),
                })
            }
            None => None,
        };
        let strict = api.idempotency == crds::pipeline::Idempotency::Strict;
        let publisher = self.publisher();
        let health = Health::new(publisher.broker().name(), strict, self.live.codecs.clone());
        tokio::spawn(health.clone().watch(publisher.clone(), Some(stores.orders.clone()), health::EVERY));
        if matches!(config.store, StoreConfig::Memory { .. }) {
            // Without a database each API process keeps a view of its own, read from the topics.
            self.engines(stores.clone()).views(&self.stop).into_iter().for_each(|view| drop(tokio::spawn(view)));
        }
        let parts = ApiParts {
            contract: self.live.contract.clone(),
            codecs: self.live.codecs.clone(),
            publisher: publisher.clone(),
            store: stores.orders,
            keys,
            keyring: self.live.keyring.clone(),
            admin,
            health,
            metrics: self.carried.metrics.clone(),
        };
        let state = ApiState::new(&config, parts)?;
        let reloading = state.clone();
        self.follow(move |new| reloading.reload(new).map_err(|e| e.to_string()));
        tracing::info!(address = %listener.local_addr()?, backend = publisher.broker().name(), "the API listens");
        serve(listener, router(state), Limits { grace: GRACE, ..Limits::default() }, stopped(self.stop.clone())).await;
        self.end().await;
        Ok(())
    }

    async fn worker(mut self, listener: TcpListener) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let stores = store(&config, &self.secrets, &mut self.beside).await?;
        let health = Arc::new(WorkerHealth::default());
        self.follow(|_| Ok(()));
        let publisher = self.publisher();
        self.carried.metrics.add(health.clone());
        let side = self.side(listener, &publisher);
        let mut engines = JoinSet::new();
        let all = self.engines(stores);
        all.workers(&health, &self.stop).into_iter().for_each(|worker| drop(engines.spawn(worker)));
        all.reviews(&health, &self.stop).into_iter().for_each(|review| drop(engines.spawn(review)));
        let mut ended = Ok(());
        while let Some(done) = engines.join_next().await {
            ended = done.map_err(anyhow::Error::from).and_then(|done| Ok(done?));
            if ended.is_err() {
                break; // the others end with the process, and whoever reads next goes on where they stopped
            }
        }
        self.end().await;
        side.abort();
        ended
    }

    async fn generator(mut self, listener: TcpListener) -> anyhow::Result<()> {
        anyhow::ensure!(self.live.config.load().generator.is_some(), "this pipeline has no spec.generator: there is nothing to make");
        let counters = Arc::new(Counters::default());
        let publisher = self.publisher();
        let generator = generator(&self.live, publisher.clone(), counters.clone());
        self.follow(|_| Ok(()));
        self.carried.metrics.add(counters);
        let side = self.side(listener, &publisher);
        generator.run(self.stop.clone()).await;
        self.end().await;
        side.abort();
        Ok(())
    }

    /// Health and metrics of a role that serves nothing else.
    fn side(&self, listener: TcpListener, publisher: &Publisher) -> tokio::task::JoinHandle<()> {
        // What a worker reads it reads without a schema of its own being registered.
        let codecs = if self.role == Role::Worker { Codecs::default() } else { self.live.codecs.clone() };
        let health = Health::new(publisher.broker().name(), false, codecs);
        tokio::spawn(health.clone().watch(publisher.clone(), None, health::EVERY));
        let routes: Router = health::router(health, self.carried.metrics.clone());
        tokio::spawn(async move {
            // One question for each connection: nobody has a place for longer than it takes to ask and to be answered.
            let limits = Limits { connections: 64, keep_alive: false, ..Limits::default() };
            serve(listener, routes, limits, std::future::pending()).await;
        })
    }
}

pub(super) fn generator(live: &Live, publisher: Publisher, counters: Arc<Counters>) -> Generator {
    Generator { config: live.config.clone(), contract: live.contract.clone(), codecs: live.codecs.clone(), publisher, counters }
}

/// Nothing new is published; what is on its way may arrive.
pub(super) async fn settle(publisher: &Publisher) {
    publisher.gate().shut();
    let end = Instant::now() + SETTLE;
    publisher.flush(SETTLE).await;
    let left = publisher.gate().settle(end.saturating_duration_since(Instant::now())).await;
    if left > 0 {
        tracing::warn!(left, "messages were still on their way: their outcome is unknown, and nobody was told that they were accepted");
    }
}
