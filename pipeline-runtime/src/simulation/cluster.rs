//! What Kubernetes is to the pipeline: the state of the switch, replaced only by who has read it; one object a pod; what the kubelet
//! says of the pods. Calls take their time, fail, and are carried out although their answer gets lost.

use super::dice::Dice;
use chrono::DateTime;
use crds::member::{Answer, MemberPod, Reports};
use crds::switch::{Container, Member, Pod, Rules, SwitchState, counts};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

pub const LINEAGE: &str = "x";

pub struct Cluster {
    dice: Dice,
    began: Instant,
    kept: Mutex<Kept>,
    /// How often anything changed.
    changes: Arc<(AtomicU64, Notify)>,
}

struct Kept {
    states: Vec<Arc<SwitchState>>,
    /// Somebody has deleted it.
    gone: bool,
    mirror: Option<Arc<SwitchState>>,
    spec: &'static str,
    members: BTreeMap<&'static str, Object>,
    pods: BTreeMap<&'static str, Container>,
    away_until: Option<Instant>,
}

#[derive(Clone)]
pub struct Object {
    pub pod: MemberPod,
    pub answer: Option<Answer>,
    pub reports: Option<Reports>,
}

/// Follows what changes. Wakes those who wait in their order, which tokio's `watch` does not.
pub struct Changes {
    of: Arc<(AtomicU64, Notify)>,
    seen: u64,
}

impl Changes {
    pub fn mark_unchanged(&mut self) {
        self.seen = self.of.0.load(SeqCst);
    }

    pub async fn changed(&mut self) {
        loop {
            let news = self.of.1.notified();
            let now = self.of.0.load(SeqCst);
            if now != self.seen {
                self.seen = now;
                return;
            }
            news.await;
        }
    }
}

/// The call failed, or its answer got lost.
#[derive(Debug)]
pub struct Failed;

impl Cluster {
    pub fn new(dice: Dice, backend: &'static str) -> Arc<Cluster> {
        let kept = Kept {
            states: vec![Arc::new(SwitchState::first(LINEAGE, backend))],
            gone: false,
            mirror: None,
            spec: backend,
            members: BTreeMap::new(),
            pods: BTreeMap::new(),
            away_until: None,
        };
        Arc::new(Cluster { dice, began: Instant::now(), kept: Mutex::new(kept), changes: Arc::default() })
    }

    /// The node's clock.
    fn clock(&self) -> String {
        DateTime::from_timestamp_millis(self.began.elapsed().as_millis() as i64).unwrap_or_default().to_rfc3339()
    }

    fn change<T>(&self, how: impl FnOnce(&mut Kept) -> T) -> T {
        let result = how(&mut self.kept.lock().unwrap());
        self.changes.0.fetch_add(1, SeqCst);
        self.changes.1.notify_waiters();
        result
    }

    fn look<T>(&self, how: impl FnOnce(&Kept) -> T) -> T {
        how(&self.kept.lock().unwrap())
    }

    pub fn changes(&self) -> Changes {
        Changes { of: self.changes.clone(), seen: 0 }
    }

    pub fn away(&self, until: Instant) {
        self.change(|kept| kept.away_until = Some(until));
    }

    pub fn is_away(&self) -> bool {
        self.look(|kept| kept.away_until.is_some_and(|until| Instant::now() < until))
    }

    /// Somebody deletes the state. The pods keep to the last one; a leader makes it again from what is mirrored. Not once more before
    /// what was made again is mirrored: a rebuilt Hold is opened unmirrored, and then pods have seen what is more than two revisions
    /// above the mirror.
    pub fn delete(&self) {
        self.change(|kept| {
            let latest = kept.states.last().map_or(0, |state| state.revision());
            kept.gone |= kept.mirror.as_ref().is_some_and(|mirror| latest <= mirror.revision() + 2);
        });
    }

    pub fn ask_for(&self, backend: &'static str) {
        self.change(|kept| kept.spec = backend);
    }

