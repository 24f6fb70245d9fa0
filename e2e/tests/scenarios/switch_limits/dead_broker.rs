//! From a dead broker to a live one.

use super::{Flow, SWITCHED, effects_now, judge};
use e2e::fleet::{Fleet, Shape};
use e2e::pipeline::READY;
use e2e::proxy::Way;
use serde_json::json;
use std::time::{Duration, Instant};

/// The promise is 5 s; a machine that does other things besides gets more.
const WRITES_GO_ON: Duration = Duration::from_secs(15);

/// Asks for a live broker, with whatever else is asked for, and awaits the first order that it takes.
async fn leave(fleet: &Fleet, flow: &Flow, patch: serde_json::Value) {
    flow.stands_still().await;
    let asked = Instant::now();
    fleet.patch(&patch).unwrap();
    flow.goes_on(1).await;
    let took = asked.elapsed();
    println!("from the request to the first order that is accepted: {took:.2?}");
    assert!(took < WRITES_GO_ON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_broker_is_left_within_seconds_and_what_it_held_takes_effect_once_it_is_back() {
    let fleet = Fleet::start(Shape { right_partitions: 4, ..Shape::default() }).await.unwrap();
    let (left, right) = (&fleet.left.0, &fleet.right.1);
    let flow = Flow::start(&fleet, "d", 16, Duration::from_millis(5));
    fleet.patch(&json!({"spec": {"worker": {"replicas": 0}}})).unwrap();
    fleet.ready(2).await.unwrap();
    flow.goes_on(500).await;

    left.kill(1).unwrap();
    leave(&fleet, &flow, json!({"spec": {"backend": "right", "worker": {"replicas": 2}}})).await;
    let before = effects_now(&fleet).await.unwrap();
    fleet.ready(4).await.unwrap();
    flow.goes_on(300).await;
    assert_eq!(effects_now(&fleet).await.unwrap(), before, "what lies on the dead broker comes first");
    left.restart(1).await.unwrap();
    fleet.settled_on("right", SWITCHED).await.unwrap();

    flow.goes_on(300).await;
    right.set(Way::Stalled);
    leave(&fleet, &flow, json!({"spec": {"backend": "left"}})).await;
    flow.goes_on(300).await;
    right.set(Way::Open);
    fleet.settled_on("left", SWITCHED).await.unwrap();
    judge(&fleet, &flow.end().await, READY).await;
}
