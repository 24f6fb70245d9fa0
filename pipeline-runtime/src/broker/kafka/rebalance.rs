//! What happens on the reading thread when partitions come and go.
//!
//! Groups use the classic protocol with the cooperative-sticky assignor: when a member comes or goes, only the partitions
//! that move are stopped. A worker's lanes hold work in hand, and draining all of them at every scaling would cost more.

use super::consumer::{Shared, list};
use super::error;
use super::link::log;
use super::topics::commits;
use crate::broker::{Commit, Happening, Partition, RELEASE_WITHIN};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How soon the group notices that a member is gone. It must be longer than what a member may take to give something away.
pub(super) const SESSION: Duration = Duration::from_secs(10);
const _: () = assert!(SESSION.as_millis() >= 2 * RELEASE_WITHIN.as_millis());
const ASK_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Membership {
    pub shared: Arc<Shared>,
    pub runtime: Handle,
}

impl ClientContext for Membership {
    /// The reading thread gets the same error from its poll, and tells it there.
    fn error(&self, _: KafkaError, _: &str) {}

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.shared.backend, level, facility, message);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, member: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assigned(member, partitions);
        } else {
            self.revoked(member, partitions);
        }
    }
}

impl Membership {
    fn assigned(&self, member: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) {
        if let Some(committed) = self.committed(member, partitions) {
            for (partition, commit) in &committed {
                let start = commit.as_ref().map_or(Offset::Beginning, |c| Offset::Offset(c.next.offset));
                self.note(partitions.set_partition_offset(&partition.topic, partition.number, start));
            }
            self.shared.owned().extend(committed.iter().map(|(p, _)| p.clone()));
            // Before the first message of them can come.
            self.shared.tell(Happening::Assigned(committed));
        }
        self.rearrange(member, || match member.rebalance_protocol() {
            RebalanceProtocol::Cooperative => member.incremental_assign(partitions),
            _ => member.assign(partitions),
        });
    }

    /// What the group has committed in these partitions. Nothing can be read without it: it says where to start, and
    /// what was noted there. So it is asked for until it comes, or until the partitions are lost or nobody wants them.
    fn committed(&self, member: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Option<Vec<(Partition, Option<Commit>)>> {
        if partitions.count() == 0 {
            return None;
        }
        while !self.shared.is_closing() && !member.assignment_lost() {
            let asked = member
                .committed_offsets(partitions.clone(), ASK_WITHIN)
                .map_err(|why| error(&self.shared.backend, "asking what the group has committed", &why))
                .and_then(|answer| commits(&self.shared.backend, &answer));
            match asked {
                Ok(committed) => return Some(committed),
                Err(why) => self.shared.tell(Happening::Trouble(why)),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    }

    fn revoked(&self, member: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let leaving: Vec<Partition> =
            partitions.elements().iter().map(|p| Partition { topic: p.topic().into(), number: p.partition() }).collect();
        let lost = member.assignment_lost();
        // What was read of them and not yet handed out is read again by the next owner.
        let mut paused = self.shared.inbox().forget(&leaving);
        let known = leaving.iter().any(|p| self.shared.owned().contains(p));
        if lost || !known || self.shared.is_closing() {
            self.give_up(&leaving);
            if lost && known {
                self.shared.tell(Happening::Lost(leaving.clone()));
            }
        } else {
            self.wait_for_release(leaving.clone());
            self.give_up(&leaving);
        }
        // Until now they could be paused and read. (Later, too, by a caller that has not heard: see `KafkaConsumer::next`.)
        paused.extend(self.shared.inbox().forget(&leaving));
        if !paused.is_empty() {
            // librdkafka would remember it if they ever came back.
            self.note(member.resume(&list(&paused)));
        }
        self.rearrange(member, || match member.rebalance_protocol() {
            RebalanceProtocol::Cooperative => member.incremental_unassign(partitions),
            _ => member.unassign(),
        });
    }

    /// Whatever librdkafka is told of a partition, to start, to stop, to pause, to read on, it numbers, hands to its own thread, and drops
    /// there if a higher number came before it. Told by two threads at once, the reading of a partition may so never begin, or never go on
    /// (librdkafka's issue 5591). So nothing is paused or read on while partitions are started and stopped, and no commit is under way,
    /// behind which it would put off starting them; and as it pauses them by itself when the group is rearranged, what it was told before
    /// is told once more.
    fn rearrange(&self, member: &BaseConsumer<Self>, change: impl FnOnce() -> KafkaResult<()>) {
        let no_commit = self.shared.owned();
        let inbox = self.shared.inbox();
        let changed = change();
        let (paused, read_on) = inbox.paused_and_read_on();
        let told = member.pause(&list(&paused)).and_then(|()| member.resume(&list(&read_on)));
        drop((inbox, no_commit));
        self.note(changed);
        self.note(told);
    }

    /// From here on no commit for them passes.
    fn give_up(&self, leaving: &[Partition]) {
        let mut owned = self.shared.owned();
        leaving.iter().for_each(|p| {
            owned.remove(p);
        });
    }

    /// Tells the worker, and waits until it has finished, dropped the message, closed, or taken too long.
    fn wait_for_release(&self, partitions: Vec<Partition>) {
        let (release, released) = oneshot::channel();
        let (ready, until_ready) = mpsc::channel::<()>();
        self.shared.tell(Happening::Revoked { partitions, release });
        self.runtime.spawn(async move {
            let _ = released.await;
            drop(ready);
        });
        let step = Duration::from_millis(100);
        for _ in 0..RELEASE_WITHIN.as_millis() / step.as_millis() {
            if self.shared.is_closing() || !matches!(until_ready.recv_timeout(step), Err(mpsc::RecvTimeoutError::Timeout)) {
                return;
            }
        }
        tracing::warn!(backend = self.shared.backend, "work on revoked partitions was not finished in time; the next owner repeats it");
    }

    fn note(&self, result: KafkaResult<()>) {
        if let Err(why) = result {
            self.shared.tell(Happening::Trouble(error(&self.shared.backend, "taking or giving partitions", &why)));
        }
    }
}
