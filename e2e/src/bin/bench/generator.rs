//! How well the generator keeps its rate on a real Kafka, changed while it runs; and how many orders it makes where no broker takes time.

use crate::gate::Sink;
use crate::{PARTITIONS, median};
use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use e2e::bed::{Kafka, Room, free_port};
use e2e::product::Product;
use pipeline_runtime::codec::Codecs;
use pipeline_runtime::contract::Contract;
use pipeline_runtime::generator::{Counters, Generator};
use pipeline_runtime::publish::{Gate, Publisher};
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Orders a second, each for so many seconds.
const RATES: [(u32, u64); 4] = [(1, 25), (10, 10), (1000, 10), (20_000, 15)];
/// The most that a document may ask for: so many never come, and what comes is what can be made.
const NO_LIMIT: u32 = 100_000;

pub async fn at_every_rate(rounds: usize) -> Result<()> {
    let mut alone = Vec::new();
    for _ in 0..rounds.max(3) {
        alone.push(alone_for(Duration::from_secs(2)).await?);
    }
    println!("generator alone, with a broker that takes everything at once: {:.0} orders/s (median)", median(&mut alone));
    let (kafka, room) = (Kafka::for_load().await?, Room::new("bench")?);
    kafka.create_topic("generated", PARTITIONS).await?;
    let file = room.path().join("pipeline.yaml");
    let port = free_port()?;
    let listen = format!("127.0.0.1:{port}");
    std::fs::write(&file, document(&kafka.bootstrap(), 20_000))?;
    let command = Product::command("pipeline-runtime", &["generator", "--config", &file.to_string_lossy(), "--listen", &listen])?;
    let mut generator = Product::start("generator", &room, command)?;
    let url = format!("http://{listen}");
    generator.ready(&format!("{url}/readyz"), Duration::from_secs(60)).await?;
    // The broker compiles its own code while it runs.
    sleep(Duration::from_secs(10)).await;
    for round in 1..=rounds {
        for (rate, seconds) in RATES.into_iter().chain([(NO_LIMIT, 10)]) {
            at(&generator, &url, &file, &kafka, rate, Duration::from_secs(seconds)).await.with_context(|| format!("round {round}"))?;
        }
    }
    let (_, most) = generator.memory_kib()?;
    generator.terminate(Duration::from_secs(30)).await?;
    let (published, written) = (counted(&generator.printed()), written(&kafka)?);
    println!("generator: {written} orders are on the broker, {} MiB of memory at most{published}", most / 1024);
    Ok(())
}

fn counted(printed: &str) -> String {
    let warned = printed.lines().filter(|line| line.contains("were not published")).count();
    if warned == 0 { String::new() } else { format!(", {warned} warnings that orders were not published") }
}

/// Sets a rate in the document of the generator that runs, and says what came of it.
async fn at(generator: &Product, url: &str, file: &Path, kafka: &Kafka, rate: u32, within: Duration) -> Result<()> {
    let draft = file.with_extension("new");
    std::fs::write(&draft, document(&kafka.bootstrap(), rate))?;
    std::fs::rename(&draft, file)?;
    // The file is looked at every two seconds; what was on its way then has arrived, too.
    sleep(Duration::from_secs(4)).await;
    let (began, first) = next_change(url, 0.0).await?;
    let processor = generator.processor_time()?;
    sleep(within).await;
    let used = generator.processor_time()? - processor;
    let (ended, last) = next_change(url, published(url).await?).await?;
    let seconds = (ended - began).as_secs_f64();
    let reached = (last - first) / seconds;
    let cost = used.as_secs_f64() * 1e6 / (reached * within.as_secs_f64());
    if rate == NO_LIMIT {
        println!("generator on Kafka as fast as it can: {reached:.0} orders/s, {cost:.1} us of processor time each");
    } else {
        let off = (reached / f64::from(rate) - 1.0) * 100.0;
        println!("generator at {rate}/s: {reached:.2} orders/s in {seconds:.1} s, off by {off:+.2} %, {cost:.1} us of processor time each");
    }
    Ok(())
}

/// When an order more than so many is counted, and how many there are then: at one order a second a look at any time would be off by one.
async fn next_change(url: &str, than: f64) -> Result<(Instant, f64)> {
    let before = published(url).await?.max(than);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = published(url).await?;
        if now > before {
            return Ok((Instant::now(), now));
        }
        ensure!(Instant::now() < deadline, "no order comes");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn published(url: &str) -> Result<f64> {
    let metrics = e2e::http(Duration::from_secs(5)).get(format!("{url}/metrics")).send().await?.text().await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("orders_generated_total{result=\"published\"} "));
    Ok(line.context("the generator counts nothing")?.parse()?)
}

fn written(kafka: &Kafka) -> Result<i64> {
    let consumer: BaseConsumer = kafka.client().create()?;
    let ends = (0..PARTITIONS).map(|partition| consumer.fetch_watermarks("generated", partition, Duration::from_secs(10)));
    ends.map(|ends| Ok(ends?.1)).sum()
}

fn document(bootstrap: &str, rate: u32) -> String {
    format!(
        r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {{name: bench}}
spec:
  backends: [{{name: kafka, kafka: {{bootstrapServers: "{bootstrap}"}}}}]
  topics: [{{name: generated, partitions: {PARTITIONS}}}]
  events: [{{name: OrderCreated}}]
  generator: {{rate: {rate}, seed: 7}}
"#
    )
}

async fn alone_for(time: Duration) -> Result<f64> {
    let pipeline = crds::document::read(&document("nowhere:1", NO_LIMIT)).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let config = crds::resolve(&pipeline);
    let contract = Arc::new(ArcSwap::from_pointee(Contract::compile(&config)?));
    let counters = Arc::new(Counters::default());
    let publisher = Publisher::new(Arc::new(Sink), Gate::open());
    let config = Arc::new(ArcSwap::from_pointee(config));
    let generator = Generator { config, contract, codecs: Codecs::default(), publisher, counters: counters.clone() };
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(generator.run(stopped));
    let (began, before) = (Instant::now(), counters.published.load(Ordering::Relaxed));
    sleep(time).await;
    let made = counters.published.load(Ordering::Relaxed) - before;
    let rate = made as f64 / began.elapsed().as_secs_f64();
    stop.send_replace(true);
    running.await?;
    Ok(rate)
}
