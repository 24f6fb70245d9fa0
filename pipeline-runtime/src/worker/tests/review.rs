//! Dead letters from their topic into the store, and from there to whoever is to be told.

use super::fakes::FakeStore;
use super::following::{SILENT, ids, service};
use super::*;
use crate::broker::{Header, Incoming, Target};
use crate::codec::avro::registry::{Confluent, Kept, Registry};
use crate::codec::{Codecs, attribute};
use crate::sqlite::Place;
use crate::store::{Content, Failed, FailedMessages, FailedPage, Filter, Letter, SqliteStore, Store, StoreError};
use crate::worker::{AlertDeps, ReviewDeps, alerts, header, review};
use async_trait::async_trait;
use crds::pipeline::ConfigMapKeyRef;
use crds::runtime_config::{AlertConfig, AlertUrl, CodecConfig};
use std::sync::atomic::AtomicBool;
use tokio::sync::Notify;

/// A store of letters that can be away, and takes none with this reason.
struct Shelf {
    store: SqliteStore,
    away: AtomicBool,
}

const UNTAKEN: &str = "no store takes this";

impl Shelf {
    async fn new() -> Arc<Shelf> {
        let store = SqliteStore::open(&Place::Memory, None).await.unwrap();
        store.migrate().await.unwrap();
        Arc::new(Shelf { store, away: AtomicBool::default() })
    }

    async fn all(&self) -> Vec<(Failed, Content)> {
        let page = self.store.list(&Filter::default(), None, 100).await.unwrap();
        let mut all = Vec::new();
        for failed in page.letters.into_iter().rev() {
            all.extend(self.store.show(&failed.facts.id).await.unwrap());
        }
        all
    }
}

#[async_trait]
impl FailedMessages for Shelf {
    async fn keep(&self, letters: &[Letter]) -> Result<u64, StoreError> {
        if self.away.load(SeqCst) {
            return Err(StoreError::Away("on request".into()));
        }
        if letters.iter().any(|letter| letter.facts.reason == UNTAKEN) {
            return Err(StoreError::Refused(UNTAKEN.into()));
        }
        self.store.keep(letters).await
    }
    async fn list(&self, filter: &Filter, below: Option<i64>, limit: u32) -> Result<FailedPage, StoreError> {
        self.store.list(filter, below, limit).await
    }
    async fn show(&self, id: &str) -> Result<Option<(Failed, Content)>, StoreError> {
        self.store.show(id).await
    }
    async fn first_above(&self, filter: &Filter, above: i64) -> Result<Option<(Failed, Content)>, StoreError> {
        self.store.first_above(filter, above).await
    }
    async fn note_replay(&self, id: &str, by: &str) -> Result<(), StoreError> {
        self.store.note_replay(id, by).await
    }
    async fn alerts(&self, most: u32) -> Result<Vec<(Failed, u32)>, StoreError> {
        self.store.alerts(most).await
    }
    async fn note_alert(&self, id: &str) -> Result<(), StoreError> {
        self.store.note_alert(id).await
    }
    async fn note_alert_failure(&self, id: &str, reason: &str, tried: bool, again: Option<Duration>) -> Result<(), StoreError> {
        self.store.note_alert_failure(id, reason, tried, again).await
    }
    async fn forget_letters(&self, keep: Duration, replayed: Duration, most: i64) -> Result<u64, StoreError> {
        self.store.forget_letters(keep, replayed, most).await
    }
}

/// Whoever reads the dead letters of a scene; ends when dropped.
struct Reading {
    tasks: tokio::task::JoinSet<Result<(), WorkerError>>,
    due: Arc<Notify>,
}

impl Scene {
    fn review(&self, shelf: &Arc<Shelf>) -> Reading {
        self.review_by(shelf, Codecs::default())
    }

