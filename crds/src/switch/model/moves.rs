//! What can happen in the model, and what becomes of it. What a pod, a worker or a leader does is asked of the real functions;
//! everything else is tried in every order.

use super::Case;
use super::world::*;
use crate::member::AnswerKind;
use crate::switch::*;
use stateright::{Model, Property};
use std::sync::Arc;

pub const LOST: &str = "no accepted order is lost";
pub const ORDER: &str = "order of a key";
pub const TWICE: &str = "no double effect";
pub const ENDS: &str = "switches complete, all processed";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    Create(usize),
    Start(usize),
    Join(usize),
    Read(usize, usize),
    Observe(usize),
    LookAtFile(usize, usize),
    Prepared(usize, bool),
    Answer(usize),
    Purge(usize),
    Delete(usize),
    Crash(usize),
    ForceDelete(usize),
    GhostDies(usize),
    Send(usize),
    Append(usize),
    Lose(usize),
    Accepted(usize),
    TimeOut(usize),
    Retry,
    List(usize),
    ListWithStalePods(usize),
    Listen(usize),
    Rest(usize),
    Hear(usize),
    WatchBreaks(usize),
    Lead { leader: usize, sight: Sees },
    WriteArrives(usize),
    LeaderDies(usize),
    Mirror,
    DeleteState,
    Rebuild,
    WorkerObserves(usize),
    Seal { worker: usize, epoch: u64, partition: usize },
    Process { worker: usize, broker: usize, partition: usize },
    Emit(usize),
    Commit { broker: usize, partition: usize },
    WorkerCrash(usize),
    Rebalance { broker: usize, partition: usize },
    LeftOver(usize),
}

/// With what a leader takes its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sees {
    All,
    /// The deadline is over.
    Late,
    /// Containers as they were before their last start.
    StalePods,
    /// A person has asked to go on without the rest of the drain.
    Abandon,
}

