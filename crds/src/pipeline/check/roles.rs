use super::expressions::Expressions;
use super::{Found, no_such};
use crate::expression::{self, Compiled, Input, Scope};
use crate::json::{Json, Object};
use crate::mistake::below;
use crate::pipeline::*;
use chrono::DateTime;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// With less a process is ended for its memory before it has done anything.
const LEAST_MEMORY: &str = "32Mi";
const LONGEST_KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Labels that select pods, or say whose they are.
const OWN_LABELS: [&str; 2] = ["app.kubernetes.io/", "orderpipeline.dev/"];

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    if let Some(api) = &spec.api {
        self::api(spec, api, found);
        scaling("spec.api.scaling", api.scaling.as_ref(), found);
        template("spec.api.template", api.template.as_ref(), found);
    }
    if let Some(worker) = &spec.worker {
        self::worker(worker, found);
        tenants(spec, worker, found);
        scaling("spec.worker.scaling", worker.scaling.as_ref(), found);
        template("spec.worker.template", worker.template.as_ref(), found);
    }
    if let Some(generator) = &spec.generator {
        event_that_creates(spec, "spec.generator", "spec.generator.publishes", spec.generator_publishes(), found);
        template("spec.generator.template", generator.template.as_ref(), found);
    }
}

fn api(spec: &OrderPipelineSpec, api: &Api, found: &mut Found) {
    let dialect = if api.cart.is_some() { "spec.api.cart" } else { "spec.api.orders" };
    let (creates, updates) = (spec.api_creates(), spec.api_updates());
    event_that_creates(spec, "spec.api", &below(dialect, "creates"), creates.clone(), found);
    if let Some(updates) = &updates {
        let place = below(dialect, "updates");
        match effect(spec, updates) {
            None => found.add(place, no_such("event", updates, "spec.events", spec.events.iter().map(|e| e.name.as_str()))),
            Some(Effect::Update | Effect::Upsert) => {}
            Some(other) => found.add(place, format!("{updates} must be an event with the effect Update or Upsert, but has {other:?}")),
        }
        if creates.as_ref() == Some(updates) {
            found.add(below(dialect, "updates"), format!("{updates} cannot be what creates an order and what changes one"));
        }
    }
    if api.idempotency == Idempotency::Strict && spec.store.as_ref().is_none_or(|store| store.postgres.is_none()) {
        let message = "Strict needs a store that all pods share: set spec.store.postgres, or leave idempotency at Derived";
        found.add("spec.api.idempotency", message);
    }
    found.duration("spec.api.publishDeadline", &api.publish_deadline, MINUTE);
}

/// `place` is where the event is named; `without` is where to say that there is none.
fn event_that_creates(spec: &OrderPipelineSpec, without: &str, place: &str, event: Option<String>, found: &mut Found) {
    let Some(event) = event else {
        let upsert = spec
            .first_with(Effect::Upsert)
            .map(|event| format!("; one with Upsert, as {0} has it, must be named: {place}: {0}", event.name));
        let message = "needs an event with the effect Create in spec.events: that is what it writes";
        found.add(without, format!("{message}{}", upsert.unwrap_or_default()));
        return;
    };
    match effect(spec, &event) {
        None => found.add(place, no_such("event", &event, "spec.events", spec.events.iter().map(|e| e.name.as_str()))),
        Some(Effect::Create | Effect::Upsert) => {}
        Some(other) => found.add(place, format!("{event} must be an event with the effect Create or Upsert, but has {other:?}")),
    }
}

fn effect(spec: &OrderPipelineSpec, name: &str) -> Option<Effect> {
    let index = spec.events.iter().position(|event| event.name == *name)?;
    Some(spec.effect_of(index, &spec.events[index]))
}

pub(super) fn poll_interval(interval: &GoDuration, found: &mut Found) {
    found.duration("spec.worker.batch.pollInterval", interval, MINUTE);
}

fn worker(worker: &Worker, found: &mut Found) {
    poll_interval(&worker.batch.poll_interval, found);
    found.duration("spec.worker.deadline", &worker.deadline, HOUR);
    let retry = &worker.retry;
    found.duration("spec.worker.retry.base", &retry.base, HOUR);
    found.duration("spec.worker.retry.max", &retry.max, 24 * HOUR);
    if let (Some(base), Some(max)) = (retry.base.parse(), retry.max.parse())
        && base > max
        && !max.is_zero()
    {
        found.add("spec.worker.retry.base", format!("is {}, longer than max, which is {}", retry.base, retry.max));
    }
    if let Some(callback) = &worker.callback {
        found.duration("spec.worker.callback.timeout", &callback.timeout, HOUR);
        if let (Some(timeout), Some(deadline)) = (callback.timeout.parse(), worker.deadline.parse())
            && timeout > deadline
            && !deadline.is_zero()
        {
            let message =
                format!("is {}, longer than the {} that spec.worker.deadline gives the whole event", callback.timeout, worker.deadline);
            found.add("spec.worker.callback.timeout", message);
        }
    }
    if let Some(letters) = &worker.dead_letters {
        found.duration("spec.worker.deadLetters.keep", &letters.keep, LONGEST_KEPT);
        if let Some(alert) = &letters.alert {
            found.duration("spec.worker.deadLetters.alert.timeout", &alert.timeout, MINUTE);
            alert_when(alert, found);
        }
    }
}

