//! What the operator writes and the runtime reads: a checked pipeline in which every default is filled in.

use crate::pipeline::*;
use crate::role::Role;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The key of the ConfigMap `<pipeline>-config` that holds it, and the file's name in the pod.
pub const CONFIG_FILE: &str = "config.json";
/// Where that ConfigMap is mounted.
pub const CONFIG_DIR: &str = "/etc/orderpipeline/config";
/// Where Secrets are mounted: `<name>/<key>` below it.
pub const SECRETS_DIR: &str = "/etc/orderpipeline/secrets";
/// Where ConfigMaps with Avro schemas are mounted, likewise.
pub const SCHEMAS_DIR: &str = "/etc/orderpipeline/schemas";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    pub pipeline: String,
    pub namespace: String,
    /// The backend that the document asks for: one of `backends`.
    pub backend: String,
    pub backends: Vec<Backend>,
    /// How a switch between them behaves.
    #[serde(default)]
    pub switching: SwitchingConfig,
    /// The pipeline's own topics, and the dead-letter topics of these (`dead_letter: None`).
    pub topics: Vec<TopicConfig>,
    pub events: Vec<EventConfig>,
    /// None: nothing is encrypted.
    #[serde(default)]
    pub pii: Option<PiiConfig>,
    pub store: StoreConfig,
    pub api: Option<ApiConfig>,
    pub worker: Option<WorkerConfig>,
    pub generator: Option<GeneratorConfig>,
    pub telemetry: Telemetry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchingConfig {
    /// The longest time that writes may wait.
    pub hold_deadline: Duration,
    /// Workers leave a broker after so long although it is not drained. None: they drain it however long it takes. Zero, which no document
    /// may say: nothing that the pipeline writes is read by it.
    pub drain_deadline: Option<Duration>,
}

