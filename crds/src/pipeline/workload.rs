//! What the API, the workers and the generator have in common as Deployments.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What ending a pod may take at most: the runtime's graces sum below it. A shorter time would cut off what was accepted.
pub const GRACE_SECONDS: u32 = 30;
/// How long a pod of the API goes on as before when it is to end: until then new requests may still come to it.
pub const PRE_STOP_SECONDS: u32 = 3;

/// How many pods, decided by load. Without it `replicas` decides. This version does not scale by itself yet: there are `min` pods,
/// at least one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scaling {
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min: u32,
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
    /// Pods are added above this load of their CPU request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub cpu_percent: Option<u32>,
    /// How many waiting messages one pod should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub lag_per_replica: Option<u32>,
}

/// What of the pod a user may set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub labels: BTreeMap<String, String>,
    /// What ending a pod may take, in seconds.
    #[serde(default = "grace_seconds")]
    #[schemars(range(min = 30, max = 3600))]
    pub termination_grace_period_seconds: u32,
}

fn grace_seconds() -> u32 {
    GRACE_SECONDS
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// A quantity as Kubernetes writes it: 500m, 128Mi, or a whole number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    Whole(i64),
    Text(String),
}

impl Quantity {
    pub fn text(&self) -> String {
        match self {
            Quantity::Whole(number) => number.to_string(),
            Quantity::Text(text) => text.clone(),
        }
    }

    /// Its value in thousandths, however it is written: 1000m is 1. None: it is no quantity, or one beyond all bounds.
    pub fn thousandths(text: &str) -> Option<u128> {
        let (number, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
        let factor: u128 = match suffix {
            "m" => 1,
            "" => 1000,
            "k" => 1000 * 1000,
            "M" => 1000 * 1_000_000,
            "G" => 1000 * 1_000_000_000,
            "T" => 1000 * 1_000_000_000_000,
            "Ki" => 1000 << 10,
            "Mi" => 1000 << 20,
            "Gi" => 1000 << 30,
            "Ti" => 1000 << 40,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = u32::try_from(fraction.len()).ok().filter(|&digits| digits <= 9)?;
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        Some(whole.checked_mul(factor)? + fraction * factor / 10u128.pow(digits))
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+(\\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
            "maxLength": 32
        })
    }
}
