//! A broker and a store in memory that fail on request. The broker has one consumer at a time; what a real one does besides
//! is the matter of the conformance suite.

use crate::broker::*;
use crate::store::*;
use async_trait::async_trait;
use crds::pipeline::Effect;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

#[derive(Default)]
pub struct FakeBroker {
    name: String,
    state: Mutex<Log>,
    news: Arc<Notify>,
    /// Topics that refuse every message: true, for good; false, only now.
    pub refuse: Mutex<HashMap<String, bool>>,
    /// The most bytes that a topic takes, which it tells nobody.
    pub limits: Mutex<HashMap<String, usize>>,
    injected: Mutex<Option<mpsc::UnboundedSender<Happening>>>,
    /// How often a consumer asked for what happens next: what was handed out before has been dealt with.
    pub polls: AtomicUsize,
    /// How often somebody wanted to know about a topic.
    pub asked: AtomicUsize,
    /// How often somebody looked what is committed.
    pub looks: AtomicUsize,
    pub me: Mutex<Option<std::sync::Weak<FakeBroker>>>,
}

#[derive(Default)]
struct Log {
    topics: HashMap<String, Vec<Vec<Incoming>>>,
    commits: HashMap<Partition, Commit>,
    owned: HashSet<Partition>,
}

impl FakeBroker {
    pub fn new(topics: &[(&str, usize)]) -> Arc<FakeBroker> {
        FakeBroker::named("fake", topics)
    }

    pub fn named(name: &str, topics: &[(&str, usize)]) -> Arc<FakeBroker> {
        let broker = Arc::new(FakeBroker { name: name.into(), ..FakeBroker::default() });
        let made = topics.iter().map(|(name, partitions)| (name.to_string(), vec![Vec::new(); *partitions]));
        broker.state.lock().unwrap().topics = made.collect();
        *broker.me.lock().unwrap() = Some(Arc::downgrade(&broker));
        broker
    }

    pub fn messages(&self, topic: &str) -> Vec<Incoming> {
        self.state.lock().unwrap().topics[topic].concat()
    }

    pub fn commit_of(&self, topic: &str, number: i32) -> Option<Commit> {
        self.state.lock().unwrap().commits.get(&Partition { topic: topic.into(), number }).cloned()
    }

    /// A commit of earlier comes behind all others.
    pub fn set_back(&self, commit: Commit) {
        self.state.lock().unwrap().commits.insert(commit.next.partition.clone(), commit);
    }

    /// Whether all of a topic is committed.
    pub fn drained(&self, topic: &str) -> bool {
        let state = self.state.lock().unwrap();
        let done = |(number, messages): (usize, &Vec<Incoming>)| {
            let commit = state.commits.get(&Partition { topic: topic.into(), number: number as i32 });
            commit.map_or(0, |commit| commit.next.offset) == messages.len() as i64
        };
        state.topics[topic].iter().enumerate().all(done)
    }

    /// Takes a partition from its consumer, as a rebalance does; resolves when it is released.
    pub fn revoke(&self, partition: Partition) -> oneshot::Receiver<()> {
        let (release, released) = oneshot::channel();
        self.inject(Happening::Revoked { partitions: vec![partition], release });
        released
    }

    pub fn inject(&self, happening: Happening) {
        self.injected.lock().unwrap().as_ref().unwrap().send(happening).unwrap();
        self.news.notify_one();
    }

    /// Gives it a partition, which it reads from where the group stopped.
    pub fn assign(&self, partition: Partition) {
        let mut state = self.state.lock().unwrap();
        state.owned.insert(partition.clone());
        let commit = state.commits.get(&partition).cloned();
        drop(state);
        self.inject(Happening::Assigned(vec![(partition, commit)]));
    }

    pub fn disown(&self, partition: &Partition) {
        self.state.lock().unwrap().owned.remove(partition);
    }
}

#[async_trait]
impl Broker for FakeBroker {
    fn name(&self) -> &str {
        &self.name
    }

