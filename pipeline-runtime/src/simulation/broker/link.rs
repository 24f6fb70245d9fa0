use super::super::dice::Dice;
use super::super::pulse::Pulse;
use super::Server;
use super::consumer::Reader;
use crate::broker::*;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// What the client library gives up by itself.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(6);

/// A process's client of one broker.
pub struct Link {
    server: Arc<Server>,
    pulse: Arc<Pulse>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Sent {
    dead: bool,
    last: u64,
    unanswered: BTreeMap<u64, Completion>,
}

/// What becomes of one message.
struct Fate {
    there: Option<Duration>,
    back: Option<Duration>,
    /// It arrives although its sender dies or gives it up.
    on_the_wire: bool,
}

impl Fate {
    fn of_next(dice: &Dice) -> Fate {
        let there = match dice.below(100) {
            0..6 if dice.fault(1000) => None,
            6..16 if dice.fault(1000) => Some(dice.ms(100, 5000)),
            _ => Some(dice.way()),
        };
        let back = (!dice.fault(40)).then(|| dice.way());
        Fate { there, back, on_the_wire: dice.chance(500) }
    }
}

impl Link {
    pub fn new(server: &Arc<Server>, pulse: &Arc<Pulse>) -> Arc<Link> {
        Arc::new(Link { server: server.clone(), pulse: pulse.clone(), sent: Arc::default() })
    }

    /// Its process has died. Nobody hears of what was sent.
    pub fn die(&self) {
        let unanswered = {
            let mut sent = self.sent.lock().unwrap();
            sent.dead = true;
            std::mem::take(&mut sent.unanswered)
        };
        drop(unanswered);
    }

    fn answer(sent: &Mutex<Sent>, id: u64, result: PublishResult) {
        let completion = sent.lock().unwrap().unanswered.remove(&id);
        if let Some(completion) = completion {
            completion.done(result);
        }
    }

    async fn ask(&self) -> Result<(), BrokerError> {
        self.pulse.awake().await;
        self.server.dice.travel().await;
        self.server.up()
    }
}

async fn carry(server: Arc<Server>, pulse: Arc<Pulse>, sent: Arc<Mutex<Sent>>, id: u64, message: Outgoing, fate: Fate) {
    pulse.awake().await;
    let begun = Instant::now();
    if let Some(there) = fate.there {
        sleep(there).await;
        // The client library sends it again when the broker is back.
        while let Some(back) = server.back_at() {
            sleep_until(back).await;
            server.dice.travel().await;
        }
        let cancelled = !sent.lock().unwrap().unanswered.contains_key(&id);
        if !cancelled || fate.on_the_wire {
            let at = server.append(message);
            if let Some(back) = fate.back {
                sleep(back).await;
                pulse.awake().await;
                Link::answer(&sent, id, Ok(at));
            }
        }
    }
    sleep_until(begun + MESSAGE_TIMEOUT).await;
    Link::answer(&sent, id, Err(PublishError::Unknown { reason: "no answer".into() }));
}

#[async_trait]
impl Broker for Link {
    fn name(&self) -> &str {
        self.server.name
    }

    fn publish(&self, message: Outgoing, completion: Completion) {
        let dice = &self.server.dice;
        if dice.fault(30) || (self.server.back_at().is_some() && dice.chance(500)) {
            return completion.done(Err(PublishError::Refused { reason: "on request".into(), retriable: true }));
        }
        let id = {
            let mut sent = self.sent.lock().unwrap();
            if sent.dead {
                return;
            }
            sent.last += 1;
            let id = sent.last;
            sent.unanswered.insert(id, completion);
            id
        };
        tokio::spawn(carry(self.server.clone(), self.pulse.clone(), self.sent.clone(), id, message, Fate::of_next(dice)));
    }

    async fn connected(&self) -> Result<(), BrokerError> {
        self.ask().await
    }

    fn known_down(&self) -> bool {
        false
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicFacts>, BrokerError> {
        self.ask().await?;
        let partitions = self.server.state().topics.get(name).map(Vec::len);
        Ok(partitions.map(|partitions| TopicFacts { partitions: partitions as i32, max_message_bytes: None }))
    }

    async fn ensure_topics(&self, _: &[TopicWish]) -> Result<(), BrokerError> {
        self.ask().await
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, BrokerError> {
        self.ask().await?;
        Ok(Box::new(Reader::join(self.server.clone(), self.pulse.clone(), options)))
    }

    async fn committed(&self, _: &str, topics: &[String]) -> Result<Vec<Commit>, BrokerError> {
        self.ask().await?;
        let of_these = |commit: &&Commit| topics.iter().any(|topic| **topic == *commit.next.partition.topic);
        let commits = self.server.state().commits.values().filter(of_these).cloned().collect();
        // What is heard may be old by then.
        self.server.dice.travel().await;
        self.pulse.awake().await;
        Ok(commits)
    }

    async fn starts(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }

    async fn ends(&self, _: &str) -> Result<Vec<Position>, BrokerError> {
        Ok(Vec::new())
    }

    fn purge(&self) {
        let unanswered = std::mem::take(&mut self.sent.lock().unwrap().unanswered);
        for completion in unanswered.into_values() {
            completion.done(Err(PublishError::Unknown { reason: "given up".into() }));
        }
    }

    async fn flush(&self, _: Duration) {}
}
