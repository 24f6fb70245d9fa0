//! How long readers wait for the other broker, and what becomes of more requests than may wait.

use super::{Flow, SWITCHED, judge};
use anyhow::{Result, ensure};
use crds::member::AnswerKind;
use crds::switch::Phase;
use e2e::bed::eventually;
use e2e::fleet::storm::Outcome;
use e2e::fleet::{Fleet, KEY, Shape};
use e2e::load::{self, Told};
use e2e::pipeline::READY;
use futures::future::join_all;
use nix::sys::signal::Signal;
use rdkafka::Message;
use rdkafka::message::Headers;
use reqwest::{Client, StatusCode};
use serde_json::{Value as Json, json};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const SWITCHES: usize = 12;
const HOLD: Duration = Duration::from_secs(8);
/// What an API process works on at once.
const PLACES: usize = 2_000;
/// More than that, and fewer than may connect.
const CROWD: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn readers_go_on_soon_and_of_too_many_that_wait_the_last_are_sent_away_at_once() {
    let patient = vec![("api: {", "api: {publishDeadline: 30s, ".to_owned())];
    let fleet = Fleet::start(Shape { hold_deadline: "8s", changes: patient, ..Shape::default() }).await.unwrap();
    let flow = Flow::start(&fleet, "w", 8, Duration::from_millis(10));
    for switch in 1..=SWITCHES {
        flow.goes_on(30).await;
        let target = if switch % 2 == 1 { "right" } else { "left" };
        fleet.switch_to(target).unwrap();
        fleet.settled_on(target, SWITCHED).await.unwrap();
    }
    flow.goes_on(30).await;
    let told = flow.end().await;
    judge(&fleet, &told, READY).await;
    let resumed = resumed(&fleet).await.unwrap();
    let (p50, p99) = (Outcome::quantile(&resumed, 0.5), Outcome::quantile(&resumed, 0.99));
    println!("from an epoch's first order to its first effect: p50 {p50:.0} ms, p99 {p99:.0} ms: {resumed:.0?}");
    assert_eq!(resumed.len(), SWITCHES);
    assert!(p50 < 3_000.0, "the promise is 1 s");

    let told: Vec<Told> = told.into_iter().chain(crowd(&fleet).await).collect();
    judge(&fleet, &told, READY).await;
}

/// Of each epoch that was switched to: milliseconds from its first message to the first effect of one of them, ascending.
async fn resumed(fleet: &Fleet) -> Result<Vec<f64>> {
    let (url, pipeline) = fleet.database();
    let mut database = PgConnection::connect(&url).await?;
    let processed = format!("SELECT order_id, (extract(epoch FROM processed_at) * 1000)::float8 FROM \"{pipeline}\".orders");
    let effects: Vec<(String, f64)> = sqlx::query_as(sqlx::AssertSqlSafe(processed)).fetch_all(&mut database).await?;
    let effects: HashMap<String, f64> = effects.into_iter().collect();
    let mut first: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for message in [fleet.left.0.messages("orders").await?, fleet.right.0.messages("orders").await?].concat() {
        let header =
            |name: &str| Some(std::str::from_utf8(message.headers()?.iter().find(|header| header.key == name)?.value?).ok()?.to_owned());
        let epoch = header("op-stamp").and_then(|stamp| stamp.rsplit_once(':')?.1.parse().ok());
        let (Some(epoch), Some(body), Some("OrderCreated")) = (epoch, message.payload(), header("type").as_deref()) else { continue };
        let order: Json = serde_json::from_slice(body)?;
        let (written, read) =
            (message.timestamp().to_millis().unwrap_or_default() as f64, effects[order["orderId"].as_str().unwrap_or_default()]);
        let first = first.entry(epoch).or_insert((written, read));
        *first = (first.0.min(written), first.1.min(read));
    }
    let mut all: Vec<f64> = first.into_iter().filter(|(epoch, _)| *epoch > 1).map(|(_, (written, read))| read - written).collect();
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Lets a Hold last until its deadline, and meanwhile posts more than may wait. All of it is accepted in the end.
async fn crowd(fleet: &Fleet) -> Vec<Told> {
    let [api, hanging] = &fleet.kubelet.of("api")[..] else { panic!("two pods of the API") };
    let [worker, _] = &fleet.kubelet.of("worker")[..] else { panic!("two workers") };
    let http = e2e::http(Duration::from_secs(60));
    hangs_when_prepared(fleet, &hanging.pod, &worker.pod).await;
    join_all((0..CROWD).map(|_| http.get(format!("{}/healthz", api.url)).send())).await;
    let (before, _) = fleet.kubelet.memory_kib(&api.pod).unwrap();
    fleet.kubelet.signal(&worker.pod, Signal::SIGCONT).unwrap();
    fleet.until("orders are held", SWITCHED, |state| matches!(state.phase(), Phase::Hold { .. })).await.unwrap();
    let held = Instant::now();
    let posted = tokio::spawn(join_all((0..CROWD).map(|number| post(http.clone(), api.url.clone(), number))));
    fleet.until("it is back", SWITCHED, |state| *state.phase() == Phase::Steady).await.unwrap();
    println!("back after {:.1?}", held.elapsed());
    assert!(held.elapsed() < HOLD + Duration::from_secs(5), "the deadline is {HOLD:?}: {:?}", held.elapsed());
    let missing = || async {
        let (_, message) = fleet.said_of_switch()?;
        ensure!(message.contains(&hanging.pod), "it is not said who was missing: {message}");
        Ok(())
    };
    eventually("status names the pod", READY, missing).await.unwrap();
    let answers = posted.await.unwrap();
    let (_, most) = fleet.kubelet.memory_kib(&api.pod).unwrap();
    fair(&answers, most.saturating_sub(before) >> 10);

    fleet.kubelet.signal(&hanging.pod, Signal::SIGCONT).unwrap();
    fleet.settled_on("right", SWITCHED).await.unwrap();
    let mut told = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        let mut status = answer.status;
        while status != StatusCode::ACCEPTED {
            status = post(http.clone(), api.url.clone(), number).await.status;
        }
        told.push(Told {
            order_id: format!("crowd-{number}"),
            body: body(number),
            created: load::Outcome::Accepted,
            changes: vec![],
            repeats: 0,
        });
    }
    told
}

