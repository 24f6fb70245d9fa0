//! Switches back and forth under load while things go wrong, and what the ledger says of it in the end.

use super::{Fleet, KEY, PIPELINE};
use crate::bed::eventually;
use crate::ledger::{self, Stored};
use crate::load::{self, Plan, Told};
use crate::proxy::{Proxy, Way};
use anyhow::{Context, Result, ensure};
use crds::switch::Phase;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// However it is hindered, a switch ends within this: attempts that failed are repeated after a pause.
const SWITCHED_WITHIN: Duration = Duration::from_secs(180);
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
pub struct Storm {
    pub switches: usize,
    /// Every so many switches something goes wrong; 0: never.
    pub fault_every: usize,
    pub clients: usize,
    /// What a client waits between two orders.
    pub pace: Duration,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// kill -9 of a pod's process.
    Kill,
    /// A pod stands still for longer than a Hold may last.
    Stop,
    /// The broker that is left, or the one that is gone to, answers nothing for a while.
    Stall { target: bool },
    /// It is cut off.
    Cut { target: bool },
    /// It answers late.
    Slow { target: bool },
    /// Another operator has to go on.
    Operator,
    /// Pods come and go.
    Scale,
    /// Another switch before the first one is drained.
    Back,
}

const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::Stop,
    Fault::Stall { target: false },
    Fault::Stall { target: true },
    Fault::Cut { target: false },
    Fault::Cut { target: true },
    Fault::Slow { target: false },
    Fault::Slow { target: true },
    Fault::Operator,
    Fault::Scale,
    Fault::Back,
];

/// What came of it, for people.
#[derive(Debug)]
pub struct Outcome {
    pub switches: usize,
    pub faults: usize,
    pub orders: usize,
    pub effects: usize,
    pub repeats: usize,
    pub took: Duration,
    /// Of each pod and each switch, in milliseconds, ascending.
    pub pauses: Vec<f64>,
    /// From each request to the state that opens the target, in milliseconds, ascending.
    pub opened: Vec<f64>,
    /// What the ledger has to complain of.
    pub complaints: Vec<String>,
}

impl Outcome {
    pub fn quantile(sorted: &[f64], q: f64) -> f64 {
        let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome { switches, faults, orders, effects, repeats, took, pauses, opened, complaints } = self;
        let q = Outcome::quantile;
        write!(
            f,
            "{switches} switches, {faults} with a fault, {orders} orders, {effects} effects, {repeats} requests repeated, {took:.0?}; \
             pauses of a pod p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms ({}); from request to open p50 {:.0} ms, p99 {:.0} ms; {} complaints of the ledger",
            q(pauses, 0.5),
            q(pauses, 0.99),
            q(pauses, 1.0),
            pauses.len(),
            q(opened, 0.5),
            q(opened, 0.99),
            complaints.len()
        )
    }
}

