//! Strings with a meaning: names, expressions, durations, sizes, references to Secrets.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A string newtype whose schema bounds it: every string of the resource has a limit, so that validation has a known cost.
macro_rules! bounded_string {
    ($(#[$doc:meta])* $name:ident, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }
        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

bounded_string!(
    /// The name of a backend, an event, a field.
    Name, {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"}
);
bounded_string!(
    /// A topic's name, as Kafka and Event Hubs both accept it.
    TopicName, {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"}
);
bounded_string!(
    /// A CEL expression over `data`, `attributes`, `id`, `key`, `topic`, `publishTime`.
    Expression, {"type": "string", "minLength": 1, "maxLength": 1000}
);
bounded_string!(
    /// A short text for people, an address, a path.
    Text, {"type": "string", "minLength": 1, "maxLength": 1000}
);
bounded_string!(
    /// A duration as Go writes it: 300ms, 1s, 1m30s, 168h.
    GoDuration, {"type": "string", "minLength": 2, "maxLength": 32, "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$"}
);
bounded_string!(
    /// A size in bytes as Kubernetes writes it: 512Ki, 1Mi, 10Mi.
    ByteSize, {"type": "string", "minLength": 1, "maxLength": 16, "pattern": "^[0-9]+(Ki|Mi|Gi|k|M|G)?$"}
);

impl GoDuration {
    /// `None` if the text is no duration; the schema's pattern does not let such a text in.
    pub fn parse(&self) -> Option<Duration> {
        let mut rest = self.0.as_str();
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let seconds = match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
            rest = &rest[unit..];
        }
        (!self.0.is_empty()).then_some(total)
    }

    /// The duration, or the default where the text is no duration.
    pub fn or(text: Option<&GoDuration>, default: Duration) -> Duration {
        text.and_then(GoDuration::parse).unwrap_or(default)
    }
}

impl ByteSize {
    pub fn bytes(&self) -> Option<u64> {
        let digits = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let factor: u64 = match &self.0[digits..] {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return None,
        };
        self.0[..digits].parse::<u64>().ok()?.checked_mul(factor)
    }
}

/// The name of a Secret or of its key that Kubernetes would not take could only be found when the pods do not start.
const SECRET_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Kubernetes refuses `.` and what begins with `..` as well.
const SECRET_KEY: &str = r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";

/// A key of a Secret in the pipeline's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub name: String,
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_KEY))]
    pub key: String,
}

/// A Secret in the pipeline's namespace, all its keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub name: String,
}

/// Any JSON value: a JSON Schema, an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AnyJson(pub serde_json::Value);

impl JsonSchema for AnyJson {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "AnyJson".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}
