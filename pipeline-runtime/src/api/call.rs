//! The front door: a request gets its id, shows its key and finds a place, or is turned away.

use super::ApiState;
use super::body;
use super::counted::Kind;
use super::errors::{Answer, Problem, REQUEST_ID, respond};
use super::keys::{HEADER, Keys};
use crate::telemetry::{Context, TRACEPARENT};
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

const LONGEST_REQUEST_ID: usize = 200;

/// The request's id: the client's own, else a random one.
#[derive(Clone, Debug)]
pub struct RequestId {
    text: Arc<str>,
    pub given: bool,
}

impl RequestId {
    pub fn random() -> RequestId {
        RequestId { text: Uuid::now_v7().to_string().into(), given: false }
    }

    pub fn of(headers: &HeaderMap) -> Result<RequestId, Problem> {
        let mut all = headers.get_all(REQUEST_ID).iter();
        let id = match (all.next(), all.next()) {
            (None, _) => return Ok(RequestId::random()),
            (Some(id), None) => id.as_bytes(),
            (Some(_), Some(_)) => return Err(Problem::bad_request("invalid_request_id", "X-Request-Id must be given only once")),
        };
        match std::str::from_utf8(id) {
            Ok(text) if (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic) => {
                Ok(RequestId { text: text.into(), given: true })
            }
            _ => Err(Problem::bad_request(
                "invalid_request_id",
                format!("X-Request-Id must be 1 to {LONGEST_REQUEST_ID} visible ASCII characters without spaces"),
            )),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn header(&self) -> HeaderValue {
        // Visible ASCII, checked or made so.
        HeaderValue::from_str(&self.text).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// A request that was let in.
pub(super) struct Call {
    pub api: Arc<ApiState>,
    pub id: RequestId,
    pub principal: Arc<str>,
    pub head: Parts,
    pub body: Body,
    /// The trace that it is part of: what is done for it is a step of it.
    pub trace: Option<Context>,
    /// Its place among those that are worked on; goes along with whatever still works on it.
    pub place: OwnedSemaphorePermit,
}

/// Lets a request in, does its work and answers it.
pub(super) async fn answer<F, Work>(api: Arc<ApiState>, request: Request, work: F) -> Response<Body>
where
    F: FnOnce(Call) -> Work,
    Work: Future<Output = Result<Answer, Problem>>,
{
    let keys = api.keys.load_full();
    answer_for(&keys, api, request, work).await
}

/// The same for whoever has one of these keys.
pub(super) async fn answer_for<F, Work>(keys: &Keys, api: Arc<ApiState>, request: Request, work: F) -> Response<Body>
where
    F: FnOnce(Call) -> Work,
    Work: Future<Output = Result<Answer, Problem>>,
{
    let (head, body) = request.into_parts();
    let began = Instant::now();
    let parent = head.headers.get(TRACEPARENT).and_then(|header| Context::read(header.as_bytes()));
    let tracer = api.publisher.tracer().clone();
    let span = tracer.enter(parent);
    let trace = span.map(|span| span.context).or(parent);
    let (mut kind, path) = (Kind::of(&head), head.uri.path().to_owned());
    let (id, admitted) = match RequestId::of(&head.headers) {
        Ok(id) => {
            let admitted = admit(&api, keys, &head.headers);
            (id, admitted)
        }
        Err(problem) => (RequestId::random(), Err(problem)),
    };
    let result = match admitted {
        Ok((principal, place)) => work(Call { api: api.clone(), id: id.clone(), principal, head, body, trace, place }).await,
        Err(problem) => {
            body::turn_away(&head.headers, body, body::SMALL_DRAIN);
            Err(problem)
        }
    };
    let response = respond(&id, result.map_err(|problem| problem.in_dialect(api.dialect)));
    kind.status = response.status();
    let status = kind.status.as_u16();
    tracing::debug!(
        requestId = id.text(),
        method = %kind.method,
        path,
        status,
        traceId = trace.map(|trace| trace.trace_id()),
        spanId = trace.map(|trace| trace.span_id()),
        "answered"
    );
    tracer.end(span, || kind.said(&id));
    api.counted.answered(kind, began.elapsed());
    response
}

fn admit(api: &ApiState, keys: &Keys, headers: &HeaderMap) -> Result<(Arc<str>, OwnedSemaphorePermit), Problem> {
    let principal = match headers.get(HEADER) {
        None => return Err(unauthorized("an API key is required: send it in the X-API-Key header")),
        Some(key) => keys.principal(key.as_bytes()),
    };
    let Some(principal) = principal else {
        return Err(unauthorized("the key in X-API-Key is not known here"));
    };
    let Ok(place) = api.places.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("overloaded", "too many requests are being worked on: send it again a little later", 1));
    };
    Ok((principal, place))
}

fn unauthorized(message: &'static str) -> Problem {
    Problem::new(axum::http::StatusCode::UNAUTHORIZED, "unauthorized", message)
}
