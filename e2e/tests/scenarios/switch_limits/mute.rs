//! The API server is there and says nothing: answers and news are lost without a connection that breaks.

use super::{Flow, SWITCHED, judge};
use e2e::fleet::porter::Errand;
use e2e::fleet::storm::pauses;
use e2e::fleet::{Fleet, Shape};
use e2e::pipeline::READY;
use std::time::Duration;

/// An answer that nobody needs is waited for half a second. With one that waits for it as for any other, requests give up after five.
const LONGEST_MS: f64 = 3000.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_goes_on_although_the_answer_to_its_hold_is_lost_and_no_watch_tells_of_members() {
    let fleet = Fleet::start(Shape { hold_deadline: "30s", ..Shape::default() }).await.unwrap();
    let flow = Flow::start(&fleet, "q", 8, Duration::from_millis(10));
    flow.goes_on(100).await;

    let answer = fleet.porter.keep(Errand::HoldAnswer);
    fleet.switch_to("right").unwrap();
    assert!(answer.waits(SWITCHED).await, "a Hold is written");
    fleet.settled_on("right", SWITCHED).await.unwrap();
    drop(answer);

    // Neither that all hold nor that the old broker is drained: it is looked at.
    let news = fleet.porter.keep(Errand::News);
    fleet.switch_to("left").unwrap();
    fleet.settled_on("left", SWITCHED).await.unwrap();
    drop(news);

    flow.goes_on(100).await;
    let paused: Vec<f64> = fleet.kubelet.printed().iter().flat_map(|(_, printed)| pauses(printed)).collect();
    println!("pauses in ms: {paused:?}");
    assert!(!paused.is_empty() && paused.iter().all(|ms| *ms < LONGEST_MS), "{}", fleet.operator_printed());
    judge(&fleet, &flow.end().await, READY).await;
}
