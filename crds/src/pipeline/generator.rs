//! The generator: orders made by itself, to show or to load a pipeline.

use super::{scalar::*, workload::*};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Generator {
    /// The event that is made. Default: the first that creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publishes: Option<Name>,
    #[serde(default)]
    pub shape: Shape,
    /// Events a second, over all replicas' own: each makes so many.
    #[serde(default = "rate")]
    #[schemars(range(min = 0, max = 100_000))]
    pub rate: u32,
    #[serde(default = "customers")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub customers: u32,
    /// The same seed makes the same orders. Default: another one at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

fn rate() -> u32 {
    10
}
fn customers() -> u32 {
    100
}

/// What a generated order looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Shape {
    #[default]
    Orders,
    Food,
    Retail,
    Cart,
}