impl Default for SwitchingConfig {
    fn default() -> Self {
        SwitchingConfig { hold_deadline: Duration::from_secs(1), drain_deadline: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicConfig {
    pub name: String,
    pub partitions: u32,
    pub replicas: Option<u32>,
    pub retention: Duration,
    pub max_message_bytes: usize,
    pub envelope: Envelope,
    #[serde(default)]
    pub codec: CodecConfig,
    pub producers: Producers,
    pub invalid: Invalid,
    /// None on a dead-letter topic itself.
    pub dead_letter: Option<String>,
}

/// How the data of a topic is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CodecConfig {
    #[default]
    Json,
    /// `registry` is the address of a Confluent-compatible schema registry, `schema` where the schema's text is.
    Avro { registry: String, schema: ConfigMapKeyRef },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventConfig {
    pub name: String,
    /// Never empty; the first one is where it is written to.
    pub topics: Vec<String>,
    /// None: the `type` attribute is the event's name, or missing.
    pub when: Option<String>,
    pub key: String,
    pub id: Option<String>,
    pub at: Option<String>,
    pub schema: Option<Json>,
    pub rules: Vec<Rule>,
    pub effect: Effect,
    pub order: OrderExpressions,
    pub set: BTreeMap<String, String>,
    pub append: BTreeMap<String, String>,
    pub emit: Vec<Emit>,
    /// Paths of the fields that are encrypted.
    #[serde(default)]
    pub pii: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PiiConfig {
    pub keys: SecretRef,
    /// The principals who read encrypted fields as they are.
    pub readers: Vec<String>,
    /// How long after it appeared a key begins to encrypt.
    pub new_key_after: Duration,
}

/// All but the id may be missing in an event: then that field stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderExpressions {
    pub id: String,
    pub tenant: Option<String>,
    pub customer: Option<String>,
    pub items: Option<String>,
    pub total: Option<String>,
    pub status: Option<String>,
    pub created_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreConfig {
    Postgres { url: SecretKeyRef, schema: String },
    Memory { max_orders: u32 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiConfig {
    pub dialect: Dialect,
    /// The event that is written for a new order.
    pub creates: String,
    /// The event that is written for a change; without one nothing can be changed over HTTP.
    pub updates: Option<String>,
    pub keys: SecretRef,
    pub admin_keys: Option<SecretRef>,
    pub idempotency: Idempotency,
    pub publish_deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Dialect {
    Orders,
    Cart,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerConfig {
    pub group: String,
    pub tenants: Vec<String>,
    pub batch_size: usize,
    pub poll_interval: Duration,
    pub deadline: Duration,
    pub retry: RetryPolicy,
    pub callback: Option<CallbackConfig>,
    #[serde(default)]
    pub dead_letters: DeadLettersConfig,
}

/// Delay before attempt n+1: base x 2^n, at most max, plus or minus the jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    pub attempts: u32,
    pub base: Duration,
    pub max: Duration,
    pub jitter_percent: u32,
}

impl RetryPolicy {
    /// `attempt` counts from 0; `random` is in 0..1 and spreads the delay over the jitter.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.max);
        let jitter = f64::from(self.jitter_percent) / 100.0 * (2.0 * random - 1.0);
        doubled.mul_f64((1.0 + jitter).max(0.0)).min(self.max)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallbackConfig {
    pub url: String,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLettersConfig {
    pub keep: Duration,
    pub alert: Option<AlertConfig>,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        DeadLettersConfig { keep: Duration::from_secs(30 * 24 * 3600), alert: None }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertConfig {
    /// None: of every dead letter.
    pub when: Option<String>,
    pub url: AlertUrl,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AlertUrl {
    Plain(String),
    Secret(SecretKeyRef),
}

impl WorkerConfig {
    /// The key of a Secret that it takes to tell of dead letters.
    pub fn alert_secret(&self) -> Option<&SecretKeyRef> {
        match &self.dead_letters.alert.as_ref()?.url {
            AlertUrl::Secret(reference) => Some(reference),
            AlertUrl::Plain(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GeneratorConfig {
    pub publishes: String,
    pub shape: Shape,
    pub rate: u32,
    pub customers: u32,
    pub seed: Option<u64>,
}

impl RuntimeConfig {
    pub fn backend(&self) -> Option<&Backend> {
        self.backends.iter().find(|b| b.name == self.backend.as_str())
    }
    pub fn topic(&self, name: &str) -> Option<&TopicConfig> {
        self.topics.iter().find(|t| t.name == name)
    }
    /// What the names of the backends stand for, as a digest: in two processes with the same one each name leads to the same broker.
    pub fn brokers(&self) -> String {
        let mut named: Vec<_> = self.backends.iter().map(|backend| (&backend.name, backend.addresses())).collect();
        named.sort();
        let digest = Sha256::digest(format!("{named:?}"));
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
    /// Those that an event is read from.
    pub fn topics_read(&self) -> impl Iterator<Item = &TopicConfig> {
        self.topics.iter().filter(|topic| self.events.iter().any(|event| event.topics.contains(&topic.name)))
    }
    /// Those of them that only the pipeline itself writes to: in these, seals say where an epoch ends.
    pub fn own_topics(&self) -> BTreeSet<String> {
        self.topics_read().filter(|topic| topic.producers == Producers::Pipeline).map(|topic| topic.name.clone()).collect()
    }
    /// Whether this pipeline itself writes events to a topic: over its API, by its generator, or as what follows from others.
    pub fn writes_to(&self, topic: &str) -> bool {
        Role::ALL.iter().any(|role| self.topics_of_events_written(*role).contains(topic))
    }
    fn topics_of_events_written(&self, role: Role) -> BTreeSet<&str> {
        let first = |name: &String| self.event(name).and_then(|event| event.topics.first()).map(String::as_str);
        match role {
            Role::Api => self.api.iter().flat_map(|api| [Some(&api.creates), api.updates.as_ref()]).flatten().filter_map(first).collect(),
            Role::Generator => self.generator.iter().filter_map(|generator| first(&generator.publishes)).collect(),
            Role::Worker => self.events.iter().flat_map(|event| &event.emit).map(|emit| &*emit.topic).collect(),
        }
    }
    /// Those that a process of this role writes to: events, and of a worker also dead letters and seals.
    pub fn topics_written(&self, role: Role) -> BTreeSet<&str> {
        let mut written = self.topics_of_events_written(role);
        if role == Role::Worker {
            let own = |topic: &&TopicConfig| topic.producers == Producers::Pipeline;
            written.extend(self.topics_read().filter_map(|topic| topic.dead_letter.as_deref()));
            written.extend(self.topics_read().filter(own).map(|topic| topic.name.as_str()));
        }
        written
    }
    /// The ConfigMaps that Avro schemas are in.
    pub fn schemas(&self) -> impl Iterator<Item = &ConfigMapKeyRef> {
        self.topics.iter().filter_map(|topic| match &topic.codec {
            CodecConfig::Avro { schema, .. } => Some(schema),
            CodecConfig::Json => None,
        })
    }
    pub fn event(&self, name: &str) -> Option<&EventConfig> {
        self.events.iter().find(|e| e.name == name)
    }
    /// Where dead letters go, each once.
    pub fn dead_letter_topics(&self) -> BTreeSet<&str> {
        self.topics.iter().filter_map(|topic| topic.dead_letter.as_deref()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_from_the_base_and_with_its_jitter_never_passes_the_longest() {
        let policy = RetryPolicy { attempts: 5, base: Duration::from_secs(1), max: Duration::from_secs(300), jitter_percent: 25 };
        let seconds = |attempt, random| policy.delay(attempt, random).as_secs_f64();
        let exact: Vec<f64> = (0..10).map(|attempt| seconds(attempt, 0.5)).collect();
        assert_eq!(exact, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]);
        assert_eq!((seconds(3, 0.0), seconds(3, 1.0)), (6.0, 10.0), "a quarter less, a quarter more");
        assert_eq!((seconds(u32::MAX, 0.0), seconds(u32::MAX, 1.0)), (225.0, 300.0));
    }
}
