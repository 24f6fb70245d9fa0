//! Clients that post orders and changes of orders, and write down what they were told. Shares no code with the product.

use anyhow::Result;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Connections of a client. Any of them carries the next request: behind a Service the events of one order come in through several pods,
/// and only then does their order depend on all of these.
const DOORS: usize = 3;
/// Every so many requests a connection is given up: the next one may go to a pod that was not there before.
const CONNECTION_LASTS: u32 = 20;

/// What a client knows of one order.
#[derive(Clone, Debug)]
pub struct Told {
    pub order_id: String,
    pub body: Json,
    pub created: Outcome,
    /// The statuses it set, in their order.
    pub changes: Vec<(String, Outcome)>,
    /// How often a request had to be repeated.
    pub repeats: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 202
    Accepted,
    /// No answer, or 503, until the client gave up: it may have taken effect or not.
    Unknown,
    /// A 4xx: it must not have taken effect.
    Refused,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the API is; several are taken in turn.
    pub urls: Vec<String>,
    pub key: String,
    pub clients: usize,
    pub orders: usize,
    /// The statuses that every second order goes through after its creation.
    pub statuses: Vec<String>,
    /// Distinguishes the ids of several loads.
    pub name: String,
    /// How long one request is repeated under its id before the client gives up.
    pub patience: Duration,
    /// What a client waits between two orders.
    pub pace: Duration,
    /// True: no more orders are begun.
    pub stop: Arc<AtomicBool>,
}

impl Told {
    /// How many effects were promised.
    pub fn accepted(&self) -> usize {
        let outcomes = std::iter::once(&self.created).chain(self.changes.iter().map(|(_, outcome)| outcome));
        outcomes.filter(|outcome| **outcome == Outcome::Accepted).count()
    }
}

/// Runs the whole plan. `progress` counts finished orders, for whoever breaks things meanwhile.
pub async fn run(plan: Plan, progress: Arc<AtomicUsize>) -> Result<Vec<Told>> {
    let plan = Arc::new(plan);
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..plan.clients {
        let (plan, next, progress) = (plan.clone(), next.clone(), progress.clone());
        clients.spawn(async move {
            let http: Vec<Client> = (0..DOORS).map(|_| crate::http(Duration::from_secs(10))).collect();
            let mut told = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= plan.orders || plan.stop.load(Ordering::Relaxed) {
                    return anyhow::Ok(told);
                }
                let url = &plan.urls[client % plan.urls.len()];
                told.push(order(&http, &plan, url, number).await);
                progress.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(plan.pace).await;
            }
        });
    }
    let mut all = Vec::new();
    while let Some(told) = clients.join_next().await {
        all.extend(told??);
    }
    Ok(all)
}

async fn order(http: &[Client], plan: &Plan, url: &str, number: usize) -> Told {
    let order_id = format!("{}-{number}", plan.name);
    let cents = 100 + number as u64 % 9000;
    let body = json!({
        "orderId": order_id,
        "customerId": format!("c-{}", number % 97),
        "items": [{"sku": format!("sku-{}", number % 13), "quantity": number % 5 + 1, "unitPrice": 1.25}],
        "totalAmount": cents as f64 / 100.0,
        "tenantId": format!("t-{}", number % 3),
        "channel": "e2e",
    });
    let mut repeats = 0;
    let request = format!("{order_id}-create");
    let created = until_answered(http, plan, Method::POST, &format!("{url}/orders"), &request, &body, &mut repeats).await;
    let mut told = Told { order_id, body, created, changes: vec![], repeats };
    if created == Outcome::Accepted && number.is_multiple_of(2) {
        for status in &plan.statuses {
            let request = format!("{}-{status}", told.order_id);
            let path = format!("{url}/orders/{}", told.order_id);
            let outcome = until_answered(http, plan, Method::PATCH, &path, &request, &json!({"status": status}), &mut told.repeats).await;
            told.changes.push((status.clone(), outcome));
            if outcome != Outcome::Accepted {
                break; // what comes after an unknown outcome has no order to check
            }
        }
    }
    told
}

/// Sends the same request under the same id until it is answered for good.
async fn until_answered(http: &[Client], plan: &Plan, method: Method, url: &str, id: &str, body: &Json, repeats: &mut usize) -> Outcome {
    let give_up = Instant::now() + plan.patience;
    loop {
        let http = &http[rand::random_range(0..http.len())];
        let mut request = http.request(method.clone(), url).header("X-API-Key", &plan.key).header("X-Request-Id", id).json(body);
        if rand::random_ratio(1, CONNECTION_LASTS) {
            request = request.header("Connection", "close");
        }
        match request.send().await.map(|answer| answer.status()) {
            Ok(StatusCode::ACCEPTED) => return Outcome::Accepted,
            Ok(status) if status.is_client_error() => return Outcome::Refused,
            _ if Instant::now() > give_up => return Outcome::Unknown,
            _ => {
                *repeats += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
