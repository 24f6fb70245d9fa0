//! The switch in a pod: the state comes from the API server, and the pod's answers go into a PipelineMember of its own.
//!
//! A pod first makes its member, then reads the state, and only then may it write. It is its member's only writer, and between
//! switches it writes nothing.

mod member;
mod state;

pub use state::mounted;

use super::keeper::keep;
use super::{Needs, Switching};
use crate::publish::{Gate, Publisher};
use chrono::{DateTime, SecondsFormat, Utc};
use crds::member::{BackendRequest, MemberPod, PipelineMemberSpec, Role};
use crds::pipeline::Name;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{self, Phase, Rule, Rules, Source, SwitchState};
use kube::{Api, Client};
use member::Members;
use state::Origin;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Without a word from the API server for so long a pod accepts nothing more: it may have been given up long ago.
const CUT_OFF_AFTER: Duration = Duration::from_secs(600);
/// How often a pod reads the state although nothing was told: so it knows that it is not cut off, and misses nothing for ever.
const READ_EVERY: Duration = Duration::from_secs(60);
/// A watch can be mute, and a pod that misses the end of a Hold goes on holding.
const READ_EVERY_IN_HOLD: Duration = Duration::from_secs(1);
/// While a switch is prepared, or an old broker drains and nothing of the new one is read.
const READ_EVERY_IN_SWITCH: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Which pod this process runs in, and where it hears of the switch.
pub struct Pod {
    pub client: Client,
    pub name: String,
    pub uid: String,
    /// When this process was started; the container was started before, and the one before it had ended by then.
    pub started: DateTime<Utc>,
    pub file: PathBuf,
}

/// A pod that is a member of its pipeline.
pub struct Member {
    members: Members,
    origin: Origin,
    spec: PipelineMemberSpec,
    gate: Arc<Gate>,
    file: PathBuf,
    request: watch::Sender<Option<BackendRequest>>,
}

