use super::fakes::FakeStore;
use super::*;
use crate::telemetry::{Instruments, Value};
use crate::worker::{Counters, ViewDeps, header, view};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use crds::runtime_config::CallbackConfig;
use std::sync::Mutex;

const EMITS: &str = "[{topic: shipments, type: order.placed}, {topic: shipments, type: order.counted, data: '{\"n\": data.quantity}'}]";

/// What is counted of processed and of repeated: messages by how they ended, and events in all.
fn counted(scene: &Scene) -> [Value; 4] {
    let metrics = scene.health.read();
    let messages = &metrics.iter().find(|metric| metric.name == "message_count").unwrap().points;
    let messages = |result: &str| messages.iter().find(|(labels, _)| labels.iter().any(|(_, value)| value == result)).unwrap().1.clone();
    let Counters { processed, repeats, .. } = &scene.health.counters;
    [messages("processed"), messages("repeated"), Value::Total(processed.get()), Value::Total(repeats.get())]
}

#[tokio::test]
async fn what_had_to_wait_is_counted_once_and_as_what_it_was_the_first_time() {
    let scene = Scene::emitting(FakeStore::default(), EMITS);
    scene.broker.refuse.lock().unwrap().insert("shipments".into(), false);
    scene.place_many(1, 2);
    let worker = scene.start();
    eventually("it was tried several times", || scene.store.calls.load(SeqCst) >= 4).await;
    scene.broker.refuse.lock().unwrap().clear();
    scene.drained().await;
    worker.stop().await;
    assert_eq!(counted(&scene), [3, 0, 3, 0].map(Value::Total));
    scene.place("O0");
    scene.run_until_drained().await;
    assert_eq!(counted(&scene), [3, 1, 3, 1].map(Value::Total), "a repeat is one");
}

#[tokio::test]
async fn emissions_have_the_same_ids_each_time_and_precede_the_commit() {
    let scene = Scene::emitting(FakeStore::default(), EMITS);
    scene.broker.refuse.lock().unwrap().insert("shipments".into(), false);
    scene.place("O0");
    let worker = scene.start();
    eventually("the effect is there", || scene.store.count() == 1).await;
    sleep(Duration::from_millis(300)).await;
    assert!(!scene.broker.drained("orders"), "what follows has not been published");
    worker.kill().await;
    scene.broker.refuse.lock().unwrap().clear();
    scene.run_until_drained().await;
    // As if the commit had been lost: everything once more.
    scene.place("O0");
    scene.run_until_drained().await;

    let emitted = scene.broker.messages("shipments");
    let ids: Vec<_> = emitted.iter().map(|m| m.header("id").unwrap().to_vec()).collect();
    assert_eq!(emitted.len(), 4);
    assert_eq!(ids[..2], ids[2..]);
    assert_ne!(ids[0], ids[1]);
    assert_eq!((emitted[0].payload.clone(), emitted[0].headers.clone()), (emitted[2].payload.clone(), emitted[2].headers.clone()));
    assert_eq!(emitted[0].header("type"), Some(&b"order.placed"[..]));
    assert_eq!(emitted[0].header("requestId"), Some(&b"r-O0-0"[..]));
    assert_eq!(emitted[1].payload.as_deref(), Some(&br#"{"n":1}"#[..]));
    assert_eq!(emitted[0].key.as_deref(), Some(&b"O0"[..]));
    assert_eq!(scene.store.count(), 1);
}

#[tokio::test]
async fn what_follows_from_an_order_that_comes_again_under_another_id_is_a_repeat_too() {
    let (callback, calls) = service(|_, _| 204).await;
    let mut scene = Scene::emitting(FakeStore::default(), EMITS);
    scene.config.worker.as_mut().unwrap().callback = Some(callback);
    scene.publish("Placed", "O0", "sent", ", \"quantity\": 1");
    scene.publish("Placed", "O0", "sent again\n", ", \"quantity\": 1");
    scene.publish("Noted", "O0", "a\n%", ", \"note\": 1");
    scene.run_until_drained().await;
    assert_eq!(ids(&calls), ["Placed/O0", "Placed/O0", "a%0A%25"], "in a header");
    let emitted = scene.broker.messages("shipments");
    let ids: Vec<_> = emitted.iter().map(|m| m.header("id").unwrap().to_vec()).collect();
    assert_eq!((ids.len(), &ids[..2]), (4, &ids[2..]));
    assert_eq!(scene.letters(header::REASON), [""; 0]);
}

#[tokio::test]
async fn an_emission_that_is_refused_for_good_ends_as_a_dead_letter() {
    let scene = Scene::emitting(FakeStore::default(), EMITS);
    scene.broker.refuse.lock().unwrap().insert("shipments".into(), true);
    scene.place("O0");
    scene.note("O0", 1);
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::ATTEMPTS)), (vec!["emit".to_owned()], vec!["3".to_owned()]));
    assert_eq!(scene.store.effects("O0"), ["O0-0", "O0-1"]);
}

/// In the place of a status: no answer at all.
pub(super) const SILENT: u16 = 0;

pub(super) type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// A service that answers as told, by the id of the event and how often it was called with it.
pub(super) async fn service(answer: impl Fn(&str, usize) -> u16 + Clone + Send + Sync + 'static) -> (CallbackConfig, Calls) {
    let calls = Calls::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/orders", listener.local_addr().unwrap());
    let heard = calls.clone();
    let handler = move |headers: HeaderMap, body: String| {
        let id = headers["idempotency-key"].to_str().unwrap().to_owned();
        let mut calls = heard.lock().unwrap();
        let before = calls.iter().filter(|(called, _)| *called == id).count();
        let status = answer(&id, before);
        calls.push((id, body));
        async move {
            if status == SILENT {
                std::future::pending::<()>().await;
            }
            StatusCode::from_u16(status).unwrap()
        }
    };
    tokio::spawn(axum::serve(listener, Router::new().route("/orders", post(handler))).into_future());
    (CallbackConfig { url, timeout: Duration::from_secs(5) }, calls)
}

