//! A process that reads two brokers, one engine for each, while the pipeline moves between them.

use super::fakes::FakeStore;
use super::*;
use crate::broker::{Commit, Header, Position};
use crate::codec::attribute;
use crate::publish::{Brokers, seal};
use crate::store::StoreError;
use crate::worker::header;
use crate::worker::offsets::noted_seal;
use crds::pipeline::Producers;
use crds::switch::{self, Asked, Limits as GateLimits, NotAllowed, OpenEpoch, Outcome, Rules, Source, Stamp, SwitchState};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use tokio::sync::Semaphore;

const LINEAGE: &str = "x";
const WITHIN: Duration = Duration::from_secs(5);

/// Two brokers, A and B, and one process's gate. `scene.broker` is A.
struct Move {
    scene: Scene,
    b: Arc<FakeBroker>,
    gate: Arc<Gate>,
    state: Arc<SwitchState>,
    publisher: Publisher,
}

/// One worker process: an engine for each broker, one state for both.
struct Process {
    switching: Arc<Switching>,
    engines: Vec<Running>,
}

fn gate_at(state: &Arc<SwitchState>) -> Arc<Gate> {
    let limits = GateLimits { purge_after: Duration::from_secs(60), cut_off_after: Duration::MAX };
    let mut protocol = switch::Gate::new(Rules::in_force(), limits, Duration::ZERO);
    protocol.joined();
    protocol.observe(Source::Quorum, state, Duration::ZERO);
    Gate::switched(protocol, Instant::now()).unwrap()
}

impl Move {
    fn new(store: FakeStore) -> Move {
        Move::emitting(store, "[]")
    }

    fn emitting(store: FakeStore, emits: &str) -> Move {
        let mut scene = Scene::emitting(store, emits);
        scene.broker = FakeBroker::named("A", &TOPICS);
        scene.config.worker.as_mut().unwrap().retry.attempts = 1000;
        let b = FakeBroker::named("B", &TOPICS);
        let state = Arc::new(SwitchState::first(LINEAGE, "A"));
        let gate = gate_at(&state);
        let publisher = Move::publisher(&scene, &b, &gate);
        Move { scene, b, gate, state, publisher }
    }

    fn publisher(scene: &Scene, b: &Arc<FakeBroker>, gate: &Arc<Gate>) -> Publisher {
        let brokers: [Arc<dyn Broker>; 2] = [scene.broker.clone(), b.clone()];
        Publisher::among(Brokers::of(brokers), scene.broker.clone(), gate.clone())
    }

    fn turn(&mut self, next: Result<SwitchState, NotAllowed>) {
        self.state = Arc::new(next.unwrap());
        assert!(self.gate.observe(Source::Quorum, &self.state));
    }

    /// From now on this is written to.
    fn switch_to(&mut self, backend: &str) {
        self.turn(self.state.noted(Asked::by_spec(backend.into(), self.state.revision() + 1)));
        self.turn(self.state.prepared());
        self.turn(self.state.held());
        self.turn(self.state.opened());
    }

    fn activate(&mut self) {
        self.turn(self.state.activated(Outcome::Completed));
    }

    /// Notes of each of so many orders; number 0 places them. To the broker that is written to.
    async fn write(&self, orders: usize, numbers: std::ops::RangeInclusive<usize>) {
        for number in numbers {
            for order in 0..orders {
                self.write_one(&format!("O{order}"), number).await;
            }
        }
    }

    async fn write_one(&self, order: &str, number: usize) {
        self.publisher.publish(&self.event(order, number), WITHIN).await.unwrap();
    }

    fn event(&self, order: &str, number: usize) -> Outgoing {
        let id = format!("{order}-{number}");
        match number {
            0 => self.scene.message("Placed", order, &id, ", \"quantity\": 1"),
            _ => self.scene.message("Noted", order, &id, &format!(", \"note\": {number}")),
        }
    }

    /// The process whose gate this is.
    fn start(&self) -> Process {
        self.start_behind(&self.gate, &self.publisher)
    }

