//! From a body to an event that is checked and ready for the broker: what every dialect does alike.

use super::accept::{Delivery, accept, event_id, order_id};
use super::call::Call;
use super::errors::{Answer, Problem};
use super::{ApiState, Destination, Settings, body};
use crate::codec::{self, Decoded, Draft, Unwritten, attribute};
use crate::contract::{Contract, EventContract, Message};
use crate::pii::Encrypted;
use crate::store::{Change, unstorable};
use axum::body::Bytes;
use chrono::Utc;
use crds::json::{Json, Object};
use crds::pipeline::Idempotency;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const ORDER_ID: &str = "orderId";
const LONGEST_ORDER_ID: usize = 200;
/// A registry that is away is asked again every few seconds.
const RETRY_AFTER_REGISTRY: u32 = 5;

/// Who says which order a request is about.
pub(super) enum Naming {
    /// The path; the body may say the same.
    Path(String),
    /// The body. Where it does not, the order gets an id that follows from the request.
    BodyOrRequest,
    /// The body alone.
    Body,
}

/// An event that holds, on its way to the broker.
pub(super) struct Ready {
    api: Arc<ApiState>,
    delivery: Delivery,
    /// What it does to its order.
    pub change: Change,
}

impl Ready {
    pub fn order_id(&self) -> &str {
        &self.delivery.order_id
    }

    pub fn request(&self) -> &str {
        self.delivery.request.text()
    }

    /// Gives the answer once the broker has the event.
    pub async fn publish(mut self, answer: Answer) -> Result<Answer, Problem> {
        if self.delivery.strict {
            self.delivery.answer = String::from_utf8_lossy(&answer.body).into_owned();
        }
        accept(&self.api, self.delivery).await?;
        Ok(answer)
    }
}

/// Reads the body and makes the event of it. `route` is part of the ids that follow from a request.
pub(super) async fn check(call: Call, settings: &Settings, to: &Destination, route: &str, naming: Naming) -> Result<Ready, Problem> {
    let Call { api, id: request, principal, head, body, trace, place } = call;
    let read = body::read(&head.headers, body, body::limit(to.topic.max_message_bytes), &api.budget).await?;
    let said = read.said()?;
    let contract = api.contract.load_full();
    let Some(event) = contract.event(&to.event) else {
        return Err(Problem::unavailable("reloading", "this pipeline is taking over a changed document: send it again", 1));
    };
    let body_hash = if request.given { event.hash(&said) } else { [0; 32] };
    let Json::Object(mut data) = said else {
        return Err(Problem::field("", "the body must be a JSON object"));
    };
    let event_id = event_id(&principal, route, request.text());
    let derived = || order_id(&principal, route, request.text());
    let (order_id, text) = with_order_id(&mut data, read.text.clone(), naming, derived)?;
    let mut data = Json::Object(data);
    let time = Utc::now();
    let attributes = [(attribute::REQUEST_ID, request.text()), (attribute::PRINCIPAL, &*principal)];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let text = api.codecs.body(&to.topic, text, &mut data).map_err(|why| match why {
        Unwritten::Unfit(why) => Problem::field(&why.path, why.message),
        Unwritten::NotYet(wanted) => Problem::unavailable("registry_unavailable", wanted.why(), RETRY_AFTER_REGISTRY),
    })?;
    let mut draft = Draft { event: to.event.clone(), id: event_id.to_string(), time, key: String::new(), attributes, data: text };
    let mut decoded = Decoded::of(&to.topic, &draft, data);
    let hidden = hide(event, &mut decoded, &mut draft)?;
    let (key, change) = hold(&contract, event, &to.topic.name, &mut decoded, hidden)?;
    draft.key = key;
    drop(decoded);
    let delivery = Delivery {
        event: to.event.clone(),
        trace,
        body_hash,
        message: codec::encode(&to.topic, &draft),
        max_message_bytes: to.topic.max_message_bytes,
        answer: String::new(),
        strict: settings.idempotency == Idempotency::Strict && request.given,
        within: settings.publish_deadline,
        _held: (place, read.share),
        request,
        event_id,
        order_id,
    };
    Ok(Ready { api, delivery, change })
}

