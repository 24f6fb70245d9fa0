//! An event's schema, rules and expressions, compiled once; what a message means and whether it holds.

mod change;
mod compile;
mod content;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use content::content_hash;

use crate::codec::{Decoded, attribute};
use crate::pii::{Body, Encrypted, Fields, Keyring, Opened, Unreadable};
use crate::store::Change;
use compile::Expressions;
use crds::expression::{Compiled, EvaluationError, Input};
use crds::json::Json;
use crds::pipeline::Effect;
use crds::runtime_config::{EventConfig, RuntimeConfig};
use crds::schema::{MAX_FAULTS, Schema};
use std::borrow::Cow;
use std::sync::Arc;

/// All events of a pipeline, compiled. Replaced as a whole when the configuration changes.
#[derive(Debug)]
pub struct Contract {
    events: Vec<EventContract>,
    alert: Alert,
    /// The encrypted fields of all events of a topic, by its name; only those that have any.
    encrypted: Vec<(String, Fields)>,
}

/// Which dead letters somebody is told of.
#[derive(Debug)]
enum Alert {
    None,
    All,
    When(Compiled),
}

#[derive(Debug)]
pub struct EventContract {
    pub config: EventConfig,
    schema: Option<Schema>,
    expressions: Expressions,
    /// None: nothing of the pipeline is encrypted.
    encrypted: Option<Fields>,
}

/// What expressions see: `topic`, `key`, `id`, `publishTime`, `attributes`, `data`.
/// For an event that is not published yet, [`Decoded::of`] says what readers will see of it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub key: Option<&'a str>,
    pub decoded: &'a Decoded<'a>,
}

