//! What of a message with encrypted fields leaves the worker.

use super::super::dead_letter::{header, letter};
use super::super::failure::{Failure, Kind};
use super::super::privacy::{Buried, discreet, readable};
use super::super::understand::{Event, Meaning, understand};
use super::fakes::FakeStore;
use super::*;
use crate::broker::{Header, Incoming, Position, Target};
use crate::codec::Codecs;
use crate::pii::{Keyring, Keys};
use serde_json::{Value as Json, json};

const PRIVATE: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop, namespace: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders, partitions: 4, producers: External}, {name: told, partitions: 1}]
  events:
  - name: Placed
    topics: [orders]
    key: data.customerId
    effect: Create
    order: {customer: data.customerId}
    schema: {type: object, required: [orderId], properties: {customerId: {type: string}, name: {type: string}, age: {type: integer, minimum: 18}}}
    rules: [{rule: 'data.name.startsWith(\"A\")', message: must begin with A}, {rule: 'data.age < 100 || timestamp(data.name) > timestamp(\"2000-01-01T00:00:00Z\")'}]
    set: {orderer: data.name}
    emit: [{topic: told, type: Told, data: \"{'orderId': data.orderId, 'who': data.name, 'age': data.age}\"}]
    pii: [data.customerId, data.name, data.age]
  - name: Told
    topics: [told]
    effect: None
    rules: [{rule: 'data.who == \"Ann\" && data.age > 18'}]
    pii: [data.who, data.age]
  pii: {keysSecretRef: {name: keys}}
  worker: {callback: {url: 'http://localhost:1/'}, retry: {attempts: 3}}
";

/// 32 bytes each.
const OLD: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const NEW: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU=";

fn keyring(keys: &[(&str, &str)]) -> Arc<Keyring> {
    Keyring::new("shop", Keys::new(keys.iter().copied().chain([("match", OLD)])).unwrap())
}

fn config() -> RuntimeConfig {
    crds::pipeline::resolve(&crds::document::read(PRIVATE).unwrap())
}

fn incoming(topic: &str, body: &str) -> Incoming {
    let at = Position { partition: Partition { topic: topic.into(), number: 0 }, offset: 7 };
    Incoming { at, key: Some("K".into()), headers: vec![], payload: Some(body.to_owned().into()), timestamp_ms: 1 }
}

fn plain(more: Json) -> Incoming {
    let mut order = json!({"orderId": "o-1", "customerId": "c-42", "name": "Ann", "age": 44});
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    incoming("orders", &order.to_string())
}

fn event(keyring: &Arc<Keyring>, message: &Incoming) -> Box<Event> {
    let config = config();
    match understand(&config, &Contract::with_keys(&config, Some(keyring)).unwrap(), &Codecs::default(), message) {
        Meaning::Event(event) => event,
        Meaning::Broken(failure) | Meaning::Locked(failure) | Meaning::Retry(failure) => panic!("{failure:?}"),
        _ => panic!("no event"),
    }
}

#[test]
fn what_leaves_the_worker_is_encrypted_and_what_follows_is_understood() {
    let keys = keyring(&[("2025-01", OLD)]);
    let event = event(&keys, &plain(json!({})));
    let change = serde_json::to_string(&event.change).unwrap();
    let then = event.then.unwrap();
    let body = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let told = body(then.messages[0].payload.as_ref().unwrap());
    let key = body(then.messages[0].key.as_ref().unwrap());
    for text in [&change, &told, &body(then.call.as_ref().unwrap()), &key] {
        assert!(!text.contains("Ann") && !text.contains(":44") && !text.contains("c-42"), "{text}");
    }
    assert!(change.contains("pii:1:2025-01:Placed/data.name:") && change.contains("\"customer\":\"pii:1:match:*:"), "{change}");
    assert!(told.contains("pii:1:2025-01:Told/data.who:"), "it is encrypted for the event that it is: {told}");
    let mut message = incoming("told", &told);
    message.headers = then.messages[0].headers.clone();
    assert_eq!(self::event(&keys, &message).change.event, "Told", "whose rule sees who it is");
}

#[test]
fn a_repeat_is_the_same_whatever_key_it_comes_under_and_nobody_can_try_values_on_its_hash() {
    let old = keyring(&[("2025-01", OLD)]);
    let both = keyring(&[("2025-01", OLD), ("2025-02", NEW)]);
    let of = |keys, message: &Incoming| event(keys, message).change;
    let (first, repeat) = (of(&old, &plain(json!({}))), of(&both, &plain(json!({}))));
    assert_ne!(first.set, repeat.set, "under the new key");
    assert_eq!((first.content, &first.fields.customer), (repeat.content, &repeat.fields.customer));
    assert_ne!(first.content, of(&old, &plain(json!({"age": 45}))).content);
    let body = plain(json!({})).payload.unwrap();
    assert_ne!(first.content, crate::contract::content_hash(&serde_json::from_slice(&body).unwrap()));
}

#[test]
fn no_reason_says_what_a_field_says() {
    let config = config();
    let contract = Contract::with_keys(&config, Some(&keyring(&[("2025-01", OLD)]))).unwrap();
    let reason = |more: Json| match understand(&config, &contract, &Codecs::default(), &plain(more)) {
        Meaning::Broken(failure) => failure.reason,
        _ => panic!("it is sound"),
    };
    assert_eq!(reason(json!({"age": 7})), "data.age: age must be at least 18");
    assert_eq!(reason(json!({"age": true})), "data.age: age must be a whole number");
    assert_eq!(reason(json!({"customerId": 4711})), "data.customerId: customerId must be a text");
    let of_rules = reason(json!({"name": "Berta-4711"}));
    assert!(of_rules.contains("must begin with A") && !of_rules.contains("Berta"), "{of_rules}");
    let of_functions = reason(json!({"age": 200}));
    assert!(of_functions.contains("cannot be checked") && !of_functions.contains("Ann"), "{of_functions}");
    let long = incoming("orders", r#"{"orderId": "o-1", "customerId": "c-42", "name": "Ann", "age": 1234567890123456789012}"#);
    match understand(&config, &contract, &Codecs::default(), &long) {
        Meaning::Broken(Failure { reason, .. }) => assert!(reason.starts_with("data.age has more digits") && !reason.contains("12345")),
        _ => panic!("it cannot be read"),
    }
    // What must be equal to be found opens as any field of the pipeline, and is not said either.
    let customer = event(&keyring(&[("2025-01", OLD)]), &plain(json!({}))).change.fields.customer;
    let of_moved = reason(json!({ "name": customer }));
    assert!(of_moved.contains("must begin with A") && !of_moved.contains("c-42"), "{of_moved}");
}

#[test]
fn a_dead_letter_says_nothing_in_plain_and_is_the_message_again() {
    let config = config();
    let contract = Contract::with_keys(&config, Some(&keyring(&[("2025-01", OLD)]))).unwrap();
    let text = |message: &Incoming| String::from_utf8_lossy(message.payload.as_deref().unwrap()).into_owned();
    let sound = plain(json!({"amount": 7}));
    let letter = discreet(&config, &contract, &Codecs::default(), &sound).unwrap().into_owned();
    assert!(!text(&letter).contains("Ann") && text(&letter).contains("\"amount\":7"), "{}", text(&letter));
    assert!(matches!(understand(&config, &contract, &Codecs::default(), &letter), Meaning::Event(_)));
    assert_eq!(text(&discreet(&config, &contract, &Codecs::default(), &letter).unwrap()), text(&letter), "byte for byte");
    let broken = incoming("orders", "{\"name\": \"Ann\"");
    let letter = discreet(&config, &contract, &Codecs::default(), &broken).unwrap().into_owned();
    assert!(text(&letter).starts_with("pii:1:2025-01:orders/body:"), "{}", text(&letter));
    match understand(&config, &contract, &Codecs::default(), &letter) {
        Meaning::Broken(failure) => assert!(failure.reason.contains("cut off"), "{failure:?}"),
        _ => panic!("it cannot be read"),
    }
}

#[test]
fn a_body_that_has_no_room_in_its_dead_letter_is_cut_before_it_is_encrypted() {
    let config = config();
    let contract = Contract::with_keys(&config, Some(&keyring(&[("2025-01", OLD)]))).unwrap();
    let of = |message: &Incoming, most: usize| {
        let buried = Buried::of(&config, &contract, &Codecs::default(), message).unwrap();
        let failure = Failure::new(Kind::Invalid, "x", None);
        let letter = letter("orders-dlq", "kafka", &buried, &failure, 1, chrono::DateTime::UNIX_EPOCH, Some(most));
        let payload = letter.payload.unwrap();
        assert!(payload.starts_with(b"pii:1:2025-01:orders/body:") && payload.len() < most, "{} bytes", payload.len());
        let cut = letter.headers.iter().any(|header| *header.name == *header::CUT_FROM);
        (Incoming { payload: Some(payload), headers: letter.headers, ..message.clone() }, cut)
    };
    let text = format!("{{\"name\": \"Ann\", \"words\": \"{}", "word ".repeat(2000));
    let (letter, cut) = of(&incoming("orders", &text), 8000);
    let opened = readable(contract.encrypted("orders").unwrap(), &letter).unwrap();
    let opened = opened.payload.as_deref().unwrap();
    assert!(cut && opened.len() > 4000 && text.as_bytes().starts_with(opened), "{} bytes of it", opened.len());
    // What only its many fields make too large has room as a whole, and is the message again.
    let many = plain(json!({}));
    let mut buried = Buried::of(&config, &contract, &Codecs::default(), &many).unwrap();
    let (whole, cut) = buried.shortened(300);
    buried.message.to_mut().payload = Some(whole);
    let opened = readable(contract.encrypted("orders").unwrap(), &buried.message).unwrap();
    assert_eq!((cut, &opened.payload), (None, &many.payload));
}

#[test]
fn an_empty_body_has_nothing_to_hide() {
    let config = config();
    let contract = Contract::with_keys(&config, Some(&keyring(&[("2025-01", OLD)]))).unwrap();
    let letter = discreet(&config, &contract, &Codecs::default(), &incoming("orders", "")).unwrap().into_owned();
    assert_eq!(letter.payload.as_deref(), Some(&b""[..]), "nobody takes it for a message that can be replayed");
}

#[test]
fn an_unknown_key_costs_no_attempt_and_what_was_forged_is_a_dead_letter_at_once() {
    let (old, new) = (keyring(&[("2025-01", OLD)]), keyring(&[("2025-02", NEW)]));
    let config = config();
    let contract = Contract::with_keys(&config, Some(&old)).unwrap();
    let sent =
        String::from_utf8(discreet(&config, &contract, &Codecs::default(), &plain(json!({}))).unwrap().payload.clone().unwrap().to_vec())
            .unwrap();
    let without = Contract::with_keys(&config, Some(&new)).unwrap();
    match understand(&config, &without, &Codecs::default(), &incoming("orders", &sent)) {
        Meaning::Locked(failure) => assert!(failure.reason.contains("\"2025-01\", which is not in the Secret"), "{failure:?}"),
        _ => panic!("it has no key"),
    }
    let moved = sent.replace("Placed/data.name:", "Placed/data.age:");
    match understand(&config, &contract, &Codecs::default(), &incoming("orders", &moved)) {
        Meaning::Broken(failure) => assert!(failure.reason.contains("does not open"), "{failure:?}"),
        _ => panic!("it was moved"),
    }
}

/// In a running worker: the key comes, and the event takes effect as if nothing had been.
#[tokio::test]
async fn an_event_waits_for_its_key_without_losing_an_attempt() {
    let (old, new) = (keyring(&[("2025-01", OLD)]), keyring(&[("2025-02", NEW)]));
    let mut scene = Scene::new(FakeStore::default());
    scene.config = config();
    scene.config.worker.as_mut().unwrap().callback = None;
    scene.config.events.truncate(1);
    scene.config.events[0].emit.clear();
    let with = |keys: &Arc<Keyring>| Contract::with_keys(&scene.config, Some(keys)).unwrap();
    let sent = discreet(&scene.config, &with(&old), &Codecs::default(), &plain(json!({}))).unwrap().payload.clone();
    let headers = [("type", "Placed"), ("id", "e-1")];
    let headers = headers.map(|(name, value)| Header { name: name.into(), value: value.into() }).to_vec();
    scene.send(Outgoing { topic: "orders".into(), target: Target::Key, key: Some("K".into()), headers, payload: sent });
    let contract = Arc::new(ArcSwap::from_pointee(with(&new)));
    let publisher = Publisher::new(scene.broker.clone(), Gate::open());
    let config = Arc::new(ArcSwap::from_pointee(scene.config.clone()));
    let worker = Running::start(scene.deps(config, contract.clone(), scene.broker.clone(), publisher, None));
    sleep(Duration::from_millis(500)).await;
    assert_eq!((scene.store.count(), scene.letters(header::REASON).len()), (0, 0), "it waits");
    contract.store(Arc::new(with(&old)));
    scene.drained().await;
    worker.stop().await;
    assert_eq!((scene.store.count(), scene.letters(header::REASON).len()), (1, 0));
}