pub(super) fn ids(calls: &Calls) -> Vec<String> {
    calls.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
}

#[tokio::test]
async fn the_callback_is_told_of_each_event_in_the_order_of_its_order_and_again_until_it_takes_it() {
    let (callback, calls) = service(|id, before| if id == "O0-1" && before < 2 { 500 } else { 204 }).await;
    let mut scene = Scene::new(FakeStore::default());
    scene.config.worker.as_mut().unwrap().callback = Some(callback);
    scene.place_many(1, 2);
    scene.run_until_drained().await;
    assert_eq!(ids(&calls), ["Placed/O0", "O0-1", "O0-1", "O0-1", "O0-2"]);
    let body: serde_json::Value = serde_json::from_str(&calls.lock().unwrap()[0].1).unwrap();
    assert_eq!((&body["id"], &body["type"], &body["data"]["quantity"]), (&"O0-0".into(), &"Placed".into(), &1.into()));
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!(scene.store.effects("O0").len(), 3);
}

#[tokio::test]
async fn an_event_that_the_callback_refuses_is_a_dead_letter_at_once() {
    let (callback, calls) = service(|id, _| if id == "Placed/O0" { 400 } else { 200 }).await;
    let mut scene = Scene::new(FakeStore::default());
    scene.config.worker.as_mut().unwrap().callback = Some(callback);
    scene.place_many(2, 0);
    scene.run_until_drained().await;
    assert_eq!(
        (scene.letters(header::ERROR_TYPE), scene.letters(header::EVENT_ID)),
        (vec!["callbackRefused".into()], vec!["O0-0".to_owned()])
    );
    assert_eq!(ids(&calls).len(), 2);
}

#[tokio::test]
async fn a_callback_that_is_down_for_all_turns_nothing_into_dead_letters() {
    let (callback, calls) = service(|_, _| 200).await;
    let mut scene = Scene::new(FakeStore::default());
    // Nobody listens there.
    scene.config.worker.as_mut().unwrap().callback = Some(CallbackConfig { url: "http://127.0.0.1:1/".into(), ..callback.clone() });
    scene.place_many(50, 0);
    let worker = scene.start();
    eventually("all effects are there", || scene.store.count() == 50).await;
    sleep(Duration::from_millis(700)).await;
    worker.stop().await;
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    scene.config.worker.as_mut().unwrap().callback = Some(callback);
    scene.run_until_drained().await;
    assert_eq!(ids(&calls).len(), 50);
    assert_eq!(scene.store.count(), 50);
}

#[tokio::test]
async fn a_callback_that_nobody_answers_for_costs_not_even_a_single_event_its_only_attempt() {
    let (callback, calls) = service(|_, _| 200).await;
    let mut scene = Scene::new(FakeStore::default());
    scene.config.worker.as_mut().unwrap().retry.attempts = 1;
    scene.config.worker.as_mut().unwrap().callback = Some(CallbackConfig { url: "http://127.0.0.1:1/".into(), ..callback.clone() });
    scene.place("O0");
    let worker = scene.start();
    let circuit = scene.health.counters.callback_circuit.clone();
    eventually("the circuit is open", || circuit.open() == 1).await;
    sleep(Duration::from_millis(700)).await;
    worker.stop().await;
    assert_eq!((scene.letters(header::REASON), circuit.times()), (vec![], 1));
    scene.config.worker.as_mut().unwrap().callback = Some(callback);
    scene.run_until_drained().await;
    assert_eq!(ids(&calls), ["Placed/O0"]);
}

#[tokio::test]
async fn a_callback_that_takes_too_long_for_one_event_ends_as_its_dead_letter() {
    let (callback, calls) = service(|id, _| if id == "Placed/O0" { SILENT } else { 200 }).await;
    let mut scene = Scene::new(FakeStore::default());
    scene.config.worker.as_mut().unwrap().callback = Some(CallbackConfig { timeout: Duration::from_millis(500), ..callback });
    scene.place_many(2, 0);
    scene.run_until_drained().await;
    assert_eq!((scene.letters(header::ERROR_TYPE), scene.letters(header::ATTEMPTS)), (vec!["callback".to_owned()], vec!["3".to_owned()]));
    assert_eq!(ids(&calls).iter().filter(|id| *id == "Placed/O0").count(), 3);
}

#[tokio::test]
async fn a_view_sees_every_event_and_touches_nothing() {
    let scene = Scene::emitting(FakeStore::default(), EMITS);
    scene.place_many(10, 2);
    scene.publish("Placed", "bad", "bad", ", \"quantity\": 0");
    let (stop, stopped) = oneshot::channel::<()>();
    let deps = ViewDeps {
        contract: Arc::new(ArcSwap::from_pointee(Contract::compile(&scene.config).unwrap())),
        config: Arc::new(ArcSwap::from_pointee(scene.config.clone())),
        codecs: Default::default(),
        broker: scene.broker.clone(),
        switching: None,
        store: scene.store.clone(),
    };
    let ended = tokio::spawn(view(deps, async {
        let _ = stopped.await;
    }));
    eventually("every event is in the view", || scene.store.count() == 30).await;
    drop(stop);
    ended.await.unwrap().unwrap();
    assert!(scene.broker.messages("shipments").is_empty());
    assert!(scene.broker.messages("orders-dlq").is_empty());
    assert!((0..4).all(|number| scene.broker.commit_of("orders", number).is_none()));
}
