//! Topics: how messages lie on the broker.

use super::scalar::*;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topic {
    pub name: TopicName,
    /// Lanes of order: events of one key stay in one partition.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: u32,
    #[serde(default = "retention")]
    pub retention: GoDuration,
    /// Copies of each message. Default: what the cluster sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub replicas: Option<u32>,
    #[serde(default = "max_message_size")]
    pub max_message_size: ByteSize,
    #[serde(default)]
    pub envelope: Envelope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Who writes to it.
    #[serde(default)]
    pub producers: Producers,
    /// What becomes of a message that cannot be decoded or breaks a rule.
    #[serde(default)]
    pub invalid: Invalid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

fn partitions() -> u32 {
    3
}
fn retention() -> GoDuration {
    "168h".into()
}
fn max_message_size() -> ByteSize {
    "1Mi".into()
}

/// What a message's body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Envelope {
    /// The body is the data; attributes are the headers.
    #[default]
    Bare,
    /// The body is an object of messageId, publishTime, attributes and data.
    Attributes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Producers {
    /// Only this pipeline.
    #[default]
    Pipeline,
    /// Others too: it is then read on every backend, always, and is no part of the switch.
    External,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Invalid {
    #[default]
    DeadLetter,
    Retry,
    Drop,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetter {
    /// Default: the topic's name and `-dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
}

/// How data is written: JSON by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.json) != has(self.avro)", "exactly one of json and avro must be set"))]
pub struct Codec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonCodec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avro: Option<AvroCodec>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JsonCodec {}

/// Avro as Confluent's clients write it: a zero, the number of the schema in a registry, the data. Attributes are the headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AvroCodec {
    pub registry: Registry,
    /// The schema of what is written, and by which what others wrote is read. It is registered at the start, as the subject
    /// `<topic>-value`. On a laptop it is a file beside the document, with the key as its name.
    pub schema_config_map_ref: ConfigMapKeyRef,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// Of its Confluent-compatible interface: http://registry:8081, or of Apicurio http://registry:8080/apis/ccompat/v7.
    pub url: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapKeyRef {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
