//! Random batches, compared with the model change by change and order by order.

use super::super::{Applied, Change, Store};
use super::make::{Make, created, unique, updated};
use super::model::{Model, ModelOrder};
use crds::pipeline::Effect;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ORDERS: usize = 6;
const CHANGES: usize = 150;

pub async fn random_batches_do_what_the_model_does(store: &dyn Store, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let orders: Vec<String> = (0..ORDERS).map(|n| unique(&format!("walk{seed}-{n}"))).collect();
    let run = unique("run");
    let mut model = Model::default();
    let mut sent: Vec<Change> = Vec::new();
    while sent.len() < CHANGES {
        let size = random.random_range(1..12);
        let batch: Vec<Change> = (0..size).map(|_| next(&mut random, &orders, &run, &mut sent)).collect();
        let expected: Vec<Applied> = batch.iter().map(|change| model.apply(change)).collect();
        let outcomes = store.apply(&batch).await.unwrap();
        for ((change, expected), outcome) in batch.iter().zip(&expected).zip(&outcomes) {
            let same = std::mem::discriminant(expected) == std::mem::discriminant(outcome);
            // an update that begins to wait and then contradicts the Create of the same batch is known to be a conflict at once
            let known = *expected == Applied::Waiting && matches!(outcome, Applied::Conflict(_));
            assert!(same || known, "seed {seed}: {change:?} in {batch:?}: expected {expected:?}, got {outcome:?}");
            if known && !same {
                assert!(model.dead.remove(&change.event_id), "seed {seed}: {change:?} is no conflict");
            }
        }
    }
    for id in &orders {
        let stored = store.order(id).await.unwrap().map(|order| ModelOrder {
            tenant: order.tenant_id,
            customer: order.customer_id,
            total: order.total_amount.map(|a| a.0.parse().unwrap()),
            status: order.status,
            fields: order.fields,
            ..ModelOrder::default()
        });
        let expected = model.orders.get(id).map(ModelOrder::shown);
        assert_eq!(stored, expected, "seed {seed}, order {id}");
    }
}

/// A change that was sent before, or a new one.
fn next(random: &mut StdRng, orders: &[String], run: &str, sent: &mut Vec<Change>) -> Change {
    if !sent.is_empty() && random.random_bool(0.25) {
        return sent[random.random_range(0..sent.len())].clone();
    }
    let order = &orders[random.random_range(0..orders.len())];
    let event_id = format!("{run}-{}", sent.len());
    let mut change = match random.random_range(0..12) {
        0 | 1 => created(order),
        2 => created(order).content(random.random_range(7..9)),
        3 => updated(order, &event_id).effect(Effect::Upsert),
        4 => updated(order, &event_id).effect(Effect::None),
        _ => updated(order, &event_id),
    };
    if random.random_bool(0.5) {
        change = change.status(&format!("S{}", sent.len()));
    }
    if random.random_bool(0.3) {
        change = change.total(&format!("{}.5", sent.len()));
    }
    if random.random_bool(0.4) {
        change = change.at(random.random_range(1..20));
    }
    if random.random_bool(0.1) {
        change = change.tenant(["red", "blue"][random.random_range(0..2)]);
    }
    for _ in 0..random.random_range(0..3) {
        // f0 is now set, now appended to: sometimes a conflict
        let name = format!("f{}", random.random_range(0..3));
        change = if random.random_bool(0.5) { change.set(&name, sent.len()) } else { change.append(&format!("l{name}"), sent.len()) };
        if random.random_bool(0.05) {
            change = change.append("f0", "x");
            change.set.remove("f0");
        }
    }
    sent.push(change.clone());
    change
}
