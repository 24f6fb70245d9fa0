//! Who sends orders: one event after the other for each order, each under one id until it is accepted, by whichever pod.

use super::{Without, World};
use crate::broker::Outgoing;
use crate::codec::{self, Draft};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What was answered as accepted, in its order, by order.
#[derive(Default)]
pub struct Ledger {
    accepted: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Ledger {
    pub fn accepted(&self) -> BTreeMap<String, Vec<String>> {
        self.accepted.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.accepted.lock().unwrap().values().map(Vec::len).sum()
    }

    fn note(&self, order: &str, id: &str) {
        self.accepted.lock().unwrap().entry(order.to_owned()).or_default().push(id.to_owned());
    }
}

/// Until all events of this order are accepted.
pub async fn send(world: Arc<World>, order: String, events: usize) {
    let slow = world.dice.chance(300);
    sleep(world.dice.ms(0, if slow { 0 } else { 14_000 })).await;
    for number in 0..events {
        // Mostly at once: the faster one follows the other, the sooner it tells when a pod or a worker is behind.
        let hurry = !slow && world.dice.chance(750);
        let pause = if hurry { world.dice.ms(0, 15) } else { world.dice.ms(0, 3000) };
        sleep(pause).await;
        let id = format!("{order}-{number}");
        let message = event(&world, &order, &id, number);
        while !accepted(&world, &message).await {
            sleep(world.dice.ms(20, 700)).await;
        }
        world.ledger.note(&order, &id);
    }
}

/// One try, at one pod.
async fn accepted(world: &World, message: &Outgoing) -> bool {
    let pod = world.dice.pick(&world.pods);
    sleep(world.dice.way()).await;
    let Some(answered) = pod.accept(message.clone()) else { return false };
    let patience = world.dice.ms(500, 4000);
    let said = timeout(patience, answered).await;
    sleep(world.dice.way()).await;
    if world.dice.fault(20) {
        return false; // the answer was lost
    }
    match said {
        Ok(Ok(Ok(_))) => true,
        Ok(Ok(Err(crate::broker::PublishError::Unknown { .. }))) => world.without == Without::Unknown,
        _ => false,
    }
}

fn event(world: &World, order: &str, id: &str, number: usize) -> Outgoing {
    let topic = world.config.topic("orders").unwrap();
    let (event, data) = match number {
        0 => ("Placed", format!("{{\"orderId\":\"{order}\",\"quantity\":1}}")),
        _ => ("Noted", format!("{{\"orderId\":\"{order}\",\"note\":{number}}}")),
    };
    let draft = Draft {
        event: event.into(),
        id: id.into(),
        time: chrono::DateTime::UNIX_EPOCH,
        key: order.into(),
        attributes: Vec::new(),
        data: data.into(),
    };
    codec::encode(topic, &draft)
}

/// So long there are new orders and faults.
pub const BUSY: Duration = Duration::from_secs(20);
