//! What a store must do, said as simply as possible: one change after the other, all in memory. It shares no code with the plan.

use super::super::{Applied, Change};
use crds::pipeline::Effect;
use serde_json::{Map, Value as Json, json};
use std::collections::{HashMap, HashSet};

#[derive(Default)]
pub struct Model {
    pub orders: HashMap<String, ModelOrder>,
    done: HashSet<String>,
    waiting: Vec<Change>,
    /// Waited, and contradicted the order that came.
    pub dead: HashSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOrder {
    pub tenant: Option<String>,
    pub customer: Option<String>,
    pub total: Option<f64>,
    pub status: Option<String>,
    pub fields: Map<String, Json>,
    pub times: HashMap<String, i64>,
    pub content: Option<[u8; 32]>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) -> Applied {
        let conflict = || Applied::Conflict(String::new());
        let is_waiting = |m: &Model| m.dead.contains(&change.event_id) || m.waiting.iter().any(|w| w.event_id == change.event_id);
        let waits = is_waiting(self);
        match (change.effect, self.orders.get_mut(&change.order_id)) {
            (Effect::Create, Some(order)) => {
                let foreign = matches!((&order.tenant, &change.fields.tenant), (Some(a), Some(b)) if a != b);
                if foreign || order.content != Some(change.content) { conflict() } else { Applied::Repeat }
            }
            (Effect::Create, None) => self.make(change, Some(change.content)),
            _ if self.done.contains(&change.event_id) => Applied::Repeat,
            (Effect::None, _) => self.done(change),
            _ if waits => Applied::Waiting,
            (_, Some(order)) => {
                if order.take(change) {
                    self.done(change)
                } else {
                    conflict()
                }
            }
            (Effect::Upsert, None) => {
                self.done(change);
                self.make(change, None)
            }
            (Effect::Update, None) => {
                self.waiting.push(change.clone());
                Applied::Waiting
            }
        }
    }

    fn done(&mut self, change: &Change) -> Applied {
        self.done.insert(change.event_id.clone());
        Applied::Done
    }

    fn make(&mut self, change: &Change, content: Option<[u8; 32]>) -> Applied {
        let mut order = ModelOrder { content, ..ModelOrder::default() };
        assert!(order.take(change), "an empty order takes everything");
        let (theirs, others) = std::mem::take(&mut self.waiting).into_iter().partition(|w: &Change| w.order_id == change.order_id);
        self.waiting = others;
        for early in theirs {
            let set = if order.take(&early) { &mut self.done } else { &mut self.dead };
            set.insert(early.event_id);
        }
        self.orders.insert(change.order_id.clone(), order);
        Applied::Done
    }
}

impl ModelOrder {
    /// What a reader sees of it.
    pub fn shown(&self) -> ModelOrder {
        ModelOrder { times: HashMap::new(), content: None, ..self.clone() }
    }

    fn take(&mut self, change: &Change) -> bool {
        if matches!((&self.tenant, &change.fields.tenant), (Some(a), Some(b)) if a != b) {
            return false;
        }
        let mut after = self.clone();
        after.tenant = after.tenant.or(change.fields.tenant.clone());
        let at = change.at.map(|at| at.timestamp_micros());
        let mut newer = |name: String| match (at, after.times.get(&name)) {
            (Some(at), Some(known)) if at < *known => false,
            (Some(at), _) => {
                after.times.insert(name, at);
                true
            }
            (None, _) => {
                after.times.remove(&name);
                true
            }
        };
        let fields = &change.fields;
        if fields.customer.is_some() && newer("column customer".into()) {
            after.customer = fields.customer.clone();
        }
        if fields.status.is_some() && newer("column status".into()) {
            after.status = fields.status.clone();
        }
        if let Some(total) = &fields.total
            && newer("column total".into())
        {
            after.total = Some(total.parse().unwrap());
        }
        for (name, value) in &change.set {
            if newer(format!("field {name}")) {
                after.fields.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &change.append {
            match after.fields.entry(name.clone()).or_insert(json!([])) {
                Json::Array(list) => list.push(value.clone()),
                _ => return false,
            }
        }
        *self = after;
        true
    }
}
