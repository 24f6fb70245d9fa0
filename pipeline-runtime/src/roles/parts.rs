//! The parts that several roles share: broker, store, contract, keys.

use super::credentials;
use crate::api::{self, keys};
use crate::broker::{Broker, BrokerError, ConsumerMode, Reads, TopicWish, Uses};
use crate::codec::Codecs;
use crate::codec::avro::registry::{Confluent, Registry};
use crate::config::{Secrets, Source, Uptake};
use crate::contract::Contract;
use crate::control::Needs;
use crate::pii::{self, Keyring, Keys};
use crate::publish::of_nobody;
use crate::telemetry;
use crate::worker::review_group;
use anyhow::Context;
use arc_swap::ArcSwap;
use crds::Role;
use crds::pipeline::SecretRef;
use crds::role::{Opened, differences};
use crds::runtime_config::{RuntimeConfig, StoreConfig, TopicConfig};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Who an `API_KEY` of the environment stands for.
const ENVIRONMENT_PRINCIPAL: &str = "default";

/// The document and what was compiled from it, each replaced as a whole when the document changes.
#[derive(Clone)]
pub struct Live {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
    /// Of the topics as they were at the start: another topic needs another start.
    pub codecs: Codecs,
    /// Of encrypted fields. None: nothing is encrypted.
    pub keyring: Option<Arc<Keyring>>,
}

impl Live {
    pub fn new(config: RuntimeConfig, codecs: Codecs, keyring: Option<Arc<Keyring>>) -> anyhow::Result<Live> {
        let contract = Contract::with_keys(&config, keyring.as_ref())?;
        Ok(Live { config: Arc::new(ArcSwap::from_pointee(config)), contract: Arc::new(ArcSwap::from_pointee(contract)), codecs, keyring })
    }

    /// Follows the configuration. A version that differs in what was `opened` at the start is not taken up: `needs_start` is told
    /// of it. `take_up` does what else there is to do with any other. Both may refuse it. Runs until dropped.
    pub async fn follow(
        self,
        source: Source,
        opened: impl Fn(&RuntimeConfig) -> Opened,
        take_up: impl Fn(&RuntimeConfig) -> Result<(), String>,
        needs_start: impl Fn(RuntimeConfig) -> Result<(), String>,
    ) {
        let first = self.config.load_full();
        let at_start = opened(&first);
        let all = |new: RuntimeConfig| {
            let contract = Contract::with_keys(&new, self.keyring.as_ref()).map_err(|e| e.to_string());
            let places = differences(&at_start, &opened(&new));
            if !places.is_empty() {
                // The first keys of encrypted fields are read at that start.
                if new.pii.is_none() || self.keyring.is_some() {
                    contract?;
                }
                needs_start(new)?;
                return Ok(Uptake::NeedsStart(places));
            }
            let contract = contract?;
            take_up(&new)?;
            telemetry::follow(new.telemetry.log_level);
            self.contract.store(Arc::new(contract));
            self.config.store(Arc::new(new));
            Ok(Uptake::Now)
        };
        source.follow(&first, all).await;
    }
}

/// The registry at an address.
pub fn registry(url: &str) -> Result<Arc<Registry>, String> {
    Confluent::new(url).map(|registry| Arc::new(Registry::Confluent(registry))).map_err(|e| e.to_string())
}

/// What runs beside a role for as long as it runs, and ends with it.
pub type Beside = JoinSet<()>;

/// The API's keys: the mounted Secret, else `API_KEY`, else `otherwise`. A mounted Secret is followed.
pub fn keys(
    secret: &SecretRef,
    secrets: &Secrets,
    otherwise: Option<&str>,
    beside: &mut Beside,
) -> anyhow::Result<Arc<ArcSwap<api::Keys>>> {
    let folder = secrets.folder(secret);
    if folder.exists() {
        return keys_in(secret, secrets, beside);
    }
    let key = secrets.environment().get("API_KEY").or(otherwise);
    let key = key.with_context(|| {
        format!("no API keys: the Secret {} is not mounted at {} and API_KEY is not set", secret.name, folder.display())
    })?;
    anyhow::ensure!(
        key.trim() == key && key.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
        "API_KEY cannot be sent in a header of HTTP: choose letters, digits and signs of ASCII, and no space at its beginning or end"
    );
    Ok(Arc::new(ArcSwap::from_pointee(api::Keys::new([(ENVIRONMENT_PRINCIPAL, key)])?)))
}