    fn publish(&self, message: Outgoing, completion: Completion) {
        if let Some(for_good) = self.refuse.lock().unwrap().get(&*message.topic) {
            return completion.done(Err(PublishError::Refused { reason: "on request".into(), retriable: !for_good }));
        }
        let parts = [&message.key, &message.payload].into_iter().flatten().chain(message.headers.iter().map(|header| &header.value));
        if self.limits.lock().unwrap().get(&*message.topic).is_some_and(|most| parts.map(bytes::Bytes::len).sum::<usize>() > *most) {
            return completion.done(Err(PublishError::TooLarge { reason: "on request".into() }));
        }
        let mut state = self.state.lock().unwrap();
        let partitions = state.topics.get_mut(&*message.topic).unwrap();
        let number = match message.target {
            Target::Partition(number) => number as usize,
            Target::Key => {
                let mut hasher = DefaultHasher::new();
                message.key.hash(&mut hasher);
                (hasher.finish() % partitions.len() as u64) as usize
            }
        };
        let at = Position {
            partition: Partition { topic: message.topic.clone(), number: number as i32 },
            offset: partitions[number].len() as i64,
        };
        let Outgoing { key, headers, payload, .. } = message;
        partitions[number].push(Incoming { at: at.clone(), key, headers, payload, timestamp_ms: 1_700_000_000_000 });
        drop(state);
        self.news.notify_one();
        completion.done(Ok(at));
    }

    async fn connected(&self) -> Result<(), BrokerError> {
        Ok(())
    }
    fn known_down(&self) -> bool {
        false
    }
    async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, BrokerError> {
        self.asked.fetch_add(1, SeqCst);
        let partitions = self.state.lock().unwrap().topics.get(name).map(Vec::len);
        Ok(partitions.map(|partitions| TopicFacts { partitions: partitions as i32, max_message_bytes: None }))
    }
    async fn ensure_topics(&self, _: &[TopicWish]) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        let (sender, injected) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap();
        let mut assigned = Vec::new();
        for topic in &options.topics {
            for number in 0..state.topics[topic].len() {
                let partition = Partition { topic: topic.as_str().into(), number: number as i32 };
                let commit = state.commits.get(&partition).cloned();
                assigned.push((partition, commit));
            }
        }
        state.owned = assigned.iter().map(|(partition, _)| partition.clone()).collect();
        drop(state);
        let _ = sender.send(Happening::Assigned(assigned));
        *self.injected.lock().unwrap() = Some(sender);
        let broker = self.me.lock().unwrap().as_ref().unwrap().upgrade().unwrap();
        Ok(Box::new(FakeConsumer {
            broker,
            options,
            next: Mutex::default(),
            paused: Mutex::default(),
            injected: tokio::sync::Mutex::new(injected),
        }))
    }

    async fn committed(&self, _: &str, _: &[String]) -> Result<Vec<Commit>, BrokerError> {
        self.looks.fetch_add(1, SeqCst);
        Ok(self.state.lock().unwrap().commits.values().cloned().collect())
    }
    async fn starts(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }
    async fn ends(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }
    async fn flush(&self, _: Duration) {}
}

struct FakeConsumer {
    broker: Arc<FakeBroker>,
    options: ConsumerOptions,
    next: Mutex<HashMap<Partition, i64>>,
    paused: Mutex<HashSet<Partition>>,
    injected: tokio::sync::Mutex<mpsc::UnboundedReceiver<Happening>>,
}

impl FakeConsumer {
    fn read(&self) -> Vec<Incoming> {
        let state = self.broker.state.lock().unwrap();
        let paused = self.paused.lock().unwrap();
        let mut batch = Vec::new();
        for (partition, next) in self.next.lock().unwrap().iter_mut() {
            if paused.contains(partition) || !state.owned.contains(partition) {
                continue;
            }
            let log = &state.topics[&*partition.topic][partition.number as usize];
            let fresh = log.iter().skip(*next as usize).take(self.options.batch_size - batch.len()).cloned();
            let before = batch.len();
            batch.extend(fresh);
            *next += (batch.len() - before) as i64;
        }
        batch
    }
}

#[async_trait]
impl Consumer for FakeConsumer {
    async fn next(&self) -> Happening {
        self.broker.polls.fetch_add(1, SeqCst);
        loop {
            if let Ok(happening) = self.injected.lock().await.try_recv() {
                let mut next = self.next.lock().unwrap();
                match &happening {
                    Happening::Revoked { partitions, .. } | Happening::Lost(partitions) => {
                        next.retain(|partition, _| !partitions.contains(partition));
                        self.paused.lock().unwrap().retain(|partition| !partitions.contains(partition));
                    }
                    Happening::Assigned(partitions) => {
                        let from = |commit: &Option<Commit>| commit.as_ref().map_or(0, |commit| commit.next.offset);
                        next.extend(partitions.iter().map(|(partition, commit)| (partition.clone(), from(commit))));
                    }
                    _ => {}
                }
                return happening;
            }
            let batch = self.read();
            if !batch.is_empty() {
                return Happening::Messages(batch);
            }
            if tokio::time::timeout(self.options.poll_interval, self.broker.news.notified()).await.is_err() {
                return Happening::Idle;
            }
        }
    }

