//! What the API counts (OA-13): requests by route and answer, and how long they took.

use super::call::RequestId;
use super::idempotency::Recent;
use crate::telemetry::{Durations, End, Instruments, Kind as SpanKind, Labels, Metric, Value};
use axum::extract::MatchedPath;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Routes, methods and answers are ours and few; if they were not, this keeps memory bounded.
const MOST: usize = 500;
const NO_ROUTE: &str = "none";

/// Requests by what they asked for and how they were answered.
pub(super) struct Counted {
    recent: Arc<Recent>,
    /// The lock is taken for writing when a kind of answer is given for the first time.
    kinds: RwLock<Vec<(Kind, Durations)>>,
}

#[derive(Clone, Debug)]
pub(super) struct Kind {
    /// Known when it is answered.
    pub status: StatusCode,
    pub method: Method,
    /// As the router has it: an order's id is no part of it.
    route: Option<MatchedPath>,
}

impl Kind {
    pub fn of(head: &Parts) -> Kind {
        Kind { status: StatusCode::OK, method: head.method.clone(), route: head.extensions.get::<MatchedPath>().cloned() }
    }

    fn labels(&self) -> Labels {
        let route = self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
        vec![("method", self.method.to_string()), ("route", route), ("status", self.status.as_u16().to_string())]
    }

    /// The span of such a request.
    pub fn said(&self, id: &RequestId) -> End {
        let route = self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
        let end = End::new(SpanKind::Server, format!("{} {route}", self.method));
        let end = end.with("http.request.method", self.method.as_str()).with("http.route", route).with("requestId", id.text());
        let failed = self.status.is_server_error().then(|| format!("answered {}", self.status));
        end.with_number("http.response.status_code", self.status.as_u16().into()).failed(failed)
    }

    fn is(&self, other: &Kind) -> bool {
        let (one, other_route) = (self.route.as_ref(), other.route.as_ref());
        self.status == other.status && self.method == other.method && one.map(MatchedPath::as_str) == other_route.map(MatchedPath::as_str)
    }
}

impl Counted {
    pub fn new(recent: &Arc<Recent>) -> Arc<Counted> {
        Arc::new(Counted { recent: recent.clone(), kinds: RwLock::default() })
    }

    pub fn answered(&self, mut kind: Kind, took: Duration) {
        // Whoever makes up methods must not make up series.
        if ![Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS].contains(&kind.method) {
            kind.method = Method::TRACE;
        }
        if self.add(&kind, took) {
            return;
        }
        {
            let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
            if kinds.len() < MOST && !kinds.iter().any(|(known, _)| known.is(&kind)) {
                kinds.push((kind.clone(), Durations::default()));
            }
        }
        self.add(&kind, took);
    }

    fn add(&self, kind: &Kind, took: Duration) -> bool {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.iter().find(|(known, _)| known.is(kind));
        known.map(|(_, durations)| durations.took(took)).is_some()
    }
}

impl Instruments for Counted {
    fn read(&self) -> Vec<Metric> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        let read: Vec<_> = kinds.iter().map(|(kind, took)| (kind.labels(), took.read())).collect();
        drop(kinds);
        let counts = read.iter().map(|(labels, took)| (labels.clone(), Value::Total(took.count()))).collect();
        let took = read.into_iter().map(|(labels, took)| (labels, Value::Durations(took))).collect();
        let depth = self.recent.depth() as u64;
        vec![
            Metric::new("http_requests_total", "Requests that were answered.", counts),
            Metric::new("http_request_duration_seconds", "From a request's headers to its answer, in seconds.", took),
            Metric::level("idempotency_cache_depth", "Request ids that this process remembers.", depth),
        ]
    }
}
