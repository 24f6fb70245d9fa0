//! A switch within one process: coordinator and pod in one, for `up`. The state lies in a file.

use super::keeper::keep;
use super::{Needs, Switching};
use crate::publish::{Gate, Publisher};
use crate::sqlite::{OpenError, lock};
use anyhow::Context;
use arc_swap::ArcSwap;
use crds::member::BackendRequest;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{self, Listing, Member, Observed, Outcome, Phase, Request, Rules, Settings, Sight, Source, Step, SwitchState};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

/// The state's file, beside the built-in database.
const FILE: &str = "switch.json";
/// Likewise of the document's own brokers, which have nothing to do with what lies on the built-in ones.
const LIVE: &str = "switch-live.json";
/// How soon a changed document is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// What is waited for so long is said. Mostly it is over before, and would only sound like a failure.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// There is no API server to be cut off from.
const NEVER: Duration = Duration::MAX;

/// The state of the switch, kept in a file.
#[derive(Clone, Debug)]
pub struct Kept {
    file: PathBuf,
    _own: Option<Arc<File>>,
}

impl Kept {
    /// Of the built-in brokers, whose database this process has for itself.
    pub fn new(folder: &Path) -> Kept {
        Kept { file: folder.join(FILE), _own: None }
    }

    /// Of the document's own brokers. Two processes by one state would each move without the other: the second one is refused.
    pub fn live(folder: &Path) -> Result<Kept, OpenError> {
        let file = folder.join(LIVE);
        let own = Some(Arc::new(lock(&file)?));
        Ok(Kept { file, _own: own })
    }

    /// What was kept, else a new state that begins with this backend. `backends` are those of the document.
    pub fn read(&self, config: &RuntimeConfig) -> anyhow::Result<SwitchState> {
        let shown = self.file.display();
        let text = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let state = SwitchState::first(&Uuid::new_v4().simple().to_string(), &config.backend);
                self.write(&state)?;
                return Ok(state);
            }
            Err(e) => return Err(e).with_context(|| format!("{shown} cannot be read")),
        };
        let state = SwitchState::parse(&text).with_context(|| format!("{shown} says which broker holds which orders"))?;
        names_all(&state, config).map_err(anyhow::Error::msg)?;
        if config.backends.len() == 1 { self.noted(state, config) } else { Ok(state) }
    }

    /// With one backend nobody moves this process; but what its document asks for ends all requests of before.
    fn noted(&self, mut state: SwitchState, config: &RuntimeConfig) -> anyhow::Result<SwitchState> {
        // What was being prepared is taken back, and then what rules from now on is noted.
        for _ in 0..2 {
            let requests: Vec<Request> = state.back_to_spec(config).into_iter().collect();
            let observed = Observed {
                spec: &config.backend,
                requests: &requests,
                obstacle: Some("there is one backend"),
                listing: None,
                mirrored: state.revision(), // the file is all there is
                abandon: None,
                leaving: false,
            };
            let since = Sight::default().of(&state, Duration::ZERO);
            if let Step::Write(next) = switch::step(&Settings::of(&config.switching), &state, &observed, since, Duration::ZERO) {
                self.write(&next)?;
                state = next;
            }
        }
        Ok(state)
    }

    /// All of it or nothing: a crash leaves the old state or the new one.
    fn write(&self, state: &SwitchState) -> anyhow::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let new = self.file.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.file)?;
            File::open(folder)?.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// Whether a document has every backend that this state needs.
pub fn names_all(state: &SwitchState, config: &RuntimeConfig) -> Result<(), String> {
    let target = match state.phase() {
        Phase::Hold { target, .. } => Some(target), // it is opened as soon as nothing is in flight
        Phase::Steady | Phase::Prepare { .. } => None,
    };
    let needed = state.epochs().iter().map(|open| &open.backend).chain(target);
    let missing = needed.into_iter().find(|name| !config.backends.iter().any(|backend| *backend.name == ***name));
    missing.map_or(Ok(()), |backend| {
        Err(format!(
            "orders lie on backend {backend}, which the document no longer names: add it to spec.backends again until it is drained"
        ))
    })
}

/// The gate of a process that is alone, obeying this state.
pub fn gate(config: &RuntimeConfig, state: &Arc<SwitchState>) -> Option<Arc<Gate>> {
    let limits = switch::Limits { purge_after: config.switching.hold_deadline / 2, cut_off_after: NEVER };
    let began = Instant::now();
    let mut protocol = switch::Gate::new(Rules::in_force(), limits, Duration::ZERO);
    protocol.joined();
    protocol.observe(Source::Quorum, state, Duration::ZERO);
    Gate::switched(protocol, began)
}