    fn pause(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.paused.lock().unwrap().extend(partitions.iter().cloned());
        Ok(())
    }
    fn resume(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.paused.lock().unwrap().retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    async fn commit(&self, commits: &[Commit]) -> Result<(), BrokerError> {
        let mut state = self.broker.state.lock().unwrap();
        for commit in commits {
            if !state.owned.contains(&commit.next.partition) {
                return Err(BrokerError::NotOwned { partition: commit.next.partition.clone() });
            }
            let before = state.commits.insert(commit.next.partition.clone(), commit.clone());
            assert!(before.is_none_or(|before| before.next.offset <= commit.next.offset), "a commit went back to {commit:?}");
        }
        Ok(())
    }

    async fn close(&self) {
        self.broker.state.lock().unwrap().owned.clear();
    }
}

type Fault = Box<dyn FnMut(&[Change]) -> Option<StoreError> + Send>;

#[derive(Default)]
pub struct FakeStore {
    pub applied: Mutex<Vec<Change>>,
    pub seen: Mutex<HashMap<String, [u8; 32]>>,
    pub fault: Mutex<Option<Fault>>,
    pub down: AtomicBool,
    /// It answers, but the table of orders is locked.
    pub locked: AtomicBool,
    /// With a gate, each apply needs a permit.
    pub gate: Option<Arc<Semaphore>>,
    /// Applies that began, also those that wait at the gate.
    pub begun: AtomicUsize,
    pub calls: AtomicUsize,
    pub largest: AtomicUsize,
}

impl FakeStore {
    pub fn failing(fault: impl FnMut(&[Change]) -> Option<StoreError> + Send + 'static) -> FakeStore {
        FakeStore { fault: Mutex::new(Some(Box::new(fault))), ..FakeStore::default() }
    }

    /// The ids of the events of an order, as they took effect.
    pub fn effects(&self, order: &str) -> Vec<String> {
        self.applied.lock().unwrap().iter().filter(|change| change.order_id == order).map(|change| change.event_id.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.applied.lock().unwrap().len()
    }

    fn up(&self) -> Result<(), StoreError> {
        if self.down.load(SeqCst) { Err(StoreError::Transient("down on request".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn apply(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        self.begun.fetch_add(1, SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.up()?;
        self.takes_changes().await?;
        self.calls.fetch_add(1, SeqCst);
        self.largest.fetch_max(batch.len(), SeqCst);
        tokio::task::yield_now().await;
        if let Some(error) = self.fault.lock().unwrap().as_mut().and_then(|fault| fault(batch)) {
            return Err(error);
        }
        let mut seen = self.seen.lock().unwrap();
        let mut applied = self.applied.lock().unwrap();
        let answers = batch.iter().map(|change| {
            let create = change.effect == Effect::Create;
            let id = if create { format!("order {}", change.order_id) } else { change.event_id.clone() };
            match seen.insert(id.clone(), change.content) {
                None => {
                    applied.push(change.clone());
                    Applied::Done
                }
                Some(content) if create && content != change.content => {
                    seen.insert(id, content);
                    Applied::Conflict("the order is there with other content".into())
                }
                Some(_) => Applied::Repeat,
            }
        });
        Ok(answers.collect())
    }

    async fn order(&self, _: &str) -> Result<Option<Order>, StoreError> {
        Ok(None)
    }
    async fn recent(&self, _: &Query) -> Result<Page, StoreError> {
        Ok(Page { orders: Vec::new(), more: false })
    }
    async fn claim(&self, _: &str, _: [u8; 32], _: Duration) -> Result<Claim, StoreError> {
        self.up().map(|()| Claim::Ours)
    }
    async fn settle_claim(&self, _: &str, _: &str) -> Result<(), StoreError> {
        self.up()
    }
    async fn release_claim(&self, _: &str) -> Result<(), StoreError> {
        self.up()
    }
    async fn leave_claim(&self, _: &str) -> Result<(), StoreError> {
        self.up()
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.up()
    }
    async fn takes_changes(&self) -> Result<(), StoreError> {
        if self.locked.load(SeqCst) { Err(StoreError::Transient("somebody has locked the orders".into())) } else { Ok(()) }
    }
    async fn tidy(&self, _: Duration) -> Result<bool, StoreError> {
        Ok(false)
    }
    async fn expired(&self, _: Duration) -> Result<Vec<Expired>, StoreError> {
        Ok(Vec::new())
    }
    async fn forget(&self, _: &[String]) -> Result<(), StoreError> {
        Ok(())
    }
}
