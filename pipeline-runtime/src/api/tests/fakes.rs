//! A broker that notes what it is given and fails as it is told, and a store likewise.

use crate::broker::*;
use crate::store::{Applied, Change, Claim, Expired, Order, Page, Query, Store, StoreError};
use async_trait::async_trait;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Refuses, and another attempt may help.
    Busy,
    /// Refuses everything, and knows why: nobody is there.
    Away,
    /// Refuses for good.
    Refuse,
    /// Takes the message and loses the answer.
    Silent,
    /// Takes the message and answers only when told.
    Hold,
}

pub struct FakeBroker {
    pub fault: Mutex<Fault>,
    pub attempts: AtomicUsize,
    written: Mutex<Vec<Outgoing>>,
    held: Mutex<Vec<Completion>>,
    pub arrived: Notify,
}

impl FakeBroker {
    pub fn new() -> Arc<FakeBroker> {
        Arc::new(FakeBroker {
            fault: Mutex::new(Fault::None),
            attempts: AtomicUsize::new(0),
            written: Mutex::default(),
            held: Mutex::default(),
            arrived: Notify::new(),
        })
    }
    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
    /// Every message that lies on the broker.
    pub fn written(&self) -> Vec<Outgoing> {
        self.written.lock().unwrap().clone()
    }
    /// Answers what was held.
    pub fn answer_held(&self) {
        for completion in self.held.lock().unwrap().drain(..) {
            completion.done(Ok(position()));
        }
    }
}

fn position() -> Position {
    Position { partition: Partition { topic: "orders".into(), number: 0 }, offset: 0 }
}

#[async_trait]
impl Broker for FakeBroker {
    fn name(&self) -> &str {
        "test"
    }
    fn publish(&self, message: Outgoing, completion: Completion) {
        self.attempts.fetch_add(1, SeqCst);
        let fault = *self.fault.lock().unwrap();
        let refused = |reason: &str, retriable| Err(PublishError::Refused { reason: reason.into(), retriable });
        match fault {
            Fault::Away => completion.done(refused("the cable is cut", true)),
            Fault::Busy => completion.done(refused("the queue is full", true)),
            Fault::Refuse => completion.done(refused("not this one", false)),
            Fault::None => {
                self.written.lock().unwrap().push(message);
                completion.done(Ok(position()));
            }
            Fault::Silent | Fault::Hold => {
                self.written.lock().unwrap().push(message);
                self.held.lock().unwrap().push(completion);
            }
        }
        self.arrived.notify_one();
    }
    fn known_down(&self) -> bool {
        *self.fault.lock().unwrap() == Fault::Away
    }
    async fn connected(&self) -> Result<(), BrokerError> {
        match *self.fault.lock().unwrap() {
            Fault::None => Ok(()),
            _ => Err(BrokerError::Unreachable { backend: "test".into(), reason: "the cable is cut".into() }),
        }
    }
    async fn topic(&self, _: &str) -> Result<Option<TopicFacts>, BrokerError> {
        Ok(None)
    }
    async fn ensure_topics(&self, _: &[TopicWish]) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn consumer(&self, _: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Other { backend: "test".into(), reason: "nobody reads here".into() })
    }
    async fn committed(&self, _: &str, _: &[String]) -> Result<Vec<Commit>, BrokerError> {
        Ok(vec![])
    }
    async fn starts(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(vec![])
    }
    async fn ends(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(vec![])
    }
    async fn flush(&self, _: Duration) {}
}

/// By which body, and what it was answered.
type Claimed = ([u8; 32], Option<String>);

#[derive(Default)]
pub struct FakeStore {
    pub down: AtomicBool,
    pub orders: Mutex<Vec<Order>>,
    claims: Mutex<HashMap<String, Claimed>>,
    /// Claims that were left after an unknown outcome.
    left: Mutex<HashSet<String>>,
}

impl FakeStore {
    pub fn new() -> Arc<FakeStore> {
        Arc::default()
    }
    fn up(&self) -> Result<(), StoreError> {
        match self.down.load(SeqCst) {
            true => Err(StoreError::Transient("the database is gone".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.up()
    }
    async fn apply(&self, _: &[Change]) -> Result<Vec<Applied>, StoreError> {
        Err(StoreError::Refused("the API applies nothing".into()))
    }
    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError> {
        self.up()?;
        Ok(self.orders.lock().unwrap().iter().find(|o| o.order_id == id).cloned())
    }
    async fn recent(&self, query: &Query) -> Result<Page, StoreError> {
        self.up()?;
        let orders = self.orders.lock().unwrap();
        let mut wanted: Vec<&Order> = orders.iter().rev().filter(|o| query.tenant.is_none() || o.tenant_id == query.tenant).collect();
        if let Some(after) = &query.after {
            wanted.drain(..=wanted.iter().position(|o| o.order_id == after.order_id && o.created_at == after.created_at).unwrap());
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        for order in wanted.iter().take(query.limit as usize) {
            bytes += order.items.as_ref().map_or(0, |items| items.0.len());
            if !page.is_empty() && bytes > query.max_bytes as usize {
                break;
            }
            page.push((*order).clone());
        }
        Ok(Page { more: page.len() < wanted.len(), orders: page })
    }
    async fn claim(&self, request: &str, body: [u8; 32], _: Duration) -> Result<Claim, StoreError> {
        self.up()?;
        let mut claims = self.claims.lock().unwrap();
        Ok(match claims.get(request) {
            Some((known, _)) if *known != body => Claim::OtherBody,
            Some((_, None)) if self.left.lock().unwrap().remove(request) => Claim::Ours,
            Some((_, None)) => Claim::Pending,
            Some((known, Some(answer))) => Claim::Answered { body_hash: *known, answer: answer.clone() },
            None => {
                claims.insert(request.into(), (body, None));
                Claim::Ours
            }
        })
    }
    async fn settle_claim(&self, request: &str, answer: &str) -> Result<(), StoreError> {
        self.up()?;
        if let Some(claim) = self.claims.lock().unwrap().get_mut(request) {
            claim.1 = Some(answer.into());
        }
        Ok(())
    }
    async fn release_claim(&self, request: &str) -> Result<(), StoreError> {
        self.up()?;
        self.claims.lock().unwrap().remove(request);
        Ok(())
    }
    async fn leave_claim(&self, request: &str) -> Result<(), StoreError> {
        self.left.lock().unwrap().insert(request.into());
        self.up()
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.up()
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