    /// Another one, which reads the state as it is now.
    fn start_anew(&self) -> Process {
        let gate = gate_at(&self.state);
        self.start_behind(&gate, &Move::publisher(&self.scene, &self.b, &gate))
    }

    fn start_behind(&self, gate: &Gate, publisher: &Publisher) -> Process {
        let switching = Switching::new(gate.states().unwrap(), Rules::in_force());
        let config = Arc::new(ArcSwap::from_pointee(self.scene.config.clone()));
        let engine = |broker: &Arc<FakeBroker>| {
            Running::start(self.scene.deps(
                config.clone(),
                self.scene.contract(),
                broker.clone(),
                publisher.clone(),
                Some(switching.clone()),
            ))
        };
        Process { engines: vec![engine(&self.scene.broker), engine(&self.b)], switching }
    }

    async fn applied(&self, count: usize) {
        eventually("all of it took effect", || self.scene.store.count() >= count).await;
        assert_eq!(self.scene.store.count(), count);
    }

    fn late(&self) -> u64 {
        self.scene.health.counters.late.get()
    }

    /// The seals that are noted with the commits of the orders' partitions.
    fn noted(&self, broker: &FakeBroker) -> Vec<Option<String>> {
        (0..4).map(|number| noted_seal(&broker.commit_of("orders", number)?.metadata)).collect()
    }
}

impl Process {
    fn drained_through(&self) -> u64 {
        self.switching.reader(|reader| reader.reports()).map_or(0, |reports| reports.drained_through)
    }

    fn has_sealed(&self, epoch: u64) -> bool {
        self.switching.reader(|reader| reader.reports()).is_some_and(|reports| reports.sealed.contains(&epoch))
    }

    async fn drained(&self, epoch: u64) {
        eventually("it is told that the epoch is drained", || self.drained_through() >= epoch).await;
    }

    async fn sealed(&self, epoch: u64) {
        eventually("it is told that the epoch is sealed", || self.has_sealed(epoch)).await;
    }

    async fn stop(self) {
        for engine in self.engines {
            engine.stop().await;
        }
    }

    async fn kill(self) {
        for engine in self.engines {
            engine.kill().await;
        }
    }
}

#[tokio::test]
async fn the_old_broker_is_read_to_its_end_before_anything_of_the_new_one_takes_effect() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(10, 0..=4).await;
    moving.switch_to("B");
    moving.write(10, 5..=9).await;
    assert_eq!((moving.scene.broker.messages("orders").len(), moving.b.messages("orders").len()), (50, 50));
    let process = moving.start();
    process.drained(1).await;
    moving.applied(50).await;
    moving.activate();
    moving.applied(100).await;
    moving.scene.assert_effects_in_order(10, 9);
    eventually("all is committed", || moving.scene.broker.drained("orders") && moving.b.drained("orders")).await;
    assert_eq!((moving.late(), moving.scene.letters(header::REASON).len()), (0, 0));
    process.stop().await;
}

#[tokio::test]
async fn a_seal_that_was_passed_is_known_after_a_crash_and_only_by_who_obeys_that_lineage() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(20, 0..=1).await;
    moving.switch_to("B");
    let process = moving.start();
    process.drained(1).await;
    assert_eq!(moving.noted(&moving.scene.broker), vec![Some(format!("{LINEAGE}:1")); 4]);
    process.kill().await;
    let calls = moving.scene.store.calls.load(SeqCst);

    let again = moving.start_anew();
    again.drained(1).await;
    again.stop().await;
    assert_eq!((moving.scene.store.calls.load(SeqCst), moving.scene.store.count()), (calls, 40), "nothing was read again");
    let notes = moving.noted(&moving.scene.broker);
    let other = SwitchState::first("y", "A");
    assert!(!switch::drained(&other, notes.iter().map(Option::as_deref)), "what another lineage noted says nothing");
}