/// Moves this process from backend to backend, as its document asks.
pub struct Local {
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    pub kept: Kept,
    pub publisher: Publisher,
    pub switching: Arc<Switching>,
    pub needs: Needs,
    /// What is asked for over the API.
    pub requests: watch::Sender<Option<BackendRequest>>,
}

impl Local {
    /// Runs until told to stop, and then until writes are no longer held.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let began = Instant::now();
        let mut sight = Sight::default();
        let changed = Arc::new(Notify::new());
        let mut keeping = JoinSet::new();
        keeping.spawn(keep(self.publisher.clone(), self.needs.clone(), changed.clone()));
        let mut requested = self.requests.subscribe();
        let mut waiting = Waiting::default();
        loop {
            let state = self.switching.states().borrow().clone();
            let now = began.elapsed();
            let leaving = *stop.borrow();
            let step = self.step(&state, &mut sight, now, leaving);
            let until = match step {
                // What cannot be written down must not keep the process from ending: the next one goes on from what is written.
                Step::Write(next) => match self.turn(&state, next).await {
                    false if leaving => return,
                    _ => continue,
                },
                Step::Wait { until, why } => {
                    if let Some(why) = waiting.worth_saying(why, now) {
                        tracing::info!("{why}");
                    }
                    until
                }
                Step::Done => {
                    waiting = Waiting::default();
                    None
                }
            };
            if leaving && !matches!(state.phase(), Phase::Hold { .. }) {
                return;
            }
            let next_look = Instant::now() + LOOK;
            tokio::select! {
                () = changed.notified() => {}
                () = self.switching.told() => {}
                _ = requested.changed() => {}
                () = sleep_until(until.map_or(next_look, |until| (began + until).min(next_look))) => {}
                Ok(()) = stop.changed(), if !leaving => {}
            }
        }
    }

    fn step(&self, state: &Arc<SwitchState>, sight: &mut Sight, now: Duration, leaving: bool) -> Step {
        let config = self.config.load();
        let requests: Vec<Request> =
            self.requests.borrow().clone().into_iter().map(Request::from).chain(state.back_to_spec(&config)).collect();
        let obstacle = switch::nobody_drains(state, &config);
        let settings = Settings::of(&config.switching);
        let me = Member {
            name: "this process".into(),
            counts: true,
            answer: self.publisher.gate().answer(),
            reports: self.switching.reader(|reader| reader.reports()),
        };
        let listing = Listing { after: state.revision(), members: vec![me] };
        let observed = Observed {
            spec: &config.backend,
            requests: &requests,
            obstacle: obstacle.as_deref(),
            listing: Some(&listing),
            // The file is all there is.
            mirrored: state.revision(),
            abandon: None,
            leaving,
        };
        switch::step(&settings, state, &observed, sight.of(state, now), now)
    }

    /// From one state to the next. What cannot be written down does not happen: false.
    async fn turn(&self, before: &SwitchState, next: SwitchState) -> bool {
        let next = Arc::new(next);
        let (kept, written) = (self.kept.clone(), next.clone());
        match tokio::task::spawn_blocking(move || kept.write(&written)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!("the switch stands still: {error:#}");
                sleep(Duration::from_secs(1)).await;
                return false;
            }
            Err(_) => return false, // the runtime ends
        }
        tell(before, &next);
        self.publisher.gate().observe(Source::Quorum, &next);
        true
    }
}

/// What is waited for, since when, and whether it has been said.
#[derive(Default)]
struct Waiting {
    why: Option<String>,
    since: Duration,
    said: bool,
}

impl Waiting {
    /// Each reason once, when it has lasted.
    fn worth_saying(&mut self, why: Option<String>, now: Duration) -> Option<&str> {
        if self.why != why {
            *self = Waiting { why, since: now, said: false };
        }
        let due = !self.said && now >= self.since + SAY_AFTER;
        self.said |= due;
        self.why.as_deref().filter(|_| due)
    }
}