    fn review_by(&self, shelf: &Arc<Shelf>, codecs: Codecs) -> Reading {
        let due = Arc::new(Notify::new());
        let deps = ReviewDeps {
            config: Arc::new(ArcSwap::from_pointee(self.config.clone())),
            contract: Arc::new(ArcSwap::from_pointee(Contract::compile(&self.config).unwrap())),
            codecs,
            broker: self.broker.clone(),
            letters: shelf.clone(),
            health: self.health.clone(),
            alert: due.clone(),
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(review(deps, std::future::pending()));
        Reading { tasks, due }
    }

    fn tell(&self, shelf: &Arc<Shelf>, reading: &mut Reading) {
        let deps = AlertDeps {
            config: Arc::new(ArcSwap::from_pointee(self.config.clone())),
            letters: shelf.clone(),
            health: self.health.clone(),
            due: reading.due.clone(),
            secret: Arc::new(|reference| Err(format!("secret {}/{} is missing", reference.name, reference.key))),
        };
        reading.tasks.spawn(alerts(deps, std::future::pending()));
    }

    fn bury(&self, body: &'static [u8], headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| Header { name: (*name).into(), value: value.to_string().into() }).collect();
        let message =
            Outgoing { topic: "orders-dlq".into(), target: Target::Key, key: Some("K".into()), headers, payload: Some(body.into()) };
        self.send(message);
    }

    async fn kept(&self, count: u64) {
        eventually("the letters are kept", || self.health.counters.letters_kept.get() >= count).await;
        eventually("and committed", || self.broker.drained("orders-dlq")).await;
    }
}

#[tokio::test]
async fn a_letter_is_kept_as_it_was_and_once_although_it_was_written_twice() {
    let (scene, shelf) = (Scene::new(FakeStore::default()), Shelf::new().await);
    scene.publish("Placed", "O0", "e-1", ", \"quantity\": 0");
    scene.run_until_drained().await;
    // As after a crash between the letter and its commit.
    scene.broker.set_back(crate::broker::Commit { next: scene.broker.messages("orders")[0].at.clone(), metadata: String::new() });
    scene.run_until_drained().await;
    assert_eq!(scene.broker.messages("orders-dlq").len(), 2);
    let _reading = scene.review(&shelf);
    scene.kept(1).await;
    let all = shelf.all().await;
    assert_eq!(all.len(), 1, "{all:#?}");
    let (Failed { facts, .. }, content) = &all[0];
    let original: Incoming = scene.broker.messages("orders").remove(0);
    assert_eq!((&content.data, &facts.key), (&original.payload, &original.key));
    let (origin, headers) = content.headers.split_last().unwrap();
    assert_eq!((headers, &*origin.name), (&original.headers[..], attribute::ORIGIN), "what makes a replay the same message each time");
    assert_eq!(origin.value, codec::place_in_time(&original.at, original.timestamp_ms));
    assert_eq!((facts.topic.as_deref(), facts.partition, facts.offset), (Some("orders"), Some(original.at.partition.number), Some(0)));
    assert_eq!((&*facts.error_type, facts.event_id.as_deref(), facts.attempts), ("invalid", Some("e-1"), 1));
    assert_eq!((facts.published_at, &facts.obstacle), (chrono::DateTime::UNIX_EPOCH, &None), "when it says that it was published");
    assert_eq!(facts.letter, "fake/orders-dlq/0/0");
}

#[tokio::test]
async fn letters_of_others_are_kept_too_and_seals_are_none() {
    let (scene, shelf) = (Scene::new(FakeStore::default()), Shelf::new().await);
    scene.bury(b"{\"from\": \"somebody\"}", &[("source", "shop")]);
    scene.bury(b"", &[(attribute::STAMP, "x:3")]);
    scene.bury(b"", &[(header::TOPIC, "orders")]);
    scene.bury(b"part", &[(header::TOPIC, "orders"), (header::CUT_FROM, "5000"), (header::REASON, "too late")]);
    scene.bury(b"{}", &[(header::TOPIC, "orders"), (header::BODY, "change")]);
    scene.bury(b"{}", &[(header::TOPIC, "orders"), (header::HEADERS_CUT_FROM, "70"), (header::KEY_CUT_FROM, "9000")]);
    let _reading = scene.review(&shelf);
    scene.kept(5).await;
    let all = shelf.all().await;
    let said: Vec<(&str, &str, Option<&str>)> =
        all.iter().map(|(f, _)| (f.facts.topic.as_deref().unwrap(), &*f.facts.error_type, f.facts.obstacle.as_deref())).collect();
    assert_eq!(said[0], ("orders", "external", None), "the only topic with this dead-letter topic");
    let obstacles = said[1..].iter().map(|(_, _, obstacle)| obstacle.unwrap()).collect::<Vec<_>>();
    for (obstacle, part) in obstacles.iter().zip([
        "has no body",
        "its data from 5000 bytes",
        "its order never came",
        "its headers from 70 bytes, its key from 9000 bytes",
    ]) {
        assert!(obstacle.contains(part), "{obstacle}");
    }
    assert_eq!(all[2].0.facts.reason, "too late");
}

#[tokio::test]
async fn a_store_that_is_away_loses_no_letter_and_nothing_is_committed_meanwhile() {
    let (scene, shelf) = (Scene::new(FakeStore::default()), Shelf::new().await);
    shelf.away.store(true, SeqCst);
    scene.bury(b"{\"n\": 1}", &[]);
    let _reading = scene.review(&shelf);
    sleep(Duration::from_millis(100)).await;
    scene.bury(b"{\"n\": 2}", &[]);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.broker.commit_of("orders-dlq", 0), None);
    shelf.away.store(false, SeqCst);
    scene.kept(2).await;
    assert_eq!(shelf.all().await.len(), 2);
}

#[tokio::test]
async fn what_another_system_buries_keeps_no_other_letter_from_being_kept() {
    let (scene, shelf) = (Scene::new(FakeStore::default()), Shelf::new().await);
    let long = "i".repeat(3000);
    for headers in [[(header::ID, "a\0b")], [(header::ID, &long)], [(header::REASON, UNTAKEN)], [(header::CUT_FROM, "9\0")]] {
        scene.bury(b"{}", &headers);
    }
    let _reading = scene.review(&shelf);
    scene.kept(3).await;
    let all = shelf.all().await;
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(failed, _)| failed.facts.id.len() == 36), "ids of ours: {all:?}");
}