#[tokio::test]
async fn a_straggler_behind_its_seal_takes_effect_and_is_counted() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(5, 0..=0).await;
    moving.switch_to("B");
    let process = moving.start();
    process.drained(1).await;
    moving.activate();
    moving.write(5, 2..=2).await;
    moving.applied(10).await;
    // It was on its way to A when everyone else had left: accepted by nobody, and there all the same.
    let mut straggler = moving.event("O3", 1);
    straggler.headers.push(Header { name: attribute::STAMP.into(), value: format!("{LINEAGE}:1").into() });
    moving.scene.broker.publish(straggler, Completion::new(None).0);
    moving.applied(11).await;
    assert_eq!(moving.scene.store.effects("O3"), ["O3-0", "O3-2", "O3-1"]);
    assert_eq!(moving.late(), 1);
    process.stop().await;
}

#[tokio::test]
async fn there_and_back_again_is_read_in_the_order_of_the_epochs() {
    let mut moving = Move::new(FakeStore::default());
    let process = moving.start();
    moving.write(10, 0..=2).await;
    moving.switch_to("B");
    moving.write(10, 3..=5).await;
    process.sealed(1).await;
    moving.switch_to("A");
    moving.write(10, 6..=8).await;
    process.drained(1).await;
    moving.applied(30).await;
    moving.activate();
    process.drained(2).await;
    moving.applied(60).await;
    moving.activate();
    moving.applied(90).await;
    moving.scene.assert_effects_in_order(10, 8);
    assert_eq!(moving.late(), 0);
    eventually("A is committed to its end", || moving.scene.broker.drained("orders")).await;
    process.stop().await;
}

#[tokio::test]
async fn a_topic_that_others_write_to_is_read_on_every_broker_at_any_time() {
    let mut moving = Move::new(FakeStore::default());
    let orders = moving.scene.config.topics.iter_mut().find(|topic| topic.name == "orders").unwrap();
    orders.producers = Producers::External;
    moving.write(5, 0..=0).await;
    moving.switch_to("B");
    moving.write(5, 1..=1).await;
    let process = moving.start();
    moving.applied(10).await;
    assert!(moving.state.drains(), "nobody has told that A is drained");
    assert_eq!(moving.late(), 0);
    process.stop().await;
    let sealed = |broker: &FakeBroker| broker.messages("orders").iter().any(|message| message.payload.is_none());
    assert!(!sealed(&moving.scene.broker) && !sealed(&moving.b), "no seal is written among what others write");
}

#[tokio::test]
async fn what_is_held_back_when_its_partition_goes_is_read_again_by_its_next_owner() {
    let (permits, store) = {
        let gate = Arc::new(Semaphore::new(0));
        (gate.clone(), FakeStore { gate: Some(gate), ..FakeStore::default() })
    };
    let mut moving = Move::new(store);
    let process = moving.start();
    moving.write(10, 0..=2).await;
    moving.switch_to("B");
    process.sealed(1).await;
    moving.switch_to("A");
    // Behind the seal, in the partitions that are being read: of an epoch whose turn has not come.
    moving.write(10, 3..=5).await;
    moving.scene.applying(1).await;
    moving.scene.obeyed().await;
    let partition = moving.scene.partition_on(&moving.scene.broker, "O0");
    let released = moving.scene.broker.revoke(partition.clone());
    permits.add_permits(1_000_000);
    let _ = released.await;
    moving.scene.broker.assign(partition);
    process.drained(1).await;
    moving.applied(30).await;
    moving.activate();
    process.drained(2).await;
    moving.activate();
    moving.applied(60).await;
    moving.scene.assert_effects_in_order(10, 5);
    assert_eq!(moving.late(), 0);
    process.stop().await;
}

