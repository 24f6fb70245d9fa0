//! `examples/retail` under load (RF-11): orders of 5 KB from ten publishers, with Kafka and PostgreSQL on the same machine. Measured from
//! the instant at which an order is due, whenever its publisher comes to it, to the commit of its effect as PostgreSQL itself notes it.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use e2e::bed::{Kafka, eventually};
use e2e::pipeline::Pipeline;
use futures::future::{FutureExt, try_join_all};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

pub const MINUTES: usize = 10;
const RATE: u32 = 1_000;
const PUBLISHERS: u32 = 10;
/// Each with orders that only one publisher makes, since only then there is an order in which they were published.
const CUSTOMERS_EACH: u64 = 100;
const TOPIC: &str = "order-create";
/// The document's own least.
const WORKERS: usize = 2;
const WANTED_MS: f64 = 100.0;
/// How long each rate is tried while the highest is looked for.
const TRIED_FOR: Duration = Duration::from_secs(30);
const NOT_COUNTED: Duration = Duration::from_secs(20);
/// Rates that are tried at most.
const TRIES: usize = 12;

pub async fn for_minutes(minutes: usize) -> Result<()> {
    let kafka = Kafka::for_load().await?;
    let pipeline =
        Pipeline::example(&kafka, "retail", &[("urlSecretRef: {name: retail-alerts, key: url}", "url: 'http://127.0.0.1:9/'")]).await?;
    // What was read is not kept, so that an hour of it has room.
    let settings = [("retention.bytes", "268435456"), ("segment.bytes", "67108864")];
    kafka.set_topic(TOPIC, &settings).await?;
    let retail = Retail::new(kafka, pipeline).await?;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(retail.pipeline.start("worker").await?.0);
    }
    // Not counted: the broker compiles its own code while it runs.
    retail.run("warm", RATE, NOT_COUNTED).await?;

    let used = || workers.iter().map(e2e::product::Product::processor_time).sum::<Result<Duration>>();
    let before = used()?;
    let run = retail.run("run", RATE, Duration::from_secs(60) * u32::try_from(minutes)?).await?;
    let each = (used()? - before).as_secs_f64() * 1e6 / run.orders as f64;
    let memory = workers.iter().map(|worker| Ok(worker.memory_kib()?.1 / 1024)).collect::<Result<Vec<u64>>>()?;
    println!("retail at {RATE}/s for {minutes} minutes: {run}; {each:.0} us of processor time each, {memory:?} MiB of memory at most");
    for (minute, worst) in retail.minutes("run").await?.into_iter().enumerate() {
        println!("  minute {}: p99 {worst:.1} ms", minute + 1);
    }

    let (mut kept, mut lost) = (RATE, None);
    for step in 1..=TRIES {
        let rate = match lost {
            None => kept * 3 / 2,
            Some(lost) => (kept + lost) / 2,
        };
        let run = retail.run(&format!("try{step:02}"), rate, TRIED_FOR).await?;
        println!("retail at {rate}/s: {run}");
        if run.p99 < WANTED_MS {
            kept = rate
        } else {
            lost = Some(rate)
        }
        if lost.is_some_and(|lost| lost - kept < kept / 10) {
            break;
        }
    }
    println!("retail: {kept} orders/s is the highest rate that was tried and kept the p99 under {WANTED_MS} ms");
    let dead = retail.kafka.messages(&format!("{TOPIC}-dlq")).await?.len();
    ensure!(dead == 0, "{dead} dead letters");
    Ok(())
}

struct Retail {
    kafka: Kafka,
    pipeline: Pipeline,
    pool: PgPool,
}

struct Run {
    orders: u64,
    size: usize,
    median: f64,
    p99: f64,
    p999: f64,
    most: f64,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { orders, size, median, p99, p999, most } = self;
        write!(
            f,
            "{orders} orders of {size} B, none lost, none before an earlier one of its customer; p50 {median:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, at most {most:.1} ms"
        )
    }
}

impl Retail {
    async fn new(kafka: Kafka, pipeline: Pipeline) -> Result<Retail> {
        let url = pipeline.postgres.url();
        let connect = || PgPoolOptions::new().max_connections(1).connect(&url);
        sqlx::query("ALTER SYSTEM SET track_commit_timestamp = on").execute(&connect().await?).await?;
        // As large as this machine's operators would make it; the bed's own is for tests that hold little.
        sqlx::query("ALTER SYSTEM SET max_wal_size = '2GB'").execute(&connect().await?).await?;
        pipeline.postgres.restart().await?;
        let pool = connect().await?;
        Ok(Retail { kafka, pipeline, pool })
    }

