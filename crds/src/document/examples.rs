//! Every document under `examples/` is sound, and means what its README says.

use super::read;
use crate::pipeline::{Effect, Envelope, Idempotency, Producers};
use crate::runtime_config::{Dialect, RuntimeConfig, StoreConfig};
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

#[test]
fn food_is_made_by_a_generator_and_kept_in_a_table_without_an_api() {
    let config = resolved("food");
    let event = config.event("FoodOrdered").unwrap();
    assert_eq!((event.key.as_str(), event.effect), ("data.customer_id", Effect::Create));
    assert!(matches!(&config.store, StoreConfig::Postgres { schema, .. } if schema == "food"));
    let (topic, worker) = (config.topic("food-orders").unwrap(), config.worker.as_ref().unwrap());
    assert_eq!((topic.partitions, topic.retention.as_secs(), topic.replicas), (3, 7 * 24 * 3600, Some(1)));
    assert_eq!((worker.group.as_str(), worker.retry.attempts), ("order-processors", 3));
    let generator = config.generator.as_ref().unwrap();
    assert!((generator.rate, generator.customers) == (10, 100) && config.api.is_none());
}

#[test]
fn retail_is_written_to_by_others_but_for_what_it_says_itself() {
    let config = resolved("retail");
    let read: Vec<&str> = config.topics_read().map(|topic| topic.name.as_str()).collect();
    let topics = "order-create order-update order-cancel order-release fulfillment-events ship-events short-events \
                  payment-authorized payment-captured payment-refunded inventory-update reservation-events";
    assert_eq!(read.join(" "), topics);
    for topic in config.topics_read() {
        assert_eq!((topic.producers, topic.envelope), (Producers::External, Envelope::Attributes), "{}", topic.name);
        assert_eq!((topic.max_message_bytes, topic.dead_letter.clone()), (10 << 20, Some(format!("{}-dlq", topic.name))));
    }
    assert_eq!(config.topic("order-events").unwrap().producers, Producers::Pipeline);
    assert_eq!(config.worker.unwrap().retry.attempts, 5);
}

#[test]
fn the_cart_speaks_its_own_dialect_and_keeps_the_events_of_an_order_together() {
    let config = resolved("cart");
    let api = config.api.as_ref().unwrap();
    assert_eq!((api.dialect, api.creates.as_str(), api.updates.as_deref()), (Dialect::Cart, "OrderCreated", Some("OrderStatusChanged")));
    assert!(config.events.iter().all(|event| event.key == "data.orderId" && event.topics == ["order-events"]));
}
