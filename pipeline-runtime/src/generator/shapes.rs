//! What a generated order looks like, for each of the order systems.

use chrono::{DateTime, Utc};
use crds::pipeline::Shape;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

/// Name and price in cents.
const MENU: [(&str, u32); 20] = [
    ("Margherita", 950),
    ("Marinara", 850),
    ("Quattro Formaggi", 1250),
    ("Calzone", 1180),
    ("Lasagne", 1090),
    ("Carbonara", 1140),
    ("Gnocchi", 1020),
    ("Risotto", 1330),
    ("Minestrone", 690),
    ("Caprese", 780),
    ("Bruschetta", 560),
    ("Tiramisu", 620),
    ("Panna Cotta", 540),
    ("Gelato", 390),
    ("Espresso", 240),
    ("Cappuccino", 320),
    ("Lemonade", 350),
    ("Water", 210),
    ("House Wine", 590),
    ("Focaccia", 480),
];
const CHANNELS: [&str; 4] = ["web", "mobile", "store", "partner"];

/// Makes orders of one shape. Which orders come is decided by the random numbers alone, so that a seed brings them again; their ids are
/// not: ORD-20250110-0h2k5v8q1x7zw-001 is the day on which it was made, the start of this process and its count. A start is 64 bits of
/// the operating system's randomness. Nothing has to be kept or asked for that: of ten thousand starts on one day (restarts and replicas
/// together) two are the same once in four hundred thousand million days, and a count alone would repeat with the first restart.
pub struct Maker {
    shape: Shape,
    customers: u32,
    run: String,
    count: u64,
}

struct Line {
    name: &'static str,
    cents: u32,
    quantity: u32,
}

impl Maker {
    pub fn new(shape: Shape, customers: u32) -> Maker {
        // Not from the seed, which would make the same ids again.
        Maker { shape, customers, run: in_36(StdRng::from_os_rng().random()), count: 0 }
    }

    pub fn next(&mut self, random: &mut impl Rng) -> Json {
        self.count += 1;
        let now = Utc::now();
        let customer = random.random_range(1..=self.customers);
        let lines: Vec<Line> = (0..random.random_range(1..=4))
            .map(|_| {
                let (name, cents) = MENU.choose(random).copied().unwrap_or(MENU[0]);
                Line { name, cents, quantity: random.random_range(1..=3) }
            })
            .collect();
        match self.shape {
            Shape::Orders => self.orders(customer, &lines, random),
            Shape::Food => self.food(customer, &lines, now),
            Shape::Retail => self.retail(customer, &lines, now, random),
            Shape::Cart => json!({"orderId": self.id(now), "itemsCount": lines.iter().map(|l| l.quantity).sum::<u32>()}),
        }
    }

    fn id(&self, now: DateTime<Utc>) -> String {
        format!("ORD-{}-{}-{:03}", now.format("%Y%m%d"), self.run, self.count)
    }

    fn orders(&self, customer: u32, lines: &[Line], random: &mut impl Rng) -> Json {
        json!({
            "orderId": self.id(Utc::now()),
            "customerId": format!("customer-{customer}"),
            "items": lines.iter().map(|l| json!({"sku": sku(l), "name": l.name, "quantity": l.quantity, "unitPrice": money(l.cents)})).collect::<Vec<_>>(),
            "totalAmount": total(lines),
            "tenantId": format!("tenant-{}", customer % 5 + 1),
            "channel": CHANNELS.choose(random).copied().unwrap_or(CHANNELS[0]),
        })
    }

    fn food(&self, customer: u32, lines: &[Line], now: DateTime<Utc>) -> Json {
        json!({
            "order_id": self.id(now),
            "customer_id": format!("CUST-{customer:03}"),
            "items": lines.iter().map(|l| json!({"name": l.name, "quantity": l.quantity, "price": money(l.cents)})).collect::<Vec<_>>(),
            "total_amount": total(lines),
            "created_at": now.to_rfc3339(),
            "status": "pending",
        })
    }

    fn retail(&self, customer: u32, lines: &[Line], now: DateTime<Utc>, random: &mut impl Rng) -> Json {
        json!({
            "orderId": self.id(now),
            "customerId": format!("C{customer:06}"),
            "orderDate": now.to_rfc3339(),
            "isForceAllocation": random.random_bool(0.1),
            "lineItems": lines.iter().enumerate().map(|(n, l)| json!({
                "lineId": n + 1, "sku": sku(l), "quantity": l.quantity, "unitPrice": money(l.cents),
            })).collect::<Vec<_>>(),
            "totals": {"total": total(lines)},
        })
    }
}

/// 13 digits and small letters: as an id may be spoken, and no longer than it must be.
fn in_36(mut number: u64) -> String {
    let mut digits = [b'0'; 13];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    digits.map(char::from).iter().collect()
}

fn sku(line: &Line) -> String {
    format!("SKU-{}", line.name.to_uppercase().replace(' ', "-"))
}

/// Cents as a JSON number with at most two decimals: what a float of this size prints exactly.
fn money(cents: u32) -> Json {
    json!(f64::from(cents) / 100.0)
}

fn total(lines: &[Line]) -> Json {
    money(lines.iter().map(|l| l.cents * l.quantity).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn content(mut order: Json) -> Json {
        for field in ["orderId", "order_id", "created_at", "orderDate"] {
            if let Some(object) = order.as_object_mut() {
                object.remove(field);
            }
        }
        order
    }

    #[test]
    fn the_same_seed_makes_the_same_orders_under_other_ids() {
        for shape in [Shape::Orders, Shape::Food, Shape::Retail, Shape::Cart] {
            let (mut one, mut two) = (Maker::new(shape, 100), Maker::new(shape, 100));
            let (mut r1, mut r2) = (StdRng::seed_from_u64(7), StdRng::seed_from_u64(7));
            for _ in 0..100 {
                let (a, b) = (one.next(&mut r1), two.next(&mut r2));
                assert_ne!(a, b, "ids repeat");
                assert_eq!(content(a), content(b));
            }
        }
    }

    #[test]
    fn ids_never_repeat_though_a_thousand_processes_have_the_same_seed_and_start_at_once() {
        let mut ids = HashSet::new();
        for _ in 0..1000 {
            let (mut maker, mut random) = (Maker::new(Shape::Food, 100), StdRng::seed_from_u64(7));
            for _ in 0..20 {
                let id = maker.next(&mut random)["order_id"].as_str().unwrap_or_default().to_owned();
                assert!(id.len() <= 50 && id.starts_with("ORD-2"), "{id}");
                assert!(ids.insert(id), "an id repeats");
            }
        }
        assert_eq!((in_36(0), in_36(u64::MAX)), ("0000000000000".into(), "3w5e11264sgsf".into()));
    }

    #[test]
    fn the_total_is_the_sum_of_the_lines() {
        let (mut maker, mut random) = (Maker::new(Shape::Food, 10), StdRng::seed_from_u64(1));
        for _ in 0..200 {
            let order = maker.next(&mut random);
            let cents: f64 = order["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|i| (i["price"].as_f64().unwrap_or(f64::NAN) * 100.0).round() * i["quantity"].as_f64().unwrap_or(f64::NAN))
                .sum();
            assert_eq!(order["total_amount"].as_f64(), Some(cents / 100.0), "{order}");
        }
    }
}
