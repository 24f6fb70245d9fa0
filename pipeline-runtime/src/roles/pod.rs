//! One role of a pod: the API, the worker or the generator, on the broker and the store of the document.

use super::parts::{Live, keys, make_topics, wishes};
use super::{GRACE, stopped, told_to_stop};
use crate::api::{ApiParts, ApiState, Health, Limits, health, router, serve};
use crate::broker::Broker;
use crate::broker::kafka::{Kafka, KafkaSettings, Publishing};
use crate::config::{Environment, Secrets, read};
use crate::generator::{Counters, Generator};
use crate::publish::{Gate, Publisher};
use crate::sqlite::Place;
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::worker::{self, ViewDeps, WorkerDeps, WorkerHealth};
use anyhow::Context;
use axum::Router;
use crds::runtime_config::{CONFIG_DIR, CONFIG_FILE, RuntimeConfig, SECRETS_DIR, StoreConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
    Generator,
}

#[derive(Debug, clap::Args)]
pub struct PodFlags {
    /// What to run: the configuration that the operator writes, or an OrderPipeline document.
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(CONFIG_DIR).join(CONFIG_FILE))]
    pub config: PathBuf,
    /// Where Secrets are mounted, as NAME/KEY; what is not there is taken from the environment (NAME_KEY).
    #[arg(long, value_name = "DIR", default_value = SECRETS_DIR)]
    pub secrets: PathBuf,
    /// Where to listen: the API, or health and metrics of the other roles. Default: 0.0.0.0:8080 for the API, else 0.0.0.0:8081.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// Runs a role until SIGTERM.
pub async fn run(role: Role, flags: PodFlags) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let environment = Environment::here(Path::new("."));
    let mut config = read(&flags.config).map_err(anyhow::Error::msg)?;
    let said = environment.apply(&mut config).map_err(anyhow::Error::msg)?;
    crate::telemetry::start(config.telemetry.log_level);
    for what in said {
        tracing::info!("from the environment: {what}");
    }
    let port = if role == Role::Api { 8080 } else { 8081 };
    let listen = flags.listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], port)));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("{listen} cannot be listened on"))?;
    let secrets = Secrets::new(&flags.secrets, environment);
    let pod = Pod { broker: kafka(&config, &secrets, role)?, live: Live::new(config)?, secrets, file: flags.config, stop };
    tokio::spawn(make_topics(pod.broker.clone(), wishes(&pod.live.config.load().topics)));
    match role {
        Role::Api => pod.api(listener).await,
        Role::Worker => pod.worker(listener).await,
        Role::Generator => pod.generator(listener).await,
    }
}

/// The Kafka client of the backend that the document asks for.
pub(super) fn kafka(config: &RuntimeConfig, secrets: &Secrets, role: Role) -> anyhow::Result<Arc<dyn Broker>> {
    let backend = config.backend().with_context(|| format!("backend {} is not among spec.backends", config.backend))?;
    let document = backend.kafka.as_ref();
    let document = document.with_context(|| format!("backend {} is no Kafka: this version reaches no other backend", backend.name))?;
    let mut settings = KafkaSettings::read(&backend.name, document, |at| secrets.value(at))?;
    if role == Role::Generator {
        settings.publishing = Publishing::throughput();
    } else if let Some(api) = config.api.as_ref().filter(|_| role == Role::Api) {
        settings.publishing.deadline = api.publish_deadline;
    }
    Ok(Arc::new(Kafka::new(settings)?))
}