#[tokio::test]
async fn a_broker_is_drained_when_every_partition_is_read_to_its_seal_and_not_before() {
    let stuck = Arc::new(AtomicBool::new(true));
    let fails = stuck.clone();
    let store = FakeStore::failing(move |batch| {
        let meant = batch.iter().any(|change| change.event_id == "O0-1") && fails.load(SeqCst);
        meant.then(|| StoreError::Transient("on request".into()))
    });
    let mut moving = Move::new(store);
    moving.write(10, 0..=2).await;
    moving.switch_to("B");
    let process = moving.start();
    let last = moving.scene.partition_on(&moving.scene.broker, "O0").number as usize;
    let others = |noted: &[Option<String>]| (0..4).all(|number| noted[number].is_some() == (number != last));
    eventually("the other partitions have passed their seals", || others(&moving.noted(&moving.scene.broker))).await;
    let looks = moving.scene.broker.looks.load(SeqCst);
    eventually("it is looked at twice more", || moving.scene.broker.looks.load(SeqCst) > looks + 1).await;
    assert_eq!(process.drained_through(), 0);
    let partition = Partition { topic: "orders".into(), number: ((last + 1) % 4) as i32 };
    moving.scene.broker.set_back(Commit { next: Position { partition, offset: 1 }, metadata: String::new() });
    assert!(!others(&moving.noted(&moving.scene.broker)));
    eventually("what was set back is committed once more", || others(&moving.noted(&moving.scene.broker))).await;
    stuck.store(false, SeqCst);
    process.drained(1).await;
    moving.scene.assert_effects_in_order(10, 2);
    process.stop().await;
}

#[tokio::test]
async fn a_seal_may_be_written_any_number_of_times() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(10, 0..=1).await;
    moving.switch_to("B");
    let partitions: Vec<_> = (0..4).map(|number| Partition { topic: "orders".into(), number }).collect();
    let again = async || seal(&*moving.scene.broker, Stamp { lineage: LINEAGE, epoch: 1 }, &partitions, WITHIN).await.unwrap();
    again().await;
    again().await;
    let process = moving.start();
    process.drained(1).await;
    again().await;
    eventually("the later ones are passed too", || moving.scene.broker.drained("orders")).await;
    assert_eq!(moving.noted(&moving.scene.broker), vec![Some(format!("{LINEAGE}:1")); 4]);
    assert_eq!((moving.scene.store.count(), moving.late()), (20, 0));
    assert_eq!(moving.scene.letters(header::REASON), [""; 0]);
    process.stop().await;
}

#[tokio::test]
async fn a_worker_that_knows_of_no_switch_passes_over_seals_with_an_empty_body_as_with_none() {
    let scene = Scene::new(FakeStore::default());
    scene.place("O0");
    let partition = scene.partition_of("O0");
    seal(&*scene.broker, Stamp { lineage: LINEAGE, epoch: 1 }, std::slice::from_ref(&partition), WITHIN).await.unwrap();
    let stamp = Header { name: attribute::STAMP.into(), value: format!("{LINEAGE}:1").into() };
    let target = crate::broker::Target::Partition(partition.number);
    scene.send(Outgoing { topic: "orders".into(), target, key: None, headers: vec![stamp], payload: Some("".into()) });
    scene.note("O0", 1);
    scene.run_until_drained().await;
    assert_eq!(scene.store.effects("O0"), ["O0-0", "O0-1"]);
    assert_eq!(scene.letters(header::REASON), [""; 0]);
    assert_eq!(scene.health.counters.passed_over.get(), 2);
}

#[tokio::test]
async fn a_seal_with_an_empty_body_ends_its_epoch_as_one_with_none() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(4, 0..=0).await;
    moving.switch_to("B");
    for number in 0..4 {
        let stamp = Header { name: attribute::STAMP.into(), value: format!("{LINEAGE}:1").into() };
        let target = crate::broker::Target::Partition(number);
        let empty = Outgoing { topic: "orders".into(), target, key: None, headers: vec![stamp], payload: Some("".into()) };
        moving.scene.broker.publish(empty, Completion::new(None).0);
    }
    // Known to be sealed: the worker writes none of its own.
    let sealed = moving.state.as_ref().clone().with_sealed(|epoch| epoch == 1);
    assert_eq!(sealed.epochs()[0], OpenEpoch { epoch: 1, backend: "A".into(), sealed: true });
    moving.state = Arc::new(sealed);
    let process = moving.start_anew();
    process.drained(1).await;
    assert_eq!(moving.scene.broker.messages("orders").len(), 8);
    assert_eq!((moving.scene.store.count(), moving.scene.letters(header::REASON).len()), (4, 0));
    process.stop().await;
}

