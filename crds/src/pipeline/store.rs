//! Where orders are kept.

use super::scalar::*;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.postgres) != has(self.memory)", "exactly one of postgres and memory must be set"))]
pub struct Store {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Enough to try a pipeline: effects are at least once, and gone with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Postgres {
    /// postgres://user:password@host:port/database
    pub url_secret_ref: SecretKeyRef,
    /// Default: the pipeline's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    pub schema: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// The most orders kept; the oldest go first. 20,000 small orders take about 30 MB of a pod.
    #[serde(default = "max_orders")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_orders: u32,
}

fn max_orders() -> u32 {
    20_000
}

impl Default for Memory {
    fn default() -> Self {
        Memory { max_orders: max_orders() }
    }
}
