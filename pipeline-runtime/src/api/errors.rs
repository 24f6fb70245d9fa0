//! What a request is answered: always JSON, always with its request id, and when it went wrong with a sentence that says what to do.

use super::call::RequestId;
use crate::contract::Violation;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use crds::runtime_config::Dialect;
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

pub const REQUEST_ID: &str = "x-request-id";
const UNKNOWN_OUTCOME: &str = "outcome_unknown";

/// Why a request is not answered as it was meant. Cheap to clone: everyone who waits for the same answer gets one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// For programs: snake case, never changed.
    pub error: &'static str,
    /// For people.
    pub message: Cow<'static, str>,
    pub fields: Vec<Violation>,
    /// Seconds.
    pub retry_after: Option<u32>,
    pub allow: Option<&'static str>,
}

impl Problem {
    pub fn new(status: StatusCode, error: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
        Problem { status, error, message: message.into(), fields: Vec::new(), retry_after: None, allow: None }
    }

    pub fn bad_request(error: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error, message)
    }

    pub fn unavailable(error: &'static str, message: impl Into<Cow<'static, str>>, retry_after: u32) -> Problem {
        Problem { retry_after: Some(retry_after), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, error, message) }
    }

    /// It may have been accepted.
    pub fn unknown_outcome(message: impl Into<Cow<'static, str>>, retry_after: u32) -> Problem {
        Problem::unavailable(UNKNOWN_OUTCOME, message, retry_after)
    }

    pub fn is_unknown_outcome(&self) -> bool {
        self.error == UNKNOWN_OUTCOME
    }

    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    }

    /// What does not hold, each under the field's name as the client wrote it: the document's expressions call the body `data`.
    pub fn invalid(violations: Vec<Violation>) -> Problem {
        let fields: Vec<Violation> =
            violations.into_iter().map(|v| Violation { field: as_written(&v.field).to_owned(), message: v.message }).collect();
        let message = match fields.as_slice() {
            [one] if one.field.is_empty() => one.message.clone(),
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are missing or wrong: see fields", many.len()),
        };
        Problem { fields, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", message) }
    }

    pub fn field(field: &str, message: impl Into<String>) -> Problem {
        Problem::invalid(vec![Violation { field: field.to_owned(), message: message.into() }])
    }

    pub fn request_id_reused() -> Problem {
        let message = "this X-Request-Id was already used by a request with another body: send a new id with a new request";
        let fields = vec![Violation { field: "X-Request-Id".into(), message: message.into() }];
        Problem { fields, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "request_id_reused", message) }
    }

    pub fn no_order(id: &str) -> Problem {
        let message = format!("there is no order {id:?} here, or not yet: an accepted order appears when its event was processed");
        Problem::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// What the Orders dialect calls unprocessable is a bad request in the cart dialect.
    pub fn in_dialect(mut self, dialect: Dialect) -> Problem {
        if dialect == Dialect::Cart && self.status == StatusCode::UNPROCESSABLE_ENTITY {
            self.status = StatusCode::BAD_REQUEST;
        }
        self
    }

    pub fn not_allowed(allow: &'static str, message: &'static str) -> Problem {
        Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }
}

fn as_written(field: &str) -> &str {
    match field.strip_prefix("data") {
        Some("") => "",
        Some(rest) => rest.strip_prefix('.').or(rest.starts_with('[').then_some(rest)).unwrap_or(field),
        None => field,
    }
}

/// What a request came to.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// JSON text.
    pub body: Vec<u8>,
    /// What it takes room of until it is written.
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Answer {
    pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Answer, Problem> {
        match serde_json::to_vec(body) {
            Ok(body) => Ok(Answer { status, body, place: None }),
            Err(e) => {
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the answer cannot be written as JSON: {e}")))
            }
        }
    }

    /// Keeps its place until the last byte of it is written, or nobody waits for it any more.
    pub fn in_place(self, place: OwnedSemaphorePermit) -> Answer {
        Answer { place: Some(Arc::new(place)), ..self }
    }

    fn into_bytes(self) -> Bytes {
        match self.place {
            None => self.body.into(),
            Some(place) => Bytes::from_owner(InPlace { body: self.body, _place: place }),
        }
    }
}

/// The place goes with the bytes, not with the stream of them: the server lets go of that as soon as it has begun to write.
struct InPlace {
    body: Vec<u8>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProblemBody<'a> {
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    fields: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
    request_id: &'a str,
}

pub(super) fn respond(id: &RequestId, result: Result<Answer, Problem>) -> Response<Body> {
    let mut response = match result {
        Ok(answer) => {
            let status = answer.status;
            let mut response = Response::new(Body::from(answer.into_bytes()));
            *response.status_mut() = status;
            response
        }
        Err(problem) => refuse(id, &problem),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, id.header());
    response
}

fn refuse(id: &RequestId, problem: &Problem) -> Response<Body> {
    let body = ProblemBody {
        error: problem.error,
        message: &problem.message,
        fields: &problem.fields,
        retry_after: problem.retry_after,
        request_id: id.text(),
    };
    // Strings and numbers only: it cannot fail, and an empty body would still carry the status.
    let mut response = Response::new(Body::from(serde_json::to_vec(&body).unwrap_or_default()));
    *response.status_mut() = problem.status;
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(allow) = problem.allow {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_the_client_wrote_them() {
        assert_eq!(as_written("data.items[1].quantity"), "items[1].quantity");
        assert_eq!(as_written("data[2]"), "[2]");
        assert_eq!(as_written("data"), "");
        assert_eq!(as_written("database"), "database");
        assert_eq!(as_written("attributes.source"), "attributes.source");
    }

    #[test]
    fn one_mistake_is_the_sentence_itself() {
        let problem = Problem::invalid(vec![Violation { field: "data.tenantId".into(), message: "is required".into() }]);
        assert_eq!(problem.message, "tenantId: is required");
        assert_eq!(problem.fields[0].field, "tenantId");
    }
}
