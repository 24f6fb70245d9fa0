//! Changes, made in a few words.

use super::super::{Change, Fields};
use chrono::{DateTime, Utc};
use crds::pipeline::Effect;
use serde_json::{Map, Value as Json};

/// No two tests share an id.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}

fn change(effect: Effect, event: &str, event_id: &str, order_id: &str) -> Change {
    Change {
        event_id: event_id.into(),
        event: event.into(),
        effect,
        order_id: order_id.into(),
        content: [7; 32],
        fields: Fields::default(),
        set: Map::new(),
        append: Map::new(),
        at: None,
        published_at: time(1_700_000_000_123_456),
        source: "orders/0/42".into(),
    }
}

pub fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

pub fn created(order_id: &str) -> Change {
    let mut change = change(Effect::Create, "OrderCreated", &format!("create-{order_id}"), order_id);
    change.fields = Fields {
        customer: Some("CUST-7".into()),
        items: Some(r#"[{"name":"Pad Thai","quantity":2,"price":12.50}]"#.into()),
        total: Some("25.00".into()),
        status: Some("NEW".into()),
        ..Fields::default()
    };
    change
}

pub fn updated(order_id: &str, event_id: &str) -> Change {
    change(Effect::Update, "OrderUpdated", event_id, order_id)
}

pub trait Make {
    fn effect(self, effect: Effect) -> Change;
    fn status(self, status: &str) -> Change;
    fn total(self, total: &str) -> Change;
    fn tenant(self, tenant: &str) -> Change;
    fn at(self, micros: i64) -> Change;
    fn set(self, name: &str, value: impl Into<Json>) -> Change;
    fn append(self, name: &str, value: impl Into<Json>) -> Change;
    fn content(self, content: u8) -> Change;
}

impl Make for Change {
    fn effect(mut self, effect: Effect) -> Change {
        self.effect = effect;
        self
    }
    fn status(mut self, status: &str) -> Change {
        self.fields.status = Some(status.into());
        self
    }
    fn total(mut self, total: &str) -> Change {
        self.fields.total = Some(total.into());
        self
    }
    fn tenant(mut self, tenant: &str) -> Change {
        self.fields.tenant = Some(tenant.into());
        self
    }
    fn at(mut self, micros: i64) -> Change {
        self.at = Some(time(micros));
        self
    }
    fn set(mut self, name: &str, value: impl Into<Json>) -> Change {
        self.set.insert(name.into(), value.into());
        self
    }
    fn append(mut self, name: &str, value: impl Into<Json>) -> Change {
        self.append.insert(name.into(), value.into());
        self
    }
    fn content(mut self, content: u8) -> Change {
        self.content = [content; 32];
        self
    }
}
