//! The gate: whether messages may be handed to a broker now, and to which one. With one backend it stands open until the pod stops;
//! with several it obeys the state of the switch.

use super::states::{States, Teller};
use crds::member::{Answer, Pause};
use crds::switch::{self, Admit, Closed, Opening, Phase, Source, SwitchState, Verdict};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The most messages that wait at a held gate. All that the API, the generator and the worker can have in work at once is less.
pub(super) const MOST_WAITING: usize = 8192;

/// The gate, and the count of what is in flight behind it: from hand-over to the client library until its report.
pub struct Gate {
    shut: AtomicBool,
    in_flight: AtomicUsize,
    settled: Notify,
    /// None: there is one backend.
    switched: Option<Switched>,
}

struct Switched {
    protocol: Mutex<switch::Gate>,
    began: Instant,
    /// What the protocol has taken as news.
    states: Teller,
    /// There may be another answer to the coordinator.
    news: Notify,
    waiting: AtomicUsize,
    /// Those who wait, one behind the other: they go on in the order in which they came.
    queue: tokio::sync::Mutex<()>,
    /// While the first ones wait, until a broker has the first of them.
    pausing: Mutex<Option<Pausing>>,
    /// The last pause that is over.
    paused: Mutex<Option<Pause>>,
}

/// A pause of writes that is not over yet.
struct Pausing {
    since: Instant,
    /// Somebody who waited has been let through.
    went_on: bool,
}

/// Why a message may not be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    #[error("this process is stopping and publishes nothing more")]
    Shut,
    #[error("{}", Closed::CutOff)]
    CutOff,
    #[error("the pipeline is moving to another backend, and that took longer than this message may wait")]
    Held,
    #[error("the pipeline is moving to another backend, and {MOST_WAITING} messages wait for that already")]
    Full,
}

/// The right to hand over one message; given back by the broker's report.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    /// Where it goes; None where there is one backend.
    opening: Option<Arc<Opening>>,
    /// It has waited in the pause that began then.
    paused_since: Option<Instant>,
}

impl Pass {
    pub fn opening(&self) -> Option<&Arc<Opening>> {
        self.opening.as_ref()
    }

    /// The broker has the message.
    pub fn arrived(&self) {
        if let (Some(since), Some(opening), Some(switched)) = (self.paused_since, &self.opening, &self.gate.switched) {
            switched.arrived(since, opening);
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Gate {
    /// For a pipeline with one backend.
    pub fn open() -> Arc<Gate> {
        Arc::new(Gate::new(None))
    }

    /// For a pipeline with several: `protocol` obeys a state already.
    pub fn switched(protocol: switch::Gate, began: Instant) -> Option<Arc<Gate>> {
        let state = protocol.state()?.clone();
        let switched = Switched {
            protocol: Mutex::new(protocol),
            began,
            states: Teller::new(state),
            news: Notify::new(),
            waiting: AtomicUsize::new(0),
            queue: tokio::sync::Mutex::default(),
            pausing: Mutex::default(),
            paused: Mutex::default(),
        };
        Some(Arc::new(Gate::new(Some(switched))))
    }

    fn new(switched: Option<Switched>) -> Gate {
        Gate { shut: AtomicBool::new(false), in_flight: AtomicUsize::new(0), settled: Notify::new(), switched }
    }

    /// A pass through the gate, if it is open now. It is counted before the gate is looked at, so that [`Gate::settle`] misses none.
    pub fn enter(self: &Arc<Self>) -> Result<Pass, NotNow> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let mut pass = Pass { gate: self.clone(), opening: None, paused_since: None };
        if self.shut.load(Ordering::SeqCst) {
            return Err(NotNow::Shut);
        }
        let Some(switched) = &self.switched else { return Ok(pass) };
        match switched.protocol().admit() {
            Admit::Pass(opening) => {
                pass.opening = Some(opening);
                Ok(pass)
            }
            Admit::Wait => Err(NotNow::Held),
            Admit::Closed(Closed::CutOff) => Err(NotNow::CutOff),
            Admit::Closed(Closed::Stopping) => Err(NotNow::Shut),
        }
    }

    /// A pass through the gate, waiting at a held one until then. Whoever waits goes on in turn.
    pub async fn pass(self: &Arc<Self>, until: Instant) -> Result<Pass, NotNow> {
        let Some(switched) = &self.switched else { return self.enter() };
        if switched.waiting.load(Ordering::Acquire) == 0 {
            match self.enter() {
                Err(NotNow::Held) => switched.pauses(),
                result => return result,
            }
        }
        let _waiting = switched.wait()?;
        let in_turn = async {
            let _turn = switched.queue.lock().await;
            let mut states = switched.states.follow();
            loop {
                match self.enter() {
                    Err(NotNow::Held) => switched.pauses(),
                    result => return result,
                }
                states.changed().await;
            }
        };
        let mut pass = timeout_at(until, in_turn).await.unwrap_or(Err(NotNow::Held))?;
        pass.paused_since = switched.goes_on();
        Ok(pass)
    }

    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Shuts the gate for good.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        if let Some(switched) = &self.switched {
            switched.protocol().stop();
            switched.states.wake();
            switched.news.notify_one();
        }
    }

    /// Waits until nothing is in flight, at most so long. Returns what still is.
    pub async fn settle(&self, at_most: Duration) -> usize {
        let deadline = Instant::now() + at_most;
        loop {
            let settled = self.settled.notified();
            let left = self.in_flight();
            if left == 0 || timeout_at(deadline, settled).await.is_err() {
                return left.min(self.in_flight());
            }
        }
    }
}

/// For whoever brings the state and carries the answers. None of it does anything where there is one backend.
impl Gate {
    /// A state has come in; it is obeyed if it is news.
    pub fn observe(&self, source: Source, state: &Arc<SwitchState>) -> bool {
        let Some(switched) = &self.switched else { return false };
        let mut protocol = switched.protocol();
        let obeyed = protocol.observe(source, state, switched.now());
        if obeyed {
            if matches!(state.phase(), Phase::Hold { .. }) {
                // None of those who went on after the last one is with a broker: they will not end this pause.
                lock(&switched.pausing).take_if(|pausing| pausing.went_on);
            }
            // Under the lock: two that come in at once are told in their order.
            switched.states.tell(state.clone());
            switched.news.notify_one();
        }
        obeyed
    }