/// Encrypts the fields of persons, in the data and in the text that is sent. What of the data only the contract sees is returned.
fn hide<'t>(event: &EventContract, decoded: &mut Decoded<'t>, draft: &mut Draft) -> Result<Encrypted<'t>, Problem> {
    let Some(fields) = event.encrypted() else { return Ok(Encrypted::default()) };
    let text = std::str::from_utf8(&draft.data).ok();
    let (plain, text) = fields.encrypt(&mut decoded.data, text, &decoded.id).map_err(|why| {
        Problem::unavailable("no_key", format!("the fields of persons cannot be encrypted now, nothing was accepted: {why}"), 5)
    })?;
    draft.data = text;
    Ok(plain)
}

/// The event's key and what it does, if all holds. The contract is held to what the fields say, what goes further is made of what is
/// encrypted.
fn hold<'t>(
    contract: &Contract,
    event: &EventContract,
    topic: &str,
    decoded: &mut Decoded<'t>,
    mut hidden: Encrypted<'t>,
) -> Result<(String, Change), Problem> {
    // Rules may speak of the key. Where it cannot be made, the schema mostly has the better words for it.
    let key = event.key(&Message { topic, key: None, decoded });
    event.swap(decoded, &mut hidden);
    let plain = Message { topic, key: key.as_deref().ok(), decoded };
    let violations = event.violations(&plain);
    let taken = contract.must_be(event, &plain);
    event.swap(decoded, &mut hidden);
    let message = Message { topic, key: key.as_deref().ok(), decoded };
    if !violations.is_empty() {
        return Err(Problem::invalid(violations));
    }
    let one = |violation| Problem::invalid(vec![violation]);
    if let Err(violation) = &key {
        return Err(one(violation.clone()));
    }
    taken.map_err(one)?;
    // What the worker will do with it: found here it is an answer, found there a dead letter.
    let change = event.change_unsourced(&message).map_err(one)?;
    contract.can_follow(event, &message).map_err(one)?;
    if let Some((column, message)) = unstorable(&change) {
        return Err(Problem::field(source(event, column), message));
    }
    key.map(|key| (key, change)).map_err(one)
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
fn with_order_id(data: &mut Object<'_>, text: Bytes, naming: Naming, derived: impl FnOnce() -> Uuid) -> Result<(String, Bytes), Problem> {
    match data.get(ORDER_ID) {
        Some(Json::String(given)) => {
            if let Naming::Path(named) = naming
                && named != **given
            {
                return Err(Problem::field(ORDER_ID, format!("is {given:?}, but the path names the order {named:?}")));
            }
            must_be_order_id(given).map_err(|message| Problem::field(ORDER_ID, message))?;
            Ok((given.clone().into_owned(), text))
        }
        Some(_) => Err(Problem::field(ORDER_ID, "must be a string")),
        None => {
            let id = match naming {
                Naming::Path(named) => named,
                Naming::BodyOrRequest => derived().to_string(),
                Naming::Body => return Err(Problem::field(ORDER_ID, "is required")),
            };
            let text = insert_first(&text, &id, data.is_empty());
            data.insert(ORDER_ID, id.clone().into());
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

pub(super) fn must_be_order_id(id: &str) -> Result<(), String> {
    if matches!(id, "." | "..") {
        return Err("must not be . or .., which no path can name".to_owned());
    }
    match id.chars().count() {
        1..=LONGEST_ORDER_ID if !id.chars().any(char::is_control) => Ok(()),
        _ => Err(format!("must be 1 to {LONGEST_ORDER_ID} characters, none of them a control character")),
    }
}
