//! What there is in the model: pods with real gates, workers with real readers, leaders, brokers, one client that retries.

use super::Case;
use crate::member::{Answer, AnswerKind, MemberPod, PipelineMemberSpec, Role};
use crate::switch::*;
use std::sync::Arc;
use std::time::Duration;

pub const PODS: usize = 2;
pub const LINEAGE: &str = "L";
pub const BROKERS: [&str; 2] = ["a", "b"];
/// An emission of message m is message m + EMITTED.
pub const EMITTED: u8 = 8;
pub const SOON: Duration = Duration::ZERO;
/// Past every deadline and pause.
pub const LATE: Duration = Duration::from_secs(3600);
const STAMPS: [&str; 10] = ["L:0", "L:1", "L:2", "L:3", "L:4", "L:5", "L:6", "L:7", "L:8", "L:9"];

pub fn stamp(epoch: u64) -> &'static str {
    STAMPS[epoch as usize]
}

/// What a pod and its member are called.
pub fn name(pod: usize) -> Arc<str> {
    ["0", "1"][pod].into()
}

pub fn pod_of(name: &str) -> usize {
    usize::from(name != "0")
}

pub fn broker(name: &str) -> usize {
    usize::from(name != BROKERS[0])
}

/// A pod's life. A ghost runs on although its objects are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Absent,
    /// Its container has ended and will be started again.
    Down,
    Up,
    Ghost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSeen {
    pub life: Life,
    pub gate: Gate,
    /// Containers that it has had.
    pub container: u8,
}

/// A PipelineMember.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberSeen {
    pub container: u8,
    pub answer: Option<(u64, AnswerKind)>,
}

impl MemberSeen {
    fn answer(&self) -> Option<Answer> {
        self.answer.map(|(revision, kind)| Answer { lineage: LINEAGE.into(), revision, kind, message: None })
    }
}

fn said(i: usize, member: &MemberSeen) -> Arc<PipelineMemberSpec> {
    let pod = MemberPod { name: (*name(i)).into(), uid: "u".into(), container_started_at: started(member.container) };
    let (pipeline, role, answer) = ("".into(), Role::Api, member.answer());
    Arc::new(PipelineMemberSpec {
        pipeline,
        role,
        pod,
        answer,
        brokers: None,
        connected: vec![],
        reports: None,
        request: None,
        paused: None,
    })
}

/// A publish on its way. `live`: its pod still waits for the answer. `appended`: the broker has it, the answer is under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish {
    pub pod: u8,
    pub broker: u8,
    pub partition: u8,
    pub msg: u8,
    pub epoch: u64,
    pub live: bool,
    pub appended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Order { msg: u8, epoch: u64 },
    Seal { epoch: u64 },
}

/// A partition as the group reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    pub log: Vec<Entry>,
    /// Read and taken effect, not yet committed.
    pub position: u8,
    pub seals: Seals,
    pub committed: u8,
    /// What is noted with the commit: sealed through this epoch.
    pub note: Option<u64>,
    /// None: whoever comes first. That is how a group without rebalances looks from outside.
    pub owner: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub reader: Reader,
    /// Of the epoch it is sealing: the partitions that have their seal.
    pub sealing: Option<(u64, u8)>,
    /// Had in hand when its partition went to another one: takes effect later.
    pub left_over: Option<u8>,
    /// Processed, and to be emitted before its offset is complete: broker, message.
    pub emits: Option<(u8, u8)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The revision after which it listed, and whom.
    pub listing: Option<(u64, [bool; PODS])>,
    /// In its place, where leaders follow.
    pub roll: Option<Roll>,
    /// What the watch has not told it yet of members. None: it does not listen.
    pub letters: Option<Vec<(usize, Heard)>>,
    /// A write on its way, and the revision that it replaces.
    pub pending: Option<(u64, Arc<SwitchState>)>,
}

impl Leader {
    pub fn forget(&mut self) {
        (self.listing, self.roll, self.letters) = (None, None, None);
    }
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    pub worker_crashes: u8,
    pub timeouts: u8,
    pub scales: u8,
    pub ghosts: u8,
    pub aborts: u8,
    pub abandons: u8,
    pub refusals: u8,
    pub rebalances: u8,
    pub deletions: u8,
    pub stale_files: u8,
    pub leader_deaths: u8,
    /// Of a leader's watch on members. Taken up again, it tells of those that there are, one by one.
    pub breaks: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Every state that was written; a watch delivers them in order, late.
    pub history: Vec<Arc<SwitchState>>,
    /// The ConfigMap is gone.
    pub deleted: bool,
    /// What status shows.
    pub mirror: Arc<SwitchState>,
    pub pods: [PodSeen; PODS],
    pub members: [Option<MemberSeen>; PODS],
    /// How often each member was written: its resourceVersion.
    pub versions: [u64; PODS],
    pub leaders: Vec<Leader>,
    pub net: Vec<Publish>,
    pub partitions: [Vec<Partition>; 2],
    pub workers: Vec<Worker>,
    pub next: u8,
    pub waiting: bool,
    pub answered: u32,
    pub effects: Vec<u8>,
    pub refused: Vec<u64>,
    pub left: Faults,
}

