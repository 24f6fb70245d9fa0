//! What a message means: nothing to us, something broken, or an event with its change and what follows from it. No I/O.

use super::failure::{Failure, Kind};
use super::privacy;
use crate::broker::{Incoming, Outgoing};
use crate::codec::{self, Codecs, Decoded, Draft, SCHEMA_VERSION, Undecoded, Unwritten, Wanted, attribute};
use crate::contract::{Contract, Emission, EventContract, Message, Violation};
use crate::pii::Unreadable;
use crate::store::Change;
use bytes::Bytes;
use crds::json::Json;
use crds::pipeline::{Effect, Invalid, Producers};
use crds::runtime_config::{RuntimeConfig, TopicConfig};
use serde_json::json;
use std::borrow::Cow;
use uuid::Uuid;

pub enum Meaning {
    /// Complete as it is: no event of this pipeline, another tenant's, a seal.
    Nothing(&'static str),
    /// Complete, but worth a line in the log: the topic says that invalid messages are dropped.
    Dropped(Failure),
    /// A dead letter at once.
    Broken(Failure),
    /// Worth another try: the topic says so, since a fixed contract may be on its way; or a changed document is.
    Retry(Failure),
    /// Encrypted with a key that is not here yet: it is on its way, or was taken away too early. No attempt, for some minutes.
    Locked(Failure),
    /// Of a topic that the document no longer names, with all that it said about it: it stays on the broker, and no commit passes it.
    Left,
    /// It cannot be told, or what follows cannot be written, before somebody is asked: then it is the same message again.
    Waits(Wanted),
    Event(Box<Event>),
}

pub struct Event {
    pub change: Change,
    /// None where nothing follows.
    pub then: Option<Then>,
}

/// What follows from an event once its change is in the store.
#[derive(Clone, Debug)]
pub struct Then {
    pub event_id: String,
    /// What the event is known as to those who are told of it, by which a repeat is a repeat there too.
    pub known_as: String,
    pub messages: Vec<Outgoing>,
    /// The body for the callback.
    pub call: Option<Bytes>,
}

pub fn understand(config: &RuntimeConfig, contract: &Contract, codecs: &Codecs, message: &Incoming) -> Meaning {
    if message.payload.as_ref().is_none_or(|body| body.is_empty()) && message.header(attribute::STAMP).is_some() {
        return Meaning::Nothing("a seal");
    }
    let Some(topic) = config.topic(&message.at.partition.topic) else { return Meaning::Left };
    let encrypted = contract.encrypted(&topic.name);
    let message = match encrypted.map_or(Ok(Cow::Borrowed(message)), |fields| privacy::readable(fields, message)) {
        Ok(message) => message,
        Err(why) => return locked("the body", &why, None),
    };
    let mut decoded = match codecs.decode(topic, &message) {
        Ok(decoded) => decoded,
        Err(Undecoded::NotYet(wanted)) => return Meaning::Waits(wanted),
        Err(Undecoded::Never(error)) => return invalid(topic, Failure::new(Kind::Undecodable, error.0, None)),
    };
    if let Some(version) = unknown_version(&decoded) {
        let reason = format!(
            "schema version {version} is unknown to this runtime, which understands {SCHEMA_VERSION}: update the runtime, then replay"
        );
        return Meaning::Broken(Failure::new(Kind::SchemaVersion, reason, Some(&decoded.id)));
    }
    let opened = match encrypted.map(|fields| fields.open(&mut decoded.data)).transpose() {
        Ok(opened) => opened,
        Err((field, why)) => return locked(&field, &why, Some(&decoded.id)),
    };
    let key = message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let broken = |violations: Vec<Violation>, id: &str| {
        let reasons: Vec<String> = violations.into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
        invalid(topic, Failure::new(Kind::Invalid, reasons.join("; "), Some(id)))
    };
    let (event, content) = match judge(config, contract, &Message { topic: &topic.name, key, decoded: &decoded }) {
        Ok(Judged::Event(event, content)) => (event, content),
        Ok(Judged::Is(meaning)) => return meaning,
        Err(violations) => return broken(violations, &decoded.id),
    };
    // What goes further is made of what is encrypted.
    if let (Some(fields), Some(opened)) = (encrypted, opened)
        && let Err((field, why)) = event.hide(fields, opened, &mut decoded, privacy::body(topic, &message))
    {
        return locked(&field, &why, Some(&decoded.id));
    }
    let view = Message { topic: &topic.name, key, decoded: &decoded };
    match meaning(config, contract, codecs, &message, &view, event, content) {
        Ok(meaning) => meaning,
        Err(Not::Yet(wanted)) => Meaning::Waits(wanted),
        Err(Not::Good(violation)) => broken(vec![violation], &decoded.id),
    }
}

/// What is encrypted and does not open.
fn locked(field: &str, why: &Unreadable, id: Option<&str>) -> Meaning {
    let failure = Failure::new(Kind::Encrypted, format!("{field} {why}"), id);
    if matches!(why, Unreadable::Forged) { Meaning::Broken(failure) } else { Meaning::Locked(failure) }
}

fn invalid(topic: &TopicConfig, failure: Failure) -> Meaning {
    match topic.invalid {
        Invalid::DeadLetter => Meaning::Broken(failure),
        Invalid::Retry => Meaning::Retry(failure),
        Invalid::Drop => Meaning::Dropped(failure),
    }
}

/// A message without a version is one of today's: other producers need not know of it.
fn unknown_version(decoded: &Decoded<'_>) -> Option<String> {
    match decoded.attributes.get(attribute::SCHEMA_VERSION)? {
        Json::String(version) if version == SCHEMA_VERSION => None,
        Json::String(version) => Some(version.clone().into_owned()),
        other => Some(other.to_string()).filter(|version| version != SCHEMA_VERSION),
    }
}

/// Why an event that holds has no meaning.
enum Not {
    Good(Violation),
    Yet(Wanted),
}

impl From<Violation> for Not {
    fn from(violation: Violation) -> Not {
        Not::Good(violation)
    }
}

/// What is known of a message once it was read.
enum Judged<'a> {
    Is(Meaning),
    /// An event that holds, and the hash by which it is known again.
    Event(&'a EventContract, [u8; 32]),
}

fn judge<'a>(config: &RuntimeConfig, contract: &'a Contract, view: &Message<'_>) -> Result<Judged<'a>, Vec<Violation>> {
    let one = |violation| vec![violation];
    let event = match contract.recognise(view) {
        Ok(Some(event)) => event,
        // Pods take up a changed document one after the other, and whoever published this was told that it is accepted.
        Ok(None) | Err(_) if let Some(kind) = unheard(config, view) => {
            let reason = format!("no event {kind} is known here: a document that names it may be on its way, else add it or replay");
            return Ok(Judged::Is(Meaning::Retry(Failure::new(Kind::UnknownEvent, reason, Some(&view.decoded.id)))));
        }
        Ok(None) => return Ok(Judged::Is(Meaning::Nothing("no event's `when` holds"))),
        Err(violation) => return Err(one(violation)),
    };
    let tenants = config.worker.as_ref().map_or(&[][..], |worker| &worker.tenants);
    // An event that has no tenant is let through: whose order it changes decides, and the store compares.
    if !tenants.is_empty() && event.tenant(view).map_err(one)?.is_some_and(|tenant| !tenants.contains(&tenant)) {
        return Ok(Judged::Is(Meaning::Nothing("another tenant's")));
    }
    let violations = event.violations(view);
    if violations.is_empty() { Ok(Judged::Event(event, event.content(&view.decoded.data))) } else { Err(violations) }
}

fn meaning(
    config: &RuntimeConfig,
    contract: &Contract,
    codecs: &Codecs,
    message: &Incoming,
    view: &Message<'_>,
    event: &EventContract,
    content: [u8; 32],
) -> Result<Meaning, Not> {
    let change = event.change(view, content, codec::place(&message.at))?;
    let emissions = event.emissions(view)?;
    let call = config.worker.as_ref().and_then(|worker| worker.callback.as_ref()).map(|_| callback_body(event, view, &change));
    if call.is_none() && emissions.is_empty() {
        return Ok(Meaning::Event(Box::new(Event { change, then: None })));
    }
    // A Create is known by its order, whatever its message is called.
    let known_as = match change.effect {
        Effect::Create => format!("{}/{}", change.event, change.order_id),
        _ => change.event_id.clone(),
    };
    let mut messages = Vec::new();
    for (index, emission) in emissions.into_iter().enumerate() {
        messages.extend(emitted(config, contract, codecs, view, &known_as, index, emission)?);
    }
    let then = Some(Then { event_id: change.event_id.clone(), known_as, messages, call });
    Ok(Meaning::Event(Box::new(Event { change, then })))
}

/// The type of a message that a runtime of this pipeline wrote, and that this document does not know. What it emits for others to
/// read is none, and where others write too nobody can tell.
fn unheard<'a>(config: &RuntimeConfig, view: &Message<'a>) -> Option<&'a str> {
    let attribute = |name| view.decoded.attributes.get(name).and_then(Json::as_str);
    let kind = attribute(attribute::TYPE).filter(|_| attribute(attribute::SCHEMA_VERSION).is_some())?;
    let ours = config.topic(view.topic).is_some_and(|topic| topic.producers == Producers::Pipeline);
    let emitted = || config.events.iter().flat_map(|event| &event.emit).any(|emit| *emit.topic == *view.topic && *emit.event_type == *kind);
    (ours && config.event(kind).is_none() && !emitted()).then_some(kind)
}

