//! Decides what a batch does, from what is stored: no database, no clock. Both stores carry out the same plan, so they cannot differ.

mod current;

pub use current::{Current, Patch};

use super::check::Checked;
use super::{Applied, Change};
use chrono::{DateTime, Utc};
use crds::pipeline::Effect;
use std::collections::HashMap;

/// What a plan depends on.
#[derive(Default)]
pub struct Known {
    /// The orders of the batch that exist.
    pub orders: HashMap<String, Current>,
    /// Those events of the batch that have taken effect, with their order.
    pub noted: HashMap<String, String>,
    /// Those events of the batch that wait, or waited too long, with their order.
    pub waiting: HashMap<String, String>,
}

/// A change and its place in the batch; None: it waited in the store.
#[derive(Clone, Copy)]
struct Arrived<'a> {
    checked: Checked<'a>,
    place: Option<usize>,
}

/// What has to be written, and what became of each change.
#[derive(Default)]
pub struct Plan<'a> {
    pub outcomes: Vec<Applied>,
    /// Orders that are new, as their first event makes them.
    pub made: Vec<Made<'a>>,
    /// What changes in orders after that, at most one for each order.
    pub patches: Vec<(&'a str, Patch<'a>)>,
    /// Events that took effect, in the order in which they did. A Create needs no note: the order itself is it.
    pub notes: Vec<&'a Change>,
    /// Updates that begin to wait, in order of arrival.
    pub waits: Vec<&'a Change>,
    /// Updates that wait no more.
    pub waited: Vec<&'a str>,
    /// Updates that waited, and contradict the order that came.
    pub refused: Vec<(&'a str, String)>,
}

/// A new order.
pub struct Made<'a> {
    pub by: Checked<'a>,
    pub fields: String,
    pub times: String,
}

impl<'a> Made<'a> {
    pub fn new(by: Checked<'a>) -> Result<Made<'a>, String> {
        Current::made_by(&by).map(|current| Made::from(by, &current))
    }
    fn from(by: Checked<'a>, current: &Current) -> Made<'a> {
        Made { by, fields: current.fields_text(), times: current.times_text() }
    }
    pub fn created_at(&self) -> DateTime<Utc> {
        let change = self.by.change;
        change.fields.created_at.or(change.at).unwrap_or(change.published_at)
    }
    /// What makes the same Create the same.
    pub fn content(&self) -> Option<&'a [u8; 32]> {
        content(self.by.change)
    }
}

/// An event with the id of another one, to swallow which as its repeat would lose it.
fn one_order(order_id: &str, did: &str) -> String {
    format!("an event with this id {did} for the order {order_id:?}: one event, one order")
}

fn content(change: &Change) -> Option<&[u8; 32]> {
    (change.effect == Effect::Create).then_some(&change.content)
}

/// `batch`: a change, or why it cannot be stored. `early`: the updates that wait for orders of this batch, in order of arrival.
pub fn plan<'a>(batch: &[Result<Checked<'a>, String>], known: Known, early: &[Checked<'a>]) -> Plan<'a> {
    let mut planner = Planner { plan: Plan::default(), known, slots: HashMap::new(), took: HashMap::new(), waits: HashMap::new() };
    planner.plan.outcomes.reserve(batch.len());
    for early in early {
        planner.slot(&early.change.order_id).pending.push(Arrived { checked: *early, place: None });
    }
    for (place, change) in batch.iter().enumerate() {
        let outcome = match change {
            Ok(checked) => planner.take(Arrived { checked: *checked, place: Some(place) }),
            Err(why) => Applied::Refused(why.clone()),
        };
        planner.plan.outcomes.push(outcome);
    }
    planner.finish()
}

/// One order of the batch.
#[derive(Default)]
struct Slot<'a> {
    current: Option<Current>,
    patch: Option<Patch<'a>>,
    pending: Vec<Arrived<'a>>,
}

struct Planner<'a> {
    plan: Plan<'a>,
    known: Known,
    slots: HashMap<&'a str, Slot<'a>>,
    /// Events of this batch that took effect, and those that began to wait, with their order.
    took: HashMap<&'a str, &'a str>,
    waits: HashMap<&'a str, &'a str>,
}

