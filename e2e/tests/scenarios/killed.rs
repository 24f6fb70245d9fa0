//! kill -9 in the middle of the work: nothing lost, nothing doubled, nothing reordered.

use crate::pipeline::{KEY, Pipeline};
use anyhow::Result;
use e2e::bed::{Kafka, eventually};
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
    println!("{} orders, {} effects, worker killed {KILLS} times", stored.len(), crate::pipeline::effects(&stored));
    let (now, most) = worker.memory_kib().unwrap();
    println!("worker memory: {now} KiB now, {most} KiB at most");
}
