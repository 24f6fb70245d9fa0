use super::PATIENCE;
use crate::broker::{Broker, Commit, Consumer, ConsumerMode, ConsumerOptions, Happening, Incoming, Partition, Position};
use futures::future::select_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a poll of the cases waits.
pub const POLL: Duration = Duration::from_millis(50);

/// A consumer as a worker would drive it: it notes what it owns and has seen, and commits before it releases a partition.
pub struct Reader {
    pub consumer: Box<dyn Consumer>,
    /// What it owns, with the commit that it found there.
    pub owned: BTreeMap<Partition, Option<Commit>>,
    pub seen: Vec<Incoming>,
    /// Behind the last message seen, for what it owns.
    pub next: BTreeMap<Partition, i64>,
    pub idle: usize,
}

impl Reader {
    pub async fn open(broker: &Arc<dyn Broker>, topic: &Arc<str>, mode: ConsumerMode) -> Reader {
        Reader::with(broker, options(topic, mode)).await
    }

    pub async fn join(broker: &Arc<dyn Broker>, topic: &Arc<str>, group: &str) -> Reader {
        Reader::open(broker, topic, ConsumerMode::Group(group.into())).await
    }

    pub async fn with(broker: &Arc<dyn Broker>, options: ConsumerOptions) -> Reader {
        let consumer = broker.consumer(options).await.expect("a consumer is made");
        Reader { consumer, owned: BTreeMap::new(), seen: vec![], next: BTreeMap::new(), idle: 0 }
    }

    /// Takes note of what happened; a partition that goes is committed and released.
    pub async fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Assigned(partitions) => self.own(partitions),
            Happening::Messages(messages) => self.see(messages),
            Happening::Revoked { partitions, release } => {
                let commits: Vec<Commit> = partitions.iter().filter_map(|partition| self.commit_for(partition, "")).collect();
                self.consumer.commit(&commits).await.expect("what is being revoked can still be committed");
                self.disown(&partitions);
                drop(release);
            }
            Happening::Lost(partitions) => self.disown(&partitions),
            Happening::Idle => self.idle += 1,
            Happening::Trouble(error) => println!("trouble: {error}"),
        }
    }

    pub fn own(&mut self, partitions: Vec<(Partition, Option<Commit>)>) {
        for (partition, commit) in partitions {
            let before = self.owned.insert(partition.clone(), commit);
            assert!(before.is_none(), "{partition:?} was assigned twice without being revoked");
        }
    }

    pub fn disown(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            assert!(self.owned.remove(partition).is_some(), "{partition:?} was taken away without being assigned");
            self.next.remove(partition);
        }
    }

    fn see(&mut self, messages: Vec<Incoming>) {
        assert!(!messages.is_empty(), "a batch holds at least one message");
        for message in messages {
            let partition = &message.at.partition;
            assert!(self.owned.contains_key(partition), "a message of {partition:?}, which is not assigned");
            let before = self.next.insert(partition.clone(), message.at.offset + 1);
            assert!(before.is_none_or(|next| message.at.offset >= next), "{:?} came when {before:?} was next", message.at);
            self.seen.push(message);
        }
    }

    pub fn commit_for(&self, partition: &Partition, metadata: &str) -> Option<Commit> {
        let offset = *self.next.get(partition)?;
        Some(Commit { next: Position { partition: partition.clone(), offset }, metadata: metadata.into() })
    }

    pub async fn until(&mut self, what: &str, done: impl Fn(&Reader) -> bool) {
        drive(&mut [self], what, |readers| done(readers[0])).await;
    }

    /// Reads until so many messages have been seen in all.
    pub async fn read(&mut self, count: usize) {
        self.until(&format!("{count} messages"), |reader| reader.seen.len() >= count).await;
        assert_eq!(self.seen.len(), count, "more came than was published: {:?}", self.payloads());
    }

    pub fn payloads(&self) -> Vec<String> {
        self.seen.iter().map(payload).collect()
    }
}

pub fn payload(message: &Incoming) -> String {
    String::from_utf8(message.payload.clone().unwrap_or_default().to_vec()).expect("the case published text")
}

pub fn options(topic: &Arc<str>, mode: ConsumerMode) -> ConsumerOptions {
    ConsumerOptions { topics: vec![topic.to_string()], mode, batch_size: 500, poll_interval: POLL, prefetch_bytes: 1024 * 1024 }
}

/// Lets several readers go on side by side until what is awaited holds.
pub async fn drive(readers: &mut [&mut Reader], what: &str, done: impl Fn(&[&mut Reader]) -> bool) {
    let going = async {
        while !done(readers) {
            let (happening, index, _) = select_all(readers.iter().map(|reader| reader.consumer.next())).await;
            readers[index].take(happening).await;
        }
    };
    let in_time = timeout(PATIENCE, going).await.is_ok();
    let state: Vec<_> = readers.iter().map(|reader| (reader.owned.keys().collect::<Vec<_>>(), reader.seen.len())).collect();
    assert!(in_time, "waited {PATIENCE:?} for {what}; each reader owns and has seen: {state:?}");
}