fn alerting(when: &str, url: AlertUrl) -> Scene {
    let mut scene = Scene::new(FakeStore::default());
    let alert = AlertConfig { when: Some(when.into()), url, timeout: Duration::from_millis(200) };
    scene.config.worker.as_mut().unwrap().dead_letters.alert = Some(alert);
    scene
}

#[tokio::test]
async fn somebody_is_told_of_what_is_critical_once_and_again_until_it_is_taken() {
    let (webhook, calls) = service(|_, before| [500, SILENT, 204][before.min(2)]).await;
    let when = "attributes.?severity.orValue('') == 'CRITICAL' || attributes.errorType == 'conflict'";
    let (scene, shelf) = (alerting(when, AlertUrl::Plain(webhook.url)), Shelf::new().await);
    scene.bury(b"{}", &[("severity", "LOW")]);
    scene.bury(b"no json", &[("severity", "CRITICAL"), (header::ID, "first")]);
    scene.bury(b"{\"secret\": 1}", &[(header::ERROR_TYPE, "conflict"), (header::ID, "second"), (header::REASON, "other content")]);
    let mut reading = scene.review(&shelf);
    scene.tell(&shelf, &mut reading);
    scene.kept(3).await;
    let counters = &scene.health.counters;
    // What has to wait is looked for every ten seconds: here at once.
    let due = reading.due.clone();
    eventually("all are told", || {
        due.notify_one();
        counters.alerts.get() == 2
    })
    .await;
    let mut told = ids(&calls);
    told.sort();
    assert_eq!(told, ["first", "first", "first", "second", "second", "second"]);
    let body = calls.lock().unwrap().iter().find(|(id, _)| id == "second").unwrap().1.clone();
    assert!(body.contains("other content") && !body.contains("secret"), "no data: {body}");
    assert_eq!(shelf.all().await.iter().map(|(f, _)| f.alerted_at.is_some()).collect::<Vec<_>>(), [false, true, true]);
}

#[tokio::test]
async fn a_webhook_that_is_down_costs_no_alert_a_try_and_a_missing_address_is_said() {
    let (scene, shelf) = (alerting("true", AlertUrl::Plain("http://127.0.0.1:1/".into())), Shelf::new().await);
    scene.bury(b"{}", &[(header::ID, "one")]);
    let mut reading = scene.review(&shelf);
    scene.tell(&shelf, &mut reading);
    eventually("the circuit is open", || scene.health.counters.alert_circuit.open() == 1).await;
    scene.kept(1).await;
    sleep(Duration::from_millis(50)).await;
    let (failed, _) = shelf.all().await.remove(0);
    assert_eq!(failed.alert_failure.as_deref(), Some("the webhook is taken to be down"));
    shelf.note_alert_failure("one", "", false, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(shelf.alerts(9).await.unwrap()[0].1, 0);

    let reference = crds::pipeline::SecretKeyRef { name: "chat".into(), key: "url".into() };
    let (scene, shelf) = (alerting("true", AlertUrl::Secret(reference)), Shelf::new().await);
    scene.bury(b"{}", &[]);
    let mut reading = scene.review(&shelf);
    scene.tell(&shelf, &mut reading);
    scene.kept(1).await;
    let mut said = None;
    while said.is_none() {
        sleep(Duration::from_millis(5)).await;
        said = shelf.all().await.remove(0).0.alert_failure;
    }
    assert_eq!(said.as_deref(), Some("secret chat/url is missing"));
}

/// How many of two letters, of five and of one, somebody is told of where more than three matter; their schema is the first of this registry.
async fn told_of_avro(registry: Registry) -> usize {
    let (mut scene, shelf) = (alerting("data.total > 3", AlertUrl::Plain("http://127.0.0.1:1".into())), Shelf::new().await);
    let schema = ConfigMapKeyRef { name: "schemas".into(), key: "order.avsc".into() };
    scene.config.topics[0].codec = CodecConfig::Avro { registry: "http://registry".into(), schema };
    let registry = Arc::new(registry);
    let codecs = Codecs::of(&scene.config, |_| Ok(TOTAL.into()), |_| Ok(registry.clone())).unwrap();
    scene.bury(b"\x00\x00\x00\x00\x01\x0a", &[(header::TOPIC, "orders"), (header::ID, "five")]);
    scene.bury(b"\x00\x00\x00\x00\x01\x02", &[(header::TOPIC, "orders"), (header::ID, "one")]);
    let _reading = scene.review_by(&shelf, codecs);
    scene.kept(2).await;
    shelf.alerts(9).await.unwrap().len()
}

const TOTAL: &str = r#"{"type": "record", "name": "Order", "fields": [{"name": "total", "type": "int"}]}"#;

#[tokio::test]
async fn a_letter_in_avro_is_judged_by_what_readers_see_and_told_where_nobody_says_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::open(&folder.path().join("schemas.json")).unwrap();
    assert_eq!(kept.register("orders-value", TOTAL), Ok(1));
    assert_eq!(told_of_avro(Registry::Kept(kept)).await, 1);
    assert_eq!(told_of_avro(Registry::Confluent(Confluent::new("http://127.0.0.1:1").unwrap())).await, 2);
}
