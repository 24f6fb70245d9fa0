//! The schema, the expressions and the example of one event: whether they compile, and whether they agree.

use super::{Found, pii};
use crate::document::wording::quoted;
use crate::expression::{self, Compiled, EvaluationError, Input, Scope};
use crate::json::{Json, Object};
use crate::mistake::{at, below};
use crate::pipeline::*;
use crate::runtime_config::EventConfig;
use crate::schema::{Schema, sample};
use chrono::{DateTime, Utc};
use std::borrow::Cow;

pub(super) struct Expressions<'a> {
    place: &'a str,
    event: &'a Event,
    config: &'a EventConfig,
    scope: Scope,
    encrypted: Vec<FieldPath>,
}

/// What an expression must give on the example.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Bool,
    Text,
    Anything,
    /// These may be missing in an event: the field then stays as it is.
    MaybeText,
    MaybeTime,
    MaybeAmount,
    MaybeAnything,
}

struct Use<'a> {
    place: String,
    text: &'a str,
    wanted: Wanted,
    /// Whether the author wrote it.
    written: bool,
}

impl<'a> Expressions<'a> {
    pub fn new(place: &'a str, event: &'a Event, config: &'a EventConfig) -> Self {
        Expressions { place, event, config, scope: Scope::new(config.schema.as_ref()), encrypted: pii::encrypted(config) }
    }

    pub fn check(&self, found: &mut Found) {
        let schema = self.config.schema.as_ref().map(Schema::compile).transpose();
        for fault in schema.as_ref().err().into_iter().flatten() {
            found.add(format!("{}.{}", self.place, fault.path), fault.message.clone());
        }
        let mut compiled = Vec::new();
        for used in self.uses() {
            match expression::compile(used.text, &self.scope) {
                Ok(expression) => match self.certainly_wrong(&used, &expression).or_else(|| self.of_encrypted(&used, &expression)) {
                    Some(message) => found.add(used.place, message),
                    None => compiled.push((used, expression)),
                },
                // The same mistake may stand in a default that was taken over from another field.
                Err(error) if used.written => found.add(used.place, error.to_string()),
                Err(_) => {}
            }
        }
        if let Some(example) = &self.event.example {
            let faults =
                schema.as_ref().ok().and_then(Option::as_ref).map(|schema| schema.faults(&Json::from(&example.0))).unwrap_or_default();
            for fault in &faults {
                found.add(below(self.place, "example"), format!("breaks the event's own schema: {}: {}", fault.path, fault.message));
            }
            if !faults.is_empty() {
                return;
            }
            self.run(&compiled, &Json::from(&example.0), found);
        }
        // What is wrong in itself says nothing of types.
        if schema.is_ok() {
            self.try_types(&compiled, found);
        }
    }

    /// What of it cannot be, since fields that it reads are encrypted where its result goes.
    fn of_encrypted(&self, used: &Use<'_>, expression: &Compiled) -> Option<String> {
        if self.encrypted.is_empty() {
            return None;
        }
        let what = used.place.strip_prefix(self.place)?.trim_start_matches('.');
        let reads = expression.reads();
        let of_key = |read: &crate::expression::Read| read.path == "key";
        if (what == "when" || what.starts_with("rules[")) && reads.iter().any(of_key) && self.key_is_encrypted() {
            return Some("reads key, which is made of an encrypted field: read the field itself".into());
        }
        pii::refused(what, &reads, &self.encrypted)
    }

    fn key_is_encrypted(&self) -> bool {
        let reads = expression::compile(&self.config.key, &self.scope).map(|key| key.reads()).unwrap_or_default();
        self.encrypted.iter().any(|field| reads.iter().any(|read| read.touches(field)))
    }

