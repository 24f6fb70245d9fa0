//! A switch within one process: coordinator and pod in one, for `up`. The state lies in a file.

use super::Switching;
use super::keeper::keep;
use crate::broker::TopicWish;
use crate::publish::{Gate, Publisher};
use anyhow::Context;
use arc_swap::ArcSwap;
use crds::member::BackendRequest;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{self, Listing, Member, Observed, Outcome, Phase, Request, Rules, Settings, Sight, Source, Step, SwitchState};
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
/// How soon a changed document is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// There is no API server to be cut off from.
const NEVER: Duration = Duration::MAX;

/// The state of the switch, kept in a file.
#[derive(Clone, Debug)]
pub struct Kept {
    file: PathBuf,
}

impl Kept {
    pub fn new(folder: &Path) -> Kept {
        Kept { file: folder.join(FILE) }
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
        for open in state.epochs() {
            let known = config.backends.iter().any(|backend| *backend.name == *open.backend);
            anyhow::ensure!(
                known,
                "orders lie on backend {}, which the document no longer names: add it to spec.backends again until it is drained",
                open.backend
            );
        }
        Ok(state)
    }

    /// All of it or nothing: a crash leaves the old state or the new one.
    fn write(&self, state: &SwitchState) -> anyhow::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let new = self.file.with_extension("new");
            let mut file = std::fs::File::create(&new)?;
            file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.file)?;
            std::fs::File::open(folder)?.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", self.file.display()))
    }
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
    pub wishes: Vec<TopicWish>,
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
        keeping.spawn(keep(self.publisher.clone(), self.wishes.clone(), changed.clone()));
        let mut requested = self.requests.subscribe();
        let mut complaint = None;
        loop {
            let state = self.switching.states().borrow().clone();
            let now = began.elapsed();
            let leaving = *stop.borrow();
            let step = self.step(&state, &mut sight, now, leaving);
            let until = match step {
                Step::Write(next) => {
                    self.turn(&state, next).await;
                    continue;
                }
                Step::Wait { until, why } => {
                    if why != complaint
                        && let Some(why) = &why
                    {
                        tracing::info!("{why}");
                    }
                    complaint = why;
                    until
                }
                Step::Done => None,
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
        let requests: Vec<Request> = self.requests.borrow().clone().into_iter().map(Request::from).collect();
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
            obstacle: None,
            listing: Some(&listing),
            // The file is all there is.
            mirrored: state.revision(),
            abandon: None,
            leaving,
        };
        switch::step(&settings, state, &observed, sight.of(state, now), now)
    }

    /// From one state to the next. What cannot be written down does not happen.
    async fn turn(&self, before: &SwitchState, next: SwitchState) {
        let next = Arc::new(next);
        let (kept, written) = (self.kept.clone(), next.clone());
        match tokio::task::spawn_blocking(move || kept.write(&written)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!("the switch stands still: {error:#}");
                return sleep(Duration::from_secs(1)).await;
            }
            Err(_) => return, // the runtime ends
        }
        tell(before, &next);
        self.publisher.gate().observe(Source::Quorum, &next);
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
