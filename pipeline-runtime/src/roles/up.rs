//! `up`: everything of a document in one process, on a laptop, with nothing else installed.

use super::engines::Engines;
use super::greeting::{self, DEV_KEY, Key};
use super::parts::{Beside, Live, keyring, keys, make_topics, needs, registry, wishes};
use super::pod::{self, generator, settle};
use super::{GRACE, complain, say, stopped, told_to_stop};
use crate::api::{Admin, ApiParts, ApiState, Health, Limits, health, router, serve};
use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::codec::Codecs;
use crate::codec::avro::registry::{self as schema_registry, Registry};
use crate::config::{Environment, Schemas, Secrets, Source, document};
use crate::control::{Kept, Local, Requests, Switching, local_gate, names_all};
use crate::generator::Counters;
use crate::pii;
use crate::publish::{Brokers, Gate, Publisher, States};
use crate::sqlite::{Database, Place};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, Stores};
use crate::telemetry::{self, Carried, Lines};
use crate::worker::WorkerHealth;
use anyhow::Context;
use crds::Role;
use crds::document::Purpose;
use crds::member::BackendRequest;
use crds::pipeline::Idempotency;
use crds::role::Opened;
use crds::runtime_config::{RuntimeConfig, SCHEMAS_DIR, SECRETS_DIR, StoreConfig};
use crds::switch::{Rules, SwitchState};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

/// Beside the built-in database: the schemas of what lies in it.
const SCHEMAS_FILE: &str = "schemas.json";

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
    /// Use the broker and the store that the document names, instead of the built-in ones. With several backends only one process may do
    /// so: it moves from one to the other without asking anybody else.
    #[arg(long)]
    pub live: bool,
}

pub async fn run(flags: UpFlags) -> anyhow::Result<()> {
    let stop = told_to_stop()?.subscribe();
    let environment = Environment::here(Path::new(".")).map_err(anyhow::Error::msg)?;
    // As the built-in parts stand for those of the document, what overrides these does not matter either; a collector is a real one.
    let (purpose, overriding) =
        if flags.live { (Purpose::Deploy, environment.clone()) } else { (Purpose::Embedded, environment.of_telemetry()) };
    let text = std::fs::read_to_string(&flags.file).with_context(|| format!("{} cannot be read", flags.file.display()))?;
    let pipeline = document(&flags.file, &text, purpose).map_err(anyhow::Error::msg)?;
    let mut config = crds::resolve(&pipeline);
    for what in overriding.apply(&mut config).map_err(anyhow::Error::msg)? {
        complain(format!("from the environment: {what}"));
    }
    telemetry::start(config.telemetry.log_level, Lines::Plain);
    let key = Key::of(&environment, Path::new("."));
    let secrets = Secrets::new(SECRETS_DIR, environment);
    let source = Source { file: flags.file.clone(), purpose, environment: overriding };
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, flags.port));
    let mut greeted = false;
    loop {
        let keys = local_keys(&config, &flags, &secrets)?;
        let (up, listener) = Up::start(&flags, config, &secrets, &mut address).await?;
        if !greeted {
            let example = greeting::example(&pipeline, &up.live.config.load());
            say(greeting::greeting(&up.live.config.load(), &up.place, address, &key, &keys, &example)?.trim_end())?;
            greeted = true;
        }
        match up.run(listener, source.clone(), stop.clone()).await? {
            Ended::Told => return Ok(()),
            Ended::Changed(new) => config = *new,
        }
        telemetry::follow(config.telemetry.log_level);
        tracing::info!("starting anew with the changed document");
    }
}

/// The folder of a laptop's own keys of encrypted fields, beside its state: without them that could not be read.
const PII_KEYS: &str = "pii-keys";

/// Makes them where there are none and nobody has given others. What they are, for people; empty where nothing is encrypted.
fn local_keys(config: &RuntimeConfig, flags: &UpFlags, secrets: &Secrets) -> anyhow::Result<String> {
    let Some(settings) = &config.pii else { return Ok(String::new()) };
    if secrets.folder(&settings.keys).exists() {
        return Ok(format!("of Secret {}", settings.keys.name));
    }
    if secrets.environment().get(pii::VARIABLE).is_some() {
        return Ok(format!("from {}", pii::VARIABLE));
    }
    let folder = folder(config, flags).join(PII_KEYS);
    let made = pii::make(&folder, &chrono::Utc::now().format("%Y-%m-%d").to_string());
    let made = made.with_context(|| format!("the keys of encrypted fields cannot be made in {}", folder.display()))?;
    let (folder, how) = (folder.display(), if made { "made now" } else { "made by an earlier up" });
    Ok(format!("{folder}, {how}: what is encrypted cannot be read without them"))
}