/// What names no tenant is applied by every worker: where its order is another tenant's it would wait for ever.
fn tenants(spec: &OrderPipelineSpec, worker: &Worker, found: &mut Found) {
    if worker.tenants.is_empty() {
        return;
    }
    for (index, event) in spec.events.iter().enumerate() {
        let config = spec.event_config(index, event);
        if config.effect != Effect::None && !Expressions::new("", event, &config).may_name_its_tenant() {
            let field = config.order.tenant.as_deref().unwrap_or("order.tenant");
            let message = format!(
                "cannot tell whose {} is: its schema has no {field}, and changes of other tenants' orders would wait here for orders that \
                 never come; give it one (order.tenant says where it stands)",
                event.name
            );
            found.add("spec.worker.tenants", message);
        }
    }
}

/// Of any topic, so that no schema says what its fields are.
fn alert_when(alert: &Alert, found: &mut Found) {
    let Some(when) = &alert.when else { return };
    let mistake = match expression::compile(when, &Scope::default()) {
        Ok(compiled) => compiled.never_bool(None).or_else(|| of_letter_types(&compiled)),
        Err(error) => Some(error.to_string()),
    };
    mistake.into_iter().for_each(|mistake| found.add("spec.worker.deadLetters.alert.when", mistake));
}

/// What a dead letter says of itself has types, whatever the message was.
fn of_letter_types(when: &Compiled) -> Option<String> {
    let said = [("errorType", Json::from("store")), ("reason", Json::from("example")), ("attempts", Json::from(5i64))];
    let attributes: Object<'_> = said.into_iter().collect();
    let input = Input {
        topic: "example",
        key: None,
        id: "example",
        publish_time: DateTime::UNIX_EPOCH,
        attributes: &attributes,
        data: &Json::Null,
    };
    when.type_error(&input).map(|message| format!("does not go together: {message}"))
}

fn scaling(place: &str, scaling: Option<&Scaling>, found: &mut Found) {
    if let Some(scaling) = scaling.filter(|scaling| scaling.min > scaling.max) {
        found.add(below(place, "min"), format!("is {}, more than max, which is {}", scaling.min, scaling.max));
    }
}

fn template(place: &str, template: Option<&PodTemplate>, found: &mut Found) {
    let Some(template) = template else { return };
    for (list, entries) in [("labels", &template.labels), ("nodeSelector", &template.node_selector)] {
        for (key, value) in entries {
            let place = below(&below(place, list), key);
            if list == "labels" && OWN_LABELS.iter().any(|own| key.starts_with(own)) {
                found.add(place, "is set by the operator, which finds its pods by it: choose another label");
            } else if !is_label_key(key) {
                found.add(place, "is no name of a label: letters, digits, dot, dash and underscore, and before a slash a domain");
            } else if !is_label_value(value) {
                found.add(place, format!("is no value of a label: letters, digits, dot, dash and underscore, but is {value:?}"));
            }
        }
    }
    if let Some(resources) = &template.resources {
        self::resources(&below(place, "resources"), resources, found);
    }
    for key in template.annotations.keys().filter(|key| !is_label_key(key)) {
        found.add(below(&below(place, "annotations"), key), "is no name of an annotation: letters, digits, dot, dash and underscore");
    }
}

/// The API server refuses a pod that asks for more than it may have; one that may have too little never comes up.
fn resources(place: &str, resources: &Resources, found: &mut Found) {
    if let Some(limit) = resources.limits.get("memory").map(Quantity::text)
        && Quantity::thousandths(&limit).is_some_and(|given| Some(given) < Quantity::thousandths(LEAST_MEMORY))
    {
        let message = format!("is {limit}, with which no process could start: give it at least {LEAST_MEMORY}, better 128Mi");
        found.add(below(&below(place, "limits"), "memory"), message);
    }
    for (name, request) in &resources.requests {
        let Some(limit) = resources.limits.get(name) else { continue };
        let (request, limit) = (request.text(), limit.text());
        if Quantity::thousandths(&request) > Quantity::thousandths(&limit) {
            found.add(below(&below(place, "requests"), name), format!("is {request}, more than the limit, which is {limit}"));
        }
    }
}

fn is_label_key(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let good = |domain: &str| {
        let labels = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !domain.is_empty() && domain.len() <= 253 && domain.chars().all(labels)
    };
    !name.is_empty() && is_label_value(name) && domain.is_none_or(good)
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(value.chars().next())
        && edge(value.chars().next_back())
}
