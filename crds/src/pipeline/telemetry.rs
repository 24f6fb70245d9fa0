//! Logs, metrics, traces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Telemetry {
    /// Where traces, metrics and log lines are sent. Without it nothing is sent and nothing is traced; metrics are at `/metrics` always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
    /// The share of the traces that begin here which are recorded, in percent. A request or a message that comes with a `traceparent`
    /// goes by that.
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
    /// Of a collector that takes OTLP over HTTP, such as http://collector:4318.
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
