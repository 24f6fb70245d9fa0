//! An event's schema, rules and expressions, compiled once; what a message means and whether it holds.

use crate::codec::Decoded;
use crate::store::Change;
use crds::runtime_config::{EventConfig, RuntimeConfig};

/// All events of a pipeline, compiled. Replaced as a whole when the configuration changes.
#[derive(Debug)]
pub struct Contract {
    events: Vec<EventContract>,
}

#[derive(Debug)]
pub struct EventContract {
    pub config: EventConfig,
}

/// What expressions see: `topic`, `key`, `id`, `publishTime`, `attributes`, `data`.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub key: Option<&'a str>,
    pub decoded: &'a Decoded,
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
    pub fn compile(config: &RuntimeConfig) -> Result<Contract, ContractError> {
        let _ = config;
        unimplemented!()
    }

    pub fn event(&self, name: &str) -> Option<&EventContract> {
        self.events.iter().find(|e| e.config.name == name)
    }

    /// The event that this message is: the first of its topic whose `when` holds.
    pub fn recognise(&self, message: &Message<'_>) -> Result<Option<&EventContract>, Violation> {
        let _ = message;
        unimplemented!()
    }
}

impl EventContract {
    /// Every mistake, none if it is good: the schema first, and the rules only where the schema holds. At most 20.
    pub fn violations(&self, message: &Message<'_>) -> Vec<Violation> {
        let _ = message;
        unimplemented!()
    }

    /// The partition key.
    pub fn key(&self, message: &Message<'_>) -> Result<String, Violation> {
        let _ = message;
        unimplemented!()
    }

    /// The order's tenant, where the event has one.
    pub fn tenant(&self, message: &Message<'_>) -> Result<Option<String>, Violation> {
        let _ = message;
        unimplemented!()
    }

    /// What it does to the order. `source` is topic/partition/offset.
    pub fn change(&self, message: &Message<'_>, source: String) -> Result<Change, Violation> {
        let _ = (message, source);
        unimplemented!()
    }

    pub fn emissions(&self, message: &Message<'_>) -> Result<Vec<Emission>, Violation> {
        let _ = message;
        unimplemented!()
    }
}