/// The keys of encrypted fields: the mounted Secret, else `PII_KEYS`, else the folder of a laptop. A folder is followed.
pub fn keyring(
    config: &RuntimeConfig,
    secrets: &Secrets,
    laptop: Option<PathBuf>,
    beside: &mut Beside,
) -> anyhow::Result<Option<Arc<Keyring>>> {
    let Some(settings) = &config.pii else { return Ok(None) };
    let mounted = secrets.folder(&settings.keys);
    let folder = match secrets.environment().get(pii::VARIABLE) {
        _ if mounted.exists() => mounted,
        Some(listed) => return Ok(Some(Keyring::new(&config.pipeline, Keys::listed(listed)?))),
        None => laptop.with_context(|| {
            let (name, folder) = (&settings.keys.name, mounted.display());
            format!("no keys for encrypted fields: the Secret {name} is not mounted at {folder} and {} is not set", pii::VARIABLE)
        })?,
    };
    let keyring = Keyring::new(&config.pipeline, Keys::read(&folder)?);
    beside.spawn(keyring.clone().follow(folder, credentials::EVERY, settings.new_key_after));
    Ok(Some(keyring))
}

/// Those of a mounted Secret, which is followed.
pub fn keys_in(secret: &SecretRef, secrets: &Secrets, beside: &mut Beside) -> anyhow::Result<Arc<ArcSwap<api::Keys>>> {
    let folder = secrets.folder(secret);
    let keys = Arc::new(ArcSwap::from_pointee(api::Keys::read(&folder)?));
    beside.spawn(keys::follow(keys.clone(), folder, credentials::EVERY));
    Ok(keys)
}

pub fn wishes(topics: &[TopicConfig]) -> Vec<TopicWish> {
    topics.iter().map(TopicWish::of).collect()
}

/// What a process of these roles needs of a broker, and no more: pods of another role may be others there, with rights of their own.
pub fn needs(config: &RuntimeConfig, roles: &[Role]) -> Needs {
    let written: BTreeSet<&str> = roles.iter().flat_map(|role| config.topics_written(*role)).collect();
    let reads: Vec<Reads> = roles.iter().flat_map(|role| reads(config, *role)).collect();
    let used = |topic: &TopicWish| written.contains(&*topic.name) || reads.iter().any(|reads| reads.topics.contains(&topic.name));
    let topics = wishes(&config.topics).into_iter().filter(used).collect();
    Needs { topics, uses: Uses { writes: written.into_iter().map(of_nobody).collect(), reads } }
}

/// What a person asks of the API's administrator now and then is not part of it: that may fail, and says why.
fn reads(config: &RuntimeConfig, role: Role) -> Vec<Reads> {
    let topics: Vec<String> = config.topics_read().map(|topic| topic.name.clone()).collect();
    let mut reads = Vec::new();
    match (role, &config.worker, &config.store) {
        (Role::Worker, Some(worker), store) => {
            reads.push(Reads { mode: ConsumerMode::Group(worker.group.clone()), topics });
            if matches!(store, StoreConfig::Postgres { .. }) {
                let topics = config.dead_letter_topics().into_iter().map(str::to_owned).collect();
                reads.push(Reads { mode: ConsumerMode::Group(review_group(&worker.group)), topics });
            }
        }
        // A view of the orders.
        (Role::Api, _, StoreConfig::Memory { .. }) => reads.push(Reads { mode: ConsumerMode::All, topics }),
        _ => {}
    }
    reads.retain(|reads| !reads.topics.is_empty());
    reads
}

