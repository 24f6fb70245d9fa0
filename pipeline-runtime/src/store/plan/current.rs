//! One order while a plan is made: what a change does to it, and what of that has to be written.

use super::super::check::{Cents, Checked};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value as Json};

/// The most JSON that one order may collect through `set` and `append`, in bytes. `jsonb` ends at 256 MB; long before that each update is slow.
const MAX_FIELDS: usize = 32 << 20;

/// What a change may depend on in an order.
#[derive(Default)]
pub struct Current {
    pub tenant: Option<String>,
    /// Of its Create; None when an Upsert has made it.
    pub content: Option<[u8; 32]>,
    fields: Object,
    /// When each field was set, in microseconds, where the event said so: columns by their name, others as /name.
    times: Object,
}

/// What has to be written to an order that is there. None: stays as it is.
#[derive(Default)]
pub struct Patch<'a> {
    pub tenant: Option<&'a str>,
    pub customer: Option<&'a str>,
    pub items: Option<&'a str>,
    pub total: Option<Cents>,
    pub status: Option<&'a str>,
    pub created_at: Option<DateTime<Utc>>,
    pub fields: Option<String>,
    pub times: Option<String>,
    changes_fields: bool,
    changes_times: bool,
    /// Something took effect, though perhaps no field of it.
    pub touched: bool,
}

impl Current {
    /// As it is stored: `fields` and `times` are JSON objects.
    pub fn stored(tenant: Option<String>, content: Option<[u8; 32]>, fields: String, times: String) -> Current {
        Current { tenant, content, fields: Object::unread(fields), times: Object::unread(times) }
    }

    /// An order as its Create (or an Upsert) makes it.
    pub fn made_by(maker: &Checked) -> Result<Current, String> {
        let mut current = Current { content: super::content(maker.change).copied(), ..Current::default() };
        current.apply(maker, &mut Patch::default())?;
        Ok(current)
    }

    pub fn fields_text(&self) -> String {
        self.fields.text()
    }

    pub fn times_text(&self) -> String {
        self.times.text()
    }

    /// Either all of it or, with the sentence why not, nothing.
    pub fn apply<'a>(&mut self, checked: &Checked<'a>, patch: &mut Patch<'a>) -> Result<(), String> {
        let change = checked.change;
        self.same_tenant(change.fields.tenant.as_deref())?;
        if !change.append.is_empty() || !change.set.is_empty() {
            self.room_for(&change.set, &change.append)?;
        }
        let at = change.at.map(|at| at.timestamp_micros());
        let timed = at.is_some() || !self.times.is_empty();
        let mut due = |name: &str| if timed { self.times.is_due(name, at) } else { Ok(true) };
        let fields = &change.fields;
        if let (Some(tenant), None) = (fields.tenant.as_deref(), &self.tenant) {
            self.tenant = Some(tenant.to_owned());
            patch.tenant = Some(tenant);
        }
        if fields.customer.is_some() && due("customer")? {
            patch.customer = fields.customer.as_deref();
        }
        if fields.items.is_some() && due("items")? {
            patch.items = fields.items.as_deref();
        }
        if checked.total.is_some() && due("total")? {
            patch.total = checked.total;
        }
        if fields.status.is_some() && due("status")? {
            patch.status = fields.status.as_deref();
        }
        if fields.created_at.is_some() && due("createdAt")? {
            patch.created_at = fields.created_at;
        }
        for (name, value) in &change.set {
            if !timed || due(&format!("/{name}"))? {
                self.fields.get()?.insert(name.clone(), value.clone());
                patch.changes_fields = true;
            }
        }
        for (name, value) in &change.append {
            let list = self.fields.get()?.entry(name.clone()).or_insert_with(|| Json::Array(Vec::new()));
            if let Json::Array(list) = list {
                list.push(value.clone());
            }
            patch.changes_fields = true;
        }
        patch.changes_times |= timed;
        patch.touched = true;
        Ok(())
    }

    pub fn same_tenant(&self, tenant: Option<&str>) -> Result<(), String> {
        match (tenant, self.tenant.as_deref()) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                Err(format!("the order belongs to another tenant than {theirs}: one order id, one tenant"))
            }
            _ => Ok(()),
        }
    }

    /// Fills in the JSON of a patch, once all changes are applied.
    pub fn finish(&self, patch: &mut Patch) {
        patch.fields = patch.changes_fields.then(|| self.fields.text());
        patch.times = patch.changes_times.then(|| self.times.text());
    }

    fn room_for(&mut self, set: &Map<String, Json>, append: &Map<String, Json>) -> Result<(), String> {
        let fields = self.fields.get()?;
        for name in append.keys() {
            if !matches!(set.get(name).or_else(|| fields.get(name)), None | Some(Json::Array(_))) {
                return Err(format!("the order's field {name} is not a list: an event appends to it, another one sets it"));
            }
        }
        let more: usize = set.iter().chain(append).map(|(name, value)| name.len() + 4 + length(value)).sum();
        if self.fields.length + more > MAX_FIELDS {
            return Err(format!("the order's fields would take more than {} MiB: append less, or to a store of its own", MAX_FIELDS >> 20));
        }
        self.fields.length += more;
        Ok(())
    }
}

/// About how long a value is as JSON; never shorter than two thirds of it, as escapes are not counted.
fn length(value: &Json) -> usize {
    match value {
        Json::String(s) => s.len() + 2,
        Json::Array(all) => 2 + all.iter().map(|v| length(v) + 1).sum::<usize>(),
        Json::Object(all) => 2 + all.iter().map(|(k, v)| k.len() + 4 + length(v)).sum::<usize>(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
    }
}

/// A JSON object that is parsed only when somebody looks into it: most changes do not.
#[derive(Default)]
struct Object {
    unread: Option<String>,
    map: Map<String, Json>,
    /// An upper bound, roughly, of its text.
    length: usize,
}

impl Object {
    fn unread(text: String) -> Object {
        if text == "{}" { Object::default() } else { Object { length: text.len(), unread: Some(text), map: Map::new() } }
    }

    fn get(&mut self) -> Result<&mut Map<String, Json>, String> {
        if let Some(text) = self.unread.take() {
            self.map = serde_json::from_str(&text).map_err(|e| format!("the stored fields of the order cannot be read: {e}"))?;
        }
        Ok(&mut self.map)
    }

    fn is_empty(&self) -> bool {
        self.unread.is_none() && self.map.is_empty()
    }

    fn text(&self) -> String {
        match &self.unread {
            Some(text) => text.clone(),
            None if self.map.is_empty() => "{}".into(),
            None => serde_json::to_string(&self.map).unwrap_or_default(), // a map of texts and values: cannot fail
        }
    }

    /// Whether a field is to be set by an event of that time, which is noted then. Without a time the arrival decides, and clears it:
    /// no clock is compared with a value that has none.
    fn is_due(&mut self, name: &str, at: Option<i64>) -> Result<bool, String> {
        let times = self.get()?;
        let Some(at) = at else {
            times.remove(name);
            return Ok(true);
        };
        if times.get(name).and_then(Json::as_i64).is_some_and(|newer| at < newer) {
            return Ok(false);
        }
        times.insert(name.to_owned(), at.into());
        Ok(true)
    }
}
