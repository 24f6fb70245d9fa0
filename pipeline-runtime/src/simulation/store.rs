//! The store: what took effect, in its order. A transaction that was sent is carried out although its sender has died.

use super::dice::Dice;
use super::pulse::Pulse;
use crate::store::*;
use async_trait::async_trait;
use crds::pipeline::Effect;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// What took effect: the order and the event.
pub type Effects = Vec<(String, String)>;

pub struct Table {
    dice: Dice,
    dedupes: bool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    seen: BTreeMap<String, [u8; 32]>,
    effects: Effects,
    away_until: Option<Instant>,
}

impl Table {
    pub fn new(dice: Dice, dedupes: bool) -> Arc<Table> {
        Arc::new(Table { dice, dedupes, kept: Mutex::default() })
    }

    pub fn effects(&self) -> Effects {
        self.kept.lock().unwrap().effects.clone()
    }

    pub fn count(&self) -> usize {
        self.kept.lock().unwrap().effects.len()
    }

    pub fn away(&self, until: Instant) {
        self.kept.lock().unwrap().away_until = Some(until);
    }

    fn up(&self) -> Result<(), StoreError> {
        let away = self.kept.lock().unwrap().away_until.is_some_and(|until| Instant::now() < until);
        if away { Err(StoreError::Transient("away".into())) } else { Ok(()) }
    }

    fn carry_out(&self, batch: &[Change]) -> Vec<Applied> {
        let mut kept = self.kept.lock().unwrap();
        let mut answers = Vec::new();
        for change in batch {
            let create = change.effect == Effect::Create;
            let id = if create { format!("order {}", change.order_id) } else { change.event_id.clone() };
            let before = kept.seen.insert(id, change.content).filter(|_| self.dedupes);
            answers.push(match before {
                None => {
                    kept.effects.push((change.order_id.clone(), change.event_id.clone()));
                    Applied::Done
                }
                Some(content) if create && content != change.content => Applied::Conflict("other content".into()),
                Some(_) => Applied::Repeat,
            });
        }
        answers
    }
}

/// How one process reaches it.
pub struct Session {
    pub table: Arc<Table>,
    pub pulse: Arc<Pulse>,
}

impl Session {
    async fn small(&self) -> Result<(), StoreError> {
        self.table.dice.travel().await;
        self.pulse.awake().await;
        self.table.up()
    }
}

#[async_trait]
impl Store for Session {
    async fn migrate(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn apply(&self, batch: &[Change]) -> Result<Vec<Applied>, StoreError> {
        self.pulse.awake().await;
        self.table.up()?;
        let dice = &self.table.dice;
        let lost = |what: &str| Err(StoreError::Transient(what.into()));
        if dice.fault(20) {
            dice.travel().await;
            return lost("a deadlock");
        }
        let (there, back, answer_lost) = (dice.way(), dice.way(), dice.fault(20));
        let (done, answer) = oneshot::channel();
        let (table, batch) = (self.table.clone(), batch.to_vec());
        tokio::spawn(async move {
            sleep(there).await;
            let answers = table.carry_out(&batch);
            sleep(back).await;
            let _ = done.send(answers);
        });
        let answers = answer.await;
        self.pulse.awake().await;
        match answers {
            Ok(answers) if !answer_lost => Ok(answers),
            _ => lost("the connection broke off"),
        }
    }

    async fn order(&self, _: &str) -> Result<Option<Order>, StoreError> {
        Ok(None)
    }
    async fn recent(&self, _: &Query) -> Result<Page, StoreError> {
        Ok(Page { orders: Vec::new(), more: false })
    }
    async fn claim(&self, _: &str, _: [u8; 32], _: Duration) -> Result<Claim, StoreError> {
        self.small().await.map(|()| Claim::Ours)
    }
    async fn settle_claim(&self, _: &str, _: &str) -> Result<(), StoreError> {
        self.small().await
    }
    async fn release_claim(&self, _: &str) -> Result<(), StoreError> {
        self.small().await
    }
    async fn leave_claim(&self, _: &str) -> Result<(), StoreError> {
        self.small().await
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.small().await
    }
    /// Called at times that are left to chance: it rolls no dice.
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
