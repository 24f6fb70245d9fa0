//! One pipeline: waits until something happens, then takes the steps that there are to take. It remembers since when it sees what it
//! sees, and nothing else that a successor would lack: whoever leads goes on from what is written.

use super::asked::Asked;
use super::shown::{self, Notes};
use super::state_map::{self, Found, StateMap, Trouble};
use super::status::View;
use super::{Wanted, members, told};
use crate::context::{Context, Error};
use crds::switch::{Heard, Observed, Outcome, Phase, Roll, Rule, Rules, Settings, Sight, Step, SwitchState, nobody_drains, step};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event, EventType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// While writes are held clients wait for each call: what is decided without a list is decided in time, and a write or a read without an
/// answer is made again. What the switch cannot do without has twice as long after each failure, since the API server may be slow and not
/// mute.
const CALL_IN_HOLD: Duration = Duration::from_millis(500);
/// A Hold that lasts longer is shown in status, with who is missing; most are over before.
const SHOWN_AFTER: Duration = Duration::from_millis(300);
/// Steps of one go. There are never more than a few: this only bounds a mistake.
const STEPS: usize = 64;
/// After a failure, doubled up to the longest.
const RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// While writes are held, clients wait for it.
const LONGEST_RETRY_IN_HOLD: Duration = Duration::from_millis(500);

/// What the watches have told since the driver last looked.
#[derive(Default)]
pub struct Inbox {
    pub wake: Notify,
    letters: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    /// Only while somebody is waited for: at all other times members are listed when they matter.
    kept: bool,
    members: HashMap<Arc<str>, Heard>,
    /// The resourceVersion of the state as last heard of; the inner None: it was deleted.
    state: Option<Option<String>>,
}

impl Inbox {
    pub fn member(&self, name: &str, heard: Heard) {
        let mut letters = self.letters();
        if letters.kept {
            letters.members.insert(name.into(), heard);
        }
        drop(letters);
        self.wake.notify_one();
    }

    pub fn state(&self, version: Option<String>) {
        self.letters().state = Some(version);
        self.wake.notify_one();
    }

    fn keep(&self, kept: bool) {
        let mut letters = self.letters();
        letters.kept = kept;
        if !kept {
            letters.members.clear();
        }
    }

