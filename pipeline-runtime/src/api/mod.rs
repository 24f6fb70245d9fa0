//! The HTTP API: lets requests in, checks them against their event's contract, publishes, and answers when the broker has it.
//!
//! `call` is the front door (request id, key, a place to work in), `body`, `json` and `query` read what was sent. `orders` (with `list`) and
//! `cart` are the dialects: their routes, and what they answer. `write` makes an event of a body, `accept` brings it to the broker once,
//! `idempotency` and `strict` know what was accepted before, `errors` is what an answer looks like, `counted` what is counted of it. `admin`
//! and `letters` are for administrators, `health` and `server` (with `taken`) serve every role. Nothing here knows a broker's or a database's kind.
//!
//! What a client can rely on:
//! - 202 (in the cart dialect 201 and 200) is answered only when the broker has acknowledged; the answer to the same request is the same from
//!   any pod.
//! - The same `X-Request-Id` (of the same key, on the same path) is the same request. Its body is compared by what it says: spaces and the
//!   order of fields do not count. After a 503 it may be sent again under the id of the answer, whoever made that id.
//! - PATCH does not look whether the order exists: it may still be on its way here, and the store keeps the two in order. PUT /update-order
//!   does, since it promises a 404: it waits a second for an order that is still on its way.
//! - Fields of persons (`events[].pii`) are `***` in what is read, but for the readers of `spec.pii`.
//! - GET /orders is `{"count": n, "orders": […]}`, the newest first. A page holds at most `limit` orders and about 4 MiB, but always one;
//!   where there are more, `next` is the path of the page behind it.

mod accept;
mod admin;
mod body;
mod call;
mod cart;
mod counted;
mod errors;
pub mod health;
mod idempotency;
mod json;
pub mod keys;
mod letters;
mod list;
mod orders;
mod query;
pub mod server;
mod strict;
mod taken;
mod write;

pub use admin::Admin;
pub use health::Health;
pub use keys::{Keys, KeysError};
pub use server::{Limits, serve};

use crate::codec::Codecs;
use crate::contract::Contract;
use crate::pii::Keyring;
use crate::publish::Publisher;
use crate::store::Store;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use call::RequestId;
use crds::pipeline::Idempotency;
use crds::runtime_config::{Dialect, RuntimeConfig, TopicConfig};
use errors::{Answer, Problem, respond};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Requests that are worked on at once; beyond them: 503, at once.
const PLACES: usize = 2000;
/// Reads of many orders at once, until their answers are written: each may hold a lot of memory.
const LISTS: usize = 8;
/// Topics that are read from their start to answer a request, at once.
const SCANS: usize = 1;

/// Everything the API works with. One for each process.
pub struct ApiState {
    contract: Arc<ArcSwap<Contract>>,
    codecs: Codecs,
    settings: ArcSwap<Settings>,
    publisher: Publisher,
    store: Arc<dyn Store>,
    keys: Arc<ArcSwap<Keys>>,
    /// None: nothing of an order is encrypted.
    keyring: Option<Arc<Keyring>>,
    admin: Option<Admin>,
    health: Arc<Health>,
    recent: Arc<idempotency::Recent>,
    places: Arc<Semaphore>,
    budget: body::Budget,
    lists: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    /// The routes are made for it at the start.
    dialect: Dialect,
    counted: Arc<counted::Counted>,
    metrics: Metrics,
}

/// What the API is made of; shared with the rest of the process.
pub struct ApiParts {
    /// Replaced as a whole when the configuration changes; call [`ApiState::reload`] with it.
    pub contract: Arc<ArcSwap<Contract>>,
    pub codecs: Codecs,
    pub publisher: Publisher,
    pub store: Arc<dyn Store>,
    pub keys: Arc<ArcSwap<Keys>>,
    /// Of encrypted fields. None: nothing is encrypted.
    pub keyring: Option<Arc<Keyring>>,
    /// None: there are no routes for administrators.
    pub admin: Option<Admin>,
    /// Someone must run [`Health::watch`]: until it has seen the broker, everything is answered 503.
    pub health: Arc<Health>,
    /// Those of the process; the API adds its own.
    pub metrics: Metrics,
}

/// What the document says about the API, ready to be used.
#[derive(Debug)]
struct Settings {
    creates: Destination,
    updates: Option<Destination>,
    /// The topics that events are read from.
    read: Vec<TopicConfig>,
    /// Who reads encrypted fields as they are.
    readers: Vec<String>,
    idempotency: Idempotency,
    publish_deadline: Duration,
}

