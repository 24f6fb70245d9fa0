//! Environment variables, and a `.env` file behind them.

use super::env_file::{ENV_FILE, EnvFile};
use crds::pipeline::{GoDuration, KafkaAuth, Otlp, SecretKeyRef, Text, UserAndPassword, misfit};
use crds::runtime_config::RuntimeConfig;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

/// The process's variables; what they lack, the `.env` file may have.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    own: Arc<BTreeMap<String, String>>,
    file: Arc<EnvFile>,
}

/// Where a collector listens for OTLP over HTTP.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Those with names of their own, each of which `.env.example` describes. Beside them the key of a Secret may have one, NAME_KEY.
const VARIABLES: [&str; 15] = [
    "API_KEY",
    "ADMIN_KEY",
    "PII_KEYS",
    "BACKEND_MODE",
    "KAFKA_BROKERS",
    "KAFKA_USERNAME",
    "KAFKA_PASSWORD",
    "KAFKA_SASL_MECHANISM",
    "KAFKA_TOPIC",
    "KAFKA_GROUP",
    "POLL_INTERVAL",
    COLLECTOR,
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_METRIC_EXPORT_INTERVAL",
];

/// The secret that stands for `KAFKA_PASSWORD`: its name and key spell that variable.
fn kafka_password() -> SecretKeyRef {
    SecretKeyRef { name: "kafka".into(), key: "password".into() }
}

impl Environment {
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Environment {
        let own = variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Environment { own: Arc::new(own), ..Environment::default() }
    }

    /// The process's own variables, and those of `.env` in this folder that are not set. A file that is there and cannot be read is a
    /// mistake: without its keys others would be in force than its author believes.
    pub fn here(folder: &Path) -> Result<Environment, String> {
        Ok(Environment { own: Arc::new(own(std::env::vars_os())?), file: Arc::new(EnvFile::read(&folder.join(ENV_FILE))?) })
    }

    /// Of all that, only what says where telemetry goes.
    pub fn of_telemetry(&self) -> Environment {
        self.get(COLLECTOR).map_or_else(Environment::default, |collector| Environment::of([(COLLECTOR, collector)]))
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.own.get(name).map(String::as_str).or_else(|| self.file.get(name)).filter(|value| !value.is_empty())
    }

    /// Whether a variable has its value from the `.env` file: then no shell knows it.
    pub fn is_from_file(&self, name: &str) -> bool {
        !self.own.contains_key(name) && self.get(name).is_some()
    }

    /// Whether it stands in the `.env` file so that whoever looks for it line by line finds exactly its value.
    pub fn stands_plainly(&self, name: &str) -> bool {
        self.is_from_file(name) && self.file.has_plainly(name)
    }

    /// A variable that stands for what the document has at this place, and so may be no other than there.
    fn in_place_of(&self, place: &str, name: &str) -> Result<Option<&str>, String> {
        let value = self.get(name);
        match value.and_then(|value| misfit(place, value)) {
            None => Ok(value),
            Some(why) => Err(format!("the environment variable {name} {why}")),
        }
    }