/// What has happened, for people.
fn tell(before: &SwitchState, now: &SwitchState) {
    let (from, to) = (&before.newest().backend, &now.newest().backend);
    match (before.phase(), now.phase()) {
        (Phase::Steady, Phase::Prepare { target }) => tracing::info!("moving from {from} to {target}: {} asks for it", now.asked().by),
        (_, Phase::Steady) if now.newest().epoch > before.newest().epoch => {
            tracing::info!("writes go to {to} from now on; the worker reads {from} to its end first");
        }
        (Phase::Prepare { target } | Phase::Hold { target, .. }, Phase::Steady) => {
            let why = now.last().map_or("", |last| last.message.as_str());
            tracing::warn!("still on {to}, the move to {target} is taken back: {why}");
        }
        _ if now.active().epoch > before.active().epoch => {
            let outcome = now.last().map(|last| last.outcome);
            let how = if outcome == Some(Outcome::Abandoned) { "is left before its end" } else { "is read to its end" };
            tracing::info!("{} {how}, the worker goes on with {}", before.active().backend, now.active().backend);
        }
        _ => tracing::debug!(?now, "the state of the switch"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_brokers_outside_is_one_processs_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("shop");
        let first = Kept::live(&state).unwrap();
        assert!(Kept::live(&state).unwrap_err().to_string().starts_with("another process uses"));
        drop(first);
        let again = Kept::live(&state).unwrap();
        assert_ne!(again.file, Kept::new(&state).file, "what is built in moves by itself");
    }

    #[test]
    fn a_request_is_over_once_a_document_with_one_backend_has_asked_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let config = |backends: &str| {
            let text = format!(
                "{{apiVersion: orderpipeline.dev/v1alpha1, kind: OrderPipeline, metadata: {{name: shop}}, spec: {{{backends}, topics: [{{name: \
                 orders}}], events: [{{name: OrderCreated}}]}}}}"
            );
            crds::resolve(&crds::document::read(&text).unwrap())
        };
        let (left, right) =
            ("{name: left, kafka: {bootstrapServers: 'left:9092'}}", "{name: right, kafka: {bootstrapServers: 'right:9092'}}");
        let both = config(&format!("backend: left, backends: [{left}, {right}]"));
        let first = kept.read(&both).unwrap();
        let request = Request { backend: "right".into(), by: "ops".into(), at: "".into(), lineage: None, revision: 1 };
        let asked = first.noted(first.ruling("left", &[request]).unwrap()).unwrap();
        let moved = asked.prepared().unwrap().held().unwrap().opened().unwrap().activated(Outcome::Completed).unwrap();
        kept.write(&moved).unwrap();
        assert_eq!(kept.read(&both).unwrap(), moved, "it rules");
        let noted = kept.read(&config(&format!("backends: [{right}]"))).unwrap();
        assert_eq!((&*noted.asked().spec, noted.epochs()), ("right", moved.epochs()));
        let back = kept.read(&both).unwrap();
        assert_eq!(&*back.ruling("left", &[]).unwrap().backend, "left", "the document has changed its mind, and rules again");

        // One that was under way, to a backend that the document lost for a while, is over too.
        kept.write(&asked.prepared().unwrap()).unwrap();
        let noted = kept.read(&config(&format!("backends: [{left}]"))).unwrap();
        assert_eq!((noted.phase(), &*noted.asked().backend, &*noted.asked().by), (&Phase::Steady, "left", "spec.backend"));
        assert_eq!(kept.read(&both).unwrap().ruling("left", &[]), None);
    }

    #[test]
    fn what_is_waited_for_is_said_once_and_only_if_it_lasts() {
        let mut waiting = Waiting::default();
        let mut said =
            |why: Option<&str>, ms: u64| waiting.worth_saying(why.map(str::to_owned), Duration::from_millis(ms)).map(str::to_owned);
        assert_eq!(said(Some("nobody answers"), 100), None);
        assert_eq!(said(Some("workers drain left"), 900), None, "another reason begins anew");
        assert_eq!(said(Some("workers drain left"), 1800), None);
        assert_eq!(said(Some("workers drain left"), 1900).as_deref(), Some("workers drain left"));
        assert_eq!(said(Some("workers drain left"), 9000), None, "once");
        assert_eq!(said(None, 9100), None);
    }

    #[test]
    fn a_document_has_to_name_where_orders_lie_and_where_they_are_just_being_led() {
        const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: left, kafka: {bootstrapServers: 'left:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
";
        let config = |backend: &str| crds::resolve(&crds::document::read(&DOCUMENT.replace("name: left", backend)).unwrap());
        let first = SwitchState::first("l", "left");
        assert_eq!(names_all(&first, &config("name: left")), Ok(()));
        assert!(names_all(&first, &config("name: right")).unwrap_err().contains("orders lie on backend left"));
        let prepared = first.noted(first.ruling("right", &[]).unwrap()).unwrap().prepared().unwrap();
        assert_eq!(names_all(&prepared, &config("name: left")), Ok(()), "that is refused when it is prepared");
        assert!(names_all(&prepared.held().unwrap(), &config("name: left")).unwrap_err().contains("backend right"));
    }
}
