//! Message brokers, and how a live switch between them behaves.

use super::scalar::*;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One message broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.kafka) != has(self.eventHubs)", "exactly one of kafka and eventHubs must be set"))]
pub struct Backend {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_hubs: Option<EventHubs>,
}

impl Backend {
    /// Every key of a Secret that it takes to reach this broker.
    pub fn secret_keys(&self) -> Vec<&SecretKeyRef> {
        let kafka = self.kafka.as_ref();
        let auth = kafka.and_then(|k| k.auth.as_ref());
        let ca = kafka.and_then(|k| k.tls.as_ref()?.ca_secret_ref.as_ref());
        let password = auth.and_then(|a| a.scram_sha512.as_ref().or(a.plain.as_ref())).map(|p| &p.password_secret_ref);
        let mtls = auth.and_then(|a| a.mtls.as_ref());
        let hubs = self.event_hubs.as_ref();
        let connection = hubs.and_then(|h| h.auth.connection_string_secret_ref.as_ref());
        let checkpoints = hubs.and_then(|h| h.checkpoints.as_ref()?.connection_string_secret_ref.as_ref());
        let all = [ca, password, mtls.map(|m| &m.certificate_secret_ref), mtls.map(|m| &m.key_secret_ref), connection, checkpoints];
        all.into_iter().flatten().collect()
    }

    /// Where it is: two that have none of these in common are two brokers.
    pub fn addresses(&self) -> BTreeSet<String> {
        let kafka = self.kafka.as_ref();
        let servers = kafka.and_then(|k| k.bootstrap_servers.as_ref()).map(|s| s.as_str()).unwrap_or_default();
        let strimzi = kafka.and_then(|k| k.strimzi.as_ref()).map(|s| format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name));
        let hubs = self.event_hubs.as_ref().map(|hubs| hubs.namespace.clone());
        let all = servers.split(',').map(str::to_owned).chain(strimzi).chain(hubs);
        all.map(|address| address.trim().to_ascii_lowercase()).filter(|address| !address.is_empty()).collect()
    }
}

/// An Apache Kafka cluster, by its address or as a Strimzi resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.strimzi) != has(self.bootstrapServers)", "exactly one of strimzi and bootstrapServers must be set"))]
#[x_kube(validation = ("!has(self.strimzi) || (!has(self.auth) && !has(self.tls))", "with strimzi, tls and auth come from the Kafka resource: leave them out"))]
pub struct Kafka {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strimzi: Option<Strimzi>,
    /// host:port, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<Text>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<KafkaAuth>,
}

/// A Kafka resource of Strimzi. Topics and users are made there, if that Kafka consents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Strimzi {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Name>,
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaTls {
    /// The CA that signed the brokers' certificates. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("[has(self.scramSha512), has(self.plain), has(self.mtls)].filter(x, x).size() == 1", "exactly one of scramSha512, plain and mtls must be set"))]
pub struct KafkaAuth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scram_sha512: Option<UserAndPassword>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<UserAndPassword>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<ClientCertificate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserAndPassword {
    #[schemars(length(min = 1, max = 253))]
    pub username: String,
    pub password_secret_ref: SecretKeyRef,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    pub certificate_secret_ref: SecretKeyRef,
    pub key_secret_ref: SecretKeyRef,
}

/// An Azure Event Hubs namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventHubs {
    /// Its host name: shop.servicebus.windows.net
    #[schemars(length(min = 1, max = 253))]
    pub namespace: String,
    pub auth: EventHubsAuth,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checkpoints>,
    /// Topic to hub, where the names differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub hubs: BTreeMap<String, TopicName>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.workloadIdentity) != has(self.connectionStringSecretRef)", "exactly one of workloadIdentity and connectionStringSecretRef must be set"))]
pub struct EventHubsAuth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string_secret_ref: Option<SecretKeyRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadIdentity {
    #[schemars(length(min = 1, max = 64))]
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub tenant_id: Option<String>,
}

/// Where the positions of the consumer group are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoints {
    pub container_url: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string_secret_ref: Option<SecretKeyRef>,
}

/// How a live switch behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switching {
    /// The longest time that writes may wait, between 100ms and 30s. A switch that is not through by then is taken back.
    #[serde(default = "hold_deadline")]
    pub hold_deadline: GoDuration,
    #[serde(default)]
    pub drain: Drain,
}

fn hold_deadline() -> GoDuration {
    "1s".into()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drain {
    #[serde(default)]
    pub on_deadline: OnDrainDeadline,
    #[serde(default = "drain_deadline")]
    pub deadline: GoDuration,
}

fn drain_deadline() -> GoDuration {
    "10m".into()
}

impl Default for Drain {
    fn default() -> Self {
        Drain { on_deadline: OnDrainDeadline::default(), deadline: drain_deadline() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDrainDeadline {
    /// The old broker is drained however long it takes.
    #[default]
    Wait,
    /// Workers go on with the new broker; what is left on the old one is read later.
    Proceed,
}
