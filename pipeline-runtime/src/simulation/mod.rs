//! The whole data path while the pipeline moves from broker to broker, again and again, and everything around it fails: real gates,
//! publishers and workers, and the real coordinator, on one thread whose clock jumps from one event to the next. All that happens
//! follows from one number, so what went wrong once goes wrong again:
//!
//! `SEED=n cargo test --workspace --lib simulation -- --nocapture` runs that one again and tells what is left undone;
//! `./e2e/run simulation` runs a million (`SEEDS`), from `FIRST` on, on all cores.
//!
//! - `dice`: the randomness; `pulse`: whether a process lives, or stands still.
//! - `broker`, `store`, `cluster`: what is outside of the product, in memory, slow and unreliable.
//! - `process`, `leader`: pods and the operator, made of the product's own parts. `client`: who sends orders.
//! - `faults`: what goes wrong. `oracle`: whether it was noticed.

mod broker;
mod client;
mod cluster;
mod dice;
mod faults;
mod leader;
mod oracle;
mod process;
mod pulse;
mod store;
mod tests;

use crate::contract::Contract;
use broker::Server;
use client::Ledger;
use cluster::Cluster;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{Phase, SwitchState};
use dice::Dice;
use oracle::{Broken, Kind};
use process::{Process, Role};
use pulse::Pulse;
use std::sync::Arc;
use std::time::Duration;
use store::{Effects, Table};
use tokio::time::{Instant, sleep, timeout_at};

const TOPICS: [(&str, usize); 4] = [("orders", 3), ("orders-dlq", 1), ("shipments", 1), ("shipments-dlq", 1)];
const ORDERS: usize = 10;
const EVENTS: usize = 10;
/// When nothing fails any more all has to come to its end within so long.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is left out of the product, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// Workers know nothing of the switch.
    Fence,
    /// Pods answer Held whatever is in flight.
    Settling,
    /// The store applies what it has applied before.
    Dedupe,
    /// A worker tells that a broker is drained when it is told to drain it.
    Draining,
    /// The coordinator overlooks a pod.
    WaitForAll,
    /// Clients take an unknown outcome for a good one.
    Unknown,
}

pub struct World {
    pub dice: Dice,
    pub without: Without,
    pub config: Arc<RuntimeConfig>,
    pub contract: Arc<Contract>,
    pub brokers: [Arc<Server>; 2],
    pub table: Arc<Table>,
    pub cluster: Arc<Cluster>,
    pub ledger: Ledger,
    pub leader: Pulse,
    pub pods: Vec<Arc<Process>>,
    pub workers: Vec<Arc<Process>>,
    pub processes: Vec<Arc<Process>>,
}

/// How a run ended.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub broken: Vec<Broken>,
    pub effects: Effects,
    pub switches: Switches,
    /// In the time of the run.
    pub took: Duration,
    /// Two runs of one seed are the same run if even this is the same.
    pub last_roll: usize,
}

/// How often the pipeline moved, and how often that was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    pub opened: usize,
    pub taken_back: usize,
    /// Of those that were opened: while an older broker was still being read.
    pub while_draining: usize,
}

impl Switches {
    fn of(states: &[Arc<SwitchState>]) -> Switches {
        let mut switches = Switches::default();
        for pair in states.windows(2) {
            let opened = pair[1].newest().epoch > pair[0].newest().epoch;
            let ended = *pair[0].phase() != Phase::Steady && *pair[1].phase() == Phase::Steady;
            switches.opened += usize::from(opened);
            switches.taken_back += usize::from(ended && !opened);
            switches.while_draining += usize::from(opened && pair[0].drains());
        }
        switches
    }
}

impl World {
    fn new(seed: u64, without: Without, config: Arc<RuntimeConfig>, contract: Arc<Contract>) -> World {
        let dice = Dice::new(seed);
        let pods = vec![Process::new("api-0", Role::Api), Process::new("api-1", Role::Api)];
        let workers = vec![Process::new("worker-0", Role::Worker), Process::new("worker-1", Role::Worker)];
        World {
            brokers: ["A", "B"].map(|name| Server::new(name, dice.clone(), &TOPICS)),
            table: Table::new(dice.clone(), without != Without::Dedupe),
            cluster: Cluster::new(dice.clone(), "A"),
            ledger: Ledger::default(),
            leader: Pulse::default(),
            processes: pods.iter().chain(&workers).cloned().collect(),
            pods,
            workers,
            dice,
            without,
            config,
            contract,
        }
    }

    pub fn sent(&self, order: &str) -> bool {
        (0..ORDERS).any(|number| order == format!("O{number}"))
    }

    /// What is not at its end yet.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let state = self.cluster.state();
        if *state.phase() != Phase::Steady || state.drains() || *state.newest().backend != *self.cluster.spec() {
            left.push(format!("the switch, asked for {}: {state:?}", self.cluster.spec()));
        }
        if self.ledger.count() < ORDERS * EVENTS {
            left.push(format!("accepted: {}", self.ledger.count()));
        }
        if self.table.count() < ORDERS * EVENTS {
            left.push(format!("in the store: {}", self.table.count()));
        }
        left.extend(self.brokers.iter().flat_map(|server| server.left("orders")));
        left
    }
}

/// One run, from its beginning to its end.
async fn run(world: Arc<World>) -> Run {
    let began = Instant::now();
    tokio::spawn(leader::leaders(world.clone()));
    for server in &world.brokers {
        tokio::spawn(broker::balance(server.clone()));
    }
    for process in &world.processes {
        tokio::spawn(process::live(world.clone(), process.clone()));
    }
    for order in 0..ORDERS {
        tokio::spawn(client::send(world.clone(), format!("O{order}"), EVENTS));
    }
    tokio::spawn(faults::change_minds(world.clone()));
    faults::strike(world.clone()).await;
    world.dice.calm();
    let patience = Instant::now() + PATIENCE;
    let ended = async {
        while !world.left().is_empty() {
            sleep(Duration::from_millis(500)).await;
        }
    };
    let mut broken = Vec::new();
    if timeout_at(patience, ended).await.is_err() {
        broken.extend(world.left().into_iter().map(|what| (Kind::Stuck, what)));
    }
    broken.extend(oracle::judge(&world));
    broken.sort();
    let switches = Switches::of(&world.cluster.states());
    Run { broken, effects: world.table.effects(), switches, took: began.elapsed(), last_roll: world.dice.below(usize::MAX) }
}
