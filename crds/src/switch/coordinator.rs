//! The next step of a switch. A function of the state as it was read, of what is observed, and of the time: whoever leads, since when
//! ever, goes on from where the last one stopped.

use super::{NotAllowed, Outcome, Phase, Request, Rule, Rules, SwitchState};
use crate::member::{Answer, AnswerKind, Reports};
use crate::runtime_config::{RuntimeConfig, SwitchingConfig};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Before the second attempt; doubled before each further one.
const BACKOFF: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Until every pod has said whether it can use the target. Nobody waits meanwhile: it may be a broker that is slow to connect to.
const PREPARE_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    pub rules: Rules,
    pub prepare_deadline: Duration,
    pub hold_deadline: Duration,
    /// Workers go on after so long although the old broker is not drained. None: they drain it however long it takes. Zero: there is
    /// nothing to drain.
    pub drain_deadline: Option<Duration>,
}

impl Settings {
    /// As the document says.
    pub fn of(config: &SwitchingConfig) -> Settings {
        let SwitchingConfig { hold_deadline, drain_deadline } = *config;
        Settings { rules: Rules::in_force(), prepare_deadline: PREPARE_DEADLINE, hold_deadline, drain_deadline }
    }
}

/// What there is to know besides the state.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// What the document asks for.
    pub spec: &'a str,
    /// Who else has asked.
    pub requests: &'a [Request],
    /// Why no switch may begin now, in a sentence: pods of before the second backend still run, say.
    pub obstacle: Option<&'a str>,
    /// The members as last listed, with what they have said since.
    pub listing: Option<&'a Listing>,
    /// The revision of this lineage that status is known to mirror.
    pub mirrored: u64,
    /// A person has asked to go on without the rest of the epochs up to this one.
    pub abandon: Option<u64>,
    /// This process is about to end: it takes back what it cannot finish at once.
    pub leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listing {
    /// The listing was begun, by a quorum read, when this revision was written already.
    pub after: u64,
    pub members: Vec<Member>,
}

impl Listing {
    /// Without what is said by workers that do not read all topics of the pipeline's own: one from before a topic was added knows nothing
    /// of what lies there, and cannot say that all is sealed or read.
    pub fn of_all(mut self, own: &BTreeSet<String>) -> Listing {
        for member in &mut self.members {
            member.reports.take_if(|reports| !own.iter().all(|topic| reports.topics.contains(topic)));
        }
        self
    }

    /// These have answered nothing: the name of the target leads them elsewhere.
    pub fn unanswered_by(mut self, names: &[Arc<str>]) -> Listing {
        self.members.iter_mut().filter(|member| names.contains(&member.name)).for_each(|member| member.answer = None);
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub name: Arc<str>,
    /// As [`super::counts`] says.
    pub counts: bool,
    pub answer: Option<Answer>,
    pub reports: Option<Reports>,
}

/// When this process first saw the phase and the drain that it sees now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Since {
    pub phase: Duration,
    pub drain: Duration,
}

/// All that a coordinator remembers: since when it sees what it sees. One that takes over measures anew.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    phase: Option<(Arc<str>, u64, Duration)>,
    drain: Option<(Arc<str>, u64, Duration)>,
}

