//! What makes pods roll. Everything that a running pod takes up from its configuration is left out of the hash: events, retries,
//! rates, batches, sampling, log level. What it opens once at its start is in: addresses, credentials' places, topics, the group.

use super::hash;
use crate::names::Role;
use crds::runtime_config::RuntimeConfig;
use serde_json::json;

pub fn rolls_on(config: &RuntimeConfig, role: Role) -> Result<String, serde_json::Error> {
    let store = (role != Role::Generator).then_some(&config.store);
    let api = config.api.as_ref().filter(|_| role == Role::Api);
    let worker = config.worker.as_ref().filter(|_| role == Role::Worker);
    hash(&json!({
        "backend": config.backend,
        "backends": config.backends,
        "topics": config.topics,
        "store": store,
        "api": api.map(|a| json!([a.dialect, a.keys, a.admin_keys, a.idempotency])),
        "worker": worker.map(|w| &w.group),
        "otlp": config.telemetry.otlp,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::*;
    use super::*;

    fn hash_of(document: &str, role: Role) -> String {
        rolls_on(&crds::resolve(&pipeline(document)), role).unwrap()
    }

    #[test]
    fn events_rates_and_retries_are_hot() {
        let hot = [
            ("{name: OrderCreated, effect: Create}", "{name: OrderCreated, effect: Create, when: 'attributes.source != \"TEST\"'}"),
            ("rate: 5", "rate: 500"),
            ("worker: {", "worker: {retry: {attempts: 9}, batch: {size: 7}, "),
        ];
        for (from, to) in hot {
            let changed = DOCUMENT.replace(from, to);
            assert_ne!(changed, DOCUMENT);
            for role in Role::ALL {
                assert_eq!(hash_of(&changed, role), hash_of(DOCUMENT, role), "{to}");
            }
        }
    }

    #[test]
    fn a_new_place_of_the_store_rolls_who_uses_it() {
        let changed = DOCUMENT.replace("name: db", "name: db2");
        assert_ne!(hash_of(&changed, Role::Worker), hash_of(DOCUMENT, Role::Worker));
        assert_ne!(hash_of(&changed, Role::Api), hash_of(DOCUMENT, Role::Api));
        assert_eq!(hash_of(&changed, Role::Generator), hash_of(DOCUMENT, Role::Generator));
    }

    #[test]
    fn new_credentials_of_the_broker_roll_everybody() {
        let changed = DOCUMENT.replace("key: password", "key: password2");
        for role in Role::ALL {
            assert_ne!(hash_of(&changed, role), hash_of(DOCUMENT, role));
        }
    }
}