/// Something that does not hold, and where: `data.items[1].quantity`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    pub field: String,
    pub message: String,
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Emission {
    pub topic: String,
    pub event_type: String,
    /// JSON text.
    pub data: String,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ContractError {
    /// events[1].rules[0].rule
    pub place: String,
    pub message: String,
}

impl Contract {
    /// Of a pipeline in which nothing is encrypted.
    pub fn compile(config: &RuntimeConfig) -> Result<Contract, ContractError> {
        Contract::with_keys(config, None)
    }

    /// The same without keys, for whoever only judges data that was never encrypted.
    pub fn unencrypted(config: &RuntimeConfig) -> Result<Contract, ContractError> {
        let mut config = config.clone();
        config.events.iter_mut().for_each(|event| event.pii.clear());
        Contract::compile(&config)
    }

    pub fn with_keys(config: &RuntimeConfig, keyring: Option<&Arc<Keyring>>) -> Result<Contract, ContractError> {
        let events = config.events.iter().enumerate().map(|(index, event)| compile::event(&format!("events[{index}]"), event, keyring));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let mut encrypted = Vec::new();
        for topic in keyring.iter().flat_map(|_| &config.topics) {
            let read = events.iter().filter(|event| event.config.topics.contains(&topic.name));
            let mut fields = read.filter_map(EventContract::encrypted).peekable();
            if let (Some(_), Some(keyring)) = (fields.peek(), keyring) {
                encrypted.push((topic.name.clone(), Fields::of_all(fields, keyring)));
            }
        }
        Ok(Contract { events, alert: compile::alert(config)?, encrypted })
    }

    /// The encrypted fields that messages of this topic may have, whichever event they are. None: no event of it has any.
    pub fn encrypted(&self, topic: &str) -> Option<&Fields> {
        self.encrypted.iter().find(|(name, _)| name == topic).map(|(_, fields)| fields)
    }

    /// Whether there is anybody to be told of dead letters.
    pub fn tells_of_letters(&self) -> bool {
        !matches!(self.alert, Alert::None)
    }

    /// Whether somebody is to be told that this message became a dead letter. What the condition asks for and the message lacks is no;
    /// what the condition cannot judge is yes: better one alert too many.
    pub fn alerts(&self, message: &Message<'_>) -> bool {
        match &self.alert {
            Alert::None => false,
            Alert::All => true,
            Alert::When(when) => match when.bool(&message.input()) {
                Ok(critical) => critical,
                Err(EvaluationError::Missing { .. }) => false,
                Err(EvaluationError::Failed(_)) => true,
            },
        }
    }

    pub fn event(&self, name: &str) -> Option<&EventContract> {
        self.events.iter().find(|e| e.config.name == name)
    }

    /// The event of this type that is read from a topic: for what is emitted there.
    pub fn event_on(&self, topic: &str, kind: &str) -> Option<&EventContract> {
        self.event(kind).filter(|event| event.config.topics.iter().any(|name| name == topic))
    }

    /// The event that this message is: the first of its topic whose `when` holds. A `when` that asks for a field which the message does
    /// not have does not hold; but a message that no event claims and that some event could not judge is not passed over in silence.
    pub fn recognise(&self, message: &Message<'_>) -> Result<Option<&EventContract>, Violation> {
        let mut unclear = None;
        for event in self.events.iter().filter(|event| event.config.topics.iter().any(|topic| topic == message.topic)) {
            match event.is(message) {
                Ok(true) => return Ok(Some(event)),
                Ok(false) => {}
                Err((_, EvaluationError::Missing { path })) => {
                    let message = format!("{path} is missing, by which the event {} is told from others", event.config.name);
                    unclear.get_or_insert(Violation { field: path, message });
                }
                Err((when, error)) => return Err(Violation::of(when, error)),
            }
        }
        unclear.map_or(Ok(None), Err)
    }

    /// That readers will take this message for this event.
    pub fn must_be(&self, event: &EventContract, message: &Message<'_>) -> Result<(), Violation> {
        let name = &event.config.name;
        let message = match self.recognise(message)? {
            Some(found) if found.config.name == *name => return Ok(()),
            Some(other) => format!("would be read as {}, which stands before {name} in the document and takes it", other.config.name),
            None => {
                let when = event.config.when.as_deref().unwrap_or_default();
                format!("is no {name}, and nobody would read it: it must hold that {}", shortened(when))
            }
        };
        Err(Violation { field: "data".to_owned(), message })
    }

    /// That everything can be made which follows from an event that holds: else the event itself could not be processed.
    pub fn can_follow(&self, event: &EventContract, message: &Message<'_>) -> Result<(), Violation> {
        for emission in event.emissions(message)? {
            let Some(next) = self.event_on(&emission.topic, &emission.event_type) else { continue };
            let of_it = |violation: Violation| Violation {
                message: format!("{} cannot follow from it on {}: {}", emission.event_type, emission.topic, violation.message),
                ..violation
            };
            let unread = |e: serde_json::Error| of_it(Violation { field: "data".to_owned(), message: e.to_string() });
            let data = serde_json::from_str(&emission.data).map_err(unread)?;
            let mut decoded = Decoded { data, ..message.decoded.clone() };
            decoded.attributes.insert(attribute::TYPE.to_owned(), emission.event_type.clone().into());
            next.key(&Message { topic: &emission.topic, key: message.key, decoded: &decoded }).map_err(of_it)?;
        }
        Ok(())
    }
}

impl EventContract {
    fn is(&self, message: &Message<'_>) -> Result<bool, (&Compiled, EvaluationError)> {
        match &self.expressions.when {
            Some(when) => when.bool(&message.input()).map_err(|error| (when, error)),
            None => Ok(match message.decoded.attributes.get(attribute::TYPE) {
                None | Some(Json::Null) => true,
                Some(kind) => *kind == *self.config.name,
            }),
        }
    }

    /// The fields of the event that are encrypted. None: there are none.
    pub fn encrypted(&self) -> Option<&Fields> {
        self.encrypted.as_ref().filter(|fields| !fields.is_empty())
    }

    /// Encrypts again what of a message was decrypted for its event to be known: what leaves the process is made of that.
    pub fn hide(&self, topic: &Fields, opened: Opened, decoded: &mut Decoded<'_>, body: Body<'_>) -> Result<(), (String, Unreadable)> {
        let Some(own) = &self.encrypted else { return Ok(()) };
        own.hide(topic, opened, &mut decoded.data, body, &decoded.id)
    }

    /// The other view of data that the event's fields were encrypted in.
    pub fn swap<'m>(&self, decoded: &mut Decoded<'m>, hidden: &mut Encrypted<'m>) {
        if let Some(fields) = self.encrypted() {
            fields.swap(&mut decoded.data, hidden);
        }
    }

    /// Every mistake, none if it is good: the schema first, and the rules only where the schema holds. At most 20. What an encrypted
    /// field says is not said.
    pub fn violations(&self, message: &Message<'_>) -> Vec<Violation> {
        let faults = self.schema.as_ref().map(|schema| schema.faults(&message.decoded.data)).unwrap_or_default();
        if !faults.is_empty() {
            return faults.into_iter().map(|fault| self.discreet(Violation { field: fault.path, message: fault.message })).collect();
        }
        let input = message.input();
        let rules = self.config.rules.iter().zip(&self.expressions.rules);
        rules.filter_map(|(rule, compiled)| broken(rule, compiled, &input, self.encrypted())).take(MAX_FAULTS).collect()
    }

    /// Numbers are repeated in the sentences of a schema, `must be above 0 but is -3`; not those of an encrypted field.
    fn discreet(&self, mut violation: Violation) -> Violation {
        if self.encrypted().is_some_and(|fields| fields.hold(&violation.field))
            && let Some((must, _)) = violation.message.split_once(" but is ")
        {
            violation.message = must.to_owned();
        }
        violation
    }

    /// The partition key.
    pub fn key(&self, message: &Message<'_>) -> Result<String, Violation> {
        let key = &self.expressions.key;
        key.string(&message.input()).map_err(|error| Violation::of(key, error))
    }

    /// The order's tenant, where the event has one.
    pub fn tenant(&self, message: &Message<'_>) -> Result<Option<String>, Violation> {
        self.optional_text(self.expressions.tenant.as_ref(), &message.input())
    }

    /// What it does to the order. `source` is topic/partition/offset.
    pub fn change(&self, message: &Message<'_>, content: [u8; 32], source: String) -> Result<Change, Violation> {
        Ok(Change { content, source, ..self.change_unsourced(message)? })
    }

    /// By which the same Create is known again: the hash of its data as it says what it says, before it is encrypted.
    pub fn content(&self, data: &Json<'_>) -> [u8; 32] {
        if self.config.effect == Effect::Create { self.hash(data) } else { [0; 32] }
    }

    /// The hash of an event's data, or of the request that it came with. Where fields are encrypted nobody can try values on it.
    pub fn hash(&self, data: &Json<'_>) -> [u8; 32] {
        let hash = content_hash(data);
        self.encrypted().map_or(hash, |fields| fields.hash(&hash))
    }

    /// The same without its source and its content's hash: for whoever only asks whether it can be made.
    pub fn change_unsourced(&self, message: &Message<'_>) -> Result<Change, Violation> {
        self.make_change(message)
    }

    pub fn emissions(&self, message: &Message<'_>) -> Result<Vec<Emission>, Violation> {
        let input = message.input();
        let emit = self.config.emit.iter().zip(&self.expressions.emit);
        emit.map(|(emit, data)| {
            let data = match data {
                Some(data) => data.json(&input).map_err(|error| Violation::of(data, error))?.to_string(),
                None => message.decoded.data.to_string(),
            };
            Ok(Emission { topic: emit.topic.0.clone(), event_type: emit.event_type.clone(), data })
        })
        .collect()
    }
}

