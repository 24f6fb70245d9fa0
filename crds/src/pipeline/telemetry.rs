//! Logs, metrics, traces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
    /// The share of requests that are traced.
    #[serde(default = "sampling_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sampling_percent: u32,
    #[serde(default)]
    pub log_level: LogLevel,
}

fn sampling_percent() -> u32 {
    10
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry { otlp: None, sampling_percent: sampling_percent(), log_level: LogLevel::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Otlp {
    #[schemars(regex(pattern = "^https?://"), length(max = 1000))]
    pub endpoint: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}
