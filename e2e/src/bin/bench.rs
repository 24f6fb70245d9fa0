//! Our API and worker beside what a careful Python team would write, on the same broker and database, in one run, in turn:
//! `e2e/run bench`, or the binary itself with `[api|worker|gate] [ROUNDS]` (turns of the API and of the gate, drains of the worker);
//! `gate` is our API with a second backend to go to, beside our API with none. Prints each figure and the ratios; asserts nothing, since
//! machines differ.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Context, Result};
use e2e::bed::{Kafka, Postgres, Room, cache, eventually, free_port};
use e2e::product::Product;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::postgres::PgPoolOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const KEY: &str = "bench";
/// A turn is short and there are many: the machine's speed changes from one ten seconds to the next.
const SECONDS: u64 = 4;
const TURNS: usize = 15;
/// Not counted: the broker compiles its own code while it runs.
const WARM_UP: u64 = 20;
const CONNECTIONS: u32 = 64;
const PARTITIONS: i32 = 6;
const DRAINS: usize = 3;
/// Orders that each worker drains in one round.
const BACKLOG: usize = 200_000;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.get(1).map(|rounds| rounds.parse()).transpose()?;
    let what = arguments.first().map_or("all", String::as_str);
    if matches!(what, "all" | "api") {
        api(rounds.unwrap_or(TURNS)).await?;
    }
    if matches!(what, "all" | "worker") {
        worker(rounds.unwrap_or(DRAINS)).await?;
    }
    if matches!(what, "all" | "gate") {
        gate(rounds.unwrap_or(TURNS)).await?;
    }
    Ok(())
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(file)
}

fn python(program: &str) -> Result<Command> {
    let path = cache()?.join("bench-python/bin").join(program);
    anyhow::ensure!(path.exists(), "{} is missing: run e2e/prepare bench", path.display());
    Ok(Command::new(path))
}

fn document(room: &Room, topic: &str, bootstrap: &str) -> Result<PathBuf> {
    let text = format!(
        r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {{name: {topic}}}
spec:
  backends: [{{name: kafka, kafka: {{bootstrapServers: "{bootstrap}"}}}}]
  topics: [{{name: {topic}, partitions: {PARTITIONS}}}]
  events: [{{name: OrderCreated}}]
  store: {{postgres: {{urlSecretRef: {{name: db, key: url}}, schema: bench}}}}
  api: {{}}
  worker: {{group: {topic}}}
"#
    );
    let file = room.path().join("pipeline.yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn ours(role: &str, document: &Path, port: u16, postgres: &Postgres) -> Result<Command> {
    let listen = format!("127.0.0.1:{port}");
    let mut command = Product::command("pipeline-runtime", &[role, "--config", &document.to_string_lossy(), "--listen", &listen])?;
    command.env("DB_URL", postgres.url()).env("API_KEY", KEY);
    Ok(command)
}

/// What wrk measured.
#[derive(Clone, Copy, Debug)]
struct Load {
    per_second: f64,
    p99_ms: f64,
    errors: u64,
}

fn wrk(url: &str, seconds: u64) -> Result<Load> {
    let out = Command::new("wrk")
        .args(["-t2", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "--timeout", "10s", "--latency", "-s"])
        .arg(source("orders.lua"))
        .arg(url)
        .output()
        .context("wrk is missing: run e2e/prepare bench")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix("RESULT ")).with_context(|| text.clone())?;
    let figures: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok(Load { per_second: figures[0] / (figures[1] / 1e6), p99_ms: figures[2], errors: figures[3] as u64 })
}