/// An event and the topic it is written to.
#[derive(Debug)]
struct Destination {
    event: String,
    topic: TopicConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("this pipeline has no spec.api")]
    None,
    #[error("spec.api writes the event {event}, which is not in spec.events or whose topic is not in spec.topics")]
    NoEvent { event: String },
}

impl ApiState {
    pub fn new(config: &RuntimeConfig, parts: ApiParts) -> Result<Arc<ApiState>, ApiError> {
        let ApiParts { contract, codecs, publisher, store, keys, keyring, admin, health, metrics } = parts;
        let dialect = config.api.as_ref().ok_or(ApiError::None)?.dialect;
        let recent = idempotency::Recent::new();
        let counted = counted::Counted::new(&recent);
        metrics.add(counted.clone());
        Ok(Arc::new(ApiState {
            contract,
            codecs,
            settings: ArcSwap::from_pointee(Settings::of(config)?),
            publisher,
            store,
            keys,
            keyring,
            admin,
            health,
            recent,
            places: Arc::new(Semaphore::new(PLACES)),
            budget: body::Budget::new(),
            lists: Arc::new(Semaphore::new(LISTS)),
            scans: Arc::new(Semaphore::new(SCANS)),
            dialect,
            counted,
            metrics,
        }))
    }

    /// Takes over a changed document. On a mistake everything stays as it is.
    pub fn reload(&self, config: &RuntimeConfig) -> Result<(), ApiError> {
        self.settings.store(Arc::new(Settings::of(config)?));
        Ok(())
    }

    /// An answer as this principal may see it: what is encrypted in it as what it says, or masked.
    fn shown(&self, mut answer: Answer, principal: &str) -> Result<Answer, Problem> {
        let Some(keyring) = &self.keyring else { return Ok(answer) };
        let may_read = self.settings.load().readers.iter().any(|reader| reader == principal);
        let shown = std::str::from_utf8(&answer.body).ok().and_then(|body| keyring.reveal(body, may_read));
        answer.body = shown.map_or(answer.body, String::into_bytes);
        Ok(answer)
    }
}

impl Settings {
    fn of(config: &RuntimeConfig) -> Result<Settings, ApiError> {
        let api = config.api.as_ref().ok_or(ApiError::None)?;
        let destination = |event: &String| {
            let topic = config.event(event).and_then(|e| e.topics.first()).and_then(|t| config.topic(t));
            let topic = topic.ok_or_else(|| ApiError::NoEvent { event: event.clone() })?;
            Ok(Destination { event: event.clone(), topic: topic.clone() })
        };
        Ok(Settings {
            creates: destination(&api.creates)?,
            updates: api.updates.as_ref().map(destination).transpose()?,
            read: config.topics_read().cloned().collect(),
            readers: config.pii.as_ref().map(|pii| pii.readers.clone()).unwrap_or_default(),
            idempotency: api.idempotency,
            publish_deadline: api.publish_deadline,
        })
    }
}

/// All routes of the API, health and metrics among them.
pub fn router(api: Arc<ApiState>) -> Router {
    let health = health::router(api.health.clone(), api.metrics.clone());
    let (routes, hint) = match api.dialect {
        Dialect::Orders => (orders::routes(), "/orders and /orders/{orderId}"),
        Dialect::Cart => (cart::routes(), "/create-order, /update-order, /order-details and /getAllOrderIdsFromTopic"),
    };
    routes
        .route("/admin/backend-mode", get(admin::read_backend).post(admin::ask_for_backend))
        .route("/admin/dead-letters", get(letters::list))
        .route("/admin/dead-letters/{id}", get(letters::show))
        .route("/admin/dead-letters/replay", post(letters::replay))
        .with_state(api)
        .merge(health)
        .fallback(async move |request: Request| unknown_route(&request, hint))
        .method_not_allowed_fallback(wrong_method)
}

fn unknown_route(request: &Request, hint: &str) -> Response {
    let message = format!("there is nothing at {}: see {hint}", request.uri().path());
    without_call(request, Problem::new(StatusCode::NOT_FOUND, "not_found", message))
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} is not possible at {}: see the Allow header", request.method(), request.uri().path());
    without_call(&request, Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message))
}

fn without_call(request: &Request, problem: Problem) -> Response {
    match RequestId::of(request.headers()) {
        Ok(id) => respond(&id, Err(problem)),
        Err(invalid) => respond(&RequestId::random(), Err(invalid)),
    }
}

/// For handlers: the state is shared.
type Shared = State<Arc<ApiState>>;

#[cfg(test)]
mod tests;
