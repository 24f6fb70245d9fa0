//! SIGTERM under load, and what a process takes in memory.

use crate::killed::reached;
use e2e::bed::Kafka;
use e2e::pipeline::{KEY, Pipeline, READY};
use e2e::product::Product;
use e2e::{ledger, load};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// What Kubernetes gives a pod by default.
const GRACE: Duration = Duration::from_secs(30);
/// Besides the program itself, which takes 20 MiB as it ships: less than 40 MiB in all.
const IDLE_KIB: u64 = 20 * 1024;
const LOADED_KIB: u64 = 128 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_ends_each_role_with_zero_and_loses_nothing() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let text = std::fs::read_to_string(&pipeline.document).unwrap();
    std::fs::write(&pipeline.document, format!("{text}  generator: {{rate: 0}}\n")).unwrap();
    let (mut api, stopping) = pipeline.start("api").await.unwrap();
    let (_other, staying) = pipeline.start("api").await.unwrap();
    let (mut worker, _) = pipeline.start("worker").await.unwrap();
    let (generator, _) = pipeline.start("generator").await.unwrap();
    for (role, process) in [("api", &api), ("worker", &worker), ("generator", &generator)] {
        let now = process.own_memory_kib().unwrap();
        println!("{role}: {now} KiB idle, {} KiB with the program", process.memory_kib().unwrap().0);
        assert!(now < IDLE_KIB, "{role} takes {now} KiB idle");
    }
    let plan = |urls: Vec<String>, name: &str, patience| load::Plan {
        urls,
        key: KEY.into(),
        clients: 16,
        orders: 6000,
        statuses: vec!["PAID".into(), "SHIPPED".into()],
        name: name.into(),
        patience,
        pace: Duration::ZERO,
        stop: Arc::default(),
    };
    let progress = Arc::new(AtomicUsize::new(0));
    // The clients of the one that stops give up soon: what they were told before must hold.
    let ends = tokio::spawn(load::run(plan(vec![stopping], "ends", Duration::from_millis(200)), progress.clone()));
    let stays = tokio::spawn(load::run(plan(vec![staying], "stays", READY), Arc::new(AtomicUsize::new(0))));
    reached(&progress, 1500).await.unwrap();
    ends_well("worker", &mut worker).await;
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    ends_well("api", &mut api).await;
    let mut told = ends.await.unwrap().unwrap();
    told.extend(stays.await.unwrap().unwrap());
    let stored = pipeline.settled(&told).await.unwrap();
    ledger::verify(&told, &stored).unwrap();
}

async fn ends_well(role: &str, process: &mut Product) {
    let (_, most) = process.memory_kib().unwrap();
    println!("{role}: at most {most} KiB under load");
    assert!(most < LOADED_KIB, "{role} took {most} KiB");
    let status = process.terminate(GRACE).await.unwrap();
    assert!(status.success(), "{role}: {status:?}\n{}", process.tail());
}
