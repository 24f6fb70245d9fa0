//! The parts that several roles share: broker, store, contract, keys.

use super::credentials;
use crate::api::{self, keys};
use crate::broker::{Broker, BrokerError, TopicWish};
use crate::codec::Codecs;
use crate::codec::avro::registry::{Confluent, Registry};
use crate::config::{Secrets, Source, Uptake};
use crate::contract::Contract;
use crate::pii::{self, Keyring, Keys};
use crate::telemetry;
use anyhow::Context;
use arc_swap::ArcSwap;
use crds::pipeline::SecretRef;
use crds::role::{Opened, differences};
use crds::runtime_config::{RuntimeConfig, TopicConfig};
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
    let wish = |t: &TopicConfig| TopicWish {
        name: t.name.clone(),
        partitions: t.partitions,
        replicas: t.replicas,
        retention: t.retention,
        max_message_bytes: t.max_message_bytes,
    };
    topics.iter().map(wish).collect()
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
