//! A pod's process: it joins, obeys and answers as in a cluster; behind its gate an API publishes, or a worker reads both brokers.

use super::broker::Link;
use super::cluster::{LINEAGE, Object};
use super::leader::HOLD_DEADLINE;
use super::pulse::Pulse;
use super::store::Session;
use super::{Without, World};
use crate::broker::{Broker, Outgoing, PublishResult, TopicWish};
use crate::control::{Needs, Switching, keep};
use crate::publish::{Brokers, Gate, Publisher};
use crate::worker::{self, WorkerDeps};
use arc_swap::ArcSwap;
use crds::member::{Answer, AnswerKind, MemberPod, Reports};
use crds::switch::{self, Limits, Phase, Rules, Source};
use futures::future::{join_all, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long a publish may take (the API's `publishDeadline`).
const PUBLISH_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
}

pub struct Process {
    pub name: &'static str,
    pub role: Role,
    pub pulse: Arc<Pulse>,
    /// While it serves.
    served: Mutex<Option<Served>>,
}

struct Served {
    publisher: Publisher,
    /// What it does for clients, whether they wait for it or not.
    requests: JoinSet<()>,
}

impl Process {
    pub fn new(name: &'static str, role: Role) -> Arc<Process> {
        Arc::new(Process { name, role, pulse: Arc::default(), served: Mutex::default() })
    }

    /// A request comes in. None: nobody listens. It goes on when its client hangs up, and ends without an answer when the process does.
    pub fn accept(&self, message: Outgoing) -> Option<oneshot::Receiver<PublishResult>> {
        let mut served = self.served.lock().unwrap();
        let Served { publisher, requests } = served.as_mut()?;
        while requests.try_join_next().is_some() {}
        let (answer, answered) = oneshot::channel();
        let (publisher, pulse) = (publisher.clone(), self.pulse.clone());
        requests.spawn(async move {
            pulse.awake().await;
            let result = publisher.publish(&message, PUBLISH_WITHIN).await;
            pulse.awake().await;
            let _ = answer.send(result);
        });
        Some(answered)
    }
}

/// Starts, is killed, starts again, for ever.
pub async fn live(world: Arc<World>, process: Arc<Process>) {
    loop {
        let links: Vec<Arc<Link>> = world.brokers.iter().map(|server| Link::new(server, &process.pulse)).collect();
        tokio::select! {
            biased;
            () = process.pulse.killed() => {}
            () = serve(&world, &process, &links) => {}
        }
        let served = process.served.lock().unwrap().take();
        drop(served);
        links.iter().for_each(|link| link.die());
        process.pulse.stall(Instant::now());
        world.cluster.ended(process.name);
        tracing::info!(name = process.name, "killed");
        sleep(world.dice.ms(0, 3000)).await;
    }
}

async fn serve(world: &Arc<World>, process: &Process, links: &[Arc<Link>]) {
    let pod = world.cluster.starts(process.name);
    let (seen, gate) = join(world, process, &pod).await;
    let opened: Vec<Arc<dyn Broker>> = links.iter().map(|link| link.clone() as Arc<dyn Broker>).collect();
    let publisher = Publisher::among(Brokers::of(opened.clone()), opened[0].clone(), gate.clone());
    let Some(states) = gate.states() else { return };
    let switching = Switching::new(states, Rules::in_force());
    let changed = Arc::new(Notify::new());
    if process.role == Role::Api {
        *process.served.lock().unwrap() = Some(Served { publisher: publisher.clone(), requests: JoinSet::new() });
    }
    tokio::join!(
        keep(publisher.clone(), needs(), changed.clone()),
        watch(world, process, &gate, seen),
        answer(world, process, &pod, &gate, &switching, &changed),
        read(world, process, &opened, &publisher, &switching),
    );
}

fn needs() -> Needs {
    let wish = |name: &str| TopicWish { name: name.into(), partitions: 1, replicas: None, retention: Duration::MAX, max_message_bytes: 1 };
    Needs { topics: vec![wish("orders")], ..Needs::default() }
}

/// As a pod joins: its member first, then the state.
async fn join(world: &World, process: &Process, pod: &MemberPod) -> (usize, Arc<Gate>) {
    let began = Instant::now();
    let limits = Limits { purge_after: HOLD_DEADLINE / 2, cut_off_after: Duration::MAX };
    loop {
        process.pulse.awake().await;
        let object = Object { pod: pod.clone(), answer: None, reports: None };
        if world.cluster.write_member(process.name, object).await.is_ok() {
            let mut protocol = switch::Gate::new(Rules::in_force(), limits, began.elapsed());
            protocol.joined();
            if let Ok(Some((seen, state))) = world.cluster.read().await {
                process.pulse.awake().await;
                protocol.observe(Source::Quorum, &state, began.elapsed());
                if let Some(gate) = Gate::switched(protocol, began) {
                    return (seen, gate);
                }
            }
        }
        sleep(world.dice.ms(50, 300)).await;
    }
}

/// States come late, some not at all, some twice, and the mounted file brings old ones.
async fn watch(world: &World, process: &Process, gate: &Gate, mut seen: usize) {
    let (cluster, dice) = (&world.cluster, &world.dice);
    let mut changes = cluster.changes();
    loop {
        changes.mark_unchanged();
        if seen == cluster.latest() {
            changes.changed().await;
            continue;
        }
        cluster.back().await;
        dice.travel().await;
        process.pulse.awake().await;
        let latest = cluster.latest();
        seen = if dice.chance(200) { latest } else { latest.min(seen + 1) };
        gate.observe(Source::Watch, &cluster.nth(seen));
        if dice.chance(100) {
            gate.observe(Source::File, &cluster.nth(dice.below(seen + 1)));
            gate.observe(Source::Watch, &cluster.nth(seen));
        }
    }
}

/// Writes what is new, as often as it takes.
async fn answer(world: &World, process: &Process, pod: &MemberPod, gate: &Gate, switching: &Switching, changed: &Notify) {
    let mut written = None;
    loop {
        process.pulse.awake().await;
        let wanted = (said(world.without, gate), reported(world.without, switching));
        if written.as_ref() != Some(&wanted) {
            let object = Object { pod: pod.clone(), answer: wanted.0.clone(), reports: wanted.1.clone() };
            match world.cluster.write_member(process.name, object).await {
                Ok(()) => written = Some(wanted),
                Err(_) => sleep(world.dice.ms(20, 300)).await,
            }
            continue;
        }
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = switching.told() => {}
            () = sleep(Duration::from_millis(100)), if world.without != Without::Nothing => {}
        }
    }
}

