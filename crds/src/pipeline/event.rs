//! Events: what a message means, what must hold of it, and what it does to an order.

use super::scalar::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names under which an order shows its own columns. `set` writes these there; any other name is a field beside them.
pub const FIELDS_OF_EVERY_ORDER: [&str; 6] = ["tenantId", "customerId", "items", "totalAmount", "status", "createdAt"];
/// These the store keeps: no event sets them.
pub const FIELDS_OF_THE_STORE: [&str; 2] = ["orderId", "updatedAt"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    pub name: Name,
    /// Where it is read from and written to (the first one). Default: the only topic of the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topics: Vec<TopicName>,
    /// Which messages of these topics are this event. Default: those whose `type` attribute is the event's name, or which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// Partition key: what has the same key is first in, first out. Default: the order's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Expression>,
    /// What makes a repeat a repeat. Default: the message's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Expression>,
    /// When it happened: an older event does not overwrite what a newer one has set. Default: the order of arrival decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Expression>,
    /// JSON Schema of `data`. Default: for an event of the HTTP API that of its dialect, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<AnyJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub rules: Vec<Rule>,
    /// What it does to the order. Default: Create for the first event of the document, Update for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Where the order's own fields lie in the event. Default: data.orderId, data.tenantId, data.customerId, data.items, data.totalAmount and
    /// data.status; an Update that says what it changes (here, in `set` or in `append`) changes nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderFields>,
    /// Fields of the order that it sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub set: BTreeMap<String, Expression>,
    /// Lists of the order that it appends to, once for each event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub append: BTreeMap<String, Expression>,
    /// Events that follow from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub emit: Vec<Emit>,
    /// Fields of a person (data.email, data.lines[].note): encrypted on the broker, in the store and in logs, with the keys of `spec.pii`.
    /// Only `when` and rules see what they say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub pii: Vec<Text>,
    /// An example of `data`: `check` runs every expression on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<AnyJson>,
}

/// Something that must hold of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub rule: Expression,
    /// What a person is told when it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Text>,
    /// The field that is named in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Effect {
    /// Makes the order. The same order again has no effect; another order under its id is a dead letter.
    Create,
    /// Changes an order that exists; waits for its Create where that is still under way.
    Update,
    Upsert,
    /// Leaves the order as it is: the event is checked, emitted and called back.
    None,
}

/// Where the order's own fields lie in the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderFields {
    /// Default: data.orderId
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Expression>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Expression>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Emit {
    pub topic: TopicName,
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 200))]
    pub event_type: String,
    /// Default: the event's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Expression>,
}

/// An amount that an event gives as a text: 12.50, without an exponent.
pub fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    match unsigned.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(unsigned),
    }
}