/// The message that an emission becomes: the same bytes each time, whichever pod makes it.
fn emitted(
    config: &RuntimeConfig,
    contract: &Contract,
    codecs: &Codecs,
    source: &Message<'_>,
    known_as: &str,
    index: usize,
    emission: Emission,
) -> Result<Option<Outgoing>, Not> {
    let Some(topic) = config.topic(&emission.topic) else { return Ok(None) };
    let id =
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{known_as}/{}/{}/{index}", emission.topic, emission.event_type).as_bytes()).to_string();
    let carried = [attribute::REQUEST_ID, attribute::PRINCIPAL, attribute::CORRELATION_ID, "traceparent"];
    let carried = carried.into_iter().filter_map(|name| {
        let value = source.decoded.attributes.get(name)?.as_str()?;
        Some((name.to_owned(), value.to_owned()))
    });
    let Emission { event_type: event, data, .. } = emission;
    let time = source.decoded.publish_time;
    let text = Bytes::from(adopted(contract, topic, &event, &id, data)?);
    let (data, seen) = written(codecs, topic, &text)?;
    let mut draft = Draft { event, id, time, key: String::new(), attributes: carried.collect(), data };
    draft.key = emitted_key(contract, source, topic, &draft, seen)?;
    Ok(Some(codec::encode(topic, &draft)))
}

