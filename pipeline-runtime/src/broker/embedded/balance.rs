//! Who of a group reads which partition. Pure: it says what happens to whom, `groups` carries it there.

use crate::broker::Partition;
use std::collections::{BTreeMap, BTreeSet};

pub type MemberId = u64;

/// A partition has one owner; one that is given back has it until the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Owned(MemberId),
    Releasing(MemberId),
}

#[derive(Default, Debug)]
pub struct Balance {
    members: BTreeMap<MemberId, BTreeSet<Partition>>,
    holds: BTreeMap<Partition, Hold>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// To be read from now on.
    pub assigned: BTreeMap<MemberId, Vec<Partition>>,
    /// To be given back; they move on at [`Balance::released`].
    pub revoked: BTreeMap<MemberId, Vec<Partition>>,
}

impl Balance {
    pub fn join(&mut self, member: MemberId, partitions: BTreeSet<Partition>) -> Moves {
        self.members.insert(member, partitions);
        self.settle()
    }

    pub fn leave(&mut self, member: MemberId) -> Moves {
        self.members.remove(&member);
        self.holds.retain(|_, hold| !matches!(hold, Hold::Owned(owner) | Hold::Releasing(owner) if *owner == member));
        self.settle()
    }

    pub fn released(&mut self, member: MemberId, partitions: &[Partition]) -> Moves {
        for partition in partitions {
            if self.holds.get(partition) == Some(&Hold::Releasing(member)) {
                self.holds.remove(partition);
            }
        }
        self.settle()
    }

    /// Whether this member may commit.
    pub fn holds(&self, member: MemberId, partition: &Partition) -> bool {
        matches!(self.holds.get(partition), Some(Hold::Owned(owner) | Hold::Releasing(owner)) if *owner == member)
    }

    fn settle(&mut self) -> Moves {
        let mut moves = Moves::default();
        for (partition, owner) in self.plan() {
            match self.holds.get(&partition) {
                None => {
                    self.holds.insert(partition.clone(), Hold::Owned(owner));
                    moves.assigned.entry(owner).or_default().push(partition);
                }
                Some(Hold::Owned(before)) if *before != owner => {
                    let before = *before;
                    self.holds.insert(partition.clone(), Hold::Releasing(before));
                    moves.revoked.entry(before).or_default().push(partition);
                }
                // It stays, or it is on its way and finds its owner when it is released.
                Some(Hold::Owned(_) | Hold::Releasing(_)) => {}
            }
        }
        moves
    }

    /// Every partition's owner as it should be: what is owned stays where it is unless somebody has two more than another.
    fn plan(&self) -> BTreeMap<Partition, MemberId> {
        let mut plan: BTreeMap<Partition, MemberId> = BTreeMap::new();
        for (partition, hold) in &self.holds {
            if let Hold::Owned(owner) = hold {
                plan.insert(partition.clone(), *owner);
            }
        }
        let all: BTreeSet<&Partition> = self.members.values().flatten().collect();
        for partition in all {
            if !plan.contains_key(partition)
                && let Some(owner) = self.least_loaded(&Loads::new(&plan), partition)
            {
                plan.insert(partition.clone(), owner);
            }
        }
        while let Some((partition, owner)) = self.one_move(&plan) {
            plan.insert(partition, owner);
        }
        plan
    }

    fn least_loaded(&self, loads: &Loads, partition: &Partition) -> Option<MemberId> {
        let readers = self.members.iter().filter(|(_, partitions)| partitions.contains(partition)).map(|(member, _)| *member);
        readers.min_by_key(|member| loads.of(*member, partition))
    }

    /// Each move makes a pair more even, so there is a last one.
    fn one_move(&self, plan: &BTreeMap<Partition, MemberId>) -> Option<(Partition, MemberId)> {
        let loads = Loads::new(plan);
        let better = plan.iter().filter_map(|(partition, owner)| {
            let least = self.least_loaded(&loads, partition)?;
            let (from, to) = (loads.of(*owner, partition), loads.of(least, partition));
            (from.0 >= to.0 + 2).then_some(((from.0 - to.0, from.1), partition, least))
        });
        better.max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1))).map(|(_, partition, least)| (partition.clone(), least))
    }
}