    pub fn spec(&self) -> &'static str {
        self.look(|kept| kept.spec)
    }

    pub fn state(&self) -> Arc<SwitchState> {
        self.nth(self.latest())
    }

    /// The number of the latest state, as the watch counts them.
    pub fn latest(&self) -> usize {
        self.look(|kept| kept.states.len() - 1)
    }

    pub fn nth(&self, index: usize) -> Arc<SwitchState> {
        self.look(|kept| kept.states[index].clone())
    }

    /// A container starts.
    pub fn starts(&self, name: &'static str) -> MemberPod {
        let container_started_at = self.clock();
        self.change(|kept| kept.pods.insert(name, Container::Running));
        MemberPod { name: name.into(), uid: name.into(), container_started_at }
    }

    /// And ends.
    pub fn ended(&self, name: &'static str) {
        let ended_at = Some(self.clock());
        self.change(|kept| kept.pods.insert(name, Container::NotRunning { ended_at }));
    }

    async fn call<T>(&self, what: impl FnOnce() -> T) -> Result<T, Failed> {
        self.dice.travel().await;
        if self.dice.fault(20) || self.is_away() {
            return Err(Failed);
        }
        let result = what();
        let lost = self.dice.fault(20);
        self.dice.travel().await;
        if lost { Err(Failed) } else { Ok(result) }
    }

    /// With its number. None: it was deleted.
    pub async fn read(&self) -> Result<Option<(usize, Arc<SwitchState>)>, Failed> {
        self.call(|| self.look(|kept| (!kept.gone).then(|| (kept.states.len() - 1, kept.states[kept.states.len() - 1].clone())))).await
    }

    /// Makes it again, unless somebody else has.
    pub async fn make(&self) -> Result<(), Failed> {
        let make = |kept: &mut Kept| {
            if let Some(mirror) = kept.mirror.as_ref().filter(|_| kept.gone) {
                let state = SwitchState::rebuilt(mirror);
                tracing::info!(state = serde_json::to_string(&state).unwrap_or_default(), "the state is made again");
                kept.states.push(Arc::new(state));
                kept.gone = false;
            }
        };
        self.call(|| self.change(make)).await
    }

    /// False: somebody else has replaced it meanwhile.
    pub async fn replace(&self, known: &Arc<SwitchState>, next: SwitchState) -> Result<bool, Failed> {
        let replace = |kept: &mut Kept| {
            let same = !kept.gone && kept.states.last().is_some_and(|last| Arc::ptr_eq(last, known));
            if same {
                tracing::info!(state = serde_json::to_string(&next).unwrap_or_default(), "the state is replaced");
                kept.states.push(Arc::new(next));
            }
            same
        };
        self.call(|| self.change(replace)).await
    }

    /// The revision that status mirrors.
    pub async fn mirrored(&self) -> Result<u64, Failed> {
        self.call(|| self.look(|kept| kept.mirror.as_ref().map_or(0, |mirror| mirror.revision()))).await
    }

    /// Status shows this one, unless it shows a later one.
    pub async fn mirror(&self, state: &Arc<SwitchState>) -> Result<(), Failed> {
        let mirror = |kept: &mut Kept| {
            if kept.mirror.as_ref().is_none_or(|mirror| mirror.revision() < state.revision()) {
                kept.mirror = Some(state.clone());
            }
        };
        self.call(|| self.change(mirror)).await
    }

    /// All that there ever were.
    pub fn states(&self) -> Vec<Arc<SwitchState>> {
        self.look(|kept| kept.states.clone())
    }

    pub async fn write_member(&self, name: &'static str, object: Object) -> Result<(), Failed> {
        self.call(|| self.change(|kept| drop(kept.members.insert(name, object)))).await
    }

    /// The members, then their pods: the other way round one would be taken for gone that has just come.
    pub async fn list(&self) -> Result<Vec<Member>, Failed> {
        let objects = self.call(|| self.look(|kept| kept.members.clone())).await?;
        let pods = self.call(|| self.look(|kept| kept.pods.clone())).await?;
        let member = |(name, object): (&str, Object)| {
            let pod = pods.get(name).map(|container| Pod { uid: name.into(), ended: false, container: container.clone() });
            Member {
                name: name.into(),
                counts: counts(Rules::in_force(), &object.pod, pod.as_ref()),
                answer: object.answer,
                reports: object.reports,
            }
        };
        Ok(objects.into_iter().map(|(name, object)| member((name, object))).collect())
    }

    /// Until it is back, if it is away.
    pub async fn back(&self) {
        while let Some(until) = self.look(|kept| kept.away_until).filter(|until| Instant::now() < *until) {
            sleep(until - Instant::now()).await;
        }
    }
}