/// What the pipeline stands on.
pub struct Grounds {
    brokers: Arc<Brokers>,
    /// The one that is written to at the start.
    broker: Arc<dyn Broker>,
    /// Which broker holds which orders.
    kept: Kept,
    switch: Arc<SwitchState>,
    stores: Stores,
    /// For people: where messages and orders are.
    pub broker_is: String,
    pub store_is: String,
    /// Whether the orders outlive the process.
    pub keeps: bool,
    /// The built-in database and its brokers, to be closed at the end.
    database: Option<(Database, Vec<Arc<EmbeddedBroker>>)>,
}

/// The folder in which the state of a pipeline lies.
fn folder(config: &RuntimeConfig, flags: &UpFlags) -> PathBuf {
    flags.data.clone().unwrap_or_else(|| Path::new(".orderpipeline").join(&config.pipeline))
}

/// Which broker holds which orders, where nothing was kept yet: those of the document.
fn switch_state(config: &RuntimeConfig, kept: Kept) -> anyhow::Result<(Kept, Arc<SwitchState>)> {
    let state = Arc::new(kept.read(config)?);
    Ok((kept, state))
}

impl Grounds {
    async fn built_in(config: &RuntimeConfig, flags: &UpFlags) -> anyhow::Result<Grounds> {
        let file = folder(config, flags).join("state.db");
        let database = Database::open(&Place::File(file.clone())).await?;
        let store = Arc::new(SqliteStore::on(database.clone(), None));
        store.migrate().await?;
        let mut built_in = Vec::new();
        for backend in &config.backends {
            built_in.push(Arc::new(EmbeddedBroker::open(database.clone(), &backend.name).await?));
        }
        let brokers = Brokers::of(built_in.iter().map(|broker| broker.clone() as Arc<dyn Broker>));
        let (kept, switch) = switch_state(config, Kept::new(&folder(config, flags)))?;
        let writing = switch.newest().backend.clone();
        let stands_for = match &config.store {
            StoreConfig::Postgres { .. } => "SQLite in the place of PostgreSQL",
            StoreConfig::Memory { .. } => "SQLite",
        };
        Ok(Grounds {
            broker_is: format!("built in, in the place of backend {writing} ({})", file.display()),
            store_is: format!("{stands_for} ({})", file.display()),
            keeps: true,
            broker: brokers.get(&writing).map_err(anyhow::Error::msg)?,
            brokers,
            kept,
            switch,
            stores: Stores { orders: store.clone(), letters: Some(store) },
            database: Some((database, built_in)),
        })
    }

    async fn live(config: &RuntimeConfig, flags: &UpFlags, secrets: &Secrets, beside: &mut Beside) -> anyhow::Result<Grounds> {
        let (kept, switch) = switch_state(config, Kept::live(&folder(config, flags))?)?;
        let writing = switch.newest().backend.clone();
        let backend = config.backends.iter().find(|b| *b.name == *writing).and_then(|b| b.kafka.as_ref());
        let address = backend.and_then(|k| k.bootstrap_servers.as_deref()).unwrap_or("its address");
        let (opened_by, known) = (config.clone(), secrets.clone());
        let brokers = Brokers::new(move |name| pod::kafka(&opened_by, name, &known, Role::Api).map_err(|error| format!("{error:#}")));
        Ok(Grounds {
            broker_is: format!("backend {writing} at {address}"),
            store_is: match &config.store {
                StoreConfig::Postgres { url, schema } => format!("PostgreSQL of secret {}/{}, schema {schema}", url.name, url.key),
                StoreConfig::Memory { .. } => "in memory: gone when this process ends".into(),
            },
            keeps: matches!(config.store, StoreConfig::Postgres { .. }),
            broker: brokers.get(&writing).map_err(anyhow::Error::msg)?,
            brokers,
            kept,
            switch,
            stores: pod::store(config, secrets, beside).await?,
            database: None,
        })
    }
}

/// The built-in broker takes them at once; one that is away is tried again for as long as the process runs.
async fn make_topics_now(broker: &Arc<dyn Broker>, config: &RuntimeConfig, beside: &mut Beside) {
    let wishes = wishes(&config.topics);
    if broker.ensure_topics(&wishes).await.is_err() {
        beside.spawn(make_topics(broker.clone(), wishes));
        return;
    }
    for wish in &wishes {
        if let Ok(Some(facts)) = broker.topic(&wish.name).await
            && facts.partitions.unsigned_abs() != wish.partitions
        {
            tracing::warn!("{}", other_partitions(&wish.name, facts.partitions.unsigned_abs(), wish.partitions));
        }
    }
}

