//! What it costs between switches that there could be one: our API with a second backend to go to, beside our API with none.

use crate::{CONNECTIONS, KEY, PARTITIONS, SECONDS, WARM_UP, median, wrk};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use crds::switch::{self, Rules, Source, SwitchState};
use e2e::bed::{Kafka, Room, free_port};
use e2e::product::Product;
use pipeline_runtime::broker::{
    Broker, BrokerError, Commit, Completion, Consumer, ConsumerOptions, Header, Outgoing, Partition, Position, Target, TopicFacts,
    TopicWish,
};
use pipeline_runtime::publish::{Gate, Publisher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a thread of an API does beside between two messages; it is more.
const OTHER_WORK: Duration = Duration::from_micros(20);

pub async fn beside_one_backend(rounds: usize) -> Result<()> {
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
    let mut each = Vec::new();
    wrk(two_url, CONNECTIONS, WARM_UP)?;
    wrk(one_url, CONNECTIONS, WARM_UP)?;
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
        each.push(without.1);
    }
    for (how, other_work) in [("that meets others at the gate all the time", Duration::ZERO), ("beside other work", OTHER_WORK)] {
        let (one, two) = passing(other_work).await?;
        println!(
            "gate: a message without a broker, {how}, takes {one:.0} ns, with a second backend {two:.0} ns: {:.2}% of a request",
            (two - one) / median(&mut each) / 10.0
        );
    }
    println!("gate: median {:.3}x of the requests, {:.3}x of the processor time of each", median(&mut ratios.0), median(&mut ratios.1));
    Ok(())
}

/// Nanoseconds that a message takes from its publisher to a broker that takes it at once: with one backend, and with two. What a whole
/// request takes differs by more from turn to turn than both of them together.
async fn passing(other_work: Duration) -> Result<(f64, f64)> {
    let limits = switch::Limits { purge_after: Duration::from_secs(1), cut_off_after: Duration::from_secs(3600) };
    let mut protocol = switch::Gate::new(Rules::in_force(), limits, Duration::ZERO);
    protocol.joined();
    protocol.observe(Source::Quorum, &Arc::new(SwitchState::first("lineage", "sink")), Duration::ZERO);
    let switched = Gate::switched(protocol, tokio::time::Instant::now()).context("a gate")?;
    let (one, two) = (Publisher::new(Arc::new(Sink), Gate::open()), Publisher::new(Arc::new(Sink), switched));
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        alone.push(publishing(&one, other_work).await?);
        among.push(publishing(&two, other_work).await?);
    }
    Ok((median(&mut alone), median(&mut among)))
}

/// On two threads at once, as an API does it. With no other work between two messages they do nothing but meet at the gate.
async fn publishing(publisher: &Publisher, other_work: Duration) -> Result<f64> {
    const MESSAGES: u32 = 1000;
    let header = |name: &str| Header { name: name.into(), value: Bytes::from_static(b"0192f0c1-0000-7000-8000-000000000000") };
    let message = Outgoing {
        topic: "bench".into(),
        target: Target::Key,
        key: Some(Bytes::from_static(b"0192f0c1-0000-7000-8000-000000000000")),
        headers: ["id", "type", "time", "principal", "requestId"].map(header).to_vec(),
        payload: Some(vec![b'x'; 300].into()),
    };
    let publish = || {
        let (publisher, message) = (publisher.clone(), message.clone());
        tokio::spawn(async move {
            let mut took = Duration::ZERO;
            for _ in 0..MESSAGES {
                let begun = Instant::now();
                publisher.publish(&message, Duration::from_secs(5)).await?;
                took += begun.elapsed();
                let rest = Instant::now() + other_work;
                while Instant::now() < rest {
                    std::hint::spin_loop();
                }
            }
            anyhow::Ok(took)
        })
    };
    let (here, there) = tokio::join!(publish(), publish());
    Ok((here?? + there??).as_nanos() as f64 / 2.0 / f64::from(MESSAGES))
}

/// A broker that takes everything at once and keeps nothing.
pub struct Sink;

#[async_trait]
impl Broker for Sink {
    fn name(&self) -> &str {
        "sink"
    }
    fn publish(&self, message: Outgoing, completion: Completion) {
        completion.done(Ok(Position { partition: Partition { topic: message.topic, number: 0 }, offset: 0 }));
    }
    async fn connected(&self) -> Result<(), BrokerError> {
        Ok(())
    }
    fn known_down(&self) -> bool {
        false
    }
    async fn topic(&self, _: &str) -> Result<Option<TopicFacts>, BrokerError> {
        Ok(None)
    }
    async fn ensure_topics(&self, _: &[TopicWish]) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn consumer(&self, _: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Other { backend: "sink".into(), reason: "nothing can be read".into() })
    }
    async fn committed(&self, _: &str, _: &[String]) -> Result<Vec<Commit>, BrokerError> {
        Ok(Vec::new())
    }
    async fn starts(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }
    async fn ends(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }
    async fn flush(&self, _: Duration) {}
}

/// Requests a second, and the processor time of our process for each, in microseconds.
fn processor_time(product: &Product, url: &str) -> Result<(f64, f64)> {
    let before = product.processor_time()?;
    let load = wrk(url, CONNECTIONS, SECONDS)?;
    anyhow::ensure!(load.errors == 0, "requests failed: {load:?}");
    let used = product.processor_time()? - before;
    Ok((load.per_second, used.as_secs_f64() * 1e6 / (load.per_second * SECONDS as f64)))
}