    /// Of each member what was heard last.
    fn heard(&self) -> HashMap<Arc<str>, Heard> {
        std::mem::take(&mut self.letters().members)
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when nobody wants the switch of this pipeline any more, or when the process leaves and nothing is half done.
pub async fn run(context: Arc<Context>, inbox: Arc<Inbox>, mut wanted: watch::Receiver<Arc<Wanted>>, mut leaving: watch::Receiver<bool>) {
    let first = wanted.borrow_and_update().clone();
    let mut driver = Driver::new(context, inbox.clone(), first);
    loop {
        driver.wanted = wanted.borrow_and_update().clone();
        driver.leaving = *leaving.borrow_and_update();
        let outcome = driver.go().await;
        driver.tell().await;
        match outcome {
            Ok(_) if driver.leaving => return,
            Ok(next) => {
                driver.failures = 0;
                tokio::select! {
                    () = inbox.wake.notified() => {}
                    () = driver.until(next) => {}
                    changed = wanted.changed() => if changed.is_err() { return },
                    changed = leaving.changed() => if changed.is_err() { return },
                }
            }
            Err(error) => {
                let Wanted { namespace, name, .. } = &*driver.wanted;
                tracing::warn!(namespace, pipeline = name, %error, "the switch is looked at again later");
                // Not woken meanwhile: what fails must not be tried as often as something happens. But who leaves has no time.
                let longest = if driver.holds { LONGEST_RETRY_IN_HOLD } else { LONGEST_RETRY };
                tokio::select! {
                    () = tokio::time::sleep(RETRY.saturating_mul(1 << driver.failures.min(10)).min(longest)) => {}
                    changed = leaving.changed() => if changed.is_err() { return },
                }
                driver.failures += 1;
                if wanted.has_changed().is_err() {
                    return;
                }
            }
        }
    }
}

struct Driver {
    context: Arc<Context>,
    inbox: Arc<Inbox>,
    wanted: Arc<Wanted>,
    leaving: bool,
    /// Writes are held, for all that is known.
    holds: bool,
    /// In a row.
    failures: u32,
    sight: Sight,
    /// The state as this process wrote or read it last, as long as the watch tells of no other.
    known: Option<StateMap>,
    /// The newest state that is known to have been written. None older is gone on from.
    newest: Option<SwitchState>,
    roll: Option<Roll>,
    /// When to look at what no watch tells of: pods.
    look: Duration,
    /// The revision of a Prepare that is shown in status, and whose members are listed and followed.
    asking: Option<u64>,
    /// When this process opened which epoch.
    opened: Option<(u64, Duration)>,
    events: Vec<Event>,
}

/// What comes after a step.
enum Next {
    Step,
    /// Nothing until something happens, or until then.
    Wait(Option<Duration>),
}

impl Driver {
    fn new(context: Arc<Context>, inbox: Arc<Inbox>, wanted: Arc<Wanted>) -> Driver {
        let (sight, look) = (Sight::default(), Duration::ZERO);
        let (known, newest, roll, asking, opened) = (None, None, None, None, None);
        Driver {
            context,
            inbox,
            wanted,
            leaving: false,
            holds: false,
            failures: 0,
            sight,
            known,
            newest,
            roll,
            look,
            asking,
            opened,
            events: Vec::new(),
        }
    }

    /// Takes every step that can be taken now; until when nothing is to be done unless something happens.
    async fn go(&mut self) -> Result<Option<Duration>, Error> {
        for _ in 0..STEPS {
            let Some(map) = self.state().await? else { return Ok(Some(self.context.now() + Duration::from_secs(15))) };
            self.holds = matches!(map.state.phase(), Phase::Hold { .. });
            let next = if self.holds { self.hold(map).await } else { self.rest(map).await };
            match next {
                Ok(Next::Step) => {}
                Ok(Next::Wait(until)) => return Ok(until),
                // Somebody else wrote in between: what is there now is read.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        let Wanted { namespace, name, .. } = &*self.wanted;
        Err(Error::Restless { doing: format!("switching {namespace}/{name}"), steps: STEPS })
    }

    /// The state as it is. None: there is none that could be obeyed.
    async fn state(&mut self) -> Result<Option<StateMap>, Error> {
        let last = self.inbox.letters().state.take();
        if let Some(known) = self.known.take()
            && last.is_none_or(|last| last.as_deref() == known.version())
        {
            return Ok(Some(known));
        }
        // Who has just begun to lead knows the newest one from status, which has to be read first: what is older then was put back.
        if self.newest.is_none() {
            let view = self.in_time(View::read(&self.context, &self.wanted)).await?;
            self.newest = view.and_then(|view| view.mirror).and_then(Result::ok);
            // Of a Hold there may be no more in status than its Prepare.
            self.holds = self.newest.as_ref().is_some_and(|newest| *newest.phase() != Phase::Steady);
        }
        match self.in_time(state_map::read(&self.context, &self.wanted)).await? {
            Found::State(map) => match &self.newest {
                Some(newest) if newest.same_lineage(map.state.lineage()) && newest.revision() > map.state.revision() => {
                    let newest = newest.clone();
                    self.put_back(*map, &newest).await
                }
                _ => {
                    self.see(&map.state);
                    Ok(Some(*map))
                }
            },
            Found::Missing => self.make().await,
            Found::Trouble(trouble) => self.in_trouble(trouble).await,
        }
    }

    /// There is no state: a first one, or what status knows of the one that was deleted.
    async fn make(&mut self) -> Result<Option<StateMap>, Error> {
        let (context, wanted) = (self.context.clone(), self.wanted.clone());
        let Some(view) = View::read(&context, &wanted).await? else { return Ok(None) };
        let state = match &view.mirror {
            Some(Ok(mirror)) => SwitchState::rebuilt(mirror),
            Some(Err(error)) => {
                let trouble = Trouble::of(error, "there is no state of the switch, and it cannot be rebuilt from status.backend.mirror");
                return self.in_trouble(trouble).await;
            }
            None => {
                let lineage = uuid::Uuid::new_v4().to_string();
                // Where a pipeline with one backend has run until now: there it starts, whatever is asked for.
                let running = view.backend.writing.as_deref().filter(|name| wanted.has_backend(name));
                let backend = running.unwrap_or(&wanted.config.backend);
                let roll = members::list(&context, &wanted.namespace, &wanted.name, (lineage.as_str().into(), 0), false).await?;
                if roll.is_empty() { SwitchState::first(&lineage, backend) } else { SwitchState::anew(&lineage, backend) }
            }
        };
        let first = view.mirror.is_none() && *state.phase() == Phase::Steady;
        let made = state_map::create(&context, &wanted, state).await?;
        if let Some(made) = made.as_ref().filter(|_| !first) {
            let note = "the state of the switch was deleted: it is rebuilt from what status and pods know of it".into();
            self.will_tell(&made.state, [told::event(EventType::Warning, "SwitchStateRebuilt", note)]);
        }
        Ok(made)
    }

    /// The newest state of this lineage that is known to have been written.
    fn see(&mut self, state: &SwitchState) {
        if self.newest.as_ref().is_none_or(|newest| !newest.same_lineage(state.lineage()) || newest.revision() < state.revision()) {
            self.newest = Some(state.clone());
        }
    }

    /// A state that is over was put back, from a backup say: no pod that knows a newer one obeys it, but one that starts does.
    async fn put_back(&mut self, map: StateMap, newest: &SwitchState) -> Result<Option<StateMap>, Error> {
        let next = SwitchState::put_right(newest, &map.state);
        let note = format!(
            "the state of the switch was replaced by an older one (revision {}, after {}): it is put right. What pods that started meanwhile \
             have written to a broker of before is read late",
            map.state.revision(),
            newest.revision()
        );
        let replaced = state_map::replace(&self.context, &self.wanted, map, next).await?;
        if let Some(map) = &replaced {
            self.see(&map.state);
            self.will_tell(&map.state, [told::event(EventType::Warning, "SwitchStateRebuilt", note)]);
        }
        Ok(replaced)
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        // Who has just begun to lead knows nothing yet.
        if !self.holds && self.newest.is_some() {
            return call.await;
        }
        let after = CALL_IN_HOLD.saturating_mul(1 << self.failures.min(5));
        let Wanted { namespace, name, .. } = &*self.wanted;
        let late = |_| Error::Deadline { doing: format!("switching {namespace}/{name}, where writes may be held"), after };
        timeout(after, call).await.map_err(late)?
    }

    /// The write that begins a Hold: who obeys it waits already, though its answer is lost.
    async fn until_seen(
        &self,
        writing: impl Future<Output = Result<Option<StateMap>, Error>>,
        before: Option<String>,
    ) -> Result<Option<StateMap>, Error> {
        let mut writing = std::pin::pin!(writing);
        loop {
            if let Ok(written) = timeout(CALL_IN_HOLD, &mut writing).await {
                return written;
            }
            let look = state_map::read(&self.context, &self.wanted);
            if let Ok(Ok(Found::State(map))) = timeout(CALL_IN_HOLD, look).await
                && map.version() != before.as_deref()
            {
                return Ok(None);
            }
        }
    }

    async fn in_trouble(&mut self, trouble: Trouble) -> Result<Option<StateMap>, Error> {
        if let Some(mut view) = View::read(&self.context, &self.wanted).await? {
            let shown = shown::in_trouble(&trouble, &view.backend);
            if view.show(&self.context, &self.wanted, &shown).await? {
                self.events.push(told::event(EventType::Warning, trouble.reason, trouble.message));
            }
        }
        Ok(None)
    }

    /// Nobody writes now, so this is short: who is a member is known from Prepare, and the watch says who has answered.
    async fn hold(&mut self, map: StateMap) -> Result<Next, Error> {
        self.inbox.keep(true); // it is already, unless somebody else has prepared
        let mut mirrored = 0; // of no matter, unless it was rebuilt
        if matches!(map.state.phase(), Phase::Hold { restored: true, .. }) {
            let Some(mut view) = View::read(&self.context, &self.wanted).await? else { return Ok(Next::Wait(None)) };
            if view.mirrored(&map.state) < map.state.revision() {
                self.show(&mut view, &map.state, None, &[]).await?;
            }
            mirrored = view.mirrored(&map.state);
        }
        let mut looked = false;
        if !self.roll.as_ref().is_some_and(|roll| roll.will_do(&map.state)) {
            self.roll = self.call_in_hold(&map.state).await.or(self.roll.take());
            looked = true;
        }
        // A list that is under way, and what is heard meanwhile: an answer that ends the Hold does not wait for the list.
        let (mut call, mut meanwhile) = (None, HashMap::new());
        loop {
            let now = self.context.now();
            let heard = self.inbox.heard();
            if call.is_some() {
                meanwhile.extend(heard.clone());
            }
            self.hear(heard);
            let until = match self.step(&map.state, &Asked::default(), None, mirrored, now) {
                Step::Write(next) => return self.write(map, next).await,
                Step::Wait { until, why } => {
                    if now >= self.look && !looked && call.is_none() {
                        call = Some(Box::pin(self.call_in_hold(&map.state)));
                    }
                    if looked && now >= self.look {
                        if now >= self.sight.of(&map.state, now).phase + SHOWN_AFTER {
                            self.show_hold(&map.state, why.as_deref()).await;
                        }
                        self.look_again(&map.state);
                    }
                    until
                }
                Step::Done => None,
            };
            if let Some(calling) = &mut call {
                tokio::select! {
                    biased;
                    () = self.inbox.wake.notified() => {}
                    () = self.until(until) => {}
                    called = calling => {
                        (call, looked) = (None, true);
                        if called.is_some() {
                            self.roll = called;
                            self.hear(std::mem::take(&mut meanwhile));
                        }
                    }
                }
                continue;
            }
            self.known = Some(map);
            return Ok(Next::Wait(Some(until.map_or(self.look, |until| until.min(self.look)))));
        }
    }

    /// When it is due also with their pods: who has gone is not waited for. A list that fails ends no Hold: it is made again, and the
    /// deadline holds.
    fn call_in_hold(&self, state: &SwitchState) -> impl Future<Output = Option<Roll>> + use<> {
        let (context, wanted) = (self.context.clone(), self.wanted.clone());
        let of = (state.lineage().clone(), state.revision());
        let pods = context.now() >= self.look;
        async move {
            match timeout(CALL_IN_HOLD, members::list(&context, &wanted.namespace, &wanted.name, of, pods)).await {
                Ok(Ok(roll)) => return Some(roll),
                Ok(Err(error)) => tracing::warn!(%error, "the members were not listed"),
                Err(_) => tracing::warn!("the members were not listed in time"),
            }
            None
        }
    }

    /// A Hold that is not over at once is shown, with who is missing. That it could not be shown is no reason to end it.
    async fn show_hold(&self, state: &SwitchState, why: Option<&str>) {
        let showing = async {
            if let Some(mut view) = View::read(&self.context, &self.wanted).await? {
                self.show(&mut view, state, why, &[]).await?;
            }
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = timeout(CALL_IN_HOLD, showing).await {
            tracing::warn!(%error, "a Hold is not shown in status");
        }
    }

    /// Orders flow. What was written is mirrored in status before anything else is.
    async fn rest(&mut self, map: StateMap) -> Result<Next, Error> {
        let (context, wanted) = (self.context.clone(), self.wanted.clone());
        let state = &map.state;
        // While answers come in, nothing else has to be read, until something is due.
        let asking = self.asking.take().filter(|revision| *revision == state.revision());
        if asking.is_some() && self.roll.as_ref().is_some_and(|roll| roll.will_do(state)) && context.now() < self.look {
            let until = match self.decide(state).0 {
                Step::Write(next) => return self.write(map, next).await,
                Step::Wait { until, .. } => until,
                Step::Done => None,
            };
            (self.asking, self.known) = (asking, Some(map));
            return Ok(Next::Wait(Some(until.map_or(self.look, |until| until.min(self.look)))));
        }
        let Some(mut view) = View::read(&context, &wanted).await? else { return Ok(Next::Wait(None)) };
        if let Some(Ok(mirror)) = view.mirror.as_ref().filter(|_| view.mirrored(state) > state.revision()) {
            // Somebody else has written since this was read. If what is read next is older than this mirror, that was put back.
            self.see(mirror);
            return Ok(Next::Step);
        }
        let prepares = *state.phase() != Phase::Steady;
        let unmirrored = view.mirrored(state) < state.revision() && Rules::in_force().keep(Rule::MirrorBeforeNext);
        if unmirrored && prepares {
            self.show(&mut view, state, None, &[]).await?;
        }
        // What is no longer kept is no longer followed by the list of before, even if none can be made now.
        self.roll = None;
        self.inbox.keep(prepares);
        let moves = prepares || state.asked().backend != state.newest().backend;
        let of = (state.lineage().clone(), state.revision());
        self.roll = Some(members::list(&context, &wanted.namespace, &wanted.name, of, moves).await?.followed(prepares));
        let now = context.now();
        let (step, ignored) = self.decide(state);
        // What is not mirrored yet is, before anything else is written.
        let (until, why) = match step {
            Step::Write(next) => {
                if unmirrored && !prepares {
                    self.show(&mut view, state, None, &ignored).await?;
                }
                return self.write(map, next).await;
            }
            Step::Wait { until, why } => (until, why),
            Step::Done => (None, None),
        };
        // Each answer changes what is waited for: while they come in, that is not worth a write.
        if !prepares || now >= self.look {
            self.show(&mut view, state, why.as_deref(), &ignored).await?;
            self.look_again(state);
        }
        // Also while an old broker drains: a watch may be mute, and nothing of the new one is read until it is known that it is drained.
        let look = (moves || state.drains()).then_some(self.look);
        self.asking = prepares.then(|| state.revision());
        self.known = Some(map);
        Ok(Next::Wait([until, look].into_iter().flatten().min()))
    }

    /// What to do while orders flow, and which requests are ignored.
    fn decide(&mut self, state: &SwitchState) -> (Step, Vec<String>) {
        let heard = self.inbox.heard();
        self.hear(heard);
        let asked = Asked::read(&self.wanted, state, self.roll.iter().flat_map(Roll::said));
        let obstacle = self.obstacle(state);
        let step = self.step(state, &asked, obstacle.as_deref(), state.revision(), self.context.now());
        (step, asked.ignored)
    }

    /// What members have said since they were listed.
    fn hear(&mut self, heard: HashMap<Arc<str>, Heard>) {
        if let Some(roll) = &mut self.roll {
            heard.into_iter().for_each(|(name, heard)| roll.hear(&name, heard));
        }
    }

    /// Why no switch may begin now.
    fn obstacle(&self, state: &SwitchState) -> Option<String> {
        let target = &state.asked().backend;
        if let Some(obstacle) = &self.wanted.obstacle {
            return Some(format!("a switch to {target} waits until this is put right: {obstacle}"));
        }
        if !self.wanted.has_backend(target) {
            return Some(format!("{target} is asked for, and spec.backends does not have it"));
        }
        if let Some(why) = nobody_drains(state, &self.wanted.config) {
            return Some(why);
        }
        let strangers = self.roll.as_ref().map(Roll::strangers).unwrap_or_default();
        if !strangers.is_empty() {
            let names = strangers.join(", ");
            return Some(format!(
                "a switch to {target} waits until the pods are gone that were made when there was one backend only: {names}"
            ));
        }
        let elsewhere = self.elsewhere();
        (!elsewhere.is_empty()).then(|| {
            let names = elsewhere.join(", ");
            format!("a switch to {target} waits until the pods are gone that were made when spec.backends had other addresses: {names}")
        })
    }

    /// Members that may take the name of the target for another broker.
    fn elsewhere(&self) -> Vec<Arc<str>> {
        self.roll.as_ref().map(|roll| roll.elsewhere(&self.wanted.config.brokers())).unwrap_or_default()
    }

    fn step(&mut self, state: &SwitchState, asked: &Asked, obstacle: Option<&str>, mirrored: u64, now: Duration) -> Step {
        let listing = self.roll.as_ref().and_then(|roll| roll.listing(state));
        let elsewhere = self.elsewhere();
        let listing = listing.map(|listing| listing.of_all(&self.wanted.config.own_topics()).unanswered_by(&elsewhere));
        let settings = Settings::of(&self.wanted.config.switching);
        let observed = Observed {
            spec: &self.wanted.config.backend,
            requests: &asked.requests,
            obstacle,
            listing: listing.as_ref(),
            mirrored,
            abandon: asked.abandon,
            leaving: self.leaving,
        };
        step(&settings, state, &observed, self.sight.of(state, now), now)
    }

    async fn write(&mut self, map: StateMap, next: SwitchState) -> Result<Next, Error> {
        let before = map.state.clone();
        let begins = !self.holds && matches!(next.phase(), Phase::Hold { .. });
        let version = map.version().map(str::to_owned);
        let writing = state_map::replace(&self.context, &self.wanted, map, next);
        let written = if begins { self.until_seen(writing, version).await } else { self.in_time(writing).await };
        self.holds |= begins;
        let Some(map) = written? else { return Ok(Next::Step) };
        self.see(&map.state);
        self.context.metrics.switch_written();
        let (after, now) = (&map.state, self.context.now());
        let Wanted { namespace, name, .. } = &*self.wanted;
        tracing::info!(namespace, pipeline = name, revision = after.revision(), phase = ?after.phase(), epochs = ?after.epochs(), "switch");
        if after.newest().epoch > before.newest().epoch {
            self.opened = Some((after.newest().epoch, now));
        }
        self.will_tell(after, told::of(&before, after));
        if before.since() != after.since() {
            self.look_again(after);
        }
        self.known = Some(map);
        Ok(Next::Step)
    }

    fn will_tell(&mut self, written: &SwitchState, events: impl IntoIterator<Item = Event>) {
        // The recorder folds events of one action into one, with the words of the first: each step is one of its own.
        let action = format!("SwitchRevision{}", written.revision());
        self.events.extend(events.into_iter().map(|event| Event { action: action.clone(), ..event }));
    }

    fn look_again(&mut self, state: &SwitchState) {
        self.look = self.context.now()
            + match state.phase() {
                Phase::Hold { .. } | Phase::Prepare { .. } if !Rules::in_force().keep(Rule::ListAfterHold) => Duration::from_secs(30),
                Phase::Hold { restored: false, .. } => Duration::from_millis(100),
                Phase::Hold { .. } | Phase::Prepare { .. } => Duration::from_secs(1),
                Phase::Steady => Duration::from_secs(5),
            };
    }

    async fn show(&self, view: &mut View, state: &SwitchState, why: Option<&str>, ignored: &[String]) -> Result<bool, Error> {
        if view.mirrored(state) > state.revision() {
            return Ok(false); // overtaken: status knows better
        }
        let completed = !state.drains() && state.last().is_some_and(|last| last.outcome == Outcome::Completed);
        let opened = self.opened.filter(|(epoch, _)| completed && *epoch == state.newest().epoch);
        // Once it is known how long it took, that stays.
        let drained = view.backend.last_switch.as_ref().and_then(|last| last.drain_ms).is_some();
        let drain_ms = opened.filter(|_| !drained).and_then(|(_, at)| i64::try_from((self.context.now() - at).as_millis()).ok());
        let pause_ms = self.roll.as_ref().and_then(|roll| members::paused(roll, state.newest().epoch));
        let now = Timestamp::now().to_string();
        let shown = shown::shown(state, &view.backend, &Notes { why, ignored, drain_ms, pause_ms, now: &now });
        view.show(&self.context, &self.wanted, &shown).await
    }

    /// What has happened is told when nobody is kept waiting by it.
    async fn tell(&mut self) {
        if self.known.as_ref().is_some_and(|known| matches!(known.state.phase(), Phase::Hold { .. })) && !self.leaving {
            return;
        }
        for event in self.events.drain(..) {
            self.context.tell(&self.wanted.namespace, &self.wanted.name, &self.wanted.uid, &event).await;
        }
    }

    async fn until(&self, at: Option<Duration>) {
        match at {
            Some(at) => tokio::time::sleep(at.saturating_sub(self.context.now())).await,
            None => std::future::pending().await,
        }
    }
}