    fn uses(&self) -> Vec<Use<'a>> {
        let (event, config) = (self.event, self.config);
        let fields = event.order.as_ref();
        let mut uses = Vec::new();
        let mut one = |path: String, text: Option<&'a String>, written: bool, wanted: Wanted| {
            uses.extend(text.map(|text| Use { place: format!("{}.{path}", self.place), text, wanted, written }));
        };
        one("when".into(), config.when.as_ref(), true, Wanted::Bool);
        one("key".into(), Some(&config.key), event.key.is_some(), Wanted::Text);
        one("id".into(), config.id.as_ref(), true, Wanted::Text);
        one("at".into(), config.at.as_ref(), true, Wanted::MaybeTime);
        let order = &config.order;
        let id = if config.effect == Effect::None { Wanted::MaybeText } else { Wanted::Text };
        one("order.id".into(), Some(&order.id), fields.is_some_and(|f| f.id.is_some()), id);
        for (name, text, written, wanted) in [
            ("tenant", &order.tenant, fields.is_some_and(|f| f.tenant.is_some()), Wanted::MaybeText),
            ("customer", &order.customer, fields.is_some_and(|f| f.customer.is_some()), Wanted::MaybeText),
            ("items", &order.items, fields.is_some_and(|f| f.items.is_some()), Wanted::MaybeAnything),
            ("total", &order.total, fields.is_some_and(|f| f.total.is_some()), Wanted::MaybeAmount),
            ("status", &order.status, fields.is_some_and(|f| f.status.is_some()), Wanted::MaybeText),
            ("createdAt", &order.created_at, true, Wanted::MaybeTime),
        ] {
            one(format!("order.{name}"), text.as_ref(), written, wanted);
        }
        for (index, rule) in event.rules.iter().enumerate() {
            one(below(&at("rules", index), "rule"), Some(&rule.rule.0), true, Wanted::Bool);
        }
        for (field, text) in &config.set {
            one(below("set", field), Some(text), true, of_field(field));
        }
        for (field, text) in &config.append {
            one(below("append", field), Some(text), true, Wanted::MaybeAnything);
        }
        for (index, emit) in event.emit.iter().enumerate() {
            one(below(&at("emit", index), "data"), emit.data.as_ref().map(|data| &data.0), true, Wanted::Anything);
        }
        uses
    }

    /// What is wrong whatever a message holds.
    fn certainly_wrong(&self, used: &Use<'_>, expression: &Compiled) -> Option<String> {
        let schema = self.config.schema.as_ref();
        if used.wanted == Wanted::Bool
            && let Some(message) = expression.never_bool(schema)
        {
            return Some(message);
        }
        if let Some(message) = self.never_holds(used, expression).or_else(|| self.names_nothing(used, expression)) {
            return Some(message);
        }
        let example = self.event.example.as_ref().map(|example| &example.0);
        let unknown = expression.unknown_path(schema?, example)?;
        // What must be there must be declared. What may be missing, and what a schema that the author did not write does not speak of, is
        // only told where something of nearly that name is; and of what nobody wrote, the order's id.
        let must = matches!(used.wanted, Wanted::Bool | Wanted::Text);
        let counts = match used.written {
            true => unknown.is_slip || (must && self.event.schema.is_some()),
            false => unknown.is_slip && must && used.place.ends_with(".order.id"),
        };
        counts.then(|| if used.written { unknown.message } else { format!("is {} by default, but {}", used.text, unknown.message) })
    }

    /// A condition that is decided by the topic alone, or by nothing, can be decided here.
    fn never_holds(&self, used: &Use<'_>, expression: &Compiled) -> Option<String> {
        if used.wanted != Wanted::Bool {
            return None;
        }
        let so = if used.place.ends_with(".when") { "no message could be this event" } else { "no event could pass it" };
        if let Some(contradiction) = expression.contradiction() {
            return Some(format!("never holds, since {contradiction}: {so}; write || where either will do"));
        }
        // `when: 'false'` is told where it is known what else the event lacks.
        if used.text.trim() == "false" || !expression.asks_only(&["topic"]) {
            return None;
        }
        let (attributes, data) = (Object::new(), Json::Null);
        let holds = |topic: &str| {
            let input = Input { topic, key: None, id: "example", publish_time: when(), attributes: &attributes, data: &data };
            expression.bool(&input) != Ok(false)
        };
        let topics = &self.config.topics;
        let never = !topics.is_empty() && !topics.iter().any(|topic| holds(topic));
        let of =
            if expression.asks_only(&[]) { String::new() } else { format!(" for the event's topics, which are {}", topics.join(", ")) };
        never.then(|| format!("never holds{of}: {so}"))
    }

    /// By its id an event is known again, and by its order's id what it changes.
    fn names_nothing(&self, used: &Use<'_>, expression: &Compiled) -> Option<String> {
        let whose = used.place.strip_prefix(self.place).map(|what| what.trim_start_matches('.'));
        let all = match whose? {
            "id" => "all events would be one, and only the first take effect",
            "order.id" if used.wanted == Wanted::Text => "all orders would be one",
            _ => return None,
        };
        expression
            .asks_only(&["topic"])
            .then(|| format!("is the same for every message, so that {all}: read a field of it, such as data.orderId"))
    }

    /// The schema says which types meet, also in fields that the example lacks.
    fn try_types(&self, compiled: &[(Use<'_>, Compiled)], found: &mut Found) {
        let Some(schema) = &self.config.schema else { return };
        let (sample, attributes) = (sample(schema), self.attributes());
        let topic = self.config.topics.first().map(String::as_str).unwrap_or_default();
        let input =
            Input { topic, key: Some("example"), id: "example", publish_time: when(), attributes: &attributes, data: &Json::from(&sample) };
        for (used, expression) in compiled.iter().filter(|(used, _)| used.written) {
            // What the example has told already is the same mistake.
            if found.knows(&used.place) {
                continue;
            }
            let wrong = expression.type_error(&input).map(|message| format!("does not go together: {message}"));
            if let Some(message) = wrong.or_else(|| self.wrong_kind(used, expression, &input)) {
                found.add(used.place.clone(), message);
            }
        }
    }

    /// What the types of the schema make of it, where that is not what is wanted. Which texts there will be, types do not say.
    fn wrong_kind(&self, used: &Use<'_>, expression: &Compiled, input: &Input<'_>) -> Option<String> {
        let value = expression.json(input).ok()?;
        let must = match (used.wanted, &*value) {
            (_, Json::Null) => return None,
            (Wanted::Text | Wanted::MaybeText, Json::Bool(_) | Json::Array(_) | Json::Object(_)) => "a text",
            (Wanted::Text | Wanted::MaybeText, Json::Number(number)) if number.is_f64() => "a text",
            (Wanted::MaybeTime, Json::Bool(_) | Json::Array(_) | Json::Object(_) | Json::Number(_)) => "a time",
            (Wanted::MaybeAmount, Json::Bool(_) | Json::Array(_) | Json::Object(_)) => "a number",
            _ => return None,
        };
        let gives = match &*value {
            Json::Bool(_) => "true or false",
            Json::Array(_) => "a list",
            Json::Object(_) => "a map",
            _ if used.wanted == Wanted::MaybeTime => "a number",
            _ => "a number that need not be whole",
        };
        Some(format!("must give {must}, but {} gives {gives} by the event's schema", used.text.trim()))
    }

    fn run(&self, compiled: &[(Use<'_>, Compiled)], example: &Json<'_>, found: &mut Found) {
        let attributes = self.attributes();
        let topic = self.config.topics.first().map(String::as_str).unwrap_or_default();
        let mut input = Input { topic, key: None, id: "example", publish_time: when(), attributes: &attributes, data: example };
        let key = compiled.iter().find(|(used, _)| used.place == below(self.place, "key")).and_then(|(_, key)| key.string(&input).ok());
        input.key = Some(key.as_deref().unwrap_or("example"));
        // What goes into the store and to the broker is made of what is encrypted by then; only `when` and rules see what it says.
        let mut hidden = example.clone();
        for field in &self.encrypted {
            field.each(&mut hidden, &mut |value| *value = Json::from("***"));
        }
        for (used, expression) in compiled {
            let input = if used.wanted == Wanted::Bool { input } else { Input { data: &hidden, ..input } };
            if let Some(message) = self.on_example(used, expression, &input) {
                let by_default = if used.written { String::new() } else { format!("is {} by default, but ", used.text) };
                found.add(used.place.clone(), format!("{by_default}{message}"));
            }
        }
    }

    /// Why what this event emits on its own example would be no event that holds for its reader; as far as can be told from here.
    pub fn emits_broken(&self, emit: &Emit, reader: &Expressions<'_>) -> Option<String> {
        let (example, attributes) = (Json::from(&self.event.example.as_ref()?.0), self.attributes());
        let topic = self.config.topics.first().map(String::as_str).unwrap_or_default();
        let input = Input { topic, key: Some("example"), id: "example", publish_time: when(), attributes: &attributes, data: &example };
        let expression = emit.data.as_ref().map(|data| expression::compile(data, &self.scope)).transpose().ok()?;
        let emitted = match &expression {
            None => Cow::Borrowed(&example),
            Some(data) => data.json(&input).ok()?,
        };
        // What is encrypted is another value by then, and there all the same.
        match self.encrypted.is_empty() && reader.encrypted.is_empty() {
            true => reader.refuses(&emit.topic, &emitted),
            false => reader.lacks(&emitted),
        }
    }

    /// The first field that has to be there and is not.
    fn lacks(&self, data: &Json<'_>) -> Option<String> {
        let schema = Schema::compile(self.config.schema.as_ref()?).ok()?;
        let attributes = Object::new();
        let input = Input { topic: "", key: None, id: "", publish_time: when(), attributes: &attributes, data };
        let missing = |path: &str| {
            let read = expression::compile(path, &Scope::default());
            read.is_ok_and(|read| matches!(read.json(&input), Err(EvaluationError::Missing { .. })))
        };
        schema.faults(data).into_iter().find(|fault| missing(&fault.path)).map(|fault| format!("{}: {}", fault.path, fault.message))
    }

    /// The first thing for which data cannot be this event.
    fn refuses(&self, topic: &str, data: &Json<'_>) -> Option<String> {
        let schema = self.config.schema.as_ref().and_then(|schema| Schema::compile(schema).ok());
        if let Some(fault) = schema.and_then(|schema| schema.faults(data).into_iter().next()) {
            return Some(format!("{}: {}", fault.path, fault.message));
        }
        let attributes = self.attributes();
        let input = Input { topic, key: Some("example"), id: "example", publish_time: when(), attributes: &attributes, data };
        self.uses().into_iter().find_map(|used| {
            let expression = expression::compile(used.text, &self.scope).ok()?;
            let failed = match used.wanted {
                Wanted::Text => expression.string(&input).err()?.to_string(),
                Wanted::Bool if !used.place.ends_with(".when") => match expression.bool(&input) {
                    Ok(true) => return None,
                    Ok(false) => "does not hold".to_owned(),
                    Err(error) => error.to_string(),
                },
                _ => return None,
            };
            Some(format!("{}: {failed}", used.text.trim()))
        })
    }

    /// That its `when` does not hold for what the pipeline itself writes, with these attributes beside those of every event.
    pub fn passed_over(&self, attributes: &[(&str, &str)]) -> Option<String> {
        let when_holds = expression::compile(self.config.when.as_ref()?, &self.scope).ok()?;
        let example = Json::from(&self.event.example.as_ref()?.0);
        let given = attributes.iter().map(|(name, value)| (Cow::from(*name), Json::from(*value)));
        let attributes: Object<'_> = self.attributes().into_iter().chain(given).collect();
        let topic = self.config.topics.first().map(String::as_str).unwrap_or_default();
        let input = Input { topic, key: Some("example"), id: "example", publish_time: when(), attributes: &attributes, data: &example };
        match when_holds.bool(&input) {
            Ok(true) | Err(EvaluationError::Failed(_)) => None,
            Ok(false) => Some("does not hold".to_owned()),
            Err(missing) => Some(format!("cannot be judged, since {missing}")),
        }
    }

    /// Whether its schema has room for the tenant.
    pub fn may_name_its_tenant(&self) -> bool {
        let Some(tenant) = &self.config.order.tenant else { return false };
        let Some(schema) = self.config.schema.as_ref().filter(|_| self.event.schema.is_some()) else { return true };
        let example = self.event.example.as_ref().map(|example| &example.0);
        expression::compile(tenant, &self.scope).is_ok_and(|tenant| tenant.unknown_path(schema, example).is_none())
    }

    /// What readers see of an example that this pipeline has published. What other attributes there are, an example does not say.
    fn attributes(&self) -> Object<'_> {
        let said = [("id", "example"), ("type", &*self.config.name), ("time", "2025-01-31T12:00:00Z"), ("schemaVersion", "1")];
        said.into_iter().map(|(name, value)| (name, Json::from(value))).collect()
    }

    fn on_example(&self, used: &Use<'_>, expression: &Compiled, input: &Input<'_>) -> Option<String> {
        let asks_attributes = used.text.contains("attributes");
        let result = match used.wanted {
            Wanted::Bool => match expression.bool(input) {
                Ok(true) => return None,
                // The attributes of a real message are not those of the example.
                Ok(false) if asks_attributes => return None,
                Ok(false) => return Some("does not hold on the event's own example".into()),
                Err(error) => error,
            },
            Wanted::Text => expression.string(input).err()?,
            Wanted::MaybeTime => expression.time(input).err()?,
            Wanted::Anything | Wanted::MaybeAnything => expression.json(input).err()?,
            Wanted::MaybeText | Wanted::MaybeAmount => match expression.json(input) {
                Ok(value) => return not_a(used.wanted, &value),
                Err(error) => error,
            },
        };
        let optional = !matches!(used.wanted, Wanted::Bool | Wanted::Text | Wanted::Anything);
        match result {
            EvaluationError::Missing { .. } if optional || asks_attributes => None,
            EvaluationError::Missing { path } => Some(format!("{path} is missing in the event's own example")),
            EvaluationError::Failed(_) if optional && is_null(expression, input) => None,
            EvaluationError::Failed(message) => Some(format!("does not run on the event's own example: {message}")),
        }
    }
}

/// A null says the same as a field that is missing.
fn is_null(expression: &Compiled, input: &Input<'_>) -> bool {
    expression.json(input).is_ok_and(|value| value.is_null())
}

/// What `set` may write to the fields that every order has.
fn of_field(field: &str) -> Wanted {
    match field {
        "tenantId" | "customerId" | "status" => Wanted::MaybeText,
        "totalAmount" => Wanted::MaybeAmount,
        "createdAt" => Wanted::MaybeTime,
        _ => Wanted::MaybeAnything,
    }
}

fn not_a(wanted: Wanted, value: &Json<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let shown = match value {
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "a map".to_owned(),
        Json::String(text) => quoted(text),
        other => other.to_string(),
    };
    if wanted != Wanted::MaybeAmount {
        let good = value.as_str().is_some() || value.as_number().is_some_and(|number| !number.is_f64());
        return (!good).then(|| format!("must give a text, but gives {shown} on the event's own example"));
    }
    let amount = value.as_f64().or_else(|| value.as_str().filter(|text| is_decimal(text))?.parse().ok());
    let Some(amount) = amount else { return Some(format!("must give a number, but gives {shown} on the event's own example")) };
    if amount.abs() >= 1e8 {
        return Some(format!("gives {shown} on the event's own example, but an amount lies between -99999999.99 and 99999999.99"));
    }
    // Display of f64 writes no exponent.
    let decimals = amount.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len());
    (decimals > 2).then(|| {
        format!("gives {shown} on the event's own example, but an amount has two decimals, and nothing is rounded silently: write round(x, 2) around what is computed")
    })
}

/// The time at which the example is taken to be published. Nothing here reads a clock.
fn when() -> DateTime<Utc> {
    DateTime::from_timestamp(1_738_324_800, 0).unwrap_or_default()
}
