//! What makes pods roll: what they open once, at their start. What that is, the runtime has to know as well: it stands in `crds`.

use super::hash;
use crate::names::Role;
use crds::runtime_config::RuntimeConfig;

/// `schemas` is the digest of the Avro schemas, which are read only at a start, too.
pub fn rolls_on(config: &RuntimeConfig, role: Role, schemas: Option<&str>) -> Result<String, serde_json::Error> {
    let opened = config.opened_once(role);
    match schemas {
        Some(schemas) => hash(&(opened, schemas)),
        None => hash(&opened),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::*;
    use super::*;

    fn hash_of(document: &str, role: Role) -> String {
        rolls_on(&crds::resolve(&pipeline(document)), role, None).unwrap()
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
    fn an_event_on_another_topic_rolls_the_workers() {
        let two = DOCUMENT
            .replace("[{name: orders}]", "[{name: orders}, {name: more}]")
            .replace("{name: OrderCreated,", "{name: OrderCreated, topics: [orders],");
        let changed = two.replace("topics: [orders]", "topics: [orders, more]");
        assert_ne!(changed, two);
        assert_ne!(hash_of(&changed, Role::Worker), hash_of(&two, Role::Worker));
        assert_eq!(hash_of(&changed, Role::Generator), hash_of(&two, Role::Generator));
    }

    #[test]
    fn new_credentials_of_the_broker_roll_everybody() {
        let changed = DOCUMENT.replace("key: password", "key: password2");
        for role in Role::ALL {
            assert_ne!(hash_of(&changed, role), hash_of(DOCUMENT, role));
        }
    }
}
