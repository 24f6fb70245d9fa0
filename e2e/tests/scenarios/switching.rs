//! The live switch: from broker to broker and back under load, with nothing lost, doubled or reordered.

use crate::killed::{plan, reached};
use crate::pipeline::{READY, effects, expected, stored_in};
use crate::up::Laptop;
use e2e::bed::eventually;
use e2e::load::{Plan, Told};
use e2e::product::Product;
use e2e::{ledger, load};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// A laptop with two brokers, both built in.
const TWO: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: laptop}
spec:
  backend: left
  backends:
  - {name: left, kafka: {bootstrapServers: "left:9092"}}
  - {name: right, kafka: {bootstrapServers: "right:9092"}}
  topics: [{name: orders}]
  events:
  - name: OrderCreated
  - name: OrderStatusChanged
    set: {status: data.status}
    append: {history: data.status}
  api: {}
  worker: {}
"#;

fn towards(backend: &str) -> String {
    TWO.replace("backend: left", &format!("backend: {backend}"))
}

/// The pauses of writes that a process has told of, in milliseconds.
fn pauses(product: &Product) -> Vec<f64> {
    let printed = product.printed();
    let said = printed.split("writes go on after a pause of ").skip(1);
    said.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

async fn stored_all(laptop: &Laptop, told: &[Told]) {
    let wanted = expected(told);
    let all = || async {
        let has = effects(&stored_in(&laptop.state()).await?);
        anyhow::ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", Duration::from_secs(60), all).await;
    ledger::verify(told, &stored_in(&laptop.state()).await.unwrap()).unwrap();
}

async fn said(up: &Product, what: &str, times: usize) {
    let told = || async {
        let count = up.printed().matches(what).count();
        anyhow::ensure!(count >= times, "{what:?} was said {count} times and not {times}\n{}", up.tail());
        Ok(())
    };
    eventually("the switch is done", READY, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn saving_the_file_moves_a_laptop_from_broker_to_broker_and_back_under_load() {
    const ORDERS: usize = 6_000;
    const SWITCHES: usize = 8;
    let laptop = Laptop::new(TWO);
    let up = laptop.up().await;
    let progress = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn(load::run(Plan { orders: ORDERS, ..plan(vec![laptop.url.clone()], "s") }, progress.clone()));
    for switch in 1..=SWITCHES {
        reached(&progress, switch * ORDERS / (SWITCHES + 1)).await.unwrap();
        laptop.edit(&towards(if switch % 2 == 1 { "right" } else { "left" }));
        said(&up, "writes go to", switch).await;
    }
    let told = load.await.unwrap().unwrap();
    stored_all(&laptop, &told).await;
    let repeats: usize = told.iter().map(|told| told.repeats).sum();
    assert_eq!(repeats, 0, "no request was refused\n{}", up.tail());
    said(&up, "is read to its end", SWITCHES).await;
    println!("{SWITCHES} switches, {} effects, pauses in ms: {:?}", expected(&told), pauses(&up));
}
