//! Our API beside what a careful Python team would write.

use crate::{CONNECTIONS, KEY, Load, PARTITIONS, SECONDS, WARM_UP, document, median, ours, python, source, wrk};
use anyhow::Result;
use e2e::bed::{Kafka, Postgres, Room, free_port};
use e2e::product::Product;
use std::time::Duration;

pub async fn beside_fastapi(rounds: usize) -> Result<()> {
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
    wrk(&their_url, CONNECTIONS, WARM_UP)?;
    wrk(&our_url, CONNECTIONS, WARM_UP)?;
    // What each of them can do at most, with whatever number of connections suits it best.
    let (mut our_best, mut their_best) = (Best::default(), Best::default());
    for connections in [CONNECTIONS / 4, CONNECTIONS, CONNECTIONS * 4] {
        let (mut ratios, mut p99) = (Vec::new(), Vec::new());
        let (mut our_turns, mut their_turns) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let turn = |url: &str| wrk(url, connections, SECONDS);
            let (us, them) = if round % 2 == 1 {
                (turn(&our_url)?, turn(&their_url)?)
            } else {
                let them = turn(&their_url)?;
                (turn(&our_url)?, them)
            };
            anyhow::ensure!(us.errors + them.errors == 0, "requests failed: {us:?} {them:?}");
            ratios.push(us.per_second / them.per_second);
            p99.push(us.p99_ms / them.p99_ms);
            our_turns.push(us);
            their_turns.push(them);
            println!(
                "api, {connections} connections, round {round}: ours {us:.1?}  FastAPI {them:.1?}  ratio {:.1}x, p99 {:.2}x",
                us.per_second / them.per_second,
                us.p99_ms / them.p99_ms
            );
        }
        println!("api, {connections} connections: median ratio {:.1}x, p99 {:.2}x", median(&mut ratios), median(&mut p99));
        our_best.or(connections, &our_turns);
        their_best.or(connections, &their_turns);
    }
    println!("api, each at its best: ours {our_best}, FastAPI {their_best}, ratio {:.1}x", our_best.per_second / their_best.per_second);
    // It ends its own workers; killed, it would leave them behind.
    theirs.terminate(Duration::from_secs(20)).await?;
    let (now, most) = ours.memory_kib()?;
    println!("api: our memory {} MiB now, {} MiB at most", now / 1024, most / 1024);
    Ok(())
}

/// The number of connections with which a service does most, and what it does then (medians).
#[derive(Default)]
struct Best {
    connections: usize,
    per_second: f64,
    p99_ms: f64,
}

impl Best {
    fn or(&mut self, connections: usize, turns: &[Load]) {
        let per_second = median(&mut turns.iter().map(|turn| turn.per_second).collect::<Vec<_>>());
        if per_second > self.per_second {
            let p99_ms = median(&mut turns.iter().map(|turn| turn.p99_ms).collect::<Vec<_>>());
            *self = Best { connections, per_second, p99_ms };
        }
    }
}

impl std::fmt::Display for Best {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, p99 {:.1} ms, with {} connections", self.per_second, self.p99_ms, self.connections)
    }
}
