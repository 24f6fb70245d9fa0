//! Many workers with the same events, each in an order of its own: the worst that a rebalance does.

use super::super::{Applied, Change, Store};
use super::make::{Make, created, unique, updated};
use crds::pipeline::Effect;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;

pub const WORKERS: usize = 6;
const ORDERS: usize = 40;
const UPDATES: usize = 8;

/// A store for each worker, over the same tables. No call may fail (a deadlock would), each event takes effect once, and no update waits
/// for an order that is there.
pub async fn many_workers_at_once(stores: [Arc<dyn Store>; WORKERS]) {
    let mut events: Vec<Change> = Vec::new();
    let orders: Vec<String> = (0..ORDERS).map(|n| unique(&format!("crowd{n}"))).collect();
    for order in &orders {
        events.push(created(order));
        for n in 0..UPDATES {
            events.push(updated(order, &format!("{order}-{n}")).status("CHANGED").append("events", n));
        }
        events.push(updated(order, &format!("{order}-seen")).effect(Effect::None));
    }
    let store = stores[0].clone();
    let workers: Vec<_> = stores.into_iter().zip(0..).map(|(store, seed)| tokio::spawn(work(store, events.clone(), seed))).collect();
    let mut done: HashMap<String, usize> = HashMap::new();
    for worker in workers {
        for event in worker.await.unwrap() {
            *done.entry(event).or_default() += 1;
        }
    }
    for order in &orders {
        for event in [format!("create-{order}"), format!("{order}-seen")] {
            assert_eq!(done.get(&event), Some(&1), "{event} must be done by exactly one worker");
        }
        let stored = store.order(order).await.unwrap().unwrap();
        let mut effects: Vec<u64> = stored.fields["events"].as_array().unwrap().iter().filter_map(|n| n.as_u64()).collect();
        effects.sort_unstable();
        assert_eq!(effects, (0..UPDATES as u64).collect::<Vec<_>>(), "order {order}");
        assert_eq!(stored.status.as_deref(), Some("CHANGED"));
    }
}

/// Returns the events that it was told are done.
async fn work(store: Arc<dyn Store>, mut events: Vec<Change>, seed: u64) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    events.shuffle(&mut random);
    let mut done = Vec::new();
    let mut rest = &events[..];
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(random.random_range(1..40).min(rest.len()));
        rest = after;
        for (change, applied) in batch.iter().zip(store.apply(batch).await.unwrap()) {
            match applied {
                Applied::Done => done.push(change.event_id.clone()),
                Applied::Repeat | Applied::Waiting => {}
                Applied::Conflict(why) | Applied::Refused(why) => panic!("{change:?}: {why}"),
            }
        }
    }
    done
}
