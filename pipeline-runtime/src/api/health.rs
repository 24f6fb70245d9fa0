//! Whether this process lives, and whether it is connected. Used by every role; answered without a key.

use super::call::RequestId;
use super::errors::{Answer, Problem, respond};
use crate::codec::Codecs;
use crate::publish::Publisher;
use crate::store::Store;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the broker and the store are asked.
pub const EVERY: Duration = Duration::from_secs(1);
/// A broker or store that takes longer counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What was last seen of broker and store. Asked by one task, read by every request.
pub struct Health {
    /// The one that is written to.
    backend: ArcSwap<String>,
    /// Nothing can be written before its schemas are registered.
    codecs: Codecs,
    /// Nothing can be accepted without the store: `idempotency: Strict`.
    needs_store: bool,
    links: ArcSwap<Links>,
    /// The broker was reached once, and the schemas were registered.
    latched: AtomicBool,
}

/// None: connected. Else what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    pub broker: Option<String>,
    pub store: Option<String>,
}

impl Health {
    pub fn new(backend: &str, needs_store: bool, codecs: Codecs) -> Arc<Health> {
        let not_yet = Some("not asked yet: this process has just started".to_owned());
        let links = ArcSwap::from_pointee(Links { broker: not_yet.clone(), store: not_yet });
        let backend = ArcSwap::from_pointee(backend.to_owned());
        Arc::new(Health { backend, codecs, needs_store, links, latched: AtomicBool::new(false) })
    }

    /// Asks the broker that is written to and the store, for ever. Spawn it once.
    pub async fn watch(self: Arc<Health>, publisher: Publisher, store: Option<Arc<dyn Store>>, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let broker = publisher.broker();
            if **self.backend.load() != broker.name() {
                self.backend.store(Arc::new(broker.name().to_owned()));
            }
            let broker = async {
                match timeout(ANSWER_WITHIN, broker.connected()).await {
                    Ok(answer) => answer.err().map(|e| e.to_string()),
                    Err(_) => Some(format!("{} does not answer within {ANSWER_WITHIN:?}", broker.name())),
                }
            };
            let store = async {
                match &store {
                    None => None,
                    Some(store) => match timeout(ANSWER_WITHIN, store.ready()).await {
                        Ok(answer) => answer.err().map(|e| e.to_string()),
                        Err(_) => Some(format!("the store does not answer within {ANSWER_WITHIN:?}")),
                    },
                }
            };
            let (broker, store) = tokio::join!(broker, store);
            self.set(Links { broker, store });
        }
    }

    /// Sets what is seen; for [`Health::watch`] and for roles that know it themselves.
    pub fn set(&self, links: Links) {
        if links.broker.is_none() && self.codecs.trouble().is_none() {
            self.latched.store(true, Ordering::Relaxed);
        }
        let before = self.links.swap(Arc::new(links.clone()));
        if before.broker != links.broker {
            match &links.broker {
                None => tracing::info!(backend = %self.backend.load(), "connected"),
                Some(reason) => tracing::warn!(backend = %self.backend.load(), reason, "not connected"),
            }
        }
        if before.store != links.store {
            match &links.store {
                None => tracing::info!("the store answers"),
                Some(reason) => tracing::warn!(reason, "the store does not answer"),
            }
        }
    }

    pub fn links(&self) -> Arc<Links> {
        self.links.load_full()
    }

    /// Why nothing can be published now, if so.
    pub fn broker_down(&self) -> Option<String> {
        // Not load_full: this is asked by every request.
        self.links.load().broker.clone()
    }

    /// Ready: connected to the backend (OA-5), all schemas registered, and to the store where nothing can be accepted without it.
    /// A store that is away otherwise only fails reads, which say so themselves.
    fn ready(&self) -> Result<Answer, Problem> {
        let links = self.links();
        if let Some(reason) = &links.broker {
            return Err(Problem::unavailable(
                "backend_unreachable",
                format!("not connected to backend {}: {reason}", self.backend.load()),
                5,
            ));
        }
        if let Some(reason) = self.codecs.trouble() {
            return Err(Problem::unavailable("registry_unavailable", reason, 5));
        }
        match &links.store {
            Some(reason) if self.needs_store => {
                Err(Problem::unavailable("store_unavailable", format!("every request id is claimed in the store: {reason}"), 5))
            }
            store => {
                let store = store.as_deref().unwrap_or("connected");
                Answer::json(StatusCode::OK, &json!({"status": "ready", "backend": &**self.backend.load(), "store": store}))
            }
        }
    }

    /// For the pod's readiness probe: true for good after the first connection, so that a broker's outage gives callers 503 with a hint
    /// and not a refused connection.
    fn latched(&self) -> Result<Answer, Problem> {
        match self.latched.load(Ordering::Relaxed) {
            true => Answer::json(StatusCode::OK, &json!({"status": "ready", "backend": &**self.backend.load(), "latched": true})),
            false => self.ready(),
        }
    }
}

/// `/healthz`: alive. `/readyz`: connected now. `/readyz/latched`: was connected once; for the readiness probe.
/// `/metrics`: all that the process counts.
pub fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    let (ready, latched) = (health.clone(), health);
    Router::new()
        .route("/healthz", get(async || respond(&RequestId::random(), Answer::json(StatusCode::OK, &json!({"status": "alive"})))))
        .route("/readyz", get(async move || respond(&RequestId::random(), ready.ready())))
        .route("/readyz/latched", get(async move || respond(&RequestId::random(), latched.latched())))
        .route("/metrics", get(async move || metrics.text()))
}
