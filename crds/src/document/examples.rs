//! Every document under `examples/` is sound, and means what its README says.

use super::read;
use crate::pipeline::{Effect, Idempotency};
use crate::runtime_config::{RuntimeConfig, StoreConfig};
use std::path::{Path, PathBuf};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn resolved(name: &str) -> RuntimeConfig {
    let text = std::fs::read_to_string(examples().join(name).join("pipeline.yaml")).unwrap();
    crate::resolve(&read(&text).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:#?}")))
}

#[test]
fn every_example_is_sound_and_has_a_readme() {
    let mut seen = Vec::new();
    for folder in std::fs::read_dir(examples()).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        assert_eq!(resolved(&name).pipeline, name, "a pipeline is named after its folder");
        assert!(folder.path().join("README.md").exists(), "{name} has no README.md");
        seen.push(name);
    }
    assert!(seen.len() >= 2, "{seen:?}");
}

#[test]
fn the_quickstart_makes_orders_and_changes_them() {
    let config = resolved("quickstart");
    let api = config.api.unwrap();
    assert_eq!((api.creates.as_str(), api.updates.as_deref()), ("OrderCreated", Some("OrderStatusChanged")));
    assert!(config.events.iter().all(|event| event.key == "data.orderId" && event.schema.is_some()));
    assert!(config.worker.is_some() && config.generator.is_none());
}

#[test]
fn the_orders_are_kept_in_a_database_and_their_dead_letters_apart() {
    let config = resolved("orders");
    assert!(matches!(&config.store, StoreConfig::Postgres { schema, .. } if schema == "orders"));
    assert_eq!(config.topic("orders").unwrap().dead_letter.as_deref(), Some("orders-dead"));
    assert_eq!(config.topic("orders-dead").unwrap().partitions, 12);
    assert_eq!(config.event("OrderStatusChanged").unwrap().effect, Effect::Update);
    assert_eq!(config.api.unwrap().idempotency, Idempotency::Strict);
    assert_eq!(config.generator.unwrap().publishes, "OrderCreated");
}
