use super::fakes::FakeStore;
use super::*;
use crate::broker::{Header, Target};
use crate::store::StoreError;
use crate::worker::header;
use crds::pipeline::Invalid;
use std::sync::atomic::Ordering::SeqCst;

fn raw(scene: &Scene, body: &'static [u8], headers: &[(&str, &str)]) {
    let headers = headers.iter().map(|(name, value)| Header { name: (*name).into(), value: value.to_string().into() }).collect();
    scene.send(Outgoing { topic: "orders".into(), target: Target::Key, key: Some("K".into()), headers, payload: Some(body.into()) });
}

#[tokio::test]
async fn poison_becomes_a_dead_letter_untouched_and_the_next_event_is_applied() {
    let scene = Scene::new(FakeStore::default());
    raw(&scene, b"\xff not json", &[("source", "shop")]);
    raw(&scene, br#"{"orderId": "K", "quantity": 0}"#, &[("type", "Placed"), ("id", "e-1")]);
    raw(&scene, br#"{"orderId": "K", "quantity": 1}"#, &[("type", "Placed"), ("schemaVersion", "99")]);
    raw(&scene, br#"{"orderId": "K", "quantity": 1}"#, &[("type", "Placed"), ("id", "e-2")]);
    scene.run_until_drained().await;
    assert_eq!(scene.store.effects("K").len(), 1);
    assert_eq!(scene.letters(header::ERROR_TYPE), ["undecodable", "invalid", "schemaVersion"]);
    assert_eq!(scene.letters(header::EVENT_ID)[1], "e-1");
    assert_eq!(scene.letters(header::TOPIC), ["orders"; 3]);
    assert!(scene.letters(header::REASON)[1].contains("data.quantity"), "{:?}", scene.letters(header::REASON));
    let first = &scene.broker.messages("orders-dlq")[0];
    assert_eq!((first.payload.as_deref(), first.key.as_deref()), (Some(&b"\xff not json"[..]), Some(&b"K"[..])));
    assert_eq!(first.header("source"), Some(&b"shop"[..]));
}

#[tokio::test]
async fn no_offset_passes_a_dead_letter_that_is_not_acknowledged() {
    let scene = Scene::new(FakeStore::default());
    for for_good in [false, true] {
        scene.broker.refuse.lock().unwrap().insert("orders-dlq".into(), for_good);
    }
    raw(&scene, b"rubbish", &[]);
    scene.place("K");
    scene.place_many(20, 1);
    let worker = scene.start();
    eventually("all other keys are applied", || scene.store.count() >= 40).await;
    let number = scene.partition_of("K").number;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(scene.broker.commit_of("orders", number).map_or(0, |c| c.next.offset), 0);
    scene.broker.refuse.lock().unwrap().clear();
    scene.drained().await;
    worker.stop().await;
    assert_eq!(scene.letters(header::ERROR_TYPE), ["undecodable"]);
}

#[tokio::test]
async fn a_letter_that_is_larger_than_its_topic_takes_is_made_smaller_and_holds_up_nothing() {
    let scene = Scene::new(FakeStore::default());
    scene.broker.limits.lock().unwrap().insert("orders-dlq".into(), 3000);
    let key = Some(vec![b'k'; 6000].into());
    scene.send(Outgoing { topic: "orders".into(), target: Target::Key, key, headers: vec![], payload: Some("{broken".into()) });
    scene.place("K");
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::KEY_CUT_FROM)), (vec!["undecodable".into()], vec!["6000".into()]));
    assert!(scene.broker.messages("orders-dlq")[0].key.as_ref().unwrap().len() > 1000, "what has room of it is there");
    assert_eq!(scene.store.effects("K").len(), 1);
}

#[tokio::test]
async fn one_change_that_the_store_refuses_is_found_in_its_batch() {
    let refuses = |batch: &[crate::store::Change]| {
        batch.iter().any(|change| change.event_id == "O3-0").then(|| StoreError::Refused("out of range".into()))
    };
    let scene = Scene::new(FakeStore::failing(refuses));
    scene.place_many(300, 0);
    scene.run_until_drained().await;
    assert_eq!(scene.store.count(), 299);
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::EVENT_ID)), (vec!["refused".into()], vec!["O3-0".to_owned()]));
}

#[tokio::test]
async fn an_event_that_fails_while_the_store_works_is_a_dead_letter_after_its_last_attempt() {
    let fails = |batch: &[crate::store::Change]| {
        batch.iter().any(|change| change.event_id == "O3-1").then(|| StoreError::Transient("deadlock".into()))
    };
    let scene = Scene::new(FakeStore::failing(fails));
    scene.place_many(20, 3);
    scene.run_until_drained().await;
    assert_eq!(scene.store.effects("O3"), ["O3-0", "O3-2", "O3-3"], "what follows is applied, behind its dead letter");
    assert_eq!((scene.letters(header::ATTEMPTS), scene.letters(header::ERROR_TYPE)), (vec!["3".to_owned()], vec!["store".to_owned()]));
    assert_eq!(scene.health.counters.retries.get(), 2);
    assert_eq!(scene.store.count(), 79);
}

