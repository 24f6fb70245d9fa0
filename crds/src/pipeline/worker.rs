//! Workers: read events, apply them to the store, answer for what cannot be applied.

use super::{scalar::*, workload::*};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("!(has(self.replicas) && has(self.scaling))", "replicas and scaling exclude each other: scaling decides how many pods there are"))]
pub struct Worker {
    /// The consumer group. Default: the pipeline's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<TopicName>,
    /// Only events of these tenants are applied; those of others are passed over. An event that names no tenant is not passed over: let
    /// every event name its own (order.tenant), else changes of other tenants' orders wait here for orders that never come. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 200)))]
    pub tenants: Vec<String>,
    #[serde(default)]
    pub batch: Batch,
    /// How long one event may take, from its read to its commit.
    #[serde(default = "deadline")]
    pub deadline: GoDuration,
    #[serde(default)]
    pub retry: Retry,
    /// An HTTP service that is told of each applied event by a POST, at least once: its Idempotency-Key is the event's id, or, of an event
    /// that makes an order, the event's name and the order's id. Of an update that came before its order it is told when it is kept,
    /// which is before it takes effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
    /// What becomes of dead letters beside their topic. Where the store is PostgreSQL they are kept in its table failed_messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLetters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

fn deadline() -> GoDuration {
    "60s".into()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batch {
    /// The most events in one transaction.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 10_000))]
    pub size: u32,
    /// How long a poll waits for messages.
    #[serde(default = "poll_interval")]
    pub poll_interval: GoDuration,
}

fn batch_size() -> u32 {
    500
}
fn poll_interval() -> GoDuration {
    "100ms".into()
}

impl Default for Batch {
    fn default() -> Self {
        Batch { size: batch_size(), poll_interval: poll_interval() }
    }
}

/// Delay of attempt n: base x 2^n, at most max, plus or minus the jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// After so many attempts an event becomes a dead letter.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    #[serde(default = "base")]
    pub base: GoDuration,
    #[serde(default = "max")]
    pub max: GoDuration,
    #[serde(default = "jitter_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: u32,
}

fn attempts() -> u32 {
    5
}
fn base() -> GoDuration {
    "1s".into()
}
fn max() -> GoDuration {
    "300s".into()
}
fn jitter_percent() -> u32 {
    25
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: attempts(), base: base(), max: max(), jitter_percent: jitter_percent() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Callback {
    #[schemars(regex(pattern = "^https?://"), length(max = 2000))]
    pub url: String,
    #[serde(default = "timeout")]
    pub timeout: GoDuration,
}

fn timeout() -> GoDuration {
    "5s".into()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetters {
    /// How long they are kept for review in the store, where they can be replayed from; of more than 100,000 the oldest go first.
    #[serde(default = "keep")]
    pub keep: GoDuration,
    /// Whom to tell of a dead letter that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
}

fn keep() -> GoDuration {
    "720h".into()
}

impl Default for DeadLetters {
    fn default() -> Self {
        DeadLetters { keep: keep(), alert: None }
    }
}

/// A webhook. It gets a POST for each dead letter, with an Idempotency-Key, and again until it has taken it, for about an hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.url) != has(self.urlSecretRef)", "exactly one of url and urlSecretRef must be set"))]
pub struct Alert {
    /// Which dead letters are told of: an expression over the message, whose attributes have errorType, reason and attempts beside their
    /// own. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"), length(max = 2000))]
    pub url: Option<String>,
    /// An address that is itself a secret, as those of chats are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyRef>,
    #[serde(default = "timeout")]
    pub timeout: GoDuration,
}