/// The JSON text of an emission: what its event encrypts is encrypted for that.
fn adopted(contract: &Contract, topic: &TopicConfig, kind: &str, id: &str, text: String) -> Result<String, Violation> {
    let Some(fields) = contract.event_on(&topic.name, kind).and_then(EventContract::encrypted) else { return Ok(text) };
    let unfit = |why: String| Violation { field: "data".into(), message: format!("{why}, and cannot be emitted") };
    let mut data: Json = serde_json::from_str(&text).map_err(|e| unfit(e.to_string()))?;
    fields.adopt(&mut data, id).map_err(|why| unfit(why.to_string()))?;
    Ok(data.to_string())
}

/// The body of an emission of this JSON text, and what its readers will see.
fn written<'t>(codecs: &Codecs, topic: &TopicConfig, text: &'t Bytes) -> Result<(Bytes, Json<'t>), Not> {
    let unfit = |field: String, message: String| {
        let message = format!("what it emits to {} does not fit: {message}", topic.name);
        Not::from(Violation { field, message })
    };
    let mut seen = serde_json::from_slice(text).map_err(|e| unfit("data".into(), e.to_string()))?;
    match codecs.body(topic, text.clone(), &mut seen) {
        Ok(body) => Ok((body, seen)),
        Err(Unwritten::Unfit(why)) => Err(unfit(why.path, why.message)),
        Err(Unwritten::NotYet(wanted)) => Err(Not::Yet(wanted)),
    }
}

/// Its key: what the document says of this type of event, else that of the event it follows from.
fn emitted_key(contract: &Contract, source: &Message<'_>, topic: &TopicConfig, draft: &Draft, data: Json<'_>) -> Result<String, Violation> {
    match contract.event_on(&topic.name, &draft.event) {
        Some(event) => {
            let decoded = Decoded::of(topic, draft, data);
            event.key(&Message { topic: &topic.name, key: source.key, decoded: &decoded })
        }
        None => match source.key {
            Some(key) => Ok(key.to_owned()),
            None => contract.recognise(source)?.map_or_else(|| Ok(String::new()), |event| event.key(source)),
        },
    }
}

fn callback_body(event: &EventContract, view: &Message<'_>, change: &Change) -> Bytes {
    let body = json!({
        "id": change.event_id,
        "type": event.config.name,
        "orderId": change.order_id,
        "topic": view.topic,
        "time": view.decoded.publish_time,
        "attributes": view.decoded.attributes,
        "data": view.decoded.data,
    });
    Bytes::from(body.to_string())
}
