//! kill -9 in the middle of the work: nothing lost, nothing doubled, nothing reordered.

use anyhow::Result;
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::{KEY, Pipeline, READY, dead, effects, metric};
use e2e::{ledger, load};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const ORDERS: usize = 10_000;
pub const KILLS: usize = 5;

pub fn plan(urls: Vec<String>, name: &str) -> load::Plan {
    load::Plan {
        urls,
        key: KEY.into(),
        clients: 16,
        orders: ORDERS,
        statuses: vec!["PAID".into(), "SHIPPED".into()],
        name: name.into(),
        patience: Duration::from_secs(60),
        pace: Duration::ZERO,
        stop: Arc::default(),
    }
}

/// Waits until so many orders are posted; fails when the load stands still.
pub async fn reached(progress: &Arc<AtomicUsize>, orders: usize) -> Result<()> {
    let done = || async {
        let now = progress.load(Ordering::Relaxed);
        anyhow::ensure!(now >= orders, "{now} of {orders} orders");
        Ok(())
    };
    eventually("the load goes on", Duration::from_secs(180), done).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_orders_survive_five_kills_of_the_worker_on_kafka() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (mut worker, _) = pipeline.start("worker").await.unwrap();
    let progress = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn(load::run(plan(vec![url], "k"), progress.clone()));
    for kill in 1..=KILLS {
        reached(&progress, kill * ORDERS / (KILLS + 1)).await.unwrap();
        worker.kill();
        worker = pipeline.start("worker").await.unwrap().0;
    }
    let told = load.await.unwrap().unwrap();
    let stored = pipeline.settled(&told).await.unwrap();
    ledger::verify(&told, &stored).unwrap();
    assert_eq!(stored.len(), ORDERS, "with this patience every order is accepted in the end");
    println!("{} orders, {} effects, worker killed {KILLS} times", stored.len(), effects(&stored));
    let (now, most) = worker.memory_kib().unwrap();
    println!("worker memory: {now} KiB now, {most} KiB at most");
}

/// Waits until the metrics of a process tell of so many.
async fn told_of(url: &str, name: &str, least: usize) {
    let told = || async {
        let now = metric(url, name).await?;
        anyhow::ensure!(now >= least as f64, "{name} is {now} and not {least}");
        Ok(())
    };
    eventually("the metrics tell of it", READY, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_broker_that_are_killed_three_times_cost_no_order_and_metrics_tell_of_each() {
    const KILLS: usize = 3;
    const STORE: &str = "circuit_opened_total{to=\"store\"}";
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let (_api, api) = pipeline.start("api").await.unwrap();
    let (_worker, worker) = pipeline.start("worker").await.unwrap();
    let progress = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn(load::run(plan(vec![api.clone()], "s"), progress.clone()));
    for kill in 1..=KILLS {
        reached(&progress, (2 * kill - 1) * ORDERS / (2 * KILLS + 1)).await.unwrap();
        pipeline.postgres.kill();
        told_of(&worker, STORE, kill).await;
        pipeline.postgres.restart().await.unwrap();
        reached(&progress, 2 * kill * ORDERS / (2 * KILLS + 1)).await.unwrap();
        kafka.kill(1).unwrap();
        told_of(&worker, "broker_outages_total", kill).await;
        kafka.restart(1).await.unwrap();
    }
    let told = load.await.unwrap().unwrap();
    let stored = pipeline.settled(&told).await.unwrap();
    ledger::verify(&told, &stored).unwrap();
    assert_eq!(stored.len(), ORDERS, "with this patience every order is accepted in the end");
    // What the clients were told while the broker was away, and what the worker made of it all.
    assert!(metric(&api, "publish_failures_total").await.unwrap() > 0.0);
    assert!(metric(&api, "http_requests_total{method=\"POST\",route=\"/orders\",status=\"503\"}").await.unwrap() > 0.0);
    let (applied, repeated) =
        (metric(&worker, "orders_processed_total").await.unwrap(), metric(&worker, "orders_repeated_total").await.unwrap());
    assert!(applied + repeated >= effects(&stored) as f64, "{applied} applied, {repeated} repeated, {} effects", effects(&stored));
    for none in ["orders_failed_total", "circuit_open{to=\"store\"}", "current_backlog"] {
        let gone = || async {
            let now = metric(&worker, none).await?;
            anyhow::ensure!(now == 0.0, "{none} is {now}");
            Ok(())
        };
        eventually("nothing is left of it", READY, gone).await.unwrap();
    }
    dead(&kafka, &pipeline.name, 0).await;
    println!("{applied} effects and {repeated} repeats, database and broker killed {KILLS} times each");
}
