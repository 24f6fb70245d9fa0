use super::Server;
use crate::broker::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Who is not heard of for so long is out.
const SESSION: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(150);

#[derive(Default)]
pub struct Group {
    last: u64,
    members: BTreeMap<u64, Member>,
    owners: BTreeMap<Partition, u64>,
    pub shuffles: usize,
}

struct Member {
    topics: Vec<String>,
    inbox: Arc<Inbox>,
    heard: Instant,
    /// It was put out, and is told when it is heard of again.
    out: bool,
}

/// What a reader is to be told.
#[derive(Default)]
pub struct Inbox {
    pub told: Mutex<VecDeque<Happening>>,
    pub news: Notify,
}

impl Inbox {
    fn tell(&self, happening: Happening) {
        tracing::debug!(?happening, "a reader is told");
        self.told.lock().unwrap().push_back(happening);
        self.news.notify_one();
    }
}

impl Group {
    pub fn join(&mut self, topics: Vec<String>) -> (u64, Arc<Inbox>) {
        self.last += 1;
        let inbox = Arc::new(Inbox::default());
        self.members.insert(self.last, Member { topics, inbox: inbox.clone(), heard: Instant::now(), out: false });
        (self.last, inbox)
    }

    pub fn leave(&mut self, id: u64) {
        self.members.remove(&id);
        self.owners.retain(|_, owner| *owner != id);
    }

    /// A heartbeat.
    pub fn heard(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.heard = Instant::now();
            member.out = false;
        }
    }

    pub fn owns(&self, id: u64, partition: &Partition) -> bool {
        self.owners.get(partition) == Some(&id)
    }

    pub fn owner(&self, partition: &Partition) -> Option<u64> {
        self.owners.get(partition).copied()
    }

    /// Puts out who was not heard of; one that only stood still learns of it later.
    fn put_out(&mut self) {
        let now = Instant::now();
        for (id, member) in &mut self.members {
            if now < member.heard + SESSION || member.out {
                continue;
            }
            member.out = true;
            let lost: Vec<Partition> =
                self.owners.iter().filter(|(_, owner)| *owner == id).map(|(partition, _)| partition.clone()).collect();
            if !lost.is_empty() {
                member.inbox.tell(Happening::Lost(lost));
            }
            self.owners.retain(|_, owner| owner != id);
        }
    }

    /// Who should read each partition.
    fn wanted(&self, partitions: &[Partition]) -> BTreeMap<Partition, u64> {
        let mut wanted = BTreeMap::new();
        for (index, partition) in partitions.iter().enumerate() {
            let reads = |member: &Member| !member.out && member.topics.iter().any(|topic| **topic == *partition.topic);
            let readers: Vec<u64> = self.members.iter().filter(|(_, member)| reads(member)).map(|(id, _)| *id).collect();
            if !readers.is_empty() {
                wanted.insert(partition.clone(), readers[(index + self.shuffles) % readers.len()]);
            }
        }
        wanted
    }
}

/// Gives the partitions to the readers, and takes them away, for ever.
pub async fn balance(server: Arc<Server>) {
    loop {
        sleep(LOOK).await;
        if server.up().is_err() {
            continue;
        }
        let (revoked, wanted) = {
            let mut state = server.state();
            state.group.put_out();
            let partitions: Vec<Partition> = state.partitions();
            let wanted = state.group.wanted(&partitions);
            (revoke(&mut state, &wanted), wanted)
        };
        for (id, release, partitions) in revoked {
            let _ = timeout(RELEASE_WITHIN, release).await;
            let mut state = server.state();
            for partition in partitions {
                if state.group.owns(id, &partition) {
                    state.group.owners.remove(&partition);
                }
            }
        }
        server.dice.travel().await;
        assign(&mut server.state(), &wanted);
    }
}

type Released = oneshot::Receiver<()>;

fn revoke(state: &mut super::State, wanted: &BTreeMap<Partition, u64>) -> Vec<(u64, Released, Vec<Partition>)> {
    let mut going: BTreeMap<u64, Vec<Partition>> = BTreeMap::new();
    for (partition, owner) in &state.group.owners {
        if wanted.get(partition) != Some(owner) {
            going.entry(*owner).or_default().push(partition.clone());
        }
    }
    let mut revoked = Vec::new();
    for (id, partitions) in going {
        let Some(member) = state.group.members.get(&id) else { continue };
        let (release, released) = oneshot::channel();
        member.inbox.tell(Happening::Revoked { partitions: partitions.clone(), release });
        revoked.push((id, released, partitions));
    }
    revoked
}

fn assign(state: &mut super::State, wanted: &BTreeMap<Partition, u64>) {
    let mut coming: BTreeMap<u64, Vec<(Partition, Option<Commit>)>> = BTreeMap::new();
    for (partition, id) in wanted {
        let here = state.group.members.get(id).is_some_and(|member| !member.out);
        if here && !state.group.owners.contains_key(partition) {
            state.group.owners.insert(partition.clone(), *id);
            coming.entry(*id).or_default().push((partition.clone(), state.commits.get(partition).cloned()));
        }
    }
    for (id, partitions) in coming {
        state.group.members[&id].inbox.tell(Happening::Assigned(partitions));
    }
}

impl super::State {
    fn partitions(&self) -> Vec<Partition> {
        let of_topic = |(name, logs): (&String, &Vec<Vec<Incoming>>)| {
            let topic: Arc<str> = name.as_str().into();
            (0..logs.len()).map(move |number| Partition { topic: topic.clone(), number: number as i32 }).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of_topic).collect()
    }
}