/// The pipeline from one start to the next.
struct Up {
    live: Live,
    place: Grounds,
    secrets: Secrets,
    beside: Beside,
    carried: Carried,
}

/// Why it ended.
enum Ended {
    Told,
    /// The document has changed in what is read only at the start.
    Changed(Box<RuntimeConfig>),
}

/// Roles by their names, each until its end.
type Roles = JoinSet<(Role, anyhow::Result<()>)>;

impl Up {
    async fn start(
        flags: &UpFlags,
        config: RuntimeConfig,
        secrets: &Secrets,
        address: &mut SocketAddr,
    ) -> anyhow::Result<(Up, Option<TcpListener>)> {
        let mut beside = Beside::new();
        let place =
            if flags.live { Grounds::live(&config, flags, secrets, &mut beside).await? } else { Grounds::built_in(&config, flags).await? };
        make_topics_now(&place.broker, &config, &mut beside).await;
        // With --live those of another one are made when it is switched to.
        for broker in place.brokers.all_opened().into_iter().filter(|broker| broker.name() != place.broker.name()) {
            make_topics_now(&broker, &config, &mut beside).await;
        }
        let local = Some(folder(&config, flags).join(PII_KEYS));
        let keyring = keyring(&config, secrets, local, &mut beside)?;
        let mut listener = None;
        if config.api.is_some() {
            let bound = TcpListener::bind(*address).await;
            let bound = bound.with_context(|| format!("{address} cannot be listened on: choose another port with --port"))?;
            *address = bound.local_addr()?;
            listener = Some(bound);
        }
        let schemas = Schemas::new(SCHEMAS_DIR, &flags.file);
        // With nothing installed one file stands for every registry, as an embedded broker does for Kafka.
        let kept = match flags.live {
            true => None,
            false => Some(Arc::new(Registry::Kept(schema_registry::Kept::open(&folder(&config, flags).join(SCHEMAS_FILE))?))),
        };
        let registry = |url: &str| kept.clone().map_or_else(|| registry(url), Ok);
        let codecs = Codecs::of(&config, |at| schemas.text(at), registry).map_err(anyhow::Error::msg)?;
        beside.spawn(codecs.clone().register());
        let live = Live::new(config, codecs, keyring)?;
        let carried = Carried::start(&live.config, None, secrets.environment()).map_err(anyhow::Error::msg)?;
        Ok((Up { live, place, secrets: secrets.clone(), beside, carried }, listener))
    }

    /// Runs until told to stop, or until the document needs a new start; ends what is in flight, in order.
    async fn run(mut self, listener: Option<TcpListener>, source: Source, stop: watch::Receiver<bool>) -> anyhow::Result<Ended> {
        let config = self.live.config.load_full();
        let gate = match config.backends.len() {
            0 | 1 => Gate::open(),
            _ => local_gate(&config, &self.place.switch).context("a gate obeys the state that it was given")?,
        };
        let publisher = Publisher::among(self.place.brokers.clone(), self.place.broker.clone(), gate).traced(self.carried.tracer.clone());
        self.carried.metrics.add(publisher.counted().clone());
        let switching = publisher.gate().states().map(|states| Switching::new(states, Rules::in_force()));
        // The worker ends after the others: dead letters and emits go through the same publisher.
        let (first, last) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut roles = Roles::new();
        let asked = watch::Sender::new(None);
        let api = match listener {
            Some(listener) => Some(self.spawn_api(&config, listener, &publisher, &asked, &first, &mut roles)?),
            None => None,
        };
        if config.generator.is_some() {
            let counters = Arc::new(Counters::default());
            self.carried.metrics.add(counters.clone());
            let running = generator(&self.live, publisher.clone(), counters).run(first.subscribe());
            roles.spawn(async move {
                running.await;
                (Role::Generator, Ok(()))
            });
        }
        let mut worker = Roles::new();
        if config.worker.is_some() {
            self.spawn_worker(&publisher, switching.clone(), &last, &mut worker);
        }
        if let Some(switching) = switching {
            let (config, kept, needs) = (self.live.config.clone(), self.place.kept.clone(), needs(&config, &config.roles()));
            let local = Local { config, kept, publisher: publisher.clone(), switching, needs, requests: asked.clone() };
            // Beside the API: what is held when the process is told to stop goes on.
            let stop = first.subscribe();
            roles.spawn(async move {
                local.run(stop).await;
                (Role::Api, Ok(()))
            });
        }
        let mut changed = self.follow(source, api, publisher.gate().states());
        let ended = tokio::select! {
            () = stopped(stop) => Ok(Ended::Told),
            Some(new) = changed.recv() => Ok(Ended::Changed(new)),
            Some(done) = roles.join_next() => Err(by_itself(done)),
            Some(done) = worker.join_next() => Err(by_itself(done)),
        };
        match &ended {
            Ok(Ended::Told) => complain("ending: what was accepted is finished or kept for the next start"),
            Ok(Ended::Changed(_)) => tracing::info!("the document has changed in what is read only at the start: ending what is in flight"),
            Err(_) => {}
        }
        let mut result = ended;
        for (stop, roles) in [(first, &mut roles), (last, &mut worker)] {
            stop.send_replace(true);
            while let Some(done) = roles.join_next().await {
                let done =
                    done.map_err(anyhow::Error::from).and_then(|(role, done)| done.with_context(|| format!("ending the {}", role.name())));
                result = result.and_then(|ended| done.map(|()| ended));
            }
        }
        self.beside.shutdown().await;
        settle(&publisher).await;
        if let Some((database, brokers)) = &self.place.database {
            for broker in brokers {
                broker.close().await;
            }
            database.close().await;
        }
        self.carried.end().await;
        result
    }