async fn api(rounds: usize) -> Result<()> {
    let (kafka, postgres, room) = (Kafka::for_load().await?, Postgres::start().await?, Room::new("bench")?);
    kafka.create_topic("bench", PARTITIONS).await?;
    let document = document(&room, "bench", &kafka.bootstrap())?;
    let (our_port, their_port) = (free_port()?, free_port()?);
    let (our_url, their_url) = (format!("http://127.0.0.1:{our_port}"), format!("http://127.0.0.1:{their_port}"));
    let mut ours = Product::start("api", &room, ours("api", &document, our_port, &postgres)?)?;
    let mut uvicorn = python("uvicorn")?;
    uvicorn.args(["api:app", "--workers", "2", "--no-access-log", "--log-level", "warning", "--port", &their_port.to_string()]);
    uvicorn.args(["--app-dir", &source("").to_string_lossy()]);
    uvicorn.envs([
        ("KAFKA_BROKERS", kafka.bootstrap().as_str()),
        ("KAFKA_TOPIC", "bench"),
        ("API_KEY", KEY),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]);
    let mut theirs = Product::start("fastapi", &room, uvicorn)?;
    ours.ready(&format!("{our_url}/readyz"), Duration::from_secs(60)).await?;
    theirs.ready(&format!("{their_url}/healthz"), Duration::from_secs(60)).await?;
    let (mut ratios, mut p99) = (Vec::new(), Vec::new());
    wrk(&their_url, WARM_UP)?;
    wrk(&our_url, WARM_UP)?;
    for round in 1..=rounds {
        let (us, them) = if round % 2 == 1 {
            (wrk(&our_url, SECONDS)?, wrk(&their_url, SECONDS)?)
        } else {
            let them = wrk(&their_url, SECONDS)?;
            (wrk(&our_url, SECONDS)?, them)
        };
        anyhow::ensure!(us.errors + them.errors == 0, "requests failed: {us:?} {them:?}");
        println!(
            "api round {round}: ours {us:.1?}  FastAPI {them:.1?}  ratio {:.1}x, p99 {:.2}x",
            us.per_second / them.per_second,
            us.p99_ms / them.p99_ms
        );
        ratios.push(us.per_second / them.per_second);
        p99.push(us.p99_ms / them.p99_ms);
    }
    // It ends its own workers; killed, it would leave them behind.
    theirs.terminate(Duration::from_secs(20)).await?;
    let (now, most) = ours.memory_kib()?;
    let (ratio, p99) = (median(&mut ratios), median(&mut p99));
    println!("api: median ratio {ratio:.1}x, p99 {p99:.2}x; our memory {} MiB now, {} MiB at most", now / 1024, most / 1024);
    Ok(())
}

/// What it costs between switches that there could be one.
async fn gate(rounds: usize) -> Result<()> {
    let (kafka, room) = (Kafka::for_load().await?, Room::new("bench")?);
    kafka.create_topic("bench", PARTITIONS).await?;
    let here = kafka.bootstrap();
    let one = format!("[{{name: here, kafka: {{bootstrapServers: \"{here}\"}}}}]");
    let two = one.replace("}}]", "}}, {name: there, kafka: {bootstrapServers: \"there:9092\"}}]");
    let mut running = Vec::new();
    for (name, backends) in [("one", one), ("two", two)] {
        let head = "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {name: bench}\nspec:\n";
        let file = room.path().join(format!("{name}.yaml"));
        let rest = format!("  topics: [{{name: bench, partitions: {PARTITIONS}}}]\n  events: [{{name: OrderCreated}}]\n  api: {{}}\n");
        std::fs::write(&file, format!("{head}  backend: here\n  backends: {backends}\n{rest}"))?;
        let (port, data) = (free_port()?.to_string(), room.path().join(name));
        let mut command = Product::command(
            "pipeline-runtime",
            &["up", &file.to_string_lossy(), "--live", "--port", &port, "--data", &data.to_string_lossy()],
        )?;
        command.env("API_KEY", KEY);
        let mut product = Product::start(name, &room, command)?;
        let url = format!("http://127.0.0.1:{port}");
        product.ready(&format!("{url}/readyz"), Duration::from_secs(60)).await?;
        running.push((product, url));
    }
    let [(one, one_url), (two, two_url)] = &running[..] else { unreachable!("two were started") };
    let mut ratios = (Vec::new(), Vec::new());
    wrk(two_url, WARM_UP)?;
    wrk(one_url, WARM_UP)?;
    for round in 1..=rounds {
        let (without, with) = if round % 2 == 1 {
            (processor_time(one, one_url)?, processor_time(two, two_url)?)
        } else {
            let with = processor_time(two, two_url)?;
            (processor_time(one, one_url)?, with)
        };
        let (rate, time) = (with.0 / without.0, with.1 / without.1);
        println!(
            "gate round {round}: {:.0} requests/s and {:.1} us of ours each, with a second backend {:.0}/s and {:.1} us: {rate:.3}x, {time:.3}x",
            without.0, without.1, with.0, with.1
        );
        ratios.0.push(rate);
        ratios.1.push(time);
    }
    println!("gate: median {:.3}x of the requests, {:.3}x of the processor time of each", median(&mut ratios.0), median(&mut ratios.1));
    Ok(())
}

/// Requests a second, and the processor time of our process for each, in microseconds.
fn processor_time(product: &Product, url: &str) -> Result<(f64, f64)> {
    let before = product.processor_time()?;
    let load = wrk(url, SECONDS)?;
    anyhow::ensure!(load.errors == 0, "requests failed: {load:?}");
    let used = product.processor_time()? - before;
    Ok((load.per_second, used.as_secs_f64() * 1e6 / (load.per_second * SECONDS as f64)))
}

async fn worker(rounds: usize) -> Result<()> {
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

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
