//! What a process of a pipeline does, and what of the configuration it reads only at its start.

use crate::runtime_config::{RuntimeConfig, StoreConfig};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

/// What a process does; also the runtime's subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Api,
    Worker,
    Generator,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Api, Role::Worker, Role::Generator];

    pub fn name(self) -> &'static str {
        match self {
            Role::Api => "api",
            Role::Worker => "worker",
            Role::Generator => "generator",
        }
    }

    /// Where health and metrics are answered; for the API it is also where orders come in.
    pub fn port(self) -> u16 {
        match self {
            Role::Api => 8080,
            Role::Worker | Role::Generator => 8081,
        }
    }
}

/// What is opened once, by its place in the document.
pub type Opened = Map<String, Json>;

impl RuntimeConfig {
    /// The roles that the pipeline has.
    pub fn roles(&self) -> Vec<Role> {
        let has = |role: &Role| match role {
            Role::Api => self.api.is_some(),
            Role::Worker => self.worker.is_some(),
            Role::Generator => self.generator.is_some(),
        };
        Role::ALL.into_iter().filter(has).collect()
    }

    /// What a process of this role opens once, at its start, by the place in the document: when it changes, pods roll and `up`
    /// starts its roles anew. Everything else is taken up by the running process: what events mean, retries, rates, batches,
    /// sampling, log level.
    pub fn opened_once(&self, role: Role) -> Opened {
        let mut opened = Opened::new();
        let mut add = |place: &str, value: Json| opened.insert(place.to_owned(), value);
        // Between several it is moved while pods run; which one is used then stands in the switch state.
        if self.backends.len() < 2 {
            add("spec.backend", json!(self.backend));
        }
        add("spec.backends", json!(self.backends));
        if self.backends.len() > 1 {
            // Half of it is how long a held pod waits for what it has handed over.
            add("spec.switching.holdDeadline", json!(self.switching.hold_deadline));
        }
        add("spec.topics", json!(self.topics));
        add("spec.telemetry.otlp", json!(self.telemetry.otlp));
        if let Some(pii) = &self.pii {
            add("spec.pii", json!([pii.keys, pii.new_key_after]));
        }
        if role != Role::Generator {
            add("spec.store", json!(self.store));
        }
        // Without a database the API reads the topics as well.
        if role == Role::Worker || (role == Role::Api && matches!(self.store, StoreConfig::Memory { .. })) {
            add("spec.events[].topics", json!(self.events.iter().flat_map(|e| &e.topics).collect::<BTreeSet<_>>()));
        }
        match (role, &self.api, &self.worker) {
            (Role::Api, Some(api), _) => {
                add("spec.api", json!([api.dialect, api.keys, api.admin_keys, api.idempotency]));
                add("spec.api.publishDeadline", json!(api.publish_deadline));
            }
            (Role::Worker, _, Some(worker)) => {
                add("spec.worker.group", json!(worker.group));
                add("spec.worker.batch.pollInterval", json!(worker.poll_interval));
                // Another Secret has to be mounted; a new value of the same one is read.
                if let Some(secret) = worker.alert_secret() {
                    add("spec.worker.deadLetters.alert.urlSecretRef", json!(secret));
                }
            }
            _ => {}
        }
        opened
    }
}

/// The places at which two of these differ.
pub fn differences(one: &Opened, other: &Opened) -> Vec<String> {
    let places: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    places.into_iter().filter(|place| one.get(*place) != other.get(*place)).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "kafka:9092"}}]
  topics: [{name: orders}, {name: more}]
  events:
  - {name: OrderCreated, topics: [orders], key: data.orderId}
  api: {}
  worker: {batch: {size: 5}}
  generator: {rate: 5}
"#;

    fn changed(from: &str, to: &str, role: Role) -> Vec<String> {
        let text = DOCUMENT.replace(from, to);
        assert_ne!(text, DOCUMENT, "{from}");
        let opened = |text: &str| crate::resolve(&crate::document::read(text).unwrap()).opened_once(role);
        differences(&opened(DOCUMENT), &opened(&text))
    }

    #[test]
    fn what_is_read_once_is_named_for_the_role_that_reads_it() {
        let another_topic = ("[orders], key", "[orders, more], key");
        assert_eq!(changed(another_topic.0, another_topic.1, Role::Worker), ["spec.events[].topics"]);
        assert_eq!(changed(another_topic.0, another_topic.1, Role::Api), ["spec.events[].topics"], "a view without a database");
        assert_eq!(changed(another_topic.0, another_topic.1, Role::Generator), Vec::<String>::new());
        assert_eq!(changed("{size: 5}", "{size: 5, pollInterval: 3s}", Role::Worker), ["spec.worker.batch.pollInterval"]);
        assert_eq!(changed("{size: 5}", "{size: 5, pollInterval: 3s}", Role::Api), Vec::<String>::new());
        assert_eq!(changed("api: {}", "api: {publishDeadline: 9s}", Role::Api), ["spec.api.publishDeadline"]);
        assert_eq!(changed("kafka:9092", "kafka:9093", Role::Generator), ["spec.backends"]);
        for role in Role::ALL {
            assert_eq!(changed("  api: {}", "  pii: {keysSecretRef: {name: keys}}\n  api: {}", role), ["spec.pii"], "mounted by all");
        }
    }

    #[test]
    fn which_of_several_backends_is_written_to_is_not() {
        let document =
            DOCUMENT.replace("  backends: [", "  backend: kafka\n  backends: [{name: next, kafka: {bootstrapServers: 'next:9092'}}, ");
        let opened = |text: &str| crate::resolve(&crate::document::read(text).unwrap()).opened_once(Role::Api);
        assert_eq!(differences(&opened(&document), &opened(&document.replace("backend: kafka", "backend: next"))), Vec::<String>::new());
        let sooner = document.replace("  backend: kafka", "  switching: {holdDeadline: 2s}\n  backend: kafka");
        assert_eq!(differences(&opened(&document), &opened(&sooner)), ["spec.switching.holdDeadline"]);
    }

    #[test]
    fn events_rates_and_batches_are_not() {
        for (from, to) in [
            ("key: data.orderId", "key: data.customerId"),
            ("rate: 5", "rate: 6, shape: Orders, customers: 7"),
            ("{size: 5}", "{size: 6}"),
            ("  worker:", "  telemetry: {logLevel: debug, samplingPercent: 3}\n  worker:"),
        ] {
            for role in Role::ALL {
                assert_eq!(changed(from, to, role), Vec::<String>::new(), "{to}");
            }
        }
    }
}