    fn spawn_api(
        &mut self,
        config: &RuntimeConfig,
        listener: TcpListener,
        publisher: &Publisher,
        asked: &watch::Sender<Option<BackendRequest>>,
        stop: &watch::Sender<bool>,
        roles: &mut Roles,
    ) -> anyhow::Result<Arc<ApiState>> {
        let api = config.api.as_ref().context("this pipeline has no spec.api: there is nothing to serve")?;
        let health = Health::new(self.place.broker.name(), api.idempotency == Idempotency::Strict, self.live.codecs.clone());
        self.beside.spawn(health.clone().watch(publisher.clone(), Some(self.place.stores.orders.clone()), health::EVERY));
        let keys = keys(&api.keys, &self.secrets, Some(DEV_KEY), &mut self.beside)?;
        let states = publisher.gate().states();
        let requests = states.map(|states| Requests { config: self.live.config.clone(), states, asked: asked.clone() });
        let parts = ApiParts {
            contract: self.live.contract.clone(),
            codecs: self.live.codecs.clone(),
            publisher: publisher.clone(),
            store: self.place.stores.orders.clone(),
            // Whoever has the key of a laptop is its administrator.
            admin: Some(Admin {
                keys: keys.clone(),
                requests,
                config: self.live.config.clone(),
                letters: self.place.stores.letters.clone(),
            }),
            keys,
            keyring: self.live.keyring.clone(),
            health,
            metrics: self.carried.metrics.clone(),
        };
        let state = ApiState::new(config, parts)?;
        let serving = serve(listener, router(state.clone()), Limits { grace: GRACE, ..Limits::default() }, stopped(stop.subscribe()));
        roles.spawn(async move {
            serving.await;
            (Role::Api, Ok(()))
        });
        Ok(state)
    }

    /// What arrives is a document that needs a new start.
    fn follow(&mut self, source: Source, api: Option<Arc<ApiState>>, states: Option<States>) -> mpsc::Receiver<Box<RuntimeConfig>> {
        let (sender, changed) = mpsc::channel(1);
        let config = self.live.config.load_full();
        let first = config.clone();
        let take_up = move |new: &RuntimeConfig| {
            stays_what_it_is(&first, new)?;
            api.as_ref().map_or(Ok(()), |api| api.reload(new).map_err(|e| e.to_string()))
        };
        let begun_by = self.place.switch.clone();
        let needs_start = move |new: RuntimeConfig| {
            stays_what_it_is(&config, &new)?;
            // Else the new start would end the process.
            names_all(&states.as_ref().map_or_else(|| begun_by.clone(), States::borrow), &new)?;
            let _ = sender.try_send(Box::new(new)); // full: a new start is on its way already
            Ok(())
        };
        self.beside.spawn(self.live.clone().follow(source, opened_once, take_up, needs_start));
        changed
    }

    /// One worker for each backend: which of them reads is part of the switch.
    fn spawn_worker(&self, publisher: &Publisher, switching: Option<Arc<Switching>>, stop: &watch::Sender<bool>, roles: &mut Roles) {
        let (live, stores, secrets) = (self.live.clone(), self.place.stores.clone(), self.secrets.clone());
        let engines = Engines { live, publisher: publisher.clone(), switching, stores, secrets };
        let health = Arc::new(WorkerHealth::default());
        self.carried.metrics.add(health.clone());
        for worker in engines.workers(&health, &stop.subscribe()) {
            roles.spawn(async move { (Role::Worker, worker.await.map_err(Into::into)) });
        }
        for review in engines.reviews(&health, &stop.subscribe()) {
            roles.spawn(async move { (Role::Worker, review.await.map_err(Into::into)) });
        }
    }
}