impl World {
    pub fn new(case: &Case) -> World {
        let first = Arc::new(SwitchState::first(LINEAGE, BROKERS[0]));
        let pod = |life: Life| {
            let mut gate = new_gate(case);
            if life == Life::Up {
                gate.joined();
                gate.observe(Source::Quorum, &first, SOON);
            }
            PodSeen { life, gate, container: 0 }
        };
        let member = Some(MemberSeen { container: 0, answer: None });
        let partition = |number: usize| Partition {
            log: vec![],
            position: 0,
            seals: Seals::new(first.lineage(), None),
            committed: 0,
            note: None,
            owner: (case.faults.rebalances > 0).then_some(number as u8 % case.workers as u8),
        };
        let worker = Worker { reader: Reader::new(case.rules, first.clone()), sealing: None, left_over: None, emits: None };
        World {
            deleted: false,
            mirror: first.clone(),
            pods: [pod(Life::Up), pod(if case.one_pod { Life::Absent } else { Life::Up })],
            versions: [0; PODS],
            members: [member.clone(), member.filter(|_| !case.one_pod)],
            leaders: vec![Leader::default(); case.leaders],
            net: vec![],
            partitions: [(); 2].map(|()| (0..case.partitions).map(partition).collect()),
            workers: vec![worker; case.workers],
            next: 1,
            waiting: false,
            answered: 0,
            effects: vec![],
            refused: vec![],
            left: case.faults,
            history: vec![first],
        }
    }

    pub fn latest(&self) -> &Arc<SwitchState> {
        &self.history[self.history.len() - 1]
    }

    /// What a watch delivers next to one that has seen this revision.
    pub fn after(&self, revision: u64) -> Option<&Arc<SwitchState>> {
        self.history.iter().find(|state| state.revision() > revision)
    }

    pub fn revision_of(&self, pod: usize) -> Option<u64> {
        self.pods[pod].gate.state().map(|state| state.revision())
    }

    /// The pod's requests end, what is on its way may still arrive.
    pub fn orphan(&mut self, pod: usize) {
        self.net.retain(|publish| publish.pod != pod as u8 || !publish.appended);
        self.net.iter_mut().filter(|publish| publish.pod == pod as u8).for_each(|publish| publish.live = false);
    }

    pub fn has(&self, msg: u8) -> bool {
        self.effects.contains(&msg)
    }

    /// A member was written, or is gone.
    pub fn tell_of(&mut self, case: &Case, i: usize) {
        if !case.follows {
            return;
        }
        self.versions[i] += 1;
        let version = Some(self.versions[i]);
        let heard = match &self.members[i] {
            Some(member) => Heard::Wrote { object: Written { version, said: Some(said(i, member)) }, in_order: true },
            None => Heard::Left { version },
        };
        let listening = self.leaders.iter_mut().filter_map(|leader| leader.letters.as_mut());
        listening.for_each(|letters| letters.push((i, heard.clone())));
    }

    /// The members that there are, as objects.
    pub fn written(&self) -> impl Iterator<Item = (usize, Written)> {
        let members = self.members.iter().enumerate().filter_map(|(i, member)| Some((i, member.as_ref()?)));
        members.map(|(i, member)| (i, Written { version: Some(self.versions[i]), said: Some(said(i, member)) }))
    }

    /// The pod and its container as the API server says it is; or said before the container was started again.
    pub fn pod(&self, i: usize, stale: bool) -> Option<Pod> {
        let PodSeen { life, container, .. } = &self.pods[i];
        let container = match life {
            Life::Absent | Life::Ghost => return None,
            Life::Down => Container::NotRunning { ended_at: Some(ended(*container)) },
            Life::Up if stale && *container > 0 => Container::NotRunning { ended_at: Some(ended(*container - 1)) },
            Life::Up => Container::Running,
        };
        Some(Pod { uid: "u".into(), ended: false, container })
    }

    pub fn member(&self, case: &Case, i: usize, stale: bool) -> Member {
        let container = self.members[i].as_ref().map_or(0, |member| member.container);
        let member = MemberPod { name: "p".into(), uid: "u".into(), container_started_at: started(container) };
        let counts = match &self.members[i] {
            None => false,
            Some(_) if self.pods[i].life == Life::Up && !stale => true,
            Some(_) => counts(case.rules, &member, self.pod(i, stale).as_ref()),
        };
        Member { name: "p".into(), counts, answer: self.members[i].as_ref().and_then(MemberSeen::answer), reports: None }
    }

    /// As a leader knows them that follows its list. Of the workers, everything: where it is no matter, a list is made for each look.
    pub fn followed(&self, leader: usize, state: &SwitchState) -> Listing {
        let listing = self.leaders[leader].roll.as_ref().and_then(|roll| roll.listing(state));
        let Listing { after, members } = listing.unwrap_or(Listing { after: 0, members: vec![] });
        Listing { after, members: members.into_iter().chain(self.reports()).collect() }
    }

    /// The workers as members: what they report of the brokers.
    pub fn reports(&self) -> impl Iterator<Item = Member> {
        self.workers.iter().map(|worker| {
            let mut reader = worker.reader.clone();
            let active = broker(&reader.state().active().backend);
            reader.look_at_drain(self.partitions[active].iter().map(|partition| partition.note.map(stamp)));
            Member { name: "w".into(), counts: false, answer: None, reports: reader.reports() }
        })
    }
}

pub fn new_gate(case: &Case) -> Gate {
    let limits = Limits { purge_after: Duration::from_millis(500), cut_off_after: 2 * LATE };
    Gate::new(case.rules, limits, SOON)
}

fn started(container: u8) -> String {
    format!("2026-01-01T00:{container:02}:00.5Z")
}

fn ended(container: u8) -> String {
    format!("2026-01-01T00:{container:02}:30Z")
}