impl Sight {
    pub fn of(&mut self, state: &SwitchState, now: Duration) -> Since {
        let seen = |kept: &mut Option<(Arc<str>, u64, Duration)>, what: u64| match kept {
            Some((lineage, of, at)) if state.same_lineage(lineage) && *of == what => *at,
            _ => {
                *kept = Some((state.lineage().clone(), what, now));
                now
            }
        };
        let phase = seen(&mut self.phase, state.since());
        if !state.drains() {
            self.drain = None;
            return Since { phase, drain: now };
        }
        Since { phase, drain: seen(&mut self.drain, state.active().epoch) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Replace the state that was read, and only that one, by this.
    Write(SwitchState),
    /// Nothing until something changes, or until then. `why`: what is waited for, if a person may have to do something.
    Wait { until: Option<Duration>, why: Option<String> },
    /// Nothing is to be done.
    Done,
}

impl Step {
    fn wait(until: Duration, why: impl Into<String>) -> Step {
        Step::Wait { until: Some(until), why: Some(why.into()) }
    }

    fn write(next: Result<SwitchState, NotAllowed>) -> Step {
        match next {
            Ok(state) => Step::Write(state),
            Err(NotAllowed(why)) => Step::Wait { until: None, why: Some(why) },
        }
    }
}

pub fn step(settings: &Settings, state: &SwitchState, observed: &Observed, since: Since, now: Duration) -> Step {
    let look = Look { settings, state, observed, since, now };
    let step = match state.phase() {
        // What ends a Hold is written at once, for nobody writes meanwhile. All else waits until status knows what was written before; a Hold
        // that was rebuilt, too: deleted once more, the state is rebuilt from status again, above all revisions that pods have seen.
        Phase::Hold { target, restored: false } => look.hold(target, false),
        _ if observed.mirrored < state.revision() && settings.rules.keep(Rule::MirrorBeforeNext) => {
            Step::Wait { until: None, why: Some("status does not show the last step yet".into()) }
        }
        Phase::Hold { target, restored: true } => look.hold(target, true),
        Phase::Prepare { target } => look.prepare(target),
        Phase::Steady => look.steady(),
    };
    match step {
        Step::Write(next) => Step::Write(next.with_sealed(|epoch| look.sealed(epoch))),
        step => step,
    }
}

/// Why no switch may begin where nobody here reads what is left on the old broker, and it is not to be left there either.
pub fn nobody_drains(state: &SwitchState, config: &RuntimeConfig) -> Option<String> {
    let lacking = config.worker.is_none() && config.switching.drain_deadline.is_none();
    lacking.then(|| {
        format!(
            "a switch to {} waits for a worker, which alone reads what is left on {} before what comes after it: add spec.worker, or set \
             spec.switching.drain.onDeadline to Proceed if that need not be read first",
            state.asked().backend,
            state.newest().backend
        )
    })
}

struct Look<'a> {
    settings: &'a Settings,
    state: &'a SwitchState,
    observed: &'a Observed<'a>,
    since: Since,
    now: Duration,
}

impl Look<'_> {
    fn keep(&self, rule: Rule) -> bool {
        self.settings.rules.keep(rule)
    }

    fn steady(&self) -> Step {
        if let Some(outcome) = self.activates() {
            return Step::write(self.state.activated(outcome));
        }
        if let Some(asked) = self.state.ruling(self.observed.spec, self.observed.requests) {
            return Step::write(self.state.noted(asked));
        }
        let target = &self.state.asked().backend;
        if *target == self.state.newest().backend || self.observed.leaving {
            return self.drains();
        }
        if let Some(obstacle) = self.observed.obstacle {
            return Step::Wait { until: None, why: Some(obstacle.to_owned()) };
        }
        let again = self.since.phase + self.backoff(target);
        if self.now < again {
            return Step::wait(again, format!("the last attempt to switch to {target} failed; the next one comes after a pause"));
        }
        Step::write(self.state.prepared())
    }

    fn prepare(&self, target: &Arc<str>) -> Step {
        if let Some(outcome) = self.activates() {
            return Step::write(self.state.activated(outcome));
        }
        if let Some(asked) = self.state.ruling(self.observed.spec, self.observed.requests) {
            return Step::write(if asked.backend == *target {
                self.state.noted(asked)
            } else {
                self.state.aborted(Outcome::Aborted, &format!("{} asked for {} meanwhile", asked.by, asked.backend), false)
            });
        }
        if self.observed.leaving {
            return Step::write(self.state.aborted(Outcome::Aborted, "who led it was told to stop; the next one tries again", false));
        }
        let deadline = self.since.phase + self.settings.prepare_deadline;
        let Some(members) = self.listed() else { return self.overdue(deadline, "no list of the pods") };
        if let Some((name, why)) = members.iter().find_map(|member| Some((&member.name, self.refusal(member)?))) {
            return Step::write(self.state.aborted(Outcome::Refused, &format!("{name} cannot use {target}: {why}"), true));
        }
        let missing = names(members.iter().filter(|member| member.counts && self.said(member, AnswerKind::Ready).is_none()));
        if !missing.is_empty() {
            return self.overdue(deadline, &format!("{missing} did not say whether {target} can be used"));
        }
        if let Some(unsealed) = self.unsealed(target) {
            return self.overdue(deadline, &unsealed);
        }
        match self.state.held() {
            Ok(held) if !self.keep(Rule::HoldFirst) => Step::write(held.opened()),
            held => Step::write(held),
        }
    }

