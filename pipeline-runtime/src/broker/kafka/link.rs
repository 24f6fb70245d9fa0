//! Whether the cluster answers.
//!
//! A client of its own asks for a topic's metadata more than once a second, on its own thread, and hears what librdkafka
//! notices by itself (refused connections). Two things are told apart: `connected` says whether the last questions were
//! answered. `known_down` says that no connection to any broker can be made at all, which a broker that is merely slow
//! or stopped never causes: only then are messages refused without trying.

use super::{ASK_WITHIN, KafkaSettings, error};
use crate::broker::BrokerError;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a cluster that answers is asked, and how long it may take.
const ASK_EVERY: Duration = Duration::from_millis(750);
const ANSWER_WITHIN: Duration = Duration::from_millis(600);
/// How soon one that does not is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// So many answers in a row must be missing. Questions go to any broker: while one of three hangs, the cluster is no less there.
const FAILURES: u32 = 3;

pub(super) struct Link {
    backend: String,
    inspector: BaseConsumer<Ears>,
    state: watch::Sender<State>,
    /// Whether `state` says that no connection can be made; read for every message.
    no_connection: AtomicBool,
    /// Any topic of the pipeline, so that a question is about one topic and not about all of the cluster.
    topic: OnceLock<String>,
    stopped: AtomicBool,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing is known yet.
    Unasked,
    Up,
    Down(BrokerError),
}

impl Link {
    pub fn watch(settings: &KafkaSettings) -> Result<Arc<Link>, BrokerError> {
        let inspector = settings
            .client()
            .create_with_context(Ears::new(&settings.name))
            .map_err(|why| error(&settings.name, "setting up the client", &why))?;
        let link = Arc::new(Link {
            backend: settings.name.clone(),
            inspector,
            state: watch::Sender::new(State::Unasked),
            no_connection: AtomicBool::new(false),
            topic: OnceLock::new(),
            stopped: AtomicBool::new(false),
        });
        let watched = link.clone();
        std::thread::Builder::new()
            .name("kafka-link".into())
            .spawn(move || watched.keep_asking())
            .map_err(|why| BrokerError::Other { backend: settings.name.clone(), reason: format!("starting a thread: {why}") })?;
        Ok(link)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// For questions about topics; they block.
    pub fn inspector(&self) -> &Client<Ears> {
        self.inspector.client()
    }

    pub async fn connected(&self) -> Result<(), BrokerError> {
        let mut state = self.state.subscribe();
        // The first answer is waited for, later ones are there.
        let asked = tokio::time::timeout(ASK_WITHIN, state.wait_for(|s| !matches!(s, State::Unasked))).await;
        match asked {
            Ok(Ok(state)) => match &*state {
                State::Down(why) => Err(why.clone()),
                _ => Ok(()),
            },
            _ => Err(self.unreachable("no answer yet".into())),
        }
    }

    /// Why nothing can be sent, if that is certain.
    pub fn known_down(&self) -> Option<BrokerError> {
        if !self.no_connection.load(Ordering::Acquire) {
            return None;
        }
        match &*self.state.borrow() {
            State::Down(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Remembers a topic to ask about. It need not exist: asking makes none.
    pub fn ask_about(&self, topic: &str) {
        if self.topic.get().is_none() {
            let _ = self.topic.set(topic.to_string());
        }
    }

    fn keep_asking(&self) {
        let mut failures: u32 = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            let ears = self.inspector.context();
            match self.inspector.fetch_metadata(self.topic.get().map(String::as_str), ANSWER_WITHIN) {
                Ok(_) => {
                    failures = 0;
                    ears.no_connection.store(false, Ordering::Relaxed);
                    ears.complaint.store(None);
                    self.set(State::Up, false);
                    self.listen(ASK_EVERY);
                }
                Err(why) => {
                    failures = failures.saturating_add(1);
                    self.listen(Duration::ZERO);
                    let no_connection = ears.no_connection.load(Ordering::Relaxed);
                    // One answer that is late is no outage.
                    if failures >= FAILURES || no_connection {
                        let why = match &*ears.complaint.load() {
                            Some(complaint) => complaint.as_ref().clone(),
                            None => self.unreachable(why.to_string()),
                        };
                        self.set(State::Down(why), no_connection);
                    }
                    self.listen(ASK_AGAIN);
                }
            }
        }
    }

    /// Hears what librdkafka has noticed; returns early when every broker has gone away.
    fn listen(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let heard = self.inspector.poll(left);
            let all_down = matches!(&heard, Some(Err(why)) if why.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown));
            if all_down || left.is_zero() && heard.is_none() || self.stopped.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn set(&self, state: State, no_connection: bool) {
        self.state.send_if_modified(|old| {
            match (&*old, &state) {
                (State::Up | State::Unasked, State::Down(why)) => tracing::warn!(backend = self.backend, "{why}"),
                (State::Down(_), State::Up) => tracing::info!(backend = self.backend, "connected again"),
                _ => {}
            }
            *old = state;
            true
        });
        self.no_connection.store(no_connection, Ordering::Release);
    }

    fn unreachable(&self, reason: String) -> BrokerError {
        BrokerError::Unreachable { backend: self.backend.clone(), reason }
    }
}

/// Hears what librdkafka has to say besides answers.
pub(super) struct Ears {
    backend: String,
    /// Every broker was tried and none can be connected to; holds until one answers.
    no_connection: AtomicBool,
    /// What a person must mend before it can work: credentials, certificates.
    complaint: arc_swap::ArcSwapOption<BrokerError>,
}

impl Ears {
    fn new(backend: &str) -> Ears {
        Ears { backend: backend.into(), no_connection: AtomicBool::new(false), complaint: arc_swap::ArcSwapOption::empty() }
    }
}

impl ConsumerContext for Ears {}

impl ClientContext for Ears {
    fn error(&self, why: KafkaError, reason: &str) {
        if why.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.no_connection.store(true, Ordering::Relaxed);
        } else if let BrokerError::Refused { backend, .. } = error(&self.backend, "connecting", &why) {
            self.complaint.store(Some(Arc::new(BrokerError::Refused { backend, reason: reason.into() })));
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.backend, level, facility, message);
    }
}

/// librdkafka's own log. Lost connections are told by `Link`, once; here they would come with every attempt.
pub(super) fn log(backend: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::*;
    match level {
        Emerg | Alert | Critical => tracing::error!(target: "librdkafka", backend, facility, "{message}"),
        Error | Warning if facility != "FAIL" && facility != "ERROR" => {
            tracing::warn!(target: "librdkafka", backend, facility, "{message}")
        }
        _ => tracing::debug!(target: "librdkafka", backend, facility, "{message}"),
    }
}
