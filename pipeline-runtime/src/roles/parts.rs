//! The parts that several roles share: broker, store, contract, keys.

use crate::api::{Keys, keys};
use crate::broker::{Broker, BrokerError, TopicWish};
use crate::config::{Environment, Secrets, reload};
use crate::contract::Contract;
use anyhow::Context;
use arc_swap::ArcSwap;
use crds::pipeline::SecretRef;
use crds::runtime_config::{RuntimeConfig, TopicConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often mounted keys are read again.
const KEYS_EVERY: Duration = Duration::from_secs(10);
/// Who an `API_KEY` of the environment stands for.
const ENVIRONMENT_PRINCIPAL: &str = "default";

/// The document and what was compiled from it, each replaced as a whole when the document changes.
#[derive(Clone)]
pub struct Live {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub contract: Arc<ArcSwap<Contract>>,
}

impl Live {
    pub fn new(config: RuntimeConfig) -> anyhow::Result<Live> {
        let contract = Contract::compile(&config)?;
        Ok(Live { config: Arc::new(ArcSwap::from_pointee(config)), contract: Arc::new(ArcSwap::from_pointee(contract)) })
    }

    /// Follows a file for as long as the process runs; `take_up` does what else a role has to do with a new version.
    pub fn follow(
        &self,
        file: PathBuf,
        environment: Environment,
        take_up: impl Fn(&RuntimeConfig) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let live = self.clone();
        let all = move |new: RuntimeConfig| {
            let contract = Contract::compile(&new).map_err(|e| e.to_string())?;
            take_up(&new)?;
            live.contract.store(Arc::new(contract));
            live.config.store(Arc::new(new));
            Ok(())
        };
        tokio::spawn(reload::follow(file, environment, all));
    }
}

/// The API's keys: the mounted Secret, else `API_KEY`, else `otherwise`. A mounted Secret is followed.
pub fn keys(secret: Option<&SecretRef>, secrets: &Secrets, otherwise: Option<&str>) -> anyhow::Result<Arc<ArcSwap<Keys>>> {
    if let Some(folder) = secret.map(|s| secrets.folder(s)).filter(|f| f.exists()) {
        let keys = Arc::new(ArcSwap::from_pointee(Keys::read(&folder)?));
        tokio::spawn(keys::follow(keys.clone(), folder, KEYS_EVERY));
        return Ok(keys);
    }
    let key = secrets.environment().get("API_KEY").or(otherwise);
    let key = key.with_context(|| match secret {
        Some(secret) => {
            format!("no API keys: the Secret {} is not mounted at {} and API_KEY is not set", secret.name, secrets.folder(secret).display())
        }
        None => "no API keys: name a Secret in spec.api.keysSecretRef, or set API_KEY".into(),
    })?;
    Ok(Arc::new(ArcSwap::from_pointee(Keys::new([(ENVIRONMENT_PRINCIPAL, key)])?)))
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
