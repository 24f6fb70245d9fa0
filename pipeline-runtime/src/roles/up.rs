//! `up`: everything of a document in one process, on a laptop, with nothing else installed.

use super::parts::{Live, keys, make_topics, wishes};
use super::pod::{self, Role, generator, settle};
use super::{GRACE, stopped, told_to_stop};
use crate::api::{ApiParts, ApiState, Health, Limits, health, router, serve};
use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::config::{Environment, Secrets, document};
use crate::generator::Counters;
use crate::publish::{Gate, Publisher};
use crate::sqlite::{Database, Place};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use crate::worker::{self, WorkerDeps, WorkerHealth};
use anyhow::Context;
use crds::pipeline::Idempotency;
use crds::runtime_config::{Dialect, RuntimeConfig, SECRETS_DIR, StoreConfig};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The key where none is set.
const DEV_KEY: &str = "dev";

#[derive(Debug, clap::Args)]
pub struct UpFlags {
    /// The OrderPipeline document.
    pub file: PathBuf,
    /// The API's port, on 127.0.0.1.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where the state is kept. Default: .orderpipeline/<name>
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Use the broker and the store that the document names, instead of the built-in ones.
    #[arg(long)]
    pub live: bool,
}

pub async fn run(flags: UpFlags) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let environment = Environment::here(Path::new("."));
    let text = std::fs::read_to_string(&flags.file).with_context(|| format!("{} cannot be read", flags.file.display()))?;
    let pipeline = document(&flags.file, &text).map_err(anyhow::Error::msg)?;
    let mut config = crds::resolve(&pipeline);
    if flags.live {
        for what in environment.apply(&mut config).map_err(anyhow::Error::msg)? {
            eprintln!("from the environment: {what}");
        }
    }
    crate::telemetry::start(config.telemetry.log_level);
    let secrets = Secrets::new(SECRETS_DIR, environment.clone());
    let place = if flags.live { Grounds::live(&config, &secrets).await? } else { Grounds::built_in(&config, &flags).await? };
    make_topics_now(&place.broker, &config).await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, flags.port));
    let listener = match &config.api {
        Some(_) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.with_context(|| format!("{address} cannot be listened on: choose another port with --port"))?)
        }
        None => None,
    };
    let address = listener.as_ref().map_or(Ok(address), TcpListener::local_addr)?;
    let example = config.api.as_ref().and_then(|api| pipeline.spec.events.iter().find(|e| e.name == *api.creates)?.example.as_ref());
    let example = example.map_or_else(|| EXAMPLE.to_owned(), |e| e.0.to_string());
    print!("{}", greeting(&config, &place, address, environment.get("API_KEY"), &example)?);
    let overrides = if flags.live { environment } else { Environment::default() };
    let up = Up { live: Live::new(config)?, place, secrets, file: flags.file, environment: overrides, stop };
    up.run(listener).await
}

/// What the pipeline stands on.
struct Grounds {
    broker: Arc<dyn Broker>,
    store: Arc<dyn Store>,
    /// For people: where messages and orders are.
    broker_is: String,
    store_is: String,
    /// The built-in database, to be closed at the end.
    database: Option<(Database, Arc<EmbeddedBroker>)>,
}

impl Grounds {
    async fn built_in(config: &RuntimeConfig, flags: &UpFlags) -> anyhow::Result<Grounds> {
        let folder = flags.data.clone().unwrap_or_else(|| Path::new(".orderpipeline").join(&config.pipeline));
        let file = folder.join("state.db");
        let database = Database::open(&Place::File(file.clone())).await?;
        let store = Arc::new(SqliteStore::on(database.clone(), None));
        store.migrate().await?;
        let broker = Arc::new(EmbeddedBroker::open(database.clone(), &config.backend).await?);
        let stands_for = match &config.store {
            StoreConfig::Postgres { .. } => "SQLite in the place of PostgreSQL",
            StoreConfig::Memory { .. } => "SQLite",
        };
        Ok(Grounds {
            broker_is: format!("built in, in the place of backend {} ({})", config.backend, file.display()),
            store_is: format!("{stands_for} ({})", file.display()),
            broker: broker.clone(),
            store,
            database: Some((database, broker)),
        })
    }

    async fn live(config: &RuntimeConfig, secrets: &Secrets) -> anyhow::Result<Grounds> {
        let backend = config.backend().and_then(|b| b.kafka.as_ref()).and_then(|k| k.bootstrap_servers.as_deref());
        Ok(Grounds {
            broker_is: format!("backend {} at {}", config.backend, backend.unwrap_or("its address")),
            store_is: match &config.store {
                StoreConfig::Postgres { url, schema } => format!("PostgreSQL of secret {}/{}, schema {schema}", url.name, url.key),
                StoreConfig::Memory { .. } => "in memory: gone when this process ends".into(),
            },
            broker: pod::kafka(config, secrets, Role::Api)?,
            store: pod::store(config, secrets).await?,
            database: None,
        })
    }
}

/// The built-in broker takes them at once; one that is away is tried again for as long as the process runs.
async fn make_topics_now(broker: &Arc<dyn Broker>, config: &RuntimeConfig) -> anyhow::Result<()> {
    let wishes = wishes(&config.topics);
    if broker.ensure_topics(&wishes).await.is_err() {
        tokio::spawn(make_topics(broker.clone(), wishes));
    }
    Ok(())
}