impl<'a> Planner<'a> {
    fn slot(&mut self, order_id: &'a str) -> &mut Slot<'a> {
        let orders = &mut self.known.orders;
        self.slots.entry(order_id).or_insert_with(|| Slot { current: orders.remove(order_id), ..Slot::default() })
    }

    fn take(&mut self, arrived: Arrived<'a>) -> Applied {
        let change = arrived.checked.change;
        let event_id = change.event_id.as_str();
        if change.effect == Effect::Create {
            return self.create(arrived.checked);
        }
        match self.took_effect_for(event_id) {
            Some(order_id) if order_id == change.order_id => return Applied::Repeat,
            Some(order_id) => return Applied::Conflict(one_order(order_id, "has taken effect")),
            None => {}
        }
        if change.effect == Effect::None {
            return self.note(change);
        }
        match self.waits.get(event_id).copied().or_else(|| self.known.waiting.get(event_id).map(String::as_str)) {
            Some(order_id) if order_id == change.order_id => return Applied::Waiting,
            Some(order_id) => return Applied::Conflict(one_order(order_id, "waits")),
            None => {}
        }
        match (self.slot(&change.order_id).current.is_some(), change.effect) {
            (true, _) => match self.change(&arrived.checked) {
                Ok(()) => self.note(change),
                Err(why) => Applied::Conflict(why),
            },
            (false, Effect::Upsert) => match self.make(arrived.checked) {
                Ok(()) => self.note_before_what_waited(arrived.checked),
                Err(why) => Applied::Conflict(why),
            },
            (false, _) => {
                self.waits.insert(event_id, &change.order_id);
                self.slot(&change.order_id).pending.push(arrived);
                Applied::Waiting
            }
        }
    }

    fn create(&mut self, checked: Checked<'a>) -> Applied {
        let change = checked.change;
        if let Some(current) = &self.slot(&change.order_id).current {
            return match (current.same_tenant(change.fields.tenant.as_deref()), current.content) {
                (Err(why), _) => Applied::Conflict(why),
                (Ok(()), Some(content)) if content == change.content => Applied::Repeat,
                (Ok(()), Some(_)) => Applied::Conflict(format!("the order {} exists with another content", change.order_id)),
                (Ok(()), None) => Applied::Conflict(format!("the order {} exists already: an Upsert has made it", change.order_id)),
            };
        }
        match self.make(checked) {
            Ok(()) => {
                self.release(&change.order_id);
                Applied::Done
            }
            Err(why) => Applied::Conflict(why),
        }
    }

    fn make(&mut self, checked: Checked<'a>) -> Result<(), String> {
        let current = Current::made_by(&checked)?;
        self.plan.made.push(Made::from(checked, &current));
        self.slot(&checked.change.order_id).current = Some(current);
        Ok(())
    }

    fn note_before_what_waited(&mut self, checked: Checked<'a>) -> Applied {
        let outcome = self.note(checked.change);
        self.release(&checked.change.order_id);
        outcome
    }

    fn change(&mut self, checked: &Checked<'a>) -> Result<(), String> {
        let slot = self.slot(&checked.change.order_id);
        match &mut slot.current {
            Some(current) => current.apply(checked, slot.patch.get_or_insert_default()),
            None => Ok(()),
        }
    }

    /// Applies what has waited for an order that is there now.
    fn release(&mut self, order_id: &'a str) {
        for arrived in std::mem::take(&mut self.slot(order_id).pending) {
            let event_id = arrived.checked.change.event_id.as_str();
            self.waits.remove(event_id);
            self.known.waiting.remove(event_id);
            let taken = match self.took_effect_for(event_id) {
                Some(order_id) if order_id == arrived.checked.change.order_id => {
                    self.plan.waited.extend(arrived.place.is_none().then_some(event_id));
                    continue;
                }
                Some(order_id) => Err(one_order(order_id, "has taken effect")),
                None => self.change(&arrived.checked),
            };
            match (taken, arrived.place) {
                (Ok(()), place) => {
                    self.note(arrived.checked.change);
                    if place.is_none() {
                        self.plan.waited.push(event_id);
                    }
                }
                (Err(why), Some(place)) => self.plan.outcomes[place] = Applied::Conflict(why),
                (Err(why), None) => {
                    self.known.waiting.insert(event_id.to_owned(), order_id.to_owned());
                    self.plan.refused.push((event_id, why));
                }
            }
        }
    }

    /// For which order this event has taken effect already.
    fn took_effect_for(&self, event_id: &str) -> Option<&str> {
        self.took.get(event_id).copied().or_else(|| self.known.noted.get(event_id).map(String::as_str))
    }

    fn note(&mut self, change: &'a Change) -> Applied {
        self.took.insert(&change.event_id, &change.order_id);
        self.plan.notes.push(change);
        Applied::Done
    }

    fn finish(mut self) -> Plan<'a> {
        let mut waits = Vec::new();
        for (order_id, slot) in self.slots {
            if let (Some(current), Some(mut patch)) = (slot.current, slot.patch.filter(|p| p.touched)) {
                current.finish(&mut patch);
                self.plan.patches.push((order_id, patch));
            }
            waits.extend(slot.pending.iter().filter_map(|p| Some((p.place?, p.checked.change))));
        }
        self.plan.patches.sort_unstable_by_key(|(order_id, _)| *order_id);
        waits.sort_unstable_by_key(|(place, _)| *place);
        self.plan.waits = waits.into_iter().map(|(_, change)| change).collect();
        self.plan
    }
}
