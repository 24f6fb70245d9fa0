//! The gate and the publisher while the pipeline moves: who waits, how long, in which order, and what is in flight meanwhile.

use super::gate::MOST_WAITING;
use super::{Brokers, Gate, NotNow, Publisher};
use crate::broker::*;
use crate::codec::attribute;
use async_trait::async_trait;
use crds::member::{AnswerKind, Pause};
use crds::switch::{self, Asked, Limits, NotAllowed, Rules, Source, SwitchState};
use futures::poll;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);

/// A broker that answers when the test says so.
struct Silent {
    name: &'static str,
    asked: Mutex<VecDeque<(Outgoing, Completion)>>,
}

impl Silent {
    fn new(name: &'static str) -> Arc<Silent> {
        Arc::new(Silent { name, asked: Mutex::default() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn answer(&self, result: PublishResult) -> Outgoing {
        let (message, completion) = self.asked.lock().unwrap().pop_front().unwrap();
        completion.done(result);
        message
    }
}

#[async_trait]
impl Broker for Silent {
    fn name(&self) -> &str {
        self.name
    }
    fn publish(&self, message: Outgoing, completion: Completion) {
        self.asked.lock().unwrap().push_back((message, completion));
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
        Err(BrokerError::Other { backend: self.name.into(), reason: "it is only written to".into() })
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
    fn purge(&self) {
        // Dropped without an answer a completion says that nobody knows.
        self.asked.lock().unwrap().clear();
    }
    async fn flush(&self, _: Duration) {}
}

struct Scene {
    gate: Arc<Gate>,
    state: Mutex<Arc<SwitchState>>,
    a: Arc<Silent>,
    b: Arc<Silent>,
    publisher: Publisher,
}

impl Scene {
    fn new() -> Scene {
        let state = Arc::new(SwitchState::first("x", "A"));
        let limits = Limits { purge_after: Duration::from_millis(5), cut_off_after: Duration::MAX };
        let mut protocol = switch::Gate::new(Rules::in_force(), limits, Duration::ZERO);
        protocol.joined();
        protocol.observe(Source::Quorum, &state, Duration::ZERO);
        let gate = Gate::switched(protocol, Instant::now()).unwrap();
        let (a, b) = (Silent::new("A"), Silent::new("B"));
        let brokers: [Arc<dyn Broker>; 2] = [a.clone(), b.clone()];
        let publisher = Publisher::among(Brokers::of(brokers), a.clone(), gate.clone());
        Scene { gate, state: Mutex::new(state), a, b, publisher }
    }

    fn turn(&self, next: impl FnOnce(&SwitchState) -> Result<SwitchState, NotAllowed>) {
        let mut state = self.state.lock().unwrap();
        *state = Arc::new(next(&state).unwrap());
        assert!(self.gate.observe(Source::Quorum, &state));
    }

    fn hold(&self) {
        self.turn(|state| state.noted(Asked::by_spec("B".into(), 2)));
        self.turn(SwitchState::prepared);
        self.turn(SwitchState::held);
    }

    fn open(&self) {
        self.turn(SwitchState::opened);
    }
}

fn message(key: &str) -> Outgoing {
    Outgoing { topic: "orders".into(), target: Target::Key, key: Some(key.to_owned().into()), headers: vec![], payload: Some("{}".into()) }
}

fn position() -> Position {
    Position { partition: Partition { topic: "orders".into(), number: 0 }, offset: 0 }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn who_waits_goes_on_in_turn_and_to_the_broker_that_is_written_to_then() {
    let scene = Scene::new();
    scene.hold();
    let messages: Vec<Outgoing> = (0..100).map(|number| message(&number.to_string())).collect();
    let mut waiting: Vec<_> = messages.iter().map(|message| Box::pin(unconstrained(scene.publisher.publish(message, LONG)))).collect();
    for publish in &mut waiting {
        assert!(poll!(publish).is_pending());
    }
    assert_eq!((scene.a.asked(), scene.b.asked()), (0, 0));
    scene.open();
    // Whoever comes later stands behind, though the gate is open now.
    let last = message("last");
    let mut late = pin!(unconstrained(scene.publisher.publish(&last, LONG)));
    assert!(poll!(&mut late).is_pending());
    assert_eq!(scene.b.asked(), 0, "those who waited have not been woken yet");
    // Woken in any order whatever: the last first.
    for _ in 0..=waiting.len() {
        for publish in waiting.iter_mut().rev() {
            assert!(poll!(publish).is_pending());
        }
    }
    assert!(poll!(&mut late).is_pending());
    let asked: Vec<Outgoing> = (0..101).map(|_| scene.b.answer(Ok(position()))).collect();
    let keys: Vec<_> = asked.iter().map(|message| String::from_utf8(message.key.clone().unwrap().to_vec()).unwrap()).collect();
    let mut expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    expected.push("last".into());
    assert_eq!(keys, expected);
    let stamps = |message: &Outgoing| message.headers.iter().any(|h| &*h.name == attribute::STAMP && h.value == "x:2");
    assert!(asked.iter().all(stamps));
    assert_eq!(scene.a.asked(), 0);
    for publish in waiting {
        assert!(publish.await.is_ok());
    }
}

#[tokio::test]
async fn only_so_many_may_wait() {
    let scene = Scene::new();
    scene.hold();
    let until = soon();
    let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(unconstrained(scene.gate.pass(until)))).collect();
    for pass in &mut waiting {
        assert!(poll!(pass).is_pending());
    }
    assert_eq!(scene.gate.pass(until).await.err(), Some(NotNow::Full));
    drop(waiting.pop());
    assert!(poll!(pin!(unconstrained(scene.gate.pass(until)))).is_pending(), "who gives up makes room");
    drop(waiting);
    scene.open();
    assert!(scene.gate.pass(until).await.is_ok());
    assert_eq!(scene.gate.in_flight(), 0);
}

#[tokio::test]
async fn who_has_waited_as_long_as_it_may_is_told_so() {
    let scene = Scene::new();
    scene.hold();
    assert_eq!(scene.gate.pass(Instant::now() + Duration::from_millis(5)).await.err(), Some(NotNow::Held));
    let refused = scene.publisher.publish(&message("k"), Duration::from_millis(5)).await.unwrap_err();
    assert_eq!(
        refused,
        PublishError::Refused { reason: NotNow::Held.to_string(), retriable: true },
        "it is on no broker, and not to blame"
    );
    assert_eq!((scene.a.asked(), scene.b.asked(), scene.gate.in_flight()), (0, 0, 0));
    assert_eq!(scene.gate.answer().unwrap().kind, AnswerKind::Held);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_from_the_first_that_waits_to_the_first_that_a_broker_has_and_told_once() {
    let ms = Duration::from_millis;
    let scene = Scene::new();
    scene.hold();
    assert!(scene.gate.pass(Instant::now() + ms(100)).await.is_err(), "nobody goes on, so this is no part of a pause");
    let messages = ["one", "two", "three"].map(message);
    let [mut one, mut two, mut three] = messages.each_ref().map(|message| Box::pin(unconstrained(scene.publisher.publish(message, LONG))));
    assert!(poll!(&mut one).is_pending());
    tokio::time::advance(ms(20)).await;
    assert!(poll!(&mut two).is_pending());
    scene.open();
    tokio::time::advance(ms(10)).await;
    for _ in 0..2 {
        assert!(poll!(&mut one).is_pending());
    }
    // It waits for those before it, and not for the gate.
    assert!(poll!(&mut three).is_pending());
    for _ in 0..2 {
        assert!(poll!(&mut two).is_pending() && poll!(&mut three).is_pending());
    }
    assert_eq!((scene.b.asked(), scene.gate.paused()), (3, None));
    tokio::time::advance(ms(5)).await;
    scene.b.answer(Err(PublishError::Unknown { reason: "no answer".into() }));
    assert_eq!(scene.gate.paused(), None, "nobody knows whether it is there");
    for _ in 0..2 {
        tokio::time::advance(ms(5)).await;
        scene.b.answer(Ok(position()));
        assert_eq!(scene.gate.paused(), Some(Pause { epoch: 2, ms: 40 }));
    }
}

#[tokio::test]
async fn who_waits_is_told_at_once_when_the_process_stops() {
    let scene = Scene::new();
    scene.hold();
    let mut first = pin!(scene.gate.pass(soon()));
    let mut second = pin!(scene.gate.pass(soon()));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    scene.gate.shut();
    assert_eq!((first.await.err(), second.await.err()), (Some(NotNow::Shut), Some(NotNow::Shut)));
    scene.open();
    assert_eq!(scene.gate.pass(soon()).await.err(), Some(NotNow::Shut), "for good");
}

#[tokio::test]
async fn held_is_answered_when_nothing_is_in_flight_any_more_whoever_waits_for_its_outcome() {
    let scene = Scene::new();
    let (one, other) = (message("one"), message("other"));
    let mut kept = Box::pin(scene.publisher.publish(&one, LONG));
    let mut given_up = Box::pin(scene.publisher.publish(&other, LONG));
    assert!(poll!(&mut kept).is_pending() && poll!(&mut given_up).is_pending());
    // The caller has gone; the message is on its way all the same.
    drop(given_up);
    scene.hold();
    scene.gate.news().await;
    assert_eq!((scene.gate.answer(), scene.gate.in_flight()), (None, 2));
    scene.a.answer(Ok(position()));
    assert!(kept.await.is_ok());
    assert_eq!(scene.gate.answer(), None);
    scene.a.answer(Ok(position()));
    scene.gate.news().await;
    let answer = scene.gate.answer().unwrap();
    assert_eq!((answer.kind, answer.revision), (AnswerKind::Held, scene.state.lock().unwrap().since()));
}

#[tokio::test]
async fn what_is_given_up_is_reported_as_unknown_and_then_held_is_answered() {
    let scene = Scene::new();
    let one = message("one");
    let mut publish = Box::pin(scene.publisher.publish(&one, LONG));
    assert!(poll!(&mut publish).is_pending());
    assert_eq!(scene.gate.purge_at(), None, "nobody waits for it");
    scene.hold();
    let purge_at = scene.gate.purge_at().unwrap();
    tokio::time::sleep_until(purge_at).await;
    scene.publisher.purge();
    let Poll::Ready(Err(PublishError::Unknown { .. })) = poll!(&mut publish) else { panic!("it may have arrived") };
    assert_eq!((scene.gate.purge_at(), scene.gate.answer().unwrap().kind), (None, AnswerKind::Held));
}
