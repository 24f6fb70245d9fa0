//! A broker: its logs and commits outlive everybody.
//!
//! - `link`: how one process reaches it. Messages, and what is said of them, take their time and get lost.
//! - `group`: who reads which partition.
//! - `consumer`: one reader.

mod consumer;
mod group;
mod link;

pub use group::balance;
pub use link::Link;

use super::dice::Dice;
use crate::broker::*;
use group::Group;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

pub struct Server {
    pub name: &'static str,
    pub dice: Dice,
    state: Mutex<State>,
    /// There are new messages.
    news: Notify,
}

#[derive(Default)]
pub struct State {
    topics: BTreeMap<String, Vec<Vec<Incoming>>>,
    commits: BTreeMap<Partition, Commit>,
    group: Group,
    away_until: Option<Instant>,
}

impl Server {
    pub fn new(name: &'static str, dice: Dice, topics: &[(&str, usize)]) -> Arc<Server> {
        let topics = topics.iter().map(|(name, partitions)| (name.to_string(), vec![Vec::new(); *partitions])).collect();
        Arc::new(Server { name, dice, state: Mutex::new(State { topics, ..State::default() }), news: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn messages(&self, topic: &str) -> Vec<Incoming> {
        self.state().topics[topic].concat()
    }

    pub fn away(&self, until: Instant) {
        self.state().away_until = Some(until);
    }

    /// Partitions go to other readers, though nobody came or went.
    pub fn shuffle(&self) {
        self.state().group.shuffles += 1;
    }

    /// What of a topic is not committed.
    pub fn left(&self, topic: &str) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        for (number, log) in state.topics[topic].iter().enumerate() {
            let partition = Partition { topic: topic.into(), number: number as i32 };
            let next = state.commits.get(&partition).map_or(0, |commit| commit.next.offset);
            if next < log.len() as i64 {
                left.push(format!("{} {topic}/{number}: {next} of {} read by {:?}", self.name, log.len(), state.group.owner(&partition)));
            }
        }
        left
    }

    fn up(&self) -> Result<(), BrokerError> {
        match self.back_at() {
            None => Ok(()),
            Some(_) => Err(BrokerError::Unreachable { backend: self.name.into(), reason: "away".into() }),
        }
    }

    fn back_at(&self) -> Option<Instant> {
        self.state().away_until.filter(|until| Instant::now() < *until)
    }

    fn append(&self, message: Outgoing) -> Position {
        let mut state = self.state();
        let partitions = state.topics.get_mut(&*message.topic).unwrap();
        let number = match message.target {
            Target::Partition(number) => number as usize,
            Target::Key => {
                let mut hasher = DefaultHasher::new();
                message.key.hash(&mut hasher);
                (hasher.finish() % partitions.len() as u64) as usize
            }
        };
        let partition = Partition { topic: message.topic, number: number as i32 };
        let at = Position { partition, offset: partitions[number].len() as i64 };
        let Outgoing { key, headers, payload, .. } = message;
        partitions[number].push(Incoming { at: at.clone(), key, headers, payload, timestamp_ms: 1_700_000_000_000 });
        drop(state);
        self.news.notify_waiters();
        at
    }
}
