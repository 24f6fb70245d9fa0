//! What the reading thread has for the caller, in order: messages, and between them what happens to partitions.

use crate::broker::{Happening, Incoming, Partition};
use std::collections::{HashMap, HashSet, VecDeque};

#[derive(Default)]
pub(super) struct Inbox {
    entries: VecDeque<Entry>,
    /// By the caller.
    paused: HashSet<Partition>,
    /// By the reading thread, because the caller is behind.
    choked: HashSet<Partition>,
    /// Those that were paused at some time, and may be read on since.
    ever_paused: HashSet<Partition>,
    /// Messages of paused partitions that were read already. The broker is not asked for more of them, so each pause can
    /// hold at most what the inbox could.
    held: HashMap<Partition, VecDeque<Incoming>>,
    /// Of the messages in `entries`.
    bytes: usize,
    /// Offset and time of the last message of each partition. When the group is rearranged, librdkafka pauses what it reads from another
    /// thread; a message that was on its way from it just then it hands out once more afterwards (its offset alone could be another
    /// message's: of a topic that was made anew).
    last: HashMap<Partition, (i64, i64)>,
}

enum Entry {
    Told(Happening),
    Message(Incoming),
}

impl Inbox {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, message: Incoming) {
        let this = (message.at.offset, message.timestamp_ms);
        match self.last.get_mut(&message.at.partition) {
            Some(last) if *last == this => return,
            Some(last) => *last = this,
            None => _ = self.last.insert(message.at.partition.clone(), this),
        }
        self.bytes += message.size();
        self.entries.push_back(Entry::Message(message));
    }

    pub fn tell(&mut self, happening: Happening) {
        self.entries.push_back(Entry::Told(happening));
    }

    /// The next thing to tell: up to `most` messages, never past something else that happened before them.
    pub fn take(&mut self, most: usize) -> Option<Happening> {
        let mut messages = Vec::new();
        while messages.len() < most {
            match self.entries.pop_front() {
                Some(Entry::Message(message)) => {
                    self.bytes = self.bytes.saturating_sub(message.size());
                    if !self.paused.is_empty() && self.paused.contains(&message.at.partition) {
                        self.held.entry(message.at.partition.clone()).or_default().push_back(message);
                    } else {
                        messages.push(message);
                    }
                }
                Some(Entry::Told(happening)) if messages.is_empty() => return Some(happening),
                Some(told) => {
                    self.entries.push_front(told);
                    break;
                }
                None => break,
            }
        }
        (!messages.is_empty()).then_some(Happening::Messages(messages))
    }

    pub fn pause(&mut self, partitions: &[Partition]) {
        self.paused.extend(partitions.iter().cloned());
        self.ever_paused.extend(partitions.iter().cloned());
    }

    /// Of those that were ever paused, which are now, and which are read on.
    pub fn paused_and_read_on(&self) -> (Vec<Partition>, Vec<Partition>) {
        self.ever_paused.iter().cloned().partition(|partition| self.paused.contains(partition) || self.choked.contains(partition))
    }

    /// What was held goes before everything that was read since. Returns what librdkafka is to resume: one that it was not
    /// told to pause it would read again from where it began.
    pub fn resume(&mut self, partitions: &[Partition]) -> Vec<Partition> {
        let mut resumed = Vec::new();
        for partition in partitions {
            if self.paused.remove(partition) && !self.choked.contains(partition) {
                resumed.push(partition.clone());
            }
            for message in self.held.remove(partition).into_iter().flatten().rev() {
                self.bytes += message.size();
                self.entries.push_front(Entry::Message(message));
            }
        }
        resumed
    }

    /// Returns those that were not choked before.
    pub fn choke(&mut self, partitions: impl IntoIterator<Item = Partition>) -> Vec<Partition> {
        let choked: Vec<Partition> = partitions.into_iter().filter(|partition| self.choked.insert(partition.clone())).collect();
        self.ever_paused.extend(choked.iter().cloned());
        choked
    }

    pub fn is_choked(&self) -> bool {
        !self.choked.is_empty()
    }

    /// Returns what is to be read again: what the caller has paused stays so.
    pub fn unchoke(&mut self) -> Vec<Partition> {
        self.choked.drain().filter(|partition| !self.paused.contains(partition)).collect()
    }

    /// Drops the messages of partitions that are no longer this consumer's: whoever owns them now reads them again. Returns
    /// those that were ever paused; should they come back, they are not.
    pub fn forget(&mut self, partitions: &[Partition]) -> Vec<Partition> {
        self.entries.retain(|entry| match entry {
            Entry::Message(message) if partitions.contains(&message.at.partition) => {
                self.bytes = self.bytes.saturating_sub(message.size());
                false
            }
            _ => true,
        });
        let mut were_paused = Vec::new();
        for partition in partitions {
            self.held.remove(partition);
            self.last.remove(partition);
            let (paused, choked) = (self.paused.remove(partition), self.choked.remove(partition));
            if self.ever_paused.remove(partition) | paused | choked {
                were_paused.push(partition.clone());
            }
        }
        were_paused
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::broker::Position;

    fn partition(number: i32) -> Partition {
        Partition { topic: "letters".into(), number }
    }

    fn message(number: i32, offset: i64) -> Incoming {
        let at = Position { partition: partition(number), offset };
        Incoming { at, key: None, headers: vec![], payload: Some("x".into()), timestamp_ms: 0 }
    }

    fn offsets(happening: Option<Happening>) -> Vec<(i32, i64)> {
        match happening {
            Some(Happening::Messages(all)) => all.iter().map(|m| (m.at.partition.number, m.at.offset)).collect(),
            None => vec![],
            other => panic!("not messages: {other:?}"),
        }
    }

    #[test]
    fn messages_never_overtake_what_happened_before_them() {
        let mut inbox = Inbox::default();
        inbox.push(message(0, 1));
        inbox.tell(Happening::Idle);
        inbox.push(message(0, 2));
        assert_eq!(offsets(inbox.take(10)), [(0, 1)]);
        assert!(matches!(inbox.take(10), Some(Happening::Idle)));
        assert_eq!(offsets(inbox.take(10)), [(0, 2)]);
        assert!(inbox.take(10).is_none());
    }

    #[test]
    fn a_batch_is_no_larger_than_asked_for() {
        let mut inbox = Inbox::default();
        (0..5).for_each(|n| inbox.push(message(0, n)));
        assert_eq!(offsets(inbox.take(2)), [(0, 0), (0, 1)]);
        assert_eq!(offsets(inbox.take(9)), [(0, 2), (0, 3), (0, 4)]);
        assert_eq!(inbox.bytes(), 0);
    }

    #[test]
    fn a_paused_partition_waits_and_comes_back_in_order() {
        let mut inbox = Inbox::default();
        (0..4).for_each(|n| inbox.push(message(n % 2, i64::from(n))));
        inbox.pause(&[partition(0)]);
        assert_eq!(offsets(inbox.take(10)), [(1, 1), (1, 3)]);
        inbox.push(message(0, 4));
        inbox.resume(&[partition(0)]);
        assert_eq!(offsets(inbox.take(10)), [(0, 0), (0, 2), (0, 4)]);
        assert_eq!(inbox.bytes(), 0);
    }

    #[test]
    fn a_partition_that_is_gone_leaves_nothing_behind() {
        let mut inbox = Inbox::default();
        inbox.push(message(0, 1));
        inbox.push(message(1, 1));
        inbox.pause(&[partition(0)]);
        assert_eq!(offsets(inbox.take(10)), [(1, 1)]);
        inbox.push(message(0, 2));
        assert_eq!(inbox.forget(&[partition(0)]), [partition(0)]);
        assert_eq!(inbox.bytes(), 0);
        inbox.resume(&[partition(0)]);
        assert!(inbox.take(10).is_none());
    }

    #[test]
    fn a_message_that_comes_twice_in_one_assignment_is_taken_once() {
        let mut inbox = Inbox::default();
        for (number, offset) in [(0, 7), (1, 7), (0, 7), (0, 8), (1, 7), (1, 8)] {
            inbox.push(message(number, offset));
        }
        assert_eq!(offsets(inbox.take(10)), [(0, 7), (1, 7), (0, 8), (1, 8)]);
        inbox.push(message(0, 0));
        assert_eq!(offsets(inbox.take(10)), [(0, 0)], "the topic was made anew");
        inbox.forget(&[partition(0)]);
        inbox.push(message(0, 0));
        assert_eq!(offsets(inbox.take(10)), [(0, 0)], "nothing was committed, and it came back");
        assert_eq!(inbox.bytes(), 0);
    }

    #[test]
    fn a_partition_goes_on_when_nobody_has_it_paused() {
        let both = [partition(0), partition(1)];
        let mut inbox = Inbox::default();
        inbox.pause(&both[..1]);
        assert_eq!(inbox.choke(both.clone()), both);
        assert_eq!(inbox.choke(both.clone()), [], "once is enough");
        assert_eq!(inbox.unchoke(), [partition(1)], "the caller has the other one paused");
        assert_eq!(inbox.resume(&both), [partition(0)], "the other one is being read");
        inbox.pause(&both[..1]);
        inbox.choke(both.clone());
        assert_eq!(inbox.resume(&both), [], "the caller is still behind");
        assert_eq!(inbox.forget(&both[1..]), [partition(1)]);
        assert_eq!(inbox.unchoke(), [partition(0)], "the one that has gone must come back as if nothing had been");
        assert!(!inbox.is_choked());
    }

    #[test]
    fn what_was_ever_paused_is_told_again_as_it_is_now_and_read_on_when_it_goes() {
        let mut inbox = Inbox::default();
        inbox.pause(&[partition(0), partition(1)]);
        inbox.resume(&[partition(1)]);
        inbox.push(message(2, 1));
        assert_eq!(inbox.paused_and_read_on(), (vec![partition(0)], vec![partition(1)]));
        assert_eq!(inbox.forget(&[partition(1), partition(2)]), [partition(1)], "librdkafka may have missed that it was to be read on");
        assert_eq!(inbox.paused_and_read_on(), (vec![partition(0)], vec![]));
    }
}