impl Model for Case {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let happened = self.begins.iter().cloned().try_fold(World::new(self), |world, action| self.next_state(&world, action));
        vec![happened.unwrap_or_else(|| panic!("{} cannot begin with {:?}", self.name, self.begins))]
    }

    fn actions(&self, s: &World, out: &mut Vec<Move>) {
        (0..PODS).for_each(|i| self.pod_moves(s, i, out));
        for (i, publish) in s.net.iter().enumerate() {
            if !publish.appended {
                out.push(Move::Append(i));
                if !publish.live {
                    out.push(Move::Lose(i));
                }
            } else if publish.live {
                out.push(Move::Accepted(i));
            }
            if publish.live && s.left.timeouts > 0 {
                out.push(Move::TimeOut(i));
            }
        }
        if s.waiting && !s.net.iter().any(|publish| publish.live && publish.msg == s.next) {
            out.push(Move::Retry);
        }
        (0..s.leaders.len()).for_each(|leader| self.leader_moves(s, leader, out));
        if s.deleted {
            out.push(Move::Rebuild);
        } else {
            if s.mirror.revision() < s.latest().revision() && self.faults.deletions > 0 {
                out.push(Move::Mirror);
            }
            if s.left.deletions > 0 {
                out.push(Move::DeleteState);
            }
        }
        (0..s.workers.len()).for_each(|worker| self.worker_moves(s, worker, out));
        for broker in 0..2 {
            for (partition, of) in s.partitions[broker].iter().enumerate() {
                if of.committed < of.position {
                    out.push(Move::Commit { broker, partition });
                }
                if s.left.rebalances > 0 {
                    out.push(Move::Rebalance { broker, partition });
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Move) -> Option<World> {
        let mut s = last.clone();
        match action {
            Move::Mirror => s.mirror = s.latest().clone(),
            Move::DeleteState => {
                s.deleted = true;
                s.left.deletions -= 1;
            }
            Move::Rebuild => {
                s.deleted = false;
                let rebuilt = SwitchState::rebuilt(&s.mirror);
                // Deleted once more before it was mirrored, it comes back as it was.
                if rebuilt != **s.latest() {
                    let obeyed = rebuilt.revision() > s.latest().revision();
                    assert!(obeyed || !self.rules.keep(Rule::MirrorBeforeNext), "it would be obeyed by nobody");
                    s.history.push(Arc::new(rebuilt));
                }
            }
            Move::Append(_) | Move::Lose(_) | Move::Accepted(_) | Move::TimeOut(_) | Move::Retry => self.on_the_way(&mut s, action)?,
            Move::List(_)
            | Move::ListWithStalePods(_)
            | Move::Listen(_)
            | Move::Rest(_)
            | Move::Hear(_)
            | Move::WatchBreaks(_)
            | Move::Lead { .. }
            | Move::WriteArrives(_)
            | Move::LeaderDies(_) => self.leader_does(&mut s, action)?,
            Move::WorkerObserves(_)
            | Move::Seal { .. }
            | Move::Process { .. }
            | Move::Emit(_)
            | Move::Commit { .. }
            | Move::WorkerCrash(_)
            | Move::Rebalance { .. }
            | Move::LeftOver(_) => self.worker_does(&mut s, action)?,
            _ => self.pod_does(&mut s, action)?,
        }
        if self.faults.deletions == 0 {
            s.mirror = s.latest().clone();
        }
        s.net.sort();
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Case>> {
        vec![
            Property::always(LOST, |case: &Case, s: &World| {
                !case.finished(s) || case.messages().all(|msg| s.answered >> msg & 1 == 0 || s.has(msg) || case.unread(s, msg))
            }),
            Property::always(ORDER, |case: &Case, s: &World| !case.ordered || case.in_order(s)),
            Property::always(TWICE, |_, s: &World| (0..s.effects.len()).all(|i| !s.effects[..i].contains(&s.effects[i]))),
            Property::always("what is refused is not opened", |_, s: &World| {
                s.refused.iter().all(|since| {
                    !s.history.windows(2).any(|pair| pair[0].since() == *since && matches!(pair[1].phase(), Phase::Hold { .. }))
                })
            }),
            // All that may happen is bounded, so every way comes to where nothing can happen any more. (The checker's own `eventually`
            // overlooks ways that meet others.)
            Property::always(ENDS, |case: &Case, s: &World| case.ended_well(s) || case.goes_on(s)),
        ]
    }
}

impl Case {
    fn messages(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.msgs
    }

    fn partition(&self, msg: u8) -> usize {
        if self.emits { usize::from(msg > EMITTED) } else { usize::from(msg) % self.partitions }
    }

    fn in_order(&self, s: &World) -> bool {
        (0..self.partitions).all(|key| {
            let of_key: Vec<u8> = s.effects.iter().copied().filter(|msg| self.partition(*msg) == key).collect();
            of_key.windows(2).all(|pair| pair[0] <= pair[1])
        })
    }

    fn finished(&self, s: &World) -> bool {
        let state = s.latest();
        let done = state.newest().epoch == 1 + u64::from(self.switches) && *state.phase() == Phase::Steady && !state.drains();
        done && !s.deleted && s.workers.iter().all(|worker| worker.reader.state().revision() == state.revision())
    }

    fn ended_well(&self, s: &World) -> bool {
        let emitted = |msg: u8| !self.emits || s.has(msg + EMITTED);
        self.finished(s) && s.next > self.msgs && self.messages().all(|msg| s.has(msg) && emitted(msg))
    }

    fn goes_on(&self, s: &World) -> bool {
        let mut moves = Vec::new();
        self.actions(s, &mut moves);
        moves.into_iter().any(|action| self.next_state(s, action).is_some())
    }

    /// It lies where it will be read.
    fn unread(&self, s: &World, msg: u8) -> bool {
        let there = |of: &Partition| {
            of.log.iter().skip(of.position as usize).any(|entry| matches!(entry, Entry::Order { msg: m, .. } if *m == msg))
        };
        (0..2).any(|b| s.workers[0].reader.reading(BROKERS[b]) != Reading::Not && s.partitions[b].iter().any(there))
    }

    /// Its pod is a worker's: it follows the pod's gate, and what it emits goes through it.
    fn worker_of(&self, pod: usize) -> Option<usize> {
        (self.emits && pod == 1).then_some(0)
    }

    fn pod_moves(&self, s: &World, i: usize, out: &mut Vec<Move>) {
        let pod = &s.pods[i];
        let serving = (0..PODS).filter(|i| s.pods[*i].life == Life::Up && s.pods[*i].gate.state().is_some()).count();
        match pod.life {
            Life::Absent if s.left.scales > 0 => out.push(Move::Create(i)),
            Life::Absent => {}
            Life::Down => out.push(Move::Start(i)),
            Life::Ghost => out.extend([Move::GhostDies(i), Move::Send(i)]),
            Life::Up => {
                let late = s.members[i].as_ref().is_none_or(|member| member.container != pod.container);
                if late {
                    out.push(Move::Join(i));
                }
                let Some(revision) = s.revision_of(i) else {
                    let stale = if self.rules.keep(Rule::QuorumRead) { s.history.len() - 1 } else { 0 };
                    let may = !s.deleted && (!late || !self.rules.keep(Rule::JoinBeforeRead));
                    out.extend((stale..s.history.len()).filter(|_| may).map(|v| Move::Read(i, v)));
                    return;
                };
                out.push(Move::Send(i));
                if revision < s.latest().revision() {
                    out.push(Move::Observe(i));
                }
                if s.left.stale_files > 0 {
                    out.extend((0..s.history.len()).filter(|v| s.history[*v].revision() < revision).map(|v| Move::LookAtFile(i, v)));
                }
                if pod.gate.to_prepare().is_some() {
                    out.push(Move::Prepared(i, true));
                    if s.left.refusals > 0 {
                        out.push(Move::Prepared(i, false));
                    }
                }
                out.push(Move::Answer(i));
                if self.purges {
                    out.push(Move::Purge(i));
                }
                if self.worker_of(i).is_some() {
                    return;
                }
                if s.left.crashes > 0 {
                    out.push(Move::Crash(i));
                }
                if s.left.scales > 0 && serving > 1 {
                    out.push(Move::Delete(i));
                }
                if s.left.ghosts > 0 && serving > 1 {
                    out.push(Move::ForceDelete(i));
                }
            }
        }
    }

    fn pod_does(&self, s: &mut World, action: Move) -> Option<()> {
        match action {
            Move::Create(i) => {
                s.pods[i] = PodSeen { life: Life::Up, gate: new_gate(self), container: 0 };
                s.left.scales -= 1;
            }
            Move::Start(i) => s.pods[i] = PodSeen { life: Life::Up, gate: new_gate(self), container: s.pods[i].container + 1 },
            Move::Join(i) => {
                s.members[i] = Some(MemberSeen { container: s.pods[i].container, answer: None });
                s.tell_of(self, i);
                s.pods[i].gate.joined();
            }
            Move::Read(i, v) => {
                let source = if v == s.history.len() - 1 { Source::Quorum } else { Source::Watch };
                let state = s.history[v].clone();
                s.pods[i].gate.observe(source, &state, SOON).then_some(())?;
                if let Some(worker) = self.worker_of(i) {
                    s.workers[worker].reader = Reader::new(self.rules, state);
                }
            }
            Move::Observe(i) => {
                let state = s.after(s.revision_of(i)?)?.clone();
                s.pods[i].gate.observe(Source::Watch, &state, SOON).then_some(())?;
                if let Some(worker) = self.worker_of(i) {
                    s.workers[worker].reader.obey(state);
                }
            }
            Move::LookAtFile(i, v) => {
                let state = s.history[v].clone();
                s.pods[i].gate.observe(Source::File, &state, SOON).then_some(())?;
                s.left.stale_files -= 1;
            }
            Move::Prepared(i, ready) => {
                let state = s.pods[i].gate.state()?.clone();
                let verdict = if ready { Verdict::Ready } else { Verdict::Refused("no".into()) };
                s.pods[i].gate.prepared(&state, verdict);
                if !ready {
                    s.left.refusals -= 1;
                }
            }
            Move::Answer(i) => {
                let answer = s.pods[i].gate.answer()?;
                let member = s.members[i].as_mut().filter(|_| s.pods[i].gate.state().is_some())?;
                let answer = Some((answer.revision, answer.kind));
                (member.answer != answer).then_some(())?;
                member.answer = answer;
                s.tell_of(self, i);
                if let Some((since, AnswerKind::Refused)) = answer {
                    s.refused.push(since);
                }
            }
            Move::Purge(i) => {
                s.pods[i].gate.purge_due(LATE).then_some(())?;
                for publish in s.net.iter_mut().filter(|publish| publish.pod == i as u8 && publish.live) {
                    s.pods[i].gate.settled(publish.epoch);
                    // The broker's answer is not believed any more; without that rule it still is.
                    publish.live = !self.purged_is_unknown;
                }
                if self.purged_is_unknown {
                    s.orphan(i);
                }
            }
            Move::Delete(i) => {
                s.pods[i].life = Life::Absent;
                s.members[i] = None;
                s.tell_of(self, i);
                s.left.scales -= 1;
                s.orphan(i);
            }
            Move::Crash(i) => {
                s.pods[i].life = Life::Down; // its member and its old answer stay behind
                s.pods[i].gate = new_gate(self);
                s.left.crashes -= 1;
                s.orphan(i);
            }
            Move::ForceDelete(i) => {
                s.pods[i].life = Life::Ghost;
                s.members[i] = None;
                s.tell_of(self, i);
                s.left.ghosts -= 1;
            }
            Move::GhostDies(i) => {
                s.pods[i].life = Life::Absent;
                s.orphan(i);
            }
            Move::Send(i) => {
                (!s.waiting && s.next <= self.msgs && self.worker_of(i).is_none()).then_some(())?;
                self.publish(s, i, s.next)?;
                s.waiting = true;
            }
            _ => unreachable!("not a pod's"),
        }
        Some(())
    }

    fn publish(&self, s: &mut World, pod: usize, msg: u8) -> Option<()> {
        let Admit::Pass(opening) = s.pods[pod].gate.admit() else { return None };
        let (broker, partition) = (broker(&opening.backend) as u8, self.partition(msg) as u8);
        s.net.push(Publish { pod: pod as u8, broker, partition, msg, epoch: opening.epoch, live: true, appended: false });
        Some(())
    }

    fn on_the_way(&self, s: &mut World, action: Move) -> Option<()> {
        match action {
            Move::Append(i) => {
                let Publish { broker, partition, msg, epoch, live, .. } = s.net[i].clone();
                s.partitions[broker as usize][partition as usize].log.push(Entry::Order { msg, epoch });
                if live {
                    s.net[i].appended = true;
                } else {
                    s.net.remove(i);
                }
            }
            Move::Lose(i) => drop(s.net.remove(i)),
            Move::Accepted(i) => {
                let publish = s.net.remove(i);
                s.pods[publish.pod as usize].gate.settled(publish.epoch);
                self.acknowledged(s, &publish);
            }
            Move::TimeOut(i) => {
                // Outcome unknown: it may still be appended.
                s.left.timeouts -= 1;
                let Publish { pod, epoch, appended, .. } = s.net[i].clone();
                s.pods[pod as usize].gate.settled(epoch);
                if appended {
                    s.net.remove(i);
                } else {
                    s.net[i].live = false;
                }
            }
            Move::Retry => s.waiting = false,
            _ => unreachable!("not on the way"),
        }
        Some(())
    }

    fn acknowledged(&self, s: &mut World, publish: &Publish) {
        if publish.msg > EMITTED {
            if let Some((broker, _)) = s.workers[0].emits.take_if(|(_, msg)| *msg + EMITTED == publish.msg) {
                s.partitions[broker as usize][0].position += 1;
            }
        } else if s.waiting && publish.msg == s.next {
            s.answered |= 1 << publish.msg;
            s.next += 1;
            s.waiting = false;
        }
    }

    fn worker_moves(&self, s: &World, worker: usize, out: &mut Vec<Move>) {
        let Worker { reader, left_over, emits, .. } = &s.workers[worker];
        if self.emits && (s.pods[1].life != Life::Up || s.pods[1].gate.state().is_none()) {
            return;
        }
        if !self.emits && reader.state().revision() < s.latest().revision() {
            out.push(Move::WorkerObserves(worker));
        }
        if left_over.is_some() {
            out.push(Move::LeftOver(worker));
        }
        if emits.is_some() {
            out.push(Move::Emit(worker));
        }
        if worker < self.sealers {
            for open in reader.to_seal() {
                out.extend((0..self.partitions).map(|partition| Move::Seal { worker, epoch: open.epoch, partition }));
            }
        }
        for (broker, name) in BROKERS.iter().enumerate() {
            if reader.reading(name) != Reading::Not {
                out.extend((0..self.partitions).map(|partition| Move::Process { worker, broker, partition }));
            }
        }
        if s.left.worker_crashes > 0 {
            out.push(Move::WorkerCrash(worker));
        }
    }

    fn worker_does(&self, s: &mut World, action: Move) -> Option<()> {
        match action {
            Move::WorkerObserves(w) => {
                let state = s.after(s.workers[w].reader.state().revision())?.clone();
                s.workers[w].reader.obey(state);
            }
            Move::Seal { worker, epoch, partition } => {
                let of = &mut s.workers[worker];
                let (_, done) = of.sealing.filter(|(sealing, _)| *sealing == epoch).unwrap_or((epoch, 0));
                (done >> partition & 1 == 0).then_some(())?;
                let backend = broker(&of.reader.state().epochs().iter().find(|open| open.epoch == epoch)?.backend);
                s.partitions[backend][partition].log.push(Entry::Seal { epoch });
                let done = done | 1 << partition;
                of.sealing = Some((epoch, done));
                if done == (1 << self.partitions) - 1 {
                    of.reader.sealed(epoch);
                    of.sealing = None;
                }
            }
            Move::Process { worker, broker, partition } => self.process(s, worker, broker, partition)?,
            Move::Emit(w) => {
                let (_, msg) = s.workers[w].emits?;
                (!s.net.iter().any(|publish| publish.live && publish.msg == msg + EMITTED)).then_some(())?;
                self.publish(s, 1, msg + EMITTED)?;
            }
            Move::Commit { broker, partition } => {
                let of = &mut s.partitions[broker][partition];
                of.seals.complete(i64::from(of.position));
                of.committed = of.position;
                of.note = of.seals.through();
            }
            Move::WorkerCrash(w) => {
                s.left.worker_crashes -= 1;
                let mine = |of: &&mut Partition| of.owner.is_none_or(|owner| owner == w as u8);
                s.partitions.iter_mut().flatten().filter(mine).for_each(begin_anew);
                let reader = Reader::new(self.rules, s.latest().clone());
                s.workers[w] = Worker { reader, sealing: None, left_over: None, emits: None };
                if self.emits {
                    s.pods[1].life = Life::Down;
                    s.pods[1].gate = new_gate(self);
                    s.orphan(1);
                }
            }
            Move::Rebalance { broker, partition } => {
                s.left.rebalances -= 1;
                let of = &mut s.partitions[broker][partition];
                let owner = of.owner? as usize;
                let had = of.log.get(of.position as usize).copied();
                of.owner = Some(1 - owner as u8);
                begin_anew(of);
                let seals = of.seals.clone();
                if let Some(Entry::Order { msg, epoch }) = had
                    && s.workers[owner].reader.reading(BROKERS[broker]) != Reading::Not
                    && !matches!(s.workers[owner].reader.take(Some(stamp(epoch).as_bytes()), false, &seals), Take::NotYet(_))
                {
                    s.workers[owner].left_over = Some(msg);
                }
            }
            Move::LeftOver(w) => {
                let msg = s.workers[w].left_over.take()?;
                if !s.has(msg) {
                    s.effects.push(msg);
                }
            }
            _ => unreachable!("not a worker's"),
        }
        Some(())
    }

    fn process(&self, s: &mut World, w: usize, broker: usize, partition: usize) -> Option<()> {
        let worker = &s.workers[w];
        let of = &mut s.partitions[broker][partition];
        (of.owner.is_none_or(|owner| owner == w as u8) && !(worker.emits.is_some() && partition == 0)).then_some(())?;
        let entry = *of.log.get(of.position as usize)?;
        let (Entry::Order { epoch, .. } | Entry::Seal { epoch }) = entry;
        match worker.reader.take(Some(stamp(epoch).as_bytes()), matches!(entry, Entry::Seal { .. }), &of.seals) {
            Take::NotYet(_) => return None,
            Take::Seal(epoch) => of.seals.read(i64::from(of.position), epoch),
            Take::Process | Take::Late => {}
        }
        let at = of.position as usize;
        if let Entry::Order { msg, .. } = entry {
            let first_here =
                !s.partitions[broker][partition].log[..at].iter().any(|e| matches!(e, Entry::Order { msg: m, .. } if *m == msg));
            if !s.has(msg) || (!self.one_dedupe && first_here) {
                s.effects.push(msg);
            }
            if self.emits && msg < EMITTED {
                s.workers[w].emits = Some((broker as u8, msg));
                return Some(());
            }
        }
        s.partitions[broker][partition].position += 1;
        Some(())
    }
}

/// From what is committed, as a new owner does.
fn begin_anew(of: &mut Partition) {
    of.position = of.committed;
    of.seals = Seals::new(&LINEAGE.into(), of.note.map(stamp));
}
