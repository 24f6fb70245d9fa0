use super::super::pulse::Pulse;
use super::Server;
use super::group::Inbox;
use crate::broker::*;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const HEARTBEAT: Duration = Duration::from_millis(400);

/// Reads its partitions from where it was assigned them, also when they are another's already and it does not know yet.
pub struct Reader {
    server: Arc<Server>,
    pulse: Arc<Pulse>,
    id: u64,
    inbox: Arc<Inbox>,
    options: ConsumerOptions,
    reading: Mutex<Reading>,
    beats: JoinHandle<()>,
}

#[derive(Default)]
struct Reading {
    next: BTreeMap<Partition, i64>,
    paused: BTreeSet<Partition>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Reader {
    pub fn join(server: Arc<Server>, pulse: Arc<Pulse>, options: ConsumerOptions) -> Reader {
        let (id, inbox) = server.state().group.join(options.topics.clone());
        let (heard_by, beating) = (server.clone(), pulse.clone());
        let beats = tokio::spawn(async move {
            loop {
                sleep(HEARTBEAT).await;
                beating.awake().await;
                heard_by.state().group.heard(id);
            }
        });
        Reader { server, pulse, id, inbox, options, reading: Mutex::default(), beats }
    }

    fn told(&self) -> Option<Happening> {
        let happening = self.inbox.told.lock().unwrap().pop_front()?;
        let mut reading = self.reading.lock().unwrap();
        match &happening {
            Happening::Assigned(partitions) => {
                for (partition, commit) in partitions {
                    reading.next.insert(partition.clone(), commit.as_ref().map_or(0, |commit| commit.next.offset));
                }
            }
            Happening::Revoked { partitions, .. } | Happening::Lost(partitions) => {
                for partition in partitions {
                    reading.next.remove(partition);
                    reading.paused.remove(partition);
                }
            }
            _ => {}
        }
        Some(happening)
    }

    /// Some of what lies there, so much of each partition as comes. `take` false: only whether there is any.
    fn read(&self, take: bool) -> Vec<Incoming> {
        let mut reading = self.reading.lock().unwrap();
        let Reading { next, paused } = &mut *reading;
        let state = self.server.state();
        let mut batch = Vec::new();
        for (partition, next) in next.iter_mut().filter(|(partition, _)| !paused.contains(*partition)) {
            let log = &state.topics[&*partition.topic][partition.number as usize];
            let room = self.options.batch_size - batch.len();
            let there = (log.len() as i64 - *next).max(0) as usize;
            if there == 0 || room == 0 {
                continue;
            }
            if !take {
                return vec![log[*next as usize].clone()];
            }
            let some = self.server.dice.below(there.min(room) + 1);
            batch.extend(log[*next as usize..*next as usize + some].iter().cloned());
            *next += some as i64;
        }
        batch
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&self) -> Happening {
        loop {
            self.pulse.awake().await;
            if let Some(happening) = self.told() {
                return happening;
            }
            if self.server.up().is_ok() && !self.read(false).is_empty() {
                sleep(self.server.dice.ms(0, 20)).await;
                if self.pulse.still() || !self.inbox.told.lock().unwrap().is_empty() {
                    continue;
                }
                let batch = self.read(true);
                if !batch.is_empty() {
                    return Happening::Messages(batch);
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.inbox.news.notified() => {}
                () = self.server.news.notified() => {}
                () = sleep(self.options.poll_interval) => return Happening::Idle,
            }
        }
    }

    fn pause(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.reading.lock().unwrap().paused.extend(partitions.iter().cloned());
        Ok(())
    }

    fn resume(&self, partitions: &[Partition]) -> Result<(), BrokerError> {
        self.reading.lock().unwrap().paused.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    async fn commit(&self, commits: &[Commit]) -> Result<(), BrokerError> {
        self.pulse.awake().await;
        self.server.dice.travel().await;
        self.pulse.awake().await;
        self.server.up()?;
        {
            let mut state = self.server.state();
            if let Some(commit) = commits.iter().find(|commit| !state.group.owns(self.id, &commit.next.partition)) {
                return Err(BrokerError::NotOwned { partition: commit.next.partition.clone() });
            }
            for commit in commits {
                state.commits.insert(commit.next.partition.clone(), commit.clone());
            }
        }
        if self.server.dice.fault(20) {
            pending::<()>().await;
        }
        self.server.dice.travel().await;
        Ok(())
    }

    async fn close(&self) {
        self.server.state().group.leave(self.id);
    }
}