/// The document's store; migrated by whoever comes first, as soon as it answers.
pub(super) async fn store(config: &RuntimeConfig, secrets: &Secrets) -> anyhow::Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = match &config.store {
        StoreConfig::Postgres { url, schema } => {
            Arc::new(PostgresStore::connect(&secrets.value(url)?, schema, PostgresOptions::default()).await?)
        }
        StoreConfig::Memory { max_orders } => Arc::new(SqliteStore::open(&Place::Memory, Some(*max_orders)).await?),
    };
    let (migrating, mut pause) = (store.clone(), Duration::from_millis(100));
    let migrate = async move {
        loop {
            match migrating.migrate().await {
                Ok(()) => return Ok(()),
                Err(StoreError::Transient(reason)) => {
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
    Ok(store)
}

struct Pod {
    live: Live,
    broker: Arc<dyn Broker>,
    secrets: Secrets,
    file: PathBuf,
    stop: watch::Receiver<bool>,
}

impl Pod {
    fn publisher(&self) -> Publisher {
        Publisher::new(self.broker.clone(), Gate::open())
    }

    async fn api(self, listener: TcpListener) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let api = config.api.as_ref().context("this pipeline has no spec.api: there is nothing to serve")?;
        let keys = keys(api.keys.as_ref(), &self.secrets, None)?;
        let store = store(&config, &self.secrets).await?;
        let strict = api.idempotency == crds::pipeline::Idempotency::Strict;
        let health = Health::new(self.broker.name(), strict);
        tokio::spawn(health.clone().watch(self.broker.clone(), Some(store.clone()), health::EVERY));
        if matches!(config.store, StoreConfig::Memory { .. }) {
            // Without a database each API process keeps a view of its own, read from the topics.
            let view = ViewDeps {
                config: self.live.config.clone(),
                contract: self.live.contract.clone(),
                broker: self.broker.clone(),
                store: store.clone(),
            };
            tokio::spawn(worker::view(view, stopped(self.stop.clone())));
        }
        let publisher = self.publisher();
        let parts = ApiParts { contract: self.live.contract.clone(), publisher: publisher.clone(), store, keys, health };
        let state = ApiState::new(&config, parts)?;
        let reloading = state.clone();
        self.live.follow(self.file, self.secrets.environment().clone(), move |new| reloading.reload(new).map_err(|e| e.to_string()));
        tracing::info!(address = %listener.local_addr()?, backend = self.broker.name(), "the API listens");
        serve(listener, router(state), Limits { grace: GRACE, ..Limits::default() }, stopped(self.stop)).await;
        settle(&publisher).await;
        Ok(())
    }

    async fn worker(self, listener: TcpListener) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let store = store(&config, &self.secrets).await?;
        let health = Arc::new(WorkerHealth::default());
        self.live.follow(self.file.clone(), self.secrets.environment().clone(), |_| Ok(()));
        let side = self.side(listener, {
            let health = health.clone();
            Arc::new(move || health.counters.render())
        });
        let publisher = self.publisher();
        let deps = WorkerDeps {
            config: self.live.config.clone(),
            contract: self.live.contract.clone(),
            broker: self.broker.clone(),
            publisher: publisher.clone(),
            store,
            health,
            limits: worker::Limits::default(),
            grace: GRACE,
        };
        let ended = worker::run(deps, stopped(self.stop.clone())).await;
        settle(&publisher).await;
        side.abort();
        Ok(ended?)
    }

    async fn generator(self, listener: TcpListener) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let counters = Arc::new(Counters::default());
        let publisher = self.publisher();
        let generator = generator(&self.live, &config, publisher.clone(), counters.clone())?;
        self.live.follow(self.file.clone(), self.secrets.environment().clone(), |_| Ok(()));
        let side = self.side(listener, Arc::new(move || counters.render()));
        generator.run(self.stop.clone()).await;
        settle(&publisher).await;
        side.abort();
        Ok(())
    }

    /// Health and metrics of a role that serves nothing else.
    fn side(&self, listener: TcpListener, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> tokio::task::JoinHandle<()> {
        let health = Health::new(self.broker.name(), false);
        tokio::spawn(health.clone().watch(self.broker.clone(), None, health::EVERY));
        let routes: Router = health::router(health, Some(metrics));
        tokio::spawn(async move {
            serve(listener, routes, Limits { connections: 64, ..Limits::default() }, std::future::pending()).await;
        })
    }
}

pub(super) fn generator(live: &Live, config: &RuntimeConfig, publisher: Publisher, counters: Arc<Counters>) -> anyhow::Result<Generator> {
    let settings = config.generator.clone().context("this pipeline has no spec.generator: there is nothing to make")?;
    let topic = config.event(&settings.publishes).and_then(|e| e.topics.first()).and_then(|t| config.topic(t)).cloned();
    let topic =
        topic.with_context(|| format!("spec.generator.publishes: event {} or its topic is not in the document", settings.publishes))?;
    Ok(Generator { config: settings, topic, contract: live.contract.clone(), publisher, counters })
}

/// Nothing new is published; what is on its way may arrive.
pub(super) async fn settle(publisher: &Publisher) {
    publisher.gate().shut();
    let within = Duration::from_secs(5);
    publisher.broker().flush(within).await;
    let left = publisher.gate().settle(within).await;
    if left > 0 {
        tracing::warn!(left, "messages were still on their way: their outcome is unknown, and nobody was told that they were accepted");
    }
}