/// What no start of the same process can change: whose state this is, and in which partition a key lies.
fn stays_what_it_is(old: &RuntimeConfig, new: &RuntimeConfig) -> Result<(), String> {
    if new.pipeline != old.pipeline {
        return Err(format!(
            "metadata.name was {} and is {}: another name is another pipeline, with a state of its own; end this process and start it \
             anew for that one, or take the name back",
            old.pipeline, new.pipeline
        ));
    }
    for topic in &new.topics {
        if let Some(was) = old.topic(&topic.name).filter(|was| was.partitions != topic.partitions) {
            return Err(other_partitions(&topic.name, was.partitions, topic.partitions));
        }
    }
    Ok(())
}

fn other_partitions(topic: &str, has: u32, wanted: u32) -> String {
    format!(
        "topic {topic} has {has} partitions and not the {wanted} of the document: a topic keeps its partitions, as keys would move to \
         others and lose their order; write {has}, or use a topic with another name"
    )
}

/// Of every role; which roles there are is part of it.
fn opened_once(config: &RuntimeConfig) -> Opened {
    let roles = config.roles();
    let mut all: Opened = roles.iter().flat_map(|role| config.opened_once(*role)).collect();
    all.insert("roles".into(), roles.iter().map(|role| role.name()).collect());
    all
}

/// A role ends when it is told to; one that ends before is a fault, and must not look like a pipeline that runs.
fn by_itself(done: Result<(Role, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match done {
        Ok((role, Ok(()))) => anyhow::anyhow!("the {} ended by itself", role.name()),
        Ok((role, Err(error))) => error.context(format!("the {} ended by itself", role.name())),
        Err(panicked) => anyhow::anyhow!("a role ended by itself: {panicked}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_the_partitions_of_a_topic_stay_while_it_runs_and_other_topics_come_and_go() {
        const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders, partitions: 6}, {name: more}]
  events: [{name: OrderCreated, topics: [orders]}]
";
        let config = |from: &str, to: &str| crds::resolve(&crds::document::read(&DOCUMENT.replace(from, to)).unwrap());
        let said = |from: &str, to: &str| stays_what_it_is(&config("", ""), &config(from, to)).unwrap_err();
        assert!(said("name: shop", "name: store").contains("metadata.name was shop and is store"));
        assert!(said("partitions: 6", "partitions: 3").contains("topic orders has 6 partitions and not the 3"));
        assert!(said("partitions: 6", "partitions: 9").contains("write 6"));
        for (from, to) in [("{name: more}", "{name: other}"), (", {name: more}", ""), ("topics: [orders]", "topics: [orders, more]")] {
            assert_eq!(stays_what_it_is(&config("", ""), &config(from, to)), Ok(()));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_where_the_orders_outlive_the_process_it_is_said_that_the_next_one_goes_on() {
        const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: '127.0.0.1:1'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
  worker: {}
  store: {memory: {}}
";
        let data = tempfile::tempdir().unwrap();
        let flags = UpFlags { file: "pipeline.yaml".into(), port: 0, data: Some(data.path().into()), live: true };
        let config = crds::resolve(&crds::document::read(DOCUMENT).unwrap());
        let said = |place: &Grounds| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            greeting::greeting(&config, place, address, &Key::Dev, "", "{}").unwrap()
        };
        let secrets = Secrets::new(data.path(), Environment::default());
        let mut beside = Beside::new();
        let forgets = said(&Grounds::live(&config, &flags, &secrets, &mut beside).await.unwrap());
        assert!(forgets.contains("gone when this process ends") && !forgets.contains("goes on where it stopped"), "{forgets}");
        let keeps = said(&Grounds::built_in(&config, &flags).await.unwrap());
        assert!(keeps.contains("goes on where it stopped"), "{keeps}");
    }

    #[test]
    fn a_role_that_ends_by_itself_is_named_with_its_reason() {
        let error = by_itself(Ok((Role::Worker, Err(anyhow::anyhow!("there is nothing to read")))));
        assert_eq!(format!("{error:#}"), "the worker ended by itself: there is nothing to read");
        assert_eq!(format!("{:#}", by_itself(Ok((Role::Api, Ok(()))))), "the api ended by itself");
    }
}