    /// Now and then: a pod that has not heard of the API server for too long accepts nothing more.
    pub fn tick(&self) {
        let Some(switched) = &self.switched else { return };
        if switched.protocol().tick(switched.now()) {
            tracing::warn!(
                "this pod accepts writes only while it hears from the API server: it has been cut off for too long, or hears it again; see the pod's way to it"
            );
            switched.states.wake();
        }
    }

    /// The API server has answered, though it had nothing to tell.
    pub fn heard(&self) {
        if let Some(switched) = &self.switched {
            switched.protocol().heard(switched.now());
        }
    }

    /// The states that are obeyed, as they come.
    pub fn states(&self) -> Option<States> {
        self.switched.as_ref().map(|switched| switched.states.follow())
    }

    /// Until there may be another answer.
    pub async fn news(&self) {
        match &self.switched {
            Some(switched) => switched.news.notified().await,
            None => std::future::pending().await,
        }
    }

    pub fn paused(&self) -> Option<Pause> {
        *lock(&self.switched.as_ref()?.paused)
    }

    pub fn answer(&self) -> Option<Answer> {
        self.switched.as_ref()?.protocol().answer()
    }

    /// The target that is to be prepared, and the state that asks for it.
    pub fn to_prepare(&self) -> Option<(Arc<SwitchState>, Arc<str>)> {
        let protocol = self.switched.as_ref()?.protocol();
        Some((protocol.state()?.clone(), protocol.to_prepare()?.clone()))
    }

    pub fn prepared(&self, begun_by: &SwitchState, verdict: Verdict) {
        if let Some(switched) = &self.switched {
            switched.protocol().prepared(begun_by, verdict);
            switched.news.notify_one();
        }
    }

    /// When what is in flight has to be given up, so that this process does not end everyone's hold.
    pub fn purge_at(&self) -> Option<Instant> {
        let switched = self.switched.as_ref()?;
        let protocol = switched.protocol();
        let at = protocol.purge_at().filter(|_| protocol.in_flight() > 0)?;
        Some(switched.began + at)
    }
}

impl Switched {
    fn protocol(&self) -> MutexGuard<'_, switch::Gate> {
        lock(&self.protocol)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A place in the room of those who wait.
    fn wait(&self) -> Result<Waiting<'_>, NotNow> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(NotNow::Full);
        }
        Ok(Waiting(self))
    }

    /// Somebody found the gate held. Who only waits for those before him has not: it may be open already.
    fn pauses(&self) {
        lock(&self.pausing).get_or_insert_with(|| Pausing { since: Instant::now(), went_on: false });
    }

    /// Somebody who waited is let through. Since when writes have paused.
    fn goes_on(&self) -> Option<Instant> {
        let mut pausing = lock(&self.pausing);
        let pausing = pausing.as_mut()?;
        pausing.went_on = true;
        Some(pausing.since)
    }

    /// A broker has one that waited: the first of them ends the pause.
    fn arrived(&self, since: Instant, opening: &Opening) {
        if lock(&self.pausing).take_if(|pausing| pausing.since == since).is_none() {
            return;
        }
        let pause = since.elapsed();
        *lock(&self.paused) = Some(Pause { epoch: opening.epoch, ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) });
        self.news.notify_one();
        let (ms, waiting) = (pause.as_secs_f64() * 1000.0, self.waiting.load(Ordering::Relaxed));
        tracing::info!(backend = &*opening.backend, waiting, "writes go on after a pause of {ms:.1} ms");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Waiting<'a>(&'a Switched);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            // If all have given up, the next pause is measured anew.
            lock(&self.0.pausing).take_if(|pausing| !pausing.went_on);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let (Some(opening), Some(switched)) = (&self.opening, &self.gate.switched)
            && switched.protocol().settled(opening.epoch)
        {
            switched.news.notify_one();
        }
        if self.gate.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.gate.settled.notify_waiters();
        }
    }
}
