//! Our worker beside a Python consumer that writes in batches.

use crate::{PARTITIONS, document, median, ours, python, source};
use anyhow::Result;
use e2e::bed::{Kafka, Postgres, Room, eventually, free_port};
use e2e::product::Product;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::postgres::PgPoolOptions;
use std::time::{Duration, Instant};

pub const DRAINS: usize = 3;
/// Orders that each worker drains in one round.
const BACKLOG: usize = 200_000;

pub async fn beside_python(rounds: usize) -> Result<()> {
    let (kafka, postgres, room) = (Kafka::for_load().await?, Postgres::start().await?, Room::new("bench")?);
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let topic = format!("backlog-{round}");
        kafka.create_topic(&topic, PARTITIONS).await?;
        fill(&kafka, &topic, BACKLOG).await?;
        let (us, them) = if round % 2 == 1 {
            (our_worker(&kafka, &postgres, &room, &topic).await?, python_worker(&kafka, &postgres, &topic)?)
        } else {
            let them = python_worker(&kafka, &postgres, &topic)?;
            (our_worker(&kafka, &postgres, &room, &topic).await?, them)
        };
        if round == 0 {
            continue;
        }
        println!("worker round {round}: ours {us:.0} orders/s, Python in batches {them:.0} orders/s, ratio {:.1}x", us / them);
        ratios.push(us / them);
    }
    println!("worker: median ratio {:.1}x", median(&mut ratios));
    Ok(())
}

fn python_worker(kafka: &Kafka, postgres: &Postgres, topic: &str) -> Result<f64> {
    let arguments = [&kafka.bootstrap(), topic, "python", &postgres.url(), &BACKLOG.to_string()];
    let out = python("python")?.env("PYTHONDONTWRITEBYTECODE", "1").arg(source("worker.py")).args(arguments).output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success() && errors.is_empty(), "worker.py: {errors}");
    Ok(BACKLOG as f64 / String::from_utf8_lossy(&out.stdout).trim().parse::<f64>()?)
}

/// Timed by the offsets that it commits, which costs the database nothing; the rows are counted once, at the end.
async fn our_worker(kafka: &Kafka, postgres: &Postgres, room: &Room, topic: &str) -> Result<f64> {
    let pool = PgPoolOptions::new().max_connections(1).connect(&postgres.url()).await?;
    let count = async || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM bench.orders").fetch_one(&pool).await;
    let before = count().await.unwrap_or(0);
    let group: BaseConsumer = kafka.client().set("group.id", topic).create()?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(topic, 0, PARTITIONS - 1);
    let committed = async |least: usize| -> Result<usize> {
        let answer = group.committed_offsets(partitions.clone(), Duration::from_secs(5))?;
        let done: i64 = answer.elements().iter().filter_map(|partition| partition.offset().to_raw()).filter(|offset| *offset > 0).sum();
        anyhow::ensure!(done as usize >= least, "{done} of {BACKLOG} are committed");
        Ok(done as usize)
    };
    let document = document(room, topic, &kafka.bootstrap())?;
    let mut worker = Product::start("worker", room, ours("worker", &document, free_port()?, postgres)?)?;
    // From the first orders stored, as the Python worker counts from its first batch.
    let first = eventually("the first orders are stored", Duration::from_secs(60), || committed(1)).await?;
    let begin = Instant::now();
    eventually("all orders are stored", Duration::from_secs(300), || committed(BACKLOG)).await?;
    let rate = (BACKLOG - first) as f64 / begin.elapsed().as_secs_f64();
    let rows = count().await? - before;
    anyhow::ensure!(rows == BACKLOG as i64, "{rows} orders are stored instead of {BACKLOG}");
    let (now, most) = worker.memory_kib()?;
    println!("worker memory: {} MiB now, {} MiB at most", now / 1024, most / 1024);
    worker.terminate(Duration::from_secs(30)).await?;
    Ok(rate)
}

/// Puts orders on a topic, as the API would.
async fn fill(kafka: &Kafka, topic: &str, count: usize) -> Result<()> {
    let producer: FutureProducer = kafka.client().set("queue.buffering.max.messages", "1000000").create()?;
    let mut reports = Vec::with_capacity(count);
    for n in 0..count {
        let id = format!("{topic}-{n}");
        let body = format!(
            r#"{{"orderId":"{id}","customerId":"customer-{}","items":[{{"sku":"SKU-CALZONE","quantity":2,"unitPrice":11.8}},{{"sku":"SKU-WATER","quantity":1,"unitPrice":2.1}}],"totalAmount":25.7,"tenantId":"tenant-{}","channel":"web"}}"#,
            n % 100,
            n % 5
        );
        let header = |key, value| rdkafka::message::Header { key, value: Some(value) };
        let headers = rdkafka::message::OwnedHeaders::new().insert(header("id", &id)).insert(header("type", &"OrderCreated".to_owned()));
        let record = FutureRecord::to(topic).key(&id).payload(&body).headers(headers);
        reports.push(producer.send_result(record).map_err(|(e, _)| e)?);
    }
    for report in reports {
        report.await?.map_err(|(e, _)| e)?;
    }
    Ok(())
}
