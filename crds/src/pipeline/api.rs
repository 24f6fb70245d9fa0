//! The HTTP API.

use super::{scalar::*, workload::*};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("!(has(self.orders) && has(self.cart))", "only one of orders and cart may be set; orders is the default"))]
#[x_kube(validation = ("!(has(self.replicas) && has(self.scaling))", "replicas and scaling exclude each other: scaling decides how many pods there are"))]
pub struct Api {
    /// The Orders dialect: POST, PATCH and GET /orders. The default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<OrdersDialect>,
    /// The cart dialect: /create-order, /update-order, /order-details, /getAllOrderIdsFromTopic, /health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cart: Option<CartDialect>,
    /// API keys, one entry each: principal to key. Default: the Secret `<pipeline>-api-keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_secret_ref: Option<SecretRef>,
    /// Keys for /admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_keys_secret_ref: Option<SecretRef>,
    /// What is promised for a request id that is posted again.
    #[serde(default)]
    pub idempotency: Idempotency,
    /// How long a request waits for the broker.
    #[serde(default = "publish_deadline")]
    pub publish_deadline: GoDuration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

fn publish_deadline() -> GoDuration {
    "5s".into()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Idempotency {
    /// A repeat has no second effect. Where it meets the pod that took the first, no second message either.
    #[default]
    Derived,
    /// The request id is claimed in PostgreSQL before anything is published: one message, whichever pods are met.
    Strict,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrdersDialect {
    /// The event that POST /orders writes. Default: the first that creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<Name>,
    /// The event that PATCH /orders/{orderId} writes. Default: the first that updates; without one there is no PATCH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<Name>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CartDialect {
    /// The event that POST /create-order writes. Default: the first that creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<Name>,
    /// The event that PUT /update-order writes. Default: the first that updates; without one there is no PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<Name>,
}