/// How many partitions each member has, in all and of each topic.
#[derive(Default)]
struct Loads<'a> {
    all: BTreeMap<MemberId, usize>,
    of_topic: BTreeMap<(MemberId, &'a str), usize>,
}

impl<'a> Loads<'a> {
    fn new(plan: &'a BTreeMap<Partition, MemberId>) -> Loads<'a> {
        let mut loads = Loads::default();
        for (partition, owner) in plan {
            *loads.all.entry(*owner).or_default() += 1;
            *loads.of_topic.entry((*owner, &partition.topic)).or_default() += 1;
        }
        loads
    }

    /// First all of them, then those of this topic: so each topic is spread too.
    fn of(&self, member: MemberId, partition: &Partition) -> (usize, usize) {
        let of_topic = self.of_topic.get(&(member, &*partition.topic));
        (self.all.get(&member).copied().unwrap_or(0), of_topic.copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partitions(topic: &str, count: i32) -> BTreeSet<Partition> {
        (0..count).map(|number| Partition { topic: topic.into(), number }).collect()
    }

    fn count(moves: &BTreeMap<MemberId, Vec<Partition>>, member: MemberId) -> usize {
        moves.get(&member).map_or(0, Vec::len)
    }

    #[test]
    fn the_first_gets_all_and_gives_half_to_the_second() {
        let mut balance = Balance::default();
        assert_eq!(count(&balance.join(1, partitions("t", 4)).assigned, 1), 4);
        let joined = balance.join(2, partitions("t", 4));
        assert_eq!((count(&joined.revoked, 1), joined.assigned.len()), (2, 0), "nothing moves before its release");
        let given = &joined.revoked[&1];
        assert!(balance.holds(1, &given[0]) && !balance.holds(2, &given[0]), "until the release it can be committed");
        let released = balance.released(1, given);
        assert_eq!(&released.assigned[&2], given);
        assert!(released.revoked.is_empty());
        assert_eq!(count(&balance.leave(1).assigned, 2), 2);
    }

    #[test]
    fn each_of_two_topics_is_shared() {
        let both: BTreeSet<_> = partitions("a", 2).into_iter().chain(partitions("b", 2)).collect();
        let mut balance = Balance::default();
        balance.join(1, both.clone());
        let revoked = balance.join(2, both).revoked.remove(&1).unwrap_or_default();
        let topics: BTreeSet<_> = revoked.iter().map(|partition| &*partition.topic).collect();
        assert_eq!(topics, BTreeSet::from(["a", "b"]));
    }

    proptest! {
        /// Whatever comes and goes: one owner each, no partition left over, and all even once every release has come.
        #[test]
        fn members_come_and_go(steps in prop::collection::vec((0_u64..5, prop::bool::ANY), 1..30)) {
            let mut balance = Balance::default();
            let mut pending: Vec<(MemberId, Vec<Partition>)> = vec![];
            for (member, release_first) in steps {
                if release_first && let Some((member, partitions)) = pending.pop() {
                    pending.extend(balance.released(member, &partitions).revoked);
                }
                let moves = match balance.members.contains_key(&member) {
                    true => balance.leave(member),
                    false => balance.join(member, partitions("t", 7)),
                };
                pending.extend(moves.revoked);
            }
            while let Some((member, partitions)) = pending.pop() {
                pending.extend(balance.released(member, &partitions).revoked);
            }
            let shares: Vec<usize> = balance.members.keys()
                .map(|member| balance.holds.values().filter(|hold| **hold == Hold::Owned(*member)).count())
                .collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), if shares.is_empty() { 0 } else { 7 });
            prop_assert!(shares.iter().max().unwrap_or(&0) - shares.iter().min().unwrap_or(&0) <= 1, "{:?}", shares);
        }
    }
}