#[tokio::test]
async fn attempts_go_on_where_a_killed_worker_left_off() {
    let fails = |batch: &[crate::store::Change]| {
        batch.iter().any(|change| change.order_id == "O0").then(|| StoreError::Transient("deadlock".into()))
    };
    let mut scene = Scene::new(FakeStore::failing(fails));
    scene.config.worker.as_mut().unwrap().retry.base = Duration::from_secs(3600);
    scene.config.worker.as_mut().unwrap().retry.max = Duration::from_secs(3600);
    scene.place("O0");
    let number = scene.partition_of("O0").number;
    for attempts in 1..=2 {
        let worker = scene.start();
        let noted = format!("{{\"a\":{{\"0\":{attempts}}}}}");
        eventually("the attempt is noted", || scene.broker.commit_of("orders", number).is_some_and(|c| c.metadata == noted)).await;
        worker.kill().await;
    }
    scene.run_until_drained().await;
    assert_eq!(scene.letters(header::ATTEMPTS), ["3"]);
}

#[tokio::test]
async fn the_same_order_with_other_content_is_a_dead_letter_and_not_lost_in_silence() {
    let scene = Scene::new(FakeStore::default());
    scene.place("O0");
    scene.place("O0");
    scene.publish("Placed", "O0", "another", ", \"quantity\": 2");
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::EVENT_ID)), (vec!["conflict".into()], vec!["another".to_owned()]));
    let counters = &scene.health.counters;
    assert_eq!((counters.processed.get(), counters.repeats.get(), counters.conflicts.get()), (1, 1, 1));
}

#[tokio::test]
async fn a_topic_says_what_becomes_of_what_is_invalid() {
    for (invalid, attempts) in [(Invalid::DeadLetter, Some("1")), (Invalid::Retry, Some("3")), (Invalid::Drop, None)] {
        let mut scene = Scene::new(FakeStore::default());
        scene.config.topics.iter_mut().for_each(|topic| topic.invalid = invalid);
        scene.publish("Placed", "O0", "bad", ", \"quantity\": 0");
        scene.place("O0");
        let worker = scene.start();
        scene.drained().await;
        worker.stop().await;
        assert_eq!(scene.letters(header::ATTEMPTS), attempts.into_iter().collect::<Vec<_>>(), "{invalid:?}");
        assert_eq!(scene.store.effects("O0"), ["O0-0"], "{invalid:?}");
        assert_eq!(scene.health.counters.failed.get(), 1, "{invalid:?}");
    }
}

#[tokio::test]
async fn an_event_that_another_pod_knows_and_this_one_does_not_yet_is_tried_again_and_never_passed_over() {
    let scene = Scene::new(FakeStore::default());
    scene.publish("Unheard", "O0", "u", "");
    scene.place("O0");
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::ATTEMPTS)), (vec!["unknownEvent".into()], vec!["3".to_owned()]));
    assert_eq!((scene.store.effects("O0").len(), scene.health.counters.passed_over.get()), (1, 0));
}

#[tokio::test]
async fn what_the_document_emits_for_others_to_read_is_passed_over() {
    let scene = Scene::emitting(FakeStore::default(), "[{topic: orders, type: order.placed}]");
    scene.place_many(10, 1);
    let worker = scene.start();
    eventually("all is emitted", || scene.broker.messages("orders").len() == 30).await;
    scene.drained().await;
    worker.stop().await;
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!(scene.health.counters.passed_over.get(), 10);
}

#[tokio::test]
async fn of_a_topic_that_is_no_longer_configured_nothing_is_passed_over_and_nothing_held_up() {
    let scene = Scene::new(FakeStore::default());
    scene.place_many(20, 1);
    let (config, worker) = scene.start_with_config();
    scene.drained().await;
    let mut without = scene.config.clone();
    without.topics.retain(|topic| topic.name != "orders");
    config.store(Arc::new(without));
    scene.obeyed().await;
    scene.place("late");
    scene.place("later");
    scene.obeyed().await;
    eventually("nothing is in hand", || scene.health.counters.in_hand.get() == 0).await;
    worker.stop().await;
    assert_eq!(scene.store.effects("late"), [""; 0]);
    let at = scene.broker.messages("orders").into_iter().find(|m| m.key.as_deref() == Some(b"late")).unwrap().at;
    assert!(scene.broker.commit_of("orders", at.partition.number).is_none_or(|commit| commit.next.offset <= at.offset));
}

#[tokio::test]
async fn the_limit_of_a_dead_letter_topic_is_asked_for_once() {
    let scene = Scene::new(FakeStore::default());
    for _ in 0..20 {
        raw(&scene, b"rubbish", &[]);
    }
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::TOPIC).len(), scene.broker.asked.load(SeqCst)), (20, 1));
}

#[tokio::test]
async fn what_is_no_event_another_tenants_or_a_seal_is_complete_as_it_is() {
    let mut scene = Scene::new(FakeStore::default());
    scene.config.worker.as_mut().unwrap().tenants = vec!["acme".into()];
    raw(&scene, br#"{"orderId": "K"}"#, &[("type", "Unheard")]);
    scene.publish("Placed", "theirs", "t", ", \"quantity\": 1, \"tenant\": \"other\"");
    scene.publish("Placed", "ours", "o", ", \"quantity\": 1, \"tenant\": \"acme\"");
    let seal = Header { name: codec::attribute::STAMP.into(), value: "x:1".into() };
    scene.send(Outgoing { topic: "orders".into(), target: Target::Key, key: None, headers: vec![seal], payload: None });
    scene.run_until_drained().await;
    assert_eq!((scene.store.count(), scene.store.effects("ours").len()), (1, 1));
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!(scene.health.counters.passed_over.get(), 3);
}
