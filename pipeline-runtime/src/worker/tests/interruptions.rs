use super::fakes::FakeStore;
use super::*;
use crate::broker::Happening;
use crate::store::StoreError;
use crate::worker::header;
use std::sync::atomic::Ordering::SeqCst;
use tokio::sync::Semaphore;

fn gated() -> (Arc<Semaphore>, FakeStore) {
    let gate = Arc::new(Semaphore::new(0));
    (gate.clone(), FakeStore { gate: Some(gate), ..FakeStore::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_every_event_takes_effect_once_and_in_order() {
    let (gate, store) = gated();
    let mut scene = Scene::new(store);
    scene.config.worker.as_mut().unwrap().batch_size = 20;
    scene.place_many(100, 9);
    for round in 1..=5 {
        let worker = scene.start();
        let before = scene.store.count();
        gate.add_permits(7);
        eventually("some batches are applied", || scene.store.count() > before || scene.store.calls.load(SeqCst) >= 7 * round).await;
        worker.kill().await;
    }
    gate.add_permits(1_000_000);
    scene.run_until_drained().await;
    scene.assert_all_in_order(100, 9);
}

#[tokio::test]
async fn a_stop_ends_what_is_in_flight_commits_it_and_leaves_the_rest() {
    let (gate, store) = gated();
    let mut scene = Scene::new(store);
    scene.config.worker.as_mut().unwrap().batch_size = 10;
    scene.place_many(1, 99);
    let worker = scene.start();
    gate.add_permits(1);
    scene.applying(2).await;
    let _ = worker.stop.send(());
    eventually("nothing more is taken", || scene.health.ready() == Err("the worker is stopping".into())).await;
    gate.add_permits(1_000_000);
    worker.ended.await.unwrap().unwrap();
    assert_eq!(scene.store.count(), 20, "the batch in the store's hands ended, no other began");
    let partition = scene.partition_of("O0");
    assert_eq!(scene.broker.commit_of("orders", partition.number).unwrap().next.offset, 20, "what took effect is committed");
    scene.run_until_drained().await;
    scene.assert_all_in_order(1, 99);
}

#[tokio::test]
async fn a_revoked_partition_is_released_after_its_batch_ended_and_was_committed() {
    let (gate, store) = gated();
    let scene = Scene::new(store);
    scene.place("O0");
    let worker = scene.start();
    let partition = scene.partition_of("O0");
    scene.applying(1).await;
    let mut released = scene.broker.revoke(partition.clone());
    sleep(Duration::from_millis(50)).await;
    assert!(released.try_recv() == Err(oneshot::error::TryRecvError::Empty), "its batch is being applied");
    gate.add_permits(100);
    let _ = released.await;
    assert_eq!(scene.broker.commit_of("orders", partition.number).map(|c| c.next.offset), Some(1), "committed before the release");
    worker.stop().await;
}

#[tokio::test]
async fn of_a_lost_partition_nothing_is_committed_however_late_its_batch_ends() {
    let (gate, store) = gated();
    let scene = Scene::new(store);
    scene.place("O0");
    let worker = scene.start();
    let partition = scene.partition_of("O0");
    scene.applying(1).await;
    scene.broker.inject(Happening::Lost(vec![partition.clone()]));
    scene.obeyed().await;
    gate.add_permits(100);
    eventually("the batch ended", || scene.store.count() == 1).await;
    worker.stop().await;
    // Before it was lost the start may have been committed; the event never.
    assert!(scene.broker.commit_of("orders", partition.number).is_none_or(|commit| commit.next.offset == 0));
}

#[tokio::test]
async fn a_partition_that_went_without_a_word_does_not_hold_up_the_commits_of_the_others() {
    let (gate, store) = gated();
    let scene = Scene::new(store);
    scene.place_many(50, 0);
    let (gone, other) = (scene.partition_of("O0"), (0..4).find(|number| *number != scene.partition_of("O0").number).unwrap());
    let worker = scene.start();
    scene.applying(1).await;
    scene.broker.disown(&gone);
    gate.add_permits(1_000_000);
    let position = |number| scene.broker.commit_of("orders", number).map_or(0, |commit| commit.next.offset);
    eventually("another partition is committed", || position(other) > 0).await;
    eventually("all is applied", || scene.store.count() == 50).await;
    worker.stop().await;
    assert_eq!(position(gone.number), 0);
}

#[tokio::test]
async fn a_store_that_is_down_costs_no_event_an_attempt() {
    let scene = Scene::new(FakeStore::default());
    scene.store.down.store(true, SeqCst);
    scene.place_many(100, 2);
    let worker = scene.start();
    eventually("it is noticed", || scene.health.store_trouble().is_some()).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.store.count(), 0);
    scene.store.down.store(false, SeqCst);
    scene.drained().await;
    worker.stop().await;
    scene.assert_all_in_order(100, 2);
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!((scene.health.counters.retries.get(), scene.health.store_trouble()), (0, None));
}

#[tokio::test]
async fn while_the_store_is_down_one_asks_for_all_and_nobody_applies() {
    let scene = Scene::new(FakeStore::default());
    scene.store.down.store(true, SeqCst);
    scene.place_many(100, 2);
    let worker = scene.start();
    let circuit = scene.health.counters.store_circuit.clone();
    eventually("the circuit is open", || circuit.open() == 1).await;
    sleep(Duration::from_millis(100)).await; // what had begun has failed by now
    let begun = scene.store.begun.load(SeqCst);
    sleep(Duration::from_millis(500)).await;
    assert_eq!((scene.store.begun.load(SeqCst), circuit.open(), circuit.times()), (begun, 1, 1));
    assert!(begun <= 4, "{begun} batches were tried, of four lanes");
    scene.store.down.store(false, SeqCst);
    scene.drained().await;
    worker.stop().await;
    assert_eq!((circuit.open(), circuit.times()), (0, 1));
}

#[tokio::test]
async fn connections_that_break_while_the_store_works_cost_no_event_an_attempt() {
    let mut left = 5;
    let breaks = move |_: &[crate::store::Change]| {
        left -= i32::from(left > 0);
        (left > 0).then(|| StoreError::Away("connection reset".into()))
    };
    let mut scene = Scene::new(FakeStore::failing(breaks));
    scene.config.worker.as_mut().unwrap().retry.attempts = 1;
    scene.place("O0");
    scene.run_until_drained().await;
    assert_eq!((scene.store.effects("O0").len(), scene.health.counters.retries.get()), (1, 0));
    assert_eq!(scene.letters(header::REASON), [""; 0]);
}

#[tokio::test]
async fn a_lock_on_the_orders_costs_no_event_an_attempt() {
    let scene = Scene::new(FakeStore::default());
    scene.store.locked.store(true, SeqCst);
    scene.place_many(20, 2);
    let worker = scene.start();
    eventually("it is noticed", || scene.health.store_trouble().is_some()).await;
    sleep(Duration::from_millis(300)).await;
    scene.store.locked.store(false, SeqCst);
    scene.drained().await;
    worker.stop().await;
    scene.assert_all_in_order(20, 2);
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!(scene.health.counters.retries.get(), 0);
}

#[tokio::test]
async fn a_stop_while_the_store_is_down_is_quick() {
    let scene = Scene::new(FakeStore::default());
    scene.store.down.store(true, SeqCst);
    scene.place_many(100, 2);
    let worker = scene.start();
    eventually("it is noticed", || scene.health.store_trouble().is_some()).await;
    tokio::time::timeout(Duration::from_secs(4), worker.stop()).await.expect("well within the grace");
    assert!(!scene.broker.drained("orders"));
}
