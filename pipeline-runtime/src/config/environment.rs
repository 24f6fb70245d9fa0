//! Environment variables, and a `.env` file behind them.

use crds::pipeline::{KafkaAuth, Otlp, SecretKeyRef, Text, UserAndPassword};
use crds::runtime_config::RuntimeConfig;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The process's variables; what they lack, the `.env` file may have.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    own: Arc<BTreeMap<String, String>>,
    from_file: Arc<BTreeMap<String, String>>,
}

/// The file beside the process's own variables.
pub const ENV_FILE: &str = ".env";

/// Where a collector listens for OTLP over HTTP.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The secret that stands for `KAFKA_PASSWORD`: its name and key spell that variable.
fn kafka_password() -> SecretKeyRef {
    SecretKeyRef { name: "kafka".into(), key: "password".into() }
}

impl Environment {
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Environment {
        let own = variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Environment { own: Arc::new(own), from_file: Arc::default() }
    }

    /// The process's own variables, and those of `.env` in this folder that are not set.
    pub fn here(folder: &Path) -> Environment {
        let from_file = std::fs::read_to_string(folder.join(ENV_FILE)).map(|text| parse(&text)).unwrap_or_default();
        Environment { own: Arc::new(std::env::vars().collect()), from_file: Arc::new(from_file) }
    }

    /// Of all that, only what says where telemetry goes.
    pub fn of_telemetry(&self) -> Environment {
        self.get(COLLECTOR).map_or_else(Environment::default, |collector| Environment::of([(COLLECTOR, collector)]))
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.own.get(name).or_else(|| self.from_file.get(name)).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a variable has its value from the `.env` file: then no shell knows it.
    pub fn is_from_file(&self, name: &str) -> bool {
        !self.own.contains_key(name) && self.get(name).is_some()
    }

    /// Applies the variables of OA-14 and OW-13 to a configuration, and says what each did.
    pub fn apply(&self, config: &mut RuntimeConfig) -> Result<Vec<String>, String> {
        let mut said = Vec::new();
        if let Some(collector) = self.get(COLLECTOR) {
            if !collector.starts_with("http://") && !collector.starts_with("https://") {
                return Err(format!("{COLLECTOR}={collector}: write an address such as http://collector:4318 (OTLP over HTTP)"));
            }
            config.telemetry.otlp = Some(Otlp { endpoint: collector.into() });
            said.push(format!("{COLLECTOR}: {collector}"));
        }
        if let Some(mode) = self.get("BACKEND_MODE") {
            let wanted = mode.to_ascii_lowercase().replace(['-', '_'], "");
            let found = config.backends.iter().find(|b| {
                b.name == *mode
                    || (wanted == "kafka" && b.kafka.is_some())
                    || (wanted.trim_end_matches('s') == "eventhub" && b.event_hubs.is_some())
            });
            let names = || config.backends.iter().map(|b| b.name.to_string()).collect::<Vec<_>>().join(", ");
            let found = found.ok_or_else(|| format!("BACKEND_MODE={mode}: no such backend; use kafka, eventhub or one of: {}", names()))?;
            config.backend = found.name.to_string();
            said.push(format!("BACKEND_MODE: backend {}", config.backend));
        }
        let active = config.backend.clone();
        if let Some(kafka) = config.backends.iter_mut().find(|b| b.name == active.as_str()).and_then(|b| b.kafka.as_mut()) {
            if let Some(brokers) = self.get("KAFKA_BROKERS") {
                kafka.bootstrap_servers = Some(Text(brokers.into()));
                said.push(format!("KAFKA_BROKERS: {brokers}"));
            }
            if let Some(username) = self.get("KAFKA_USERNAME") {
                let login = UserAndPassword { username: username.into(), password_secret_ref: kafka_password() };
                let mechanism = self.get("KAFKA_SASL_MECHANISM").unwrap_or("SCRAM-SHA-512");
                kafka.auth = Some(match mechanism {
                    "PLAIN" => KafkaAuth { plain: Some(login), scram_sha512: None, mtls: None },
                    "SCRAM-SHA-512" => KafkaAuth { scram_sha512: Some(login), plain: None, mtls: None },
                    other => return Err(format!("KAFKA_SASL_MECHANISM={other}: use PLAIN or SCRAM-SHA-512")),
                });
                said.push(format!("KAFKA_USERNAME: {username} by {mechanism}"));
            }
        }
        if let Some(topic) = self.get("KAFKA_TOPIC") {
            rename_topic(config, topic)?;
            said.push(format!("KAFKA_TOPIC: {topic}"));
        }
        if let Some(worker) = &mut config.worker {
            if let Some(group) = self.get("KAFKA_GROUP") {
                worker.group = group.into();
                said.push(format!("KAFKA_GROUP: {group}"));
            }
            if let Some(interval) = self.get("POLL_INTERVAL") {
                let parsed = crds::pipeline::GoDuration::from(interval).parse();
                worker.poll_interval = parsed.ok_or_else(|| format!("POLL_INTERVAL={interval}: write a duration such as 100ms or 1s"))?;
                said.push(format!("POLL_INTERVAL: {interval}"));
            }
        }
        Ok(said)
    }
}

/// Gives the only topic of the document another name; with several it would not be clear which one is meant.
fn rename_topic(config: &mut RuntimeConfig, name: &str) -> Result<(), String> {
    let own: Vec<String> = config.topics.iter().filter(|t| t.dead_letter.is_some()).map(|t| t.name.clone()).collect();
    let [old] = own.as_slice() else {
        return Err(format!(
            "KAFKA_TOPIC={name}: the document has {} topics, so it is not clear which one is meant; name it there",
            own.len()
        ));
    };
    for topic in config.topics.iter_mut().filter(|t| t.name == *old) {
        topic.name = name.into();
    }
    for topic in config.events.iter_mut().flat_map(|e| e.topics.iter_mut()).filter(|t| **t == *old) {
        *topic = name.into();
    }
    Ok(())
}

/// `KEY=value` lines; `#` begins a comment line; a value may stand in quotes.
fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(|line| line.trim().trim_start_matches("export "))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let value = value.trim();
            let inner = [('"', '"'), ('\'', '\'')].iter().find_map(|(a, b)| value.strip_prefix(*a)?.strip_suffix(*b));
            (key.trim().to_owned(), inner.unwrap_or(value).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_may_quote_comment_and_export() {
        let read =
            parse("# keys\nexport API_KEY='s3 cret'\nKAFKA_BROKERS = a:9092,b:9092 \nEMPTY=\nnonsense\nURL=\"postgres://u:p@h/d?x=1\"\n");
        assert_eq!(read["API_KEY"], "s3 cret");
        assert_eq!(read["KAFKA_BROKERS"], "a:9092,b:9092");
        assert_eq!(read["URL"], "postgres://u:p@h/d?x=1");
        assert_eq!(read.len(), 4);
    }
}
