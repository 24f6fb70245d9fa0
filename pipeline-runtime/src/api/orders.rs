//! The Orders dialect: POST /orders, PATCH and GET /orders/{orderId}.

use super::accept::{Delivery, accept, event_id, order_id};
use super::call::{Call, answer};
use super::errors::{Answer, Problem};
use super::{Destination, Settings, Shared, body, json, strict};
use crate::codec::{self, Decoded, Draft, attribute};
use crate::contract::{EventContract, Message, Violation};
use crate::store::unstorable;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use crds::pipeline::Idempotency;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

const ORDER_ID: &str = "orderId";
const LONGEST_ORDER_ID: usize = 200;

pub(super) async fn create(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let settings = call.api.settings.load_full();
        write(call, &settings, &settings.creates, None).await
    })
    .await
}

pub(super) async fn change(State(api): Shared, path: Result<Path<String>, PathRejection>, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let settings = call.api.settings.load_full();
        let Some(updates) = &settings.updates else {
            let message = "orders of this pipeline cannot be changed over HTTP: its document names no event for it";
            return Err(Problem::not_allowed("GET,HEAD", message));
        };
        write(call, &settings, updates, Some(order_id_of(path)?)).await
    })
    .await
}

pub(super) async fn read(State(api): Shared, path: Result<Path<String>, PathRejection>, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let id = order_id_of(path)?;
        match strict::ask(call.api.store.order(&id)).await {
            Ok(Some(order)) => Answer::json(StatusCode::OK, &order),
            Ok(None) => {
                let message = format!("there is no order {id:?} here, or not yet: an accepted order appears when its event was processed");
                Err(Problem::new(StatusCode::NOT_FOUND, "not_found", message))
            }
            Err(e) => Err(strict::away(&e)),
        }
    })
    .await
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    order_id: &'a str,
    request_id: &'a str,
    status: &'static str,
    links: Links,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    order: String,
}

/// Publishes an event: a new order, or a change of the order that the path names.
async fn write(call: Call, settings: &Settings, to: &Destination, named: Option<String>) -> Result<Answer, Problem> {
    let Call { api, id: request, principal, head, body, trace, place } = call;
    let read = body::read(&head.headers, body, body::limit(to.topic.max_message_bytes), &api.budget).await?;
    let body_hash = if request.given { json::content_hash(&read.value) } else { [0; 32] };
    let Json::Object(mut data) = read.value else {
        return Err(Problem::field("", "the body must be a JSON object"));
    };
    // The path's own order is part of the route: the same request id at two orders is two requests.
    let route = named.as_deref().map_or_else(|| "POST /orders".to_owned(), |id| format!("PATCH /orders/{id}"));
    let event_id = event_id(&principal, &route, request.text());
    let derived = || order_id(&principal, &route, request.text());
    let (order_id, text) = with_order_id(&mut data, read.text, named, derived)?;
    let time = Utc::now();
    let attributes = [(attribute::REQUEST_ID, request.text()), (attribute::PRINCIPAL, &*principal)];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut draft = Draft { event: to.event.clone(), id: event_id.to_string(), time, key: String::new(), attributes, data: text };
    {
        let contract = api.contract.load();
        let Some(event) = contract.event(&to.event) else {
            return Err(Problem::unavailable("reloading", "this pipeline is taking over a changed document: send it again", 1));
        };
        draft.key = check(event, &to.topic.name, &Decoded::of(&to.topic, &draft, Json::Object(data)))?;
    }
    let accepted = Accepted {
        order_id: &order_id,
        request_id: request.text(),
        status: "accepted",
        links: Links { order: format!("/orders/{}", in_path(&order_id)) },
    };
    let answer = Answer::json(StatusCode::ACCEPTED, &accepted)?;
    let strict = settings.idempotency == Idempotency::Strict && request.given;
    let delivery = Delivery {
        event: to.event.clone(),
        trace,
        body_hash,
        message: codec::encode(&to.topic, &draft),
        max_message_bytes: to.topic.max_message_bytes,
        answer: if strict { String::from_utf8_lossy(&answer.body).into_owned() } else { String::new() },
        strict,
        within: settings.publish_deadline,
        _held: (place, read.share),
        request,
        event_id,
        order_id,
    };
    drop(draft);
    accept(&api, delivery).await?;
    Ok(answer)
}

