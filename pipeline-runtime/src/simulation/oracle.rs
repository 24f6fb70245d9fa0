//! Whether all that was promised was kept. Knows what clients were told, what took effect and what lies on the brokers, and nothing of
//! how the product comes from the one to the other.

use super::World;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Lost,
    Doubled,
    Reordered,
    /// Something took effect that nobody sent.
    Invented,
    Buried,
    NotEmitted,
    /// It never comes to an end.
    Stuck,
}

pub type Broken = (Kind, String);

pub fn judge(world: &World) -> Vec<Broken> {
    let mut broken = Vec::new();
    let told = world.ledger.accepted();
    let mut effects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (order, event) in world.table.effects() {
        effects.entry(order).or_default().push(event);
    }
    for (order, accepted) in &told {
        let had = effects.remove(order).unwrap_or_default();
        let mut once = Vec::new();
        for event in &had {
            if once.contains(event) {
                broken.push((Kind::Doubled, format!("{event} took effect twice: {had:?}")));
            } else {
                once.push(event.clone());
            }
        }
        // The last one that was sent may be under way although nobody was told yet.
        let also = once.len() == accepted.len() + 1 && once.starts_with(accepted);
        if once == *accepted || also {
            continue;
        }
        match accepted.iter().find(|event| !once.contains(event)) {
            Some(event) => broken.push((Kind::Lost, format!("{event} was accepted, and of {order} there is {had:?}"))),
            None => broken.push((Kind::Reordered, format!("{order}: {had:?}"))),
        }
    }
    broken.extend(effects.into_keys().filter(|order| !world.sent(order)).map(|order| (Kind::Invented, order)));
    broken.extend(on_brokers(world, told.keys()));
    broken
}

fn on_brokers<'a>(world: &World, orders: impl Iterator<Item = &'a String>) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut emitted: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for server in &world.brokers {
        for letter in server.messages("orders-dlq") {
            broken.push((Kind::Buried, format!("{letter:?}")));
        }
        for message in server.messages("shipments") {
            let id = message.header("id").unwrap_or_default().to_vec();
            emitted.entry(message.key.unwrap_or_default().to_vec()).or_default().insert(id);
        }
    }
    for order in orders {
        let ids = emitted.get(order.as_bytes()).map_or(0, BTreeSet::len);
        if ids != 1 {
            broken.push((Kind::NotEmitted, format!("{order} was emitted under {ids} ids")));
        }
    }
    broken
}