/// `stored` reads what the database holds.
pub async fn storm<S: Future<Output = Result<Vec<Stored>>>>(
    fleet: &mut Fleet,
    storm: &Storm,
    stored: impl Fn(String, String) -> S,
) -> Result<Outcome> {
    let began = Instant::now();
    let mut random = StdRng::seed_from_u64(storm.seed);
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        urls: vec![fleet.url()],
        key: KEY.into(),
        clients: storm.clients,
        orders: usize::MAX,
        statuses: vec!["PAID".into(), "PACKED".into(), "SHIPPED".into()],
        name: format!("s{}", storm.seed),
        patience: Duration::from_secs(120),
        pace: storm.pace,
        stop: stop.clone(),
    };
    let load = tokio::spawn(load::run(plan, Arc::new(AtomicUsize::new(0))));
    let (mut opened, mut faults) = (Vec::new(), 0);
    let mut target = "left";
    for number in 1..=storm.switches {
        target = if target == "left" { "right" } else { "left" };
        let fault = (storm.fault_every > 0 && number % storm.fault_every == 0).then(|| *FAULTS.choose(&mut random).unwrap_or(&Fault::Kill));
        faults += usize::from(fault.is_some());
        let begun = Instant::now();
        fleet.switch_to(target)?;
        if let Some(fault) = fault {
            sleep(Duration::from_millis(random.random_range(0..600))).await;
            if fault == Fault::Back {
                fleet.until("the first one is open", SWITCHED_WITHIN, |state| *state.newest().backend == *target).await?;
                target = if target == "left" { "right" } else { "left" };
                fleet.switch_to(target)?;
            }
            inflict(fleet, fault, target, &mut random).await.with_context(|| format!("switch {number}: {fault:?}"))?;
        }
        let there = |state: &crds::switch::SwitchState| *state.newest().backend == *target && *state.phase() == Phase::Steady;
        fleet
            .until("the switch is open", SWITCHED_WITHIN, there)
            .await
            .with_context(|| format!("switch {number} to {target}: {fault:?}"))?;
        opened.push(begun.elapsed().as_secs_f64() * 1000.0);
        if number % 50 == 0 {
            println!("{number} switches, {faults} with a fault, {:.0?}", began.elapsed());
        }
        sleep(Duration::from_millis(random.random_range(0..400))).await;
    }
    stop.store(true, Ordering::Relaxed);
    let told: Vec<Told> = load.await??;
    fleet.settled_on(target, SETTLED_WITHIN).await?;
    let wanted: usize = told.iter().map(Told::accepted).sum();
    let (url, pipeline) = fleet.database();
    let effects = |stored: &[Stored]| stored.iter().map(|order| 1 + order.history.len()).sum::<usize>();
    let all = || async {
        let has = effects(&stored(url.clone(), pipeline.clone()).await?);
        ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", SETTLED_WITHIN, all).await; // what is missing is the ledger's to say
    let stored = stored(url, pipeline).await?;
    let mut pauses: Vec<f64> = fleet.kubelet.printed().iter().flat_map(|(_, printed)| pauses(printed)).collect();
    pauses.sort_by(f64::total_cmp);
    opened.sort_by(f64::total_cmp);
    Ok(Outcome {
        switches: storm.switches,
        faults,
        orders: told.len(),
        effects: effects(&stored),
        repeats: told.iter().map(|told| told.repeats).sum(),
        took: began.elapsed(),
        pauses,
        opened,
        complaints: ledger::faults(&told, &stored),
    })
}

/// The pauses of writes that a pod has told of, in milliseconds.
pub fn pauses(printed: &str) -> Vec<f64> {
    let said = printed.split("writes go on after a pause of ").skip(1);
    said.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

async fn inflict(fleet: &mut Fleet, fault: Fault, target: &str, random: &mut StdRng) -> Result<()> {
    let pods = fleet.kubelet.containers();
    let Some(pod) = pods.choose(random).map(|container| container.pod.clone()) else { return Ok(()) };
    let side = |of_target: bool| if of_target == (target == "left") { "left" } else { "right" };
    match fault {
        Fault::Kill => fleet.kubelet.kill(&pod),
        Fault::Stop => {
            let _ = fleet.kubelet.signal(&pod, Signal::SIGSTOP);
            sleep(Duration::from_millis(2500)).await;
            let _ = fleet.kubelet.signal(&pod, Signal::SIGCONT);
        }
        Fault::Stall { target } => disturb(fleet, side(target), Way::Stalled, 2000).await,
        Fault::Cut { target } => disturb(fleet, side(target), Way::Cut, 2000).await,
        Fault::Slow { target } => disturb(fleet, side(target), Way::Slow(Duration::from_millis(60)), 3000).await,
        Fault::Operator => fleet.replace_operator().await?,
        Fault::Scale => {
            let replicas = random.random_range(1..=3).to_string();
            fleet.kubectl(&[
                "patch",
                "op",
                PIPELINE,
                "--type=merge",
                "-p",
                &format!(r#"{{"spec":{{"api":{{"replicas":{replicas}}}}}}}"#),
            ])?;
        }
        Fault::Back => {}
    }
    Ok(())
}

async fn disturb(fleet: &Fleet, backend: &str, way: Way, for_ms: u64) {
    let proxy: &Proxy = if backend == "left" { &fleet.left.1 } else { &fleet.right.1 };
    proxy.set(way);
    sleep(Duration::from_millis(for_ms)).await;
    proxy.set(Way::Open);
}