fn broken(rule: &crds::pipeline::Rule, compiled: &Compiled, input: &Input<'_>, encrypted: Option<&Fields>) -> Option<Violation> {
    let field = || rule.field.as_ref().map_or_else(|| "data".to_owned(), |field| field.0.clone());
    match compiled.bool(input) {
        Ok(true) => None,
        Ok(false) => {
            let message =
                rule.message.as_ref().map_or_else(|| format!("must hold: {}", shortened(&rule.rule)), |message| message.0.clone());
            Some(Violation { field: field(), message })
        }
        // A function may repeat what it was given.
        Err(EvaluationError::Failed(_)) if encrypted.is_some_and(|fields| fields.are_read(compiled)) => {
            Some(Violation { field: field(), message: format!("the rule {} cannot be checked on what is there", shortened(&rule.rule)) })
        }
        Err(EvaluationError::Failed(why)) => {
            Some(Violation { field: field(), message: format!("the rule {} cannot be checked: {why}", shortened(&rule.rule)) })
        }
        Err(missing) => Some(Violation::of(compiled, missing)),
    }
}

impl<'a> Message<'a> {
    fn input(&self) -> Input<'a> {
        let Decoded { id, publish_time, attributes, data } = self.decoded;
        Input { topic: self.topic, key: self.key, id, publish_time: *publish_time, attributes, data }
    }
}

impl Violation {
    fn of(expression: &Compiled, error: EvaluationError) -> Violation {
        match error {
            // A value that need not be there, or an item behind the end of its list.
            EvaluationError::Missing { path } if path == expression.text() && expression.path().is_none() => {
                Violation { field: "data".to_owned(), message: format!("{} gives nothing", shortened(&path)) }
            }
            EvaluationError::Missing { path } => {
                let name = path.rsplit_once('.').map_or(path.as_str(), |(_, name)| name);
                Violation { message: format!("{name} is required"), field: path }
            }
            EvaluationError::Failed(message) => Violation { field: expression.path().unwrap_or("data").to_owned(), message },
        }
    }
}

/// An expression within a sentence.
fn shortened(expression: &str) -> Cow<'_, str> {
    match expression.char_indices().nth(100) {
        Some((end, _)) => Cow::Owned(format!("{}...", &expression[..end])),
        None => Cow::Borrowed(expression),
    }
}
