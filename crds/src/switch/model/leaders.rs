//! What leaders do: list, hear, take the coordinator's steps, die.

use super::Case;
use super::moves::{Move, Sees};
use super::world::*;
use crate::member::AnswerKind;
use crate::switch::*;
use std::sync::Arc;

impl Case {
    pub fn leader_moves(&self, s: &World, leader: usize, out: &mut Vec<Move>) {
        let Leader { listing, pending, letters, .. } = &s.leaders[leader];
        if pending.is_some() {
            out.push(Move::WriteArrives(leader));
            return;
        }
        if s.deleted {
            return;
        }
        let state = s.latest();
        let (steady, fresh) = (*state.phase() == Phase::Steady, listing.is_some_and(|(after, _)| after >= state.since()));
        if self.follows {
            self.following_moves(s, leader, out);
        } else if (!steady && !fresh && (listing.is_none() || self.rules.keep(Rule::ListAfterHold)))
            || (listing.is_none() && !self.rules.keep(Rule::ListAfterHold))
        {
            out.push(Move::List(leader));
        }
        if s.left.leader_deaths > 0 && (listing.is_some() || letters.is_some()) {
            out.push(Move::LeaderDies(leader));
        }
        out.push(Move::Lead { leader, sight: Sees::All });
        if !steady && self.stale_pods && !self.follows {
            out.push(Move::Lead { leader, sight: Sees::StalePods });
        }
        if !steady && s.left.aborts > 0 {
            out.push(Move::Lead { leader, sight: Sees::Late });
        }
        if steady && state.drains() && s.left.abandons > 0 {
            out.push(Move::Lead { leader, sight: Sees::Abandon });
        }
    }

    /// What is told is kept before a list is begun, and heard by it later. Much later, maybe: that is what is looked at here. (A driver
    /// that is told two things of one member before it looks hears only the second. That proves less, and is nothing else.)
    fn following_moves(&self, s: &World, leader: usize, out: &mut Vec<Move>) {
        let Leader { roll, letters, .. } = &s.leaders[leader];
        let Some(letters) = letters else {
            if *s.latest().phase() != Phase::Steady {
                out.push(Move::Listen(leader));
            }
            return;
        };
        if *s.latest().phase() == Phase::Steady {
            out.push(Move::Rest(leader));
            return;
        }
        let holds = matches!(s.latest().phase(), Phase::Hold { .. });
        let of_phase = roll.as_ref().and_then(|roll| roll.listing(s.latest())).is_some_and(|list| list.after >= s.latest().since());
        // In Prepare one is made again when something was heard, or for what nobody tells of.
        if holds || !of_phase || letters.is_empty() {
            out.push(Move::List(leader));
        }
        // Only the first list of a phase: were it every one, a leader could go on listing for ever.
        if self.stale_pods && !of_phase {
            out.push(Move::ListWithStalePods(leader));
        }
        if s.left.breaks > 0 {
            out.push(Move::WatchBreaks(leader));
        }
        if roll.is_some() && !letters.is_empty() {
            out.push(Move::Hear(leader));
        }
    }

    pub fn leader_does(&self, s: &mut World, action: Move) -> Option<()> {
        match action {
            Move::List(leader) if self.follows => self.list(s, leader, false)?,
            Move::ListWithStalePods(leader) => self.list(s, leader, true)?,
            Move::List(leader) => s.leaders[leader].listing = Some((s.latest().revision(), [0, 1].map(|i| s.members[i].is_some()))),
            Move::Listen(leader) => s.leaders[leader].letters = Some(vec![]),
            Move::Rest(leader) => s.leaders[leader].forget(),
            Move::Hear(leader) => {
                let Leader { roll, letters, .. } = &mut s.leaders[leader];
                let (i, heard) = letters.as_mut()?.remove(0);
                roll.as_mut()?.hear(&name(i), heard);
            }
            Move::WatchBreaks(leader) => {
                s.left.breaks -= 1;
                let now = s.written().map(|(i, object)| (i, Heard::Wrote { object, in_order: false }));
                s.leaders[leader].letters = Some(now.collect());
            }
            Move::Lead { leader, sight } => self.lead(s, leader, sight)?,
            Move::WriteArrives(leader) => {
                let (replaces, next) = s.leaders[leader].pending.take()?;
                if s.latest().revision() == replaces && !s.deleted || !self.compare_and_swap {
                    s.history.push(next);
                }
            }
            Move::LeaderDies(leader) => {
                s.leaders[leader].forget(); // what it has sent may still arrive
                s.left.leader_deaths -= 1;
            }
            _ => unreachable!("not a leader's"),
        }
        Some(())
    }