/// Joins, however long that takes: without knowing the state nothing may be written.
pub async fn join(pod: Pod, config: &RuntimeConfig, role: Role) -> Member {
    let Pod { client, name, uid, started, file } = pod;
    let pod = MemberPod { name, uid, container_started_at: started.to_rfc3339_opts(SecondsFormat::Millis, true) };
    let pipeline = Name(config.pipeline.clone());
    let spec = PipelineMemberSpec {
        pipeline,
        role,
        pod: pod.clone(),
        brokers: Some(config.brokers()),
        connected: Vec::new(),
        answer: None,
        reports: None,
        request: None,
        paused: None,
    };
    let members = Members::new(Api::namespaced(client.clone(), &config.namespace), pod);
    let origin = Origin { states: Api::namespaced(client, &config.namespace), pipeline: config.pipeline.clone() };
    let limits = switch::Limits { purge_after: config.switching.hold_deadline / 2, cut_off_after: CUT_OFF_AFTER };
    let rules = Rules::in_force(); // all of them, but in a build for fault tests
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let joined = async {
            let mut protocol = switch::Gate::new(rules, limits, began.elapsed());
            if rules.keep(Rule::JoinBeforeRead) {
                members.write(&spec).await?;
                protocol.joined();
            }
            let old = if rules.keep(Rule::QuorumRead) { None } else { state::read_file(&file).await };
            let (source, state) = match old {
                Some(state) => (Source::File, state),
                None => (Source::Quorum, origin.read().await?.ok_or("the operator has not written the state of the switch yet")?),
            };
            protocol.observe(source, &state, began.elapsed());
            Ok::<_, String>(Gate::switched(protocol, began))
        };
        match joined.await {
            Ok(Some(gate)) => {
                let request = watch::Sender::new(None);
                return Member { members, origin, spec, gate, file, request };
            }
            Ok(None) => tracing::error!("the state of the switch was read and not obeyed"),
            Err(why) => tracing::warn!("this pod cannot join its pipeline yet, trying again in {pause:?}: {why}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Member {
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Where to put what somebody asks of this pod; it goes to the operator with the next write.
    pub fn requests(&self) -> watch::Sender<Option<BackendRequest>> {
        self.request.clone()
    }

    /// Obeys and answers, until dropped.
    pub async fn run(&self, publisher: Publisher, switching: Arc<Switching>, needs: Needs) {
        let changed = Arc::new(Notify::new());
        tokio::select! {
            () = keep(publisher.clone(), needs, changed.clone()) => {}
            () = self.origin.watch(|source, state| self.obey(source, &state)) => {}
            () = state::follow_file(self.file.clone(), |source, state| self.obey(source, &state)) => {}
            () = self.tick() => {}
            () = self.read_now_and_then() => {}
            () = self.answer(&publisher, &switching, &changed) => {}
        }
    }

    fn obey(&self, source: Source, state: &Arc<SwitchState>) {
        if self.gate.observe(source, state) {
            tracing::debug!(?source, ?state, "the state of the switch");
        }
    }

    async fn tick(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.gate.tick();
        }
    }

    async fn read_now_and_then(&self) {
        let (mut read, mut looked) = (Instant::now(), Instant::now());
        loop {
            sleep(TICK).await;
            if read.elapsed() < self.read_every() {
                continue;
            }
            read = Instant::now();
            // Whoever deletes it takes this pod out of the count: it has to be back before the next switch.
            if looked.elapsed() >= READ_EVERY {
                looked = read;
                if self.members.exists().await == Ok(false) {
                    tracing::warn!("somebody has deleted this pod's PipelineMember; it joins again");
                    let _ = self.members.write(&self.spec).await;
                    self.request.send_modify(|_| {}); // and says again what it has to say
                }
            }
            match self.origin.read().await {
                Ok(Some(state)) => self.obey(Source::Quorum, &state),
                Ok(None) => self.gate.heard(),
                Err(why) => tracing::debug!("the state of the switch cannot be read: {why}"),
            }
        }
    }

    fn read_every(&self) -> Duration {
        let Some(states) = self.gate.states() else { return READ_EVERY };
        let state = states.borrow();
        match state.phase() {
            Phase::Hold { .. } => READ_EVERY_IN_HOLD,
            Phase::Prepare { .. } => READ_EVERY_IN_SWITCH,
            Phase::Steady if state.drains() => READ_EVERY_IN_SWITCH,
            Phase::Steady => READ_EVERY,
        }
    }

    /// Writes what is new, and nothing else.
    async fn answer(&self, publisher: &Publisher, switching: &Switching, changed: &Notify) {
        let mut requests = self.request.subscribe();
        let mut written: Option<PipelineMemberSpec> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut wanted = self.wanted(publisher, switching);
            if wanted.answer.is_none() {
                // That nothing is asked any more is not worth a write: an answer names the revision that it is for.
                wanted.answer = written.as_ref().and_then(|written| written.answer.clone());
            }
            let again = requests.has_changed().unwrap_or(false);
            if again || written.as_ref() != Some(&wanted) {
                requests.mark_unchanged();
                if let Err(why) = self.members.write(&wanted).await {
                    tracing::warn!("this pod's PipelineMember cannot be written, trying again in {pause:?}: {why}");
                    written = None;
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                (written, pause) = (Some(wanted), FIRST_PAUSE);
                continue;
            }
            tokio::select! {
                () = changed.notified() => {}
                () = switching.told() => {}
                _ = requests.changed() => requests.mark_changed(),
            }
        }
    }

    fn wanted(&self, publisher: &Publisher, switching: &Switching) -> PipelineMemberSpec {
        let mut connected: Vec<Name> = publisher.brokers().all_opened().iter().map(|broker| Name(broker.name().to_owned())).collect();
        connected.sort_by(|a, b| a.0.cmp(&b.0));
        let reports = switching.reader(|reader| reader.reports());
        let request = self.request.borrow().clone();
        PipelineMemberSpec { connected, answer: self.gate.answer(), reports, request, paused: self.gate.paused(), ..self.spec.clone() }
    }

    /// When nothing more will be written by this process.
    pub async fn leave(&self) {
        if let Err(why) = self.members.delete().await {
            tracing::warn!("this pod's PipelineMember cannot be deleted; the operator sees that the pod has ended: {why}");
        }
    }
}