struct Up {
    live: Live,
    place: Grounds,
    secrets: Secrets,
    file: PathBuf,
    /// What overrides the document: nothing, unless it is run as it stands (`--live`).
    environment: Environment,
    stop: watch::Receiver<bool>,
}

impl Up {
    async fn run(self, listener: Option<TcpListener>) -> anyhow::Result<()> {
        let config = self.live.config.load_full();
        let publisher = Publisher::new(self.place.broker.clone(), Gate::open());
        // The worker ends after the others: dead letters and emits go through the same publisher.
        let (last, worker_stop) = watch::channel(false);
        let mut roles: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let mut api = None;
        if let Some(listener) = listener {
            let state = self.api(&config, publisher.clone())?;
            api = Some(state.clone());
            let limits = Limits { grace: GRACE, ..Limits::default() };
            let stop = stopped(self.stop.clone());
            roles.spawn(async move {
                serve(listener, router(state), limits, stop).await;
                Ok(())
            });
        }
        if config.generator.is_some() {
            let generator = generator(&self.live, &config, publisher.clone(), Arc::new(Counters::default()))?;
            let stop = self.stop.clone();
            roles.spawn(async move {
                generator.run(stop).await;
                Ok(())
            });
        }
        let worker = config.worker.is_some().then(|| tokio::spawn(worker::run(self.worker(publisher.clone()), stopped(worker_stop))));
        let take_up = move |new: &RuntimeConfig| api.as_ref().map_or(Ok(()), |api| api.reload(new).map_err(|e| e.to_string()));
        self.live.follow(self.file.clone(), self.environment.clone(), take_up);

        stopped(self.stop.clone()).await;
        eprintln!("ending: what was accepted is finished or kept for the next start");
        while let Some(ended) = roles.join_next().await {
            ended??;
        }
        last.send_replace(true);
        if let Some(worker) = worker {
            worker.await??;
        }
        settle(&publisher).await;
        if let Some((database, broker)) = &self.place.database {
            broker.close().await;
            database.close().await;
        }
        Ok(())
    }

    fn api(&self, config: &RuntimeConfig, publisher: Publisher) -> anyhow::Result<Arc<ApiState>> {
        let api = config.api.as_ref();
        let strict = api.is_some_and(|a| a.idempotency == Idempotency::Strict);
        let health = Health::new(self.place.broker.name(), strict);
        tokio::spawn(health.clone().watch(self.place.broker.clone(), Some(self.place.store.clone()), health::EVERY));
        let parts = ApiParts {
            contract: self.live.contract.clone(),
            publisher,
            store: self.place.store.clone(),
            keys: keys(api.and_then(|a| a.keys.as_ref()), &self.secrets, Some(DEV_KEY))?,
            health,
        };
        Ok(ApiState::new(config, parts)?)
    }

    fn worker(&self, publisher: Publisher) -> WorkerDeps {
        WorkerDeps {
            config: self.live.config.clone(),
            contract: self.live.contract.clone(),
            broker: self.place.broker.clone(),
            publisher,
            store: self.place.store.clone(),
            health: Arc::new(WorkerHealth::default()),
            limits: worker::Limits::default(),
            grace: GRACE,
        }
    }
}

/// What runs where, and what to try next.
fn greeting(
    config: &RuntimeConfig,
    place: &Grounds,
    address: SocketAddr,
    key: Option<&str>,
    example: &str,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{} runs", config.pipeline)?;
    if config.api.is_some() {
        let origin = if key.is_some() { "from API_KEY" } else { "\"dev\", since API_KEY is neither set nor in .env" };
        writeln!(text, "  api        http://{address}, key {origin}")?;
    }
    if let Some(worker) = &config.worker {
        let topics: Vec<&str> = config.topics.iter().filter(|t| t.dead_letter.is_some()).map(|t| t.name.as_str()).collect();
        writeln!(text, "  worker     group {}, topics {}", worker.group, topics.join(" "))?;
    }
    if let Some(generator) = &config.generator {
        writeln!(text, "  generator  {} {} a second", generator.rate, generator.publishes)?;
    }
    writeln!(text, "  broker     {}", place.broker_is)?;
    writeln!(text, "  store      {}", place.store_is)?;
    if config.api.as_ref().is_some_and(|api| api.dialect == Dialect::Orders) {
        // Not the key itself: terminals are recorded and shared.
        let shown = if key.is_some() { "$API_KEY" } else { DEV_KEY };
        writeln!(text, "try")?;
        writeln!(
            text,
            "  curl http://{address}/orders -H \"X-API-Key: {shown}\" -H 'Content-Type: application/json' -d '{}'",
            example.replace('\'', "'\\''")
        )?;
        writeln!(text, "  curl \"http://{address}/orders?limit=5\" -H \"X-API-Key: {shown}\"")?;
    }
    writeln!(text, "Ctrl-C ends it; the next `up` goes on where it stopped.")?;
    Ok(text)
}

/// An order that the dialect's own schema accepts.
const EXAMPLE: &str = r#"{"customerId":"c-1","items":[{"sku":"tea","quantity":2,"unitPrice":3.5}],"totalAmount":7}"#;