    /// Applies the variables of OA-14 and OW-13 to a configuration, and says what each did.
    pub fn apply(&self, config: &mut RuntimeConfig) -> Result<Vec<String>, String> {
        let mut said = Vec::new();
        if let Some(collector) = self.in_place_of("spec.telemetry.otlp.endpoint", COLLECTOR)? {
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
            if let Some(brokers) = self.in_place_of("spec.backends[].kafka.bootstrapServers", "KAFKA_BROKERS")? {
                kafka.bootstrap_servers = Some(Text(brokers.into()));
                said.push(format!("KAFKA_BROKERS: {brokers}"));
            }
            if let Some(username) = self.in_place_of("spec.backends[].kafka.auth.plain.username", "KAFKA_USERNAME")? {
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
        if let Some(topic) = self.in_place_of("spec.topics[].name", "KAFKA_TOPIC")? {
            rename_topic(config, topic)?;
            said.push(format!("KAFKA_TOPIC: {topic}"));
        }
        if let Some(worker) = &mut config.worker {
            if let Some(group) = self.in_place_of("spec.worker.group", "KAFKA_GROUP")? {
                worker.group = group.into();
                said.push(format!("KAFKA_GROUP: {group}"));
            }
            if let Some(interval) = self.in_place_of("spec.worker.batch.pollInterval", "POLL_INTERVAL")? {
                worker.poll_interval = GoDuration::or(Some(&interval.into()), worker.poll_interval);
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
    let alike = |other: &str| other.replace('.', "_") == name.replace('.', "_");
    if let Some(other) = config.topics.iter().find(|t| t.name != *old && alike(&t.name)) {
        return Err(format!(
            "KAFKA_TOPIC={name}: the document has the topic {} for something else, and Kafka takes no other that differs only in dot and \
             underscore; choose another name",
            other.name
        ));
    }
    for topic in config.topics.iter_mut().filter(|t| t.name == *old) {
        topic.name = name.into();
    }
    for event in &mut config.events {
        let emitted = event.emit.iter_mut().map(|emit| &mut emit.topic.0);
        for topic in event.topics.iter_mut().chain(emitted).filter(|t| **t == *old) {
            *topic = name.into();
        }
    }
    Ok(())
}

/// The process's variables that are text. Of ours each must be; what others have is theirs.
fn own(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>, String> {
    let mut own = BTreeMap::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => {
                own.insert(name, value);
            }
            Err(_) if VARIABLES.contains(&&*name) => return Err(format!("the environment variable {name} is not UTF-8: set it anew")),
            Err(_) => {}
        }
    }
    Ok(own)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    #[test]
    fn a_variable_that_is_no_text_matters_only_where_it_is_ours() {
        let no_text = || OsString::from_vec(vec![0xff]);
        let read = |names: [OsString; 2]| own([(names[0].clone(), no_text()), (names[1].clone(), "x".into())].into_iter());
        let told = read(["API_KEY".into(), "HOME".into()]).unwrap_err();
        assert!(told.contains("API_KEY is not UTF-8"), "{told}");
        let passed = read(["THEIRS".into(), "API_KEY".into()]).unwrap();
        assert_eq!((passed.len(), &*passed["API_KEY"]), (1, "x"));
        assert_eq!(read([no_text(), "API_KEY".into()]).unwrap().len(), 1);
    }

    const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backend: blue
  backends: [{name: blue, kafka: {bootstrapServers: 'blue:9092'}}, {name: green, kafka: {bootstrapServers: 'green:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
  worker: {}
";

    fn applied(variables: &[(&str, &str)]) -> Result<RuntimeConfig, String> {
        let mut config = crds::resolve(&crds::document::read(DOCUMENT).unwrap());
        let own = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let said = Environment { own: Arc::new(own), ..Environment::default() }.apply(&mut config)?;
        assert_eq!(said.len(), variables.len(), "{said:?}");
        Ok(config)
    }

    #[test]
    fn each_variable_does_what_its_place_in_the_document_would() {
        let config = applied(&[
            ("BACKEND_MODE", "green"),
            ("KAFKA_BROKERS", "a:9092,b:9092"),
            ("KAFKA_USERNAME", "shop"),
            ("KAFKA_TOPIC", "purchases"),
            ("KAFKA_GROUP", "packers"),
            ("POLL_INTERVAL", "250ms"),
            (COLLECTOR, "http://collector:4318"),
        ]);
        let config = config.unwrap();
        let [blue, green] = [0, 1].map(|index| config.backends[index].kafka.clone().unwrap());
        assert_eq!((&*config.backend, blue.bootstrap_servers.unwrap().as_str()), ("green", "blue:9092"));
        assert_eq!(green.bootstrap_servers.unwrap().as_str(), "a:9092,b:9092");
        let login = green.auth.unwrap().scram_sha512.unwrap();
        assert_eq!((&*login.username, login.password_secret_ref), ("shop", kafka_password()));
        assert_eq!(config.topics.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["purchases", "orders-dlq"]);
        assert_eq!(config.events[0].topics, ["purchases"]);
        let worker = config.worker.unwrap();
        assert_eq!((&*worker.group, worker.poll_interval), ("packers", Duration::from_millis(250)));
        assert_eq!(config.telemetry.otlp.unwrap().endpoint, "http://collector:4318");
        assert_eq!(&*applied(&[("BACKEND_MODE", "Kafka")]).unwrap().backend, "blue", "the first of that kind");
    }

    #[test]
    fn a_variable_may_be_no_other_than_its_place_in_the_document_allows() {
        let long = "x".repeat(300);
        for (name, value, why) in [
            ("BACKEND_MODE", "red", "no such backend"),
            ("KAFKA_BROKERS", "nowhere", "must be host:port"),
            ("KAFKA_USERNAME", &*long, "at most 253"),
            ("KAFKA_TOPIC", "a b/c", "may hold letters"),
            ("KAFKA_TOPIC", "orders-dlq", "for something else"),
            ("KAFKA_GROUP", "a b", "may hold letters"),
            ("POLL_INTERVAL", "0s", "longer than 0"),
            ("POLL_INTERVAL", "61s", "at most 60s"),
            ("POLL_INTERVAL", "soon", "a duration"),
            (COLLECTOR, "collector:4318", "must begin with http://"),
            (COLLECTOR, "http://a b", "a space"),
        ] {
            let told = applied(&[(name, value)]).unwrap_err();
            assert!(told.contains(name) && told.contains(why), "{told}");
        }
        let unknown = applied(&[("KAFKA_USERNAME", "shop"), ("KAFKA_SASL_MECHANISM", "GSSAPI")]).unwrap_err();
        assert!(unknown.contains("use PLAIN or SCRAM-SHA-512"), "{unknown}");
    }

    #[test]
    fn the_example_of_an_env_file_has_every_variable_and_sets_none() {
        let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.env.example")).unwrap();
        let written = EnvFile::of(&example);
        let mut known = VARIABLES;
        known.sort_unstable();
        assert_eq!(written.names().collect::<Vec<_>>(), known);
        assert!(known.into_iter().all(|name| written.get(name) == Some("")), "{written:?}");
    }
}
