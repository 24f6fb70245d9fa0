//! Decides whether anything was lost, doubled or reordered, from what the clients were told and what the database holds.
//! Shares no code with the product.

use crate::load::{Outcome, Told};
use anyhow::Result;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};

/// An order as the database holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub order_id: String,
    pub customer: String,
    pub total: f64,
    pub status: Option<String>,
    pub items: Json,
    /// Every change that took effect, in the order in which it did.
    pub history: Vec<String>,
}

/// Every fault found, in words; none is what is wanted.
pub fn faults(told: &[Told], stored: &[Stored]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut by_id: HashMap<&str, &Stored> = HashMap::new();
    for order in stored {
        if by_id.insert(&order.order_id, order).is_some() {
            faults.push(format!("doubled: order {} is stored twice", order.order_id));
        }
    }
    let known: HashMap<&str, &Told> = told.iter().map(|t| (t.order_id.as_str(), t)).collect();
    faults
        .extend(stored.iter().filter(|s| !known.contains_key(s.order_id.as_str())).map(|s| format!("nobody posted order {}", s.order_id)));
    for told in told {
        match (told.created, by_id.get(told.order_id.as_str())) {
            (Outcome::Accepted, None) => faults.push(format!("lost: order {} was accepted and is not stored", told.order_id)),
            (Outcome::Refused, Some(_)) => faults.push(format!("order {} was refused and is stored", told.order_id)),
            (_, Some(stored)) => faults.extend(differences(told, stored)),
            (_, None) => {}
        }
    }
    faults
}

fn differences(told: &Told, stored: &Stored) -> Vec<String> {
    let id = &told.order_id;
    let mut faults = Vec::new();
    if told.body["customerId"] != stored.customer.as_str() || told.body["items"] != stored.items {
        faults.push(format!("changed: order {id} was posted as {} and is stored as {stored:?}", told.body));
    }
    if told.body["totalAmount"].as_f64().is_none_or(|total| (total - stored.total).abs() > 1e-9) {
        faults.push(format!("changed: the total of {id} was {} and is {}", told.body["totalAmount"], stored.total));
    }
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for status in &stored.history {
        *times.entry(status).or_default() += 1;
    }
    faults
        .extend(times.iter().filter(|(_, n)| **n > 1).map(|(status, n)| format!("doubled: change {status} of {id} took effect {n} times")));
    let sent: Vec<&str> = told.changes.iter().map(|(status, _)| status.as_str()).collect();
    let mut last = None;
    for status in stored.history.iter().map(String::as_str) {
        let place = sent.iter().position(|s| *s == status);
        if place.is_none() {
            faults.push(format!("nobody sent change {status} of {id}"));
        } else if place < last {
            faults.push(format!("reordered: the changes of {id} were sent as {sent:?} and took effect as {:?}", stored.history));
        }
        last = last.max(place);
    }
    for (status, outcome) in &told.changes {
        if *outcome == Outcome::Accepted && !times.contains_key(status.as_str()) {
            faults.push(format!("lost: change {status} of {id} was accepted and took no effect"));
        }
        if *outcome == Outcome::Refused && times.contains_key(status.as_str()) {
            faults.push(format!("change {status} of {id} was refused and took effect"));
        }
    }
    if let Some(last) = stored.history.last()
        && stored.status.as_ref() != Some(last)
    {
        faults.push(format!("overwritten: the last change of {id} was {last} and its status is {:?}", stored.status));
    }
    faults
}

/// Fails with the first faults, and how many there are.
pub fn verify(told: &[Told], stored: &[Stored]) -> Result<()> {
    let faults = faults(told, stored);
    anyhow::ensure!(faults.is_empty(), "{} faults in {} orders:\n{}", faults.len(), told.len(), faults[..faults.len().min(20)].join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(changes: &[&str]) -> Told {
        let body = json!({"customerId": "c", "items": [{"sku": "s"}], "totalAmount": 1.5});
        Told {
            order_id: "o".into(),
            body,
            created: Outcome::Accepted,
            changes: changes.iter().map(|c| ((*c).to_owned(), Outcome::Accepted)).collect(),
            repeats: 0,
        }
    }

    fn stored(history: &[&str]) -> Stored {
        let history: Vec<String> = history.iter().map(|s| (*s).to_owned()).collect();
        Stored {
            order_id: "o".into(),
            customer: "c".into(),
            total: 1.5,
            status: history.last().cloned(),
            items: json!([{"sku": "s"}]),
            history,
        }
    }

    fn found(told: &Told, stored: &[Stored]) -> String {
        faults(std::slice::from_ref(told), stored).join("; ")
    }

    #[test]
    fn it_notices_each_kind_of_fault_and_accepts_what_is_right() {
        let two = told(&["PAID", "SHIPPED"]);
        assert_eq!(found(&two, &[stored(&["PAID", "SHIPPED"])]), "");
        assert!(found(&two, &[]).starts_with("lost: order o"));
        assert!(found(&two, &[stored(&["PAID"])]).contains("lost: change SHIPPED"));
        assert!(found(&two, &[stored(&["SHIPPED", "PAID"])]).contains("reordered"));
        assert!(found(&two, &[stored(&["PAID", "PAID", "SHIPPED"])]).contains("doubled: change PAID"));
        assert!(found(&two, &[stored(&["PAID", "SHIPPED"]), stored(&["PAID", "SHIPPED"])]).contains("doubled: order o"));
        let mut other = stored(&["PAID", "SHIPPED"]);
        other.total = 1.6;
        assert!(found(&two, &[other]).contains("the total"));
        let mut overwritten = stored(&["PAID", "SHIPPED"]);
        overwritten.status = Some("PAID".into());
        assert!(found(&two, &[overwritten]).contains("overwritten"));
        let mut refused = told(&[]);
        refused.created = Outcome::Refused;
        assert!(found(&refused, &[stored(&[])]).contains("was refused and is stored"));
    }
}