/// Asks for a switch in which a pod stops when it can use the target, before it is told to hold: that waits for the worker, which is stopped.
async fn hangs_when_prepared(fleet: &Fleet, hanging: &str, worker: &str) {
    fleet.kubelet.signal(worker, Signal::SIGSTOP).unwrap();
    fleet.switch_to("right").unwrap();
    let prepared = fleet.until("it is prepared", SWITCHED, |state| matches!(state.phase(), Phase::Prepare { .. })).await.unwrap();
    let ready = || async {
        let answers = fleet.answers().await?;
        let answer = answers.get(hanging).filter(|answer| answer.revision >= prepared.since());
        ensure!(answer.is_some_and(|answer| answer.kind == AnswerKind::Ready), "{answers:?}");
        Ok(())
    };
    eventually("the pod that will hang can use the target", SWITCHED, ready).await.unwrap();
    fleet.kubelet.signal(hanging, Signal::SIGSTOP).unwrap();
}

/// Those who found a place waited, and all others were told at once.
fn fair(answers: &[Posted], grown_mib: u64) {
    let (waited, sent_away): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    let slowest = sent_away.iter().map(|answer| answer.took).max().unwrap_or_default();
    println!("{} waited, {} were sent away within {slowest:.1?}, memory grew by {grown_mib} MiB", waited.len(), sent_away.len());
    assert!(sent_away.iter().all(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.retry_after));
    assert!(!waited.is_empty() && sent_away.len() >= CROWD - PLACES, "{} waited", waited.len());
    assert!(slowest < HOLD * 3 / 4, "who cannot wait is told at once, not after {slowest:?}");
    assert!(grown_mib < 200, "{grown_mib} MiB");
}

struct Posted {
    status: StatusCode,
    retry_after: bool,
    took: Duration,
}

fn body(number: usize) -> Json {
    json!({"orderId": format!("crowd-{number}"), "customerId": "c", "items": [{"sku": "s", "quantity": 1}], "totalAmount": 1.5})
}

async fn post(http: Client, url: String, number: usize) -> Posted {
    let began = Instant::now();
    let request = http.post(format!("{url}/orders")).header("X-API-Key", KEY).header("X-Request-Id", format!("crowd-{number}"));
    let answer = request.json(&body(number)).send().await.unwrap();
    Posted { status: answer.status(), retry_after: answer.headers().contains_key("retry-after"), took: began.elapsed() }
}
