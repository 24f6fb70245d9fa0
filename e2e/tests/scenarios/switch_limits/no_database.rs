//! Without a database every process reads for itself, and obeys the same state.

use super::{Flow, SWITCHED};
use anyhow::{Context, Result, ensure};
use e2e::bed::eventually;
use e2e::fleet::{Fleet, KEY, Shape};
use e2e::ledger::{Stored, verify};
use e2e::load::Told;
use reqwest::StatusCode;
use serde_json::Value as Json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_every_process_shows_all_orders_in_their_order_after_switches_under_load() {
    let memory = vec![("store: {postgres: {urlSecretRef: {name: db, key: url}}}", "store: {memory: {maxOrders: 100000}}".to_owned())];
    let fleet = Fleet::start(Shape { workers: 1, right_partitions: 4, changes: memory, ..Shape::default() }).await.unwrap();
    let flow = Flow::start(&fleet, "n", 8, Duration::from_millis(5));
    for target in ["right", "left", "right", "left"] {
        flow.goes_on(100).await;
        fleet.switch_to(target).unwrap();
        fleet.settled_on(target, SWITCHED).await.unwrap();
    }
    flow.goes_on(100).await;
    let told = flow.end().await;
    for pod in fleet.kubelet.of("api") {
        shows(&pod.url, &told).await;
    }
    println!("{} orders in two processes", told.len());
}

async fn shows(url: &str, told: &[Told]) {
    let all = || async { verify(told, &seen(url, told).await?) };
    eventually("it shows all orders as they are", Duration::from_secs(30), all).await.unwrap();
}

async fn seen(url: &str, told: &[Told]) -> Result<Vec<Stored>> {
    let http = e2e::http(Duration::from_secs(10));
    let mut seen = Vec::new();
    for Told { order_id, .. } in told {
        let answer = http.get(format!("{url}/orders/{order_id}")).header("X-API-Key", KEY).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            continue;
        }
        let order: Json = answer.error_for_status()?.json().await?;
        let text = |name: &str| order[name].as_str().map(str::to_owned);
        seen.push(Stored {
            order_id: text("orderId").context("an order has an id")?,
            customer: text("customerId").unwrap_or_default(),
            total: order["totalAmount"].as_f64().unwrap_or(f64::NAN),
            status: text("status"),
            items: order["items"].clone(),
            history: order["history"].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect(),
        });
    }
    ensure!(!seen.is_empty(), "no order is there");
    Ok(seen)
}
