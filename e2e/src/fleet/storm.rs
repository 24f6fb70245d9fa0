//! Switches back and forth under load while things go wrong, and what the ledger says of it in the end.

mod adversity;

use super::{Fleet, KEY};
use crate::bed::eventually;
use crate::ledger::{self, Stored};
use crate::load::{self, Plan, Told};
use anyhow::{Context, Result, ensure};
use crds::switch::Phase;
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
    /// What may go wrong.
    pub faults: Vec<Fault>,
    pub clients: usize,
    /// What a client waits between two orders.
    pub pace: Duration,
    /// The load runs so long before the first switch: brokers and databases are slow at first.
    pub warm_up: Duration,
    pub seed: u64,
}

/// What goes wrong during a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of a pod's process.
    Kill,
    /// A pod stands still for longer than a Hold may last.
    Stop,
    /// The broker that is left answers nothing for a while, or is cut off, or answers late.
    StallSource,
    CutSource,
    SlowSource,
    /// It does not get what one pod has written just before the writes are to stop.
    Unsettled,
    /// And the one that is gone to.
    StallTarget,
    CutTarget,
    SlowTarget,
    /// Another operator has to go on.
    Operator,
    /// It is cut off from the API server for a while, or hears everything later than the pods.
    OperatorCut,
    OperatorLate,
    /// Pods come and go.
    Scale,
    /// Another switch before the first one is drained.
    Back,
    /// A pod hears everything later than the others.
    Late,
    /// The database answers nothing for a while: what was read is not applied.
    Database,
    /// Both, the database from when the late pod still writes.
    LateAndDatabase,
    /// Pods find the state of before the switch in what they mount.
    OldFile,
    /// A pod comes that hears everything later than the others, and nothing any more once it serves; what it mounts is of before the switch.
    Newcomer,
    /// A pod comes while the target is prepared; it hears everything later than the others.
    Joining,
    /// A pod is killed, and runs again before the API server hears of that; it hears everything later than the others.
    Untold,
    /// All pods have ended, and one runs again and joins before the writes are to stop; the operator does not hear of that.
    Unheard,
    /// The same, but one pod has never ended: the operator hears of it first, for it has to begin its watch anew.
    HeardAnew,
    /// Nobody is there to seal what was closed, when the way goes back already.
    Unsealed,
    /// The operator dies when the target is open, the state is deleted, and a pod stands still.
    Forgotten,
    /// A pod that is cut off from the API server is deleted by force, and goes on writing. Then the order is not promised, but that
    /// everything takes effect, once.
    CutOff,
}

/// All that must do no harm.
pub const FAULTS: [Fault; 25] = [
    Fault::Kill,
    Fault::Stop,
    Fault::StallSource,
    Fault::CutSource,
    Fault::SlowSource,
    Fault::Unsettled,
    Fault::StallTarget,
    Fault::CutTarget,
    Fault::SlowTarget,
    Fault::Operator,
    Fault::OperatorCut,
    Fault::OperatorLate,
    Fault::Scale,
    Fault::Back,
    Fault::Late,
    Fault::Database,
    Fault::LateAndDatabase,
    Fault::OldFile,
    Fault::Newcomer,
    Fault::Joining,
    Fault::Untold,
    Fault::Unheard,
    Fault::HeardAnew,
    Fault::Unsealed,
    Fault::Forgotten,
];

impl std::str::FromStr for Fault {
    type Err = anyhow::Error;

    /// By its name: `Kill`.
    fn from_str(name: &str) -> Result<Fault> {
        let found = FAULTS.into_iter().chain([Fault::CutOff]).find(|fault| format!("{fault:?}") == name);
        found.with_context(|| format!("there is no fault {name}; there are {FAULTS:?} and CutOff"))
    }
}

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
    /// From there to the state that has the target read, in milliseconds, ascending. Only where nothing goes wrong: each switch then has
    /// its time.
    pub read: Vec<f64>,
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
        let Outcome { switches, faults, orders, effects, repeats, took, pauses, opened, read, complaints } = self;
        let q = Outcome::quantile;
        write!(
            f,
            "{switches} switches, {faults} with a fault, {orders} orders, {effects} effects, {repeats} requests repeated, {took:.0?}; \
             pauses of a pod p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms ({}); from request to open p50 {:.0} ms, p99 {:.0} ms; \
             {} complaints of the ledger",
            q(pauses, 0.5),
            q(pauses, 0.99),
            q(pauses, 1.0),
            pauses.len(),
            q(opened, 0.5),
            q(opened, 0.99),
            complaints.len()
        )?;
        if !read.is_empty() {
            write!(f, "; from open to read p50 {:.0} ms, p99 {:.0} ms", q(read, 0.5), q(read, 0.99))?;
        }
        Ok(())
    }
}