/// The event's key, if all holds.
fn check(event: &EventContract, topic: &str, decoded: &Decoded) -> Result<String, Problem> {
    let message = Message { topic, key: None, decoded };
    // Rules may speak of the key. Where it cannot be made, the schema mostly has the better words for it.
    let key = event.key(&message);
    let message = Message { key: key.as_deref().ok(), ..message };
    let mut violations = event.violations(&message);
    if violations.is_empty() {
        // What the worker will do with it: found here it is an answer, found there a dead letter.
        violations.extend(key.as_ref().err().cloned().or_else(|| match event.change_unsourced(&message) {
            Ok(change) => unstorable(&change).map(|(column, message)| Violation { field: source(event, column).to_owned(), message }),
            Err(violation) => Some(violation),
        }));
    }
    match key {
        Ok(key) if violations.is_empty() => Ok(key),
        _ => Err(Problem::invalid(violations)),
    }
}

/// The field that a column of the order is read from; the body itself where an expression makes it.
fn source<'a>(event: &'a EventContract, column: &str) -> &'a str {
    let order = &event.config.order;
    let read = match column {
        "tenantId" => order.tenant.as_deref(),
        "customerId" => order.customer.as_deref(),
        "totalAmount" => order.total.as_deref(),
        "createdAt" => order.created_at.as_deref(),
        "at" => event.config.at.as_deref(),
        _ => Some(&*order.id),
    };
    let is_path = |text: &&str| text.starts_with("data.") && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._[]".contains(&b));
    event.config.set.get(column).map(String::as_str).or(read).filter(is_path).unwrap_or("data")
}

/// The order's id, and the text of the data with it: the client's own bytes where nothing was missing.
fn with_order_id(
    data: &mut Map<String, Json>,
    text: Bytes,
    named: Option<String>,
    derived: impl FnOnce() -> Uuid,
) -> Result<(String, Bytes), Problem> {
    match data.get(ORDER_ID) {
        Some(Json::String(given)) => {
            if let Some(named) = named.filter(|named| named != given) {
                return Err(Problem::field(ORDER_ID, format!("is {given:?}, but the path names the order {named:?}")));
            }
            must_be_order_id(given).map_err(|message| Problem::field(ORDER_ID, message))?;
            Ok((given.clone(), text))
        }
        Some(_) => Err(Problem::field(ORDER_ID, "must be a string")),
        None => {
            let id = named.unwrap_or_else(|| derived().to_string());
            let text = insert_first(&text, &id, data.is_empty());
            data.insert(ORDER_ID.to_owned(), id.clone().into());
            Ok((id, text))
        }
    }
}

/// Puts the order's id in front of an object's other fields.
fn insert_first(object: &[u8], id: &str, empty: bool) -> Bytes {
    let rest = object.trim_ascii_start().strip_prefix(b"{").unwrap_or(object);
    let mut text = Vec::with_capacity(object.len() + id.len() + 16);
    text.extend_from_slice(b"{\"orderId\":");
    // As a JSON string: an id from a path may hold quotes.
    text.extend_from_slice(Json::from(id).to_string().as_bytes());
    if !empty {
        text.push(b',');
    }
    text.extend_from_slice(rest);
    text.into()
}

fn must_be_order_id(id: &str) -> Result<(), String> {
    if matches!(id, "." | "..") {
        return Err("must not be . or .., which no path can name".to_owned());
    }
    match id.chars().count() {
        1..=LONGEST_ORDER_ID if !id.chars().any(char::is_control) => Ok(()),
        _ => Err(format!("must be 1 to {LONGEST_ORDER_ID} characters, none of them a control character")),
    }
}

fn order_id_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(id) = path.map_err(|e| Problem::bad_request("invalid_path", format!("the order's id in the path cannot be read: {e}")))?;
    must_be_order_id(&id).map_err(|message| Problem::field(ORDER_ID, message))?;
    Ok(id)
}

/// A text as it stands in a path or a query.
pub(super) fn in_path(id: &str) -> String {
    let mut path = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}