fn said(without: Without, gate: &Gate) -> Option<Answer> {
    let state = gate.states()?.borrow().clone();
    if without == Without::Settling && matches!(state.phase(), Phase::Hold { .. }) {
        return Some(Answer { lineage: LINEAGE.into(), revision: state.since(), kind: AnswerKind::Held, message: None });
    }
    gate.answer()
}

fn reported(without: Without, switching: &Switching) -> Option<Reports> {
    let reports = switching.reader(|reader| reader.reports());
    if without != Without::Draining {
        return reports;
    }
    let active = switching.states().borrow().active().epoch;
    reports.map(|reports| Reports { drained_through: active, ..reports })
}

/// A worker's engines, one for each broker. They only end when the process does.
async fn read(world: &World, process: &Process, brokers: &[Arc<dyn Broker>], publisher: &Publisher, switching: &Arc<Switching>) {
    if process.role != Role::Worker {
        return;
    }
    let health = Arc::default();
    let engines = brokers.iter().map(|broker| {
        let deps = WorkerDeps {
            config: Arc::new(ArcSwap::new(world.config.clone())),
            contract: Arc::new(ArcSwap::new(world.contract.clone())),
            codecs: Default::default(),
            broker: broker.clone(),
            publisher: publisher.clone(),
            switching: (world.without != Without::Fence).then(|| switching.clone()),
            store: Arc::new(Session { table: world.table.clone(), pulse: process.pulse.clone() }),
            health: Arc::clone(&health),
            limits: worker::Limits { messages: 40, bytes: 1 << 20, span: 60 },
            grace: Duration::from_secs(5),
        };
        worker::run(deps, pending())
    });
    let ended = join_all(engines).await;
    panic!("a worker ended: {ended:?}");
}