    fn hold(&self, target: &Arc<str>, restored: bool) -> Step {
        let deadline = self.since.phase + self.settings.hold_deadline;
        let missing = match self.listed() {
            None => "no list of the pods".into(),
            Some(members) => {
                let missing = names(members.iter().filter(|member| member.counts && self.said(member, AnswerKind::Held).is_none()));
                let answered = missing.is_empty() || !self.keep(Rule::WaitForAll);
                // Prepare has waited for the seals, but a Hold that was rebuilt need not have come from there.
                match self.unsealed(target) {
                    None if answered => return Step::write(self.state.opened()),
                    Some(unsealed) if answered => unsealed,
                    _ => format!("{missing} did not stop writing"),
                }
            }
        };
        if restored && self.keep(Rule::RestoredGoesOn) {
            let why = format!("{missing}; the state was rebuilt, so there is no way back: writes to {target} begin when that is done");
            return Step::Wait { until: None, why: Some(why) };
        }
        if self.observed.leaving {
            return Step::write(self.state.aborted(Outcome::Aborted, "who led it was told to stop; the next one tries again", false));
        }
        self.overdue(deadline, &missing)
    }

    /// Back to how it was if the deadline is over, else so long to wait.
    fn overdue(&self, deadline: Duration, missing: &str) -> Step {
        if self.now < deadline {
            return Step::wait(deadline, missing);
        }
        Step::write(self.state.aborted(Outcome::Aborted, &format!("{missing} within the deadline"), true))
    }

    /// What is waited for when writes are where they should be.
    fn drains(&self) -> Step {
        if !self.state.drains() {
            return Step::Done;
        }
        let until = self.settings.drain_deadline.map(|deadline| self.since.drain + deadline);
        Step::Wait { until, why: Some(format!("workers drain {}", self.state.active().backend)) }
    }

    /// Whether workers go on to the next epoch, and why.
    fn activates(&self) -> Option<Outcome> {
        if !self.state.drains() {
            return None;
        }
        let active = self.state.active().epoch;
        let drained = self.reports().any(|reports| reports.drained_through >= active);
        let nothing = self.settings.drain_deadline.is_some_and(|deadline| deadline.is_zero());
        if drained || nothing || !self.keep(Rule::DrainToSeal) {
            return Some(Outcome::Completed);
        }
        let over = self.settings.drain_deadline.is_some_and(|deadline| self.now >= self.since.drain + deadline);
        (over || self.observed.abandon.is_some_and(|through| through >= active)).then_some(Outcome::Abandoned)
    }

    /// What is missing if an earlier epoch on the target is open, and not known to be sealed.
    fn unsealed(&self, target: &str) -> Option<String> {
        let newest = self.state.newest().epoch;
        let earlier = self.state.epochs().iter().filter(|open| *open.backend == *target && open.epoch < newest);
        let epoch = earlier.map(|open| open.epoch).find(|epoch| !self.sealed(*epoch) && self.keep(Rule::SealBeforeReuse))?;
        Some(format!("no worker has written the seals of epoch {epoch} to {target}, which has to be done first"))
    }

    fn sealed(&self, epoch: u64) -> bool {
        let known = self.state.epochs().iter().any(|open| open.epoch == epoch && open.sealed);
        known || self.reports().any(|reports| reports.sealed.contains(&epoch))
    }

    fn backoff(&self, target: &str) -> Duration {
        let failures = self.state.last().filter(|last| *last.to == *target).map_or(0, |last| last.failures);
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doubled) => BACKOFF.saturating_mul(1u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(LONGEST_BACKOFF),
        }
    }

    /// The members, if they were listed after the phase began.
    fn listed(&self) -> Option<&[Member]> {
        let fresh = |listing: &&Listing| listing.after >= self.state.since() || !self.keep(Rule::ListAfterHold);
        self.observed.listing.filter(fresh).map(|listing| listing.members.as_slice())
    }

    fn reports(&self) -> impl Iterator<Item = &Reports> {
        let members = self.observed.listing.map(|listing| listing.members.as_slice()).unwrap_or_default();
        members.iter().filter_map(|member| member.reports.as_ref()).filter(|reports| self.state.same_lineage(&reports.lineage))
    }

    /// What a member has answered to this phase, if it is that.
    fn said<'m>(&self, member: &'m Member, kind: AnswerKind) -> Option<&'m Answer> {
        let to_this = |answer: &&Answer| answer.revision >= self.state.since() && self.state.same_lineage(&answer.lineage);
        member.answer.as_ref().filter(to_this).filter(|answer| answer.kind == kind)
    }

    fn refusal<'m>(&self, member: &'m Member) -> Option<&'m str> {
        let refused = self.said(member, AnswerKind::Refused).filter(|_| member.counts)?;
        Some(refused.message.as_deref().unwrap_or("it does not say why"))
    }
}

/// Some of them by name: a sentence is read by a person.
fn names<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    let names: Vec<&str> = members.map(|member| &*member.name).collect();
    match names.len() {
        0..=5 => names.join(", "),
        many => format!("{} and {} more", names[..5].join(", "), many - 5),
    }
}