    /// In Prepare a list is made whenever something happens, and followed; in a Hold only if none will do, or if it takes long.
    fn list(&self, s: &mut World, leader: usize, stale_pods: bool) -> Option<()> {
        let state = s.latest().clone();
        let holds = matches!(state.phase(), Phase::Hold { .. });
        let members: Vec<_> = s.written().map(|(i, object)| (name(i), object)).collect();
        let mut roll = Roll::listed(self.rules, LINEAGE.into(), state.revision(), members).followed(!holds);
        roll.look_at(|member| s.pod(pod_of(&member.name), stale_pods), vec![]);
        // A list that brings nothing new is none: where nothing but that can happen, nothing goes on.
        (s.leaders[leader].roll.as_ref() != Some(&roll)).then_some(())?;
        s.leaders[leader].roll = Some(roll);
        Some(())
    }

    /// One step of the coordinator. Where Prepare is not what a case is about, all pods are taken to be ready at once.
    fn lead(&self, s: &mut World, leader: usize, sight: Sees) -> Option<()> {
        let before = s.latest().clone();
        let mut next = self.step(s, &before, leader, sight)?;
        if sight == Sees::Abandon {
            next.last().is_some_and(|last| last.outcome == Outcome::Abandoned).then_some(())?;
            s.left.abandons -= 1;
        }
        if sight == Sees::Late {
            (*before.phase() != Phase::Steady && *next.phase() == Phase::Steady && next.newest() == before.newest()).then_some(())?;
            s.left.aborts -= 1;
        }
        if !self.prepare {
            let asks =
                |next: &SwitchState| *next.phase() == Phase::Steady && next.newest() == before.newest() && next.asked() != before.asked();
            while asks(&next) || matches!(next.phase(), Phase::Prepare { .. }) {
                s.mirror = Arc::new(next.clone());
                next = self.step(s, &next, leader, sight)?;
            }
        }
        if *next.phase() == Phase::Steady && self.rules.keep(Rule::ListAfterHold) {
            s.leaders[leader].forget();
        }
        if self.leaders > 1 {
            s.leaders[leader].pending = Some((before.revision(), Arc::new(next)));
        } else {
            s.history.push(Arc::new(next));
        }
        Some(())
    }

    fn step(&self, s: &World, state: &SwitchState, leader: usize, sight: Sees) -> Option<SwitchState> {
        let settings = Settings { rules: self.rules, prepare_deadline: LATE, hold_deadline: LATE, drain_deadline: None };
        let newest = state.newest();
        let other = BROKERS[1 - broker(&newest.backend)];
        let spec = if newest.epoch <= u64::from(self.switches) { other } else { &newest.backend };
        let (after, listed) = s.leaders[leader].listing.unwrap_or((0, [false; PODS]));
        let at_once = !self.prepare && matches!(state.phase(), Phase::Prepare { .. });
        let ready = |mut member: Member| {
            let answer = crate::member::Answer { lineage: LINEAGE.into(), revision: state.since(), kind: AnswerKind::Ready, message: None };
            member.answer = if at_once { Some(answer) } else { member.answer };
            member
        };
        let members =
            (0..PODS).filter(|i| listed[*i]).map(|i| ready(s.member(self, i, sight == Sees::StalePods))).chain(s.reports()).collect();
        let listing = Listing { after: if at_once { state.since() } else { after }, members };
        let known = after > 0 || at_once || self.rules.keep(Rule::ListAfterHold);
        let mirrored = if at_once || *state != **s.latest() { state.revision() } else { s.mirror.revision() };
        let abandon = (sight == Sees::Abandon).then_some(state.active().epoch);
        let listing = if self.follows { Some(s.followed(leader, state)) } else { Some(listing).filter(|_| known) };
        let observed = Observed { spec, requests: &[], obstacle: None, listing: listing.as_ref(), mirrored, abandon, leaving: false };
        let now = if sight == Sees::Late || *state.phase() == Phase::Steady { LATE } else { SOON };
        match step(&settings, state, &observed, Since { phase: SOON, drain: SOON }, now) {
            Step::Write(next) => Some(next),
            Step::Wait { .. } | Step::Done => None,
        }
    }
}
