//! What it takes to know an event: which one it is, its schema and its rules; beside parsing it, which nobody can do without.

use crate::median;
use anyhow::{Context, Result, ensure};
use pipeline_runtime::broker::{Incoming, Partition, Position};
use pipeline_runtime::codec;
use pipeline_runtime::contract::{Contract, Message};
use pipeline_runtime::pii::{Body, Fields, Keyring, Keys};
use serde_json::{Value as Json, json};
use std::hint::black_box;
use std::time::Instant;

pub fn of_examples(rounds: usize) -> Result<()> {
    let lines = |count: usize, of: fn(usize) -> Json| (1..=count).map(of).collect::<Vec<_>>();
    let order = json!({
        "orderId": "7d1f2c3a-0001-4000-8000-000000000000", "customerId": "customer-42", "tenantId": "north", "channel": "web", "totalAmount": 30,
        "items": lines(6, |n| json!({"sku": format!("SKU-{n}-MARGHERITA"), "name": "Margherita", "quantity": 1, "unitPrice": 5})),
    });
    let large = json!({
        "orderId": "R-1001", "customerId": "C000042", "orderDate": "2025-01-10T12:00:00Z", "isForceAllocation": true, "t1MembershipId": "T1-0042-7781", "totals": {"total": 33},
        "lineItems": lines(33, |n| json!({"lineId": n, "sku": format!("SKU-{n:04}"), "quantity": 1, "unitPrice": 1, "note": "n".repeat(70)})),
    });
    let envelope = json!({"messageId": "m-1", "publishTime": "2025-01-10T12:00:00Z", "attributes": {"source": "shop"}, "data": large});
    of_message("orders", "orders", &order.to_string(), rounds)?;
    of_message("retail", "order-create", &envelope.to_string(), rounds)
}

fn of_message(example: &str, topic: &str, body: &str, rounds: usize) -> Result<()> {
    const TIMES: u32 = 2000;
    let text = std::fs::read_to_string(format!("{}/../examples/{example}/pipeline.yaml", env!("CARGO_MANIFEST_DIR")))?;
    let config =
        crds::document::read(&text).map(|pipeline| crds::resolve(&pipeline)).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let random = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let keys = || Ok::<_, anyhow::Error>(Keyring::new(&config.pipeline, Keys::new([("match", random), ("2025-01", random)])?));
    let keyring = config.pii.as_ref().map(|_| keys()).transpose()?;
    let (contract, topic) = (Contract::with_keys(&config, keyring.as_ref())?, config.topic(topic).context("no such topic")?);
    let incoming = Incoming {
        at: Position { partition: Partition { topic: topic.name.as_str().into(), number: 0 }, offset: 0 },
        key: None,
        headers: Vec::new(),
        payload: Some(body.to_owned().into()),
        timestamp_ms: 0,
    };
    let decoded = codec::decode(topic, &incoming)?;
    let message = Message { topic: &topic.name, key: Some("C000042"), decoded: &decoded };
    let known = || contract.recognise(&message).ok().flatten().map(|event| event.violations(&message));
    ensure!(known().is_some_and(|violations| violations.is_empty()), "{:?}", known());
    let each = |work: &dyn Fn()| {
        let begun = Instant::now();
        (0..TIMES).for_each(|_| work());
        begun.elapsed().as_nanos() as f64 / f64::from(TIMES) / 1000.0
    };
    let (mut parsing, mut knowing) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        parsing.push(each(&|| drop(black_box(codec::decode(topic, black_box(&incoming))))));
        knowing.push(each(&|| drop(black_box(known()))));
    }
    let (parsing, knowing) = (median(&mut parsing), median(&mut knowing));
    println!("contract, {example}, {} B: parsing {parsing:.1} us; when, schema and rules {knowing:.1} us (medians)", body.len());
    if let Some(fields) = contract.encrypted(&topic.name) {
        one_field(fields, &decoded.data, rounds)?;
    }
    Ok(())
}

/// What one encrypted field costs: the writer, who finds it in the text and makes that anew, and the worker, who decrypts it and puts it back.
fn one_field(fields: &Fields, plain: &Json, rounds: usize) -> Result<()> {
    const TIMES: u32 = 2000;
    let (text, mut data) = (plain.to_string(), plain.clone());
    let (mut writing, mut working) = (Vec::new(), Vec::new());
    let of_one = |begun: Instant| begun.elapsed().as_nanos() as f64 / f64::from(TIMES) / 1000.0;
    for _ in 0..rounds {
        let begun = Instant::now();
        for _ in 0..TIMES {
            let (mut hidden, sent) = fields.encrypt(&mut data, Some(&text), "m-1")?;
            black_box(sent);
            fields.swap(&mut data, &mut hidden);
        }
        writing.push(of_one(begun));
        let mut sent = data.clone();
        fields.encrypt(&mut sent, None, "m-1")?;
        let begun = Instant::now();
        for _ in 0..TIMES {
            let failed = |(field, why)| anyhow::anyhow!("{field} {why}");
            let opened = fields.open(&mut sent).map_err(failed)?;
            let body = Body { text: &text, data: None };
            fields.hide(fields, opened, black_box(&mut sent), body, "m-1").map_err(failed)?;
        }
        working.push(of_one(begun));
    }
    let (writing, working) = (median(&mut writing), median(&mut working));
    println!("one encrypted field of {} B: writer {writing:.1} us, worker {working:.1} us (medians)", text.len());
    Ok(())
}
