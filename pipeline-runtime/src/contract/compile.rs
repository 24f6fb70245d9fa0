use super::{Alert, ContractError, EventContract};
use crate::pii::{Fields, Keyring};
use crds::expression::{self, Compiled, Read, Scope};
use crds::pipeline::{FIELDS_OF_THE_STORE, FieldPath};
use crds::runtime_config::{EventConfig, RuntimeConfig};
use crds::schema::{Fault, Schema};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The expressions of an event, as its configuration orders them.
#[derive(Debug)]
pub(super) struct Expressions {
    pub when: Option<Compiled>,
    pub key: Compiled,
    pub id: Option<Compiled>,
    pub at: Option<Compiled>,
    pub rules: Vec<Compiled>,
    pub order_id: Compiled,
    pub tenant: Option<Compiled>,
    pub customer: Option<Compiled>,
    pub items: Option<Compiled>,
    pub total: Option<Compiled>,
    pub status: Option<Compiled>,
    pub created_at: Option<Compiled>,
    pub set: Vec<(String, Compiled)>,
    pub append: Vec<(String, Compiled)>,
    pub emit: Vec<Option<Compiled>>,
}

pub(super) fn event(place: &str, config: &EventConfig, keyring: Option<&Arc<Keyring>>) -> Result<EventContract, ContractError> {
    let error = |below: &str, message: String| ContractError { place: format!("{place}.{below}"), message };
    let unusable = |faults: Vec<Fault>| match faults.into_iter().next() {
        Some(first) => error(&first.path, first.message),
        None => error("schema", "is no JSON Schema".into()),
    };
    let schema = config.schema.as_ref().map(Schema::compile).transpose().map_err(unusable)?;
    let compiler = Compiler { place, scope: Scope::new(config.schema.as_ref()) };
    for field in config.append.keys() {
        if super::change::is_column(field) {
            return Err(error(
                &format!("append.{field}"),
                format!("{field} is a field of every order and no list: append to another name"),
            ));
        }
    }
    if let Some(field) = config.set.keys().find(|field| FIELDS_OF_THE_STORE.contains(&field.as_str())) {
        return Err(error(&format!("set.{field}"), format!("{field} cannot be set: it is kept by the store")));
    }
    let expressions = compiler.event(config)?;
    let encrypted = encrypted(config, &expressions).map_err(|(index, message)| error(&format!("pii[{index}]"), message))?;
    if keyring.is_none() && !encrypted.is_empty() {
        return Err(error("pii", "there are no keys to encrypt fields with: see spec.pii".into()));
    }
    let encrypted = keyring.map(|keyring| Fields::new(&config.name, encrypted, keyring));
    Ok(EventContract { config: config.clone(), schema, expressions, encrypted })
}

/// The fields that are encrypted, and whether each must be equal to be found.
fn encrypted(config: &EventConfig, expressions: &Expressions) -> Result<Vec<(FieldPath, bool)>, (usize, String)> {
    let customer = expressions.set.iter().filter(|(column, _)| column == "customerId").map(|(_, expression)| expression);
    let found_by =
        [&expressions.key, &expressions.order_id].into_iter().chain(&expressions.id).chain(&expressions.customer).chain(customer);
    let reads: Vec<Read> = found_by.flat_map(Compiled::reads).collect();
    let field = |(index, path): (usize, &String)| {
        let path = FieldPath::parse(path).map_err(|message| (index, message))?;
        let matching = reads.iter().any(|read| read.touches(&path));
        Ok((path, matching))
    };
    config.pii.iter().enumerate().map(field).collect()
}

/// Of any topic, so that no schema says what its numbers are.
pub(super) fn alert(config: &RuntimeConfig) -> Result<Alert, ContractError> {
    let Some(alert) = config.worker.as_ref().and_then(|worker| worker.dead_letters.alert.as_ref()) else { return Ok(Alert::None) };
    let Some(when) = &alert.when else { return Ok(Alert::All) };
    let compiled = Compiler { place: "worker.deadLetters", scope: Scope::default() }.one("alert.when", when)?;
    Ok(Alert::When(compiled))
}

struct Compiler<'a> {
    place: &'a str,
    scope: Scope,
}

impl Compiler<'_> {
    fn event(&self, config: &EventConfig) -> Result<Expressions, ContractError> {
        let order = &config.order;
        let rules = config.rules.iter().enumerate().map(|(index, rule)| self.one(&format!("rules[{index}].rule"), &rule.rule));
        let emit = config.emit.iter().enumerate();
        let emit = emit.map(|(index, emit)| emit.data.as_ref().map(|data| self.one(&format!("emit[{index}].data"), data)).transpose());
        Ok(Expressions {
            when: self.optional("when", config.when.as_ref())?,
            key: self.one("key", &config.key)?,
            id: self.optional("id", config.id.as_ref())?,
            at: self.optional("at", config.at.as_ref())?,
            rules: rules.collect::<Result<_, _>>()?,
            order_id: self.one("order.id", &order.id)?,
            tenant: self.optional("order.tenant", order.tenant.as_ref())?,
            customer: self.optional("order.customer", order.customer.as_ref())?,
            items: self.optional("order.items", order.items.as_ref())?,
            total: self.optional("order.total", order.total.as_ref())?,
            status: self.optional("order.status", order.status.as_ref())?,
            created_at: self.optional("order.createdAt", order.created_at.as_ref())?,
            set: self.map("set", &config.set)?,
            append: self.map("append", &config.append)?,
            emit: emit.collect::<Result<_, _>>()?,
        })
    }

    fn one(&self, below: &str, text: &str) -> Result<Compiled, ContractError> {
        expression::compile(text, &self.scope)
            .map_err(|error| ContractError { place: format!("{}.{below}", self.place), message: error.to_string() })
    }

    fn optional(&self, below: &str, text: Option<&String>) -> Result<Option<Compiled>, ContractError> {
        text.map(|text| self.one(below, text)).transpose()
    }

    fn map(&self, below: &str, map: &BTreeMap<String, String>) -> Result<Vec<(String, Compiled)>, ContractError> {
        map.iter().map(|(field, text)| Ok((field.clone(), self.one(&format!("{below}.{field}"), text)?))).collect()
    }
}