/// `stored` reads what the database holds.
pub async fn storm<S: Future<Output = Result<Vec<Stored>>>>(
    fleet: &Fleet,
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
    let (mut opened, mut read, mut faults) = (Vec::new(), Vec::new(), 0);
    // A switch that does not end: no more of them, and the ledger says what became of the orders.
    let mut stuck = None;
    sleep(storm.warm_up).await;
    let mut target = "left";
    for number in 1..=storm.switches {
        target = other(target);
        let fault = (storm.fault_every > 0 && number % storm.fault_every == 0).then(|| storm.faults.choose(&mut random).copied()).flatten();
        faults += usize::from(fault.is_some());
        let begun = Instant::now();
        match fault {
            None => fleet.switch_to(target)?,
            Some(fault) => {
                let switched = adversity::switch(fleet, fault, target, &mut random).await;
                target = switched.with_context(|| format!("switch {number} to {target}: {fault:?}"))?;
            }
        }
        let there = |state: &crds::switch::SwitchState| *state.newest().backend == *target && *state.phase() == Phase::Steady;
        if let Err(error) = fleet.until("the switch is open", SWITCHED_WITHIN, there).await {
            stuck = Some(format!("switch {number} to {target}: {fault:?}: {error:#}"));
            break;
        }
        opened.push(begun.elapsed().as_secs_f64() * 1000.0);
        if storm.fault_every == 0 {
            let begun = Instant::now();
            fleet.settled_on(target, SETTLED_WITHIN).await.with_context(|| format!("switch {number} to {target}"))?;
            read.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        if number % 50 == 0 {
            println!("{number} switches, {faults} with a fault, {:.0?}", began.elapsed());
        }
        sleep(Duration::from_millis(random.random_range(0..400))).await;
    }
    stop.store(true, Ordering::Relaxed);
    let told: Vec<Told> = load.await??;
    let patience = if stuck.is_some() { SETTLED_WITHIN / 6 } else { SETTLED_WITHIN };
    let settled = fleet.settled_on(target, patience).await;
    let wanted: usize = told.iter().map(Told::accepted).sum();
    let (url, pipeline) = fleet.database();
    let effects = |stored: &[Stored]| stored.iter().map(|order| 1 + order.history.len()).sum::<usize>();
    let all = || async {
        let has = effects(&stored(url.clone(), pipeline.clone()).await?);
        ensure!(has >= wanted, "{has} of {wanted}");
        Ok(())
    };
    let _ = eventually("everything accepted is stored", patience, all).await; // what is missing is the ledger's to say
    let stored = stored(url, pipeline).await?;
    let mut complaints = ledger::faults(&told, &stored);
    complaints.extend(stuck);
    complaints.extend(settled.err().map(|error| format!("it does not settle: {error:#}")));
    let mut pauses: Vec<f64> = fleet.kubelet.printed().iter().flat_map(|(_, printed)| pauses(printed)).collect();
    pauses.sort_by(f64::total_cmp);
    opened.sort_by(f64::total_cmp);
    read.sort_by(f64::total_cmp);
    Ok(Outcome {
        switches: storm.switches,
        faults,
        orders: told.len(),
        effects: effects(&stored),
        repeats: told.iter().map(|told| told.repeats).sum(),
        took: began.elapsed(),
        pauses,
        opened,
        read,
        complaints,
    })
}

/// The pauses of writes that a pod has told of, in milliseconds.
pub fn pauses(printed: &str) -> Vec<f64> {
    let said = printed.split("writes go on after a pause of ").skip(1);
    said.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

fn other(backend: &str) -> &'static str {
    if backend == "left" { "right" } else { "left" }
}