/// Creates the topics that are missing, as soon as the broker lets us. Where it never does, an operator or a person has to.
pub async fn make_topics(broker: Arc<dyn Broker>, wishes: Vec<TopicWish>) {
    let mut pause = Duration::from_secs(1);
    loop {
        match broker.ensure_topics(&wishes).await {
            Ok(()) => return,
            Err(BrokerError::Unreachable { .. }) => {} // said by whoever watches the connection
            Err(error) => tracing::warn!(%error, "topics cannot be created from here: if they are missing, create them on the broker"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}, {name: prices, producers: External}, {name: news}, {name: spare}]
  events:
  - {name: OrderCreated, topics: [orders], key: data.orderId, emit: [{topic: news, type: order.created}]}
  - {name: PriceChanged, topics: [prices], key: data.orderId, effect: None}
  store: {memory: {}}
  api: {orders: {creates: OrderCreated}}
  worker: {group: shop}
  generator: {publishes: OrderCreated}
";

    /// As one would grant it: topics it knows, those that it writes, and what it reads how.
    fn needed(document: &str, role: Role) -> (String, String, String) {
        let Needs { topics, uses } = needs(&crds::resolve(&crds::document::read(document).unwrap()), &[role]);
        let reads = uses.reads.iter().map(|reads| match &reads.mode {
            ConsumerMode::Group(group) => format!("{} in {group}", reads.topics.join(" ")),
            ConsumerMode::All => reads.topics.join(" "),
        });
        let all = |names: Vec<String>| names.join(" ");
        (
            all(topics.into_iter().map(|topic| topic.name).collect()),
            all(uses.writes.iter().map(|message| message.topic.to_string()).collect()),
            reads.collect::<Vec<_>>().join(", "),
        )
    }

    fn three(topics: &str, writes: &str, reads: &str) -> (String, String, String) {
        (topics.into(), writes.into(), reads.into())
    }

    #[tokio::test]
    async fn a_key_that_no_request_could_carry_is_refused_at_the_start() {
        let nowhere = tempfile::tempdir().unwrap();
        let keys = |key: &str| {
            let secrets = Secrets::new(nowhere.path(), crate::config::Environment::of([("API_KEY", key)]));
            super::keys(&SecretRef { name: "api-keys".into() }, &secrets, None, &mut Beside::new()).map_err(|error| error.to_string())
        };
        for key in [" three", "three ", "th\tree", "three\r", "drei\u{df}ig"] {
            assert!(keys(key).unwrap_err().contains("API_KEY cannot be sent"), "{key:?}");
        }
        assert!(keys("th \"r#e'e").unwrap().load().principal(b"th \"r#e'e").is_some());
    }

    #[test]
    fn a_role_needs_of_a_broker_what_it_does_there_and_no_more() {
        let postgres = DOCUMENT.replace("memory: {}", "postgres: {urlSecretRef: {name: db, key: url}}");
        assert_eq!(needed(DOCUMENT, Role::Generator), three("orders", "orders", ""));
        assert_eq!(needed(&postgres, Role::Api), three("orders", "orders", ""));
        assert_eq!(needed(DOCUMENT, Role::Api), three("orders prices", "orders", "orders prices"), "its view of the orders");
        // Seals go where nobody else writes, dead letters of all that is read.
        let writes = "news orders orders-dlq prices-dlq";
        let topics = "orders prices news orders-dlq prices-dlq";
        assert_eq!(needed(DOCUMENT, Role::Worker), three(topics, writes, "orders prices in shop"));
        let reads = "orders prices in shop, news-dlq orders-dlq prices-dlq spare-dlq in shop-dlq";
        let topics = "orders prices news orders-dlq prices-dlq news-dlq spare-dlq";
        assert_eq!(needed(&postgres, Role::Worker), three(topics, writes, reads), "dead letters are kept for review");
    }
}