#[tokio::test]
async fn a_partition_that_is_made_after_its_broker_was_sealed_is_sealed_too() {
    let mut moving = Move::new(FakeStore::default());
    moving.write(1, 0..=0).await;
    moving.switch_to("B");
    let later = (moving.scene.partition_on(&moving.scene.broker, "O0").number + 1) % 4;
    for number in (0..4).filter(|number| *number != later) {
        let stamp = Header { name: attribute::STAMP.into(), value: format!("{LINEAGE}:1").into() };
        let target = crate::broker::Target::Partition(number);
        let seal = Outgoing { topic: "orders".into(), target, key: None, headers: vec![stamp], payload: None };
        moving.scene.broker.publish(seal, Completion::new(None).0);
    }
    moving.state = Arc::new(moving.state.as_ref().clone().with_sealed(|epoch| epoch == 1));
    let process = moving.start_anew();
    process.drained(1).await;
    let seals = moving.scene.broker.messages("orders").into_iter().filter(|message| message.payload.is_none());
    assert!(seals.map(|seal| seal.at.partition.number).any(|number| number == later));
    process.stop().await;
}

#[tokio::test]
async fn dead_letters_and_emits_go_to_the_broker_that_is_written_to_while_the_other_drains() {
    let mut moving = Move::emitting(FakeStore::default(), "[{topic: shipments, type: order.placed}]");
    moving.write(3, 0..=0).await;
    moving.publisher.publish(&moving.scene.message("Placed", "bad", "bad-0", ", \"quantity\": 0"), WITHIN).await.unwrap();
    moving.switch_to("B");
    let process = moving.start();
    process.drained(1).await;
    let count = |broker: &FakeBroker, topic: &str| broker.messages(topic).iter().filter(|message| message.payload.is_some()).count();
    assert_eq!((count(&moving.scene.broker, "shipments"), count(&moving.scene.broker, "orders-dlq")), (0, 0));
    assert_eq!((count(&moving.b, "shipments"), count(&moving.b, "orders-dlq")), (3, 1));
    let letter = &moving.b.messages("orders-dlq")[0];
    assert_eq!((letter.header(header::EVENT_ID), letter.header(attribute::STAMP)), (Some(&b"bad-0"[..]), Some(&b"x:2"[..])));
    process.stop().await;
}

#[tokio::test]
async fn an_event_whose_emission_finds_no_way_to_the_new_broker_waits_and_loses_no_attempt() {
    let mut moving = Move::emitting(FakeStore::default(), "[{topic: shipments, type: order.placed}]");
    moving.scene.config.worker.as_mut().unwrap().retry.attempts = 1;
    moving.write(3, 0..=0).await;
    moving.switch_to("B");
    // Its Secret comes late.
    let (tries, b) = (Arc::new(AtomicUsize::new(0)), moving.b.clone());
    let asked = tries.clone();
    let brokers = Brokers::new(move |name| match asked.fetch_add(1, SeqCst) {
        0..10 => Err(format!("there is no Secret for {name} yet")),
        _ => Ok(b.clone()),
    });
    let process = moving.start_behind(&moving.gate, &Publisher::among(brokers, moving.scene.broker.clone(), moving.gate.clone()));
    process.drained(1).await;
    assert!(tries.load(SeqCst) > 10);
    assert_eq!((moving.scene.broker.messages("shipments").len(), moving.b.messages("shipments").len()), (0, 3));
    assert_eq!(moving.b.messages("orders-dlq").len() + moving.scene.letters(header::REASON).len(), 0);
    process.stop().await;
}