    /// Orders of this name, so many each second; waits until all of them took effect.
    async fn run(&self, name: &str, rate: u32, within: Duration) -> Result<Run> {
        let begin = Begin { instant: Instant::now() + Duration::from_millis(100), time: Utc::now() + Duration::from_millis(100) };
        let publishers = (0..PUBLISHERS).map(|number| self.publish(format!("{name}-{number:02}"), rate, within, begin));
        let sent = try_join_all(publishers).await?;
        let (orders, size) = (sent.iter().map(|sent| sent.orders).sum::<u64>(), sent.iter().map(|sent| sent.size).max().unwrap_or(0));
        let stored = || async {
            let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM retail.orders WHERE starts_with(order_id, $1)")
                .bind(name)
                .fetch_one(&self.pool)
                .await?;
            ensure!(stored as u64 == orders, "{stored} of {orders}");
            Ok(())
        };
        eventually("all orders are stored", Duration::from_secs(300), stored).await?;
        let overtaken: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT order_id, lag(order_id) OVER (PARTITION BY customer_id ORDER BY pg_xact_commit_timestamp(xmin), order_id) \
             AS before FROM retail.orders WHERE starts_with(order_id, $1)) AS all_orders WHERE before > order_id",
        )
        .bind(name)
        .fetch_one(&self.pool)
        .await?;
        ensure!(overtaken == 0, "{overtaken} orders took effect before an earlier one of their customer");
        let figures: Vec<f64> = sqlx::query_scalar(
            "SELECT percentile_cont(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY \
             extract(epoch FROM pg_xact_commit_timestamp(xmin) - created_at)::float8 * 1000) FROM retail.orders WHERE starts_with(order_id, $1)",
        )
        .bind(name)
        .fetch_one(&self.pool)
        .await?;
        let [median, p99, p999, most] = figures[..] else { anyhow::bail!("{figures:?}") };
        Ok(Run { orders, size, median, p99, p999, most })
    }

    async fn minutes(&self, name: &str) -> Result<Vec<f64>> {
        let query = "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - created_at)::float8 * 1000) \
             FROM retail.orders WHERE starts_with(order_id, $1) GROUP BY date_trunc('minute', created_at) ORDER BY date_trunc('minute', created_at)";
        Ok(sqlx::query_scalar(query).bind(name).fetch_all(&self.pool).await?)
    }

    async fn publish(&self, name: String, rate: u32, within: Duration, begin: Begin) -> Result<Sent> {
        let producer: FutureProducer = self.kafka.client().set("linger.ms", "0").set("enable.idempotence", "true").create()?;
        let every = Duration::from_secs(1) * PUBLISHERS / rate;
        let lines: Vec<String> = (0..64).map(|_| lines()).collect();
        let (mut orders, mut size, mut reports) = (0u64, 0, VecDeque::<DeliveryFuture>::new());
        loop {
            let due = every * u32::try_from(orders)?;
            if due >= within {
                break;
            }
            sleep_until(begin.instant + due).await;
            let customer = format!("c-{name}-{}", orders % CUSTOMERS_EACH);
            let body = body(&format!("{name}-{orders:09}"), &customer, begin.time + due, &lines[orders as usize % lines.len()]);
            size = body.len();
            // A queue that is full is emptied by its thread; what is late then counts as late.
            let report = loop {
                match producer.send_result(FutureRecord::to(TOPIC).key(&customer).payload(&body)) {
                    Ok(report) => break report,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => sleep(Duration::from_millis(1)).await,
                    Err((error, _)) => return Err(error).context("an order cannot be handed over"),
                }
            };
            reports.push_back(report);
            while let Some(report) = reports.front_mut().and_then(FutureExt::now_or_never) {
                report?.map_err(|(error, _)| error)?;
                reports.pop_front();
            }
            orders += 1;
        }
        for report in reports {
            report.await?.map_err(|(error, _)| error).context("an order was not taken by the broker")?;
        }
        Ok(Sent { orders, size })
    }
}

struct Sent {
    orders: u64,
    size: usize,
}

/// One instant on both clocks.
#[derive(Clone, Copy)]
struct Begin {
    instant: Instant,
    time: DateTime<Utc>,
}

/// 33 lines, and no two lists alike, so that a compressed column is no smaller than a shop's.
fn lines() -> String {
    let line = |number: u32| {
        let (sku, note) = (rand::random::<u64>(), rand::random::<u128>());
        json!({"lineId": number, "sku": format!("SKU-{sku:020}"), "quantity": 1, "unitPrice": 1, "note": format!("{note:032x}{note:010x}")})
    };
    json!((1..=33).map(line).collect::<Vec<_>>()).to_string()
}

fn body(id: &str, customer: &str, due: DateTime<Utc>, lines: &str) -> String {
    let time = due.to_rfc3339_opts(SecondsFormat::Micros, true);
    format!(
        r#"{{"messageId":"{id}","publishTime":"{time}","attributes":{{"source":"shop","version":"1","correlationId":"c-{id}","eventType":"ORDER_CREATE"}},"data":{{"orderId":"{id}","customerId":"{customer}","orderDate":"{time}","t1MembershipId":"T1-{customer}","lineItems":{lines},"totals":{{"total":33}}}}}}"#
    )
}
