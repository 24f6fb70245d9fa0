//! `e2e/run bench`, or the binary itself with `[api|worker|store|contract|generator|gate|pause|retail] [TIMES]`: how fast this is beside what a
//! careful Python team would write, and the store beside a bare loop (in one run, in turn); what it takes to know an event, how well the
//! generator keeps its rate, what a second backend costs beside none, and how long writes pause in a switch; by its name
//! alone, since it takes so many minutes, a retailer's load. Prints each figure and the
//! ratios, and asserts none of them, since machines differ.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod contract;
mod gate;
mod generator;
mod pause;
mod retail;
mod store;
mod worker;

use anyhow::{Context, Result};
use e2e::bed::{Postgres, Room, cache};
use e2e::product::Product;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The product's own: what is measured in this process costs as much there.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KEY: &str = "bench";
/// A turn is short and there are many: the machine's speed changes from one ten seconds to the next.
const SECONDS: u64 = 4;
const TURNS: usize = 15;
/// Not counted: the broker compiles its own code while it runs.
const WARM_UP: u64 = 20;
const CONNECTIONS: usize = 64;
/// As many as a topic has whose document says nothing of it.
const PARTITIONS: i32 = 3;
/// Requests that the load has made up before it begins: enough for a turn.
const READY: &str = "100000";
/// A round is short: two thousand messages.
const CONTRACTS: usize = 100;
/// Switches whose pauses are measured.
const SWITCHES: usize = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.get(1).map(|rounds| rounds.parse()).transpose()?;
    let what = arguments.first().map_or("all", String::as_str);
    anyhow::ensure!(
        ["all", "api", "worker", "store", "contract", "generator", "gate", "pause", "retail"].contains(&what),
        "there is no benchmark {what}"
    );
    let asked = |name| what == "all" || what == name;
    if asked("api") {
        api::beside_fastapi(rounds.unwrap_or(TURNS)).await?;
    }
    if asked("worker") {
        worker::beside_python(rounds.unwrap_or(worker::DRAINS)).await?;
    }
    if asked("store") {
        store::beside_a_bare_loop(rounds.unwrap_or(store::ROUNDS)).await?;
    }
    if asked("contract") {
        contract::of_examples(rounds.unwrap_or(CONTRACTS))?;
    }
    if asked("generator") {
        generator::at_every_rate(rounds.unwrap_or(1)).await?;
    }
    if asked("gate") {
        gate::beside_one_backend(rounds.unwrap_or(TURNS)).await?;
    }
    if asked("pause") {
        pause::of_switches(rounds.unwrap_or(SWITCHES)).await?;
    }
    if what == "retail" {
        retail::for_minutes(rounds.unwrap_or(retail::MINUTES)).await?;
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

impl Load {
    /// What `orders.lua` prints in the end.
    fn read(printed: &str) -> Result<Load> {
        let line = printed.lines().find_map(|line| line.strip_prefix("RESULT ")).with_context(|| printed.to_owned())?;
        let figures: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Load { per_second: figures[0] / (figures[1] / 1e6), p99_ms: figures[2], errors: figures[3] as u64 })
    }
}

fn wrk_command(url: &str, threads: usize, connections: usize, seconds: u64) -> Command {
    let mut command = Command::new("wrk");
    command.args([&format!("-t{threads}"), &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "10s", "--latency", "-s"]);
    command.arg(source("orders.lua")).arg(url);
    command
}

fn wrk(url: &str, connections: usize, seconds: u64) -> Result<Load> {
    let out = wrk_command(url, 1, connections, seconds)
        .envs([("KEY", KEY), ("READY", READY)])
        .output()
        .context("wrk is missing: run e2e/prepare bench")?;
    Load::read(&String::from_utf8_lossy(&out.stdout))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
