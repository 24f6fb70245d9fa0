//! How long writes pause while they go from one Kafka to another and back: the whole product in a cluster, at a fixed rate of requests,
//! and nothing goes wrong.

use crate::{Load, wrk_command};
use anyhow::{Context, Result, ensure};
use e2e::bed::Room;
use e2e::fleet::storm::{Outcome, pauses};
use e2e::fleet::{Fleet, KEY, Shape};
use e2e::product::Product;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const APIS: usize = 3;
/// Requests a second, over all of them, about: a connection sends the next one when it has the answer. `RATE` changes it.
const RATE: usize = 2000;
/// Of each. One sends a request now and then, as the clients of an API do, and not one upon the other.
const CONNECTIONS: usize = 32;
/// What an answer takes, about: the rest of the time between two requests a connection waits.
const ANSWER_MS: usize = 10;
/// Not measured: brokers and database are slow at first. What the very first switch of all takes is told beside.
const WARM_UP: Duration = Duration::from_secs(30);
const UNMEASURED: usize = 4;
const OPEN_WITHIN: Duration = Duration::from_secs(60);

pub async fn of_switches(switches: usize) -> Result<()> {
    let fleet = Fleet::start(Shape { apis: APIS, workers: 1, direct: true, ..Shape::default() }).await?;
    let room = Room::new("wrk")?;
    let rate = std::env::var("RATE").ok().map_or(Ok(RATE), |rate| rate.parse())?;
    let between = (APIS * CONNECTIONS * 1000 / rate).saturating_sub(ANSWER_MS);
    let mut clients = Vec::new();
    for (number, api) in fleet.kubelet.of("api").iter().enumerate() {
        let name = format!("wrk-{number}");
        let mut command = wrk_command(&api.url, 1, CONNECTIONS, 3600);
        command.env("NAME", &name).env("KEY", KEY).env("PAUSE_MS", between.to_string());
        clients.push(Product::start(&name, &room, command)?);
    }
    sleep(WARM_UP).await;
    let (mut opened, mut read) = (Vec::new(), Vec::new());
    let (mut before, mut busy): (Vec<Vec<f64>>, _) = (Vec::new(), (0, 0));
    for number in 0..UNMEASURED + switches {
        if number == UNMEASURED {
            (opened, read) = (Vec::new(), Vec::new());
            (before, busy) = (said(&fleet), processors()?);
        }
        let target = if number % 2 == 0 { "right" } else { "left" };
        let begun = Instant::now();
        fleet.ask_for(target).await?;
        fleet.until("the switch is open", OPEN_WITHIN, |state| *state.newest().backend == *target).await?;
        opened.push(begun.elapsed().as_secs_f64() * 1000.0);
        let begun = Instant::now();
        fleet.settled_on(target, OPEN_WITHIN).await?;
        read.push(begun.elapsed().as_secs_f64() * 1000.0);
        // No beat of anything's may meet that of the switches.
        sleep(Duration::from_millis(rand::random_range(1500..3500))).await;
    }
    let now = processors()?;
    let very_first = before.iter().filter_map(|of_pod| of_pod.first().copied()).fold(0.0, f64::max);
    let mut each: Vec<f64> = said(&fleet).into_iter().zip(before).flat_map(|(all, before)| all[before.len()..].to_vec()).collect();
    let mut load = Load { per_second: 0.0, p99_ms: 0.0, errors: 0 };
    for mut client in clients {
        client.signal(Signal::SIGINT)?;
        client.wait(Duration::from_secs(20)).await?;
        let one = Load::read(&client.printed())?;
        load = Load { per_second: load.per_second + one.per_second, p99_ms: load.p99_ms.max(one.p99_ms), errors: load.errors + one.errors };
    }
    // Whoever has no request in so short a time has no pause.
    ensure!(each.len() <= switches * APIS && each.len() > switches, "{} pauses were told of in {switches} switches", each.len());
    let quantiles = |figures: &mut [f64]| {
        figures.sort_by(f64::total_cmp);
        let at = |q| Outcome::quantile(figures, q);
        format!("p50 {:.0}, p90 {:.0}, p99 {:.0}, most {:.0} ms", at(0.5), at(0.9), at(0.99), at(1.0))
    };
    println!(
        // Rate and refusals are those of the whole run.
        "pause: {switches} switches at {:.0} requests/s on {APIS} API processes, {} refused, processors {:.0}% busy: {}; the very first one {very_first:.0} ms; from request to open {}; from open to read {}",
        load.per_second,
        load.errors,
        100.0 * (now.0 - busy.0) as f64 / (now.1 - busy.1) as f64,
        quantiles(&mut each),
        quantiles(&mut opened),
        quantiles(&mut read)
    );
    Ok(())
}

/// The pauses that each API process has told of so far.
fn said(fleet: &Fleet) -> Vec<Vec<f64>> {
    let apis: Vec<String> = fleet.kubelet.of("api").into_iter().map(|api| api.pod).collect();
    fleet.kubelet.printed().iter().filter(|(pod, _)| apis.contains(pod)).map(|(_, printed)| pauses(printed)).collect()
}

/// Ticks of this machine's processors so far: at work, and all.
fn processors() -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<_, _>>()?;
    let all: u64 = ticks.iter().sum();
    Ok((all - ticks[3] - ticks[4], all))
}
