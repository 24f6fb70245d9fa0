use super::fakes::FakeStore;
use super::*;
use crate::store::StoreError;
use crate::worker::header;
use std::sync::atomic::Ordering::SeqCst;
use tokio::sync::Semaphore;

#[tokio::test]
async fn each_order_keeps_its_order_and_batches_fill_up() {
    let scene = Scene::new(FakeStore::default());
    scene.place_many(200, 9);
    scene.run_until_drained().await;
    scene.assert_all_in_order(200, 9);
    assert!(scene.store.calls.load(SeqCst) < 200, "{} calls for 2000 events", scene.store.calls.load(SeqCst));
    assert!(scene.store.largest.load(SeqCst) <= 500);
    assert_eq!(scene.health.counters.processed.get(), 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_order_keeps_its_order_under_random_failures_of_the_store() {
    // A third of the batches fails; one event fails twice by itself: its third attempt is the last one.
    let mut failed = 0;
    let store = FakeStore::failing(move |batch| {
        let poisoned = batch.iter().any(|change| change.event_id == "O7-3");
        failed += usize::from(poisoned && batch.len() == 1);
        let fails = (poisoned && failed < 5) || rand::random::<f64>() < 0.3;
        fails.then(|| StoreError::Transient("on request".into()))
    });
    let mut scene = Scene::new(store);
    scene.config.worker.as_mut().unwrap().retry.attempts = 1000;
    scene.place_many(40, 9);
    scene.run_until_drained().await;
    scene.assert_all_in_order(40, 9);
    assert_eq!(scene.letters(header::EVENT_ID), [""; 0]);
    assert!(scene.health.counters.retries.get() > 0);
}

#[tokio::test]
async fn a_key_that_waits_holds_up_no_other_key() {
    let store = FakeStore::failing(|batch| {
        batch.iter().any(|change| change.event_id == "slow-0").then(|| StoreError::Transient("on request".into()))
    });
    let mut scene = Scene::new(store);
    scene.config.worker.as_mut().unwrap().retry.attempts = 100;
    scene.config.worker.as_mut().unwrap().retry.base = Duration::from_secs(3600);
    scene.config.worker.as_mut().unwrap().retry.max = Duration::from_secs(3600);
    scene.place("slow");
    scene.note("slow", 1);
    scene.place_many(100, 2);
    let worker = scene.start();
    eventually("all others are applied", || scene.store.count() == 300).await;
    assert_eq!(scene.store.effects("slow"), [""; 0]);
    let partition = scene.partition_of("slow");
    eventually("the attempt is noted with the commit", || {
        scene.broker.commit_of("orders", partition.number).is_some_and(|c| c.next.offset == 0 && c.metadata == r#"{"a":{"0":1}}"#)
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_store_that_stands_still_fills_memory_to_its_bound_and_no_further() {
    let gate = Arc::new(Semaphore::new(0));
    let mut scene = Scene::new(FakeStore { gate: Some(gate.clone()), ..FakeStore::default() });
    scene.limits = Limits { messages: 1000, ..Limits::default() };
    scene.config.worker.as_mut().unwrap().batch_size = 100;
    scene.place_many(5000, 1);
    let worker = scene.start();
    let most = || scene.health.counters.in_hand.get();
    eventually("the worker has read up to its bound", || most() >= 1000).await;
    assert!(most() <= 1000 + 100, "one batch beyond the bound, not {}", most());
    gate.add_permits(1_000_000);
    scene.drained().await;
    worker.stop().await;
    scene.assert_all_in_order(5000, 1);
}

#[tokio::test]
async fn a_message_without_a_key_is_applied_too() {
    let scene = Scene::new(FakeStore::default());
    scene.place("O1");
    let mut bare = scene.broker.messages("orders").remove(0);
    bare.payload = Some(r#"{"orderId": "O2", "quantity": 2}"#.into());
    let topic = bare.at.partition.topic;
    scene.send(Outgoing { topic, target: crate::broker::Target::Key, key: None, headers: vec![], payload: bare.payload });
    scene.run_until_drained().await;
    assert_eq!(scene.store.effects("O2").len(), 1);
}
